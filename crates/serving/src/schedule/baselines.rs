//! Batches by the rules of others, to be compared with: a fixed window (Triton, TorchServe, Ray Serve), additive increase and
//! multiplicative decrease (Clipper), greedy packing by tokens (Text Embeddings Inference).
//!
//! They share the queue's bounds and nothing else: first come, first served, whoever it is of, and nobody is refused for
//! being late.

use std::time::Duration;

use tollgate_types::Timestamp;

use super::queue::{Job, Queue};
use super::{Batching, Settings};

/// One queue for everybody: its tenant.
pub(super) const EVERYBODY: &str = "everybody";

/// Of which latency Clipper's rule judges whether the goal was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// What the batch took, as the paper says.
    Batch,
    /// What its oldest request took, waiting included.
    Request,
}

/// The most items of a batch, as Clipper finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aimd {
    items: f64,
}

/// What a rule says to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// So many from the front.
    Take(usize),
    WaitUntil(Timestamp),
}

// === impl Aimd ===

impl Aimd {
    pub(super) fn new() -> Self {
        Self { items: 1.0 }
    }

    pub(super) fn items(&self, items_max: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to items_max")]
        let items = self.items.clamp(1.0, items_max.max(1) as f64) as usize;
        items
    }

    /// A batch that was not full says nothing about larger ones, unless it was too slow.
    pub(super) fn judge(&mut self, latency: Duration, goal: Duration, was_full: bool, items_max: usize) {
        if latency > goal {
            self.items = (self.items * 0.9).max(1.0);
        } else if was_full {
            self.items = (self.items + 1.0).min(items_max.max(1) as f64);
        }
    }
}

/// How many of a queue that is not empty make a batch now.
pub(super) fn cut<T>(settings: &Settings, aimd: Aimd, queue: &Queue<T>, now: Timestamp) -> Cut {
    match settings.batching {
        Batching::CostModel => Cut::Take(1),
        Batching::Window { delay, items } => {
            let full = queue.len() >= items.max(1);
            let due = queue.first().map_or(now, |(_, job)| job.arrived.plus(delay));
            if full || due <= now { Cut::Take(mixed(queue, items, u64::MAX)) } else { Cut::WaitUntil(due) }
        }
        Batching::Aimd { items_max, .. } => Cut::Take(mixed(queue, aimd.items(items_max), u64::MAX)),
        Batching::Greedy { tokens, .. } => Cut::Take(mixed(queue, usize::MAX, u64::from(tokens))),
    }
}

/// From the front as many as there may be; a tenant that shares with nobody ends the batch.
fn mixed<T>(queue: &Queue<T>, items_max: usize, tokens_max: u64) -> usize {
    let Some((_, first)) = queue.first() else { return 1 };
    let (mut tokens, mut mixed, mut alone) = (0, false, false);
    let fits = |(_, job): &(_, &Job<T>)| {
        tokens += u64::from(job.tokens);
        mixed |= job.tenant != first.tenant;
        alone |= job.alone;
        tokens <= tokens_max && !(mixed && alone)
    };
    queue.iter().take(items_max.max(1)).take_while(fits).count().max(1)
}
