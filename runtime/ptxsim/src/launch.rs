//! A launch: clusters of blocks on the threads of the host, and the turns of the warps within a cluster.

use crate::counters::Counters;
use crate::error::{Fault, Trap, TrapKind};
use crate::exec::{Barrier, ClusterBarrier, Event, Machine, Mbarrier, Registers, Step, Warp, land};
use crate::memory::SHARED_BASE;
use crate::memory::clock::{Actor, Clocks, Knowledge};
use crate::memory::global::{Agent, Global};
use crate::memory::order::Known;
use crate::memory::shared::Shared;
use crate::module::{Kernel, Preset, Special};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Everything about a launch that does not change while it runs.
pub(crate) struct Context<'l> {
    pub kernel: &'l Kernel,
    pub text: &'l str,
    pub global: &'l Global,
    pub params: Vec<u8>,
    pub grid: [u32; 3],
    pub threads: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_shared_bytes: u32,
    /// Number of the launch in the records of memory.
    pub epoch: u8,
    /// Launches that may still run until `griddepcontrol.wait`.
    pub unfinished: &'l [u8],
    /// Launches that may still run even then.
    pub unawaited: &'l [u8],
    pub progress: Progress,
    pub seed: u64,
    /// Warp instructions that one cluster may execute.
    pub instruction_limit: u64,
    pub workers: usize,
}

/// What the next launch must know about this one.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    waited: AtomicBool,
    waited_before_trigger: AtomicBool,
}

impl Progress {
    /// A thread has executed `griddepcontrol.wait`; its block may have let dependents start before.
    pub fn wait(&self, triggered: bool) {
        self.waited.store(true, Relaxed);
        if !triggered {
            self.waited_before_trigger.store(true, Relaxed);
        }
    }

    /// Whether the launches before this one were complete when it was, and when the next one could start.
    pub fn get(&self) -> [bool; 2] {
        [self.waited.load(Relaxed), self.waited_before_trigger.load(Relaxed)]
    }
}

/// A block.
#[derive(Debug)]
pub(crate) struct Block<'l> {
    pub shared: Shared,
    pub barriers: Vec<Barrier>,
    /// By offset in shared memory.
    pub mbarriers: HashMap<usize, Mbarrier>,
    /// `griddepcontrol.launch_dependents` was executed.
    pub triggered: bool,
    pub agent: Agent<'l>,
    /// Warps of the block, and those that have not exited.
    pub warps: u32,
    pub live: u32,
    pub index: [u32; 3],
    /// When others last accessed its shared memory: warps of other blocks, and copies.
    pub visits: Knowledge,
}

/// Warp instructions in a turn of a warp, and after which a cluster that does not end lets another one start beside it.
const SLICE: u32 = 256;
const PATIENCE: u64 = 1 << 20;
/// Clusters that a worker runs by turns.
const MAX_RESIDENT: usize = 64;

fn volume(e: [u32; 3]) -> u64 {
    e.iter().map(|n| u64::from(*n)).product()
}

/// A trap and the cluster that it happened in.
type Stopped = (u64, Box<Trap>);

/// Runs the grid; the counts, or the trap of the lowest block that trapped.
pub(crate) fn run(context: &Context) -> Result<Counters, Box<Trap>> {
    let clusters = volume(context.grid) / volume(context.cluster);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let outcome: Mutex<(Counters, Option<Stopped>)> = Mutex::default();
    let worker = || {
        let mut counters = Counters::default();
        if let Err((cluster, trap)) = work(context, clusters, &next, &stop, &mut counters) {
            stop.store(true, Relaxed);
            let mut outcome = outcome.lock().unwrap_or_else(|e| e.into_inner());
            if outcome.1.as_ref().is_none_or(|(other, _)| cluster < *other) {
                outcome.1 = Some((cluster, trap));
            }
        }
        outcome.lock().unwrap_or_else(|e| e.into_inner()).0.add(&counters);
    };
    let workers = context.workers.min(clusters as usize);
    std::thread::scope(|scope| {
        (1..workers).for_each(|_| drop(scope.spawn(worker)));
        worker();
    });
    match outcome.into_inner().unwrap_or_else(|e| e.into_inner()) {
        (_, Some((_, trap))) => Err(trap),
        (counters, None) => Ok(counters),
    }
}

/// Takes clusters until there are none. One that waits for another's memory does not end, so after a while others run beside it.
fn work<'l>(
    context: &Context<'l>,
    clusters: u64,
    next: &AtomicU64,
    stop: &AtomicBool,
    counters: &mut Counters,
) -> Result<(), Stopped> {
    let mut resident: std::collections::VecDeque<Cluster<'l>> = Default::default();
    let mut patience = 0;
    while !stop.load(Relaxed) {
        let room = resident.is_empty() || patience >= PATIENCE && resident.len() < MAX_RESIDENT;
        if room {
            patience = 0;
            let index = next.fetch_add(1, Relaxed);
            if index < clusters {
                resident.push_front(Cluster::new(context, index));
            }
        }
        let Some(mut cluster) = resident.pop_front() else { return Ok(()) };
        match cluster.turn(context) {
            Ok(true) => cluster.warps.iter().for_each(|w| counters.add(&w.counts())),
            Ok(false) => {
                patience += u64::from(SLICE);
                resident.push_back(cluster);
            }
            Err(trap) => return Err((cluster.index, trap)),
        }
    }
    Ok(())
}

/// Blocks that run together.
struct Cluster<'l> {
    index: u64,
    blocks: Vec<Block<'l>>,
    warps: Vec<Warp>,
    clocks: Clocks,
    barrier: ClusterBarrier,
    events: Vec<Event>,
    turns: u64,
    executed: u64,
    random: u64,
}

impl<'l> Cluster<'l> {
    fn new(context: &Context<'l>, index: u64) -> Self {
        let c = context.cluster;
        let along = [context.grid[0] / c[0], context.grid[1] / c[1]];
        let (x, y) = (index % u64::from(along[0]), index / u64::from(along[0]));
        let corner = [x as u32, (y % u64::from(along[1])) as u32, (y / u64::from(along[1])) as u32];
        let blocks = volume(c) as u32;
        let warps = (volume(context.threads) as u32).div_ceil(32);
        let clocks = Clocks::new((blocks * warps) as usize);
        let bytes = context.kernel.dynamic_offset() + context.dynamic_shared_bytes;
        let block = |rank: u32| {
            let within = [rank % c[0], rank / c[0] % c[1], rank / c[0] / c[1]];
            let index: [u32; 3] = std::array::from_fn(|n| corner[n] * c[n] + within[n]);
            let linear = u64::from(index[0])
                + u64::from(context.grid[0]) * (u64::from(index[1]) + u64::from(context.grid[1]) * u64::from(index[2]));
            let agent = Agent {
                block: linear as u32 + 1,
                epoch: context.epoch,
                unfinished: context.unfinished,
                unawaited: context.unawaited,
                known: Known::default(),
            };
            let barriers = (0..crate::exec::BARRIERS).map(|_| Barrier::new(clocks.actors())).collect();
            let (mbarriers, triggered) = (HashMap::new(), false);
            let (shared, visits) = (Shared::new(bytes), Knowledge::new(clocks.actors()));
            Block { shared, barriers, mbarriers, triggered, agent, warps, live: warps, index, visits }
        };
        let blocks: Vec<Block> = (0..blocks).map(block).collect();
        let (barrier, random) = (ClusterBarrier::new(clocks.actors()), context.seed ^ index << 32);
        let (warps_of, events) = (vec![], vec![]);
        let mut cluster =
            Cluster { index, blocks, warps: warps_of, clocks, barrier, events, turns: 0, executed: 0, random };
        for rank in 0..cluster.blocks.len() {
            for warp in 0..warps {
                cluster.warps.push(cluster.warp(context, rank, warp, corner));
            }
        }
        cluster
    }

    fn warp(&self, context: &Context, rank: usize, warp: u32, corner: [u32; 3]) -> Warp {
        let count = volume(context.threads) as u32;
        let left = count - 32 * warp;
        let live = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
        let place = Preloaded { context, block: self.blocks[rank].index, rank: rank as u32, warp, corner };
        let actor = (rank as u32 * self.blocks[rank].warps + warp) as Actor;
        Warp::new(
            place.registers(),
            live,
            warp,
            actor,
            rank,
            context.unfinished.is_empty() && context.unawaited.is_empty(),
        )
    }

    /// The next of a sequence of pseudo-random numbers (SplitMix64).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// One turn for every warp, from a random one on; true if all have exited.
    fn turn(&mut self, context: &Context<'l>) -> Result<bool, Box<Trap>> {
        let (count, first) = (self.warps.len(), self.random() as usize);
        self.turns += 1;
        self.arrivals(context)?;
        let (mut moved, mut alive) = (false, false);
        for n in 0..count {
            let random = self.random();
            let mut warps = std::mem::take(&mut self.warps);
            let result = self.run_warp(context, &mut warps[(first % count + n) % count], random);
            self.warps = warps;
            let (step, did) = result?;
            moved |= did;
            alive |= step != Step::Exited;
        }
        if !alive {
            return Ok(true);
        }
        if !moved {
            // only a copy can help
            match self.events.iter().map(|e| e.due).min() {
                Some(due) => self.turns = self.turns.max(due - 1),
                None => return Err(self.stuck(context, TrapKind::Deadlock, "every warp waits")),
            }
        }
        if self.executed > context.instruction_limit {
            return Err(self.stuck(context, TrapKind::Runaway, "the limit of instructions is exceeded"));
        }
        Ok(false)
    }

    fn machine<'m>(&'m mut self, context: &'m Context<'l>, random: u64) -> Machine<'m, 'l> {
        let Cluster { blocks, clocks, barrier, events, turns, .. } = self;
        Machine { context, blocks, clocks, barrier, events, random, turn: *turns }
    }

    /// Bulk copies that are due arrive.
    fn arrivals(&mut self, context: &Context<'l>) -> Result<(), Box<Trap>> {
        let turns = self.turns;
        let due: Vec<Event> = self.events.extract_if(.., |e| e.due <= turns).collect();
        for event in due {
            let result = land(&event, &mut self.machine(context, 0));
            let warp = &self.warps[usize::from(event.actor)];
            result.map_err(|fault| trap(context, &self.blocks, warp, event.pc, *fault))?;
        }
        Ok(())
    }

    /// The turn of one warp: where it stopped, and whether it did anything.
    fn run_warp(&mut self, context: &Context<'l>, warp: &mut Warp, random: u64) -> Result<(Step, bool), Box<Trap>> {
        if warp.live == 0 {
            return Ok((Step::Exited, false));
        }
        let before = warp.counters.warp_instructions;
        let result = warp.run(&mut self.machine(context, random), SLICE);
        self.executed += warp.counters.warp_instructions - before;
        let (step, left) = result.map_err(|fault| trap(context, &self.blocks, warp, warp.pc(), *fault))?;
        if step == Step::Exited {
            let block = &mut self.blocks[warp.block];
            block.live -= 1;
            let (clocks, live) = (&mut self.clocks, block.live);
            block.barriers.iter_mut().for_each(|b| b.complete_if_all(clocks, live));
            self.barrier.leave(warp.actor);
            self.barrier.advance(self.blocks.iter().map(|b| b.live).sum());
        }
        Ok((step, left < SLICE || step == Step::Exited))
    }

    fn stuck(&self, context: &Context, kind: TrapKind, what: &str) -> Box<Trap> {
        let alive = || self.warps.iter().filter(|w| w.live != 0);
        let list: Vec<String> = alive()
            .take(8)
            .map(|w| {
                format!(
                    "warp {} of block {} at line {}: {}",
                    w.index,
                    w.block,
                    context.kernel.code[w.pc()].line,
                    w.stands_at()
                )
            })
            .collect();
        let more = if alive().count() > 8 { "; and more" } else { "" };
        let message = format!("{what}: {}{more}", list.join("; "));
        let first = alive().next().unwrap_or(&self.warps[0]);
        trap(context, &self.blocks, first, first.pc(), Fault { kind, lane: None, message })
    }
}

fn trap(context: &Context, blocks: &[Block], warp: &Warp, pc: usize, fault: Fault) -> Box<Trap> {
    let inst = &context.kernel.code[pc];
    let text = context.text[inst.text.clone()].split_whitespace().collect::<Vec<_>>().join(" ");
    Box::new(Trap {
        kind: fault.kind,
        message: fault.message,
        kernel: context.kernel.name.clone(),
        line: inst.line,
        text,
        cta: blocks[warp.block].index,
        warp: warp.index,
        lane: fault.lane,
    })
}

/// What a warp's constant registers hold.
struct Preloaded<'p, 'l> {
    context: &'p Context<'l>,
    block: [u32; 3],
    rank: u32,
    warp: u32,
    corner: [u32; 3],
}

impl Preloaded<'_, '_> {
    fn registers(&self) -> Registers {
        let kernel = self.context.kernel;
        let mut regs = Registers::new(kernel.files, kernel.uses_wgmma);
        for (reg, preset) in &kernel.presets32 {
            regs.set_short(*reg, u32::MAX, &std::array::from_fn(|lane| self.value(*preset, lane as u32) as u32));
        }
        for (reg, preset) in &kernel.presets64 {
            regs.set_long(*reg, u32::MAX, &std::array::from_fn(|lane| self.value(*preset, lane as u32)));
        }
        for (reg, value) in &kernel.presets_pred {
            regs.set_pred(*reg, u32::MAX, if *value { u32::MAX } else { 0 });
        }
        regs
    }

    fn value(&self, preset: Preset, lane: u32) -> u64 {
        match preset {
            Preset::Value(v) => v,
            Preset::Shared(offset) => u64::from(SHARED_BASE + offset),
            Preset::Dynamic(offset) => u64::from(SHARED_BASE + self.context.kernel.dynamic_offset() + offset),
            Preset::Special(special) => self.special(special, lane).into(),
        }
    }

    fn special(&self, special: Special, lane: u32) -> u32 {
        let c = self.context;
        let thread = 32 * self.warp + lane;
        let clusters = |n: u8| c.grid[usize::from(n)] / c.cluster[usize::from(n)];
        match special {
            Special::Tid(0) => thread % c.threads[0],
            Special::Tid(1) => thread / c.threads[0] % c.threads[1],
            Special::Tid(_) => thread / c.threads[0] / c.threads[1],
            Special::Ntid(n) => c.threads[usize::from(n)],
            Special::Ctaid(n) => self.block[usize::from(n)],
            Special::Nctaid(n) => c.grid[usize::from(n)],
            Special::LaneId => lane,
            Special::WarpId => self.warp,
            Special::SmId => 0,
            Special::GridId => c.epoch.into(),
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskLe => u32::MAX >> (31 - lane),
            Special::LaneMaskGt => (u32::MAX << lane) << 1,
            Special::LaneMaskGe => u32::MAX << lane,
            Special::ClusterCtaid(n) => self.block[usize::from(n)] % c.cluster[usize::from(n)],
            Special::ClusterNctaid(n) => c.cluster[usize::from(n)],
            Special::ClusterId(n) => self.corner[usize::from(n)],
            Special::NclusterId(n) => clusters(n),
            Special::ClusterCtarank => self.rank,
            Special::ClusterNctarank => c.cluster.iter().product(),
            Special::DynamicSharedBytes => c.dynamic_shared_bytes,
        }
    }
}
