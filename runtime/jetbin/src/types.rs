//! What an artifact holds, as plain structs: the compiler fills them in and gives them to [`Writer`](crate::Writer).
//!
//! The reader gives the same types back, with names borrowed from the mapped bytes (`S = &str`), and views where a
//! plain struct would have to allocate.

/// Every buffer, weight, state and slot stride starts at a multiple of this many bytes.
pub const ALIGN: u64 = 64;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// The number that stands for it in the file.
            pub fn code(self) -> u32 {
                match self { $($name::$variant => $code,)* }
            }

            /// The meaning of a number in the file.
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $($name::$variant => $text,)* })
            }
        }
    )*};
}

codes! {
    /// Which of the two programs.
    Phase {
        /// Rows are consecutive tokens of one sequence.
        Prefill = 0 "prefill",
        /// Rows are sequences, one token each.
        Decode = 1 "decode",
    }
    /// What the rows of a step or buffer are.
    Domain {
        /// All rows of the call, at most `max_rows`.
        Tokens = 0 "tokens",
        /// A window of the rows, chosen by the caller, at most `head_rows`. Steps of this domain run any number of times
        /// after those over tokens, so their buffers must not overlap the buffers over tokens that they read.
        Head = 1 "head",
    }
    /// What a state of a sequence means.
    StateKind {
        /// The last `taps` inputs of a dynamic convolution, newest last: `[taps, Vt]`.
        Conv = 0 "conv",
        /// The matrix of the gated delta rule: `[heads * K, V]`.
        Delta = 1 "delta",
        /// Keys after the rotary embedding: `[capacity, kv_heads * head_dim]`, position `p` in row `p % capacity`.
        Keys = 2 "keys",
        /// Values, laid out as the keys.
        Values = 3 "values",
    }
    /// Type of the elements of a weight.
    DType {
        /// IEEE single precision.
        F32 = 0 "f32",
        /// The upper half of an IEEE single.
        Bf16 = 1 "bf16",
        /// 8-bit codes, with an f32 scale for 64 columns of a row.
        Q8 = 2 "q8",
        /// 4-bit codes, with a bf16 scale and a bf16 summand for 64 columns of a row.
        Q4 = 3 "q4",
    }
    /// What kind of machine a target is.
    DeviceKind {
        /// Position-independent machine code, mapped and called in this process.
        Cpu = 0 "cpu",
        /// Text or binary for a CUDA device.
        Cuda = 1 "cuda",
    }
    /// What a section holds.
    SectionKind {
        /// JSON: compiler version, flags, hashes of the inputs.
        Recipe = 1 "recipe",
        /// JSON: the model's configuration, for people and tools.
        Model = 2 "model",
        /// The numbers that the runtime needs: [`Facts`].
        Facts = 3 "facts",
        /// The string pool of all tables.
        Strings = 4 "strings",
        /// Table of [`TargetDesc`].
        Targets = 5 "targets",
        /// Table of [`KernelDesc`] of one target.
        Kernels = 6 "kernels",
        /// Flat code of one target.
        Code = 7 "code",
        /// The prefill [`Program`] of one target.
        Prefill = 8 "prefill",
        /// The decode [`Program`] of one target.
        Decode = 9 "decode",
        /// Table of [`StateDesc`] of one target, with the size of a slot.
        States = 10 "states",
        /// Table of [`WeightDesc`].
        Weights = 11 "weights",
        /// Packed weights.
        WeightData = 12 "weight-data",
        /// Packed weights that lie in a second file.
        ExternalWeights = 13 "external-weights",
        /// `tokenizer.json`.
        Tokenizer = 14 "tokenizer",
        /// The chat template (Jinja).
        ChatTemplate = 15 "chat-template",
        /// JSON: defaults for generation.
        Generation = 16 "generation",
        /// Licence text of the model.
        License = 17 "license",
        /// Inverse frequencies of the rotary embedding, f32.
        InvFreq = 18 "inv-freq",
        /// Table of [`LaunchDesc`] of one target, a GPU.
        Launches = 19 "launches",
        /// The code of a GPU target once more, assembled: [`Cubin`].
        Cubin = 20 "cubin",
        /// The decode [`Program`] of one target for batches of few sequences, if it has one.
        DecodeFew = 21 "decode-few",
    }
}

/// The numbers of the model that the runtime needs without reading JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A short name for people.
    pub name: String,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Decoder layers.
    pub n_layers: u32,
    /// Columns of the rotary input (`head_dim`); 0 without attention layers.
    pub rope_dim: u32,
    /// Most tokens a sequence can hold.
    pub max_context: u32,
    /// Most sequences in one decode call.
    pub max_batch: u32,
    /// Most tokens in one prefill call.
    pub prefill_chunk: u32,
    /// Ids that end a generation.
    pub eos_ids: Vec<u32>,
}

/// A machine that the artifact holds code for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDesc {
    /// For instance `x86-64-v3`.
    pub name: String,
    /// Kind of device.
    pub device: DeviceKind,
    /// `x86_64` or `aarch64`, as `std::env::consts::ARCH` spells it; `sm_80` and the like for a GPU.
    pub arch: String,
    /// Features that the code uses, in Rust's spelling (`avx2`, `fma`, ..).
    pub features: Vec<String>,
    /// Of two targets that fit, the loader takes the one with the higher rank.
    pub rank: u32,
}

/// A kernel in the code of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelDesc<S = String> {
    /// Name, unique in its target.
    pub name: S,
    /// Canonical text of everything that shapes the code.
    pub key: S,
    /// Offset of the entry in the target's code, in bytes.
    pub offset: u64,
    /// Length of the code, in bytes.
    pub length: u64,
}

/// The kernels of a GPU target, assembled for its architecture from the target's PTX text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cubin<'a> {
    /// The CUDA version of the assembler, major and minor.
    pub version: (u32, u32),
    /// An ELF file.
    pub bytes: &'a [u8],
}

/// How a GPU runs a kernel: one CTA for each item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchDesc {
    /// Threads of a CTA.
    pub threads: u32,
    /// Rows that one item covers where items are counted by rows.
    pub rows: u32,
    /// Items, those of one tile of rows where they are counted by rows.
    pub items: u32,
    /// Shared memory that the launch asks for, in bytes.
    pub shared_bytes: u32,
    /// The kernel may start before the one before it has finished: it waits itself.
    pub overlaps: bool,
    /// The kernel that takes over in calls of many rows; it has the same parameters.
    pub wider: Option<Wider>,
}

/// Another kernel for the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wider {
    /// It runs in calls of more rows than this.
    pub beyond: u32,
    /// Index of the kernel, higher than that of the one that it takes over from.
    pub kernel: u32,
}

/// A schedule with its memory plan, for one target and phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Index of the target.
    pub target: u32,
    /// Prefill or decode.
    pub phase: Phase,
    /// Most rows of a call.
    pub max_rows: u32,
    /// Most rows of a head window.
    pub head_rows: u32,
    /// Size of the arena that all buffers lie in, in bytes.
    pub arena_bytes: u64,
    /// Scratch of each thread, in bytes, enough for `max_rows` rows.
    pub scratch_bytes: u64,
    /// Buffer of the logits, f32 `[head_rows, vocab_size]`, domain `Head`.
    pub logits: u32,
    /// Buffer of the greedy choice, i32 `[head_rows, 1]`, domain `Head`; without it the runtime looks for itself, among candidates if a step
    /// keeps such.
    pub argmax: Option<u32>,
    /// Places in the arena.
    pub buffers: Vec<Buffer>,
    /// In order of execution; all steps of domain `Tokens` come before those of domain `Head`.
    pub steps: Vec<Step>,
    /// Values that an observer may read.
    pub probes: Vec<Probe>,
}

/// A place in the arena. Buffers may overlap where their lives do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer<S = String> {
    /// Name, for people.
    pub name: S,
    /// Offset in the arena, in bytes, a multiple of [`ALIGN`].
    pub offset: u64,
    /// Distance between rows, in bytes, a multiple of 4.
    pub row_bytes: u64,
    /// Decides the number of rows: `max_rows` or `head_rows`.
    pub domain: Domain,
}

/// One kernel call: items `0 .. items_fixed + items_per_row * rows`, shared out among the threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Index into the target's kernels.
    pub kernel: u32,
    /// Which rows it runs over.
    pub domain: Domain,
    /// Items that do not depend on the number of rows.
    pub items_fixed: u32,
    /// Items of every row.
    pub items_per_row: u32,
    /// The kernel's parameters, in order.
    pub args: Vec<Arg>,
    /// What a call moves and computes.
    pub cost: Cost,
    /// For people, for instance `layers.3.mlp.gate_up`.
    pub label: String,
}

/// What a step moves and computes: the weights once a call, states once a sequence, the rest once a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights, a call.
    pub weight_bytes: u64,
    /// Bytes of state read and written, a sequence of the call: one in a prefill, a row in a decode. What attention reads of
    /// the caches is not in it: it grows with the sequence.
    pub state_bytes: u64,
    /// Bytes of activations read and written, a row.
    pub act_bytes: u64,
    /// Floating point operations, a row.
    pub flops: u64,
}

/// One 8-byte word that a kernel gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// Base of a buffer; in a head step, a buffer of domain `Tokens` starts at the first row of the window.
    Buffer(u32),
    /// Base of a weight.
    Weight(u32),
    /// Base of a state in slot 0.
    State(u32),
    /// Bytes between the slots of two sequences.
    SlotStride,
    /// `i32[rows]`: the slot of each row's sequence.
    Slots,
    /// `i32[rows]`: the position of each row's token.
    Positions,
    /// Number of rows.
    Rows,
    /// First item of this thread.
    ItemBegin,
    /// One past the last item of this thread.
    ItemEnd,
    /// Scratch of this thread; on a GPU, of all CTAs.
    Scratch,
    /// `i32` for each CTA of a GPU, all zero between kernels: counters of arrivals.
    Arrivals,
    /// `i32[rows]`: token ids.
    TokenIds,
    /// `f32[rows, rope_dim]`: cosines, then sines, of the rows' positions.
    Rope,
    /// Lists of candidates of this thread of a CPU, one for each row of a head window: [`CandidateList`](crate::CandidateList)s of this length.
    Candidates(u32),
    /// 1 if a head step is to store the logits, 0 if candidates are enough.
    KeepLogits,
    /// A number.
    Const(u64),
}

/// A value that can be read right after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it is.
    pub kind: ProbeKind,
    /// Index of the step after which it can be read.
    pub step: u32,
    /// Where it lies.
    pub source: ProbeSource,
}

/// Meaning of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// The residual stream: 0 is the embedding, `l + 1` the output of layer `l`.
    LayerHidden(u32),
    /// The residual stream of layer `l` between mixer and MLP: what the layer read plus what its mixer made of it.
    MixerHidden(u32),
    /// The residual stream after the final norm.
    LastHidden,
}

/// Where a probe lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeSource {
    /// The rows of a buffer.
    Buffer(u32),
    /// Rows in the scratch of thread 0.
    Scratch {
        /// Offset in the scratch, in bytes.
        offset: u64,
        /// Distance between rows, in bytes.
        row_bytes: u64,
    },
}

/// A state of a sequence, `[rows, cols]`, at a fixed place in every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDesc<S = String> {
    /// For instance `layers.3.keys`.
    pub name: S,
    /// Meaning.
    pub kind: StateKind,
    /// Type of the elements, f32 or bf16.
    pub dtype: DType,
    /// Index of the layer.
    pub layer: u32,
    /// Offset in the slot, in bytes, a multiple of [`ALIGN`].
    pub offset: u64,
    /// Rows; the capacity of a cache.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Heads of a delta state, key/value heads of a cache, 1 for a convolution.
    pub heads: u32,
    /// Tokens that sliding-window attention sees; 0 means all.
    pub window: u32,
    /// Whether a new sequence needs zeros here.
    pub zero_at_start: bool,
}

impl<S> StateDesc<S> {
    /// Size in bytes; the largest number where it is beyond 64 bits, which no slot has room for.
    pub fn bytes(&self) -> u64 {
        (u64::from(self.rows) * u64::from(self.cols)).saturating_mul(self.dtype.block_bytes())
    }
}

impl DType {
    /// Bytes of the smallest piece of a packed weight: one element, or the block of 16 rows and 64 columns of a quantised one.
    pub fn block_bytes(self) -> u64 {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
            DType::Q8 => 16 * (4 + 64),
            DType::Q4 => 16 * (4 + 32),
        }
    }
}

/// A packed weight. Where it lies is the writer's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDesc {
    /// Name, for people.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// How it is packed, for people.
    pub layout: String,
    /// Tensors of the checkpoint that it was made of.
    pub sources: Vec<String>,
}
