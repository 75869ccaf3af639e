//! The state machine, by tables: every guard with its own reason, every transition with its sums.

use std::time::Duration;

use tollgate_ledger::account::Columns;
use tollgate_ledger::{Amounts, Ledger, Record, Rejected, Reservation, Sums};
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::usage::Outcome;
use tollgate_types::{Basis, Confidence, PicoSum, PicoUsd, Scope, Timestamp, UtcOffset, Window};

use crate::world::{
    BASES, DAY, Desk, HOUR, Who, alert, amounts, at, both, budget_refusal, budgets_of, cap, id, indeterminate,
    measured, posted, posted_as, replay, reserved, reserved_by, start, usd, voided,
};

const NOW: Timestamp = Timestamp(1_000_000_000);
const BEFORE: Timestamp = Timestamp(NOW.0 - 1);

fn tenant() -> Scope {
    let [tenant, _, _] = Who::acme().scopes();
    tenant
}

fn lifetime_cap(pico: i128, at: Timestamp) -> Record {
    cap(&tenant(), Window::Lifetime, Basis::Cost, Some(PicoSum(pico)), at)
}

fn prices(at: Timestamp) -> Record {
    Record::PricesSet { version: "test-1".into(), sha256: [0; 32], at }
}

/// `record`, after `before`, must be answered with `expected`; and if that is a refusal, nothing may have changed.
fn check(name: &str, before: &[Record], record: &Record, expected: Result<(), Rejected>) {
    let mut ledger = replay(before);
    let (audit, budgets, latest) = (ledger.audit(), budgets_of(&ledger, NOW), ledger.latest());
    assert_eq!(ledger.check(record), expected, "{name}: check");
    assert_eq!(ledger.commit(record), expected, "{name}: commit");
    if expected.is_err() {
        assert_eq!(ledger.audit(), audit, "{name}: a refusal changes nothing");
        assert_eq!(budgets_of(&ledger, NOW), budgets, "{name}: a refusal changes no budget");
        assert_eq!(ledger.latest(), latest, "{name}: a refusal does not move time");
    }
    assert_eq!(ledger.audit().drift, PicoSum::ZERO, "{name}: drift");
}

/// What it is, the records before, the record, and the answer.
type Guarded = (&'static str, Vec<Record>, Record, Result<(), Rejected>);

#[test]
fn each_guard_refuses_with_its_own_reason() {
    let one = id(1);
    let held = reserved(1, NOW, both(10));
    let over = |left, needed| {
        Rejected::BudgetExceeded(BudgetExceeded {
            scope: "tenant",
            shared: false,
            window: Window::Lifetime,
            basis: Basis::Cost,
            left: PicoSum(left),
            needed: PicoUsd(needed),
            resets_at: None,
        })
    };
    let table: Vec<Guarded> = vec![
        ("a first hold", vec![], held.clone(), Ok(())),
        ("the same hold twice", vec![held.clone()], held.clone(), Err(Rejected::AlreadyReserved(one))),
        (
            "the same hold while in doubt",
            vec![held.clone(), indeterminate(1, NOW)],
            held.clone(),
            Err(Rejected::AlreadyReserved(one)),
        ),
        ("a posting of nothing held", vec![], posted(1, NOW, both(0)), Err(Rejected::NotOpen(one))),
        ("a void of nothing held", vec![], voided(1, NOW), Err(Rejected::NotOpen(one))),
        ("doubt of nothing held", vec![], indeterminate(1, NOW), Err(Rejected::NotOpen(one))),
        ("another's posting", vec![held.clone()], posted(2, NOW, both(1)), Err(Rejected::NotOpen(id(2)))),
        (
            "posted twice",
            vec![held.clone(), posted(1, NOW, both(3))],
            posted(1, NOW, both(3)),
            Err(Rejected::NotOpen(one)),
        ),
        ("posted after void", vec![held.clone(), voided(1, NOW)], posted(1, NOW, both(3)), Err(Rejected::NotOpen(one))),
        (
            "voided after posting",
            vec![held.clone(), posted(1, NOW, both(3))],
            voided(1, NOW),
            Err(Rejected::NotOpen(one)),
        ),
        ("voided twice", vec![held.clone(), voided(1, NOW)], voided(1, NOW), Err(Rejected::NotOpen(one))),
        ("doubted after void", vec![held.clone(), voided(1, NOW)], indeterminate(1, NOW), Err(Rejected::NotOpen(one))),
        (
            "doubted after posting",
            vec![held.clone(), posted(1, NOW, both(3))],
            indeterminate(1, NOW),
            Err(Rejected::NotOpen(one)),
        ),
        (
            "voided while in doubt",
            vec![held.clone(), indeterminate(1, NOW)],
            voided(1, NOW),
            Err(Rejected::NotPending(one)),
        ),
        (
            "doubted twice",
            vec![held.clone(), indeterminate(1, NOW)],
            indeterminate(1, NOW),
            Err(Rejected::NotPending(one)),
        ),
        ("posted while in doubt", vec![held.clone(), indeterminate(1, NOW)], posted(1, NOW, both(10)), Ok(())),
        ("posted at the hold", vec![held.clone()], posted(1, NOW, both(10)), Ok(())),
        (
            "a cost beyond the hold",
            vec![held.clone()],
            posted(1, NOW, amounts(11, 10)),
            Err(Rejected::PostedBeyondHold(one)),
        ),
        (
            "a charge beyond the hold",
            vec![held.clone()],
            posted(1, NOW, amounts(10, 11)),
            Err(Rejected::PostedBeyondHold(one)),
        ),
        (
            "beyond the hold while in doubt",
            vec![held.clone(), indeterminate(1, NOW)],
            posted(1, NOW, amounts(0, 11)),
            Err(Rejected::PostedBeyondHold(one)),
        ),
        ("a negative cap", vec![], lifetime_cap(-1, NOW), Err(Rejected::NegativeCap)),
        ("a cap of nothing", vec![], lifetime_cap(0, NOW), Ok(())),
        ("the largest cap", vec![], lifetime_cap(i128::MAX, NOW), Ok(())),
        ("a negative threshold", vec![], alert(&tenant(), Window::Day, -1, NOW), Err(Rejected::NegativeCap)),
        ("a threshold of nothing", vec![], alert(&tenant(), Window::Day, 0, NOW), Ok(())),
        ("a hold that takes all that is left", vec![lifetime_cap(10, NOW)], held.clone(), Ok(())),
        ("a picodollar too much", vec![lifetime_cap(9, NOW)], held.clone(), Err(over(9, 10))),
        ("a hold under a cap of nothing", vec![lifetime_cap(0, NOW)], held.clone(), Err(over(0, 10))),
        ("nothing held under a cap of nothing", vec![lifetime_cap(0, NOW)], reserved(1, NOW, both(0)), Ok(())),
        (
            "nothing held under a cap lowered below its use",
            vec![held.clone(), lifetime_cap(9, NOW)],
            reserved(2, NOW, both(0)),
            Err(over(0, 0)),
        ),
        (
            "a picodollar beside what is pending",
            vec![lifetime_cap(10, NOW), held.clone()],
            reserved(2, NOW, both(1)),
            Err(over(0, 1)),
        ),
        (
            "a picodollar beside what is in doubt",
            vec![lifetime_cap(10, NOW), held.clone(), indeterminate(1, NOW)],
            reserved(2, NOW, both(1)),
            Err(over(0, 1)),
        ),
        (
            "more than a posting left",
            vec![lifetime_cap(10, NOW), held.clone(), posted(1, NOW, both(4))],
            reserved(2, NOW, both(7)),
            Err(over(6, 7)),
        ),
        (
            "all that a posting left",
            vec![lifetime_cap(10, NOW), held.clone(), posted(1, NOW, both(4))],
            reserved(2, NOW, both(6)),
            Ok(()),
        ),
        (
            "all that a void gave back",
            vec![lifetime_cap(10, NOW), held.clone(), voided(1, NOW)],
            reserved(2, NOW, both(10)),
            Ok(()),
        ),
        (
            "a lifted cap",
            vec![lifetime_cap(9, NOW), cap(&tenant(), Window::Lifetime, Basis::Cost, None, NOW)],
            held.clone(),
            Ok(()),
        ),
        (
            "another basis's cap lifted",
            vec![lifetime_cap(9, NOW), cap(&tenant(), Window::Lifetime, Basis::Charge, None, NOW)],
            held.clone(),
            Err(over(9, 10)),
        ),
        (
            "another window's cap lifted",
            vec![lifetime_cap(9, NOW), cap(&tenant(), Window::Month, Basis::Cost, None, NOW)],
            held.clone(),
            Err(over(9, 10)),
        ),
        ("a cap set twice, the later counts", vec![lifetime_cap(9, NOW), lifetime_cap(10, NOW)], held.clone(), Ok(())),
        (
            "another tenant's cap",
            vec![cap(
                &Who::new("bolt", "main", "k1").scopes()[0],
                Window::Lifetime,
                Basis::Cost,
                Some(PicoSum(0)),
                NOW,
            )],
            held,
            Ok(()),
        ),
    ];
    for (name, before, record, expected) in table {
        check(name, &before, &record, expected);
    }
}

#[test]
fn time_never_goes_back_whatever_the_record() {
    let clock_is_at_now = [reserved(1, BEFORE, both(10)), prices(NOW)];
    let late = |at| {
        [
            reserved(2, at, both(1)),
            posted(1, at, both(1)),
            voided(1, at),
            indeterminate(1, at),
            lifetime_cap(100, at),
            prices(at),
        ]
    };
    for record in late(BEFORE) {
        check("a microsecond late", &clock_is_at_now, &record, Err(Rejected::TimeWentBack));
    }
    for record in late(NOW) {
        check("at the same time", &clock_is_at_now, &record, Ok(()));
    }
    check("before 1970", &[], &reserved(1, Timestamp(-1), both(1)), Err(Rejected::TimeWentBack));
}

#[test]
fn a_refusal_names_scope_window_basis_what_was_left_and_when_it_resets() {
    let (now, who) = (at("2028-02-28T23:59:59Z"), Who::acme());
    for (scope, name) in who.scopes().iter().zip(["tenant", "project", "key"]) {
        for window in Window::ALL {
            for basis in BASES {
                let resets_at = match window {
                    Window::Minute | Window::Hour | Window::Day => Some(at("2028-02-29T00:00:00Z")),
                    Window::Week => Some(at("2028-03-06T00:00:00Z")),
                    Window::Month => Some(at("2028-03-01T00:00:00Z")),
                    _ => None,
                };
                // Seven are used already, which a cap on a single request does not care about; and what nobody asked for
                // was not counted.
                let left = if Window::STANDING.contains(&window) { 5 } else { 12 };
                let (hold, needed) = match basis {
                    Basis::Cost => (amounts(13, 0), PicoUsd(13)),
                    Basis::Charge => (amounts(0, 13), PicoUsd(13)),
                };
                let before = [
                    reserved(1, now, both(9)),
                    posted(1, now, both(7)),
                    cap(scope, window, basis, Some(PicoSum(12)), now),
                ];
                let refused = BudgetExceeded {
                    scope: name,
                    shared: false,
                    window,
                    basis,
                    left: PicoSum(left),
                    needed,
                    resets_at,
                };
                let case = format!("{name}, {window}, {basis}");
                check(&case, &before, &reserved(2, now, hold), Err(Rejected::BudgetExceeded(refused)));
                let other_column = amounts(hold.charge.0, hold.cost.0);
                check(&case, &before, &reserved(2, now, other_column), Ok(()));
                let least = u64::try_from(left).expect("positive");
                check(&case, &before, &reserved(2, now, both(least)), Ok(()));
            }
        }
    }
}

#[test]
fn the_widest_scope_and_the_shortest_window_are_named_first() {
    let who = Who::acme();
    let mut before = Vec::new();
    let named = |before: &[Record]| match replay(before).check(&reserved(1, NOW, both(1))) {
        Err(Rejected::BudgetExceeded(exceeded)) => (exceeded.scope, exceeded.window),
        other => panic!("{other:?}"),
    };
    for (scope, name) in who.scopes().iter().zip(["tenant", "project", "key"]).rev() {
        for window in Window::ALL.into_iter().rev() {
            before.push(cap(scope, window, Basis::Cost, Some(PicoSum::ZERO), NOW));
            assert_eq!(named(&before), (name, window));
        }
    }
}

#[test]
fn all_or_none_a_hold_that_one_scope_refuses_touches_no_other() {
    let who = Who::acme();
    let [tenant, project, key] = who.scopes();
    for refusing in [&tenant, &project, &key] {
        let mut before: Vec<_> = [&tenant, &project, &key]
            .map(|scope| cap(scope, Window::Day, Basis::Cost, Some(PicoSum(100)), NOW))
            .to_vec();
        before.push(cap(refusing, Window::Month, Basis::Cost, Some(PicoSum(0)), NOW));
        let mut ledger = replay(&before);
        assert!(ledger.commit(&reserved(1, NOW, both(1))).is_err());
        let untouched = budgets_of(&ledger, NOW).iter().all(|budget| budget.sums == Sums::default());
        assert!(untouched, "refused by {}", refusing.kind());
        assert_eq!(ledger.open_count(), 0);
    }
}

/// Sums of the tenant over its lifetime, which must be the same over the month and day, for project and for key.
fn sums(ledger: &Ledger, when: Timestamp) -> Sums {
    let mut probe = ledger.clone();
    for scope in Who::acme().scopes() {
        for window in Window::STANDING {
            probe.commit(&cap(&scope, window, Basis::Cost, Some(PicoSum(i128::MAX)), when)).expect("a cap");
        }
    }
    let budgets = budgets_of(&probe, when);
    assert_eq!(budgets.len(), 12);
    for budget in &budgets {
        assert_eq!(budget.sums, budgets[0].sums, "{:?} {}", budget.scope, budget.budget.window);
    }
    budgets[0].sums
}

#[test]
fn each_transition_moves_the_money_it_says_and_no_other() {
    let column = |cost: i128, charge: i128| Columns { cost: PicoSum(cost), charge: PicoSum(charge) };
    let zero = Columns::default();
    let held = reserved(1, NOW, amounts(10, 12));
    let bounded = |pico| posted_as(1, NOW, pico, Confidence::Bounded);
    let table: [(&str, &[Record], Sums, Columns); 7] = [
        ("pending", &[], Sums { pending: column(10, 12), ..Sums::default() }, zero),
        ("posted", &[posted(1, NOW, amounts(4, 5))], Sums { posted: column(4, 5), ..Sums::default() }, column(6, 7)),
        (
            "posted as bounded",
            &[bounded(amounts(4, 12))],
            Sums { posted: column(4, 12), bounded: column(4, 12), ..Sums::default() },
            column(6, 0),
        ),
        ("voided", &[voided(1, NOW)], Sums::default(), column(10, 12)),
        ("indeterminate", &[indeterminate(1, NOW)], Sums { indeterminate: column(10, 12), ..Sums::default() }, zero),
        (
            "indeterminate, then measured after all",
            &[indeterminate(1, NOW), posted(1, NOW, amounts(1, 2))],
            Sums { posted: column(1, 2), ..Sums::default() },
            column(9, 10),
        ),
        (
            "indeterminate, then aged",
            &[indeterminate(1, NOW), bounded(amounts(10, 12))],
            Sums { posted: column(10, 12), bounded: column(10, 12), ..Sums::default() },
            zero,
        ),
    ];
    for (name, then, expected, released) in table {
        let mut records = vec![held.clone()];
        records.extend_from_slice(then);
        let ledger = replay(&records);
        let audit = ledger.audit();
        assert_eq!(sums(&ledger, NOW), expected, "{name}");
        assert_eq!(*ledger.totals(), audit.totals, "{name}: totals");
        assert_eq!(audit.totals.held, column(10, 12), "{name}: held");
        assert_eq!(audit.totals.released, released, "{name}: released");
        assert_eq!(audit.totals.posted, expected.posted, "{name}: posted");
        assert_eq!(audit.totals.bounded, expected.bounded, "{name}: bounded");
        assert_eq!((audit.pending, audit.indeterminate), (expected.pending, expected.indeterminate), "{name}: open");
        assert_eq!(audit.drift, PicoSum::ZERO, "{name}: drift");
    }
}

#[test]
fn a_hold_posts_into_the_period_that_reserved_it_even_when_another_has_begun() {
    let (today, tomorrow) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:00Z"));
    let mut ledger = replay(&[
        cap(&tenant(), Window::Day, Basis::Cost, Some(PicoSum(10)), today),
        cap(&tenant(), Window::Month, Basis::Cost, Some(PicoSum(10)), today),
        cap(&tenant(), Window::Lifetime, Basis::Cost, Some(PicoSum(20)), today),
        reserved(1, today, both(6)),
        reserved(2, today, both(4)),
        // A new day and a new month: the whole cap is there again.
        reserved(3, tomorrow, both(10)),
        posted(1, tomorrow, both(5)),
    ]);
    let posted_and_pending = |ledger: &Ledger, when| {
        let budgets = budgets_of(ledger, when);
        budgets.iter().map(|b| (b.sums.posted.cost.0, b.sums.pending.cost.0)).collect::<Vec<_>>()
    };
    assert_eq!(
        posted_and_pending(&ledger, today),
        [(0, 10), (0, 10), (5, 14)],
        "a period that ended is not gone back to"
    );
    assert_eq!(posted_and_pending(&ledger, tomorrow), [(0, 10), (0, 10), (5, 14)], "the new ones");
    ledger.commit(&indeterminate(2, tomorrow)).expect("pending");
    ledger.commit(&posted(2, tomorrow, both(4))).expect("in doubt");
    assert_eq!(posted_and_pending(&ledger, tomorrow), [(0, 10), (0, 10), (9, 10)]);
    assert_eq!(ledger.audit().drift, PicoSum::ZERO);
}

#[test]
fn a_hold_of_an_ended_period_gives_nothing_back_to_the_new_one() {
    let (today, tomorrow) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:00Z"));
    let mut ledger = replay(&[
        cap(&tenant(), Window::Day, Basis::Cost, Some(PicoSum(10)), today),
        reserved(1, today, both(10)),
        reserved(2, tomorrow, both(10)),
        voided(1, tomorrow),
    ]);
    let refused = ledger.check(&reserved(3, tomorrow, both(1)));
    assert!(matches!(refused, Err(Rejected::BudgetExceeded(_))), "{refused:?}");
    ledger.commit(&voided(2, tomorrow)).expect("pending");
    assert_eq!(ledger.check(&reserved(3, tomorrow, both(10))), Ok(()));
}

#[test]
fn a_day_ends_without_the_month_and_a_month_with_its_day() {
    let used = |ledger: &Ledger, when| {
        let budgets = budgets_of(ledger, when);
        budgets.iter().map(|b| b.sums.used(Basis::Cost).0).collect::<Vec<_>>()
    };
    let first = at("2026-11-29T12:00:00Z");
    let mut ledger = replay(&[
        cap(&tenant(), Window::Day, Basis::Cost, Some(usd(1)), first),
        cap(&tenant(), Window::Month, Basis::Cost, Some(usd(1)), first),
        cap(&tenant(), Window::Lifetime, Basis::Cost, Some(usd(1)), first),
        reserved(1, first, both(1)),
        posted(1, first, both(1)),
    ]);
    assert_eq!(used(&ledger, first), [1, 1, 1]);
    for (number, when, expected) in [
        (2, "2026-11-30T00:00:00Z", [1, 2, 2]),
        (3, "2026-11-30T23:59:59.999999Z", [2, 3, 3]),
        (4, "2026-12-01T00:00:00Z", [1, 1, 4]),
        (5, "2027-12-01T00:00:00Z", [1, 1, 5]),
    ] {
        ledger.commit(&reserved(number, at(when), both(1))).expect("room");
        ledger.commit(&posted(number, at(when), both(1))).expect("pending");
        assert_eq!(used(&ledger, at(when)), expected, "{when}");
    }
    assert_eq!(used(&ledger, at("2027-12-02T00:00:00Z")), [0, 1, 5], "a period nobody has spent in yet");
}

#[test]
fn caps_on_cost_and_on_charge_count_their_own_column() {
    let mut ledger = replay(&[
        cap(&tenant(), Window::Lifetime, Basis::Cost, Some(PicoSum(100)), NOW),
        cap(&tenant(), Window::Lifetime, Basis::Charge, Some(PicoSum(150)), NOW),
        reserved(1, NOW, amounts(60, 72)),
    ]);
    assert_eq!(ledger.headroom(&Who::acme().spender(), NOW, UtcOffset(0)), [Some(PicoSum(40)), Some(PicoSum(78))]);
    let basis = |ledger: &Ledger, hold| match ledger.check(&reserved(2, NOW, hold)) {
        Ok(()) => None,
        Err(Rejected::BudgetExceeded(exceeded)) => Some(exceeded.basis),
        other => panic!("{other:?}"),
    };
    assert_eq!(basis(&ledger, amounts(40, 78)), None);
    assert_eq!(basis(&ledger, amounts(41, 0)), Some(Basis::Cost));
    assert_eq!(basis(&ledger, amounts(0, 79)), Some(Basis::Charge));
    ledger.commit(&posted(1, NOW, amounts(10, 72))).expect("pending");
    assert_eq!(ledger.headroom(&Who::acme().spender(), NOW, UtcOffset(0)), [Some(PicoSum(90)), Some(PicoSum(78))]);
}

#[test]
fn a_cap_on_the_single_request_does_not_add_up() {
    let mut ledger = replay(&[cap(&tenant(), Window::Request, Basis::Cost, Some(PicoSum(10)), NOW)]);
    for number in 0..5 {
        ledger.commit(&reserved(number, NOW, both(10))).expect("each is within the cap");
    }
    assert!(ledger.commit(&reserved(9, NOW, both(11))).is_err());
    assert_eq!(ledger.headroom(&Who::acme().spender(), NOW, UtcOffset(0)), [Some(PicoSum(10)), None]);
}

#[test]
fn siblings_share_what_is_above_them_and_nothing_else() {
    let (main, side) = (Who::new("acme", "main", "k1"), Who::new("acme", "side", "k2"));
    let stranger = Who::new("bolt", "main", "k1");
    let [tenant, project, key] = main.scopes();
    let ledger = replay(&[
        cap(&tenant, Window::Lifetime, Basis::Cost, Some(PicoSum(30)), NOW),
        cap(&project, Window::Lifetime, Basis::Cost, Some(PicoSum(20)), NOW),
        cap(&key, Window::Lifetime, Basis::Cost, Some(PicoSum(10)), NOW),
        reserved_by(&main, 1, NOW, both(6)),
        reserved_by(&side, 2, NOW, both(7)),
        reserved_by(&Who::new("acme", "main", "k2"), 3, NOW, both(2)),
        reserved_by(&stranger, 4, NOW, both(1_000)),
    ]);
    let left = |who: &Who| ledger.headroom(&who.spender(), NOW, UtcOffset(0))[0];
    assert_eq!(left(&main), Some(PicoSum(4)), "the key's");
    assert_eq!(left(&Who::new("acme", "main", "k2")), Some(PicoSum(12)), "the project's");
    assert_eq!(left(&side), Some(PicoSum(15)), "the tenant's");
    assert_eq!(left(&stranger), None);
}

#[test]
fn a_cap_lowered_below_its_use_refuses_new_work_and_harms_none_under_way() {
    let desk = Desk::new();
    let [tenant, _, _] = Who::acme().scopes();
    desk.cap(&tenant, Window::Month, Basis::Cost, PicoSum(100));
    let under_way = desk.reserve(&Who::acme(), 1, both(60)).expect("room");
    desk.cap(&tenant, Window::Month, Basis::Cost, PicoSum(50));
    let refused = budget_refusal(desk.reserve(&Who::acme(), 2, both(1)));
    assert_eq!((refused.left, refused.needed), (PicoSum::ZERO, PicoUsd(1)), "shown as nothing, not as less");
    assert_eq!(desk.headroom(&Who::acme()).cost, Some(PicoSum(-10)));
    assert_eq!(desk.books.audit().worst_left, Some(PicoSum(-10)));
    assert!(under_way.post(measured(both(60))).is_some(), "work under way is not harmed");
    assert_eq!(desk.used(), 60);
    desk.cap(&tenant, Window::Month, Basis::Cost, PicoSum(61));
    drop(desk.reserve(&Who::acme(), 3, both(1)).expect("a raised cap is in force at once"));
    desk.cap(&tenant, Window::Month, Basis::Cost, None);
    drop(desk.reserve(&Who::acme(), 4, both(u64::MAX)).expect("no cap, no refusal"));
}

#[test]
fn a_crash_puts_what_was_pending_in_doubt_and_age_settles_it_in_full() {
    let desk = Desk::new();
    desk.cap(&tenant(), Window::Lifetime, Basis::Cost, PicoSum(100));
    let mut sent = desk.reserve(&Who::acme(), 1, both(30)).expect("room");
    assert!(sent.dispatched());
    let unsent = desk.reserve(&Who::acme(), 2, both(20)).expect("room");
    desk.reserve(&Who::acme(), 3, both(50)).expect("room").post(measured(both(10)));

    let restarted = desk.restarted();
    assert_eq!(restarted.books.recover(), 2, "both: the log does not know which was sent");
    let audit = restarted.books.audit();
    assert_eq!((audit.reservations_pending, audit.reservations_indeterminate), (0, 2));
    assert_eq!(restarted.used(), 60, "in doubt counts in full");
    assert_eq!(restarted.books.recover(), 0, "and only once");

    restarted.clock.advance(HOUR);
    assert_eq!(restarted.books.settle_aged(HOUR), 0, "an hour is not more than an hour");
    restarted.clock.advance(HOUR);
    assert_eq!(restarted.books.settle_aged(HOUR), 2);
    let audit = restarted.books.audit();
    assert_eq!((audit.totals.bounded.cost, audit.indeterminate.cost), (PicoSum(50), PicoSum(0)));
    assert_eq!((restarted.used(), audit.drift), (60, PicoSum::ZERO));
    let outcomes = restarted.books.records().into_iter().rev().take(2).map(|record| match record {
        Record::Posted(posted) => (posted.confidence, posted.outcome),
        other => panic!("{other:?}"),
    });
    assert!(outcomes.into_iter().all(|ended| ended == (Confidence::Bounded, Outcome::Unknown)));
    drop((sent, unsent));
}

#[test]
fn doubt_ages_from_the_crash_not_from_the_reservation() {
    let desk = Desk::new();
    let under_way = desk.reserve(&Who::acme(), 1, both(30)).expect("no cap");
    desk.clock.advance(10 * HOUR);
    let restarted = desk.restarted();
    restarted.books.recover();
    restarted.clock.advance(HOUR / 2);
    assert_eq!(restarted.books.settle_aged(HOUR), 0, "the provider's record still has half an hour to arrive");
    restarted.clock.advance(HOUR);
    assert_eq!(restarted.books.settle_aged(HOUR), 1);
    drop(under_way);
}

#[test]
fn the_sweep_voids_what_was_never_sent_and_posts_what_was() {
    let desk = Desk::new();
    let deadline = start().plus(HOUR);
    let unsent = desk.reserve_until(deadline, 1, both(10));
    let mut sent = desk.reserve_until(deadline, 2, both(20));
    assert!(sent.dispatched());
    let mut taken_back = desk.reserve_until(deadline, 3, both(40));
    assert!(taken_back.dispatched());
    taken_back.not_dispatched();
    let later = desk.reserve_until(deadline.plus(HOUR), 4, both(80));

    desk.clock.advance(2 * HOUR);
    assert_eq!(desk.books.sweep(HOUR), 0, "the deadline and its grace are not past yet");
    desk.clock.advance(HOUR);
    assert_eq!(desk.books.audit().oldest_pending_deadline, Some(deadline));
    assert_eq!(desk.books.sweep(HOUR), 3);
    assert_eq!(desk.books.sweep(HOUR), 0, "once is enough");
    let audit = desk.books.audit();
    assert_eq!((audit.totals.posted.cost, audit.totals.bounded.cost), (PicoSum(20), PicoSum(20)), "the one sent");
    assert_eq!((audit.totals.released.cost, audit.pending.cost), (PicoSum(50), PicoSum(80)));
    assert_eq!(audit.oldest_pending_deadline, Some(deadline.plus(HOUR)));

    assert_eq!(unsent.post(measured(both(1))), None, "what was swept has ended");
    assert_eq!(sent.post(measured(both(1))), None);
    assert_eq!(taken_back.void(Outcome::NotSent), None);
    assert_eq!((desk.books.audit().totals.posted.cost, desk.books.audit().drift), (PicoSum(20), PicoSum::ZERO));
    drop(later);
}

#[test]
fn nothing_may_be_sent_for_a_reservation_that_was_swept() {
    let desk = Desk::new();
    let mut late = desk.reserve_until(start(), 1, both(10));
    desk.clock.advance(HOUR);
    assert_eq!(desk.books.sweep(HOUR / 2), 1);
    assert!(!late.dispatched(), "its money was given back, so whatever the provider billed would be free");
    let ended = desk.books.records().len();
    drop(late);
    assert_eq!(desk.books.records().len(), ended, "and its drop adds nothing");
}

#[test]
fn nothing_may_be_sent_for_a_reservation_in_doubt() {
    let desk = Desk::new();
    let mut under_way = desk.reserve(&Who::acme(), 1, both(10)).expect("no cap");
    desk.books.recover();
    assert!(!under_way.dispatched());
    assert!(under_way.post(measured(both(4))).is_some(), "but a measurement still settles it");
    assert_eq!(desk.books.audit().totals.posted.cost, PicoSum(4));
}

#[test]
fn a_clock_that_goes_back_gives_no_period_a_second_time() {
    let desk = Desk::new();
    desk.cap(&tenant(), Window::Day, Basis::Cost, PicoSum(10));
    let first = desk.reserve(&Who::acme(), 1, both(10)).expect("today's");
    desk.clock.advance(DAY);
    let second = desk.reserve(&Who::acme(), 2, both(10)).expect("tomorrow's");
    desk.turn_back(DAY);
    assert_eq!(budget_refusal(desk.reserve(&Who::acme(), 3, both(1))).left, PicoSum::ZERO, "not today's again");
    assert!(first.post(measured(both(9))).is_some());
    assert!(second.void(Outcome::NotSent).is_some());
    let times: Vec<_> = desk.books.records().iter().map(time_of).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(desk.headroom(&Who::acme()).cost, Some(PicoSum(10)), "still tomorrow");
    let restarted = desk.restarted();
    assert_eq!(restarted.headroom(&Who::acme()).cost, Some(PicoSum(10)), "after a restart too");
}

#[test]
fn a_deadline_is_as_far_away_in_the_books_time_as_it_was_by_the_clock() {
    let desk = Desk::new();
    desk.clock.advance(DAY);
    drop(desk.reserve(&Who::acme(), 1, both(1)).expect("no cap"));
    desk.turn_back(DAY);
    // By the clock an hour from now; by the books, whose time does not go back, a day and an hour after the start.
    let under_way = desk.reserve_until(start().plus(HOUR), 2, both(10));
    let Record::Reserved(reserved) = desk.last_record() else { panic!("the hold is the last record") };
    assert_eq!((reserved.at, reserved.deadline), (start().plus(DAY), start().plus(DAY + HOUR)));
    assert_eq!(desk.books.sweep(Duration::ZERO), 0, "it still has its hour");
    desk.clock.advance(DAY + 2 * HOUR);
    assert_eq!(desk.books.sweep(Duration::ZERO), 1);
    drop(under_way);
}

fn time_of(record: &Record) -> Timestamp {
    match record {
        Record::Reserved(reserved) => reserved.at,
        Record::Posted(posted) => posted.at,
        Record::Voided(voided) => voided.at,
        Record::Indeterminate { at, .. } | Record::PricesSet { at, .. } => *at,
        Record::CapSet(cap) => cap.at,
        Record::Extended(extended) => extended.at,
        Record::Adjusted(adjusted) => adjusted.at,
        Record::Audited(entry) => entry.at,
        Record::Directory(_) => panic!("none was made"),
    }
}

#[test]
fn what_exceeds_the_hold_is_the_platforms_column_by_column() {
    let desk = Desk::new();
    let settle = |number, hold, actual| {
        let reservation: Reservation<_> = desk.reserve(&Who::acme(), number, hold).expect("no cap");
        reservation.post(measured(actual)).expect("pending");
        match desk.last_record() {
            Record::Posted(posted) => (posted.amounts, posted.overrun),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(settle(1, both(10), both(10)), (both(10), Amounts::ZERO));
    assert_eq!(settle(2, both(10), amounts(13, 9)), (amounts(10, 9), amounts(3, 0)));
    assert_eq!(settle(3, both(10), amounts(0, u64::MAX)), (amounts(0, 10), amounts(0, u64::MAX - 10)));
    let overrun = desk.books.audit().totals.overrun;
    assert_eq!((overrun.cost, overrun.charge), (PicoSum(3), PicoSum(i128::from(u64::MAX) - 10)));
    assert_eq!(desk.books.audit().drift, PicoSum::ZERO);
}

#[test]
fn sums_do_not_wrap_where_amounts_end() {
    let desk = Desk::new();
    desk.cap(&tenant(), Window::Lifetime, Basis::Charge, PicoSum(4 * i128::from(u64::MAX)));
    for number in 0..4 {
        let whole = desk.reserve(&Who::acme(), number, both(u64::MAX)).expect("room for four");
        assert!(whole.post_bounded(Outcome::UsageMissing).is_some());
    }
    assert_eq!(budget_refusal(desk.reserve(&Who::acme(), 9, both(1))).left, PicoSum::ZERO);
    assert_eq!(desk.used(), 4 * i128::from(u64::MAX));
}
