//! How fast the simulated provider works, and the only place of this crate that reads a clock.

use std::str::FromStr;
use std::time::Duration;

pub use tokio::time::Instant;

use crate::dice::Dice;

/// Medians of a hosted model at an ordinary hour, in milliseconds.
const FIRST_TOKEN_MS_MEDIAN: f64 = 250.0;
const FIRST_TOKEN_SIGMA: f64 = 0.5;
const GAP_MS_MEDIAN: f64 = 15.0;
const GAP_SIGMA: f64 = 0.4;
/// No single wait is longer: the tail of a log-normal has no end, and a test run has one.
const WAIT_MS_MAX: f64 = 60_000.0;

/// How fast answers come: `instant`, `realistic`, or the median gap between two tokens in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speed {
    /// No delay at all.
    #[default]
    Instant,
    /// Delays of a hosted model, times this factor.
    Paced(f64),
}

// === impl Speed ===

impl Speed {
    pub fn is_instant(self) -> bool {
        matches!(self, Self::Instant)
    }

    /// The wait before the first token.
    pub fn first_token(self, dice: &mut Dice) -> Duration {
        self.wait(dice, FIRST_TOKEN_MS_MEDIAN, FIRST_TOKEN_SIGMA)
    }

    /// The wait between two tokens.
    pub fn gap(self, dice: &mut Dice) -> Duration {
        self.wait(dice, GAP_MS_MEDIAN, GAP_SIGMA)
    }

    fn wait(self, dice: &mut Dice, median_ms: f64, sigma: f64) -> Duration {
        match self {
            Self::Instant => Duration::ZERO,
            Self::Paced(factor) => {
                let wait_ms = dice.log_normal(median_ms * factor, sigma).min(WAIT_MS_MAX);
                Duration::from_secs_f64(wait_ms / 1_000.0)
            }
        }
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "instant" => return Ok(Self::Instant),
            "realistic" => return Ok(Self::Paced(1.0)),
            _ => {}
        }
        let gap_ms: f64 = text.parse().map_err(|_| {
            format!("`{text}` is none of instant, realistic, or a number of milliseconds between tokens")
        })?;
        if !(gap_ms.is_finite() && (0.0..=10_000.0).contains(&gap_ms)) {
            return Err(format!("{text} ms between tokens is out of range (0 to 10000)"));
        }
        Ok(if gap_ms == 0.0 { Self::Instant } else { Self::Paced(gap_ms / GAP_MS_MEDIAN) })
    }
}

/// The runtime's clock, which tests may stop.
#[expect(clippy::disallowed_methods, reason = "the simulator's one look at the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970, for the `created` field of an answer.
pub fn unix_seconds() -> u64 {
    unix_micros() / 1_000_000
}

/// Microseconds since 1970, for the bill.
#[expect(clippy::disallowed_methods, reason = "the simulator's one look at the wall clock")]
pub fn unix_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).expect("584,000 years are long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_from_the_command_line() {
        assert_eq!("instant".parse(), Ok(Speed::Instant));
        assert_eq!("realistic".parse(), Ok(Speed::Paced(1.0)));
        assert_eq!("30".parse(), Ok(Speed::Paced(2.0)));
        assert_eq!("0".parse(), Ok(Speed::Instant));
        for wrong in ["fast", "-1", "NaN", "inf", "10001", ""] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn delays_have_their_medians_and_follow_the_seed() {
        let gaps = |speed: Speed| -> Vec<Duration> {
            let mut dice = Dice::new(5);
            (0..2_000).map(|_| speed.gap(&mut dice)).collect()
        };
        let realistic = gaps(Speed::Paced(1.0));
        let below = realistic.iter().filter(|gap| **gap < Duration::from_millis(15)).count();
        assert!((900..1_100).contains(&below), "{below} of 2000");
        assert_eq!(realistic, gaps(Speed::Paced(1.0)));
        assert!(gaps(Speed::Instant).iter().all(Duration::is_zero));

        let mut dice = Dice::new(5);
        let mut firsts: Vec<Duration> = (0..2_001).map(|_| Speed::Paced(2.0).first_token(&mut dice)).collect();
        firsts.sort();
        assert!((450..550).contains(&firsts[1_000].as_millis()), "{:?}", firsts[1_000]);
    }
}
