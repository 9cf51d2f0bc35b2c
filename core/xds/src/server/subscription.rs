//! One type in one stream: what the client follows, what it holds, what it has to be told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::catalog::{Catalog, Changed};
use super::kind::ResourceType;
use super::pending::{Held, Pending};
use super::resource::Resource;
use super::response::{
    FIRST_RESPONSE_BYTES_MAX, LARGE_BYTES, RESPONSE_BYTES_MAX, Response, Writing,
};
use super::status::{REJECTION_BYTES_MAX, Reach, TypeStatus};

/// The name that stands for every resource.
pub(super) const EVERYTHING: &str = "*";

/// What a client follows.
#[derive(Debug)]
enum Follows {
    /// Everything: what it holds is the catalogue but for what is pending, so nothing is kept.
    Everything,
    /// What it asked for, and what belongs to that.
    Asked {
        /// Versions of what it holds. Followed until gone or unsubscribed from.
        held: HashMap<Arc<str>, Arc<str>>,
        /// The workloads of its node too.
        local: bool,
    },
}

/// A response that was not answered yet.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    sequence: u64,
}

#[derive(Debug)]
pub(super) struct Subscription {
    kind: ResourceType,
    /// The client's node.
    node: Option<Arc<str>>,
    follows: Follows,
    /// Names and aliases asked for.
    names: HashSet<Arc<str>>,
    /// Services among what those names mean: their workloads are sent too.
    services: HashSet<Arc<str>>,
    pending: Pending,
    /// Policies that are gone: told apart, since they go after what named them.
    gone: Pending,
    in_flight: Option<InFlight>,
    /// The first response was sent.
    is_begun: bool,
    answered: Option<u64>,
    rejections: u64,
    last_rejection: Option<String>,
}

/// What a first request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Everything,
    /// What is on its node, and names.
    Local,
    Names,
}

impl Subscription {
    /// A subscription as it begins: the client holds `versions`, as it says.
    pub(super) fn new(
        kind: ResourceType,
        node: Option<Arc<str>>,
        wanted: Wanted,
        versions: BTreeMap<String, String>,
        catalog: &Catalog,
    ) -> Self {
        let mut this = Self {
            kind,
            node,
            follows: Follows::Everything,
            names: HashSet::new(),
            services: HashSet::new(),
            pending: Pending::default(),
            gone: Pending::default(),
            in_flight: None,
            is_begun: false,
            answered: None,
            rejections: 0,
            last_rejection: None,
        };
        match wanted {
            Wanted::Everything => {
                let held = |name: &str| versions.get(name).map(|version| version.as_str().into());
                this.catch_up(catalog, held, versions.keys().map(|name| name.as_str().into()));
            }
            Wanted::Local | Wanted::Names => {
                let versions = versions.into_iter();
                let held = versions.map(|(name, version)| (name.into(), version.into()));
                let held: HashMap<Arc<str>, Arc<str>> = held.collect();
                let names: Vec<_> = held.keys().cloned().collect();
                this.follows = Follows::Asked { held, local: false };
                for name in &names {
                    this.tell(name, catalog);
                }
                if wanted == Wanted::Local {
                    this.follow_node(catalog);
                }
            }
        }
        this
    }

    /// Makes pending whatever of the catalogue differs from what is held.
    fn catch_up(
        &mut self,
        catalog: &Catalog,
        held: impl Fn(&str) -> Option<Arc<str>>,
        names: impl Iterator<Item = Arc<str>>,
    ) {
        let kind = self.kind;
        for resource in catalog.iter(kind) {
            let version = held(resource.name());
            if version.as_ref() != Some(resource.version()) {
                self.add(resource.name(), Held::of(version.as_ref()), catalog);
            }
        }
        for name in names.filter(|name| catalog.get(kind, name).is_none()) {
            let version = held(&name);
            self.add(&name, Held::of(version.as_ref()), catalog);
        }
    }

    /// Makes a name pending that a client follows by what it holds.
    fn tell(&mut self, name: &Arc<str>, catalog: &Catalog) {
        let held = match &self.follows {
            Follows::Everything => return,
            Follows::Asked { held, .. } => held.get(name),
        };
        if held != catalog.get(self.kind, name).map(|resource| resource.version()) {
            self.add(name, Held::of(held), catalog);
        }
    }

    fn add(&mut self, name: &Arc<str>, held: Held, catalog: &Catalog) {
        let is_gone = self.kind == ResourceType::Authorization
            && catalog.get(self.kind, name).is_none()
            && !held.is_asked();
        let (to, from) = if is_gone {
            (&mut self.gone, &mut self.pending)
        } else {
            (&mut self.pending, &mut self.gone)
        };
        let held = match from.remove(name) {
            Some(before) if held.is_asked() => Held::Asked { has: before.is_any() },
            Some(before) => before,
            None => held,
        };
        to.add(name, held, catalog.sequence());
    }

    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// The client asks for a name, or for everything.
    pub(super) fn subscribe(&mut self, name: &str, wanted: Wanted, catalog: &Catalog) {
        if name != EVERYTHING {
            let name: Arc<str> = name.into();
            self.names.insert(name.clone());
            self.answer(&name, true, catalog);
            return;
        }
        match (wanted, &mut self.follows) {
            (Wanted::Everything, Follows::Asked { held, .. }) => {
                let held = std::mem::take(held);
                self.follows = Follows::Everything;
                let names: Vec<_> = held.keys().cloned().collect();
                self.catch_up(catalog, |name| held.get(name).cloned(), names.into_iter());
            }
            (Wanted::Everything, Follows::Everything) => {}
            (Wanted::Local | Wanted::Names, _) => self.follow_node(catalog),
        }
    }

    /// A name in the first request: what the client says it holds is not sent again.
    pub(super) fn begin(&mut self, name: &str, catalog: &Catalog) {
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        self.answer(&name, false, catalog);
    }

    fn answer(&mut self, name: &Arc<str>, again: bool, catalog: &Catalog) {
        let found = catalog.find(self.kind, name);
        if found.is_empty() {
            self.ask(name, catalog);
        }
        for resource in found {
            if again {
                self.ask(resource.name(), catalog);
            } else {
                self.tell(resource.name(), catalog);
            }
            self.follow_backends(&resource, catalog);
        }
    }

    /// Makes a name pending that is answered whatever the client holds.
    fn ask(&mut self, name: &Arc<str>, catalog: &Catalog) {
        let has = match &self.follows {
            Follows::Everything => catalog.get(self.kind, name).is_some(),
            Follows::Asked { held, .. } => held.contains_key(name),
        };
        self.add(name, Held::Asked { has }, catalog);
    }

    /// A service that was asked for is of use with its workloads; and whoever asks for one needs
    /// those of its own node, to which others connect.
    fn follow_backends(&mut self, service: &Resource, catalog: &Catalog) {
        if matches!(self.follows, Follows::Everything)
            || !service.is_service()
            || !self.services.insert(service.name().clone())
        {
            return;
        }
        for backend in catalog.backends(service.name()) {
            self.tell(backend.name(), catalog);
        }
        self.follow_node(catalog);
    }

    fn follow_node(&mut self, catalog: &Catalog) {
        let (Follows::Asked { local, .. }, Some(node)) = (&mut self.follows, self.node.clone())
        else {
            return;
        };
        if !std::mem::replace(local, true) {
            let there: Vec<_> = catalog.on_node(&node).map(|w| w.name().clone()).collect();
            for name in &there {
                self.tell(name, catalog);
            }
        }
    }

    /// The client follows a name, or everything, no more.
    pub(super) fn unsubscribe(&mut self, name: &str, catalog: &Catalog) {
        if name == EVERYTHING {
            self.leave_everything(catalog);
            return;
        }
        if !self.names.remove(name) {
            return;
        }
        // What it holds is told to be gone all the same: it may have it for another reason.
        let is_bare = catalog.get(self.kind, name).is_none();
        if is_bare && self.pending.held(name).is_some_and(|held| !held.is_any()) {
            self.pending.remove(name);
        }
        for resource in catalog.find(self.kind, name) {
            if !self.is_wanted(&resource) {
                self.forget(resource.name());
            }
        }
    }

    fn forget(&mut self, name: &str) {
        self.services.remove(name);
        self.pending.remove(name);
        if let Follows::Asked { held, .. } = &mut self.follows {
            held.remove(name);
        }
    }

    fn leave_everything(&mut self, catalog: &Catalog) {
        match &mut self.follows {
            Follows::Asked { local, .. } => *local = false,
            Follows::Everything => {
                let names: Vec<_> = self.names.iter().cloned().collect();
                self.follows = Follows::Asked { held: HashMap::new(), local: false };
                let asked = names.iter().flat_map(|name| catalog.find(self.kind, name));
                let asked: Vec<_> = asked.collect();
                let services = asked.iter().filter(|resource| resource.is_service());
                self.services = services.map(|service| service.name().clone()).collect();
                let backends = self.services.iter().flat_map(|name| catalog.backends(name));
                let mut kept = HashMap::new();
                let mut wanted = HashSet::new();
                for resource in asked.iter().chain(backends) {
                    let version = match self.pending.held(resource.name()) {
                        None => Some(resource.version().clone()),
                        Some(Held::Version(version)) => Some(version.clone()),
                        Some(Held::Nothing | Held::Asked { .. }) => None,
                    };
                    wanted.insert(resource.name().clone());
                    kept.extend(version.map(|version| (resource.name().clone(), version)));
                }
                // What is gone is told: the client may have asked for it under another name.
                let kind = self.kind;
                let is_gone = |name: &str| catalog.get(kind, name).is_none();
                self.pending.retain(|name| wanted.contains(name) || is_gone(name));
                self.follows = Follows::Asked { held: kept, local: false };
            }
        }
    }

    /// Whether a resource is followed, apart from being held.
    fn is_wanted(&self, resource: &Resource) -> bool {
        let local = match &self.follows {
            Follows::Everything => return true,
            Follows::Asked { local, .. } => *local,
        };
        self.names.contains(resource.name())
            || resource.aliases().iter().any(|alias| self.names.contains(alias))
            || resource.services().iter().any(|service| self.services.contains(service))
            || local && self.node.is_some() && resource.node() == self.node.as_ref()
    }

    /// Something is different in the catalogue.
    pub(super) fn changed(&mut self, changed: &Changed, catalog: &Catalog) {
        let of_kind = |resource: &Option<Arc<Resource>>| {
            resource.clone().filter(|resource| resource.is_a(self.kind))
        };
        let (before, after) = (of_kind(&changed.before), of_kind(&changed.after));
        let Some(name) = after.as_ref().or(before.as_ref()).map(|any| any.name().clone()) else {
            return;
        };
        match &self.follows {
            Follows::Everything => {
                let held = Held::of(before.as_ref().map(|before| before.version()));
                self.add(&name, held, catalog);
            }
            Follows::Asked { held, .. } => {
                let held = held.get(&name).cloned();
                if after.is_none() {
                    self.services.remove(&name);
                }
                if held.is_some() || after.as_ref().is_some_and(|after| self.is_wanted(after)) {
                    self.add(&name, Held::of(held.as_ref()), catalog);
                }
                if let Some(after) = after.filter(|after| self.is_asked_for(after)) {
                    self.follow_backends(&after, catalog);
                }
            }
        }
    }

    fn is_asked_for(&self, resource: &Resource) -> bool {
        self.names.contains(resource.name())
            || resource.aliases().iter().any(|alias| self.names.contains(alias))
    }

    /// Takes the answer to the response in flight; `None` if that is not the one it is about.
    pub(super) fn answered(&mut self, nonce: &str, rejection: Option<&str>) -> Option<u64> {
        let InFlight { sequence, .. } = self.in_flight.take_if(|sent| sent.nonce == nonce)?;
        self.answered = Some(sequence);
        if let Some(text) = rejection {
            self.rejections += 1;
            let mut end = text.len().min(REJECTION_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            self.last_rejection = Some(text.get(..end).unwrap_or_default().to_owned());
        }
        Some(sequence)
    }

    /// Whether the client holds every policy that a workload may name.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_begun && self.pending.is_empty()
    }

    /// The catalogue from which on the client has not been told everything.
    pub(super) fn behind_since(&self) -> Option<u64> {
        // Before the first response nothing has been told.
        if self.is_begun { self.pending.since() } else { Some(0) }
    }

    /// Whether the next response is the first, and large. With few resources it is known what they
    /// come to; many are taken for large without a look, since this is asked often.
    pub(super) fn is_large_first(&self, catalog: &Catalog) -> bool {
        const LOOKED_AT_MAX: usize = 1024;
        if self.is_begun || self.in_flight.is_some() {
            return false;
        }
        let size = |name: &Arc<str>| catalog.get(self.kind, name).map_or(0, |found| found.size());
        self.pending.len() > LOOKED_AT_MAX
            || self.pending.names().map(size).sum::<usize>() >= LARGE_BYTES
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.is_begun || !self.pending.is_empty() || !self.gone.is_empty()
    }

    /// Writes the next response, if one is due. `may_go`: what is gone may be told.
    pub(super) fn respond(
        &mut self,
        nonce: String,
        catalog: &Catalog,
        may_go: impl Fn(u64) -> bool,
    ) -> Option<Response> {
        if self.in_flight.is_some() {
            return None;
        }
        let limit = if self.is_begun { RESPONSE_BYTES_MAX } else { FIRST_RESPONSE_BYTES_MAX };
        let mut writing = Writing::new(self.kind, &nonce, catalog.sequence(), limit);
        while let Some(name) = self.pending.first() {
            let size = catalog.get(self.kind, name).map_or(name.len() + 8, |found| found.size());
            if !writing.has_room(size) {
                break;
            }
            let Some((name, held)) = self.pending.pop() else { break };
            self.write(&name, &held, catalog, &mut writing);
        }
        while self.gone.since().is_some_and(&may_go)
            && self.gone.first().is_some_and(|name| writing.has_room(name.len() + 8))
        {
            let Some((name, held)) = self.gone.pop() else { break };
            self.write(&name, &held, catalog, &mut writing);
        }
        if self.is_begun && writing.is_empty() {
            return None;
        }
        self.is_begun = true;
        self.in_flight = Some(InFlight { nonce, sequence: catalog.sequence() });
        Some(writing.finish())
    }

    fn write(&mut self, name: &Arc<str>, held: &Held, catalog: &Catalog, out: &mut Writing) {
        let Some(resource) = catalog.get(self.kind, name) else {
            let is_told = match held {
                Held::Nothing => false,
                Held::Version(_) => true,
                // If something has it as an alias by now, that is pending by its own name.
                Held::Asked { .. } => catalog.find(self.kind, name).is_empty(),
            };
            if is_told {
                out.removed(name);
            }
            if let Follows::Asked { held, .. } = &mut self.follows {
                held.remove(name);
            }
            return;
        };
        let aliases = match &mut self.follows {
            Follows::Asked { held, .. } => {
                held.insert(name.clone(), resource.version().clone());
                resource.aliases()
            }
            Follows::Everything if held.is_asked() => resource.aliases(),
            Follows::Everything => &[],
        };
        if *held != Held::Version(resource.version().clone()) {
            out.resource(resource, aliases);
        }
    }

    pub(super) fn status(&self) -> TypeStatus {
        let reach = match self.follows {
            Follows::Everything => Reach::Everything,
            Follows::Asked { local: true, .. } => Reach::NodeAndAsked,
            Follows::Asked { local: false, .. } => Reach::Asked,
        };
        TypeStatus {
            kind: self.kind,
            reach,
            names: self.names.len(),
            pending: self.pending.len() + self.gone.len(),
            in_flight: self.in_flight.as_ref().map(|sent| sent.sequence),
            answered: self.answered,
            rejections: self.rejections,
            last_rejection: self.last_rejection.clone(),
        }
    }
}
