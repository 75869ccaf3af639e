//! Whose turn it is: a counter per tenant of the service it was given, divided by its weight; the smallest is next.
//!
//! Virtual token counters (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024), counted in predicted CPU
//! time and corrected when the batch is done. Three things are of our own:
//!
//! - **Credit.** A tenant that comes back is lifted not to the smallest counter of those who wait but to a little below
//!   ([`super::Settings::credit`]). So a short burst of a tenant within its share goes before the backlog of one beyond it,
//!   as the sparse flows of FQ-CoDel do (RFC 8290), and the bound on unfairness stays a constant, larger by the credit.
//! - **Heavy tenants** go in small batches while others are active ([`Tenants::is_heavy`]): a batch cannot be interrupted, and
//!   who comes meanwhile must not wait for a large one.
//! - **The floor rises in quiet times**, a second a second: a lead that hurts nobody is forgotten, and with it the tenant.
//!
//! A tenant is remembered while it has jobs, was active lately, or is not yet back at the floor. So the memory is bounded
//! by who is here, not by who ever was.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tollgate_types::{TenantId, Timestamp};

use super::cost::micros;
use super::pace::{Fading, Smooth};
use super::queue::{Job, Order, Queue};

/// Virtual time: nanoseconds of service at a weight of one.
pub(super) type Virtual = u64;

/// Who asks for so many times what the others ask for, by weight, presses.
const PRESSING: f64 = 3.0;
/// Tenants whose queues are looked at to forecast one job's place.
const LOOKED_AT_MAX: usize = 256;
/// Each job's wait changes the stretch of the next ones' forecasts by so much, and it is never larger than this.
const STRETCH_WEIGHT: f64 = 0.05;
const STRETCH_MAX: f64 = 8.0;
/// Active tenants that are asked whether they are within their share, before nobody is taken to be.
const ASKED_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Tenants<T> {
    slots: Vec<Option<Tenant<T>>>,
    free: Vec<u32>,
    by_id: HashMap<TenantId, u32>,
    /// Those with jobs, by their counters.
    ready: BTreeSet<(Virtual, u32)>,
    /// Those that were active lately, by their goals.
    recent: BTreeSet<(Duration, u32)>,
    recent_weight: u64,
    /// Microseconds of service that all asked for lately.
    asked: Fading,
    /// When to look whether a tenant can be forgotten.
    checks: BTreeSet<(Timestamp, u32)>,
    /// The smallest counter among those with jobs, as it was when it was largest.
    floor: Virtual,
    last: Timestamp,
    bounds: Bounds,
}

/// What of the settings is needed here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) workers: usize,
    pub(super) tenants_max: usize,
    pub(super) credit: Duration,
    pub(super) recent: Duration,
}

#[derive(Debug)]
pub(super) struct Tenant<T> {
    id: TenantId,
    weight: u32,
    counter: Virtual,
    queue: Queue<T>,
    in_flight: usize,
    /// Microseconds of service lately, and of service that was asked for.
    served: Fading,
    asked: Fading,
    active_at: Timestamp,
    /// Under which keys it is in the sets.
    ready_as: Option<Virtual>,
    recent_as: Option<Duration>,
    check_at: Timestamp,
    /// Up to then those that were refused have been told to come back.
    promised: Timestamp,
    /// How many times longer its jobs wait than was forecast: others come meanwhile, and go first.
    stretch: Smooth,
}

// === impl Tenants ===

impl<T> Tenants<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            ready: BTreeSet::new(),
            recent: BTreeSet::new(),
            recent_weight: 0,
            asked: Fading::new(Timestamp(0)),
            checks: BTreeSet::new(),
            floor: 0,
            last: Timestamp(i64::MIN),
            bounds,
        }
    }

    /// Time passes: who can be forgotten is, and in quiet times all leads shrink.
    pub(super) fn pass(&mut self, now: Timestamp) {
        if self.ready.is_empty() && self.last.0 != i64::MIN {
            let quiet = u64::try_from(now.since(self.last).as_nanos()).unwrap_or(u64::MAX);
            self.floor = self.floor.saturating_add(quiet);
        }
        self.last = self.last.max(now);
        while let Some(&(_, slot)) = self.checks.first().filter(|(at, _)| *at <= now) {
            self.check(slot, now);
        }
    }

    fn check(&mut self, slot: u32, now: Timestamp) {
        let window = self.bounds.recent.max(Duration::from_millis(1));
        let lowest = self.lowest();
        let tenant = self.at(slot);
        let quiet_at = tenant.active_at.plus(window);
        if !tenant.is_idle() || quiet_at > now {
            return self.check_again(slot, if quiet_at > now { quiet_at } else { now.plus(window) });
        }
        if tenant.counter <= lowest && tenant.promised <= now {
            return self.forget(slot);
        }
        self.leave_recent(slot);
        self.check_again(slot, now.plus(window));
    }

    fn check_again(&mut self, slot: u32, at: Timestamp) {
        let before = std::mem::replace(&mut self.at_mut(slot).check_at, at);
        self.checks.remove(&(before, slot));
        self.checks.insert((at, slot));
    }

    /// A tenant that asks: known, or new. `None` if there are as many as there may be, and all have work.
    pub(super) fn enter(&mut self, id: &TenantId, weight: u32, now: Timestamp) -> Option<u32> {
        if let Some(&slot) = self.by_id.get(id) {
            self.reweigh(slot, weight.max(1));
            return Some(slot);
        }
        if self.by_id.len() >= self.bounds.tenants_max && !self.forget_one() {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(None);
                slot
            }
        };
        let check_at = now.plus(self.bounds.recent.max(Duration::from_millis(1)));
        self.slots[slot as usize] = Some(Tenant::new(id.clone(), weight.max(1), now, check_at));
        self.by_id.insert(id.clone(), slot);
        self.checks.insert((check_at, slot));
        Some(slot)
    }

    /// Makes room: of those that have nothing here, the first to be looked at is forgotten before its time.
    fn forget_one(&mut self) -> bool {
        let found = self.checks.iter().map(|(_, slot)| *slot).find(|slot| self.at(*slot).is_idle());
        found.inspect(|slot| self.forget(*slot)).is_some()
    }

    fn forget(&mut self, slot: u32) {
        self.leave_recent(slot);
        let Some(tenant) = self.slots[slot as usize].take() else { return };
        self.checks.remove(&(tenant.check_at, slot));
        self.by_id.remove(&tenant.id);
        self.free.push(slot);
    }

    fn reweigh(&mut self, slot: u32, weight: u32) {
        let tenant = self.at_mut(slot);
        let (before, counts) = (tenant.weight, tenant.recent_as.is_some());
        tenant.weight = weight;
        if counts {
            self.recent_weight = self.recent_weight - u64::from(before) + u64::from(weight);
        }
    }

    /// A job waits. Whoever comes back is lifted: nobody saves up more than the credit.
    pub(super) fn push(&mut self, slot: u32, order: Order, job: Job<T>, now: Timestamp) {
        let lowest = self.lowest();
        let goal = job.goal;
        let tenant = self.at_mut(slot);
        if tenant.queue.is_empty() {
            tenant.counter = tenant.counter.max(lowest);
        }
        tenant.active_at = tenant.active_at.max(now);
        // Of what it sends lately the strictest counts.
        let goal = tenant.recent_as.map_or(goal, |before| before.min(goal));
        tenant.queue.push(order, job);
        self.leave_recent(slot);
        self.at_mut(slot).recent_as = Some(goal);
        self.recent_weight += u64::from(self.at(slot).weight);
        self.recent.insert((goal, slot));
        self.refile(slot);
    }

    pub(super) fn remove(&mut self, slot: u32, order: &Order) -> Option<Job<T>> {
        let job = self.at_mut(slot).queue.remove(order);
        self.refile(slot);
        job
    }

    /// Service was predicted, or turned out other than predicted: less than nothing gives back.
    pub(super) fn charge(&mut self, slot: u32, us: f64, now: Timestamp) {
        let window = self.bounds.recent;
        let tenant = self.at_mut(slot);
        let amount = virtual_time(us.abs(), tenant.weight);
        tenant.counter =
            if us < 0.0 { tenant.counter.saturating_sub(amount) } else { tenant.counter.saturating_add(amount) };
        tenant.served.add(us, now, window);
        self.refile(slot);
    }

    pub(super) fn began(&mut self, slot: u32, now: Timestamp) {
        let tenant = self.at_mut(slot);
        tenant.in_flight += 1;
        tenant.active_at = tenant.active_at.max(now);
    }

    pub(super) fn ended(&mut self, slot: u32) {
        let tenant = self.at_mut(slot);
        tenant.in_flight = tenant.in_flight.saturating_sub(1);
    }

    /// The tenants with jobs, whose turn it is first.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = u32> {
        self.ready.iter().map(|(_, slot)| *slot)
    }

    /// The turn of a batch begins: the floor rises to who is served now.
    pub(super) fn raise_floor(&mut self) {
        if let Some((counter, _)) = self.ready.first() {
            self.floor = self.floor.max(*counter);
        }
    }

    /// Has had more of the workers lately than its share and its credit; or asks for more than that, and for several times as
    /// much as the others. The first is sure, the second is seen at once. Where all ask for too much alike, nobody is heavy.
    pub(super) fn is_heavy(&self, slot: u32, now: Timestamp) -> bool {
        let tenant = self.at(slot);
        let window = self.bounds.recent;
        let (weight, weights) = (f64::from(tenant.weight), self.recent_weight.max(u64::from(tenant.weight)) as f64);
        let capacity = micros(window) * self.bounds.workers as f64;
        let share = capacity * weight / weights + micros(self.bounds.credit) * weight;
        let asked = tenant.asked.at(now, window);
        let others = (self.asked.at(now, window) - asked).max(0.0);
        let presses = asked * (weights - weight) > PRESSING * others * weight;
        tenant.served.at(now, window) > share || (asked > share && presses)
    }

    /// Work was asked for, admitted or not.
    pub(super) fn asks(&mut self, slot: u32, us: f64, now: Timestamp) {
        let window = self.bounds.recent;
        self.at_mut(slot).asked.add(us, now, window);
        self.asked.add(us, now, window);
    }

    /// The strictest goal of an active tenant that is within its share.
    pub(super) fn strictest_goal(&self, now: Timestamp) -> Option<Duration> {
        self.recent.iter().take(ASKED_MAX).find(|(_, slot)| !self.is_heavy(*slot, now)).map(|(goal, _)| *goal)
    }

    /// When a job that takes so long would end, counted on the tenant's own counter.
    pub(super) fn virtual_end(&self, slot: u32, us: f64) -> Virtual {
        let tenant = self.at(slot);
        let begin = if tenant.queue.is_empty() { tenant.counter.max(self.lowest()) } else { tenant.counter };
        begin.saturating_add(virtual_time(us, tenant.weight))
    }

    /// Tokens of others that are served before a tenant's counter reaches `end`, counted no further than `enough`. `all` are
    /// those of all others: where too many tenants are before it to look at each, all are taken to be.
    pub(super) fn tokens_before(&self, slot: u32, end: Virtual, per_token_us: f64, enough: f64, all: f64) -> f64 {
        let mut tokens = 0.0;
        let before = self.ready.range(..(end, u32::MAX)).filter(|(_, other)| *other != slot);
        for (looked_at, &(counter, other)) in before.enumerate() {
            let tenant = self.at(other);
            let lead_us = (end - counter) as f64 / 1e3 * f64::from(tenant.weight);
            tokens += (lead_us / per_token_us).min(tenant.queue.tokens() as f64);
            if tokens > enough {
                return tokens;
            }
            if looked_at >= LOOKED_AT_MAX {
                return all;
            }
        }
        tokens
    }

    /// The share of the workers that a tenant has while all those with jobs keep them.
    pub(super) fn share(&self, slot: u32) -> f64 {
        let own = u64::from(self.at(slot).weight);
        // Who waits is a part of who was active: so this is no more than the share it has in truth.
        own as f64 / self.recent_weight.max(own) as f64
    }

    pub(super) fn at(&self, slot: u32) -> &Tenant<T> {
        self.slots[slot as usize].as_ref().expect("a tenant with work, or one that just entered, is not forgotten")
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Tenant<T> {
        self.slots[slot as usize].as_mut().expect("a tenant with work, or one that just entered, is not forgotten")
    }

    pub(super) fn waiting(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn known(&self) -> usize {
        self.by_id.len()
    }

    /// As low as a counter may be of who comes back.
    fn lowest(&self) -> Virtual {
        self.floor.saturating_sub(virtual_time(micros(self.bounds.credit), 1))
    }

    fn leave_recent(&mut self, slot: u32) {
        let tenant = self.at_mut(slot);
        let weight = tenant.weight;
        if let Some(goal) = tenant.recent_as.take() {
            self.recent_weight -= u64::from(weight);
            self.recent.remove(&(goal, slot));
        }
    }

    /// Puts a tenant where its counter says, after that or its queue has changed.
    fn refile(&mut self, slot: u32) {
        let tenant = self.at_mut(slot);
        let now = if tenant.queue.is_empty() { None } else { Some(tenant.counter) };
        let before = std::mem::replace(&mut tenant.ready_as, now);
        if before == now {
            return;
        }
        if let Some(counter) = before {
            self.ready.remove(&(counter, slot));
        }
        if let Some(counter) = now {
            self.ready.insert((counter, slot));
        }
    }
}

// === impl Tenant ===

impl<T> Tenant<T> {
    fn new(id: TenantId, weight: u32, now: Timestamp, check_at: Timestamp) -> Self {
        Self {
            id,
            weight,
            counter: 0,
            queue: Queue::new(),
            in_flight: 0,
            served: Fading::new(now),
            asked: Fading::new(now),
            active_at: now,
            ready_as: None,
            recent_as: None,
            check_at,
            promised: now,
            stretch: Smooth::new(1.0, STRETCH_WEIGHT),
        }
    }

    pub(super) fn queue(&self) -> &Queue<T> {
        &self.queue
    }

    pub(super) fn stretch(&self) -> f64 {
        self.stretch.value()
    }

    /// A job has waited longer, or less long, than was forecast of it before any stretching.
    pub(super) fn waited(&mut self, ratio: f64) {
        self.stretch.add(ratio.clamp(1.0, STRETCH_MAX));
    }

    /// Refused until then: the next one that is refused comes after.
    pub(super) fn promise(&mut self, earliest: Timestamp, latest: Timestamp, pace: Duration) -> Timestamp {
        let at = self.promised.max(earliest).min(latest);
        self.promised = at.plus(pace);
        at
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }
}

/// Service as it counts at a weight.
fn virtual_time(us: f64, weight: u32) -> Virtual {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float saturates, below too"
    )]
    let nanos = (us * 1e3 / f64::from(weight.max(1))) as u64;
    nanos
}
