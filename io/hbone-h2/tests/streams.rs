//! Streams between two real ends: bytes, ends, resets, back-pressure, refusals.

mod support;

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use hbone::{Baggage, ConnectHead};
use hbone_h2::{
    Event, HboneStream, Incoming, OpenError, RequestRefused, SERVER_HEADERS_MAX,
    SERVER_STREAMS_MAX, Settings, StreamError, Tunnel, UNREAD_MAX,
};
use model::Code;
use support::{
    Order, Pair, Serving, head, held, local, pattern, paused, read, read_to_end, stall, write,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1024 * 1024;

async fn echo(mut stream: HboneStream) {
    while let Some(bytes) = read(&mut stream, usize::MAX).await.expect("reads") {
        write(&mut stream, bytes).await.expect("writes");
    }
    stream.finish().expect("finishes");
}

#[test]
fn bytes_pass_both_ways() {
    local(async {
        let mut pair = Pair::new().await;
        for len in [0, 1, 1000, 64 * 1024, 3 * MIB] {
            let (near, far) = pair.open().await;
            let echo = spawn_local(echo(far));
            let (got, sent) = exchange(near, pattern(len, len)).await;
            assert!(got == sent, "{len}");
            echo.await.expect("echo");
        }
    });
}

/// Sends and receives at once, in one task, as a relay does.
async fn exchange(mut stream: HboneStream, data: Bytes) -> (Vec<u8>, Bytes) {
    let (mut left, mut got) = (data.clone(), Vec::new());
    poll_fn(|cx| {
        use std::task::Poll;
        loop {
            let mut moved = false;
            if left.is_empty() {
                stream.finish().expect("finishes");
            } else if let Poll::Ready(n) = stream.poll_capacity(cx, left.len().min(65536)) {
                let n = n.expect("capacity");
                stream.send(left.split_to(n)).expect("sends");
                moved = true;
            }
            match stream.poll_fill(cx) {
                Poll::Ready(Ok(true)) => {
                    while !stream.buffered().is_empty() {
                        got.extend_from_slice(stream.buffered());
                        let n = stream.buffered().len();
                        stream.consume(n);
                    }
                    moved = true;
                }
                Poll::Ready(Ok(false)) => return Poll::Ready(()),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => {}
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await;
    (got, data)
}

#[test]
fn either_side_may_end_first() {
    local(async {
        let mut pair = Pair::new().await;
        for client_first in [true, false] {
            let (near, far) = pair.open().await;
            let (mut first, mut second) = if client_first { (near, far) } else { (far, near) };
            write(&mut first, Bytes::from_static(b"question")).await.expect("writes");
            first.finish().expect("finishes");
            first.finish().expect("twice is no harm");
            assert_eq!(read_to_end(&mut second).await.expect("reads"), b"question");
            // The other direction is still open, for much more than a window.
            let answer = pattern(9 * MIB, 5);
            let sent = answer.clone();
            let writer = spawn_local(async move {
                write(&mut second, sent).await.expect("writes");
                second.finish().expect("finishes");
                assert_eq!(poll_fn(|cx| second.poll_fill(cx)).await, Ok(false), "stays ended");
            });
            assert!(read_to_end(&mut first).await.expect("reads") == answer);
            writer.await.expect("writer");
            assert_eq!(first.send(Bytes::from_static(b"x")), Err(StreamError::Overrun));
        }
    });
}

#[test]
fn a_reset_is_not_an_end() {
    local(async {
        let mut pair = Pair::new().await;
        for client_resets in [true, false] {
            for by_drop in [true, false] {
                let (near, far) = pair.open().await;
                let (mut one, mut other) = if client_resets { (near, far) } else { (far, near) };
                write(&mut one, Bytes::from_static(b"partial")).await.expect("writes");
                assert_eq!(read(&mut other, 99).await.expect("reads").expect("bytes"), "partial");
                if by_drop {
                    drop(one);
                } else {
                    one.reset();
                }
                let error = read(&mut other, 99).await.expect_err("reset");
                assert_eq!(error, StreamError::Reset(Reason::CANCEL));
                assert_eq!(error.code(), Code::Reset);
                // And the writing half learns it too.
                let error = write(&mut other, Bytes::from_static(b"x")).await.expect_err("reset");
                assert_eq!(error, StreamError::Reset(Reason::CANCEL));
            }
        }
        let (near, far) = pair.open().await;
        let echo = spawn_local(echo(far));
        let (got, sent) = exchange(near, pattern(1000, 1)).await;
        assert!(got == sent, "other streams are not concerned");
        echo.await.expect("echo");
    });
}

#[test]
fn an_idle_writer_learns_of_a_reset() {
    local(async {
        let mut pair = Pair::new().await;
        let (mut near, mut far) = pair.open().await;
        far.finish().expect("finishes");
        assert_eq!(read(&mut near, 1).await, Ok(None));
        let broken = spawn_local(async move { poll_fn(|cx| near.poll_broken(cx)).await });
        tokio::task::yield_now().await;
        far.reset();
        let error = timeout(SOON, broken).await.expect("soon").expect("task");
        assert_eq!(error, StreamError::Reset(Reason::CANCEL));
    });
}

/// A server that has sent its END_STREAM and drops the stream sends RST_STREAM(NO_ERROR).
#[test]
fn letting_go_after_the_end_is_no_reset() {
    local(async {
        let mut pair = Pair::new().await;
        let (mut near, mut far) = pair.open().await;
        write(&mut far, Bytes::from_static(b"all of it")).await.expect("writes");
        far.finish().expect("finishes");
        assert_eq!(read_to_end(&mut near).await.expect("reads"), b"all of it");
        drop(far);
        let error = poll_fn(|cx| near.poll_broken(cx)).await;
        assert_eq!((error.code(), error), (Code::Ok, StreamError::Finished));
        let error = write(&mut near, Bytes::from_static(b"x")).await.expect_err("unwanted");
        assert_eq!(error, StreamError::Finished);
        assert_eq!(poll_fn(|cx| near.poll_fill(cx)).await, Ok(false), "stays ended");
        let (near, far) = pair.open().await;
        let echo = spawn_local(echo(far));
        let (got, sent) = exchange(near, pattern(1000, 1)).await;
        assert!(got == sent, "other streams are not concerned");
        echo.await.expect("echo");
    });
}

/// The same RST_STREAM without an end says nothing about the bytes.
#[test]
fn no_error_before_the_end_is_a_reset() {
    local(async {
        let (sender, mut server) = raw().await;
        let mut sender = sender.ready().await.expect("ready");
        let good = request(http::Method::CONNECT, "10.0.0.1:80");
        let (answer, mut stream) = sender.send_request(good, false).expect("sends");
        let (_, responder) = server.connect().await;
        let mut far = responder.accept(&Baggage::default()).expect("accepts");
        answer.await.expect("an answer");
        stream.send_reset(Reason::NO_ERROR);
        let error = read(&mut far, 1).await.expect_err("reset");
        assert_eq!((error.code(), error), (Code::Reset, StreamError::Reset(Reason::NO_ERROR)));
    });
}

#[test]
fn writing_needs_capacity() {
    local(async {
        let mut pair = Pair::new().await;
        let (mut near, _far) = pair.open().await;
        assert_eq!(near.send(Bytes::from_static(b"x")), Err(StreamError::Overrun));
        let n = poll_fn(|cx| near.poll_capacity(cx, 10)).await.expect("capacity");
        assert_eq!(n, 10);
        near.send(Bytes::from_static(b"12345678")).expect("fits");
        assert_eq!(near.send(Bytes::from_static(b"abc")), Err(StreamError::Overrun));
        near.send(Bytes::new()).expect("nothing is nothing");
        near.release_capacity();
        assert_eq!(near.send(Bytes::from_static(b"a")), Err(StreamError::Overrun));
    });
}

/// Readers that stand still hold their own window, and nobody else's: here 12 of them, with three
/// times the connection's window unread, while others move.
#[test]
fn stalled_readers_are_bounded_and_harm_nobody() {
    local(async {
        let mut pair = Pair::new().await;
        let window = usize::try_from(Settings::default().stream_window).expect("fits");
        let mut stalled = Vec::new();
        for n in 0..12 {
            let (mut near, mut far) = pair.open().await;
            let writer = spawn_local(async move {
                let data = pattern(2 * window, n);
                write(&mut near, data).await.expect("writes");
                near.finish().expect("finishes");
                near
            });
            // A relay's shape: it fills always, and passes on only when it is told to.
            let (go, mut told) = tokio::sync::watch::channel(false);
            let reader = spawn_local(async move {
                tokio::select! {
                    result = stall(&mut far) => panic!("ended early: {result:?}"),
                    _ = told.wait_for(|go| *go) => {}
                }
                let held = held(&far);
                let all = read_to_end(&mut far).await.expect("reads");
                assert!(all == pattern(2 * window, n));
                (held, far)
            });
            stalled.push((writer, reader, go));
        }
        // Long enough for all of them to have filled their windows.
        for _ in 0..20 {
            let (near, far) = pair.open().await;
            let echo = spawn_local(echo(far));
            let (got, sent) =
                timeout(SOON, exchange(near, pattern(5 * MIB, 3))).await.expect("not blocked");
            assert!(got == sent);
            echo.await.expect("echo");
        }
        for (writer, reader, go) in stalled {
            assert!(!writer.is_finished(), "back-pressure holds");
            go.send_replace(true);
            let (held, _far) = timeout(SOON, reader).await.expect("flows").expect("reader");
            assert_eq!(held, window, "the window was filled, and not exceeded");
            timeout(SOON, writer).await.expect("finishes").expect("writer");
        }
    });
}

/// More stalled readers than the thread's budget covers: the tunnel says so, and recovers.
#[test]
fn beyond_the_budget_the_tunnel_reports_a_stall() {
    local(async {
        let mut pair = Pair::new().await;
        let window = usize::try_from(Settings::default().stream_window).expect("fits");
        let count = (UNREAD_MAX + 12 * MIB) / window;
        let (go, told) = tokio::sync::watch::channel(false);
        let mut streams = Vec::new();
        for n in 0..count {
            let (mut near, mut far) = pair.open().await;
            let writer = spawn_local(async move {
                write(&mut far, pattern(window, n)).await.expect("writes");
                far.finish().expect("finishes");
                far
            });
            let mut told = told.clone();
            let reader = spawn_local(async move {
                tokio::select! {
                    _ = stall(&mut near) => {}
                    _ = told.wait_for(|go| *go) => {}
                }
                told.wait_for(|go| *go).await.expect("told");
                let got = read_to_end(&mut near).await.expect("reads");
                assert!(got == pattern(window, n));
                near
            });
            streams.push((reader, writer));
        }
        assert_eq!(pair.events.next().await, Some(Event::Stalled));
        go.send_replace(true);
        for (reader, writer) in streams {
            timeout(SOON, reader).await.expect("flows").expect("reader");
            timeout(SOON, writer).await.expect("flows").expect("writer");
        }
        assert_eq!(pair.events.next().await, Some(Event::Resumed));
    });
}

/// h2 ends a connection on which too many small frames wait to be read. None do, because every
/// stream is emptied whenever it is polled.
#[test]
fn tiny_frames_do_not_cost_the_tunnel() {
    local(async {
        const FRAMES: usize = 200_000;
        let (near, far) = duplex(4 * MIB);
        let mut pair = Pair::over(near, far, &Settings::default()).await;
        let (mut slow_near, mut slow_far) = pair.open().await;
        let (mut fast_near, mut fast_far) = pair.open().await;
        let send = |stream: &mut HboneStream| {
            for n in 0..64_usize {
                let byte = Bytes::copy_from_slice(&[u8::try_from(n).expect("small")]);
                stream.send(byte).expect("sends");
            }
        };
        let writer = spawn_local(async move {
            for _ in 0..FRAMES / 64 {
                for stream in [&mut slow_near, &mut fast_near] {
                    let n = poll_fn(|cx| stream.poll_capacity(cx, 64)).await.expect("capacity");
                    assert_eq!(n, 64);
                    send(stream);
                }
            }
            slow_near.finish().expect("finishes");
            fast_near.finish().expect("finishes");
            (slow_near, fast_near)
        });
        let reader = spawn_local(async move { read_to_end(&mut fast_far).await });
        // This one takes out and passes nothing on.
        stall(&mut slow_far).await.expect("the tunnel lives");
        let _open = writer.await.expect("writer");
        let fast = reader.await.expect("reader").expect("the tunnel lives");
        let slow = read_to_end(&mut slow_far).await.expect("reads");
        assert_eq!((fast.len(), slow.len()), (FRAMES, FRAMES));
        assert!(fast == slow && fast.iter().enumerate().all(|(at, b)| usize::from(*b) == at % 64));
    });
}

/// A peer with a backlog of tiny frames, all readable at once, on many streams: the portions of
/// the reader keep h2's allowance from being spent.
#[test]
fn a_backlog_of_tiny_frames_is_survived() {
    local(async {
        const FRAMES: usize = 60_000;
        let (near, far) = duplex(16 * MIB);
        let mut pair = Pair::over(near, far, &Settings::default()).await;
        let mut pairs = Vec::new();
        for _ in 0..4 {
            pairs.push(pair.open().await);
        }
        let mut readers = Vec::new();
        for (mut near, mut far) in pairs {
            let n = poll_fn(|cx| near.poll_capacity(cx, FRAMES)).await.expect("capacity");
            assert_eq!(n, FRAMES);
            for _ in 0..FRAMES {
                near.send(Bytes::from_static(b"x")).expect("sends");
            }
            near.finish().expect("finishes");
            readers.push(spawn_local(async move {
                let all = read_to_end(&mut far).await.expect("the tunnel lives");
                (near, all.len())
            }));
        }
        for reader in readers {
            assert_eq!(reader.await.expect("reader").1, FRAMES);
        }
    });
}

#[test]
fn goaway_lets_streams_finish_and_takes_no_new_ones() {
    local(async {
        let mut pair = Pair::new().await;
        let (near, far) = pair.open().await;
        pair.server.orders.send(Order::Shutdown).expect("served");
        let event = pair.events.next().await;
        assert_eq!(event, Some(Event::GoingAway));
        let Err(OpenError::NotTaken(_)) = pair.tunnel.open(&head()).await else {
            panic!("must not open")
        };
        let echo = spawn_local(echo(far));
        let (got, sent) = exchange(near, pattern(MIB, 9)).await;
        assert!(got == sent, "the open stream goes on");
        echo.await.expect("echo");
        assert_eq!(timeout(SOON, pair.server.task).await.expect("ends").expect("task"), None);
        let event = pair.events.next().await;
        assert_eq!(event, Some(Event::Closed(None)));
    });
}

#[test]
fn the_tunnel_closes_with_its_last_handle() {
    local(async {
        let mut pair = Pair::new().await;
        let (near, far) = pair.open().await;
        drop(pair.tunnel);
        let echo = spawn_local(echo(far));
        let (got, sent) = exchange(near, pattern(1000, 1)).await;
        assert!(got == sent, "a stream keeps it");
        echo.await.expect("echo");
        let event = pair.events.next().await;
        assert_eq!(event, Some(Event::Closed(None)));
        assert_eq!(timeout(SOON, pair.server.task).await.expect("ends").expect("task"), None);
    });
}

#[test]
fn a_lost_tunnel_breaks_its_streams() {
    local(async {
        for client_lost in [true, false] {
            let mut pair = Pair::new().await;
            let (mut near, mut far) = pair.open().await;
            if client_lost {
                pair.client.abort();
            } else {
                pair.server.task.abort();
            }
            for stream in [&mut near, &mut far] {
                let result = timeout(SOON, read(stream, 1)).await.expect("noticed");
                let error = result.expect_err("not an end");
                assert_eq!(error.code(), Code::TunnelLost, "{error}");
            }
        }
    });
}

#[test]
fn the_head_and_the_answer_arrive() {
    local(async {
        let mut pair = Pair::new().await;
        let sent = ConnectHead {
            baggage: Baggage { namespace: "shop".into(), ..Baggage::default() },
            forwarded: hbone::Forwarded::new("10.0.1.5:4".parse().expect("literal"), Some("pay")),
            traceparent: Some(hbone::Traceparent::from_random([7; 16], [8; 8])),
            forwarded_network: Some(model::Network("".into())),
            ..head()
        };
        let expected = sent.clone();
        let (opened, ()) = tokio::join!(pair.tunnel.open(&sent), async {
            let (got, responder) = pair.server.connect().await;
            assert_eq!(got, expected);
            responder.refuse(401);
        });
        assert!(matches!(opened, Err(OpenError::Status(401))));
        let told = Baggage { namespace: "shop".into(), ..Baggage::default() };
        for baggage in [told, Baggage::default()] {
            let (opened, _far) = tokio::join!(pair.tunnel.open(&sent), async {
                let (_, responder) = pair.server.connect().await;
                responder.accept(&baggage).expect("accepts")
            });
            assert_eq!(opened.expect("opens").baggage, baggage);
        }
    });
}

#[test]
fn an_unanswered_request_is_reset_and_the_dialler_learns_of_it() {
    local(async {
        let mut pair = Pair::new().await;
        let head_sent = head();
        let (opened, ()) = tokio::join!(pair.tunnel.open(&head_sent), async {
            drop(pair.server.connect().await);
        });
        assert!(matches!(opened, Err(OpenError::Broken(_))));
        let tunnel = pair.tunnel.clone();
        let opening = spawn_local(async move { tunnel.open(&head()).await.map(|_| ()) });
        let (_, mut responder) = pair.server.connect().await;
        opening.abort();
        timeout(SOON, responder.gone()).await.expect("noticed");
    });
}

/// A plain h2 client can do things wrong that a `Tunnel` cannot.
async fn raw() -> (h2::client::SendRequest<Bytes>, Serving) {
    let (near, far) = duplex(MIB);
    let settings = Settings::default();
    let (sender, server) =
        tokio::join!(h2::client::handshake(near), hbone_h2::Server::handshake(far, &settings));
    let (sender, connection) = sender.expect("client");
    spawn_local(async move {
        // Its end is seen from the other side.
        let _ = connection.await;
    });
    (sender, Serving::new(server.expect("server")))
}

fn request(method: http::Method, uri: &str) -> http::Request<()> {
    http::Request::builder().method(method).uri(uri).body(()).expect("request")
}

#[test]
fn bad_requests_are_refused_and_harm_nobody() {
    local(async {
        let (mut sender, mut server) = raw().await;
        for (method, uri, code) in [
            (http::Method::GET, "http://10.0.0.1/", Code::BadMethod),
            (http::Method::POST, "http://10.0.0.1:80/x", Code::BadMethod),
            (http::Method::CONNECT, "10.0.0.256:80", Code::BadAuthority),
            (http::Method::CONNECT, "10.0.0.1:0", Code::BadAuthority),
            (http::Method::CONNECT, "user@host:80", Code::BadAuthority),
        ] {
            sender = sender.ready().await.expect("ready");
            let (answer, _stream) =
                sender.send_request(request(method, uri), false).expect("sends");
            let Some(Incoming::Refused(error)) = server.incoming.recv().await else {
                panic!("{uri} was not refused")
            };
            assert_eq!(error.code(), code, "{uri}");
            assert_eq!(answer.await.expect("an answer").status(), 400, "{uri}");
        }
        // Headers beyond the limit are answered by h2 itself.
        for (twice, ended) in [(false, false), (false, true), (true, false)] {
            let mut oversized = request(http::Method::CONNECT, "10.0.0.1:80");
            let most = usize::try_from(SERVER_HEADERS_MAX).expect("fits");
            let long = "x".repeat(if twice { 2 * most } else { most });
            oversized.headers_mut().insert("baggage", long.try_into().expect("value"));
            sender = sender.ready().await.expect("ready");
            let (answer, _stream) = sender.send_request(oversized, ended).expect("sends");
            assert_eq!(answer.await.expect("an answer").status(), 431);
            let refused = timeout(SOON, server.incoming.recv()).await.expect("told");
            let Some(Incoming::Refused(RequestRefused::HeadTooLarge)) = refused else {
                panic!("the refusal was not told")
            };
        }
        // The tunnel still works.
        sender = sender.ready().await.expect("ready");
        let good = request(http::Method::CONNECT, "10.0.0.1:80");
        let (answer, _stream) = sender.send_request(good, false).expect("sends");
        let (_, responder) = server.connect().await;
        let _open = responder.accept(&Baggage::default()).expect("accepts");
        assert_eq!(answer.await.expect("an answer").status(), 200);
    });
}

#[test]
fn empty_frames_and_floods_end_only_the_tunnel_they_are_on() {
    local(async {
        let (sender, mut server) = raw().await;
        let mut sender = sender.ready().await.expect("ready");
        let good = request(http::Method::CONNECT, "10.0.0.1:80");
        let (answer, mut stream) = sender.send_request(good, false).expect("sends");
        let (_, responder) = server.connect().await;
        let mut far = responder.accept(&Baggage::default()).expect("accepts");
        answer.await.expect("an answer");
        for _ in 0..200 {
            stream.send_data(Bytes::new(), false).expect("queued");
        }
        let error = timeout(SOON, read(&mut far, 1)).await.expect("ends").expect_err("broken");
        assert_eq!(error.code(), Code::TunnelLost);
        let why = timeout(SOON, server.task).await.expect("ends").expect("task");
        assert_eq!(why.expect("a cause").0, Code::Http2Failed);
    });
}

#[test]
fn more_streams_than_the_bound_wait_at_the_client() {
    local(async {
        let (mut sender, mut server) = raw().await;
        let mut open = Vec::new();
        for _ in 0..SERVER_STREAMS_MAX {
            sender = sender.ready().await.expect("ready");
            let good = request(http::Method::CONNECT, "10.0.0.1:80");
            let sent = sender.send_request(good, false).expect("sends");
            open.push((sent, timeout(SOON, server.connect()).await.expect("taken")));
        }
        assert_eq!(sender.current_max_send_streams(), 200);
        let good = request(http::Method::CONNECT, "10.0.0.1:80");
        let _one_more = sender.send_request(good, false).expect("queued");
        let soon = Duration::from_millis(100);
        assert!(timeout(soon, server.connect()).await.is_err(), "200 are open");
        open.pop();
        timeout(SOON, server.connect()).await.expect("one has ended");
    });
}

/// A frame for the wire (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&[a, b, c, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// HEADERS of a CONNECT: two literals without indexing (RFC 7541, section 6.2.2).
fn connect_frame(stream: u32) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "CONNECT"), (":authority", "10.0.0.1:80")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, 4, stream, &block)
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A frame that came: its kind, its stream, its payload.
async fn read_frame(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    timeout(SOON, from.read_exact(&mut head)).await.expect("soon").expect("a frame");
    let [a, b, c, kind, _flags, stream @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let mut payload = vec![0; usize::try_from(length).expect("fits")];
    timeout(SOON, from.read_exact(&mut payload)).await.expect("soon").expect("a payload");
    (kind, u32::from_be_bytes(stream), payload)
}

/// A client that does not care for the bound.
#[test]
fn streams_beyond_the_bound_are_refused_one_by_one() {
    const MORE: u32 = 30;
    local(async {
        let (mut near, far) = duplex(MIB);
        near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("writes");
        near.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("writes");
        let server = hbone_h2::Server::handshake(far, &Settings::default()).await;
        let mut server = Serving::new(server.expect("server"));
        for n in 0..SERVER_STREAMS_MAX + MORE {
            near.write_all(&connect_frame(2 * n + 1)).await.expect("writes");
        }
        let (mut open, mut refused) = (Vec::new(), 0);
        for _ in 0..SERVER_STREAMS_MAX + MORE {
            match timeout(SOON, server.incoming.recv()).await.expect("told").expect("serves") {
                Incoming::Connect(_, responder) => {
                    open.push(responder.accept(&Baggage::default()).expect("accepts"));
                }
                Incoming::Refused(RequestRefused::TooManyStreams) => refused += 1,
                Incoming::Refused(other) => panic!("{other}"),
            }
        }
        assert_eq!((open.len(), refused), (SERVER_STREAMS_MAX.try_into().expect("fits"), MORE));
        let (mut answers, mut resets) = (0, 0);
        while answers + resets < SERVER_STREAMS_MAX + MORE {
            match read_frame(&mut near).await {
                (HEADERS, _, _) => answers += 1,
                (RST_STREAM, stream, error) => {
                    assert!(stream > 2 * SERVER_STREAMS_MAX, "{stream}");
                    assert_eq!(error, u32::from(Reason::REFUSED_STREAM).to_be_bytes());
                    resets += 1;
                }
                _ => {}
            }
        }
        assert_eq!((answers, resets), (SERVER_STREAMS_MAX, MORE));
        // One that has ended makes room for another.
        open.pop();
        while read_frame(&mut near).await.0 != RST_STREAM {}
        let one_more = 2 * (SERVER_STREAMS_MAX + MORE) + 1;
        near.write_all(&connect_frame(one_more)).await.expect("writes");
        server.connect().await;
    });
}

#[test]
fn junk_instead_of_http2_is_an_error() {
    local(async {
        let (mut near, far) = duplex(1024);
        near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("writes");
        assert!(hbone_h2::Server::handshake(far, &Settings::default()).await.is_err());
        let (near, far) = duplex(1024);
        drop(far);
        assert!(Tunnel::handshake(near, &Settings::default()).await.is_err());
    });
}

/// The frames that a client writes, read by a peer that answers nothing.
#[test]
fn a_tunnel_that_nobody_holds_says_goodbye() {
    const PREFACE: usize = 24;
    local(async {
        let (near, mut far) = duplex(MIB);
        let settings = Settings::default();
        let (tunnel, mut driver) = Tunnel::handshake(near, &settings).await.expect("client");
        drop(tunnel);
        assert_eq!(timeout(SOON, driver.next()).await.expect("ends"), Event::Closed(None));
        drop(driver);
        far.read_exact(&mut [0; PREFACE]).await.expect("the preface");
        while read_frame(&mut far).await.0 != GOAWAY {}
        assert_eq!(far.read(&mut [0]).await.expect("reads"), 0, "nothing follows");
    });
}

#[test]
fn a_dead_peer_is_noticed_within_30_seconds() {
    paused(async {
        // The far end is a peer that answers nothing any more, after a good start.
        let mut pair = Pair::new().await;
        let (mut near, _far) = pair.open().await;
        tokio::time::sleep(Duration::from_mins(5)).await;
        assert!(!pair.client.is_finished(), "PINGs are answered");
        pair.server.orders.send(Order::Freeze).expect("served");
        let begun = Instant::now();
        let error = read(&mut near, 1).await.expect_err("dead");
        assert_eq!(error.code(), Code::TunnelLost);
        assert!(begun.elapsed() <= Duration::from_secs(30), "{:?}", begun.elapsed());
        let Some(Event::Closed(Some(cause))) = pair.events.next().await else { panic!("closed") };
        assert!(cause.contains("PING"), "{cause}");
    });
}

#[test]
fn a_connection_that_breaks_is_a_lost_tunnel() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let near = TcpStream::connect(listener.local_addr().expect("address")).await;
        let (far, _) = listener.accept().await.expect("accepts");
        let near = near.expect("connects");
        near.set_zero_linger().expect("will be reset");
        let settings = Settings::default();
        let (client, server) = tokio::join!(
            Tunnel::handshake(near, &settings),
            hbone_h2::Server::handshake(far, &settings)
        );
        drop(client.expect("client"));
        let mut server = server.expect("server");
        assert!(timeout(SOON, server.next()).await.expect("ends").is_none());
        assert_eq!(server.error().map(hbone_h2::ServerError::code), Some(Code::TunnelLost));
    });
}

#[test]
fn a_dead_client_is_noticed_by_the_server() {
    paused(async {
        let (near, far) = duplex(MIB);
        let settings = Settings::default();
        let (client, server) = tokio::join!(
            Tunnel::handshake(near, &settings),
            hbone_h2::Server::handshake(far, &settings)
        );
        let (_tunnel, _driver_that_nobody_polls) = client.expect("client");
        let mut server = server.expect("server");
        let begun = Instant::now();
        assert!(server.next().await.is_none());
        assert_eq!(begun.elapsed(), Duration::from_secs(30));
        let error = server.error().expect("a cause");
        assert!(error.to_string().contains("PING"));
        assert_eq!(error.code(), Code::TunnelLost);
    });
}
