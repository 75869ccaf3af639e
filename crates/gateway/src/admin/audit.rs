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
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
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
/// Exports at a time, and other questions of the log: each keeps a thread busy. Others are told to come again.
const EXPORTS_MAX: usize = 4;
const QUESTIONS_MAX: usize = 16;
/// Whoever takes nothing of an export for so long has left.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

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
    // Whoever may see none need not have one looked for.
    if !caller.is_tenants() {
        caller.is_allowed(Act::ShowAuditEntry, &Thing::Platform)?;
    }
    let none = || Refused::not_found(format!("there is no audit entry '{n}'"));
    let found = read(&caller.before_it_is_known_whose(), move |log| proof_of(log, n)).await?;
    let found = found.ok_or_else(none)?;
    let told = Told::parse(found.entry.as_bytes()).map_err(|error| Refused::internal("an entry is damaged", &error))?;
    let thing = match &told.tenant {
        Some(tenant) => {
            Thing::Told { tenant: id("tenant", tenant)?, what: "audit entry", name: n.to_string(), part: false }
        }
        // The operator's own is to tenants what is another tenant's.
        None if caller.is_tenants() => return Err(none()),
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
    let place = Arc::clone(&app.audit_reads.exports).try_acquire_owned().map_err(|_| busy())?;
    caught_up(&app).await?;
    let log = AuditReader::open(&Layout::of(&app.dir));
    let (out, pieces) = mpsc::channel(PIECES_WAITING);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut out = Pieces { piece: Vec::with_capacity(PIECE_BYTES), out };
        let written = write(&log, tenant.as_ref(), format, &mut out).and_then(|()| Ok(out.flush()?));
        if let Err(error) = written {
            tracing::warn!(error = %format!("{error:#}"), "an export of the audit log ended early");
            // The answer breaks off: half a log must not look like a whole one.
            // If nobody takes that either, it is broken off as well.
            let _ = out.out.try_send(Err(io::Error::other("the export ended early")));
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
    let _place = app.audit_reads.questions.try_acquire().map_err(|_| busy())?;
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

fn busy() -> Refused {
    Refused::busy("too many read the audit log at this moment; ask again in a second")
}

fn nothing_signed() -> Refused {
    Refused::busy("nothing is signed yet; ask again in a second")
}

/// Places of those who read the log.
#[derive(Debug)]
pub struct Reads {
    exports: Arc<Semaphore>,
    questions: Semaphore,
}

impl Default for Reads {
    fn default() -> Self {
        Self { exports: Arc::new(Semaphore::new(EXPORTS_MAX)), questions: Semaphore::new(QUESTIONS_MAX) }
    }
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
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more");
        let taken = tokio::time::timeout(TAKEN_WITHIN, self.out.send(Ok(piece.into())));
        match Handle::current().block_on(taken) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::{Method, Request, StatusCode};
    use tollgate_types::{Clock, RequestId};

    use super::*;
    use crate::access::Operator;
    use crate::config::{Config, Environment};

    #[tokio::test]
    async fn so_many_read_at_a_time_and_others_are_told_to_come_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let environment = Environment::of([
            ("TOLLGATE_MASTER_KEY", &*"0f".repeat(32)),
            ("TOLLGATE_ADMIN_KEY", "a-key-for-these-tests"),
        ]);
        let text = format!("[store]\ndir = {:?}\nsegment_bytes = 1048576\n", dir.path().join("data"));
        let config = Config::parse(&text, Path::new("tollgate.toml"), &environment).expect("it holds");
        let (app, store) = App::start(&config, Clock::System).expect("it starts");
        let ask = async |path: &str| {
            let request = Request::builder().method(Method::GET).uri(path).body(Bytes::new()).expect("a request");
            super::super::answer(&app, Ok(Operator::admin()), RequestId(1), request).await.status()
        };
        let held = app.audit_reads.exports.try_acquire_many(u32::try_from(EXPORTS_MAX).expect("few")).expect("all");
        assert_eq!(ask("/admin/v1/audit/export").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask("/admin/v1/audit").await, StatusCode::OK);
        drop(held);
        assert_eq!(ask("/admin/v1/audit/export").await, StatusCode::OK);
        let held = app.audit_reads.questions.try_acquire_many(u32::try_from(QUESTIONS_MAX).expect("few")).expect("all");
        assert_eq!(ask("/admin/v1/audit").await, StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        drop(app);
        store.close();
    }
}
