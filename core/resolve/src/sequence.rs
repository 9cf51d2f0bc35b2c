//! Workloads in an order, found by place or by share of their capacity.

use std::cmp::Ordering;
use std::sync::Arc;

use model::Workload;
use smallvec::SmallVec;

use crate::site::Site;

/// Most members of one run; one more splits it. A change copies one run (some microseconds) and
/// the list of runs: 40 to 80 of them for 10,000 members.
const RUN_MAX: usize = 256;
/// Neighbours that together hold no more are joined when one of them shrinks.
const RUN_JOIN: usize = RUN_MAX / 2;

/// A sorted sequence of workloads that knows the capacity before each. Copies share memory; a
/// change copies one run. What it holds does not depend on the order of the changes.
///
/// The caller brings the order with every call; it must be total and always the same.
#[derive(Clone, Debug)]
pub(crate) struct Sequence<T> {
    /// Nearly always one.
    runs: SmallVec<[Run<T>; 1]>,
}

/// What a sequence is made of.
pub(crate) trait Member: Clone {
    fn workload(&self) -> &Arc<Workload>;
}

#[derive(Clone, Debug)]
struct Run<T> {
    /// Capacity of everything up to and including this run. At most 2^32 workloads of 2^32.
    end: u64,
    part: Arc<Part<T>>,
}

/// The members of a run, and apart from them what is searched for: a search then stays within a
/// few lines of the cache. A dozen keys are stored in place.
#[derive(Clone, Debug)]
struct Part<T> {
    keys: SmallVec<[Key; 12]>,
    members: Vec<T>,
}

#[derive(Clone, Debug)]
struct Key {
    /// Capacity up to and including this one, from the start of the run.
    end: u64,
    site: Arc<Site>,
}

/// A position in a sequence: between two members, or at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    run: usize,
    member: usize,
}

impl Position {
    /// Where everything starts.
    pub(crate) const START: Self = Self { run: 0, member: 0 };
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Self { runs: SmallVec::new() }
    }
}

impl<T: Member> Sequence<T> {
    /// From members in order.
    pub(crate) fn from_sorted(sorted: &[(Arc<Site>, T)]) -> Self {
        let run = |members: &[(Arc<Site>, T)]| {
            let key = |(site, _): &(Arc<Site>, T)| Key { end: 0, site: site.clone() };
            let mut part = Part {
                keys: members.iter().map(key).collect(),
                members: members.iter().map(|(_, member)| member.clone()).collect(),
            };
            part.sum();
            Run { end: 0, part: Arc::new(part) }
        };
        let mut sequence = Self { runs: sorted.chunks(RUN_JOIN).map(run).collect() };
        sequence.sum();
        sequence
    }

    pub(crate) fn len(&self) -> usize {
        self.runs.iter().map(|run| run.part.keys.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<Site>, &T)> {
        self.runs
            .iter()
            .flat_map(|run| run.part.keys.iter().map(|key| &key.site).zip(&run.part.members))
    }

    /// Adds a member, or replaces the equal one.
    pub(crate) fn insert(
        &mut self,
        site: &Arc<Site>,
        member: T,
        order: impl Fn((&Site, &Workload), (&Site, &Workload)) -> Ordering,
    ) {
        let (index, found) = self.search((site, member.workload()), order);
        let Some(run) = self.runs.get_mut(index) else {
            *self = Self::from_sorted(&[(site.clone(), member)]);
            return;
        };
        let part = Arc::make_mut(&mut run.part);
        match found {
            Ok(place) => {
                if let Some(equal) = part.members.get_mut(place) {
                    *equal = member;
                }
            }
            Err(place) => {
                part.keys.insert(place, Key { end: 0, site: site.clone() });
                part.members.insert(place, member);
            }
        }
        if part.keys.len() > RUN_MAX {
            let mut second = Part {
                keys: part.keys.drain(RUN_MAX / 2..).collect(),
                members: part.members.split_off(RUN_MAX / 2),
            };
            second.sum();
            part.sum();
            self.runs.insert(index + 1, Run { end: 0, part: Arc::new(second) });
        } else {
            part.sum();
        }
        self.sum();
    }

    /// Takes the equal member away, if it is there.
    pub(crate) fn remove(
        &mut self,
        (site, workload): (&Site, &Workload),
        order: impl Fn((&Site, &Workload), (&Site, &Workload)) -> Ordering,
    ) {
        let (index, Ok(place)) = self.search((site, workload), order) else { return };
        let Some(run) = self.runs.get_mut(index) else { return };
        let part = Arc::make_mut(&mut run.part);
        part.keys.remove(place);
        part.members.remove(place);
        part.sum();
        self.join(index);
        self.sum();
    }

    /// The run in which a member is or would be, and where in it.
    fn search(
        &self,
        wanted: (&Site, &Workload),
        order: impl Fn((&Site, &Workload), (&Site, &Workload)) -> Ordering,
    ) -> (usize, Result<usize, usize>) {
        let starts_after =
            |run: &Run<T>| run.part.get(0).is_some_and(|first| order(first, wanted).is_gt());
        let index = self.runs.partition_point(|run| !starts_after(run)).saturating_sub(1);
        let Some(run) = self.runs.get(index) else { return (index, Err(0)) };
        // By index, for keys and members are apart.
        let (mut low, mut high) = (0, run.part.keys.len());
        while low < high {
            let middle = low.midpoint(high);
            match run.part.get(middle).map_or(Ordering::Greater, |entry| order(entry, wanted)) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return (index, Ok(middle)),
                Ordering::Greater => high = middle,
            }
        }
        (index, Err(low))
    }

    /// Joins a run that shrank with a neighbour, if both are small; drops it if it is empty.
    fn join(&mut self, index: usize) {
        let len = |index: usize| self.runs.get(index).map(|run| run.part.keys.len());
        let Some(own) = len(index) else { return };
        if own == 0 {
            self.runs.remove(index);
            return;
        }
        let first = match (index.checked_sub(1), len(index + 1)) {
            (Some(before), _) if len(before).is_some_and(|len| len + own <= RUN_JOIN) => before,
            (_, Some(after)) if own + after <= RUN_JOIN => index,
            _ => return,
        };
        let second = self.runs.remove(first + 1);
        if let Some(run) = self.runs.get_mut(first) {
            let part = Arc::make_mut(&mut run.part);
            part.keys.extend(second.part.keys.iter().cloned());
            part.members.extend(second.part.members.iter().cloned());
            part.sum();
        }
    }

    fn sum(&mut self) {
        let mut end = 0_u64;
        for run in &mut self.runs {
            end = end.saturating_add(run.part.keys.last().map_or(0, |last| last.end));
            run.end = end;
        }
    }

    /// The position before the first site for which `before` is false. True ones come first.
    pub(crate) fn partition_point(&self, before: impl Fn(&Site) -> bool) -> Position {
        let holds = |run: &Run<T>| run.part.keys.first().is_some_and(|first| before(&first.site));
        let run = self.runs.partition_point(holds).saturating_sub(1);
        let keys = self.runs.get(run).map_or(&[][..], |run| &run.part.keys);
        Position { run, member: keys.partition_point(|key| before(&key.site)) }
    }

    /// The position before a member, if it is there.
    pub(crate) fn find(
        &self,
        wanted: (&Site, &Workload),
        order: impl Fn((&Site, &Workload), (&Site, &Workload)) -> Ordering,
    ) -> Option<Position> {
        let (run, found) = self.search(wanted, order);
        // In the form that `partition_point` gives: at the end of a run, not at the start.
        let position = match (found.ok()?, run.checked_sub(1)) {
            (0, Some(run)) => Position { run, member: self.runs.get(run)?.part.keys.len() },
            (member, _) => Position { run, member },
        };
        Some(position)
    }

    /// Where everything ends.
    pub(crate) fn end(&self) -> Position {
        let member = self.runs.last().map_or(0, |run| run.part.keys.len());
        Position { run: self.runs.len().saturating_sub(1), member }
    }

    /// The sites before and after a position.
    pub(crate) fn around(&self, position: Position) -> [Option<&Site>; 2] {
        let key = |run: Option<usize>, member: Option<usize>| {
            let keys = &self.runs.get(run?)?.part.keys;
            keys.get(member.unwrap_or(keys.len().saturating_sub(1)))
        };
        let Position { run, member } = position;
        let before = match member.checked_sub(1) {
            Some(member) => key(Some(run), Some(member)),
            None => key(run.checked_sub(1), None),
        };
        let after = key(Some(run), Some(member)).or_else(|| key(run.checked_add(1), Some(0)));
        [before, after].map(|key| key.map(|key| &*key.site))
    }

    /// Capacity of everything before a position.
    pub(crate) fn capacity_before(&self, position: Position) -> u64 {
        let runs = position.run.checked_sub(1).and_then(|run| self.runs.get(run));
        let within = position
            .member
            .checked_sub(1)
            .and_then(|member| self.runs.get(position.run)?.part.keys.get(member))
            .map(|key| key.end);
        runs.map_or(0, |run| run.end).saturating_add(within.unwrap_or(0))
    }

    /// The member whose share of the capacity holds a point.
    pub(crate) fn at(&self, point: u64) -> Option<&T> {
        let index = self.runs.partition_point(|run| run.end <= point);
        let before = index.checked_sub(1).and_then(|run| self.runs.get(run));
        let within = point.saturating_sub(before.map_or(0, |run| run.end));
        let part = &self.runs.get(index)?.part;
        part.members.get(part.keys.partition_point(|key| key.end <= within))
    }
}

impl<T: Member> Part<T> {
    fn get(&self, index: usize) -> Option<(&Site, &Workload)> {
        Some((&self.keys.get(index)?.site, self.members.get(index)?.workload()))
    }

    fn sum(&mut self) {
        let mut end = 0_u64;
        for (key, member) in self.keys.iter_mut().zip(&self.members) {
            end = end.saturating_add(u64::from(member.workload().capacity));
            key.end = end;
        }
    }
}

impl Member for Arc<Workload> {
    fn workload(&self) -> &Arc<Workload> {
        self
    }
}

#[cfg(test)]
mod tests;
