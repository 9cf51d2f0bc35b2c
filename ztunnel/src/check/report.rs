//! What was found, for people and for programs.

use std::fmt::Write;

use serde::Serialize;

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Settings,
    Capability,
    Kernel,
    Mode,
    Mount,
    Folder,
    Sysctl,
    Api,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Capability => "capability",
            Self::Kernel => "kernel",
            Self::Mode => "mode",
            Self::Mount => "mount",
            Self::Folder => "folder",
            Self::Sysctl => "sysctl",
            Self::Api => "api",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Fine,
    /// The agent works, with something less; what.
    Limited(String),
    /// The agent cannot work; what is wrong, and what to do.
    Missing(String),
    /// It could not be looked at, so it may not be relied on; why.
    Unknown(String),
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Limited(_) => "limited",
            Self::Missing(_) => "MISSING",
            Self::Unknown(_) => "UNKNOWN",
        }
    }

    fn detail(&self) -> Option<&str> {
        match self {
            Self::Fine => None,
            Self::Limited(detail) | Self::Missing(detail) | Self::Unknown(detail) => Some(detail),
        }
    }

    pub(super) fn is_good(&self) -> bool {
        match self {
            Self::Fine | Self::Limited(_) => true,
            Self::Missing(_) | Self::Unknown(_) => false,
        }
    }
}

/// One thing that the agent needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    kind: Kind,
    name: String,
    /// What would not work without it.
    needed_for: &'static str,
    pub(super) outcome: Outcome,
}

impl Check {
    pub(super) fn new(
        kind: Kind,
        name: impl Into<String>,
        needed_for: &'static str,
        outcome: Outcome,
    ) -> Self {
        Self { kind, name: name.into(), needed_for, outcome }
    }
}

/// All of it.
pub(super) struct Report {
    /// `uname -r`.
    pub(super) kernel: String,
    pub(super) checks: Vec<Check>,
}

#[derive(Serialize)]
struct Document<'a> {
    kernel: &'a str,
    ready: bool,
    checks: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    kind: Kind,
    name: &'a str,
    needed_for: &'static str,
    /// `ok`, `limited`, `missing`, `unknown`.
    result: String,
    detail: Option<&'a str>,
}

impl<'a> Entry<'a> {
    fn of(check: &'a Check) -> Self {
        let Check { kind, name, needed_for, outcome } = check;
        let result = outcome.name().to_lowercase();
        Self { kind: *kind, name, needed_for, result, detail: outcome.detail() }
    }
}

impl Report {
    /// Whether an agent can work here.
    pub(super) fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.outcome.is_good())
    }

    /// Rows in columns, then what is to be done, one line each.
    pub(super) fn table(&self) -> String {
        let row = |check: &Check| {
            let Check { kind, name, needed_for, outcome } = check;
            [outcome.name().to_owned(), kind.name().to_owned(), name.clone(), (*needed_for).into()]
        };
        let header = ["RESULT", "KIND", "WHAT", "NEEDED FOR"].map(str::to_owned);
        let rows: Vec<[String; 4]> =
            std::iter::once(header).chain(self.checks.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        let mut text = String::new();
        for [result, kind, what, why] in &rows {
            let [first, second, third] = widths;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{result:first$}  {kind:second$}  {what:third$}  {why}");
        }
        text.push('\n');
        for Check { kind, name, outcome, .. } in &self.checks {
            for line in outcome.detail().unwrap_or_default().lines() {
                let _ = writeln!(text, "{} {name}: {}: {line}", kind.name(), outcome.name());
            }
        }
        let missing = self.checks.iter().filter(|check| !check.outcome.is_good()).count();
        let verdict = match missing {
            0 => "an agent can work here".to_owned(),
            1 => "an agent cannot work here: 1 thing is missing".to_owned(),
            _ => format!("an agent cannot work here: {missing} things are missing"),
        };
        let _ = writeln!(text, "Linux {}: {verdict}", self.kernel);
        text
    }

    pub(super) fn json(&self) -> String {
        let document = Document {
            kernel: &self.kernel,
            ready: self.is_ready(),
            checks: self.checks.iter().map(Entry::of).collect(),
        };
        let text = serde_json::to_string_pretty(&document).expect("strings and flags are JSON");
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let check = |outcome: &Outcome| Check::new(Kind::Mount, "/x", "pins", outcome.clone());
        Report { kernel: "6.1".to_owned(), checks: outcomes.iter().map(check).collect() }
    }

    #[test]
    fn what_is_missing_or_unknown_is_not_ready() {
        let some = |outcome: fn(String) -> Outcome| outcome("why".to_owned());
        for (outcomes, ready) in [
            (vec![], true),
            (vec![Outcome::Fine, some(Outcome::Limited)], true),
            (vec![Outcome::Fine, some(Outcome::Missing)], false),
            (vec![some(Outcome::Unknown), Outcome::Fine], false),
        ] {
            assert_eq!(report(&outcomes).is_ready(), ready, "{outcomes:?}");
        }
    }

    #[test]
    fn people_read_what_to_do_and_programs_the_same() {
        let report = report(&[Outcome::Fine, Outcome::Missing("mount it\nthere".to_owned())]);
        let want = "RESULT   KIND   WHAT  NEEDED FOR\n\
            ok       mount  /x    pins\n\
            MISSING  mount  /x    pins\n\
            \n\
            mount /x: MISSING: mount it\n\
            mount /x: MISSING: there\n\
            Linux 6.1: an agent cannot work here: 1 thing is missing\n";
        assert_eq!(report.table(), want);
        let document: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(document["ready"], false);
        assert_eq!(document["checks"][0]["result"], "ok");
        assert_eq!(document["checks"][1]["detail"], "mount it\nthere");
    }
}
