//! The answer to a kubelet's gRPC probe (grpc.health.v1): always "serving". HTTP/2 by hand, as much as
//! that question needs: every request on a connection gets the same answer, whatever it says.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// What a client begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest frame taken: the limit that every peer keeps to unless told otherwise.
const FRAME_BYTES_MAX: usize = 16_384;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// A message of five bytes' head and `HealthCheckResponse { status: SERVING }`.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 0x01];

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// Serves one connection to its end.
pub(crate) fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    if &preface != PREFACE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    write(&mut stream, SETTINGS, 0, 0, &[])?;
    loop {
        let frame = read(&mut stream)?;
        match (frame.kind, frame.flags & ACK != 0) {
            (SETTINGS, false) => write(&mut stream, SETTINGS, ACK, 0, &[])?,
            (PING, false) => write(&mut stream, PING, ACK, 0, &frame.payload)?,
            (HEADERS, _) => answer(&mut stream, frame.stream)?,
            _ => {}
        }
    }
}

fn answer(stream: &mut TcpStream, id: u32) -> io::Result<()> {
    // `:status: 200` is in the static table; the rest is literal (RFC 7541).
    let mut head = vec![0x88];
    literal(&mut head, "content-type", "application/grpc");
    write(stream, HEADERS, END_HEADERS, id, &head)?;
    write(stream, DATA, 0, id, &SERVING)?;
    let mut trailers = Vec::new();
    literal(&mut trailers, "grpc-status", "0");
    write(stream, HEADERS, END_HEADERS | END_STREAM, id, &trailers)
}

/// A field without indexing and without Huffman's code.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        // All of ours are shorter than a length of one byte allows.
        block.push(u8::try_from(text.len()).unwrap_or(0x7f));
        block.extend(text.as_bytes());
    }
}

fn read(stream: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [high, middle, low, kind, flags, id @ ..] = head;
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes(id) & 0x7fff_ffff, payload })
}

fn write(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    // All of ours are far shorter than a frame may be.
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame)
}
