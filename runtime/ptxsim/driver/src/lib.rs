//! A stand-in for the library of the CUDA driver, on top of `jet-ptxsim`: programs that open `libcuda.so.1` run on it without a GPU.
//!
//! It is for tests of code that calls the driver: it implements the functions that this project calls, at the level of their documentation
//! ("CUDA Driver API"), and traps misuse, where the real driver would return an error or where the outcome would be undefined. Work in a stream
//! runs as late as the API allows, that is when somebody waits for it, so that a program which forgets to wait is found:
//!
//! - a copy from pinned memory reads it when the copy is made, and traps if it has changed since the call; a copy from other memory takes the
//!   bytes at once; a copy to other memory waits;
//! - memory that was freed, handles that were destroyed, bytes that nobody wrote, launches beyond the limits of kernel or GPU are errors;
//! - waiting, allocating and copying while a stream is captured are errors, as there;
//! - a kernel that traps makes every later call fail.
//!
//! It is no model of time, of several contexts or GPUs, of binary code (only PTX text is run; the magic of an ELF file in front of a text makes it
//! stand for binary code, any other is refused), nor of the driver's compiler: PTX that it takes may
//! still be refused by `ptxas`. What it needs to know of the API (numbers, layouts) it declares itself.
//!
//! The variable `JET_STANDIN` plants faults and asks for a report: `;` between `key=value`, see [`Settings`].

pub mod abi;
pub mod calls;
mod settings;
mod state;
mod stream;

pub use settings::Settings;
