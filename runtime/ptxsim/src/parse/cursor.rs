//! A position in the tokens, and the small pieces of the grammar.

use super::Parsed;
use crate::lex::{Place, Token, tokens};
use crate::types::Type;

pub struct Cursor<'t> {
    tokens: Vec<(Token<'t>, Place)>,
    next: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t str) -> Parsed<Self> {
        Ok(Cursor { tokens: tokens(text)?, next: 0 })
    }

    pub fn peek(&self) -> Token<'t> {
        self.tokens[self.next].0
    }

    pub fn peek_second(&self) -> Token<'t> {
        self.tokens.get(self.next + 1).map_or(Token::End, |t| t.0)
    }

    pub fn place(&self) -> Place {
        self.tokens[self.next].1
    }

    /// Goes on to the next token; the end stays.
    pub fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn accept_token(&mut self, token: Token) -> bool {
        let found = self.peek() == token;
        if found {
            self.advance();
        }
        found
    }

    pub fn accept(&mut self, c: char) -> bool {
        self.accept_token(Token::Punct(c))
    }

    pub fn accept_dot(&mut self, name: &str) -> bool {
        self.accept_token(Token::Dot(name))
    }

    fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        Err(self.place().error(format!("found {}, expected {expected}", self.peek().show())))
    }

    pub fn require(&mut self, c: char) -> Parsed<()> {
        if self.accept(c) { Ok(()) } else { self.unexpected(&format!("`{c}`")) }
    }

    pub fn directive(&mut self, name: &str) -> Parsed<()> {
        if self.accept_dot(name) { Ok(()) } else { self.unexpected(&format!("`.{name}`")) }
    }

    pub fn word(&mut self, what: &str) -> Parsed<&'t str> {
        let Token::Word(word) = self.peek() else { return self.unexpected(what) };
        self.advance();
        Ok(word)
    }

    pub fn number_text(&mut self) -> Parsed<&'t str> {
        let Token::Number(number) = self.peek() else { return self.unexpected("a number") };
        self.advance();
        Ok(number)
    }

    pub fn text(&mut self) -> Parsed<&'t str> {
        let Token::Text(text) = self.peek() else { return self.unexpected("a text in quotation marks") };
        self.advance();
        Ok(text)
    }

    /// A plain decimal number.
    pub fn count(&mut self) -> Parsed<u32> {
        let place = self.place();
        let text = self.number_text()?;
        // far above every limit of the hardware, and small enough that no sum of a few overflows
        let number = text.parse().ok().filter(|n| *n <= 1 << 24);
        number.ok_or_else(|| place.error(format!("found `{text}`, expected a number up to {}", 1 << 24)))
    }

    pub fn power_of_two(&mut self) -> Parsed<u32> {
        let place = self.place();
        let count = self.count()?;
        if count.is_power_of_two() {
            Ok(count)
        } else {
            Err(place.error(format!("found {count}, expected a power of two")))
        }
    }

    /// One to three numbers; absent ones are 1.
    pub fn extents(&mut self) -> Parsed<[u32; 3]> {
        let mut out = [self.count()?, 1, 1];
        for extent in &mut out[1..] {
            if !self.accept(',') {
                break;
            }
            *extent = self.count()?;
        }
        Ok(out)
    }

    pub fn ty(&mut self) -> Parsed<Type> {
        let Token::Dot(name) = self.peek() else { return self.unexpected("a type") };
        let Some(ty) = Type::named(name) else { return self.unexpected("a type") };
        self.advance();
        Ok(ty)
    }
}
