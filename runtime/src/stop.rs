//! Stop strings: generation ends at the first character that completes one, however the text was cut into tokens.

use crate::error::{Error, Result};
use crate::utf8::Utf8Stream;

/// Turns bytes of tokens into text that may be shown, and watches for stop strings.
///
/// Text that could still become a stop string is held back; what was given out is never taken back. The stop string
/// itself is not given out.
#[derive(Clone, Debug)]
pub struct TextStream {
    stops: Vec<String>,
    utf8: Utf8Stream,
    held: String,
    stopped: Option<usize>,
}

impl TextStream {
    /// A stream with these stop strings, which may be none.
    ///
    /// # Errors
    /// If a stop string is empty.
    pub fn new(stops: Vec<String>) -> Result<Self> {
        if let Some(i) = stops.iter().position(String::is_empty) {
            return Err(Error::request(format!("stop string {i} is empty")));
        }
        Ok(Self { stops, utf8: Utf8Stream::default(), held: String::new(), stopped: None })
    }

    /// Appends the bytes of a token and adds to `out` what may be shown. Gives the index of the stop string that has
    /// been completed, if one has; nothing is added after that.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) -> Option<usize> {
        let mut text = String::new();
        self.utf8.push(bytes, &mut text);
        self.look(&text, out)
    }

    /// Ends the stream: everything held back is added to `out`, unless it completes a stop string.
    pub fn finish(&mut self, out: &mut String) -> Option<usize> {
        let mut text = String::new();
        self.utf8.finish(&mut text);
        self.look(&text, out);
        out.push_str(&std::mem::take(&mut self.held));
        self.stopped
    }

    fn look(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.stopped.is_some() {
            return self.stopped;
        }
        for c in text.chars() {
            self.held.push(c);
            // Of several that end here, the longest, which starts first.
            let complete = (0..self.stops.len()).filter(|&i| self.held.ends_with(&self.stops[i]));
            if let Some(i) = complete.max_by_key(|&i| (self.stops[i].len(), std::cmp::Reverse(i))) {
                self.held.truncate(self.held.len() - self.stops[i].len());
                out.push_str(&std::mem::take(&mut self.held));
                self.stopped = Some(i);
                return self.stopped;
            }
        }
        let certain = self.certain();
        out.extend(self.held.drain(..certain));
        None
    }

    /// Length of the held text before the longest suffix with which a stop string begins.
    fn certain(&self) -> usize {
        let begins = |suffix: &str| self.stops.iter().any(|s| s.len() > suffix.len() && s.starts_with(suffix));
        let mut starts = self.held.char_indices().map(|(i, _)| i);
        starts.find(|&i| begins(&self.held[i..])).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = TextStream::new(vec!["a".into(), String::new()]).unwrap_err();
        assert_eq!(error.to_string(), "stop string 1 is empty");
    }
}
