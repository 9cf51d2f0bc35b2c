//! Applies a response of workloads and services.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use model::{NetworkMode, Service, Workload};
use proto::discovery::{DeltaDiscoveryResponse, Resource};
use resolve::Change;

use super::held::Thing;
use super::response::{Applied, ambiguous, payload};
use super::{ALIASES_MAX, Client, Mode, Record, RecordBody, RejectedResource};
use crate::kind::Kind;
use crate::parse::{Address, Invalid, Problem, TEXT_BYTES_MAX, parse_address};

/// A resource that was understood.
struct Accepted {
    name: Arc<str>,
    address: Address,
    aliases: Vec<Arc<str>>,
    body: RecordBody,
}

impl Client {
    /// `now` is absent for a stored state, for which nobody waits.
    pub(super) fn apply_addresses(
        &mut self,
        response: DeltaDiscoveryResponse,
        now: Option<Instant>,
    ) -> Applied {
        let mut applied = Applied::default();
        let ambiguous = ambiguous(&response);
        let mut accepted = Vec::with_capacity(response.resources.len());
        for resource in response.resources {
            match self.read(resource, &ambiguous) {
                Ok(resource) => accepted.push(resource),
                Err((name, error)) => {
                    self.addresses.by_name.outdated(&name);
                    applied.rejected.push(RejectedResource::new(&name, error));
                }
            }
        }
        // A name that a resource of the same response has as an alias is not gone: Istio's control
        // plane may list every name it was asked for and did not send under that very name.
        let present: HashSet<&str> =
            accepted.iter().flat_map(|resource| &resource.aliases).map(|a| &**a).collect();
        let removed: Vec<_> = response
            .removed_resources
            .into_iter()
            .filter(|name| !ambiguous.contains_key(name) && !present.contains(name.as_str()))
            .collect();
        let mut changes = Vec::with_capacity(accepted.len() + removed.len());
        let mut lost = Vec::new();
        for name in &removed {
            changes.extend(self.remove_address(name, now, &mut lost, &mut applied));
        }
        for resource in accepted {
            self.accept(resource, &mut changes, &mut lost, &mut applied);
        }
        // An address may have moved from one of them to another.
        for name in lost.iter().filter(|name| !self.addresses.knows(name)) {
            self.lookups.lost(name, &mut applied.changes);
        }
        applied.changed = !changes.is_empty();
        if applied.changed {
            self.snapshot = Arc::new(self.snapshot.apply(changes));
            self.interner.sweep();
        }
        applied
    }

    fn read(
        &mut self,
        resource: Resource,
        ambiguous: &HashMap<String, Problem>,
    ) -> Result<Accepted, (String, Invalid)> {
        match self.understand(&resource, ambiguous) {
            Ok((address, aliases, bytes)) => Ok(Accepted {
                name: address.resource_name(),
                address,
                aliases,
                body: RecordBody { version: resource.version, aliases: resource.aliases, bytes },
            }),
            Err(error) => Err((resource.name, error)),
        }
    }

    fn understand(
        &mut self,
        resource: &Resource,
        ambiguous: &HashMap<String, Problem>,
    ) -> Result<(Address, Vec<Arc<str>>, prost::bytes::Bytes), Invalid> {
        if let Some(problem) = ambiguous.get(&resource.name) {
            return Err(problem.clone().into());
        }
        let bytes = payload(Kind::Address, resource)?;
        let address = parse_address(&resource.name, &bytes, &mut self.interner)?;
        let mut aliases = declared(&resource.aliases)?;
        if self.settings.mode == Mode::OnDemand {
            aliases.extend(implied(&address));
            aliases.sort_unstable();
            aliases.dedup();
        }
        Ok((address, aliases, bytes))
    }

    fn accept(
        &mut self,
        resource: Accepted,
        changes: &mut Vec<Change>,
        lost: &mut Vec<Arc<str>>,
        applied: &mut Applied,
    ) {
        let Accepted { name, address, aliases, body } = resource;
        self.lookups.found(&name, &mut applied.released);
        for alias in &aliases {
            self.lookups.found(alias, &mut applied.released);
        }
        let thing = match &address {
            Address::Workload(_) => Thing::Workload,
            Address::Service(_) => Thing::Service,
        };
        if let Some(old) = self.addresses.set(&name, &body.version, thing, aliases) {
            // The same name for another kind of thing.
            if old.thing != thing {
                changes.extend(old.thing.removal(&name));
            }
            lost.extend(old.aliases);
        }
        changes.push(match address {
            Address::Workload(workload) => Change::Workload(workload),
            Address::Service(service) => Change::Service(service),
        });
        let record = Record { kind: Kind::Address, name: name.to_string(), body: Some(body) };
        applied.records.push(record);
    }

    /// Removes what has that name or alias.
    fn remove_address(
        &mut self,
        name: &str,
        now: Option<Instant>,
        lost: &mut Vec<Arc<str>>,
        applied: &mut Applied,
    ) -> Option<Change> {
        if let Some(now) = now {
            self.lookups.gone(name, now, &mut applied.released);
        }
        let name = self.addresses.name_of(name)?;
        let held = self.addresses.remove(&name)?;
        applied.records.push(Record { kind: Kind::Address, name: name.to_string(), body: None });
        lost.extend(held.aliases);
        lost.push(name.clone());
        held.thing.removal(&name)
    }
}

/// Further names that the control plane gave.
fn declared(aliases: &[String]) -> Result<Vec<Arc<str>>, Invalid> {
    if aliases.len() > ALIASES_MAX {
        let problem = Problem::TooLong { length: aliases.len(), max: ALIASES_MAX };
        return Err(problem.at("aliases"));
    }
    if let Some(long) = aliases.iter().find(|alias| alias.len() > TEXT_BYTES_MAX) {
        return Err(Problem::TooLong { length: long.len(), max: TEXT_BYTES_MAX }.at("aliases"));
    }
    Ok(aliases.iter().map(|alias| alias.as_str().into()).collect())
}

/// Further names by which it may have been looked up: its addresses.
fn implied(address: &Address) -> Vec<Arc<str>> {
    match address {
        Address::Workload(Workload { network_mode: NetworkMode::HostNetwork, .. }) => Vec::new(),
        Address::Workload(Workload { network, addresses, .. }) => {
            addresses.iter().map(|ip| format!("{network}/{ip}").into()).collect()
        }
        Address::Service(Service { addresses, .. }) => addresses
            .iter()
            .filter(|address| address.net.prefix_len() == address.net.max_prefix_len())
            .map(|address| format!("{}/{}", address.network, address.net.addr()).into())
            .collect(),
    }
}
