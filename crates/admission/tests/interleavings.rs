//! The limiters under every interleaving of a few threads, and many of some more.
//!
//! The files of `src/limits` are compiled here over atomics of the scheduler shuttle instead of the machine's. Shuttle and
//! not loom: each limit is one word, and nothing else is published through it, so weak memory orders have nothing to break
//! and sequential interleavings are all there is to explore; shuttle explores them in plain `cargo test`, all of them or a
//! seeded many, where loom wants a build of its own and has no number of 128 bits.
//!
//! The last module is the same code over a compare-and-swap that is none: the checks must see that.

use std::sync::Mutex;

use shuttle::Runner;
use shuttle::scheduler::{DfsScheduler, RandomScheduler, Scheduler};
use tollgate_types::Timestamp;

const SEED: u64 = 0x701_1e4a7e;

/// A number behind shuttle's lock: each call is one step, and between any two of them another thread may run.
macro_rules! stepwise {
    ($name:ident, $number:ty, $compares:literal) => {
        #[derive(Debug, Default)]
        pub struct $name(shuttle::sync::Mutex<$number>);

        impl $name {
            #[allow(dead_code, reason = "counters begin at their default")]
            pub fn new(number: $number) -> Self {
                Self(shuttle::sync::Mutex::new(number))
            }

            pub fn load(&self, _: Ordering) -> $number {
                *self.0.lock().expect("no thread panics while it holds it")
            }

            pub fn compare_exchange_weak(
                &self,
                expected: $number,
                new: $number,
                _: Ordering,
                _: Ordering,
            ) -> Result<$number, $number> {
                let mut number = self.0.lock().expect("no thread panics while it holds it");
                if $compares && *number != expected {
                    return Err(*number);
                }
                Ok(std::mem::replace(&mut *number, new))
            }

            #[allow(dead_code, reason = "only counters go down")]
            pub fn fetch_sub(&self, by: $number, _: Ordering) -> $number {
                let mut number = self.0.lock().expect("no thread panics while it holds it");
                let less = number.checked_sub(by).expect("no more leave than entered");
                std::mem::replace(&mut *number, less)
            }
        }
    };
}

/// The sources of the crate over the atomics named in `atomic`, and what is checked about them.
macro_rules! limiters {
    ($name:ident, $compares:literal) => {
        #[allow(clippy::duplicate_mod, dead_code, reason = "the sources are compiled over several kinds of atomics")]
        #[path = "../src/limits"]
        mod $name {
            mod cell;
            mod entry;
            mod limiter;

            mod atomic {
                pub use std::sync::atomic::Ordering;
                stepwise!(AtomicU32, u32, $compares);
                stepwise!(AtomicU128, u128, $compares);
            }

            use std::sync::Arc;

            use super::{Seen, at};
            use cell::Cell;
            use entry::{Entry, Scopes};
            use limiter::{Kind, Limiter};
            use shuttle::thread;
            use tollgate_types::directory::Limits;

            /// So many threads take one of a limit at the same time; how many got it, and what is left.
            pub fn takes(threads: u64, limit: u64, seen: &Seen) {
                let cell = Arc::new(Cell::new(limit));
                let took = all(threads, &cell, |cell| cell.take(1, at(0)).is_ok());
                seen.note(took, limit - cell.allowance(at(0)).remaining);
            }

            /// Threads take half of a limit and give it back, or take a third and find that they used less.
            pub fn gives_back(threads: u64, seen: &Seen) {
                let cell = Arc::new(Cell::new(60));
                let _ = all(threads, &cell, |cell| {
                    if cell.take(30, at(0)).is_ok() {
                        cell.give_back(30);
                    }
                    let took = cell.take(20, at(0)).is_ok();
                    if took {
                        cell.correct(20, 0, at(0));
                    }
                    took
                });
                seen.note(60 - cell.allowance(at(0)).remaining, 0);
            }

            /// Threads enter two scopes, of which the second lets in only so many; how many were let in, and what the
            /// first says of requests that were counted.
            pub fn enters(threads: u64, let_in: u32, seen: &Seen) {
                let wide =
                    Limits { requests_per_minute: Some(60), tokens_per_minute: Some(60), parallel_requests: Some(60) };
                let narrow =
                    Limits { requests_per_minute: Some(let_in), tokens_per_minute: Some(30), parallel_requests: None };
                let limiters = [(Kind::Tenant, wide), (Kind::Key, narrow)]
                    .map(|(kind, limits)| Arc::new(Limiter::new(kind, limits)));
                let scopes = Arc::new(Scopes::new(limiters.clone()));
                let entered = all(threads, &scopes, |scopes| {
                    let Ok(mut entry) = Entry::enter(scopes, None, at(0)) else { return false };
                    if entry.reserve_tokens(20, at(0)).is_ok() {
                        entry.settle(0, at(0));
                    }
                    true
                });
                let left = limiters.each_ref().map(|limiter| limiter.requests_left(at(0)).expect("there is a limit"));
                seen.note(entered, left.iter().map(|left| left.limit - left.remaining).max().expect("there are two"));
                seen.note(left[0].limit - left[0].remaining, left[1].limit - left[1].remaining);
                for limiter in &limiters {
                    let tokens = limiter.tokens_left(at(0)).expect("there is a limit");
                    seen.note(limiter.in_flight().into(), tokens.limit - tokens.remaining);
                }
            }

            /// Threads enter and leave a scope that has room for so many; the most that were inside at once.
            pub fn inside(threads: u64, room: u32, seen: &Seen) {
                let limits = Limits { parallel_requests: Some(room), ..Limits::default() };
                let limiter = Arc::new(Limiter::new(Kind::Key, limits));
                let inside = Arc::new(std::sync::atomic::AtomicU64::new(0));
                let most = Arc::new(std::sync::atomic::AtomicU64::new(0));
                let scopes = Arc::new(Scopes::new([Arc::clone(&limiter)]));
                let _ = all(threads, &(scopes, Arc::clone(&inside), Arc::clone(&most)), |(scopes, inside, most)| {
                    let Ok(_entry) = Entry::enter(scopes, None, at(0)) else { return false };
                    let now = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                    most.fetch_max(now, std::sync::atomic::Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    true
                });
                seen.note(most.load(std::sync::atomic::Ordering::SeqCst), limiter.in_flight().into());
            }

            /// Does it in so many threads; for how many it was true.
            fn all<T: Clone + Send + 'static>(threads: u64, with: &T, what: fn(&T) -> bool) -> u64 {
                let threads: Vec<_> = (0..threads)
                    .map(|_| {
                        let with = with.clone();
                        thread::spawn(move || u64::from(what(&with)))
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
            }
        }
    };
}

limiters!(sound, true);
limiters!(load_then_store, false);

/// What the runs ended with, each of them once.
#[derive(Debug, Default)]
pub struct Seen(Mutex<std::collections::BTreeSet<(u64, u64)>>);

impl Seen {
    fn note(&self, one: u64, other: u64) {
        self.0.lock().expect("no thread panics while it holds it").insert((one, other));
    }
}

fn at(micros: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + micros)
}

/// Everything that was seen in all interleavings that the scheduler tries.
fn explore(scheduler: impl Scheduler + 'static, what: impl Fn(&Seen) + Send + Sync + 'static) -> Vec<(u64, u64)> {
    let seen = std::sync::Arc::new(Seen::default());
    let noted = std::sync::Arc::clone(&seen);
    let runs = Runner::new(scheduler, shuttle::Config::default()).run(move || what(&noted));
    assert!(runs > 1, "one run is no interleaving");
    let seen = seen.0.lock().expect("no thread panics while it holds it");
    seen.iter().copied().collect()
}

fn every() -> DfsScheduler {
    DfsScheduler::new(None, false)
}

fn many() -> RandomScheduler {
    RandomScheduler::new_from_seed(SEED, 2_000)
}

#[test]
fn never_more_than_the_limit_is_taken_and_all_that_is_taken_is_counted() {
    assert_eq!(explore(every(), |seen| sound::takes(2, 1, seen)), [(1, 1)]);
    assert_eq!(explore(every(), |seen| sound::takes(2, 2, seen)), [(2, 2)]);
    assert_eq!(explore(many(), |seen| sound::takes(6, 4, seen)), [(4, 4)]);
}

#[test]
fn what_is_given_back_leaves_nothing_taken() {
    assert_eq!(explore(many(), |seen| sound::gives_back(4, seen)), [(0, 0)]);
}

#[test]
fn a_request_that_a_later_scope_refuses_leaves_nothing_taken_in_an_earlier_one() {
    let seen = explore(many(), |seen| sound::enters(4, 2, seen));
    assert_eq!(seen, [(0, 0), (2, 2)], "two were let in and counted in both; no tokens stay and nothing is in flight");
}

#[test]
fn never_more_are_inside_than_there_is_room_and_at_the_end_nobody_is() {
    let seen = explore(many(), |seen| sound::inside(5, 2, seen));
    assert!(seen.iter().all(|(most, at_the_end)| *most <= 2 && *at_the_end == 0), "{seen:?}");
    assert!(seen.contains(&(2, 0)), "some interleaving has both places taken: {seen:?}");
}

#[test]
fn a_store_in_place_of_a_compare_and_swap_is_found_out() {
    let taken = explore(every(), |seen| load_then_store::takes(2, 1, seen));
    assert!(taken.contains(&(2, 1)), "both took the one that there was: {taken:?}");
    let counted = explore(every(), |seen| load_then_store::takes(2, 2, seen));
    assert!(counted.contains(&(2, 1)), "one of the two is not counted: {counted:?}");
    let left = explore(many(), |seen| load_then_store::gives_back(4, seen));
    assert!(left.iter().any(|(taken, _)| *taken > 0), "something stays taken for ever: {left:?}");
}
