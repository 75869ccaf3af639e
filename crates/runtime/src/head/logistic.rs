//! Multinomial logistic regression with an L2 penalty: its loss and gradient over rows that are mostly zero.
//!
//! Weights are laid out by column, the labels of one column next to each other: a row touches some hundred columns, and each
//! is one run of memory. Labels are padded to whole vectors of the machine; what is padded stays zero.

use super::lbfgs::dot;

/// Labels a column are padded to a multiple of this: eight f32 are 32 bytes.
const LANES: usize = 8;

/// Rows of features, each with columns ascending below `width`.
#[derive(Clone, Debug, Default)]
pub(super) struct Design {
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
    width: usize,
}

/// What is minimised: mean loss of the rows, and `ridge / 2` times the squares of all weights. The bias is not punished.
pub(super) struct Objective<'a> {
    pub design: &'a Design,
    /// The label's number of each row of the design.
    pub truth: &'a [usize],
    pub labels: usize,
    pub ridge: f64,
}

// === impl Design ===

impl Design {
    pub(super) fn new(width: usize) -> Self {
        Self { starts: vec![0], columns: Vec::new(), values: Vec::new(), width }
    }

    pub(super) fn push(&mut self, row: impl Iterator<Item = (u32, f32)>) {
        for (column, value) in row {
            self.columns.push(column);
            self.values.push(value);
        }
        self.starts.push(self.columns.len());
    }

    pub(super) fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn row(&self, number: usize) -> (&[u32], &[f32]) {
        let range = self.starts[number]..self.starts[number + 1];
        (&self.columns[range.clone()], &self.values[range])
    }

    /// The scores of one row, before the softmax; `scores` is a stride long.
    fn scores(&self, number: usize, weights: &[f32], scores: &mut [f32]) {
        let stride = scores.len();
        scores.copy_from_slice(&weights[self.width * stride..]);
        let (columns, values) = self.row(number);
        for (&column, &value) in columns.iter().zip(values) {
            add_scaled(scores, &weights[column as usize * stride..][..stride], value);
        }
    }

    /// The scores of all rows under such weights, without padding.
    pub(super) fn all_scores(&self, weights: &[f32], labels: usize) -> Vec<Vec<f32>> {
        let mut scores = vec![0.0; stride(labels)];
        let one = |row| {
            self.scores(row, weights, &mut scores);
            scores[..labels].to_vec()
        };
        (0..self.rows()).map(one).collect()
    }
}

// === impl Objective ===

impl Objective<'_> {
    /// How many weights there are: a row of the stride for each column, and one for the bias at the end.
    pub(super) fn cells(&self) -> usize {
        (self.design.width + 1) * stride(self.labels)
    }

    /// The value at `weights`; its gradient into `gradient`.
    pub(super) fn value(&self, weights: &[f32], gradient: &mut [f32]) -> f64 {
        let stride = stride(self.labels);
        let width = self.design.width;
        gradient.fill(0.0);
        let share = 1.0 / self.design.rows() as f32;
        let mut scores = vec![0.0; stride];
        let mut loss = 0.0;
        for (row, &truth) in self.truth.iter().enumerate() {
            self.design.scores(row, weights, &mut scores);
            loss += softmax_loss(&mut scores[..self.labels], truth);
            scores[truth] -= 1.0;
            scores[..self.labels].iter_mut().for_each(|score| *score *= share);
            scores[self.labels..].fill(0.0);
            add_scaled(&mut gradient[width * stride..], &scores, 1.0);
            let (columns, values) = self.design.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                add_scaled(&mut gradient[column as usize * stride..][..stride], &scores, value);
            }
        }
        let punished = &weights[..width * stride];
        add_scaled(&mut gradient[..width * stride], punished, narrow(self.ridge));
        loss / self.design.rows() as f64 + 0.5 * self.ridge * dot(punished, punished)
    }
}

pub(super) fn stride(labels: usize) -> usize {
    labels.next_multiple_of(LANES)
}

/// Scores become probabilities; the loss is minus the logarithm of the true one's.
fn softmax_loss(scores: &mut [f32], truth: usize) -> f64 {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, &score| largest.max(score));
    let of_truth = scores[truth];
    let sum = softmax_from(scores, largest);
    f64::from(libm::logf(sum) - (of_truth - largest))
}

/// Scores to probabilities, in place.
pub(super) fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, &score| largest.max(score));
    softmax_from(scores, largest);
}

/// The sum of the exponentials by which it was divided.
fn softmax_from(scores: &mut [f32], largest: f32) -> f32 {
    scores.iter_mut().for_each(|score| *score = libm::expf(*score - largest));
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
    sum
}

fn add_scaled(to: &mut [f32], what: &[f32], factor: f32) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::lbfgs::{Limits, minimise};
    use super::*;

    /// Nine points of three labels in a plane, which no line parts.
    const POINTS: [([f32; 2], usize); 9] = [
        ([0.1, 0.2], 0),
        ([0.9, 0.1], 1),
        ([0.2, 0.8], 2),
        ([0.3, 0.1], 0),
        ([0.7, 0.4], 1),
        ([0.4, 0.9], 2),
        ([0.6, 0.3], 0),
        ([0.8, 0.8], 1),
        ([0.1, 0.6], 2),
    ];

    fn points() -> (Design, Vec<usize>) {
        let mut design = Design::new(2);
        for (point, _) in POINTS {
            design.push((0..).zip(point));
        }
        (design, POINTS.iter().map(|(_, label)| *label).collect())
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let (design, truth) = points();
        let objective = Objective { design: &design, truth: &truth, labels: 3, ridge: 0.05 };
        let at: Vec<f32> =
            (0..objective.cells()).map(|cell| if cell % 8 < 3 { (cell as f32).sin() } else { 0.0 }).collect();
        let mut gradient = vec![0.0; at.len()];
        objective.value(&at, &mut gradient);
        for cell in 0..at.len() {
            if cell % 8 >= 3 {
                assert_eq!(gradient[cell], 0.0, "padding stays where it is");
                continue;
            }
            let moved = |by: f32| {
                let mut moved = at.clone();
                moved[cell] += by;
                objective.value(&moved, &mut vec![0.0; at.len()])
            };
            let slope = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!((slope - f64::from(gradient[cell])).abs() < 1e-4, "{cell}: {slope} {}", gradient[cell]);
        }
    }

    #[test]
    fn its_bottom_is_where_scikit_learn_finds_it() {
        let (design, truth) = points();
        // C = 2: sums there, means here.
        let objective = Objective { design: &design, truth: &truth, labels: 3, ridge: 1.0 / (2.0 * 9.0) };
        let limits = Limits { iterations_max: 200, slope: 1e-6, decrease: 0.0 };
        let start = vec![0.0; objective.cells()];
        let bottom = minimise(start, limits, |at, slope| objective.value(at, slope), |_, _| ControlFlow::Continue(()));
        let at = bottom.expect("nobody stops it").at;
        for (row, expected) in at.chunks_exact(8).zip(SCIKIT) {
            for (weight, expected) in row.iter().zip(expected) {
                assert!((weight - expected).abs() < 1e-3, "{at:?}");
            }
        }
    }

    /// `LogisticRegression(C=2, tol=1e-10).fit(...)` of scikit-learn 1.9.1: `coef_.T`, and `intercept_` around its mean.
    const SCIKIT: [[f32; 3]; 3] = [
        [-0.518_462_55, 1.399_069_2, -0.880_606_6],
        [-1.088_279_2, -0.072_317_72, 1.160_597],
        [0.765_378_05, -0.603_451_6, -0.161_926_44],
    ];

    #[test]
    fn probabilities_are_finite_however_far_scores_are_apart() {
        let mut scores = [-3e38, 0.0, 3e38];
        softmax(&mut scores);
        assert_eq!(scores, [0.0, 0.0, 1.0]);
    }
}
