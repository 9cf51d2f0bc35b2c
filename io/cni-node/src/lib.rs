//! The agent's half of the CNI plugin: its socket, and its place on the node.
