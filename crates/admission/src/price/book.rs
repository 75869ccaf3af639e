//! A price book: prices with their periods and where each was read. What a book may say is held by [`super::read`].

use std::fmt;
use std::sync::Arc;

use tollgate_types::Timestamp;
use toml::de::DeTable;

use super::problem::{PriceBookError, Problems, line_of};
use super::rate::Rate;
use super::{BOOK_BYTES_MAX, overlap, read};

/// A checked book. Its version and its content belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBook {
    pub(super) version: Arc<str>,
    pub(super) sha256: [u8; 32],
    pub(super) prices: Vec<Price>,
}

/// The price of one model at one provider during one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The provider preset's name.
    pub provider: Box<str>,
    pub model: Box<str>,
    /// Other names of the same model at the provider.
    pub aliases: Vec<Box<str>>,
    pub effective_from: Timestamp,
    /// Exclusive; `None`: until further notice.
    pub effective_to: Option<Timestamp>,
    /// Where the price was read.
    pub source: Arc<str>,
    /// The day it was read there, such as `2026-11-23`.
    pub checked_at: Arc<str>,
    pub rate: Rate,
}

// === impl PriceBook ===

impl PriceBook {
    /// Reads and checks a book. A book with any mistake is refused as a whole, and every mistake is told.
    pub fn parse(text: &str) -> Result<Self, PriceBookError> {
        if text.len() > BOOK_BYTES_MAX {
            let what = format!("it has {} bytes, more than the {BOOK_BYTES_MAX} a book may have: split it", text.len());
            return Err(PriceBookError::single(None, what));
        }
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| line_of(text, span.start));
            PriceBookError::single(line, format!("not TOML: {}", error.message()))
        })?;
        let mut problems = Problems::new(text);
        let draft = read::book(table.get_ref(), &mut problems);
        overlap::find(&draft.claims, &mut problems);
        if let Some(error) = problems.into_error() {
            return Err(error);
        }
        Ok(Self { version: draft.version, sha256: sha256(text), prices: draft.prices })
    }

    /// The book's own name for itself.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Of the book's text.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// [`PriceBook::sha256`] in hex.
    pub fn fingerprint(&self) -> String {
        tollgate_types::hex(&self.sha256)
    }

    /// In the order of the book.
    pub fn prices(&self) -> &[Price] {
        &self.prices
    }
}

// === impl Price ===

impl Price {
    /// The model's name and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.model).chain(self.aliases.iter().map(|alias| &**alias))
    }
}

/// `openai/gpt-4o`
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
