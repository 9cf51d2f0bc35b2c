//! A client certificate: verified in the handshake, before anything was read.

use super::{
    Authenticate, Authenticating, Caller, Credentials, Proof, Refusal, RefusalCode, Role, Roles,
};

/// Whoever holds a certificate of ours is who it names.
#[derive(Clone, Debug)]
pub struct CertificateCallers {
    roles: Roles,
}

impl CertificateCallers {
    /// With the roles of accounts.
    #[must_use]
    pub fn new(roles: Roles) -> Self {
        Self { roles }
    }

    fn caller(&self, credentials: &Credentials) -> Result<Caller, Refusal> {
        let none = || Refusal::new(RefusalCode::NoCredentials, "no client certificate");
        let identity = credentials.certificate.clone().ok_or_else(none)?;
        if identity.trust_domain() != self.roles.trust_domain.as_str() {
            let why = format!("{identity} is of another trust domain");
            return Err(Refusal::new(RefusalCode::OtherTrustDomain, why));
        }
        // A certificate does not say where its holder runs: its node is not proved.
        let role: Role = self.roles.of(&identity, None);
        Ok(Caller { identity, node: None, pod: None, proof: Proof::Certificate, role })
    }
}

impl Authenticate for CertificateCallers {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a> {
        Box::pin(async move { self.caller(credentials) })
    }
}
