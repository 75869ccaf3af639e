//! Probabilities that mean what they say: scores are divided by one temperature, fitted on rows the head has not learned from
//! (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). It changes no answer, only how sure it sounds.

use std::ops::RangeInclusive;

use super::figures;
use super::logistic::softmax;

/// Beyond, something else is wrong: scores are at most some tens apart.
pub const TEMPERATURES: RangeInclusive<f64> = 0.02..=50.0;
/// The interval of the search shrinks by 0.618 each time: after 48, to less than one part in 10^9.
const SEARCHES: usize = 48;

/// The temperature under which the held-out truth is likeliest. The loss is convex in its inverse, so that a golden-section
/// search over its logarithm cannot end in the wrong valley.
pub(super) fn temperature(scores: &[Vec<f32>], truth: &[usize]) -> f64 {
    let loss = |log: f64| log_loss_at(scores, truth, libm::exp(log));
    libm::exp(golden_section(libm::log(*TEMPERATURES.start()), libm::log(*TEMPERATURES.end()), loss))
}

/// Softmax of scores divided by the temperature.
pub(super) fn probabilities(scores: &[f32], temperature: f64) -> Vec<f32> {
    let factor = narrow(1.0 / temperature);
    let mut scaled: Vec<f32> = scores.iter().map(|score| score * factor).collect();
    softmax(&mut scaled);
    scaled
}

/// The calibration error after the temperature, not measured on the rows it was fitted on: each half by the other's.
pub(super) fn crossed_ece(scores: &[Vec<f32>], truth: &[usize]) -> f64 {
    let (mut calibrated, mut answers) = (Vec::new(), Vec::new());
    for half in [0, 1] {
        let side = |wanted: usize| (0..truth.len()).filter(move |row| row % 2 == wanted);
        let (fit_scores, fit_truth): (Vec<Vec<f32>>, Vec<usize>) =
            side(1 - half).map(|row| (scores[row].clone(), truth[row])).unzip();
        let fitted = temperature(&fit_scores, &fit_truth);
        calibrated.extend(side(half).map(|row| probabilities(&scores[row], fitted)));
        answers.extend(side(half).map(|row| truth[row]));
    }
    figures::ece(&calibrated, &answers)
}

/// Where a function with one valley is least.
pub(super) fn golden_section(mut low: f64, mut high: f64, value: impl Fn(f64) -> f64) -> f64 {
    // (sqrt(5) - 1) / 2
    const RATIO: f64 = 0.618_033_988_749_894_8;
    let (mut left, mut right) = (high - RATIO * (high - low), low + RATIO * (high - low));
    let (mut at_left, mut at_right) = (value(left), value(right));
    for _ in 0..SEARCHES {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - RATIO * (high - low);
            at_left = value(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + RATIO * (high - low);
            at_right = value(right);
        }
    }
    0.5 * (low + high)
}

/// What is minimised. The truth is believed as far as Laplace's rule of succession allows after so many rows, (n + 1) / (n + 2),
/// and the rest is the other labels'. (Platt, 1999, does so with two.) Otherwise a few rows, all of them right, would make the
/// head as sure as it can be; of a thousand rows it changes nothing.
pub(super) fn log_loss_at(scores: &[Vec<f32>], truth: &[usize], temperature: f64) -> f64 {
    let doubt = 1.0 / (truth.len() as f64 + 2.0);
    let one = |(scores, &truth): (&Vec<f32>, &usize)| {
        let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, &score| largest.max(score));
        let below = |score: f32| f64::from(score - largest) / temperature;
        let sum: f64 = scores.iter().map(|&score| libm::exp(below(score))).sum();
        let of_truth = below(scores[truth]);
        let of_others = scores.iter().map(|&score| below(score)).sum::<f64>() - of_truth;
        libm::log(sum) - (1.0 - doubt) * of_truth - doubt * of_others / (scores.len() - 1).max(1) as f64
    };
    scores.iter().zip(truth).map(one).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::super::split::Chance;
    use super::*;

    /// Scores of which the truth is drawn as if each were divided by `temperature`.
    fn drawn(temperature: f64) -> (Vec<Vec<f32>>, Vec<usize>) {
        let mut chance = Chance::new(11);
        let mut uniform = || chance.below(1_000_000) as f32 / 1e6;
        (0..4_000)
            .map(|_| {
                let scores: Vec<f32> = (0..4).map(|_| 8.0 * uniform()).collect();
                let mut left = uniform();
                let shares = probabilities(&scores, temperature);
                let drawn = shares.iter().position(|share| {
                    left -= share;
                    left < 0.0
                });
                (scores, drawn.unwrap_or(3))
            })
            .unzip()
    }

    #[test]
    fn the_temperature_that_made_the_truth_is_found_again() {
        for expected in [0.5, 1.0, 3.0] {
            let (scores, truth) = drawn(expected);
            let found = temperature(&scores, &truth);
            assert!((found / expected - 1.0).abs() < 0.1, "{found} is not {expected}");
        }
    }

    #[test]
    fn a_few_rows_that_are_all_right_do_not_make_it_certain() {
        let of = |rows: usize| {
            let scores: Vec<Vec<f32>> = (0..rows).map(|row| vec![1.0, if row % 2 == 0 { 0.2 } else { 0.4 }]).collect();
            probabilities(&scores[0], temperature(&scores, &vec![0; rows]))[0]
        };
        assert!((0.88..0.95).contains(&of(10)), "eleven twelfths: {}", of(10));
        assert!((0.98..0.999).contains(&of(100)), "{}", of(100));
    }

    #[test]
    fn calibrating_makes_the_error_small_and_changes_no_answer() {
        let (scores, truth) = drawn(3.0);
        let at = |temperature| -> Vec<Vec<f32>> { scores.iter().map(|row| probabilities(row, temperature)).collect() };
        let (before, after) = (figures::ece(&at(1.0), &truth), crossed_ece(&scores, &truth));
        assert!(before > 0.2 && after < 0.04, "{before} {after}");
        let answers = |rows: Vec<Vec<f32>>| rows.iter().map(|row| figures::likeliest(row)).collect::<Vec<_>>();
        assert_eq!(answers(at(1.0)), answers(at(temperature(&scores, &truth))));
    }

    #[test]
    fn the_search_ends_in_the_valley() {
        assert!((golden_section(-3.0, 9.0, |x| (x - 1.25) * (x - 1.25)) - 1.25).abs() < 1e-6);
    }
}
