//! How far an artifact's values may be from those of a reference, and why.

use crate::compile;
use anyhow::Context;
use jet_runtime::{DeviceChoice, Model};
use jetbin::SectionKind;
use serde_json::Value;

/// f32 activations: ten times what f32 rounding makes of the official 2B model.
const F32: f64 = 1e-4;
/// f32 activations where both sides round: twice the tolerance of the official 4B model, which is the larger.
const F32_TWO_SIDES: f64 = 2e-4;
/// bf16 activations: 1.5 times the distance of the official 2B model in bf16 from the same in f32.
const BF16: f64 = 0.189;
/// Activations quantised to bytes: the step of a group is 1/127 of its largest element, which is about 2.75 times the root
/// mean square of 64 normal numbers, so the error is 2.75 / 127 / sqrt(12) = 0.63 % of it; rounding to bf16 makes 0.16 %.
/// Four times the error of each operand, four times the distance. Tests of the kernels, on numbers that bytes hold exactly,
/// are as strict as those of f32.
const BYTES: f64 = 4.0 * BF16;

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
        Tolerance::choose(model, asked, F32, F32)
    }

    /// For values that are computed here too.
    ///
    /// # Errors
    /// As for [`Tolerance::of`].
    pub fn of_two_sides(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        Tolerance::choose(model, asked, F32_TWO_SIDES, BYTES)
    }

    fn choose(model: &Model, asked: Option<f64>, f32: f64, bytes: f64) -> anyhow::Result<Tolerance> {
        if let Some(asked) = asked {
            anyhow::ensure!(asked >= 0.0, "--tolerance: found {asked}, expected 0 or more");
        }
        let recipe = &recipe(model)?["compile"];
        // the products of a GPU round their operands in any case
        let rounded = recipe["activations"] == "bf16" || model.device() != DeviceChoice::Cpu;
        let in_bytes = recipe["targets"][model.target() as usize]["quantised_products"] == compile::BYTES;
        let default = match (rounded, in_bytes) {
            (true, _) => BF16,
            (false, true) => bytes,
            (false, false) => f32,
        };
        Ok(Tolerance { relative_l2: asked.unwrap_or(default), equal_ids: !rounded })
    }
}

/// What an artifact says of its making; null if nothing.
///
/// # Errors
/// A damaged section.
pub fn recipe(model: &Model) -> anyhow::Result<Value> {
    let text = model.reader().text(SectionKind::Recipe)?.unwrap_or("null");
    serde_json::from_str(text).context("section recipe: not valid JSON")
}
