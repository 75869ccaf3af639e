//! What a unit of work costs us, by date: price books, the rate in force, and the arithmetic.
//!
//! Pure: no IO, no clock, no float. Files are read by whoever has them; a book arrives here as its text. The format and its
//! rules are told in `docs/pricebook.md`. What a request may use at most, what it did use, and what a tenant is charged for it
//! (`tollgate_types::tariff`) is decided elsewhere.

#![deny(clippy::float_arithmetic)]

mod book;
mod books;
mod correction;
mod fields;
mod overlap;
mod problem;
mod rate;
mod read;
#[cfg(test)]
mod tests;

pub use book::{Price, PriceBook};
pub use books::{PriceBooks, PriceBooksError, Rated};
pub use correction::{Rerated, recharged, rerated};
pub use problem::{PriceBookError, Problem};
pub use rate::{Priced, Prices, Rate, RateError, Tier};

/// The book that comes with the program. A test holds that it parses.
pub const SHIPPED: &str = include_str!("../../../pricebook/2026-11.toml");

/// A longer book is refused unread: our own has 44 KiB.
pub const BOOK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The largest public table of prices has some 4,200 entries.
pub const PRICES_MAX: usize = 10_000;
pub const ALIASES_MAX: usize = 64;
/// The shipped book needs one.
pub const TIERS_MAX: usize = 3;
/// Bytes of a provider's, a model's or a version's name.
pub const NAME_BYTES_MAX: usize = 256;
/// Of a book's mistakes so many are told; of the others only how many there are.
pub const PROBLEMS_MAX: usize = 200;
