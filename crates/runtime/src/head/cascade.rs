//! The cheap head first; where it is not sure, the dear one, and then both together: their calibrated probabilities are mixed
//! log-linearly, since they err in different places.
//!
//! Weight and threshold are chosen on rows neither head has learned from, and never on those it is judged by. The frame is
//! FrugalGPT's (Chen, Zaharia and Zou, 2023); where to stand on the curve is for the operator ([`Point`]).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::calibrate::{TEMPERATURES, golden_section};
use super::figures::{Figures, figures, likeliest, rounded};
use super::logistic::softmax;
use super::{ClassifyError, Features, Head, Kind};

/// Less than this is taken for this much, so that its logarithm is a number.
const LEAST: f32 = 1e-30;

/// Two heads with the same labels, and when which one answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Cascade {
    hashed: Head,
    encoder: Head,
    mix: Mix,
    threshold: f32,
}

/// How the two are mixed: `softmax(((1 - weight) ln p_hashed + weight ln p_encoder) / temperature)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// The encoder's share, of 1.
    pub weight: f64,
    pub temperature: f64,
}

/// What the hashed head says of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum First {
    Answer(Answer),
    /// It is not sure: embed the text and ask [`Cascade::second`].
    Escalate(Scores),
}

/// The hashed head's probabilities, kept for the second step.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    hashed: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// In the order of [`Cascade::labels`].
    pub probabilities: Vec<f32>,
    pub stage: Stage,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Hashed,
    Mixed,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CascadeError {
    #[error("the first head must read texts and the second vectors")]
    Kinds,
    #[error("the two heads do not have the same labels")]
    Labels,
    #[error("the weight must be within 0 and 1, the temperature and the threshold (0 to 1) in their ranges")]
    Numbers,
}

/// What one classification costs each head, in a unit of the caller's (microseconds of CPU, picodollars).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    pub hashed: f64,
    /// With the embedding. Above zero.
    pub encoder: f64,
}

/// What a cascade is worth at one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    pub threshold: f32,
    /// The share of texts the encoder was asked about, of 1.
    pub escalated: f64,
    pub figures: Figures,
    /// Beside asking the encoder alone about everything, of 1.
    pub relative_cost: f64,
}

// === impl Cascade ===

impl Cascade {
    /// `threshold`: from which confidence on (0 to 1) the hashed head answers alone.
    pub fn new(hashed: Head, encoder: Head, mix: Mix, threshold: f32) -> Result<Self, CascadeError> {
        if !matches!((&hashed.about.kind, &encoder.about.kind), (Kind::Hashed { .. }, Kind::Encoder { .. })) {
            return Err(CascadeError::Kinds);
        }
        if hashed.labels() != encoder.labels() {
            return Err(CascadeError::Labels);
        }
        let all_within = (0.0..=1.0).contains(&mix.weight)
            && TEMPERATURES.contains(&mix.temperature)
            && (0.0..=1.0).contains(&threshold);
        if all_within { Ok(Self { hashed, encoder, mix, threshold }) } else { Err(CascadeError::Numbers) }
    }

    /// In the order of all probabilities.
    pub fn labels(&self) -> &[String] {
        self.hashed.labels()
    }

    pub fn hashed(&self) -> &Head {
        &self.hashed
    }

    pub fn encoder(&self) -> &Head {
        &self.encoder
    }

    pub fn mix(&self) -> Mix {
        self.mix
    }

    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// What the hashed head says, if it is sure enough.
    pub fn first(&self, text: &str) -> Result<First, ClassifyError> {
        Ok(self.judge(self.hashed.classify(Features::Text(text))?))
    }

    /// The same, of what [`Cascade::hashed`] has said already.
    pub fn judge(&self, probabilities: Vec<f32>) -> First {
        if is_sure(&probabilities, self.threshold) {
            First::Answer(Answer { probabilities, stage: Stage::Hashed })
        } else {
            First::Escalate(Scores { hashed: probabilities })
        }
    }

    /// What both say together, of the same text's embedding. That it is of the encoder named in the second head's
    /// [`Kind::Encoder`] is for the caller to hold: all vectors of one length look alike.
    pub fn second(&self, scores: &Scores, embedding: &[f32]) -> Result<Answer, ClassifyError> {
        let encoder = self.encoder.classify(Features::Vector(embedding))?;
        Ok(Answer { probabilities: self.mix.of(&scores.hashed, &encoder), stage: Stage::Mixed })
    }
}

// === impl Scores ===

impl Scores {
    /// The answer of the hashed head alone, for when nobody can be asked.
    pub fn into_answer(self) -> Answer {
        Answer { probabilities: self.hashed, stage: Stage::Hashed }
    }
}

// === impl Mix ===

impl Mix {
    /// Probabilities of both together.
    pub fn of(&self, hashed: &[f32], encoder: &[f32]) -> Vec<f32> {
        let factor = narrow(1.0 / self.temperature);
        let mut scores: Vec<f32> = self.logs(hashed, encoder).into_iter().map(|score| score * factor).collect();
        softmax(&mut scores);
        scores
    }

    fn logs(&self, hashed: &[f32], encoder: &[f32]) -> Vec<f32> {
        let (theirs, ours) = (narrow(self.weight), narrow(1.0 - self.weight));
        let log = |probability: f32| libm::logf(probability.max(LEAST));
        hashed.iter().zip(encoder).map(|(&hashed, &encoder)| ours * log(hashed) + theirs * log(encoder)).collect()
    }
}

/// The mix under which the truth is likeliest. Rows are those of [`super::train::Held`] of both heads, in the same order.
pub fn fit_mix(hashed: &[Vec<f32>], encoder: &[Vec<f32>], truth: &[usize]) -> Mix {
    // Of a step's size the likelihood is flat; a finer one would follow the rows' noise.
    const STEPS: u32 = 20;
    let candidates = (0..=STEPS).map(|step| {
        let weight = f64::from(step) / f64::from(STEPS);
        let untempered = Mix { weight, temperature: 1.0 };
        let scores: Vec<Vec<f32>> = hashed.iter().zip(encoder).map(|(a, b)| untempered.logs(a, b)).collect();
        let loss = |log: f64| super::calibrate::log_loss_at(&scores, truth, libm::exp(log));
        let log = golden_section(libm::log(*TEMPERATURES.start()), libm::log(*TEMPERATURES.end()), loss);
        (loss(log), Mix { weight, temperature: rounded(libm::exp(log)) })
    });
    candidates.min_by(|(a, _), (b, _)| a.total_cmp(b)).map_or(Mix { weight: 0.5, temperature: 1.0 }, |(_, mix)| mix)
}

/// What the cascade is worth at each threshold, on rows whose truth is known. `seed` is the bootstrap's.
pub fn pareto(
    mix: Mix,
    hashed: &[Vec<f32>],
    encoder: &[Vec<f32>],
    truth: &[usize],
    thresholds: &[f32],
    costs: Costs,
    seed: u64,
) -> Vec<Point> {
    let mixed: Vec<Vec<f32>> = hashed.iter().zip(encoder).map(|(a, b)| mix.of(a, b)).collect();
    let at = |&threshold: &f32| {
        let alone: Vec<bool> = hashed.iter().map(|row| is_sure(row, threshold)).collect();
        let answers: Vec<Vec<f32>> = alone
            .iter()
            .zip(hashed.iter().zip(&mixed))
            .map(|(&alone, (hashed, mixed))| if alone { hashed.clone() } else { mixed.clone() })
            .collect();
        let escalated = alone.iter().filter(|&&alone| !alone).count() as f64 / truth.len().max(1) as f64;
        Point {
            threshold,
            escalated,
            figures: figures(&answers, truth, seed),
            relative_cost: (costs.hashed + escalated * costs.encoder) / costs.encoder,
        }
    };
    thresholds.iter().map(at).collect()
}

/// The most accurate point that costs no more than this beside the encoder alone; of equals, the cheapest.
pub fn best_within(points: &[Point], relative_cost_max: f64) -> Option<&Point> {
    points.iter().filter(|point| point.relative_cost <= relative_cost_max).max_by(|a, b| {
        let accuracy = a.figures.accuracy.value.total_cmp(&b.figures.accuracy.value);
        accuracy.then(b.relative_cost.total_cmp(&a.relative_cost))
    })
}

fn is_sure(probabilities: &[f32], threshold: f32) -> bool {
    probabilities.get(likeliest(probabilities)).is_some_and(|&confidence| confidence >= threshold)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}
