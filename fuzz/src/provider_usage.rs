//! The usage in a provider's answer: read only where it can be right, at no less than what a plain reading finds, and
//! the same in a stream as in a whole answer.

use serde_json::Value;
use tollgate_serving::answer::usage_in;

use crate::{Decisions, Target, by_serde, sse};

pub const TARGET: Target = Target {
    name: "provider_usage",
    check: check_provider_usage,
    seeds: &[
        r#"{"id":"x","choices":[{}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}"#,
        r#"{"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":19,"prompt_cache_hit_tokens":3}}"#,
        r#"{"object":"list","data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}"#,
        r#"{"usage":null}"#,
    ],
    words: &[
        "\"prompt_tokens\":4",
        "\"completion_tokens\":9",
        "\"total_tokens\":99",
        "\"cached_tokens\":2",
        "\"prompt_cache_hit_tokens\":1",
        "\"usage\":{\"prompt_tokens\":1}",
        "\"error\":null",
        "null",
        "-1",
        "1.5",
        "18446744073709551615",
        "18446744073709551616",
        "\"usage\":{",
        "}",
        ",",
        "1e3",
        "\"reasoning_tokens\":1",
    ],
    takes_noise: false,
};

pub fn check_provider_usage(data: &[u8]) {
    let Ok(stated) = usage_in(data) else { return };
    let Some(answer) = by_serde(data) else { return };
    if let Some(usage) = stated {
        assert!(usage.cached_input_tokens <= usage.input_tokens && usage.reasoning_tokens <= usage.output_tokens);
        let said = |name: &str| answer["usage"].get(name).and_then(Value::as_u64);
        assert_eq!(said("prompt_tokens"), Some(usage.input_tokens), "what is not stated is not zero, it is unknown");
        assert!(usage.output_tokens >= said("completion_tokens").unwrap_or(0), "never less than was stated");
        let total = u128::from(usage.input_tokens) + u128::from(usage.output_tokens);
        assert!(total >= u128::from(said("total_tokens").unwrap_or(0)), "nor than the total says");
    }
    let one_line = !data.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    let braced = data.starts_with(b"{") && data.ends_with(b"}");
    if one_line && braced && answer.get("error").is_none_or(Value::is_null) && contains(data, b"\"usage\"") {
        assert_eq!(sse::usage_of_stream(data, &mut Decisions(data)), stated, "the same in a stream");
    }
}

fn contains(data: &[u8], word: &[u8]) -> bool {
    data.windows(word.len()).any(|window| window == word)
}
