//! What is wrong with a file, all of it at once.

use std::fmt;

use crate::node::Position;

/// Errors kept; further ones are only counted.
const ERRORS_MAX: usize = 50;
/// Characters of a refused value that are shown.
const VALUE_CHARS_MAX: usize = 80;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: Option<u64>,
    /// Column, from 1, in characters.
    pub column: Option<u64>,
    /// Such as `policies[2].rules[0][0][1].sourceIps[0]`; empty for the whole file.
    pub field: String,
    /// The refused value, shortened.
    pub value: Option<String>,
    /// What is wrong with it.
    pub cause: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.cause)?;
        match &self.value {
            Some(value) => write!(f, " (got {value:?})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The mistakes of one file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    left_out: usize,
}

impl ConfigErrors {
    /// The mistakes, at most 50.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many more there are.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects mistakes while a file is read.
#[derive(Debug)]
pub(crate) struct Collector<'f> {
    file: &'f str,
    errors: Vec<ConfigError>,
    left_out: usize,
}

impl<'f> Collector<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self { file, errors: Vec::new(), left_out: 0 }
    }

    pub(crate) fn push(
        &mut self,
        at: Position,
        field: impl fmt::Display,
        value: Option<&str>,
        cause: impl Into<String>,
    ) {
        if self.errors.len() >= ERRORS_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let known = |number: u64| (number > 0).then_some(number);
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            line: known(at.line),
            column: known(at.column),
            field: field.to_string(),
            value: value.map(shorten),
            cause: cause.into(),
        });
    }

    /// Whether nothing was wrong so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// `value`, if nothing was wrong.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        self.errors.sort_by_key(|error| (error.line, error.column));
        Err(ConfigErrors { errors: self.errors, left_out: self.left_out })
    }
}

fn shorten(value: &str) -> String {
    match value.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}
