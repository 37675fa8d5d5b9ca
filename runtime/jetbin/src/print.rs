//! Readable text of an artifact: sections, kernels, schedule, memory plan.

use crate::reader::{Reader, SectionView, hex};
use crate::types::*;
use crate::view::ProgramView;
use std::fmt::{Display, Formatter, from_fn};

/// The section table, a line each.
pub fn sections<'a>(reader: &'a Reader<'_>) -> impl Display + use<'a> {
    let line = |s: SectionView, f: &mut Formatter<'_>| {
        let SectionView { kind, index, offset, length, hash } = s;
        writeln!(f, "{kind:<16} {index:>5} {offset:>12} {length:>12}  {}", &hex(&hash)[..16])
    };
    from_fn(move |f| {
        writeln!(f, "{:<16} {:>5} {:>12} {:>12}  blake3", "section", "index", "offset", "bytes")?;
        reader.sections().try_for_each(|s| line(s, f))
    })
}

/// The kernels of a target, a line each.
pub fn kernels<'a>(reader: &'a Reader<'_>, target: u32) -> impl Display + use<'a> {
    from_fn(move |f| {
        writeln!(f, "{:>4} {:>8} {:>8}  kernel", "#", "offset", "bytes")?;
        for (i, k) in reader.kernels(target).iter().enumerate() {
            writeln!(f, "{i:>4} {:>8} {:>8}  {}", k.offset, k.length, k.name)?;
        }
        Ok(())
    })
}

/// The weights, a line each.
pub fn weights<'a>(reader: &'a Reader<'_>) -> impl Display + use<'a> {
    from_fn(move |f| {
        writeln!(f, "{:>4} {:>12} {:>12} {:<5} weight", "#", "offset", "bytes", "dtype")?;
        for (i, w) in reader.weights().iter().enumerate() {
            writeln!(f, "{i:>4} {:>12} {:>12} {:<5} {}: {}", w.offset, w.length, w.dtype, w.name, w.layout)?;
        }
        Ok(())
    })
}

/// The states of a sequence as a target keeps them, a line each.
pub fn states<'a>(reader: &'a Reader<'_>, target: u32) -> impl Display + use<'a> {
    from_fn(move |f| {
        writeln!(f, "slot of {} bytes", reader.slot_bytes(target))?;
        writeln!(
            f,
            "{:>4} {:>12} {:>12} {:<6} {:<5} {:>14}  state",
            "#", "offset", "bytes", "kind", "type", "rows x cols"
        )?;
        for (i, s) in reader.states(target).iter().enumerate() {
            let (shape, bytes) = (format!("{} x {}", s.rows, s.cols), s.bytes());
            writeln!(f, "{i:>4} {:>12} {bytes:>12} {:<6} {:<5} {shape:>14}  {}", s.offset, s.kind, s.dtype, s.name)?;
        }
        Ok(())
    })
}

/// The steps of a program in order: kernel, items, arguments, cost.
pub fn schedule<'a>(reader: &'a Reader<'_>, target: u32, program: &'a ProgramView<'_>) -> impl Display + use<'a> {
    from_fn(move |f| {
        writeln!(
            f,
            "{} steps, up to {} rows, head {}",
            program.steps().len(),
            program.max_rows(),
            program.head_rows()
        )?;
        let kernels = reader.kernels(target);
        for (i, step) in program.steps().iter().enumerate() {
            let kernel = kernels.get(step.kernel).map_or("?", |k| k.name);
            write!(f, "{i:>4} {:<6} {kernel}(", step.domain)?;
            for (n, arg) in program.args_of(&step).enumerate() {
                write!(f, "{}{}", if n > 0 { ", " } else { "" }, name_of(reader, target, program, arg))?;
            }
            write!(f, ") items {}", step.items_fixed)?;
            if step.items_per_row > 0 {
                write!(f, " + {} a row", step.items_per_row)?;
            }
            let Cost { weight_bytes, state_bytes, act_bytes, flops } = step.cost;
            writeln!(f, "  ; {}", step.label)?;
            writeln!(
                f,
                "            weights {weight_bytes} B; a sequence: state {state_bytes} B; a row: act {act_bytes} B, {flops} flop"
            )?;
        }
        Ok(())
    })
}

fn name_of(reader: &Reader<'_>, target: u32, program: &ProgramView<'_>, arg: Arg) -> String {
    let text = match arg {
        Arg::Buffer(b) => {
            return program.buffers().get(b).map_or_else(|| format!("buffer {b}"), |b| format!("%{}", b.name));
        }
        Arg::Weight(w) => {
            return reader.weights().get(w).map_or_else(|| format!("weight {w}"), |w| format!("@{}", w.name));
        }
        Arg::State(s) => {
            return reader.states(target).get(s).map_or_else(|| format!("state {s}"), |s| format!("${}", s.name));
        }
        Arg::Const(v) => return v.to_string(),
        Arg::Candidates(n) => return format!("candidates {n}"),
        Arg::SlotStride => "slot_stride",
        Arg::Slots => "slots",
        Arg::Positions => "positions",
        Arg::Rows => "rows",
        Arg::ItemBegin => "begin",
        Arg::ItemEnd => "end",
        Arg::Scratch => "scratch",
        Arg::Arrivals => "arrivals",
        Arg::TokenIds => "ids",
        Arg::Rope => "rope",
        Arg::KeepLogits => "keep_logits",
    };
    text.to_string()
}

/// The arena of a program: each buffer with its place and the steps between which it is used.
pub fn memory_plan<'a>(program: &'a ProgramView<'_>) -> impl Display + use<'a> {
    from_fn(move |f| {
        let planned: u64 = program.buffers().iter().map(|b| b.row_bytes * u64::from(program.rows_of(b.domain))).sum();
        let (arena, scratch) = (program.arena_bytes(), program.scratch_bytes());
        writeln!(f, "arena {arena} bytes for {planned} bytes of buffers; scratch {scratch} bytes a thread")?;
        writeln!(f, "{:>4} {:>12} {:>12} {:<6} {:>11}  buffer", "#", "offset", "bytes", "domain", "steps")?;
        for (i, b) in program.buffers().iter().enumerate() {
            let life = match life_of(program, i as u32) {
                Some((first, last)) => format!("{first}..{last}"),
                None => "unused".to_string(),
            };
            let bytes = b.row_bytes * u64::from(program.rows_of(b.domain));
            writeln!(f, "{i:>4} {:>12} {bytes:>12} {:<6} {life:>11}  {}", b.offset, b.domain, b.name)?;
        }
        Ok(())
    })
}

/// The first and the last step that name a buffer.
fn life_of(program: &ProgramView<'_>, buffer: u32) -> Option<(usize, usize)> {
    let uses = |(_, step): &(usize, crate::StepView<'_>)| program.args_of(step).any(|a| a == Arg::Buffer(buffer));
    let mut steps = program.steps().iter().enumerate().filter(uses).map(|(i, _)| i).collect::<Vec<_>>().into_iter();
    let first = steps.next()?;
    Some((first, steps.next_back().unwrap_or(first)))
}
