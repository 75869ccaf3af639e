//! What a batch will take: `a + b * tokens`, learnt of one worker as it works.
//!
//! Least squares with exponential forgetting (recursive least squares: Haykin, Adaptive Filter Theory, ch. 13), kept as the
//! five sums it needs instead of as a covariance: with two unknowns they are solved on the spot, and nothing can blow up
//! while all batches are alike. What the sums cannot tell apart then, a weak pull towards the last answer decides.
//!
//! A batch that was preempted teaches little: its error is cut to a few times the usual one (Huber, Robust Estimation of a
//! Location Parameter, 1964). A machine that became slower is learnt all the same, a step with each batch.

use std::time::Duration;

/// Weight of the past with each batch: the last hundred count.
const MEMORY: f64 = 0.99;
/// Of a batch's error so many usual ones are believed.
const BELIEVED: f64 = 3.0;
/// The usual error is never taken to be less than this share of a prediction: or one exact series would make the next
/// batch an outlier.
const USUAL_SHARE_MIN: f64 = 0.02;
/// How strongly the last answer holds against the sums, in batches.
const PULL: f64 = 0.05;
const CALIBRATION_ROUNDS: usize = 8;
/// A token costs something, or a batch would have no end.
const PER_TOKEN_US_MIN: f64 = 0.001;
/// Longer is no measurement: the machine slept.
const TOOK_US_MAX: f64 = 600e6;
/// Errors that are remembered.
const ERRORS_MAX: usize = 256;

/// The cost of a batch on one worker, as it is learnt.
#[derive(Clone, Debug)]
pub struct CostModel {
    line: Line,
    sums: Sums,
    /// Mean absolute error, in microseconds.
    usual_us: f64,
    errors: Errors,
}

/// What a batch takes, in microseconds: `a` and `b` of each token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    base_us: f64,
    per_token_us: f64,
}

/// Sums of weight, tokens, time and their products, each batch weighted by its age.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// By how much the last batches took longer than predicted, in microseconds.
#[derive(Clone, Debug, Default)]
struct Errors {
    last: Vec<f64>,
    next: usize,
}

// === impl CostModel ===

impl CostModel {
    /// Takes a cost for granted until something is measured.
    pub fn new(base: Duration, per_token: Duration) -> Self {
        let line = Line { base_us: micros(base), per_token_us: micros(per_token).max(PER_TOKEN_US_MIN) };
        Self { line, sums: Sums::default(), usual_us: 0.0, errors: Errors::default() }
    }

    /// Begins anew from measured pairs of tokens and time; with fewer than two different sizes it only learns from them.
    pub fn calibrate(&mut self, points: &[(u32, Duration)]) {
        let mut fresh = Self { line: self.line, sums: Sums::default(), usual_us: 0.0, errors: Errors::default() };
        for &(tokens, took) in points {
            fresh.sums.add(f64::from(tokens), micros(took).min(TOOK_US_MAX));
        }
        // The pull is towards the line of before: towards their own one, the points need a few rounds.
        for _ in 0..CALIBRATION_ROUNDS {
            fresh.solve();
        }
        let errors =
            points.iter().map(|&(tokens, took)| (micros(took) - fresh.line.predict_us(u64::from(tokens))).abs());
        fresh.usual_us = errors.sum::<f64>() / (points.len().max(1) as f64);
        *self = fresh;
    }

    /// Learns from one batch.
    pub fn learn(&mut self, tokens: u64, took: Duration) {
        let predicted = self.line.predict_us(tokens);
        let error = micros(took).min(TOOK_US_MAX) - predicted;
        self.errors.push(error);
        let usual = self.usual_us.max(USUAL_SHARE_MIN * predicted);
        let believed = error.clamp(-BELIEVED * usual, BELIEVED * usual);
        // The usual error grows at most by a fifth with a batch, and so learns that everything has become slower.
        self.usual_us = usual + 0.1 * (error.abs().min(BELIEVED * usual) - usual);
        self.sums.add(tokens as f64, predicted + believed);
        self.solve();
    }

    pub fn line(&self) -> Line {
        self.line
    }

    /// By how much the slowest of the last batches but one in a hundred took longer than predicted; zero if none did.
    pub fn residual_p99(&self) -> Duration {
        duration(self.errors.quantile(0.99))
    }

    /// The line through the sums, pulled to the last one, with neither of its coefficients below zero.
    fn solve(&mut self) {
        let s = self.sums;
        if s.n <= 0.0 || s.x <= 0.0 {
            return;
        }
        // Two points of the last line hold it where the sums say nothing: one at zero, one at the usual size.
        let size = s.x / s.n;
        let at_size = self.line.predict_us_of(size);
        let (n, x, y) = (s.n + 2.0 * PULL, s.x + PULL * size, s.y + PULL * (self.line.base_us + at_size));
        let (xx, xy) = (s.xx + PULL * size * size, s.xy + PULL * size * at_size);
        let spread = n * xx - x * x;
        let slope = if spread > 0.0 { (n * xy - x * y) / spread } else { self.line.per_token_us };
        let base = (y - slope * x) / n;
        let (base, slope) = match (base < 0.0, slope < PER_TOKEN_US_MIN) {
            (false, false) => (base, slope),
            (true, _) => (0.0, xy / xx),
            (false, true) => ((y - PER_TOKEN_US_MIN * x) / n, PER_TOKEN_US_MIN),
        };
        if base.is_finite() && slope.is_finite() {
            self.line = Line { base_us: base.max(0.0), per_token_us: slope.max(PER_TOKEN_US_MIN) };
        }
    }
}

// === impl Line ===

impl Line {
    /// The mean of several, of which there is at least one.
    pub(super) fn mean(lines: impl Iterator<Item = Self>) -> Self {
        let mut sum = Self { base_us: 0.0, per_token_us: 0.0 };
        let mut count = 0.0;
        for line in lines {
            (sum.base_us, sum.per_token_us) = (sum.base_us + line.base_us, sum.per_token_us + line.per_token_us);
            count += 1.0;
        }
        Self { base_us: sum.base_us / count, per_token_us: sum.per_token_us / count }
    }

    fn predict_us_of(self, tokens: f64) -> f64 {
        self.base_us + self.per_token_us * tokens
    }

    /// Microseconds for a batch of so many tokens.
    pub fn predict_us(self, tokens: u64) -> f64 {
        self.predict_us_of(tokens as f64)
    }

    /// The tokens of the largest batch that takes no longer than so many microseconds; less than zero if none does.
    pub fn tokens_within(self, us: f64) -> f64 {
        (us - self.base_us) / self.per_token_us
    }

    /// `a`, in microseconds.
    pub fn base_us(self) -> f64 {
        self.base_us
    }

    /// `b`, in microseconds.
    pub fn per_token_us(self) -> f64 {
        self.per_token_us
    }
}

// === impl Sums ===

impl Sums {
    fn add(&mut self, x: f64, y: f64) {
        for sum in [&mut self.n, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= MEMORY;
        }
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
    }
}

// === impl Errors ===

impl Errors {
    fn push(&mut self, error: f64) {
        if self.last.len() < ERRORS_MAX {
            self.last.push(error);
        } else {
            self.last[self.next] = error;
        }
        self.next = (self.next + 1) % ERRORS_MAX;
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.last.clone();
        sorted.sort_by(f64::total_cmp);
        rank(sorted.len(), q).map_or(0.0, |index| sorted[index])
    }
}

/// Where the quantile is among so many sorted values.
fn rank(len: usize, q: f64) -> Option<usize> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and len")]
    let index = (len as f64 * q).ceil() as usize;
    len.checked_sub(1).map(|last| index.saturating_sub(1).min(last))
}

pub(super) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A duration of so many microseconds, none if that is less than zero or no number.
pub(super) fn duration(us: f64) -> Duration {
    Duration::try_from_secs_f64(us.clamp(0.0, 1e15) / 1e6).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1_000.0;

    fn model() -> CostModel {
        CostModel::new(Duration::from_millis(1), Duration::from_micros(100))
    }

    fn took(us: f64) -> Duration {
        duration(us)
    }

    fn close(model: &CostModel, base_us: f64, per_token_us: f64, by: f64) -> bool {
        (model.line().base_us() - base_us).abs() <= by * base_us
            && (model.line().per_token_us() - per_token_us).abs() <= by * per_token_us
    }

    #[test]
    fn calibration_finds_the_line_at_once() {
        let mut model = model();
        let points = [8, 16, 32, 64, 128, 256, 320].map(|tokens| (tokens, took(3.0 * MS + 300.0 * f64::from(tokens))));
        model.calibrate(&points);
        assert!(close(&model, 3.0 * MS, 300.0, 0.02), "{model:?}");
    }

    #[test]
    fn the_line_is_learnt_while_working() {
        let mut model = model();
        for i in 0..400_u32 {
            let tokens = 20 + 37 * i % 300;
            // A tenth of noise that is not random.
            let noise = 1.0 + 0.1 * f64::from(i % 5) / 2.0 - 0.1;
            model.learn(u64::from(tokens), took((3.0 * MS + 300.0 * f64::from(tokens)) * noise));
        }
        assert!(close(&model, 3.0 * MS, 300.0, 0.15), "{model:?}");
        assert!(model.residual_p99() > Duration::from_millis(3) && model.residual_p99() < Duration::from_millis(15));
    }

    #[test]
    fn one_preempted_batch_moves_the_prediction_by_less_than_a_tenth() {
        let mut model = model();
        for i in 0..200_u32 {
            let tokens = 20 + 37 * i % 300;
            model.learn(
                u64::from(tokens),
                took((3.0 * MS + 300.0 * f64::from(tokens)) * (0.95 + 0.1 * f64::from(i % 2))),
            );
        }
        let before = model.line().predict_us(200);
        model.learn(200, Duration::from_secs(2));
        let moved = model.line().predict_us(200) / before;
        assert!((0.9..1.1).contains(&moved), "{moved}");
    }

    #[test]
    fn a_machine_that_becomes_twice_as_slow_is_learnt_within_two_hundred_batches() {
        let mut model = model();
        let run = |model: &mut CostModel, factor: f64| {
            for i in 0..200_u32 {
                let tokens = 20 + 37 * i % 300;
                model.learn(u64::from(tokens), took(factor * (3.0 * MS + 300.0 * f64::from(tokens))));
            }
        };
        run(&mut model, 1.0);
        run(&mut model, 2.0);
        let ratio = model.line().predict_us(160) / (2.0 * (3.0 * MS + 300.0 * 160.0));
        assert!((0.8..1.2).contains(&ratio), "{ratio}");
    }

    #[test]
    fn batches_all_alike_leave_the_line_where_it_was_found() {
        let mut model = model();
        model.calibrate(&[(8, took(3.0 * MS + 8.0 * 300.0)), (320, took(3.0 * MS + 320.0 * 300.0))]);
        for _ in 0..10_000 {
            model.learn(20, took(3.0 * MS + 20.0 * 300.0));
        }
        assert!((model.line().predict_us(20) - 9.0 * MS).abs() < 0.1 * MS, "{model:?}");
        let far = model.line().predict_us(320) / (3.0 * MS + 320.0 * 300.0);
        assert!((0.7..1.3).contains(&far), "{far}");
    }

    #[test]
    fn whatever_is_measured_the_coefficients_are_numbers_and_a_token_costs_something() {
        let mut model = CostModel::new(Duration::ZERO, Duration::ZERO);
        for (tokens, took) in
            [(0, Duration::MAX), (u64::MAX, Duration::ZERO), (1, Duration::ZERO), (320, Duration::MAX)]
        {
            model.learn(tokens, took);
            let (a, b) = (model.line().base_us(), model.line().per_token_us());
            assert!(a.is_finite() && a >= 0.0 && b.is_finite() && b >= PER_TOKEN_US_MIN, "{tokens} {took:?}: {a} {b}");
        }
        model.calibrate(&[]);
        assert!(model.line().predict_us(320).is_finite());
    }
}
