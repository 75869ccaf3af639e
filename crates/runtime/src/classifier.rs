//! A classifier as a folder: a head that reads texts, one that reads an encoder's vectors, and how they are joined. Whoever
//! trains writes the bytes that [`Classifier::files`] gives; [`Classifier::load`] reads them again.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bounded::{ReadError, read_if_there};
use crate::head::cascade::{Cascade, CascadeError, Costs, Mix, Point, best_within, fit_mix, pareto};
use crate::head::rows::Row;
use crate::head::train::{Progress, Report, Settings, Source, TrainError, train};
use crate::head::{HEAD_BYTES_MAX, Head, HeadError};

pub const HASHED_FILE: &str = "hashed.head";
pub const ENCODER_FILE: &str = "encoder.head";
pub const CASCADE_FILE: &str = "cascade.json";

/// What a folder holds; one of the two heads at least.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    pub hashed: Option<Head>,
    pub encoder: Option<Head>,
    pub joint: Option<Joint>,
}

/// How the two heads answer together, fitted on rows that neither has learned from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joint {
    pub mix: Mix,
    /// From which confidence on, 0 to 1, the hashed head answers alone.
    pub threshold: f32,
}

/// An encoder's vectors of the rows that a classifier is made from.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// Of the model that made them.
    pub digest: &'a str,
    pub dims: usize,
    /// `dims` numbers for each row, one row after the other.
    pub vectors: &'a [f32],
}

/// What was measured while a classifier was made, on rows that it had not learned from then.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub hashed: Report,
    pub encoder: Option<Report>,
    /// What the cascade is worth at each threshold, and which was chosen.
    pub points: Vec<Point>,
    pub chosen: Option<Joint>,
}

/// Thresholds that a cascade may be given.
pub const THRESHOLDS: [f32; 10] = [0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98];
/// A cascade may cost so much of what asking the encoder alone costs: beyond a quarter there is little to gain.
const RELATIVE_COST_MAX: f64 = 0.25;
/// What the two heads cost beside each other, as the choice of a threshold takes it. Measured costs would be others on each
/// machine, and so would the file that is made.
const NOMINAL: Costs = Costs { hashed: 1.0, encoder: 100.0 };

#[derive(Debug, Error)]
pub enum ClassifierError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}: {source}", path.display())]
    Head { path: PathBuf, source: HeadError },
    #[error("{}: {reason}", path.display())]
    Joint { path: PathBuf, reason: String },
    #[error("{} holds neither {HASHED_FILE} nor {ENCODER_FILE}: make them with `tollgate template train`", folder.display())]
    Empty { folder: PathBuf },
}

// === impl Classifier ===

impl Classifier {
    pub fn load(folder: &Path) -> Result<Self, ClassifierError> {
        let head = |name: &str| {
            let path = folder.join(name);
            let Some(bytes) = read_if_there(&path, HEAD_BYTES_MAX)? else { return Ok(None) };
            Head::from_bytes(&bytes).map(Some).map_err(|source| ClassifierError::Head { path, source })
        };
        let (hashed, encoder) = (head(HASHED_FILE)?, head(ENCODER_FILE)?);
        if hashed.is_none() && encoder.is_none() {
            return Err(ClassifierError::Empty { folder: folder.to_owned() });
        }
        let path = folder.join(CASCADE_FILE);
        let joint = match read_if_there(&path, HEAD_BYTES_MAX)? {
            None => None,
            Some(bytes) => {
                let joint = serde_json::from_slice::<Joint>(&bytes);
                Some(joint.map_err(|error| ClassifierError::Joint { path: path.clone(), reason: error.to_string() })?)
            }
        };
        let read = Self { hashed, encoder, joint };
        // Said here and not when the first request comes.
        read.cascade(None).transpose().map_err(|error| ClassifierError::Joint { path, reason: error.to_string() })?;
        Ok(read)
    }

    /// Trains a head on texts and, where an encoder has embedded them, one on its vectors; then how they answer together. The
    /// same rows, vectors and seed give the same bytes. `progress` is told which head is being fitted and how far it is, and
    /// may break it off.
    pub fn train(
        rows: &[Row],
        encoded: Option<Encoded<'_>>,
        seed: u64,
        progress: &mut dyn FnMut(&'static str, Progress) -> ControlFlow<()>,
    ) -> Result<(Self, Made), TrainError> {
        let hashed = train(rows, Source::Hashed, &Settings::hashed(seed), &mut |at| progress("hashed", at))?;
        let Some(Encoded { digest, dims, vectors }) = encoded else {
            let made = Made { hashed: hashed.report, encoder: None, points: Vec::new(), chosen: None };
            return Ok((Self { hashed: Some(hashed.head), encoder: None, joint: None }, made));
        };
        let source = Source::Encoder { digest, dims, vectors };
        let encoder = train(rows, source, &Settings::encoder(seed), &mut |at| progress("encoder", at))?;
        // The same rows were held out of both: neither head has learned from what decides how they are joined.
        let (first, second, truth) = (&hashed.held.probabilities, &encoder.held.probabilities, &hashed.held.truth);
        let mix = fit_mix(first, second, truth);
        let points = pareto(mix, first, second, truth, &THRESHOLDS, NOMINAL, seed);
        let cheapest = || points.iter().min_by(|a, b| a.relative_cost.total_cmp(&b.relative_cost));
        let chosen = best_within(&points, RELATIVE_COST_MAX).or_else(cheapest);
        let joint = chosen.map(|point| Joint { mix, threshold: point.threshold });
        let made = Made { hashed: hashed.report, encoder: Some(encoder.report), points, chosen: joint };
        Ok((Self { hashed: Some(hashed.head), encoder: Some(encoder.head), joint }, made))
    }

    /// The files of the folder, by name.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let joint = self.joint.as_ref().map(|joint| serde_json::to_vec_pretty(joint).expect("two numbers and a third"));
        let heads = [(HASHED_FILE, &self.hashed), (ENCODER_FILE, &self.encoder)];
        let heads = heads.into_iter().filter_map(|(name, head)| Some((name, head.as_ref()?.to_bytes())));
        heads.chain(joint.map(|bytes| (CASCADE_FILE, bytes))).collect()
    }

    /// Both heads together, under a threshold other than the fitted one if that is wanted. `None` where one of them, or how
    /// they are joined, is missing.
    pub fn cascade(&self, threshold: Option<f32>) -> Option<Result<Cascade, CascadeError>> {
        let (hashed, encoder) = (self.hashed.clone()?, self.encoder.clone()?);
        let Joint { mix, threshold: fitted } = self.joint?;
        Some(Cascade::new(hashed, encoder, mix, threshold.unwrap_or(fitted)))
    }
}
