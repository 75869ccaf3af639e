//! Sums over one scope: an account for each period of each window that is counted, and the caps that are set on them.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tollgate_types::window::Period;
use tollgate_types::{Basis, PicoSum, PicoUsd, Timestamp, UtcOffset, Window};

/// The two money columns of one request: what it costs us, and what the tenant is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    pub cost: PicoUsd,
    pub charge: PicoUsd,
}

/// The two money columns, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    pub cost: PicoSum,
    pub charge: PicoSum,
}

/// Where the money of an account stands. `bounded` is the part of `posted` that is an upper bound, not a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub posted: Columns,
    pub bounded: Columns,
    pub pending: Columns,
    pub indeterminate: Columns,
}

/// One period of one window. Each period has an account of its own, so there is no reset that could go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    window: Window,
    period: Period,
    posted: Columns,
    /// Mostly nothing, in a hundred thousand tenants that are silent at this moment: so it has a place of its own.
    unsettled: Option<Box<Unsettled>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Unsettled {
    bounded: Columns,
    pending: Columns,
    indeterminate: Columns,
}

/// A budget: a ceiling, thresholds that only alert, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    pub window: Window,
    pub basis: Basis,
    /// `None`: it refuses nothing.
    pub cap: Option<PicoSum>,
    /// Ascending.
    pub alerts: SmallVec<[PicoSum; 2]>,
}

/// All that is known of one scope's money.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScopeAccounts {
    /// In the order of windows, then bases.
    caps: Vec<Cap>,
    /// In no order; few.
    accounts: Vec<Account>,
}

// === impl Amounts ===

impl Amounts {
    pub const ZERO: Self = Self { cost: PicoUsd::ZERO, charge: PicoUsd::ZERO };

    pub fn of(self, basis: Basis) -> PicoUsd {
        match basis {
            Basis::Cost => self.cost,
            Basis::Charge => self.charge,
        }
    }

    /// Column by column, the smaller.
    pub fn min(self, other: Self) -> Self {
        Self { cost: self.cost.min(other.cost), charge: self.charge.min(other.charge) }
    }

    /// Column by column, what of `self` exceeds `other`.
    pub fn beyond(self, other: Self) -> Self {
        Self { cost: self.cost.saturating_sub(other.cost), charge: self.charge.saturating_sub(other.charge) }
    }

    /// Column by column, the larger.
    pub fn max(self, other: Self) -> Self {
        Self { cost: self.cost.max(other.cost), charge: self.charge.max(other.charge) }
    }

    /// Column by column, and no more than a column can hold.
    pub fn saturating_add(self, other: Self) -> Self {
        let add = |a: PicoUsd, b: PicoUsd| PicoUsd(a.0.saturating_add(b.0));
        Self { cost: add(self.cost, other.cost), charge: add(self.charge, other.charge) }
    }

    /// Column by column; `None` if one column is too large to hold.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self { cost: self.cost.checked_add(other.cost)?, charge: self.charge.checked_add(other.charge)? })
    }
}

// === impl Columns ===

impl Columns {
    pub fn of(self, basis: Basis) -> PicoSum {
        match basis {
            Basis::Cost => self.cost,
            Basis::Charge => self.charge,
        }
    }

    /// An `i128` holds 10^26 USD: a sum of `u64` amounts cannot leave it in the life of this universe.
    pub(crate) fn add(&mut self, amounts: Amounts) {
        self.cost.0 = self.cost.0.checked_add(i128::from(amounts.cost.0)).expect("10^26 USD were not spent");
        self.charge.0 = self.charge.0.checked_add(i128::from(amounts.charge.0)).expect("10^26 USD were not spent");
    }

    pub(crate) fn take(&mut self, amounts: Amounts) {
        self.cost.0 = self.cost.0.checked_sub(i128::from(amounts.cost.0)).expect("what was added can be taken");
        self.charge.0 = self.charge.0.checked_sub(i128::from(amounts.charge.0)).expect("what was added can be taken");
    }

    pub(crate) fn add_columns(&mut self, other: Self) {
        self.cost.0 = self.cost.0.checked_add(other.cost.0).expect("10^26 USD were not spent");
        self.charge.0 = self.charge.0.checked_add(other.charge.0).expect("10^26 USD were not spent");
    }
}

// === impl Sums ===

impl Sums {
    /// What counts against a cap.
    pub fn used(&self, basis: Basis) -> PicoSum {
        PicoSum(self.posted.of(basis).0 + self.pending.of(basis).0 + self.indeterminate.of(basis).0)
    }

    fn hold_nothing(&self) -> bool {
        self.pending == Columns::default() && self.indeterminate == Columns::default()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.posted.add_columns(other.posted);
        self.bounded.add_columns(other.bounded);
        self.pending.add_columns(other.pending);
        self.indeterminate.add_columns(other.indeterminate);
    }
}

// === impl Account ===

impl Account {
    fn new(window: Window, period: Period) -> Self {
        Self { window, period, posted: Columns::default(), unsettled: None }
    }

    fn is(&self, window: Window, period: Period) -> bool {
        self.window == window && self.period == period
    }

    fn sums(&self) -> Sums {
        let Unsettled { bounded, pending, indeterminate } = self.unsettled.as_deref().copied().unwrap_or_default();
        Sums { posted: self.posted, bounded, pending, indeterminate }
    }

    fn used(&self, basis: Basis) -> i128 {
        let unsettled = self.unsettled.as_deref();
        let open = unsettled.map_or(0, |open| open.pending.of(basis).0 + open.indeterminate.of(basis).0);
        self.posted.of(basis).0 + open
    }

    fn holds_nothing(&self) -> bool {
        self.unsettled.is_none() || self.sums().hold_nothing()
    }

    fn change(&mut self, change: impl FnOnce(&mut Sums)) {
        let mut sums = self.sums();
        change(&mut sums);
        let Sums { posted, bounded, pending, indeterminate } = sums;
        self.posted = posted;
        let unsettled = Unsettled { bounded, pending, indeterminate };
        match &mut self.unsettled {
            Some(open) => **open = unsettled,
            None if unsettled == Unsettled::default() => {}
            None => self.unsettled = Some(Box::new(unsettled)),
        }
    }
}

// === impl ScopeAccounts ===

impl ScopeAccounts {
    /// Of a scope that has neither spent nor a budget.
    pub const NONE: Self = Self { caps: Vec::new(), accounts: Vec::new() };

    pub fn caps(&self) -> &[Cap] {
        &self.caps
    }

    pub fn has_alerts(&self) -> bool {
        self.caps.iter().any(|cap| !cap.alerts.is_empty())
    }

    pub fn has_cap(&self, window: Window, basis: Basis) -> bool {
        self.caps.iter().any(|cap| (cap.window, cap.basis) == (window, basis))
    }

    /// Sets a cap, or takes it away if it neither refuses nor alerts.
    pub fn set_cap(&mut self, cap: Cap) {
        self.caps.retain(|held| (held.window, held.basis) != (cap.window, cap.basis));
        if cap.cap.is_some() || !cap.alerts.is_empty() {
            self.caps.reserve_exact(1);
            self.caps.push(cap);
            self.caps.sort_by_key(|cap| (cap.window, cap.basis));
        }
    }

    /// The period of `window` that `at` falls into. Never one before a period that has begun: where a zone's date, or a
    /// tenant's zone, is set back, the day that has begun goes on until the calendar is past it.
    pub fn period(&self, window: Window, at: Timestamp, offset: UtcOffset) -> Period {
        let by_calendar = window.period(at, offset);
        self.latest_period(window).map_or(by_calendar, |latest| latest.max(by_calendar))
    }

    fn latest_period(&self, window: Window) -> Option<Period> {
        self.accounts.iter().filter(|account| account.window == window).map(|account| account.period).max()
    }

    /// The sums of everything that counts at `at`: of the one period, or of the parts of a rolling window.
    pub fn sums(&self, window: Window, at: Timestamp, offset: UtcOffset) -> Sums {
        let mut sums = Sums::default();
        self.counted(window, at, offset).for_each(|account| sums.add(&account.sums()));
        sums
    }

    /// What is posted in just this period; `None` where it is not counted here, or no more.
    pub fn posted_in(&self, window: Window, period: Period) -> Option<Columns> {
        self.accounts.iter().find(|account| account.is(window, period)).map(|account| account.posted)
    }

    fn counted(&self, window: Window, at: Timestamp, offset: UtcOffset) -> impl Iterator<Item = &Account> {
        let first = window.first_counted(self.period(window, at, offset));
        self.accounts.iter().filter(move |account| account.window == window && account.period >= first)
    }

    /// What a ceiling leaves for one more hold. Negative when it was lowered below what is used; `None` if there is none.
    pub fn left(&self, cap: &Cap, at: Timestamp, offset: UtcOffset) -> Option<PicoSum> {
        let ceiling = cap.cap?;
        if cap.window == Window::Request {
            return Some(ceiling);
        }
        let used: i128 = self.counted(cap.window, at, offset).map(|account| account.used(cap.basis)).sum();
        Some(PicoSum(ceiling.0 - used))
    }

    /// What a ceiling leaves in the period that was begun last, whether it has ended meanwhile or not.
    pub fn left_of_latest(&self, cap: &Cap) -> Option<PicoSum> {
        let ceiling = cap.cap?;
        let Some(latest) = self.latest_period(cap.window) else { return Some(ceiling) };
        let first = cap.window.first_counted(latest);
        let counted = self.accounts.iter().filter(|account| account.window == cap.window && account.period >= first);
        Some(PicoSum(ceiling.0 - counted.map(|account| account.used(cap.basis)).sum::<i128>()))
    }

    /// When some of what a rolling window counts will count no more.
    pub fn next_leaves_at(&self, window: Window, at: Timestamp, offset: UtcOffset) -> Option<Timestamp> {
        let spent = self.counted(window, at, offset).filter(|account| account.sums() != Sums::default());
        spent.map(|account| account.period).min().and_then(|oldest| window.leaves_at(oldest))
    }

    /// Adds to the account of the period that `at` falls into, beginning it if need be, and says which that is.
    pub fn enter(
        &mut self,
        window: Window,
        at: Timestamp,
        offset: UtcOffset,
        change: impl FnOnce(&mut Sums),
    ) -> Period {
        let period = self.period(window, at, offset);
        let index = match self.accounts.iter().position(|account| account.is(window, period)) {
            Some(index) => index,
            None => self.begin(window, period),
        };
        self.accounts[index].change(change);
        period
    }

    /// Begins an account, in the place of one that counts no more if there is one.
    fn begin(&mut self, window: Window, period: Period) -> usize {
        let first = window.first_counted(period);
        let stale = |account: &Account| account.window == window && account.period < first && account.holds_nothing();
        if let Some(index) = self.accounts.iter().position(stale) {
            self.accounts[index] = Account::new(window, period);
            return index;
        }
        self.accounts.reserve_exact(1);
        self.accounts.push(Account::new(window, period));
        self.accounts.len() - 1
    }

    /// Changes the account of a period that was entered, whatever the time is now.
    pub fn change(&mut self, window: Window, period: Period, change: impl FnOnce(&mut Sums)) -> Option<Sums> {
        let account = self.accounts.iter_mut().find(|account| account.is(window, period))?;
        account.change(change);
        let sums = account.sums();
        let latest = self.latest_period(window)?;
        if period < window.first_counted(latest) && sums.hold_nothing() {
            self.accounts.retain(|account| !account.is(window, period));
        }
        Some(sums)
    }

    /// Changes what is posted in a period of a window that is always counted; not where that period is history.
    pub fn adjust(&mut self, window: Window, period: Period, was: Amounts, change: impl FnOnce(&mut Sums)) {
        let account = self.accounts.iter_mut().find(|account| account.is(window, period));
        let covers =
            |posted: Columns| posted.cost.0 >= i128::from(was.cost.0) && posted.charge.0 >= i128::from(was.charge.0);
        if let Some(account) = account.filter(|account| covers(account.posted)) {
            account.change(change);
        }
    }

    /// Gives back memory that only what is under way needs. Changes nothing that can be asked.
    pub fn compact(&mut self) {
        for account in &mut self.accounts {
            account.unsettled.take_if(|open| **open == Unsettled::default());
        }
    }

    /// Drops what no budget can ever ask about again, and says whether anything is left. Only for scopes that count no
    /// window beyond those that are capped.
    pub fn forget_ended(&mut self, at: Timestamp, offset: UtcOffset, is_capped: impl Fn(Window) -> bool) -> bool {
        let periods = Window::ALL.map(|window| (window, window.first_counted(window.period(at, offset))));
        let counts = |account: &Account| {
            let first = periods.iter().find(|(window, _)| *window == account.window).map(|(_, first)| *first);
            is_capped(account.window) && first.is_some_and(|first| account.period >= first)
        };
        self.accounts.retain(|account| !account.holds_nothing() || counts(account));
        !(self.accounts.is_empty() && self.caps.is_empty())
    }

    /// Windows that budgets of this scope need counted.
    pub fn capped_windows(&self) -> impl Iterator<Item = Window> + '_ {
        self.caps.iter().map(|cap| cap.window).filter(|window| *window != Window::Request)
    }
}
