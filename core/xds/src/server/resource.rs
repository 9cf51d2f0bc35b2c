//! One resource, encoded once for all who are sent it.

use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, string};
use proto::security::Authorization;
use proto::workload::{Address, NetworkMode, Service, Workload, address};

use super::kind::{Collection, ResourceType};

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Workload,
    Service,
    Policy,
}

/// A resource as it is sent. Equal content has an equal version, in whichever process.
#[derive(Clone, Debug)]
pub struct Resource {
    nature: Nature,
    name: Arc<str>,
    version: Arc<str>,
    aliases: Box<[Arc<str>]>,
    node: Option<Arc<str>>,
    services: Box<[Arc<str>]>,
    /// The discovery message's `Resource` without aliases. The body is its end.
    encoded: Bytes,
    body_at: usize,
}

/// Field numbers of `Resource` and of `Any` (discovery).
const VERSION: u32 = 1;
const RESOURCE: u32 = 2;
const NAME: u32 = 3;
const ALIASES: u32 = 4;
const ANY_TYPE: u32 = 1;
const ANY_VALUE: u32 = 2;

impl Resource {
    /// A workload, named by its uid; its addresses are its aliases.
    #[must_use]
    pub fn workload(workload: Workload) -> Self {
        let mut aliases = Vec::new();
        // Pods of a host share its address, which names none of them.
        if workload.network_mode != i32::from(NetworkMode::HostNetwork) {
            let ips = workload.addresses.iter().filter_map(|bytes| ip(bytes));
            aliases.extend(ips.map(|ip| alias(&workload.network, ip)));
        }
        let name = workload.uid.as_str().into();
        let node = Some(workload.node.as_str()).filter(|node| !node.is_empty()).map(Arc::from);
        let services = workload.services.keys().map(|name| name.as_str().into()).collect();
        let body = Address { r#type: Some(address::Type::Workload(workload)) };
        Self::new(Nature::Workload, name, aliases, node, services, &body)
    }

    /// A service, named `namespace/hostname`; its virtual addresses are its aliases. A block of
    /// addresses cannot be asked for by one.
    #[must_use]
    pub fn service(service: Service) -> Self {
        let aliases = service.addresses.iter().filter_map(|vip| {
            let ip = ip(&vip.address)?;
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            let is_whole = vip.length.is_none_or(|length| length == whole);
            is_whole.then(|| alias(&vip.network, ip))
        });
        let aliases = aliases.collect();
        let name = format!("{}/{}", service.namespace, service.hostname).into();
        let body = Address { r#type: Some(address::Type::Service(service)) };
        Self::new(Nature::Service, name, aliases, None, Box::default(), &body)
    }

    /// A policy, named `namespace/name`.
    #[must_use]
    pub fn policy(policy: &Authorization) -> Self {
        let name = format!("{}/{}", policy.namespace, policy.name).into();
        Self::new(Nature::Policy, name, Vec::new(), None, Box::default(), policy)
    }

    /// A workload or a service that is encoded already: `body` is an `Address`. `None` if it is
    /// neither.
    #[must_use]
    pub fn encoded_address(
        name: Arc<str>,
        aliases: Vec<Arc<str>>,
        node: Option<Arc<str>>,
        services: Vec<Arc<str>>,
        body: &[u8],
    ) -> Option<Self> {
        // The key of the one field of an `Address` (workload.proto).
        let nature = match body.first()? {
            0x0a => Nature::Workload,
            0x12 => Nature::Service,
            _ => return None,
        };
        Some(Self::of_body(nature, name, aliases, node, services.into(), body))
    }

    /// A policy that is encoded already: `body` is an `Authorization`.
    #[must_use]
    pub fn encoded_policy(name: Arc<str>, body: &[u8]) -> Self {
        Self::of_body(Nature::Policy, name, Vec::new(), None, Box::default(), body)
    }

    fn new(
        nature: Nature,
        name: Arc<str>,
        aliases: Vec<Arc<str>>,
        node: Option<Arc<str>>,
        services: Box<[Arc<str>]>,
        body: &impl Message,
    ) -> Self {
        Self::of_body(nature, name, aliases, node, services, &body.encode_to_vec())
    }

    fn of_body(
        nature: Nature,
        name: Arc<str>,
        aliases: Vec<Arc<str>>,
        node: Option<Arc<str>>,
        services: Box<[Arc<str>]>,
        body: &[u8],
    ) -> Self {
        let url = match nature {
            Nature::Workload | Nature::Service => ResourceType::Address.url(),
            Nature::Policy => ResourceType::Authorization.url(),
        };
        let version: Arc<str> = content_version(body).into();
        let mut encoded = BytesMut::new();
        put(&mut encoded, &name, &version, url, body);
        let body_at = encoded.len() - body.len();
        let aliases = aliases.into();
        let encoded = encoded.freeze();
        Self { nature, name, version, aliases, node, services, encoded, body_at }
    }

    /// Its name within its collection.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A hash of its content.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Further names it can be asked for by: `network/ip`.
    #[must_use]
    pub fn aliases(&self) -> &[Arc<str>] {
        &self.aliases
    }

    /// The node that a workload runs on.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<str>> {
        self.node.as_ref()
    }

    /// The services that a workload is an endpoint of.
    #[must_use]
    pub fn services(&self) -> &[Arc<str>] {
        &self.services
    }

    /// Where it belongs.
    #[must_use]
    pub fn collection(&self) -> Collection {
        match self.nature {
            Nature::Workload | Nature::Service => Collection::Addresses,
            Nature::Policy => Collection::Policies,
        }
    }

    /// The encoded message: an `Address` or an `Authorization`.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.encoded.slice(self.body_at..)
    }

    /// Whether it is one of that type.
    #[must_use]
    pub fn is_a(&self, kind: ResourceType) -> bool {
        match kind {
            ResourceType::Authorization => self.nature == Nature::Policy,
            ResourceType::Address => self.nature != Nature::Policy,
            ResourceType::Workload => self.nature == Nature::Workload,
        }
    }

    pub(super) fn is_service(&self) -> bool {
        self.nature == Nature::Service
    }

    /// Bytes it takes in a response, a little more than that with its aliases.
    pub(super) fn size(&self) -> usize {
        let aliases = self.aliases.iter().map(|alias| alias.len() + 8);
        self.encoded.len() + 32 + aliases.sum::<usize>()
    }

    /// Writes it as field `field` of a response.
    pub(super) fn put(
        &self,
        field: u32,
        kind: ResourceType,
        aliases: &[Arc<str>],
        out: &mut BytesMut,
    ) {
        let derived;
        let encoded: &[u8] = match kind {
            ResourceType::Authorization | ResourceType::Address => &self.encoded,
            ResourceType::Workload => {
                let mut bytes = BytesMut::new();
                let workload = inner(self.encoded.get(self.body_at..).unwrap_or_default());
                put(&mut bytes, &self.name, &self.version, kind.url(), workload);
                derived = bytes;
                &derived
            }
        };
        let aliases_len: usize = aliases.iter().map(|alias| delimited_len(alias.len())).sum();
        encode_key(field, WireType::LengthDelimited, out);
        encode_varint(wide(encoded.len() + aliases_len), out);
        out.put_slice(encoded);
        for alias in aliases {
            put_bytes(ALIASES, alias.as_bytes(), out);
        }
    }
}

/// The fields of a `Resource`, the body last.
fn put(out: &mut BytesMut, name: &str, version: &str, url: &'static str, body: &[u8]) {
    let any = delimited_len(url.len()) + delimited_len(body.len());
    out.reserve(name.len() + version.len() + any + 32);
    put_bytes(VERSION, version.as_bytes(), out);
    put_bytes(NAME, name.as_bytes(), out);
    encode_key(RESOURCE, WireType::LengthDelimited, out);
    encode_varint(wide(any), out);
    put_bytes(ANY_TYPE, url.as_bytes(), out);
    put_bytes(ANY_VALUE, body, out);
}

/// A field of bytes, written also when it is empty.
pub(super) fn put_bytes(field: u32, bytes: &[u8], out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(wide(bytes.len()), out);
    out.put_slice(bytes);
}

/// A text, left out when it is empty.
pub(super) fn put_text(field: u32, text: &str, out: &mut BytesMut) {
    if !text.is_empty() {
        string::encode(field, &text.to_owned(), out);
    }
}

/// Length of a field below number 16 with so many bytes.
fn delimited_len(length: usize) -> usize {
    1 + encoded_len_varint(wide(length)) + length
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The message in an encoded `Address`: its one field, whose number is below 16.
fn inner(mut address: &[u8]) -> &[u8] {
    use prost::bytes::Buf;
    if address.has_remaining() {
        address.advance(1);
    }
    // What was encoded here has a length.
    let _ = prost::encoding::decode_varint(&mut address);
    address
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn alias(network: &str, ip: IpAddr) -> Arc<str> {
    format!("{network}/{ip}").into()
}

/// FNV-1a of 128 bits (draft-eastlake-fnv), folded to 64. It tells versions of one name apart;
/// whoever can write a resource gains nothing from two of its versions that look alike.
fn content_version(body: &[u8]) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
    let hash = body.iter().fold(OFFSET, step);
    format!("{:016x}", (hash ^ (hash >> 64)) & u128::from(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_already_is_the_same_resource() {
        let workload = Workload {
            uid: "k//Pod/shop/a".into(),
            addresses: vec![vec![10, 0, 0, 7].into()],
            node: "node-1".into(),
            services: [("shop/b".into(), proto::workload::PortList::default())].into(),
            ..Workload::default()
        };
        let service =
            Service { namespace: "shop".into(), hostname: "b".into(), ..Service::default() };
        let policy = Authorization {
            name: "p".into(),
            namespace: "shop".into(),
            ..Authorization::default()
        };
        for made in [Resource::workload(workload), Resource::service(service)] {
            let again = Resource::encoded_address(
                made.name.clone(),
                made.aliases.to_vec(),
                made.node.clone(),
                made.services.to_vec(),
                &made.body(),
            );
            let again = again.expect("a workload or a service");
            assert_eq!((again.nature, &again.version), (made.nature, &made.version));
            assert_eq!(again.encoded, made.encoded);
        }
        let made = Resource::policy(&policy);
        let again = Resource::encoded_policy(made.name.clone(), &made.body());
        assert_eq!(again.encoded, made.encoded);
        for garbage in [&b""[..], b"\x1a\x00"] {
            assert!(Resource::encoded_address("x".into(), vec![], None, vec![], garbage).is_none());
        }
    }
}
