use std::net::IpAddr;

use super::*;
use crate::select::Refused;
use crate::switches::Inbound;

/// A node whose kernel and API server do what they are told, one step at a time.
struct World {
    reconciler: Reconciler,
    actual: Actual,
    now: Instant,
}

const UID: &str = "u-1";

fn uid() -> PodUid {
    PodUid::parse(UID).expect("a uid")
}

fn pod(labels: &str, annotations: &str, status: &str) -> Pod {
    let text = format!(
        r#"{{"metadata":{{"name":"web-1","namespace":"shop","uid":"{UID}","labels":{labels},
            "annotations":{annotations}}},"spec":{{"serviceAccountName":"web"}},"status":{status}}}"#
    );
    serde_json::from_str(&text).expect(&text)
}

const RUNNING: &str = r#"{"phase":"Running","podIPs":[{"ip":"10.0.0.5"}]}"#;
const ANNOTATED: &str = r#"{"ambient.istio.io/redirection":"enabled"}"#;

fn running() -> Pod {
    pod("{}", "{}", RUNNING)
}

fn namespace(labels: &str, annotations: &str) -> Namespace {
    let text = format!(
        r#"{{"metadata":{{"name":"shop","labels":{labels},"annotations":{annotations}}}}}"#
    );
    serde_json::from_str(&text).expect(&text)
}

fn ambient() -> Namespace {
    namespace(r#"{"istio.io/dataplane-mode":"ambient"}"#, "{}")
}

fn sandbox(id: &str, netns_inode: u64) -> Sandbox {
    let addresses = vec![IpAddr::from([10, 0, 0, 5])];
    Sandbox { id: id.to_owned(), netns: "/var/run/netns/x".into(), netns_inode, addresses }
}

fn captured(source: Source, state: State) -> Captured {
    let (place, switches) = (Place::Same, Switches::default());
    Captured { source, state, netns: 7, place, switches }
}

impl World {
    fn new() -> Self {
        let settings =
            Settings { excluded_namespaces: ["kube-system".into()].into(), dns_capture: false };
        let (reconciler, actual) = (Reconciler::new(settings), Actual::new());
        Self { reconciler, actual, now: Instant::now_for_tests() }
    }

    /// A labelled namespace with one running pod.
    fn labelled() -> Self {
        let mut world = Self::new();
        world.reconciler.replace_namespaces([ambient()], world.now);
        world.reconciler.replace_pods([running()], world.now);
        world
    }

    fn look(&mut self) -> Vec<Action> {
        self.reconciler.reconcile(&self.actual, self.now)
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.look()
    }

    fn finish(&mut self, act: Act, result: Result<(), Failure>) {
        self.reconciler.finished(&uid(), act, result, self.now);
    }

    fn capture(&mut self, source: Source) {
        self.actual.insert(uid(), captured(source, State::Verified));
    }

    fn failed(code: Code) -> Result<(), Failure> {
        Err(Failure::new(code, "it failed"))
    }
}

/// A moment. The core never asks for one; a test has to begin somewhere.
trait ForTests {
    fn now_for_tests() -> Self;
}

impl ForTests for Instant {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    fn now_for_tests() -> Self {
        Self::now()
    }
}

pub(super) fn a_moment() -> Instant {
    Instant::now_for_tests()
}

fn names(actions: &[Action]) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::Enrol(_) => "enrol",
        Action::Update(_) => "update",
        Action::Release { .. } => "release",
        Action::Annotate(_) => "annotate",
        Action::Unannotate(_) => "unannotate",
        Action::Answer { result: Ok(()), .. } => "pass",
        Action::Answer { result: Err(_), .. } => "refuse",
        Action::Event(event) => event.reason,
    };
    actions.iter().map(name).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_labelled_pod_is_enrolled_and_then_annotated() {
    let mut world = World::labelled();
    let actions = world.look();
    let [Action::Enrol(wanted)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(wanted.workload.to_string(), "shop/web-1/web");
    assert_eq!(wanted.addresses, [IpAddr::from([10, 0, 0, 5])]);
    assert_eq!(wanted.source, Source::Api);
    assert!(world.look().is_empty(), "it is in flight");
    world.actual.insert(uid(), captured(Source::Api, State::Enrolling));
    assert!(world.look().is_empty(), "it is not proved yet");
    world.capture(Source::Api);
    assert!(world.look().is_empty(), "the act has not ended");
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate"]);
    world.finish(Act::Annotate, Ok(()));
    assert!(world.after(SECOND * 60).is_empty());
}

#[test]
fn the_annotation_goes_before_the_capture() {
    let mut world = World::labelled();
    world.capture(Source::Api);
    world.reconciler.replace_pods([pod("{}", ANNOTATED, RUNNING)], world.now);
    assert!(world.look().is_empty());
    world.reconciler.upsert_namespace(namespace("{}", "{}"));
    assert!(world.look().is_empty(), "the label may come back");
    assert_eq!(names(&world.after(SECOND)), ["unannotate"]);
    world.finish(Act::Unannotate, World::failed(Code::AnnotationFailed));
    assert_eq!(names(&world.look()), ["ANNOTATION_FAILED"], "still promised, so still captured");
    assert_eq!(names(&world.after(SECOND)), ["unannotate"]);
    world.finish(Act::Unannotate, Ok(()));
    let actions = world.look();
    let why = Why::Refused(Refused::NotLabelled);
    assert_eq!(actions, [Action::Release { uid: uid(), why }]);
    world.actual.clear();
    world.finish(Act::Release, Ok(()));
    assert!(world.after(SECOND * 60).is_empty());
}

#[test]
fn a_label_that_flips_fast_costs_nothing_and_the_pod_stays() {
    let mut world = World::labelled();
    world.capture(Source::Api);
    world.reconciler.replace_pods([pod("{}", ANNOTATED, RUNNING)], world.now);
    for flip in 0..600 {
        let namespace = if flip % 2 == 0 { namespace("{}", "{}") } else { ambient() };
        world.reconciler.upsert_namespace(namespace);
        assert!(world.after(Duration::from_millis(100)).is_empty(), "flip {flip}");
    }
}

#[test]
fn a_label_that_flips_slowly_costs_one_act_a_second_at_most() {
    let mut world = World::labelled();
    let mut acts = 0;
    for flip in 0..100 {
        let labelled = flip % 2 == 0;
        let namespace = if labelled { ambient() } else { namespace("{}", "{}") };
        world.reconciler.upsert_namespace(namespace);
        for _ in 0..12 {
            for action in world.after(SECOND / 10) {
                match action {
                    Action::Enrol(_) => {
                        world.capture(Source::Api);
                        world.finish(Act::Enrol, Ok(()));
                    }
                    Action::Release { .. } => {
                        world.actual.clear();
                        world.finish(Act::Release, Ok(()));
                    }
                    Action::Annotate(_) => {
                        world.finish(Act::Annotate, Ok(()));
                        continue;
                    }
                    Action::Unannotate(_) => {
                        world.finish(Act::Unannotate, Ok(()));
                        continue;
                    }
                    Action::Update(_) | Action::Answer { .. } | Action::Event(_) => continue,
                }
                acts += 1;
            }
        }
    }
    assert!((20..=121).contains(&acts), "{acts} acts in 120 seconds");
}

#[test]
fn failures_are_told_and_tried_again_ever_more_slowly() {
    let mut world = World::labelled();
    let mut pauses = Vec::new();
    let mut last = world.now;
    for _ in 0..8 {
        while !names(&world.look()).contains(&"enrol") {
            world.now += SECOND / 10;
        }
        pauses.push((world.now - last).as_secs_f32().round());
        last = world.now;
        world.finish(Act::Enrol, World::failed(Code::SelfTestFailed));
    }
    assert_eq!(pauses, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    let report = world.reconciler.report(&world.actual, world.now);
    assert_eq!(report[0].standing, Standing::Failed);
    assert!(report[0].is_gap);
}

#[test]
fn one_failure_is_one_event_and_its_end_another() {
    let mut world = World::labelled();
    world.look();
    world.finish(Act::Enrol, World::failed(Code::IdentityConflict));
    assert_eq!(names(&world.look()), ["IDENTITY_CONFLICT"]);
    assert_eq!(names(&world.after(SECOND * 11)), ["enrol"]);
    world.finish(Act::Enrol, World::failed(Code::IdentityConflict));
    assert!(world.look().is_empty(), "told already");
    assert_eq!(names(&world.after(SECOND * 11)), ["enrol"]);
    world.capture(Source::Api);
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate", "Enrolled"]);
    world.finish(Act::Annotate, Ok(()));
    assert!(world.after(SECOND * 60).is_empty());
}

#[test]
fn what_has_not_started_is_looked_for_without_fuss() {
    let mut world = World::labelled();
    world.look();
    for _ in 0..20 {
        world.finish(Act::Enrol, World::failed(Code::NotStarted));
        assert!(world.look().is_empty());
        assert_eq!(names(&world.after(SECOND / 2)), ["enrol"]);
    }
    world.finish(Act::Enrol, World::failed(Code::NotStarted));
    let report = world.reconciler.report(&world.actual, world.now);
    assert_eq!(report[0].standing, Standing::Waiting);
    assert!(!report[0].is_gap);
}

#[test]
fn a_sandbox_is_answered_when_its_pod_is_proved() {
    let mut world = World::new();
    let pending = pod("{}", "{}", "{}");
    world.reconciler.claim(pending, ambient(), sandbox("s-1", 7), world.now);
    let actions = world.look();
    let [Action::Enrol(wanted)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(wanted.source, Source::Cni);
    assert_eq!(wanted.addresses, [IpAddr::from([10, 0, 0, 5])], "the runtime's");
    world.capture(Source::Cni);
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate", "pass"]);
    assert!(world.look().is_empty(), "answered once");
    // The runtime asks again.
    world.reconciler.claim(pod("{}", "{}", "{}"), ambient(), sandbox("s-1", 7), world.now);
    assert_eq!(names(&world.look()), ["pass"]);
    // What was read for it is newer than a list that lacks it.
    world.reconciler.replace_pods([], world.now + SECOND);
    assert!(world.after(SECOND).is_empty());
}

#[test]
fn a_sandbox_is_answered_though_nothing_of_its_pod_runs_yet() {
    let mut world = World::new();
    world.reconciler.claim(pod("{}", "{}", "{}"), ambient(), sandbox("s-1", 7), world.now);
    assert_eq!(names(&world.look()), ["enrol"]);
    let state = captured(Source::Cni, State::Verified);
    world.actual.insert(uid(), Captured { place: Place::Empty, ..state });
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate", "pass"]);
}

#[test]
fn a_sandbox_whose_pod_cannot_be_captured_fails() {
    // Also where its namespace lets it start then: what becomes of the sandbox is judged by `Outcome`.
    for annotations in ["{}", r#"{"warren.dev/fail-open":"true"}"#] {
        let mut world = World::new();
        let labels = r#"{"istio.io/dataplane-mode":"ambient"}"#;
        let namespace = namespace(labels, annotations);
        world.reconciler.claim(running(), namespace, sandbox("s-1", 7), world.now);
        world.look();
        world.finish(Act::Enrol, World::failed(Code::AttachFailed));
        assert_eq!(names(&world.look()), ["refuse", "ATTACH_FAILED"]);
    }
}

#[test]
fn an_unwanted_pods_sandbox_passes() {
    let mut world = World::new();
    let plain = namespace("{}", "{}");
    world.reconciler.claim(running(), plain, sandbox("s-1", 7), world.now);
    assert_eq!(names(&world.look()), ["pass"]);
}

#[test]
fn an_earlier_attempt_is_no_answer_for_a_sandbox() {
    let mut world = World::labelled();
    assert_eq!(names(&world.look()), ["enrol"]);
    world.reconciler.claim(running(), ambient(), sandbox("s-1", 7), world.now);
    world.finish(Act::Enrol, World::failed(Code::PodNotFound));
    assert_eq!(names(&world.look()), ["POD_NOT_FOUND"]);
    assert_eq!(names(&world.after(SECOND)), ["enrol"]);
    world.capture(Source::Cni);
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate", "pass"]);
}

#[test]
fn a_sandbox_made_anew_is_enrolled_anew() {
    let mut world = World::labelled();
    world.capture(Source::Cni);
    world.reconciler.claim(running(), ambient(), sandbox("s-2", 8), world.now);
    let actions = world.look();
    assert_eq!(actions[0], Action::Release { uid: uid(), why: Why::Moved });
    world.actual.clear();
    world.finish(Act::Release, Ok(()));
    assert_eq!(names(&world.look()), ["enrol"], "at once: it is waited for");
    // The old one's end is nobody's.
    world.reconciler.end_sandbox("s-1");
    world.actual.insert(uid(), Captured { netns: 8, ..captured(Source::Cni, State::Verified) });
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate", "pass"]);
}

#[test]
fn a_sandbox_that_is_taken_down_lets_its_pod_go_at_once() {
    let mut world = World::labelled();
    world.reconciler.claim(pod("{}", ANNOTATED, RUNNING), ambient(), sandbox("s-1", 7), world.now);
    world.capture(Source::Cni);
    assert_eq!(names(&world.look()), ["pass"]);
    world.reconciler.end_sandbox("s-1");
    let actions = world.look();
    assert_eq!(actions[0], Action::Release { uid: uid(), why: Why::SandboxGone });
}

/// It may be another runtime's, or be made from half of what there is.
#[test]
fn a_list_of_sandboxes_lets_no_running_pod_go() {
    let mut world = World::labelled();
    world.reconciler.claim(pod("{}", ANNOTATED, RUNNING), ambient(), sandbox("s-1", 7), world.now);
    world.reconciler.keep_sandboxes(|_| false);
    world.capture(Source::Cni);
    assert_eq!(names(&world.look()), ["pass"], "who waits is answered");
    world.reconciler.keep_sandboxes(|_| false);
    assert!(names(&world.after(SECOND)).iter().all(|name| *name != "release"));
}

/// Connections of the one before may linger for as long as their peers like.
#[test]
fn a_sandbox_made_anew_waits_for_nothing_of_the_one_before() {
    let mut world = World::labelled();
    world.reconciler.claim(pod("{}", ANNOTATED, RUNNING), ambient(), sandbox("s-1", 7), world.now);
    world.capture(Source::Cni);
    assert_eq!(names(&world.look()), ["pass"]);
    world.reconciler.end_sandbox("s-1");
    assert_eq!(names(&world.look()), ["release", "unannotate"]);
    world.actual.insert(uid(), captured(Source::Cni, State::Leaving));
    world.finish(Act::Release, Ok(()));
    world.finish(Act::Unannotate, Ok(()));
    world.reconciler.claim(running(), ambient(), sandbox("s-2", 8), world.now);
    assert_eq!(names(&world.look()), ["enrol"]);
}

#[test]
fn a_pod_that_the_api_server_forgot_stays_captured_as_long_as_it_runs() {
    let mut world = World::labelled();
    world.capture(Source::Api);
    world.reconciler.remove_pod(&uid());
    assert!(world.after(SECOND * 60).is_empty());
    world
        .actual
        .insert(uid(), Captured { place: Place::Empty, ..captured(Source::Api, State::Verified) });
    assert_eq!(world.look(), [Action::Release { uid: uid(), why: Why::Gone }]);
}

#[test]
fn nothing_is_gone_before_everything_was_read() {
    let mut world = World::new();
    world
        .actual
        .insert(uid(), Captured { place: Place::Empty, ..captured(Source::Api, State::Verified) });
    assert!(world.after(SECOND * 60).is_empty());
    world.reconciler.replace_pods([running()], world.now);
    assert!(world.after(SECOND * 60).is_empty(), "its namespace is not known");
}

#[test]
fn an_operators_pod_is_his_unless_the_api_server_speaks() {
    let mut world = World::new();
    world.capture(Source::Cli);
    world.reconciler.replace_pods([], world.now);
    assert!(world.after(SECOND * 60).is_empty(), "unknown");
    world.reconciler.replace_namespaces([namespace("{}", "{}")], world.now);
    world.reconciler.replace_pods([running()], world.now);
    assert!(world.after(SECOND * 60).is_empty(), "not labelled");
    assert_eq!(world.reconciler.leaves_to_others(&uid()), Ok(()));
    world.reconciler.upsert_namespace(ambient());
    assert!(world.reconciler.leaves_to_others(&uid()).is_err());
    let actions = world.look();
    assert_eq!(names(&actions), ["update"], "it is the API server's now");
    let mut world = World::new();
    world.capture(Source::Cli);
    world.reconciler.replace_namespaces([ambient()], world.now);
    let opted_out = pod(r#"{"istio.io/dataplane-mode":"none"}"#, "{}", RUNNING);
    world.reconciler.replace_pods([opted_out], world.now);
    assert!(world.reconciler.leaves_to_others(&uid()).is_err());
    assert!(world.look().is_empty());
    assert_eq!(names(&world.after(SECOND)), ["release"]);
}

#[test]
fn switches_change_while_it_is_captured() {
    let mut world = World::labelled();
    world.capture(Source::Api);
    world.reconciler.replace_pods([pod("{}", ANNOTATED, RUNNING)], world.now);
    assert!(world.look().is_empty());
    let bypass = r#"{"ambient.istio.io/redirection":"enabled",
        "ambient.istio.io/bypass-inbound-capture":"true"}"#;
    world.reconciler.replace_pods([pod("{}", bypass, RUNNING)], world.now);
    let actions = world.look();
    let [Action::Update(wanted)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(wanted.switches.inbound, Inbound::Bypassed);
    let switches = wanted.switches.clone();
    world.actual.insert(uid(), Captured { switches, ..captured(Source::Api, State::Verified) });
    world.finish(Act::Update, Ok(()));
    assert!(world.after(SECOND * 60).is_empty());
}

#[test]
fn an_ended_pod_is_let_go_at_once() {
    let mut world = World::labelled();
    world.capture(Source::Api);
    let ended = r#"{"phase":"Succeeded","podIPs":[{"ip":"10.0.0.5"}]}"#;
    world.reconciler.replace_pods([pod("{}", "{}", ended)], world.now);
    let why = Why::Refused(Refused::Ended);
    assert_eq!(world.look(), [Action::Release { uid: uid(), why }]);
}

#[test]
fn an_annotation_without_capture_goes_only_where_the_pod_is_unwanted() {
    let mut world = World::labelled();
    world.reconciler.replace_pods([pod("{}", ANNOTATED, RUNNING)], world.now);
    assert_eq!(names(&world.look()), ["enrol"]);
    world.reconciler.replace_namespaces([namespace("{}", "{}")], world.now);
    world.finish(Act::Enrol, World::failed(Code::Busy));
    world.look();
    assert_eq!(names(&world.after(SECOND)), ["unannotate"]);
}

#[test]
fn a_degraded_pod_is_told_of_and_left_to_its_watch() {
    let mut world = World::labelled();
    let degraded = State::Degraded("a hook was taken off".to_owned());
    world.actual.insert(uid(), captured(Source::Api, degraded));
    assert_eq!(names(&world.look()), ["DEGRADED"]);
    let report = world.reconciler.report(&world.actual, world.now);
    assert_eq!(report[0].standing, Standing::Degraded);
    assert!(report[0].is_gap);
    assert!(world.after(SECOND * 60).is_empty());
}

#[test]
fn an_older_state_changes_nothing() {
    let versioned = |version: &str, label: &str| {
        let mut pod = pod(&format!(r#"{{"istio.io/dataplane-mode":"{label}"}}"#), "{}", RUNNING);
        pod.metadata.resource_version = version.into();
        pod
    };
    let mut world = World::labelled();
    world.reconciler.upsert_pod(versioned("10", "none"));
    world.reconciler.upsert_pod(versioned("9", "ambient"));
    assert!(world.look().is_empty());
    world.reconciler.upsert_pod(versioned("11", "ambient"));
    assert_eq!(names(&world.look()), ["enrol"]);
}

#[test]
fn a_list_from_before_what_a_sandbox_was_read_with_changes_nothing() {
    let versioned = |version: &str, label: &str| {
        let mut namespace = namespace(&format!(r#"{{"istio.io/dataplane-mode":"{label}"}}"#), "{}");
        namespace.metadata.resource_version = version.into();
        namespace
    };
    let mut pending = pod("{}", "{}", "{}");
    pending.metadata.resource_version = "10".into();
    let mut world = World::new();
    world.reconciler.claim(pending, versioned("10", "ambient"), sandbox("s-1", 7), world.now);
    let mut before = pod(r#"{"istio.io/dataplane-mode":"none"}"#, "{}", "{}");
    before.metadata.resource_version = "9".into();
    world.reconciler.replace_pods([before.clone()], world.now);
    world.reconciler.replace_namespaces([versioned("9", "none")], world.now);
    assert_eq!(names(&world.look()), ["enrol"]);
    world.finish(Act::Enrol, World::failed(Code::AttachFailed));
    world.look();
    // A list that lacks both is believed when it cannot be from before any more.
    world.reconciler.replace_namespaces([], world.now);
    world.reconciler.replace_pods([], world.now);
    assert_eq!(names(&world.after(SECOND * 9)), ["enrol"]);
    world.finish(Act::Enrol, World::failed(Code::AttachFailed));
    assert!(world.after(READING_LAG).is_empty());
    assert_eq!(world.reconciler.leaves_to_others(&uid()), Ok(()), "forgotten");
    // An old version after that time is a restored API server's.
    world.reconciler.replace_namespaces([versioned("9", "ambient")], world.now);
    world.reconciler.replace_pods([before], world.now);
    assert!(world.reconciler.leaves_to_others(&uid()).is_err(), "its own label says no");
}

#[test]
fn a_new_sandboxs_addresses_outrank_those_of_the_one_before() {
    let mut world = World::labelled();
    let new = IpAddr::from([10, 0, 0, 6]);
    let made_anew = Sandbox { addresses: vec![new], ..sandbox("s-2", 8) };
    world.reconciler.claim(running(), ambient(), made_anew, world.now);
    let actions = world.look();
    let [Action::Enrol(wanted)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(wanted.addresses, [new]);
}

#[test]
fn the_end_of_a_deleted_pod_alarms_nobody() {
    let mut world = World::labelled();
    let mut deleted = running();
    deleted.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
    world.reconciler.replace_pods([deleted], world.now);
    let actions = world.look();
    let [Action::Enrol(wanted)] = &actions[..] else { panic!("{actions:?}") };
    assert!(!wanted.is_running);
    world.finish(Act::Enrol, World::failed(Code::NotStarted));
    assert!(world.look().is_empty(), "no event");
    assert!(!world.reconciler.report(&world.actual, world.now)[0].is_gap);
}

#[test]
fn a_namespaces_number_that_is_used_again_is_not_the_old_one() {
    let mut world = World::labelled();
    world.capture(Source::Cni);
    world.reconciler.claim(pod("{}", ANNOTATED, RUNNING), ambient(), sandbox("s-1", 7), world.now);
    assert_eq!(names(&world.look()), ["pass"]);
    world.reconciler.end_sandbox("s-1");
    assert_eq!(names(&world.look()), ["release", "unannotate"]);
    world.actual.clear();
    world.finish(Act::Release, Ok(()));
    world.finish(Act::Unannotate, Ok(()));
    assert_eq!(names(&world.after(SECOND)), ["enrol"]);
    world.capture(Source::Api);
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate"]);
    world.finish(Act::Annotate, Ok(()));
    assert!(world.after(SECOND * 60).is_empty(), "it has the number of the one before");
}

#[test]
fn a_removed_pods_waiting_sandbox_is_answered_and_forgotten() {
    let mut world = World::new();
    world.reconciler.claim(running(), ambient(), sandbox("s-1", 7), world.now);
    assert_eq!(names(&world.look()), ["enrol"]);
    world.reconciler.remove_pod(&uid());
    world.finish(Act::Enrol, World::failed(Code::PodNotFound));
    let actions = world.look();
    let [Action::Answer { result: Err(failure), .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(failure.code, Code::PodGone);
    world.look();
    assert!(world.reconciler.report(&world.actual, world.now).is_empty());
}

#[test]
fn a_removed_pods_answered_sandbox_is_forgotten() {
    let mut world = World::new();
    world.reconciler.claim(running(), ambient(), sandbox("s-1", 7), world.now);
    world.look();
    world.capture(Source::Cni);
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look()), ["annotate", "pass"]);
    world.finish(Act::Annotate, Ok(()));
    world.reconciler.remove_pod(&uid());
    world.actual.clear();
    world.look();
    assert!(world.reconciler.report(&world.actual, world.now).is_empty());
}

/// They stay on until the pod is found: what cannot be found stays closed.
#[test]
fn hooks_without_a_usable_record_are_enrolled_over() {
    let mut world = World::labelled();
    let degraded = State::Degraded("no record".to_owned());
    let lost = Captured { place: Place::Lost, netns: 0, ..captured(Source::Api, degraded) };
    world.actual.insert(uid(), lost);
    assert_eq!(names(&world.look())[..1], ["enrol"]);
    world.finish(Act::Enrol, World::failed(Code::IdentityConflict));
    assert!(!names(&world.look()).contains(&"release"));
    assert_eq!(names(&world.after(SECOND))[..1], ["enrol"]);
    world.capture(Source::Api);
    world.finish(Act::Enrol, Ok(()));
    assert_eq!(names(&world.look())[..1], ["annotate"]);
}
