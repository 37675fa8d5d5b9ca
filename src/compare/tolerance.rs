//! How far an artifact's values may be from those of a reference, and why.

use crate::compile;
use anyhow::Context;
use jet_ir::Rounding;
use jet_runtime::{DeviceChoice, Model};
use jetbin::SectionKind;
use serde_json::Value;

/// f32 activations: ten times what f32 rounding makes of the official 2B model.
const F32: f64 = 1e-4;
/// f32 activations where both sides round: twice the tolerance of the official 4B model, which is the larger.
const F32_TWO_SIDES: f64 = 2e-4;
/// bf16 activations: 1.5 times the distance of the official 2B model in bf16 from the same in f32.
const BF16: f64 = 0.189;
/// Activations quantised to bytes, two programs end to end: the step of a group is 1/127 of its largest element, which is about 2.75 times
/// the root mean square of 64 normal numbers, so the error is 2.75 / 127 / sqrt(12) = 0.63 % of it; rounding to bf16 makes 0.16 %.
/// Four times the error of each operand, four times the distance. An element that two programs round to different sides moves
/// elements of the next layer over their borders, so that after some layers the roundings of two programs are as good as
/// independent. [`BYTES_GUIDED`] is the sharp one.
const BYTES: f64 = 4.0 * BF16;
/// Against the reference that rounds to bf16 too and starts every half layer from the artifact's own residual stream: only elements
/// next to a border differ, by a step. Four times the worst of the tiny golden cases and the example model: 5.7e-4, all but two
/// keys of them below 6e-7.
const BF16_GUIDED: f64 = 2.5e-3;
/// The same for bytes, three times the worst: 6.8e-3, in a first mixer of the tiny cases, of which three products follow each
/// other and whose input is the embedding, where quotients of small integers lie on a border exactly (0.3 % of them); in the example
/// model 2.9e-3. Other keys are below 6e-7 where no element crosses.
const BYTES_GUIDED: f64 = 0.02;
/// How much further away than a whole key one of its columns may be; found: 2.8 times.
const COLUMN: f64 = 4.0;

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest relative L2 difference of a key.
    pub relative_l2: f64,
    /// Whether chosen ids must be equal. Logits of two tokens may be nearer to each other than bf16 resolves, so ids that
    /// bf16 activations chose tell nothing; their logits do.
    pub equal_ids: bool,
}

impl From<f64> for Tolerance {
    fn from(relative_l2: f64) -> Tolerance {
        Tolerance { relative_l2, equal_ids: true }
    }
}

impl Tolerance {
    /// For values of others; `asked` replaces the distance that the type of the artifact's activations allows.
    ///
    /// # Errors
    /// A negative distance, or an artifact whose recipe cannot be read.
    pub fn of(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        Tolerance::choose(model, asked, [F32, BF16, F32])
    }

    /// For two programs of the artifact, end to end.
    ///
    /// # Errors
    /// As for [`Tolerance::of`].
    pub fn of_two_sides(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        Tolerance::choose(model, asked, [F32_TWO_SIDES, BF16, BYTES])
    }

    /// For the reference evaluation in the artifact's [`rounding`]. A GPU rounds more than rows of products and is compared end to end.
    ///
    /// # Errors
    /// As for [`Tolerance::of`].
    pub fn of_reference(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        let bf16 = if model.device() == DeviceChoice::Cpu { BF16_GUIDED } else { BF16 };
        Tolerance::choose(model, asked, [F32_TWO_SIDES, bf16, BYTES_GUIDED])
    }

    /// What a column may differ by where a whole key may by this.
    pub fn of_column(&self) -> f64 {
        COLUMN * self.relative_l2
    }

    /// The tolerance of f32, of rows rounded to bf16, or of rows rounded to bytes.
    fn choose(model: &Model, asked: Option<f64>, [f32, bf16, bytes]: [f64; 3]) -> anyhow::Result<Tolerance> {
        if let Some(asked) = asked {
            anyhow::ensure!(asked >= 0.0, "--tolerance: found {asked}, expected 0 or more");
        }
        let rounding = rounding(model)?;
        // the products of a GPU round their operands in any case
        let in_bf16 = rounding.bf16 || model.device() != DeviceChoice::Cpu;
        let default = match (rounding.bytes, in_bf16) {
            (true, true) => bytes.max(bf16),
            (true, false) => bytes,
            (false, true) => bf16,
            (false, false) => f32,
        };
        Ok(Tolerance { relative_l2: asked.unwrap_or(default), equal_ids: !in_bf16 })
    }
}

/// How the kernels of an artifact's CPU target round the rows of products; not at all on a GPU, whose kernels round other operands too.
///
/// # Errors
/// An artifact whose recipe cannot be read.
pub fn rounding(model: &Model) -> anyhow::Result<Rounding> {
    if model.device() != DeviceChoice::Cpu {
        return Ok(Rounding::default());
    }
    let recipe = &recipe(model)?["compile"];
    let bytes = recipe["targets"][model.target() as usize]["quantised_products"] == compile::BYTES;
    Ok(Rounding { bf16: recipe["activations"] == "bf16", bytes })
}

/// What an artifact says of its making; null if nothing.
///
/// # Errors
/// A damaged section.
pub fn recipe(model: &Model) -> anyhow::Result<Value> {
    let text = model.reader().text(SectionKind::Recipe)?.unwrap_or("null");
    serde_json::from_str(text).context("section recipe: not valid JSON")
}
