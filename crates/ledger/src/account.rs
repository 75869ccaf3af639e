//! Sums over one scope: an account for each running window, and the caps that are set on them.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tollgate_types::window::Period;
use tollgate_types::{Basis, PicoSum, PicoUsd, Timestamp, Window};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    period: Period,
    sums: Sums,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cap {
    pub window: Window,
    pub basis: Basis,
    pub cap: PicoSum,
}

/// All that is known of one scope's money.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScopeAccounts {
    running: [Account; Window::RUNNING.len()],
    /// Ended periods that still hold money of requests that began in them.
    ended: Vec<(Window, Account)>,
    caps: SmallVec<[Cap; 1]>,
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
}

// === impl Sums ===

impl Sums {
    /// What counts against a cap.
    pub fn used(&self, basis: Basis) -> PicoSum {
        PicoSum(self.posted.of(basis).0 + self.pending.of(basis).0 + self.indeterminate.of(basis).0)
    }

    fn holds_nothing(&self) -> bool {
        self.pending == Columns::default() && self.indeterminate == Columns::default()
    }
}

// === impl ScopeAccounts ===

impl ScopeAccounts {
    pub fn caps(&self) -> &[Cap] {
        &self.caps
    }

    pub fn set_cap(&mut self, window: Window, basis: Basis, cap: Option<PicoSum>) {
        self.caps.retain(|held| (held.window, held.basis) != (window, basis));
        if let Some(cap) = cap {
            self.caps.push(Cap { window, basis, cap });
            self.caps.sort_by_key(|cap| (cap.window, cap.basis));
        }
    }

    /// The sums of the period that `at` falls into.
    pub fn sums(&self, window: Window, at: Timestamp) -> Sums {
        let period = window.period(at);
        let Some(index) = running_index(window) else { return Sums::default() };
        let current = &self.running[index];
        if current.period == period {
            return current.sums;
        }
        let ended = self.ended.iter().find(|(w, account)| *w == window && account.period == period);
        ended.map(|(_, account)| account.sums).unwrap_or_default()
    }

    /// What a cap leaves for one more hold. Negative when the cap was lowered below what is used.
    pub fn left(&self, cap: Cap, at: Timestamp) -> PicoSum {
        PicoSum(cap.cap.0 - self.sums(cap.window, at).used(cap.basis).0)
    }

    /// Opens the period of `at`, keeping what ended periods still hold. Time never goes back here: the books see to it.
    pub fn open_period(&mut self, at: Timestamp) {
        for (window, account) in Window::RUNNING.into_iter().zip(&mut self.running) {
            let period = window.period(at);
            if account.period < period {
                if !account.sums.holds_nothing() {
                    self.ended.push((window, *account));
                }
                *account = Account { period, sums: Sums::default() };
            }
        }
    }

    /// Changes the accounts of every window for a request that was held at `held_at`, whatever the time is now.
    pub fn change(&mut self, held_at: Timestamp, change: impl Fn(&mut Sums)) {
        for window in Window::RUNNING {
            if let Some(account) = self.account_mut(window, window.period(held_at)) {
                change(&mut account.sums);
            }
        }
        self.ended.retain(|(_, account)| !account.sums.holds_nothing());
    }

    fn account_mut(&mut self, window: Window, period: Period) -> Option<&mut Account> {
        let current = &mut self.running[running_index(window)?];
        if current.period == period {
            return Some(current);
        }
        self.ended.iter_mut().find(|(w, account)| *w == window && account.period == period).map(|(_, account)| account)
    }
}

fn running_index(window: Window) -> Option<usize> {
    Window::RUNNING.into_iter().position(|running| running == window)
}
