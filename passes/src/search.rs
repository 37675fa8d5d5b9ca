//! Local search: single changes of a choice while the price of the whole plan falls.
//!
//! The price of a kernel is a maximum over resources and no sum over nodes, so greedy extraction cannot minimise it. Here a change touches only
//! the nodes that come into use or fall out of it, and the kernels they are part of; all sums are whole numbers, so the result does not depend
//! on the path. Kernels that wait for each other, or that overwrite a state which a later one still reads, weigh more than any time. Where single
//! changes do not get rid of them, the epilogue that closes the circle is forbidden and the choice is made anew.

use crate::cost::{CostModel, Price};
use crate::extract::{Choice, Problem};
use jet_ir::Place;

/// What is minimised: kernels that cannot be launched, then time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// Kernels that wait for each other.
    pub stuck: usize,
    /// Picoseconds of the whole plan.
    pub ps: u64,
}

/// A choice with the sums that a change updates.
struct State<'a> {
    problem: &'a Problem,
    cost: &'a dyn CostModel,
    choice: Choice,
    users: Vec<u32>,
    kernels: Vec<Price>,
    ps: u64,
}

impl<'a> State<'a> {
    fn new(problem: &'a Problem, cost: &'a dyn CostModel, choice: Choice) -> State<'a> {
        let n = problem.classes.len();
        let mut state = State { problem, cost, choice, users: vec![0; n], kernels: vec![Price::default(); n], ps: 0 };
        problem.goals.iter().for_each(|goal| state.retain(goal.class));
        state
    }

    /// Changes the price of the kernel of a class's chosen candidate.
    fn charge(&mut self, class: usize, apply: impl FnOnce(&mut Price, Price)) {
        let candidate = &self.problem.classes[class][self.choice[class]];
        if let Some(kernel) = candidate.kernel {
            self.ps -= self.cost.kernel_ps(&self.kernels[kernel]);
            apply(&mut self.kernels[kernel], candidate.price);
            self.ps += self.cost.kernel_ps(&self.kernels[kernel]);
        }
    }

    fn retain(&mut self, class: usize) {
        self.users[class] += 1;
        if self.users[class] == 1 {
            self.charge(class, |sum, price| *sum += price);
            let problem = self.problem;
            problem.classes[class][self.choice[class]].kids.iter().for_each(|&kid| self.retain(kid));
        }
    }

    fn release(&mut self, class: usize) {
        self.users[class] -= 1;
        if self.users[class] == 0 {
            self.charge(class, |sum, price| *sum -= price);
            let problem = self.problem;
            problem.classes[class][self.choice[class]].kids.iter().for_each(|&kid| self.release(kid));
        }
    }

    /// Switches a class in use to another candidate.
    fn switch(&mut self, class: usize, to: usize) {
        let (problem, from) = (self.problem, self.choice[class]);
        problem.classes[class][to].kids.iter().for_each(|&kid| self.retain(kid));
        self.charge(class, |sum, price| *sum -= price);
        self.choice[class] = to;
        self.charge(class, |sum, price| *sum += price);
        problem.classes[class][from].kids.iter().for_each(|&kid| self.release(kid));
    }

    /// Who waits for whom in the chosen plan.
    fn waits(&self) -> Vec<Wait> {
        let kernel = |c: usize| self.problem.classes[c][self.choice[c]].kernel;
        let (mut waits, mut readers) = (vec![], vec![]);
        for class in (0..self.choice.len()).filter(|c| self.users[*c] > 0) {
            let Some(then) = kernel(class) else { continue };
            let read = self.problem.classes[class][self.choice[class]].kids.iter();
            for &kid in read.filter(|kid| self.problem.types[**kid].place() == Some(Place::Mem)) {
                match kernel(kid) {
                    Some(first) => waits.push(Wait { first, then, class }),
                    None => readers.push((kid, then)),
                }
            }
        }
        for &(old, new) in &self.problem.updates {
            let Some(then) = kernel(new) else { continue };
            let earlier = readers.iter().filter(|(state, reader)| *state == old && *reader != then);
            waits.extend(earlier.map(|&(_, first)| Wait { first, then, class: new }));
        }
        waits.sort_unstable();
        waits
    }

    /// Kernels that cannot be launched one after the other: members of circles, and all that wait for them.
    fn stuck(&self, waits: &[Wait]) -> Vec<bool> {
        let mut present = vec![false; self.choice.len()];
        for class in (0..self.choice.len()).filter(|c| self.users[*c] > 0) {
            if let Some(kernel) = self.problem.classes[class][self.choice[class]].kernel {
                present[kernel] = true;
            }
        }
        trim(present, waits.iter().map(|wait| (wait.first, wait.then)).collect())
    }

    fn value(&self) -> Value {
        Value { stuck: self.stuck(&self.waits()).iter().filter(|stuck| **stuck).count(), ps: self.ps }
    }

    /// Classes in use whose epilogue makes kernels wait for each other.
    fn culprits(&self) -> Vec<usize> {
        let waits = self.waits();
        let circles = trim(self.stuck(&waits), waits.iter().map(|wait| (wait.then, wait.first)).collect());
        let inside = waits.iter().filter(|wait| circles[wait.first] && circles[wait.then] && wait.class != wait.then);
        let mut classes: Vec<usize> = inside.map(|wait| wait.class).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}

/// A kernel must run before another, because of what a class reads or overwrites.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wait {
    first: usize,
    then: usize,
    class: usize,
}

/// Takes away whatever no edge leads to, again and again; what is left.
fn trim(mut left: Vec<bool>, mut edges: Vec<(usize, usize)>) -> Vec<bool> {
    edges.sort_unstable();
    edges.dedup();
    edges.retain(|(from, to)| left[*from] && left[*to]);
    let mut waits = vec![0u32; left.len()];
    edges.iter().for_each(|(_, to)| waits[*to] += 1);
    let mut ready: Vec<usize> = (0..left.len()).filter(|k| left[*k] && waits[*k] == 0).collect();
    while let Some(k) = ready.pop() {
        left[k] = false;
        let first = edges.partition_point(|edge| edge.0 < k);
        for &(_, to) in edges[first..].iter().take_while(|edge| edge.0 == k) {
            waits[to] -= 1;
            if waits[to] == 0 {
                ready.push(to);
            }
        }
    }
    left
}

impl Problem {
    /// The value of a choice.
    pub fn value(&self, cost: &dyn CostModel, choice: &Choice) -> Value {
        State::new(self, cost, choice.clone()).value()
    }

    /// Improves a choice by single changes until none helps; `held` is left as it is and must stay in use.
    pub fn improve(&self, cost: &dyn CostModel, choice: Choice, held: Option<usize>) -> Choice {
        let mut state = State::new(self, cost, choice);
        let mut best = state.value();
        loop {
            let mut improved = false;
            for class in (0..self.classes.len()).filter(|c| held != Some(*c)) {
                for to in 0..self.classes[class].len() {
                    let from = state.choice[class];
                    if to == from || state.users[class] == 0 || !self.classes[class][to].allowed {
                        continue;
                    }
                    state.switch(class, to);
                    let lost = held.is_some_and(|h| state.users[h] == 0);
                    let promising = !lost && (best.stuck > 0 || state.ps < best.ps);
                    match promising.then(|| state.value()).filter(|value| *value < best) {
                        Some(value) => (best, improved) = (value, true),
                        None => state.switch(class, from),
                    }
                }
            }
            if !improved {
                return state.choice;
            }
        }
    }

    /// Greedy extraction, then local search; as long as kernels wait for each other, one epilogue after the other is forbidden.
    pub fn best(&self, cost: &dyn CostModel) -> Choice {
        let mut best = self.improve(cost, self.greedy(), None);
        let mut rest = None;
        while self.value(cost, &best).stuck > 0 {
            let problem = rest.as_ref().unwrap_or(self);
            let culprits = State::new(problem, cost, best.clone()).culprits();
            let tried = culprits.into_iter().filter_map(|class| {
                let other = problem.without(class, best[class])?;
                let choice = other.improve(cost, other.greedy(), None);
                Some((other.value(cost, &choice), choice, other))
            });
            match tried.min_by_key(|(value, ..)| *value) {
                Some((_, choice, other)) => (best, rest) = (choice, Some(other)),
                None => break,
            }
        }
        best
    }

    /// The same problem without one candidate and whatever cannot do without it; nothing if a goal could not be reached any more.
    fn without(&self, class: usize, candidate: usize) -> Option<Problem> {
        let mut other = self.clone();
        other.classes[class][candidate].allowed = false;
        let mut possible = vec![false; other.classes.len()];
        for c in 0..possible.len() {
            for candidate in &mut other.classes[c] {
                candidate.allowed &= candidate.kids.iter().all(|kid| possible[*kid]);
            }
            possible[c] = other.classes[c].iter().any(|candidate| candidate.allowed);
        }
        other.goals.iter().all(|goal| possible[goal.class]).then_some(other)
    }

    /// The best of all greedy choices with one class held to one candidate: gets out of corners where single changes are stuck. Slow.
    pub fn best_forced(&self, cost: &dyn CostModel) -> Choice {
        let mut best = self.best(cost);
        let mut value = self.value(cost, &best);
        for class in 0..self.classes.len() {
            for candidate in (0..self.classes[class].len()).filter(|_| self.classes[class].len() > 1) {
                let choice = self.greedy_forced(Some((class, candidate)));
                let found = self.value(cost, &choice);
                if found < value {
                    (best, value) = (choice, found);
                }
            }
        }
        best
    }

    /// For every class in use with alternatives: class, candidate, and by how many picoseconds the plan becomes dearer with it.
    pub fn regrets(&self, cost: &dyn CostModel, choice: &Choice) -> Vec<(usize, usize, i64)> {
        let best = self.value(cost, choice).ps as i64;
        let mut out = vec![];
        for class in self.reach(choice) {
            for candidate in (0..self.classes[class].len()).filter(|i| *i != choice[class]) {
                let mut switched = choice.clone();
                switched[class] = candidate;
                let starts = [switched, self.greedy_forced(Some((class, candidate)))];
                // a way around the held class is no answer
                let used = starts.into_iter().filter(|start| self.reach(start).binary_search(&class).is_ok());
                let values = used.map(|start| self.value(cost, &self.improve(cost, start, Some(class))));
                let value = values.filter(|value| value.stuck == 0).min();
                out.extend(value.map(|value| (class, candidate, value.ps as i64 - best)));
            }
        }
        out
    }
}
