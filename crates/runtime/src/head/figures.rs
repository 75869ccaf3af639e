//! How good answers are, with how sure that is: accuracy (Wilson's interval), macro-F1 (bootstrap with a seed), calibration error.

use serde::{Deserialize, Serialize};

use super::split::Chance;

/// Confidences are compared with outcomes in so many equal bins, as Guo et al. (2017) do.
const BINS: usize = 15;
/// Of the bootstrap: the bounds are then its 25th and 975th value.
const RESAMPLES: usize = 1_000;
/// The normal distribution's quantile at 97.5 %.
const Z: f64 = 1.959_963_984_540_054;

/// A share, and where it is with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// What a set of answers is worth. All shares are of 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    pub rows: usize,
    pub accuracy: Interval,
    /// The mean over the labels that are true or were answered at least once.
    pub macro_f1: Interval,
    /// Expected calibration error of the likeliest label.
    pub ece: f64,
}

// === impl Interval ===

impl Interval {
    fn rounded(self) -> Self {
        Self { value: rounded(self.value), low: rounded(self.low), high: rounded(self.high) }
    }
}

/// Probabilities by label for each row, and the number of the label that is true of it. `seed` is the bootstrap's.
pub fn figures(probabilities: &[Vec<f32>], truth: &[usize], seed: u64) -> Figures {
    let answers: Vec<usize> = probabilities.iter().map(|row| likeliest(row)).collect();
    let right = answers.iter().zip(truth).filter(|(answer, truth)| answer == truth).count();
    Figures {
        rows: truth.len(),
        accuracy: wilson(right, truth.len()).rounded(),
        macro_f1: macro_f1_interval(&answers, truth, seed).rounded(),
        ece: rounded(ece(probabilities, truth)),
    }
}

/// To nine decimals. A number below 10^6 has then at most 15 digits, and those any reader of JSON reads back exactly: one that
/// came back a little different would break a head's seal.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.9}").parse().unwrap_or(value)
}

/// The number of the largest; of equals, the first.
pub fn likeliest(probabilities: &[f32]) -> usize {
    let mut best = 0;
    for (number, &probability) in probabilities.iter().enumerate() {
        if probability > probabilities[best] {
            best = number;
        }
    }
    best
}

/// Wilson (1927): unlike the normal interval, right at the ends and for few rows.
pub fn wilson(right: usize, of: usize) -> Interval {
    if of == 0 {
        return Interval { value: 0.0, low: 0.0, high: 1.0 };
    }
    let (n, value) = (of as f64, right as f64 / of as f64);
    let middle = value + Z * Z / (2.0 * n);
    let width = Z * (value * (1.0 - value) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Interval { value, low: ((middle - width) / scale).max(0.0), high: ((middle + width) / scale).min(1.0) }
}

/// The mean over labels of the harmonic mean of precision and recall.
pub fn macro_f1(answers: &[usize], truth: &[usize]) -> f64 {
    counted_f1(answers.iter().copied().zip(truth.iter().copied()), labels_of(answers, truth))
}

/// How far confidence and outcome are apart, each bin by its share of the rows.
pub fn ece(probabilities: &[Vec<f32>], truth: &[usize]) -> f64 {
    let mut bins = [(0.0_f64, 0.0_f64); BINS];
    for (row, &truth) in probabilities.iter().zip(truth) {
        let answer = likeliest(row);
        let confidence = f64::from(row.get(answer).copied().unwrap_or_default());
        let bin = &mut bins[bin_of(confidence)];
        bin.0 += confidence;
        bin.1 += if answer == truth { 1.0 } else { 0.0 };
    }
    bins.iter().map(|(confidence, right)| (confidence - right).abs()).sum::<f64>() / truth.len().max(1) as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 1, so at most BINS")]
fn bin_of(confidence: f64) -> usize {
    ((confidence.clamp(0.0, 1.0) * BINS as f64) as usize).min(BINS - 1)
}

fn macro_f1_interval(answers: &[usize], truth: &[usize], seed: u64) -> Interval {
    let value = macro_f1(answers, truth);
    if truth.is_empty() {
        return Interval { value, low: 0.0, high: 1.0 };
    }
    let (mut chance, labels) = (Chance::new(seed), labels_of(answers, truth));
    let mut drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let rows = (0..truth.len()).map(|_| chance.below(truth.len()));
            counted_f1(rows.map(|row| (answers[row], truth[row])), labels)
        })
        .collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    Interval { value, low: drawn[tail], high: drawn[RESAMPLES - 1 - tail] }
}

/// One more than the largest number of a label.
fn labels_of(answers: &[usize], truth: &[usize]) -> usize {
    answers.iter().chain(truth).max().map_or(0, |largest| largest + 1)
}

fn counted_f1(pairs: impl Iterator<Item = (usize, usize)>, labels: usize) -> f64 {
    // Of each label: how often it was both, and how often either, counted twice if both.
    let (mut both, mut either) = (vec![0_u32; labels], vec![0_u32; labels]);
    for (answer, truth) in pairs {
        both[truth] += u32::from(answer == truth);
        either[answer] += 1;
        either[truth] += 1;
    }
    let seen = either.iter().filter(|&&count| count > 0).count();
    let sum: f64 = both
        .iter()
        .zip(&either)
        .filter(|(_, either)| **either > 0)
        .map(|(&both, &either)| 2.0 * f64::from(both) / f64::from(either))
        .sum();
    sum / seen.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 5e-5, "{value} is not {expected}");
    }

    #[test]
    fn wilsons_interval_is_as_tables_have_it() {
        let of_ten = wilson(8, 10);
        near(of_ten.low, 0.4902);
        near(of_ten.high, 0.9433);
        near(wilson(0, 10).high, 0.2775);
        near(wilson(10, 10).low, 0.7225);
        assert_eq!(wilson(0, 0), Interval { value: 0.0, low: 0.0, high: 1.0 });
    }

    #[test]
    fn macro_f1_is_the_mean_of_the_labels_that_are_seen() {
        // Label 0: precision 1/2, recall 1; 1: precision 1, recall 1/2; 3: never answered; 2 never seen.
        near(macro_f1(&[0, 0, 1, 0], &[0, 1, 1, 3]), (0.5 + 2.0 / 3.0 + 0.0) / 3.0);
        near(macro_f1(&[1, 0], &[1, 0]), 1.0);
        assert_eq!(macro_f1(&[], &[]), 0.0);
    }

    #[test]
    fn the_calibration_error_is_the_gap_of_each_bin_by_its_share() {
        let sure = |confidence: f32| vec![confidence, 1.0 - confidence];
        // Of two at 0.9 one is right, of two at 0.6 both are.
        near(ece(&[sure(0.9), sure(0.9), sure(0.6), sure(0.6)], &[0, 1, 0, 0]), 0.5 * 0.4 + 0.5 * 0.4);
        near(ece(&[sure(1.0)], &[0]), 0.0);
        near(ece(&[sure(1.0)], &[1]), 1.0);
    }

    #[test]
    fn the_bootstrap_has_a_seed_and_holds_the_value_between_its_bounds() {
        let truth: Vec<usize> = (0..200).map(|row| row % 4).collect();
        let answers: Vec<usize> = (0..200).map(|row| if row % 5 == 0 { 0 } else { row % 4 }).collect();
        let one = macro_f1_interval(&answers, &truth, 3);
        assert_eq!(one, macro_f1_interval(&answers, &truth, 3));
        assert_ne!(one, macro_f1_interval(&answers, &truth, 4));
        assert!(one.low < one.value && one.value < one.high && one.high - one.low < 0.2, "{one:?}");
    }

    #[test]
    fn a_rounded_number_comes_back_from_json_as_it_went() {
        for value in [0.1 + 0.2, 1.0 / 3.0, 999_999.123_456_789_1, 1e-9, 0.0, 37.123_456_789_123] {
            let value = rounded(value);
            let text = serde_json::to_string(&value).expect("a number");
            assert_eq!(serde_json::from_str::<f64>(&text).expect("a number"), value);
        }
    }
}
