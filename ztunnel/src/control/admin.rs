//! The CLI's requests.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use admin::{
    Drain, Enrol, FLOW_QUEUE_MAX, Failure, Feature, Flow, Handler, Identity, Kernel, Pod,
    PodCounts, PodState, Reply, Request, Response, Status,
};
use authz::UnenforceableDeny;
use enrol::redirection::Choice;
use enrol::{Report, Standing, Switches};
use model::{PodUid, WorkloadKey};
use resolve::SameNode;
use svid::{SvidStatus, SvidStore};
use tls::{CrlStatus, TrustStatus, TrustStore};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::PodSet;
use super::why::why;
use crate::capture::{self, Capturing, DnsCapture, EnrolRequest, PodView};
use crate::config::Config;
use crate::discovery::{Source, SourceStatus};
use crate::enrolment::EnrolmentView;
use crate::flow::Stop;
use crate::mesh::{MeshState, Sync};
use crate::telemetry::Telemetry;

/// Probe ports of one pod; the kernel's settings hold no more.
const PROBE_PORTS_MAX: usize = ebpf_abi::MAX_PROBE_PORTS;

/// Answers the CLI.
pub(crate) struct AdminHandler {
    pub(crate) config: Arc<Config>,
    pub(crate) capture: Capturing,
    pub(crate) mesh: Source,
    pub(crate) svids: SvidStore,
    pub(crate) trust: TrustStore,
    pub(crate) pods: PodSet,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) stop: Stop,
    pub(crate) started: Instant,
    /// Set once Kubernetes says which pods are captured.
    pub(crate) enrolment: Arc<OnceLock<EnrolmentView>>,
}

/// What is wrong with the files of trust, for people.
fn distrust(status: TrustStatus) -> Vec<String> {
    let mut problems = status.problems;
    match status.crl {
        CrlStatus::Unavailable { problem } => problems.push(format!(
            "no revocation list is in force, so every handshake is refused: {problem}"
        )),
        CrlStatus::InForce { expired, problem, .. } => {
            problems.extend(
                problem.map(|problem| {
                    format!("the last good revocation lists are in force: {problem}")
                }),
            );
            if expired > 0 {
                problems.push(format!("{expired} revocation lists in force have expired"));
            }
        }
        CrlStatus::Off => {}
    }
    problems
}

impl Handler for AdminHandler {
    type Request = Request;
    type Response = Response;

    async fn handle(&self, request: Request) -> Reply {
        let result = match request {
            Request::Status => self.status().await,
            Request::Pods => self.list().await.map(Response::Pods),
            Request::Enrol(enrol) => self.enrol(enrol).await,
            Request::Unenrol { uid } => self.unenrol(&uid).await,
            Request::Flows { follow, limit } => return self.flows(follow, limit),
            Request::Why { source, destination } => {
                let mesh = self.mesh.current();
                let ejections = |service: &_| self.telemetry.ejections_of(service);
                let question = (&*source, &*destination);
                why(&self.config, &mesh, &self.pods.current(), &ejections, question)
                    .map(|why| Response::Why(Box::new(why)))
            }
        };
        result.into()
    }
}

impl AdminHandler {
    async fn status(&self) -> Result<Response, Failure> {
        let source = self.mesh.status();
        let mesh = self.mesh.current();
        let counts = |pods: &[Pod], wanted: fn(&PodState) -> bool| {
            count(pods.iter().filter(|pod| wanted(&pod.state)).count())
        };
        let pods = self.list().await?;
        let open: u64 = pods.iter().map(|pod| pod.connections).sum();
        let Choice { mode, reason } = self.capture.choice();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node_name.clone(),
            mode: mode.as_str().to_owned(),
            mode_code: reason.code().to_owned(),
            mode_reason: reason.to_string(),
            mode_limits: mode.limits().iter().map(|&limit| limit.to_owned()).collect(),
            same_node: match self.config.same_node {
                SameNode::Relay => "relay",
                SameNode::Tunnel => "tunnel",
            }
            .to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            kernel: self.kernel(),
            pods: PodCounts {
                total: count(pods.len()),
                verified: counts(&pods, |state| matches!(state, PodState::Verified)),
                degraded: counts(&pods, |state| matches!(state, PodState::Degraded { .. })),
                draining: counts(&pods, |state| matches!(state, PodState::Draining)),
            },
            config: config(source, &mesh),
            unenforceable_deny: match self.config.unenforceable_deny {
                UnenforceableDeny::Deny => "deny",
                UnenforceableDeny::Ignore => "ignore",
            }
            .to_owned(),
            identities: self.svids.list().iter().map(identity).collect(),
            drain: if self.stop.is_draining() {
                let remaining_seconds = self.stop.remaining(self.config.drain).as_secs();
                Drain::Draining { remaining_seconds, connections: open }
            } else {
                Drain::Running
            },
            problems: distrust(self.trust.status())
                .into_iter()
                .chain(self.capture.problem())
                .chain(self.enrolment.get().into_iter().flat_map(EnrolmentView::problems))
                .collect(),
        };
        Ok(Response::Status(Box::new(status)))
    }

    fn kernel(&self) -> Kernel {
        let release = nix::sys::utsname::uname()
            .map_or_else(|_| "unknown".to_owned(), |name| name.release().display().to_string());
        let found = self.capture.features().map(|found| found.ingress_ifindex);
        let feature = |present| Feature { name: "sk_lookup ingress_ifindex".to_owned(), present };
        let features = found.map(feature).into_iter().collect();
        Kernel { release, features }
    }

    async fn list(&self) -> Result<Vec<Pod>, Failure> {
        let capture = self.capture.clone();
        // Each pod is read from the kernel, at some dozen system calls.
        let views = tokio::task::spawn_blocking(move || capture.pods()).await;
        let views = views.map_err(|error| {
            Failure::new("INTERNAL", format!("reading the pods failed: {error}"))
        })?;
        let identities = self.svids.list();
        let mut pods: Vec<_> = views.into_iter().map(|view| self.pod(view, &identities)).collect();
        if let Some(enrolment) = self.enrolment.get() {
            add_reports(&mut pods, &enrolment.told().pods);
        }
        Ok(pods)
    }

    /// Whether the CLI may enrol a pod or let it go. Where Kubernetes says nothing, it may.
    async fn may_change(&self, uid: &PodUid) -> Result<(), Failure> {
        let Some(enrolment) = self.enrolment.get() else { return Ok(()) };
        let may = enrolment.may_others(uid).await;
        may.map_err(|failure| Failure::new(failure.code.as_str(), failure.message))
    }

    fn pod(&self, view: PodView, identities: &[SvidStatus]) -> Pod {
        let id = view.workload.as_ref().and_then(|key| {
            let mesh = self.mesh.current();
            mesh.snapshot.workload_by_key(key).and_then(|workload| workload.identity().ok())
        });
        let identity = identities.iter().find(|status| Some(&status.identity) == id.as_ref());
        let mut counters: BTreeMap<_, _> =
            view.counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        counters.insert("without_original_destination".to_owned(), view.without_destination);
        Pod {
            uid: view.name,
            workload: view.workload.map(|key| key.to_string()).unwrap_or_default(),
            source: view.source.map(|source| source.as_str().to_owned()),
            kernel_verified: view.status == capture::Status::Verified
                && view.hooks == capture::HooksView::Attached,
            code: None,
            desired: view.status != capture::Status::Leaving,
            state: match view.status {
                capture::Status::Enrolling => PodState::Pending,
                capture::Status::Verified => PodState::Verified,
                capture::Status::Degraded(reason) => PodState::Degraded { reason },
                capture::Status::Leaving => PodState::Draining,
            },
            ips: view.addresses,
            cgroup_id: view.cgroup.map_or(0, |(_, id)| id),
            netns_inode: view.netns.map_or(0, |(_, inode)| inode),
            dns: view.dns == DnsCapture::On,
            connections: count(view.open_connections),
            counters,
            identity: identity.map(self::identity),
        }
    }

    async fn enrol(&self, enrol: Enrol) -> Result<Response, Failure> {
        let bad = |message: String| Failure::new(Failure::BAD_REQUEST, message);
        if self.stop.is_draining() {
            return Err(Failure::new(Failure::STOPPING, "the agent is stopping"));
        }
        if enrol.probe_ports.len() > PROBE_PORTS_MAX || enrol.probe_ports.contains(&0) {
            return Err(bad(format!("expected at most {PROBE_PORTS_MAX} probe ports, none 0")));
        }
        let dns = DnsCapture::from(enrol.dns.unwrap_or(self.config.dns_capture));
        if dns == DnsCapture::On && self.config.mesh.is_on_demand() {
            return Err(bad(
                "names are not known with XDS_ON_DEMAND, so none are answered".to_owned()
            ));
        }
        let uid = PodUid::parse(&enrol.uid).map_err(|error| bad(error.to_string()))?;
        let request = EnrolRequest {
            workload: WorkloadKey::parse(&enrol.workload).map_err(|e| bad(e.to_string()))?,
            netns: enrol.netns,
            netns_inode: None,
            cgroup: enrol.cgroup,
            source: enrol::Source::Cli,
            switches: Switches { probe_ports: enrol.probe_ports, ..Switches::default() },
            dns,
            uid: uid.clone(),
        };
        self.may_change(&uid).await?;
        tracing::info!(
            pod = %uid, workload = %request.workload, netns = %request.netns.display(),
            cgroup = request.cgroup.as_deref().map(|path| tracing::field::display(path.display())),
            "asked to enrol a pod"
        );
        self.capture
            .enrol(request)
            .await
            .map_err(|error| Failure::new(error.code.as_str(), error.message))?;
        let pods = self.list().await?;
        match pods.into_iter().find(|pod| pod.uid == uid.as_str()) {
            Some(pod) => Ok(Response::Enrolled(Box::new(pod))),
            None => Err(Failure::new("POD_GONE", format!("pod {uid} left at once"))),
        }
    }

    async fn unenrol(&self, uid: &str) -> Result<Response, Failure> {
        let uid = PodUid::parse(uid)
            .map_err(|error| Failure::new(Failure::BAD_REQUEST, error.to_string()))?;
        // What is left of an enrolment that nobody can read is nobody's; who wants the pod enrols it anew.
        if !self.capture.has_lost_record(&uid) {
            self.may_change(&uid).await?;
        }
        tracing::info!(pod = %uid, "asked to un-enrol a pod");
        self.capture
            .unenrol(&uid)
            .await
            .map_err(|error| Failure::new(error.code.as_str(), error.message))?;
        Ok(Response::Unenrolled(uid.to_string()))
    }

    fn flows(&self, follow: bool, limit: Option<usize>) -> Reply {
        let limit = limit.unwrap_or(usize::MAX);
        let (sender, receiver) = mpsc::channel(FLOW_QUEUE_MAX);
        let ring = self.telemetry.flows();
        let (past, stream) = if follow {
            let (past, stream) = ring.follow(limit);
            (past, Some(stream))
        } else {
            (ring.last(limit), None)
        };
        let event = |flow: &crate::telemetry::Flow| {
            Response::Flow(Box::new(Flow::new(&flow.outcome, flow.at)))
        };
        // Ends when the client hangs up, which drops the receiver, or with the past.
        tokio::spawn(async move {
            for flow in &past {
                if sender.send(event(flow)).await.is_err() {
                    return;
                }
            }
            drop(past);
            let Some(mut stream) = stream else { return };
            loop {
                let next = tokio::select! {
                    next = stream.recv() => next,
                    () = sender.closed() => return,
                };
                let event = match next {
                    Ok(flow) => event(&flow),
                    Err(RecvError::Lagged(missed)) => Response::Missed(missed),
                    Err(RecvError::Closed) => return,
                };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        Reply::flows(receiver)
    }
}

/// Adds what enrolment knows: the code of what is wrong, and pods that are wanted and not captured.
fn add_reports(pods: &mut Vec<Pod>, reports: &[Report]) {
    for report in reports {
        let failure = report.failure.as_ref();
        if let Some(pod) = pods.iter_mut().find(|pod| pod.uid == report.uid.as_str()) {
            pod.code = failure.map(|failure| failure.code.as_str().to_owned());
            pod.desired = pod.desired && report.standing != Standing::Releasing;
            continue;
        }
        let state = match report.standing {
            // Not of the mesh, and not to be.
            Standing::Outside => continue,
            Standing::Failed => PodState::Degraded {
                reason: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
            },
            Standing::Releasing => PodState::Draining,
            Standing::Waiting | Standing::Enrolling | Standing::Verified | Standing::Degraded => {
                PodState::Pending
            }
        };
        pods.push(Pod {
            uid: report.uid.to_string(),
            workload: report.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            desired: report.standing != Standing::Releasing,
            state,
            code: failure.map(|failure| failure.code.as_str().to_owned()),
            ..Pod::default()
        });
    }
    pods.sort_by(|a, b| a.uid.cmp(&b.uid));
}

fn config(source: SourceStatus, mesh: &MeshState) -> admin::Config {
    let now = SystemTime::now();
    let age_seconds = source.control_plane.as_ref().map_or(0, |s| s.staleness(now).as_secs());
    admin::Config {
        source: source.source,
        revision: Some(source.revision.to_string()),
        loaded_unix_ms: source.applied_at.map(unix_ms),
        last_error: source.last_error,
        policies: count(mesh.policies.len()),
        workloads: count(mesh.snapshot.workloads().len()),
        services: count(mesh.snapshot.services().len()),
        sync: match mesh.sync {
            Sync::Waiting => admin::Sync::Waiting,
            Sync::Stored => admin::Sync::Stored { age_seconds },
            Sync::Live => admin::Sync::Live { age_seconds },
            Sync::Complete => admin::Sync::Complete,
        },
        control_plane: source.control_plane.map(|status| admin::ControlPlane {
            connected_unix_ms: status.connected_since.map(unix_ms),
            last_error: status.last_error.map(|error| error.text),
            refused: status.rejected.iter().map(ToString::to_string).collect(),
        }),
    }
}

fn identity(status: &SvidStatus) -> Identity {
    Identity {
        id: status.identity.to_string(),
        expires_unix_ms: status.current.as_ref().map(|svid| unix_ms(svid.not_after())),
        error: status.last_error.clone(),
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
