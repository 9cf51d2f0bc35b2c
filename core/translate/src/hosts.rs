//! Which object a host name stands for.
//!
//! Within a namespace a Kubernetes Service has its host before any service entry, and of entries the
//! oldest has it. Of several namespaces with the same host one is canonical: a Service, or else the
//! oldest entry that everybody may see.

use std::collections::{BTreeSet, HashMap};

use cluster::{Kind, ObjectKey, ObjectName, Text};

/// Kinds of object that have hosts. The order is that of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    Service,
    Entry,
}

/// An object that says a host is its own. The order is that of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) source: Source,
    /// When it was made.
    pub(crate) created: Text,
    /// The object's name.
    pub(crate) name: Text,
    /// Whether everybody may see it.
    pub(crate) is_public: bool,
}

impl Claim {
    /// The object.
    pub(crate) fn object(&self, namespace: &Text) -> ObjectKey {
        let kind = match self.source {
            Source::Service => Kind::Service,
            Source::Entry => Kind::ServiceEntry,
        };
        let name = ObjectName { namespace: namespace.clone(), name: self.name.clone() };
        ObjectKey { kind, name }
    }
}

/// A host in a namespace.
pub(crate) type Host = (Text, Text);

/// What a change of claims means for others.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Hosts whose service has to be looked at again.
    pub(crate) hosts: BTreeSet<Host>,
    /// Objects that won or lost a host.
    pub(crate) objects: BTreeSet<ObjectKey>,
}

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    by_namespace: HashMap<Text, HashMap<Text, BTreeSet<Claim>>>,
    /// Namespaces with the host, by host.
    namespaces: HashMap<Text, BTreeSet<Text>>,
    /// The claim of each object and its hosts.
    of: HashMap<ObjectKey, (Claim, Vec<Text>)>,
}

impl Hosts {
    /// Replaces an object's claims; without hosts it has none.
    pub(crate) fn set(&mut self, key: &ObjectKey, claim: Claim, hosts: Vec<Text>, to: &mut Moved) {
        let namespace = &key.name.namespace;
        let old = self.of.remove(key);
        let is_same_claim = old.as_ref().is_some_and(|(had, _)| *had == claim);
        let (had, had_hosts) = old.unwrap_or_else(|| (claim.clone(), Vec::new()));
        for host in had_hosts.iter().filter(|host| !is_same_claim || !hosts.contains(host)) {
            self.change(namespace, host, to, |claims| claims.remove(&had));
        }
        for host in &hosts {
            self.change(namespace, host, to, |claims| claims.insert(claim.clone()));
            to.hosts.insert((namespace.clone(), host.clone()));
        }
        if !hosts.is_empty() {
            self.of.insert(key.clone(), (claim, hosts));
        }
    }

    /// Hosts that an object claims.
    pub(crate) fn claimed(&self, key: &ObjectKey) -> &[Text] {
        self.of.get(key).map_or(&[], |(_, hosts)| hosts)
    }

    /// Whose a host is.
    pub(crate) fn owner(&self, namespace: &str, host: &str) -> Option<&Claim> {
        self.by_namespace.get(namespace)?.get(host)?.first()
    }

    /// Hosts that an object claims and has.
    pub(crate) fn owned<'a>(&'a self, key: &'a ObjectKey) -> impl Iterator<Item = &'a Text> {
        let own = move |host: &&Text| self.owns(key, host);
        self.claimed(key).iter().filter(own)
    }

    /// Whether a host is this object's.
    pub(crate) fn owns(&self, key: &ObjectKey, host: &str) -> bool {
        let namespace = &key.name.namespace;
        let owner = self.owner(namespace, host);
        owner.is_some_and(|claim| claim.name == key.name.name && claim.object(namespace) == *key)
    }

    /// The namespace whose service stands for a host.
    pub(crate) fn canonical(&self, host: &str) -> Option<&Text> {
        let namespaces = self.namespaces.get(host)?.iter();
        let owners = namespaces.filter_map(|namespace| {
            let owner = self.owner(namespace, host)?;
            let may = owner.source == Source::Service || owner.is_public;
            may.then_some(((owner.source, &owner.created, namespace), namespace))
        });
        owners.min_by_key(|(rank, _)| *rank).map(|(_, namespace)| namespace)
    }

    /// Changes the claims of one host, and notes who is affected.
    fn change(
        &mut self,
        namespace: &Text,
        host: &Text,
        to: &mut Moved,
        change: impl FnOnce(&mut BTreeSet<Claim>) -> bool,
    ) {
        let canonical = self.canonical(host).cloned();
        let by_host = self.by_namespace.entry(namespace.clone()).or_default();
        let claims = by_host.entry(host.clone()).or_default();
        let owner = claims.first().cloned();
        change(claims);
        if claims.first() != owner.as_ref() {
            let both = owner.iter().chain(claims.iter());
            to.objects.extend(both.map(|claim| claim.object(namespace)));
        }
        let is_empty = claims.is_empty();
        let namespaces: &mut BTreeSet<Text> = self.namespaces.entry(host.clone()).or_default();
        if is_empty {
            by_host.remove(host);
            if by_host.is_empty() {
                self.by_namespace.remove(namespace);
            }
            namespaces.remove(namespace);
            if namespaces.is_empty() {
                self.namespaces.remove(host);
            }
        } else {
            namespaces.insert(namespace.clone());
        }
        to.hosts.insert((namespace.clone(), host.clone()));
        let now = self.canonical(host).cloned();
        if now != canonical {
            let both = canonical.into_iter().chain(now);
            to.hosts.extend(both.map(|namespace| (namespace, host.clone())));
        }
    }
}
