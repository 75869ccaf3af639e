//! The books of the gateway against the books of the provider, request by request. Pure.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::admin::{Confidence, Picousd, State, UsageEvent};

/// How many broken promises are quoted.
const EXAMPLES_MAX: usize = 10;

/// What the provider worked on and bills for one request.
#[derive(Clone, Debug, Deserialize)]
pub struct TrueCost {
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

/// An answer that reached its caller whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answered {
    pub request_id: String,
    pub stream: bool,
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

// === impl Comparison ===

impl Comparison {
    pub fn of(events: &[UsageEvent], truth: &[TrueCost], answered: &HashSet<Answered>) -> Self {
        let true_costs: HashMap<&str, &TrueCost> = truth.iter().map(|one| (one.request_id.as_str(), one)).collect();
        let mut comparison = Self::default();
        let mut booked: HashMap<&str, &UsageEvent> = HashMap::with_capacity(events.len());
        for event in events {
            if booked.insert(&event.request_id, event).is_some() {
                comparison.twice += 1;
                comparison.quote(|| format!("{} is booked twice", event.request_id));
            } else {
                comparison.check_event(event, true_costs.get(event.request_id.as_str()).copied());
            }
        }
        for one in truth.iter().filter(|one| one.cost_picousd.0 > 0 && !booked.contains_key(one.request_id.as_str())) {
            comparison.lost += 1;
            comparison.quote(|| format!("{} is billed {} and booked nowhere", one.request_id, one.cost_picousd.0));
        }
        for answer in answered {
            let id = answer.request_id.as_str();
            comparison.check_answered(answer, booked.get(id).copied(), true_costs.get(id).copied());
        }
        comparison
    }

    fn check_event(&mut self, event: &UsageEvent, truth: Option<&TrueCost>) {
        self.events += 1;
        let (cost, hold) = (event.cost_picousd.0, event.hold_cost_picousd.0);
        let billed = truth.map_or(0, |truth| truth.cost_picousd.0);
        let as_promised = match (event.state, event.confidence) {
            (State::Posted, Some(Confidence::Measured)) => {
                self.measured += 1;
                self.measured_picousd += cost;
                let misled = truth.is_some_and(|truth| truth.usage_altered);
                (cost == billed || misled) && cost <= hold
            }
            (State::Posted, _) => {
                self.bounded += 1;
                self.bounded_picousd += cost;
                (billed..=hold).contains(&cost)
            }
            (State::Indeterminate, _) => {
                self.indeterminate += 1;
                self.indeterminate_picousd += hold;
                (0..=hold).contains(&billed)
            }
            (State::Voided | State::Expired, _) => {
                self.voided += 1;
                billed == 0
            }
            (State::Pending, _) => {
                self.pending += 1;
                true
            }
        };
        if !as_promised {
            self.mismatched += 1;
            let fault = truth.and_then(|truth| truth.fault.as_deref()).unwrap_or("no fault");
            self.quote(|| {
                format!(
                    "{} is {:?} {:?} at {cost} under a hold of {hold}, and billed {billed} ({fault}, outcome {})",
                    event.request_id,
                    event.state,
                    event.confidence,
                    event.outcome.as_deref().unwrap_or("-"),
                )
            });
        }
    }

    fn check_answered(&mut self, answer: &Answered, event: Option<&UsageEvent>, truth: Option<&TrueCost>) {
        if event.is_none_or(|event| event.state != State::Posted) {
            self.answered_unposted += 1;
            let state = event.map(|event| event.state);
            self.quote(|| format!("{} was answered whole, and its event is {state:?}", answer.request_id));
        }
        if answer.stream && truth.is_some_and(breaks_off) {
            self.false_ends += 1;
            self.quote(|| format!("{} ended with [DONE] though the provider's stream broke off", answer.request_id));
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
    matches!(truth.fault.as_deref(), Some("cut" | "reset" | "stall" | "no-answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, state: State, confidence: Option<Confidence>, cost: i128, hold: i128) -> UsageEvent {
        UsageEvent {
            request_id: id.to_owned(),
            state,
            confidence,
            hold_cost_picousd: Picousd(hold),
            cost_picousd: Picousd(cost),
            overrun_picousd: Picousd(0),
            outcome: None,
        }
    }

    fn truth(id: &str, cost: i128, fault: Option<&str>) -> TrueCost {
        TrueCost {
            request_id: id.to_owned(),
            cost_picousd: Picousd(cost),
            fault: fault.map(str::to_owned),
            in_flight: false,
            usage_altered: false,
        }
    }

    fn holds(found: &Comparison) -> bool {
        let broken =
            [found.lost, found.twice, found.mismatched, found.pending, found.answered_unposted, found.false_ends];
        broken.iter().all(|&count| count == 0)
    }

    fn check(event: &UsageEvent, truth: &[TrueCost]) -> bool {
        holds(&Comparison::of(std::slice::from_ref(event), truth, &HashSet::new()))
    }

    #[test]
    fn a_measured_event_equals_the_truth_exactly() {
        let measured = |cost| event("a", State::Posted, Some(Confidence::Measured), cost, 100);
        assert!(check(&measured(40), &[truth("a", 40, None)]));
        assert!(!check(&measured(41), &[truth("a", 40, None)]));
        assert!(!check(&measured(39), &[truth("a", 40, None)]));
        assert!(!check(&measured(101), &[truth("a", 101, None)]), "beyond its hold");
        assert!(!check(&measured(1), &[]), "measured, and the provider knows nothing of it");
        let lie = TrueCost { usage_altered: true, ..truth("a", 40, Some("wrong-usage")) };
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
    fn lost_twice_and_pending_are_each_counted() {
        let events = [
            event("a", State::Voided, None, 0, 1),
            event("a", State::Voided, None, 0, 1),
            event("b", State::Pending, None, 0, 1),
        ];
        let comparison = Comparison::of(&events, &[truth("c", 5, None), truth("d", 0, None)], &HashSet::new());
        assert_eq!((comparison.lost, comparison.twice, comparison.pending), (1, 1, 1));
        assert_eq!(comparison.events, 2);
        assert!(!holds(&comparison));
        assert_eq!(comparison.examples.len(), 2);
    }

    #[test]
    fn a_whole_answer_needs_a_posted_event_and_a_whole_stream() {
        let posted = [event("a", State::Posted, Some(Confidence::Bounded), 9, 9)];
        let answered = |stream| HashSet::from([Answered { request_id: "a".to_owned(), stream }]);
        let found = |events: &[UsageEvent], fault, stream| {
            let comparison = Comparison::of(events, &[truth("a", 9, fault)], &answered(stream));
            (comparison.answered_unposted, comparison.false_ends)
        };
        assert_eq!(found(&posted, None, true), (0, 0));
        assert_eq!(found(&posted, Some("cut"), true), (0, 1));
        assert_eq!(found(&posted, Some("no-usage"), true), (0, 0));
        assert_eq!(found(&[event("a", State::Indeterminate, None, 0, 9)], None, false), (1, 0));
        assert_eq!(found(&[], None, false), (1, 0));
    }
}
