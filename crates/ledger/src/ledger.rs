//! The state machine. Every record passes [`Ledger::check`], a column of guards each with its own reason, and then
//! [`Ledger::apply`], plain arithmetic. Live requests and replay go the same way, so what was refused then is refused
//! again and what was held then is held again.
//!
//! After TigerBeetle's two-phase transfers: pending, then posted or voided; and after double entry: for every column,
//! held = posted + released + pending + indeterminate, in total and over every level of scopes.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::{Basis, Confidence, PicoSum, RequestId, Scope, Timestamp, Window};

use crate::account::{Amounts, Columns, ScopeAccounts, Sums};
use crate::record::{CapSet, Posted, Record, Reserved, Voided};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The latest time any record bore. Time given to the ledger never goes back behind it.
    latest: Timestamp,
    scopes: HashMap<Scope, ScopeAccounts, RandomState>,
    open: HashMap<RequestId, Open, RandomState>,
    totals: Totals,
}

/// A reservation that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    reserved: Reserved,
    state: OpenState,
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
    #[error("the reservation {0} is not open: it was never made, or has ended")]
    NotOpen(RequestId),
    #[error("the reservation {0} is not pending")]
    NotPending(RequestId),
    #[error("the posting of {0} exceeds its hold")]
    PostedBeyondHold(RequestId),
    #[error("the record is older than the one before it")]
    TimeWentBack,
    #[error("a cap may not be negative")]
    NegativeCap,
}

/// One budget as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetState {
    pub scope: Scope,
    pub window: Window,
    pub basis: Basis,
    pub cap: PicoSum,
    pub sums: Sums,
    pub resets_at: Option<Timestamp>,
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

// === impl Ledger: questions ===

impl Ledger {
    pub fn latest(&self) -> Timestamp {
        self.latest
    }

    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// The least that any cap leaves to these scopes, in each column; `None` where no cap counts that column.
    pub fn headroom(&self, scopes: &[Scope], at: Timestamp) -> [Option<PicoSum>; 2] {
        let least = |basis: Basis| {
            let caps = scopes.iter().filter_map(|scope| self.scopes.get(scope)).flat_map(|accounts| {
                accounts.caps().iter().filter(move |cap| cap.basis == basis).map(move |cap| accounts.left(*cap, at))
            });
            caps.min()
        };
        [least(Basis::Cost), least(Basis::Charge)]
    }

    /// Every budget of the scopes that `wanted` accepts.
    pub fn budgets(&self, at: Timestamp, wanted: impl Fn(&Scope) -> bool) -> Vec<BudgetState> {
        let mut budgets: Vec<_> = self
            .scopes
            .iter()
            .filter(|(scope, _)| wanted(scope))
            .flat_map(|(scope, accounts)| accounts.caps().iter().map(move |cap| (scope, accounts, cap)))
            .map(|(scope, accounts, cap)| BudgetState {
                scope: scope.clone(),
                window: cap.window,
                basis: cap.basis,
                cap: cap.cap,
                sums: accounts.sums(cap.window, at),
                resets_at: cap.window.resets_at(at),
            })
            .collect();
        budgets.sort_by(|a, b| (&a.scope, a.window, a.basis).cmp(&(&b.scope, b.window, b.basis)));
        budgets
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
        audit.drift = PicoSum(self.drift(&audit));
        audit.worst_left = self
            .scopes
            .values()
            .flat_map(|accounts| accounts.caps().iter().map(|cap| accounts.left(*cap, self.latest)))
            .min();
        audit
    }

    fn drift(&self, audit: &Audit) -> i128 {
        let totals = &self.totals;
        let mut drift = 0;
        for basis in [Basis::Cost, Basis::Charge] {
            let of = |columns: &Columns| columns.of(basis).0;
            let accounted = of(&totals.posted) + of(&totals.released) + of(&audit.pending) + of(&audit.indeterminate);
            drift += (of(&totals.held) - accounted).abs();
            for level in ["tenant", "project", "key"] {
                let lifetime = self.lifetime_of_level(level);
                drift += (of(&lifetime.posted) - of(&totals.posted)).abs();
                drift += (of(&lifetime.bounded) - of(&totals.bounded)).abs();
                drift += (of(&lifetime.pending) - of(&audit.pending)).abs();
                drift += (of(&lifetime.indeterminate) - of(&audit.indeterminate)).abs();
            }
        }
        drift
    }

    fn lifetime_of_level(&self, level: &str) -> Sums {
        let mut sum = Sums::default();
        for (scope, accounts) in &self.scopes {
            if scope.kind() == level {
                let one = accounts.sums(Window::Lifetime, self.latest);
                let add = |into: &mut Columns, from: Columns| {
                    into.cost.0 += from.cost.0;
                    into.charge.0 += from.charge.0;
                };
                add(&mut sum.posted, one.posted);
                add(&mut sum.bounded, one.bounded);
                add(&mut sum.pending, one.pending);
                add(&mut sum.indeterminate, one.indeterminate);
            }
        }
        sum
    }
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
        let at = time_of(record);
        if at.is_some_and(|at| at < self.latest) {
            return Err(Rejected::TimeWentBack);
        }
        match record {
            Record::Reserved(reserved) => self.check_reserve(reserved),
            Record::Posted(posted) => self.check_post(posted),
            Record::Voided(Voided { id, .. }) | Record::Indeterminate { id, .. } => self.check_pending(*id),
            Record::CapSet(CapSet { cap: Some(cap), .. }) if cap.0 < 0 => Err(Rejected::NegativeCap),
            Record::CapSet(_) | Record::Directory(_) | Record::PricesSet { .. } => Ok(()),
        }
    }

    fn check_reserve(&self, reserved: &Reserved) -> Result<(), Rejected> {
        if self.open.contains_key(&reserved.id) {
            return Err(Rejected::AlreadyReserved(reserved.id));
        }
        for scope in &reserved.scopes() {
            let Some(accounts) = self.scopes.get(scope) else { continue };
            for cap in accounts.caps() {
                let needed = reserved.hold.of(cap.basis);
                let left = accounts.left(*cap, reserved.at);
                if i128::from(needed.0) > left.0 {
                    return Err(Rejected::BudgetExceeded(BudgetExceeded {
                        scope: scope.kind(),
                        window: cap.window,
                        basis: cap.basis,
                        left: PicoSum(left.0.max(0)),
                        needed,
                        resets_at: cap.window.resets_at(reserved.at),
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

    /// Applies a record that [`Ledger::check`] accepted.
    fn apply(&mut self, record: &Record) {
        if let Some(at) = time_of(record) {
            self.latest = at;
        }
        match record {
            Record::Reserved(reserved) => self.hold(reserved),
            Record::Posted(posted) => self.post(posted),
            Record::Voided(voided) => self.void(voided.id),
            Record::Indeterminate { id, at } => self.doubt(*id, *at),
            Record::CapSet(CapSet { scope, window, basis, cap, at }) => {
                let accounts = self.scopes.entry(scope.clone()).or_default();
                accounts.open_period(*at);
                accounts.set_cap(*window, *basis, *cap);
            }
            Record::Directory(_) | Record::PricesSet { .. } => {}
        }
    }

    fn hold(&mut self, reserved: &Reserved) {
        for scope in reserved.scopes() {
            let accounts = self.scopes.entry(scope).or_default();
            accounts.open_period(reserved.at);
            accounts.change(reserved.at, |sums| sums.pending.add(reserved.hold));
        }
        self.totals.held.add(reserved.hold);
        self.totals.requests += 1;
        let open = Open { reserved: reserved.clone(), state: OpenState::Pending { dispatched: false } };
        self.open.insert(reserved.id, open);
    }

    fn post(&mut self, posted: &Posted) {
        let Some(Open { reserved, state }) = self.open.remove(&posted.id) else { return };
        let bounded = posted.confidence == Confidence::Bounded;
        self.change_accounts(&reserved, |sums| {
            held_column(sums, state).take(reserved.hold);
            sums.posted.add(posted.amounts);
            if bounded {
                sums.bounded.add(posted.amounts);
            }
        });
        self.totals.posted.add(posted.amounts);
        if bounded {
            self.totals.bounded.add(posted.amounts);
        }
        self.totals.released.add(reserved.hold.beyond(posted.amounts));
        self.totals.overrun.add(posted.overrun);
    }

    fn void(&mut self, id: RequestId) {
        let Some(Open { reserved, state }) = self.open.remove(&id) else { return };
        self.change_accounts(&reserved, |sums| held_column(sums, state).take(reserved.hold));
        self.totals.released.add(reserved.hold);
    }

    fn doubt(&mut self, id: RequestId, since: Timestamp) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.state = OpenState::Indeterminate { since };
        let reserved = open.reserved.clone();
        self.change_accounts(&reserved, |sums| {
            sums.pending.take(reserved.hold);
            sums.indeterminate.add(reserved.hold);
        });
    }

    fn change_accounts(&mut self, reserved: &Reserved, change: impl Fn(&mut Sums)) {
        for scope in reserved.scopes() {
            if let Some(accounts) = self.scopes.get_mut(&scope) {
                accounts.change(reserved.at, &change);
            }
        }
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
}

fn held_column(sums: &mut Sums, state: OpenState) -> &mut Columns {
    match state {
        OpenState::Pending { .. } => &mut sums.pending,
        OpenState::Indeterminate { .. } => &mut sums.indeterminate,
    }
}

fn time_of(record: &Record) -> Option<Timestamp> {
    match record {
        Record::Reserved(reserved) => Some(reserved.at),
        Record::Posted(Posted { at, .. })
        | Record::Voided(Voided { at, .. })
        | Record::Indeterminate { at, .. }
        | Record::CapSet(CapSet { at, .. })
        | Record::PricesSet { at, .. } => Some(*at),
        Record::Directory(_) => None,
    }
}
