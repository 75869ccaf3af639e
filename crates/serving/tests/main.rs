//! Streams against what was granted: an honest one passes whole, one that goes on is ended where the grant ends.

mod schedule;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate_serving::meter::Granted;
use tollgate_serving::sse::Scanner;
use tollgate_tokens::Tokenizer;

const DONE: &str = "data: [DONE]\n\n";

fn granted(tokens_per_choice: u64, choices: u64) -> Granted {
    Granted { tokens_per_choice, choices, tokenizer: None }
}

/// What comes out if the stream arrives in pieces of these lengths, over and over.
fn run(stream: &str, hide_usage: bool, granted: Granted, lengths: &[usize]) -> (String, Scanner) {
    let mut scanner = Scanner::new(hide_usage, Some(granted));
    let mut out = Vec::new();
    let mut rest = stream.as_bytes();
    let mut lengths = lengths.iter().map(|length| (*length).max(1)).cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        out.extend_from_slice(&scanner.push(Bytes::copy_from_slice(piece)));
        rest = after;
    }
    (String::from_utf8(out).expect("it was text"), scanner)
}

fn event(choices: &Value, more: &str) -> String {
    format!(r#"data: {{"id":"c1","object":"chat.completion.chunk","created":7,"model":"m","choices":{choices}{more}}}"#)
        + "\n\n"
}

fn delta(index: u64, delta: Value) -> String {
    event(&json!([{"index": index, "delta": delta, "finish_reason": null}]), "")
}

fn content(index: u64, text: &str) -> String {
    delta(index, json!({ "content": text }))
}

fn arguments(text: &str) -> String {
    delta(0, json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}))
}

fn finish(index: u64, reason: &str) -> String {
    event(&json!([{"index": index, "delta": {}, "finish_reason": reason}]), "")
}

/// The end that a choice is given when the stream is cut.
fn ended(index: u64) -> String {
    let choice = format!(r#"[{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":"length"}}]"#);
    format!(r#"data: {{"id":"c1","object":"chat.completion.chunk","created":7,"model":"m","choices":{choice}}}"#)
        + "\n\n"
}

/// `passes` comes out, `beyond` does not, and the stream ends with `end`.
fn check_cut(granted: Granted, passes: &str, beyond: &str, end: &str) {
    let stream = format!("{passes}{beyond}{beyond}{}{DONE}", finish(0, "stop"));
    for lengths in [&[][..], &[1], &[7, 300], &[64]] {
        let (out, scanner) = run(&stream, true, granted, lengths);
        assert_eq!(out, format!("{passes}{end}"));
        assert!(scanner.cut && !scanner.done && scanner.broken.is_none());
    }
}

fn check_passes(granted: Granted, stream: &str) {
    for lengths in [&[][..], &[1], &[7, 300], &[64]] {
        let (out, scanner) = run(&format!("{stream}{DONE}"), false, granted, lengths);
        assert_eq!(out, stream);
        assert!(scanner.done && !scanner.cut);
    }
}

#[test]
fn a_stream_is_cut_behind_the_last_token_that_was_granted() {
    let role = delta(0, json!({"role": "assistant", "content": ""}));
    let words: String = ["a", " b", "\"", "\n", "{}"].iter().map(|text| content(0, text)).collect();
    check_cut(granted(5, 1), &format!("{role}{words}"), &content(0, " d"), &ended(0));
    check_passes(granted(6, 1), &format!("{role}{words}{}{}", content(0, " d"), finish(0, "length")));
    check_cut(granted(0, 1), &role, &content(0, "x"), &ended(0));
    let crlf = |text: &str| text.replace('\n', "\r\n");
    check_cut(granted(5, 1), &crlf(&format!("{role}{words}")), &crlf(&content(0, " d")), &ended(0));
}

#[test]
fn whatever_is_generated_counts_once_an_event() {
    for text in ["content", "refusal", "reasoning", "reasoning_content"] {
        let one = delta(0, json!({ text: "x" }));
        check_cut(granted(2, 1), &one.repeat(2), &one, &ended(0));
        check_passes(granted(3, 1), &one.repeat(3));
        check_passes(granted(1, 1), &delta(0, json!({ text: "" })).repeat(9));
        check_passes(granted(1, 1), &delta(0, json!({ text: null })).repeat(9));
    }
    let both = delta(0, json!({"reasoning": "x", "reasoning_content": "x"}));
    check_passes(granted(3, 1), &both.repeat(3));
    let phases = format!("{}{}{}", delta(0, json!({"reasoning": "x"})), content(0, "y"), both);
    check_passes(granted(3, 1), &phases);
    check_cut(granted(3, 1), &phases, &content(0, "z"), &ended(0));
}

#[test]
fn tools_count_by_their_name_and_the_bytes_of_their_arguments() {
    let call = delta(0, json!({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]}));
    check_cut(granted(2, 1), &call.repeat(2), &call, &ended(0));
    // Slices of a token each or less: more of them than tokens were granted, and no proof of anything.
    let slices: String = [r#"{"a""#, ": 3, ", r#""b": 1"#, "2}"].iter().map(|slice| arguments(slice)).collect();
    check_passes(granted(2, 1), &format!("{call}{}", slices.repeat(15)));
    // But they do not go on for ever.
    let slice = arguments(&"x".repeat(64));
    check_cut(granted(2, 1), &format!("{call}{}", slice.repeat(7)), &slice, &ended(0));
}

#[test]
fn each_choice_has_its_own_grant_and_all_that_have_not_ended_are_ended() {
    let both: String = (0..3).map(|_| content(0, "x") + &content(1, "y")).collect();
    check_passes(granted(3, 2), &both);
    check_cut(granted(3, 2), &both, &content(1, "y"), &(ended(0) + &ended(1)));
    let first_ended = format!("{both}{}", finish(0, "stop"));
    check_cut(granted(3, 2), &first_ended, &content(1, "y"), &ended(1));
    let ends_with_its_last = event(&json!([{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]), "");
    check_cut(granted(4, 2), &format!("{both}{ends_with_its_last}{}", content(1, "y")), &content(1, "y"), &ended(1));
    let together =
        event(&json!([{"index": 0, "delta": {"content": "x"}}, {"index": 1, "delta": {"content": "y"}}]), "");
    check_cut(granted(3, 2), &together.repeat(3), &together, &(ended(0) + &ended(1)));
    // A choice that nobody asked for takes from what the others leave.
    check_cut(
        granted(3, 1),
        &(content(0, "x") + &content(1, "y").repeat(2)),
        &content(1, "y"),
        &(ended(0) + &ended(1)),
    );
}

#[test]
fn usage_wins_and_a_running_one_changes_nothing() {
    let usage = event(&json!([]), r#","usage":{"prompt_tokens":3,"completion_tokens":9}"#);
    check_passes(granted(2, 1), &format!("{}{usage}{}", content(0, "x").repeat(2), content(0, "x")));
    let running = r#","usage":{"prompt_tokens":3,"completion_tokens":1}"#;
    let with_usage = |text: &str| event(&json!([{"index": 0, "delta": {"content": text}}]), running);
    let without = |text: &str| event(&json!([{"index": 0, "delta": {"content": text}}]), "");
    let (out, scanner) = run(&with_usage("x").repeat(3), true, granted(2, 1), &[]);
    assert_eq!(out, without("x").repeat(2) + &ended(0));
    assert!(scanner.cut && scanner.usage.is_some() && !scanner.usage_is_final);
    let (out, _) = run(&with_usage("x").repeat(3), false, granted(2, 1), &[]);
    assert_eq!(out, with_usage("x").repeat(2) + &ended(0), "our end states no usage, for ours would not be true");
}

#[test]
fn what_is_not_understood_passes_and_counts_nothing() {
    for event in [
        "data: {\"type\":\"ping\"}\n\n",
        "data: {\"choices\":\"x\"}\n\n",
        "data: {\"choices\":[{\"index\":0,\"text\":\"legacy\"}]}\n\n",
        "data: {\"choices\":[{\"index\":-1,\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":999,\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"thinking\"}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":null}]}\n\n",
        "data: {\"choices\":[{\"index\":0}}\n\n",
        ": comment\n\nevent: x\nid: 4\n\n",
    ] {
        check_passes(granted(1, 1), &event.repeat(5));
    }
}

#[test]
fn where_the_tokenizer_is_known_an_event_counts_by_its_text() {
    let granted = Granted { tokens_per_choice: 12, choices: 1, tokenizer: Some(Tokenizer::O200k) };
    // Four tokens: " one", " two", " three", " four".
    let four = content(0, " one two three four");
    check_passes(granted, &four.repeat(3));
    check_cut(granted, &four.repeat(3), &four, &ended(0));
    check_cut(granted, &four.repeat(3), &content(0, " é\u{1f600}\\\"\n"), &ended(0));
    let half = r#"data: {"choices":[{"index":0,"delta":{"content":"\ud83d"}}]}"#.to_owned() + "\n\n";
    let (_, scanner) = run(&half.repeat(12), true, granted, &[]);
    assert_eq!((scanner.cut, scanner.output_tokens()), (false, 12), "half a character is no text, but an event");
}

/// One event of an honest provider, and the tokens it made for it.
#[derive(Clone, Debug)]
enum Made {
    Text { field: &'static str, words: Vec<&'static str> },
    Slice(&'static str),
    Silence,
}

/// Each is one token of both vocabularies.
const WORDS: [&str; 10] = [" the", "a", "\n", " world", "\"", " is", "{", "\\", " time", "."];

fn made() -> impl Strategy<Value = Made> {
    let words = prop::collection::vec(prop::sample::select(&WORDS[..]), 1..6);
    let field = prop::sample::select(vec!["content", "content", "content", "refusal", "reasoning"]);
    prop_oneof![
        6 => (field, words).prop_map(|(field, words)| Made::Text { field, words }),
        1 => prop::sample::select(vec!["{\"a\"", ": \"", "xy"]).prop_map(Made::Slice),
        1 => Just(Made::Silence),
    ]
}

impl Made {
    fn event(&self, index: u64, more: &str) -> String {
        let delta = match self {
            Self::Text { field, words } => json!({ *field: words.concat() }),
            Self::Slice(text) => json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
            Self::Silence => json!({"content": ""}),
        };
        event(&json!([{"index": index, "delta": delta, "finish_reason": null}]), more)
    }

    fn tokens(&self) -> u64 {
        match self {
            Self::Text { words, .. } => words.len() as u64,
            Self::Slice(_) | Self::Silence => 0,
        }
    }
}

fn grants() -> impl Strategy<Value = Option<Tokenizer>> {
    prop::sample::select(vec![None, Some(Tokenizer::O200k), Some(Tokenizer::Cl100k)])
}

proptest! {
    #[test]
    fn an_honest_stream_is_never_cut(
        events in prop::collection::vec((0_u64..3, made()), 0..40),
        tokenizer in grants(),
        lengths in prop::collection::vec(1_usize..400, 0..4),
        running_usage: bool,
    ) {
        let made_by = |index: u64| -> u64 {
            events.iter().filter(|(choice, _)| *choice == index).map(|(_, made)| made.tokens()).sum()
        };
        let most = (0..3).map(made_by).max().unwrap_or(0);
        let granted = Granted { tokens_per_choice: most, choices: 3, tokenizer };
        let more = if running_usage { r#","usage":{"prompt_tokens":1,"completion_tokens":1}"# } else { "" };
        let stream: String = events.iter().map(|(index, made)| made.event(*index, more)).collect();
        let (out, scanner) = run(&format!("{stream}{DONE}"), false, granted, &lengths);
        prop_assert!(scanner.done && !scanner.cut);
        prop_assert_eq!(out, stream);
        prop_assert!(scanner.output_tokens() <= (0..3).map(made_by).sum());
    }

    /// Of choices that get one token an event, exactly the granted ones pass, and the same however it arrives.
    #[test]
    fn a_stream_that_goes_on_is_cut_at_exactly_the_granted_token(
        order in prop::collection::vec((0_u64..3, 0..WORDS.len()), 1..80),
        tokens_per_choice in 0_u64..12,
        tokenizer in grants(),
        lengths in prop::collection::vec(1_usize..400, 0..4),
    ) {
        let granted = Granted { tokens_per_choice, choices: 3, tokenizer };
        let mut sent = [0; 3];
        let mut expected = String::new();
        let mut goes_on = false;
        for (index, word) in &order {
            let count = &mut sent[usize::try_from(*index).expect("below 3")];
            *count += 1;
            goes_on = *count > tokens_per_choice;
            if goes_on {
                break;
            }
            expected += &content(*index, WORDS[*word]);
        }
        let stream: String = order.iter().map(|(index, word)| content(*index, WORDS[*word])).collect();
        let (out, scanner) = run(&stream, true, granted, &lengths);
        prop_assert_eq!(scanner.cut, goes_on);
        prop_assert!(out.starts_with(&expected));
        let end = &out[expected.len()..];
        if goes_on {
            let seen = sent.iter().filter(|count| **count > 0).count();
            prop_assert_eq!(end.matches("\"finish_reason\":\"length\"").count(), seen);
            prop_assert_eq!(end.matches("\n\n").count(), seen);
        } else {
            prop_assert_eq!(end, "");
        }
        let (in_one, _) = run(&stream, true, granted, &[]);
        prop_assert_eq!(out, in_one);
    }
}
