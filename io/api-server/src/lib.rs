//! A small client of the Kubernetes API for the node's agent.
