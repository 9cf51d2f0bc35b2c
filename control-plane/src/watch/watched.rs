//! An object as it comes from an API server, before its kind is known to the decoder.

use std::borrow::Cow;

use cluster::{Kind, Object, ObjectName, Undecodable};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, ClusterResourceScope, GroupVersionKind};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Any object, of which no more than its name is decoded yet. What of it a mesh reads is decoded
/// one object at a time ([`Watched::decode`]), so that neither the whole of a large list nor the
/// fields that nobody reads are ever in memory as values; and one object that cannot be read does
/// not fail the list it is in.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// Name, namespace and version alone.
    metadata: ObjectMeta,
    text: Box<RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HeadMeta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(from)?;
        // Text without a readable name has none: it is refused when it is decoded.
        let head: Head = serde_json::from_str(text.get()).unwrap_or_default();
        let HeadMeta { name, namespace, resource_version } = head.metadata;
        let metadata = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        Ok(Self { metadata, text })
    }
}

impl Watched {
    /// Namespace and name.
    pub(super) fn name(&self) -> ObjectName {
        ObjectName::new(
            self.metadata.namespace.as_deref().unwrap_or_default(),
            self.metadata.name.as_deref().unwrap_or_default(),
        )
    }

    /// What a mesh reads of it.
    pub(super) fn decode(&self, kind: Kind) -> Result<Object, Undecodable> {
        Object::from_json(kind, self.text.get())
    }
}

impl kube::Resource for Watched {
    type DynamicType = ApiResource;
    // Requests are made for all namespaces at once.
    type Scope = ClusterResourceScope;

    fn kind(names: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&names.kind)
    }

    fn group(names: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&names.group)
    }

    fn version(names: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&names.version)
    }

    fn plural(names: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&names.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How an API server knows a kind, in one of the versions that are read.
pub(crate) fn resource_of(kind: Kind, version: &str) -> ApiResource {
    let names = kind.names();
    let kind = GroupVersionKind::gvk(names.group, version, names.kind);
    ApiResource::from_gvk_with_plural(&kind, names.plural)
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use kube::api::{ObjectList, WatchEvent};

    use super::*;

    #[test]
    fn one_broken_object_does_not_break_its_list() {
        let list = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"9"},
            "items":[
              {"metadata":{"name":"a","namespace":"shop","resourceVersion":"3",
                "managedFields":[{"manager":"x"}]},"spec":{"clusterIP":"10.0.0.1"}},
              {"metadata":{"name":"b","namespace":"shop","resourceVersion":"4"},
                "spec":{"ports":[{"port":"many"}]}},
              {"metadata":{"name":7}}]}"#;
        let list: ObjectList<Watched> = serde_json::from_str(list).expect("a list");
        let read: Vec<_> = list.items.iter().map(|item| item.decode(Kind::Service)).collect();
        assert_eq!(read[0].as_ref().expect("sound").key().to_string(), "Service shop/a");
        let error = read[1].as_ref().expect_err("broken").to_string();
        assert!(error.starts_with("spec.ports[0].port: invalid type: string"), "{error}");
        assert_eq!(list.items[1].name(), ObjectName::new("shop", "b"));
        assert_eq!(list.items[1].resource_version().as_deref(), Some("4"));
        assert!(read[2].is_err());
    }

    #[test]
    fn events_carry_one() {
        let line = r#"{"type":"MODIFIED","object":{"apiVersion":"v1","kind":"Pod",
            "metadata":{"name":"web","namespace":"shop","resourceVersion":"12"},
            "spec":{"nodeName":"n1","volumes":[{"name":"v"}]}}}"#;
        let event: WatchEvent<Watched> = serde_json::from_str(line).expect("an event");
        let WatchEvent::Modified(watched) = event else { panic!("{event:?}") };
        let Ok(Object::Pod(pod)) = watched.decode(Kind::Pod) else { panic!("not a pod") };
        assert_eq!(&*pod.spec.node_name, "n1");
    }

    #[test]
    fn every_kind_has_its_address() {
        let url = |kind| {
            <Watched as kube::Resource>::url_path(&resource_of(kind, kind.names().version), None)
        };
        assert_eq!(url(Kind::Pod), "/api/v1/pods");
        assert_eq!(url(Kind::EndpointSlice), "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(
            url(Kind::AuthorizationPolicy),
            "/apis/security.istio.io/v1/authorizationpolicies"
        );
    }
}
