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
///
/// 32 bytes: a tenant has a dozen of them, and there may be a hundred thousand tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeptAccount", into = "KeptAccount")]
struct Account {
    window: Window,
    period: Period,
    /// Of the cost and the charge that are posted, the lower 64 bits: all of it, up to 18 million USD.
    posted: [u64; 2],
    /// Mostly nothing, in tenants that are silent at this moment: so it has a place of its own.
    unsettled: Option<Box<Unsettled>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Unsettled {
    bounded: Columns,
    pending: Columns,
    indeterminate: Columns,
    /// Reservations that have not ended. Counted, because a hold of nothing may grow yet.
    open: u32,
    /// When, for the first time, a request was taken in that the calendar puts into an earlier period.
    set_back: Option<Timestamp>,
    /// The upper 64 bits of what is posted; snapshots have it in the whole sum.
    #[serde(skip)]
    posted_above: [i64; 2],
}

/// An account as snapshots have it.
#[derive(Serialize, Deserialize)]
struct KeptAccount {
    window: Window,
    period: Period,
    posted: Columns,
    unsettled: Option<Unsettled>,
}

/// What is posted for one request, and how much of it is a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    pub amounts: Amounts,
    pub bounded: Amounts,
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
    caps: Box<[Cap]>,
    /// In no order; few.
    accounts: Box<[Account]>,
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
        Self { window, period, posted: [0; 2], unsettled: None }
    }

    fn is(&self, window: Window, period: Period) -> bool {
        self.window == window && self.period == period
    }

    fn sums(&self) -> Sums {
        let Unsettled { bounded, pending, indeterminate, .. } = self.unsettled.as_deref().copied().unwrap_or_default();
        Sums { posted: self.posted(), bounded, pending, indeterminate }
    }

    fn posted(&self) -> Columns {
        let [cost, charge] = self.unsettled.as_ref().map_or([0; 2], |unsettled| unsettled.posted_above);
        let whole = |above: i64, below: u64| PicoSum((i128::from(above) << 64) + i128::from(below));
        Columns { cost: whole(cost, self.posted[0]), charge: whole(charge, self.posted[1]) }
    }

    fn used(&self, basis: Basis) -> i128 {
        let unsettled = self.unsettled.as_deref();
        let open = unsettled.map_or(0, |open| open.pending.of(basis).0 + open.indeterminate.of(basis).0);
        self.posted().of(basis).0 + open
    }

    /// Whether nothing is under way in it.
    fn is_at_rest(&self) -> bool {
        self.unsettled.as_ref().is_none_or(|unsettled| unsettled.open == 0)
    }

    fn change(&mut self, change: impl FnOnce(&mut Sums)) {
        let mut sums = self.sums();
        change(&mut sums);
        self.set(sums);
    }

    fn set(&mut self, sums: Sums) {
        let Sums { posted: Columns { cost, charge }, bounded, pending, indeterminate } = sums;
        let halves = [cost, charge].map(|sum| {
            let (above, below) = (sum.0 >> 64, sum.0 & i128::from(u64::MAX));
            let above = i64::try_from(above).expect("the upper half of 128 bits is 64 bits");
            (above, u64::try_from(below).expect("the lower half of 128 bits is 64 bits"))
        });
        let posted_above = halves.map(|(above, _)| above);
        self.posted = halves.map(|(_, below)| below);
        let rest = Unsettled { bounded, pending, indeterminate, posted_above, ..Unsettled::default() };
        match &mut self.unsettled {
            Some(unsettled) => {
                let Unsettled { open, set_back, .. } = **unsettled;
                **unsettled = Unsettled { open, set_back, ..rest };
            }
            None if rest == Unsettled::default() => {}
            None => self.unsettled = Some(Box::new(rest)),
        }
    }

    /// Whether it took in, at that time or before, requests that the calendar puts into an earlier period. From then on it
    /// took in all of them.
    fn was_set_back_by(&self, at: Timestamp) -> bool {
        self.unsettled.as_ref().and_then(|unsettled| unsettled.set_back).is_some_and(|since| since <= at)
    }
}

impl From<Account> for KeptAccount {
    fn from(account: Account) -> Self {
        let (window, period, posted) = (account.window, account.period, account.posted());
        Self { window, period, posted, unsettled: account.unsettled.map(|unsettled| *unsettled) }
    }
}

impl From<KeptAccount> for Account {
    fn from(KeptAccount { window, period, posted, unsettled }: KeptAccount) -> Self {
        let unsettled = unsettled.filter(|unsettled| *unsettled != Unsettled::default()).map(Box::new);
        let mut account = Self { unsettled, ..Self::new(window, period) };
        account.change(|sums| sums.posted = posted);
        account
    }
}

// === impl ScopeAccounts ===

impl ScopeAccounts {
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
        let mut caps = std::mem::take(&mut self.caps).into_vec();
        caps.retain(|held| (held.window, held.basis) != (cap.window, cap.basis));
        if cap.cap.is_some() || !cap.alerts.is_empty() {
            caps.push(cap);
            caps.sort_by_key(|cap| (cap.window, cap.basis));
        }
        self.caps = caps.into();
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
        self.account(window, period).map(Account::posted)
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

    /// What a ceiling leaves for more in `period`, in which something is held already.
    pub fn left_in(&self, cap: &Cap, period: Period) -> Option<PicoSum> {
        let used = self.account(cap.window, period).map_or(0, |account| account.used(cap.basis));
        Some(PicoSum(cap.cap?.0 - used))
    }

    /// What is posted in all parts of a rolling window that count at `at`; none if `period` is not among them.
    pub fn posted_beside(&self, window: Window, period: Period, at: Timestamp, offset: UtcOffset) -> Option<Columns> {
        let counts = period >= window.first_counted(self.period(window, at, offset));
        counts.then(|| self.sums(window, at, offset).posted)
    }

    fn account(&self, window: Window, period: Period) -> Option<&Account> {
        self.accounts.iter().find(|account| account.is(window, period))
    }

    /// What a ceiling leaves in the period that was begun last.
    /// Not of one that had ended by `ended`, wherever on earth: that may have been forgotten.
    pub fn left_of_latest(&self, cap: &Cap, ended: Timestamp) -> Option<PicoSum> {
        let ceiling = cap.cap?;
        let Some(latest) = self.latest_period(cap.window) else { return Some(ceiling) };
        if latest < cap.window.first_counted(cap.window.period(ended, UtcOffset::default())) {
            return Some(ceiling);
        }
        let first = cap.window.first_counted(latest);
        let counted = self.accounts.iter().filter(|account| account.window == cap.window && account.period >= first);
        Some(PicoSum(ceiling.0 - counted.map(|account| account.used(cap.basis)).sum::<i128>()))
    }

    /// When some of what a rolling window counts will count no more.
    pub fn next_leaves_at(&self, window: Window, at: Timestamp, offset: UtcOffset) -> Option<Timestamp> {
        let spent = self.counted(window, at, offset).filter(|account| account.sums() != Sums::default());
        spent.map(|account| account.period).min().and_then(|oldest| window.leaves_at(oldest))
    }

    /// Holds in the account of the period that `at` falls into, beginning it if need be, and says which that is.
    pub fn enter(&mut self, window: Window, at: Timestamp, offset: UtcOffset, hold: Amounts) -> Period {
        let by_calendar = window.period(at, offset);
        let accounts = self.accounts.iter().enumerate().filter(|(_, account)| account.window == window);
        let latest = accounts.map(|(index, account)| (account.period, index)).max();
        let (period, index) = match latest {
            Some((latest, index)) if latest >= by_calendar => (latest, index),
            _ => (by_calendar, self.begin(window, by_calendar)),
        };
        let unsettled = self.accounts[index].unsettled.get_or_insert_default();
        unsettled.open += 1;
        unsettled.pending.add(hold);
        if by_calendar < period {
            unsettled.set_back.get_or_insert(at);
        }
        period
    }

    /// Begins an account, in the place of one that counts no more if there is one.
    fn begin(&mut self, window: Window, period: Period) -> usize {
        let first = window.first_counted(period);
        let stale = |account: &Account| account.window == window && account.period < first && account.is_at_rest();
        if let Some(index) = self.accounts.iter().position(stale) {
            self.accounts[index] = Account::new(window, period);
            return index;
        }
        self.change_list(|accounts| {
            accounts.reserve_exact(1);
            accounts.push(Account::new(window, period));
            accounts.len() - 1
        })
    }

    fn change_list<T>(&mut self, change: impl FnOnce(&mut Vec<Account>) -> T) -> T {
        let mut accounts = std::mem::take(&mut self.accounts).into_vec();
        let done = change(&mut accounts);
        self.accounts = accounts.into();
        done
    }

    /// Changes the account of a period that was entered, whatever the time is now. Gives back what was posted before.
    pub fn change(&mut self, window: Window, period: Period, change: impl FnOnce(&mut Sums)) -> Columns {
        let account = self.accounts.iter_mut().find(|account| account.is(window, period));
        let account = account.expect("an account is kept while a reservation is open in it");
        let before = account.posted();
        account.change(change);
        before
    }

    /// The same, for a reservation that ends with it. An account of a period that is over is forgotten with its last one.
    pub fn leave(&mut self, window: Window, period: Period, change: impl FnOnce(&mut Sums)) -> Columns {
        let index = self.accounts.iter().position(|account| account.is(window, period));
        let index = index.expect("an account is kept while a reservation is open in it");
        let account = &mut self.accounts[index];
        let before = account.posted();
        account.change(change);
        if let Some(unsettled) = &mut account.unsettled {
            unsettled.open -= 1;
        }
        if account.is_at_rest() && !self.still_counts(window, period) {
            self.change_list(|accounts| accounts.swap_remove(index));
        }
        before
    }

    /// Whether `period` is the latest that was begun, or among those that a rolling window counts beside the latest.
    fn still_counts(&self, window: Window, period: Period) -> bool {
        self.latest_period(window).is_some_and(|latest| period >= window.first_counted(latest))
    }

    /// Changes what is posted for a request held at `held_at`, if the period that counted it still counts at `at`. Gives back what
    /// was posted in it before.
    ///
    /// In a window that is not always counted nobody knows whether the request was: there nothing is taken away.
    pub fn adjust(
        &mut self,
        window: Window,
        [held_at, at]: [Timestamp; 2],
        offset: UtcOffset,
        is_always_counted: bool,
        [was, now]: [Posting; 2],
    ) -> Option<(Period, Columns)> {
        let by_calendar = window.period(held_at, offset);
        let current = self.period(window, at, offset);
        let account = self.accounts.iter_mut().find(|account| match window.is_rolling() {
            true => account.is(window, by_calendar) && by_calendar >= window.first_counted(current),
            false => account.is(window, current) && (by_calendar >= current || account.was_set_back_by(held_at)),
        })?;
        let before = account.posted();
        account.change(|sums| {
            if is_always_counted {
                sums.posted.take(was.amounts);
                sums.bounded.take(was.bounded);
                sums.posted.add(now.amounts);
                sums.bounded.add(now.bounded);
            } else {
                sums.posted.add(now.amounts.beyond(was.amounts));
            }
        });
        Some((account.period, before))
    }

    /// Whether so much is posted in the period of `window` that was begun last.
    pub fn covers(&self, window: Window, posting: Posting) -> bool {
        let covers = |sum: Columns, part: Amounts| {
            sum.cost.0 >= i128::from(part.cost.0) && sum.charge.0 >= i128::from(part.charge.0)
        };
        let latest = self.latest_period(window).and_then(|latest| self.account(window, latest));
        latest
            .map(Account::sums)
            .is_some_and(|sums| covers(sums.posted, posting.amounts) && covers(sums.bounded, posting.bounded))
    }

    /// Gives back memory that only what is under way needs, and says whether something still is. Changes nothing that can be
    /// asked.
    pub fn compact(&mut self) -> bool {
        for account in &mut self.accounts {
            account.unsettled.take_if(|unsettled| **unsettled == Unsettled::default());
        }
        !self.accounts.iter().all(Account::is_at_rest)
    }

    /// Drops periods that ended before `at`, in which no budget, whether it is there already or yet to be set, can count
    /// anything again; and says whether anything is left.
    pub fn forget_ended(&mut self, at: Timestamp, offset: UtcOffset) -> bool {
        let counts =
            |account: &Account| account.period >= account.window.first_counted(account.window.period(at, offset));
        self.change_list(|accounts| accounts.retain(|account| !account.is_at_rest() || counts(account)));
        !(self.accounts.is_empty() && self.caps.is_empty())
    }

    /// Windows that budgets of this scope need counted.
    pub fn capped_windows(&self) -> impl Iterator<Item = Window> + '_ {
        self.caps.iter().map(|cap| cap.window).filter(|window| *window != Window::Request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(cost: u64, charge: u64) -> Amounts {
        Amounts { cost: PicoUsd(cost), charge: PicoUsd(charge) }
    }

    #[test]
    fn amounts_are_compared_and_added_column_by_column() {
        let (a, b) = (amounts(3, 10), amounts(5, 7));
        assert_eq!(a.min(b), amounts(3, 7));
        assert_eq!(a.max(b), amounts(5, 10));
        assert_eq!((a.beyond(b), b.beyond(a)), (amounts(0, 3), amounts(2, 0)));
        assert_eq!(a.checked_add(b), Some(amounts(8, 17)));
        for (most, sum) in [(amounts(u64::MAX, 0), amounts(u64::MAX, 10)), (amounts(0, u64::MAX), amounts(3, u64::MAX))]
        {
            assert_eq!((a.checked_add(most), a.saturating_add(most)), (None, sum));
        }
        assert_eq!((a.of(Basis::Cost), a.of(Basis::Charge)), (PicoUsd(3), PicoUsd(10)));
    }

    #[test]
    fn a_place_for_what_is_under_way_is_given_back_when_nothing_is() {
        let mut accounts = ScopeAccounts::default();
        let period = accounts.enter(Window::Day, Timestamp(0), UtcOffset(0), amounts(3, 3));
        assert!(accounts.compact() && accounts.accounts[0].unsettled.is_some(), "money is held");
        accounts.leave(Window::Day, period, |sums| sums.pending.take(amounts(3, 3)));
        assert!(!accounts.compact() && accounts.accounts[0].unsettled.is_none());
    }

    #[test]
    fn sums_beyond_64_bits_are_exact_and_survive_being_tidied_and_kept() {
        let mut accounts = ScopeAccounts::default();
        let much = amounts(u64::MAX, u64::MAX - 1);
        for n in 1..=3 {
            let period = accounts.enter(Window::Day, Timestamp(0), UtcOffset(0), much);
            accounts.leave(Window::Day, period, |sums| {
                sums.pending.take(much);
                sums.posted.add(much);
            });
            accounts.compact();
            let posted = accounts.posted_in(Window::Day, period).expect("it is counted");
            assert_eq!((posted.cost.0, posted.charge.0), (n * i128::from(u64::MAX), n * i128::from(u64::MAX - 1)));
            let kept = postcard::to_stdvec(&accounts).expect("plain data");
            assert_eq!(postcard::from_bytes::<ScopeAccounts>(&kept).expect("what was written"), accounts);
        }
        assert_eq!(size_of::<Account>(), 32);
    }

    #[test]
    fn a_sum_below_nothing_is_kept_as_it_is() {
        let mut account = Account::new(Window::Day, Period(1));
        account.change(|sums| sums.posted.take(amounts(1, u64::MAX)));
        assert_eq!((account.posted().cost.0, account.posted().charge.0), (-1, -i128::from(u64::MAX)));
    }
}
