//! The fixed part of a DNS message (RFC 1035 section 4.1.1), read without decoding the rest.

/// Largest DNS message, in bytes: its length in a stream has 16 bits.
pub const MESSAGE_BYTES_MAX: usize = 65_535;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pairs a response with its query.
    pub id: u16,
    /// Whether it is a response.
    pub response: bool,
    /// Operation, 0 to 15; 0 is a query.
    pub opcode: u8,
    /// Questions.
    pub questions: u16,
    /// Answer records.
    pub answers: u16,
    /// Authority records.
    pub authorities: u16,
    /// Additional records.
    pub additionals: u16,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 12;

    /// Reads the header; `None` for what is too short to have one.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let fields: &[u8; Self::BYTES] = message.first_chunk()?;
        let [i0, i1, flags, _, q0, q1, a0, a1, n0, n1, r0, r1] = *fields;
        Some(Self {
            id: u16::from_be_bytes([i0, i1]),
            response: flags & 0x80 != 0,
            opcode: (flags >> 3) & 0x0f,
            questions: u16::from_be_bytes([q0, q1]),
            answers: u16::from_be_bytes([a0, a1]),
            authorities: u16::from_be_bytes([n0, n1]),
            additionals: u16::from_be_bytes([r0, r1]),
        })
    }
}
