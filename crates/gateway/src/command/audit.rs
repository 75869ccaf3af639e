//! `tollgate audit`: reading the audit log, and verifying it without the gateway.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tollgate_audit::note::{Checkpoint, Verifier, decoded, encoded};
use tollgate_audit::tree::{self, Hash};
use tollgate_audit::view::{self, ViewReport};
use tollgate_client::{AdminClient, AuditExport, AuditFormat, AuditQuery};
use tollgate_store::audit::{self, VerifyError};
use tollgate_types::TenantId;

use super::table::{Column, fields, or_none, table};
use super::{Answer, Connection, Failure};

/// Where `make up` and the default configuration keep the log.
const USUAL_DIR: &str = ".tollgate/data/audit";

#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List entries, the newest first
    #[command(after_help = "Example:\n  tollgate audit list --tenant demo --limit 20")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Those with smaller numbers only
        #[arg(long, value_name = "N")]
        before: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// Show one entry, and verify that it is in the log
    #[command(after_help = "Example:\n  tollgate audit show 1200")]
    Show {
        /// Its number
        n: u64,
    },
    /// Print the newest signed checkpoint, to be kept where the operator cannot reach it
    #[command(after_help = "Examples:\n  tollgate audit checkpoint\n  tollgate audit checkpoint --since yesterday.txt")]
    Checkpoint {
        /// A checkpoint that was kept: verify that the log grew out of it
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
    /// Print the key that verifies checkpoints; keep it with the first one
    #[command(after_help = "Example:\n  tollgate audit key")]
    Key,
    /// Write entries, the first first, a line each
    #[command(after_help = "Examples:\n  tollgate audit export\n  tollgate audit export --tenant demo --ocsf")]
    Export {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
        /// As events of the Open Cybersecurity Schema Framework
        #[arg(long)]
        ocsf: bool,
    },
    /// Write a tenant's entries, each with what proves that it is in the log
    #[command(after_help = "Example:\n  tollgate audit proof --tenant demo")]
    Proof {
        /// Whose
        #[arg(long)]
        tenant: TenantId,
    },
    /// Verify the log's files, or what `tollgate audit proof` wrote, without the gateway
    #[command(after_help = "Examples:\n  tollgate audit verify --dir .tollgate/data/audit\n  \
                            tollgate audit verify --checkpoint kept.txt --key KEY\n  \
                            tollgate audit verify --tenant demo demo.jsonl")]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// Folder of the log: a store's `audit`, or a copy of it
    #[arg(long, value_name = "FOLDER", default_value = USUAL_DIR)]
    dir: PathBuf,
    /// A checkpoint that was kept elsewhere: what was signed then must be there still
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// What verifies signatures, as `tollgate audit key` printed it; without it they are not checked
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Verify a tenant's proof instead
    #[arg(long, requires = "proof")]
    tenant: Option<TenantId>,
    /// The file that `tollgate audit proof` wrote
    #[arg(value_name = "PROOF", requires = "tenant")]
    proof: Option<PathBuf>,
}

impl AuditArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        // Verifying needs no gateway.
        let action = match self.action {
            Action::Verify(verify) => return verify.run(),
            action => action,
        };
        let client = self.connection.client()?;
        match action {
            Action::List { tenant, before, limit } => {
                let (tenant, limit) = (tenant.map(|tenant| tenant.to_string()), usize::try_from(limit).ok());
                let page = client.audit(&AuditQuery { tenant, before, limit }).await?;
                Ok(Answer::new(listed(&page.data), &page))
            }
            Action::Show { n } => show(&client, n).await,
            Action::Checkpoint { since } => checkpoint(&client, since.as_deref()).await,
            Action::Key => {
                let now = client.audit_checkpoint(None).await?;
                Ok(Answer::new(now.key.clone(), &json!({ "key": now.key })))
            }
            Action::Export { tenant, ocsf } => {
                let format = Some(if ocsf { AuditFormat::Ocsf } else { AuditFormat::Lines });
                export(&client, &AuditExport { tenant: tenant.map(|tenant| tenant.to_string()), format }).await
            }
            Action::Proof { tenant } => {
                let (tenant, format) = (Some(tenant.to_string()), Some(AuditFormat::Proof));
                export(&client, &AuditExport { tenant, format }).await
            }
            Action::Verify(_) => unreachable!("it was done above"),
        }
    }
}

impl Verify {
    fn run(self) -> Result<Answer, Failure> {
        let verifier = self.key.as_deref().map(Verifier::parse).transpose();
        let verifier = verifier.map_err(|error| Failure::Arguments(format!("--key: {error}")))?;
        if let (Some(tenant), Some(proof)) = (&self.tenant, &self.proof) {
            return verify_proof(tenant, proof, verifier.as_ref());
        }
        let kept = self.checkpoint.as_deref().map(read).transpose()?;
        match audit::verify(&self.dir, kept.as_deref(), verifier.as_ref()) {
            Ok(report) => {
                let told = fields(&[
                    ("entries", report.size.to_string()),
                    ("of tenants", report.tenants.to_string()),
                    ("erased by retention", report.erased.to_string()),
                    ("root", encoded(&report.root)),
                    ("checkpoints", format!("{}, the newest of {} entries", report.checkpoints, report.signed)),
                    ("compared with the one that was kept", yes(kept.is_some()).to_owned()),
                    ("signatures checked", yes(report.signatures_checked).to_owned()),
                ]);
                let said = json!({
                    "verified": true, "entries": report.size, "tenants": report.tenants, "erased": report.erased,
                    "root": encoded(&report.root), "checkpoints": report.checkpoints, "signed": report.signed,
                    "signatures_checked": report.signatures_checked, "unfinished": report.unfinished,
                });
                Ok(Answer::new(format!("{told}\n\nThe log is what was signed."), &said))
            }
            Err(VerifyError::Fault(fault)) => {
                let first = fault.first_bad_entry();
                let said = json!({ "verified": false, "first_bad_entry": first, "fault": fault.to_string() });
                let first = first.map(|n| format!("\nThe first bad entry is {n}.")).unwrap_or_default();
                Ok(Answer::new(format!("The log is NOT what was signed: {fault}{first}"), &said).passed_if(false))
            }
            Err(error) => Err(Failure::Failed(error.to_string())),
        }
    }
}

fn verify_proof(tenant: &TenantId, proof: &Path, verifier: Option<&Verifier>) -> Result<Answer, Failure> {
    let file = File::open(proof).map_err(|error| Failure::Failed(format!("{}: {error}", proof.display())))?;
    match view::verify_view(BufReader::new(file), tenant, verifier) {
        Ok(report) => {
            let ViewReport { checkpoint, entries, erased, first, last, proved_from, signature_checked } = &report;
            let told = fields(&[
                ("entries", entries.to_string()),
                ("the first", or_none(first.as_ref())),
                ("the last", or_none(last.as_ref())),
                ("erased by retention", erased.to_string()),
                ("proved to be whole from", or_none(proved_from.as_ref())),
                ("in a log of", format!("{} entries", checkpoint.size)),
                ("signature checked", yes(*signature_checked).to_owned()),
            ]);
            let said = json!({
                "verified": true, "entries": entries, "erased": erased, "first": first, "last": last, "proved_from": proved_from,
                "size": checkpoint.size, "signature_checked": signature_checked,
            });
            let from = or_none(proved_from.as_ref());
            let text =
                format!("{told}\n\nEach is in the log, and none of {tenant}'s from entry {from} on is left out.");
            Ok(Answer::new(text, &said))
        }
        Err(fault) => {
            let said = json!({ "verified": false, "fault": fault.to_string() });
            Ok(Answer::new(format!("The proof does NOT hold: {fault}"), &said).passed_if(false))
        }
    }
}

async fn show(client: &AdminClient, n: u64) -> Result<Answer, Failure> {
    let found = client.audit_entry(n).await?;
    let broken = || Failure::Failed("the gateway's proof cannot be read".to_owned());
    let checkpoint = Checkpoint::of_note(&found.checkpoint).map_err(|_| broken())?;
    let path = hashes(&found.path).ok_or_else(broken)?;
    // Of an erased entry the hash is all that is kept.
    let told = tollgate_audit::heads::Told::parse(found.entry.as_bytes()).map_err(|_| broken())?;
    let leaf = told.leaf(found.entry.as_bytes()).ok_or_else(broken)?;
    let holds = tree::is_included(n, checkpoint.size, &leaf, &path, &checkpoint.root);
    let entry: Value = serde_json::from_str(&found.entry).map_err(|_| broken())?;
    let said = if holds {
        format!("{entry:#}\n\nIt is entry {n} of the {} that were signed.", checkpoint.size)
    } else {
        format!("{entry:#}\n\nIt is NOT in the log that was signed.")
    };
    Ok(Answer::new(said, &json!({ "entry": entry, "included": holds, "size": checkpoint.size })).passed_if(holds))
}

async fn checkpoint(client: &AdminClient, since: Option<&Path>) -> Result<Answer, Failure> {
    let Some(since) = since else {
        let now = client.audit_checkpoint(None).await?;
        return Ok(Answer::new(now.checkpoint.clone(), &now));
    };
    let kept = Checkpoint::of_note(&read(since)?);
    let kept = kept.map_err(|error| Failure::Arguments(format!("{}: {error}", since.display())))?;
    let now = client.audit_checkpoint(Some(kept.size)).await?;
    let broken = || Failure::Failed("the gateway's proof cannot be read".to_owned());
    let newest = Checkpoint::of_note(&now.checkpoint).map_err(|_| broken())?;
    let path = now.consistency.as_deref().and_then(hashes).ok_or_else(broken)?;
    let grew = tree::is_consistent(kept.size, newest.size, &kept.root, &newest.root, &path);
    let text = if grew {
        format!("The log of {} entries grew out of the one of {}.", newest.size, kept.size)
    } else {
        format!("The log of {} entries did NOT grow out of the one of {}.", newest.size, kept.size)
    };
    let said = json!({ "consistent": grew, "from": kept.size, "size": newest.size, "checkpoint": now.checkpoint });
    Ok(Answer::new(text, &said).passed_if(grew))
}

async fn export(client: &AdminClient, wanted: &AuditExport) -> Result<Answer, Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("it cannot be written: {error}"));
    let mut written = Ok(());
    client
        .export_audit(wanted, |piece| {
            written = io::stdout().lock().write_all(piece);
            written.is_ok()
        })
        .await?;
    match written {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Answer::nothing()),
        written => written.map(|()| Answer::nothing()).map_err(failed),
    }
}

fn hashes(texts: &[String]) -> Option<Vec<Hash>> {
    texts.iter().map(|text| decoded(text)).collect()
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn listed(entries: &[Value]) -> String {
    let columns = [
        Column::Number("N"),
        Column::Text("AT"),
        Column::Text("KIND"),
        Column::Text("TENANT"),
        Column::Text("WHO"),
        Column::Text("WHAT"),
        Column::Text("CAME OF IT"),
    ];
    let row = |entry: &Value| {
        let text = |name: &str| match &entry[name] {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        };
        let first = |names: &[&str]| or_none(names.iter().find_map(|name| text(name)));
        vec![
            or_none(text("n")),
            or_none(text("at")),
            or_none(text("kind").or_else(|| text("erased").map(|_| "(erased)".to_owned()))),
            or_none(text("tenant")),
            first(&["person", "actor", "by", "key"]),
            first(&["act", "what", "route", "scope", "approval", "request", "project", "plan"]),
            first(&["status", "outcome", "approved", "cap", "note"]),
        ]
    };
    table(&columns, entries.iter().map(row).collect(), "no entries yet")
}
