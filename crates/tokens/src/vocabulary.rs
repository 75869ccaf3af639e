//! A vocabulary: its tokens where the build script laid them out, a table to find them by, and the pattern that cuts text
//! into pieces before anything is merged.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::fast::FixedState;
use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

/// No token of any vocabulary here is longer.
pub const TOKEN_BYTES_MAX: usize = 128;

pub static O200K: LazyLock<Vocabulary> = LazyLock::new(|| {
    const WORD_LOWER: &str = concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+$",
    );
    Vocabulary::new(O200K_TOKENS, WORD_LOWER)
});

pub static CL100K: LazyLock<Vocabulary> = LazyLock::new(|| {
    const PATTERN: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+$",
    );
    Vocabulary::new(CL100K_TOKENS, PATTERN)
});

const O200K_TOKENS: Tokens = Tokens(include_bytes!(concat!(env!("OUT_DIR"), "/o200k_base")));
const CL100K_TOKENS: Tokens = Tokens(include_bytes!(concat!(env!("OUT_DIR"), "/cl100k_base")));

pub struct Vocabulary {
    pub tokens: Tokens,
    /// Open addressing; a slot holds a token's place plus one, or zero. A power of two, at most half full.
    slots: Box<[u32]>,
    /// Where the tokens begin that begin with each byte.
    first_bytes: [usize; 257],
    pattern: Regex,
}

/// Tokens in the order of their bytes: their number, where each ends, their ranks, their bytes.
#[derive(Clone, Copy)]
pub struct Tokens(&'static [u8]);

/// The pieces of a text; nothing is merged across them.
pub struct Pieces<'t> {
    pattern: &'static Regex,
    text: &'t str,
    at: usize,
}

/// Patterns of the regex, by their number. White space before a word leaves its last character to the word: tiktoken
/// looks ahead for that (`\s+(?!\S)`), here a character too many is matched and not taken.
const LOOKS_AHEAD: usize = 1;

// === impl Vocabulary ===

impl Vocabulary {
    fn new(tokens: Tokens, pattern: &str) -> Self {
        let pattern = Regex::new_many(&[pattern, r"\s+\s", r"\s+"]).expect("the patterns are constants");
        let mut slots = vec![0; (tokens.len() * 2).next_power_of_two()].into_boxed_slice();
        let mut first_bytes = [tokens.len(); 257];
        for place in 0..tokens.len() {
            let token = tokens.get(place);
            let mut slot = hash(token) & (slots.len() - 1);
            while slots[slot] != 0 {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = u32::try_from(place + 1).expect("some hundred thousand tokens");
            let first = &mut first_bytes[usize::from(token[0])];
            *first = place.min(*first);
        }
        Self { tokens, slots, first_bytes, pattern }
    }

    pub fn pieces<'t>(&'static self, text: &'t str) -> Pieces<'t> {
        Pieces { pattern: &self.pattern, text, at: 0 }
    }

    /// The rank of the token with these bytes.
    pub fn rank(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut slot = hash(bytes) & (self.slots.len() - 1);
        loop {
            let place = usize::try_from(self.slots[slot].checked_sub(1)?).expect("a place in memory");
            if self.tokens.get(place) == bytes {
                return Some(self.tokens.rank(place));
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Calls back with the length of each token that `text` begins with, shortest first. `true` if there are others
    /// that begin with all of `text` and go on.
    pub fn each_at(&self, text: &[u8], mut found: impl FnMut(usize)) -> bool {
        let Some(first) = text.first().map(|byte| usize::from(*byte)) else { return false };
        let (mut low, mut high) = (self.first_bytes[first], self.first_bytes[first + 1]);
        for depth in 1..=text.len().min(TOKEN_BYTES_MAX) {
            // All from low to high begin with these `depth` bytes; the shortest of them comes first.
            if low == high {
                return false;
            }
            if self.tokens.get(low).len() == depth {
                found(depth);
                low += 1;
            }
            let Some(next) = text.get(depth) else { return low < high };
            low = self.split(low, high, |token| token[depth] < *next);
            // Few go on with the same byte: the end is looked for near the beginning first.
            let mut near = 4;
            while low + near < high && self.tokens.get(low + near)[depth] == *next {
                near *= 4;
            }
            high = self.split(low, high.min(low + near + 1), |token| token[depth] == *next);
        }
        false
    }

    /// The first place from `low` on where `before` does not hold.
    fn split(&self, mut low: usize, mut high: usize, before: impl Fn(&[u8]) -> bool) -> usize {
        while low < high {
            let middle = low.midpoint(high);
            if before(self.tokens.get(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn hash(bytes: &[u8]) -> usize {
    // Only its low bits are used: where there are 32 alone, they serve as well.
    let hash = FixedState::default().hash_one(bytes);
    usize::try_from(hash & u64::from(u32::MAX)).expect("32 bits")
}

// === impl Tokens ===

impl Tokens {
    pub fn len(self) -> usize {
        self.number(0)
    }

    pub fn get(self, place: usize) -> &'static [u8] {
        let start = if place == 0 { 0 } else { self.number(place) };
        let bytes = 4 * (1 + 2 * self.len());
        &self.0[bytes + start..bytes + self.number(place + 1)]
    }

    fn rank(self, place: usize) -> u32 {
        self.word(1 + self.len() + place)
    }

    fn number(self, at: usize) -> usize {
        usize::try_from(self.word(at)).expect("an offset in memory")
    }

    fn word(self, at: usize) -> u32 {
        let bytes = self.0[4 * at..].first_chunk().expect("the build script laid it out so");
        u32::from_le_bytes(*bytes)
    }
}

// === impl Pieces ===

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let found = self.pattern.find(Input::new(rest).anchored(Anchored::Yes));
        let found = found.expect("every character is white space, a letter, a digit or none of these");
        let mut piece = &rest[..found.end()];
        if found.pattern().as_usize() == LOOKS_AHEAD {
            let last = piece.chars().next_back().expect("at least two characters");
            piece = &piece[..piece.len() - last.len_utf8()];
        }
        self.at += piece.len();
        Some(piece)
    }
}
