//! What is read of a `prevResult`: the addresses of the pod. The result itself is handed on as it
//! is.

use std::net::IpAddr;

use serde::Deserialize;

/// Most addresses of one pod. A result with more is refused: no plugin that is known gives even ten.
const ADDRESSES_MAX: usize = 64;

/// Why the result cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResultError {
    #[error("prevResult is not an object")]
    NotAnObject,
    #[error("prevResult cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("prevResult has the address {0:?}, which is none")]
    Address(String),
    #[error("prevResult has more than {ADDRESSES_MAX} addresses")]
    TooMany,
}

/// The parts of a result that are the same from 0.3.0 to 1.1.0.
#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    /// An index into the interfaces. Calico and others leave it out.
    #[serde(default)]
    interface: Option<i64>,
}

/// The pod's addresses. Those of interfaces of the host are left out.
pub(crate) fn addresses(result: &str) -> Result<Vec<IpAddr>, ResultError> {
    // An array would be read as well, field by field.
    if !result.trim_start().starts_with('{') {
        return Err(ResultError::NotAnObject);
    }
    let outcome: Outcome = serde_json::from_str(result)?;
    let interfaces = outcome.interfaces.unwrap_or_default();
    let mut addresses = Vec::new();
    for ip in outcome.ips.unwrap_or_default() {
        let text = ip.address.split_once('/').map_or(&*ip.address, |(address, _)| address);
        let address: IpAddr = text.parse().map_err(|_| ResultError::Address(ip.address.clone()))?;
        let interface = ip.interface.and_then(|index| usize::try_from(index).ok());
        let interface = interface.and_then(|index| interfaces.get(index));
        let of_host = interface
            .is_some_and(|interface| interface.sandbox.as_deref().unwrap_or_default().is_empty());
        if of_host || addresses.contains(&address) {
            continue;
        }
        if addresses.len() == ADDRESSES_MAX {
            return Err(ResultError::TooMany);
        }
        addresses.push(address);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests;
