//! Reads the test harness's output while passing it on.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, anyhow};

/// Longest part of a line that is kept to be looked at. A result line is far shorter.
const LINE_BYTES_MAX: usize = 4096;
const CHUNK_BYTES: usize = 8192;
/// A suite that counts cases within one test says how many in a line that begins like this.
const CASES: &str = "conformance: ";

/// Counted tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tally {
    /// How many tests were executed.
    pub(crate) fn ran(self) -> u64 {
        self.passed + self.failed
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            let (number, what) = count.split_once(' ')?;
            match what.trim() {
                "passed" => tally.passed = number.parse().ok()?,
                "failed" => tally.failed = number.parse().ok()?,
                "ignored" => tally.ignored = number.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

/// What the output of a command that tests said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) tally: Tally,
    /// Lines that count cases, such as `conformance: 449 cases`.
    pub(crate) cases: Vec<String>,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.tally += other.tally;
        self.cases.extend(other.cases);
    }
}

/// Runs a command that tests, shows its output as it comes and sums its result lines. A command
/// that fails without counting a failure (it did not build, it aborted) counts as one.
pub(crate) fn watch(command: &mut Command) -> anyhow::Result<Report> {
    watch_into(command, &mut io::stdout())
}

/// Runs the commands of all suites, some at once, and sums them. Lines of different suites may mix; none
/// is cut.
pub(crate) fn watch_all(
    suites: &[String],
    at_once: usize,
    command: impl Fn(&str) -> Command + Sync,
) -> anyhow::Result<Report> {
    watch_all_into(suites, at_once, command, Lines::default)
}

fn watch_all_into<W: Write>(
    suites: &[String],
    at_once: usize,
    command: impl Fn(&str) -> Command + Sync,
    terminal: impl Fn() -> W + Sync,
) -> anyhow::Result<Report> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut report = Report::default();
        while let Some(suite) = suites.get(next.fetch_add(1, Ordering::Relaxed)) {
            report += watch_into(&mut command(suite), &mut terminal())?;
        }
        anyhow::Ok(report)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut report = Report::default();
        for worker in workers {
            report += worker.join().map_err(|_| anyhow!("watching a suite panicked"))??;
        }
        Ok(report)
    })
}

/// Shows whole lines only.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.0.split_off(end + 1);
            let whole = std::mem::replace(&mut self.0, rest);
            io::stdout().lock().write_all(&whole)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

fn watch_into(command: &mut Command, terminal: &mut dyn Write) -> anyhow::Result<Report> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let mut reader = Reader::default();
    if let Some(mut output) = child.stdout.take() {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let read = output.read(&mut chunk).context("read test output")?;
            if read == 0 {
                break;
            }
            terminal.write_all(&chunk[..read]).and_then(|()| terminal.flush())?;
            reader.feed(&chunk[..read]);
        }
    }
    let status = child.wait().with_context(|| format!("wait for {program}"))?;
    let mut report = reader.finish();
    if !status.success() && report.tally.failed == 0 {
        println!("\n{program} ended with {status} and without a failed test");
        report.tally.failed = 1;
    }
    Ok(report)
}

/// Cuts output into lines and sums the results among them.
#[derive(Default)]
struct Reader {
    line: Vec<u8>,
    report: Report,
}

impl Reader {
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if let Some(tally) = Tally::parse(&line) {
            self.report.tally += tally;
        } else if line.starts_with(CASES) {
            self.report.cases.push(line.into_owned());
        }
    }

    fn finish(mut self) -> Report {
        self.end_line();
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; \
                      3 filtered out; finished in 0.02s";
    const FAILED: &str = "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; \
                          0 filtered out; finished in 0.00s";

    #[test]
    fn result_lines_are_summed_across_chunks() {
        let text = format!(
            "running 12 tests\ntest a ... ok\n\nconformance: 3 cases\n{OK}\nnoise\n{FAILED}"
        );
        for size in [1, 7, text.len()] {
            let mut reader = Reader::default();
            text.as_bytes().chunks(size).for_each(|chunk| reader.feed(chunk));
            let Report { tally, cases } = reader.finish();
            assert_eq!(cases, ["conformance: 3 cases"]);
            assert_eq!(tally, Tally { passed: 14, failed: 1, ignored: 1 });
            assert_eq!(tally.to_string(), "14 passed, 1 failed, 1 ignored");
        }
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["test result: unknown", "all passed", "  test result: ok. 1 passed;"] {
            assert_eq!(Tally::parse(line), None, "{line}");
        }
    }

    #[test]
    fn all_suites_run_and_are_summed() {
        let suites: Vec<_> = (1..=5).map(|number| number.to_string()).collect();
        let command = |suite: &str| {
            let mut command = Command::new("sh");
            let line = format!("echo 'test result: ok. {suite} passed; 0 failed; 0 ignored'");
            command.args(["-c", &line]);
            command
        };
        let report = watch_all_into(&suites, 2, command, io::sink);
        let expected = Tally { passed: 15, failed: 0, ignored: 0 };
        assert_eq!(report.expect("sh").tally, expected);
    }

    #[test]
    fn a_command_that_dies_counts_as_one_failure() {
        let mut dying = Command::new("sh");
        dying.args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 3"]);
        let mut shown = Vec::new();
        let Report { tally, cases } = watch_into(&mut dying, &mut shown).expect("sh");
        assert!(cases.is_empty());
        assert!(shown.starts_with(b"test result: ok."));
        assert_eq!(tally, Tally { passed: 2, failed: 1, ignored: 0 });
    }
}
