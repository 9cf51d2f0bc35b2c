//! Tells the API server which roots the webhook's certificate is under, when this replica leads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::Leadership;

/// Longest one request may take. It is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks: somebody may have applied the configuration anew, without the roots.
const LOOK: Duration = Duration::from_secs(10);

/// What is written where.
pub struct CaBundle {
    /// Name of the `ValidatingWebhookConfiguration`.
    pub name: String,
    /// The roots, PEM.
    pub bundle: watch::Receiver<Arc<str>>,
}

/// What was found of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    /// There is none: nobody asks the webhook.
    Absent,
    /// It has the roots.
    Current,
    /// It got them.
    Written,
    /// Somebody else changed it at the same time, or we no longer lead: it is looked at again.
    Contended,
}

/// A request about the configuration failed.
#[derive(Debug, thiserror::Error)]
enum CaBundleError {
    #[error("{0} the configuration of the webhook")]
    Request(&'static str, #[source] kube::Error),
    #[error("{0} the configuration of the webhook: no answer in time")]
    Timeout(&'static str),
}

impl CaBundle {
    /// Writes whenever this replica leads and the roots are others, until it is cancelled.
    pub async fn run(
        mut self,
        client: Client,
        mut leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
        // Cancelling is safe: the next leader looks.
        let writing = async {
            let mut said = None;
            loop {
                leadership.acquired().await;
                let bundle = self.bundle.borrow_and_update().clone();
                let outcome = match self.step(&api, &leadership, &bundle).await {
                    Ok(found) => format!("{found:?}"),
                    Err(error) => {
                        let error: &(dyn std::error::Error + 'static) = &error;
                        if said.as_deref() != Some("failed") {
                            tracing::warn!(error, "the webhook's roots are not written");
                        }
                        "failed".to_owned()
                    }
                };
                if said.as_ref() != Some(&outcome) {
                    tracing::info!(configuration = self.name, outcome, "the webhook's roots");
                    said = Some(outcome);
                }
                tokio::select! {
                    // Both are cancel safe: the loop looks again.
                    changed = self.bundle.changed() => if changed.is_err() {
                        // Whoever makes the bundle has ended, and so does the process.
                        std::future::pending::<()>().await;
                    },
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        let _: Option<()> = shutdown.run_until_cancelled(writing).await;
    }

    async fn step(
        &self,
        api: &Api<ValidatingWebhookConfiguration>,
        leadership: &Leadership,
        bundle: &str,
    ) -> Result<Registration, CaBundleError> {
        let found = within("reading", leadership, api.get_opt(&self.name)).await?;
        let Some(mut configuration) = found.flatten() else { return Ok(Registration::Absent) };
        if !set(&mut configuration, bundle) {
            return Ok(Registration::Current);
        }
        // Its version makes the server refuse it if it changed since it was read.
        let parameters = PostParams::default();
        let replace = api.replace(&self.name, &parameters, &configuration);
        match within("writing", leadership, replace).await {
            Ok(Some(_)) => Ok(Registration::Written),
            Ok(None) => Ok(Registration::Contended),
            Err(CaBundleError::Request(_, kube::Error::Api(status))) if status.code == 409 => {
                Ok(Registration::Contended)
            }
            Err(error) => Err(error),
        }
    }
}

/// Gives every webhook of a configuration the roots. Tells whether one had others.
fn set(configuration: &mut ValidatingWebhookConfiguration, bundle: &str) -> bool {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let mut is_changed = false;
    for webhook in configuration.webhooks.iter_mut().flatten() {
        let before = webhook.client_config.ca_bundle.replace(bundle.clone());
        is_changed |= before.as_ref() != Some(&bundle);
    }
    is_changed
}

/// `None`: we no longer lead.
async fn within<T>(
    operation: &'static str,
    leadership: &Leadership,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Option<T>, CaBundleError> {
    let Some(until) = leadership.until() else { return Ok(None) };
    let limit = until.min(Instant::now() + REQUEST_TIMEOUT);
    match tokio::time::timeout_at(limit.into(), request).await {
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(error)) => Err(CaBundleError::Request(operation, error)),
        Err(_) => Err(CaBundleError::Timeout(operation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_webhook_gets_the_roots_once() {
        let text = r#"{"metadata":{"name":"warren"},"webhooks":[
            {"name":"a","admissionReviewVersions":["v1"],"sideEffects":"None","clientConfig":{}},
            {"name":"b","admissionReviewVersions":["v1"],"sideEffects":"None",
             "clientConfig":{"caBundle":"cGVt","service":{"name":"s","namespace":"n"}}}]}"#;
        let mut configuration = serde_json::from_str(text).expect("a configuration");
        assert!(set(&mut configuration, "pem"), "one had none");
        assert!(!set(&mut configuration, "pem"));
        assert!(set(&mut configuration, "other"));
        let webhooks = configuration.webhooks.expect("webhooks");
        assert!(webhooks[1].client_config.service.is_some(), "the rest stays");
    }
}
