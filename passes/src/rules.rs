//! The rules of fusion: directional, named, one line each. No commutativity, no associativity, nothing that can feed itself.
//!
//! A rule fires only where its right side is well typed and has the type of the left side, and where its condition holds. Conditions look at
//! what the rules have found so far, so the order of launch is checked once more after extraction; they only keep the choice small.

use crate::lang::{Classes, Data, ENode, Typing, data_of, grid_of};
use egg::{Applier, ENodeOrVar, Id, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};
use jet_ir::ops::Sort;
use jet_ir::{GridKind, Place, Type};

/// A compiled rule.
pub type Rule = Rewrite<ENode, Typing>;

/// Side condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// None.
    Always,
    /// `?r` and `?s` run over the same grid.
    SameGrid,
    /// Nothing in the class of `?m` is stored by the grid of `?r`, which would wait for itself.
    OtherGrid,
    /// `?w` is not packed yet.
    Unpacked,
    /// The grid of `?r` keeps whole heads of `?hd` columns in the registers of one worker.
    WholeHeads,
    /// No weight of this grid is used elsewhere, so that folding a vector into it makes no second copy.
    Foldable,
    /// Nothing but its update reads the old content of the state `?old`, so that an earlier kernel may overwrite it.
    SoleReader,
}

/// A rule as text.
#[derive(Clone, Copy, Debug)]
pub struct RuleText {
    /// Its name in explanations.
    pub name: &'static str,
    /// What it looks for.
    pub lhs: &'static str,
    /// What is equal to that.
    pub rhs: &'static str,
    /// Where it holds or pays.
    pub when: When,
    /// Whether both sides round alike.
    pub exact: bool,
}

const fn rule(name: &'static str, lhs: &'static str, rhs: &'static str) -> RuleText {
    RuleText { name, lhs, rhs, when: When::Always, exact: true }
}

impl RuleText {
    const fn when(self, when: When) -> RuleText {
        RuleText { when, ..self }
    }
    const fn inexact(self) -> RuleText {
        RuleText { exact: false, ..self }
    }
}

/// Every rule.
pub const RULES: &[RuleText] = &[
    // lowering: a product is a grid over its input, accumulators, a store; an op with several results is a grid already
    rule("product", "(matmul ?x ?w)", "(store (acc (sweep ?x) ?w))"),
    rule("first-result", "(get0 ?d)", "(store (out ?d))"),
    // what the sweep may do while it stages its operand
    rule("norm-prologue", "(sweep (rms_norm ?x ?w ?e))", "(sweep_norm ?x ?w ?e)"),
    rule("norm-fold", "(sweep (rms_norm ?x ?w ?e))", "(sweep_fold ?x ?w ?e)").when(When::Foldable).inexact(),
    rule("norm-fold-ms", "(sweep (rms_norm ?x ?w ?e))", "(sweep_fold_ms ?x ?w (row_ms ?x) ?e)")
        .when(When::Foldable)
        .inexact(),
    // epilogues: `store` sinks below whatever can be done in registers
    rule("silu-epilogue", "(silu (store ?r))", "(store (silu ?r))"),
    rule("sigmoid-epilogue", "(sigmoid (store ?r))", "(store (sigmoid ?r))"),
    rule("softplus-epilogue", "(softplus (store ?r))", "(store (softplus ?r))"),
    rule("exp-epilogue", "(exp (store ?r))", "(store (exp ?r))"),
    rule("bias-epilogue", "(bias (store ?r) ?b)", "(store (bias ?r ?b))"),
    rule("scale-cols-epilogue", "(scale_cols (store ?r) ?v)", "(store (scale_cols ?r ?v))"),
    rule("residual-epilogue", "(add (store ?r) ?m)", "(store (add ?r ?m))").when(When::OtherGrid),
    rule("gate-epilogue", "(mul (store ?r) (store ?s))", "(store (mul ?r ?s))").when(When::SameGrid),
    rule("conv-epilogue", "(dynamic_conv (store ?r) ?m ?ring ?n)", "(store (dynamic_conv ?r ?m ?ring ?n))")
        .when(When::OtherGrid),
    rule("rope-epilogue", "(rope (store ?r) ?table ?hd)", "(store (rope ?r ?table ?hd))"),
    rule("gated-norm-epilogue", "(gated_norm (store ?r) ?w ?z ?hd ?e)", "(store (gated_norm ?r ?w ?z ?hd ?e))")
        .when(When::WholeHeads),
    // other ways to store
    rule("ring-store", "(ring_push ?old (store ?r) ?n)", "(store_ring ?old ?r ?n)").when(When::SoleReader),
    rule("kv-store", "(kv_append ?old (store ?r))", "(store_kv ?old ?r)").when(When::SoleReader),
    rule("argmax-store", "(argmax (store ?r))", "(store_argmax ?r)"),
    rule("ms-store", "(row_ms (store ?r))", "(store_ms ?r)"),
    // prologues of the delta rule
    rule(
        "delta-l2",
        "(gated_delta_rule (scale (l2_norm ?q ?d ?e) ?c) (l2_norm ?k ?d ?e) ?v ?a ?b ?s)",
        "(delta_l2 ?q ?k ?v ?a ?b ?s ?d ?e ?c)",
    ),
    rule(
        "delta-conv",
        "(delta_l2 ?q ?k (store (silu (dynamic_conv (bias (acc (sweep ?h) ?w) ?b2) ?v ?ring ?n))) ?a ?b ?s ?d ?e ?c)",
        "(delta_conv ?q ?k ?h ?w ?b2 ?v ?ring ?a ?b ?s ?d ?e ?c ?n)",
    )
    .when(When::Unpacked),
    // layouts of weights; which of them a target has is a question of price
    rule("pack-panel", "(acc ?g ?w)", "(acc ?g (pack_panel ?w))").when(When::Unpacked),
    rule("pack-frag", "(acc ?g ?w)", "(acc ?g (pack_frag ?w))").when(When::Unpacked),
    rule("pack-tile", "(acc ?g ?w)", "(acc ?g (pack_tile ?w))").when(When::Unpacked),
];

/// The class that a variable is bound to; variables that a rule does not bind satisfy no condition.
fn bound(subst: &Subst, name: &str) -> Option<Id> {
    name.parse::<Var>().ok().and_then(|var| subst.get(var).copied())
}

fn holds(when: When, classes: &Classes, matched: Id, subst: &Subst) -> bool {
    let class = |name: &str| bound(subst, name);
    let grid = |name: &str| class(name).and_then(|id| grid_of(classes, id));
    match when {
        When::Always => true,
        When::SameGrid => grid("?r").is_some() && grid("?r") == grid("?s"),
        When::OtherGrid => class("?m").is_some_and(|m| {
            !classes[m].iter().any(|node| match node {
                ENode::Op(row, c) => {
                    let info = row.info();
                    let registers = info.operands.len() - 1;
                    info.sort == Sort::Store && grid_of(classes, c[registers]) == grid("?r")
                }
                ENode::Attr(_) | ENode::Leaf(..) => false,
            })
        }),
        When::Unpacked => class("?w").is_some_and(|w| classes[w].data.place() == Some(Place::Const)),
        When::WholeHeads => {
            let width = class("?hd").and_then(|id| match &classes[id].data {
                Data::Attr(text) => text.parse::<usize>().ok(),
                Data::Value { .. } => None,
            });
            let ty = grid("?r").and_then(|g| classes[g].data.ty());
            matches!(ty, Some(Type::Grid { kind: GridKind::Delta, state: (_, cols), .. }) if Some(cols) == width)
        }
        When::Foldable => !classes[matched].parents().any(|parent| match classes.id_to_node(parent) {
            node @ ENode::Op(_, c) if node.is("acc") => is_shared(classes, c[1]),
            _ => false,
        }),
        When::SoleReader => class("?old").is_some_and(|old| {
            classes[old].parents().all(|parent| {
                let node = classes.id_to_node(parent);
                ["ring_push", "store_ring", "kv_append", "store_kv"].iter().any(|update| node.is(update))
            })
        }),
    }
}

/// Whether a weight, packed or not, is also the table of an embedding.
fn is_shared(classes: &Classes, weight: Id) -> bool {
    let by_embedding = classes[weight].parents().any(|parent| classes.id_to_node(parent).is("embed"));
    by_embedding
        || classes[weight].iter().any(|node| match node {
            ENode::Op(row, c) => row.info().sort == Sort::Pack && is_shared(classes, c[0]),
            ENode::Attr(_) | ENode::Leaf(..) => false,
        })
}

/// A pattern that is applied where it is well typed and its condition holds. It shows its pattern to egg, so that explanations work.
struct Guarded {
    rhs: Pattern<ENode>,
    when: When,
}

impl Guarded {
    /// Whether the right side is well typed and of the type of the class that it would join.
    fn fits(&self, classes: &Classes, matched: Id, subst: &Subst) -> bool {
        let mut known: Vec<Data> = vec![];
        for node in self.rhs.ast.as_ref() {
            let data = match node {
                ENodeOrVar::Var(var) => classes[subst[*var]].data.clone(),
                ENodeOrVar::ENode(node) => {
                    match data_of(
                        node,
                        &classes.analysis,
                        |id| &known[usize::from(id)],
                        |a, b| classes.find(a) == classes.find(b),
                    ) {
                        Ok(data) => data,
                        Err(_) => return false,
                    }
                }
            };
            known.push(data);
        }
        known.last().is_some_and(|data| data.ty() == classes[matched].data.ty())
    }
}

impl Applier<ENode, Typing> for Guarded {
    fn get_pattern_ast(&self) -> Option<&PatternAst<ENode>> {
        Applier::<ENode, Typing>::get_pattern_ast(&self.rhs)
    }

    fn vars(&self) -> Vec<Var> {
        Applier::<ENode, Typing>::vars(&self.rhs)
    }

    fn apply_one(
        &self,
        classes: &mut Classes,
        matched: Id,
        subst: &Subst,
        ast: Option<&PatternAst<ENode>>,
        name: Symbol,
    ) -> Vec<Id> {
        if holds(self.when, classes, matched, subst) && self.fits(classes, matched, subst) {
            self.rhs.apply_one(classes, matched, subst, ast, name)
        } else {
            vec![]
        }
    }
}

/// Compiles a rule.
///
/// # Panics
/// On text that is no pattern: rules are part of the program.
pub fn compile(text: &RuleText) -> Rule {
    let pattern = |side: &str| -> Pattern<ENode> {
        side.parse().unwrap_or_else(|e| panic!("rule {}: `{side}` is no pattern: {e}", text.name))
    };
    let guarded = Guarded { rhs: pattern(text.rhs), when: text.when };
    Rewrite::new(text.name, pattern(text.lhs), guarded).unwrap_or_else(|e| panic!("rule {}: {e}", text.name))
}

/// All rules, or those under which both sides round alike.
pub fn rules(exact: bool) -> Vec<Rule> {
    RULES.iter().filter(|rule| rule.exact || !exact).map(compile).collect()
}
