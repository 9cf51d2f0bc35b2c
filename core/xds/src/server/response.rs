//! Responses, written straight from encoded resources.

use std::sync::Arc;

use prost::bytes::{Bytes, BytesMut};

use super::kind::ResourceType;
use super::resource::{Resource, put_bytes, put_text};

/// A response after the first is split before it grows beyond this; the rest follows when it was
/// answered.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// The first of a type is not split before this, since clients take its arrival for all there is.
/// Istio's accept messages of 200 MiB; at 600 bytes a workload this is some 300,000. Beyond it, the
/// rest follows as with later ones, and clients start before they have it.
pub const FIRST_RESPONSE_BYTES_MAX: usize = 190 << 20;

/// A first response from this size on is a large one: drivers send few of them at a time.
pub const LARGE_BYTES: usize = 1 << 20;

/// Field numbers of `DeltaDiscoveryResponse`.
const SYSTEM_VERSION: u32 = 1;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const REMOVED: u32 = 6;

/// A response to send.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its type.
    pub kind: ResourceType,
    /// The encoded `DeltaDiscoveryResponse`.
    pub bytes: Bytes,
    /// Resources in it.
    pub resources: usize,
    /// Names in it of what is gone.
    pub removed: usize,
    /// The catalogue that it leads to, unless more is pending.
    pub sequence: u64,
}

/// A response that is being written.
pub(super) struct Writing {
    kind: ResourceType,
    out: BytesMut,
    resources: usize,
    removed: usize,
    limit: usize,
    sequence: u64,
}

impl Writing {
    pub(super) fn new(kind: ResourceType, nonce: &str, sequence: u64, limit: usize) -> Self {
        let mut out = BytesMut::new();
        put_text(SYSTEM_VERSION, &sequence.to_string(), &mut out);
        put_text(TYPE_URL, kind.url(), &mut out);
        put_text(NONCE, nonce, &mut out);
        Self { kind, out, resources: 0, removed: 0, limit, sequence }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resources + self.removed == 0
    }

    /// Whether so many bytes more fit. The first always do.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.is_empty() || self.out.len() + bytes <= self.limit
    }

    pub(super) fn resource(&mut self, resource: &Resource, aliases: &[Arc<str>]) {
        resource.put(RESOURCES, self.kind, aliases, &mut self.out);
        self.resources += 1;
    }

    pub(super) fn removed(&mut self, name: &str) {
        put_bytes(REMOVED, name.as_bytes(), &mut self.out);
        self.removed += 1;
    }

    pub(super) fn finish(self) -> Response {
        let Self { kind, out, resources, removed, sequence, .. } = self;
        Response { kind, bytes: out.freeze(), resources, removed, sequence }
    }
}
