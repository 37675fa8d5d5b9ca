//! The calls of the driver, with their failures as errors, and its handles, given back when dropped.

use crate::device::DeviceError;
use cudarc::driver::sys;
use std::ffi::{CStr, c_char};

/// The oldest driver, by the CUDA version that it was made for: it has `cuLaunchKernelEx`.
const OLDEST_DRIVER: u32 = 11080;

/// Calls a function of the driver; a failure becomes an error that names it.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: `Gpu::open` found the library, and everything here comes from a `Gpu`. Handles are those that the driver gave and
        // that are still alive, pointers to host memory have room for what the function writes, ranges were checked by the caller.
        let result = unsafe { cudarc::driver::sys::$function($($argument),*) };
        $crate::cuda::api::check(stringify!($function), result)
    }};
}
pub(super) use call;

/// The error of a result, if it is one.
pub(super) fn check(function: &'static str, result: sys::CUresult) -> Result<(), DeviceError> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let describe = |f: unsafe fn(sys::CUresult, *mut *const c_char) -> sys::CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: both functions store a pointer to a text that lives as long as the process, or none.
        let found = unsafe { f(result, &mut text) } == sys::CUresult::CUDA_SUCCESS && !text.is_null();
        // SAFETY: as above.
        found.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let name = describe(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", result as u32));
    let description = describe(sys::cuGetErrorString).map(|d| format!(" ({d})")).unwrap_or_default();
    let function = function.strip_suffix("_v2").unwrap_or(function);
    Err(DeviceError::new(function, format!("{name}{description}")))
}

/// A GPU that the driver shows, and the driver's version. Nothing is allocated on it yet.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// As the driver calls it.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// The CUDA version that the driver was made for: 12040 for 12.4.
    pub driver: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Whether memory can be mapped page by page.
    pub maps_pages: bool,
    pub(super) device: sys::CUdevice,
}

/// `12040` as `12.4`.
pub(super) fn version(driver: u32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

impl Gpu {
    /// The CUDA version that the driver was made for: `12.4`.
    pub fn driver_version(&self) -> String {
        version(self.driver)
    }

    /// Looks for the driver's library, then for the GPU of this number.
    ///
    /// # Errors
    /// If there is no driver, one that is too old, or no such GPU: what was looked for and what is needed.
    pub fn open(ordinal: u32) -> Result<Gpu, DeviceError> {
        let driver = open_driver()?;
        let mut count = 0;
        call!(cuDeviceGetCount(&mut count))?;
        if i64::from(ordinal) >= i64::from(count) {
            let shown = match count {
                0 => "the driver shows no GPU; CUDA_VISIBLE_DEVICES may hide them".to_string(),
                n => format!("the driver shows {n}, numbered from 0"),
            };
            return Err(DeviceError::new("cuda", format!("found no GPU {ordinal}: {shown}")));
        }
        let mut device = 0;
        call!(cuDeviceGet(&mut device, ordinal as i32))?;
        let mut name = [0u8; 256];
        call!(cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32 - 1, device))?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
        let attribute = |which| {
            let mut value = 0;
            call!(cuDeviceGetAttribute(&mut value, which, device))?;
            Ok::<_, DeviceError>(value.unsigned_abs())
        };
        use sys::CUdevice_attribute as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let maps_pages = attribute(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED)? != 0;
        Ok(Gpu { name, compute: (major, minor), driver, multiprocessors, maps_pages, device })
    }
}

/// Opens the driver's library and gives its version.
fn open_driver() -> Result<u32, DeviceError> {
    // SAFETY: opening the library runs its initialisers; it is the driver's, found where the system looks for libraries.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::new(
            "cuda",
            "found no NVIDIA driver: looked for libcuda.so and libcuda.so.1 where the system looks for libraries (LD_LIBRARY_PATH, \
             /etc/ld.so.cache); it comes with the NVIDIA driver, not with the CUDA toolkit",
        ));
    }
    // SAFETY: as above; the library is there.
    let library = unsafe { sys::culib() };
    let has = |name: &[u8]| {
        // SAFETY: the symbol is looked for, not used.
        unsafe { library.get::<unsafe extern "C" fn()>(name) }.is_ok()
    };
    let mut driver = 0;
    if has(b"cuDriverGetVersion") {
        call!(cuDriverGetVersion(&mut driver))?;
    }
    let driver = driver.unsigned_abs();
    if driver < OLDEST_DRIVER || !has(b"cuLaunchKernelEx") {
        let found = format!("found a driver for CUDA {}", version(driver));
        return Err(DeviceError::new("cuda", format!("{found}, expected one for {} or newer", version(OLDEST_DRIVER))));
    }
    call!(cuInit(0))?;
    Ok(driver)
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident($raw:ident) $destroy:ident;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name(pub sys::$raw);

        // SAFETY: the driver's handles belong to a context, not to a thread.
        unsafe impl Send for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // A failure here is one of an earlier call, which has been reported.
                let _ = call!($destroy(self.0));
            }
        }
    )*};
}

handles! {
    /// A queue of work on the GPU.
    Stream(CUstream) cuStreamDestroy_v2;
    /// A place in a stream that the host can wait for.
    Event(CUevent) cuEventDestroy_v2;
    /// Loaded code.
    Module(CUmodule) cuModuleUnload;
    /// Recorded launches.
    Graph(CUgraph) cuGraphDestroy;
    /// Recorded launches, ready to run.
    GraphExec(CUgraphExec) cuGraphExecDestroy;
    /// Memory of the GPU.
    Memory(CUdeviceptr) cuMemFree_v2;
}

/// The context that the process has on a GPU.
pub(super) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
}

// SAFETY: as for the handles.
unsafe impl Send for Context {}

impl Context {
    pub fn new(gpu: &Gpu) -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        call!(cuDevicePrimaryCtxRetain(&mut raw, gpu.device))?;
        let context = Context { device: gpu.device, raw };
        context.enter()?;
        Ok(context)
    }

    /// Makes it the one that this thread's calls are about.
    pub fn enter(&self) -> Result<(), DeviceError> {
        call!(cuCtxSetCurrent(self.raw))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = call!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

impl Stream {
    pub fn new() -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        call!(cuStreamCreate(&mut raw, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32))?;
        Ok(Stream(raw))
    }

    /// Waits until everything in it has finished.
    pub fn wait(&self) -> Result<(), DeviceError> {
        call!(cuStreamSynchronize(self.0))
    }
}

impl Event {
    pub fn new() -> Result<Self, DeviceError> {
        let mut raw = std::ptr::null_mut();
        call!(cuEventCreate(&mut raw, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32))?;
        Ok(Event(raw))
    }
}

impl Memory {
    pub fn new(bytes: u64) -> Result<Self, DeviceError> {
        let mut raw = 0;
        call!(cuMemAlloc_v2(&mut raw, bytes as usize))?;
        Ok(Memory(raw))
    }
}
