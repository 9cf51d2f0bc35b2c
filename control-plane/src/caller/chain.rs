//! Several ways to prove who one is: the kind of credential says which is asked.

use std::sync::Arc;

use super::{Authenticate, Authenticating, Credentials, JOIN_TOKEN_PREFIX, Refusal, RefusalCode};

/// Asks the one that the credential is for. A credential that is there and wrong is refused: no
/// other is tried in its place.
#[derive(Clone, Default)]
pub struct CallerChain {
    /// For client certificates.
    pub certificates: Option<Arc<dyn Authenticate>>,
    /// For tokens of nodes.
    pub join_tokens: Option<Arc<dyn Authenticate>>,
    /// For tokens of service accounts.
    pub account_tokens: Option<Arc<dyn Authenticate>>,
}

impl Authenticate for CallerChain {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> Authenticating<'a> {
        if let Some(why) = credentials.unusable {
            let refusal = Refusal::new(RefusalCode::CredentialsUnusable, why);
            return Box::pin(async move { Err(refusal) });
        }
        let (kind, asked) = match &credentials.token {
            // A token says more than a certificate: which pod, on which node.
            Some(token) if token.starts_with(JOIN_TOKEN_PREFIX) => {
                ("tokens of nodes", &self.join_tokens)
            }
            Some(_) => ("tokens of service accounts", &self.account_tokens),
            None if credentials.certificate.is_some() => {
                ("client certificates", &self.certificates)
            }
            None => {
                let why = "neither certificate nor token";
                let refusal = Refusal::new(RefusalCode::NoCredentials, why);
                return Box::pin(async { Err(refusal) });
            }
        };
        match asked {
            Some(asked) => asked.authenticate(credentials),
            None => Box::pin(async move {
                let why = format!("{kind} are not accepted here");
                Err(Refusal::new(RefusalCode::CredentialsNotAccepted, why))
            }),
        }
    }
}
