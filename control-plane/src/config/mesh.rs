//! From the file and the flags to the settings of the translation.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cluster::mesh_config::{MeshConfig, VisibilityName};
use model::TrustDomain;
use translate::{EntryVisibility, Settings, VisibilityRule};

use super::{ConfigError, ServeArguments};

/// Longest file read, in bytes. A longer one is refused.
const FILE_MAX: u64 = 1 << 20;

/// The settings, and what of the file is not read.
pub(super) fn settings(arguments: &ServeArguments) -> Result<(Settings, Vec<String>), ConfigError> {
    let config = match &arguments.mesh_config {
        Some(path) => read(path)?,
        None => MeshConfig::default(),
    };
    let named = arguments.trust_domain.as_deref().or(config.trust_domain.as_deref());
    let trust_domain = domain("trustDomain", named.unwrap_or("cluster.local"))?;
    let aliases = config.trust_domain_aliases.iter();
    let aliases = aliases.map(|alias| domain("trustDomainAliases", alias));
    let mut settings = Settings::new(trust_domain);
    settings.trust_domain_aliases = aliases.collect::<Result<_, _>>()?;
    if let Some(root) = config.root_namespace {
        // No object can be in another, so its policies would be left out.
        if !translate::is_label(&root) {
            let file = arguments.mesh_config.iter().map(|path| format!("{}: ", path.display()));
            let setting = file.chain(["rootNamespace".to_owned()]).collect::<String>();
            let cause = format!("{root:?} is no name of a namespace");
            return Err(ConfigError::new(setting, cause));
        }
        settings.root_namespace = root;
    }
    settings.cluster = arguments.cluster_id.as_str().into();
    settings.network = arguments.network.as_str().into();
    settings.domain = arguments.cluster_domain.as_str().into();
    settings.revision = arguments.revision.as_str().into();
    settings.discovery_selectors = config.discovery_selectors;
    settings.dry_run = arguments.dry_run;
    settings.allow_waypoints = arguments.allow_waypoints;
    if let Some(configured) = config.service_entry_visibility {
        for policy in configured.policies {
            settings.entry_visibility.push(rule(policy.visibility, policy.matching_rules)?);
        }
        let last = VisibilityRule {
            visibility: visibility(configured.default_visibility),
            ..VisibilityRule::default()
        };
        settings.entry_visibility.push(last);
    }
    Ok((settings, config.unread.iter().map(|name| name.as_ref().to_owned()).collect()))
}

/// All rules of a policy must match, so they become one selector.
fn rule(
    name: VisibilityName,
    rules: Vec<cluster::mesh_config::MatchingRule>,
) -> Result<VisibilityRule, ConfigError> {
    let mut namespaces = cluster::LabelSelector::default();
    for rule in rules {
        for (key, value) in rule.namespace_selector.match_labels {
            let before = namespaces.match_labels.insert(key.clone(), value.clone());
            if before.is_some_and(|before| before != value) {
                let cause = format!("the rules of one policy want two values of {key}");
                return Err(ConfigError::new("serviceEntryVisibility.policies", cause));
            }
        }
        namespaces.match_expressions.extend(rule.namespace_selector.match_expressions);
    }
    Ok(VisibilityRule { namespaces, visibility: visibility(name), ..VisibilityRule::default() })
}

fn visibility(name: VisibilityName) -> EntryVisibility {
    match name {
        VisibilityName::Public => EntryVisibility::Public,
        VisibilityName::Namespace => EntryVisibility::Namespace,
        VisibilityName::None => EntryVisibility::None,
    }
}

fn domain(setting: &str, name: &str) -> Result<TrustDomain, ConfigError> {
    TrustDomain::parse(name).map_err(|error| ConfigError::new(setting, error))
}

fn read(path: &Path) -> Result<MeshConfig, ConfigError> {
    let wrong = |cause: &dyn std::fmt::Display| ConfigError::new(path.display().to_string(), cause);
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let mut text = String::new();
    // One byte more than allowed tells that it is longer.
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX) {
        return Err(wrong(&format!("longer than {FILE_MAX} bytes")));
    }
    MeshConfig::read(&text).map_err(|error| wrong(&error))
}
