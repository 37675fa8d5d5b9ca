//! How far an artifact's values may be from those of a reference, and why.

use crate::compile;
use anyhow::Context;
use jet_ir::Rounding;
use jet_runtime::{DeviceChoice, Model};
use jetbin::SectionKind;
use serde_json::Value;

/// f32 activations: ten times what f32 rounding makes of the official 2B model. Part by part 1e-6 is found; a part is the difference of two
/// residual streams, and where these are a hundred times as long, two digits of it are lost.
const F32: f64 = 1e-4;
/// f32 activations where both sides round: twice the tolerance of the official 4B model, which is the larger.
const F32_TWO_SIDES: f64 = 2e-4;
/// bf16 activations: 1.5 times the distance of the official 2B model in bf16 from the same in f32.
const BF16: f64 = 0.189;
/// Activations quantised to bytes, two programs end to end: the step of a group is 1/127 of its largest element, which is about 2.75 times
/// the root mean square of 64 normal numbers, so the error is 2.75 / 127 / sqrt(12) = 0.63 % of it; rounding to bf16 makes 0.16 %.
/// Four times the error of each operand, four times the distance. An element that two programs round to different sides moves
/// elements of the next layer over their borders, so that after some layers the roundings of two programs are as good as
/// independent. [`Part::bytes`] is the sharp one.
const BYTES: f64 = 4.0 * BF16;
/// Against the reference that rounds to bf16 too and starts every half layer from the artifact's own residual stream: only elements
/// next to a border differ, by a step. Four times the worst of the tiny golden cases and the example model: 5.7e-4, all but two
/// keys of them below 6e-7.
const BF16_GUIDED: f64 = 2.5e-3;
/// How much further away than a whole key one of its columns may be; found: 2.8 times.
const COLUMN: f64 = 4.0;
/// Relative L2 error of normal numbers that are rounded to bf16; of numbers with evenly distributed logarithms it is 1.53e-3.
const ROUNDING: f64 = 1.66e-3;
/// How much more than its roundings an error may be in models of any width. Found: 0.36 to 0.97 in the example model, which is trained; up to
/// 1.46 in the tiny golden cases, whose few dozen columns do not average out, and where a gated norm takes differences of its inputs.
const MARGIN: f64 = 1.6;
/// The same at the width of the 2B model; found: 1.03 where the number of roundings is exact. One rounding more than three is 1.15.
pub const FULL_WIDTH: f64 = 1.1;

/// What a part of the model may differ by where it starts from the artifact's own residual stream.
struct Part {
    /// End of its key in [`super::guided`].
    end: &'static str,
    /// On a GPU: how often a value is rounded to bf16 between the residual stream and this value, at most and in layers with the delta rule.
    /// Roundings of different operands are independent, so that `n` of them make an error of `sqrt(n)` roundings. Where a factor is a
    /// function of a rounded value that flattens its error (softmax, sigmoid), it counts in full.
    roundings: u32,
    /// On a CPU whose products read bytes, against the reference that rounds as well: the relative L2 difference, three times the
    /// worst. Found where no element crosses a border: 7e-7; where one does in a tiny model: 1.9e-3 behind one or two products, in
    /// an MLP, of which mixers have a product more. The rows of the first mixer come from the embedding, and quotients of small integers
    /// lie on a border exactly (0.3 % of them): 8.6e-4 in its ring, 2.9e-3 in its state, 6.8e-3 behind the three products.
    bytes: f64,
}

/// The parts of a model; the first end that fits counts.
const PARTS: &[Part] = &[
    Part { end: "embedding", roundings: 0, bytes: 0.006 },
    // the rows; what is stored is f32
    Part { end: "conv_state", roundings: 1, bytes: 0.006 },
    // the rows, and the cache itself
    Part { end: ".k", roundings: 2, bytes: 0.006 },
    Part { end: ".v", roundings: 2, bytes: 0.006 },
    // the rows as `k`, `v` and as the kernels of `v`, the hidden values of their generator; in prefill `k`, `v` and the state as operands
    Part { end: "recurrent_state", roundings: 7, bytes: 0.009 },
    // rows as `q`, `k`, `v`, the cache twice, `q` and the softmax as operands, the results; or those of the state, rows as `q` and gate, the results
    Part { end: "layers.00.mixer", roundings: 10, bytes: 0.02 },
    Part { end: ".mixer", roundings: 10, bytes: 0.01 },
    // the rows as gate and as up, and the product of these
    Part { end: ".mlp", roundings: 3, bytes: 0.006 },
    // the rows, where a program keeps them
    Part { end: "last_hidden", roundings: 1, bytes: 0.006 },
    Part { end: "logits", roundings: 1, bytes: 0.006 },
];

impl Part {
    fn of(key: &str) -> Option<&'static Part> {
        PARTS.iter().find(|part| key.ends_with(part.end))
    }

    fn roundings(&self, margin: f64) -> f64 {
        margin * ROUNDING * f64::from(self.roundings).sqrt()
    }
}

/// Which keys may differ by less than others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sharper {
    /// None.
    Nothing,
    /// Parts of a GPU's model, by their roundings and this margin.
    Roundings(f64),
    /// Parts of a model whose products read bytes.
    Bytes,
    /// States and mixer of the first layer, by their roundings: what they start from is the embedding, which nobody rounds.
    FirstMixer,
}

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest relative L2 difference of a key for which there is no smaller one.
    relative_l2: f64,
    sharper: Sharper,
    /// Whether chosen ids must be equal. Logits of two tokens may be nearer to each other than bf16 resolves, so ids that
    /// bf16 activations chose tell nothing; their logits do.
    pub equal_ids: bool,
}

impl From<f64> for Tolerance {
    fn from(relative_l2: f64) -> Tolerance {
        Tolerance { relative_l2, sharper: Sharper::Nothing, equal_ids: true }
    }
}

impl Tolerance {
    /// For values of others; `asked` replaces the distance that the type of the artifact's activations allows.
    ///
    /// # Errors
    /// A negative distance, or an artifact whose recipe cannot be read.
    pub fn of(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        Tolerance::choose(model, asked, [(F32, Sharper::Nothing), (BF16, Sharper::FirstMixer), (F32, Sharper::Nothing)])
    }

    /// For two programs of the artifact, end to end.
    ///
    /// # Errors
    /// As for [`Tolerance::of`].
    pub fn of_two_sides(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        Tolerance::choose(model, asked, [F32_TWO_SIDES, BF16, BYTES].map(|most| (most, Sharper::Nothing)))
    }

    /// For the reference evaluation in the artifact's [`rounding`], part by part ([`super::guided`]). The reference rounds rows
    /// as a CPU does; a GPU rounds more than these, so that its roundings are counted.
    ///
    /// # Errors
    /// As for [`Tolerance::of`].
    pub fn of_reference(model: &Model, asked: Option<f64>) -> anyhow::Result<Tolerance> {
        let bf16 = match model.device() {
            DeviceChoice::Cpu => (BF16_GUIDED, Sharper::Nothing),
            _ => (BF16, Sharper::Roundings(MARGIN)),
        };
        Tolerance::choose(model, asked, [(F32, Sharper::Nothing), bf16, (BYTES, Sharper::Bytes)])
    }

    /// For the reference evaluation in f32, part by part, of a GPU's artifact whose errors may be `margin` times its roundings.
    pub fn of_roundings(margin: f64) -> Tolerance {
        Tolerance { relative_l2: BF16, sharper: Sharper::Roundings(margin), equal_ids: false }
    }

    /// Largest relative L2 difference of a key.
    pub fn of_key(&self, key: &str) -> f64 {
        let sharper = match self.sharper {
            Sharper::Nothing => None,
            Sharper::Roundings(margin) => Part::of(key).map(|part| part.roundings(margin)),
            Sharper::Bytes => Part::of(key).map(|part| part.bytes),
            Sharper::FirstMixer => of_first_mixer(key).map(|part| part.roundings(MARGIN)),
        };
        sharper.unwrap_or(self.relative_l2)
    }

    /// What a column may differ by where a whole key may by this.
    pub fn of_column(&self, key: &str) -> f64 {
        COLUMN * self.of_key(key)
    }

    /// The tolerance of f32, of rows rounded to bf16, or of rows rounded to bytes; `asked` is the same for every key.
    fn choose(model: &Model, asked: Option<f64>, [f32, bf16, bytes]: [(f64, Sharper); 3]) -> anyhow::Result<Tolerance> {
        let rounding = rounding(model)?;
        // the products of a GPU round their operands in any case
        let in_bf16 = rounding.bf16 || model.device() != DeviceChoice::Cpu;
        let equal_ids = !in_bf16;
        if let Some(asked) = asked {
            anyhow::ensure!(asked >= 0.0, "--tolerance: found {asked}, expected 0 or more");
            return Ok(Tolerance { equal_ids, ..asked.into() });
        }
        let (relative_l2, sharper) = match (rounding.bytes, in_bf16) {
            (true, true) if bf16.0 > bytes.0 => bf16,
            (true, _) => bytes,
            (false, true) => bf16,
            (false, false) => f32,
        };
        Ok(Tolerance { relative_l2, sharper, equal_ids })
    }
}

/// The part that a key of a reference file holds, if it belongs to the mixer of the first layer.
fn of_first_mixer(key: &str) -> Option<&'static Part> {
    // of a model of one layer
    let mixer = key.ends_with("mixer_out").then_some(".mixer");
    Part::of(mixer.or_else(|| key.contains(".layers.0.").then_some(key))?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_tolerance_of_their_part() {
        let gpu = Tolerance::of_roundings(FULL_WIDTH);
        for (key, roundings) in [("embedding", 0.0), ("layers.03.k", 2.0), ("layers.00.mixer", 10.0), ("logits", 1.0)] {
            assert_eq!(gpu.of_key(key), 1.1 * 1.66e-3 * f64::sqrt(roundings), "{key}");
        }
        assert_eq!(gpu.of_key("seq0.choice"), BF16);
        assert_eq!(gpu.of_column("logits"), 4.0 * gpu.of_key("logits"));
    }

    /// What lies behind the first mixer has errors of what is before.
    #[test]
    fn of_a_reference_file_only_the_first_mixer_is_judged_as_a_part() {
        let file = Tolerance { sharper: Sharper::FirstMixer, ..BF16.into() };
        let roundings = |n: f64| 1.6 * 1.66e-3 * n.sqrt();
        let keys = [
            ("seq0.prefill.layers.0.conv_state", roundings(1.0)),
            ("seq1.final.layers.0.v", roundings(2.0)),
            ("seq0.mixer_out", roundings(10.0)),
            ("seq0.final.layers.10.v", BF16),
            ("seq0.layer_out", BF16),
            ("seq0.logits", BF16),
        ];
        keys.iter().for_each(|(key, most)| assert_eq!(file.of_key(key), *most, "{key}"));
    }
}
