//! Which nodes hold certificates of which root, and with which roots they were told to believe.
//!
//! A rotation may go on only when nobody is left behind: the new root may sign once every living
//! certificate came with it, and the old one may be dropped once no living certificate leads to
//! it. A record ends with the last certificate it stands for, so the ledger needs no answer from
//! nodes. How many certificates live under each root is counted by the hour in which they end. It is
//! merged into a store every [`FLUSH_INTERVAL`], for replicas and after a restart: a
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
/// Beside it: how many certificates end when.
const COUNTS: &str = "living";
/// Counts are kept by the hour: those that end within one are one number. With the longest life there
/// are 2,160 for each root.
const COUNTED_SECONDS: u64 = 3600;
/// After so long the store is looked at even if nothing is new here: others count too.
const LOOK_TICKS: u32 = 30;
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

/// Certificates by root, and by the hour in which they end.
type Counts = BTreeMap<u64, BTreeMap<u64, u64>>;

#[derive(Debug, Default)]
struct State {
    holders: BTreeMap<String, Vec<Record>>,
    /// As the store has them.
    stored: Counts,
    /// Those that the store lacks.
    new: Counts,
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
        add(&mut state.new, record.root, record.until / COUNTED_SECONDS, 1);
        state.recorded += 1;
    }

    /// How many certificates live under a root. One counts to the end of the hour in which it ends.
    #[must_use]
    pub fn living(&self, root: Fingerprint, now: SystemTime) -> u64 {
        let hour = seconds(now) / COUNTED_SECONDS;
        let state = self.0.lock();
        let of = |counts: &Counts| -> u64 {
            let hours = counts.get(&root.short()).into_iter();
            hours.flat_map(|hours| hours.range(hour..)).map(|(_, count)| count).sum()
        };
        of(&state.stored).saturating_add(of(&state.new))
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
            let (texts, known, recorded, counts) = {
                let mut state = self.0.lock();
                let text = |key| {
                    stored.as_ref().and_then(|stored| stored.texts.get(key)).map_or("", |text| text)
                };
                state.take(text(KEY));
                // As with what is not readable above.
                state.stored = serde_json::from_str(text(COUNTS)).unwrap_or_default();
                state.forget(seconds(now));
                let mut counts = state.stored.clone();
                for (root, hours) in &state.new {
                    for (hour, count) in hours {
                        add(&mut counts, *root, *hour, *count);
                    }
                }
                let content = |error: serde_json::Error| StoreError::Content {
                    place: store.place(),
                    problem: error.to_string(),
                };
                let texts = [
                    (KEY.to_owned(), serde_json::to_string(&state.holders).map_err(content)?),
                    (COUNTS.to_owned(), serde_json::to_string(&counts).map_err(content)?),
                ];
                let added = std::mem::take(&mut state.new);
                (Texts::from(texts), stored, state.recorded, (counts, added))
            };
            let written = match known {
                Some(known) if known.texts == texts => Ok(true),
                Some(known) => {
                    let replaced = store.replace(texts, known.version).await;
                    replaced.map(|replaced| replaced.is_some())
                }
                None => store.create(texts.clone()).await.map(|created| created.texts == texts),
            };
            let (total, added) = counts;
            let mut state = self.0.lock();
            if let Ok(true) = written {
                state.stored = total;
                state.written = state.written.max(recorded);
                return Ok(());
            }
            // Not known to be there: they are new again.
            for (root, hours) in added {
                for (hour, count) in hours {
                    add(&mut state.new, root, hour, count);
                }
            }
            drop(state);
            written?;
        }
        // Others write all the time: ours goes with the next.
        Ok(())
    }

    /// Writes what is new, from time to time, until it is dropped. Cancel safe for who holds
    /// what; counts of a write that was cut off are lost, and only too few are shown then.
    pub async fn keep(&self, store: &dyn SecretStore) {
        let mut ticks = 0;
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            ticks = (ticks + 1) % LOOK_TICKS;
            if (self.is_new() || ticks == 0)
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
        for counts in [&mut self.stored, &mut self.new] {
            counts.retain(|_, hours| {
                hours.retain(|hour, _| *hour >= now / COUNTED_SECONDS);
                !hours.is_empty()
            });
        }
        self.holders.retain(|_, records| {
            records.retain(|record| record.until > now);
            !records.is_empty()
        });
    }
}

fn add(counts: &mut Counts, root: u64, hour: u64, count: u64) {
    let counted = counts.entry(root).or_default().entry(hour).or_default();
    *counted = counted.saturating_add(count);
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
