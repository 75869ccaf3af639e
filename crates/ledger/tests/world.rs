//! The little world these tests happen in: two tenants, their projects and keys, and a clock turned by hand.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tollgate_ledger::books::{Headroom, ReserveError};
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{
    Adjusted, Amounts, Books, BudgetState, CapSet, Draft, Extended, Ledger, MemoryLog, Posted, Record, Rejected,
    Reservation, Settlement, Voided,
};
use tollgate_types::directory::{ApiKey, Change, Directory, Plan, Project, Tenant};
use tollgate_types::money::PICO_PER_USD;
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, EndUserId, KeyId, PicoSum, PicoUsd, ProjectId, RequestId, Scope, Spender, TenantId,
    Timestamp, Usage, UtcOffset, Window, Zone,
};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub const TENANTS: [&str; 2] = ["acme", "bolt"];
pub const PROJECTS: [&str; 2] = ["main", "side"];
pub const KEYS: [&str; 2] = ["k1", "k2"];
/// End users of each tenant.
pub const USERS: u8 = 3;
pub const PLANS: [&str; 2] = [Plan::STANDARD, "pro"];
pub const BASES: [Basis; 2] = [Basis::Cost, Basis::Charge];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
}

/// Books with a log in memory and a clock turned by hand.
pub struct Desk {
    pub books: Arc<Books<MemoryLog>>,
    pub clock: Clock,
}

pub fn slug<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("a slug")
}

pub fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("a time")
}

/// When the tests begin: shortly before the end of a day and of a month.
pub fn start() -> Timestamp {
    at("2026-11-30T20:00:00Z")
}

pub fn id(number: u128) -> RequestId {
    RequestId(number)
}

pub fn both(pico: u64) -> Amounts {
    amounts(pico, pico)
}

pub fn amounts(cost: u64, charge: u64) -> Amounts {
    Amounts { cost: PicoUsd(cost), charge: PicoUsd(charge) }
}

pub fn usd(dollars: u64) -> PicoSum {
    PicoSum(i128::from(dollars) * i128::from(PICO_PER_USD))
}

// === impl Who ===

impl Who {
    pub fn new(tenant: &str, project: &str, key: &str) -> Self {
        Self { tenant: slug(tenant), project: slug(project), key: slug(&format!("{tenant}-{key}")) }
    }

    pub fn acme() -> Self {
        Self::new("acme", "main", "k1")
    }

    pub fn spender(&self) -> Spender {
        let Self { tenant, project, key } = self.clone();
        Spender { plan: Plan::standard().id, tenant, project, key, end_user: None }
    }

    pub fn with_user(&self, user: u8) -> Spender {
        Spender { end_user: Some(EndUserId([user; 16])), ..self.spender() }
    }

    pub fn user(&self, user: u8) -> Scope {
        Scope::EndUser(self.tenant.clone(), EndUserId([user; 16]))
    }

    /// Its tenant's own scopes, widest first.
    pub fn scopes(&self) -> [Scope; 3] {
        let Self { tenant, project, key } = self.clone();
        [Scope::Tenant(tenant.clone()), Scope::Project(tenant.clone(), project), Scope::Key(tenant, key)]
    }

    pub fn draft(&self, id: RequestId) -> Draft {
        Draft {
            id,
            deadline: Timestamp(i64::MAX),
            spender: self.spender(),
            zone: Zone::UTC,
            route: "small".into(),
            provider: "sim".into(),
            model: "small-1".into(),
            stream: false,
            price_version: "test-1".into(),
            idempotency: None,
            attribution: None,
            policy: None,
        }
    }
}

/// Everybody there could be.
pub fn everybody() -> impl Iterator<Item = Who> {
    TENANTS.into_iter().flat_map(|tenant| {
        PROJECTS.into_iter().flat_map(move |project| KEYS.into_iter().map(move |key| Who::new(tenant, project, key)))
    })
}

/// Every scope that a budget may be set on.
pub fn every_scope() -> Vec<Scope> {
    let mut scopes = vec![Scope::Platform];
    scopes.extend(PLANS.into_iter().flat_map(|plan| [Scope::Plan(slug(plan)), Scope::EachTenant(slug(plan))]));
    for who in everybody() {
        let users = (0..USERS).map(|user| who.user(user));
        scopes.extend(who.scopes().into_iter().chain(users).chain([Scope::EachEndUser(who.tenant.clone())]));
    }
    scopes.sort();
    scopes.dedup();
    scopes
}

pub fn directory() -> Directory {
    let mut directory = Directory::default();
    for plan in PLANS {
        directory.apply(Change::PlanSet(Plan { id: slug(plan), ..Plan::standard() }));
    }
    for tenant in TENANTS {
        let who = Tenant::new(slug(tenant), Plan::standard().id, start());
        directory.apply(Change::TenantCreated(who));
        for project in PROJECTS {
            let what = Project { tenant: slug(tenant), id: slug(project), created_at: start(), label: None };
            directory.apply(Change::ProjectCreated(what));
        }
        for key in KEYS {
            directory.apply(Change::KeyCreated(Box::new(api_key(&Who::new(tenant, "main", key)))));
        }
    }
    directory
}

fn api_key(who: &Who) -> ApiKey {
    ApiKey::new(who.key.clone(), who.tenant.clone(), who.project.clone(), [0; 32], start())
}

// === records, for tests of the bare ledger ===

pub fn reserved(number: u128, at: Timestamp, hold: Amounts) -> Record {
    reserved_by(&Who::acme(), number, at, hold)
}

pub fn reserved_by(who: &Who, number: u128, at: Timestamp, hold: Amounts) -> Record {
    reserved_as(who.spender(), UtcOffset(0), number, at, hold)
}

pub fn reserved_as(spender: Spender, offset: UtcOffset, number: u128, at: Timestamp, hold: Amounts) -> Record {
    let draft = Draft { spender, ..Who::acme().draft(id(number)) };
    Record::Reserved(Box::new(draft.into_reserved(at, offset, hold)))
}

pub fn posted(number: u128, at: Timestamp, amounts: Amounts) -> Record {
    posted_as(number, at, amounts, Confidence::Measured)
}

pub fn posted_as(number: u128, at: Timestamp, amounts: Amounts, confidence: Confidence) -> Record {
    let (usage, overrun, outcome) = (Usage::default(), Amounts::ZERO, Outcome::Completed);
    Record::Posted(Posted { id: id(number), at, usage, amounts, overrun, confidence, outcome })
}

/// The hold of a request grew to this, for a dearer provider.
pub fn extended(number: u128, at: Timestamp, hold: Amounts) -> Record {
    let (provider, model, price_version) = ("dear".into(), "large-1".into(), "test-1".into());
    Record::Extended(Box::new(Extended { id: id(number), at, hold, provider, model, price_version }))
}

/// A measured posting turns out to be another: held at `held_at`, adjusted at `at`.
pub fn adjusted(
    spender: Spender,
    offset: UtcOffset,
    number: u128,
    held_at: Timestamp,
    was: Amounts,
    now: Amounts,
) -> Adjusted {
    let standing = |amounts| Standing { amounts, overrun: Amounts::ZERO, confidence: Confidence::Measured };
    Adjusted {
        id: id(number),
        at: held_at,
        spender,
        held_at,
        offset,
        was: standing(was),
        now: standing(now),
        usage: Usage::default(),
        price_version: "test-1".into(),
        reason: Reason::Reconciled,
    }
}

pub fn voided(number: u128, at: Timestamp) -> Record {
    Record::Voided(Voided { id: id(number), at, outcome: Outcome::NotSent })
}

pub fn indeterminate(number: u128, at: Timestamp) -> Record {
    Record::Indeterminate { id: id(number), at }
}

pub fn cap(scope: &Scope, window: Window, basis: Basis, cap: Option<PicoSum>, at: Timestamp) -> Record {
    Record::CapSet(CapSet { scope: scope.clone(), window, basis, cap, alerts: Default::default(), at })
}

/// A budget that refuses nothing and alerts.
pub fn alert(scope: &Scope, window: Window, threshold: i128, at: Timestamp) -> Record {
    let (basis, alerts) = (Basis::Cost, [PicoSum(threshold)].into_iter().collect());
    Record::CapSet(CapSet { scope: scope.clone(), window, basis, cap: None, alerts, at })
}

/// A ledger made from nothing but records, each of which must be accepted.
pub fn replay(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::default();
    for record in records {
        ledger.commit(record).unwrap_or_else(|why| panic!("replay refused {record:?}: {why}"));
    }
    ledger
}

/// Its budgets, all in UTC.
pub fn budgets_of(ledger: &Ledger, at: Timestamp) -> Vec<BudgetState> {
    ledger.budgets(at, |_| Zone::UTC, |_| true)
}

// === settlements and refusals ===

pub fn measured(amounts: Amounts) -> Settlement {
    let (usage, confidence, outcome) = (Usage::default(), Confidence::Measured, Outcome::Completed);
    Settlement { usage, amounts, confidence, outcome }
}

/// The refusal by a budget that this must be.
pub fn budget_refusal<T: Debug>(result: Result<T, ReserveError>) -> BudgetExceeded {
    match result {
        Err(ReserveError::Rejected(Rejected::BudgetExceeded(exceeded))) => exceeded,
        other => panic!("a budget should have refused, but: {other:?}"),
    }
}

// === impl Desk ===

impl Desk {
    pub fn new() -> Self {
        let clock = Clock::manual(start());
        let books = Books::new(Ledger::default(), directory(), MemoryLog::default(), clock.clone());
        Self { books: Arc::new(books), clock }
    }

    /// The same books after the process died and the log was read again.
    pub fn restarted(&self) -> Self {
        let records = self.books.records();
        let books = Books::new(replay(&records), self.books.directory(), MemoryLog(records), self.clock.clone());
        Self { books: Arc::new(books), clock: self.clock.clone() }
    }

    pub fn reserve(&self, who: &Who, number: u128, hold: Amounts) -> Result<Reservation<MemoryLog>, ReserveError> {
        self.books.reserve(who.draft(id(number)), |_| (hold, ())).map(|(reservation, ())| reservation)
    }

    pub fn reserve_until(&self, deadline: Timestamp, number: u128, hold: Amounts) -> Reservation<MemoryLog> {
        let draft = Draft { deadline, ..Who::acme().draft(id(number)) };
        self.books.reserve(draft, |_| (hold, ())).expect("nothing caps this").0
    }

    pub fn cap(&self, scope: &Scope, window: Window, basis: Basis, cap: impl Into<Option<PicoSum>>) {
        let (scope, cap) = (scope.clone(), cap.into());
        let change = CapSet { scope, window, basis, cap, alerts: Default::default(), at: Timestamp::default() };
        self.books.set_cap(change).expect("a scope that exists");
    }

    pub fn headroom(&self, who: &Who) -> Headroom {
        self.books.headroom(&who.spender(), &Zone::UTC)
    }

    /// What counts against the one cap that is set.
    pub fn used(&self) -> i128 {
        let budgets = self.books.budgets(|_| true);
        let [budget] = budgets.as_slice() else { panic!("one budget expected, not {budgets:?}") };
        budget.sums.used(budget.budget.basis).0
    }

    pub fn last_record(&self) -> Record {
        self.books.records().pop().expect("something was recorded")
    }

    /// Turns the clock back, as a machine's clock sometimes is.
    pub fn turn_back(&self, by: Duration) {
        turn_back(&self.clock, by);
    }
}

pub fn turn_back(clock: &Clock, by: Duration) {
    let Clock::Manual(micros) = clock else { panic!("only a manual clock can be turned") };
    micros.fetch_sub(i64::try_from(by.as_micros()).expect("a short time"), Ordering::SeqCst);
}
