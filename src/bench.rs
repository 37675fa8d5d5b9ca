//! Timing of an artifact: prompts (`pp`), generation (`tg`), loading.

use crate::caches::seen;
use crate::ceilings::{Arithmetic, MemoryMeter, median};
use jet_frontend::synth::token_ids;
use jet_runtime::{Model, Saved, Session};
use jetbin::{Domain, Phase};
use serde::Serialize;
use std::time::Instant;

/// What to measure: `n_prompt` tokens of a prompt or `n_gen` generated ones, after `n_depth` tokens in each of `n_batch` sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt; 0 in a test of generation.
    pub n_prompt: u32,
    /// Tokens generated one after another; 0 in a test of a prompt.
    pub n_gen: u32,
    /// Tokens that each sequence holds before.
    pub n_depth: u32,
    /// Sequences that take a token in each step.
    pub n_batch: u32,
}

impl Test {
    /// `pp512`, `tg128 @ d4096`, `tg128 b4`.
    pub fn name(&self) -> String {
        let depth = if self.n_depth > 0 { format!(" @ d{}", self.n_depth) } else { String::new() };
        let batch = if self.n_batch > 1 { format!(" b{}", self.n_batch) } else { String::new() };
        let (kind, n) = if self.n_gen > 0 { ("tg", self.n_gen) } else { ("pp", self.n_prompt) };
        format!("{kind}{n}{batch}{depth}")
    }

    /// Tokens that a repetition counts.
    fn tokens(&self) -> u64 {
        u64::from(self.n_batch) * u64::from(self.n_prompt + self.n_gen)
    }
}

/// The result of a test. The first fields are named as llama-bench's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// As given.
    pub n_prompt: u32,
    /// As given.
    pub n_gen: u32,
    /// As given.
    pub n_depth: u32,
    /// As given.
    pub n_batch: u32,
    /// Threads, the calling one included.
    pub n_threads: u32,
    /// Mean of the repetitions, in tokens per second.
    pub avg_ts: f64,
    /// Standard deviation of a single repetition, in tokens per second.
    pub stddev_ts: f64,
    /// Every repetition, in tokens per second.
    pub samples_ts: Vec<f64>,
    /// Name of the test.
    pub test: String,
    /// Bytes of weights, states and caches that a second moves, by the artifact's own account, in 1e9.
    pub gbps: f64,
    /// Median over the repetitions of the share of the rate of reading memory, or of copying on a GPU, measured within the repetition.
    pub read_share: f64,
    /// Median of that rate, in 1e9 bytes per second.
    pub read_gbps: f64,
    /// Operations of a second, by the artifact's own account, in 1e9.
    pub gflops: f64,
    /// Their shares of the measured rates of multiply-adds; none where the machine has no such instruction.
    pub shares: Arithmetic,
}

/// Times of loading an artifact, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Mapping, checks, memory, threads: until the first kernel could start.
    pub load_ms: f64,
    /// The same and the first token of a prompt of one token.
    pub first_token_ms: f64,
}

/// Bytes and operations of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights, states and caches.
    pub bytes: u64,
    /// Operations.
    pub flops: u64,
}

/// Loads the artifact as a new process would, with its file in the page cache if it was read before.
///
/// # Errors
/// As for opening and running a model.
pub fn load(open: impl FnOnce() -> anyhow::Result<Session>) -> anyhow::Result<Load> {
    let start = Instant::now();
    let mut session = open()?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    session.prefill(0, &[0])?;
    session.argmax(0)?;
    Ok(Load { load_ms, first_token_ms: start.elapsed().as_secs_f64() * 1e3 })
}

/// A repetition.
struct Sample {
    /// Seconds of the calls alone.
    seconds: f64,
    /// Mean rate of reading memory between the calls, in 1e9 bytes per second.
    read_gbps: f64,
}

/// Sequences after the tokens that tests want them to hold, so that these tokens are fed once for all tests and repetitions.
#[derive(Default)]
pub struct Depth {
    tokens: u32,
    saved: Vec<Saved>,
}

impl Depth {
    /// Makes the first `n` sequences hold so many tokens.
    fn restore(&mut self, session: &mut Session, n: u32, tokens: u32) -> jet_runtime::Result<()> {
        let vocab = session.model().facts().vocab_size as usize;
        if self.tokens != tokens {
            *self = Depth { tokens, saved: Vec::new() };
        }
        for sequence in 0..n {
            match self.saved.get(sequence as usize) {
                _ if tokens == 0 => session.reset(sequence)?,
                Some(saved) => session.restore(sequence, saved)?,
                None => {
                    session.reset(sequence)?;
                    session.prefill(sequence, &token_ids(sequence as usize, 1, vocab, tokens as usize))?;
                    self.saved.push(session.save(sequence)?);
                }
            }
        }
        Ok(())
    }
}

/// Runs a test `repetitions` times after one that does not count; the session holds `n_batch` sequences at least.
///
/// # Errors
/// If the tokens do not fit, or the device fails.
pub fn measure(
    session: &mut Session,
    test: Test,
    repetitions: u32,
    depth: &mut Depth,
    (meter, limits): (&MemoryMeter, &Arithmetic),
) -> jet_runtime::Result<Row> {
    let mut once = || once(session, test, depth, meter);
    once()?;
    let samples = (0..repetitions).map(|_| once()).collect::<jet_runtime::Result<Vec<_>>>()?;
    let samples_ts: Vec<f64> = samples.iter().map(|s| test.tokens() as f64 / s.seconds).collect();
    let (avg_ts, stddev_ts) = mean_and_deviation(&samples_ts);
    let work = work(session.model(), test);
    let gbytes = work.bytes as f64 / 1e9;
    let mean_seconds = samples.iter().map(|s| s.seconds).sum::<f64>() / samples.len().max(1) as f64;
    let gflops = work.flops as f64 / mean_seconds / 1e9;
    let Test { n_prompt, n_gen, n_depth, n_batch } = test;
    Ok(Row {
        n_prompt,
        n_gen,
        n_depth,
        n_batch,
        n_threads: session.threads(),
        avg_ts,
        stddev_ts,
        samples_ts,
        test: test.name(),
        gbps: gbytes / mean_seconds,
        read_share: median(samples.iter().map(|s| gbytes / s.seconds / s.read_gbps).collect()),
        read_gbps: median(samples.iter().map(|s| s.read_gbps).collect()),
        gflops,
        shares: limits.map(|limit| if limit > 0.0 { gflops / limit } else { 0.0 }),
    })
}

/// One repetition; what comes before does not count, nor does the time in which memory is measured.
fn once(session: &mut Session, test: Test, depth: &mut Depth, meter: &MemoryMeter) -> jet_runtime::Result<Sample> {
    let vocab = session.model().facts().vocab_size as usize;
    depth.restore(session, test.n_batch, test.n_depth)?;
    let prompts: Vec<_> =
        (0..test.n_batch).map(|s| token_ids(100 + s as usize, 1, vocab, test.n_prompt as usize)).collect();
    let mut batch: Vec<(u32, u32)> = (0..test.n_batch).map(|s| (s, 1 % vocab as u32)).collect();
    let mut clock = Clock::new(meter)?;
    for (sequence, prompt) in (0..).zip(prompts.iter().filter(|p| !p.is_empty())) {
        clock.time(|| {
            session.prefill(sequence, prompt)?;
            session.argmax(session.rows() - 1)
        })?;
    }
    for _ in 0..test.n_gen {
        clock.time(|| {
            session.decode(&batch)?;
            for (row, entry) in (0..).zip(&mut batch) {
                entry.1 = session.argmax(row)?;
            }
            Ok(())
        })?;
    }
    Ok(clock.sample())
}

/// Adds up the time of calls, and measures memory between them every now and then: its rate changes within seconds on a
/// shared machine, so that only figures of the same moment can be compared.
struct Clock<'a> {
    meter: &'a MemoryMeter,
    seconds: f64,
    /// Seconds at which memory is measured next.
    next: f64,
    read_gbps: Vec<f64>,
}

/// Seconds of calls between two measurements of memory.
const BETWEEN: f64 = 0.1;

impl Clock<'_> {
    fn new(meter: &MemoryMeter) -> jet_runtime::Result<Clock<'_>> {
        Ok(Clock { meter, seconds: 0.0, next: BETWEEN, read_gbps: vec![meter.gbps()?] })
    }

    fn time<T>(&mut self, call: impl FnOnce() -> jet_runtime::Result<T>) -> jet_runtime::Result<T> {
        let start = Instant::now();
        let result = call()?;
        self.seconds += start.elapsed().as_secs_f64();
        if self.seconds >= self.next {
            self.next = self.seconds + BETWEEN;
            self.read_gbps.push(self.meter.gbps()?);
        }
        Ok(result)
    }

    fn sample(self) -> Sample {
        let read_gbps = self.read_gbps.iter().sum::<f64>() / self.read_gbps.len() as f64;
        Sample { seconds: self.seconds, read_gbps }
    }
}

/// What a repetition moves and computes, by the artifact's own account: weights once a call, states and what attention sees of the
/// caches once a sequence, operations once a row.
fn work(model: &Model, test: Test) -> Work {
    let chunk = model.facts().prefill_chunk;
    let mut total = Work::default();
    let mut add = |work: Work, times: u32| {
        total.bytes += work.bytes * u64::from(times);
        total.flops += work.flops * u64::from(times);
    };
    let (full, rest) = (test.n_prompt / chunk, test.n_prompt % chunk);
    let last_full = u32::from(rest == 0 && full > 0);
    // caches grow evenly, so that all calls together read what as many at half of the way would
    let held = u64::from(test.n_depth) + u64::from(test.n_prompt + test.n_gen).div_ceil(2);
    add(call(model, (Phase::Prefill, held), chunk, 0), test.n_batch * (full - last_full));
    add(call(model, (Phase::Prefill, held), chunk, 1), test.n_batch * last_full);
    add(call(model, (Phase::Prefill, held), rest, 1), test.n_batch * u32::from(rest > 0));
    add(call(model, (Phase::Decode, held), test.n_batch, test.n_batch), test.n_gen);
    total
}

/// One call with so many rows, of which the head sees some, on sequences that hold `tokens` tokens.
pub fn call(model: &Model, (phase, tokens): (Phase, u64), rows: u32, head_rows: u32) -> Work {
    let reader = model.reader();
    let Some(program) = reader.serving(model.target(), phase, rows) else { return Work::default() };
    program.steps().iter().fold(Work::default(), |sum, step| {
        let rows = u64::from(if step.domain == Domain::Head { head_rows } else { rows });
        let sequences = if phase == Phase::Prefill { rows.min(1) } else { rows };
        let cache = seen((&reader, model.target()), &program, &step, tokens);
        let states = step.cost.state_bytes + cache.map_or(0, |c| c.bytes);
        let bytes = step.cost.weight_bytes * rows.min(1) + states * sequences;
        Work { bytes: sum.bytes + bytes, flops: sum.flops + step.cost.flops * cache.map_or(1, |c| c.keys) * rows }
    })
}

fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_as_elsewhere() {
        let test = Test { n_prompt: 512, n_gen: 0, n_depth: 0, n_batch: 1 };
        assert_eq!(test.name(), "pp512");
        let test = Test { n_prompt: 0, n_gen: 128, n_depth: 4096, n_batch: 4 };
        assert_eq!((test.name().as_str(), test.tokens()), ("tg128 b4 @ d4096", 512));
    }

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_and_deviation(&[7.0]), (7.0, 0.0));
    }
}
