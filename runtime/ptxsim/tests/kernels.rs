//! Whole kernels, written by hand for the hardware, against plain loops: everything at once, with launches, pipelines and layouts.

use jet_ptxsim::{Device, DeviceConfig, Launch, Module};

/// Small integers: every product and sum of them is exact.
struct Integers(u64);

impl Integers {
    fn next(&mut self) -> i32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as i32 % 5 - 2
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Vec<Vec<i32>> {
        (0..rows).map(|_| (0..cols).map(|_| self.next()).collect()).collect()
    }
}

/// bf16 of a small integer.
fn bf16(x: i32) -> u16 {
    ((x as f32).to_bits() >> 16) as u16
}

fn bytes16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bytes32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn upload(gpu: &mut Device, data: &[u8]) -> u64 {
    let at = gpu.alloc(data.len() as u64).unwrap();
    gpu.write(at, data).unwrap();
    at
}

/// `Y[n, m] = X[n, k] W[m, k]^T` for 8 rows of X: weights packed as fragments of `mma.sync`, activations staged with `cp.async`, the
/// sum over k split among 8 warps.
#[test]
fn skinny_product() {
    const K: usize = 256;
    const M: usize = 32;
    let (mut random, mut gpu) = (Integers(3), Device::new(DeviceConfig::default()));
    let (w, x) = (random.matrix(M, K), random.matrix(8, K));
    let mut packed = vec![];
    for block in w.chunks(16) {
        for k_block in (0..K).step_by(32) {
            for lane in 0..32 {
                // two steps of four registers of two halves; k is permuted so that a lane's activations are contiguous
                for i in 0..16 {
                    let (step, r, h) = (i / 8, i / 2 % 4, i % 2);
                    let k = k_block + 8 * (lane % 4) + 4 * step + 2 * (r / 2) + h;
                    packed.push(bf16(block[lane / 4 + 8 * (r % 2)][k]));
                }
            }
        }
    }
    let activations: Vec<u16> = x.iter().flatten().map(|v| bf16(*v)).collect();
    let (pw, px) = (upload(&mut gpu, &bytes16(&packed)), upload(&mut gpu, &bytes16(&activations)));
    let py = gpu.alloc((8 * M * 4) as u64).unwrap();
    let module = Module::parse(include_str!("kernels/skinny.ptx")).unwrap();
    let launch = Launch::new(M as u32 / 16, 256).shared(8 * (2 * K as u32 + 64));
    let counters = gpu.launch(&module, "skinny", launch, &[pw, px, py, M as u64]).unwrap();
    let y = floats(&gpu.read(py, (8 * M * 4) as u64).unwrap());
    for n in 0..8 {
        for m in 0..M {
            let want: i32 = (0..K).map(|k| x[n][k] * w[m][k]).sum();
            assert_eq!(y[n * M + m], want as f32, "row {n}, column {m}");
        }
    }
    assert_eq!(counters.tile_products, (M / 16 * K / 16) as u64);
    assert_eq!(counters.tile_flops, 2 * (8 * M * K) as u64);
    // padded rows of activations are read without conflicts
    assert_eq!(counters.bank_conflicts, 0);
}

/// One step of the gated delta rule for two heads, in f64 beside it.
#[test]
fn delta_rule_step() {
    const DK: usize = 32;
    const DV: usize = 128;
    let (mut random, mut gpu) = (Integers(9), Device::new(DeviceConfig::default()));
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| random.next() as f32 * 0.37 + 0.11).collect() };
    let state = values(2 * DK * DV);
    let (q, k, v, gate) = (values(2 * DK), values(2 * DK), values(2 * DV), values(2 * DV));
    let (norm, decay, beta) = (values(DV), vec![0.9f32, 0.7], vec![0.4f32, 0.8]);
    let mut params: Vec<u64> =
        [&state, &q, &k, &v, &gate, &norm, &decay, &beta].iter().map(|data| upload(&mut gpu, &bytes32(data))).collect();
    params.push(gpu.alloc((2 * DV * 2) as u64).unwrap());
    let module = Module::parse(include_str!("kernels/gdn_step.ptx")).unwrap();
    let counters = gpu.launch(&module, "gdn_step", Launch::new(2, DV as u32), &params).unwrap();
    // all rows of the state, decay and beta are asked for before anything waits for one
    assert_eq!(counters.loads_in_flight, DK as u64 / 4 + 2);
    let new_state = floats(&gpu.read(params[0], (2 * DK * DV * 4) as u64).unwrap());
    let out = gpu.read(params[8], (2 * DV * 2) as u64).unwrap();
    for head in 0..2 {
        let unit = |x: &[f32]| {
            let x: Vec<f64> = x[head * DK..][..DK].iter().map(|v| f64::from(*v)).collect();
            let scale = (x.iter().map(|v| v * v).sum::<f64>() + 1e-6).sqrt();
            x.iter().map(|v| v / scale).collect::<Vec<f64>>()
        };
        let (qn, kn) = (unit(&q), unit(&k));
        let mut o = vec![];
        for c in 0..DV {
            let old: Vec<f64> =
                (0..DK).map(|r| f64::from(state[(head * DK + r) * DV + c]) * f64::from(decay[head])).collect();
            let seen: f64 = (0..DK).map(|r| old[r] * kn[r]).sum();
            let update = (f64::from(v[head * DV + c]) - seen) * f64::from(beta[head]);
            let new: Vec<f64> = (0..DK).map(|r| old[r] + kn[r] * update).collect();
            for (r, want) in new.iter().enumerate() {
                let found = f64::from(new_state[(head * DK + r) * DV + c]);
                // a few roundings of f32 of numbers around 1
                assert!((found - want).abs() < 2e-6, "state {r}, {c}: {found}, expected {want}");
            }
            o.push((0..DK).map(|r| new[r] * qn[r]).sum::<f64>() * (DK as f64).powf(-0.5));
        }
        let rms = (o.iter().map(|x| x * x).sum::<f64>() / DV as f64 + 1e-5).sqrt();
        for (c, o) in o.iter().enumerate() {
            let g = f64::from(gate[head * DV + c]);
            let want = o / rms * f64::from(norm[c]) * g / (1.0 + (-g).exp());
            let at = 2 * (head * DV + c);
            let found = f64::from(f32::from_bits(u32::from(u16::from_le_bytes([out[at], out[at + 1]])) << 16));
            // half a unit in the last place of bf16, and a little for f32
            assert!((found - want).abs() <= want.abs() / 250.0 + 1e-5, "out {c}: {found}, expected {want}");
        }
    }
}

/// Tiles of 64 x 64 in the 128-byte swizzle: piece `c` of row `r` lies at `c ^ r % 8`.
fn tile(m: &[Vec<i32>], row: usize, col: usize) -> Vec<u8> {
    let mut out = vec![0; 8192];
    for r in 0..64 {
        for k in 0..64 {
            let at = 128 * r + 16 * ((k / 8) ^ (r % 8)) + 2 * (k % 8);
            out[at..at + 2].copy_from_slice(&bf16(m[row + r][col + k]).to_le_bytes());
        }
    }
    out
}

/// `D = A B^T` by two consumer warpgroups and a producer warp, with four stages of bulk copies and mbarriers.
#[test]
fn pipelined_product() {
    const N: usize = 64;
    const K: usize = 6 * 64;
    let mut random = Integers(5);
    let (a, b) = (random.matrix(128, K), random.matrix(N, K));
    let (mut a_tiles, mut b_tiles) = (vec![], vec![]);
    for k in (0..K).step_by(64) {
        (0..128).step_by(64).for_each(|row| a_tiles.extend(tile(&a, row, k)));
        (0..N).step_by(64).for_each(|row| b_tiles.extend(tile(&b, row, k)));
    }
    let module = Module::parse(include_str!("kernels/wgmma_gemm.ptx")).unwrap();
    for seed in 0..4 {
        let mut gpu = Device::new(DeviceConfig { sm: 90, seed, ..DeviceConfig::default() });
        let (pa, pb) = (upload(&mut gpu, &a_tiles), upload(&mut gpu, &b_tiles));
        let pd = gpu.alloc((128 * N * 2) as u64).unwrap();
        let bytes = 4 * (2 * 8192 + N as u32 / 64 * 8192) + 64;
        let launch = Launch::new(1, 384).shared(bytes);
        gpu.label(pa, a_tiles.len() as u64, 1).unwrap();
        gpu.label(pb, b_tiles.len() as u64, 2).unwrap();
        gpu.label(pd, (128 * N * 2) as u64, 3).unwrap();
        let counters = gpu.launch(&module, "wgmma_gemm", launch, &[pa, pb, pd, K as u64 / 64]).unwrap();
        // every tile once, by bulk copies
        for (label, tiles) in [(1, &a_tiles), (2, &b_tiles)] {
            let (bytes, read) = (tiles.len() as u64, counters.traffic[label]);
            let [asked, sectors, written] = [read.bytes_read, read.sector_bytes_read, read.bytes_written];
            assert_eq!([asked, sectors, written], [bytes, bytes, 0]);
        }
        assert_eq!(counters.traffic[3].bytes_written, (128 * N * 2) as u64);
        let d = gpu.read(pd, (128 * N * 2) as u64).unwrap();
        for (row, a) in a.iter().enumerate() {
            for (col, b) in b.iter().enumerate() {
                let want: i32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                // to bf16, to nearest even
                let bits = (want as f32).to_bits();
                let want = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16;
                let at = 2 * (row * N + col);
                assert_eq!(u16::from_le_bytes([d[at], d[at + 1]]), want, "seed {seed}, row {row}, column {col}");
            }
        }
    }
}
