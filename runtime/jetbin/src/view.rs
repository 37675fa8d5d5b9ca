//! What the reader gives out: tables decoded row by row from the mapped bytes, without allocation.
//!
//! Each `decode` checks what a row says about itself; `check.rs` checks what it says about others. Both run once when
//! the artifact is opened, so that later calls cannot fail.

use crate::candidates::CandidateList;
use crate::error::ReadError;
use crate::record::*;
use crate::types::*;
use std::marker::PhantomData;

/// Why a decoded row cannot be bad.
const CHECKED: &str = "every row was decoded when the artifact was opened";

/// A row that refers to the string pool.
pub(crate) trait Row<'a>: Sized {
    type Record: Record;
    fn decode(record: Self::Record, strings: Strings<'a>) -> Result<Self, String>;
}

/// The string pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strings<'a>(pub &'a [u8]);

impl<'a> Strings<'a> {
    pub(crate) fn get(self, text: Text) -> Result<&'a str, String> {
        let (start, end) = (text.offset as usize, text.offset as usize + text.length as usize);
        let n = self.0.len();
        let bytes = self.0.get(start..end).ok_or_else(|| format!("string {start}..{end} in a pool of {n} bytes"))?;
        std::str::from_utf8(bytes).map_err(|e| format!("string {start}..{end}: {e}"))
    }
}

/// A table of rows in the mapped bytes.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a, T> {
    bytes: &'a [u8],
    strings: Strings<'a>,
    row: PhantomData<fn() -> T>,
}

#[expect(private_bounds, reason = "rows are declared in this crate alone")]
impl<'a, T: Row<'a>> Table<'a, T> {
    /// A table over `bytes`, with a whole number of rows, each of which is decoded once.
    pub(crate) fn checked(name: &str, bytes: &'a [u8], strings: Strings<'a>) -> Result<Self, ReadError> {
        let size = T::Record::SIZE;
        if !bytes.len().is_multiple_of(size) {
            let problem = format!("{} bytes, expected a multiple of {size}", bytes.len());
            return Err(ReadError::damaged(name, problem));
        }
        let table = Self { bytes, strings, row: PhantomData };
        for i in 0..table.len() {
            table.decode(i).map_err(|e| ReadError::damaged(format!("{name}, row {i}"), e))?;
        }
        Ok(table)
    }

    /// A table whose rows were checked before.
    pub(crate) fn known(bytes: &'a [u8], strings: Strings<'a>) -> Self {
        Self { bytes, strings, row: PhantomData }
    }

    fn decode(&self, i: usize) -> Result<T, String> {
        let size = T::Record::SIZE;
        T::decode(T::Record::get(&self.bytes[i * size..(i + 1) * size]), self.strings)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.bytes.len() / T::Record::SIZE
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `i`, if there is one.
    pub fn get(&self, i: u32) -> Option<T> {
        ((i as usize) < self.len()).then(|| self.decode(i as usize).expect(CHECKED))
    }

    /// All rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + use<'a, '_, T> {
        (0..self.len()).map(|i| self.decode(i).expect(CHECKED))
    }
}

fn code<T>(what: &str, code: u32, from: impl Fn(u32) -> Option<T>) -> Result<T, String> {
    from(code).ok_or_else(|| format!("{what} {code} is unknown"))
}

fn zero(what: &str, value: u64) -> Result<(), String> {
    if value == 0 { Ok(()) } else { Err(format!("{what} is {value}, expected 0")) }
}

fn aligned(what: &str, value: u64, align: u64) -> Result<(), String> {
    if value.is_multiple_of(align) { Ok(()) } else { Err(format!("{what} {value} is not a multiple of {align}")) }
}

impl<'a> Row<'a> for TargetDesc {
    type Record = TargetRecord;
    fn decode(r: TargetRecord, strings: Strings<'a>) -> Result<Self, String> {
        Ok(Self {
            name: strings.get(r.name)?.to_string(),
            device: code("device", r.device, DeviceKind::from_code)?,
            arch: strings.get(r.arch)?.to_string(),
            features: strings.get(r.features)?.split(',').filter(|f| !f.is_empty()).map(str::to_string).collect(),
            rank: r.rank,
        })
    }
}

impl<'a> Row<'a> for KernelDesc<&'a str> {
    type Record = KernelRecord;
    fn decode(r: KernelRecord, strings: Strings<'a>) -> Result<Self, String> {
        Ok(Self { name: strings.get(r.name)?, key: strings.get(r.key)?, offset: r.offset, length: r.length })
    }
}

impl<'a> Row<'a> for LaunchDesc {
    type Record = LaunchRecord;
    fn decode(r: LaunchRecord, _: Strings<'a>) -> Result<Self, String> {
        zero("reserved", r.reserved.into())?;
        if !r.threads.is_multiple_of(32) || !(32..=1024).contains(&r.threads) || r.rows == 0 {
            let found = format!("{} threads and {} rows", r.threads, r.rows);
            return Err(format!("{found}, expected a multiple of 32 up to 1024 and at least one"));
        }
        if r.overlaps > 1 || (r.wider == NONE) != (r.beyond == 0) {
            return Err(format!("{r:?} has an unknown flag, or half of another kernel for many rows"));
        }
        Ok(Self {
            threads: r.threads,
            rows: r.rows,
            items: r.items,
            shared_bytes: r.shared_bytes,
            overlaps: r.overlaps == 1,
            wider: (r.wider != NONE).then_some(Wider { beyond: r.beyond, kernel: r.wider }),
        })
    }
}

impl<'a> Row<'a> for StateDesc<&'a str> {
    type Record = StateRecord;
    fn decode(r: StateRecord, strings: Strings<'a>) -> Result<Self, String> {
        aligned("offset", r.offset, ALIGN)?;
        if r.zero_at_start > 1 || r.rows == 0 || r.cols == 0 || r.heads == 0 {
            return Err(format!("{r:?} has a size of zero or an unknown flag"));
        }
        let dtype = code("type of state", r.dtype, DType::from_code)?;
        if !matches!(dtype, DType::F32 | DType::Bf16) {
            return Err(format!("a state of type {dtype}, expected f32 or bf16"));
        }
        Ok(Self {
            name: strings.get(r.name)?,
            kind: code("kind of state", r.kind, StateKind::from_code)?,
            dtype,
            layer: r.layer,
            offset: r.offset,
            rows: r.rows,
            cols: r.cols,
            heads: r.heads,
            window: r.window,
            zero_at_start: r.zero_at_start == 1,
        })
    }
}

/// A packed weight and where it lies in the weight data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightView<'a> {
    /// Name, for people.
    pub name: &'a str,
    /// Type of the elements.
    pub dtype: DType,
    /// How it is packed, for people.
    pub layout: &'a str,
    /// Tensors of the checkpoint that it was made of, one a line.
    pub sources: &'a str,
    /// Offset in the weight data, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl<'a> Row<'a> for WeightView<'a> {
    type Record = WeightRecord;
    fn decode(r: WeightRecord, strings: Strings<'a>) -> Result<Self, String> {
        zero("reserved", r.reserved.into())?;
        aligned("offset", r.offset, ALIGN)?;
        Ok(Self {
            name: strings.get(r.name)?,
            dtype: code("dtype", r.dtype, DType::from_code)?,
            layout: strings.get(r.layout)?,
            sources: strings.get(r.sources)?,
            offset: r.offset,
            length: r.length,
        })
    }
}

impl<'a> Row<'a> for Buffer<&'a str> {
    type Record = BufferRecord;
    fn decode(r: BufferRecord, strings: Strings<'a>) -> Result<Self, String> {
        zero("reserved", r.reserved.into())?;
        aligned("offset", r.offset, ALIGN)?;
        aligned("row_bytes", r.row_bytes, 4)?;
        let domain = code("domain", r.domain, Domain::from_code)?;
        Ok(Self { name: strings.get(r.name)?, offset: r.offset, row_bytes: r.row_bytes, domain })
    }
}

/// One kernel call; its arguments are a range of the program's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepView<'a> {
    /// For people.
    pub label: &'a str,
    /// Index into the target's kernels.
    pub kernel: u32,
    /// Which rows it runs over.
    pub domain: Domain,
    /// Items that do not depend on the number of rows.
    pub items_fixed: u32,
    /// Items of every row.
    pub items_per_row: u32,
    /// First argument among the program's.
    pub first_arg: u32,
    /// Number of arguments.
    pub n_args: u32,
    /// What a call moves and computes.
    pub cost: Cost,
}

impl StepView<'_> {
    /// Items of a call with so many rows.
    pub fn items(&self, rows: u32) -> u64 {
        u64::from(self.items_fixed) + u64::from(self.items_per_row) * u64::from(rows)
    }
}

impl<'a> Row<'a> for StepView<'a> {
    type Record = StepRecord;
    fn decode(r: StepRecord, strings: Strings<'a>) -> Result<Self, String> {
        Ok(Self {
            label: strings.get(r.label)?,
            kernel: r.kernel,
            domain: code("domain", r.domain, Domain::from_code)?,
            items_fixed: r.items_fixed,
            items_per_row: r.items_per_row,
            first_arg: r.first_arg,
            n_args: r.n_args,
            cost: Cost {
                weight_bytes: r.weight_bytes,
                state_bytes: r.state_bytes,
                act_bytes: r.act_bytes,
                flops: r.flops,
            },
        })
    }
}

impl<'a> Row<'a> for Arg {
    type Record = ArgRecord;
    fn decode(r: ArgRecord, _: Strings<'a>) -> Result<Self, String> {
        let arg = match r.kind {
            0 => Arg::Buffer(r.index),
            1 => Arg::Weight(r.index),
            2 => Arg::State(r.index),
            3 => Arg::SlotStride,
            4 => Arg::Slots,
            5 => Arg::Positions,
            6 => Arg::Rows,
            7 => Arg::ItemBegin,
            8 => Arg::ItemEnd,
            9 => Arg::Scratch,
            10 => Arg::TokenIds,
            11 => Arg::Rope,
            12 => Arg::Const(r.value),
            13 => Arg::Arrivals,
            14 => Arg::Candidates(r.index),
            15 => Arg::KeepLogits,
            other => return Err(format!("kind of argument {other} is unknown")),
        };
        if ArgRecord::from(arg) == r { Ok(arg) } else { Err(format!("{r:?} has values in unused fields")) }
    }
}

impl<'a> Row<'a> for Probe {
    type Record = ProbeRecord;
    fn decode(r: ProbeRecord, _: Strings<'a>) -> Result<Self, String> {
        let kind = match r.kind {
            0 => ProbeKind::LayerHidden(r.layer),
            1 => ProbeKind::MixerHidden(r.layer),
            2 => ProbeKind::LastHidden,
            other => return Err(format!("kind of probe {other} is unknown")),
        };
        let source = match r.source {
            0 => ProbeSource::Buffer(r.buffer),
            1 => ProbeSource::Scratch { offset: r.offset, row_bytes: r.row_bytes },
            other => return Err(format!("source of probe {other} is unknown")),
        };
        let probe = Probe { kind, step: r.step, source };
        if ProbeRecord::from(probe) == r { Ok(probe) } else { Err(format!("{r:?} has values in unused fields")) }
    }
}

/// A program: header and four tables.
#[derive(Clone, Copy, Debug)]
pub struct ProgramView<'a> {
    header: ProgramRecord,
    parts: [&'a [u8]; 4],
    strings: Strings<'a>,
}

impl<'a> ProgramView<'a> {
    /// Cuts a program section into its tables.
    pub(crate) fn cut(name: &str, bytes: &'a [u8], strings: Strings<'a>) -> Result<Self, ReadError> {
        let found = bytes.len();
        let short = || ReadError::damaged(name, format!("{found} bytes, the header alone has {}", ProgramRecord::SIZE));
        let (head, mut rest) = bytes.split_at_checked(ProgramRecord::SIZE).ok_or_else(short)?;
        let header = ProgramRecord::get(head);
        let sizes = [
            (header.n_buffers, BufferRecord::SIZE),
            (header.n_steps, StepRecord::SIZE),
            (header.n_args, ArgRecord::SIZE),
            (header.n_probes, ProbeRecord::SIZE),
        ];
        let expected = sizes.iter().map(|&(n, size)| u128::from(n) * size as u128).sum::<u128>();
        if expected != rest.len() as u128 {
            return Err(ReadError::damaged(name, format!("{} bytes of tables, expected {expected}", rest.len())));
        }
        let mut parts = [rest; 4];
        for (part, (n, size)) in parts.iter_mut().zip(sizes) {
            (*part, rest) = rest.split_at(n as usize * size);
        }
        Ok(Self { header, parts, strings })
    }

    /// Decodes every row of every table once.
    pub(crate) fn check_rows(&self, name: &str) -> Result<(), ReadError> {
        Table::<Buffer<&str>>::checked(&format!("{name}, buffers"), self.parts[0], self.strings)?;
        Table::<StepView>::checked(&format!("{name}, steps"), self.parts[1], self.strings)?;
        Table::<Arg>::checked(&format!("{name}, arguments"), self.parts[2], self.strings)?;
        Table::<Probe>::checked(&format!("{name}, probes"), self.parts[3], self.strings)?;
        Ok(())
    }

    /// Most rows of a call.
    pub fn max_rows(&self) -> u32 {
        self.header.max_rows
    }

    /// Most rows of a head window.
    pub fn head_rows(&self) -> u32 {
        self.header.head_rows
    }

    /// Rows of a domain, at most.
    pub fn rows_of(&self, domain: Domain) -> u32 {
        match domain {
            Domain::Tokens => self.header.max_rows,
            Domain::Head => self.header.head_rows,
        }
    }

    /// Size of the arena in bytes.
    pub fn arena_bytes(&self) -> u64 {
        self.header.arena_bytes
    }

    /// Scratch of each thread in bytes.
    pub fn scratch_bytes(&self) -> u64 {
        self.header.scratch_bytes
    }

    /// Index of the buffer with the logits.
    pub fn logits(&self) -> u32 {
        self.header.logits
    }

    /// Index of the buffer with the greedy choice.
    pub fn argmax(&self) -> Option<u32> {
        (self.header.argmax != NONE).then_some(self.header.argmax)
    }

    /// The lists of candidates that threads leave behind the head.
    pub fn candidates(&self) -> Option<CandidateList> {
        self.args()
            .iter()
            .find_map(|arg| if let Arg::Candidates(len) = arg { Some(CandidateList { len }) } else { None })
    }

    /// Places in the arena.
    pub fn buffers(&self) -> Table<'a, Buffer<&'a str>> {
        Table::known(self.parts[0], self.strings)
    }

    /// Steps in order of execution.
    pub fn steps(&self) -> Table<'a, StepView<'a>> {
        Table::known(self.parts[1], self.strings)
    }

    /// The arguments of all steps.
    pub fn args(&self) -> Table<'a, Arg> {
        Table::known(self.parts[2], self.strings)
    }

    /// The arguments of one step.
    pub fn args_of(&self, step: &StepView<'_>) -> impl Iterator<Item = Arg> + use<'a> {
        let (args, first) = (self.args(), step.first_arg);
        (first..first.saturating_add(step.n_args)).filter_map(move |i| args.get(i))
    }

    /// Values that an observer may read.
    pub fn probes(&self) -> Table<'a, Probe> {
        Table::known(self.parts[3], self.strings)
    }
}
