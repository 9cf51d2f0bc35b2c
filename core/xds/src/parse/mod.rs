//! From wire messages to the mesh's vocabulary. Total: every input has a result, none panics, and
//! what a result leaves out could not have changed a verdict or a route.
//!
//! An address that breaks a rule is refused by name, with the field and the cause. A policy is
//! never refused, since leaving one out could widen access: it is read, or it is unreadable and
//! denies its scope.

mod intern;
mod invalid;
mod network;
mod policy;
mod scan;
mod service;
#[cfg(test)]
mod tests;
mod text;
mod workload;

use std::sync::Arc;

use model::{Service, Workload};
use prost::Message;
use proto::workload as wire;

pub use intern::Interner;
pub use invalid::{Invalid, Problem};
pub use policy::{POLICY_BYTES_MAX, parse_policy};
pub use text::TEXT_BYTES_MAX;

pub(crate) use invalid::shortened;
pub(crate) use policy::unreadable;

/// A resource of type `istio.workload.Address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A workload.
    Workload(Workload),
    /// A service.
    Service(Service),
}

impl Address {
    /// The name it is sent under.
    #[must_use]
    pub fn resource_name(&self) -> Arc<str> {
        match self {
            Self::Workload(workload) => workload.uid.0.clone(),
            Self::Service(service) => service.name.to_string().into(),
        }
    }
}

/// Reads an address that was sent under `name`.
pub fn parse_address(
    name: &str,
    bytes: &[u8],
    interner: &mut Interner,
) -> Result<Address, Invalid> {
    let decoded = wire::Address::decode(bytes).map_err(|e| Problem::Decode(e.to_string()))?;
    let address = match &decoded.r#type {
        // Either of a later kind or empty.
        None => return Err(Problem::Missing.at("workload or service")),
        Some(wire::address::Type::Workload(workload)) => {
            Address::Workload(workload::workload(interner, workload)?)
        }
        Some(wire::address::Type::Service(service)) => {
            Address::Service(service::service(interner, service)?)
        }
    };
    let own = address.resource_name();
    // It will be removed by the name it was sent under.
    if *own != *name {
        let own = shortened(&own);
        return Err(Problem::Name { sent: shortened(name), own }.into());
    }
    Ok(address)
}

/// The value of an enumeration, if it is one that was known when this was written.
fn known<E: TryFrom<i32>>(number: i32) -> Result<E, Problem> {
    E::try_from(number).map_err(|_| Problem::Value(number.into()))
}

/// A list of at most `max` items.
fn limited<T>(list: &[T], max: usize) -> Result<&[T], Problem> {
    match list.len() {
        length if length > max => Err(Problem::TooLong { length, max }),
        _ => Ok(list),
    }
}
