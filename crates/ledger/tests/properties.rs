//! Random interleavings of everything that can happen to the books, with the promise's lines as invariants after
//! every step: never over, never phantom, never lost, never twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use tollgate_ledger::account::Columns;
use tollgate_ledger::books::{ChangeError, ReserveError};
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{
    Adjusted, Amounts, Books, CapSet, Draft, Ledger, MemoryLog, Record, Rejected, Reservation, Settlement,
};
use tollgate_types::directory::{Change, Directory};
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, EndUserId, PicoSum, PicoUsd, RequestId, Scope, Spender, Timestamp, Usage, UtcOffset,
    Window, Zone,
};

use crate::oracle::{Bearing, Fate, Oracle, calendar, column, offset_in};
use crate::world::{
    BASES, HOUR, PLANS, TENANTS, USERS, Who, amounts, at, directory, every_scope, everybody, id, posted, replay, slug,
    turn_back, voided,
};

const GRACE: Duration = Duration::from_secs(60);
const AGE: Duration = HOUR;
/// Summer time that ends (and the clock is set back), a day's and a month's end, summer time that begins.
const STARTS: [&str; 3] = ["2026-10-24T21:30:00Z", "2026-11-30T20:00:00Z", "2027-03-27T22:00:00Z"];
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "Pacific/Auckland", "America/Los_Angeles", "Asia/Kathmandu"];

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        who: Index,
        user: Option<u8>,
        hold: Amounts,
        minutes: u64,
        clamp: bool,
    },
    ReserveAgain(Index),
    Extend {
        which: Index,
        hold: Amounts,
    },
    Dispatch(Index),
    TakeBack(Index),
    Post {
        which: Index,
        actual: Amounts,
        confidence: Confidence,
        in_month: bool,
    },
    PostBounded(Index),
    Void(Index),
    Drop(Index),
    /// What the provider says of a request in doubt.
    Resolve {
        which: Index,
        actual: Amounts,
    },
    Adjust {
        which: Index,
        to: Amounts,
        confidence: Confidence,
    },
    Cap {
        scope: Index,
        window: Window,
        basis: Basis,
        cap: Option<i128>,
        alert: Option<i128>,
    },
    /// Another plan and another zone.
    Move {
        tenant: usize,
        plan: usize,
        zone: usize,
    },
    Forward {
        seconds: u64,
    },
    Back {
        minutes: u64,
    },
    Sweep,
    SettleAged,
    Tidy,
    /// The process dies. Records that nobody waited for may be lost with it.
    Crash {
        lost: Index,
        by_snapshot: bool,
    },
}

fn any_amounts() -> impl Strategy<Value = Amounts> {
    prop_oneof![6 => (0..60u64, 0..80u64), 1 => Just((0, 0))].prop_map(|(cost, charge)| amounts(cost, charge))
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = any::<Index>;
    let confidence = || select(&[Confidence::Measured, Confidence::Bounded][..]);
    let any_cap = prop_oneof![2 => Just(None), 8 => (0..250i128).prop_map(Some), 1 => Just(Some(i128::MAX))];
    let any_alert = prop_oneof![2 => Just(None), 1 => (1..150i128).prop_map(Some)];
    let any_user = prop_oneof![2 => Just(None), 3 => (0..USERS).prop_map(Some)];
    prop_oneof![
        14 => (which(), any_user, any_amounts(), 0..180u64, any::<bool>())
            .prop_map(|(who, user, hold, minutes, clamp)| Step::Reserve { who, user, hold, minutes, clamp }),
        1 => which().prop_map(Step::ReserveAgain),
        3 => (which(), any_amounts()).prop_map(|(which, hold)| Step::Extend { which, hold }),
        5 => which().prop_map(Step::Dispatch),
        1 => which().prop_map(Step::TakeBack),
        6 => (which(), any_amounts(), confidence(), any::<bool>())
            .prop_map(|(which, actual, confidence, in_month)| Step::Post { which, actual, confidence, in_month }),
        1 => which().prop_map(Step::PostBounded),
        1 => which().prop_map(Step::Void),
        2 => which().prop_map(Step::Drop),
        1 => (which(), any_amounts()).prop_map(|(which, actual)| Step::Resolve { which, actual }),
        3 => (which(), any_amounts(), confidence())
            .prop_map(|(which, to, confidence)| Step::Adjust { which, to, confidence }),
        10 => (which(), select(&Window::ALL[..]), select(&BASES[..]), any_cap, any_alert)
            .prop_map(|(scope, window, basis, cap, alert)| Step::Cap { scope, window, basis, cap, alert }),
        1 => (0..TENANTS.len(), 0..PLANS.len(), 0..ZONES.len())
            .prop_map(|(tenant, plan, zone)| Step::Move { tenant, plan, zone }),
        5 => prop_oneof![0..90u64, 0..7_200u64, 0..(4 * 86_400u64), Just(40 * 86_400)]
            .prop_map(|seconds| Step::Forward { seconds }),
        1 => prop_oneof![0..120u64, 0..(40 * 24 * 60u64)].prop_map(|minutes| Step::Back { minutes }),
        1 => Just(Step::Sweep),
        1 => Just(Step::SettleAged),
        2 => Just(Step::Tidy),
        1 => (which(), any::<bool>()).prop_map(|(lost, by_snapshot)| Step::Crash { lost, by_snapshot }),
    ]
}

/// The books under test, and beside them everything needed to say what must be true of them.
struct Run {
    books: Arc<Books<MemoryLog>>,
    clock: Clock,
    live: Vec<Reservation<MemoryLog>>,
    /// A second ledger, which knows nothing but the records, and never tidies.
    shadow: Ledger,
    oracle: Oracle,
    next_id: u128,
    /// Nothing before this place may be lost in a crash: somebody waited for it.
    durable: usize,
    /// What each request sent must go on counting, at least; for the provider may bill it.
    owed: HashMap<RequestId, Amounts>,
}

impl Run {
    fn new(start: Timestamp) -> Self {
        let clock = Clock::manual(start);
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
        }
    }

    /// The time the books go by.
    fn now(&self) -> Timestamp {
        self.clock.now().max(self.shadow.latest())
    }

    fn zone(&self, scope: &Scope) -> Zone {
        self.books.with_directory(|directory| zone_in(directory, scope))
    }

    fn spender(&self, who: &Who, user: Option<u8>) -> Spender {
        let plan = self.books.with_directory(|directory| directory.tenants[&who.tenant].plan.clone());
        Spender { plan, end_user: user.map(|user| EndUserId([user; 16])), ..who.spender() }
    }

    fn take(&mut self, which: Index) -> Option<Reservation<MemoryLog>> {
        if self.live.is_empty() { None } else { Some(self.live.swap_remove(which.index(self.live.len()))) }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Reserve { who, user, hold, minutes, clamp } => {
                self.reserve(&nth(*who), *user, *hold, *minutes, *clamp)
            }
            Step::ReserveAgain(which) => self.reserve_again(*which),
            Step::Extend { which, hold } => self.extend(*which, *hold),
            Step::Dispatch(which) => self.dispatch(*which),
            Step::TakeBack(which) => {
                if let Some(mut reservation) = self.take(*which) {
                    reservation.not_dispatched();
                    self.owed.remove(&reservation.id());
                    self.live.push(reservation);
                }
            }
            Step::Post { which, actual, confidence, in_month } => self.post(*which, *actual, *confidence, *in_month),
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
            Step::Resolve { which, actual } => self.resolve(*which, *actual),
            Step::Adjust { which, to, confidence } => self.adjust(*which, *to, *confidence),
            Step::Cap { scope, window, basis, cap, alert } => {
                let (scope, window, basis, cap) =
                    (scope.get(&every_scope()).clone(), *window, *basis, cap.map(PicoSum));
                let alerts = alert.iter().copied().map(PicoSum).collect();
                let change = CapSet { scope, window, basis, cap, alerts, at: Timestamp::default() };
                self.books.set_cap(change).expect("everybody exists");
            }
            Step::Move { tenant, plan, zone } => {
                let (plan, zone) = (slug(PLANS[*plan]), ZONES[*zone].parse().expect("a zone"));
                let change = Change::TenantChanged { id: slug(TENANTS[*tenant]), plan, zone, tariff: None };
                self.books.change(change).expect("tenant and plan exist");
            }
            Step::Forward { seconds } => self.clock.advance(Duration::from_secs(*seconds)),
            Step::Back { minutes } => turn_back(&self.clock, Duration::from_secs(60 * minutes)),
            Step::Sweep => self.sweep(),
            Step::SettleAged => self.settle_aged(),
            Step::Tidy => self.tidy(),
            Step::Crash { lost, by_snapshot } => self.crash(*lost, *by_snapshot),
        }
        // No two steps in one microsecond, unless the clock was turned back.
        self.clock.advance(Duration::from_micros(1));
    }

    fn reserve(&mut self, who: &Who, user: Option<u8>, wanted: Amounts, minutes: u64, clamp: bool) {
        self.next_id += 1;
        let deadline = self.now().plus(Duration::from_secs(60 * minutes));
        let spender = self.spender(who, user);
        let zone = self.zone(&Scope::Tenant(who.tenant.clone()));
        let draft = Draft { deadline, zone: zone.clone(), spender: spender.clone(), ..who.draft(id(self.next_id)) };
        let now = self.now();
        let offset = zone.offset(now);
        let expected = self.oracle.headroom(&spender, now, offset);
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
        let mut over = self.oracle.bearing(&spender).into_iter().filter_map(|bearing| {
            let left = self.oracle.left(&bearing, now, offset)?;
            (i128::from(column(hold, bearing.budget.basis)) > left).then_some((bearing, left))
        });
        match (result, over.next()) {
            (Ok((reservation, ())), None) => self.live.push(reservation),
            (Ok(_), Some((bearing, left))) => panic!("held although {left} is left of {:?}", bearing.budget),
            (Err(ReserveError::Rejected(Rejected::BudgetExceeded(refused))), Some((bearing, left))) => {
                self.check_refusal(&refused, &bearing, left, hold, &zone);
            }
            (Err(why), _) => panic!("refused although every budget has room: {why}"),
        }
    }

    /// That the refusal names the first budget that said no, what is left of it, and when it resets.
    fn check_refusal(&self, refused: &BudgetExceeded, by: &Bearing, left: i128, needed: Amounts, zone: &Zone) {
        let (scope, window, basis) = (&by.scope, by.budget.window, by.budget.basis);
        assert_eq!((refused.scope, refused.window, refused.basis), (scope.kind(), window, basis));
        assert_eq!((refused.left.0, refused.needed.0), (left.max(0), column(needed, basis)), "{:?}", by.budget);
        let shared = matches!(scope, Scope::Platform | Scope::Plan(_));
        assert_eq!(refused.shared, shared);
        self.check_reset(scope, window, refused.resets_at, &if shared { Zone::UTC } else { zone.clone() });
    }

    /// At `resets_at` another period begins, and not a moment before.
    fn check_reset(&self, scope: &Scope, window: Window, resets_at: Option<Timestamp>, zone: &Zone) {
        let now = self.now();
        let goes_on = self.oracle.period(scope, window, now, zone.offset(now));
        match resets_at {
            None => {
                let leaves = self.oracle.leaves_at(scope, window, now);
                let resets = [Window::Minute, Window::Hour, Window::Day, Window::Week, Window::Month];
                assert!(leaves.is_none() && !resets.contains(&window), "{scope:?} {window}");
            }
            Some(reset) => match self.oracle.leaves_at(scope, window, now) {
                Some(leaves) => assert_eq!(reset, leaves),
                None => {
                    let period = |at: Timestamp| calendar(window, at, offset_in(scope, zone.offset(at)));
                    assert!(reset > now && period(reset) > goes_on, "{scope:?} {window} {reset}");
                    assert!(period(Timestamp(reset.0 - 1)) <= goes_on, "{scope:?} {window} {reset}");
                }
            },
        }
    }

    fn reserve_again(&self, which: Index) {
        if self.live.is_empty() {
            return;
        }
        let open = &self.live[which.index(self.live.len())];
        if self.oracle.is_open(open.id()) {
            let again =
                self.books.reserve(everybody().next().expect("somebody").draft(open.id()), |_| (Amounts::ZERO, ()));
            match again {
                Err(ReserveError::Rejected(Rejected::AlreadyReserved(twice))) => assert_eq!(twice, open.id()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Falls back to somebody dearer.
    fn extend(&mut self, which: Index, hold: Amounts) {
        let Some(mut reservation) = self.take(which) else { return };
        let (request, before, now) = (reservation.id(), reservation.hold(), self.now());
        let dear = "dear".into();
        let spender = self.oracle.requests[&request].reserved.spender.clone();
        let zone = self.zone(&Scope::Tenant(spender.tenant.clone()));
        let result = reservation.extend(hold, &dear, &dear, &dear, &zone);
        let whole = amounts(before.cost.0.max(hold.cost.0), before.charge.0.max(hold.charge.0));
        let mut over = self.oracle.bearing(&spender).into_iter().filter_map(|bearing| {
            let basis = bearing.budget.basis;
            let more = column(whole, basis) - column(before, basis);
            let left = self.oracle.left_beside(request, &bearing, now)?;
            (more > 0 && i128::from(more) > left).then_some((bearing, left))
        });
        match (result, self.oracle.fate(request), over.next()) {
            (Ok(()), Some(Fate::Pending), None) => assert_eq!(reservation.hold(), whole),
            (Ok(()), _, over) => panic!("extended over {:?}", over.map(|(bearing, left)| (bearing.budget, left))),
            (Err(ReserveError::Rejected(Rejected::NotPending(_))), Some(Fate::Indeterminate), _) => {}
            (Err(ReserveError::Rejected(Rejected::NotOpen(_))), Some(Fate::Posted(..) | Fate::Voided), _) => {}
            (Err(ReserveError::Rejected(Rejected::BudgetExceeded(refused))), _, Some((bearing, left))) => {
                let Bearing { scope, budget } = &bearing;
                assert_eq!((refused.scope, refused.window, refused.basis), (scope.kind(), budget.window, budget.basis));
                assert_eq!(refused.left.0, left.max(0));
                assert_eq!(reservation.hold(), before, "a refusal changes nothing");
            }
            (Err(why), fate, _) => panic!("{why}: {fate:?}"),
        }
        self.live.push(reservation);
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

    fn post(&mut self, which: Index, actual: Amounts, confidence: Confidence, in_month: bool) {
        let Some(reservation) = self.take(which) else { return };
        let (request, hold) = (reservation.id(), reservation.hold());
        let open = self.oracle.is_open(request);
        let (usage, outcome) = (Usage::default(), Outcome::Completed);
        let settlement = Settlement { usage, amounts: actual, confidence, outcome };
        let position = if in_month {
            let month = if open { self.oracle.month_of(request) } else { Columns::default() };
            let (made, position) = reservation.post_in_month(|posted| {
                assert_eq!(posted, month, "the month that the hold lies in");
                settlement
            });
            assert_eq!(made, settlement);
            position
        } else {
            reservation.post(settlement)
        };
        assert_eq!(position.is_some(), open, "a reservation is settled exactly once");
        if open {
            self.settled(request, hold, actual);
        }
    }

    fn resolve(&mut self, which: Index, actual: Amounts) {
        let mut all: Vec<RequestId> = self.oracle.requests.keys().copied().collect();
        all.sort();
        if all.is_empty() {
            return;
        }
        let request = *which.get(&all);
        let (in_doubt, hold) =
            (self.oracle.fate(request) == Some(Fate::Indeterminate), self.oracle.requests[&request].hold);
        let (usage, confidence, outcome) = (Usage::default(), Confidence::Measured, Outcome::Completed);
        let position = self.books.resolve(request, Settlement { usage, amounts: actual, confidence, outcome });
        assert_eq!(position.is_some(), in_doubt);
        if in_doubt {
            self.settled(request, hold, actual);
        }
    }

    fn settled(&mut self, request: RequestId, hold: Amounts, actual: Amounts) {
        if let Some(owed) = self.owed.get_mut(&request) {
            // Never more than was held when it was sent: a hold that grew afterwards was not sent with, and nobody waited for
            // the growth to be durable.
            *owed = owed.min(actual).min(hold);
        }
        let Some(Record::Posted(posted)) = self.books.records().pop() else { panic!("a posting was made") };
        assert_eq!((posted.amounts, posted.overrun), (actual.min(hold), actual.beyond(hold)));
    }

    fn adjust(&mut self, which: Index, to: Amounts, confidence: Confidence) {
        let mut all: Vec<RequestId> = self.oracle.requests.keys().copied().collect();
        all.sort();
        if all.is_empty() {
            return;
        }
        let request = *which.get(&all);
        let now = self.now();
        let asked = self.adjustment(request, to, confidence);
        let (spender, offset, was) = (asked.spender.clone(), asked.offset, asked.was.amounts);
        let room = BASES.map(|basis| {
            let left = self.oracle.bearing(&spender).into_iter().filter(|bearing| bearing.budget.basis == basis);
            let left = left.filter_map(|bearing| match bearing.budget.window {
                Window::Request => bearing.budget.cap.map(|cap| cap - i128::from(column(was, basis))),
                _ => self.oracle.left(&bearing, now, offset),
            });
            left.min()
        });
        match (self.books.adjust(asked), self.oracle.fate(request)) {
            (Ok(_), Some(Fate::Posted(..))) => {}
            (Err(ChangeError::Rejected(Rejected::StillOpen(_))), Some(Fate::Pending | Fate::Indeterminate)) => return,
            // It stood at nothing: nothing to take, so this is as good as a posting.
            (Ok(_), Some(Fate::Voided)) => {}
            (other, fate) => panic!("{other:?}: {fate:?}"),
        }
        let Some(Record::Adjusted(made)) = self.books.records().pop() else { panic!("an adjustment was made") };
        for (basis, room) in BASES.into_iter().zip(room) {
            let (was, to) = (i128::from(column(was, basis)), i128::from(column(to, basis)));
            let granted = if to <= was { to } else { was + (to - was).min(room.unwrap_or(to).max(0)) };
            assert_eq!(i128::from(column(made.now.amounts, basis)), granted, "as far as the caps of now have room");
            assert_eq!(i128::from(column(made.now.overrun, basis)), to - granted, "the rest is the platform's");
        }
        if let Some(owed) = self.owed.get_mut(&request) {
            *owed = owed.min(made.now.amounts);
        }
    }

    fn adjustment(&self, request: RequestId, to: Amounts, confidence: Confidence) -> Adjusted {
        let stood = &self.oracle.requests[&request];
        let last = self.oracle.records.iter().rev().find_map(|record| match record {
            Record::Posted(posted) if posted.id == request => {
                Some(Standing { amounts: posted.amounts, overrun: posted.overrun, confidence: posted.confidence })
            }
            Record::Adjusted(adjusted) if adjusted.id == request => Some(adjusted.now),
            _ => None,
        });
        let nothing = Standing { amounts: Amounts::ZERO, overrun: Amounts::ZERO, confidence: Confidence::Measured };
        Adjusted {
            id: request,
            at: Timestamp::default(),
            spender: stood.reserved.spender.clone(),
            held_at: stood.reserved.at,
            offset: stood.reserved.offset,
            was: last.unwrap_or(nothing),
            now: Standing { amounts: to, overrun: Amounts::ZERO, confidence },
            usage: Usage::default(),
            price_version: "test-2".into(),
            reason: Reason::Repriced,
        }
    }

    fn sweep(&mut self) {
        let due = self.now().0 - i64::try_from(GRACE.as_micros()).expect("short");
        let overdue = |run: &Self| {
            let pending = run.oracle.with_fate(Fate::Pending);
            pending.iter().filter(|id| run.oracle.requests[id].reserved.deadline.0 < due).count()
        };
        assert_eq!(self.books.sweep(GRACE), overdue(self));
        self.follow();
        assert_eq!(overdue(self), 0, "never phantom");
    }

    fn settle_aged(&mut self) {
        let before = self.now().0 - i64::try_from(AGE.as_micros()).expect("short");
        let aged = self.oracle.records.iter().filter(|record| match record {
            Record::Indeterminate { id, at } => at.0 < before && self.oracle.fate(*id) == Some(Fate::Indeterminate),
            _ => false,
        });
        assert_eq!(self.books.settle_aged(AGE), aged.count());
    }

    /// Gives back memory, of which nobody may notice anything; and each crossing is told once.
    fn tidy(&mut self) {
        self.follow();
        let plain = |alerts: Vec<tollgate_ledger::Alert>| {
            let mut alerts: Vec<_> =
                alerts.into_iter().map(|a| (a.scope, a.window, a.basis, a.threshold.0, a.posted.0, a.at)).collect();
            alerts.sort();
            alerts
        };
        let told = plain(self.books.tidy());
        assert_eq!(told, plain(self.shadow.take_alerts()));
        assert_eq!(told, self.oracle.take_alerts());
    }

    /// Loses what nobody waited for, reads the rest again, and puts what was pending in doubt.
    fn crash(&mut self, lost: Index, by_snapshot: bool) {
        self.tidy();
        let mut records = self.books.records();
        let kept = self.durable + lost.index(records.len() - self.durable + 1);
        records.truncate(kept);
        self.durable = kept;
        let ledger = if by_snapshot { restored(&records, lost) } else { replay(&records) };
        self.shadow = replay(&records);
        self.oracle = Oracle::of(&records);
        let mut directory = directory();
        for record in &records {
            if let Record::Directory(change) = record {
                directory.apply(change.clone());
            }
        }
        let pending = self.shadow.audit().reservations_pending;
        // The old process's reservations still settle themselves, but in its own books, which nobody reads any more.
        self.live.clear();
        self.books = Arc::new(Books::new(ledger, directory, MemoryLog(records), self.clock.clone()));
        // The thresholds that were passed before were told before.
        self.books.tidy();
        self.shadow.take_alerts();
        assert_eq!(self.books.recover(), pending);
        self.follow();
        assert_eq!(self.books.audit().reservations_pending, 0, "nothing is pending without a request behind it");
    }

    /// Lets shadow and oracle read what the books have written, checking each record as it goes by.
    fn follow(&mut self) {
        let records = self.books.records();
        for record in &records[self.oracle.records.len()..] {
            self.shadow.commit(record).unwrap_or_else(|why| panic!("replay refused {record:?}: {why}"));
            let raised = match record {
                Record::Reserved(reserved) => Some((reserved.id, both_max())),
                Record::Extended(extended) => {
                    Some((extended.id, extended.hold.beyond(self.oracle.requests[&extended.id].hold)))
                }
                Record::Adjusted(adjusted) => {
                    Some((adjusted.id, adjusted.now.amounts.beyond(self.oracle.requests[&adjusted.id].stands)))
                }
                _ => None,
            };
            self.oracle.read(record);
            if let Some((request, raised)) = raised {
                self.check_never_over(request, raised, record);
            }
        }
    }

    /// No record raises what is used of a budget beyond its cap: not of the period that goes on, nor of the one that the
    /// request lies in.
    fn check_never_over(&self, request: RequestId, raised: Amounts, record: &Record) {
        let reserved = &self.oracle.requests[&request].reserved;
        let at = self.shadow.latest();
        for bearing in self.oracle.bearing(&reserved.spender) {
            if column(raised, bearing.budget.basis) == 0 {
                continue;
            }
            let beside = match record {
                Record::Adjusted(_) if bearing.budget.window == Window::Request => None,
                Record::Adjusted(_) => self.oracle.left(&bearing, at, reserved.offset),
                _ => self.oracle.left_beside(request, &bearing, at),
            };
            assert!(beside.is_none_or(|left| left >= 0), "never over: {:?} after {record:?}", bearing.budget);
        }
    }

    fn check(&mut self) {
        self.follow();
        self.check_replay();
        self.check_conservation();
        self.check_sums();
        self.check_nothing_lost();
    }

    /// The records alone lead to the same state; and so tidying was not noticed.
    fn check_replay(&self) {
        let now = self.now();
        assert_eq!(self.books.audit(), self.shadow.audit());
        let budgets = self.books.budgets(|_| true);
        assert_eq!(budgets, self.shadow.budgets(now, |scope| self.zone(scope), |_| true));
        for who in everybody() {
            let zone = self.zone(&Scope::Tenant(who.tenant.clone()));
            for user in std::iter::once(None).chain((0..USERS).map(Some)) {
                let spender = self.spender(&who, user);
                let headroom = self.books.headroom(&spender, &zone);
                let expected = self.oracle.headroom(&spender, now, zone.offset(now));
                assert_eq!([headroom.cost, headroom.charge], expected, "{spender:?}");
                assert_eq!(self.shadow.headroom(&spender, now, zone.offset(now)), expected, "{spender:?}");
            }
        }
        for budget in budgets.iter().filter(|budget| !budget.scope.is_template()) {
            self.check_reset(&budget.scope, budget.budget.window, budget.resets_at, &self.zone(&budget.scope));
        }
    }

    fn check_conservation(&self) {
        let audit = self.books.audit();
        assert_eq!(audit.drift, PicoSum::ZERO);
        for basis in BASES {
            let of = |columns: Columns| columns.of(basis).0;
            let parts =
                of(audit.totals.posted) + of(audit.totals.released) + of(audit.pending) + of(audit.indeterminate);
            assert_eq!(of(audit.totals.held), parts, "held = posted + released + pending + indeterminate");
            assert!(of(audit.totals.bounded) <= of(audit.totals.posted));
            let held: i128 = self.oracle.requests.values().map(|r| i128::from(column(r.hold, basis))).sum();
            assert_eq!(of(audit.totals.held), held);
            let stands: i128 = self.oracle.requests.values().map(|r| i128::from(column(r.stands, basis))).sum();
            assert_eq!(of(audit.totals.posted), stands);
        }
        assert_eq!(audit.reservations_pending, self.oracle.with_fate(Fate::Pending).len());
        assert_eq!(audit.reservations_indeterminate, self.oracle.with_fate(Fate::Indeterminate).len());
        let pending = self.oracle.with_fate(Fate::Pending);
        let oldest = pending.iter().map(|id| self.oracle.requests[id].reserved.deadline).min();
        assert_eq!(audit.oldest_pending_deadline, oldest);
    }

    /// Each scope's sums over each window are what plain loops say.
    fn check_sums(&self) {
        let now = self.now();
        for scope in every_scope() {
            let offset = offset_in(&scope, self.zone(&scope).offset(now));
            for window in Window::ALL {
                let sums = self.shadow.sums(&scope, window, now, offset);
                assert_eq!(sums, self.oracle.sums(&scope, window, now, offset), "{scope:?} over the {window} of {now}");
            }
        }
    }

    /// What was sent goes on counting, at no less than it was settled for; and what has ended has ended.
    fn check_nothing_lost(&self) {
        for (request, owed) in &self.owed {
            let worth = self.oracle.worth(*request);
            assert_eq!(owed.beyond(worth), Amounts::ZERO, "never lost: {owed:?} of {request}");
        }
        let now = self.now();
        for ended in self.oracle.requests.keys().filter(|id| !self.oracle.is_open(**id)) {
            let gone = Err(Rejected::NotOpen(*ended));
            assert_eq!(self.shadow.check(&posted(ended.0, now, Amounts::ZERO)), gone, "never twice");
            assert_eq!(self.shadow.check(&voided(ended.0, now)), gone, "never twice");
        }
        let known = |id: &RequestId| self.oracle.fate(*id).is_some();
        assert!(self.owed.keys().all(known), "what was sent is in the log");
    }
}

fn both_max() -> Amounts {
    amounts(u64::MAX, u64::MAX)
}

/// Whose calendar a scope goes by.
fn zone_in(directory: &Directory, scope: &Scope) -> Zone {
    scope.tenant().map_or(Zone::UTC, |tenant| directory.tenants[tenant].zone.clone())
}

fn nth(who: Index) -> Who {
    let everybody: Vec<_> = everybody().collect();
    who.get(&everybody).clone()
}

/// A ledger read from a snapshot of some earlier moment, tidied or not, and the records after it.
fn restored(records: &[Record], snapshot_at: Index) -> Ledger {
    let (before, after) = records.split_at(snapshot_at.index(records.len() + 1));
    let mut ledger = replay(before);
    if snapshot_at.index(2) == 0 {
        ledger.tidy(|_| UtcOffset(0));
    }
    let bytes = postcard::to_stdvec(&ledger).expect("a ledger can be written");
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
    run.tidy();
    run.check();
    let audit = run.books.audit();
    assert_eq!((audit.reservations_pending, audit.reservations_indeterminate), (0, 0), "never phantom");
    assert_eq!(replay(&run.books.records()).audit(), audit);
}

/// The records of anything that may happen.
pub fn any_history() -> impl Strategy<Value = Vec<Record>> {
    (select(&STARTS[..]), proptest::collection::vec(any_step(), 1..90)).prop_map(|(start, steps)| {
        let mut run = Run::new(at(start));
        for step in &steps {
            run.step(step);
            run.follow();
        }
        run.books.records()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_promise_holds_through_any_interleaving(
        start in select(&STARTS[..]),
        steps in proptest::collection::vec(any_step(), 1..90),
    ) {
        let mut run = Run::new(at(start));
        for step in &steps {
            run.step(step);
            run.check();
        }
        wind_up(&mut run);
    }
}
