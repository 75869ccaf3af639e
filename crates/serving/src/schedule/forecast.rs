//! When a job would be done if it were taken now, and when to come back if it is not.
//!
//! A tenant's place is forecast by its own counter: ahead of it are its own jobs, and of each other tenant what is served
//! before its counter has come as far. So who is within its share is not refused for the queue of another.

use std::time::Duration;

use tollgate_types::Timestamp;

use super::cost::{Line, duration, micros};
use super::queue::Order;
use super::{Offer, Scheduler, Settings};

/// A job that could not meet its goal on idle workers is still taken if it waits no longer than this share of the goal.
const HOPELESS_WAIT: f64 = 0.1;
/// A retry is put off by up to this share of the time, so that those who were refused together do not come together.
const JITTER: f64 = 0.2;

/// Microseconds from now on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    /// Until it begins, by what is in the queue now.
    pub(super) raw_wait_us: f64,
    /// Until it begins, by what happened to the forecasts of this tenant.
    pub(super) wait_us: f64,
    /// What it takes alone.
    pub(super) own_us: f64,
}

// === impl Forecast ===

impl Forecast {
    pub(super) fn done_us(&self) -> f64 {
        self.wait_us + self.own_us
    }

    /// By how much the wait is too long for the goal; not above zero if it is not.
    pub(super) fn beyond_goal_us(&self, goal: Duration, settings: &Settings) -> f64 {
        let goal = micros(goal);
        let limit = (settings.admit_share * goal).max(self.own_us + HOPELESS_WAIT * goal);
        self.done_us() - limit
    }
}

impl<T> Scheduler<T> {
    pub(super) fn forecast(&self, now: Timestamp, slot: u32, offer: &Offer, order: &Order) -> Forecast {
        let own_us = self.mean_line().predict_us(u64::from(offer.tokens));
        let packed_us = self.work_us(1.0);
        // Further than twice what the goal allows it need not be counted: it is refused in any case.
        let enough = 2.0 * micros(offer.goal) * self.workers.len() as f64 / packed_us;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from float saturates")]
        let own_ahead = self.tenants.at(slot).queue().tokens_before(order, enough as u64) as f64;
        let end = self.tenants.virtual_end(slot, (own_ahead + f64::from(offer.tokens)) * packed_us);
        let all = (self.queued_tokens - self.tenants.at(slot).queue().tokens()) as f64;
        let others = self.tenants.tokens_before(slot, end, packed_us, enough, all);
        let raw_wait_us = self.begin_us(now, (own_ahead + others) * packed_us);
        Forecast { raw_wait_us, wait_us: raw_wait_us * self.tenants.at(slot).stretch(), own_us }
    }

    /// When the workers have done so much work and one of them is free.
    fn begin_us(&self, now: Timestamp, work_us: f64) -> f64 {
        let mut busy: Vec<f64> = self.workers.iter().map(|worker| worker.remaining_us(now)).collect();
        busy.sort_by(f64::total_cmp);
        let mut sum = 0.0;
        let mut begin = 0.0;
        for (index, remaining) in busy.iter().enumerate() {
            // With the workers before this one alone it would begin here.
            if index > 0 && begin <= *remaining {
                break;
            }
            sum += remaining;
            begin = (work_us + sum) / (index + 1) as f64;
        }
        begin
    }

    /// The work of so many tokens in full batches: in these the base is shared, by how many the last ones show.
    pub(super) fn work_us(&self, tokens: f64) -> f64 {
        let line = self.mean_line();
        tokens * (line.per_token_us() + line.base_us() / self.packed.value().max(1.0))
    }

    fn mean_line(&self) -> Line {
        Line::mean(self.workers.iter().map(|worker| worker.model.line()))
    }

    /// When to come back for who waits this much too long: the queue drains at the rate it drained lately, and those who
    /// were told to come back before come before, one after the other.
    pub(super) fn retry_after(&mut self, now: Timestamp, slot: u32, beyond_us: f64, own_us: f64) -> Duration {
        // The forecast takes all workers to be at work; the rate says what they do in truth.
        let slower = (self.workers.len() as f64 / self.drain.rate()).max(1.0);
        let pace_us = own_us / (self.drain.rate() * self.tenants.share(slot));
        let (least, most) = (self.settings.retry_min, self.settings.retry_max);
        let earliest = now.plus(duration(beyond_us * slower).clamp(least, most));
        let pace = duration(pace_us).min(most);
        let at = self.tenants.at_mut(slot).promise(earliest, now.plus(most), pace);
        let jitter = 1.0 + JITTER * unit(self.tickets);
        duration(micros(at.since(now)) * jitter).clamp(least, most)
    }
}

/// A number between 0 and 1 that looks as if drawn by lot: the finaliser of `SplitMix64` (Steele et al., OOPSLA 2014).
fn unit(ticket: u64) -> f64 {
    let mut x = ticket.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
