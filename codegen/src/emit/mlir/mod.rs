//! MLIR: each legal kernel to an object file of its own, through text, the LLVM dialect and LLVM, in this process.

mod dot;
mod llvm;
mod text;

use super::{EmitError, on_all_processors};
use crate::kir::Kernel;
use crate::targets::Target;
use llvm::Machine;
use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::pass::{PassManager, conversion};
use melior::utility::register_all_llvm_translations;
use std::cell::RefCell;
use std::rc::Rc;
pub use text::print;

/// One object file per kernel, in their order, compiled on all processors; `cpu` and `features` as LLVM spells them.
///
/// # Errors
/// If LLVM refuses the target or a kernel.
pub fn emit(kernels: &[Kernel], target: &Target, cpu: &str, features: &str) -> Result<Vec<Vec<u8>>, EmitError> {
    on_all_processors(kernels, || Compiler::new(target, cpu, features), |compiler, k| compiler.object(k))
}

/// A context with the dialects that `text` uses; making one costs more than compiling a kernel.
struct Compiler {
    context: Context,
    target: Target,
    machine: Machine,
    /// What MLIR complained of since the last kernel.
    complaints: Rc<RefCell<Vec<String>>>,
}

impl Compiler {
    fn new(target: &Target, cpu: &str, features: &str) -> Result<Compiler, EmitError> {
        let machine =
            Machine::new(target.arch, cpu, features).map_err(|message| EmitError { subject: cpu.into(), message })?;
        let registry = DialectRegistry::new();
        // SAFETY: the handles are static, the registry is alive.
        unsafe {
            use mlir_sys::*;
            for handle in [
                mlirGetDialectHandle__arith__(),
                mlirGetDialectHandle__cf__(),
                mlirGetDialectHandle__llvm__(),
                mlirGetDialectHandle__math__(),
                mlirGetDialectHandle__scf__(),
                mlirGetDialectHandle__vector__(),
            ] {
                mlirDialectHandleInsertDialect(handle, registry.to_raw());
            }
        }
        let context = Context::new_with_threading(false);
        context.append_dialect_registry(&registry);
        context.load_all_available_dialects();
        register_all_llvm_translations(&context);
        let complaints = Rc::new(RefCell::new(vec![]));
        let heard = Rc::clone(&complaints);
        context.attach_diagnostic_handler(move |d| {
            heard.borrow_mut().push(format!("{}: {d}", d.location()));
            true
        });
        Ok(Compiler { context, target: *target, machine, complaints })
    }

    fn object(&self, kernel: &Kernel) -> Result<Vec<u8>, EmitError> {
        self.complaints.borrow_mut().clear();
        self.lower(&print(kernel, &self.target)).map_err(|what| {
            let said = self.complaints.borrow().join("; ");
            EmitError { subject: kernel.name.clone(), message: format!("mlir: {what}: {said}") }
        })
    }

    fn lower(&self, text: &str) -> Result<Vec<u8>, String> {
        let mut module = Module::parse(&self.context, text).ok_or("the module does not parse")?;
        let passes = PassManager::new(&self.context);
        for pass in [
            conversion::create_scf_to_control_flow(),
            conversion::create_vector_to_llvm(),
            conversion::create_math_to_llvm(),
            conversion::create_arith_to_llvm(),
            conversion::create_control_flow_to_llvm(),
            conversion::create_reconcile_unrealized_casts(),
        ] {
            passes.add_pass(pass);
        }
        passes.run(&mut module).map_err(|e| e.to_string())?;
        self.machine.object(&module)
    }
}
