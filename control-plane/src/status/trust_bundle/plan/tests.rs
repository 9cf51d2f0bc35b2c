use super::*;

fn found(is_ours: bool, bundle: Option<&str>) -> Found {
    Found {
        is_ours,
        bundle: bundle.map(str::to_owned),
        other_writer: None,
        version: "7".to_owned(),
    }
}

fn tasks(plan: &Plan) -> Vec<(String, Task)> {
    let bundle = Arc::from("pem");
    plan.tasks(&bundle, Instant::now()).map(|(name, task, _)| (name.to_owned(), task)).collect()
}

#[test]
fn only_what_is_absent_or_ours_is_written() {
    let cases = [
        (None, Task::Create),
        (Some(found(true, Some("pem"))), Task::Nothing),
        (Some(found(true, Some("old"))), Task::Replace),
        (Some(found(true, None)), Task::Replace),
        (Some(found(false, Some("pem"))), Task::Nothing),
        (Some(found(false, Some("istiod's"))), Task::Refuse),
        (Some(found(false, None)), Task::Refuse),
    ];
    for (found, expected) in cases {
        let mut plan = Plan::default();
        plan.namespace("shop");
        plan.found("shop", found.clone(), Instant::now());
        assert_eq!(tasks(&plan), [("shop".to_owned(), expected)], "{found:?}");
    }
}

#[test]
fn namespaces_and_maps_come_in_any_order() {
    let now = Instant::now();
    let mut plan = Plan::default();
    plan.found("a", Some(found(false, Some("istiod's"))), now);
    assert_eq!(tasks(&plan), []);
    plan.namespace("a");
    plan.namespace("b");
    let both = [("a".to_owned(), Task::Refuse), ("b".to_owned(), Task::Create)];
    assert_eq!(tasks(&plan), both);
    plan.namespace("a");
    assert_eq!(tasks(&plan), both, "seen again");
    plan.found("a", None, now);
    plan.no_namespace("b");
    assert_eq!(tasks(&plan), [("a".to_owned(), Task::Create)]);
    plan.no_namespace("a");
    plan.found("a", None, now);
    assert_eq!(tasks(&plan), [], "being deleted");
}

/// An istiod that comes later writes its roots each time that it sees others.
#[test]
fn what_another_writer_changes_is_left_alone_after_a_few_tries() {
    let mut plan = Plan::default();
    let bundle = Arc::from("pem");
    let task = |plan: &Plan, now| {
        let tasks: Vec<_> = plan.tasks(&bundle, now).map(|(_, task, _)| task).collect();
        tasks[0]
    };
    let mut now = Instant::now();
    let mut version = 7;
    let mut taken = || {
        version += 1;
        let other_writer = Some("pilot-discovery".to_owned());
        let version = version.to_string();
        Some(Found { other_writer, version, ..found(true, Some("istiod's")) })
    };
    plan.namespace("shop");
    plan.found("shop", Some(found(true, Some("old"))), now);
    assert_eq!(task(&plan, now), Task::Replace, "ours, of before a rotation");
    for wait in CONTEST_WAITS {
        let change = taken();
        plan.found("shop", change.clone(), now);
        assert_eq!(task(&plan, now), Task::Contested);
        assert_eq!(plan.contester("shop"), Some("pilot-discovery"));
        now += wait;
        // A list shows it again; it is no other change.
        plan.found("shop", change, now);
        assert_eq!(task(&plan, now), Task::Replace, "after {wait:?}");
        plan.wrote("shop");
        plan.found("shop", Some(found(true, Some("pem"))), now);
        assert_eq!(task(&plan, now), Task::Nothing);
    }
    plan.found("shop", taken(), now);
    assert_eq!(task(&plan, now + CALM * 10), Task::Contested, "given up");
    // A change long after the last is a new one.
    now += CALM * 2;
    plan.found("shop", taken(), now);
    assert_eq!(task(&plan, now + CONTEST_WAITS[0]), Task::Replace);
    // The same roots are no contest, and a deleted one is made again.
    plan.found(
        "shop",
        Some(Found { bundle: Some("pem".to_owned()), ..taken().expect("one") }),
        now,
    );
    assert_eq!(task(&plan, now), Task::Nothing);
    plan.found("shop", None, now);
    assert_eq!(task(&plan, now), Task::Create);
}

#[test]
fn what_is_said_no_more_goes_from_where_it_is_ours() {
    let cases = [
        (None, Task::Nothing),
        (Some(found(true, Some("pem"))), Task::Replace),
        (Some(found(true, None)), Task::Nothing),
        (Some(found(false, Some("theirs"))), Task::Nothing),
    ];
    for (found, expected) in cases {
        let mut plan = Plan::default();
        plan.namespace("shop");
        plan.found("shop", found.clone(), Instant::now());
        let nothing = Arc::from("");
        let tasks: Vec<_> = plan.tasks(&nothing, Instant::now()).map(|(_, task, _)| task).collect();
        assert_eq!(tasks, [expected], "{found:?}");
    }
}
