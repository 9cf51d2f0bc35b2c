//! Certificates in use, never their keys.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use svid::SvidStatus;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tls::CertificateFacts;

/// Characters in a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IdentityDump {
    identity: String,
    state: String,
    cert_chain: Vec<CertificateDump>,
    root_certs: Vec<CertificateDump>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateDump {
    /// The PEM text, in base64.
    pem: String,
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

pub(super) fn identities(statuses: &[SvidStatus]) -> Vec<IdentityDump> {
    statuses.iter().map(identity).collect()
}

fn identity(status: &SvidStatus) -> IdentityDump {
    let state = match (&status.current, &status.last_error) {
        (Some(_), _) => "Available".to_owned(),
        (None, Some(error)) => format!("Unavailable: {error}"),
        (None, None) => "Initializing".to_owned(),
    };
    let (cert_chain, root_certs) = status.current.as_ref().map_or_else(Default::default, |svid| {
        let chain = svid.chain().iter().filter_map(|certificate| dump(certificate));
        let roots = svid.bundle().certificates().filter_map(|certificate| dump(certificate));
        (chain.collect(), roots.collect())
    });
    IdentityDump { identity: status.identity.to_string(), state, cert_chain, root_certs }
}

fn dump(der: &[u8]) -> Option<CertificateDump> {
    let facts = CertificateFacts::of(&der.into())?;
    Some(CertificateDump {
        pem: STANDARD.encode(pem(der)),
        serial_number: facts.serial,
        valid_from: text(facts.not_before),
        expiration_time: text(facts.not_after),
    })
}

fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn text(time: SystemTime) -> String {
    // A year that RFC 3339 cannot write is no year of a certificate.
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use model::{SpiffeId, TrustDomain};
    use svid::DevCa;
    use tls::{Trust, TrustBundle, TrustView};

    use super::*;

    #[test]
    fn a_certificate_is_shown_whole_and_without_its_key() {
        let folder = tempfile::tempdir().expect("folder");
        let domain = TrustDomain::default();
        let ca = DevCa::open(folder.path(), &domain).expect("opens");
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("literal");
        let issued = ca.issue(&id, Duration::from_hours(1)).expect("issues");
        let trust = TrustView::fixed(Trust::of(issued.bundle.clone()));
        let svid = Arc::new(issued.into_svid(&id, &trust).expect("usable"));
        let status = SvidStatus { identity: id, current: Some(svid.clone()), last_error: None };
        let [shown] = &identities(&[status])[..] else { panic!("one identity") };
        assert_eq!(shown.state, "Available");
        let ([leaf], [root]) = (&shown.cert_chain[..], &shown.root_certs[..]) else {
            panic!("a leaf and a root")
        };
        let decoded = STANDARD.decode(&leaf.pem).expect("base64");
        // The reader of PEM that peers' roots go through takes it back.
        let again = TrustBundle::from_pem(domain, &decoded).expect("PEM");
        assert!(again.certificates().eq([&svid.chain()[0]]));
        assert!(leaf.serial_number.bytes().all(|b| b.is_ascii_digit()), "{leaf:?}");
        assert!(leaf.valid_from.ends_with('Z') && leaf.valid_from < leaf.expiration_time);
        assert!(root.expiration_time > leaf.expiration_time);
    }

    #[test]
    fn lines_are_of_64_characters() {
        for length in [0, 1, 47, 48, 49, 96, 97] {
            let pem = pem(&vec![7; length]);
            let lines: Vec<_> = pem.lines().collect();
            let (first, last) = (lines[0], lines[lines.len() - 1]);
            assert_eq!((first, last), ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"));
            let body = &lines[1..lines.len() - 1];
            assert!(body.iter().rev().skip(1).all(|line| line.len() == 64), "{pem}");
            assert!(body.iter().all(|line| (1..=64).contains(&line.len())), "{pem}");
        }
    }
}
