//! Kernels to code: legalise, verify, emit, link.

use crate::emit::{self, EmitError};
use crate::kir::{Cap, Fault, Kernel, legalise, overlap, verify};
use crate::link::{CodeBlob, LinkError, flat_link};
use crate::targets::{Backend, Target};
use std::collections::BTreeSet;

/// Why kernels cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kernels that break the rules of the IR, or that a target cannot express.
    #[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
    Verify(Vec<Fault>),
    /// Two kernels of one name.
    #[error("two kernels are called {0}")]
    Duplicate(String),
    /// The code generator refused.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// The target needs a code generator that was left out of this build.
    #[error("this build of jetc cannot make code for {0}, expected one with the cargo feature `mlir`")]
    Backend(&'static str),
    /// The object cannot be linked flat.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The kernel in the vocabulary of `target`, verified before and after.
///
/// # Errors
/// Everything that the verifier finds.
pub fn legal(kernel: &Kernel, target: &Target) -> Result<Kernel, Error> {
    verify(kernel, None).map_err(Error::Verify)?;
    let mut kernel = legalise(kernel, target);
    if target.has(Cap::DependentLaunch) {
        kernel = overlap(&kernel);
    }
    verify(&kernel, Some(target)).map_err(Error::Verify)?;
    Ok(kernel)
}

/// Compiles kernels to position-independent bytes with one symbol each. Equal kernels in equal order give equal bytes.
///
/// # Errors
/// If a kernel is malformed, or uses what the target cannot do, or two have one name, or this build lacks the backend.
pub fn compile(kernels: &[Kernel], target: &Target) -> Result<CodeBlob, Error> {
    let mut names = BTreeSet::new();
    if let Some(k) = kernels.iter().find(|k| !names.insert(&k.name)) {
        return Err(Error::Duplicate(k.name.clone()));
    }
    let (mut legalised, mut faults) = (vec![], vec![]);
    for k in kernels {
        match legal(k, target) {
            Ok(k) => legalised.push(k),
            Err(Error::Verify(f)) => faults.extend(f),
            Err(other) => return Err(other),
        }
    }
    if !faults.is_empty() {
        return Err(Error::Verify(faults));
    }
    emit(&legalised, target)
}

fn emit(kernels: &[Kernel], target: &Target) -> Result<CodeBlob, Error> {
    match target.backend {
        Backend::Cranelift { .. } => Ok(flat_link(&emit::cranelift::emit(kernels, target)?)?),
        #[cfg(feature = "mlir")]
        Backend::Mlir { cpu, features } => {
            let mut blob = CodeBlob::default();
            for object in emit::mlir::emit(kernels, target, cpu, features)? {
                blob.append(flat_link(&object)?);
            }
            Ok(blob)
        }
        Backend::Ptx { version } => Ok(emit::ptx::emit(kernels, target.arch, version)?),
        #[cfg(not(feature = "mlir"))]
        Backend::Mlir { .. } => Err(Error::Backend(target.name)),
    }
}
