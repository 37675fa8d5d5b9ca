//! Extraction: the cheapest set of e-nodes that yields all results, every shared one counted once.
//!
//! A [`Problem`] is the e-graph as a target sees it: classes in topological order, each with the candidates that the target has a kernel for.
//! [`Problem::greedy`] is exact where a sum of prices is what matters; [`crate::search`] improves it with the real price of the whole plan.

use crate::cost::{CostModel, Layout, Price, Work};
use crate::error::FuseError;
use crate::lang::{Classes, Data, ENode, grid_of, op_of};
use crate::saturate::{Root, Saturated};
use egg::{Id as Class, Language};
use jet_ir::ops::Sort;
use jet_ir::{Leaf, NodeKind, Op, OutputKind, Place, Type};
use std::collections::{HashMap, HashSet};

/// One way to compute a class.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The op or leaf.
    pub kind: NodeKind,
    /// Its operands, as indices of classes.
    pub args: Vec<usize>,
    /// The operands without repetition.
    pub kids: Vec<usize>,
    /// Its price.
    pub price: Price,
    /// The kernel that it is part of, named by the class of the grid or of the memory op; none for leaves and constants.
    pub kernel: Option<usize>,
    /// Whether it may be chosen, see [`crate::search`].
    pub allowed: bool,
    /// What orders it among others.
    rank: Rank,
}

/// An order that neither ids nor the order of rules influence, and that is the same for layers of one kind: their kernels are then
/// equal too, and are compiled once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Index in the source graph; of what rules have added, that of its last operand.
    position: usize,
    /// A hash of the structure with types for leaves.
    shape: u64,
    /// A hash of the structure with names for leaves.
    name: u64,
}

/// A result that the plan must yield.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What it is for.
    pub kind: OutputKind,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: usize,
}

/// What there is to choose from.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The classes of the e-graph, children before parents.
    pub ids: Vec<Class>,
    /// Types of the classes.
    pub types: Vec<Type>,
    /// Candidates of each class, in an order that depends on structure only.
    pub classes: Vec<Vec<Candidate>>,
    /// Results that must be computed.
    pub goals: Vec<Goal>,
    /// Probes that are stored if a kernel needs them anyway.
    pub probes: Vec<Goal>,
    /// For each state that is overwritten: the class of its old content, if anybody reads it, and of the new one.
    pub updates: Vec<(usize, usize)>,
}

/// One candidate for each class; only those reachable from the goals count.
pub type Choice = Vec<usize>;

/// Hash of bytes, equal on every machine.
fn hash(bytes: &[u8], start: u64) -> u64 {
    bytes.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Where the depth-first walk over the classes stands.
struct Walk<'a> {
    classes: &'a Classes,
    cost: &'a dyn CostModel,
    /// Index of a class in the problem; none if the target cannot compute it.
    index: HashMap<Class, Option<usize>>,
    open: HashSet<Class>,
    /// First node of the source graph in a class.
    source: HashMap<Class, usize>,
    ranks: Vec<Rank>,
    problem: Problem,
    cyclic: Option<String>,
}

impl Problem {
    /// What a target can choose from. Probes are goals only if `probes` says so.
    ///
    /// # Errors
    /// A result that the target cannot compute.
    pub fn new(saturated: &Saturated, cost: &dyn CostModel, probes: bool) -> Result<Problem, FuseError> {
        let (ids, types, classes, goals) = (vec![], vec![], vec![], vec![]);
        let problem = Problem { ids, types, classes, goals, probes: vec![], updates: vec![] };
        let (index, open) = (HashMap::new(), HashSet::new());
        let mut source: HashMap<Class, usize> = HashMap::new();
        for (at, class) in saturated.class_of.iter().enumerate() {
            source.entry(*class).or_insert(at);
        }
        let ranks = vec![];
        let mut walk = Walk { classes: &saturated.classes, cost, index, open, source, ranks, problem, cyclic: None };
        let mut missing = vec![];
        let optional = |root: &&Root| root.kind == OutputKind::Probe && !probes;
        for root in saturated.roots.iter().filter(|root| !optional(root)) {
            match walk.visit(root.class) {
                Some(class) => walk.problem.goals.push(Goal { kind: root.kind, name: root.name.clone(), class }),
                None => missing.push(format!("`{}` ({})", root.name, walk.obstacles(root.class))),
            }
        }
        for root in saturated.roots.iter().filter(optional) {
            let known = walk.index.get(&root.class).copied().flatten();
            let probe = known.map(|class| Goal { kind: root.kind, name: root.name.clone(), class });
            walk.problem.probes.extend(probe);
        }
        if let Some(node) = walk.cyclic {
            return Err(FuseError::Cyclic { graph: saturated.name.clone(), node });
        }
        if !missing.is_empty() {
            return Err(FuseError::Unsupported { graph: saturated.name.clone(), what: missing.join(", ") });
        }
        let mut problem = walk.problem.sorted(&walk.ranks);
        problem.find_updates();
        Ok(problem)
    }

    /// The same problem with the classes ordered by depth, then as in the source graph, then by structure: the order of a walk depends on ids,
    /// and so on the order of rules.
    fn sorted(self, ranks: &[Rank]) -> Problem {
        let mut depth = vec![0usize; self.classes.len()];
        for c in 0..depth.len() {
            let kids = self.classes[c].iter().flat_map(|candidate| &candidate.kids);
            depth[c] = kids.map(|k| depth[*k] + 1).max().unwrap_or(0);
        }
        let mut order: Vec<usize> = (0..depth.len()).collect();
        order.sort_by_key(|&c| (depth[c], ranks[c]));
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &c)| place[c] = at);
        let mut old: Vec<Option<Vec<Candidate>>> = self.classes.into_iter().map(Some).collect();
        let moved = |mut candidates: Vec<Candidate>| {
            for candidate in &mut candidates {
                let ids = candidate.args.iter_mut().chain(&mut candidate.kids).chain(&mut candidate.kernel);
                ids.for_each(|id| *id = place[*id]);
                candidate.kids.sort_unstable();
            }
            candidates
        };
        let goal = |goal: Goal| Goal { class: place[goal.class], ..goal };
        Problem {
            ids: order.iter().map(|&c| self.ids[c]).collect(),
            types: order.iter().map(|&c| self.types[c]).collect(),
            classes: order.iter().map(|&c| moved(old[c].take().unwrap_or_default())).collect(),
            goals: self.goals.into_iter().map(goal).collect(),
            probes: self.probes.into_iter().map(goal).collect(),
            updates: vec![],
        }
    }

    /// Finds which old contents of states are read, and which classes overwrite them.
    fn find_updates(&mut self) {
        let mut states: HashMap<&str, usize> = HashMap::new();
        for (at, candidates) in self.classes.iter().enumerate() {
            for candidate in candidates {
                if let NodeKind::Leaf(Leaf::State, name) = &candidate.kind {
                    states.insert(name, at);
                }
            }
        }
        let goals = self.goals.iter().filter(|goal| goal.kind == OutputKind::Update);
        self.updates = goals.filter_map(|goal| Some((*states.get(goal.name.as_str())?, goal.class))).collect();
    }

    /// Number of candidates of all classes.
    pub fn candidates(&self) -> usize {
        self.classes.iter().map(Vec::len).sum()
    }

    /// The classes that a choice uses, children before parents.
    pub fn reach(&self, choice: &Choice) -> Vec<usize> {
        let mut seen = vec![false; self.classes.len()];
        self.goals.iter().for_each(|goal| seen[goal.class] = true);
        for c in (0..seen.len()).rev() {
            if seen[c] {
                self.classes[c][choice[c]].kids.iter().for_each(|&k| seen[k] = true);
            }
        }
        (0..seen.len()).filter(|c| seen[*c]).collect()
    }

    /// The price of a choice if nothing overlapped.
    pub fn alone_ps(&self, choice: &Choice) -> u64 {
        self.reach(choice).iter().map(|&c| self.classes[c][choice[c]].price.alone_ps).sum()
    }

    /// Children first; a class takes the candidate whose whole graph, given the choices below, is cheapest.
    pub fn greedy(&self) -> Choice {
        self.greedy_forced(None)
    }

    /// Greedy with one class held to one candidate.
    pub fn greedy_forced(&self, forced: Option<(usize, usize)>) -> Choice {
        let words = self.classes.len().div_ceil(64);
        let mut choice: Choice = vec![0; self.classes.len()];
        let mut sets: Vec<Vec<u64>> = Vec::with_capacity(self.classes.len());
        let mut price: Vec<u64> = Vec::with_capacity(self.classes.len());
        for (c, candidates) in self.classes.iter().enumerate() {
            let below = |i: usize| {
                let mut set = vec![0u64; words];
                for &k in &candidates[i].kids {
                    set.iter_mut().zip(&sets[k]).for_each(|(a, b)| *a |= b);
                }
                set
            };
            let held = forced.filter(|(class, i)| *class == c && candidates[*i].allowed).map(|(_, i)| i);
            let allowed = || (0..candidates.len()).filter(|i| candidates[*i].allowed);
            let (best, mut set) = match (held, allowed().count()) {
                (Some(i), _) => (i, below(i)),
                // nobody uses a class without candidates
                (None, 0) => (0, vec![0; words]),
                (None, 1) => allowed().next().map(|i| (i, below(i))).unwrap_or_default(),
                (None, _) => cheapest(candidates, allowed().map(|i| (i, below(i))).collect(), &price),
            };
            set[c / 64] |= 1 << (c % 64);
            choice[c] = best;
            price.push(candidates[best].price.alone_ps);
            sets.push(set);
        }
        choice
    }
}

/// The candidate with the cheapest set of classes below; what all sets have in common makes no difference.
fn cheapest(candidates: &[Candidate], sets: Vec<(usize, Vec<u64>)>, price: &[u64]) -> (usize, Vec<u64>) {
    let words = sets.first().map_or(0, |(_, set)| set.len());
    let common: Vec<u64> = (0..words).map(|w| sets.iter().fold(u64::MAX, |all, (_, set)| all & set[w])).collect();
    let total = |(i, set): &(usize, Vec<u64>)| -> u64 {
        let own = set.iter().zip(&common).enumerate().map(|(w, (set, common))| {
            let mut bits = set & !common;
            let mut sum = 0;
            while bits != 0 {
                sum += price[w * 64 + bits.trailing_zeros() as usize];
                bits &= bits - 1;
            }
            sum
        });
        own.sum::<u64>() + candidates[*i].price.alone_ps
    };
    sets.into_iter().min_by_key(total).unwrap_or_default()
}

impl Walk<'_> {
    /// The index of a class, after those that its candidates need.
    fn visit(&mut self, class: Class) -> Option<usize> {
        let class = self.classes.find(class);
        if let Some(known) = self.index.get(&class) {
            return *known;
        }
        if !self.open.insert(class) {
            self.cyclic = Some(self.classes[class].nodes[0].to_string());
            return None;
        }
        let mut found: Vec<Candidate> = vec![];
        for node in self.classes[class].iter() {
            found.extend(self.candidate(class, node));
        }
        self.open.remove(&class);
        // Ties go to the first: ordered by op and structure, never by ids, which depend on the order of the rules.
        found.sort_by(|a, b| (&a.kind, a.rank).cmp(&(&b.kind, b.rank)));
        let Data::Value { ty, .. } = self.classes[class].data else { return None };
        let at = (!found.is_empty()).then_some(self.problem.ids.len());
        self.index.insert(class, at);
        if at.is_some() {
            self.ranks.push(self.rank_of_class(class, &found));
            self.problem.ids.push(class);
            self.problem.types.push(ty);
            self.problem.classes.push(found);
            for candidate in &mut self.problem.classes[self.problem.ids.len() - 1] {
                if candidate.kernel == Some(usize::MAX) {
                    candidate.kernel = at;
                }
            }
        }
        at
    }

    /// A node as a candidate, unless the target has no kernel for it or for something below.
    fn candidate(&mut self, class: Class, node: &ENode) -> Option<Candidate> {
        const START: u64 = 0xcbf2_9ce4_8422_2325;
        let key = hash(node.to_string().as_bytes(), START);
        let (row, children) = match node {
            ENode::Attr(_) => return None,
            ENode::Leaf(leaf, name) => {
                let ty = self.classes[class].data.ty()?;
                let rank = Rank { position: 0, shape: hash(format!("{leaf:?} {ty}").as_bytes(), START), name: key };
                let (kind, price) = (NodeKind::Leaf(*leaf, name.to_string()), Price::default());
                let (args, kids) = (vec![], vec![]);
                return Some(Candidate { kind, args, kids, price, kernel: None, allowed: true, rank });
            }
            ENode::Op(row, children) => (*row, children),
        };
        let op = op_of(row, children, |id| &self.classes[id].data).ok()?;
        let operands = &children[..row.info().operands.len()];
        let ty = self.classes[class].data.ty()?;
        let price = if ty.is_const() { Price::default() } else { self.price(&op, ty, operands)? };
        let args = operands.iter().map(|&c| self.visit(c)).collect::<Option<Vec<usize>>>()?;
        let text = op.attrs().join(" ");
        let of_args = |part: fn(&Rank) -> u64| {
            args.iter().fold(hash(text.as_bytes(), key), |h, a| hash(&part(&self.ranks[*a]).to_le_bytes(), h))
        };
        let position = args.iter().map(|a| self.ranks[*a].position).max().unwrap_or(0);
        let rank = Rank { position, shape: of_args(|r| r.shape), name: of_args(|r| r.name) };
        let kernel = self.kernel(&op, ty, class, operands);
        let mut kids = args.clone();
        kids.sort_unstable();
        kids.dedup();
        Some(Candidate { kind: NodeKind::Op(op), args, kids, price, kernel, allowed: true, rank })
    }

    fn rank_of_class(&self, class: Class, candidates: &[Candidate]) -> Rank {
        let all = |part: fn(&Rank) -> u64| {
            candidates.iter().fold(candidates.len() as u64, |h, c| hash(&part(&c.rank).to_le_bytes(), h))
        };
        let added = || candidates.iter().map(|c| c.rank.position).max().unwrap_or(0);
        let position = self.source.get(&class).copied().unwrap_or_else(added);
        Rank { position, shape: all(|r| r.shape), name: all(|r| r.name) }
    }

    fn price(&self, op: &Op, result: Type, operands: &[Class]) -> Option<Price> {
        let args = operands.iter().map(|&c| self.classes[c].data.ty()).collect::<Option<Vec<Type>>>()?;
        let matrix = match op {
            Op::Acc(_) | Op::Matmul(_) => Some(operands[1]),
            _ => None,
        };
        let layout = matrix.map(|matrix| self.layout(matrix));
        self.cost.price(&Work { op, result, args: &args, layout })
    }

    fn layout(&self, weight: Class) -> Layout {
        let nodes = self.classes[weight].iter();
        let pack = nodes.filter_map(|node| node.row()).find(|row| row.info().sort == Sort::Pack);
        pack.and_then(|row| Op::from_parts(row.info().name, &[]).ok())
            .and_then(|op| Layout::of(&op))
            .unwrap_or(Layout::Rows)
    }

    /// The kernel of a node; [`usize::MAX`] stands for the class itself, which has no index yet.
    fn kernel(&self, op: &Op, ty: Type, class: Class, operands: &[Class]) -> Option<usize> {
        let indexed = |grid: Class| self.index.get(&self.classes.find(grid)).copied().flatten();
        match op.sort() {
            _ if ty.is_const() => None,
            _ if ty.place() == Some(Place::Reg) => grid_of(self.classes, class).and_then(indexed),
            Sort::Store => operands.last().and_then(|&r| grid_of(self.classes, r)).and_then(indexed),
            Sort::Project => operands.first().copied().and_then(indexed),
            _ => Some(usize::MAX),
        }
    }

    /// Ops below a class that the target has no kernel for, where each of their operands could be computed.
    fn obstacles(&self, class: Class) -> String {
        let mut names: Vec<String> = vec![];
        let mut todo = vec![self.classes.find(class)];
        let mut seen: HashSet<Class> = HashSet::new();
        while let Some(class) = todo.pop() {
            if !seen.insert(class) || self.index.get(&class).copied().flatten().is_some() {
                continue;
            }
            let below = |node: &ENode| -> Vec<Class> {
                let open = node.children().iter().map(|c| self.classes.find(*c));
                open.filter(|c| matches!(self.index.get(c), Some(None)) && self.classes[*c].data.ty().is_some())
                    .collect()
            };
            for node in self.classes[class].iter() {
                let missing = below(node);
                match missing.is_empty() {
                    true => names.push(node.to_string()),
                    false => todo.extend(missing),
                }
            }
        }
        names.sort();
        names.dedup();
        names.join(" or ")
    }
}
