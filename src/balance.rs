//! How evenly a schedule shares its work out among a number of threads: what `jetc inspect --threads` reports.

use crate::caches::seen;
use jetbin::{Phase, ProgramView, Reader, partition};
use serde::Serialize;

/// Operations that take as long as a byte from memory, on a server's core: which of the two dominates a step hardly depends on it.
const OPERATIONS_A_BYTE: f64 = 16.0;

/// One kind of step, as far as its items do not divide among the threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Uneven {
    /// The kernel's work, as the schedule names it.
    pub label: String,
    /// Items of work in a call.
    pub items: u64,
    /// Share of the program's work that these steps are.
    pub share: f64,
    /// Share of the threads' time in these steps that is work.
    pub efficiency: f64,
}

/// A program on a number of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// Prefill or decode.
    pub phase: String,
    /// Threads.
    pub threads: u32,
    /// Rows of the call: a whole chunk of a prompt, or one token.
    pub rows: u32,
    /// Share of the threads' time that is work, if all items of a step take equally long.
    pub efficiency: f64,
    /// The kinds of steps that cost most of the rest, worst first.
    pub worst: Vec<Uneven>,
}

/// The largest share of items that a thread gets, times the threads, is what a step takes beyond an even split; the inverse is
/// the share of the time that is work.
fn efficiency(items: u64, threads: u32) -> f64 {
    let longest = partition(items, threads, 0).count() as f64;
    if items == 0 { 1.0 } else { items as f64 / (longest * f64::from(threads)) }
}

/// A label without numbers: `layers.3.mlp` and `layers.14.mlp` are one kind.
fn kind(label: &str) -> String {
    let part = |p: &str| if p.parse::<u32>().is_ok() { "N".to_string() } else { p.to_string() };
    label.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// The balance of a whole chunk or of one token, in a sequence that holds `tokens` tokens.
pub fn balance(
    (reader, target): (&Reader<'_>, u32),
    (phase, program): (Phase, &ProgramView<'_>),
    threads: u32,
    tokens: u32,
) -> Balance {
    let rows = if phase == Phase::Prefill { program.max_rows() } else { 1 };
    let mut kinds: Vec<(Uneven, f64)> = vec![];
    for step in program.steps().iter() {
        let rows = if step.domain == jetbin::Domain::Head { 1 } else { rows };
        let items = u64::from(step.items_fixed) + u64::from(step.items_per_row) * u64::from(rows);
        // one sequence: its states are read and written once
        let cache = seen((reader, target), program, &step, tokens.into());
        let bytes = (step.cost.weight_bytes + step.cost.state_bytes + cache.map_or(0, |c| c.bytes)) as f64;
        let flops = step.cost.flops * cache.map_or(1, |c| c.keys);
        let work = bytes + flops as f64 / OPERATIONS_A_BYTE * f64::from(rows);
        let label = kind(step.label);
        match kinds.iter_mut().find(|(k, _)| (&k.label, k.items) == (&label, items)) {
            Some((_, sum)) => *sum += work,
            None => kinds.push((Uneven { label, items, share: 0.0, efficiency: efficiency(items, threads) }, work)),
        }
    }
    let work: f64 = kinds.iter().map(|(_, work)| work).sum();
    let time: f64 = kinds.iter().map(|(k, work)| work / k.efficiency).sum();
    let lost = |k: &Uneven| k.share / k.efficiency - k.share;
    let mut worst: Vec<Uneven> = kinds.into_iter().map(|(k, w)| Uneven { share: w / work.max(1.0), ..k }).collect();
    worst.retain(|k| lost(k) > 1e-3);
    worst.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
    worst.truncate(5);
    let efficiency = if time > 0.0 { work / time } else { 1.0 };
    Balance { phase: phase.to_string(), threads, rows, efficiency, worst }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_one_kind() {
        assert_eq!(kind("delta_l2 layers.14.o_norm+delta"), kind("delta_l2 layers.3.o_norm+delta"));
        assert_eq!(kind("sweep layers.3.mlp.down_proj"), "sweep layers.N.mlp.down_proj");
    }

    #[test]
    fn the_longest_share_sets_the_time() {
        assert_eq!(efficiency(12, 2), 1.0);
        assert_eq!(efficiency(12, 8), 12.0 / 16.0);
        assert_eq!(efficiency(2, 64), 2.0 / 64.0);
        assert_eq!(efficiency(0, 4), 1.0);
    }
}
