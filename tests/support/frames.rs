//! Ethernet frames as far as a test looks at them: IP addresses, ports, TCP payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;

/// One captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was read.
    pub at: SystemTime,
    /// Its length on the wire; `bytes` may be shorter.
    pub length: usize,
    /// Its start, from the Ethernet header.
    pub bytes: Vec<u8>,
}

/// A TCP segment in a frame.
#[derive(Clone, Copy, Debug)]
pub struct TcpSegment<'a> {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number of the first payload byte (of the SYN, if it is one).
    pub sequence: u32,
    /// Whether it opens a direction.
    pub syn: bool,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Frame {
    /// The TCP segment it holds, if any. Extension headers of IPv6 are not followed.
    #[must_use]
    pub fn tcp(&self) -> Option<TcpSegment<'_>> {
        let packet = self.bytes.get(ETHERNET..)?;
        let (source, destination, segment): (IpAddr, IpAddr, _) =
            match self.bytes.get(12..ETHERNET)?.try_into().ok()? {
                IPV4 => {
                    let header = usize::from(packet.first()? & 15) * 4;
                    if *packet.get(9)? != TCP {
                        return None;
                    }
                    let total = usize::from(u16::from_be_bytes(array(packet, 2)?));
                    // 0: a large segment whose length the card would fill in. Otherwise the rest
                    // of the frame is padding.
                    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
                    let v4 = |at| array::<4>(packet, at).map(Ipv4Addr::from);
                    (v4(12)?.into(), v4(16)?.into(), packet.get(header..end)?)
                }
                IPV6 => {
                    if *packet.get(6)? != TCP {
                        return None;
                    }
                    let v6 = |at| array::<16>(packet, at).map(Ipv6Addr::from);
                    (v6(8)?.into(), v6(24)?.into(), packet.get(IPV6_HEADER..)?)
                }
                _ => return None,
            };
        let port = |at| array(segment, at).map(u16::from_be_bytes);
        let header = usize::from(segment.get(12)? >> 4) * 4;
        Some(TcpSegment {
            source: (source, port(0)?).into(),
            destination: (destination, port(2)?).into(),
            sequence: u32::from_be_bytes(array(segment, 4)?),
            syn: segment.get(13)? & 2 != 0,
            payload: segment.get(header..)?,
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
