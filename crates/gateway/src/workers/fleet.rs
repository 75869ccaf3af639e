//! The gateway's side: which workers are there, what they serve, and who is asked.
//!
//! Each worker is asked every second what it serves; who does not say is not asked for work. The one with least under way is
//! asked first. Work has no effect but its answer, so whoever is not reached, breaks, or stands still is given up and another is
//! asked; the first answer that comes is the only one that is billed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tollgate_serving::Provider;
use tollgate_serving::backend::{Endpoint, SendError};
use tollgate_types::{Clock, Refusal, Timestamp};

use super::wire::{Facts, Handback, Handed, Refused, Served};
use crate::attempts::backend_of_this_worker;
use crate::config;
use crate::local::RETRY;
use crate::local::work::{Caller, Stopped};
use crate::pipeline::read_up_to;

/// All workers of a gateway.
#[derive(Debug)]
pub struct Fleet {
    all: Vec<One>,
    clock: Clock,
    stall: Duration,
    /// Counted up whenever what is served has changed.
    pub generation: AtomicU64,
    told: Mutex<()>,
    changed: Condvar,
    turn: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
struct One {
    provider: Arc<Provider>,
    up: AtomicBool,
    in_flight: AtomicUsize,
    /// It stood still: until then it is asked only where nobody else is left.
    shunned_until: Mutex<Timestamp>,
    served: RwLock<BTreeMap<String, Facts>>,
}

/// How a worker stands, for metrics.
#[derive(Clone, Debug)]
pub struct Standing {
    pub worker: Arc<str>,
    pub up: bool,
    pub in_flight: usize,
}

/// What is wanted of whoever answers.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How long one of them may take before another is asked.
    pub goal: Duration,
    pub patience: Duration,
}

/// How often workers are asked what they serve, and how long they may take to say.
const POLL_EVERY: Duration = Duration::from_secs(1);
const POLL_PATIENCE: Duration = Duration::from_secs(1);
/// Of what they say.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Between two pieces of an answer.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long one that stood still is not asked.
const SHUNNED: Duration = Duration::from_secs(5);
/// Workers that are asked for one request.
const ATTEMPTS_MAX: usize = 3;

/// A worker's place under way.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Fleet ===

impl Fleet {
    /// Starts to ask the workers, and waits until each route of `wanted` is served by one, or the patience ends.
    pub fn start(
        config: &config::Workers,
        wanted: &[&str],
        patience: Duration,
        clock: Clock,
    ) -> Result<Arc<Self>, String> {
        let one = |provider: &Arc<Provider>| One {
            provider: Arc::clone(provider),
            up: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            shunned_until: Mutex::new(Timestamp(i64::MIN)),
            served: RwLock::default(),
        };
        let fleet = Arc::new(Self {
            all: config.all.iter().map(one).collect(),
            clock,
            stall: config.stall,
            generation: AtomicU64::new(0),
            told: Mutex::new(()),
            changed: Condvar::new(),
            turn: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let watched = Arc::downgrade(&fleet);
        let thread = thread::Builder::new().name("fleet".to_owned()).spawn(move || runtime.block_on(watch(watched)));
        thread.map_err(|error| error.to_string())?;
        fleet.wait_for(wanted, patience)?;
        Ok(fleet)
    }

    /// Waits until each route is served by one, or the patience ends.
    pub fn wait_for(&self, wanted: &[&str], patience: Duration) -> Result<(), String> {
        let missing = || wanted.iter().copied().find(|route| self.facts(route).is_none());
        let since = tollgate_types::clock::Stopwatch::start();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(route) = missing() {
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(format!("no worker serves {route:?} after {} s; {}", patience.as_secs(), self.described()));
            }
            told = self.changed.wait_timeout(told, left.min(POLL_EVERY)).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn described(&self) -> String {
        let one = |one: &One| {
            let state = if one.up.load(Ordering::Relaxed) { "is there" } else { "does not answer" };
            format!("{} {state}", one.provider.name)
        };
        self.all.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What is served under a route's name: as the first of the workers says that are there, or else that were.
    pub fn facts(&self, route: &str) -> Option<Facts> {
        let of = |one: &One| one.served.read().unwrap_or_else(PoisonError::into_inner).get(route).cloned();
        let up = self.all.iter().filter(|one| one.up.load(Ordering::Relaxed)).find_map(of);
        up.or_else(|| self.all.iter().find_map(of))
    }

    pub fn standing(&self) -> Vec<Standing> {
        let one = |one: &One| Standing {
            worker: Arc::clone(&one.provider.name),
            up: one.up.load(Ordering::Relaxed),
            in_flight: one.in_flight.load(Ordering::Relaxed),
        };
        self.all.iter().map(one).collect()
    }

    /// Has it done by one of them. The caller's leaving ends it: what a worker has done by then is nobody's to pay.
    pub async fn ask(
        &self,
        handed: Handed,
        wanted: Wanted,
        request_id: &HeaderValue,
        caller: &mut Caller,
    ) -> Result<Handback, Stopped> {
        let since = tollgate_types::clock::Stopwatch::start();
        let mut asked: Vec<usize> = Vec::new();
        let mut refused: Option<Refused> = None;
        while asked.len() < ATTEMPTS_MAX
            && let Some(number) = self.next(&handed, &asked)
        {
            let left = wanted.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(Refused::Late.told().into());
            }
            // The last one there may take all the time there is.
            let others = asked.len() + 1 < ATTEMPTS_MAX && self.next(&handed, &[&*asked, &[number]].concat()).is_some();
            let patience = if others { left.min(wanted.goal + self.stall) } else { left };
            asked.push(number);
            let one = &self.all[number];
            let body = body(&handed, since.elapsed(), left);
            let answered = tokio::select! {
                answered = one.ask(body, request_id, patience) => answered,
                () = caller.gone() => return Err(Stopped::Gone),
            };
            match answered {
                Ok(back) => return Ok(back),
                Err(Failed::Refused(said @ (Refused::Overloaded { .. } | Refused::Changed))) => {
                    // Whoever is free first decides when to come again.
                    refused = Some(match refused {
                        Some(before) if wait_of(&before) <= wait_of(&said) => before,
                        _ => said,
                    });
                }
                Err(Failed::Refused(said @ (Refused::Broken | Refused::Late))) => {
                    tracing::warn!(worker = %one.provider.name, ?said, "a worker failed at its work");
                    refused.get_or_insert(said);
                }
                Err(Failed::Refused(said)) => return Err(said.told().into()),
                Err(Failed::Lost(why)) => {
                    tracing::warn!(worker = %one.provider.name, why, "a worker was lost: another is asked");
                    self.lost(number);
                }
            }
        }
        let nobody = || Refusal::Overloaded { reason: "no worker answers", retry_after: RETRY };
        Err(refused.map_or_else(nobody, Refused::told).into())
    }

    /// Who is asked next: who is there and serves the same, with least under way.
    fn next(&self, handed: &Handed, asked: &[usize]) -> Option<usize> {
        let now = self.clock.steady();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let free = (0..self.all.len()).filter(|number| !asked.contains(number) && self.all[*number].serves(handed));
        free.min_by_key(|number| {
            let one = &self.all[*number];
            let in_flight = one.in_flight.load(Ordering::Relaxed);
            (one.is_shunned(now), in_flight, (number + turn) % self.all.len())
        })
    }

    fn lost(&self, number: usize) {
        *self.all[number].shunned() = self.clock.steady().plus(SHUNNED);
    }
}

/// The request as it goes out, the time that is left written into it.
fn body(handed: &Handed, passed: Duration, left: Duration) -> Bytes {
    let passed_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
    let deadline_us = handed.deadline_us.map(|us| us.saturating_sub(passed_us));
    let patience_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    serde_json::to_vec(&Handed { patience_us, deadline_us, ..handed.clone() })
        .expect("texts and numbers, which JSON can hold")
        .into()
}

fn wait_of(refused: &Refused) -> u64 {
    match refused {
        Refused::Overloaded { retry_after_us, .. } => *retry_after_us,
        _ => u64::MAX,
    }
}

enum Failed {
    Refused(Refused),
    /// It was not reached, broke, or stood still.
    Lost(&'static str),
}

impl From<&'static str> for Failed {
    fn from(why: &'static str) -> Self {
        Self::Lost(why)
    }
}

// === impl One ===

impl One {
    fn serves(&self, handed: &Handed) -> bool {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        self.up.load(Ordering::Relaxed)
            && served.get(&handed.route).is_some_and(|facts| facts.identity == handed.identity)
    }

    fn is_shunned(&self, now: Timestamp) -> bool {
        now < *self.shunned()
    }

    fn shunned(&self) -> MutexGuard<'_, Timestamp> {
        self.shunned_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, body: Bytes, request_id: &HeaderValue, patience: Duration) -> Result<Handback, Failed> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _place = InFlight(&self.in_flight);
        let (status, bytes) = self.exchange(Endpoint::Texts, request_id.clone(), body, patience).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&bytes).map_err(|_| Failed::Lost("its answer cannot be read"));
        }
        match serde_json::from_slice::<Refused>(&bytes) {
            Ok(refused) => Err(Failed::Refused(refused)),
            Err(_) => Err(Failed::Lost("it answered with something else: is it a worker, and the key the same?")),
        }
    }

    /// What it serves, or why it does not say.
    async fn says(&self) -> Result<Served, &'static str> {
        let id = HeaderValue::from_static("poll");
        let (status, bytes) = self.exchange(Endpoint::Routes, id, Bytes::new(), POLL_PATIENCE).await?;
        match status {
            StatusCode::OK => serde_json::from_slice(&bytes).map_err(|_| "its answer cannot be read"),
            _ => Err("it does not know us: is the key the same?"),
        }
    }

    /// A request, and the whole of its answer, or why there is none.
    async fn exchange(
        &self,
        endpoint: Endpoint,
        id: HeaderValue,
        body: Bytes,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), &'static str> {
        let backend = backend_of_this_worker(&self.provider);
        let asking = async {
            let sent = backend.send(endpoint, id, body, patience).await;
            let answer = sent.map_err(
                |SendError { maybe_sent, .. }| {
                    if maybe_sent { "it stands still, or broke" } else { "it is not reached" }
                },
            )?;
            let read = read_up_to(answer.body, ANSWER_BYTES_MAX, PAUSE_MAX).await;
            Ok((answer.status, read.map_err(|_| "its answer broke")?))
        };
        tokio::time::timeout(patience, asking).await.unwrap_or(Err("it stands still"))
    }

    /// Asks what it serves; says whether that has changed.
    async fn poll(&self) -> bool {
        match self.says().await {
            Ok(Served { routes }) => {
                let routes: BTreeMap<_, _> = routes.into_iter().map(|facts| (facts.route.clone(), facts)).collect();
                let was_up = self.up.swap(true, Ordering::Relaxed);
                let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
                let changed = *served != routes;
                if !was_up || changed {
                    let names = routes.keys().cloned().collect::<Vec<_>>().join(", ");
                    tracing::info!(worker = %self.provider.name, routes = names, "a worker is there");
                }
                *served = routes;
                !was_up || changed
            }
            Err(why) => {
                let was_up = self.up.swap(false, Ordering::Relaxed);
                if was_up {
                    tracing::warn!(worker = %self.provider.name, why, "a worker is gone");
                }
                was_up
            }
        }
    }
}

/// Asks all of them again and again, as long as anybody wants to know.
async fn watch(fleet: Weak<Fleet>) {
    let mut every = tokio::time::interval(POLL_EVERY);
    loop {
        every.tick().await;
        let Some(fleet) = fleet.upgrade() else { return };
        let changed = futures_util::future::join_all(fleet.all.iter().map(One::poll)).await;
        if changed.contains(&true) {
            fleet.generation.fetch_add(1, Ordering::Release);
        }
        drop(fleet.told.lock().unwrap_or_else(PoisonError::into_inner));
        fleet.changed.notify_all();
    }
}
