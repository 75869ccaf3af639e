//! One request, asked of one provider after another until somebody answers, inside one reservation.
//!
//! Only what certainly did no work is tried again or handed on: who was not reached, or answered with an error status of
//! its own. What may have worked ends the request, with its whole hold posted: the hold of the next in its place would
//! spend the same money twice. Before somebody else is asked the hold has grown to what that one may cost, durably.
//!
//! If nobody answers, the caller hears the first one's error, also where a fallback was passed over because the budget does not
//! afford it: the budget did afford what was asked for, and the error goes away by itself, which `budget_exceeded` would
//! deny. The log says what was passed over, and why.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};
use tollgate_serving::Provider;
use tollgate_serving::backend::{Answer, Backend, Endpoint, SendError};
use tollgate_serving::provider::Borne;
use tollgate_types::clock::Stopwatch;
use tollgate_types::refusal::ProviderFaultKind;
use tollgate_types::usage::Outcome;
use tollgate_types::{Refusal, Surface};

use crate::config::Route;
use crate::http::headers;
use crate::http::wire::{Bounds, WireRequest};
use crate::pipeline::{AppPermit, Underway, broken, fault, read_up_to, tokens_of, void};

/// Requests sent to providers for one request of a caller, in all.
const ATTEMPTS_MAX: u32 = 8;
/// A provider that asks for more patience than this is not waited for: the next one is asked, or the caller is told.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// Before one is asked again that said nothing of when; each further time twice as long.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest error text of a provider that is read, in bytes, and for how long.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(5);
/// Longest error text of a provider that is passed on, in characters.
const ERROR_CHARS_MAX: usize = 2_000;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub wire: &'a WireRequest<'a>,
    pub body: &'a Bytes,
}

/// Somebody answers: the head is there, and it is 200.
#[derive(Debug)]
pub struct Answered {
    pub under_way: Underway,
    pub permit: AppPermit,
    pub answer: Answer,
}

/// An attempt that certainly did no work.
#[derive(Debug)]
struct Undone {
    refusal: Refusal,
    outcome: Outcome,
    again: Again,
    retry_after: Option<Duration>,
}

/// Of whom it makes sense to ask the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// The same one, or the next: it is busy, broken or away.
    Anybody,
    /// The next: it will not have our key, or does not have the model.
    SomebodyElse,
    /// It is about the request.
    Nobody,
}

/// How far the attempts have got.
struct Round<'a> {
    route: &'a Route,
    question: Question<'a>,
    fallbacks: std::slice::Iter<'a, Arc<Route>>,
    attempts: u32,
    /// Of the one that is asked now.
    retries_left: u32,
    pause: Duration,
}

/// Asks until somebody answers. Whatever else happens, everything is settled and counted.
pub async fn answered(
    mut under_way: Underway,
    mut permit: AppPermit,
    question: Question<'_>,
) -> Result<Answered, Refusal> {
    let route = Arc::clone(&under_way.route);
    let mut round = Round::new(&route, question);
    let mut first = None;
    loop {
        go_out(&mut under_way, &mut permit).await?;
        let since = Stopwatch::start();
        let sent = match bears_one_more(&mut under_way) {
            true => Some(round.send(&under_way, &permit).await),
            false => None,
        };
        under_way.waited += since.elapsed();
        note_how_it_bears(&mut under_way, sent.as_ref(), since.elapsed());
        let undone = match sent {
            Some(Ok(answer)) if answer.status == StatusCode::OK => {
                return Ok(Answered { under_way, permit, answer });
            }
            Some(Ok(answer)) if may_have_worked(answer.status) => {
                return Err(broken(under_way, permit, ProviderFaultKind::Status(answer.status.as_u16())).await);
            }
            Some(Err(error)) if error.maybe_sent => return Err(broken(under_way, permit, error.fault).await),
            Some(Ok(answer)) => {
                come_back(&mut under_way, &mut permit);
                refused(&under_way, answer).await
            }
            Some(Err(error)) => {
                come_back(&mut under_way, &mut permit);
                not_reached(&under_way, error)
            }
            None => {
                come_back(&mut under_way, &mut permit);
                round.attempts += 1;
                busy(&under_way)
            }
        };
        if !round.goes_on(&mut under_way, &mut permit, &undone).await? {
            let told = if undone.again == Again::Nobody { undone } else { first.unwrap_or(undone) };
            void(&under_way, permit, told.outcome);
            return Err(told.refusal);
        }
        first.get_or_insert(undone);
    }
}

/// Nothing goes out before the books remember that it may cost something.
pub async fn go_out(under_way: &mut Underway, permit: &mut AppPermit) -> Result<(), Refusal> {
    let journal = &under_way.app.journal;
    journal.durable(permit.reservation.position()).await.map_err(|_| Refusal::LedgerUnavailable)?;
    if !permit.reservation.dispatched() {
        // It was swept while it waited: the disk took longer than the whole request may.
        return Err(Refusal::LedgerUnavailable);
    }
    under_way.at_stake = Some(permit.reservation.hold());
    Ok(())
}

/// It certainly did no work: whoever leaves now owes nothing.
pub fn come_back(under_way: &mut Underway, permit: &mut AppPermit) {
    permit.reservation.not_dispatched();
    under_way.at_stake = None;
}

// === impl Round ===

impl<'a> Round<'a> {
    fn new(route: &'a Route, question: Question<'a>) -> Self {
        Self {
            route,
            question,
            fallbacks: route.fallbacks.iter(),
            attempts: 0,
            retries_left: route.retries,
            pause: RETRY_PAUSE,
        }
    }

    /// The request as this provider is to have it: its name for the model, its name for the bound on output.
    async fn send(&mut self, under_way: &Underway, permit: &AppPermit) -> Result<Answer, SendError> {
        self.attempts += 1;
        let Question { wire, body } = self.question;
        let (surface, route) = (wire.call.surface, &*under_way.route);
        let endpoint = match surface {
            Surface::Chat => Endpoint::Chat,
            Surface::Embeddings | Surface::Classify | Surface::Runs => Endpoint::Embeddings,
        };
        let outgoing = wire.bounded(
            body,
            Bounds {
                model: &route.target.model,
                output_tokens: (surface == Surface::Chat).then_some(permit.granted.output_tokens),
                output_limit_name: route.provider().output_limit.field(),
            },
        );
        let time_left = under_way.total.saturating_sub(under_way.waited);
        let backend = backend_of_this_worker(route.provider());
        backend.send(endpoint, headers::request_id(under_way.id), outgoing, time_left).await
    }

    /// Whether there is to be another attempt: then everything is ready for it.
    async fn goes_on(
        &mut self,
        under_way: &mut Underway,
        permit: &mut AppPermit,
        undone: &Undone,
    ) -> Result<bool, Refusal> {
        if self.attempts >= ATTEMPTS_MAX || undone.again == Again::Nobody {
            return Ok(false);
        }
        if undone.again == Again::Anybody && self.retries_left > 0 {
            let wait = undone.retry_after.unwrap_or(self.pause);
            if wait <= RETRY_WAIT_MAX && wait < under_way.total.saturating_sub(under_way.waited) {
                (self.retries_left, self.pause) = (self.retries_left - 1, self.pause * 2);
                tokio::time::sleep(wait).await;
                under_way.waited += wait;
                return Ok(true);
            }
        }
        while under_way.waited < self.route.target.total_timeout
            && let Some(fallback) = self.fallbacks.next()
        {
            if self.hand_over(under_way, permit, fallback)? {
                (self.retries_left, self.pause) = (self.route.retries, RETRY_PAUSE);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the request the fallback's, if it has a price and the budget affords it.
    fn hand_over(
        &self,
        under_way: &mut Underway,
        permit: &mut AppPermit,
        fallback: &Arc<Route>,
    ) -> Result<bool, Refusal> {
        let (id, tenant, target) = (under_way.id, &under_way.principal.tenant, &fallback.target);
        let (provider, model) = (&target.provider, &target.model);
        let call = &self.question.wire.call;
        let said = under_way.app.admission.judge(&under_way.principal, call, target, under_way.end_user);
        if !under_way.judged.is_as_for(&said) {
            tracing::warn!(%id, %tenant, %provider, %model, "a fallback was passed over: the policy says something else of it");
            return Ok(false);
        }
        let tighten = || tokens_of(fallback, self.question.body, call.input_bytes);
        match under_way.app.admission.hand_over(permit, call, target, tighten) {
            Ok(()) => tracing::info!(%id, %tenant, %provider, %model, "handed over to a fallback"),
            Err(Refusal::LedgerUnavailable) => return Err(Refusal::LedgerUnavailable),
            Err(refusal) => {
                tracing::warn!(%id, %tenant, %provider, %model, code = refusal.code(), "a fallback was passed over");
                return Ok(false);
            }
        }
        // Within what is left of the whole, and within its own.
        under_way.total = self.route.target.total_timeout.min(under_way.waited + target.total_timeout);
        under_way.series = under_way.app.metrics.series(tenant, &target.route, model);
        under_way.route = Arc::clone(fallback);
        Ok(true)
    }
}

// === what a provider bears ===

/// Whether the provider is to be given one more, where that is found out; then this is its place.
fn bears_one_more(under_way: &mut Underway) -> bool {
    under_way.borne = None;
    let Some(bearing) = &under_way.route.provider().bearing else { return true };
    under_way.borne = bearing.enter();
    under_way.borne.is_some()
}

/// What the answer, or its absence, says of how much the provider has to do.
fn note_how_it_bears(under_way: &mut Underway, sent: Option<&Result<Answer, SendError>>, after: Duration) {
    let Some(sent) = sent else { return };
    let is_dropped = match sent {
        Ok(answer) => matches!(answer.status.as_u16(), 429 | 503 | 529),
        Err(error) => matches!(error.fault, ProviderFaultKind::Timeout(_)),
    };
    if is_dropped {
        return under_way.borne.take().into_iter().for_each(Borne::dropped);
    }
    if let (Some(borne), Ok(answer)) = (&mut under_way.borne, sent)
        && answer.status == StatusCode::OK
    {
        borne.answered(after);
    }
}

/// Nothing was sent: the provider has as much as it bears.
fn busy(under_way: &Underway) -> Undone {
    let floor = under_way.route.provider().bearing.as_ref().and_then(|bearing| bearing.floor());
    let retry_after = floor.unwrap_or(RETRY_PAUSE).max(RETRY_PAUSE);
    let refusal = Refusal::Overloaded { reason: "the provider is given as many requests as it bears", retry_after };
    Undone { refusal, outcome: Outcome::NotSent, again: Again::Anybody, retry_after: Some(retry_after) }
}

// === what did no work ===

fn not_reached(under_way: &Underway, error: SendError) -> Undone {
    under_way.warn("the provider was not reached", &error.fault);
    let refusal = fault(&under_way.route, error.fault, None);
    Undone { refusal, outcome: Outcome::NotSent, again: Again::Anybody, retry_after: None }
}

/// An error of the provider's own says that it did no work.
async fn refused(under_way: &Underway, answer: Answer) -> Undone {
    let (status, retry_after) = (answer.status, retry_after(&answer.headers));
    under_way.warn("the provider refused", &status);
    let (outcome, again) = (Outcome::ProviderRefused, again(status));
    let refusal = match status {
        // These are about the caller's request, and the provider's words on it help.
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => {
            let reading = read_up_to(answer.body, ERROR_BYTES_MAX, ERROR_PATIENCE);
            let reading = tokio::time::timeout(ERROR_PATIENCE, reading).await;
            let text = reading.ok().and_then(Result::ok).unwrap_or_default();
            let said = message_of(&text).unwrap_or_else(|| format!("status {}", status.as_u16()));
            Refusal::invalid(format!("the provider refused the request: {said}"))
        }
        _ => fault(&under_way.route, ProviderFaultKind::Status(status.as_u16()), retry_after),
    };
    Undone { refusal, outcome, again, retry_after }
}

fn again(status: StatusCode) -> Again {
    match status.as_u16() {
        429 | 500..=599 => Again::Anybody,
        401..=404 => Again::SomebodyElse,
        _ => Again::Nobody,
    }
}

/// Statuses that do not say that no work was done: what stands between us and the provider (408, 502, 504, and 520 to
/// 524 of a content network) gave up waiting for it, or it did something else than was asked (2xx, 3xx).
pub fn may_have_worked(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=399 | 408 | 502 | 504 | 520..=524)
}

/// What the provider says about coming again, in either of its two headers.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let millis = number("retry-after-ms").map(Duration::from_millis);
    millis.or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

fn message_of(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = value["error"]["message"].as_str().or_else(|| value["message"].as_str())?;
    Some(text.chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect())
}

/// Each worker has connections of its own, made when first needed. A reload makes new providers: the old ones'
/// connections go when nothing uses them any more.
pub fn backend_of_this_worker(provider: &Arc<Provider>) -> Arc<Backend> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_be_asked_the_same_again_depends_on_the_status() {
        let check = |statuses: &[u16], expected: Again| {
            for status in statuses {
                let status = StatusCode::from_u16(*status).expect("a status");
                assert_eq!((again(status), may_have_worked(status)), (expected, false), "{status}");
            }
        };
        check(&[429, 500, 501, 503, 505, 529], Again::Anybody);
        check(&[401, 402, 403, 404], Again::SomebodyElse);
        check(&[400, 405, 409, 410, 413, 415, 422, 451], Again::Nobody);
        for status in [201, 204, 301, 408, 502, 504, 520, 524] {
            assert!(may_have_worked(StatusCode::from_u16(status).expect("a status")), "{status}");
        }
    }
}
