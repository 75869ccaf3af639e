//! Gateways that hand the work of runtimes to workers, as processes of their own: what is handed, what it costs, and what
//! becomes of it when a worker is killed, stands still, is given another model, or is not the right one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use tollgate_client::UsageEvent;

use crate::local::classifier;
use crate::program::{BINARY, Place, Program, run, surroundings};
use crate::world::{Answer, all_events, bearer, eventually, simulator};

const WORKER_KEY: &str = "a-secret-of-the-house";

/// Workers, and a gateway over them.
struct Fleet {
    place: Place,
    workers: Vec<Program>,
    gateway: Program,
    key: String,
}

fn routes(place: &Place, more: &str) -> String {
    format!(
        "[runtimes.hashed]\ninstances = 1\n{more}[routes.words]\nruntime = \"hashed\"\n[routes.triage]\nruntime = \"hashed\"\n\
         classifier = {:?}\n",
        place.dir.path().join("classifier")
    )
}

/// A worker's own file, without any secret but the one it needs.
fn worker_file(place: &Place, name: &str, more: &str) -> PathBuf {
    let path = place.dir.path().join(format!("{name}.toml"));
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\n[log]\njson = true\n[workers]\nkey = \"env:WORKER_KEY\"\n{}",
        routes(place, more)
    );
    std::fs::write(&path, text).expect("written");
    path
}

fn worker_command(file: &Path, key: &str) -> Command {
    let mut command = Command::new(BINARY);
    surroundings(&mut command);
    command.env_remove("TOLLGATE_MASTER_KEY").env_remove("TOLLGATE_ADMIN_KEY").env_remove("SIM_KEY");
    command.env("WORKER_KEY", key).args(["serve", "--role", "worker", "--config"]).arg(file);
    command
}

fn gateway_command(place: &Place, key: &str) -> Command {
    let mut command = place.command();
    command.env("WORKER_KEY", key).args(["--role", "gateway"]);
    command
}

fn configure(place: &Place, urls: &[String], more: &str) {
    let workers = format!("[workers]\nurls = {urls:?}\nkey = \"env:WORKER_KEY\"\nstall_ms = 700\nstart_seconds = 3\n");
    place.configure(&format!("{workers}{}", routes(place, more)));
}

impl Fleet {
    async fn start(count: usize, more: &str) -> Self {
        let place = Place::new(simulator());
        classifier(&place.dir.path().join("classifier"));
        let mut workers = Vec::new();
        for number in 0..count {
            let file = worker_file(&place, &format!("worker{number}"), more);
            workers.push(Program::start(worker_command(&file, WORKER_KEY)).await);
        }
        let urls: Vec<String> = workers.iter().map(|worker| worker.base.clone()).collect();
        configure(&place, &urls, more);
        let gateway = Program::start(gateway_command(&place, WORKER_KEY)).await;
        let (_, key) = gateway.tenant().await;
        Self { place, workers, gateway, key }
    }

    async fn embed(&self, text: &str) -> Answer {
        let body = json!({ "model": "words", "input": text }).to_string();
        self.gateway.http.post("/v1/embeddings", &bearer(&self.key), body).await
    }

    async fn classify(&self, body: Value) -> Answer {
        self.gateway.http.post("/v1/classify", &bearer(&self.key), body.to_string()).await
    }

    /// Every request has one event, which has ended, and says what its answer said; nothing is held any more.
    async fn check_books(&self, answers: &[Answer]) {
        let events: BTreeMap<String, UsageEvent> = eventually("all requests to have ended", async || {
            let events = all_events(&self.gateway.admin).await;
            let ended = events.iter().all(|event| event.ended_at.is_some()) && events.len() >= answers.len();
            ended.then_some(events)
        })
        .await
        .into_iter()
        .map(|event| (event.request_id.clone(), event))
        .collect();
        assert_eq!(events.len(), answers.len(), "a request is one event");
        for answer in answers {
            let event = &events[answer.request_id()];
            let cost: f64 = event.cost_picousd.parse::<f64>().expect("a number") / 1e12;
            match answer.status {
                200 => {
                    let told: f64 = answer.header("x-tollgate-cost-usd").expect("told").parse().expect("a number");
                    assert!(event.cpu_us > 0 && (told - cost).abs() < 1e-15, "{event:?}");
                }
                _ => assert_eq!((event.cpu_us, cost), (0, 0.0), "{}", answer.text()),
            }
        }
    }

    async fn stop(self) {
        assert_eq!(self.gateway.stop().await.code, Some(0));
        let verified = self.place.verify().await;
        assert_eq!(verified["drift_picousd"].as_str().or(verified["drift"].as_str()), Some("0"), "{verified}");
        for worker in self.workers {
            let ended = worker.stop().await;
            assert_eq!(ended.code, Some(0), "{}", ended.said);
        }
    }
}

#[tokio::test]
async fn a_gateway_hands_texts_to_workers_and_bills_what_they_took() {
    let fleet = Fleet::start(2, "").await;
    let vector = fleet.embed("my card").await;
    assert_eq!((vector.status, vector.header("x-tollgate-model")), (200, Some("hashed-ngrams")), "{}", vector.text());
    assert_eq!(vector.json()["data"][0]["embedding"].as_array().map(Vec::len), Some(384));
    let labels = fleet
        .classify(json!({ "model": "triage", "input": ["has my card come", "what is the rate"], "top_k": 2 }))
        .await;
    let label = |index: usize| labels.json()["data"][index]["label"].as_str().map(str::to_owned);
    assert_eq!((label(0), label(1)), (Some("card".to_owned()), Some("rate".to_owned())), "{}", labels.text());
    assert_eq!(labels.json()["data"][0]["stage"], "hashed");

    let refused = fleet.classify(json!({ "model": "triage", "input": "" })).await;
    assert_eq!(refused.refusal(), (400, "invalid_request".to_owned()));
    let events = all_events(&fleet.gateway.admin).await;
    assert_eq!(events.len(), 2, "what was refused before it was held has none");
    fleet.check_books(&[vector, labels]).await;

    let metrics = fleet.gateway.http.get("/metrics", "").await.text().to_owned();
    assert_eq!(metrics.matches("tollgate_worker_up{").count(), 2, "{metrics}");
    assert!(!metrics.contains("tollgate_queue_depth{"), "its own queue is with the workers");
    let theirs = fleet.workers[0].http.get("/metrics", "").await.text().to_owned();
    assert!(theirs.contains("tollgate_queue_depth{runtime=\"hashed\"} 0"), "{theirs}");
    assert_eq!(fleet.workers[0].http.get("/readyz", "").await.text(), "ready\n");
    fleet.stop().await;
}

#[tokio::test]
async fn a_worker_does_nothing_for_who_has_no_key_and_knows_no_other_secret() {
    let fleet = Fleet::start(1, "").await;
    let worker = &fleet.workers[0];
    let handed = json!({ "route": "words", "identity": "x", "tenant": "demo", "share": 1, "goal_us": 1, "alone": false,
        "deadline_us": null, "patience_us": 1, "truncate": false, "texts": ["a"] });
    for key in ["", "wrong", crate::world::ADMIN_KEY] {
        let answer = worker.http.post("/work/v1/texts", &bearer(key), handed.to_string()).await;
        assert_eq!((answer.status, answer.text().contains("words")), (401, false), "{}", answer.text());
        assert_eq!(worker.http.post("/work/v1/routes", &bearer(key), "").await.status, 401);
    }
    let known = bearer(WORKER_KEY);
    let of = async |body: String| worker.http.post("/work/v1/texts", &known, body).await;
    assert_eq!(of(handed.to_string()).await.status, 409, "another model is meant");
    for broken in ["", "{}", "{\"route\":7}", "\u{0}", &handed.to_string()[1..]] {
        let answer = of(broken.to_owned()).await;
        assert_eq!((answer.status, answer.json()["kind"].as_str()), (400, Some("invalid")), "{}", answer.text());
    }
    assert_eq!(worker.http.post("/v1/embeddings", &known, "{}").await.status, 404);
    assert_eq!(fleet.embed("still there").await.status, 200);
    fleet.stop().await;
}

/// While a worker is killed in the midst of its work the other does it, and nobody pays twice.
#[tokio::test]
async fn a_worker_that_is_killed_costs_nobody_an_answer_and_nothing_is_billed_twice() {
    let slow = "batching = \"window\"\nwindow_ms = 200\n";
    let mut fleet = Fleet::start(2, slow).await;
    let texts: Vec<String> = (0..60).map(|n| format!("text {n} of a caller")).collect();
    let victim = fleet.workers.remove(0);
    let asking = join_all(texts.iter().map(|text| fleet.embed(text)));
    let killing = async {
        // With something under way there.
        let busy = async || {
            let metrics = victim.http.get("/metrics", "").await.text().to_owned();
            (!metrics.contains("tollgate_queue_depth{runtime=\"hashed\"} 0")).then_some(())
        };
        eventually("the worker to have work", busy).await;
        victim.kill().await;
    };
    let (answers, ()) = tokio::join!(asking, killing);
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{:?}",
        answers.iter().map(|a| a.status).collect::<Vec<_>>()
    );
    fleet.check_books(&answers).await;
    fleet.gateway.says("another is asked").await;
    let metrics = async || fleet.gateway.http.get("/metrics", "").await.text().to_owned();
    eventually("the worker to be seen as gone", async || metrics().await.contains("\"} 0\n").then_some(())).await;
    assert_eq!(fleet.embed("after it").await.status, 200);
    fleet.stop().await;
}

/// One that stands still is given up after a while, and asked no more; when it goes on it is asked again.
#[tokio::test]
async fn a_worker_that_stands_still_is_given_up_and_another_is_asked() {
    let fleet = Fleet::start(2, "").await;
    fleet.workers[0].signal(Signal::STOP);
    let answers = join_all((0..20).map(|n| {
        let text = format!("text {n}");
        let fleet = &fleet;
        async move { fleet.embed(&text).await }
    }))
    .await;
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{:?}",
        answers.iter().map(|a| a.status).collect::<Vec<_>>()
    );
    fleet.check_books(&answers).await;
    let up = async |wanted: &str| {
        let line = format!("tollgate_worker_up{{worker=\"{}\"}} {wanted}", fleet.workers[0].base);
        fleet.gateway.http.get("/metrics", "").await.text().contains(&line).then_some(())
    };
    eventually("it to be seen as gone", async || up("0").await).await;
    fleet.workers[0].signal(Signal::CONT);
    eventually("it to be seen again", async || up("1").await).await;
    assert_eq!(fleet.embed("after it").await.status, 200);
    fleet.stop().await;
}

#[tokio::test]
async fn a_busy_worker_says_when_to_come_again_and_so_does_the_gateway() {
    let small = "batching = \"window\"\nwindow_ms = 1500\nqueue_texts_max = 2\ntenant_texts_max = 2\n";
    let fleet = Fleet::start(1, small).await;
    let answers = join_all((0..12).map(|n| {
        let text = format!("text {n}");
        let fleet = &fleet;
        async move { fleet.embed(&text).await }
    }))
    .await;
    let busy: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!busy.is_empty() && answers.iter().any(|answer| answer.status == 200));
    for answer in &busy {
        assert_eq!(answer.refusal(), (429, "overloaded".to_owned()));
        assert!(answer.header("retry-after-ms").is_some_and(|ms| ms.parse::<u64>().is_ok_and(|ms| ms > 0)));
    }
    fleet.check_books(&answers).await;
    fleet.stop().await;
}

#[tokio::test]
async fn what_the_workers_serve_anew_is_taken_over() {
    let fleet = Fleet::start(1, "").await;
    let labels = async || {
        let answer = fleet.classify(json!({ "model": "triage", "input": "has my card come", "top_k": 9 })).await;
        (answer.status == 200).then(|| answer.json()["data"][0]["labels"].as_array().map_or(0, Vec::len))
    };
    assert_eq!(labels().await, Some(2));
    let rows: String = (0..60)
        .map(|n| format!("{{\"text\":\"{} {n}\",\"label\":\"{}\"}}\n", ["card", "rate", "fee"][n % 3], n % 3))
        .collect();
    let file = fleet.place.dir.path().join("rows.jsonl");
    std::fs::write(&file, rows).expect("written");
    let mut train = Command::new(BINARY);
    surroundings(&mut train);
    train.args(["template", "train", "--rows"]).arg(&file).arg("--to").arg(fleet.place.dir.path().join("classifier"));
    assert_eq!(run(train).await.code, Some(0));
    fleet.workers[0].signal(Signal::HUP);
    eventually("the labels of the new one", async || (labels().await == Some(3)).then_some(())).await;
    // A broken one is not taken over.
    std::fs::write(fleet.place.dir.path().join("classifier/hashed.head"), "broken").expect("written");
    fleet.workers[0].signal(Signal::HUP);
    fleet.workers[0].says("the last good one stays").await;
    assert_eq!(labels().await, Some(3));
    fleet.gateway.signal(Signal::HUP);
    fleet.gateway.says("configuration reloaded").await;
    assert_eq!(labels().await, Some(3));
    fleet.stop().await;
}

#[tokio::test]
async fn a_gateway_without_its_workers_and_a_worker_without_work_do_not_start() {
    let fleet = Fleet::start(1, "").await;
    let place = Place::new(simulator());
    configure(&place, &[fleet.workers[0].base.clone()], "");
    let ended = run(gateway_command(&place, "another-secret-than-theirs")).await;
    assert_eq!((ended.code, ended.said.contains("no worker serves")), (Some(64), true), "{}", ended.said);
    configure(&place, &[], "");
    let ended = run(gateway_command(&place, WORKER_KEY)).await;
    assert_eq!((ended.code, ended.said.contains("workers.urls")), (Some(64), true), "{}", ended.said);
    let twice = fleet.workers[0].base.clone();
    configure(&place, &[twice.clone(), twice], "");
    let ended = run(gateway_command(&place, WORKER_KEY)).await;
    assert_eq!((ended.code, ended.said.contains("is there twice")), (Some(64), true), "{}", ended.said);
    configure(&place, &["here".to_owned()], "");
    let ended = run(gateway_command(&place, WORKER_KEY)).await;
    assert_eq!((ended.code, ended.said.contains("\"here\" is not an address")), (Some(64), true), "{}", ended.said);

    let file = worker_file(&fleet.place, "other", "");
    let ended = run(worker_command(&file, "short")).await;
    assert_eq!((ended.code, ended.said.contains("at least 16")), (Some(64), true), "{}", ended.said);
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:0\"\n").expect("written");
    let ended = run(worker_command(&file, WORKER_KEY)).await;
    assert_eq!(ended.code, Some(64));
    assert!(ended.said.contains("nothing to do for a worker") && ended.said.contains("workers.key"), "{}", ended.said);
    fleet.stop().await;
}

/// Work under way is ended before a worker goes, and the gateway hears of it in time not to ask it.
#[tokio::test]
async fn a_worker_that_is_told_to_stop_ends_what_it_has() {
    let mut fleet = Fleet::start(1, "batching = \"window\"\nwindow_ms = 1000\n").await;
    let worker = fleet.workers.remove(0);
    let stopping = async {
        let busy = async || {
            let metrics = worker.http.get("/metrics", "").await.text().to_owned();
            (!metrics.contains("tollgate_queue_depth{runtime=\"hashed\"} 0")).then_some(())
        };
        eventually("the worker to have work", busy).await;
        worker.stop().await
    };
    let (answer, ended) = tokio::join!(fleet.embed("a text"), stopping);
    assert_eq!((answer.status, ended.code), (200, Some(0)), "{}", ended.said);
    let refused = fleet.embed("another text").await;
    assert_eq!(refused.refusal(), (429, "overloaded".to_owned()));
    tokio::time::timeout(Duration::from_secs(60), fleet.check_books(&[answer, refused])).await.expect("in time");
    fleet.stop().await;
}
