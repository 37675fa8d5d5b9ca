//! `jetc bench --device ptxsim`: counts of the simulator instead of times.

use super::{Args, Form, fit};
use crate::bench::Test;
use crate::cmd::{Outcome, output};
use crate::counted::{Row, measure, seconds};
use anyhow::ensure;
use jet_runtime::{Model, PtxSim, Session};
use serde::Serialize;

/// Seconds that a test may take without `--long`.
const MOST_SECONDS: f64 = 120.0;

#[derive(Serialize)]
struct Report {
    model: String,
    target: String,
    weight_bytes: u64,
    /// Whose stated speeds the rooflines are of.
    roofline_of: String,
    rows: Vec<Row>,
}

/// Counts and prints.
///
/// # Errors
/// If the tests do not fit the artifact, or would take very long, or the simulator finds a fault.
pub fn run(args: &Args, model: &Model, tests: Vec<Test>) -> anyhow::Result<Outcome> {
    let mut tests: Vec<Test> = tests.into_iter().map(|t| Test { n_gen: t.n_gen.min(1), ..t }).collect();
    tests.dedup();
    fit(&tests, model)?;
    for test in &tests {
        let (name, seconds) = (test.name(), seconds(model, *test));
        ensure!(
            args.long || seconds <= MOST_SECONDS,
            "{name}: the simulator would take some {seconds:.0} seconds, expected {MOST_SECONDS} at most: ask for fewer tokens or a smaller model, or say --long"
        );
    }
    let gpu = PtxSim::new();
    let counts = gpu.counts();
    let sequences = tests.iter().map(|t| t.n_batch).max().unwrap_or(1);
    let mut session = Session::with_device(model, Box::new(gpu), sequences)?;
    let bar = output::progress(tests.len() as u64, output::Unit::Items);
    let mut rows = vec![];
    for test in tests {
        bar.set_message(test.name());
        rows.push(measure(&mut session, &counts, test)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let target = model.candidates().first().map(|c| c.name.clone()).unwrap_or_default();
    let (model, weight_bytes) = (model.facts().name.clone(), model.weight_data().len() as u64);
    print(&Report { model, roofline_of: target.clone(), target, weight_bytes, rows }, args.output)?;
    Ok(Outcome::Done)
}

fn print(report: &Report, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => output::json(report)?,
        Form::Jsonl => output::json_lines(&report.rows)?,
        Form::Csv => {
            for (i, row) in report.rows.iter().enumerate() {
                let serde_json::Value::Object(fields) = serde_json::to_value(row)? else { continue };
                if i == 0 {
                    println!("{}", fields.keys().cloned().collect::<Vec<_>>().join(","));
                }
                let cells: Vec<_> = fields.values().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string)).collect();
                println!("{}", cells.join(","));
            }
        }
        Form::Md => print_table(report),
    }
    Ok(())
}

fn print_table(report: &Report) {
    println!("Counted in the simulator, nothing is timed; the last column is what this takes at the speeds stated for {}.\n", report.roofline_of);
    print!("| model | target | test | launches | instructions | weights | states | activations | sectors a request | conflicts a request |");
    println!(" tile FLOP | roofline |\n| --- | --- | --- |{}", " ---: |".repeat(9));
    for r in &report.rows {
        let [weights, states, activations] = [r.weight_bytes, r.state_bytes, r.activation_bytes].map(output::bytes);
        print!("| {} {} | {} | {} |", report.model, output::bytes(report.weight_bytes), report.target, r.test);
        print!(" {} | {} | {weights} | {states} | {activations} |", r.launches, r.warp_instructions);
        print!(" {:.2} | {:.3} | {:.3e} |", r.sectors_per_request, r.conflicts_per_request, r.tile_flops as f64);
        println!(" {:.1} us |", r.roofline_us);
    }
}
