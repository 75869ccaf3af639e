//! The command line: what can be said, who does it, and with which exit code it ends. Most commands speak to a running
//! gateway through its control plane; `ledger verify` and `doctor` look at files themselves.
//!
//! A command gives back an [`Answer`], for people and for machines; printing it is done in one place, here.
//!
//! Exit codes: 0 fine, 1 a check failed or the gateway refused, 2 bad arguments, 64 bad configuration.

mod access;
mod audit;
mod budget;
mod connection;
mod doctor;
mod evaluation;
mod import;
mod key;
mod ledger;
mod limit;
mod plan;
mod policy;
mod price;
mod progress;
mod project;
mod receipt;
mod reconcile;
mod run;
mod runtime;
mod table;
mod template;
mod tenant;
mod usage;
mod whose;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;
use serde_json::Value;
use tollgate_store::StoreError;
use tollgate_store::vault::VaultError;
use tollgate_types::Timestamp;

use self::connection::Connection;
use crate::app::StartError;
use crate::config::{ConfigError, Role};
use crate::runtimes::RuntimesError;

/// A gateway for language models that holds every request against a budget before it is sent.
#[derive(Debug, Parser)]
#[command(
    name = "tollgate",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  tollgate serve --config tollgate.toml\n\n\
                  Exit codes: 0 fine, 1 a check failed or the gateway refused, 2 bad arguments, 64 bad configuration."
)]
pub struct Cli {
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    #[command(after_help = "Example:\n  tollgate serve --config tollgate.toml")]
    Serve(ServeArgs),
    /// Tenants: who pays
    #[command(after_help = "Example:\n  tollgate tenant create demo --name Demo")]
    Tenant(tenant::TenantArgs),
    /// Projects: parts of a tenant with budgets of their own
    #[command(after_help = "Example:\n  tollgate project create main --tenant demo")]
    Project(project::ProjectArgs),
    /// API keys
    #[command(after_help = "Example:\n  tollgate key create --tenant demo --name laptop")]
    Key(key::KeyArgs),
    /// Plans: what a tenant has bought
    #[command(after_help = "Example:\n  tollgate plan set standard --markup-percent 20")]
    Plan(plan::PlanArgs),
    /// Budgets: money per period, and its cap
    #[command(after_help = "Example:\n  tollgate budget set --tenant demo --window day --cap-usd 1.00")]
    Budget(budget::BudgetArgs),
    /// Limits: requests and tokens per minute, and requests at once
    #[command(after_help = "Example:\n  tollgate limit set --tenant demo --tokens-per-minute 100000")]
    Limit(limit::LimitArgs),
    /// Policies: what a tenant may do, in Rego
    #[command(after_help = "Example:\n  tollgate policy test policies/baseline")]
    Policy(policy::PolicyArgs),
    /// Price books: what a unit of work costs
    #[command(after_help = "Example:\n  tollgate price list")]
    Price(price::PriceArgs),
    /// Usage events, and sums over them
    #[command(after_help = "Example:\n  tollgate usage summary --tenant demo")]
    Usage(usage::UsageArgs),
    /// The proof of one request
    #[command(after_help = "Example:\n  tollgate receipt show req_019ab0f2c3d4000000000000deadbeef")]
    Receipt(receipt::ReceiptArgs),
    /// The books themselves
    #[command(after_help = "Example:\n  tollgate ledger verify --dir .tollgate/data")]
    Ledger(ledger::LedgerArgs),
    /// Who may speak to the control plane, and what waits for a second human
    #[command(after_help = "Example:\n  tollgate access approvals")]
    Access(access::AccessArgs),
    /// The audit log: who did what, and the proof of it
    #[command(after_help = "Example:\n  tollgate audit list --tenant demo")]
    Audit(audit::AuditArgs),
    /// Models that run here, as files
    #[command(after_help = "Example:\n  tollgate runtime convert all-MiniLM-L6-v2 --to models/all-MiniLM-L6-v2")]
    Runtime(runtime::RuntimeArgs),
    /// Use cases as folders, and classifiers made of their examples
    #[command(
        after_help = "Example:\n  tollgate template train templates/support-triage --to classifiers/support-triage"
    )]
    Template(template::TemplateArgs),
    /// Run a use case, with one of the tenant's keys
    #[command(after_help = "Example:\n  tollgate run support-triage --file message.json")]
    Run(run::RunArgs),
    /// Check the configuration, the store, the providers and the running gateway
    #[command(after_help = "Example:\n  tollgate doctor --config tollgate.toml")]
    Doctor(doctor::DoctorArgs),
    /// Take over what others wrote down about their tenants
    #[command(after_help = "Example:\n  tollgate import llm-policy config/llm-policy.yaml --into policies")]
    Import(import::ImportArgs),
    /// Run a simulated provider, for tests and first steps
    #[command(after_help = "Example:\n  tollgate sim-provider --listen 127.0.0.1:9090 --seed 7")]
    SimProvider(tollgate_sim::Options),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  tollgate completion bash > ~/.local/share/bash-completion/completions/tollgate"
    )]
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version
    #[command(after_help = "Example:\n  tollgate version --json")]
    Version,
    /// Print a document that the program writes itself
    #[command(hide = true, after_help = "Example:\n  tollgate docs openapi > docs/openapi.json")]
    Docs {
        #[arg(value_enum)]
        document: Document,
    },
}

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "tollgate.toml")]
    pub config: PathBuf,
    /// What this process does: all of it, all but the work of runtimes, or that work alone
    #[arg(long, value_enum, default_value_t = Role::All)]
    pub role: Role,
}

/// Documents that are kept in the repository and held to what the program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Document {
    /// The control plane's OpenAPI description
    Openapi,
    /// Every field of the configuration
    Configuration,
    /// JSON Schemas of what a policy is asked and says
    Policy,
}

/// What a command has to say, and whether what it checked holds.
#[derive(Debug)]
pub struct Answer {
    text: String,
    json: Value,
    passed: bool,
}

/// Why a command did not do what was asked. The variant is the exit code, the text is for people.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Arguments(String),
    #[error("{0}")]
    Configuration(String),
}

/// Does what was asked and says how it went.
pub fn run(cli: Cli) -> ExitCode {
    let json = cli.json;
    match dispatch(cli.command) {
        Ok(answer) => {
            print(&answer.rendered(json));
            ExitCode::from(u8::from(!answer.passed))
        }
        Err(failure) => {
            tell(&failure, json);
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<Answer, Failure> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::SimProvider(options) => wait_for(simulate(options)),
        Command::Completion { shell } => Ok(completion(shell)),
        Command::Version => Ok(version()),
        Command::Docs { document } => docs(document),
        Command::Tenant(args) => wait_for(args.run()),
        Command::Project(args) => wait_for(args.run()),
        Command::Access(args) => wait_for(args.run()),
        Command::Audit(args) => wait_for(args.run()),
        Command::Key(args) => wait_for(args.run()),
        Command::Plan(args) => wait_for(args.run()),
        Command::Budget(args) => wait_for(args.run()),
        Command::Limit(args) => wait_for(args.run()),
        Command::Policy(args) => wait_for(args.run()),
        Command::Price(args) => wait_for(args.run()),
        Command::Import(args) => args.run(),
        Command::Runtime(args) => args.run(),
        Command::Template(args) => args.run(),
        Command::Run(args) => wait_for(args.run()),
        Command::Usage(args) => wait_for(args.run()),
        Command::Receipt(args) => wait_for(args.run()),
        Command::Doctor(args) => wait_for(args.run()),
        Command::Ledger(args) => wait_for(args.run()),
    }
}

/// A command asks one thing after the other: one thread is enough.
fn wait_for(command: impl Future<Output = Result<Answer, Failure>>) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::Failed(format!("the system gives no timers or sockets: {error}")))?
        .block_on(command)
}

fn serve(args: &ServeArgs) -> Result<Answer, Failure> {
    match crate::serve::run(&args.config, args.role) {
        Ok(()) => Ok(Answer::nothing()),
        Err(error) if is_configurations_fault(&error) => Err(Failure::Configuration(format!("{error:#}"))),
        Err(error) => Err(Failure::Failed(format!("{error:#}"))),
    }
}

/// Whether the gateway did not start because of what it was told, not because of what it met.
fn is_configurations_fault(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>()
        || error.is::<RuntimesError>()
        || matches!(
            error.downcast_ref::<StartError>(),
            Some(
                StartError::Prices { .. }
                    | StartError::Runtimes(_)
                    | StartError::Store(StoreError::Vault(VaultError::MalformedMasterKey))
            )
        )
}

async fn simulate(options: tollgate_sim::Options) -> Result<Answer, Failure> {
    let ended = tollgate_sim::run(options).await;
    ended.map(|()| Answer::nothing()).map_err(|error| Failure::Failed(format!("{error:#}")))
}

fn docs(document: Document) -> Result<Answer, Failure> {
    Ok(Answer::text(match document {
        Document::Openapi => crate::admin::openapi_json(),
        Document::Configuration => crate::config::markdown(),
        Document::Policy => format!("{:#}\n", tollgate_policy::schema::schema()),
    }))
}

fn completion(shell: clap_complete::Shell) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
    Answer::text(String::from_utf8_lossy(&script).into_owned())
}

fn version() -> Answer {
    let version = env!("CARGO_PKG_VERSION");
    Answer::new(format!("tollgate {version}"), &serde_json::json!({ "version": version }))
}

/// A file that an argument names, or standard input where that is `-`: one byte more than `most` says that it is too long.
fn read_argument(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::Arguments(format!("cannot read {}: {error}", path.display())))?;
    Ok(bytes)
}

/// For arguments that are a time.
fn time(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse_rfc3339(text).ok_or("not a time such as 2027-01-01T00:00:00Z")
}

fn print(text: &str) {
    // Whoever reads us may have seen enough (`tollgate usage list | head`): that is no error of ours.
    let mut out = std::io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

fn tell(failure: &Failure, json: bool) {
    let text = if json {
        serde_json::json!({ "error": { "message": failure.to_string() } }).to_string()
    } else {
        format!("tollgate: {failure}")
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

// === impl Answer ===

impl Answer {
    /// `text` for people, `json` for machines.
    pub fn new(text: impl Into<String>, json: &impl Serialize) -> Self {
        let json = serde_json::to_value(json).expect("answers are plain data, which JSON can hold");
        Self { text: text.into(), json, passed: true }
    }

    /// Text that is a document of its own, the same for machines.
    fn text(text: String) -> Self {
        let json = Value::String(text.clone());
        Self { text, json, passed: true }
    }

    fn nothing() -> Self {
        Self { text: String::new(), json: Value::Null, passed: true }
    }

    /// Says what was found, and whether it is as it ought to be: if not, the exit code is 1.
    #[must_use]
    pub fn passed_if(self, passed: bool) -> Self {
        Self { passed, ..self }
    }

    fn rendered(&self, json: bool) -> String {
        match &self.json {
            // A document (a script, a description) is itself under both.
            Value::String(_) | Value::Null => self.text.clone(),
            value if json => format!("{value:#}"),
            _ => self.text.clone(),
        }
    }
}

// === impl Failure ===

impl Failure {
    /// sysexits' EX_USAGE, which surface.md gives to a configuration that does not hold.
    pub const BAD_CONFIGURATION: u8 = 64;

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Arguments(_) => 2,
            Self::Configuration(_) => Self::BAD_CONFIGURATION,
        })
    }
}

#[cfg(test)]
mod tests;
