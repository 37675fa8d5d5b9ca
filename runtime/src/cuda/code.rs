//! Code for the GPU: whether this driver can take it, and loading it.

use super::api::{Gpu, Module, call, version};
use crate::device::{Code, DeviceError};
use crate::machine::gpu_architecture;
use cudarc::driver::sys;
use std::ffi::{CStr, CString, c_void};

/// Versions of PTX with the first CUDA version whose drivers translate them ("PTX ISA release history" of the PTX manual).
const PTX_VERSIONS: &[((u32, u32), u32)] = &[
    ((7, 8), 11080),
    ((8, 0), 12000),
    ((8, 1), 12010),
    ((8, 2), 12020),
    ((8, 3), 12030),
    ((8, 4), 12040),
    ((8, 5), 12050),
    ((8, 6), 12070),
    ((8, 7), 12080),
    ((8, 8), 12090),
    ((9, 0), 13000),
];
/// Bytes of the driver's report on a translation.
const LOG_BYTES: usize = 16 << 10;

/// Kernels that are ready to run.
pub(super) struct Loaded {
    /// In the order of the artifact's table.
    pub names: Vec<String>,
    pub functions: Vec<Function>,
    /// Keeps the functions alive.
    _module: Module,
}

/// A kernel.
#[derive(Clone, Copy)]
pub(super) struct Function(pub sys::CUfunction);

// SAFETY: a handle of the driver, which belongs to a context, not to a thread.
unsafe impl Send for Function {}

/// What the driver is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// PTX text, which it translates.
    Text,
    /// Assembled code.
    Cubin,
}

/// Chooses the form for this GPU and driver; with the text, why it is not the cubin where the cubin is for this GPU.
pub(super) fn choose(code: &Code<'_>, gpu: &Gpu) -> Result<(Form, Option<String>), DeviceError> {
    let for_this_gpu = gpu_architecture(code.arch).is_some_and(|((major, minor), specific)| {
        // Code for 8.0 runs on 8.6, but not the other way round, and not on 9.0.
        let newer = if specific { gpu.compute.1 == minor } else { gpu.compute.1 >= minor };
        gpu.compute.0 == major && newer
    });
    let Some(cubin) = code.cubin.filter(|_| for_this_gpu) else {
        return check_version(code, gpu).map(|()| (Form::Text, None));
    };
    // Within a major version, drivers take code of newer assemblers ("minor version compatibility").
    if gpu.driver >= cubin.version.0 * 1000 {
        return Ok((Form::Cubin, None));
    }
    check_version(code, gpu)?;
    let (found, needed) = (version(gpu.driver), cubin.version.0);
    let why = format!(
        "{}: the driver translates the kernels, because it is for CUDA {found} and the assembled ones need one for {needed}.0 or newer",
        code.target
    );
    Ok((Form::Text, Some(why)))
}

/// Refuses PTX that the driver is too old for.
fn check_version(code: &Code<'_>, gpu: &Gpu) -> Result<(), DeviceError> {
    let found = ptx_version(code.bytes).ok_or_else(|| {
        DeviceError::new("load", format!("the code of {} is no PTX text: it names no .version", code.target))
    })?;
    // A version that is not in the table is newer than this program: the driver will say whether it knows it.
    let needed = PTX_VERSIONS.iter().find(|(ptx, _)| *ptx >= found).map_or(0, |(_, driver)| *driver);
    if gpu.driver >= needed {
        return Ok(());
    }
    let (have, need) = (version(gpu.driver), version(needed));
    let text = format!("{} is PTX {}.{}", code.target, found.0, found.1);
    Err(DeviceError::new("load", format!("found a driver for CUDA {have}, expected one for {need} or newer: {text}")))
}

/// What the directive `.version` says.
fn ptx_version(code: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(code).ok()?;
    let line = text.lines().find_map(|l| l.trim().strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Loads the code in the chosen form and finds every kernel in it. A cubin that the driver refuses is replaced by the text, which `notes` then says.
pub(super) fn load(code: &Code<'_>, form: Form, gpu: &Gpu, notes: &mut Vec<String>) -> Result<Loaded, DeviceError> {
    let refused = |problem: String| DeviceError::new("load", format!("{}: {problem}", code.target));
    let cubin = code.cubin.filter(|_| form == Form::Cubin).map(|cubin| image(cubin.bytes.as_ptr().cast()));
    let module = match cubin {
        Some(Ok(module)) => module,
        other => {
            if let Some(Err(e)) = other {
                check_version(code, gpu)?;
                let what = format!("the driver refuses the assembled kernels and translates them: {}", e.problem);
                notes.push(format!("{}: {what}", code.target));
            }
            let text = CString::new(code.bytes).map_err(|e| refused(format!("the code is no PTX text: {e}")))?;
            image(text.as_ptr().cast()).map_err(|e| refused(format!("{}: {}", e.call, e.problem)))?
        }
    };
    let mut functions = vec![];
    for (index, kernel) in code.kernels.iter().enumerate() {
        let name = CString::new(kernel.name).map_err(|e| refused(format!("kernel {:?}: {e}", kernel.name)))?;
        let mut raw = std::ptr::null_mut();
        let found = call!(cuModuleGetFunction(&mut raw, module.0, name.as_ptr()));
        found.map_err(|e| refused(format!("kernel {}: {}: {}", kernel.name, e.call, e.problem)))?;
        let mut most = 0;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        call!(cuFuncGetAttribute(&mut most, attribute, raw))?;
        let launch = code.launches.get(index).ok_or_else(|| refused(format!("no launch data for {}", kernel.name)))?;
        if i64::from(launch.threads) > i64::from(most) {
            let found = format!("kernel {} is launched with {} threads", kernel.name, launch.threads);
            return Err(refused(format!("{found}, expected at most {most} on this GPU")));
        }
        if launch.shared_bytes > 0 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let granted = call!(cuFuncSetAttribute(raw, attribute, launch.shared_bytes as i32));
            let bytes = launch.shared_bytes;
            granted.map_err(|e| {
                refused(format!("kernel {}: {bytes} bytes of shared memory: {}", kernel.name, e.problem))
            })?;
        }
        functions.push(Function(raw));
    }
    let names = code.kernels.iter().map(|k| k.name.to_string()).collect();
    Ok(Loaded { names, functions, _module: module })
}

/// Gives an ELF file, or PTX text that ends with a zero, to the driver; a failure carries the driver's report.
fn image(image: *const c_void) -> Result<Module, DeviceError> {
    use sys::CUjit_option as Option;
    let (mut errors, mut module) = (vec![0u8; LOG_BYTES], std::ptr::null_mut());
    let mut options = [Option::CU_JIT_ERROR_LOG_BUFFER, Option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The size goes in the place of a pointer, as the driver wants it.
    let mut values = [errors.as_mut_ptr().cast(), std::ptr::without_provenance_mut::<c_void>(LOG_BYTES)];
    let loaded =
        call!(cuModuleLoadDataEx(&mut module, image, options.len() as u32, options.as_mut_ptr(), values.as_mut_ptr()));
    loaded.map(|()| Module(module)).map_err(|error| {
        let report = CStr::from_bytes_until_nul(&errors).unwrap_or_default().to_string_lossy().into_owned();
        let report = report.trim();
        let problem = if report.is_empty() { error.problem } else { format!("{}\n{report}", error.problem) };
        DeviceError { problem, ..error }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetbin::Cubin;

    #[test]
    fn the_version_is_read_from_the_text() {
        assert_eq!(ptx_version(b"// a comment\n.version 7.8\n.target sm_80\n"), Some((7, 8)));
        assert_eq!(ptx_version(b".target sm_80"), None);
        assert_eq!(ptx_version(b"\x7fELF\xff"), None);
    }

    fn gpu(compute: (u32, u32), driver: u32) -> Gpu {
        Gpu { name: "a GPU".into(), compute, driver, multiprocessors: 1, maps_pages: true, device: 0 }
    }

    fn code(bytes: &'static [u8], arch: &'static str, version: Option<u32>) -> Code<'static> {
        let cubin = version.map(|major| Cubin { version: (major, 0), bytes: b"\x7fELF" });
        Code { target: arch, bytes, cubin, arch, kernels: &[], launches: &[] }
    }

    #[test]
    fn an_old_driver_is_refused_and_an_unknown_version_is_left_to_the_driver() {
        let text = |bytes, driver| {
            check_version(&code(bytes, "sm_90a", None), &gpu((9, 0), driver)).map_err(|e| e.to_string())
        };
        assert_eq!(text(b".version 8.0", 12000), Ok(()));
        assert_eq!(
            text(b".version 8.0", 11080).unwrap_err(),
            "device: load: found a driver for CUDA 11.8, expected one for 12.0 or newer: sm_90a is PTX 8.0"
        );
        assert_eq!(text(b".version 7.0", 11080), Ok(()));
        assert_eq!(text(b".version 99.9", 11080), Ok(()));
        assert_eq!(
            text(b"no", 11080).unwrap_err(),
            "device: load: the code of sm_90a is no PTX text: it names no .version"
        );
    }

    #[test]
    fn assembled_code_is_for_gpus_and_drivers_that_run_it() {
        let chosen = |arch, version, compute, driver| {
            let (form, why) = choose(&code(b".version 7.8", arch, version), &gpu(compute, driver)).unwrap();
            (form, why.is_some())
        };
        assert_eq!(chosen("sm_80", Some(13), (8, 0), 13000), (Form::Cubin, false));
        assert_eq!(chosen("sm_80", Some(13), (8, 6), 13010), (Form::Cubin, false));
        assert_eq!(chosen("sm_80", Some(13), (9, 0), 13000), (Form::Text, false));
        assert_eq!(chosen("sm_90a", Some(13), (9, 0), 13000), (Form::Cubin, false));
        assert_eq!(chosen("sm_80", Some(13), (8, 0), 12080), (Form::Text, true));
        assert_eq!(chosen("sm_80", None, (8, 0), 13000), (Form::Text, false));
        // Only the text needs a driver that knows its version.
        let newer = code(b".version 9.0", "sm_90a", Some(12));
        assert_eq!(choose(&newer, &gpu((9, 0), 12040)).unwrap(), (Form::Cubin, None));
    }
}
