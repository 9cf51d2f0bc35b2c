//! Which pods of a node are captured: desired against actual, and what to do about the difference.
//!
//! [`select()`] says which pods are wanted, [`Switches`] how, and [`Asked::admit`] what becomes of a sandbox
//! before its pod runs. [`Reconciler`] holds what the API server
//! and the container runtime said, is shown what the kernel has, and answers with [`Action`]s. It keeps
//! no memory of what was achieved: a difference is a difference until the kernel shows none. Time is an
//! argument. [`redirection`] chooses how a node captures at all.

mod admit;
mod code;
pub mod kubelet_names;
mod reconcile;
pub mod redirection;
mod select;
mod switches;
mod taint;

pub use admit::{Admission, Asked, Expected, Outcome};
pub use code::{Code, Failure};
pub use reconcile::{
    Act, Action, Actual, Captured, Event, EventKind, Place, Reconciler, Report, Sandbox, Settings,
    Source, Standing, State, Target, Wanted, Why,
};
pub use select::{AMBIENT_LABEL, Refused, SIDECAR_ANNOTATION, Selection, select};
pub use switches::{
    EXCLUDED_CIDRS_MAX, Inbound, NamespaceSwitches, OnFailure, PORTS_MAX, Switches,
};
pub use taint::{ApiProof, NOT_READY_TAINT, PluginProof, Proof, Unproved, taint_removals};

/// The annotation by which a control plane learns that a pod takes HBONE.
pub const REDIRECTION_ANNOTATION: &str = "ambient.istio.io/redirection";
/// Its value.
pub const REDIRECTION_ENABLED: &str = "enabled";
