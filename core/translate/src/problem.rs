//! What is wrong with objects, so far as it keeps parts of them out of the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cluster::{ObjectKey, Text};

/// Objects' parts whose problems are kept. Problems of more are only counted
/// ([`crate::Translator::problems_omitted`]) until they are looked at again; what they are about is
/// left out all the same.
pub const PROBLEMS_MAX: usize = 10_000;
/// Problems kept of one part of an object. More of them would say the same.
pub const PROBLEMS_EACH_MAX: usize = 16;
/// Characters of a value that a problem repeats.
const VALUE_CHARS_MAX: usize = 80;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not an address of either family.
    #[error("{field}: {value:?} is not an IP address, and was left out")]
    Address {
        /// Where.
        field: &'static str,
        /// What it is, shortened.
        value: String,
    },
    /// Neither an address nor a block of them.
    #[error("{field}: {value:?} is neither an IP address nor a CIDR block, and was left out")]
    Block {
        /// Where.
        field: &'static str,
        /// What it is, shortened.
        value: String,
    },
    /// 0 is no port.
    #[error("{field}: 0 is not a port, and was left out")]
    Port {
        /// Where.
        field: &'static str,
    },
    /// Not a name.
    #[error("{field}: {value:?} is not a name, so it was left out")]
    Name {
        /// Where.
        field: &'static str,
        /// What it is, shortened.
        value: String,
    },
    /// Not one of the values that are known.
    #[error("{field}: {value:?} is not a known value, and is ignored")]
    Value {
        /// Where.
        field: &'static str,
        /// What it is, shortened.
        value: String,
    },
    /// More than an agent reads.
    #[error("has {found} {what}, more than the {max} that an agent reads, so it was left out")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// More policies than an agent reads.
    #[error(
        "has {found} policies, more than the {max} that an agent reads, so it denies everything"
    )]
    TooManyPolicies {
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// A text longer than an agent reads.
    #[error("{field} is longer than an agent reads, so it was left out")]
    TooLong {
        /// Which.
        field: &'static str,
    },
    /// Given twice in one object.
    #[error("{field}: {value:?} is given twice; the first counts")]
    Twice {
        /// Where.
        field: &'static str,
        /// What it is, shortened.
        value: String,
    },
    /// Its address was given to a newer pod.
    #[error("{address} now belongs to {to}, which is newer; it is not reached by it any more")]
    AddressLost {
        /// The address.
        address: IpAddr,
        /// Who has it.
        to: ObjectKey,
    },
    /// Its address is a pod's own.
    #[error("{address} belongs to {pod}, so it was left out")]
    AddressOfPod {
        /// The address.
        address: IpAddr,
        /// Who has it.
        pod: ObjectKey,
    },
    /// Another workload has the same address, and which one is meant is not known.
    #[error("{address} also belongs to {with}")]
    AddressShared {
        /// The address.
        address: IpAddr,
        /// The other.
        with: ObjectKey,
    },
    /// More than is used.
    #[error("has {found} {what}; those after the first {max} were left out")]
    TooManyToUse {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// A gateway to another network that cannot be used.
    #[error("lacks {what}, so nothing of the network {network} is reached through it")]
    NetworkGatewayLacks {
        /// The network.
        network: Text,
        /// What it needs.
        what: &'static str,
    },
    /// Another gateway to the network has the address.
    #[error("{address} belongs to {to}, so it was left out")]
    GatewayTaken {
        /// Address or name.
        address: String,
        /// Who has it.
        to: ObjectKey,
    },
    /// Another service has the same virtual address.
    #[error("{address} is also an address of the service {with}")]
    VipShared {
        /// Address or block.
        address: Text,
        /// The other.
        with: Text,
    },
    /// Another object of the namespace has the host.
    #[error("the host {host} belongs to {to}, so it was left out")]
    HostTaken {
        /// The host.
        host: Text,
        /// Who has it.
        to: ObjectKey,
    },
    /// Every automatic address is in use.
    #[error("no automatic address is left for {host}")]
    NoAddressLeft {
        /// The host.
        host: Text,
    },
}

impl Problem {
    pub(crate) fn address(field: &'static str, value: &str) -> Self {
        Self::Address { field, value: shortened(value) }
    }

    pub(crate) fn block(field: &'static str, value: &str) -> Self {
        Self::Block { field, value: shortened(value) }
    }

    pub(crate) fn name(field: &'static str, value: &str) -> Self {
        Self::Name { field, value: shortened(value) }
    }

    pub(crate) fn value(field: &'static str, value: &str) -> Self {
        Self::Value { field, value: shortened(value) }
    }

    pub(crate) fn twice(field: &'static str, value: &str) -> Self {
        Self::Twice { field, value: shortened(value) }
    }
}

fn shortened(value: &str) -> String {
    value.chars().take(VALUE_CHARS_MAX).collect()
}

/// Which part of an object was looked at: each is looked at on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// What it is called.
    Name,
    /// The object as a whole.
    Object,
    /// Hosts that it does not have.
    Taken,
    /// One of its hosts.
    Host(Text),
    /// The addresses of one of its hosts.
    Vip(Text),
    /// Its endpoints.
    Endpoints,
}

/// Problems of all objects.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: BTreeMap<ObjectKey, BTreeMap<Part, Vec<Problem>>>,
    parts: usize,
    changed: BTreeSet<ObjectKey>,
    /// Parts whose problems are not kept, since [`PROBLEMS_MAX`] are.
    omitted: usize,
}

impl Problems {
    /// Replaces what is wrong with a part.
    pub(crate) fn set(&mut self, key: &ObjectKey, part: Part, mut problems: Vec<Problem>) {
        problems.truncate(PROBLEMS_EACH_MAX);
        if problems.is_empty() {
            let Some(parts) = self.kept.get_mut(key) else { return };
            if parts.remove(&part).is_none() {
                return;
            }
            self.parts -= 1;
            if parts.is_empty() {
                self.kept.remove(key);
            }
        } else {
            let had = self.kept.get(key).and_then(|parts| parts.get(&part));
            if had == Some(&problems) {
                return;
            }
            if had.is_none() {
                if self.parts >= PROBLEMS_MAX {
                    self.omitted = self.omitted.saturating_add(1);
                    return;
                }
                self.parts += 1;
            }
            self.kept.entry(key.clone()).or_default().insert(part, problems);
        }
        self.changed.insert(key.clone());
    }

    /// Forgets an object.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        if let Some(parts) = self.kept.remove(key) {
            self.parts -= parts.len();
            self.changed.insert(key.clone());
        }
    }

    pub(crate) fn of(&self, key: &ObjectKey) -> Vec<Problem> {
        self.kept.get(key).into_iter().flat_map(|parts| parts.values().flatten().cloned()).collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&ObjectKey, &Problem)> {
        self.kept.iter().flat_map(|(key, parts)| parts.values().flatten().map(move |p| (key, p)))
    }

    pub(crate) fn omitted(&self) -> usize {
        self.omitted
    }

    pub(crate) fn take_changes(&mut self) -> Vec<(ObjectKey, Vec<Problem>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key.clone(), self.of(&key))).collect()
    }
}
