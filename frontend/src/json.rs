//! Typed access to the fields of a JSON object that reports every unfit field by name and goes on.

use crate::problem::{Collector, Problems, Result, shown};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::Path;

/// Parses a text that has to be one JSON object.
///
/// # Errors
/// Text that is not JSON (with line and column), or JSON that is not an object.
pub(crate) fn object(text: &[u8], origin: &str) -> Result<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Problems::one(origin, format!("found {}, expected a JSON object", shown(&other)))),
        Err(error) => Err(Problems::one(origin, format!("not valid JSON: {error}"))),
    }
}

/// Reads a whole (small) file.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Problems::io(path, "read", &e))
}

/// The fields of one JSON object. Getters return `None` after reporting, so that a reader can list all problems.
/// A field that is null counts as absent, as in the official configuration class.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    origin: String,
    /// The path of the object within the file, with a dot at its end; empty for the whole.
    prefix: String,
    seen: HashSet<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, origin: impl Into<String>) -> Fields<'a> {
        Fields { map, origin: origin.into(), prefix: String::new(), seen: HashSet::new() }
    }

    /// The fields of an object that is a field of this one.
    pub(crate) fn nested(&self, name: &str, map: &'a Map<String, Value>) -> Fields<'a> {
        let prefix = format!("{}{name}.", self.prefix);
        Fields { map, origin: self.origin.clone(), prefix, seen: HashSet::new() }
    }

    /// `FILE: FIELD`, the origin of a problem with one field.
    pub(crate) fn origin(&self, name: &str) -> String {
        format!("{}: {}{name}", self.origin, self.prefix)
    }

    /// The field's value if it is there and not null.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.seen.insert(name);
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// The field's value; its absence is a problem.
    pub(crate) fn required(&mut self, name: &'static str, expected: &str, out: &mut Collector) -> Option<&'a Value> {
        let value = self.value(name);
        if value.is_none() {
            out.push(self.origin(name), format!("missing, expected {expected}"));
        }
        value
    }

    /// A required integer in `range`.
    pub(crate) fn size(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
        out: &mut Collector,
    ) -> Option<usize> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let value = self.required(name, &expected, out)?;
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        if size.is_none() {
            self.unfit(name, value, &expected, out);
        }
        size
    }

    /// An optional integer in `range`.
    pub(crate) fn optional_size(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
        out: &mut Collector,
    ) -> Option<usize> {
        self.value(name)?;
        self.size(name, range, out)
    }

    /// A required positive, finite number; `text` allows it to be written as a string, as `norm_eps` is.
    pub(crate) fn positive(&mut self, name: &'static str, text: bool, out: &mut Collector) -> Option<f64> {
        let expected = "a positive number";
        let value = self.required(name, expected, out)?;
        let number = match value {
            Value::String(s) if text => s.trim().parse().ok(),
            other => other.as_f64(),
        };
        // The model computes in f32: what vanishes or overflows there is as unfit as a zero or an infinity.
        let number = number.filter(|&x: &f64| (x as f32) > 0.0 && (x as f32).is_finite());
        if number.is_none() {
            self.unfit(name, value, expected, out);
        }
        number
    }

    /// A required boolean.
    pub(crate) fn boolean(&mut self, name: &'static str, out: &mut Collector) -> Option<bool> {
        let expected = "true or false";
        let value = self.required(name, expected, out)?;
        if value.as_bool().is_none() {
            self.unfit(name, value, expected, out);
        }
        value.as_bool()
    }

    /// An object, or nothing if it is absent.
    pub(crate) fn optional_object(
        &mut self,
        name: &'static str,
        out: &mut Collector,
    ) -> Option<&'a Map<String, Value>> {
        let value = self.value(name)?;
        if value.as_object().is_none() {
            self.unfit(name, value, "an object", out);
        }
        value.as_object()
    }

    /// Reports `found VALUE, expected EXPECTED` for one field.
    pub(crate) fn unfit(&self, name: &str, value: &Value, expected: &str, out: &mut Collector) {
        out.push(self.origin(name), format!("found {}, expected {expected}", shown(value)));
    }

    /// The names of the fields that no getter has asked for, in the file's order.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &'a str> {
        let seen = self.seen.clone();
        self.map.keys().map(String::as_str).filter(move |name| !seen.contains(name))
    }
}
