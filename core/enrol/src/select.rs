//! Which pods are wanted in the mesh.

use std::collections::BTreeSet;

use cluster::{Namespace, Pod, Text};

/// The label of namespaces and pods.
pub const AMBIENT_LABEL: &str = "istio.io/dataplane-mode";
/// A pod that has it has a proxy of its own.
pub const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";

const AMBIENT: &str = "ambient";
const NONE: &str = "none";

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It belongs into the mesh.
    Selected,
    /// It does not.
    Refused(Refused),
    /// Its namespace is not known, and would decide.
    Undecided,
}

/// Why a pod is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refused {
    /// Nobody asks for it.
    NotLabelled,
    /// Its own label says `none`.
    OptedOut,
    /// It has no network namespace of its own.
    HostNetwork,
    /// It has a sidecar.
    Sidecar,
    /// Its namespace is excluded by the agent's configuration.
    ExcludedNamespace,
    /// It has ended for good.
    Ended,
    /// It comes from a file on the node: its kubelet knows it by a uid that the API server does not
    /// vouch for.
    Static,
}

impl Refused {
    /// The word in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotLabelled => "not labelled",
            Self::OptedOut => "opted out",
            Self::HostNetwork => "host network",
            Self::Sidecar => "has a sidecar",
            Self::ExcludedNamespace => "excluded namespace",
            Self::Ended => "ended",
            Self::Static => "static pod",
        }
    }

    /// Whether it is said, and not just left open: then nobody else may enrol the pod either.
    #[must_use]
    pub fn is_said(self) -> bool {
        match self {
            Self::NotLabelled => false,
            Self::OptedOut
            | Self::HostNetwork
            | Self::Sidecar
            | Self::ExcludedNamespace
            | Self::Ended
            | Self::Static => true,
        }
    }
}

/// Whether a pod belongs into the mesh. Its own label outranks its namespace's.
#[must_use]
pub fn select(pod: &Pod, namespace: Option<&Namespace>, excluded: &BTreeSet<Text>) -> Selection {
    let refused = |why| Selection::Refused(why);
    if excluded.contains(&pod.metadata.namespace) {
        return refused(Refused::ExcludedNamespace);
    }
    if pod.is_static() {
        return refused(Refused::Static);
    }
    if pod.spec.host_network {
        return refused(Refused::HostNetwork);
    }
    if pod.metadata.annotation(SIDECAR_ANNOTATION).is_some() {
        return refused(Refused::Sidecar);
    }
    if pod.has_ended() {
        return refused(Refused::Ended);
    }
    let label = pod.metadata.label(AMBIENT_LABEL);
    if label == Some(NONE) {
        return refused(Refused::OptedOut);
    }
    // Also where the pod's label decides: exclusions come from the namespace.
    let Some(namespace) = namespace else { return Selection::Undecided };
    if label == Some(AMBIENT) || namespace.metadata.label(AMBIENT_LABEL) == Some(AMBIENT) {
        return Selection::Selected;
    }
    refused(Refused::NotLabelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: &str) -> Pod {
        serde_json::from_str(json).expect(json)
    }

    fn check(pod_json: &str, labels: &str, expected: Selection) {
        let namespace: Namespace =
            serde_json::from_str(&format!(r#"{{"metadata":{{"name":"shop","labels":{labels}}}}}"#))
                .expect(labels);
        let excluded = BTreeSet::from(["kube-system".into()]);
        assert_eq!(select(&pod(pod_json), Some(&namespace), &excluded), expected, "{pod_json}");
    }

    const AMBIENT_NS: &str = r#"{"istio.io/dataplane-mode":"ambient"}"#;
    const PLAIN_NS: &str = "{}";

    #[test]
    fn the_pods_label_outranks_the_namespaces() {
        let labelled = |value: &str| {
            format!(
                r#"{{"metadata":{{"namespace":"shop","labels":{{"istio.io/dataplane-mode":"{value}"}}}}}}"#
            )
        };
        let plain = r#"{"metadata":{"namespace":"shop"}}"#;
        let not_labelled = Selection::Refused(Refused::NotLabelled);
        let opted_out = Selection::Refused(Refused::OptedOut);
        check(plain, AMBIENT_NS, Selection::Selected);
        check(plain, PLAIN_NS, not_labelled);
        check(plain, r#"{"istio.io/dataplane-mode":"none"}"#, not_labelled);
        check(&labelled("ambient"), PLAIN_NS, Selection::Selected);
        check(&labelled("none"), AMBIENT_NS, opted_out);
        check(&labelled("none"), PLAIN_NS, opted_out);
        check(&labelled("other"), AMBIENT_NS, Selection::Selected);
        check(&labelled("other"), PLAIN_NS, not_labelled);
    }

    #[test]
    fn some_pods_are_never_wanted() {
        for (json, why) in [
            (r#"{"spec":{"hostNetwork":true}}"#, Refused::HostNetwork),
            (r#"{"metadata":{"annotations":{"sidecar.istio.io/status":"{}"}}}"#, Refused::Sidecar),
            (r#"{"metadata":{"namespace":"kube-system"}}"#, Refused::ExcludedNamespace),
            (r#"{"status":{"phase":"Succeeded"}}"#, Refused::Ended),
            (r#"{"status":{"phase":"Failed"}}"#, Refused::Ended),
            (
                r#"{"metadata":{"annotations":{"kubernetes.io/config.mirror":"x"}}}"#,
                Refused::Static,
            ),
        ] {
            check(json, AMBIENT_NS, Selection::Refused(why));
        }
    }

    #[test]
    fn without_its_namespace_only_a_refusal_is_certain() {
        let excluded = BTreeSet::new();
        let ambient = r#"{"metadata":{"labels":{"istio.io/dataplane-mode":"ambient"}}}"#;
        assert_eq!(select(&pod(ambient), None, &excluded), Selection::Undecided);
        assert_eq!(select(&pod("{}"), None, &excluded), Selection::Undecided);
        let host = pod(r#"{"spec":{"hostNetwork":true}}"#);
        let refused = Selection::Refused(Refused::HostNetwork);
        assert_eq!(select(&host, None, &excluded), refused);
    }
}
