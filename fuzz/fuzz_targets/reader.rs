//! Damaged artifacts with right hashes: the reader must refuse them, or give out valid tables only.

#![no_main]

use jetbin::{Phase, Reader, print};
use libfuzzer_sys::fuzz_target;

fn walk(reader: &Reader<'_>) {
    let mut length = 0;
    let mut show = |d: &dyn std::fmt::Display| length += d.to_string().len();
    show(&print::sections(reader));
    show(&print::weights(reader));
    for target in 0..reader.targets().len() as u32 {
        show(&print::kernels(reader, target));
        for phase in [Phase::Prefill, Phase::Decode] {
            let program = reader.program(target, phase).expect("an opened artifact has both programs");
            show(&print::states(reader, target));
            show(&print::schedule(reader, target, &program));
            show(&print::memory_plan(&program));
            for probe in program.probes().iter() {
                program.steps().get(probe.step).expect("a probe names a step");
            }
        }
    }
    assert!(length > 0 && reader.facts().vocab_size > 0);
}

fuzz_target!(|input: &[u8]| {
    // As it is: nearly always refused at the header.
    let _ = Reader::open(input);
    let file = jet_fuzz::assemble(input);
    if let Ok(reader) = Reader::open(&file) {
        walk(&reader);
    }
});
