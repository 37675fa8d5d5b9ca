//! A parsed module: kernels in compiled form, and what a launch must know of them.

use crate::error::ParseError;
use crate::inst::Inst;
use crate::types::{R32, R64, RP};
use std::sync::Arc;

/// Kernels parsed from one PTX text.
#[derive(Debug)]
pub struct Module {
    pub(crate) target: Target,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) text: Arc<str>,
}

/// The `.target` of a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// 80 for `sm_80`.
    pub sm: u32,
    /// `sm_90a`: everything of that architecture, and only there.
    pub specific: bool,
}

impl Module {
    /// Parses PTX text.
    ///
    /// # Errors
    /// The first thing that is not understood, with its place: grammar, types, an unknown opcode or modifier, an instruction that the
    /// module's `.target` does not have.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        crate::parse::module(text)
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }

    /// What every launch of a kernel must keep to; `None` if there is no such kernel.
    pub fn limits(&self, name: &str) -> Option<Limits> {
        let kernel = self.kernel(name)?;
        let volume = |e: [u32; 3]| e.iter().fold(1u32, |product, n| product.saturating_mul(*n));
        Some(Limits {
            parameters: kernel.params.len(),
            shared_bytes: kernel.shared_bytes,
            threads: kernel.required_threads.or(kernel.max_threads).map(volume),
        })
    }

    /// The architecture that it is for: 80 for `sm_80`.
    pub fn sm(&self) -> u32 {
        self.target.sm
    }

    /// Whether it is for that architecture alone, as `sm_90a` is.
    pub fn is_specific(&self) -> bool {
        self.target.specific
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}

/// What every launch of a kernel must keep to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Number of parameters.
    pub parameters: usize,
    /// Bytes of shared variables.
    pub shared_bytes: u32,
    /// Most threads of a block, where the text says so.
    pub threads: Option<u32>,
}

/// A kernel.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub code: Vec<Inst>,
    pub files: Files,
    /// It has products of warpgroups.
    pub uses_wgmma: bool,
    /// Registers that hold constants.
    pub presets32: Vec<(R32, Preset)>,
    pub presets64: Vec<(R64, Preset)>,
    pub presets_pred: Vec<(RP, bool)>,
    /// Bytes of the declared shared variables; dynamic shared memory starts at the next multiple of `dynamic_align`.
    pub shared_bytes: u32,
    pub dynamic_align: u32,
    /// `.reqntid`, `.maxntid`.
    pub required_threads: Option<[u32; 3]>,
    pub max_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub required_cluster: Option<[u32; 3]>,
}

/// Registers of each file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Files {
    pub short: u32,
    pub long: u32,
    pub pred: u32,
}

/// A kernel parameter.
#[derive(Debug)]
pub(crate) struct Param {
    pub name: String,
    pub offset: u32,
    pub bytes: u32,
}

impl Kernel {
    /// Where dynamic shared memory starts, as an offset into the block's shared memory.
    pub fn dynamic_offset(&self) -> u32 {
        self.shared_bytes.next_multiple_of(self.dynamic_align.max(1))
    }
}

/// What a register holds before the first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Preset {
    Value(u64),
    /// Offset into the shared memory of the block.
    Shared(u32),
    /// Offset from the start of dynamic shared memory.
    Dynamic(u32),
    Special(Special),
}

/// Special registers that do not change while a warp runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    SmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtarank,
    ClusterNctarank,
    DynamicSharedBytes,
}

impl Special {
    /// The register that PTX calls `%name` or `%name.axis`.
    pub fn named(name: &str, axis: Option<&str>) -> Option<Special> {
        let along = |make: fn(u8) -> Special| {
            let axes = ["x", "y", "z"];
            axes.iter().position(|a| Some(*a) == axis).map(|n| make(n as u8))
        };
        let plain = |s: Special| axis.is_none().then_some(s);
        match name {
            "%tid" => along(Special::Tid),
            "%ntid" => along(Special::Ntid),
            "%ctaid" => along(Special::Ctaid),
            "%nctaid" => along(Special::Nctaid),
            "%cluster_ctaid" => along(Special::ClusterCtaid),
            "%cluster_nctaid" => along(Special::ClusterNctaid),
            "%clusterid" => along(Special::ClusterId),
            "%nclusterid" => along(Special::NclusterId),
            "%laneid" => plain(Special::LaneId),
            "%warpid" => plain(Special::WarpId),
            "%smid" => plain(Special::SmId),
            "%gridid" => plain(Special::GridId),
            "%lanemask_eq" => plain(Special::LaneMaskEq),
            "%lanemask_lt" => plain(Special::LaneMaskLt),
            "%lanemask_le" => plain(Special::LaneMaskLe),
            "%lanemask_gt" => plain(Special::LaneMaskGt),
            "%lanemask_ge" => plain(Special::LaneMaskGe),
            "%cluster_ctarank" => plain(Special::ClusterCtarank),
            "%cluster_nctarank" => plain(Special::ClusterNctarank),
            "%dynamic_smem_size" => plain(Special::DynamicSharedBytes),
            _ => None,
        }
    }
}
