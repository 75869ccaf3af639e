//! Failures that other gateways have shipped, each as a test that must not happen here. The numbers are their issues.
//! Those about prices (tiers, cached tokens, names) belong to the price book and are tested there.

use std::sync::Barrier;
use std::thread;

use tollgate_ledger::{Record, Rejected};
use tollgate_types::money::PICO_PER_USD;
use tollgate_types::refusal::BudgetExceeded;
use tollgate_types::usage::Outcome;
use tollgate_types::{Basis, PicoSum, Window};

use crate::world::{
    BASES, DAY, Desk, HOUR, Who, amounts, both, budget_refusal, budgets_of, measured, posted, replay, start, usd,
    voided,
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
