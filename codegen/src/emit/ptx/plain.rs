//! Straight-line operations, register by register. The names of scalar operations come from the table.

use super::function::{Class, Emitter, Regs, registers};
use super::memory::Access;
use crate::kir::{Cmp, Domain, Elem, Inst, Op, Scalar, Space, Type};

/// All lanes of a warp take part.
const FULL: &str = "0xffffffff";

fn tuple(regs: &[String]) -> String {
    format!("{{{}}}", regs.join(", "))
}

/// A constant as PTX spells it.
fn immediate(bits: u64, ty: Type) -> String {
    match ty.elem() {
        Some(Elem::F32) => format!("0f{:08X}", bits as u32),
        _ => (bits as i32).to_string(),
    }
}

fn comparison(c: Cmp) -> &'static str {
    match c {
        Cmp::Lt => "lt",
        Cmp::Le => "le",
        Cmp::Eq => "eq",
    }
}

impl Emitter<'_> {
    /// An operation without blocks.
    pub fn plain(&mut self, inst: &Inst, a: &[Regs]) {
        let ty = |i: usize| self.k.ty(inst.args[i]);
        let result = inst.results.first().map(|r| self.k.ty(*r));
        let n = result.map_or(0, |t| registers(t).1);
        match (&inst.op, result) {
            (Op::Const(bits), Some(t)) => self.alias(inst.results[0], vec![immediate(*bits, t); n]),
            (Op::Splat, Some(Type::Vec(Elem::Bf16, 2..))) => {
                let d = self.define(inst.results[0]);
                self.line(&format!("mov.b32 {}, {{{}, {}}}", d[0], a[0][0], a[0][0]));
                self.alias(inst.results[0], vec![d[0].clone(); n]);
            }
            (Op::Splat, _) => self.alias(inst.results[0], vec![a[0][0].clone(); n]),
            (Op::Extract(i), _) => self.alias(inst.results[0], vec![a[0][usize::from(*i)].clone()]),
            (Op::Pack, _) => self.alias(inst.results[0], a.concat()),
            (Op::ToIndex | Op::ToI32, _) => self.alias(inst.results[0], a[0].clone()),
            (Op::Store(m), _) => {
                let access = Access { m: *m, value: ty(0), pointer: ty(1), address: &a[1][0] };
                self.store(&access, &a[0]);
            }
            (Op::Load(m), Some(value)) => {
                let access = Access { m: *m, value, pointer: ty(0), address: &a[0][0] };
                let d = self.define(inst.results[0]);
                self.load(&access, &d);
            }
            (Op::LoadMatrix { offset, trans }, _) => {
                let (d, trans) = (self.define(inst.results[0]), if *trans { ".trans" } else { "" });
                self.line(&format!(
                    "ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {}, [{}{offset:+}]",
                    tuple(&d),
                    a[0][0]
                ));
            }
            (Op::Barrier, _) => self.line("bar.sync 0"),
            (Op::WarpBarrier, _) => self.line(&format!("bar.warp.sync {FULL}")),
            (Op::ClusterBarrier, _) => {
                self.line("barrier.cluster.arrive.release.aligned");
                self.line("barrier.cluster.wait.acquire.aligned");
            }
            (Op::WgmmaFence, _) => self.line("wgmma.fence.sync.aligned"),
            (Op::WgmmaCommit, _) => self.line("wgmma.commit_group.sync.aligned"),
            (Op::WgmmaWait(groups), _) => self.line(&format!("wgmma.wait_group.sync.aligned {groups}")),
            (Op::ProxyFence, _) => {
                let space = if self.k.cluster > 1 { "shared::cluster" } else { "shared::cta" };
                self.line(&format!("fence.proxy.async.{space}"));
            }
            (Op::Wgmma { offset, lead, stride }, _) => {
                let descriptor = self.descriptor(&a[2][0], *offset, *lead, *stride);
                let shape = format!("m64n{}k16", 2 * a[0].len());
                let (sums, left) = (tuple(&a[0]), tuple(&a[1]));
                self.line(&format!(
                    "wgmma.mma_async.sync.aligned.{shape}.f32.bf16.bf16 {sums}, {left}, {descriptor}, 1, 1, 1, 0"
                ));
                // the sums stay where they are: the verifier knows that nobody reads the old ones
                self.alias(inst.results[0], a[0].clone());
            }
            (Op::AwaitPrevious, _) => self.line("griddepcontrol.wait"),
            (Op::ReleaseNext, _) => self.line("griddepcontrol.launch_dependents"),
            (Op::Arrive { offset }, _) => {
                let (d, last) = (self.define(inst.results[0]), self.in_register(&a[1][0], Class::Word));
                self.line(&format!("atom.acq_rel.gpu.global.inc.u32 {}, [{}{offset:+}], {last}", d[0], a[0][0]));
            }
            (Op::CopyAsync { to, from, .. }, _) => {
                let some = a.get(2).map_or(String::new(), |n| format!(", {}", n[0]));
                self.line(&format!("cp.async.cg.shared.global [{}{to:+}], [{}{from:+}], 16{some}", a[0][0], a[1][0]));
            }
            (Op::CopyCommit, _) => self.line("cp.async.commit_group"),
            (Op::CopyWait(groups), _) => self.line(&format!("cp.async.wait_group {groups}")),
            (Op::MbarrierInit { offset, count }, _) => {
                self.line(&format!("mbarrier.init.shared::cta.b64 [{}{offset:+}], {count}", a[0][0]));
            }
            (Op::MbarrierArrive { offset }, _) => {
                let of_peer = ty(0) == Type::Ptr(Space::Cluster);
                let space = if of_peer { "release.cluster.shared::cluster" } else { "shared::cta" };
                self.line(&format!("mbarrier.arrive.{space}.b64 _, [{}{offset:+}]", a[0][0]));
            }
            (Op::MbarrierExpect { offset, bytes }, _) => {
                self.line(&format!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [{}{offset:+}], {bytes}", a[0][0]));
            }
            (Op::MbarrierWait { offset }, _) => self.await_phase(&a[0][0], *offset, &a[1][0]),
            (Op::BulkCopy { to, from, bytes, barrier, everywhere }, _) => {
                let (to, from) = (format!("[{}{to:+}]", a[0][0]), format!("[{}{from:+}]", a[1][0]));
                let copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
                let operands = format!("{to}, {from}, {bytes}, [{}{barrier:+}]", a[2][0]);
                if *everywhere {
                    let all = self.in_register(&((1u32 << self.k.cluster) - 1).to_string(), Class::Half);
                    self.line(&format!("{copy}.multicast::cluster {operands}, {all}"));
                } else {
                    self.line(&format!("{copy} {operands}"));
                }
            }
            (Op::WidenPairs, _) => {
                let d = [self.define(inst.results[0]), self.define(inst.results[1])];
                (0..2 * a[0].len()).for_each(|i| self.half(&d[i % 2][i / 2], &a[0][i / 2], i % 2 == 1));
            }
            _ => {
                let d = self.define(inst.results[0]);
                self.computed(inst, &d, a);
            }
        }
    }

    /// Operations that compute their result into fresh registers.
    fn computed(&mut self, inst: &Inst, d: &Regs, a: &[Regs]) {
        let of = self.k.ty(inst.args.first().copied().unwrap_or(inst.results[0]));
        let each = |e: &mut Self, f: &dyn Fn(&str, &[&str]) -> String| {
            for (i, to) in d.iter().enumerate() {
                let from: Vec<&str> = a.iter().map(|r| r.get(i).unwrap_or(&r[0]).as_str()).collect();
                e.line(&f(to, &from));
            }
        };
        match &inst.op {
            Op::Scalar(s) => {
                let name = instruction(*s, of);
                each(self, &|d, a| format!("{name} {d}, {}", a.join(", ")));
            }
            Op::ShiftLeft(by) => each(self, &|d, a| format!("shl.b32 {d}, {}, {by}", a[0])),
            Op::ShiftRight(by) => each(self, &|d, a| format!("shr.u32 {d}, {}, {by}", a[0])),
            Op::Bitcast => each(self, &|d, a| format!("mov.b32 {d}, {}", a[0])),
            Op::ToF32 => each(self, &|d, a| format!("cvt.rn.f32.s32 {d}, {}", a[0])),
            Op::Cmp(c) => {
                let (c, t) = (comparison(*c), if of.elem() == Some(Elem::F32) { "f32" } else { "s32" });
                each(self, &|d, a| format!("setp.{c}.{t} {d}, {}, {}", a[0], a[1]));
            }
            Op::Select => self.select(inst, d, a),
            Op::ShuffleXor(bits) => {
                each(self, &|d, a| format!("shfl.sync.bfly.b32 {d}, {}, {bits}, 31, {FULL}", a[0]));
            }
            Op::Shuffle => each(self, &|d, a| format!("shfl.sync.idx.b32 {d}, {}, {}, 31, {FULL}", a[0], a[1])),
            Op::SumLanes => self.sum_lanes(&d[0], &a[0]),
            Op::Widen => self.widen(of, d, &a[0]),
            Op::Round => self.round(d, &a[0]),
            Op::Bf16Bits => self.bf16_bits(d, &a[0], of.lanes()),
            Op::Offset { scale } if of == Type::Ptr(Space::Global) => {
                self.line(&format!("mad.wide.s32 {}, {}, {scale}, {}", d[0], a[1][0], a[0][0]));
            }
            Op::Offset { scale } => {
                self.line(&format!("mad.lo.s32 {}, {}, {scale}, {}", d[0], a[1][0], a[0][0]));
            }
            Op::Stride if of == Type::Ptr(Space::Global) => {
                self.line(&format!("mad.wide.u32 {}, {}, {}, {}", d[0], a[1][0], a[2][0], a[0][0]));
            }
            Op::Stride => self.line(&format!("mad.lo.s32 {}, {}, {}, {}", d[0], a[1][0], a[2][0], a[0][0])),
            Op::Shared { bytes } => {
                let (region, start) = self.region(*bytes);
                self.line(&format!("mov.u32 {}, {region}", d[0]));
                if start > 0 {
                    self.line(&format!("add.u32 {0}, {0}, {start}", d[0]));
                }
            }
            Op::Peer => self.line(&format!("mapa.shared::cluster.u32 {}, {}, {}", d[0], a[0][0], a[1][0])),
            Op::ThreadId => self.line(&format!("mov.u32 {}, %tid.x", d[0])),
            Op::CtaId => self.line(&format!("mov.u32 {}, %ctaid.x", d[0])),
            Op::Mma => self.mma(d, a),
            other => unreachable!("{other} is not legal in PTX: the verifier refuses it"),
        }
    }

    /// What `wgmma` wants to know of a matrix in shared memory without a swizzle: start, distances of its pieces.
    fn descriptor(&mut self, base: &str, offset: i32, lead: u32, stride: u32) -> String {
        let (start, low, all) = (self.fresh(Class::Word), self.fresh(Class::Word), self.fresh(Class::Wide));
        self.line(&format!("add.s32 {start}, {base}, {offset}"));
        self.line(&format!("bfe.u32 {start}, {start}, 4, 14"));
        self.line(&format!("or.b32 {low}, {start}, {}", (lead >> 4) << 16));
        self.line(&format!("mov.b64 {all}, {{{low}, {}}}", stride >> 4));
        all
    }

    /// The hardware lets a thread that waits go on after a while, whether the phase has ended or not. Without a scope it would not hear what
    /// threads of other CTAs did before they arrived.
    fn await_phase(&mut self, barrier: &str, offset: i32, parity: &str) {
        let scope = if self.k.cluster > 1 { ".acquire.cluster" } else { "" };
        let (again, ended) = (self.label(), self.fresh(Class::Pred));
        self.place(&again);
        self.line(&format!("mbarrier.try_wait.parity{scope}.shared::cta.b64 {ended}, [{barrier}{offset:+}], {parity}"));
        self.line(&format!("@!{ended} bra {again}"));
    }

    fn mma(&mut self, d: &Regs, a: &[Regs]) {
        let c: Regs = a[2].iter().map(|c| self.in_register(c, Class::Float)).collect();
        let operands = [tuple(d), tuple(&a[0]), tuple(&a[1]), tuple(&c)].join(", ");
        self.line(&format!("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {operands}"));
    }

    fn select(&mut self, inst: &Inst, d: &Regs, a: &[Regs]) {
        let class = registers(self.k.ty(inst.results[0])).0;
        for (i, to) in d.iter().enumerate() {
            let (p, yes, no) = (a[0].get(i).unwrap_or(&a[0][0]), &a[1][i], &a[2][i]);
            if class != Class::Pred {
                self.line(&format!("selp.{} {to}, {yes}, {no}, {p}", class.ty()));
                continue;
            }
            let (not, both, other) = (self.fresh(Class::Pred), self.fresh(Class::Pred), self.fresh(Class::Pred));
            self.line(&format!("not.pred {not}, {p}"));
            self.line(&format!("and.pred {both}, {p}, {yes}"));
            self.line(&format!("and.pred {other}, {not}, {no}"));
            self.line(&format!("or.pred {to}, {both}, {other}"));
        }
    }

    /// By pairs, so that the chain is short.
    fn sum_lanes(&mut self, d: &str, a: &Regs) {
        let mut parts = a.clone();
        while parts.len() > 2 {
            let mut next = vec![];
            for pair in parts.chunks(2) {
                let [x, y] = pair else {
                    next.push(pair[0].clone());
                    continue;
                };
                let sum = self.fresh(Class::Float);
                self.line(&format!("add.rn.f32 {sum}, {x}, {y}"));
                next.push(sum);
            }
            parts = next;
        }
        match &parts[..] {
            [one] => self.line(&format!("mov.f32 {d}, {one}")),
            _ => self.line(&format!("add.rn.f32 {d}, {}, {}", parts[0], parts[1])),
        }
    }

    /// The f32 of one half of a pair of bf16.
    fn half(&mut self, d: &str, pair: &str, high: bool) {
        let bits = self.fresh(Class::Word);
        match high {
            true => self.line(&format!("and.b32 {bits}, {pair}, 0xffff0000")),
            false => self.line(&format!("shl.b32 {bits}, {pair}, 16")),
        }
        self.line(&format!("mov.b32 {d}, {bits}"));
    }

    fn widen(&mut self, of: Type, d: &Regs, a: &Regs) {
        if of.lanes() > 1 {
            return d.iter().enumerate().for_each(|(i, d)| self.half(d, &a[i / 2], i % 2 == 1));
        }
        let word = self.fresh(Class::Word);
        self.line(&format!("cvt.u32.u16 {word}, {}", a[0]));
        self.half(&d[0], &word, false);
    }

    fn round(&mut self, d: &Regs, a: &Regs) {
        let a: Regs = a.iter().map(|r| self.in_register(r, Class::Float)).collect();
        if let [one] = &a[..] {
            return self.line(&format!("cvt.rn.bf16.f32 {}, {one}", d[0]));
        }
        for (d, pair) in d.iter().zip(a.chunks(2)) {
            let high = pair.get(1).map_or("0f00000000", String::as_str);
            self.line(&format!("cvt.rn.bf16x2.f32 {d}, {high}, {}", pair[0]));
        }
    }

    /// The low halves of words, two to a register.
    fn bf16_bits(&mut self, d: &Regs, a: &Regs, lanes: u16) {
        if lanes == 1 {
            return self.line(&format!("cvt.u16.u32 {}, {}", d[0], a[0]));
        }
        for (d, pair) in d.iter().zip(a.chunks(2)) {
            let high = pair.get(1).map_or("0", String::as_str);
            self.line(&format!("prmt.b32 {d}, {}, {high}, 0x5410", pair[0]));
        }
    }
}

/// The instruction of a scalar operation on operands of type `of`.
fn instruction(s: Scalar, of: Type) -> String {
    let name = s.ptx().unwrap_or_else(|| unreachable!("{} is not legal in PTX: the verifier refuses it", s.name()));
    match s.domain() {
        Domain::Bits => format!("{name}.{}", if of.elem() == Some(Elem::Pred) { "pred" } else { "b32" }),
        Domain::Float | Domain::Int => name.to_string(),
    }
}
