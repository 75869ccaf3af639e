//! The only file here that reads the clock or blocks on it. A load generator measures real time or it measures nothing.
#![allow(clippy::disallowed_methods, reason = "this room measures: its clock is the machine's")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub fn now() -> Instant {
    Instant::now()
}

/// Time since `start`.
pub fn since(start: Instant) -> Duration {
    Instant::now().saturating_duration_since(start)
}

/// Blocks this thread until `deadline`. Unlike an async timer, which ticks in whole milliseconds, it is exact to some
/// 50 µs: an open loop at a fixed rate needs that, and runs it on a thread of its own.
pub fn block_until(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

/// Seconds since 1970, rounded down.
pub fn unix_seconds() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

/// A seed for a run that was given none. The run prints it, so that it can be replayed.
pub fn seed() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros() % 1_000_000_000).unwrap_or_default()
}
