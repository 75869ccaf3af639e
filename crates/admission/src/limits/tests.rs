//! The limiters against a naive reference: lists of events, and the definition of what a limit allows, window by window,
//! in exact fractions (whole ticks of 1/limit microseconds).

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tollgate_types::directory::Limits;
use tollgate_types::refusal::RateLimited;
use tollgate_types::{EndUserId, Refusal, Timestamp};

use super::*;

const MINUTE_MICROS: i128 = 60_000_000;

/// Each event has a moment and a weight in ticks; what is given back weighs less than nothing.
#[derive(Clone, Debug)]
struct Reference {
    limit: u64,
    events: Vec<(i64, i128)>,
}

impl Reference {
    fn new(limit: impl Into<u64>) -> Self {
        Self { limit: limit.into(), events: Vec::new() }
    }

    fn full(&self) -> i128 {
        i128::from(self.limit) * MINUTE_MICROS
    }

    /// The most by which the windows that end now are used up: what came in them, less what refilled.
    fn used(&self, now: i64) -> i128 {
        let mut came = 0;
        let windows = self.events.iter().rev().map(|(at, weight)| {
            came += weight;
            came - i128::from(now - at) * i128::from(self.limit)
        });
        windows.max().unwrap_or(0).max(0)
    }

    fn fits(&self, n: u64, now: i64) -> bool {
        self.used(now) + i128::from(n) * MINUTE_MICROS <= self.full()
    }

    fn note(&mut self, now: i64, tokens: i128) {
        self.events.push((now, tokens * MINUTE_MICROS));
    }

    fn correct(&mut self, estimated: u64, actual: u64, now: i64) {
        let more = (i128::from(actual) - i128::from(estimated)) * MINUTE_MICROS;
        let room = self.full() - self.used(now);
        self.events.push((now, more.min(room)));
    }

    fn allowance(&self, now: i64) -> Allowance {
        let used = self.used(now);
        let limit = i128::from(self.limit.max(1));
        let reset = (used + limit - 1) / limit;
        Allowance {
            limit: self.limit,
            remaining: u64::try_from((self.full() - used) / MINUTE_MICROS).expect("at most the limit"),
            reset: Duration::from_micros(u64::try_from(reset).expect("a time")),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u32),
    Take(u64),
    /// Puts right the n-th of what is taken and not yet put right.
    Correct(usize, u64),
}

/// A failure prints its smallest case.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

fn at(micros: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + micros)
}

fn limit() -> impl Strategy<Value = u64> {
    prop_oneof![1..=7_u64, 1..=100_000_u64, (1..=u32::MAX).prop_map(u64::from), 1..=u64::MAX, Just(u64::MAX)]
}

/// A weight that means something beside this limit: small, a share of it, or just beyond it.
fn weight(limit: u64) -> impl Strategy<Value = u64> {
    let share =
        (0..=1000_u128).prop_map(move |share| u64::try_from(u128::from(limit) * share / 1000).expect("a share"));
    prop_oneof![4 => 0..=3_u64, 6 => share, 1 => Just(limit.saturating_add(1))]
}

fn step(limit: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![0..=2_u32, 0..=1_000_000_u32, 0..=90_000_000_u32].prop_map(Step::Pass),
        5 => weight(limit).prop_map(Step::Take),
        3 => (any::<usize>(), weight(limit)).prop_map(|(which, actual)| Step::Correct(which, actual)),
    ]
}

fn steps() -> impl Strategy<Value = (u64, Vec<Step>)> {
    limit().prop_flat_map(|limit| (Just(limit), prop::collection::vec(step(limit), 1..60)))
}

/// A cell under the same limit that is used as far: what is tried on it leaves the other alone.
fn copy(cell: &Cell) -> Cell {
    cell.under(cell.limit())
}

fn check_take(cell: &Cell, reference: &mut Reference, n: u64, now: i64) -> Result<bool, TestCaseError> {
    let before = cell.allowance(at(now));
    match cell.take(n, at(now)) {
        Ok(()) => {
            prop_assert!(reference.fits(n, now), "some window has more than the limit allows");
            reference.note(now, n.into());
            return Ok(true);
        }
        Err(Refused::Never) => prop_assert!(n > reference.limit),
        Err(Refused::For(wait)) => {
            let then = now + i64::try_from(wait.as_micros()).expect("a time");
            prop_assert!(!reference.fits(n, now) && reference.fits(n, then) && !reference.fits(n, then - 1));
            prop_assert!(copy(cell).take(n, at(then - 1)).is_err(), "a microsecond before the time that was told");
            prop_assert!(copy(cell).take(n, at(then)).is_ok(), "at the time that was told");
        }
    }
    prop_assert_eq!(cell.allowance(at(now)), before, "a refusal changes nothing");
    Ok(false)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_cell_allows_exactly_what_every_window_allows((limit, steps) in steps()) {
        let (cell, mut reference, mut now, mut taken) = (Cell::new(limit), Reference::new(limit), 0, Vec::new());
        for step in steps {
            match step {
                Step::Pass(micros) => now += i64::from(micros),
                Step::Take(n) => {
                    if check_take(&cell, &mut reference, n, now)? {
                        taken.push(n);
                    }
                }
                Step::Correct(_, _) if taken.is_empty() => {}
                Step::Correct(which, actual) => {
                    let estimated = taken.swap_remove(which % taken.len());
                    cell.correct(estimated, actual, at(now));
                    reference.correct(estimated, actual, now);
                }
            }
            prop_assert_eq!(cell.allowance(at(now)), reference.allowance(now));
        }
    }

    #[test]
    fn another_limit_keeps_the_share_that_is_used_up(old in limit(), new in limit(), share in 0..=1000_u64, passed in 0..=70_000_000_i64) {
        let cell = Cell::new(old);
        cell.take(u64::try_from(u128::from(old) * u128::from(share) / 1000).expect("a share"), at(0)).expect("it fits");
        let (before, after) = (cell.allowance(at(passed)), cell.under(new).allowance(at(passed)));
        prop_assert_eq!(before.reset, after.reset, "all is there again when it would have been");
        prop_assert!(after.remaining <= new);
    }
}

// === all scopes ===

const KINDS: [Kind; 6] = [Kind::Platform, Kind::Plan, Kind::Tenant, Kind::Project, Kind::Key, Kind::EndUser];

/// The naive model of one scope.
#[derive(Clone, Debug)]
struct Scope {
    limits: Limits,
    requests: Option<Reference>,
    tokens: Option<Reference>,
    running: u32,
}

#[derive(Clone, Debug)]
enum Act {
    Pass(u32),
    Enter,
    Reserve(usize, u64),
    Settle(usize, u64),
    Leave(usize),
}

impl Scope {
    fn new(limits: Limits) -> Self {
        let requests = limits.requests_per_minute.map(Reference::new);
        Self { limits, requests, tokens: limits.tokens_per_minute.map(Reference::new), running: 0 }
    }

    fn lets_in(&self, now: i64) -> bool {
        self.limits.parallel_requests.is_none_or(|limit| self.running < limit)
            && self.requests.as_ref().is_none_or(|requests| requests.fits(1, now))
    }
}

fn some_limits() -> impl Strategy<Value = Limits> {
    let requests = prop::option::weighted(0.7, 0..=6_u32);
    let tokens = prop::option::weighted(0.7, 0..=500_u64);
    let parallel = prop::option::weighted(0.7, 0..=4_u32);
    (requests, tokens, parallel).prop_map(|(requests_per_minute, tokens_per_minute, parallel_requests)| Limits {
        requests_per_minute: requests_per_minute.map(|n| if n == 0 { 100 } else { n }),
        tokens_per_minute,
        parallel_requests: parallel_requests.map(|n| if n == 0 { 100 } else { n }),
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..=20_000_000_u32).prop_map(Act::Pass),
        5 => Just(Act::Enter),
        4 => (any::<usize>(), 0..=200_u64).prop_map(|(which, n)| Act::Reserve(which, n)),
        3 => (any::<usize>(), 0..=300_u64).prop_map(|(which, n)| Act::Settle(which, n)),
        2 => any::<usize>().prop_map(Act::Leave),
    ]
}

fn limiters(of: &[Limits]) -> Vec<Arc<Limiter>> {
    KINDS.into_iter().zip(of).map(|(kind, limits)| Arc::new(Limiter::new(kind, *limits))).collect()
}

fn check_same(limiters: &[Arc<Limiter>], scopes: &[Scope], now: i64) -> Result<(), TestCaseError> {
    for (limiter, scope) in limiters.iter().zip(scopes) {
        let expected = |reference: &Option<Reference>| reference.as_ref().map(|one| one.allowance(now));
        prop_assert_eq!(limiter.in_flight(), scope.running, "{:?}", limiter.kind());
        prop_assert_eq!(limiter.requests_left(at(now)), expected(&scope.requests), "{:?}", limiter.kind());
        prop_assert_eq!(limiter.tokens_left(at(now)), expected(&scope.tokens), "{:?}", limiter.kind());
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_request_is_counted_in_all_scopes_or_in_none(
        of in prop::collection::vec(some_limits(), 6),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let limiters = limiters(&of);
        let mut scopes: Vec<_> = of.iter().copied().map(Scope::new).collect();
        let listed = Arc::new(Scopes::new(limiters[..5].iter().cloned()));
        let (mut now, mut entries) = (0, Vec::<(Entry, u64)>::new());
        for act in acts {
            match act {
                Act::Pass(micros) => now += i64::from(micros),
                Act::Enter => {
                    let expected = scopes.iter().all(|scope| scope.lets_in(now));
                    let entered = Entry::enter(&listed, Some(Arc::clone(&limiters[5])), at(now));
                    prop_assert_eq!(entered.is_ok(), expected);
                    let Ok(entry) = entered else { continue };
                    entries.push((entry, 0));
                    for scope in &mut scopes {
                        scope.running += 1;
                        scope.requests.iter_mut().for_each(|requests| requests.note(now, 1));
                    }
                }
                _ if entries.is_empty() => {}
                Act::Reserve(which, n) => {
                    let place = which % entries.len();
                    let (entry, reserved) = &mut entries[place];
                    let fits = |scope: &Scope| scope.tokens.as_ref().is_none_or(|tokens| tokens.fits(n, now));
                    let expected = scopes.iter().all(fits);
                    prop_assert_eq!(entry.reserve_tokens(n, at(now)).is_ok(), expected);
                    if expected {
                        *reserved += n;
                        scopes.iter_mut().filter_map(|scope| scope.tokens.as_mut()).for_each(|t| t.note(now, n.into()));
                    }
                }
                Act::Settle(which, actual) => {
                    let place = which % entries.len();
                    let (entry, reserved) = &mut entries[place];
                    entry.settle(actual, at(now));
                    for tokens in scopes.iter_mut().filter_map(|scope| scope.tokens.as_mut()) {
                        tokens.correct(*reserved, actual, now);
                    }
                    *reserved = actual;
                }
                Act::Leave(which) => {
                    let _ = entries.swap_remove(which % entries.len());
                    scopes.iter_mut().for_each(|scope| scope.running -= 1);
                }
            }
            check_same(&limiters, &scopes, now)?;
        }
        drop(entries);
        prop_assert!(limiters.iter().all(|limiter| limiter.in_flight() == 0));
    }
}

// === what is told ===

const NONE: Limits = Limits { requests_per_minute: None, tokens_per_minute: None, parallel_requests: None };

fn requests(limit: u32) -> Limits {
    Limits { requests_per_minute: Some(limit), ..NONE }
}

fn tokens(limit: u64) -> Limits {
    Limits { tokens_per_minute: Some(limit), ..NONE }
}

fn parallel(limit: u32) -> Limits {
    Limits { parallel_requests: Some(limit), ..NONE }
}

fn scopes<const N: usize>(of: [(Kind, Limits); N]) -> Arc<Scopes> {
    Arc::new(Scopes::new(of.map(|(kind, limits)| Arc::new(Limiter::new(kind, limits)))))
}

fn enter(scopes: &Arc<Scopes>) -> Result<Entry, Refusal> {
    Entry::enter(scopes, None, at(0))
}

#[test]
fn a_refusal_names_the_scope_and_what_is_limited_but_amounts_only_of_the_tenant_s_own() {
    let check = |kind: Kind, limits: Limits, expected: RateLimited, message: &str| {
        let scopes = scopes([(kind, limits)]);
        let _first = enter(&scopes).map(|mut entry| entry.reserve_tokens(3, at(0)).map(|()| entry));
        let refusal = enter(&scopes).and_then(|mut entry| entry.reserve_tokens(3, at(0))).expect_err("all is used up");
        assert_eq!(refusal.to_string(), message);
        assert_eq!(refusal, Refusal::RateLimited(expected));
    };
    let expected = |scope, what, limit, millis: Option<u64>| RateLimited {
        scope,
        what,
        limit,
        retry_after: millis.map(Duration::from_millis),
    };
    let (by_minute, by_tokens, at_once) = ("requests per minute", "tokens per minute", "parallel requests");
    check(
        Kind::Key,
        requests(1),
        expected("key", by_minute, Some(1), Some(60_000)),
        "requests per minute of this key are limited to 1; retry in 60000 ms",
    );
    check(
        Kind::Tenant,
        tokens(4),
        expected("tenant", by_tokens, Some(4), Some(30_000)),
        "tokens per minute of this tenant are limited to 4; retry in 30000 ms",
    );
    check(
        Kind::Project,
        parallel(1),
        expected("project", at_once, Some(1), Some(1000)),
        "parallel requests of this project are limited to 1; retry in 1000 ms",
    );
    check(
        Kind::Project,
        tokens(2),
        expected("project", by_tokens, Some(2), None),
        "tokens per minute of this project are limited to 2, and this request alone needs more: it can never fit",
    );
    check(
        Kind::Platform,
        requests(1),
        expected("platform", by_minute, None, Some(60_000)),
        "the platform is busy; retry in 60000 ms",
    );
    check(
        Kind::Plan,
        tokens(2),
        expected("plan", by_tokens, None, None),
        "this request alone needs more tokens per minute than the plan has: it can never fit",
    );
    for nothing in [requests(0), parallel(0)] {
        let refusal = enter(&scopes([(Kind::Key, nothing)])).expect_err("a limit of zero lets nothing through");
        assert!(matches!(refusal, Refusal::RateLimited(RateLimited { retry_after: None, .. })), "{refusal}");
    }
}

#[test]
fn what_is_left_is_told_of_the_tightest_of_the_tenant_s_own_scopes() {
    let scopes = scopes([
        (Kind::Platform, Limits { tokens_per_minute: Some(60), ..requests(2) }),
        (Kind::Tenant, Limits { tokens_per_minute: Some(600), ..requests(10) }),
        (Kind::Project, Limits { tokens_per_minute: Some(6000), ..requests(4) }),
        (Kind::Key, requests(20)),
    ]);
    let mut entry = enter(&scopes).expect("there is room");
    entry.reserve_tokens(60, at(0)).expect("there is room");
    let tokens = |remaining, secs| Some(Allowance { limit: 600, remaining, reset: Duration::from_secs(secs) });
    let of_project = Allowance { limit: 4, remaining: 3, reset: Duration::from_secs(15) };
    assert_eq!(entry.rate(at(0)), RateState { requests: Some(of_project), tokens: tokens(540, 6) });
    entry.settle(10, at(0));
    assert_eq!(entry.rate(at(0)).tokens, tokens(590, 1), "corrected at settlement");
    let without = self::scopes([(Kind::Key, NONE), (Kind::Plan, requests(1))]);
    let rate = enter(&without).expect("there is room").rate(at(0));
    assert_eq!(rate, RateState { requests: None, tokens: None });
}

#[test]
fn tokens_that_nobody_settled_stay_taken_as_estimated() {
    let scopes = scopes([(Kind::Key, tokens(100))]);
    let mut entry = enter(&scopes).expect("there is room");
    entry.reserve_tokens(70, at(0)).expect("there is room");
    drop(entry);
    let left = enter(&scopes).expect("there is room").rate(at(0)).tokens.expect("there is a limit");
    assert_eq!(left.remaining, 30);
}

#[test]
fn what_was_used_beyond_the_estimate_is_owed_but_no_more_than_a_minute_of_it() {
    let cell = Cell::new(60);
    cell.take(10, at(0)).expect("it fits");
    cell.correct(10, u64::MAX, at(0));
    assert_eq!(cell.allowance(at(0)), Allowance { limit: 60, remaining: 0, reset: Duration::from_secs(60) });
    assert_eq!(cell.take(1, at(0)), Err(Refused::For(Duration::from_secs(1))));
    assert_eq!(cell.take(60, at(60_000_000)), Ok(()));
}

#[test]
fn a_clock_that_is_behind_is_judged_the_more_strictly() {
    let cell = Cell::new(60);
    cell.take(30, at(1_000_000)).expect("it fits");
    assert_eq!(cell.allowance(at(0)).remaining, 29);
    assert!(cell.take(30, at(0)).is_err() && cell.take(29, at(0)).is_ok());
}

// === who is limited ===

#[test]
fn a_scope_keeps_its_limiter_while_its_settings_stay_and_its_used_share_when_they_change() {
    let (tenant, id) = ("t".parse().expect("a slug"), "k".parse().expect("a slug"));
    let registry = |before: &Registry, limits: Limits| {
        let mut registry = Registry::default();
        registry.found(&tenant, Arc::new(Limiter::new(Kind::Tenant, NONE)), None);
        let limiter = registry.key(before, &tenant, &id, limits);
        (registry, limiter)
    };
    let (first, limiter) = registry(&Registry::default(), requests(10));
    let scopes = Arc::new(Scopes::new([Arc::clone(&limiter)]));
    let entries: Vec<_> = (0..5).map(|_| enter(&scopes).expect("there is room")).collect();

    let (second, same) = registry(&first, requests(10));
    assert!(Arc::ptr_eq(&limiter, &same));

    let both = Limits { tokens_per_minute: Some(7), parallel_requests: Some(5), ..requests(100) };
    let (_, changed) = registry(&second, both);
    assert_eq!(changed.requests_left(at(0)).map(|left| left.remaining), Some(50), "half of it is used up");
    assert_eq!(changed.tokens_left(at(0)).map(|left| left.remaining), Some(7));
    let changed = Arc::new(Scopes::new([changed]));
    assert!(enter(&changed).is_err(), "five are in flight that entered before");
    drop(entries);
    assert!(enter(&changed).is_ok());
}

#[test]
fn an_end_user_is_forgotten_only_when_it_does_not_differ_from_a_new_one() {
    let users = EndUsers::default();
    let limits = Limits { requests_per_minute: Some(60), ..parallel(1) };
    let listed = Arc::new(Scopes::new([]));
    let enter = |user: u128, now: i64| {
        let limiter = users.limiter(EndUserId(user.to_be_bytes()), limits, at(now))?;
        Entry::enter(&listed, Some(limiter), at(now))
    };
    let (runs, late, about_to) = (u128::MAX, u128::MAX - 1, EndUserId([0xaa; 16]));
    let running = enter(runs, 0).expect("there is room");
    let about_to_enter = users.limiter(about_to, limits, at(0)).expect("there is room");
    assert!(enter(runs, 0).is_err(), "it has one in flight");
    for n in 2..END_USERS_MAX as u128 {
        drop(enter(n, 0).expect("there is room"));
    }
    let full = enter(late, 0).expect_err("all are in flight or have just used something up");
    assert!(matches!(full, Refusal::Overloaded { .. }), "{full}");
    assert!(enter(7, 0).is_ok(), "who is known already comes in");
    assert!(enter(late, 1_000_000).is_ok(), "after a second all but one are whole again");
    assert_eq!(users.known(), 4, "who runs, who is about to, who came twice, and who is new");
    let same = users.limiter(about_to, limits, at(1_000_000)).expect("it is known");
    assert!(Arc::ptr_eq(&about_to_enter, &same), "else it could enter twice");
    assert!(enter(runs, 1_000_000).is_err(), "still in flight, and still known");
    drop(running);
}

#[test]
fn an_end_user_s_limits_change_without_forgetting_what_is_in_flight() {
    let (users, listed) = (EndUsers::default(), Arc::new(Scopes::new([])));
    let limiter = users.limiter(EndUserId([1; 16]), NONE, at(0)).expect("there is room");
    let _running = Entry::enter(&listed, Some(limiter), at(0)).expect("no limit");
    let changed = users.limiter(EndUserId([1; 16]), parallel(1), at(0)).expect("there is room");
    assert!(Entry::enter(&listed, Some(changed), at(0)).is_err());
}
