//! What becomes of a sandbox that a container runtime asks about.
//!
//! A sandbox is outside the mesh only if that is certain: by its namespace's name, or by what the API
//! server says of its pod. Everything else waits for capture, or is refused.

use std::collections::BTreeSet;

use cluster::{Namespace, Pod, Text};
use model::PodUid;

use crate::select::{Selection, select};
use crate::{Code, Failure, OnFailure};

/// A pod by the runtime's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The instance.
    pub uid: &'a str,
}

/// What becomes of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is not in the mesh.
    Passes,
    /// It starts once its pod is captured.
    Captured(Box<Expected>),
}

/// A pod whose sandbox waits for its capture, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The instance.
    pub uid: PodUid,
    /// The pod.
    pub pod: Pod,
    /// Its namespace.
    pub namespace: Namespace,
}

/// How the wait for a sandbox's capture ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod is captured.
    Captured,
    /// It starts uncaptured, as its namespace wants; the failure is why.
    Outside(Failure),
    /// It does not start.
    Refused(Failure),
}

impl Asked<'_> {
    /// Whether the namespace's name alone says that its pods are never in the mesh. They start though
    /// the API server is away: it may run there itself.
    #[must_use]
    pub fn is_excluded(&self, excluded: &BTreeSet<Text>) -> bool {
        excluded.contains(self.namespace)
    }

    /// Judges by what the API server says of the pod and its namespace; `None`: there is none.
    pub fn admit(
        &self,
        pod: Option<Pod>,
        namespace: Option<Namespace>,
        excluded: &BTreeSet<Text>,
    ) -> Result<Admission, Failure> {
        let Self { namespace: home, name, uid } = self;
        let gone = |what: String| Failure::new(Code::PodGone, format!("there is no {what}"));
        let pod = pod.ok_or_else(|| gone(format!("pod {home}/{name}")))?;
        let namespace = namespace.ok_or_else(|| gone(format!("namespace {home}")))?;
        // The runtime has the UID of the kubelet's file, the API server that of a mirror.
        if pod.is_static() {
            return Ok(Admission::Passes);
        }
        if *pod.metadata.uid != **uid {
            let message = format!("{home}/{name} has uid {} now, not {uid}", pod.metadata.uid);
            return Err(Failure::new(Code::IdentityConflict, message));
        }
        match select(&pod, Some(&namespace), excluded) {
            Selection::Refused(_) => Ok(Admission::Passes),
            Selection::Selected | Selection::Undecided => {
                let uid = PodUid::parse(uid)
                    .map_err(|error| Failure::new(Code::IdentityConflict, error.to_string()))?;
                Ok(Admission::Captured(Box::new(Expected { uid, pod, namespace })))
            }
        }
    }
}

impl Outcome {
    /// Judges the end of a wait by what the namespace wants.
    #[must_use]
    pub fn of(captured: Result<(), Failure>, on_failure: OnFailure) -> Self {
        match (captured, on_failure) {
            (Ok(()), _) => Self::Captured,
            (Err(failure), OnFailure::Open) => Self::Outside(failure),
            (Err(failure), OnFailure::Closed) => Self::Refused(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "4a9b64f0-0000-4000-8000-000000000001";
    const ASKED: Asked<'static> = Asked { namespace: "shop", name: "cart", uid: UID };

    fn pod(uid: &str, more: &str) -> Pod {
        let json =
            format!(r#"{{"metadata":{{"namespace":"shop","name":"cart","uid":"{uid}"{more}}}}}"#);
        serde_json::from_str(&json).expect(&json)
    }

    fn namespace(mode: &str) -> Namespace {
        let json = format!(
            r#"{{"metadata":{{"name":"shop","labels":{{"istio.io/dataplane-mode":"{mode}"}}}}}}"#
        );
        serde_json::from_str(&json).expect(&json)
    }

    /// Whether a pod waits, or why it is refused.
    fn waits(result: Result<Admission, Failure>) -> Result<bool, Code> {
        match result {
            Ok(Admission::Captured(expected)) => {
                assert_eq!(expected.uid.as_str(), UID);
                Ok(true)
            }
            Ok(Admission::Passes) => Ok(false),
            Err(failure) => Err(failure.code),
        }
    }

    #[test]
    fn only_what_is_certainly_outside_passes() {
        let excluded = BTreeSet::from(["kube-system".into()]);
        let mirror = r#","annotations":{"kubernetes.io/config.mirror":"x"}"#;
        let other = "4a9b64f0-0000-4000-8000-000000000002";
        for (pod, namespace, expected) in [
            (Some(pod(UID, "")), Some(namespace("ambient")), Ok(true)),
            (Some(pod(UID, "")), Some(namespace("none")), Ok(false)),
            (Some(pod(other, mirror)), Some(namespace("ambient")), Ok(false)),
            // Another pod of the name: what the runtime starts is not what the API server has.
            (Some(pod(other, "")), Some(namespace("ambient")), Err(Code::IdentityConflict)),
            (None, Some(namespace("ambient")), Err(Code::PodGone)),
            (Some(pod(UID, "")), None, Err(Code::PodGone)),
        ] {
            let what = format!("{pod:?} {namespace:?}");
            assert_eq!(waits(ASKED.admit(pod, namespace, &excluded)), expected, "{what}");
        }
        assert!(!ASKED.is_excluded(&excluded));
        assert!(Asked { namespace: "kube-system", ..ASKED }.is_excluded(&excluded));
    }

    #[test]
    fn a_uid_that_is_none_is_refused_and_not_passed() {
        let asked = Asked { uid: "../escape", ..ASKED };
        let (pod, namespace) = (pod("../escape", ""), namespace("ambient"));
        let admitted = asked.admit(Some(pod), Some(namespace), &BTreeSet::new());
        assert_eq!(waits(admitted), Err(Code::IdentityConflict));
    }

    #[test]
    fn only_a_namespace_lets_a_pod_start_outside() {
        let failure = Failure::new(Code::TooLate, "25 s");
        let ended = |on_failure| Outcome::of(Err(failure.clone()), on_failure);
        assert_eq!(ended(OnFailure::Closed), Outcome::Refused(failure.clone()));
        assert_eq!(ended(OnFailure::Open), Outcome::Outside(failure.clone()));
        assert_eq!(Outcome::of(Ok(()), OnFailure::Open), Outcome::Captured);
    }
}
