//! Reference evaluation of a graph: every op by its own slow and obvious meaning, for one sequence.
//!
//! Weights are asked for when an op needs them and dropped after it, so that a model much larger than its activations can be evaluated.
//! What depends on weights alone (`neg(exp(a_log))`, packings) is evaluated anew for every op that uses it.

use crate::graph::{Graph, Id, Leaf, NodeKind, OutputKind};
use crate::ops::Op;
use crate::rounding::Rounding;
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

/// Where a run departs from the plain meaning of ops; by default nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Manner<R> {
    /// How the rows of products are rounded.
    pub rounding: Rounding,
    /// Values by names of probes: what uses a probed value goes on with the one given here; the results still hold what was computed.
    pub given: Named<R>,
}

impl<R> Default for Manner<R> {
    fn default() -> Manner<R> {
        Manner { rounding: Rounding::default(), given: Named::new() }
    }
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
    eval_as(graph, bindings, tokens, &Manner::default())
}

/// [`eval`] in another manner.
///
/// # Errors
/// As for [`eval`], and a given value that is of no probe or of another shape.
pub fn eval_as<R: Real>(
    graph: &Graph,
    bindings: &Bindings<R>,
    tokens: usize,
    manner: &Manner<R>,
) -> Result<Results<R>, EvalError> {
    verify(graph).map_err(|error| EvalError { origin: "cannot evaluate".into(), message: error.to_string() })?;
    let (values, probes) = (graph.ids().map(|_| None).collect(), Named::new());
    let mut run = Run { graph, bindings, tokens, manner, values, probes };
    run.check_given()?;
    let last_use = last_uses(graph);
    for id in graph.ids() {
        if graph.ty(id).is_const() {
            continue;
        }
        let value = run.node(id)?;
        run.values[id.index()] = Some(run.replaced(id, value)?);
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
    manner: &'a Manner<R>,
    /// Values that are neither constant nor used up.
    values: Vec<Option<Value<R>>>,
    /// Computed values of probes in whose place others were given.
    probes: Named<R>,
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
        let rounded = match (op, types.get(1).and_then(|ty| ty.elem())) {
            (Op::Matmul(_) | Op::Acc(_), Some(elem)) => self.manner.rounding.rows(operands[0].mat(), elem),
            _ => None,
        };
        match rounded.map(Value::Mat) {
            Some(rows) => Ok(op.eval(&[&rows, operands[1]])),
            None => Ok(op.eval(&operands)),
        }
    }

    fn check_given(&self) -> Result<(), EvalError> {
        let probed = |name: &String| self.graph.outputs.iter().any(|o| o.kind == OutputKind::Probe && o.name == *name);
        match self.manner.given.keys().find(|name| !probed(name)) {
            Some(name) => Err(EvalError { origin: format!("given \"{name}\""), message: "found no such probe".into() }),
            None => Ok(()),
        }
    }

    /// What the users of `id` see: its value, or what was given for a probe of it.
    fn replaced(&mut self, id: Id, value: Value<R>) -> Result<Value<R>, EvalError> {
        let probes = self.graph.outputs.iter().filter(|o| o.kind == OutputKind::Probe && o.value == id);
        let Some((name, given)) = probes.filter_map(|o| self.manner.given.get_key_value(&o.name)).next() else {
            return Ok(value);
        };
        let computed = value.mat();
        if (given.rows, given.cols) != (computed.rows, computed.cols) {
            let [found, expected] = [given, computed].map(|m| format!("[{}, {}]", m.rows, m.cols));
            let message = format!("found {found}, expected {expected}");
            return Err(EvalError { origin: format!("given \"{name}\""), message });
        }
        self.probes.insert(name.clone(), computed.clone());
        Ok(Value::Mat(given.clone()))
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
        results.probes.extend(self.probes);
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
        Op::Attention(_) | Op::AttentionParts(_) => {
            let (new, context) = (operands[0].mat().rows, operands[1].mat().rows);
            if context < new {
                return Err(format!("found {context} keys for {new} queries, expected at least as many"));
            }
        }
        Op::Embed(_) | Op::Lookup(_) => {
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
        self.feed_as(tokens, inputs, weights, &Manner::default())
    }

    /// [`Sequence::feed`] in another manner.
    ///
    /// # Errors
    /// As for [`eval_as`].
    pub fn feed_as(
        &mut self,
        tokens: usize,
        inputs: &Named<R>,
        weights: &Weights<R>,
        manner: &Manner<R>,
    ) -> Result<Results<R>, EvalError> {
        let results = eval_as(self.graph, &Bindings { inputs, states: &self.states, weights }, tokens, manner)?;
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
