//! The state machine. Every record passes [`Ledger::check`], a column of guards each with its own reason, and then
//! [`Ledger::apply`], plain arithmetic. Live requests and replay go the same way, so what was refused then is refused
//! again and what was held then is held again.
//!
//! After TigerBeetle's two-phase transfers: pending, then posted or voided; and after double entry: for every column,
//! held = posted + released + pending + indeterminate, in total and over every level of scopes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::scope::SCOPES_MAX;
use tollgate_types::window::Period;
use tollgate_types::{
    Basis, Confidence, PicoSum, PicoUsd, RequestId, Scope, Spender, TenantId, Timestamp, UtcOffset, Window, Zone,
};

use crate::account::{Amounts, Cap, Columns, ScopeAccounts, Sums};
use crate::idempotency::KeysInUse;
use crate::record::{Adjusted, CapSet, Extended, Posted, Record, Reserved, Voided};
use crate::scopes::{Scopes, Slot};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The latest time any record bore. Time given to the ledger never goes back behind it.
    latest: Timestamp,
    scopes: Scopes,
    open: HashMap<RequestId, Open, RandomState>,
    totals: Totals,
    keys: KeysInUse,
    /// Scopes that spent since memory was last tidied.
    #[serde(skip)]
    warm: Vec<Slot>,
    /// Thresholds that were crossed since somebody last took them.
    #[serde(skip)]
    alerts: Vec<Alert>,
}

/// A reservation that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    reserved: Reserved,
    state: OpenState,
    /// The accounts it is held in. It posts to the same ones, whatever the time is then.
    entries: SmallVec<[Entry; 24]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    slot: Slot,
    window: Window,
    period: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum OpenState {
    Pending {
        dispatched: bool,
    },
    /// Since when its outcome has been in doubt.
    Indeterminate {
        since: Timestamp,
    },
}

/// One scope of a request: where its accounts are, whose budgets it has beside its own, and which calendar it goes by.
#[derive(Clone, Debug)]
struct Place {
    scope: Scope,
    slot: Option<Slot>,
    template: Option<Slot>,
    offset: UtcOffset,
}

/// What is posted rose: in one period of one window, by so much.
struct Rise {
    window: Window,
    period: Period,
    before: Columns,
    added: Amounts,
    at: Timestamp,
}

/// All scopes of a request, widest first.
#[derive(Clone, Debug)]
pub(crate) struct Places(SmallVec<[Place; SCOPES_MAX]>);

/// Everything that ever happened, summed; the other side of every account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub held: Columns,
    pub posted: Columns,
    pub bounded: Columns,
    pub released: Columns,
    pub overrun: Columns,
    pub requests: u64,
}

/// Why a record may not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("{0}")]
    BudgetExceeded(BudgetExceeded),
    #[error("the reservation {0} was already made")]
    AlreadyReserved(RequestId),
    #[error("the idempotency key stands for the request {first}")]
    KeyInUse { first: RequestId, same_body: bool, open: bool },
    #[error("whether the idempotency key is in use was not looked for far enough back")]
    KeyPerhapsInUse,
    #[error("the reservation {0} is not open: it was never made, or has ended")]
    NotOpen(RequestId),
    #[error("the reservation {0} is not pending")]
    NotPending(RequestId),
    #[error("the posting of {0} exceeds its hold")]
    PostedBeyondHold(RequestId),
    #[error("the hold of {0} can only grow")]
    HoldShrinks(RequestId),
    #[error("the request {0} has not ended, so there is nothing to adjust")]
    StillOpen(RequestId),
    #[error("the adjustment of {0} takes back more than was posted")]
    AdjustedBeyondPosted(RequestId),
    #[error("the record is older than the one before it")]
    TimeWentBack,
    #[error("a cap or a threshold may not be negative")]
    NegativeCap,
}

/// One budget as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetState {
    pub scope: Scope,
    pub budget: Cap,
    /// Nothing in the budget of a template, which each of its scopes counts for itself.
    pub sums: Sums,
    pub resets_at: Option<Timestamp>,
}

/// What is posted of a budget crossed one of its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub scope: Scope,
    pub window: Window,
    pub basis: Basis,
    pub threshold: PicoSum,
    pub posted: PicoSum,
    pub at: Timestamp,
}

/// What a self-examination found. All differences are zero in a ledger that balances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub totals: Totals,
    pub pending: Columns,
    pub indeterminate: Columns,
    pub reservations_pending: usize,
    pub reservations_indeterminate: usize,
    /// Deadline of the pending reservation that has been due longest.
    pub oldest_pending_deadline: Option<Timestamp>,
    /// Sum of the absolute differences of everything that ought to be equal, in picodollars.
    pub drift: PicoSum,
    /// The least that any cap leaves now, in picodollars; negative only where a cap was lowered below what was used.
    pub worst_left: Option<PicoSum>,
}

/// Alerts that nobody takes are kept no further than this; the newest are dropped, as the oldest say how it began.
const ALERTS_MAX: usize = 1_000;
/// Below this it is not worth looking which scopes were noted twice.
const WARM_MIN: usize = 100_000;
/// More than any two clocks on earth differ.
const ZONES_APART: Duration = Duration::from_secs(48 * 3600);
/// Kinds of scope that each request spends from: the lifetime sums of each kind are those of everything.
const LEVELS: [&str; 5] = ["platform", "plan", "tenant", "project", "key"];

// === impl Ledger: questions ===

impl Ledger {
    pub fn latest(&self) -> Timestamp {
        self.latest
    }

    /// Everything that ever happened, summed.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Finds the accounts of everybody who spends, once for all that is asked of them afterwards.
    pub(crate) fn places(&self, spender: &Spender, offset: UtcOffset) -> Places {
        let place = |scope| self.place(spender, offset, self.scopes.slot(&scope), scope);
        Places(spender.scopes().map(place).collect())
    }

    fn place(&self, spender: &Spender, offset: UtcOffset, slot: Option<Slot>, scope: Scope) -> Place {
        Place {
            slot,
            template: spender.template_of(&scope).and_then(|template| self.scopes.slot(&template)),
            // What several tenants spend from goes by UTC.
            offset: if scope.is_of_one_tenant() { offset } else { UtcOffset::default() },
            scope,
        }
    }

    /// The least that any cap leaves to this spender, in each column; `None` where no cap counts that column.
    pub fn headroom(&self, spender: &Spender, at: Timestamp, offset: UtcOffset) -> [Option<PicoSum>; 2] {
        self.headroom_at(&self.places(spender, offset), at)
    }

    pub(crate) fn headroom_at(&self, places: &Places, at: Timestamp) -> [Option<PicoSum>; 2] {
        self.least_left(places, |place, cap| self.accounts_of(place).left(cap, at, place.offset))
    }

    /// What the caps of now leave to a request that has ended, beyond what is posted for it.
    pub(crate) fn headroom_beside(&self, adjusted: &Adjusted) -> [Option<PicoSum>; 2] {
        let places = self.places(&adjusted.spender, adjusted.offset);
        self.least_left(&places, |place, cap| self.left_beside(adjusted, place, cap))
    }

    fn left_beside(&self, adjusted: &Adjusted, place: &Place, cap: &Cap) -> Option<PicoSum> {
        match cap.window {
            Window::Request => cap.cap.map(|ceiling| left_of_whole(ceiling, adjusted.was.amounts.of(cap.basis))),
            _ => self.accounts_of(place).left(cap, adjusted.at, place.offset),
        }
    }

    fn least_left(&self, places: &Places, left: impl Fn(&Place, &Cap) -> Option<PicoSum>) -> [Option<PicoSum>; 2] {
        let mut least = [None; 2];
        for place in &places.0 {
            for cap in self.caps_of(place) {
                let Some(left) = left(place, cap) else { continue };
                let column = &mut least[cap.basis as usize];
                *column = Some(column.map_or(left, |least: PicoSum| least.min(left)));
            }
        }
        least
    }

    fn accounts_of(&self, place: &Place) -> &ScopeAccounts {
        /// Of a scope that has neither spent nor a budget.
        static NONE: LazyLock<ScopeAccounts> = LazyLock::new(ScopeAccounts::default);
        place.slot.and_then(|slot| self.scopes.get(slot)).unwrap_or_else(|| &*NONE)
    }

    fn template_of(&self, place: &Place) -> Option<&ScopeAccounts> {
        self.scopes.get(place.template?)
    }

    /// The budgets of a scope: its own, and those of its template that it has not set itself.
    fn caps_of<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = &'a Cap> {
        let own = self.accounts_of(place);
        let inherited = self.template_of(place).into_iter().flat_map(ScopeAccounts::caps);
        own.caps().iter().chain(inherited.filter(|cap| !own.has_cap(cap.window, cap.basis)))
    }

    /// Every budget of the scopes that `wanted` accepts, each in its own zone.
    pub fn budgets(
        &self,
        at: Timestamp,
        zone_of: impl Fn(&Scope) -> Zone,
        wanted: impl Fn(&Scope) -> bool,
    ) -> Vec<BudgetState> {
        let mut budgets = Vec::new();
        for (scope, accounts) in self.scopes.iter().filter(|(_, accounts)| !accounts.caps().is_empty()) {
            if !wanted(scope) {
                continue;
            }
            let zone = zone_of(scope);
            let offset = zone.offset(at);
            budgets.extend(accounts.caps().iter().map(|cap| BudgetState {
                scope: scope.clone(),
                budget: cap.clone(),
                sums: accounts.sums(cap.window, at, offset),
                resets_at: resets_at(accounts, cap.window, at, &zone),
            }));
        }
        let order = |budget: &BudgetState| (budget.budget.window, budget.budget.basis);
        budgets.sort_by(|a, b| (&a.scope, order(a)).cmp(&(&b.scope, order(b))));
        budgets
    }

    /// Where a scope stands in a window, whether there is a budget on it or not.
    pub fn sums(&self, scope: &Scope, window: Window, at: Timestamp, offset: UtcOffset) -> Sums {
        self.scopes.named(scope).map(|accounts| accounts.sums(window, at, offset)).unwrap_or_default()
    }

    /// What is posted of the tenant's month in which an open reservation is held, whatever month it is now.
    pub fn month_posted(&self, id: RequestId) -> Option<Columns> {
        let Open { reserved, entries, .. } = self.open.get(&id)?;
        let tenant = self.scopes.slot(&Scope::Tenant(reserved.spender.tenant.clone()))?;
        let held_in = entries.iter().find(|entry| (entry.slot, entry.window) == (tenant, Window::Month))?;
        self.scopes.get(tenant)?.posted_in(Window::Month, held_in.period)
    }

    /// What is posted of the month into which a time falls; `None` once that month is history here.
    pub fn month_posted_at(&self, tenant: &TenantId, at: Timestamp, offset: UtcOffset) -> Option<Columns> {
        let accounts = self.scopes.named(&Scope::Tenant(tenant.clone()))?;
        accounts.posted_in(Window::Month, Window::Month.period(at, offset))
    }

    /// Pending reservations whose deadline lies before `due`, and whether each had been sent to a provider.
    pub fn pending_due(&self, due: Timestamp) -> Vec<(Reserved, bool)> {
        let pending = |open: &Open| match open.state {
            OpenState::Pending { dispatched } if open.reserved.deadline < due => {
                Some((open.reserved.clone(), dispatched))
            }
            _ => None,
        };
        self.open.values().filter_map(pending).collect()
    }

    pub fn pending(&self) -> Vec<RequestId> {
        let is_pending = |open: &Open| matches!(open.state, OpenState::Pending { .. });
        self.open.iter().filter(|(_, open)| is_pending(open)).map(|(id, _)| *id).collect()
    }

    /// Reservations that became indeterminate before `before`.
    pub fn indeterminate_before(&self, before: Timestamp) -> Vec<Reserved> {
        let old = |open: &&Open| matches!(open.state, OpenState::Indeterminate { since } if since < before);
        self.open.values().filter(old).map(|open| open.reserved.clone()).collect()
    }

    pub fn reserved(&self, id: RequestId) -> Option<&Reserved> {
        self.open.get(&id).map(|open| &open.reserved)
    }

    /// The idempotency keys that memory knows.
    pub fn keys(&self) -> &KeysInUse {
        &self.keys
    }

    pub fn is_indeterminate(&self, id: RequestId) -> bool {
        self.open.get(&id).is_some_and(|open| matches!(open.state, OpenState::Indeterminate { .. }))
    }

    /// Adds everything up again, in every way it can be added up, and compares.
    pub fn audit(&self) -> Audit {
        let mut audit = Audit { totals: self.totals, ..Audit::default() };
        for open in self.open.values() {
            match open.state {
                OpenState::Pending { .. } => {
                    audit.pending.add(open.reserved.hold);
                    audit.reservations_pending += 1;
                    let oldest = audit.oldest_pending_deadline.get_or_insert(open.reserved.deadline);
                    *oldest = open.reserved.deadline.min(*oldest);
                }
                OpenState::Indeterminate { .. } => {
                    audit.indeterminate.add(open.reserved.hold);
                    audit.reservations_indeterminate += 1;
                }
            }
        }
        let ended = self.latest.minus(ZONES_APART / 2);
        let mut levels = [Sums::default(); LEVELS.len()];
        for (scope, accounts) in self.scopes.iter() {
            if let Some(level) = LEVELS.iter().position(|level| *level == scope.kind()) {
                levels[level].add(&accounts.sums(Window::Lifetime, self.latest, UtcOffset::default()));
            }
            if !scope.is_template() {
                let left = accounts.caps().iter().filter_map(|cap| accounts.left_of_latest(cap, ended));
                audit.worst_left = audit.worst_left.into_iter().chain(left).min();
            }
        }
        audit.drift = PicoSum(self.drift(&audit, &levels));
        audit
    }

    fn drift(&self, audit: &Audit, levels: &[Sums]) -> i128 {
        let totals = &self.totals;
        let mut drift = 0;
        for basis in [Basis::Cost, Basis::Charge] {
            let of = |columns: &Columns| columns.of(basis).0;
            let accounted = of(&totals.posted) + of(&totals.released) + of(&audit.pending) + of(&audit.indeterminate);
            drift += (of(&totals.held) - accounted).abs();
            for level in levels {
                drift += (of(&level.posted) - of(&totals.posted)).abs();
                drift += (of(&level.bounded) - of(&totals.bounded)).abs();
                drift += (of(&level.pending) - of(&audit.pending)).abs();
                drift += (of(&level.indeterminate) - of(&audit.indeterminate)).abs();
            }
        }
        drift
    }

    /// Thresholds that were crossed since this was last asked.
    pub fn take_alerts(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.alerts)
    }
}

/// When a window begins anew, or a rolling one has room again.
fn resets_at(accounts: &ScopeAccounts, window: Window, at: Timestamp, zone: &Zone) -> Option<Timestamp> {
    let Some(mut resets_at) = window.resets_at(at, zone) else {
        return accounts.next_leaves_at(window, at, zone.offset(at));
    };
    // Where a zone was set back the calendar has to be past the period that has begun.
    let counted = accounts.period(window, at, zone.offset(at));
    while window.period(resets_at, zone.offset(resets_at)) <= counted {
        let next = window.resets_at(resets_at, zone).filter(|next| *next > resets_at);
        resets_at = next?;
    }
    Some(resets_at)
}

// === impl Ledger: records ===

impl Ledger {
    /// Checks a record and applies it, or says why not and changes nothing.
    pub fn commit(&mut self, record: &Record) -> Result<(), Rejected> {
        self.check(record)?;
        self.apply(record);
        Ok(())
    }

    /// Whether `record` may be applied now.
    pub fn check(&self, record: &Record) -> Result<(), Rejected> {
        let at = record.at();
        if at.is_some_and(|at| at < self.latest) {
            return Err(Rejected::TimeWentBack);
        }
        match record {
            Record::Reserved(reserved) => {
                if let Some(idempotency) = reserved.idempotency {
                    self.keys.check(&reserved.spender.tenant, idempotency)?;
                }
                let places = self.places(&reserved.spender, reserved.offset);
                self.check_reserve(&places, reserved.id, reserved.at, reserved.hold, &Zone::UTC)
            }
            Record::Posted(posted) => self.check_post(posted),
            Record::Voided(Voided { id, .. }) | Record::Indeterminate { id, .. } => self.check_pending(*id),
            Record::CapSet(set) if is_negative(set) => Err(Rejected::NegativeCap),
            Record::Extended(extended) => self.check_extend(extended, &Zone::UTC),
            Record::Adjusted(adjusted) => self.check_adjust(adjusted),
            Record::CapSet(_) | Record::Directory(_) | Record::PricesSet { .. } | Record::Audited(_) => Ok(()),
        }
    }

    /// Whether the hold fits every cap. `zone` is the tenant's; it only says in a refusal when the budget resets.
    pub(crate) fn check_reserve(
        &self,
        places: &Places,
        id: RequestId,
        at: Timestamp,
        hold: Amounts,
        zone: &Zone,
    ) -> Result<(), Rejected> {
        self.check_new(id)?;
        self.check_caps(places, at, hold, zone, |place, cap| self.accounts_of(place).left(cap, at, place.offset))
    }

    pub(crate) fn check_new(&self, id: RequestId) -> Result<(), Rejected> {
        if self.open.contains_key(&id) { Err(Rejected::AlreadyReserved(id)) } else { Ok(()) }
    }

    /// Whether `needed` fits what each cap leaves, as `left` says.
    fn check_caps(
        &self,
        places: &Places,
        at: Timestamp,
        needed: Amounts,
        zone: &Zone,
        left: impl Fn(&Place, &Cap) -> Option<PicoSum>,
    ) -> Result<(), Rejected> {
        for place in &places.0 {
            for cap in self.caps_of(place) {
                let Some(left) = left(place, cap) else { continue };
                let needed = needed.of(cap.basis);
                if i128::from(needed.0) > left.0 {
                    let shared = !place.scope.is_of_one_tenant();
                    let zone = if shared { &Zone::UTC } else { zone };
                    return Err(Rejected::BudgetExceeded(BudgetExceeded {
                        scope: place.scope.kind(),
                        shared,
                        window: cap.window,
                        basis: cap.basis,
                        left: PicoSum(left.0.max(0)),
                        needed,
                        resets_at: resets_at(self.accounts_of(place), cap.window, at, zone),
                    }));
                }
            }
        }
        Ok(())
    }

    fn check_post(&self, posted: &Posted) -> Result<(), Rejected> {
        let open = self.open.get(&posted.id).ok_or(Rejected::NotOpen(posted.id))?;
        if posted.amounts.beyond(open.reserved.hold) != Amounts::ZERO {
            return Err(Rejected::PostedBeyondHold(posted.id));
        }
        Ok(())
    }

    fn check_pending(&self, id: RequestId) -> Result<(), Rejected> {
        match self.open.get(&id).ok_or(Rejected::NotOpen(id))?.state {
            OpenState::Pending { .. } => Ok(()),
            OpenState::Indeterminate { .. } => Err(Rejected::NotPending(id)),
        }
    }

    /// The whole of the larger hold lies in the periods of the first, whether they have ended or not: so what is added must
    /// fit there, and in what rolling windows count now.
    pub(crate) fn check_extend(&self, extended: &Extended, zone: &Zone) -> Result<(), Rejected> {
        self.check_pending(extended.id)?;
        let open = self.open.get(&extended.id).ok_or(Rejected::NotOpen(extended.id))?;
        let reserved = &open.reserved;
        if reserved.hold.beyond(extended.hold) != Amounts::ZERO {
            return Err(Rejected::HoldShrinks(extended.id));
        }
        let added = extended.hold.beyond(reserved.hold);
        let places = self.places(&reserved.spender, reserved.offset);
        self.check_caps(&places, extended.at, added, zone, |place, cap| {
            if added.of(cap.basis) == PicoUsd::ZERO { None } else { self.left_to_grow(open, place, cap, extended.at) }
        })
    }

    /// What a cap leaves for the hold of an open reservation to grow by.
    fn left_to_grow(&self, open: &Open, place: &Place, cap: &Cap, at: Timestamp) -> Option<PicoSum> {
        if cap.window == Window::Request {
            return cap.cap.map(|ceiling| left_of_whole(ceiling, open.reserved.hold.of(cap.basis)));
        }
        let accounts = self.accounts_of(place);
        let entry = open.entries.iter().find(|entry| (Some(entry.slot), entry.window) == (place.slot, cap.window))?;
        match cap.window.is_rolling() {
            true => accounts.left(cap, at, place.offset),
            false => accounts.left_in(cap, entry.period),
        }
    }

    /// What the whole hold of an open reservation may grow to, in each column; never less than it is. `None` where no cap
    /// counts that column.
    pub(crate) fn room_of(&self, id: RequestId, at: Timestamp) -> Result<[Option<PicoSum>; 2], Rejected> {
        let open = self.open.get(&id).ok_or(Rejected::NotOpen(id))?;
        let reserved = &open.reserved;
        let places = self.places(&reserved.spender, reserved.offset);
        Ok(self.least_left(&places, |place, cap| {
            let left = self.left_to_grow(open, place, cap, at)?;
            Some(PicoSum(i128::from(reserved.hold.of(cap.basis).0).saturating_add(left.0.max(0))))
        }))
    }

    /// More than before is counted only where the caps of now leave room; the books put the rest on the platform.
    fn check_adjust(&self, adjusted: &Adjusted) -> Result<(), Rejected> {
        if self.open.contains_key(&adjusted.id) {
            return Err(Rejected::StillOpen(adjusted.id));
        }
        let was = adjusted.was.amounts;
        let places = self.places(&adjusted.spender, adjusted.offset);
        let mut always_counted = places.0.iter().filter(|place| place.is_always_counted());
        if !always_counted.all(|place| self.accounts_of(place).covers(Window::Lifetime, adjusted.was.posting())) {
            return Err(Rejected::AdjustedBeyondPosted(adjusted.id));
        }
        let added = adjusted.now.amounts.beyond(was);
        self.check_caps(&places, adjusted.at, added, &Zone::UTC, |place, cap| {
            if added.of(cap.basis) == PicoUsd::ZERO { None } else { self.left_beside(adjusted, place, cap) }
        })
    }

    /// Applies a record that [`Ledger::check`] accepted.
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Reserved(reserved) => {
                let places = self.places(&reserved.spender, reserved.offset);
                self.hold(places, reserved);
            }
            Record::Posted(posted) => self.post(posted),
            Record::Voided(voided) => self.void(voided.id),
            Record::Indeterminate { id, at } => self.doubt(*id, *at),
            Record::CapSet(CapSet { scope, window, basis, cap, alerts, .. }) => {
                let slot = self.scopes.slot_or_new(scope);
                let accounts = self.scopes.get_mut(slot).expect("a slot that was just found is there");
                accounts.set_cap(Cap { window: *window, basis: *basis, cap: *cap, alerts: alerts.clone() });
            }
            Record::Extended(extended) => self.extend(extended),
            Record::Adjusted(adjusted) => self.adjust(adjusted),
            Record::Directory(_) | Record::PricesSet { .. } | Record::Audited(_) => {}
        }
        if let Some(at) = record.at() {
            self.latest = at;
        }
    }

    pub(crate) fn hold(&mut self, places: Places, reserved: &Reserved) {
        let mut entries = SmallVec::new();
        for place in places.0 {
            let windows = self.windows_of(&place);
            if windows.is_empty() {
                continue;
            }
            let slot = place.slot.unwrap_or_else(|| self.scopes.slot_or_new(&place.scope));
            let accounts = self.scopes.get_mut(slot).expect("a slot that was just found is there");
            for window in windows {
                let period = accounts.enter(window, reserved.at, place.offset, reserved.hold);
                entries.push(Entry { slot, window, period });
            }
            self.warm.push(slot);
        }
        // While records are read again nobody tidies.
        if self.warm.len() > 2 * self.scopes.len() + WARM_MIN {
            self.warm.sort_unstable();
            self.warm.dedup();
        }
        self.keys.begin(reserved);
        self.latest = reserved.at;
        self.totals.held.add(reserved.hold);
        self.totals.requests += 1;
        let open = Open { reserved: reserved.clone(), state: OpenState::Pending { dispatched: false }, entries };
        self.open.insert(reserved.id, open);
    }

    /// What is counted of a scope: what budgets ask for, and the standing windows.
    fn windows_of(&self, place: &Place) -> SmallVec<[Window; 8]> {
        let mut windows = SmallVec::new();
        if place.is_always_counted() {
            windows.extend(Window::STANDING);
        }
        let own = self.accounts_of(place).capped_windows();
        for window in own.chain(self.template_of(place).into_iter().flat_map(ScopeAccounts::capped_windows)) {
            if !windows.contains(&window) {
                windows.push(window);
            }
        }
        windows
    }

    fn post(&mut self, posted: &Posted) {
        let Some(open) = self.open.remove(&posted.id) else { return };
        let Open { reserved, state, entries } = open;
        let bounded = posted.confidence == Confidence::Bounded;
        let mut watched: Option<(Slot, Option<Place>)> = None;
        for Entry { slot, window, period } in entries {
            let Some(accounts) = self.scopes.get_mut(slot) else { continue };
            let before = accounts.leave(window, period, |sums| {
                held_column(sums, state).take(reserved.hold);
                sums.posted.add(posted.amounts);
                if bounded {
                    sums.bounded.add(posted.amounts);
                }
            });
            // A scope's entries stand together: whether anybody watches it is asked once.
            if watched.as_ref().is_none_or(|(known, _)| *known != slot) {
                watched = Some((slot, self.watched(&reserved, slot)));
            }
            if let Some((_, Some(place))) = &watched {
                let rise = Rise { window, period, before, added: posted.amounts, at: posted.at };
                self.alert_of(place, &rise);
            }
        }
        self.keys.charge(&reserved, posted.at);
        self.totals.posted.add(posted.amounts);
        if bounded {
            self.totals.bounded.add(posted.amounts);
        }
        self.totals.released.add(reserved.hold.beyond(posted.amounts));
        self.totals.overrun.add(posted.overrun);
    }

    /// The scope, if one of its budgets has thresholds.
    fn watched(&self, reserved: &Reserved, slot: Slot) -> Option<Place> {
        let scope = self.scopes.name(slot)?;
        let place = self.place(&reserved.spender, reserved.offset, Some(slot), scope.clone());
        self.is_watched(&place).then_some(place)
    }

    fn is_watched(&self, place: &Place) -> bool {
        self.accounts_of(place).has_alerts() || self.template_of(place).is_some_and(ScopeAccounts::has_alerts)
    }

    /// Notes each threshold that was crossed.
    fn alert_of(&mut self, place: &Place, rise: &Rise) {
        let room = ALERTS_MAX.saturating_sub(self.alerts.len());
        let crossed = self.crossed(place, rise);
        self.alerts.extend(crossed.into_iter().take(room));
    }

    fn crossed(&self, place: &Place, rise: &Rise) -> Vec<Alert> {
        let Rise { window, period, before, added, at } = *rise;
        let mut crossed = Vec::new();
        for cap in self.caps_of(place).filter(|cap| cap.window == window) {
            let added = i128::from(added.of(cap.basis).0);
            let after = match window.is_rolling() {
                true => match self.accounts_of(place).posted_beside(window, period, at, place.offset) {
                    Some(counted) => counted.of(cap.basis).0,
                    // It rolled out: what is posted there counts no more.
                    None => continue,
                },
                false => before.of(cap.basis).0 + added,
            };
            let passed = cap.alerts.iter().filter(|threshold| after - added < threshold.0 && threshold.0 <= after);
            crossed.extend(passed.map(|threshold| Alert {
                scope: place.scope.clone(),
                window,
                basis: cap.basis,
                threshold: *threshold,
                posted: PicoSum(after),
                at,
            }));
        }
        crossed
    }

    fn void(&mut self, id: RequestId) {
        let Some(Open { reserved, state, entries }) = self.open.remove(&id) else { return };
        for Entry { slot, window, period } in entries {
            if let Some(accounts) = self.scopes.get_mut(slot) {
                accounts.leave(window, period, |sums| held_column(sums, state).take(reserved.hold));
            }
        }
        self.keys.free(&reserved);
        self.totals.released.add(reserved.hold);
    }

    fn doubt(&mut self, id: RequestId, since: Timestamp) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.state = OpenState::Indeterminate { since };
        let (hold, entries) = (open.reserved.hold, open.entries.clone());
        self.change_accounts(&entries, |sums| {
            sums.pending.take(hold);
            sums.indeterminate.add(hold);
        });
    }

    fn extend(&mut self, extended: &Extended) {
        let Some(open) = self.open.get_mut(&extended.id) else { return };
        let added = extended.hold.beyond(open.reserved.hold);
        let Extended { hold, provider, model, price_version, .. } = extended;
        open.reserved.hold = *hold;
        open.reserved.provider = Arc::clone(provider);
        open.reserved.model = Arc::clone(model);
        open.reserved.price_version = Arc::clone(price_version);
        let entries = open.entries.clone();
        self.change_accounts(&entries, |sums| sums.pending.add(added));
        self.totals.held.add(added);
    }

    fn change_accounts(&mut self, entries: &[Entry], change: impl Fn(&mut Sums)) {
        for Entry { slot, window, period } in entries {
            if let Some(accounts) = self.scopes.get_mut(*slot) {
                accounts.change(*window, *period, &change);
            }
        }
    }

    /// Changes what is posted in those of the request's periods that are still counted; the others are history.
    fn adjust(&mut self, adjusted: &Adjusted) {
        let (was, now) = (adjusted.was, adjusted.now);
        for place in self.places(&adjusted.spender, adjusted.offset).0 {
            for window in Window::ALL {
                let is_always_counted = place.is_always_counted() && Window::STANDING.contains(&window);
                let Some(accounts) = place.slot.and_then(|slot| self.scopes.get_mut(slot)) else { continue };
                let postings = [was.posting(), now.posting()];
                let done =
                    accounts.adjust(window, [adjusted.held_at, adjusted.at], place.offset, is_always_counted, postings);
                let Some((period, before)) = done else { continue };
                if self.is_watched(&place) {
                    let added = now.amounts.beyond(was.amounts);
                    self.alert_of(&place, &Rise { window, period, before, added, at: adjusted.at });
                }
            }
        }
        let totals = &mut self.totals;
        totals.posted.take(was.amounts);
        totals.posted.add(now.amounts);
        totals.bounded.take(was.posting().bounded);
        totals.bounded.add(now.posting().bounded);
        totals.overrun.take(was.overrun);
        totals.overrun.add(now.overrun);
        // What is less was released after all; what is more was released too early.
        totals.released.add(was.amounts.beyond(now.amounts));
        totals.released.take(now.amounts.beyond(was.amounts));
    }

    /// Notes whether a request is out at its provider; `false` if its reservation is pending no more. Not a record:
    /// after a crash every pending request is taken to have gone out.
    pub fn mark_dispatched(&mut self, id: RequestId, out: bool) -> bool {
        match self.open.get_mut(&id) {
            Some(Open { state: OpenState::Pending { dispatched }, .. }) => {
                *dispatched = out;
                true
            }
            _ => false,
        }
    }

    /// Gives back memory of scopes that fell silent, if at least so many have spent since it was last done. Changes nothing
    /// that can be asked.
    pub fn compact(&mut self, at_least: usize) {
        if self.warm.len() < at_least {
            return;
        }
        let mut warm = std::mem::take(&mut self.warm);
        warm.sort_unstable();
        warm.dedup();
        warm.retain(|slot| self.scopes.get_mut(*slot).is_some_and(ScopeAccounts::compact));
        self.warm = warm;
    }

    /// Gives back memory of scopes that fell silent, and forgets end users of whom only periods are known that have ended.
    /// Changes nothing that any later record depends on: who reads the records again never tidied.
    pub fn tidy(&mut self, offset_of: impl Fn(&Scope) -> UtcOffset) {
        self.compact(0);
        for slot in 0..self.scopes.len() {
            let slot = Slot::try_from(slot).expect("every slot has a number");
            let Some(scope @ Scope::EndUser(..)) = self.scopes.name(slot) else { continue };
            let offset = offset_of(scope);
            // No zone is set back further than this: what has ended by then has ended for good.
            let at = self.latest.minus(ZONES_APART);
            if self.scopes.get_mut(slot).is_some_and(|accounts| !accounts.forget_ended(at, offset)) {
                self.scopes.forget(slot);
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// Whether its standing windows are counted without any budget on them. Of end users, who may be very many, only that
    /// is counted which budgets ask for.
    fn is_always_counted(&self) -> bool {
        !matches!(self.scope, Scope::EndUser(..))
    }
}

/// What a ceiling on the single request leaves beside what is there of it already.
fn left_of_whole(ceiling: PicoSum, there: PicoUsd) -> PicoSum {
    PicoSum(ceiling.0 - i128::from(there.0))
}

fn is_negative(set: &CapSet) -> bool {
    set.cap.is_some_and(|cap| cap.0 < 0) || set.alerts.iter().any(|threshold| threshold.0 < 0)
}

fn held_column(sums: &mut Sums, state: OpenState) -> &mut Columns {
    match state {
        OpenState::Pending { .. } => &mut sums.pending,
        OpenState::Indeterminate { .. } => &mut sums.indeterminate,
    }
}

#[cfg(test)]
mod tests {
    use tollgate_types::usage::Outcome;
    use tollgate_types::{Usage, Zone};

    use super::*;
    use crate::record::Draft;

    const NOW: Timestamp = Timestamp(1_000_000_000);
    /// Platform, plan, tenant, project and key.
    const SCOPES: usize = 5;

    fn amounts(cost: u64, charge: u64) -> Amounts {
        Amounts { cost: PicoUsd(cost), charge: PicoUsd(charge) }
    }

    fn spender() -> Spender {
        let name = "acme";
        Spender {
            plan: name.parse().expect("a slug"),
            tenant: name.parse().expect("a slug"),
            project: name.parse().expect("a slug"),
            key: name.parse().expect("a slug"),
            end_user: None,
        }
    }

    fn reserved(number: u128) -> Record {
        let draft = Draft {
            id: RequestId(number),
            deadline: NOW,
            spender: spender(),
            zone: Zone::UTC,
            route: "small".into(),
            provider: "sim".into(),
            model: "small-1".into(),
            stream: false,
            price_version: "test-1".into(),
            idempotency: None,
            attribution: None,
            policy: None,
        };
        Record::Reserved(Box::new(draft.into_reserved(NOW, UtcOffset::default(), amounts(100, 110))))
    }

    fn posted(number: u128) -> Record {
        Record::Posted(Posted {
            id: RequestId(number),
            at: NOW,
            usage: Usage::default(),
            amounts: amounts(60, 66),
            overrun: Amounts::ZERO,
            confidence: Confidence::Bounded,
            outcome: Outcome::Completed,
        })
    }

    fn after(records: &[Record]) -> Ledger {
        let mut ledger = Ledger::default();
        for record in records {
            ledger.commit(record).expect("there is no cap");
        }
        ledger
    }

    /// One sum is made wrong by 3 in the cost and by 4 in the charge, too large and too small. What is posted in total is
    /// compared with what was held and with each of the five kinds of scopes.
    #[test]
    fn what_ought_to_be_equal_and_is_not_is_drift_whichever_side_is_larger() {
        type Change = fn(&mut Columns);
        type OfTotals = fn(&mut Totals) -> &mut Columns;
        type OfAccount = fn(&mut Sums) -> &mut Columns;
        let doubt = Record::Indeterminate { id: RequestId(3), at: NOW };
        let ledger = after(&[reserved(1), posted(1), reserved(2), reserved(3), doubt]);
        assert_eq!(ledger.audit().drift, PicoSum::ZERO);
        let check = |name: &str, spoil: &dyn Fn(&mut Ledger, Change), kinds: i128| {
            let changes: [Change; 2] = [|sum| sum.add(amounts(3, 4)), |sum| sum.take(amounts(3, 4))];
            for change in changes {
                let mut spoilt = ledger.clone();
                spoil(&mut spoilt, change);
                assert_eq!(spoilt.audit().drift, PicoSum(7 * kinds), "{name}");
            }
        };
        let of_totals: [(&str, OfTotals, i128); 4] = [
            ("held", |totals| &mut totals.held, 1),
            ("released", |totals| &mut totals.released, 1),
            ("posted", |totals| &mut totals.posted, 1 + 5),
            ("bounded", |totals| &mut totals.bounded, 5),
        ];
        for (name, sum, kinds) in of_totals {
            check(name, &|ledger, change| change(sum(&mut ledger.totals)), kinds);
        }
        let of_an_account: [(&str, OfAccount); 4] = [
            ("posted", |sums| &mut sums.posted),
            ("bounded", |sums| &mut sums.bounded),
            ("pending", |sums| &mut sums.pending),
            ("indeterminate", |sums| &mut sums.indeterminate),
        ];
        for scope in spender().scopes() {
            for (name, sum) in of_an_account {
                let spoil = |ledger: &mut Ledger, change: Change| {
                    let slot = ledger.scopes.slot(&scope).expect("it spent");
                    let accounts = ledger.scopes.get_mut(slot).expect("it spent");
                    accounts.change(Window::Lifetime, Period(0), |sums| change(sum(sums)));
                };
                check(&format!("{name} of the {}", scope.kind()), &spoil, 1);
            }
        }
    }

    /// Whoever reads a long journal again notes scopes at every hold, and nobody tidies meanwhile.
    #[test]
    fn who_spent_is_noted_no_more_often_than_twice_for_each_scope_and_a_margin() {
        let most = 2 * SCOPES + WARM_MIN;
        for (noted, kept) in [(most, most), (most + 1, SCOPES)] {
            let mut ledger = after(&[reserved(1)]);
            ledger.warm = vec![0; noted - SCOPES];
            ledger.commit(&reserved(2)).expect("there is no cap");
            assert_eq!(ledger.warm.len(), kept, "{noted} noted");
        }
    }

    #[test]
    fn memory_is_given_back_when_so_many_spent_and_those_under_way_stay_noted() {
        let ended = after(&[reserved(1), posted(1)]);
        let under_way = after(&[reserved(1)]);
        for (ledger, at_least, noted) in [
            (&ended, SCOPES + 1, SCOPES),
            (&ended, SCOPES, 0),
            (&ended, SCOPES - 1, 0),
            (&under_way, SCOPES + 1, SCOPES),
            (&under_way, 0, SCOPES),
        ] {
            let mut ledger = ledger.clone();
            ledger.compact(at_least);
            assert_eq!(ledger.warm.len(), noted, "at least {at_least}");
            assert_eq!(ledger.audit().drift, PicoSum::ZERO);
        }
    }
}
