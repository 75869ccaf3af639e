//! The wire: what passes, passes unchanged; what is added, is added where the SDKs look for it; and the traps that
//! strict clients set.

use bytes::Bytes;
use http::{Method, Version};
use serde_json::{Value, json};
use tollgate_client::Confidence;
use tollgate_sim::Speed;

use crate::scripted::{Reply, Scripted};
use crate::world::{
    Answer, DONE, Http, PROVIDER_KEY, Setup, World, ask, ask_stream, bearer, eventually, simulator, within,
};

const CHAT: &str = "/v1/chat/completions";
/// Spaces, key order, escapes and numbers as nobody but a person would write them, and fields nobody knows.
const ODD_ANSWER: &str = concat!(
    "{ \"object\" : \"chat.completion\",\n  \"x_new\":{\"z\":1.50,\"a\":[ ]}, \"id\":\"c\\u0031\",",
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"é\\u00e9 \\/\"},\"finish_reason\":\"stop\"}],",
    "\"usage\" : {\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13, \"x_more\":1e0} }\n"
);

async fn scripted(reply: Reply) -> (World, Scripted) {
    let provider = Scripted::start(reply).await;
    let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
    (world, provider)
}

async fn post(world: &World, body: &str) -> Answer {
    world.http.post(CHAT, &bearer(&world.key), body.to_owned()).await
}

#[tokio::test]
async fn a_chat_passes_byte_for_byte_both_ways() {
    let (world, provider) = scripted(Reply::json(ODD_ANSWER)).await;
    let sent = "{ \"x_unknown\" : {\"b\":1.50, \"a\":[ ]},\"model\":\"gpt-4.1\" ,\n\"messages\":[{\"role\":\"user\",\
                \"content\":\"\\u00e9 é \\/\",\"x\":null}], \"max_tokens\" : 7,\"temperature\":0.10,\"n\":1}";
    let answer = post(&world, sent).await;
    assert_eq!((answer.status, answer.text()), (200, ODD_ANSWER));
    let seen = provider.last();
    assert_eq!((seen.path.as_str(), &seen.body[..]), (CHAT, sent.as_bytes()));

    // Another name at the provider: the name is all that changes.
    let renamed = sent.replace("\"gpt-4.1\"", "\"alias\"");
    let answer = post(&world, &renamed).await;
    assert_eq!((answer.status, answer.text()), (200, ODD_ANSWER));
    assert_eq!(provider.last().body, sent.as_bytes());
    assert_eq!(answer.header("x-tollgate-model"), Some("gpt-4.1"));
}

#[tokio::test]
async fn a_bound_on_output_is_sent_under_the_name_that_the_provider_reads() {
    let (world, provider) = scripted(Reply::json(ODD_ANSWER)).await;
    for (sent, arrived) in [
        (r#"{"model":"gpt-4.1","messages":[]}"#, r#"{"model":"gpt-4.1","messages":[],"max_tokens":321}"#),
        (
            r#"{"model":"gpt-4.1-mini","messages":[]}"#,
            r#"{"model":"gpt-4.1-mini","messages":[],"max_completion_tokens":321}"#,
        ),
        (
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":null}"#,
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":321}"#,
        ),
        (
            r#"{"model":"gpt-4.1","messages":[],"max_completion_tokens":5}"#,
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":5}"#,
        ),
        (
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":5,"stream":true}"#,
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":5,"stream":true,"stream_options":{"x":1,"include_usage":false}}"#,
            r#"{"model":"gpt-4.1","messages":[],"max_tokens":5,"stream":true,"stream_options":{"x":1,"include_usage":true}}"#,
        ),
    ] {
        assert_eq!(post(&world, sent).await.status, 200, "{sent}");
        assert_eq!(provider.last().body, arrived.as_bytes());
    }
}

#[tokio::test]
async fn the_provider_gets_its_own_key_our_request_id_and_nothing_else_of_the_callers() {
    let (world, provider) = scripted(Reply::json(ODD_ANSWER)).await;
    let headers = [
        ("authorization", format!("Bearer {}", world.key)),
        ("x-api-key", world.key.clone()),
        ("x-sim-fault", "error-500".to_owned()),
        ("x-run-id", "run-7".to_owned()),
        ("x-request-id", "req_of_the_caller".to_owned()),
        ("cookie", "a=b".to_owned()),
    ];
    let answer = world.http.post(CHAT, &headers, r#"{"model":"gpt-4.1","messages":[]}"#).await;
    let seen = provider.last();
    let sent = |name: &str| seen.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(sent("authorization"), Some(format!("Bearer {PROVIDER_KEY}")));
    assert_eq!(sent("x-request-id").as_deref(), Some(answer.request_id()));
    for name in ["x-api-key", "x-sim-fault", "x-run-id", "cookie"] {
        assert_eq!(sent(name), None, "{name}");
    }
    assert!(!format!("{seen:?}").contains(&world.key), "the caller's key stays here");
}

#[tokio::test]
async fn an_unknown_field_is_echoed_by_the_simulator_through_both_ways() {
    let world = World::start().await;
    let mut body = ask("gpt-4o-mini");
    body["x_echo"] = json!({"b": [1.5, null], "a": "é"});
    let answer = world.chat(body.clone()).await;
    assert_eq!(answer.json()["x_echo"], body["x_echo"]);
    body["stream"] = true.into();
    let chunks = world.chat(body.clone()).await.chunks();
    assert!(chunks.len() > 3 && chunks.iter().all(|chunk| chunk["x_echo"] == body["x_echo"]));
}

#[tokio::test]
async fn tools_make_their_round_trip() {
    let world = World::start().await;
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]);
    let mut body = ask("gpt-4o-mini");
    body["tools"] = tools;
    body["tool_choice"] = json!({"type": "function", "function": {"name": "get_weather"}});
    // Whatever the simulator thinks of to say in the end, it is not cut.
    body["max_tokens"] = 10_000.into();
    let first = world.chat(body.clone()).await.json();
    let choice = &first["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = choice["message"]["tool_calls"][0].clone();
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().expect("text")).expect("JSON");
    assert!(arguments["city"].is_string());

    body["stream"] = true.into();
    let chunks = world.chat(body.clone()).await.chunks();
    let streamed = chunks.iter().filter_map(|chunk| {
        chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str().map(str::to_owned)
    });
    let streamed: Value = serde_json::from_str(&streamed.collect::<String>()).expect("the pieces are JSON together");
    assert!(streamed["city"].is_string());

    body["stream"] = false.into();
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "{\"degrees\": 21}"}));
    let last = world.chat(body).await.json();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(last["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with("Simulated")));
}

#[tokio::test]
async fn response_format_images_n_and_logprobs_reach_the_provider_and_come_back() {
    let world = World::start().await;
    let mut body = ask("gpt-4o-mini");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}}});
    let content = world.chat(body).await.json()["choices"][0]["message"]["content"].clone();
    let content: Value = serde_json::from_str(content.as_str().expect("text")).expect("JSON");
    assert!(content["ok"].is_boolean());

    let image = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}]}]});
    let answer = world.chat(image).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["usage"]["prompt_tokens"].as_u64() > Some(85), "the picture was counted");

    let mut body = ask("gpt-4o-mini");
    (body["n"], body["logprobs"], body["top_logprobs"]) = (3.into(), true.into(), 2.into());
    let choices = world.chat(body.clone()).await.json()["choices"].clone();
    let choices = choices.as_array().expect("a list");
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    assert_eq!(choices[2]["logprobs"]["content"][0]["top_logprobs"].as_array().map(Vec::len), Some(2));

    body["stream"] = true.into();
    let chunks = world.chat(body).await.chunks();
    for choice in 0..3_u64 {
        let of_it = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|c| c["index"] == choice);
        assert_eq!(of_it.filter(|c| !c["finish_reason"].is_null()).count(), 1, "choice {choice} ends once");
    }
    world.close().await;
}

#[tokio::test]
async fn who_did_not_ask_for_usage_on_a_stream_sees_none_of_it_and_still_the_cost() {
    let world = World::start().await;
    for options in [Value::Null, json!({}), json!({"include_usage": false})] {
        let mut body = ask_stream("gpt-4o-mini");
        if !options.is_null() {
            body["stream_options"] = options;
        }
        let answer = world.chat(body).await;
        assert!(!answer.text().contains("\"usage\""), "{}", answer.text());
        let chunks = answer.chunks();
        assert!(chunks.iter().all(|chunk| chunk["choices"].as_array().is_some_and(|choices| choices.len() == 1)));
        check_whole_stream(&world, &answer).await;
    }
}

#[tokio::test]
async fn who_asked_for_usage_on_a_stream_gets_it_as_openai_sends_it() {
    let world = World::start().await;
    let mut body = ask_stream("gpt-4o-mini");
    body["stream_options"] = json!({"include_usage": true});
    let answer = world.chat(body).await;
    let mut chunks = answer.chunks();
    let last = chunks.pop().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    let truth = world.truth.get(answer.request_id()).expect("the provider saw it");
    assert_eq!(last["usage"]["prompt_tokens"], truth.prompt_tokens);
    assert_eq!(last["usage"]["completion_tokens"], truth.completion_tokens);
    assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)), "all others: null");
    check_whole_stream(&world, &answer).await;
}

/// What every stream that ended well has: chunks that strict clients can read, the cost, then the end mark.
async fn check_whole_stream(world: &World, answer: &Answer) {
    assert_eq!((answer.status, answer.broke_off), (200, false));
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let text = answer.text();
    let (_, tail) = text.rsplit_once("\n\n: ").expect("a comment");
    let (comment, end) = tail.split_once("\n\n").expect("the comment ends");
    assert_eq!(end, DONE, "the end mark comes last, and once");
    assert_eq!(answer.events().iter().filter(|event| **event == "[DONE]").count(), 1);
    let event = world.event(answer.request_id()).await;
    let field = |name: &str| comment.split(' ').find_map(|field| field.strip_prefix(&format!("{name}=")));
    assert_eq!(field("x-request-id"), Some(answer.request_id()));
    let usd = |name| picousd(field(name).expect("a cost"));
    assert_eq!(usd("x-tollgate-cost-usd"), event.cost_picousd);
    assert_eq!(usd("x-tollgate-charge-usd"), event.charge_picousd);
    let chunks = answer.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    for chunk in &chunks {
        for choice in chunk["choices"].as_array().expect("'choices' is never null or missing") {
            assert!(choice["index"].is_u64(), "{chunk}");
            assert_ne!(choice["delta"].get("role"), Some(&Value::Null), "{chunk}");
        }
    }
}

/// Dollars in text as picodollars in text.
fn picousd(usd: &str) -> String {
    tollgate_types::PicoUsd::parse_usd(usd).expect("dollars").0.to_string()
}

#[tokio::test]
async fn a_stream_passes_byte_for_byte_wherever_the_network_cuts_it() {
    const EVENTS: &str = concat!(
        ": hello\n\nevent: x\ndata: {\"id\" : \"1\", \"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\u00e9 é\"},",
        "\"x_odd\":1.50}]}\r\n\r\ndata:{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
    );
    for piece_bytes in [1, 7, 4096] {
        let (world, _provider) = scripted(Reply::stream(&format!("{EVENTS}{DONE}"), piece_bytes)).await;
        let mut body = ask_stream("gpt-4.1");
        body["stream_options"] = json!({"include_usage": true});
        let answer = world.chat(body).await;
        let (passed, comment) = answer.text().split_at(EVENTS.len());
        assert_eq!(passed, EVENTS);
        assert!(comment.starts_with(": x-request-id=req_") && comment.ends_with(DONE), "{comment}");
        let event = world.event(answer.request_id()).await;
        assert_eq!((event.input_tokens, event.output_tokens), (3, 2));
    }
}

#[tokio::test]
async fn a_stream_beyond_its_bound_ends_there_like_a_limited_answer_and_costs_its_hold() {
    let events = |tokens: u32| -> String {
        let event = |at| {
            format!(
                "data: {{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"m\",\"choices\":\
                 [{{\"index\":0,\"delta\":{{\"content\":\"w{at} \"}},\"finish_reason\":null}}]}}\n\n"
            )
        };
        (0..tokens).map(event).collect()
    };
    let end = "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"m\",\"choices\":\
               [{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}\n\n";
    for (piece_bytes, include_usage) in [(1, false), (50, true), (1 << 20, false)] {
        let said = format!("{}{usage}{DONE}", events(9));
        let (world, _provider) = scripted(Reply::stream(&said, piece_bytes)).await;
        let mut body = ask_stream("gpt-4.1");
        body["stream_options"] = json!({"include_usage": include_usage});
        // As many as it may: it goes on to its own end, and costs what it says.
        body["max_tokens"] = 9.into();
        let whole = world.chat(body.clone()).await;
        assert!(whole.text().starts_with(&events(9)) && whole.text().ends_with(DONE), "{}", whole.text());
        assert_eq!(world.event(whole.request_id()).await.outcome.as_deref(), Some("completed"));
        body["max_tokens"] = 8.into();
        let answer = world.chat(body).await;
        let (passed, comment) = answer.text().split_at(events(8).len() + end.len());
        assert_eq!(passed, format!("{}{end}", events(8)));
        assert!(comment.starts_with(": x-request-id=req_") && comment.ends_with(DONE), "{comment}");
        let event = world.event(answer.request_id()).await;
        assert_eq!((event.outcome.as_deref(), event.confidence), (Some("cut_at_hold"), Some(Confidence::Bounded)));
        assert_eq!((&event.cost_picousd, event.output_tokens), (&event.hold_cost_picousd, 0));
        let metrics = world.http.get("/metrics", "").await;
        assert!(metrics.text().contains("outcome=\"cut_at_hold\"} 1"), "{}", metrics.text());
    }
}

#[tokio::test]
async fn an_error_inside_a_stream_is_an_event_the_sdks_raise_and_never_a_clean_end() {
    let world = World::start().await;
    for (model, code) in [
        ("gpt-4o-mini+cut", "provider_error"),
        ("gpt-4o-mini+malformed-chunk", "provider_error"),
        ("gpt-4o-mini+stall", "provider_timeout"),
    ] {
        let answer = world.chat(ask_stream(model)).await;
        assert_eq!((answer.status, answer.broke_off), (200, false), "{model}");
        assert!(!answer.text().contains("[DONE]"), "{model}: {}", answer.text());
        let last = answer.chunks().pop().expect("an event");
        assert_eq!(last["error"]["code"], code, "{model}: {last}");
        assert!(last["error"]["message"].as_str().is_some_and(|text| text.contains("the provider '")));
        for field in ["type", "param"] {
            assert!(last["error"].get(field).is_some(), "{last}");
        }
    }
    let said = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n\
                data: {\"error\":{\"message\":\"boom at 10.0.0.7\",\"code\":\"server_error\"}}\n\ndata: [DONE]\n\n";
    let (world, _provider) = scripted(Reply::stream(said, 4096)).await;
    let answer = world.chat(ask_stream("gpt-4.1")).await;
    let last = answer.chunks().pop().expect("an event");
    assert_eq!(last["error"]["code"], "provider_error");
    assert!(!answer.text().contains("[DONE]") && !answer.text().contains("10.0.0.7"), "{}", answer.text());
}

#[tokio::test]
async fn embeddings_come_as_floats_or_base64_as_they_were_asked_for() {
    let world = World::start().await;
    let body = json!({"model": "text-embedding-3-small", "input": ["one", "two three"], "dimensions": 4});
    let floats = world.embed(body.clone()).await;
    let answer = floats.json();
    assert_eq!(answer["data"][1]["embedding"].as_array().map(Vec::len), Some(4));
    let mut asked = body.clone();
    asked["encoding_format"] = "base64".into();
    let base64 = world.embed(asked).await.json();
    let text = base64["data"][1]["embedding"].as_str().expect("base64 is text");
    assert_eq!(text.len(), 24, "four floats of four bytes, and padding");
    for header in ["x-tollgate-cost-usd", "x-tollgate-charge-usd"] {
        assert!(floats.header(header).is_some_and(|cost| cost.starts_with("0.0")), "{header}");
    }
    let event = world.event(floats.request_id()).await;
    assert_eq!((event.output_tokens, Some(event.input_tokens)), (0, answer["usage"]["prompt_tokens"].as_u64()));

    let odd = "{\"object\":\"list\", \"data\":[ {\"index\":0,\"embedding\":\"AAAA\"} ],\"usage\":{\"prompt_tokens\":2,\"total_tokens\":2},\"x\":1.0}";
    let (world, provider) = scripted(Reply::json(odd)).await;
    let sent =
        "{\"model\":\"text-embedding-3-large\", \"input\" : [[1,2]],\"encoding_format\":\"base64\",\"x_new\":[ ]}";
    let answer = world.http.post("/v1/embeddings", &bearer(&world.key), sent).await;
    assert_eq!((answer.status, answer.text()), (200, odd));
    assert_eq!((provider.last().path.as_str(), &provider.last().body[..]), ("/v1/embeddings", sent.as_bytes()));
}

#[tokio::test]
async fn models_are_listed_and_shown_under_the_names_that_callers_use() {
    let more = "[routes.\"vendor/model:free\"]\nprovider = \"sim\"\nmodel = \"gpt-4o\"\n".to_owned();
    let world = World::of(Setup { more, ..Setup::default() }).await;
    let list = world.http.get("/v1/models", &world.key).await.json();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().expect("a list");
    for model in models {
        assert_eq!(model["object"], "model");
        assert!(model["id"].is_string() && model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
    }
    let shown = world.http.get("/v1/models/renamed", &world.key).await.json();
    assert!(models.contains(&shown) && shown["id"] == "renamed");
    for path in ["/v1/models/vendor/model:free", "/v1/models/vendor%2Fmodel%3Afree"] {
        let shown = world.http.get(path, &world.key).await;
        assert_eq!((shown.status, &shown.json()["id"]), (200, &json!("vendor/model:free")), "{path}");
    }
    let missing = world.http.get("/v1/models/nothing", &world.key).await;
    assert_eq!(missing.refusal(), (404, "model_not_found".to_owned()));
}

#[tokio::test]
async fn a_tenants_own_address_works_for_its_keys_and_does_not_exist_for_others() {
    let world = World::start().await;
    let (_, other) = world.tenant("other").await;
    let chat = async |key: &str, tenant: &str| {
        world.http.post(&format!("/t/{tenant}{CHAT}"), &bearer(key), ask("gpt-4o-mini").to_string()).await
    };
    let own = chat(&world.key, "demo").await;
    assert_eq!(own.status, 200);
    let receipt = format!("/t/demo/v1/receipts/{}", own.request_id());
    assert_eq!(world.http.get(&receipt, &world.key).await.status, 200);
    assert_eq!(world.http.get("/t/demo/v1/models", &world.key).await.status, 200);
    for tenant in ["demo", "nobody", "", "Demo"] {
        let refused = chat(&other, tenant).await;
        assert_eq!(refused.refusal(), (404, "not_found".to_owned()), "{tenant}");
        assert!(!refused.text().contains("tenant"), "not even that there is one: {}", refused.text());
    }
    assert_eq!(world.http.get(&receipt, &other).await.refusal().0, 404);
    assert_eq!(world.http.get("/t/demo/v1/models", &other).await.refusal().0, 404);
    assert_eq!(world.http.get("/t/demo/healthz", &world.key).await.refusal().0, 404, "the plain pages are nobody's");
    assert_eq!(chat("tg_nobody", "demo").await.refusal(), (401, "invalid_api_key".to_owned()));
}

#[tokio::test]
async fn answers_bear_the_headers_of_the_public_surface() {
    let world = World::start().await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1.00"})).await;
    let (_, key) = world.new_key(json!({"tenant": "demo", "requests_per_minute": 2})).await;
    let answer = world.http.chat(&key, ask("renamed")).await;
    let event = world.event(answer.request_id()).await;
    let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(picousd(header("x-tollgate-cost-usd")), event.cost_picousd);
    assert_eq!(picousd(header("x-tollgate-charge-usd")), event.charge_picousd);
    let left = 1_000_000_000_000 - event.cost_picousd.parse::<u64>().expect("a number");
    assert_eq!(picousd(header("x-tollgate-budget-remaining-usd")), left.to_string());
    assert_eq!(header("x-tollgate-model"), "gpt-4o-mini");
    assert_eq!(header("x-tollgate-cache"), "bypass");
    assert_eq!(header("x-ratelimit-limit-requests"), "2");
    assert_eq!(header("x-ratelimit-remaining-requests"), "1");
    let reset: f64 = header("x-ratelimit-reset-requests").trim_end_matches('s').parse().expect("seconds");
    assert!(reset > 0.0 && reset <= 30.0, "one of two a minute comes back in half a minute: {reset}");
    assert_eq!(header("content-type"), "application/json");
    let stream = world.http.chat(&key, ask_stream("renamed")).await;
    assert_eq!(stream.header("x-tollgate-model"), Some("gpt-4o-mini"));
    assert_eq!(stream.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(stream.header("x-tollgate-cost-usd"), None, "not known yet when a stream begins");
    assert!(stream.text().contains(" x-tollgate-budget-remaining-usd=0."), "but at its end");
}

#[tokio::test]
async fn a_key_may_come_in_x_api_key() {
    let world = World::start().await;
    let headers = [("x-api-key", world.key.clone())];
    let answer = world.http.post(CHAT, &headers, ask("gpt-4o-mini").to_string()).await;
    assert_eq!(answer.status, 200);
    let wrong = world.http.post(CHAT, &[("x-api-key", "tg_no".to_owned())], ask("gpt-4o-mini").to_string()).await;
    assert_eq!(wrong.status, 401);
}

#[tokio::test]
async fn http2_by_prior_knowledge_serves_many_at_once_on_one_connection() {
    let world = World::of(Setup {
        sim: tollgate_sim::Options { speed: Speed::Paced(0.05), ..simulator() },
        ..Setup::default()
    })
    .await;
    let http = Http::http2(&world.http.base);
    let calls = (0..20).map(|n| {
        let body = if n % 2 == 0 { ask("gpt-4o-mini") } else { ask_stream("gpt-4o-mini") };
        http.chat(&world.key, body)
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!((answer.status, answer.version, answer.broke_off), (200, Version::HTTP_2, false));
        assert!(!answer.request_id().is_empty());
    }
    let refused = http.chat("tg_wrong", ask("gpt-4o-mini")).await;
    assert_eq!((refused.version, refused.refusal().0), (Version::HTTP_2, 401));
}

#[tokio::test]
async fn an_http2_provider_is_spoken_to_in_http2() {
    let sim = tollgate_sim::spawn(simulator()).expect("a simulator");
    let more = format!(
        "[providers.two]\npreset = \"simulator\"\nbase_url = \"{}\"\nhttp2 = true\napi_key = \"env:SIM_KEY\"\n\
         [routes.two]\nprovider = \"two\"\nmodel = \"gpt-4o-mini\"\n[routes.\"two-cut\"]\nprovider = \"two\"\nmodel = \"gpt-4o-mini+cut\"\n",
        sim.base_url()
    );
    let world = World::of(Setup { more, ..Setup::default() }).await;
    let answers = futures_util::future::join_all((0..10).map(|_| world.chat(ask_stream("two")))).await;
    for answer in answers {
        assert!(answer.text().ends_with(DONE), "{}", answer.text());
        assert!(sim.truth().get(answer.request_id()).is_some_and(|account| account.complete));
    }
    let cut = world.chat(ask_stream("two-cut")).await;
    assert!(cut.text().contains("provider_error") && !cut.text().contains("[DONE]"));
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_its_own_and_it_is_the_receipts() {
    let world = World::start().await;
    let mut ids = std::collections::HashSet::new();
    let mut note = |answer: &Answer| {
        let id = answer.request_id().to_owned();
        assert!(id.len() == 36 && id.starts_with("req_") && id[4..].bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert!(ids.insert(id), "twice");
    };
    for path in
        ["/healthz", "/readyz", "/metrics", "/v1/models", "/nothing", "/admin/v1/tenants", "/v1/chat/completions"]
    {
        note(&world.http.get(path, &world.key).await);
    }
    note(&world.http.chat("tg_wrong", ask("gpt-4o-mini")).await);
    note(&world.chat(ask("nothing")).await);
    note(&world.http.post(CHAT, &bearer(&world.key), "{").await);
    note(&world.chat(ask("gpt-4o-mini+error-500")).await);
    for body in [ask("gpt-4o-mini"), ask_stream("gpt-4o-mini"), ask("gpt-4o-mini+cut")] {
        let answer = world.chat(body).await;
        note(&answer);
        let receipt = world.http.get(&format!("/v1/receipts/{}", answer.request_id()), &world.key).await;
        assert_eq!((receipt.status, receipt.json()["request_id"].as_str()), (200, Some(answer.request_id())));
        assert!(world.truth.get(answer.request_id()).is_some(), "the provider knows it by the same");
    }
}

#[tokio::test]
async fn a_body_in_pieces_and_a_slow_caller_are_served_like_any_other() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    let mut socket = tokio::net::TcpStream::connect(world.gateway.address).await.expect("connected");
    let body = ask("gpt-4o-mini").to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        world.key
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    for piece in body.as_bytes().chunks(11) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        socket.write_all(&chunk).await.expect("sent");
        socket.flush().await.expect("sent");
        tokio::task::yield_now().await;
    }
    socket.write_all(b"0\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    within("the answer", socket.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_caller_that_never_finishes_its_body_holds_nothing_and_is_told() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let setup = Setup { server: "body_timeout_ms = 200\nheader_timeout_ms = 200".to_owned(), ..Setup::default() };
    let world = World::of(setup).await;
    let mut socket = tokio::net::TcpStream::connect(world.gateway.address).await.expect("connected");
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{\"mod",
        world.key
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 12];
    within("the refusal", socket.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer[..], b"HTTP/1.1 400");
    assert_eq!(world.gateway.app.books.audit().totals.requests, 0);

    // One that never finishes its head, or never begins it, is hung up on.
    for begun in [&b"POST /v1/chat"[..], b"PRI * HTTP", b""] {
        let mut socket = tokio::net::TcpStream::connect(world.gateway.address).await.expect("connected");
        socket.write_all(begun).await.expect("sent");
        let what = format!("the end of a connection that began with {:?}", String::from_utf8_lossy(begun));
        let _ = within(&what, socket.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn the_first_piece_of_a_stream_is_there_before_the_last_is_made() {
    use http_body_util::BodyExt;
    let sim = tollgate_sim::Options { speed: Speed::Paced(4.0), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    let body = ask_stream("gpt-4o-mini").to_string();
    let response = world.http.open(Method::POST, CHAT, &bearer(&world.key), body).await;
    let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
    let mut incoming = response.into_body();
    let first = within("the first piece", incoming.frame()).await.expect("a piece").expect("whole");
    assert!(first.data_ref().is_some_and(|data: &Bytes| data.starts_with(b"data: {")));
    assert!(world.truth.get(&id).is_some_and(|account| account.in_flight), "the provider is not done yet");
    drop(incoming);
    eventually("the provider to be stopped", async || {
        world.truth.get(&id).filter(|account| account.client_gone).map(drop)
    })
    .await;
}
