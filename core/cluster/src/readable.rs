//! A part that may not be understood, without losing the object it belongs to.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::meta::Text;

/// A part of an object that was read, or why it could not be. A policy that is not understood must
/// still deny where it is bound, so its name and labels are worth keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readable<T> {
    /// Understood.
    Read(T),
    /// Not understood.
    Unreadable(Unreadable),
}

/// What was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The field and what is wrong with it.
    pub cause: Text,
    raw: Arc<serde_json::Value>,
}

impl Unreadable {
    /// Nothing of it can be salvaged.
    pub(crate) fn whole(cause: Text) -> Self {
        Self { cause, raw: Arc::new(serde_json::Value::Null) }
    }

    /// Reads a part of it that may be sound, such as where a policy is bound.
    #[must_use]
    pub fn salvage<P: DeserializeOwned>(&self) -> Option<P> {
        P::deserialize(&*self.raw).ok()
    }
}

impl<T> Readable<T> {
    /// What was read.
    pub fn read(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Unreadable(_) => None,
        }
    }
}

impl<T: Default> Default for Readable<T> {
    fn default() -> Self {
        Self::Read(T::default())
    }
}

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for Readable<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        if value.is_null() {
            return Ok(Self::Read(T::default()));
        }
        Ok(match serde_path_to_error::deserialize(&value) {
            Ok(read) => Self::Read(read),
            Err(error) => {
                let cause = describe(&error).into();
                Self::Unreadable(Unreadable { cause, raw: Arc::new(value) })
            }
        })
    }
}

fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    if path == "." { error.inner().to_string() } else { format!("{path}: {}", error.inner()) }
}
