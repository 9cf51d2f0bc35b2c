//! What kubelets call the cgroups of pods, in both of their layouts (cgroupfs and systemd) and in whichever
//! hierarchy.

use model::PodUid;

/// Whether a folder of this name holds a kubelet's pods.
#[must_use]
pub fn is_kubelet_root(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// Whether it is between a kubelet's root and its pods.
#[must_use]
pub fn is_qos(name: &str) -> bool {
    ["burstable", "besteffort", "guaranteed"].iter().any(|qos| {
        name == *qos
            || name.strip_suffix(".slice").is_some_and(|name| name.ends_with(&format!("-{qos}")))
    })
}

/// Whether it is the folder of some pod.
#[must_use]
pub fn is_pod(name: &str) -> bool {
    name.starts_with("pod") || name.contains("-pod")
}

/// Whether it is the folder of this pod.
#[must_use]
pub fn is_pod_named(name: &str, uid: &PodUid) -> bool {
    let uid = uid.as_str();
    name.strip_prefix("pod") == Some(uid) || {
        // systemd takes `-` for the nesting of slices, so the uid has `_` there.
        name.ends_with(&format!("-pod{}.slice", uid.replace('-', "_")))
    }
}

/// The name of the pod's folder that a cgroup's path leads through: below the topmost folder of a kubelet.
/// What is further down is the pod's to fill, and means nothing.
#[must_use]
pub fn pod_in_path(path: &str) -> Option<&str> {
    let mut names = path.split('/');
    names.find(|name| is_kubelet_root(name))?;
    names.find(|name| !is_qos(name)).filter(|name| is_pod(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_one_pod_at_most() {
        for (path, expected) in [
            ("/kubepods/podaaaa-1/c1", Some("podaaaa-1")),
            ("/kubepods/burstable/podaaaa-1", Some("podaaaa-1")),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podaaaa_1.slice/x.scope",
                Some("kubepods-besteffort-podaaaa_1.slice"),
            ),
            ("/system.slice/k3s.service/kubepods/podaaaa-1/c", Some("podaaaa-1")),
            // A pod made the rest itself.
            ("/kubepods/podaaaa-1/kubepods/podbbbb-2", Some("podaaaa-1")),
            ("/kubepods/podaaaa-1/podbbbb-2", Some("podaaaa-1")),
            ("/kubepods/burstable", None),
            ("/kubepods/other/podaaaa-1", None),
            ("/podaaaa-1", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(pod_in_path(path), expected, "{path}");
        }
    }

    #[test]
    fn a_folder_names_its_pod_in_both_layouts() {
        let uid = PodUid::parse("aaaa-1").expect("a uid");
        for (name, expected) in [
            ("podaaaa-1", true),
            ("kubepods-podaaaa_1.slice", true),
            ("kubepods-burstable-podaaaa_1.slice", true),
            ("podaaaa-11", false),
            ("podaaaa_1", false),
            ("aaaa-1", false),
            ("kubepods-podbaaaa_1.slice", false),
        ] {
            assert_eq!(is_pod_named(name, &uid), expected, "{name}");
        }
    }
}
