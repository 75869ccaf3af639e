//! Requests in OpenAI's wire format: nothing changes but what must, what goes out is bounded however it is read, and a
//! plain reading through `serde_json::Value` agrees about everything that money depends on.

use bytes::Bytes;
use serde_json::{Map, Value};
use tollgate_gateway::http::wire::{
    Bounds, CHOICES_MAX, OUTPUT_TOKENS_MAX, STRUCTURE_TOKENS, TEMPLATE_TOKENS, WireRequest, read_chat, read_embeddings,
};
use tollgate_serving::top_level::TopLevel;
use tollgate_types::{Call, Refusal, Surface};

use crate::{Target, by_serde};

pub const CHAT: Target = Target {
    name: "chat_request",
    check: check_chat_request,
    seeds: &[
        r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}"#,
        r#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":false,"x":1},"max_tokens":5000,"n":2}"#,
        r#"{ "stream" : true , "model" : "m" , "stream_options" : { } , "messages" : [ { "role" : "user" , "content" : null } ] }"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"what \u00e9"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}}]}],"model":"a\"b","max_completion_tokens":null,"max_tokens":null}"#,
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"abcdefgh"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}]}]}"#,
        r#"{"model":"m","messages":[{"role":"assistant","audio":{"id":"x"}}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"auto","logprobs":true,"seed":1e3}"#,
        r#"{"model":"m","messages":[],"tools":[{"type":"function","type":"web_search"}],"MAX_TOKENS":90000,"max_tokens":5}"#,
        r#"{"model":"m","messages":[],"tools":[{"type":"web_search"}],"modalities":["text","audio"],"prediction":{"type":"content","content":"abc"},"service_tier":"flex","best_of":4,"stream":false}"#,
    ],
    words: &[
        "\"max_tokens\":9",
        "\"max_completion_tokens\":5000",
        "\"n\":3",
        "\"stream\":true",
        "\"stream_options\":{}",
        "null",
        "\"max_tokens\":null",
        "\"stream_options\":null",
        "\"stop\":[\"}\"]",
        "\"user\":\"\\u007d,{\"",
        "\"best_of\":2",
        "\"x\":{\"model\":\"}\"}",
        "\"tools\":[]",
        "\"audio\":null",
        "\"include_usage\":true",
        "\"\\u006eame\":\"x\"",
        "{\"include_usage\":true}",
        "\"messages\":[]",
        "\"model\":\"m\"",
        "\\u006d",
        ",",
        "}",
        "[]",
        "{}",
        "1e9",
        "1000000001",
        "-1",
        "\"type\":\"image_url\"",
        "\"image_url\":{\"url\":\"xxxxxxxx\"}",
        "\"content\":",
        "\n",
    ],
    takes_noise: false,
};

pub const EMBEDDINGS: Target = Target {
    name: "embeddings_request",
    check: check_embeddings_request,
    seeds: &[
        r#"{"model":"text-embedding-3-small","input":"hello"}"#,
        r#"{"input":["a","b"],"model":"m","dimensions":256,"encoding_format":"base64","user":"u"}"#,
        r#"{"input":[[1,2,3]],"model":"\u006d","service_tier":"auto"}"#,
    ],
    words: &[
        "\"input\":[]",
        "\"user\":\"x\"",
        "\"dimensions\":3",
        "\"model\":\"m\"",
        "null",
        ",",
        "}",
        "[]",
        "\"max_tokens\":5",
        "\"stream\":true",
        "\\u0061",
    ],
    takes_noise: false,
};

/// Members that a request may come out with changed; every other stays byte for byte.
const OURS: [&str; 4] = ["model", "max_tokens", "max_completion_tokens", "stream_options"];

pub fn check_chat_request(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let request = match read_chat(&body) {
        Ok(request) => request,
        Err(refused) => return check_refusal(&refused),
    };
    let Some(object) = by_serde(&body) else { return };
    check_read(&request.call, &object);
    check_output_limit(&request.call, &object);
    check_input(&request.call, &object, body.len());
    for (tokens, name) in [(1, "max_tokens"), (777, "max_completion_tokens"), (OUTPUT_TOKENS_MAX, "max_tokens")] {
        for model in ["gpt-4o-mini", "a \"quoted\" näme"] {
            check_bounded(&request, &body, Bounds { model, output_tokens: Some(tokens), output_limit_name: name });
        }
    }
}

pub fn check_embeddings_request(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let request = match read_embeddings(Surface::Embeddings, &body) {
        Ok(request) => request,
        Err(refused) => return check_refusal(&refused),
    };
    let Some(object) = by_serde(&body) else { return };
    assert_eq!(object["model"].as_str(), Some(&*request.call.route));
    assert_eq!(request.call.input_bytes, body.len() as u64);
    assert!(!request.call.stream && request.call.choices == 1);
    let out = request.bounded(&body, Bounds { model: "m", output_tokens: None, output_limit_name: "max_tokens" });
    check_others_untouched(&body, &out, &["model"]);
    assert_eq!(outgoing(&out)["model"], "m");
}

/// What was read before, and still must be.
fn outgoing(body: &[u8]) -> Map<String, Value> {
    by_serde(body).expect("no number was put in that was not there")
}

/// A refusal is about the request, and short enough to be sent back.
fn check_refusal(refused: &Refusal) {
    assert!(matches!(refused, Refusal::InvalidRequest { .. }), "{refused:?}");
    assert!(!refused.to_string().is_empty());
}

fn check_read(call: &Call<'_>, object: &Map<String, Value>) {
    for name in object.keys() {
        let twin =
            ["model", "n", "stream"].iter().chain(&OURS).any(|ours| ours != name && ours.eq_ignore_ascii_case(name));
        assert!(!twin, "{name} passes, and a server that ignores case would obey it");
    }
    assert_eq!(object["model"].as_str(), Some(&*call.route));
    assert!(object["messages"].is_array());
    let number = |name: &str| object.get(name).and_then(Value::as_u64);
    let flag = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
    assert_eq!(call.stream, flag(object.get("stream")));
    assert_eq!(call.include_usage, flag(object.get("stream_options").and_then(|options| options.get("include_usage"))));
    assert_eq!(call.choices, number("n").unwrap_or(1).max(number("best_of").unwrap_or(1)));
    assert!((1..=CHOICES_MAX).contains(&call.choices));
    if hosted_tool(object) || object.get("web_search_options").is_some_and(|value| !value.is_null()) {
        assert!(call.unbounded.is_some(), "work of the provider's own has no bound: {object:?}");
    }
}

/// Whether a provider may see a tool that it runs itself.
fn hosted_tool(object: &Map<String, Value>) -> bool {
    let tools = object.get("tools").and_then(Value::as_array).into_iter().flatten();
    let named = |tool: &Value| tool.get("type").and_then(Value::as_str).map(str::to_owned);
    tools.filter_map(named).any(|kind| kind != "function" && kind != "custom")
}

fn check_output_limit(call: &Call<'_>, object: &Map<String, Value>) {
    for (name, read) in [
        ("max_tokens", call.output_limit.max_tokens),
        ("max_completion_tokens", call.output_limit.max_completion_tokens),
    ] {
        let said = object.get(name).filter(|value| !value.is_null());
        assert_eq!(said.and_then(Value::as_u64), read, "{name}");
        assert_eq!(said.is_some(), read.is_some(), "a bound that cannot be read is refused, not passed over: {name}");
        assert!(read.is_none_or(|tokens| (1..=OUTPUT_TOKENS_MAX).contains(&tokens)), "{name}");
    }
}

/// What bytes are to bound is bounded by them: every text in the messages but the images' own.
fn check_input(call: &Call<'_>, object: &Map<String, Value>, body_bytes: usize) {
    assert!(call.input_bytes <= body_bytes as u64 + TEMPLATE_TOKENS + STRUCTURE_TOKENS);
    let text = text_bytes(&object["messages"]);
    assert!(text <= call.input_bytes, "{text} bytes of text, {} counted", call.input_bytes);
    let images = images_in(&object["messages"]);
    assert!(images <= call.images || call.unbounded.is_some(), "{images} images, {} counted", call.images);
}

fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(members) if is_image(value) => {
            members.iter().filter(|(name, _)| *name != "image_url").map(|(_, value)| text_bytes(value)).sum()
        }
        Value::Object(members) => members.values().map(text_bytes).sum(),
        _ => 0,
    }
}

fn is_image(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("image_url")
}

fn images_in(messages: &Value) -> u64 {
    let parts = messages.as_array().into_iter().flatten().filter_map(|message| message.get("content"));
    let parts = parts.filter_map(Value::as_array).flatten();
    parts.filter(|part| is_image(part)).count() as u64
}

fn check_bounded(request: &WireRequest<'_>, body: &Bytes, bounds: Bounds<'_>) {
    let tokens = bounds.output_tokens.expect("chat has output");
    let out = request.bounded(body, bounds);
    check_others_untouched(body, &out, &OURS);
    let object = outgoing(&out);
    assert_eq!(object["model"], bounds.model);
    let limits = ["max_tokens", "max_completion_tokens"].map(|name| object.get(name).filter(|value| !value.is_null()));
    assert!(limits.iter().any(Option::is_some), "some bound on the output goes out");
    for limit in limits.into_iter().flatten() {
        assert!(limit.as_u64().is_some_and(|limit| limit <= tokens), "{limit} goes out, {tokens} are paid for");
    }
    if request.call.stream {
        assert_eq!(object["stream_options"]["include_usage"], true);
    }
    let again = read_chat(&out).expect("what goes out can be read");
    assert_eq!(again.bounded(&out, bounds), out, "what is bounded already is not touched again");
    assert_eq!((again.call.images, again.call.unbounded), (request.call.images, request.call.unbounded));
}

/// Every member of the request that is not among `changed` is in the outgoing one, byte for byte and in the same order.
fn check_others_untouched(before: &[u8], after: &[u8], changed: &[&str]) {
    let members = |body| {
        let names = outgoing(body);
        let top = TopLevel::parse(body).expect("a JSON object");
        let raw = |name: String| top.get(&name).map(|raw| raw.get().to_owned()).map(|raw| (name, raw));
        let others = names.into_iter().map(|(name, _)| name).filter(|name| !changed.contains(&&**name));
        others.filter_map(raw).collect::<Vec<_>>()
    };
    assert_eq!(members(before), members(after));
}
