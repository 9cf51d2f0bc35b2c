//! The mesh's own settings, in the shape of Istio's `MeshConfig`, as far as they mean something here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::meta::Text;
use crate::selector::LabelSelector;

/// Longest text read, in bytes. A longer one is refused.
const BYTES_MAX: usize = 1 << 20;

/// `MeshConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Ours.
    pub trust_domain: Option<Text>,
    /// Others that mean ours.
    pub trust_domain_aliases: Vec<Text>,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: Option<Text>,
    /// Namespaces that are seen at all, OR-ed.
    pub discovery_selectors: Vec<LabelSelector>,
    /// Who may see service entries.
    pub service_entry_visibility: Option<ServiceEntryVisibility>,
    /// Names of settings that are not read here.
    #[serde(flatten, deserialize_with = "names")]
    pub unread: Vec<Text>,
}

/// `serviceEntryVisibility`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryVisibility {
    /// Where no policy matches.
    pub default_visibility: VisibilityName,
    /// The first that matches counts.
    pub policies: Vec<VisibilityPolicy>,
    /// Only for sidecars, which there are none of here.
    pub apply_to_sidecars: IgnoredBool,
}

/// Read and not used.
pub type IgnoredBool = Option<bool>;

/// One policy: rules AND-ed; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VisibilityPolicy {
    /// What it says.
    pub visibility: VisibilityName,
    /// To which entries.
    #[serde(default)]
    pub matching_rules: Vec<MatchingRule>,
}

/// One rule. A kind of rule that is not known is an error: leaving it out would widen the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchingRule {
    /// Of the entry's namespace.
    pub namespace_selector: LabelSelector,
}

/// Who may see an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VisibilityName {
    /// Everybody.
    #[default]
    Public,
    /// Its namespace.
    Namespace,
    /// Nobody.
    None,
}

impl MeshConfig {
    /// Reads YAML text. The error names the field or the line.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("longer than {BYTES_MAX} bytes"));
        }
        let value: serde_json::Value = crate::yaml::value(text)
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
        if value.is_null() {
            return Ok(Self::default());
        }
        serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string() {
            path if path == "." => error.inner().to_string(),
            path => format!("{path}: {}", error.inner()),
        })
    }
}

#[expect(clippy::zero_sized_map_values, reason = "serde reads a set as a sequence")]
fn names<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Text>, D::Error> {
    Ok(BTreeMap::<Text, IgnoredAny>::deserialize(from)?.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_named() {
        let config = MeshConfig::read(
            "trustDomain: shop.example\n\
             trustDomainAliases: [old.example]\n\
             accessLogFile: /dev/stdout\n\
             discoverySelectors:\n- matchLabels: {mesh: 'yes'}\n\
             serviceEntryVisibility:\n  defaultVisibility: NAMESPACE\n  policies:\n  \
             - visibility: PUBLIC\n    matchingRules:\n    - namespaceSelector:\n        \
             matchLabels: {kubernetes.io/metadata.name: istio-system}\n",
        )
        .expect("reads");
        assert_eq!(config.trust_domain.as_deref(), Some("shop.example"));
        assert_eq!(config.unread, ["accessLogFile".into()]);
        assert_eq!(config.discovery_selectors.len(), 1);
        let visibility = config.service_entry_visibility.expect("is set");
        assert_eq!(visibility.default_visibility, VisibilityName::Namespace);
        assert_eq!(visibility.policies[0].visibility, VisibilityName::Public);
        assert_eq!(MeshConfig::read(""), Ok(MeshConfig::default()));
    }

    #[test]
    fn a_mistake_names_its_field() {
        for (text, want) in [
            ("trustDomain: [a]", "trustDomain: invalid type"),
            ("discoverySelectors: [{matchExpressions: [{key: a, operator: Like}]}]", "operator"),
            ("serviceEntryVisibility: {defaultVisibility: SOME}", "unknown variant `SOME`"),
            (
                "serviceEntryVisibility: {policies: [{visibility: NONE, matchingRules: [{mood: a}]}]}",
                "unknown field `mood`",
            ),
            ("a: [", "line"),
        ] {
            let error = MeshConfig::read(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
