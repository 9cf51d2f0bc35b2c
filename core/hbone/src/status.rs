//! HTTP statuses of CONNECT, as Istio's ztunnel uses them.

use model::{Code, Side};

/// The stream is open.
pub(crate) const OK: u16 = 200;
const BAD_REQUEST: u16 = 400;
const UNAUTHORIZED: u16 = 401;
/// RFC 6585, section 5. Given by the HTTP/2 library, before anybody sees the request.
const HEAD_TOO_LARGE: u16 = 431;
const UNAVAILABLE: u16 = 503;

/// The status that tells a peer why its stream was refused.
#[must_use]
pub fn status_of(code: Code) -> u16 {
    if matches!(code, Code::BadMethod | Code::BadAuthority | Code::DestinationMismatch) {
        BAD_REQUEST
    } else if code == Code::HeadTooLarge {
        HEAD_TOO_LARGE
    } else if code.side() == Side::Policy {
        UNAUTHORIZED
    } else {
        UNAVAILABLE
    }
}

/// What a peer's answer means: `None` if the stream is open.
#[must_use]
pub fn code_of_status(status: u16) -> Option<Code> {
    match status {
        OK => None,
        UNAUTHORIZED => Some(Code::PolicyDeniedByPeer),
        _ => Some(Code::PeerRefused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_istios() {
        for (code, status) in [
            (Code::BadMethod, 400),
            (Code::BadAuthority, 400),
            (Code::DestinationMismatch, 400),
            (Code::HeadTooLarge, 431),
            (Code::PolicyDenied, 401),
            (Code::PolicyNoMatch, 401),
            (Code::PolicyUnreadable, 401),
            (Code::PolicyUnknown, 401),
            (Code::PolicyNotEnforceable, 401),
            (Code::WaypointRequired, 401),
            (Code::WorkloadUnknown, 503),
            (Code::SelfCall, 503),
            (Code::ConnectRefused, 503),
            (Code::Draining, 503),
            (Code::LimitReached, 503),
        ] {
            assert_eq!(status_of(code), status, "{code}");
        }
        assert!(Code::ALL.iter().all(|code| matches!(status_of(*code), 400 | 401 | 431 | 503)));
        assert_eq!(code_of_status(200), None);
        assert_eq!(code_of_status(401), Some(Code::PolicyDeniedByPeer));
        for other in [100, 201, 204, 301, 400, 403, 431, 503] {
            assert_eq!(code_of_status(other), Some(Code::PeerRefused));
        }
    }
}
