//! An NVIDIA GPU (cargo feature `cuda`), through the driver's library alone, which is opened when the device is.
//!
//! Everything goes through one stream. A call returns as soon as its work is in the stream; only [`Device::download`] waits. All memory is one
//! allocation, but for the states, which come page by page. A list of launches that comes again is recorded as a graph the second time, because the
//! first launch of a kernel may still load it.

mod api;
mod code;
mod meter;
mod paged;
mod transfer;

pub use api::Gpu;
pub use meter::CopyMeter;

use crate::device::{Code, Device, DeviceError, Growing, Launch, ListName, Piece};
use crate::gpu;
use api::{Context, Graph, GraphExec, Memory, Stream, call};
use code::{Form, Loaded};
use cudarc::driver::sys;
use paged::Paged;
use std::collections::HashMap;
use std::ffi::c_void;
use transfer::Transfer;

/// Pieces of memory start at multiples of this, as allocations of the driver do.
const ALIGN: u64 = 256;

/// The first driver that records launches which overlap as such ("Programmatic Dependent Launch" in CUDA graphs).
const OVERLAPPING_GRAPHS: u32 = 12030;

/// A list of launches that has a name.
enum Recorded {
    /// It has run once.
    Seen,
    /// It is a graph.
    Graph(GraphExec),
}

/// The one allocation, given out from the front.
struct Arena {
    memory: Memory,
    bytes: u64,
    used: u64,
}

/// A GPU. Fields are dropped in their order, the context last.
pub struct Cuda {
    recorded: HashMap<ListName, Recorded>,
    loaded: Option<Loaded>,
    notes: Vec<String>,
    /// In which form the code is to be loaded.
    form: Form,
    arena: Option<Arena>,
    /// Bytes of a page of the states, where they come page by page.
    page_bytes: Option<u64>,
    states: Option<Paged>,
    /// Ranges that were just committed.
    committed: Vec<(u64, u64)>,
    transfer: Transfer,
    /// The parameters of a launch, as the driver wants them.
    parameters: Vec<*mut c_void>,
    stream: Stream,
    gpu: Gpu,
    context: Context,
}

// SAFETY: `parameters` is filled and read within one call; the other fields are `Send`.
unsafe impl Send for Cuda {}

impl Cuda {
    /// The GPU of this number.
    ///
    /// # Errors
    /// As for [`Gpu::open`]; also if the GPU cannot be used, for instance because another process has it for itself.
    pub fn new(ordinal: u32) -> Result<Self, DeviceError> {
        let gpu = Gpu::open(ordinal)?;
        let context = Context::new(&gpu)?;
        let (stream, transfer) = (Stream::new()?, Transfer::new()?);
        let (recorded, parameters, notes) = (HashMap::new(), vec![], vec![]);
        let (loaded, form, arena, states, page_bytes) = (None, Form::Text, None, None, paged::page_bytes(&gpu)?);
        let committed = vec![];
        Ok(Self {
            recorded,
            loaded,
            notes,
            form,
            arena,
            page_bytes,
            states,
            committed,
            transfer,
            parameters,
            stream,
            gpu,
            context,
        })
    }

    /// Puts launches into the stream.
    fn enqueue(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        let Self { loaded, parameters, stream, .. } = self;
        let loaded = loaded.as_ref().ok_or_else(|| DeviceError::new("launch", "no code was loaded"))?;
        gpu::walk(&loaded.names, launches, words, |_, launch, words| {
            parameters.clear();
            // The driver copies the words before the call returns, and writes to none.
            parameters.extend(words.iter().map(|word| std::ptr::from_ref(word).cast_mut().cast::<c_void>()));
            let mut overlap = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: launch.active,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: launch.cta_threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: launch.shared_bytes,
                hStream: stream.0,
                attrs: &mut overlap,
                numAttrs: launch.overlaps.into(),
            };
            let function = loaded.functions[launch.kernel as usize].0;
            call!(cuLaunchKernelEx(&config, function, parameters.as_mut_ptr(), std::ptr::null_mut()))
                .map_err(|e| format!("{}: {}", e.call, e.problem))
        })
    }

    /// Records launches as a graph instead of running them.
    fn record(&mut self, launches: &[Launch], words: &[u64]) -> Result<GraphExec, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(cuStreamBeginCapture_v2(self.stream.0, mode))?;
        let enqueued = self.enqueue(launches, words);
        let mut graph = std::ptr::null_mut();
        // Ended in any case, so that the stream can be used again.
        let ended = call!(cuStreamEndCapture(self.stream.0, &mut graph)).map(|()| Graph(graph));
        enqueued?;
        let (graph, mut ready) = (ended?, std::ptr::null_mut());
        call!(cuGraphInstantiateWithFlags(&mut ready, graph.0, 0))?;
        Ok(GraphExec(ready))
    }

    /// The next piece of the arena.
    fn take(&mut self, call: &'static str, bytes: u64) -> Result<u64, DeviceError> {
        let arena = self.arena.as_mut().ok_or_else(|| DeviceError::new(call, "no memory was reserved"))?;
        let left = arena.bytes - arena.used;
        if bytes > left {
            return Err(DeviceError::new(call, format!("{bytes} bytes, {left} of those that were reserved are left")));
        }
        let address = arena.memory.0 + arena.used;
        arena.used = (arena.used + bytes.max(1)).next_multiple_of(ALIGN).min(arena.bytes);
        Ok(address)
    }

    /// Makes the context current and checks a range of memory.
    fn range(&self, call: &'static str, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.context.enter()?;
        let within = |a: &Arena| address >= a.memory.0 && address.saturating_add(bytes) <= a.memory.0 + a.used;
        let outside =
            || DeviceError::new(call, format!("{bytes} bytes at {address:#x} are not in the memory of the session"));
        let inside =
            self.arena.as_ref().is_some_and(within) || self.states.as_ref().is_some_and(|s| s.holds(address, bytes));
        inside.then_some(()).ok_or_else(outside)
    }
}

/// Free bytes of the GPU, and all of them.
fn free() -> Result<(u64, u64), DeviceError> {
    let (mut free, mut total) = (0, 0);
    call!(cuMemGetInfo_v2(&mut free, &mut total))?;
    Ok((free as u64, total as u64))
}

/// Bytes that the pieces take in the arena.
fn needed(pieces: &[Piece]) -> Option<u64> {
    let place = |bytes: u64| bytes.max(1).checked_next_multiple_of(ALIGN);
    pieces.iter().try_fold(0u64, |sum, (_, bytes)| sum.checked_add(place(*bytes)?))
}

impl Device for Cuda {
    fn threads(&self) -> u32 {
        1
    }

    fn reserve(&mut self, code: &Code<'_>, pieces: &[Piece], states: &Growing<'_>) -> Result<(), DeviceError> {
        let (form, why) = code::choose(code, &self.gpu)?;
        self.form = form;
        self.notes.extend(why);
        self.context.enter()?;
        let paged = self.page_bytes.map(|page| paged::bytes_at_start(states, page));
        // Without pages the states are a piece of the arena.
        let pieces: Vec<Piece> = pieces.iter().copied().chain([("states", paged.unwrap_or(states.bytes))]).collect();
        let in_arena = needed(&pieces[..pieces.len() - usize::from(paged.is_some())]);
        let bytes = in_arena.and_then(|b| b.checked_add(paged.unwrap_or(0))).unwrap_or(u64::MAX);
        let (free, total) = free()?;
        if bytes > free {
            let mut list: Vec<String> = vec![];
            for same in pieces.chunk_by(|a, b| a.0 == b.0) {
                list.push(format!("{} {}", same[0].0, same.iter().map(|(_, bytes)| bytes).sum::<u64>()));
            }
            let found = format!("{free} of {total} bytes are free on {}", self.gpu.name);
            return Err(DeviceError::new("memory", format!("{found}, {bytes} are needed: {}", list.join(", "))));
        }
        let bytes = in_arena.unwrap_or(bytes);
        self.arena = Some(Arena { memory: Memory::new(bytes)?, bytes, used: 0 });
        Ok(())
    }

    fn states(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        let Some(page_bytes) = self.page_bytes else { return self.alloc(bytes) };
        self.context.enter()?;
        Ok(self.states.insert(Paged::new(&self.gpu, bytes, page_bytes)?).base)
    }

    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        let Some(states) = self.states.as_mut().filter(|s| s.spans(address, bytes)) else {
            return Ok(());
        };
        if states.holds(address, bytes) {
            return Ok(());
        }
        self.context.enter()?;
        let more = states.missing(address, bytes);
        let done = states.commit(address, bytes, &mut self.committed);
        // What could be mapped is memory like any other, whether all could or not.
        while let Some((address, bytes)) = self.committed.pop() {
            call!(cuMemsetD8Async(address, 0, bytes as usize, self.stream.0))?;
        }
        done.map_err(|e| {
            let free =
                free().map_or_else(|e| e.to_string(), |(free, total)| format!("{free} of {total} bytes are free"));
            let found = format!("{free} on {}, the sequences need {more} more", self.gpu.name);
            DeviceError::new("memory", format!("{found} ({}: {})", e.call, e.problem))
        })
    }

    fn release(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        if self.states.as_ref().is_some_and(|s| s.spans(address, bytes) && s.would_release(address, bytes)) {
            self.sync()?;
            self.states.as_mut().map_or(Ok(()), |s| s.release(address, bytes))?;
        }
        Ok(())
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        let address = self.take("alloc", bytes)?;
        self.zero(address, bytes)?;
        Ok(address)
    }

    unsafe fn constant(&mut self, data: &[u8]) -> Result<u64, DeviceError> {
        let address = self.take("constant", data.len() as u64)?;
        self.upload(address, data)?;
        Ok(address)
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.range("upload", address, bytes.len() as u64)?;
        self.transfer.upload(&self.stream, address, bytes)
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.range("download", address, bytes.len() as u64)?;
        self.transfer.download(&self.stream, address, bytes)
    }

    fn zero(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.range("zero", address, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        call!(cuMemsetD8Async(address, 0, bytes as usize, self.stream.0))
    }

    unsafe fn load(&mut self, code: &Code<'_>) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.recorded.clear();
        self.loaded = Some(code::load(code, self.form, &self.gpu, &mut self.notes)?);
        Ok(())
    }

    unsafe fn launch(&mut self, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.enqueue(launches, words)
    }

    unsafe fn launch_named(&mut self, name: ListName, launches: &[Launch], words: &[u64]) -> Result<(), DeviceError> {
        self.context.enter()?;
        if self.gpu.driver < OVERLAPPING_GRAPHS && launches.iter().any(|l| l.overlaps) {
            return self.enqueue(launches, words);
        }
        match self.recorded.get(&name) {
            Some(Recorded::Graph(graph)) => return call!(cuGraphLaunch(graph.0, self.stream.0)),
            Some(Recorded::Seen) => {
                let graph = self.record(launches, words)?;
                call!(cuGraphLaunch(graph.0, self.stream.0))?;
                self.recorded.insert(name, Recorded::Graph(graph));
            }
            None => {
                self.enqueue(launches, words)?;
                self.recorded.insert(name, Recorded::Seen);
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.stream.wait()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Nothing may be given back while it is in use; a failure was reported by the call that found it.
        let _ = self.sync();
    }
}
