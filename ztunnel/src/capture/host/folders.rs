//! The folders that kubelets make for pods, in the unified hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use enrol::kubelet_names::{is_kubelet_root, is_pod, is_pod_named, is_qos};
use model::PodUid;

/// Folders between the root of the hierarchy and a pod's: nested nodes and user-given roots included.
const DEPTH_MAX: usize = 12;
/// Folders that are looked at for one pod. A node has some for each pod and service; with more, what was
/// not found counts as not there.
const FOLDERS_MAX: usize = 65_536;

/// The topmost folders of kubelets: `kubepods`, or `kubepods.slice` with whatever before it.
pub(crate) fn kubelet_roots(root: &Path) -> Vec<PathBuf> {
    walk(&[root.to_owned()], |name| if is_kubelet_root(name) { Step::Take } else { Step::Below })
}

/// The folders below `roots` that a kubelet made for a pod. Below any pod's folder nobody looks: that is
/// the pod's to fill.
pub(crate) fn pod_folders(roots: &[PathBuf], uid: &PodUid) -> Vec<PathBuf> {
    walk(roots, |name| {
        if is_pod_named(name, uid) {
            Step::Take
        } else if is_pod(name) || !is_qos(name) {
            Step::Skip
        } else {
            Step::Below
        }
    })
}

enum Step {
    Take,
    Below,
    Skip,
}

fn walk(roots: &[PathBuf], step: impl Fn(&str) -> Step) -> Vec<PathBuf> {
    let mut taken = Vec::new();
    let mut looked = 0;
    let mut level: Vec<PathBuf> = roots.to_vec();
    for _ in 0..DEPTH_MAX {
        let mut below = Vec::new();
        for folder in &level {
            // One that is gone meanwhile has nothing below it.
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries.filter_map(Result::ok) {
                looked += 1;
                if looked > FOLDERS_MAX {
                    tracing::warn!(FOLDERS_MAX, "the node has too many cgroups to look through");
                    return taken;
                }
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                match step(&entry.file_name().to_string_lossy()) {
                    Step::Take => taken.push(entry.path()),
                    Step::Below => below.push(entry.path()),
                    Step::Skip => {}
                }
            }
        }
        if below.is_empty() {
            break;
        }
        level = below;
    }
    taken
}
