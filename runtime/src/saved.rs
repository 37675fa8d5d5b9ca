//! What a sequence holds, kept outside of the session: taken once, given back as often as wanted.

use crate::error::{Error, Result};
use crate::session::{Sequence, Session};
use jetbin::hex;

/// The states of a sequence after some tokens. It fits every session of the same artifact and target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    identity: [u8; 32],
    target: u32,
    length: u32,
    bytes: Vec<u8>,
}

impl Saved {
    /// Tokens that the sequence held.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Size of the states.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Session {
    /// What a sequence holds now.
    ///
    /// # Errors
    /// If there is no such sequence, a call failed while it took part, or the device fails.
    pub fn save(&mut self, sequence: u32) -> Result<Saved> {
        let found = *self.sequence(sequence)?;
        if found.interrupted {
            return Err(Error::request(format!("a call failed while sequence {sequence} took part: reset it first")));
        }
        let bytes = self.states.read(self.device.as_mut(), sequence, found.length)?;
        let (identity, target) = (self.model.reader().identity(), self.model.target());
        Ok(Saved { identity, target, length: found.length, bytes })
    }

    /// Makes a sequence hold what was saved.
    ///
    /// # Errors
    /// If there is no such sequence, if another artifact or target saved it (nothing has happened then), or if the device fails (the
    /// sequence must be reset).
    pub fn restore(&mut self, sequence: u32, saved: &Saved) -> Result<()> {
        let reader = self.model.reader();
        let (identity, target) = (reader.identity(), self.model.target());
        if (saved.identity, saved.target) != (identity, target) {
            let name = |identity: &[u8; 32], target| format!("target {target} of artifact {}", &hex(identity)[..16]);
            let (found, expected) = (name(&saved.identity, saved.target), name(&identity, target));
            return Err(Error::request(format!("found states that were saved by {found}, expected by {expected}")));
        }
        self.reset(sequence)?;
        self.sequences[sequence as usize].interrupted = true;
        self.states.grow(self.device.as_mut(), sequence, saved.length)?;
        self.states.write(self.device.as_mut(), sequence, saved.length, &saved.bytes)?;
        self.sequences[sequence as usize] = Sequence { length: saved.length, interrupted: false };
        Ok(())
    }
}
