//! All short sequences of inputs, and the rules one by one.

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const SECOND: Duration = Duration::from_secs(1);
/// In the middle: no jitter.
const EVEN: f64 = 0.5;

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/ns/shop/sa/{name}")).expect("literal")
}

fn fresh(left: Duration) -> End {
    End::Issued(Life { age: Duration::ZERO, left })
}

/// A schedule with a clock.
#[derive(Clone)]
struct Bench {
    schedule: Schedule,
    now: Instant,
    running: Vec<(SpiffeId, Attempt)>,
}

impl Bench {
    fn new(at_once: usize) -> Self {
        Self { schedule: Schedule::new(at_once), now: Instant::now(), running: Vec::new() }
    }

    fn hold(&mut self, name: &str) {
        self.schedule.hold(&id(name), None, self.now, EVEN);
    }

    /// Starts what may start; returns their names in order.
    fn start(&mut self) -> Vec<String> {
        let mut started = Vec::new();
        while let Next::Start(id, attempt) = self.schedule.next(self.now) {
            started.push(id.service_account().to_owned());
            self.running.push((id, attempt));
        }
        started
    }

    fn finish(&mut self, end: End) -> Option<SpiffeId> {
        let (_, attempt) = self.running.remove(0);
        self.schedule.finished(attempt, end, self.now, EVEN)
    }

    /// Time until the next start.
    fn pause(&mut self) -> Option<Duration> {
        match self.schedule.next(self.now) {
            Next::Start(..) => panic!("it may start"),
            Next::Sleep(until) => until.map(|until| until - self.now),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[derive(Clone, Copy, Debug)]
enum Input {
    HoldA,
    HoldB,
    ReleaseA,
    DemandA,
    DemandB,
    Issued,
    Failed,
    Pass,
}

const INPUTS: [Input; 8] = [
    Input::HoldA,
    Input::HoldB,
    Input::ReleaseA,
    Input::DemandA,
    Input::DemandB,
    Input::Issued,
    Input::Failed,
    Input::Pass,
];

/// Everything that must hold after every input, whatever came before.
fn obey(bench: &mut Bench, held: [bool; 2], trace: &[Input]) {
    let started = bench.start();
    for name in &started {
        let is_held = if name == "a" { held[0] } else { held[1] };
        assert!(is_held, "{trace:?}: {name} was started and is not held");
    }
    assert!(bench.running.len() <= bench.schedule.at_once, "{trace:?}: too many under way");
    let current = ["a", "b"].map(|name| {
        let running = bench.running.iter().filter(|(of, _)| *of == id(name));
        let entry = bench.schedule.entries.get(&id(name));
        let attempt = entry.and_then(|entry| match entry.phase {
            Phase::Running(attempt) => Some(attempt),
            Phase::Waiting { .. } => None,
        });
        running.filter(|(_, of)| Some(*of) == attempt).count()
    });
    assert!(current.iter().all(|count| *count <= 1), "{trace:?}: one was asked for twice");
    for (name, is_held) in ["a", "b"].into_iter().zip(held) {
        assert_eq!(bench.schedule.entries.contains_key(&id(name)), is_held, "{trace:?}: {name}");
    }
    // Nobody is forgotten: who is held is asked for, or will be, or waits for a place.
    match bench.schedule.next(bench.now) {
        Next::Start(..) => panic!("{trace:?}: not all were started"),
        Next::Sleep(Some(until)) => assert!(until > bench.now, "{trace:?}: a wake-up in the past"),
        Next::Sleep(None) => {
            let is_full = bench.running.len() == bench.schedule.at_once;
            let all_run = current.iter().zip(held).all(|(count, held)| !held || *count == 1);
            assert!(is_full || all_run, "{trace:?}: nothing will ever happen");
        }
    }
}

fn walk(bench: &Bench, held: [bool; 2], trace: &mut Vec<Input>, depth: usize, count: &mut u64) {
    *count += 1;
    if depth == 0 {
        return;
    }
    for input in INPUTS {
        let (mut bench, mut held) = (bench.clone(), held);
        match input {
            Input::HoldA => {
                bench.hold("a");
                held[0] = true;
            }
            Input::HoldB => {
                bench.hold("b");
                held[1] = true;
            }
            Input::ReleaseA => {
                bench.schedule.release(&id("a"));
                held[0] = false;
            }
            Input::DemandA => bench.schedule.demand(&id("a"), bench.now),
            Input::DemandB => bench.schedule.demand(&id("b"), bench.now),
            Input::Issued | Input::Failed if bench.running.is_empty() => continue,
            Input::Issued => drop(bench.finish(fresh(SECOND * 20))),
            Input::Failed => drop(bench.finish(End::Failed)),
            Input::Pass => bench.pass(SECOND * 3),
        }
        trace.push(input);
        obey(&mut bench, held, trace);
        walk(&bench, held, trace, depth - 1, count);
        trace.pop();
    }
}

#[test]
fn every_short_sequence_obeys_the_rules() {
    for (at_once, depth, least) in [(1, 6, 100_000), (2, 5, 15_000)] {
        let mut count = 0;
        walk(&Bench::new(at_once), [false, false], &mut Vec::new(), depth, &mut count);
        assert!(count > least, "{count} sequences");
    }
}

#[test]
fn a_certificate_is_renewed_at_half_of_its_life() {
    for (life, pause) in [(HOUR * 24, HOUR * 12), (SECOND * 20, SECOND * 10), (SECOND, SECOND)] {
        let mut bench = Bench::new(8);
        bench.hold("a");
        assert_eq!(bench.start(), ["a"]);
        assert_eq!(bench.finish(fresh(life)), Some(id("a")));
        assert_eq!(bench.pause(), Some(pause), "{life:?}");
        bench.pass(pause);
        assert_eq!(bench.start(), ["a"]);
    }
}

#[test]
fn renewals_are_spread() {
    let pause = |random: f64| {
        let mut bench = Bench::new(8);
        bench.hold("a");
        bench.start();
        let (_, attempt) = bench.running.remove(0);
        bench.schedule.finished(attempt, fresh(HOUR * 2), bench.now, random);
        bench.pause().expect("a time").as_secs()
    };
    assert_eq!([pause(0.0), pause(0.5), pause(1.0), pause(7.0)], [3240, 3600, 3960, 3960]);
}

#[test]
fn one_that_is_kept_is_renewed_when_it_would_have_been() {
    for (age, left, want) in [(1, 19, 9), (9, 11, 1), (15, 5, 1), (0, 20, 10)] {
        let mut bench = Bench::new(8);
        let life = Life { age: SECOND * age, left: SECOND * left };
        bench.schedule.hold(&id("a"), Some(life), bench.now, EVEN);
        assert_eq!(bench.pause(), Some(SECOND * want), "{age} of {}", age + left);
    }
}

#[test]
fn failures_are_answered_with_growing_pauses() {
    let mut bench = Bench::new(8);
    bench.hold("a");
    for want in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        assert_eq!(bench.start(), ["a"]);
        bench.finish(End::Failed);
        assert_eq!(bench.pause(), Some(SECOND * want));
        bench.pass(SECOND * want);
    }
    bench.start();
    bench.finish(fresh(HOUR));
    bench.pass(HOUR / 2);
    bench.start();
    bench.finish(End::Failed);
    assert_eq!(bench.pause(), Some(SECOND), "a success forgets failures");
}

#[test]
fn the_nearer_the_end_the_shorter_the_pauses() {
    let mut bench = Bench::new(8);
    bench.hold("a");
    bench.start();
    bench.finish(fresh(SECOND * 20));
    bench.pass(SECOND * 10);
    let mut tries = 0;
    let end = bench.now + SECOND * 10;
    while bench.now < end {
        bench.start();
        bench.finish(End::Failed);
        let pause = bench.pause().expect("another try");
        assert!(pause <= SECOND * 5 / 2 && pause >= SECOND, "{pause:?}");
        bench.pass(pause);
        tries += 1;
    }
    assert!(tries >= 5, "{tries}");
}

#[test]
fn who_is_waited_for_goes_first_and_renewals_last() {
    let mut bench = Bench::new(1);
    for name in ["renewed", "late"] {
        bench.hold(name);
        bench.start();
        bench.finish(fresh(if name == "late" { SECOND * 20 } else { HOUR }));
    }
    bench.pass(HOUR / 2);
    bench.hold("new");
    bench.hold("waited-for");
    bench.schedule.demand(&id("waited-for"), bench.now);
    let mut order = Vec::new();
    for _ in 0..4 {
        order.extend(bench.start());
        bench.finish(fresh(HOUR));
    }
    // The one whose certificate has lapsed counts as waited for, and is due for longest.
    assert_eq!(order, ["late", "waited-for", "new", "renewed"]);
}

#[test]
fn a_waiting_connection_shortens_a_pause_but_not_below_a_bound() {
    let mut bench = Bench::new(8);
    bench.hold("a");
    for want in [1, 2, 4, 8] {
        bench.start();
        bench.finish(End::Failed);
        bench.pass(SECOND * want);
    }
    bench.start();
    bench.finish(End::Failed);
    assert_eq!(bench.pause(), Some(SECOND * 16));
    for _ in 0..1000 {
        bench.schedule.demand(&id("a"), bench.now);
    }
    assert_eq!(bench.pause(), Some(RETRY_WAITED_FOR));
    bench.pass(SECOND * 5);
    bench.schedule.demand(&id("a"), bench.now);
    assert_eq!(bench.start(), ["a"]);
}

#[test]
fn only_so_many_are_under_way_and_released_ones_count() {
    let mut bench = Bench::new(ISSUES_AT_ONCE);
    for n in 0..20 {
        bench.hold(&format!("a{n}"));
    }
    assert_eq!(bench.start().len(), ISSUES_AT_ONCE);
    let released: Vec<_> = bench.running.iter().map(|(id, _)| id.clone()).collect();
    for id in &released {
        bench.schedule.release(id);
    }
    assert_eq!(bench.start().len(), 0);
    assert_eq!(bench.finish(fresh(HOUR)), None, "nobody wants it any more");
    assert_eq!(bench.start().len(), 1);
}

#[test]
fn an_answer_for_an_earlier_holder_is_not_the_new_ones() {
    let mut bench = Bench::new(8);
    bench.hold("a");
    bench.start();
    bench.schedule.release(&id("a"));
    bench.hold("a");
    assert_eq!(bench.start(), ["a"]);
    assert_eq!(bench.finish(fresh(HOUR)), None);
    assert_eq!(bench.finish(fresh(HOUR)), Some(id("a")));
    assert_eq!(bench.schedule.finished(Attempt(99), End::Failed, bench.now, EVEN), None);
}
