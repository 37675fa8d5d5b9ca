//! A GPU for tests: the kernels' PTX text runs in a simulator, everything else is as on a device.

use crate::device::{Code, Content, Device, DeviceError, Launch};
use crate::gpu;
use jet_ptxsim::{Counters, DeviceConfig, Module, Traffic};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Memory of the simulated GPU where nobody says otherwise. The simulator takes several times as much of what is used.
const BYTES: u64 = 1 << 30;

/// Pages of states: as small as they can be, so that what reads beyond a sequence's tokens is found.
const PAGE: u64 = 256;

/// The label of a content in the counts; 0 is what nobody noted: activations and inputs.
fn label(content: Content) -> usize {
    match content {
        Content::Matrix => 1,
        Content::Vector => 2,
        Content::States => 3,
    }
}

/// What launches did, counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Launches.
    pub launches: u64,
    /// Accesses to activations and inputs.
    pub activations: Traffic,
    /// Accesses to matrices of weights.
    pub matrices: Traffic,
    /// Accesses to vectors of weights.
    pub vectors: Traffic,
    /// Accesses to states and caches.
    pub states: Traffic,
    /// Launches and counts of each kernel.
    pub kernels: BTreeMap<String, (u64, Counters)>,
}

impl Counts {
    fn add(&mut self, kernel: &str, launch: &Counters) {
        self.launches += 1;
        self.activations.add(&launch.traffic[0]);
        self.matrices.add(&launch.traffic[label(Content::Matrix)]);
        self.vectors.add(&launch.traffic[label(Content::Vector)]);
        self.states.add(&launch.traffic[label(Content::States)]);
        let (launches, sum) = self.kernels.entry(kernel.to_string()).or_default();
        *launches += 1;
        sum.add(launch);
    }
}

/// The counts of a device, which stay readable while a session owns it.
pub type SharedCounts = Arc<Mutex<Counts>>;

/// A simulated GPU.
pub struct PtxSim {
    gpu: jet_ptxsim::Device,
    /// Its memory.
    bytes: u64,
    module: Option<Module>,
    /// Names in the order of the artifact's table.
    kernels: Vec<String>,
    counts: SharedCounts,
    /// Address of the states, and which of their pages are memory.
    states: (u64, Vec<bool>),
}

impl PtxSim {
    /// A GPU with empty memory.
    pub fn new() -> Self {
        Self::with_memory(BYTES)
    }

    /// A GPU with so many bytes of empty memory.
    pub fn with_memory(bytes: u64) -> Self {
        let gpu = jet_ptxsim::Device::new(DeviceConfig { global_bytes: bytes, ..DeviceConfig::default() });
        Self { gpu, bytes, module: None, kernels: vec![], counts: SharedCounts::default(), states: (0, vec![]) }
    }

    /// What its launches have done since somebody last cleared it.
    pub fn counts(&self) -> SharedCounts {
        self.counts.clone()
    }

    fn copy(&mut self, call: &'static str, bytes: u64, content: &[u8]) -> Result<u64, DeviceError> {
        let failed = |e: jet_ptxsim::Error| DeviceError::new(call, format!("{bytes} bytes on the simulated GPU: {e}"));
        let address = self.gpu.alloc(bytes.max(1)).map_err(failed)?;
        self.gpu.write(address, content).map_err(failed)?;
        Ok(address)
    }
}

impl Default for PtxSim {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for PtxSim {
    fn threads(&self) -> u32 {
        1
    }

    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        if bytes > self.bytes {
            return Err(DeviceError::new("alloc", format!("{bytes} bytes, the simulated GPU has {}", self.bytes)));
        }
        self.copy("alloc", bytes, &vec![0; bytes as usize])
    }

    fn states(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        let pages = bytes.div_ceil(PAGE).max(1);
        let refused = |e: jet_ptxsim::Error| DeviceError::new("states", e.to_string());
        self.states = (self.gpu.reserve(pages * PAGE, PAGE).map_err(refused)?, vec![false; pages as usize]);
        Ok(self.states.0)
    }

    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        let (base, pages) = &mut self.states;
        let range = (address - *base) / PAGE..(address - *base + bytes).div_ceil(PAGE);
        for page in range.filter(|_| bytes > 0) {
            if !std::mem::replace(&mut pages[page as usize], true) {
                let at = *base + page * PAGE;
                let done = self.gpu.map(at, PAGE).and_then(|()| self.gpu.write(at, &[0; PAGE as usize]));
                done.map_err(|e| DeviceError::new("commit", e.to_string()))?;
            }
        }
        Ok(())
    }

    fn release(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        let (base, pages) = &mut self.states;
        for page in (address - *base).div_ceil(PAGE)..(address - *base + bytes) / PAGE {
            if std::mem::take(&mut pages[page as usize]) {
                self.gpu.unmap(*base + page * PAGE, PAGE).map_err(|e| DeviceError::new("release", e.to_string()))?;
            }
        }
        Ok(())
    }

    fn note(&mut self, address: u64, bytes: u64, content: Content) -> Result<(), DeviceError> {
        self.gpu.label(address, bytes, label(content)).map_err(|e| DeviceError::new("note", e.to_string()))
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
        let Self { gpu, module, kernels, counts, .. } = self;
        // a poisoned lock means that a reader panicked, which does not spoil the counts
        let mut counts = counts.lock().unwrap_or_else(|e| e.into_inner());
        let module = module.as_ref().ok_or_else(|| DeviceError::new("launch", "no code was loaded"))?;
        gpu::walk(kernels, launches, words, |name, launch, words| {
            let shape = jet_ptxsim::Launch {
                programmatic: launch.overlaps,
                ..jet_ptxsim::Launch::new(launch.active, launch.cta_threads).shared(launch.shared_bytes)
            };
            let counters = gpu.launch(module, name, shape, words).map_err(|e| e.to_string())?;
            counts.add(name, &counters);
            Ok(())
        })
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        // `launch` returns when everything has finished
        Ok(())
    }
}
