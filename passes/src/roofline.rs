//! The default cost model: a roofline over a few parameters of the target. Its constants are estimates; ratios are what to trust.

use crate::cost::{CostModel, Layout, Phase, Price, Work};
use jet_ir::ops::Sort;
use jet_ir::{Op, Place, Rows, Type};

/// What a product kernel reaches with one layout of its weights: shares of the memory bandwidth and of the matrix peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayoutShare {
    /// The layout.
    pub layout: Layout,
    /// Shares up to [`TargetParams::few_rows`] rows.
    pub few: (f64, f64),
    /// Shares beyond.
    pub many: (f64, f64),
}

/// Parameters of a target. Speeds are per microsecond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetParams {
    /// Its name.
    pub name: &'static str,
    /// Bytes from memory.
    pub dram: f64,
    /// Bytes from the last cache.
    pub cache: f64,
    /// Size of the last cache.
    pub cache_bytes: f64,
    /// Operations of matrix products.
    pub mma: f64,
    /// Operations of everything else.
    pub vec: f64,
    /// Start of one kernel on all workers and waiting for the last, in microseconds.
    pub launch_us: f64,
    /// Cores or multiprocessors.
    pub workers: f64,
    /// Layouts that it has kernels for.
    pub layouts: &'static [LayoutShare],
    /// Rows up to which a product kernel is bound by its weights.
    pub few_rows: f64,
    /// Rows up to which every worker stages whole rows; beyond, normalising costs a detour for every tile of columns.
    pub staged_rows: f64,
    /// Workers can combine results of one kernel: `store_ms`.
    pub joint_stores: bool,
    /// Independent pieces of one sequence's recurrent state.
    pub state_pieces: f64,
    /// Recurrent states stay in registers from token to token.
    pub state_resident: bool,
    /// Latency of one token of a recurrence, in microseconds.
    pub token_us: f64,
    /// Latency of one chunk of 64 tokens of a chunked recurrence, in microseconds.
    pub chunk_us: f64,
    /// The delta kernel can run the dynamic convolution.
    pub conv_in_delta: bool,
    /// Share of the shorter times that does not hide behind the longest one in a kernel.
    pub exposed: f64,
}

/// Two cores of a Zen 4 server.
pub const ZEN4_2: TargetParams = TargetParams {
    name: "zen4 2 cores",
    dram: 30e3,
    cache: 100e3,
    cache_bytes: 16e6,
    mma: 430e3,
    vec: 60e3,
    launch_us: 4.0,
    workers: 2.0,
    layouts: &[LayoutShare { layout: Layout::Panel, few: (0.9, 0.8), many: (0.9, 0.86) }],
    few_rows: 4.0,
    staged_rows: f64::INFINITY,
    joint_stores: false,
    state_pieces: 24.0,
    state_resident: false,
    token_us: 0.0,
    chunk_us: 0.0,
    conv_in_delta: false,
    exposed: 0.1,
};

/// One H100.
pub const H100: TargetParams = TargetParams {
    name: "h100",
    dram: 3.0e6,
    cache: 5.5e6,
    cache_bytes: 30e6,
    mma: 800e6,
    vec: 50e6,
    launch_us: 2.5,
    workers: 132.0,
    layouts: &[
        LayoutShare { layout: Layout::Rows, few: (0.5, 0.3), many: (0.5, 0.3) },
        LayoutShare { layout: Layout::Frag, few: (0.95, 0.25), many: (0.8, 0.5) },
        LayoutShare { layout: Layout::Tile, few: (0.8, 0.2), many: (0.95, 0.85) },
    ],
    few_rows: 32.0,
    staged_rows: 32.0,
    joint_stores: true,
    state_pieces: 24.0,
    state_resident: true,
    token_us: 0.5,
    chunk_us: 2.0,
    conv_in_delta: true,
    exposed: 0.1,
};

/// Roofline prices of a target in a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// The target.
    pub target: TargetParams,
    /// The phase.
    pub phase: Phase,
}

/// Times in microseconds while a price is put together.
#[derive(Clone, Copy, Default)]
struct Times {
    launches: u32,
    alone: f64,
    busy: [f64; 3],
}

impl Times {
    fn plus(mut self, other: Times) -> Times {
        self.launches += other.launches;
        self.alone += other.alone;
        self.busy.iter_mut().zip(other.busy).for_each(|(a, b)| *a += b);
        self
    }

    /// The longer of work on memory and work on the matrix units.
    fn overlapped(memory: f64, matrix: f64) -> Times {
        Times { launches: 0, alone: memory.max(matrix), busy: [memory, matrix, 0.0] }
    }

    fn price(self) -> Price {
        let ps = |us: f64| (us * 1e6).round() as u64;
        Price { launches: self.launches, alone_ps: ps(self.alone), busy_ps: self.busy.map(ps) }
    }
}

impl Roofline {
    /// The model of a target in a phase.
    pub fn new(target: TargetParams, phase: Phase) -> Roofline {
        Roofline { target, phase }
    }

    fn rows(&self) -> f64 {
        self.phase.rows() as f64
    }

    fn elems(&self, ty: &Type) -> f64 {
        let Type::Tensor { place, rows, cols, .. } = *ty else { return 0.0 };
        let each = if place == Place::Mem { self.phase.sequences } else { 1 };
        let rows = match rows {
            Rows::Tokens => self.phase.rows(),
            Rows::Context => self.phase.sequences * self.phase.context,
            Rows::Fixed(n) => n * each,
        };
        (rows * cols) as f64
    }

    fn bytes(&self, ty: &Type) -> f64 {
        let (cols, elem) = (ty.cols(), ty.elem());
        self.elems(ty) / cols.max(1) as f64 * elem.map_or(0, |e| e.row_bytes(cols)) as f64
    }

    /// Reading or writing: from cache when it fits.
    fn moved(&self, bytes: f64) -> Times {
        let t = &self.target;
        let us = bytes / if bytes <= t.cache_bytes { t.cache } else { t.dram };
        Times { launches: 0, alone: us, busy: [us, 0.0, 0.0] }
    }

    fn launch(&self) -> Times {
        Times { launches: 1, alone: self.target.launch_us, busy: [0.0; 3] }
    }

    fn vector(&self, flops: f64) -> Times {
        let us = flops / self.target.vec;
        Times { launches: 0, alone: us, busy: [0.0, 0.0, us] }
    }

    fn product(&self, weight: &Type, layout: Layout) -> Option<Times> {
        let share = self.target.layouts.iter().find(|share| share.layout == layout)?;
        let (memory, matrix) = if self.rows() <= self.target.few_rows { share.few } else { share.many };
        let flops = 2.0 * self.elems(weight) * self.rows();
        Some(Times::overlapped(self.bytes(weight) / (self.target.dram * memory), flops / (self.target.mma * matrix)))
    }

    /// A sweep over `args[0]`: launch, read, and normalising where it does.
    fn sweep(&self, work: &Work) -> Option<Times> {
        let read = self.launch().plus(self.moved(self.bytes(&work.args[0])));
        let elems = self.elems(&work.args[0]);
        let whole_rows = self.rows() <= self.target.staged_rows;
        let inexact = Times { alone: 0.1 * self.target.launch_us, ..Times::default() };
        match work.op {
            Op::SweepNorm(_) => {
                let passes = if whole_rows { self.target.workers } else { 64.0 };
                Some(read.plus(self.vector(4.0 * passes * elems)))
            }
            Op::SweepFold(_) if !whole_rows => None,
            Op::SweepFold(_) => Some(read.plus(self.vector(2.0 * self.target.workers * elems)).plus(inexact)),
            Op::SweepFoldMs(_) => Some(read.plus(self.moved(self.bytes(&work.args[2]))).plus(inexact)),
            _ => Some(read),
        }
    }

    /// The better of the kernels for the recurrence: a strategy that changes no interface is chosen here, not by rewriting.
    fn recurrence(&self, work: &Work, l2_inside: bool) -> Option<Times> {
        let Type::Grid { cols: out, state: (rows, cols), .. } = work.result else { return None };
        let (t, state, key) = (&self.target, (rows * cols) as f64, work.args[0].cols() as f64);
        let (batch, tokens) = (self.phase.sequences as f64, self.phase.tokens as f64);
        let traffic = self.moved(batch * state * 8.0);
        let fill = (batch * t.state_pieces / t.workers).min(1.0);
        let from_cache = if t.state_resident { 0.0 } else { tokens * batch * state * 8.0 / t.cache };
        let recurrent = tokens * t.token_us + tokens * 7.0 * batch * state / (t.vec * fill) + from_cache;
        let flops = self.rows() * (6.0 * state + 64.0 * 4.0 * (key + out as f64));
        let chunked = (tokens / 64.0).ceil() * t.chunk_us + flops / (t.mma * 0.45 * fill);
        let math = if tokens < 16.0 { recurrent } else { recurrent.min(chunked) };
        let times = Times::overlapped(traffic.alone, math).plus(self.launch());
        let l2 = self.vector(if l2_inside { self.rows() * key * 8.0 } else { 0.0 });
        Some(times.plus(self.moved(self.rows() * (2.0 * key + out as f64) * 4.0)).plus(l2))
    }

    /// A worker owns columns of one head of one sequence, so the generator's weight is read once per sequence, after the first time from cache.
    fn recurrence_with_conv(&self, work: &Work) -> Option<Times> {
        if !self.target.conv_in_delta || self.phase.tokens > 1 {
            return None;
        }
        let weight = self.bytes(&work.args[3]);
        let us = weight / (self.target.dram * 0.9) + (self.rows() - 1.0) * weight / self.target.cache;
        let generator = Times { launches: 0, alone: us, busy: [us, 0.0, 0.0] };
        let heads = work.args[7].cols() as f64;
        let read = self.moved(self.bytes(&work.args[2]) * heads + 2.0 * self.bytes(&work.args[6]));
        Some(self.recurrence(work, true)?.plus(generator).plus(read))
    }

    fn attention(&self, work: &Work, window: usize) -> Times {
        let seen =
            if window == 0 { 1.0 } else { ((window + self.phase.tokens) as f64 / self.phase.context as f64).min(1.0) };
        let cache = seen * (self.bytes(&work.args[1]) + self.bytes(&work.args[2]));
        let flops = 2.0 * self.rows() * seen * self.phase.context as f64 * work.args[0].cols() as f64;
        let times = Times::overlapped(cache / self.target.dram, flops / (self.target.mma * 0.5));
        times.plus(self.launch()).plus(self.moved(self.bytes(&work.args[0])))
    }

    /// An op that works in memory as a kernel, and in registers as an epilogue that reads what is not in registers.
    fn elementwise(&self, work: &Work) -> Times {
        let each = match work.op {
            Op::Silu(_) | Op::Sigmoid(_) | Op::Softplus(_) | Op::Exp(_) | Op::Rope(_) | Op::DynamicConv(_) => 8.0,
            Op::GatedNorm(_) => 16.0,
            _ => 1.0,
        };
        let flops = each * self.elems(&work.result);
        let operands = work.args.iter().filter(|a| a.place() == Some(Place::Mem)).map(|a| self.bytes(a));
        let read = operands.fold(Times::default(), |sum, bytes| sum.plus(self.moved(bytes)));
        if work.result.place() == Some(Place::Reg) {
            // the epilogue of one tile runs beside the products of the next; a tenth stays visible
            read.plus(self.vector(0.1 * flops))
        } else {
            read.plus(self.launch()).plus(self.vector(flops)).plus(self.moved(self.bytes(&work.result)))
        }
    }

    fn times(&self, work: &Work) -> Option<Times> {
        // what is appended takes the type of the cache
        let appended = || {
            let (rows, cols) = (self.elems(&work.args[1]) / work.args[1].cols().max(1) as f64, work.args[1].cols());
            self.moved(rows * work.args[0].elem().map_or(0, |e| e.row_bytes(cols)) as f64)
        };
        Some(match work.op {
            Op::Sweep(_) | Op::SweepNorm(_) | Op::SweepFold(_) | Op::SweepFoldMs(_) => self.sweep(work)?,
            Op::Acc(_) => self.product(&work.args[1], work.layout.unwrap_or(Layout::Rows))?,
            Op::Matmul(_) => {
                let read = self.moved(self.bytes(&work.args[0]) + self.bytes(&work.result));
                self.launch().plus(read).plus(self.product(&work.args[1], Layout::Rows)?)
            }
            Op::GatedDeltaRule(_) => self.recurrence(work, false)?,
            Op::DeltaL2(_) => self.recurrence(work, true)?,
            Op::DeltaConv(_) => self.recurrence_with_conv(work)?,
            Op::Attention(attention) => self.attention(work, attention.window),
            // a rule makes it `store(out(..))`, which epilogues can work on
            Op::Get0(_) => return None,
            Op::Get1(_) | Op::Out(_) => Times::default(),
            Op::Embed(_) => self.launch().plus(self.moved(2.0 * self.bytes(&work.result))),
            Op::StoreMs(_) if !self.target.joint_stores => return None,
            Op::StoreMs(_) => self.moved(self.rows() * 48.0),
            Op::StoreKv(_) => appended(),
            Op::KvAppend(_) => self.launch().plus(self.moved(self.bytes(&work.args[1]))).plus(appended()),
            op if op.sort() == Sort::Store => self.moved(self.bytes(&work.result)),
            _ => self.elementwise(work),
        })
    }
}

impl CostModel for Roofline {
    fn name(&self) -> String {
        format!("{}, {}", self.target.name, self.phase.name)
    }

    fn phase(&self) -> &Phase {
        &self.phase
    }

    fn price(&self, work: &Work) -> Option<Price> {
        self.times(work).map(Times::price)
    }

    /// Launch, the busiest of memory, matrix and vector units, and the exposed share of everything.
    fn kernel_ps(&self, sum: &Price) -> u64 {
        let launch = f64::from(sum.launches) * self.target.launch_us * 1e6;
        let longest = sum.busy_ps.into_iter().max().unwrap_or(0) as f64;
        let work = sum.alone_ps as f64 - launch;
        (launch + (1.0 - self.target.exposed) * longest + self.target.exposed * work.max(0.0)).round() as u64
    }
}
