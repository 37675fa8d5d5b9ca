//! The deterministic generator of synthetic weights: every element is a function of the tensor's name, its index
//! and a seed, so that models of any size exist without a file and can be made in any order and in parallel.
//!
//! Element `i` of tensor NAME under seed `s` (all arithmetic modulo 2^64):
//! `seed64 = fnv1a64(NAME) ^ (s * GOLDEN)`, `z = splitmix64(seed64 + (i + 1) * GOLDEN)`, `t = (z >> 40) / 2^23 - 1`,
//! `value = f32(a + f32(b * t))`, rounded to bf16 except for `A_log` and `dt_bias`. `a` and `b` depend on the
//! tensor's role ([`Generator::for_tensor`]).

use crate::tensors::TensorSpec;
use crate::weights::WeightDtype;

/// 2^64 over the golden ratio: the increment of splitmix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// 64-bit FNV-1a hash.
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    fnv1a64_extend(0xcbf2_9ce4_8422_2325, bytes)
}

/// Continues an FNV-1a hash over further bytes.
pub fn fnv1a64_extend(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Rounds to bf16, nearest even, for finite values.
#[inline]
fn round_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

/// The elements of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Generator {
    seed64: u64,
    a: f32,
    b: f32,
    rounded: bool,
}

impl Generator {
    /// The bf16 values `a + b * t`, `t` uniform in [-1, 1).
    fn new(name: &str, seed: u64, a: f32, b: f32) -> Generator {
        Generator { seed64: fnv1a64(name.as_bytes()) ^ seed.wrapping_mul(GOLDEN), a, b, rounded: true }
    }

    /// The generator of a weight: offset, range and type follow from the name's ending and the number of columns.
    pub fn for_tensor(spec: &TensorSpec, seed: u64) -> Generator {
        let (a, b) = offset_and_range(&spec.name, spec.shape.last().copied().unwrap_or(1));
        let rounded = !spec.name.ends_with("A_log") && !spec.name.ends_with("dt_bias");
        Generator { rounded, ..Generator::new(&spec.name, seed, a, b) }
    }

    /// The 64 random bits of element `index`.
    #[inline]
    fn bits(&self, index: u64) -> u64 {
        let z = self.seed64.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Element `index` before rounding to bf16.
    #[inline]
    pub fn value(&self, index: u64) -> f32 {
        let u = (self.bits(index) >> 40) as i32 as f32 / 16_777_216.0;
        // Two roundings: Rust never contracts the product and the sum into one.
        self.a + self.b * (2.0 * u - 1.0)
    }

    /// Writes the bf16 bits of the elements from `start` on.
    pub fn fill_bf16(&self, start: u64, out: &mut [u16]) {
        for (i, slot) in (start..).zip(out) {
            *slot = round_bf16(self.value(i));
        }
    }

    /// Writes the elements from `start` on, rounded as the tensor's own type asks for.
    pub fn fill_f32(&self, start: u64, out: &mut [f32]) {
        for (i, slot) in (start..).zip(out) {
            let value = self.value(i);
            *slot = if self.rounded { f32::from_bits(u32::from(round_bf16(value)) << 16) } else { value };
        }
    }

    /// The type in which the tensor is stored.
    pub fn dtype(&self) -> WeightDtype {
        if self.rounded { WeightDtype::Bf16 } else { WeightDtype::F32 }
    }

    /// Writes the little-endian bytes of the elements from `start` on, in the tensor's own type. `out` holds whole
    /// elements.
    pub fn fill_bytes(&self, start: u64, out: &mut [u8]) {
        if self.rounded {
            for (i, slot) in (start..).zip(out.as_chunks_mut::<2>().0) {
                *slot = round_bf16(self.value(i)).to_le_bytes();
            }
        } else {
            for (i, slot) in (start..).zip(out.as_chunks_mut::<4>().0) {
                *slot = self.value(i).to_le_bytes();
            }
        }
    }

    /// [`Generator::fill_bytes`] on all cores.
    pub fn fill_bytes_parallel(&self, start: u64, out: &mut [u8]) {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let size = self.dtype().bytes();
        let elements = (out.len() / size).div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            for (i, part) in out.chunks_mut(elements * size).enumerate() {
                scope.spawn(move || self.fill_bytes(start + (i * elements) as u64, part));
            }
        });
    }
}

/// Offset and range of a tensor's values.
fn offset_and_range(name: &str, columns: usize) -> (f32, f32) {
    const NORMS: [&str; 4] =
        ["input_layernorm.weight", "post_attention_layernorm.weight", "o_norm.weight", "model.norm.weight"];
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let scaled = |gain: f64| (3f64.sqrt() * gain / (columns as f64).sqrt()) as f32;
    if ends(&NORMS) {
        (1.0, 0.1)
    } else if ends(&["A_log"]) {
        (1.0, 1.0)
    } else if ends(&["dt_bias"]) {
        (-3.0, 1.5)
    } else if ends(&["kernel_generator.w2.bias"]) {
        (0.25, 0.25)
    } else if ends(&[".bias"]) {
        (0.0, 0.1)
    } else if ends(&["embed_tokens.weight", "lm_head.weight"]) {
        (0.0, 0.05)
    } else if ends(&["o_proj.weight", "down_proj.weight"]) {
        (0.0, scaled(0.5))
    } else {
        (0.0, scaled(1.0))
    }
}

/// The token ids of test sequence `sequence`.
pub fn token_ids(sequence: usize, seed: u64, vocab: usize, count: usize) -> Vec<u32> {
    let ids = Generator::new(&format!("input_ids.{sequence}"), seed, 0.0, 0.0);
    (0..count as u64).map(|i| ((ids.bits(i) >> 33) % vocab as u64) as u32).collect()
}

/// Random rows for tests of a single layer: uniform with variance 1, rounded to bf16.
///
/// # Shapes
/// `[rows, columns]`, row-major.
pub fn input_rows(seed: u64, rows: usize, columns: usize) -> Vec<f32> {
    let generator = Generator::new("input", seed, 0.0, 3f64.sqrt() as f32);
    let mut values = vec![0.0; rows * columns];
    generator.fill_f32(0, &mut values);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(name: &str, shape: &[usize]) -> Generator {
        Generator::for_tensor(&TensorSpec { name: name.to_string(), shape: shape.to_vec() }, 1)
    }

    fn first<const N: usize>(generator: &Generator) -> [u16; N] {
        let mut out = [0; N];
        generator.fill_bf16(0, &mut out);
        out
    }

    fn fnv_of(generator: &Generator, elements: usize) -> u64 {
        let mut hash = fnv1a64(b"");
        let mut block = vec![0u8; (8 << 20).min(2 * elements)];
        let mut done = 0;
        while done < elements {
            let n = (block.len() / 2).min(elements - done);
            generator.fill_bytes_parallel(done as u64, &mut block[..2 * n]);
            hash = fnv1a64_extend(hash, &block[..2 * n]);
            done += n;
        }
        hash
    }

    #[test]
    fn whole_embedding_of_the_2b_model() {
        let table = generator("model.embed_tokens.weight", &[151936, 1536]);
        assert_eq!(table.seed64, 0x36b8_ae2c_aa8c_ad43);
        let unrounded = [0, 1, 2, 3].map(|i| table.value(i).to_bits());
        assert_eq!(unrounded, [0xbd0c_613a, 0xbd03_9a3d, 0xbb17_1480, 0xbae4_b733]);
        assert_eq!(first(&table), [0xbd0c, 0xbd04, 0xbb17, 0xbae5]);
        assert_eq!(fnv_of(&table, 151936 * 1536), 0xb9ae_1809_7174_19c1);
    }

    #[test]
    fn matrix_and_bias() {
        let down = generator("model.layers.27.mlp.down_proj.weight", &[1536, 8960]);
        assert_eq!(down.b, 0.009_149_063);
        assert_eq!(first(&down), [0xbc03, 0xbbf8, 0x3b7c, 0x3c01]);
        assert_eq!(fnv_of(&down, 1536 * 8960), 0x9883_cb70_fd12_0b22);
        let bias = generator("model.layers.0.self_attn.dynamic_conv1d.kernel_generator.w2.bias", &[12288]);
        assert_eq!(first(&bias), [0x3ef6, 0x3c13, 0x3e0b, 0x3e0c]);
        assert_eq!(fnv_of(&bias, 12288), 0x2c71_cd16_9f14_9c1d);
        assert_eq!(first(&generator("model.norm.weight", &[1536])), [0x3f7c, 0x3f79, 0x3f89, 0x3f86]);
    }

    #[test]
    fn f32_tensors() {
        let read = |name: &str| {
            let generator = generator(name, &[12]);
            assert_eq!(generator.dtype(), WeightDtype::F32);
            let mut out = [0.0f32; 4];
            generator.fill_f32(0, &mut out);
            out.map(f32::to_bits)
        };
        let dt_bias = read("model.layers.3.self_attn.dt_bias");
        assert_eq!(dt_bias, [0xc060_c2be, 0xc020_cd02, 0xc048_165c, 0xc035_41b3]);
        assert_eq!(read("model.layers.3.self_attn.A_log"), [0x3eb9_02a0, 0x3fad_3533, 0x3fe5_816b, 0x3d88_0f40]);
    }

    #[test]
    fn ids_and_input_rows() {
        assert_eq!(token_ids(0, 1, 151936, 6), [5437, 116466, 82834, 94991, 3467, 97546]);
        assert_eq!(input_rows(21, 1, 4), [-1.46875, -0.792_968_75, -0.222_656_25, 1.4375]);
    }

    #[test]
    fn ranges_agree_with_the_whole() {
        for name in ["lm_head.weight", "A_log"] {
            let table = generator(name, &[7, 11]);
            let size = table.dtype().bytes();
            let mut whole = vec![0u8; 77 * size];
            table.fill_bytes(0, &mut whole);
            let mut parallel = vec![0u8; 77 * size];
            table.fill_bytes_parallel(0, &mut parallel);
            assert_eq!(whole, parallel);
            let mut part = vec![0u8; 20 * size];
            table.fill_bytes(33, &mut part);
            assert_eq!(part, whole[33 * size..53 * size]);
        }
    }
}
