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

/// Asks to re-rate what was posted in a span by a corrected book, a page at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCorrection {
    /// The corrected book, in TOML, under a version of its own. It comes into force, over those there are.
    pub book: String,
    /// Requests begun at this time or later, in RFC 3339.
    #[schema(example = "2026-11-01T00:00:00Z")]
    pub from: String,
    /// Requests begun before this time, in RFC 3339.
    #[schema(example = "2026-12-01T00:00:00Z")]
    pub to: String,
    /// Without it: all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    /// Say what would be done and do nothing: neither is the book put into force.
    #[serde(default)]
    pub dry_run: bool,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What a page of a correction came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Correction {
    /// Of the corrected book.
    #[schema(example = "2026-11.corrected")]
    pub version: String,
    pub dry_run: bool,
    /// Posted requests that were looked at.
    pub examined: u64,
    /// By tenant, where there was anything to say.
    pub tenants: Vec<CorrectedTenant>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// What a correction came to for one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorrectedTenant {
    #[schema(example = "demo")]
    pub tenant: String,
    /// Adjustment entries, one a request whose amounts differ.
    pub adjusted: u64,
    /// Requests the corrected book speaks of that were posted at a fixed amount or in full, with no usage to re-rate by:
    /// they stay as they are.
    pub left: u64,
    /// By how much more, or less where it is negative. Before caps, if nothing was done.
    #[schema(example = "-12345000")]
    pub cost_difference_picousd: String,
    #[schema(example = "-14814000")]
    pub charge_difference_picousd: String,
    /// The part of what is more that no cap had room for, and of what was the platform's loss before.
    #[schema(example = "0")]
    pub overrun_difference_picousd: String,
}
