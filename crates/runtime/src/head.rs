//! From features to labels: the built-in classifier, which reads hashed n-grams and needs no download, and heads on an
//! encoder's vectors. Both are multinomial logistic regressions whose probabilities are calibrated.
//!
//! - [`rows`]: labelled texts from files. [`ngrams`]: from a text to its buckets. [`split`]: which rows are held out.
//! - [`train`]: from rows to a head, the same to the last byte for the same seed. [`figures`]: how good it is.
//! - [`cascade`]: the cheap head first, the dear one where the first is not sure.
//! - `file.rs`: a head as bytes, `lbfgs.rs` and `logistic.rs` what is minimised and how, `calibrate.rs` the temperature.
//!
//! Where embeddings come from is [`crate::encoder`]'s; who pays and who waits, is not known here.

pub mod calibrate;
pub mod cascade;
pub mod figures;
pub mod ngrams;
pub mod rows;
pub mod split;
pub mod train;

mod file;
mod lbfgs;
mod logistic;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use file::{HEAD_BYTES_MAX, HeadError};

use figures::Figures;
use ngrams::{Sparse, TextTooLong};
use train::Settings;

/// A classifier, ready to be asked by many threads at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    about: About,
    weights: Weights,
}

/// What a head is and where it comes from; written into its file, and covered by the file's seal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Of the file's form.
    pub version: u32,
    pub kind: Kind,
    /// In the order of the probabilities.
    pub labels: Vec<String>,
    /// What scores are divided by. As all numbers here, rounded to what JSON gives back exactly ([`figures::rounded`]).
    pub temperature: f64,
    pub settings: Settings,
    /// How many rows it learned from, the held-out ones included if it was fitted again on all.
    pub rows: usize,
    /// Of all rows, in their order ([`rows::digest`]).
    pub data_sha256: String,
    /// Of the vectors it learned from, if they are an encoder's: f32 little endian, row by row.
    pub vectors_sha256: Option<String>,
    /// Of the source code that made it ([`train::code_sha256`]).
    pub code_sha256: String,
    /// On the held-out rows, before the temperature and after it.
    pub validation: Validation,
}

/// What a head reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// Texts: two spaces of `2^buckets_log2` buckets ([`ngrams::counted`]).
    Hashed { buckets_log2: u32 },
    /// Vectors of `dims` numbers of the encoder with this digest.
    Encoder { digest: String, dims: usize },
}

/// Measured on rows that were not learned from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// With a temperature of 1.
    pub before: Figures,
    /// Calibration error with the temperature; each half of the rows by the other half's.
    pub ece_after: f64,
}

/// One thing to be classified.
#[derive(Clone, Copy, Debug)]
pub enum Features<'a> {
    Text(&'a str),
    Vector(&'a [f32]),
}

/// A label and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess<'a> {
    pub label: &'a str,
    pub probability: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClassifyError {
    #[error(transparent)]
    Text(#[from] TextTooLong),
    #[error("the head reads texts, and was given a vector")]
    WantsText,
    #[error("the head reads an encoder's vectors, and was given a text")]
    WantsVector,
    #[error("the head reads vectors of {expected}, and was given one of {given}")]
    Dims { expected: usize, given: usize },
    #[error("the vector has a number that is not finite, or far too large")]
    NotFinite,
}

/// By column, the labels of a column next to each other.
#[derive(Clone, Debug, PartialEq)]
enum Weights {
    /// A column's weights are its `cells` (`i8`) times its `scale`: a quarter of the size, and what it costs in quality is
    /// below what can be measured.
    Hashed {
        idf: Vec<f32>,
        scale: Vec<f32>,
        cells: Vec<i8>,
        bias: Vec<f32>,
    },
    Encoder {
        cells: Vec<f32>,
        bias: Vec<f32>,
    },
}

/// The `k` likeliest labels, the likeliest first; `probabilities` in the order of `labels`.
pub fn likeliest<'a>(labels: &'a [String], probabilities: &[f32], k: usize) -> Vec<Guess<'a>> {
    let mut guesses: Vec<Guess<'a>> =
        labels.iter().zip(probabilities).map(|(label, &probability)| Guess { label, probability }).collect();
    // Stable: of equals, the first label.
    guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    guesses.truncate(k);
    guesses
}

// === impl Head ===

impl Head {
    pub fn about(&self) -> &About {
        &self.about
    }

    /// In the order of the probabilities.
    pub fn labels(&self) -> &[String] {
        &self.about.labels
    }

    /// How likely each label is, in the order of [`Head::labels`]; together 1. Of a text without any gram only the labels'
    /// shares in the training say something.
    pub fn classify(&self, features: Features<'_>) -> Result<Vec<f32>, ClassifyError> {
        Ok(calibrate::probabilities(&self.scores(features)?, self.about.temperature))
    }

    /// Scores before temperature and softmax.
    fn scores(&self, features: Features<'_>) -> Result<Vec<f32>, ClassifyError> {
        match (&self.weights, features) {
            (Weights::Hashed { idf, scale, cells, bias }, Features::Text(text)) => {
                let sparse = weighed(ngrams::counted(text, self.about.kind.buckets_log2())?, idf);
                Ok(hashed_scores(&sparse, scale, cells, bias))
            }
            (Weights::Encoder { cells, bias }, Features::Vector(vector)) => encoder_scores(vector, cells, bias),
            (Weights::Hashed { .. }, Features::Vector(_)) => Err(ClassifyError::WantsText),
            (Weights::Encoder { .. }, Features::Text(_)) => Err(ClassifyError::WantsVector),
        }
    }

    /// Of weights as training leaves them: a row of `labels` for each column, and the bias.
    fn hashed(about: About, idf: Vec<f32>, weights: &[f32], bias: Vec<f32>) -> Self {
        let (scale, cells): (Vec<f32>, Vec<Vec<i8>>) = weights.chunks_exact(bias.len()).map(quantised).unzip();
        Self { about, weights: Weights::Hashed { idf, scale, cells: cells.concat(), bias } }
    }

    fn encoder(about: About, cells: Vec<f32>, bias: Vec<f32>) -> Self {
        Self { about, weights: Weights::Encoder { cells, bias } }
    }
}

// === impl Kind ===

impl Kind {
    /// How many columns its weights have.
    pub fn columns(&self) -> usize {
        match self {
            Kind::Hashed { buckets_log2 } => 2 << buckets_log2,
            Kind::Encoder { dims, .. } => *dims,
        }
    }

    fn buckets_log2(&self) -> u32 {
        match self {
            Kind::Hashed { buckets_log2 } => *buckets_log2,
            Kind::Encoder { .. } => 0,
        }
    }
}

/// Counts become tf-idf, each space of length 1: so a long word list does not drown the characters, nor they it.
fn weighed(mut counted: Sparse, idf: &[f32]) -> Sparse {
    for (column, value) in counted.columns.iter().zip(&mut counted.values) {
        *value *= idf[*column as usize];
    }
    let words = counted.columns.partition_point(|&column| (column as usize) < idf.len() / 2);
    let (chars, words) = counted.values.split_at_mut(words);
    ngrams::to_unit_length(chars);
    ngrams::to_unit_length(words);
    counted
}

fn hashed_scores(sparse: &Sparse, scale: &[f32], cells: &[i8], bias: &[f32]) -> Vec<f32> {
    let mut scores = bias.to_vec();
    for (&column, &value) in sparse.columns.iter().zip(&sparse.values) {
        let column = column as usize;
        let factor = value * scale[column];
        for (score, &cell) in scores.iter_mut().zip(&cells[column * bias.len()..][..bias.len()]) {
            *score += factor * f32::from(cell);
        }
    }
    scores
}

fn encoder_scores(vector: &[f32], cells: &[f32], bias: &[f32]) -> Result<Vec<f32>, ClassifyError> {
    let expected = cells.len() / bias.len();
    if vector.len() != expected {
        return Err(ClassifyError::Dims { expected, given: vector.len() });
    }
    let mut scores = bias.to_vec();
    for (value, row) in vector.iter().zip(cells.chunks_exact(bias.len())) {
        for (score, cell) in scores.iter_mut().zip(row) {
            *score += value * cell;
        }
    }
    // Finite numbers can still be too large for their products.
    if scores.iter().all(|score| score.is_finite()) { Ok(scores) } else { Err(ClassifyError::NotFinite) }
}

/// A column as whole numbers of -127 to 127 and what one of them is worth.
#[expect(clippy::cast_possible_truncation, reason = "rounded, and at most 127")]
fn quantised(column: &[f32]) -> (f32, Vec<i8>) {
    let largest = column.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    if largest == 0.0 {
        return (0.0, vec![0; column.len()]);
    }
    let scale = largest / 127.0;
    (scale, column.iter().map(|weight| (weight / scale).round().clamp(-127.0, 127.0) as i8).collect())
}
