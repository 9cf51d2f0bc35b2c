mod demand;
mod sequences;
mod stream;
mod wire;
