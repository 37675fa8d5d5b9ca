//! Local search: single changes of a choice while the price of the whole plan falls.
//!
//! The price of a kernel is a maximum over resources and no sum over nodes, so greedy extraction cannot minimise it. Here a change touches only
//! the nodes that come into use or fall out of it, and the kernels they are part of; all sums are whole numbers, so the result does not depend
//! on the path. Kernels that wait for each other, or that overwrite a state which a later one still reads, weigh more than any time.

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

    /// Kernels that cannot be launched one after the other: members of cycles and all that wait for them.
    fn stuck(&self) -> usize {
        let n = self.problem.classes.len();
        let kernel = |c: usize| self.problem.classes[c][self.choice[c]].kernel;
        let mut present = vec![false; n];
        let mut edges: Vec<(usize, usize)> = vec![];
        let mut reader_of: Vec<(usize, usize)> = vec![];
        for c in (0..n).filter(|c| self.users[*c] > 0) {
            let Some(k) = kernel(c) else { continue };
            present[k] = true;
            let read = self.problem.classes[c][self.choice[c]].kids.iter();
            for &kid in read.filter(|kid| self.problem.types[**kid].place() == Some(Place::Mem)) {
                match kernel(kid) {
                    Some(from) => edges.push((from, k)),
                    None => reader_of.push((kid, k)),
                }
            }
        }
        for &(old, new) in &self.problem.updates {
            let Some(writer) = kernel(new) else { continue };
            let readers = reader_of.iter().filter(|(state, reader)| *state == old && *reader != writer);
            edges.extend(readers.map(|(_, reader)| (*reader, writer)));
        }
        count_stuck(&present, edges)
    }

    fn value(&self) -> Value {
        Value { stuck: self.stuck(), ps: self.ps }
    }
}

fn count_stuck(present: &[bool], mut edges: Vec<(usize, usize)>) -> usize {
    edges.sort_unstable();
    edges.dedup();
    let mut waits = vec![0u32; present.len()];
    edges.iter().for_each(|(_, to)| waits[*to] += 1);
    let mut ready: Vec<usize> = (0..present.len()).filter(|k| present[*k] && waits[*k] == 0).collect();
    let mut left = present.iter().filter(|p| **p).count();
    while let Some(k) = ready.pop() {
        left -= 1;
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
                    if to == from || state.users[class] == 0 {
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

    /// Greedy extraction, then local search.
    pub fn best(&self, cost: &dyn CostModel) -> Choice {
        self.improve(cost, self.greedy(), None)
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
