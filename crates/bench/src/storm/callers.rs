//! The callers of a storm: each asks for a tenant, reads, perhaps leaves, perhaps sends the same again, and goes on until
//! its tenants are used up. What they saw is on the tenants' [`Board`]s and with the [`Crowd`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::http::{Connection, Origin};
use crate::sse::{Event, SseReader};

use super::errand::{Errand, Kind};
use super::repeat::{Heard, IDEMPOTENCY_KEY, Repeat, Repeats, Story, print_of};
use super::tenants::{REPEATS_PERCENT, Tenant};
use super::truth::Answered;

/// Longer than the gateway's own timeouts: if this passes, an answer never came.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Who cannot connect for so long talks to nobody.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a caller waits when there is nobody to talk to, so that a restart is not starved of the machine.
const NOBODY_THERE: Duration = Duration::from_millis(20);
/// So often a request is sent again to a gateway that is not there.
const TRIES_MAX: usize = 100;
const END_USER: HeaderName = HeaderName::from_static("x-tollgate-end-user");

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
    /// 409: the idempotency key is another request's, or its answer is not there.
    Conflict,
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

/// What the callers of one tenant have seen.
#[derive(Debug)]
pub struct Board {
    pub tenant: Tenant,
    admitted: AtomicU64,
    /// Refusals of each kind since it was last admitted.
    refused_in_row: [AtomicU64; Kind::ALL.len()],
    /// The same of the cheapest kind alone, by key and by end user: their caps are not used up at the same time.
    cheapest_refused: [[AtomicU64; 2]; 2],
    is_closed: AtomicBool,
    /// Idempotency keys under which something may have been charged.
    keys_charged_max: AtomicU64,
}

/// What all callers share.
#[derive(Debug)]
pub struct Crowd {
    pub gateway: Origin,
    pub boards: Vec<Board>,
    pub lanes: usize,
    /// Whether requests are sent with idempotency keys, and again.
    pub repeats: bool,
    /// Each kind of request must be refused so often in a row before a tenant counts as used up.
    pub refusals_in_row: u64,
    in_flight: AtomicU64,
    sent: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub endings: BTreeMap<Ending, u64>,
    pub answered: Answered,
    pub repeats: Repeats,
    pub first_unexpected: Option<String>,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    crowd: Arc<Crowd>,
    rng: ChaCha8Rng,
    /// The tenant it asks for, by number.
    place: usize,
}

/// In whose name one request is sent.
#[derive(Clone, Copy, Debug)]
struct Guise<'a> {
    board: &'a Board,
    repeats: bool,
    end_user: usize,
    idempotency_key: Option<&'a str>,
}

// === impl Board ===

impl Board {
    pub fn new(tenant: Tenant) -> Self {
        Self {
            tenant,
            admitted: AtomicU64::default(),
            refused_in_row: Default::default(),
            cheapest_refused: Default::default(),
            is_closed: AtomicBool::new(true),
            keys_charged_max: AtomicU64::default(),
        }
    }

    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    /// At most so many events may be charged to the tenant's key for repeats.
    pub fn keys_charged_max(&self) -> u64 {
        self.keys_charged_max.load(Ordering::Relaxed)
    }

    /// Callers may come (again).
    pub fn open(&self) {
        let counts = self.refused_in_row.iter().chain(self.cheapest_refused.iter().flatten());
        counts.for_each(|count| count.store(0, Ordering::Relaxed));
        self.is_closed.store(false, Ordering::Relaxed);
    }

    /// No caller begins another request.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Whether every kind has been refused at least so often since it was last admitted, and the cheapest whoever asked.
    fn is_used_up(&self, times: u64) -> bool {
        let enough = |count: &AtomicU64| count.load(Ordering::Relaxed) >= times;
        self.refused_in_row.iter().chain(self.cheapest_refused.iter().flatten()).all(enough)
    }

    fn note_refused(&self, kind: Kind, guise: &Guise) {
        for count in self.counts(kind, guise) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_admitted(&self, kind: Kind, guise: &Guise) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
        self.counts(kind, guise).for_each(|count| count.store(0, Ordering::Relaxed));
    }

    fn counts(&self, kind: Kind, guise: &Guise) -> impl Iterator<Item = &AtomicU64> {
        let [keys, end_users] = &self.cheapest_refused;
        let of_cheapest = [&keys[usize::from(guise.repeats)], &end_users[guise.end_user]];
        let of_cheapest = of_cheapest.into_iter().filter(move |_| kind == Kind::Embedding);
        std::iter::once(&self.refused_in_row[kind as usize]).chain(of_cheapest)
    }
}

// === impl Crowd ===

impl Crowd {
    pub fn new(gateway: Origin, tenants: Vec<Tenant>, lanes: usize, refusals_in_row: u64) -> Self {
        Self {
            gateway,
            boards: tenants.into_iter().map(Board::new).collect(),
            lanes,
            repeats: false,
            refusals_in_row,
            in_flight: AtomicU64::default(),
            sent: AtomicU64::default(),
            admitted: AtomicU64::default(),
            refused: AtomicU64::default(),
            seen: Mutex::default(),
        }
    }

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

    pub fn open_tenants(&self) -> usize {
        self.boards.iter().filter(|board| !board.is_closed()).count()
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        // Counts stay good even if a caller panicked.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This tenant if it is not used up, else the next that is not.
    fn find_open(&self, place: usize) -> Option<usize> {
        let count = self.boards.len();
        let mut places = (place..place + count).map(|place| place % count);
        places.find(|place| !self.boards[*place].is_closed())
    }

    fn note_refused(&self, kind: Kind, guise: &Guise) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        guise.board.note_refused(kind, guise);
        if guise.board.is_used_up(self.refusals_in_row) {
            guise.board.close();
        }
    }

    fn note_admitted(&self, kind: Kind, guise: &Guise) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
        guise.board.note_admitted(kind, guise);
    }

    fn note_unexpected(&self, what: impl FnOnce() -> String) {
        self.seen().first_unexpected.get_or_insert_with(what);
    }
}

// === impl Caller ===

impl Caller {
    pub fn new(crowd: Arc<Crowd>, seed: u64, place: usize) -> Self {
        Self { crowd, rng: ChaCha8Rng::seed_from_u64(seed), place }
    }

    /// Asks until every tenant is used up.
    pub async fn run(mut self) {
        let crowd = Arc::clone(&self.crowd);
        let mut connection = None;
        while let Some(place) = crowd.find_open(self.place) {
            self.place = place;
            let board = &crowd.boards[place];
            let errand = Errand::draw(&mut self.rng, crowd.lanes);
            let end_user = board.tenant.draw_end_user(&mut self.rng);
            let repeats = self.rng.random_range(0..100) < REPEATS_PERCENT;
            let guise = Guise { board, repeats, end_user, idempotency_key: None };
            let ending = if repeats && crowd.repeats {
                self.send_and_repeat(&mut connection, &errand, guise).await
            } else {
                self.send(&mut connection, &errand, guise).await.ending
            };
            if matches!(ending, Ending::Lost | Ending::Unavailable | Ending::Limited) {
                self.wait_for_somebody().await;
            }
        }
    }

    /// Whether the gateway knows what an `Idempotency-Key` is: an answer comes again, or is refused to come.
    pub async fn finds_keys_known(mut self) -> Result<bool> {
        let crowd = Arc::clone(&self.crowd);
        let board = &crowd.boards[0];
        for _ in 0..TRIES_MAX {
            let errand = Errand::draw(&mut self.rng, crowd.lanes).patient();
            let key = format!("storm-{:032x}", self.rng.random::<u128>());
            let guise = Guise { board, repeats: true, end_user: 0, idempotency_key: Some(&key) };
            let mut connection = None;
            board.keys_charged_max.fetch_add(1, Ordering::Relaxed);
            if self.send(&mut connection, &errand, guise).await.ending == Ending::Answered {
                let again = self.send(&mut connection, &errand, guise).await;
                return Ok(again.replayed || again.ending == Ending::Conflict);
            }
        }
        bail!("of {TRIES_MAX} requests not one was answered: {:?}", crowd.seen().endings)
    }

    async fn wait_for_somebody(&mut self) {
        let jitter = Duration::from_millis(self.rng.random_range(0..10));
        tokio::time::sleep(NOBODY_THERE + jitter).await;
    }

    /// An errand under a key of its own, and then again.
    async fn send_and_repeat(
        &mut self,
        connection: &mut Option<Connection>,
        errand: &Errand,
        guise: Guise<'_>,
    ) -> Ending {
        let repeat = Repeat::draw(&mut self.rng);
        let key = format!("storm-{:032x}", self.rng.random::<u128>());
        let guise = Guise { idempotency_key: Some(&key), ..guise };
        let mut story = Story::default();
        let first = if repeat.twin {
            let mut twins_own = None;
            let twin = errand.patient();
            let (first, twin) =
                tokio::join!(self.send(connection, errand, guise), self.send(&mut twins_own, &twin, guise));
            // Which of them came first is not known: one that was refused is taken to be.
            let (before, after) =
                if first.ending == Ending::Answered { (twin, first.clone()) } else { (first.clone(), twin) };
            story.note(before);
            story.note(after);
            first.ending
        } else {
            let first = self.send(connection, errand, guise).await;
            story.note(first.clone());
            first.ending
        };
        for _ in 0..repeat.again {
            let again = self.send_to_somebody(connection, &errand.patient(), guise).await;
            story.note(again);
        }
        if repeat.reworded {
            let reworded = self.send_to_somebody(connection, &errand.reworded(), guise).await;
            story.note_reworded(reworded);
        }
        if story.may_be_charged() {
            guise.board.keys_charged_max.fetch_add(1, Ordering::Relaxed);
        }
        self.crowd.seen().repeats.close(&key, &story);
        first
    }

    /// Sends until somebody is there to hear it: what was lost on the way may have been heard all the same.
    async fn send_to_somebody(
        &mut self,
        connection: &mut Option<Connection>,
        errand: &Errand,
        guise: Guise<'_>,
    ) -> Heard {
        let mut heard = self.send(connection, errand, guise).await;
        for _ in 0..TRIES_MAX {
            if heard.ending != Ending::Lost {
                break;
            }
            self.wait_for_somebody().await;
            heard = self.send(connection, errand, guise).await;
        }
        heard
    }

    /// One request. Leaving or failing in its middle closes the connection.
    async fn send(&self, connection: &mut Option<Connection>, errand: &Errand, guise: Guise<'_>) -> Heard {
        self.crowd.in_flight.fetch_add(1, Ordering::Relaxed);
        let heard = self.go(connection, errand, guise).await;
        self.crowd.in_flight.fetch_sub(1, Ordering::Relaxed);
        *self.crowd.seen().endings.entry(heard.ending).or_default() += 1;
        heard
    }

    async fn go(&self, connection: &mut Option<Connection>, errand: &Errand, guise: Guise<'_>) -> Heard {
        let connecting = Connection::reuse(connection.take(), &self.crowd.gateway);
        let Ok(Ok(mut usable)) = tokio::time::timeout(CONNECT_WITHIN, connecting).await else {
            return Heard::only(Ending::Lost);
        };
        self.crowd.sent.fetch_add(1, Ordering::Relaxed);
        let patience = errand.patience.unwrap_or(ANSWER_WITHIN);
        match tokio::time::timeout(patience, self.ask(&mut usable, errand, guise)).await {
            Ok(Ok(heard)) => {
                *connection = Some(usable);
                heard
            }
            Ok(Err(_)) => Heard::only(Ending::Lost),
            Err(_) if errand.patience.is_some() => Heard::only(Ending::Left),
            Err(_) => {
                self.crowd.note_unexpected(|| format!("no whole answer within {ANSWER_WITHIN:?} to {}", errand.body));
                Heard::only(Ending::Hung)
            }
        }
    }

    async fn ask(&self, connection: &mut Connection, errand: &Errand, guise: Guise<'_>) -> Result<Heard> {
        let response = connection.send(self.request(errand, guise)?).await?;
        let status = response.status();
        let mut heard = Heard::new(Ending::StreamBroken, response.headers());
        if status == StatusCode::OK {
            if !heard.replayed {
                self.crowd.note_admitted(errand.kind, &guise);
            }
            self.read(response, errand.kind, &mut heard).await?;
            return Ok(heard);
        }
        let body = response.into_body().collect().await?.to_bytes();
        heard.ending = Ending::of_failure(status, &body);
        match heard.ending {
            Ending::BudgetExceeded => self.crowd.note_refused(errand.kind, &guise),
            Ending::ProviderFailed => self.crowd.note_admitted(errand.kind, &guise),
            Ending::Limited | Ending::Unavailable => {}
            Ending::Conflict if guise.idempotency_key.is_some() => {}
            _ => {
                let body = String::from_utf8_lossy(&body);
                self.crowd.note_unexpected(|| format!("{status} {body} to {}", errand.body));
            }
        }
        Ok(heard)
    }

    fn request(&self, errand: &Errand, guise: Guise<'_>) -> Result<Request<Full<Bytes>>> {
        let mut request = self.crowd.gateway.request(Method::POST, errand.kind.path(), errand.body.to_string())?;
        let tenant = &guise.board.tenant;
        let key = if guise.repeats { &tenant.repeats } else { &tenant.plain };
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, key.authorization.clone());
        headers.insert(END_USER, HeaderValue::from_static(tenant.end_users[guise.end_user]));
        if let Some(key) = guise.idempotency_key {
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::try_from(key).context("an idempotency key is a header")?);
        }
        Ok(request)
    }

    /// Reads an answer with status 200 to its end. A JSON answer that breaks off is an error: the connection is lost.
    async fn read(&self, response: Response<Incoming>, kind: Kind, heard: &mut Heard) -> Result<()> {
        let status = response.status();
        let (ending, body) = if kind.is_stream() {
            read_stream(response.into_body()).await
        } else {
            (Ending::Answered, response.into_body().collect().await?.to_bytes().into())
        };
        heard.ending = ending;
        if ending == Ending::Answered {
            let served = heard.served.context("an answer without x-request-id")?;
            heard.print = Some(print_of(status, &body));
            self.crowd.seen().answered.insert(served, kind.is_stream());
        }
        Ok(())
    }
}

/// How a stream ended, and all of it.
async fn read_stream(mut body: Incoming) -> (Ending, Vec<u8>) {
    let mut reader = SseReader::default();
    let (mut done, mut whole) = (false, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (Ending::StreamBroken, whole) };
        let Some(data) = frame.data_ref() else { continue };
        whole.extend_from_slice(data);
        reader.feed(data, |event| done |= event == Event::Done);
    }
    (if done { Ending::Answered } else { Ending::StreamBroken }, whole)
}

// === impl Ending ===

impl Ending {
    fn of_failure(status: StatusCode, body: &[u8]) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS if code_of(body).as_deref() == Some("budget_exceeded") => {
                Self::BudgetExceeded
            }
            StatusCode::CONFLICT if code_of(body).as_deref() == Some("idempotency_conflict") => Self::Conflict,
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

    use super::super::tenants::Key;
    use super::*;

    fn crowd(gateway: Origin, refusals_in_row: u64) -> Crowd {
        let key = |value| Key { id: "k".to_owned(), authorization: HeaderValue::from_static(value) };
        let (plain, repeats) = (key("Bearer tg_x"), key("Bearer tg_repeats"));
        let tenant = Tenant { id: "t".to_owned(), plan: 0, plain, repeats, end_users: ["ann", "bob"] };
        Crowd::new(gateway, vec![tenant], 2, refusals_in_row)
    }

    /// One caller against canned answers, until the crowd has asked so often.
    fn storm_of(
        requests: usize,
        repeats: bool,
        answer: impl Fn(&Asked) -> Canned + Send + Sync + 'static,
    ) -> Arc<Crowd> {
        let stopping = Arc::new(AtomicU64::default());
        let asked_so_often = Arc::clone(&stopping);
        let origin = serve(move |asked| {
            asked_so_often.fetch_add(1, Ordering::Relaxed);
            answer(&asked)
        });
        let crowd = Arc::new(Crowd { repeats, ..crowd(origin, 1_000_000) });
        crowd.boards[0].open();
        let stop = async {
            while stopping.load(Ordering::Relaxed) < requests as u64 {
                tokio::task::yield_now().await;
            }
            crowd.boards[0].close();
        };
        block_on(async { tokio::join!(Caller::new(Arc::clone(&crowd), 1, 0).run(), stop) });
        crowd
    }

    fn wants_stream(asked: &Asked) -> bool {
        asked.body.contains("\"stream\":true")
    }

    const ID: &str = "x-request-id: req_00000000000000000000000000000001";
    const WHOLE_STREAM: &str = "data: {}\n\ndata: [DONE]\n\n";

    #[test]
    fn whole_answers_are_kept_by_their_id() {
        let crowd = storm_of(40, false, |asked| {
            let known = ["Bearer tg_x", "Bearer tg_repeats"].map(Some);
            assert!(known.contains(&asked.authorization.as_deref()) && asked.idempotency_key.is_none());
            Canned::with_headers(200, ID, if wants_stream(asked) { WHOLE_STREAM } else { "{}" })
        });
        let seen = crowd.seen();
        assert_eq!(seen.answered.keys().copied().collect::<Vec<_>>(), [1]);
        let known = [Ending::Answered, Ending::Left];
        assert!(seen.endings.keys().all(|ending| known.contains(ending)), "{:?}", seen.endings);
        assert!(crowd.admitted() > 0 && crowd.in_flight() == 0 && crowd.boards[0].admitted() == crowd.admitted());
    }

    #[test]
    fn a_stream_that_breaks_is_no_answer_and_a_json_that_does_is_lost() {
        let crowd = storm_of(40, false, |asked| match wants_stream(asked) {
            true => Canned::with_headers(200, ID, "data: {\"error\":{}}\n\n"),
            false => Canned::with_headers(200, ID, "{}").cut(),
        });
        let seen = crowd.seen();
        assert!(seen.answered.is_empty());
        assert!(seen.endings[&Ending::StreamBroken] > 0 && seen.endings[&Ending::Lost] > 0, "{:?}", seen.endings);
    }

    #[test]
    fn refusals_are_counted_by_kind_and_the_unexpected_is_quoted() {
        let refused = r#"{"error":{"code":"budget_exceeded"}}"#;
        let crowd = storm_of(200, false, move |asked| match asked.what.as_str() {
            "POST /v1/embeddings" => Canned::json(418, "teapot"),
            _ => Canned::json(429, refused),
        });
        let seen = crowd.seen();
        assert!(seen.endings[&Ending::BudgetExceeded] > 0 && seen.endings[&Ending::Unexpected] > 0);
        assert!(seen.first_unexpected.as_ref().unwrap().contains("teapot"));
        assert!(!crowd.boards[0].is_used_up(1), "embeddings never were refused");
        assert_eq!((crowd.admitted(), crowd.decided()), (0, seen.endings[&Ending::BudgetExceeded]));
    }

    #[test]
    fn a_gateway_that_answers_each_key_once_and_then_again_keeps_the_promise() {
        let replay = format!("{ID}\r\nidempotent-replayed: true");
        let first_asked = Mutex::new(BTreeMap::<String, String>::new());
        let crowd = storm_of(200, true, move |asked| {
            let Some(key) = asked.idempotency_key.clone() else { return Canned::with_headers(200, ID, "{}") };
            assert_eq!(asked.authorization.as_deref(), Some("Bearer tg_repeats"));
            let mut first_asked = first_asked.lock().unwrap();
            let body = if wants_stream(asked) { WHOLE_STREAM } else { "{}" };
            match first_asked.get(&key) {
                None => {
                    first_asked.insert(key, asked.body.clone());
                    Canned::with_headers(200, ID, body)
                }
                Some(first) if *first == asked.body => Canned::with_headers(200, &replay, body),
                Some(_) => Canned::json(409, r#"{"error":{"code":"idempotency_conflict"}}"#),
            }
        });
        let repeats = crowd.seen().repeats.clone();
        assert!(repeats.keys > 5 && repeats.replayed > 5 && repeats.conflicts > 0, "{repeats:?}");
        assert_eq!((repeats.rerun, repeats.differing, repeats.forgotten), (0, 0, 0), "{repeats:?}");
        assert_eq!(crowd.boards[0].keys_charged_max(), repeats.keys);
    }

    #[test]
    fn a_gateway_that_ignores_keys_is_found_out() {
        let crowd = storm_of(200, true, |asked| {
            Canned::with_headers(200, ID, if wants_stream(asked) { WHOLE_STREAM } else { "{}" })
        });
        let repeats = crowd.seen().repeats.clone();
        assert!(repeats.rerun > 0 && repeats.forgotten > 0, "{repeats:?}");
        assert!(!repeats.examples.is_empty());
    }

    #[test]
    fn only_the_code_tells_a_budget_from_a_limit() {
        let check = |status, body: &str, expected| assert_eq!(Ending::of_failure(status, body.as_bytes()), expected);
        check(StatusCode::TOO_MANY_REQUESTS, r#"{"error":{"code":"budget_exceeded"}}"#, Ending::BudgetExceeded);
        check(StatusCode::TOO_MANY_REQUESTS, r#"{"error":{"code":"rate_limited"}}"#, Ending::Limited);
        check(StatusCode::TOO_MANY_REQUESTS, "budget_exceeded", Ending::Limited);
        check(StatusCode::CONFLICT, r#"{"error":{"code":"idempotency_conflict"}}"#, Ending::Conflict);
        check(StatusCode::CONFLICT, "", Ending::Unexpected);
        check(StatusCode::BAD_GATEWAY, "", Ending::ProviderFailed);
        check(StatusCode::UNAUTHORIZED, "", Ending::Unexpected);
    }

    #[test]
    fn a_tenant_is_used_up_when_every_kind_and_whoever_asks_is_refused_in_a_row() {
        let crowd = crowd(Origin::local(1), 1);
        let board = &crowd.boards[0];
        let guise = |repeats, end_user| Guise { board, repeats, end_user, idempotency_key: None };
        board.open();
        for kind in Kind::ALL {
            assert!(!board.is_used_up(1));
            crowd.note_refused(kind, &guise(false, 0));
        }
        assert!(!board.is_used_up(1), "the other end user was not refused");
        crowd.note_refused(Kind::Embedding, &guise(false, 1));
        assert!(!board.is_used_up(1) && !board.is_closed(), "the other key was not refused");
        crowd.note_refused(Kind::Embedding, &guise(true, 1));
        assert!(board.is_used_up(1) && board.is_closed());
        crowd.note_admitted(Kind::Embedding, &guise(true, 1));
        assert!(!board.is_used_up(1) && crowd.admitted() == 1);
        assert_eq!(crowd.find_open(0), None, "closed until it is opened again");
        board.open();
        assert_eq!((crowd.find_open(0), crowd.open_tenants()), (Some(0), 1));
    }
}
