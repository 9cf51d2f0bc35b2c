//! The control plane's own certificate: from the same authority, renewed while it runs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use authority::{CertificateDer, CertificateRequest, Names, OwnKey, OwnKeyError, PrivateKeyDer};
use model::causes;
use tls::{ResponseError, issued_chain};
use tokio::sync::watch;
use tokio::time::sleep;

use super::sign::{Asked, Sign, SignedChain, SigningError};

/// How long it lives.
pub const SERVING_TTL: Duration = Duration::from_hours(24);
/// How long after a failure the next try comes.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The longest time between two certificates' makings, whatever their life.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// No key or request.
    #[error(transparent)]
    Key(#[from] OwnKeyError),
    /// Our own request was not accepted.
    #[error("our own request")]
    Request(#[from] authority::RequestError),
    /// Nobody signed it.
    #[error("signing our own certificate")]
    Signing(#[from] SigningError),
    /// What was signed cannot be read.
    #[error("our own certificate")]
    Chain(#[from] ResponseError),
}

/// What a server serves with.
pub struct ServingCertificate {
    /// The leaf first, without roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// Roots with which a client can verify it, PEM.
    pub roots: Arc<str>,
    /// When it ends.
    pub not_after: SystemTime,
    mark: u64,
}

impl fmt::Debug for ServingCertificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The certificate in force, and what renews it.
pub struct Serving {
    signer: Arc<dyn Sign>,
    names: Names,
    ttl: Duration,
    current: watch::Sender<Arc<ServingCertificate>>,
}

impl Serving {
    /// Gets the first certificate: without one there is nothing to serve with.
    pub async fn start(
        signer: Arc<dyn Sign>,
        names: Names,
        ttl: Duration,
    ) -> Result<Self, ServingError> {
        let first = issue(&*signer, &names, ttl).await?;
        let current = watch::channel(Arc::new(first)).0;
        Ok(Self { signer, names, ttl, current })
    }

    /// What to serve with, now and later.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ServingCertificate>> {
        self.current.subscribe()
    }

    /// Renews it at half of its life, and when the roots or what signs below them change, until it is
    /// dropped. A failure leaves the old one in force. Cancel safe.
    pub async fn renew(&self, mut issuing: Option<watch::Receiver<Arc<str>>>) {
        loop {
            let until = self.current.borrow().not_after;
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            let wait = (left / 2).max(RENEW_MIN);
            tokio::select! {
                // Cancel safe: a later sleep begins anew.
                () = sleep(wait) => {}
                // Cancel safe: a change that was not seen is seen the next time.
                () = changed(&mut issuing) => {}
            }
            while let Err(error) = self.once().await {
                let error = causes(&error);
                tracing::error!(%error, "our own certificate could not be renewed");
                sleep(RETRY_INTERVAL).await;
            }
        }
    }

    async fn once(&self) -> Result<(), ServingError> {
        let renewed = issue(&*self.signer, &self.names, self.ttl).await?;
        let is_other_root = renewed.mark != self.current.borrow().mark;
        tracing::info!(is_other_root, "our own certificate was renewed");
        self.current.send_replace(Arc::new(renewed));
        Ok(())
    }
}

/// Waits for another way to a root; for ever if there is nothing to wait for.
async fn changed(issuing: &mut Option<watch::Receiver<Arc<str>>>) {
    if let Some(receiver) = issuing
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *issuing = None;
    std::future::pending::<()>().await;
}

async fn issue(
    signer: &dyn Sign,
    names: &Names,
    ttl: Duration,
) -> Result<ServingCertificate, ServingError> {
    let own = OwnKey::new(names)?;
    let request = CertificateRequest::from_pem(&own.request)?;
    let asked = Asked { request: &request, pem: &own.request, names, ttl };
    let SignedChain { mut chain, roots, mark, not_after, .. } = signer.sign(asked).await?;
    chain.push(roots.clone());
    let chain = issued_chain(&chain)?.chain;
    Ok(ServingCertificate { chain, key: own.key, roots: roots.into(), not_after, mark })
}
