//! Which kind of bill a file is, and what is wrong with one that cannot be read.

use std::fmt;

/// A bill of buckets is read as a whole: a month of minutes by model and key has some 50 MB.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 20;

/// Who writes such a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line of JSON an attempt, from `/sim/usage.jsonl`
    Simulator,
    /// Pages of the organization's usage of completions and embeddings, and of its costs
    Openai,
    /// Pages of the usage report of messages, and of the cost report
    Anthropic,
}

/// Where a bill says what, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BillError {
    pub place: String,
    pub problem: String,
}

/// What the beginning of a file says of the rest: the first of the names that only one of the formats has. `None` if none
/// is there.
pub fn format_of(beginning: &[u8]) -> Option<Format> {
    let names: [(&[u8], Format); 3] = [
        (b"\"request_id\"", Format::Simulator),
        (b"\"start_time\"", Format::Openai),
        (b"\"starting_at\"", Format::Anthropic),
    ];
    let found = names.iter().filter_map(|(name, format)| Some((memchr::memmem::find(beginning, name)?, *format)));
    found.min_by_key(|(at, _)| *at).map(|(_, format)| format)
}

// === impl BillError ===

impl BillError {
    pub fn at(place: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self { place: place.to_string(), problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_by_the_first_name_that_only_it_has() {
        let check = |text: &str, expected: Option<Format>| assert_eq!(format_of(text.as_bytes()), expected, "{text}");
        check(r#"{"request_id":"req_1","started_at":"x"}"#, Some(Format::Simulator));
        check(r#"{"object":"page","data":[{"start_time":1}]}"#, Some(Format::Openai));
        check(r#"[{"data":[{"starting_at":"x","results":[{"start_time":1}]}]}]"#, Some(Format::Anthropic));
        check("", None);
        check("request_id,start_time", None);
    }
}
