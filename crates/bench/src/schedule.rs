//! When the requests of an open loop are meant to start: at a fixed rate, whatever the server does.

use std::time::Duration;

/// Arrivals at `rate_per_s`, the first at once. Each latency counts from these moments, so a server that stalls is
/// charged for everyone it kept waiting (no coordinated omission).
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    rate_per_s: f64,
}

impl Schedule {
    /// `None` for a rate that is not a positive number.
    pub fn at(rate_per_s: f64) -> Option<Self> {
        (rate_per_s.is_finite() && rate_per_s > 0.0).then_some(Self { rate_per_s })
    }

    /// How long after the start request `index` (from 0) is meant to begin.
    pub fn offset(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / self.rate_per_s)
    }

    /// How many requests begin before `end`.
    pub fn arrivals_before(&self, end: Duration) -> u64 {
        let exact = end.as_secs_f64() * self.rate_per_s;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of requests, never negative"
        )]
        let ceiling = exact.ceil() as u64;
        ceiling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spaced_and_do_not_drift() {
        let schedule = Schedule::at(500.0).unwrap();
        assert_eq!(schedule.offset(0), Duration::ZERO);
        assert_eq!(schedule.offset(1), Duration::from_millis(2));
        assert_eq!(schedule.offset(1_800_000), Duration::from_secs(3600));
    }

    #[test]
    fn the_count_before_an_end_agrees_with_the_offsets() {
        for (rate, seconds) in [(500.0, 10), (3.0, 7), (1_000.0, 1)] {
            let schedule = Schedule::at(rate).unwrap();
            let end = Duration::from_secs(seconds);
            let count = schedule.arrivals_before(end);
            assert!(schedule.offset(count - 1) < end);
            assert!(schedule.offset(count) >= end);
        }
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule::at(rate).is_none(), "{rate}");
        }
    }
}
