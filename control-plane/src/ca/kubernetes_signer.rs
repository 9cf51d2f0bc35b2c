//! Kubernetes' CSR API as the authority: who signs there, keeps the keys (certificates.k8s.io/v1).

use std::time::{Duration, SystemTime};

use authority::read_external;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use tls::TrustBundle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::ledger::bundle_mark;
use super::sign::{Asked, Sign, SignedChain, Signing, SigningError};

/// How long one certificate may take.
pub const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often its object is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Most requests at a time. Others wait for their turn within [`SIGN_TIMEOUT`].
const REQUESTS_AT_ONCE: usize = 32;
/// How long removing an object may take. One that stays is removed by the API server's own clean-up.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest life that the API accepts.
const LIFE_MIN_S: u64 = 600;
const NAME_PREFIX: &str = "warren-";
const APPROVED: &str = "Approved";

/// Why the signer gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesSignerError {
    /// The API server.
    #[error("{operation} CertificateSigningRequest")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// It was looked at and refused.
    #[error("the signer {kind} the request: {message}")]
    Refused {
        /// `Denied` or `Failed`.
        kind: String,
        /// What was said.
        message: String,
    },
    /// Nobody signed within [`SIGN_TIMEOUT`].
    #[error("no certificate within {SIGN_TIMEOUT:?}: is it approved, and does the signer run?")]
    Timeout,
    /// No name for the object.
    #[error(transparent)]
    Random(#[from] authority::RandomError),
}

/// Who approves requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// We do: we have authenticated and authorised the caller.
    Ours,
    /// Somebody else does.
    Elsewhere,
}

/// A signer of the cluster.
pub struct KubernetesSigner {
    api: Api<CertificateSigningRequest>,
    signer_name: String,
    approval: Approval,
    bundle: TrustBundle,
    turns: Semaphore,
}

impl KubernetesSigner {
    /// `bundle`: the roots of that signer, which the API does not tell.
    #[must_use]
    pub fn new(
        client: kube::Client,
        signer_name: String,
        approval: Approval,
        bundle: TrustBundle,
    ) -> Self {
        let turns = Semaphore::new(REQUESTS_AT_ONCE);
        Self { api: Api::all(client), signer_name, approval, bundle, turns }
    }

    async fn certificate(&self, asked: &Asked<'_>) -> Result<String, KubernetesSignerError> {
        let random: [u8; 8] = authority::random()?;
        let name = format!("{NAME_PREFIX}{:016x}", u64::from_be_bytes(random));
        let waited = timeout(SIGN_TIMEOUT, async {
            let turn = self.turns.acquire().await;
            let _turn = turn.map_err(|_| KubernetesSignerError::Timeout)?;
            self.ask(&name, asked).await
        });
        let answer = waited.await.unwrap_or(Err(KubernetesSignerError::Timeout));
        let params = DeleteParams::default();
        let removed = timeout(DELETE_TIMEOUT, self.api.delete(&name, &params)).await;
        if !matches!(removed, Ok(Ok(_))) {
            tracing::debug!(name, "a CertificateSigningRequest was left for the API server");
        }
        answer
    }

    async fn ask(&self, name: &str, asked: &Asked<'_>) -> Result<String, KubernetesSignerError> {
        let failed = |operation| {
            move |source| KubernetesSignerError::Api { operation, source: Box::new(source) }
        };
        let object = self.object(name, asked);
        let made = self.api.create(&PostParams::default(), &object).await;
        made.map_err(failed("cannot create"))?;
        if self.approval == Approval::Ours {
            let approved = serde_json::json!({"status": {"conditions": [{
                "type": APPROVED,
                "status": "True",
                "reason": "AuthorizedByWarren",
                "message": "the caller was authenticated and may have this identity",
            }]}});
            let (params, patch) = (PatchParams::default(), Patch::Merge(&approved));
            let approved = self.api.patch_approval(name, &params, &patch).await;
            approved.map_err(failed("cannot approve"))?;
        }
        loop {
            let found = self.api.get(name).await.map_err(failed("cannot get"))?;
            if let Some(certificate) = certificate(found.status.unwrap_or_default())? {
                return Ok(certificate);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn object(&self, name: &str, asked: &Asked<'_>) -> CertificateSigningRequest {
        let usages = ["digital signature", "client auth", "server auth"];
        let seconds = asked.ttl.as_secs().max(LIFE_MIN_S);
        CertificateSigningRequest {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(asked.pem.as_bytes().to_vec()),
                signer_name: self.signer_name.clone(),
                usages: Some(usages.map(str::to_owned).to_vec()),
                expiration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }
}

fn certificate(
    status: CertificateSigningRequestStatus,
) -> Result<Option<String>, KubernetesSignerError> {
    let conditions = status.conditions.unwrap_or_default();
    let is_refusal = |condition: &&CertificateSigningRequestCondition| condition.type_ != APPROVED;
    if let Some(refusal) = conditions.iter().find(is_refusal) {
        return Err(KubernetesSignerError::Refused {
            kind: refusal.type_.to_lowercase(),
            message: refusal.message.clone().unwrap_or_default(),
        });
    }
    let certificate = status.certificate.filter(|certificate| !certificate.0.is_empty());
    // What is not text is refused where it is read.
    Ok(certificate.map(|certificate| String::from_utf8_lossy(&certificate.0).into_owned()))
}

impl Sign for KubernetesSigner {
    fn sign<'a>(&'a self, asked: Asked<'a>) -> Signing<'a> {
        Box::pin(async move {
            // The signer sees the request and nothing else: it must say who it is for.
            asked.request.require_exactly(asked.names)?;
            let pem = self.certificate(&asked).await.map_err(SigningError::from)?;
            let now = SystemTime::now();
            let signed = read_external(&pem, asked.request, asked.names, &self.bundle, now)?;
            Ok(SignedChain {
                chain: signed.chain,
                roots: authority::certificates_pem(self.bundle.certificates()),
                root: None,
                mark: bundle_mark(&self.bundle),
                not_after: signed.validity.not_after,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_waited_for_until_somebody_refuses() {
        let condition = |kind: &str| CertificateSigningRequestCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            message: Some("no".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        let status = |kinds: &[&str], pem: &str| CertificateSigningRequestStatus {
            conditions: Some(kinds.iter().map(|kind| condition(kind)).collect()),
            certificate: Some(ByteString(pem.as_bytes().to_vec())),
        };
        assert_eq!(certificate(CertificateSigningRequestStatus::default()).expect("waits"), None);
        assert_eq!(certificate(status(&["Approved"], "")).expect("waits"), None);
        let signed = certificate(status(&["Approved"], "PEM")).expect("signed");
        assert_eq!(signed.as_deref(), Some("PEM"));
        for refusal in ["Denied", "Failed"] {
            let refused = certificate(status(&["Approved", refusal], "PEM"));
            let error = refused.expect_err("refused").to_string();
            assert!(error.contains(&refusal.to_lowercase()), "{error}");
        }
    }
}
