//! Any of the kinds, and its key.

use std::fmt;
use std::sync::Arc;

use crate::meta::{Meta, ObjectName, Text};
use crate::{
    AuthorizationPolicy, EndpointSlice, Gateway, GatewayClass, Namespace, Node, PeerAuthentication,
    Pod, Readable, RequestAuthentication, Service, ServiceEntry, Unreadable, WorkloadEntry,
};

/// The kinds that are read. The order is that in which they are applied at a start: what others
/// refer to comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the kinds")]
pub enum Kind {
    Namespace,
    Node,
    GatewayClass,
    Gateway,
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
    Service,
    ServiceEntry,
    EndpointSlice,
    WorkloadEntry,
    Pod,
}

/// How an API server knows a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindNames {
    /// Group; empty for core.
    pub group: &'static str,
    /// Version that is read.
    pub version: &'static str,
    /// Other versions with the same shape, accepted in manifests.
    pub also: &'static [&'static str],
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in a URL.
    pub plural: &'static str,
    /// Whether its objects have a namespace.
    pub is_namespaced: bool,
    /// Whether every API server has it: the others come with CRDs.
    pub is_built_in: bool,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 12] = [
        Self::Namespace,
        Self::Node,
        Self::GatewayClass,
        Self::Gateway,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
        Self::Service,
        Self::ServiceEntry,
        Self::EndpointSlice,
        Self::WorkloadEntry,
        Self::Pod,
    ];

    /// How an API server knows it.
    #[must_use]
    pub const fn names(self) -> KindNames {
        const fn core(kind: &'static str, plural: &'static str, is_namespaced: bool) -> KindNames {
            let (group, version, also): (_, _, &[&str]) = ("", "v1", &[]);
            KindNames { group, version, also, kind, plural, is_namespaced, is_built_in: true }
        }
        const fn custom(
            group: &'static str,
            kind: &'static str,
            plural: &'static str,
            is_namespaced: bool,
        ) -> KindNames {
            let also: &[&str] = &["v1beta1", "v1alpha3"];
            KindNames {
                group,
                version: "v1",
                also,
                kind,
                plural,
                is_namespaced,
                is_built_in: false,
            }
        }
        const GATEWAY: &str = "gateway.networking.k8s.io";
        const SECURITY: &str = "security.istio.io";
        const NETWORKING: &str = "networking.istio.io";
        match self {
            Self::Namespace => core("Namespace", "namespaces", false),
            Self::Node => core("Node", "nodes", false),
            Self::GatewayClass => custom(GATEWAY, "GatewayClass", "gatewayclasses", false),
            Self::Gateway => custom(GATEWAY, "Gateway", "gateways", true),
            Self::PeerAuthentication => {
                custom(SECURITY, "PeerAuthentication", "peerauthentications", true)
            }
            Self::AuthorizationPolicy => {
                custom(SECURITY, "AuthorizationPolicy", "authorizationpolicies", true)
            }
            Self::RequestAuthentication => {
                custom(SECURITY, "RequestAuthentication", "requestauthentications", true)
            }
            Self::Service => core("Service", "services", true),
            Self::ServiceEntry => custom(NETWORKING, "ServiceEntry", "serviceentries", true),
            Self::EndpointSlice => KindNames {
                group: "discovery.k8s.io",
                ..core("EndpointSlice", "endpointslices", true)
            },
            Self::WorkloadEntry => custom(NETWORKING, "WorkloadEntry", "workloadentries", true),
            Self::Pod => core("Pod", "pods", true),
        }
    }

    /// The kind of an `apiVersion` and a `kind`; `None`: not one of ours.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::of_any_version(api_version, kind).and_then(Result::ok)
    }

    /// The same, with the kind as an error where its version is not one that is read.
    pub(crate) fn of_any_version(api_version: &str, kind: &str) -> Option<Result<Self, Self>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let is_it = |names: KindNames| names.kind == kind && names.group == group;
        let found = Self::ALL.into_iter().find(|candidate| is_it(candidate.names()))?;
        let names = found.names();
        let is_read = names.version == version || names.also.contains(&version);
        Some(if is_read { Ok(found) } else { Err(found) })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().kind)
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Why an object could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// The field, such as `spec.ports[0].number`; empty for the whole object.
    pub field: String,
    /// What is wrong.
    pub cause: String,
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Undecodable {}

macro_rules! objects {
    ($($kind:ident),* $(,)?) => {
        /// An object of any kind. Cheap to clone.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are those of the kinds")]
        pub enum Object {
            $($kind(Arc<$kind>),)*
        }

        impl Object {
            /// Its kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// Its metadata.
            #[must_use]
            pub fn meta(&self) -> &Meta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                }
            }

            /// Decodes the text of an object of a kind that is known, as an API server writes it.
            pub fn from_json(kind: Kind, text: &str) -> Result<Self, Undecodable> {
                let read = match kind {
                    $(Kind::$kind => serde_json::from_str::<$kind>(text).map(|mut object| {
                        complete(kind, &mut object.metadata);
                        Self::$kind(Arc::new(object))
                    }),)*
                };
                // Which field it was is found out only where something is wrong: it takes longer.
                let read = read.or_else(|_| {
                    let value = serde_json::from_str(text).map_err(|error| Undecodable {
                        field: String::new(),
                        cause: error.to_string(),
                    })?;
                    Self::decode(kind, value).map_err(|error| Undecodable {
                        // The path to the object itself is a dot.
                        field: error.path().to_string().trim_matches('.').to_owned(),
                        cause: error.inner().to_string(),
                    })
                })?;
                if read.meta().name.is_empty() {
                    let field = "metadata.name".to_owned();
                    return Err(Undecodable { field, cause: "is missing".to_owned() });
                }
                Ok(read)
            }

            /// Decodes an object of a kind that is known.
            pub(crate) fn decode(
                kind: Kind,
                value: serde_json::Value,
            ) -> Result<Self, serde_path_to_error::Error<serde_json::Error>> {
                Ok(match kind {
                    $(Kind::$kind => {
                        let mut object: $kind = serde_path_to_error::deserialize(value)?;
                        complete(kind, &mut object.metadata);
                        Self::$kind(Arc::new(object))
                    })*
                })
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        })*
    };
}

objects!(
    Namespace,
    Node,
    GatewayClass,
    Gateway,
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
    Service,
    ServiceEntry,
    EndpointSlice,
    WorkloadEntry,
    Pod,
);

impl Object {
    /// A policy of which no more than its name could be read: it denies its namespace. `None`: the
    /// object has no name, or leaving one of its kind out denies no less.
    #[must_use]
    pub fn unreadable(kind: Kind, name: &ObjectName, why: &Undecodable) -> Option<Self> {
        let ObjectName { namespace, name } = name.clone();
        if name.is_empty() {
            return None;
        }
        let mut metadata = Meta { name, namespace, ..Meta::default() };
        complete(kind, &mut metadata);
        let unreadable = Unreadable::whole(why.to_string().into());
        match kind {
            Kind::AuthorizationPolicy => {
                let spec = Readable::Unreadable(unreadable);
                Some(AuthorizationPolicy { metadata, spec }.into())
            }
            Kind::PeerAuthentication => {
                let spec = Readable::Unreadable(unreadable);
                Some(PeerAuthentication { metadata, spec }.into())
            }
            Kind::Namespace
            | Kind::Node
            | Kind::GatewayClass
            | Kind::Gateway
            | Kind::RequestAuthentication
            | Kind::Service
            | Kind::ServiceEntry
            | Kind::EndpointSlice
            | Kind::WorkloadEntry
            | Kind::Pod => None,
        }
    }

    /// Which object it is.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), name: self.meta().object_name() }
    }
}

/// What an API server adds: an object without a namespace is in `default`, and a namespace has its
/// name as a label.
fn complete(kind: Kind, meta: &mut Meta) {
    if !kind.names().is_namespaced {
        meta.namespace = Text::default();
    } else if meta.namespace.is_empty() {
        meta.namespace = "default".into();
    }
    if kind == Kind::Namespace {
        meta.labels = meta.labels.with("kubernetes.io/metadata.name", &meta.name);
    }
}

#[cfg(test)]
mod tests;
