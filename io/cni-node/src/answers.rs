//! How the plugin's requests were answered, for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use cni::{Reply, Work};
use parking_lot::Mutex;

/// What is done has this in the place of a code.
const DONE: &str = "OK";
/// What cannot be read has this in the place of a verb.
const UNREAD: &str = "unread";
/// Codes that are counted apart. They are the agent's own, so there are few; whatever comes beyond is
/// counted together.
const CODES_MAX: usize = 128;
/// In the place of those.
const OTHER: &str = "OTHER";

/// Counts since the agent's start, by verb and code. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<Mutex<BTreeMap<(&'static str, String), u64>>>);

impl Answers {
    /// Each verb and code, `OK` for what was done, and how often.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, String, u64)> {
        let counts = self.0.lock();
        counts.iter().map(|((verb, code), count)| (*verb, code.clone(), *count)).collect()
    }

    pub(crate) fn count(&self, verb: &'static str, reply: &Reply) {
        let code = match reply {
            Reply::Done => DONE,
            Reply::Refused(refusal) => &refusal.code,
        };
        let mut counts = self.0.lock();
        let known = counts.len() < CODES_MAX || counts.contains_key(&(verb, code.to_owned()));
        let code = if known { code } else { OTHER };
        *counts.entry((verb, code.to_owned())).or_insert(0) += 1;
    }
}

/// What a request is called; none: it could not be read.
pub(crate) fn verb(work: Option<&Work>) -> &'static str {
    work.map_or(UNREAD, Work::verb)
}
