//! Random interleavings of everything that can happen to the books, with the promise's lines as invariants after
//! every step: never over, never phantom, never lost, never twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use tollgate_ledger::books::ReserveError;
use tollgate_ledger::{Amounts, Books, BudgetState, CapSet, Draft, Ledger, MemoryLog, Record, Rejected, Reservation};
use tollgate_ledger::{Settlement, Sums};
use tollgate_types::usage::Outcome;
use tollgate_types::{Basis, Clock, Confidence, PicoSum, PicoUsd, RequestId, Scope, Timestamp, Usage, Window};

use crate::oracle::{CapInForce, Fate, Oracle, column};
use crate::world::{
    BASES, HOUR, Who, amounts, cap, directory, everybody, id, posted, replay, start, turn_back, voided,
};

const GRACE: Duration = Duration::from_secs(60);
const AGE: Duration = HOUR;

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        who: Index,
        hold: Amounts,
        minutes: u64,
        clamp: bool,
    },
    ReserveAgain(Index),
    Dispatch(Index),
    TakeBack(Index),
    Post {
        which: Index,
        actual: Amounts,
        confidence: Confidence,
    },
    PostBounded(Index),
    Void(Index),
    Drop(Index),
    Cap {
        who: Index,
        level: usize,
        window: Window,
        basis: Basis,
        cap: Option<i128>,
    },
    Forward {
        minutes: u64,
    },
    Back {
        minutes: u64,
    },
    Sweep,
    SettleAged,
    /// The process dies. Records that nobody waited for may be lost with it.
    Crash {
        lost: Index,
        by_snapshot: bool,
    },
}

fn any_amounts() -> impl Strategy<Value = Amounts> {
    (0..60u64, 0..80u64).prop_map(|(cost, charge)| amounts(cost, charge))
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = any::<Index>;
    let window = proptest::sample::select(&[Window::Request, Window::Day, Window::Month, Window::Lifetime][..]);
    let basis = proptest::sample::select(&BASES[..]);
    let confidence = proptest::sample::select(&[Confidence::Measured, Confidence::Bounded][..]);
    let any_cap = prop_oneof![1 => Just(None), 6 => (0..250i128).prop_map(Some), 1 => Just(Some(i128::MAX))];
    prop_oneof![
        12 => (which(), any_amounts(), 0..180u64, any::<bool>())
            .prop_map(|(who, hold, minutes, clamp)| Step::Reserve { who, hold, minutes, clamp }),
        1 => which().prop_map(Step::ReserveAgain),
        6 => which().prop_map(Step::Dispatch),
        1 => which().prop_map(Step::TakeBack),
        4 => (which(), any_amounts(), confidence)
            .prop_map(|(which, actual, confidence)| Step::Post { which, actual, confidence }),
        1 => which().prop_map(Step::PostBounded),
        1 => which().prop_map(Step::Void),
        2 => which().prop_map(Step::Drop),
        6 => (which(), 0..3usize, window, basis, any_cap)
            .prop_map(|(who, level, window, basis, cap)| Step::Cap { who, level, window, basis, cap }),
        3 => prop_oneof![0..120u64, 0..(3 * 24 * 60u64), Just(40 * 24 * 60u64)].prop_map(|minutes| Step::Forward { minutes }),
        2 => prop_oneof![0..120u64, 0..(40 * 24 * 60u64)].prop_map(|minutes| Step::Back { minutes }),
        1 => Just(Step::Sweep),
        1 => Just(Step::SettleAged),
        1 => (which(), any::<bool>()).prop_map(|(lost, by_snapshot)| Step::Crash { lost, by_snapshot }),
    ]
}

/// One period of one budget.
type Place = (Scope, Window, Basis, Option<Timestamp>);

/// The books under test, and beside them everything needed to say what must be true of them.
struct Run {
    books: Arc<Books<MemoryLog>>,
    clock: Clock,
    live: Vec<Reservation<MemoryLog>>,
    /// A second ledger, which knows nothing but the records.
    shadow: Ledger,
    oracle: Oracle,
    next_id: u128,
    /// Nothing before this place may be lost in a crash: somebody waited for it.
    durable: usize,
    /// What each request sent must go on counting, at least; for the provider may bill it.
    owed: HashMap<RequestId, Amounts>,
    /// What each budget may use at most: its cap, or what it used when the cap was lowered.
    allowed: HashMap<Place, i128>,
}

impl Run {
    fn new() -> Self {
        let clock = Clock::manual(start());
        let books = Books::new(Ledger::default(), directory(), MemoryLog::default(), clock.clone());
        Self {
            books: Arc::new(books),
            clock,
            live: Vec::new(),
            shadow: Ledger::default(),
            oracle: Oracle::default(),
            next_id: 0,
            durable: 0,
            owed: HashMap::new(),
            allowed: HashMap::new(),
        }
    }

    /// The time the books go by.
    fn now(&self) -> Timestamp {
        self.clock.now().max(self.shadow.latest())
    }

    fn take(&mut self, which: Index) -> Option<Reservation<MemoryLog>> {
        if self.live.is_empty() { None } else { Some(self.live.swap_remove(which.index(self.live.len()))) }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Reserve { who, hold, minutes, clamp } => self.reserve(&nth(*who), *hold, *minutes, *clamp),
            Step::ReserveAgain(which) => self.reserve_again(*which),
            Step::Dispatch(which) => self.dispatch(*which),
            Step::TakeBack(which) => {
                if let Some(mut reservation) = self.take(*which) {
                    reservation.not_dispatched();
                    self.owed.remove(&reservation.id());
                    self.live.push(reservation);
                }
            }
            Step::Post { which, actual, confidence } => self.post(*which, *actual, *confidence),
            Step::PostBounded(which) => {
                if let Some(reservation) = self.take(*which) {
                    reservation.post_bounded(Outcome::UsageMissing);
                }
            }
            Step::Void(which) => {
                if let Some(reservation) = self.take(*which) {
                    let id = reservation.id();
                    if reservation.void(Outcome::ProviderRefused).is_some() {
                        self.owed.remove(&id);
                    }
                }
            }
            Step::Drop(which) => drop(self.take(*which)),
            Step::Cap { who, level, window, basis, cap } => {
                let [tenant, project, key] = nth(*who).scopes();
                let scope = [tenant, project, key].into_iter().nth(*level).expect("three levels");
                let (window, basis, cap) = (*window, *basis, cap.map(PicoSum));
                let change = CapSet { scope, window, basis, cap, at: Timestamp::default() };
                self.books.set_cap(change).expect("everybody exists");
            }
            Step::Forward { minutes } => self.clock.advance(Duration::from_secs(60 * minutes)),
            Step::Back { minutes } => turn_back(&self.clock, Duration::from_secs(60 * minutes)),
            Step::Sweep => self.sweep(),
            Step::SettleAged => self.settle_aged(),
            Step::Crash { lost, by_snapshot } => self.crash(*lost, *by_snapshot),
        }
    }

    fn reserve(&mut self, who: &Who, wanted: Amounts, minutes: u64, clamp: bool) {
        self.next_id += 1;
        let deadline = self.now().plus(Duration::from_secs(60 * minutes));
        let draft = Draft { deadline, ..who.draft(id(self.next_id)) };
        let (scopes, now) = (draft.scopes(), self.now());
        let expected = BASES.map(|basis| self.oracle.headroom(&scopes, basis, now));
        let mut hold = wanted;
        let result = self.books.reserve(draft, |headroom| {
            assert_eq!([headroom.cost, headroom.charge], expected, "what is left, says the oracle");
            if clamp {
                let fit =
                    |wanted: PicoUsd, left: Option<PicoSum>| left.map_or(wanted, |l| l.clamp_to_amount().min(wanted));
                hold = Amounts { cost: fit(wanted.cost, headroom.cost), charge: fit(wanted.charge, headroom.charge) };
            }
            (hold, ())
        });
        let over = self.first_exceeded(&scopes, hold, now);
        match result {
            Ok((reservation, ())) => {
                assert_eq!(over, None, "held although a cap is exceeded");
                self.live.push(reservation);
            }
            Err(ReserveError::Rejected(Rejected::BudgetExceeded(refused))) => {
                let over = over.unwrap_or_else(|| panic!("refused although every cap has room: {refused:?}"));
                assert_eq!(
                    (refused.scope, refused.window, refused.basis),
                    (over.scope.kind(), over.window, over.basis)
                );
                assert_eq!(refused.left.0, self.oracle.left(&over, now).max(0), "{over:?}");
                assert_eq!(refused.needed.0, column(hold, over.basis));
                assert_eq!(refused.resets_at, over.window.resets_at(now));
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// The cap that a hold exceeds, by the oracle: the widest scope, then the shortest window, cost before charge.
    fn first_exceeded(&self, scopes: &[Scope; 3], hold: Amounts, now: Timestamp) -> Option<CapInForce> {
        let mut exceeded = Vec::new();
        for cap in self.oracle.caps() {
            let level = scopes.iter().position(|scope| *scope == cap.scope);
            if let Some(level) = level
                && i128::from(column(hold, cap.basis)) > self.oracle.left(&cap, now)
            {
                exceeded.push((level, cap));
            }
        }
        exceeded.sort_by_key(|(level, cap)| (*level, cap.window, cap.basis));
        exceeded.into_iter().next().map(|(_, cap)| cap)
    }

    fn reserve_again(&self, which: Index) {
        if self.live.is_empty() {
            return;
        }
        let open = &self.live[which.index(self.live.len())];
        if matches!(self.oracle.fate(open.id()), Some(Fate::Pending | Fate::Indeterminate)) {
            let again =
                self.books.reserve(everybody().next().expect("somebody").draft(open.id()), |_| (Amounts::ZERO, ()));
            match again {
                Err(ReserveError::Rejected(Rejected::AlreadyReserved(twice))) => assert_eq!(twice, open.id()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits for the log, then sends; unless the reservation has ended.
    fn dispatch(&mut self, which: Index) {
        let Some(mut reservation) = self.take(which) else { return };
        let pending = self.oracle.fate(reservation.id()) == Some(Fate::Pending);
        assert_eq!(reservation.dispatched(), pending);
        if pending {
            self.durable = self.durable.max(reservation.position());
            self.owed.insert(reservation.id(), reservation.hold());
        }
        self.live.push(reservation);
    }

    fn post(&mut self, which: Index, actual: Amounts, confidence: Confidence) {
        let Some(reservation) = self.take(which) else { return };
        let (id, hold) = (reservation.id(), reservation.hold());
        let open = matches!(self.oracle.fate(id), Some(Fate::Pending | Fate::Indeterminate));
        let (usage, outcome) = (Usage::default(), Outcome::Completed);
        let position = reservation.post(Settlement { usage, amounts: actual, confidence, outcome });
        assert_eq!(position.is_some(), open, "a reservation is settled exactly once");
        if open {
            if let Some(owed) = self.owed.get_mut(&id) {
                *owed = actual.min(hold);
            }
            let Some(Record::Posted(posted)) = self.books.records().pop() else { panic!("a posting was made") };
            assert_eq!((posted.amounts, posted.overrun), (actual.min(hold), actual.beyond(hold)));
        }
    }

    fn sweep(&mut self) {
        let due = self.now().0 - i64::try_from(GRACE.as_micros()).expect("short");
        let overdue = |run: &Self| {
            let pending = run.oracle.reservations().filter(|r| run.oracle.fate(r.id) == Some(Fate::Pending));
            pending.filter(|r| r.deadline.0 < due).count()
        };
        assert_eq!(self.books.sweep(GRACE), overdue(self));
        self.follow();
        assert_eq!(overdue(self), 0, "never phantom");
    }

    fn settle_aged(&mut self) {
        let before = self.now().0 - i64::try_from(AGE.as_micros()).expect("short");
        let mut aged = 0;
        for record in &self.oracle.records {
            if let Record::Indeterminate { id, at } = record
                && at.0 < before
                && self.oracle.fate(*id) == Some(Fate::Indeterminate)
            {
                aged += 1;
            }
        }
        assert_eq!(self.books.settle_aged(AGE), aged);
    }

    /// Loses what nobody waited for, reads the rest again, and puts what was pending in doubt.
    fn crash(&mut self, lost: Index, by_snapshot: bool) {
        let mut records = self.books.records();
        let kept = self.durable + lost.index(records.len() - self.durable + 1);
        records.truncate(kept);
        self.durable = kept;
        let ledger = if by_snapshot { restored(&records, lost) } else { replay(&records) };
        self.shadow = replay(&records);
        self.oracle.records.clone_from(&records);
        let pending = self.shadow.audit().reservations_pending;
        // The old process's reservations still settle themselves, but in its own books, which nobody reads any more.
        self.live.clear();
        self.books = Arc::new(Books::new(ledger, directory(), MemoryLog(records), self.clock.clone()));
        self.allowed.clear();
        assert_eq!(self.books.recover(), pending);
        self.follow();
        for budget in self.books.budgets(|_| true) {
            let used = budget.sums.used(budget.basis).0;
            self.allowed.insert(place(&budget), budget.cap.0.max(used));
        }
        assert_eq!(self.books.audit().reservations_pending, 0, "nothing is pending without a request behind it");
    }

    /// Lets shadow and oracle read what the books have written, checking each record as it goes by.
    fn follow(&mut self) {
        let records = self.books.records();
        for record in &records[self.oracle.records.len()..] {
            self.shadow.commit(record).unwrap_or_else(|why| panic!("replay refused {record:?}: {why}"));
            self.oracle.records.push(record.clone());
            if let Record::Reserved(reserved) = record {
                for cap in self.oracle.caps() {
                    if reserved.scopes().contains(&cap.scope) && cap.window != Window::Request {
                        let used = self.oracle.used(&cap.scope, cap.window, cap.basis, reserved.at);
                        assert!(used <= cap.cap, "never over: {used} of {cap:?} after {reserved:?}");
                    }
                }
            }
        }
    }

    fn check(&mut self) {
        self.follow();
        self.check_replay();
        self.check_conservation();
        self.check_caps();
        self.check_sums();
        self.check_nothing_lost();
    }

    /// The records alone lead to the same state.
    fn check_replay(&self) {
        assert_eq!(self.books.audit(), self.shadow.audit());
        assert_eq!(self.books.budgets(|_| true), self.shadow.budgets(self.now(), |_| true));
    }

    fn check_conservation(&self) {
        let audit = self.books.audit();
        assert_eq!(audit.drift, PicoSum::ZERO);
        for basis in BASES {
            let of = |columns: tollgate_ledger::account::Columns| columns.of(basis).0;
            let parts =
                of(audit.totals.posted) + of(audit.totals.released) + of(audit.pending) + of(audit.indeterminate);
            assert_eq!(of(audit.totals.held), parts, "held = posted + released + pending + indeterminate");
            assert!(of(audit.totals.bounded) <= of(audit.totals.posted));
            let mut held = 0;
            for reserved in self.oracle.reservations() {
                held += i128::from(column(reserved.hold, basis));
            }
            assert_eq!(of(audit.totals.held), held);
        }
        let left = self.oracle.caps().iter().map(|cap| self.oracle.left(cap, self.shadow.latest())).min();
        assert_eq!(audit.worst_left, left.map(PicoSum));
        let with_fate = |fate| self.oracle.reservations().filter(|r| self.oracle.fate(r.id) == Some(fate)).count();
        assert_eq!(audit.reservations_pending, with_fate(Fate::Pending));
        assert_eq!(audit.reservations_indeterminate, with_fate(Fate::Indeterminate));
        let pending = self.oracle.reservations().filter(|r| self.oracle.fate(r.id) == Some(Fate::Pending));
        assert_eq!(audit.oldest_pending_deadline, pending.map(|reserved| reserved.deadline).min());
    }

    /// No budget uses more than its cap; or, if the cap was lowered below its use, more than it used then.
    fn check_caps(&mut self) {
        let just_set = match self.oracle.records.last() {
            Some(Record::CapSet(set)) => Some((set.scope.clone(), set.window, set.basis)),
            _ => None,
        };
        for budget in self.books.budgets(|_| true) {
            let used = budget.sums.used(budget.basis).0;
            if just_set != Some((budget.scope.clone(), budget.window, budget.basis)) {
                let most = self.allowed.get(&place(&budget)).copied().unwrap_or(budget.cap.0);
                assert!(used <= most, "never over: {used} used of {budget:?}");
            }
            self.allowed.insert(place(&budget), budget.cap.0.max(used));
        }
    }

    /// Each scope's sums over each window are what plain loops over all records say: for the current period, and for
    /// every earlier one in which something is still held.
    fn check_sums(&self) {
        let now = self.now();
        let mut probe = self.shadow.clone();
        for scope in everybody().flat_map(|who| who.scopes()) {
            for window in Window::RUNNING {
                let unlimited = cap(&scope, window, Basis::Cost, Some(PicoSum(i128::MAX)), now);
                probe.commit(&unlimited).expect("a cap may always be set");
            }
        }
        let agree = |budget: &BudgetState, at: Timestamp| {
            let expected: Sums = self.oracle.sums(&budget.scope, budget.window, at);
            assert_eq!(budget.sums, expected, "{:?} over the {} of {at}", budget.scope, budget.window);
        };
        for budget in probe.budgets(now, |_| true).iter().filter(|budget| budget.window != Window::Request) {
            agree(budget, now);
        }
        for open in self.oracle.reservations() {
            if open.hold != Amounts::ZERO
                && matches!(self.oracle.fate(open.id), Some(Fate::Pending | Fate::Indeterminate))
            {
                let scopes = open.scopes();
                for budget in probe.budgets(open.at, |scope| scopes.contains(scope)) {
                    if budget.window != Window::Request {
                        agree(&budget, open.at);
                    }
                }
            }
        }
    }

    /// What was sent goes on counting, at no less than it was settled for; and what has ended has ended.
    fn check_nothing_lost(&self) {
        for reserved in self.oracle.reservations() {
            let counted = self.oracle.counted(reserved);
            if let Some(owed) = self.owed.get(&reserved.id) {
                assert_eq!(owed.beyond(counted), Amounts::ZERO, "never lost: {owed:?} of {reserved:?}");
            }
            if matches!(self.oracle.fate(reserved.id), Some(Fate::Posted(..) | Fate::Voided)) {
                let now = self.now();
                let (number, gone) = (reserved.id.0, Err(Rejected::NotOpen(reserved.id)));
                assert_eq!(self.shadow.check(&posted(number, now, Amounts::ZERO)), gone, "never twice");
                assert_eq!(self.shadow.check(&voided(number, now)), gone, "never twice");
            }
        }
        let known = |id: &RequestId| self.oracle.fate(*id).is_some();
        assert!(self.owed.keys().all(known), "what was sent is in the log");
    }
}

fn place(budget: &BudgetState) -> Place {
    (budget.scope.clone(), budget.window, budget.basis, budget.resets_at)
}

fn nth(who: Index) -> Who {
    let everybody: Vec<_> = everybody().collect();
    who.get(&everybody).clone()
}

/// A ledger read from a snapshot of some earlier moment, and the records after it.
fn restored(records: &[Record], snapshot_at: Index) -> Ledger {
    let (before, after) = records.split_at(snapshot_at.index(records.len() + 1));
    let bytes = postcard::to_stdvec(&replay(before)).expect("a ledger can be written");
    let mut ledger: Ledger = postcard::from_bytes(&bytes).expect("what was written can be read");
    for record in after {
        ledger.commit(record).unwrap_or_else(|why| panic!("after the snapshot, replay refused {record:?}: {why}"));
    }
    ledger
}

/// Everything open ends, one way or another, and the books are at rest.
fn wind_up(run: &mut Run) {
    run.live.clear();
    run.check();
    run.clock.advance(400 * 24 * HOUR);
    run.sweep();
    run.settle_aged();
    run.check();
    let audit = run.books.audit();
    assert_eq!((audit.reservations_pending, audit.reservations_indeterminate), (0, 0), "never phantom");
    assert_eq!(replay(&run.books.records()).audit(), audit);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_promise_holds_through_any_interleaving(steps in proptest::collection::vec(any_step(), 1..70)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        wind_up(&mut run);
    }
}
