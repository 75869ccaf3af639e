//! The scheduler against other people's batching rules, on simulated time: requests within their goal, latency and refusals
//! by load, a noisy neighbour, a spike, and a worker that stands still. The scheduler is the real one.
//!
//! ```sh
//! cargo run --release -p tollgate-serving --example batching -- --plot target/batching.svg
//! ```
//!
//! `--short` takes a part of the time, `--seed N` other arrivals. The last line is JSON.

#[path = "../tests/schedule/simulated.rs"]
mod simulated;

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use simulated::{F32, Flow, INT8, Run, Runtime, Seen, Shape, Stall};
use tollgate_serving::schedule::{Batching, Judged};

const GOAL_MS: f64 = 100.0;
const RUNTIMES: [Runtime; 2] = [F32, INT8];
/// Other rules have no limit but the callers' patience: this is none.
const UNBOUNDED: usize = 10_000_000;
const PLOT: &str = "target/batching.svg";
const USAGE: &str = "usage: batching [--short] [--seed N] [--plot FILE]";

#[derive(Clone, Debug)]
struct Arguments {
    seed: u64,
    seeds: u64,
    seconds: f64,
    plot: String,
}

/// Offered work.
#[derive(Clone, Copy, Debug)]
struct Load {
    name: &'static str,
    times: f64,
    shape: Shape,
}

const LOADS: [Load; 7] = [
    Load { name: "0.3", times: 0.3, shape: Shape::Steady },
    Load { name: "0.6", times: 0.6, shape: Shape::Steady },
    Load { name: "0.8", times: 0.8, shape: Shape::Steady },
    Load { name: "0.95", times: 0.95, shape: Shape::Steady },
    Load { name: "1.3", times: 1.3, shape: Shape::Steady },
    Load { name: "2.0", times: 2.0, shape: Shape::Steady },
    Load { name: "bursts", times: 0.5, shape: Shape::Bursts(3.0) },
];

/// A rule, its name and its colour in the plot. The first is ours.
struct Rule {
    name: &'static str,
    colour: &'static str,
    batching: Batching,
}

const RULES: [Rule; 7] = [
    Rule { name: "cost model", colour: "#c0392b", batching: Batching::CostModel },
    Rule { name: "none", colour: "#7f8c8d", batching: window(0, 1) },
    Rule { name: "window 5 ms", colour: "#2980b9", batching: window(5, 32) },
    Rule { name: "window 20 ms", colour: "#8e44ad", batching: window(20, 32) },
    Rule { name: "AIMD", colour: "#27ae60", batching: Batching::Aimd { items_max: 64, judged: Judged::Batch } },
    Rule { name: "AIMD whole", colour: "#a3a847", batching: Batching::Aimd { items_max: 64, judged: Judged::Request } },
    Rule { name: "greedy", colour: "#d68910", batching: Batching::Greedy { tokens: 16_384, requests_max: 512 } },
];

const fn window(delay_ms: u64, items: usize) -> Batching {
    Batching::Window { delay: Duration::from_millis(delay_ms), items }
}

fn main() {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            std::process::exit(2);
        }
    };
    println!(
        "seed {}, {} runs of {} s each, goal {GOAL_MS} ms, 2 workers, 4 tenants",
        arguments.seed, arguments.seeds, arguments.seconds
    );
    let mut results = Vec::new();
    for runtime in RUNTIMES {
        results.push(compare(&arguments, runtime));
    }
    let plot = plot(&results);
    let plotted = write(&arguments.plot, &plot);
    if let Err(error) = &plotted {
        eprintln!("no plot: {}: {error}", arguments.plot);
    }
    let neighbours: Vec<Value> = RUNTIMES
        .into_iter()
        .flat_map(|runtime| [2, 1].map(|workers| neighbour(&arguments, runtime, workers)))
        .collect();
    let events: Vec<Value> = RUNTIMES.into_iter().flat_map(|runtime| events(&arguments, runtime)).collect();
    let loads: Vec<Value> = RUNTIMES.iter().zip(&results).flat_map(|(runtime, seen)| told(runtime, seen)).collect();
    println!("{}", json!({ "seed": arguments.seed, "loads": loads, "neighbours": neighbours, "events": events }));
    if plotted.is_err() {
        std::process::exit(1);
    }
}

// === impl Arguments ===

impl Arguments {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self { seed: 1, seeds: 5, seconds: 62.0, plot: PLOT.to_owned() };
        while let Some(word) = given.next() {
            match word.as_str() {
                "--short" => (arguments.seeds, arguments.seconds) = (1, 8.0),
                "--seed" => {
                    let seed = given.next().ok_or("--seed needs a number")?;
                    arguments.seed = seed.parse().map_err(|_| format!("{seed:?} is no number"))?;
                }
                "--plot" => arguments.plot = given.next().ok_or("--plot needs a file")?,
                other => return Err(format!("{other:?} is not known")),
            }
        }
        Ok(arguments)
    }

    /// The same run with each seed.
    fn runs(&self, run: impl Fn(u64) -> Run) -> Vec<Vec<Seen>> {
        (0..self.seeds).map(|index| Run { seconds: self.seconds, ..run(self.seed + index) }.go()).collect()
    }
}

// === Loads ===

/// What was seen by load, then by rule.
type ByLoad = Vec<Vec<Seen>>;

fn compare(arguments: &Arguments, runtime: Runtime) -> ByLoad {
    let Runtime { name, base_us, per_token_us } = runtime;
    let capacity = runtime.capacity(2);
    println!("\n{name}: {} ms + {} ms a token, capacity {capacity:.0} requests/s", base_us / 1e3, per_token_us / 1e3);
    LOADS.map(|load| at_load(arguments, runtime, load)).into()
}

fn at_load(arguments: &Arguments, runtime: Runtime, load: Load) -> Vec<Seen> {
    println!(
        "\n  {} x capacity, {}{:>9}{:>9}{:>10}{:>10}{:>9}",
        load.name, runtime.name, "good/s", "good", "p50 ms", "p99 ms", "refused"
    );
    let seen: Vec<Seen> = RULES.iter().map(|rule| under(arguments, runtime, load, rule)).collect();
    for (rule, seen) in RULES.iter().zip(&seen) {
        println!(
            "  {:<22}{:>9.1}{:>8.1}%{:>10.1}{:>10.1}{:>8.1}%",
            rule.name,
            good_per_second(seen),
            100.0 * seen.good_share(),
            seen.quantile_ms(0.5),
            seen.quantile_ms(0.99),
            100.0 * seen.refused_share()
        );
    }
    let (best, lead) = lead(&seen);
    let word = if lead >= 0.0 { "wins" } else { "loses" };
    println!(
        "  the cost model {word} by {:.1} points of the requests within the goal, against {best}",
        100.0 * lead.abs()
    );
    seen
}

fn under(arguments: &Arguments, runtime: Runtime, load: Load, rule: &Rule) -> Seen {
    let runs = arguments.runs(|seed| {
        let mut run = Run::new(seed, runtime, load.times);
        run.settings.batching = rule.batching;
        if rule.batching != Batching::CostModel {
            (run.settings.queue_items_max, run.settings.queue_tokens_max) = (UNBOUNDED, u64::MAX / 2);
        }
        for flow in &mut run.flows {
            flow.shape = load.shape;
        }
        run
    });
    Seen::pooled(&runs.iter().map(|flows| Seen::together(flows)).collect::<Vec<_>>())
}

/// The best of the others, and how many more of what was offered are within the goal under the cost model: 0.05 are five
/// requests more of a hundred.
fn lead(seen: &[Seen]) -> (&'static str, f64) {
    let others = RULES.iter().zip(seen).skip(1);
    let best = others.max_by(|a, b| a.1.good_share().total_cmp(&b.1.good_share()));
    best.map_or(("none", 0.0), |(rule, best)| (rule.name, seen[0].good_share() - best.good_share()))
}

fn told(runtime: &Runtime, by_load: &ByLoad) -> Vec<Value> {
    let load = |(load, seen): (&Load, &Vec<Seen>)| {
        let rules: serde_json::Map<String, Value> = RULES
            .iter()
            .zip(seen)
            .map(|(rule, seen)| {
                let figures = json!({
                    "good_per_second": round(good_per_second(seen)),
                    "good_share": round(seen.good_share()),
                    "p50_ms": round(seen.quantile_ms(0.5)),
                    "p99_ms": round(seen.quantile_ms(0.99)),
                    "refused_share": round(seen.refused_share()),
                });
                (rule.name.to_owned(), figures)
            })
            .collect();
        let (best, lead) = lead(seen);
        json!({ "runtime": runtime.name, "load": load.name, "rules": rules, "best_other": best, "lead": round(lead) })
    };
    LOADS.iter().zip(by_load).map(load).collect()
}

fn good_per_second(seen: &Seen) -> f64 {
    seen.good as f64 / seen.seconds
}

fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

// === A noisy neighbour ===

/// Four tenants at 15 % of the capacity each; then one of them at 50 times that.
fn neighbour(arguments: &Arguments, runtime: Runtime, workers: usize) -> Value {
    println!("\n  {} with {workers} workers: one tenant of four goes from 15 % of the capacity to 750 %", runtime.name);
    println!(
        "  {:<30}{:>8}{:>9}{:>9}{:>10}{:>12}{:>12}",
        "the other three:", "good", "p50 ms", "p99 ms", "change", "its good/s", "all tokens/s"
    );
    let quiet = neighbours(arguments, runtime, workers, |_| {}, 1.0);
    let before = quiet.0.quantile_ms(0.99);
    let mut figures = serde_json::Map::new();
    let mut line = |name: &str, (others, own): (Seen, Seen)| {
        let p99 = others.quantile_ms(0.99);
        let (share, p50) = (100.0 * others.good_share(), others.quantile_ms(0.5));
        let change = 100.0 * (p99 / before - 1.0);
        let (good, tokens) = (good_per_second(&own), (others.tokens + own.tokens) as f64 / others.seconds);
        println!("  {name:<30}{share:>7.1}%{p50:>9.1}{p99:>9.1}{change:>+9.1}%{good:>12.1}{tokens:>12.0}");
        let told = json!({
            "others_p99_ms": round(p99), "change": round(p99 / before - 1.0), "others_good_share": round(others.good_share()),
            "its_good_per_second": round(good), "tokens_per_second": round(tokens),
        });
        figures.insert(name.to_owned(), told);
    };
    line("before", quiet);
    line("after", neighbours(arguments, runtime, workers, |_| {}, 50.0));
    line(
        "after, no limit on its batches",
        neighbours(arguments, runtime, workers, |run| run.settings.crowd_share = 1.0, 50.0),
    );
    line("after, no credit", neighbours(arguments, runtime, workers, |run| run.settings.credit = Duration::ZERO, 50.0));
    line("after, first come first served", neighbours(arguments, runtime, workers, first_come, 50.0));
    json!({ "runtime": runtime.name, "workers": workers, "p99": figures })
}

fn first_come(run: &mut Run) {
    run.settings.batching = Batching::Greedy { tokens: 16_384, requests_max: 512 };
}

/// The three that stay as they are, and the fourth.
fn neighbours(
    arguments: &Arguments,
    runtime: Runtime,
    workers: usize,
    change: impl Fn(&mut Run),
    times: f64,
) -> (Seen, Seen) {
    let runs = arguments.runs(|seed| {
        let mut run = Run::new(seed, runtime, 0.6);
        run.settings.workers = workers;
        let rate = 0.15 * runtime.capacity(workers);
        run.flows = vec![Flow { weight: 1, rate, shape: Shape::Steady }; 4];
        // It begins while the others are counted.
        run.flows[3].shape = Shape::Between(times, 3.0, f64::INFINITY);
        change(&mut run);
        run
    });
    let others: Vec<Seen> = runs.iter().map(|flows| Seen::together(&flows[..3])).collect();
    let own: Vec<Seen> = runs.iter().map(|flows| flows[3].clone()).collect();
    (Seen::pooled(&others), Seen::pooled(&own))
}

// === What goes wrong ===

fn events(arguments: &Arguments, runtime: Runtime) -> Vec<Value> {
    println!("\n  {}: what goes wrong{:>9}{:>10}{:>10}{:>9}", runtime.name, "good", "p50 ms", "p99 ms", "refused");
    let spike = |run: &mut Run| {
        for flow in &mut run.flows {
            flow.shape = Shape::Between(5.0, 6.0, 8.0);
        }
    };
    let stall = |run: &mut Run| run.stall = Some(Stall { worker: 0, at: 6.0, seconds: 2.0 });
    let retry = |run: &mut Run| run.retries = 3;
    vec![
        event(arguments, runtime, "5 x for 2 s at 0.6", 0.6, spike),
        event(arguments, runtime, "a worker stalls 2 s at 0.6", 0.6, stall),
        event(arguments, runtime, "1.3 x, 3 retries as told", 1.3, retry),
    ]
}

fn event(arguments: &Arguments, runtime: Runtime, name: &str, load: f64, change: impl Fn(&mut Run)) -> Value {
    let runs = arguments.runs(|seed| {
        let mut run = Run::new(seed, runtime, load);
        change(&mut run);
        run
    });
    let seen = Seen::pooled(&runs.iter().map(|flows| Seen::together(flows)).collect::<Vec<_>>());
    let (p50, p99) = (seen.quantile_ms(0.5), seen.quantile_ms(0.99));
    let (good, refused) = (seen.good_share(), seen.refused_share());
    print!("  {name:<26}{:>7.1}%{p50:>10.1}{p99:>10.1}{:>8.1}%", 100.0 * good, 100.0 * refused);
    let taken = seen.first_retries_taken as f64 / seen.first_retries.max(1) as f64;
    if seen.first_retries > 0 {
        print!("  {:.0}% of those who came back were taken at once", 100.0 * taken);
    }
    println!();
    json!({
        "runtime": runtime.name, "event": name, "good_share": round(good), "p50_ms": round(p50), "p99_ms": round(p99),
        "refused_share": round(refused), "first_retries_taken": round(taken),
    })
}

// === The plot ===

const PANEL: (f64, f64) = (430.0, 250.0);
const MARGIN: (f64, f64) = (64.0, 52.0);

/// A row a runtime: the share within the goal on the left, p99 on the right.
fn plot(results: &[ByLoad]) -> String {
    let (width, height) = (2.0 * (PANEL.0 + MARGIN.0) + 24.0, results.len() as f64 * (PANEL.1 + MARGIN.1) + 72.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (row, (runtime, by_load)) in RUNTIMES.iter().zip(results).enumerate() {
        let top = row as f64 * (PANEL.1 + MARGIN.1) + 30.0;
        let good = Axis {
            title: "% of the offered requests within 100 ms",
            ticks: &[0.0, 25.0, 50.0, 75.0, 100.0],
            log: false,
        };
        let late = Axis { title: "p99 of the answered ones, ms", ticks: &[10.0, 100.0, 1e3, 1e4, 1e5], log: true };
        panel(&mut svg, (MARGIN.0, top), runtime, &good, by_load, |seen| 100.0 * seen.good_share());
        panel(&mut svg, (2.0 * MARGIN.0 + PANEL.0, top), runtime, &late, by_load, |seen| seen.quantile_ms(0.99));
    }
    let under = height - 38.0;
    drawn(
        &mut svg,
        format_args!(
            "<text x=\"{}\" y=\"{under}\">Offered load, times the capacity; bursts: half of it, and three times that for a second of every ten.</text>",
            MARGIN.0
        ),
    );
    for (index, rule) in RULES.iter().enumerate() {
        let (x, y) = (MARGIN.0 + index as f64 * 130.0, height - 14.0);
        let width = if index == 0 { 4 } else { 2 };
        drawn(
            &mut svg,
            format_args!("<path d=\"M{x} {} h22\" stroke=\"{}\" stroke-width=\"{width}\"/>", y - 4.0, rule.colour),
        );
        drawn(&mut svg, format_args!("<text x=\"{}\" y=\"{y}\">{}</text>", x + 28.0, rule.name));
    }
    svg.push_str("</svg>\n");
    svg
}

struct Axis {
    title: &'static str,
    ticks: &'static [f64],
    log: bool,
}

impl Axis {
    /// How far up a value is, from 0 to 1.
    fn height(&self, value: f64) -> f64 {
        let (least, most) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let on = |value: f64| if self.log { value.max(1e-9).ln() } else { value };
        ((on(value) - on(least)) / (on(most) - on(least))).clamp(0.0, 1.0)
    }
}

fn panel(
    svg: &mut String,
    at: (f64, f64),
    runtime: &Runtime,
    axis: &Axis,
    by_load: &ByLoad,
    of: impl Fn(&Seen) -> f64,
) {
    let (left, top) = at;
    let bottom = top + PANEL.1;
    let x = |index: usize| left + PANEL.0 * (index as f64 + 0.5) / LOADS.len() as f64;
    let y = |value: f64| bottom - PANEL.1 * axis.height(value);
    drawn(
        svg,
        format_args!(
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}: {}</text>",
            top - 8.0,
            runtime.name,
            axis.title
        ),
    );
    for tick in axis.ticks {
        let at = y(*tick);
        drawn(svg, format_args!("<path d=\"M{left} {at} h{}\" stroke=\"#ddd\"/>", PANEL.0));
        drawn(svg, format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{tick}</text>", left - 6.0, at + 4.0));
    }
    for (index, load) in LOADS.iter().enumerate() {
        let (at, under) = (x(index), bottom + 17.0);
        drawn(svg, format_args!("<text x=\"{at}\" y=\"{under}\" text-anchor=\"middle\">{}</text>", load.name));
    }
    // Ours last, on top of the others.
    for (number, rule) in RULES.iter().enumerate().rev() {
        // The bursts are no larger load: no line leads to them.
        let steady = LOADS.len() - 1;
        let mut line = String::new();
        for (index, seen) in by_load[..steady].iter().enumerate() {
            drawn(&mut line, format_args!("{},{}", x(index), y(of(&seen[number]))));
        }
        let (colour, width) = (rule.colour, if number == 0 { 4 } else { 2 });
        let points = line.replace('\n', " ");
        drawn(
            svg,
            format_args!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"),
        );
        for (index, seen) in by_load.iter().enumerate() {
            let radius = if number == 0 { 5 } else { 3 };
            let (x, y) = (x(index), y(of(&seen[number])));
            drawn(svg, format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{colour}\"/>"));
        }
    }
}

fn drawn(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(svg, "{element}");
}

#[expect(clippy::disallowed_methods, reason = "the plot goes where the caller says, next to no store")]
fn write(path: &str, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)
}
