//! The corners of time: periods that ended while money is held in them, clocks and zones that are set back, accounts that
//! are forgotten, and entries that come late. Each was once, or could easily be, a way to be over a cap or to lose money.

use tollgate_ledger::account::Columns;
use tollgate_ledger::{Adjusted, Ledger, Record, Rejected};
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::{Basis, Confidence, PicoSum, Scope, Spender, Timestamp, UtcOffset, Window, Zone};

use crate::world::{
    DAY, Desk, HOUR, Who, adjusted, alert, amounts, at, both, cap, extended, id, measured, posted, replay, reserved,
    reserved_as, start, usd, voided,
};

const UTC: UtcOffset = UtcOffset(0);
const AUCKLAND: UtcOffset = UtcOffset(13 * 3600);
const LOS_ANGELES: UtcOffset = UtcOffset(-8 * 3600);

fn tenant() -> Scope {
    let [tenant, _, _] = Who::acme().scopes();
    tenant
}

fn cost_cap(scope: &Scope, window: Window, pico: i128, at: Timestamp) -> Record {
    cap(scope, window, Basis::Cost, Some(PicoSum(pico)), at)
}

fn no_cap(scope: &Scope, window: Window, at: Timestamp) -> Record {
    cap(scope, window, Basis::Cost, None, at)
}

fn commit(ledger: &mut Ledger, record: &Record) {
    ledger.commit(record).unwrap_or_else(|why| panic!("{record:?}: {why}"));
}

/// Tidies when it is `at` by the records.
fn tidy(ledger: &mut Ledger, at: Timestamp) {
    commit(ledger, &Record::PricesSet { version: "test-1".into(), sha256: [0; 32], at });
    ledger.tidy(|_| UTC);
}

fn is_over<T: std::fmt::Debug>(result: Result<T, Rejected>) -> BudgetExceeded {
    match result {
        Err(Rejected::BudgetExceeded(exceeded)) => exceeded,
        other => panic!("a budget should have refused, but: {other:?}"),
    }
}

fn used(ledger: &Ledger, scope: &Scope, window: Window, at: Timestamp, offset: UtcOffset) -> i128 {
    ledger.sums(scope, window, at, offset).used(Basis::Cost).0
}

fn made(change: Adjusted, at: Timestamp) -> Record {
    Record::Adjusted(Box::new(Adjusted { at, ..change }))
}

/// What an end user spent today counts when a budget that was lifted is set again today; else what was held by one node
/// would be refused when the same records are read again.
#[test]
fn tidying_forgets_no_end_user_who_spent_in_a_period_that_goes_on() {
    let (who, now) = (Who::acme(), start());
    let user = who.user(7);
    for window in [Window::Minute, Window::Day, Window::Lifetime, Window::RollingHour] {
        let records = [
            cost_cap(&user, window, 100, now),
            reserved_as(who.with_user(7), UTC, 1, now, both(90)),
            posted(1, now, both(90)),
            no_cap(&user, window, now),
        ];
        let mut tidied = replay(&records);
        tidy(&mut tidied, now);
        let again = cost_cap(&user, window, 100, now);
        commit(&mut tidied, &again);
        let mut untouched = replay(&records);
        commit(&mut untouched, &again);
        let next = reserved_as(who.with_user(7), UTC, 2, now, both(11));
        assert_eq!(tidied.check(&next), untouched.check(&next), "{window}");
        assert_eq!(is_over(tidied.check(&next)).left, PicoSum(10), "{window}");
    }
}

#[test]
fn tidying_forgets_an_end_user_of_whom_only_ended_periods_are_known() {
    let (who, now) = (Who::acme(), start());
    let mut ledger = replay(&[
        cost_cap(&Scope::EachEndUser(who.tenant.clone()), Window::Hour, 100, now),
        reserved_as(who.with_user(7), UTC, 1, now, both(90)),
        reserved_as(who.with_user(8), UTC, 2, now, both(80)),
        posted(1, now, both(90)),
    ]);
    let size = |ledger: &Ledger| postcard::to_stdvec(ledger).expect("a ledger can be written").len();
    let before = size(&ledger);
    tidy(&mut ledger, now.plus(DAY));
    assert!(size(&ledger) + 20 > before, "a day is not long enough: zones differ by more");
    tidy(&mut ledger, now.plus(3 * DAY));
    assert!(size(&ledger) + 20 < before, "one is forgotten");
    assert_eq!(used(&ledger, &who.user(8), Window::Hour, now, UTC), 80, "and the one whose money is held is not");
    let bytes = postcard::to_stdvec(&ledger).expect("a ledger can be written");
    let again: Ledger = postcard::from_bytes(&bytes).expect("what was written can be read");
    for mut ledger in [ledger, again] {
        commit(&mut ledger, &reserved_as(who.with_user(9), UTC, 3, now.plus(3 * DAY), both(7)));
        commit(&mut ledger, &posted(2, now.plus(3 * DAY), both(80)));
        let later = now.plus(3 * DAY);
        assert_eq!(
            used(&ledger, &who.user(9), Window::Hour, later, UTC),
            7,
            "the place that was free is another's now"
        );
        assert_eq!(ledger.audit().drift, PicoSum::ZERO);
    }
}

/// A hold of nothing, for a free model, keeps its period as any other hold does: it may grow.
#[test]
fn an_ended_period_is_kept_while_a_hold_of_nothing_could_still_grow_in_it() {
    let (today, tomorrow) = (start(), start().plus(DAY));
    let mut ledger = replay(&[
        cost_cap(&tenant(), Window::Day, 10, today),
        reserved(1, today, both(0)),
        reserved(2, today, both(0)),
        reserved(3, today, both(1)),
        reserved(4, tomorrow, both(1)),
        voided(3, tomorrow),
        extended(1, tomorrow, both(10)),
    ]);
    assert_eq!(is_over(ledger.check(&extended(2, tomorrow, both(1)))).left, PicoSum(0));
    commit(&mut ledger, &posted(1, tomorrow, both(4)));
    commit(&mut ledger, &extended(2, tomorrow, both(6)));
}

#[test]
fn an_end_user_is_kept_while_a_hold_of_nothing_could_still_grow() {
    let (who, now) = (Who::acme(), start());
    let later = now.plus(5 * DAY);
    let mut ledger = replay(&[
        cost_cap(&Scope::EachEndUser(who.tenant.clone()), Window::Day, 10, now),
        reserved_as(who.with_user(7), UTC, 1, now, both(0)),
        reserved_as(who.with_user(7), UTC, 2, now, both(0)),
    ]);
    tidy(&mut ledger, later);
    commit(&mut ledger, &reserved_as(who.with_user(8), UTC, 3, later, both(1)));
    commit(&mut ledger, &extended(1, later, both(10)));
    assert_eq!(is_over(ledger.check(&extended(2, later, both(1)))).left, PicoSum(0));
    assert_eq!(used(&ledger, &who.user(8), Window::Day, later, UTC), 1, "nobody else is charged");
}

#[test]
fn a_hold_grows_in_the_period_it_lies_in_and_is_refused_by_that_one_alone() {
    let (today, tomorrow) = (start(), start().plus(DAY));
    let before = |of_tomorrow| {
        replay(&[
            cost_cap(&tenant(), Window::Day, 10, today),
            reserved(1, today, both(5)),
            reserved(2, today, both(3)),
            reserved(3, tomorrow, both(of_tomorrow)),
        ])
    };
    assert_eq!(is_over(before(1).check(&extended(1, tomorrow, both(8)))).left, PicoSum(2), "the room of today");
    assert_eq!(before(10).check(&extended(1, tomorrow, both(7))), Ok(()), "tomorrow is full, and is not asked");
}

#[test]
fn a_hold_that_grows_in_one_column_is_not_refused_for_the_other() {
    let now = start();
    let mut ledger = replay(&[reserved(1, now, amounts(10, 10)), cost_cap(&tenant(), Window::Day, 3, now)]);
    assert_eq!(ledger.check(&extended(1, now, amounts(10, 10))), Ok(()), "work under way goes on");
    assert_eq!(ledger.check(&extended(1, now, amounts(10, 20))), Ok(()));
    assert_eq!(is_over(ledger.check(&extended(1, now, amounts(11, 10)))).basis, Basis::Cost);
    commit(&mut ledger, &posted(1, now, amounts(10, 10)));
    let change = |to| adjusted(Who::acme().spender(), UTC, 1, now, amounts(10, 10), to);
    let desk = Desk::new();
    desk.reserve(&Who::acme(), 1, both(10)).expect("no cap").post(measured(both(10))).expect("pending");
    desk.cap(&tenant(), Window::Day, Basis::Cost, PicoSum(3));
    desk.books.adjust(change(amounts(12, 15))).expect("what has no room is the platform's");
    let totals = desk.books.audit().totals;
    assert_eq!((totals.posted.cost.0, totals.posted.charge.0, totals.overrun.cost.0), (10, 15, 2));
}

/// The tiers of a tariff ask what is posted of the month that the request is billed in, not of a later one.
#[test]
fn a_settlement_is_shown_the_month_that_its_hold_lies_in() {
    let (desk, who) = (Desk::new(), Who::acme());
    let late = desk.reserve(&who, 1, both(10)).expect("no cap");
    desk.reserve(&who, 2, both(7)).expect("no cap").post(measured(both(7))).expect("pending");
    desk.clock.advance(DAY);
    desk.reserve(&who, 3, both(1_000)).expect("no cap").post(measured(both(1_000))).expect("pending");
    let mut seen = Columns::default();
    let (_, position) = late.post_in_month(|month| {
        seen = month;
        measured(both(3))
    });
    assert!(position.is_some());
    assert_eq!(seen.cost, PicoSum(7), "November's, though December has begun");
}

#[test]
fn a_settlement_that_panics_leaves_its_reservation_to_its_drop() {
    let desk = Desk::new();
    let mut sent = desk.reserve(&Who::acme(), 1, both(10)).expect("no cap");
    assert!(sent.dispatched());
    let panicked = std::thread::spawn(move || {
        sent.post_in_month(|_| std::panic::resume_unwind(Box::new("a bug in a tariff")));
    });
    assert!(panicked.join().is_err());
    let audit = desk.books.audit();
    assert_eq!((audit.reservations_pending, audit.totals.bounded.cost), (0, PicoSum(10)));
}

#[test]
fn a_posting_into_a_part_that_rolled_out_crosses_no_threshold() {
    let now = start();
    let mut ledger = replay(&[
        alert(&tenant(), Window::RollingMinute, 10, now),
        reserved(1, now, both(5)),
        reserved(2, now.plus(HOUR), both(12)),
        posted(2, now.plus(HOUR), both(12)),
    ]);
    assert_eq!(ledger.take_alerts().len(), 1);
    commit(&mut ledger, &posted(1, now.plus(HOUR), both(5)));
    assert_eq!(ledger.take_alerts(), [], "it counts no more, so nothing rose");
}

#[test]
fn a_threshold_is_crossed_once_and_again_when_a_rolling_window_sank_below_it() {
    let (mut now, mut ledger) = (start(), replay(&[alert(&tenant(), Window::RollingMinute, 10, start())]));
    let mut alerts = Vec::new();
    for number in 0..60 {
        commit(&mut ledger, &reserved(number, now, both(3)));
        commit(&mut ledger, &posted(number, now, both(3)));
        alerts.extend(ledger.take_alerts());
        now = now.plus(if number % 20 == 19 { HOUR } else { std::time::Duration::from_secs(1) });
    }
    let posted: Vec<_> = alerts.iter().map(|alert| alert.posted.0).collect();
    assert_eq!(posted, [12, 12, 12]);
}

#[test]
fn an_adjustment_that_passes_a_threshold_alerts_as_a_posting_does() {
    let (now, who) = (start(), Who::acme());
    let mut ledger = replay(&[
        alert(&tenant(), Window::Day, 10, now),
        alert(&tenant(), Window::Hour, 10, now),
        reserved(1, now, both(20)),
        posted(1, now, both(8)),
    ]);
    let change = |was, to| made(adjusted(who.spender(), UTC, 1, now, both(was), both(to)), now);
    commit(&mut ledger, &change(8, 11));
    let alerts = ledger.take_alerts();
    assert_eq!(
        alerts.iter().map(|a| (a.window, a.posted.0)).collect::<Vec<_>>(),
        [(Window::Hour, 11), (Window::Day, 11)]
    );
    commit(&mut ledger, &change(11, 10));
    commit(&mut ledger, &change(10, 12));
    assert_eq!(ledger.take_alerts(), [], "it stayed beyond it");
}

/// A tenant moves from Auckland to Los Angeles: its day has begun, and goes on until Los Angeles is past it.
#[test]
fn a_zone_that_is_set_back_gives_no_day_twice_and_the_refusal_says_when_it_really_ends() {
    let (who, now) = (Who::acme(), at("2026-11-30T20:00:00Z"));
    // 1 December in Auckland, 30 November in Los Angeles.
    let mut ledger = replay(&[
        cost_cap(&tenant(), Window::Day, 10, now),
        reserved_as(who.spender(), AUCKLAND, 1, now, both(10)),
        posted(1, now, both(10)),
    ]);
    let desk_zone: Zone = "America/Los_Angeles".parse().expect("a zone");
    let refused = is_over(ledger.check(&reserved_as(who.spender(), LOS_ANGELES, 2, now, both(1))));
    assert_eq!(refused.left, PicoSum(0), "no second first day");
    let budget = ledger.budgets(now, |_| desk_zone.clone(), |_| true).pop().expect("the one");
    assert_eq!(budget.resets_at, Some(at("2026-12-02T08:00:00Z")), "the end of 1 December in Los Angeles");
    let last = at("2026-12-02T07:59:59.999999Z");
    is_over(ledger.check(&reserved_as(who.spender(), LOS_ANGELES, 2, last, both(1))));
    commit(&mut ledger, &reserved_as(who.spender(), LOS_ANGELES, 2, at("2026-12-02T08:00:00Z"), both(10)));
}

/// A request is adjusted in the day that counted it, which after a move to the west is not the calendar's.
#[test]
fn an_adjustment_finds_the_day_that_counted_the_request_after_a_zone_was_set_back() {
    let (who, now) = (Who::acme(), at("2026-11-30T20:00:00Z"));
    let later = now.plus(HOUR);
    let mut ledger = replay(&[
        reserved_as(who.spender(), LOS_ANGELES, 1, now, both(10)),
        reserved_as(who.spender(), AUCKLAND, 2, now, both(10)),
        reserved_as(who.spender(), LOS_ANGELES, 3, later, both(10)),
        posted(2, later, both(10)),
        posted(3, later, both(10)),
        cost_cap(&tenant(), Window::Day, 20, later),
    ]);
    assert_eq!(used(&ledger, &tenant(), Window::Day, later, LOS_ANGELES), 20);
    let change = |ledger: &mut Ledger, number, held_at, was, to| {
        commit(ledger, &made(adjusted(who.spender(), LOS_ANGELES, number, held_at, both(was), both(to)), later));
    };
    change(&mut ledger, 3, later, 10, 4);
    assert_eq!(used(&ledger, &tenant(), Window::Day, later, LOS_ANGELES), 14, "taken from the day it was counted in");
    change(&mut ledger, 3, later, 4, 9);
    assert_eq!(used(&ledger, &tenant(), Window::Day, later, LOS_ANGELES), 19);
    // The first was held before anything was set back: its day is over, whatever that day is called elsewhere.
    commit(&mut ledger, &posted(1, later, both(10)));
    change(&mut ledger, 1, now, 10, 0);
    assert_eq!(used(&ledger, &tenant(), Window::Day, later, LOS_ANGELES), 19, "another day's");
    assert_eq!(ledger.audit().drift, PicoSum::ZERO);
}

#[test]
fn an_adjustment_does_not_touch_a_day_that_has_ended() {
    let (today, tomorrow, spender) = (start(), start().plus(DAY), Who::acme().spender());
    let mut ledger = replay(&[
        cost_cap(&tenant(), Window::Day, 10, today),
        reserved(1, today, both(4)),
        reserved(2, today, both(6)),
        posted(1, today, both(4)),
        reserved(3, tomorrow, both(1)),
        made(adjusted(spender, UTC, 1, today, both(4), both(9)), tomorrow),
    ]);
    assert_eq!(used(&ledger, &tenant(), Window::Day, tomorrow, UTC), 1);
    assert_eq!(used(&ledger, &tenant(), Window::Lifetime, tomorrow, UTC), 16);
    // The ended day counts as it did: else it would be over its cap.
    assert!(ledger.check(&extended(2, tomorrow, both(6))).is_ok());
    is_over(ledger.check(&extended(2, tomorrow, both(7))));
    commit(&mut ledger, &voided(2, tomorrow));
    assert_eq!(ledger.audit().drift, PicoSum::ZERO);
}

/// Of a window that is counted only while capped nobody knows whether it counted the request: what is more is counted in
/// any case, what is less only where it is certain.
#[test]
fn what_an_adjustment_adds_counts_in_rolling_windows_and_for_end_users_too() {
    let (now, who) = (start(), Who::acme());
    let (user, later) = (who.user(7), start().plus(HOUR));
    let mut ledger = replay(&[
        cost_cap(&tenant(), Window::RollingDay, 20, now),
        cost_cap(&user, Window::Day, 30, now),
        reserved_as(who.with_user(7), UTC, 1, now, both(10)),
        posted(1, now, both(10)),
    ]);
    let change = |was, to| made(adjusted(who.with_user(7), UTC, 1, now, both(was), both(to)), later);
    commit(&mut ledger, &change(10, 15));
    assert_eq!(used(&ledger, &tenant(), Window::RollingDay, later, UTC), 15);
    assert_eq!(used(&ledger, &user, Window::Day, later, UTC), 15);
    assert_eq!(is_over(ledger.check(&change(15, 21))).window, Window::RollingDay);
    commit(&mut ledger, &change(15, 5));
    assert_eq!(used(&ledger, &tenant(), Window::RollingDay, later, UTC), 15, "never too little");
    assert_eq!(used(&ledger, &tenant(), Window::Day, later, UTC), 5);
}

#[test]
fn an_adjustment_of_what_this_tenant_never_spent_is_refused() {
    let now = start();
    let bolt = Who::new("bolt", "main", "k1");
    let ledger = replay(&[reserved(1, now, both(10)), posted(1, now, both(10))]);
    let change = |spender: Spender, was, to| made(adjusted(spender, UTC, 9, now, both(was), both(to)), now);
    let refused = Err(Rejected::AdjustedBeyondPosted(id(9)));
    assert_eq!(ledger.check(&change(bolt.spender(), 5, 4)), refused, "another tenant's");
    assert_eq!(ledger.check(&change(Who::acme().spender(), 11, 4)), refused, "more than it spent");
    assert_eq!(ledger.check(&change(Who::acme().spender(), 10, 4)), Ok(()));
    for one_column in [amounts(11, 10), amounts(10, 11)] {
        let change = made(adjusted(Who::acme().spender(), UTC, 9, now, one_column, both(4)), now);
        assert_eq!(ledger.check(&change), refused, "{one_column:?}");
    }
    let mut bounded = adjusted(Who::acme().spender(), UTC, 9, now, both(5), both(4));
    bounded.was.confidence = Confidence::Bounded;
    assert_eq!(ledger.check(&made(bounded, now)), refused, "nothing that was a bound was posted");
}

#[test]
fn a_cap_on_the_single_request_holds_for_what_it_turns_out_to_be() {
    let desk = Desk::new();
    desk.cap(&tenant(), Window::Request, Basis::Cost, PicoSum(10));
    desk.reserve(&Who::acme(), 1, both(10)).expect("room").post(measured(both(4))).expect("pending");
    desk.books.adjust(adjusted(Who::acme().spender(), UTC, 1, start(), both(4), both(12))).expect("taken");
    let totals = desk.books.audit().totals;
    assert_eq!((totals.posted.cost, totals.overrun.cost), (PicoSum(10), PicoSum(2)));
    assert_eq!((totals.posted.charge, totals.overrun.charge), (PicoSum(12), PicoSum(0)));
}

#[test]
fn caps_as_large_as_can_be_held_do_not_overflow() {
    let now = start();
    let mut records = Vec::new();
    for window in Window::ALL {
        records.push(cap(&tenant(), window, Basis::Cost, Some(PicoSum(i128::MAX)), now));
    }
    records.extend([
        reserved(1, now, both(u64::MAX)),
        reserved(2, now, both(u64::MAX - 5)),
        extended(2, now, both(u64::MAX)),
    ]);
    let mut ledger = replay(&records);
    commit(&mut ledger, &posted(1, now, both(u64::MAX)));
    let two = 2 * i128::from(u64::MAX);
    assert_eq!(ledger.headroom(&Who::acme().spender(), now, UTC)[0], Some(PicoSum(i128::MAX - two)));
    assert_eq!(ledger.audit().worst_left, Some(PicoSum(i128::MAX - two)));
    assert!(usd(1).0 < i128::MAX);
}

/// Thirteen parts count, the oldest whole; no more are kept, and none is dropped that counts.
#[test]
fn a_rolling_window_counts_thirteen_parts_and_keeps_no_more() {
    let parts = [
        (Window::RollingMinute, 5),
        (Window::RollingHour, 300),
        (Window::RollingDay, 7_200),
        (Window::RollingWeek, 50_400),
        (Window::RollingMonth, 216_000),
    ];
    for (window, seconds) in parts {
        let mut ledger = replay(&[cost_cap(&tenant(), window, 1_000, start())]);
        let mut sizes = Vec::new();
        for part in 0..40u32 {
            let now = start().plus(std::time::Duration::from_secs(seconds) * part);
            commit(&mut ledger, &reserved(u128::from(part), now, both(7)));
            commit(&mut ledger, &posted(u128::from(part), now, both(7)));
            let counted = i128::from(part.min(12) + 1) * 7;
            assert_eq!(used(&ledger, &tenant(), window, now, UTC), counted, "{window}, part {part}");
            sizes.push(postcard::to_stdvec(&ledger).expect("a ledger can be written").len());
        }
        assert!(sizes[39] < sizes[20] + 20, "{window}: {sizes:?}");
    }
}

/// An account whose last hold ends when its period is over is dropped, not one that still counts.
#[test]
fn a_part_that_still_counts_is_kept_when_its_last_hold_ends() {
    let later = |parts: u32| start().plus(std::time::Duration::from_secs(5) * parts);
    for (parts, expected) in [(0, 10), (1, 10), (12, 10), (13, 4)] {
        let mut ledger = replay(&[
            cost_cap(&tenant(), Window::RollingMinute, 100, start()),
            reserved(1, start(), both(9)),
            reserved(2, later(parts), both(4)),
            posted(1, later(parts), both(6)),
        ]);
        assert_eq!(used(&ledger, &tenant(), Window::RollingMinute, later(parts), UTC), expected, "{parts} parts later");
        commit(&mut ledger, &posted(2, later(parts), both(4)));
    }
}

/// What a settlement by the terms of a month needs to know is known as long as the month counts, or money is held in it.
#[test]
fn what_is_posted_of_a_month_is_known_until_a_later_one_has_begun_and_nothing_is_held_in_it() {
    let (november, december) = (start(), start().plus(DAY));
    let mut ledger = Ledger::default();
    let mut check = |record: Record, expected: [Option<i128>; 2]| {
        commit(&mut ledger, &record);
        let posted = |at| ledger.month_posted_at(&Who::acme().tenant, at, UTC).map(|posted| posted.cost.0);
        assert_eq!([posted(november), posted(december)], expected, "{record:?}");
        assert_eq!(ledger.month_posted_at(&Who::new("bolt", "main", "k1").tenant, november, UTC), None);
    };
    check(reserved(1, november, both(9)), [Some(0), None]);
    check(reserved(2, november, both(9)), [Some(0), None]);
    check(posted(1, november, both(5)), [Some(5), None]);
    check(reserved(3, december, both(9)), [Some(5), Some(0)]);
    check(posted(3, december, both(7)), [Some(5), Some(7)]);
    check(posted(2, december, both(2)), [None, Some(7)]);
}

#[test]
fn an_adjustment_is_shown_the_month_that_its_request_was_held_in() {
    let (desk, spender) = (Desk::new(), Who::acme().spender());
    let spend = |number, pico| {
        let held = desk.reserve(&Who::acme(), number, both(pico)).expect("no cap");
        held.post(measured(both(pico))).expect("pending");
    };
    let seen = |held_at| {
        let mut seen = None;
        let change = adjusted(spender.clone(), UTC, 1, held_at, both(5), both(5));
        desk.books.adjust_in_month(change, |_, month| seen = month.map(|month| month.cost.0)).expect("room");
        seen
    };
    spend(1, 5);
    spend(2, 3);
    assert_eq!(seen(start()), Some(8));
    desk.clock.advance(DAY);
    spend(3, 4);
    assert_eq!((seen(start()), seen(start().plus(DAY))), (None, Some(4)), "November is history, December goes on");
}

/// A day that has ended, wherever on earth, may have been forgotten: so it leaves all of the cap, forgotten or not.
#[test]
fn the_least_that_a_cap_leaves_is_that_of_a_day_that_goes_on_somewhere() {
    let (now, days) = (start(), |days: u32| start().plus(DAY * days));
    let mut ledger =
        replay(&[cost_cap(&tenant(), Window::Day, 10, now), reserved(1, now, both(4)), posted(1, now, both(4))]);
    for (later, left) in [(now, 6), (days(1), 6), (days(2), 10), (days(3), 10)] {
        commit(&mut ledger, &Record::PricesSet { version: "test-1".into(), sha256: [0; 32], at: later });
        assert_eq!(ledger.audit().worst_left, Some(PicoSum(left)), "{later}");
    }
    commit(&mut ledger, &reserved(2, days(3), both(7)));
    assert_eq!(ledger.audit().worst_left, Some(PicoSum(3)));
}

/// Where a scope has a budget of its own, that of its template is not asked, be it tighter or wider; in other windows and
/// on the other column it is.
#[test]
fn a_budget_of_its_own_stands_in_the_place_of_the_templates() {
    let (now, who) = (start(), Who::acme());
    let template = Scope::EachTenant(who.spender().plan);
    for own in [5, 20] {
        let before = |window, basis| {
            replay(&[
                cap(&template, Window::Day, Basis::Cost, Some(PicoSum(10)), now),
                cap(&tenant(), window, basis, Some(PicoSum(own)), now),
            ])
        };
        let left = |ledger: Ledger| ledger.headroom(&who.spender(), now, UTC)[0];
        assert_eq!(left(before(Window::Day, Basis::Cost)), Some(PicoSum(own)), "its own");
        assert_eq!(left(before(Window::Month, Basis::Cost)), Some(PicoSum(own.min(10))), "both");
        assert_eq!(left(before(Window::Day, Basis::Charge)), Some(PicoSum(10)), "the template's");
    }
}

/// Minutes are numbered up to the year 6053. Beyond it no budget resets, and whoever asks when is answered.
#[test]
fn where_the_numbers_of_periods_end_a_budget_has_no_reset_and_is_shown_without() {
    let end = at("7000-01-01T00:00:00Z");
    let ledger = replay(&[cost_cap(&tenant(), Window::Minute, 10, end), reserved(1, end, both(10))]);
    assert_eq!(is_over(ledger.check(&reserved(2, end, both(1)))).resets_at, None);
    let budget = ledger.budgets(end, |_| Zone::UTC, |_| true).pop().expect("the one");
    assert_eq!((budget.resets_at, budget.sums.used(Basis::Cost)), (None, PicoSum(10)));
}
