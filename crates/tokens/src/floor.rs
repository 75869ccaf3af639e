//! How many tokens a text was made of at least, whatever they were.
//!
//! A model may cut its words otherwise than the tokenizer would: what [`crate::Tokenizer::count`] says of an answer can be
//! more than the provider counted. The fewest tokens that the text can be put together from cannot. Nor need the text end
//! where a token does: a stop sequence, or half a character, holds back the rest of one.

use crate::Tokenizer;
use crate::vocabulary::{TOKEN_BYTES_MAX, Vocabulary};

/// A text that is still growing.
pub struct Floor {
    vocabulary: &'static Vocabulary,
    /// The text from the first position on that is not settled.
    text: Vec<u8>,
    /// For each position from there on, up to the end of the longest token that reached beyond: the fewest tokens
    /// before it, or [`NONE`].
    fewest: Vec<u64>,
}

const RUN_BYTES: usize = 16;
const NONE: u64 = u64::MAX;
/// Settled text is let go in pieces of this size.
const SETTLED_BYTES_MAX: usize = 4 * 1024;

// === impl Floor ===

impl Floor {
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self { vocabulary: tokenizer.vocabulary(), text: Vec::new(), fewest: vec![0] }
    }

    pub fn push(&mut self, text: &[u8]) {
        // In steps, so that what is kept stays small however much comes at once.
        for step in text.chunks(SETTLED_BYTES_MAX) {
            self.text.extend_from_slice(step);
            // From a position so far from the end no token is still to come.
            let settled = self.text.len().saturating_sub(TOKEN_BYTES_MAX);
            extend(self.vocabulary, &mut self.fewest, &self.text, 0..settled);
            self.text.drain(..settled);
            self.fewest.drain(..settled);
        }
    }

    /// At least so many tokens, whatever comes after.
    pub fn tokens(&self) -> u64 {
        self.counts().0
    }

    /// [`Floor::tokens`]; and the fewest of a text that ends where a token does: with what `count` says of more text, no
    /// less than the floor of both.
    pub fn counts(&self) -> (u64, u64) {
        let (fewest, inside) = self.to_the_end();
        let whole = fewest[self.text.len()];
        (whole.min(inside), whole)
    }

    /// The same for each position that is not settled, and the fewest if the text ends inside a token.
    fn to_the_end(&self) -> (Vec<u64>, u64) {
        let mut fewest = self.fewest.clone();
        fewest.resize(fewest.len().max(self.text.len() + 1), NONE);
        let inside = extend(self.vocabulary, &mut fewest, &self.text, 0..self.text.len());
        (fewest, inside)
    }
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Floor").finish_non_exhaustive()
    }
}

/// Carries the counts on over the tokens that begin at `positions`. Gives the fewest tokens if the last of them goes on
/// beyond the text.
fn extend(vocabulary: &Vocabulary, fewest: &mut Vec<u64>, text: &[u8], positions: std::ops::Range<usize>) -> u64 {
    let mut inside = NONE;
    for at in positions {
        let Some(before) = fewest.get(at).copied().filter(|tokens| *tokens != NONE) else { continue };
        let rest = &text[at..];
        let mut found = |length: usize| {
            if fewest.len() <= at + length {
                fewest.resize(at + length + 1, NONE);
            }
            fewest[at + length] = fewest[at + length].min(before + 1);
        };
        let goes_on = if begins_with_run(rest) {
            (1..=rest.len().min(TOKEN_BYTES_MAX)).for_each(found);
            rest.len() < TOKEN_BYTES_MAX
        } else {
            vocabulary.each_at(rest, &mut found)
        };
        if goes_on {
            inside = inside.min(before + 1);
        }
    }
    inside
}

/// In a long run of one byte nearly every length is a token, and finding that out would take long. There all lengths
/// are taken for tokens: the floor of a run is one token for each 128 bytes.
fn begins_with_run(text: &[u8]) -> bool {
    text.get(..RUN_BYTES).is_some_and(|run| run.iter().all(|byte| *byte == run[0]))
}
