//! Lets a kernel start while the one before still runs: what nobody writes is read at once, and what was written long ago copied;
//! everything else comes after a wait.

use super::{Block, Inst, Kernel, Mem, Op, Space, Type};

/// The kernel with a wait for the one before in front of the first access to memory that kernels write, and with leave for the
/// next one right behind. Both stand outside loops and branches, so that every thread comes by.
///
/// The order matters: a CTA that gives leave has seen everything before the kernel before finish, so at most two kernels
/// run at once, and what is older than the kernel before needs no wait. Only copies may say so of what they read ([`settled`]):
/// they come from the second-level cache, where finished kernels have left it.
///
/// [`settled`]: super::Ptr::settled
pub fn overlap(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    let insts = &kernel.body.insts;
    let at = insts.iter().position(|i| touches_mutable(&kernel, i)).unwrap_or(insts.len());
    let plain = |op| Inst { op, args: vec![], results: vec![], blocks: vec![] };
    kernel.body.insts.splice(at..at, [plain(Op::AwaitPrevious), plain(Op::ReleaseNext)]);
    kernel
}

/// Whether a kernel copies what was written long ago, and so may do it before the wait.
pub fn reads_settled(kernel: &Kernel) -> bool {
    fn any(block: &Block) -> bool {
        block.insts.iter().any(|i| matches!(i.op, Op::CopyAsync { settled: true, .. }) || i.blocks.iter().any(any))
    }
    any(&kernel.body)
}

/// Whether an instruction, or one inside it, accesses global memory that the kernel before may have written.
fn touches_mutable(kernel: &Kernel, inst: &Inst) -> bool {
    let global = |at: usize| inst.args.get(at).is_some_and(|p| kernel.ty(*p) == Type::Ptr(Space::Global));
    let here = match inst.op {
        Op::Load(Mem { constant, .. }) => !constant && global(0),
        Op::Arrive { .. } => true,
        Op::CopyAsync { settled, .. } => !settled && global(1),
        Op::Store(_) | Op::BulkCopy { .. } => global(1),
        _ => false,
    };
    let inside = |block: &Block| block.insts.iter().any(|i| touches_mutable(kernel, i));
    here || inst.blocks.iter().any(inside)
}
