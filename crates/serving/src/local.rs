//! A local runtime's workers: threads that each own an engine, over one [`Scheduler`]. What a job is made of and what
//! becomes of its answer is the caller's; how long it waits and with whom it lies in a batch is the scheduler's.
//!
//! A worker that panics, or stands still, costs nobody an answer: its jobs are taken by another, once, and whichever answer
//! comes first is the one that counts, and that is billed. One text that an engine fails at does not fail those beside it.

mod engines;
mod gather;
#[cfg(test)]
mod tests;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tollgate_runtime::encoder::Tokens;
use tollgate_runtime::head::Head;
use tollgate_types::{Clock, TenantId, Timestamp};

use crate::schedule::{Batching, Offer, Priority, Scheduler, Settings, State, Ticket, Why};

pub use engines::{EncoderEngine, HashedEngine};
pub use gather::{Answer, Failure};

use gather::Gather;
use worker::{Running, Worker};

/// What does the work, one to a thread.
pub trait Engine: Send {
    /// Does all of a batch: an output for each, in order, and the CPU time that all of it took.
    fn run(&mut self, works: &[&Work]) -> Result<(Vec<Output>, Duration), EngineFailed>;
}

/// Makes an engine, whenever a worker needs one.
pub type Maker = Box<dyn Fn() -> Box<dyn Engine> + Send + Sync>;

/// One thing to be worked on.
#[derive(Clone, Debug)]
pub enum Work {
    /// For the hashed runtime: into a vector, or with a head into probabilities.
    Text { text: String, head: Option<Arc<Head>> },
    /// For an encoder: into a vector.
    Tokens(Tokens),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Vector(Vec<f32>),
    /// In the order of the head's labels.
    Probabilities(Vec<f32>),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the engine failed: {0}")]
pub struct EngineFailed(pub String);

/// How a pool is laid out.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// For threads' names and the log.
    pub name: String,
    /// Threads, each with an engine of its own.
    pub instances: usize,
    pub batching: Batching,
    pub batch_tokens_max: u32,
    /// Of all tenants together.
    pub queue_tokens_max: u64,
    pub queue_items_max: usize,
    /// Of one tenant.
    pub tenant_tokens_max: u64,
    pub tenant_items_max: usize,
    /// A batch that takes longer than this, and twenty times what was predicted, is taken from its worker.
    pub stall: Duration,
}

/// What somebody wants done: all of it or none.
#[derive(Debug)]
pub struct Question {
    pub tenant: TenantId,
    /// The tenant's share of the workers, beside others'.
    pub weight: u32,
    pub priority: Priority,
    /// Within this time it should be done.
    pub goal: Duration,
    /// After this there is no use in it.
    pub deadline: Option<Timestamp>,
    /// In no batch with other tenants.
    pub alone: bool,
    pub items: Vec<Item>,
}

#[derive(Debug)]
pub struct Item {
    /// What the cost model counts: tokens, or what stands for them.
    pub tokens: u32,
    pub work: Work,
}

/// It was not taken: come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    pub why: Why,
    pub retry_after: Option<Duration>,
}

/// Threads and the queue before them.
pub struct Pool {
    shared: Arc<Shared>,
    /// What it took to be ready.
    pub warmth: Warmth,
}

/// What the first answers of a pool took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warmth {
    /// From the first thread's start to the last one's being ready.
    pub ready: Duration,
    /// The slowest first answer.
    pub first: Duration,
    /// The slowest of the answers to the same afterwards.
    pub warm: Duration,
}

/// What a pool has done so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub batches: AtomicU64,
    pub items: AtomicU64,
    /// CPU time of its workers, in microseconds.
    pub cpu_us: AtomicU64,
    /// Batches of at most so many items, by [`BATCH_SIZES`].
    pub by_size: [AtomicU64; BATCH_SIZES.len()],
}

/// Bounds of the sizes that batches are counted by.
pub const BATCH_SIZES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, usize::MAX];

/// Answers that are being worked on. What still waits when this is dropped is never worked on.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
    gather: Arc<Gather>,
    tickets: Vec<Ticket>,
    done: tokio::sync::oneshot::Receiver<()>,
}

/// What the threads share.
struct Shared {
    layout: Layout,
    clock: Clock,
    maker: Maker,
    warming: Vec<Item>,
    inner: Mutex<Inner>,
    /// There may be something to do.
    work: Condvar,
    /// Something about the workers changed: for who watches them.
    watch: Condvar,
    /// Workers that panicked or stood still so far.
    lost: AtomicU64,
    done: Tally,
}

struct Inner {
    scheduler: Scheduler<Arc<Job>>,
    running: Vec<Running>,
    /// Threads that work, or could.
    alive: usize,
    /// Workers that stood still or died, and were replaced.
    replaced: u64,
    closed: bool,
}

/// One item on its way.
#[derive(Debug)]
struct Job {
    work: Work,
    offer: Offer,
    gather: Arc<Gather>,
    index: usize,
    tries: AtomicU64,
}

/// A worker that stood still is replaced; so often at most in the life of a pool.
const REPLACEMENTS_MAX: u64 = 64;
/// An item is worked on again so often at most after its worker was lost.
const RETRIES: u64 = 1;
/// How often somebody looks whether a worker stands still.
const WATCH_EVERY: Duration = Duration::from_millis(250);

// === impl Pool ===

impl Pool {
    /// Starts the threads, and returns once each has loaded, run and measured its engine: `warming` are the items it is run
    /// with, best of several lengths.
    pub fn start(layout: Layout, clock: Clock, maker: Maker, warming: Vec<Item>) -> Result<Self, EngineFailed> {
        let instances = layout.instances.max(1);
        let scheduler = Scheduler::new(layout.settings());
        let running = (0..instances).map(|_| Running::default()).collect();
        let inner = Inner { scheduler, running, alive: 0, replaced: 0, closed: false };
        let shared = Arc::new(Shared {
            layout,
            clock,
            maker,
            warming,
            inner: Mutex::new(inner),
            work: Condvar::new(),
            watch: Condvar::new(),
            lost: AtomicU64::new(0),
            done: Tally::default(),
        });
        // From here on: whatever goes wrong, the threads there are end when this is dropped.
        let mut pool = Self { shared: Arc::clone(&shared), warmth: Warmth::default() };
        let (ready, told) = mpsc::channel();
        let since = tollgate_types::clock::Stopwatch::start();
        for worker in 0..instances {
            shared.spawn(worker, 0, Some(ready.clone()))?;
        }
        drop(ready);
        for _ in 0..instances {
            let (first, warm) = told.recv().map_err(|_| EngineFailed("a worker died before it was ready".into()))??;
            pool.warmth.first = pool.warmth.first.max(first);
            pool.warmth.warm = pool.warmth.warm.max(warm);
        }
        pool.warmth.ready = since.elapsed();
        let watcher = Arc::clone(&shared);
        let name = format!("{}-watch", shared.layout.name);
        let thread = thread::Builder::new().name(name).spawn(move || watcher.watch_workers());
        // It ends with the pool; nobody waits for it, nor for a worker.
        thread.map_err(|error| EngineFailed(error.to_string()))?;
        Ok(pool)
    }

    /// Takes all of it into the queue, or none.
    pub fn ask(&self, question: Question) -> Result<Pending, Turned> {
        self.shared.ask(question)
    }

    /// Whether so many items, of about `tokens` together, would be taken now; nothing is.
    pub fn would_take(&self, question: &Question, tokens: u32, items: usize) -> Result<(), Turned> {
        let now = self.shared.clock.steady();
        let would = self.shared.lock().scheduler.would_take(now, &question.offer(tokens), items);
        would.map_err(|(why, retry_after)| Turned { why, retry_after })
    }

    pub fn state(&self) -> State {
        self.shared.lock().scheduler.state(self.shared.clock.steady())
    }

    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub fn done(&self) -> &Tally {
        &self.shared.done
    }

    /// Workers that panicked or stood still so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Pool {
    /// What is queued is still worked on; the threads end after that. Nobody waits for one that stands still.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.watch.notify_all();
    }
}

// === impl Tally ===

impl Tally {
    fn add(&self, items: usize, cpu: Duration) {
        let count = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        count(&self.batches, 1);
        count(&self.items, items as u64);
        count(&self.cpu_us, u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX));
        if let Some(slot) = BATCH_SIZES.iter().position(|most| items <= *most) {
            count(&self.by_size[slot], 1);
        }
    }
}

// === impl Item ===

impl Item {
    pub fn of_tokens(tokens: Tokens) -> Self {
        Self { tokens: u32::try_from(tokens.ids().len()).unwrap_or(u32::MAX), work: Work::Tokens(tokens) }
    }
}

// === impl Layout ===

impl Layout {
    fn settings(&self) -> Settings {
        Settings {
            workers: self.instances.max(1),
            batching: self.batching,
            batch_tokens_max: self.batch_tokens_max,
            queue_tokens_max: self.queue_tokens_max,
            queue_items_max: self.queue_items_max,
            tenant_tokens_max: self.tenant_tokens_max,
            tenant_items_max: self.tenant_items_max,
            ..Settings::default()
        }
    }
}

// === impl Question ===

impl Question {
    fn offer(&self, tokens: u32) -> Offer {
        Offer {
            tenant: self.tenant.clone(),
            weight: self.weight,
            priority: self.priority,
            tokens,
            goal: self.goal,
            deadline: self.deadline,
            alone: self.alone,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// A panic of an engine is caught before it gets here: whoever held the lock left what it holds whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(
        self: &Arc<Self>,
        worker: usize,
        epoch: u64,
        ready: Option<mpsc::Sender<Result<(Duration, Duration), EngineFailed>>>,
    ) -> Result<(), EngineFailed> {
        let name = format!("{}-{worker}", self.layout.name);
        let (shared, working) = (Arc::clone(self), Worker::new(Arc::clone(self), worker, epoch));
        self.lock().alive += 1;
        let thread = thread::Builder::new().name(name).spawn(move || {
            // What an engine panics with is caught where it is run; what gets here is a fault of ours.
            if catch_unwind(AssertUnwindSafe(|| working.run(ready))).is_err() {
                tracing::error!(pool = shared.layout.name, worker, "a worker died");
                shared.died(worker, epoch);
            }
        });
        thread.map(|_| ()).map_err(|error| {
            self.lock().alive -= 1;
            EngineFailed(error.to_string())
        })
    }

    fn ask(self: &Arc<Self>, question: Question) -> Result<Pending, Turned> {
        let (gather, done) = Gather::of(question.items.len());
        let gather = Arc::new(gather);
        let offer = question.offer(0);
        let job = |(index, item): (usize, Item)| {
            let offer = Offer { tokens: item.tokens, ..offer.clone() };
            let (gather, tries) = (Arc::clone(&gather), AtomicU64::new(0));
            (item.tokens, Arc::new(Job { work: item.work, offer, gather, index, tries }))
        };
        let jobs: Vec<_> = question.items.into_iter().enumerate().map(job).collect();
        let mut inner = self.lock();
        if inner.alive == 0 {
            return Err(Turned { why: Why::Overloaded, retry_after: None });
        }
        let offered = inner.scheduler.offer_all(self.clock.steady(), &offer, jobs);
        drop(inner);
        let tickets = offered.map_err(|(why, retry_after, _)| Turned { why, retry_after })?;
        match tickets.len() {
            1 => self.work.notify_one(),
            _ => self.work.notify_all(),
        }
        Ok(Pending { shared: Arc::clone(self), gather, tickets, done })
    }

    /// Looks whether a worker stands still, until the pool is closed and has nothing to do.
    fn watch_workers(self: &Arc<Self>) {
        let mut inner = self.lock();
        loop {
            let is_idle = inner.running.iter().all(|running| running.batch.is_none());
            if inner.closed && is_idle {
                return;
            }
            let now = self.clock.steady();
            let stalled: Vec<usize> = (0..inner.running.len())
                .filter(|worker| inner.running[*worker].is_stalled(now, self.layout.stall))
                .collect();
            for worker in stalled {
                inner = self.replace(inner, worker, now);
            }
            let waited = self.watch.wait_timeout(inner, WATCH_EVERY);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes its batch from a worker that stands still, and has another thread go on in its place.
    fn replace<'a>(
        self: &'a Arc<Self>,
        mut inner: MutexGuard<'a, Inner>,
        worker: usize,
        now: Timestamp,
    ) -> MutexGuard<'a, Inner> {
        let jobs = inner.running[worker].take();
        inner.running[worker].epoch += 1;
        let epoch = inner.running[worker].epoch;
        inner.scheduler.lost(now, worker);
        inner.alive -= 1;
        inner.replaced += 1;
        let is_replaced = inner.replaced <= REPLACEMENTS_MAX;
        drop(inner);
        self.lost.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            pool = self.layout.name,
            worker,
            jobs = jobs.len(),
            "a worker stands still: its work goes to another"
        );
        if !is_replaced {
            tracing::error!(pool = self.layout.name, "too many workers stood still: this one is not replaced");
        } else if let Err(error) = self.spawn(worker, epoch, None) {
            tracing::error!(pool = self.layout.name, %error, "a worker cannot be replaced");
        }
        // Only now: where nobody is left to do it, it ends.
        self.again(jobs);
        self.lock()
    }

    /// A thread ended that should not have: its work goes to another, and so does its place.
    fn died(self: &Arc<Self>, worker: usize, epoch: u64) {
        let inner = self.lock();
        if inner.running[worker].epoch == epoch && !inner.closed {
            drop(self.replace(inner, worker, self.clock.steady()));
        }
    }

    /// Puts jobs whose worker was lost into the queue again, or ends them.
    fn again(&self, jobs: Vec<Arc<Job>>) {
        let now = self.clock.steady();
        for job in jobs {
            let is_lost = job.tries.fetch_add(1, Ordering::Relaxed) >= RETRIES || self.lock().alive == 0;
            let taken = if is_lost { Err(job) } else { self.lock().scheduler.take_back(now, &job.offer.clone(), job) };
            if let Err(job) = taken {
                job.gather.put(job.index, Err(Failure::WorkerLost));
            }
        }
        self.work.notify_all();
    }
}

// === impl Pending ===

impl Pending {
    /// Every answer, in the order of the items; or the first failure.
    pub async fn answers(mut self) -> Result<Vec<Answer>, Failure> {
        self.done().await;
        self.gather.take()
    }

    /// What was done in the end, for who gives up: what waits is never begun, what is being worked on is waited for.
    pub async fn given_up(mut self) -> Vec<Answer> {
        self.cancel();
        self.done().await;
        self.gather.take_done()
    }

    /// Waits until all of it is done, or something has failed. It may be asked again.
    pub async fn done(&mut self) {
        if !self.gather.is_done() {
            // Whoever does the work holds the other end, and tells when the last item is done.
            let _ = (&mut self.done).await;
        }
    }

    fn cancel(&self) {
        let now = self.shared.clock.steady();
        let mut inner = self.shared.lock();
        let cancelled: Vec<_> = self.tickets.iter().filter_map(|ticket| inner.scheduler.cancel(now, *ticket)).collect();
        drop(inner);
        cancelled.iter().for_each(|job| job.gather.forget(job.index));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.gather.is_whole() {
            self.cancel();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("layout", &self.shared.layout).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("layout", &self.layout).finish_non_exhaustive()
    }
}
