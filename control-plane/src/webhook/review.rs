//! One question of an API server and its answer: pure.

use cluster::{Kind, Object};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use translate::{Settings, policy};

/// What is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Reasons that are told. The answer says how many more there are.
const REASONS_MAX: usize = 10;

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not an `AdmissionReview`.
    #[error("reading an AdmissionReview")]
    Unreadable(#[source] serde_json::Error),
    /// Of another version, or without a request.
    #[error("neither is it an {API_VERSION} AdmissionReview with a request: {0}")]
    Other(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'t> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'t>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'t> {
    uid: String,
    kind: GroupVersionKind,
    operation: String,
    #[serde(borrow, default)]
    object: Option<&'t RawValue>,
    #[serde(borrow, default)]
    old_object: Option<&'t RawValue>,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

/// Answers an `AdmissionReview` with one.
pub fn review(body: &[u8], settings: &Settings) -> Result<Value, ReviewError> {
    let review: Review<'_> = serde_json::from_slice(body).map_err(ReviewError::Unreadable)?;
    let Review { api_version, kind, request } = review;
    let request = match request {
        Some(request) if api_version == API_VERSION && kind == "AdmissionReview" => request,
        Some(_) => return Err(ReviewError::Other(format!("{api_version} {kind}"))),
        None => return Err(ReviewError::Other("it has no request".to_owned())),
    };
    let mut response = json!({ "uid": request.uid, "allowed": true });
    if let Err(reasons) = judge(&request, settings) {
        response["allowed"] = Value::from(false);
        let message = message(&reasons);
        response["status"] =
            json!({ "status": "Failure", "reason": "Invalid", "code": 422, "message": message });
    }
    Ok(json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response }))
}

fn judge(request: &Request<'_>, settings: &Settings) -> Result<(), Vec<String>> {
    if !matches!(&*request.operation, "CREATE" | "UPDATE") {
        return Ok(());
    }
    let GroupVersionKind { group, version, kind } = &request.kind;
    let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
    // A kind that the mesh does not read may say what it likes.
    let Some(kind) = Kind::of(&api_version, kind) else { return Ok(()) };
    let Some(object) = request.object else { return Ok(()) };
    if is_bookkeeping(object, request.old_object) {
        return Ok(());
    }
    let object = Object::from_json(kind, object.get()).map_err(|error| vec![error.to_string()])?;
    let revision = object.meta().label("istio.io/rev");
    if revision.is_some_and(|revision| *revision != *settings.revision) {
        // Another control plane's to judge.
        return Ok(());
    }
    policy::review(&object, settings)
}

/// Whether an update leaves the specification alone, or the object is being deleted: a broken one
/// can still be labelled, given a status, and lose its finalizers.
fn is_bookkeeping(object: &RawValue, old: Option<&RawValue>) -> bool {
    let Some(old) = old else { return false };
    let read = |text: &RawValue| serde_json::from_str::<Value>(text.get()).ok();
    let (Some(object), Some(old)) = (read(object), read(old)) else { return false };
    let is_going = !object["metadata"]["deletionTimestamp"].is_null();
    // Bringing an object under our revision is a change of what is enforced.
    let revision = |object: &Value| object["metadata"]["labels"]["istio.io/rev"].clone();
    is_going || (object["spec"] == old["spec"] && revision(&object) == revision(&old))
}

fn message(reasons: &[String]) -> String {
    let mut told: Vec<_> = reasons.iter().take(REASONS_MAX).cloned().collect();
    if reasons.len() > REASONS_MAX {
        told.push(format!("and {} more", reasons.len() - REASONS_MAX));
    }
    told.join("; ")
}

#[cfg(test)]
mod tests;
