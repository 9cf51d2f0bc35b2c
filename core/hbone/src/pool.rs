//! Which tunnel carries a stream, when to dial another, and when to close one. Decisions only.
//!
//! The shell owns the sockets. It asks [`PoolMachine::checkout`] for each stream, tells what
//! became of dials, streams and tunnels, and after each input closes what
//! [`PoolMachine::poll_close`] names. Nothing here waits, so one slow dial holds up nobody else:
//! whoever was told to dial or to join asks again once that dial has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use model::Code;

/// Most streams at once in a tunnel, or fewer if the peer says so. The next stream takes another
/// tunnel.
pub const STREAMS_PER_TUNNEL_MAX: u32 = 100;
/// Most tunnels for one key, those being dialled included. With all of them full, a stream is
/// refused with `LIMIT_REACHED`.
pub const TUNNELS_PER_KEY_MAX: usize = 8;
/// Most tunnels of one pool, that is of one thread: about 40 KiB each when idle. When it is
/// reached, the tunnel that has been idle longest gives way; if none is idle, a stream that needs
/// a new one is refused with `LIMIT_REACHED`.
pub const TUNNELS_MAX: usize = 4096;
/// Most tunnels of one source pod in one pool, so that a pod which connects to everything leaves room for
/// the others of its node. When it is reached, the pod's own tunnel that has been idle longest gives
/// way; if none is idle, its stream is refused with `LIMIT_REACHED`.
pub const TUNNELS_PER_POD_MAX: usize = TUNNELS_MAX / 4;
/// How long a tunnel without streams is kept. Short, because a pod's address is soon reused.
pub const IDLE_DEFAULT: Duration = Duration::from_secs(10);

/// A tunnel's number. Never used again within a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(u64);

/// A pool's bounds.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Streams in one tunnel.
    pub streams_per_tunnel: u32,
    /// Tunnels of one key.
    pub tunnels_per_key: usize,
    /// Tunnels of one source pod.
    pub tunnels_per_pod: usize,
    /// Tunnels in all.
    pub tunnels: usize,
    /// Time without streams after which a tunnel is closed.
    pub idle: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            streams_per_tunnel: STREAMS_PER_TUNNEL_MAX,
            tunnels_per_key: TUNNELS_PER_KEY_MAX,
            tunnels_per_pod: TUNNELS_PER_POD_MAX,
            tunnels: TUNNELS_MAX,
            idle: IDLE_DEFAULT,
        }
    }
}

/// What to do for one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkout {
    /// Open it in this tunnel. It counts at once: report [`PoolMachine::stream_closed`] for it.
    Use(TunnelId),
    /// Dial a tunnel, report how it went under this number, then check out again.
    Dial(TunnelId),
    /// Wait for the end of this dial. Check out again if it succeeded, fail if it failed.
    Join(TunnelId),
    /// Refuse the stream.
    Refuse(Code),
}

/// A tunnel, or a dial, that the shell must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// An open tunnel without streams: the peer is told with GOAWAY.
    InOrder(TunnelId),
    /// A tunnel with its streams, or a dial.
    AtOnce(TunnelId),
}

/// Everything that two streams must share to share a tunnel.
pub trait PoolKey: Clone + Eq + Hash {
    /// Names a source pod.
    type Pod: Eq + Hash;

    /// The pod whose streams these are.
    fn pod(&self) -> Self::Pod;
}

/// The decisions of one pool.
#[derive(Debug)]
pub struct PoolMachine<K: PoolKey> {
    limits: PoolLimits,
    tunnels: BTreeMap<TunnelId, Tunnel<K>>,
    by_key: HashMap<K, Vec<TunnelId>>,
    /// How many tunnels a pod has, those being dialled included.
    by_pod: HashMap<K::Pod, usize>,
    /// Open tunnels without streams and since when, the longest first: asked for at every stream.
    idle: BTreeSet<(Instant, TunnelId)>,
    /// Bounded by `limits.tunnels`: each tunnel is put here once, when it is forgotten.
    to_close: VecDeque<Close>,
    next: u64,
    draining: bool,
}

#[derive(Debug)]
struct Tunnel<K> {
    key: K,
    state: State,
}

#[derive(Debug)]
enum State {
    /// How many streams wait for it, the one that dials included.
    Dialing {
        waiting: u32,
    },
    Open(Open),
}

#[derive(Debug)]
struct Open {
    streams: u32,
    limit: u32,
    stalled: bool,
    /// The peer wants no new streams.
    going_away: bool,
    /// Since when it has had no streams. Meaningless while it has some.
    idle_since: Instant,
}

impl Open {
    fn has_room(&self) -> bool {
        !self.going_away && self.streams < self.limit
    }
}

impl<K: PoolKey> PoolMachine<K> {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            tunnels: BTreeMap::new(),
            by_key: HashMap::new(),
            by_pod: HashMap::new(),
            idle: BTreeSet::new(),
            to_close: VecDeque::new(),
            next: 0,
            draining: false,
        }
    }

    /// Decides for one stream.
    pub fn checkout(&mut self, key: &K, now: Instant) -> Checkout {
        if let Some(id) = self.roomiest(key, false) {
            return self.take(id);
        }
        if let Some(id) = self.join(key) {
            return Checkout::Join(id);
        }
        let siblings = self.by_key.get(key).map_or(0, Vec::len);
        if siblings < self.limits.tunnels_per_key && self.make_room(key, now) {
            return Checkout::Dial(self.dial(key));
        }
        // Slow is better than refused.
        match self.roomiest(key, true) {
            Some(id) => self.take(id),
            None => Checkout::Refuse(Code::LimitReached),
        }
    }

    /// A dial succeeded; `peer_streams` is the peer's bound on streams, if it named one. False:
    /// the tunnel is not wanted any more and must be closed.
    #[must_use]
    pub fn dialled(&mut self, id: TunnelId, peer_streams: Option<u32>, now: Instant) -> bool {
        let limit = self.limit(peer_streams);
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return false };
        if matches!(tunnel.state, State::Dialing { .. }) {
            let open =
                Open { streams: 0, limit, stalled: false, going_away: false, idle_since: now };
            tunnel.state = State::Open(open);
            self.idle.insert((now, id));
        }
        true
    }

    /// A dial failed; all who joined it fail with it.
    pub fn dial_failed(&mut self, id: TunnelId) {
        self.forget(id);
    }

    /// The peer changed its bound on streams.
    pub fn peer_limit(&mut self, id: TunnelId, peer_streams: u32) {
        let limit = self.limit(Some(peer_streams));
        if let Some(open) = self.open(id) {
            open.limit = limit;
        }
    }

    /// A stream that was checked out with [`Checkout::Use`] ended, or could not be opened.
    pub fn stream_closed(&mut self, id: TunnelId, now: Instant) {
        let draining = self.draining;
        let Some(open) = self.open(id) else { return };
        // None: it was never checked out, and the tunnel is idle already.
        let Some(left) = open.streams.checked_sub(1) else { return };
        open.streams = left;
        if left > 0 {
            return;
        }
        open.idle_since = now;
        if open.going_away || draining {
            self.close(id);
        } else {
            self.idle.insert((now, id));
        }
    }

    /// The peer sent GOAWAY: no new streams; closed when the last one has ended.
    pub fn going_away(&mut self, id: TunnelId) {
        let Some(open) = self.open(id) else { return };
        open.going_away = true;
        if open.streams == 0 {
            self.close(id);
        }
    }

    /// The tunnel is gone, with all its streams. Needs no closing.
    pub fn lost(&mut self, id: TunnelId) {
        self.forget(id);
    }

    /// Slow readers hold so much of the tunnel's window that a new stream would suffer.
    pub fn stalled(&mut self, id: TunnelId) {
        if let Some(open) = self.open(id) {
            open.stalled = true;
        }
    }

    /// The tunnel flows again.
    pub fn resumed(&mut self, id: TunnelId) {
        if let Some(open) = self.open(id) {
            open.stalled = false;
        }
    }

    /// Closes at once, with their streams, the tunnels whose source pod or destination workload
    /// is gone. A dial under way is abandoned.
    pub fn retire(&mut self, gone: impl Fn(&K) -> bool) {
        let ids = self.tunnels.iter().filter(|(_, t)| gone(&t.key)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            self.close(id);
        }
    }

    /// Closes tunnels that have been idle for long enough.
    pub fn sweep(&mut self, now: Instant) {
        while let Some(&(since, id)) = self.idle.first()
            && now >= since + self.limits.idle
        {
            self.close(id);
        }
    }

    /// When [`Self::sweep`] will next find something, as far as is known.
    #[must_use]
    pub fn next_sweep(&self) -> Option<Instant> {
        self.idle.first().map(|(since, _)| *since + self.limits.idle)
    }

    /// The agent stops: a tunnel is closed as soon as it has no streams. Connections that were
    /// accepted before still get theirs.
    pub fn drain(&mut self) {
        self.draining = true;
        while let Some(&(_, id)) = self.idle.first() {
            self.close(id);
        }
    }

    /// The next tunnel, or dial, that the shell must end. Call until `None` after every input.
    pub fn poll_close(&mut self) -> Option<Close> {
        self.to_close.pop_front()
    }

    /// The open tunnel of the key with the fewest streams that has room for one more.
    fn roomiest(&self, key: &K, stalled: bool) -> Option<TunnelId> {
        let open = |id: &TunnelId| match &self.tunnels.get(id)?.state {
            State::Open(open) if open.has_room() && open.stalled == stalled => {
                Some((open.streams, *id))
            }
            State::Open(_) | State::Dialing { .. } => None,
        };
        self.by_key.get(key)?.iter().filter_map(open).min().map(|(_, id)| id)
    }

    fn take(&mut self, id: TunnelId) -> Checkout {
        if let Some(open) = self.open(id) {
            open.streams += 1;
            let since = (open.streams == 1).then_some(open.idle_since);
            if let Some(since) = since {
                self.idle.remove(&(since, id));
            }
        }
        Checkout::Use(id)
    }

    /// A dial of the key that not too many wait for: those beyond would not fit into its tunnel.
    fn join(&mut self, key: &K) -> Option<TunnelId> {
        let most = self.limits.streams_per_tunnel;
        for id in self.by_key.get(key)? {
            if let Some(Tunnel { state: State::Dialing { waiting }, .. }) = self.tunnels.get_mut(id)
                && *waiting < most
            {
                *waiting += 1;
                return Some(*id);
            }
        }
        None
    }

    fn dial(&mut self, key: &K) -> TunnelId {
        let id = TunnelId(self.next);
        self.next += 1;
        let state = State::Dialing { waiting: 1 };
        self.tunnels.insert(id, Tunnel { key: key.clone(), state });
        self.by_key.entry(key.clone()).or_default().push(id);
        *self.by_pod.entry(key.pod()).or_default() += 1;
        id
    }

    /// Is there, or can there be made, room for one more tunnel?
    fn make_room(&mut self, key: &K, now: Instant) -> bool {
        if !self.make_room_of(&key.pod(), now) {
            return false;
        }
        if self.tunnels.len() < self.limits.tunnels {
            return true;
        }
        self.sweep(now);
        if self.tunnels.len() >= self.limits.tunnels
            && let Some(&(_, id)) = self.idle.first()
        {
            self.close(id);
        }
        self.tunnels.len() < self.limits.tunnels
    }

    /// The same, within what a pod may have.
    fn make_room_of(&mut self, pod: &K::Pod, now: Instant) -> bool {
        let has_room = |pool: &Self| {
            pool.by_pod.get(pod).is_none_or(|count| *count < pool.limits.tunnels_per_pod)
        };
        if has_room(self) {
            return true;
        }
        self.sweep(now);
        if has_room(self) {
            return true;
        }
        // Looks through what is idle, at most the whole pool: only for a pod at its bound, which is
        // about to shake hands.
        let own = |id: &TunnelId| self.tunnels.get(id).is_some_and(|t| t.key.pod() == *pod);
        match self.idle.iter().map(|(_, id)| *id).find(own) {
            Some(id) => self.close(id),
            None => return false,
        }
        has_room(self)
    }

    fn open(&mut self, id: TunnelId) -> Option<&mut Open> {
        match &mut self.tunnels.get_mut(&id)?.state {
            State::Open(open) => Some(open),
            State::Dialing { .. } => None,
        }
    }

    fn close(&mut self, id: TunnelId) {
        let Some(tunnel) = self.forget(id) else { return };
        let idle = idle_since(&tunnel).is_some();
        self.to_close.push_back(if idle { Close::InOrder(id) } else { Close::AtOnce(id) });
    }

    fn forget(&mut self, id: TunnelId) -> Option<Tunnel<K>> {
        let tunnel = self.tunnels.remove(&id)?;
        if let Some(since) = idle_since(&tunnel) {
            self.idle.remove(&(since, id));
        }
        if let Some(ids) = self.by_key.get_mut(&tunnel.key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_key.remove(&tunnel.key);
            }
        }
        let pod = tunnel.key.pod();
        if let Some(count) = self.by_pod.get_mut(&pod) {
            *count -= 1;
            if *count == 0 {
                self.by_pod.remove(&pod);
            }
        }
        Some(tunnel)
    }

    fn limit(&self, peer_streams: Option<u32>) -> u32 {
        peer_streams.unwrap_or(u32::MAX).min(self.limits.streams_per_tunnel)
    }
}

fn idle_since<K>(tunnel: &Tunnel<K>) -> Option<Instant> {
    match &tunnel.state {
        State::Open(open) if open.streams == 0 => Some(open.idle_since),
        State::Open(_) | State::Dialing { .. } => None,
    }
}

#[cfg(test)]
mod tests;
