//! Reads the text form of a kernel. Values may have any names; types are taken as written, and the verifier judges them.

mod lexer;

use super::{Block, Elem, Inst, Items, Kernel, Launch, Op, Param, Space, Type, Value};
use lexer::{Lexer, Token};
use std::collections::HashMap;

/// A place in a text: line and column, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in bytes.
    pub column: usize,
}

/// What is wrong with a text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}:{}: {message}", .place.line, .place.column)]
pub struct ParseError {
    /// Where.
    pub place: Place,
    /// What was found and what was expected.
    pub message: String,
}

/// Reads one kernel, and says where each of its instructions is (see [`super::Fault::inst`]).
///
/// # Errors
/// At the first place where the text is malformed.
pub fn parse(text: &str) -> Result<(Kernel, Vec<Place>), ParseError> {
    let kernel = Kernel {
        name: String::new(),
        doc: String::new(),
        params: vec![],
        types: vec![],
        body: Block::default(),
        items: Items { fixed: 0, per_row: false },
        launch: None,
        cluster: 1,
    };
    let mut p = Parser { lexer: Lexer::new(text)?, kernel, names: HashMap::new(), places: vec![], depth: 0 };
    p.kernel()?;
    p.lexer.end()?;
    Ok((p.kernel, p.places))
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    kernel: Kernel,
    names: HashMap<&'t str, Value>,
    places: Vec<Place>,
    depth: usize,
}

/// Deeper texts are refused, because blocks are read by recursion.
const MAX_DEPTH: usize = 64;

impl<'t> Parser<'t> {
    /// `kernel name(%0 x: type, ...) items 8 per_row threads 256 ctas 2 rows 1 cluster 4 { ... }`
    fn kernel(&mut self) -> Result<(), ParseError> {
        self.lexer.keyword("kernel")?;
        self.kernel.name = self.lexer.word()?.to_string();
        self.lexer.expect(Token::Punct('('))?;
        while !self.lexer.accept(Token::Punct(')')) {
            let name = self.lexer.value()?;
            let label = self.lexer.word()?.to_string();
            let value = self.declare(name)?;
            self.kernel.params.push(Param { name: label, value });
            self.comma_before(')')?;
        }
        self.lexer.keyword("items")?;
        let fixed = self.count("items")?;
        self.kernel.items = Items { fixed, per_row: self.lexer.accept(Token::Word("per_row")) };
        if self.lexer.accept(Token::Word("threads")) {
            let threads = self.count("threads")?;
            self.lexer.keyword("ctas")?;
            let ctas = self.count("ctas")?;
            self.lexer.keyword("rows")?;
            self.kernel.launch = Some(Launch { threads, ctas, rows: self.count("rows")? });
            if self.lexer.accept(Token::Word("cluster")) {
                self.kernel.cluster = self.count("cluster")?;
            }
        }
        self.kernel.body = self.block(vec![])?;
        Ok(())
    }

    fn count(&mut self, what: &str) -> Result<u32, ParseError> {
        let place = self.lexer.place();
        let n = self.lexer.number()?;
        u32::try_from(n).map_err(|_| error(place, format!("found {n} {what}")))
    }

    fn comma_before(&mut self, end: char) -> Result<(), ParseError> {
        if self.lexer.peek() == Some(Token::Punct(end)) { Ok(()) } else { self.lexer.expect(Token::Punct(',')) }
    }

    /// `: type` after the name of a value that is defined here.
    fn declare(&mut self, name: &'t str) -> Result<Value, ParseError> {
        self.lexer.expect(Token::Punct(':'))?;
        let place = self.lexer.place();
        let ty = self.lexer.word()?;
        self.define(name, place, ty)
    }

    fn define(&mut self, name: &'t str, place: Place, text: &str) -> Result<Value, ParseError> {
        let ty = parse_type(text).ok_or_else(|| error(place, format!("found {text}, expected a type")))?;
        match self.names.get(name) {
            // a second definition: the verifier reports it
            Some(v) if self.kernel.ty(*v) == ty => Ok(*v),
            Some(v) => Err(error(place, format!("found {ty} for %{name}, which is {} above", self.kernel.ty(*v)))),
            None => {
                let v = self.kernel.fresh(ty);
                self.names.insert(name, v);
                Ok(v)
            }
        }
    }

    /// `{ instructions... yield values }`
    fn block(&mut self, params: Vec<Value>) -> Result<Block, ParseError> {
        let place = self.lexer.place();
        self.lexer.expect(Token::Punct('{'))?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(error(place, format!("found more than {MAX_DEPTH} nested blocks")));
        }
        let mut block = Block { params, ..Block::default() };
        while !self.lexer.accept(Token::Punct('}')) {
            let line = self.lexer.place().line;
            if self.lexer.accept(Token::Word("yield")) {
                block.yields = self.operands(line)?;
                self.lexer.expect(Token::Punct('}'))?;
                break;
            }
            block.insts.push(self.inst()?);
        }
        self.depth -= 1;
        Ok(block)
    }

    /// `%a: type, %b: type = op attributes %c, %d blocks`
    fn inst(&mut self) -> Result<Inst, ParseError> {
        self.places.push(self.lexer.place());
        let mut defined = vec![];
        while let Some(Token::Value(name)) = self.lexer.peek() {
            self.lexer.value()?;
            self.lexer.expect(Token::Punct(':'))?;
            let place = self.lexer.place();
            defined.push((name, place, self.lexer.word()?));
            if self.lexer.accept(Token::Punct('=')) {
                break;
            }
            self.lexer.expect(Token::Punct(','))?;
        }
        let line = self.lexer.place().line;
        let (op, args) = (self.op()?, self.operands(line)?);
        let blocks = self.blocks()?;
        // after the operands and blocks, which cannot see them
        let results = defined.into_iter().map(|(name, place, ty)| self.define(name, place, ty));
        let results = results.collect::<Result<_, _>>()?;
        Ok(Inst { op, args, results, blocks })
    }

    /// An operation and its numbers.
    fn op(&mut self) -> Result<Op, ParseError> {
        let place = self.lexer.place();
        let name = self.lexer.word()?;
        let op = Op::named(name).ok_or_else(|| error(place, format!("found {name}, expected an operation")))?;
        let mut numbers = vec![];
        for (word, _) in op.attributes() {
            if !word.is_empty() {
                self.lexer.keyword(word)?;
            }
            numbers.push(self.lexer.number()?);
        }
        op.with_attributes(&numbers).ok_or_else(|| error(place, format!("{name}: a number is out of range")))
    }

    /// The values on this line: one on the next line starts an instruction.
    fn operands(&mut self, line: usize) -> Result<Vec<Value>, ParseError> {
        let mut args = vec![];
        while let Some(Token::Value(name)) = self.lexer.peek().filter(|_| self.lexer.place().line == line) {
            let place = self.lexer.place();
            self.lexer.value()?;
            args.push(*self.names.get(name).ok_or_else(|| error(place, format!("%{name} is not defined above")))?);
            if !self.lexer.accept(Token::Punct(',')) {
                break;
            }
        }
        Ok(args)
    }

    /// `(%i: index, ...) { ... } else { ... }`
    fn blocks(&mut self) -> Result<Vec<Block>, ParseError> {
        let mut blocks = vec![];
        loop {
            let mut params = vec![];
            if self.lexer.accept(Token::Punct('(')) {
                while !self.lexer.accept(Token::Punct(')')) {
                    let name = self.lexer.value()?;
                    params.push(self.declare(name)?);
                    self.comma_before(')')?;
                }
            } else if self.lexer.peek() != Some(Token::Punct('{')) {
                return Ok(blocks);
            }
            blocks.push(self.block(params)?);
            if !self.lexer.accept(Token::Word("else")) {
                return Ok(blocks);
            }
        }
    }
}

fn error(place: Place, message: String) -> ParseError {
    ParseError { place, message }
}

fn parse_type(text: &str) -> Option<Type> {
    match text {
        "ptr.global" => return Some(Type::Ptr(Space::Global)),
        "ptr.scratch" => return Some(Type::Ptr(Space::Scratch)),
        "ptr.cluster" => return Some(Type::Ptr(Space::Cluster)),
        _ => {}
    }
    let (elem, name) = Elem::NAMES.iter().find(|(_, name)| text.starts_with(name))?;
    let rest = &text[name.len()..];
    let lanes = if rest.is_empty() { 1 } else { rest.strip_prefix('x')?.parse().ok()? };
    Some(Type::Vec(*elem, lanes))
}
