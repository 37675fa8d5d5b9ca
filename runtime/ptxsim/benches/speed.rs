//! How fast the simulator is: `cargo bench -p jet-ptxsim`. Figures are those of all workers together.

use jet_ptxsim::{Counters, Device, DeviceConfig, Launch, Module};
use std::time::Instant;

const LOOP: &str = "
.version 7.8
.target sm_80
.address_size 64
.visible .entry k(.param .u64 x)
{
  .reg .pred p; .reg .b32 i, t, r<4>; .reg .b64 a; .reg .f32 f<12>;
  ld.param.u64 a, [x]; mov.u32 t, %tid.x; mov.u32 i, %ctaid.x; mad.lo.u32 t, i, 256, t; mad.wide.u32 a, t, 16, a;
  mov.u32 i, 0; mov.u32 r0, 0x3f803f80; mov.u32 r1, r0; mov.u32 r2, r0; mov.u32 r3, r0;
  mov.f32 f0, 0f3F000000; mov.f32 f1, f0; mov.f32 f2, f0; mov.f32 f3, f0; mov.f32 f4, f0; mov.f32 f5, f0; mov.f32 f6, f0; mov.f32 f7, f0;
LOOP:
  BODY
  add.u32 i, i, 1;
  setp.lt.u32 p, i, 500;
  @p bra LOOP;
  st.global.v4.f32 [a], {f0, f1, f2, f3};
  ret;
}";

const BODIES: &[(&str, &str)] = &[
    (
        "multiply-add",
        "fma.rn.f32 f0, f1, f2, f0; fma.rn.f32 f1, f2, f3, f1; fma.rn.f32 f2, f3, f0, f2; fma.rn.f32 f3, f0, f1, f3;",
    ),
    ("integer", "add.u32 r0, r0, i; xor.b32 r1, r1, r0; shl.b32 r2, r1, 3; mad.lo.u32 r3, r0, r1, r2;"),
    ("ex2", "ex2.approx.ftz.f32 f0, f1; ex2.approx.ftz.f32 f2, f3;"),
    ("load, 16 bytes", "ld.global.v4.f32 {f4, f5, f6, f7}, [a];"),
    (
        "mma m16n8k16",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {f0, f1, f2, f3}, {r0, r1, r2, r3}, {r0, r1}, {f0, f1, f2, f3};",
    ),
];

fn main() {
    for (name, body) in BODIES {
        let module = Module::parse(&LOOP.replace("BODY", body)).expect("a kernel");
        let mut gpu = Device::new(DeviceConfig::default());
        let x = gpu.alloc(16 * 256 * 16).expect("memory");
        gpu.write(x, &vec![0; 16 * 256 * 16]).expect("memory");
        let start = Instant::now();
        let counters = gpu.launch(&module, "k", Launch::new(16, 256), &[x]).expect("a launch");
        print(name, &counters, start.elapsed().as_secs_f64());
    }
}

fn print(name: &str, c: &Counters, seconds: f64) {
    let per_second = |n: u64| n as f64 / seconds / 1e6;
    print!("{name:<16} {:>8.0} M lane-instructions/s", per_second(c.lane_instructions));
    println!(
        "  {:>8.2} M tile products/s  {:>8.0} MB/s read",
        per_second(c.tile_products),
        per_second(c.global_bytes_read)
    );
}
