//! What the API server tells, given to the reconciler.

use std::time::Instant;

use api_server::{Change, RawValue};
use cluster::object::Kind;
use cluster::{Namespace, Object, Pod};
use enrol::Reconciler;
use model::PodUid;

/// A change of this node's pods.
pub(super) fn pods(reconciler: &mut Reconciler, change: Change, now: Instant) {
    match change {
        Change::Replace(objects) => {
            reconciler.replace_pods(objects.iter().filter_map(|object| pod(object)), now);
        }
        Change::Upsert(object) => {
            if let Some(pod) = pod(&object) {
                reconciler.upsert_pod(pod);
            }
        }
        Change::Remove(object) => {
            let uid = pod(&object).and_then(|pod| PodUid::parse(&pod.metadata.uid).ok());
            if let Some(uid) = uid {
                reconciler.remove_pod(&uid);
            }
        }
        Change::Away(why) => away("pods", &why),
    }
}

/// A change of the namespaces.
pub(super) fn namespaces(reconciler: &mut Reconciler, change: Change, now: Instant) {
    match change {
        Change::Replace(objects) => {
            let read = objects.iter().filter_map(|object| namespace(object));
            reconciler.replace_namespaces(read, now);
        }
        Change::Upsert(object) => {
            if let Some(namespace) = namespace(&object) {
                reconciler.upsert_namespace(namespace);
            }
        }
        Change::Remove(object) => {
            if let Some(namespace) = namespace(&object) {
                reconciler.remove_namespace(&namespace.metadata.name);
            }
        }
        Change::Away(why) => away("namespaces", &why),
    }
}

/// What was known stays: pods of an unknown state are neither enrolled nor let go.
fn away(what: &str, why: &str) {
    tracing::warn!(what, why, "the API server cannot be followed; what was known stays");
}

/// A pod. One that cannot be read is left as it is: nothing is known of what it should be.
pub(super) fn pod(object: &RawValue) -> Option<Pod> {
    match Object::from_json(Kind::Pod, object.get()) {
        Ok(Object::Pod(pod)) => Some(std::sync::Arc::unwrap_or_clone(pod)),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "a pod cannot be read");
            None
        }
    }
}

/// A namespace.
pub(super) fn namespace(object: &RawValue) -> Option<Namespace> {
    match Object::from_json(Kind::Namespace, object.get()) {
        Ok(Object::Namespace(namespace)) => Some(std::sync::Arc::unwrap_or_clone(namespace)),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "a namespace cannot be read");
            None
        }
    }
}
