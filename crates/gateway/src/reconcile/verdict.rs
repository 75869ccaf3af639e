//! One request: what the ledger says, what the bill says, and what the ledger would have to be told.
//!
//! The bill is the truth. More than before is the tenant's as far as the hold went, and beyond that the platform's; the
//! books put on the platform, too, what the caps of now have no room for. What was given back in full and billed all the
//! same is wholly the platform's: its tenant was told that the request failed, and may have spent the money since.

use tollgate_admission::price::Rate;
use tollgate_client::FindingKind;
use tollgate_ledger::record::Standing;
use tollgate_ledger::{Amounts, Settlement};
use tollgate_store::view::{EventEnd, EventState, UsageEvent};
use tollgate_types::usage::Outcome;
use tollgate_types::{Confidence, PicoSum, PicoUsd, Usage};

/// What the bill says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Billed {
    pub usage: Usage,
    pub cost: Option<PicoUsd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: they agree.
    pub kind: Option<FindingKind>,
    /// What the ledger says it cost, or holds.
    pub ledger: PicoSum,
    pub provider: Option<PicoUsd>,
    pub correction: Option<Correction>,
}

/// What to tell the books so that they agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    Adjust { was: Standing, now: Standing, usage: Usage },
    Resolve(Settlement),
}

/// Judges a request of the bill's provider.
///
/// `rate` is what it was admitted at, `charge` what a cost is charged at; each is asked only where it is needed.
/// `absence_tells`: what is not on the bill was not billed.
pub fn judge(
    event: &UsageEvent,
    billed: Option<&Billed>,
    rate: impl FnOnce() -> Option<Rate>,
    charge: impl FnOnce(PicoUsd) -> PicoUsd,
    absence_tells: bool,
) -> Verdict {
    let ledger = standing_cost(event);
    let verdict = |kind, provider, correction| Verdict { kind, ledger, provider, correction };
    if event.state == EventState::Pending {
        return verdict(Some(FindingKind::Running), billed.and_then(|billed| billed.cost), None);
    }
    let Some(billed) = billed else {
        if ledger == PicoSum::ZERO {
            return verdict(None, None, None);
        }
        let nothing = Measure { usage: Usage::default(), cost: PicoUsd::ZERO, confidence: Confidence::Measured };
        let correction = (absence_tells && is_in_doubt(event)).then(|| nothing.correction(event, charge));
        return verdict(Some(FindingKind::Missing), None, correction);
    };
    let Some(measure) = Measure::of(billed, rate) else {
        return verdict(Some(FindingKind::Unpriced), None, None);
    };
    let kind = match (event.state, event.end.as_ref().and_then(|end| end.confidence)) {
        (EventState::Indeterminate, _) => FindingKind::Indeterminate,
        (EventState::Voided, _) if measure.cost == PicoUsd::ZERO => return verdict(None, Some(measure.cost), None),
        (EventState::Voided, _) => FindingKind::Voided,
        _ if measure.is_known(event) => return verdict(None, Some(measure.cost), None),
        (_, Some(Confidence::Bounded)) => FindingKind::Bounded,
        _ => FindingKind::Different,
    };
    verdict(Some(kind), Some(measure.cost), Some(measure.correction(event, charge)))
}

/// What a request costs as the ledger has it: posted, with its overrun; or held.
pub fn standing_cost(event: &UsageEvent) -> PicoSum {
    match (event.state, event.end.as_ref()) {
        (EventState::Posted | EventState::Voided, Some(end)) => {
            PicoSum(i128::from(end.amounts.cost.0) + i128::from(end.overrun.cost.0))
        }
        _ => event.reserved.hold.cost.into(),
    }
}

fn is_in_doubt(event: &UsageEvent) -> bool {
    let bounded = |end: &EventEnd| end.confidence == Some(Confidence::Bounded);
    event.state == EventState::Indeterminate || event.end.as_ref().is_some_and(bounded)
}

/// The bill's word, priced.
#[derive(Clone, Copy)]
struct Measure {
    usage: Usage,
    cost: PicoUsd,
    confidence: Confidence,
}

// === impl Measure ===

impl Measure {
    fn of(billed: &Billed, rate: impl FnOnce() -> Option<Rate>) -> Option<Self> {
        let usage = billed.usage;
        if let Some(cost) = billed.cost {
            return Some(Self { usage, cost, confidence: Confidence::Measured });
        }
        let rate = rate()?;
        let confidence = if rate.bills_cache_writes() { Confidence::Bounded } else { Confidence::Measured };
        Some(Self { usage, cost: rate.cost(&usage), confidence })
    }

    /// Whether the ledger says the same. How a cost is shared between tenant and platform was decided when it was booked.
    fn is_known(&self, event: &UsageEvent) -> bool {
        let Some(end) = &event.end else { return false };
        let known = (end.usage, standing_cost(event), end.confidence);
        known == (self.usage_of(end), PicoSum::from(self.cost), Some(self.confidence))
    }

    /// No bill says what was written to a cache apart from the rest; what was known of it stays known.
    fn usage_of(&self, end: &EventEnd) -> Usage {
        Usage { cache_write_tokens: end.usage.cache_write_tokens, ..self.usage }
    }

    fn correction(&self, event: &UsageEvent, charge: impl FnOnce(PicoUsd) -> PicoUsd) -> Correction {
        let whole = || Amounts { cost: self.cost, charge: charge(self.cost) };
        let Some(end) = event.end.as_ref() else {
            let (usage, amounts, confidence) = (self.usage, whole(), self.confidence);
            return Correction::Resolve(Settlement { usage, amounts, confidence, outcome: Outcome::Unknown });
        };
        let was = Standing {
            amounts: end.amounts,
            overrun: end.overrun,
            confidence: end.confidence.unwrap_or(Confidence::Measured),
        };
        let platforms =
            event.state == EventState::Voided || (end.amounts == Amounts::ZERO && end.overrun != Amounts::ZERO);
        let (amounts, overrun) = if standing_cost(event) == PicoSum::from(self.cost) {
            (was.amounts, was.overrun)
        } else if platforms {
            (Amounts::ZERO, whole())
        } else {
            let (whole, hold) = (whole(), event.reserved.hold);
            (whole.min(hold), whole.beyond(hold))
        };
        Correction::Adjust {
            was,
            now: Standing { amounts, overrun, confidence: self.confidence },
            usage: self.usage_of(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_admission::price::Prices;
    use tollgate_ledger::Reserved;
    use tollgate_types::{RequestId, Spender, Timestamp, UtcOffset};

    use super::*;

    const HOLD: Amounts = Amounts { cost: PicoUsd(1_000), charge: PicoUsd(1_200) };

    fn amounts(cost: u64) -> Amounts {
        Amounts { cost: PicoUsd(cost), charge: PicoUsd(cost * 12 / 10) }
    }

    fn usage(tokens: u64) -> Usage {
        Usage { input_tokens: tokens, output_tokens: 1, ..Usage::default() }
    }

    fn event(state: EventState, end: Option<(u64, u64, Option<Confidence>)>) -> UsageEvent {
        let slug = "s";
        let spender = Spender {
            plan: slug.parse().expect("a slug"),
            tenant: slug.parse().expect("a slug"),
            project: slug.parse().expect("a slug"),
            key: slug.parse().expect("a slug"),
            end_user: None,
        };
        let reserved = Reserved {
            id: RequestId(1),
            at: Timestamp(0),
            deadline: Timestamp(10),
            spender,
            offset: UtcOffset(0),
            hold: HOLD,
            route: "r".into(),
            provider: "p".into(),
            model: "m".into(),
            stream: false,
            price_version: "1".into(),
            idempotency: None,
            attribution: None,
            policy: None,
        };
        let end = end.map(|(cost, overrun, confidence)| EventEnd {
            ended_at: Timestamp(5),
            usage: usage(9),
            amounts: amounts(cost),
            overrun: amounts(overrun),
            confidence,
            outcome: Outcome::Completed,
        });
        UsageEvent { reserved, state, extended_at: None, adjustments: 0, end }
    }

    fn measured(cost: u64, overrun: u64) -> UsageEvent {
        event(EventState::Posted, Some((cost, overrun, Some(Confidence::Measured))))
    }

    fn bounded() -> UsageEvent {
        event(EventState::Posted, Some((1_000, 0, Some(Confidence::Bounded))))
    }

    fn voided() -> UsageEvent {
        event(EventState::Voided, Some((0, 0, None)))
    }

    fn said(cost: u64) -> Billed {
        Billed { usage: usage(9), cost: Some(PicoUsd(cost)) }
    }

    fn judged(event: &UsageEvent, billed: Option<Billed>, absence_tells: bool) -> Verdict {
        let rate = || {
            let prices = Prices::new(PicoUsd(10), PicoUsd(10), PicoUsd(1));
            Some(Rate::new(prices, &[], true, None).expect("a rate"))
        };
        judge(event, billed.as_ref(), rate, |cost| amounts(cost.0).charge, absence_tells)
    }

    /// What would stand then: the tenant's, the platform's, and how sure.
    fn stands(verdict: Verdict) -> Option<(Amounts, Amounts, Confidence)> {
        match verdict.correction? {
            Correction::Adjust { now, .. } => Some((now.amounts, now.overrun, now.confidence)),
            Correction::Resolve(settlement) => Some((settlement.amounts, Amounts::ZERO, settlement.confidence)),
        }
    }

    #[test]
    fn what_both_say_agrees_and_needs_nothing() {
        for (event, billed) in [
            (measured(91, 0), Some(said(91))),
            (measured(1_000, 500), Some(said(1_500))),
            (voided(), None),
            (voided(), Some(said(0))),
            (measured(0, 0), None),
            // Without a cost the tokens are priced: 9 at 10 and 1 at 1.
            (measured(91, 0), Some(Billed { cost: None, ..said(0) })),
        ] {
            let verdict = judged(&event, billed, true);
            assert_eq!((verdict.kind, verdict.correction), (None, None), "{event:?} {billed:?}");
        }
    }

    #[test]
    fn the_bill_is_the_truth_within_the_hold_and_beyond_it_the_platforms() {
        let check = |event: UsageEvent, cost: u64, kind: FindingKind, tenants: u64, platforms: u64| {
            let verdict = judged(&event, Some(said(cost)), false);
            assert_eq!(verdict.kind, Some(kind), "{event:?} {cost}");
            assert_eq!(verdict.provider, Some(PicoUsd(cost)));
            let expected = (amounts(tenants), amounts(platforms), Confidence::Measured);
            assert_eq!(stands(verdict), Some(expected), "{event:?} {cost}");
        };
        check(measured(91, 0), 50, FindingKind::Different, 50, 0);
        check(measured(91, 0), 0, FindingKind::Different, 0, 0);
        check(measured(91, 0), 1_500, FindingKind::Different, 1_000, 500);
        check(measured(1_000, 7_000), 600, FindingKind::Different, 600, 0);
        check(bounded(), 600, FindingKind::Bounded, 600, 0);
        check(bounded(), 1_000, FindingKind::Bounded, 1_000, 0);
        check(bounded(), 1_100, FindingKind::Bounded, 1_000, 100);
        check(voided(), 600, FindingKind::Voided, 0, 600);
        // Once the platform's, always the platform's: the tenant was told that it failed.
        check(measured(0, 600), 700, FindingKind::Different, 0, 700);
    }

    #[test]
    fn a_cost_that_stays_keeps_its_shares_and_only_the_tokens_change() {
        let other = Billed { usage: usage(10), cost: Some(PicoUsd(1_500)) };
        let verdict = judged(&measured(900, 600), Some(other), false);
        assert_eq!(verdict.kind, Some(FindingKind::Different));
        let Some(Correction::Adjust { was, now, usage: corrected }) = verdict.correction else { panic!("{verdict:?}") };
        assert_eq!((was, corrected), (now, usage(10)));
    }

    #[test]
    fn what_a_crash_left_in_doubt_is_resolved_by_the_bill() {
        let verdict = judged(&event(EventState::Indeterminate, None), Some(said(1_700)), false);
        assert_eq!((verdict.kind, verdict.ledger), (Some(FindingKind::Indeterminate), PicoSum(1_000)));
        // The books themselves cut it at the hold.
        assert_eq!(stands(verdict), Some((amounts(1_700), Amounts::ZERO, Confidence::Measured)));
    }

    #[test]
    fn what_is_missing_was_never_billed_only_if_the_bill_is_complete_and_the_ledger_in_doubt() {
        let check = |event: UsageEvent, absence_tells: bool, corrected: bool| {
            let verdict = judged(&event, None, absence_tells);
            assert_eq!(verdict.kind, Some(FindingKind::Missing));
            let nothing = (Amounts::ZERO, Amounts::ZERO, Confidence::Measured);
            assert_eq!(stands(verdict), corrected.then_some(nothing), "{event:?} {absence_tells}");
        };
        check(bounded(), true, true);
        check(bounded(), false, false);
        check(event(EventState::Indeterminate, None), true, true);
        check(event(EventState::Indeterminate, None), false, false);
        check(measured(91, 0), true, false);
    }

    #[test]
    fn what_runs_is_left_alone_and_what_has_no_price_cannot_be_judged() {
        let running = judged(&event(EventState::Pending, None), Some(said(91)), true);
        assert_eq!((running.kind, running.correction), (Some(FindingKind::Running), None));
        let billed = Billed { cost: None, ..said(0) };
        let unpriced = judge(&bounded(), Some(&billed), || None, |cost| cost, true);
        assert_eq!((unpriced.kind, unpriced.correction), (Some(FindingKind::Unpriced), None));
    }
}
