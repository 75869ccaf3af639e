//! The truth: what the simulated provider really worked on and would bill, by request id. Every money test compares
//! with it, so it forgets nothing: when it is full (or its file cannot be written) the simulator refuses to work. So that
//! millions fit, an attempt is kept packed and unpacked for whoever asks: some 190 bytes a request, its id included.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde::{Serialize, Serializer};

use crate::dice;
use crate::faults::Fault;
use crate::money::{Prices, Tokens};
use crate::timing;

/// Many small maps instead of a large one: growing one never stops the benchmark for long.
const SHARDS: usize = 256;
/// No attempt came before this one.
const NONE: u32 = u32::MAX;

/// All accounts of one simulator. Cheap to share.
#[derive(Debug)]
pub struct Truth {
    shards: Vec<Mutex<Shard>>,
    models: Mutex<Models>,
    prices: Prices,
    attempts: AtomicUsize,
    attempts_max: usize,
    file: Option<Mutex<File>>,
    file_broken: AtomicBool,
}

/// Some of the requests: those whose ids have the same hash.
#[derive(Debug, Default)]
struct Shard {
    /// The latest attempt at each.
    latest: HashMap<Box<str>, u32>,
    attempts: Vec<Kept>,
}

/// An attempt as it is kept: 72 bytes, see `an_attempt_is_kept_in_72_bytes`.
#[derive(Clone, Copy, Debug)]
struct Kept {
    started_us: u64,
    ended_us: u64,
    cost_picousd: u64,
    tokens: [u32; 8],
    model: u32,
    key: u32,
    /// The attempt at the same request before this one, or [`NONE`].
    earlier: u32,
    kind: Kind,
    fault: Option<Fault>,
    flags: u8,
}

/// The names of models, each kept once.
#[derive(Debug, Default)]
struct Models {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

/// Which endpoint did the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Chat,
    Embeddings,
}

/// One piece of work for one request. A request that is sent again with its id has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The model's name without a fault's.
    pub model: Arc<str>,
    pub kind: Kind,
    /// Stands for the key the caller showed: a short hash, no secret.
    pub key: u32,
    /// Microseconds since 1970.
    pub started_us: u64,
    /// When the work was booked, in microseconds since 1970; 0 before that.
    pub ended_us: u64,
    pub stream: bool,
    pub tokens: Tokens,
    pub cost_picousd: u128,
    pub fault: Option<Fault>,
    /// The whole answer, with its proper end, was handed to the connection.
    pub complete: bool,
    /// The answer that was handed over told its usage.
    pub usage_sent: bool,
    /// The usage told is not the truth (`wrong-usage`, `absurd-usage`, `overbills`).
    pub usage_altered: bool,
    /// The client had left before the end.
    pub client_gone: bool,
    /// The work still goes on; the numbers are not there yet.
    pub in_flight: bool,
}

/// One request id: the sum of its attempts; flags are those of the last attempt, `fault` the last there was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    pub request_id: String,
    pub model: String,
    pub kind: Kind,
    pub stream: bool,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub prompt_audio_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub completion_audio_tokens: u64,
    pub accepted_prediction_tokens: u64,
    pub rejected_prediction_tokens: u64,
    #[serde(serialize_with = "decimal")]
    pub cost_picousd: u128,
    pub fault: Option<Fault>,
    pub complete: bool,
    pub usage_sent: bool,
    pub usage_altered: bool,
    pub client_gone: bool,
    pub in_flight: bool,
    pub attempts: usize,
}

/// Sums over all requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub simulated: bool,
    /// Distinct request ids.
    pub requests: u64,
    pub attempts: u64,
    /// Attempts whose work still goes on; their tokens are not in the sums yet.
    pub in_flight: u64,
    pub complete: u64,
    pub totals: TokenTotals,
    #[serde(serialize_with = "decimal")]
    pub cost_picousd: u128,
    /// Attempts by the fault that struck them.
    pub faults: BTreeMap<Fault, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenTotals {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub prompt_audio_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub completion_audio_tokens: u64,
    pub accepted_prediction_tokens: u64,
    pub rejected_prediction_tokens: u64,
}

/// The right to work on one request, and the duty to say what came of it: a dropped ticket says that the client left.
#[derive(Debug)]
pub struct Ticket {
    truth: Arc<Truth>,
    request_id: Box<str>,
    place: Place,
    /// From 1.
    number: usize,
    pub work: Attempt,
    booked: bool,
    waiting: bool,
}

/// Where an attempt is kept.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: usize,
    at: usize,
    model: u32,
}

/// The truth has no room left, or no file to write to: no work may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Full { attempts_max: usize },
    FileBroken,
}

// === impl Truth ===

impl Truth {
    /// Holds at most `attempts_max`; appends each attempt to `file`, if there is one, when its work ends.
    pub fn open(attempts_max: usize, file: Option<&Path>, prices: Prices) -> anyhow::Result<Self> {
        Ok(Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            models: Mutex::default(),
            prices,
            attempts: AtomicUsize::new(0),
            attempts_max,
            file: file.map(append_to).transpose()?.map(Mutex::new),
            file_broken: AtomicBool::new(false),
        })
    }

    /// Opens an attempt under `request_id`.
    pub fn begin(self: &Arc<Self>, request_id: &str, kind: Kind, model: Arc<str>, key: u32) -> Result<Ticket, Refused> {
        if self.file_broken.load(Ordering::Relaxed) {
            return Err(Refused::FileBroken);
        }
        if self.attempts.fetch_add(1, Ordering::Relaxed) >= self.attempts_max {
            self.attempts.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full { attempts_max: self.attempts_max });
        }
        let number_of_model = lock(&self.models).number(&model);
        let work = Attempt::begun(kind, model, key);
        let shard = shard_of(request_id);
        let (at, number) = lock(&self.shards[shard]).begin(request_id, Kept::pack(&work, number_of_model));
        Ok(Ticket {
            truth: Arc::clone(self),
            request_id: request_id.into(),
            place: Place { shard, at, model: number_of_model },
            number,
            work,
            booked: false,
            waiting: false,
        })
    }

    pub fn get(&self, request_id: &str) -> Option<Account> {
        let attempts = self.attempts(request_id);
        (!attempts.is_empty()).then(|| Account::sum(request_id, &attempts))
    }

    /// The attempts under one request id, oldest first.
    pub fn attempts(&self, request_id: &str) -> Vec<Attempt> {
        let shard = lock(&self.shards[shard_of(request_id)]);
        let mut attempts = Vec::new();
        if let Some(latest) = shard.latest.get(request_id) {
            self.unpack(&shard, *latest, &mut attempts);
        }
        attempts
    }

    pub fn all(&self) -> Vec<Account> {
        (0..SHARDS).flat_map(|shard| self.accounts_of(shard)).collect()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals { simulated: true, ..Totals::default() };
        for shard in 0..SHARDS {
            self.each(shard, |_, attempts| {
                totals.requests += 1;
                attempts.iter().for_each(|attempt| totals.add(attempt));
            });
        }
        totals
    }

    /// One of [`Self::shards`] parts of the truth, as lines of JSON.
    pub fn lines_of(&self, shard: usize) -> Vec<u8> {
        let mut lines = Vec::new();
        for account in self.accounts_of(shard) {
            serde_json::to_writer(&mut lines, &account).expect("an account is JSON, and a Vec takes it");
            lines.push(b'\n');
        }
        lines
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Hands over what of a shard was booked in `span` (microseconds since 1970): the request id, which attempt, and it.
    pub fn each_booked(&self, shard: usize, span: &Range<u64>, mut take: impl FnMut(&str, usize, &Attempt)) {
        self.each(shard, |request_id, attempts| {
            for (before, attempt) in attempts.iter().enumerate() {
                if !attempt.in_flight && span.contains(&attempt.ended_us) {
                    take(request_id, before + 1, attempt);
                }
            }
        });
    }

    fn each(&self, shard: usize, mut take: impl FnMut(&str, &[Attempt])) {
        let shard = lock(&self.shards[shard]);
        let mut attempts = Vec::new();
        for (request_id, latest) in &shard.latest {
            self.unpack(&shard, *latest, &mut attempts);
            take(request_id, &attempts);
        }
    }

    /// All attempts at the request of `latest`, oldest first.
    fn unpack(&self, shard: &Shard, latest: u32, attempts: &mut Vec<Attempt>) {
        attempts.clear();
        let mut at = latest;
        while at != NONE {
            let kept = &shard.attempts[at as usize];
            attempts.push(kept.unpack(lock(&self.models).name(kept.model)));
            at = kept.earlier;
        }
        attempts.reverse();
    }

    fn accounts_of(&self, shard: usize) -> Vec<Account> {
        let mut accounts = Vec::new();
        self.each(shard, |request_id, attempts| accounts.push(Account::sum(request_id, attempts)));
        accounts
    }

    fn book(&self, request_id: &str, number: usize, place: Place, attempt: &Attempt) {
        if let Some(file) = &self.file {
            self.append(file, request_id, number, attempt);
        }
        let packed = Kept::pack(attempt, place.model);
        self.change(place, |kept| *kept = Kept { earlier: kept.earlier, ..packed });
    }

    fn change(&self, place: Place, change: impl FnOnce(&mut Kept)) {
        change(&mut lock(&self.shards[place.shard]).attempts[place.at]);
    }

    fn append(&self, file: &Mutex<File>, request_id: &str, number: usize, attempt: &Attempt) {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            account: &'a Account,
            attempt: usize,
        }
        let account = Account::sum(request_id, std::slice::from_ref(attempt));
        let mut line = serde_json::to_vec(&Line { account: &account, attempt: number }).expect("an account is JSON");
        line.push(b'\n');
        if let Err(error) = lock(file).write_all(&line) {
            tracing::error!(%error, "the truth file cannot be written; the simulator refuses further work");
            self.file_broken.store(true, Ordering::Relaxed);
        }
    }
}

fn shard_of(request_id: &str) -> usize {
    let hash = dice::hash(0, request_id.as_bytes());
    usize::try_from(hash % SHARDS as u64).expect("a number below 256 fits")
}

#[expect(clippy::disallowed_methods, reason = "the simulator's one file: the truth it is asked to write")]
fn append_to(path: &Path) -> anyhow::Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("cannot append to {}", path.display()))
}

/// A panic elsewhere does not make the numbers wrong: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shard ===

impl Shard {
    /// Where the attempt is, and which at its request.
    fn begin(&mut self, request_id: &str, mut kept: Kept) -> (usize, usize) {
        let at = self.attempts.len();
        let number = u32::try_from(at).expect("four thousand million attempts do not fit into memory");
        match self.latest.get_mut(request_id) {
            Some(latest) => kept.earlier = std::mem::replace(latest, number),
            None => {
                self.latest.insert(request_id.into(), number);
            }
        }
        self.attempts.push(kept);
        let earlier = |at: &u32| self.attempts.get(*at as usize).map(|kept| kept.earlier);
        (at, std::iter::successors(Some(number), earlier).count() - 1)
    }
}

// === impl Models ===

impl Models {
    fn number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("there are no more names than attempts");
        self.names.push(Arc::clone(name));
        self.numbers.insert(Arc::clone(name), number);
        number
    }

    fn name(&self, number: u32) -> Arc<str> {
        Arc::clone(&self.names[number as usize])
    }
}

// === impl Kept ===

impl Kept {
    const STREAM: u8 = 1;
    const COMPLETE: u8 = 1 << 1;
    const USAGE_SENT: u8 = 1 << 2;
    const USAGE_ALTERED: u8 = 1 << 3;
    const CLIENT_GONE: u8 = 1 << 4;
    const IN_FLIGHT: u8 = 1 << 5;

    fn pack(attempt: &Attempt, model: u32) -> Self {
        let Tokens {
            prompt,
            cached,
            prompt_audio,
            completion,
            reasoning,
            completion_audio,
            accepted_prediction,
            rejected_prediction,
        } = attempt.tokens;
        let flags = [
            (Self::STREAM, attempt.stream),
            (Self::COMPLETE, attempt.complete),
            (Self::USAGE_SENT, attempt.usage_sent),
            (Self::USAGE_ALTERED, attempt.usage_altered),
            (Self::CLIENT_GONE, attempt.client_gone),
            (Self::IN_FLIGHT, attempt.in_flight),
        ];
        Self {
            started_us: attempt.started_us,
            ended_us: attempt.ended_us,
            cost_picousd: u64::try_from(attempt.cost_picousd)
                .expect("prices are bounded so that a request's cost fits"),
            tokens: [
                prompt,
                cached,
                prompt_audio,
                completion,
                reasoning,
                completion_audio,
                accepted_prediction,
                rejected_prediction,
            ]
            .map(|tokens| u32::try_from(tokens).expect("64 MiB of request and 128 answers are fewer tokens than 2^32")),
            model,
            key: attempt.key,
            earlier: NONE,
            kind: attempt.kind,
            fault: attempt.fault,
            flags: flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum(),
        }
    }

    fn unpack(&self, model: Arc<str>) -> Attempt {
        let [
            prompt,
            cached,
            prompt_audio,
            completion,
            reasoning,
            completion_audio,
            accepted_prediction,
            rejected_prediction,
        ] = self.tokens.map(u64::from);
        let has = |flag: u8| self.flags & flag != 0;
        Attempt {
            model,
            kind: self.kind,
            key: self.key,
            started_us: self.started_us,
            ended_us: self.ended_us,
            stream: has(Self::STREAM),
            tokens: Tokens {
                prompt,
                cached,
                prompt_audio,
                completion,
                reasoning,
                completion_audio,
                accepted_prediction,
                rejected_prediction,
            },
            cost_picousd: u128::from(self.cost_picousd),
            fault: self.fault,
            complete: has(Self::COMPLETE),
            usage_sent: has(Self::USAGE_SENT),
            usage_altered: has(Self::USAGE_ALTERED),
            client_gone: has(Self::CLIENT_GONE),
            in_flight: has(Self::IN_FLIGHT),
        }
    }
}

// === impl Attempt ===

impl Attempt {
    fn begun(kind: Kind, model: Arc<str>, key: u32) -> Self {
        Self {
            model,
            kind,
            key,
            started_us: timing::unix_micros(),
            ended_us: 0,
            stream: false,
            tokens: Tokens::default(),
            cost_picousd: 0,
            fault: None,
            complete: false,
            usage_sent: false,
            usage_altered: false,
            client_gone: false,
            in_flight: true,
        }
    }
}

// === impl Account ===

impl Account {
    fn sum(request_id: &str, attempts: &[Attempt]) -> Self {
        let last = attempts.last().expect("no request id is kept without an attempt");
        let mut tokens = Tokens::default();
        attempts.iter().for_each(|attempt| tokens.add(attempt.tokens));
        Self {
            request_id: request_id.to_owned(),
            model: last.model.to_string(),
            kind: last.kind,
            stream: last.stream,
            prompt_tokens: tokens.prompt,
            cached_tokens: tokens.cached,
            prompt_audio_tokens: tokens.prompt_audio,
            completion_tokens: tokens.completion,
            reasoning_tokens: tokens.reasoning,
            completion_audio_tokens: tokens.completion_audio,
            accepted_prediction_tokens: tokens.accepted_prediction,
            rejected_prediction_tokens: tokens.rejected_prediction,
            cost_picousd: attempts.iter().map(|attempt| attempt.cost_picousd).sum(),
            fault: attempts.iter().rev().find_map(|attempt| attempt.fault),
            complete: last.complete,
            usage_sent: last.usage_sent,
            usage_altered: last.usage_altered,
            client_gone: last.client_gone,
            in_flight: attempts.iter().any(|attempt| attempt.in_flight),
            attempts: attempts.len(),
        }
    }
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, attempt: &Attempt) {
        self.attempts += 1;
        self.in_flight += u64::from(attempt.in_flight);
        self.complete += u64::from(attempt.complete);
        self.totals.add(attempt.tokens);
        self.cost_picousd += attempt.cost_picousd;
        if let Some(fault) = attempt.fault {
            *self.faults.entry(fault).or_default() += 1;
        }
    }
}

// === impl TokenTotals ===

impl TokenTotals {
    pub fn add(&mut self, tokens: Tokens) {
        self.prompt_tokens += tokens.prompt;
        self.cached_tokens += tokens.cached;
        self.prompt_audio_tokens += tokens.prompt_audio;
        self.completion_tokens += tokens.completion;
        self.reasoning_tokens += tokens.reasoning;
        self.completion_audio_tokens += tokens.completion_audio;
        self.accepted_prediction_tokens += tokens.accepted_prediction;
        self.rejected_prediction_tokens += tokens.rejected_prediction;
    }
}

// === impl Ticket ===

impl Ticket {
    /// Which attempt at its request this is, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The work has ended: writes it down, priced. What happens to the answer afterwards changes nothing.
    pub fn book(&mut self) {
        self.book_at(timing::unix_micros());
    }

    /// The same at a time that is given.
    pub fn book_at(&mut self, now_us: u64) {
        if self.booked {
            return;
        }
        self.booked = true;
        self.work.in_flight = false;
        // The wall clock may have been set back.
        self.work.ended_us = now_us.max(self.work.started_us);
        self.work.cost_picousd = self.truth.prices.of(&self.work.model).cost_picousd(self.work.tokens);
        self.truth.book(&self.request_id, self.number, self.place, &self.work);
    }

    /// Books work whose answer is being withheld; should the client give up waiting, that is noted.
    pub fn book_and_wait(&mut self) {
        self.book();
        self.waiting = true;
    }

    /// The wait ended without the client: the simulator hung up itself.
    pub fn hung_up(&mut self) {
        self.waiting = false;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.booked {
            self.work.client_gone = true;
            self.book();
        } else if self.waiting {
            self.truth.change(self.place, |kept| kept.flags |= Kept::CLIENT_GONE);
        }
    }
}

/// Picodollars leave as strings of decimal digits: JSON's numbers are doubles to many readers.
pub fn decimal<S: Serializer>(amount: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        Prices::new(&BTreeMap::new(), 100).expect("the list's own")
    }

    fn begin(truth: &Arc<Truth>, id: &str) -> Result<Ticket, Refused> {
        truth.begin(id, Kind::Chat, "gpt-4o-mini".into(), 0)
    }

    fn truth(attempts_max: usize) -> Arc<Truth> {
        Arc::new(Truth::open(attempts_max, None, prices()).expect("no file"))
    }

    fn work(truth: &Arc<Truth>, id: &str, prompt: u64, completion: u64) {
        let mut ticket = begin(truth, id).expect("room");
        ticket.work.tokens = Tokens { prompt, completion, ..Tokens::default() };
        ticket.work.complete = true;
        ticket.book();
    }

    #[test]
    fn attempts_under_one_id_add_up() {
        let truth = truth(10);
        work(&truth, "a", 10, 1);
        work(&truth, "a", 10, 2);
        work(&truth, "b", 5, 5);
        let account = truth.get("a").expect("kept");
        assert_eq!((account.attempts, account.prompt_tokens, account.completion_tokens), (2, 20, 3));
        assert_eq!(account.cost_picousd, 20 * 150_000 + 3 * 600_000);
        assert_eq!(truth.attempts("a").len(), 2);
        let totals = truth.totals();
        assert_eq!((totals.requests, totals.attempts, totals.in_flight), (2, 3, 0));
        assert_eq!(totals.cost_picousd, 25 * 150_000 + 8 * 600_000);
        assert_eq!(truth.all().len(), 2);
    }

    #[test]
    fn a_full_truth_refuses_and_forgets_nothing() {
        let truth = truth(2);
        work(&truth, "a", 1, 1);
        work(&truth, "a", 1, 1);
        assert_eq!(begin(&truth, "b").map(|_| ()), Err(Refused::Full { attempts_max: 2 }));
        assert_eq!(begin(&truth, "a").map(|_| ()), Err(Refused::Full { attempts_max: 2 }));
        assert_eq!(truth.totals().attempts, 2);
    }

    #[test]
    fn a_dropped_ticket_books_what_was_done_and_says_the_client_left() {
        let truth = truth(2);
        let mut ticket = begin(&truth, "a").expect("room");
        ticket.work.tokens.completion = 7;
        assert!(truth.get("a").expect("kept").in_flight);
        drop(ticket);
        let account = truth.get("a").expect("kept");
        assert!(account.client_gone && !account.complete && !account.in_flight);
        assert_eq!(account.completion_tokens, 7);
    }

    #[test]
    fn a_client_that_stops_waiting_for_a_withheld_answer_is_noted() {
        let truth = truth(2);
        let mut ticket = begin(&truth, "left").expect("room");
        ticket.book_and_wait();
        assert!(!truth.get("left").expect("kept").client_gone);
        drop(ticket);
        assert!(truth.get("left").expect("kept").client_gone);

        let mut ticket = begin(&truth, "hung up").expect("room");
        ticket.book_and_wait();
        ticket.hung_up();
        drop(ticket);
        assert!(!truth.get("hung up").expect("kept").client_gone);
    }

    #[test]
    fn every_attempt_is_a_line_in_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("truth.jsonl");
        let truth = Arc::new(Truth::open(10, Some(&path), prices()).expect("a file"));
        work(&truth, "a", 10, 1);
        work(&truth, "a", 10, 2);
        let text = std::fs::read_to_string(&path).expect("written");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["attempt"], 2);
        assert_eq!(lines[1]["completion_tokens"], 2);
        assert_eq!(lines[1]["cost_picousd"], "2700000");
    }

    #[test]
    fn a_file_that_cannot_be_written_stops_the_work() {
        let truth = Arc::new(Truth::open(10, Some(Path::new("/dev/full")), prices()).expect("a device"));
        work(&truth, "a", 1, 1);
        assert_eq!(begin(&truth, "b").map(|_| ()), Err(Refused::FileBroken));
        assert!(Truth::open(1, Some(Path::new("/nowhere/at/all")), prices()).is_err());
    }

    #[test]
    fn an_attempt_is_kept_in_72_bytes() {
        assert_eq!(size_of::<Kept>(), 72);
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let mut attempt = Attempt::begun(Kind::Embeddings, "m".into(), 7);
        for round in 0..64_u64 {
            let bit = |at: u64| round >> at & 1 == 1;
            attempt.tokens = Tokens {
                prompt: round,
                cached: round + 1,
                prompt_audio: round + 2,
                completion: round + 3,
                reasoning: round + 4,
                completion_audio: round + 5,
                accepted_prediction: round + 6,
                rejected_prediction: u64::from(u32::MAX),
            };
            (attempt.stream, attempt.complete, attempt.usage_sent) = (bit(0), bit(1), bit(2));
            (attempt.usage_altered, attempt.client_gone, attempt.in_flight) = (bit(3), bit(4), bit(5));
            (attempt.fault, attempt.cost_picousd) = (Some(Fault::Cut).filter(|_| bit(0)), u128::from(u64::MAX - round));
            (attempt.started_us, attempt.ended_us) = (round, round * 2);
            assert_eq!(Kept::pack(&attempt, 3).unpack("m".into()), attempt);
        }
    }

    #[test]
    fn what_was_booked_is_found_by_its_time() {
        let truth = truth(10);
        let mut first = begin(&truth, "a").expect("room");
        let (began, _in_flight) = (first.work.started_us, begin(&truth, "a").expect("room"));
        first.book_at(began + 1_000);
        begin(&truth, "a").expect("room").book_at(began + 2_000);
        let found = |span: Range<u64>| {
            let mut found = Vec::new();
            (0..truth.shards())
                .for_each(|shard| truth.each_booked(shard, &span, |id, number, _| found.push((id.to_owned(), number))));
            found
        };
        assert_eq!(found(began + 1_000..began + 2_000), [("a".to_owned(), 1)]);
        assert_eq!(found(began..began + 2_001), [("a".to_owned(), 1), ("a".to_owned(), 3)]);
        assert_eq!(found(0..began), []);
    }
}
