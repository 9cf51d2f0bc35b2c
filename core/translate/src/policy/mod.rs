//! Policies: what an L4 proxy is told to enforce, and what is wrong with them.
