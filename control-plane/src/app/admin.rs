//! Answers `warren cp`.

use std::sync::Arc;
use std::time::Instant;

use admin::control_plane::{
    Authority, ChainCertificate, Condition, Object, Policy, Request, Resource, Response, Root,
    RotationStep, ServedClient, Status,
};
use admin::{Failure, Handler, Reply};
use cluster::Readable;
use prost::Message;
use proto::security::{Authorization, Scope};
use proto::workload::{Address, address};
use tokio::sync::watch;
use xds::server::{Catalog, Collection, Reach, ResourceType, TypeStatus};

use super::authority::Chosen;
use crate::ca::CaStatus;
use crate::ca::rotation::{Care, RootPart, RotationError, RotationStage};
use crate::serve::{Clients, Publisher};
use crate::status::Leadership;
use crate::translation::{Knowledge, PolicyState};
use crate::watch::Problems;

/// Most resources that one answer shows. More are left out, and the answer says so by its length.
const RESOURCES_MAX: usize = 10_000;

/// What it knows.
pub(super) struct AdminHandler {
    pub(super) started: Instant,
    pub(super) source: String,
    pub(super) trust_domain: String,
    pub(super) root_namespace: Arc<str>,
    pub(super) knowledge: Knowledge,
    pub(super) publisher: Arc<Publisher>,
    pub(super) clients: Clients,
    pub(super) problems: Problems,
    pub(super) synced: watch::Receiver<bool>,
    pub(super) leadership: Option<Leadership>,
    pub(super) authority: Chosen,
}

impl Handler for AdminHandler {
    type Request = Request;
    type Response = Response;

    async fn handle(&self, request: Request) -> Reply<Response> {
        let answer = match request {
            Request::Status => Ok(Response::Status(Box::new(self.status()))),
            // These may wait for the translation, and look at everything.
            Request::Policies => {
                let (knowledge, publisher) = (self.knowledge.clone(), self.publisher.clone());
                let root = self.root_namespace.clone();
                aside(move || Response::Policies(policies(&knowledge, &publisher, &root))).await
            }
            Request::Objects => {
                let (knowledge, problems) = (self.knowledge.clone(), self.problems.clone());
                aside(move || Response::Objects(objects(&knowledge, &problems))).await
            }
            Request::Clients => Ok(Response::Clients(self.clients())),
            Request::Resources { containing } => {
                let catalog = self.publisher.catalog();
                aside(move || Response::Resources(resources(&catalog, &containing))).await
            }
            Request::Authority => Ok(Response::Authority(Box::new(self.authority()))),
            Request::Rotate { step, force } => self
                .rotate(step, force)
                .await
                .map(|authority| Response::Authority(Box::new(authority))),
        };
        answer.into()
    }
}

impl AdminHandler {
    fn status(&self) -> Status {
        let catalog = self.publisher.catalog();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let mut problems: Vec<String> =
            self.problems.list().into_iter().map(|p| format!("{}: {}", p.place, p.text)).collect();
        if let Ok(status) = self.authority.status() {
            problems.extend(status.problem.map(|problem| format!("the authority: {problem}")));
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            source: self.source.clone(),
            synced: *self.synced.borrow(),
            leader: self.leadership.as_ref().map(|leadership| leadership.until().is_some()),
            trust_domain: self.trust_domain.clone(),
            objects: count(self.knowledge.counts().objects),
            addresses: count(catalog.len(Collection::Addresses)),
            policies: count(catalog.len(Collection::Policies)),
            clients: count(self.clients.list().len()),
            problems,
        }
    }

    fn clients(&self) -> Vec<ServedClient> {
        let client = |client: crate::serve::ClientStatus| ServedClient {
            id: client.id,
            node: client.node.as_deref().unwrap_or_default().to_owned(),
            address: client.address.to_string(),
            pending: client.types.iter().map(|each| u64::from(each.in_flight.is_some())).sum(),
            refused: client.types.iter().map(|each| each.rejections).sum(),
            types: client.types.iter().map(subscription).collect(),
        };
        self.clients.list().into_iter().map(client).collect()
    }

    fn authority(&self) -> Authority {
        match self.authority.status() {
            Ok(status) => authority(status),
            Err(source) => {
                Authority { source, rotation: "elsewhere".to_owned(), ..Authority::default() }
            }
        }
    }

    async fn rotate(&self, step: RotationStep, force: bool) -> Result<Authority, Failure> {
        let care = if force { Care::Force } else { Care::Check };
        let Some(rotate) = self.authority.rotate() else {
            let why = "the authority is a signer of the cluster: its root is changed there";
            return Err(Failure::new("NOT_OURS", why));
        };
        let stepped = match step {
            RotationStep::Prepare => rotate.prepare().await,
            RotationStep::Switch => rotate.switch(care).await,
            RotationStep::Finish => rotate.finish(care).await,
        };
        tracing::info!(?step, done = stepped.is_ok(), "step of the root's rotation");
        stepped.map(authority).map_err(|error| {
            let code = match &error {
                RotationError::LeftBehind { .. } => "ROOT_IN_USE",
                RotationError::Turn { .. } => "NOT_NOW",
                RotationError::Conflict => "CONFLICT",
                RotationError::Store(_)
                | RotationError::Root(_)
                | RotationError::Authority(_)
                | RotationError::Bundle(_)
                | RotationError::Revocations(_)
                | RotationError::Missing { .. } => "AUTHORITY",
            };
            Failure::new(code, model::causes(&error))
        })
    }
}

/// Runs something that blocks where it may.
async fn aside(look: impl FnOnce() -> Response + Send + 'static) -> Result<Response, Failure> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Failure::new("FAILED", error.to_string()))
}

fn policies(knowledge: &Knowledge, publisher: &Publisher, root_namespace: &str) -> Vec<Policy> {
    let catalog = publisher.catalog();
    let bound = Bound::count(&catalog);
    let policy = |PolicyState { object, conditions, waypoints }: PolicyState| {
        let is_attached =
            conditions.iter().any(|condition| condition.kind == translate::WAYPOINT_CONDITION);
        let meta = object.meta();
        let (action, enforced) = match &object {
            cluster::Object::AuthorizationPolicy(policy) => {
                let enforced = if is_attached {
                    by_waypoints(&waypoints)
                } else {
                    enforced(&catalog, &bound, &policy.metadata)
                };
                (action(policy), enforced)
            }
            cluster::Object::PeerAuthentication(peer) => (mode(peer), reach(peer, root_namespace)),
            // Nodes have no part in it.
            cluster::Object::RequestAuthentication(_) => {
                ("JWT".to_owned(), by_waypoints(&waypoints))
            }
            // Only the three above are kept.
            cluster::Object::Namespace(_)
            | cluster::Object::Node(_)
            | cluster::Object::GatewayClass(_)
            | cluster::Object::Gateway(_)
            | cluster::Object::Service(_)
            | cluster::Object::ServiceEntry(_)
            | cluster::Object::EndpointSlice(_)
            | cluster::Object::WorkloadEntry(_)
            | cluster::Object::Pod(_) => (String::new(), String::new()),
        };
        Policy {
            kind: object.kind().to_string(),
            namespace: meta.namespace.as_ref().to_owned(),
            name: meta.name.as_ref().to_owned(),
            action,
            enforced,
            conditions: conditions.iter().map(condition).collect(),
        }
    };
    knowledge.policies().into_iter().map(policy).collect()
}

fn objects(knowledge: &Knowledge, problems: &Problems) -> Vec<Object> {
    let (found, omitted) = knowledge.findings();
    let mut objects: Vec<Object> = found
        .into_iter()
        .map(|(key, findings)| Object {
            name: key.to_string(),
            conditions: findings.conditions.iter().map(condition).collect(),
            problems: findings.problems,
        })
        .collect();
    for problem in problems.list() {
        let problems = vec![problem.text];
        objects.push(Object { name: problem.place, problems, ..Object::default() });
    }
    if omitted > 0 {
        let problems = vec![format!("{omitted} further problems are not kept")];
        objects.push(Object { name: "…".to_owned(), problems, ..Object::default() });
    }
    objects
}

fn authority(status: CaStatus) -> Authority {
    let rotation = match status.stage {
        RotationStage::Steady => "steady",
        RotationStage::Prepared => "prepared",
        RotationStage::Switched => "switched",
    };
    let link = |link: crate::ca::rotation::ChainStatus| ChainCertificate {
        fingerprint: link.fingerprint,
        expires_unix_ms: link.not_after.saturating_mul(1000),
    };
    let root = |root: crate::ca::rotation::RootStatus| Root {
        signs: root.part == RootPart::Signs,
        next: root.part == RootPart::Next,
        fingerprint: root.fingerprint,
        expires_unix_ms: root.not_after.saturating_mul(1000),
        chain: root.chain.into_iter().map(link).collect(),
        certificates: root.certificates,
        holders: u64::try_from(root.holders).unwrap_or(u64::MAX),
    };
    Authority {
        source: status.source,
        rotation: rotation.to_owned(),
        roots: status.roots.into_iter().map(root).collect(),
        waiting_for: status.left,
        problems: status.problem.into_iter().collect(),
    }
}

fn subscription(status: &TypeStatus) -> String {
    let reach = match status.reach {
        Reach::Everything => "everything".to_owned(),
        Reach::NodeAndAsked => format!("its node and {} names", status.names),
        Reach::Asked => format!("{} names", status.names),
    };
    let behind = match status.pending {
        0 => String::new(),
        pending => format!(", {pending} behind"),
    };
    format!("{}: {reach}{behind}", status.kind.label())
}

fn condition(condition: &translate::Condition) -> Condition {
    Condition {
        kind: condition.kind.to_owned(),
        status: condition.status,
        reason: condition.reason.to_owned(),
        message: condition.message.as_ref().to_owned(),
    }
}

fn action(policy: &cluster::AuthorizationPolicy) -> String {
    use cluster::authorization_policy::Action;
    let action = match &policy.spec {
        Readable::Read(spec) => match spec.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom => "CUSTOM",
        },
        Readable::Unreadable(_) => "unreadable",
    };
    action.to_owned()
}

fn mode(peer: &cluster::PeerAuthentication) -> String {
    use cluster::peer_authentication::Mode;
    let mode = match &peer.spec {
        Readable::Read(spec) => match spec.mtls.mode {
            Mode::Unset => "UNSET",
            Mode::Disable => "DISABLE",
            Mode::Permissive => "PERMISSIVE",
            Mode::Strict => "STRICT",
        },
        Readable::Unreadable(_) => "unreadable",
    };
    mode.to_owned()
}

/// Where a peer authentication holds.
fn reach(peer: &cluster::PeerAuthentication, root_namespace: &str) -> String {
    let namespace = &peer.metadata.namespace;
    let selects = peer.spec.read().is_none_or(|spec| {
        spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
    });
    match (selects, **namespace == *root_namespace) {
        (true, true) => "nowhere: a selector has no effect in the root namespace".to_owned(),
        (true, false) => format!("selected workloads of namespace {namespace}"),
        (false, true) => "mesh".to_owned(),
        (false, false) => format!("namespace {namespace}"),
    }
}

/// Where a policy that was sent is enforced.
fn enforced(catalog: &Catalog, bound: &Bound, meta: &cluster::Meta) -> String {
    let name = format!("{}/{}", meta.namespace, meta.name);
    let Some(resource) = catalog.get(ResourceType::Authorization, &name) else {
        return "nowhere".to_owned();
    };
    let scope = Authorization::decode(resource.body()).map(|policy| policy.scope());
    match scope {
        Ok(Scope::Global) => "mesh".to_owned(),
        Ok(Scope::Namespace) => format!("namespace {}", meta.namespace),
        Ok(Scope::WorkloadSelector) => match bound.0.get(&name).copied().unwrap_or(0) {
            1 => "1 workload".to_owned(),
            count => format!("{count} workloads"),
        },
        // We encoded it.
        Err(_) => String::new(),
    }
}

/// Where a policy with `targetRefs` is enforced.
fn by_waypoints(waypoints: &[cluster::ObjectName]) -> String {
    match waypoints {
        [] => "nowhere".to_owned(),
        [one] => format!("waypoint {one}"),
        [one, others @ ..] => format!("waypoint {one} and {} more", others.len()),
    }
}

/// How many workloads name each policy.
struct Bound(std::collections::HashMap<String, usize>);

impl Bound {
    fn count(catalog: &Catalog) -> Self {
        let mut bound = std::collections::HashMap::new();
        for resource in catalog.iter(ResourceType::Workload) {
            let Ok(Address { r#type: Some(address::Type::Workload(workload)) }) =
                Address::decode(resource.body())
            else {
                continue;
            };
            for policy in workload.authorization_policies {
                *bound.entry(policy).or_default() += 1;
            }
        }
        Self(bound)
    }
}

fn resources(catalog: &Catalog, containing: &str) -> Vec<Resource> {
    let kinds = [ResourceType::Address, ResourceType::Authorization];
    let all = kinds.into_iter().flat_map(|kind| catalog.iter(kind).map(move |each| (kind, each)));
    let matching = all.filter(|(_, resource)| resource.name().contains(containing));
    let shown = matching.take(RESOURCES_MAX).map(|(kind, resource)| {
        let kind = match kind {
            ResourceType::Authorization => "policy",
            ResourceType::Address | ResourceType::Workload
                if resource.is_a(ResourceType::Workload) =>
            {
                "workload"
            }
            ResourceType::Address | ResourceType::Workload => "service",
        };
        Resource {
            kind: kind.to_owned(),
            name: resource.name().as_ref().to_owned(),
            aliases: resource.aliases().iter().map(|alias| alias.as_ref().to_owned()).collect(),
            version: resource.version().as_ref().to_owned(),
        }
    });
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    shown
}
