//! A token costs no allocation, on the test device and on the real one.

mod toy;

use jet_runtime::{Cpu, Device, Session};
use libtest_mimic::{Arguments, Trial};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use toy::*;

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, SeqCst);
        // SAFETY: the caller keeps to the contract of this very method.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test alone in this file, on the only thread: what a thread of a test harness allocates would be counted too.
fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let test = Trial::test("a_token_allocates_nothing", || {
        a_token_allocates_nothing();
        Ok(())
    });
    libtest_mimic::run(&arguments, vec![test]).exit();
}

fn a_token_allocates_nothing() {
    let ret: &[u8] = if cfg!(target_arch = "aarch64") { &[0xc0, 0x03, 0x5f, 0xd6] } else { &[0xc3] };
    let mut code = vec![0; KERNELS.len() * 16];
    (0..KERNELS.len()).for_each(|k| code[k * 16..k * 16 + ret.len()].copy_from_slice(ret));
    let listing = Recipe { code: code.clone(), candidates: Some(1.0), argmax: false, ..Recipe::default() };
    let (_folder, model) = model_of("no-alloc", &Recipe { code, ..Recipe::default() });
    let (_other, listing) = model_of("no-alloc-lists", &listing);
    for (name, model) in [("toy", &model), ("cpu", &model), ("candidates", &listing)] {
        // Made when its turn comes: threads that still start allocate, and the first token waits for those of its own device.
        let device: Box<dyn Device> =
            if name == "toy" { Box::new(Toy::new(3)) } else { Box::new(Cpu::new(3).unwrap()) };
        let mut session = Session::with_device(model, device, 2).unwrap();
        let mut token = |n: u32| {
            session.prefill(0, &[n % 11, 2]).unwrap();
            session.decode(&[(0, 1), (1, n % 11)]).unwrap();
            session.argmax(0).unwrap() + session.logits(1).unwrap()[0] as u32
        };
        // The first call on a thread registers the thread with the pool.
        token(0);
        let before = COUNT.load(SeqCst);
        let sum: u32 = (1..10).map(&mut token).sum();
        assert_eq!(COUNT.load(SeqCst) - before, 0, "{name} (sum {sum})");
    }
}
