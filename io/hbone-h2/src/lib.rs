//! HBONE over the `h2` crate: CONNECT requests at a [`Server`], a [`Tunnel`] at a client, and the
//! byte path of one stream, [`HboneStream`].
//!
//! Nothing here is `Send`: a tunnel, its driver and its streams live on one thread. There is no
//! task inside: whoever owns a [`Server`] or [`Driver`] polls it, and that moves the bytes of all
//! its streams. `HboneStream` is small so that another framer can take the place of h2.
//!
//! A stream can carry another tunnel: [`Inner`] opens one, and [`StreamIo`] is what it runs over.
//!
//! # Head-of-line blocking
//! h2 gives window back for stream and connection together, when the reader has consumed. Readers
//! that stand still would so use up the connection's window, and then nobody moves. Therefore the
//! connection's window grows by what streams hold unread (`window.rs`): a stalled reader costs its
//! own window, up to [`UNREAD_MAX`] in all on this thread. Beyond that the tunnel's streams share
//! what is left, and [`Event::Stalled`] tells the pool to put new streams elsewhere.

mod buffer;
mod client;
mod driver;
mod inner;
mod keepalive;
mod load;
mod paced;
mod refusals;
mod server;
mod settings;
mod stream;
mod stream_io;
mod window;

pub use client::{ClientError, OpenError, Opened, Tunnel};
pub use driver::{Driver, Event};
pub use inner::{Inner, InnerDriver, InnerError, OpenedInside};
pub use keepalive::PeerDead;
pub use refusals::RequestRefused;
pub use server::{Incoming, Responder, Server, ServerError};
pub use settings::{
    CLIENT_HEADERS_MAX, DATA_FRAME_BUDGET, SEND_BUFFER, SERVER_HEADERS_MAX, SERVER_STREAMS_MAX,
    Settings,
};
pub use stream::{HboneStream, StreamError};
pub use stream_io::{BelowError, StreamIo};
pub use window::UNREAD_MAX;
