//! Messages on the wire. Responses stay encoded: decoding a large one takes a while, and belongs on
//! the thread that applies it.

use prost::bytes::{Buf, Bytes};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

type Messages = ProstCodec<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

/// Requests as messages, responses as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawResponses;

impl Codec for RawResponses {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Bytes;
    type Encoder = <Messages as Codec>::Encoder;
    type Decoder = Whole;

    fn encoder(&mut self) -> Self::Encoder {
        Messages::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Whole
    }
}

/// Takes a message as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole;

impl Decoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
