//! Counting tokens the way a byte-pair tokenizer does: text falls into words, groups of digits, punctuation and
//! white space, and long or rare pieces fall further apart. It is no provider's tokenizer, and it is none of the
//! gateway's code: it behaves like one, so that a bound that only holds for one tokenizer is found out.
//!
//! The rule everything rests on: a text never has more tokens than it has UTF-8 bytes.

use crate::dice;

/// A word of this many letters is one token; a longer one is cut into pieces.
const WORD_LETTERS_MAX: usize = 7;
const CAPITALS_MAX: usize = 3;
const DIGITS_MAX: usize = 3;
const PUNCTUATION_MAX: usize = 2;
const SPACES_MAX: usize = 8;
const LINE_ENDS_MAX: usize = 4;

/// A piece of text that is one token, or (a rare character) cannot be shown before all its tokens are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'t> {
    pub text: &'t str,
    pub tokens: u32,
}

/// Cuts a text into its pieces, from the left. The pieces put together are the text.
#[derive(Clone, Debug)]
pub struct Pieces<'t> {
    rest: &'t str,
    /// Where the word in hand ends, counted in bytes still to come; its pieces stay inside it.
    word_left: usize,
}

/// The tokens of `text`: at most its bytes.
pub fn count(text: &str) -> u64 {
    pieces(text).map(|piece| u64::from(piece.tokens)).sum()
}

pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text, word_left: 0 }
}

// === impl Pieces ===

impl<'t> Iterator for Pieces<'t> {
    type Item = Piece<'t>;

    fn next(&mut self) -> Option<Piece<'t>> {
        let bytes = self.rest.as_bytes();
        let first = *bytes.first()?;
        let (len, tokens) = match first {
            b' ' => self.after_space(bytes),
            _ => self.group(bytes, 0),
        };
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(Piece { text, tokens })
    }
}

impl Pieces<'_> {
    /// One space belongs to the word or punctuation behind it; more of them are tokens of their own.
    fn after_space(&mut self, bytes: &[u8]) -> (usize, u32) {
        let spaces = run(bytes, |b| b == b' ', SPACES_MAX + 1);
        match bytes.get(spaces) {
            Some(next) if spaces == 1 && !next.is_ascii_digit() && !next.is_ascii_whitespace() && next.is_ascii() => {
                self.group(bytes, 1)
            }
            // The last space before a word goes with the word.
            Some(next) if spaces > 1 && next.is_ascii_alphabetic() => ((spaces - 1).min(SPACES_MAX), 1),
            _ => (spaces.min(SPACES_MAX), 1),
        }
    }

    /// The group that starts at `lead` (the space before it, if any, is in its first piece).
    fn group(&mut self, bytes: &[u8], lead: usize) -> (usize, u32) {
        let body = &bytes[lead..];
        match body[0] {
            b if b.is_ascii_alphabetic() => (lead + self.word(body), 1),
            b if b.is_ascii_digit() => (lead + run(body, |b| b.is_ascii_digit(), DIGITS_MAX), 1),
            b if b.is_ascii_whitespace() => (lead + run(body, |b| b == body[0], LINE_ENDS_MAX), 1),
            b if b.is_ascii() => (lead + run(body, |b| b.is_ascii_punctuation(), PUNCTUATION_MAX).max(1), 1),
            _ => {
                let (len, tokens) = beyond_ascii(body);
                (lead + len, tokens)
            }
        }
    }

    /// The next piece of a word, which may be in the middle of it.
    fn word(&mut self, body: &[u8]) -> usize {
        if self.word_left == 0 {
            self.word_left = word_len(body);
        }
        let len = piece_len(&body[..self.word_left]);
        self.word_left -= len;
        len
    }
}

/// Letters of one kind: capitals, or one capital and what follows, so `camelCase` is two words.
fn word_len(body: &[u8]) -> usize {
    let capitals = run(body, |b| b.is_ascii_uppercase(), usize::MAX);
    if capitals > 1 {
        return capitals;
    }
    capitals + run(&body[capitals..], |b| b.is_ascii_lowercase(), usize::MAX)
}

fn piece_len(word: &[u8]) -> usize {
    if word.len() > 1 && word[1].is_ascii_uppercase() {
        return word.len().min(CAPITALS_MAX);
    }
    if word.len() <= WORD_LETTERS_MAX {
        return word.len();
    }
    // A long word: what its first letters are says where the vocabulary has a piece, 4 to 7 letters long.
    let cut = dice::hash(0, &word[..4]) % 4;
    4 + usize::try_from(cut).expect("a number below 4 fits")
}

/// Outside ASCII the pieces are small: two letters of an alphabet of two bytes, one of three bytes in one or two
/// tokens, the rest (emoji) in three.
fn beyond_ascii(body: &[u8]) -> (usize, u32) {
    match body[0] {
        0xC2..=0xDF => {
            let second_too = matches!(body.get(2), Some(0xC2..=0xDF));
            (if second_too { 4 } else { 2 }, 1)
        }
        0xE0..=0xEF => (3, if dice::hash(0, &body[..3]).is_multiple_of(3) { 2 } else { 1 }),
        _ => (4, 3),
    }
}

fn run(bytes: &[u8], belongs: impl Fn(u8) -> bool, max: usize) -> usize {
    bytes.iter().take(max).take_while(|b| belongs(**b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<&str> = pieces(text).map(|piece| piece.text).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn words_take_the_space_before_them() {
        check("the cat sat", &["the", " cat", " sat"]);
        check("a  b", &["a", " ", " b"]);
        check("end. Start", &["end", ".", " Start"]);
        check("x \n", &["x", " ", "\n"]);
    }

    #[test]
    fn digits_go_in_groups_of_three() {
        check("1234567", &["123", "456", "7"]);
        check("a 12", &["a", " ", "12"]);
    }

    #[test]
    fn long_words_and_capitals_fall_apart() {
        check("camelCase", &["camel", "Case"]);
        check("HTTPS", &["HTT", "PS"]);
        assert!(count("internationalisation") >= 3);
        assert_eq!(pieces("internationalisation").map(|p| p.text).collect::<String>(), "internationalisation");
    }

    #[test]
    fn punctuation_goes_in_pairs() {
        check("{\"a\":[", &["{\"", "a", "\":", "["]);
    }

    #[test]
    fn control_characters_are_tokens_too() {
        check("\u{0}\u{1}a", &["\u{0}", "\u{1}", "a"]);
        check(" \u{7f}", &[" \u{7f}"]);
    }

    #[test]
    fn rare_characters_cost_more_than_one_token() {
        assert_eq!(count("🙂"), 3);
        assert_eq!(count("да"), 1);
        assert!(count("日本語テキスト") >= 7);
    }

    #[test]
    fn english_has_about_four_bytes_a_token() {
        let text = "The quick brown fox jumps over the lazy dog, and nobody who watched it understood the reasons \
                    or the mathematics behind that unreasonable behaviour.";
        let tokens = usize::try_from(count(text)).expect("small");
        assert!((3..=6).contains(&(text.len() / tokens)), "{tokens} tokens for {} bytes", text.len());
    }

    proptest! {
        #[test]
        fn tokens_are_never_more_than_bytes(text in "\\PC*") {
            prop_assert!(count(&text) <= text.len() as u64);
        }

        #[test]
        fn tokens_are_never_more_than_bytes_for_any_string(text in any::<String>()) {
            prop_assert!(count(&text) <= text.len() as u64);
        }

        #[test]
        fn the_pieces_are_the_text(text in any::<String>()) {
            prop_assert_eq!(pieces(&text).map(|piece| piece.text).collect::<String>(), text);
        }

        #[test]
        fn the_pieces_are_the_text_of_spaced_ascii(text in "[a-zA-Z0-9 \\n\\t.,{}\":é日🙂]{0,80}") {
            prop_assert_eq!(pieces(&text).map(|piece| piece.text).collect::<String>(), text.clone());
            prop_assert!(count(&text) <= text.len() as u64);
        }

        #[test]
        fn no_piece_is_empty_and_none_has_more_tokens_than_bytes(text in any::<String>()) {
            for piece in pieces(&text) {
                prop_assert!(!piece.text.is_empty());
                prop_assert!(piece.tokens as usize <= piece.text.len());
            }
        }
    }
}
