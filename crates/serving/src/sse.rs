//! Reads a provider's stream as it passes. Bytes are forwarded as they are; only four things are touched: the usage we
//! asked for and the caller did not, the end mark `[DONE]`, which is ours to send once the books are durable, what is
//! not an event at all, which ends the stream as broken, and what goes on beyond what was granted: it ends as an answer
//! does that has come to its limit.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem};
use serde_json::value::RawValue;
use tollgate_types::Usage;

use crate::answer;
use crate::meter::{Granted, Meter};
use crate::top_level::TopLevel;

/// One event is no longer than this.
pub const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What has been seen of a stream so far.
#[derive(Debug)]
pub struct Scanner {
    hide_usage: bool,
    /// A line whose end has not come yet.
    carry: BytesMut,
    /// The blank line after a removed event goes with it.
    skip_blank: bool,
    pub usage: Option<Usage>,
    /// The usage came in an event of its own, after the answer: it is that of the whole. Some providers state a running
    /// usage in every event, which is whole only once `[DONE]` has come.
    pub usage_is_final: bool,
    /// `[DONE]` has come: nothing after it counts.
    pub done: bool,
    /// The provider sent an error event, or something that is not an event.
    pub broken: Option<Broken>,
    /// The answer is longer than was granted: nothing after it passes, and what passed ends like a limited answer. No
    /// usage is made up for who asked for it: the provider's did not come, and ours would be a lower bound at best.
    pub cut: bool,
    /// Events with at least one choice that passed.
    pub chunks: u64,
    meter: Option<Meter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Malformed,
    ProviderError,
}

enum Verdict {
    Keep,
    Remove,
    Replace(Vec<u8>),
    Stop,
    /// Stop, and end so.
    Cut(Vec<u8>),
}

/// What the last chunks have in common with the ones before them.
const LASTING: [&str; 6] = ["id", "object", "created", "model", "service_tier", "system_fingerprint"];

// === impl Scanner ===

impl Scanner {
    /// `hide_usage` if the caller did not ask for the usage that we always ask for. Where nothing is granted nothing is
    /// counted, and the stream may go on.
    pub fn new(hide_usage: bool, granted: Option<Granted>) -> Self {
        let carry = BytesMut::new();
        Self {
            hide_usage,
            carry,
            skip_blank: false,
            usage: None,
            usage_is_final: false,
            done: false,
            broken: None,
            cut: false,
            chunks: 0,
            meter: granted.map(Meter::new),
        }
    }

    /// Output tokens of all choices so far: a lower bound of what the provider counts.
    pub fn output_tokens(&self) -> u64 {
        self.meter.as_ref().map_or(0, Meter::tokens)
    }

    /// Takes the next piece of the stream and gives what of it is to be forwarded: the piece itself, wherever nothing
    /// had to be touched.
    pub fn push(&mut self, piece: Bytes) -> Bytes {
        if self.done || self.cut || self.broken.is_some() {
            return Bytes::new();
        }
        let text = if self.carry.is_empty() {
            piece
        } else if memchr(b'\n', &piece).is_none() {
            // Still the same line: it is looked at once, when it is whole.
            return self.keep_for_later(&piece);
        } else {
            self.carry.extend_from_slice(&piece);
            self.carry.split().freeze()
        };
        let mut out: Option<BytesMut> = None;
        let mut at = 0;
        while let Some(length) = memchr(b'\n', &text[at..]) {
            let line = &text[at..=at + length];
            match self.judge(line) {
                Verdict::Keep => {
                    if let Some(out) = &mut out {
                        out.extend_from_slice(line);
                    }
                }
                Verdict::Remove => drop(out.get_or_insert_with(|| BytesMut::from(&text[..at]))),
                Verdict::Replace(new) => {
                    out.get_or_insert_with(|| BytesMut::from(&text[..at])).extend_from_slice(&new);
                }
                Verdict::Cut(end) => {
                    let mut out = out.unwrap_or_else(|| BytesMut::from(&text[..at]));
                    out.extend_from_slice(&end);
                    return out.freeze();
                }
                Verdict::Stop => {
                    return out.map_or_else(|| text.slice(..at), BytesMut::freeze);
                }
            }
            at += length + 1;
        }
        if at < text.len() {
            self.keep_for_later(&text[at..]);
        }
        out.map_or_else(|| text.slice(..at), BytesMut::freeze)
    }

    /// Keeps the beginning of a line; nothing of it may be forwarded before it was judged.
    fn keep_for_later(&mut self, text: &[u8]) -> Bytes {
        self.carry.extend_from_slice(text);
        if self.carry.len() > EVENT_BYTES_MAX {
            self.broken = Some(Broken::Malformed);
        }
        Bytes::new()
    }

    /// Judges one line, with its end.
    fn judge(&mut self, line: &[u8]) -> Verdict {
        let content = trim_end(line);
        if content.is_empty() {
            return if std::mem::take(&mut self.skip_blank) { Verdict::Remove } else { Verdict::Keep };
        }
        let Some(data) = content.strip_prefix(b"data:") else { return Verdict::Keep };
        let data = data.strip_prefix(b" ").unwrap_or(data);
        if data == b"[DONE]" {
            self.done = true;
            return Verdict::Stop;
        }
        if data.first() != Some(&b'{') || data.last() != Some(&b'}') {
            self.broken = Some(Broken::Malformed);
            return Verdict::Stop;
        }
        self.chunks += 1;
        let verdict = if memmem::find(data, b"\"usage\"").is_none() && memmem::find(data, b"\"error\"").is_none() {
            Verdict::Keep
        } else {
            self.look_into(data, line)
        };
        match verdict {
            Verdict::Keep | Verdict::Replace(_) if !self.is_covered(data) => self.cut_before(data),
            verdict => verdict,
        }
    }

    /// Whether what was granted covers this event too. What comes after the usage of the whole is in it already.
    fn is_covered(&mut self, data: &[u8]) -> bool {
        let Some(meter) = self.meter.as_mut().filter(|_| !self.usage_is_final) else { return true };
        meter.covers(data)
    }

    /// Ends every choice that has not ended, in chunks like the one that goes too far.
    fn cut_before(&mut self, data: &[u8]) -> Verdict {
        self.cut = true;
        self.chunks -= 1;
        let mut head = String::from("data: {");
        if let Ok(top) = TopLevel::parse(data) {
            for name in LASTING {
                if let Some(value) = top.get(name) {
                    head.extend(["\"", name, "\":", value.get(), ","]);
                }
            }
        }
        let mut end = String::new();
        for index in self.meter.iter().flat_map(Meter::unfinished) {
            end.push_str(&head);
            end.push_str(r#""choices":[{"index":"#);
            end.push_str(&index.to_string());
            end.push_str(r#","delta":{},"logprobs":null,"finish_reason":"length"}]}"#);
            end.push_str("\n\n");
        }
        Verdict::Cut(end.into_bytes())
    }

    /// Looks into an event that mentions usage or an error.
    fn look_into(&mut self, data: &[u8], line: &[u8]) -> Verdict {
        let Ok(top) = TopLevel::parse(data) else {
            self.broken = Some(Broken::Malformed);
            return Verdict::Stop;
        };
        if top.present("error").is_some() {
            self.broken = Some(Broken::ProviderError);
            return Verdict::Stop;
        }
        let Some(raw) = top.get("usage") else { return Verdict::Keep };
        // Providers that are to say the usage at the end say in each chunk before that it is null.
        let stated = raw.get() != "null";
        let is_empty = |list: &RawValue| list.get().chars().filter(|c| !c.is_whitespace()).eq("[]".chars());
        let only_usage = stated && top.get("choices").is_some_and(is_empty);
        if stated && let Some(usage) = answer::read_usage(raw) {
            self.usage = Some(usage);
            self.usage_is_final |= only_usage;
        }
        if !self.hide_usage {
            return Verdict::Keep;
        }
        if only_usage {
            self.skip_blank = true;
            self.chunks -= 1;
            return Verdict::Remove;
        }
        let Some(member) = top.range_of_member("usage") else { return Verdict::Keep };
        let offset = data.as_ptr().addr() - line.as_ptr().addr();
        let mut new = Vec::with_capacity(line.len());
        new.extend_from_slice(&line[..offset + member.start]);
        new.extend_from_slice(&line[offset + member.end..]);
        Verdict::Replace(new)
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n",
        ": a comment\n\n",
        "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a \\\"usage\\\":null b\"}}],\"usage\":null}\n\n",
        "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );

    fn run(stream: &str, hide: bool, cuts: &[usize]) -> (String, Scanner) {
        let mut scanner = Scanner::new(hide, None);
        let mut out = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let cut = cut.clamp(from, stream.len());
            out.extend_from_slice(&scanner.push(Bytes::copy_from_slice(&stream.as_bytes()[from..cut])));
            from = cut;
        }
        (String::from_utf8(out).expect("it was text"), scanner)
    }

    #[test]
    fn usage_is_hidden_from_who_did_not_ask_and_nothing_else_changes() {
        let (out, scanner) = run(STREAM, true, &[]);
        assert_eq!(
            out,
            concat!(
                "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n",
                ": a comment\n\n",
                "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a \\\"usage\\\":null b\"}}]}\n\n",
            )
        );
        assert!(scanner.done && scanner.broken.is_none());
        assert_eq!(scanner.usage, Some(Usage { input_tokens: 3, output_tokens: 2, ..Usage::default() }));
        assert_eq!(scanner.chunks, 2);
    }

    #[test]
    fn a_running_usage_is_not_taken_for_the_last_one() {
        let running = "data: {\"choices\":[{\"index\":0}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
        let (_, scanner) = run(running, true, &[]);
        assert!(scanner.usage.is_some() && !scanner.usage_is_final);
        let (_, scanner) = run(STREAM, true, &[]);
        assert!(scanner.usage_is_final);
    }

    #[test]
    fn who_asked_gets_every_byte_but_the_end_mark() {
        let (out, scanner) = run(STREAM, false, &[]);
        assert_eq!(out, STREAM.strip_suffix("data: [DONE]\n\n").expect("it ends so"));
        assert!(scanner.done && scanner.usage.is_some());
    }

    #[test]
    fn untouched_pieces_are_forwarded_without_a_copy() {
        let piece = Bytes::from_static(b"data: {\"choices\":[{\"index\":0}]}\n\n");
        let out = Scanner::new(true, None).push(piece.clone());
        assert_eq!((out.as_ptr(), out.len()), (piece.as_ptr(), piece.len()));
    }

    #[test]
    fn what_is_not_an_event_breaks_the_stream_and_nothing_after_it_passes() {
        let check = |bad: &str, broken: Broken| {
            let stream = format!("data: {{\"choices\":[]}}\n\n{bad}\n\ndata: {{\"choices\":[]}}\n\ndata: [DONE]\n\n");
            let (out, scanner) = run(&stream, true, &[]);
            assert_eq!(
                (out.as_str(), scanner.broken, scanner.done),
                ("data: {\"choices\":[]}\n\n", Some(broken), false)
            );
        };
        check("data: {\"choices\":[{\"delta\"", Broken::Malformed);
        check("data: {\"usage\":nul}", Broken::Malformed);
        check("data: <html>", Broken::Malformed);
        check("data: {\"error\":{\"message\":\"overloaded\"}}", Broken::ProviderError);
    }

    #[test]
    fn an_endless_line_is_bounded() {
        let mut scanner = Scanner::new(true, None);
        let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
        for _ in 0..6 {
            scanner.push(piece.clone());
        }
        assert_eq!(scanner.broken, Some(Broken::Malformed));
        assert!(scanner.carry.len() <= EVENT_BYTES_MAX + piece.len());
    }

    proptest! {
        #[test]
        fn wherever_the_stream_is_cut_the_same_comes_out(mut cuts in prop::collection::vec(0..STREAM.len(), 0..8), hide: bool) {
            cuts.sort_unstable();
            let (whole, in_one) = run(STREAM, hide, &[]);
            let (pieces, in_many) = run(STREAM, hide, &cuts);
            prop_assert_eq!(whole, pieces);
            prop_assert_eq!(in_one.usage, in_many.usage);
            prop_assert!(in_many.done);
        }

        #[test]
        fn any_bytes_are_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut scanner = Scanner::new(true, None);
            for piece in pieces {
                scanner.push(Bytes::from(piece));
            }
        }
    }
}
