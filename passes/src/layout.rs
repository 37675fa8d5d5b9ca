//! One layout of the weights for all programs of a target: prefill and decode read the same bytes, and want them in different orders.

use crate::cost::{CostModel, Layout, OneLayout};
use crate::error::FuseError;
use crate::extract::Problem;
use crate::saturate::Saturated;
use std::fmt;

/// A program, and how many runs of it are weighed against those of the others.
pub struct Program<'a> {
    /// Prices of its target and phase.
    pub cost: &'a dyn CostModel,
    /// Runs.
    pub runs: u64,
}

/// What each layout would cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutTable {
    /// Names of the programs.
    pub programs: Vec<String>,
    /// For each layout that every program has kernels for: the time of one run of each program in picoseconds.
    pub rows: Vec<(Layout, Vec<u64>)>,
    /// The layout with the lowest time of all runs, the first of equals.
    pub best: Layout,
}

/// Weighs the layouts that all programs can read.
///
/// # Errors
/// No layout serves every program; the error is that of the last one tried.
pub fn assign_layout(saturated: &Saturated, programs: &[Program]) -> Result<LayoutTable, FuseError> {
    let mut rows: Vec<(Layout, Vec<u64>)> = vec![];
    let mut refused = None;
    for layout in Layout::ALL {
        let time = |program: &Program| {
            let cost = OneLayout { inner: program.cost, layout };
            let problem = Problem::new(saturated, &cost, false)?;
            Ok(problem.value(&cost, &problem.best(&cost)).ps)
        };
        match programs.iter().map(time).collect::<Result<Vec<u64>, FuseError>>() {
            Ok(times) => rows.push((layout, times)),
            Err(error) => refused = Some(error),
        }
    }
    let weighed = |times: &[u64]| -> u128 {
        programs.iter().zip(times).map(|(program, ps)| u128::from(program.runs) * u128::from(*ps)).sum()
    };
    match (rows.iter().min_by_key(|(_, times)| weighed(times)), refused) {
        (Some(&(best, _)), _) => {
            Ok(LayoutTable { programs: programs.iter().map(|p| p.cost.name()).collect(), rows, best })
        }
        (None, Some(error)) => Err(error),
        (None, None) => unreachable!("a layout is either priced or refused"),
    }
}

impl fmt::Display for LayoutTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:8}{}", "layout", self.programs.iter().map(|p| format!("  {p:>24}")).collect::<String>())?;
        for (layout, times) in &self.rows {
            let cells: String = times.iter().map(|ps| format!("  {:>21.1} us", *ps as f64 * 1e-6)).collect();
            let mark = if *layout == self.best { "  <-" } else { "" };
            writeln!(f, "{:8}{cells}{mark}", layout.name())?;
        }
        Ok(())
    }
}
