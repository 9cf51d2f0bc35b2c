//! Which pods were told, and how they stand.

use std::collections::{BTreeMap, BTreeSet};

use model::PodUid;
use netns::NetnsFd;
use zds::{PODS_MAX, Pod};

use super::super::node::Status;
use super::{ServeError, Served};

/// One pod.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) told: Pod,
    pub(super) namespace: NetnsFd,
    pub(super) status: Status,
    /// Absent while it cannot be served.
    pub(super) served: Option<Served>,
    /// Somebody is at it: two that start one pod would each open listeners in it.
    starting: bool,
}

/// What is to be done about a pod that is told.
pub(super) enum Told {
    /// It is served like this already, or will be as soon as it can.
    Known,
    /// It is to be served; this one was served under its uid before.
    New(Option<Served>),
}

/// All pods.
#[derive(Default)]
pub(super) struct Table(BTreeMap<PodUid, Row>);

impl Table {
    pub(super) fn rows(&self) -> Vec<Row> {
        self.0.values().cloned().collect()
    }

    /// Enters a pod, or says why not. Two pods may not share a namespace.
    pub(super) fn tell(&mut self, told: &Pod, namespace: &NetnsFd) -> Result<Told, ServeError> {
        let before = self.0.get(&told.uid);
        if let Some(row) = before
            && row.told == *told
            && row.namespace == *namespace
            && (row.served.is_some() || row.starting)
        {
            return Ok(Told::Known);
        }
        if before.is_none() && self.0.len() >= PODS_MAX {
            return Err(ServeError::Full);
        }
        let other =
            self.0.values().find(|row| row.told.uid != told.uid && row.namespace == *namespace);
        if let Some(other) = other {
            return Err(ServeError::Taken(other.told.uid.clone()));
        }
        let row = Row {
            told: told.clone(),
            namespace: namespace.clone(),
            status: Status::Enrolling,
            served: None,
            starting: true,
        };
        let before = self.0.insert(told.uid.clone(), row);
        Ok(Told::New(before.and_then(|row| row.served)))
    }

    /// Notes that a pod is served; `false` if it was withdrawn meanwhile.
    pub(super) fn serve(&mut self, told: &Pod, namespace: &NetnsFd, served: &Served) -> bool {
        self.row(told, namespace).map(|row| row.served = Some(served.clone())).is_some()
    }

    /// The row of a pod, unless it was told anew meanwhile.
    fn row(&mut self, told: &Pod, namespace: &NetnsFd) -> Option<&mut Row> {
        let row = self.0.get_mut(&told.uid)?;
        (row.told == *told && row.namespace == *namespace).then_some(row)
    }

    pub(super) fn status(&self, uid: &PodUid) -> Option<&Status> {
        self.0.get(uid).map(|row| &row.status)
    }

    pub(super) fn set_status(&mut self, uid: &PodUid, status: Status) {
        if let Some(row) = self.0.get_mut(uid) {
            if let Some(served) = &row.served {
                served.pod.set_verified(status == Status::Verified);
            }
            row.status = status;
        }
    }

    /// Whether a pod is served.
    pub(super) fn serves(&self, uid: &PodUid) -> bool {
        self.0.get(uid).is_some_and(|row| row.served.is_some())
    }

    /// Notes that nobody is at a pod any more, and whether it is served now.
    pub(super) fn started(&mut self, told: &Pod, namespace: &NetnsFd, serves: bool) {
        if let Some(row) = self.row(told, namespace) {
            row.starting = false;
            if !serves {
                row.served = None;
            }
        }
    }

    /// Pods that were told and could not be served. Whoever asks starts them.
    pub(super) fn start_unserved(&mut self) -> Vec<(Pod, NetnsFd)> {
        let unserved = self.0.values_mut().filter(|row| row.served.is_none() && !row.starting);
        unserved
            .map(|row| {
                row.starting = true;
                (row.told.clone(), row.namespace.clone())
            })
            .collect()
    }

    /// Takes a pod out.
    pub(super) fn remove(&mut self, uid: &PodUid) -> Option<Row> {
        self.0.remove(uid)
    }

    /// Pods that are not among these.
    pub(super) fn others(&self, told: &BTreeSet<PodUid>) -> Vec<PodUid> {
        self.0.keys().filter(|uid| !told.contains(*uid)).cloned().collect()
    }
}
