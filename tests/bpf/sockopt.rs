//! What a pod may not set on its sockets, and that everything else goes through.

use crate::world::{Node, counter};

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const SO_MARK: i32 = libc::SO_MARK;
const IPV6_TRANSPARENT: i32 = 75;

#[test]
fn the_proxys_marks_and_transparency_are_refused() {
    let node = Node::new();
    let programs = node.load();
    let hooks = node.attach(&programs);
    let mut app = node.actor("pod/leaf", "pod");
    let refused = Err(libc::EPERM);
    let allowed = Ok(());
    for (family, level, name, length, value, expected) in [
        ("v4", SOL_SOCKET, SO_MARK, 4, "1465008129", refused),
        ("v4", SOL_SOCKET, SO_MARK, 4, "1465057279", refused),
        ("v6", SOL_SOCKET, SO_MARK, 4, "1465008129", refused),
        ("v4", SOL_SOCKET, SO_MARK, 8, "1465008129", refused),
        ("v4", SOL_SOCKET, SO_MARK, 8192, "1465008129", refused),
        ("v4", SOL_SOCKET, SO_MARK, 4, "1337", allowed),
        ("v4", SOL_SOCKET, SO_MARK, 4, "0", allowed),
        ("v4", libc::IPPROTO_IP, libc::IP_TRANSPARENT, 4, "1", refused),
        ("v6", libc::IPPROTO_IP, libc::IP_TRANSPARENT, 4, "1", refused),
        ("v6", libc::IPPROTO_IPV6, IPV6_TRANSPARENT, 4, "1", refused),
        ("v4", libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1, "1", refused),
        ("v4", SOL_SOCKET, libc::SO_REUSEADDR, 4, "1", allowed),
        ("v4", libc::IPPROTO_TCP, libc::TCP_NODELAY, 4, "1", allowed),
        ("v4", libc::IPPROTO_IP, libc::IP_TOS, 4, "16", allowed),
        // The kernel's own answers stay.
        ("v4", SOL_SOCKET, SO_MARK, 2, "1", Err(libc::EINVAL)),
        ("v4", SOL_SOCKET, libc::SO_REUSEADDR, 2, "1", Err(libc::EINVAL)),
        ("v4", SOL_SOCKET, libc::SO_RCVBUF, 8192, "65536", allowed),
        ("v4", SOL_SOCKET, libc::SO_REUSEADDR, 4, "null", Err(libc::EFAULT)),
        ("v4", SOL_SOCKET, 9999, 4, "1", Err(libc::ENOPROTOOPT)),
    ] {
        let command = format!("setsockopt {family} {level} {name} {length} {value}");
        assert_eq!(app.run(&command).map(drop), expected, "{command}");
    }
    assert_eq!(counter(hooks.maps(), "sockopt_refused"), 9);
    // Outside the pod's cgroup nothing is refused.
    let mut other = node.actor("other", "pod");
    let command = format!("setsockopt v4 {SOL_SOCKET} {SO_MARK} 4 1465008129");
    assert_eq!(other.run(&command).map(drop), Ok(()));
}
