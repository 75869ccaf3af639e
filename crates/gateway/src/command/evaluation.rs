//! `tollgate template eval`: what a classifier is worth on texts it has not learned from: how right, how fast, how dear. Each text is
//! asked of the heads themselves, one at a time on one thread; queues and HTTP are not in it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tollgate_admission::price::{PriceBook, SHIPPED};
use tollgate_runtime::classifier::Classifier;
use tollgate_runtime::encoder::Model;
use tollgate_runtime::encoder::engine::Engine;
use tollgate_runtime::head::cascade::{Cascade, First};
use tollgate_runtime::head::figures::{Figures, figures};
use tollgate_runtime::head::rows::Row;
use tollgate_runtime::head::split::held_out;
use tollgate_runtime::head::{Features, Head};
use tollgate_runtime::template::{Manifest, Success, TemplateError};
use tollgate_types::Usage;
use tollgate_types::clock::{CpuStopwatch, Stopwatch};

use super::progress::{end_progress, show_progress};
use super::runtime::{told, write};
use super::table::{Column, table};
use super::template::{loaded, percent, read_rows, trained};
use super::{Answer, Failure};

#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Folder of a use case: its examples are learned from, and its eval set is what it is judged by
    #[arg(value_name = "TEMPLATE", required_unless_present = "rows", conflicts_with_all = ["rows", "test"])]
    template: Option<PathBuf>,
    /// Labelled texts to learn from, as for `train`
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Labelled texts to be judged by; without it a fifth of the rows is held out: whole groups, where rows have one
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// A converted sentence encoder
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Decides which rows are held out
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where public data sets lie: a use case that names one is judged by that, too
    #[arg(long, value_name = "DIR", env = "TOLLGATE_DATA_DIR")]
    data: Option<PathBuf>,
    /// Draw how right against how dear, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// One way to answer, measured.
#[derive(Clone, Debug, Serialize)]
struct Way {
    name: String,
    /// The share of texts that the encoder was asked about.
    escalated: f64,
    figures: Figures,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    usd_per_1k: String,
    /// The share of answers that are sure enough to need nobody's look, where the use case says how sure that is.
    answered: Option<f64>,
    /// Beside asking the encoder about everything.
    relative_cost: Option<f64>,
    /// The one that was chosen on rows of those it learned from.
    chosen: bool,
    /// Nothing is both cheaper and more often right.
    on_frontier: bool,
}

/// Thresholds that are shown, besides the one that was chosen.
const SHOWN: [f32; 5] = [0.5, 0.6, 0.7, 0.8, 0.95];
/// The share of rows that is held out where there is no file of them.
const HELD_OUT: f64 = 0.2;

// === impl EvalArgs ===

impl EvalArgs {
    pub fn run(&self) -> Result<Answer, Failure> {
        let model = self.model.as_deref().map(|folder| Model::load(folder).map_err(|error| told(folder, &error)));
        let judge = Judge { seed: self.seed, model: model.transpose()? };
        if let Some(folder) = &self.template {
            return self.of_template(folder, &judge);
        }
        let file = self.rows.as_ref().ok_or_else(|| Failure::Arguments("name a template, or --rows".to_owned()))?;
        let worth = judge.judged(&self.split(file, self.test.as_deref())?, None)?;
        self.draw(&worth)?;
        Ok(Answer::new(worth.shown(), &worth))
    }

    /// By its own eval set, by which it must be worth what it says; then by the public data that it names, if that is here.
    fn of_template(&self, folder: &Path, judge: &Judge) -> Result<Answer, Failure> {
        let failed = |error: TemplateError| Failure::Failed(error.to_string());
        let template = loaded(folder)?;
        let Manifest { id, version, data, success, output, .. } = &template.manifest;
        let rows = Split { learned: template.examples().map_err(failed)?, asked: template.eval_set().map_err(failed)? };
        let own = judge.judged(&rows, Some(output.review_below))?;
        let held = held_to(success, own.best());
        let passed = held.iter().all(|check| check.holds);
        let mut text = format!("{id} {version}, by its own eval set\n{}\n{}", own.shown(), shown_checks(&held));
        let public = match (&data.public, &self.data) {
            (Some(public), Some(dir)) => {
                let split =
                    self.split(&dir.join(&public.rows), public.test.as_ref().map(|test| dir.join(test)).as_deref())?;
                let worth = judge.judged(&split, None)?;
                let _ = write!(text, "\n\n{id} {version}, by {}\n{}", public.name, worth.shown());
                Some((&public.name, worth))
            }
            (Some(public), None) => {
                let _ = write!(text, "\n\nTOLLGATE_DATA_DIR is not set, so it was not judged by {}, too.", public.name);
                None
            }
            (None, _) => None,
        };
        self.draw(public.as_ref().map_or(&own, |(_, worth)| worth))?;
        let public = public.map(|(name, worth)| json!({ "name": name, "worth": worth }));
        let json = json!({ "template": id, "version": version, "own": own, "success": held, "public": public });
        Ok(Answer::new(text, &json).passed_if(passed))
    }

    fn split(&self, rows: &Path, test: Option<&Path>) -> Result<Split, Failure> {
        let rows = read_rows(rows)?;
        if let Some(test) = test {
            return Ok(Split { learned: rows, asked: read_rows(test)? });
        }
        let split = held_out(&rows, HELD_OUT, self.seed);
        let of = |numbers: &[usize]| numbers.iter().map(|number| rows[*number].clone()).collect::<Vec<_>>();
        Ok(Split { learned: of(&split.kept), asked: of(&split.held) })
    }

    fn draw(&self, worth: &Worth) -> Result<(), Failure> {
        self.plot.as_deref().map_or(Ok(()), |path| draw(path, &worth.ways))
    }
}

/// What is learned from, and what is judged by.
struct Split {
    learned: Vec<Row>,
    asked: Vec<Row>,
}

/// What each way to answer is worth.
#[derive(Debug, Serialize)]
struct Worth {
    learned: usize,
    asked: usize,
    ways: Vec<Way>,
}

struct Judge {
    seed: u64,
    model: Option<Arc<Model>>,
}

/// One of the things that a use case must be worth.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    wanted: f64,
    found: f64,
    holds: bool,
}

fn held_to(success: &Success, way: &Way) -> Vec<Check> {
    let least = |what, wanted: Option<f64>, found: f64| {
        wanted.map(|wanted| Check { what, wanted, found, holds: found >= wanted })
    };
    let most = |what, wanted: Option<f64>, found: f64| {
        wanted.map(|wanted| Check { what, wanted, found, holds: found <= wanted })
    };
    let usd = way.usd_per_1k.parse::<f64>().map_or(f64::INFINITY, |usd| usd / 1_000.0);
    let checks = [
        least("accuracy", success.accuracy_min, way.figures.accuracy.value),
        least("macro-F1", success.macro_f1_min, way.figures.macro_f1.value),
        least("answered without a look", success.answered_min, way.answered.unwrap_or(1.0)),
        most("p99 ms", success.p99_ms_max, way.p99_ms),
        most("USD per run", success.usd_per_run_max, usd),
    ];
    checks.into_iter().flatten().collect()
}

fn shown_checks(checks: &[Check]) -> String {
    let columns = [Column::Text("MUST BE"), Column::Number("BOUND"), Column::Number("FOUND"), Column::Text("HOLDS")];
    let row = |check: &Check| {
        let Check { what, wanted, found, holds } = check;
        let number = |number: f64| if number < 0.001 { format!("{number:.10}") } else { format!("{number:.4}") };
        vec![(*what).to_owned(), number(*wanted), number(*found), if *holds { "yes" } else { "NO" }.to_owned()]
    };
    table(&columns, checks.iter().map(row).collect(), "it says nothing of what it must be worth")
}

// === impl Worth ===

impl Worth {
    /// The way that would be taken: the cascade as it was fitted, or without an encoder the hashed head.
    fn best(&self) -> &Way {
        self.ways.iter().find(|way| way.chosen).or(self.ways.first()).expect("a classifier has a hashed head")
    }

    fn shown(&self) -> String {
        shown(&self.ways, self.learned, self.asked)
    }
}

// === impl Judge ===

impl Judge {
    fn judged(&self, rows: &Split, review_below: Option<f32>) -> Result<Worth, Failure> {
        let Split { learned, asked } = rows;
        let (classifier, _) = trained(learned, self.model.as_ref(), self.seed)?;
        let mut ways = Vec::new();
        if let Some(head) = &classifier.hashed {
            ways.push(self.measured("hashed", asked, head, review_below, |text| Ok((hashed(head, text)?, None)))?);
        }
        if let (Some(model), Some(head)) = (&self.model, &classifier.encoder) {
            let engine = Engine::new(Arc::clone(model));
            ways.push(self.measured("encoder", asked, head, review_below, |text| {
                let (vector, cpu) = embedded(model, &engine, text)?;
                Ok((encoded(head, &vector)?, Some(cpu)))
            })?);
            ways.extend(self.cascades(&classifier, model, &engine, asked, review_below)?);
        }
        compare(&mut ways);
        Ok(Worth { learned: learned.len(), asked: asked.len(), ways })
    }

    fn cascades(
        &self,
        classifier: &Classifier,
        model: &Arc<Model>,
        engine: &Engine,
        asked: &[Row],
        review_below: Option<f32>,
    ) -> Result<Vec<Way>, Failure> {
        let Some(joint) = classifier.joint else { return Ok(Vec::new()) };
        let mut thresholds: Vec<f32> = SHOWN.into_iter().filter(|shown| *shown != joint.threshold).collect();
        thresholds.push(joint.threshold);
        thresholds.sort_by(f32::total_cmp);
        let mut ways = Vec::new();
        for threshold in thresholds {
            let Some(cascade) = classifier.cascade(Some(threshold)) else { continue };
            let cascade: Cascade = cascade.map_err(|error| Failure::Failed(error.to_string()))?;
            let name = format!("cascade at {threshold:.2}");
            let mut way = self.measured(&name, asked, cascade.hashed(), review_below, |text| {
                match cascade.judge(hashed(cascade.hashed(), text)?) {
                    First::Answer(answer) => Ok((answer.probabilities, None)),
                    First::Escalate(scores) => {
                        let (vector, cpu) = embedded(model, engine, text)?;
                        let answer = cascade.second(&scores, &vector);
                        Ok((answer.map_err(|error| Failure::Failed(error.to_string()))?.probabilities, Some(cpu)))
                    }
                }
            })?;
            way.chosen = threshold == joint.threshold;
            ways.push(way);
        }
        Ok(ways)
    }

    /// Asks for each text's probabilities, and for what the encoder's thread did for them, if it was asked.
    fn measured(
        &self,
        name: &str,
        asked: &[Row],
        head: &Head,
        review_below: Option<f32>,
        mut ask: impl FnMut(&str) -> Result<(Vec<f32>, Option<Duration>), Failure>,
    ) -> Result<Way, Failure> {
        let labels = head.labels();
        let (mut probabilities, mut truth, mut took) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cpu, mut escalated, mut sure) = (Duration::ZERO, 0, 0);
        for (number, row) in asked.iter().enumerate() {
            if number.is_multiple_of(100) {
                show_progress(&format!("{name}: {number} of {} texts", asked.len()));
            }
            let (since, busy) = (Stopwatch::start(), CpuStopwatch::start());
            let (answer, by_encoder) = ask(&row.text)?;
            cpu += busy.elapsed() + by_encoder.unwrap_or_default();
            took.push(since.elapsed());
            escalated += usize::from(by_encoder.is_some());
            let confidence = answer.iter().copied().fold(0.0, f32::max);
            sure += usize::from(review_below.is_some_and(|least| confidence >= least));
            // A label that was never seen cannot be answered: it is wrong whatever is said.
            truth.push(labels.binary_search(&row.label).unwrap_or(labels.len()));
            probabilities.push(answer);
        }
        end_progress();
        took.sort();
        let quantile = |share: f64| {
            let place = (share * took.len().saturating_sub(1) as f64).round();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
            took.get(place as usize).map_or(0.0, |one| one.as_secs_f64() * 1_000.0)
        };
        let texts = asked.len().max(1) as f64;
        let cpu_us = cpu.as_secs_f64() * 1e6 / texts;
        Ok(Way {
            name: name.to_owned(),
            escalated: escalated as f64 / texts,
            figures: figures(&probabilities, &truth, self.seed),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            cpu_us,
            usd_per_1k: usd_per_1k(cpu_us),
            answered: review_below.map(|_| sure as f64 / texts),
            relative_cost: None,
            chosen: false,
            on_frontier: false,
        })
    }
}

fn hashed(head: &Head, text: &str) -> Result<Vec<f32>, Failure> {
    head.classify(Features::Text(text)).map_err(|error| Failure::Failed(error.to_string()))
}

fn encoded(head: &Head, vector: &[f32]) -> Result<Vec<f32>, Failure> {
    head.classify(Features::Vector(vector)).map_err(|error| Failure::Failed(error.to_string()))
}

/// A text's vector, and the CPU time of the engine's thread.
fn embedded(model: &Model, engine: &Engine, text: &str) -> Result<(Vec<f32>, Duration), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let tokens = model.tokenize(text).map_err(|error| failed(&error))?.truncated(model.max_tokens());
    let made = engine.embed(&[&tokens]).map_err(|error| failed(&error))?;
    let vector = made.vectors.into_iter().next();
    Ok((vector.ok_or_else(|| Failure::Failed("the engine gave no vector".to_owned()))?, made.cpu))
}

/// At the shipped book's price of CPU time.
fn usd_per_1k(cpu_us: f64) -> String {
    let book = PriceBook::parse(SHIPPED).ok();
    let price = book.as_ref().and_then(|book| book.prices().iter().find(|price| &*price.provider == "local"));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds of some milliseconds")]
    let usage = Usage { cpu_us: (cpu_us * 1_000.0).round() as u64, ..Usage::default() };
    price.map_or_else(String::new, |price| price.rate.cost(&usage).to_string())
}

fn compare(ways: &mut [Way]) {
    let dear = ways.iter().find(|way| way.name == "encoder").map(|way| way.cpu_us);
    let all: Vec<(f64, f64)> = ways.iter().map(|way| (way.cpu_us, way.figures.accuracy.value)).collect();
    for way in ways {
        way.relative_cost = dear.map(|dear| way.cpu_us / dear);
        let (cost, right) = (way.cpu_us, way.figures.accuracy.value);
        way.on_frontier = !all.iter().any(|(other, other_right)| {
            (*other < cost && *other_right >= right) || (*other <= cost && *other_right > right)
        });
    }
}

fn shown(ways: &[Way], learned: usize, asked: usize) -> String {
    let columns = [
        Column::Text("WAY"),
        Column::Text("ACCURACY %"),
        Column::Text("MACRO-F1 %"),
        Column::Number("ECE %"),
        Column::Number("TO ENCODER %"),
        Column::Number("P50 MS"),
        Column::Number("P99 MS"),
        Column::Number("CPU US"),
        Column::Number("USD PER 1,000"),
        Column::Number("OF COST %"),
        Column::Text("FRONTIER"),
    ];
    let row = |way: &Way| {
        vec![
            format!("{}{}", way.name, if way.chosen { " (chosen)" } else { "" }),
            percent(way.figures.accuracy),
            percent(way.figures.macro_f1),
            format!("{:.1}", way.figures.ece * 100.0),
            format!("{:.1}", way.escalated * 100.0),
            format!("{:.3}", way.p50_ms),
            format!("{:.3}", way.p99_ms),
            format!("{:.0}", way.cpu_us),
            way.usd_per_1k.clone(),
            way.relative_cost.map_or("-".to_owned(), |share| format!("{:.1}", share * 100.0)),
            if way.on_frontier { "yes" } else { "" }.to_owned(),
        ]
    };
    let note = format!(
        "Learned from {learned} texts, judged by {asked} others; intervals of 95 %. Threshold and mix were chosen on texts of the first."
    );
    format!("{}\n{note}", table(&columns, ways.iter().map(row).collect(), "nothing was measured"))
}

/// How right against how dear, the frontier joined by a line.
fn draw(path: &Path, ways: &[Way]) -> Result<(), Failure> {
    const W: f64 = 760.0;
    const H: f64 = 420.0;
    let (left, right, top, bottom) = (70.0, 730.0, 30.0, 370.0);
    let costs: Vec<f64> = ways.iter().map(|way| way.cpu_us.max(1.0).log10()).collect();
    let (least, most) = (bound(&costs, f64::min).floor(), bound(&costs, f64::max).ceil().max(1.0));
    let accuracies: Vec<f64> = ways.iter().map(|way| way.figures.accuracy.value * 100.0).collect();
    let (low, high) = (bound(&accuracies, f64::min).floor() - 1.0, bound(&accuracies, f64::max).ceil() + 1.0);
    let x = |cost: f64| left + (cost.max(1.0).log10() - least) / (most - least).max(1e-9) * (right - left);
    let y = |accuracy: f64| bottom - (accuracy - low) / (high - low).max(1e-9) * (bottom - top);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {H}\" font-family=\"sans-serif\" font-size=\"12\">\
         <rect width=\"{W}\" height=\"{H}\" fill=\"white\"/>\n"
    );
    let mut decade = least;
    while decade <= most {
        let at = left + (decade - least) / (most - least).max(1e-9) * (right - left);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} us</text>",
            bottom + 18.0,
            10f64.powf(decade).round()
        );
        decade += 1.0;
    }
    let mut accuracy = low;
    while accuracy <= high {
        let at = y(accuracy);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#eee\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{accuracy:.0} %</text>",
            left - 8.0,
            at + 4.0
        );
        accuracy += 1.0;
    }
    let mut frontier: Vec<&Way> = ways.iter().filter(|way| way.on_frontier).collect();
    frontier.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    let line: Vec<String> = frontier
        .iter()
        .map(|way| format!("{:.1},{:.1}", x(way.cpu_us), y(way.figures.accuracy.value * 100.0)))
        .collect();
    let _ =
        writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#1769aa\" stroke-width=\"2\"/>", line.join(" "));
    for (number, way) in ways.iter().enumerate() {
        let (at_x, at_y) = (x(way.cpu_us), y(way.figures.accuracy.value * 100.0));
        let colour = if way.on_frontier { "#1769aa" } else { "#999" };
        // Neighbours on the frontier lie close together: their names stand above and below it in turn.
        let beside = if number.is_multiple_of(2) { -12.0 } else { 20.0 };
        let _ = writeln!(
            svg,
            "<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{colour}\">{}</text>",
            if way.chosen { 6 } else { 4 },
            at_y + beside,
            way.name.trim_start_matches("cascade at ")
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{:.1}\">CPU time of a text (numbers: thresholds of the cascade)</text>\
         <text x=\"{left}\" y=\"18\">accuracy on texts not learned from; the line joins what nothing beats</text></svg>",
        bottom + 40.0
    );
    let (folder, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().and_then(|name| name.to_str()));
    let name = name.ok_or_else(|| told(path, &"is no name of a file"))?;
    write(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }, name, svg.as_bytes())
}

fn bound(numbers: &[f64], of: fn(f64, f64) -> f64) -> f64 {
    numbers.iter().copied().reduce(of).unwrap_or(0.0)
}
