//! The simulated device: memory and launches.

use crate::counters::{Counters, LABELS};
use crate::error::Error;
use crate::launch::{self, Context, Progress};
use crate::memory::global::{Global, MAX_BLOCKS, MAX_EPOCH};
use crate::module::{Kernel, Module};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Architecture: 80 (A100) or 90 (H100).
    pub sm: u32,
    /// Bytes that allocations may take together. The simulator needs 13 for each 4 of them.
    pub global_bytes: u64,
    /// Decides which of the allowed interleavings of warps and asynchronous copies is seen.
    pub seed: u64,
    /// Instructions that the warps of one block, or cluster of blocks, may execute in a launch.
    pub instruction_limit: u64,
    /// Threads of the host that blocks are shared out over. With one, floating-point atomics of several blocks add up in a fixed order.
    pub workers: usize,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        DeviceConfig { sm: 80, global_bytes: 1 << 30, seed: 1, instruction_limit: 1 << 26, workers }
    }
}

impl DeviceConfig {
    /// Bytes of shared memory that a block can have.
    fn shared_bytes(&self) -> u32 {
        1024 * if self.sm >= 90 { 227 } else { 163 }
    }
}

/// Shared memory that variables with a size can take; more must be dynamic.
const STATIC_SHARED_BYTES: u32 = 48 * 1024;
/// Threads of a block.
const MAX_THREADS: u64 = 1024;
/// Blocks of a cluster that every device has room for.
const MAX_CLUSTER: u64 = 8;

/// The shape of a launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y, z; 1 each leaves it to the kernel (`.reqnctapercluster`), as a launch without the attribute does.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared_bytes: u32,
    /// Programmatic stream serialization: the kernel may start while the one before it still runs, until `griddepcontrol.wait`.
    pub programmatic: bool,
}

impl Launch {
    /// `blocks` blocks of `threads` threads, without dynamic shared memory.
    pub fn new(blocks: u32, threads: u32) -> Self {
        Launch {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: [1; 3],
            dynamic_shared_bytes: 0,
            programmatic: false,
        }
    }

    /// With that much dynamic shared memory.
    pub fn shared(self, bytes: u32) -> Self {
        Launch { dynamic_shared_bytes: bytes, ..self }
    }
}

/// A device with its memory. Launches run to their end before [`Device::launch`] returns.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    global: Global,
    /// Number of the last launch, from 1.
    epoch: u8,
    last: Finished,
}

/// What is known of the last launch.
#[derive(Clone, Debug, Default)]
struct Finished {
    /// Launches that it could overlap with.
    unfinished: Vec<u8>,
    /// Whether it waited for them, and whether it did before the next launch could start.
    waited: bool,
    waited_before_trigger: bool,
}

impl Device {
    /// A device with no allocations.
    pub fn new(config: DeviceConfig) -> Self {
        Device { global: Global::new(config.global_bytes), config, epoch: 0, last: Finished::default() }
    }

    /// Makes it a device of another architecture; its memory stays as it is.
    pub fn become_sm(&mut self, sm: u32) {
        self.config.sm = sm;
    }

    /// Allocates `bytes` bytes, aligned to 256, that nobody has written yet.
    ///
    /// # Errors
    /// If the device has less than that left.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Error> {
        self.global.alloc(bytes).map_err(Error::Call)
    }

    /// Reserves addresses for `bytes` bytes, aligned to a page, without memory: accesses trap until [`Device::map`]. The simulator's own
    /// memory is taken at once.
    ///
    /// # Errors
    /// If they are no whole pages, or a page is no power of two from 256 on.
    pub fn reserve(&mut self, bytes: u64, page: u64) -> Result<u64, Error> {
        self.global.reserve(bytes, page).map_err(Error::Call)
    }

    /// Makes pages of reserved addresses memory, which nobody has written yet.
    ///
    /// # Errors
    /// If they are no whole pages, or mapped already, or if the device has less memory left.
    pub fn map(&mut self, address: u64, bytes: u64) -> Result<(), Error> {
        self.global.map(address, bytes, true).map_err(Error::Call)
    }

    /// Takes the memory of such pages away, with what it held.
    ///
    /// # Errors
    /// If they are no whole pages, or not mapped.
    pub fn unmap(&mut self, address: u64, bytes: u64) -> Result<(), Error> {
        self.global.map(address, bytes, false).map_err(Error::Call)
    }

    /// Counts the accesses to a range under a label below [`LABELS`] (`Counters::traffic`); without one, under 0. Ranges of an
    /// allocation come in ascending order.
    ///
    /// # Errors
    /// If the range is not within one allocation or not behind those labelled before, or there is no such label.
    pub fn label(&mut self, address: u64, bytes: u64, label: usize) -> Result<(), Error> {
        if label >= LABELS {
            return Err(Error::Call(format!("found label {label}, expected one below {LABELS}")));
        }
        self.global.label(address, bytes, label).map_err(Error::Call)
    }

    /// Gives an allocation back; its addresses are not used again.
    ///
    /// # Errors
    /// If `address` is not what [`Device::alloc`] or [`Device::reserve`] returned.
    pub fn free(&mut self, address: u64) -> Result<(), Error> {
        self.global.free(address).map_err(Error::Call)
    }

    /// Copies `data` to the device.
    ///
    /// # Errors
    /// If it is not within one allocation.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Error> {
        self.global.upload(address, data).map_err(Error::Call)
    }

    /// Copies `bytes` bytes from the device.
    ///
    /// # Errors
    /// If they are not within one allocation, or one of them was never written.
    pub fn read(&self, address: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        self.global.download(address, bytes).map_err(Error::Call)
    }

    /// Runs a kernel: one word for each parameter, of which the parameter's size is used.
    ///
    /// # Errors
    /// [`Error::Call`] if the launch is not possible, [`Error::Trap`] with the place if the kernel does what has no meaning.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        mut launch: Launch,
        params: &[u64],
    ) -> Result<Counters, Error> {
        let found = module.kernel(kernel).ok_or_else(|| {
            let names: Vec<&str> = module.kernels().collect();
            Error::Call(format!("found no kernel `{kernel}`, expected one of {}", names.join(", ")))
        })?;
        if launch.cluster == [1; 3] {
            launch.cluster = found.required_cluster.unwrap_or(launch.cluster);
        }
        self.check(module, found, &launch, params).map_err(|what| Error::Call(format!("{kernel}: {what}")))?;
        if self.epoch == MAX_EPOCH {
            self.global.sweep(self.epoch);
            self.epoch = 1;
            self.last.unfinished.clear();
        }
        let (unfinished, unawaited) = self.overlap(&launch);
        self.epoch += 1;
        let mut bytes = vec![];
        for (param, word) in found.params.iter().zip(params) {
            bytes.resize(param.offset as usize, 0);
            bytes.extend_from_slice(&word.to_le_bytes()[..param.bytes as usize]);
        }
        let context = Context {
            kernel: found,
            text: &module.text,
            global: &self.global,
            params: bytes,
            grid: launch.grid,
            threads: launch.block,
            cluster: launch.cluster,
            dynamic_shared_bytes: launch.dynamic_shared_bytes,
            epoch: self.epoch,
            unfinished: &unfinished,
            unawaited: &unawaited,
            progress: Progress::default(),
            seed: self.config.seed,
            instruction_limit: self.config.instruction_limit,
            workers: self.config.workers.max(1),
        };
        let counters = launch::run(&context)?;
        let [waited, waited_before_trigger] = context.progress.get();
        self.last = Finished { unfinished, waited, waited_before_trigger };
        Ok(counters)
    }

    /// Launches that may still run when this one starts, and when it has executed `griddepcontrol.wait`: the wait is for the launch
    /// before alone, and what that one did not wait for may go on.
    fn overlap(&self, launch: &Launch) -> (Vec<u8>, Vec<u8>) {
        if !launch.programmatic || self.epoch == 0 {
            return (vec![], vec![]);
        }
        let mut unfinished = vec![self.epoch];
        if !self.last.waited_before_trigger {
            unfinished.extend(&self.last.unfinished);
        }
        (unfinished, if self.last.waited { vec![] } else { self.last.unfinished.clone() })
    }

    /// What the hardware would refuse.
    fn check(&self, module: &Module, kernel: &Kernel, launch: &Launch, params: &[u64]) -> Result<(), String> {
        let config = &self.config;
        let target = module.target;
        if target.sm > config.sm || target.specific && target.sm != config.sm {
            return Err(format!("found a module for sm_{}, expected one that runs on sm_{}", target.sm, config.sm));
        }
        if params.len() != kernel.params.len() {
            return Err(format!("found {} parameters, expected {}", params.len(), kernel.params.len()));
        }
        let (blocks, threads, cluster) = (volume(launch.grid), volume(launch.block), volume(launch.cluster));
        if !(1..=MAX_BLOCKS).contains(&blocks) {
            return Err(format!("found a grid of {blocks} blocks, expected 1 to {MAX_BLOCKS}"));
        }
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(format!("found {threads} threads a block, expected 1 to {MAX_THREADS}"));
        }
        let most = if config.sm >= 90 { MAX_CLUSTER } else { 1 };
        let divides = (0..3).all(|n| launch.cluster[n] > 0 && launch.grid[n].is_multiple_of(launch.cluster[n]));
        if cluster > most || !divides {
            return Err(format!(
                "found clusters of {:?} blocks, expected at most {most} that divide the grid",
                launch.cluster
            ));
        }
        self.check_kernel(kernel, launch, threads)
    }

    /// What the kernel itself declares.
    fn check_kernel(&self, kernel: &Kernel, launch: &Launch, threads: u64) -> Result<(), String> {
        if kernel.required_threads.is_some_and(|required| required != launch.block) {
            return Err(format!(
                "found blocks of {:?} threads, expected {:?} (.reqntid)",
                launch.block,
                kernel.required_threads.unwrap_or_default()
            ));
        }
        if let Some(most) = kernel.max_threads.map(volume)
            && threads > most
        {
            return Err(format!("found {threads} threads a block, expected at most {most} (.maxntid)"));
        }
        if kernel.required_cluster.is_some_and(|required| required != launch.cluster) {
            return Err(format!(
                "found clusters of {:?} blocks, expected {:?}",
                launch.cluster,
                kernel.required_cluster.unwrap_or_default()
            ));
        }
        let bytes = u64::from(kernel.dynamic_offset()) + u64::from(launch.dynamic_shared_bytes);
        if kernel.shared_bytes > STATIC_SHARED_BYTES {
            return Err(format!(
                "found {} bytes of shared variables, expected at most {STATIC_SHARED_BYTES}",
                kernel.shared_bytes
            ));
        }
        if bytes > u64::from(self.config.shared_bytes()) {
            return Err(format!(
                "found {bytes} bytes of shared memory, expected at most {}",
                self.config.shared_bytes()
            ));
        }
        Ok(())
    }
}

/// Elements of a box; more than any limit if they are too many to count.
fn volume(extents: [u32; 3]) -> u64 {
    extents.iter().fold(1, |product, n| product.saturating_mul((*n).into()))
}
