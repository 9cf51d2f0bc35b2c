//! The taint that keeps pods from a node until its agent is verified.
//!
//! Whoever registers nodes gives it to them: the kubelet (`--register-with-taints`) or an autoscaler. The
//! agent takes it away, and no other one.

/// Its key.
pub const NOT_READY_TAINT: &str = "warren.dev/not-ready";

/// What an agent has proved. That it loaded its hooks and tested the pods of an earlier one goes without
/// saying: otherwise nothing asks. One of those that failed keeps its hooks, and no other pod waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The pods of this node and all namespaces, from the API server.
    pub api: ApiProof,
    /// The plugin that holds new pods.
    pub plugin: PluginProof,
}

/// How well the API server is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiProof {
    /// Not everything was read once.
    Unread,
    /// It was read, and cannot be followed now.
    Behind,
    /// It is followed.
    Followed,
}

/// Whether a new pod is held until it is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginProof {
    /// The plugin is not where the runtime would call it.
    Missing,
    /// It is there.
    Installed,
    /// Putting it there is somebody else's business.
    NotOurs,
}

/// What an agent that is not verified waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// [`ApiProof::Unread`] or [`ApiProof::Behind`].
    Api,
    /// [`PluginProof::Missing`].
    Plugin,
}

impl Proof {
    /// The first thing that is not proved; `None`: pods may come. The control plane does not count: its own
    /// pods may wait for the node.
    #[must_use]
    pub fn lacks(self) -> Option<Unproved> {
        match (self.api, self.plugin) {
            (ApiProof::Unread | ApiProof::Behind, _) => Some(Unproved::Api),
            (ApiProof::Followed, PluginProof::Missing) => Some(Unproved::Plugin),
            (ApiProof::Followed, PluginProof::Installed | PluginProof::NotOurs) => None,
        }
    }
}

/// Which of a node's taints, by their keys, are to be removed: their places, the last one first, so that
/// removing one moves no other. One key may have a taint for each effect.
#[must_use]
pub fn taint_removals<'k>(keys: impl IntoIterator<Item = &'k str>) -> Vec<usize> {
    let all = keys.into_iter().enumerate();
    let mut places: Vec<_> =
        all.filter(|(_, key)| *key == NOT_READY_TAINT).map(|(place, _)| place).collect();
    places.reverse();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_may_come_once_everything_is_proved() {
        use ApiProof::{Behind, Followed, Unread};
        use PluginProof::{Installed, Missing, NotOurs};
        let cases = [
            (Unread, Missing, Some(Unproved::Api)),
            (Unread, Installed, Some(Unproved::Api)),
            (Unread, NotOurs, Some(Unproved::Api)),
            (Behind, Missing, Some(Unproved::Api)),
            (Behind, Installed, Some(Unproved::Api)),
            (Behind, NotOurs, Some(Unproved::Api)),
            (Followed, Missing, Some(Unproved::Plugin)),
            (Followed, Installed, None),
            (Followed, NotOurs, None),
        ];
        for (api, plugin, lacks) in cases {
            assert_eq!(Proof { api, plugin }.lacks(), lacks, "{api:?}, {plugin:?}");
        }
    }

    #[test]
    fn only_this_taint_is_removed_whatever_its_effects() {
        assert!(taint_removals([]).is_empty());
        assert!(taint_removals(["node.kubernetes.io/unreachable", "warren.dev/other"]).is_empty());
        let keys = [NOT_READY_TAINT, "a", NOT_READY_TAINT, "warren.dev/not-ready-yet"];
        assert_eq!(taint_removals(keys), [2, 0]);
    }
}
