//! A Secret of Kubernetes as the place for the authority's secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};

use super::store::{SecretStore, StoreError, Stored, Storing, Texts};

/// Who made an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const US: &str = "warren";
/// HTTP statuses of the API server.
const NOT_FOUND: u16 = 404;
const CONFLICT: u16 = 409;

/// One Secret.
#[derive(Clone)]
pub struct KubernetesSecret {
    api: Api<Secret>,
    namespace: String,
    name: String,
}

impl KubernetesSecret {
    /// A Secret that the client may get, create and update.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn error(&self, operation: &'static str, source: kube::Error) -> StoreError {
        StoreError::Kubernetes { operation, name: self.place(), source: Box::new(source) }
    }

    async fn read(&self) -> Result<Option<Stored>, StoreError> {
        let found = self.api.get_opt(&self.name).await;
        let found = found.map_err(|error| self.error("cannot get", error))?;
        found.map(|secret| self.stored(secret)).transpose()
    }

    async fn make(&self, texts: Texts) -> Result<Stored, StoreError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), US.to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(data(texts)),
            ..Secret::default()
        };
        match self.api.create(&PostParams::default(), &secret).await {
            Ok(made) => self.stored(made),
            Err(error) if status(&error) == Some(CONFLICT) => {
                let winner = self.read().await?;
                winner.ok_or_else(|| self.content("it was removed meanwhile".to_owned()))
            }
            Err(error) => Err(self.error("cannot create", error)),
        }
    }

    async fn change(&self, texts: Texts, known: String) -> Result<Option<Stored>, StoreError> {
        let found = self.api.get_opt(&self.name).await;
        let found = found.map_err(|error| self.error("cannot get", error))?;
        let Some(mut secret) = found else { return Ok(None) };
        // Sent along: an API server refuses to replace another version.
        secret.metadata.resource_version = Some(known);
        secret.data = Some(data(texts));
        match self.api.replace(&self.name, &PostParams::default(), &secret).await {
            Ok(changed) => self.stored(changed).map(Some),
            Err(error) if matches!(status(&error), Some(CONFLICT | NOT_FOUND)) => Ok(None),
            Err(error) => Err(self.error("cannot replace", error)),
        }
    }

    fn stored(&self, secret: Secret) -> Result<Stored, StoreError> {
        let text = |(key, value): (String, ByteString)| {
            let text = String::from_utf8(value.0);
            let text = text.map_err(|_| self.content(format!("{key} is not text")))?;
            Ok((key, text))
        };
        let texts = secret.data.unwrap_or_default().into_iter().map(text);
        let texts = texts.collect::<Result<_, StoreError>>()?;
        let version = secret.metadata.resource_version.unwrap_or_default();
        Ok(Stored { texts, version })
    }

    fn content(&self, problem: String) -> StoreError {
        StoreError::Content { place: self.place(), problem }
    }
}

impl SecretStore for KubernetesSecret {
    fn get(&self) -> Storing<'_, Option<Stored>> {
        Box::pin(self.read())
    }

    fn create(&self, texts: Texts) -> Storing<'_, Stored> {
        Box::pin(self.make(texts))
    }

    fn replace(&self, texts: Texts, known: String) -> Storing<'_, Option<Stored>> {
        Box::pin(self.change(texts, known))
    }

    fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn data(texts: Texts) -> BTreeMap<String, ByteString> {
    texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))).collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "other errors are no answer of the server")]
fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
