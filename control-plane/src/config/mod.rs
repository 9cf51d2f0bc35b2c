//! Settings, parsed once.
