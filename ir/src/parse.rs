//! Reads the text form back. Several errors are reported at once: reading resumes at the next line after each.

use crate::diagnostic::{Diagnostic, Diagnostics, Position};
use crate::graph::{Graph, Id, Leaf, Node, NodeKind, OutputKind};
use crate::lex::{Kind, Token, tokens};
use crate::ops::{Op, OpInfo};
use crate::text::{AS, GRAPH};
use crate::types::{Elem, GridKind, Place, Rows, Type};
use crate::verify::{Site, verify_with_names};
use std::collections::HashMap;

/// A graph that was read, and where everything stood.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The graph, not verified.
    pub graph: Graph,
    file: String,
    nodes: Vec<NodePositions>,
    outputs: Vec<Position>,
}

#[derive(Clone, Debug)]
struct NodePositions {
    /// The name that the node has in the file.
    name: String,
    ty: Position,
    op: Position,
    operands: Vec<Position>,
}

/// Reads the text of a graph; `file` names it in errors. The graph has one node for each definition, in their order.
///
/// # Errors
/// Everything that is not written as [`crate::text`] says, a value that is used before its definition or defined twice. Types are not
/// compared with what the ops make of their operands: that is [`Parsed::verify`]'s work.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Diagnostics> {
    let (tokens, problems) = tokens(text);
    let mut parser = Parser {
        tokens,
        at: 0,
        problems,
        values: HashMap::new(),
        parsed: Parsed { graph: Graph::default(), file: file.into(), nodes: vec![], outputs: vec![] },
    };
    match parser.file() {
        Ok(()) if parser.problems.is_empty() => Ok(parser.parsed),
        Ok(()) | Err(Failed) => Err(diagnostics(file, parser.problems)),
    }
}

/// Reads and verifies the text of a graph.
///
/// # Errors
/// As for [`parse()`] and [`Parsed::verify`].
pub fn read(file: &str, text: &str) -> Result<Graph, Diagnostics> {
    let parsed = parse(file, text)?;
    parsed.verify()?;
    Ok(parsed.graph)
}

/// Reads and verifies a graph from bytes that may be anything.
///
/// # Errors
/// As for [`read()`], or the bytes are no UTF-8.
pub fn read_bytes(file: &str, bytes: &[u8]) -> Result<Graph, Diagnostics> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let message = "found bytes that are no UTF-8 text".to_string();
        diagnostics(file, vec![Diagnostic { position: Position { line, column }, message }])
    })?;
    read(file, text)
}

fn diagnostics(file: &str, mut list: Vec<Diagnostic>) -> Diagnostics {
    list.sort_by_key(|diagnostic| diagnostic.position);
    Diagnostics { file: file.into(), list }
}

impl Parsed {
    /// Checks the graph as [`crate::verify()`] does.
    ///
    /// # Errors
    /// What is wrong, with its place in the file.
    pub fn verify(&self) -> Result<(), Diagnostics> {
        let name = |id: Id| self.nodes.get(id.index()).map_or_else(|| id.to_string(), |node| node.name.clone());
        verify_with_names(&self.graph, &name).map_err(|error| {
            let located = error.issues.into_iter().map(|issue| {
                let position = self.position(issue.site);
                Diagnostic { position, message: issue.message }
            });
            diagnostics(&self.file, located.collect())
        })
    }

    fn position(&self, site: Site) -> Position {
        match site {
            Site::Type(id) => self.nodes[id.index()].ty,
            Site::Op(id) => self.nodes[id.index()].op,
            Site::Operand(id, i) => self.nodes[id.index()].operands[i],
            Site::Output(i) => self.outputs[i],
        }
    }
}

/// Reading cannot go on here; the reason has been reported.
struct Failed;

type Read<T> = Result<T, Failed>;

struct Parser<'t> {
    /// Ends with [`Kind::End`].
    tokens: Vec<Token<'t>>,
    at: usize,
    problems: Vec<Diagnostic>,
    /// Every definition so far with its line; `None` where it could not be read.
    values: HashMap<&'t str, (usize, Option<Id>)>,
    parsed: Parsed,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &Token<'t> {
        &self.tokens[self.at]
    }

    fn position(&self) -> Position {
        self.peek().position
    }

    fn step(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn report(&mut self, position: Position, message: String) -> Failed {
        self.problems.push(Diagnostic { position, message });
        Failed
    }

    /// Reports that something else was expected at the current token.
    fn expected(&mut self, what: &str) -> Failed {
        let token = self.peek();
        if token.kind == Kind::Bad {
            return Failed;
        }
        let message = format!("expected {what}, found {}", token.kind.describe());
        self.report(token.position, message)
    }

    /// Takes the current token if `pick` makes something of it.
    fn take<T>(&mut self, what: &str, pick: impl FnOnce(&Kind<'t>) -> Option<T>) -> Read<T> {
        match pick(&self.peek().kind) {
            Some(taken) => {
                self.step();
                Ok(taken)
            }
            None => Err(self.expected(what)),
        }
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek().kind == Kind::Mark(mark)
    }

    fn mark(&mut self, mark: char) -> Read<()> {
        self.take(&format!("`{mark}`"), |kind| (*kind == Kind::Mark(mark)).then_some(()))
    }

    fn word(&mut self, what: &str) -> Read<&'t str> {
        self.take(what, |kind| if let Kind::Word(word) = kind { Some(*word) } else { None })
    }

    fn keyword(&mut self, keyword: &str) -> Read<()> {
        self.take(&format!("`{keyword}`"), |kind| (*kind == Kind::Word(keyword)).then_some(()))
    }

    /// One of a table's rows, by its name.
    fn one_of<T: Copy>(&mut self, what: &str, table: &[T], name: impl Fn(T) -> &'static str) -> Read<T> {
        let names: Vec<_> = table.iter().map(|row| name(*row)).collect();
        let what = format!("{what} ({})", names.join(", "));
        self.take(&what, |kind| table.iter().copied().find(|row| *kind == Kind::Word(name(*row))))
    }

    fn name(&mut self) -> Read<String> {
        self.take("a name in quotes", |kind| if let Kind::Text(name) = kind { Some(name.clone()) } else { None })
    }

    fn number(&mut self, what: &str) -> Read<usize> {
        self.take(what, |kind| if let Kind::Word(word) = kind { word.parse().ok() } else { None })
    }

    /// `graph "name" { statements }`
    fn file(&mut self) -> Read<()> {
        self.keyword(GRAPH)?;
        self.parsed.graph.name = self.name()?;
        self.mark('{')?;
        while !self.is_mark('}') {
            if self.peek().kind == Kind::End {
                return Err(self.expected("`}`"));
            }
            let start = self.at;
            if self.statement().is_err() {
                self.resume(start);
            }
        }
        self.step();
        self.take("the end of the file", |kind| (*kind == Kind::End).then_some(()))
    }

    /// Goes to the next token that starts a line, past the statement that began at `start`.
    fn resume(&mut self, start: usize) {
        if self.at == start {
            self.step();
        }
        while !self.peek().starts_line && self.peek().kind != Kind::End {
            self.step();
        }
    }

    fn statement(&mut self) -> Read<()> {
        let position = self.position();
        match self.peek().kind {
            Kind::Value(name) => {
                self.step();
                self.define(name, position)
            }
            Kind::Word(word) if OutputKind::ALL.iter().any(|kind| kind.name() == word) => self.output(),
            _ => {
                let outputs = OutputKind::ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
                Err(self.expected(&format!("a definition such as `%0`, {outputs} or `}}`")))
            }
        }
    }

    /// `return %3 as "logits"`
    fn output(&mut self) -> Read<()> {
        let position = self.position();
        let kind = self.one_of("an output", &OutputKind::ALL, OutputKind::name)?;
        let value = self.value()?;
        self.keyword(AS)?;
        let name = self.name()?;
        if let Some(value) = value {
            self.parsed.graph.output(kind, name, value);
            self.parsed.outputs.push(position);
        }
        Ok(())
    }

    /// Whether a definition begins here.
    fn at_definition(&self) -> bool {
        let next = self.tokens.get(self.at + 1).map(|token| &token.kind);
        matches!(self.peek().kind, Kind::Value(_)) && next == Some(&Kind::Mark(':'))
    }

    /// A value that is defined above, or `None` if its definition could not be read.
    fn value(&mut self) -> Read<Option<Id>> {
        let position = self.position();
        if self.at_definition() {
            let message = format!("expected a value, found the definition of {}", self.peek().kind.describe());
            return Err(self.report(position, message));
        }
        let name =
            self.take("a value such as `%0`", |kind| if let Kind::Value(name) = kind { Some(*name) } else { None })?;
        match self.values.get(name) {
            Some((_, id)) => Ok(*id),
            None => Err(self.report(position, format!("expected a value that is defined above, found `{name}`"))),
        }
    }

    /// `%2: f32[T, 4] = rms_norm %0, %1 {eps = 1e-6}`
    fn define(&mut self, name: &'t str, position: Position) -> Read<()> {
        if let Some((line, _)) = self.values.get(name) {
            let message = format!("`{name}` is defined in line {line} already");
            return Err(self.report(position, message));
        }
        let node = self.node(name);
        let id = node.as_ref().ok().and_then(Option::as_ref).map(|_| Id(self.parsed.graph.nodes.len() as u32));
        self.values.insert(name, (position.line, id));
        if let Some((node, positions)) = node? {
            self.parsed.graph.nodes.push(node);
            self.parsed.nodes.push(positions);
        }
        Ok(())
    }

    /// What follows the name of a definition; `None` if an operand could not be read where it was defined.
    fn node(&mut self, name: &str) -> Read<Option<(Node, NodePositions)>> {
        self.mark(':')?;
        let at = self.position();
        let ty = self.ty()?;
        self.mark('=')?;
        let mut positions = NodePositions { name: name.into(), ty: at, op: self.position(), operands: vec![] };
        if let Some(leaf) = Leaf::ALL.into_iter().find(|leaf| self.peek().kind == Kind::Word(leaf.name())) {
            self.step();
            let kind = NodeKind::Leaf(leaf, self.name()?);
            return Ok(Some((Node { kind, args: vec![], ty }, positions)));
        }
        let leaves = Leaf::ALL.map(|leaf| format!("`{}`", leaf.name())).join(", ");
        let info = self.take(&format!("{leaves} or an op"), |kind| {
            if let Kind::Word(word) = kind { Op::by_name(word) } else { None }
        })?;
        let mut args = vec![];
        while matches!(self.peek().kind, Kind::Value(_)) || !positions.operands.is_empty() {
            positions.operands.push(self.position());
            args.push(self.value()?);
            if !self.is_mark(',') {
                break;
            }
            self.step();
        }
        if matches!(self.peek().kind, Kind::Value(_)) && !self.at_definition() {
            return Err(self.expected("`,`"));
        }
        let op = self.attributes(info, positions.op)?;
        let args: Option<Vec<Id>> = args.into_iter().collect();
        Ok(args.map(|args| (Node { kind: NodeKind::Op(op), args, ty }, positions)))
    }

    /// `{eps = 1e-6, head_dim = 64}`, in the order of the table; nothing for an op without attributes.
    fn attributes(&mut self, info: &OpInfo, op: Position) -> Read<Op> {
        let mut values = vec![];
        if self.is_mark('{') {
            self.step();
            for (i, name) in info.attrs.iter().enumerate() {
                if i > 0 && !self.is_mark('}') {
                    self.mark(',')?;
                }
                if self.is_mark('}') {
                    break; // the first one that is missing is reported below
                }
                self.keyword(name)?;
                self.mark('=')?;
                let value = self.word(&format!("a value of `{name}`"))?;
                values.push(value);
            }
            self.mark('}')?;
        }
        Op::from_parts(info.name, &values).map_err(|message| self.report(op, message))
    }

    /// `f32[T, 4]`, `const bf16[8, 4]`, `grid product[4]`
    fn ty(&mut self) -> Read<Type> {
        let keyword = |place: &Place| place.keyword().is_some_and(|word| self.peek().kind == Kind::Word(word));
        let place = Place::ALL.iter().find(|place| keyword(place)).copied();
        if place.is_some() {
            self.step();
        } else if self.peek().kind == Kind::Word(Type::GRID) {
            self.step();
            return self.grid();
        }
        let what = if place.is_some() { "an element type" } else { "a type" };
        let elem = self.one_of(what, &Elem::ALL, Elem::name)?;
        self.mark('[')?;
        let rows = "`T`, `C` or a number of rows";
        let rows: Rows = self.take(rows, |kind| if let Kind::Word(word) = kind { word.parse().ok() } else { None })?;
        self.mark(',')?;
        let cols = self.number("a number of columns")?;
        self.mark(']')?;
        Ok(Type::Tensor { place: place.unwrap_or(Place::Mem), rows, cols, elem })
    }

    /// `product[4]`, `delta[8; 16, 4]`
    fn grid(&mut self) -> Read<Type> {
        let kind = self.one_of("a kind of grid", &GridKind::ALL, GridKind::name)?;
        self.mark('[')?;
        let cols = self.number("a number of columns")?;
        let mut state = (0, 0);
        if self.is_mark(';') {
            self.step();
            state.0 = self.number("a number of rows")?;
            self.mark(',')?;
            state.1 = self.number("a number of columns")?;
        }
        self.mark(']')?;
        Ok(Type::Grid { kind, cols, state })
    }
}
