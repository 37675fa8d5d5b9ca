//! What the stand-in must find: each misuse of the driver's interface, called directly, and the same calls in the right order.

use jet_cuda_standin::abi::*;
use jet_cuda_standin::calls::*;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard};

/// Adds 1 to every word; 64 threads at most, 16 KB of shared memory.
const TEXT: &std::ffi::CStr = c"
    .version 7.8
    .target sm_80
    .address_size 64
    .visible .entry increment(.param .u64 x) .maxntid 64 {
        .reg .b32 %r<3>;
        .reg .b64 %rd<3>;
        .shared .align 16 .b8 staged[16384];
        ld.param.u64 %rd0, [x];
        cvta.to.global.u64 %rd0, %rd0;
        mov.u32 %r0, %tid.x;
        mul.wide.u32 %rd1, %r0, 4;
        add.u64 %rd2, %rd0, %rd1;
        ld.global.u32 %r1, [%rd2];
        add.u32 %r1, %r1, 1;
        st.global.u32 [%rd2], %r1;
        ret;
    }";
const BYTES: usize = 256;

/// A context with a stream, pinned and device memory, and the kernel. One at a time: there is one driver.
struct Gpu {
    stream: *mut c_void,
    memory: u64,
    pinned: *mut u8,
    increment: *mut c_void,
    _alone: MutexGuard<'static, ()>,
}

fn ok(result: Result32) {
    assert_eq!(result, SUCCESS);
}

impl Gpu {
    fn new() -> Gpu {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let (mut context, mut stream, mut pinned) = (null_mut(), null_mut(), null_mut());
        let (mut module, mut increment, mut memory) = (null_mut(), null_mut(), 0);
        // SAFETY: all places have room; the text ends with a zero.
        unsafe {
            ok(cuInit(0));
            ok(cuDevicePrimaryCtxRetain(&mut context, 0));
            ok(cuCtxSetCurrent(context));
            ok(cuStreamCreate(&mut stream, 1));
            ok(cuMemAlloc_v2(&mut memory, BYTES));
            ok(cuMemHostAlloc(&mut pinned, BYTES, 0));
            ok(cuModuleLoadDataEx(&mut module, TEXT.as_ptr().cast(), 0, std::ptr::null(), std::ptr::null()));
            ok(cuModuleGetFunction(&mut increment, module, c"increment".as_ptr()));
        }
        Gpu { stream, memory, pinned: pinned.cast(), increment, _alone }
    }

    fn fill(&self, value: u8) {
        // SAFETY: the memory has this size.
        unsafe { self.pinned.write_bytes(value, BYTES) };
    }

    fn upload(&self) -> Result32 {
        // SAFETY: the memory has this size.
        unsafe { cuMemcpyHtoDAsync_v2(self.memory, self.pinned.cast(), BYTES, self.stream) }
    }

    fn download(&self) -> Result32 {
        // SAFETY: the memory has this size.
        unsafe { cuMemcpyDtoHAsync_v2(self.pinned.cast(), self.memory, BYTES, self.stream) }
    }

    fn first_word(&self) -> u32 {
        // SAFETY: the memory is large enough, and aligned as allocations are.
        unsafe { self.pinned.cast::<u32>().read_unaligned() }
    }

    fn launch(&self, threads: u32, shared_bytes: u32, address: u64) -> Result32 {
        let (attributes, n_attributes) = (std::ptr::null(), 0);
        let (grid, block) = ([1; 3], [threads, 1, 1]);
        let config = LaunchConfig { grid, block, shared_bytes, stream: self.stream, attributes, n_attributes };
        let words = [std::ptr::from_ref(&address)];
        // SAFETY: one parameter, one word.
        unsafe { cuLaunchKernelEx(&config, self.increment, words.as_ptr(), std::ptr::null()) }
    }

    fn wait(&self) -> Result32 {
        // SAFETY: no pointers to host memory.
        unsafe { cuStreamSynchronize(self.stream) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        ok(unsafe { cuDevicePrimaryCtxRelease_v2(0) });
    }
}

#[test]
fn in_the_right_order_it_computes() {
    let gpu = Gpu::new();
    gpu.fill(0);
    ok(gpu.upload());
    ok(gpu.launch(64, 0, gpu.memory));
    ok(gpu.wait());
    ok(gpu.download());
    assert_ne!(gpu.first_word(), 1, "nothing may arrive before somebody waits");
    ok(gpu.wait());
    assert_eq!(gpu.first_word(), 1);
}

#[test]
fn pinned_memory_must_stay_as_it_is_until_the_copy_was_made() {
    let gpu = Gpu::new();
    gpu.fill(1);
    ok(gpu.upload());
    gpu.fill(2);
    assert_eq!(gpu.wait(), LAUNCH_FAILED);
    assert_eq!(gpu.upload(), LAUNCH_FAILED, "the context is lost");
}

#[test]
fn an_event_says_when_memory_can_be_used_again() {
    let gpu = Gpu::new();
    let mut event = null_mut();
    // SAFETY: the place has room.
    unsafe {
        ok(cuEventCreate(&mut event, 0));
        ok(cuEventSynchronize(event));
        gpu.fill(1);
        ok(gpu.upload());
        ok(cuEventRecord(event, gpu.stream));
        ok(cuEventSynchronize(event));
    }
    gpu.fill(2);
    ok(gpu.wait());
}

#[test]
fn memory_that_is_not_pinned_is_copied_at_once_and_waited_for() {
    let gpu = Gpu::new();
    let mut host = vec![7u8; BYTES];
    // SAFETY: the vector has this size.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(gpu.memory, host.as_ptr().cast(), BYTES, gpu.stream));
        host.fill(0);
        ok(cuMemcpyDtoHAsync_v2(host.as_mut_ptr().cast(), gpu.memory, BYTES, gpu.stream));
    }
    assert_eq!(host, [7; BYTES]);
}

#[test]
fn memory_that_was_given_back_or_never_written_is_an_error() {
    let gpu = Gpu::new();
    ok(gpu.launch(64, 0, gpu.memory));
    assert_eq!(gpu.wait(), LAUNCH_FAILED, "nobody has written the words that are read");
    drop(gpu);
    let gpu = Gpu::new();
    gpu.fill(0);
    ok(gpu.upload());
    // SAFETY: no pointers.
    unsafe {
        ok(cuMemFree_v2(gpu.memory));
        assert_eq!(cuMemFree_v2(gpu.memory), INVALID_VALUE);
    }
    ok(gpu.launch(64, 0, gpu.memory));
    assert_eq!(gpu.wait(), ILLEGAL_ADDRESS);
}

/// Memory of this GPU.
fn properties() -> MemoryProperties {
    let location = Location { kind: 1, id: 0 };
    MemoryProperties { kind: 1, shared: 0, location, metadata: null_mut(), flags: [0; 8] }
}

#[test]
fn pages_are_memory_while_they_are_mapped_and_may_be_accessed() {
    const PAGE: usize = 4096;
    let gpu = Gpu::new();
    let (mut page, mut handle, mut base) = (0, 0, 0);
    let access = Access { location: Location { kind: 1, id: 0 }, rights: 3 };
    // SAFETY: the places have room.
    unsafe {
        ok(cuMemGetAllocationGranularity(&mut page, &properties(), 0));
        assert_eq!(page, PAGE);
        assert_eq!(cuMemCreate(&mut handle, PAGE / 2, &properties(), 0), INVALID_VALUE);
        ok(cuMemCreate(&mut handle, PAGE, &properties(), 0));
        ok(cuMemAddressReserve(&mut base, 2 * PAGE, 0, 0, 0));
        assert_eq!(cuMemSetAccess(base, PAGE, &access, 1), INVALID_VALUE, "nothing is mapped");
        ok(cuMemMap(base, PAGE, 0, handle, 0));
        assert_eq!(cuMemMap(base, PAGE, 0, handle, 0), INVALID_VALUE, "something is mapped");
        ok(cuMemSetAccess(base, PAGE, &access, 1));
        ok(cuMemsetD8Async(base, 0, PAGE, gpu.stream));
        ok(gpu.launch(64, 0, base));
        ok(gpu.wait());
        assert_eq!(cuMemAddressFree(base, 2 * PAGE), INVALID_VALUE, "something is mapped");
        ok(cuMemRelease(handle));
        ok(gpu.launch(64, 0, base));
        ok(cuMemUnmap(base, PAGE));
        assert_eq!(cuMemRelease(handle), INVALID_VALUE);
    }
    assert_eq!(gpu.wait(), ILLEGAL_ADDRESS, "the page went while a launch was waiting");
}

#[test]
fn pages_without_access_and_beside_the_mapped_ones_are_no_memory() {
    const PAGE: usize = 4096;
    for (access, address) in [(0, 0), (1, PAGE as u64)] {
        let gpu = Gpu::new();
        let (mut handle, mut base) = (0, 0);
        let all = Access { location: Location { kind: 1, id: 0 }, rights: 3 };
        // SAFETY: the places have room.
        unsafe {
            ok(cuMemCreate(&mut handle, PAGE, &properties(), 0));
            ok(cuMemAddressReserve(&mut base, 2 * PAGE, 0, 0, 0));
            ok(cuMemMap(base, PAGE, 0, handle, 0));
            if access == 1 {
                ok(cuMemSetAccess(base, PAGE, &all, 1));
            }
        }
        ok(gpu.launch(64, 0, base + address));
        assert_eq!(gpu.wait(), ILLEGAL_ADDRESS);
    }
}

#[test]
fn launches_beyond_the_limits_are_refused_at_once() {
    let gpu = Gpu::new();
    for (threads, shared) in [(0, 0), (65, 0), (1025, 0), (64, (32 << 10) + 1)] {
        assert_eq!(gpu.launch(threads, shared, gpu.memory), INVALID_VALUE, "{threads} {shared}");
    }
    // SAFETY: no pointers to host memory.
    ok(unsafe { cuFuncSetAttribute(gpu.increment, MAX_DYNAMIC_SHARED_BYTES, 100 << 10) });
    ok(gpu.launch(64, 100 << 10, gpu.memory));
}

#[test]
fn a_capture_forbids_waiting_and_copying() {
    let gpu = Gpu::new();
    let (mut graph, mut more) = (null_mut(), 0);
    // SAFETY: the places have room.
    unsafe {
        ok(cuStreamBeginCapture_v2(gpu.stream, 1));
        ok(gpu.launch(64, 0, gpu.memory));
        assert_eq!(gpu.wait(), CAPTURE_UNSUPPORTED);
        assert_eq!(cuMemAlloc_v2(&mut more, 16), CAPTURE_UNSUPPORTED);
        assert_eq!(cuStreamEndCapture(gpu.stream, &mut graph), CAPTURE_INVALIDATED);
        ok(cuStreamBeginCapture_v2(gpu.stream, 1));
        assert_eq!(gpu.upload(), NOT_SUPPORTED);
        assert_eq!(cuStreamEndCapture(gpu.stream, &mut graph), CAPTURE_INVALIDATED);
    }
}

#[test]
fn a_graph_runs_when_it_is_launched_and_not_when_it_is_made() {
    let gpu = Gpu::new();
    let (mut graph, mut ready) = (null_mut(), null_mut());
    gpu.fill(0);
    ok(gpu.upload());
    // SAFETY: the places have room.
    unsafe {
        ok(cuStreamBeginCapture_v2(gpu.stream, 1));
        ok(gpu.launch(64, 0, gpu.memory));
        ok(cuStreamEndCapture(gpu.stream, &mut graph));
        ok(cuGraphInstantiateWithFlags(&mut ready, graph, 0));
        ok(cuGraphDestroy(graph));
        ok(cuGraphLaunch(ready, gpu.stream));
        ok(cuGraphLaunch(ready, gpu.stream));
        ok(cuGraphExecDestroy(ready));
        assert_eq!(cuGraphLaunch(ready, gpu.stream), INVALID_HANDLE);
    }
    ok(gpu.wait());
    ok(gpu.download());
    ok(gpu.wait());
    assert_eq!(gpu.first_word(), 2);
}

#[test]
fn calls_need_a_context_and_known_handles() {
    let gpu = Gpu::new();
    // SAFETY: no pointers to host memory.
    unsafe {
        assert_eq!(cuStreamSynchronize(null_mut()), INVALID_HANDLE);
        ok(cuCtxSetCurrent(null_mut()));
        assert_eq!(gpu.wait(), INVALID_CONTEXT);
    }
}
