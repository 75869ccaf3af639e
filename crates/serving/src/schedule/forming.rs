//! A batch by the cost model: the smallest counter gives its first job, then the next smallest, until the batch is as large
//! as its goals allow.
//!
//! A job that does not fit is passed over, together with its tenant, for this batch: its counter stays the smallest, so it is
//! the first of the next. The first job always goes, however large or late.

use tollgate_types::{TenantId, Timestamp};

use super::cost::{Line, micros};
use super::queue::Job;
use super::tenants::Tenants;
use super::{Order, Settings};

/// Tenants that are passed over before a batch is closed.
const PASSED_OVER_MAX: usize = 8;

/// A batch as it grows.
#[derive(Debug)]
pub(super) struct Forming {
    line: Line,
    goal_share: f64,
    items_max: usize,
    now: Timestamp,
    tokens: u64,
    items: usize,
    /// Tokens that the jobs in it allow.
    tokens_max: f64,
    /// Tokens up to which it may grow with work of tenants beyond their share.
    crowd_tokens_max: f64,
    /// Whose the first job is.
    first: Option<TenantId>,
    /// It has jobs of several tenants.
    is_mixed: bool,
    /// It has a job that may not be with those of others.
    is_alone: bool,
}

// === impl Forming ===

impl Forming {
    pub(super) fn new<T>(settings: &Settings, line: Line, tenants: &Tenants<T>, now: Timestamp) -> Self {
        let crowd = tenants.strictest_goal(now).map(|goal| line.tokens_within(settings.crowd_share * micros(goal)));
        Self {
            line,
            goal_share: settings.goal_share,
            items_max: settings.batch_items_max,
            now,
            tokens: 0,
            items: 0,
            tokens_max: f64::from(settings.batch_tokens_max),
            crowd_tokens_max: crowd.unwrap_or(f64::INFINITY),
            first: None,
            is_mixed: false,
            is_alone: false,
        }
    }

    /// The next job, if one more fits; `passed_over` remembers whose did not.
    pub(super) fn pick<T>(&self, tenants: &Tenants<T>, passed_over: &mut Vec<u32>) -> Option<Order> {
        if self.items >= self.items_max {
            return None;
        }
        for slot in tenants.in_turn() {
            if passed_over.contains(&slot) {
                continue;
            }
            let (order, job) = tenants.at(slot).queue().first()?;
            if self.items == 0 || self.fits(job, tenants.is_heavy(slot, self.now)) {
                return Some(*order);
            }
            passed_over.push(slot);
            if passed_over.len() > PASSED_OVER_MAX {
                return None;
            }
        }
        None
    }

    fn fits<T>(&self, job: &Job<T>, is_heavy: bool) -> bool {
        let tokens = (self.tokens + u64::from(job.tokens)) as f64;
        let crowd = !is_heavy || tokens <= self.crowd_tokens_max;
        crowd && tokens <= self.tokens_max.min(self.allowed_by(job)) && self.may_share(job)
    }

    fn may_share<T>(&self, job: &Job<T>) -> bool {
        let mixed = self.is_mixed || self.first.as_ref().is_some_and(|first| *first != job.tenant);
        !(mixed && (self.is_alone || job.alone))
    }

    /// Tokens of the largest batch in which a job meets its goal. One that misses it anyhow does not make others wait for
    /// smaller batches.
    fn allowed_by<T>(&self, job: &Job<T>) -> f64 {
        let (goal, age) = (micros(job.goal), micros(self.now.since(job.arrived)));
        if age + self.line.predict_us(u64::from(job.tokens)) > goal {
            return f64::INFINITY;
        }
        self.line.tokens_within(self.goal_share * goal - age).max(f64::from(job.tokens))
    }

    pub(super) fn add<T>(&mut self, job: &Job<T>) {
        self.tokens_max = self.tokens_max.min(self.allowed_by(job));
        self.tokens += u64::from(job.tokens);
        self.items += 1;
        let first = self.first.get_or_insert_with(|| job.tenant.clone());
        self.is_mixed |= *first != job.tenant;
        self.is_alone |= job.alone;
    }
}
