//! What is written back.
