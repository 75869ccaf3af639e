//! Counts tokens as the published tokenizers do, where bytes alone would bound too loosely.
//!
//! - [`Tokenizer::count`]: what a text counts at a provider whose vocabulary is published.
//! - [`Tokenizer::input_bound`]: what a whole request counts at most; never more than its bytes.
//! - [`Floor`]: how many tokens an answer was made of at least, while it passes.
//!
//! A crate of its own, for its vocabularies are heavy: 4.5 MB of the program. They are searched where they lie; what is
//! made from them at first use ([`Tokenizer::warm`]) is a table of 2 MB and a pattern. It knows no crate of ours.

mod floor;
mod merge;
mod request;
mod vocabulary;

pub use crate::floor::Floor;
use crate::merge::Merger;
use crate::vocabulary::Vocabulary;

/// One published tokenizer. Costs nothing until it is first asked to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// OpenAI's, since GPT-4o.
    O200k,
    /// OpenAI's of GPT-4, GPT-3.5 and the embeddings.
    Cl100k,
}

/// The names under which OpenAI's models are known, as tiktoken's own table has them (`tiktoken/model.py`, 0.14). The
/// table has some prefixes with a dash: `gpt-4` alone would take `gpt-4o` and whatever comes next for GPT-4.
#[rustfmt::skip]
const MODELS: &[(&str, Match, Tokenizer)] = &[
    ("o1",                     Match::Whole,  Tokenizer::O200k),
    ("o1-",                    Match::Prefix, Tokenizer::O200k),
    ("o3",                     Match::Whole,  Tokenizer::O200k),
    ("o3-",                    Match::Prefix, Tokenizer::O200k),
    ("o4-mini",                Match::Whole,  Tokenizer::O200k),
    ("o4-mini-",               Match::Prefix, Tokenizer::O200k),
    ("gpt-5",                  Match::Prefix, Tokenizer::O200k),
    ("gpt-4.5-",               Match::Prefix, Tokenizer::O200k),
    ("gpt-4.1",                Match::Whole,  Tokenizer::O200k),
    ("gpt-4.1-",               Match::Prefix, Tokenizer::O200k),
    ("gpt-4o",                 Match::Whole,  Tokenizer::O200k),
    ("gpt-4o-",                Match::Prefix, Tokenizer::O200k),
    ("chatgpt-4o-",            Match::Prefix, Tokenizer::O200k),
    ("gpt-4",                  Match::Whole,  Tokenizer::Cl100k),
    ("gpt-4-",                 Match::Prefix, Tokenizer::Cl100k),
    ("gpt-3.5-turbo",          Match::Whole,  Tokenizer::Cl100k),
    ("gpt-3.5-turbo-",         Match::Prefix, Tokenizer::Cl100k),
    ("text-embedding-ada-002", Match::Whole,  Tokenizer::Cl100k),
    ("text-embedding-3-small", Match::Whole,  Tokenizer::Cl100k),
    ("text-embedding-3-large", Match::Whole,  Tokenizer::Cl100k),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Whole,
    Prefix,
}

// === impl Tokenizer ===

impl Tokenizer {
    /// The tokenizer of a model, where the provider is known to be the one whose models these are (`priced_as`, the
    /// name of its preset). `None` for everybody else: their vocabulary is not published, or not known to be in use.
    pub fn of(priced_as: &str, model: &str) -> Option<Self> {
        if priced_as != "openai" {
            return None;
        }
        // A fine-tuned model is `ft:gpt-4o-2024-08-06:organisation::id`, and speaks as the one it was made from.
        let base = model.strip_prefix("ft:").map_or(model, |tuned| tuned.split(':').next().unwrap_or(tuned));
        let named = |name: &str, how: Match| match how {
            Match::Whole => base == name,
            Match::Prefix => base.starts_with(name),
        };
        MODELS.iter().find(|(name, how, _)| named(name, *how)).map(|(.., tokenizer)| *tokenizer)
    }

    /// Tokens of a text that stands alone. Special tokens count as the text they are written as, which is how they come
    /// from a caller. Exact, but for a single word of more than 16 KiB, whose bytes are taken: at least its tokens.
    pub fn count(self, text: &str) -> u64 {
        let vocabulary = self.vocabulary();
        let mut merger = Merger::default();
        vocabulary.pieces(text).map(|piece| merger.count(vocabulary, piece.as_bytes())).sum()
    }

    /// What a request counts at most. `input_bytes` is the bound by bytes, as `Call` has it: all of `body` that is text,
    /// and the allowances. Of that, the texts of messages (and an embedding's input) are taken by their tokens instead
    /// of their bytes; all else (structure, names, tools, schemas, numbers), which providers write anew, stays as bytes.
    pub fn input_bound(self, body: &[u8], input_bytes: u64) -> u64 {
        input_bytes.saturating_sub(request::spared(self, body))
    }

    /// Makes now what the first count would have to wait for.
    pub fn warm(self) {
        self.count("warm");
    }

    fn vocabulary(self) -> &'static Vocabulary {
        match self {
            Self::O200k => &vocabulary::O200K,
            Self::Cl100k => &vocabulary::CL100K,
        }
    }
}
