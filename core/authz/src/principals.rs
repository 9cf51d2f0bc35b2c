//! Principals of a trust domain that has several names.

use std::sync::Arc;

use model::TrustDomain;

use crate::policy::StringMatch;
use crate::settings::Settings;

/// The names of this mesh's trust domain. Fewer than two: no name stands for another.
pub(crate) struct Domains<'s>(Vec<&'s str>);

impl<'s> Domains<'s> {
    pub(crate) fn of(settings: &'s Settings) -> Self {
        let aliases = settings.trust_domain_aliases.iter();
        let mut names: Vec<_> = std::iter::once(&settings.trust_domain)
            .chain(aliases)
            .map(TrustDomain::as_str)
            .collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// The pattern, and what else matches a principal exactly if the pattern matches the same
    /// principal under another of the names. Done once, when a policy arrives, so that a decision
    /// compares the identity as it is.
    ///
    /// The pattern is one for an identity without `spiffe://`.
    pub(crate) fn widen(&self, pattern: StringMatch) -> Vec<StringMatch> {
        let mut patterns = match &pattern {
            _ if self.0.len() < 2 => Vec::new(),
            StringMatch::Exact(text) => self.widen_exact(text),
            StringMatch::Prefix(text) => self.widen_prefix(text),
            StringMatch::Suffix(text) => self.widen_suffix(text),
            StringMatch::Presence => Vec::new(),
        };
        patterns.retain(|other| *other != pattern);
        patterns.push(pattern);
        patterns
    }

    /// `rest` under every name; it begins with a slash.
    fn with_rest(&self, rest: &str, pattern: impl Fn(Arc<str>) -> StringMatch) -> Vec<StringMatch> {
        self.0.iter().map(|domain| pattern(format!("{domain}{rest}").into())).collect()
    }

    fn widen_exact(&self, text: &str) -> Vec<StringMatch> {
        match split(text) {
            Some((domain, rest)) if self.0.contains(&domain) => {
                self.with_rest(rest, StringMatch::Exact)
            }
            _ => Vec::new(),
        }
    }

    fn widen_prefix(&self, text: &str) -> Vec<StringMatch> {
        match split(text) {
            Some((domain, rest)) if self.0.contains(&domain) => {
                self.with_rest(rest, StringMatch::Prefix)
            }
            // The beginning of one name stands for every principal under all of them.
            None if self.0.iter().any(|domain| domain.starts_with(text)) => {
                self.with_rest("/", StringMatch::Prefix)
            }
            _ => Vec::new(),
        }
    }

    /// A suffix that reaches into the trust domain holds the whole rest of the principal.
    fn widen_suffix(&self, text: &str) -> Vec<StringMatch> {
        match split(text) {
            Some((end, rest))
                if !end.is_empty()
                    && is_whole_rest(rest)
                    && self.0.iter().any(|domain| domain.ends_with(end)) =>
            {
                self.with_rest(rest, StringMatch::Exact)
            }
            _ => Vec::new(),
        }
    }
}

/// The trust domain, or the end of one, and the rest with its slash.
fn split(text: &str) -> Option<(&str, &str)> {
    text.find('/').map(|slash| text.split_at(slash))
}

/// `/ns/<namespace>/sa/<service account>`; neither can hold a slash.
fn is_whole_rest(rest: &str) -> bool {
    let mut parts = rest.split('/');
    parts.next() == Some("")
        && parts.next() == Some("ns")
        && parts.next().is_some()
        && parts.next() == Some("sa")
        && parts.next().is_some()
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use model::SpiffeId;
    use proptest::prelude::*;

    use super::*;
    use crate::sets::{Hashed, Pools};

    fn settings(aliases: &[&str]) -> Settings {
        let domain = |name: &str| TrustDomain::parse(name).expect("literal");
        Settings {
            trust_domain: domain("new.org"),
            trust_domain_aliases: aliases.iter().map(|name| domain(name)).collect(),
            ..Settings::default()
        }
    }

    fn any_fits(patterns: &[StringMatch], text: &str) -> bool {
        let mut pools = Pools::default();
        let set = pools.add_patterns(patterns);
        pools.has_text(&set, &Hashed::new(text))
    }

    fn widened(aliases: &[&str], pattern: StringMatch) -> Vec<String> {
        let widened = Domains::of(&settings(aliases)).widen(pattern);
        widened.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn patterns_are_written_for_every_name() {
        let exact = |text: &str| StringMatch::Exact(text.into());
        let prefix = |text: &str| StringMatch::Prefix(text.into());
        let suffix = |text: &str| StringMatch::Suffix(text.into());
        for (pattern, expected) in [
            (exact("old/ns/a/sa/b"), &["\"new.org/ns/a/sa/b\"", "\"old/ns/a/sa/b\""][..]),
            (exact("other/ns/a/sa/b"), &["\"other/ns/a/sa/b\""]),
            (prefix("old/ns/a"), &["\"new.org/ns/a\"*", "\"old/ns/a\"*"]),
            (prefix("ol"), &["\"new.org/\"*", "\"old/\"*", "\"ol\"*"]),
            (prefix("other"), &["\"other\"*"]),
            (suffix("/sa/b"), &["*\"/sa/b\""]),
            (suffix("/ns/a/sa/b"), &["*\"/ns/a/sa/b\""]),
            (
                suffix(".org/ns/a/sa/b"),
                &["\"new.org/ns/a/sa/b\"", "\"old/ns/a/sa/b\"", "*\".org/ns/a/sa/b\""],
            ),
            (suffix("other/ns/a/sa/b"), &["*\"other/ns/a/sa/b\""]),
            (StringMatch::Presence, &["any"]),
        ] {
            assert_eq!(widened(&["old", "old", "new.org"], pattern), expected);
        }
        assert_eq!(widened(&[], exact("old/ns/a/sa/b")), ["\"old/ns/a/sa/b\""]);
        assert_eq!(widened(&["new.org"], prefix("new")), ["\"new\"*"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

        /// A widened pattern matches an identity exactly if the pattern itself matches it under
        /// any of the names.
        #[test]
        fn one_name_is_as_good_as_another(
            whole in prop::sample::select(vec![
                "new.org/ns/a/sa/b", "old/ns/a/sa/b", "old/ns/a/sa/bb", "older/ns/a/sa/b", "x.org/ns/a/sa/b",
            ]),
            cut in 0..20_usize,
            kind in 0..4_u8,
            peer in prop::sample::select(vec![
                "new.org/ns/a/sa/b", "old/ns/a/sa/b", "older/ns/a/sa/b", "x.org/ns/a/sa/b", "old/ns/b/sa/a",
            ]),
        ) {
            let pattern = match kind {
                0 => StringMatch::Exact(whole.into()),
                1 => StringMatch::Prefix(whole.get(..cut).unwrap_or(whole).into()),
                2 => StringMatch::Suffix(whole.get(cut..).unwrap_or("").into()),
                _ => StringMatch::Presence,
            };
            let (domain, rest) = split(peer).expect("a principal");
            let names = ["new.org", "old"];
            let variants: Vec<String> = if names.contains(&domain) {
                names.iter().map(|name| format!("{name}{rest}")).collect()
            } else {
                vec![peer.to_owned()]
            };
            let alone = std::slice::from_ref(&pattern);
            let expected = variants.iter().any(|variant| any_fits(alone, variant));
            let settings = settings(&["old"]);
            let widened = Domains::of(&settings).widen(pattern.clone());
            let id = SpiffeId::parse(&format!("spiffe://{peer}")).expect("a principal");
            prop_assert_eq!(any_fits(&widened, id.principal()), expected, "{} on {}", pattern, peer);
        }
    }
}
