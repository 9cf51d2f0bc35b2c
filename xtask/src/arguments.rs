//! What the command line may say.
//!
//! A wrong command line is its own error, so that `main` can answer it with exit code 2.

use std::fmt;

/// The command line cannot be understood.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl Usage {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Refuses any argument.
pub(crate) fn none(arguments: &[String]) -> Result<(), Usage> {
    match arguments.first() {
        None => Ok(()),
        Some(unknown) => Err(Usage::new(format!("unknown argument {unknown:?}"))),
    }
}
