//! From the objects of a cluster to the resources of a mesh.
