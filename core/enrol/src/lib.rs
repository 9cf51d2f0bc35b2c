//! Which pods of a node are captured: desired against actual, and what to do about the difference.
