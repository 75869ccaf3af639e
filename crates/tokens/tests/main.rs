//! The counts against tiktoken's own algorithm, and the bounds against what they bound.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tiktoken_rs::CoreBPE;
use tollgate_tokens::{Floor, Tokenizer};

static O200K: LazyLock<CoreBPE> = LazyLock::new(|| tiktoken_rs::o200k_base().expect("it is whole"));
static CL100K: LazyLock<CoreBPE> = LazyLock::new(|| tiktoken_rs::cl100k_base().expect("it is whole"));

const BOTH: [Tokenizer; 2] = [Tokenizer::O200k, Tokenizer::Cl100k];

fn reference(tokenizer: Tokenizer) -> &'static CoreBPE {
    match tokenizer {
        Tokenizer::O200k => &O200K,
        Tokenizer::Cl100k => &CL100K,
    }
}

fn true_count(tokenizer: Tokenizer, text: &str) -> u64 {
    reference(tokenizer).encode_ordinary(text).len() as u64
}

fn floor(tokenizer: Tokenizer, text: &[u8]) -> u64 {
    let mut floor = Floor::new(tokenizer);
    floor.push(text);
    floor.tokens()
}

/// Texts that tokenizers cut in different ways: words, digits, white space, line ends, other scripts, runs.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z]{1,12}",
        " [A-Z]?[a-z]{1,9}",
        "[0-9]{1,7}",
        "[ \t]{1,5}",
        "[\r\n ]{1,4}",
        "'(s|t|re|VE|ll|d|m)",
        r"[!-/:-@\[-`{-~]{1,6}",
        "[\u{4e00}-\u{4f00}\u{3042}-\u{3090}é\u{301}ßДж\u{1f600}-\u{1f640}\u{200d}\u{a0}\u{2003}]{1,5}",
        "<\\|(endoftext|im_start|im_end)\\|>",
        any::<String>(),
        ("[a-zA ./\n\u{3042}]", 1_usize..300).prop_map(|(unit, times)| unit.repeat(times)),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

#[test]
fn the_model_s_name_and_the_provider_s_decide_on_the_tokenizer() {
    let check =
        |model: &str, expected: Option<Tokenizer>| assert_eq!(Tokenizer::of("openai", model), expected, "{model}");
    let (o200k, cl100k) = (Some(Tokenizer::O200k), Some(Tokenizer::Cl100k));
    for (model, expected) in [
        ("gpt-4o", o200k),
        ("gpt-4o-mini-2024-07-18", o200k),
        ("gpt-4.1-nano", o200k),
        ("gpt-5", o200k),
        ("gpt-5-mini", o200k),
        ("o1", o200k),
        ("o3-mini", o200k),
        ("o4-mini", o200k),
        ("gpt-4", cl100k),
        ("gpt-4-turbo", cl100k),
        ("gpt-3.5-turbo-0125", cl100k),
        ("text-embedding-3-small", cl100k),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", o200k),
        ("ft:gpt-3.5-turbo:acme", cl100k),
        ("gpt-4x", None),
        ("o1x", None),
        ("llama-3", None),
        ("", None),
    ] {
        check(model, expected);
    }
    for provider in ["simulator", "custom", "mistral", "openrouter", "gemini"] {
        assert_eq!(Tokenizer::of(provider, "gpt-4o"), None, "{provider}");
    }
}

#[test]
fn long_runs_count_as_tiktoken_counts_them() {
    for tokenizer in BOTH {
        tokenizer.warm();
        for unit in ["a", " ", "\n", "1", ".", "ab", "é", " \n", "Aa", "\u{4e00}"] {
            let text = unit.repeat(3_000);
            assert_eq!(tokenizer.count(&text), true_count(tokenizer, &text), "{unit:?} {tokenizer:?}");
        }
    }
}

#[test]
fn a_word_too_long_to_be_merged_counts_as_its_bytes() {
    let word = "a".repeat(16 * 1024 + 1);
    assert_eq!(Tokenizer::O200k.count(&word), word.len() as u64);
    assert!(Tokenizer::O200k.count(&word[1..]) < word.len() as u64 / 4);
    assert_eq!(Tokenizer::O200k.count(&format!("{word} b")), word.len() as u64 + 1);
}

#[test]
fn the_fewest_tokens_are_fewer_than_the_tokenizer_s_own() {
    // As the tokenizer merges it, a word can take more tokens than it could be put together from.
    let (mut fewer, mut checked) = (0, 0);
    for first in "abcdefghijklmnopqrstuvwxyz".chars() {
        for middle in ["ation", "ering", "thesi", "ndere", "lesst"] {
            for last in ["ed", "ly", "est", "sh"] {
                let text = format!("{first}{middle}{last}");
                let (least, own) = (floor(Tokenizer::Cl100k, text.as_bytes()), true_count(Tokenizer::Cl100k, &text));
                assert!(least <= own);
                fewer += u32::from(least < own);
                checked += 1;
            }
        }
    }
    assert!(fewer > 0, "{checked} words, none with fewer");
}

#[test]
fn an_answer_of_plain_words_has_a_floor_near_its_count() {
    let text = "The gateway holds what a request can cost, and gives back what it did not use.\n".repeat(200);
    for tokenizer in BOTH {
        let (least, own) = (floor(tokenizer, text.as_bytes()), tokenizer.count(&text));
        assert!(least <= own && least * 100 >= own * 98, "{least} of {own}");
        assert_eq!(floor(tokenizer, b" one two three four"), 4);
        assert_eq!(floor(tokenizer, b" one two three fou"), 4, "the last token may go on");
    }
}

#[test]
fn only_texts_of_messages_are_taken_by_their_tokens() {
    let spared = |body: &Value| {
        let text = body.to_string();
        text.len() as u64 - Tokenizer::O200k.input_bound(text.as_bytes(), text.len() as u64)
    };
    // 22 bytes in quotes, of 4 tokens.
    let text = "Hello there everybody.";
    let one = 24 - true_count(Tokenizer::O200k, text);
    assert_eq!(spared(&json!({"messages": [{"role": "user", "content": text}]})), one);
    assert_eq!(spared(&json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]})), one);
    assert_eq!(spared(&json!({"input": text})), one);
    assert_eq!(spared(&json!({"input": [text, text]})), 2 * one);
    for other in [
        json!({"tools": [{"function": {"description": text}}]}),
        json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": text}}], "content": null}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": text}}]}]}),
        json!({"messages": text}),
        json!({"messages": [text, 5, [text]]}),
        json!({"input": [[1, 2, 3], 5]}),
        json!({"prediction": {"content": text}}),
        json!([text]),
    ] {
        assert_eq!(spared(&other), 0, "{other}");
    }
    let broken = br#"{"messages":[{"content":"Hello there everybody."#;
    assert_eq!(Tokenizer::O200k.input_bound(broken, 47), 47);
    let half_a_pair = br#"{"messages":[{"content":"Hello there \ud800"}]}"#;
    assert_eq!(Tokenizer::O200k.input_bound(half_a_pair, 47), 47);
}

proptest! {
    #[test]
    fn counts_are_tiktoken_s_own(text in texts()) {
        for tokenizer in BOTH {
            prop_assert_eq!(tokenizer.count(&text), true_count(tokenizer, &text));
        }
    }

    /// However a model cuts its text: at any place, and anywhere it may be shown up to.
    #[test]
    fn no_way_to_write_a_text_takes_fewer_tokens_than_its_floor(
        parts in prop::collection::vec((0_u32..199_998, "[a-z ]{0,5}"), 1..60),
        hidden in 0_usize..12,
        piece in 1_usize..40,
    ) {
        for tokenizer in BOTH {
            let mut made = 0;
            let mut text = Vec::new();
            for (rank, words) in &parts {
                let rank = if tokenizer == Tokenizer::Cl100k { rank % 100_256 } else { *rank };
                text.extend(reference(tokenizer).decode_bytes(&[rank]).expect("a token"));
                text.extend_from_slice(words.as_bytes());
                made += 1 + true_count(tokenizer, words);
            }
            let shown = &text[..text.len().saturating_sub(hidden)];
            let mut in_pieces = Floor::new(tokenizer);
            for piece in shown.chunks(piece) {
                in_pieces.push(piece);
                prop_assert!(in_pieces.tokens() <= made);
            }
            prop_assert_eq!(in_pieces.tokens(), floor(tokenizer, shown));
            prop_assert!(floor(tokenizer, shown) <= floor(tokenizer, &text));
        }
    }

    #[test]
    fn a_request_s_bound_lies_between_what_is_billed_and_its_bytes(
        contents in prop::collection::vec(prop::collection::vec(texts(), 1..4), 1..5),
        name in prop::option::of(any::<String>()),
    ) {
        let messages: Vec<Value> = contents
            .iter()
            .map(|parts| {
                let content = match &parts[..] {
                    [one] => json!(one),
                    many => many.iter().map(|text| json!({"type": "text", "text": text})).collect(),
                };
                json!({"role": "user", "content": content, "name": name})
            })
            .collect();
        let body = json!({"model": "m", "messages": messages}).to_string();
        let bytes = body.len() as u64;
        for tokenizer in BOTH {
            let bound = tokenizer.input_bound(body.as_bytes(), bytes);
            prop_assert!(bound <= bytes);
            let joined: Vec<String> = contents.iter().map(|parts| parts.concat()).collect();
            let by_message: u64 = joined.iter().map(|text| true_count(tokenizer, text)).sum();
            let names = name.as_deref().map_or(0, |name| true_count(tokenizer, name) + 1) * contents.len() as u64;
            let framing = 3 * contents.len() as u64 + 3;
            prop_assert!(bound >= by_message + names + framing);
            prop_assert!(bound >= true_count(tokenizer, &joined.concat()) + framing);
        }
    }
}
