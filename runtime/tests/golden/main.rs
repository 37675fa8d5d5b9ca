//! Generation against expected results (see `data/README.md`), one named test for each case.

mod sampling;
mod stop;
mod stream;
#[cfg(feature = "text")]
mod text;

use libtest_mimic::{Arguments, Trial};
use std::path::PathBuf;

/// A file of expected results.
fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&data(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Text of a field that must be there.
fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text at {key} in {value}"))
}

/// The bytes that pairs of hexadecimal digits stand for.
fn from_hex(digits: &serde_json::Value) -> Vec<u8> {
    let digits = digits.as_str().expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

/// Says how two values differ, so that a case fails with its data.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), libtest_mimic::Failed> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}").into()) }
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = vec![];
    trials.extend(sampling::trials());
    trials.extend(stop::trials());
    trials.extend(stream::trials());
    #[cfg(feature = "text")]
    trials.extend(text::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
