//! The simulator from outside: each feature of the wire, each fault, and the truth beside them.

#![expect(
    clippy::disallowed_methods,
    reason = "tests write the files they hand over, and ask the clock they have stopped"
)]

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tollgate_sim::{Account, Fault, Options, Running, Scenario, Speed};

/// A simulator and a client of it.
struct Bench {
    sim: Running,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// One answer, read to its end (or to where it broke off).
struct Answer {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    text: String,
    broke_off: bool,
}

// === impl Bench ===

impl Bench {
    fn start(options: Options) -> Self {
        let sim = tollgate_sim::spawn(options).expect("a free port");
        Self { sim, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    fn calm() -> Self {
        Self::start(Options::on_any_port())
    }

    fn with_script(script: Scenario) -> Self {
        Self::start(Options { script: Some(script), ..Options::on_any_port() })
    }

    /// In the test's own runtime, whose clock may stand still.
    fn here(options: Options) -> Self {
        let sim = tollgate_sim::spawn_here(options).expect("a free port");
        Self { sim, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    fn over_http2(mut self) -> Self {
        self.client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        self
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Option<Response<Incoming>> {
        self.client.request(request).await.ok()
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<String>) -> Request<Full<Bytes>> {
        let mut request = Request::post(format!("http://{}{path}", self.sim.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body.into())).expect("a good request")
    }

    async fn get(&self, path: &str) -> Answer {
        let request = Request::get(format!("http://{}{path}", self.sim.addr)).body(Full::default()).expect("good");
        Answer::read(self.send(request).await.expect("an answer")).await
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)], body: impl Into<String>) -> Answer {
        let request = self.post(path, headers, body);
        Answer::read(self.send(request).await.expect("an answer")).await
    }

    /// A chat under request id `id`.
    async fn chat(&self, id: &str, body: Value) -> Answer {
        self.ask("/v1/chat/completions", &[("x-request-id", id)], body.to_string()).await
    }

    async fn chat_with_fault(&self, id: &str, fault: &str, body: Value) -> Option<Response<Incoming>> {
        let headers = [("x-request-id", id), ("x-sim-fault", fault)];
        self.send(self.post("/v1/chat/completions", &headers, body.to_string())).await
    }

    fn truth(&self, id: &str) -> Account {
        self.sim.truth().get(id).expect("the request is in the truth")
    }

    /// The account of a request whose client has left, once the simulator has noticed. For `here` only.
    async fn truth_when(&self, id: &str, ready: impl Fn(&Account) -> bool) -> Account {
        for _ in 0..100_000 {
            if let Some(account) = self.sim.truth().get(id).filter(|account| ready(account)) {
                return account;
            }
            tokio::task::yield_now().await;
        }
        panic!("the truth about {id} never became what it should: {:?}", self.sim.truth().get(id));
    }
}

// === impl Answer ===

impl Answer {
    async fn read(response: Response<Incoming>) -> Self {
        let (parts, mut body) = response.into_parts();
        let (mut bytes, mut broke_off) = (Vec::new(), false);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(_) => {
                    broke_off = true;
                    break;
                }
            }
        }
        Self {
            status: parts.status,
            version: parts.version,
            headers: parts.headers,
            text: String::from_utf8(bytes).expect("answers are text"),
            broke_off,
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The data of all events, `[DONE]` and all.
    fn data(&self) -> Vec<&str> {
        self.text.split("\n\n").filter(|event| !event.is_empty()).map(|event| &event["data: ".len()..]).collect()
    }

    /// All chunks of a stream that ended well.
    fn chunks(&self) -> Vec<Value> {
        let mut data = self.data();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.text);
        data.into_iter().map(|chunk| serde_json::from_str(chunk).expect("a chunk is JSON")).collect()
    }
}

fn hello(extra: Value) -> Value {
    let mut body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello, please."}]});
    let object = body.as_object_mut().expect("an object");
    object.extend(extra.as_object().expect("an object").clone());
    body
}

fn streamed(extra: Value) -> Value {
    let mut body = hello(json!({"stream": true, "stream_options": {"include_usage": true}}));
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

fn content(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("always a list"));
    choices.filter(|choice| choice["index"] == index).filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

/// What the answer says was used is what the truth says.
fn assert_usage_is_the_truth(usage: &Value, truth: &Account) {
    assert_eq!(usage["prompt_tokens"], truth.prompt_tokens);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], truth.cached_tokens);
    assert_eq!(usage["completion_tokens"], truth.completion_tokens);
    assert_eq!(usage["prompt_tokens_details"]["audio_tokens"], truth.prompt_audio_tokens);
    let details = &usage["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], truth.reasoning_tokens);
    assert_eq!(details["audio_tokens"], truth.completion_audio_tokens);
    assert_eq!(details["accepted_prediction_tokens"], truth.accepted_prediction_tokens);
    assert_eq!(details["rejected_prediction_tokens"], truth.rejected_prediction_tokens);
    assert_eq!(usage["total_tokens"], truth.prompt_tokens + truth.completion_tokens);
}

// === Chat, without a stream ===

#[tokio::test]
async fn a_chat_is_answered_in_openais_shape_and_says_it_is_simulated() {
    let bench = Bench::calm();
    let answer = bench.chat("req_1", hello(json!({}))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-request-id"), "req_1");
    assert_eq!(answer.header("x-tollgate-simulator"), "true");
    let body = answer.json();
    assert!(body["id"].as_str().expect("an id").starts_with("chatcmpl-sim"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "gpt-4o-mini");
    assert_eq!(body["system_fingerprint"], "tollgate-simulator");
    assert_eq!(body["x_sim"], json!({"simulated": true}));
    assert_eq!(body.get("x_echo"), None);
    let choice = &body["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"]["content"].as_str().expect("text").starts_with("Simulated answer: "));
    let truth = bench.truth("req_1");
    assert_usage_is_the_truth(&body["usage"], &truth);
    assert!(truth.complete && truth.usage_sent && !truth.client_gone && !truth.usage_altered);
    // 3 for the message, 3 for the request, and: Say, hello, a comma, please, a full stop.
    assert_eq!(truth.prompt_tokens, 11);
    assert_eq!(truth.cost_picousd, 11 * 150_000 + u128::from(truth.completion_tokens) * 600_000);
}

#[tokio::test]
async fn the_same_seed_and_request_id_give_the_same_answer() {
    let mut seen = Vec::new();
    for (seed, id) in [(1, "a"), (1, "a"), (2, "a"), (1, "b")] {
        let bench = Bench::start(Options { seed, ..Options::on_any_port() });
        let body = bench.chat(id, hello(json!({}))).await.json();
        seen.push((body["id"].clone(), body["choices"].clone(), body["usage"].clone()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0].1, seen[2].1);
    assert_ne!(seen[0].1, seen[3].1);
}

#[tokio::test]
async fn without_a_request_id_the_body_decides_and_an_id_is_made() {
    let (one, two) = (Bench::calm(), Bench::calm());
    two.chat("something-else-before", hello(json!({}))).await;
    let a = one.ask("/v1/chat/completions", &[], hello(json!({})).to_string()).await;
    let b = two.ask("/v1/chat/completions", &[], hello(json!({})).to_string()).await;
    assert_eq!(a.json()["choices"], b.json()["choices"]);
    assert_usage_is_the_truth(&a.json()["usage"], &one.truth(a.header("x-request-id")));
}

#[tokio::test]
async fn max_tokens_is_honoured_to_the_token() {
    let bench = Bench::calm();
    for field in ["max_tokens", "max_completion_tokens"] {
        for limit in 1..=15 {
            let id = format!("{field}-{limit}");
            let body = bench.chat(&id, hello(json!({field: limit}))).await.json();
            assert_eq!(body["usage"]["completion_tokens"], limit);
            assert_eq!(body["choices"][0]["finish_reason"], "length");
            let chunks = bench.chat(&id, streamed(json!({field: limit}))).await.chunks();
            assert_eq!(chunks.last().expect("a usage chunk")["usage"]["completion_tokens"], limit);
            assert_eq!(bench.truth(&id).completion_tokens, 2 * limit);
        }
    }
    for limit in 16..200 {
        let body = bench.chat(&format!("large-{limit}"), hello(json!({"max_tokens": limit}))).await.json();
        let used = body["usage"]["completion_tokens"].as_u64().expect("a number");
        assert!(used <= limit);
        if body["choices"][0]["finish_reason"] == "length" {
            assert_eq!(used, limit);
        }
    }
}

#[tokio::test]
async fn several_choices_are_several_answers_and_all_their_tokens_count() {
    let bench = Bench::calm();
    let body = bench.chat("n", hello(json!({"n": 3, "max_tokens": 10}))).await.json();
    let texts: HashSet<_> =
        body["choices"].as_array().expect("a list").iter().map(|c| c["message"]["content"].to_string()).collect();
    assert_eq!(texts.len(), 3);
    assert_eq!(body["usage"]["completion_tokens"], 30);

    let chunks = bench.chat("n-stream", streamed(json!({"n": 3, "max_tokens": 10}))).await.chunks();
    for index in 0..3 {
        assert!(content(&chunks, index).starts_with("Simulated answer:"));
    }
    let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["role"] == "assistant").count();
    let ends = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "length").count();
    assert_eq!((roles, ends), (3, 3));
    assert_eq!(bench.truth("n-stream").completion_tokens, 30);
}

#[tokio::test]
async fn what_is_not_known_is_ignored_and_x_echo_comes_back_unchanged() {
    let bench = Bench::calm();
    for echo in [r#"{"b": 1.50,  "a":[null,"\u00e9"]}"#, "null", "12345678901234567890.10", r#""text""#] {
        let body = format!(
            r#"{{"model":"m","x_unknown":{{"deep":[1]}},"x_echo":{echo},"messages":[{{"role":"user","content":"x","x_more":1}}]}}"#
        );
        let answer = bench.ask("/v1/chat/completions", &[], body.clone()).await;
        assert!(answer.text.contains(&format!(r#""x_echo":{echo}}}"#)), "{}", answer.text);
        let streamed = body.replacen('{', r#"{"stream":true,"#, 1);
        let answer = bench.ask("/v1/chat/completions", &[], streamed).await;
        assert!(answer.text.contains(&format!(r#""x_echo":{echo},"#)), "{}", answer.text);
        answer.chunks();
    }
}

#[tokio::test]
async fn a_pretty_printed_echo_stays_one_line_of_a_stream() {
    let bench = Bench::calm();
    let body = "{\"model\":\"m\",\"stream\":true,\"x_echo\":{\n\"a\": 1\r\n},\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    let chunks = bench.ask("/v1/chat/completions", &[], body).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk["x_echo"] == json!({"a": 1})));
}

#[tokio::test]
async fn stop_sequences_end_the_text() {
    let bench = Bench::calm();
    let free = bench.chat("stop", hello(json!({}))).await.json();
    let text = free["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    let stop = &text[30..36];
    // The second attempt of an id is another answer, so ask a fresh simulator.
    let bench = Bench::calm();
    let body = bench.chat("stop", hello(json!({"stop": [stop, "never said"]}))).await.json();
    let stopped = body["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(stopped, &text[..text.find(stop).expect("said before")]);
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(body["usage"]["completion_tokens"].as_u64() < free["usage"]["completion_tokens"].as_u64());
    let bench = Bench::calm();
    let chunks = bench.chat("stop", streamed(json!({"stop": stop}))).await.chunks();
    assert_eq!(content(&chunks, 0), stopped);
    assert_eq!(chunks.last().expect("usage")["usage"], body["usage"]);
}

#[tokio::test]
async fn token_probabilities_are_given_when_asked_for() {
    let bench = Bench::calm();
    let body = bench.chat("lp", hello(json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 8}))).await.json();
    let entries = body["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(entries.len(), 8);
    assert!(entries.iter().all(|entry| entry["top_logprobs"].as_array().is_some_and(|top| top.len() == 2)));
    let joined: String = entries.iter().map(|entry| entry["token"].as_str().expect("text")).collect();
    assert_eq!(body["choices"][0]["message"]["content"], joined);
    let chunks = bench.chat("lp2", streamed(json!({"logprobs": true, "max_tokens": 8}))).await.chunks();
    let with = chunks.iter().filter(|chunk| chunk["choices"][0]["logprobs"]["content"][0]["token"].is_string()).count();
    assert_eq!(with, 8);
    assert_eq!(bench.chat("lp3", hello(json!({}))).await.json()["choices"][0]["logprobs"], Value::Null);
}

fn with_tool(extra: Value) -> Value {
    let mut body = hello(json!({"tools": [
        {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}, "required": ["city", "unit"]}}},
    ]}));
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

#[tokio::test]
async fn a_tool_is_called_with_arguments_made_from_its_schema() {
    let bench = Bench::calm();
    let weather = json!({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}});
    let body = bench.chat("tool", with_tool(weather.clone())).await.json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().expect("text")).expect("JSON");
    assert!(arguments["city"].is_string() && (arguments["unit"] == "C" || arguments["unit"] == "F"));
    assert_usage_is_the_truth(&body["usage"], &bench.truth("tool"));

    let fresh = Bench::calm();
    let mut as_stream = with_tool(weather);
    as_stream["stream"] = json!(true);
    let chunks = fresh.chat("tool", as_stream).await.chunks();
    let deltas = || chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]);
    let joined: String = deltas().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(call["function"]["arguments"], joined);
    assert_eq!(deltas().filter(|delta| delta["id"] == call["id"]).count(), 1);
    assert_eq!(chunks.last().expect("a chunk")["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(fresh.truth("tool").completion_tokens, bench.truth("tool").completion_tokens);
}

#[tokio::test]
async fn tools_are_left_alone_when_it_is_not_their_turn() {
    let bench = Bench::calm();
    let says = |body: Value| body["choices"][0]["message"]["content"].is_string();
    assert!(says(bench.chat("none", with_tool(json!({"tool_choice": "none"}))).await.json()));
    let messages = json!([
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": null, "tool_calls":
            [{"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]);
    assert!(says(bench.chat("after", with_tool(json!({"messages": messages}))).await.json()));
    let wrong = json!({"tool_choice": {"type": "function", "function": {"name": "get_rich"}}});
    assert_eq!(bench.chat("wrong", with_tool(wrong)).await.status, 400);
}

#[tokio::test]
async fn structured_answers_are_valid_json_of_the_schema() {
    let bench = Bench::calm();
    let parse = |body: &Value| -> Value {
        serde_json::from_str(body["choices"][0]["message"]["content"].as_str().expect("text")).expect("JSON")
    };
    let body = bench.chat("object", hello(json!({"response_format": {"type": "json_object"}}))).await.json();
    assert_eq!(parse(&body)["simulated"], true);
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["names", "ok"],
        "properties": {"names": {"type": "array", "items": {"type": "string"}, "minItems": 2}, "ok": {"type": "boolean"}}});
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}}});
    let body = bench.chat("schema", hello(format.clone())).await.json();
    let object = parse(&body);
    assert!(object["names"].as_array().is_some_and(|names| names.len() >= 2) && object["ok"].is_boolean());
    assert_usage_is_the_truth(&body["usage"], &bench.truth("schema"));
    let mut cut = format;
    cut["max_tokens"] = json!(4);
    let body = bench.chat("cut", hello(cut)).await.json();
    assert_eq!(
        (&body["choices"][0]["finish_reason"], &body["usage"]["completion_tokens"]),
        (&json!("length"), &json!(4))
    );
}

#[tokio::test]
async fn reasoning_is_hidden_but_counted_inside_the_limit() {
    let bench = Bench::calm();
    let body = hello(json!({"model": "o4-mini", "reasoning_effort": "low"}));
    let answer = bench.chat("think", body.clone()).await.json();
    let truth = bench.truth("think");
    assert!(truth.reasoning_tokens > 0 && truth.reasoning_tokens < truth.completion_tokens);
    assert_usage_is_the_truth(&answer["usage"], &truth);

    let short = |extra: Value| {
        let mut body = body.clone();
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        body
    };
    let answer = bench.chat("all-thought", short(json!({"max_completion_tokens": 5}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let details = &answer["usage"]["completion_tokens_details"]["reasoning_tokens"];
    assert_eq!((&answer["usage"]["completion_tokens"], details), (&json!(5), &json!(5)));

    let chunks =
        bench.chat("all-thought-streamed", short(json!({"max_completion_tokens": 5, "stream": true}))).await.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().expect("a chunk")["choices"][0]["finish_reason"], "length");
    assert_eq!(bench.chat("old-name", short(json!({"max_tokens": 5}))).await.status, 400);
}

#[tokio::test]
async fn a_share_of_the_prompt_is_cached_if_the_scenario_says_so() {
    let bench = Bench::with_script(Scenario { cached_share: 0.5, ..Scenario::default() });
    let body = bench.chat("cached", hello(json!({"max_tokens": 1}))).await.json();
    let truth = bench.truth("cached");
    assert_usage_is_the_truth(&body["usage"], &truth);
    assert_eq!((truth.prompt_tokens, truth.cached_tokens), (11, 5));
    assert_eq!(truth.cost_picousd, 6 * 150_000 + 5 * 75_000 + 600_000);
}

// === Chat, as a stream ===

#[tokio::test]
async fn a_stream_has_its_chunks_in_openais_order() {
    let bench = Bench::calm();
    let answer = bench.chat("s", streamed(json!({}))).await;
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    assert_eq!(answer.header("x-tollgate-simulator"), "true");
    let chunks = answer.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks[1..].iter().all(|chunk| chunk["choices"][0]["delta"].get("role").is_none()));
    let (usage, others) = chunks.split_last().expect("chunks");
    assert_eq!(usage["choices"], json!([]));
    assert!(
        others.iter().all(|chunk| chunk["usage"].is_null() && chunk.as_object().expect("object").contains_key("usage"))
    );
    assert_eq!(others.last().expect("a finish")["choices"][0]["finish_reason"], "stop");
    assert!(others[..others.len() - 1].iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    assert!(
        chunks.iter().all(|chunk| chunk["x_sim"]["simulated"] == true && chunk["object"] == "chat.completion.chunk")
    );
    let truth = bench.truth("s");
    assert_usage_is_the_truth(&usage["usage"], &truth);
    // The role, one chunk a token, the finish, the usage.
    assert_eq!(chunks.len() as u64, truth.completion_tokens + 3);
    assert!(truth.complete && truth.usage_sent && truth.stream);
}

#[tokio::test]
async fn a_stream_says_the_same_as_the_answer_without_one() {
    let whole = Bench::calm().chat("same", hello(json!({}))).await.json();
    let chunks = Bench::calm().chat("same", streamed(json!({}))).await.chunks();
    assert_eq!(whole["choices"][0]["message"]["content"], content(&chunks, 0));
    assert_eq!(whole["usage"], chunks.last().expect("usage")["usage"]);
    assert_eq!(whole["id"], chunks[0]["id"]);
}

#[tokio::test]
async fn usage_is_not_streamed_unless_asked_for() {
    let bench = Bench::calm();
    let chunks = bench.chat("quiet", hello(json!({"stream": true}))).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"][0]["index"] == 0));
    let truth = bench.truth("quiet");
    assert!(truth.complete && !truth.usage_sent);
}

#[tokio::test]
async fn http2_speaks_the_same() {
    let bench = Bench::calm().over_http2();
    let answer = bench.chat("h2", hello(json!({}))).await;
    assert_eq!((answer.status, answer.version), (StatusCode::OK, Version::HTTP_2));
    assert_usage_is_the_truth(&answer.json()["usage"], &bench.truth("h2"));
    let answer = bench.chat("h2s", streamed(json!({}))).await;
    assert_usage_is_the_truth(&answer.chunks().last().expect("usage")["usage"], &bench.truth("h2s"));
}

#[tokio::test]
async fn several_workers_serve_at_once() {
    let bench = Bench::start(Options { workers: 2, ..Options::on_any_port() });
    let asks = (0..64).map(|at| {
        let request =
            bench.post("/v1/chat/completions", &[("x-request-id", &format!("w{at}"))], hello(json!({})).to_string());
        let client = bench.client.clone();
        tokio::spawn(
            async move { client.request(request).await.expect("an answer").into_body().collect().await.is_ok() },
        )
    });
    for ask in asks.collect::<Vec<_>>() {
        assert!(ask.await.expect("no panic"));
    }
    let totals = bench.sim.truth().totals();
    assert_eq!((totals.requests, totals.complete, totals.in_flight), (64, 64, 0));
}

// === Time ===

#[tokio::test(start_paused = true)]
async fn realistic_answers_take_their_time_and_the_stream_comes_in_pieces() {
    let bench = Bench::here(Options { speed: Speed::Paced(1.0), ..Options::on_any_port() });
    let start = tokio::time::Instant::now();
    let request = bench.post("/v1/chat/completions", &[], streamed(json!({"max_tokens": 15})).to_string());
    let mut body = bench.send(request).await.expect("an answer").into_body();
    let first = start.elapsed();
    assert!((30..2_000).contains(&first.as_millis()), "first token after {first:?}");
    let mut frames = 0;
    while let Some(frame) = body.frame().await {
        frames += 1;
        assert!(frame.is_ok());
    }
    assert!(frames >= 10, "{frames} frames");
    let rest = start.elapsed() - first;
    assert!((80..800).contains(&rest.as_millis()), "14 gaps took {rest:?}");

    let start = tokio::time::Instant::now();
    bench.chat("whole", hello(json!({"max_tokens": 15}))).await;
    assert!((110..2_800).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_a_stream_pays_what_was_made_until_then() {
    for http2 in [false, true] {
        let bench = Bench::here(Options { speed: Speed::Paced(1.0), ..Options::on_any_port() });
        let bench = if http2 { bench.over_http2() } else { bench };
        let headers = [("x-request-id", "gone")];
        let request = bench.post("/v1/chat/completions", &headers, streamed(json!({})).to_string());
        let mut body = bench.send(request).await.expect("an answer").into_body();
        for _ in 0..3 {
            body.frame().await.expect("a frame").expect("no error");
        }
        assert!(bench.truth("gone").in_flight);
        drop(body);
        let truth = bench.truth_when("gone", |account| !account.in_flight).await;
        assert!(truth.client_gone && !truth.complete && !truth.usage_sent);
        assert_eq!(truth.prompt_tokens, 11);
        assert!((3..16).contains(&truth.completion_tokens), "{truth:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_its_json_pays_what_was_made_until_then() {
    let bench = Bench::here(Options { speed: Speed::Paced(1.0), ..Options::on_any_port() });
    let request = bench.post("/v1/chat/completions", &[("x-request-id", "gone")], hello(json!({})).to_string());
    let patience = std::time::Duration::from_millis(20);
    assert!(tokio::time::timeout(patience, bench.send(request)).await.is_err());
    let truth = bench.truth_when("gone", |account| !account.in_flight).await;
    assert!(truth.client_gone && !truth.complete);
    assert_eq!((truth.prompt_tokens, truth.completion_tokens), (11, 0));
}

// === Embeddings and models ===

#[tokio::test]
async fn embeddings_come_as_numbers_or_base64_and_are_the_same() {
    let bench = Bench::calm();
    let ask = |format: &str| {
        json!({"model": "text-embedding-3-small", "input": ["two words", "three more words"], "encoding_format": format,
            "dimensions": 8, "x_echo": [1, 2]})
        .to_string()
    };
    let floats = bench.ask("/v1/embeddings", &[("x-request-id", "e")], ask("float")).await.json();
    let encoded = bench.ask("/v1/embeddings", &[], ask("base64")).await.json();
    assert_eq!((floats["object"].as_str(), floats["data"].as_array().map(Vec::len)), (Some("list"), Some(2)));
    assert_eq!((&floats["x_echo"], &floats["x_sim"]["simulated"]), (&json!([1, 2]), &json!(true)));
    for index in 0..2 {
        let numbers: Vec<f32> = serde_json::from_value(floats["data"][index]["embedding"].clone()).expect("numbers");
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            encoded["data"][index]["embedding"].as_str().expect("text"),
        )
        .expect("base64");
        let decoded: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        assert_eq!((numbers.len(), &numbers), (8, &decoded));
        assert_eq!(floats["data"][index]["index"], index);
    }
    let truth = bench.truth("e");
    assert_eq!((truth.prompt_tokens, truth.completion_tokens, truth.cost_picousd), (5, 0, 5 * 20_000));
    assert_eq!(floats["usage"], json!({"prompt_tokens": 5, "total_tokens": 5}));
    let tokens = json!({"model": "text-embedding-3-large", "input": [[1, 2, 3], [4]]}).to_string();
    let body = bench.ask("/v1/embeddings", &[], tokens).await.json();
    assert_eq!(body["usage"]["prompt_tokens"], 4);
    assert_eq!(body["data"][0]["embedding"].as_array().map(Vec::len), Some(3_072));
}

#[tokio::test]
async fn models_are_listed_as_the_simulators_own() {
    let bench = Bench::calm();
    let body = bench.get("/v1/models").await.json();
    let models = body["data"].as_array().expect("a list");
    let ids: Vec<_> = models.iter().filter_map(|model| model["id"].as_str()).collect();
    for id in ["gpt-4o-mini", "gpt-4o", "gpt-4.1-mini", "o4-mini", "text-embedding-3-small"] {
        assert!(ids.contains(&id), "{id}");
    }
    assert!(models.iter().all(|model| model["owned_by"] == "tollgate-simulator" && model["object"] == "model"));
    assert_eq!(bench.get("/v1/models/any-name").await.json()["id"], "any-name");
    assert_eq!(bench.get("/healthz").await.json()["simulator"], true);
}

// === Refusals ===

#[tokio::test]
async fn bad_requests_are_refused_in_openais_shape_and_cost_nothing() {
    let bench = Bench::calm();
    for (path, body, status) in [
        ("/v1/chat/completions", "{not json", 400),
        ("/v1/chat/completions", "{}", 400),
        ("/v1/chat/completions", r#"{"model":"m+earthquake","messages":[{"role":"user","content":"x"}]}"#, 400),
        ("/v1/embeddings", r#"{"model":"m"}"#, 400),
        ("/v1/nothing", "{}", 404),
        ("/v1/models", "{}", 405),
    ] {
        let answer = bench.ask(path, &[], body).await;
        assert_eq!(answer.status, status, "{path} {body}");
        let error = &answer.json()["error"];
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error");
        assert!(error.get("param").is_some() && error.get("code").is_some());
        assert_eq!(answer.header("x-tollgate-simulator"), "true");
        assert!(!answer.header("x-request-id").is_empty());
    }
    let headers = [("x-sim-fault", "earthquake")];
    assert_eq!(bench.ask("/v1/chat/completions", &headers, hello(json!({})).to_string()).await.status, 400);
    assert_eq!(bench.get("/sim/truth/unknown").await.status, 404);
    assert_eq!(bench.sim.truth().totals().attempts, 0);
}

#[tokio::test]
async fn a_key_is_asked_for_only_if_the_option_says_so() {
    let bench = Bench::start(Options { require_key: Some("sk-right".to_owned()), ..Options::on_any_port() });
    for (headers, status, code) in [
        (&[][..], 401, Value::Null),
        (&[("authorization", "Bearer sk-wrong")][..], 401, json!("invalid_api_key")),
        (&[("authorization", "Bearer sk-right")][..], 200, Value::Null),
    ] {
        let answer = bench.ask("/v1/chat/completions", headers, hello(json!({})).to_string()).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (status, &code));
    }
    assert_eq!(bench.get("/v1/models").await.status, 401);
    let headers = [("authorization", "Bearer anything")];
    assert_eq!(Bench::calm().ask("/v1/chat/completions", &headers, hello(json!({})).to_string()).await.status, 200);
}

#[tokio::test]
async fn a_full_truth_refuses_further_work() {
    let bench = Bench::start(Options { truth_max: 1, ..Options::on_any_port() });
    assert_eq!(bench.chat("one", hello(json!({}))).await.status, 200);
    let answer = bench.chat("two", hello(json!({}))).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (503, &json!("server_error")));
    assert!(bench.sim.truth().get("one").is_some() && bench.sim.truth().get("two").is_none());
}

// === The truth's own endpoints ===

#[tokio::test]
async fn the_truth_is_told_as_totals_by_id_and_as_lines() {
    let bench = Bench::calm();
    for id in ["a", "a", "b"] {
        bench.chat(id, hello(json!({"max_tokens": 2}))).await;
    }
    let totals = bench.get("/sim/truth").await.json();
    assert_eq!((&totals["requests"], &totals["attempts"], &totals["in_flight"]), (&json!(2), &json!(3), &json!(0)));
    assert_eq!(totals["totals"]["completion_tokens"], 6);
    assert_eq!(totals["cost_picousd"], (33 * 150_000 + 6 * 600_000).to_string());
    let one = bench.get("/sim/truth/a").await.json();
    assert_eq!((&one["attempts"], &one["completion_tokens"], &one["complete"]), (&json!(2), &json!(4), &json!(true)));
    assert_eq!(one["fault"], Value::Null);
    let lines = bench.get("/sim/truth.jsonl").await;
    let mut ids: Vec<String> = lines
        .text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["request_id"].as_str().expect("an id").to_owned()
        })
        .collect();
    ids.sort();
    assert_eq!(ids, ["a", "b"]);
}

#[tokio::test]
async fn options_come_from_a_scenario_file_and_the_truth_goes_into_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (scenario, truth) = (dir.path().join("scenario.json"), dir.path().join("truth.jsonl"));
    std::fs::write(&scenario, r#"{"faults": {"error-503": 1.0}}"#).expect("written");
    let options = || Options { scenario: Some(scenario.clone()), truth: Some(truth.clone()), ..Options::on_any_port() };
    let bench = Bench::start(options());
    assert_eq!(bench.chat("x", hello(json!({}))).await.status, 503);
    let line: Value = serde_json::from_str(std::fs::read_to_string(&truth).expect("written").trim()).expect("JSON");
    assert_eq!(
        (&line["request_id"], &line["fault"], &line["cost_picousd"]),
        (&json!("x"), &json!("error-503"), &json!("0"))
    );
    std::fs::write(&scenario, r#"{"fault": {}}"#).expect("written");
    let error = tollgate_sim::spawn(options()).map(|_| ()).expect_err("an unknown field");
    assert!(format!("{error:#}").contains("scenario.json"), "{error:#}");
}

#[tokio::test]
async fn the_command_serves_until_it_is_dropped() {
    let bench = Bench::calm();
    let free = bench.sim.addr;
    drop(bench.sim);
    let client = bench.client;
    let ask = |path: &str| {
        let request = Request::get(format!("http://{free}{path}")).body(Full::default()).expect("good");
        client.request(request)
    };
    tokio::select! {
        // Polled first, so that it listens when it is asked.
        biased;
        ended = tollgate_sim::run(Options { listen: free, ..Options::on_any_port() }) => panic!("it ended: {ended:?}"),
        answer = ask("/healthz") => assert_eq!(answer.expect("an answer").status(), 200),
    }
    assert!(ask("/healthz").await.is_err());
    assert!(
        tollgate_sim::run(Options { truth: Some("/nowhere/at/all".into()), ..Options::on_any_port() }).await.is_err()
    );
}

#[tokio::test]
async fn a_simulator_that_is_shut_down_frees_its_port() {
    let Bench { sim, client } = Bench::calm();
    let (addr, truth) = (sim.addr, sim.truth());
    sim.shutdown();
    let request = Request::get(format!("http://{addr}/healthz")).body(Full::default()).expect("good");
    assert!(client.request(request).await.is_err());
    assert_eq!(truth.totals().requests, 0);
    Bench::start(Options { listen: addr, ..Options::on_any_port() });
}

// === Faults ===

#[tokio::test]
async fn refusing_faults_do_no_work_and_cost_nothing() {
    let bench = Bench::calm();
    for (fault, status) in [("rate-limit", 429), ("error-500", 500), ("error-503", 503)] {
        let answer =
            Answer::read(bench.chat_with_fault(fault, fault, hello(json!({}))).await.expect("an answer")).await;
        assert_eq!(answer.status, status);
        assert!(answer.json()["error"]["message"].is_string());
        let truth = bench.truth(fault);
        assert_eq!((truth.cost_picousd, truth.prompt_tokens, truth.complete), (0, 0, false));
        assert_eq!(truth.fault.map(|fault| serde_json::to_value(fault).expect("a name")), Some(json!(fault)));
        assert_eq!(answer.header("retry-after"), if status == 429 { "1" } else { "" });
        assert_eq!(answer.header("retry-after-ms"), if status == 429 { "1000" } else { "" });
    }
    // Sent again, the request is another attempt under the same id.
    assert_eq!(bench.chat("rate-limit", hello(json!({"max_tokens": 1}))).await.status, 200);
    let truth = bench.truth("rate-limit");
    assert_eq!((truth.attempts, truth.completion_tokens, truth.complete), (2, 1, true));
}

#[tokio::test]
async fn a_fault_may_stand_in_the_models_name_and_does_not_change_the_price() {
    let bench = Bench::calm();
    let body = bench.chat("suffix", hello(json!({"model": "gpt-4o+wrong-usage", "max_tokens": 4}))).await.json();
    assert_eq!(body["usage"]["completion_tokens"], 8);
    let truth = bench.truth("suffix");
    assert_eq!((truth.model.as_str(), truth.fault), ("gpt-4o", Some(Fault::WrongUsage)));
    assert_eq!(truth.cost_picousd, 11 * 2_500_000 + 4 * 10_000_000);
}

#[tokio::test]
async fn a_reset_comes_before_any_answer() {
    for reset_bills_prompt in [false, true] {
        let bench = Bench::with_script(Scenario { reset_bills_prompt, ..Scenario::default() });
        let http2 = Bench::start(Options::on_any_port()).over_http2();
        assert!(bench.chat_with_fault("reset", "reset", hello(json!({}))).await.is_none());
        assert!(http2.chat_with_fault("reset", "reset", hello(json!({}))).await.is_none());
        let truth = bench.truth("reset");
        assert_eq!(truth.cost_picousd, if reset_bills_prompt { 11 * 150_000 } else { 0 });
        assert!(!truth.complete && !truth.client_gone);
        // An HTTP/2 connection outlives the reset of one of its streams.
        assert_eq!(http2.chat("after", hello(json!({}))).await.status, 200);
    }
}

#[tokio::test]
async fn a_reset_is_a_real_one() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::calm();
    let body = hello(json!({"model": "m+reset"})).to_string();
    let mut stream = tokio::net::TcpStream::connect(bench.sim.addr).await.expect("connected");
    let request =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let error = stream.read(&mut [0; 64]).await.expect_err("no answer, and no proper end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_billed_and_never_comes() {
    for http2 in [false, true] {
        let bench = Bench::here(Options::on_any_port());
        let bench = if http2 { bench.over_http2() } else { bench };
        let ask = bench.chat_with_fault("silent", "no-answer", hello(json!({"max_tokens": 7})));
        assert!(tokio::time::timeout(std::time::Duration::from_secs(100), ask).await.is_err());
        let truth = bench.truth_when("silent", |account| account.client_gone).await;
        assert_eq!((truth.completion_tokens, truth.complete, truth.usage_sent), (7, false, false));

        let start = tokio::time::Instant::now();
        assert!(bench.chat_with_fault("hung-up", "no-answer", hello(json!({}))).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 600);
        assert!(!bench.truth("hung-up").client_gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_token_comes_after_its_time() {
    let bench = Bench::here(Options::on_any_port());
    for body in [hello(json!({})), streamed(json!({}))] {
        let start = tokio::time::Instant::now();
        let response = bench.chat_with_fault("slow", "slow-first-token", body).await.expect("an answer");
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(!Answer::read(response).await.broke_off);
    }
    assert!(bench.truth("slow").complete);
}

#[tokio::test(start_paused = true)]
async fn a_stall_sends_some_and_then_nothing() {
    let bench = Bench::here(Options::on_any_port());
    for (id, body) in [("json", hello(json!({}))), ("stream", streamed(json!({})))] {
        let mut body = bench.chat_with_fault(id, "stall", body).await.expect("headers").into_body();
        let first = body.frame().await.expect("a frame").expect("no error");
        assert!(first.data_ref().is_some_and(|data| !data.is_empty()));
        assert!(tokio::time::timeout(std::time::Duration::from_secs(60), body.frame()).await.is_err());
        let truth = bench.truth(id);
        assert!(!truth.in_flight && !truth.complete && !truth.usage_sent && !truth.client_gone);
        drop(body);
        assert!(bench.truth_when(id, |account| account.client_gone).await.cost_picousd > 0);
    }
    assert_eq!(bench.truth("stream").completion_tokens, 3);

    let response = bench.chat_with_fault("hung-up", "stall", streamed(json!({}))).await.expect("headers");
    let answer = Answer::read(response).await;
    assert!(answer.broke_off && !bench.truth("hung-up").client_gone);
}

#[tokio::test]
async fn a_cut_answer_breaks_off_without_its_end() {
    for http2 in [false, true] {
        let bench = if http2 { Bench::calm().over_http2() } else { Bench::calm() };
        let response = bench.chat_with_fault("json", "cut", hello(json!({}))).await.expect("headers");
        let promised: usize = response.headers()["content-length"].to_str().expect("ASCII").parse().expect("a number");
        let answer = Answer::read(response).await;
        assert!(answer.broke_off && !answer.text.is_empty() && answer.text.len() < promised);
        let truth = bench.truth("json");
        assert!(truth.completion_tokens > 0 && !truth.complete && !truth.usage_sent && !truth.client_gone);

        let response = bench.chat_with_fault("stream", "cut", streamed(json!({}))).await.expect("headers");
        let answer = Answer::read(response).await;
        assert!(answer.broke_off && !answer.text.contains("[DONE]"));
        // The role and three tokens.
        assert_eq!(answer.data().len(), 4);
        let truth = bench.truth("stream");
        assert_eq!((truth.completion_tokens, truth.complete, truth.fault), (3, false, Some(Fault::Cut)));
    }
}

#[tokio::test]
async fn a_malformed_chunk_is_one_line_of_broken_json() {
    let bench = Bench::calm();
    let body = streamed(json!({}));
    let answer = Answer::read(bench.chat_with_fault("m", "malformed-chunk", body).await.expect("headers")).await;
    let broken = answer.data().iter().filter(|data| serde_json::from_str::<Value>(data).is_err()).count();
    // That one, and `[DONE]`.
    assert_eq!(broken, 2);
    assert!(answer.text.ends_with("data: [DONE]\n\n") && bench.truth("m").complete);
    let answer =
        Answer::read(bench.chat_with_fault("j", "malformed-chunk", hello(json!({}))).await.expect("headers")).await;
    assert!(!answer.broke_off && serde_json::from_str::<Value>(&answer.text).is_err());
    assert!(!bench.truth("j").complete);
}

#[tokio::test]
async fn a_stream_may_end_without_done() {
    let bench = Bench::calm();
    let answer =
        Answer::read(bench.chat_with_fault("d", "missing-done", streamed(json!({}))).await.expect("headers")).await;
    assert!(!answer.broke_off && !answer.text.contains("[DONE]"));
    let truth = bench.truth("d");
    let usage: Value = serde_json::from_str(answer.data().last().expect("usage")).expect("JSON");
    assert_usage_is_the_truth(&usage["usage"], &truth);
    assert!(!truth.complete && truth.usage_sent);
}

#[tokio::test]
async fn usage_may_be_missing_wrong_absurd_or_told_twice_and_the_truth_stays_the_truth() {
    let bench = Bench::calm();
    let limit = json!({"max_tokens": 5});
    for (fault, prompt, completion, times, altered) in [
        ("no-usage", 0, 0, 0, false),
        ("wrong-usage", 22, 10, 1, true),
        ("absurd-usage", 1_000_000_000_000_u64, 1_000_000_000_000_u64, 1, true),
        ("double-usage", 11, 5, 2, false),
    ] {
        let answer = bench.chat_with_fault(fault, fault, streamed(limit.clone())).await.expect("headers");
        let chunks = Answer::read(answer).await.chunks();
        let usages: Vec<&Value> = chunks.iter().map(|chunk| &chunk["usage"]).filter(|usage| !usage.is_null()).collect();
        assert_eq!(usages.len(), times, "{fault}");
        assert!(usages.iter().all(|u| u["prompt_tokens"] == prompt && u["completion_tokens"] == completion));
        let truth = bench.truth(fault);
        assert_eq!((truth.prompt_tokens, truth.completion_tokens, truth.usage_altered), (11, 5, altered), "{fault}");
        assert_eq!(truth.usage_sent, times > 0);

        let answer =
            bench.chat_with_fault(&format!("{fault}-json"), fault, hello(limit.clone())).await.expect("headers");
        let usage = Answer::read(answer).await.json()["usage"].clone();
        match fault {
            "no-usage" => assert_eq!(usage, Value::Null),
            _ => {
                assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(prompt), &json!(completion)))
            }
        }
    }
}

#[tokio::test]
async fn embeddings_fail_in_the_same_ways() {
    let bench = Bench::calm();
    let ask = |fault: &'static str| {
        let body = json!({"model": "text-embedding-3-small", "input": "two words", "dimensions": 4}).to_string();
        bench.send(bench.post("/v1/embeddings", &[("x-request-id", fault), ("x-sim-fault", fault)], body))
    };
    assert!(ask("reset").await.is_none());
    assert_eq!(ask("rate-limit").await.expect("an answer").status(), 429);
    assert!(Answer::read(ask("cut").await.expect("headers")).await.broke_off);
    assert_eq!(Answer::read(ask("no-usage").await.expect("headers")).await.json().get("usage"), None);
    assert_eq!(Answer::read(ask("wrong-usage").await.expect("headers")).await.json()["usage"]["prompt_tokens"], 4);
    let costs: Vec<u128> =
        ["reset", "rate-limit", "cut", "no-usage", "wrong-usage"].map(|id| bench.truth(id).cost_picousd).into();
    assert_eq!(costs, [0, 0, 40_000, 40_000, 40_000]);
}

#[tokio::test]
async fn a_storm_of_faults_is_the_same_for_the_same_seed_and_the_truth_adds_up() {
    let faults = [
        (Fault::Cut, 0.2),
        (Fault::Error500, 0.1),
        (Fault::RateLimit, 0.1),
        (Fault::NoUsage, 0.1),
        (Fault::Reset, 0.1),
    ];
    let script = Scenario { faults: faults.into_iter().collect(), cached_share: 0.3, ..Scenario::default() };
    let mut storms = Vec::new();
    for _ in 0..2 {
        let bench = Bench::with_script(script.clone());
        let mut told = 0;
        for at in 0..200 {
            let id = format!("storm-{at}");
            let request = match at % 2 {
                0 => hello(json!({})),
                _ => streamed(json!({})),
            };
            let request = bench.post("/v1/chat/completions", &[("x-request-id", &id)], request.to_string());
            if let Some(response) = bench.send(request).await {
                let answer = Answer::read(response).await;
                let truth = bench.truth(&id);
                if truth.usage_sent {
                    let usage = match truth.stream {
                        true => answer.chunks().last().expect("usage")["usage"].clone(),
                        false => answer.json()["usage"].clone(),
                    };
                    assert_usage_is_the_truth(&usage, &truth);
                    told += 1;
                }
            }
        }
        let totals = bench.sim.truth().totals();
        assert_eq!((totals.requests, totals.in_flight), (200, 0));
        assert_eq!(
            totals.cost_picousd,
            bench.sim.truth().all().iter().map(|account| account.cost_picousd).sum::<u128>()
        );
        assert!((80..120).contains(&told), "{told} of 200 told their usage");
        let mut all = bench.sim.truth().all();
        all.sort_by(|a, b| a.request_id.cmp(&b.request_id));
        storms.push(all);
    }
    assert_eq!(storms[0], storms[1]);
}

// === Usage in detail ===

#[tokio::test]
async fn the_share_of_reasoning_is_the_scenarios_or_the_requests() {
    let half = Scenario { reasoning_share: Some(0.5), ..Scenario::default() };
    let bench = Bench::with_script(half);
    let o4 = |extra: Value| {
        let mut body = hello(json!({"model": "o4-mini"}));
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        body
    };
    let usage = bench.chat("half", o4(json!({}))).await.json()["usage"].clone();
    assert_usage_is_the_truth(&usage, &bench.truth("half"));
    let truth = bench.truth("half");
    assert_eq!(truth.reasoning_tokens * 2, truth.completion_tokens);
    // A model that does not reason does not begin to, and one that is told not to neither.
    bench.chat("plain", hello(json!({}))).await;
    bench.chat("none", o4(json!({"reasoning_effort": "none"}))).await;
    assert_eq!((bench.truth("plain").reasoning_tokens, bench.truth("none").reasoning_tokens), (0, 0));

    // But any does if its request says so: to the last token, with nothing left to say.
    for (id, stream) in [("all", false), ("all-streamed", true)] {
        let headers = [("x-request-id", id), ("x-sim-reasoning-share", "1")];
        let body = if stream { streamed(json!({"max_tokens": 40})) } else { hello(json!({"max_tokens": 40})) };
        let answer = bench.ask("/v1/chat/completions", &headers, body.to_string()).await;
        let (text, finish, usage) = match stream {
            false => {
                let body = answer.json();
                let choice = &body["choices"][0];
                (choice["message"]["content"].clone(), choice["finish_reason"].clone(), body["usage"].clone())
            }
            true => {
                let chunks = answer.chunks();
                let finish = chunks[chunks.len() - 2]["choices"][0]["finish_reason"].clone();
                (json!(content(&chunks, 0)), finish, chunks[chunks.len() - 1]["usage"].clone())
            }
        };
        assert_eq!((text, finish), (json!(""), json!("length")), "{id}");
        assert_eq!(usage["completion_tokens"], 40);
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 40);
        assert_usage_is_the_truth(&usage, &bench.truth(id));
    }
    let headers = [("x-sim-reasoning-share", "most")];
    assert_eq!(bench.ask("/v1/chat/completions", &headers, hello(json!({})).to_string()).await.status, 400);
}

#[tokio::test]
async fn a_prediction_is_accepted_in_part_and_the_rest_is_billed() {
    let bench = Bench::calm();
    // Eight tokens, four of which turn out right.
    let prediction = json!({"type": "content", "content": "one two three four five six seven eight"});
    let body = bench.chat("p", hello(json!({"prediction": prediction, "max_tokens": 15}))).await.json();
    let details = &body["usage"]["completion_tokens_details"];
    assert_eq!(
        (&details["accepted_prediction_tokens"], &details["rejected_prediction_tokens"]),
        (&json!(4), &json!(4))
    );
    // The limit is that of the answer; what was predicted wrong comes on top of it.
    assert_eq!(body["usage"]["completion_tokens"], 19);
    let truth = bench.truth("p");
    assert_usage_is_the_truth(&body["usage"], &truth);
    assert_eq!((truth.accepted_prediction_tokens, truth.rejected_prediction_tokens), (4, 4));
    assert_eq!(truth.cost_picousd, 11 * 150_000 + 19 * 600_000);
    let chunks = bench.chat("ps", streamed(json!({"prediction": prediction, "max_tokens": 15}))).await.chunks();
    assert_eq!(chunks.last().expect("usage")["usage"], body["usage"]);
    assert_eq!(bench.chat("n", hello(json!({"prediction": prediction, "n": 2}))).await.status, 400);
}

/// So many tenths of a second of silence: 8,000 samples a second of one byte.
fn wav(tenths: usize) -> String {
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    bytes.extend_from_slice(&8_000_u32.to_le_bytes());
    bytes.extend_from_slice(&8_000_u32.to_le_bytes());
    bytes.extend_from_slice(b"\x01\0\x08\0data\0\0\0\0");
    bytes.resize(bytes.len() + tenths * 800, 0x80);
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

fn heard(data: &str, format: &str, extra: Value) -> Value {
    let mut body = json!({"model": "gpt-4o-audio-preview", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "what is this"},
        {"type": "input_audio", "input_audio": {"data": data, "format": format}},
    ]}]});
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

#[tokio::test]
async fn sound_in_and_out_is_counted_apart_and_has_prices_of_its_own() {
    let bench = Bench::with_script(Scenario { cached_share: 0.5, ..Scenario::default() });
    let speak =
        json!({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}, "max_tokens": 52});
    let body = bench.chat("s", heard(&wav(25), "wav", speak.clone())).await.json();
    let truth = bench.truth("s");
    // Three for the message, three for the request, three words, of these nine half are cached; and 2.5 seconds.
    assert_eq!((truth.prompt_tokens, truth.prompt_audio_tokens, truth.cached_tokens), (9 + 25, 25, 4));
    assert_eq!((truth.completion_tokens, truth.completion_audio_tokens), (52, 42));
    assert_eq!(truth.cost_picousd, 9 * 2_500_000 + 25 * 40_000_000 + 10 * 10_000_000 + 42 * 80_000_000);
    assert_usage_is_the_truth(&body["usage"], &truth);
    let message = &body["choices"][0]["message"];
    assert_eq!((&message["content"], &body["choices"][0]["finish_reason"]), (&Value::Null, &json!("length")));
    let said = message["audio"]["transcript"].as_str().expect("text");
    assert!(said.starts_with("Simulated answer:") && message["audio"]["data"].is_string());

    let mut body = heard(&wav(25), "wav", speak);
    (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
    // The first attempt of its id again, and so the same answer.
    let chunks =
        Bench::with_script(Scenario { cached_share: 0.5, ..Scenario::default() }).chat("s", body).await.chunks();
    let heard_of = |part: &str| -> Vec<&str> {
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["audio"][part].as_str()).collect()
    };
    assert_eq!((heard_of("transcript").concat(), heard_of("data").len()), (said.to_owned(), 1));
    assert_eq!(chunks.last().expect("usage")["usage"]["completion_tokens_details"]["audio_tokens"], 42);

    // An MP3 has 16,000 bytes a second here.
    let mp3 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, vec![0; 16_001]);
    assert_eq!(bench.chat("mp3", heard(&mp3, "mp3", json!({}))).await.status, 200);
    assert_eq!((bench.truth("mp3").prompt_audio_tokens, bench.truth("mp3").completion_audio_tokens), (11, 0));
}

#[tokio::test]
async fn sound_that_cannot_be_counted_or_priced_is_refused_and_costs_nothing() {
    let bench = Bench::calm();
    for (body, why) in [
        (heard(&wav(1), "wav", json!({"model": "gpt-4o-mini"})), "a model that does not hear"),
        (heard(&wav(1), "flac", json!({})), "a format nobody knows"),
        (heard("AAAA", "wav", json!({})), "no WAV"),
        (heard("", "wav", json!({})), "nothing"),
        (hello(json!({"modalities": ["audio"], "audio": {}})), "a model that does not speak"),
        (hello(json!({"modalities": ["text", "smell"]})), "a modality nobody has"),
        (heard(&wav(1), "wav", json!({"modalities": ["audio"]})), "no voice"),
    ] {
        assert_eq!(bench.chat("refused", body).await.status, 400, "{why}");
    }
    assert_eq!(bench.sim.truth().totals().attempts, 0);
    assert_eq!(bench.chat("text", hello(json!({"modalities": ["text"]}))).await.status, 200);
}

// === Faults of the bill ===

#[tokio::test]
async fn a_limit_may_be_ignored_and_what_comes_after_it_is_billed_and_told() {
    let bench = Bench::with_script(Scenario { tokens_past_limit: 9, ..Scenario::default() });
    for limit in [1_u64, 5, 16, 300] {
        let (id, field) =
            (format!("over-{limit}"), if limit % 2 == 0 { "max_tokens" } else { "max_completion_tokens" });
        let body = json!({field: limit});
        let answer = bench.chat_with_fault(&id, "ignores-limit", hello(body.clone())).await.expect("headers");
        let answer = Answer::read(answer).await.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], limit + 9);
        let truth = bench.truth(&id);
        assert_usage_is_the_truth(&answer["usage"], &truth);
        assert_eq!((truth.fault, truth.usage_altered), (Some(Fault::IgnoresLimit), false));
        assert_eq!(truth.cost_picousd, 11 * 150_000 + u128::from(limit + 9) * 600_000);
        let id = format!("stream-{limit}");
        let answer = bench.chat_with_fault(&id, "ignores-limit", streamed(body)).await.expect("headers");
        let chunks = Answer::read(answer).await.chunks();
        assert_eq!(chunks.last().expect("usage")["usage"]["completion_tokens"], limit + 9);
        assert_eq!(bench.truth(&id).completion_tokens, limit + 9);
    }
    bench.chat("none", hello(json!({"model": "gpt-4o-mini+ignores-limit"}))).await;
    assert_eq!(bench.truth("none").fault, None);
}

#[tokio::test(start_paused = true)]
async fn late_usage_comes_long_after_the_last_of_the_content() {
    let bench = Bench::here(Options::on_any_port());
    let mut body = bench.chat_with_fault("late", "late-usage", streamed(json!({}))).await.expect("headers").into_body();
    let start = tokio::time::Instant::now();
    let mut before = String::new();
    while start.elapsed().as_secs() == 0 {
        match tokio::time::timeout(std::time::Duration::from_secs(1), body.frame()).await {
            Ok(frame) => {
                let data = frame.expect("a frame").expect("no error").into_data().expect("data");
                before.push_str(std::str::from_utf8(&data).expect("text"));
            }
            Err(_) => break,
        }
    }
    assert!(
        before.contains(r#""finish_reason":"stop""#) && !before.contains(r#""usage":{"#) && !before.contains("[DONE]")
    );
    assert!(bench.truth("late").in_flight);
    let after = body.collect().await.expect("the rest").to_bytes();
    assert_eq!(start.elapsed().as_secs(), 5);
    let after = std::str::from_utf8(&after).expect("text");
    assert!(after.contains(r#""usage":{"#) && after.ends_with("data: [DONE]\n\n"), "{after}");
    let truth = bench.truth("late");
    assert!(truth.complete && truth.usage_sent && !truth.client_gone);

    // Who leaves in the pause has had the whole answer, and is billed for it.
    let body = bench.chat_with_fault("gone", "late-usage", streamed(json!({"max_tokens": 15}))).await.expect("headers");
    let mut body = body.into_body();
    body.frame().await.expect("a frame").expect("no error");
    drop(body);
    let truth = bench.truth_when("gone", |account| !account.in_flight).await;
    assert_eq!((truth.completion_tokens, truth.complete, truth.client_gone), (15, false, true));
}

#[tokio::test]
async fn usage_may_run_along_with_every_chunk() {
    let bench = Bench::calm();
    for (id, body) in [("asked", streamed(json!({"n": 2}))), ("unasked", hello(json!({"n": 2, "stream": true})))] {
        let answer = bench.chat_with_fault(id, "usage-in-every-chunk", body).await.expect("headers");
        let chunks = Answer::read(answer).await.chunks();
        let told: Vec<u64> =
            chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().expect("a number")).collect();
        assert!(told.is_sorted() && told[0] < told[told.len() - 1], "{told:?}");
        assert!(chunks.iter().all(|chunk| chunk["choices"].as_array().is_some_and(|choices| choices.len() == 1)));
        let truth = bench.truth(id);
        let last = chunks.last().expect("a chunk");
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
        assert_usage_is_the_truth(&last["usage"], &truth);
        assert!(truth.complete && truth.usage_sent && !truth.usage_altered);
    }
}

#[tokio::test]
async fn an_error_may_come_after_some_tokens_and_they_are_billed() {
    let bench = Bench::calm();
    let answer = bench.chat_with_fault("e", "error-after-tokens", streamed(json!({}))).await.expect("headers");
    assert_eq!(answer.status(), 200);
    let answer = Answer::read(answer).await;
    assert!(!answer.broke_off && !answer.text.contains("[DONE]"));
    let data = answer.data();
    // The role, three tokens, the error.
    assert_eq!(data.len(), 5);
    let error: Value = serde_json::from_str(data[4]).expect("JSON");
    assert!(error["error"]["message"].is_string() && error["error"]["type"] == "server_error");
    let truth = bench.truth("e");
    assert_eq!((truth.completion_tokens, truth.complete, truth.usage_sent), (3, false, false));
    assert_eq!(truth.cost_picousd, 11 * 150_000 + 3 * 600_000);
    assert!(!truth.client_gone && !truth.in_flight);
}

#[tokio::test]
async fn a_bill_may_be_higher_than_what_the_usage_said() {
    let bench = Bench::calm();
    for (id, body) in [("json", hello(json!({"max_tokens": 5}))), ("stream", streamed(json!({"max_tokens": 5})))] {
        let answer = Answer::read(bench.chat_with_fault(id, "overbills", body).await.expect("headers")).await;
        let usage = match id {
            "json" => answer.json()["usage"].clone(),
            _ => answer.chunks().last().expect("usage")["usage"].clone(),
        };
        assert_eq!(usage["completion_tokens"], 5);
        let truth = bench.truth(id);
        assert_eq!((truth.completion_tokens, truth.usage_altered, truth.complete), (12, true, true));
        assert_eq!(truth.cost_picousd, 11 * 150_000 + 12 * 600_000);
    }
    let body = json!({"model": "text-embedding-3-small+overbills", "input": "two words"}).to_string();
    let answer = bench.ask("/v1/embeddings", &[("x-request-id", "embedded")], body).await.json();
    assert_eq!((&answer["usage"]["prompt_tokens"], bench.truth("embedded").prompt_tokens), (&json!(2), 9));
    assert_eq!(bench.truth("embedded").cost_picousd, 9 * 20_000);
}

// === The bill ===

#[tokio::test]
async fn every_format_of_the_bill_is_the_truth() {
    let faults = [(Fault::Cut, 0.2), (Fault::Error500, 0.1), (Fault::Overbills, 0.3), (Fault::IgnoresLimit, 0.1)];
    let script = Scenario { faults: faults.into_iter().collect(), cached_share: 0.3, ..Scenario::default() };
    let bench = Bench::with_script(script);
    for at in 0..60 {
        let (id, key) = (format!("bill-{}", at % 50), format!("Bearer sk-{}", at % 2));
        let headers = [("x-request-id", &*id), ("authorization", &*key)];
        let (path, body) = match at % 3 {
            0 => ("/v1/chat/completions", hello(json!({"max_tokens": 30}))),
            1 => ("/v1/chat/completions", streamed(json!({"model": "gpt-4o-2024-08-06"}))),
            _ => ("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "some words", "dimensions": 2})),
        };
        Answer::read(bench.send(bench.post(path, &headers, body.to_string())).await.expect("headers")).await;
    }
    let totals = bench.sim.truth().totals();
    assert_eq!((totals.attempts, totals.in_flight), (60, 0));

    let lines = bench.get("/sim/usage.jsonl").await;
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 60);
    let costs = lines.iter().map(|line| line["cost_picousd"].as_str().expect("text").parse::<u128>().expect("digits"));
    assert_eq!(costs.sum::<u128>(), totals.cost_picousd);
    let keys: HashSet<_> = lines.iter().map(|line| line["api_key_id"].to_string()).collect();
    assert_eq!(keys.len(), 2);
    assert!(lines.iter().all(|line| line["started_at"].as_str() <= line["ended_at"].as_str()));
    assert_eq!(bench.get("/sim/usage.jsonl?to=1").await.text, "");
    assert_eq!(bench.get("/sim/usage.jsonl?until=1").await.status, 400);

    // From a day before, in case this one ends while the test runs.
    let ended = lines[0]["ended_at"].as_str().expect("text");
    let start = &ended[..10];
    let chats = bench.get("/v1/organization/usage/completions?start_time=0&limit=1").await.json();
    assert_eq!(
        (&chats["object"], &chats["has_more"], &chats["data"][0]["object"]),
        (&json!("page"), &json!(true), &json!("bucket"))
    );
    let messages =
        bench.get(&format!("/v1/organizations/usage_report/messages?starting_at={start}T00:00:00Z")).await.json();
    let told = |field: &str| -> u64 {
        let buckets = messages["data"].as_array().expect("a list").iter();
        let results = buckets.flat_map(|bucket| bucket["results"].as_array().expect("a list"));
        results.map(|result| result[field].as_u64().expect("a number")).sum()
    };
    assert_eq!(told("uncached_input_tokens") + told("cache_read_input_tokens"), totals.totals.prompt_tokens);
    assert_eq!(told("output_tokens"), totals.totals.completion_tokens);
    let cents = bench.get(&format!("/v1/organizations/cost_report?starting_at={start}T00:00:00Z")).await.json();
    assert_eq!(cents["data"][0]["results"][0]["currency"], "USD");
    assert_eq!(bench.get("/v1/organization/usage/completions").await.status, 400);
    assert_eq!(bench.get("/v1/organization/usage/moderations?start_time=0").await.status, 404);
    assert_eq!(bench.get("/v1/organization/usage/embeddings?start_time=0").await.status, 200);
    assert_eq!(bench.get("/v1/organization/costs?start_time=0").await.status, 200);
}

#[tokio::test]
async fn the_bill_is_shown_to_who_has_the_key() {
    let bench = Bench::start(Options { require_key: Some("sk-right".to_owned()), ..Options::on_any_port() });
    for (path, header, value, status) in [
        ("/v1/organization/costs?start_time=0", "x-none", "", 401),
        ("/v1/organization/costs?start_time=0", "authorization", "Bearer sk-right", 200),
        ("/v1/organizations/cost_report?starting_at=2026-01-01T00:00:00Z", "x-none", "", 401),
        ("/v1/organizations/cost_report?starting_at=2026-01-01T00:00:00Z", "x-api-key", "sk-wrong", 401),
        ("/v1/organizations/cost_report?starting_at=2026-01-01T00:00:00Z", "x-api-key", "sk-right", 200),
    ] {
        let request = Request::get(format!("http://{}{path}", bench.sim.addr)).header(header, value);
        let request = request.body(Full::default()).expect("a good request");
        assert_eq!(bench.send(request).await.expect("an answer").status(), status, "{path} {header}");
    }
}

#[tokio::test]
async fn simulators_side_by_side_may_have_prices_of_their_own() {
    let cheap = Bench::start(Options { price_percent: 50, ..Options::on_any_port() });
    let script = r#"{"prices": {"gpt-4o-mini": {"input": "0.3", "cached_input": "0.1", "output": "1.25"}}}"#;
    let dear = Bench::with_script(Scenario::parse(script).expect("valid"));
    for (bench, input, output) in [(&cheap, 75_000, 300_000), (&dear, 300_000, 1_250_000)] {
        bench.chat("x", hello(json!({"max_tokens": 4}))).await;
        assert_eq!(bench.truth("x").cost_picousd, 11 * input + 4 * output);
    }
    assert!(tollgate_sim::spawn(Options { price_percent: u32::MAX, ..Options::on_any_port() }).is_err());
}

// === Many at once ===

/// Streams that have all begun and of which none has ended, on few connections.
#[tokio::test]
async fn few_http2_connections_carry_ten_thousand_streams() {
    const CONNECTIONS: usize = 5;
    const STREAMS: usize = 2_000;
    let script = Scenario { late_usage_ms: 3_600_000, ..Scenario::default() };
    let bench = Bench::with_script(script);
    let body = streamed(json!({"model": "gpt-4o-mini+late-usage", "max_tokens": 4})).to_string();
    let mut asked = tokio::task::JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = tokio::net::TcpStream::connect(bench.sim.addr).await.expect("connected");
        let stream = hyper_util::rt::TokioIo::new(stream);
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        // Who gives up thousands of streams at once must allow himself to.
        builder.max_local_error_reset_streams(STREAMS);
        let (mut sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        for _ in 0..STREAMS {
            sender.ready().await.expect("the connection is up");
            let answer = sender.send_request(bench.post("/v1/chat/completions", &[], body.clone()));
            asked.spawn(async move {
                let mut body = answer.await.expect("an answer").into_body();
                let first = body.frame().await.expect("a frame").expect("no error");
                (first.data_ref().is_some_and(|data| !data.is_empty()), body)
            });
        }
        senders.push(sender);
    }
    let within = std::time::Duration::from_secs(60);
    let begun = tokio::time::timeout(within, asked.join_all()).await.expect("none of them waits for another's end");
    assert!(begun.len() == CONNECTIONS * STREAMS && begun.iter().all(|(said_something, _)| *said_something));
    assert_eq!(bench.sim.truth().totals().in_flight, (CONNECTIONS * STREAMS) as u64);
    // All leave at once, which is no reason to hang up on who stays.
    drop(begun);
    for mut sender in senders {
        let request = bench.post("/v1/chat/completions", &[], hello(json!({})).to_string());
        assert_eq!(sender.send_request(request).await.expect("an answer").status(), 200);
    }
}
