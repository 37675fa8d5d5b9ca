//! PTX text: one module with an entry for each kernel.
//!
//! A value is a list of registers: one for each lane of 32 bits, one for two lanes of bf16. Constants are immediates and have
//! no registers. Structured loops and branches become labels and moves; everything else is an instruction for each register,
//! with the operation that it is for in a comment behind the first.

mod function;
mod memory;
mod plain;

use super::EmitError;
use crate::kir::Kernel;
use crate::link::CodeBlob;

/// The text of `kernels` for the architecture `arch` in the language version `version`; a symbol is the place of an entry.
///
/// # Errors
/// A kernel that does not say how many threads it has.
pub fn emit(kernels: &[Kernel], arch: &str, version: &str) -> Result<CodeBlob, EmitError> {
    let mut blob = CodeBlob::default();
    let mut text = format!(".version {version}\n.target {arch}\n.address_size 64\n");
    if kernels.iter().any(|k| k.dynamic_shared_bytes() > 0) {
        text += &format!("\n.extern .shared .align 16 .b8 {}[];\n", function::DYNAMIC);
    }
    for kernel in kernels {
        text.push('\n');
        blob.symbols.insert(kernel.name.clone(), text.len());
        text += &function::emit(kernel)?;
    }
    blob.bytes = text.into_bytes();
    Ok(blob)
}
