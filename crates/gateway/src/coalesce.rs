//! Small requests of one tenant for embeddings, sent to the provider as one.
//!
//! Each is judged, limited and held by itself, durably, before it is gathered with others. Nothing waits for a clock: as long as few
//! calls of a kind are under way each request is sent at once; what comes while they are is sent together as soon as one
//! of them has ended. The provider knows the call by the ids of all who share it, joined by commas, so that its bill says whose it
//! was; what it counts is shared to the last token. A call that certainly did no work is taken apart, and each goes by itself,
//! with its retries and fallbacks. A caller that leaves while it waits owes nothing; later, its share.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::oneshot;
use tollgate_serving::Provider;
use tollgate_serving::backend::Endpoint;
use tollgate_serving::coalesce::{self, Part, joined, shares, vectors};
use tollgate_serving::{Answer, SendError, answer, provider};
use tollgate_tokens::Tokenizer;
use tollgate_types::clock::Stopwatch;
use tollgate_types::refusal::ProviderFaultKind;
use tollgate_types::usage::Outcome;
use tollgate_types::{Refusal, RequestId, TenantId, Timestamp, Usage};

use crate::app::App;
use crate::attempts::{self, Answered, Question, backend_of_this_worker, may_have_worked};
use crate::config::Route;
use crate::http::body::Body;
use crate::http::wire;
use crate::local::work::Caller;
use crate::local::{RETRY, detached};
use crate::pipeline::{self, AppPermit, Underway, broken, fault, read_up_to};

/// Requests that share a call at most: the provider is told the ids of all of them.
const MEMBERS_MAX: usize = 32;
/// Texts of a call, and their bytes.
const TEXTS_MAX: usize = 256;
const BYTES_MAX: usize = 64 * 1024;
/// Calls of a kind under way before requests are gathered. Where more waits than fits one call another is begun, up to a bound.
const CALLS_BEFORE: usize = 2;
const CALLS_MAX: usize = 64;
/// Requests of a kind that wait at most; who comes then goes by itself.
const WAITING_MAX: usize = 1_024;
/// A provider that is too busy is asked once more, for all of them: after as long as it says, but no longer than this.
const BUSY_WAIT: Duration = Duration::from_millis(200);
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Requests that wait for a call of their kind.
#[derive(Debug, Default)]
pub struct Coalescer(Mutex<HashMap<Kind, Waiting>>);

/// Requests that may share a call: one tenant's, to the same model of the same provider, and said the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    tenant: TenantId,
    route: Arc<str>,
    /// A reload makes new ones: what is gathered for one is not sent to the other.
    provider: usize,
    rest: Box<str>,
}

#[derive(Debug, Default)]
struct Waiting {
    members: VecDeque<Member>,
    calls: usize,
}

/// A request that waits, or is under way with others.
#[derive(Debug)]
struct Member {
    id: RequestId,
    part: Part,
    /// Of each text: its tokens, or where nobody can count them its bytes.
    weights: Vec<u64>,
    /// Nobody waits for it any longer than this.
    until: Timestamp,
    told: oneshot::Sender<Told>,
}

/// What became of a request.
#[derive(Debug)]
enum Told {
    Answered {
        body: Bytes,
        usage: Option<Usage>,
    },
    /// The call certainly did no work.
    Undone,
    /// Nor did it when it was made again: the provider is too busy.
    Busy {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// It may have.
    Broke(ProviderFaultKind),
}

/// What sends the calls of a kind.
struct Sender {
    app: Arc<App>,
    route: Arc<Route>,
    kind: Kind,
}

/// The request as one that may be sent with others, if its route does so.
pub fn part(route: &Route, body: &Bytes) -> Option<Part> {
    if route.coalesce { coalesce::part(body) } else { None }
}

/// Has it sent with others, and answers.
pub async fn serve(under_way: Underway, permit: AppPermit, part: Part, body: Bytes) -> Result<Response<Body>, Refusal> {
    let app = Arc::clone(&under_way.app);
    let Some(place) = app.coalesced_work.enter() else { return alone(under_way, permit, &body).await };
    detached(move |mut caller| async move {
        let _place = place;
        together(under_way, permit, part, body, &mut caller).await
    })
    .await
}

async fn together(
    mut under_way: Underway,
    mut permit: AppPermit,
    part: Part,
    body: Bytes,
    caller: &mut Caller,
) -> Result<Response<Body>, Refusal> {
    attempts::go_out(&mut under_way, &mut permit).await?;
    let since = Stopwatch::start();
    let (id, route) = (under_way.id, Arc::clone(&under_way.route));
    let kind = Kind {
        tenant: under_way.principal.tenant.clone(),
        route: Arc::clone(&route.target.route),
        provider: Arc::as_ptr(route.provider()).addr(),
        rest: part.rest.clone(),
    };
    let (told, mut hears) = oneshot::channel();
    let until = under_way.app.clock().steady().plus(under_way.total);
    let weights = weights(&route, &part);
    let sender = Sender { app: Arc::clone(&under_way.app), route, kind };
    if !sender.take(Member { id, part, weights, until, told }) {
        attempts::come_back(&mut under_way, &mut permit);
        return alone(under_way, permit, &body).await;
    }
    let patience = under_way.total;
    let heard = tokio::select! {
        heard = &mut hears => Some(heard),
        () = caller.gone() => None,
        () = tokio::time::sleep(patience) => None,
    };
    let heard = match heard {
        Some(heard) => heard,
        // Who was not sent yet owes nothing; who was hears what it came to.
        None if sender.withdraw(id) => {
            attempts::come_back(&mut under_way, &mut permit);
            let outcome = if caller.is_gone() { Outcome::ClientGone } else { Outcome::NotSent };
            pipeline::void(&under_way, permit, outcome);
            let kind = ProviderFaultKind::Timeout("begin to answer");
            return Err(fault(&under_way.route, kind, None));
        }
        None => hears.await,
    };
    under_way.waited += since.elapsed();
    let is_gone = caller.is_gone();
    match heard {
        Ok(Told::Answered { body, usage }) => {
            let outcome = match (usage.is_some(), is_gone) {
                (false, _) => Outcome::UsageMissing,
                (true, true) => Outcome::ClientGone,
                (true, false) => Outcome::Completed,
            };
            let settled = match usage {
                Some(usage) => permit.settle(usage, outcome),
                None => permit.settle_bounded(outcome),
            };
            pipeline::reply_settled(under_way, settled, outcome, usage, body).await
        }
        Ok(Told::Undone) => {
            attempts::come_back(&mut under_way, &mut permit);
            if is_gone {
                pipeline::void(&under_way, permit, Outcome::ClientGone);
                return Err(Refusal::Overloaded { reason: "the caller has left", retry_after: RETRY });
            }
            if under_way.waited >= under_way.total {
                pipeline::void(&under_way, permit, Outcome::NotSent);
                return Err(fault(&under_way.route, ProviderFaultKind::Timeout("begin to answer"), None));
            }
            alone(under_way, permit, &body).await
        }
        Ok(Told::Busy { status, retry_after }) => {
            attempts::come_back(&mut under_way, &mut permit);
            // Somebody else may have time; the same one, asked by each of them, has not.
            if !is_gone && !under_way.route.fallbacks.is_empty() && under_way.waited < under_way.total {
                return alone(under_way, permit, &body).await;
            }
            pipeline::void(&under_way, permit, Outcome::ProviderRefused);
            Err(fault(&under_way.route, ProviderFaultKind::Status(status), retry_after))
        }
        Ok(Told::Broke(kind)) => Err(broken(under_way, permit, kind).await),
        // Whoever sent it is gone, and nobody knows how far it got.
        Err(_) => Err(broken(under_way, permit, ProviderFaultKind::BrokenAnswer).await),
    }
}

/// By itself, as every other request is sent.
async fn alone(under_way: Underway, permit: AppPermit, body: &Bytes) -> Result<Response<Body>, Refusal> {
    let wire = wire::read_request(tollgate_types::Surface::Embeddings, body)?;
    let question = Question { wire: &wire, body };
    let Answered { under_way, permit, answer } = attempts::answered(under_way, permit, question).await?;
    pipeline::reply_read(under_way, permit, answer).await
}

fn weights(route: &Route, part: &Part) -> Vec<u64> {
    let tokenizer = Tokenizer::of(&route.target.priced_as, &route.target.model);
    let weight = |text: &str| match (tokenizer, serde_json::from_str::<String>(text)) {
        (Some(tokenizer), Ok(read)) => tokenizer.count(&read),
        _ => text.len() as u64,
    };
    part.texts.iter().map(|text| weight(text)).collect()
}

// === impl Coalescer ===

impl Coalescer {
    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sender ===

impl Sender {
    /// Takes a request among those that wait, if there is room; where few calls are under way, or many wait, one begins at once.
    fn take(&self, member: Member) -> bool {
        let mut all = self.app.coalescer.lock();
        let waiting = all.entry(self.kind.clone()).or_default();
        if waiting.members.len() >= WAITING_MAX {
            return false;
        }
        waiting.members.push_back(member);
        let begins = waiting.calls < CALLS_BEFORE || (waiting.is_more_than_a_call() && waiting.calls < CALLS_MAX);
        if !begins {
            return true;
        }
        waiting.calls += 1;
        drop(all);
        let sender = Self { app: Arc::clone(&self.app), route: Arc::clone(&self.route), kind: self.kind.clone() };
        let mut calling = Calling { sender, ended: false };
        tokio::spawn(async move {
            while let Some(members) = calling.next() {
                calling.sender.send(members).await;
            }
        });
        true
    }

    /// Takes a request back that is not sent yet.
    fn withdraw(&self, id: RequestId) -> bool {
        let mut all = self.app.coalescer.lock();
        let Some(waiting) = all.get_mut(&self.kind) else { return false };
        let before = waiting.members.len();
        waiting.members.retain(|member| member.id != id);
        waiting.members.len() < before
    }

    /// Sends one call for all of them, and tells each what became of it.
    async fn send(&self, members: Vec<Member>) {
        self.app.metrics.coalesced(members.len());
        let texts: Vec<usize> = members.iter().map(|member| member.part.texts.len()).collect();
        let mut asked = self.asked(&members).await;
        if let Err(Failed::Busy { retry_after, .. }) = asked
            && let wait = retry_after.unwrap_or(BUSY_WAIT)
            && wait <= BUSY_WAIT_MAX
        {
            tokio::time::sleep(wait).await;
            asked = self.asked(&members).await;
        }
        match asked {
            Ok((whole, usage)) => self.share_out(members, &texts, &whole, usage),
            Err(Failed::Undone) => tell(members, |_| Told::Undone),
            Err(Failed::Busy { status, retry_after }) => tell(members, |_| Told::Busy { status, retry_after }),
            Err(Failed::Broke(kind)) => tell(members, |_| Told::Broke(kind)),
        }
    }

    async fn asked(&self, members: &[Member]) -> Result<(Bytes, Option<Usage>), Failed> {
        let provider: &Arc<Provider> = self.route.provider();
        let borne = match &provider.bearing {
            Some(bearing) => Some(bearing.enter().ok_or(Failed::Busy { status: 429, retry_after: bearing.floor() })?),
            None => None,
        };
        let body = joined(&self.route.target.model, members.iter().map(|member| &member.part));
        let ids = members.iter().map(|member| member.id.to_string()).collect::<Vec<_>>().join(",");
        let ids = HeaderValue::try_from(ids).map_err(|_| Failed::Undone)?;
        let since = Stopwatch::start();
        // As long as each of them waits for it.
        let now = self.app.clock().steady();
        let total = members.iter().map(|member| member.until.since(now)).min().unwrap_or_default();
        if total.is_zero() {
            return Err(Failed::Undone);
        }
        let sent = backend_of_this_worker(provider).send(Endpoint::Embeddings, ids, body, total).await;
        note(borne, sent.as_ref(), since.elapsed());
        let answer = sent.map_err(|error| match error.maybe_sent {
            true => Failed::Broke(error.fault),
            false => Failed::Undone,
        })?;
        if answer.status != StatusCode::OK {
            let (status, retry_after) = (answer.status.as_u16(), attempts::retry_after(&answer.headers));
            return Err(match status {
                _ if may_have_worked(answer.status) => Failed::Broke(ProviderFaultKind::Status(status)),
                429 | 503 | 529 => Failed::Busy { status, retry_after },
                _ => Failed::Undone,
            });
        }
        let left = total.saturating_sub(since.elapsed());
        let reading = read_up_to(answer.body, self.app.server.answer_bytes_max, provider.timeouts.idle);
        let read = tokio::time::timeout(left, reading).await;
        let whole = read.unwrap_or(Err(ProviderFaultKind::Timeout("end its answer"))).map_err(Failed::Broke)?;
        let malformed = Failed::Broke(ProviderFaultKind::MalformedAnswer);
        let usage = answer::usage_in(&whole).map_err(|_| malformed)?;
        Ok((whole, usage))
    }

    /// Gives each its vectors, and its share of what was counted.
    fn share_out(&self, members: Vec<Member>, texts: &[usize], whole: &Bytes, usage: Option<Usage>) {
        let Ok(split) = vectors(whole, texts.iter().sum()) else {
            return tell(members, |_| Told::Broke(ProviderFaultKind::MalformedAnswer));
        };
        let weights: Vec<u64> = members.iter().map(|member| member.weights.iter().sum()).collect();
        let shared = usage.map(|usage| shared(&usage, &weights));
        let mut from = 0;
        tell(members, |number| {
            let usage = shared.as_ref().map(|shared| shared[number]);
            let body = split.answer(from, texts[number], usage.map(|usage| usage.input_tokens));
            from += texts[number];
            Told::Answered { body, usage }
        });
    }
}

/// Shares of what the provider counted: they add up to it in each column, and what was cached is within the input of each.
fn shared(usage: &Usage, weights: &[u64]) -> Vec<Usage> {
    let input = shares(usage.input_tokens, weights);
    let cached = shares(usage.cached_input_tokens, &input);
    let written = usage.cache_write_tokens.map(|written| shares(written, &input));
    let (audio, output) = (shares(usage.audio_input_tokens, &input), shares(usage.output_tokens, &input));
    let one = |number: usize| Usage {
        input_tokens: input[number],
        cached_input_tokens: cached[number],
        cache_write_tokens: written.as_ref().map(|written| written[number]),
        audio_input_tokens: audio[number],
        output_tokens: output[number],
        ..Usage::default()
    };
    (0..weights.len()).map(one).collect()
}

#[derive(Clone, Copy)]
enum Failed {
    Undone,
    Busy { status: u16, retry_after: Option<Duration> },
    Broke(ProviderFaultKind),
}

fn tell(members: Vec<Member>, mut of: impl FnMut(usize) -> Told) {
    for (number, member) in members.into_iter().enumerate() {
        // Each waits until it hears, whatever becomes of its caller.
        let _ = member.told.send(of(number));
    }
}

fn note(borne: Option<provider::Borne>, sent: Result<&Answer, &SendError>, after: Duration) {
    let Some(mut borne) = borne else { return };
    match sent {
        Ok(answer) if answer.status == StatusCode::OK => borne.answered(after),
        Ok(answer) if matches!(answer.status.as_u16(), 429 | 503 | 529) => borne.dropped(),
        Err(error) if matches!(error.fault, ProviderFaultKind::Timeout(_)) => borne.dropped(),
        _ => {}
    }
}

/// A place among the calls of a kind, given back when there is nothing left to send, or when it is dropped before.
struct Calling {
    sender: Sender,
    ended: bool,
}

// === impl Calling ===

impl Calling {
    /// Whoever waits, as many as fit one call; the first at any rate. If nobody does, the place is given back in the same
    /// moment: who comes next finds that a call is to be begun.
    fn next(&mut self) -> Option<Vec<Member>> {
        let mut all = self.sender.app.coalescer.lock();
        let waiting = all.get_mut(&self.sender.kind)?;
        let (mut members, mut texts, mut bytes) = (Vec::new(), 0, 0);
        while let Some(first) = waiting.members.front() {
            texts += first.part.texts.len();
            bytes += first.part.texts.iter().map(|text| text.len()).sum::<usize>();
            let fits = members.len() < MEMBERS_MAX && texts <= TEXTS_MAX && bytes <= BYTES_MAX;
            if !fits && !members.is_empty() {
                break;
            }
            members.extend(waiting.members.pop_front());
        }
        if members.is_empty() {
            self.ended = true;
            leave(&self.sender.kind, &mut all);
            return None;
        }
        Some(members)
    }
}

impl Waiting {
    /// Whether more waits than fits one call.
    fn is_more_than_a_call(&self) -> bool {
        let texts = || self.members.iter().flat_map(|member| &member.part.texts);
        self.members.len() > MEMBERS_MAX
            || texts().count() > TEXTS_MAX
            || texts().map(|text| text.len()).sum::<usize>() > BYTES_MAX
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut all = self.sender.app.coalescer.lock();
        if let Some(waiting) = all.get_mut(&self.sender.kind)
            && waiting.calls == 1
        {
            // Nobody is left to send them.
            tell(waiting.members.drain(..).collect(), |_| Told::Undone);
        }
        leave(&self.sender.kind, &mut all);
    }
}

/// One call less; with the last of a kind goes the kind.
fn leave(kind: &Kind, all: &mut HashMap<Kind, Waiting>) {
    if let Some(waiting) = all.get_mut(kind) {
        waiting.calls -= 1;
        if waiting.calls == 0 {
            all.remove(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shared_to_the_last_token() {
        let usage =
            Usage { input_tokens: 100, cached_input_tokens: 33, cache_write_tokens: Some(0), ..Usage::default() };
        let shares = shared(&usage, &[5, 0, 7, 11]);
        let sum = |of: fn(&Usage) -> u64| shares.iter().map(of).sum::<u64>();
        assert_eq!((sum(|share| share.input_tokens), sum(|share| share.cached_input_tokens)), (100, 33));
        assert!(shares.iter().all(|share| share.cached_input_tokens <= share.input_tokens));
        assert_eq!(shares[1].input_tokens, 0);
    }
}
