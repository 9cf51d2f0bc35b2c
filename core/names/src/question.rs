//! Reading a message: as far as the mesh may answer it, and as far as reports name it.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::host::host;
use crate::wire::Header;

/// The only EDNS version there is (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;

/// Address family asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A question that the mesh may answer, if it owns the name.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) metadata: Metadata,
    pub(crate) query: Query,
    pub(crate) host: String,
    pub(crate) family: Family,
    pub(crate) edns: Option<Edns>,
}

/// Reads a plain question for addresses; `None` for everything else, well-formed or not.
pub(crate) fn read(message: &[u8]) -> Option<Asked> {
    let header = Header::read(message)?;
    // Looked at before anything is decoded: the decoder reserves room for what the counts claim.
    let plain = !header.response
        && header.opcode == 0
        && (header.questions, header.answers, header.authorities) == (1, 0, 0)
        && header.additionals <= 1;
    if !plain {
        return None;
    }
    let mut decoder = BinDecoder::new(message);
    let message = Message::read(&mut decoder).ok()?;
    // A record that is not EDNS, such as a signature, asks for more than is understood here.
    let whole = decoder.is_empty() && message.additionals.is_empty() && message.signature.is_none();
    if !whole || message.edns.as_ref().is_some_and(|edns| edns.version() != EDNS_VERSION) {
        return None;
    }
    let Message { metadata, mut queries, edns, .. } = message;
    let query = queries.pop()?;
    if query.query_class() != DNSClass::IN {
        return None;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other type is the resolver's")]
    let family = match query.query_type() {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        _ => return None,
    };
    let host = host(query.name())?;
    Some(Asked { metadata, query, host, family, edns })
}

/// What a message asks for, in the words of reports. Few enough for labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Everything there is.
    Any,
    /// An alias.
    Cname,
    /// How to reach an HTTPS origin.
    Https,
    /// Mail servers.
    Mx,
    /// Rules of rewriting.
    Naptr,
    /// Name servers.
    Ns,
    /// The name of an address.
    Ptr,
    /// The head of a zone.
    Soa,
    /// Servers of a service.
    Srv,
    /// How to reach a service.
    Svcb,
    /// Text.
    Txt,
    /// A change of a zone.
    Update,
    /// Something else, or nothing that can be read.
    Other,
}

impl Kind {
    /// The word in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Any => "ANY",
            Self::Cname => "CNAME",
            Self::Https => "HTTPS",
            Self::Mx => "MX",
            Self::Naptr => "NAPTR",
            Self::Ns => "NS",
            Self::Ptr => "PTR",
            Self::Soa => "SOA",
            Self::Srv => "SRV",
            Self::Svcb => "SVCB",
            Self::Txt => "TXT",
            Self::Update => "UPDATE",
            Self::Other => "other",
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "reports name the usual types only")]
    fn of(kind: RecordType) -> Self {
        match kind {
            RecordType::A => Self::A,
            RecordType::AAAA => Self::Aaaa,
            RecordType::ANY => Self::Any,
            RecordType::CNAME => Self::Cname,
            RecordType::HTTPS => Self::Https,
            RecordType::MX => Self::Mx,
            RecordType::NAPTR => Self::Naptr,
            RecordType::NS => Self::Ns,
            RecordType::PTR => Self::Ptr,
            RecordType::SOA => Self::Soa,
            RecordType::SRV => Self::Srv,
            RecordType::SVCB => Self::Svcb,
            RecordType::TXT => Self::Txt,
            _ => Self::Other,
        }
    }
}

/// What a message asks for, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What for.
    pub kind: Kind,
    /// The name, with odd bytes escaped; empty if there is none that can be read.
    pub name: String,
}

impl Question {
    /// Reads as much as there is. Decides nothing.
    #[must_use]
    pub fn read(message: &[u8]) -> Self {
        let nothing = Self { kind: Kind::Other, name: String::new() };
        let mut decoder = BinDecoder::new(message);
        let header = hickory_proto::op::Header::read(&mut decoder);
        let Ok(header) = header else { return nothing };
        if header.counts.queries == 0 {
            return nothing;
        }
        let Ok(query) = Query::read(&mut decoder) else { return nothing };
        let kind = match (header.metadata.message_type, header.metadata.op_code) {
            (MessageType::Query, OpCode::Query) => Kind::of(query.query_type()),
            (MessageType::Query, OpCode::Update) => Kind::Update,
            _ => Kind::Other,
        };
        Self { kind, name: query.name().to_ascii() }
    }
}
