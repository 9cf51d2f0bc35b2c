//! Acting on the node, through capture.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enrol::{Actual, Captured, Code, Failure, State, Wanted};
use model::PodUid;

use super::find::{Finder, Found};
use crate::capture::{Capture, EnrolRequest, Enrolled, Rest, Status};

/// Looks at a pod before what it shows counts as a contradiction.
const CONFLICT_LOOKS: u32 = 3;
/// Between two of them: longer than a list of processes is used.
const CONFLICT_PAUSE: Duration = Duration::from_millis(150);

/// What a driver needs of the node.
pub(super) trait Kernel: Send + Sync + 'static {
    /// What is captured. Blocks for some system calls a pod.
    fn actual(&self) -> Actual;
    /// Finds a pod and captures it.
    fn enrol(&self, wanted: Wanted) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Tells a captured pod's kernel other switches.
    fn update(&self, wanted: Wanted) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Lets a pod go.
    fn release(&self, uid: PodUid, rest: Rest) -> impl Future<Output = Result<(), Failure>> + Send;
    /// What a runtime's path of a network namespace is here, and what it names. Blocks for some calls.
    fn netns(&self, path: &Path) -> Result<(PathBuf, u64), Failure>;
}

/// Capture, and the one who finds what is to be captured.
pub(super) struct Captor {
    capture: Capture,
    finder: Arc<Finder>,
}

impl Captor {
    pub(super) fn new(capture: Capture, finder: Finder) -> Self {
        Self { capture, finder: Arc::new(finder) }
    }

    /// Finds a pod. A container that just starts is in the pod's cgroup a moment before it is in the pod's
    /// namespace, so a contradiction must last.
    async fn find(&self, wanted: &Wanted) -> Result<Found, Failure> {
        let mut looks = 1;
        loop {
            match self.look(wanted).await {
                Err(failure)
                    if failure.code == Code::IdentityConflict && looks < CONFLICT_LOOKS =>
                {
                    looks += 1;
                    tokio::time::sleep(CONFLICT_PAUSE).await;
                }
                found => return found,
            }
        }
    }

    async fn look(&self, wanted: &Wanted) -> Result<Found, Failure> {
        let (finder, wanted) = (Arc::clone(&self.finder), wanted.clone());
        let found = tokio::task::spawn_blocking(move || finder.find(&wanted)).await;
        found.unwrap_or_else(|error| {
            Err(Failure::new(Code::PodNotFound, format!("looking for it failed: {error}")))
        })
    }
}

impl Kernel for Captor {
    fn actual(&self) -> Actual {
        self.capture.enrolled().into_iter().map(captured).collect()
    }

    async fn enrol(&self, wanted: Wanted) -> Result<(), Failure> {
        let found = self.find(&wanted).await?;
        let request = EnrolRequest {
            uid: wanted.uid,
            workload: wanted.workload,
            netns: found.netns,
            netns_inode: Some(found.netns_inode),
            cgroup: found.cgroup,
            source: wanted.source,
            switches: wanted.switches,
            dns: wanted.dns.into(),
        };
        self.capture.enrol(request).await
    }

    async fn update(&self, wanted: Wanted) -> Result<(), Failure> {
        // Not looked for: the hooks are bound to the cgroup and the namespace that were found when it was
        // enrolled, and what the pod shows since then must not keep its old exclusions.
        self.capture.update(&wanted.uid, wanted.source, wanted.switches).await
    }

    async fn release(&self, uid: PodUid, rest: Rest) -> Result<(), Failure> {
        match self.capture.unenrol(&uid, rest).await {
            // It has vanished by itself.
            Err(failure) if failure.code == Code::UnknownPod => Ok(()),
            result => result,
        }
    }

    fn netns(&self, path: &Path) -> Result<(PathBuf, u64), Failure> {
        self.finder.netns(path)
    }
}

fn captured(enrolled: Enrolled) -> (PodUid, Captured) {
    let captured = Captured {
        source: enrolled.source,
        state: match enrolled.status {
            Status::Enrolling => State::Enrolling,
            Status::Verified => State::Verified,
            Status::Degraded(reason) => State::Degraded(reason),
            Status::Leaving => State::Leaving,
        },
        netns: enrolled.netns_inode,
        place: enrolled.place,
        switches: enrolled.switches,
    };
    (enrolled.uid, captured)
}
