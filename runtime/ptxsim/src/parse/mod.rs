//! From text to compiled kernels: modules, kernels, declarations, statements (PTX ISA, "Directives").

mod alu;
mod convert;
mod copy;
mod cursor;
mod decode;
mod hopper;
mod memory;
mod names;
mod operand;
mod tile;
mod warp;

use crate::error::ParseError;
use crate::inst::{Inst, Op, TileOp};
use crate::lex::{Place, Token};
use crate::module::{Kernel, Module, Param, Target};
use crate::types::{RP, Reg, Type};
use cursor::Cursor;
use decode::Decoder;
use names::{Names, Shared};

type Parsed<T> = Result<T, ParseError>;

/// Parses a module.
pub(crate) fn module(text: &str) -> Parsed<Module> {
    let mut p = Parser { cursor: Cursor::new(text)?, target: Target { sm: 0, specific: false }, shared: vec![] };
    p.header()?;
    let mut kernels: Vec<Kernel> = vec![];
    while p.cursor.peek() != Token::End {
        let place = p.cursor.place();
        if let Some(kernel) = p.item()? {
            if kernels.iter().any(|k| k.name == kernel.name) {
                return Err(place.error(format!("found a second kernel `{}`", kernel.name)));
            }
            kernels.push(kernel);
        }
    }
    Ok(Module { target: p.target, kernels, text: text.into() })
}

struct Parser<'t> {
    cursor: Cursor<'t>,
    target: Target,
    /// Shared variables of the module.
    shared: Vec<Shared<'t>>,
}

/// A branch or label with the blocks that it is in, outermost first.
type Located<'t> = (&'t str, Vec<usize>, Place, usize);

/// A kernel under construction.
#[derive(Default)]
struct Body<'t> {
    names: Names<'t>,
    code: Vec<Inst>,
    labels: Vec<Located<'t>>,
    branches: Vec<Located<'t>>,
    blocks: Vec<usize>,
    blocks_seen: usize,
}

impl<'t> Parser<'t> {
    /// `.version`, `.target`, `.address_size`.
    fn header(&mut self) -> Parsed<()> {
        let c = &mut self.cursor;
        c.directive("version")?;
        let place = c.place();
        let version = c.number_text()?;
        let parts: Vec<Option<u32>> = version.split('.').map(|p| p.parse().ok()).collect();
        let [Some(major), Some(minor)] = parts[..] else {
            return Err(place.error(format!("found `{version}`, expected a version such as 7.8")));
        };
        if !((7, 0)..=(9, 0)).contains(&(major, minor)) {
            return Err(place.error(format!("found PTX {version}, expected 7.0 to 9.0")));
        }
        c.directive("target")?;
        let place = c.place();
        let name = c.word("a target")?;
        self.target = match name {
            "sm_80" => Target { sm: 80, specific: false },
            "sm_90" => Target { sm: 90, specific: false },
            "sm_90a" => Target { sm: 90, specific: true },
            _ => return Err(place.error(format!("found `{name}`, expected sm_80, sm_90 or sm_90a"))),
        };
        c.directive("address_size")?;
        let place = c.place();
        match c.number_text()? {
            "64" => Ok(()),
            other => Err(place.error(format!("found an address size of {other}, expected 64"))),
        }
    }

    /// A variable or a kernel.
    fn item(&mut self) -> Parsed<Option<Kernel>> {
        let place = self.cursor.place();
        let visible = self.cursor.accept_dot("visible");
        let external = !visible && self.cursor.accept_dot("extern");
        match self.cursor.peek() {
            Token::Dot("entry") if !external => self.kernel().map(Some),
            Token::Dot("shared") if !visible => {
                let variable = self.shared_variable(external)?;
                self.shared.push(variable);
                Ok(None)
            }
            other => {
                let expected = if external { "`.shared`" } else { "`.entry`, `.shared` or `.extern .shared`" };
                Err(place.error(format!("found {}, expected {expected}", other.show())))
            }
        }
    }

    /// `.shared .align 16 .b8 name[64];`; an external one has no size.
    fn shared_variable(&mut self, external: bool) -> Parsed<Shared<'t>> {
        let c = &mut self.cursor;
        c.directive("shared")?;
        let aligned = c.accept_dot("align");
        let align = if aligned { Some(c.power_of_two()?) } else { None };
        let ty = c.ty()?;
        let place = c.place();
        let name = c.word("a name")?;
        let mut bytes = Some(ty.bytes());
        if c.accept('[') {
            bytes = if external { None } else { Some(c.count()?.saturating_mul(ty.bytes())) };
            c.require(']')?;
        }
        c.require(';')?;
        if ty == Type::Pred || bytes.is_none() != external {
            return Err(
                place.error(format!("found a shared variable `{name}` without a size, expected `{name}[size]`"))
            );
        }
        Ok(Shared { name, place, align: align.unwrap_or(ty.bytes()), bytes })
    }

    fn kernel(&mut self) -> Parsed<Kernel> {
        self.cursor.directive("entry")?;
        let mut kernel = Kernel { name: self.cursor.word("the name of a kernel")?.to_string(), ..Kernel::default() };
        self.params(&mut kernel)?;
        self.tuning(&mut kernel)?;
        let mut body = Body::default();
        for variable in &self.shared {
            body.names.module_variable(variable.clone())?;
        }
        for (n, param) in kernel.params.iter().enumerate() {
            body.names.param(param.name.clone(), n);
        }
        let open = self.cursor.place();
        self.cursor.require('{')?;
        let offsets: Vec<(u32, u32)> = kernel.params.iter().map(|p| (p.offset, p.bytes)).collect();
        self.block(&mut body, &offsets)?;
        body.resolve()?;
        if !matches!(body.code.last(), Some(Inst { op: Op::Exit | Op::Branch { .. } | Op::Trap, guard: None, .. })) {
            return Err(open.error(format!("found a kernel `{}` that runs off its end, expected `ret`", kernel.name)));
        }
        kernel.uses_wgmma = body.code.iter().any(|i| matches!(i.op, Op::Tile(TileOp::Wgmma(_))));
        kernel.code = body.code;
        body.names.finish(&mut kernel);
        Ok(kernel)
    }

    /// `(.param .u64 a, .param .u32 b)`.
    fn params(&mut self, kernel: &mut Kernel) -> Parsed<()> {
        let c = &mut self.cursor;
        if !c.accept('(') || c.accept(')') {
            return Ok(());
        }
        let mut end = 0u32;
        loop {
            c.directive("param")?;
            let place = c.place();
            if c.accept_dot("align") {
                return Err(place.error("found `.align`, expected a parameter of a type of at most 8 bytes"));
            }
            let ty = c.ty()?;
            if !matches!(ty.bytes(), 1..=8) || c.peek() == Token::Dot("ptr") {
                return Err(place.error(format!("found a parameter of type `.{}`", ty.name())));
            }
            let name = c.word("the name of a parameter")?.to_string();
            let offset = end.next_multiple_of(ty.bytes());
            end = offset + ty.bytes();
            if kernel.params.iter().any(|p| p.name == name) {
                return Err(place.error(format!("found a second parameter `{name}`")));
            }
            kernel.params.push(Param { name, offset, bytes: ty.bytes() });
            if c.accept(')') {
                return Ok(());
            }
            c.require(',')?;
        }
    }

    /// Performance directives between the parameters and the body.
    fn tuning(&mut self, kernel: &mut Kernel) -> Parsed<()> {
        loop {
            let place = self.cursor.place();
            let c = &mut self.cursor;
            match c.peek() {
                Token::Punct('{') => return Ok(()),
                Token::Dot(name) => {
                    c.advance();
                    match name {
                        "reqntid" => kernel.required_threads = Some(c.extents()?),
                        "maxntid" => kernel.max_threads = Some(c.extents()?),
                        "reqnctapercluster" => kernel.required_cluster = Some(c.extents()?),
                        "explicitcluster" => {}
                        "minnctapersm" | "maxnreg" | "maxclusterrank" => {
                            c.count()?;
                        }
                        _ => {
                            return Err(
                                place.error(format!("found `.{name}`, expected a directive of a kernel or `{{`"))
                            );
                        }
                    }
                }
                other => return Err(place.error(format!("found {}, expected `{{`", other.show()))),
            }
        }
    }

    /// Statements up to the closing brace.
    fn block(&mut self, body: &mut Body<'t>, params: &[(u32, u32)]) -> Parsed<()> {
        // an explicit depth, so that braces in a hostile text cannot exhaust the stack
        let mut depth = 0usize;
        loop {
            let place = self.cursor.place();
            match self.cursor.peek() {
                Token::Punct('{') => {
                    self.cursor.advance();
                    body.enter();
                    depth += 1;
                }
                Token::Punct('}') => {
                    self.cursor.advance();
                    if depth == 0 {
                        return Ok(());
                    }
                    depth -= 1;
                    body.leave();
                }
                Token::Dot("reg") => self.registers(body)?,
                Token::Dot("shared") => {
                    let variable = self.shared_variable(false)?;
                    body.names.variable(variable)?;
                }
                Token::Dot("pragma") => {
                    self.cursor.advance();
                    self.cursor.text()?;
                    self.cursor.require(';')?;
                }
                Token::Word(name) if self.cursor.peek_second() == Token::Punct(':') => {
                    self.cursor.advance();
                    self.cursor.advance();
                    body.labels.push((name, body.blocks.clone(), place, body.code.len()));
                }
                Token::Word(_) | Token::Punct('@') => self.instruction(body, params)?,
                other => return Err(place.error(format!("found {}, expected a statement or `}}`", other.show()))),
            }
        }
    }

    /// `.reg .b32 a, r<4>;`.
    fn registers(&mut self, body: &mut Body<'t>) -> Parsed<()> {
        let c = &mut self.cursor;
        c.directive("reg")?;
        let place = c.place();
        let ty = c.ty()?;
        let plain =
            matches!(ty, Type::Pred) || (ty.bytes() >= 2 && !matches!(ty, Type::Bf16 | Type::Tf32 | Type::Bf16x2));
        if !plain {
            return Err(place.error(format!("found a register of type `.{}`, expected 16, 32 or 64 bits", ty.name())));
        }
        loop {
            let place = c.place();
            let name = c.word("the name of a register")?;
            if c.accept('<') {
                let count = c.count()?;
                c.require('>')?;
                body.names.registers(name, count, ty, place)?;
            } else {
                body.names.register(name, ty, place)?;
            }
            if c.accept(';') {
                return Ok(());
            }
            c.require(',')?;
        }
    }

    /// `@p opcode.modifiers operands;`.
    fn instruction(&mut self, body: &mut Body<'t>, params: &[(u32, u32)]) -> Parsed<()> {
        let start = self.cursor.place();
        let guard = self.guard(body)?;
        let place = self.cursor.place();
        let opcode = self.cursor.word("an opcode")?;
        let mut modifiers = vec![];
        while let Token::Dot(name) = self.cursor.peek() {
            modifiers.push((name, self.cursor.place()));
            self.cursor.advance();
        }
        let mut operands = vec![];
        if self.cursor.peek() != Token::Punct(';') {
            loop {
                operands.push(operand::operand(&mut self.cursor)?);
                if !self.cursor.accept(',') {
                    break;
                }
            }
        }
        let end = self.cursor.place().offset;
        self.cursor.require(';')?;
        let mut decoder = Decoder::new(&mut body.names, self.target, params, opcode, place, modifiers, operands);
        let op = decoder.instruction()?;
        if let Some((label, place)) = decoder.branch() {
            body.branches.push((label, body.blocks.clone(), place, body.code.len()));
        }
        body.code.push(Inst { op, guard, line: start.line, text: start.offset..end });
        Ok(())
    }

    fn guard(&mut self, body: &Body<'t>) -> Parsed<Option<(RP, bool)>> {
        if !self.cursor.accept('@') {
            return Ok(None);
        }
        let wanted = !self.cursor.accept('!');
        let place = self.cursor.place();
        let name = self.cursor.word("a predicate")?;
        match body.names.find_register(name) {
            Some((Reg::P(p), _)) => Ok(Some((p, wanted))),
            _ => Err(place.error(format!("found `{name}`, expected a predicate register"))),
        }
    }
}

impl Body<'_> {
    fn enter(&mut self) {
        self.blocks_seen += 1;
        self.blocks.push(self.blocks_seen);
        self.names.enter();
    }

    fn leave(&mut self) {
        self.blocks.pop();
        self.names.leave();
    }

    /// Gives branches their targets: the label of that name in the innermost block around the branch.
    fn resolve(&mut self) -> Parsed<()> {
        let mut known = std::collections::HashMap::new();
        for (name, blocks, place, at) in &self.labels {
            if known.insert((*name, blocks.last().copied()), *at).is_some() {
                return Err(place.error(format!("found a second label `{name}`")));
            }
        }
        for (name, blocks, place, at) in &self.branches {
            let around = blocks.iter().rev().map(|b| Some(*b)).chain([None]);
            let target = around.into_iter().find_map(|b| known.get(&(*name, b)));
            let target =
                *target.ok_or_else(|| place.error(format!("found `{name}`, expected a label of this kernel")))?;
            if target >= self.code.len() {
                return Err(place.error(format!("found a branch to `{name}`, after which there is no instruction")));
            }
            if let Op::Branch { target: to } = &mut self.code[*at].op {
                *to = target;
            }
        }
        Ok(())
    }
}
