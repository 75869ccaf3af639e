//! `tollgate-prove`: searches the models of the money protocol to their last state, from the command line.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use clap::builder::FalseyValueParser;
use tollgate_prove::report;
use tollgate_prove::trials::{MustFail, Size, Trial};

/// Checks the money protocol exhaustively within bounds, and that each of its broken variants is caught.
///
/// Exits with 1 if a property is violated or a variant is not caught. Example: SHORT=1 tollgate-prove
#[derive(Debug, Parser)]
#[command(name = "tollgate-prove", version, max_term_width = 100)]
struct Cli {
    /// Only the small bounds: well under a minute.
    #[arg(long, env = "SHORT", value_parser = FalseyValueParser::new())]
    short: bool,
    /// Threads that search; 0: one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Only the bounds and variants whose names contain this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Print how each broken variant fails.
    #[arg(long)]
    paths: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it should be.
fn run(cli: &Cli) -> Result<bool> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if cli.threads == 0 { cores } else { cli.threads };
    let mut trials = Trial::all(if cli.short { Size::Short } else { Size::Full });
    trials.retain(|trial| trial.name.contains(&cli.only));
    let mut must_fail = MustFail::all();
    must_fail.retain(|variant| variant.name.contains(&cli.only));
    ensure!(trials.len() + must_fail.len() > 0, "nothing has {:?} in its name", cli.only);
    let report = report::run(trials, must_fail, threads, &mut tell);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", report.tables())?;
    if cli.paths {
        writeln!(out, "{}", report.paths())?;
    }
    writeln!(out, "{}", report.line().to_json())?;
    Ok(report.is_fine())
}

/// Progress goes to standard error: standard output is the report.
fn tell(text: &str) {
    // Nobody to tell if even that is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
