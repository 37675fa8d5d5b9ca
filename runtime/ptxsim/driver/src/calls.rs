//! The functions of the driver that are there, as its documentation describes them.

#![allow(non_snake_case, reason = "the names are the driver's")]

use crate::abi::*;
use crate::state::{Driver, Event, Function, Outcome, Physical, complain, driver};
use crate::stream::{Capture, Work};
use jet_ptxsim::{Launch, Module};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

/// The handle of the only context.
const CONTEXT: usize = 0x100;
/// Dynamic and static shared memory that a launch has unasked.
const UNASKED_SHARED_BYTES: u32 = 48 << 10;
/// Threads of a block.
const MAX_BLOCK: u64 = 1024;

thread_local! {
    /// The context of the calls of this thread.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Runs a call under the lock; what comes before `cuInit` is refused.
fn call(body: impl FnOnce(&mut Driver) -> Outcome) -> Result32 {
    let mut driver = driver().lock().unwrap_or_else(|e| e.into_inner());
    if !driver.initialised {
        return NOT_INITIALIZED;
    }
    body(&mut driver).err().unwrap_or(SUCCESS)
}

/// Runs a call that needs a context, which must not be broken.
fn in_context(body: impl FnOnce(&mut Driver) -> Outcome) -> Result32 {
    call(|driver| {
        if CURRENT.get() != CONTEXT || driver.context == 0 {
            complain("a call without a context");
            return Err(INVALID_CONTEXT);
        }
        driver.broken.map_or(Ok(()), Err)?;
        body(driver)
    })
}

/// Stores a result.
///
/// # Safety
/// `place` is null or has room.
unsafe fn store<T>(place: *mut T, value: T) -> Outcome {
    if place.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}

/// Refuses all but ordinary memory of the one GPU.
///
/// # Safety
/// `properties` is null or points to some.
unsafe fn pinned_here(properties: *const MemoryProperties) -> Outcome {
    // SAFETY: the caller's promise.
    let found = unsafe { properties.as_ref() }.ok_or(INVALID_VALUE)?;
    let ordinary = found.kind == 1 && found.shared == 0 && found.location.kind == 1 && found.flags == [0; 8];
    if ordinary && found.location.id == 0 { Ok(()) } else { Err(INVALID_VALUE) }
}

macro_rules! functions {
    ($($kind:ident fn $name:ident($($argument:ident: $type:ty),*) |$driver:ident| $body:expr;)*) => {$(
        /// The function of the driver with this name.
        ///
        /// # Safety
        /// As its documentation says: pointers are null or have room.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Result32 {
            $kind(|$driver| $body)
        }
    )*};
}

/// Called with the lock, initialised or not.
fn any(body: impl FnOnce(&mut Driver) -> Outcome) -> Result32 {
    body(&mut driver().lock().unwrap_or_else(|e| e.into_inner())).err().unwrap_or(SUCCESS)
}

/// Gives a handle back; a launch or copy that uses it may still wait.
fn destroy<T>(table: &mut std::collections::BTreeMap<usize, T>, handle: *mut c_void) -> Outcome {
    table.remove(&(handle as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
}

functions! {
    any fn cuInit(flags: u32) |driver| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if driver.settings.devices == 0 {
            return Err(NO_DEVICE);
        }
        driver.initialised = true;
        Ok(())
    };
    // SAFETY: the contract of the function.
    any fn cuDriverGetVersion(version: *mut i32) |driver| unsafe { store(version, driver.settings.driver as i32) };
    // SAFETY: as above.
    call fn cuDeviceGetCount(count: *mut i32) |driver| unsafe { store(count, driver.settings.devices as i32) };
    call fn cuDeviceGet(device: *mut i32, ordinal: i32) |driver| {
        if ordinal < 0 || ordinal as u32 >= driver.settings.devices {
            return Err(INVALID_DEVICE);
        }
        // SAFETY: as above.
        unsafe { store(device, ordinal) }
    };
    call fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) |_driver| {
        let text = c"simulated GPU".to_bytes_with_nul();
        if device != 0 || name.is_null() || (length as usize) < text.len() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the length was just compared.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len()) };
        Ok(())
    };
    call fn cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: i32) |driver| {
        let (major, minor) = driver.settings.capability;
        let found = match attribute {
            _ if device != 0 => return Err(INVALID_DEVICE),
            MULTIPROCESSOR_COUNT => 1,
            CAPABILITY_MAJOR => major,
            CAPABILITY_MINOR => minor,
            MAPS_PAGES => u32::from(driver.settings.page > 0),
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: as above.
        unsafe { store(value, found as i32) }
    };
    call fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: i32) |driver| {
        if device != 0 {
            return Err(INVALID_DEVICE);
        }
        driver.retain();
        // SAFETY: as above.
        unsafe { store(context, CONTEXT as *mut c_void) }
    };
    call fn cuDevicePrimaryCtxRelease_v2(_device: i32) |driver| driver.release();
    call fn cuCtxSetCurrent(context: *mut c_void) |_driver| {
        CURRENT.set(context as usize);
        Ok(())
    };

    in_context fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |driver| {
        // SAFETY: as above, twice.
        unsafe { store(free, (driver.settings.memory - driver.used) as usize).and(store(total, driver.settings.memory as usize)) }
    };
    in_context fn cuMemAlloc_v2(address: *mut u64, bytes: usize) |driver| {
        driver.not_capturing("an allocation")?;
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if driver.used + bytes as u64 > driver.settings.memory {
            return Err(OUT_OF_MEMORY);
        }
        let gpu = driver.gpu.as_mut().ok_or(INVALID_CONTEXT)?;
        let found = gpu.alloc(bytes as u64).map_err(|_| OUT_OF_MEMORY)?;
        driver.allocations.insert(found, bytes as u64);
        driver.used += bytes as u64;
        // SAFETY: as above.
        unsafe { store(address, found) }
    };
    in_context fn cuMemFree_v2(address: u64) |driver| {
        driver.not_capturing("giving memory back")?;
        // As the real one, which waits for what may use the memory.
        driver.run_all()?;
        let bytes = driver.allocations.remove(&address).ok_or(INVALID_VALUE)?;
        driver.used -= bytes;
        driver.gpu.as_mut().ok_or(INVALID_CONTEXT)?.free(address).map_err(|_| INVALID_VALUE)
    };
    in_context fn cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const MemoryProperties, _which: u32) |driver| {
        // SAFETY: as above, twice.
        unsafe { pinned_here(properties).and(store(bytes, driver.settings.page as usize)) }
    };
    in_context fn cuMemAddressReserve(address: *mut u64, bytes: usize, alignment: usize, wish: u64, flags: u64) |driver| {
        if alignment != 0 || wish != 0 || flags != 0 {
            return Err(NOT_SUPPORTED);
        }
        let page = driver.pages(bytes)?;
        let found = driver.gpu.as_mut().ok_or(INVALID_CONTEXT)?.reserve(bytes as u64, page).map_err(|_| INVALID_VALUE)?;
        driver.reserved.insert(found, bytes as u64);
        // SAFETY: as above.
        unsafe { store(address, found) }
    };
    in_context fn cuMemAddressFree(address: u64, bytes: usize) |driver| {
        let whole = driver.reserved.get(&address) == Some(&(bytes as u64));
        if !whole || driver.mapped.range(address..address + bytes as u64).next().is_some() {
            complain("giving addresses back in part, or while something is mapped there");
            return Err(INVALID_VALUE);
        }
        driver.run_all()?;
        driver.reserved.remove(&address);
        driver.gpu.as_mut().ok_or(INVALID_CONTEXT)?.free(address).map_err(|_| INVALID_VALUE)
    };
    in_context fn cuMemCreate(handle: *mut u64, bytes: usize, properties: *const MemoryProperties, _flags: u64) |driver| {
        // SAFETY: as above.
        unsafe { pinned_here(properties)? };
        driver.pages(bytes)?;
        if driver.used + bytes as u64 > driver.settings.memory {
            return Err(OUT_OF_MEMORY);
        }
        driver.used += bytes as u64;
        let found = driver.handle() as u64;
        driver.physical.insert(found, Physical { bytes: bytes as u64, released: false });
        // SAFETY: as above.
        unsafe { store(handle, found) }
    };
    in_context fn cuMemRelease(handle: u64) |driver| {
        let found = driver.physical.get_mut(&handle).filter(|p| !p.released).ok_or(INVALID_VALUE)?;
        found.released = true;
        driver.forget(handle);
        Ok(())
    };
    in_context fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, _flags: u64) |driver| {
        driver.not_capturing("a mapping")?;
        let found = driver.physical.get(&handle).ok_or(INVALID_VALUE)?;
        if offset != 0 || found.bytes != bytes as u64 || driver.mapped.contains_key(&address) {
            complain("a mapping of a part, or where one is");
            return Err(INVALID_VALUE);
        }
        driver.mapped.insert(address, handle);
        Ok(())
    };
    in_context fn cuMemSetAccess(address: u64, bytes: usize, access: *const Access, n: usize) |driver| {
        // SAFETY: the caller promises `n` of them.
        let access = unsafe { access.as_ref() }.filter(|a| n == 1 && a.location.kind == 1 && a.location.id == 0 && a.rights == 3);
        if access.is_none() || !driver.mapped.contains_key(&address) {
            return Err(INVALID_VALUE);
        }
        // Only now, so that kernels find no memory that nobody may access.
        driver.gpu.as_mut().ok_or(INVALID_CONTEXT)?.map(address, bytes as u64).map_err(|_| INVALID_VALUE)
    };
    in_context fn cuMemUnmap(address: u64, bytes: usize) |driver| {
        driver.not_capturing("taking a mapping away")?;
        // Nothing is waited for: what is queued and uses the memory does not find it.
        let handle = driver.mapped.remove(&address).ok_or(INVALID_VALUE)?;
        driver.forget(handle);
        driver.gpu.as_mut().ok_or(INVALID_CONTEXT)?.unmap(address, bytes as u64).map_err(|_| INVALID_VALUE)
    };
    in_context fn cuMemHostAlloc(start: *mut *mut c_void, bytes: usize, _flags: u32) |driver| {
        driver.not_capturing("an allocation of pinned memory")?;
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        // Filled with something, so that nobody counts on zeros.
        let memory = Box::leak(vec![0xa5u8; bytes].into_boxed_slice()).as_mut_ptr();
        driver.pinned.insert(memory as usize, bytes);
        // SAFETY: as above.
        unsafe { store(start, memory.cast()) }
    };
    in_context fn cuMemFreeHost(start: *mut c_void) |driver| {
        driver.run_all()?;
        let bytes = driver.pinned.remove(&(start as usize)).ok_or(INVALID_VALUE)?;
        // SAFETY: `cuMemHostAlloc` leaked a box of this size at this address, which was just taken out of the table.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.cast::<u8>(), bytes)) });
        Ok(())
    };

    in_context fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) |driver| {
        if from.is_null() {
            return Err(INVALID_VALUE);
        }
        let pinned = driver.is_pinned(from as usize, bytes).then_some(from as usize);
        // SAFETY: the caller promises so many bytes there.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
        driver.push(stream as usize, Work::Upload { to, bytes, pinned })
    };
    in_context fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) |driver| {
        if to.is_null() {
            return Err(INVALID_VALUE);
        }
        driver.push(stream as usize, Work::Download { from, to: to as usize, bytes })?;
        if driver.is_pinned(to as usize, bytes) {
            // Who reads too early shall not find what was there before.
            // SAFETY: the caller promises room for so many bytes.
            unsafe { to.cast::<u8>().write_bytes(0xa5, bytes) };
            return Ok(());
        }
        driver.run(stream as usize, None)
    };
    in_context fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) |driver|
        driver.push(stream as usize, Work::Copy { to, from, bytes: bytes as u64 });
    in_context fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: *mut c_void) |driver|
        driver.push(stream as usize, Work::Fill { at, value, bytes });

    in_context fn cuModuleLoadDataEx(
        module: *mut *mut c_void, image: *const c_void, n: u32, options: *const u32, values: *const *mut c_void
    ) |driver| {
        // SAFETY: the caller promises `n` of both; a size is passed in the place of a pointer.
        let option = |id: u32| (0..n as usize).find(|i| unsafe { *options.add(*i) } == id).map(|i| unsafe { *values.add(i) });
        let failed = |error, report: &str| {
            if let (Some(log), Some(room)) = (option(ERROR_LOG), option(ERROR_LOG_BYTES)) {
                let length = report.len().min((room as usize).saturating_sub(1));
                // SAFETY: the caller promises `room` bytes.
                unsafe { std::ptr::copy_nonoverlapping(report.as_ptr(), log.cast(), length) };
            }
            Err(error)
        };
        // SAFETY: a text, or what stands for binary code, ends with a zero; so does the identification of a real ELF file.
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_bytes();
        let (text, is_binary) = text.strip_prefix(b"\x7fELF").map_or((text, false), |text| (text, true));
        let Ok(text) = std::str::from_utf8(text) else { return failed(INVALID_IMAGE, "") };
        if is_binary && !text.starts_with(".version") {
            return failed(NO_BINARY_FOR_GPU, "binary code cannot be run by the stand-in driver");
        }
        if let Some(report) = driver.settings.jit.as_ref().filter(|_| !is_binary) {
            return failed(INVALID_PTX, report);
        }
        let parsed = match Module::parse(text) {
            Ok(parsed) => parsed,
            Err(e) => return failed(INVALID_PTX, &format!("line {}: {}", e.line, e.message)),
        };
        let (major, minor) = driver.settings.capability;
        let (sm, specific, found) = (parsed.sm(), parsed.is_specific(), major * 10 + minor);
        if if specific { sm != found } else { sm > found } {
            return failed(NO_BINARY_FOR_GPU, "");
        }
        let handle = driver.handle();
        driver.modules.insert(handle, Arc::new(parsed));
        // SAFETY: as above.
        unsafe { store(module, handle as *mut c_void) }
    };
    in_context fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) |driver| {
        // SAFETY: a text that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let loaded = driver.modules.get(&(module as usize)).ok_or(INVALID_HANDLE)?;
        loaded.limits(&name).ok_or(NOT_FOUND)?;
        let handle = driver.handle();
        driver.functions.insert(handle, Function { module: module as usize, name, dynamic_shared_bytes: 0 });
        // SAFETY: as above.
        unsafe { store(function, handle as *mut c_void) }
    };
    in_context fn cuModuleUnload(module: *mut c_void) |driver| {
        driver.run_all()?;
        driver.functions.retain(|_, f| f.module != module as usize);
        destroy(&mut driver.modules, module)
    };
    in_context fn cuFuncGetAttribute(value: *mut i32, attribute: u32, function: *mut c_void) |driver| {
        let function = driver.functions.get(&(function as usize)).ok_or(INVALID_HANDLE)?;
        let limits = driver.modules.get(&function.module).and_then(|m| m.limits(&function.name)).ok_or(INVALID_HANDLE)?;
        let found = match attribute {
            MAX_THREADS => limits.threads.unwrap_or(MAX_BLOCK as u32),
            STATIC_SHARED_BYTES => limits.shared_bytes,
            MAX_DYNAMIC_SHARED_BYTES => function.dynamic_shared_bytes,
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: as above.
        unsafe { store(value, found as i32) }
    };
    in_context fn cuFuncSetAttribute(function: *mut c_void, attribute: u32, value: i32) |driver| {
        let function = driver.functions.get_mut(&(function as usize)).ok_or(INVALID_HANDLE)?;
        match (attribute, u32::try_from(value)) {
            (MAX_DYNAMIC_SHARED_BYTES, Ok(bytes)) => function.dynamic_shared_bytes = bytes,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    };
    in_context fn cuLaunchKernelEx(
        config: *const LaunchConfig, function: *mut c_void, words: *const *const u64, extra: *const *const c_void
    ) |driver| {
        // SAFETY: as above.
        unsafe { launch(driver, config, function, words, extra) }
    };

    in_context fn cuStreamCreate(stream: *mut *mut c_void, _flags: u32) |driver| {
        let handle = driver.handle();
        driver.streams.insert(handle, Default::default());
        // SAFETY: as above.
        unsafe { store(stream, handle as *mut c_void) }
    };
    in_context fn cuStreamSynchronize(stream: *mut c_void) |driver| {
        driver.not_capturing("waiting for a stream")?;
        driver.counts.waits += 1;
        driver.run(stream as usize, None)
    };
    in_context fn cuStreamDestroy_v2(stream: *mut c_void) |driver| {
        driver.run(stream as usize, None)?;
        destroy(&mut driver.streams, stream)
    };
    in_context fn cuStreamBeginCapture_v2(stream: *mut c_void, _mode: u32) |driver| {
        driver.not_capturing("a second capture")?;
        driver.streams.get_mut(&(stream as usize)).ok_or(INVALID_HANDLE)?.capture = Some(Capture::default());
        Ok(())
    };
    in_context fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) |driver| {
        let stream = driver.streams.get_mut(&(stream as usize)).ok_or(INVALID_HANDLE)?;
        let capture = stream.capture.take().ok_or(INVALID_VALUE)?;
        if capture.invalid {
            // SAFETY: as above.
            return unsafe { store(graph, std::ptr::null_mut()) }.and(Err(CAPTURE_INVALIDATED));
        }
        let handle = driver.handle();
        driver.graphs.insert(handle, Arc::new(capture.work));
        driver.counts.captures += 1;
        // SAFETY: as above.
        unsafe { store(graph, handle as *mut c_void) }
    };
    in_context fn cuGraphInstantiateWithFlags(ready: *mut *mut c_void, graph: *mut c_void, _flags: u64) |driver| {
        let work = driver.graphs.get(&(graph as usize)).ok_or(INVALID_HANDLE)?.clone();
        let handle = driver.handle();
        driver.executables.insert(handle, work);
        // SAFETY: as above.
        unsafe { store(ready, handle as *mut c_void) }
    };
    in_context fn cuGraphLaunch(ready: *mut c_void, stream: *mut c_void) |driver| {
        driver.not_capturing("launching a graph")?;
        let work = driver.executables.get(&(ready as usize)).ok_or(INVALID_HANDLE)?.clone();
        for work in work.iter() {
            let mut work = work.clone();
            if let Work::Kernel { faulty, .. } = &mut work {
                driver.counts.from_graphs += 1;
                *faulty = driver.count_launch();
            }
            driver.push(stream as usize, work)?;
        }
        Ok(())
    };
    in_context fn cuGraphDestroy(graph: *mut c_void) |driver| destroy(&mut driver.graphs, graph);
    in_context fn cuGraphExecDestroy(ready: *mut c_void) |driver| destroy(&mut driver.executables, ready);

    in_context fn cuEventCreate(event: *mut *mut c_void, _flags: u32) |driver| {
        let handle = driver.handle();
        driver.events.insert(handle, Event::default());
        // SAFETY: as above.
        unsafe { store(event, handle as *mut c_void) }
    };
    in_context fn cuEventRecord(event: *mut c_void, stream: *mut c_void) |driver| {
        let found = driver.events.get_mut(&(event as usize)).ok_or(INVALID_HANDLE)?;
        found.recorded += 1;
        found.stream = stream as usize;
        let work = Work::Record { event: event as usize, count: found.recorded };
        driver.push(stream as usize, work)
    };
    in_context fn cuEventSynchronize(event: *mut c_void) |driver| {
        driver.not_capturing("waiting for an event")?;
        let found = *driver.events.get(&(event as usize)).ok_or(INVALID_HANDLE)?;
        if found.passed >= found.recorded {
            return Ok(());
        }
        driver.run(found.stream, Some((event as usize, found.recorded)))
    };
    in_context fn cuEventDestroy_v2(event: *mut c_void) |driver| destroy(&mut driver.events, event);
}

/// Checks a launch as the driver does before it is in the stream.
///
/// # Safety
/// As `cuLaunchKernelEx` documents it.
unsafe fn launch(
    driver: &mut Driver,
    config: *const LaunchConfig,
    function: *mut c_void,
    words: *const *const u64,
    extra: *const *const c_void,
) -> Outcome {
    // SAFETY: the caller's promise.
    let config = unsafe { config.as_ref() }.ok_or(INVALID_VALUE)?;
    let Function { module, name, dynamic_shared_bytes } =
        driver.functions.get(&(function as usize)).cloned().ok_or(INVALID_HANDLE)?;
    let module = driver.modules.get(&module).ok_or(INVALID_HANDLE)?.clone();
    let limits = module.limits(&name).ok_or(INVALID_HANDLE)?;
    let refused = |what: String| {
        complain(&format!("{name}: {what}"));
        Err(INVALID_VALUE)
    };
    if !extra.is_null() {
        return refused("parameters in `extra`, which is not modelled".into());
    }
    let threads: u64 = config.block.iter().map(|n| u64::from(*n)).product();
    if threads == 0 || config.grid.contains(&0) || threads > limits.threads.map_or(MAX_BLOCK, u64::from).min(MAX_BLOCK)
    {
        return refused(format!("grid {:?}, {threads} threads, the kernel takes {:?}", config.grid, limits.threads));
    }
    let unasked = UNASKED_SHARED_BYTES.saturating_sub(limits.shared_bytes);
    if config.shared_bytes > unasked.max(dynamic_shared_bytes) {
        return refused(format!("{} bytes of dynamic shared memory, {unasked} unasked", config.shared_bytes));
    }
    // SAFETY: the caller promises so many attributes, and a pointer to a word for each parameter.
    let attributes = (0..config.n_attributes as usize).map(|i| unsafe { &*config.attributes.add(i) });
    let mut programmatic = false;
    for attribute in attributes {
        match attribute.id {
            PROGRAMMATIC_SERIALIZATION => programmatic = attribute.value[0] != 0,
            other => return refused(format!("launch attribute {other}, which is not modelled")),
        }
    }
    // SAFETY: as above.
    let words = (0..limits.parameters).map(|i| unsafe { **words.add(i) }).collect();
    let launch = Launch {
        grid: config.grid,
        block: config.block,
        cluster: [1; 3],
        dynamic_shared_bytes: config.shared_bytes,
        programmatic,
    };
    let capturing = driver.streams.get(&(config.stream as usize)).is_some_and(|s| s.capture.is_some());
    let faulty = !capturing && driver.count_launch();
    driver.push(config.stream as usize, Work::Kernel { module, name, launch, words, faulty })
}

/// The name of an error.
///
/// # Safety
/// `text` is null or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: Result32, text: *mut *const c_char) -> Result32 {
    let Some((name, _)) = describe(error) else { return INVALID_VALUE };
    // SAFETY: the caller's promise.
    unsafe { store(text, name.as_ptr()) }.err().unwrap_or(SUCCESS)
}

/// The description of an error.
///
/// # Safety
/// `text` is null or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: Result32, text: *mut *const c_char) -> Result32 {
    let Some((_, description)) = describe(error) else { return INVALID_VALUE };
    // SAFETY: the caller's promise.
    unsafe { store(text, description.as_ptr()) }.err().unwrap_or(SUCCESS)
}
