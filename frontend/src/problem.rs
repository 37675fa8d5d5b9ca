//! What is wrong with an input: every problem with its origin, collected and reported at once.

use std::fmt;
use std::path::Path;

/// One thing that is wrong (or, in a list of notes, odd) about an input.
///
/// Printed as `origin: message`, for example `model/config.json: hidden_act: found "gelu", expected "silu"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a file with a field or a line, or a tensor's name.
    pub origin: String,
    /// What was found and what was expected; lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// The error of this crate: at least one [`Problem`], printed one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

/// The result of reading an input.
pub type Result<T> = std::result::Result<T, Problems>;

impl Problems {
    /// A single problem.
    pub fn one(origin: impl Into<String>, message: impl Into<String>) -> Problems {
        Problems(vec![Problem { origin: origin.into(), message: message.into() }])
    }

    /// A file operation that failed: `PATH: cannot DO: REASON`.
    pub(crate) fn io(path: &Path, action: &str, error: &std::io::Error) -> Problems {
        Problems::one(path.display().to_string(), format!("cannot {action}: {error}"))
    }

    /// All problems, in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a reader goes on with the rest of its input.
#[derive(Debug, Default)]
pub(crate) struct Collector(Vec<Problem>);

impl Collector {
    pub(crate) fn push(&mut self, origin: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { origin: origin.into(), message: message.into() });
    }

    /// Keeps the value of a part, or its problems.
    pub(crate) fn take<T>(&mut self, part: Result<T>) -> Option<T> {
        match part {
            Ok(value) => Some(value),
            Err(problems) => {
                self.0.extend(problems.0);
                None
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok(value)` if nothing was collected.
    pub(crate) fn finish<T>(self, value: T) -> Result<T> {
        if self.0.is_empty() { Ok(value) } else { Err(Problems(self.0)) }
    }

    /// What was collected, as the error that it is.
    pub(crate) fn into_problems(self) -> Problems {
        debug_assert!(!self.0.is_empty(), "a reader gave up without reporting a problem");
        Problems(self.0)
    }

    /// The collected problems as plain notes, for inputs that are accepted all the same.
    pub(crate) fn into_notes(self) -> Vec<Problem> {
        self.0
    }
}

/// `value` as compact JSON, cut to a length that fits in a message.
pub(crate) fn shown(value: &serde_json::Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
