//! Resolvers that say who they are: what they are asked comes back as an answer, with a mark behind it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tests::protocol::{Failure, Hex, Response};

/// Bit of the third byte that makes a message an answer (RFC 1035 section 4.1.1).
const RESPONSE: u8 = 0x80;

/// Resolvers by number.
#[derive(Default)]
pub(crate) struct Resolvers(Mutex<Vec<Arc<Resolver>>>);

struct Resolver {
    mark: String,
    asked: Mutex<Vec<(SocketAddr, Hex)>>,
}

impl Resolvers {
    pub(crate) fn resolve(&self, address: SocketAddr, mark: String) -> Result<Response, Failure> {
        let failed = |error: io::Error| Failure::io("resolve", &error);
        let datagrams: UdpSocket = bind(address, Type::DGRAM).map_err(failed)?.into();
        let listener = bind(address, Type::STREAM).map_err(failed)?;
        listener.listen(16).map_err(failed)?;
        let listener: TcpListener = listener.into();
        let resolver = Arc::new(Resolver { mark, asked: Mutex::default() });
        let (udp, tcp) = (resolver.clone(), resolver.clone());
        // They end with the actor.
        thread::Builder::new().spawn(move || udp.datagrams(&datagrams)).map_err(failed)?;
        thread::Builder::new().spawn(move || tcp.streams(&listener)).map_err(failed)?;
        let mut all = self.0.lock();
        all.push(resolver);
        let listener = u64::try_from(all.len() - 1).unwrap_or(u64::MAX);
        Ok(Response::Listening { listener, address })
    }

    pub(crate) fn asked(&self, resolver: u64) -> Result<Response, Failure> {
        let number = usize::try_from(resolver).unwrap_or(usize::MAX);
        let found = self.0.lock().get(number).cloned();
        let found = found.ok_or_else(|| Failure::other("asked", "there is no such resolver"))?;
        let questions = found.asked.lock().clone();
        Ok(Response::Asked { questions })
    }
}

impl Resolver {
    fn answer(&self, source: SocketAddr, question: &[u8]) -> Vec<u8> {
        self.asked.lock().push((source, Hex(question.to_vec())));
        let mut answer = question.to_vec();
        if let Some(flags) = answer.get_mut(2) {
            *flags |= RESPONSE;
        }
        answer.extend_from_slice(self.mark.as_bytes());
        answer
    }

    fn datagrams(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let answer = self.answer(source, &buffer[..length]);
            // Whoever asked may have gone.
            let _ = socket.send_to(&answer, source);
        }
    }

    fn streams(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            let this = self.clone();
            // A client that breaks off ends its thread.
            let _ = thread::Builder::new().spawn(move || this.stream(stream));
        }
    }

    fn stream(&self, mut stream: TcpStream) -> io::Result<()> {
        let source = stream.peer_addr()?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question)?;
            let answer = self.answer(source, &question);
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
        }
    }
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` serves both families.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
