//! The tier `cluster`: our charts on a real Kubernetes with two nodes.
//!
//! All tests share one cluster, one after the other: each leaves it as it found it.

mod bringing_up;
