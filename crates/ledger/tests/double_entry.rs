//! The same history in somebody else's ledger: `doubleentry`, whose holds are opened, posted in part and voided as ours are,
//! must find the same money posted and pending, in every scope and in total.

use std::collections::HashMap;

use doubleentry::prelude::*;
use doubleentry::{Amount, EntryId, PostAmount};
use proptest::prelude::*;
use tollgate_ledger::account::Columns;
use tollgate_ledger::{Amounts, Record};
use tollgate_types::{Basis, RequestId, Scope, Spender, UtcOffset, Window};

use crate::oracle::{column, scopes_of};
use crate::properties::any_history;
use crate::world::{BASES, every_scope, replay};

const DAY: Date = date!("2026-11-20");

/// One column of one scope.
type Place = (Scope, Basis);

struct Mirror {
    journal: Journal,
    numbers: HashMap<Scope, usize>,
    /// Every open hold of a request: nothing is held where the amount is nothing.
    holds: HashMap<RequestId, Held>,
    spenders: HashMap<RequestId, Spender>,
    entries: u64,
}

struct Held {
    amounts: Amounts,
    holds: HashMap<Place, EntryId>,
}

/// The scopes whose lifetime is always counted.
fn always_counted(spender: &Spender) -> Vec<Scope> {
    scopes_of(spender).into_iter().filter(|scope| !matches!(scope, Scope::EndUser(..))).collect()
}

fn currency(basis: Basis) -> Currency {
    match basis {
        Basis::Cost => USD,
        Basis::Charge => CHF,
    }
}

fn money(pico: u64) -> Amount {
    Amount::from_minor(i128::from(pico)).expect("little")
}

impl Mirror {
    fn new() -> Self {
        let mut journal = Journal::new(LedgerId::new("example.com/mirror").expect("a name"));
        for basis in BASES {
            journal.declare_currency(currency(basis), 2, DAY).expect("declared once");
        }
        journal.define_months(2026, 11..=11).expect("a month");
        let numbers: HashMap<Scope, usize> = every_scope().into_iter().zip(0..).collect();
        for number in numbers.values() {
            journal.open(used_by(*number), AccountKind::Asset, DAY).expect("opened once");
            journal.open(owed_by(*number), AccountKind::Liability, DAY).expect("opened once");
        }
        Self { journal, numbers, holds: HashMap::new(), spenders: HashMap::new(), entries: 0 }
    }

    fn read(&mut self, record: &Record) {
        match record {
            Record::Reserved(reserved) => {
                self.spenders.insert(reserved.id, reserved.spender.clone());
                self.hold(reserved.id, reserved.hold);
            }
            // Their holds do not grow: a larger one takes the place of the first.
            Record::Extended(extended) => {
                self.end(extended.id, Amounts::ZERO);
                self.hold(extended.id, extended.hold);
            }
            Record::Posted(posted) => self.end(posted.id, posted.amounts),
            Record::Voided(voided) => self.end(voided.id, Amounts::ZERO),
            Record::Adjusted(adjusted) => {
                self.book(adjusted.id, adjusted.was.amounts.beyond(adjusted.now.amounts), true);
                self.book(adjusted.id, adjusted.now.amounts.beyond(adjusted.was.amounts), false);
            }
            // In doubt is still held.
            Record::Indeterminate { .. }
            | Record::CapSet(_)
            | Record::Directory(_)
            | Record::PricesSet { .. }
            | Record::Audited(_) => {}
        }
    }

    fn key(&mut self) -> String {
        self.entries += 1;
        format!("entry-{}", self.entries)
    }

    fn record(&mut self, entry: Entry) -> EntryId {
        self.journal.record(entry).unwrap_or_else(|why| panic!("they refused: {why}")).id
    }

    fn hold(&mut self, id: RequestId, amounts: Amounts) {
        let mut holds = HashMap::new();
        for place in self.places(id) {
            let held = column(amounts, place.1);
            if held > 0 {
                let (number, currency) = (self.numbers[&place.0], currency(place.1));
                let entry = Entry::open_hold(self.key(), DAY).debit(used_by(number), money(held), currency).credit(
                    owed_by(number),
                    money(held),
                    currency,
                );
                holds.insert(place, self.record(entry));
            }
        }
        self.holds.insert(id, Held { amounts, holds });
    }

    fn end(&mut self, id: RequestId, used: Amounts) {
        let Held { amounts, holds } = self.holds.remove(&id).expect("held before");
        for (place, hold) in holds {
            let used = column(used, place.1);
            let key = self.key();
            let entry = match used {
                0 => Entry::void_hold(key, DAY, hold),
                all if all == column(amounts, place.1) => Entry::post_hold(key, DAY, hold, PostAmount::Full),
                part => Entry::post_hold(key, DAY, hold, PostAmount::Partial(money(part))),
            };
            self.record(entry);
        }
    }

    fn book(&mut self, id: RequestId, amounts: Amounts, back: bool) {
        for place in self.places(id) {
            let (number, currency) = (self.numbers[&place.0], currency(place.1));
            let (used, owed) = (used_by(number), owed_by(number));
            let (debit, credit) = if back { (owed, used) } else { (used, owed) };
            let booked = column(amounts, place.1);
            if booked > 0 {
                let entry = Entry::new(self.key(), DAY).debit(debit, money(booked), currency).credit(
                    credit,
                    money(booked),
                    currency,
                );
                self.record(entry);
            }
        }
    }

    fn places(&self, id: RequestId) -> Vec<Place> {
        let scopes = always_counted(&self.spenders[&id]).into_iter();
        scopes.flat_map(|scope| BASES.map(|basis| (scope.clone(), basis))).collect()
    }

    /// Posted and pending.
    fn balances(&self, scope: &Scope, basis: Basis) -> [i128; 2] {
        [BalanceQuery::all(), BalanceQuery::all().pending()].map(|query| {
            let balance = self.journal.balance(used_by(self.numbers[scope]), currency(basis), &query);
            balance.expect("a known account").net().to_minor()
        })
    }
}

fn used_by(number: usize) -> String {
    format!("Assets:Used:s{number}")
}

fn owed_by(number: usize) -> String {
    format!("Liabilities:Owed:s{number}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_ledger_finds_the_same_money_posted_and_pending(records in any_history()) {
        let mut mirror = Mirror::new();
        records.iter().for_each(|record| mirror.read(record));
        mirror.journal.audit().expect("their own examination finds nothing");
        let (ledger, audit) = (replay(&records), replay(&records).audit());
        for basis in BASES {
            let of = |columns: Columns| columns.of(basis).0;
            let mut totals = [0, 0];
            for scope in every_scope().into_iter().filter(|scope| !matches!(scope, Scope::EndUser(..))) {
                let sums = ledger.sums(&scope, Window::Lifetime, ledger.latest(), UtcOffset(0));
                let theirs = mirror.balances(&scope, basis);
                prop_assert_eq!(theirs, [of(sums.posted), of(sums.pending) + of(sums.indeterminate)], "{:?}", scope);
                if matches!(scope, Scope::Tenant(_)) {
                    totals = [totals[0] + theirs[0], totals[1] + theirs[1]];
                }
            }
            prop_assert_eq!(totals, [of(audit.totals.posted), of(audit.pending) + of(audit.indeterminate)]);
        }
    }
}
