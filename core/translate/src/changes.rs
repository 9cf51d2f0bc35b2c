//! What goes in and what comes out.

use std::net::IpAddr;

use cluster::{Object, ObjectKey, Text};
use prost::bytes::Bytes;

use crate::condition::Condition;
use crate::problem::Problem;

/// What happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is there, like this.
    Set(Object),
    /// It is gone.
    Delete(ObjectKey),
}

/// A workload or a service as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The resource's name: a workload's uid, or a service's `namespace/hostname`.
    pub name: Text,
    /// `network/ip` of each address it has, which it may be asked for by.
    pub aliases: Vec<Text>,
    /// The encoded `istio.workload.Address`.
    pub bytes: Bytes,
    /// The node of a workload, whose agent is sent it unasked; empty for a service.
    pub node: Text,
    /// Names of the services that a workload is an endpoint of.
    pub services: Vec<Text>,
    /// Names of the policies that a workload refers to: they have to arrive before it.
    pub policies: Vec<Text>,
}

/// A policy as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The resource's name: `namespace/name`.
    pub name: Text,
    /// The encoded `istio.security.Authorization`.
    pub bytes: Bytes,
}

/// Addresses that were given to a host of a service entry and are not in its status yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// The host.
    pub host: Text,
    /// One of each family.
    pub addresses: [IpAddr; 2],
}

/// Everything that changed, each key once, in the order of keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Workloads and services; `None`: it is gone.
    pub addresses: Vec<(Text, Option<Address>)>,
    /// Policies; `None`: it is gone.
    pub policies: Vec<(Text, Option<Authorization>)>,
    /// All conditions of an object whose conditions changed.
    pub conditions: Vec<(ObjectKey, Vec<Condition>)>,
    /// All addresses to be written into the status of a service entry.
    pub assignments: Vec<(ObjectKey, Vec<Assignment>)>,
    /// All problems of an object whose problems changed.
    pub problems: Vec<(ObjectKey, Vec<Problem>)>,
}

impl Changes {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
