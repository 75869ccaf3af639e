//! What is wrong with a price book, told all at once, each thing with its place and what to do about it.

use std::fmt;

use super::PROBLEMS_MAX;

/// Longest piece of the book itself that a message repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// One mistake in a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; `None` if it is about the book as a whole.
    pub line: Option<usize>,
    /// Such as `price 3 (openai/gpt-4o)`; empty if it is about the book as a whole.
    pub place: String,
    pub what: String,
}

/// Every mistake of a book that was refused, at most [`PROBLEMS_MAX`] of them in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBookError {
    pub problems: Vec<Problem>,
    /// Mistakes found beyond those told.
    pub more: usize,
}

/// Collects while a book is read.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
    more: usize,
}

// === impl PriceBookError ===

impl PriceBookError {
    pub(super) fn single(line: Option<usize>, what: String) -> Self {
        Self { problems: vec![Problem { line, place: String::new(), what }], more: 0 }
    }
}

impl std::error::Error for PriceBookError {}

impl fmt::Display for PriceBookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the price book is refused:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.place.is_empty()) {
            (Some(line), true) => write!(f, "line {line}: ")?,
            (Some(line), false) => write!(f, "line {line}, {}: ", self.place)?,
            (None, false) => write!(f, "{}: ", self.place)?,
            (None, true) => {}
        }
        f.write_str(&self.what)
    }
}

// === impl Problems ===

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new(), more: 0 }
    }

    /// `at` is an offset into the text.
    pub(super) fn add(&mut self, at: usize, place: &str, what: impl Into<String>) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        let line = Some(line_of(self.text, at));
        self.found.push(Problem { line, place: place.to_owned(), what: what.into() });
    }

    /// Whether a further problem would only be counted: then there is no need to put it into words.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    pub(super) fn line_of(&self, at: usize) -> usize {
        line_of(self.text, at)
    }

    pub(super) fn count(&self) -> usize {
        self.found.len() + self.more
    }

    pub(super) fn into_error(mut self) -> Option<PriceBookError> {
        self.found.sort_by_key(|problem| problem.line);
        (!self.found.is_empty()).then_some(PriceBookError { problems: self.found, more: self.more })
    }
}

/// The line, counted from 1, of an offset into `text`.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

/// `text` in quotes, cut where it is long, so that a message stays one readable line.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
