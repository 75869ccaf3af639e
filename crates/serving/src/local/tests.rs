//! The pool with an engine that tests hold in their hands: order, shares, refusals, lost workers, callers that leave.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::*;

/// Echoes a text's length. A text may ask it to do otherwise.
struct Echo {
    gate: Arc<Gate>,
}

/// How tests hold an engine, and see what it is doing.
struct Gate {
    /// A text "wait" waits here.
    opened: Mutex<Receiver<()>>,
    /// Told when one waits.
    waiting: SyncSender<()>,
    panics_left: AtomicUsize,
    runs: Mutex<Vec<Vec<String>>>,
}

impl Engine for Echo {
    fn run(&mut self, works: &[&Work]) -> Result<(Vec<Output>, Duration), EngineFailed> {
        let cpu = tollgate_types::clock::CpuStopwatch::start();
        let texts: Vec<String> = works.iter().map(|work| text(work).to_owned()).collect();
        self.gate.runs.lock().expect("whole").push(texts.clone());
        let mut outputs = Vec::new();
        for text in texts {
            match &*text {
                "wait" => {
                    let _ = self.gate.waiting.send(());
                    let _ = self.gate.opened.lock().expect("whole").recv();
                }
                "panic" if self.gate.panics_left.load(Ordering::SeqCst) > 0 => {
                    self.gate.panics_left.fetch_sub(1, Ordering::SeqCst);
                    panic!("as the test asked for");
                }
                "fail" => return Err(EngineFailed("as the test asked for".into())),
                _ => {}
            }
            outputs.push(Output::Vector(vec![text.len() as f32]));
        }
        Ok((outputs, cpu.elapsed()))
    }
}

fn text(work: &Work) -> &str {
    match work {
        Work::Text { text, .. } => text,
        Work::Tokens(_) => unreachable!("the tests send texts"),
    }
}

struct House {
    pool: Pool,
    gate: Arc<Gate>,
    open: SyncSender<()>,
    waits: Receiver<()>,
}

fn house(instances: usize, stall: Duration) -> House {
    let (open, opened) = sync_channel(8);
    let (waiting, waits) = sync_channel(8);
    let (panics_left, runs) = (AtomicUsize::new(1), Mutex::default());
    let gate = Arc::new(Gate { opened: Mutex::new(opened), waiting, panics_left, runs });
    let layout = Layout {
        name: "test".into(),
        instances,
        batching: Batching::CostModel,
        batch_tokens_max: 100,
        queue_tokens_max: 1_000,
        queue_items_max: 100,
        tenant_tokens_max: 500,
        tenant_items_max: 50,
        stall,
    };
    let made = Arc::clone(&gate);
    let maker: Maker = Box::new(move || Box::new(Echo { gate: Arc::clone(&made) }));
    let warming = vec![item("a"), item("bb")];
    let pool = Pool::start(layout, Clock::System, maker, warming).expect("it starts");
    House { pool, gate, open, waits }
}

fn item(text: &str) -> Item {
    Item { tokens: 10, work: Work::Text { text: text.into(), head: None } }
}

fn question(tenant: &str, texts: &[&str]) -> Question {
    Question {
        tenant: tenant.parse().expect("a slug"),
        weight: 1,
        priority: Priority::Interactive,
        goal: Duration::from_secs(60),
        deadline: None,
        alone: false,
        items: texts.iter().map(|text| item(text)).collect(),
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn lengths(answers: &[Answer]) -> Vec<f32> {
    answers
        .iter()
        .map(|answer| match &answer.output {
            Output::Vector(numbers) => numbers[0],
            Output::Probabilities(_) => unreachable!("the echo makes vectors"),
        })
        .collect()
}

const NEVER: Duration = Duration::from_secs(3_600);

#[test]
fn answers_come_in_the_order_of_the_items_and_their_shares_of_the_cpu_time_add_up() {
    let house = house(2, NEVER);
    let pending = house.pool.ask(question("a", &["a", "bb", "ccc"])).expect("there is room");
    let answers = wait(pending.answers()).expect("all are answered");
    assert_eq!(lengths(&answers), [1.0, 2.0, 3.0]);
    let billed: u128 = answers.iter().map(|answer| answer.cpu.as_micros()).sum();
    let worked = house.pool.done().cpu_us.load(Ordering::SeqCst);
    assert_eq!(billed, u128::from(worked), "not a microsecond is lost, and none is billed twice");
    assert_eq!(house.pool.done().items.load(Ordering::SeqCst), 3);
    assert!(house.pool.warmth.ready >= house.pool.warmth.first);
}

#[test]
fn all_of_a_question_is_taken_or_none() {
    let house = house(1, NEVER);
    let first = house.pool.ask(question("a", &["wait"])).expect("there is room");
    house.waits.recv().expect("it is begun");
    let turned = house.pool.ask(question("a", &["x"; 60])).expect_err("a tenant may have fifty waiting");
    assert_eq!(turned, Turned { why: Why::TooLarge, retry_after: None }, "it never can be");
    let waiting = house.pool.ask(question("a", &["x"; 40])).expect("there is room");
    let turned = house.pool.ask(question("a", &["x"; 20])).expect_err("of these twenty ten might come in");
    assert_eq!(turned.why, Why::TenantFull);
    assert!(turned.retry_after.is_some());
    drop(waiting);
    assert_eq!(house.pool.state().depth, 0, "nothing of it stayed");
    assert!(house.pool.would_take(&question("b", &[]), 10, 1).is_ok(), "others are not concerned");
    house.open.send(()).expect("it waits");
    assert_eq!(lengths(&wait(first.answers()).expect("answered")), [4.0]);
}

#[test]
fn what_waits_when_its_caller_leaves_is_never_worked_on_and_what_runs_is_measured() {
    let house = house(1, NEVER);
    let running = house.pool.ask(question("a", &["wait"])).expect("there is room");
    house.waits.recv().expect("it is begun");
    let waiting = house.pool.ask(question("a", &["left"])).expect("there is room");
    drop(waiting);
    assert_eq!(house.pool.state().depth, 0);
    house.open.send(()).expect("it waits");
    assert_eq!(lengths(&wait(running.given_up())), [4.0], "it was being worked on: it is done, and can be billed");
    let runs = house.gate.runs.lock().expect("whole");
    assert!(!runs.iter().flatten().any(|text| text == "left"), "{runs:?}");
}

#[test]
fn an_engine_that_panics_is_made_anew_and_its_work_is_done_once_more() {
    let house = house(1, NEVER);
    let pending = house.pool.ask(question("a", &["panic", "b"])).expect("there is room");
    let answers = wait(pending.answers()).expect("the second time it works");
    assert_eq!(lengths(&answers), [5.0, 1.0]);
    assert_eq!(house.pool.lost(), 1);
    let billed: u128 = answers.iter().map(|answer| answer.cpu.as_micros()).sum();
    let worked = u128::from(house.pool.done().cpu_us.load(Ordering::SeqCst));
    assert!(billed <= worked, "the run that was lost is nobody's to pay");
}

#[test]
fn one_text_that_an_engine_fails_at_does_not_fail_those_beside_it() {
    let house = house(1, NEVER);
    let first = house.pool.ask(question("a", &["wait"])).expect("there is room");
    house.waits.recv().expect("it is begun");
    let guilty = house.pool.ask(question("a", &["fail"])).expect("there is room");
    let beside = house.pool.ask(question("b", &["fine"])).expect("there is room");
    house.open.send(()).expect("it waits");
    assert_eq!(lengths(&wait(first.answers()).expect("answered")), [4.0]);
    assert!(matches!(wait(guilty.answers()), Err(Failure::Engine(_))));
    assert_eq!(lengths(&wait(beside.answers()).expect("it is innocent")), [4.0]);
    let runs = house.gate.runs.lock().expect("whole");
    assert!(runs.iter().any(|batch| batch.len() == 2), "they were in one batch: {runs:?}");
}

#[test]
fn work_whose_worker_is_lost_twice_ends_with_an_error_and_the_pool_goes_on() {
    let house = house(1, NEVER);
    house.gate.panics_left.store(2, Ordering::SeqCst);
    let pending = house.pool.ask(question("a", &["panic"])).expect("there is room");
    assert_eq!(wait(pending.answers()), Err(Failure::WorkerLost));
    let pending = house.pool.ask(question("a", &["fail"])).expect("there is room");
    assert!(matches!(wait(pending.answers()), Err(Failure::Engine(_))));
    let pending = house.pool.ask(question("a", &["fine"])).expect("there is room");
    assert_eq!(lengths(&wait(pending.answers()).expect("it goes on")), [4.0]);
}

#[test]
fn the_work_of_a_worker_that_stands_still_is_done_by_another_and_counts_once() {
    let house = house(1, Duration::from_millis(50));
    let pending = house.pool.ask(question("a", &["wait"])).expect("there is room");
    house.waits.recv().expect("it is begun");
    // Its replacement is given the same work, and waits, too: it is let go, the first is not.
    house.waits.recv().expect("another has begun the same");
    house.open.send(()).expect("one of them goes on");
    house.open.send(()).expect("and so does the other");
    let answers = wait(pending.answers()).expect("answered");
    assert_eq!(lengths(&answers), [4.0]);
    assert_eq!(house.pool.lost(), 1);
    let pending = house.pool.ask(question("a", &["fine"])).expect("there is room");
    assert_eq!(lengths(&wait(pending.answers()).expect("it goes on")), [4.0]);
}

#[test]
fn what_cannot_be_done_before_its_deadline_is_refused_at_once() {
    let house = house(1, NEVER);
    let passed = Clock::System.steady();
    let question = Question { deadline: Some(passed), ..question("a", &["x"]) };
    let turned = house.pool.ask(question).expect_err("it is too late");
    assert_eq!(turned.why, Why::TooLate);
}
