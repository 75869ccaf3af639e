//! The limits of one scope and how far they are used: two rates and a count of what is in flight. What a scope may tell
//! about itself when it refuses is decided here.

use std::sync::Arc;
use std::time::Duration;

use tollgate_types::directory::Limits;
use tollgate_types::refusal::RateLimited;
use tollgate_types::{Refusal, Timestamp};

use super::atomic::{AtomicU32, Ordering};
use super::cell::{Allowance, Cell, Refused};

/// Told to who exceeds the number of parallel requests: nobody knows when one of them ends.
const PARALLEL_RETRY: Duration = Duration::from_secs(1);

/// Whose limits, widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Platform,
    Plan,
    Tenant,
    Project,
    Key,
    EndUser,
}

/// A scope's limits as used.
#[derive(Debug)]
pub struct Limiter {
    kind: Kind,
    /// Of most scopes none, and there may be a hundred thousand scopes: so they have a place of their own.
    limited: Option<Box<Limited>>,
    /// The same scope under its first settings, where these are others: it counts what is in flight under all of them.
    first: Option<Arc<Self>>,
    /// Counted without a limit too, so that a limit that is set later knows what is in flight already.
    in_flight: AtomicU32,
}

#[derive(Debug)]
struct Limited {
    limits: Limits,
    requests: Option<Arc<Cell>>,
    tokens: Option<Arc<Cell>>,
}

// === impl Kind ===

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Plan => "plan",
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Key => "key",
            Self::EndUser => "end user",
        }
    }

    /// Whether the tenant alone uses it up. Of what is shared with others nothing is told: it would tell of the others.
    pub fn is_tenants_own(self) -> bool {
        self >= Self::Tenant
    }
}

// === impl Limiter ===

impl Limiter {
    pub fn new(kind: Kind, limits: Limits) -> Self {
        Self { kind, limited: Limited::of(limits, None), first: None, in_flight: AtomicU32::new(0) }
    }

    /// The same scope under other settings. A rate whose limit stays goes on as it is; one whose limit changes keeps the
    /// share that is used up; one that is new begins unused. What is in flight is counted on.
    ///
    /// A request that entered before and settles after corrects its tokens under the old limit only: under the new one
    /// its whole estimate stays taken, for the minute that it takes to refill.
    pub fn under(self: &Arc<Self>, limits: Limits) -> Self {
        let limited = Limited::of(limits, self.limited.as_deref());
        let first = Arc::clone(self.first.as_ref().unwrap_or(self));
        Self { kind: self.kind, limited, first: Some(first), in_flight: AtomicU32::new(0) }
    }

    fn running(&self) -> &AtomicU32 {
        &self.first.as_deref().unwrap_or(self).in_flight
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn limits(&self) -> Limits {
        self.limited.as_ref().map_or_else(Limits::default, |limited| limited.limits)
    }

    fn requests(&self) -> Option<&Cell> {
        self.limited.as_ref()?.requests.as_deref()
    }

    fn tokens(&self) -> Option<&Cell> {
        self.limited.as_ref()?.tokens.as_deref()
    }

    /// Nothing is in flight, and every allowance is whole: it does not differ from a new one.
    pub fn is_unused(&self, now: Timestamp) -> bool {
        let whole = |cell: &Cell| cell.allowance(now).reset.is_zero();
        self.running().load(Ordering::Acquire) == 0 && [self.requests(), self.tokens()].into_iter().flatten().all(whole)
    }

    pub fn in_flight(&self) -> u32 {
        self.running().load(Ordering::Acquire)
    }

    /// Takes a place among the parallel requests and one of the requests per minute, or neither.
    pub fn enter(&self, now: Timestamp) -> Result<(), Refusal> {
        self.take_place()?;
        let Some(cell) = self.requests() else { return Ok(()) };
        cell.take(1, now).map_err(|refused| {
            self.leave();
            self.refusal("requests per minute", cell.limit(), refused)
        })
    }

    /// Undoes [`Limiter::enter`].
    pub fn withdraw(&self) {
        if let Some(cell) = self.requests() {
            cell.give_back(1);
        }
        self.leave();
    }

    /// Gives back the place among the parallel requests.
    pub fn leave(&self) {
        self.running().fetch_sub(1, Ordering::AcqRel);
    }

    pub fn take_tokens(&self, n: u64, now: Timestamp) -> Result<(), Refusal> {
        let Some(cell) = self.tokens() else { return Ok(()) };
        cell.take(n, now).map_err(|refused| self.refusal("tokens per minute", cell.limit(), refused))
    }

    pub fn give_back_tokens(&self, n: u64) {
        if let Some(cell) = self.tokens() {
            cell.give_back(n);
        }
    }

    pub fn correct_tokens(&self, estimated: u64, actual: u64, now: Timestamp) {
        if let Some(cell) = self.tokens() {
            cell.correct(estimated, actual, now);
        }
    }

    pub fn requests_left(&self, now: Timestamp) -> Option<Allowance> {
        self.requests().map(|cell| cell.allowance(now))
    }

    pub fn tokens_left(&self, now: Timestamp) -> Option<Allowance> {
        self.tokens().map(|cell| cell.allowance(now))
    }

    fn take_place(&self) -> Result<(), Refusal> {
        let limit = self.limits().parallel_requests.unwrap_or(u32::MAX);
        let mut running = self.running().load(Ordering::Acquire);
        loop {
            if running >= limit {
                let refused = if limit == 0 { Refused::Never } else { Refused::For(PARALLEL_RETRY) };
                return Err(self.refusal("parallel requests", limit.into(), refused));
            }
            match self.running().compare_exchange_weak(running, running + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(changed) => running = changed,
            }
        }
    }

    fn refusal(&self, what: &'static str, limit: u64, refused: Refused) -> Refusal {
        Refusal::RateLimited(RateLimited {
            scope: self.kind.name(),
            what,
            limit: self.kind.is_tenants_own().then_some(limit),
            retry_after: match refused {
                Refused::Never => None,
                Refused::For(wait) => Some(wait),
            },
        })
    }
}

impl Limited {
    /// Of these limits, going on from what was used before; none where nothing is limited.
    fn of(limits: Limits, before: Option<&Self>) -> Option<Box<Self>> {
        let requests = before.and_then(|before| before.requests.as_ref());
        let tokens = before.and_then(|before| before.tokens.as_ref());
        let limited = Self {
            limits,
            requests: carried(requests, limits.requests_per_minute.map(u64::from)),
            tokens: carried(tokens, limits.tokens_per_minute),
        };
        (limits != Limits::default()).then(|| Box::new(limited))
    }
}

fn carried(before: Option<&Arc<Cell>>, limit: Option<u64>) -> Option<Arc<Cell>> {
    let limit = limit?;
    Some(match before {
        Some(cell) if cell.limit() == limit => Arc::clone(cell),
        Some(cell) => Arc::new(cell.under(limit)),
        None => Arc::new(Cell::new(limit)),
    })
}
