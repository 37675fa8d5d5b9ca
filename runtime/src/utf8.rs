//! From bytes of tokens to text, as soon as the text is certain.

/// Turns a stream of bytes into text. A character may be spread over tokens: only an incomplete but still completable
/// tail, up to three bytes, is held back. Every maximal invalid part becomes one U+FFFD, so that the whole text equals
/// `String::from_utf8_lossy` of all bytes.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    tail: Vec<u8>,
}

impl Utf8Stream {
    /// Appends bytes and adds to `out` what has become certain.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.tail.extend_from_slice(bytes);
        let mut start = 0;
        loop {
            let rest = &self.tail[start..];
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    self.tail.clear();
                    return;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            out.push_str(&String::from_utf8_lossy(valid));
            start += valid.len();
            match error.error_len() {
                Some(n) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    start += n.min(invalid.len());
                }
                None => {
                    self.tail.drain(..start);
                    return;
                }
            }
        }
    }

    /// Ends the stream: an incomplete tail becomes one U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.tail.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.tail.clear();
        }
    }
}
