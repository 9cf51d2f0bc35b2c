use std::fs::File;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::OFlag;
use nix::sys::socket::{Backlog, ControlMessage, accept, bind, listen, socketpair};

use super::*;

fn pair() -> (Connection, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("sockets");
    (Connection::from_socket(ours).expect("registered"), theirs)
}

fn send(socket: &OwnedFd, bytes: &[u8], files: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(files)];
    let controls: &[ControlMessage<'_>] = if files.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, controls, MsgFlags::empty(), None).expect("sent");
}

#[tokio::test]
async fn packets_keep_their_borders_and_their_descriptors() {
    let (connection, agent) = pair();
    let file = File::open("/proc/self/ns/net").expect("a namespace");
    send(&agent, b"one", &[file.as_raw_fd()]);
    send(&agent, b"two", &[]);
    let first = connection.receive().await.expect("received").expect("a packet");
    assert_eq!(first.bytes, b"one");
    let [descriptor] = <[_; 1]>::try_from(first.descriptors).expect("one descriptor");
    let inode = File::from(descriptor).metadata().expect("metadata").ino();
    assert_eq!(inode, file.metadata().expect("metadata").ino());
    let second = connection.receive().await.expect("received").expect("a packet");
    assert_eq!(second.bytes, b"two");
    assert!(second.descriptors.is_empty());
    connection.send(b"answer").await.expect("sent");
    let mut buffer = [0; 16];
    let length = nix::unistd::read(&agent, &mut buffer).expect("read");
    assert_eq!(&buffer[..length], b"answer");
    drop(agent);
    assert!(connection.receive().await.expect("the end").is_none());
}

#[tokio::test]
async fn what_is_too_long_is_not_read() {
    let (connection, agent) = pair();
    send(&agent, &[7; PACKET_MAX + 1], &[]);
    assert!(matches!(connection.receive().await, Err(SocketError::Cut)));
    let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).expect("a pipe");
    send(&agent, b"many", &[write.as_raw_fd(); 32]);
    assert!(matches!(connection.receive().await, Err(SocketError::Cut)));
    drop(write);
    let mut buffer = [0; 1];
    assert_eq!(nix::unistd::read(&read, &mut buffer), Ok(0), "no descriptor is left open");
}

#[tokio::test]
async fn the_agent_is_dialled() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("zds.sock");
    assert!(matches!(Connection::connect(&path), Err(SocketError::Call { .. })));
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).expect("an address")).expect("bound");
    listen(&listener, Backlog::new(4).expect("a backlog")).expect("listening");
    let connection = Connection::connect(&path).expect("connected");
    let agent = own(accept(listener.as_raw_fd()).expect("accepted"));
    connection.send(&zds::hello()).await.expect("sent");
    let mut buffer = [0; 16];
    let length = nix::unistd::read(&agent, &mut buffer).expect("read");
    assert_eq!(&buffer[..length], zds::hello());
}
