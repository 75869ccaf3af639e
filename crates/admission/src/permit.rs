//! Permission is a value: nothing is sent to a provider without a [`Permit`], and whatever becomes of the permit, the
//! money it holds is posted or given back.

use std::sync::Arc;

use tollgate_ledger::{Amounts, Log, Reservation, Settlement};
use tollgate_types::directory::Tariff;
use tollgate_types::usage::Outcome;
use tollgate_types::{Confidence, PicoUsd, RequestId, Usage};

use crate::index::Principal;
use crate::limits::{InFlight, RateState};
use crate::price::{Priced, Rate};

/// Yes, you may: for this much, at this price.
#[derive(Debug)]
pub struct Permit<L: Log> {
    pub reservation: Reservation<L>,
    pub principal: Arc<Principal>,
    pub pricing: Pricing,
    pub granted: Granted,
    pub rate: RateState,
    pub in_flight: InFlight,
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
}

/// The price and the terms in force when the request was admitted; it is settled at the same.
#[derive(Clone, Debug)]
pub struct Pricing {
    pub version: Arc<str>,
    pub rate: Option<Rate>,
    /// Held and posted, as bounded, where the plan allows a model without a price, or a request without a bound.
    pub fixed: Option<PicoUsd>,
    pub tariff: Arc<Tariff>,
}

// === impl Permit ===

impl<L: Log> Permit<L> {
    pub fn id(&self) -> RequestId {
        self.reservation.id()
    }

    /// Posts what the provider says was used. Gives the amounts posted, where the log holds the posting, and what the
    /// provider took beyond the hold, which is the platform's loss and somebody should know of.
    pub fn settle(self, usage: Usage, outcome: Outcome) -> Settled<L> {
        let Some(rate) = &self.pricing.rate else { return self.settle_bounded(outcome) };
        match rate.priced(&usage) {
            Some(Priced { cost, confidence }) => self.post(usage, cost, confidence, outcome),
            // Sound without a price: nobody can say what it came to, so the whole hold is posted.
            None => {
                let cost = self.reservation.hold().cost;
                self.post(usage, cost, Confidence::Bounded, outcome)
            }
        }
    }

    /// Posts the whole hold: work was done, or may have been, and nobody said how much.
    pub fn settle_bounded(self, outcome: Outcome) -> Settled<L> {
        let cost = self.reservation.hold().cost;
        self.post(Usage::default(), cost, Confidence::Bounded, outcome)
    }

    fn post(self, usage: Usage, cost: PicoUsd, confidence: Confidence, outcome: Outcome) -> Settled<L> {
        let Self { reservation, pricing, .. } = self;
        let hold = reservation.hold();
        let tariff = &pricing.tariff;
        if tariff.is_plain() {
            let amounts = Amounts { cost, charge: tariff.charge_max(cost) };
            let settlement = Settlement { usage, amounts, confidence, outcome };
            let position = reservation.post(settlement);
            return Settled { amounts: amounts.min(hold), overrun: amounts.beyond(hold), position };
        }
        // The tenant pays for what is posted of the cost and for nothing beyond it, so that its month adds up.
        let (Settlement { amounts, .. }, position) = reservation.post_in_month(|month| {
            let amounts = Amounts { cost, charge: tariff.charge(month.cost, cost.min(hold.cost)) };
            Settlement { usage, amounts, confidence, outcome }
        });
        Settled { amounts: amounts.min(hold), overrun: amounts.beyond(hold), position }
    }

    /// Gives everything back: certainly no work was done.
    pub fn void(self, outcome: Outcome) -> Option<L::Position> {
        self.reservation.void(outcome)
    }
}

// === impl Pricing ===

impl Pricing {
    /// What is held for a cost: the most that it, or less, can be charged in any month.
    pub fn hold(&self, cost: PicoUsd) -> Amounts {
        Amounts { cost, charge: self.tariff.charge_max(cost) }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use ring::hmac;
    use tollgate_ledger::{Books, Ledger, MemoryLog};
    use tollgate_types::directory::{ApiKey, Change, Directory, MarkupTier, Plan, Project, Tenant};
    use tollgate_types::{Call, Clock, OutputLimit, PicoSum, Refusal, Scope, Surface, Timestamp, UtcOffset, Window};

    use super::*;
    use crate::price::{PriceBook, PriceBooks};
    use crate::{Admission, Identity, Target, UNBOUNDED};

    const BOOK: &str = "version = \"t\"\nsource = \"a test\"\nchecked_at = \"2026-11-23\"\n[[price]]\nprovider = \"p\"\n\
        model = \"m\"\neffective_from = \"2026-01-01T00:00:00Z\"\ninput_usd_per_million = \"1\"\n\
        output_usd_per_million = \"2\"\n";
    const SECRET: &str = "tg_secret";

    struct House {
        books: Arc<Books<MemoryLog>>,
        admission: Admission,
        clock: Clock,
        number: u128,
    }

    impl House {
        fn of(plan: Plan) -> Self {
            let hasher = hmac::Key::new(hmac::HMAC_SHA256, b"a test");
            let mut digest = [0; 32];
            digest.copy_from_slice(hmac::sign(&hasher, SECRET.as_bytes()).as_ref());
            let (tenant, project) = ("demo".parse().expect("a slug"), "default".parse().expect("a slug"));
            let mut directory = Directory::default();
            let key = ApiKey::new("k1".parse().expect("a slug"), tenant, project, digest, Timestamp(0));
            let (tenant, project) = (key.tenant.clone(), key.project.clone());
            let id = plan.id.clone();
            directory.apply(Change::PlanSet(plan));
            directory.apply(Change::TenantCreated(Tenant::new(tenant.clone(), id, Timestamp(0))));
            directory.apply(Change::ProjectCreated(Project {
                tenant,
                id: project,
                created_at: Timestamp(0),
                label: None,
            }));
            directory.apply(Change::KeyCreated(Box::new(key)));
            let book = PriceBook::parse(BOOK).expect("a good book");
            let prices = PriceBooks::new([Arc::new(book)]).expect("one book");
            // The middle of November.
            let clock = Clock::manual(Timestamp::parse_rfc3339("2026-11-15T12:00:00Z").expect("a time"));
            let admission = Admission::new(&directory, prices, hasher, clock.clone());
            let books = Arc::new(Books::new(Ledger::default(), directory, MemoryLog::default(), clock.clone()));
            Self { books, admission, clock, number: 0 }
        }

        /// At most 1,000 tokens in and 500 out: 2,000 picodollars a thousandth of a thousandth of a dollar each.
        fn admit(&mut self, unbounded: Option<&'static str>) -> Result<Permit<MemoryLog>, Refusal> {
            let call = Call {
                surface: Surface::Chat,
                route: Cow::Borrowed("m"),
                stream: false,
                include_usage: false,
                output_limit: OutputLimit { max_tokens: Some(500), max_completion_tokens: None },
                choices: 1,
                input_bytes: 1_000,
                images: 0,
                prediction_bytes: 0,
                unbounded,
                priced_apart: None,
            };
            let target = Target {
                route: "m".into(),
                provider: "p".into(),
                priced_as: "p".into(),
                model: "m".into(),
                max_tokens_default: 500,
                total_timeout: Duration::from_secs(60),
            };
            self.number += 1;
            let id = RequestId::new(self.clock.now(), self.number);
            let identity = Identity { id, end_user: None, idempotency: None, attribution: None };
            let principal = self.admission.authenticate(Some(SECRET), None).expect("the key is good");
            let entered = self.admission.enter(&principal, Surface::Chat).expect("it may chat");
            self.admission.admit(&self.books, principal, entered, &call, &target, identity)
        }

        fn posted(&self, at: Timestamp) -> [i128; 2] {
            let scope = Scope::Tenant("demo".parse().expect("a slug"));
            let mut ledger = Ledger::default();
            self.books.records().iter().for_each(|record| ledger.commit(record).expect("it was committed before"));
            let posted = ledger.sums(&scope, Window::Lifetime, at, UtcOffset(0)).posted;
            [posted.cost.0, posted.charge.0]
        }
    }

    fn tiered() -> Plan {
        let tariff = Tariff {
            markup_bps: 3_333,
            included: PicoUsd(1_500_000_001),
            tiers: vec![MarkupTier { above: PicoSum(4_000_000_003), markup_bps: 777 }],
            monthly_minimum: PicoUsd::ZERO,
        };
        Plan { tariff, ..Plan::standard() }
    }

    fn used(input: u64, output: u64) -> Usage {
        Usage { input_tokens: input, output_tokens: output, ..Usage::default() }
    }

    #[test]
    fn a_month_adds_up_whichever_request_is_posted_first_and_however_it_ends() {
        let check = |order: [usize; 5]| {
            let mut house = House::of(tiered());
            let mut permits: Vec<_> = (0..5).map(|_| Some(house.admit(None).expect("it may"))).collect();
            for index in order {
                let mut permit = permits[index].take().expect("each once");
                let hold = permit.reservation.hold();
                match index {
                    0 => drop(permit.settle_bounded(Outcome::UsageMissing)),
                    1 => {
                        assert!(permit.reservation.dispatched());
                        drop(permit); // the caller left
                    }
                    2 => {
                        // More than was held for: the tenant pays for the hold's cost at most.
                        let settled = permit.settle(used(5_000, 500), Outcome::Completed);
                        assert_eq!(settled.amounts.cost, hold.cost);
                        assert!(settled.overrun.cost > PicoUsd::ZERO && settled.amounts.charge <= hold.charge);
                    }
                    _ => {
                        let settled = permit.settle(used(700 + index as u64, 333), Outcome::Completed);
                        assert_eq!(settled.overrun, Amounts::ZERO);
                    }
                }
            }
            let [cost, charge] = house.posted(house.clock.now());
            assert_eq!(charge, tiered().tariff.month_charge(PicoSum(cost)).0, "{order:?}");
            [cost, charge]
        };
        let first = check([0, 1, 2, 3, 4]);
        for order in [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 3, 0, 2, 4]] {
            assert_eq!(check(order), first);
        }
    }

    #[test]
    fn a_request_is_charged_in_the_month_in_which_it_was_held() {
        let mut house = House::of(tiered());
        let (november, first) = (house.admit(None).expect("it may"), house.admit(None).expect("it may"));
        let charge = |settled: Settled<MemoryLog>| settled.amounts.charge.0;
        // 1,000 USD-millionths are included, then a third is added.
        assert_eq!(charge(first.settle(used(1_000, 250), Outcome::Completed)), 0);
        house.clock.advance(Duration::from_secs(20 * 86_400));
        let december = house.admit(None).expect("it may");
        assert_eq!(charge(december.settle(used(1_000, 250), Outcome::Completed)), 0, "what is included comes anew");
        // November has used up what was included, though it is December by now.
        assert_eq!(charge(november.settle(used(1_000, 250), Outcome::Completed)), 1_999_949_999);
    }

    #[test]
    fn a_declared_hold_is_held_and_posted_for_what_has_no_bound() {
        let mut strict = House::of(Plan::standard());
        assert!(matches!(strict.admit(Some("sound")), Err(Refusal::UnboundedRequest { .. })));
        let mut declared = House::of(Plan { unbounded_hold: Some(PicoUsd(77)), ..Plan::standard() });
        let permit = declared.admit(Some("sound")).expect("the plan declares it");
        assert_eq!((&*permit.pricing.version, permit.reservation.hold().cost), (UNBOUNDED, PicoUsd(77)));
        let settled = permit.settle(used(1, 1), Outcome::Completed);
        assert_eq!(settled.amounts.cost, PicoUsd(77), "nobody can say that it was less");
        let bounded = declared.admit(None).expect("it has a bound");
        assert_eq!(&*bounded.pricing.version, "t", "what has a bound is priced as ever");
    }

    #[test]
    fn sound_that_has_no_price_is_posted_in_full_with_what_was_stated() {
        let mut house = House::of(Plan::standard());
        let permit = house.admit(None).expect("it may");
        let hold = permit.reservation.hold();
        let usage = Usage { audio_output_tokens: 1, ..used(10, 5) };
        assert_eq!(permit.settle(usage, Outcome::Completed).amounts, hold);
        let posted = house.books.records().into_iter().find_map(|record| match record {
            tollgate_ledger::Record::Posted(posted) => Some(posted),
            _ => None,
        });
        let posted = posted.expect("it was posted");
        assert_eq!((posted.confidence, posted.usage), (Confidence::Bounded, usage));
    }
}
