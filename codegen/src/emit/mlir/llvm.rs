//! LLVM through its C API: a module in the LLVM dialect to an object file in memory. The libraries come with `mlir-sys`,
//! which declares only a part of the functions.

use melior::ir::Module;
use mlir_sys::{
    LLVMContextCreate, LLVMContextDispose, LLVMDisposeMemoryBuffer, LLVMDisposeMessage, LLVMDisposeModule,
    LLVMGetBufferSize, LLVMGetBufferStart, LLVMMemoryBufferRef, LLVMModuleRef, LLVMSetTarget,
    mlirTranslateModuleToLLVMIR,
};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::{ptr::null_mut, slice, sync::Once};

type Handle = *mut c_void;

#[allow(clashing_extern_declarations, reason = "handles are untyped here")]
unsafe extern "C" {
    fn LLVMInitializeX86TargetInfo();
    fn LLVMInitializeX86Target();
    fn LLVMInitializeX86TargetMC();
    fn LLVMInitializeX86AsmPrinter();
    fn LLVMInitializeAArch64TargetInfo();
    fn LLVMInitializeAArch64Target();
    fn LLVMInitializeAArch64TargetMC();
    fn LLVMInitializeAArch64AsmPrinter();
    fn LLVMGetTargetFromTriple(triple: *const c_char, target: *mut Handle, error: *mut *mut c_char) -> c_int;
    fn LLVMCreateTargetMachine(
        target: Handle,
        triple: *const c_char,
        cpu: *const c_char,
        features: *const c_char,
        optimisation: c_int,
        relocation: c_int,
        code_model: c_int,
    ) -> Handle;
    fn LLVMDisposeTargetMachine(machine: Handle);
    fn LLVMCreateTargetDataLayout(machine: Handle) -> Handle;
    fn LLVMDisposeTargetData(layout: Handle);
    fn LLVMSetModuleDataLayout(module: LLVMModuleRef, layout: Handle);
    fn LLVMCreatePassBuilderOptions() -> Handle;
    fn LLVMDisposePassBuilderOptions(options: Handle);
    fn LLVMPassBuilderOptionsSetLoopVectorization(options: Handle, on: c_int);
    fn LLVMPassBuilderOptionsSetSLPVectorization(options: Handle, on: c_int);
    fn LLVMRunPasses(module: LLVMModuleRef, passes: *const c_char, machine: Handle, options: Handle) -> Handle;
    fn LLVMGetErrorMessage(error: Handle) -> *mut c_char;
    fn LLVMDisposeErrorMessage(message: *mut c_char);
    fn LLVMTargetMachineEmitToMemoryBuffer(
        machine: Handle,
        module: LLVMModuleRef,
        kind: c_int,
        error: *mut *mut c_char,
        out: *mut LLVMMemoryBufferRef,
    ) -> c_int;
}

const OPTIMISE_FULLY: c_int = 3;
const POSITION_INDEPENDENT: c_int = 2;
/// Code within 1 MiB of its constants, which needs the simplest relocations.
const TINY_CODE_MODEL: c_int = 2;
/// Code within 2 GiB of its constants.
const SMALL_CODE_MODEL: c_int = 3;
const OBJECT_FILE: c_int = 1;

/// LLVM's idea of a processor.
pub struct Machine {
    handle: Handle,
    triple: CString,
}

impl Machine {
    /// A processor of architecture `arch`.
    ///
    /// # Errors
    /// If LLVM was built without that architecture.
    pub fn new(arch: &str, cpu: &str, features: &str) -> Result<Machine, String> {
        static TARGETS: Once = Once::new();
        // SAFETY: plain registrations, once in the process.
        TARGETS.call_once(|| unsafe {
            LLVMInitializeX86TargetInfo();
            LLVMInitializeX86Target();
            LLVMInitializeX86TargetMC();
            LLVMInitializeX86AsmPrinter();
            LLVMInitializeAArch64TargetInfo();
            LLVMInitializeAArch64Target();
            LLVMInitializeAArch64TargetMC();
            LLVMInitializeAArch64AsmPrinter();
        });
        let [triple, cpu, features] = [&format!("{arch}-unknown-linux-gnu"), cpu, features].map(c_string);
        let code_model = if arch == "aarch64" { TINY_CODE_MODEL } else { SMALL_CODE_MODEL };
        let (mut target, mut error) = (null_mut(), null_mut());
        // SAFETY: the strings live through the calls; `target` is set where the first call succeeds.
        let handle = unsafe {
            if LLVMGetTargetFromTriple(triple.as_ptr(), &mut target, &mut error) != 0 {
                return Err(message(error));
            }
            let [triple, cpu, features] = [&triple, &cpu, &features].map(|s| s.as_ptr());
            let relocation = POSITION_INDEPENDENT;
            LLVMCreateTargetMachine(target, triple, cpu, features, OPTIMISE_FULLY, relocation, code_model)
        };
        if handle.is_null() { Err(format!("found no machine {cpu:?}")) } else { Ok(Machine { handle, triple }) }
    }

    /// The object file of a module that holds nothing but the LLVM dialect.
    ///
    /// # Errors
    /// What LLVM says.
    pub fn object(&self, module: &Module) -> Result<Vec<u8>, String> {
        // SAFETY: a context of its own, which outlives the module in it.
        unsafe {
            let context = LLVMContextCreate();
            let translated = mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), context);
            let object = match translated.is_null() {
                true => Err("the translation to LLVM failed".into()),
                false => self.emit(translated),
            };
            if !translated.is_null() {
                LLVMDisposeModule(translated);
            }
            LLVMContextDispose(context);
            object
        }
    }

    /// # Safety
    /// `module` is alive.
    unsafe fn emit(&self, module: LLVMModuleRef) -> Result<Vec<u8>, String> {
        // SAFETY: handles are used in the order that the C API prescribes, and freed once, after their last use.
        unsafe {
            LLVMSetTarget(module, self.triple.as_ptr());
            let layout = LLVMCreateTargetDataLayout(self.handle);
            LLVMSetModuleDataLayout(module, layout);
            LLVMDisposeTargetData(layout);
            let options = LLVMCreatePassBuilderOptions();
            // kernels say themselves what is a vector
            LLVMPassBuilderOptionsSetLoopVectorization(options, 0);
            LLVMPassBuilderOptionsSetSLPVectorization(options, 0);
            let failed = LLVMRunPasses(module, c"default<O3>".as_ptr(), self.handle, options);
            LLVMDisposePassBuilderOptions(options);
            if !failed.is_null() {
                let text = LLVMGetErrorMessage(failed);
                let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
                LLVMDisposeErrorMessage(text);
                return Err(owned);
            }
            let (mut error, mut buffer) = (null_mut(), null_mut());
            if LLVMTargetMachineEmitToMemoryBuffer(self.handle, module, OBJECT_FILE, &mut error, &mut buffer) != 0 {
                return Err(message(error));
            }
            let bytes = slice::from_raw_parts(LLVMGetBufferStart(buffer).cast(), LLVMGetBufferSize(buffer)).to_vec();
            LLVMDisposeMemoryBuffer(buffer);
            Ok(bytes)
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: made by `new` and owned by this value alone.
        unsafe { LLVMDisposeTargetMachine(self.handle) };
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("names of processors hold no zero")
}

/// # Safety
/// `text` is a message of LLVM that nobody has freed.
unsafe fn message(text: *mut c_char) -> String {
    // SAFETY: by the contract above.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        LLVMDisposeMessage(text);
        owned
    }
}
