//! Whatever happens in whatever order: no job is lost or given out twice, no worker is idle while there is work, no limit is
//! passed, and every figure is a number.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tollgate_serving::schedule::{
    Batch, BatchId, Batching, Finished, Judged, Offer, Priority, Scheduler, Settings, State, Taken, Ticket, Turn,
};
use tollgate_types::Timestamp;

const WORKERS: usize = 2;
const TENANTS: u8 = 5;

#[derive(Clone, Debug)]
enum Step {
    Offer { tenant: u8, weight: u32, batch: bool, tokens: u32, goal_ms: u64, deadline_ms: Option<i64>, alone: bool },
    Next { worker: usize },
    Done { worker: usize, took_us: u64 },
    Cancel { back: usize },
    Lost { worker: usize },
    Calibrate { worker: usize, points: Vec<(u32, u64)> },
    Pass { us: i64 },
}

/// A job as the test knows it.
#[derive(Clone, Debug)]
struct Known {
    tenant: u8,
    batch: bool,
    tokens: u32,
    deadline: Option<Timestamp>,
    alone: bool,
}

struct World {
    settings: Settings,
    scheduler: Scheduler<usize>,
    now: Timestamp,
    /// Those in the queue; who leaves it is taken out, and so cannot leave twice.
    queued: BTreeMap<usize, Known>,
    tickets: BTreeMap<usize, Ticket>,
    running: [Option<(BatchId, usize)>; WORKERS],
    offered: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let tokens = prop_oneof![4 => 1..60_u32, 1 => 0..3_000_u32];
    let goal_ms = prop_oneof![1 => 0..20_u64, 4 => 50..200_u64, 2 => 1_000..100_000_u64];
    let deadline_ms = prop_oneof![3 => Just(None), 1 => (-5..200_i64).prop_map(Some)];
    let offer = (0..TENANTS, 0..4_u32, any::<bool>(), tokens, goal_ms, deadline_ms, proptest::bool::weighted(0.2));
    prop_oneof![
        8 => offer.prop_map(|(tenant, weight, batch, tokens, goal_ms, deadline_ms, alone)| Step::Offer {
            tenant, weight, batch, tokens, goal_ms, deadline_ms, alone
        }),
        4 => (0..WORKERS).prop_map(|worker| Step::Next { worker }),
        3 => (0..WORKERS, prop_oneof![0..100_000_u64, Just(u64::MAX)])
            .prop_map(|(worker, took_us)| Step::Done { worker, took_us }),
        1 => (0..10_usize).prop_map(|back| Step::Cancel { back }),
        1 => (0..=WORKERS).prop_map(|worker| Step::Lost { worker }),
        1 => (0..=WORKERS, prop::collection::vec((0..400_u32, 0..200_000_u64), 0..4))
            .prop_map(|(worker, points)| Step::Calibrate { worker, points }),
        3 => prop_oneof![0..20_000_i64, -1_000..10_000_000_i64].prop_map(|us| Step::Pass { us }),
    ]
}

fn batching() -> impl Strategy<Value = Batching> {
    prop_oneof![
        6 => Just(Batching::CostModel),
        1 => (0..20_u64, 0..8_usize)
            .prop_map(|(ms, items)| Batching::Window { delay: Duration::from_millis(ms), items }),
        1 => Just(Batching::Aimd { items_max: 8, judged: Judged::Request }),
        1 => Just(Batching::Greedy { tokens: 200, requests_max: 12 }),
    ]
}

impl World {
    fn new(batching: Batching) -> Self {
        let settings = Settings {
            workers: WORKERS,
            batching,
            batch_items_max: 6,
            queue_items_max: 24,
            queue_tokens_max: 2_000,
            tenant_items_max: 10,
            tenant_tokens_max: 900,
            tenants_max: 3,
            ..Settings::default()
        };
        Self {
            scheduler: Scheduler::new(settings.clone()),
            settings,
            now: Timestamp(0),
            queued: BTreeMap::new(),
            tickets: BTreeMap::new(),
            running: [None; WORKERS],
            offered: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Offer { .. } => self.offer(step),
            Step::Next { worker } => self.next(worker),
            Step::Done { worker, took_us } => {
                let batch = self.running[worker].take().map(|(id, _)| id);
                if let Some(batch) = batch {
                    let took = Duration::from_micros(took_us);
                    self.scheduler.done(self.now, Finished { worker, batch, took });
                }
            }
            Step::Cancel { back } => {
                let Some((&index, &ticket)) = self.tickets.iter().rev().nth(back) else { return };
                let expected = self.queued.remove(&index).map(|_| index);
                assert_eq!(self.scheduler.cancel(self.now, ticket), expected, "only what waits can be cancelled");
            }
            Step::Lost { worker } => {
                self.scheduler.lost(self.now, worker);
                if let Some(running) = self.running.get_mut(worker) {
                    *running = None;
                }
            }
            Step::Calibrate { worker, points } => {
                let points: Vec<_> = points.iter().map(|&(t, us)| (t, Duration::from_micros(us))).collect();
                self.scheduler.calibrate(worker, &points);
            }
            // Even backwards, a little: nothing promises that callers come in order.
            Step::Pass { us } => self.now = Timestamp(self.now.0 + us),
        }
        self.check(&self.scheduler.state(self.now));
    }

    fn offer(&mut self, step: Step) {
        let Step::Offer { tenant, weight, batch, tokens, goal_ms, deadline_ms, alone } = step else { return };
        let index = self.offered;
        self.offered += 1;
        let deadline = deadline_ms.map(|ms| Timestamp(self.now.0 + ms * 1_000));
        let offer = Offer {
            tenant: format!("t{tenant}").parse().expect("it is an id"),
            weight,
            priority: if batch { Priority::Batch } else { Priority::Interactive },
            tokens,
            goal: Duration::from_millis(goal_ms),
            deadline,
            alone,
        };
        match self.scheduler.offer(self.now, offer, index) {
            Ok(ticket) => {
                self.queued.insert(index, Known { tenant, batch, tokens: tokens.max(1), deadline, alone });
                self.tickets.insert(index, ticket);
            }
            Err(refused) => {
                assert_eq!(refused.job, index, "it is given back");
                let bounds = self.settings.retry_min..=self.settings.retry_max;
                assert!(refused.retry_after.is_none_or(|after| bounds.contains(&after)), "{refused:?}");
            }
        }
    }

    fn next(&mut self, worker: usize) {
        self.running[worker] = None;
        let next = self.scheduler.next(self.now, worker);
        for taken in next.dropped {
            let known = self.leave(&taken);
            assert!(known.deadline.is_some(), "only a deadline drops: {known:?}");
        }
        match next.turn {
            Turn::Batch(batch) => self.begins(worker, batch),
            Turn::Idle => assert!(self.queued.is_empty(), "idle while {} wait", self.queued.len()),
            Turn::WaitUntil(at) => {
                assert!(matches!(self.settings.batching, Batching::Window { .. }), "only a window waits");
                assert!(at > self.now);
            }
        }
    }

    fn leave(&mut self, taken: &Taken<usize>) -> Known {
        let known = self.queued.remove(&taken.job).expect("it waited, and has not left before");
        assert_eq!((taken.tokens, taken.ticket), (known.tokens, self.tickets[&taken.job]));
        known
    }

    fn begins(&mut self, worker: usize, batch: Batch<usize>) {
        let known: Vec<Known> = batch.items.iter().map(|item| self.leave(item)).collect();
        self.running[worker] = Some((batch.id, known.len()));
        assert_eq!(batch.tokens, known.iter().map(|job| u64::from(job.tokens)).sum::<u64>());
        assert!(!known.is_empty());
        if known.iter().any(|job| job.alone) {
            assert!(known.iter().all(|job| job.tenant == known[0].tenant), "{known:?}");
        }
        if self.settings.batching != Batching::CostModel {
            return;
        }
        assert!(known.len() <= self.settings.batch_items_max);
        assert!(known.len() == 1 || batch.tokens <= u64::from(self.settings.batch_tokens_max));
        for job in known.iter().filter(|job| job.batch) {
            let waits = self.queued.values().find(|other| other.tenant == job.tenant && !other.batch);
            assert!(waits.is_none(), "{job:?} before {waits:?}");
        }
    }

    fn check(&self, state: &State) {
        let tokens: u64 = self.queued.values().map(|job| u64::from(job.tokens)).sum();
        assert_eq!((state.depth, state.queued_tokens), (self.queued.len(), tokens));
        let running: usize = self.running.iter().flatten().map(|(_, items)| items).sum();
        assert_eq!(state.in_flight, running);
        assert!(state.depth <= self.settings.queue_items_max && tokens <= self.settings.queue_tokens_max);
        assert!(state.tenants_known <= self.settings.tenants_max);
        assert!((0.0..=1.0).contains(&state.goal_attainment));
        assert!(state.drain_rate.is_finite() && state.drain_rate > 0.0);
        if self.settings.batching != Batching::CostModel {
            return;
        }
        for tenant in 0..TENANTS {
            let own: Vec<&Known> = self.queued.values().filter(|job| job.tenant == tenant).collect();
            let tokens: u64 = own.iter().map(|job| u64::from(job.tokens)).sum();
            assert!(own.len() <= self.settings.tenant_items_max && tokens <= self.settings.tenant_tokens_max);
        }
    }

    /// Every worker asks until nothing is left.
    fn drain(&mut self) {
        for _ in 0..200 {
            self.now = self.now.plus(Duration::from_secs(1));
            self.next(0);
        }
        assert!(self.queued.is_empty(), "{} are left", self.queued.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_job_ends_exactly_once_and_no_limit_is_passed(
        batching in batching(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(batching);
        for step in steps {
            world.step(step);
        }
        world.drain();
    }
}
