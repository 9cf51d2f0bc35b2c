//! Table cases, and every short sequence of inputs against what must always hold.
#![expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]

use super::*;

/// Written `pod/destination`, or just a pod that has one.
impl PoolKey for &'static str {
    type Pod = &'static str;

    fn pod(&self) -> &'static str {
        self.split_once('/').map_or(*self, |(pod, _)| pod)
    }
}

const SMALL: PoolLimits = PoolLimits {
    streams_per_tunnel: 2,
    tunnels_per_key: 2,
    tunnels_per_pod: 2,
    tunnels: 3,
    idle: Duration::from_secs(10),
};

fn pool() -> (PoolMachine<&'static str>, Instant) {
    (PoolMachine::new(SMALL), Instant::now())
}

fn dial(pool: &mut PoolMachine<&'static str>, key: &'static str, now: Instant) -> TunnelId {
    let Checkout::Dial(id) = pool.checkout(&key, now) else { panic!("must dial") };
    assert!(pool.dialled(id, None, now));
    id
}

fn closed(pool: &mut PoolMachine<&'static str>) -> Vec<Close> {
    std::iter::from_fn(|| pool.poll_close()).collect()
}

/// Tunnels known, those being dialled included, and streams in all of them.
fn sizes(pool: &PoolMachine<&'static str>) -> (usize, u64) {
    let streams = |t: &Tunnel<_>| match &t.state {
        State::Dialing { .. } => 0,
        State::Open(open) => u64::from(open.streams),
    };
    (pool.tunnels.len(), pool.tunnels.values().map(streams).sum())
}

#[test]
fn joins_a_dial_up_to_its_capacity_then_dials_another() {
    let (mut pool, now) = pool();
    let Checkout::Dial(first) = pool.checkout(&"a", now) else { panic!("must dial") };
    assert_eq!(pool.checkout(&"a", now), Checkout::Join(first));
    let Checkout::Dial(second) = pool.checkout(&"a", now) else { panic!("must dial") };
    assert_ne!(first, second);
    assert_eq!(pool.checkout(&"a", now), Checkout::Join(second));
    assert_eq!(pool.checkout(&"a", now), Checkout::Refuse(Code::LimitReached));
    // One key's slow dial does not concern another.
    assert!(matches!(pool.checkout(&"b", now), Checkout::Dial(_)));
    pool.dial_failed(first);
    assert!(pool.dialled(second, None, now));
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(second));
}

#[test]
fn the_tunnel_with_the_fewest_streams_is_chosen() {
    let (mut pool, now) = pool();
    let first = dial(&mut pool, "a", now);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(first));
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(first));
    let second = dial(&mut pool, "a", now);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(second));
    pool.stream_closed(first, now);
    pool.stream_closed(first, now);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(first));
}

#[test]
fn the_peers_bound_counts() {
    let (mut pool, now) = pool();
    let Checkout::Dial(id) = pool.checkout(&"a", now) else { panic!("must dial") };
    assert!(pool.dialled(id, Some(1), now));
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(id));
    assert!(matches!(pool.checkout(&"a", now), Checkout::Dial(_)));
    pool.peer_limit(id, 7);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(id));
}

#[test]
fn a_stalled_tunnel_is_the_last_resort() {
    let (mut pool, now) = pool();
    let slow = dial(&mut pool, "a", now);
    pool.stalled(slow);
    let other = dial(&mut pool, "a", now);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(other));
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(other));
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(slow));
    pool.stream_closed(slow, now);
    pool.resumed(slow);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(slow));
}

#[test]
fn idle_tunnels_close_and_give_way() {
    let (mut pool, now) = pool();
    let a = dial(&mut pool, "a", now);
    let b = dial(&mut pool, "b", now + Duration::from_secs(1));
    let c = dial(&mut pool, "c", now + Duration::from_secs(2));
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(a));
    // Full: the one that has been idle longest gives way, a busy one never.
    assert!(matches!(pool.checkout(&"d", now + Duration::from_secs(3)), Checkout::Dial(_)));
    assert_eq!(closed(&mut pool), [Close::InOrder(b)]);
    assert_eq!(pool.next_sweep(), Some(now + Duration::from_secs(12)));
    pool.sweep(now + Duration::from_secs(11));
    assert_eq!(closed(&mut pool), []);
    pool.sweep(now + Duration::from_secs(12));
    assert_eq!(closed(&mut pool), [Close::InOrder(c)]);
    pool.stream_closed(a, now + Duration::from_secs(20));
    pool.sweep(now + Duration::from_secs(30));
    assert_eq!(closed(&mut pool), [Close::InOrder(a)]);
}

#[test]
fn a_pod_at_its_bound_gives_way_to_itself() {
    let (mut pool, now) = pool();
    let second = Duration::from_secs(1);
    let others = dial(&mut pool, "q/1", now);
    let first = dial(&mut pool, "p/1", now + second);
    let other = dial(&mut pool, "p/2", now + second * 2);
    // Its own that has been idle longest, though another's has been for longer.
    let third = dial(&mut pool, "p/3", now + second * 3);
    assert_eq!(closed(&mut pool), [Close::InOrder(first)]);
    // What it uses stays; without any that is idle, it is refused, and others are not.
    assert_eq!(pool.checkout(&"p/2", now), Checkout::Use(other));
    assert_eq!(pool.checkout(&"p/3", now), Checkout::Use(third));
    assert_eq!(pool.checkout(&"p/4", now), Checkout::Refuse(Code::LimitReached));
    assert_eq!(closed(&mut pool), []);
    assert_eq!(pool.checkout(&"p/3", now), Checkout::Use(third), "a tunnel that it has serves on");
    assert!(matches!(pool.checkout(&"r/1", now + second * 3), Checkout::Dial(_)));
    assert_eq!(closed(&mut pool), [Close::InOrder(others)]);
    // A dial counts as well as a tunnel, and a place that is free again is free.
    pool.lost(other);
    let Checkout::Dial(fourth) = pool.checkout(&"p/4", now) else { panic!("must dial") };
    assert_eq!(pool.checkout(&"p/5", now), Checkout::Refuse(Code::LimitReached));
    pool.dial_failed(fourth);
    assert!(matches!(pool.checkout(&"p/5", now), Checkout::Dial(_)));
}

#[test]
fn a_pods_bound_leaves_tunnels_that_are_due_no_place() {
    let (mut pool, now) = pool();
    let [one, two] = ["p/1", "p/2"].map(|key| dial(&mut pool, key, now));
    let late = now + SMALL.idle;
    assert!(matches!(pool.checkout(&"p/3", late), Checkout::Dial(_)));
    assert_eq!(closed(&mut pool), [Close::InOrder(one), Close::InOrder(two)]);
}

#[test]
fn goaway_lets_streams_finish_and_removal_does_not() {
    let (mut pool, now) = pool();
    let a = dial(&mut pool, "a", now);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(a));
    pool.going_away(a);
    assert!(matches!(pool.checkout(&"a", now), Checkout::Dial(_)));
    assert_eq!(closed(&mut pool), []);
    pool.stream_closed(a, now);
    assert_eq!(closed(&mut pool), [Close::InOrder(a)]);
    let b = dial(&mut pool, "b", now);
    assert_eq!(pool.checkout(&"b", now), Checkout::Use(b));
    pool.retire(|key| *key == "b");
    assert_eq!(closed(&mut pool), [Close::AtOnce(b)]);
    pool.stream_closed(b, now);
    assert_eq!(closed(&mut pool), []);
}

#[test]
fn a_retired_dial_is_not_wanted_any_more() {
    let (mut pool, now) = pool();
    let Checkout::Dial(id) = pool.checkout(&"a", now) else { panic!("must dial") };
    pool.retire(|_| true);
    assert_eq!(closed(&mut pool), [Close::AtOnce(id)]);
    assert!(!pool.dialled(id, None, now));
}

#[test]
fn draining_serves_what_was_accepted_and_empties() {
    let (mut pool, now) = pool();
    let a = dial(&mut pool, "a", now);
    let b = dial(&mut pool, "b", now);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(a));
    pool.drain();
    assert_eq!(closed(&mut pool), [Close::InOrder(b)]);
    assert_eq!(pool.checkout(&"a", now), Checkout::Use(a));
    let c = dial(&mut pool, "c", now);
    assert_eq!(pool.checkout(&"c", now), Checkout::Use(c));
    for id in [a, c] {
        pool.stream_closed(id, now);
    }
    assert_eq!(closed(&mut pool), [Close::InOrder(c)]);
    pool.stream_closed(a, now);
    assert_eq!(closed(&mut pool), [Close::InOrder(a)]);
    assert_eq!(sizes(&pool), (0, 0));
}

/// What a shell would know: which tunnels it has, and how many streams are in each.
#[derive(Default)]
struct Shell {
    dialing: Vec<TunnelId>,
    open: BTreeMap<TunnelId, u32>,
    away: Vec<TunnelId>,
}

impl Shell {
    fn step(&mut self, pool: &mut PoolMachine<&'static str>, kind: usize, now: Instant) {
        let first_open = self.open.keys().next().copied();
        let last_open = self.open.keys().next_back().copied();
        match kind {
            0..=2 => {
                let key = ["p/a", "p/b", "q/c"][kind];
                match pool.checkout(&key, now) {
                    Checkout::Use(id) => {
                        assert!(!self.away.contains(&id), "GOAWAY was received");
                        let streams = self.open.get_mut(&id).expect("open");
                        *streams += 1;
                        assert!(*streams <= SMALL.streams_per_tunnel);
                    }
                    Checkout::Dial(id) => {
                        assert!(!self.dialing.contains(&id) && !self.open.contains_key(&id));
                        self.dialing.push(id);
                    }
                    Checkout::Join(id) => assert!(self.dialing.contains(&id)),
                    Checkout::Refuse(code) => assert_eq!(code, Code::LimitReached),
                }
            }
            3 | 4 if !self.dialing.is_empty() => {
                let id = self.dialing.remove(0);
                if kind == 3 {
                    assert!(pool.dialled(id, None, now));
                    self.open.insert(id, 0);
                } else {
                    pool.dial_failed(id);
                }
            }
            5 => {
                if let Some((id, streams)) = self.open.iter_mut().find(|(_, n)| **n > 0) {
                    *streams -= 1;
                    pool.stream_closed(*id, now);
                }
            }
            6 => {
                if let Some(id) = first_open {
                    self.away.push(id);
                    pool.going_away(id);
                }
            }
            7 => {
                if let Some(id) = last_open {
                    self.open.remove(&id);
                    pool.lost(id);
                }
            }
            8 => {
                if let Some(id) = first_open {
                    pool.stalled(id);
                }
            }
            9 => pool.retire(|key| *key == "p/a"),
            _ => pool.sweep(now + SMALL.idle),
        }
        while let Some(close) = pool.poll_close() {
            let (Close::InOrder(id) | Close::AtOnce(id)) = close;
            let known = self.open.remove(&id);
            let dialed =
                self.dialing.iter().position(|d| *d == id).map(|at| self.dialing.remove(at));
            assert!(known.is_some() != dialed.is_some(), "closed once, and known");
            assert_eq!(close == Close::InOrder(id), known == Some(0), "streams end at once");
        }
        let streams = self.open.values().copied().map(u64::from).sum::<u64>();
        assert_eq!(sizes(pool), (self.open.len() + self.dialing.len(), streams));
        assert!(pool.tunnels.len() <= SMALL.tunnels);
        let idle = pool.tunnels.iter().filter_map(|(id, t)| Some((idle_since(t)?, *id)));
        assert!(pool.idle.iter().copied().eq(idle.collect::<BTreeSet<_>>()));
        assert!(pool.by_key.values().all(|ids| (1..=SMALL.tunnels_per_key).contains(&ids.len())));
    }
}

#[test]
fn exhaustive() {
    const KINDS: usize = 11;
    const LENGTH: u32 = 6;
    let now = Instant::now();
    for seed in 0..KINDS.pow(LENGTH) {
        let (mut pool, mut shell, mut left) = (PoolMachine::new(SMALL), Shell::default(), seed);
        for _ in 0..LENGTH {
            shell.step(&mut pool, left % KINDS, now);
            left /= KINDS;
        }
        for pod in ["p", "q"] {
            let tunnels = pool.tunnels.values().filter(|tunnel| tunnel.key.pod() == pod).count();
            assert_eq!(pool.by_pod.get(pod).copied().unwrap_or(0), tunnels, "{seed}");
            assert!(tunnels <= SMALL.tunnels_per_pod, "{seed}");
        }
        pool.drain();
        while pool.poll_close().is_some() {}
        shell.dialing.drain(..).for_each(|id| pool.dial_failed(id));
        for (id, streams) in shell.open {
            (0..streams).for_each(|_| pool.stream_closed(id, now));
        }
        assert_eq!(sizes(&pool), (0, 0), "{seed}");
        assert!(pool.by_key.is_empty() && pool.by_pod.is_empty() && pool.idle.is_empty(), "{seed}");
    }
}
