//! The same over real sockets and mutual TLS: what the node proxies do.

mod support;

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use hbone_h2::{HboneStream, Settings};
use model::SpiffeId;
use support::{Pair, local, pattern, read, read_to_end, svids, write};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SOON: Duration = Duration::from_secs(10);

async fn pair() -> Pair {
    let [server, client] = svids([SERVER, CLIENT]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("address");
    let expected = [SpiffeId::parse(SERVER).expect("literal")];
    let (far, near) = tokio::join!(
        async {
            let (socket, _) = listener.accept().await.expect("accepts");
            socket.set_nodelay(true).expect("option");
            tls::accept(socket, &server, SOON).await.expect("TLS")
        },
        async {
            let socket = TcpStream::connect(address).await.expect("connects");
            socket.set_nodelay(true).expect("option");
            tls::connect(socket, &client, &expected, SOON).await.expect("TLS")
        }
    );
    assert_eq!(far.1.identity.id().as_str(), CLIENT);
    Pair::over(near.0, far.0, &Settings::default()).await
}

async fn echo(mut stream: HboneStream) {
    while let Some(bytes) = read(&mut stream, usize::MAX).await.expect("reads") {
        write(&mut stream, bytes).await.expect("writes");
    }
    stream.finish().expect("finishes");
}

#[test]
fn bulk_both_ways_on_many_streams() {
    local(async {
        let mut pair = pair().await;
        let mut all = Vec::new();
        for n in 0..8 {
            let (near, far) = pair.open().await;
            spawn_local(echo(far));
            all.push(spawn_local(ask(near, pattern(4 << 20, n))));
        }
        for asked in all {
            asked.await.expect("asks");
        }
    });
}

/// Sends in one go and reads as it comes back, one task for both.
async fn ask(mut stream: HboneStream, data: Bytes) {
    let (mut left, mut got) = (data.clone(), Vec::new());
    while got.len() < data.len() {
        if !left.is_empty() {
            let n = left.len().min(64 * 1024);
            write(&mut stream, left.split_to(n)).await.expect("writes");
        }
        got.extend_from_slice(&read(&mut stream, usize::MAX).await.expect("reads").expect("more"));
    }
    stream.finish().expect("finishes");
    assert_eq!(read(&mut stream, 1).await, Ok(None));
    assert!(got == data);
}

#[test]
fn small_questions_and_answers() {
    local(async {
        let mut pair = pair().await;
        let (mut near, far) = pair.open().await;
        spawn_local(echo(far));
        for n in 0..2000 {
            let question = pattern(1 + n % 300, n);
            write(&mut near, question.clone()).await.expect("writes");
            let mut answer = Vec::new();
            while answer.len() < question.len() {
                let part = read(&mut near, usize::MAX).await.expect("reads").expect("more");
                answer.extend_from_slice(&part);
            }
            assert!(answer == question);
        }
    });
}

/// 200,000 frames of one byte to a reader that keeps up and to one that stands still.
#[test]
fn tiny_frames_do_not_cost_the_tunnel() {
    local(async {
        const FRAMES: usize = 200_000;
        let mut pair = pair().await;
        let (mut slow_near, mut slow_far) = pair.open().await;
        let (mut fast_near, mut fast_far) = pair.open().await;
        let writer = spawn_local(async move {
            for at in 0..FRAMES {
                let byte = Bytes::copy_from_slice(&[u8::try_from(at % 251).expect("small")]);
                for stream in [&mut slow_near, &mut fast_near] {
                    poll_fn(|cx| stream.poll_capacity(cx, 1)).await.expect("capacity");
                    stream.send(byte.clone()).expect("sends");
                }
            }
            slow_near.finish().expect("finishes");
            fast_near.finish().expect("finishes");
            (slow_near, fast_near)
        });
        let stalled = spawn_local(async move {
            support::stall(&mut slow_far).await.expect("the tunnel lives");
            slow_far
        });
        let fast = read_to_end(&mut fast_far).await.expect("the tunnel lives");
        let mut slow_far = stalled.await.expect("stalled");
        assert_eq!(support::held(&slow_far), FRAMES);
        let slow = read_to_end(&mut slow_far).await.expect("reads");
        assert_eq!((fast.len(), slow.len()), (FRAMES, FRAMES));
        assert!(fast == slow);
        writer.await.expect("writer");
    });
}
