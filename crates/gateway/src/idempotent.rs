//! Requests that bear an `Idempotency-Key`: charged once, however often they are sent.
//!
//! wait for a twin under way → what does the key stand for: memory, then the view → its kept answer, or a conflict; or
//! else the work, whose answer is kept before its last byte goes out.
//!
//! The work is a task of its own and goes on when the caller leaves, so that who comes again finds the answer.
//! That a key is charged once is the ledger's decision ([`Books::reserve_searched`]); what is here makes it pleasant.
//!
//! [`Books::reserve_searched`]: tollgate_ledger::Books::reserve_searched

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tollgate_admission::Principal;
use tollgate_ledger::{Claim, Idempotency, Recollection, Use};
use tollgate_store::answers::{Answer, AnswersError, BODY_BYTES_MAX};
use tollgate_types::refusal::{IdempotencyConflict, IdempotencyConflictKind};
use tollgate_types::{Refusal, RequestId, Surface, TenantId, Timestamp};

use crate::app::App;
use crate::http::body::{Body, Piece, Relayed};
use crate::http::headers;
use crate::pipeline::{self, Asked};
use crate::stream::StreamBody;
use crate::twins::{Entry, Turn};

/// How long a twin waits for others in all: as long as the SDKs' callers wait.
const TWIN_PATIENCE: Duration = Duration::from_secs(600);
/// How long the view may take to reach what memory forgot, a day ago: it lags by less than a second.
const VIEW_PATIENCE: Duration = Duration::from_secs(2);
/// Told to who meets what passes by itself.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of a stream between the work and a caller that reads slowly: all of an answer that can be kept, so that a caller
/// who is gone without a word holds up nobody who comes again.
const BYTES_BETWEEN: usize = BODY_BYTES_MAX;

/// What the request is to be known by, if it bears a key: both are hashes that only the tenant's data key makes.
pub fn named(
    app: &App,
    principal: &Principal,
    surface: Surface,
    key: Option<&[u8]>,
    body: &[u8],
) -> Result<Option<Idempotency>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    let hash = |purpose: &str, text: &[u8]| {
        app.vault.keyed(&principal.tenant, purpose, text).map_err(|error| {
            tracing::error!(%error, tenant = %principal.tenant, "an idempotency key cannot be named");
            Refusal::LedgerUnavailable
        })
    };
    let purpose = format!("idempotent {}", surface.name());
    Ok(Some(Idempotency { key: hash("idempotency key", key)?, body: hash(&purpose, body)? }))
}

/// Serves a request that bears a key.
pub async fn serve(asked: Asked, idempotency: Idempotency) -> Result<Response<Body>, Refusal> {
    let turn = match tokio::time::timeout(TWIN_PATIENCE, turn(&asked, idempotency)).await {
        Ok(turn) => turn?,
        Err(_) => return Err(too_many()),
    };
    let (used, searched) = look_up(&asked.app, &asked.principal.tenant, idempotency).await?;
    if let Some(used) = used {
        drop(turn);
        pipeline::judge_again(&asked)?;
        return repeat(&asked, idempotency, used).await;
    }
    let working = tokio::spawn(work(asked, Claim { idempotency, searched }, turn));
    match working.await {
        Ok(answered) => answered,
        Err(failed) => match failed.try_into_panic() {
            // As if there were no task in between.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Refusal::Overloaded { reason: "the gateway is shutting down", retry_after: RETRY }),
        },
    }
}

/// Waits until nobody else is at it.
async fn turn(asked: &Asked, idempotency: Idempotency) -> Result<Turn, Refusal> {
    loop {
        match asked.app.twins.enter(&asked.principal.tenant, idempotency, asked.id) {
            Entry::Turn(turn) => return Ok(turn),
            Entry::Twin(waiting) => waiting.ended().await,
            Entry::Other(first) => return Err(conflict(first, IdempotencyConflictKind::OtherBody)),
            Entry::Full => return Err(too_many()),
        }
    }
}

fn too_many() -> Refusal {
    Refusal::Overloaded { reason: "too many requests with an Idempotency-Key are under way", retry_after: RETRY }
}

fn conflict(first: RequestId, why: IdempotencyConflictKind) -> Refusal {
    Refusal::IdempotencyConflict(IdempotencyConflict { first, why })
}

// === what the key stands for ===

/// What the key stands for, and how far back the view was asked. The one place where a request asks SQL: for keys that
/// memory does not know, once memory has forgotten any.
async fn look_up(
    app: &Arc<App>,
    tenant: &TenantId,
    idempotency: Idempotency,
) -> Result<(Option<Use>, Option<Timestamp>), Refusal> {
    let forgotten = match app.books.recall(tenant, idempotency.key) {
        Recollection { used: Some(used), .. } => return Ok((Some(used), None)),
        Recollection { forgotten: None, .. } => return Ok((None, None)),
        Recollection { forgotten: Some(forgotten), .. } => forgotten,
    };
    let (asked, tenant) = (Arc::clone(app), tenant.clone());
    let looking = tokio::task::spawn_blocking(move || {
        let question = || asked.ask_view_as_it_is(|view| view.key_use(&tenant, idempotency.key));
        match question() {
            Ok((used, latest)) if latest > forgotten => return Ok((used, latest)),
            Ok(_) | Err(_) => {}
        }
        // It is behind, or being made again.
        asked.projector.catch_up(asked.journal.durable_sequence(), VIEW_PATIENCE);
        question()
    });
    match looking.await {
        Ok(Ok((used, latest))) if used.is_some() || latest > forgotten => Ok((used, Some(latest))),
        Ok(Ok((_, latest))) => {
            tracing::error!(%latest, %forgotten, "the view lags too far to say whether an idempotency key is new");
            Err(Refusal::LedgerUnavailable)
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the view cannot say whether an idempotency key is new");
            Err(Refusal::LedgerUnavailable)
        }
        Err(_) => Err(Refusal::LedgerUnavailable),
    }
}

/// Answers a request whose key stands for one already.
async fn repeat(asked: &Asked, idempotency: Idempotency, used: Use) -> Result<Response<Body>, Refusal> {
    let Use { first, body, open } = used;
    if body != idempotency.body {
        return Err(conflict(first, IdempotencyConflictKind::OtherBody));
    }
    if open {
        return Err(conflict(first, IdempotencyConflictKind::InDoubt));
    }
    let (answers, tenant) = (asked.app.answers.clone(), asked.principal.tenant.clone());
    let finding = tokio::task::spawn_blocking(move || answers.find(&tenant, idempotency.key, first));
    match finding.await {
        Ok(Ok(Some(answer))) => Ok(replay(asked, answer)),
        Ok(Ok(None)) => Err(conflict(first, IdempotencyConflictKind::AnswerGone)),
        Ok(Err(error)) => {
            tracing::error!(%error, %first, "a kept answer cannot be read");
            Err(Refusal::Overloaded { reason: "the kept answer cannot be read now", retry_after: RETRY })
        }
        Err(_) => Err(Refusal::Overloaded { reason: "the gateway is shutting down", retry_after: RETRY }),
    }
}

/// The kept answer: its bytes, its cost; but the limits of now.
fn replay(asked: &Asked, answer: Answer) -> Response<Body> {
    let Answer { request, status, headers: kept, body } = answer;
    let mut response = Response::new(Body::Whole(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let head = response.headers_mut();
    headers::limited(head, asked.entered.rate(asked.app.clock().steady()));
    for (name, value) in &kept {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            head.insert(name, value);
        }
    }
    headers::replayed(head, request);
    response
}

// === the work ===

/// Where an answer is kept, and for what.
struct Keeper {
    app: Arc<App>,
    tenant: TenantId,
    key: [u8; 16],
    id: RequestId,
}

async fn work(asked: Asked, claim: Claim, turn: Turn) -> Result<Response<Body>, Refusal> {
    let (app, tenant) = (Arc::clone(&asked.app), asked.principal.tenant.clone());
    let keeper = Keeper { app, tenant, key: claim.idempotency.key, id: asked.id };
    let (head, body) = pipeline::fulfil(asked, Some(claim)).await?.into_parts();
    let body = match body {
        Body::Stream(stream) => {
            let (pieces, relayed) = mpsc::unbounded_channel();
            tokio::spawn(relay(stream, head.headers.clone(), pieces, keeper, turn));
            Body::Relayed(Relayed::new(relayed))
        }
        Body::Whole(whole) => {
            keeper.keep(head.status, &head.headers, whole.clone()).await;
            Body::Whole(whole)
        }
        other => other,
    };
    Ok(Response::from_parts(head, body))
}

/// Passes a stream on as it comes, to its end even if the caller has left, and keeps it if it ended well. The last piece
/// goes out when the answer is durable.
async fn relay(
    mut stream: Box<StreamBody>,
    mut head: HeaderMap,
    pieces: mpsc::UnboundedSender<Piece>,
    keeper: Keeper,
    turn: Turn,
) {
    let (mut whole, mut turn) = (BytesMut::new(), Some(turn));
    let between = Arc::new(Semaphore::new(BYTES_BETWEEN));
    while let Some(bytes) = poll_fn(|context| stream.poll_data(context)).await {
        // One byte too many says that it is too large.
        whole.extend_from_slice(&bytes[..bytes.len().min(BODY_BYTES_MAX + 1 - whole.len())]);
        let last = stream.has_ended();
        if let Some(amounts) = stream.charged() {
            headers::settled(&mut head, amounts, None);
            keeper.keep(StatusCode::OK, &head, whole.split().freeze()).await;
        }
        if last {
            drop(turn.take());
        }
        let size = u32::try_from(bytes.len().min(BYTES_BETWEEN)).expect("a few megabytes");
        let room = Arc::clone(&between).acquire_many_owned(size).await.expect("nobody closes it");
        // The caller may have left: the work goes on for the one who comes again.
        let _ = pieces.send(Piece { bytes, last, _room: room });
    }
}

// === impl Keeper ===

impl Keeper {
    /// Keeps an answer, durably. One that cannot be kept is given to its caller all the same: it was paid for.
    async fn keep(&self, status: StatusCode, head: &HeaderMap, body: Bytes) {
        let Self { app, tenant, key, id } = self;
        let kept = [CONTENT_TYPE, CACHE_CONTROL].into_iter().chain(headers::KEPT);
        let headers = kept.filter_map(|name| Some((name.to_string(), head.get(&name)?.as_bytes().to_vec()))).collect();
        let answer = Answer { request: *id, status: status.as_u16(), headers, body: body.into() };
        let (answers, owner, key) = (app.answers.clone(), tenant.clone(), *key);
        let keeping = tokio::task::spawn_blocking(move || answers.keep(&owner, key, &answer));
        match keeping.await {
            Ok(Ok(())) => {}
            Ok(Err(AnswersError::TooLarge(bytes))) => tracing::info!(%id, bytes, "an answer is too large to be kept"),
            Ok(Err(error)) => tracing::error!(%id, %error, "an answer cannot be kept"),
            Err(_) => tracing::error!(%id, "an answer cannot be kept: the gateway is shutting down"),
        }
    }
}
