//! Which objects: a path and its selectors, as part of a request.

use std::fmt::Write;

/// Which objects are listed and watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Of the collection, such as `/api/v1/pods`.
    pub path: String,
    /// Such as `spec.nodeName=node-1`.
    pub field_selector: Option<String>,
    /// Such as `app=cart`.
    pub label_selector: Option<String>,
}

impl Query {
    /// Every object of a collection.
    #[must_use]
    pub fn all(path: impl Into<String>) -> Self {
        Self { path: path.into(), field_selector: None, label_selector: None }
    }

    /// Those of one page. `next` is what the page before said.
    pub(crate) fn page(&self, limit: usize, next: &str) -> String {
        let mut target = self.selected();
        push(&mut target, "limit", &limit.to_string());
        if !next.is_empty() {
            push(&mut target, "continue", next);
        }
        target
    }

    /// Their changes since a version, for so many seconds.
    pub(crate) fn changes(&self, version: &str, seconds: u64) -> String {
        let mut target = self.selected();
        push(&mut target, "watch", "1");
        push(&mut target, "allowWatchBookmarks", "true");
        push(&mut target, "resourceVersion", version);
        push(&mut target, "timeoutSeconds", &seconds.to_string());
        target
    }

    fn selected(&self) -> String {
        let mut target = self.path.clone();
        let selectors =
            [("fieldSelector", &self.field_selector), ("labelSelector", &self.label_selector)];
        for (name, selector) in selectors {
            if let Some(selector) = selector {
                push(&mut target, name, selector);
            }
        }
        target
    }
}

/// Adds one parameter; everything that RFC 3986 does not leave unreserved is encoded.
fn push(target: &mut String, name: &str, value: &str) {
    target.push(if target.contains('?') { '&' } else { '?' });
    target.push_str(name);
    target.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

/// Whether a path is one of an API server and stays the one it looks like: no empty or dotted part,
/// which proxies resolve, and nothing encoded.
pub(crate) fn is_path(path: &str) -> bool {
    /// Longer than any: a group, a version, a kind and two names of 253.
    const PATH_MAX: usize = 2048;
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte))
    };
    path.len() <= PATH_MAX
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_encoded() {
        let query = Query {
            path: "/api/v1/pods".to_owned(),
            field_selector: Some("spec.nodeName=a&b".to_owned()),
            label_selector: Some("app in (cart, ä)".to_owned()),
        };
        let selected = "/api/v1/pods?fieldSelector=spec.nodeName%3Da%26b\
            &labelSelector=app%20in%20%28cart%2C%20%C3%A4%29";
        assert_eq!(query.page(500, ""), format!("{selected}&limit=500"));
        assert_eq!(query.page(500, "x="), format!("{selected}&limit=500&continue=x%3D"));
        let all = Query::all("/api/v1/namespaces");
        let changes = "/api/v1/namespaces?watch=1&allowWatchBookmarks=true&resourceVersion=7\
            &timeoutSeconds=300";
        assert_eq!(all.changes("7", 300), changes);
    }

    #[test]
    fn a_path_leads_nowhere_else() {
        for path in ["/api/v1/pods", "/api/v1/namespaces/a-b/pods/x.y/status", "/version"] {
            assert!(is_path(path), "{path}");
        }
        let long = format!("/{}", "a".repeat(2048));
        for path in [
            "",
            "/",
            "api",
            "/api/../x",
            "/api//v1",
            "/api/",
            "/a b",
            "/a?x=1",
            "/a%2fb",
            "/a#b",
            "/./a",
            "/a\r\nb",
            long.as_str(),
        ] {
            assert!(!is_path(path), "{path}");
        }
    }
}
