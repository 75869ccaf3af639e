//! **The** request: [`serve`] is its whole way, from top to bottom.
//!
//! authenticate → enter (scopes, limits) → read → judge (policy) → admit (price, reserve) → durable → send → answer → settle → durable → reply.
//! From durable to answer it may go round more than once, see `attempts.rs`.
//!
//! A request that may be repeated takes its way through [`idempotent`]. If any of it is dropped in between (the caller left, a panic, the end of the drain), the permit settles itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tollgate_admission::policy::{Facts, Judged};
use tollgate_admission::{Entered, Identity, Permit, Principal, Settled, Target};
use tollgate_guard::Act;
use tollgate_ledger::{Amounts, Claim};
use tollgate_policy::Obligations;
use tollgate_policy::obligations::Batch;
use tollgate_serving::answer;
use tollgate_serving::backend::Answer;
use tollgate_serving::meter::Granted;
use tollgate_serving::provider::Borne;
use tollgate_store::JournalWriter;
use tollgate_tokens::Tokenizer;
use tollgate_types::clock::Stopwatch;
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind};
use tollgate_types::usage::Outcome;
use tollgate_types::{Call, EndUserId, PicoSum, Refusal, RequestId, Surface};

use crate::app::App;
use crate::attempts::{self, Answered, Question};
use crate::coalesce;
use crate::config::{Route, Server};
use crate::decisions::Judgement;
use crate::gate;
use crate::http::body::{self, Body};
use crate::http::wire;
use crate::http::{headers, routes};
use crate::idempotent;
use crate::local::work::Whose;
use crate::local::{self, Bodies, Terms, Wanted};
use crate::metrics::Series;
use crate::runtimes::Local;
use crate::stream::StreamBody;

pub type AppPermit = Permit<JournalWriter>;

/// What is known of an admitted request while it is under way.
#[derive(Debug)]
pub struct Underway {
    pub app: Arc<App>,
    pub id: RequestId,
    pub principal: Arc<Principal>,
    pub end_user: Option<EndUserId>,
    pub judged: Judged,
    /// Who is asked now.
    pub route: Arc<Route>,
    pub series: Arc<Series>,
    pub since: Stopwatch,
    /// How long whoever answers may take in all, from when the first was asked.
    pub total: Duration,
    /// Time that was not ours: from sending the request until the answer, or its first byte, was there.
    pub waited: Duration,
    /// What is posted if the caller leaves now. `None` before the request is sent.
    pub at_stake: Option<Amounts>,
    /// Its place among what the provider bears, where that is found out.
    pub borne: Option<Borne>,
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

/// Longest body whose tokens are counted, in bytes: 30 ms of a worker at the very worst, a few for real text.
const TOKENISED_BYTES_MAX: usize = 128 * 1024;

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
    let principal = gate::enter(app, id, tenant, &head.headers, act(surface))?;
    check_project(&principal, &head.headers)?;
    let end_user = end_user(app, &principal, &head.headers)?;
    let entered = app.admission.enter(&principal, end_user)?;
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

fn act(surface: Surface) -> Act {
    match surface {
        Surface::Chat => Act::Chat,
        Surface::Embeddings => Act::Embeddings,
        Surface::Classify => Act::Classify,
        Surface::Runs => Act::Run,
    }
}

/// Judges a request, has it worked on, and answers it. `claim` is the idempotency key that it takes for itself.
pub async fn fulfil(asked: Asked, claim: Option<Claim>) -> Result<Response<Body>, Refusal> {
    let Asked { app, surface, id, principal, entered, end_user, head, body, since } = asked;

    // What is asked for.
    let mut wire = wire::read_request(surface, &body)?;
    let route = app.route(&wire.call.route)?;

    // Whether the tenant's law lets it, and in what shape.
    let judged = app.admission.judge(&principal, &wire.call, &route.target, end_user);
    app.decisions.note(Judgement {
        id,
        at: app.clock().now(),
        principal: Arc::clone(&principal),
        end_user,
        facts: Facts::of(&wire.call),
        target: Arc::clone(&route.target),
        refusal: judged.as_ref().err().cloned(),
    });
    let judged = judged.map_err(|refused| gate::denied(&app, id, &principal, act(surface), refused))?;
    check_kept(judged.obligations(), claim.is_some())?;
    let redacted = redacted(&judged, &body)?;
    let original = &body;
    let body = redacted.as_ref().unwrap_or(original);
    if redacted.is_some() {
        wire = wire::read_request(surface, body)?;
    }
    let attribution = seal_attribution(&app, &principal, &head)?;
    // What runs here may be too busy: that is said before money is held for it.
    let here = match &route.server {
        Server::Provider(_) => check_surface(surface)?,
        Server::Local(local) => {
            let deadline = headers::deadline(&head)?.map(|within| app.clock().steady().plus(within));
            let alone = judged.obligations().batch == Some(Batch::Alone);
            let terms = Terms { goal: local.goal, alone, deadline };
            let bodies = Bodies { original, redacted: body };
            let wanted = local::wanted(local, surface, &Whose::of(&principal), bodies, terms)?;
            Some(Here { local: Arc::clone(local), wanted, terms, bypass: headers::bypasses_cache(&head)? })
        }
    };

    // Whether it may be paid for, and the money.
    let identity = Identity { id, end_user, idempotency: claim, attribution, judged: judged.clone() };
    let tighten = || match &here {
        Some(here) => here.local.tokens_of(&here.wanted.texts),
        None => tokens_of(&route, body, wire.call.input_bytes),
    };
    let permit = app.admission.admit(&app.books, entered, &wire.call, &route.target, identity, tighten)?;
    let under_way = Underway::new(app, id, principal, end_user, judged, route, since);

    // The work itself, here or by whoever of the route's does it: held durably before it is begun, each time.
    if let Some(Here { local, wanted, terms, bypass }) = here {
        return local::serve(under_way, permit, local, wanted, terms, bypass).await;
    }
    if surface == Surface::Embeddings
        && let Some(part) = coalesce::part(&under_way.route, body)
    {
        return coalesce::serve(under_way, permit, part, body.clone()).await;
    }
    let question = Question { wire: &wire, body };
    let Answered { under_way, permit, answer } = attempts::answered(under_way, permit, question).await?;
    if wire.call.stream && is_event_stream(&answer.headers) {
        return Ok(stream(under_way, permit, answer, &wire.call));
    }
    reply_read(under_way, permit, answer).await
}

/// Reads a whole answer, settles it and passes it on.
pub async fn reply_read(mut under_way: Underway, permit: AppPermit, answer: Answer) -> Result<Response<Body>, Refusal> {
    let reading = Stopwatch::start();
    let whole = match read_whole(&under_way, answer).await {
        Ok(whole) => whole,
        Err(kind) => return Err(broken(under_way, permit, kind).await),
    };
    under_way.waited += reading.elapsed();
    reply_whole(under_way, permit, whole).await
}

/// What is asked of a model that runs here.
struct Here {
    local: Arc<Local>,
    wanted: Wanted,
    terms: Terms,
    bypass: bool,
}

/// Only models that run here classify.
fn check_surface(surface: Surface) -> Result<Option<Here>, Refusal> {
    match surface {
        Surface::Runs => {
            let what = "this is a provider's model and no template: GET /v1/models names what there is";
            Err(Refusal::invalid_param(what, "template"))
        }
        Surface::Classify => {
            Err(Refusal::invalid_param("this model is a provider's, which does not classify", "model"))
        }
        Surface::Chat | Surface::Embeddings => Ok(None),
    }
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

/// A policy under which nothing may be kept does not go with a key under which the answer would be.
fn check_kept(obligations: &Obligations, keeps: bool) -> Result<(), Refusal> {
    if keeps && obligations.retention_days == Some(0) {
        let reason = "the policy allows nothing of an answer to be kept: leave out the Idempotency-Key".to_owned();
        return Err(Refusal::PolicyDenied { reason, layer: None });
    }
    Ok(())
}

/// The body without what the provider must not see, where a policy says that there is such.
fn redacted(judged: &Judged, body: &Bytes) -> Result<Option<Bytes>, Refusal> {
    let Some(redactor) = judged.redactor()? else { return Ok(None) };
    let redacted = redactor.request(body).map_err(|why| Refusal::PolicyDenied { reason: why, layer: None })?;
    Ok(Some(Bytes::from(redacted)))
}

/// An answer that is given again is judged like a new one, by the policies of now.
pub fn judge_again(asked: &Asked) -> Result<(), Refusal> {
    let Asked { app, surface, principal, end_user, body, .. } = asked;
    let wire = wire::read_request(*surface, body)?;
    // Of a route that is gone nobody can be asked anything: what was answered is answered.
    let Ok(route) = app.route(&wire.call.route) else { return Ok(()) };
    let judged = app.admission.judge(principal, &wire.call, &route.target, *end_user)?;
    check_kept(judged.obligations(), true)
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
pub fn tokens_of(route: &Route, body: &Bytes, input_bytes: u64) -> Option<u64> {
    let tokenizer = Tokenizer::of(&route.target.priced_as, &route.target.model)?;
    (body.len() <= TOKENISED_BYTES_MAX).then(|| tokenizer.input_bound(body, input_bytes))
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

// === when the provider does not answer as hoped ===

pub fn fault(route: &Route, kind: ProviderFaultKind, retry_after: Option<Duration>) -> Refusal {
    Refusal::Provider(ProviderFault { provider: route.target.provider.to_string(), kind, retry_after })
}

/// The answer broke off: the provider has worked, and nobody knows for how much.
pub async fn broken(under_way: Underway, permit: AppPermit, kind: ProviderFaultKind) -> Refusal {
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

/// It ended, and certainly no work was done: everything is given back, and it is counted.
pub fn void(under_way: &Underway, permit: AppPermit, outcome: Outcome) {
    permit.void(outcome);
    under_way.finished(outcome, None, None);
}

// === answers ===

async fn read_whole(under_way: &Underway, answer: Answer) -> Result<Bytes, ProviderFaultKind> {
    let timeouts = under_way.route.provider().timeouts;
    let reading = read_up_to(answer.body, under_way.app.server.answer_bytes_max, timeouts.idle);
    match tokio::time::timeout(under_way.total.saturating_sub(under_way.waited), reading).await {
        Ok(read) => read,
        Err(_) => Err(ProviderFaultKind::Timeout("end its answer")),
    }
}

pub async fn read_up_to(mut body: Incoming, bytes_max: usize, idle: Duration) -> Result<Bytes, ProviderFaultKind> {
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
async fn reply_whole(under_way: Underway, permit: AppPermit, whole: Bytes) -> Result<Response<Body>, Refusal> {
    let Ok(usage) = answer::usage_in(&whole) else {
        return Err(broken(under_way, permit, ProviderFaultKind::MalformedAnswer).await);
    };
    let outcome = if usage.is_some() { Outcome::Completed } else { Outcome::UsageMissing };
    let settled = match usage {
        Some(usage) => permit.settle(usage, outcome),
        None => permit.settle_bounded(outcome),
    };
    reply_settled(under_way, settled, outcome, usage, whole).await
}

/// Answers once what was posted is durable.
pub async fn reply_settled(
    mut under_way: Underway,
    settled: Settled<JournalWriter>,
    outcome: Outcome,
    usage: Option<tollgate_types::Usage>,
    whole: Bytes,
) -> Result<Response<Body>, Refusal> {
    under_way.check_overrun(&settled);
    let Settled { amounts, position, rate, .. } = settled;
    under_way.at_stake = Some(amounts);
    let durable = match position {
        Some(position) => under_way.app.journal.durable(position).await,
        None => Ok(()),
    };
    // The work is done, also where the books cannot say so durably.
    under_way.finished(outcome, Some(amounts), usage);
    durable.map_err(|_| Refusal::LedgerUnavailable)?;
    let mut response = routes::json(whole);
    let headers = response.headers_mut();
    headers::admitted(headers, &under_way.route.target.model, under_way.judged.fingerprint(), rate);
    headers::settled(headers, amounts, under_way.remaining());
    Ok(response)
}

fn stream(under_way: Underway, permit: AppPermit, answer: Answer, call: &Call<'_>) -> Response<Body> {
    let target = &under_way.route.target;
    let (model, policy, rate) = (Arc::clone(&target.model), under_way.judged.fingerprint(), permit.rate());
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
    headers::admitted(headers, &model, policy, rate);
    response
}

// === impl Underway ===

impl Underway {
    fn new(
        app: Arc<App>,
        id: RequestId,
        principal: Arc<Principal>,
        end_user: Option<EndUserId>,
        judged: Judged,
        route: Arc<Route>,
        since: Stopwatch,
    ) -> Self {
        let series = app.metrics.series(&principal.tenant, &route.target.route, &route.target.model);
        let total = route.target.total_timeout;
        let (waited, at_stake, borne, counted) = (Duration::ZERO, None, None, AtomicBool::new(false));
        Self { app, id, principal, end_user, judged, route, series, since, total, waited, at_stake, borne, counted }
    }

    /// A provider that takes more than it was allowed breaks the one thing we rely on: say so, and count it.
    pub fn check_overrun(&self, settled: &Settled<JournalWriter>) {
        if settled.overrun != Amounts::ZERO {
            let Target { route, provider, model, .. } = &*self.route.target;
            let (id, tenant, usd) = (self.id, &self.principal.tenant, settled.overrun.cost);
            tracing::error!(
                %id, %tenant, %route, %provider, %model, %usd,
                "the provider used more than was held for: the platform's loss"
            );
            self.series.overrun(settled.overrun);
        }
    }

    /// Says in the log what went wrong with whose request.
    pub fn warn(&self, what: &str, why: &dyn std::fmt::Debug) {
        let (id, tenant, provider) = (self.id, &self.principal.tenant, &self.route.target.provider);
        tracing::warn!(%id, %tenant, %provider, ?why, "{what}");
    }

    /// What the caps leave after this request.
    pub fn remaining(&self) -> Option<PicoSum> {
        let headroom = self.app.books.headroom(&self.principal.spender(self.end_user), &self.principal.zone);
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
