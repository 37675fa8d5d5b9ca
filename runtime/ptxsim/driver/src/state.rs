//! The driver's state: one GPU, one context, and everything that handles stand for.

use crate::abi::*;
use crate::settings::Settings;
use crate::stream::{Capture, Stream, Work};
use jet_ptxsim::{Device, DeviceConfig, Module};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

/// A call's outcome.
pub type Outcome<T = ()> = Result<T, Result32>;

/// A kernel of a loaded module.
#[derive(Clone)]
pub struct Function {
    pub module: usize,
    pub name: String,
    /// Dynamic shared memory that launches may have, beyond what they may have unasked.
    pub dynamic_shared_bytes: u32,
}

/// How often an event was recorded, and how many of these records have passed.
#[derive(Clone, Copy, Default)]
pub struct Event {
    pub recorded: u64,
    pub passed: u64,
    pub stream: usize,
}

/// Memory without an address.
#[derive(Clone, Copy)]
pub struct Physical {
    pub bytes: u64,
    /// Given back by the program; it goes when it is mapped nowhere.
    pub released: bool,
}

/// What was done, for the report.
#[derive(Default)]
pub struct Counts {
    pub launches: u64,
    pub from_graphs: u64,
    pub captures: u64,
    pub waits: u64,
}

pub struct Driver {
    pub settings: Settings,
    pub initialised: bool,
    /// How often the context is held.
    pub context: u32,
    pub gpu: Option<Device>,
    /// The error that ended the context.
    pub broken: Option<Result32>,
    /// Sizes by address.
    pub allocations: BTreeMap<u64, u64>,
    pub used: u64,
    /// Sizes of reserved addresses.
    pub reserved: BTreeMap<u64, u64>,
    pub physical: BTreeMap<u64, Physical>,
    /// Handles by address.
    pub mapped: BTreeMap<u64, u64>,
    /// Sizes by address, in host memory.
    pub pinned: BTreeMap<usize, usize>,
    pub modules: BTreeMap<usize, Arc<Module>>,
    pub functions: BTreeMap<usize, Function>,
    pub streams: BTreeMap<usize, Stream>,
    pub events: BTreeMap<usize, Event>,
    pub graphs: BTreeMap<usize, Arc<Vec<Work>>>,
    pub executables: BTreeMap<usize, Arc<Vec<Work>>>,
    pub counts: Counts,
    next_handle: usize,
}

/// The driver of this process.
pub fn driver() -> &'static Mutex<Driver> {
    static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let text = std::env::var("JET_STANDIN").unwrap_or_default();
        let settings = Settings::parse(&text).unwrap_or_else(|problem| {
            eprintln!("stand-in driver: {problem}");
            std::process::exit(2)
        });
        Mutex::new(Driver::new(settings))
    })
}

/// Says on stderr what a program did wrong, which the real driver would not.
pub fn complain(what: &str) {
    eprintln!("stand-in driver: {what}");
}

impl Driver {
    fn new(settings: Settings) -> Self {
        Driver {
            settings,
            initialised: false,
            context: 0,
            gpu: None,
            broken: None,
            allocations: BTreeMap::new(),
            used: 0,
            reserved: BTreeMap::new(),
            physical: BTreeMap::new(),
            mapped: BTreeMap::new(),
            pinned: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            counts: Counts::default(),
            next_handle: 0x1000,
        }
    }

    /// A handle that was never used before.
    pub fn handle(&mut self) -> usize {
        self.next_handle += 0x10;
        self.next_handle
    }

    /// The architecture that the simulator knows which is nearest to the GPU's.
    fn simulated(&self) -> u32 {
        if self.settings.capability >= (9, 0) { 90 } else { 80 }
    }

    /// Takes hold of the context.
    pub fn retain(&mut self) {
        self.context += 1;
        let config =
            DeviceConfig { sm: self.simulated(), global_bytes: self.settings.memory, ..DeviceConfig::default() };
        self.gpu.get_or_insert_with(|| Device::new(config));
    }

    /// Counts a launch; whether it is the one that shall fail.
    pub fn count_launch(&mut self) -> bool {
        self.counts.launches += 1;
        self.settings.launch == Some(self.counts.launches)
    }

    /// Lets go of the context; with the last hold, memory and handles are gone.
    pub fn release(&mut self) -> Outcome {
        self.context = self.context.checked_sub(1).ok_or(INVALID_CONTEXT)?;
        if self.context > 0 {
            return Ok(());
        }
        if self.settings.report {
            let Counts { launches, from_graphs, captures, waits } = self.counts;
            let left = self.allocations.len()
                + self.reserved.len()
                + self.physical.len()
                + self.pinned.len()
                + self.modules.len()
                + self.streams.len()
                + self.events.len()
                + self.graphs.len()
                + self.executables.len();
            let unfinished: usize = self.streams.values().map(|s| s.queue.len()).sum();
            complain(&format!(
                "{launches} launches, {from_graphs} of them from {captures} graphs; {waits} waits; {left} handles and ranges left, {unfinished} unfinished"
            ));
        }
        // Handles are never used twice, so that old ones stay unknown.
        let next_handle = self.next_handle;
        *self = Driver { initialised: true, next_handle, ..Driver::new(self.settings.clone()) };
        Ok(())
    }

    /// Does the work of a stream up to the record `until` of an event, or all.
    pub fn run(&mut self, stream: usize, until: Option<(usize, u64)>) -> Outcome {
        let Some(gpu) = self.gpu.as_mut() else { return Err(INVALID_CONTEXT) };
        let queue = &mut self.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?.queue;
        while let Some(work) = queue.pop_front() {
            if let Err((error, what)) = work.run(gpu) {
                complain(&what);
                queue.clear();
                self.broken = Some(error);
                return Err(error);
            }
            if let Work::Record { event, count } = work {
                if let Some(event) = self.events.get_mut(&event) {
                    event.passed = count;
                }
                if until.is_some_and(|(e, n)| e == event && count >= n) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Does the work of all streams.
    pub fn run_all(&mut self) -> Outcome {
        let streams: Vec<usize> = self.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|s| self.run(s, None))
    }

    /// Puts work into a stream, or into the graph that it is captured for.
    pub fn push(&mut self, stream: usize, work: Work) -> Outcome {
        let stream = self.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?;
        match &mut stream.capture {
            None => stream.queue.push_back(work),
            Some(capture) if work.can_be_captured() => capture.work.push(work),
            Some(capture) => {
                capture.invalid = true;
                complain("a copy to or from the host, or an event, is captured, which is not modelled");
                return Err(NOT_SUPPORTED);
            }
        }
        Ok(())
    }

    /// Refuses what must not be called while a stream is captured, and spoils the capture.
    pub fn not_capturing(&mut self, what: &str) -> Outcome {
        let captures: Vec<&mut Capture> = self.streams.values_mut().filter_map(|s| s.capture.as_mut()).collect();
        if captures.is_empty() {
            return Ok(());
        }
        captures.into_iter().for_each(|c| c.invalid = true);
        complain(&format!("{what} while a stream is captured"));
        Err(CAPTURE_UNSUPPORTED)
    }

    /// The size of a page, of which `bytes` must be a multiple.
    pub fn pages(&self, bytes: usize) -> Outcome<u64> {
        let page = self.settings.page;
        if page == 0 || bytes == 0 || !(bytes as u64).is_multiple_of(page) { Err(INVALID_VALUE) } else { Ok(page) }
    }

    /// Gives physical memory back that was released and is mapped nowhere.
    pub fn forget(&mut self, handle: u64) {
        let mapped = self.mapped.values().any(|h| *h == handle);
        if let Some(found) = self.physical.get(&handle).copied().filter(|p| p.released && !mapped) {
            self.used -= found.bytes;
            self.physical.remove(&handle);
        }
    }

    /// Whether a range of host memory is pinned.
    pub fn is_pinned(&self, start: usize, bytes: usize) -> bool {
        let below = self.pinned.range(..=start).next_back();
        below.is_some_and(|(base, size)| start + bytes <= base + size)
    }
}
