mod convergence;
mod demand;
mod leaving;
mod pairs;
mod stream;
mod wire;
