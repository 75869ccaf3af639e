//! `tollgate-bench`: load, side-by-side figures and storms, from the command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use tokio::signal::unix::{SignalKind, signal};
use tollgate_bench::http::Origin;
use tollgate_bench::load::{self, Ask, Load, Manners, Mode};
use tollgate_bench::report::{LoadReport, last_line, line, load_table, progress};
use tollgate_bench::side_by_side::Durations;
use tollgate_bench::{clock, side_by_side, storm};

/// Measures Tollgate from outside: load, comparison with nginx, storms.
#[derive(Debug, Parser)]
#[command(name = "tollgate-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends requests to a URL and prints latencies.
    ///
    /// Example: tollgate-bench load --url http://127.0.0.1:8080 --key tg_... --mode open --rate 500 --duration 10
    Load(LoadArguments),
    /// Compares the provider asked directly, nginx as a plain proxy, and Tollgate with everything on.
    ///
    /// Example: tollgate-bench bench --tollgate target/release/tollgate
    Bench(BenchArguments),
    /// Drives caps to refusal under thousands of callers, a failing provider and kill -9, then audits the books.
    ///
    /// Example: SEED=42 tollgate-bench storm --tollgate target/release/tollgate
    Storm(StormArguments),
}

#[derive(Debug, Args)]
struct LoadArguments {
    /// A server (then the usual path is asked) or a whole URL.
    #[arg(long)]
    url: String,
    /// closed: so many callers, each asks again once answered. open: a fixed rate, latency from the intended start.
    #[arg(long, value_enum, default_value = "closed")]
    mode: LoopMode,
    /// Callers of a closed loop; at most so many connections of an open one.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests a second of an open loop.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Stop after so many requests.
    #[arg(long)]
    requests: Option<u64>,
    /// Ask for a stream, and measure time to first token and gaps.
    #[arg(long)]
    stream: bool,
    /// Ask for embeddings.
    #[arg(long, conflicts_with = "stream")]
    embeddings: bool,
    /// The request's JSON; a chat of 0.7 kB without it.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// API key.
    #[arg(long)]
    key: Option<String>,
    /// API keys, one a line, used in turn.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    keys: Option<PathBuf>,
    #[arg(long, default_value = "gpt-4o-mini")]
    model: String,
    #[arg(long, default_value_t = 60)]
    max_tokens: u32,
    /// Open loop: who is refused and told when to come again does so, once.
    #[arg(long)]
    heed: bool,
    /// Open loop: where nobody listens yet, knock until somebody does.
    #[arg(long)]
    patient: bool,
    /// Measure CPU time and memory of this process and its children.
    #[arg(long)]
    pid: Option<u32>,
    /// End with a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LoopMode {
    Closed,
    Open,
}

/// What both long measurements take.
#[derive(Debug, Args)]
struct Common {
    /// The release binary.
    #[arg(long, value_name = "PATH")]
    tollgate: PathBuf,
    /// Where the store is put, in a directory of its own: on the disk that matters.
    #[arg(long, default_value = ".tollgate")]
    dir: PathBuf,
    /// Under a minute; the environment variable does the same.
    #[arg(long, env = "SHORT", value_parser = FalseyValueParser::new(), default_value = "false", num_args = 0, default_missing_value = "true")]
    short: bool,
}

#[derive(Debug, Args)]
struct BenchArguments {
    #[command(flatten)]
    common: Common,
    /// Times that all three are measured in turn [default: 3; short: 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Say how to profile the gateway when it is under load.
    #[arg(long)]
    profile_hint: bool,
}

#[derive(Debug, Args)]
struct StormArguments {
    #[command(flatten)]
    common: Common,
    /// Replays what was drawn: errands, faults, moments of the kills.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Tenants, all at once [default: 200; short: 12]
    #[arg(long)]
    tenants: Option<usize>,
    /// Callers at once [default: 10000; short: 200]
    #[arg(long)]
    concurrency: Option<usize>,
    /// kill -9 so often [default: 50; short: 3]
    #[arg(long)]
    kills: Option<u32>,
    /// What each tenant may spend in each wave, in thousandths of a dollar [default: 50; short: 8]
    #[arg(long)]
    cap_milli_usd: Option<u64>,
    /// The simulator's: instant, realistic, or milliseconds between two tokens [default: realistic; short: 3]
    #[arg(long)]
    speed: Option<String>,
    /// The provider lies about usage too.
    #[arg(long)]
    lies: bool,
    /// Send some requests again under an Idempotency-Key, if the gateway knows such.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    idempotency: bool,
    /// HTTP/1.1 from the gateway to the simulator: twice the open files.
    #[arg(long)]
    provider_http1: bool,
    /// Stops after so many minutes, in the midst of a wave too; kills that are missing and caps that are not used up then are
    /// broken promises.
    #[arg(long, default_value_t = 30)]
    minutes_max: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run_until_told_to_stop(cli.command)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            progress(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked, or ends early on a signal: then everything that was started is stopped, as it always is.
async fn run_until_told_to_stop(command: Command) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        outcome = run(command) => outcome,
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = interrupt.recv() => bail!("stopped by SIGINT"),
    }
}

/// False when what was measured is not as promised.
async fn run(command: Command) -> Result<bool> {
    match command {
        Command::Load(arguments) => run_load(&arguments).await,
        Command::Bench(arguments) => side_by_side::run(&arguments.options()).await.map(|()| true),
        Command::Storm(arguments) => storm::run(&arguments.options()).await,
    }
}

async fn run_load(arguments: &LoadArguments) -> Result<bool> {
    let load = arguments.load()?;
    let outcome = load.run().await?;
    line(&load_table(&outcome))?;
    if arguments.json {
        last_line(&LoadReport::from(&outcome))?;
    }
    let succeeded = outcome.demand_success("load");
    if let Err(error) = &succeeded {
        progress(&format!("{error:#}"));
    }
    Ok(succeeded.is_ok())
}

// === impl LoadArguments ===

impl LoadArguments {
    fn load(&self) -> Result<Load> {
        let (origin, path) = Origin::split(&self.url)?;
        let path = if path == "/" { self.usual_path().to_owned() } else { path };
        let listed = self.keys.as_ref().map(std::fs::read_to_string).transpose().context("cannot read --keys")?;
        let keys: Vec<&str> = listed.iter().flat_map(|text| text.lines()).chain(self.key.as_deref()).collect();
        let ask = Ask::post(origin, &path, &keys, self.body()?, self.stream)?;
        let mode = match self.mode {
            LoopMode::Closed => Mode::Closed { connections: self.connections },
            LoopMode::Open => Mode::Open { rate_per_s: self.rate, connections_max: self.connections },
        };
        let during = Duration::try_from_secs_f64(self.duration).context("--duration is not a time")?;
        Ok(Load {
            ask,
            mode,
            during,
            requests_max: self.requests,
            pid: self.pid,
            manners: Manners { heed: self.heed, patient: self.patient },
        })
    }

    fn usual_path(&self) -> &'static str {
        if self.embeddings { "/v1/embeddings" } else { "/v1/chat/completions" }
    }

    fn body(&self) -> Result<Vec<u8>> {
        match &self.body {
            Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display())),
            None if self.embeddings => Ok(load::embeddings_body(&self.model).to_string().into()),
            None => Ok(load::chat_body(&self.model, self.max_tokens, self.stream).to_string().into()),
        }
    }
}

// === impl BenchArguments ===

impl BenchArguments {
    fn options(&self) -> side_by_side::Options {
        let short = self.common.short;
        side_by_side::Options {
            tollgate: self.common.tollgate.clone(),
            dir: self.common.dir.clone(),
            rounds: self.rounds.unwrap_or(if short { 2 } else { 3 }),
            durations: if short { Durations::SHORT } else { Durations::LONG },
            profile_hint: self.profile_hint,
        }
    }
}

// === impl StormArguments ===

impl StormArguments {
    fn options(&self) -> storm::Options {
        let short = self.common.short;
        let pick = |short_one: u64, long_one: u64| if short { short_one } else { long_one };
        storm::Options {
            tollgate: self.common.tollgate.clone(),
            dir: self.common.dir.clone(),
            seed: self.seed.unwrap_or_else(clock::seed),
            tenants: self.tenants.unwrap_or(if short { 12 } else { 200 }).max(1),
            concurrency: self.concurrency.unwrap_or(if short { 200 } else { 10_000 }).max(1),
            kills: self.kills.unwrap_or(if short { 3 } else { 50 }),
            cap_milli_usd: self.cap_milli_usd.unwrap_or_else(|| pick(8, 50)),
            refusals_in_row: pick(5, 10),
            speed: self.speed.clone().unwrap_or_else(|| if short { "3" } else { "realistic" }.to_owned()),
            patience: if short { storm::SHORT_PATIENCE } else { storm::PATIENCE },
            kill_after_ms: if short { 100..=500 } else { 200..=2_000 },
            lies: self.lies,
            idempotency: self.idempotency,
            http2: !self.provider_http1,
            within: Duration::from_secs(60 * self.minutes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &str) -> Command {
        Cli::try_parse_from(arguments.split(' ')).unwrap().command
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_runs_are_smaller_unless_told_otherwise() {
        let Command::Storm(storm) = parse("tollgate-bench storm --tollgate x --short --kills 5 --seed 9") else {
            panic!("not a storm")
        };
        let options = storm.options();
        assert_eq!((options.concurrency, options.kills, options.cap_milli_usd, options.seed), (200, 5, 8, 9));
        assert!(options.tenants == 12 && options.idempotency && options.http2);
        let Command::Bench(bench) = parse("tollgate-bench bench --tollgate x --short") else { panic!("not a bench") };
        assert_eq!(bench.options().rounds, 2);
    }

    #[test]
    fn a_bare_server_is_asked_at_the_usual_path() {
        let path_of = |arguments: &str| {
            let Command::Load(load) = parse(arguments) else { panic!("not a load") };
            load.load().unwrap().ask.request().uri().path().to_owned()
        };
        assert_eq!(path_of("tollgate-bench load --url http://127.0.0.1:1"), "/v1/chat/completions");
        assert_eq!(path_of("tollgate-bench load --url http://127.0.0.1:1 --embeddings"), "/v1/embeddings");
        assert_eq!(path_of("tollgate-bench load --url http://127.0.0.1:1/t/a/v1/x"), "/t/a/v1/x");
    }
}
