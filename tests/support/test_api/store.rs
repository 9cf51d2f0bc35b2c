//! The objects of the test API server: what they are now, and what happened to them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::codegen::Bytes;

/// Lines that a watch may be behind. One that stays further behind is ended, as a real server does.
const LINES_MAX: usize = 4096;
/// Changes that can still be watched from. Older versions are answered with 410.
const HISTORY_MAX: usize = 10_000;

/// Names an object: its kind in the plural, its namespace (empty for none), its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What a path of the API names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Objects of a kind, of one namespace or of all.
    Collection { kind: String, namespace: Option<String> },
    /// One object, or a part of it such as its status.
    Object(Key),
}

impl Place {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (["api", _, ref rest @ ..] | ["apis", _, _, ref rest @ ..]) = parts[..] else {
            return None;
        };
        let key = |kind: &str, namespace: &str, name: &str| {
            let [kind, namespace, name] = [kind, namespace, name].map(str::to_owned);
            Self::Object(Key { kind, namespace, name })
        };
        Some(match *rest {
            [kind] => Self::Collection { kind: kind.to_owned(), namespace: None },
            [kind, name] => key(kind, "", name),
            ["namespaces", namespace, kind] => {
                let namespace = Some(namespace.to_owned());
                Self::Collection { kind: kind.to_owned(), namespace }
            }
            ["namespaces", namespace, kind, name] | ["namespaces", namespace, kind, name, _] => {
                key(kind, namespace, name)
            }
            _ => return None,
        })
    }
}

/// Which objects of a kind are listed or watched.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    /// `metadata.name=x` or `spec.nodeName=x`.
    pub(super) field: Option<(String, String)>,
}

impl Selection {
    fn takes(&self, key: &Key, object: &Value) -> bool {
        let in_namespace = self.namespace.as_ref().is_none_or(|name| *name == key.namespace);
        let has_field = self.field.as_ref().is_none_or(|(path, wanted)| {
            let pointer = format!("/{}", path.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(wanted)
        });
        self.kind == key.kind && in_namespace && has_field
    }
}

struct Happened {
    version: u64,
    kind: &'static str,
    key: Key,
    object: Value,
}

struct Watcher {
    selection: Selection,
    lines: mpsc::Sender<Bytes>,
}

/// Why an object was not changed: the status code of the answer, and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) u16, pub(super) &'static str);

/// All objects. Versions begin at 1.
#[derive(Default)]
pub(super) struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    past: VecDeque<Happened>,
    /// What happened up to this version is not known any more.
    forgotten: u64,
    watchers: Vec<Watcher>,
}

impl Store {
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(super) fn of_kind(&self, kind: &str) -> Vec<Value> {
        let found = self.objects.iter().filter(|(key, _)| key.kind == kind);
        found.map(|(_, object)| object.clone()).collect()
    }

    /// Makes an object or replaces it.
    pub(super) fn put(&mut self, key: Key, object: Value) {
        let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.happen(kind, key, object);
    }

    /// Changes what a merge patch names (RFC 7396). A uid in it must be the object's.
    pub(super) fn patch(&mut self, key: &Key, patch: &Value) -> Result<Value, Refused> {
        let mut object = self.objects.get(key).cloned().ok_or(Refused(404, "NotFound"))?;
        let uid = patch.pointer("/metadata/uid");
        if uid.is_some_and(|uid| Some(uid) != object.pointer("/metadata/uid")) {
            return Err(Refused(409, "Conflict"));
        }
        merge(&mut object, patch);
        self.happen("MODIFIED", key.clone(), object);
        self.objects.get(key).cloned().ok_or(Refused(404, "NotFound"))
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let object = self.objects.get(key).cloned()?;
        self.happen("DELETED", key.clone(), object.clone());
        Some(object)
    }

    /// Those of a selection in order of their names, from the `start`th on, `limit` at most; and
    /// whether there are more.
    pub(super) fn list(
        &self,
        selection: &Selection,
        start: usize,
        limit: usize,
    ) -> (Vec<&Value>, bool) {
        let all = self.objects.iter().filter(|(key, object)| selection.takes(key, object));
        let mut page: Vec<_> = all.map(|(_, object)| object).skip(start).take(limit + 1).collect();
        let is_cut = page.len() > limit;
        page.truncate(limit);
        (page, is_cut)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What happens after a version, as lines; `None`: it is not known any more.
    pub(super) fn watch(
        &mut self,
        selection: Selection,
        after: u64,
    ) -> Option<mpsc::Receiver<Bytes>> {
        if after < self.forgotten {
            return None;
        }
        let (lines, receiver) = mpsc::channel(LINES_MAX);
        let missed = self.past.iter().filter(|happened| happened.version > after);
        for happened in missed.filter(|h| selection.takes(&h.key, &h.object)) {
            if lines.try_send(line(happened.kind, &happened.object)).is_err() {
                return None;
            }
        }
        self.watchers.push(Watcher { selection, lines });
        Some(receiver)
    }

    /// Ends every watch, after a last line if one is given.
    pub(super) fn end_watches(&mut self, last: Option<&Value>) {
        for watcher in self.watchers.drain(..) {
            if let Some(status) = last {
                // One that is too far behind ends without it.
                let _ = watcher.lines.try_send(line("ERROR", status));
            }
        }
    }

    /// Forgets the past: no version but the present one can be watched from.
    pub(super) fn forget(&mut self) {
        self.past.clear();
        // A version that nobody has seen, so that those of before are all too old.
        self.version += 1;
        self.forgotten = self.version;
    }

    fn happen(&mut self, kind: &'static str, key: Key, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = line(kind, &object);
        self.watchers.retain(|watcher| {
            // A watch whose client is gone, or too slow, ends here.
            !watcher.selection.takes(&key, &object) || watcher.lines.try_send(text.clone()).is_ok()
        });
        if kind == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key.clone(), object.clone());
        }
        self.past.push_back(Happened { version: self.version, kind, key, object });
        if self.past.len() > HISTORY_MAX
            && let Some(oldest) = self.past.pop_front()
        {
            self.forgotten = oldest.version;
        }
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(name);
            }
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: "pods".into(), namespace: "shop".into(), name: name.into() }
    }

    fn pods(field: Option<(&str, &str)>) -> Selection {
        let field = field.map(|(path, value)| (path.to_owned(), value.to_owned()));
        Selection { kind: "pods".into(), namespace: None, field }
    }

    #[test]
    fn paths_name_collections_and_objects() {
        let object = Some(Place::Object(key("web")));
        assert_eq!(Place::parse("/api/v1/namespaces/shop/pods/web"), object);
        assert_eq!(Place::parse("/api/v1/namespaces/shop/pods/web/status"), object);
        let Some(Place::Object(shop)) = Place::parse("/api/v1/namespaces/shop") else {
            panic!("not an object")
        };
        assert_eq!((&*shop.kind, &*shop.namespace, &*shop.name), ("namespaces", "", "shop"));
        let sets = Place::parse("/apis/apps/v1/namespaces/x/daemonsets");
        let want = Place::Collection { kind: "daemonsets".into(), namespace: Some("x".into()) };
        assert_eq!(sets, Some(want));
        assert_eq!(Place::parse("/healthz"), None);
    }

    #[test]
    fn a_watch_tells_what_happened_since_its_version() {
        let mut store = Store::default();
        store.put(key("a"), json!({"spec": {"nodeName": "n"}}));
        let seen = store.version();
        store.put(key("b"), json!({"spec": {"nodeName": "n"}}));
        store.put(key("c"), json!({"spec": {"nodeName": "other"}}));
        let on_node = pods(Some(("spec.nodeName", "n")));
        let mut lines = store.watch(on_node.clone(), seen).expect("a watch");
        store.remove(&key("a"));
        let mut next = || lines.try_recv().ok().map(|l| String::from_utf8_lossy(&l).into_owned());
        assert!(next().expect("b").contains("ADDED"));
        assert!(next().expect("a").contains("DELETED"));
        assert_eq!(next(), None);
        store.forget();
        assert!(store.watch(on_node, seen).is_none());
    }

    #[test]
    fn a_patch_is_for_one_instance() {
        let mut store = Store::default();
        store.put(key("a"), json!({"metadata": {"uid": "1", "labels": {"x": "y"}}}));
        let patch = |uid: &str| json!({"metadata": {"uid": uid, "labels": {"x": null, "z": "1"}}});
        assert_eq!(store.patch(&key("a"), &patch("2")), Err(Refused(409, "Conflict")));
        let changed = store.patch(&key("a"), &patch("1")).expect("changed");
        assert_eq!(changed["metadata"]["labels"], json!({"z": "1"}));
        assert_eq!(store.patch(&key("b"), &patch("1")), Err(Refused(404, "NotFound")));
    }

    #[test]
    fn a_list_comes_in_pages() {
        let mut store = Store::default();
        for name in ["a", "b", "c"] {
            store.put(key(name), json!({}));
        }
        let (page, is_cut) = store.list(&pods(None), 0, 2);
        assert_eq!((page.len(), is_cut), (2, true));
        let (page, is_cut) = store.list(&pods(None), 2, 2);
        assert_eq!((page.len(), is_cut), (1, false));
    }
}
