//! What a provider's answer says of its usage.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_types::Usage;

use crate::top_level::TopLevel;

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: u64,
    /// Embeddings have no output.
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name for what it read from its cache.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

/// The usage in a whole JSON answer. `Err` if it is not a JSON object; `Ok(None)` if it states no usage that can be read.
pub fn usage_in(answer: &[u8]) -> Result<Option<Usage>, crate::top_level::NotAnObject> {
    let top = TopLevel::parse(answer)?;
    Ok(top.present("usage").and_then(read_usage))
}

/// Reads a `usage` object. Its details must be subsets of the whole; one that is not cannot be trusted at all.
pub fn read_usage(raw: &RawValue) -> Option<Usage> {
    let wire: WireUsage = serde_json::from_str(raw.get()).ok()?;
    let cached = wire.prompt_tokens_details.and_then(|details| details.cached_tokens);
    // Some providers leave hidden reasoning out of the completion and count it in the total alone.
    let beyond_input = wire.total_tokens.unwrap_or(0).saturating_sub(wire.prompt_tokens);
    let usage = Usage {
        input_tokens: wire.prompt_tokens,
        cached_input_tokens: cached.or(wire.prompt_cache_hit_tokens).unwrap_or(0),
        output_tokens: wire.completion_tokens.unwrap_or(0).max(beyond_input),
        reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or(0),
        ..Usage::default()
    };
    let consistent = usage.cached_input_tokens <= usage.input_tokens && usage.reasoning_tokens <= usage.output_tokens;
    consistent.then_some(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(text: &str) -> Option<Usage> {
        usage_in(text.as_bytes()).expect("a JSON object")
    }

    #[test]
    fn usage_is_read_with_its_details() {
        let text = r#"{"id":"x","usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,
            "prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
        let expected = Usage {
            input_tokens: 10,
            cached_input_tokens: 4,
            output_tokens: 5,
            reasoning_tokens: 3,
            ..Usage::default()
        };
        assert_eq!(usage(text), Some(expected));
        let hidden = r#"{"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":19}}"#;
        assert_eq!(usage(hidden).map(|usage| usage.output_tokens), Some(12));
        let embedding = r#"{"usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        assert_eq!(usage(embedding), Some(Usage { input_tokens: 7, ..Usage::default() }));
    }

    #[test]
    fn usage_that_cannot_be_right_is_no_usage() {
        for text in [
            r#"{"usage":null}"#,
            r#"{"id":"x"}"#,
            r#"{"usage":{}}"#,
            r#"{"usage":{"prompt_tokens":-1,"completion_tokens":1}}"#,
            r#"{"usage":{"prompt_tokens":1.5}}"#,
            r#"{"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}}"#,
            r#"{"usage":{"prompt_tokens":1,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}}"#,
        ] {
            assert_eq!(usage(text), None, "{text}");
        }
        assert!(usage_in(b"<html>").is_err());
    }
}
