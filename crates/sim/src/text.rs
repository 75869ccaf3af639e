//! What the simulated model says. Plain answers are cut from a river of words laid out once at the start, so that
//! an answer costs a copy; structured ones are made whole and cut into tokens afterwards. Either way an answer is a
//! row of tokens, and the number of tokens is exact because it is what the answer was made from.

use std::ops::Range;

use crate::dice::Dice;
use crate::tokens;

/// How every plain answer begins.
const OPENING: &str = "Simulated answer:";
/// Tokens in the river. It flows in a circle.
const RIVER_TOKENS: usize = 8_192;
/// Each is one token with the space before it. Nothing here needs escaping in JSON.
const WORDS: &[&str] = &[
    "the", "of", "and", "to", "in", "that", "is", "was", "for", "on", "with", "as", "by", "at", "from", "this", "not",
    "are", "but", "had", "have", "one", "we", "you", "all", "her", "she", "there", "would", "their", "who", "so",
    "about", "if", "out", "up", "time", "then", "them", "can", "only", "other", "new", "some", "could", "these", "two",
    "may", "first", "any", "like", "now", "such", "over", "our", "even", "most", "after", "also", "made", "many",
    "before", "through", "where", "much", "should", "well", "people", "down", "own", "just", "because", "good", "each",
    "those", "how", "too", "little", "state", "very", "make", "world", "still", "see", "work", "long", "here", "both",
    "between", "being", "under", "never", "same", "another", "know", "while", "last", "might", "great", "old", "year",
    "off", "come", "since", "against", "go", "came", "right", "used", "take", "three", "model", "token", "price",
    "river", "stone", "letter", "number", "answer", "engine", "garden", "window", "market", "harbour", "bridge",
];
const SENTENCE_WORDS: Range<u64> = 6..16;

/// The words all plain answers are cut from.
#[derive(Debug)]
pub struct River {
    opening: Row,
    words: Row,
}

/// Text with the ends of its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    text: String,
    ends: Vec<u32>,
}

/// One answer's text, as a row of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Source);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// The opening and what follows `start` in the river, `tokens` in all.
    River {
        start: usize,
        tokens: usize,
    },
    Own(Row),
}

// === impl River ===

impl River {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed).fork(0x52_49_56_45_52);
        let mut text = String::new();
        let mut tokens = 0;
        while tokens < RIVER_TOKENS {
            let words = SENTENCE_WORDS.start + dice.below(SENTENCE_WORDS.end - SENTENCE_WORDS.start);
            for _ in 0..words {
                text.push(' ');
                text.push_str(WORDS[dice.below_len(WORDS.len())]);
            }
            text.push('.');
            tokens += usize::try_from(words).expect("a sentence is short") + 1;
        }
        Self { opening: Row::cut(OPENING.to_owned()), words: Row::cut(text) }
    }
}

// === impl Row ===

impl Row {
    fn cut(text: String) -> Self {
        let mut ends = Vec::with_capacity(text.len() / 4);
        let mut end = 0;
        for piece in tokens::pieces(&text) {
            // Of a character that takes several tokens only the last one shows anything.
            ends.extend(std::iter::repeat_n(end, piece.tokens as usize - 1));
            end += u32::try_from(piece.text.len()).expect("a token is short");
            ends.push(end);
        }
        Self { text, ends }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn end(&self, tokens: usize) -> usize {
        if tokens == 0 { 0 } else { self.ends[tokens - 1] as usize }
    }

    fn slice(&self, tokens: Range<usize>) -> &str {
        &self.text[self.end(tokens.start)..self.end(tokens.end)]
    }
}

// === impl Text ===

impl Text {
    /// A plain answer of so many tokens.
    pub fn plain(river: &River, dice: &mut Dice, tokens: usize) -> Self {
        let start = dice.below_len(river.words.len());
        // Behind the opening's colon a full stop would melt into one token with it.
        let start = if river.words.slice(start..start + 1) == "." { start + 1 } else { start };
        Self(Source::River { start: start % river.words.len(), tokens })
    }

    /// A text of one's own.
    pub fn own(text: String) -> Self {
        Self(Source::Own(Row::cut(text)))
    }

    /// Length in tokens.
    pub fn tokens(&self) -> usize {
        match &self.0 {
            Source::River { tokens, .. } => *tokens,
            Source::Own(row) => row.len(),
        }
    }

    /// Leaves at most the first `tokens` tokens.
    pub fn truncate(&mut self, max: usize) {
        match &mut self.0 {
            Source::River { tokens, .. } => *tokens = (*tokens).min(max),
            Source::Own(row) => {
                row.ends.truncate(max);
                row.text.truncate(row.end(row.ends.len()));
            }
        }
    }

    /// What token `at` shows: empty for the first tokens of a character that takes several, and after a stop.
    pub fn token<'t>(&'t self, river: &'t River, at: usize) -> &'t str {
        match &self.0 {
            Source::Own(row) => row.slice(at..at + 1),
            Source::River { .. } if at < river.opening.len() => river.opening.slice(at..at + 1),
            Source::River { start, .. } => {
                let word = (start + at - river.opening.len()) % river.words.len();
                river.words.slice(word..word + 1)
            }
        }
    }

    /// Hands the whole text over in a few slices; whether it may go into JSON as it is comes with each.
    pub fn slices<'t>(&'t self, river: &'t River, mut take: impl FnMut(&'t str, Plain)) {
        match &self.0 {
            Source::Own(row) => take(&row.text, Plain(false)),
            Source::River { start, tokens } => {
                let opening = river.opening.len().min(*tokens);
                take(river.opening.slice(0..opening), Plain(true));
                let mut left = tokens - opening;
                let mut from = *start;
                while left > 0 {
                    let here = left.min(river.words.len() - from);
                    take(river.words.slice(from..from + here), Plain(true));
                    left -= here;
                    from = 0;
                }
            }
        }
    }

    pub fn to_text(&self, river: &River) -> String {
        let mut text = String::new();
        self.slices(river, |slice, _| text.push_str(slice));
        text
    }

    /// Ends the text where the first of `stops` begins. The tokens up to the one that completed it had been made by
    /// then, so they still count. Returns whether one was found.
    pub fn stop_at(&mut self, river: &River, stops: &[String]) -> bool {
        let text = self.to_text(river);
        let found = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at))).min();
        let Some((found_end, found_start)) = found else { return false };
        let mut row = Row::cut(text);
        let made = row.ends.partition_point(|end| (*end as usize) < found_end) + 1;
        row.ends.truncate(made);
        row.text.truncate(found_start);
        let shown = u32::try_from(found_start).expect("an answer is shorter than 4 GB");
        row.ends.iter_mut().for_each(|end| *end = (*end).min(shown));
        self.0 = Source::Own(row);
        true
    }
}

/// Whether a slice may stand in a JSON string without escaping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain(pub bool);

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(tokens: usize) -> (River, Text) {
        let river = River::new(1);
        let text = Text::plain(&river, &mut Dice::new(2), tokens);
        (river, text)
    }

    fn joined(text: &Text, river: &River) -> String {
        (0..text.tokens()).map(|at| text.token(river, at)).collect()
    }

    #[test]
    fn an_answer_has_exactly_the_tokens_it_was_made_from() {
        for length in [0, 1, 2, 3, 4, 5, 50, 8_000, 20_000] {
            let (river, text) = plain(length);
            let whole = text.to_text(&river);
            assert_eq!(tokens::count(&whole), length as u64, "{length}");
            assert_eq!(joined(&text, &river), whole);
        }
    }

    #[test]
    fn wherever_an_answer_starts_its_tokens_are_exact() {
        let river = River::new(1);
        for seed in 0..2_000 {
            let text = Text::plain(&river, &mut Dice::new(seed), 12);
            assert_eq!(tokens::count(&text.to_text(&river)), 12, "{seed}");
        }
    }

    #[test]
    fn every_plain_answer_says_it_is_simulated_and_needs_no_escaping() {
        let (river, text) = plain(20_000);
        let whole = text.to_text(&river);
        assert!(whole.starts_with("Simulated answer: "));
        assert!(whole.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\'));
    }

    #[test]
    fn the_same_seed_says_the_same() {
        let say = |seed| {
            let river = River::new(seed);
            Text::plain(&river, &mut Dice::new(3), 40).to_text(&river)
        };
        assert_eq!(say(1), say(1));
        assert_ne!(say(1), say(2));
    }

    #[test]
    fn texts_are_cut_to_length() {
        let river = River::new(1);
        let mut text = Text::own("{\"key\": \"some value\"}".to_owned());
        text.truncate(3);
        assert_eq!(text.tokens(), 3);
        assert_eq!(tokens::count(&text.to_text(&river)), 3);
        assert_eq!(joined(&text, &river), text.to_text(&river));
    }

    #[test]
    fn a_rare_character_shows_with_its_last_token() {
        let river = River::new(1);
        let text = Text::own("a🙂b".to_owned());
        assert_eq!((0..text.tokens()).map(|at| text.token(&river, at)).collect::<Vec<_>>(), ["a", "", "", "🙂", "b"]);
    }

    #[test]
    fn a_stop_sequence_ends_the_text_and_its_tokens_count() {
        let river = River::new(1);
        let mut text = Text::own("one two three four".to_owned());
        assert!(text.stop_at(&river, &["four".to_owned(), "o thr".to_owned()]));
        assert_eq!(text.to_text(&river), "one tw");
        assert_eq!(text.tokens(), 3);
        assert_eq!(joined(&text, &river), "one tw");
        assert!(!text.stop_at(&river, &["five".to_owned()]));
    }
}
