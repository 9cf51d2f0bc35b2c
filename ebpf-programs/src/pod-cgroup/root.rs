//! Hooks on the root of the hierarchy: the same programs as on a pod's cgroup, with a constant set. They see
//! every socket of the node, so what belongs to no pod costs one look into a map at most, and those who serve
//! pods in pods' namespaces have to be told from the pods' own.

use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use ebpf_abi::{Roles, connect::Hooked};
use ebpf_programs::access::only;

use crate::maps::{AT_ROOT, NEUTRAL, ROLES};

/// Where these programs are attached.
#[inline(always)]
pub fn hooked() -> Hooked {
    if is_here() { Hooked::Root } else { Hooked::Pod }
}

#[inline(always)]
pub fn is_here() -> bool {
    AT_ROOT.load() != 0
}

/// Whether the running task is left alone in a pod's namespace. On a pod's cgroup nobody is.
#[inline(always)]
pub fn is_exempt() -> bool {
    if !is_here() {
        return false;
    }
    // SAFETY: arrays of one Roles and of one u64; the helper takes nothing.
    unsafe {
        let Some(roles) = only::<_, Roles>(&ROLES) else { return false };
        let Some(neutral) = only::<_, u64>(&NEUTRAL) else { return false };
        roles.as_ref().is_exempt(bpf_get_current_cgroup_id(), *neutral.as_ref())
    }
}
