//! `tollgate ledger`. Verifying reads the store's files itself, running gateway or not: who doubts the program should
//! not have to ask it.

use std::path::PathBuf;

use serde_json::{Value, json};
use tollgate_ledger::account::Columns;
use tollgate_store::Store;
use tollgate_store::verify::{Report, verify};

use super::progress::{end_progress, show_progress};
use super::reconcile::ReconcileArgs;
use super::table::{fields, or_none, usd};
use super::{Answer, Connection, Failure};
use crate::config::{Config, ConfigError, Environment};

#[derive(Debug, clap::Args)]
pub struct LedgerArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Read the whole store again and compare everything with everything; exit code 1 if the drift is not 0
    #[command(after_help = "Example:\n  tollgate ledger verify --dir .tollgate/data")]
    Verify(StoreFolder),
    /// Make the view (view.sqlite) again from the journal alone; the gateway must be stopped
    #[command(after_help = "Example:\n  tollgate ledger rebuild --dir .tollgate/data")]
    Rebuild(StoreFolder),
    /// Ask the running gateway for the state of its ledger
    #[command(after_help = "Example:\n  tollgate ledger show --json")]
    Show(Connection),
    /// Compare the ledger with a provider's bill; exit code 1 if they differ
    #[command(after_help = "Examples:\n  tollgate ledger reconcile --provider-usage usage.jsonl\n  \
                            tollgate ledger reconcile --provider-usage usage.jsonl --apply\n  \
                            tollgate ledger reconcile --provider-usage usage.json costs.json --provider openai --tolerance 0.5")]
    Reconcile(Box<ReconcileArgs>),
}

#[derive(Debug, clap::Args)]
struct StoreFolder {
    /// The store's folder
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// The configuration that names the store's folder
    #[arg(long, value_name = "FILE", default_value = "tollgate.toml")]
    config: PathBuf,
}

impl LedgerArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        match self.action {
            Action::Verify(folder) => folder.verify(),
            Action::Rebuild(folder) => folder.rebuild(),
            Action::Show(connection) => show(&connection).await,
            Action::Reconcile(args) => args.run().await,
        }
    }
}

impl StoreFolder {
    fn find(self) -> Result<PathBuf, Failure> {
        match self.dir {
            Some(dir) => Ok(dir),
            None => Ok(Config::load(&self.config, &Environment::of_process()).map_err(unusable)?.store.dir),
        }
    }

    fn rebuild(self) -> Result<Answer, Failure> {
        let rebuilt = Store::rebuild_view(&self.find()?);
        let records = rebuilt.map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(Answer::new(format!("the view was made again of {records} records"), &json!({ "records": records })))
    }

    fn verify(self) -> Result<Answer, Failure> {
        let dir = self.find()?;
        let progress = |segment, segments| show_progress(&format!("reading segment {segment}, {segments} in all"));
        let report = verify(&dir, progress).map_err(|error| Failure::Failed(error.to_string()));
        end_progress();
        report.map(|report| verified(&report))
    }
}

fn unusable(error: ConfigError) -> Failure {
    Failure::Configuration(format!("{error}\nor name the store's folder itself with --dir"))
}

fn verified(report: &Report) -> Answer {
    let holds = report.drift.0 == 0 && report.disagreements.is_empty();
    Answer::new(shown(report), &as_json(report)).passed_if(holds)
}

fn shown(report: &Report) -> String {
    let audit = &report.audit;
    let view = match report.view_position {
        Some(position) => format!("{position} of {} records", report.records),
        None => "none (it is made again at the next start)".to_owned(),
    };
    let mut text = fields(&[
        ("records", report.records.to_string()),
        ("segments", report.segments.to_string()),
        ("snapshots", report.snapshots.to_string()),
        ("view", view),
        ("last write", if report.torn { "torn by a crash; cleared at the next start" } else { "whole" }.to_owned()),
        ("requests", audit.totals.requests.to_string()),
        ("pending", audit.reservations_pending.to_string()),
        ("indeterminate", audit.reservations_indeterminate.to_string()),
        ("held", in_usd(audit.totals.held)),
        ("posted", in_usd(audit.totals.posted)),
        ("of it bounded", in_usd(audit.totals.bounded)),
        ("released", in_usd(audit.totals.released)),
        ("overrun", in_usd(audit.totals.overrun)),
        ("adjusted", report.adjusted.to_string()),
        ("totals' chain", report.totals_chain.clone()),
        ("drift", format!("{} picodollars", report.drift.0)),
    ]);
    for disagreement in &report.disagreements {
        text.push_str(&format!("\nFAIL {disagreement}"));
    }
    text
}

fn in_usd(columns: Columns) -> String {
    format!("{} USD cost, {} USD charge", columns.cost, columns.charge)
}

fn as_json(report: &Report) -> Value {
    let audit = &report.audit;
    let text = |amount: tollgate_types::PicoSum| amount.0.to_string();
    json!({
        "drift_picousd": text(report.drift),
        "disagreements": report.disagreements,
        "records": report.records,
        "segments": report.segments,
        "snapshots": report.snapshots,
        "view_position": report.view_position,
        "torn": report.torn,
        "adjusted": report.adjusted,
        "totals_chain": report.totals_chain,
        "requests": audit.totals.requests,
        "reservations_pending": audit.reservations_pending,
        "indeterminate": audit.reservations_indeterminate,
        "held_picousd": text(audit.totals.held.cost),
        "posted_picousd": text(audit.totals.posted.cost),
        "posted_charge_picousd": text(audit.totals.posted.charge),
        "bounded_picousd": text(audit.totals.bounded.cost),
        "released_picousd": text(audit.totals.released.cost),
        "overrun_picousd": text(audit.totals.overrun.cost),
        "pending_picousd": text(audit.pending.cost),
        "indeterminate_picousd": text(audit.indeterminate.cost),
    })
}

async fn show(connection: &Connection) -> Result<Answer, Failure> {
    let state = connection.client()?.ledger().await?;
    let text = fields(&[
        ("requests", state.requests.to_string()),
        ("pending", state.reservations_pending.to_string()),
        ("overdue", format!("{} ms", state.oldest_pending_overdue_ms)),
        ("indeterminate", state.indeterminate.to_string()),
        ("held", format!("{} USD", usd(&state.held_picousd))),
        ("posted", format!("{} USD", usd(&state.posted_picousd))),
        ("of it bounded", format!("{} USD", usd(&state.bounded_picousd))),
        ("released", format!("{} USD", usd(&state.released_picousd))),
        ("overrun", format!("{} USD", usd(&state.overrun_picousd))),
        ("least left", or_none(state.least_left_picousd.as_deref().map(usd))),
        ("drift", format!("{} picodollars", state.drift_picousd)),
    ]);
    Ok(Answer::new(text, &state).passed_if(state.drift_picousd == "0"))
}

#[cfg(test)]
mod tests {
    use tollgate_ledger::Audit;
    use tollgate_types::PicoSum;

    use super::*;

    fn report(drift: i128, disagreements: &[&str]) -> Report {
        Report {
            records: 12,
            segments: 1,
            snapshots: 0,
            audit: Audit::default(),
            view_position: Some(12),
            adjusted: 0,
            totals_chain: "00".repeat(32),
            drift: PicoSum(drift),
            disagreements: disagreements.iter().map(ToString::to_string).collect(),
            torn: false,
        }
    }

    #[test]
    fn books_that_balance_say_drift_0_and_pass() {
        let answer = verified(&report(0, &[]));
        assert!(answer.passed);
        assert!(answer.text.contains("drift          0 picodollars"), "{}", answer.text);
        assert_eq!(answer.json["drift_picousd"], "0");
    }

    #[test]
    fn any_drift_or_disagreement_fails() {
        let answer = verified(&report(-3, &["the view's posted cost is off"]));
        assert!(!answer.passed);
        assert!(answer.text.ends_with("FAIL the view's posted cost is off"), "{}", answer.text);
        assert_eq!(answer.json["drift_picousd"], "-3");
        assert!(!verified(&report(0, &["a snapshot differs"])).passed);
    }
}
