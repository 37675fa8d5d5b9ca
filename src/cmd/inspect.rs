//! `jetc inspect`: what an artifact holds.

use super::{Outcome, output};
use crate::balance::{Balance, balance};
use anyhow::{Context, ensure};
use jet_runtime::{Model, OpenOptions};
use jetbin::{DeviceKind, Phase, ProgramView, Reader, SectionKind, hex, print};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Show what an artifact holds: sections, recipe, targets, kernels, states, schedule and memory plan
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  jetc inspect model.jetbin\n  jetc inspect model.jetbin --schedule --memory | less\n  jetc inspect model.jetbin --threads 2,8,32,64 --tokens 32000\n  jetc inspect model.jetbin --code sm_90a > kernels.ptx\n  jetc inspect model.jetbin --code x86-64-v3 > code && objdump -D -b binary -m i386:x86-64 code")]
pub struct Args {
    /// The artifact
    artifact: PathBuf,
    /// The kernels of every target
    #[arg(long)]
    kernels: bool,
    /// The steps of both programs in order, with items, arguments and costs
    #[arg(long)]
    schedule: bool,
    /// The arena of both programs: every buffer with its place and life
    #[arg(long)]
    memory: bool,
    /// The packed weights
    #[arg(long)]
    weights: bool,
    /// The recipe: compiler, options, hashes of the inputs
    #[arg(long)]
    recipe: bool,
    /// How evenly the steps divide among these numbers of threads
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Vec<u32>,
    /// The same in a sequence that holds so many tokens
    #[arg(long, value_name = "N", default_value_t = 0, requires = "threads")]
    tokens: u32,
    /// Nothing but the code of this target, as it is: PTX text, or machine code, in which `--kernels` says where each kernel is
    #[arg(long, value_name = "TARGET", conflicts_with_all = ["kernels", "schedule", "memory", "weights", "recipe", "threads", "json"])]
    code: Option<String>,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
}

const PHASES: [Phase; 2] = [Phase::Prefill, Phase::Decode];

/// Prints the overview and the parts that were asked for.
///
/// # Errors
/// If the file is not an artifact, or a damaged one.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let model = Model::read(&args.artifact, &OpenOptions::default())?;
    let reader = model.reader();
    if let Some(target) = &args.code {
        return code(&reader, target);
    }
    if args.json {
        output::json(&everything(&reader, (&args.threads, args.tokens))?)?;
        return Ok(Outcome::Done);
    }
    overview(&reader)?;
    if args.recipe {
        println!("\n{}", serde_json::to_string_pretty(&json_section(&reader, SectionKind::Recipe)?)?);
    }
    if args.weights {
        print!("\n{}", print::weights(&reader));
    }
    for (index, target) in (0..).zip(reader.targets().iter()) {
        if args.kernels {
            print!("\nkernels of {}\n{}", target.name, print::kernels(&reader, index));
        }
        for (phase, program) in programs(&reader, index) {
            if args.schedule {
                print!("\n{phase} on {}: {}", target.name, print::schedule(&reader, index, &program));
            }
            if args.memory {
                print!("\n{phase} on {}: {}", target.name, print::memory_plan(&program));
            }
            for &threads in &args.threads {
                print_balance(&target.name, &balance((&reader, index), (phase, &program), threads, args.tokens));
            }
        }
    }
    Ok(Outcome::Done)
}

/// Writes the code of a target to stdout; machine code not to a terminal.
fn code(reader: &Reader<'_>, name: &str) -> anyhow::Result<Outcome> {
    let targets = reader.targets();
    let names: Vec<String> = targets.iter().map(|t| t.name).collect();
    let index = names.iter().position(|n| *n == name);
    let index = index.with_context(|| format!("--code: found {name}, expected one of {}", names.join(", ")))?;
    let (code, mut out) = (reader.code(index as u32), std::io::stdout().lock());
    let is_text = targets.get(index as u32).is_some_and(|t| t.device != DeviceKind::Cpu);
    ensure!(is_text || !out.is_terminal(), "--code: the machine code of {name} goes to a file or another program only, not to a terminal");
    out.write_all(code)?;
    Ok(Outcome::Done)
}

fn print_balance(target: &str, b: &Balance) {
    println!(
        "\n{} of {} rows on {target}, {} threads: {:.1} % of their time is work",
        b.phase,
        b.rows,
        b.threads,
        b.efficiency * 100.0
    );
    for k in &b.worst {
        let (share, work) = (k.share * 100.0, k.efficiency * 100.0);
        println!("  {share:>5.1} % of the work in {} items, {work:.0} % busy: {}", k.items, k.label);
    }
}

/// A section that holds JSON; `null` if there is none.
fn json_section(reader: &Reader<'_>, kind: SectionKind) -> anyhow::Result<Value> {
    let Some(text) = reader.text(kind)? else { return Ok(Value::Null) };
    serde_json::from_str(text).with_context(|| format!("section {kind}: not valid JSON"))
}

fn programs<'a>(reader: &Reader<'a>, target: u32) -> impl Iterator<Item = (Phase, ProgramView<'a>)> {
    let reader = *reader;
    let few = reader.program_of_few(target).map(|program| (Phase::Decode, program));
    PHASES.into_iter().filter_map(move |phase| Some((phase, reader.program(target, phase)?))).chain(few)
}

fn overview(reader: &Reader<'_>) -> anyhow::Result<()> {
    let (facts, (major, minor)) = (reader.facts(), reader.version());
    let recipe = json_section(reader, SectionKind::Recipe)?;
    let weights: u64 = reader.weights().iter().map(|w| w.length).sum();
    println!("{}: format {major}.{minor}, {}", facts.name, output::bytes(reader.total_bytes()));
    println!("identity   {}", hex(&reader.identity()));
    println!("model      {} layers of width {}, vocabulary {}", facts.n_layers, facts.hidden_size, facts.vocab_size);
    println!(
        "limits     context {}, batch {}, prefill chunk {}",
        facts.max_context, facts.max_batch, facts.prefill_chunk
    );
    println!("weights    {} in {} pieces{}", output::bytes(weights), reader.weights().len(), by_type(reader));
    for (index, target) in (0..).zip(reader.targets().iter()) {
        let (kernels, code) = (reader.kernels(index).len(), reader.code(index).len() as u64);
        print!("target     {}: {kernels} kernels, {} of code", target.name, output::bytes(code));
        match reader.cubin(index) {
            Some(cubin) => {
                let version = recipe["compile"]["ptxas"].as_str().unwrap_or("of unknown version");
                println!(", {} assembled by ptxas {version}", output::bytes(cubin.bytes.len() as u64));
            }
            None => println!(),
        }
        let states = output::bytes(reader.slot_bytes(index));
        println!("  states   {states} a sequence: {}", types_of_states(reader, index));
        for (phase, program) in programs(reader, index) {
            println!(
                "  {phase:<8} {} steps, up to {} rows, arena {}, scratch {} a thread",
                program.steps().len(),
                program.max_rows(),
                output::bytes(program.arena_bytes()),
                output::bytes(program.scratch_bytes()),
            );
        }
    }
    print!("\n{}", print::sections(reader));
    Ok(())
}

/// `conv f32, delta f32, keys bf16, values bf16`
fn types_of_states(reader: &Reader<'_>, target: u32) -> String {
    let types: BTreeSet<_> = reader.states(target).iter().map(|s| (s.kind, s.dtype)).collect();
    types.iter().map(|(kind, dtype)| format!("{kind} {dtype}")).collect::<Vec<_>>().join(", ")
}

/// `: q4 1.2 GB, q8 0.2 GB`, if the weights are of several types.
fn by_type(reader: &Reader<'_>) -> String {
    let mut sizes = BTreeMap::new();
    reader.weights().iter().for_each(|w| *sizes.entry(w.dtype).or_insert(0) += w.length);
    let texts: Vec<_> = sizes.iter().map(|(dtype, bytes)| format!("{dtype} {}", output::bytes(*bytes))).collect();
    if texts.len() > 1 { format!(": {}", texts.join(", ")) } else { String::new() }
}

fn everything(reader: &Reader<'_>, balances: (&[u32], u32)) -> anyhow::Result<Value> {
    let (facts, (major, minor)) = (reader.facts(), reader.version());
    let sections: Vec<_> = reader
        .sections()
        .map(|s| {
            json!({ "kind": s.kind.to_string(), "index": s.index, "offset": s.offset, "bytes": s.length, "blake3": hex(&s.hash) })
        })
        .collect();
    let weights: Vec<_> = reader
        .weights()
        .iter()
        .map(|w| {
            json!({ "name": w.name, "dtype": w.dtype.to_string(), "layout": w.layout, "offset": w.offset, "bytes": w.length,
                "sources": w.sources.lines().collect::<Vec<_>>() })
        })
        .collect();
    let targets: Vec<_> = (0..).zip(reader.targets().iter()).map(|(i, t)| target_json(reader, (i, &t), balances)).collect();
    Ok(json!({
        "identity": hex(&reader.identity()),
        "format": [major, minor],
        "bytes": reader.total_bytes(),
        "name": facts.name,
        "vocab_size": facts.vocab_size,
        "hidden_size": facts.hidden_size,
        "n_layers": facts.n_layers,
        "max_context": facts.max_context,
        "max_batch": facts.max_batch,
        "prefill_chunk": facts.prefill_chunk,
        "eos_ids": facts.eos_ids,
        "recipe": json_section(reader, SectionKind::Recipe)?,
        "model": json_section(reader, SectionKind::Model)?,
        "sections": sections,
        "weights": weights,
        "targets": targets,
    }))
}

fn target_json(
    reader: &Reader<'_>,
    (index, target): (u32, &jetbin::TargetDesc),
    (threads, tokens): (&[u32], u32),
) -> Value {
    let states: Vec<_> = reader
        .states(index)
        .iter()
        .map(|s| {
            json!({ "name": s.name, "kind": s.kind.to_string(), "dtype": s.dtype.to_string(), "layer": s.layer,
                "offset": s.offset, "bytes": s.bytes(), "rows": s.rows, "cols": s.cols, "heads": s.heads,
                "window": s.window })
        })
        .collect();
    let kernels: Vec<_> = reader
        .kernels(index)
        .iter()
        .map(|k| json!({ "name": k.name, "key": k.key, "offset": k.offset, "bytes": k.length }))
        .collect();
    let program_list: Vec<_> = programs(reader, index).map(|(phase, program)| program_json(phase, &program)).collect();
    let each = |&n: &u32| programs(reader, index).map(move |(phase, p)| balance((reader, index), (phase, &p), n, tokens));
    let balances: Vec<_> = threads.iter().flat_map(each).collect();
    json!({ "name": target.name, "balance": balances, "device": target.device.to_string(), "arch": target.arch, "features": target.features,
        "rank": target.rank, "slot_bytes": reader.slot_bytes(index), "states": states, "code_bytes": reader.code(index).len(),
        "cubin_bytes": reader.cubin(index).map(|c| c.bytes.len()), "kernels": kernels, "programs": program_list })
}

fn program_json(phase: Phase, program: &ProgramView<'_>) -> Value {
    let steps: Vec<_> = program
        .steps()
        .iter()
        .map(|s| {
            json!({ "label": s.label, "kernel": s.kernel, "domain": s.domain.to_string(), "items_fixed": s.items_fixed,
                "items_per_row": s.items_per_row, "weight_bytes": s.cost.weight_bytes, "state_bytes": s.cost.state_bytes,
                "act_bytes": s.cost.act_bytes, "flops": s.cost.flops })
        })
        .collect();
    let buffers: Vec<_> = program
        .buffers()
        .iter()
        .map(|b| json!({ "name": b.name, "offset": b.offset, "row_bytes": b.row_bytes, "domain": b.domain.to_string() }))
        .collect();
    json!({ "phase": phase.to_string(), "max_rows": program.max_rows(), "head_rows": program.head_rows(),
        "arena_bytes": program.arena_bytes(), "scratch_bytes": program.scratch_bytes(), "steps": steps, "buffers": buffers })
}
