//! How commands print: errors and progress on stderr, tables and JSON on stdout.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;

/// Prints an error with its causes, one line for every collected problem.
pub fn report(error: &anyhow::Error) {
    for line in with_causes(error).lines() {
        eprintln!("error: {line}");
    }
}

/// Prints something that a user should know.
pub fn warn(text: &str) {
    text.lines().for_each(|line| eprintln!("warning: {line}"));
}

/// The error and its causes, separated by colons; a cause that the text before it ends with is not said twice.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.ends_with(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// Prints a value as JSON: the stable form of a report.
///
/// # Errors
/// If the value cannot be written as JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints values as JSON, each on a line.
///
/// # Errors
/// If one of them cannot be written as JSON.
pub fn json_lines<T: Serialize>(values: &[T]) -> anyhow::Result<()> {
    for value in values {
        println!("{}", serde_json::to_string(value)?);
    }
    Ok(())
}

/// A progress bar on stderr, invisible unless stderr is a terminal. `unit` is one of `bytes` and `items`.
pub fn progress(total: u64, unit: Unit) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = match unit {
        Unit::Bytes => "{msg:24} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        Unit::Items => "{msg:24} {wide_bar} {pos}/{len}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

/// What a progress bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, with a rate.
    Bytes,
    /// Things.
    Items,
}

/// A table whose columns are as wide as their widest cell; columns of numbers are aligned to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading.
    pub fn new<const N: usize>(heading: [&str; N]) -> Table {
        Table { rows: vec![heading.iter().map(|cell| cell.to_string()).collect()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    fn column(&self, c: usize) -> impl Iterator<Item = &String> {
        self.rows.iter().filter_map(move |row| row.get(c))
    }

    /// Whether every cell below the heading is a number, or empty.
    fn is_numeric(&self, c: usize) -> bool {
        let numeric = |cell: &String| cell.is_empty() || cell.starts_with(|ch: char| ch.is_ascii_digit() || ch == '-');
        self.column(c).skip(1).all(numeric)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let layout: Vec<_> = (0..columns)
            .map(|c| (self.column(c).map(|cell| cell.chars().count()).max().unwrap_or(0), self.is_numeric(c)))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, &(width, numeric)) in row.iter().zip(&layout) {
                let padding = " ".repeat(width - cell.chars().count());
                line += &if numeric { format!("{padding}{cell}  ") } else { format!("{cell}{padding}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `1234567` as `1.23 MB`: decimal units, three digits.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { if value >= 10.0 { 1 } else { 2 } };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Lets `jetc ... | head` end without a panic: a write to a closed pipe ends the process, as for other tools.
pub fn die_quietly_on_closed_pipes() {
    #[cfg(unix)]
    // SAFETY: resets a signal to its default before any thread exists; nothing else in the process relies on the old disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        let texts: Vec<_> = [0, 999, 1000, 12_345, 999_499, 999_999, 4_012_644_000].map(bytes).to_vec();
        assert_eq!(texts, ["0 B", "999 B", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB", "4.01 GB"]);
    }

    #[test]
    fn causes_are_said_once() {
        let io = || anyhow::anyhow!("no such file");
        assert_eq!(with_causes(&io().context("x: no such file")), "x: no such file");
        assert_eq!(with_causes(&io().context("reading").context("x")), "x: reading: no such file");
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(["key", "n", "what"]);
        table.row(["a".into(), "10".into(), "x".into()]);
        table.row(["long".into(), "2".into(), "yy".into()]);
        assert_eq!(table.to_string(), "key    n  what\na     10  x\nlong   2  yy\n");
    }
}
