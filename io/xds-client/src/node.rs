//! Who asks: the node that a control plane is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

pub use proto::discovery::Node;

/// What is known about this agent. The texts are Istio's: `POD_NAME` and so on.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// `INSTANCE_IP`.
    pub instance_ip: Option<IpAddr>,
    /// `POD_NAME`.
    pub pod_name: String,
    /// `POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `NODE_NAME`.
    pub node_name: String,
    /// Further metadata, by name.
    pub metadata: BTreeMap<String, String>,
    /// Every environment variable; those that begin with `ISTIO_META_` and `ISTIO_METAJSON_` count.
    pub environment: Vec<(String, String)>,
}

/// Why a node cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An `ISTIO_METAJSON_` variable holds no JSON.
    #[error("{variable} is not JSON")]
    Json {
        /// Which.
        variable: String,
        /// Why not.
        source: serde_json::Error,
    },
}

const TEXT: &str = "ISTIO_META_";
const JSON: &str = "ISTIO_METAJSON_";

/// Describes this agent as Istio's ztunnel describes itself: the control plane tells node proxies
/// by the id's first part, and on demand sends the workloads of `NODE_NAME` unasked.
pub fn node(facts: &NodeFacts) -> Result<Node, NodeError> {
    let NodeFacts { instance_ip, pod_name, pod_namespace, node_name, .. } = facts;
    // An id needs an address; this one stands for none.
    let ip = instance_ip.unwrap_or(IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)));
    let mut fields: BTreeMap<String, Value> = [
        ("NAME", pod_name.clone()),
        ("NAMESPACE", pod_namespace.clone()),
        ("INSTANCE_IPS", ip.to_string()),
        ("NODE_NAME", node_name.clone()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), text(value)))
    .collect();
    let metadata = facts.metadata.iter();
    fields.extend(metadata.map(|(name, value)| (name.clone(), text(value.clone()))));
    for (variable, value) in &facts.environment {
        if let Some(name) = variable.strip_prefix(TEXT) {
            fields.insert(name.to_owned(), text(value.clone()));
        } else if let Some(name) = variable.strip_prefix(JSON) {
            let value = serde_json::from_str(value)
                .map_err(|source| NodeError::Json { variable: variable.clone(), source })?;
            fields.insert(name.to_owned(), json(value));
        }
    }
    Ok(Node {
        id: format!("ztunnel~{ip}~{pod_name}.{pod_namespace}~{pod_namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields }),
        ..Node::default()
    })
}

fn text(value: String) -> Value {
    Value { kind: Some(Kind::StringValue(value)) }
}

fn json(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(json).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(name, value)| (name, json(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_described_as_istios_ztunnel_describes_itself() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let facts = NodeFacts {
            instance_ip: Some("10.0.0.1".parse().expect("valid")),
            pod_name: "ztunnel-1".into(),
            pod_namespace: "istio-system".into(),
            node_name: "node-1".into(),
            metadata: BTreeMap::from([variable("ISTIO_VERSION", "1.30")]),
            environment: vec![
                variable("PATH", "/bin"),
                variable("ISTIO_META_CLUSTER_ID", "k"),
                variable("ISTIO_METAJSON_LABELS", r#"{"a":[1,true,null]}"#),
            ],
        };
        let described = node(&facts).expect("valid");
        let id = "ztunnel~10.0.0.1~ztunnel-1.istio-system~istio-system.svc.cluster.local";
        assert_eq!(described.id, id);
        let fields = described.metadata.expect("set").fields;
        for (name, value) in [
            ("NAME", "ztunnel-1"),
            ("NAMESPACE", "istio-system"),
            ("INSTANCE_IPS", "10.0.0.1"),
            ("NODE_NAME", "node-1"),
            ("ISTIO_VERSION", "1.30"),
            ("CLUSTER_ID", "k"),
        ] {
            assert_eq!(fields.get(name), Some(&text(value.to_owned())), "{name}");
        }
        let value = |kind| Value { kind: Some(kind) };
        let values = vec![
            value(Kind::NumberValue(1.0)),
            value(Kind::BoolValue(true)),
            value(Kind::NullValue(0)),
        ];
        let list = value(Kind::ListValue(ListValue { values }));
        let labels = Struct { fields: BTreeMap::from([("a".to_owned(), list)]) };
        assert_eq!(fields.get("LABELS"), Some(&value(Kind::StructValue(labels))));
        assert_eq!(fields.len(), 7);
        let no_ip = NodeFacts { instance_ip: None, ..facts.clone() };
        assert!(node(&no_ip).expect("valid").id.starts_with("ztunnel~1.1.1.1~"));
        let broken = NodeFacts { environment: vec![variable("ISTIO_METAJSON_X", "{")], ..facts };
        let error = node(&broken).expect_err("not JSON");
        assert_eq!(error.to_string(), "ISTIO_METAJSON_X is not JSON");
    }
}
