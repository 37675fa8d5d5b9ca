//! A fixed team of threads that runs steps together: the calling thread is member 0, nothing is stolen or queued.
//!
//! Members wait at two gates: for the next batch, and for each other after every step. Waiting spins for some
//! microseconds, then parks, so that a foreign load on a core costs a wake-up instead of a time slice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread, park};

/// Rounds of spinning before a thread parks: some ten microseconds.
const SPIN_ROUNDS: u32 = 1000;

/// What the members of a batch run: `job(member, step)`.
type Job<'a> = dyn Fn(u32, usize) + Sync + 'a;

/// A team of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    members: u32,
    spin_rounds: u32,
    /// Number of batches started.
    started: Gate,
    /// Number of arrivals of members at the end of a step, over all batches.
    arrived: Gate,
    batch: Mutex<Batch>,
    stop: AtomicBool,
    panicked: AtomicBool,
}

#[derive(Clone, Copy)]
struct Batch {
    /// Valid until the last member has arrived at the end of the last step. A pointer, because a member still holds it
    /// for a moment after that.
    job: Option<*const Job<'static>>,
    steps: usize,
    /// Value of `arrived` before the batch.
    arrived_before: u64,
}

// SAFETY: the job is `Sync`, so that any thread may call it; when that is allowed, `Pool::run` sees to.
unsafe impl Send for Batch {}

/// A counter that threads can wait for.
struct Gate {
    value: AtomicU64,
    sleepers: Box<[Sleeper]>,
}

#[derive(Default)]
struct Sleeper {
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Gate {
    fn new(members: u32) -> Self {
        Self { value: AtomicU64::new(0), sleepers: (0..members).map(|_| Sleeper::default()).collect() }
    }

    /// Waits until the counter has reached `target`.
    fn wait(&self, member: u32, target: u64, spin_rounds: u32) {
        for _ in 0..spin_rounds {
            if self.value.load(SeqCst) >= target {
                return;
            }
            std::hint::spin_loop();
        }
        let sleeper = &self.sleepers[member as usize];
        loop {
            // The flag goes up before the last look at the counter, and the waker raises the counter before it looks
            // at the flag: one of the two sees the other.
            sleeper.asleep.store(true, SeqCst);
            if self.value.load(SeqCst) >= target {
                sleeper.asleep.store(false, SeqCst);
                return;
            }
            park();
        }
    }

    fn wake_all(&self) {
        for sleeper in &self.sleepers {
            if sleeper.asleep.swap(false, SeqCst)
                && let Some(thread) = lock(&sleeper.thread).as_ref()
            {
                thread.unpark();
            }
        }
    }

    fn register(&self, member: u32) {
        let mut thread = lock(&self.sleepers[member as usize].thread);
        let current = std::thread::current();
        if thread.as_ref().is_none_or(|t| t.id() != current.id()) {
            *thread = Some(current);
        }
    }
}

/// A mutex here guards plain values that are valid at any time, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Runs all steps of a batch as one member.
    fn take_part(&self, member: u32, batch: Batch) {
        let Some(job) = batch.job else { return };
        for step in 0..batch.steps {
            if !self.panicked.load(SeqCst) {
                let run = || {
                    // SAFETY: this member has not arrived at the end of the step yet, so the job is still there.
                    unsafe { (*job)(member, step) }
                };
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                if result.is_err() {
                    self.panicked.store(true, SeqCst);
                }
            }
            let target = batch.arrived_before + (step as u64 + 1) * u64::from(self.members);
            if self.arrived.value.fetch_add(1, SeqCst) + 1 == target {
                self.arrived.wake_all();
            } else {
                self.arrived.wait(member, target, self.spin_rounds);
            }
        }
    }

    fn work(&self, member: u32) {
        self.started.register(member);
        self.arrived.register(member);
        for round in 1.. {
            self.started.wait(member, round, self.spin_rounds);
            if self.stop.load(SeqCst) {
                return;
            }
            let batch = *lock(&self.batch);
            self.take_part(member, batch);
        }
    }
}

impl Pool {
    /// A team of `members` threads, the calling one included.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(members: u32) -> std::io::Result<Self> {
        let members = members.max(1);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let shared = Arc::new(Shared {
            members,
            // With more members than cores, whoever spins takes the core from whom he waits for.
            spin_rounds: if members > cores { 0 } else { SPIN_ROUNDS },
            started: Gate::new(members),
            arrived: Gate::new(members),
            batch: Mutex::new(Batch { job: None, steps: 0, arrived_before: 0 }),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for member in 1..members {
            let shared = pool.shared.clone();
            let name = format!("jet-{member}");
            pool.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.work(member))?);
        }
        Ok(pool)
    }

    /// Keeps each member but the calling thread on one processor.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pin(&self) -> std::io::Result<()> {
        crate::affinity::pin(&self.workers)
    }

    /// Number of members.
    pub fn members(&self) -> u32 {
        self.shared.members
    }

    /// Runs `job(member, step)` for all members and `0..steps`; a step starts when all members have left the one
    /// before.
    ///
    /// # Panics
    /// If a member panicked.
    pub fn run(&mut self, steps: usize, job: &Job<'_>) {
        if steps == 0 {
            // Nobody would arrive, so nobody could tell when the batch is over.
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Members use the job between the start and their arrival at the last
        // step, and this function returns after all of them have arrived; panics of members are caught before that.
        let job = unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) } as *const Job<'static>;
        let batch = Batch { job: Some(job), steps, arrived_before: shared.arrived.value.load(SeqCst) };
        if shared.members > 1 {
            shared.arrived.register(0);
            *lock(&shared.batch) = batch;
            shared.started.value.fetch_add(1, SeqCst);
            shared.started.wake_all();
        }
        shared.take_part(0, batch);
        assert!(!shared.panicked.swap(false, SeqCst), "a thread of the pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.started.value.fetch_add(1, SeqCst);
        self.shared.started.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs; nothing else in it can fail.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_member_runs_every_step_and_steps_do_not_overlap() {
        // More members than cores as well, so that parking is exercised.
        for members in [1, 2, 3, 8] {
            let mut pool = Pool::new(members).unwrap();
            let steps = 50;
            let counts: Vec<AtomicUsize> = (0..steps).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=20 {
                pool.run(steps, &|_, step| {
                    if step > 0 {
                        assert_eq!(counts[step - 1].load(SeqCst), round * members as usize);
                    }
                    counts[step].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|c| c.load(SeqCst) == round * members as usize));
            }
        }
    }

    #[test]
    fn a_pool_serves_whoever_calls_it_and_survives_idle_times() {
        let mut pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        let add = |member: u32, step: usize| {
            sum.fetch_add(1 + member as usize + step, SeqCst);
        };
        pool.run(2, &add);
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::thread::scope(|s| s.spawn(|| pool.run(2, &add)).join().unwrap());
        assert_eq!(sum.load(SeqCst), 2 * (1 + 2 + 2 + 3));
    }

    #[test]
    fn a_panic_in_a_member_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        let bad = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(3, &|member, step| assert!((member, step) != (2, 1), "on purpose"));
        }));
        assert!(bad.is_err());
        let count = AtomicUsize::new(0);
        pool.run(1, &|_, _| {
            count.fetch_add(1, SeqCst);
        });
        assert_eq!(count.load(SeqCst), 3);
    }
}
