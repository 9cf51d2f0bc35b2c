//! What is wrong with a resource, and where in it.

use std::fmt;

use model::IdentityError;

/// Characters of a value that an error repeats.
const VALUE_CHARS_MAX: usize = 80;

/// A resource that cannot be used. Names the field as the protocol does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Such as `services[shop/cart].ports[0].service_port`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not protobuf, or not this message.
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// The envelope holds something else.
    #[error("is a {0:?}")]
    Type(String),
    /// The name the resource was sent under is not its own.
    #[error("was sent under the name {sent:?}, but is {own:?}")]
    Name {
        /// The envelope's.
        sent: String,
        /// The resource's.
        own: String,
    },
    /// It has to be there.
    #[error("is missing")]
    Missing,
    /// It may be there once.
    #[error("is given twice")]
    Twice,
    /// Both sent and removed in one response.
    #[error("is both sent and removed")]
    Contradiction,
    /// Longer than the bound.
    #[error("has {length}, more than the {max} that are read")]
    TooLong {
        /// Bytes or items.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// Neither an IPv4 nor an IPv6 address.
    #[error("{0} bytes are not an IP address")]
    AddressBytes(usize),
    /// No such prefix length.
    #[error("a prefix of {length} bits is not one of {address}")]
    Prefix {
        /// The length.
        length: u32,
        /// The address it was given for.
        address: std::net::IpAddr,
    },
    /// Not a port number.
    #[error("{0} is not a port")]
    Port(u64),
    /// A value this version does not know.
    #[error("{0} is not a known value")]
    Value(i64),
    /// A value that is known and not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// Not `namespace/name`.
    #[error("{0:?} is not a namespace and a name with / between them")]
    Key(String),
    /// Not a part of a SPIFFE ID.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A condition in terms of somebody else.
    #[error("says something that is not known here")]
    Extension,
    /// A field this version does not know, where ignoring it could change a verdict.
    #[error("field {0} is not known")]
    UnknownField(u32),
}

impl Problem {
    /// The problem, of that field.
    pub(crate) fn at(self, field: &str) -> Invalid {
        Invalid { field: field.to_owned(), problem: self }
    }

    /// Not `namespace/name`; the value is shortened.
    pub(crate) fn key(value: &str) -> Self {
        Self::Key(shortened(value))
    }
}

/// As much of a value as an error repeats.
pub(crate) fn shortened(value: &str) -> String {
    value.chars().take(VALUE_CHARS_MAX).collect()
}

impl Invalid {
    /// The same, seen from the message around it.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

impl From<Problem> for Invalid {
    fn from(problem: Problem) -> Self {
        problem.at("")
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => self.problem.fmt(f),
            field => write!(f, "{field}: {}", self.problem),
        }
    }
}

impl std::error::Error for Invalid {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.problem)
    }
}

/// Names the place of a failure; the text is made only when there is one.
pub(crate) trait Within<T> {
    /// In a field.
    fn within(self, field: &str) -> Result<T, Invalid>;
    /// In an item of a repeated field.
    fn item(self, field: &str, index: usize) -> Result<T, Invalid>;
}

impl<T, E: Into<Invalid>> Within<T> for Result<T, E> {
    fn within(self, field: &str) -> Result<T, Invalid> {
        self.map_err(|error| error.into().within(field))
    }

    fn item(self, field: &str, index: usize) -> Result<T, Invalid> {
        self.map_err(|error| error.into().within(&format!("{field}[{index}]")))
    }
}
