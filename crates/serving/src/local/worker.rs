//! One thread: warms its engine, then takes batches until the pool is closed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tollgate_types::Timestamp;
use tollgate_types::clock::Stopwatch;

use super::gather::{Answer, Failure};
use super::{Engine, EngineFailed, Inner, Job, Output, Shared, Work};
use crate::schedule::{Batch, Finished, Turn};

/// What a worker is doing.
#[derive(Debug, Default)]
pub struct Running {
    /// Which thread is this worker now: one that stood still is another's when it comes back.
    pub epoch: u64,
    pub batch: Option<Begun>,
}

#[derive(Debug)]
pub struct Begun {
    since: Timestamp,
    predicted: Duration,
    jobs: Vec<Arc<Job>>,
}

pub struct Worker {
    shared: Arc<Shared>,
    number: usize,
    epoch: u64,
}

/// What a batch may take beyond what was predicted before its worker is taken to stand still, beside the pool's own bound.
const STALL_FACTOR: u32 = 20;
/// How often each size of batch is measured at the start.
const CALIBRATION_ROUNDS: usize = 3;

// === impl Running ===

impl Running {
    pub fn is_stalled(&self, now: Timestamp, stall: Duration) -> bool {
        let Some(begun) = &self.batch else { return false };
        now.since(begun.since) > stall.max(begun.predicted.saturating_mul(STALL_FACTOR))
    }

    /// Ends what it is doing, and gives its jobs.
    pub fn take(&mut self) -> Vec<Arc<Job>> {
        self.batch.take().map(|begun| begun.jobs).unwrap_or_default()
    }
}

// === impl Worker ===

type Ready = mpsc::Sender<Result<(Duration, Duration), EngineFailed>>;

impl Worker {
    pub fn new(shared: Arc<Shared>, number: usize, epoch: u64) -> Self {
        Self { shared, number, epoch }
    }

    pub fn run(self, ready: Option<Ready>) {
        let mut engine = (self.shared.maker)();
        let warmed = self.warm(&mut *engine);
        if let Some(ready) = ready {
            let failed = warmed.is_err();
            // Whoever started the pool has given up on it.
            let unheard = ready.send(warmed).is_err();
            if failed || unheard {
                return;
            }
        } else if let Err(error) = warmed {
            tracing::error!(pool = self.shared.layout.name, worker = self.number, %error, "a new worker does not work");
        }
        self.work(engine);
    }

    /// Runs batches of several sizes, and teaches the cost model what they took. Gives what the first answer took, and what
    /// the same took afterwards.
    fn warm(&self, engine: &mut dyn Engine) -> Result<(Duration, Duration), EngineFailed> {
        let items = &self.shared.warming;
        let Some(shortest) = items.first() else { return Ok(Default::default()) };
        let first = timed(engine, &[&shortest.work])?;
        let warm = timed(engine, &[&shortest.work])?;
        let mut points = Vec::new();
        for _ in 0..CALIBRATION_ROUNDS {
            for until in 1..=items.len() {
                let works: Vec<&Work> = items[..until].iter().map(|item| &item.work).collect();
                let tokens = items[..until].iter().fold(0u32, |sum, item| sum.saturating_add(item.tokens));
                if tokens > self.shared.layout.batch_tokens_max && until > 1 {
                    break;
                }
                points.push((tokens, timed(engine, &works)?));
            }
        }
        self.shared.lock().scheduler.calibrate(self.number, &points);
        Ok((first, warm))
    }

    fn work(&self, mut engine: Box<dyn Engine>) {
        let mut inner = self.shared.lock();
        while inner.running[self.number].epoch == self.epoch {
            let now = self.shared.clock.steady();
            let next = inner.scheduler.next(now, self.number);
            for dropped in next.dropped {
                dropped.job.gather.put(dropped.job.index, Err(Failure::TooLate));
            }
            inner = match next.turn {
                Turn::Batch(batch) => self.batch(inner, &mut engine, batch, now),
                Turn::Idle if inner.closed => return,
                Turn::Idle => self.shared.work.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Turn::WaitUntil(at) => {
                    let waited = self.shared.work.wait_timeout(inner, at.since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn batch<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        engine: &mut Box<dyn Engine>,
        batch: Batch<Arc<Job>>,
        now: Timestamp,
    ) -> MutexGuard<'a, Inner> {
        let jobs: Vec<Arc<Job>> = batch.items.iter().map(|taken| Arc::clone(&taken.job)).collect();
        inner.running[self.number].batch = Some(Begun { since: now, predicted: batch.predicted, jobs: jobs.clone() });
        drop(inner);
        let works: Vec<&Work> = jobs.iter().map(|job| &job.work).collect();
        let wall = Stopwatch::start();
        let ran = caught(&mut **engine, &works);
        let took = wall.elapsed();

        let mut inner = self.shared.lock();
        let is_current = inner.running[self.number].epoch == self.epoch;
        if is_current {
            inner.running[self.number].batch = None;
            let now_done = self.shared.clock.steady();
            match &ran {
                Ran::Panicked => inner.scheduler.lost(now_done, self.number),
                _ => inner.scheduler.done(now_done, Finished { worker: self.number, batch: batch.id, took }),
            }
        }
        drop(inner);
        match ran {
            // Also of a worker that stood still so long that another has the same to do: the first answer counts.
            Ran::Done(outputs, cpu) => {
                self.shared.done.add(jobs.len(), cpu);
                self.answer(batch, outputs, cpu, now);
            }
            Ran::Failed(why) if jobs.len() > 1 => {
                tracing::warn!(
                    pool = self.shared.layout.name,
                    jobs = jobs.len(),
                    why,
                    "a batch failed: each alone now"
                );
                jobs.iter().zip(&batch.items).for_each(|(job, taken)| {
                    let waited = now.since(taken.arrived);
                    self.alone(engine, job, u64::from(taken.tokens), waited);
                });
            }
            Ran::Failed(why) => {
                jobs.iter().for_each(|job| job.gather.put(job.index, Err(Failure::Engine(why.clone()))))
            }
            Ran::Panicked => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    pool = self.shared.layout.name,
                    worker = self.number,
                    "an engine panicked: it is made anew"
                );
                if is_current {
                    self.shared.again(jobs);
                }
                *engine = (self.shared.maker)();
            }
        }
        self.shared.lock()
    }

    /// One of a batch that failed: so that only the guilty one does.
    fn alone(&self, engine: &mut Box<dyn Engine>, job: &Job, tokens: u64, waited: Duration) {
        let answer = match caught(&mut **engine, &[&job.work]) {
            Ran::Done(outputs, cpu) => {
                self.shared.done.add(1, cpu);
                let output = outputs.into_iter().next().expect("as many outputs as works, which is one");
                Ok(Answer { output, cpu: share(cpu, 1, 1), waited, tokens })
            }
            Ran::Failed(why) => Err(Failure::Engine(why)),
            Ran::Panicked => {
                *engine = (self.shared.maker)();
                Err(Failure::WorkerLost)
            }
        };
        job.gather.put(job.index, answer);
    }

    /// Each item is charged its share of the batch, by tokens; the shares add up to what the batch took.
    fn answer(&self, batch: Batch<Arc<Job>>, outputs: Vec<Output>, cpu: Duration, began: Timestamp) {
        let (mut seen, mut charged) = (0u64, Duration::ZERO);
        for (taken, output) in batch.items.into_iter().zip(outputs) {
            seen += u64::from(taken.tokens);
            let until = share(cpu, seen, batch.tokens);
            let (cpu, waited) = (until.saturating_sub(charged), began.since(taken.arrived));
            let answer = Answer { output, cpu, waited, tokens: u64::from(taken.tokens) };
            charged = until;
            taken.job.gather.put(taken.job.index, Ok(answer));
        }
    }
}

/// How an engine did.
enum Ran {
    /// An output for each of the works.
    Done(Vec<Output>, Duration),
    Failed(String),
    Panicked,
}

/// What a panic leaves behind is thrown away by whoever sees it: the engine is made anew.
fn caught(engine: &mut dyn Engine, works: &[&Work]) -> Ran {
    match catch_unwind(AssertUnwindSafe(|| engine.run(works))) {
        Ok(Ok((outputs, cpu))) if outputs.len() == works.len() => Ran::Done(outputs, cpu),
        Ok(Ok(_)) => Ran::Failed("the engine lost an answer".to_owned()),
        Ok(Err(failed)) => Ran::Failed(failed.0),
        Err(_) => Ran::Panicked,
    }
}

fn timed(engine: &mut dyn Engine, works: &[&Work]) -> Result<Duration, EngineFailed> {
    let since = Stopwatch::start();
    engine.run(works)?;
    Ok(since.elapsed())
}

/// `whole` × `part` / `of`, to the microsecond and rounded down; `part` is at most `of`.
fn share(whole: Duration, part: u64, of: u64) -> Duration {
    let micros = whole.as_micros() * u128::from(part) / u128::from(of.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
