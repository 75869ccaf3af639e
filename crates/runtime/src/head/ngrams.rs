//! Text to hashed n-grams: what the built-in classifier reads, with no vocabulary and nothing to download.
//!
//! Two spaces of buckets. In the first, the character n-grams of 3 to 5 within words (scikit-learn's `char_wb`: a word has a
//! space at either end); in the second, words and pairs of neighbouring words. What a bucket weighs is the head's business.
//! The hashing trick is Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (ICML 2009).
//!
//! The same text has the same grams on every machine and in every version: the hash is written down here, and its values are
//! held by tests. (Lower case and "is a letter" are Unicode's; its tables only ever grow by letters that were not there before.)

use std::ops::RangeInclusive;

use thiserror::Error;

/// A longer text is refused: 16 KiB are some 2,700 words, far above anything a label is put on.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// How many buckets a space may have, as the power of two.
pub const BUCKETS_LOG2: RangeInclusive<u32> = 8..=18;
/// As many as the encoders have, so that whoever stores vectors can take either.
pub const EMBED_DIMS: usize = 384;

/// The lengths of character n-grams.
const CHARS: RangeInclusive<usize> = 3..=5;

/// A vector of which only what is not zero is written: columns ascending, none twice, a value for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sparse {
    pub columns: Vec<u32>,
    pub values: Vec<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the text has {bytes} bytes; at most {TEXT_BYTES_MAX} are read")]
pub struct TextTooLong {
    pub bytes: usize,
}

/// Where a gram is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Chars,
    Words,
}

/// The buckets of a text, each with `1 + ln(times)`: those of characters in `0..2^buckets_log2`, those of words in as many
/// behind them. A text of nothing but punctuation may have none.
///
/// `buckets_log2` is within [`BUCKETS_LOG2`]; beyond, it is cut to it.
pub fn counted(text: &str, buckets_log2: u32) -> Result<Sparse, TextTooLong> {
    let log2 = buckets_log2.clamp(*BUCKETS_LOG2.start(), *BUCKETS_LOG2.end());
    // A character has about three grams, a word of five letters two more.
    let mut buckets: Vec<u32> = Vec::with_capacity(4 * text.len().min(TEXT_BYTES_MAX));
    grams(text, |space, hash| {
        let bucket = top_bits(hash, log2);
        buckets.push(if space == Space::Words { bucket + (1 << log2) } else { bucket });
    })?;
    buckets.sort_unstable();
    let mut counted = Sparse::default();
    for same in buckets.chunk_by(|a, b| a == b) {
        counted.columns.push(same[0]);
        counted.values.push(sublinear(same.len()));
    }
    Ok(counted)
}

/// The same grams, each added with a sign of its own into one of [`EMBED_DIMS`] places; of length 1, or all zero if there are
/// none. Texts that share words and parts of words are near each other; texts that only *mean* the same are not: this is
/// lexical. It stands in where no encoder is loaded.
pub fn embed(text: &str) -> Result<Vec<f32>, TextTooLong> {
    let mut hashes = Vec::with_capacity(4 * text.len().min(TEXT_BYTES_MAX));
    grams(text, |_, hash| hashes.push(hash))?;
    hashes.sort_unstable();
    let mut vector = vec![0.0_f32; EMBED_DIMS];
    for same in hashes.chunk_by(|a, b| a == b) {
        let (place, sign) = place_and_sign(same[0]);
        vector[place] += sign * sublinear(same.len());
    }
    to_unit_length(&mut vector);
    Ok(vector)
}

/// Divides by the Euclidean length, unless that is zero.
pub(super) fn to_unit_length(values: &mut [f32]) {
    let squares: f32 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 {
        let factor = 1.0 / squares.sqrt();
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Every gram of the text, as often as it is there.
fn grams(text: &str, mut found: impl FnMut(Space, u64)) -> Result<(), TextTooLong> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TextTooLong { bytes: text.len() });
    }
    let chars = normalised(text);
    char_grams(&chars, |hash| found(Space::Chars, hash));
    word_grams(&chars, |hash| found(Space::Words, hash));
    Ok(())
}

/// Lower case, runs of white space as one space, control characters dropped; a space at either end.
fn normalised(text: &str) -> Vec<char> {
    let mut chars = Vec::with_capacity(text.len() + 2);
    chars.push(' ');
    for char in text.chars() {
        if char.is_whitespace() {
            if chars.last() != Some(&' ') {
                chars.push(' ');
            }
        } else if char.is_ascii() {
            if !char.is_ascii_control() {
                chars.push(char.to_ascii_lowercase());
            }
        } else if !char.is_control() {
            chars.extend(char.to_lowercase());
        }
    }
    if chars.last() != Some(&' ') {
        chars.push(' ');
    }
    chars
}

/// From each place, the grams that begin there: one goes on where the shorter one ended. None spans two words.
fn char_grams(chars: &[char], mut found: impl FnMut(u64)) {
    for start in 0..chars.len() {
        let mut hash = SEED_CHARS;
        for (length, &char) in (1..=*CHARS.end()).zip(&chars[start..]) {
            hash = step(hash, char);
            if length >= *CHARS.start() {
                found(finish(hash));
            }
            // The space behind a word ends it; the one before it begins it.
            if char == ' ' && length > 1 {
                break;
            }
        }
    }
}

/// Words are runs of letters, digits and underscores; a pair is hashed on from its first word.
fn word_grams(chars: &[char], mut found: impl FnMut(u64)) {
    let is_inside = |char: &char| char.is_alphanumeric() || *char == '_';
    let mut before = None;
    for word in chars.split(|char| !is_inside(char)).filter(|word| !word.is_empty()) {
        let hash = word.iter().fold(SEED_WORDS, |hash, &char| step(hash, char));
        found(finish(hash));
        if let Some(first) = before {
            found(finish(word.iter().fold(step(first, ' '), |hash, &char| step(hash, char))));
        }
        before = Some(hash);
    }
}

fn sublinear(times: usize) -> f32 {
    if times == 1 { 1.0 } else { 1.0 + libm::logf(times as f32) }
}

// === hash ===

// FNV-1a of 64 bits, over code points where it has bytes, and MurmurHash3's last mixing, because FNV's high bits alone are
// poor for inputs as short as ours. The seeds are FNV's own offset, and that with its halves exchanged.
const SEED_CHARS: u64 = 0xcbf2_9ce4_8422_2325;
const SEED_WORDS: u64 = 0x8422_2325_cbf2_9ce4;
const PRIME: u64 = 0x0100_0000_01b3;

fn step(hash: u64, char: char) -> u64 {
    (hash ^ u64::from(u32::from(char))).wrapping_mul(PRIME)
}

fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[expect(clippy::cast_possible_truncation, reason = "at most 18 bits are left")]
fn top_bits(hash: u64, bits: u32) -> u32 {
    (hash >> (64 - bits)) as u32
}

/// The upper half chooses the place, the lowest bit the sign.
fn place_and_sign(hash: u64) -> (usize, f32) {
    let place = ((hash >> 32) * EMBED_DIMS as u64) >> 32;
    (place as usize, if hash & 1 == 0 { 1.0 } else { -1.0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashes(text: &str, wanted: Space) -> Vec<u64> {
        let mut found = Vec::new();
        grams(text, |space, hash| found.extend((space == wanted).then_some(hash))).expect("short");
        found.sort_unstable();
        found
    }

    fn hash_of(seed: u64, gram: &str) -> u64 {
        finish(gram.chars().fold(seed, step))
    }

    /// scikit-learn's `_char_wb_ngrams`, as it is written there.
    fn char_wb(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        for word in text.split_whitespace() {
            let word: Vec<char> = format!(" {word} ").chars().collect();
            for n in CHARS {
                all.push(word.iter().take(n).collect());
                let mut offset = 0;
                while offset + n < word.len() {
                    offset += 1;
                    all.push(word[offset..][..n].iter().collect());
                }
                if offset == 0 {
                    break;
                }
            }
        }
        all
    }

    fn check_words(text: &str, expected: &[&str]) {
        let mut expected: Vec<u64> = expected.iter().map(|gram| hash_of(SEED_WORDS, gram)).collect();
        expected.sort_unstable();
        assert_eq!(hashes(text, Space::Words), expected, "{text}");
    }

    #[test]
    fn words_and_pairs_are_found_whatever_stands_between_them() {
        check_words("I lost my-card!", &["i", "lost", "my", "card", "i lost", "lost my", "my card"]);
        check_words("  Straße\t\u{1}\nÉTÉ ", &["straße", "été", "straße été"]);
        check_words("lsass.exe_x", &["lsass", "exe_x", "lsass exe_x"]);
        check_words("?! ...", &[]);
        check_words("", &[]);
    }

    #[test]
    fn a_bucket_counts_how_often_by_the_logarithm() {
        let twice = counted("card card", 14).expect("short");
        let once = counted("card", 14).expect("short");
        for (column, value) in once.columns.iter().zip(&once.values) {
            let place = twice.columns.binary_search(column).expect("it is in both");
            assert_eq!((*value, twice.values[place]), (1.0, 1.0 + libm::logf(2.0)));
        }
    }

    /// As a program of another language computed them.
    #[test]
    fn hashes_are_the_same_in_every_version() {
        assert_eq!(finish(SEED_CHARS), 0xefd0_1f60_ba99_2926);
        let first: Vec<u32> = counted("I lost my card", 14).expect("short").columns.into_iter().take(6).collect();
        assert_eq!(first, [659, 830, 1_419, 1_778, 3_401, 3_673]);
        let vector = embed("I lost my card").expect("short");
        let places = vector.iter().enumerate().filter(|(_, value)| **value != 0.0);
        let first: Vec<(usize, u32)> = places.map(|(place, value)| (place, value.to_bits())).take(4).collect();
        assert_eq!(first, [(15, 0xbe3e_26eb), (19, 0xbe3e_26eb), (33, 0xbe3e_26eb), (41, 0x3e3e_26eb)]);
    }

    #[test]
    fn a_text_of_one_byte_more_than_may_be_is_refused() {
        assert!(counted(&"x".repeat(TEXT_BYTES_MAX), 14).is_ok());
        let bytes = TEXT_BYTES_MAX + 1;
        assert_eq!(counted(&"x".repeat(bytes), 14), Err(TextTooLong { bytes }));
        assert_eq!(embed(&"x".repeat(bytes)), Err(TextTooLong { bytes }));
    }

    #[test]
    fn texts_that_share_words_are_nearer_than_those_that_do_not() {
        let near = |a: &str, b: &str| -> f32 {
            embed(a).expect("short").iter().zip(embed(b).expect("short")).map(|(a, b)| a * b).sum()
        };
        let alike = near("My card has not arrived", "When will my card arrive?");
        assert!(alike > 0.3 + near("My card has not arrived", "Exchange rates for dollars"), "{alike}");
        assert!((near("My card", "My  CARD") - 1.0).abs() < 1e-6);
        assert!(
            embed("...").expect("short").iter().any(|value| *value != 0.0),
            "punctuation has characters, if no words"
        );
        assert!(embed(" ").expect("short").iter().all(|value| *value == 0.0));
    }

    proptest! {
        #[test]
        fn characters_are_cut_as_scikit_learn_cuts_them(text in "[a-zäß .!\t0-9]{0,60}") {
            let mut expected: Vec<u64> = char_wb(&text).iter().filter(|gram| gram.chars().count() >= 3)
                .map(|gram| hash_of(SEED_CHARS, gram)).collect();
            expected.sort_unstable();
            prop_assert_eq!(hashes(&text, Space::Chars), expected);
        }

        #[test]
        fn any_text_makes_ascending_columns_in_both_spaces(text in ".{0,300}", log2 in 0_u32..30) {
            let sparse = counted(&text, log2).expect("short");
            prop_assert_eq!(sparse.columns.len(), sparse.values.len());
            prop_assert!(sparse.columns.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(sparse.columns.iter().all(|&column| column < 2 << log2.clamp(8, 18)));
            prop_assert!(sparse.values.iter().all(|&value| value >= 1.0 && value.is_finite()));
        }
    }
}
