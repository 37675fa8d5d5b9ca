//! Order between blocks: release and acquire through memory, as far as one block knows of another (PTX ISA, "Memory Consistency Model").
//!
//! Blocks are the unit: a release by any thread hands over all that its block did or knew before. So this finds a missing release or acquire,
//! but not a missing barrier between the writing thread and the releasing one.

use crate::inst::Order;
use std::collections::{HashMap, HashSet};

/// Blocks whose accesses are known; block numbers start at 1.
pub(crate) type Blocks = HashSet<u32>;

/// What one block knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Blocks whose accesses happen before what this block does now.
    pub blocks: Blocks,
    /// What a relaxed write hands over, since a fence stands before it.
    fenced: Option<Blocks>,
    /// Handed over by relaxed reads; known after the next fence.
    seen: Blocks,
}

/// What was released, by the address of the word.
#[derive(Debug, Default)]
pub(crate) struct Released(HashMap<u64, Blocks>);

impl Known {
    /// A `fence` or `membar` of at least the scope of the device.
    pub fn fence(&mut self, me: u32) {
        self.blocks.extend(self.seen.drain());
        let mut out = self.blocks.clone();
        out.insert(me);
        self.fenced = Some(out);
    }

    /// A strong read of `address`.
    pub fn read(&mut self, released: &Released, address: u64, order: Order) {
        let Some(blocks) = released.0.get(&address) else { return };
        if order.acquire { self.blocks.extend(blocks) } else { self.seen.extend(blocks) }
    }

    /// A strong write of `address`; one that also read it (`atom`, `red`) leaves in place what others released there.
    pub fn write(&self, released: &mut Released, me: u32, address: u64, order: Order, also_read: bool) {
        let place = released.0.entry(address).or_default();
        if !also_read {
            place.clear();
        }
        if order.release {
            place.extend(&self.blocks);
            place.insert(me);
        } else if let Some(fenced) = &self.fenced {
            place.extend(fenced);
        }
    }
}
