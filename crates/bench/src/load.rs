//! The load generator: a closed loop (so many connections, each asks again once answered) or an open one (arrivals at a
//! fixed rate, whatever the server does), over JSON answers or streams.
//!
//! It is lean, since it shares a small machine with what it measures: one task and one connection per caller, no pool in
//! a closed loop, one histogram for all. Run it on a current-thread runtime.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::clock;
use crate::http::{Connection, Origin, bearer_value};
use crate::latency::Latencies;
use crate::procfs::{Consumption, consumption};
use crate::schedule::Schedule;
use crate::sse::{Event, SseReader, carries_text};

/// How often somebody knocks where nobody listens.
const KNOCK_EVERY: Duration = Duration::from_millis(20);
/// A request without a complete answer after this long counts as broken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Odd, and far from any simple fraction: multiples of it scatter evenly (Knuth, TAOCP 3, 6.4).
const SCATTER: usize = 0x9e37_79b9_7f4a_7c15;
/// How much of an unexpected answer is quoted.
const QUOTE_BYTES: usize = 400;

/// What to ask, how often, for how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub ask: Ask,
    pub mode: Mode,
    /// No request begins after this; those under way are still read to their end.
    pub during: Duration,
    /// Nor after so many requests, if given.
    pub requests_max: Option<u64>,
    /// The process whose CPU time and memory are measured, with its children.
    pub pid: Option<u32>,
    pub manners: Manners,
}

/// How an open loop's callers take what is not an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// Who is refused, and told when to come again, comes again then, once.
    pub heed: bool,
    /// Who finds nobody listening knocks until somebody does.
    pub patient: bool,
}

/// The one request that is sent again and again, for one key or for many in turn.
#[derive(Clone, Debug)]
pub struct Ask {
    pub origin: Origin,
    request: Request<Full<Bytes>>,
    stream: bool,
    authorizations: Arc<[HeaderValue]>,
    turn: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// So many callers, each asking again when it has its answer.
    Closed { connections: usize },
    /// Arrivals at a fixed rate, on as many connections as it takes up to a bound. Latency counts from the moment a
    /// request was meant to start.
    Open { rate_per_s: f64, connections_max: usize },
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub statuses: BTreeMap<u16, u64>,
    /// Connections refused or lost, answers cut off, no answer in time.
    pub broken: u64,
    /// Streams with status 200 that ended without `[DONE]`.
    pub without_done: u64,
    /// The first answer that was not as it should be.
    pub first_failure: Option<String>,
    /// To the last byte of the answer.
    pub latency: Latencies,
    /// To the first event that carries text. Streams only.
    pub first_token: Latencies,
    /// Between two events of one stream.
    pub gaps: Latencies,
    pub events: u64,
    pub body_bytes: u64,
    /// What those were told who came again when told.
    pub told_wait: Latencies,
    /// Of those: all, and who was answered then. Neither is in `statuses`.
    pub heeded: u64,
    pub heeded_ok: u64,
    pub elapsed: Duration,
    /// Of the process asked for: CPU time used meanwhile, memory at the end.
    pub consumed: Option<Consumption>,
}

type Tally = Arc<Mutex<Outcome>>;

/// Whether another request may begin.
#[derive(Debug)]
struct Gate {
    end: Instant,
    begun: AtomicU64,
    requests_max: u64,
}

// === impl Ask ===

impl Ask {
    /// A POST of a JSON body; `stream` says how the answer is read.
    pub fn post(origin: Origin, path: &str, keys: &[&str], body: impl Into<Bytes>, stream: bool) -> Result<Self> {
        let mut request = origin.request(Method::POST, path, body)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let authorizations = keys.iter().map(|key| bearer_value(key)).collect::<Result<_>>()?;
        Ok(Self { origin, request, stream, authorizations, turn: Arc::default() })
    }

    pub fn request(&self) -> Request<Full<Bytes>> {
        let mut request = self.request.clone();
        if !self.authorizations.is_empty() {
            // In an order that no cache has foreseen.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(SCATTER) % self.authorizations.len();
            request.headers_mut().insert(AUTHORIZATION, self.authorizations[turn].clone());
        }
        request
    }
}

/// A chat of some 0.7 kB.
pub fn chat_body(model: &str, max_tokens: u32, stream: bool) -> Value {
    let history = "The invoice of March lists three items. The second one was delivered twice and returned once, the \
                   third one came late, and the first one is as ordered. The customer asks which of them is to be paid \
                   now, which one has to be credited, and whether the late delivery gives a right to a discount under \
                   the contract of last year, section four, which grants two percent for each week of delay. Please name the amounts and the day.";
    let mut body = json!({
        "model": model,
        "messages": [
            {"role": "system", "content": "You are the assistant of an accounts department. Answer briefly."},
            {"role": "user", "content": history},
        ],
        "max_tokens": max_tokens,
        "temperature": 0.2,
    });
    if stream {
        body["stream"] = Value::Bool(true);
    }
    body
}

pub fn embeddings_body(model: &str) -> Value {
    json!({"model": model, "input": "The invoice of March lists three items. The second one was delivered twice."})
}

// === impl Load ===

impl Load {
    /// Runs it to its end. An error when it cannot run at all; what fails while it runs is in the outcome.
    pub async fn run(&self) -> Result<Outcome> {
        let tally = Tally::default();
        let before = self.pid.map(consumption).transpose()?;
        let start = clock::now();
        match self.mode {
            Mode::Closed { connections } => self.run_closed(start, connections, &tally).await,
            Mode::Open { rate_per_s, connections_max } => {
                let schedule = Schedule::at(rate_per_s).context("the rate must be a positive number")?;
                self.run_open(schedule, connections_max.max(1), &tally).await?;
            }
        }
        let elapsed = clock::since(start);
        let after = self.pid.map(consumption).transpose()?;
        let mut outcome = std::mem::take(&mut *lock(&tally));
        outcome.elapsed = elapsed;
        outcome.consumed =
            before.zip(after).map(|(before, after)| Consumption { cpu: after.cpu - before.cpu, ..after });
        Ok(outcome)
    }

    async fn run_closed(&self, start: Instant, connections: usize, tally: &Tally) {
        let requests_max = self.requests_max.unwrap_or(u64::MAX);
        let gate = Arc::new(Gate { end: start + self.during, begun: AtomicU64::new(0), requests_max });
        let mut callers = JoinSet::new();
        for _ in 0..connections {
            callers.spawn(call_again_and_again(self.ask.clone(), Arc::clone(&gate), Arc::clone(tally)));
        }
        callers.join_all().await;
    }

    async fn run_open(&self, schedule: Schedule, connections_max: usize, tally: &Tally) -> Result<()> {
        let lanes = Arc::new(Lanes::new(connections_max));
        if !self.manners.patient {
            lanes.open_some(&self.ask.origin).await?;
        }
        let total = schedule.arrivals_before(self.during).min(self.requests_max.unwrap_or(u64::MAX));
        let mut arrivals = arrivals(schedule, total)?;
        let mut calls = JoinSet::new();
        while let Some(intended) = arrivals.recv().await {
            let (ask, lanes, tally) = (self.ask.clone(), Arc::clone(&lanes), Arc::clone(tally));
            calls.spawn(call_once(ask, intended, lanes, tally, self.manners));
            while calls.try_join_next().is_some() {}
        }
        calls.join_all().await;
        Ok(())
    }
}

/// The moments at which requests are meant to start, each delivered when it has come, by a thread with an exact timer.
fn arrivals(schedule: Schedule, total: u64) -> Result<mpsc::UnboundedReceiver<Instant>> {
    let (due, arrivals) = mpsc::unbounded_channel();
    let start = clock::now() + Duration::from_millis(1);
    let tick = move || {
        for index in 0..total {
            let intended = start + schedule.offset(index);
            clock::block_until(intended);
            if due.send(intended).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("arrivals".to_owned()).spawn(tick).context("cannot start the timer thread")?;
    Ok(arrivals)
}

// === impl Gate ===

impl Gate {
    fn admits(&self, now: Instant) -> bool {
        now < self.end && self.begun.fetch_add(1, Ordering::Relaxed) < self.requests_max
    }
}

/// One caller of a closed loop.
async fn call_again_and_again(ask: Ask, gate: Arc<Gate>, tally: Tally) {
    let mut connection = None;
    loop {
        let start = clock::now();
        if !gate.admits(start) {
            return;
        }
        if call_on(&mut connection, &ask, start, &tally).await.is_err() {
            // A refused connection must not become a busy loop that starves the server of the core.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

// === the open loop ===

/// Connections of an open loop: the last one used is used first, a new one is opened when all are busy.
struct Lanes {
    free: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Lanes {
    /// So many are opened before the clock starts.
    const OPENED_AHEAD: usize = 16;

    fn new(connections_max: usize) -> Self {
        Self { free: Semaphore::new(connections_max), idle: Mutex::default() }
    }

    async fn open_some(&self, origin: &Origin) -> Result<()> {
        for _ in 0..Self::OPENED_AHEAD.min(self.free.available_permits()) {
            let connection = Connection::open(origin).await?;
            lock(&self.idle).push(connection);
        }
        Ok(())
    }

    /// One request, on a lane of its own. Says when to come again, if it was refused with a word on that; what failed is in
    /// the tally.
    async fn call(&self, ask: &Ask, intended: Instant, tally: &Tally, manners: Manners) -> Option<Duration> {
        let _lane = self.free.acquire().await.expect("the semaphore is never closed");
        let mut connection = lock(&self.idle).pop();
        if manners.patient && connection.is_none() {
            connection = knock(&ask.origin, intended + REQUEST_TIMEOUT).await;
        }
        let told = call_on(&mut connection, ask, intended, tally).await;
        if let Some(connection) = connection {
            lock(&self.idle).push(connection);
        }
        told.ok().flatten()
    }
}

async fn call_once(ask: Ask, intended: Instant, lanes: Arc<Lanes>, tally: Tally, manners: Manners) {
    let told = lanes.call(&ask, intended, &tally, manners).await;
    if let Some(wait) = told.filter(|_| manners.heed) {
        // Who waits stands in nobody's way.
        tokio::time::sleep(wait).await;
        let again = Tally::default();
        lanes.call(&ask, clock::now(), &again, manners).await;
        let is_answered = lock(&again).statuses.contains_key(&StatusCode::OK.as_u16());
        let mut tally = lock(&tally);
        tally.told_wait.record(wait);
        tally.heeded += 1;
        tally.heeded_ok += u64::from(is_answered);
    }
}

/// A connection, as soon as somebody listens.
async fn knock(origin: &Origin, until: Instant) -> Option<Connection> {
    while clock::now() < until {
        if let Ok(connection) = Connection::open(origin).await {
            return Some(connection);
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
    None
}

// === one request ===

/// Sends the request, on a new connection if there is none or the server has closed it, and books what came of it.
/// After an error, which is booked too, there is no connection. Says when to come again, if it was refused with a word on that.
async fn call_on(
    connection: &mut Option<Connection>,
    ask: &Ask,
    start: Instant,
    tally: &Tally,
) -> Result<Option<Duration>> {
    let call = async {
        let mut usable = Connection::reuse(connection.take(), &ask.origin).await?;
        let response = usable.send(ask.request()).await.context("no answer")?;
        let told = wait_told(&response);
        read_answer(response, ask.stream, start, tally).await?;
        anyhow::Ok((usable, told))
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await.context("no complete answer in time").flatten() {
        Ok((usable, told)) => {
            *connection = Some(usable);
            Ok(told)
        }
        Err(error) => {
            let mut tally = lock(tally);
            tally.broken += 1;
            tally.first_failure.get_or_insert_with(|| format!("{error:#}"));
            Err(error)
        }
    }
}

fn wait_told(response: &Response<Incoming>) -> Option<Duration> {
    let told = response.headers().get("retry-after-ms")?.to_str().ok()?.parse().ok()?;
    (response.status() == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::from_millis(told))
}

async fn read_answer(response: Response<Incoming>, stream: bool, start: Instant, tally: &Tally) -> Result<()> {
    let status = response.status();
    let body = response.into_body();
    if status != StatusCode::OK {
        return read_failure(status, body, tally).await;
    }
    let done = if stream { read_stream(body, start, tally).await? } else { read_whole(body, tally).await? };
    let mut tally = lock(tally);
    tally.latency.record(clock::since(start));
    *tally.statuses.entry(status.as_u16()).or_default() += 1;
    if !done {
        tally.without_done += 1;
        tally.first_failure.get_or_insert_with(|| "a stream ended without [DONE]".to_owned());
    }
    Ok(())
}

async fn read_failure(status: StatusCode, body: Incoming, tally: &Tally) -> Result<()> {
    let bytes = body.collect().await.context("the answer broke off")?.to_bytes();
    let quote = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTE_BYTES)]).into_owned();
    let mut tally = lock(tally);
    *tally.statuses.entry(status.as_u16()).or_default() += 1;
    tally.first_failure.get_or_insert_with(|| format!("{status}: {quote}"));
    Ok(())
}

async fn read_whole(mut body: Incoming, tally: &Tally) -> Result<bool> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.context("the answer broke off")?.data_ref().map_or(0, |data| data.len() as u64);
    }
    lock(tally).body_bytes += bytes;
    Ok(true)
}

/// True when the stream ended with `[DONE]`.
async fn read_stream(mut body: Incoming, start: Instant, tally: &Tally) -> Result<bool> {
    let mut reader = SseReader::default();
    let (mut done, mut first_token_seen, mut last_event) = (false, false, None::<Instant>);
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the stream broke off")?;
        let Some(data) = frame.data_ref() else { continue };
        let now = clock::now();
        let mut tally = lock(tally);
        tally.body_bytes += data.len() as u64;
        reader.feed(data, |event| match event {
            Event::Done => done = true,
            Event::Comment(_) => {}
            Event::Data(data) => {
                tally.events += 1;
                if let Some(last) = last_event.replace(now) {
                    tally.gaps.record(now - last);
                }
                if !first_token_seen && carries_text(data) {
                    first_token_seen = true;
                    tally.first_token.record(now.saturating_duration_since(start));
                }
            }
        });
    }
    Ok(done)
}

// === impl Outcome ===

impl Outcome {
    /// Requests that were answered, with whatever status.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    pub fn requests_per_s(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU time of the measured process per answered request, in microseconds.
    pub fn cpu_us_per_request(&self) -> Option<f64> {
        Some(self.consumed?.cpu.as_secs_f64() * 1e6 / self.answered().max(1) as f64)
    }

    /// How much of one core the measured process used. Near 1 means that it was the bottleneck.
    pub fn cores_busy(&self) -> Option<f64> {
        Some(self.consumed?.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE))
    }

    /// An error unless every single request got a complete answer with status 200.
    pub fn demand_success(&self, of_what: &str) -> Result<()> {
        let succeeded = self.statuses.get(&200).copied().unwrap_or_default();
        if succeeded == 0 {
            bail!("{of_what}: no request succeeded; {}", self.first_failure.as_deref().unwrap_or("none was made"));
        }
        if self.broken > 0 || self.without_done > 0 || succeeded != self.answered() {
            bail!(
                "{of_what}: not every request succeeded: statuses {:?}, {} broken, {} streams without [DONE]; first: {}",
                self.statuses,
                self.broken,
                self.without_done,
                self.first_failure.as_deref().unwrap_or("unknown")
            );
        }
        Ok(())
    }
}

/// A tally stays good even if a task that held it panicked: its numbers are plain counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use crate::canned::{Canned, block_on, serve};

    use super::*;

    fn run(server: Origin, stream: bool, mode: Mode, requests: u64) -> Outcome {
        block_on(async {
            let ask = Ask::post(server, "/", &["tg_x"], "{}", stream).unwrap();
            let pid = Some(std::process::id());
            let load = Load {
                ask,
                mode,
                during: Duration::from_secs(30),
                requests_max: Some(requests),
                pid,
                manners: Manners::default(),
            };
            load.run().await.unwrap()
        })
    }

    fn always(answer: impl Fn() -> Canned + Send + Sync + 'static) -> Origin {
        serve(move |_| answer())
    }

    #[test]
    fn a_closed_loop_sends_exactly_as_many_as_asked() {
        let outcome = run(always(|| Canned::json(200, "{}")), false, Mode::Closed { connections: 4 }, 100);
        outcome.demand_success("test").unwrap();
        assert_eq!((outcome.answered(), outcome.latency.count(), outcome.body_bytes), (100, 100, 200));
        assert!(outcome.cpu_us_per_request().is_some() && outcome.cores_busy().is_some());
    }

    #[test]
    fn many_keys_are_used_in_turn() {
        let origin = always(|| Canned::json(200, "{}"));
        let ask = Ask::post(origin, "/", &["a", "b"], "{}", false).unwrap();
        let used = [(); 3].map(|()| ask.request().headers()[AUTHORIZATION].to_str().unwrap().to_owned());
        assert_eq!(used, ["Bearer a", "Bearer b", "Bearer a"]);
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let mode = Mode::Open { rate_per_s: 1000.0, connections_max: 4 };
        let outcome = run(always(|| Canned::json(200, "{}")), false, mode, 50);
        outcome.demand_success("test").unwrap();
        assert_eq!(outcome.answered(), 50);
        assert!(outcome.elapsed >= Duration::from_millis(49), "{:?}", outcome.elapsed);
    }

    #[test]
    fn a_stream_has_a_first_token_and_gaps() {
        let stream =
            "data: {\"content\":\"\"}\n\ndata: {\"content\":\"a\"}\n\ndata: {\"content\":\"b\"}\n\ndata: [DONE]\n\n";
        let outcome = run(always(move || Canned::json(200, stream)), true, Mode::Closed { connections: 1 }, 3);
        outcome.demand_success("test").unwrap();
        assert_eq!((outcome.first_token.count(), outcome.gaps.count(), outcome.events), (3, 6, 9));
    }

    #[test]
    fn a_stream_without_done_is_a_failure() {
        let outcome = run(always(|| Canned::json(200, "data: {}\n\n")), true, Mode::Closed { connections: 1 }, 2);
        assert_eq!(outcome.without_done, 2);
        assert!(outcome.demand_success("test").unwrap_err().to_string().contains("2 streams without [DONE]"));
    }

    #[test]
    fn one_bad_status_fails_the_run_and_is_quoted() {
        let outcome = run(always(|| Canned::json(503, "busy")), false, Mode::Closed { connections: 2 }, 5);
        assert_eq!(outcome.statuses.get(&503), Some(&5));
        assert!(outcome.demand_success("test").unwrap_err().to_string().contains("busy"));
    }

    #[test]
    fn an_answer_cut_off_is_broken_not_answered() {
        let outcome = run(always(|| Canned::json(200, "{}").cut()), false, Mode::Closed { connections: 1 }, 2);
        assert_eq!((outcome.answered(), outcome.broken), (0, 2));
    }

    #[test]
    fn a_server_that_is_not_there_breaks_every_request() {
        let [port] = crate::process::free_ports().unwrap();
        let outcome = run(Origin::local(port), false, Mode::Closed { connections: 1 }, 2);
        assert_eq!((outcome.answered(), outcome.broken), (0, 2));
        assert!(outcome.demand_success("test").unwrap_err().to_string().contains("cannot connect"));
    }
}
