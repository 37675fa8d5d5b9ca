//! What comes behind the head: logits of a row, the most likely tokens.
//!
//! A CPU's head keeps candidates, and stores logits only for those who want all of them. A GPU's stores logits and the greedy choice.

use crate::candidates::{self, Best};
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::plan::Plan;
use crate::sampling::Candidate;
use crate::session::{Session, bytes_of_mut};
use jetbin::CandidateList;
use std::ops::Range;

/// Rows that the head has seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    first: u32,
    rows: u32,
    /// Whether it has stored their logits.
    logits: bool,
}

/// Memory for what is read back of the head.
pub(crate) struct Choices {
    logits_row: Vec<f32>,
    /// The rows of the greedy choices of the window, once they have been asked for.
    greedy: Vec<i32>,
    /// The list of a thread, and what all threads have found for a row.
    list: Vec<u32>,
    found: Vec<Candidate>,
}

impl Choices {
    /// Room for whatever the plans leave.
    pub fn new(plans: &[Plan], vocab_size: u32, threads: u32) -> Self {
        let greedy = |p: &Plan| p.argmax.map_or(0, |(_, row_bytes)| p.head_rows as usize * row_bytes as usize / 4);
        let most = |len: &dyn Fn(CandidateList) -> u32| {
            plans.iter().filter_map(|p| p.candidates).map(|(list, _)| len(list) as usize).max().unwrap_or(0)
        };
        Self {
            logits_row: vec![0.0; vocab_size as usize],
            greedy: Vec::with_capacity(plans.iter().map(greedy).max().unwrap_or(0)),
            list: vec![0; most(&CandidateList::words)],
            found: Vec::with_capacity(most(&|list| list.len * threads)),
        }
    }

    /// What it takes.
    pub fn bytes(&self) -> u64 {
        let words = self.logits_row.len() + self.greedy.capacity() + self.list.len() + 2 * self.found.capacity();
        words as u64 * 4
    }

    /// Forgets what was read of a window.
    pub fn clear(&mut self) {
        self.greedy.clear();
    }
}

impl Session {
    /// Runs the head on a window of rows that starts at `row`, unless it has seen that row and stored its logits, and gives the window.
    ///
    /// # Errors
    /// If the last call had no such row, or if the device fails.
    pub fn head(&mut self, row: u32, observer: Observer<'_>) -> Result<Range<u32>> {
        self.window(row, true, observer)
    }

    /// The same; `logits` says whether they are to be stored, where the head has a choice.
    fn window(&mut self, row: u32, logits: bool, observer: Observer<'_>) -> Result<Range<u32>> {
        let rows = self.rows();
        let Some(mut last) = self.last.filter(|l| row < l.rows) else {
            return Err(Error::request(format!("row {row}: the last call had {rows} rows")));
        };
        let plan = &mut self.plans[last.serving];
        let logits = logits || plan.candidates.is_none();
        let seen = |w: &Window| (w.first..w.first + w.rows).contains(&row) && (w.logits || !logits);
        if let Some(w) = last.head.filter(seen) {
            return Ok(w.first..w.first + w.rows);
        }
        let n = plan.head_rows.min(last.rows - row);
        plan.set_head(row, n, logits);
        let steps = plan.first_head_step..plan.launches.len();
        last.head = None;
        self.last = Some(last);
        self.choices.clear();
        self.run((last.phase, last.serving), steps, (row, n), observer)?;
        last.head = Some(Window { first: row, rows: n, logits });
        self.last = Some(last);
        Ok(row..row + n)
    }

    /// Logits of a row of the last call, `vocab_size` numbers.
    ///
    /// # Errors
    /// As for [`head`](Self::head).
    pub fn logits(&mut self, row: u32) -> Result<&[f32]> {
        let window = self.head(row, None)?;
        let (address, row_bytes) = self.serving_plan().logits;
        let at = address + row_bytes * u64::from(row - window.start);
        self.device.download(at, bytes_of_mut(&mut self.choices.logits_row))?;
        Ok(&self.choices.logits_row)
    }

    /// How many of the most likely tokens the head keeps for a row; 0 if it does not.
    pub fn keeps(&self) -> u32 {
        self.serving_plan().candidates.map_or(0, |(list, _)| list.len)
    }

    /// The most likely tokens of a row of the last call. Nothing if the target's head keeps no candidates, or if a logit is not finite:
    /// [`logits`](Self::logits) has them all.
    ///
    /// # Errors
    /// As for [`head`](Self::head).
    pub fn best(&mut self, row: u32) -> Result<Option<Best<'_>>> {
        if self.keeps() == 0 {
            return Ok(None);
        }
        let window = self.window(row, false, None)?;
        let plan = &self.plans[self.last.map_or(0, |l| l.serving)];
        let Some((list, step)) = plan.candidates else { return Ok(None) };
        let Choices { list: words, found, .. } = &mut self.choices;
        let words = &mut words[..list.words() as usize];
        found.clear();
        let mut finite = true;
        // threads without a part of the vocabulary have left nothing
        for thread in 0..plan.launches[step].active as usize {
            let at = self.places.candidates[thread] + u64::from(row - window.start) * list.bytes();
            self.device.download(at, bytes_of_mut(words))?;
            finite &= candidates::append(list, words, found);
        }
        Ok(finite.then(|| candidates::best(list, found, self.model.facts().vocab_size)))
    }

    /// The most likely token of a row of the last call; of several, the one with the lowest id.
    ///
    /// # Errors
    /// As for [`head`](Self::head); also if the logits hold something that is not a number.
    pub fn argmax(&mut self, row: u32) -> Result<u32> {
        if let Some(best) = self.best(row)?.and_then(|best| best.tokens.first().copied()) {
            return Ok(best.id);
        }
        let window = self.head(row, None)?;
        let Some((address, row_bytes)) = self.serving_plan().argmax else {
            return crate::sampling::argmax(self.logits(row)?);
        };
        let stride = row_bytes as usize / 4;
        if self.choices.greedy.is_empty() {
            // All rows at once: on a GPU every look costs a round trip.
            let mut greedy = std::mem::take(&mut self.choices.greedy);
            greedy.resize((window.len() - 1) * stride + 1, 0);
            let read = self.device.download(address, bytes_of_mut(&mut greedy));
            if read.is_err() {
                greedy.clear();
            }
            self.choices.greedy = greedy;
            read?;
        }
        let id = self.choices.greedy[(row - window.start) as usize * stride];
        let vocab = self.model.facts().vocab_size;
        let bad = || Error::NotFinite(format!("the greedy choice is {id}, expected 0 to {}", vocab - 1));
        u32::try_from(id).ok().filter(|&id| id < vocab).ok_or_else(bad)
    }

    /// The plan of the last call.
    fn serving_plan(&self) -> &Plan {
        &self.plans[self.last.map_or(0, |l| l.serving)]
    }
}
