//! The head of a CONNECT: what an outbound stream says about itself.

use model::Code;

use crate::{Authority, AuthorityError, Baggage, Forwarded, Traceparent};

/// The only method of HBONE.
pub const METHOD: &str = "CONNECT";

const BAGGAGE: &str = "baggage";
const FORWARDED: &str = "forwarded";
const TRACEPARENT: &str = "traceparent";

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
        }
    }

    /// The headers besides the pseudo-headers, in the order of the wire, empty ones left out.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let all = [
            (BAGGAGE, self.baggage.encode()),
            (FORWARDED, self.forwarded.to_string()),
            (TRACEPARENT, self.traceparent.map_or_else(String::new, |t| t.to_string())),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
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
        })
    }
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
