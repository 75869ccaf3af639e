//! Latencies in HDR histograms: every value kept to three significant digits, from a nanosecond to ten minutes.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

const HIGHEST_NS: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

#[derive(Clone, Debug)]
pub struct Latencies {
    nanoseconds: Histogram<u64>,
}

/// What people read of a histogram. All in milliseconds; zero where nothing was recorded (see `count`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

// === impl Latencies ===

impl Default for Latencies {
    fn default() -> Self {
        let nanoseconds = Histogram::new_with_bounds(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that the histogram accepts");
        Self { nanoseconds }
    }
}

impl Latencies {
    /// Records one latency; beyond ten minutes it counts as ten minutes.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(HIGHEST_NS);
        self.nanoseconds.saturating_record(nanoseconds.clamp(1, HIGHEST_NS));
    }

    pub fn merge(&mut self, other: &Self) {
        self.nanoseconds.add(&other.nanoseconds).expect("all histograms here have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.nanoseconds.len()
    }

    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        milliseconds(self.nanoseconds.value_at_quantile(quantile) as f64)
    }

    pub fn summary(&self) -> Summary {
        if self.nanoseconds.is_empty() {
            return Summary::default();
        }
        Summary {
            count: self.nanoseconds.len(),
            mean_ms: milliseconds(self.nanoseconds.mean()),
            p50_ms: self.quantile_ms(0.5),
            p90_ms: self.quantile_ms(0.9),
            p99_ms: self.quantile_ms(0.99),
            p999_ms: self.quantile_ms(0.999),
            max_ms: milliseconds(self.nanoseconds.max() as f64),
        }
    }
}

fn milliseconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

/// The middle of a few figures, such as one per round; `None` of none.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, wanted: f64) -> bool {
        (got - wanted).abs() <= wanted * 0.002
    }

    #[test]
    fn quantiles_are_true_to_three_digits() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        assert!(close(summary.mean_ms, 500.5), "{summary:?}");
        assert!(close(summary.p50_ms, 500.0), "{summary:?}");
        assert!(close(summary.p99_ms, 990.0), "{summary:?}");
        assert!(close(summary.max_ms, 1000.0), "{summary:?}");
    }

    #[test]
    fn merging_adds_up_and_the_slowest_is_kept() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        one.record(Duration::from_micros(10));
        other.record(Duration::from_secs(3600));
        one.merge(&other);
        assert_eq!(one.count(), 2);
        assert!(close(one.summary().max_ms, 600_000.0));
    }

    #[test]
    fn an_empty_histogram_summarises_to_zeros() {
        assert_eq!(Latencies::default().summary(), Summary::default());
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
