//! Requests per minute and parallel requests, per key, in memory.
//!
//! The rate is the generic cell rate algorithm (GCRA, ITU-T I.371): one number per key, the theoretical arrival time of
//! the next request; a burst of a whole minute's allowance is let through, then requests at their even spacing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use tollgate_types::{Refusal, Timestamp};

/// In nanoseconds, so that even the largest limit leaves some space between two requests.
const MINUTE_NANOS: i64 = 60_000_000_000;
/// Told to who exceeds the number of parallel requests: nobody knows when one of them ends.
const PARALLEL_RETRY: Duration = Duration::from_secs(1);

/// One key's limits and how far they are used.
#[derive(Debug)]
pub struct KeyLimits {
    per_minute: Option<u32>,
    parallel: Option<u32>,
    /// Theoretical arrival time of the next request, in nanoseconds since 1970.
    arrival: AtomicI64,
    in_flight: Arc<AtomicU32>,
}

/// One of the parallel requests; gives its place back when dropped.
#[derive(Debug)]
pub struct InFlight {
    count: Arc<AtomicU32>,
}

/// What is left of the requests per minute, for the caller to see. `None` where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateState {
    pub requests: Option<Allowance>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub limit: u32,
    pub remaining: u32,
    /// Until the whole allowance is there again.
    pub reset: Duration,
}

// === impl KeyLimits ===

impl KeyLimits {
    pub fn new(per_minute: Option<u32>, parallel: Option<u32>) -> Self {
        Self { per_minute, parallel, arrival: AtomicI64::new(i64::MIN), in_flight: Arc::default() }
    }

    pub fn are(&self, per_minute: Option<u32>, parallel: Option<u32>) -> bool {
        (self.per_minute, self.parallel) == (per_minute, parallel)
    }

    /// Lets one request in, or says when to come again. A refusal uses up nothing.
    pub fn enter(&self, now: Timestamp) -> Result<(InFlight, RateState), Refusal> {
        let in_flight = self.enter_parallel()?;
        let requests = self.per_minute.map(|limit| self.take(limit, now)).transpose()?;
        Ok((in_flight, RateState { requests }))
    }

    fn enter_parallel(&self) -> Result<InFlight, Refusal> {
        let limit = self.parallel.unwrap_or(u32::MAX);
        let enter = |running: u32| (running < limit).then(|| running + 1);
        match self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter) {
            Ok(_) => Ok(InFlight { count: Arc::clone(&self.in_flight) }),
            Err(_) => Err(Refusal::RateLimited {
                what: "parallel requests",
                limit: u64::from(limit),
                retry_after: PARALLEL_RETRY,
            }),
        }
    }

    fn take(&self, limit: u32, now: Timestamp) -> Result<Allowance, Refusal> {
        if limit == 0 {
            let retry_after = Duration::from_secs(60);
            return Err(Refusal::RateLimited { what: "requests per minute", limit: 0, retry_after });
        }
        let now = now.0.saturating_mul(1000);
        let spacing = MINUTE_NANOS / i64::from(limit);
        // A whole allowance may come at once: the last of it runs ahead of its even spacing by all the others.
        let burst = spacing * (i64::from(limit) - 1);
        let next = |arrival: i64| {
            let arrival = arrival.max(now);
            (arrival - now <= burst).then(|| arrival + spacing)
        };
        match self.arrival.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(before) => {
                let ahead = before.max(now) + spacing - now;
                let remaining = (burst + spacing - ahead) / spacing;
                Ok(Allowance {
                    limit,
                    remaining: u32::try_from(remaining).unwrap_or(0),
                    reset: Duration::from_nanos(u64::try_from(ahead).unwrap_or(0)),
                })
            }
            Err(arrival) => Err(Refusal::RateLimited {
                what: "requests per minute",
                limit: u64::from(limit),
                retry_after: Duration::from_nanos(u64::try_from(arrival - now - burst).unwrap_or(0))
                    .max(Duration::from_millis(1)),
            }),
        }
    }
}

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp(1_700_000_000_000_000 + millis * 1000)
    }

    #[test]
    fn a_minute_s_allowance_may_come_at_once_and_then_evenly() {
        let limits = KeyLimits::new(Some(60), None);
        for remaining in (0..60).rev() {
            let (_, state) = limits.enter(at(0)).expect("within the allowance");
            assert_eq!(state.requests.expect("there is a limit").remaining, remaining);
        }
        let refused = limits.enter(at(0)).expect_err("the allowance is used up");
        assert_eq!(
            refused,
            Refusal::RateLimited { what: "requests per minute", limit: 60, retry_after: Duration::from_secs(1) }
        );
        assert!(limits.enter(at(999)).is_err());
        assert!(limits.enter(at(1000)).is_ok(), "told to come after a second, and it came");
        assert!(limits.enter(at(1000)).is_err());
    }

    #[test]
    fn any_minute_lets_through_at_most_twice_the_allowance_and_a_quiet_one_refills_it() {
        let limits = KeyLimits::new(Some(10), None);
        let passed = (0..60_000).step_by(50).filter(|ms| limits.enter(at(*ms)).is_ok()).count();
        assert_eq!(passed, 10 + 9, "ten at once, then one each six seconds");
        assert_eq!((0..20).filter(|_| limits.enter(at(130_000)).is_ok()).count(), 10);
    }

    #[test]
    fn parallel_requests_give_their_place_back() {
        let limits = KeyLimits::new(None, Some(2));
        let first = limits.enter(at(0)).expect("the first");
        let _second = limits.enter(at(0)).expect("the second");
        assert!(matches!(limits.enter(at(0)), Err(Refusal::RateLimited { what: "parallel requests", limit: 2, .. })));
        drop(first);
        assert!(limits.enter(at(0)).is_ok());
    }

    #[test]
    fn a_limit_of_zero_lets_nothing_through() {
        assert!(KeyLimits::new(Some(0), None).enter(at(0)).is_err());
        assert!(KeyLimits::new(None, Some(0)).enter(at(0)).is_err());
    }

    #[test]
    fn even_the_largest_limit_is_one() {
        let limits = KeyLimits::new(Some(u32::MAX), None);
        let (_, state) = limits.enter(at(0)).expect("within the allowance");
        assert_eq!(state.requests.expect("there is a limit").remaining, u32::MAX - 1);
    }

    #[test]
    fn without_limits_nothing_is_counted_against_anybody() {
        let limits = KeyLimits::new(None, None);
        assert_eq!(limits.enter(at(0)).expect("no limit").1.requests, None);
    }
}
