//! Who says which pods are captured, and where the host is for an agent in a pod.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::schema;
use super::values::{self, Reader};

/// Namespaces in `WARREN_EXCLUDED_NAMESPACES`; each is written into the plugin's configuration.
const NAMESPACES_MAX: usize = 256;
/// Where hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The unified one, where the old ones are beside it.
const UNIFIED: &str = "unified";

/// Who says which pods are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// The CLI alone.
    Local,
    /// Kubernetes: labels by the API server, sandboxes by the CNI plugin. And the CLI, where these are
    /// silent.
    Kubernetes(Box<KubernetesSettings>),
}

/// What enrolment on Kubernetes is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// Namespaces whose pods are never captured.
    pub excluded_namespaces: BTreeSet<String>,
    /// The host's `/proc`.
    pub host_proc: PathBuf,
    /// The root of the host's unified hierarchy.
    pub host_cgroup: PathBuf,
    /// Where the runtime keeps named network namespaces.
    pub netns_dir: PathBuf,
    /// Where the plugin asks.
    pub cni_socket: PathBuf,
    /// Whether the taint of a node whose agent is not verified is taken from this one.
    pub node_taint: bool,
    /// Where the plugin goes; `None`: it is installed by somebody else.
    pub cni: Option<CniPlaces>,
}

/// Where the plugin goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniPlaces {
    /// The folder of network configurations.
    pub conf_dir: PathBuf,
    /// The folder of plugins.
    pub bin_dir: PathBuf,
    /// The plugin to copy there.
    pub program: PathBuf,
}

pub(super) fn enrolment(r: &mut Reader<'_>, host_cgroup: Option<PathBuf>) -> Option<Enrolment> {
    let mode = r.parse(&schema::WARREN_ENROLMENT, mode);
    let excluded = r.parse(&schema::WARREN_EXCLUDED_NAMESPACES, namespaces);
    let release = r.parse(&schema::POD_NAMESPACE, values::text);
    let host_proc = r.parse(&schema::WARREN_HOST_PROC, values::path);
    let netns_dir = r.parse(&schema::WARREN_HOST_NETNS_DIR, values::path);
    let cni_socket = r.parse(&schema::WARREN_CNI_SOCKET, values::path);
    let conf_dir = r.optional(&schema::WARREN_CNI_CONF_DIR, values::path);
    let bin_dir = r.optional(&schema::WARREN_CNI_BIN_DIR, values::path);
    let program = r.parse(&schema::WARREN_CNI_PROGRAM, values::path);
    let node_taint = r.parse(&schema::WARREN_NODE_TAINT, values::boolean);
    match mode? {
        Mode::Local => return Some(Enrolment::Local),
        Mode::Kubernetes => {}
    }
    let mut excluded_namespaces = excluded?;
    // A node that comes up must be able to start its agent.
    excluded_namespaces.extend(Some(release?).filter(|name| !name.is_empty()));
    let cni = match (conf_dir?, bin_dir?) {
        (None, None) => None,
        (Some(conf_dir), Some(bin_dir)) => Some(CniPlaces { conf_dir, bin_dir, program: program? }),
        (Some(_), None) => {
            r.refuse_set(&schema::WARREN_CNI_BIN_DIR, "must be set with WARREN_CNI_CONF_DIR");
            return None;
        }
        (None, Some(_)) => {
            r.refuse_set(&schema::WARREN_CNI_CONF_DIR, "must be set with WARREN_CNI_BIN_DIR");
            return None;
        }
    };
    Some(Enrolment::Kubernetes(Box::new(KubernetesSettings {
        excluded_namespaces,
        host_proc: host_proc?,
        host_cgroup: host_cgroup?,
        netns_dir: netns_dir?,
        cni_socket: cni_socket?,
        node_taint: node_taint?,
        cni,
    })))
}

enum Mode {
    Local,
    Kubernetes,
}

fn mode(value: &str) -> Result<Mode, String> {
    match value {
        "local" => Ok(Mode::Local),
        "kubernetes" => Ok(Mode::Kubernetes),
        _ => Err("expected local or kubernetes".to_owned()),
    }
}

/// Kubernetes' namespaces: DNS labels (RFC 1123).
fn namespaces(value: &str) -> Result<BTreeSet<String>, String> {
    let is_label = |name: &str| {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        name.len() <= 63
            && name.bytes().all(inside)
            && !name.starts_with('-')
            && !name.ends_with('-')
    };
    let mut names = BTreeSet::new();
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !is_label(name) {
            return Err(format!("{name:?} is not a namespace"));
        }
        names.insert(name.to_owned());
    }
    if names.len() > NAMESPACES_MAX {
        return Err(format!("expected at most {NAMESPACES_MAX} namespaces"));
    }
    Ok(names)
}

/// The root of the unified hierarchy: the folder itself, or below it where the old ones are there too. Nodes
/// of one cluster may differ in that.
pub(super) fn cgroup_root(given: Option<PathBuf>) -> PathBuf {
    let folder = given.unwrap_or_else(|| CGROUPS.into());
    let below = folder.join(UNIFIED);
    // What is cgroup2 has this file at its root.
    let is_root = |path: &Path| path.join("cgroup.procs").exists();
    if !is_root(&folder) && is_root(&below) { below } else { folder }
}

/// A cgroup that was named below the folder of hierarchies, in the unified one.
pub(super) fn below_root(path: PathBuf, root: &Path) -> PathBuf {
    let folder = root.parent().filter(|_| root.ends_with(UNIFIED) && !path.starts_with(root));
    match folder.and_then(|folder| path.strip_prefix(folder).ok()) {
        Some(relative) => root.join(relative),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_in_the_unified_hierarchy_wherever_that_is() {
        for (root, path, expected) in [
            ("/host/cgroup", "/host/cgroup/kubelet", "/host/cgroup/kubelet"),
            ("/host/cgroup/unified", "/host/cgroup/a/k3s", "/host/cgroup/unified/a/k3s"),
            ("/host/cgroup/unified", "/host/cgroup/unified/k3s", "/host/cgroup/unified/k3s"),
            ("/host/cgroup/unified", "/elsewhere/k3s", "/elsewhere/k3s"),
        ] {
            assert_eq!(below_root(path.into(), Path::new(root)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn the_root_is_where_the_unified_hierarchy_is() {
        let top = tempfile::tempdir().expect("a folder");
        let given = || cgroup_root(Some(top.path().to_owned()));
        assert_eq!(given(), top.path(), "neither: the error names what was given");
        let beside = top.path().join("unified");
        std::fs::create_dir(&beside).expect("a folder");
        std::fs::write(beside.join("cgroup.procs"), "").expect("a file");
        assert_eq!(given(), beside);
        std::fs::write(top.path().join("cgroup.procs"), "").expect("a file");
        assert_eq!(given(), top.path(), "a cgroup that is called so");
    }
}
