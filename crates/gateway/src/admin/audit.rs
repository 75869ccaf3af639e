//! `/admin/v1/audit`: the audit log. What it gives out is what the log's files say, with what proves it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body as AnswerBody;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::sync::mpsc;
use tollgate_audit::heads::Told;
use tollgate_audit::note::{Checkpoint, encoded};
use tollgate_audit::ocsf;
use tollgate_client::{AuditCheckpoint, AuditExport, AuditFormat, AuditPage, AuditProof, AuditQuery, AuditSince};
use tollgate_guard::Act;
use tollgate_store::audit::{AuditError, AuditReader};
use tollgate_store::store::Layout;
use tollgate_types::TenantId;

use super::caller::{Caller, Thing};
use super::durable::aside;
use super::extract::{Asked, Id, id, optional_id};
use super::refused::{Refusals, Refused};
use crate::app::App;

/// How long an answer may wait for the log to hold, signed, what is durable.
const PATIENCE: Duration = Duration::from_secs(5);
/// Entries of a page, if nobody says how many, and at most.
const PAGE_USUAL: usize = 100;
const PAGE_MAX: usize = 1_000;
/// An export goes out in pieces of this size; so many wait for whoever reads them.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_WAITING: usize = 4;

/// List entries, the newest first
#[utoipa::path(get, path = "/admin/v1/audit", operation_id = "list_audit", tag = "audit", params(AuditQuery),
    responses((status = 200, description = "Entries", body = AuditPage), Refusals))]
pub async fn list(caller: Caller, Asked(query): Asked<AuditQuery>) -> Result<Json<AuditPage>, Refused> {
    let app = caller.may(Act::ListAudit, &Thing::of(query.tenant.as_ref())?).await?;
    let tenant = known_tenant(&app, query.tenant.as_ref())?;
    let limit = query.limit.unwrap_or(PAGE_USUAL);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refused::field("limit", format!("must be from 1 to {PAGE_MAX}")));
    }
    let lines = read(&app, move |log| log.newest(tenant.as_ref(), query.before, limit)).await?;
    let next = lines.last().filter(|_| lines.len() == limit).and_then(|line| Told::parse(line.as_bytes()).ok());
    let next = next.map(|told| told.n).filter(|n| *n > 0);
    let data = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect();
    Ok(Json(AuditPage { data, next }))
}

/// Show one entry, with what proves that it is in the log
#[utoipa::path(get, path = "/admin/v1/audit/{n}", operation_id = "show_audit_entry", tag = "audit",
    params(("n" = u64, Path, example = 1200)),
    responses((status = 200, description = "The entry", body = AuditProof), Refusals))]
pub async fn show(caller: Caller, Id(n): Id<u64>) -> Result<Json<AuditProof>, Refused> {
    let found = read(&caller.before_it_is_known_whose(), move |log| proof_of(log, n)).await?;
    let found = found.ok_or_else(|| Refused::not_found(format!("there is no audit entry '{n}'")))?;
    let told = Told::parse(found.entry.as_bytes()).map_err(|error| Refused::internal("an entry is damaged", &error))?;
    let thing = match &told.tenant {
        Some(tenant) => {
            Thing::Told { tenant: id("tenant", tenant)?, what: "audit entry", name: n.to_string(), part: false }
        }
        None => Thing::Platform,
    };
    caller.may(Act::ShowAuditEntry, &thing).await?;
    Ok(Json(found))
}

/// Show the newest signed root, and that it grew out of an earlier one
#[utoipa::path(get, path = "/admin/v1/audit/checkpoint", operation_id = "show_audit_checkpoint", tag = "audit",
    params(AuditSince), responses((status = 200, description = "The checkpoint", body = AuditCheckpoint), Refusals))]
pub async fn checkpoint(caller: Caller, Asked(since): Asked<AuditSince>) -> Result<Json<AuditCheckpoint>, Refused> {
    let app = caller.may(Act::ShowAuditCheckpoint, &Thing::Shared).await?;
    let found = read(&app, move |log| {
        let Some(note) = log.checkpoint()? else { return Ok(None) };
        let size = Checkpoint::of_note(&note).map_or(0, |checkpoint| checkpoint.size);
        let consistency = since.from.map(|from| log.consistency(from, size)).transpose()?;
        Ok(Some((note, consistency)))
    });
    let (note, consistency) = found.await?.ok_or_else(nothing_signed)?;
    let consistency = match consistency {
        Some(None) => return Err(Refused::field("from", "the signed log has fewer entries")),
        Some(Some(path)) => Some(path.iter().map(|hash| encoded(hash)).collect()),
        None => None,
    };
    Ok(Json(AuditCheckpoint { checkpoint: note, key: app.audit_key.to_string(), consistency }))
}

/// Export entries, the first first
#[utoipa::path(get, path = "/admin/v1/audit/export", operation_id = "export_audit", tag = "audit", params(AuditExport),
    responses((status = 200, description = "A line each", body = String, content_type = "application/jsonl"), Refusals))]
pub async fn export(caller: Caller, Asked(wanted): Asked<AuditExport>) -> Result<Response, Refused> {
    let app = caller.may(Act::ExportAudit, &Thing::of(wanted.tenant.as_ref())?).await?;
    let tenant = known_tenant(&app, wanted.tenant.as_ref())?;
    let format = wanted.format.unwrap_or(AuditFormat::Lines);
    if format == AuditFormat::Proof && tenant.is_none() {
        return Err(Refused::field("tenant", "whose entries are to be proved? The whole log is verified by its files"));
    }
    caught_up(&app).await?;
    let log = AuditReader::open(&Layout::of(&app.dir));
    let (out, pieces) = mpsc::channel(PIECES_WAITING);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { piece: Vec::with_capacity(PIECE_BYTES), out };
        let written = write(&log, tenant.as_ref(), format, &mut out).and_then(|()| Ok(out.flush()?));
        if let Err(error) = written {
            tracing::warn!(error = %format!("{error:#}"), "an export of the audit log ended early");
            // The answer breaks off: half a log must not look like a whole one.
            let _ = out.out.blocking_send(Err(io::Error::other("the export ended early")));
        }
    });
    let body = AnswerBody::from_stream(stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces))));
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    Ok(response)
}

fn write(
    log: &AuditReader,
    tenant: Option<&TenantId>,
    format: AuditFormat,
    out: &mut Pieces,
) -> Result<(), anyhow::Error> {
    match (format, tenant) {
        (AuditFormat::Proof, Some(tenant)) => drop(log.view(tenant, out)?),
        (AuditFormat::Ocsf, _) => {
            log.for_each(tenant, |_, line| match ocsf::event(line, env!("CARGO_PKG_VERSION")) {
                Some(event) => writeln!(out, "{event}"),
                None => Ok(()),
            })?;
        }
        (AuditFormat::Lines | AuditFormat::Proof, _) => drop(log.export(tenant, out)?),
    }
    Ok(())
}

fn proof_of(log: &AuditReader, n: u64) -> Result<Option<AuditProof>, AuditError> {
    let Some(note) = log.checkpoint()? else { return Ok(None) };
    let size = Checkpoint::of_note(&note).map_or(0, |checkpoint| checkpoint.size);
    let (Some(entry), Some(path)) = (log.entry(n)?, log.inclusion(n, size)?) else { return Ok(None) };
    Ok(Some(AuditProof { entry, checkpoint: note, path: path.iter().map(|hash| encoded(hash)).collect() }))
}

/// Reads the log once it holds, signed, what is durable now.
async fn read<T: Send + 'static>(
    app: &Arc<App>,
    question: impl FnOnce(&AuditReader) -> Result<T, AuditError> + Send + 'static,
) -> Result<T, Refused> {
    caught_up(app).await?;
    let log = AuditReader::open(&Layout::of(&app.dir));
    aside(move || question(&log)).await?.map_err(|error| Refused::internal("the audit log cannot be read", &error))
}

async fn caught_up(app: &Arc<App>) -> Result<(), Refused> {
    let app = Arc::clone(app);
    aside(move || {
        if !app.projector.catch_up_audit(app.journal.durable_sequence(), PATIENCE) {
            tracing::warn!(trouble = ?app.projector.audit_trouble(), "the audit log lags; answering with what it has");
        }
    })
    .await
}

fn known_tenant(app: &App, tenant: Option<&String>) -> Result<Option<TenantId>, Refused> {
    let tenant: Option<TenantId> = optional_id("tenant", tenant)?;
    if let Some(tenant) = &tenant {
        app.books.with_directory(|directory| directory.tenant(tenant).map(|_| ()))?;
    }
    Ok(tenant)
}

fn nothing_signed() -> Refused {
    Refused::busy("nothing is signed yet; ask again in a second")
}

/// A writer whose pieces somebody else reads. Whoever stops reading ends it.
struct Pieces {
    piece: Vec<u8>,
    out: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more");
        self.out.blocking_send(Ok(piece.into())).map_err(gone)
    }
}
