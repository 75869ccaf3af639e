//! Short seeded runs of what `examples/batching.rs` shows at length: the cost model against the other rules, and what a noisy
//! neighbour, a spike and a stalled worker do to the rest.

use std::time::Duration;

use tollgate_serving::schedule::{Batching, Judged};

use super::simulated::{F32, INT8, Run, Runtime, Seen, Shape, Stall};

const SEEDS: [u64; 3] = [11, 12, 13];

const OTHERS: [Batching; 5] = [
    Batching::Window { delay: Duration::ZERO, items: 1 },
    Batching::Window { delay: Duration::from_millis(5), items: 32 },
    Batching::Window { delay: Duration::from_millis(20), items: 32 },
    Batching::Aimd { items_max: 64, judged: Judged::Batch },
    Batching::Greedy { tokens: 16_384, requests_max: 512 },
];

fn at(runtime: Runtime, load: f64, shape: Shape, batching: Batching) -> Seen {
    let mut run = Run::new(SEEDS[0], runtime, load);
    run.seconds = 12.0;
    run.settings.batching = batching;
    for flow in &mut run.flows {
        flow.shape = shape;
    }
    Seen::together(&run.go())
}

/// The share within the goal under the cost model, and under the best of the others.
fn against_the_best(runtime: Runtime, load: f64, shape: Shape) -> (f64, f64) {
    let own = at(runtime, load, shape, Batching::CostModel).good_share();
    let others = OTHERS.map(|batching| at(runtime, load, shape, batching).good_share());
    (own, others.into_iter().fold(0.0, f64::max))
}

#[test]
fn at_and_above_the_capacity_more_requests_meet_the_goal_than_under_any_other_rule() {
    for runtime in [F32, INT8] {
        for load in [0.95, 1.3, 2.0] {
            let (own, best) = against_the_best(runtime, load, Shape::Steady);
            assert!(own > 1.05 * best, "{} at {load}: {own} against {best}", runtime.name);
        }
    }
}

#[test]
fn below_the_capacity_it_loses_to_no_other_rule_by_more_than_a_twentieth() {
    for runtime in [F32, INT8] {
        for load in [0.3, 0.6, 0.8] {
            let (own, best) = against_the_best(runtime, load, Shape::Steady);
            assert!(own > 0.98 * best, "{} at {load}: {own} against {best}", runtime.name);
        }
    }
}

#[test]
fn under_bursts_more_requests_meet_the_goal_than_under_any_other_rule() {
    for runtime in [F32, INT8] {
        let (own, best) = against_the_best(runtime, 0.5, Shape::Bursts(3.0));
        assert!(own > 1.1 * best, "{}: {own} against {best}", runtime.name);
    }
}

#[test]
fn whatever_the_load_who_is_admitted_is_done_within_the_goal_in_97_of_100_cases() {
    for runtime in [F32, INT8] {
        for load in [0.6, 0.95, 1.3, 2.0, 10.0] {
            let seen = at(runtime, load, Shape::Steady, Batching::CostModel);
            let kept = seen.good_share() / (1.0 - seen.refused_share());
            assert!(kept > 0.97, "{} at {load}: {kept}", runtime.name);
        }
    }
}

/// p99 of three tenants at 15 % of the capacity each, and the share of theirs within the goal, while a fourth has so many
/// times that.
fn beside(runtime: Runtime, workers: usize, times: f64, change: impl Fn(&mut Run)) -> (f64, f64) {
    let others = SEEDS.map(|seed| {
        let mut run = Run::new(seed, runtime, 0.6);
        run.seconds = 22.0;
        run.settings.workers = workers;
        for flow in &mut run.flows {
            flow.rate = 0.15 * runtime.capacity(workers);
        }
        // It begins while the others are counted: the moment in which it is not yet known is part of it.
        run.flows[3].shape = Shape::Between(times, 3.0, f64::INFINITY);
        change(&mut run);
        Seen::together(&run.go()[..3])
    });
    let seen = Seen::pooled(&others);
    (seen.quantile_ms(0.99), seen.good_share())
}

#[test]
fn a_tenant_at_50_times_its_share_moves_the_p99_of_the_others_by_less_than_a_tenth() {
    for runtime in [F32, INT8] {
        for workers in [2, 1] {
            let (before, good_before) = beside(runtime, workers, 1.0, |_| {});
            let (after, good_after) = beside(runtime, workers, 50.0, |_| {});
            let name = runtime.name;
            assert!(after < 1.1 * before, "{name}, {workers} workers: from {before} ms to {after} ms");
            assert!(good_after > good_before - 0.015, "{name}, {workers} workers: from {good_before} to {good_after}");
        }
    }
}

#[test]
fn without_the_limit_on_its_batches_it_would_move_it_by_a_quarter_at_least() {
    let (before, _) = beside(INT8, 2, 1.0, |_| {});
    let (after, _) = beside(INT8, 2, 50.0, |run| run.settings.crowd_share = 1.0);
    assert!(after > 1.25 * before, "from {before} ms to {after} ms");
}

#[test]
fn a_stalled_worker_costs_its_own_batch_and_little_else() {
    let mut run = Run::new(SEEDS[0], INT8, 0.4);
    run.stall = Some(Stall { worker: 0, at: 6.0, seconds: 2.0 });
    let seen = Seen::together(&run.go());
    assert!(seen.good_share() > 0.98, "{}", seen.good_share());
    assert!(seen.latencies.last().is_some_and(|us| *us > 1_900_000), "somebody was in the batch that stood still");
}

#[test]
fn a_spike_to_five_times_the_load_is_refused_not_served_late() {
    let mut run = Run::new(SEEDS[0], F32, 0.6);
    for flow in &mut run.flows {
        flow.shape = Shape::Between(5.0, 6.0, 8.0);
    }
    let seen = Seen::together(&run.go());
    assert!(seen.quantile_ms(0.99) < 105.0, "{}", seen.quantile_ms(0.99));
    assert!(seen.refused_share() > 0.1, "{}", seen.refused_share());
}

#[test]
fn who_comes_back_when_told_is_mostly_taken() {
    let mut run = Run::new(SEEDS[0], F32, 1.3);
    run.retries = 3;
    let seen = Seen::together(&run.go());
    let taken = seen.first_retries_taken as f64 / seen.first_retries as f64;
    assert!(seen.first_retries > 100 && taken > 0.5, "{taken} of {}", seen.first_retries);
}

#[test]
fn a_run_repeats_to_the_microsecond() {
    let seen = || Seen::together(&Run { seconds: 4.0, ..Run::new(SEEDS[0], F32, 1.3) }.go()).latencies;
    assert_eq!(seen(), seen());
}
