//! Principals of a trust domain that has several names.

use model::TrustDomain;

use super::values::Pattern;
use crate::Settings;

/// The names of this mesh's trust domain: its own, then its aliases as they are configured.
#[derive(Debug)]
pub(super) struct Domains<'s>(Vec<&'s str>);

impl<'s> Domains<'s> {
    pub(super) fn of(settings: &'s Settings) -> Self {
        let mut names = vec![settings.trust_domain.as_str()];
        for alias in &settings.trust_domain_aliases {
            if !names.contains(&alias.as_str()) {
                names.push(alias.as_str());
            }
        }
        Self(names)
    }

    /// The pattern, and what else matches a principal exactly if the pattern matches the same
    /// principal under another of the names. Nodes without the list of aliases need all of them.
    ///
    /// As in Istio, a principal of `cluster.local` is one of this mesh's, whatever its trust domain
    /// is: policies that were written for a default installation go on to mean it. It keeps its own
    /// meaning beside that, so that neither reading of a DENY is lost.
    pub(super) fn principals(&self, pattern: Pattern) -> Vec<Pattern> {
        self.with_names(pattern, |domain| domain == TrustDomain::DEFAULT || self.is_ours(domain))
    }

    /// The same for the pattern of a whole trust domain, where `cluster.local` is only itself.
    pub(super) fn domains(&self, pattern: Pattern) -> Vec<Pattern> {
        self.with_names(pattern, |domain| self.is_ours(domain))
    }

    fn is_ours(&self, domain: &str) -> bool {
        self.0.contains(&domain)
    }

    fn with_names(&self, pattern: Pattern, is_ours: impl Fn(&str) -> bool) -> Vec<Pattern> {
        let mut patterns = match &pattern {
            Pattern::Exact(text) => match split(text) {
                Some((domain, rest)) if is_ours(domain) => self.each(rest, Pattern::Exact),
                Some(_) | None => Vec::new(),
            },
            Pattern::Prefix(text) => match split(text) {
                Some((domain, rest)) if is_ours(domain) => self.each(rest, Pattern::Prefix),
                // The beginning of one name stands for every principal under all of them.
                None if self.0.len() > 1 && self.0.iter().any(|own| own.starts_with(text)) => {
                    self.each("/", Pattern::Prefix)
                }
                Some(_) | None => Vec::new(),
            },
            // One that reaches into the trust domain holds the whole rest of the principal.
            Pattern::Suffix(text) => match split(text) {
                Some((end, rest))
                    if self.0.len() > 1
                        && !end.is_empty()
                        && is_whole_rest(rest)
                        && self.0.iter().any(|own| own.ends_with(end)) =>
                {
                    self.each(rest, Pattern::Exact)
                }
                Some(_) | None => Vec::new(),
            },
            Pattern::Presence => Vec::new(),
        };
        patterns.retain(|other| *other != pattern);
        patterns.insert(0, pattern);
        patterns
    }

    fn each(&self, rest: &str, pattern: impl Fn(String) -> Pattern) -> Vec<Pattern> {
        self.0.iter().map(|own| pattern(format!("{own}{rest}"))).collect()
    }
}

/// What both match, as one pattern; `None` if nothing is matched by both.
///
/// `domain` is the pattern of a trust domain: a prefix or any principal.
pub(super) fn both(domain: &Pattern, principal: &Pattern) -> Result<Option<Pattern>, NotOne> {
    let Pattern::Prefix(start) = domain else { return Ok(Some(principal.clone())) };
    let start = &**start;
    Ok(match principal {
        Pattern::Presence => Some(domain.clone()),
        Pattern::Exact(text) => text.starts_with(start).then(|| principal.clone()),
        Pattern::Prefix(text) if text.starts_with(start) => Some(principal.clone()),
        Pattern::Prefix(text) => start.starts_with(&**text).then(|| domain.clone()),
        Pattern::Suffix(text) => match (start.strip_suffix('/'), split(text)) {
            // A whole trust domain and the whole rest.
            (Some(name), Some(("", rest))) if is_whole_rest(rest) => {
                Some(Pattern::Exact(format!("{name}{rest}")))
            }
            _ => return Err(NotOne),
        },
    })
}

/// What both match is not what one pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotOne;

/// The trust domain, or the end of one, and the rest with its slash.
fn split(text: &str) -> Option<(&str, &str)> {
    text.find('/').map(|slash| text.split_at(slash))
}

/// `/ns/<namespace>/sa/<service account>`; neither can hold a slash.
fn is_whole_rest(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('/').collect();
    matches!(parts[..], ["", "ns", namespace, "sa", account]
        if !namespace.is_empty() && !account.is_empty())
}
