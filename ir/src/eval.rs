//! Reference evaluation of a graph: every op by its own slow and obvious meaning, for one sequence.
//!
//! Weights are asked for when an op needs them and dropped after it, so that a model much larger than its activations can be evaluated.
//! What depends on weights alone (`neg(exp(a_log))`, packings) is evaluated anew for every op that uses it.

use crate::graph::{Graph, Id, Leaf, NodeKind, OutputKind};
use crate::ops::Op;
use crate::types::{Rows, Type};
use crate::value::{Mat, Real, Value};
use crate::verify::verify;
use std::collections::{BTreeMap, BTreeSet};

/// Matrices by name.
pub type Named<R> = BTreeMap<String, Mat<R>>;

/// Fetches a weight by its name and type, or says why it cannot.
pub type Weights<'a, R> = dyn Fn(&str, Type) -> Result<Mat<R>, String> + 'a;

/// What the leaves of a graph stand for in one run.
pub struct Bindings<'a, R> {
    /// Inputs by name.
    pub inputs: &'a Named<R>,
    /// States by name, before the run.
    pub states: &'a Named<R>,
    /// Weights, fetched when an op needs them.
    pub weights: &'a Weights<'a, R>,
}

/// What one run of a graph gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Results<R> {
    /// Returned values by name.
    pub returns: Named<R>,
    /// Probed values by name.
    pub probes: Named<R>,
    /// Every state of the graph after the run.
    pub states: Named<R>,
}

/// Why a graph could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct EvalError {
    /// The leaf or op at which evaluation stopped.
    pub origin: String,
    /// What was found there, and what was expected.
    pub message: String,
}

/// The states of a fresh sequence: zero, and caches without rows.
pub fn fresh_states<R: Real>(graph: &Graph) -> Named<R> {
    let states = graph.ids().filter_map(|id| match (graph.leaf(id)?, graph.ty(id)) {
        ((Leaf::State, name), Type::Tensor { rows, cols, .. }) => {
            let rows = if let Rows::Fixed(n) = rows { n } else { 0 };
            Some((name.to_string(), Mat::zeros(rows, cols)))
        }
        _ => None,
    });
    states.collect()
}

/// Evaluates a graph for `tokens` new tokens.
///
/// # Errors
/// A graph that [`verify()`] refuses, a leaf without a value, a value of another shape than its leaf, an id outside the table of `embed`, or caches of different lengths.
pub fn eval<R: Real>(graph: &Graph, bindings: &Bindings<R>, tokens: usize) -> Result<Results<R>, EvalError> {
    verify(graph).map_err(|error| EvalError { origin: "cannot evaluate".into(), message: error.to_string() })?;
    let mut run = Run { graph, bindings, tokens, values: graph.ids().map(|_| None).collect() };
    let last_use = last_uses(graph);
    for id in graph.ids() {
        if graph.ty(id).is_const() {
            continue;
        }
        run.values[id.index()] = Some(run.node(id)?);
        for arg in &graph.node(id).args {
            if last_use[arg.index()] == id.0 {
                run.values[arg.index()] = None;
            }
        }
    }
    run.results()
}

/// For every node the number of its last user, or the number of nodes if it is an output or unused.
fn last_uses(graph: &Graph) -> Vec<u32> {
    let end = graph.nodes.len() as u32;
    let mut last = vec![end; graph.nodes.len()];
    for id in graph.ids() {
        graph.node(id).args.iter().for_each(|arg| last[arg.index()] = id.0);
    }
    graph.outputs.iter().for_each(|output| last[output.value.index()] = end);
    last
}

struct Run<'a, R> {
    graph: &'a Graph,
    bindings: &'a Bindings<'a, R>,
    tokens: usize,
    /// Values that are neither constant nor used up.
    values: Vec<Option<Value<R>>>,
}

impl<R: Real> Run<'_, R> {
    /// The value of a node whose operands are there.
    fn node(&self, id: Id) -> Result<Value<R>, EvalError> {
        let node = self.graph.node(id);
        let op = match &node.kind {
            NodeKind::Leaf(leaf, name) => return self.leaf(*leaf, name, node.ty),
            NodeKind::Op(op) => op,
        };
        let mut constants = BTreeMap::new();
        for arg in &node.args {
            if self.graph.ty(*arg).is_const() && !constants.contains_key(arg) {
                constants.insert(*arg, self.constant(*arg)?);
            }
        }
        self.apply(id, op, |arg| constants.get(&arg).or(self.values[arg.index()].as_ref()))
    }

    fn apply<'v>(&self, id: Id, op: &Op, value: impl Fn(Id) -> Option<&'v Value<R>>) -> Result<Value<R>, EvalError>
    where
        R: 'v,
    {
        let error = |message| EvalError { origin: format!("{id} {}", op.info().name), message };
        let node = self.graph.node(id);
        let operands = node.args.iter().map(|arg| value(*arg).ok_or_else(|| format!("{arg} has no value yet")));
        let operands = operands.collect::<Result<Vec<_>, _>>().map_err(error)?;
        let types: Vec<Type> = node.args.iter().map(|arg| self.graph.ty(*arg)).collect();
        check_lengths(op, &operands, &types).map_err(error)?;
        Ok(op.eval(&operands))
    }

    /// A value that depends on weights alone.
    fn constant(&self, root: Id) -> Result<Value<R>, EvalError> {
        let (mut needed, mut stack) = (BTreeSet::new(), vec![root]);
        while let Some(id) = stack.pop() {
            if needed.insert(id) {
                stack.extend(&self.graph.node(id).args);
            }
        }
        let mut values: BTreeMap<Id, Value<R>> = BTreeMap::new();
        let mut last = None;
        for id in needed {
            let node = self.graph.node(id);
            let value = match &node.kind {
                NodeKind::Leaf(leaf, name) => self.leaf(*leaf, name, node.ty)?,
                NodeKind::Op(op) => self.apply(id, op, |arg| values.get(&arg))?,
            };
            if id == root {
                last = Some(value);
            } else {
                values.insert(id, value);
            }
        }
        last.ok_or_else(|| EvalError { origin: root.to_string(), message: "depends on itself".into() })
    }

    fn leaf(&self, leaf: Leaf, name: &str, ty: Type) -> Result<Value<R>, EvalError> {
        let error = |message| EvalError { origin: format!("{} \"{name}\"", leaf.name()), message };
        let bound = |from: &Named<R>| from.get(name).cloned().ok_or_else(|| format!("found no value, expected {ty}"));
        let mat = match leaf {
            Leaf::Input => bound(self.bindings.inputs),
            Leaf::State => bound(self.bindings.states),
            Leaf::Weight => (self.bindings.weights)(name, ty),
        };
        let mat = mat.map_err(error)?;
        let rows_fit = match ty.rows() {
            Some(Rows::Tokens) => mat.rows == self.tokens,
            Some(Rows::Fixed(n)) => mat.rows == n,
            Some(Rows::Context) | None => true,
        };
        if !rows_fit || mat.cols != ty.cols() || mat.data.len() != mat.rows * mat.cols {
            let found = format!("found [{}, {}]", mat.rows, mat.cols);
            return Err(error(format!("{found}, expected {ty} for {} tokens", self.tokens)));
        }
        Ok(Value::Mat(mat))
    }

    fn results(self) -> Result<Results<R>, EvalError> {
        let mut results = Results { returns: Named::new(), probes: Named::new(), states: self.bindings.states.clone() };
        for output in &self.graph.outputs {
            let value = match &self.values[output.value.index()] {
                Some(value) => value.mat().clone(),
                None => self.constant(output.value)?.mat().clone(),
            };
            let into = match output.kind {
                OutputKind::Return => &mut results.returns,
                OutputKind::Probe => &mut results.probes,
                OutputKind::Update => &mut results.states,
            };
            into.insert(output.name.clone(), value);
        }
        Ok(results)
    }
}

/// Checks what types cannot express: lengths of caches, and ids.
fn check_lengths<R: Real>(op: &Op, operands: &[&Value<R>], types: &[Type]) -> Result<(), String> {
    let context = operands.iter().zip(types).filter(|(_, ty)| ty.rows() == Some(Rows::Context));
    let lengths: BTreeSet<usize> = context.map(|(value, _)| value.mat().rows).collect();
    if lengths.len() > 1 {
        return Err(format!("found operands of {lengths:?} rows of context, expected equal numbers"));
    }
    match op {
        Op::Attention(_) => {
            let (new, context) = (operands[0].mat().rows, operands[1].mat().rows);
            if context < new {
                return Err(format!("found {context} keys for {new} queries, expected at least as many"));
            }
        }
        Op::Embed(_) => {
            let (table, ids) = (operands[0].mat(), operands[1].mat());
            let outside = |id: &&R| !(R::ZERO..R::of(table.rows as f64)).contains(*id);
            if let Some(id) = ids.data.iter().find(outside) {
                return Err(format!("found id {id:?}, expected less than {}", table.rows));
            }
        }
        _ => {}
    }
    Ok(())
}

/// One sequence that is fed chunk after chunk, its states carried along.
pub struct Sequence<'g, R> {
    graph: &'g Graph,
    states: Named<R>,
    position: usize,
}

impl<'g, R: Real> Sequence<'g, R> {
    /// A fresh sequence.
    pub fn new(graph: &'g Graph) -> Sequence<'g, R> {
        Sequence { graph, states: fresh_states(graph), position: 0 }
    }

    /// Tokens fed so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The states after the tokens fed so far.
    pub fn states(&self) -> &Named<R> {
        &self.states
    }

    /// Feeds `tokens` tokens; the states stay as they were if that fails.
    ///
    /// # Errors
    /// As for [`eval`].
    pub fn feed(&mut self, tokens: usize, inputs: &Named<R>, weights: &Weights<R>) -> Result<Results<R>, EvalError> {
        let results = eval(self.graph, &Bindings { inputs, states: &self.states, weights }, tokens)?;
        self.states.clone_from(&results.states);
        self.position += tokens;
        Ok(results)
    }
}

/// `cos | sin` of the angles `position * inv_freq[i]` of consecutive positions; the product is rounded to f32, as the official model does.
///
/// # Shapes
/// `[tokens, 2 inv_freq.len()]`.
pub fn rope_table<R: Real>(first_position: usize, tokens: usize, inv_freq: &[f32]) -> Mat<R> {
    let half = inv_freq.len();
    Mat::new(tokens, 2 * half, |t, c| {
        let angle = (first_position + t) as f32 * inv_freq[c % half];
        R::of(f64::from(if c < half { angle.cos() } else { angle.sin() }))
    })
}
