//! Any bytes as PTX text: errors have places, and kernels that are accepted end, trap or are refused, but never panic.

#![no_main]

use jet_ptxsim::{Device, DeviceConfig, Launch, Module};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Module::parse(text) {
        Ok(module) => module.kernels().for_each(|kernel| run(&module, kernel)),
        Err(e) => assert!(e.line >= 1 && e.column >= 1 && !e.message.is_empty()),
    }
});

/// Launches with parameters that are addresses; without so many parameters the launch is refused.
fn run(module: &Module, kernel: &str) {
    for sm in [80, 90] {
        for count in 0..4 {
            let config = DeviceConfig { sm, instruction_limit: 500, workers: 1, ..DeviceConfig::default() };
            let mut gpu = Device::new(config);
            let at = gpu.alloc(512).expect("memory");
            gpu.write(at, &[0; 256]).expect("half of it");
            let _ = gpu.launch(module, kernel, Launch::new(2, 48).shared(256), &vec![at; count]);
        }
    }
}
