//! Which nodes hold certificates of which root, and with which roots they were told to believe.
//!
//! A rotation may go on only when nobody is left behind: the new root may sign once every living
//! certificate came with it, and the old one may be dropped once no living certificate leads to
//! it. A record ends with the last certificate it stands for, so the ledger needs no answer from
//! nodes. It is merged into a store every [`FLUSH_INTERVAL`], for replicas and after a restart: a
//! crash loses what was recorded since.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use authority::Fingerprint;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::store::{SecretStore, StoreError, Texts};

/// How often what is new is written down.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// Most holders with records of their own: about 90 bytes each, within a Secret's size. Those
/// beyond share one record, which ends with the last of them.
pub const HOLDERS_MAX: usize = 5_000;
/// Most records of one holder; at the bound two become one that stands for both, with the later
/// end and [`ANY`] in place of what they do not share: a step may then wait longer than it had to.
const RECORDS_MAX: usize = 8;
/// Tries to write against others who write.
const TRIES_MAX: usize = 5;
const KEY: &str = "issued";
/// In place of a root or of roots: any, so it stands in the way of every step. No fingerprint is 0
/// but by a chance of one in 2^64, which would make a step wait.
const ANY: u64 = 0;
/// Those beyond [`HOLDERS_MAX`]; no node can have this name.
const OTHERS: &str = "(others)";

/// Living certificates of a holder, from one root, that came with the same roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Root that signed them.
    root: u64,
    /// Roots that they came with.
    bundle: u64,
    /// When the last of them ends, in seconds since 1970.
    until: u64,
}

/// Who holds certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// A node, or an identity that asked for itself.
    pub holder: String,
    /// When its last such certificate ends.
    pub until: SystemTime,
}

/// What was issued to whom, as long as it lives.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    holders: BTreeMap<String, Vec<Record>>,
    /// How many certificates were recorded.
    recorded: u64,
    /// How many of them are known to be in the store.
    written: u64,
}

/// Roots as records name them.
#[must_use]
pub fn bundle_mark(bundle: &tls::TrustBundle) -> u64 {
    Fingerprint::of_all(bundle.certificates()).short()
}

impl Ledger {
    /// Records a certificate.
    pub fn record(&self, holder: &str, root: Fingerprint, bundle: u64, until: SystemTime) {
        let record = Record { root: root.short(), bundle, until: seconds(until) };
        let mut state = self.0.lock();
        state.put(holder, record);
        state.recorded += 1;
    }

    /// Who holds living certificates that lead to a root.
    #[must_use]
    pub fn presenting(&self, root: Fingerprint, now: SystemTime) -> Vec<Left> {
        self.left(now, |record| record.root == root.short() || record.root == ANY)
    }

    /// Who holds living certificates that came with other roots than these.
    #[must_use]
    pub fn without(&self, bundle: u64, now: SystemTime) -> Vec<Left> {
        self.left(now, |record| record.bundle != bundle)
    }

    fn left(&self, now: SystemTime, which: impl Fn(&Record) -> bool) -> Vec<Left> {
        let now = seconds(now);
        let state = self.0.lock();
        let left = state.holders.iter().filter_map(|(holder, records)| {
            let lives = records.iter().filter(|record| record.until > now && which(record));
            let until = lives.map(|record| record.until).max()?;
            Some(Left { holder: holder.clone(), until: UNIX_EPOCH + Duration::from_secs(until) })
        });
        left.collect()
    }

    /// Whether something was recorded that no store is known to have.
    fn is_new(&self) -> bool {
        let state = self.0.lock();
        state.recorded > state.written
    }

    /// Takes what a store has, and writes what it lacks.
    pub async fn merge(&self, store: &dyn SecretStore, now: SystemTime) -> Result<(), StoreError> {
        for _ in 0..TRIES_MAX {
            let stored = store.get().await?;
            let (texts, known, recorded) = {
                let mut state = self.0.lock();
                if let Some(stored) = &stored {
                    state.take(stored.texts.get(KEY).map_or("", String::as_str));
                }
                state.forget(seconds(now));
                let text = serde_json::to_string(&state.holders);
                let text = text.map_err(|error| StoreError::Content {
                    place: store.place(),
                    problem: error.to_string(),
                })?;
                (Texts::from([(KEY.to_owned(), text)]), stored, state.recorded)
            };
            let is_written = match known {
                Some(known) if known.texts == texts => true,
                Some(known) => store.replace(texts, known.version).await?.is_some(),
                None => store.create(texts.clone()).await?.texts == texts,
            };
            if is_written {
                let mut state = self.0.lock();
                state.written = state.written.max(recorded);
                return Ok(());
            }
        }
        // Others write all the time: ours goes with the next.
        Ok(())
    }

    /// Writes what is new, from time to time, until it is dropped. Cancel safe: what was not
    /// written is so the next time.
    pub async fn keep(&self, store: &dyn SecretStore) {
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            if self.is_new()
                && let Err(error) = self.merge(store, SystemTime::now()).await
            {
                let error = model::causes(&error);
                tracing::warn!(%error, "what was issued could not be written down");
            }
        }
    }
}

impl Record {
    /// Whether it stands for all that another stands for, and is not just the same but later.
    fn covers(&self, other: &Self) -> bool {
        let is_root = self.root == ANY || self.root == other.root;
        is_root && self.bundle == ANY && self.until >= other.until
    }
}

/// Makes one record of two: of those that end first, two of the same root if there are such.
fn fold(records: &mut Vec<Record>) {
    records.sort_by_key(|record| record.until);
    let pair = records.iter().enumerate().find_map(|(later, record)| {
        let earlier = records[..later].iter().position(|one| one.root == record.root)?;
        Some((earlier, later))
    });
    // All are of different roots, and at least two: it is called beyond a bound.
    let (earlier, later) = pair.unwrap_or((0, 1));
    let first = records.remove(earlier);
    let second = &mut records[later - 1];
    second.root = if first.root == second.root { first.root } else { ANY };
    second.bundle = ANY;
    second.until = second.until.max(first.until);
}

impl State {
    fn put(&mut self, holder: &str, record: Record) {
        let is_full = self.holders.len() >= HOLDERS_MAX && !self.holders.contains_key(holder);
        let holder = if is_full { OTHERS } else { holder };
        let records = self.holders.entry(holder.to_owned()).or_default();
        let same = |known: &&mut Record| known.root == record.root && known.bundle == record.bundle;
        if let Some(known) = records.iter_mut().find(same) {
            known.until = known.until.max(record.until);
            return;
        }
        if records.iter().any(|known| known.covers(&record)) {
            return;
        }
        records.push(record);
        if records.len() > RECORDS_MAX {
            fold(records);
        }
    }

    /// What is not readable is as if it were not there; it is written anew.
    fn take(&mut self, text: &str) {
        let stored: BTreeMap<String, Vec<Record>> = serde_json::from_str(text).unwrap_or_default();
        for (holder, records) in stored {
            for record in records {
                self.put(&holder, record);
            }
        }
    }

    fn forget(&mut self, now: u64) {
        self.holders.retain(|_, records| {
            records.retain(|record| record.until > now);
            !records.is_empty()
        });
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
