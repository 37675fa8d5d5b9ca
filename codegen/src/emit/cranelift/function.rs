//! One kernel to one Cranelift function: blocks, loops and branches here, straight-line operations in `plain`.

mod plain;

use super::shape::{Pieces, pieces};
use crate::kir::{Block, Inst, Kernel, Op, Value};
use cranelift::frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_codegen::entity::packed_option::ReservedValue;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I32X4, I64};
use cranelift_codegen::ir::{self as clif, AbiParam, BlockArg, InstBuilder, MemFlagsData, Signature};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use std::collections::HashMap;

/// `extern "C" fn(*const u64)`.
pub fn signature(convention: CallConv) -> Signature {
    let mut s = Signature::new(convention);
    s.params.push(AbiParam::new(I64));
    s
}

/// Fills `func` with the code of `kernel`.
pub fn emit(kernel: &Kernel, isa: &dyn TargetIsa, func: &mut clif::Function, scratch: &mut FunctionBuilderContext) {
    let b = FunctionBuilder::new(func, scratch);
    let mut e = Emitter { k: kernel, b, map: HashMap::new(), high_halves: clif::Value::reserved_value() };
    e.function();
    e.b.seal_all_blocks();
    e.b.finalize(isa.frontend_config());
}

struct Emitter<'a, 'f> {
    k: &'a Kernel,
    b: FunctionBuilder<'f>,
    map: HashMap<Value, Pieces>,
    /// The mask of `widen_pairs`, made once at the entry: Cranelift without optimisation would make it in every turn.
    high_halves: clif::Value,
}

impl Emitter<'_, '_> {
    fn function(&mut self) {
        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.b.switch_to_block(entry);
        let words = self.b.block_params(entry)[0];
        let mask = self.b.ins().iconst(I32, 0xffff_0000);
        self.high_halves = self.b.ins().splat(I32X4, mask);
        for (i, p) in self.k.params.iter().enumerate() {
            let v = self.b.ins().load(I64, MemFlagsData::trusted(), words, 8 * i as i32);
            self.map.insert(p.value, vec![v]);
        }
        self.block(&self.k.body);
        self.b.ins().return_(&[]);
    }

    fn block(&mut self, block: &Block) {
        for inst in &block.insts {
            let args: Vec<Pieces> = inst.args.iter().map(|a| self.map[a].clone()).collect();
            match &inst.op {
                Op::For { step } => self.for_loop(inst, &args, *step),
                Op::If => self.branch(inst, &args),
                Op::WidenPairs => self.widen_pairs(inst, &args[0]),
                op => {
                    let out = self.plain(op, inst, &args);
                    if let Some(r) = inst.results.first() {
                        self.map.insert(*r, out);
                    }
                }
            }
        }
    }

    fn params(&mut self, block: clif::Block, values: &[Value]) {
        for v in values {
            let (ty, n) = pieces(self.k.ty(*v));
            let p = (0..n).map(|_| self.b.append_block_param(block, ty)).collect();
            self.map.insert(*v, p);
        }
    }

    fn passed(&self, values: &[Value]) -> Vec<BlockArg> {
        values.iter().flat_map(|v| &self.map[v]).map(|p| BlockArg::Value(*p)).collect()
    }

    /// Tested at the bottom, so that a turn has one branch.
    fn for_loop(&mut self, inst: &Inst, args: &[Pieces], step: u32) {
        let body = &inst.blocks[0];
        let (turn, exit) = (self.b.create_block(), self.b.create_block());
        self.params(turn, &body.params);
        self.params(exit, &inst.results);
        let (lo, hi) = (args[0][0], args[1][0]);
        let init = self.passed(&inst.args[2..]);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, lo, hi);
        self.b.ins().brif(more, turn, &[&[BlockArg::Value(lo)], &init[..]].concat(), exit, &init);
        self.b.switch_to_block(turn);
        self.block(body);
        let next = self.b.ins().iadd_imm_s(self.map[&body.params[0]][0], i64::from(step));
        let out = self.passed(&body.yields);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, next, hi);
        self.b.ins().brif(more, turn, &[&[BlockArg::Value(next)], &out[..]].concat(), exit, &out);
        self.b.switch_to_block(exit);
    }

    fn branch(&mut self, inst: &Inst, args: &[Pieces]) {
        let arms = [self.b.create_block(), self.b.create_block()];
        let end = self.b.create_block();
        self.params(end, &inst.results);
        self.b.ins().brif(args[0][0], arms[0], &[], arms[1], &[]);
        for (arm, block) in arms.into_iter().zip(&inst.blocks) {
            self.b.switch_to_block(arm);
            self.block(block);
            let out = self.passed(&block.yields);
            self.b.ins().jump(end, &out);
        }
        self.b.switch_to_block(end);
    }
}
