//! YAML as Kubernetes' tools read it.

use serde_json::Value;

/// Reads one document. Only `true` and `false` are booleans: a label of value `y`, or an object of
/// name `no`, is text (YAML 1.2, 10.3.2).
pub(crate) fn value(text: &str) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
}
