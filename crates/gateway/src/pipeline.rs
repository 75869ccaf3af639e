//! **The** request: [`serve`] is its whole way, from top to bottom.
//!
//! authenticate → enter (scopes, limits) → read → admit (price, reserve) → durable → send → answer → settle → durable → reply.
//!
//! A request that may be repeated takes its way through [`idempotent`]. If any of it is dropped in between (the caller left, a panic, the end of the drain), the permit settles itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tollgate_admission::{Entered, Identity, Permit, Principal, Settled};
use tollgate_ledger::{Amounts, Claim};
use tollgate_serving::backend::{Answer, Backend, Endpoint};
use tollgate_serving::meter::Granted;
use tollgate_serving::{Provider, answer};
use tollgate_store::JournalWriter;
use tollgate_tokens::Tokenizer;
use tollgate_types::clock::Stopwatch;
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind};
use tollgate_types::usage::Outcome;
use tollgate_types::{Call, EndUserId, PicoSum, Refusal, RequestId, Spender, Surface};

use crate::app::App;
use crate::config::Route;
use crate::http::body::{self, Body};
use crate::http::wire::{self, Bounds, WireRequest};
use crate::http::{headers, routes};
use crate::idempotent;
use crate::metrics::Series;
use crate::stream::StreamBody;

pub type AppPermit = Permit<JournalWriter>;

/// What is known of an admitted request while it is under way.
#[derive(Debug)]
pub struct Underway {
    pub app: Arc<App>,
    pub id: RequestId,
    pub principal: Arc<Principal>,
    pub spender: Spender,
    pub route: Arc<Route>,
    pub series: Arc<Series>,
    pub since: Stopwatch,
    /// Time that was not ours: from sending the request until the answer, or its first byte, was there.
    pub waited: Duration,
    /// What is posted if the caller leaves now. `None` before the request is sent.
    pub at_stake: Option<Amounts>,
    counted: AtomicBool,
}

/// A request that was let in and read, before it is judged.
#[derive(Debug)]
pub struct Asked {
    pub app: Arc<App>,
    pub surface: Surface,
    pub id: RequestId,
    pub principal: Arc<Principal>,
    pub entered: Entered,
    /// Whom of its own users the tenant sends it for.
    pub end_user: Option<EndUserId>,
    pub head: HeaderMap,
    pub body: Bytes,
    pub since: Stopwatch,
}

/// Longest error text of a provider that is read, in bytes, and for how long.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(5);
/// Longest body whose tokens are counted, in bytes: 30 ms of a worker at the very worst, a few for real text.
const TOKENISED_BYTES_MAX: usize = 128 * 1024;
/// Longest error text of a provider that is passed on, in characters.
const ERROR_CHARS_MAX: usize = 2_000;

/// Serves one request for a model.
pub async fn serve(
    app: &Arc<App>,
    surface: Surface,
    id: RequestId,
    tenant: Option<&str>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let since = Stopwatch::start();
    let (head, incoming) = request.into_parts();

    // Who asks, before anything is read of what they ask.
    let principal = app.admission.authenticate(headers::api_key(&head.headers), tenant)?;
    check_project(&principal, &head.headers)?;
    let end_user = end_user(app, &principal, &head.headers)?;
    let entered = app.admission.enter(&principal, surface, end_user)?;
    let key = headers::idempotency_key(&head.headers)?;

    // What is asked, and whether it was asked before.
    let body = body::read(incoming, app.server.body_bytes_max, app.server.body_timeout).await?;
    let idempotency = idempotent::named(app, &principal, surface, key, &body)?;
    let app = Arc::clone(app);
    let asked = Asked { app, surface, id, principal, entered, end_user, head: head.headers, body, since };
    match idempotency {
        Some(idempotency) => idempotent::serve(asked, idempotency).await,
        None => fulfil(asked, None).await,
    }
}

/// Judges a request, has it worked on, and answers it. `claim` is the idempotency key that it takes for itself.
pub async fn fulfil(asked: Asked, claim: Option<Claim>) -> Result<Response<Body>, Refusal> {
    let Asked { app, surface, id, principal, entered, end_user, head, body, since } = asked;
    let app = &app;

    // What is asked for.
    let wire = match surface {
        Surface::Chat => wire::read_chat(&body)?,
        Surface::Embeddings => wire::read_embeddings(&body)?,
    };
    let route = app.route(&wire.call.route)?;
    let attribution = seal_attribution(app, &principal, &head)?;

    // Whether it may be, and the money for it.
    let identity = Identity { id, end_user, idempotency: claim, attribution };
    let tighten = || tokens_of(&route, &body, wire.call.input_bytes);
    let mut permit = app.admission.admit(
        &app.books,
        Arc::clone(&principal),
        entered,
        &wire.call,
        &route.target,
        identity,
        tighten,
    )?;
    let series = app.metrics.series(&principal.tenant, &route.target.route, &route.target.model);
    let spender = principal.spender(end_user);
    let mut under_way = Underway::new(app, id, principal, spender, route, series, since);
    let outgoing = wire.bounded(&body, bounds(&permit, &wire, &under_way.route));

    // Nothing goes out before the books remember that it may cost something.
    app.journal.durable(permit.reservation.position()).await.map_err(|_| Refusal::LedgerUnavailable)?;
    if !permit.reservation.dispatched() {
        // It was swept while it waited: the disk took longer than the whole request may.
        return Err(Refusal::LedgerUnavailable);
    }
    under_way.at_stake = Some(permit.reservation.hold());

    // The work itself.
    let sent = Stopwatch::start();
    let endpoint = match surface {
        Surface::Chat => Endpoint::Chat,
        Surface::Embeddings => Endpoint::Embeddings,
    };
    let backend = backend_of_this_worker(&under_way.route.provider);
    let answer = match backend.send(endpoint, headers::request_id(id), outgoing).await {
        Ok(answer) => answer,
        Err(error) => return Err(not_answered(under_way, permit, error).await),
    };
    if answer.status != StatusCode::OK {
        return Err(provider_refused(under_way, permit, answer).await);
    }
    if wire.call.stream && is_event_stream(&answer.headers) {
        under_way.waited = sent.elapsed();
        return Ok(stream(under_way, permit, answer, &wire.call));
    }
    under_way.waited = sent.elapsed();
    let whole = match read_whole(app, &under_way, answer).await {
        Ok(whole) => whole,
        Err(kind) => return Err(broken(under_way, permit, kind).await),
    };
    under_way.waited = sent.elapsed();
    reply_whole(under_way, permit, whole).await
}

/// A key spends for one project; naming another is a mistake that must not pass silently.
fn check_project(principal: &Principal, headers: &HeaderMap) -> Result<(), Refusal> {
    match headers::project(headers) {
        Some(named) if named.as_bytes() != principal.project.as_str().as_bytes() => {
            Err(Refusal::RoleDenied { action: "spend for another project", scope: "that project" })
        }
        _ => Ok(()),
    }
}

fn seal_attribution(
    app: &App,
    principal: &Principal,
    headers: &HeaderMap,
) -> Result<Option<tollgate_types::directory::Sealed>, Refusal> {
    let Some(text) = headers::attribution(headers)? else { return Ok(None) };
    let sealed = app.vault.seal(&principal.tenant, "attribution", text.as_bytes());
    sealed.map(Some).map_err(|error| {
        tracing::error!(%error, tenant = %principal.tenant, "attribution cannot be sealed");
        Refusal::LedgerUnavailable
    })
}

/// Whom of its own users the tenant sends the request for. A name that cannot be read is refused by [`headers::attribution`].
fn end_user(app: &App, principal: &Principal, headers: &HeaderMap) -> Result<Option<EndUserId>, Refusal> {
    let Some(name) = headers::end_user(headers) else { return Ok(None) };
    app.vault.end_user(&principal.tenant, name).map(Some).map_err(|error| {
        tracing::error!(%error, tenant = %principal.tenant, "an end user cannot be named");
        Refusal::LedgerUnavailable
    })
}

/// The input's tokens at most, where the model's tokenizer is published and the text is not too long to be counted while
/// others wait.
fn tokens_of(route: &Route, body: &Bytes, input_bytes: u64) -> Option<u64> {
    let tokenizer = Tokenizer::of(&route.target.priced_as, &route.target.model)?;
    (body.len() <= TOKENISED_BYTES_MAX).then(|| tokenizer.input_bound(body, input_bytes))
}

fn bounds<'a>(permit: &AppPermit, wire: &WireRequest<'_>, route: &'a Route) -> Bounds<'a> {
    Bounds {
        model: &route.target.model,
        output_tokens: (wire.call.surface == Surface::Chat).then_some(permit.granted.output_tokens),
        output_limit_name: route.provider.output_limit.field(),
    }
}

/// Each worker has connections of its own, made when first needed. A reload makes new providers: the old ones'
/// connections go when nothing uses them any more.
fn backend_of_this_worker(provider: &Arc<Provider>) -> Arc<Backend> {
    thread_local! {
        static BACKENDS: RefCell<HashMap<Arc<str>, Arc<Backend>>> = RefCell::default();
    }
    BACKENDS.with_borrow_mut(|backends| {
        if let Some(backend) = backends.get(&provider.name)
            && Arc::ptr_eq(&backend.provider, provider)
        {
            return Arc::clone(backend);
        }
        let backend = Arc::new(Backend::new(Arc::clone(provider)));
        backends.insert(Arc::clone(&provider.name), Arc::clone(&backend));
        backend
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

// === when the provider does not answer as hoped ===

fn fault(route: &Route, kind: ProviderFaultKind, retry_after: Option<Duration>) -> Refusal {
    Refusal::Provider(ProviderFault { provider: route.provider.name.to_string(), kind, retry_after })
}

async fn not_answered(under_way: Underway, permit: AppPermit, error: tollgate_serving::SendError) -> Refusal {
    if error.maybe_sent {
        return broken(under_way, permit, error.fault).await;
    }
    permit.void(Outcome::NotSent);
    under_way.finished(Outcome::NotSent, None, None);
    under_way.warn("the provider was not reached", &error.fault);
    fault(&under_way.route, error.fault, None)
}

/// The provider answered with something else than 200. An error of its own says that it did no work.
async fn provider_refused(under_way: Underway, permit: AppPermit, answer: Answer) -> Refusal {
    if may_have_worked(answer.status) {
        return broken(under_way, permit, ProviderFaultKind::Status(answer.status.as_u16())).await;
    }
    permit.void(Outcome::ProviderRefused);
    under_way.finished(Outcome::ProviderRefused, None, None);
    let (status, retry_after) = (answer.status, retry_after(&answer.headers));
    let reading = tokio::time::timeout(ERROR_PATIENCE, read_up_to(answer.body, ERROR_BYTES_MAX, ERROR_PATIENCE));
    let text = reading.await.ok().and_then(Result::ok).unwrap_or_default();
    under_way.warn("the provider refused", &status);
    match status {
        // These are about the caller's request, and the provider's words on it help.
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => {
            let said = message_of(&text).unwrap_or_else(|| format!("status {}", status.as_u16()));
            Refusal::invalid(format!("the provider refused the request: {said}"))
        }
        _ => fault(&under_way.route, ProviderFaultKind::Status(status.as_u16()), retry_after),
    }
}

/// Statuses that do not say that no work was done: what stands between us and the provider (408, 502, 504, and 520 to
/// 524 of a content network) gave up waiting for it, or it did something else than was asked (2xx, 3xx).
fn may_have_worked(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=399 | 408 | 502 | 504 | 520..=524)
}

/// The answer broke off: the provider has worked, and nobody knows for how much.
async fn broken(under_way: Underway, permit: AppPermit, kind: ProviderFaultKind) -> Refusal {
    let Settled { amounts, position, .. } = permit.settle_bounded(Outcome::ProviderBroke);
    under_way.finished(Outcome::ProviderBroke, Some(amounts), None);
    under_way.warn("the answer broke", &kind);
    if let Some(position) = position
        && under_way.app.journal.durable(position).await.is_err()
    {
        return Refusal::LedgerUnavailable;
    }
    fault(&under_way.route, kind, None)
}

/// What the provider says about coming again, in either of its two headers.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let millis = number("retry-after-ms").map(Duration::from_millis);
    millis.or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

fn message_of(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = value["error"]["message"].as_str().or_else(|| value["message"].as_str())?;
    Some(text.chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect())
}

// === answers ===

async fn read_whole(app: &App, under_way: &Underway, answer: Answer) -> Result<Bytes, ProviderFaultKind> {
    let timeouts = under_way.route.provider.timeouts;
    let reading = read_up_to(answer.body, app.server.answer_bytes_max, timeouts.idle);
    match tokio::time::timeout(timeouts.total.saturating_sub(under_way.waited), reading).await {
        Ok(read) => read,
        Err(_) => Err(ProviderFaultKind::Timeout("end its answer")),
    }
}

async fn read_up_to(mut body: Incoming, bytes_max: usize, idle: Duration) -> Result<Bytes, ProviderFaultKind> {
    let mut first: Option<Bytes> = None;
    let mut more = BytesMut::new();
    loop {
        let paused = |_| ProviderFaultKind::Timeout("go on with its answer");
        let Some(frame) = tokio::time::timeout(idle, body.frame()).await.map_err(paused)? else { break };
        let frame = frame.map_err(|_| ProviderFaultKind::BrokenAnswer)?;
        let Ok(data) = frame.into_data() else { continue };
        match &first {
            None => first = Some(data),
            Some(begun) => {
                if more.is_empty() {
                    more.extend_from_slice(begun);
                }
                more.extend_from_slice(&data);
            }
        }
        if more.len().max(first.as_ref().map_or(0, Bytes::len)) > bytes_max {
            return Err(ProviderFaultKind::MalformedAnswer);
        }
    }
    Ok(if more.is_empty() { first.unwrap_or_default() } else { more.freeze() })
}

/// Settles a whole answer and, once that is durable, passes it on byte for byte.
async fn reply_whole(mut under_way: Underway, permit: AppPermit, whole: Bytes) -> Result<Response<Body>, Refusal> {
    let Ok(usage) = answer::usage_in(&whole) else {
        return Err(broken(under_way, permit, ProviderFaultKind::MalformedAnswer).await);
    };
    let outcome = if usage.is_some() { Outcome::Completed } else { Outcome::UsageMissing };
    let settled = match usage {
        Some(usage) => permit.settle(usage, outcome),
        None => permit.settle_bounded(outcome),
    };
    under_way.check_overrun(&settled);
    let Settled { amounts, position, rate, .. } = settled;
    under_way.at_stake = Some(amounts);
    let durable = match position {
        Some(position) => under_way.app.journal.durable(position).await,
        None => Ok(()),
    };
    // The provider has done its work, also where the books cannot say so durably.
    under_way.finished(outcome, Some(amounts), usage);
    durable.map_err(|_| Refusal::LedgerUnavailable)?;
    let mut response = routes::json(whole);
    let headers = response.headers_mut();
    headers::admitted(headers, &under_way.route.target.model, rate);
    headers::settled(headers, amounts, under_way.remaining());
    Ok(response)
}

fn stream(under_way: Underway, permit: AppPermit, answer: Answer, call: &Call<'_>) -> Response<Body> {
    let target = &under_way.route.target;
    let (model, rate) = (Arc::clone(&target.model), permit.rate());
    let granted = Granted {
        tokens_per_choice: permit.granted.output_tokens,
        choices: call.choices,
        tokenizer: Tokenizer::of(&target.priced_as, &target.model),
    };
    let body = StreamBody::new(under_way, permit, answer.body, !call.include_usage, granted);
    let mut response = Response::new(Body::Stream(Box::new(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers::admitted(headers, &model, rate);
    response
}

// === impl Underway ===

impl Underway {
    fn new(
        app: &Arc<App>,
        id: RequestId,
        principal: Arc<Principal>,
        spender: Spender,
        route: Arc<Route>,
        series: Arc<Series>,
        since: Stopwatch,
    ) -> Self {
        let (app, waited, at_stake) = (Arc::clone(app), Duration::ZERO, None);
        Self { app, id, principal, spender, route, series, since, waited, at_stake, counted: AtomicBool::new(false) }
    }

    /// A provider that takes more than it was allowed breaks the one thing we rely on: say so, and count it.
    pub fn check_overrun(&self, settled: &Settled<JournalWriter>) {
        if settled.overrun != Amounts::ZERO {
            let (id, tenant, route) = (self.id, &self.principal.tenant, &self.route.target.route);
            let usd = settled.overrun.cost;
            tracing::error!(%id, %tenant, %route, %usd, "the provider used more than was held for: the platform's loss");
            self.series.overrun(settled.overrun);
        }
    }

    /// Says in the log what went wrong with whose request.
    pub fn warn(&self, what: &str, why: &dyn std::fmt::Debug) {
        let (id, tenant, provider) = (self.id, &self.principal.tenant, &self.route.provider.name);
        tracing::warn!(%id, %tenant, %provider, ?why, "{what}");
    }

    /// What the caps leave after this request.
    pub fn remaining(&self) -> Option<PicoSum> {
        let headroom = self.app.books.headroom(&self.spender, &self.principal.zone);
        [headroom.cost, headroom.charge].into_iter().flatten().min().map(|left| PicoSum(left.0.max(0)))
    }

    /// Counts the end of the request in the metrics.
    pub fn finished(&self, outcome: Outcome, amounts: Option<Amounts>, usage: Option<tollgate_types::Usage>) {
        self.counted.store(true, Ordering::Relaxed);
        self.series.finished(outcome, amounts.unwrap_or_default(), usage, self.since.elapsed(), self.waited);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        // The caller left, or the drain was over: the permit settles itself, and here it is counted.
        if !*self.counted.get_mut() {
            let outcome = if self.at_stake.is_some() { Outcome::ClientGone } else { Outcome::NotSent };
            self.finished(outcome, self.at_stake, None);
        }
    }
}
