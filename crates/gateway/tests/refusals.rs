//! Every refusal of the public surface that can be met: its status, its code, what it says of trying again, and that the
//! gateway is none the worse for it.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tollgate_sim::{Options, Scenario, Speed};
use tollgate_types::{Clock, Timestamp};

use crate::scripted::{Reply, Scripted};
use crate::world::{Answer, Http, PROVIDER_KEY, Setup, World, ask, ask_stream, bearer, eventually, simulator};

const CHAT: &str = "/v1/chat/completions";

/// The answer is this refusal, in OpenAI's shape, and says `x-should-retry: false`.
fn check_final(answer: &Answer, status: u16, code: &str, words: &str) {
    check(answer, status, code, words);
    assert_eq!(answer.header("x-should-retry"), Some("false"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), None, "{}", answer.text());
}

fn check(answer: &Answer, status: u16, code: &str, words: &str) {
    assert_eq!(answer.refusal(), (status, code.to_owned()), "{}", answer.text());
    let error = &answer.json()["error"];
    assert!(error["type"].is_string() && error.get("param").is_some(), "{error}");
    assert!(answer.message().contains(words), "{words:?} in {}", answer.message());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(!answer.text().contains(PROVIDER_KEY));
}

fn new_year() -> Clock {
    Clock::manual(Timestamp::parse_rfc3339("2027-01-01T00:00:00Z").expect("a time"))
}

#[tokio::test]
async fn a_key_that_is_missing_or_unknown_or_malformed_is_refused_before_the_body_is_looked_at() {
    let world = World::start().await;
    let bad: [&[(&str, String)]; 6] = [
        &[],
        &[("authorization", "Bearer tg_unknown".to_owned())],
        &[("authorization", "Bearer ".to_owned())],
        &[("authorization", format!("Basic {}", world.key))],
        &[("authorization", world.key.clone())],
        &[("authorization", format!("Bearer {}{}", world.key, "x".repeat(300)))],
    ];
    for headers in bad {
        let answer = world.http.post(CHAT, headers, "not even JSON").await;
        check_final(&answer, 401, "invalid_api_key", "the API key is missing, unknown, expired or revoked");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
    }
    assert_eq!(world.gateway.app.books.audit().totals.requests, 0);
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_the_answer_on_and_a_stream_under_way_ends_well() {
    let sim = Options { speed: Speed::Paced(0.3), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    let stream = world.http.open(Method::POST, CHAT, &bearer(&world.key), ask_stream("gpt-4o-mini").to_string()).await;
    world.admin.revoke_key(&world.key_id).await.expect("revoked");
    check_final(&world.chat(ask("gpt-4o-mini")).await, 401, "invalid_api_key", "revoked");
    assert!(Answer::read(stream).await.text().ends_with("data: [DONE]\n\n"), "what was admitted is served");
}

#[tokio::test]
async fn an_expired_key_is_refused_from_its_moment_on() {
    let clock = new_year();
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let (_, key) = world.new_key(json!({"tenant": "demo", "expires_at": "2027-01-01T01:00:00Z"})).await;
    clock.advance(Duration::from_millis(3_599_999));
    assert_eq!(world.http.chat(&key, ask("gpt-4o-mini")).await.status, 200);
    clock.advance(Duration::from_millis(1));
    check_final(&world.http.chat(&key, ask("gpt-4o-mini")).await, 401, "invalid_api_key", "expired");
}

#[tokio::test]
async fn a_key_may_do_what_its_scopes_say_and_spend_for_its_own_project() {
    let world = World::start().await;
    let (_, chat_only) = world.new_key(json!({"tenant": "demo", "scopes": ["chat"]})).await;
    let (_, embeddings_only) = world.new_key(json!({"tenant": "demo", "scopes": ["embeddings"]})).await;
    let embed = json!({"model": "text-embedding-3-small", "input": "x"}).to_string();
    assert_eq!(world.http.chat(&chat_only, ask("gpt-4o-mini")).await.status, 200);
    assert_eq!(world.http.post("/v1/embeddings", &bearer(&embeddings_only), embed.clone()).await.status, 200);
    for (answer, scope) in [
        (world.http.chat(&embeddings_only, ask("gpt-4o-mini")).await, "'chat'"),
        (world.http.post("/v1/embeddings", &bearer(&chat_only), embed).await, "'embeddings'"),
        (world.http.get("/v1/models", &chat_only).await, "'models'"),
        (world.http.get("/v1/models/gpt-4o-mini", &chat_only).await, "'models'"),
    ] {
        check_final(&answer, 403, "role_denied", scope);
        assert_eq!(answer.json()["error"]["type"], "permission_error");
    }
    let project =
        |name: &str| [("authorization", format!("Bearer {}", world.key)), ("x-tollgate-project", name.to_owned())];
    let other = world.http.post(CHAT, &project("other"), ask("gpt-4o-mini").to_string()).await;
    check_final(&other, 403, "role_denied", "another project");
    assert_eq!(world.http.post(CHAT, &project("default"), ask("gpt-4o-mini").to_string()).await.status, 200);
}

#[tokio::test]
async fn a_model_or_an_address_that_is_not_there_is_not_found() {
    let world = World::start().await;
    let answer = world.chat(ask("gpt-17")).await;
    check_final(&answer, 404, "model_not_found", "'gpt-17'");
    assert_eq!(answer.json()["error"]["param"], "model");
    let long = world.chat(ask(&"x".repeat(100_000))).await;
    check_final(&long, 404, "model_not_found", "xxx");
    assert!(long.body.len() < 1_000, "and it is not sent back whole");
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, CHAT),
        (Method::POST, "/v1/completions"),
        (Method::POST, "/healthz"),
        (Method::DELETE, "/v1/models/gpt-4o-mini"),
        (Method::GET, "/t/demo"),
    ] {
        let answer = world.http.send(method, path, &bearer(&world.key), Bytes::new()).await;
        check_final(&answer, 404, "not_found", "nothing at this address");
    }
}

#[tokio::test]
async fn nothing_without_a_price_is_served_unless_the_plan_holds_a_fixed_amount_for_it() {
    let world = World::start().await;
    check_final(&world.chat(ask("unpriced")).await, 402, "price_unknown", "'unpriced'");
    let mut dearer = ask("gpt-4o-mini");
    dearer["service_tier"] = "priority".into();
    check_final(&world.chat(dearer).await, 402, "price_unknown", "'service_tier'");
    check_final(&world.chat(ask("text-embedding-3-small")).await, 402, "price_unknown", "output");
    assert_eq!(world.truth.totals().requests, 0, "nobody was asked");

    world.plan("standard", json!({"unpriced_hold_usd": "0.05"})).await;
    let answer = world.chat(ask("unpriced")).await;
    assert_eq!((answer.status, answer.header("x-tollgate-cost-usd")), (200, Some("0.05")));
    let event = world.event(answer.request_id()).await;
    assert_eq!((event.cost_picousd.as_str(), event.hold_cost_picousd.as_str()), ("50000000000", "50000000000"));
    assert_eq!(event.confidence, Some(tollgate_client::Confidence::Bounded));
    world.close().await;
}

#[tokio::test]
async fn what_has_no_bound_on_its_cost_is_refused_before_anybody_is_asked() {
    let world = World::start().await;
    let part = |part: Value| json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [part]}]});
    let with = |field: &str, value: Value| {
        let mut body = ask("gpt-4o-mini");
        body[field] = value;
        body
    };
    for (body, words) in [
        (part(json!({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})), "sound"),
        (part(json!({"type": "file", "file": {"file_id": "f"}})), "file"),
        (part(json!({"type": "hologram"})), "neither text nor an image"),
        (with("tools", json!([{"type": "web_search"}])), "a tool that the provider runs itself"),
        (with("web_search_options", json!({})), "web search"),
        (with("modalities", json!(["text", "audio"])), "modalities"),
        (with("audio", json!({"voice": "x"})), "audio"),
    ] {
        check_final(&world.chat(body).await, 422, "unbounded_request", words);
    }
    assert_eq!((world.truth.totals().requests, world.gateway.app.books.audit().totals.requests), (0, 0));
}

#[tokio::test]
async fn a_budget_that_is_used_up_says_whose_it_is_for_how_long_what_is_left_and_when_it_resets() {
    let clock = new_year();
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let scopes =
        [("tenant", json!({})), ("project", json!({"project": "default"})), ("key", json!({"key": world.key_id}))];
    let windows = [
        ("request", "does not reset"),
        ("day", "it resets at 2027-01-02T00:00:00Z"),
        ("month", "it resets at 2027-02-01T00:00:00Z"),
        ("lifetime", "does not reset"),
    ];
    for (scope, selector) in &scopes {
        for (window, resets) in windows {
            let mut budget = json!({"tenant": "demo", "window": window});
            budget.as_object_mut().expect("an object").extend(selector.as_object().expect("an object").clone());
            let mut setting = budget.clone();
            setting["cap_usd"] = "0.000001".into();
            world.budget(setting).await;
            for body in [ask("gpt-4o-mini"), ask_stream("gpt-4o-mini")] {
                let answer = world.chat(body).await;
                check_final(&answer, 429, "budget_exceeded", &format!("the {scope}'s {window} budget (cost)"));
                assert!(
                    answer.message().contains(" USD left and this request may need 0.0001"),
                    "{}",
                    answer.message()
                );
                assert!(answer.message().contains(resets), "{}", answer.message());
                assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
                for name in [world.key_id.as_str(), world.key.as_str()] {
                    assert!(!answer.text().contains(name), "{}", answer.text());
                }
            }
            let which = serde_json::from_value(budget).expect("a selector");
            world.admin.remove_budget(&which).await.expect("removed");
            assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200, "{scope} {window}: gone with its cap");
        }
    }
    assert_eq!(world.truth.totals().requests, 12, "who is refused is not asked for");
    world.close().await;
}

#[tokio::test]
async fn a_day_budget_begins_anew_at_midnight() {
    let clock = new_year();
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    // One request's hold fits, two requests' costs do not leave room for another's hold.
    world.budget(json!({"tenant": "demo", "window": "day", "cap_usd": "0.0002"})).await;
    let until_refused = async || {
        let mut served = 0;
        while world.chat(ask("gpt-4o-mini")).await.status == 200 {
            served += 1;
        }
        served
    };
    assert!(until_refused().await >= 1);
    clock.advance(Duration::from_secs(86_399));
    assert_eq!(until_refused().await, 0, "still the same day");
    clock.advance(Duration::from_secs(1));
    assert!(until_refused().await >= 1, "the day after");
}

#[tokio::test]
async fn waiting_exactly_as_long_as_a_rate_refusal_says_is_enough_and_less_is_not() {
    let clock = new_year();
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let (_, key) = world.new_key(json!({"tenant": "demo", "requests_per_minute": 7})).await;
    let chat = async || world.http.chat(&key, ask("gpt-4o-mini")).await;
    for _ in 0..7 {
        assert_eq!(chat().await.status, 200);
    }
    for _ in 0..3 {
        let refused = chat().await;
        check(&refused, 429, "rate_limited", "requests per minute of this key are limited to 7");
        assert_eq!(refused.header("x-should-retry"), Some("true"));
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
        let millis: u64 = refused.header("retry-after-ms").expect("when").parse().expect("a number");
        assert!((1..=60_000 / 7 + 1).contains(&millis), "{millis}");
        assert_eq!(refused.header("retry-after"), Some(millis.div_ceil(1000).to_string().as_str()));
        clock.advance(Duration::from_millis(millis - 1));
        assert_eq!(chat().await.status, 429, "a millisecond too early");
        clock.advance(Duration::from_millis(1));
        assert_eq!(chat().await.status, 200, "as told");
    }
    // A plan's limit holds for keys that have none of their own.
    world.plan("standard", json!({"requests_per_minute": 1})).await;
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200);
    check(&world.chat(ask("gpt-4o-mini")).await, 429, "rate_limited", "limited to 1");
}

#[tokio::test]
async fn parallel_requests_beyond_the_limit_are_told_to_come_again_and_then_served() {
    // Streams that begin and do not end: both are still at it, however slow the machine is.
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let provider = Scripted::start(Reply { falls_silent: true, ..Reply::stream(begun, begun.len()) }).await;
    let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
    let (_, key) = world.new_key(json!({"tenant": "demo", "parallel_requests": 2})).await;
    let open =
        async |key: &str| world.http.open(Method::POST, CHAT, &bearer(key), ask_stream("gpt-4.1").to_string()).await;
    let (first, second) = (open(&key).await, open(&key).await);
    let refused = world.http.chat(&key, ask("gpt-4.1")).await;
    check(&refused, 429, "rate_limited", "parallel requests of this key are limited to 2");
    assert_eq!((refused.header("retry-after"), refused.header("retry-after-ms")), (Some("1"), Some("1000")));
    assert_eq!(refused.header("x-should-retry"), Some("true"));
    assert_eq!(open(&world.key).await.status(), 200, "other keys are not held up");
    drop((first, second));
    eventually("a place to be free again", async || (open(&key).await.status() == 200).then_some(())).await;
}

#[tokio::test]
async fn malformed_requests_are_refused_with_the_place_and_hold_nothing() {
    let world = World::start().await;
    let deep = |n: usize| format!(r#"{{"model":"gpt-4o-mini","messages":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    let table: [(String, &str); 17] = [
        (String::new(), "not a JSON object"),
        ("{".to_owned(), "not a JSON object"),
        ("[]".to_owned(), "not a JSON object"),
        ("null".to_owned(), "not a JSON object"),
        (r#"{"model":"gpt-4o-mini","messages":[]} {}"#.to_owned(), "not a JSON object"),
        (r#"{"model":"gpt-4o-mini","model":"gpt-4o","messages":[]}"#.to_owned(), "model"),
        (r#"{"model":"gpt-4o-mini","max_tokens":1,"messages":[],"max_tokens":9}"#.to_owned(), "max_tokens"),
        (r#"{"model":"gpt-4o-mini","max_tokens":1,"messages":[],"max_\u0074okens":9}"#.to_owned(), "max_tokens"),
        (r#"{"messages":[]}"#.to_owned(), "'model' is required"),
        (r#"{"model":7,"messages":[]}"#.to_owned(), "'model'"),
        (r#"{"model":"gpt-4o-mini"}"#.to_owned(), "'messages' is required"),
        (r#"{"model":"gpt-4o-mini","messages":"hi"}"#.to_owned(), "'messages'"),
        (r#"{"model":"gpt-4o-mini","messages":[],"max_tokens":-1}"#.to_owned(), "'max_tokens'"),
        (r#"{"model":"gpt-4o-mini","messages":[],"max_tokens":0}"#.to_owned(), "'max_tokens'"),
        (r#"{"model":"gpt-4o-mini","messages":[],"n":129}"#.to_owned(), "'n'"),
        (r#"{"model":"gpt-4o-mini","messages":[],"stream":"yes"}"#.to_owned(), "'stream'"),
        (deep(200_000), "'messages'"),
    ];
    for (body, words) in table {
        let answer = world.http.post(CHAT, &bearer(&world.key), body).await;
        check_final(&answer, 400, "invalid_request", words);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let not_text = world.http.post(CHAT, &bearer(&world.key), Bytes::from_static(b"{\"model\":\"\xff\"}")).await;
    check_final(&not_text, 400, "invalid_request", "UTF-8");
    let no_input =
        world.http.post("/v1/embeddings", &bearer(&world.key), r#"{"model":"text-embedding-3-small"}"#).await;
    check_final(&no_input, 400, "invalid_request", "'input' is required");
    let long = [("authorization", format!("Bearer {}", world.key)), ("x-run-id", "x".repeat(257))];
    let attribution = world.http.post(CHAT, &long, ask("gpt-4o-mini").to_string()).await;
    check_final(&attribution, 400, "invalid_request", "x-run-id");
    assert_eq!((world.truth.totals().requests, world.gateway.app.books.audit().totals.requests), (0, 0));
}

#[tokio::test]
async fn fields_nested_without_end_neither_break_the_gateway_nor_pass_for_free() {
    let world = World::start().await;
    let deep = format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"x"}}],"x":{}{}}}"#,
        "[".repeat(300_000),
        "]".repeat(300_000)
    );
    let answer = world.http.post(CHAT, &bearer(&world.key), deep).await;
    assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200, "it lives");
}

#[tokio::test]
async fn a_body_larger_than_is_taken_is_answered_and_not_only_hung_up_on() {
    let world = World::of(Setup { server: "body_bytes_max = 8388608".to_owned(), ..Setup::default() }).await;
    let body = Bytes::from(vec![b'x'; 50 * 1024 * 1024]);
    for http in [world.http.clone(), Http::http2(&world.http.base)] {
        let answer = http.post(CHAT, &bearer(&world.key), body.clone()).await;
        check_final(&answer, 400, "invalid_request", "larger than 8388608 bytes");
    }
    let embeddings = world.http.post("/v1/embeddings", &bearer(&world.key), body).await;
    check_final(&embeddings, 400, "invalid_request", "larger than 8388608 bytes");
    let fits = format!(r#"{{"model":"gpt-4o-mini","messages":[],"x":"{}"}}"#, "y".repeat(8_388_608 - 44));
    assert_eq!(fits.len(), 8_388_608);
    let answer = world.http.post(CHAT, &bearer(&world.key), fits).await;
    assert!(!answer.text().contains("larger than"), "the largest that is taken is taken: {}", answer.text());
}

#[tokio::test]
async fn a_provider_that_fails_is_said_to_and_nothing_of_its_own_is_passed_on() {
    let world = World::start().await;
    for (model, status, code, words) in [
        ("gpt-4o-mini+rate-limit", 502, "provider_error", "status 429"),
        ("gpt-4o-mini+error-500", 502, "provider_error", "status 500"),
        ("gpt-4o-mini+error-503", 502, "provider_error", "status 503"),
        ("gpt-4o-mini+reset", 502, "provider_error", "could not be reached"),
        ("gpt-4o-mini+cut", 502, "provider_error", "broke off its answer"),
        ("gpt-4o-mini+malformed-chunk", 502, "provider_error", "cannot be read"),
        ("gpt-4o-mini+no-answer", 504, "provider_timeout", "did not begin to answer in time"),
        ("gpt-4o-mini+stall", 504, "provider_timeout", "in time"),
        ("dead", 502, "provider_error", "could not be reached"),
        ("stranger", 502, "provider_error", "status 401"),
    ] {
        let answer = world.chat(ask(model)).await;
        check(&answer, status, code, words);
        assert_eq!(answer.json()["error"]["type"], "api_error");
        assert!(!answer.text().contains("127.0.0.1") && !answer.text().contains("simulated"), "{}", answer.text());
        let (retry, wait) = (answer.header("x-should-retry"), answer.header("retry-after-ms"));
        match model {
            "gpt-4o-mini+rate-limit" => assert_eq!((retry, wait), (Some("true"), Some("1000")), "as the provider said"),
            _ => assert_eq!((retry, wait), (None, None), "{model}"),
        }
    }
    for (model, status) in [("gpt-4o-mini+error-500", 502), ("gpt-4o-mini+no-answer", 504), ("dead", 502)] {
        assert_eq!(world.chat(ask_stream(model)).await.status, status, "a stream that never began: {model}");
    }
    for (model, status) in [("text-embedding-3-small+cut", 502), ("text-embedding-3-small+stall", 504)] {
        assert_eq!(world.embed(json!({"model": model, "input": "x"})).await.status, status, "{model}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_pause_in_a_whole_answer_ends_at_the_idle_timeout_and_not_only_at_the_total_one() {
    let sim = tollgate_sim::spawn(simulator()).expect("a simulator");
    let more = format!(
        "[providers.patient]\npreset = \"simulator\"\nbase_url = \"{}\"\napi_key = \"env:SIM_KEY\"\nidle_timeout_ms = 300\n\
         [routes.patient]\nprovider = \"patient\"\nmodel = \"gpt-4o-mini+stall\"\n",
        sim.base_url()
    );
    let world = World::of(Setup { more, ..Setup::default() }).await;
    check(&world.chat(ask("patient")).await, 504, "provider_timeout", "did not go on with its answer in time");
}

#[tokio::test]
async fn no_answer_takes_longer_than_the_total_timeout_however_patient_the_others_are() {
    let script = Scenario { output_tokens_median: 4_000.0, ..simulator().script.expect("there is one") };
    let sim = tollgate_sim::spawn(Options { script: Some(script), speed: Speed::Paced(1.0), ..simulator() });
    let sim = sim.expect("a simulator");
    let more = format!(
        "[providers.brief]\npreset = \"simulator\"\nbase_url = \"{}\"\napi_key = \"env:SIM_KEY\"\ntotal_timeout_ms = 1500\n\
         [routes.brief]\nprovider = \"brief\"\nmodel = \"gpt-4o-mini\"\n\
         [routes.brief-stall]\nprovider = \"brief\"\nmodel = \"gpt-4o-mini+stall\"\n",
        sim.base_url()
    );
    let world = World::of(Setup { more, ..Setup::default() }).await;
    let calls = [ask("brief"), ask_stream("brief"), ask("brief-stall"), ask_stream("brief-stall")].map(|mut body| {
        body["max_tokens"] = 16_000.into();
        let world = &world;
        async move { world.chat(body).await }
    });
    for answer in futures_util::future::join_all(calls).await {
        assert!(answer.text().contains("\"provider_timeout\""), "{}", answer.text());
        assert!(!answer.broke_off && !answer.text().contains("[DONE]"));
        let event = world.event(answer.request_id()).await;
        assert_eq!((event.outcome.as_deref(), &event.cost_picousd), (Some("provider_broke"), &event.hold_cost_picousd));
    }
    world.close().await;
}

#[tokio::test]
async fn what_the_provider_says_of_the_callers_own_mistake_is_passed_on() {
    let world = World::start().await;
    let mut body = ask("gpt-4o-mini");
    body["temperature"] = 9.into();
    let answer = world.chat(body).await;
    check_final(&answer, 400, "invalid_request", "the provider refused the request: Invalid 'temperature'");
    let event = world.event(answer.request_id()).await;
    assert_eq!(event.state, tollgate_client::UsageState::Voided);
    for (reply, status, code) in [
        (Reply { status: 413, ..Reply::json("<html>") }, 400, "invalid_request"),
        (
            Reply { status: 404, ..Reply::json(r#"{"error":{"message":"no such key sk-1 at 10.1.1.1"}}"#) },
            502,
            "provider_error",
        ),
        (Reply { status: 302, ..Reply::json("") }, 502, "provider_error"),
        (Reply { content_type: "text/html", ..Reply::json("<html>fine</html>") }, 502, "provider_error"),
    ] {
        let provider = Scripted::start(reply).await;
        let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
        let answer = world.chat(ask("gpt-4.1")).await;
        check(&answer, status, code, "provider");
        assert!(!answer.text().contains("sk-1") && !answer.text().contains("<html>"), "{}", answer.text());
        assert_eq!(provider.count(), 1, "nothing is sent twice");
    }
}

#[tokio::test]
async fn without_room_in_the_journal_new_work_is_refused_what_is_under_way_ends_and_room_heals_it() {
    let small = || Setup { segment_bytes: 256 * 1024, ..Setup::default() };
    let world = World::of(small()).await;
    let key = world.key.clone();
    let dir = world.close().await;
    // Where the next segment would be made there is something that cannot be overwritten: it can never be made.
    let spare = dir.path().join("data/journal/spare");
    let _ = std::fs::remove_file(&spare);
    std::fs::create_dir(&spare).expect("an obstacle");
    let sim = Options { speed: Speed::Paced(0.02), ..simulator() };
    let mut world = World::reopened(Setup { sim, ..small() }, dir).await;
    world.key = key;

    let authorization = bearer(&world.key);
    let (refused, under_way) = loop {
        let calls = (0..16).map(|_| world.chat(ask("dead")));
        let under_way = world.http.open(Method::POST, CHAT, &authorization, ask_stream("gpt-4o-mini").to_string());
        let (under_way, answers) = futures_util::future::join(under_way, futures_util::future::join_all(calls)).await;
        match answers.into_iter().find(|answer| answer.status != 502) {
            Some(refused) => break (refused, under_way),
            None => drop(Answer::read(under_way).await),
        }
    };
    check(&refused, 503, "ledger_unavailable", "nothing may be spent");
    assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (Some("5"), Some("true")));
    if under_way.status() == 200 {
        assert!(Answer::read(under_way).await.text().ends_with("data: [DONE]\n\n"));
    }
    world.settled().await;
    std::fs::remove_dir(&spare).expect("removed");
    eventually("work to go on", async || (world.chat(ask("gpt-4o-mini")).await.status == 200).then_some(())).await;
    world.close().await;
}
