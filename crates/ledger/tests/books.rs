//! The books: reservations that settle themselves, and one cap under many threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use tollgate_ledger::books::{ChangeError, Headroom, ReserveError};
use tollgate_ledger::{
    Amounts, Books, CapSet, Ledger, Log, LogUnavailable, MemoryLog, Posted, Record, Rejected, Reservation,
};
use tollgate_types::access::ServiceKey;
use tollgate_types::audit::Phase;
use tollgate_types::directory::{Change, ChangeRefused, Plan, Tariff};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Actor, AuditEntry, Basis, Clock, Confidence, PicoSum, PicoUsd, RequestId, Role, Scope, Timestamp, Window,
};

use crate::world::{
    DAY, Desk, HOUR, Who, amounts, both, budget_refusal, directory, id, measured, replay, slug, start, usd,
};

type Ending = (&'static str, Amounts, Option<Confidence>, Outcome);

/// What the last record says of how it ended.
fn ending(desk: &Desk) -> Ending {
    match desk.last_record() {
        Record::Posted(Posted { amounts, confidence, outcome, .. }) => ("posted", amounts, Some(confidence), outcome),
        Record::Voided(voided) => ("voided", Amounts::ZERO, None, voided.outcome),
        other => panic!("not an end: {other:?}"),
    }
}

#[test]
fn a_reservation_ends_once_in_whatever_state_it_is_left() {
    type End = fn(Reservation<MemoryLog>);
    let bounded = Some(Confidence::Bounded);
    let table: [(&str, End, Ending); 8] = [
        ("dropped unsent", |unsent| drop(unsent), ("voided", Amounts::ZERO, None, Outcome::NotSent)),
        (
            "dropped after it was sent",
            |mut sent| assert!(sent.dispatched()),
            ("posted", both(10), bounded, Outcome::ClientGone),
        ),
        (
            "dropped after it was taken back",
            |mut back| {
                assert!(back.dispatched());
                back.not_dispatched();
            },
            ("voided", Amounts::ZERO, None, Outcome::NotSent),
        ),
        (
            "dropped after it was sent a second time",
            |mut again| {
                assert!(again.dispatched());
                again.not_dispatched();
                assert!(again.dispatched());
            },
            ("posted", both(10), bounded, Outcome::ClientGone),
        ),
        (
            "posted",
            |mut sent| {
                assert!(sent.dispatched());
                assert!(sent.post(measured(both(3))).is_some());
            },
            ("posted", both(3), Some(Confidence::Measured), Outcome::Completed),
        ),
        (
            "voided",
            |mut sent| {
                assert!(sent.dispatched());
                assert!(sent.void(Outcome::ProviderRefused).is_some());
            },
            ("voided", Amounts::ZERO, None, Outcome::ProviderRefused),
        ),
        (
            "posted as bounded",
            |sent| assert!(sent.post_bounded(Outcome::UsageMissing).is_some()),
            ("posted", both(10), bounded, Outcome::UsageMissing),
        ),
        (
            "dropped by a panic",
            |mut sent| {
                assert!(sent.dispatched());
                let panicked = thread::spawn(move || {
                    let _held = sent;
                    std::panic::resume_unwind(Box::new("a bug in the pipeline"));
                });
                assert!(panicked.join().is_err());
            },
            ("posted", both(10), bounded, Outcome::ClientGone),
        ),
    ];
    for (name, end, expected) in table {
        let desk = Desk::new();
        end(desk.reserve(&Who::acme(), 1, both(10)).expect("no cap"));
        assert_eq!(ending(&desk), expected, "{name}");
        assert_eq!(desk.books.records().len(), 2, "{name}: held once, ended once");
        let audit = desk.books.audit();
        assert_eq!((audit.reservations_pending, audit.drift), (0, PicoSum::ZERO), "{name}");
    }
}

#[test]
fn a_reservation_knows_its_id_its_hold_and_its_place_in_the_log() {
    let desk = Desk::new();
    let first = desk.reserve(&Who::acme(), 1, amounts(10, 12)).expect("no cap");
    let second = desk.reserve(&Who::acme(), 2, both(1)).expect("no cap");
    assert_eq!((first.id(), first.hold()), (id(1), amounts(10, 12)));
    assert!(first.position() < second.position());
    let end = second.post(measured(both(1))).expect("pending");
    assert!(end > first.position());
    let Record::Reserved(reserved) = &desk.books.records()[0] else { panic!("the first record is the hold") };
    assert_eq!((reserved.id, reserved.hold, reserved.at), (id(1), amounts(10, 12), start()));
}

#[test]
fn an_id_that_is_open_cannot_be_reserved_again_and_the_first_stays_whole() {
    let desk = Desk::new();
    let first = desk.reserve(&Who::acme(), 1, both(10)).expect("no cap");
    match desk.reserve(&Who::acme(), 1, both(10)) {
        Err(ReserveError::Rejected(Rejected::AlreadyReserved(twice))) => assert_eq!(twice, id(1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(desk.books.audit().pending.cost, PicoSum(10), "the failed second took and gave nothing");
    drop(first);
}

#[test]
fn an_overrun_is_the_platforms_and_leaves_the_tenants_cap_unharmed() {
    let desk = Desk::new();
    let [tenant, project, key] = Who::acme().scopes();
    for scope in [&tenant, &project, &key] {
        desk.cap(scope, Window::Month, Basis::Cost, PicoSum(100));
    }
    let billed_more = desk.reserve(&Who::acme(), 1, both(40)).expect("room");
    billed_more.post(measured(both(1_000))).expect("pending");
    let audit = desk.books.audit();
    assert_eq!((audit.totals.overrun.cost, audit.totals.posted.cost), (PicoSum(960), PicoSum(40)));
    assert_eq!(desk.headroom(&Who::acme()).cost, Some(PicoSum(60)), "the tenant pays what was held, no more");
    assert!(desk.reserve(&Who::acme(), 2, both(60)).is_ok());
}

/// A hold shrunk to what is left, as a clamp of `max_tokens` does: whole tokens only, each of them at `price`.
fn affordable(headroom: Headroom, price: Amounts, wanted: u64) -> (Amounts, u64) {
    let fits = |left: Option<PicoSum>, price: u64| {
        left.map_or(wanted, |left| u64::try_from(left.0.max(0)).unwrap_or(u64::MAX) / price)
    };
    let tokens = wanted.min(fits(headroom.cost, price.cost.0)).min(fits(headroom.charge, price.charge.0));
    (amounts(tokens * price.cost.0, tokens * price.charge.0), tokens)
}

#[test]
fn a_clamped_hold_is_never_more_than_the_headroom_and_never_less_than_fits() {
    let desk = Desk::new();
    let (who, price) = (Who::acme(), amounts(7, 9));
    let [tenant, _, key] = who.scopes();
    desk.cap(&tenant, Window::Day, Basis::Charge, PicoSum(1_000));
    desk.cap(&key, Window::Lifetime, Basis::Cost, PicoSum(750));
    let mut tokens = Vec::new();
    for number in 0..12 {
        let before = desk.headroom(&who);
        let (reservation, granted) = desk
            .books
            .reserve(who.draft(id(number)), |headroom| {
                assert_eq!(headroom, before, "the closure is shown what is left");
                affordable(headroom, price, 25)
            })
            .expect("a hold within the headroom is always taken");
        assert_eq!(reservation.hold(), amounts(granted * 7, granted * 9));
        assert!(i128::from(reservation.hold().cost.0) <= before.cost.expect("a cap on cost").0);
        assert!(i128::from(reservation.hold().charge.0) <= before.charge.expect("a cap on charge").0);
        reservation.post_bounded(Outcome::UsageMissing).expect("pending");
        tokens.push(granted);
    }
    assert_eq!(tokens, [25, 25, 25, 25, 7, 0, 0, 0, 0, 0, 0, 0], "750 / 7 = 107 tokens");
}

#[test]
fn a_closure_that_asks_for_more_than_is_left_is_refused() {
    let desk = Desk::new();
    desk.cap(&Who::acme().scopes()[2], Window::Lifetime, Basis::Cost, PicoSum(100));
    let greedy = desk.books.reserve(Who::acme().draft(id(1)), |headroom| {
        let left = headroom.cost.expect("a cap").clamp_to_amount();
        (both(left.0 + 1), ())
    });
    assert_eq!(budget_refusal(greedy).left, PicoSum(100));
    let unlimited = desk.books.reserve(Who::new("bolt", "main", "k1").draft(id(2)), |headroom| {
        assert_eq!(headroom, Headroom { cost: None, charge: None }, "no cap, no headroom to speak of");
        (both(1), ())
    });
    assert!(unlimited.is_ok());
}

#[test]
fn a_panic_while_deciding_harms_nobody() {
    let desk = Desk::new();
    let books = Arc::clone(&desk.books);
    let panicked = thread::spawn(move || {
        books.reserve(Who::acme().draft(id(1)), |_| -> (Amounts, ()) { std::panic::resume_unwind(Box::new("a bug")) })
    });
    assert!(panicked.join().is_err());
    assert_eq!(desk.books.records(), []);
    assert!(desk.reserve(&Who::acme(), 1, both(1)).is_ok(), "serving goes on");
}

#[test]
fn only_scopes_that_exist_can_be_capped() {
    let desk = Desk::new();
    let set = |scope: Scope, cap: i128| {
        let (window, basis, at) = (Window::Day, Basis::Cost, Timestamp::default());
        desk.books.set_cap(CapSet { scope, window, basis, cap: Some(PicoSum(cap)), alerts: Default::default(), at })
    };
    let missing =
        |what: &'static str, id: &str| Err(ChangeError::Refused(ChangeRefused::Missing { what, id: id.to_owned() }));
    assert_eq!(set(Scope::Tenant(slug("nobody")), 1), missing("tenant", "nobody"));
    assert_eq!(set(Scope::Project(slug("acme"), slug("none")), 1), missing("project", "none"));
    assert_eq!(set(Scope::Key(slug("acme"), slug("none")), 1), missing("key", "none"));
    assert_eq!(set(Scope::Key(slug("acme"), slug("bolt-k1")), 1), missing("key", "bolt-k1"), "another tenant's");
    assert_eq!(set(Scope::Tenant(slug("acme")), -1), Err(ChangeError::Rejected(Rejected::NegativeCap)));
    assert_eq!(desk.books.records(), []);
    for scope in Who::acme().scopes() {
        assert!(set(scope, 1).is_ok());
    }
}

#[test]
fn changes_of_the_directory_and_prices_are_records_in_the_same_order() {
    let desk = Desk::new();
    let plan = Plan { unpriced_hold: Some(PicoUsd(500)), ..Plan::standard() };
    let revoked = Change::KeyRevoked { id: slug("acme-k1"), at: start() };
    desk.books.change(Change::PlanSet(plan.clone())).expect("a plan may always be set");
    desk.books.prices_set("2026-11-30".into(), [7; 32]).expect("a book may always come into use");
    desk.books.change(revoked.clone()).expect("the key exists");
    let unknown = desk.books.change(Change::KeyRevoked { id: slug("none"), at: start() });
    assert!(matches!(unknown, Err(ChangeError::Refused(ChangeRefused::Missing { what: "key", .. }))), "{unknown:?}");
    let used = Record::PricesSet { version: "2026-11-30".into(), sha256: [7; 32], at: start() };
    let expected = [Record::Directory(Change::PlanSet(plan.clone())), used, Record::Directory(revoked)];
    assert_eq!(desk.books.records(), expected);
    assert_eq!(desk.books.directory().plans[&plan.id], plan);
    let revoked_at = desk.books.with_directory(|directory| directory.keys["acme-k1"].revoked_at);
    assert_eq!(revoked_at, Some(start()));
}

/// A log that is full or broken at a switch, and remembers what it was told of the reservations open.
#[derive(Clone, Default)]
struct FullLog {
    full: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    told_open: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<Record>>>,
}

impl FullLog {
    fn books(&self) -> Arc<Books<Self>> {
        Arc::new(Books::new(Ledger::default(), directory(), self.clone(), Clock::manual(start())))
    }
}

impl Log for FullLog {
    type Position = u64;

    fn has_room(&self, open: usize) -> Result<(), LogUnavailable> {
        self.told_open.store(open, Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) { Err(LogUnavailable("the disk is full".into())) } else { Ok(()) }
    }

    fn is_writable(&self) -> Result<(), LogUnavailable> {
        if self.broken.load(Ordering::SeqCst) { Err(LogUnavailable("the disk is broken".into())) } else { Ok(()) }
    }

    fn append(&mut self, record: &Record) -> u64 {
        self.taken.lock().expect("nothing panics while it is held").push(record.clone());
        0
    }
}

#[test]
fn a_log_without_room_takes_no_new_work_and_still_ends_the_old() {
    let log = FullLog::default();
    let (books, FullLog { full, told_open, .. }) = (log.books(), &log);
    let reserve = |number| books.reserve(Who::acme().draft(id(number)), |_| (both(10), ()));
    let (first, ()) = reserve(1).expect("room");
    let (second, ()) = reserve(2).expect("room");
    assert_eq!(told_open.load(Ordering::SeqCst), 1, "asked with one open, before the second was held");

    assert_eq!(books.takes_work(), Ok(()));
    full.store(true, Ordering::SeqCst);
    let unavailable = LogUnavailable("the disk is full".into());
    assert_eq!(books.takes_work(), Err(unavailable.clone()));
    assert_eq!(reserve(3).err(), Some(ReserveError::Unavailable(unavailable.clone())));
    assert_eq!(told_open.load(Ordering::SeqCst), 2);
    let [tenant, _, _] = Who::acme().scopes();
    let lifted = CapSet {
        scope: tenant,
        window: Window::Day,
        basis: Basis::Cost,
        cap: None,
        alerts: Default::default(),
        at: start(),
    };
    assert_eq!(books.set_cap(lifted), Err(ChangeError::Unavailable(unavailable.clone())));
    assert_eq!(books.prices_set("1".into(), [0; 32]), Err(ChangeError::Unavailable(unavailable.clone())));
    let plan = Change::PlanSet(Plan::standard());
    assert_eq!(books.change(plan), Err(ChangeError::Unavailable(unavailable)));

    assert!(first.post(measured(both(4))).is_some());
    drop(second);
    let audit = books.audit();
    assert_eq!((audit.totals.posted.cost, audit.totals.released.cost), (PicoSum(4), PicoSum(16)));
    assert_eq!((audit.reservations_pending, audit.totals.requests), (0, 2));
}

fn note(phase: Phase) -> AuditEntry {
    AuditEntry {
        at: Timestamp::default(),
        request: id(7),
        trace: None,
        phase,
        act: "set_budget".into(),
        actor: Actor::AdminKey,
        tenant: None,
        subject: "acme".into(),
        status: None,
        note: None,
        count: 1,
    }
}

/// A stolen key is stopped and what was begun is completed, also when the disk is full: there is room that is kept.
#[test]
fn what_must_not_wait_for_room_is_taken_by_a_full_log_and_refused_by_a_broken_one() {
    type Act = fn(&Books<FullLog>) -> Result<u64, ChangeError>;
    let table: [(&str, bool, Act); 8] = [
        ("a key is revoked", true, |books| books.change(Change::KeyRevoked { id: slug("acme-k1"), at: start() })),
        ("a service key is revoked", true, |books| {
            books.change(Change::ServiceKeyRevoked { id: slug("robot"), at: start() })
        }),
        ("an act is completed", true, |books| books.note(note(Phase::Completed))),
        ("it is noted at once", true, |books| books.note_at_once(note(Phase::Noted))),
        ("an act is begun", false, |books| books.note(note(Phase::Begun))),
        ("a denial is noted", false, |books| books.note(note(Phase::Denied))),
        ("it happened", false, |books| books.note(note(Phase::Noted))),
        ("a plan is set", false, |books| books.change(Change::PlanSet(Plan::standard()))),
    ];
    for (name, needs_no_room, act) in table {
        let unavailable = |why: &str| Err(ChangeError::Unavailable(LogUnavailable(why.to_owned())));
        let log = FullLog::default();
        let books = log.books();
        let robot = ServiceKey {
            id: slug("robot"),
            digest: [0; 32],
            role: Role::Auditor,
            tenant: None,
            name: None,
            created_at: start(),
            expires_at: None,
            revoked_at: None,
        };
        books.change(Change::ServiceKeyCreated(Box::new(robot))).expect("there is room");
        let taken = || log.taken.lock().expect("nothing panicked").len();
        assert_eq!((act(&books), taken()), (Ok(0), 2), "{name}: with room");
        log.full.store(true, Ordering::SeqCst);
        let expected = if needs_no_room { (Ok(0), 3) } else { (unavailable("the disk is full"), 2) };
        assert_eq!((act(&books), taken()), expected, "{name}: full");
        log.broken.store(true, Ordering::SeqCst);
        let why = if needs_no_room { "the disk is broken" } else { "the disk is full" };
        assert_eq!((act(&books), taken()), (unavailable(why), expected.1), "{name}: broken");
    }
}

/// The books' own time, whatever the entry says: it goes on from the last record, and never back.
#[test]
fn a_note_is_a_record_with_the_time_of_the_books() {
    let desk = Desk::new();
    desk.clock.advance(HOUR);
    let later = start().plus(HOUR);
    for write in [Books::note, Books::note_at_once] {
        write(&desk.books, note(Phase::Begun)).expect("there is room");
        let expected = AuditEntry { at: later, ..note(Phase::Begun) };
        assert_eq!(desk.last_record(), Record::Audited(Box::new(expected)));
        desk.turn_back(HOUR / 4);
    }
    let early = Record::Audited(Box::new(AuditEntry { at: start(), ..note(Phase::Begun) }));
    let mut ledger = replay(&desk.books.records());
    assert_eq!((ledger.latest(), ledger.commit(&early)), (later, Err(Rejected::TimeWentBack)));
}

#[test]
fn books_show_their_clock_and_what_is_held_open() {
    let desk = Desk::new();
    desk.clock.advance(HOUR);
    assert_eq!(desk.books.clock().now(), start().plus(HOUR));
    let held = desk.reserve(&Who::acme(), 1, amounts(10, 12)).expect("no cap");
    let Record::Reserved(recorded) = desk.last_record() else { panic!("the hold is the last record") };
    assert_eq!(desk.books.reserved(id(1)), Some(*recorded));
    held.post(measured(both(1))).expect("pending");
    assert_eq!(desk.books.reserved(id(1)), None, "it has ended");
}

#[test]
fn headroom_fits_what_no_column_exceeds() {
    let left = |pico: i128| Some(PicoSum(pico));
    for (cost, charge, fits) in [
        (None, None, true),
        (left(10), left(12), true),
        (left(9), None, false),
        (None, left(11), false),
        (left(10), left(11), false),
        (left(9), left(12), false),
        (left(-1), None, false),
    ] {
        let headroom = Headroom { cost, charge };
        assert_eq!(headroom.fits(amounts(10, 12)), fits, "{headroom:?}");
    }
}

/// Of a month's cost 10 are in the price of the plan, what exceeds them is charged with a mark-up of 100 %. Whatever settles
/// a hold without a measurement charges by that; never more than was held.
#[test]
fn a_hold_posted_in_full_is_charged_by_the_terms_of_its_month_and_by_no_more_than_was_held() {
    type End = fn(&Desk, Reservation<MemoryLog>);
    let table: [(&str, End); 5] = [
        ("posted in full", |_, sent| assert!(sent.post_bounded(Outcome::UsageMissing).is_some())),
        ("dropped", |_, sent| drop(sent)),
        ("swept", |desk, sent| {
            desk.clock.advance(2 * DAY);
            assert_eq!((desk.books.sweep(HOUR), sent.post(measured(both(0)))), (1, None));
        }),
        ("aged in doubt", |desk, sent| {
            desk.books.recover();
            desk.clock.advance(2 * HOUR);
            assert_eq!((desk.books.settle_aged(HOUR), sent.post(measured(both(0)))), (1, None));
        }),
        ("told by its provider", |desk, sent| {
            desk.books.recover();
            assert!(desk.books.resolve(id(2), measured(amounts(10, 0))).is_some());
            assert!(sent.post(measured(both(0))).is_none());
        }),
    ];
    for (name, end) in table {
        for (held, charged) in [(100, 8), (8, 8), (3, 3)] {
            let desk = Desk::new();
            let tariff = Tariff { markup_bps: 10_000, included: PicoUsd(10), ..Tariff::default() };
            desk.books.change(Change::PlanSet(Plan { tariff, ..Plan::standard() })).expect("there is room");
            let before = desk.reserve(&Who::acme(), 1, amounts(4, 0)).expect("no cap");
            before.post(measured(amounts(4, 0))).expect("pending");
            let mut sent = desk.reserve_until(start().plus(DAY), 2, amounts(10, held));
            assert!(sent.dispatched());
            end(&desk, sent);
            // 14 in the month, 10 of them included: 4 are charged twice over.
            let totals = desk.books.audit().totals;
            assert_eq!((totals.posted.cost.0, totals.posted.charge.0), (14, charged), "{name}, {held} held");
        }
    }
}

// === one cap, many threads ===

const THREADS: u64 = 8;
const CAP: i128 = 1_000_000;
/// A half percent of the cap.
const SMALLEST_HOLD: u64 = 5_000;
/// Some thousand are needed; a thread that gets here found a cap that is never used up, or a hold that never ends.
const ATTEMPTS_MAX: u64 = 200_000;

/// A log that adds up by itself, under the lock, what counts against the one cap: it sees every instant there is.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    holds: std::collections::HashMap<RequestId, u64>,
    used: i128,
    most: i128,
    records: usize,
}

impl Log for Witness {
    type Position = usize;

    fn has_room(&self, _open: usize) -> Result<(), LogUnavailable> {
        Ok(())
    }

    fn is_writable(&self) -> Result<(), LogUnavailable> {
        Ok(())
    }

    fn append(&mut self, record: &Record) -> usize {
        let mut seen = self.0.lock().expect("nothing panics while it is held");
        match record {
            Record::Reserved(reserved) => {
                seen.used += i128::from(reserved.hold.cost.0);
                seen.holds.insert(reserved.id, reserved.hold.cost.0);
            }
            Record::Posted(posted) => {
                let hold = seen.holds.remove(&posted.id).expect("held, and ended once");
                seen.used -= i128::from(hold) - i128::from(posted.amounts.cost.0);
            }
            Record::Voided(voided) => {
                let hold = seen.holds.remove(&voided.id).expect("held, and ended once");
                seen.used -= i128::from(hold);
            }
            _ => {}
        }
        seen.most = seen.most.max(seen.used);
        seen.records += 1;
        seen.records
    }
}

/// Small deterministic dice (SplitMix64), so that a seed replays a thread's decisions.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// Works until even the smallest hold is refused while nothing is pending, and ends reservations in every way there is.
fn work(books: &Arc<Books<Witness>>, thread: u64, refusals: &AtomicUsize) {
    let (who, mut dice, mut held) = (Who::acme(), Dice(thread), Vec::new());
    for number in 0..ATTEMPTS_MAX {
        let hold = SMALLEST_HOLD * (1 + dice.roll(3));
        let id = RequestId(u128::from(thread) << 64 | u128::from(number));
        match books.reserve(who.draft(id), |_| (both(hold), ())) {
            Ok((reservation, ())) => held.push(reservation),
            Err(ReserveError::Rejected(Rejected::BudgetExceeded(exceeded))) => {
                refusals.fetch_add(1, Ordering::Relaxed);
                if held.is_empty() && exceeded.left < PicoSum(i128::from(SMALLEST_HOLD)) && nothing_pending(books) {
                    return;
                }
                thread::yield_now();
            }
            Err(other) => panic!("{other}"),
        }
        if held.len() > 3 || dice.roll(2) == 0 {
            for reservation in held.drain(..) {
                end(reservation, &mut dice);
            }
        }
    }
    panic!("after {ATTEMPTS_MAX} attempts the cap is not used up, or something is still held: {:?}", books.audit());
}

fn nothing_pending(books: &Books<Witness>) -> bool {
    books.audit().reservations_pending == 0
}

fn end(mut reservation: Reservation<Witness>, dice: &mut Dice) {
    let hold = reservation.hold().cost.0;
    match dice.roll(12) {
        0..=2 => drop(reservation),
        3 => assert!(reservation.dispatched()),
        4 => assert!(reservation.void(Outcome::ProviderRefused).is_some()),
        5 => assert!(reservation.post_bounded(Outcome::UsageMissing).is_some()),
        6 => assert!(reservation.post(measured(both(hold * 2))).is_some()),
        _ => assert!(reservation.post(measured(both(dice.roll(hold)))).is_some()),
    }
}

#[test]
fn eight_threads_on_one_cap_are_never_over_it_and_can_spend_99_percent() {
    let witness = Witness::default();
    let books = Arc::new(Books::new(Ledger::default(), directory(), witness.clone(), Clock::manual(start())));
    let [_, _, scope] = Who::acme().scopes();
    let (window, basis, at) = (Window::Month, Basis::Cost, start());
    books
        .set_cap(CapSet { scope, window, basis, cap: Some(PicoSum(CAP)), alerts: Default::default(), at })
        .expect("the key exists");

    let (finished, refusals) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(usize::try_from(THREADS).expect("few") + 1);
    let mut samples = 0u32;
    thread::scope(|threads| {
        for thread in 0..THREADS {
            let (books, finished, refusals, barrier) = (&books, &finished, &refusals, &barrier);
            threads.spawn(move || {
                // Counted by a guard, so that a thread that panics ends the sampling too.
                let _counted = CountOnDrop(finished);
                barrier.wait();
                work(books, thread, refusals);
            });
        }
        barrier.wait();
        while finished.load(Ordering::SeqCst) < usize::try_from(THREADS).expect("few") {
            let budget = books.budgets(|_| true).pop().expect("the one cap");
            assert!(budget.sums.used(Basis::Cost).0 <= CAP, "over at sample {samples}: {budget:?}");
            assert_eq!(books.audit().drift, PicoSum::ZERO);
            samples += 1;
            thread::yield_now();
        }
    });

    let seen = witness.0.lock().expect("no thread panicked");
    let audit = books.audit();
    assert!(seen.most <= CAP, "at some instant {} of {CAP} were held", seen.most);
    assert_eq!(seen.used, audit.totals.posted.cost.0, "the witness and the ledger agree");
    assert_eq!((audit.reservations_pending, audit.drift, seen.holds.len()), (0, PicoSum::ZERO, 0));
    assert!(
        audit.totals.posted.cost.0 * 100 >= CAP * 99,
        "only {} of {CAP} could be spent",
        audit.totals.posted.cost.0
    );
    assert!(samples > 0 && refusals.load(Ordering::SeqCst) >= usize::try_from(THREADS).expect("few"));
}

struct CountOnDrop<'a>(&'a AtomicUsize);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn caps_that_change_under_load_are_kept_from_the_moment_they_are_set() {
    let desk = Desk::new();
    let who = Who::acme();
    let [tenant, _, _] = who.scopes();
    desk.cap(&tenant, Window::Lifetime, Basis::Cost, usd(1));
    thread::scope(|threads| {
        for thread in 0..4u128 {
            let (desk, who) = (&desk, &who);
            threads.spawn(move || {
                for number in 0..500u128 {
                    if let Ok(held) = desk.reserve(who, thread << 64 | number, both(1_000_000_000)) {
                        held.post(measured(both(250_000_000)));
                    }
                }
            });
        }
        for step in 0..200u32 {
            let cap = PicoSum(i128::from(step % 7) * 50_000_000_000);
            desk.cap(&tenant, Window::Lifetime, Basis::Cost, cap);
        }
    });
    // The order of the log is the order of the decisions: each hold in it fits the cap that stands before it.
    let (mut cap, mut used, mut holds) = (0i128, 0i128, std::collections::HashMap::new());
    for record in desk.books.records() {
        match record {
            Record::CapSet(set) => cap = set.cap.expect("none was lifted").0,
            Record::Reserved(reserved) => {
                used += i128::from(reserved.hold.cost.0);
                assert!(used <= cap, "{used} of {cap}");
                holds.insert(reserved.id, i128::from(reserved.hold.cost.0));
            }
            Record::Posted(posted) => used += i128::from(posted.amounts.cost.0) - holds[&posted.id],
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(used, desk.used());
    assert!(used > 0, "something was let through");
}

#[test]
fn a_clamp_under_load_sees_what_is_left_and_is_never_refused() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[1], Window::Day, Basis::Cost, PicoSum(10_000));
    let barrier = Barrier::new(4);
    thread::scope(|threads| {
        for thread in 0..4u128 {
            let (desk, who, barrier) = (&desk, &who, &barrier);
            threads.spawn(move || {
                barrier.wait();
                for number in 0..400u128 {
                    let draft = who.draft(id(thread << 64 | number));
                    let taken = desk.books.reserve(draft, |headroom| affordable(headroom, both(1), 100));
                    let (reservation, _) = taken.expect("what is asked for is what is left, under one lock");
                    let used = reservation.hold().cost.0 / 4;
                    reservation.post(measured(both(used))).expect("pending");
                }
            });
        }
    });
    assert!(desk.used() >= 9_997, "a quarter of each hold is spent until it is less than one: {}", desk.used());
}

#[test]
fn a_reservation_may_end_in_another_thread_than_it_began_in() {
    let desk = Desk::new();
    desk.cap(&Who::acme().scopes()[0], Window::Day, Basis::Cost, PicoSum(400));
    let held: Vec<_> = (0..4).map(|n| desk.reserve(&Who::acme(), n, both(100)).expect("room")).collect();
    assert!(desk.reserve(&Who::acme(), 9, both(1)).is_err());
    let threads: Vec<_> = held.into_iter().map(|reservation| thread::spawn(move || drop(reservation))).collect();
    for thread in threads {
        thread.join().expect("a drop does not panic");
    }
    assert_eq!(desk.headroom(&Who::acme()).cost, Some(PicoSum(400)));
    assert_eq!(desk.books.sweep(Duration::ZERO), 0);
}
