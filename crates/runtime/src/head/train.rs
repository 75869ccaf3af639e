//! From labelled rows to a head. The same rows, seed and settings make the same bytes on every machine: one thread, written
//! orders, `libm` for exponentials and logarithms, no table whose order is chance.
//!
//! In three steps: fit on what is kept; measure and calibrate on what is held out; fit again on all rows, under the same
//! temperature. So the report's figures are those of the first fit, which has seen fewer rows than the head that is kept.

use std::ops::ControlFlow;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::figures::{figures, rounded};
use super::lbfgs::{Limits, Minimum, minimise};
use super::logistic::{Design, Objective, stride};
use super::ngrams::{self, BUCKETS_LOG2, Sparse};
use super::rows::{self, Fault, LABELS_MAX, ROWS_MAX, Row};
use super::split::{Split, held_out};
use super::{About, Head, Kind, Validation, calibrate, file, weighed};

/// Weights while training, labels times columns that are used: 64 MiB of f32, of which L-BFGS keeps some 17 copies.
pub const CELLS_MAX: usize = 1 << 24;

/// What made a head, as far as it is ours: a head made by other code says so.
const CODE: &[&str] = &[
    include_str!("../head.rs"),
    include_str!("calibrate.rs"),
    include_str!("figures.rs"),
    include_str!("file.rs"),
    include_str!("lbfgs.rs"),
    include_str!("logistic.rs"),
    include_str!("ngrams.rs"),
    include_str!("rows.rs"),
    include_str!("split.rs"),
    include_str!("train.rs"),
];

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    // Numbers are rounded to nine decimals.
    /// Of the split and of the bootstrap; the fit itself knows no chance.
    pub seed: u64,
    /// What an error costs beside large weights, as scikit-learn's `C`: the larger, the closer it keeps to the rows.
    pub c: f64,
    /// Buckets a space, as the power of two; of a hashed head only.
    pub buckets_log2: u32,
    /// The share of the rows (of groups, if all rows have one) that is held out, of 1.
    pub held_out: f64,
    /// Whether to fit again on all rows once the temperature is known.
    pub refit: bool,
    pub iterations_max: u32,
    /// The relative decrease of the loss below which an iteration is the last.
    pub decrease: f64,
}

/// What is learned from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The rows' texts, hashed.
    Hashed,
    /// Vectors of an encoder, `dims` numbers for each row, one row after the other.
    Encoder { digest: &'a str, dims: usize, vectors: &'a [f32] },
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub phase: Phase,
    pub iteration: u32,
    pub iterations_max: u32,
    /// Mean loss with the penalty, in nats.
    pub loss: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On the kept rows.
    Fit,
    /// On all rows.
    Refit,
}

#[derive(Clone, Debug)]
pub struct Trained {
    pub head: Head,
    pub report: Report,
    pub held: Held,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub rows: usize,
    pub labels: usize,
    /// Of the last fit: how many iterations, where its loss ended, and whether it got as far as it was asked.
    pub iterations: u32,
    pub loss: f64,
    pub converged: bool,
    pub temperature: f64,
    pub validation: Validation,
}

/// The held-out rows as the head saw them that had not learned from them: what a cascade is fitted on. Two heads trained on the
/// same rows with the same seed and share hold out the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Their numbers among all rows, ascending.
    pub rows: Vec<usize>,
    /// The number of each one's label.
    pub truth: Vec<usize>,
    /// Calibrated, in the order of the labels.
    pub probabilities: Vec<Vec<f32>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrainError {
    #[error("{given} rows are more than the {ROWS_MAX} that are learned from")]
    TooManyRows { given: usize },
    #[error("a head needs 2 to {LABELS_MAX} labels; the rows have {given}")]
    Labels { given: usize },
    #[error("row {row} (from 0): {fault}")]
    Row { row: usize, fault: Fault },
    #[error("{expected} numbers are needed, {given} were given: one vector for each row")]
    Vectors { expected: usize, given: usize },
    #[error("the vector of row {row} (from 0) has a number that is not finite")]
    NotFinite { row: usize },
    #[error("{columns} columns of {labels} labels are more than {CELLS_MAX} weights: use fewer buckets")]
    TooManyCells { columns: usize, labels: usize },
    #[error("the setting {0} is out of its range")]
    Setting(&'static str),
    #[error("nothing can be held out to calibrate with: more rows, more groups or a larger share are needed")]
    NothingHeldOut,
    #[error("it was told to stop")]
    Stopped,
}

// === impl Settings ===

impl Settings {
    /// For texts.
    pub fn hashed(seed: u64) -> Self {
        Self { seed, c: 10.0, buckets_log2: 14, held_out: 0.2, refit: true, iterations_max: 200, decrease: 1e-5 }
    }

    /// For an encoder's vectors, which have no columns of one label's own and so need to be followed more closely.
    pub fn encoder(seed: u64) -> Self {
        Self { c: 20.0, ..Self::hashed(seed) }
    }

    fn check(&self) -> Result<(), TrainError> {
        let within = |name, is: bool| if is { Ok(()) } else { Err(TrainError::Setting(name)) };
        within("c", self.c.is_finite() && (1e-6..=1e6).contains(&self.c))?;
        within("buckets_log2", BUCKETS_LOG2.contains(&self.buckets_log2))?;
        within("held_out", (0.01..=0.9).contains(&self.held_out))?;
        within("iterations_max", (1..=10_000).contains(&self.iterations_max))?;
        within("decrease", (0.0..=0.1).contains(&self.decrease))
    }

    /// As they can be written down and read back.
    fn rounded(&self) -> Self {
        Self { c: rounded(self.c), held_out: rounded(self.held_out), decrease: rounded(self.decrease), ..*self }
    }
}

/// Fits a head to rows. `progress` is told after each iteration and may break it off.
pub fn train(
    rows: &[Row],
    source: Source<'_>,
    settings: &Settings,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    settings.check()?;
    let settings = &settings.rounded();
    check_rows(rows, source)?;
    let labels = rows::labels(rows);
    let truth: Vec<usize> = rows.iter().filter_map(|row| labels.binary_search(&row.label).ok()).collect();
    let split = held_out(rows, settings.held_out, settings.seed);
    if split.held.len() < 2 || split.kept.is_empty() {
        return Err(TrainError::NothingHeldOut);
    }
    let material = Material::of(rows, source, settings)?;
    let task = Task { material: &material, truth: &truth, labels: labels.len(), settings };

    let fitted = task.fit(&split.kept, Phase::Fit, progress)?;
    let (held, temperature, validation) = task.calibrated(&fitted, split);
    let (last, learned) = if settings.refit {
        let all: Vec<usize> = (0..rows.len()).collect();
        (task.fit(&all, Phase::Refit, progress)?, rows.len())
    } else {
        let kept = rows.len() - held.rows.len();
        (fitted, kept)
    };

    let report = Report {
        rows: learned,
        labels: labels.len(),
        iterations: last.minimum.iterations,
        loss: last.minimum.value,
        converged: last.minimum.converged,
        temperature,
        validation,
    };
    let about = About {
        version: file::version(),
        kind: material.kind(settings),
        labels,
        temperature,
        settings: *settings,
        rows: learned,
        data_sha256: rows::digest(rows),
        vectors_sha256: material.vectors_sha256(),
        code_sha256: code_sha256(),
        validation,
    };
    Ok(Trained { head: last.into_head(about), report, held })
}

/// SHA-256, in hexadecimal, of the source code that makes heads.
pub fn code_sha256() -> String {
    let mut context = Context::new(&SHA256);
    for code in CODE {
        context.update(&(code.len() as u64).to_le_bytes());
        context.update(code.as_bytes());
    }
    rows::hex(context.finish().as_ref())
}

fn check_rows(rows: &[Row], source: Source<'_>) -> Result<(), TrainError> {
    if rows.len() > ROWS_MAX {
        return Err(TrainError::TooManyRows { given: rows.len() });
    }
    for (number, row) in rows.iter().enumerate() {
        rows::check(row).map_err(|fault| TrainError::Row { row: number, fault })?;
    }
    let labels = rows::labels(rows).len();
    if !(2..=LABELS_MAX).contains(&labels) {
        return Err(TrainError::Labels { given: labels });
    }
    let Source::Encoder { dims, vectors, .. } = source else { return Ok(()) };
    if dims == 0 || dims > file::DIMS_MAX || vectors.len() != dims * rows.len() {
        return Err(TrainError::Vectors { expected: dims * rows.len(), given: vectors.len() });
    }
    match vectors.iter().position(|value| !value.is_finite()) {
        Some(place) => Err(TrainError::NotFinite { row: place / dims }),
        None => Ok(()),
    }
}

/// What is learned from, read once.
enum Material<'a> {
    Hashed { counted: Vec<Sparse> },
    Encoder { digest: &'a str, dims: usize, vectors: &'a [f32] },
}

/// Everything but which rows.
struct Task<'a> {
    material: &'a Material<'a>,
    truth: &'a [usize],
    labels: usize,
    settings: &'a Settings,
}

/// The columns there are in the rows that are learned from, and what they weigh. Others would stay at zero, and so are left out.
struct Columns {
    used: Vec<u32>,
    idf: Vec<f32>,
}

struct Fitted {
    minimum: Minimum,
    columns: Columns,
    labels: usize,
}

// === impl Material ===

impl<'a> Material<'a> {
    fn of(rows: &[Row], source: Source<'a>, settings: &Settings) -> Result<Self, TrainError> {
        match source {
            Source::Encoder { digest, dims, vectors } => Ok(Self::Encoder { digest, dims, vectors }),
            Source::Hashed => {
                let counted = rows.iter().enumerate().map(|(number, row)| {
                    ngrams::counted(&row.text, settings.buckets_log2)
                        .map_err(|long| TrainError::Row { row: number, fault: Fault::LongText(long.bytes) })
                });
                Ok(Self::Hashed { counted: counted.collect::<Result<_, _>>()? })
            }
        }
    }

    fn kind(&self, settings: &Settings) -> Kind {
        match self {
            Self::Hashed { .. } => Kind::Hashed { buckets_log2: settings.buckets_log2 },
            Self::Encoder { digest, dims, .. } => Kind::Encoder { digest: (*digest).to_owned(), dims: *dims },
        }
    }

    fn vectors_sha256(&self) -> Option<String> {
        let Self::Encoder { vectors, .. } = self else { return None };
        let mut context = Context::new(&SHA256);
        vectors.iter().for_each(|value| context.update(&value.to_le_bytes()));
        Some(rows::hex(context.finish().as_ref()))
    }

    /// What these rows have.
    fn columns(&self, of: &[usize], kind: &Kind) -> Columns {
        match self {
            Self::Encoder { .. } => Columns { used: (0..).take(kind.columns()).collect(), idf: Vec::new() },
            Self::Hashed { counted } => {
                let mut rows_with = vec![0_u32; kind.columns()];
                for &row in of {
                    counted[row].columns.iter().for_each(|&column| rows_with[column as usize] += 1);
                }
                Columns {
                    used: (0..).zip(&rows_with).filter(|(_, rows)| **rows > 0).map(|(column, _)| column).collect(),
                    idf: rows_with.iter().map(|&rows| inverse_frequency(rows, of.len())).collect(),
                }
            }
        }
    }

    fn design(&self, of: &[usize], columns: &Columns) -> Design {
        let mut design = Design::new(columns.used.len());
        for &row in of {
            match self {
                Self::Encoder { dims, vectors, .. } => {
                    design.push((0..).zip(vectors[row * dims..][..*dims].iter().copied()));
                }
                Self::Hashed { counted } => {
                    let weighed = weighed(counted[row].clone(), &columns.idf);
                    // A bucket that no row had which was learned from has no weight: it counts in the length, and that is all.
                    let known = weighed.columns.iter().zip(&weighed.values).filter_map(|(column, &value)| {
                        let place = columns.used.binary_search(column).ok()?;
                        Some((u32::try_from(place).ok()?, value))
                    });
                    design.push(known);
                }
            }
        }
        design
    }
}

/// As scikit-learn smooths it: one more text that has everything. So what is in every text still weighs 1.
fn inverse_frequency(rows_with: u32, rows: usize) -> f32 {
    1.0 + libm::logf((1 + rows) as f32 / (1 + rows_with) as f32)
}

// === impl Task ===

impl Task<'_> {
    fn fit(
        &self,
        rows: &[usize],
        phase: Phase,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Fitted, TrainError> {
        let columns = self.material.columns(rows, &self.material.kind(self.settings));
        if (columns.used.len() + 1) * stride(self.labels) > CELLS_MAX {
            return Err(TrainError::TooManyCells { columns: columns.used.len(), labels: self.labels });
        }
        let design = self.material.design(rows, &columns);
        let truth: Vec<usize> = rows.iter().map(|&row| self.truth[row]).collect();
        let ridge = 1.0 / (self.settings.c * rows.len() as f64);
        let objective = Objective { design: &design, truth: &truth, labels: self.labels, ridge };
        let iterations_max = self.settings.iterations_max;
        let limits = Limits { iterations_max, slope: 1e-7, decrease: self.settings.decrease };
        let minimum = minimise(
            vec![0.0; objective.cells()],
            limits,
            |weights, gradient| objective.value(weights, gradient),
            |iteration, loss| progress(Progress { phase, iteration, iterations_max, loss }),
        );
        Ok(Fitted { minimum: minimum.ok_or(TrainError::Stopped)?, columns, labels: self.labels })
    }

    fn calibrated(&self, fitted: &Fitted, split: Split) -> (Held, f64, Validation) {
        let design = self.material.design(&split.held, &fitted.columns);
        let scores = design.all_scores(&fitted.minimum.at, self.labels);
        let truth: Vec<usize> = split.held.iter().map(|&row| self.truth[row]).collect();
        let at = |temperature| -> Vec<Vec<f32>> {
            scores.iter().map(|row| calibrate::probabilities(row, temperature)).collect()
        };
        let temperature = rounded(calibrate::temperature(&scores, &truth));
        let before = figures(&at(1.0), &truth, self.settings.seed);
        let validation = Validation { before, ece_after: rounded(calibrate::crossed_ece(&scores, &truth)) };
        (Held { rows: split.held, truth, probabilities: at(temperature) }, temperature, validation)
    }
}

// === impl Fitted ===

impl Fitted {
    /// Without padding, and with the columns that were not used.
    fn into_head(self, about: About) -> Head {
        let stride = stride(self.labels);
        let mut rows = self.minimum.at.chunks_exact(stride).map(|row| &row[..self.labels]);
        let mut weights = vec![0.0; about.kind.columns() * self.labels];
        for (&column, row) in self.columns.used.iter().zip(&mut rows) {
            weights[column as usize * self.labels..][..self.labels].copy_from_slice(row);
        }
        let bias = rows.next().unwrap_or_default().to_vec();
        match about.kind {
            Kind::Hashed { .. } => Head::hashed(about, self.columns.idf, &weights, bias),
            Kind::Encoder { .. } => Head::encoder(about, weights, bias),
        }
    }
}
