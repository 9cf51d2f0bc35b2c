//! The test world: nodes and pods as network namespaces and cgroups.
