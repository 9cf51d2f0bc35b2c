//! Stable codes: the one reason that log, metric, flow event and `warren why` share.

use std::fmt;

/// Whose doing an outcome is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Nobody's: all is well.
    None,
    /// The client or the peer node.
    Peer,
    /// The workload behind this node.
    Workload,
    /// An operator's policy.
    Policy,
    /// This agent or its node.
    Us,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $side:ident, $flag:literal;)+) => {
        /// Why a connection ended or was refused. The text is an interface: it never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// Every code, for documentation and tests.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its place in [`Self::ALL`].
            #[must_use]
            pub fn index(self) -> usize {
                #[expect(clippy::as_conversions, reason = "a discriminant; variants start at 0")]
                let index = self as usize;
                index
            }

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Whose doing it is.
            #[must_use]
            pub fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side,)+ }
            }

            /// Istio's value of the metric label `response_flags`.
            #[must_use]
            pub fn response_flags(self) -> &'static str {
                match self { $(Self::$variant => $flag,)+ }
            }
        }
    };
}

codes! {
    /// Closed normally by both sides.
    Ok = "OK", None, "-";
    /// An enforced DENY policy matched.
    PolicyDenied = "POLICY_DENIED", Policy, "DENY";
    /// ALLOW policies apply, and none matched.
    PolicyNoMatch = "POLICY_NO_MATCH", Policy, "DENY";
    /// A policy bound to the workload could not be read.
    PolicyUnreadable = "POLICY_UNREADABLE", Policy, "DENY";
    /// The workload names a policy this node does not have.
    PolicyUnknown = "POLICY_UNKNOWN", Policy, "DENY";
    /// The far node refused by policy (HTTP 401 on CONNECT).
    PolicyDeniedByPeer = "POLICY_DENIED_BY_PEER", Policy, "DENY";
    /// A DENY holds only conditions that layer 4 cannot check, and so counts as matching.
    PolicyNotEnforceable = "POLICY_NOT_ENFORCEABLE", Policy, "DENY";
    /// A policy change ended an open connection.
    PolicyRevoked = "POLICY_REVOKED", Policy, "DENY";
    /// The control plane's state has not arrived in full, and none is stored.
    NotSynced = "NOT_SYNCED", Us, "CONNECT";
    /// The control plane did not say in time what an address or a name is.
    LookupTimeout = "LOOKUP_TIMEOUT", Us, "CONNECT";
    /// No original destination is recorded for a captured connection.
    NoOriginalDst = "NO_ORIGINAL_DST", Us, "CONNECT";
    /// The workload behind the captured pod is not known.
    SourceUnknown = "SOURCE_UNKNOWN", Us, "CONNECT";
    /// The workload this connection is for is not known.
    WorkloadUnknown = "WORKLOAD_UNKNOWN", Us, "CONNECT";
    /// No certificate for the local workload within the bounded wait.
    IdentityNotReady = "IDENTITY_NOT_READY", Us, "IDENTITY_ERROR";
    /// The service has no endpoint that may take the connection.
    NoHealthyEndpoint = "NO_HEALTHY_ENDPOINT", Workload, "CONNECT";
    /// The waypoint that the destination must be reached through is not known or has no endpoint.
    WaypointUnknown = "WAYPOINT_UNKNOWN", Us, "CONNECT";
    /// The destination must be reached through a waypoint, and this connection did not take it.
    WaypointRequired = "WAYPOINT_REQUIRED", Policy, "DENY";
    /// The gateway to the destination's network is not known or has no endpoint.
    GatewayUnknown = "GATEWAY_UNKNOWN", Us, "CONNECT";
    /// The destination's host name has no address.
    HostnameUnresolved = "HOSTNAME_UNRESOLVED", Workload, "CONNECT";
    /// The service does not have that port.
    NoServicePort = "NO_SERVICE_PORT", Peer, "CONNECT";
    /// The route needs a feature this version does not have.
    RouteUnsupported = "ROUTE_UNSUPPORTED", Us, "CONNECT";
    /// The destination did not answer in time.
    ConnectTimeout = "CONNECT_TIMEOUT", Workload, "CONNECT";
    /// The destination refused the connection.
    ConnectRefused = "CONNECT_REFUSED", Workload, "CONNECT";
    /// The destination cannot be reached.
    ConnectFailed = "CONNECT_FAILED", Workload, "CONNECT";
    /// Port 15008 of the peer did not answer; often a NetworkPolicy.
    TunnelTimeout = "TUNNEL_TIMEOUT", Peer, "NETWORK_POLICY";
    /// The TLS handshake failed.
    TlsFailed = "TLS_FAILED", Peer, "TLS_FAILURE";
    /// The TLS handshake stalled.
    TlsTimeout = "TLS_TIMEOUT", Peer, "TLS_FAILURE";
    /// The peer's certificate holds no acceptable SPIFFE identity.
    PeerIdentity = "PEER_IDENTITY", Peer, "TLS_FAILURE";
    /// A certificate of the connection was revoked.
    CertificateRevoked = "CERTIFICATE_REVOKED", Peer, "CERT_REVOKED";
    /// Revocation lists are configured and none is in force: no certificate can be accepted.
    RevocationUnknown = "REVOCATION_UNKNOWN", Us, "TLS_FAILURE";
    /// The HTTP/2 handshake failed.
    Http2Failed = "HTTP2_FAILED", Peer, "H2_HANDSHAKE_FAILURE";
    /// The tunnel died under the connection.
    TunnelLost = "TUNNEL_LOST", Peer, "CONNECT";
    /// The far node answered CONNECT with an unexpected status.
    PeerRefused = "PEER_REFUSED", Peer, "CONNECT";
    /// The method was not CONNECT.
    BadMethod = "BAD_METHOD", Peer, "CONNECT";
    /// The `:authority` of a CONNECT cannot be read.
    BadAuthority = "BAD_AUTHORITY", Peer, "CONNECT";
    /// The header of a CONNECT is larger than the bound (HTTP status 431).
    HeadTooLarge = "HEAD_TOO_LARGE", Peer, "CONNECT";
    /// The peer opened more streams in one tunnel than it may (RST_STREAM REFUSED_STREAM).
    TooManyStreams = "TOO_MANY_STREAMS", Peer, "CONNECT";
    /// The `:authority` names an address that is not this pod's.
    DestinationMismatch = "DESTINATION_MISMATCH", Peer, "CONNECT";
    /// The destination is one of the mesh's own ports.
    SelfCall = "SELF_CALL", Peer, "CONNECT";
    /// One side reset the connection.
    Reset = "RESET", Peer, "-";
    /// A named bound was hit.
    LimitReached = "LIMIT_REACHED", Us, "CONNECT";
    /// The agent is stopping.
    Draining = "DRAINING", Us, "-";
    /// The pod left the mesh or was deleted.
    PodGone = "POD_GONE", Us, "-";
    /// An operating-system call failed on this node.
    Internal = "INTERNAL", Us, "CONNECT";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_knows_its_place() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.index(), index);
        }
    }

    #[test]
    fn texts_are_unique_and_shouting() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for text in texts {
            assert!(
                text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            );
        }
    }
}
