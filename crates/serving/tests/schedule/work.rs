//! One job at a time: who goes with whom, who is dropped, refused, cancelled or lost, and what the state tells of it.

use std::time::Duration;

use tollgate_serving::schedule::{
    Batch, Batching, Cost, Finished, Judged, Next, Offer, Priority, Refused, Scheduler, Settings, Ticket, Turn, Why,
};
use tollgate_types::Timestamp;

const MS: i64 = 1_000;

/// One worker; a batch takes 1 ms and 0.1 ms a token.
fn scheduler(batching: Batching) -> Scheduler<&'static str> {
    let cost = Cost { base: Duration::from_millis(1), per_token: Duration::from_micros(100) };
    Scheduler::new(Settings { workers: 1, batching, cost, ..Settings::default() })
}

fn fair() -> Scheduler<&'static str> {
    scheduler(Batching::CostModel)
}

fn of(tenant: &str, tokens: u32) -> Offer {
    Offer {
        tenant: tenant.parse().expect("it is an id"),
        weight: 1,
        priority: Priority::Interactive,
        tokens,
        goal: Duration::from_millis(100),
        deadline: None,
        alone: false,
    }
}

fn put(scheduler: &mut Scheduler<&'static str>, at: i64, offer: Offer, job: &'static str) -> Ticket {
    scheduler.offer(Timestamp(at), offer, job).expect("it is taken")
}

fn refused(scheduler: &mut Scheduler<&'static str>, at: i64, offer: Offer) -> Refused<&'static str> {
    scheduler.offer(Timestamp(at), offer, "refused").expect_err("it is not taken")
}

fn batch(scheduler: &mut Scheduler<&'static str>, at: i64) -> Batch<&'static str> {
    match scheduler.next(Timestamp(at), 0).turn {
        Turn::Batch(batch) => batch,
        other => panic!("no batch but {other:?}"),
    }
}

fn jobs(batch: &Batch<&'static str>) -> Vec<&'static str> {
    batch.items.iter().map(|item| item.job).collect()
}

#[test]
fn a_free_worker_takes_what_is_there_without_waiting_for_more() {
    let mut scheduler = fair();
    put(&mut scheduler, 0, of("a", 20), "first");
    let batch = batch(&mut scheduler, 0);
    assert_eq!((jobs(&batch), batch.tokens, batch.predicted), (vec!["first"], 20, Duration::from_millis(3)));
}

#[test]
fn a_batch_ends_where_its_oldest_job_would_miss_its_goal() {
    let mut scheduler = scheduler(Batching::CostModel);
    let patient = |offer: Offer| Offer { goal: Duration::from_secs(10), ..offer };
    put(&mut scheduler, 0, Offer { goal: Duration::from_millis(30), ..of("a", 10) }, "strict");
    for _ in 0..30 {
        put(&mut scheduler, 0, patient(of("a", 10)), "patient");
    }
    // At 15 ms, 0.9 * 30 - 15 - 1 ms are left: 110 tokens.
    assert_eq!(batch(&mut scheduler, 15 * MS).tokens, 110);
    // The rest has time: all of it fits.
    assert_eq!(batch(&mut scheduler, 30 * MS).tokens, 200);
}

#[test]
fn a_job_that_is_late_already_does_not_make_the_batch_small() {
    let mut scheduler = fair();
    put(&mut scheduler, 0, of("a", 10), "late");
    for _ in 0..5 {
        put(&mut scheduler, 0, Offer { goal: Duration::from_secs(10), ..of("a", 10) }, "patient");
    }
    assert_eq!(batch(&mut scheduler, 200 * MS).tokens, 60);
}

#[test]
fn an_interactive_job_goes_before_a_batch_job_of_its_tenant_and_then_the_earliest_goal() {
    let mut scheduler = fair();
    let goal = |ms, priority| Offer { goal: Duration::from_millis(ms), priority, ..of("a", 5) };
    put(&mut scheduler, 0, goal(2_000, Priority::Batch), "batch");
    put(&mut scheduler, 0, goal(5_000, Priority::Interactive), "later");
    put(&mut scheduler, 0, goal(3_000, Priority::Interactive), "sooner");
    put(&mut scheduler, 0, goal(3_000, Priority::Interactive), "sooner, came after");
    assert_eq!(jobs(&batch(&mut scheduler, 0)), ["sooner", "sooner, came after", "later", "batch"]);
}

#[test]
fn who_may_not_share_shares_with_its_own_tenant_only() {
    for batching in [Batching::CostModel, Batching::Greedy { tokens: 1_000, requests_max: 100 }] {
        let mut scheduler = scheduler(batching);
        put(&mut scheduler, 0, Offer { alone: true, ..of("a", 5) }, "a");
        put(&mut scheduler, 0, of("a", 5), "a too");
        put(&mut scheduler, 0, of("b", 5), "b");
        put(&mut scheduler, 0, Offer { alone: true, ..of("c", 5) }, "c");
        let all: Vec<_> = (1..=3).map(|at| jobs(&batch(&mut scheduler, at))).collect();
        assert_eq!(all, [vec!["a", "a too"], vec!["b"], vec!["c"]], "{batching:?}");
    }
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_once_and_one_that_no_longer_can_is_dropped() {
    let mut scheduler = fair();
    let by = |ms: i64| Offer { deadline: Some(Timestamp(ms * MS)), ..of("a", 100) };
    let never = refused(&mut scheduler, 0, by(5));
    assert_eq!((never.why, never.retry_after), (Why::TooLate, None));
    put(&mut scheduler, 0, by(20), "in time, were somebody free");
    let behind = refused(&mut scheduler, 0, by(15));
    assert_eq!(behind.why, Why::TooLate);
    assert!(behind.retry_after.is_some(), "on an idle worker it would be done in time");
    let Next { dropped, turn } = scheduler.next(Timestamp(12 * MS), 0);
    assert_eq!(dropped.iter().map(|job| job.job).collect::<Vec<_>>(), ["in time, were somebody free"]);
    assert!(matches!(turn, Turn::Idle));
    assert_eq!(scheduler.state(Timestamp(12 * MS)).goal_attainment, 0.0);
}

#[test]
fn a_job_whose_deadline_passes_far_back_in_the_queue_is_answered_all_the_same() {
    let mut scheduler = fair();
    let patient = |offer: Offer| Offer { goal: Duration::from_secs(10), ..offer };
    for _ in 0..10 {
        put(&mut scheduler, 0, patient(of("a", 300)), "before");
    }
    let late = Offer { goal: Duration::from_secs(20), deadline: Some(Timestamp(900 * MS)), ..of("a", 300) };
    put(&mut scheduler, 0, late, "late");
    let next = scheduler.next(Timestamp(901 * MS), 0);
    assert_eq!(next.dropped.iter().map(|job| job.job).collect::<Vec<_>>(), ["late"]);
    assert!(matches!(next.turn, Turn::Batch(batch) if jobs(&batch) == ["before"]));
}

#[test]
fn a_cancelled_job_is_given_back_and_one_that_runs_is_not() {
    let mut scheduler = fair();
    let runs = put(&mut scheduler, 0, of("a", 5), "runs");
    batch(&mut scheduler, 0);
    let waits = put(&mut scheduler, 0, of("a", 5), "waits");
    assert_eq!(scheduler.cancel(Timestamp(0), runs), None);
    assert_eq!(scheduler.cancel(Timestamp(0), waits), Some("waits"));
    assert_eq!(scheduler.cancel(Timestamp(0), waits), None);
    assert_eq!(scheduler.state(Timestamp(0)).queued_tokens, 0);
}

#[test]
fn a_lost_batch_is_no_longer_in_flight_and_its_end_is_ignored() {
    let mut scheduler = fair();
    put(&mut scheduler, 0, of("a", 5), "lost");
    let lost = batch(&mut scheduler, 0);
    let before = scheduler.state(Timestamp(0)).workers[0].cost;
    scheduler.lost(Timestamp(1_000 * MS), 0);
    let took = Duration::from_secs(1);
    scheduler.done(Timestamp(1_000 * MS), Finished { worker: 0, batch: lost.id, took });
    let state = scheduler.state(Timestamp(1_000 * MS));
    assert_eq!((state.in_flight, state.workers_busy, state.workers[0].cost), (0, 0, before));
}

#[test]
fn what_is_overloaded_is_refused_and_told_to_come_back_later_the_longer_the_queue() {
    let mut scheduler = fair();
    let mut told = Vec::new();
    for _ in 0..60 {
        if let Err(refused) = scheduler.offer(Timestamp(0), of("a", 20), "job") {
            assert_eq!(refused.why, Why::Overloaded);
            told.push(refused.retry_after.expect("it could be admitted later"));
        }
    }
    assert!(told.len() > 20, "{}", told.len());
    let (first, last) = (told[0], told[told.len() - 1]);
    // Each that was told to come back takes 2 to 3 ms of the worker: the last one comes after all the others.
    assert!(last > 10 * first && last > Duration::from_millis(60) && last < Duration::from_millis(400), "{told:?}");
}

#[test]
fn a_long_job_that_cannot_meet_its_goal_is_taken_where_nothing_is_waiting() {
    let mut scheduler = fair();
    put(&mut scheduler, 0, of("a", 3_000), "0.3 s of work for a goal of 0.1 s");
    assert_eq!(batch(&mut scheduler, 0).tokens, 3_000);
    assert_eq!(refused(&mut scheduler, 0, of("a", 3_000)).why, Why::Overloaded);
    assert_eq!(refused(&mut scheduler, 0, of("a", 1_000_000)).why, Why::TooLarge);
}

#[test]
fn the_state_tells_what_waits_runs_and_was_done() {
    let mut scheduler = fair();
    put(&mut scheduler, 0, of("a", 20), "runs");
    let first = batch(&mut scheduler, 0);
    put(&mut scheduler, MS, of("a", 100), "waits");
    put(&mut scheduler, 2 * MS, of("b", 100), "waits");
    let state = scheduler.state(Timestamp(3 * MS));
    assert_eq!((state.depth, state.queued_tokens, state.in_flight, state.workers_busy), (2, 200, 1, 1));
    assert_eq!((state.oldest_age, state.tenants_waiting), (Duration::from_millis(2), 2));
    assert!((19..=22).contains(&state.queued_work.as_millis()), "{:?}", state.queued_work);
    scheduler.done(Timestamp(3 * MS), Finished { worker: 0, batch: first.id, took: Duration::from_millis(3) });
    let second = batch(&mut scheduler, 3 * MS);
    let took = Duration::from_millis(150);
    scheduler.done(Timestamp(153 * MS), Finished { worker: 0, batch: second.id, took });
    let state = scheduler.state(Timestamp(153 * MS));
    assert_eq!((state.depth, state.in_flight, state.workers_busy, state.oldest_age), (0, 0, 0, Duration::ZERO));
    assert!((state.goal_attainment - 1.0 / 3.0).abs() < 1e-9, "one of three: {}", state.goal_attainment);
    assert!(state.effective_window > Duration::ZERO);
    assert_eq!(state.workers[0].residual_p99, Duration::from_millis(150 - 21));
    assert_eq!(scheduler.state(Timestamp(20_000 * MS)).goal_attainment, 1.0, "after ten seconds it is forgotten");
}

#[test]
fn a_window_waits_until_it_is_full_or_over() {
    let mut scheduler = scheduler(Batching::Window { delay: Duration::from_millis(5), items: 3 });
    put(&mut scheduler, 0, of("a", 5), "1");
    assert!(matches!(scheduler.next(Timestamp(MS), 0).turn, Turn::WaitUntil(Timestamp(5_000))));
    assert_eq!(jobs(&batch(&mut scheduler, 5 * MS)), ["1"]);
    for job in ["2", "3", "4", "5"] {
        put(&mut scheduler, 6 * MS, of("b", 5), job);
    }
    assert_eq!(jobs(&batch(&mut scheduler, 6 * MS)), ["2", "3", "4"]);
}

#[test]
fn clippers_rule_grows_by_one_and_falls_by_a_tenth() {
    let mut scheduler = scheduler(Batching::Aimd { items_max: 64, judged: Judged::Batch });
    for _ in 0..1_000 {
        put(&mut scheduler, 0, of("a", 5), "job");
    }
    let mut sizes = Vec::new();
    for round in 0..24 {
        let batch = batch(&mut scheduler, round);
        sizes.push(batch.items.len());
        // 20 are the most that meet the goal.
        let took = Duration::from_millis(if batch.items.len() > 20 { 101 } else { 50 });
        scheduler.done(Timestamp(round), Finished { worker: 0, batch: batch.id, took });
    }
    assert_eq!(sizes[..5], [1, 2, 3, 4, 5]);
    assert_eq!(sizes[19..], [20, 21, 18, 19, 20]);
}

#[test]
fn greedy_packing_takes_what_its_budget_holds_and_no_more_requests_than_its_cap() {
    let mut scheduler = scheduler(Batching::Greedy { tokens: 50, requests_max: 4 });
    for job in ["1", "2", "3", "4"] {
        put(&mut scheduler, 0, of("a", 20), job);
    }
    assert_eq!(refused(&mut scheduler, 0, of("a", 20)).why, Why::QueueFull);
    assert_eq!(jobs(&batch(&mut scheduler, 0)), ["1", "2"]);
    assert_eq!(refused(&mut scheduler, 0, of("a", 20)).why, Why::QueueFull, "what runs counts, too");
}
