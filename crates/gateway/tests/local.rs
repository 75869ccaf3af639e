//! Models that run here: embeddings and labels over HTTP, what they cost, what is refused, and what happens where there is
//! no model. The tests need no download: they use hashed n-grams, and heads that they train themselves.

use std::ops::ControlFlow;
use std::path::Path;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tollgate_gateway::config::{Config, Environment};
use tollgate_runtime::classifier::Classifier;
use tollgate_runtime::head::rows::Row;

use crate::world::{ADMIN_KEY, Answer, PROVIDER_KEY, Setup, World, bearer};

/// What a second of a core costs in the shipped book, in picodollars.
const CPU_SECOND: u64 = 13_888_889;

const ROUTES: &str = "[routes.words]\nruntime = \"hashed\"\n[runtimes.minilm]\nkind = \"encoder\"\n\
    model = \"/nowhere/at/all\"\n[routes.meaning]\nruntime = \"minilm\"\n";

fn setup(more: &str) -> Setup {
    Setup { more: format!("{ROUTES}{more}"), ..Setup::default() }
}

/// A folder with a classifier of two labels.
pub fn classifier(folder: &Path) {
    let words = [("card", "my card has not come"), ("rate", "what is the exchange rate")];
    let rows: Vec<Row> = (0..40)
        .map(|n| {
            let (label, text) = words[n % 2];
            Row { text: format!("{text} number {n}"), label: label.to_owned(), group: None }
        })
        .collect();
    let trained = Classifier::train(&rows, None, 7, &mut |_, _| ControlFlow::Continue(()));
    std::fs::create_dir_all(folder).expect("a folder");
    for (name, bytes) in trained.expect("it can be trained").0.files() {
        std::fs::write(folder.join(name), bytes).expect("a file");
    }
}

/// A world whose route `triage` classifies.
pub async fn with_classifier() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("classifier");
    classifier(&folder);
    let more = format!("[routes.triage]\nruntime = \"hashed\"\nclassifier = {folder:?}\n");
    World::in_folder(setup(&more), dir).await
}

async fn classify(world: &World, body: Value) -> Answer {
    world.http.post("/v1/classify", &bearer(&world.key), body.to_string()).await
}

fn vector(answer: &Answer, index: usize) -> Vec<f64> {
    let numbers = answer.json()["data"][index]["embedding"].clone();
    serde_json::from_value(numbers).expect("numbers")
}

#[tokio::test]
async fn embeddings_are_made_here_and_cost_the_cpu_time_they_took() {
    let world = World::of(setup("")).await;
    let answer = world.embed(json!({ "model": "words", "input": ["my card", "my card", "another thing"] })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let vectors: Vec<_> = (0..3).map(|index| vector(&answer, index)).collect();
    assert_eq!((vectors[0].len(), &vectors[0]), (384, &vectors[1]));
    assert_ne!(vectors[0], vectors[2]);
    let length: f64 = vectors[0].iter().map(|number| number * number).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert_eq!(
        (answer.json()["model"].as_str(), answer.header("x-tollgate-model")),
        (Some("hashed-ngrams"), Some("hashed-ngrams"))
    );

    let event = world.event(answer.request_id()).await;
    assert_eq!((event.provider.as_str(), event.model.as_str()), ("local", "hashed-ngrams"));
    assert!(event.cpu_us > 0 && event.input_tokens > 0, "{event:?}");
    let cost = (event.cpu_us * CPU_SECOND + 500_000) / 1_000_000;
    assert_eq!(event.cost_picousd, cost.to_string());
    assert_eq!(answer.json()["usage"]["prompt_tokens"], event.input_tokens);
    let receipt = world.http.get(&format!("/v1/receipts/{}", answer.request_id()), &world.key).await.json();
    assert_eq!(receipt["statement"]["tokens"]["cpu_us"], event.cpu_us);
    assert!(world.truth.all().is_empty(), "no provider was asked");
    world.close().await;
}

#[tokio::test]
async fn a_vector_can_be_had_as_bytes_as_the_official_sdks_ask_for_it() {
    let world = World::of(setup("")).await;
    let plain = world.embed(json!({ "model": "words", "input": "my card" })).await;
    let coded = world.embed(json!({ "model": "words", "input": "my card", "encoding_format": "base64" })).await;
    let text = coded.json()["data"][0]["embedding"].as_str().expect("a text").to_owned();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    let numbers: Vec<f32> =
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect();
    let expected: Vec<f32> = serde_json::from_value(plain.json()["data"][0]["embedding"].clone()).expect("numbers");
    assert_eq!(numbers, expected);
    world.close().await;
}

#[tokio::test]
async fn a_classifier_answers_with_its_labels_and_how_sure_it_is() {
    let world = with_classifier().await;
    let asked = json!({ "model": "triage", "input": ["has my card come", "exchange rate please"], "top_k": 2 });
    let answer = classify(&world, asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let data = answer.json()["data"].clone();
    let label = |index: usize| (data[index]["label"].as_str(), data[index]["stage"].as_str());
    assert_eq!((label(0), label(1)), ((Some("card"), Some("hashed")), (Some("rate"), Some("hashed"))));
    assert!(data[0]["confidence"].as_f64().is_some_and(|sure| (0.5..=1.0).contains(&sure)), "{data}");
    let sum: f64 =
        data[0]["labels"].as_array().expect("both").iter().filter_map(|one| one["probability"].as_f64()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{data}");
    assert!(world.event(answer.request_id()).await.cpu_us > 0);
    world.close().await;
}

#[tokio::test]
async fn what_a_route_does_not_do_is_refused_with_where_to_ask() {
    let world = with_classifier().await;
    let check = |answer: Answer, status: u16, part: &str| {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.message().contains(part), "{part} in {}", answer.text());
    };
    check(world.embed(json!({ "model": "triage", "input": "x" })).await, 400, "POST /v1/classify");
    check(classify(&world, json!({ "model": "words", "input": "x" })).await, 400, "POST /v1/embeddings");
    check(classify(&world, json!({ "model": "gpt-4o-mini", "input": "x" })).await, 400, "does not classify");
    check(classify(&world, json!({ "model": "nobody", "input": "x" })).await, 404, "does not exist");
    let chat = world.chat(json!({ "model": "words", "messages": [{ "role": "user", "content": "x" }] })).await;
    check(chat, 400, "POST /v1/embeddings");
    let (_, chats_only) = world.new_key(json!({ "tenant": "demo", "scopes": ["chat"] })).await;
    let body = json!({ "model": "triage", "input": "x" }).to_string();
    assert_eq!(world.http.post("/v1/classify", &bearer(&chats_only), body).await.status, 403);
    assert_eq!(
        world.admin.usage(&Default::default()).await.expect("usage").data.len(),
        0,
        "nothing was held for any of it"
    );
    world.close().await;
}

#[tokio::test]
async fn text_that_nobody_should_send_is_refused_clearly_and_the_service_goes_on() {
    let world = with_classifier().await;
    let check = |answer: Answer, part: &str| {
        assert_eq!(answer.refusal(), (400, "invalid_request".to_owned()), "{}", answer.text());
        assert!(answer.message().contains(part), "{part} in {}", answer.text());
    };
    let ask = async |input: Value| classify(&world, json!({ "model": "triage", "input": input })).await;
    check(ask(json!("")).await, "empty");
    check(ask(json!([])).await, "no text");
    check(ask(json!("x".repeat(10 << 20))).await, "10485760 bytes");
    check(ask(json!(vec!["x"; 2_049])).await, "at most 2048");
    check(ask(json!([[1, 2, 3]])).await, "no tokens");
    check(ask(json!({ "text": "x" })).await, "a text or a list of texts");
    let invalid = Bytes::from_static(b"{\"model\":\"triage\",\"input\":\"\xff\xfe\"}");
    let answer = world.http.post("/v1/classify", &bearer(&world.key), invalid).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let late = [bearer(&world.key)[0].clone(), ("x-tollgate-deadline-ms", "soon".to_owned())];
    let body = json!({ "model": "triage", "input": "x" }).to_string();
    check(world.http.post("/v1/classify", &late, body).await, "whole number of milliseconds");

    let thousand = ask(json!(vec!["what is the rate"; 1_000])).await;
    assert_eq!(thousand.status, 200, "{}", thousand.text());
    assert_eq!(thousand.json()["data"].as_array().map(Vec::len), Some(1_000));
    world.close().await;
}

#[tokio::test]
async fn where_the_model_is_not_there_hashed_n_grams_answer_and_say_so() {
    let world = World::of(setup("")).await;
    let answer = world.embed(json!({ "model": "meaning", "input": "my card" })).await;
    assert_eq!((answer.status, answer.header("x-tollgate-model")), (200, Some("hashed-ngrams")), "{}", answer.text());
    world.close().await;
}

pub fn parsed(dir: &Path, more: &str) -> Result<Config, String> {
    let text = format!("[server]\nlisten = \"127.0.0.1:0\"\n[store]\ndir = {:?}\n{more}", dir.join("data"));
    let environment = Environment::of([
        ("TOLLGATE_MASTER_KEY", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("TOLLGATE_ADMIN_KEY", ADMIN_KEY),
        ("SIM_KEY", PROVIDER_KEY),
    ]);
    Config::parse(&text, Path::new("tollgate.toml"), &environment).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_missing_or_damaged_model_or_classifier_stops_the_start_by_name() {
    let check = |prepare: &dyn Fn(&Path) -> String, parts: &[&str]| {
        let dir = tempfile::tempdir().expect("a folder");
        let config = parsed(dir.path(), &prepare(dir.path())).expect("a good configuration");
        let error = match tollgate_gateway::serve::start(&config, tollgate_types::Clock::System) {
            Ok(_) => panic!("it started: {parts:?}"),
            Err(error) => format!("{error:#}"),
        };
        for part in parts {
            assert!(error.contains(part), "{part} in {error}");
        }
    };
    let encoder = |folder: &Path, more: &str| {
        format!("[runtimes.m]\nkind = \"encoder\"\nmodel = {folder:?}\n{more}[routes.x]\nruntime = \"m\"\n")
    };
    check(&|dir| encoder(&dir.join("gone"), "required = true\n"), &["runtimes.m", "gone"]);
    check(
        &|dir| {
            std::fs::create_dir(dir.join("empty")).expect("a folder");
            encoder(&dir.join("empty"), "")
        },
        &["runtimes.m", "empty"],
    );
    let routed = |folder: &Path| format!("[routes.x]\nruntime = \"hashed\"\nclassifier = {folder:?}\n");
    check(&|dir| routed(&dir.join("gone")), &["routes.\"x\"", "template train"]);
    check(
        &|dir| {
            let folder = dir.join("classifier");
            classifier(&folder);
            let path = folder.join("hashed.head");
            let mut bytes = std::fs::read(&path).expect("a head");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).expect("a file");
            routed(&folder)
        },
        &["routes.\"x\"", "hashed.head"],
    );
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_together_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let check = |more: &str, part: &str| {
        let said = parsed(dir.path(), more).expect_err("it is wrong");
        assert!(said.contains(part), "{part} in {said}");
    };
    check("[routes.x]\nretries = 0\n", "name its provider or its runtime");
    check("[routes.x]\nruntime = \"gone\"\n", "there are: hashed");
    check("[routes.x]\nruntime = \"hashed\"\nprovider = \"p\"\n", "does not go with a runtime");
    check("[routes.x]\nruntime = \"hashed\"\ncascade = true\n", "needs a classifier");
    check("[runtimes.m]\nkind = \"encoder\"\n", "tollgate runtime convert");
    check("[runtimes.hashed]\nkind = \"encoder\"\nmodel = \"x\"\n", "for the kind \"hashed\"");
    check("[runtimes.m]\ngoal_ms = 0\n", "goal_ms: 0 is too small");
}

#[tokio::test]
async fn a_cap_holds_for_work_that_is_done_here() {
    let world = World::of(setup("")).await;
    world.budget(json!({ "tenant": "demo", "window": "day", "basis": "cost", "cap_usd": "0.0000005" })).await;
    let mut refused = 0;
    // However fast the machine is: some 12 ms of work have to be done first.
    for _ in 0..10_000 {
        let answer =
            world.embed(json!({ "model": "words", "input": "a text of some length, to cost something" })).await;
        match answer.status {
            200 => {}
            _ => {
                assert_eq!(answer.refusal(), (429, "budget_exceeded".to_owned()));
                refused += 1;
                break;
            }
        }
    }
    assert_eq!(refused, 1, "half a millionth of a dollar is some 36 ms of a core, and the hold of one request 20");
    let spent: u64 =
        world.events().await.iter().map(|event| event.cost_picousd.parse::<u64>().expect("a number")).sum();
    assert!(spent <= 500_000, "{spent}");
    world.close().await;
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_is_worked_on_once() {
    let world = with_classifier().await;
    let headers = [bearer(&world.key)[0].clone(), ("idempotency-key", "once".to_owned())];
    let body = json!({ "model": "triage", "input": "has my card come" }).to_string();
    let first = world.http.post("/v1/classify", &headers, body.clone()).await;
    let again = world.http.post("/v1/classify", &headers, body).await;
    assert_eq!((first.status, &first.body), (200, &again.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(world.events().await.len(), 1);
    world.close().await;
}

#[tokio::test]
async fn a_deadline_that_cannot_be_kept_is_refused_at_once_and_costs_nothing() {
    let more = "[runtimes.slow]\nkind = \"hashed\"\ninstances = 1\nbatching = \"window\"\nwindow_ms = 3000\n\
                [routes.slow]\nruntime = \"slow\"\n";
    let world = World::of(setup(more)).await;
    let headers = [bearer(&world.key)[0].clone(), ("x-tollgate-deadline-ms", "50".to_owned())];
    let body = json!({ "model": "slow", "input": "a text" }).to_string();
    let answer = world.http.post("/v1/embeddings", &headers, body).await;
    assert!(matches!(answer.status, 429 | 504), "{}", answer.text());
    let event = world.event(answer.request_id()).await;
    assert_eq!((event.cost_picousd.as_str(), event.cpu_us), ("0", 0));
    world.close().await;
}

#[tokio::test]
async fn a_reload_toggles_what_answers_a_route_and_keeps_what_did_not_change() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("classifier");
    classifier(&folder);
    let world = World::in_folder(setup("[routes.toggled]\nruntime = \"hashed\"\n"), dir).await;
    assert_eq!(world.embed(json!({ "model": "toggled", "input": "my card" })).await.status, 200);

    let more = format!("{ROUTES}[routes.toggled]\nruntime = \"hashed\"\nclassifier = {folder:?}\n");
    let config = parsed(world.dir.path(), &more).expect("a good configuration");
    world.gateway.app.reload(&config).expect("it is taken over");
    let answer = classify(&world, json!({ "model": "toggled", "input": "my card" })).await;
    assert_eq!((answer.status, answer.json()["data"][0]["label"].as_str()), (200, Some("card")), "{}", answer.text());

    let broken = format!("{ROUTES}[routes.toggled]\nruntime = \"hashed\"\nclassifier = \"/nowhere\"\n");
    let config = parsed(world.dir.path(), &broken).expect("a good configuration");
    assert!(world.gateway.app.reload(&config).is_err());
    assert_eq!(
        classify(&world, json!({ "model": "toggled", "input": "my card" })).await.status,
        200,
        "the last good one stays"
    );
    world.close().await;
}

#[tokio::test]
async fn queues_and_batches_are_metrics_to_scale_by() {
    let world = World::of(setup("")).await;
    assert_eq!(world.embed(json!({ "model": "words", "input": ["a", "b"] })).await.status, 200);
    let text = world.http.get("/metrics", &world.key).await.text().to_owned();
    for line in [
        "tollgate_queue_depth{runtime=\"hashed\"} 0",
        "tollgate_runtime_texts_total{runtime=\"hashed\"} 2",
        "tollgate_goal_attainment_ratio{runtime=\"hashed\"} 1",
        "tollgate_runtime_token_seconds{runtime=\"hashed\",worker=\"0\"} ",
        "tollgate_batch_size_total{runtime=\"hashed\",le=\"+Inf\"} ",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    world.close().await;
}
