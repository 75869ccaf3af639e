//! Price books: what a unit of work costs, by date.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A price book in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PriceBookInfo {
    /// Stands on every usage event priced by it.
    #[schema(example = "2026-11-20")]
    pub version: String,
    /// Of the book's bytes, in hex.
    pub sha256: String,
    /// How many prices it holds.
    #[schema(example = 120)]
    pub prices: u64,
    /// Where it came from: `shipped` with the program, `configured` (a file), or `pushed`.
    #[schema(example = "shipped")]
    pub origin: String,
}
