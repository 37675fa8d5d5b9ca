//! The op table. To add an op: one entry here, and its type rule and meaning in the module that it names.
//!
//! From the table come the enum, names, attribute parser and printer, arity, the op reference and the e-graph language. There are four sorts
//! of op: *memory* ops of the source graph; *elementwise* ops, which work in memory (a kernel of their own) and in registers (an epilogue);
//! *grid* ops, the skeleton of a kernel; and *stores*, which turn registers into memory. A kernel is a grid with the stores that hang on it,
//! so that products of one input merge by sharing a `sweep`.

mod attention;
mod conv;
mod delta;
mod elementwise;
mod norm;
mod product;
mod store;

use crate::types::{F32, GridKind, Place, Rows, Type};
use crate::value::{Real, Value};

/// What the table says about an op.
pub struct OpInfo {
    /// Name in the text form.
    pub name: &'static str,
    /// Names of the operands.
    pub operands: &'static [&'static str],
    /// Names of the attributes.
    pub attrs: &'static [&'static str],
    /// Types of the attributes.
    pub attr_types: &'static [&'static str],
    /// What role it plays in a kernel.
    pub sort: Sort,
    /// Its meaning.
    pub doc: &'static str,
}

macro_rules! sorts {
    ($( $Sort:ident = $title:literal, $doc:literal; )*) => {
        /// What role an op plays in a kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Sort { $( #[doc = $doc] $Sort ),* }

        impl Sort {
            /// Every role, in declaration order.
            pub const ALL: &'static [Sort] = &[ $( Sort::$Sort ),* ];

            /// The role in a word.
            pub fn title(self) -> &'static str {
                match self { $( Sort::$Sort => $title ),* }
            }

            /// The role in a sentence.
            pub fn doc(self) -> &'static str {
                match self { $( Sort::$Sort => $doc ),* }
            }
        }
    };
}

sorts! {
    Memory = "Memory", "Reads and writes memory; a kernel of its own where no rule absorbs it.";
    Map = "Maps", "Elementwise in its first operand: in memory a kernel of its own, in registers an epilogue.";
    Grid = "Grids", "The skeleton of a kernel.";
    Register = "Registers", "A value in the registers of a grid.";
    Store = "Stores", "Ends a kernel's work on a register value.";
    Project = "Projections", "A result of a grid that has several.";
    Pack = "Packings", "A layout of a weight.";
}

/// The type rule and the meaning of an op.
trait Semantics {
    /// The result type, or why the operands do not fit. The number of operands is right.
    fn infer(&self, args: &[Type]) -> Result<Type, String>;
    /// Slow and obvious. The operands have passed `infer`.
    fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R>;
}

macro_rules! define_ops {
    ($( $(#[doc = $doc:literal])+ $snake:ident = $Camel:ident ( $($operand:ident),* ) { $($attr:ident : $ty:ty),* } $Sort:ident; )*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $Camel { $(
                #[doc = concat!("Attribute `", stringify!($attr), "`.")]
                pub $attr: $ty
            ),* }
            impl From<$Camel> for Op {
                fn from(op: $Camel) -> Op { Op::$Camel(op) }
            }
        )*

        /// An op with its attributes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op { $( $(#[doc = $doc])+ $Camel($Camel) ),* }

        impl Op {
            /// Every op in declaration order.
            pub const TABLE: &'static [OpInfo] = &[ $( OpInfo {
                name: stringify!($snake), operands: &[$(stringify!($operand)),*], attrs: &[$(stringify!($attr)),*],
                attr_types: &[$(stringify!($ty)),*],
                sort: Sort::$Sort, doc: concat!($($doc, "\n"),+)
            } ),* ];

            /// The row of the table.
            pub fn info(&self) -> &'static OpInfo {
                #[allow(clippy::enum_variant_names, reason = "names come from the table")]
                enum Row { $( $Camel ),* }
                match self { $( Op::$Camel(_) => &Op::TABLE[Row::$Camel as usize] ),* }
            }

            /// Attributes as text, in declaration order.
            pub fn attrs(&self) -> Vec<String> {
                match self { $( Op::$Camel($Camel { $($attr),* }) => vec![$($attr.to_string()),*] ),* }
            }

            /// An op from its name and attribute texts, the inverse of [`Op::attrs`].
            ///
            /// # Errors
            /// No such op, a missing or surplus attribute, or one that cannot be parsed.
            pub fn from_parts(name: &str, attrs: &[&str]) -> Result<Op, String> {
                #[allow(unused_mut, reason = "ops without attributes take none from the iterator")]
                let mut attrs = attrs.iter();
                let op = match name {
                    $( stringify!($snake) => Op::$Camel($Camel { $( $attr: {
                        let text = attrs.next().ok_or(concat!(stringify!($snake), ": missing attribute `", stringify!($attr), "`"))?;
                        text.parse::<$ty>().map_err(|_| format!("{name}: attribute `{}` cannot be `{text}`", stringify!($attr)))?
                    } ),* }), )*
                    _ => return Err(format!("unknown op `{name}`")),
                };
                match attrs.next() {
                    None => Ok(op),
                    Some(extra) => Err(format!("{name}: unexpected attribute `{extra}`")),
                }
            }

            /// The result type, or why the operands do not fit. Shared by builder, verifier and e-graph.
            ///
            /// # Errors
            /// Wrong number of operands, or operands that the op does not take.
            pub fn infer(&self, args: &[Type]) -> Result<Type, String> {
                let info = self.info();
                if args.len() != info.operands.len() {
                    let plural = if info.operands.len() == 1 { "" } else { "s" };
                    return Err(format!("{} takes {} operand{plural}, found {}", info.name, info.operands.len(), args.len()));
                }
                match self { $( Op::$Camel(op) => op.infer(args) ),* }.map_err(|e| format!("{}: {e}", info.name))
            }

            /// The meaning of the op: slow and obvious. The operands have passed [`Op::infer`].
            pub fn eval<R: Real>(&self, args: &[&Value<R>]) -> Value<R> {
                match self { $( Op::$Camel(op) => op.eval(args) ),* }
            }
        }
    };
}

define_ops! {
    /// Row `ids[t]` of the table for every token.
    embed = Embed(table, ids) {} Memory;
    /// `x * rsqrt(mean(x^2) + eps) * w` over each row.
    rms_norm = RmsNorm(x, w) { eps: F32 } Memory;
    /// Mean of squares of each row.
    row_ms = RowMs(x) {} Memory;
    /// `x w^T`.
    matmul = Matmul(x, w) {} Memory;
    /// `a + b`, equal shapes.
    add = Add(a, b) {} Map;
    /// `a * b`, equal shapes.
    mul = Mul(a, b) {} Map;
    /// `x + b`, the row vector `b` added to every row.
    bias = Bias(x, b) {} Map;
    /// `x * v`, every row times the row vector `v`.
    scale_cols = ScaleCols(x, v) {} Map;
    /// `c x`.
    scale = Scale(x) { c: F32 } Map;
    /// `x sigmoid(x)`.
    silu = Silu(x) {} Map;
    /// `1 / (1 + exp(-x))`.
    sigmoid = Sigmoid(x) {} Map;
    /// `ln(1 + exp(x))`, and `x` above 20 as in PyTorch.
    softplus = Softplus(x) {} Map;
    /// `e^x`.
    exp = Exp(x) {} Map;
    /// `-x`.
    neg = Neg(x) {} Map;
    /// `x` rounded to bf16, to nearest even, and stored as such.
    round_bf16 = RoundBf16(x) {} Map;
    /// `x * rsqrt(sum(x^2) + eps)` over each head.
    l2_norm = L2Norm(x) { head_dim: usize, eps: F32 } Memory;
    /// Causal depthwise convolution with a kernel for every token and channel: `y[t, d] = sum_w kernels[t, d taps + w] past[t + w, d]`, where
    /// `past` is the last `taps - 1` rows of `ring`, then `v`.
    dynamic_conv = DynamicConv(kernels, v, ring) { taps: usize } Map;
    /// The last `taps` rows of `ring` and `v` together.
    ring_push = RingPush(ring, v) { taps: usize } Memory;
    /// For every head and token: `S <- decay S; S <- S + k (beta (v - S^T k))^T; o = S^T q`. Results `o` and the state.
    gated_delta_rule = GatedDeltaRule(q, k, v, decay, beta, state) {} Grid;
    /// First result of a grid.
    get0 = Get0(grid) {} Project;
    /// Second result of a grid.
    get1 = Get1(grid) {} Project;
    /// `o * rsqrt(mean(o^2) + eps) * w * silu(z)` over each head.
    gated_norm = GatedNorm(o, w, z) { head_dim: usize, eps: F32 } Map;
    /// Rotary embedding of each head, pairs `(i, i + head_dim / 2)`; `table` holds `cos | sin` of every row's position.
    rope = Rope(x, table) { head_dim: usize } Map;
    /// `rows` appended to the cache.
    kv_append = KvAppend(cache, rows) {} Memory;
    /// Causal attention, query heads in contiguous groups over the key-value heads, scale `head_dim^-0.5`; the rows of `q` are the last of the
    /// context. `window` counts the keys that a query sees, itself included; 0 means all.
    attention = Attention(q, keys, values) { head_dim: usize, window: usize } Grid;
    /// The same over `parts` sets of keys, blocks of `block` positions being dealt out to them in turn. For every part and query head: `head_dim`
    /// sums of values weighted with `exp(score - top)`, `top`, and the sum of the weights; of a part without keys 0, -1e30 and 0.
    attention_parts = AttentionParts(q, keys, values) { head_dim: usize, window: usize, parts: usize, block: usize } Memory;
    /// What the parts of an attention make together.
    attention_merge = AttentionMerge(parts) { head_dim: usize, parts: usize } Grid;
    /// Index of the largest element of each row, the first of equals.
    argmax = Argmax(x) {} Memory;
    /// Kernel over the rows of an activation.
    sweep = Sweep(x) {} Grid;
    /// Kernel over `rms_norm(x, w)`, normalising while staging.
    sweep_norm = SweepNorm(x, w) { eps: F32 } Grid;
    /// The same value; `w` is folded into the weights of the grid, the row factor is found while staging and applied to the accumulators.
    sweep_fold = SweepFold(x, w) { eps: F32 } Grid;
    /// The same, with the mean of squares delivered by the producer of `x`.
    sweep_fold_ms = SweepFoldMs(x, w, ms) { eps: F32 } Grid;
    /// Kernel over `x` times `rsqrt(mean + eps)` of each row: `x` is scaled by the norm's weight already, `squares` holds the parts of the sum that
    /// the mean is made of. The factor is applied to the accumulators.
    sweep_scaled = SweepScaled(x, squares) { eps: F32 } Grid;
    /// Kernel over row `ids[t]` of the table for every token.
    lookup = Lookup(table, ids) {} Grid;
    /// Accumulators of the product of a grid's rows with `w`.
    acc = Acc(grid, w) {} Register;
    /// `x` from memory, in the registers of a kernel whose threads read these elements anyway.
    load = Load(grid, x) {} Register;
    /// First result of a delta or attention grid, or the rows of a lookup, in registers.
    out = Out(grid) {} Register;
    /// The gated delta rule with the l2 norms of q and k inside, and the scale of q.
    delta_l2 = DeltaL2(q, k, v, decay, beta, state) { head_dim: usize, eps: F32, scale: F32 } Grid;
    /// The same with `v = silu(dynamic_conv(h w2^T + b2, v0, ring))` inside.
    delta_conv = DeltaConv(q, k, h, w2, b2, v0, ring, decay, beta, state) { head_dim: usize, eps: F32, scale: F32, taps: usize } Grid;
    /// A register value written to memory.
    store = Store(r) {} Store;
    /// Mean of squares of the rows of a tile that is stored anyway.
    store_ms = StoreMs(r) {} Store;
    /// Sums of squares of every `width` neighbouring columns.
    store_squares = StoreSquares(r) { width: usize } Store;
    /// `ring_push` of a register value.
    store_ring = StoreRing(ring, r) { taps: usize } Store;
    /// `kv_append` of a register value.
    store_kv = StoreKv(cache, r) {} Store;
    /// `argmax` of a register value.
    store_argmax = StoreArgmax(r) {} Store;
    /// Panels of 16 output columns, for CPUs.
    pack_panel = PackPanel(w) {} Pack;
    /// Fragments of mma instructions, for GPUs.
    pack_frag = PackFrag(w) {} Pack;
    /// Pre-swizzled tiles, for GPUs.
    pack_tile = PackTile(w) {} Pack;
}

impl Op {
    /// The row of the table with this name.
    pub fn by_name(name: &str) -> Option<&'static OpInfo> {
        Op::TABLE.iter().find(|info| info.name == name)
    }

    /// What role the op plays in a kernel.
    pub fn sort(&self) -> Sort {
        self.info().sort
    }
}

/// A tensor operand, taken apart.
#[derive(Clone, Copy)]
struct Tensor {
    place: Place,
    rows: Rows,
    cols: usize,
    elem: crate::types::Elem,
}

fn ensure(ok: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(why()) }
}

fn tensor(args: &[Type], i: usize) -> Result<Tensor, String> {
    match args[i] {
        Type::Tensor { place, rows, cols, elem } => Ok(Tensor { place, rows, cols, elem }),
        grid => Err(format!("operand {i} must be a tensor, found {grid}")),
    }
}

fn in_place(args: &[Type], i: usize, place: Place, what: &str) -> Result<Tensor, String> {
    let t = tensor(args, i)?;
    ensure(t.place == place, || format!("operand {i} must be {what}, found {}", args[i]))?;
    Ok(t)
}

fn in_memory(args: &[Type], i: usize) -> Result<Tensor, String> {
    in_place(args, i, Place::Mem, "in memory")
}

fn in_registers(args: &[Type], i: usize) -> Result<Tensor, String> {
    in_place(args, i, Place::Reg, "in registers")
}

/// A weight of `cols` columns, packed or not; the result is its number of rows.
fn weight(args: &[Type], i: usize, cols: usize) -> Result<usize, String> {
    match args[i] {
        Type::Tensor { place: Place::Const | Place::Packed, rows: Rows::Fixed(n), cols: c, .. } if c == cols => Ok(n),
        other => Err(format!("operand {i} must be a weight of {cols} columns, found {other}")),
    }
}

/// A row vector that is known at compile time.
fn vector(args: &[Type], i: usize, cols: usize) -> Result<(), String> {
    let rows = weight(args, i, cols)?;
    ensure(rows == 1, || format!("operand {i} must be one row of {cols} columns, found {}", args[i]))
}

fn same_shape(args: &[Type], i: usize, j: usize) -> Result<(), String> {
    let (a, b) = (tensor(args, i)?, tensor(args, j)?);
    ensure((a.rows, a.cols) == (b.rows, b.cols), || {
        format!("operands {i} and {j} differ in shape: {} and {}", args[i], args[j])
    })
}

fn whole_heads(args: &[Type], i: usize, head_dim: usize) -> Result<(), String> {
    let cols = args[i].cols();
    ensure(head_dim > 0 && cols.is_multiple_of(head_dim), || {
        format!("operand {i} has {cols} columns, not a multiple of head_dim {head_dim}")
    })
}

fn grid(args: &[Type], i: usize, kinds: &[GridKind]) -> Result<(usize, (usize, usize)), String> {
    match args[i] {
        Type::Grid { kind, cols, state } if kinds.contains(&kind) => Ok((cols, state)),
        other => Err(format!(
            "operand {i} must be a grid of kind {}, found {other}",
            kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(" or ")
        )),
    }
}
