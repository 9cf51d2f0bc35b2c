use std::cell::{Cell, RefCell};
use std::sync::Arc;

use model::ServiceName;
use names::Reply;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::dns::{FORWARDS_MAX, Forwards};

/// Room of the streams here; small enough that a message does not fit at once.
const ROOM: usize = 64;

/// A message with this id; one that the mesh owns, if its body says so.
fn message(id: u16, body: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &[0; 10], body].concat()
}

fn response(id: u16, body: &[u8]) -> Vec<u8> {
    let mut message = message(id, body);
    message[2] |= 0x80;
    message
}

const OWN: &[u8] = b"own";

struct Fake {
    /// What each dial yields, last first.
    upstreams: RefCell<Vec<Result<DuplexStream, Failure>>>,
    forwards: Arc<Forwards>,
    fates: RefCell<Vec<Fate>>,
    counted: Cell<(usize, usize)>,
}

impl Fake {
    fn new(upstreams: Vec<Result<DuplexStream, Failure>>) -> Self {
        Self {
            upstreams: RefCell::new(upstreams),
            forwards: Arc::default(),
            fates: RefCell::default(),
            counted: Cell::default(),
        }
    }
}

fn answered() -> Fate {
    let service = ServiceName::parse("a/b").expect("literal");
    Fate::Answered { service, addresses: 1 }
}

impl Surroundings for Fake {
    type Upstream = DuplexStream;

    fn resolver(&self) -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 10], 53))
    }

    fn answer(&self, message: &[u8]) -> Answer {
        if !message.ends_with(OWN) {
            return Answer::Forward;
        }
        let id = Header::read(message).expect("asked only with a header").id;
        let service = ServiceName::parse("a/b").expect("literal");
        Answer::Reply(Reply { message: response(id, b"mesh"), service, addresses: 1 })
    }

    fn place(&self) -> Option<Place> {
        Forwards::begin(&self.forwards)
    }

    async fn dial(&self) -> Result<DuplexStream, Failure> {
        self.upstreams.borrow_mut().pop().expect("a dial that was foreseen")
    }

    fn report(&self, report: Report) {
        assert_eq!((report.transport, report.resolver), (Transport::Tcp, Some(self.resolver())));
        self.fates.borrow_mut().push(report.fate);
    }

    fn count(&self, received: usize, sent: usize) {
        let (before, after) = self.counted.get();
        self.counted.set((before + received, after + sent));
    }
}

/// The far end of a stream, as client or resolver.
struct End {
    stream: DuplexStream,
    frames: Frames,
}

impl End {
    async fn send(&mut self, message: &[u8]) {
        write(&mut self.stream, message).await.expect("written");
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        self.frames.next(&mut self.stream).await.expect("whole messages")
    }
}

fn pair() -> (End, DuplexStream) {
    let (stream, other) = duplex(ROOM);
    (End { stream, frames: Frames::default() }, other)
}

/// Serves a client while `play` runs with it; how serving ended.
async fn run(fake: &Fake, play: impl AsyncFnOnce(End)) -> io::Result<()> {
    let (client, served) = pair();
    let (ended, ()) = tokio::join!(serve(served, fake), play(client));
    ended
}

#[tokio::test]
async fn what_waits_when_the_stream_ends_is_reported() {
    let abandoned = [Fate::Failed(Failure::Abandoned)];
    // By the client, which breaks off in the middle of a message.
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    let ended = run(&fake, async |mut client: End| {
        client.send(&message(1, b"x")).await;
        assert_eq!(resolver.next().await, Some(message(1, b"x")));
        client.stream.write_all(&[0]).await.expect("written");
    })
    .await;
    assert!(ended.is_err());
    assert_eq!(*fake.fates.borrow(), abandoned);
    // By the agent, which serves it no longer.
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    let (mut client, served) = pair();
    tokio::select! {
        ended = serve(served, &fake) => panic!("{ended:?}"),
        () = async {
            client.send(&message(1, b"x")).await;
            assert_eq!(resolver.next().await, Some(message(1, b"x")));
        } => {}
    }
    assert_eq!(*fake.fates.borrow(), abandoned);
}

#[tokio::test]
async fn answers_of_mesh_and_resolver_mix_by_their_ids() {
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    let long = vec![7; 3 * ROOM];
    let ended = run(&fake, async |mut client: End| {
        client.send(&message(1, b"x")).await;
        client.send(&message(2, OWN)).await;
        assert_eq!(client.next().await, Some(response(2, b"mesh")), "it overtakes");
        assert_eq!(resolver.next().await, Some(message(1, b"x")), "verbatim");
        // Further questions take the same connection.
        client.send(&message(3, b"y")).await;
        assert_eq!(resolver.next().await, Some(message(3, b"y")));
        resolver.send(&response(3, b"why")).await;
        assert_eq!(client.next().await, Some(response(3, b"why")));
        let both = async { resolver.send(&response(1, &long)).await };
        let ((), answer) = tokio::join!(both, client.next());
        assert_eq!(answer, Some(response(1, &long)));
        // A zone transfer: more answers than questions.
        let more = async { resolver.send(&response(1, b"more")).await };
        let ((), answer) = tokio::join!(more, client.next());
        assert_eq!(answer, Some(response(1, b"more")));
    })
    .await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(*fake.fates.borrow(), [answered(), Fate::Forwarded, Fate::Forwarded]);
    let sent = 2 + 16 + (2 + 15) + (2 + 12 + 3 * ROOM) + (2 + 16);
    assert_eq!(fake.counted.get(), (15 + 17 + 15, sent));
}

#[tokio::test]
async fn messages_may_come_in_pieces_and_several_at_once() {
    let fake = Fake::new(Vec::new());
    let ended = run(&fake, async |mut client: End| {
        let one = message(1, OWN);
        for byte in [&[0, u8::try_from(one.len()).expect("short")][..], &one].concat() {
            client.stream.write_all(&[byte]).await.expect("written");
            tokio::task::yield_now().await;
        }
        assert_eq!(client.next().await, Some(response(1, b"mesh")));
        let framed = |id| [&[0, 15][..], &message(id, OWN)].concat();
        client.stream.write_all(&[framed(2), framed(3)].concat()).await.expect("written");
        assert_eq!(client.next().await, Some(response(2, b"mesh")));
        assert_eq!(client.next().await, Some(response(3, b"mesh")));
    })
    .await;
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn a_half_closed_client_gets_what_it_waits_for() {
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    let ended = run(&fake, async |mut client: End| {
        client.send(&message(1, b"x")).await;
        client.stream.shutdown().await.expect("shut down");
        assert_eq!(resolver.next().await, Some(message(1, b"x")));
        resolver.send(&response(1, b"z")).await;
        assert_eq!(client.next().await, Some(response(1, b"z")));
        assert_eq!(client.next().await, None);
    })
    .await;
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn a_resolver_that_leaves_is_answered_for_and_ends_the_stream() {
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    let ended = run(&fake, async |mut client: End| {
        client.send(&message(1, b"x")).await;
        client.send(&message(2, b"y")).await;
        resolver.next().await;
        resolver.next().await;
        drop(resolver);
        for id in [1, 2] {
            let refusal = client.next().await.expect("a refusal");
            assert_eq!(Header::read(&refusal).map(|header| header.id), Some(id));
            assert_eq!(refusal[3] & 0x0f, 2, "SERVFAIL");
        }
        assert_eq!(client.next().await, None);
    })
    .await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(*fake.fates.borrow(), vec![Fate::Failed(Failure::Unreachable); 2]);
}

#[tokio::test]
async fn a_resolver_that_cannot_be_reached_costs_only_its_questions() {
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream), Err(Failure::Timeout)]);
    let ended = run(&fake, async |mut client: End| {
        client.send(&message(1, b"x")).await;
        let refusal = client.next().await.expect("a refusal");
        assert_eq!(refusal[3] & 0x0f, 2, "SERVFAIL");
        client.send(&message(2, OWN)).await;
        assert_eq!(client.next().await, Some(response(2, b"mesh")));
        client.send(&message(3, b"y")).await;
        assert_eq!(resolver.next().await, Some(message(3, b"y")), "dialled again");
        resolver.send(&response(3, b"z")).await;
        assert_eq!(client.next().await, Some(response(3, b"z")));
    })
    .await;
    assert!(ended.is_ok(), "{ended:?}");
    let fates = [Fate::Failed(Failure::Timeout), answered(), Fate::Forwarded];
    assert_eq!(*fake.fates.borrow(), fates);
}

#[tokio::test(start_paused = true)]
async fn a_silent_resolver_is_answered_for_in_time() {
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    let ended = run(&fake, async |mut client: End| {
        let start = Instant::now();
        client.send(&message(1, b"x")).await;
        resolver.next().await;
        let refusal = client.next().await.expect("a refusal");
        assert_eq!(refusal[3] & 0x0f, 2, "SERVFAIL");
        assert_eq!(start.elapsed(), UPSTREAM_TIMEOUT);
        // It may still be used.
        client.send(&message(2, OWN)).await;
        assert_eq!(client.next().await, Some(response(2, b"mesh")));
        assert_eq!(client.next().await, None);
        assert_eq!(start.elapsed(), UPSTREAM_TIMEOUT + IDLE_TIMEOUT);
    })
    .await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(*fake.fates.borrow(), [Fate::Failed(Failure::Timeout), answered()]);
    let places: Vec<_> = (0..FORWARDS_MAX).map_while(|_| fake.place()).collect();
    assert_eq!(places.len(), FORWARDS_MAX, "nothing holds a place any more");
}

#[tokio::test(start_paused = true)]
async fn no_more_are_read_than_may_wait() {
    let (mut resolver, upstream) = pair();
    let fake = Fake::new(vec![Ok(upstream)]);
    // The client leaves while questions wait; how that ends is not asked here.
    let _ = run(&fake, async |mut client: End| {
        let questions = u16::try_from(WAITING_MAX).expect("few") + 1;
        let asking = async {
            for id in 0..questions {
                client.send(&message(id, b"x")).await;
            }
        };
        let seen = async {
            for id in 1..questions {
                assert_eq!(resolver.next().await, Some(message(id - 1, b"x")));
            }
            let next = timeout(Duration::from_secs(1), resolver.next()).await;
            assert!(next.is_err(), "one too many was read");
            resolver.send(&response(0, b"z")).await;
            assert_eq!(resolver.next().await, Some(message(questions - 1, b"x")));
        };
        tokio::join!(asking, seen);
        assert_eq!(client.next().await, Some(response(0, b"z")));
    })
    .await;
}

#[tokio::test]
async fn a_question_without_a_place_is_refused_and_not_dialled() {
    let fake = Fake::new(Vec::new());
    let places: Vec<_> = (0..FORWARDS_MAX).map(|_| fake.place().expect("room")).collect();
    let ended = run(&fake, async |mut client: End| {
        client.send(&message(1, b"x")).await;
        let refusal = client.next().await.expect("a refusal");
        assert_eq!(refusal[3] & 0x0f, 2, "SERVFAIL");
    })
    .await;
    drop(places);
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(*fake.fates.borrow(), [Fate::Failed(Failure::LimitReached)]);
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream() {
    let fake = Fake::new(Vec::new());
    let ended = run(&fake, async |mut client: End| {
        client.send(b"short").await;
        assert_eq!(client.next().await, None);
    })
    .await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
    assert_eq!(*fake.fates.borrow(), [Fate::Failed(Failure::Malformed)]);

    let ended = run(&fake, async |mut client: End| {
        client.stream.write_all(&[0, 20, 1, 2]).await.expect("written");
        client.stream.shutdown().await.expect("shut down");
        assert_eq!(client.next().await, None);
    })
    .await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
}
