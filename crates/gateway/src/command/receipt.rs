//! `tollgate receipt`. Verifying reads two files and asks nobody: who doubts the gateway should not have to ask it.

use std::path::{Path, PathBuf};

use serde_json::json;
use tollgate_client::{Confidence, Receipt, ReceiptKeys, ReceiptStatement};
use tollgate_types::RequestId;

use super::table::{Column, fields, or_none, table, usd};
use super::{Answer, Connection, Failure};
use crate::receipt::jws::PublicKeys;
use crate::receipt::verify::{Check, RECEIPT_BYTES_MAX, Verdict};

#[derive(Debug, clap::Args)]
pub struct ReceiptArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the receipt of one request; with --json all of it, signed, for a file
    #[command(
        after_help = "Example:\n  tollgate receipt show req_019ab0f2c3d4000000000000deadbeef --json > receipt.json"
    )]
    Show {
        /// The answer's x-request-id
        request_id: RequestId,
        #[command(flatten)]
        connection: Connection,
    },
    /// Verify a receipt with nothing but the published keys, offline; exit code 1 if it does not hold
    #[command(after_help = "Example:\n  tollgate receipt verify receipt.json --keys keys.json")]
    Verify(VerifyArgs),
    /// Show the public keys that receipts are signed with; with --json as a JWK set, for a file
    #[command(after_help = "Example:\n  tollgate receipt key --json > keys.json")]
    Key {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        action: Option<KeyAction>,
    },
}

#[derive(Debug, clap::Subcommand)]
enum KeyAction {
    /// Have a new key sign receipts from now on; the ones before it stay published
    #[command(after_help = "Example:\n  tollgate receipt key rotate")]
    Rotate,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The receipt: JSON as the gateway gives it, or its JWS alone; - reads standard input
    #[arg(value_name = "FILE")]
    receipt: PathBuf,
    /// The published keys: what `tollgate receipt key --json` or GET /v1/receipts/keys gave
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
}

impl ReceiptArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        match self.action {
            Action::Show { request_id, connection } => {
                let receipt = connection.client()?.receipt(&request_id.to_string()).await?;
                Ok(Answer::new(shown(&receipt), &receipt))
            }
            Action::Verify(args) => args.verify(),
            Action::Key { connection, action } => {
                let client = connection.client()?;
                let keys = match action {
                    None => client.receipt_keys().await?,
                    Some(KeyAction::Rotate) => client.rotate_receipt_key().await?,
                };
                Ok(Answer::new(shown_keys(&keys), &keys))
            }
        }
    }
}

impl VerifyArgs {
    fn verify(&self) -> Result<Answer, Failure> {
        let receipt = read(&self.receipt)?;
        let keys = PublicKeys::parse(&read(&self.keys)?)
            .map_err(|error| Failure::Arguments(format!("{}: {error}", self.keys.display())))?;
        let verdict = Verdict::of(&receipt, &keys);
        let checks = |check: &Check| {
            let (Ok(found) | Err(found)) = &check.found;
            json!({ "name": check.name, "passed": check.found.is_ok(), "found": found })
        };
        let answer = json!({
            "verified": verdict.holds(),
            "key_id": verdict.key_id,
            "checks": verdict.checks.iter().map(checks).collect::<Vec<_>>(),
            "statement": verdict.statement.as_ref().filter(|_| verdict.holds()),
        });
        Ok(Answer::new(shown_verdict(&verdict), &answer).passed_if(verdict.holds()))
    }
}

/// At most a receipt's length and one byte more, which is then found too long.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    super::read_argument(path, RECEIPT_BYTES_MAX)
}

fn shown_verdict(verdict: &Verdict) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for check in &verdict.checks {
        match &check.found {
            Ok(found) => lines.push((check.name, format!("ok    {found}"))),
            Err(wrong) => lines.push((check.name, format!("FAIL  {wrong}"))),
        }
    }
    let judged = fields(&lines);
    match &verdict.statement {
        Some(statement) if verdict.holds() => format!("{judged}\n\n{}", shown_statement(statement)),
        _ => format!("{judged}\n\nthis receipt does not hold"),
    }
}

fn shown_statement(statement: &ReceiptStatement) -> String {
    shown(&statement.signed(String::new()))
}

fn shown(receipt: &Receipt) -> String {
    let said = |name: &str| receipt.statement[name].as_str().unwrap_or_default();
    let event = &receipt.event;
    let part_of = |whole: u64, part: u64, name: &str| {
        if part == 0 { whole.to_string() } else { format!("{whole} ({part} {name})") }
    };
    fields(&[
        ("request", event.request_id.clone()),
        ("tenant", event.tenant.clone()),
        ("project", event.project.clone()),
        ("key", event.key.clone()),
        ("route", event.route.clone()),
        ("model", format!("{} at {}", event.model, event.provider)),
        ("started", event.started_at.clone()),
        ("ended", or_none(event.ended_at.as_ref())),
        ("state", event.state.name().to_owned()),
        ("outcome", or_none(event.outcome.as_ref())),
        ("confidence", or_none(event.confidence.map(Confidence::name))),
        ("input tokens", part_of(event.input_tokens, event.cached_input_tokens, "cached")),
        ("output tokens", part_of(event.output_tokens, event.reasoning_tokens, "reasoning")),
        ("held", format!("{} USD", usd(&event.hold_cost_picousd))),
        ("cost", format!("{} USD", receipt.cost_usd)),
        ("charge", format!("{} USD", receipt.charge_usd)),
        ("overrun", format!("{} USD", usd(&event.overrun_picousd))),
        ("prices", event.price_version.clone()),
        ("adjustments", event.adjustments.to_string()),
        ("final", if receipt.statement["final"] == true { "yes" } else { "no" }.to_owned()),
        ("signed", format!("{} by {}", said("signed_at"), said("issuer"))),
    ])
}

fn shown_keys(keys: &ReceiptKeys) -> String {
    let columns = [Column::Text("KEY"), Column::Text("PUBLIC KEY"), Column::Text("STATE")];
    let row = |(place, key): (usize, &tollgate_client::ReceiptKey)| {
        let state = if place == 0 { "signs" } else { "published" };
        vec![key.kid.clone(), key.x.clone(), state.to_owned()]
    };
    table(&columns, keys.keys.iter().enumerate().map(row).collect(), "no keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_a_field_a_line() {
        let receipt: Receipt = serde_json::from_value(json!({
            "request_id": "req_1", "tenant": "demo", "project": "default", "key": "k1", "route": "small",
            "model": "gpt-4o-mini", "provider": "sim", "stream": true, "started_at": "2026-11-23T05:00:00Z",
            "ended_at": "2026-11-23T05:00:01Z", "state": "posted", "confidence": "measured", "input_tokens": 10,
            "cached_input_tokens": 4, "audio_input_tokens": 0, "output_tokens": 20, "reasoning_tokens": 0,
            "audio_output_tokens": 0, "adjustments": 0, "hold_cost_picousd": "614400000",
            "cost_picousd": "12345000", "charge_picousd": "12345000", "overrun_picousd": "0", "price_version": "v1",
            "outcome": "completed", "cost_usd": "0.000012345", "charge_usd": "0.000012345", "jws": "a.b.c",
            "statement": { "issuer": "me", "signed_at": "2026-11-23T05:00:02Z", "final": true, "adjustments": [] },
        }))
        .expect("a receipt");
        assert_eq!(
            shown(&receipt),
            "request        req_1\n\
             tenant         demo\n\
             project        default\n\
             key            k1\n\
             route          small\n\
             model          gpt-4o-mini at sim\n\
             started        2026-11-23T05:00:00Z\n\
             ended          2026-11-23T05:00:01Z\n\
             state          posted\n\
             outcome        completed\n\
             confidence     measured\n\
             input tokens   10 (4 cached)\n\
             output tokens  20\n\
             held           0.0006144 USD\n\
             cost           0.000012345 USD\n\
             charge         0.000012345 USD\n\
             overrun        0.00 USD\n\
             prices         v1\n\
             adjustments    0\n\
             final          yes\n\
             signed         2026-11-23T05:00:02Z by me"
        );
    }

    #[test]
    fn the_key_that_signs_is_told_from_those_before_it() {
        let key = |kid: &str| json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "AA" });
        let keys = serde_json::from_value(json!({ "keys": [key("new"), key("old")] })).expect("keys");
        assert_eq!(
            shown_keys(&keys),
            "KEY  PUBLIC KEY  STATE\n\
             new  AA          signs\n\
             old  AA          published"
        );
    }
}
