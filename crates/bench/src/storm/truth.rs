//! The books of the gateway against the books of the provider, request by request. Pure.
//!
//! Events come one after the other and are not kept: what stays is a line for each request that the provider knows.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;

use crate::admin::{Confidence, Picousd, State, UsageEvent};

/// How many broken promises are quoted.
const EXAMPLES_MAX: usize = 10;

/// A request's id in 16 bytes: its own number, or for an id of another form a hash of it.
pub type RequestId = u128;

/// A line of what the provider worked on.
#[derive(Clone, Debug, Deserialize)]
pub struct TrueLine {
    pub request_id: String,
    pub cost_picousd: Picousd,
    pub fault: Option<String>,
    /// The work still goes on.
    #[serde(default)]
    pub in_flight: bool,
    /// The provider told a usage that is not the truth: the gateway cannot know better.
    #[serde(default)]
    pub usage_altered: bool,
}

/// What the provider bills for one request.
#[derive(Clone, Debug)]
struct TrueCost {
    cost_picousd: i128,
    fault: Option<Box<str>>,
    usage_altered: bool,
    is_booked: bool,
}

/// All that the provider bills.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    costs: HashMap<RequestId, TrueCost>,
    pub in_flight: u64,
}

/// What reached the callers whole, by request: whether it was a stream.
pub type Answered = HashMap<RequestId, bool>;

/// What the books must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standard {
    /// Measured events equal the truth, others are bounds of it.
    #[default]
    Bounded,
    /// The books were reconciled: all equal the truth.
    Equal,
}

/// What the comparison found. The first group counts, the second must be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub events: u64,
    pub measured: u64,
    pub bounded: u64,
    pub indeterminate: u64,
    pub voided: u64,
    pub measured_picousd: i128,
    pub bounded_picousd: i128,
    pub indeterminate_picousd: i128,
    /// What the provider bills for all of them.
    pub billed_picousd: i128,
    /// Beyond the holds: ours to bear.
    pub overrun_picousd: i128,

    /// The provider bills it and no event knows of it.
    pub lost: u64,
    /// Events beyond the first for one request.
    pub twice: u64,
    /// Events whose cost is not what their confidence promises.
    pub mismatched: u64,
    /// Events still pending.
    pub pending: u64,
    /// Whole answers without a posted event: the event must be durable before the last byte leaves.
    pub answered_unposted: u64,
    /// Streams that ended with `[DONE]` though the provider's broke off.
    pub false_ends: u64,
    pub examples: Vec<String>,
}

/// A comparison under way.
#[derive(Debug)]
pub struct Audit {
    standard: Standard,
    truth: Truth,
    /// Whose posted event was not seen yet.
    unposted: Answered,
    /// Events that the provider knows nothing of.
    unbilled: HashSet<RequestId>,
    found: Comparison,
}

/// `req_` and 32 hexadecimal digits.
pub fn read_id(text: &str) -> RequestId {
    let digits = text.strip_prefix("req_").unwrap_or(text);
    u128::from_str_radix(digits, 16).unwrap_or_else(|_| {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, text).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    })
}

// === impl Truth ===

impl Truth {
    pub fn note(&mut self, line: TrueLine) {
        self.in_flight += u64::from(line.in_flight);
        let cost = TrueCost {
            cost_picousd: line.cost_picousd.0,
            fault: line.fault.map(String::into_boxed_str),
            usage_altered: line.usage_altered,
            is_booked: false,
        };
        self.costs.insert(read_id(&line.request_id), cost);
    }
}

// === impl Audit ===

impl Audit {
    pub fn new(standard: Standard, truth: Truth, answered: Answered) -> Self {
        Self { standard, truth, unposted: answered, unbilled: HashSet::new(), found: Comparison::default() }
    }

    /// One event of the books.
    pub fn note(&mut self, event: &UsageEvent) {
        let id = read_id(&event.request_id);
        let is_first = match self.truth.costs.get_mut(&id) {
            Some(truth) => !std::mem::replace(&mut truth.is_booked, true),
            None => self.unbilled.insert(id),
        };
        if !is_first {
            self.found.twice += 1;
            return self.found.quote(|| format!("{} is booked twice", event.request_id));
        }
        let truth = self.truth.costs.get(&id);
        self.found.check_event(self.standard, event, truth);
        if event.state == State::Posted
            && let Some(is_stream) = self.unposted.remove(&id)
        {
            self.found.check_end(id, is_stream, truth);
        }
    }

    /// What was found, and the truth again for another comparison.
    pub fn finish(mut self) -> (Comparison, Truth) {
        for (id, cost) in &mut self.truth.costs {
            if !std::mem::take(&mut cost.is_booked) && cost.cost_picousd > 0 {
                self.found.lost += 1;
                self.found.quote(|| format!("{} is billed {} and booked nowhere", shown(*id), cost.cost_picousd));
            }
        }
        for (id, is_stream) in &self.unposted {
            self.found.answered_unposted += 1;
            self.found.quote(|| format!("{} was answered whole, and no event of it is posted", shown(*id)));
            self.found.check_end(*id, *is_stream, self.truth.costs.get(id));
        }
        (self.found, self.truth)
    }
}

fn shown(id: RequestId) -> String {
    format!("req_{id:032x}")
}

// === impl Comparison ===

impl Comparison {
    fn check_event(&mut self, standard: Standard, event: &UsageEvent, truth: Option<&TrueCost>) {
        self.events += 1;
        let (cost, hold, overrun) = (event.cost_picousd.0, event.hold_cost_picousd.0, event.overrun_picousd.0);
        let billed = truth.map_or(0, |truth| truth.cost_picousd);
        self.billed_picousd += billed;
        self.overrun_picousd += overrun;
        // What a provider makes beyond the limit it was sent, it may bill beyond the hold: that is ours to bear.
        let is_past_limit = truth.and_then(|truth| truth.fault.as_deref()) == Some("ignores-limit");
        let misled = truth.is_some_and(|truth| truth.usage_altered);
        let is_exact = cost + overrun == billed && cost <= hold;
        let as_promised = match (event.state, event.confidence) {
            (State::Posted, Some(Confidence::Measured)) => {
                self.measured += 1;
                self.measured_picousd += cost;
                is_exact || (misled && cost <= hold)
            }
            (State::Posted, _) => {
                self.bounded += 1;
                self.bounded_picousd += cost;
                (billed..=hold).contains(&cost) || (is_past_limit && cost == hold)
            }
            (State::Indeterminate, _) => {
                self.indeterminate += 1;
                self.indeterminate_picousd += hold;
                (0..=hold).contains(&billed) || is_past_limit
            }
            (State::Voided | State::Expired, _) => {
                self.voided += 1;
                billed == 0
            }
            (State::Pending, _) => {
                self.pending += 1;
                true
            }
            (State::Other, _) => false,
        };
        let is_settled = !matches!(event.state, State::Pending | State::Indeterminate);
        let is_equal = (is_settled && is_exact) || misled;
        if !as_promised && standard == Standard::Bounded || !is_equal && standard == Standard::Equal {
            self.mismatched += 1;
            let fault = truth.and_then(|truth| truth.fault.as_deref()).unwrap_or("no fault");
            self.quote(|| {
                format!(
                    "{} is {:?} {:?} at {cost} and {overrun} over a hold of {hold}, and billed {billed} ({fault}, outcome {})",
                    event.request_id,
                    event.state,
                    event.confidence,
                    event.outcome.as_deref().unwrap_or("-"),
                )
            });
        }
    }

    fn check_end(&mut self, id: RequestId, is_stream: bool, truth: Option<&TrueCost>) {
        if is_stream && truth.is_some_and(breaks_off) {
            self.false_ends += 1;
            self.quote(|| format!("{} ended with [DONE] though the provider's stream broke off", shown(id)));
        }
    }

    fn quote(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// Faults after which no stream can be whole. One that only lacks its `[DONE]` is.
fn breaks_off(truth: &TrueCost) -> bool {
    matches!(truth.fault.as_deref(), Some("cut" | "reset" | "stall" | "no-answer" | "error-after-tokens"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, state: State, confidence: Option<Confidence>, cost: i128, hold: i128) -> UsageEvent {
        UsageEvent {
            request_id: id.to_owned(),
            key: String::new(),
            state,
            confidence,
            hold_cost_picousd: Picousd(hold),
            cost_picousd: Picousd(cost),
            overrun_picousd: Picousd(0),
            outcome: None,
        }
    }

    fn truth(id: &str, cost: i128, fault: Option<&str>) -> TrueLine {
        TrueLine {
            request_id: id.to_owned(),
            cost_picousd: Picousd(cost),
            fault: fault.map(str::to_owned),
            in_flight: false,
            usage_altered: false,
        }
    }

    fn compared(standard: Standard, events: &[UsageEvent], lines: &[TrueLine], answered: Answered) -> Comparison {
        let mut truth = Truth::default();
        lines.iter().cloned().for_each(|line| truth.note(line));
        let mut audit = Audit::new(standard, truth, answered);
        events.iter().for_each(|event| audit.note(event));
        audit.finish().0
    }

    fn holds(found: &Comparison) -> bool {
        let broken =
            [found.lost, found.twice, found.mismatched, found.pending, found.answered_unposted, found.false_ends];
        broken.iter().all(|&count| count == 0)
    }

    fn check(event: &UsageEvent, truth: &[TrueLine]) -> bool {
        holds(&compared(Standard::Bounded, std::slice::from_ref(event), truth, Answered::new()))
    }

    #[test]
    fn a_measured_event_equals_the_truth_exactly() {
        let measured = |cost| event("a", State::Posted, Some(Confidence::Measured), cost, 100);
        assert!(check(&measured(40), &[truth("a", 40, None)]));
        assert!(!check(&measured(41), &[truth("a", 40, None)]));
        assert!(!check(&measured(39), &[truth("a", 40, None)]));
        assert!(!check(&measured(101), &[truth("a", 101, None)]), "beyond its hold");
        assert!(!check(&measured(1), &[]), "measured, and the provider knows nothing of it");
        let lie = TrueLine { usage_altered: true, ..truth("a", 40, Some("wrong-usage")) };
        assert!(check(&measured(80), std::slice::from_ref(&lie)), "it cannot know better");
        assert!(!check(&measured(101), &[lie]), "but never beyond its hold");
    }

    #[test]
    fn a_bounded_event_lies_between_truth_and_hold() {
        let bounded = |cost| event("a", State::Posted, Some(Confidence::Bounded), cost, 100);
        for (cost, holds) in [(39, false), (40, true), (100, true), (101, false)] {
            assert_eq!(check(&bounded(cost), &[truth("a", 40, Some("cut"))]), holds, "{cost}");
        }
    }

    #[test]
    fn an_indeterminate_event_covers_whatever_was_billed() {
        let unknown = event("a", State::Indeterminate, None, 0, 100);
        for (billed, holds) in [(0, true), (100, true), (101, false)] {
            assert_eq!(check(&unknown, &[truth("a", billed, None)]), holds, "{billed}");
        }
        assert!(check(&unknown, &[]));
    }

    #[test]
    fn what_is_voided_must_not_be_billed() {
        let voided = event("a", State::Voided, None, 0, 100);
        assert!(check(&voided, &[truth("a", 0, Some("error-500"))]));
        assert!(!check(&voided, &[truth("a", 1, None)]));
    }

    #[test]
    fn what_goes_past_the_limit_is_ours_to_bear() {
        let truth = [truth("a", 130, Some("ignores-limit"))];
        let measured = event("a", State::Posted, Some(Confidence::Measured), 100, 100);
        assert!(!check(&measured, &truth), "the overrun is not booked");
        assert!(check(&UsageEvent { overrun_picousd: Picousd(30), ..measured }, &truth));
        let bounded = |cost| event("a", State::Posted, Some(Confidence::Bounded), cost, 100);
        assert!(check(&bounded(100), &truth), "cut at the hold");
        assert!(!check(&bounded(99), &truth));
    }

    #[test]
    fn reconciled_books_equal_the_truth() {
        let found = |event: UsageEvent, cost| {
            compared(Standard::Equal, &[event], &[truth("a", cost, Some("cut"))], Answered::new()).mismatched
        };
        assert_eq!(found(event("a", State::Posted, Some(Confidence::Other), 40, 100), 40), 0);
        assert_eq!(found(event("a", State::Posted, Some(Confidence::Bounded), 100, 100), 40), 1);
        assert_eq!(found(event("a", State::Indeterminate, None, 0, 100), 0), 1);
        assert_eq!(found(event("a", State::Voided, None, 0, 100), 0), 0);
    }

    #[test]
    fn lost_twice_and_pending_are_each_counted() {
        let events = [
            event("a", State::Voided, None, 0, 1),
            event("a", State::Voided, None, 0, 1),
            event("b", State::Pending, None, 0, 1),
            event("e", State::Voided, None, 0, 1),
            event("e", State::Voided, None, 0, 1),
        ];
        let lines = [truth("c", 5, None), truth("d", 0, None), truth("e", 0, None)];
        let found = compared(Standard::Bounded, &events, &lines, Answered::new());
        assert_eq!((found.lost, found.twice, found.pending), (1, 2, 1));
        assert_eq!(found.events, 3);
        assert!(!holds(&found));
        assert_eq!(found.examples.len(), 3);
    }

    #[test]
    fn the_same_truth_can_be_compared_with_again() {
        let mut truth_of_all = Truth::default();
        truth_of_all.note(truth("a", 5, None));
        for _ in 0..2 {
            let mut audit = Audit::new(Standard::Equal, truth_of_all, Answered::new());
            audit.note(&event("a", State::Posted, Some(Confidence::Measured), 5, 9));
            let (found, truth) = audit.finish();
            assert!(holds(&found), "{found:?}");
            truth_of_all = truth;
        }
    }

    #[test]
    fn a_whole_answer_needs_a_posted_event_and_a_whole_stream() {
        let posted = [event("a", State::Posted, Some(Confidence::Bounded), 9, 9)];
        let found = |events: &[UsageEvent], fault, stream| {
            let answered = Answered::from([(read_id("a"), stream)]);
            let comparison = compared(Standard::Bounded, events, &[truth("a", 9, fault)], answered);
            (comparison.answered_unposted, comparison.false_ends)
        };
        assert_eq!(found(&posted, None, true), (0, 0));
        assert_eq!(found(&posted, Some("cut"), true), (0, 1));
        assert_eq!(found(&posted, Some("no-usage"), true), (0, 0));
        assert_eq!(found(&[event("a", State::Indeterminate, None, 0, 9)], None, false), (1, 0));
        assert_eq!(found(&[], None, false), (1, 0));
    }

    #[test]
    fn ids_are_told_apart_whatever_their_form() {
        assert_eq!(read_id("req_000000000000000000000000000000ff"), 255);
        assert_eq!(shown(255), "req_000000000000000000000000000000ff");
        assert_ne!(read_id("one more"), read_id("another"));
    }
}
