//! Workloads in an order, found by place or by share of their capacity.

use std::cmp::Ordering;
use std::sync::Arc;

use model::Workload;

/// Most workloads in one run; one more splits it. A change copies one run (some microseconds) and
/// the list of runs: 40 to 80 of them for 10,000 workloads.
const RUN_MAX: usize = 256;
/// Neighbours that together hold no more are joined when one of them shrinks.
const RUN_JOIN: usize = RUN_MAX / 2;

/// A sorted sequence of workloads that knows the capacity before each. Copies share memory; a
/// change copies one run. What it holds does not depend on the order of the changes.
///
/// The caller brings the order with every call; it must be total and always the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence {
    runs: Vec<Run>,
}

#[derive(Clone, Debug)]
struct Run {
    /// Capacity of everything up to and including this run. At most 2^32 workloads of 2^32.
    end: u64,
    members: Arc<Members>,
}

#[derive(Clone, Debug, Default)]
struct Members {
    workloads: Vec<Arc<Workload>>,
    /// Capacity up to and including each, from the start of the run.
    ends: Vec<u64>,
}

/// A place in a sequence: between two workloads, or at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    run: usize,
    member: usize,
}

impl Sequence {
    /// From workloads in order.
    pub(crate) fn from_sorted(workloads: &[Arc<Workload>]) -> Self {
        let mut sequence = Self::default();
        for part in workloads.chunks(RUN_JOIN) {
            let run = Run { end: 0, members: Arc::new(Members::of(part.to_vec())) };
            sequence.runs.push(run);
        }
        sequence.sum();
        sequence
    }

    pub(crate) fn len(&self) -> usize {
        self.runs.iter().map(|run| run.members.workloads.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.runs.iter().flat_map(|run| run.members.workloads.iter())
    }

    /// Adds a workload, or replaces the equal one.
    pub(crate) fn insert(
        &mut self,
        workload: Arc<Workload>,
        order: impl Fn(&Workload, &Workload) -> Ordering,
    ) {
        let (index, found) = self.search(&workload, order);
        let Some(run) = self.runs.get_mut(index) else {
            *self = Self::from_sorted(&[workload]);
            return;
        };
        let members = Arc::make_mut(&mut run.members);
        match found {
            Ok(place) => {
                if let Some(equal) = members.workloads.get_mut(place) {
                    *equal = workload;
                }
            }
            Err(place) => members.workloads.insert(place, workload),
        }
        if members.workloads.len() > RUN_MAX {
            let second = Members::of(members.workloads.split_off(RUN_MAX / 2));
            members.sum();
            self.runs.insert(index + 1, Run { end: 0, members: Arc::new(second) });
        } else {
            members.sum();
        }
        self.sum();
    }

    /// Takes the equal workload away and returns it.
    pub(crate) fn remove(
        &mut self,
        workload: &Workload,
        order: impl Fn(&Workload, &Workload) -> Ordering,
    ) -> Option<Arc<Workload>> {
        let (index, found) = self.search(workload, order);
        let members = Arc::make_mut(&mut self.runs.get_mut(index)?.members);
        let removed = members.workloads.remove(found.ok()?);
        members.sum();
        self.join(index);
        self.sum();
        Some(removed)
    }

    /// The run in which a workload is or would be, and where in it.
    fn search(
        &self,
        workload: &Workload,
        order: impl Fn(&Workload, &Workload) -> Ordering,
    ) -> (usize, Result<usize, usize>) {
        let starts_after = |run: &Run| {
            let first = run.members.workloads.first();
            first.is_some_and(|first| order(first, workload) == Ordering::Greater)
        };
        let index = self.runs.partition_point(|run| !starts_after(run)).saturating_sub(1);
        let members = self.runs.get(index).map_or(&[][..], |run| &run.members.workloads);
        (index, members.binary_search_by(|other| order(other, workload)))
    }

    /// Joins a run that shrank with a neighbour, if both are small; drops it if it is empty.
    fn join(&mut self, index: usize) {
        let len = |index: usize| self.runs.get(index).map(|run| run.members.workloads.len());
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
            let members = Arc::make_mut(&mut run.members);
            members.workloads.extend(second.members.workloads.iter().cloned());
            members.sum();
        }
    }

    fn sum(&mut self) {
        let mut end = 0_u64;
        for run in &mut self.runs {
            end = end.saturating_add(run.members.capacity());
            run.end = end;
        }
    }

    /// The place before the first workload for which `before` is false. True ones come first.
    pub(crate) fn partition_point(&self, before: impl Fn(&Workload) -> bool) -> Place {
        let holds = |run: &Run| run.members.workloads.first().is_some_and(|first| before(first));
        let run = self.runs.partition_point(holds).saturating_sub(1);
        let members = self.runs.get(run).map_or(&[][..], |run| &run.members.workloads);
        Place { run, member: members.partition_point(|workload| before(workload)) }
    }

    /// Where everything starts.
    pub(crate) fn start() -> Place {
        Place { run: 0, member: 0 }
    }

    /// Where everything ends.
    pub(crate) fn end(&self) -> Place {
        let member = self.runs.last().map_or(0, |run| run.members.workloads.len());
        Place { run: self.runs.len().saturating_sub(1), member }
    }

    /// The workload after a place.
    pub(crate) fn after(&self, place: Place) -> Option<&Arc<Workload>> {
        let within = self.runs.get(place.run)?.members.workloads.get(place.member);
        within.or_else(|| self.runs.get(place.run + 1)?.members.workloads.first())
    }

    /// The workload before a place.
    pub(crate) fn before(&self, place: Place) -> Option<&Arc<Workload>> {
        match place.member.checked_sub(1) {
            Some(member) => self.runs.get(place.run)?.members.workloads.get(member),
            None => self.runs.get(place.run.checked_sub(1)?)?.members.workloads.last(),
        }
    }

    /// Capacity of everything before a place.
    pub(crate) fn capacity_before(&self, place: Place) -> u64 {
        let runs = place.run.checked_sub(1).and_then(|run| self.runs.get(run));
        let within = place
            .member
            .checked_sub(1)
            .and_then(|member| self.runs.get(place.run)?.members.ends.get(member).copied());
        runs.map_or(0, |run| run.end).saturating_add(within.unwrap_or(0))
    }

    /// The workload whose share of the capacity holds a point.
    pub(crate) fn at(&self, point: u64) -> Option<&Arc<Workload>> {
        let index = self.runs.partition_point(|run| run.end <= point);
        let before = index.checked_sub(1).and_then(|run| self.runs.get(run));
        let within = point.saturating_sub(before.map_or(0, |run| run.end));
        let members = &self.runs.get(index)?.members;
        members.workloads.get(members.ends.partition_point(|end| *end <= within))
    }
}

impl Members {
    fn of(workloads: Vec<Arc<Workload>>) -> Self {
        let mut members = Self { workloads, ends: Vec::new() };
        members.sum();
        members
    }

    fn capacity(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn sum(&mut self) {
        let mut end = 0_u64;
        self.ends.clear();
        self.ends.extend(self.workloads.iter().map(|workload| {
            end = end.saturating_add(u64::from(workload.capacity));
            end
        }));
    }
}
