//! Permission is a value: nothing is sent to a provider without a [`Permit`], and whatever becomes of the permit, the
//! money it holds is posted or given back.

use std::sync::Arc;

use tollgate_ledger::{Amounts, Log, Reservation, Settlement};
use tollgate_types::usage::Outcome;
use tollgate_types::{Clock, Confidence, PicoUsd, RequestId, Usage};

use crate::index::Principal;
use crate::limits::{Entry, RateState};
use crate::price::{self, Rate};

/// Yes, you may: for this much, at this price.
#[derive(Debug)]
pub struct Permit<L: Log> {
    pub reservation: Reservation<L>,
    pub principal: Arc<Principal>,
    pub pricing: Pricing,
    pub granted: Granted,
    pub entry: Entry,
    pub clock: Clock,
}

/// What the hold pays for. The request must be bounded to it before it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Output tokens per choice.
    pub output_tokens: u64,
}

/// What became of a permit's money.
#[derive(Debug)]
pub struct Settled<L: Log> {
    /// What was posted: at most the hold.
    pub amounts: Amounts,
    pub overrun: Amounts,
    /// `None` if the reservation had ended before: it was swept after its deadline.
    pub position: Option<L::Position>,
    /// What is left of the limits.
    pub rate: RateState,
}

/// The price in force when the request was admitted; it is settled at the same.
#[derive(Clone, Debug)]
pub struct Pricing {
    pub version: Arc<str>,
    pub rate: Option<Rate>,
    /// Held and posted, as bounded, where the plan allows a model without a price.
    pub fixed: Option<PicoUsd>,
    pub markup_bps: u32,
}

// === impl Permit ===

impl<L: Log> Permit<L> {
    pub fn id(&self) -> RequestId {
        self.reservation.id()
    }

    /// What is left of the limits now.
    pub fn rate(&self) -> RateState {
        self.entry.rate(self.clock.steady())
    }

    /// Posts what the provider says was used. Gives the amounts posted, where the log holds the posting, and what the
    /// provider took beyond the hold, which is the platform's loss and somebody should know of.
    pub fn settle(mut self, usage: Usage, outcome: Outcome) -> Settled<L> {
        self.entry.settle(usage.input_tokens.saturating_add(usage.output_tokens), self.clock.steady());
        let left = self.rate();
        let Self { reservation, pricing, .. } = self;
        let hold = reservation.hold();
        let Some(rate) = &pricing.rate else {
            let position = reservation.post_bounded(outcome);
            return Settled { amounts: hold, overrun: Amounts::ZERO, position, rate: left };
        };
        let cost = rate.cost(&usage);
        let amounts = Amounts { cost, charge: pricing.charge(cost) };
        let posted = amounts.min(hold);
        // Where writing to the provider's cache is dearer, all input that was not read from it is priced as written: at
        // least the bill, but perhaps more than it.
        let confidence = if rate.bills_cache_writes() { Confidence::Bounded } else { Confidence::Measured };
        let settlement = Settlement { usage, amounts, confidence, outcome };
        Settled { amounts: posted, overrun: amounts.beyond(hold), position: reservation.post(settlement), rate: left }
    }

    /// Posts the whole hold: work was done, or may have been, and nobody said how much. The tokens stay as estimated.
    pub fn settle_bounded(self, outcome: Outcome) -> Settled<L> {
        let (amounts, rate) = (self.reservation.hold(), self.rate());
        Settled { amounts, overrun: Amounts::ZERO, position: self.reservation.post_bounded(outcome), rate }
    }

    /// Gives everything back: certainly no work was done.
    pub fn void(mut self, outcome: Outcome) -> Option<L::Position> {
        self.entry.settle(0, self.clock.steady());
        self.reservation.void(outcome)
    }
}

// === impl Pricing ===

impl Pricing {
    pub fn charge(&self, cost: PicoUsd) -> PicoUsd {
        price::charge(cost, self.markup_bps)
    }

    /// The most that may be spent without the charge exceeding `charge`.
    pub fn cost_within_charge(&self, charge: PicoUsd) -> PicoUsd {
        price::cost_within_charge(charge, self.markup_bps)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ring::hmac;
    use tollgate_ledger::{Books, CapSet, Ledger, MemoryLog};
    use tollgate_types::directory::{ApiKey, Change, Directory, Limits, Plan, Project, Tenant};
    use tollgate_types::refusal::RateLimited;
    use tollgate_types::{Basis, Call, OutputLimit, PicoSum, Refusal, Scope, Surface, Timestamp, Window};

    use super::*;
    use crate::index::Index;
    use crate::{Admission, Identity, Target};

    const TOKENS: u64 = 1000;
    const INPUT_BYTES: u64 = 300;

    /// One key, whose tenant has a limit of [`TOKENS`] per minute, and a plan that holds a dollar for what has no price.
    struct World {
        admission: Admission,
        books: Arc<Books<MemoryLog>>,
        principal: Arc<Principal>,
    }

    fn slug<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("a slug")
    }

    fn directory() -> Directory {
        let mut directory = Directory::default();
        let created_at = Timestamp(0);
        directory.apply(Change::PlanSet(Plan { unpriced_hold: Some(PicoUsd(1)), ..Plan::standard() }));
        directory.apply(Change::TenantCreated(Tenant::new(slug("t"), Plan::standard().id, created_at)));
        let project = Project { tenant: slug("t"), id: slug("p"), created_at, label: None };
        directory.apply(Change::ProjectCreated(project));
        let key = ApiKey::new(slug("k"), slug("t"), slug("p"), [7; 32], created_at);
        directory.apply(Change::KeyCreated(Box::new(key)));
        let limits = Limits { tokens_per_minute: Some(TOKENS), ..Limits::default() };
        directory.apply(Change::LimitsSet { scope: Scope::Tenant(slug("t")), limits });
        directory
    }

    impl World {
        fn new() -> Self {
            let (directory, clock) = (directory(), Clock::manual(Timestamp(1_700_000_000_000_000)));
            let hasher = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
            let admission = Admission::new(&directory, price::PriceBooks::default(), hasher, clock.clone());
            let principal = Index::of(&directory, &Index::default()).by_digest(&[7; 32]).expect("the key is known");
            let books = Arc::new(Books::new(Ledger::default(), directory, MemoryLog::default(), clock));
            Self { admission, books, principal }
        }

        fn admit(&self, output: u64) -> Result<Permit<MemoryLog>, Refusal> {
            let entered = self.admission.enter(&self.principal, Surface::Chat, None)?;
            let (call, target) = (call(output), target());
            let identity =
                Identity { id: RequestId(u128::from(output)), end_user: None, idempotency: None, attribution: None };
            self.admission.admit(&self.books, Arc::clone(&self.principal), entered, &call, &target, identity, || None)
        }

        fn left(&self) -> u64 {
            let entered = self.admission.enter(&self.principal, Surface::Chat, None).expect("nothing limits requests");
            left(entered.entry.rate(self.admission.clock.steady()))
        }
    }

    fn call(output: u64) -> Call<'static> {
        Call {
            surface: Surface::Chat,
            route: "r".into(),
            stream: false,
            include_usage: false,
            output_limit: OutputLimit { max_tokens: Some(output), max_completion_tokens: None },
            choices: 2,
            input_bytes: INPUT_BYTES,
            images: 0,
            prediction_bytes: 0,
            unbounded: None,
            priced_apart: None,
        }
    }

    fn target() -> Target {
        Target {
            route: "r".into(),
            provider: "p".into(),
            priced_as: "p".into(),
            model: "m".into(),
            max_tokens_default: 16,
            total_timeout: Duration::from_secs(60),
        }
    }

    fn left(rate: RateState) -> u64 {
        rate.tokens.expect("there is a limit").remaining
    }

    #[test]
    fn tokens_are_taken_as_estimated_and_corrected_when_the_request_is_settled() {
        let world = World::new();
        let permit = world.admit(100).expect("it fits");
        assert_eq!(
            left(permit.rate()),
            TOKENS - INPUT_BYTES / 4 - 2 * 100,
            "the input as estimated, and the output of two choices"
        );
        let usage = Usage { input_tokens: 50, output_tokens: 30, ..Usage::default() };
        assert_eq!(left(permit.settle(usage, Outcome::Completed).rate), TOKENS - 80);
        assert_eq!(world.left(), TOKENS - 80);
    }

    #[test]
    fn tokens_come_back_where_no_work_was_done_and_stay_where_nobody_knows() {
        let world = World::new();
        let _ = world.admit(1).expect("it fits").void(Outcome::NotSent);
        assert_eq!(world.left(), TOKENS);
        let mut permit = world.admit(2).expect("it fits");
        assert!(permit.reservation.dispatched());
        drop(permit);
        assert_eq!(world.left(), TOKENS - INPUT_BYTES / 4 - 4);
        let settled = world.admit(3).expect("it fits").settle_bounded(Outcome::UsageMissing);
        assert_eq!(left(settled.rate), TOKENS - 2 * (INPUT_BYTES / 4) - 4 - 6);
    }

    #[test]
    fn a_fallback_without_a_price_is_refused_and_the_permit_stays_as_it_was() {
        let world = World::new();
        let mut permit = world.admit(100).expect("the plan holds for the route's own");
        let call = call(100);
        let fallback = Target { provider: "q".into(), model: "n".into(), ..target() };
        let refusal = world.admission.hand_over(&mut permit, &call, &fallback, || None).expect_err("no price");
        assert_eq!(refusal, Refusal::PriceUnknown { what: "'n' of 'q'".to_owned() });
        assert_eq!((permit.granted.output_tokens, &*permit.pricing.version), (100, "unpriced"));
        assert_eq!(world.books.records().len(), 1, "nothing but the reservation is on record");
    }

    #[test]
    fn what_is_refused_leaves_no_tokens_taken_and_no_money_held() {
        let world = World::new();
        let refusal = world.admit(463).expect_err("more than the limit ever allows");
        assert!(matches!(refusal, Refusal::RateLimited(RateLimited { scope: "tenant", retry_after: None, .. })));
        assert_eq!(world.books.records(), [], "the books were not asked");
        let cap = CapSet {
            scope: Scope::Tenant(slug("t")),
            window: Window::Lifetime,
            basis: Basis::Cost,
            cap: Some(PicoSum(0)),
            alerts: Default::default(),
            at: Timestamp(0),
        };
        world.books.set_cap(cap).expect("the log takes it");
        assert!(matches!(world.admit(1), Err(Refusal::BudgetExceeded(_))));
        assert_eq!(world.left(), TOKENS);
    }
}
