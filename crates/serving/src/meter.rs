//! How much a provider has answered, while it answers: a lower bound of what it counts itself, choice by choice.
//!
//! Never more than the provider's own count, for an honest stream must not be cut. So only what surely took a token
//! counts: an event with a piece of text took one at least, and a text took no fewer than the fewest tokens it can be
//! put together from (not what the tokenizer would make of it: a model may write fewer). The arguments of a tool count
//! by their bytes alone: OpenAI sends those of parallel calls in slices shorter than a token, written anew.
//!
//! It stands in the way of every event, so it looks at one closely only if it begins otherwise than the last one did.

use memchr::{memchr2, memmem};
use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_tokens::{Floor, Tokenizer};

/// What the hold pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Output tokens of each choice.
    pub tokens_per_choice: u64,
    pub choices: u64,
    /// The model's, if it is published.
    pub tokenizer: Option<Tokenizer>,
}

/// Counts a stream's output against what was granted.
#[derive(Debug)]
pub struct Meter {
    granted: Granted,
    /// By their index.
    choices: Vec<Choice>,
}

/// A choice that has been seen.
#[derive(Debug)]
struct Choice {
    index: u64,
    finished: bool,
    /// Events with text, or with the name of a tool.
    events: u64,
    /// Bytes of tools' arguments, as they are escaped.
    argument_bytes: u64,
    text: Option<Text>,
    opening: Opening,
}

/// The text of one choice, where its tokenizer is known.
#[derive(Debug)]
struct Text {
    tokenizer: Tokenizer,
    floor: Floor,
    floor_tokens: u64,
    /// The floor is not above this, whatever is in `untold`: what the tokenizer makes of a text is one way to write it.
    ceiling: u64,
    /// Text that the floor has not been told of: not before the ceiling says that it could matter.
    untold: String,
    /// Text, still escaped, that the ceiling has not been told of: not before its bytes could matter.
    unread: Vec<u8>,
}

/// How the last event of a choice began, up to its piece of text. The next one that begins so has its piece in the same
/// place, and differs in the piece alone.
#[derive(Debug, Default)]
struct Opening {
    bytes: Vec<u8>,
    piece: Piece,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Piece {
    Content,
    /// A refusal, or reasoning that is shown.
    #[default]
    OtherText,
    Arguments,
}

/// Choices that are told apart; the wire allows no more to be asked for.
const CHOICES_MAX: u64 = 128;
/// Choices whose openings are tried before an event is read in full.
const OPENINGS_MAX: usize = 8;
/// No token of a known vocabulary stands for more bytes (in o200k and cl100k: 128).
const TOKEN_BYTES_MAX: u64 = 256;
/// Text is not kept beyond this, whether it matters yet or not.
const TEXT_BYTES_MAX: usize = 64 * 1024;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Vec<ChoiceEvent<'a>>,
}

#[derive(Deserialize)]
struct ChoiceEvent<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow, default)]
    function_call: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

// === impl Meter ===

impl Meter {
    pub fn new(granted: Granted) -> Self {
        Self { granted, choices: Vec::new() }
    }

    /// Counts one event, and says whether what was granted still covers all that has been counted. An event that is not
    /// understood counts nothing.
    pub fn covers(&mut self, data: &[u8]) -> bool {
        match self.begins_as_before(data) {
            Some((place, piece, escaped)) => {
                self.choices[place].take(piece, escaped);
                self.is_covered(place)
            }
            None => self.read(data),
        }
    }

    /// Output tokens so far, of all choices, at least.
    pub fn tokens(&self) -> u64 {
        self.choices.iter().map(Choice::tokens).fold(0, u64::saturating_add)
    }

    /// The indexes of the choices that were begun and have not ended.
    pub fn unfinished(&self) -> impl Iterator<Item = u64> {
        self.choices.iter().filter(|choice| !choice.finished).map(|choice| choice.index)
    }

    fn begins_as_before<'d>(&self, data: &'d [u8]) -> Option<(usize, Piece, &'d [u8])> {
        let mut known = self.choices.iter().take(OPENINGS_MAX);
        let begins_so = |opening: &Opening| !opening.bytes.is_empty() && data.starts_with(&opening.bytes);
        let place = known.position(|choice| begins_so(&choice.opening))?;
        let Opening { bytes, piece } = &self.choices[place].opening;
        let rest = &data[bytes.len()..];
        if self.granted.choices > 1 && !is_of_one_unfinished_choice(rest) {
            return None;
        }
        let escaped = &rest[..end_of_string(rest)?];
        (!escaped.is_empty()).then_some((place, *piece, escaped))
    }

    fn read(&mut self, data: &[u8]) -> bool {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else { return true };
        let mut covered = true;
        for choice in event.choices.iter().filter(|choice| choice.index < CHOICES_MAX) {
            let place = self.place_of(choice.index);
            let known = &mut self.choices[place];
            if let Some(delta) = &choice.delta {
                known.read(delta, data);
            }
            known.finished |= choice.finish_reason.is_some();
            covered &= self.is_covered(place);
        }
        covered
    }

    fn place_of(&mut self, index: u64) -> usize {
        let found = self.choices.iter().position(|choice| choice.index == index);
        found.unwrap_or_else(|| {
            self.choices.push(Choice::new(index, self.granted.tokenizer));
            self.choices.len() - 1
        })
    }

    fn is_covered(&mut self, place: usize) -> bool {
        let Granted { tokens_per_choice, choices, .. } = self.granted;
        self.choices[place].read_on(tokens_per_choice);
        let each = self.choices[place].tokens() <= tokens_per_choice;
        // As long as there are no more choices than were asked for, what covers each covers all.
        let asked = self.choices.len() as u64 <= choices;
        each && (asked || self.tokens() <= tokens_per_choice.saturating_mul(choices))
    }
}

/// Whether the rest of an event, after the opening of its piece of text, says nothing of another choice or of an end.
fn is_of_one_unfinished_choice(rest: &[u8]) -> bool {
    memmem::find(rest, b"\"delta\"").is_none() && memmem::find(rest, b"\"finish_reason\":null").is_some()
}

/// Where the string that begins here ends.
fn end_of_string(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

// === impl Choice ===

impl Choice {
    fn new(index: u64, tokenizer: Option<Tokenizer>) -> Self {
        let (text, opening) = (tokenizer.map(Text::new), Opening::default());
        Self { index, finished: false, events: 0, argument_bytes: 0, text, opening }
    }

    fn tokens(&self) -> u64 {
        let counted = self.events.saturating_add(self.argument_bytes / TOKEN_BYTES_MAX);
        self.text.as_ref().map_or(counted, |text| text.floor_tokens.max(counted))
    }

    fn read(&mut self, delta: &Delta<'_>, data: &[u8]) {
        let content = text_of(delta.content);
        let other = || [delta.refusal, delta.reasoning, delta.reasoning_content].into_iter().find_map(text_of);
        // One event, one token: the same reasoning is sent under two names, and nobody knows of what else.
        if let Some(text) = content {
            self.take_and_remember(Piece::Content, text, data);
        } else if let Some(text) = other() {
            self.take_and_remember(Piece::OtherText, text, data);
        } else {
            self.read_tools(delta, data);
        }
    }

    fn read_tools(&mut self, delta: &Delta<'_>, data: &[u8]) {
        let calls = delta.tool_calls.iter().flatten().filter_map(|call| call.function.as_ref());
        for function in calls.chain(&delta.function_call) {
            self.events += u64::from(text_of(function.name).is_some());
            if let Some(arguments) = text_of(function.arguments) {
                self.take_and_remember(Piece::Arguments, arguments, data);
            }
        }
    }

    fn take_and_remember(&mut self, piece: Piece, escaped: &str, data: &[u8]) {
        self.take(piece, escaped.as_bytes());
        let start = escaped.as_ptr().addr() - data.as_ptr().addr();
        self.opening.bytes.clear();
        self.opening.bytes.extend_from_slice(&data[..start]);
        self.opening.piece = piece;
    }

    fn take(&mut self, piece: Piece, escaped: &[u8]) {
        match piece {
            Piece::Arguments => self.argument_bytes += escaped.len() as u64,
            Piece::OtherText => self.events += 1,
            Piece::Content => {
                self.events += 1;
                if let Some(text) = &mut self.text {
                    text.unread.extend_from_slice(escaped);
                }
            }
        }
    }

    /// Counts the text's tokens if that could make a difference.
    fn read_on(&mut self, granted: u64) {
        // What cannot be decoded (half a character in each of two events) is not counted by its tokens any more.
        if self.text.as_mut().is_some_and(|text| !text.read_on(granted)) {
            self.text = None;
        }
    }
}

/// A string with something in it, without its quotes.
fn text_of(value: Option<&RawValue>) -> Option<&str> {
    let text = value?.get().strip_prefix('"')?.strip_suffix('"')?;
    (!text.is_empty()).then_some(text)
}

// === impl Text ===

impl Text {
    fn new(tokenizer: Tokenizer) -> Self {
        let (floor, untold, unread) = (Floor::new(tokenizer), String::new(), Vec::new());
        Self { tokenizer, floor, floor_tokens: 0, ceiling: 0, untold, unread }
    }

    /// Counts no more than it must: bytes first (each token has one at least), then the tokenizer's own tokens, and
    /// only if these too are more than was granted, the fewest there can be. `false` if it is no text.
    fn read_on(&mut self, granted: u64) -> bool {
        let kept = self.unread.len() + self.untold.len();
        let fits = self.ceiling + self.unread.len() as u64 <= granted;
        if self.unread.is_empty() || (fits && kept <= TEXT_BYTES_MAX) {
            return true;
        }
        let literal = [b"\"", &self.unread[..], b"\""].concat();
        let Ok(text) = serde_json::from_slice::<String>(&literal) else { return false };
        self.unread.clear();
        self.ceiling += self.tokenizer.count(&text);
        self.untold.push_str(&text);
        if self.ceiling > granted || kept > TEXT_BYTES_MAX {
            self.floor.push(self.untold.as_bytes());
            self.untold.clear();
            (self.floor_tokens, self.ceiling) = self.floor.counts();
        }
        true
    }
}
