//! What has happened lately: how fast the queue drains, which share met its goal, and averages that forget.

use std::time::Duration;

use tollgate_types::Timestamp;

use super::cost::micros;

/// The attainment is of so many parts of a second each.
const PARTS: usize = 10;
/// Work and time of the drain rate lose half their weight in about so many microseconds of waiting jobs.
const DRAIN_MEMORY_US: f64 = 2e6;

/// An average in which each value has the same weight against all before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Smooth {
    value: f64,
    weight: f64,
}

/// A sum that forgets with time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fading {
    value: f64,
    at: Timestamp,
}

/// Predicted work done per microsecond, over the time in which jobs waited: at other times nothing is drained.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    work_us: f64,
    span_us: f64,
    /// All the time in which jobs waited, ever.
    waited_us: u64,
    last: Timestamp,
}

/// How many jobs met their goals in each of the last seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Attainment {
    parts: [Part; PARTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    second: i64,
    met: u32,
    missed: u32,
}

// === impl Smooth ===

impl Smooth {
    pub(super) fn new(value: f64, weight: f64) -> Self {
        Self { value, weight }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.value += self.weight * (value - self.value);
    }

    pub(super) fn value(&self) -> f64 {
        self.value
    }
}

// === impl Fading ===

impl Fading {
    pub(super) fn new(at: Timestamp) -> Self {
        Self { value: 0.0, at }
    }

    /// What is left of it, if it falls to 1/e in `memory`.
    pub(super) fn at(&self, now: Timestamp, memory: Duration) -> f64 {
        self.value * (-micros(now.since(self.at)) / micros(memory).max(1.0)).exp()
    }

    pub(super) fn add(&mut self, value: f64, now: Timestamp, memory: Duration) {
        self.value = (self.at(now, memory) + value).max(0.0);
        self.at = self.at.max(now);
    }
}

// === impl Drain ===

impl Drain {
    /// Until something is measured, so many workers do a second's work in a second.
    pub(super) fn new(workers: usize) -> Self {
        Self { work_us: workers as f64 * 1e5, span_us: 1e5, waited_us: 0, last: Timestamp(i64::MIN) }
    }

    /// Time has passed; jobs waited in it, or not.
    pub(super) fn pass(&mut self, now: Timestamp, waiting: bool) {
        if waiting {
            let us = now.since(self.last).as_micros();
            let kept = (-(us as f64) / DRAIN_MEMORY_US).exp();
            self.work_us *= kept;
            self.span_us = self.span_us * kept + us as f64;
            self.waited_us = self.waited_us.saturating_add(u64::try_from(us).unwrap_or(u64::MAX));
        }
        self.last = self.last.max(now);
    }

    /// To be remembered by a batch when it begins.
    pub(super) fn mark(&self) -> u64 {
        self.waited_us
    }

    /// A batch is done: the part of its work counts that was done while jobs waited.
    pub(super) fn did(&mut self, predicted_us: f64, mark: u64, took: Duration) {
        let waited = self.waited_us.saturating_sub(mark) as f64;
        self.work_us += predicted_us * (waited / micros(took).max(1.0)).min(1.0);
    }

    /// Work per time: about the number of workers.
    pub(super) fn rate(&self) -> f64 {
        (self.work_us / self.span_us.max(1.0)).clamp(0.01, 1e6)
    }
}

// === impl Attainment ===

impl Attainment {
    pub(super) fn add(&mut self, now: Timestamp, met: bool) {
        let second = now.0.div_euclid(1_000_000);
        let index = usize::try_from(second.rem_euclid(PARTS as i64)).unwrap_or(0);
        let part = &mut self.parts[index];
        if part.second != second {
            *part = Part { second, ..Part::default() };
        }
        let count = if met { &mut part.met } else { &mut part.missed };
        *count = count.saturating_add(1);
    }

    pub(super) fn share(&self, now: Timestamp) -> f64 {
        let oldest = now.0.div_euclid(1_000_000).saturating_sub(PARTS as i64 - 1);
        let lately = self.parts.iter().filter(|part| part.second >= oldest);
        let (met, all) = lately.fold((0_u64, 0_u64), |(met, all), part| {
            (met + u64::from(part.met), all + u64::from(part.met) + u64::from(part.missed))
        });
        if all == 0 { 1.0 } else { met as f64 / all as f64 }
    }
}
