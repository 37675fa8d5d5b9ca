//! Tile products of warpgroups go on beside the threads that started them: says where a kernel touches one too early, and
//! where it reads a sum that a product has overwritten.

use super::{Block, Cmp, Inst, Kernel, Op, Value, WARP};
use std::collections::{HashMap, HashSet};

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
    /// Constants, numbers of threads, and numbers of warps: what roles are told apart by.
    constants: HashMap<Value, u64>,
    threads: HashSet<Value>,
    warps: HashSet<Value>,
    /// Conditions that are true in whole warpgroups alone.
    groupwise: HashSet<Value>,
    /// Whether the threads here are whole warpgroups.
    whole: bool,
    faults: Vec<(usize, String)>,
}

/// Each position of an instruction in the text with what is wrong there.
pub fn faults(kernel: &Kernel) -> Vec<(usize, String)> {
    let whole = kernel.launch.is_none_or(|l| l.threads.is_multiple_of(GROUP));
    let mut flight = Flight { whole, ..Flight::default() };
    flight.block(&kernel.body);
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
    fn block(&mut self, block: &Block) {
        for inst in &block.insts {
            let at = self.next;
            self.next += 1;
            self.read(at, inst);
            match inst.op {
                Op::Wgmma { .. } => self.start(at, inst),
                Op::WgmmaCommit => self.groups += 1,
                Op::WgmmaWait(pending) => {
                    let done = self.groups.saturating_sub(pending.into());
                    self.flying.retain(|(_, group)| *group >= done);
                }
                Op::MbarrierArrive { .. } if !self.flying.is_empty() => {
                    self.faults
                        .push((at, "found an arrival while tile products may still read, expected a wait".into()));
                }
                Op::For { .. } => self.sums.extend(inst.blocks.iter().flat_map(|b| b.params.iter().skip(1))),
                _ => self.role(inst),
            }
            let outside = self.whole;
            for (i, inside) in inst.blocks.iter().enumerate() {
                self.whole = outside || (i == 0 && inst.args.first().is_some_and(|p| self.groupwise.contains(p)));
                if !self.flying.is_empty() {
                    self.faults.push((at, "found tile products in flight at a block, expected a wait before".into()));
                    self.flying.clear();
                }
                self.block(inside);
                if matches!(inst.op, Op::For { .. }) {
                    self.sums.extend(&inst.results);
                }
                if !self.flying.is_empty() {
                    self.faults.push((at, "found tile products in flight at the end of a block".into()));
                    self.flying.clear();
                }
            }
            self.whole = outside;
        }
    }

    /// Notes what a condition is made of that tells whole warpgroups from other threads.
    fn role(&mut self, inst: &Inst) {
        let ([result], args) = (&inst.results[..], &inst.args[..]) else { return };
        match (&inst.op, args) {
            (Op::Const(bits), []) => self.constants.extend([(*result, *bits)]),
            (Op::ThreadId, []) => self.threads.extend([*result]),
            (Op::ShiftRight(by), [t]) if u32::from(*by) == WARP.ilog2() && self.threads.contains(t) => {
                self.warps.extend([*result])
            }
            (Op::Cmp(Cmp::Lt), [n, bound]) => {
                let bound = self.constants.get(bound).copied().unwrap_or(1);
                let of_warps = self.warps.contains(n) && bound.is_multiple_of((GROUP / WARP).into());
                if of_warps || (self.threads.contains(n) && bound.is_multiple_of(GROUP.into())) {
                    self.groupwise.insert(*result);
                }
            }
            _ => {}
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

    fn start(&mut self, at: usize, inst: &Inst) {
        let ([sum, ..], [result]) = (&inst.args[..], &inst.results[..]) else { return };
        if !self.sums.contains(sum) {
            let message =
                "found a sum that no loop carries and that is no product's, expected one that can be overwritten";
            self.faults.push((at, message.into()));
        }
        if !self.whole {
            self.faults
                .push((at, format!("found threads that are no multiple of {GROUP}, nor the first so many of them")));
        }
        self.overwritten.insert(*sum);
        self.flying.retain(|(v, _)| v != sum);
        self.flying.push((*result, self.groups));
        self.sums.insert(*result);
    }
}
