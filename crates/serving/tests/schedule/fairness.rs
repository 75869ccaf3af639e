//! Who is given how much: tenants that always have work, one worker, batches that cost exactly what is predicted.

use std::time::Duration;

use tollgate_serving::schedule::{Cost, Finished, Offer, Priority, Scheduler, Settings, Turn, Why};
use tollgate_types::{TenantId, Timestamp};

const COST: Cost = Cost { base: Duration::from_millis(1), per_token: Duration::from_micros(100) };
/// A batch of 320 tokens.
const BATCH_US: f64 = 33_000.0;
const CREDIT_US: f64 = 250_000.0;

/// A tenant that always has jobs of one size waiting.
struct Greedy {
    weight: u32,
    tokens: u32,
    from: i64,
    served_us: f64,
    waiting: u32,
}

struct World {
    scheduler: Scheduler<usize>,
    tenants: Vec<Greedy>,
    now: Timestamp,
    /// Largest difference of service by weight between the first two since both were there.
    apart_us: f64,
}

impl World {
    fn new(tenants: &[(u32, u32, i64)]) -> Self {
        let settings = Settings { workers: 1, cost: COST, ..Settings::default() };
        let tenants = tenants
            .iter()
            .map(|&(weight, tokens, from)| Greedy { weight, tokens, from, served_us: 0.0, waiting: 0 })
            .collect();
        Self { scheduler: Scheduler::new(settings), tenants, now: Timestamp(0), apart_us: 0.0 }
    }

    fn run(&mut self, seconds: i64) {
        let mut base = (0.0, 0.0);
        while self.now.0 < seconds * 1_000_000 {
            self.fill();
            let Turn::Batch(batch) = self.scheduler.next(self.now, 0).turn else {
                panic!("there is always work");
            };
            for item in &batch.items {
                let tenant = &mut self.tenants[item.job];
                tenant.waiting -= 1;
                tenant.served_us += batch.predicted.as_secs_f64() * 1e6 * f64::from(item.tokens) / batch.tokens as f64;
            }
            self.now = self.now.plus(batch.predicted);
            self.scheduler.done(self.now, Finished { worker: 0, batch: batch.id, took: batch.predicted });
            let served = |index: usize| self.tenants[index].served_us / f64::from(self.tenants[index].weight);
            if self.now.0 < self.tenants[1].from {
                base = (served(0), served(1));
            }
            let apart = (served(0) - base.0) - (served(1) - base.1);
            self.apart_us = self.apart_us.max(apart.abs());
        }
    }

    fn fill(&mut self) {
        for index in 0..self.tenants.len() {
            while self.tenants[index].waiting < 50 && self.now.0 >= self.tenants[index].from {
                let Greedy { weight, tokens, .. } = self.tenants[index];
                let goal = Duration::from_secs(3_600);
                self.scheduler.offer(self.now, offer(index, weight, tokens, goal), index).expect("there is room");
                self.tenants[index].waiting += 1;
            }
        }
    }
}

fn name(index: usize) -> TenantId {
    format!("t{index}").parse().expect("it is an id")
}

fn offer(tenant: usize, weight: u32, tokens: u32, goal: Duration) -> Offer {
    let (tenant, priority) = (name(tenant), Priority::Interactive);
    Offer { tenant, weight, priority, tokens, goal, deadline: None, alone: false }
}

// Sheng et al. (OSDI 2024), theorem 4.4: between two that always have work, the service differs by no more than twice what is
// given at a time. That is a batch here; and the credit, once, to who comes later.

#[test]
fn two_tenants_that_always_have_work_are_never_further_apart_than_two_batches() {
    for sizes in [(20, 20), (5, 200), (300, 7), (320, 320)] {
        let mut world = World::new(&[(1, sizes.0, 0), (1, sizes.1, 0)]);
        world.run(60);
        assert!(world.apart_us <= 2.0 * BATCH_US, "{sizes:?}: {} us", world.apart_us);
    }
}

#[test]
fn who_comes_later_is_given_its_credit_once_and_nothing_for_the_time_before() {
    let mut world = World::new(&[(1, 20, 0), (1, 20, 10_000_000)]);
    world.run(60);
    assert!(world.apart_us <= CREDIT_US + 2.0 * BATCH_US, "{} us", world.apart_us);
    assert!(world.apart_us >= 0.5 * CREDIT_US, "the credit is given: {} us", world.apart_us);
}

#[test]
fn weights_are_kept_within_a_tenth() {
    let mut world = World::new(&[(1, 20, 0), (2, 40, 0), (5, 10, 0)]);
    world.run(60);
    let by_weight: Vec<f64> = world.tenants.iter().map(|tenant| tenant.served_us / f64::from(tenant.weight)).collect();
    let mean = by_weight.iter().sum::<f64>() / 3.0;
    assert!(by_weight.iter().all(|served| (served / mean - 1.0).abs() < 0.1), "{by_weight:?}");
}

#[test]
fn a_tenant_within_its_share_is_not_refused_for_the_queue_of_another() {
    let mut scheduler = Scheduler::new(Settings { workers: 1, cost: COST, ..Settings::default() });
    let goal = Duration::from_millis(100);
    let mut refused = 0;
    for _ in 0..1_000 {
        refused += usize::from(scheduler.offer(Timestamp(0), offer(0, 1, 20, goal), 0).is_err());
    }
    assert!(refused > 900, "the flood fills its own queue: {refused}");
    for other in 1..4 {
        assert!(scheduler.offer(Timestamp(0), offer(other, 1, 20, goal), other).is_ok(), "tenant {other}");
    }
}

#[test]
fn a_flood_of_long_goals_leaves_room_in_the_queue_for_who_comes_next() {
    let settings = Settings { queue_items_max: 64, tenant_items_max: 64, cost: COST, ..Settings::default() };
    let mut scheduler = Scheduler::new(settings);
    let goal = Duration::from_secs(3_600);
    let last = (0..100).map(|_| scheduler.offer(Timestamp(0), offer(0, 1, 20, goal), 0)).last();
    assert_eq!(last.and_then(Result::err).map(|refused| refused.why), Some(Why::TenantFull));
    assert!(scheduler.offer(Timestamp(0), offer(1, 1, 20, goal), 1).is_ok());
}

#[test]
fn a_hundred_thousand_tenants_come_and_go_and_are_forgotten() {
    let mut scheduler = Scheduler::new(Settings { cost: COST, ..Settings::default() });
    let (mut now, mut most) = (Timestamp(0), 0);
    for index in 0..100_000 {
        now = now.plus(Duration::from_millis(4));
        scheduler.offer(now, offer(index, 1, 20, Duration::from_millis(100)), index).expect("there is room");
        let Turn::Batch(batch) = scheduler.next(now, 0).turn else { panic!("there is work") };
        let took = Duration::from_millis(3);
        scheduler.done(now.plus(took), Finished { worker: 0, batch: batch.id, took });
        most = if index % 100 == 0 { most.max(scheduler.state(now).tenants_known) } else { most };
    }
    // One comes every 4 ms and is remembered for 2 s, and as long as it takes until that is looked at.
    assert!((400..=1_200).contains(&most), "{most}");
    assert!(scheduler.state(now).tenants_known >= 100, "those of the last two seconds are remembered");
    now = now.plus(Duration::from_secs(60));
    scheduler.next(now, 0);
    now = now.plus(Duration::from_secs(60));
    scheduler.next(now, 0);
    assert_eq!(scheduler.state(now).tenants_known, 0);
}
