//! What is read of a request, and that nothing but what must change does.

use super::*;

const BOUNDS: Bounds<'static> =
    Bounds { model: "gpt-4o-mini", output_tokens: Some(100), output_limit_name: "max_completion_tokens" };

fn chat(body: &str) -> Call<'_> {
    read_chat(body.as_bytes()).expect("a chat request").call
}

fn refused(body: &str) -> String {
    match read_chat(body.as_bytes()).expect_err("refused") {
        Refusal::InvalidRequest { message, .. } => message,
        other => other.to_string(),
    }
}

fn bounded(body: &str, bounds: Bounds<'_>) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = read_chat(&body).expect("a chat request");
    String::from_utf8(request.bounded(&body, bounds).to_vec()).expect("text")
}

#[test]
fn the_parts_that_matter_are_read() {
    let call = chat(
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5,"n":3,
           "stream_options":{"include_usage":true},"prediction":{"type":"content","content":"abc"}}"#,
    );
    assert_eq!((&*call.route, call.stream, call.include_usage, call.choices), ("m", true, true, 3));
    assert_eq!(call.output_limit.tokens(), Some(5));
    assert_eq!(call.prediction_bytes, 34);
    assert_eq!((call.images, call.unbounded, call.priced_apart), (0, None, None));
}

#[test]
fn an_image_counts_as_an_image_however_it_is_written_and_not_by_its_bytes() {
    let data = "A".repeat(10_000);
    for kind in ["image_url", "\\u0069mage_url"] {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"what is it"}},
               {{"type":"{kind}","image_url":{{"url":"data:image/png;base64,{data}"}}}}]}}]}}"#
        );
        let call = chat(&body);
        assert_eq!(call.images, 1);
        assert!(call.input_bytes < 300 + TEMPLATE_TOKENS, "{}", call.input_bytes);
    }
}

#[test]
fn what_has_no_bound_is_named() {
    let check = |member: &str, what: &str| {
        let body = format!(r#"{{"model":"m","messages":[],{member}}}"#);
        assert!(chat(&body).unbounded.is_some_and(|named| named.contains(what)), "{member}");
    };
    check(r#""web_search_options":{}"#, "web_search_options");
    check(r#""modalities":["text","audio"]"#, "modalities");
    check(r#""tools":[{"type":"function"},{"type":"code_interpreter"}]"#, "runs itself");
    check(r#""models":["a","b"]"#, "models");
    check(r#""tools":[{"type":"function","type":"web_search"}]"#, "runs itself");
    check(r#""tools":[{"type":"function","Type":"web_search"}]"#, "runs itself");
    check(r#""tools":[{"function":{}}]"#, "runs itself");
    check(r#""tools":"all""#, "cannot be read");
    check(r#""modalities":"audio""#, "modalities");
    check(r#""chat_template":"{% for x in y %}""#, "chat_template");
    check(r#""extra_body":{"google":{"cached_content":"x"}}"#, "cached_content");
    let part = |part: &str| {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#);
        read_chat(body.as_bytes()).expect("a chat request").call.unbounded
    };
    assert!(part(r#"{"type":"input_audio","input_audio":{}}"#).is_some());
    assert!(part(r#"{"type":"file","file":{}}"#).is_some());
    assert!(part(r#"{"type":"video_url"}"#).is_some());
    assert!(part(r#"{"type":"image_url","image_url":{"url":"data:application/pdf;base64,AAAA"}}"#).is_some());
    assert!(part(r#"{"type":"text","text":"x","Type":"image_url","image_url":{"url":"http://x"}}"#).is_some());
    assert!(part(r#"{"type":"text","text":"x","Image_URL":{"url":"http://x"}}"#).is_some());
    let twin = r#"{"model":"m","messages":[{"role":"user","content":"x","Content":[{"type":"image_url"}]}]}"#;
    assert!(chat(twin).unbounded.is_some());
    assert_eq!(part(r#"{"type":"text","text":"input_audio","X-New":1}"#), None);
    assert!(chat(r#"{"model":"m","messages":[],"service_tier":"priority"}"#).priced_apart.is_some());
}

#[test]
fn an_embedding_is_of_text_or_tokens() {
    let check = |input: &str, bounded: bool| {
        let body = format!(r#"{{"model":"m","input":{input}}}"#);
        let call = read_embeddings(Surface::Embeddings, body.as_bytes()).expect("an embeddings request").call;
        assert_eq!(call.unbounded.is_none(), bounded, "{input}");
    };
    check(r#""a text""#, true);
    check(r#"["a","b"]"#, true);
    check("[1,2,3]", true);
    check("[[1,2],[3]]", true);
    check(r#"[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]"#, false);
    check(r#"{"image":"x"}"#, false);
    assert!(read_embeddings(Surface::Embeddings, br#"{"model":"m","input":1.5}"#).is_err());
    assert!(read_embeddings(Surface::Embeddings, br#"{"model":"m","input":[-1]}"#).is_err());
}

#[test]
fn what_is_malformed_is_refused_with_its_reason() {
    let check = |body: &str, reason: &str| {
        let message = refused(body);
        assert!(message.contains(reason), "{body}: {message}");
    };
    check("", "not a JSON object");
    check("{\"model\":\"m\"", "not a JSON object");
    check(r#"{"messages":[]}"#, "'model' is required");
    check(r#"{"model":"m"}"#, "'messages' is required");
    check(r#"{"model":7,"messages":[]}"#, "'model'");
    check(r#"{"model":"m","messages":[7]}"#, "a message");
    check(r#"{"model":"m","messages":[],"max_tokens":0}"#, "at least 1");
    check(r#"{"model":"m","messages":[],"max_tokens":-1}"#, "'max_tokens'");
    check(r#"{"model":"m","messages":[],"max_tokens":1e99}"#, "'max_tokens'");
    check(r#"{"model":"m","messages":[],"n":0}"#, "'n' must be");
    check(r#"{"model":"m","messages":[],"n":129}"#, "'n' must be");
    check(r#"{"model":"m","messages":[],"stream":"yes"}"#, "'stream'");
    check(r#"{"model":"m","model":"dear","messages":[]}"#, "duplicate key");
    for twin in ["MODEL", "Max_Tokens", "N", "ſtream", "max_to\u{212a}ens"] {
        check(&format!(r#"{{"model":"m","messages":[],"{twin}":1}}"#), "lower case");
    }
    assert!(read_embeddings(Surface::Embeddings, br#"{"model":"m"}"#).is_err());
    assert!(read_chat(b"{\"model\":\"\xff\"}").is_err());
}

#[test]
fn unknown_fields_and_the_caller_s_own_spelling_pass_through_unchanged() {
    let body = r#"{ "x_new" : [1, 2.50, {"a":"\u00e9"}],"model":"gpt-4o-mini", "messages" : [ ] ,"max_tokens": 7 }"#;
    assert_eq!(bounded(body, BOUNDS), body);
}

#[test]
fn output_is_bounded_to_what_is_paid_for() {
    let check = |body: &str, expected: &str| assert_eq!(bounded(body, BOUNDS), expected);
    check(r#"{"model":"alias","messages":[]}"#, r#"{"model":"gpt-4o-mini","messages":[],"max_completion_tokens":100}"#);
    check(
        r#"{"model":"gpt-4o-mini","max_tokens":500,"messages":[]}"#,
        r#"{"model":"gpt-4o-mini","max_tokens":100,"messages":[]}"#,
    );
    check(
        r#"{"model":"gpt-4o-mini","max_tokens":500,"max_completion_tokens":50,"messages":[]}"#,
        r#"{"model":"gpt-4o-mini","max_tokens":100,"max_completion_tokens":50,"messages":[]}"#,
    );
    check(
        r#"{"model":"gpt-4o-mini","messages":[],"max_completion_tokens":null}"#,
        r#"{"model":"gpt-4o-mini","messages":[],"max_completion_tokens":100}"#,
    );
}

#[test]
fn a_bound_goes_out_under_the_name_that_the_provider_reads() {
    let bounds = Bounds { output_limit_name: "max_tokens", ..BOUNDS };
    let check = |body: &str, expected: &str| assert_eq!(bounded(body, bounds), expected);
    check(
        r#"{"model":"gpt-4o-mini","max_completion_tokens":5,"messages":[]}"#,
        r#"{"model":"gpt-4o-mini","messages":[],"max_tokens":5}"#,
    );
    check(
        r#"{"model":"gpt-4o-mini","messages":[],"max_completion_tokens":500,"max_tokens":null}"#,
        r#"{"model":"gpt-4o-mini","messages":[],"max_tokens":100}"#,
    );
}

#[test]
fn usage_is_always_asked_for_on_a_stream() {
    let check = |options: &str, expected: &str| {
        let body = format!(r#"{{"model":"gpt-4o-mini","messages":[],"max_tokens":1,"stream":true{options}}}"#);
        let expected = format!(r#"{{"model":"gpt-4o-mini","messages":[],"max_tokens":1,"stream":true{expected}}}"#);
        assert_eq!(bounded(&body, BOUNDS), expected);
    };
    check("", r#","stream_options":{"include_usage":true}"#);
    check(r#","stream_options":null"#, r#","stream_options":{"include_usage":true}"#);
    check(r#","stream_options":{}"#, r#","stream_options":{"include_usage":true}"#);
    check(
        r#","stream_options":{"include_obfuscation":false}"#,
        r#","stream_options":{"include_obfuscation":false,"include_usage":true}"#,
    );
    check(r#","stream_options":{"include_usage":false}"#, r#","stream_options":{"include_usage":true}"#);
    check(r#","stream_options":{"include_usage":true}"#, r#","stream_options":{"include_usage":true}"#);
}

#[test]
fn a_model_s_name_is_quoted_where_it_is_put_in() {
    let bounds = Bounds { model: "a\"b\\c", ..BOUNDS };
    let out = bounded(r#"{"model":"x","messages":[],"max_tokens":1}"#, bounds);
    let value: serde_json::Value = serde_json::from_str(&out).expect("still JSON");
    assert_eq!(value["model"], "a\"b\\c");
}
