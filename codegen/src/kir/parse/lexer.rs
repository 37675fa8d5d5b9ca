//! The tokens of the text form, each with its place. `//` starts a comment.

use super::{ParseError, Place, error};

/// A token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token<'t> {
    /// `%name`, without the sign.
    Value(&'t str),
    /// A name or keyword: letters, digits, `_` and `.`.
    Word(&'t str),
    /// A decimal or hexadecimal number.
    Number(i64),
    /// One of `(){},:=`.
    Punct(char),
}

/// All tokens of a text, and the position of the next.
pub struct Lexer<'t> {
    tokens: Vec<(Token<'t>, Place)>,
    next: usize,
    end: Place,
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str) -> Result<Self, ParseError> {
        let mut tokens = vec![];
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let mut at = 0;
            while let Some(skip) = code[at..].find(|c: char| !c.is_whitespace()) {
                at += skip;
                let place = Place { line: n + 1, column: at + 1 };
                let (token, length) = token(&code[at..], place)?;
                tokens.push((token, place));
                at += length;
            }
        }
        let end = Place { line: text.lines().count() + 1, column: 1 };
        Ok(Lexer { tokens, next: 0, end })
    }

    pub fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.next).map(|(t, _)| *t)
    }

    /// Where the next token is.
    pub fn place(&self) -> Place {
        self.tokens.get(self.next).map_or(self.end, |(_, p)| *p)
    }

    /// Takes the next token if it is `token`.
    pub fn accept(&mut self, token: Token) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    fn unexpected(&self, expected: &str) -> ParseError {
        let found = match self.peek() {
            Some(Token::Value(v)) => format!("%{v}"),
            Some(Token::Word(w)) => w.to_string(),
            Some(Token::Number(n)) => n.to_string(),
            Some(Token::Punct(c)) => c.to_string(),
            None => "the end".to_string(),
        };
        error(self.place(), format!("found {found}, expected {expected}"))
    }

    pub fn expect(&mut self, token: Token) -> Result<(), ParseError> {
        let expected = match token {
            Token::Punct(c) => c.to_string(),
            Token::Word(w) => w.to_string(),
            other => format!("{other:?}"),
        };
        if self.accept(token) { Ok(()) } else { Err(self.unexpected(&expected)) }
    }

    pub fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        self.expect(Token::Word(word))
    }

    pub fn word(&mut self) -> Result<&'t str, ParseError> {
        let Some(Token::Word(w)) = self.peek() else { return Err(self.unexpected("a name")) };
        self.next += 1;
        Ok(w)
    }

    pub fn value(&mut self) -> Result<&'t str, ParseError> {
        let Some(Token::Value(v)) = self.peek() else { return Err(self.unexpected("a value")) };
        self.next += 1;
        Ok(v)
    }

    pub fn number(&mut self) -> Result<i64, ParseError> {
        let Some(Token::Number(n)) = self.peek() else { return Err(self.unexpected("a number")) };
        self.next += 1;
        Ok(n)
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), ParseError> {
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end")) }
    }
}

/// The first token of `text`, which does not start with a space, and its length.
fn token(text: &str, place: Place) -> Result<(Token<'_>, usize), ParseError> {
    let first = text.chars().next().unwrap_or_default();
    let word = |from: usize| {
        let end = text[from..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
        end.map_or(text.len(), |e| from + e)
    };
    match first {
        '(' | ')' | '{' | '}' | ',' | ':' | '=' => Ok((Token::Punct(first), 1)),
        '%' if word(1) > 1 => Ok((Token::Value(&text[1..word(1)]), word(1))),
        '-' | '0'..='9' => {
            let end = word(1);
            let digits = &text[..end];
            let number = match digits.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok().map(|bits| bits as i64),
                None => digits.parse().ok(),
            };
            let number = number.ok_or_else(|| error(place, format!("found {digits}, expected a number")))?;
            Ok((Token::Number(number), end))
        }
        'a'..='z' | 'A'..='Z' | '_' => Ok((Token::Word(&text[..word(0)]), word(0))),
        other => Err(error(place, format!("found {other:?}"))),
    }
}
