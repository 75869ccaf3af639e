//! Requests and workers on a time of their own, around the real scheduler: seeded, so that a run repeats to the microsecond.
//!
//! A batch takes `a + b * tokens` with a tenth of noise, and one in two hundred takes three times as long. Lengths are
//! lognormal, arrivals Poisson. Each flow has a chance of its own: what the others do does not change what it sends. It is shared by the tests and by `examples/batching.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tollgate_serving::schedule::{BatchId, Finished, Offer, Priority, Scheduler, Settings, Turn};
use tollgate_types::{TenantId, Timestamp};

/// Mean tokens of a request, and the spread of the logarithm.
pub const TOKENS_MEAN: f64 = 20.0;
const TOKENS_SIGMA: f64 = 0.7;
const TOKENS_MAX: f64 = 256.0;
const NOISE: f64 = 0.1;
const OUTLIERS: f64 = 0.005;
const OUTLIER_TIMES: f64 = 3.0;
/// Requests that come in the first of these are not counted.
const WARM_US: i64 = 2_000_000;

/// What a batch costs in truth, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    pub name: &'static str,
    pub base_us: f64,
    pub per_token_us: f64,
}

/// As measured of `MiniLM` on one core, in f32.
pub const F32: Runtime = Runtime { name: "f32", base_us: 3_000.0, per_token_us: 300.0 };
/// The same with weights of eight bits.
pub const INT8: Runtime = Runtime { name: "int8", base_us: 600.0, per_token_us: 190.0 };

/// A tenant's requests.
#[derive(Clone, Debug)]
pub struct Flow {
    pub weight: u32,
    /// Requests per second.
    pub rate: f64,
    pub shape: Shape,
}

/// When a flow is more than its rate.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Steady,
    /// So many times the rate for one second of every ten.
    Bursts(f64),
    /// So many times the rate between two seconds of the run.
    Between(f64, f64, f64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    pub seed: u64,
    pub runtime: Runtime,
    pub settings: Settings,
    pub flows: Vec<Flow>,
    pub goal: Duration,
    /// For so long requests come; all that were taken are worked off then.
    pub seconds: f64,
    /// A worker stands still for so long with the first batch it is given after so many seconds.
    pub stall: Option<Stall>,
    /// Refused callers come back when they were told to, so many times at most.
    pub retries: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Stall {
    pub worker: usize,
    pub at: f64,
    pub seconds: f64,
}

/// What became of a flow's requests.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub offered: u64,
    pub good: u64,
    pub refused: u64,
    /// Of those that were done, in microseconds, sorted.
    pub latencies: Vec<u64>,
    /// Tokens that were worked on.
    pub tokens: u64,
    /// Requests that were taken at the first retry, of all that came back.
    pub first_retries: u64,
    pub first_retries_taken: u64,
    pub seconds: f64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives { flow: usize },
    Returns { request: usize },
    Done { worker: usize, batch: BatchId, took_us: u64, requests: Vec<usize> },
    Wakes,
}

#[derive(Debug)]
struct Request {
    flow: usize,
    tokens: u32,
    /// When it first came.
    at: Timestamp,
    tries: u32,
}

struct World {
    run: Run,
    /// What the workers' noise is drawn from, and what each flow is.
    rng: ChaCha8Rng,
    flows: Vec<ChaCha8Rng>,
    scheduler: Scheduler<usize>,
    requests: Vec<Request>,
    events: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    order: u64,
    busy: Vec<bool>,
    stalled: bool,
    seen: Vec<Seen>,
}

// === impl Runtime ===

impl Runtime {
    /// Requests per second that so many workers can do, in batches of 320 tokens.
    pub fn capacity(&self, workers: usize) -> f64 {
        let each = TOKENS_MEAN * (self.per_token_us + self.base_us / 320.0) * (1.0 + OUTLIERS * (OUTLIER_TIMES - 1.0));
        workers as f64 * 1e6 / each
    }
}

// === impl Run ===

impl Run {
    /// Four tenants alike, together at so many times the capacity, by the default settings.
    pub fn new(seed: u64, runtime: Runtime, load: f64) -> Self {
        let settings = Settings::default();
        let rate = load * runtime.capacity(settings.workers) / 4.0;
        let flows = vec![Flow { weight: 1, rate, shape: Shape::Steady }; 4];
        Self {
            seed,
            runtime,
            settings,
            flows,
            goal: Duration::from_millis(100),
            seconds: 20.0,
            stall: None,
            retries: 0,
        }
    }

    /// What became of each flow.
    pub fn go(self) -> Vec<Seen> {
        let mut world = World::new(self);
        while let Some(Reverse((now, _, event))) = world.events.pop() {
            world.happens(now, event);
            world.feed(now);
        }
        let counted = world.run.seconds - WARM_US as f64 / 1e6;
        for seen in &mut world.seen {
            seen.latencies.sort_unstable();
            seen.seconds = counted;
        }
        world.seen
    }
}

// === impl Seen ===

impl Seen {
    /// All flows as one.
    pub fn together(all: &[Self]) -> Self {
        let mut sum = Self::default();
        for seen in all {
            sum.offered += seen.offered;
            sum.good += seen.good;
            sum.refused += seen.refused;
            sum.tokens += seen.tokens;
            sum.first_retries += seen.first_retries;
            sum.first_retries_taken += seen.first_retries_taken;
            sum.latencies.extend(&seen.latencies);
            sum.seconds = seen.seconds;
        }
        sum.latencies.sort_unstable();
        sum
    }

    /// Several runs as one that took as long as all of them.
    pub fn pooled(runs: &[Self]) -> Self {
        let seconds = runs.iter().map(|run| run.seconds).sum();
        Self { seconds, ..Self::together(runs) }
    }

    /// Milliseconds; 0 if nothing was done.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((self.latencies.len() as f64 * q).ceil() as usize).saturating_sub(1);
        self.latencies.get(index).map_or(0.0, |us| *us as f64 / 1e3)
    }

    /// Of what was offered, done within the goal.
    pub fn good_share(&self) -> f64 {
        self.good as f64 / self.offered.max(1) as f64
    }

    pub fn refused_share(&self) -> f64 {
        self.refused as f64 / self.offered.max(1) as f64
    }
}

// === impl World ===

impl World {
    fn new(run: Run) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(run.seed);
        let flows = (1..=run.flows.len() as u64).map(|stream| {
            let mut rng = ChaCha8Rng::seed_from_u64(run.seed);
            rng.set_stream(stream);
            rng
        });
        let flows = flows.collect();
        let mut scheduler = Scheduler::new(run.settings.clone());
        for worker in 0..run.settings.workers {
            let points = [8, 16, 32, 64, 128, 256, 320]
                .map(|tokens| (tokens, Duration::from_micros(service_us(&run.runtime, f64::from(tokens), &mut rng))));
            scheduler.calibrate(worker, &points);
        }
        let mut world = Self {
            rng,
            flows,
            scheduler,
            requests: Vec::new(),
            events: BinaryHeap::new(),
            order: 0,
            busy: vec![false; run.settings.workers],
            stalled: false,
            seen: vec![Seen::default(); run.flows.len()],
            run,
        };
        for flow in 0..world.run.flows.len() {
            world.arrives_next(flow, Timestamp(0));
        }
        world
    }

    fn at(&mut self, when: Timestamp, event: Event) {
        self.order += 1;
        self.events.push(Reverse((when, self.order, event)));
    }

    /// Poisson of the highest rate, thinned to the present one.
    fn arrives_next(&mut self, flow: usize, mut now: Timestamp) {
        let Flow { rate, shape, .. } = self.run.flows[flow];
        let highest = rate * shape.highest();
        if highest <= 0.0 {
            return;
        }
        loop {
            let unit: f64 = self.flows[flow].random();
            now = now.plus(Duration::from_secs_f64(-(1.0 - unit).ln() / highest));
            let seconds = now.0 as f64 / 1e6;
            if seconds >= self.run.seconds {
                return;
            }
            if self.flows[flow].random::<f64>() * highest <= rate * shape.times(seconds) {
                return self.at(now, Event::Arrives { flow });
            }
        }
    }

    fn happens(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Arrives { flow } => {
                let tokens = tokens(&mut self.flows[flow]);
                self.requests.push(Request { flow, tokens, at: now, tries: 0 });
                if now.0 >= WARM_US {
                    self.seen[flow].offered += 1;
                }
                self.offer(now, self.requests.len() - 1);
                self.arrives_next(flow, now);
            }
            Event::Returns { request } => self.offer(now, request),
            Event::Done { worker, batch, took_us, requests } => {
                self.busy[worker] = false;
                let took = Duration::from_micros(took_us);
                self.scheduler.done(now, Finished { worker, batch, took });
                self.count(now, &requests);
            }
            Event::Wakes => {}
        }
    }

    fn offer(&mut self, now: Timestamp, index: usize) {
        let Request { flow, tokens, tries, .. } = self.requests[index];
        let offer = Offer {
            tenant: tenant(flow),
            weight: self.run.flows[flow].weight,
            priority: Priority::Interactive,
            tokens,
            goal: self.run.goal,
            deadline: None,
            alone: false,
        };
        let offered = self.scheduler.offer(now, offer, index);
        let seen = &mut self.seen[flow];
        if tries == 1 {
            seen.first_retries += 1;
            seen.first_retries_taken += u64::from(offered.is_ok());
        }
        let Err(refused) = offered else { return };
        match refused.retry_after {
            Some(after) if tries < self.run.retries => {
                self.requests[index].tries += 1;
                self.at(now.plus(after), Event::Returns { request: index });
            }
            _ if self.requests[index].at.0 >= WARM_US => seen.refused += 1,
            _ => {}
        }
    }

    /// Every worker that is free asks.
    fn feed(&mut self, now: Timestamp) {
        for worker in 0..self.busy.len() {
            if self.busy[worker] {
                continue;
            }
            match self.scheduler.next(now, worker).turn {
                Turn::Idle => {}
                Turn::WaitUntil(at) => self.at(at, Event::Wakes),
                Turn::Batch(batch) => {
                    self.busy[worker] = true;
                    let mut took_us = service_us(&self.run.runtime, batch.tokens as f64, &mut self.rng);
                    took_us += self.stall_us(now, worker);
                    let requests = batch.items.iter().map(|item| item.job).collect();
                    let end = now.plus(Duration::from_micros(took_us));
                    self.at(end, Event::Done { worker, batch: batch.id, took_us, requests });
                }
            }
        }
    }

    fn stall_us(&mut self, now: Timestamp, worker: usize) -> u64 {
        match self.run.stall {
            Some(stall) if !self.stalled && stall.worker == worker && now.0 as f64 / 1e6 >= stall.at => {
                self.stalled = true;
                whole(stall.seconds * 1e6)
            }
            _ => 0,
        }
    }

    fn count(&mut self, now: Timestamp, requests: &[usize]) {
        for index in requests {
            let request = &self.requests[*index];
            if request.at.0 < WARM_US {
                continue;
            }
            let seen = &mut self.seen[request.flow];
            let latency = now.since(request.at);
            seen.latencies.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            seen.good += u64::from(latency <= self.run.goal);
            seen.tokens += u64::from(request.tokens);
        }
    }
}

// === impl Shape ===

impl Shape {
    fn highest(self) -> f64 {
        match self {
            Self::Steady => 1.0,
            Self::Bursts(times) | Self::Between(times, ..) => times.max(1.0),
        }
    }

    fn times(self, seconds: f64) -> f64 {
        match self {
            Self::Bursts(times) if seconds % 10.0 >= 5.0 && seconds % 10.0 < 6.0 => times,
            Self::Between(times, from, to) if seconds >= from && seconds < to => times,
            _ => 1.0,
        }
    }
}

pub fn tenant(flow: usize) -> TenantId {
    format!("tenant-{flow}").parse().expect("it is an id")
}

fn tokens(rng: &mut ChaCha8Rng) -> u32 {
    let mu = TOKENS_MEAN.ln() - TOKENS_SIGMA * TOKENS_SIGMA / 2.0;
    let tokens = (mu + TOKENS_SIGMA * normal(rng)).exp().clamp(1.0, TOKENS_MAX);
    u32::try_from(whole(tokens)).unwrap_or(1)
}

fn service_us(runtime: &Runtime, tokens: f64, rng: &mut ChaCha8Rng) -> u64 {
    let noise = (1.0 + NOISE * normal(rng)).max(0.5);
    let outlier = if rng.random::<f64>() < OUTLIERS { OUTLIER_TIMES } else { 1.0 };
    whole((runtime.base_us + runtime.per_token_us * tokens) * noise * outlier)
}

/// By Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn whole(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from float saturates")]
    let whole = value.round() as u64;
    whole
}
