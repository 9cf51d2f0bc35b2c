//! Everything that a translation may look at.

use cluster::service_entry::ServiceEntry;
use cluster::{Meta, Text};

use crate::hosts::Hosts;
use crate::networks::Networks;
use crate::settings::{EntryVisibility, Settings};
use crate::store::{Store, is_ours};
use crate::vips::Vips;
use crate::waypoint::Waypoints;

/// The cluster and what was concluded from it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) waypoints: Waypoints,
    pub(crate) networks: Networks,
    pub(crate) hosts: Hosts,
    pub(crate) vips: Vips,
    /// The network of this cluster's addresses.
    pub(crate) network: Text,
}

impl World {
    /// Whether an object's namespace is seen.
    pub(crate) fn is_seen(&self, namespace: &str) -> bool {
        self.store.is_seen(&self.settings, namespace)
    }

    /// Whether an object of Istio's kinds counts: its namespace is seen and its revision is ours.
    pub(crate) fn counts(&self, meta: &Meta) -> bool {
        is_ours(&self.settings, meta) && self.is_seen(&meta.namespace)
    }

    /// Who may see a service entry.
    pub(crate) fn visibility(&self, entry: &ServiceEntry) -> EntryVisibility {
        let rules = &self.settings.entry_visibility;
        if rules.is_empty() {
            return EntryVisibility::Public;
        }
        let labels = self.store.namespace_labels(&entry.metadata.namespace);
        let rule = rules.iter().find(|rule| {
            rule.namespaces.matches(&labels) && rule.entries.matches(&entry.metadata.labels)
        });
        rule.map_or(EntryVisibility::Public, |rule| rule.visibility)
    }

    /// The trust domain as it is sent: empty for the default one.
    pub(crate) fn trust_domain(&self) -> String {
        match self.settings.trust_domain.as_str() {
            model::TrustDomain::DEFAULT => String::new(),
            domain => domain.to_owned(),
        }
    }

    /// The host of a Kubernetes Service.
    pub(crate) fn service_host(&self, namespace: &str, name: &str) -> Text {
        format!("{name}.{namespace}.svc.{}", self.settings.domain).into()
    }
}
