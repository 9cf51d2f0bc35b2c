//! What enrolment compares with what is wanted, and the change of what a captured pod's kernel is told.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use enrol::{Place, Source, Switches};
use model::{PodUid, causes};

use super::enrol::{EnrolCode, EnrolError};
use super::live::{AttachError, LivePod};
use super::node::{Capture, Node, Slot, Status};
use super::records::Record;

/// One pod of the table.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The pod instance.
    pub uid: PodUid,
    /// Who enrolled it.
    pub source: Source,
    /// How it stands.
    pub status: Status,
    /// Inode of its network namespace.
    pub netns_inode: u64,
    /// Whether it is still where it was enrolled.
    pub place: Place,
    /// What the kernel was told.
    pub switches: Switches,
}

/// A copy of a row of the table.
type Row = (String, Option<Record>, Status, Option<Arc<LivePod>>);

impl Capture {
    /// Every pod. Looks at a handful of files for each.
    pub fn enrolled(&self) -> Vec<Enrolled> {
        let row = |(name, slot): (&String, &Slot)| {
            (name.clone(), slot.record.clone(), slot.status.clone(), slot.live.clone())
        };
        // The files are looked at after the table is free again.
        let rows: Vec<_> = self.0.pods.lock().iter().map(row).collect();
        let enrolled = |(name, record, status, live): Row| {
            let Some(record) = record else { return self.0.lost(&name, status) };
            let place = self.0.place(&record, live.as_deref());
            Some(Enrolled {
                uid: record.uid,
                source: record.source,
                status,
                netns_inode: record.netns_inode,
                place,
                switches: record.switches,
            })
        };
        rows.into_iter().filter_map(enrolled).collect()
    }

    /// Whether a pod is kept captured, and what was written of it cannot be used.
    #[must_use]
    pub fn has_lost_record(&self, uid: &PodUid) -> bool {
        self.0.is_lost(uid)
    }

    /// Tells a captured pod's kernel other switches, and notes who wants it now. Open connections are
    /// left alone.
    pub async fn update(
        &self,
        uid: &PodUid,
        source: Source,
        switches: Switches,
    ) -> Result<(), EnrolError> {
        let node = Arc::clone(&self.0);
        let owned = uid.clone();
        let work = self.0.tasks.spawn(async move { update(&node, &owned, source, switches).await });
        work.await.unwrap_or_else(|error| {
            Err(EnrolError::new(EnrolCode::AttachFailed, format!("the work ended: {error}")))
        })
    }
}

async fn update(
    node: &Arc<Node>,
    uid: &PodUid,
    source: Source,
    switches: Switches,
) -> Result<(), EnrolError> {
    let live = node.pods.lock().get(uid.as_str()).and_then(|slot| slot.live.clone());
    let Some(live) = live else {
        return Err(EnrolError::new(
            EnrolCode::Busy,
            format!("{uid} is not captured at the moment"),
        ));
    };
    let _turn = live.work.lock().await;
    // Looked at only now: it may have left while this waited for its turn.
    let record = node.pods.lock().get(uid.as_str()).and_then(|slot| match slot.status {
        Status::Verified | Status::Degraded(_) => slot.record.clone(),
        Status::Enrolling | Status::Leaving => None,
    });
    let Some(record) = record else {
        return Err(EnrolError::new(EnrolCode::Busy, format!("{uid} is about to leave")));
    };
    let record = Record { source, switches, ..record };
    let before = std::mem::replace(&mut *live.switches.lock(), record.switches.clone());
    let told = node.seats.while_owner(|| {
        node.follow_addresses(&record, &live)
            .map_err(|reason| EnrolError::new(EnrolCode::AttachFailed, reason))?;
        let saved = node.records.save(&record);
        saved.map_err(|error| EnrolError::new(EnrolCode::RecordFailed, causes(&error)))
    });
    if let Err(error) = told.map_err(|error| AttachError::from(error).into()).flatten() {
        *live.switches.lock() = before;
        // If the kernel cannot be put back now, the next whole look does it.
        let _ = node.seats.while_owner(|| node.follow_addresses(&record, &live));
        return Err(error);
    }
    if let Some(slot) = node.pods.lock().get_mut(uid.as_str()) {
        slot.record = Some(record);
    }
    Ok(())
}

impl Node {
    /// See [`Capture::has_lost_record`].
    pub(super) fn is_lost(&self, uid: &PodUid) -> bool {
        self.pods.lock().get(uid.as_str()).is_some_and(|slot| slot.record.is_none())
    }

    /// A pod without a usable record: only its name is known, if it is one.
    fn lost(&self, name: &str, status: Status) -> Option<Enrolled> {
        let uid = PodUid::parse(name).ok()?;
        let place = if self.is_hooked(&uid) { Place::Lost } else { Place::Empty };
        // Nobody's word is left, so the API server has it.
        let (source, switches) = (Source::Api, Switches::default());
        Some(Enrolled { uid, source, status, netns_inode: 0, place, switches })
    }

    /// Whether a pod is where its record says. Unknown is the same place.
    fn place(&self, record: &Record, live: Option<&LivePod>) -> Place {
        let is_named = std::fs::metadata(&record.netns_path)
            .is_ok_and(|metadata| metadata.ino() == record.netns_inode);
        if is_named {
            return Place::Same;
        }
        let populated = live.and_then(|live| live.home.is_populated());
        match (populated, &self.host) {
            (Some(false), _) => Place::Empty,
            (Some(true), Some(host)) => {
                // All in another one: the sandbox was made anew. The path itself may be that of a
                // process that has ended.
                let found = match &record.cgroup {
                    Some(cgroup) => host.namespaces_below(&cgroup.path),
                    None => host.namespaces_of_pod(&record.uid),
                };
                let found = found.unwrap_or_default();
                let moved = !found.is_empty()
                    && found.iter().all(|(_, inode)| *inode != record.netns_inode);
                if moved { Place::Moved } else { Place::Same }
            }
            (Some(true), None) | (None, _) => Place::Same,
        }
    }
}
