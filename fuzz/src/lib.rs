//! What must hold for any bytes that come from outside: one property for each parser, as a plain function. libFuzzer
//! drives them from `targets/`, on nightly; `tests/smoke.rs` drives them with seeded mutations, on stable.
//!
//! A property says more than "does not panic": what is rendered reads back, what is not ours to change is not changed,
//! and an independent, slower reading agrees.
#![forbid(unsafe_code)]

pub mod admin_body;
pub mod audit;
pub mod chat_request;
pub mod config;
pub mod handed;
pub mod headers;
pub mod ids_and_money;
pub mod journal_frame;
pub mod local_request;
pub mod policy;
pub mod price_book;
pub mod provider_usage;
pub mod receipt;
pub mod snapshot;
pub mod sse;
pub mod template;

/// One parser's property, and good inputs to begin from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
    pub seeds: &'static [&'static str],
    /// Pieces that mean something to this parser.
    pub words: &'static [&'static str],
    /// Whether any bytes at all mean something to it.
    pub takes_noise: bool,
}

/// All of them, by the names of the binaries.
pub const TARGETS: [Target; 20] = [
    ids_and_money::TARGET,
    price_book::TARGET,
    chat_request::CHAT,
    chat_request::EMBEDDINGS,
    local_request::TARGET,
    template::MANIFEST,
    template::RUN,
    handed::WORK,
    handed::TOGETHER,
    sse::TARGET,
    provider_usage::TARGET,
    config::TARGET,
    journal_frame::TARGET,
    snapshot::TARGET,
    admin_body::TARGET,
    headers::TARGET,
    receipt::TARGET,
    policy::MODULE,
    policy::ARCHIVE,
    audit::TARGET,
];

/// A second reading of a JSON object. `None` if it holds a number that no float can: such a one passes through us as it
/// is, and this reading cannot say anything about it.
pub(crate) fn by_serde(object: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    match serde_json::from_slice(object) {
        Ok(serde_json::Value::Object(object)) => Some(object),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        other => panic!("taken, though it is no JSON object: {other:?}"),
    }
}

/// A stream of decisions read from the input: when it is used up, every decision is zero.
pub(crate) struct Decisions<'a>(pub &'a [u8]);

impl Decisions<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// Any number below `below`.
    pub fn below(&mut self, below: usize) -> usize {
        usize::from(self.byte()) % below
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }
}
