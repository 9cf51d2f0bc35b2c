//! `warren why`: what would become of a connection, by the very functions that decide real ones.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use admin::{Failure, Subject, Target, Why, WhyRoute, WhyVerdict};
use authz::{Denial, Question};
use model::{Code, DialledService, OriginalDst, PodUid, ServiceName, SpiffeId, Workload};
use resolve::{Asked, Ejected, Extent, InboundQuery, Query, Route, inbound_target};

use crate::config::Config;
use crate::flow::LocalPods;
use crate::mesh::{MeshState, Sync};
use crate::policy::{Via, Ways, denial};
use crate::telemetry::Ejection;

/// Endpoints that are left alone which an answer names. Further ones are left out.
const EJECTIONS_TOLD_MAX: usize = 10;
/// The source or destination names nothing that this node knows.
const UNKNOWN_SUBJECT: &str = "UNKNOWN_SUBJECT";

/// Answers one question on the state at hand.
pub(super) fn why(
    config: &Config,
    mesh: &MeshState,
    pods: &LocalPods,
    ejections: EjectionsOf<'_>,
    (source, destination): (&str, &str),
) -> Result<Why, Failure> {
    let bad = |error: admin::SubjectError| Failure::new(Failure::BAD_REQUEST, error.to_string());
    let source = Subject::parse(source).map_err(bad)?;
    let target = Target::parse(destination).map_err(bad)?;
    if mesh.sync == Sync::Waiting {
        return Ok(not_synced());
    }
    let asker = Asker { config, mesh, pods, ejections };
    let client = asker.client(&source)?;
    let dialled = asker.dialled(&client, &target)?;
    Ok(asker.explain(&client, dialled))
}

/// Whatever is asked: no connection is made or let in.
fn not_synced() -> Why {
    let route = WhyRoute {
        kind: "refused".to_owned(),
        code: Some(Code::NotSynced.as_str().to_owned()),
        ..WhyRoute::default()
    };
    let explanation = "the control plane's state has not arrived yet, and none is stored";
    Why { route, verdict: None, decided_here: true, explanation: vec![explanation.to_owned()] }
}

/// The endpoints of a service that threads of this agent leave alone.
type EjectionsOf<'a> = &'a dyn Fn(&ServiceName) -> Vec<Ejection>;

struct Asker<'a> {
    config: &'a Config,
    mesh: &'a MeshState,
    pods: &'a LocalPods,
    ejections: EjectionsOf<'a>,
}

/// Where the client runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On this node: its verified pods are joined here.
    Here,
    /// On another node, for which nothing on this node is local.
    Elsewhere,
}

/// Who would connect.
struct Client {
    workload: Option<Arc<Workload>>,
    address: IpAddr,
}

impl Asker<'_> {
    fn client(&self, subject: &Subject) -> Result<Client, Failure> {
        let snapshot = &self.mesh.snapshot;
        let workload = match subject {
            Subject::Ip(ip) => {
                let workload = snapshot.workload_by_address(&self.config.network, *ip).cloned();
                return Ok(Client { workload, address: *ip });
            }
            Subject::Named { namespace, name } => self.workload_named(namespace, name),
            Subject::Bare(uid) => PodUid::parse(uid)
                .ok()
                .and_then(|uid| self.pods.get(&uid).cloned())
                .and_then(|pod| snapshot.workload_by_key(pod.captured.workload()).cloned()),
        };
        let workload = workload.ok_or_else(|| unknown("source", subject))?;
        let Some(address) = workload.addresses.first().copied() else {
            let message = format!("source {subject} has no address");
            return Err(Failure::new(UNKNOWN_SUBJECT, message));
        };
        Ok(Client { workload: Some(workload), address })
    }

    /// The address the client would dial.
    fn dialled(&self, client: &Client, target: &Target) -> Result<SocketAddr, Failure> {
        let ip = match &target.host {
            Subject::Ip(ip) => Some(*ip),
            Subject::Named { namespace, name } => self
                .workload_named(namespace, name)
                .and_then(|workload| same_family(&workload.addresses, client.address))
                .or_else(|| {
                    self.vip(client, |service| {
                        *service.namespace == **namespace && *service.hostname == **name
                    })
                }),
            Subject::Bare(hostname) => {
                self.vip(client, |service| *service.hostname == **hostname).or_else(|| {
                    let uid = PodUid::parse(hostname).ok()?;
                    let pod = self.pods.get(&uid)?;
                    let addresses = pod.captured.addresses();
                    same_family(&addresses.borrow(), client.address)
                })
            }
        };
        let ip = ip.ok_or_else(|| unknown("destination", &target.host))?;
        Ok(SocketAddr::new(ip, target.port))
    }

    fn workload_named(&self, namespace: &str, name: &str) -> Option<Arc<Workload>> {
        let named = |workload: &&Arc<Workload>| {
            *workload.key.namespace == *namespace && *workload.key.name == *name
        };
        self.mesh.snapshot.workloads().find(named).cloned()
    }

    fn vip(&self, client: &Client, wanted: impl Fn(&ServiceName) -> bool) -> Option<IpAddr> {
        let service = self.mesh.snapshot.services().find(|service| wanted(&service.name))?;
        let vips: Vec<_> = service
            .addresses
            .iter()
            .filter(|address| address.network == self.config.network)
            .map(|address| address.net.addr())
            .collect();
        same_family(&vips, client.address)
    }

    fn explain(&self, client: &Client, dialled: SocketAddr) -> Why {
        let mut steps = Vec::new();
        let captured =
            client.workload.as_ref().is_some_and(|workload| self.pods.running(workload).is_some());
        let identity = client.workload.as_ref().and_then(|workload| workload.identity().ok());
        let mut ejected = Vec::new();
        let (route, server, identity) = match (&client.workload, captured) {
            (Some(workload), true) => {
                steps.push(format!("{} is a verified pod of this node", workload.key));
                let route = self.route(workload, dialled, Place::Here);
                ejected = self.ejected(&route);
                (described(&route), Server::of(&route), identity)
            }
            (Some(workload), false) if workload.protocol == model::TunnelProtocol::Hbone => {
                steps.push(format!(
                    "{} runs on another node; this node answers from its own state",
                    workload.key
                ));
                let route = self.route(workload, dialled, Place::Elsewhere);
                ejected = self.ejected(&route);
                (described(&route), Server::of(&route), identity)
            }
            _ => {
                steps.push(format!("{} is outside the mesh: it has no identity", client.address));
                let server =
                    self.mesh.snapshot.workload_by_address(&self.config.network, dialled.ip());
                let route = WhyRoute {
                    kind: "plaintext".to_owned(),
                    address: Some(dialled),
                    workload: server.map(|workload| workload.key.to_string()),
                    ..WhyRoute::default()
                };
                let server = server.map(|workload| Server {
                    workload: workload.clone(),
                    address: dialled,
                    asked: None,
                });
                (route, server, None)
            }
        };
        steps.push(describe(&route));
        steps.append(&mut ejected);
        let mut why = Why { route, verdict: None, decided_here: false, explanation: steps };
        let Some(server) = server else { return why };
        why.decided_here = self.pods.running(&server.workload).is_some();
        let enforced = server.workload.protocol == model::TunnelProtocol::Hbone;
        if enforced || why.decided_here {
            let verdict = self.verdict(client.address, identity.as_ref(), &server);
            why.explanation.push(if why.decided_here {
                format!("{} is a verified pod of this node, which decides", server.workload.key)
            } else {
                format!("the node of {} decides, from its own state", server.workload.key)
            });
            why.explanation.push(verdict.1);
            why.verdict = Some(verdict.0);
        }
        why
    }

    /// The endpoints that connections on this route are not given to for a while. The route may name one
    /// of them all the same: another thread may not know it.
    fn ejected(&self, route: &Route) -> Vec<String> {
        let Some(choice) = route.choice() else { return Vec::new() };
        let ejections = (self.ejections)(&choice.service).into_iter();
        let told =
            ejections.filter(|ejection| ejection.port == choice.port).take(EJECTIONS_TOLD_MAX);
        told.map(|Ejection { workload, port, code, left }| {
            let (service, seconds) = (&choice.service, left.as_secs_f64());
            format!(
                "{workload} is left alone as an endpoint of {service}:{port} for {seconds:.1} s more: \
                 connections to it failed, {code}"
            )
        })
        .collect()
    }

    fn route(&self, source: &Workload, dialled: SocketAddr, from: Place) -> Route {
        resolve::resolve(
            &self.mesh.snapshot,
            &Query {
                network: &self.config.network,
                source,
                original_dst: OriginalDst(dialled),
                local: &|workload| from == Place::Here && self.pods.running(workload).is_some(),
                same_node: self.config.same_node,
                extent: Extent::Whole,
                ejected: Ejected::NONE,
                random: rand::random(),
            },
        )
    }

    /// What policy would be asked, if the connection gets that far.
    fn arrival<'q>(
        &self,
        source: IpAddr,
        identity: Option<&'q SpiffeId>,
        server: &Server,
    ) -> Result<Question<'q>, Denial> {
        let destination = match server.asked {
            None => server.address,
            Some(asked) => {
                let query = InboundQuery {
                    network: &self.config.network,
                    workload: &server.workload,
                    local: server.address.ip(),
                    own: &|ip| server.workload.addresses.contains(&ip),
                    asked: Asked::Address(asked),
                    tunnel_address: self.config.tunnel_address,
                };
                let target = inbound_target(&self.mesh.snapshot, &query).map_err(denial)?;
                target.destination
            }
        };
        let question = Question { source, identity, destination };
        let ways = Ways::new(self.config);
        ways.judge(&self.mesh.snapshot, &server.workload, &question, Via::Direct)?;
        Ok(question)
    }

    fn verdict(
        &self,
        source: IpAddr,
        identity: Option<&SpiffeId>,
        server: &Server,
    ) -> (WhyVerdict, String) {
        let (result, dry_run) = match self.arrival(source, identity, server) {
            Ok(question) => authz::explain(&self.mesh.policies, &server.workload, &question),
            Err(denial) => (Err(denial), Vec::new()),
        };
        let dry_run = dry_run.iter().map(ToString::to_string).collect();
        match result {
            Ok(reason) => {
                let verdict = WhyVerdict {
                    allowed: true,
                    code: Code::Ok.to_string(),
                    policy: reason.policy().map(ToString::to_string),
                    rule: reason.rule(),
                    nearest_miss: None,
                    dry_run,
                };
                (verdict, format!("policy: {reason}"))
            }
            Err(denial) => {
                let verdict = WhyVerdict {
                    allowed: false,
                    code: denial.code.to_string(),
                    policy: denial.policy.as_ref().map(ToString::to_string),
                    rule: denial.rule,
                    nearest_miss: denial.nearest_miss.as_ref().map(ToString::to_string),
                    dry_run,
                };
                (verdict, format!("policy: {denial}"))
            }
        }
    }
}

/// Who would be connected to.
struct Server {
    workload: Arc<Workload>,
    /// Its address, and the port that is asked for.
    address: SocketAddr,
    /// What a tunnel to it is asked for: the same, or what lies behind a waypoint.
    asked: Option<SocketAddr>,
}

impl Server {
    fn of(route: &Route) -> Option<Self> {
        let (workload, address, asked) = match route {
            Route::Hbone { workload, tunnel, authority, .. } => {
                (workload, SocketAddr::new(tunnel.ip(), authority.port()), Some(*authority))
            }
            Route::Local { workload, address, authority, .. } => {
                (workload, *address, Some(*authority))
            }
            Route::Passthrough { workload, address, .. } => (workload.as_ref()?, *address, None),
            Route::DoubleHbone { .. }
            | Route::Lookup(_)
            | Route::Ask { .. }
            | Route::Refused { .. } => return None,
        };
        Some(Self { workload: workload.clone(), address, asked })
    }
}

/// A route as the operator is told it.
fn described(route: &Route) -> WhyRoute {
    let named = |workload: Option<&Arc<Workload>>| workload.map(|w| w.key.to_string());
    let service = |service: &Option<DialledService>| service.as_ref().map(ToString::to_string);
    match route {
        Route::Passthrough { address, workload, service: dialled, .. } => WhyRoute {
            kind: "passthrough".to_owned(),
            address: Some(*address),
            workload: named(workload.as_ref()),
            service: service(dialled),
            ..WhyRoute::default()
        },
        Route::Hbone { workload, tunnel, authority, service: dialled, .. } => WhyRoute {
            kind: "hbone".to_owned(),
            address: Some(*authority),
            tunnel: Some(*tunnel),
            workload: named(Some(workload)),
            service: service(dialled),
            ..WhyRoute::default()
        },
        Route::Local { workload, address, service: dialled, .. } => WhyRoute {
            kind: "local".to_owned(),
            address: Some(*address),
            workload: named(Some(workload)),
            service: service(dialled),
            ..WhyRoute::default()
        },
        Route::DoubleHbone {
            gateway,
            tunnel,
            authority: (hostname, port),
            service: dialled,
            ..
        } => WhyRoute {
            kind: "double-hbone".to_owned(),
            tunnel: Some(*tunnel),
            workload: named(Some(gateway)),
            service: service(dialled),
            detail: Some(format!("and in it for {hostname}:{port}")),
            ..WhyRoute::default()
        },
        Route::Lookup(lookup) => WhyRoute {
            kind: "lookup".to_owned(),
            workload: named(Some(lookup.workload())),
            service: lookup.service().map(ToString::to_string),
            detail: Some(format!("once host name {} is looked up", lookup.hostname())),
            ..WhyRoute::default()
        },
        Route::Ask { resource, service: dialled } => WhyRoute {
            kind: "ask".to_owned(),
            service: service(dialled),
            detail: Some(format!("once the control plane has answered for {resource}")),
            ..WhyRoute::default()
        },
        Route::Refused { code, detail, service: dialled, workload } => WhyRoute {
            kind: "refused".to_owned(),
            code: Some(code.to_string()),
            detail: Some(detail.clone()),
            workload: named(workload.as_ref()),
            service: service(dialled),
            ..WhyRoute::default()
        },
    }
}

fn describe(route: &WhyRoute) -> String {
    let to = route.workload.as_deref().unwrap_or("a destination outside the mesh");
    let at = route.address.map_or_else(String::new, |address| format!(" at {address}"));
    match (&*route.kind, route.tunnel, &route.code) {
        ("refused", _, Some(code)) => {
            format!("route: refused, {code}: {}", route.detail.as_deref().unwrap_or_default())
        }
        ("double-hbone", Some(tunnel), _) => format!(
            "route: HBONE through {tunnel} to gateway {to}, {}",
            route.detail.as_deref().unwrap_or_default()
        ),
        (_, Some(tunnel), _) => format!("route: HBONE through {tunnel} to {to}{at}"),
        ("lookup" | "ask", ..) => {
            format!("route: decided {}", route.detail.as_deref().unwrap_or_default())
        }
        ("local", ..) => format!("route: joined in this agent to {to}{at}"),
        (kind, ..) => format!("route: {kind}, plain TCP to {to}{at}"),
    }
}

/// The first address of the same family as `like`, or simply the first.
fn same_family(addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    let same = addresses.iter().find(|ip| ip.is_ipv4() == like.is_ipv4());
    same.or_else(|| addresses.first()).copied()
}

fn unknown(which: &str, subject: &Subject) -> Failure {
    Failure::new(UNKNOWN_SUBJECT, format!("{which} {subject} is not known to this node"))
}

#[cfg(test)]
mod tests;
