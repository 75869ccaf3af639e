//! Permission is a value: nothing is sent to a provider without a [`Permit`], and whatever becomes of the permit, the
//! money it holds is posted or given back.

use std::sync::Arc;

use tollgate_ledger::{Amounts, Log, Reservation, Settlement};
use tollgate_types::directory::Tariff;
use tollgate_types::usage::Outcome;
use tollgate_types::{Clock, Confidence, PicoUsd, RequestId, Usage};

use crate::index::Principal;
use crate::limits::{Entry, RateState};
use crate::price::{Priced, Rate};

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

    /// What is left of the limits now.
    pub fn rate(&self) -> RateState {
        self.entry.rate(self.clock.steady())
    }

    /// Posts what the provider says was used. Gives the amounts posted, where the log holds the posting, and what the
    /// provider took beyond the hold, which is the platform's loss and somebody should know of.
    pub fn settle(mut self, usage: Usage, outcome: Outcome) -> Settled<L> {
        self.entry.settle(usage.input_tokens.saturating_add(usage.output_tokens), self.clock.steady());
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

    /// Posts the whole hold: work was done, or may have been, and nobody said how much. The tokens stay as estimated.
    pub fn settle_bounded(self, outcome: Outcome) -> Settled<L> {
        let cost = self.reservation.hold().cost;
        self.post(Usage::default(), cost, Confidence::Bounded, outcome)
    }

    fn post(self, usage: Usage, cost: PicoUsd, confidence: Confidence, outcome: Outcome) -> Settled<L> {
        let rate = self.rate();
        let Self { reservation, pricing, .. } = self;
        let hold = reservation.hold();
        let tariff = &pricing.tariff;
        if tariff.is_plain() {
            let amounts = Amounts { cost, charge: tariff.charge_max(cost) };
            let settlement = Settlement { usage, amounts, confidence, outcome };
            let position = reservation.post(settlement);
            return Settled { amounts: amounts.min(hold), overrun: amounts.beyond(hold), position, rate };
        }
        // The tenant pays for what is posted of the cost and for nothing beyond it, so that its month adds up.
        let (Settlement { amounts, .. }, position) = reservation.post_in_month(|month| {
            let amounts = Amounts { cost, charge: tariff.charge(month.cost, cost.min(hold.cost)) };
            Settlement { usage, amounts, confidence, outcome }
        });
        Settled { amounts: amounts.min(hold), overrun: amounts.beyond(hold), position, rate }
    }

    /// Gives everything back: certainly no work was done.
    pub fn void(mut self, outcome: Outcome) -> Option<L::Position> {
        self.entry.settle(0, self.clock.steady());
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
mod charging {
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
            let admission = Admission::new(&directory, crate::Laws::new(), prices, hasher, clock.clone());
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
                region: None,
                max_tokens_default: 500,
                total_timeout: Duration::from_secs(60),
                work: None,
                law: None,
            };
            self.number += 1;
            let id = RequestId::new(self.clock.now(), self.number);
            let identity =
                Identity { id, end_user: None, idempotency: None, attribution: None, judged: Default::default() };
            let principal = self.admission.authenticate(Some(SECRET)).expect("the key is good");
            let entered = self.admission.enter(&principal, None).expect("it may chat");
            self.admission.admit(&self.books, entered, &call, &target, identity, || None)
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

#[cfg(test)]
mod limiting {
    use std::time::Duration;

    use ring::hmac;
    use tollgate_ledger::{Books, CapSet, Ledger, MemoryLog};
    use tollgate_types::directory::{ApiKey, Change, Directory, Limits, Plan, Project, Tenant};
    use tollgate_types::refusal::RateLimited;
    use tollgate_types::{Basis, Call, OutputLimit, PicoSum, Refusal, Scope, Surface, Timestamp, Window};

    use super::*;
    use crate::index::Index;
    use crate::{Admission, Identity, Judged, Target};

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
            let admission = Admission::new(
                &directory,
                crate::Laws::new(),
                crate::price::PriceBooks::default(),
                hasher,
                clock.clone(),
            );
            let principal = Index::of(&directory, &Index::default()).by_digest(&[7; 32]).expect("the key is known");
            let books = Arc::new(Books::new(Ledger::default(), directory, MemoryLog::default(), clock));
            Self { admission, books, principal }
        }

        fn admit(&self, output: u64) -> Result<Permit<MemoryLog>, Refusal> {
            let entered = self.admission.enter(&self.principal, None)?;
            let (call, target) = (call(output), target());
            let identity = Identity {
                id: RequestId(u128::from(output)),
                end_user: None,
                idempotency: None,
                attribution: None,
                judged: Judged::default(),
            };
            self.admission.admit(&self.books, entered, &call, &target, identity, || None)
        }

        fn left(&self) -> u64 {
            let entered = self.admission.enter(&self.principal, None).expect("nothing limits requests");
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
            region: None,
            max_tokens_default: 16,
            total_timeout: Duration::from_secs(60),
            work: None,
            law: None,
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
