//! `tollgate template`: use cases as folders, and classifiers made from their examples or from other labelled texts. Needs no
//! gateway.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tollgate_runtime::bounded::read_bounded;
use tollgate_runtime::classifier::{Classifier, Encoded, Made};
use tollgate_runtime::encoder::Model;
use tollgate_runtime::encoder::engine::Engine;
use tollgate_runtime::head::cascade::Point;
use tollgate_runtime::head::figures::Interval;
use tollgate_runtime::head::rows::{self, FILE_BYTES_MAX, Row};
use tollgate_runtime::head::train::Report;
use tollgate_runtime::template::{Manifest, Template, TemplateError};

use super::evaluation::EvalArgs;
use super::progress::{end_progress, show_progress};
use super::runtime::{told, write};
use super::table::{Column, table};
use super::{Answer, Failure};
use crate::laws;
use crate::runtimes::identity;

#[derive(Debug, clap::Args)]
pub struct TemplateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Train a classifier from labelled texts. The same rows and seed give the same bytes
    #[command(
        after_help = "Examples:\n  tollgate template train templates/support-triage --to classifiers/support-triage\n  \
                            tollgate template train --rows tickets.csv --to classifiers/tickets\n  \
                            tollgate template train --rows tickets.csv --to classifiers/tickets --model .tollgate/models/all-minilm-l6-v2"
    )]
    Train {
        /// Folder of a use case, whose examples are learned from
        #[arg(value_name = "TEMPLATE", required_unless_present = "rows", conflicts_with = "rows")]
        template: Option<PathBuf>,
        /// CSV with the columns text and label (or category), JSON Lines or a JSON array with text and label; by its ending
        #[arg(long, value_name = "FILE")]
        rows: Option<PathBuf>,
        /// The folder of the classifier; it is made
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// A converted sentence encoder: a second head reads its vectors, and a cascade of both is fitted
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
        /// Decides which rows are held out
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// See whether a use case holds together: its schema, its policy with its tests, its rows
    #[command(after_help = "Example:\n  tollgate template check templates/support-triage")]
    Check {
        #[arg(value_name = "TEMPLATE")]
        template: PathBuf,
    },
    /// Train a classifier and say what it is worth on texts it has not learned from: how right, how fast, how dear. Of a use case,
    /// also whether it is worth what it must be; exit code 1 if not
    #[command(
        after_help = "Examples:\n  tollgate template eval templates/support-triage\n  tollgate template eval --rows train.csv --test test.csv\n  \
                            tollgate template eval --rows reports.json --model .tollgate/models/all-minilm-l6-v2 --plot frontier.svg"
    )]
    Eval(EvalArgs),
}

// === impl TemplateArgs ===

impl TemplateArgs {
    pub fn run(self) -> Result<Answer, Failure> {
        match self.action {
            Action::Train { template, rows, to, model, seed } => {
                let (from, rows) = match (template, rows) {
                    (Some(folder), _) => {
                        let rows = loaded(&folder)?.examples().map_err(|error| Failure::Failed(error.to_string()))?;
                        (folder, rows)
                    }
                    (None, file) => {
                        let file = file.ok_or_else(|| Failure::Arguments("name a template, or --rows".to_owned()))?;
                        let rows = read_rows(&file)?;
                        (file, rows)
                    }
                };
                train(&from, &rows, &to, model.as_deref(), seed)
            }
            Action::Check { template } => check(&template),
            Action::Eval(eval) => eval.run(),
        }
    }
}

/// The use case in a folder.
pub fn loaded(folder: &Path) -> Result<Template, Failure> {
    Template::load(folder).map_err(|error| Failure::Failed(error.to_string()))
}

fn check(folder: &Path) -> Result<Answer, Failure> {
    let failed = |error: TemplateError| Failure::Failed(error.to_string());
    let template = loaded(folder)?;
    let law =
        template.policy().map(|folder| laws::in_folder(&folder).map_err(|why| told(&folder, &why))).transpose()?;
    let (examples, asked) = (template.examples().map_err(failed)?, template.eval_set().map_err(failed)?);
    let labels = rows::labels(&examples);
    let unknown: Vec<String> = rows::labels(&asked).into_iter().filter(|label| !labels.contains(label)).collect();
    let shared = asked.iter().filter(|row| examples.iter().any(|other| other.text == row.text)).count();
    let Manifest { id, version, title, .. } = &template.manifest;
    let (policy, digest) = (law.map(|law| law.fingerprint.to_string()), &template.digest);
    let mut text = format!(
        "{id} {version}: {title}\n{} examples and {} to be judged by, of {} labels: {}\npolicy: {}\ndigest: {digest}",
        examples.len(),
        asked.len(),
        labels.len(),
        labels.join(", "),
        policy.as_deref().unwrap_or("none"),
    );
    for label in &unknown {
        text.push_str(&format!("\nno example has the label {label}, which the eval set has"));
    }
    if shared > 0 {
        text.push_str(&format!(
            "\n{shared} texts of the eval set are among the examples: what was learned by heart is no proof"
        ));
    }
    let json = json!({
        "id": id, "version": version, "digest": digest, "policy": policy, "examples": examples.len(), "eval": asked.len(),
        "labels": labels, "unknown_labels": unknown, "shared_texts": shared,
    });
    Ok(Answer::new(text, &json).passed_if(unknown.is_empty() && shared == 0))
}

fn train(from: &Path, rows: &[Row], to: &Path, model: Option<&Path>, seed: u64) -> Result<Answer, Failure> {
    let model = model.map(|folder| Model::load(folder).map_err(|error| told(folder, &error))).transpose()?;
    let (classifier, made) = trained(rows, model.as_ref(), seed).map_err(|why| told(from, &why))?;
    for (name, bytes) in classifier.files() {
        write(to, name, &bytes)?;
    }
    let read = Classifier::load(to).map_err(|error| Failure::Failed(error.to_string()))?;
    if read != classifier {
        return Err(told(to, &"what was written is not what is read: is somebody else writing there?"));
    }
    Ok(shown(&classifier, &made))
}

/// A classifier of these rows.
pub fn trained(rows: &[Row], model: Option<&Arc<Model>>, seed: u64) -> Result<(Classifier, Made), Failure> {
    let vectors = model.map(|model| embedded(model, rows)).transpose()?;
    let encoded = model.zip(vectors.as_ref()).map(|(model, vectors)| Encoded {
        digest: identity(model),
        dims: model.dims(),
        vectors,
    });
    let trained = Classifier::train(rows, encoded, seed, &mut |head, at| {
        show_progress(&format!(
            "{head}: iteration {} of at most {}, loss {:.4}",
            at.iteration, at.iterations_max, at.loss
        ));
        ControlFlow::Continue(())
    });
    end_progress();
    trained.map_err(|error| Failure::Failed(error.to_string()))
}

/// The rows of a file, by the ending of its name.
pub fn read_rows(file: &Path) -> Result<Vec<Row>, Failure> {
    let bytes = read_bounded(file, FILE_BYTES_MAX).map_err(|error| Failure::Failed(error.to_string()))?;
    let ending = file.extension().map(|ending| ending.to_ascii_lowercase());
    let read = match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("csv") => rows::csv(&bytes),
        Some("jsonl" | "ndjson") => rows::jsonl(&bytes),
        Some("json") => rows::json(&bytes),
        _ => return Err(told(file, &"rows are read from .csv, .jsonl and .json")),
    };
    read.map_err(|error| told(file, &error))
}

/// Each text's vector, by itself: so they are the same however many threads there are.
fn embedded(model: &Arc<Model>, rows: &[Row]) -> Result<Vec<f32>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done = AtomicUsize::new(0);
    let part = |rows: &[Row]| embedded_part(model, rows, &done);
    let size = rows.len().div_ceil(threads).max(1);
    let parts: Result<Vec<Vec<f32>>, Failure> = std::thread::scope(|scope| {
        let workers: Vec<_> = rows.chunks(size).map(|rows| scope.spawn(|| part(rows))).collect();
        let panicked = |_| Err(Failure::Failed("a thread that embeds texts panicked".to_owned()));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
    });
    end_progress();
    Ok(parts?.concat())
}

fn embedded_part(model: &Arc<Model>, rows: &[Row], done: &AtomicUsize) -> Result<Vec<f32>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("a text cannot be embedded: {error}"));
    let engine = Engine::new(Arc::clone(model));
    let mut vectors = Vec::with_capacity(rows.len() * model.dims());
    for row in rows {
        let tokens = model.tokenize(&row.text).map_err(|error| failed(&error))?.truncated(model.max_tokens());
        let made = engine.embed(&[&tokens]).map_err(|error| failed(&error))?;
        vectors.extend(made.vectors.into_iter().flatten());
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(100) {
            show_progress(&format!("{done} texts embedded"));
        }
    }
    Ok(vectors)
}

fn shown(classifier: &Classifier, made: &Made) -> Answer {
    let columns = [
        Column::Text("HEAD"),
        Column::Number("ROWS"),
        Column::Number("LABELS"),
        Column::Text("ACCURACY %"),
        Column::Text("MACRO-F1 %"),
        Column::Number("ECE %"),
        Column::Number("OF COST %"),
    ];
    let head = |name: &str, report: &Report, cost: &str| {
        let figures = &report.validation.before;
        vec![
            name.to_owned(),
            report.rows.to_string(),
            report.labels.to_string(),
            percent(figures.accuracy),
            percent(figures.macro_f1),
            format!("{:.1}", report.validation.ece_after * 100.0),
            cost.to_owned(),
        ]
    };
    let point = |point: &Point| {
        let chosen = made.chosen.is_some_and(|joint| joint.threshold == point.threshold);
        vec![
            format!("cascade at {:.2}{}", point.threshold, if chosen { " (chosen)" } else { "" }),
            made.hashed.rows.to_string(),
            made.hashed.labels.to_string(),
            percent(point.figures.accuracy),
            percent(point.figures.macro_f1),
            format!("{:.1}", point.figures.ece * 100.0),
            format!("{:.0}", point.relative_cost * 100.0),
        ]
    };
    let mut rows = vec![head("hashed", &made.hashed, "1")];
    rows.extend(made.encoder.as_ref().map(|report| head("encoder", report, "100")));
    rows.extend(made.points.iter().map(point));
    let about = |head: &tollgate_runtime::head::Head| json!(head.about());
    let json = json!({
        "hashed": classifier.hashed.as_ref().map(about),
        "encoder": classifier.encoder.as_ref().map(about),
        "cascade": classifier.joint,
        "points": made.points,
    });
    let note = "Measured on rows that were held out while the heads were judged, with 95 % intervals.";
    Answer::new(format!("{}\n{note}", table(&columns, rows, "nothing")), &json)
}

pub fn percent(of: Interval) -> String {
    format!("{:.1} ({:.1} to {:.1})", of.value * 100.0, of.low * 100.0, of.high * 100.0)
}
