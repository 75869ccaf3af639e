//! Requests that are sent again under their `Idempotency-Key`, and what may come of that: at most one of all that were
//! sent under a key is charged, an answer comes again byte for byte, and another body is refused once the first was answered.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use http::header::HeaderName;
use http::{HeaderMap, StatusCode};
use rand::Rng;

use super::callers::Ending;
use super::truth::{RequestId, read_id};

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const ORIGINAL: HeaderName = HeaderName::from_static("x-tollgate-original-request-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXAMPLES_MAX: usize = 5;

/// How a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Two at once, each on a connection of its own.
    pub twin: bool,
    /// So often, one after the other, when the first has ended in whatever way.
    pub again: u32,
    /// And then with another body.
    pub reworded: bool,
}

/// What a caller got for one request.
#[derive(Clone, Debug)]
pub struct Heard {
    pub ending: Ending,
    /// The gateway's name for the request that was served: of a replay, the first one's.
    pub served: Option<RequestId>,
    pub replayed: bool,
    /// Of a whole answer.
    pub print: Option<u64>,
}

/// All that was sent under one key.
#[derive(Debug, Default)]
pub struct Story {
    same: Vec<Heard>,
    reworded: Option<Heard>,
}

/// What came of all keys.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    pub keys: u64,
    pub replayed: u64,
    /// 409 for another body, as it must be.
    pub conflicts: u64,
    /// 409 for the same body: it was charged or is in doubt, and its answer is not there.
    pub unanswerable: u64,

    /// Answered whole, and worked on again all the same.
    pub rerun: u64,
    /// Whole answers under one key that are not the same.
    pub differing: u64,
    /// Answered whole, and another body (or the same, for want of money) was not told so.
    pub forgotten: u64,
    /// Keys under which more than one request was served: at most one of each may be charged.
    pub served_twice: Vec<HashSet<RequestId>>,
    pub examples: Vec<String>,
}

// === impl Repeat ===

impl Repeat {
    pub fn draw(rng: &mut impl Rng) -> Self {
        Self { twin: rng.random_bool(0.2), again: rng.random_range(1..=2), reworded: rng.random_bool(0.25) }
    }
}

// === impl Heard ===

impl Heard {
    /// Nothing but how it ended.
    pub fn only(ending: Ending) -> Self {
        Self { ending, served: None, replayed: false, print: None }
    }

    pub fn new(ending: Ending, headers: &HeaderMap) -> Self {
        let id = |name| headers.get(name).and_then(|id| id.to_str().ok()).map(read_id);
        let replayed = headers.get(REPLAYED).is_some_and(|value| value == "true");
        Self { ending, served: id(ORIGINAL).or_else(|| id(REQUEST_ID)), replayed, print: None }
    }

    fn is_whole(&self) -> bool {
        self.ending == Ending::Answered
    }

    /// Whether nothing can have been charged for it.
    fn is_free(&self) -> bool {
        matches!(self.ending, Ending::BudgetExceeded | Ending::Limited)
    }

    /// Whether a request with an event of its own may stand behind it.
    fn may_be_charged(&self) -> bool {
        !self.is_free() && !matches!(self.ending, Ending::Conflict)
    }
}

/// A print of an answer's bytes: equal answers have equal ones.
pub fn print_of(status: StatusCode, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (status.as_u16(), body).hash(&mut hasher);
    hasher.finish()
}

// === impl Story ===

impl Story {
    pub fn note(&mut self, heard: Heard) {
        self.same.push(heard);
    }

    pub fn note_reworded(&mut self, heard: Heard) {
        self.reworded = Some(heard);
    }

    pub fn is_answered(&self) -> bool {
        self.same.iter().any(Heard::is_whole)
    }

    /// Whether anything under this key can have been charged.
    pub fn may_be_charged(&self) -> bool {
        self.all().any(|heard| !heard.is_free())
    }

    fn all(&self) -> impl Iterator<Item = &Heard> {
        self.same.iter().chain(&self.reworded)
    }
}

// === impl Repeats ===

impl Repeats {
    pub fn close(&mut self, key: &str, story: &Story) {
        self.keys += 1;
        self.replayed += story.all().filter(|heard| heard.replayed).count() as u64;
        self.unanswerable += story.same.iter().filter(|heard| heard.ending == Ending::Conflict).count() as u64;
        let whole = || story.same.iter().filter(|heard| heard.is_whole());
        if whole().filter(|heard| !heard.replayed).count() > 1 {
            self.rerun += 1;
            self.quote(|| format!("{key} was answered whole, and run again: {story:?}"));
        }
        let prints: HashSet<u64> = whole().filter_map(|heard| heard.print).collect();
        if prints.len() > 1 {
            self.differing += 1;
            self.quote(|| format!("{key} was answered with different bytes: {story:?}"));
        }
        self.check_memory(key, story);
        let served: HashSet<RequestId> =
            story.all().filter(|heard| heard.may_be_charged()).filter_map(|heard| heard.served).collect();
        if served.len() > 1 {
            self.served_twice.push(served);
        }
    }

    /// Once a whole answer was there, the key is taken for ever.
    fn check_memory(&mut self, key: &str, story: &Story) {
        let from = story.same.iter().position(Heard::is_whole).unwrap_or(story.same.len());
        // A twin that was refused while the other was worked on may have been before it.
        let refused = story.same[from..].iter().any(|heard| heard.ending == Ending::BudgetExceeded);
        let mut taken_for_new = refused;
        if let Some(reworded) = &story.reworded {
            self.conflicts += u64::from(reworded.ending == Ending::Conflict);
            let was_run = reworded.is_whole() || reworded.ending == Ending::BudgetExceeded;
            taken_for_new |= was_run && story.is_answered();
        }
        if taken_for_new {
            self.forgotten += 1;
            self.quote(|| format!("{key} was answered whole, and then taken for a new one: {story:?}"));
        }
    }

    /// How many keys of those that served more than one request were charged for more than one.
    pub fn charged_twice(&self, charged: &HashSet<RequestId>) -> u64 {
        let more_than_one = |ids: &&HashSet<RequestId>| ids.iter().filter(|id| charged.contains(id)).count() > 1;
        self.served_twice.iter().filter(more_than_one).count() as u64
    }

    fn quote(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(id: RequestId, print: u64) -> Heard {
        Heard { served: Some(id), print: Some(print), ..Heard::only(Ending::Answered) }
    }

    fn replay(id: RequestId, print: u64) -> Heard {
        Heard { replayed: true, ..fresh(id, print) }
    }

    fn judged(same: &[Heard], reworded: Option<Heard>) -> Repeats {
        let mut repeats = Repeats::default();
        repeats.close("k", &Story { same: same.to_vec(), reworded });
        repeats
    }

    fn broken(found: &Repeats) -> [u64; 3] {
        [found.rerun, found.differing, found.forgotten]
    }

    #[test]
    fn an_answer_that_comes_again_and_a_conflict_are_as_promised() {
        let found = judged(&[fresh(1, 7), replay(1, 7)], Some(Heard::only(Ending::Conflict)));
        assert_eq!(broken(&found), [0, 0, 0]);
        assert_eq!((found.keys, found.replayed, found.conflicts, found.unanswerable), (1, 1, 1, 0));
        assert!(found.served_twice.is_empty());
    }

    #[test]
    fn what_was_lost_may_be_run_anew_and_what_is_in_doubt_may_be_refused() {
        let lost = Heard::only(Ending::Lost);
        assert_eq!(broken(&judged(&[lost.clone(), fresh(2, 7)], None)), [0, 0, 0]);
        let found = judged(&[lost, Heard::only(Ending::Conflict)], Some(fresh(3, 1)));
        assert_eq!((broken(&found), found.unanswerable), ([0, 0, 0], 1));
    }

    #[test]
    fn each_way_to_break_the_promise_is_seen() {
        assert_eq!(broken(&judged(&[fresh(1, 7), fresh(2, 7)], None)), [1, 0, 0]);
        assert_eq!(broken(&judged(&[fresh(1, 7), replay(1, 8)], None)), [0, 1, 0]);
        assert_eq!(broken(&judged(&[fresh(1, 7)], Some(fresh(2, 9)))), [0, 0, 1]);
        assert_eq!(broken(&judged(&[fresh(1, 7), Heard::only(Ending::BudgetExceeded)], None)), [0, 0, 1]);
    }

    #[test]
    fn a_key_may_be_charged_once_whatever_was_served_under_it() {
        let failed = Heard { served: Some(1), ..Heard::only(Ending::ProviderFailed) };
        let found = judged(&[failed, fresh(2, 7)], None);
        assert_eq!(found.charged_twice(&HashSet::from([2])), 0);
        assert_eq!(found.charged_twice(&HashSet::from([1, 2])), 1);
    }

    #[test]
    fn a_replay_is_told_by_its_header_and_names_the_first_request() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, "req_0000000000000000000000000000000b".parse().unwrap());
        let first = Heard::new(Ending::Answered, &headers);
        assert_eq!((first.served, first.replayed), (Some(11), false));
        headers.insert(ORIGINAL, "req_0000000000000000000000000000000a".parse().unwrap());
        headers.insert(REPLAYED, "true".parse().unwrap());
        let again = Heard::new(Ending::Answered, &headers);
        assert_eq!((again.served, again.replayed), (Some(10), true));
    }

    #[test]
    fn a_print_is_of_every_byte_and_the_status() {
        assert_eq!(print_of(StatusCode::OK, b"ab"), print_of(StatusCode::OK, b"ab"));
        assert_ne!(print_of(StatusCode::OK, b"ab"), print_of(StatusCode::OK, b"ac"));
        assert_ne!(print_of(StatusCode::OK, b"ab"), print_of(StatusCode::ACCEPTED, b"ab"));
    }

    #[test]
    fn only_what_was_refused_outright_is_surely_free() {
        let story = |ending| Story { same: vec![Heard::only(ending)], reworded: None };
        assert!(!story(Ending::BudgetExceeded).may_be_charged());
        assert!(story(Ending::Lost).may_be_charged() && story(Ending::Answered).may_be_charged());
    }
}
