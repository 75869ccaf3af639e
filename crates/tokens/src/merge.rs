//! Byte-pair encoding of one piece: the pair with the lowest rank is merged, the leftmost first, until none is left.
//!
//! With a heap of pairs, so that a piece of n bytes takes n log n steps whatever it is made of.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::vocabulary::Vocabulary;

/// A longer piece is not merged but counts as its bytes, which is more, never less: no honest word is so long, and the
/// heap of a hostile one would be.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;

/// What counting needs, kept between pieces.
#[derive(Debug, Default)]
pub struct Merger {
    /// Pairs that could be merged: rank, where the pair begins and ends. Some are out of date.
    pairs: BinaryHeap<Reverse<(u32, usize, usize)>>,
    /// Where the part that begins here ends; zero where no part begins.
    ends: Vec<usize>,
    /// Where the part before the one that begins here begins.
    before: Vec<usize>,
}

// === impl Merger ===

impl Merger {
    /// The tokens of a piece.
    pub fn count(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> u64 {
        if piece.len() <= 1 || vocabulary.rank(piece).is_some() {
            return piece.len().min(1) as u64;
        }
        if piece.len() > PIECE_BYTES_MAX {
            return piece.len() as u64;
        }
        self.pairs.clear();
        self.ends.clear();
        self.before.clear();
        self.ends.extend(1..=piece.len());
        self.before.extend((0..=piece.len()).map(|at| at.saturating_sub(1)));
        for start in 0..piece.len() - 1 {
            self.offer(vocabulary, piece, start);
        }
        let mut parts = piece.len() as u64;
        while let Some(Reverse((_, start, end))) = self.pairs.pop() {
            let middle = self.ends[start];
            if middle == 0 || middle >= end || self.ends[middle] != end {
                continue;
            }
            self.ends[start] = end;
            self.ends[middle] = 0;
            self.before[end] = start;
            parts -= 1;
            self.offer(vocabulary, piece, start);
            if start > 0 {
                self.offer(vocabulary, piece, self.before[start]);
            }
        }
        parts
    }

    /// Notes the pair that begins at `start`, if it makes a token.
    fn offer(&mut self, vocabulary: &Vocabulary, piece: &[u8], start: usize) {
        let Some(end) = self.ends.get(self.ends[start]).copied() else { return };
        if let Some(rank) = vocabulary.rank(&piece[start..end]) {
            self.pairs.push(Reverse((rank, start, end)));
        }
    }
}
