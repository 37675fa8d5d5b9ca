//! Graphs of models in the sizes that the tests need, as the frontend builds them.

#![allow(dead_code, reason = "every test file uses a part of it")]

use jet_ir::ops::*;
use jet_ir::{Elem, F32, Graph, Id, Leaf, OutputKind, Place, Rows, Type};

/// Sizes of a model.
#[derive(Clone, Copy)]
pub struct Dims {
    pub hidden: usize,
    pub heads: usize,
    pub dk: usize,
    pub dv: usize,
    pub taps: usize,
    pub generator: usize,
    pub ffn: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub tied: bool,
}

/// The 2B model.
pub const JET_2B: Dims = Dims {
    hidden: 1536,
    heads: 12,
    dk: 96,
    dv: 256,
    taps: 4,
    generator: 384,
    ffn: 8960,
    q_heads: 12,
    kv_heads: 2,
    head_dim: 128,
    vocab: 151_936,
    tied: true,
};

/// Every size different and small.
pub const TINY: Dims = Dims {
    hidden: 8,
    heads: 2,
    dk: 4,
    dv: 6,
    taps: 4,
    generator: 3,
    ffn: 10,
    q_heads: 4,
    kv_heads: 2,
    head_dim: 4,
    vocab: 11,
    tied: true,
};

/// Mixers of the 28 layers of the 2B model: `j` jet, `a` attention, `s` attention with a window.
pub const LAYERS_2B: &str = "jjjjjjsjjjjjjajjjjajsjsjjjjj";

/// Builds a graph; a mistake is a bug of the test.
pub struct Builder {
    pub graph: Graph,
    pub d: Dims,
}

impl Builder {
    pub fn new(d: Dims) -> Builder {
        Builder { graph: Graph::new("model"), d }
    }
    pub fn op(&mut self, op: impl Into<Op>, args: &[Id]) -> Id {
        self.graph.add(op, args).expect("well typed")
    }
    pub fn leaf(&mut self, leaf: Leaf, name: &str, ty: Type) -> Id {
        self.graph.add_leaf(leaf, name, ty).expect("one type")
    }
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Id {
        self.leaf(Leaf::Weight, name, Type::weight(rows, cols, Elem::Bf16))
    }
    pub fn vector(&mut self, name: &str, cols: usize) -> Id {
        self.leaf(Leaf::Weight, name, Type::weight(1, cols, Elem::F32))
    }
    pub fn linear(&mut self, x: Id, name: &str, rows: usize) -> Id {
        let w = self.matrix(name, rows, self.graph.ty(x).cols());
        self.op(Matmul {}, &[x, w])
    }
    pub fn biased(&mut self, x: Id, name: &str, rows: usize) -> Id {
        let (y, b) = (self.linear(x, name, rows), self.vector(&format!("{name}.bias"), rows));
        self.op(Bias {}, &[y, b])
    }
    pub fn norm(&mut self, x: Id, name: &str) -> Id {
        let w = self.vector(name, self.graph.ty(x).cols());
        self.op(RmsNorm { eps: F32::from(1e-6) }, &[x, w])
    }

    /// `h += mixer(norm(h)); h += mlp(norm(h))`, with the probes.
    pub fn layer(&mut self, l: usize, kind: char, x: Id) -> Id {
        let n = |name: &str| format!("layers.{l}.{name}");
        let h = self.norm(x, &n("input_norm"));
        let mixed = match kind {
            'j' => self.jet(l, h),
            'a' => self.attention(l, h, 0),
            _ => self.attention(l, h, 3),
        };
        let x = self.op(Add {}, &[mixed, x]);
        self.graph.output(OutputKind::Probe, format!("mixer_hidden.{l}"), x);
        let h = self.norm(x, &n("mlp_norm"));
        let (gate, up) = (self.linear(h, &n("gate"), self.d.ffn), self.linear(h, &n("up"), self.d.ffn));
        let gate = self.op(Silu {}, &[gate]);
        let wide = self.op(Mul {}, &[gate, up]);
        let down = self.linear(wide, &n("down"), self.d.hidden);
        let x = self.op(Add {}, &[down, x]);
        self.graph.output(OutputKind::Probe, format!("layer_hidden.{}", l + 1), x);
        x
    }

    fn attention(&mut self, l: usize, x: Id, window: usize) -> Id {
        let (d, n) = (self.d, |name: &str| format!("layers.{l}.{name}"));
        let table = self.leaf(Leaf::Input, "rope", Type::mem(Rows::Tokens, d.head_dim));
        let (wide, narrow) = (d.q_heads * d.head_dim, d.kv_heads * d.head_dim);
        let (q, k) = (self.biased(x, &n("q"), wide), self.biased(x, &n("k"), narrow));
        let v = self.biased(x, &n("v"), narrow);
        let q = self.op(Rope { head_dim: d.head_dim }, &[q, table]);
        let k = self.op(Rope { head_dim: d.head_dim }, &[k, table]);
        let [keys, values] = [("keys", k), ("values", v)].map(|(name, rows)| {
            let cache = self.leaf(Leaf::State, &n(name), Type::mem(Rows::Context, narrow));
            let cache = self.op(KvAppend {}, &[cache, rows]);
            self.graph.output(OutputKind::Update, n(name), cache);
            cache
        });
        let o = self.op(Attention { head_dim: d.head_dim, window }, &[q, keys, values]);
        let o = self.op(Get0 {}, &[o]);
        self.linear(o, &n("o"), d.hidden)
    }

    fn jet(&mut self, l: usize, x: Id) -> Id {
        let (d, n) = (self.d, |name: &str| format!("layers.{l}.{name}"));
        let (key, wide) = (d.heads * d.dk, d.heads * d.dv);
        let unit = |b: &mut Builder, name: &str| {
            let y = b.linear(x, &n(name), key);
            let y = b.op(Silu {}, &[y]);
            b.op(L2Norm { head_dim: d.dk, eps: F32::from(1e-6) }, &[y])
        };
        let q = unit(self, "q");
        let q = self.op(Scale { c: F32::from((d.dk as f32).powf(-0.5)) }, &[q]);
        let k = unit(self, "k");
        let v = self.convolved(l, x);
        let beta = self.linear(x, &n("b"), d.heads);
        let beta = self.op(Sigmoid {}, &[beta]);
        let a = self.biased(x, &n("a"), d.heads);
        let a = self.op(Softplus {}, &[a]);
        let rate = self.vector(&n("a_log"), d.heads);
        let rate = self.op(Exp {}, &[rate]);
        let rate = self.op(Neg {}, &[rate]);
        let a = self.op(ScaleCols {}, &[a, rate]);
        let decay = self.op(Exp {}, &[a]);
        let state = self.leaf(Leaf::State, &n("delta"), Type::mem(Rows::Fixed(key), d.dv));
        let grid = self.op(GatedDeltaRule {}, &[q, k, v, decay, beta, state]);
        let (o, state) = (self.op(Get0 {}, &[grid]), self.op(Get1 {}, &[grid]));
        self.graph.output(OutputKind::Update, n("delta"), state);
        let z = self.linear(x, &n("g"), wide);
        let w = self.vector(&n("o_norm"), d.dv);
        let o = self.op(GatedNorm { head_dim: d.dv, eps: F32::from(1e-5) }, &[o, w, z]);
        self.linear(o, &n("o"), d.hidden)
    }

    fn convolved(&mut self, l: usize, x: Id) -> Id {
        let (d, n) = (self.d, |name: &str| format!("layers.{l}.{name}"));
        let wide = d.heads * d.dv;
        let v = self.linear(x, &n("v"), wide);
        let h = self.linear(x, &n("w1"), d.generator);
        let h = self.op(Silu {}, &[h]);
        let kernels = self.biased(h, &n("w2"), wide * d.taps);
        let ring = self.leaf(Leaf::State, &n("conv"), Type::mem(Rows::Fixed(d.taps), wide));
        let mixed = self.op(DynamicConv { taps: d.taps }, &[kernels, v, ring]);
        let pushed = self.op(RingPush { taps: d.taps }, &[ring, v]);
        self.graph.output(OutputKind::Update, n("conv"), pushed);
        self.op(Silu {}, &[mixed])
    }
}

/// A whole model with the given mixers.
pub fn model(d: Dims, layers: &str) -> Graph {
    let mut b = Builder::new(d);
    let ids = b.leaf(Leaf::Input, "token_ids", Type::tensor(Place::Mem, Rows::Tokens, 1, Elem::I32));
    let table = b.matrix("embed", d.vocab, d.hidden);
    let mut x = b.op(Embed {}, &[table, ids]);
    b.graph.output(OutputKind::Probe, "layer_hidden.0", x);
    for (l, kind) in layers.chars().enumerate() {
        x = b.layer(l, kind, x);
    }
    let h = b.norm(x, "norm");
    b.graph.output(OutputKind::Probe, "last_hidden", h);
    let logits = b.linear(h, if d.tied { "embed" } else { "lm_head" }, d.vocab);
    let next = b.op(Argmax {}, &[logits]);
    b.graph.output(OutputKind::Return, "logits", logits);
    b.graph.output(OutputKind::Return, "next", next);
    b.graph
}

/// One layer on the residual stream as input, which is what a target repeats.
pub fn layer(d: Dims, kind: char) -> Graph {
    let mut b = Builder::new(d);
    let x = b.leaf(Leaf::Input, "hidden", Type::mem(Rows::Tokens, d.hidden));
    let x = b.layer(0, kind, x);
    b.graph.output(OutputKind::Return, "out", x);
    b.graph
}

/// The head alone.
pub fn head(d: Dims) -> Graph {
    let mut b = Builder::new(d);
    let x = b.leaf(Leaf::Input, "hidden", Type::mem(Rows::Tokens, d.hidden));
    let h = b.norm(x, "norm");
    let logits = b.linear(h, "lm_head", d.vocab);
    let next = b.op(Argmax {}, &[logits]);
    b.graph.output(OutputKind::Return, "logits", logits);
    b.graph.output(OutputKind::Return, "next", next);
    b.graph
}
