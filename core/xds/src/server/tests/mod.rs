mod convergence;
mod demand;
mod leaving;
mod limits;
mod pairs;
mod stream;
mod wire;
