//! A peer that the test plays itself: any certificate, any HTTP/2, from a namespace that no agent
//! has. It is what a compromised node could be.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tests::Pod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{Authority, Leaf};

/// Bound of everything a peer waits for, unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes connections from a pod to the tunnel port of another.
pub(crate) struct Peer {
    runtime: Runtime,
    from: Pod,
    target: SocketAddr,
    pub(crate) authority: Authority,
}

impl Peer {
    pub(crate) fn new(world: &Path, from: &Pod, to: &Pod) -> anyhow::Result<Self> {
        // Drivers run on a thread of their own, so that tests may block.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("a runtime")?;
        let (from, target) = (from.clone(), to.at(hbone::HBONE_PORT));
        Ok(Self { runtime, from, target, authority: Authority::of_the_agents(world)? })
    }

    /// A plain TCP connection, made in the pod's namespace.
    pub(crate) fn tcp(&self) -> anyhow::Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&self.target, PATIENCE);
        let stream = self.from.netns().within(connect)?;
        let stream = stream.with_context(|| format!("connect to {}", self.target))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// TLS over it, and its own address. In TLS 1.3 a client is done before the server has seen its
    /// certificate: success says little.
    pub(crate) fn tls(
        &self,
        config: &Arc<ClientConfig>,
    ) -> anyhow::Result<(TlsStream<tokio::net::TcpStream>, SocketAddr)> {
        let stream = self.tcp()?;
        let local = stream.local_addr()?;
        stream.set_nonblocking(true)?;
        let stream = self.wait(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let name = ServerName::try_from("ignored.example").map_err(std::io::Error::other)?;
            TlsConnector::from(config.clone()).connect(name, stream).await
        })??;
        Ok((stream, local))
    }

    /// Whether the server refuses what this client is, before a byte of HTTP/2.
    pub(crate) fn is_refused(&self, config: ClientConfig) -> anyhow::Result<SocketAddr> {
        let stream = self.tcp()?;
        let local = stream.local_addr()?;
        stream.set_nonblocking(true)?;
        let read = self.wait(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let name = ServerName::try_from("ignored.example").map_err(std::io::Error::other)?;
            let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let mut byte = [0];
            tls.read_exact(&mut byte).await
        })?;
        ensure!(read.is_err(), "the server went on to HTTP/2");
        Ok(local)
    }

    /// Writes into TLS.
    pub(crate) fn writes(
        &self,
        mut stream: TlsStream<tokio::net::TcpStream>,
        bytes: &[u8],
    ) -> anyhow::Result<()> {
        self.wait(async {
            stream.write_all(bytes).await?;
            stream.flush().await
        })??;
        Ok(())
    }

    /// Reads this many bytes out of TLS.
    pub(crate) fn reads(
        &self,
        mut stream: TlsStream<tokio::net::TcpStream>,
        bytes: usize,
    ) -> anyhow::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.wait(stream.read_exact(&mut buffer))??;
        Ok(buffer)
    }

    /// A tunnel.
    pub(crate) fn tunnel(&self, identity: &str) -> anyhow::Result<Tunnel<'_>> {
        let config = Arc::new(self.authority.client(&Leaf::of(identity))?);
        let (stream, local) = self.tls(&config)?;
        let requests = self.wait(async {
            let (requests, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(8 << 20)
                .enable_push(false)
                .handshake::<_, Bytes>(stream)
                .await?;
            tokio::spawn(async move {
                // How it ends shows in its streams.
                let _ = connection.await;
            });
            requests.ready().await
        })??;
        Ok(Tunnel { peer: self, requests, local })
    }

    /// A tunnel in which the test writes the frames itself, after the settings were exchanged.
    pub(crate) fn raw(&self, identity: &str) -> anyhow::Result<Raw<'_>> {
        let config = Arc::new(self.authority.client(&Leaf::of(identity))?);
        let (stream, local) = self.tls(&config)?;
        let (mut read, write) = tokio::io::split(stream);
        let frames = Arc::<parking_lot::Mutex<Vec<Frame>>>::default();
        let seen = frames.clone();
        self.runtime.spawn(async move {
            let mut head = [0; 9];
            while read.read_exact(&mut head).await.is_ok() {
                let [a, b, c, kind, flags, s @ ..] = head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
                if read.read_exact(&mut payload).await.is_err() {
                    break;
                }
                let stream = u32::from_be_bytes(s);
                seen.lock().push(Frame { kind, flags, stream, payload });
            }
            seen.lock().push(Frame { kind: Frame::END, flags: 0, stream: 0, payload: Vec::new() });
        });
        let mut raw = Raw { peer: self, write, frames, local };
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        raw.send(&frame(4, 0, 0, &[]))?;
        raw.wait_for("the server's settings", |frame| frame.kind == 4 && frame.flags == 0)?;
        raw.send(&frame(4, 1, 0, &[]))?;
        Ok(raw)
    }

    /// Runs a future with a bound.
    fn wait<T>(&self, future: impl Future<Output = T>) -> anyhow::Result<T> {
        self.wait_for(PATIENCE, future)
    }

    fn wait_for<T>(
        &self,
        patience: Duration,
        future: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        let bounded = async { tokio::time::timeout(patience, future).await };
        self.runtime.block_on(bounded).map_err(|_| anyhow::anyhow!("not within {patience:?}"))
    }
}

/// A tunnel by h2.
pub(crate) struct Tunnel<'a> {
    peer: &'a Peer,
    requests: SendRequest<Bytes>,
    pub(crate) local: SocketAddr,
}

/// The answer to a request: a stream if it is 200.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) stream: Option<Open<'a>>,
}

impl<'a> Tunnel<'a> {
    /// A CONNECT.
    pub(crate) fn connect(
        &self,
        authority: &str,
        headers: &[(&'static str, &[u8])],
    ) -> anyhow::Result<Answer<'a>> {
        self.request(Method::CONNECT, authority, headers)
    }

    /// Any request. Its URI is the authority for a CONNECT.
    pub(crate) fn request(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&'static str, &[u8])],
    ) -> anyhow::Result<Answer<'a>> {
        let mut request = Request::builder().method(method).uri(uri).body(())?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, http::HeaderValue::from_bytes(value)?);
        }
        let mut requests = self.requests.clone();
        let (response, send) = self.peer.wait(async {
            std::future::poll_fn(|cx| requests.poll_ready(cx)).await?;
            let (response, send) = requests.send_request(request, false)?;
            Ok::<_, h2::Error>((response.await?, send))
        })??;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let open = Open { peer: self.peer, send, recv: response.into_body() };
        Ok(Answer { status, headers, stream: (status == 200).then_some(open) })
    }

    /// An open stream.
    pub(crate) fn open(&self, target: SocketAddr) -> anyhow::Result<Open<'a>> {
        let answer = self.connect(&target.to_string(), &[])?;
        answer.stream.with_context(|| format!("CONNECT {target} was answered {}", answer.status))
    }
}

/// A stream by h2. Dropping it resets it.
pub(crate) struct Open<'a> {
    peer: &'a Peer,
    send: SendStream<Bytes>,
    recv: RecvStream,
}

impl Open<'_> {
    /// Queues bytes: they go out as the windows allow.
    pub(crate) fn send(&mut self, data: &[u8]) -> anyhow::Result<()> {
        Ok(self.send.send_data(Bytes::copy_from_slice(data), false)?)
    }

    /// Ends our side.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// Reads this many bytes, or fewer if the stream ends before.
    pub(crate) fn receive(&mut self, bytes: usize, patience: Duration) -> anyhow::Result<Vec<u8>> {
        let recv = &mut self.recv;
        let got = self.peer.wait_for(patience, async {
            let mut got = Vec::new();
            while got.len() < bytes {
                let Some(data) = recv.data().await else { break };
                let data = data?;
                recv.flow_control().release_capacity(data.len())?;
                got.extend_from_slice(&data);
            }
            Ok::<_, h2::Error>(got)
        })?;
        Ok(got?)
    }

    /// That an echo server behind it answers.
    pub(crate) fn echoes(&mut self) -> anyhow::Result<()> {
        const WORDS: &[u8] = b"are you there?";
        self.send(WORDS)?;
        let got = self.receive(WORDS.len(), PATIENCE)?;
        if got != WORDS {
            bail!("instead of an echo: {got:?}");
        }
        Ok(())
    }
}

/// An HTTP/2 frame that came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// No frame's kind: the connection has ended.
    pub(crate) const END: u8 = 0xff;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const GOAWAY: u8 = 7;

    /// The error code of RST_STREAM (its whole payload) and GOAWAY (after the last stream).
    pub(crate) fn error(&self) -> Option<u32> {
        let at = if self.kind == Self::GOAWAY { 4 } else { 0 };
        let code = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(code.try_into().ok()?))
    }
}

/// A tunnel frame by frame.
pub(crate) struct Raw<'a> {
    peer: &'a Peer,
    write: tokio::io::WriteHalf<TlsStream<tokio::net::TcpStream>>,
    frames: Arc<parking_lot::Mutex<Vec<Frame>>>,
    pub(crate) local: SocketAddr,
}

impl Raw<'_> {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let write = &mut self.write;
        self.peer.wait(async {
            write.write_all(bytes).await?;
            write.flush().await
        })??;
        Ok(())
    }

    /// Waits for a frame that has come or comes.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        matches: impl Fn(&Frame) -> bool,
    ) -> anyhow::Result<Frame> {
        tests::eventually(what, PATIENCE, || {
            Ok(self.frames.lock().iter().find(|frame| matches(frame)).cloned())
        })
    }

    /// The frames of a stream so far, for a failure's report.
    pub(crate) fn of_stream(&self, stream: u32) -> Vec<Frame> {
        self.frames.lock().iter().filter(|frame| frame.stream == stream).cloned().collect()
    }

    /// How many frames have come that match.
    pub(crate) fn count(&self, matches: impl Fn(&Frame) -> bool) -> usize {
        self.frames.lock().iter().filter(|frame| matches(frame)).count()
    }
}

/// A frame for the wire (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS with END_HEADERS of a CONNECT: two literals without indexing (RFC 7541, 6.2.2).
pub(crate) fn connect_frame(stream: u32, authority: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "CONNECT"), (":authority", authority)] {
        block.push(0);
        for text in [name, value] {
            // Shorter than 127 bytes: one byte of length, no Huffman code.
            block.push(u8::try_from(text.len()).unwrap_or(0));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(Frame::HEADERS, 4, stream, &block)
}
