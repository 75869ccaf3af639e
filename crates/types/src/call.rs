//! A request as the wire room understood it: only what deciding and pricing need to know.

use std::borrow::Cow;

/// Which API was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    Chat,
    Embeddings,
    Classify,
    /// A template's: an input that its schema describes, answered by a classifier.
    Runs,
}

/// The caller's own bound on output, if it sent one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLimit {
    /// `max_tokens`, the older name.
    pub max_tokens: Option<u64>,
    /// `max_completion_tokens`, the newer name, which also bounds hidden reasoning.
    pub max_completion_tokens: Option<u64>,
}

/// One call for a model, read from the wire and not yet judged.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub surface: Surface,
    /// The route asked for (the wire's `model`).
    pub route: Cow<'a, str>,
    pub stream: bool,
    /// Whether the caller asked for usage at the end of a stream.
    pub include_usage: bool,
    pub output_limit: OutputLimit,
    /// Answers asked for (`n`), each of which may be as long as the limit.
    pub choices: u64,
    /// No more input tokens than this can come from text: its bytes (a byte-level token holds at least one).
    pub input_bytes: u64,
    /// Images, whose tokens bytes do not bound.
    pub images: u64,
    /// Bytes of a predicted output, whose rejected tokens are billed as output on top of the limit.
    pub prediction_bytes: u64,
    /// What in the request has no bound on its cost, if anything.
    pub unbounded: Option<&'static str>,
    /// A tier of service with a price of its own, which no book of ours holds.
    pub priced_apart: Option<&'static str>,
}

// === impl Surface ===

impl Surface {
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
            Self::Classify => "classify",
            Self::Runs => "runs",
        }
    }
}

// === impl OutputLimit ===

impl OutputLimit {
    /// The caller's bound on output tokens per choice. With both names sent, the larger: a provider may read either.
    pub fn tokens(self) -> Option<u64> {
        self.max_tokens.max(self.max_completion_tokens)
    }
}
