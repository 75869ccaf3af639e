//! The upstream simulator: it speaks OpenAI's wire, fails on demand, and keeps its own count of tokens and money, made
//! with code the gateway does not link. Its truth is what every money test compares the ledger with. It calls itself
//! a simulator in every answer.
//!
//! [`run`] is the command `tollgate sim-provider`; [`spawn`] is the same inside a test.

mod body;
mod chat;
mod dice;
mod embeddings;
mod error;
mod export;
mod faults;
mod money;
mod render;
mod scenario;
mod schema;
mod server;
mod stream;
mod text;
mod timing;
mod tokens;
mod truth;
mod work;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

pub use crate::faults::Fault;
pub use crate::money::{PriceSaid, Tokens};
pub use crate::scenario::Scenario;
pub use crate::timing::Speed;
pub use crate::truth::{Account, Attempt, Kind, TokenTotals, Totals, Truth};

use crate::money::Prices;
use crate::server::Sim;
use crate::text::River;

/// What the simulator is told on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen on (HTTP/1.1, and HTTP/2 by prior knowledge); port 0 takes any that is free
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Seed of everything that looks random: texts, lengths, delays, faults
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Scenario in JSON: probabilities of faults, lengths of answers, share of cached tokens, prices
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,

    /// How fast tokens come: instant, realistic, or the median gap between two tokens in milliseconds
    #[arg(long, default_value = "instant")]
    pub speed: Speed,

    /// Append what was really used to this file, one line of JSON whenever the work for a request ends
    #[arg(long, value_name = "FILE.jsonl")]
    pub truth: Option<PathBuf>,

    /// How many attempts the truth keeps; when it is full, further requests are refused with 503
    #[arg(long, default_value_t = 2_000_000, value_name = "N")]
    pub truth_max: usize,

    /// Refuse requests without `Authorization: Bearer KEY` (otherwise any key, or none, will do)
    #[arg(long, value_name = "KEY")]
    pub require_key: Option<String>,

    /// All prices times this many hundredths: 50 makes a provider at half the price, for several side by side
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub price_percent: u32,

    /// Threads that work; 0 means one for each core
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub workers: usize,

    /// A scenario that does not come from a file, for tests. `scenario` goes before it.
    #[arg(skip)]
    pub script: Option<Scenario>,
}

/// A simulator at work. It stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    pub addr: SocketAddr,
    truth: Arc<Truth>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Runs the simulator until the returned future is dropped.
///
/// # Errors
/// The scenario is not valid, the truth's file cannot be opened, or the address cannot be listened on.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let seed = options.seed;
    let running = spawn(options)?;
    println!("tollgate simulator (not a real provider) at http://{}/v1, seed {seed}", running.addr);
    println!("its own count of what was used: http://{}/sim/truth", running.addr);
    println!("what it would bill, line by line: http://{}/sim/usage.jsonl", running.addr);
    std::future::pending::<()>().await;
    drop(running);
    Ok(())
}

/// Starts a simulator with threads of its own, so that it needs no runtime around it and is slowed down by none.
///
/// # Errors
/// Those of [`run`].
pub fn spawn(options: Options) -> anyhow::Result<Running> {
    let (sim, runtime) = (Arc::new(options.open()?), options.runtime()?);
    let listener = {
        let _inside = runtime.enter();
        server::bind(options.listen)?
    };
    let mut running = Running::new(&sim, &listener)?;
    let stopped = running.stopper();
    let work = move || {
        runtime.block_on(until(stopped, sim, listener));
        // A connection that is busy in the kernel must not keep us.
        runtime.shutdown_background();
    };
    running.thread = Some(std::thread::Builder::new().name("simulator".to_owned()).spawn(work)?);
    Ok(running)
}

/// Starts a simulator in the runtime around it, where a test can stop its clock.
///
/// # Errors
/// Those of [`run`].
///
/// # Panics
/// Outside a Tokio runtime.
pub fn spawn_here(options: Options) -> anyhow::Result<Running> {
    let sim = Arc::new(options.open()?);
    let listener = server::bind(options.listen)?;
    let mut running = Running::new(&sim, &listener)?;
    tokio::spawn(until(running.stopper(), sim, listener));
    Ok(running)
}

async fn until(stopped: oneshot::Receiver<()>, sim: Arc<Sim>, listener: TcpListener) {
    tokio::select! {
        _ = stopped => {}
        never = server::serve(sim, listener) => match never {},
    }
}

// === impl Options ===

impl Options {
    /// The defaults, on any free port of this machine.
    pub fn on_any_port() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            scenario: None,
            speed: Speed::Instant,
            truth: None,
            truth_max: 2_000_000,
            require_key: None,
            price_percent: 100,
            workers: 1,
            script: None,
        }
    }

    fn open(&self) -> anyhow::Result<Sim> {
        let scenario = self.read_scenario()?;
        let prices = Prices::new(&scenario.prices, self.price_percent)?;
        Ok(Sim {
            seed: self.seed,
            speed: self.speed,
            faults: scenario.faults.iter().map(|(fault, probability)| (*fault, *probability)).collect(),
            cached_per_mille: scenario::per_mille(scenario.cached_share)?,
            scenario,
            river: River::new(self.seed),
            truth: Arc::new(Truth::open(self.truth_max, self.truth.as_deref(), prices)?),
            authorization: self.require_key.as_ref().map(|key| format!("Bearer {key}")),
            ids_made: AtomicU64::new(0),
        })
    }

    fn read_scenario(&self) -> anyhow::Result<Scenario> {
        let Some(path) = &self.scenario else {
            let scenario = self.script.clone().unwrap_or_default();
            scenario.check()?;
            return Ok(scenario);
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Scenario::parse(&text).with_context(|| path.display().to_string())
    }

    /// One worker needs no hand-over between threads, which is what makes it the fastest.
    fn runtime(&self) -> anyhow::Result<Runtime> {
        let workers = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let runtime = match workers {
            1 => Builder::new_current_thread().enable_all().build(),
            _ => Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
        };
        runtime.context("cannot start the simulator's threads")
    }
}

// === impl Running ===

impl Running {
    fn new(sim: &Arc<Sim>, listener: &TcpListener) -> anyhow::Result<Self> {
        let addr = listener.local_addr().context("a listener without an address")?;
        Ok(Self { addr, truth: Arc::clone(&sim.truth), stop: None, thread: None })
    }

    fn stopper(&mut self) -> oneshot::Receiver<()> {
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        stopped
    }

    /// `http://…/v1`, as a provider's `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What was really used; stays readable after the simulator has stopped.
    pub fn truth(&self) -> Arc<Truth> {
        Arc::clone(&self.truth)
    }

    /// Stops it; connections break off. The same as dropping it.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the simulator's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(args: &[&str]) -> Result<Options, clap::Error> {
        Cli::try_parse_from([&["sim-provider"], args].concat()).map(|cli| cli.options)
    }

    #[test]
    fn the_command_lines_defaults_are_those_of_the_tests_but_for_the_port() {
        let parsed = parse(&[]).expect("all have defaults");
        assert_eq!(parsed.listen.to_string(), "127.0.0.1:9090");
        let expected = Options { listen: parsed.listen, ..Options::on_any_port() };
        assert_eq!(format!("{parsed:?}"), format!("{expected:?}"));
    }

    #[test]
    fn options_are_read_from_the_command_line() {
        let parsed =
            parse(&["--seed", "7", "--speed", "realistic", "--workers", "0", "--require-key", "k"]).expect("good");
        assert_eq!((parsed.seed, parsed.speed, parsed.workers), (7, Speed::Paced(1.0), 0));
        assert!(parsed.runtime().is_ok());
        for wrong in [&["--speed", "fast"][..], &["--listen", "nowhere"], &["--seed", "-1"], &["--script", "{}"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
