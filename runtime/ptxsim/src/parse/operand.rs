//! Operands as they are written, and literals (PTX ISA, "Constants", "Operands").

use super::{Parsed, cursor::Cursor};
use crate::lex::{Place, Token};

/// An operand with its place.
#[derive(Clone, Debug)]
pub struct Operand<'t> {
    pub form: Form<'t>,
    pub place: Place,
}

/// How an operand is written.
#[derive(Clone, Debug)]
pub enum Form<'t> {
    /// `name` or `%tid.x`.
    Name(&'t str, Option<&'t str>),
    /// `!p`.
    Not(&'t str),
    /// `d|p`; `_` is a name here.
    Pair(&'t str, &'t str),
    Number(Literal),
    /// `{a, b}`.
    List(Vec<Operand<'t>>),
    /// `[base + offset]`.
    Address {
        base: Option<&'t str>,
        offset: i64,
    },
}

/// A number.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Literal {
    Int(i128),
    /// `0f` with eight hexadecimal digits.
    Single(u32),
    /// A decimal fraction or `0d`.
    Double(f64),
}

impl Form<'_> {
    /// How an error message shows the operand.
    pub fn show(&self) -> String {
        match self {
            Form::Name(name, None) => format!("`{name}`"),
            Form::Name(name, Some(axis)) => format!("`{name}.{axis}`"),
            Form::Not(name) => format!("`!{name}`"),
            Form::Pair(a, b) => format!("`{a}|{b}`"),
            Form::Number(n) => format!("the number {n:?}"),
            Form::List(list) => format!("a list of {}", list.len()),
            Form::Address { .. } => "an address".to_string(),
        }
    }
}

/// Reads one operand.
pub fn operand<'t>(c: &mut Cursor<'t>) -> Parsed<Operand<'t>> {
    let place = c.place();
    if c.accept('{') {
        let mut list = vec![];
        loop {
            list.push(single(c)?);
            if c.accept('}') {
                return Ok(Operand { form: Form::List(list), place });
            }
            c.require(',')?;
        }
    }
    if c.accept('[') {
        let form = address(c)?;
        c.require(']')?;
        return Ok(Operand { form, place });
    }
    single(c)
}

/// Anything but a list and an address.
fn single<'t>(c: &mut Cursor<'t>) -> Parsed<Operand<'t>> {
    let place = c.place();
    let form = if c.accept('!') {
        Form::Not(c.word("a predicate")?)
    } else if let Token::Word(name) = c.peek() {
        c.advance();
        if c.accept('|') {
            Form::Pair(name, c.word("a register")?)
        } else if let Token::Dot(axis) = c.peek() {
            c.advance();
            Form::Name(name, Some(axis))
        } else {
            Form::Name(name, None)
        }
    } else {
        Form::Number(number(c)?)
    };
    Ok(Operand { form, place })
}

fn address<'t>(c: &mut Cursor<'t>) -> Parsed<Form<'t>> {
    let base = match c.peek() {
        Token::Word(name) => {
            c.advance();
            Some(name)
        }
        _ => None,
    };
    let place = c.place();
    let offset = match (base, c.peek()) {
        (Some(_), Token::Punct(']')) => Literal::Int(0),
        (Some(_), Token::Punct('-')) | (None, _) => number(c)?,
        _ => {
            c.require('+')?;
            number(c)?
        }
    };
    match offset {
        Literal::Int(offset) if i64::try_from(offset).is_ok() => Ok(Form::Address { base, offset: offset as i64 }),
        _ => Err(place.error("found a number that is no 64-bit integer, expected an offset")),
    }
}

/// A number with its sign.
fn number(c: &mut Cursor) -> Parsed<Literal> {
    let negative = c.accept('-');
    let place = c.place();
    let Token::Number(text) = c.peek() else {
        return Err(place.error(format!("found {}, expected an operand", c.peek().show())));
    };
    c.advance();
    let literal = literal(text).ok_or_else(|| place.error(format!("found `{text}`, expected a number")))?;
    Ok(match literal {
        Literal::Int(i) if negative => Literal::Int(-i),
        Literal::Single(bits) if negative => Literal::Single(bits ^ 1 << 31),
        Literal::Double(x) if negative => Literal::Double(-x),
        other => other,
    })
}

fn literal(text: &str) -> Option<Literal> {
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().map(|n| Literal::Int(n.into()));
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        return (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok().map(Literal::Single))?;
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return (digits.len() == 16)
            .then(|| u64::from_str_radix(digits, 16).ok().map(|b| Literal::Double(f64::from_bits(b))))?;
    }
    if lower.contains('.') {
        return lower.parse().ok().map(Literal::Double);
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    if let Some(digits) = digits.strip_prefix("0x") {
        radix(digits, 16)
    } else if let Some(digits) = digits.strip_prefix("0b") {
        radix(digits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        radix(digits, 8)
    } else {
        radix(digits, 10)
    }
}
