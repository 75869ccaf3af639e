//! Failures that other gateways have shipped, each as a test that must not happen here. The numbers are their issues.
//! Which line of theirs is covered by which test, here or elsewhere, is a table in docs/rivals.md.

use std::sync::Barrier;
use std::thread;

use tollgate_ledger::books::Headroom;
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{Adjusted, Amounts, Draft, Record, Rejected};
use tollgate_types::money::PICO_PER_USD;
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::usage::Outcome;
use tollgate_types::{Basis, Confidence, PicoSum, Scope, UtcOffset, Window, Zone};

use crate::world::{
    BASES, DAY, Desk, HOUR, Who, adjusted, amounts, both, budget_refusal, budgets_of, id, measured, posted, replay,
    start, usd, voided,
};

const CENT: u64 = PICO_PER_USD / 100;

/// A thousand requests of ten cents, at once, on a cap of five dollars: others let 100 dollars through.
#[test]
fn concurrent_reservations_cannot_overshoot_as_in_litellm_34732() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Month, Basis::Cost, usd(5));
    let barrier = Barrier::new(8);
    let admitted: usize = thread::scope(|threads| {
        let threads: Vec<_> = (0..8u128)
            .map(|thread| {
                let (desk, who, barrier) = (&desk, &who, &barrier);
                threads.spawn(move || {
                    barrier.wait();
                    let held: Vec<_> =
                        (0..125).filter_map(|n| desk.reserve(who, thread * 125 + n, both(10 * CENT)).ok()).collect();
                    let admitted = held.len();
                    // All have been let in before any is billed: what a check of recorded spend would have seen is zero.
                    barrier.wait();
                    for reservation in held {
                        reservation.post(measured(both(10 * CENT))).expect("pending");
                    }
                    admitted
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum()
    });
    assert_eq!(admitted, 50);
    assert_eq!(PicoSum(desk.used()), usd(5));
}

/// The first requests of a key that nobody has seen yet find its cap in force, not an account yet to be made.
#[test]
fn the_first_requests_of_an_unknown_key_cannot_race_past_its_cap_as_in_litellm_40095() {
    for _ in 0..20 {
        let (desk, who) = (Desk::new(), Who::acme());
        desk.cap(&who.scopes()[2], Window::Day, Basis::Cost, PicoSum(10));
        let barrier = Barrier::new(4);
        let admitted: usize = thread::scope(|threads| {
            let first = |number| {
                let (desk, who, barrier) = (&desk, &who, &barrier);
                threads.spawn(move || {
                    barrier.wait();
                    let held = desk.reserve(who, number, both(10));
                    barrier.wait();
                    usize::from(held.is_ok())
                })
            };
            let threads = [1, 2, 3, 4].map(first);
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum()
        });
        assert_eq!(admitted, 1);
    }
}

/// A limiter was built and registered nowhere. Here there is no cap, on any scope, window or column, that is not asked.
#[test]
fn every_cap_that_can_be_set_is_asked_as_it_was_not_in_litellm_27381() {
    for level in 0..3 {
        for window in Window::ALL {
            for basis in BASES {
                let (desk, who) = (Desk::new(), Who::acme());
                let scope = &who.scopes()[level];
                desk.cap(scope, window, basis, PicoSum(9));
                let BudgetExceeded { scope: named, window: refused, .. } =
                    budget_refusal(desk.reserve(&who, 1, both(10)));
                assert_eq!((named, refused), (scope.kind(), window), "{basis}");
                assert!(desk.reserve(&who, 2, both(9)).is_ok());
            }
        }
    }
}

/// Phantom 429s: leaked reservations made the counter the cap plus recent spend, until minutes later it healed.
#[test]
fn reservations_that_ended_hold_nothing_as_they_did_in_litellm_27639_and_36926() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Lifetime, Basis::Cost, PicoSum(10_000));
    for number in 0..3_000 {
        let mut reservation = desk.reserve(&who, number, both(9_000)).expect("all that went before has ended");
        match number % 6 {
            0 => drop(reservation),
            1 => drop(reservation.void(Outcome::ProviderRefused)),
            2 => drop(reservation.post(measured(both(0)))),
            3 => {
                assert!(reservation.dispatched());
                reservation.not_dispatched();
            }
            4 => {
                assert!(reservation.dispatched());
                reservation.post(measured(both(0)));
            }
            _ => drop(reservation.post(measured(both(1)))),
        }
    }
    assert_eq!(desk.used(), 500, "one picodollar for each sixth");
    assert!(desk.reserve(&who, 9_999, both(9_500)).is_ok(), "the cap can be spent to the last picodollar");
}

/// A settlement failed, and both the reservation and the actual cost were counted.
#[test]
fn a_settlement_that_fails_does_not_count_twice_as_in_litellm_35569() {
    let mut ledger = replay(&[crate::world::reserved(1, start(), both(100))]);
    let used = |ledger: &tollgate_ledger::Ledger| {
        let audit = ledger.audit();
        audit.totals.posted.cost.0 + audit.pending.cost.0
    };
    assert_eq!(ledger.commit(&posted(1, start(), both(101))), Err(Rejected::PostedBeyondHold(crate::world::id(1))));
    assert_eq!(used(&ledger), 100, "a refused posting leaves the hold as it was");
    ledger.commit(&posted(1, start(), both(30))).expect("pending");
    assert_eq!(used(&ledger), 30, "a posting takes the hold's place");
    assert!(ledger.commit(&posted(1, start(), both(30))).is_err(), "a retry of it changes nothing");
    assert!(ledger.commit(&voided(1, start())).is_err());
    assert_eq!((used(&ledger), ledger.audit().drift), (30, PicoSum::ZERO));
}

/// After a restart the counter was read from a database that lagged, and forgot what was just spent.
#[test]
fn a_restart_forgets_nothing_as_a_lagging_reseed_did_in_litellm_35570() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[1], Window::Month, Basis::Cost, PicoSum(1_000));
    let mut used_after = vec![0];
    let mut under_way = Vec::new();
    for number in 0..20 {
        let reservation = desk.reserve(&who, number, both(40)).expect("room");
        used_after.push(desk.used());
        if number % 3 == 0 {
            under_way.push(reservation);
        } else {
            reservation.post(measured(both(25))).expect("pending");
            used_after.push(desk.used());
        }
    }
    let records = desk.books.records();
    for (read, used) in used_after.iter().enumerate() {
        let again = replay(&records[..=read]);
        let counted = budgets_of(&again, start()).pop().expect("the cap").sums.used(Basis::Cost).0;
        assert_eq!(counted, *used, "after {read} records");
    }
    let restarted = desk.restarted();
    restarted.books.recover();
    assert_eq!(restarted.used(), desk.used(), "what was under way still counts");
}

/// A stream died after some chunks, and its whole reservation was released although the provider billed it.
#[test]
fn a_stream_that_died_keeps_its_cost_as_it_did_not_in_litellm_35568() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Cost, PicoSum(100));
    let mut cut = desk.reserve(&who, 1, both(60)).expect("room");
    assert!(cut.dispatched());
    drop(cut);
    assert_eq!(desk.used(), 60, "no usage was seen, so the whole hold is what it may have cost");
    let mut counted = desk.reserve(&who, 2, both(40)).expect("room");
    assert!(counted.dispatched());
    counted.post(tollgate_ledger::Settlement {
        confidence: tollgate_types::Confidence::Bounded,
        outcome: Outcome::ProviderBroke,
        ..measured(both(15))
    });
    assert_eq!(desk.used(), 75, "what was counted of the partial stream stays");
    assert_eq!(desk.books.audit().totals.bounded.cost, PicoSum(75));
}

/// An answer without usage was reconciled to zero, though the provider may have billed it.
#[test]
fn an_answer_without_usage_is_posted_in_full_as_it_is_not_in_edgeguard() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Charge, PicoSum(100));
    let mut silent = desk.reserve(&who, 1, both(70)).expect("room");
    assert!(silent.dispatched());
    silent.post_bounded(Outcome::UsageMissing).expect("pending");
    let audit = desk.books.audit();
    assert_eq!((desk.used(), audit.totals.bounded.charge), (70, PicoSum(70)), "and marked as a bound");
}

/// A model that costs us nothing skipped every budget check.
#[test]
fn a_zero_priced_model_is_still_checked_as_it_is_not_in_litellm() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Month, Basis::Charge, PicoSum(10));
    assert!(desk.reserve(&who, 1, amounts(0, 11)).is_err(), "free for us, but not for the tenant");
    let held = desk.reserve(&who, 2, both(10)).expect("room");
    desk.cap(&who.scopes()[0], Window::Month, Basis::Charge, PicoSum(5));
    assert!(desk.reserve(&who, 3, both(0)).is_err(), "a budget that is over takes not even what is free");
    drop(held);
}

/// A batch's reservation was released when it had been submitted, before anything was billed.
#[test]
fn sending_releases_nothing_as_submission_does_in_litellm() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Cost, PicoSum(100));
    let mut sent = desk.reserve(&who, 1, both(100)).expect("room");
    assert!(sent.dispatched());
    assert_eq!(desk.used(), 100);
    assert_eq!(budget_refusal(desk.reserve(&who, 2, both(1))).left, PicoSum::ZERO);
    drop(sent);
}

/// "Current cost: 20.013879769999956".
#[test]
fn sums_of_small_amounts_are_exact_to_the_last_digit_unlike_in_litellm_36926() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Lifetime, Basis::Cost, usd(21));
    // A price of 5.46875e-07 USD a token, which no binary fraction of a nanodollar holds.
    let each = 546_875 * 3_333;
    for number in 0..10_000 {
        desk.reserve(&who, number, both(each)).expect("room").post(measured(both(each))).expect("pending");
    }
    assert_eq!(PicoSum(desk.used()).to_string(), "18.22734375");
    let left = desk.headroom(&who).cost.expect("a cap");
    assert_eq!(left.to_string(), "2.77265625");
    assert!(desk.reserve(&who, 10_001, both(u64::try_from(left.0).expect("little") + 1)).is_err());
    assert!(desk.reserve(&who, 10_002, both(u64::try_from(left.0).expect("little"))).is_ok());
}

/// Reservations in doubt were never reconciled by anything; and a credit was deducted outside the transaction.
#[test]
fn what_is_in_doubt_settles_by_itself_and_credit_is_in_the_same_log_unlike_in_lanternops_5555() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Lifetime, Basis::Cost, PicoSum(100));
    let lost = desk.reserve(&who, 1, both(100)).expect("room");
    desk.cap(&who.scopes()[0], Window::Lifetime, Basis::Cost, PicoSum(150));
    let restarted = desk.restarted();
    assert_eq!(restarted.books.recover(), 1);
    assert_eq!(budget_refusal(restarted.reserve(&who, 2, both(51))).left, PicoSum(50), "with the cap as it was raised");
    restarted.clock.advance(DAY);
    assert_eq!(restarted.books.settle_aged(HOUR), 1);
    let audit = restarted.books.audit();
    assert_eq!((audit.reservations_indeterminate, audit.totals.bounded.cost), (0, PicoSum(100)));
    assert_eq!(restarted.headroom(&who).cost, Some(PicoSum(50)), "never given back by time alone");
    drop(lost);
}

/// A reset job that did not run left a budget exhausted, or ran twice and gave it away.
#[test]
fn a_new_period_needs_no_reset_job_as_in_litellm_7129() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Cost, PicoSum(10));
    for day in 0..40 {
        desk.reserve(&who, day, both(10)).expect("a whole day's").post(measured(both(10))).expect("pending");
        let refused = budget_refusal(desk.reserve(&who, 1_000 + day, both(1)));
        let midnight = refused.resets_at.expect("a day ends");
        assert!(midnight > desk.clock.now());
        desk.clock.advance(midnight.since(desk.clock.now()));
    }
    let mut posted = 0;
    for record in desk.books.records() {
        if let Record::Posted(ended) = record {
            posted += ended.amounts.cost.0;
        }
    }
    assert_eq!(posted, 400);
}

// === peers §3.1: over the budget, and races ===

/// 99.10 dollars were spent of a budget of 30, because the team's counter was asked and the member's was not.
#[test]
fn no_scope_is_left_out_when_another_has_room_as_in_litellm_26672_and_23714() {
    let who = Who::acme();
    let spender = who.with_user(1);
    let narrow = crate::oracle::scopes_of(&spender);
    for tight in &narrow {
        let desk = Desk::new();
        for scope in &narrow {
            desk.cap(scope, Window::Day, Basis::Cost, PicoSum(if scope == tight { 30 } else { 1_000 }));
        }
        let mut spent = 0;
        for number in 0..40 {
            let draft = Draft { spender: spender.clone(), ..who.draft(id(number)) };
            if let Ok((held, ())) = desk.books.reserve(draft, |_| (both(7), ())) {
                held.post(measured(both(7))).expect("pending");
                spent += 7;
            }
        }
        assert_eq!(spent, 28, "{tight:?}");
    }
}

/// The first request of an end user nobody had heard of went past the budget that every end user has.
#[test]
fn the_first_requests_of_an_unknown_end_user_meet_the_budget_of_each_as_in_litellm_40095() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&Scope::EachEndUser(who.tenant.clone()), Window::Month, Basis::Cost, PicoSum(10));
    let barrier = Barrier::new(4);
    let admitted: usize = thread::scope(|threads| {
        let threads: Vec<_> = (0..4u128)
            .map(|number| {
                let (desk, who, barrier) = (&desk, &who, &barrier);
                threads.spawn(move || {
                    let draft = Draft { spender: who.with_user(9), ..who.draft(id(number)) };
                    barrier.wait();
                    let held = desk.books.reserve(draft, |_| (both(6), ()));
                    barrier.wait();
                    usize::from(held.is_ok())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum()
    });
    assert_eq!(admitted, 1);
    let other = Draft { spender: who.with_user(8), ..who.draft(id(99)) };
    assert!(desk.books.reserve(other, |_| (both(10), ())).is_ok(), "each has a budget of its own");
}

/// Consume was checked, then taken: between the two others had taken it.
#[test]
fn what_was_seen_as_left_is_still_left_when_it_is_taken_as_in_new_api_6609_6607_5690_and_one_api_2440() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Lifetime, Basis::Charge, PicoSum(997));
    thread::scope(|threads| {
        for thread in 0..4u128 {
            let (desk, who) = (&desk, &who);
            threads.spawn(move || {
                for number in 0..100 {
                    let all = |headroom: Headroom| {
                        let left = headroom.charge.expect("a cap").clamp_to_amount().0;
                        (both(left.min(7)), ())
                    };
                    let taken = desk.books.reserve(who.draft(id(thread * 1_000 + number)), all);
                    taken.expect("what is left can be had").0.post_bounded(Outcome::Completed).expect("pending");
                }
            });
        }
    });
    assert_eq!(desk.used(), 997, "all of it and not a picodollar more");
}

/// Others start while the first is answered, and are let in because nothing of it is recorded yet.
#[test]
fn requests_under_way_count_before_their_usage_lands_as_in_ai_gateway_680_2394_and_membrane_3210() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Minute, Basis::Cost, PicoSum(1_000));
    let under_way: Vec<_> = (0..12).filter_map(|number| desk.reserve(&who, number, both(100)).ok()).collect();
    assert_eq!(under_way.len(), 10);
    assert_eq!(desk.books.audit().totals.posted.cost, PicoSum(0), "no usage has landed");
}

/// Spend was never added up, so that no budget was ever used.
#[test]
fn every_window_of_every_scope_accrues_as_it_did_not_in_langwatch_6141() {
    let (desk, who) = (Desk::new(), Who::acme());
    let spender = who.with_user(1);
    for scope in crate::oracle::scopes_of(&spender) {
        for window in Window::ALL {
            desk.cap(&scope, window, Basis::Cost, PicoSum(1_000));
        }
    }
    for number in 0..3 {
        let draft = Draft { spender: spender.clone(), ..who.draft(id(number)) };
        let (held, ()) = desk.books.reserve(draft, |_| (both(9), ())).expect("room");
        held.post(measured(both(5))).expect("pending");
    }
    let budgets = desk.books.budgets(|_| true);
    assert_eq!(budgets.len(), 6 * Window::ALL.len());
    for budget in budgets {
        let expected = if budget.budget.window == Window::Request { 0 } else { 15 };
        assert_eq!(budget.sums.posted.cost.0, expected, "{:?} {}", budget.scope, budget.budget.window);
    }
}

// === peers §3.2: phantom reservations ===

/// Counters stood three to six times as high as what was spent; 111 dollars counted for 55.
#[test]
fn what_is_counted_is_what_was_posted_once_nothing_is_open_as_it_was_not_in_litellm_28283_30460_40050_and_27735() {
    let (desk, who) = (Desk::new(), Who::acme());
    let mut sum = 0;
    for scope in who.scopes() {
        for window in Window::STANDING {
            desk.cap(&scope, window, Basis::Cost, usd(1_000));
        }
    }
    for number in 0..200u64 {
        let mut held = desk.reserve(&who, u128::from(number), both(50_000)).expect("room");
        let dear: std::sync::Arc<str> = "dear".into();
        match number % 4 {
            0 => held.extend(both(90_000), &dear, &dear, &dear, &Zone::UTC).expect("room"),
            1 => assert!(held.dispatched()),
            _ => {}
        }
        held.post(measured(both(number))).expect("pending");
        sum += i128::from(number);
    }
    for budget in desk.books.budgets(|_| true) {
        assert_eq!(budget.sums.used(Basis::Cost).0, sum, "{:?} {}", budget.scope, budget.budget.window);
    }
}

/// A budget of 25 dollars with nothing spent was blocked by holds for the worst case. Who asks for less gets it.
#[test]
fn a_worst_case_that_does_not_fit_can_be_clamped_to_what_is_left_as_it_could_not_in_litellm_38647_and_29493() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Cost, usd(25));
    let worst = 60 * PICO_PER_USD;
    assert_eq!(budget_refusal(desk.reserve(&who, 1, both(worst))).left, usd(25));
    let clamped = desk.books.reserve(who.draft(id(2)), |headroom| {
        let left = headroom.cost.expect("a cap").clamp_to_amount().0;
        (both(worst.min(left)), ())
    });
    let (held, ()) = clamped.expect("what is left can be held");
    assert_eq!(held.hold(), both(25 * PICO_PER_USD));
    drop(held);
    assert_eq!(desk.used(), 0, "and an unsent worst case holds nothing");
}

// === peers §3.3 and 3.4: streams without usage, callers who leave ===

/// A full refund when the caller hung up, though the provider went on and billed.
#[test]
fn a_caller_who_leaves_is_not_refunded_as_in_new_api_5235_and_litellm_14457_13245_and_37992() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Charge, PicoSum(100));
    let mut left_early = desk.reserve(&who, 1, both(40)).expect("room");
    assert!(left_early.dispatched());
    drop(left_early);
    let Record::Posted(posted) = desk.last_record() else { panic!("posted, not voided") };
    assert_eq!((posted.amounts, posted.outcome), (both(40), Outcome::ClientGone));
    assert_eq!(posted.confidence, Confidence::Bounded, "marked, so that the provider's record can correct it");
    // And the record comes: not over-billed either.
    let was = Standing { amounts: both(40), overrun: Amounts::ZERO, confidence: Confidence::Bounded };
    let now = Standing { amounts: both(11), overrun: Amounts::ZERO, confidence: Confidence::Measured };
    let change = adjusted(who.spender(), UtcOffset(0), 1, start(), both(40), both(11));
    desk.books.adjust(Adjusted { was, now, ..change }).expect("it has ended");
    let audit = desk.books.audit();
    assert_eq!((desk.used(), audit.totals.bounded.charge, audit.drift), (11, PicoSum(0), PicoSum(0)));
}

/// The provider billed some 830 euros, the proxy recorded 1.47: streams whose usage never came were free.
#[test]
fn a_thousand_streams_without_usage_are_not_free_as_in_litellm_37923_40100_6633_and_bifrost_520_4484() {
    let (desk, who) = (Desk::new(), Who::acme());
    for number in 0..1_000 {
        let mut stream = desk.reserve(&who, number, both(83 * CENT)).expect("no cap");
        assert!(stream.dispatched());
        stream.post_bounded(Outcome::UsageMissing).expect("pending");
    }
    let totals = desk.books.audit().totals;
    assert_eq!((totals.posted.cost, totals.bounded.cost), (usd(830), usd(830)));
}

// === peers §3.5: the price was wrong ===

/// A price was wrong for weeks; correcting it is an entry of its own, and the history stays.
#[test]
fn a_wrong_price_is_corrected_by_an_entry_and_not_by_rewriting_as_after_litellm_12313_and_bifrost_5243() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Month, Basis::Charge, PicoSum(1_000));
    desk.reserve(&who, 1, both(900)).expect("room").post(measured(both(300))).expect("pending");
    let before = desk.books.records();
    let change = adjusted(who.spender(), UtcOffset(0), 1, start(), both(300), both(3));
    desk.books.adjust(Adjusted { reason: Reason::Repriced, ..change }).expect("it has ended");
    assert_eq!(desk.books.records()[..before.len()], before);
    assert_eq!(desk.used(), 3);
    let dearer = adjusted(who.spender(), UtcOffset(0), 1, start(), both(3), both(2_000));
    desk.books.adjust(dearer).expect("it has ended");
    assert_eq!((desk.used(), desk.books.audit().totals.overrun.charge), (1_000, PicoSum(1_000)), "never over");
}

// === peers §3.6: counted twice ===

#[test]
fn an_answer_that_is_reported_twice_is_counted_once_as_it_was_not_in_litellm_15740_17814_39455_and_higress_1080() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Day, Basis::Cost, PicoSum(100));
    let held = desk.reserve(&who, 1, both(50)).expect("room");
    held.post(measured(both(20))).expect("pending");
    assert_eq!(desk.books.resolve(id(1), measured(both(20))), None, "by the provider's record, later");
    assert_eq!(desk.books.sweep(std::time::Duration::ZERO), 0, "by the sweep");
    let restarted = desk.restarted();
    assert_eq!(restarted.books.recover(), 0, "by a restart");
    assert_eq!(restarted.books.resolve(id(1), measured(both(20))), None);
    assert_eq!((desk.used(), restarted.used()), (20, 20));
}

// === foundations §2.3: in doubt ===

/// Usage that came in part must not give back headroom; and what the provider says later settles exactly.
#[test]
fn doubt_is_resolved_by_the_providers_record_or_counts_in_full_as_in_facility_251_and_255() {
    let (desk, who) = (Desk::new(), Who::acme());
    desk.cap(&who.scopes()[0], Window::Lifetime, Basis::Cost, PicoSum(100));
    let one = desk.reserve(&who, 1, both(60)).expect("room");
    let two = desk.reserve(&who, 2, both(40)).expect("room");
    let restarted = desk.restarted();
    assert_eq!(restarted.books.recover(), 2);
    assert_eq!(restarted.headroom(&who).cost, Some(PicoSum(0)));
    assert!(restarted.books.resolve(id(1), measured(both(15))).is_some());
    assert_eq!(restarted.headroom(&who).cost, Some(PicoSum(45)), "the other one counts in full");
    drop((one, two));
}
