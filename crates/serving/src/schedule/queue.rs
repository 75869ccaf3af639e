//! One tenant's jobs in the order in which they are worked on: interactive ones first, then by when they are due, then by
//! when they came.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_types::{TenantId, Timestamp};

use super::{Priority, Taken, Ticket};

/// A job that waits.
#[derive(Debug)]
pub(super) struct Job<T> {
    pub(super) tenant: TenantId,
    pub(super) tokens: u32,
    pub(super) arrived: Timestamp,
    pub(super) goal: Duration,
    pub(super) deadline: Option<Timestamp>,
    pub(super) alone: bool,
    pub(super) forecast_us: f64,
    pub(super) inner: T,
}

/// Where a job stands among those of its tenant; the smallest is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    priority: Priority,
    due: Timestamp,
    ticket: Ticket,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    jobs: BTreeMap<Order, Job<T>>,
    tokens: u64,
}

// === impl Order ===

impl Order {
    pub(super) fn fair(priority: Priority, due: Timestamp, ticket: Ticket) -> Self {
        Self { priority, due, ticket }
    }

    /// First come, first served.
    pub(super) fn of_arrival(ticket: Ticket) -> Self {
        Self { priority: Priority::Interactive, due: Timestamp(0), ticket }
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

// === impl Job ===

impl<T> Job<T> {
    pub(super) fn taken(self, ticket: Ticket) -> Taken<T> {
        Taken { ticket, tokens: self.tokens, arrived: self.arrived, goal: self.goal, job: self.inner }
    }
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { jobs: BTreeMap::new(), tokens: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) fn first(&self) -> Option<(&Order, &Job<T>)> {
        self.jobs.first_key_value()
    }

    pub(super) fn get(&self, order: &Order) -> Option<&Job<T>> {
        self.jobs.get(order)
    }

    /// All of them in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Order, &Job<T>)> {
        self.jobs.iter()
    }

    /// Tokens of the jobs before a place, counted no further than `enough`.
    pub(super) fn tokens_before(&self, order: &Order, enough: u64) -> u64 {
        let mut tokens = 0_u64;
        for job in self.jobs.range(..order).map(|(_, job)| job) {
            tokens += u64::from(job.tokens);
            if tokens > enough {
                break;
            }
        }
        tokens
    }

    pub(super) fn push(&mut self, order: Order, job: Job<T>) {
        self.tokens += u64::from(job.tokens);
        self.jobs.insert(order, job);
    }

    pub(super) fn remove(&mut self, order: &Order) -> Option<Job<T>> {
        let job = self.jobs.remove(order)?;
        self.tokens -= u64::from(job.tokens);
        Some(job)
    }
}
