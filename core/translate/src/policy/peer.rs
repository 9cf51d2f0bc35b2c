//! A peer authentication: what it demands, and the policy that nodes enforce for it.
//!
//! A node accepts mutual TLS always, so that only "demanded" and "not demanded" are left of the
//! modes: where it is demanded, a policy denies peers without an identity.

use std::collections::BTreeMap;

use cluster::authorization_policy::{Binding, Selector};
use cluster::peer_authentication::{Mode, PeerAuthenticationSpec};
use cluster::{PeerAuthentication, Readable, Text, WorkloadSelector};
use proto::security as wire;

use super::authorization::{escaped, unknown_of};
use super::problem::{Cause, Effect, Problem, Remarks};
use super::values;

/// Denies peers without an identity, in the root namespace. As Istio calls it.
const STATIC_STRICT: &str = "istio_converted_static_strict";
/// Precedes the name of a peer authentication. As in Istio.
const CONVERTED: &str = "converted_peer_authentication_";

/// Whether mutual TLS is demanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demanded {
    Yes,
    No,
}

/// `None`: as the level above says.
fn demanded(mode: Mode) -> Option<Demanded> {
    match mode {
        Mode::Unset => None,
        Mode::Strict => Some(Demanded::Yes),
        Mode::Permissive | Mode::Disable => Some(Demanded::No),
    }
}

/// Where a peer authentication counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// All of its namespace; all of the mesh in the root namespace.
    Namespace,
    /// These workloads of its namespace.
    Workloads(WorkloadSelector),
    /// Nowhere: the root namespace has no workload level.
    Nowhere,
}

/// Which of two on one level counts: the lesser. One that was not understood counts before those
/// that were, so that it demands mutual TLS whatever its age; then the older.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    is_understood: bool,
    created: Text,
    pub(super) name: Text,
}

/// What one demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) level: Level,
    pub(super) precedence: Precedence,
    pub(super) mode: Option<Demanded>,
    /// Of a workload's own ports, where it says something about them.
    ports: BTreeMap<u16, Demanded>,
    pub(super) remarks: Remarks,
}

/// The policy that a workload has to name for what is demanded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Nothing,
    /// The one for all ports.
    Static,
    /// One made from the peer authentication.
    Own,
}

impl Demand {
    /// Reads one. What is not understood demands mutual TLS of all that it may be for.
    pub(super) fn read(peer: &PeerAuthentication, root_namespace: &str) -> Self {
        let is_root = *peer.metadata.namespace == *root_namespace;
        let mut problems = Vec::new();
        let (spec, binding) = match &peer.spec {
            Readable::Read(spec) => {
                let selector = spec.selector.clone();
                (Some(spec), Some(Binding { selector, ..Binding::default() }))
            }
            Readable::Unreadable(unread) => {
                problems.push(Cause::unreadable(&unread.cause).at("spec"));
                (None, unread.salvage::<Binding>())
            }
        };
        let level = level(is_root, binding.as_ref());
        let selector = binding.iter().filter_map(|binding| binding.selector.as_ref());
        problems.extend(selector.flat_map(unknown_of));
        let ports = spec.map(|spec| ports(spec, &mut problems)).unwrap_or_default();
        let precedence = Precedence {
            is_understood: problems.is_empty(),
            created: peer.metadata.creation_timestamp.clone(),
            name: peer.metadata.name.clone(),
        };
        let mut demand = Self {
            level,
            precedence,
            mode: Some(Demanded::Yes),
            ports: BTreeMap::new(),
            remarks: Remarks::new(problems, Effect::Strict),
        };
        if demand.level == Level::Nowhere {
            demand.mode = None;
            let cause = Cause::Said("is not looked at in the root namespace");
            demand.remarks.problems.push(cause.at("selector"));
            demand.remarks.effect = Effect::None;
        } else if let Some(spec) = spec
            && demand.precedence.is_understood
        {
            demand.mode = demanded(spec.mtls.mode);
            demand.ports = ports;
            demand.remarks = Remarks::ACCEPTED;
            demand.refuse_ports_of_all();
        }
        demand
    }

    /// Ports are those of single workloads, and mean nothing without a selector. They are ignored;
    /// but if one of them demands mutual TLS, ignoring it would be weaker than what was written, so
    /// then it is demanded of all.
    fn refuse_ports_of_all(&mut self) {
        if self.level != Level::Namespace || self.ports.is_empty() {
            return;
        }
        let effect = if self.ports.values().any(|port| *port == Demanded::Yes) {
            self.mode = Some(Demanded::Yes);
            Effect::Strict
        } else {
            Effect::PartIgnored
        };
        self.ports.clear();
        let problem = Cause::Said("needs a selector").at("portLevelMtls");
        self.remarks = Remarks::new(vec![problem], effect);
    }

    /// What a workload names for which this one counts, under what the levels above demand.
    pub(super) fn reference(&self, parent: Demanded) -> Reference {
        let mode = self.mode.unwrap_or(parent);
        let has_exceptions = self.ports.values().any(|port| *port != mode);
        match (has_exceptions, mode) {
            (true, _) => Reference::Own,
            (false, Demanded::Yes) => Reference::Static,
            (false, Demanded::No) => Reference::Nothing,
        }
    }

    /// The policy that such a workload names, if it is [`Reference::Own`]. It stands for the whole
    /// of what is demanded. With every port in it, it is smaller than the largest policy that nodes
    /// read: 15 bytes for each.
    pub(super) fn policy(&self, namespace: &str, parent: Demanded) -> Option<wire::Authorization> {
        if self.reference(parent) != Reference::Own {
            return None;
        }
        let mode = self.mode.unwrap_or(parent);
        let ports = self.ports.iter().filter(|(_, demanded)| **demanded != mode);
        let ports = ports.map(|(port, _)| u32::from(*port));
        let rules = match mode {
            // Each of these ports, without an identity.
            Demanded::No => ports
                .map(|port| wire::Rule {
                    clauses: vec![clause(wire::Match {
                        destination_ports: vec![port],
                        ..no_identity()
                    })],
                })
                .collect(),
            // None of these ports, without an identity.
            Demanded::Yes => {
                let others = ports.map(|port| {
                    let not_destination_ports = vec![port];
                    clause(wire::Match { not_destination_ports, ..wire::Match::default() })
                });
                let clauses = std::iter::once(clause(no_identity())).chain(others).collect();
                vec![wire::Rule { clauses }]
            }
        };
        Some(deny(own_name(&self.precedence.name), namespace, rules))
    }
}

/// Without a binding it cannot be told. Then it may be for any workload, and counts before what
/// its namespace says; in the root namespace it may be for the mesh.
fn level(is_root: bool, binding: Option<&Binding>) -> Level {
    match binding.map(|binding| &binding.selector) {
        None if is_root => Level::Namespace,
        None => Level::Workloads(WorkloadSelector::default()),
        Some(None) => Level::Namespace,
        // Without a pair it selects all that it can.
        Some(Some(Selector { match_labels, unknown }))
            if match_labels.is_empty() && unknown.is_empty() =>
        {
            Level::Namespace
        }
        Some(Some(_)) if is_root => Level::Nowhere,
        Some(Some(selector)) => Level::Workloads(selector.match_labels.clone()),
    }
}

fn ports(spec: &PeerAuthenticationSpec, problems: &mut Vec<Problem>) -> BTreeMap<u16, Demanded> {
    let mut ports = BTreeMap::new();
    for (text, tls) in &spec.port_level_mtls {
        let field = || format!("portLevelMtls[{text}]");
        match (values::port(text), demanded(tls.mode)) {
            (Err(cause), _) => problems.push(cause.at("portLevelMtls")),
            (Ok(port), Some(demanded)) => {
                if ports.insert(port, demanded).is_some() {
                    problems.push(Cause::Said("is a port that is named twice").at(field()));
                }
            }
            // As it is for all ports.
            (Ok(_), None) => {}
        }
    }
    ports
}

/// The name within its namespace of the policy made from a peer authentication.
fn own_name(name: &str) -> String {
    format!("{CONVERTED}{}", escaped(name))
}

/// `namespace/name` of the policy made from a peer authentication.
pub(super) fn own_key(namespace: &str, name: &str) -> Text {
    format!("{namespace}/{}", own_name(name)).into()
}

/// `namespace/name` of the policy that demands mutual TLS for all ports.
pub(super) fn static_key(root_namespace: &str) -> Text {
    format!("{root_namespace}/{STATIC_STRICT}").into()
}

/// The policy that demands mutual TLS for all ports.
pub(super) fn static_policy(root_namespace: &str) -> wire::Authorization {
    let rule = wire::Rule { clauses: vec![clause(no_identity())] };
    deny(STATIC_STRICT.to_owned(), root_namespace, vec![rule])
}

fn deny(name: String, namespace: &str, rules: Vec<wire::Rule>) -> wire::Authorization {
    wire::Authorization {
        name,
        namespace: namespace.to_owned(),
        scope: wire::Scope::WorkloadSelector.into(),
        action: wire::Action::Deny.into(),
        rules,
        dry_run: false,
        extensions: Vec::new(),
    }
}

fn clause(found: wire::Match) -> wire::Clause {
    wire::Clause { matches: vec![found] }
}

fn no_identity() -> wire::Match {
    wire::Match { not_principals: vec![values::Pattern::Presence.wire()], ..wire::Match::default() }
}
