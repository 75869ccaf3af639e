//! Who is worked on next, with whom, and who is told to come back later: the scheduler of the models that run here.
//!
//! It is pure: no thread, no lock, no clock. The pool keeps one behind a mutex and passes the time in; the simulation in
//! `examples/batching.rs` runs the very same code on a time of its own. What it promises:
//!
//! - **A free worker never waits for a timer.** It is given a batch at once, packed by tokens up to what the cost model
//!   ([`cost`]) says still meets the goals of those in it.
//! - **Fair by cost.** Each tenant has a queue and a counter of the CPU time it was given, divided by its weight; the
//!   smallest counter is next ([`tenants`]). Who floods waits behind itself.
//! - **Refused early, with a reason and a time.** A request whose predicted completion misses its goal is refused when it
//!   comes, not when it is late ([`forecast`]).
//! - **Everything has a limit**: [`Settings`] names them.
//!
//! Batches by other people's rules are in [`baselines`]: for the comparison, not for use. What threads do with a batch, and
//! what a refusal looks like on the wire, is left to others.

mod baselines;
pub mod cost;
mod forecast;
mod forming;
mod pace;
mod queue;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tollgate_types::{TenantId, Timestamp};

use baselines::{Aimd, Cut};
use cost::{CostModel, duration, micros};
use forming::Forming;
use pace::{Attainment, Drain, Smooth};
use queue::{Job, Order};
use tenants::{Bounds, Tenants};

pub use baselines::Judged;

/// A batch is charged no more than so many times what was predicted.
const CHARGED_MAX: f64 = 4.0;

/// Queued jobs of all tenants, and what runs on which worker.
#[derive(Debug)]
pub struct Scheduler<T> {
    settings: Settings,
    workers: Vec<Worker>,
    tenants: Tenants<T>,
    /// Where each queued job is. Tickets rise, so the first is the oldest.
    places: BTreeMap<Ticket, (u32, Order)>,
    /// Those that must be answered by a time, the earliest first.
    deadlines: BTreeSet<(Timestamp, Ticket)>,
    queued_tokens: u64,
    in_flight: usize,
    tickets: u64,
    batches: u64,
    aimd: Aimd,
    drain: Drain,
    attainment: Attainment,
    /// Age of the oldest job when its batch begins, in microseconds: the window that nobody configured.
    window: Smooth,
    /// Tokens of a batch while there is more work than fits into one.
    packed: Smooth,
}

/// What bounds a scheduler. All of it has a default; zeros are taken as ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub workers: usize,
    pub batching: Batching,
    /// Most tokens of a batch of several jobs; a longer job goes alone.
    pub batch_tokens_max: u32,
    pub batch_items_max: usize,
    pub queue_tokens_max: u64,
    pub queue_items_max: usize,
    pub tenant_tokens_max: u64,
    pub tenant_items_max: usize,
    /// Tenants that are remembered: those with work, and those that had some lately.
    pub tenants_max: usize,
    /// A job is admitted if its predicted completion takes at most this share of its goal.
    pub admit_share: f64,
    /// A batch may take each of its jobs up to this share of its goal.
    pub goal_share: f64,
    /// While others are active, work of tenants beyond their fair share is packed up to this share of the strictest goal of
    /// the others: who comes meanwhile waits for that long at most, or for one job.
    pub crowd_share: f64,
    /// What a tenant of weight 1 may be behind its fair share and still be given at once when it comes back.
    pub credit: Duration,
    /// For so long a tenant counts as active, and its service is remembered.
    pub recent: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// What a batch is taken to cost before anything was measured.
    pub cost: Cost,
}

/// What a batch takes: `base + tokens * per_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub base: Duration,
    pub per_token: Duration,
}

/// How a free worker's batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// By tokens, fairness and goals. The others are baselines: first come, first served, no goals, no tenants.
    CostModel,
    /// Full at `items`, or `delay` after the oldest came. `items` of 1 does not batch.
    Window { delay: Duration, items: usize },
    /// Clipper (Crankshaw et al., NSDI 2017): most items of a batch +1 while it meets the goal, x0.9 when it does not.
    Aimd { items_max: usize, judged: Judged },
    /// Text Embeddings Inference: as many as the token budget holds, and a cap on requests queued and running.
    Greedy { tokens: u32, requests_max: usize },
}

/// A job's place in line, and what cancels it. They rise by one with every offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// Within a tenant: an interactive job never waits for a batch job that has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Interactive,
    Batch,
}

/// What a job asks for.
#[derive(Clone, Debug)]
pub struct Offer {
    pub tenant: TenantId,
    /// The tenant's share against the others', from its plan.
    pub weight: u32,
    pub priority: Priority,
    pub tokens: u32,
    /// Within this, from now, it should be done.
    pub goal: Duration,
    /// After this it is of no use: it is refused, or dropped, rather than done late.
    pub deadline: Option<Timestamp>,
    /// It may share a batch with jobs of its own tenant only.
    pub alone: bool,
}

/// A job that was not taken, given back.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<T> {
    pub why: Why,
    /// When it would be admitted, as the queue drains now. `None`: never, as it is.
    pub retry_after: Option<Duration>,
    pub job: T,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    #[error("it would not be done within its goal")]
    Overloaded,
    #[error("it would not be done before its deadline")]
    TooLate,
    #[error("the tenant has as much waiting as it may")]
    TenantFull,
    #[error("there is as much waiting as there may be")]
    QueueFull,
    #[error("it is larger than a tenant's whole queue")]
    TooLarge,
}

/// What a free worker has to do.
#[derive(Debug)]
pub struct Next<T> {
    /// Jobs that can no longer make their deadline: never worked on, to be answered now.
    pub dropped: Vec<Taken<T>>,
    pub turn: Turn<T>,
}

#[derive(Debug)]
pub enum Turn<T> {
    Batch(Batch<T>),
    /// Ask again then, or when a job comes. Only a window says that.
    WaitUntil(Timestamp),
    /// Ask again when a job comes.
    Idle,
}

/// Jobs to be worked on together, at least one.
#[derive(Debug)]
pub struct Batch<T> {
    pub id: BatchId,
    pub worker: usize,
    pub items: Vec<Taken<T>>,
    pub tokens: u64,
    pub predicted: Duration,
    /// How long the oldest of them has waited.
    pub oldest_age: Duration,
}

/// A job that has left the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    pub ticket: Ticket,
    pub tokens: u32,
    pub arrived: Timestamp,
    pub goal: Duration,
    pub job: T,
}

/// A batch that is done.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    pub worker: usize,
    pub batch: BatchId,
    /// From its begin to its end, as the worker measured it.
    pub took: Duration,
}

/// What a scheduler tells of itself, for metrics and for who scales it.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub depth: usize,
    pub queued_tokens: u64,
    /// Until all that is queued would be done, were nothing to come: the figure to scale by.
    pub queued_work: Duration,
    pub oldest_age: Duration,
    /// Jobs in batches that run.
    pub in_flight: usize,
    pub workers_busy: usize,
    /// Tenants with jobs in the queue.
    pub tenants_waiting: usize,
    /// Tenants that are remembered.
    pub tenants_known: usize,
    /// Of the jobs that were done or dropped in the last ten seconds, the share done within their goals; 1 if there were none.
    pub goal_attainment: f64,
    /// Predicted work done in a second while jobs wait: close to the number of workers, if the predictions are right.
    pub drain_rate: f64,
    /// How long the oldest job of a batch has waited when it begins, on the average of the last ones.
    pub effective_window: Duration,
    pub workers: Vec<WorkerState>,
}

/// What was learnt of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerState {
    pub cost: Cost,
    /// Of the last batches 99 in 100 took at most so much longer than predicted.
    pub residual_p99: Duration,
    pub busy: bool,
}

#[derive(Debug)]
struct Worker {
    model: CostModel,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    id: BatchId,
    since: Timestamp,
    predicted_us: f64,
    tokens: u64,
    /// What [`Drain`] showed when it began.
    drain_mark: u64,
    parts: Vec<Part>,
    was_full: bool,
}

/// What the scheduler must know of a running job when it ends.
#[derive(Debug)]
struct Part {
    tenant: u32,
    tokens: u32,
    charged_us: f64,
    arrived: Timestamp,
    goal: Duration,
}

/// A job as it goes into a batch.
#[derive(Debug)]
struct Picked<T> {
    slot: u32,
    ticket: Ticket,
    job: Job<T>,
    charged_us: f64,
}

// === impl Settings ===

impl Default for Settings {
    /// Two workers, and what was found best in `examples/batching.rs`.
    fn default() -> Self {
        Self {
            workers: 2,
            batching: Batching::CostModel,
            batch_tokens_max: 320,
            batch_items_max: 64,
            queue_tokens_max: 262_144,
            queue_items_max: 8_192,
            tenant_tokens_max: 65_536,
            tenant_items_max: 4_096,
            tenants_max: 65_536,
            admit_share: 0.45,
            goal_share: 0.9,
            crowd_share: 0.05,
            credit: Duration::from_millis(250),
            recent: Duration::from_secs(2),
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_secs(30),
            cost: Cost { base: Duration::from_millis(1), per_token: Duration::from_micros(250) },
        }
    }
}

impl Settings {
    fn sane(mut self) -> Self {
        for at_least_one in [&mut self.workers, &mut self.batch_items_max, &mut self.queue_items_max] {
            *at_least_one = (*at_least_one).max(1);
        }
        for share in [&mut self.admit_share, &mut self.goal_share, &mut self.crowd_share] {
            *share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 };
        }
        self.tenants_max = self.tenants_max.max(1);
        self.batch_tokens_max = self.batch_tokens_max.max(1);
        self.retry_max = self.retry_max.max(self.retry_min);
        self
    }
}

// === impl Scheduler ===

impl<T> Scheduler<T> {
    pub fn new(settings: Settings) -> Self {
        let settings = settings.sane();
        let model = CostModel::new(settings.cost.base, settings.cost.per_token);
        let Settings { workers, tenants_max, credit, recent, .. } = settings;
        Self {
            workers: (0..workers).map(|_| Worker { model: model.clone(), running: None }).collect(),
            tenants: Tenants::new(Bounds { workers, tenants_max, credit, recent }),
            places: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            queued_tokens: 0,
            in_flight: 0,
            tickets: 0,
            batches: 0,
            aimd: Aimd::new(),
            drain: Drain::new(workers),
            attainment: Attainment::default(),
            window: Smooth::new(0.0, 0.05),
            packed: Smooth::new(f64::from(settings.batch_tokens_max), 0.1),
            settings,
        }
    }

    /// Takes a job into the queue, or says at once that it would come too late.
    pub fn offer(&mut self, now: Timestamp, offer: Offer, job: T) -> Result<Ticket, Refused<T>> {
        let tokens = offer.tokens;
        let (why, retry_after, mut jobs) = match self.offer_all(now, &offer, vec![(tokens, job)]) {
            Ok(tickets) => return Ok(tickets[0]),
            Err(refused) => refused,
        };
        let (_, job) = jobs.pop().expect("the one that was offered");
        Err(Refused { why, retry_after, job })
    }

    /// Takes several jobs of one caller into the queue, each with its tokens, or none of them: they are judged together, as
    /// one of so many tokens. What is not taken is given back.
    #[expect(clippy::type_complexity, reason = "the reason, when to come again, and what was offered")]
    pub fn offer_all(
        &mut self,
        now: Timestamp,
        offer: &Offer,
        jobs: Vec<(u32, T)>,
    ) -> Result<Vec<Ticket>, (Why, Option<Duration>, Vec<(u32, T)>)> {
        let tokens = jobs.iter().fold(0_u32, |sum, (tokens, _)| sum.saturating_add((*tokens).max(1)));
        let whole = Offer { tokens: tokens.max(1), ..offer.clone() };
        let (slot, forecast) = match self.weigh(now, &whole, jobs.len()) {
            Ok(judged) => judged,
            Err((why, retry_after)) => return Err((why, retry_after, jobs)),
        };
        Ok(self.push_all(now, slot, offer, jobs, forecast.raw_wait_us))
    }

    /// Takes jobs that were taken before, and whose worker was lost: nobody judges them anew.
    pub fn take_back(&mut self, now: Timestamp, offer: &Offer, job: T) -> Result<Ticket, T> {
        self.pass(now);
        match self.enter(offer, now) {
            Some(slot) => Ok(self.push_all(now, slot, offer, vec![(offer.tokens, job)], 0.0)[0]),
            None => Err(job),
        }
    }

    /// Whether so many jobs, of `offer.tokens` together, would be taken now; nothing is. What it says of waiting is what
    /// [`Scheduler::offer_all`] would say, and who is refused has asked.
    pub fn would_take(&mut self, now: Timestamp, offer: &Offer, jobs: usize) -> Result<(), (Why, Option<Duration>)> {
        let offer = Offer { tokens: offer.tokens.max(1), ..offer.clone() };
        self.weigh(now, &offer, jobs).map(|_| ())
    }

    fn weigh(
        &mut self,
        now: Timestamp,
        offer: &Offer,
        jobs: usize,
    ) -> Result<(u32, forecast::Forecast), (Why, Option<Duration>)> {
        self.pass(now);
        let Some(slot) = self.enter(offer, now) else {
            return Err((Why::QueueFull, Some(self.settings.retry_max)));
        };
        let order = self.order(offer, Ticket(self.tickets + 1), now);
        self.tenants.asks(slot, self.work_us(f64::from(offer.tokens)), now);
        let forecast = self.forecast(now, slot, offer, &order);
        match self.admit(now, slot, offer, jobs, &forecast) {
            Ok(()) => Ok((slot, forecast)),
            Err((why, beyond_us)) => {
                // Each refusal has a number of its own: by it those who are refused together come back apart.
                self.tickets += 1;
                Err((why, beyond_us.map(|us| self.retry_after(now, slot, us, forecast.own_us))))
            }
        }
    }

    fn push_all(
        &mut self,
        now: Timestamp,
        slot: u32,
        offer: &Offer,
        jobs: Vec<(u32, T)>,
        mut forecast_us: f64,
    ) -> Vec<Ticket> {
        let mut tickets = Vec::with_capacity(jobs.len());
        for (tokens, inner) in jobs {
            let tokens = tokens.max(1);
            self.tickets += 1;
            let ticket = Ticket(self.tickets);
            let order = self.order(offer, ticket, now);
            self.places.insert(ticket, (slot, order));
            self.deadlines.extend(offer.deadline.map(|deadline| (deadline, ticket)));
            self.queued_tokens += u64::from(tokens);
            let Offer { tenant, goal, deadline, alone, .. } = offer.clone();
            let job = Job { tenant, tokens, arrived: now, goal, deadline, alone, forecast_us, inner };
            self.tenants.push(slot, order, job, now);
            tickets.push(ticket);
            // The next of them waits for this one, too.
            forecast_us += self.work_us(f64::from(tokens)) / self.workers.len() as f64;
        }
        tickets
    }

    fn is_fair(&self) -> bool {
        self.settings.batching == Batching::CostModel
    }

    fn enter(&mut self, offer: &Offer, now: Timestamp) -> Option<u32> {
        if self.is_fair() {
            return self.tenants.enter(&offer.tenant, offer.weight, now);
        }
        self.tenants.enter(&baselines::EVERYBODY.parse().ok()?, 1, now)
    }

    fn order(&self, offer: &Offer, ticket: Ticket, now: Timestamp) -> Order {
        if self.is_fair() {
            Order::fair(offer.priority, now.plus(offer.goal), ticket)
        } else {
            Order::of_arrival(ticket)
        }
    }

    /// Every reason not to take a job. With it, by how many microseconds it would be too late; none if it always would be.
    fn admit(
        &self,
        now: Timestamp,
        slot: u32,
        offer: &Offer,
        jobs: usize,
        forecast: &forecast::Forecast,
    ) -> Result<(), (Why, Option<f64>)> {
        let settings = &self.settings;
        let tokens = u64::from(offer.tokens);
        let is_too_large = tokens > settings.queue_tokens_max || jobs > settings.queue_items_max;
        let is_too_large_for_one = tokens > settings.tenant_tokens_max || jobs > settings.tenant_items_max;
        if is_too_large || (self.is_fair() && is_too_large_for_one) {
            return Err((Why::TooLarge, None));
        }
        let depth = self.places.len();
        if depth + jobs > settings.queue_items_max || self.queued_tokens + tokens > settings.queue_tokens_max {
            return Err((Why::QueueFull, Some(forecast.own_us)));
        }
        if let Batching::Greedy { requests_max, .. } = settings.batching
            && depth + self.in_flight >= requests_max
        {
            return Err((Why::QueueFull, Some(forecast.own_us)));
        }
        if let Some(deadline) = offer.deadline {
            let left = micros(deadline.since(now));
            if forecast.own_us > left {
                return Err((Why::TooLate, None));
            }
            if self.is_fair() && forecast.done_us() > left {
                return Err((Why::TooLate, Some(forecast.done_us() - left)));
            }
        }
        if !self.is_fair() {
            return Ok(());
        }
        // Nobody may hold more than what is left for the others: so there is always something left for who comes next
        // (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998).
        let queue = self.tenants.at(slot).queue();
        let items_max = settings.tenant_items_max.min((settings.queue_items_max - depth).max(jobs));
        let tokens_max = settings.tenant_tokens_max.min((settings.queue_tokens_max - self.queued_tokens).max(tokens));
        if queue.len() + jobs > items_max || queue.tokens() + tokens > tokens_max {
            return Err((Why::TenantFull, Some(forecast.own_us)));
        }
        let beyond = forecast.beyond_goal_us(offer.goal, settings);
        if beyond > 0.0 { Err((Why::Overloaded, Some(beyond))) } else { Ok(()) }
    }

    /// What a worker that is free does now. One that asks before it has said that it is done has lost its batch.
    pub fn next(&mut self, now: Timestamp, worker: usize) -> Next<T> {
        self.pass(now);
        if worker >= self.workers.len() {
            return Next { dropped: Vec::new(), turn: Turn::Idle };
        }
        self.lost(now, worker);
        let mut dropped = self.drop_late(now, worker);
        let items = if self.is_fair() { self.form(now, worker, &mut dropped) } else { self.cut(now) };
        let turn = match items {
            Ok(items) if items.is_empty() => Turn::Idle,
            Ok(items) => Turn::Batch(self.begin(now, worker, items)),
            Err(at) => Turn::WaitUntil(at),
        };
        Next { dropped, turn }
    }

    /// Those whose deadline has passed, or passes before the fastest batch would be done.
    fn drop_late(&mut self, now: Timestamp, worker: usize) -> Vec<Taken<T>> {
        let fastest = duration(self.workers[worker].model.line().predict_us(1));
        let mut dropped = Vec::new();
        while let Some(&(_, ticket)) = self.deadlines.first().filter(|(deadline, _)| *deadline < now.plus(fastest)) {
            if let Some((_, job)) = self.take(ticket) {
                self.attainment.add(now, false);
                dropped.push(job.taken(ticket));
            } else {
                self.deadlines.pop_first();
            }
        }
        dropped
    }

    fn form(
        &mut self,
        now: Timestamp,
        worker: usize,
        dropped: &mut Vec<Taken<T>>,
    ) -> Result<Vec<Picked<T>>, Timestamp> {
        self.tenants.raise_floor();
        let line = self.workers[worker].model.line();
        let mut forming = Forming::new(&self.settings, line, &self.tenants, now);
        let (mut items, mut passed_over) = (Vec::new(), Vec::new());
        while let Some(order) = forming.pick(&self.tenants, &mut passed_over) {
            let ticket = order.ticket();
            let Some((slot, job)) = self.take(ticket) else { break };
            let own_us = line.predict_us(u64::from(job.tokens));
            if job.deadline.is_some_and(|deadline| now.plus(duration(own_us)) > deadline) {
                self.attainment.add(now, false);
                dropped.push(job.taken(ticket));
                continue;
            }
            forming.add(&job);
            // Its share of the base comes when the batch is closed.
            let charged_us = line.per_token_us() * f64::from(job.tokens);
            self.tenants.charge(slot, charged_us, now);
            items.push(Picked { slot, ticket, job, charged_us });
        }
        Ok(items)
    }

    fn cut(&mut self, now: Timestamp) -> Result<Vec<Picked<T>>, Timestamp> {
        let Some(slot) = self.tenants.in_turn().next() else { return Ok(Vec::new()) };
        let count = match baselines::cut(&self.settings, self.aimd, self.tenants.at(slot).queue(), now) {
            Cut::Take(count) => count,
            Cut::WaitUntil(at) => return Err(at),
        };
        let tickets: Vec<Ticket> =
            self.tenants.at(slot).queue().iter().take(count).map(|(order, _)| order.ticket()).collect();
        let picked = |(slot, job), ticket| Picked { slot, ticket, job, charged_us: 0.0 };
        Ok(tickets.into_iter().filter_map(|ticket| Some(picked(self.take(ticket)?, ticket))).collect())
    }

    /// A batch begins: its base is charged, and what is needed at its end is kept.
    fn begin(&mut self, now: Timestamp, worker: usize, items: Vec<Picked<T>>) -> Batch<T> {
        self.batches += 1;
        let id = BatchId(self.batches);
        let tokens: u64 = items.iter().map(|item| u64::from(item.job.tokens)).sum();
        let line = self.workers[worker].model.line();
        let (base_us, predicted_us) = (line.base_us(), line.predict_us(tokens));
        let oldest_age = items.iter().map(|item| now.since(item.job.arrived)).max().unwrap_or_default();
        let mut parts = Vec::with_capacity(items.len());
        for item in &items {
            let base_us = base_us * f64::from(item.job.tokens) / tokens as f64;
            self.tenants.charge(item.slot, base_us, now);
            self.tenants.began(item.slot, now);
            self.learn_wait(item, now);
            let Job { tokens, arrived, goal, .. } = item.job;
            parts.push(Part { tenant: item.slot, tokens, charged_us: item.charged_us + base_us, arrived, goal });
        }
        self.in_flight += items.len();
        self.window.add(micros(oldest_age));
        let is_full = !self.places.is_empty();
        if is_full {
            self.packed.add(tokens as f64);
        }
        let drain_mark = self.drain.mark();
        self.workers[worker].running =
            Some(Running { id, since: now, predicted_us, tokens, drain_mark, parts, was_full: is_full });
        let items = items.into_iter().map(|item| item.job.taken(item.ticket)).collect();
        Batch { id, worker, items, tokens, predicted: duration(predicted_us), oldest_age }
    }

    /// What was forecast of a job's wait, against what it was. Short waits say nothing: the noise is larger.
    fn learn_wait(&mut self, item: &Picked<T>, now: Timestamp) {
        let Job { forecast_us, goal, arrived, .. } = item.job;
        let telling = micros(goal) * 0.1;
        if forecast_us > telling {
            self.tenants.at_mut(item.slot).waited(micros(now.since(arrived)) / forecast_us);
        }
    }

    /// The caller is gone: the job is given back, unless it runs already.
    pub fn cancel(&mut self, now: Timestamp, ticket: Ticket) -> Option<T> {
        self.pass(now);
        self.take(ticket).map(|(_, job)| job.inner)
    }

    /// Takes a job out of the queue, and out of all that knows of it.
    fn take(&mut self, ticket: Ticket) -> Option<(u32, Job<T>)> {
        let (slot, order) = self.places.remove(&ticket)?;
        let job = self.tenants.remove(slot, &order)?;
        self.queued_tokens -= u64::from(job.tokens);
        if let Some(deadline) = job.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        Some((slot, job))
    }

    /// A batch is done: what it took is learnt, and charged instead of what was predicted. One that was lost before is
    /// ignored.
    pub fn done(&mut self, now: Timestamp, finished: Finished) {
        self.pass(now);
        let Some(worker) = self.workers.get_mut(finished.worker) else { return };
        let Some(running) = worker.running.take_if(|running| running.id == finished.batch) else { return };
        worker.model.learn(running.tokens, finished.took);
        self.drain.did(running.predicted_us, running.drain_mark, finished.took);
        // A worker that stood still is nobody's fault: no more is charged than a few times the prediction.
        let charged_us = micros(finished.took).min(CHARGED_MAX * running.predicted_us);
        for part in &running.parts {
            let share = f64::from(part.tokens) / running.tokens as f64;
            self.tenants.charge(part.tenant, charged_us * share - part.charged_us, now);
            self.tenants.ended(part.tenant);
            self.attainment.add(now, now.since(part.arrived) <= part.goal);
        }
        self.in_flight -= running.parts.len();
        self.judge(now, &running, finished.took);
    }

    fn judge(&mut self, now: Timestamp, running: &Running, took: Duration) {
        let Batching::Aimd { items_max, judged } = self.settings.batching else { return };
        let Some(goal) = running.parts.iter().map(|part| part.goal).min() else { return };
        let oldest = running.parts.iter().map(|part| now.since(part.arrived)).max().unwrap_or_default();
        let latency = if judged == Judged::Batch { took } else { oldest };
        let was_full = running.was_full || running.parts.len() >= self.aimd.items(items_max);
        self.aimd.judge(latency, goal, was_full, items_max);
    }

    /// A worker died, or stands still: what its batch was charged is given back. Its jobs are with the caller.
    pub fn lost(&mut self, now: Timestamp, worker: usize) {
        self.pass(now);
        let Some(running) = self.workers.get_mut(worker).and_then(|worker| worker.running.take()) else { return };
        for part in &running.parts {
            self.tenants.charge(part.tenant, -part.charged_us, now);
            self.tenants.ended(part.tenant);
        }
        self.in_flight -= running.parts.len();
    }

    /// Begins a worker's cost model anew, from batches of several sizes that were measured.
    pub fn calibrate(&mut self, worker: usize, points: &[(u32, Duration)]) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.model.calibrate(points);
        }
    }

    pub fn state(&self, now: Timestamp) -> State {
        let oldest = self.places.values().next().and_then(|(slot, order)| self.tenants.at(*slot).queue().get(order));
        let workers = self.workers.iter().map(Worker::state).collect::<Vec<_>>();
        State {
            depth: self.places.len(),
            queued_tokens: self.queued_tokens,
            queued_work: duration(self.work_us(self.queued_tokens as f64) / self.drain.rate()),
            oldest_age: oldest.map(|job| now.since(job.arrived)).unwrap_or_default(),
            in_flight: self.in_flight,
            workers_busy: workers.iter().filter(|worker| worker.busy).count(),
            tenants_waiting: self.tenants.waiting(),
            tenants_known: self.tenants.known(),
            goal_attainment: self.attainment.share(now),
            drain_rate: self.drain.rate(),
            effective_window: duration(self.window.value()),
            workers,
        }
    }

    /// Everything that changes with time alone.
    fn pass(&mut self, now: Timestamp) {
        self.drain.pass(now, !self.places.is_empty());
        self.tenants.pass(now);
    }
}

// === impl Worker ===

impl Worker {
    fn state(&self) -> WorkerState {
        let line = self.model.line();
        let cost = Cost { base: duration(line.base_us()), per_token: duration(line.per_token_us()) };
        WorkerState { cost, residual_p99: self.model.residual_p99(), busy: self.running.is_some() }
    }

    /// Until it is free, in microseconds. One that should be done already is taken to need as long again as it is late.
    fn remaining_us(&self, now: Timestamp) -> f64 {
        self.running.as_ref().map_or(0.0, |running| (running.predicted_us - micros(now.since(running.since))).abs())
    }
}

// === impl Ticket ===

impl Ticket {
    pub fn number(self) -> u64 {
        self.0
    }
}
