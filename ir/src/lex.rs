//! Tokens of the text form.

use crate::diagnostic::{Diagnostic, Position};
use std::iter::Peekable;
use std::str::CharIndices;

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'t> {
    /// A keyword, the name of an op or attribute, or a number.
    Word(&'t str),
    /// `%name`, the percent sign included.
    Value(&'t str),
    /// A name in quotes, its escapes resolved.
    Text(String),
    /// One of `: = , ; { } [ ]`.
    Mark(char),
    /// Something that is no token, reported already.
    Bad,
    /// The end of the text.
    End,
}

impl Kind<'_> {
    /// As it is called in messages.
    pub fn describe(&self) -> String {
        match self {
            Kind::Word(text) | Kind::Value(text) => format!("`{text}`"),
            Kind::Text(_) => "a name in quotes".into(),
            Kind::Mark(mark) => format!("`{mark}`"),
            Kind::Bad => "what is no token".into(),
            Kind::End => "the end of the file".into(),
        }
    }
}

/// A token and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token<'t> {
    pub kind: Kind<'t>,
    pub position: Position,
    /// Whether it is the first of its line; reading resumes there after an error.
    pub starts_line: bool,
}

/// Takes a text apart; the last token is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> (Vec<Token<'_>>, Vec<Diagnostic>) {
    let mut lexer = Lexer {
        text,
        chars: text.char_indices().peekable(),
        position: Position { line: 1, column: 1 },
        tokens: vec![],
        problems: vec![],
    };
    while let Some(&(at, c)) = lexer.chars.peek() {
        lexer.token(at, c);
    }
    lexer.push(Kind::End, lexer.position);
    (lexer.tokens, lexer.problems)
}

struct Lexer<'t> {
    text: &'t str,
    chars: Peekable<CharIndices<'t>>,
    position: Position,
    tokens: Vec<Token<'t>>,
    problems: Vec<Diagnostic>,
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.+-".contains(c)
}

impl<'t> Lexer<'t> {
    fn next(&mut self) -> Option<char> {
        let (_, c) = self.chars.next()?;
        if c == '\n' {
            self.position = Position { line: self.position.line + 1, column: 1 };
        } else {
            self.position.column += 1;
        }
        Some(c)
    }

    fn next_in_line(&mut self) -> Option<char> {
        self.chars.peek().filter(|(_, c)| *c != '\n')?;
        self.next()
    }

    fn push(&mut self, kind: Kind<'t>, position: Position) {
        let starts_line = self.tokens.last().is_none_or(|last| last.position.line < position.line);
        self.tokens.push(Token { kind, position, starts_line });
    }

    fn bad(&mut self, position: Position, message: String) {
        self.problems.push(Diagnostic { position, message });
        self.push(Kind::Bad, position);
    }

    /// Everything from byte `start` as long as the characters are such.
    fn rest(&mut self, start: usize, such: impl Fn(char) -> bool) -> &'t str {
        while self.chars.peek().is_some_and(|(_, c)| such(*c)) {
            self.next();
        }
        let end = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        &self.text[start..end]
    }

    /// Reads what begins with the character `c` at byte `at`.
    fn token(&mut self, at: usize, c: char) {
        let position = self.position;
        self.next();
        match c {
            c if c.is_whitespace() => {}
            '/' if self.chars.peek().is_some_and(|(_, c)| *c == '/') => {
                self.rest(at, |c| c != '\n');
            }
            ':' | '=' | ',' | ';' | '{' | '}' | '[' | ']' => self.push(Kind::Mark(c), position),
            '%' => {
                let name = self.rest(at, in_word);
                if name == "%" {
                    self.bad(position, "expected a name after `%`".into());
                } else {
                    self.push(Kind::Value(name), position);
                }
            }
            '"' => match self.quoted() {
                Ok(name) => self.push(Kind::Text(name), position),
                Err(message) => self.bad(position, message.into()),
            },
            c if in_word(c) => {
                let word = self.rest(at, in_word);
                self.push(Kind::Word(word), position);
            }
            c => self.bad(position, format!("found {c:?}, which begins nothing")),
        }
    }

    /// The rest of a name in quotes. After an error the rest of its line is skipped.
    fn quoted(&mut self) -> Result<String, &'static str> {
        let mut name = String::new();
        loop {
            match self.chars.peek().map(|(_, c)| *c) {
                None | Some('\n') => return Err("expected a closing quote before the end of the line"),
                Some('"') => {
                    self.next();
                    return Ok(name);
                }
                Some('\\') => match self.escape() {
                    Some(c) => name.push(c),
                    None => {
                        self.rest(0, |c| c != '\n');
                        return Err("expected only the escapes \\\", \\\\ and \\u{..} of a character in this name");
                    }
                },
                Some(c) => {
                    self.next();
                    name.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        self.next();
        match self.next_in_line()? {
            c @ ('"' | '\\') => Some(c),
            'u' => {
                (self.next_in_line()? == '{').then_some(())?;
                let start = self.chars.peek()?.0;
                let digits = self.rest(start, |c| c.is_ascii_hexdigit());
                (self.next_in_line()? == '}').then_some(())?;
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)
            }
            _ => None,
        }
    }
}
