//! How good the built-in classifier is, and the cascade: banking77 (its own test set) and tram2 (whole reports held out).
//!
//! ```text
//! TOLLGATE_DATA_DIR=... cargo run --release -p tollgate-runtime --example heads -- [--embeddings FILE] [--tram-embeddings FILE]
//!     [--encoder-us N] [--buckets-log2 N] [--c X] [--encoder-c X] [--decrease X] [--seed N] [--shots N]
//!     [--only banking77|tram2]
//! ```
//!
//! `TOLLGATE_DATA_DIR` has `datasets/banking77/{train,test}.csv` and `datasets/tram2/single_label.json`. An embeddings file has
//! 384 little-endian f32 for each row, of banking77 the training rows and then the test's; with it the encoder's head and the
//! cascade are measured too. `--encoder-us` is what one embedding costs, in microseconds of CPU. Weight, temperatures and the
//! starred threshold are chosen on rows held out of the training set, never on the test's.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;

use tollgate_runtime::head::cascade::{Costs, Mix, Point, best_within, fit_mix, pareto};
use tollgate_runtime::head::figures::{Figures, figures};
use tollgate_runtime::head::ngrams::{EMBED_DIMS, embed};
use tollgate_runtime::head::rows::{self, Row};
use tollgate_runtime::head::split::{Split, group_folds};
use tollgate_runtime::head::train::{Settings, Source, Trained, train};
use tollgate_runtime::head::{Features, Head};

const THRESHOLDS: &[f32] = &[0.0, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];
/// The share of the encoder's cost that the starred threshold may spend.
const RELATIVE_COST_MAX: f64 = 0.25;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Asked {
    data: PathBuf,
    banking: Option<Vec<f32>>,
    tram: Option<Vec<f32>>,
    encoder_us: f64,
    hashed: Settings,
    encoder: Settings,
    shots: Option<usize>,
    only: Option<String>,
}

/// Rows and, if there are any, their vectors.
#[derive(Clone, Default)]
struct Part {
    rows: Vec<Row>,
    vectors: Vec<f32>,
}

fn main() -> Outcome<()> {
    let asked = asked()?;
    if asked.only.as_deref() != Some("tram2") {
        banking(&asked)?;
    }
    if asked.only.as_deref() != Some("banking77") {
        tram(&asked)?;
    }
    Ok(())
}

fn banking(asked: &Asked) -> Outcome<()> {
    let folder = asked.data.join("datasets/banking77");
    let mut learned = Part { rows: rows::csv(&std::fs::read(folder.join("train.csv"))?)?, vectors: Vec::new() };
    let mut judged = Part { rows: rows::csv(&std::fs::read(folder.join("test.csv"))?)?, vectors: Vec::new() };
    if let Some(vectors) = &asked.banking {
        let (ours, theirs) = vectors.split_at_checked(learned.rows.len() * EMBED_DIMS).ok_or("too few embeddings")?;
        (learned.vectors, judged.vectors) = (ours.to_vec(), theirs.to_vec());
    }
    if let Some(shots) = asked.shots {
        learned = few(&learned, shots);
    }
    println!("# banking77: {} rows to learn from, {} to be judged by", learned.rows.len(), judged.rows.len());
    compared(asked, &learned, &judged)
}

fn tram(asked: &Asked) -> Outcome<()> {
    let rows = rows::json(&std::fs::read(asked.data.join("datasets/tram2/single_label.json"))?)?;
    let all = Part { rows, vectors: asked.tram.clone().unwrap_or_default() };
    for (number, Split { kept, held }) in (1..).zip(group_folds(&all.rows, 5, asked.hashed.seed)) {
        let (learned, judged) = (taken(&all, &kept), taken(&all, &held));
        println!(
            "\n# tram2 by report, fold {number} of 5: {} rows to learn from, {} to be judged by",
            kept.len(),
            held.len()
        );
        compared(asked, &learned, &judged)?;
    }
    Ok(())
}

fn compared(asked: &Asked, learned: &Part, judged: &Part) -> Outcome<()> {
    let hashed = timed("hashed", learned, Source::Hashed, &asked.hashed)?;
    let head = &hashed.head;
    let truth = truth(head, &judged.rows);
    let from_hashed: Vec<Vec<f32>> =
        judged.rows.iter().map(|row| head.classify(Features::Text(&row.text))).collect::<Result<_, _>>()?;
    let hashed_us = cost(&judged.rows, |text| head.classify(Features::Text(text)).map(drop))?;
    let embed_us = cost(&judged.rows, |text| embed(text).map(drop))?;
    print_figures("hashed", &figures(&from_hashed, &truth, asked.hashed.seed));
    let words = judged.rows.iter().map(|row| row.text.split_whitespace().count()).sum::<usize>();
    let words = words as f64 / judged.rows.len() as f64;
    let bytes = head.to_bytes();
    println!("  {hashed_us:.1} us a text of {words:.1} words, {embed_us:.1} us to embed one; {} bytes", bytes.len());
    if learned.vectors.is_empty() {
        return Ok(());
    }

    let source = Source::Encoder { digest: "of the embeddings file", dims: EMBED_DIMS, vectors: &learned.vectors };
    let encoder = timed("encoder", learned, source, &asked.encoder)?;
    let vectors = judged.vectors.chunks_exact(EMBED_DIMS);
    let from_encoder: Vec<Vec<f32>> =
        vectors.map(|vector| encoder.head.classify(Features::Vector(vector))).collect::<Result<_, _>>()?;
    print_figures("encoder", &figures(&from_encoder, &truth, asked.encoder.seed));

    let mix = fit_mix(&hashed.held.probabilities, &encoder.held.probabilities, &hashed.held.truth);
    println!("  mix: weight of the encoder {:.2}, temperature {:.2}", mix.weight, mix.temperature);
    let costs = Costs { hashed: hashed_us, encoder: asked.encoder_us };
    let on = |mix: Mix, a: &[Vec<f32>], b: &[Vec<f32>], truth: &[usize]| {
        pareto(mix, a, b, truth, THRESHOLDS, costs, asked.hashed.seed)
    };
    let chosen = on(mix, &hashed.held.probabilities, &encoder.held.probabilities, &hashed.held.truth);
    let chosen = best_within(&chosen, RELATIVE_COST_MAX).map(|point| point.threshold);
    print_points(&on(mix, &from_hashed, &from_encoder, &truth), chosen);
    Ok(())
}

fn timed(name: &str, part: &Part, source: Source<'_>, settings: &Settings) -> Outcome<Trained> {
    let began = microseconds();
    let trained = train(&part.rows, source, settings, &mut |_| ControlFlow::Continue(()))?;
    let report = &trained.report;
    println!(
        "{name}: trained in {:.1} s of CPU, {} iterations of the last fit (converged: {}), temperature {:.2}",
        (microseconds() - began) / 1e6,
        report.iterations,
        report.converged,
        report.temperature,
    );
    let (before, ece_after) = (&report.validation.before, report.validation.ece_after);
    print_figures("held out, temperature 1", before);
    println!("  held out, calibrated: ECE {:.2} %", 100.0 * ece_after);
    Ok(trained)
}

fn print_figures(name: &str, figures: &Figures) {
    let share = |value: f64| 100.0 * value;
    println!(
        "  {name}: accuracy {:.2} [{:.2}, {:.2}], macro-F1 {:.2} [{:.2}, {:.2}], ECE {:.2} %",
        share(figures.accuracy.value),
        share(figures.accuracy.low),
        share(figures.accuracy.high),
        share(figures.macro_f1.value),
        share(figures.macro_f1.low),
        share(figures.macro_f1.high),
        share(figures.ece),
    );
}

fn print_points(points: &[Point], chosen: Option<f32>) {
    println!("  | threshold | escalated | accuracy | macro-F1 | ECE | cost beside the encoder alone |");
    println!("  |---|---|---|---|---|---|");
    for point in points {
        println!(
            "  | {:.2}{} | {:.1} % | {:.2} | {:.2} | {:.1} % | {:.3} |",
            point.threshold,
            if Some(point.threshold) == chosen { " *" } else { "" },
            100.0 * point.escalated,
            100.0 * point.figures.accuracy.value,
            100.0 * point.figures.macro_f1.value,
            100.0 * point.figures.ece,
            point.relative_cost,
        );
    }
}

/// Microseconds of CPU a text.
fn cost<E: Error + 'static>(rows: &[Row], work: impl Fn(&str) -> Result<(), E>) -> Outcome<f64> {
    // Some kernels count CPU time in hundredths of a second: enough passes that one does not matter.
    const PASSES: usize = 20;
    let began = microseconds();
    for _ in 0..PASSES {
        rows.iter().try_for_each(|row| work(&row.text))?;
    }
    Ok((microseconds() - began) / (PASSES * rows.len()) as f64)
}

/// The number of each row's label; one the head does not know is beyond its last.
fn truth(head: &Head, rows: &[Row]) -> Vec<usize> {
    let labels = head.labels();
    rows.iter().map(|row| labels.binary_search(&row.label).unwrap_or(labels.len())).collect()
}

fn taken(part: &Part, rows: &[usize]) -> Part {
    let vectors = rows.iter().flat_map(|row| part.vectors.chunks_exact(EMBED_DIMS).nth(*row).unwrap_or_default());
    Part { rows: rows.iter().map(|&row| part.rows[row].clone()).collect(), vectors: vectors.copied().collect() }
}

/// The first rows of each label.
fn few(part: &Part, shots: usize) -> Part {
    let mut seen = std::collections::BTreeMap::new();
    let rows: Vec<usize> = (0..part.rows.len())
        .filter(|&row| {
            let count: &mut usize = seen.entry(part.rows[row].label.as_str()).or_default();
            *count += 1;
            *count <= shots
        })
        .collect();
    taken(part, &rows)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program for a person at a shell: where the data is, is said by the environment"
)]
fn asked() -> Outcome<Asked> {
    let data = std::env::var_os("TOLLGATE_DATA_DIR").ok_or("TOLLGATE_DATA_DIR is not set")?;
    let mut asked = Asked {
        data: data.into(),
        banking: None,
        tram: None,
        encoder_us: 3_500.0,
        hashed: Settings::hashed(1),
        encoder: Settings::encoder(1),
        shots: None,
        only: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--embeddings" => asked.banking = Some(floats(&value)?),
            "--tram-embeddings" => asked.tram = Some(floats(&value)?),
            "--encoder-us" => asked.encoder_us = value.parse()?,
            "--buckets-log2" => asked.hashed.buckets_log2 = value.parse()?,
            "--c" => asked.hashed.c = value.parse()?,
            "--encoder-c" => asked.encoder.c = value.parse()?,
            "--seed" => (asked.hashed.seed, asked.encoder.seed) = (value.parse()?, value.parse()?),
            "--shots" => asked.shots = Some(value.parse()?),
            "--only" => asked.only = Some(value),
            "--decrease" => (asked.hashed.decrease, asked.encoder.decrease) = (value.parse()?, value.parse()?),
            other => return Err(format!("what is {other}?").into()),
        }
    }
    Ok(asked)
}

fn floats(path: &str) -> Outcome<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect())
}

/// CPU time of this thread so far: others on the machine do not count.
fn microseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e3
}
