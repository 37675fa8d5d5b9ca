//! The tokens of PTX text, each with its place (PTX ISA, "Syntax").

use crate::error::ParseError;

/// A token.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Token<'t> {
    /// A name: a keyword, register, label or variable.
    Word(&'t str),
    /// `.name` or `.name::name`, without the point.
    Dot(&'t str),
    /// A number as it is written.
    Number(&'t str),
    /// A text in quotation marks, without them.
    Text(&'t str),
    /// Any other character.
    Punct(char),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// How an error message shows the token.
    pub fn show(&self) -> String {
        match self {
            Token::Word(w) | Token::Number(w) => format!("`{w}`"),
            Token::Dot(w) => format!("`.{w}`"),
            Token::Text(w) => format!("\"{w}\""),
            Token::Punct(c) => format!("`{c}`"),
            Token::End => "the end of the text".to_string(),
        }
    }
}

/// Line, column (both from 1) and byte offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    pub line: u32,
    pub column: u32,
    pub offset: usize,
}

impl Place {
    pub fn error(self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.line, column: self.column, message: message.into() }
    }
}

/// Splits `text`; the last token is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token<'_>, Place)>, ParseError> {
    let mut lexer = Lexer { text, place: Place { line: 1, column: 1, offset: 0 } };
    let mut out = vec![];
    loop {
        lexer.skip()?;
        let place = lexer.place;
        let token = lexer.token()?;
        out.push((token, place));
        if token == Token::End {
            return Ok(out);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    place: Place,
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.place.offset..]
    }

    fn take(&mut self, bytes: usize) -> &'t str {
        let taken = &self.rest()[..bytes];
        for c in taken.chars() {
            self.place.column += 1;
            if c == '\n' {
                self.place.line += 1;
                self.place.column = 1;
            }
        }
        self.place.offset += bytes;
        taken
    }

    /// Skips spaces and comments.
    fn skip(&mut self) -> Result<(), ParseError> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            let length = match rest {
                _ if blank > 0 => blank,
                r if r.starts_with("//") => r.find('\n').unwrap_or(r.len()),
                r if r.starts_with("/*") => {
                    let end = r.find("*/").ok_or_else(|| self.place.error("found `/*`, expected `*/` after it"))?;
                    end + 2
                }
                _ => return Ok(()),
            };
            self.take(length);
        }
    }

    /// Length of the name characters at byte `from` of the rest.
    fn name(&self, from: usize) -> usize {
        let rest = &self.rest()[from..];
        rest.find(|c: char| !in_name(c)).unwrap_or(rest.len())
    }

    fn token(&mut self) -> Result<Token<'t>, ParseError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        match first {
            '%' | '_' | '$' | 'a'..='z' | 'A'..='Z' => {
                let length = 1 + self.name(1);
                Ok(Token::Word(self.take(length)))
            }
            '.' if self.name(1) > 0 => {
                let mut length = 1 + self.name(1);
                while rest[length..].starts_with("::") && self.name(length + 2) > 0 {
                    length += 2 + self.name(length + 2);
                }
                Ok(Token::Dot(&self.take(length)[1..]))
            }
            '0'..='9' => {
                let mut length = self.name(0);
                let fraction = rest[length..].starts_with('.');
                if fraction && rest[length + 1..].starts_with(|c: char| c.is_ascii_digit()) {
                    length += 1 + self.name(length + 1);
                }
                Ok(Token::Number(self.take(length)))
            }
            '"' => {
                let end = rest[1..].find('"').ok_or_else(|| self.place.error("found `\"`, expected another one"))?;
                Ok(Token::Text(&self.take(end + 2)[1..end + 1]))
            }
            other => {
                self.take(other.len_utf8());
                Ok(Token::Punct(other))
            }
        }
    }
}
