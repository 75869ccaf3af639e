//! Templates and their runs: what an input must be, what is answered, what it costs, what is given again and to whom, and what
//! the shipped ones hold.

use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tollgate_client::PolicyOf;

use crate::local::parsed;
use crate::policy::bundle;
use crate::program::{BINARY, Place, run, surroundings};
use crate::world::{Answer, Setup, World, bearer};

const MANIFEST: &str = "id = \"triage\"\nversion = \"3\"\ntitle = \"t\"\nabout = \"a\"\n\
    [input]\nschema = \"schema.json\"\ntext = [\"subject\", \"message\"]\n[output]\nreview_below = 0.5\n\
    [data]\nexamples = \"examples.jsonl\"\neval = \"eval.jsonl\"\n[policy]\nbundle = \"policy\"\n";
const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"required":["message"],"properties":{
    "subject":{"type":"string"},"message":{"type":"string","minLength":1,"maxLength":60},"channel":{"enum":["mail","chat"]}}}"#;
pub const POLICY: &str = "package tollgate.admission\nallow := true\n\
    deny contains \"too long for this template\" if input.request.input_bytes > 5000\n\
    obligations := {\"redact\": [{\"name\": \"email\"}]}\n";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates").join(name)
}

/// A template of two labels, and the configuration of a route that it serves.
fn template(dir: &Path, policy: &str) -> String {
    let folder = dir.join("template");
    std::fs::create_dir_all(folder.join("policy")).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    write("template.toml", MANIFEST);
    write("schema.json", SCHEMA);
    write("policy/admission.rego", policy);
    let words = [("card", "my card has not come"), ("rate", "what is the exchange rate")];
    let row = |n: usize| {
        let (label, text) = words[n % 2];
        json!({ "input": { "message": format!("{text} number {n}") }, "label": label }).to_string() + "\n"
    };
    write("examples.jsonl", &(0..40).map(row).collect::<String>());
    write("eval.jsonl", &(40..60).map(row).collect::<String>());
    let classifier = dir.join("classifier");
    let mut train = Command::new(BINARY);
    surroundings(&mut train);
    train.args(["template", "train"]).arg(&folder).arg("--to").arg(&classifier);
    let trained = train.output().expect("it runs");
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    format!(
        "[routes.triage]\nruntime = \"hashed\"\nclassifier = {classifier:?}\ntemplate = {folder:?}\n\
         [routes.labels]\nruntime = \"hashed\"\nclassifier = {classifier:?}\n"
    )
}

/// A gateway with a template `triage`, its classifier by itself as `labels`, and embeddings as `words`.
pub async fn world_with(policy: &str) -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let more = template(dir.path(), policy);
    World::in_folder(Setup { more: more + "[routes.words]\nruntime = \"hashed\"\n", ..Setup::default() }, dir).await
}

async fn ask(world: &World, input: Value) -> Answer {
    world.http.post("/v1/runs", &bearer(&world.key), json!({ "template": "triage", "input": input }).to_string()).await
}

fn message(text: &str) -> Value {
    json!({ "message": text })
}

async fn texts_worked_on(world: &World) -> u64 {
    let text = world.http.get("/metrics", &world.key).await.text().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("tollgate_runtime_texts_total{runtime=\"hashed\"} "));
    line.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn a_run_answers_with_a_label_how_sure_it_is_and_a_receipt() {
    let world = world_with(POLICY).await;
    let body =
        json!({ "template": "triage", "input": { "message": "has my card come", "channel": "mail" }, "top_k": 2 });
    let answer = world.http.post("/v1/runs", &bearer(&world.key), body.to_string()).await;
    assert_eq!((answer.status, answer.header("x-tollgate-cache")), (200, Some("miss")), "{}", answer.text());
    let said = answer.json();
    assert_eq!(
        (said["object"].as_str(), said["template"].as_str(), said["version"].as_str()),
        (Some("run"), Some("triage"), Some("3"))
    );
    let first = &said["data"][0];
    assert_eq!(
        (first["label"].as_str(), first["decision"].as_str(), first["cached"].as_bool()),
        (Some("card"), Some("answer"), Some(false))
    );
    assert!(first["confidence"].as_f64().is_some_and(|sure| (0.5..=1.0).contains(&sure)), "{said}");
    assert_eq!(first["labels"].as_array().map(Vec::len), Some(2));
    let receipt = world.http.get(said["receipt"].as_str().expect("a path"), &world.key).await.json();
    assert_eq!(receipt["statement"]["request_id"], said["id"]);
    assert!(receipt["statement"]["tokens"]["cpu_us"].as_u64().is_some_and(|us| us > 0), "{receipt}");
    assert_eq!(
        (receipt["statement"]["cache"].as_str(), receipt["statement"]["policy"].as_str()),
        (Some("bypass"), answer.header("x-tollgate-policy"))
    );
    world.close().await;
}

#[tokio::test]
async fn what_was_answered_before_is_given_again_and_costs_no_work() {
    let world = world_with(POLICY).await;
    assert_eq!(ask(&world, message("has my card come")).await.status, 200);
    let again = ask(&world, message("has my card come")).await;
    assert_eq!(
        (again.header("x-tollgate-cache"), again.json()["data"][0]["cached"].as_bool()),
        (Some("hit"), Some(true))
    );
    assert_eq!(texts_worked_on(&world).await, 1);
    let event = world.event(again.request_id()).await;
    assert!(event.cached_input_tokens == event.input_tokens && event.input_tokens > 0, "{event:?}");
    let receipt = world.http.get(&format!("/v1/receipts/{}", again.request_id()), &world.key).await.json();
    assert_eq!(receipt["statement"]["cache"], "hit");

    // Some of it is new: only that is worked on, and each is told.
    let both =
        ask(&world, json!([message("has my card come"), message("the exchange rate"), message("the exchange rate")]))
            .await;
    let cached: Vec<_> = (0..3).map(|n| both.json()["data"][n]["cached"].as_bool()).collect();
    assert_eq!((both.header("x-tollgate-cache"), cached), (Some("miss"), vec![Some(true), Some(false), Some(false)]));
    assert_eq!(texts_worked_on(&world).await, 2, "the same text twice in a run is worked on once");

    let headers = [bearer(&world.key)[0].clone(), ("x-tollgate-cache", "bypass".to_owned())];
    let body = json!({ "template": "triage", "input": message("has my card come") }).to_string();
    let fresh = world.http.post("/v1/runs", &headers, body.clone()).await;
    assert_eq!(
        (fresh.header("x-tollgate-cache"), fresh.json()["data"][0]["cached"].as_bool()),
        (Some("bypass"), Some(false))
    );
    let headers = [bearer(&world.key)[0].clone(), ("x-tollgate-cache", "never".to_owned())];
    assert_eq!(world.http.post("/v1/runs", &headers, body).await.refusal(), (400, "invalid_request".to_owned()));
    let metrics = world.http.get("/metrics", &world.key).await.text().to_owned();
    for line in
        ["{tier=\"run\",outcome=\"hit\"} 1", "{tier=\"run\",outcome=\"miss\"} 2", "{tier=\"run\",outcome=\"bypass\"} 1"]
    {
        assert!(metrics.contains(&format!("tollgate_cache_requests_total{line}")), "{line} in\n{metrics}");
    }
    world.close().await;
}

#[tokio::test]
async fn many_who_ask_the_same_at_once_have_it_worked_on_once_and_each_is_billed_for_its_own() {
    let world = world_with(POLICY).await;
    let answers = join_all((0..40).map(|_| ask(&world, message("has my card come")))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json()["data"][0]["label"] == "card"));
    assert_eq!(texts_worked_on(&world).await, 1);
    let events = world.events().await;
    let worked = events.iter().filter(|event| event.cached_input_tokens == 0).count();
    assert_eq!((events.len(), worked), (40, 1));
    // Two lists in opposite order wait for each other's texts, and neither for ever.
    let lists = (0..30).map(|n| {
        let mut list = [message(&format!("card {}", n / 2)), message(&format!("rate {}", n / 2))];
        list.rotate_left(n % 2);
        ask(&world, json!(list))
    });
    assert!(join_all(lists).await.iter().all(|answer| answer.status == 200));
    world.close().await;
}

#[tokio::test]
async fn nobody_is_given_what_another_tenant_or_user_asked_for() {
    let world = world_with(POLICY).await;
    let (_, other) = world.tenant("other").await;
    let body = json!({ "template": "triage", "input": message("has my card come") }).to_string();
    let ask_as = async |key: &str, user: Option<&str>| {
        let user = user.map(|user| ("x-tollgate-end-user", user.to_owned()));
        let headers: Vec<_> = bearer(key).into_iter().chain(user).collect();
        let answer = world.http.post("/v1/runs", &headers, body.clone()).await;
        answer.header("x-tollgate-cache").map(str::to_owned)
    };
    let (hit, miss) = (Some("hit".to_owned()), Some("miss".to_owned()));
    assert_eq!(ask_as(&world.key, None).await, miss);
    assert_eq!(ask_as(&other, None).await, miss, "another tenant");
    assert_eq!(ask_as(&world.key, Some("ann")).await, miss, "a user of its own");
    assert_eq!(ask_as(&world.key, Some("bob")).await, miss, "another user");
    assert_eq!(ask_as(&world.key, Some("ann")).await, hit);
    // Another policy: what was answered under the one before is not found any more.
    let of = PolicyOf { tenant: Some("demo".to_owned()), ..PolicyOf::default() };
    world.admin.push_policy(&of, bundle("allow := true")).await.expect("a good bundle");
    assert_eq!(ask_as(&world.key, None).await, miss);
    assert_eq!(ask_as(&world.key, None).await, hit);
    for nothing in ["{\"retention_days\": 0}", "{\"cache\": {\"ttl_seconds\": 0}}"] {
        let rule = format!("allow := true\nobligations := {nothing}");
        world.admin.push_policy(&of, bundle(&rule)).await.expect("a good bundle");
        assert_eq!(ask_as(&world.key, None).await, Some("bypass".to_owned()));
        assert_eq!(ask_as(&world.key, None).await, Some("bypass".to_owned()));
    }
    world.close().await;
}

#[tokio::test]
async fn the_templates_policy_is_asked_too_and_takes_out_what_the_model_need_not_see() {
    let world = world_with(POLICY).await;
    // Without the addresses both are the same text.
    assert_eq!(
        ask(&world, message("mail ann@example.com about my card")).await.header("x-tollgate-cache"),
        Some("miss")
    );
    assert_eq!(
        ask(&world, message("mail bob@example.org about my card")).await.header("x-tollgate-cache"),
        Some("hit")
    );
    // What is taken out may be longer than what was there: the schema is for what was sent.
    let long = format!("{}a@b.cd", "x ".repeat(27));
    assert_eq!(ask(&world, message(&long)).await.status, 200, "{}", long.len());
    let many: Vec<_> = (0..200).map(|n| message(&format!("a text of some length {n}"))).collect();
    let refused = ask(&world, json!(many)).await;
    assert_eq!(refused.refusal(), (403, "policy_denied".to_owned()));
    assert!(refused.message().contains("the template's policy says: too long for this template"), "{}", refused.text());
    let of = PolicyOf { tenant: Some("demo".to_owned()), ..PolicyOf::default() };
    let chats_only = bundle("allow if input.request.surface == \"chat\"");
    world.admin.push_policy(&of, chats_only).await.expect("a good bundle");
    let refused = ask(&world, message("has my card come")).await;
    assert!(refused.message().contains("tenant's policy"), "a template's policy cannot widen: {}", refused.text());
    world.close().await;
}

#[tokio::test]
async fn an_input_that_does_not_fit_is_told_where_and_nothing_is_held() {
    let world = world_with(POLICY).await;
    let check = |answer: Answer, part: &str| {
        assert_eq!(answer.refusal(), (400, "invalid_request".to_owned()), "{}", answer.text());
        assert!(answer.message().contains(part), "{part} in {}", answer.text());
    };
    check(ask(&world, json!({ "subject": "s" })).await, "input 0: it: ");
    check(ask(&world, json!([message("fine"), { "message": 7 }])).await, "input 1: /message: ");
    check(ask(&world, json!([message("fine"), { "message": "x", "channel": "fax" }])).await, "input 1: /channel: ");
    check(ask(&world, message(&"secret ".repeat(20))).await, "input 0: /message: ");
    assert!(
        !ask(&world, message(&"secret ".repeat(20))).await.text().contains("secret secret"),
        "it is not said again"
    );
    check(ask(&world, message(" ")).await, "no text");
    check(ask(&world, json!([])).await, "no input");
    check(ask(&world, json!("a text")).await, "input 0: it: ");
    let raw = async |body: &str| world.http.post("/v1/runs", &bearer(&world.key), body.to_owned()).await;
    check(raw("{\"template\":\"triage\"}").await, "'input' is required");
    check(raw("{\"input\":{}}").await, "'template' is required");
    check(raw("{\"template\":\"triage\",\"input\":{\"message\":\"x\"},\"topk\":3}").await, "topk");
    check(raw("{\"template\":\"triage\",\"input\":{\"message\":\"x\"},\"top_k\":0}").await, "'top_k' must be");
    check(raw("{\"template\":\"words\",\"input\":{\"message\":\"x\"}}").await, "no template");
    check(raw("{\"template\":\"gpt-4o-mini\",\"input\":{\"message\":\"x\"}}").await, "no template");
    let body = json!({ "model": "triage", "input": "x" }).to_string();
    for path in ["/v1/classify", "/v1/embeddings"] {
        check(world.http.post(path, &bearer(&world.key), body.clone()).await, "POST /v1/runs");
    }
    assert_eq!(raw("{\"template\":\"gone\",\"input\":{}}").await.status, 404);
    let (_, chats_only) = world.new_key(json!({ "tenant": "demo", "scopes": ["chat"] })).await;
    let body = json!({ "template": "triage", "input": message("x") }).to_string();
    assert_eq!(world.http.post("/v1/runs", &bearer(&chats_only), body).await.status, 403);
    assert_eq!(world.admin.usage(&Default::default()).await.expect("usage").data.len(), 0, "nothing was held");
    assert_eq!(ask(&world, message("has my card come")).await.status, 200, "and the service goes on");
    world.close().await;
}

#[tokio::test]
async fn a_run_with_an_idempotency_key_is_charged_once() {
    let world = world_with(POLICY).await;
    let headers = [bearer(&world.key)[0].clone(), ("idempotency-key", "once".to_owned())];
    let body = json!({ "template": "triage", "input": message("has my card come") }).to_string();
    let first = world.http.post("/v1/runs", &headers, body.clone()).await;
    let again = world.http.post("/v1/runs", &headers, body).await;
    assert_eq!((first.status, &first.body, again.header("idempotent-replayed")), (200, &again.body, Some("true")));
    assert_eq!(
        (first.header("x-tollgate-cache"), again.header("x-tollgate-cache")),
        (Some("miss"), Some("miss")),
        "as it was"
    );
    assert_eq!(world.events().await.len(), 1);
    world.close().await;
}

#[tokio::test]
async fn a_template_that_is_broken_stops_the_start_by_name_and_a_reload_keeps_the_one_before() {
    let world = world_with(POLICY).await;
    let more = |dir: &Path| {
        format!(
            "[routes.triage]\nruntime = \"hashed\"\nclassifier = {:?}\ntemplate = {:?}\n",
            dir.join("classifier"),
            dir.join("template")
        )
    };
    let dir = world.dir.path().to_owned();
    let config = parsed(&dir, &more(&dir)).expect("a good configuration");
    let check = |file: &str, broken: &str, parts: &[&str]| {
        let path = dir.join("template").join(file);
        let before = std::fs::read(&path).expect("it is there");
        std::fs::write(&path, broken).expect("written");
        let error = world.gateway.app.reload(&config).expect_err("it is broken").to_string();
        std::fs::write(&path, before).expect("written");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    check("schema.json", "{\"type\": \"nothing\"}", &["routes.\"triage\": template:", "schema.json", "no JSON Schema"]);
    check("schema.json", "{\"$ref\": \"http://192.0.2.1/x\"}", &["no JSON Schema"]);
    check("template.toml", "id = 7", &["template.toml"]);
    check("policy/admission.rego", "package tollgate.admission\nallow := ", &["template: its policy"]);
    check("policy/admission.rego", "package tollgate.admission\nallow := http.send({})", &["template: its policy"]);
    assert_eq!(ask(&world, message("has my card come")).await.status, 200, "the last good one stays");
    world.gateway.app.reload(&config).expect("it is as before");
    assert_eq!(
        ask(&world, message("has my card come")).await.header("x-tollgate-cache"),
        Some("hit"),
        "nothing has changed"
    );
    let said = parsed(&dir, "[routes.x]\nruntime = \"hashed\"\ntemplate = \"t\"\n").expect_err("it has no classifier");
    assert!(said.contains("tollgate template train"), "{said}");
    world.close().await;
}

async fn tollgate(place: &Place, args: &[&str], envs: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    surroundings(&mut command);
    command.args(args).envs(envs.iter().copied()).current_dir(place.dir.path());
    let ended = run(command).await;
    (ended.code, ended.written + &ended.said)
}

/// As somebody would who has just installed it: check, train, evaluate, serve, run.
#[tokio::test]
async fn the_shipped_templates_hold_what_they_promise_and_run_from_the_command_line() {
    let place = Place::new(crate::world::simulator());
    let mut routes = String::new();
    for name in ["support-triage", "threat-intel-tagging"] {
        let folder = shipped(name);
        let folder = folder.to_str().expect("UTF-8");
        let (code, said) = tollgate(&place, &["template", "check", folder], &[]).await;
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = tollgate(&place, &["template", "eval", folder, "--plot", "plot.svg"], &[]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("accuracy") && said.contains("TOLLGATE_DATA_DIR is not set"), "{said}");
        let (code, said) = tollgate(&place, &["template", "train", folder, "--to", name], &[]).await;
        assert_eq!(code, Some(0), "{said}");
        let classifier = place.dir.path().join(name);
        routes +=
            &format!("[routes.{name}]\nruntime = \"hashed\"\nclassifier = {classifier:?}\ntemplate = {folder:?}\n");
    }
    place.configure(&routes);
    let program = place.serve().await;
    let tenant = serde_json::from_value(json!({ "id": "demo" })).expect("a tenant");
    program.admin.create_tenant(&tenant).await.expect("created");
    let key = serde_json::from_value(json!({ "tenant": "demo" })).expect("a key");
    let key = program.admin.create_key(&key).await.expect("created").key;
    let envs = [("TOLLGATE_URL", program.base.as_str()), ("TOLLGATE_API_KEY", key.as_str())];
    let input =
        "{\"message\": \"Nobody came to the door, and the tracking page has said out for delivery for three days.\"}";
    let (code, said) = tollgate(&place, &["run", "support-triage", "--input", input, "--top-k", "3"], &envs).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("delivery") && said.contains("receipt: req_"), "{said}");
    std::fs::write(place.dir.path().join("in.jsonl"), "{\"sentence\":\"It runs a hidden powershell command.\"}\n{\"sentence\":\"Files are encrypted and a ransom note is left.\"}\n").expect("a file");
    let (code, said) = tollgate(&place, &["--json", "run", "threat-intel-tagging", "--file", "in.jsonl"], &envs).await;
    assert_eq!(code, Some(0), "{said}");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["run"]["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(said["receipt"]["request_id"], said["run"]["id"]);
    let (code, said) = tollgate(&place, &["run", "support-triage", "--input", "{\"text\": 1}"], &envs).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("input 0"), "{said}");
    let (code, said) = tollgate(&place, &["run", "support-triage", "--input", "{"], &envs).await;
    assert_eq!((code, said.contains("no JSON")), (Some(2), true), "{said}");
    let (code, said) = tollgate(&place, &["run", "support-triage", "--input", "{}"], &envs[..1]).await;
    assert_eq!((code, said.contains("TOLLGATE_API_KEY")), (Some(2), true), "{said}");
    assert_eq!(program.stop().await.code, Some(0));
}

#[tokio::test]
async fn an_eval_that_a_template_does_not_pass_says_so_and_fails() {
    let place = Place::new(crate::world::simulator());
    template(place.dir.path(), POLICY);
    let manifest = place.dir.path().join("template/template.toml");
    let wants = |more: &str| std::fs::write(&manifest, format!("{MANIFEST}{more}")).expect("written");
    let eval = async || tollgate(&place, &["template", "eval", "template"], &[]).await;
    wants("[success]\naccuracy_min = 0.9\nanswered_min = 0.5\n");
    let (code, said) = eval().await;
    assert_eq!(code, Some(0), "{said}");
    wants("[success]\nusd_per_run_max = 0.000000000001\n");
    let (code, said) = eval().await;
    assert_eq!((code, said.contains("NO")), (Some(1), true), "{said}");
    wants("");
    std::fs::copy(place.dir.path().join("template/examples.jsonl"), place.dir.path().join("template/eval.jsonl"))
        .expect("copied");
    let (code, said) = tollgate(&place, &["template", "check", "template"], &[]).await;
    assert_eq!((code, said.contains("learned by heart")), (Some(1), true), "{said}");
}
