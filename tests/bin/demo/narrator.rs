//! What the demo says: steps, commands with their output, checks, and the summary.

use std::time::{Duration, Instant};

use crate::signals;

/// Longest line of quoted output; the rest is cut, so that nothing wraps in a usual terminal.
const LINE_MAX: usize = 150;

/// Tells the story and remembers how each check went.
#[derive(Default)]
pub(crate) struct Narrator {
    steps: u32,
    results: Vec<Line>,
}

struct Line {
    check: String,
    result: Result<String, String>,
    took: Duration,
}

impl Narrator {
    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}. {title}", self.steps);
    }

    /// Does something that must succeed, as a line of the summary. What it returns is its result.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> anyhow::Result<String>) {
        let start = Instant::now();
        let result = check().map_err(|error| format!("{error:#}"));
        // A teardown under way makes everything fail; that is no result.
        signals::hold_if_interrupted();
        match &result {
            Ok(found) => println!("   ok: {found}"),
            Err(why) => println!("   FAILED: {why}"),
        }
        self.results.push(Line { check: name.to_owned(), result, took: start.elapsed() });
    }

    /// Prints the table; whether every check held.
    pub(crate) fn summary(&self, took: Duration) -> bool {
        let width = self.results.iter().map(|line| line.check.chars().count()).max().unwrap_or(0);
        println!("\n{:<width$}  RESULT   TIME", "CHECK");
        for Line { check, result, took } in &self.results {
            let word = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{check:<width$}  {word:<6}  {:>4} ms", took.as_millis());
        }
        let good = self.results.iter().filter(|line| line.result.is_ok()).count();
        let all = self.results.len();
        println!("\n{good} of {all} checks held, in {:.1} s.", took.as_secs_f64());
        good == all && all > 0
    }
}

/// The headline.
pub(crate) fn title(text: &str) {
    println!("\n{text}\n{}", "=".repeat(text.chars().count()));
}

/// A line of a step.
pub(crate) fn say(text: &str) {
    println!("   {text}");
}

/// A command and what it printed.
pub(crate) fn command(command: &str, output: &str) {
    println!("   $ {command}");
    for line in output.trim_end().lines() {
        let line: String = line.chars().take(LINE_MAX).collect();
        println!("     {}", line.trim_end());
    }
}
