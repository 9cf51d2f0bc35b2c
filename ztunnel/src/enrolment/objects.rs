//! Reading and writing at the API server: a pod and its namespace, the redirection annotation, events.

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use api_server::{ApiClient, ApiError};
use cluster::{Namespace, Pod};
use enrol::{Code, Event, EventKind, Failure, REDIRECTION_ANNOTATION, REDIRECTION_ENABLED, Target};
use model::causes;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::watch;

/// Longest note of an event, in bytes; the API server takes 1024.
const NOTE_BYTES_MAX: usize = 1000;
/// Longest part of a pod's name in that of its events.
const NAME_BYTES_MAX: usize = 200;
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;

/// What a driver needs of the API server.
pub(super) trait Objects: Clone + Send + Sync + 'static {
    /// A pod by its name; `None`: there is none.
    fn pod(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Pod>, Failure>> + Send;
    /// A namespace.
    fn namespace(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<Namespace>, Failure>> + Send;
    /// Writes the annotation, or removes it. A pod that is gone has none.
    fn annotate(
        &self,
        target: &Target,
        annotation: Annotation,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Tells a pod's owner. What is lost is lost: the log has it.
    fn tell(&self, event: &Event) -> impl Future<Output = ()> + Send;
}

/// What the redirection annotation is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Annotation {
    Present,
    Absent,
}

/// The API server.
#[derive(Clone)]
pub(super) struct ApiObjects {
    api: ApiClient,
    node: Arc<str>,
}

impl ApiObjects {
    pub(super) fn new(api: ApiClient, node: &str) -> Self {
        Self { api, node: node.into() }
    }
}

impl Objects for ApiObjects {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Failure> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let read = self.api.get(&path).await.map_err(|error| away(&error))?;
        read.map(|object| watch::pod(&object).ok_or_else(|| unreadable("pod"))).transpose()
    }

    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, Failure> {
        let read = self.api.get(&format!("/api/v1/namespaces/{name}")).await;
        let read = read.map_err(|error| away(&error))?;
        read.map(|object| watch::namespace(&object).ok_or_else(|| unreadable("namespace")))
            .transpose()
    }

    async fn annotate(&self, target: &Target, annotation: Annotation) -> Result<(), Failure> {
        let Target { namespace, name, .. } = target;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        match self.api.merge_patch(&path, &annotation_patch(target, annotation)).await {
            Ok(()) => Ok(()),
            Err(error) if error.status() == Some(NOT_FOUND) => Ok(()),
            // Of another one of the same name nobody is promised anything. Of this one somebody may be.
            Err(error) if error.status() == Some(CONFLICT) => {
                let read = self.pod(namespace, name).await;
                let pod = read.map_err(|failure| not_annotated(failure.message))?;
                if is_there(pod.as_ref(), target) {
                    Err(not_annotated(causes(&error)))
                } else {
                    Ok(())
                }
            }
            Err(error) => Err(not_annotated(causes(&error))),
        }
    }

    async fn tell(&self, event: &Event) {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", event.target.namespace);
        let object = event_object(event, &self.node, SystemTime::now());
        if let Err(error) = self.api.create(&path, &object).await {
            let error = causes(&error);
            tracing::warn!(pod = %event.target.uid, error, "an event could not be written");
        }
    }
}

fn not_annotated(message: String) -> Failure {
    Failure::new(Code::AnnotationFailed, message)
}

/// Whether what a name stands for now is the instance that is meant.
fn is_there(pod: Option<&Pod>, target: &Target) -> bool {
    pod.is_some_and(|pod| *pod.metadata.uid == *target.uid.as_str())
}

fn away(error: &ApiError) -> Failure {
    Failure::new(Code::ApiAway, causes(error))
}

fn unreadable(what: &str) -> Failure {
    Failure::new(Code::ApiAway, format!("the {what} cannot be read"))
}

/// The uid makes the API server refuse it for another pod of the same name.
fn annotation_patch(target: &Target, annotation: Annotation) -> Value {
    let value = match annotation {
        Annotation::Present => json!(REDIRECTION_ENABLED),
        Annotation::Absent => Value::Null,
    };
    json!({"metadata": {
        "uid": target.uid.as_str(),
        "annotations": {REDIRECTION_ANNOTATION: value},
    }})
}

/// `events.k8s.io/v1`.
fn event_object(event: &Event, node: &str, now: SystemTime) -> Value {
    let Target { uid, namespace, name } = &event.target;
    let part = |text: &str, most| text[..text.floor_char_boundary(most)].to_owned();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            // Such a name may not end with a dot, although the name of an event usually has one there.
            "generateName": format!("{}-", part(name, NAME_BYTES_MAX).trim_end_matches(['.', '-'])),
            "namespace": namespace,
        },
        "eventTime": micro_time(now),
        "reportingController": "warren.dev/agent",
        "reportingInstance": node,
        "action": "Enrol",
        "reason": event.reason,
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": namespace,
            "name": name,
            "uid": uid.as_str(),
        },
        "note": part(&event.message, NOTE_BYTES_MAX),
        "type": match event.kind {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        },
    })
}

/// RFC 3339 with exactly six digits after the second, which is what the API server reads.
fn micro_time(time: SystemTime) -> String {
    let at = OffsetDateTime::from(time);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    );
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::PodUid;

    use super::*;

    fn target() -> Target {
        let uid = PodUid::parse("u-1").expect("a uid");
        Target { uid, namespace: "shop".to_owned(), name: "web-1".to_owned() }
    }

    #[test]
    fn a_patch_names_the_instance_and_one_annotation() {
        let patch = annotation_patch(&target(), Annotation::Present);
        let annotations = json!({"ambient.istio.io/redirection": "enabled"});
        assert_eq!(patch, json!({"metadata": {"uid": "u-1", "annotations": annotations}}));
        let patch = annotation_patch(&target(), Annotation::Absent);
        assert_eq!(patch["metadata"]["annotations"]["ambient.istio.io/redirection"], Value::Null);
    }

    #[test]
    fn a_conflict_is_the_end_of_a_promise_only_if_the_pod_is_gone() {
        let pod = |uid: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": uid}}))
                .expect("a pod")
        };
        assert!(is_there(Some(&pod("u-1")), &target()));
        assert!(!is_there(Some(&pod("u-2")), &target()), "another one of the name");
        assert!(!is_there(None, &target()));
    }

    #[test]
    fn an_event_has_the_form_that_api_servers_take() {
        let event = Event {
            target: target(),
            kind: EventKind::Warning,
            reason: "IDENTITY_CONFLICT",
            message: "x".repeat(2000),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_002);
        let object = event_object(&event, "n1", now);
        assert_eq!(object["eventTime"], "1970-01-01T00:00:01.000002Z");
        assert_eq!(object["metadata"]["generateName"], "web-1-");
        assert_eq!(object["regarding"]["uid"], "u-1");
        assert_eq!(object["note"].as_str().map(str::len), Some(NOTE_BYTES_MAX));
        assert_eq!(object["type"], "Warning");
    }
}
