//! Certificates in use, never their keys.

use serde::Serialize;
use svid::SvidStatus;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IdentityDump {
    identity: String,
    state: String,
    cert_chain: Vec<CertificateDump>,
    root_certs: Vec<CertificateDump>,
}

#[derive(Serialize)]
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
    let (state, chain, roots) = match (&status.current, &status.last_error) {
        (Some(_), _) => ("Available".to_owned(), Vec::new(), Vec::new()),
        (None, Some(error)) => (format!("Unavailable: {error}"), Vec::new(), Vec::new()),
        (None, None) => ("Initializing".to_owned(), Vec::new(), Vec::new()),
    };
    IdentityDump {
        identity: status.identity.to_string(),
        state,
        cert_chain: chain,
        root_certs: roots,
    }
}
