//! `warren-cni`: the chained CNI plugin that holds a pod until it is captured.

fn main() {}
