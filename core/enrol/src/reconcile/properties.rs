//! Whatever happens in whatever order: once it stops, what there is becomes what is wanted.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::a_moment;
use super::*;

const PODS: u8 = 4;
const STEP: Duration = Duration::from_millis(250);

/// Something that happens.
#[derive(Clone, Debug)]
enum Happening {
    NamespaceLabel(bool),
    PodLabel(u8, Option<bool>),
    PodEnds(u8),
    PodRemoved(u8),
    PodsRelisted,
    SandboxAdded(u8, u64),
    SandboxDeleted(u8, u64),
    SandboxMoved(u8),
    Cli(u8),
    ProcessesEnd(u8),
    RecordLost(u8),
    /// Of a pod that was let go.
    LastConnectionEnds(u8),
    Time(u8),
    /// The next acts fail.
    Trouble(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let pod = 0..PODS;
    prop_oneof![
        any::<bool>().prop_map(Happening::NamespaceLabel),
        (pod.clone(), any::<Option<bool>>()).prop_map(|(p, l)| Happening::PodLabel(p, l)),
        pod.clone().prop_map(Happening::PodEnds),
        pod.clone().prop_map(Happening::PodRemoved),
        Just(Happening::PodsRelisted),
        (pod.clone(), 1..4_u64).prop_map(|(p, s)| Happening::SandboxAdded(p, s)),
        (pod.clone(), 1..4_u64).prop_map(|(p, s)| Happening::SandboxDeleted(p, s)),
        pod.clone().prop_map(Happening::SandboxMoved),
        pod.clone().prop_map(Happening::Cli),
        pod.clone().prop_map(Happening::ProcessesEnd),
        pod.clone().prop_map(Happening::RecordLost),
        pod.prop_map(Happening::LastConnectionEnds),
        (1..20_u8).prop_map(Happening::Time),
        any::<bool>().prop_map(Happening::Trouble),
    ]
}

/// The API server, the kernel, and the reconciler between them.
struct World {
    reconciler: Reconciler,
    namespace_labelled: bool,
    pods: BTreeMap<u8, Pod>,
    actual: Actual,
    now: Instant,
    in_trouble: bool,
    waiting: BTreeMap<u8, String>,
}

fn uid(pod: u8) -> PodUid {
    PodUid::parse(&format!("u-{pod}")).expect("a uid")
}

fn sandbox_id(pod: u8, netns: u64) -> String {
    format!("s-{pod}-{netns}")
}

fn number(uid: &PodUid) -> u8 {
    uid.as_str().trim_start_matches("u-").parse().expect("one of ours")
}

fn new_pod(pod: u8) -> Pod {
    let text = format!(
        r#"{{"metadata":{{"name":"p-{pod}","namespace":"shop","uid":"u-{pod}"}},
            "status":{{"phase":"Running","podIPs":[{{"ip":"10.0.0.{pod}"}}]}}}}"#
    );
    serde_json::from_str(&text).expect(&text)
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            reconciler: Reconciler::new(Settings::default()),
            namespace_labelled: false,
            pods: (0..PODS).map(|pod| (pod, new_pod(pod))).collect(),
            actual: Actual::new(),
            now: a_moment(),
            in_trouble: false,
            waiting: BTreeMap::new(),
        };
        world.reconciler.replace_namespaces([world.namespace()], world.now);
        world.relist();
        world
    }

    fn namespace(&self) -> Namespace {
        let label = if self.namespace_labelled { "ambient" } else { "none" };
        let text = format!(
            r#"{{"metadata":{{"name":"shop","labels":{{"istio.io/dataplane-mode":"{label}"}}}}}}"#
        );
        serde_json::from_str(&text).expect(&text)
    }

    fn relist(&mut self) {
        self.reconciler.replace_pods(self.pods.values().cloned(), self.now);
    }

    fn is_selected(&self, pod: u8) -> bool {
        let namespace = self.namespace();
        let excluded = Settings::default().excluded_namespaces;
        self.pods
            .get(&pod)
            .is_some_and(|pod| select(pod, Some(&namespace), &excluded) == Selection::Selected)
    }

    fn is_annotated(&self, pod: u8) -> bool {
        self.pods
            .get(&pod)
            .is_some_and(|pod| pod.metadata.annotation(crate::REDIRECTION_ANNOTATION).is_some())
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::NamespaceLabel(on) => {
                self.namespace_labelled = on;
                self.reconciler.upsert_namespace(self.namespace());
            }
            Happening::PodLabel(pod, label) => {
                if let Some(object) = self.pods.get_mut(&pod) {
                    let value = label.map(|on| if on { "ambient" } else { "none" });
                    let labels = value.map(|value| (crate::AMBIENT_LABEL, value));
                    object.metadata.labels = labels.into_iter().collect();
                    self.reconciler.upsert_pod(object.clone());
                }
            }
            Happening::PodEnds(pod) => {
                if let Some(object) = self.pods.get_mut(&pod) {
                    object.status.phase = cluster::pod::Phase::Succeeded;
                    self.reconciler.upsert_pod(object.clone());
                }
            }
            Happening::PodRemoved(pod) => {
                self.pods.remove(&pod);
                self.reconciler.remove_pod(&uid(pod));
            }
            Happening::PodsRelisted => self.relist(),
            Happening::SandboxAdded(pod, netns) => {
                if let Some(object) = self.pods.get(&pod).cloned() {
                    let id = sandbox_id(pod, netns);
                    self.waiting.insert(pod, id.clone());
                    let sandbox = Sandbox {
                        id,
                        netns: "/n".into(),
                        netns_inode: netns,
                        addresses: Vec::new(),
                    };
                    let namespace = self.namespace();
                    self.reconciler.claim(object, namespace, sandbox, self.now);
                }
            }
            Happening::SandboxDeleted(pod, netns) => {
                self.waiting.remove(&pod);
                self.reconciler.end_sandbox(&sandbox_id(pod, netns));
            }
            Happening::SandboxMoved(pod) => self.place(pod, Place::Moved),
            Happening::ProcessesEnd(pod) => self.place(pod, Place::Empty),
            Happening::RecordLost(pod) => {
                if let Some(captured) = self.actual.get_mut(&uid(pod))
                    && captured.state == State::Verified
                {
                    captured.state = State::Degraded("no record".to_owned());
                    (captured.place, captured.source) = (Place::Lost, Source::Api);
                }
            }
            Happening::LastConnectionEnds(pod) => {
                self.actual.retain(|other, c| *other != uid(pod) || c.state != State::Leaving);
            }
            Happening::Cli(pod) => {
                if self.reconciler.leaves_to_others(&uid(pod)).is_ok() {
                    let captured = Captured {
                        source: Source::Cli,
                        state: State::Verified,
                        netns: 9,
                        place: Place::Same,
                        switches: Switches::default(),
                    };
                    self.actual.entry(uid(pod)).or_insert(captured);
                }
            }
            Happening::Time(steps) => self.now += STEP * u32::from(steps),
            Happening::Trouble(on) => self.in_trouble = on,
        }
    }

    /// What is captured, and not about to leave.
    fn there(&self, pod: u8) -> Option<&Captured> {
        self.actual.get(&uid(pod)).filter(|captured| captured.state != State::Leaving)
    }

    fn place(&mut self, pod: u8, place: Place) {
        // Where nothing is written, nothing tells.
        if let Some(captured) = self.actual.get_mut(&uid(pod)).filter(|c| c.place != Place::Lost) {
            captured.place = place;
        }
    }

    fn act(&mut self) {
        for action in self.reconciler.reconcile(&self.actual, self.now) {
            let trouble = || Failure::new(Code::AttachFailed, "trouble");
            let result = if self.in_trouble { Err(trouble()) } else { Ok(()) };
            match action {
                Action::Enrol(wanted) => {
                    let pod = number(&wanted.uid);
                    assert!(self.is_selected(pod), "enrolled though it is not wanted");
                    let there = self.there(pod);
                    assert!(there.is_none_or(|c| c.place == Place::Lost), "enrolled twice");
                    if result.is_ok() {
                        let netns = wanted.sandbox.as_ref().map_or(5, |s| s.netns_inode);
                        let captured = Captured {
                            source: wanted.source,
                            state: State::Verified,
                            netns,
                            place: Place::Same,
                            switches: wanted.switches.clone(),
                        };
                        self.actual.insert(wanted.uid.clone(), captured);
                    }
                    self.reconciler.finished(&wanted.uid, Act::Enrol, result, self.now);
                }
                Action::Update(wanted) => {
                    assert!(self.is_selected(number(&wanted.uid)));
                    if let Some(captured) =
                        self.actual.get_mut(&wanted.uid).filter(|_| result.is_ok())
                    {
                        (captured.source, captured.switches) =
                            (wanted.source, wanted.switches.clone());
                    }
                    self.reconciler.finished(&wanted.uid, Act::Update, result, self.now);
                }
                Action::Release { uid, why } => {
                    let pod = number(&uid);
                    let promised = self.is_annotated(pod) && !why.is_end();
                    assert!(!promised, "released while its annotation says otherwise");
                    assert!(!self.is_selected(pod) || why.is_end(), "released though wanted");
                    assert!(self.there(pod).is_some(), "released what is not there");
                    match self.actual.get_mut(&uid) {
                        // Its connections go on.
                        Some(captured) if result.is_ok() && !why.is_end() => {
                            captured.state = State::Leaving;
                        }
                        Some(_) if result.is_ok() => _ = self.actual.remove(&uid),
                        Some(_) | None => {}
                    }
                    self.reconciler.finished(&uid, Act::Release, result, self.now);
                }
                Action::Annotate(target) => {
                    let verified = self.actual.get(&target.uid).map(|c| c.state.clone());
                    assert_eq!(verified, Some(State::Verified), "annotated and not captured");
                    self.patch(&target, Act::Annotate, result);
                }
                Action::Unannotate(target) => self.patch(&target, Act::Unannotate, result),
                Action::Answer { uid, sandbox, result } => {
                    let pod = number(&uid);
                    if result.is_ok() && self.is_selected(pod) {
                        assert!(self.actual.contains_key(&uid), "answered before it is captured");
                    }
                    if self.waiting.get(&pod) == Some(&sandbox) {
                        self.waiting.remove(&pod);
                    }
                }
                Action::Event(_) => {}
            }
        }
    }

    fn patch(&mut self, target: &Target, act: Act, result: Result<(), Failure>) {
        if let Some(pod) = self.pods.get_mut(&number(&target.uid)).filter(|_| result.is_ok()) {
            let value = (crate::REDIRECTION_ANNOTATION, crate::REDIRECTION_ENABLED);
            let annotations = (act == Act::Annotate).then_some(value);
            pod.metadata.annotations = annotations.into_iter().collect();
        }
        let result = result.map_err(|_| Failure::new(Code::AnnotationFailed, "trouble"));
        self.reconciler.finished(&target.uid, act, result, self.now);
    }
}

proptest! {
    #[test]
    fn what_there_is_becomes_what_is_wanted(
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new();
        for happening in &happenings {
            world.happen(happening);
            world.act();
        }
        world.in_trouble = false;
        // Longer than the longest back-off.
        for _ in 0..400 {
            world.now += STEP;
            world.act();
        }
        world.relist();
        for _ in 0..20 {
            world.now += STEP;
            world.act();
        }
        for pod in 0..PODS {
            let captured = world.there(pod);
            let why = format!("pod {pod}: {captured:?} {:?}", world.reconciler);
            if world.is_selected(pod) {
                let captured = captured.expect(&why);
                prop_assert!(captured.source != Source::Cli, "{}", why);
                prop_assert!(captured.place != Place::Moved, "{}", why);
                prop_assert!(world.is_annotated(pod), "{}", why);
            } else if world.pods.contains_key(&pod) {
                prop_assert!(captured.is_none_or(|c| c.source == Source::Cli), "{}", why);
                prop_assert!(captured.is_some() || !world.is_annotated(pod), "{}", why);
            } else {
                let ends = captured.is_none_or(|c| c.place != Place::Empty || c.source == Source::Cli);
                prop_assert!(ends, "{}", why);
            }
        }
        prop_assert!(world.waiting.keys().all(|pod| !world.pods.contains_key(pod)), "an ADD without answer");
        world.now += Duration::from_hours(1);
        let actions = world.reconciler.reconcile(&world.actual, world.now);
        prop_assert!(actions.is_empty(), "{:?}", actions);
    }
}
