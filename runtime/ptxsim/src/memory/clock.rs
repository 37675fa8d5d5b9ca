//! Happens-before within a cluster of blocks: for each warp, up to when it knows of the others' accesses.
//!
//! Time is a counter of synchronising events. An access of warp `a` at time `t` happens before what warp `v` does now if `t` is less than
//! what `v` knows of `a`. Barriers and mbarriers carry that knowledge. The same is kept for the asynchronous proxy: up to when `v` knows that
//! a proxy fence stands behind `a`'s accesses.

/// A warp of the cluster, or the asynchronous proxy, which comes after all warps.
pub(crate) type Actor = u16;

/// Who accesses: a warp and one of its lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub actor: Actor,
    pub lane: u8,
}

/// Stands for several lanes of a warp.
pub(crate) const LANES: u8 = 0xff;

/// What can be handed over at a point of synchronisation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge {
    known: Vec<u32>,
    fenced: Vec<u32>,
}

impl Knowledge {
    pub fn new(actors: usize) -> Self {
        Knowledge { known: vec![0; actors], fenced: vec![0; actors] }
    }

    fn join(&mut self, other: &Knowledge) {
        let max = |to: &mut Vec<u32>, from: &[u32]| to.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
        max(&mut self.known, &other.known);
        max(&mut self.fenced, &other.fenced);
    }

    /// Adds what the actor itself did before `time`.
    pub fn learn(&mut self, actor: Actor, time: u32) {
        let of = &mut self.known[usize::from(actor)];
        *of = (*of).max(time);
    }

    /// Moves everything from `other`, which knows nothing afterwards.
    pub fn take(&mut self, other: &mut Knowledge) {
        self.join(other);
        other.clear();
    }

    pub fn clear(&mut self) {
        self.known.fill(0);
        self.fenced.fill(0);
    }
}

/// The clocks of a cluster.
#[derive(Debug)]
pub(crate) struct Clocks {
    pub now: u32,
    of: Vec<Knowledge>,
    /// When the lanes of each warp last synchronised with each other.
    lanes: Vec<u32>,
}

impl Clocks {
    pub fn new(warps: usize) -> Self {
        let actors = warps + 1;
        Clocks { now: 1, of: vec![Knowledge::new(actors); actors], lanes: vec![0; actors] }
    }

    pub fn actors(&self) -> usize {
        self.of.len()
    }

    /// The asynchronous proxy as an actor.
    pub fn async_proxy(&self) -> Actor {
        (self.of.len() - 1) as Actor
    }

    /// Whether an access at `time` by `actor`, in `lane`, happens before what `who` does now.
    pub fn ordered(&self, who: Who, actor: Actor, lane: u8, time: u32) -> bool {
        if actor == who.actor {
            return lane == who.lane || time < self.lanes[usize::from(actor)];
        }
        time < self.of[usize::from(who.actor)].known[usize::from(actor)]
    }

    /// Whether a proxy fence stands between a write at `time` by `actor` and what `who` asks the asynchronous proxy to do now.
    pub fn fenced(&self, who: Who, actor: Actor, time: u32) -> bool {
        time < self.of[usize::from(who.actor)].fenced[usize::from(actor)]
    }

    /// Whether these actors, each by itself or another of them, know of all of these accesses.
    pub fn covers(&self, actors: std::ops::Range<Actor>, accesses: &Knowledge) -> bool {
        let known = |of: usize, time: u32| actors.clone().any(|a| time < self.of[usize::from(a)].known[of]);
        accesses.known.iter().enumerate().all(|(of, time)| *time == 0 || known(of, *time))
    }

    /// Everything so far is behind the actor, which can hand it over.
    fn tick(&mut self, actor: Actor) {
        self.now += 1;
        self.of[usize::from(actor)].known[usize::from(actor)] = self.now;
    }

    /// The lanes of a warp see each other's accesses.
    pub fn sync_lanes(&mut self, actor: Actor) {
        self.tick(actor);
        self.lanes[usize::from(actor)] = self.now;
    }

    /// Adds what the actor knows to what waits at a barrier.
    pub fn release(&mut self, actor: Actor, to: &mut Knowledge) {
        self.tick(actor);
        to.join(&self.of[usize::from(actor)]);
    }

    /// Takes over what was handed over; what the warp itself handed over, its lanes now know of each other.
    pub fn acquire(&mut self, actor: Actor, from: &Knowledge) {
        let lanes = &mut self.lanes[usize::from(actor)];
        *lanes = (*lanes).max(from.known[usize::from(actor)]);
        self.of[usize::from(actor)].join(from);
    }

    /// The asynchronous proxy has written: whoever synchronises with that knows of it from the returned time on.
    pub fn tick_proxy(&mut self) -> u32 {
        self.tick(self.async_proxy());
        self.now
    }

    /// `fence.proxy.async`: what the actor knows of, the asynchronous proxy sees.
    pub fn fence_proxy(&mut self, actor: Actor) {
        self.tick(actor);
        let of = &mut self.of[usize::from(actor)];
        let known = of.known.clone();
        of.fenced.iter_mut().zip(known).for_each(|(f, k)| *f = (*f).max(k));
    }
}
