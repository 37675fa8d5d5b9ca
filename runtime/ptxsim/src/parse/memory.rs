//! Loads, stores, atomic operations, fences, hints (PTX ISA, "Data Movement": `ld`, `st`, `cvta`; "Parallel Synchronization": `atom`, `red`, `fence`).

use super::Parsed;
use super::decode::Decoder;
use super::operand::{Form, Literal};
use crate::inst::{AtomOp, Memory, Op, Order, Space, Wide1};
use crate::types::{Reg, Type};
use Type::*;

const DATA: &[Type] = &[B8, U8, S8, B16, U16, S16, B32, U32, S32, F32, B64, U64, S64, F64];
const SCOPES: &[(&str, ())] = &[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())];

const WEAK: Order = Order { strong: false, acquire: false, release: false };
const RELAXED: Order = Order { strong: true, acquire: false, release: false };
const ACQUIRE: Order = Order { strong: true, acquire: true, release: false };
const RELEASE: Order = Order { strong: true, acquire: false, release: true };
const ACQUIRE_RELEASE: Order = Order { strong: true, acquire: true, release: true };

fn space(x: &mut Decoder) -> Parsed<Space> {
    let table = [
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("shared::cluster", Space::Cluster),
        ("param", Space::Param),
    ];
    let space = x.optional(&table).unwrap_or(Space::Generic);
    if space == Space::Cluster {
        x.needs(90, false, "`.shared::cluster`")?;
    }
    Ok(space)
}

/// `.relaxed.gpu` and its like; `.volatile`, which the second value says, counts as relaxed.
fn order(x: &mut Decoder, table: &[(&str, Order)]) -> Parsed<(Order, bool)> {
    if x.accept("volatile") {
        return Ok((RELAXED, true));
    }
    let order = x.optional(table).unwrap_or(WEAK);
    if order.strong {
        x.one_of(SCOPES)?;
    }
    Ok((order, false))
}

/// Cache operators of each kind of access.
const OF_LOADS: [&str; 5] = ["ca", "cg", "cs", "lu", "cv"];
const OF_CONSTANTS: [&str; 3] = ["ca", "cg", "cs"];
const OF_STORES: [&str; 4] = ["wb", "cg", "cs", "wt"];
/// Priorities in the first-level cache, and sizes to fetch into the second.
const LEVEL1: [&str; 5] =
    ["L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"];
const FETCHES: [&str; 3] = ["L2::64B", "L2::128B", "L2::256B"];

/// Takes the next modifier if it is one of `names`, and says which.
fn any_of(x: &mut Decoder, names: &[&'static str]) -> Option<&'static str> {
    names.iter().copied().find(|name| x.accept(name))
}

/// `{.L1::priority}{.L2::cache_hint}`, of accesses to global memory that are not volatile; they change no value. Returns whether a policy
/// operand follows. A priority and a cache operator, which `operator` says there was, exclude each other.
fn cache_hints(x: &mut Decoder, operator: bool, global: bool, volatile: bool) -> Parsed<bool> {
    if !global || volatile {
        return Ok(false);
    }
    if let Some(found) = any_of(x, &LEVEL1).filter(|_| operator) {
        return Err(x.error(format!("found `.{found}` beside a cache operator, expected one of them")));
    }
    Ok(x.accept("L2::cache_hint"))
}

/// `.v2`, `.v4`, or one.
fn vector(x: &mut Decoder) -> usize {
    x.optional(&[("v2", 2), ("v4", 4)]).unwrap_or(1)
}

fn fits_vector(x: &Decoder, count: usize, ty: Type) -> Parsed<()> {
    if count as u32 * ty.bytes() <= 16 {
        return Ok(());
    }
    Err(x.error(format!("found a vector of {count} of `.{}`, expected at most 16 bytes", ty.name())))
}

/// `ld`; `.nc` says that nobody writes the memory while the kernel runs.
pub fn load(x: &mut Decoder) -> Parsed<Op> {
    if x.opcode == "ldu" {
        return Err(x.error("found `ldu`, expected `ld.global.nc`"));
    }
    let plain = x.next_modifier() != Some("weak");
    let (order, volatile) = order(x, &[("weak", WEAK), ("relaxed", RELAXED), ("acquire", ACQUIRE)])?;
    let space = space(x)?;
    let global = matches!(space, Space::Global | Space::Generic);
    let operators: &[_] = if order.strong || space == Space::Param { &[] } else { &OF_LOADS };
    let operator = any_of(x, operators);
    let constant = plain && !order.strong && space == Space::Global && x.accept("nc");
    if let Some(found) = operator.filter(|name| constant && !OF_CONSTANTS.contains(name)) {
        return Err(x.error(format!("found `.{found}` of `.nc`, expected `.{}`", OF_CONSTANTS.join("`, `."))));
    }
    let policy = cache_hints(x, operator.is_some(), global, volatile)?;
    if global {
        any_of(x, &FETCHES);
    }
    let count = vector(x);
    let ty = x.ty(DATA)?;
    fits_vector(x, count, ty)?;
    let to = x.dst_list(count, ty, true)?;
    let address = x.address(space)?;
    if space == Space::Param {
        within_param(x, address.offset, i64::from(ty.bytes()) * count as i64)?;
    }
    if policy {
        x.src64(B64)?;
    }
    Ok(Op::Memory(Memory::Load { address, bytes: ty.bytes(), signed: ty.is_signed(), to, order, constant }))
}

/// A load of `bytes` bytes must be aligned and within one parameter.
fn within_param(x: &Decoder, offset: i64, bytes: i64) -> Parsed<()> {
    let inside = |(start, size): &(u32, u32)| {
        let start = i64::from(*start);
        (start..=start + i64::from(*size) - bytes).contains(&offset)
    };
    if offset % bytes == 0 && x.params.iter().any(inside) {
        return Ok(());
    }
    Err(x.error(format!("found a load of {bytes} bytes, expected it aligned and within the parameter")))
}

pub fn store(x: &mut Decoder) -> Parsed<Op> {
    let (order, volatile) = order(x, &[("weak", WEAK), ("relaxed", RELAXED), ("release", RELEASE)])?;
    let space = space(x)?;
    if space == Space::Param {
        return Err(x.error("found a store to `.param`"));
    }
    let global = matches!(space, Space::Global | Space::Generic);
    let operators: &[_] = if order.strong { &[] } else { &OF_STORES };
    let operator = any_of(x, operators);
    let policy = cache_hints(x, operator.is_some(), global, volatile)?;
    let count = vector(x);
    let ty = x.ty(DATA)?;
    fits_vector(x, count, ty)?;
    let address = x.address(space)?;
    let from = x.src_list(count, ty, true)?;
    if policy {
        x.src64(B64)?;
    }
    Ok(Op::Memory(Memory::Store { address, bytes: ty.bytes(), from, order }))
}

/// `red` and `atom`: by name and type.
pub fn atomic(x: &mut Decoder) -> Parsed<Op> {
    let returns = x.opcode == "atom";
    let table = [("relaxed", RELAXED), ("acquire", ACQUIRE), ("release", RELEASE), ("acq_rel", ACQUIRE_RELEASE)];
    let order = x.optional(&table).unwrap_or(RELAXED);
    x.optional(SCOPES);
    let space = space(x)?;
    let (op, ty, count) = atomic_op(x, returns)?;
    let d = match returns {
        true => match x.dst_pair(ty)? {
            (d, None) => d,
            _ => return Err(x.error("found a pair, expected one register")),
        },
        false => None,
    };
    let address = x.address(space)?;
    let a = x.src_list(count, ty, false)?;
    let b = if matches!(op, AtomOp::Cas32 | AtomOp::Cas64) { Some(x.src(ty)?) } else { None };
    Ok(Op::Memory(Memory::Atomic { op, address, d, a, b, order }))
}

fn atomic_op(x: &mut Decoder, returns: bool) -> Parsed<(AtomOp, Type, usize)> {
    let names = ["add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas"];
    let name = x.one_of(&names.map(|n| (n, n)))?;
    if name == "add" && x.accept("noftz") {
        x.require("bf16x2")?;
        x.needs(90, false, "an atomic addition of bf16x2")?;
        return Ok((AtomOp::AddBf16x2, Bf16x2, 1));
    }
    let count = if name == "add" { vector(x) } else { 1 };
    let ty = x.ty(&[B32, U32, S32, F32, B64, U64, S64])?;
    let signed = ty.is_signed();
    let op = match (name, ty) {
        ("add", F32) => AtomOp::AddF32,
        ("add", U32 | S32) => AtomOp::Add32,
        ("add", U64) => AtomOp::Add64,
        ("min", U32 | S32) => AtomOp::Min32 { signed },
        ("max", U32 | S32) => AtomOp::Max32 { signed },
        ("min", U64 | S64) => AtomOp::Min64 { signed },
        ("max", U64 | S64) => AtomOp::Max64 { signed },
        ("and", B32) => AtomOp::And32,
        ("or", B32) => AtomOp::Or32,
        ("xor", B32) => AtomOp::Xor32,
        ("inc", U32) => AtomOp::Inc32,
        ("dec", U32) => AtomOp::Dec32,
        ("exch", B32) if returns => AtomOp::Exch32,
        ("exch", B64) if returns => AtomOp::Exch64,
        ("cas", B32) if returns => AtomOp::Cas32,
        ("cas", B64) if returns => AtomOp::Cas64,
        _ => return Err(x.error(format!("found `{}.{name}.{}`, which is not known", x.opcode, ty.name()))),
    };
    if count > 1 {
        x.needs(90, false, "a vector reduction")?;
        if op != AtomOp::AddF32 || returns {
            return Err(x.error("found a vector reduction, expected `red.add` of f32"));
        }
    }
    Ok((op, ty, count))
}

/// `fence.sc.gpu`, `membar.gl`, `fence.proxy.async`, `fence.mbarrier_init.release.cluster`.
pub fn fence(x: &mut Decoder) -> Parsed<Op> {
    if x.opcode == "membar" {
        let cta = x.one_of(&[("cta", true), ("gl", false), ("sys", false)])?;
        return Ok(Op::Memory(Memory::Fence { cta }));
    }
    if x.accept("mbarrier_init") {
        x.needs(90, false, "`fence.mbarrier_init`")?;
        x.require_all(&["release", "cluster"])?;
        return Ok(Op::Memory(Memory::Fence { cta: true }));
    }
    if x.accept("proxy") {
        return super::hopper::fence_proxy(x);
    }
    x.optional(&[("sc", ()), ("acq_rel", ())]);
    let cta = x.one_of(&[("cta", true), ("cluster", true), ("gpu", false), ("sys", false)])?;
    Ok(Op::Memory(Memory::Fence { cta }))
}

/// What the machine may do with its caches changes no value.
pub fn hint(x: &mut Decoder) -> Parsed<Op> {
    match x.opcode {
        "prefetch" => {
            x.require("global")?;
            x.one_of(&[("L1", ()), ("L2", ()), ("L2::evict_last", ()), ("L2::evict_normal", ())])?;
            Ok(Op::Touch { address: x.address(Space::Global)? })
        }
        "applypriority" => {
            x.require_all(&["global", "L2::evict_normal"])?;
            let address = x.address(Space::Global)?;
            x.immediate(128..=128)?;
            Ok(Op::Touch { address })
        }
        "createpolicy" => {
            x.require("fractional")?;
            let policies = ["L2::evict_first", "L2::evict_last", "L2::evict_normal", "L2::evict_unchanged"];
            x.one_of(&policies.map(|name| (name, ())))?;
            x.require("b64")?;
            let d = x.dst64(B64)?;
            let fraction = x.operand("a fraction")?;
            if !matches!(fraction.form, Form::Number(Literal::Double(f)) if f > 0.0 && f <= 1.0) {
                let shown = fraction.form.show();
                return Err(fraction.place.error(format!("found {shown}, expected a fraction above 0 and up to 1.0")));
            }
            let a = x.names.constant64(crate::module::Preset::Value(0));
            Ok(Op::Wide1 { op: Wide1::Mov, d, a })
        }
        "nanosleep" => {
            x.require("u32")?;
            x.src32(U32)?;
            Ok(Op::Nothing)
        }
        // it would make the memory uninitialised, which no kernel here wants
        other => Err(x.error(format!("found `{other}`, which is not known"))),
    }
}

/// `cvta.to.space` and `cvta.space`: generic addresses are global ones as they are, and shared ones in a window of their own.
pub fn cvta(x: &mut Decoder) -> Parsed<Op> {
    let to = x.accept("to");
    let space = x.one_of(&[("global", Space::Global), ("shared", Space::Shared), ("param", Space::Param)])?;
    x.require("u64")?;
    let d = x.dst64(U64)?;
    if space == Space::Param {
        return Err(x.error("found `cvta` of `.param`, which is not known"));
    }
    let a = match x.src(U64)? {
        Reg::D(a) => a,
        _ => return Err(x.error("found a 32-bit operand, expected 64 bits")),
    };
    Ok(match (space, to) {
        (Space::Global, _) => Op::Wide1 { op: Wide1::Mov, d, a },
        (_, true) => Op::Wide2 { op: crate::inst::Wide2::Sub, d, a, b: x.shared_window() },
        (_, false) => Op::Wide2 { op: crate::inst::Wide2::Add, d, a, b: x.shared_window() },
    })
}
