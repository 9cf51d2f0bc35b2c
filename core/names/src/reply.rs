//! Writing replies.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode, emit_message_parts};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use crate::question::Asked;
use crate::wire::{Header, MESSAGE_BYTES_MAX};
use crate::{DATAGRAM_BYTES_MAX, Transport};

/// Seconds that an answer may be kept: a change of the mesh reaches clients within this.
const TTL: u32 = 30;

/// Largest message that every client takes in a datagram (RFC 1035 section 4.2.1).
const DATAGRAM_BYTES_PLAIN: u16 = 512;

/// Bytes of a record beside its address: a pointer to the question's name, type, class, TTL, length.
const RECORD_BYTES: usize = 12;

/// The reply with as many of the addresses as fit, and how many those are. With fewer than all, it says
/// that it is truncated (RFC 2181 section 9); resolvers without TCP can use what there is.
pub(crate) fn write(
    asked: &Asked,
    addresses: &[IpAddr],
    transport: Transport,
) -> Option<(Vec<u8>, usize)> {
    let most = match transport {
        Transport::Tcp => MESSAGE_BYTES_MAX,
        Transport::Udp => {
            let taken = asked.edns.as_ref().map_or(DATAGRAM_BYTES_PLAIN, Edns::max_payload);
            usize::from(taken.clamp(DATAGRAM_BYTES_PLAIN, DATAGRAM_BYTES_MAX))
        }
    };
    let whole = encode(asked, addresses, false)?;
    if whole.len() <= most {
        return Some((whole, addresses.len()));
    }
    let record = RECORD_BYTES + if addresses.iter().any(IpAddr::is_ipv6) { 16 } else { 4 };
    let excess = whole.len().saturating_sub(most).div_ceil(record);
    let count = addresses.len().saturating_sub(excess);
    let part = encode(asked, addresses.get(..count)?, true)?;
    (part.len() <= most).then_some((part, count))
}

fn encode(asked: &Asked, addresses: &[IpAddr], truncated: bool) -> Option<Vec<u8>> {
    let mut metadata = Metadata::response_from_request(&asked.metadata);
    metadata.authoritative = true;
    // Other names are resolved, by forwarding.
    metadata.recursion_available = true;
    metadata.truncation = truncated;
    let edns = asked.edns.as_ref().map(edns_of);
    let mut message = Vec::new();
    let written = emit_message_parts(
        &metadata,
        &mut [&asked.query].into_iter(),
        &mut addresses.iter().copied().map(OfQuestion).collect::<Vec<_>>().iter(),
        &mut NOTHING.iter(),
        &mut NOTHING.iter(),
        edns.as_ref(),
        None,
        &mut BinEncoder::new(&mut message),
    );
    written.ok().map(|_| message)
}

/// Records of a section that has none.
const NOTHING: [OfQuestion; 0] = [];

/// An address record of the name in the question. Its name is always a pointer there (RFC 1035 section
/// 4.1.4), also where the library's own records would repeat the name: all records have one length.
struct OfQuestion(IpAddr);

/// A pointer to the first byte after the header, where the question's name is.
const QUESTION_NAME: u16 = 0xc00c;

impl BinEncodable for OfQuestion {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        encoder.emit_u16(QUESTION_NAME)?;
        let kind = if self.0.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        kind.emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(TTL)?;
        match self.0 {
            IpAddr::V4(ip) => {
                encoder.emit_u16(4)?;
                encoder.emit_vec(&ip.octets())
            }
            IpAddr::V6(ip) => {
                encoder.emit_u16(16)?;
                encoder.emit_vec(&ip.octets())
            }
        }
    }
}

/// RFC 6891 section 6.1.1: a request with EDNS is answered with EDNS. The DO bit is copied (RFC 3225
/// section 3); options are hop by hop, and none is understood here.
fn edns_of(request: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES_MAX).set_dnssec_ok(request.flags().dnssec_ok);
    edns
}

/// The reply to a message whose resolver cannot be reached. `None` if there is nothing to reply to: no
/// header, or a response.
#[must_use]
pub fn servfail(message: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(message)?;
    if header.response {
        return None;
    }
    let mut reply = Message::error_msg(header.id, OpCode::from_u8(header.opcode), FAILED);
    // Only what can be read is repeated, and only of messages whose counts are believable.
    if header.questions == 1
        && let Ok(request) = Message::read(&mut BinDecoder::new(message))
    {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = FAILED;
        reply.metadata = metadata;
        reply.queries = request.queries;
        reply.edns = request.edns.map(|edns| edns_of(&edns));
    }
    reply.to_vec().ok()
}

const FAILED: ResponseCode = ResponseCode::ServFail;
