//! The head of a CONNECT: what an outbound stream says about itself.

use model::{Code, Network};

use crate::{Authority, AuthorityError, Baggage, Forwarded, Traceparent};

/// The only method of HBONE.
pub const METHOD: &str = "CONNECT";

const BAGGAGE: &str = "baggage";
const FORWARDED: &str = "forwarded";
const TRACEPARENT: &str = "traceparent";
const FORWARDED_NETWORK: &str = "x-forwarded-network";

/// Longest name of a network read or written, in bytes. A longer one is not read at all.
pub const NETWORK_MAX: usize = 253;

/// A CONNECT. Only `authority` selects anything; the rest is for telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectHead {
    /// Where the stream wants to go.
    pub authority: Authority,
    /// The source workload.
    pub baggage: Baggage,
    /// The client and the service it dialled.
    pub forwarded: Forwarded,
    /// The trace.
    pub traceparent: Option<Traceparent>,
    /// The network the stream comes from, if a gateway may have been on its way: then the tunnel's
    /// address says nothing about the client.
    pub forwarded_network: Option<Network>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a CONNECT.
    #[error("the method is not CONNECT")]
    Method,
    /// A CONNECT without `:authority`.
    #[error("the request has no authority")]
    NoAuthority,
    /// The `:authority` cannot be read.
    #[error("the authority cannot be read")]
    Authority(#[from] AuthorityError),
}

impl HeadError {
    /// The stable reason.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Method => Code::BadMethod,
            Self::NoAuthority | Self::Authority(_) => Code::BadAuthority,
        }
    }
}

impl ConnectHead {
    /// A head that says nothing but where to.
    #[must_use]
    pub fn to(authority: Authority) -> Self {
        Self {
            authority,
            baggage: Baggage::default(),
            forwarded: Forwarded::default(),
            traceparent: None,
            forwarded_network: None,
        }
    }

    /// Whether the stream came through a gateway, for a node of network `own`. Names of networks
    /// are compared as Istio does, whatever their case.
    #[must_use]
    pub fn from_gateway(&self, own: &Network) -> bool {
        let network = self.forwarded_network.as_ref();
        network.is_some_and(|network| !network.0.eq_ignore_ascii_case(&own.0))
    }

    /// The headers besides the pseudo-headers, in the order of the wire, empty ones left out.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let all = [
            (BAGGAGE, self.baggage.encode()),
            (FORWARDED, self.forwarded.to_string()),
            (TRACEPARENT, self.traceparent.map_or_else(String::new, |t| t.to_string())),
        ];
        let mut headers: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        // The default network has an empty name, and another network must hear of it too.
        if let Some(network) = self.forwarded_network.as_ref().filter(|n| is_network(&n.0)) {
            headers.push((FORWARDED_NETWORK, network.0.to_string()));
        }
        headers
    }

    /// Reads a request: its method, its `:authority` and a look-up of its headers by name.
    pub fn read<'a>(
        method: &str,
        authority: Option<&str>,
        header: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Result<Self, HeadError> {
        if method != METHOD {
            return Err(HeadError::Method);
        }
        let authority = Authority::parse(authority.ok_or(HeadError::NoAuthority)?)?;
        Ok(Self {
            authority,
            baggage: header(BAGGAGE).map(Baggage::parse).unwrap_or_default(),
            forwarded: header(FORWARDED).map(Forwarded::parse).unwrap_or_default(),
            traceparent: header(TRACEPARENT).and_then(Traceparent::parse),
            forwarded_network: header(FORWARDED_NETWORK).and_then(network),
        })
    }
}

/// One that cannot be read is none, as any header beside the authority.
fn network(header: &[u8]) -> Option<Network> {
    let name = str::from_utf8(header).ok().filter(|name| is_network(name))?;
    Some(Network(name.into()))
}

fn is_network(name: &str) -> bool {
    name.len() <= NETWORK_MAX && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> ConnectHead {
        ConnectHead {
            authority: Authority::parse("10.0.2.7:8080").expect("valid"),
            baggage: Baggage {
                cluster: "Kubernetes".into(),
                namespace: "shop".into(),
                workload_name: "cart".into(),
                service: "cart".into(),
                revision: "v1".into(),
                ..Baggage::default()
            },
            forwarded: Forwarded::new(
                "10.0.1.5:41234".parse().expect("valid"),
                Some("pay.shop.svc.cluster.local"),
            ),
            traceparent: Traceparent::parse(
                b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            ),
            forwarded_network: Some(Network("net1".into())),
        }
    }

    /// The header lists that Istio's ztunnel writes and reads.
    #[test]
    fn golden() {
        let want = [
            (
                "baggage",
                "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
                 service.name=cart,service.version=v1",
            ),
            ("forwarded", r#"for="10.0.1.5:41234";host=pay.shop.svc.cluster.local"#),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
            ("x-forwarded-network", "net1"),
        ];
        assert_eq!(full().headers(), want.map(|(name, value)| (name, value.to_owned())));
        let look = |name: &str| want.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes());
        assert_eq!(ConnectHead::read("CONNECT", Some("10.0.2.7:8080"), look), Ok(full()));
    }

    #[test]
    fn telemetry_is_optional_and_never_refuses() {
        let bare = ConnectHead::to(Authority::parse("[fd00::2]:80").expect("valid"));
        assert!(bare.headers().is_empty());
        assert_eq!(ConnectHead::read("CONNECT", Some("[fd00::2]:80"), |_| None), Ok(bare.clone()));
        let junk = |_: &str| Some(&b"\xff,\"=;"[..]);
        assert_eq!(ConnectHead::read("CONNECT", Some("[fd00::2]:80"), junk), Ok(bare));
    }

    #[test]
    fn a_gateway_is_known_by_another_network() {
        let check = |header: Option<&str>, own: &str| {
            let look =
                |name: &str| header.filter(|_| name == "x-forwarded-network").map(str::as_bytes);
            let head = ConnectHead::read("CONNECT", Some("10.0.0.1:80"), look).expect("valid");
            head.from_gateway(&Network(own.into()))
        };
        let long = "n".repeat(NETWORK_MAX + 1);
        for (header, own, gateway) in [
            (None, "", false),
            (None, "net1", false),
            (Some(""), "", false),
            (Some(""), "net1", true),
            (Some("net2"), "net1", true),
            (Some("net2"), "", true),
            (Some("NET1"), "net1", false),
            (Some("n 1"), "net1", false),
            (Some(&long), "net1", false),
        ] {
            assert_eq!(check(header, own), gateway, "{header:?} at {own:?}");
        }
        // The default network is named by an empty header, an unsendable one by none.
        for (name, sent) in [("", true), ("net1", true), ("a\r\nb", false), (long.as_str(), false)]
        {
            let mut head = ConnectHead::to(Authority::parse("10.0.0.1:80").expect("valid"));
            head.forwarded_network = Some(Network(name.into()));
            let headers = head.headers();
            assert_eq!(headers.iter().any(|(_, value)| value == name), sent, "{name:?}");
        }
    }

    #[test]
    fn refusals_have_codes() {
        let read = |method: &str, authority: Option<&str>| {
            ConnectHead::read(method, authority, |_| None).expect_err("refused").code()
        };
        assert_eq!(read("GET", Some("10.0.0.1:80")), Code::BadMethod);
        assert_eq!(read("connect", Some("10.0.0.1:80")), Code::BadMethod);
        assert_eq!(read("CONNECT", None), Code::BadAuthority);
        assert_eq!(read("CONNECT", Some("10.0.0.1")), Code::BadAuthority);
    }
}
