//! PINGs, so that a peer that vanished is noticed while nothing is sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use crate::Settings;

/// The peer did not answer a PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer did not answer a PING within {0:?}")]
pub struct PeerDead(pub Duration);

pub(crate) struct Keepalive {
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

impl Keepalive {
    /// `None` only if h2 has given out its one PING handle already.
    pub(crate) fn new(ping: Option<PingPong>, settings: &Settings) -> Option<Self> {
        let (interval, timeout) = (settings.ping_interval, settings.ping_timeout);
        let timer = Box::pin(sleep(interval));
        ping.map(|ping| Self { ping, timer, waiting: false, interval, timeout })
    }

    /// Resolves when the peer is dead.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PeerDead> {
        loop {
            if self.waiting && self.poll_pong(cx) {
                self.waiting = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.waiting {
                return Poll::Ready(PeerDead(self.timeout));
            }
            // It fails only if the connection is closed, which its own poll reports.
            let _ = self.ping.send_ping(Ping::opaque());
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.ping.poll_pong(cx), Poll::Ready(Ok(_)))
    }
}
