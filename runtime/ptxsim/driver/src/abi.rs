//! Numbers and layouts of the driver's interface, from its documentation.

use std::ffi::c_void;

/// The result of a call: 0 or the number of an error.
pub type Result32 = u32;

macro_rules! errors {
    ($($name:ident = $number:literal $symbol:literal $text:literal;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`: ", stringify!($text))] pub const $name: Result32 = $number;)*

        /// Name and description of a result, each ended by a zero.
        pub fn describe(result: Result32) -> Option<(&'static std::ffi::CStr, &'static std::ffi::CStr)> {
            match result { $($number => Some(($symbol, $text)),)* _ => None }
        }
    };
}

errors! {
    SUCCESS = 0 c"CUDA_SUCCESS" c"no error";
    INVALID_VALUE = 1 c"CUDA_ERROR_INVALID_VALUE" c"invalid argument";
    OUT_OF_MEMORY = 2 c"CUDA_ERROR_OUT_OF_MEMORY" c"out of memory";
    NOT_INITIALIZED = 3 c"CUDA_ERROR_NOT_INITIALIZED" c"initialization error";
    NO_DEVICE = 100 c"CUDA_ERROR_NO_DEVICE" c"no CUDA-capable device is detected";
    INVALID_DEVICE = 101 c"CUDA_ERROR_INVALID_DEVICE" c"invalid device ordinal";
    INVALID_IMAGE = 200 c"CUDA_ERROR_INVALID_IMAGE" c"device kernel image is invalid";
    INVALID_CONTEXT = 201 c"CUDA_ERROR_INVALID_CONTEXT" c"invalid device context";
    NO_BINARY_FOR_GPU = 209 c"CUDA_ERROR_NO_BINARY_FOR_GPU" c"no kernel image is available for execution on the device";
    INVALID_PTX = 218 c"CUDA_ERROR_INVALID_PTX" c"a PTX JIT compilation failed";
    INVALID_HANDLE = 400 c"CUDA_ERROR_INVALID_HANDLE" c"invalid resource handle";
    NOT_FOUND = 500 c"CUDA_ERROR_NOT_FOUND" c"named symbol not found";
    ILLEGAL_ADDRESS = 700 c"CUDA_ERROR_ILLEGAL_ADDRESS" c"an illegal memory access was encountered";
    LAUNCH_FAILED = 719 c"CUDA_ERROR_LAUNCH_FAILED" c"unspecified launch failure";
    NOT_SUPPORTED = 801 c"CUDA_ERROR_NOT_SUPPORTED" c"operation not supported";
    CAPTURE_UNSUPPORTED = 900 c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" c"operation not permitted when stream is capturing";
    CAPTURE_INVALIDATED = 901 c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" c"operation failed due to a previous error during capture";
}

/// Attribute of a device: number of multiprocessors.
pub const MULTIPROCESSOR_COUNT: u32 = 16;
/// Attribute of a device: compute capability before the point.
pub const CAPABILITY_MAJOR: u32 = 75;
/// Attribute of a device: compute capability behind the point.
pub const CAPABILITY_MINOR: u32 = 76;

/// Attribute of a device: memory can be mapped page by page.
pub const MAPS_PAGES: u32 = 102;

/// What physical memory is: of a device, pinned.
#[repr(C)]
pub struct MemoryProperties {
    /// 1: pinned.
    pub kind: u32,
    /// How it can be shared with other processes; 0: not.
    pub shared: u32,
    /// Where it is.
    pub location: Location,
    /// For another system.
    pub metadata: *mut c_void,
    /// Compression and the like; 0: none.
    pub flags: [u8; 8],
}

/// A place of memory.
#[repr(C)]
pub struct Location {
    /// 1: a device.
    pub kind: u32,
    /// Its number.
    pub id: i32,
}

/// Who may do what with mapped memory.
#[repr(C)]
pub struct Access {
    /// Who.
    pub location: Location,
    /// 3: read and write.
    pub rights: u32,
}

/// Attribute of a function: threads that a block can have.
pub const MAX_THREADS: u32 = 0;
/// Attribute of a function: bytes of its shared variables.
pub const STATIC_SHARED_BYTES: u32 = 1;
/// Attribute of a function: bytes of dynamic shared memory that launches may ask for.
pub const MAX_DYNAMIC_SHARED_BYTES: u32 = 8;

/// Option of loading a module: a buffer for a report of errors.
pub const ERROR_LOG: u32 = 5;
/// Option of loading a module: the size of that buffer.
pub const ERROR_LOG_BYTES: u32 = 6;

/// Attribute of a launch: it may start before the one before it has finished.
pub const PROGRAMMATIC_SERIALIZATION: u32 = 6;

/// How a kernel is launched.
#[repr(C)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// Where it is queued.
    pub stream: *mut c_void,
    /// Attributes.
    pub attributes: *const LaunchAttribute,
    /// How many there are.
    pub n_attributes: u32,
}

/// One attribute: its number, and a value of 64 bytes of which the first four are read here.
#[repr(C)]
pub struct LaunchAttribute {
    /// Its number.
    pub id: u32,
    /// Unused.
    pub padding: u32,
    /// 64 bytes.
    pub value: [u32; 16],
}
