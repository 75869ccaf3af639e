//! What the ledger's sums must be, found the slow way: a list of all records, summed from scratch with plain loops. It
//! shares no arithmetic with the ledger, not even the calendar.

use tollgate_ledger::account::Columns;
use tollgate_ledger::{Amounts, CapSet, Record, Reserved, Sums};
use tollgate_types::{Basis, Confidence, PicoSum, PicoUsd, RequestId, Scope, Timestamp, Window};

#[derive(Default)]
pub struct Oracle {
    pub records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pending,
    Indeterminate,
    Posted(Amounts, Confidence),
    Voided,
}

/// A cap in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapInForce {
    pub scope: Scope,
    pub window: Window,
    pub basis: Basis,
    pub cap: i128,
}

impl Oracle {
    pub fn reservations(&self) -> impl Iterator<Item = &Reserved> {
        self.records.iter().filter_map(|record| match record {
            Record::Reserved(reserved) => Some(&**reserved),
            _ => None,
        })
    }

    /// What became of a reservation; none if there never was one.
    pub fn fate(&self, id: RequestId) -> Option<Fate> {
        let mut fate = None;
        for record in &self.records {
            match record {
                Record::Reserved(reserved) if reserved.id == id => fate = Some(Fate::Pending),
                Record::Indeterminate { id: doubted, .. } if *doubted == id => fate = Some(Fate::Indeterminate),
                Record::Posted(posted) if posted.id == id => {
                    fate = Some(Fate::Posted(posted.amounts, posted.confidence))
                }
                Record::Voided(voided) if voided.id == id => fate = Some(Fate::Voided),
                _ => {}
            }
        }
        fate
    }

    /// What of a request still counts against its caps.
    pub fn counted(&self, reserved: &Reserved) -> Amounts {
        match self.fate(reserved.id) {
            Some(Fate::Pending | Fate::Indeterminate) => reserved.hold,
            Some(Fate::Posted(amounts, _)) => amounts,
            Some(Fate::Voided) | None => Amounts { cost: PicoUsd(0), charge: PicoUsd(0) },
        }
    }

    /// The sums of one scope over the period that `at` falls into.
    pub fn sums(&self, scope: &Scope, window: Window, at: Timestamp) -> Sums {
        let mut sums = Sums::default();
        for reserved in self.reservations() {
            if spends_from(reserved, scope) && same_period(window, reserved.at, at) {
                match self.fate(reserved.id).expect("it was reserved") {
                    Fate::Pending => add(&mut sums.pending, reserved.hold),
                    Fate::Indeterminate => add(&mut sums.indeterminate, reserved.hold),
                    Fate::Posted(amounts, confidence) => {
                        add(&mut sums.posted, amounts);
                        if confidence == Confidence::Bounded {
                            add(&mut sums.bounded, amounts);
                        }
                    }
                    Fate::Voided => {}
                }
            }
        }
        sums
    }

    pub fn used(&self, scope: &Scope, window: Window, basis: Basis, at: Timestamp) -> i128 {
        let mut used = 0;
        for reserved in self.reservations() {
            if spends_from(reserved, scope) && same_period(window, reserved.at, at) {
                used += i128::from(column(self.counted(reserved), basis));
            }
        }
        used
    }

    pub fn caps(&self) -> Vec<CapInForce> {
        let mut caps: Vec<CapInForce> = Vec::new();
        for record in &self.records {
            if let Record::CapSet(CapSet { scope, window, basis, cap, .. }) = record {
                caps.retain(|held| (&held.scope, held.window, held.basis) != (scope, *window, *basis));
                if let Some(cap) = cap {
                    caps.push(CapInForce { scope: scope.clone(), window: *window, basis: *basis, cap: cap.0 });
                }
            }
        }
        caps
    }

    /// What a cap leaves for one more hold at `at`.
    pub fn left(&self, cap: &CapInForce, at: Timestamp) -> i128 {
        match cap.window {
            Window::Request => cap.cap,
            window => cap.cap - self.used(&cap.scope, window, cap.basis, at),
        }
    }

    /// The least that any cap leaves to these scopes.
    pub fn headroom(&self, scopes: &[Scope], basis: Basis, at: Timestamp) -> Option<PicoSum> {
        let mut least = None;
        for cap in self.caps() {
            if scopes.contains(&cap.scope) && cap.basis == basis {
                let left = self.left(&cap, at);
                least = Some(least.map_or(left, |least: i128| least.min(left)));
            }
        }
        least.map(PicoSum)
    }
}

pub fn column(amounts: Amounts, basis: Basis) -> u64 {
    match basis {
        Basis::Cost => amounts.cost.0,
        Basis::Charge => amounts.charge.0,
    }
}

fn add(columns: &mut Columns, amounts: Amounts) {
    columns.cost.0 += i128::from(amounts.cost.0);
    columns.charge.0 += i128::from(amounts.charge.0);
}

fn spends_from(reserved: &Reserved, scope: &Scope) -> bool {
    match scope {
        Scope::Tenant(tenant) => reserved.spender.tenant == *tenant,
        Scope::Project(tenant, project) => reserved.spender.tenant == *tenant && reserved.spender.project == *project,
        Scope::Key(tenant, key) => reserved.spender.tenant == *tenant && reserved.spender.key == *key,
        _ => false,
    }
}

/// The calendar by another road than the ledger's: year and month counted off day by day from 1970.
fn same_period(window: Window, one: Timestamp, other: Timestamp) -> bool {
    let day = |at: Timestamp| at.0 / 1_000_000 / 60 / 60 / 24;
    match window {
        Window::Request => false,
        Window::Day => day(one) == day(other),
        Window::Month => months_since_1970(day(one)) == months_since_1970(day(other)),
        Window::Lifetime => true,
    }
}

fn months_since_1970(mut days: i64) -> i64 {
    let (mut year, mut months) = (1970, 0);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for length in [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                return months;
            }
            days -= length;
            months += 1;
        }
        year += 1;
    }
}
