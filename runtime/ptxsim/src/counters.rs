//! What a launch did, counted: the nearest thing to a profile without a GPU.

/// Kinds of memory that counts are kept for; which is which is up to the caller of `Device::label`.
pub const LABELS: usize = 4;

/// What lanes and asynchronous copies did to the ranges of one label. A copy to several blocks of a cluster reads its source once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Requests of warps, and bulk copies.
    pub requests: u64,
    /// Bytes that they asked to read, each as often as it was asked for by a lane.
    pub bytes_read: u64,
    /// Bytes that they wrote.
    pub bytes_written: u64,
    /// Bytes of the sectors of 32 bytes that the requests to read touched: what moves between memory and a multiprocessor.
    pub sector_bytes_read: u64,
    /// The same of requests to write.
    pub sector_bytes_written: u64,
}

impl Traffic {
    /// One request that reads `bytes` in a row.
    pub(crate) fn read_range(at: u64, bytes: u32) -> Traffic {
        let sector_bytes_read = sector_bytes(at, bytes);
        Traffic { requests: 1, bytes_read: bytes.into(), sector_bytes_read, ..Traffic::default() }
    }

    /// One request that writes `bytes` in a row.
    pub(crate) fn written_range(at: u64, bytes: u32) -> Traffic {
        let sector_bytes_written = sector_bytes(at, bytes);
        Traffic { requests: 1, bytes_written: bytes.into(), sector_bytes_written, ..Traffic::default() }
    }

    /// Adds the counts of another part.
    pub fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.sector_bytes_read += other.sector_bytes_read;
        self.sector_bytes_written += other.sector_bytes_written;
    }
}

/// Bytes of the sectors that `bytes` from `at` on touch.
fn sector_bytes(at: u64, bytes: u32) -> u64 {
    32 * (at.saturating_add(bytes.into()).div_ceil(32) - at / 32)
}

/// Counts of one launch, over all threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Instructions issued by warps.
    pub warp_instructions: u64,
    /// Instructions executed by lanes (a warp instruction counts as many as its lanes that are not masked out).
    pub lane_instructions: u64,
    /// Bytes that lanes and asynchronous copies read from global memory.
    pub global_bytes_read: u64,
    /// Bytes that lanes and asynchronous copies wrote to global memory.
    pub global_bytes_written: u64,
    /// Requests of warps to global memory (`ld`, `st`, `cp.async`, `atom`, `red`).
    pub global_requests: u64,
    /// Sectors of 32 bytes that those requests touched; divided by the requests it tells how coalesced they are.
    pub global_sectors: u64,
    /// Requests of warps to shared memory (`ld`, `st`).
    pub shared_requests: u64,
    /// Passes over the 32 banks that those requests needed beyond those that their size asks for.
    pub bank_conflicts: u64,
    /// Tile products: `mma.sync` by a warp, `wgmma.mma_async` by a warp.
    pub tile_products: u64,
    /// Multiplications and additions in those products, counted as two each.
    pub tile_flops: u64,
    /// The most global loads that one warp had issued before an instruction used the result of any of them.
    pub loads_in_flight: u64,
    /// The most bytes of asynchronous copies (`cp.async`) that one warp had in flight.
    pub copy_bytes_in_flight: u64,
    /// Bytes that asynchronous copies (`cp.async`) read before their lanes executed `griddepcontrol.wait`.
    pub copy_bytes_before_wait: u64,
    /// Accesses to global memory by the label of the range; atomics are not among them.
    pub traffic: [Traffic; LABELS],
}

impl Counters {
    /// Adds the counts of another part of the same launch, or of another launch.
    pub fn add(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.global_bytes_read += other.global_bytes_read;
        self.global_bytes_written += other.global_bytes_written;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.shared_requests += other.shared_requests;
        self.bank_conflicts += other.bank_conflicts;
        self.tile_products += other.tile_products;
        self.tile_flops += other.tile_flops;
        self.loads_in_flight = self.loads_in_flight.max(other.loads_in_flight);
        self.copy_bytes_in_flight = self.copy_bytes_in_flight.max(other.copy_bytes_in_flight);
        self.copy_bytes_before_wait += other.copy_bytes_before_wait;
        self.traffic.iter_mut().zip(&other.traffic).for_each(|(a, b)| a.add(b));
    }

    /// Counts a request of one warp for `bytes` at each of the addresses in `lanes`; gives the bytes of the sectors.
    pub(crate) fn global_request(&mut self, lanes: impl Iterator<Item = u64>, bytes: u64) -> u64 {
        self.global_requests += 1;
        let mut sectors: [u64; 64] = [u64::MAX; 64];
        let mut count = 0;
        for at in lanes {
            for sector in at / 32..=at.saturating_add(bytes - 1) / 32 {
                // neighbours are the common case
                if count > 0 && sectors[count - 1] == sector || sectors[..count].contains(&sector) {
                    continue;
                }
                sectors[count] = sector;
                count += 1;
            }
        }
        self.global_sectors += count as u64;
        32 * count as u64
    }

    /// Counts a request to shared memory: lanes are served in groups that together ask for 128 bytes.
    pub(crate) fn shared_request(&mut self, lanes: &[u64; 32], mask: u32, bytes: u64) {
        self.shared_requests += 1;
        let group = (128 / bytes.max(4)) as usize;
        for first in (0..32).step_by(group) {
            let mut words = [[u64::MAX; 32]; 32];
            let mut used = [0usize; 32];
            for lane in (first..first + group).filter(|lane| mask >> lane & 1 == 1) {
                for word in lanes[lane] / 4..lanes[lane].saturating_add(bytes).div_ceil(4) {
                    let bank = (word % 32) as usize;
                    if !words[bank][..used[bank]].contains(&word) {
                        words[bank][used[bank]] = word;
                        used[bank] += 1;
                    }
                }
            }
            let passes = used.iter().max().copied().unwrap_or(0);
            self.bank_conflicts += passes.saturating_sub(1) as u64;
        }
    }
}
