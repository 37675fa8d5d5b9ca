//! One instruction: its modifiers and operands, taken in order and checked against their types, and the table of opcodes.

use super::names::Names;
use super::operand::{Form, Literal, Operand};
use super::{Parsed, alu, convert, copy, hopper, memory, tile, warp};
use crate::error::ParseError;
use crate::inst::{Address, Base, Op, Space};
use crate::lex::Place;
use crate::module::{Preset, Special, Target};
use crate::types::{Kind, R32, R64, RP, Reg, Type};

/// An instruction of which modifiers and operands are taken from the left.
pub struct Decoder<'p, 't> {
    pub names: &'p mut Names<'t>,
    pub target: Target,
    /// Offset and size of each parameter.
    pub params: &'p [(u32, u32)],
    pub opcode: &'t str,
    pub place: Place,
    modifiers: std::vec::IntoIter<(&'t str, Place)>,
    operands: std::vec::IntoIter<Operand<'t>>,
    branch: Option<(&'t str, Place)>,
}

impl<'p, 't> Decoder<'p, 't> {
    pub fn new(
        names: &'p mut Names<'t>,
        target: Target,
        params: &'p [(u32, u32)],
        opcode: &'t str,
        place: Place,
        modifiers: Vec<(&'t str, Place)>,
        operands: Vec<Operand<'t>>,
    ) -> Self {
        let (modifiers, operands) = (modifiers.into_iter(), operands.into_iter());
        Decoder { names, target, params, opcode, place, modifiers, operands, branch: None }
    }

    /// The label of a branch, once decoded.
    pub fn branch(&self) -> Option<(&'t str, Place)> {
        self.branch
    }

    /// Decodes by opcode; nothing may be left over.
    pub fn instruction(&mut self) -> Parsed<Op> {
        let op = match self.opcode {
            "mov" => alu::mov(self),
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" => alu::arithmetic(self),
            "mad" | "fma" => alu::multiply_add(self),
            "and" | "or" | "xor" | "not" => alu::logic(self),
            "shl" | "shr" => alu::shift(self),
            "neg" | "abs" | "popc" | "clz" | "brev" => alu::unary(self),
            "rcp" | "rsqrt" | "sqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => alu::function(self),
            "bfe" | "bfi" | "lop3" | "prmt" | "shf" | "dp4a" => alu::bits(self),
            "setp" => alu::setp(self),
            "selp" => alu::selp(self),
            "cvt" => convert::cvt(self),
            "cvta" => memory::cvta(self),
            "ld" | "ldu" => memory::load(self),
            "st" => memory::store(self),
            "red" | "atom" => memory::atomic(self),
            "fence" | "membar" => memory::fence(self),
            "prefetch" | "applypriority" | "discard" | "createpolicy" | "nanosleep" => memory::hint(self),
            "bra" => self.bra(),
            "ret" | "exit" => Ok(Op::Exit),
            "trap" => Ok(Op::Trap),
            "shfl" | "vote" | "redux" | "match" | "activemask" | "elect" | "movmatrix" => warp::exchange(self),
            "bar" | "barrier" => warp::barrier(self),
            "mma" => tile::mma(self),
            "ldmatrix" | "stmatrix" => tile::matrix(self),
            "cp" => copy::cp(self),
            "mbarrier" => hopper::mbarrier(self),
            "mapa" => hopper::mapa(self),
            "griddepcontrol" => hopper::griddepcontrol(self),
            "setmaxnreg" => hopper::setmaxnreg(self),
            "wgmma" => hopper::wgmma(self),
            other => return Err(self.place.error(format!("found the opcode `{other}`, which is not known"))),
        }?;
        if let Some((name, place)) = self.modifiers.next() {
            return Err(place.error(format!("found `.{name}`, expected no such modifier of `{}` here", self.opcode)));
        }
        match self.operands.next() {
            Some(extra) => Err(extra.place.error(format!("found {}, expected no further operand", extra.form.show()))),
            None => Ok(op),
        }
    }

    fn bra(&mut self) -> Parsed<Op> {
        self.accept("uni");
        let operand = self.operand("a label")?;
        match operand.form {
            Form::Name(label, None) => self.branch = Some((label, operand.place)),
            other => return Err(operand.place.error(format!("found {}, expected a label", other.show()))),
        }
        Ok(Op::Branch { target: usize::MAX })
    }

    /// The instruction needs that architecture.
    pub fn needs(&self, sm: u32, specific: bool, what: &str) -> Parsed<()> {
        if self.target.sm >= sm && (self.target.specific || !specific) {
            return Ok(());
        }
        let suffix = if specific { "a" } else { "" };
        Err(self.place.error(format!("found {what}, which needs `.target sm_{sm}{suffix}`")))
    }

    /// An error at the opcode.
    pub fn error(&self, message: impl Into<String>) -> ParseError {
        self.place.error(message)
    }

    // Modifiers

    /// The next modifier.
    pub fn next_modifier(&self) -> Option<&'t str> {
        self.modifiers.as_slice().first().map(|m| m.0)
    }

    /// Takes the next modifier if it is `name`.
    pub fn accept(&mut self, name: &str) -> bool {
        let found = self.next_modifier() == Some(name);
        if found {
            self.modifiers.next();
        }
        found
    }

    /// The next modifier must be `name`.
    pub fn require(&mut self, name: &str) -> Parsed<()> {
        if self.accept(name) { Ok(()) } else { Err(self.unexpected(&format!("`.{name}`"))) }
    }

    /// All of `names`, in order.
    pub fn require_all(&mut self, names: &[&str]) -> Parsed<()> {
        names.iter().try_for_each(|name| self.require(name))
    }

    /// That the next modifier is not what was expected.
    pub fn unexpected(&self, expected: &str) -> ParseError {
        match self.modifiers.as_slice().first() {
            Some((name, place)) => place.error(format!("found `.{name}`, expected {expected}")),
            None => {
                self.place.error(format!("found `{}` without a further modifier, expected {expected}", self.opcode))
            }
        }
    }

    /// Takes the next modifier if the table has it.
    pub fn optional<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let next = self.next_modifier()?;
        let value = table.iter().find(|row| row.0 == next)?.1;
        self.modifiers.next();
        Some(value)
    }

    /// One of the modifiers in the table.
    pub fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Parsed<T> {
        let names: Vec<String> = table.iter().map(|row| format!("`.{}`", row.0)).collect();
        self.optional(table).ok_or_else(|| self.unexpected(&names.join(" or ")))
    }

    /// A type among `allowed`.
    pub fn ty(&mut self, allowed: &[Type]) -> Parsed<Type> {
        let found = self.next_modifier().and_then(Type::named).filter(|t| allowed.contains(t));
        let names: Vec<String> = allowed.iter().map(|t| format!("`.{}`", t.name())).collect();
        let ty = found.ok_or_else(|| self.unexpected(&names.join(" or ")))?;
        self.modifiers.next();
        Ok(ty)
    }

    // Operands

    pub fn operands_left(&self) -> usize {
        self.operands.len()
    }

    pub fn operand(&mut self, expected: &str) -> Parsed<Operand<'t>> {
        let missing = self.place.error(format!("found too few operands of `{}`, expected {expected}", self.opcode));
        self.operands.next().ok_or(missing)
    }

    fn register(&self, name: &str, ty: Type, place: Place, wider: bool) -> Parsed<Reg> {
        let (reg, declared) = self
            .names
            .find_register(name)
            .ok_or_else(|| place.error(format!("found `{name}`, expected a register of type `.{}`", ty.name())))?;
        let fits = ty.fits(declared) || (wider && declared != Type::Pred && declared.bytes() > ty.bytes());
        if fits {
            return Ok(reg);
        }
        let (found, expected) = (declared.name(), ty.name());
        Err(place.error(format!("found `{name}` of type `.{found}`, expected a register for `.{expected}`")))
    }

    /// A register to write.
    fn destination(&mut self, ty: Type, wider: bool) -> Parsed<Reg> {
        let operand = self.operand("a register")?;
        match operand.form {
            Form::Name(name, None) => self.register(name, ty, operand.place, wider),
            other => Err(operand.place.error(format!("found {}, expected a register", other.show()))),
        }
    }

    pub fn dst32(&mut self, ty: Type) -> Parsed<R32> {
        let place = self.next_place();
        short(self.destination(ty, false)?, place)
    }

    pub fn dst64(&mut self, ty: Type) -> Parsed<R64> {
        let place = self.next_place();
        long(self.destination(ty, false)?, place)
    }

    pub fn dst_pred(&mut self) -> Parsed<RP> {
        match self.destination(Type::Pred, false)? {
            Reg::P(p) => Ok(p),
            _ => Err(self.place.error("expected a predicate")),
        }
    }

    /// A register that may be wider than the type (`ld`, `cvt`).
    pub fn dst_wider(&mut self, ty: Type) -> Parsed<Reg> {
        self.destination(ty, true)
    }

    /// `d|p` or `d`, where `_` stands for no register.
    pub fn dst_pair(&mut self, ty: Type) -> Parsed<(Option<Reg>, Option<Reg>)> {
        let operand = self.operand("a register")?;
        let (first, second) = match operand.form {
            Form::Name(name, None) => (name, "_"),
            Form::Pair(a, b) => (a, b),
            other => return Err(operand.place.error(format!("found {}, expected a register", other.show()))),
        };
        let get = |name: &str, ty| match name {
            "_" => Ok(None),
            _ => self.register(name, ty, operand.place, false).map(Some),
        };
        Ok((get(first, ty)?, get(second, Type::Pred)?))
    }

    fn next_place(&self) -> Place {
        self.operands.as_slice().first().map_or(self.place, |o| o.place)
    }

    /// A value: register, number, special register or address of a shared variable.
    fn source(&mut self, operand: &Operand<'t>, ty: Type, wider: bool) -> Parsed<Reg> {
        let place = operand.place;
        let constant = |names: &mut Names<'t>, preset| match ty.bytes() {
            8 => Reg::D(names.constant64(preset)),
            _ => Reg::W(names.constant32(preset)),
        };
        match &operand.form {
            Form::Name(name, axis) => {
                if axis.is_none() && self.names.find_register(name).is_some() {
                    return self.register(name, ty, place, wider);
                }
                if let Some(special) = Special::named(name, *axis) {
                    let size = if matches!(special, Special::GridId) { 8 } else { 4 };
                    if ty.bytes() == size && ty.kind() != Kind::Float {
                        return Ok(constant(self.names, Preset::Special(special)));
                    }
                    return Err(place.error(format!(
                        "found {}, expected a value of type `.{}`",
                        operand.form.show(),
                        ty.name()
                    )));
                }
                if axis.is_none()
                    && ty.bytes() >= 4
                    && ty.kind() != Kind::Float
                    && let Some(preset) = self.names.find_shared(name)?
                {
                    return Ok(constant(self.names, preset));
                }
                let shown = operand.form.show();
                Err(place.error(format!("found {shown}, expected a register or constant of type `.{}`", ty.name())))
            }
            Form::Number(literal) => {
                let bits = value(*literal, ty).ok_or_else(|| {
                    place.error(format!("found {}, expected a value of type `.{}`", operand.form.show(), ty.name()))
                })?;
                Ok(constant(self.names, Preset::Value(bits)))
            }
            other => Err(place.error(format!("found {}, expected a register or constant", other.show()))),
        }
    }

    pub fn src(&mut self, ty: Type) -> Parsed<Reg> {
        let operand = self.operand("a value")?;
        self.source(&operand, ty, false)
    }

    pub fn src32(&mut self, ty: Type) -> Parsed<R32> {
        let place = self.next_place();
        short(self.src(ty)?, place)
    }

    pub fn src64(&mut self, ty: Type) -> Parsed<R64> {
        let place = self.next_place();
        long(self.src(ty)?, place)
    }

    /// A value whose register may be wider than the type (`st`, `cvt`).
    pub fn src_wider(&mut self, ty: Type) -> Parsed<Reg> {
        let operand = self.operand("a value")?;
        self.source(&operand, ty, true)
    }

    /// A predicate, possibly negated; 0 and 1 are constants.
    pub fn src_pred(&mut self) -> Parsed<(RP, bool)> {
        let operand = self.operand("a predicate")?;
        let (name, negate) = match &operand.form {
            Form::Name(name, None) => (*name, false),
            Form::Not(name) => (*name, true),
            Form::Number(Literal::Int(n @ 0..=1)) => return Ok((self.names.truth(*n == 1), false)),
            other => return Err(operand.place.error(format!("found {}, expected a predicate", other.show()))),
        };
        match self.register(name, Type::Pred, operand.place, false)? {
            Reg::P(p) => Ok((p, negate)),
            _ => Err(operand.place.error(format!("found `{name}`, expected a predicate"))),
        }
    }

    /// A predicate that cannot be negated.
    pub fn src_pred_plain(&mut self) -> Parsed<RP> {
        match self.src_pred()? {
            (p, false) => Ok(p),
            _ => Err(self.place.error("found a negated predicate, expected a plain one")),
        }
    }

    /// Takes the next operand if it is a clock of type `ty`.
    pub fn clock(&mut self, ty: Type) -> bool {
        let found = match self.operands.as_slice().first().map(|o| &o.form) {
            Some(Form::Name("%clock", None)) => ty.bytes() == 4,
            Some(Form::Name("%clock64" | "%globaltimer", None)) => ty.bytes() == 8,
            _ => false,
        };
        if found {
            self.operands.next();
        }
        found
    }

    /// Takes the next operand if it is a list of two values of type `ty`.
    pub fn packed(&mut self, ty: Type) -> Parsed<Option<(R32, R32)>> {
        if !self.next_is_list() {
            return Ok(None);
        }
        let list = self.src_list32(2, ty)?;
        Ok(Some((list[0], list[1])))
    }

    /// Whether the next operand is a list.
    pub fn next_is_list(&self) -> bool {
        matches!(self.operands.as_slice().first().map(|o| &o.form), Some(Form::List(_)))
    }

    /// Whether the next operand is a predicate register.
    pub fn next_is_predicate(&self) -> bool {
        let name = match self.operands.as_slice().first().map(|o| &o.form) {
            Some(Form::Name(name, None)) | Some(Form::Not(name)) => name,
            _ => return false,
        };
        matches!(self.names.find_register(name), Some((Reg::P(_), _)))
    }

    /// The constant that turns a shared address into a generic one.
    pub fn shared_window(&mut self) -> R64 {
        self.names.constant64(Preset::Value(crate::memory::SHARED_WINDOW))
    }

    /// A constant integer within `range`.
    pub fn immediate(&mut self, range: std::ops::RangeInclusive<i128>) -> Parsed<i64> {
        let operand = self.operand("a number")?;
        match operand.form {
            Form::Number(Literal::Int(n)) if range.contains(&n) => Ok(n as i64),
            other => {
                let (low, high) = range.into_inner();
                Err(operand.place.error(format!("found {}, expected a number from {low} to {high}", other.show())))
            }
        }
    }

    /// `{a, b}` of `n` operands; `n` of 1 is one operand without braces.
    pub fn list(&mut self, n: usize) -> Parsed<Vec<Operand<'t>>> {
        let operand = self.operand("a list")?;
        match operand.form {
            Form::List(list) if list.len() == n => Ok(list),
            Form::Name(..) | Form::Number(_) if n == 1 => Ok(vec![operand]),
            other => Err(operand.place.error(format!("found {}, expected a list of {n}", other.show()))),
        }
    }

    pub fn dst_list(&mut self, n: usize, ty: Type, wider: bool) -> Parsed<Box<[Reg]>> {
        let list = self.list(n)?;
        list.iter()
            .map(|o| match o.form {
                Form::Name(name, None) => self.register(name, ty, o.place, wider),
                ref other => Err(o.place.error(format!("found {}, expected a register", other.show()))),
            })
            .collect()
    }

    pub fn src_list(&mut self, n: usize, ty: Type, wider: bool) -> Parsed<Box<[Reg]>> {
        let list = self.list(n)?;
        list.iter().map(|o| self.source(o, ty, wider)).collect()
    }

    /// A list of 32-bit registers to write.
    pub fn dst_list32(&mut self, n: usize, ty: Type) -> Parsed<Box<[R32]>> {
        let place = self.next_place();
        self.dst_list(n, ty, false)?.iter().map(|r| short(*r, place)).collect()
    }

    pub fn src_list32(&mut self, n: usize, ty: Type) -> Parsed<Box<[R32]>> {
        let place = self.next_place();
        self.src_list(n, ty, false)?.iter().map(|r| short(*r, place)).collect()
    }

    /// An address in `space`.
    pub fn address(&mut self, space: Space) -> Parsed<Address> {
        let operand = self.operand("an address")?;
        let Form::Address { base, offset } = operand.form else {
            return Err(operand.place.error(format!("found {}, expected an address", operand.form.show())));
        };
        let Some(name) = base else {
            if space == Space::Param {
                return Err(operand.place.error("found an address without a name, expected a parameter of the kernel"));
            }
            return Ok(Address { base: Base::None, offset, space });
        };
        if space == Space::Param {
            return self.param_address(name, offset, operand.place);
        }
        let base = match self.names.find_register(name) {
            Some((Reg::D(r), ty)) if ty.kind() != Kind::Float => Base::Long(r),
            Some((Reg::W(r), ty)) if ty.bytes() == 4 && ty.kind() != Kind::Float => {
                if !matches!(space, Space::Shared | Space::Cluster) {
                    return Err(operand
                        .place
                        .error(format!("found the 32-bit register `{name}`, expected a 64-bit address")));
                }
                Base::Short(r)
            }
            _ => match (self.names.find_shared(name)?, space) {
                (Some(preset), Space::Shared | Space::Cluster) => Base::Short(self.names.constant32(preset)),
                (Some(_), _) => {
                    return Err(operand
                        .place
                        .error(format!("found the shared variable `{name}`, expected an address elsewhere")));
                }
                (None, _) => {
                    return Err(operand.place.error(format!("found `{name}`, expected a register or variable")));
                }
            },
        };
        Ok(Address { base, offset, space })
    }

    fn param_address(&mut self, name: &str, offset: i64, place: Place) -> Parsed<Address> {
        let index = self.names.find_param(name);
        let index = index.ok_or_else(|| place.error(format!("found `{name}`, expected a parameter of the kernel")))?;
        let (start, bytes) = self.params[index];
        if !(0..i64::from(bytes)).contains(&offset) {
            return Err(place.error(format!("found an offset of {offset}, expected at most {} in `{name}`", bytes - 1)));
        }
        Ok(Address { base: Base::None, offset: i64::from(start) + offset, space: Space::Param })
    }
}

fn short(reg: Reg, place: Place) -> Parsed<R32> {
    match reg {
        Reg::W(r) => Ok(r),
        _ => Err(place.error("found a 64-bit or predicate register, expected one of 32 or 16 bits")),
    }
}

fn long(reg: Reg, place: Place) -> Parsed<R64> {
    match reg {
        Reg::D(r) => Ok(r),
        _ => Err(place.error("found a 32-bit or predicate register, expected one of 64 bits")),
    }
}

/// The bits of a number as a value of type `ty`, if it has one.
fn value(literal: Literal, ty: Type) -> Option<u64> {
    let bits = ty.bytes() * 8;
    match (literal, ty) {
        (Literal::Int(_), Type::F32 | Type::F64 | Type::F16) => None,
        (Literal::Int(i), _) => {
            let range = -(1i128 << (bits - 1))..(1i128 << bits);
            let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            range.contains(&i).then_some(i as u64 & mask)
        }
        (Literal::Single(b), _) => (bits == 32).then_some(u64::from(b)),
        (Literal::Double(x), Type::F32) => Some(u64::from((x as f32).to_bits())),
        (Literal::Double(_), _) => None,
    }
}
