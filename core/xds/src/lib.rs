//! Delta xDS as a machine, and what its resources mean: the only reader of the wire types.
