//! What a refusal means: `metav1.Status`, HTTP status and `Retry-After`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// Longest text kept of what a server says about a refusal, in characters; the rest is left out.
const TEXT_MAX: usize = 512;
/// How often a request is repeated because the server asks for it; then its refusal is the answer.
pub(crate) const REPEATS_MAX: u32 = 3;
/// How long to wait where a server with too many requests does not say.
const BUSY: Duration = Duration::from_secs(1);

/// The server said no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// HTTP status, or the code of a watch's error.
    pub status: u16,
    /// A word of the API, such as `NotFound`, `Conflict`, `Forbidden`; empty if there was none.
    pub reason: String,
    /// For people; empty if there was none. Without control characters.
    pub message: String,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the API server said {}", self.status)?;
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// `metav1.Status`, as far as it is read. A part of another type than expected makes all of it
/// unreadable, and then the HTTP status alone counts.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    code: Option<u16>,
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Refusal {
    /// From an answer. Proxies before the server may answer with anything, so the body need not be
    /// a `Status`; then its beginning is the message.
    pub(crate) fn of_answer(status: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let header = retry_after.and_then(|text| text.trim().parse().ok());
        match serde_json::from_slice::<Status<'_>>(body) {
            Ok(said) if said.kind == "Status" => Self::of(status, header, &said),
            Ok(_) | Err(_) => Self {
                status,
                reason: String::new(),
                message: text(&String::from_utf8_lossy(body)),
                retry_after: header.map(Duration::from_secs),
            },
        }
    }

    /// From the object of a watch's `ERROR`. One that cannot be read ends the watch as well.
    pub(crate) fn of_event(object: &str) -> Self {
        let said = serde_json::from_str::<Status<'_>>(object).unwrap_or_default();
        Self::of(said.code.unwrap_or_default(), None, &said)
    }

    fn of(status: u16, header: Option<u64>, said: &Status<'_>) -> Self {
        let asked = said.details.as_ref().and_then(|details| details.retry_after_seconds);
        Self {
            status,
            reason: text(said.reason.as_deref().unwrap_or_default()),
            message: text(said.message.as_deref().unwrap_or_default()),
            retry_after: header.or(asked).filter(|seconds| *seconds > 0).map(Duration::from_secs),
        }
    }

    /// Whether what was asked for is older than what the server still knows.
    pub(crate) fn is_gone(&self) -> bool {
        /// `Gone` and `Expired` as a status of HTTP.
        const GONE: u16 = 410;
        self.status == GONE || matches!(self.reason.as_str(), "Gone" | "Expired")
    }

    /// How long to wait before the same request may be sent again; `None` if it should not be. A
    /// server that says when to come again has not done what it was asked.
    pub(crate) fn repeat_after(&self, repeats: u32, wait_max: Duration) -> Option<Duration> {
        const TOO_MANY: u16 = 429;
        if repeats >= REPEATS_MAX {
            return None;
        }
        let wait = match self.status {
            TOO_MANY => Some(self.retry_after.unwrap_or(BUSY)),
            500..=599 => self.retry_after,
            _ => None,
        };
        wait.map(|wait| wait.min(wait_max))
    }
}

/// Bounded, and safe to print.
fn text(said: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    said.trim().chars().take(TEXT_MAX).map(clean).collect()
}

#[cfg(test)]
mod tests;
