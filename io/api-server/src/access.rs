//! What we may do: `SelfSubjectAccessReview`.

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};

/// Where the server answers, and keeps nothing.
pub(crate) const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Something that may be allowed or not, in all namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// Such as `watch`.
    pub verb: &'a str,
    /// Empty for the core group.
    pub group: &'a str,
    /// Such as `pods`.
    pub resource: &'a str,
    /// Such as `status`; empty for the object itself.
    pub subresource: &'a str,
}

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, subresource } = self;
        write!(f, "{verb} {resource}")?;
        if !group.is_empty() {
            write!(f, ".{group}")?;
        }
        if !subresource.is_empty() {
            write!(f, "/{subresource}")?;
        }
        Ok(())
    }
}

impl Access<'_> {
    pub(crate) fn question(&self) -> Value {
        let Self { verb, group, resource, subresource } = self;
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
            }},
        })
    }
}

/// Whether it is allowed. An answer that does not say so denies.
pub(crate) fn answer(body: &[u8]) -> Result<bool, serde_json::Error> {
    #[derive(Deserialize)]
    struct Review {
        #[serde(default)]
        status: Status,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        allowed: bool,
        denied: bool,
    }
    let Review { status } = serde_json::from_slice(body)?;
    Ok(status.allowed && !status.denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (body, want) in [
            (r#"{"status":{"allowed":true}}"#, Some(true)),
            (r#"{"status":{"allowed":true,"denied":true}}"#, Some(false)),
            (r#"{"status":{"allowed":false}}"#, Some(false)),
            (r#"{"status":{}}"#, Some(false)),
            ("{}", Some(false)),
            (r#"{"status":{"allowed":"true"}}"#, None),
            ("", None),
        ] {
            assert_eq!(answer(body.as_bytes()).ok(), want, "{body}");
        }
    }

    #[test]
    fn rights_are_named_as_people_write_them() {
        let of = |group, subresource| Access { verb: "patch", group, resource: "x", subresource };
        assert_eq!(of("", "").to_string(), "patch x");
        assert_eq!(of("apps", "status").to_string(), "patch x.apps/status");
        let spec = of("apps", "status").question();
        assert_eq!(spec["spec"]["resourceAttributes"]["subresource"], "status");
    }
}
