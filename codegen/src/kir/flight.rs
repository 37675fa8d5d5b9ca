//! Tile products of warpgroups go on beside the threads that started them: says where a kernel touches one too early, and
//! where it reads a sum that a product has overwritten.

use super::{Block, Inst, Kernel, Op, Value};
use std::collections::HashSet;

/// Threads of a warpgroup.
const GROUP: u32 = 128;

/// What is known while a kernel is read from top to bottom.
#[derive(Default)]
struct Flight {
    /// Position of the next instruction.
    next: usize,
    /// Results that have not been waited for, with the number of their group.
    flying: Vec<(Value, u32)>,
    /// Groups so far.
    groups: u32,
    /// Sums that products have overwritten.
    overwritten: HashSet<Value>,
    /// Values that a product may overwrite: those that a loop carries or leaves, and results of products.
    sums: HashSet<Value>,
    faults: Vec<(usize, String)>,
}

/// Each position of an instruction in the text with what is wrong there.
pub fn faults(kernel: &Kernel) -> Vec<(usize, String)> {
    let mut flight = Flight::default();
    flight.block(kernel, &kernel.body);
    flight.faults
}

/// The instruction at a position.
pub fn instruction(kernel: &Kernel, at: usize) -> Option<&Inst> {
    fn find<'k>(block: &'k Block, left: &mut usize) -> Option<&'k Inst> {
        for inst in &block.insts {
            if *left == 0 {
                return Some(inst);
            }
            *left -= 1;
            let inside = inst.blocks.iter().find_map(|b| find(b, left));
            if inside.is_some() {
                return inside;
            }
        }
        None
    }
    find(&kernel.body, &mut { at })
}

impl Flight {
    fn block(&mut self, kernel: &Kernel, block: &Block) {
        for inst in &block.insts {
            let at = self.next;
            self.next += 1;
            self.read(at, inst);
            match inst.op {
                Op::Wgmma { .. } => self.start(kernel, at, inst),
                Op::WgmmaCommit => self.groups += 1,
                Op::WgmmaWait(pending) => {
                    let done = self.groups.saturating_sub(pending.into());
                    self.flying.retain(|(_, group)| *group >= done);
                }
                Op::For { .. } => self.sums.extend(inst.blocks.iter().flat_map(|b| b.params.iter().skip(1))),
                _ => {}
            }
            for inside in &inst.blocks {
                if !self.flying.is_empty() {
                    self.faults.push((at, "found tile products in flight at a block, expected a wait before".into()));
                    self.flying.clear();
                }
                self.block(kernel, inside);
                if matches!(inst.op, Op::For { .. }) {
                    self.sums.extend(&inst.results);
                }
                if !self.flying.is_empty() {
                    self.faults.push((at, "found tile products in flight at the end of a block".into()));
                    self.flying.clear();
                }
            }
        }
    }

    /// The operands of an instruction, and what the blocks inside hand out.
    fn read(&mut self, at: usize, inst: &Inst) {
        let product = matches!(inst.op, Op::Wgmma { .. });
        let yields = inst.blocks.iter().flat_map(|b| &b.yields);
        for (i, arg) in inst.args.iter().chain(yields).enumerate() {
            if self.overwritten.contains(arg) {
                self.faults.push((at, format!("operand {i} has been overwritten by a tile product")));
            }
            if self.flying.iter().any(|(v, _)| v == arg) && !(product && i == 0) {
                self.faults.push((at, format!("operand {i} is the result of a tile product that was not waited for")));
            }
        }
    }

    fn start(&mut self, kernel: &Kernel, at: usize, inst: &Inst) {
        let ([sum, ..], [result]) = (&inst.args[..], &inst.results[..]) else { return };
        if !self.sums.contains(sum) {
            let message =
                "found a sum that no loop carries and that is no product's, expected one that can be overwritten";
            self.faults.push((at, message.into()));
        }
        if kernel.launch.is_some_and(|l| !l.threads.is_multiple_of(GROUP)) {
            self.faults.push((at, format!("found threads that are no multiple of {GROUP}")));
        }
        self.overwritten.insert(*sum);
        self.flying.retain(|(v, _)| v != sum);
        self.flying.push((*result, self.groups));
        self.sums.insert(*result);
    }
}
