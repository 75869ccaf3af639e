//! Policies in force: what they refuse and change of real requests, for whom, from when on; and that nothing else may be.

use std::path::Path;

use serde_json::{Value, json};
use tollgate_client::{ClientError, PolicyOf};
use tollgate_policy::{File, archive};
use tollgate_types::{Clock, Timestamp};

use crate::scripted::{ANSWER, Reply, Scripted};
use crate::world::{Answer, Setup, World, ask, ask_stream, bearer};

/// The body of the module that decides.
pub fn bundle(rules: &str) -> Vec<u8> {
    packed(&[("tollgate/admission.rego", &format!("package tollgate.admission\n{rules}\n"))])
}

fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), bytes: text.as_bytes().to_vec() };
    archive::pack(&files.iter().map(file).collect::<Vec<_>>()).expect("small enough")
}

fn platform() -> PolicyOf {
    PolicyOf { platform: true, ..PolicyOf::default() }
}

fn tenant(id: &str) -> PolicyOf {
    PolicyOf { tenant: Some(id.to_owned()), ..PolicyOf::default() }
}

fn plan() -> PolicyOf {
    PolicyOf { plan: Some("standard".to_owned()), ..PolicyOf::default() }
}

fn check_denied(answer: &Answer, words: &str) {
    assert_eq!(answer.refusal(), (403, "policy_denied".to_owned()), "{}", answer.text());
    assert!(answer.message().contains(words), "{words:?} in {}", answer.message());
    assert_eq!((answer.header("x-should-retry"), answer.header("retry-after")), (Some("false"), None));
    assert_eq!(answer.json()["error"]["type"], "permission_error");
}

async fn refused(world: &World, of: &PolicyOf, archive: Vec<u8>, words: &str) {
    match world.admin.push_policy(of, archive).await {
        Err(ClientError::Refused { status: 400, message, .. }) => {
            assert!(message.contains(words), "{words:?} in {message}")
        }
        other => panic!("{words}: {other:?}"),
    }
}

/// A world whose route `s` and `s/fallback` lead to a provider that remembers what it was asked.
async fn listening() -> (World, Scripted) {
    let provider = Scripted::start(Reply::json(ANSWER)).await;
    let more =
        provider.sections() + "[routes.s]\nprovider = \"scripted\"\nmodel = \"gpt-4.1\"\nmax_tokens_default = 321\n";
    (World::of(Setup { more, ..Setup::default() }).await, provider)
}

fn heard(provider: &Scripted) -> Value {
    serde_json::from_slice(&provider.last().body).expect("JSON")
}

#[tokio::test]
async fn a_policy_is_in_force_from_the_answer_on_for_whom_it_is_and_until_it_is_taken_away() {
    let world = World::start().await;
    let (_, other) = world.tenant("other").await;
    let before = world.chat(ask("gpt-4o-mini")).await;
    assert_eq!((before.status, before.header("x-tollgate-policy")), (200, None));

    let no_streams =
        "allow if not input.request.stream\ndeny contains \"streams are not for you\" if input.request.stream";
    let policy = world.admin.push_policy(&tenant("demo"), bundle(no_streams)).await.expect("a good bundle");
    assert_eq!((policy.layer.as_str(), policy.tenant.as_deref(), policy.earlier), ("tenant", Some("demo"), 0));
    assert_eq!(policy.reads, ["input.request.stream"]);
    check_denied(&world.chat(ask_stream("gpt-4o-mini")).await, "the tenant's policy says: streams are not for you");
    let passed = world.chat(ask("gpt-4o-mini")).await;
    let fingerprint = passed.header("x-tollgate-policy").expect("a policy let it pass").to_owned();
    assert!(fingerprint.starts_with("pf_") && fingerprint.len() == 35, "{fingerprint}");
    assert_eq!(world.http.chat(&other, ask_stream("gpt-4o-mini")).await.status, 200, "it is another's law");

    world.event(passed.request_id()).await;
    let receipt = world.admin.receipt(passed.request_id()).await.expect("a receipt");
    let text = serde_json::to_string(&receipt).expect("JSON");
    assert!(text.contains(&fingerprint), "{text}");

    // An unrelated change changes no fingerprint; a related one does.
    let commented = format!("# why\n{no_streams}");
    world.admin.push_policy(&tenant("demo"), bundle(&commented)).await.expect("a good bundle");
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.header("x-tollgate-policy"), Some(fingerprint.as_str()));
    world.admin.push_policy(&tenant("demo"), bundle("allow := true")).await.expect("a good bundle");
    let wide = world.chat(ask_stream("gpt-4o-mini")).await;
    assert_eq!(wide.status, 200);
    assert_ne!(wide.header("x-tollgate-policy"), Some(fingerprint.as_str()));

    let back = world.admin.roll_policy_back(&tenant("demo")).await.expect("there is one before");
    assert_eq!(back.earlier, 1);
    check_denied(&world.chat(ask_stream("gpt-4o-mini")).await, "streams are not for you");
    world.admin.remove_policy(&tenant("demo")).await.expect("removed");
    assert_eq!(world.chat(ask_stream("gpt-4o-mini")).await.header("x-tollgate-policy"), None);
    assert!(world.admin.policies().await.expect("a list").is_empty());
    world.close().await;
}

#[tokio::test]
async fn layers_only_narrow_and_nothing_is_asked_or_held_for_what_is_denied() {
    let world = World::start().await;
    let never = "deny contains \"closed\" if input.request.surface == \"embeddings\"\nallow := true";
    world.admin.push_policy(&platform(), bundle(never)).await.expect("a good bundle");
    world.admin.push_policy(&plan(), bundle("allow if input.request.route == \"gpt-4o-mini\"")).await.expect("good");
    world.admin.push_policy(&tenant("demo"), bundle("allow := true")).await.expect("a good bundle");
    let layers: Vec<String> =
        world.admin.policies().await.expect("a list").into_iter().map(|policy| policy.layer).collect();
    assert_eq!(layers, ["platform", "plan", "tenant"]);
    let embed = world.embed(json!({"model": "text-embedding-3-small", "input": "x"})).await;
    check_denied(&embed, "the platform's policy says: closed");
    check_denied(&world.chat(ask("gpt-4o")).await, "no rule of the plan's policy allows it");
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200);
    assert_eq!((world.truth.totals().requests, world.gateway.app.books.audit().totals.requests), (1, 1));
    world.close().await;
}

#[tokio::test]
async fn a_bundle_that_does_not_hold_is_refused_whole_and_the_last_good_one_stays() {
    let world = World::start().await;
    world.admin.push_policy(&tenant("demo"), bundle("allow := false")).await.expect("a good bundle");
    let good = ("tollgate/admission.rego", "package tollgate.admission\nallow := true\n");
    for (archive, words) in [
        (b"not an archive".to_vec(), "no tar.gz"),
        (bundle("allow if {"), "admission.rego:3"),
        (bundle("allow if input.request.modle == 1"), "nobody is asked 'input.request.modle'"),
        (bundle("deny contains \"x\""), "no rule says data.tollgate.admission.allow"),
        (bundle("allow if time.now_ns() > 0"), "input.time"),
        (packed(&[good, ("x_test.rego", "package x_test\ntest_it if 1 == 2\n")]), "do not pass: data.x_test.test_it"),
        (packed(&[good, (".manifest", r#"{"roots": ["elsewhere"]}"#)]), "outside of the manifest's roots"),
        (packed(&[("README.md", "words")]), "no Rego module"),
    ] {
        refused(&world, &tenant("demo"), archive, words).await;
        check_denied(&world.chat(ask("gpt-4o-mini")).await, "no rule of the tenant's policy allows it");
    }
    for (of, status) in [(tenant("nobody"), 404), (PolicyOf::default(), 400)] {
        let error = world.admin.push_policy(&of, bundle("allow := true")).await.expect_err("nobody's");
        assert!(matches!(error, ClientError::Refused { status: found, .. } if found == status), "{error:?}");
    }
    assert!(world.admin.roll_policy_back(&tenant("demo")).await.is_err(), "there is none before");
    world.close().await;
}

#[tokio::test]
async fn what_cannot_be_decided_is_refused_and_the_next_request_is_served() {
    let world = World::start().await;
    let list: Vec<u32> = (0..1_000).collect();
    let data = json!({ "n": list }).to_string();
    let slow = "package tollgate.admission\nallow if input.request.choices == 1\n\
                allow if { input.request.choices == 2; count([1 | some a in data.n; some b in data.n; a + b > 0]) > 0 }\n\
                obligations := {\"sing\": true} if input.request.choices == 3\nallow if input.request.choices == 3\n";
    let archive = packed(&[("tollgate/admission.rego", slow), ("data.json", &data)]);
    world.admin.push_policy(&platform(), archive).await.expect("it is good, but slow");
    for _ in 0..3 {
        let mut body = ask("gpt-4o-mini");
        body["n"] = 2.into();
        check_denied(&world.chat(body.clone()).await, "the platform's policy: the policy did not decide");
        body["n"] = 3.into();
        check_denied(&world.chat(body).await, "unknown field `sing`");
        assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200);
    }
    world.close().await;
}

#[tokio::test]
async fn answers_are_shortened_or_refused_as_the_policy_says() {
    let (world, provider) = listening().await;
    let limit = |over: &str| {
        format!("allow := true\nobligations := {{\"max_tokens\": {{\"limit\": 100, \"over\": \"{over}\"}}}}")
    };
    world.admin.push_policy(&tenant("demo"), bundle(&limit("clamp"))).await.expect("a good bundle");
    for (asked, sent) in [(Value::Null, 100), (json!(50), 50), (json!(100), 100), (json!(5_000), 100)] {
        let mut body = ask("s");
        if !asked.is_null() {
            body["max_tokens"] = asked.clone();
        }
        let answer = world.chat(body).await;
        let heard = heard(&provider);
        let bound = heard.get("max_tokens").or_else(|| heard.get("max_completion_tokens"));
        assert_eq!((answer.status, bound), (200, Some(&json!(sent))), "{asked}");
        let event = world.event(answer.request_id()).await;
        let hold: u128 = event.hold_cost_picousd.parse().expect("a number");
        assert!(hold <= 100 * 8_000_000 + 2_000_000 * 2_000, "held for no more than that: {event:?}");
    }
    world.admin.push_policy(&tenant("demo"), bundle(&limit("refuse"))).await.expect("a good bundle");
    let mut body = ask("s");
    body["max_completion_tokens"] = 101.into();
    check_denied(&world.chat(body).await, "at most 100 output tokens");
    assert_eq!(world.chat(ask("s")).await.status, 200, "who does not say is given what there is");
    world.close().await;
}

#[tokio::test]
async fn a_provider_does_not_see_what_the_policy_redacts() {
    let (world, provider) = listening().await;
    let redact = "allow := true\nobligations := {\"redact\": [{\"name\": \"email\"}, {\"name\": \"case\", \"regex\": \"C-[0-9]+\"}], \"retention_days\": 0}";
    world.admin.push_policy(&tenant("demo"), bundle(redact)).await.expect("a good bundle");
    let mut body = ask("s");
    body["messages"][0]["content"] = "ada@example.org asks about C-17, again".into();
    body["x_unknown"] = json!({"kept": [1, 2.5]});
    assert_eq!(world.chat(body.clone()).await.status, 200);
    let sent = heard(&provider);
    assert_eq!(sent["messages"][0]["content"], "[email] asks about [case], again");
    assert_eq!(sent["x_unknown"], body["x_unknown"]);
    let headers = [bearer(&world.key)[0].clone(), ("idempotency-key", "once".to_owned())];
    let kept = world.http.post("/v1/chat/completions", &headers, body.to_string()).await;
    check_denied(&kept, "leave out the Idempotency-Key");
    let asked = provider.count();
    let bad = "allow := true\nobligations := {\"redact\": [{\"name\": \"dna\"}]}";
    world.admin.push_policy(&tenant("demo"), bundle(bad)).await.expect("only a request shows it");
    check_denied(&world.chat(body).await, "'dna' is none of");
    assert_eq!(provider.count(), asked);
    world.close().await;
}

#[tokio::test]
async fn models_and_regions_are_held_to_also_by_fallbacks() {
    let eu = Scripted::start(Reply::error(503, None)).await;
    let us = Scripted::start(Reply::json(ANSWER)).await;
    let provider = |name: &str, scripted: &Scripted, region: &str| {
        let url = &scripted.base_url;
        format!("[providers.{name}]\nbase_url = \"{url}\"\npriced_as = \"simulator\"\n{region}\n")
    };
    let more = provider("eu", &eu, "region = \"eu\"")
        + &provider("us", &us, "region = \"us\"")
        + "[routes.both]\nprovider = \"eu\"\nmodel = \"gpt-4.1\"\nfallbacks = [{ provider = \"us\", model = \"gpt-4.1\" }]\n\
           [routes.far]\nprovider = \"us\"\nmodel = \"gpt-4.1\"\n";
    let world = World::of(Setup { more, ..Setup::default() }).await;
    assert_eq!(world.chat(ask("both")).await.status, 200, "the fallback answers");
    assert_eq!(us.count(), 1);
    let here = "allow := true\nobligations := {\"regions\": [\"eu\"], \"models\": [\"b*\", \"far\", \"gpt-4o-mini\"]}";
    world.admin.push_policy(&tenant("demo"), bundle(here)).await.expect("a good bundle");
    assert_eq!(world.chat(ask("both")).await.refusal(), (502, "provider_error".to_owned()));
    check_denied(&world.chat(ask("far")).await, "does not allow the region");
    check_denied(&world.chat(ask("gpt-4o-mini")).await, "does not allow the region");
    check_denied(&world.chat(ask("renamed")).await, "does not allow the model 'renamed'");
    assert_eq!(us.count(), 1, "nobody elsewhere was asked");
    let tokens = "allow := true\nobligations := {\"redact\": [{\"name\": \"email\"}]}";
    world.admin.push_policy(&tenant("demo"), bundle(tokens)).await.expect("a good bundle");
    check_denied(&world.embed(json!({"model": "text-embedding-3-small", "input": [1, 2]})).await, "send the text");
    let second = "allow := true\nobligations := {\"second_approval\": true}";
    world.admin.push_policy(&tenant("demo"), bundle(second)).await.expect("a good bundle");
    check_denied(&world.chat(ask("both")).await, "a second person's approval");
    world.close().await;
}

/// The rule sees who is asked, also when that is the second one.
#[tokio::test]
async fn a_fallback_is_judged_like_the_first() {
    let first = Scripted::start(Reply::error(503, None)).await;
    let second = Scripted::start(Reply::json(ANSWER)).await;
    let provider = |name: &str, scripted: &Scripted| {
        format!("[providers.{name}]\nbase_url = \"{}\"\npriced_as = \"simulator\"\n", scripted.base_url)
    };
    let more = provider("first", &first)
        + &provider("second", &second)
        + "[routes.both]\nprovider = \"first\"\nmodel = \"gpt-4.1\"\nfallbacks = [{ provider = \"second\", model = \"gpt-4.1\" }]\n";
    let world = World::of(Setup { more, ..Setup::default() }).await;
    let not_second = "allow := true\ndeny contains \"not there\" if input.request.provider == \"second\"";
    world.admin.push_policy(&tenant("demo"), bundle(not_second)).await.expect("a good bundle");
    assert_eq!(world.chat(ask("both")).await.refusal(), (502, "provider_error".to_owned()));
    assert_eq!((first.count(), second.count()), (1, 0));
    world.admin.push_policy(&tenant("demo"), bundle("allow := true")).await.expect("a good bundle");
    assert_eq!(world.chat(ask("both")).await.status, 200);
    assert_eq!((first.count(), second.count()), (2, 1));
    world.close().await;
}

/// An answer that is kept is given again only to whom, and while, the policy would let it be asked.
#[tokio::test]
async fn an_answer_is_given_again_only_where_it_might_be_asked_for() {
    let (world, provider) = listening().await;
    let (second_id, second) = world.new_key(json!({"tenant": "demo"})).await;
    let ask_as = async |key: &str| {
        let headers = [bearer(key)[0].clone(), ("idempotency-key", "once".to_owned())];
        world.http.post("/v1/chat/completions", &headers, ask("s").to_string()).await
    };
    assert_eq!(ask_as(&world.key).await.status, 200);
    let rule = format!("allow := true\ndeny contains \"not this key\" if input.principal.key == \"{second_id}\"");
    world.admin.push_policy(&tenant("demo"), bundle(&rule)).await.expect("a good bundle");
    check_denied(&ask_as(&second).await, "not this key");
    let again = ask_as(&world.key).await;
    assert_eq!((again.status, again.header("idempotent-replayed"), provider.count()), (200, Some("true"), 1));
    let nothing = "allow := true\nobligations := {\"retention_days\": 0}";
    world.admin.push_policy(&tenant("demo"), bundle(nothing)).await.expect("a good bundle");
    check_denied(&ask_as(&world.key).await, "leave out the Idempotency-Key");
    assert_eq!(provider.count(), 1);
    world.close().await;
}

#[tokio::test]
async fn hours_are_kept_in_the_tenants_zone() {
    let clock = Clock::manual(Timestamp::parse_rfc3339("2026-11-26T07:59:00Z").expect("a time"));
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let hours = "allow if { input.time.hour >= 9; input.time.weekday == \"thursday\" }";
    world.admin.push_policy(&tenant("demo"), bundle(hours)).await.expect("a good bundle");
    check_denied(&world.chat(ask("gpt-4o-mini")).await, "no rule of the tenant's policy allows it");
    let berlin = serde_json::from_value(json!({"time_zone": "Europe/Berlin"})).expect("settings");
    world.admin.set_tenant("demo", &berlin).await.expect("set");
    check_denied(&world.chat(ask("gpt-4o-mini")).await, "no rule");
    clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200, "nine o'clock in Berlin");
    world.close().await;
}

#[tokio::test]
async fn policies_outlive_the_process_and_a_damaged_one_stops_the_start() {
    let world = World::start().await;
    let key = world.key.clone();
    world.admin.push_policy(&tenant("demo"), bundle("allow if input.request.stream")).await.expect("a good bundle");
    let passed = world.chat(ask_stream("gpt-4o-mini")).await;
    let fingerprint = passed.header("x-tollgate-policy").map(str::to_owned);
    let dir = world.close().await;
    let world = World::reopened(Setup::default(), dir).await;
    let passed = world.http.chat(&key, ask_stream("gpt-4o-mini")).await;
    assert_eq!((passed.status, passed.header("x-tollgate-policy").map(str::to_owned)), (200, fingerprint));
    check_denied(&world.http.chat(&key, ask("gpt-4o-mini")).await, "no rule of the tenant's policy allows it");
    let dir = world.close().await;

    let policies = dir.path().join("data/policies");
    let file = std::fs::read_dir(&policies).expect("a folder").next().expect("a bundle").expect("readable").path();
    let mut bytes = std::fs::read(&file).expect("a bundle");
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let error = failure_to_start(dir.path());
    assert!(error.contains("it is not what was pushed"), "{error}");
    std::fs::remove_file(&file).expect("removed");
    assert!(failure_to_start(dir.path()).contains("the policy bundle"), "{error}");
}

fn failure_to_start(dir: &Path) -> String {
    use tollgate_gateway::config::{Config, Environment};
    let text = format!("[server]\nlisten = \"127.0.0.1:0\"\n[store]\ndir = {:?}\n", dir.join("data"));
    let environment = Environment::of([
        ("TOLLGATE_MASTER_KEY", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("TOLLGATE_ADMIN_KEY", crate::world::ADMIN_KEY),
    ]);
    let config = Config::parse(&text, Path::new("tollgate.toml"), &environment).expect("a good configuration");
    let error = tollgate_gateway::serve::start(&config, Clock::System).err().expect("it does not start");
    format!("{error:#}")
}
