//! What a test does with the objects of an API server.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Discovery, Scope, verbs};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::objects::until;

/// Who the API server thinks writes: the owner of the fields that a test sets.
const FIELD_MANAGER: &str = "tests";
/// Until the API server serves a new kind, or a deleted object is gone.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The objects of an API server, as its admin. Cheap to clone; lives on the runtime it was made on.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Makes a namespace whose name begins with `prefix` and is nobody else's; returns the name.
    pub async fn namespace(&self, prefix: &str) -> anyhow::Result<String> {
        self.labelled_namespace(prefix, &[]).await
    }

    /// The same, with labels.
    pub async fn labelled_namespace(
        &self,
        prefix: &str,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<String> {
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some(format!("{prefix}-"));
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        namespace.metadata.labels = Some(labels.iter().map(owned).collect());
        let namespaces = Api::all(self.client());
        let made = namespaces.create(&PostParams::default(), &namespace).await;
        Ok(made.with_context(|| format!("make a namespace {prefix}-…"))?.name_any())
    }

    /// Applies every document of a YAML text; one that names no namespace goes to `namespace`.
    /// Returns the objects as the API server has them now. A new kind is served on return.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
        let mut applied = Vec::new();
        for object in read(yaml)? {
            let what = describe(&object);
            let api = self.api_of(&object, namespace).await?;
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let name = object.name_any();
            let object = api.patch(&name, &params, &Patch::Apply(&object)).await;
            let object = object.with_context(|| format!("apply {what}"))?;
            if what.starts_with("CustomResourceDefinition") {
                self.wait_until_served(&api, &name).await?;
            }
            applied.push(object);
        }
        ensure!(!applied.is_empty(), "there is nothing to apply");
        Ok(applied)
    }

    /// Writes the status of an object, as a controller would that manages it as `manager`. Another
    /// manager's value is a conflict.
    pub async fn apply_status(
        &self,
        namespace: &str,
        manager: &str,
        yaml: &str,
    ) -> anyhow::Result<()> {
        for object in read(yaml)? {
            let api = self.api_of(&object, namespace).await?;
            let (name, params) = (object.name_any(), PatchParams::apply(manager));
            let written = api.patch_status(&name, &params, &Patch::Apply(&object)).await;
            written.with_context(|| format!("write the status of {}", describe(&object)))?;
        }
        Ok(())
    }

    /// An object of any kind, such as `v1`, `Pod`, if it exists.
    pub async fn get(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Option<Value>> {
        let api = self.api(api_version, kind, namespace).await?;
        let object = api.get_opt(name).await.with_context(|| format!("get {kind} {name}"))?;
        object.map(serde_json::to_value).transpose().context("write an object as JSON")
    }

    /// Deletes an object at once and waits until it is gone.
    pub async fn delete(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let api = self.api(api_version, kind, namespace).await?;
        // A pod would otherwise wait for a kubelet.
        let params = DeleteParams::default().grace_period(0);
        api.delete(name, &params).await.with_context(|| format!("delete {kind} {name}"))?;
        until(&format!("{kind} {name} is gone"), SETTLE_TIMEOUT, async || {
            Ok(api.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Deletes a namespace with all that is in it, as the namespace controller does it: the
    /// namespace is marked, its contents are deleted kind by kind, then it is let go.
    pub async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let deleted = namespaces.delete(name, &DeleteParams::default()).await;
        deleted.with_context(|| format!("delete namespace {name}"))?;
        let discovery = Discovery::new(self.client()).run().await.context("list all kinds")?;
        for (resource, capabilities) in
            discovery.groups().flat_map(discovery::ApiGroup::recommended_resources)
        {
            let is_contained = capabilities.scope == Scope::Namespaced;
            if !is_contained || !capabilities.supports_operation(verbs::DELETE_COLLECTION) {
                continue;
            }
            let api: Api<DynamicObject> = Api::namespaced_with(self.client(), name, &resource);
            let params = DeleteParams::default().grace_period(0);
            let deleted = api.delete_collection(&params, &ListParams::default()).await;
            deleted.with_context(|| format!("delete every {} of {name}", resource.kind))?;
        }
        let mut namespace = namespaces.get(name).await.context("get a namespace")?;
        namespace.spec.get_or_insert_default().finalizers = None;
        let params = PostParams::default();
        let finalized = namespaces.replace_subresource("finalize", name, &params, &namespace).await;
        finalized.with_context(|| format!("let namespace {name} go"))?;
        until(&format!("namespace {name} is gone"), SETTLE_TIMEOUT, async || {
            Ok(namespaces.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// The objects of a kind, in a namespace where it is namespaced.
    pub async fn api(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
    ) -> anyhow::Result<Api<DynamicObject>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let found = discovery::pinned_kind(&self.client, &kind).await;
        let (resource, capabilities) =
            found.with_context(|| format!("find {} {}", kind.api_version(), kind.kind))?;
        Ok(self.scoped(&resource, &capabilities.scope, namespace))
    }

    fn scoped(&self, kind: &ApiResource, scope: &Scope, namespace: &str) -> Api<DynamicObject> {
        match scope {
            Scope::Namespaced => Api::namespaced_with(self.client(), namespace, kind),
            Scope::Cluster => Api::all_with(self.client(), kind),
        }
    }

    async fn api_of(
        &self,
        object: &DynamicObject,
        namespace: &str,
    ) -> anyhow::Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("an object without apiVersion and kind")?;
        let own = object.namespace();
        self.api(&types.api_version, &types.kind, own.as_deref().unwrap_or(namespace)).await
    }

    async fn wait_until_served(&self, api: &Api<DynamicObject>, crd: &str) -> anyhow::Result<()> {
        until(&format!("{crd} is served"), SETTLE_TIMEOUT, async || {
            let object = serde_json::to_value(api.get(crd).await?)?;
            let holds = |kind: &str| {
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                let condition = conditions.into_iter().find(|one| one["type"] == kind);
                condition.map(|condition| condition["status"] == "True")
            };
            // A schema that is not structural is accepted, and its fields are then not pruned.
            if holds("NonStructuralSchema") == Some(true) {
                return Ok(Some(Err(object["status"]["conditions"].to_string())));
            }
            Ok((holds("Established") == Some(true)).then_some(Ok(())))
        })
        .await?
        .map_err(|conditions| anyhow::anyhow!("{crd}: {conditions}"))
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

fn read(yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("read YAML")?;
    documents
        .into_iter()
        .filter(|document| *document != json!(null))
        .map(|document| serde_json::from_value(document).context("read an object"))
        .collect()
}

fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| &types.kind);
    format!("{kind} {}", object.name_any())
}
