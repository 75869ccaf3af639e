//! The callers of a storm: each asks, reads, perhaps leaves, and asks again until told to stop. What they saw is on the
//! [`Board`].

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::http::{Connection, Origin};
use crate::sse::{Event, SseReader};

use super::errand::{Errand, Kind};
use super::truth::Answered;

/// Longer than the gateway's own timeouts: if this passes, an answer never came.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a caller waits when there is nobody to talk to, so that a restart is not starved of the machine.
const NOBODY_THERE: Duration = Duration::from_millis(20);

/// How a request ended, as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// The whole answer.
    Answered,
    /// A stream that ended in a visible error, or without `[DONE]`.
    StreamBroken,
    /// The caller left.
    Left,
    BudgetExceeded,
    /// 429 for another reason.
    Limited,
    /// 502 or 504.
    ProviderFailed,
    /// 503: not ready, or the books cannot be written.
    Unavailable,
    /// Any other status.
    Unexpected,
    /// The connection was refused or lost.
    Lost,
    /// No answer at all in time.
    Hung,
}

/// What all callers have seen.
#[derive(Debug, Default)]
pub struct Board {
    stopping: AtomicBool,
    in_flight: AtomicU64,
    sent: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
    /// Refusals of each kind since it was last admitted.
    refused_in_row: [AtomicU64; Kind::ALL.len()],
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub endings: BTreeMap<Ending, u64>,
    pub answered: HashSet<Answered>,
    pub first_unexpected: Option<String>,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    pub gateway: Origin,
    pub authorization: HeaderValue,
    pub rng: ChaCha8Rng,
    pub board: Arc<Board>,
}

// === impl Board ===

impl Board {
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Requests that the gateway has decided on.
    pub fn decided(&self) -> u64 {
        self.admitted() + self.refused.load(Ordering::Relaxed)
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        // Counts stay good even if a caller panicked.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before callers are let loose (again).
    pub fn begin(&self) {
        self.stopping.store(false, Ordering::Relaxed);
        self.refused_in_row.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// No caller begins another request.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether every kind has been refused at least so often since it was last admitted.
    pub fn all_refused(&self, times: u64) -> bool {
        self.refused_in_row.iter().all(|count| count.load(Ordering::Relaxed) >= times)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn note_refused(&self, kind: Kind) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.refused_in_row[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn note_admitted(&self, kind: Kind) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
        self.refused_in_row[kind as usize].store(0, Ordering::Relaxed);
    }

    fn note_unexpected(&self, what: impl FnOnce() -> String) {
        self.seen().first_unexpected.get_or_insert_with(what);
    }

    fn note_ending(&self, ending: Ending) {
        *self.seen().endings.entry(ending).or_default() += 1;
    }
}

// === impl Caller ===

impl Caller {
    pub fn new(gateway: Origin, authorization: HeaderValue, seed: u64, board: Arc<Board>) -> Self {
        Self { gateway, authorization, rng: ChaCha8Rng::seed_from_u64(seed), board }
    }

    /// Asks until the board says stop.
    pub async fn run(mut self) {
        let mut connection = None;
        while !self.board.is_stopping() {
            let errand = Errand::draw(&mut self.rng);
            self.board.in_flight.fetch_add(1, Ordering::Relaxed);
            let ending = self.go(&mut connection, &errand).await;
            self.board.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.board.note_ending(ending);
            if matches!(ending, Ending::Lost | Ending::Unavailable | Ending::Limited) {
                let jitter = Duration::from_millis(self.rng.random_range(0..10));
                tokio::time::sleep(NOBODY_THERE + jitter).await;
            }
        }
    }

    /// One errand. Leaving or failing in its middle closes the connection.
    async fn go(&self, connection: &mut Option<Connection>, errand: &Errand) -> Ending {
        let Ok(mut usable) = Connection::reuse(connection.take(), &self.gateway).await else {
            return Ending::Lost;
        };
        self.board.sent.fetch_add(1, Ordering::Relaxed);
        let patience = errand.patience.unwrap_or(ANSWER_WITHIN);
        match tokio::time::timeout(patience, self.ask(&mut usable, errand)).await {
            Ok(Ok(ending)) => {
                *connection = Some(usable);
                ending
            }
            Ok(Err(_)) => Ending::Lost,
            Err(_) if errand.patience.is_some() => Ending::Left,
            Err(_) => {
                self.board.note_unexpected(|| format!("no whole answer within {ANSWER_WITHIN:?} to {}", errand.body));
                Ending::Hung
            }
        }
    }

    async fn ask(&self, connection: &mut Connection, errand: &Errand) -> Result<Ending> {
        let response = connection.send(self.request(errand)?).await?;
        if response.status() == StatusCode::OK {
            self.board.note_admitted(errand.kind);
            return self.read(response, errand.kind).await;
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let ending = Ending::of_failure(status, &body);
        match ending {
            Ending::BudgetExceeded => self.board.note_refused(errand.kind),
            Ending::ProviderFailed => self.board.note_admitted(errand.kind),
            Ending::Limited | Ending::Unavailable => {}
            _ => {
                self.board.note_unexpected(|| format!("{status} {} to {}", String::from_utf8_lossy(&body), errand.body))
            }
        }
        Ok(ending)
    }

    fn request(&self, errand: &Errand) -> Result<Request<Full<Bytes>>> {
        let mut request = self.gateway.request(Method::POST, errand.kind.path(), errand.body.to_string())?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(AUTHORIZATION, self.authorization.clone());
        Ok(request)
    }

    /// Reads an answer with status 200 to its end. A JSON answer that breaks off is an error: the connection is lost.
    async fn read(&self, response: Response<Incoming>, kind: Kind) -> Result<Ending> {
        let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let ending = if kind.is_stream() {
            read_stream(response.into_body()).await
        } else {
            response.into_body().collect().await?;
            Ending::Answered
        };
        if ending == Ending::Answered {
            let request_id = id.context("an answer without x-request-id")?;
            self.board.seen().answered.insert(Answered { request_id, stream: kind.is_stream() });
        }
        Ok(ending)
    }
}

async fn read_stream(mut body: Incoming) -> Ending {
    let mut reader = SseReader::default();
    let mut done = false;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ending::StreamBroken };
        let Some(data) = frame.data_ref() else { continue };
        reader.feed(data, |event| done |= event == Event::Done);
    }
    if done { Ending::Answered } else { Ending::StreamBroken }
}

// === impl Ending ===

impl Ending {
    fn of_failure(status: StatusCode, body: &[u8]) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS if code_of(body).as_deref() == Some("budget_exceeded") => {
                Self::BudgetExceeded
            }
            StatusCode::TOO_MANY_REQUESTS => Self::Limited,
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Self::ProviderFailed,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            _ => Self::Unexpected,
        }
    }
}

fn code_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body["error"]["code"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::canned::{Asked, Canned, block_on, serve};

    use super::*;

    /// One caller against canned answers, until it has asked so often.
    fn storm_of(requests: u64, answer: impl Fn(&Asked) -> Canned + Send + Sync + 'static) -> Arc<Board> {
        let board = Arc::new(Board::default());
        let told = Arc::clone(&board);
        let origin = serve(move |asked| {
            if told.sent() >= requests {
                told.stop();
            }
            answer(&asked)
        });
        let bearer = HeaderValue::from_static("Bearer tg_x");
        block_on(Caller::new(origin, bearer, 1, Arc::clone(&board)).run());
        board
    }

    fn wants_stream(asked: &Asked) -> bool {
        asked.body.contains("\"stream\":true")
    }

    const ID: &str = "x-request-id: req_1";

    #[test]
    fn whole_answers_are_kept_by_their_id() {
        let board = storm_of(40, |asked| {
            assert_eq!(asked.authorization.as_deref(), Some("Bearer tg_x"));
            Canned::with_headers(200, ID, if wants_stream(asked) { "data: {}\n\ndata: [DONE]\n\n" } else { "{}" })
        });
        let seen = board.seen();
        let ids: Vec<&str> = seen.answered.iter().map(|answer| answer.request_id.as_str()).collect();
        assert_eq!(ids, ["req_1", "req_1"], "one stream, one not");
        let known = [Ending::Answered, Ending::Left];
        assert!(seen.endings.keys().all(|ending| known.contains(ending)), "{:?}", seen.endings);
        assert!(board.admitted() > 0 && board.in_flight() == 0);
    }

    #[test]
    fn a_stream_that_breaks_is_no_answer_and_a_json_that_does_is_lost() {
        let board = storm_of(40, |asked| match wants_stream(asked) {
            true => Canned::with_headers(200, ID, "data: {\"error\":{}}\n\n"),
            false => Canned::with_headers(200, ID, "{}").cut(),
        });
        let seen = board.seen();
        assert!(seen.answered.is_empty());
        assert!(seen.endings[&Ending::StreamBroken] > 0 && seen.endings[&Ending::Lost] > 0, "{:?}", seen.endings);
    }

    #[test]
    fn refusals_are_counted_by_kind_and_the_unexpected_is_quoted() {
        let refused = r#"{"error":{"code":"budget_exceeded"}}"#;
        let board = storm_of(200, move |asked| match asked.what.as_str() {
            "POST /v1/embeddings" => Canned::json(418, "teapot"),
            _ => Canned::json(429, refused),
        });
        let seen = board.seen();
        assert!(seen.endings[&Ending::BudgetExceeded] > 0 && seen.endings[&Ending::Unexpected] > 0);
        assert!(seen.first_unexpected.as_ref().unwrap().contains("teapot"));
        assert!(!board.all_refused(1), "embeddings never were");
        assert_eq!((board.admitted(), board.decided()), (0, seen.endings[&Ending::BudgetExceeded]));
    }

    #[test]
    fn only_the_code_tells_a_budget_from_a_limit() {
        let check = |status, body: &str, expected| assert_eq!(Ending::of_failure(status, body.as_bytes()), expected);
        check(StatusCode::TOO_MANY_REQUESTS, r#"{"error":{"code":"budget_exceeded"}}"#, Ending::BudgetExceeded);
        check(StatusCode::TOO_MANY_REQUESTS, r#"{"error":{"code":"rate_limited"}}"#, Ending::Limited);
        check(StatusCode::TOO_MANY_REQUESTS, "budget_exceeded", Ending::Limited);
        check(StatusCode::BAD_GATEWAY, "", Ending::ProviderFailed);
        check(StatusCode::UNAUTHORIZED, "", Ending::Unexpected);
    }

    #[test]
    fn a_cap_is_used_up_when_every_kind_is_refused_in_a_row() {
        let board = Board::default();
        for kind in Kind::ALL {
            assert!(!board.all_refused(2));
            board.note_refused(kind);
            board.note_refused(kind);
        }
        assert!(board.all_refused(2));
        board.note_admitted(Kind::Embedding);
        assert!(!board.all_refused(1));
        board.begin();
        assert!(!board.all_refused(1));
        assert_eq!(board.admitted(), 1);
    }
}
