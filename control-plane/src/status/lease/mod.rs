//! The lease of the replica that writes: `coordination.k8s.io/v1`.

mod candidate;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use candidate::{Candidate, LEASE, RENEW_DEADLINE, RETRY, Seen, Step};

/// Longest one request about the lease may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A lease lasts no longer than this, whatever its holder wrote: a mistake there must not keep
/// everybody from writing.
const LASTS_MAX: Duration = Duration::from_mins(2);

/// Whether this replica leads. Clones see the same.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Until when this replica may write, if it may now. Ask before each request, and let none last
    /// longer.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until.borrow().filter(|until| Instant::now() < *until)
    }

    /// Waits until this replica leads. Never comes back where it never does. Cancel safe.
    pub async fn acquired(&mut self) {
        while self.until().is_none() {
            if self.until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this replica no longer leads. Cancel safe.
    pub async fn lost(&mut self) {
        while let Some(until) = self.until() {
            tokio::select! {
                // Both are cancel safe: the loop looks again.
                changed = self.until.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

/// A request about the lease failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("{operation} the lease")]
    Request {
        operation: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("{operation} the lease took too long")]
    Timeout { operation: &'static str },
}

/// What stands for election.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    candidate: Candidate,
    until: watch::Sender<Option<Instant>>,
}

/// Stands for election with a lease of that name. `identity` is the replica's own.
#[must_use]
pub fn stand(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
) -> (Election, Leadership) {
    let (sender, until) = watch::channel(None);
    let election = Election {
        leases: Api::namespaced(client, namespace),
        name: name.to_owned(),
        identity: identity.to_owned(),
        candidate: Candidate::new(identity.to_owned()),
        until: sender,
    };
    (election, Leadership { until })
}

impl Election {
    /// Takes the lease whenever it can be had and renews it, until it is cancelled: then gives it
    /// back, so that another replica need not wait.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut outage = None;
        while !shutdown.is_cancelled() {
            let result = self.step().await;
            let now = self.candidate.leads(Instant::now());
            let led = self.until.borrow().is_some();
            if led != now.is_some() {
                let (name, identity) = (&self.name, &self.identity);
                let leads = now.is_some();
                tracing::info!(lease = name, identity, leads, "leadership changed");
            }
            self.until.send_if_modified(|until| std::mem::replace(until, now) != now);
            match result {
                Ok(()) => outage = None,
                Err(error) => {
                    let text = error.to_string();
                    if outage.as_ref() != Some(&text) {
                        let error: &(dyn std::error::Error + 'static) = &error;
                        tracing::warn!(error, "the lease is out of reach");
                        outage = Some(text);
                    }
                }
            }
            let wait = RETRY.mul_f64(rand::random_range(0.75..=1.0));
            // Cancelling a wait is safe.
            let _ = shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        self.release().await;
    }

    async fn step(&mut self) -> Result<(), LeaseError> {
        let lease = within("reading", self.leases.get_opt(&self.name)).await?;
        let seen = lease.as_ref().map(seen);
        let began = Instant::now();
        let step = self.candidate.see(seen.as_ref(), began);
        let written = match (step, lease) {
            (Step::Wait, _) => return Ok(()),
            (Step::Create, _) | (_, None) => {
                let lease = self.lease(None, step);
                within("making", self.leases.create(&PostParams::default(), &lease)).await
            }
            (Step::Take | Step::Renew, Some(lease)) => {
                let lease = self.lease(Some(lease), step);
                let parameters = PostParams::default();
                let replace = self.leases.replace(&self.name, &parameters, &lease);
                within("writing", replace).await
            }
        };
        match written {
            Ok(_) => {
                self.candidate.wrote(began);
                Ok(())
            }
            // Another one was faster: what it did is seen next time.
            Err(LeaseError::Request { source: kube::Error::Api(status), .. })
                if status.code == 409 =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The lease as ours. Its version makes the server refuse it if it changed since it was read.
    fn lease(&self, before: Option<Lease>, step: Step) -> Lease {
        let mut lease = before.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let now = MicroTime(Timestamp::now());
        let before = lease.spec.take().unwrap_or_default();
        let (acquire_time, transitions) = if step == Step::Renew {
            (before.acquire_time, before.lease_transitions.unwrap_or(0))
        } else {
            let before = before.lease_transitions.map_or(0, |count| count.saturating_add(1));
            (Some(now.clone()), before)
        };
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time,
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        lease
    }

    async fn release(&mut self) {
        let held = self.candidate.leads(Instant::now()).is_some();
        self.candidate.lose();
        self.until.send_replace(None);
        if !held {
            return;
        }
        let released = async {
            let lease = within("reading", self.leases.get_opt(&self.name)).await?;
            let Some(mut lease) = lease.filter(|lease| seen(lease).holder == self.identity) else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = None;
            }
            let parameters = PostParams::default();
            let replace = self.leases.replace(&self.name, &parameters, &lease);
            within("giving back", replace).await.map(drop)
        };
        if let Err(error) = released.await {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(
                error,
                "the lease was not given back: another replica waits for its end"
            );
        }
    }
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let lasts = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Seen {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        lasts: lasts.map_or(LEASE, Duration::from_secs).min(LASTS_MAX),
    }
}

async fn within<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LeaseError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result.map_err(|source| LeaseError::Request { operation, source }),
        Err(_) => Err(LeaseError::Timeout { operation }),
    }
}
