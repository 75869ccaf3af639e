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
    /// Anthropic's name for what was written to its cache, as proxies pass it on.
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
    /// OpenAI's name for what was written to the cache.
    #[serde(default)]
    cache_write_tokens: Option<u64>,
    /// LiteLLM's name for the same.
    #[serde(default)]
    cache_creation_tokens: Option<u64>,
    #[serde(default)]
    audio_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
    #[serde(default)]
    audio_tokens: Option<u64>,
}

/// The usage in a whole JSON answer. `Err` if it is not a JSON object; `Ok(None)` if it states no usage that can be read.
pub fn usage_in(answer: &[u8]) -> Result<Option<Usage>, crate::top_level::NotAnObject> {
    let top = TopLevel::parse(answer)?;
    Ok(top.present("usage").and_then(read_usage))
}

/// Reads a `usage` object. Its details must be subsets of the whole; one that is not cannot be trusted at all.
pub fn read_usage(raw: &RawValue) -> Option<Usage> {
    let wire: WireUsage = serde_json::from_str(raw.get()).ok()?;
    let (prompt, completion) = (wire.prompt_tokens_details.as_ref(), wire.completion_tokens_details.as_ref());
    let cached = prompt.and_then(|details| details.cached_tokens);
    // One thing under three names. Where they disagree the dearest counts: the bill cannot be higher.
    let written = [
        prompt.and_then(|details| details.cache_write_tokens),
        prompt.and_then(|details| details.cache_creation_tokens),
        wire.cache_creation_input_tokens,
    ];
    // Some providers leave hidden reasoning out of the completion and count it in the total alone.
    let beyond_input = wire.total_tokens.unwrap_or(0).saturating_sub(wire.prompt_tokens);
    let usage = Usage {
        input_tokens: wire.prompt_tokens,
        cached_input_tokens: cached.or(wire.prompt_cache_hit_tokens).unwrap_or(0),
        cache_write_tokens: written.into_iter().flatten().max(),
        audio_input_tokens: prompt.and_then(|details| details.audio_tokens).unwrap_or(0),
        output_tokens: wire.completion_tokens.unwrap_or(0).max(beyond_input),
        reasoning_tokens: completion.and_then(|details| details.reasoning_tokens).unwrap_or(0),
        audio_output_tokens: completion.and_then(|details| details.audio_tokens).unwrap_or(0),
        cpu_us: 0,
    };
    is_consistent(&usage).then_some(usage)
}

/// No detail is larger than the whole. What was read from the cache was not written to it.
fn is_consistent(usage: &Usage) -> bool {
    let within = |parts: &[u64], whole: u64| {
        let sum = parts.iter().try_fold(0, |sum: u64, part| sum.checked_add(*part));
        sum.is_some_and(|sum| sum <= whole)
    };
    let written = usage.cache_write_tokens.unwrap_or(0);
    within(&[usage.cached_input_tokens, written], usage.input_tokens)
        && within(&[usage.audio_input_tokens], usage.input_tokens)
        && within(&[usage.reasoning_tokens, usage.audio_output_tokens], usage.output_tokens)
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
        let everything = r#"{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":10,"cache_write_tokens":60,"audio_tokens":20},
            "completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":40}}}"#;
        let expected = Usage {
            input_tokens: 100,
            cached_input_tokens: 10,
            cache_write_tokens: Some(60),
            audio_input_tokens: 20,
            output_tokens: 50,
            reasoning_tokens: 5,
            audio_output_tokens: 40,
            cpu_us: 0,
        };
        assert_eq!(usage(everything), Some(expected));
        let hidden = r#"{"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":19}}"#;
        assert_eq!(usage(hidden).map(|usage| usage.output_tokens), Some(12));
        let embedding = r#"{"usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        assert_eq!(usage(embedding), Some(Usage { input_tokens: 7, ..Usage::default() }));
    }

    #[test]
    fn what_was_written_to_the_cache_has_three_names_and_silence_is_not_nothing() {
        let written = |more: &str| {
            usage(&format!(r#"{{"usage":{{"prompt_tokens":100,"completion_tokens":1{more}}}}}"#))
                .expect("it can be right")
                .cache_write_tokens
        };
        assert_eq!(written(""), None);
        assert_eq!(written(r#","prompt_tokens_details":{"cached_tokens":4}"#), None);
        assert_eq!(written(r#","prompt_tokens_details":{"cache_write_tokens":0}"#), Some(0));
        assert_eq!(written(r#","prompt_tokens_details":{"cache_write_tokens":70}"#), Some(70));
        assert_eq!(written(r#","prompt_tokens_details":{"cache_creation_tokens":71}"#), Some(71));
        assert_eq!(written(r#","cache_creation_input_tokens":72,"cache_read_input_tokens":4"#), Some(72));
        assert_eq!(
            written(r#","cache_creation_input_tokens":72,"prompt_tokens_details":{"cache_write_tokens":0}"#),
            Some(72)
        );
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
            r#"{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":5,"cache_write_tokens":5}}}"#,
            r#"{"usage":{"prompt_tokens":9,"cache_creation_input_tokens":10}}"#,
            r#"{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"audio_tokens":10}}}"#,
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":9,"completion_tokens_details":{"audio_tokens":10}}}"#,
            r#"{"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":18446744073709551615,"cache_write_tokens":1}}}"#,
        ] {
            assert_eq!(usage(text), None, "{text}");
        }
        assert!(usage_in(b"<html>").is_err());
    }
}
