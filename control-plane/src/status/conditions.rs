//! What an object's status says and what it should say: pure.

use std::collections::BTreeSet;

use cluster::Text;
use serde::Deserialize;
use serde_json::{Value, json};
use translate::{Assignment, Condition, WAYPOINT_CONDITION};

/// Who owns the conditions that Warren writes.
pub const CONDITIONS_MANAGER: &str = "warren-conditions";
/// Who owns the addresses that Warren assigns.
pub const ADDRESSES_MANAGER: &str = "warren-addresses";

/// A condition that an object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: Option<String>,
    /// Istio's types write the number as text.
    observed_generation: Value,
}

/// What is to be applied to an object as [`CONDITIONS_MANAGER`] so that it has these conditions, and
/// no others of ours; `None`: it has them. `now` is an RFC 3339 time.
///
/// Whether a waypoint accepted a policy is for its own controller to say: a condition of that kind
/// that another writer owns is left to it.
#[must_use]
pub fn conditions(object: &Value, desired: &[Condition], now: &str) -> Option<Value> {
    let written = list::<Written>(&object["status"]["conditions"]);
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    let others = owned(object, |manager| manager != CONDITIONS_MANAGER);
    let owned = owned(object, |manager| manager == CONDITIONS_MANAGER);
    let is_ours = |condition: &&Condition| {
        condition.kind != WAYPOINT_CONDITION || !others.contains(condition.kind)
    };
    let desired: Vec<_> = desired.iter().filter(is_ours).collect();
    let mut is_changed = owned.iter().any(|kind| !desired.iter().any(|c| c.kind == kind));
    let mut applied = Vec::with_capacity(desired.len());
    for condition in desired {
        let status = if condition.status { "True" } else { "False" };
        let before = written.iter().find(|before| before.kind == condition.kind);
        is_changed |= !owned.contains(condition.kind)
            || before.is_none_or(|before| {
                before.status != status
                    || before.reason != condition.reason
                    || *before.message != *condition.message
                    || number(&before.observed_generation) != Some(generation)
            });
        // The time tells when the status changed, not when it was said again.
        let since = before.filter(|before| before.status == status);
        let since = since.and_then(|before| before.last_transition_time.as_deref()).unwrap_or(now);
        applied.push(json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": since,
            "observedGeneration": generation,
        }));
    }
    is_changed.then(|| patch(object, &json!({ "conditions": applied })))
}

/// What is to be applied to a service entry as [`ADDRESSES_MANAGER`] so that its hosts have these
/// addresses; `None`: it has them. Those of other hosts stay as long as the entry names the host.
#[must_use]
pub fn addresses(object: &Value, assigned: &[Assignment]) -> Option<Value> {
    let hosts: BTreeSet<String> = list(&object["spec"]["hosts"]).into_iter().collect();
    let before = list::<Value>(&object["status"]["addresses"]);
    let mut after = before.clone();
    after.retain(|entry| {
        entry["host"].as_str().is_none_or(|host| {
            hosts.contains(host) && !assigned.iter().any(|assigned| *assigned.host == *host)
        })
    });
    // A host that went away meanwhile gets none.
    for Assignment { host, addresses } in assigned.iter().filter(|a| hosts.contains(&*a.host)) {
        let host: &Text = host;
        after.extend(addresses.iter().map(|a| json!({ "value": a.to_string(), "host": host })));
    }
    let sorted = |entries: &[Value]| entries.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    (sorted(&before) != sorted(&after)).then(|| patch(object, &json!({ "addresses": after })))
}

/// The uid makes the server refuse it for an object that took the place of this one.
fn patch(object: &Value, status: &Value) -> Value {
    let metadata = json!({ "name": object["metadata"]["name"], "uid": object["metadata"]["uid"] });
    json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "metadata": metadata,
        "status": status,
    })
}

/// The conditions that some managers own, from `metadata.managedFields`.
fn owned(object: &Value, is_theirs: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let Some(managers) = object["metadata"]["managedFields"].as_array() else {
        return BTreeSet::new();
    };
    let theirs = managers.iter().filter(|entry| {
        is_theirs(entry["manager"].as_str().unwrap_or_default()) && entry["subresource"] == "status"
    });
    let fields =
        theirs.filter_map(|entry| entry["fieldsV1"]["f:status"]["f:conditions"].as_object());
    // Such as `k:{"type":"ZtunnelAccepted"}`.
    let keys = fields.flat_map(|fields| fields.keys()).filter_map(|key| key.strip_prefix("k:"));
    let keys = keys.filter_map(|key| serde_json::from_str::<Value>(key).ok());
    keys.filter_map(|key| Some(key["type"].as_str()?.to_owned())).collect()
}

/// Entries of a list that can be read; another writer's mistake is not ours.
fn list<T: for<'de> Deserialize<'de>>(value: &Value) -> Vec<T> {
    let entries = value.as_array().into_iter().flatten();
    entries.filter_map(|entry| T::deserialize(entry).ok()).collect()
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-25T12:00:00Z";
    const EARLIER: &str = "2026-11-24T12:00:00Z";

    fn condition(kind: &'static str, status: bool, message: &str) -> Condition {
        Condition { kind, status, reason: "Why", message: message.into() }
    }

    fn written(kind: &str, status: &str, message: &str, generation: impl Into<Value>) -> Value {
        json!({
            "type": kind, "status": status, "reason": "Why", "message": message,
            "lastTransitionTime": EARLIER, "observedGeneration": generation.into(),
        })
    }

    fn object(conditions: &[Value], owned: &[&str]) -> Value {
        let keys = owned.iter().map(|kind| (format!("k:{{\"type\":\"{kind}\"}}"), json!({})));
        let fields = json!({ "f:status": { "f:conditions": Value::Object(keys.collect()) } });
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "web", "uid": "u1", "generation": 3,
                "managedFields": [
                    { "manager": CONDITIONS_MANAGER, "subresource": "status", "fieldsV1": fields },
                    { "manager": "kubectl", "fieldsV1": { "f:spec": {} } },
                ],
            },
            "status": { "conditions": conditions },
        })
    }

    /// Checks what is applied: type, status and since when of each condition.
    fn check(what: &str, object: &Value, desired: &[Condition], expected: Option<&[[&str; 3]]>) {
        let patch = conditions(object, desired, NOW);
        let applied = patch.as_ref().map(|patch| {
            assert_eq!(patch["metadata"], json!({ "name": "web", "uid": "u1" }), "{what}");
            list::<Written>(&patch["status"]["conditions"])
        });
        let applied = applied.map(|applied| {
            let each = applied.into_iter();
            each.map(|c| [c.kind, c.status, c.last_transition_time.unwrap_or_default()]).collect()
        });
        let expected: Option<Vec<_>> =
            expected.map(|all| all.iter().map(|c| c.map(str::to_owned)).collect());
        assert_eq!(applied, expected, "{what}");
    }

    #[test]
    fn conditions_are_written_when_they_differ() {
        let same = [written("A", "True", "fine", 3)];
        let desired = [condition("A", true, "fine")];
        check("the same", &object(&same, &["A"]), &desired, None);
        let text = [written("A", "True", "fine", "3")];
        check("a number as text", &object(&text, &["A"]), &desired, None);
        check("new", &object(&[], &[]), &desired, Some(&[["A", "True", NOW]]));
        let old = [written("A", "True", "fine", 2)];
        let again = [["A", "True", EARLIER]];
        check("for an older generation", &object(&old, &["A"]), &desired, Some(&again));
        check("another's", &object(&same, &[]), &desired, Some(&again));
        let other = [condition("A", true, "better")];
        check("another message", &object(&same, &["A"]), &other, Some(&again));
        let flipped = [condition("A", false, "fine")];
        check("flipped", &object(&same, &["A"]), &flipped, Some(&[["A", "False", NOW]]));
    }

    #[test]
    fn conditions_of_ours_go_and_those_of_others_stay() {
        let both = [written("A", "True", "fine", 3), written("B", "True", "", 3)];
        let desired = [condition("A", true, "fine")];
        check("another writer's", &object(&both, &["A"]), &desired, None);
        let kept = [["A", "True", EARLIER]];
        check("ours, not wanted any more", &object(&both, &["A", "B"]), &desired, Some(&kept));
        check("the last one", &object(&both, &["B"]), &[], Some(&[]));
        check("none, ever", &object(&[], &[]), &[], None);
        check("none of ours", &object(&both, &[]), &[], None);
        check("unreadable ones", &object(&[json!(7)], &[]), &[], None);
    }

    #[test]
    fn what_a_waypoints_controller_says_is_left_to_it() {
        let desired = [condition(WAYPOINT_CONDITION, true, "bound")];
        let theirs = [written(WAYPOINT_CONDITION, "False", "theirs", 3)];
        let mut object = object(&theirs, &[WAYPOINT_CONDITION]);
        let ours = [[WAYPOINT_CONDITION, "True", NOW]];
        check("only ours", &object, &desired, Some(&ours));
        object["metadata"]["managedFields"][0]["manager"] = "pilot-discovery".into();
        check("another's", &object, &desired, None);
    }

    fn entry(hosts: &[&str], addresses: &[(&str, &str)]) -> Value {
        let addresses =
            addresses.iter().map(|(host, value)| json!({ "value": value, "host": host }));
        json!({
            "metadata": { "name": "web" },
            "spec": { "hosts": hosts },
            "status": { "addresses": addresses.collect::<Vec<_>>() },
        })
    }

    fn assigned(host: &str) -> Assignment {
        let addresses = ["240.240.0.1", "2001:2::1"].map(|a| a.parse().expect("an address"));
        Assignment { host: host.into(), addresses }
    }

    #[test]
    fn addresses_are_written_once() {
        let new = addresses(&entry(&["a"], &[]), &[assigned("a")]).expect("a change");
        let expected = json!([
            { "value": "240.240.0.1", "host": "a" }, { "value": "2001:2::1", "host": "a" },
        ]);
        assert_eq!(new["status"]["addresses"], expected);
        let has = entry(&["a"], &[("a", "2001:2::1"), ("a", "240.240.0.1")]);
        assert_eq!(addresses(&has, &[assigned("a")]), None, "in any order");

        let other = entry(&["a", "b"], &[("b", "240.240.0.9"), ("gone", "240.240.0.8")]);
        let more = addresses(&other, &[assigned("a")]).expect("a change");
        let hosts = list::<Value>(&more["status"]["addresses"]);
        let hosts: Vec<_> = hosts.iter().map(|entry| entry["host"].clone()).collect();
        assert_eq!(hosts, ["b", "a", "a"], "another host keeps its address, a former one does not");
        assert_eq!(addresses(&entry(&["b"], &[]), &[assigned("a")]), None, "not a host any more");
    }
}
