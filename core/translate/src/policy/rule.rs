//! One rule of a policy, as far as layer 4 goes.

use std::collections::HashSet;

use cluster::Text;
use cluster::authorization_policy::{Condition, Operation, Rule, Source};
use proto::security as wire;

use super::principals::{Domains, both};
use super::problem::{Cause, Problem};
use super::values::{self, Pattern};

/// Most pairs of a trust domain and a principal that are written for one source; more make its rule
/// unreadable. A policy of pairs that many would be too large for a node anyway.
const PAIRS_MAX: usize = 1 << 16;

/// What rules are read against.
#[derive(Debug)]
pub(super) struct Context<'c> {
    /// Of the policy: where a service account without a namespace is.
    pub(super) namespace: &'c str,
    pub(super) domains: Domains<'c>,
}

/// Reads a rule: it means exactly what was written, or it is refused with every reason.
///
/// `field` is where it is, such as `rules[0]`.
pub(super) fn read(
    rule: &Rule,
    field: &str,
    context: &Context<'_>,
) -> Result<wire::Rule, Vec<Problem>> {
    let mut reader = Reader { context, problems: Vec::new() };
    reader.unknown(field, &rule.unknown);
    let mut clauses = Vec::new();
    let operations = rule.to.iter().enumerate().map(|(at, to)| {
        let at = format!("{field}.to[{at}]");
        reader.unknown(&at, &to.unknown);
        reader.operation(&format!("{at}.operation"), &to.operation)
    });
    clauses.push(operations.collect::<Vec<_>>());
    let sources = rule.from.iter().enumerate().map(|(at, from)| {
        let at = format!("{field}.from[{at}]");
        reader.unknown(&at, &from.unknown);
        reader.source(&format!("{at}.source"), &from.source)
    });
    clauses.push(sources.collect());
    // An empty list of either is one that was not written. A condition is a clause of its own.
    clauses.retain(|matches| !matches.is_empty());
    for (at, condition) in rule.when.iter().enumerate() {
        clauses.push(vec![reader.condition(&format!("{field}.when[{at}]"), condition)]);
    }
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    let clauses = clauses.into_iter().map(|matches| wire::Clause { matches });
    Ok(wire::Rule { clauses: clauses.collect() })
}

/// Fields of a rule that we do not know.
pub(super) fn unknown_of(rule: &Rule, field: &str) -> Vec<Problem> {
    let of = |field: String, names: &[Text]| -> Vec<Problem> {
        names.iter().map(|name| Cause::Unknown.at(format!("{field}.{name}"))).collect()
    };
    let mut problems = of(field.to_owned(), &rule.unknown);
    for (at, to) in rule.to.iter().enumerate() {
        problems.extend(of(format!("{field}.to[{at}]"), &to.unknown));
        problems.extend(of(format!("{field}.to[{at}].operation"), &to.operation.unknown));
    }
    for (at, from) in rule.from.iter().enumerate() {
        problems.extend(of(format!("{field}.from[{at}]"), &from.unknown));
        problems.extend(of(format!("{field}.from[{at}].source"), &from.source.unknown));
    }
    for (at, condition) in rule.when.iter().enumerate() {
        problems.extend(of(format!("{field}.when[{at}]"), &condition.unknown));
    }
    problems
}

struct Reader<'c> {
    context: &'c Context<'c>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn unknown(&mut self, field: &str, names: &[Text]) {
        let problems = names.iter().map(|name| Cause::Unknown.at(format!("{field}.{name}")));
        self.problems.extend(problems);
    }

    fn layer_7(&mut self, field: &str, lists: &[(&str, &[Text])]) {
        let written = lists.iter().filter(|(_, values)| !values.is_empty());
        let problems = written.map(|(name, _)| Cause::Layer7.at(format!("{field}.{name}")));
        self.problems.extend(problems);
    }

    /// A match that says nothing is one that some proxies never match and others always.
    fn refuse_empty(&mut self, field: &str, found: &wire::Match, problems_before: usize) {
        if *found == wire::Match::default() && self.problems.len() == problems_before {
            self.problems.push(Cause::Empty.at(field));
        }
    }

    fn operation(&mut self, field: &str, operation: &Operation) -> wire::Match {
        let before = self.problems.len();
        self.unknown(field, &operation.unknown);
        self.layer_7(
            field,
            &[
                ("hosts", &operation.hosts),
                ("notHosts", &operation.not_hosts),
                ("methods", &operation.methods),
                ("notMethods", &operation.not_methods),
                ("paths", &operation.paths),
                ("notPaths", &operation.not_paths),
            ],
        );
        let found = wire::Match {
            destination_ports: self.ports(&format!("{field}.ports"), &operation.ports),
            not_destination_ports: self.ports(&format!("{field}.notPorts"), &operation.not_ports),
            ..wire::Match::default()
        };
        self.refuse_empty(field, &found, before);
        found
    }

    fn source(&mut self, field: &str, source: &Source) -> wire::Match {
        let before = self.problems.len();
        self.unknown(field, &source.unknown);
        self.layer_7(
            field,
            &[
                ("requestPrincipals", &source.request_principals),
                ("notRequestPrincipals", &source.not_request_principals),
                ("remoteIpBlocks", &source.remote_ip_blocks),
                ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
            ],
        );
        let at = |name: &str| format!("{field}.{name}");
        let principals = self.principals(&at("principals"), &source.principals);
        let domains = self.domains(&at("trustDomains"), &source.trust_domains);
        let mut not_principals = self.principals(&at("notPrincipals"), &source.not_principals);
        not_principals.extend(self.domains(&at("notTrustDomains"), &source.not_trust_domains));
        let principals = self.of_domains(&at("trustDomains"), &domains, principals);
        let accounts = &source.service_accounts;
        let not_accounts = &source.not_service_accounts;
        let found = wire::Match {
            namespaces: self.namespaces(&at("namespaces"), &source.namespaces),
            not_namespaces: self.namespaces(&at("notNamespaces"), &source.not_namespaces),
            principals: sent(principals),
            not_principals: sent(not_principals),
            source_ips: self.blocks(&at("ipBlocks"), &source.ip_blocks),
            not_source_ips: self.blocks(&at("notIpBlocks"), &source.not_ip_blocks),
            service_accounts: self.accounts(&at("serviceAccounts"), accounts),
            not_service_accounts: self.accounts(&at("notServiceAccounts"), not_accounts),
            ..wire::Match::default()
        };
        self.refuse_empty(field, &found, before);
        found
    }

    fn condition(&mut self, field: &str, condition: &Condition) -> wire::Match {
        let before = self.problems.len();
        self.unknown(field, &condition.unknown);
        let (is, not) = (format!("{field}.values"), format!("{field}.notValues"));
        let (values, not_values) = (&condition.values, &condition.not_values);
        let mut found = wire::Match::default();
        match &*condition.key {
            "source.ip" => {
                found.source_ips = self.blocks(&is, values);
                found.not_source_ips = self.blocks(&not, not_values);
            }
            "source.namespace" => {
                found.namespaces = self.namespaces(&is, values);
                found.not_namespaces = self.namespaces(&not, not_values);
            }
            "source.principal" => {
                found.principals = sent(self.principals(&is, values));
                found.not_principals = sent(self.principals(&not, not_values));
            }
            "source.trustDomain" => {
                found.principals = sent(self.domains(&is, values));
                found.not_principals = sent(self.domains(&not, not_values));
            }
            "source.serviceAccount" => {
                found.service_accounts = self.accounts(&is, values);
                found.not_service_accounts = self.accounts(&not, not_values);
            }
            "destination.ip" => {
                found.destination_ips = self.blocks(&is, values);
                found.not_destination_ips = self.blocks(&not, not_values);
            }
            "destination.port" => {
                found.destination_ports = self.ports(&is, values);
                found.not_destination_ports = self.ports(&not, not_values);
            }
            // Whatever else there is: refused, with its name.
            key => self.problems.push(Cause::Layer7.at(format!("{field} ({key})"))),
        }
        self.refuse_empty(field, &found, before);
        found
    }

    fn each<T>(
        &mut self,
        field: &str,
        values: &[Text],
        read: impl Fn(&str) -> Result<T, Cause>,
    ) -> Vec<T> {
        let mut sound = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            match read(value) {
                Ok(value) => sound.push(value),
                Err(cause) => self.problems.push(cause.at(format!("{field}[{at}]"))),
            }
        }
        sound
    }

    fn ports(&mut self, field: &str, values: &[Text]) -> Vec<u32> {
        self.each(field, values, |value| values::port(value).map(u32::from))
    }

    fn blocks(&mut self, field: &str, values: &[Text]) -> Vec<wire::Address> {
        self.each(field, values, values::block)
    }

    fn namespaces(&mut self, field: &str, values: &[Text]) -> Vec<wire::StringMatch> {
        sent(self.each(field, values, values::namespace))
    }

    fn accounts(&mut self, field: &str, values: &[Text]) -> Vec<wire::ServiceAccountMatch> {
        let own = self.context.namespace;
        self.each(field, values, |value| values::service_account(value, own))
    }

    fn principals(&mut self, field: &str, values: &[Text]) -> Vec<Pattern> {
        let patterns = self.each(field, values, values::principal);
        patterns.into_iter().flat_map(|each| self.context.domains.principals(each)).collect()
    }

    fn domains(&mut self, field: &str, values: &[Text]) -> Vec<Pattern> {
        let patterns = self.each(field, values, values::trust_domain);
        patterns.into_iter().flat_map(|each| self.context.domains.domains(each)).collect()
    }

    /// The principals that are also of one of the trust domains. Both are written as principals,
    /// of which any one suffices, so each pair has to become one pattern.
    fn of_domains(
        &mut self,
        field: &str,
        domains: &[Pattern],
        principals: Vec<Pattern>,
    ) -> Vec<Pattern> {
        if domains.is_empty() {
            return principals;
        }
        if principals.is_empty() {
            return domains.to_vec();
        }
        if domains.len().saturating_mul(principals.len()) > PAIRS_MAX {
            let cause = Cause::Said("and principals make too many pairs");
            self.problems.push(cause.at(field));
            return Vec::new();
        }
        let mut found = Vec::new();
        for (domain, principal) in
            domains.iter().flat_map(|domain| principals.iter().map(move |each| (domain, each)))
        {
            let Ok(both) = both(domain, principal) else {
                let cause = "cannot be checked at layer 4 together with the end of a principal";
                self.problems.push(Cause::Said(cause).at(field));
                return Vec::new();
            };
            found.extend(both);
        }
        // A list that ends up empty would match everybody.
        if found.is_empty() {
            let cause = Cause::Said("and principals have nothing in common");
            self.problems.push(cause.at(field));
        }
        found
    }
}

/// As they are sent, each once.
fn sent(patterns: Vec<Pattern>) -> Vec<wire::StringMatch> {
    let mut seen = HashSet::with_capacity(patterns.len());
    let unseen = patterns.into_iter().filter(|pattern| seen.insert(pattern.clone()));
    unseen.map(Pattern::wire).collect()
}
