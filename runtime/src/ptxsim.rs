//! A GPU for tests: the kernels' PTX text runs in a simulator, everything else is as on a device.

use crate::device::{Code, Device, DeviceError, Launch};
use crate::gpu;
use jet_ptxsim::{DeviceConfig, Module};

/// Memory of the simulated GPU. The simulator takes several times as much.
const BYTES: u64 = 1 << 30;

/// A simulated GPU.
pub struct PtxSim {
    gpu: jet_ptxsim::Device,
    module: Option<Module>,
    /// Names in the order of the artifact's table.
    kernels: Vec<String>,
}

impl PtxSim {
    /// A GPU with empty memory.
    pub fn new() -> Self {
        let gpu = jet_ptxsim::Device::new(DeviceConfig { global_bytes: BYTES, ..DeviceConfig::default() });
        Self { gpu, module: None, kernels: vec![] }
    }

    fn copy(&mut self, call: &'static str, bytes: u64, content: &[u8]) -> Result<u64, DeviceError> {
        let failed = |e: jet_ptxsim::Error| DeviceError::new(call, format!("{bytes} bytes on the simulated GPU: {e}"));
        let address = self.gpu.alloc(bytes.max(1)).map_err(failed)?;
        self.gpu.write(address, content).map_err(failed)?;
        Ok(address)
    }
}

impl Device for PtxSim {
    fn threads(&self) -> u32 {
        1
    }

    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        if bytes > BYTES {
            return Err(DeviceError::new("alloc", format!("{bytes} bytes, the simulated GPU has {BYTES}")));
        }
        self.copy("alloc", bytes, &vec![0; bytes as usize])
    }

    unsafe fn constant(&mut self, data: &[u8]) -> Result<u64, DeviceError> {
        self.copy("constant", data.len() as u64, data)
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.gpu.write(address, bytes).map_err(|e| DeviceError::new("upload", e.to_string()))
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let read = self.gpu.read(address, bytes.len() as u64);
        bytes.copy_from_slice(&read.map_err(|e| DeviceError::new("download", e.to_string()))?);
        Ok(())
    }

    fn zero(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.upload(address, &vec![0; bytes as usize])
    }

    unsafe fn load(&mut self, code: &Code<'_>) -> Result<(), DeviceError> {
        let refused = |problem: String| DeviceError::new("load", problem);
        let text = std::str::from_utf8(code.bytes).map_err(|e| refused(format!("the code is no PTX text: {e}")))?;
        let module = Module::parse(text).map_err(|e| refused(e.to_string()))?;
        self.gpu.become_sm(module.sm());
        if let Some(absent) = code.kernels.iter().find(|k| !module.kernels().any(|name| name == k.name)) {
            return Err(refused(format!("the text has no kernel {}", absent.name)));
        }
        self.kernels = code.kernels.iter().map(|k| k.name.to_string()).collect();
        self.module = Some(module);
        Ok(())
    }

    unsafe fn launch(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        let Self { gpu, module, kernels } = self;
        let module = module.as_ref().ok_or_else(|| DeviceError::new("launch", "no code was loaded"))?;
        gpu::walk(kernels, launches, words, |name, launch, words| {
            let shape = jet_ptxsim::Launch {
                programmatic: launch.overlaps,
                ..jet_ptxsim::Launch::new(launch.active, launch.cta_threads).shared(launch.shared_bytes)
            };
            gpu.launch(module, name, shape, words).map(|_| ()).map_err(|e| e.to_string())
        })
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        // `launch` returns when everything has finished
        Ok(())
    }
}
