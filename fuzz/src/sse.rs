//! A provider's stream: it may be cut anywhere without changing what comes out; who asked for usage gets every byte;
//! for who did not, each event comes out as it was but for its usage. What was granted changes nothing until it is used up.

use bytes::Bytes;
use serde_json::Value;
use tollgate_serving::answer::usage_in;
use tollgate_serving::meter::Granted;
use tollgate_serving::sse::{Broken, Scanner};
use tollgate_types::Usage;

use crate::{Decisions, Target};

pub const TARGET: Target = Target {
    name: "sse",
    check: check_sse,
    seeds: &[
        concat!(
            "\u{5}\u{9}\u{20}\u{3}data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n",
            ": a comment\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\":null b\"}}],\"usage\":null}\n\n",
            "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
            "data: [DONE]\n\n",
        ),
        "\u{1}\u{2}\u{3}\u{4}data:{\"usage\": null ,\"choices\":[{}]}\r\n\r\ndata: {\"choices\":[ ],\"usage\":{\"prompt_tokens\":1}}\r\n\r\ndata: [DONE]\r\n\r\n",
        "\u{1}\u{2}\u{3}\u{4}event: x\nid: 1\ndata: {\"choices\":[{}],\"x\":{\"usage\":{}}}\n\ndata: {\"error\":{\"message\":\"m\"}}\n\n",
        "\u{1}\u{2}\u{3}\u{4}data: {\"choices\":[{\"delta\":{}}]}\n\ndata: <html>\n\n",
        concat!(
            "\u{1}\u{2}\u{3}\u{4}data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
            "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]}\n\n",
            "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"c\"}}]}\n\n",
        ),
    ],
    words: &[
        "data: ",
        "data:",
        "\"choices\":[{}]",
        "\"usage\":{}",
        "\"error\":{}",
        "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}",
        "\n",
        "\r\n",
        "\n\n",
        "[DONE]",
        "\"usage\":null",
        ",\"usage\":{\"prompt_tokens\":1}",
        "{}",
        "\"choices\":[]",
        "\"error\":null",
        "data: {\"choices\":[]}\n\n",
        ": c\n",
        "\"usage\"",
        "}",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"\\\"\"},\"finish_reason\":null}]}\n\n",
        "\"finish_reason\":\"stop\"",
    ],
    takes_noise: false,
};

/// The first bytes say where to cut; the rest is the stream.
pub fn check_sse(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(4));
    if stream.split(|byte| *byte == b'\n').filter_map(data_of).any(has_number_out_of_range) {
        return;
    }
    for hide_usage in [false, true] {
        let whole = scan(stream, hide_usage, &[]);
        assert_eq!(whole, scan(stream, hide_usage, cuts), "however it is cut");
        assert_eq!(whole, scan(stream, hide_usage, &[1]), "even into single bytes");
        let expected = by_lines(stream, hide_usage);
        assert_eq!((whole.usage, whole.done, whole.broken), (expected.usage, expected.done, expected.broken));
        if hide_usage {
            assert_eq!(events(&whole.out), expected.events, "each event as it was, but for its usage");
        } else {
            assert!(stream.starts_with(&whole.out), "who asked gets every byte");
            assert_eq!(whole.out.len(), expected.read_up_to, "up to where the stream ended");
        }
        for tokens_per_choice in [0, 1, 3] {
            let granted = Some(Granted { tokens_per_choice, choices: tokens_per_choice.max(1), tokenizer: None });
            let bounded = scan_within(granted, stream, hide_usage, &[]);
            assert_eq!(bounded, scan_within(granted, stream, hide_usage, cuts), "however it is cut");
            assert!(bounded.cut || bounded == whole, "what was granted covers it, so it is as it was");
            assert!(!(bounded.cut && bounded.done), "a stream that was cut does not come to its own end");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    out: Vec<u8>,
    usage: Option<Usage>,
    done: bool,
    broken: Option<Broken>,
    cut: bool,
    chunks: u64,
}

fn scan(stream: &[u8], hide_usage: bool, cuts: &[u8]) -> Scanned {
    scan_within(None, stream, hide_usage, cuts)
}

/// What comes out if the stream arrives in pieces, whose lengths are taken from `cuts` in turn.
fn scan_within(granted: Option<Granted>, stream: &[u8], hide_usage: bool, cuts: &[u8]) -> Scanned {
    let mut scanner = Scanner::new(hide_usage, granted);
    let mut out = Vec::new();
    let mut rest = stream;
    let mut lengths = cuts.iter().map(|cut| usize::from(*cut).max(1)).cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        out.extend_from_slice(&scanner.push(Bytes::copy_from_slice(piece)));
        rest = after;
    }
    let Scanner { usage, done, broken, cut, chunks, .. } = scanner;
    Scanned { out, usage, done, broken, cut, chunks }
}

/// The same stream, read line by line and each event in full.
#[derive(Debug, Default)]
struct ByLines {
    usage: Option<Usage>,
    done: bool,
    broken: Option<Broken>,
    /// Bytes before the line that ended it, or before the line that is not whole.
    read_up_to: usize,
    events: Vec<Event>,
}

/// The data of an event: JSON where it was read, else its bytes.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Json(Value),
    Unread(Vec<u8>),
}

fn by_lines(stream: &[u8], hide_usage: bool) -> ByLines {
    let mut read = ByLines::default();
    for line in stream.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        if let Some(data) = data_of(line) {
            match judge(data, hide_usage, &mut read.usage) {
                Judged::Event(event) => read.events.extend(event),
                Judged::Done => read.done = true,
                Judged::Broken(broken) => read.broken = Some(broken),
            }
        }
        if read.done || read.broken.is_some() {
            break;
        }
        read.read_up_to += line.len();
    }
    read
}

enum Judged {
    /// `None`: it goes no further.
    Event(Option<Event>),
    Done,
    Broken(Broken),
}

fn judge(data: &[u8], hide_usage: bool, usage: &mut Option<Usage>) -> Judged {
    if data == b"[DONE]" {
        return Judged::Done;
    }
    if !data.starts_with(b"{") || !data.ends_with(b"}") {
        return Judged::Broken(Broken::Malformed);
    }
    let mentions = |word: &[u8]| data.windows(word.len()).any(|window| window == word);
    if !mentions(b"\"usage\"") && !mentions(b"\"error\"") {
        return Judged::Event(Some(Event::of(data)));
    }
    // The one thing taken over from the code under test: which objects it reads at all (no key twice, not too many).
    let Ok(stated) = usage_in(data) else { return Judged::Broken(Broken::Malformed) };
    let Event::Json(Value::Object(mut object)) = Event::of(data) else { return Judged::Broken(Broken::Malformed) };
    if object.get("error").is_some_and(|error| !error.is_null()) {
        return Judged::Broken(Broken::ProviderError);
    }
    *usage = stated.or(*usage);
    if !hide_usage {
        return Judged::Event(Some(Event::Json(Value::Object(object))));
    }
    let only_usage = object.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty)
        && object.get("usage").is_some_and(|usage| !usage.is_null());
    object.shift_remove("usage");
    Judged::Event((!only_usage).then_some(Event::Json(Value::Object(object))))
}

impl Event {
    fn of(data: &[u8]) -> Self {
        serde_json::from_slice(data).map_or_else(|_| Self::Unread(data.to_vec()), Self::Json)
    }
}

/// Such a number passes as it is; the reading below could not tell.
fn has_number_out_of_range(data: &[u8]) -> bool {
    let read: serde_json::Result<Value> = serde_json::from_slice(data);
    read.is_err_and(|error| error.to_string().starts_with("number out of range"))
}

fn data_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let data = line.strip_suffix(b"\r").unwrap_or(line).strip_prefix(b"data:")?;
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

fn events(out: &[u8]) -> Vec<Event> {
    out.split_inclusive(|byte| *byte == b'\n').filter_map(data_of).map(Event::of).collect()
}

/// Used by the target of usage too: a usage in a stream reads as it does in a whole answer.
pub(crate) fn usage_of_stream(object: &[u8], decisions: &mut Decisions<'_>) -> Option<Usage> {
    let mut stream = b"data: ".to_vec();
    stream.extend_from_slice(object);
    stream.extend_from_slice(b"\n\n");
    scan(&stream, decisions.below(2) == 0, &[]).usage
}
