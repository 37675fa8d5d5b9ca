//! Where the head of a CPU keeps the tokens with the largest logits: a list for each thread and row, which the runtime merges.
//!
//! A thread sees the logits of its own columns only, so that it alone cannot know the largest of all; lists are short, and no thread waits
//! for another. All numbers are words of 4 bytes.

/// Places in a list of `len` candidates, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateList {
    /// Candidates, a multiple of [`CandidateList::WIDTH`].
    pub len: u32,
}

impl CandidateList {
    /// Kernels work on so many candidates at once, at most.
    pub const WIDTH: u32 = 16;
    /// The most candidates that an artifact may ask for.
    pub const MOST: u32 = 1024;
    /// What compiled heads keep: samplers mostly ask for the 20 to 50 best, and penalties may drop some of a list.
    pub const USUAL: CandidateList = CandidateList { len: 64 };
    /// `f32[WIDTH]`: zeros, but NaN somewhere if a logit was NaN or infinite.
    pub const CHECKS: u32 = 0;
    /// `f32[WIDTH]`: logits that are being looked at.
    pub const SEEN: u32 = Self::WIDTH;
    /// `f32[len]`: scores, largest first; of equals the one with the lower id; -inf where there are fewer. The word in front is +inf.
    pub const SCORES: u32 = 3 * Self::WIDTH;

    /// `i32[len]`: the ids that belong to the scores, -1 where there are fewer.
    pub fn ids(self) -> u32 {
        Self::SCORES + self.len + Self::WIDTH
    }

    /// Words of a list.
    pub fn words(self) -> u32 {
        self.ids() + self.len
    }

    /// Bytes of a list.
    pub fn bytes(self) -> u64 {
        u64::from(self.words()) * 4
    }

    /// Whether a list can have this length.
    pub fn is_valid(self) -> bool {
        (1..=Self::MOST).contains(&self.len) && self.len.is_multiple_of(Self::WIDTH)
    }
}
