//! One packet, one message.

use model::{PodUid, PodUidError, WorkloadKey, WorkloadKeyError};
use prost::Message as _;
use proto::zds::workload_request::Payload;
use proto::zds::{
    Ack, AddWorkload, Version, WorkloadRequest, WorkloadResponse, ZdsHello, workload_response,
};

/// Bytes of a packet, in both directions: what the peers' buffers hold. A longer one arrives cut, and
/// is the end of its connection.
pub const PACKET_MAX: usize = 1024;
/// Bytes of an error that is told: leaves room for the message around it.
const ERROR_MAX: usize = PACKET_MAX - 64;

/// A pod that is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod instance.
    pub uid: PodUid,
    /// Which workload it is.
    pub workload: WorkloadKey,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Serve a pod. Its namespace comes along.
    Add(Pod),
    /// Go on to serve a pod whose namespace cannot be passed on.
    Keep(PodUid),
    /// The pod is gone, or no longer in the mesh.
    Delete(PodUid),
    /// Every pod was told.
    SnapshotSent,
}

/// Why a packet says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No protobuf.
    #[error("the packet is not a WorkloadRequest: {0}")]
    Malformed(String),
    /// A kind of message that is not known.
    #[error("the WorkloadRequest says nothing that is known")]
    Unknown,
    /// Not exactly one descriptor with a pod to serve, or one with anything else.
    #[error("{found} file descriptors came with {with}, expected {expected}")]
    Descriptors {
        /// Which message.
        with: &'static str,
        /// How many came.
        found: usize,
        /// How many should have.
        expected: usize,
    },
    /// The pod instance has no usable name.
    #[error("the pod's uid cannot be used")]
    Uid(#[from] PodUidError),
    /// It does not say which workload it is.
    #[error("pod {0} comes without its workload")]
    NoWorkload(PodUid),
    /// The workload's name cannot be one.
    #[error("the workload of pod {uid} cannot be used")]
    Workload {
        /// Which pod.
        uid: PodUid,
        /// What is wrong.
        source: WorkloadKeyError,
    },
}

/// The proxy's first packet.
#[must_use]
pub fn hello() -> Vec<u8> {
    ZdsHello { version: Version::V1.into() }.encode_to_vec()
}

/// The answer to a message: done, or why not. An error is cut to what fits into a packet.
#[must_use]
pub fn answer(result: Result<(), &str>) -> Vec<u8> {
    let error = result.err().unwrap_or_default();
    let end = error.floor_char_boundary(ERROR_MAX);
    let ack = Ack { error: error.get(..end).unwrap_or_default().to_owned() };
    WorkloadResponse { payload: Some(workload_response::Payload::Ack(ack)) }.encode_to_vec()
}

/// Reads a packet that came with `descriptors` file descriptors.
pub fn read(packet: &[u8], descriptors: usize) -> Result<Message, ReadError> {
    let request =
        WorkloadRequest::decode(packet).map_err(|error| ReadError::Malformed(error.to_string()))?;
    let payload = request.payload.ok_or(ReadError::Unknown)?;
    let (with, expected) = match &payload {
        Payload::Add(_) => ("AddWorkload", 1),
        Payload::Keep(_) => ("KeepWorkload", 0),
        Payload::Del(_) => ("DelWorkload", 0),
        Payload::SnapshotSent(_) => ("SnapshotSent", 0),
    };
    if descriptors != expected {
        return Err(ReadError::Descriptors { with, found: descriptors, expected });
    }
    Ok(match payload {
        Payload::Add(add) => Message::Add(pod(add)?),
        Payload::Keep(keep) => Message::Keep(PodUid::parse(&keep.uid)?),
        Payload::Del(delete) => Message::Delete(PodUid::parse(&delete.uid)?),
        Payload::SnapshotSent(_) => Message::SnapshotSent,
    })
}

fn pod(add: AddWorkload) -> Result<Pod, ReadError> {
    let uid = PodUid::parse(&add.uid)?;
    let Some(info) = add.workload_info else { return Err(ReadError::NoWorkload(uid)) };
    let key = format!("{}/{}/{}", info.namespace, info.name, info.service_account);
    match WorkloadKey::parse(&key) {
        Ok(workload) => Ok(Pod { uid, workload }),
        Err(source) => Err(ReadError::Workload { uid, source }),
    }
}

#[cfg(test)]
mod tests;
