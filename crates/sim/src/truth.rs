//! The truth: what the simulated provider really worked on and would bill, by request id. Every money test compares
//! with it, so it forgets nothing: when it is full (or its file cannot be written) the simulator refuses to work.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde::{Serialize, Serializer};

use crate::dice;
use crate::faults::Fault;
use crate::money::{self, Tokens};

/// Many small maps instead of a large one: growing one never stops the benchmark for long.
const SHARDS: usize = 256;

/// All accounts of one simulator. Cheap to share.
#[derive(Debug)]
pub struct Truth {
    shards: Vec<Mutex<HashMap<Box<str>, Vec<Attempt>>>>,
    attempts: AtomicUsize,
    attempts_max: usize,
    file: Option<Mutex<File>>,
    file_broken: AtomicBool,
}

/// Which endpoint did the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Chat,
    Embeddings,
}

/// One piece of work for one request. A request that is sent again with its id has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The model's name without a fault's.
    pub model: Cow<'static, str>,
    pub kind: Kind,
    pub stream: bool,
    pub tokens: Tokens,
    pub cost_picousd: u128,
    pub fault: Option<Fault>,
    /// The whole answer, with its proper end, was handed to the connection.
    pub complete: bool,
    /// The answer that was handed over told its usage.
    pub usage_sent: bool,
    /// The usage told is not the truth (`wrong-usage`, `absurd-usage`).
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
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
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
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
}

/// The right to work on one request, and the duty to say what came of it: a dropped ticket says that the client left.
#[derive(Debug)]
pub struct Ticket {
    truth: Arc<Truth>,
    request_id: Box<str>,
    /// From 1.
    number: usize,
    pub work: Attempt,
    booked: bool,
    waiting: bool,
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
    pub fn open(attempts_max: usize, file: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            attempts: AtomicUsize::new(0),
            attempts_max,
            file: file.map(append_to).transpose()?.map(Mutex::new),
            file_broken: AtomicBool::new(false),
        })
    }

    /// Opens an attempt under `request_id`.
    pub fn begin(self: &Arc<Self>, request_id: &str, kind: Kind) -> Result<Ticket, Refused> {
        if self.file_broken.load(Ordering::Relaxed) {
            return Err(Refused::FileBroken);
        }
        if self.attempts.fetch_add(1, Ordering::Relaxed) >= self.attempts_max {
            self.attempts.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full { attempts_max: self.attempts_max });
        }
        let mut shard = self.shard(request_id);
        let number = match shard.get_mut(request_id) {
            Some(attempts) => {
                attempts.push(Attempt::begun(kind));
                attempts.len()
            }
            None => {
                shard.insert(request_id.into(), vec![Attempt::begun(kind)]);
                1
            }
        };
        drop(shard);
        Ok(Ticket {
            truth: Arc::clone(self),
            request_id: request_id.into(),
            number,
            work: Attempt::begun(kind),
            booked: false,
            waiting: false,
        })
    }

    pub fn get(&self, request_id: &str) -> Option<Account> {
        self.shard(request_id).get(request_id).map(|attempts| Account::sum(request_id, attempts))
    }

    /// The attempts under one request id, oldest first.
    pub fn attempts(&self, request_id: &str) -> Vec<Attempt> {
        self.shard(request_id).get(request_id).cloned().unwrap_or_default()
    }

    pub fn all(&self) -> Vec<Account> {
        (0..SHARDS).flat_map(|shard| self.accounts_of(shard)).collect()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals { simulated: true, ..Totals::default() };
        for shard in &self.shards {
            for attempts in lock(shard).values() {
                totals.requests += 1;
                attempts.iter().for_each(|attempt| totals.add(attempt));
            }
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

    fn accounts_of(&self, shard: usize) -> Vec<Account> {
        lock(&self.shards[shard]).iter().map(|(id, attempts)| Account::sum(id, attempts)).collect()
    }

    fn book(&self, request_id: &str, number: usize, attempt: &Attempt) {
        if let Some(file) = &self.file {
            self.append(file, request_id, number, attempt);
        }
        self.change(request_id, number, |kept| *kept = attempt.clone());
    }

    fn note_client_gone(&self, request_id: &str, number: usize) {
        self.change(request_id, number, |kept| kept.client_gone = true);
    }

    fn change(&self, request_id: &str, number: usize, change: impl FnOnce(&mut Attempt)) {
        let mut shard = self.shard(request_id);
        let kept = shard.get_mut(request_id).and_then(|attempts| attempts.get_mut(number - 1));
        change(kept.expect("an attempt is in the truth from its first moment and never leaves it"));
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

    fn shard(&self, request_id: &str) -> MutexGuard<'_, HashMap<Box<str>, Vec<Attempt>>> {
        let hash = dice::hash(0, request_id.as_bytes());
        let at = usize::try_from(hash % SHARDS as u64).expect("a number below 256 fits");
        lock(&self.shards[at])
    }
}

#[expect(clippy::disallowed_methods, reason = "the simulator's one file: the truth it is asked to write")]
fn append_to(path: &Path) -> anyhow::Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("cannot append to {}", path.display()))
}

/// A panic elsewhere does not make the numbers wrong: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Attempt ===

impl Attempt {
    fn begun(kind: Kind) -> Self {
        Self {
            model: Cow::Borrowed(""),
            kind,
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
        let sum = |part: fn(&Tokens) -> u64| attempts.iter().map(|attempt| part(&attempt.tokens)).sum();
        Self {
            request_id: request_id.to_owned(),
            model: last.model.clone().into_owned(),
            kind: last.kind,
            stream: last.stream,
            prompt_tokens: sum(|tokens| tokens.prompt),
            cached_tokens: sum(|tokens| tokens.cached),
            completion_tokens: sum(|tokens| tokens.completion),
            reasoning_tokens: sum(|tokens| tokens.reasoning),
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
        self.totals.prompt_tokens += attempt.tokens.prompt;
        self.totals.cached_tokens += attempt.tokens.cached;
        self.totals.completion_tokens += attempt.tokens.completion;
        self.totals.reasoning_tokens += attempt.tokens.reasoning;
        self.cost_picousd += attempt.cost_picousd;
        if let Some(fault) = attempt.fault {
            *self.faults.entry(fault).or_default() += 1;
        }
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
        if self.booked {
            return;
        }
        self.booked = true;
        self.work.in_flight = false;
        self.work.cost_picousd = money::cost_picousd(money::price_of(&self.work.model), self.work.tokens);
        self.truth.book(&self.request_id, self.number, &self.work);
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
            self.truth.note_client_gone(&self.request_id, self.number);
        }
    }
}

/// Picodollars leave as strings of decimal digits: JSON's numbers are doubles to many readers.
fn decimal<S: Serializer>(amount: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(attempts_max: usize) -> Arc<Truth> {
        Arc::new(Truth::open(attempts_max, None).expect("no file"))
    }

    fn work(truth: &Arc<Truth>, id: &str, prompt: u64, completion: u64) {
        let mut ticket = truth.begin(id, Kind::Chat).expect("room");
        ticket.work.model = "gpt-4o-mini".into();
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
        assert_eq!(truth.begin("b", Kind::Chat).map(|_| ()), Err(Refused::Full { attempts_max: 2 }));
        assert_eq!(truth.begin("a", Kind::Chat).map(|_| ()), Err(Refused::Full { attempts_max: 2 }));
        assert_eq!(truth.totals().attempts, 2);
    }

    #[test]
    fn a_dropped_ticket_books_what_was_done_and_says_the_client_left() {
        let truth = truth(2);
        let mut ticket = truth.begin("a", Kind::Chat).expect("room");
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
        let mut ticket = truth.begin("left", Kind::Chat).expect("room");
        ticket.book_and_wait();
        assert!(!truth.get("left").expect("kept").client_gone);
        drop(ticket);
        assert!(truth.get("left").expect("kept").client_gone);

        let mut ticket = truth.begin("hung up", Kind::Chat).expect("room");
        ticket.book_and_wait();
        ticket.hung_up();
        drop(ticket);
        assert!(!truth.get("hung up").expect("kept").client_gone);
    }

    #[test]
    fn every_attempt_is_a_line_in_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("truth.jsonl");
        let truth = Arc::new(Truth::open(10, Some(&path)).expect("a file"));
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
        let truth = Arc::new(Truth::open(10, Some(Path::new("/dev/full"))).expect("a device"));
        work(&truth, "a", 1, 1);
        assert_eq!(truth.begin("b", Kind::Chat).map(|_| ()), Err(Refused::FileBroken));
        assert!(Truth::open(1, Some(Path::new("/nowhere/at/all"))).is_err());
    }
}
