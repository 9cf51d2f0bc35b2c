mod convergence;
mod demand;
mod pairs;
mod stream;
mod wire;
