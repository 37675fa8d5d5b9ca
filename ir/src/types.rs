//! Types of values: two-dimensional tensors that live somewhere, and the skeletons of kernels ("grids").

use crate::quant::{Format, GROUP};
use std::fmt;
use std::str::FromStr;

/// What one element of a tensor is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Elem {
    /// 32-bit IEEE float.
    F32,
    /// The upper half of an [`Elem::F32`].
    Bf16,
    /// 16-bit IEEE float.
    F16,
    /// 32-bit signed integer: token ids and positions.
    I32,
    /// 8-bit codes with a scale for each group of a row, see [`crate::quant`].
    Q8,
    /// 4-bit codes with a scale and a minimum for each group of a row, see [`crate::quant`].
    Q4,
}

impl Elem {
    /// Every element type, in declaration order.
    pub const ALL: [Elem; 6] = [Elem::F32, Elem::Bf16, Elem::F16, Elem::I32, Elem::Q8, Elem::Q4];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::I32 => "i32",
            Elem::Q8 => "q8",
            Elem::Q4 => "q4",
        }
    }

    /// Bytes of a row of `cols` elements.
    pub fn row_bytes(self, cols: usize) -> usize {
        match (self, Format::of(self)) {
            (_, Some(format)) => cols.div_ceil(GROUP) * format.group_bytes(),
            (Elem::Bf16 | Elem::F16, None) => 2 * cols,
            (_, None) => 4 * cols,
        }
    }
}

/// The number of rows of a tensor; symbolic where a program does not fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rows {
    /// The tokens that this run of the graph processes (text form `T`).
    Tokens,
    /// All tokens of the sequence so far, those of this run included (text form `C`).
    Context,
    /// A number known at compile time.
    Fixed(usize),
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rows::Tokens => f.write_str("T"),
            Rows::Context => f.write_str("C"),
            Rows::Fixed(n) => write!(f, "{n}"),
        }
    }
}

impl FromStr for Rows {
    type Err = String;
    fn from_str(text: &str) -> Result<Rows, String> {
        match text {
            "T" => Ok(Rows::Tokens),
            "C" => Ok(Rows::Context),
            _ => text
                .parse()
                .map(Rows::Fixed)
                .map_err(|_| format!("expected `T`, `C` or a number of rows, found `{text}`")),
        }
    }
}

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A function of weights only: evaluated at compile time.
    Const,
    /// A constant in a kernel's own layout.
    Packed,
    /// Materialised in memory.
    Mem,
    /// In the registers of the kernel that runs over a grid.
    Reg,
}

impl Place {
    /// Every place, in declaration order.
    pub const ALL: [Place; 4] = [Place::Const, Place::Packed, Place::Mem, Place::Reg];

    /// The keyword in the text form; a tensor in memory has none.
    pub fn keyword(self) -> Option<&'static str> {
        match self {
            Place::Const => Some("const"),
            Place::Packed => Some("packed"),
            Place::Mem => None,
            Place::Reg => Some("reg"),
        }
    }
}

/// What a kernel sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GridKind {
    /// Rows of an activation, multiplied with weights.
    Product,
    /// The recurrent states of the gated delta rule.
    Delta,
    /// The key-value cache.
    Attention,
    /// Rows of a table.
    Lookup,
}

impl GridKind {
    /// Every kind, in declaration order.
    pub const ALL: [GridKind; 4] = [GridKind::Product, GridKind::Delta, GridKind::Attention, GridKind::Lookup];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            GridKind::Product => "product",
            GridKind::Delta => "delta",
            GridKind::Attention => "attention",
            GridKind::Lookup => "lookup",
        }
    }
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// A row-major tensor.
    Tensor {
        /// Where it lives.
        place: Place,
        /// Its rows.
        rows: Rows,
        /// Its columns.
        cols: usize,
        /// What an element is stored as.
        elem: Elem,
    },
    /// The skeleton of a kernel.
    Grid {
        /// What it sweeps.
        kind: GridKind,
        /// Columns of the swept operand (product) or of the output (the others).
        cols: usize,
        /// Rows and columns of the state it updates, zero without one.
        state: (usize, usize),
    },
}

impl Type {
    /// The keyword of a grid in the text form.
    pub const GRID: &'static str = "grid";

    /// A tensor.
    pub fn tensor(place: Place, rows: Rows, cols: usize, elem: Elem) -> Type {
        Type::Tensor { place, rows, cols, elem }
    }

    /// A tensor of f32 in memory.
    pub fn mem(rows: Rows, cols: usize) -> Type {
        Type::tensor(Place::Mem, rows, cols, Elem::F32)
    }

    /// A weight of `rows` by `cols`.
    pub fn weight(rows: usize, cols: usize, elem: Elem) -> Type {
        Type::tensor(Place::Const, Rows::Fixed(rows), cols, elem)
    }

    /// Where a tensor lives; a grid is nowhere.
    pub fn place(&self) -> Option<Place> {
        match self {
            Type::Tensor { place, .. } => Some(*place),
            Type::Grid { .. } => None,
        }
    }

    /// Whether the value is known at compile time.
    pub fn is_const(&self) -> bool {
        matches!(self.place(), Some(Place::Const | Place::Packed))
    }

    /// Columns of the tensor or of what the grid sweeps.
    pub fn cols(&self) -> usize {
        match self {
            Type::Tensor { cols, .. } | Type::Grid { cols, .. } => *cols,
        }
    }

    /// Rows of a tensor.
    pub fn rows(&self) -> Option<Rows> {
        match self {
            Type::Tensor { rows, .. } => Some(*rows),
            Type::Grid { .. } => None,
        }
    }

    /// Element type of a tensor.
    pub fn elem(&self) -> Option<Elem> {
        match self {
            Type::Tensor { elem, .. } => Some(*elem),
            Type::Grid { .. } => None,
        }
    }

    /// The same tensor elsewhere.
    pub fn at(self, place: Place) -> Type {
        match self {
            Type::Tensor { rows, cols, elem, .. } => Type::Tensor { place, rows, cols, elem },
            grid => grid,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor { place, rows, cols, elem } => {
                place.keyword().iter().try_for_each(|keyword| write!(f, "{keyword} "))?;
                write!(f, "{}[{rows}, {cols}]", elem.name())
            }
            Type::Grid { kind, cols, state: (0, 0) } => write!(f, "{} {}[{cols}]", Type::GRID, kind.name()),
            Type::Grid { kind, cols, state: (r, c) } => write!(f, "{} {}[{cols}; {r}, {c}]", Type::GRID, kind.name()),
        }
    }
}

/// An f32 attribute, compared and hashed by its bits so that ops can be interned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct F32(u32);

impl F32 {
    /// The number.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl From<f32> for F32 {
    fn from(value: f32) -> F32 {
        F32(value.to_bits())
    }
}

impl fmt::Debug for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

impl fmt::Display for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

impl FromStr for F32 {
    type Err = String;
    /// A finite number: no op has a use for another, and the bits of a NaN have no text.
    fn from_str(text: &str) -> Result<F32, Self::Err> {
        match text.parse::<f32>() {
            Ok(number) if number.is_finite() => Ok(F32::from(number)),
            _ => Err(format!("expected a finite number, found `{text}`")),
        }
    }
}
