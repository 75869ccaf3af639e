//! One rate limit: the generic cell rate algorithm (GCRA, ITU-T I.371) for weighted arrivals, in one atomic number.
//!
//! The number is the *theoretical arrival time*: when the next arrival would be due if all before it had come at their
//! even spacing. What it lies ahead of now is what is used up. A whole minute's allowance may come at once.
//!
//! **Unit.** Time is counted in *ticks* of 1/limit microseconds. An arrival of weight `n` moves the time on by
//! `n × 60,000,000 / limit` microseconds, which is `n × 60,000,000` ticks: a whole number, whatever the limit. Nothing
//! is rounded when it is counted, so nothing drifts.
//!
//! **No overflow.** `now` is below 2^63 µs and a limit below 2^64, so now is below 2^127 ticks; a whole allowance is
//! `limit × 60,000,000` ticks, below 2^64 × 2^26 = 2^90. The time is never set further ahead than a whole allowance
//! from some caller's now: below 2^127 + 2^90; and one more weight, itself at most an allowance, below 2^127 + 2^91.
//!
//! **What is promised.** Between any two moments, what is taken less what is given back is at most the limit, and what
//! the limit refills in between. So an estimate that is given back lets nothing through that could not have been used by
//! who had taken it: up to when it is given back it could have been used, and then it is somebody else's.

use std::time::Duration;

use tollgate_types::Timestamp;

use super::atomic::{AtomicU128, Ordering};

/// All limits are per minute.
const MINUTE_MICROS: u128 = 60_000_000;

/// One limit per minute, and how far it is used.
#[derive(Debug)]
pub struct Cell {
    limit: u64,
    /// In ticks since 1970. What lies before now is of no meaning: the whole allowance is there.
    arrival: AtomicU128,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is more than the whole allowance: it fits at no time.
    Never,
    /// It fits when this has passed, unless somebody else comes first; and not a microsecond earlier, unless somebody
    /// gives something back.
    For(Duration),
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub limit: u64,
    pub remaining: u64,
    /// Until the whole allowance is there again.
    pub reset: Duration,
}

// === impl Cell ===

impl Cell {
    pub fn new(limit: u64) -> Self {
        Self { limit, arrival: AtomicU128::new(0) }
    }

    /// The same use under another limit: the share that is used up stays as it is, and with it when all is there again.
    pub fn under(&self, limit: u64) -> Self {
        let old = u128::from(self.limit.max(1));
        let arrival = self.arrival.load(Ordering::Acquire);
        // By quotient and rest, which do not overflow: the first product is a time in the new ticks, and both factors
        // of the second are below 2^64.
        let (micros, rest) = (arrival / old, arrival % old);
        let new = u128::from(limit);
        Self { limit, arrival: AtomicU128::new(micros * new + (rest * new).div_ceil(old)) }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes a weight of `n`, all or nothing.
    pub fn take(&self, n: u64, now: Timestamp) -> Result<(), Refused> {
        if n > self.limit {
            return Err(Refused::Never);
        }
        let (now, weight) = (self.ticks(now), ticks_of(n));
        let latest = now + ticks_of(self.limit);
        let next = |arrival: u128| Some(arrival.max(now) + weight).filter(|next| *next <= latest);
        self.update(next).map_err(|arrival| Refused::For(self.micros(arrival.max(now) + weight - latest)))
    }

    /// Gives back what was taken and not used. Never more than a whole allowance is there.
    pub fn give_back(&self, n: u64) {
        let weight = ticks_of(n);
        // Below now it does not matter how far: `take` begins at now.
        let _ = self.update(|arrival| Some(arrival.saturating_sub(weight)));
    }

    /// Puts right an estimate that was taken. What was used beyond it has to refill before others may take, but no more
    /// than a whole allowance of it: one wrong estimate does not lock anybody out for more than a minute.
    pub fn correct(&self, estimated: u64, actual: u64, now: Timestamp) {
        let Some(more) = actual.checked_sub(estimated) else { return self.give_back(estimated - actual) };
        let now = self.ticks(now);
        let latest = now + ticks_of(self.limit);
        let _ = self.update(|arrival| {
            let owed = arrival.max(now) + ticks_of(more.min(self.limit));
            Some(owed.min(latest).max(arrival))
        });
    }

    pub fn allowance(&self, now: Timestamp) -> Allowance {
        let ahead = self.arrival.load(Ordering::Acquire).saturating_sub(self.ticks(now));
        let remaining = ticks_of(self.limit).saturating_sub(ahead) / MINUTE_MICROS;
        Allowance {
            limit: self.limit,
            remaining: u64::try_from(remaining).expect("at most the limit"),
            reset: self.micros(ahead),
        }
    }

    /// Moves the theoretical arrival time on, if `next` of what it is says where to; else gives what it is.
    fn update(&self, next: impl Fn(u128) -> Option<u128>) -> Result<(), u128> {
        let mut arrival = self.arrival.load(Ordering::Acquire);
        loop {
            let to = next(arrival).ok_or(arrival)?;
            match self.arrival.compare_exchange_weak(arrival, to, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(changed) => arrival = changed,
            }
        }
    }

    fn ticks(&self, at: Timestamp) -> u128 {
        u128::from(u64::try_from(at.0).unwrap_or(0)) * u128::from(self.limit)
    }

    /// Rounded up: who comes after so long does not come too early.
    fn micros(&self, ticks: u128) -> Duration {
        let micros = ticks.div_ceil(u128::from(self.limit.max(1)));
        Duration::from_micros(u64::try_from(micros).expect("a time, in microseconds"))
    }
}

/// How far a weight moves the arrival time on. Below 2^90 for what is at most a limit.
fn ticks_of(n: u64) -> u128 {
    u128::from(n) * MINUTE_MICROS
}
