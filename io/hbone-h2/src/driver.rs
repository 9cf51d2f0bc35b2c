//! What moves a client's tunnel: polled by its owner until it has ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::Connection;
use tls::TlsStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::Settings;
use crate::client::Shared;
use crate::keepalive::Keepalive;
use crate::load::Load;
use crate::paced::{Paced, Portion};
use crate::window::ConnectionWindow;

/// What the owner of a tunnel needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's bound on streams is now this.
    PeerStreams(u32),
    /// Slow readers, at either end, hold so much window that new streams would suffer.
    Stalled,
    /// It flows again.
    Resumed,
    /// The peer wants no new streams; those that are open go on.
    GoingAway,
    /// The tunnel has ended, in order or for this reason. The last event.
    Closed(Option<String>),
}

/// Moves a tunnel's bytes while [`Driver::next`] is polled. Dropping it closes the tunnel at once,
/// with its streams.
pub struct Driver<S = TlsStream<TcpStream>> {
    connection: Connection<Paced<S>, Bytes>,
    portion: Portion,
    keepalive: Option<Keepalive>,
    window: ConnectionWindow,
    load: Rc<Load>,
    /// Weak: the tunnel closes by itself when the last handle and stream are gone.
    shared: Weak<Shared>,
    peer_streams: Option<u32>,
    stalled: bool,
    going_away: bool,
    /// The last event, to be repeated.
    ended: Option<Event>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(crate) fn new(
        mut connection: Connection<Paced<S>, Bytes>,
        portion: Portion,
        settings: &Settings,
        shared: &Rc<Shared>,
    ) -> Self {
        Self {
            keepalive: Keepalive::new(connection.ping_pong(), settings),
            window: ConnectionWindow::new(settings.connection_window),
            load: shared.load.clone(),
            shared: Rc::downgrade(shared),
            peer_streams: shared.peer_streams(),
            stalled: false,
            going_away: false,
            ended: None,
            connection,
            portion,
        }
    }

    /// The next event. Bytes move only while this is polled; cancelling it loses nothing.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(last) = &self.ended {
            return Poll::Ready(last.clone());
        }
        // Before the connection's poll, which sends the window updates.
        let adjusted = self.window.adjust(self.load.look(cx.waker()));
        if let Some(target) = adjusted.target {
            self.connection.set_target_window_size(target);
        }
        self.portion.renew();
        if let Poll::Ready(end) = Pin::new(&mut self.connection).poll(cx) {
            return self.end(end.err().map(|error| error.to_string()));
        }
        if let Some(Poll::Ready(dead)) = self.keepalive.as_mut().map(|k| k.poll(cx)) {
            return self.end(Some(dead.to_string()));
        }
        self.news(adjusted.stalled).map_or(Poll::Pending, Poll::Ready)
    }

    fn news(&mut self, unread_stall: bool) -> Option<Event> {
        let shared = self.shared.upgrade()?;
        if !self.going_away && shared.refuses_streams() {
            self.going_away = true;
            return Some(Event::GoingAway);
        }
        let peer_streams = shared.peer_streams();
        if peer_streams != self.peer_streams {
            self.peer_streams = peer_streams;
            return Some(Event::PeerStreams(peer_streams.unwrap_or(u32::MAX)));
        }
        let stalled = unread_stall || self.load.senders_wait();
        if stalled != self.stalled {
            self.stalled = stalled;
            return Some(if stalled { Event::Stalled } else { Event::Resumed });
        }
        None
    }

    fn end(&mut self, cause: Option<String>) -> Poll<Event> {
        let last = Event::Closed(cause);
        self.ended = Some(last.clone());
        Poll::Ready(last)
    }
}
