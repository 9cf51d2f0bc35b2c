use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use model::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Default)]
struct Tally {
    request: Cell<u64>,
    response: Cell<u64>,
}

impl Meter for Tally {
    fn request(&self, bytes: u64) {
        self.request.set(self.request.get() + bytes);
    }
    fn response(&self, bytes: u64) {
        self.response.set(self.response.get() + bytes);
    }
}

/// Two connected sockets on loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connect"), far.expect("accept").0)
}

/// The application's ends of a relayed connection, and the relay's.
async fn legs() -> ((TcpStream, TcpStream), (TcpStream, TcpStream)) {
    let ((client, near), (far, server)) = (pair().await, pair().await);
    ((client, server), (near, far))
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    let ((mut client, mut server), (near, far)) = legs().await;
    let tally = Tally::default();
    let talk = async {
        client.write_all(b"question").await.expect("client writes");
        client.shutdown().await.expect("client ends");
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.expect("server reads to the end");
        assert_eq!(heard, b"question");
        server.write_all(b"a longer answer").await.expect("server still writes");
        server.shutdown().await.expect("server ends");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("client reads to the end");
        assert_eq!(heard, b"a longer answer");
    };
    let relay = join_tcp(near, far, &tally, pending());
    let (ending, ()) = tokio::join!(relay, talk);
    assert_eq!(ending, Ending { code: Code::Ok, policy: None, detail: None });
    assert_eq!((tally.request.get(), tally.response.get()), (8, 15));
}

#[tokio::test]
async fn a_reset_becomes_a_reset() {
    let ((client, mut server), (near, far)) = legs().await;
    let tally = Tally::default();
    client.set_zero_linger().expect("linger");
    let talk = async {
        drop(client);
        let error = server.read(&mut [0; 8]).await.expect_err("the server is reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    };
    let relay = join_tcp(near, far, &tally, pending());
    let (ending, ()) = tokio::join!(relay, talk);
    assert_eq!(ending.code, Code::Reset);
    assert!(ending.detail.is_some_and(|detail| detail.starts_with("client: ")));
}

#[tokio::test]
async fn a_stop_resets_both_sides_and_gives_its_reason() {
    let ((mut client, mut server), (near, far)) = legs().await;
    let tally = Tally::default();
    let revoked = || Ending::new(Code::PolicyRevoked, "why");
    let ending = join_tcp(near, far, &tally, async { revoked() }).await;
    assert_eq!(ending, revoked());
    for side in [&mut client, &mut server] {
        let error = side.read(&mut [0; 8]).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn bulk_arrives_whole_behind_a_slow_reader_and_presses_back() {
    const BYTES: usize = 24 << 20;
    let ((mut client, mut server), (near, far)) = legs().await;
    let tally = Tally::default();
    let sent = Cell::new(0_usize);
    let upload = async {
        let chunk = vec![7; 64 << 10];
        while sent.get() < BYTES {
            let n = (BYTES - sent.get()).min(chunk.len());
            client.write_all(&chunk[..n]).await.expect("client writes");
            sent.set(sent.get() + n);
        }
        client.shutdown().await.expect("client ends");
    };
    let download = async {
        // Nobody reads: the writer must come to a stand well before the end.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(sent.get() < BYTES, "no back-pressure: all {BYTES} bytes were taken");
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.expect("server reads");
        assert!(heard.len() == BYTES && heard.iter().all(|byte| *byte == 7));
        server.shutdown().await.expect("server ends");
    };
    let relay = join_tcp(near, far, &tally, pending());
    let (ending, (), ()) = tokio::join!(relay, upload, download);
    assert_eq!(ending.code, Code::Ok);
    assert_eq!(usize::try_from(tally.request.get()), Ok(BYTES));
}

/// A source that never runs dry and a sink that never fills: only the turn's end stops the poll.
#[tokio::test]
async fn one_bulk_flow_does_not_keep_the_thread() {
    let mut way = tcp::OneWay::new();
    let (mut source, mut sink) = (tokio::io::repeat(7), tokio::io::sink());
    for _ in 0..20 {
        let moved = Cell::new(0);
        let first = std::future::poll_fn(|cx| {
            let poll = way.poll(cx, &mut source, &mut sink, |n| moved.set(moved.get() + n));
            Poll::Ready(poll.is_pending())
        });
        assert!(first.await, "it would go on for ever");
        assert!((1 << 20..3 << 20).contains(&moved.get()), "{} bytes in a turn", moved.get());
    }
}
