//! PINGs, so that a peer that vanished is noticed while nothing is sent.
//!
//! Only a silent peer is asked. h2 reads nothing while a PING, or the answer to one, waits to be
//! written: two busy ends that asked each other would each wait for the other to read, until both
//! were taken for dead. Bytes that come prove as much as an answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use crate::Settings;
use crate::paced::Portion;

/// The peer did not answer a PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer did not answer a PING within {0:?}")]
pub struct PeerDead(pub Duration);

pub(crate) struct Keepalive {
    ping: PingPong,
    portion: Portion,
    timer: Pin<Box<Sleep>>,
    /// The timer ends the wait for a sign of life, and not a while of possible silence.
    asked: bool,
    /// A PING is on its way. h2 knows one at a time.
    unanswered: bool,
    look: Duration,
    timeout: Duration,
}

impl Keepalive {
    /// `None` only if h2 has given out its one PING handle already.
    pub(crate) fn new(
        ping: Option<PingPong>,
        portion: &Portion,
        settings: &Settings,
    ) -> Option<Self> {
        // The last byte came up to one look before the first that finds silence.
        let look = settings.ping_silence / 2;
        ping.map(|ping| Self {
            ping,
            portion: portion.clone(),
            timer: Box::pin(sleep(look)),
            asked: false,
            unanswered: false,
            look,
            timeout: settings.ping_timeout,
        })
    }

    /// Resolves when the peer is dead.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PeerDead> {
        loop {
            if self.unanswered && self.poll_pong(cx) {
                self.unanswered = false;
            }
            if self.asked && self.portion.take_heard() {
                self.asked = false;
                self.timer.as_mut().reset(Instant::now() + self.look);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.asked {
                return Poll::Ready(PeerDead(self.timeout));
            }
            self.asked = !self.portion.take_heard();
            if self.asked && !self.unanswered {
                // It fails only if the connection is closed, which its own poll reports.
                let _ = self.ping.send_ping(Ping::opaque());
                self.unanswered = true;
            }
            let wait = if self.asked { self.timeout } else { self.look };
            self.timer.as_mut().reset(Instant::now() + wait);
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.ping.poll_pong(cx), Poll::Ready(Ok(_)))
    }
}
