//! A sentence encoder behind HTTP, from its conversion by the command line to its bill: a tiny one with random weights, so that
//! nothing has to be downloaded.

#[path = "../../runtime/tests/encoder/tiny.rs"]
mod tiny;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::local::parsed;
use crate::program::{self, Ended};
use crate::world::{Answer, Setup, World, bearer, eventually};

const BOOK: &str = "version = \"tiny\"\nsource = \"a test\"\nchecked_at = \"2026-11-27\"\n[[price]]\nprovider = \"local\"\n\
    model = \"tiny\"\neffective_from = \"2026-01-01T00:00:00Z\"\ncpu_usd_per_million_seconds = \"10\"\n";

async fn ended(folder: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    program::surroundings(&mut command);
    command.current_dir(folder).args(args);
    program::run(command).await
}

/// Runs the program, and gives what it printed as JSON.
async fn tollgate(folder: &Path, args: &[&str]) -> Value {
    let ended = ended(folder, &[&["--json"], args].concat()).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.said);
    serde_json::from_str(&ended.written).unwrap_or_else(|error| panic!("{error} in {}", ended.written))
}

/// Converts a tiny model, and trains a classifier for it.
async fn prepare(folder: &Path, seed: u64) -> Value {
    let source = folder.join("source");
    std::fs::create_dir_all(&source).expect("a folder");
    tiny::write(&source, seed);
    let rows: Vec<String> = (0..60)
        .map(|n| match n % 2 {
            0 => format!("\"where is my card {n}\",card"),
            _ => format!("\"it is the refund {n}\",refund"),
        })
        .collect();
    std::fs::write(folder.join("rows.csv"), format!("text,label\n{}\n", rows.join("\n"))).expect("a file");
    std::fs::write(folder.join("book.toml"), BOOK).expect("a file");
    let model = tollgate(folder, &["runtime", "convert", "source", "--to", "model", "--name", "tiny"]).await;
    assert_eq!(tollgate(folder, &["runtime", "show", "model"]).await, model);
    model
}

fn more(folder: &Path) -> String {
    let (book, model, classifier) = (folder.join("book.toml"), folder.join("model"), folder.join("classifier"));
    format!(
        "[prices]\nbooks = [{book:?}]\n[runtimes.tiny]\nkind = \"encoder\"\nmodel = {model:?}\ninstances = 1\n\
         goal_ms = 20000\n[routes.vectors]\nruntime = \"tiny\"\n\
         [routes.labels]\nruntime = \"tiny\"\nclassifier = {classifier:?}\n\
         [routes.sure]\nruntime = \"tiny\"\nclassifier = {classifier:?}\ncascade = true\nthreshold = 0.0\n\
         [routes.unsure]\nruntime = \"tiny\"\nclassifier = {classifier:?}\ncascade = true\nthreshold = 1.0\n"
    )
}

async fn classify(world: &World, model: &str) -> Answer {
    let body = json!({ "model": model, "input": ["where is my card", "the refund"], "top_k": 2 }).to_string();
    world.http.post("/v1/classify", &bearer(&world.key), body).await
}

#[tokio::test]
async fn an_encoder_is_converted_trained_for_served_and_billed_for_what_its_own_thread_did() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = prepare(dir.path(), 7).await;
    assert_eq!((&model["name"], &model["dims"], &model["precision"]), (&json!("tiny"), &json!(32), &json!("int8")));
    let train = ["template", "train", "--rows", "rows.csv", "--to", "classifier", "--model", "model", "--seed", "3"];
    let trained = tollgate(dir.path(), &train).await;
    assert_eq!(trained["encoder"]["kind"]["encoder"]["dims"], 32);
    assert_eq!(tollgate(dir.path(), &train).await, trained, "the same again");

    let world = World::in_folder(Setup { more: more(dir.path()), ..Setup::default() }, dir).await;
    let answer = world.embed(json!({ "model": "vectors", "input": vec!["where is my card"; 40] })).await;
    assert_eq!((answer.status, answer.header("x-tollgate-model")), (200, Some("tiny")), "{}", answer.text());
    let vector: Vec<f64> = serde_json::from_value(answer.json()["data"][39]["embedding"].clone()).expect("numbers");
    assert_eq!(vector.len(), 32);
    let event = world.event(answer.request_id()).await;
    let metrics = world.http.get("/metrics", &world.key).await;
    let line = metrics.text().lines().find(|line| line.starts_with("tollgate_runtime_cpu_us_total{runtime=\"tiny\"}"));
    let worked: u64 = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("the pool's CPU time");
    // The thread that only waits for the engine's takes a small part of it.
    assert!(worked > 600 && event.cpu_us >= worked, "{worked} {event:?}");
    assert_eq!(
        event.cost_picousd,
        (event.cpu_us * 10).to_string(),
        "10 USD a million seconds are 10 picodollars a microsecond"
    );

    for (route, stage) in [("labels", "encoder"), ("sure", "hashed"), ("unsure", "mixed")] {
        let answer = classify(&world, route).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let labels: Vec<_> = (0..2).map(|index| answer.json()["data"][index]["stage"].clone()).collect();
        assert_eq!(labels, [json!(stage), json!(stage)], "{route}");
        assert!(world.event(answer.request_id()).await.cpu_us > 0);
    }

    let long = "card ".repeat(60);
    let refused = world.embed(json!({ "model": "vectors", "input": ["card", long] })).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.message().contains("text 1 of 'input' has 62 tokens, and the model reads 48"),
        "{}",
        refused.text()
    );
    assert_eq!(world.event(refused.request_id()).await.cost_picousd, "0");
    let cut = world.embed(json!({ "model": "vectors", "input": long, "truncate": true })).await;
    assert_eq!((cut.status, cut.json()["usage"]["prompt_tokens"].as_u64()), (200, Some(48)), "{}", cut.text());
    let wished = world.embed(json!({ "model": "vectors", "input": "card", "dimensions": 64 })).await;
    assert!(wished.message().contains("'dimensions' must be 32"), "{}", wished.text());

    // Where the budget is tight, tokens are counted and not bytes.
    world.budget(json!({ "tenant": "demo", "window": "request", "basis": "cost", "cap_usd": "0.0000006" })).await;
    let tight = world.embed(json!({ "model": "vectors", "input": "where is my card" })).await;
    assert_eq!(tight.status, 200, "{}", tight.text());
    world.close().await;
}

#[tokio::test]
async fn a_model_that_changes_in_its_folder_is_read_at_the_next_reload_and_wants_its_heads_trained_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    prepare(dir.path(), 7).await;
    tollgate(dir.path(), &["template", "train", "--rows", "rows.csv", "--to", "classifier", "--model", "model"]).await;
    let world = World::in_folder(Setup { more: more(dir.path()), ..Setup::default() }, dir).await;
    let before = world.embed(json!({ "model": "vectors", "input": "my card" })).await.json();

    prepare(world.dir.path(), 8).await;
    let config = parsed(world.dir.path(), &more(world.dir.path())).expect("a good configuration");
    let refused = world.gateway.app.reload(&config).expect_err("its heads are for the other model").to_string();
    assert!(refused.contains("train it again"), "{refused}");
    assert_eq!(
        world.embed(json!({ "model": "vectors", "input": "my card" })).await.json(),
        before,
        "the last good one stays"
    );

    tollgate(world.dir.path(), &["template", "train", "--rows", "rows.csv", "--to", "classifier", "--model", "model"])
        .await;
    world.gateway.app.reload(&config).expect("now they fit together");
    assert_ne!(world.embed(json!({ "model": "vectors", "input": "my card" })).await.json()["data"], before["data"]);
    world.close().await;
}

#[tokio::test]
async fn what_classifiers_are_worth_is_measured_on_texts_they_have_not_learned_from() {
    let dir = tempfile::tempdir().expect("a folder");
    prepare(dir.path(), 7).await;
    let judged =
        tollgate(dir.path(), &["template", "eval", "--rows", "rows.csv", "--model", "model", "--plot", "plot.svg"])
            .await;
    assert_eq!((judged["learned"].as_u64(), judged["asked"].as_u64()), (Some(48), Some(12)));
    let ways = judged["ways"].as_array().expect("ways");
    let names: Vec<_> = ways.iter().filter_map(|way| way["name"].as_str()).collect();
    assert_eq!(names[..2], ["hashed", "encoder"]);
    assert!(ways.len() >= 7 && ways.iter().filter(|way| way["chosen"] == true).count() == 1, "{judged}");
    assert_eq!(ways[0]["figures"]["accuracy"]["value"], 1.0, "two kinds of texts that share no word are told apart");
    assert!(ways.iter().all(|way| way["cpu_us"].as_f64().is_some_and(|cpu| cpu > 0.0)));
    let plot = std::fs::read_to_string(dir.path().join("plot.svg")).expect("a picture");
    assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"));

    let table = ended(dir.path(), &["template", "train", "--rows", "rows.csv", "--to", "plain"]).await.written;
    assert!(table.contains("ACCURACY") && table.contains("hashed"), "{table}");
    let table = ended(dir.path(), &["template", "eval", "--rows", "rows.csv", "--test", "rows.csv"]).await.written;
    assert!(table.contains("USD PER 1,000"), "{table}");
}

#[tokio::test]
async fn rows_and_models_that_cannot_be_read_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    prepare(dir.path(), 7).await;
    std::fs::write(dir.path().join("rows.txt"), "x").expect("a file");
    std::fs::write(dir.path().join("broken.csv"), "text,label\n\"\",card\n").expect("a file");
    let weights = dir.path().join("source/model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("a file");
    for (args, part) in [
        (&["template", "train", "--rows", "gone.csv", "--to", "x"][..], "gone.csv"),
        (&["template", "train", "--rows", "rows.txt", "--to", "x"], ".csv, .jsonl and .json"),
        (&["template", "train", "--rows", "broken.csv", "--to", "x"], "the text is empty"),
        (&["runtime", "convert", "source", "--to", "x"], "model.safetensors"),
        (&["runtime", "show", "gone"], "gone"),
    ] {
        let ended = ended(dir.path(), args).await;
        assert_eq!(ended.code, Some(1), "{args:?}");
        assert!(ended.said.contains(part), "{part} in {}", ended.said);
    }
}

/// An answer that the hashed head gave because the encoder had no time is not given again for an hour.
#[tokio::test]
async fn what_a_cascade_says_while_its_encoder_is_busy_is_not_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    prepare(dir.path(), 7).await;
    let train = ["template", "train", "--rows", "rows.csv", "--to", "classifier", "--model", "model"];
    tollgate(dir.path(), &train).await;
    let folder = dir.path().join("template");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    write(
        "template.toml",
        "id = \"desk\"\nversion = \"1\"\ntitle = \"t\"\nabout = \"a\"\n[input]\nschema = \"s.json\"\ntext = [\"message\"]\n[data]\nexamples = \"e\"\neval = \"e\"\n",
    );
    write("s.json", "{\"properties\":{\"message\":{\"type\":\"string\"}}}");
    let (model, classifier) = (dir.path().join("model"), dir.path().join("classifier"));
    let more = more(dir.path())
        + &format!(
            "[runtimes.full]\nkind = \"encoder\"\nmodel = {model:?}\ninstances = 1\ngoal_ms = 20000\nbatching = \"window\"\n\
             window_ms = 1500\nqueue_texts_max = 1\n[routes.occupy]\nruntime = \"full\"\n\
             [routes.desk]\nruntime = \"full\"\nclassifier = {classifier:?}\ntemplate = {folder:?}\ncascade = true\nthreshold = 1.0\n"
        );
    let world = World::in_folder(Setup { more, ..Setup::default() }, dir).await;
    let run = async || {
        let body = json!({ "template": "desk", "input": { "message": "where is my card" } }).to_string();
        let answer = world.http.post("/v1/runs", &bearer(&world.key), body).await;
        let stage = answer.json()["data"][0]["stage"].as_str().map(str::to_owned);
        (stage, answer.header("x-tollgate-cache").map(str::to_owned))
    };
    let said = |stage: &str, cache: &str| (Some(stage.to_owned()), Some(cache.to_owned()));
    let occupied = world.embed(json!({ "model": "occupy", "input": "a text" }));
    let meanwhile = async {
        let full = async || {
            let metrics = world.http.get("/metrics", &world.key).await.text().to_owned();
            metrics.contains("tollgate_queue_depth{runtime=\"full\"} 1").then_some(())
        };
        eventually("the encoder to be busy", full).await;
        [run().await, run().await]
    };
    let (occupied, busy) = tokio::join!(occupied, meanwhile);
    assert_eq!((occupied.status, busy), (200, [said("hashed", "miss"), said("hashed", "miss")]));
    assert_eq!(run().await, said("mixed", "miss"));
    assert_eq!(run().await, said("mixed", "hit"));
    world.close().await;
}
