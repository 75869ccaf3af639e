//! The ledger against what a provider says it billed: request by request, or bucket by bucket.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Confidence;

/// A piece of a provider's bill, to be held against the ledger. A long bill is sent in pieces, in the order of its ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reconciliation {
    /// Providers, as the configuration names them, whose bill it is. None named: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["openai"]))]
    pub providers: Vec<String>,
    /// The piece is of requests whose ids come after this one. Without it: from the first request on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The piece is of requests up to and with this id. Without it: to the last request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
    /// A request is missing from the bill only if it began at this time or later, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-23T00:00:00Z")]
    pub from: Option<String>,
    /// A request is missing from the bill only if it began before this time, in RFC 3339; not in the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-24T00:00:00Z")]
    pub to: Option<String>,
    /// What the provider billed, one entry a request, ids ascending; at most 1000.
    pub billed: Vec<BilledRequest>,
    /// The bill holds whatever began from `from` to `to`: what is missing from it and bounded or indeterminate in the
    /// ledger was never billed. Needs `from`, `to` and `providers`.
    #[serde(default)]
    pub complete: bool,
    /// Write what the bill says into the ledger. Without it nothing is changed.
    #[serde(default)]
    pub apply: bool,
}

/// What a provider billed for one request, all its attempts together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BilledRequest {
    #[schema(example = "req_019ab0f2c3d4000000000000deadbeef")]
    pub request_id: String,
    /// Without it the tokens are priced as the request was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "12345000")]
    pub cost_picousd: Option<String>,
    /// Cached and audio tokens are among them.
    pub input_tokens: u64,
    #[serde(default)]
    pub cached_input_tokens: u64,
    #[serde(default)]
    pub audio_input_tokens: u64,
    /// Reasoning and audio tokens are among them.
    #[serde(default)]
    pub output_tokens: u64,
    #[serde(default)]
    pub reasoning_tokens: u64,
    #[serde(default)]
    pub audio_output_tokens: u64,
}

/// What came of a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReconciliationPart {
    /// Requests that were found to agree.
    pub matched: u64,
    /// What they cost, in the ledger and on the bill.
    #[schema(example = "12345000")]
    pub matched_picousd: String,
    /// Everything else, request by request.
    pub findings: Vec<Finding>,
    /// The piece was too long: it was looked at up to this id. Send the rest of it with this as `after`.
    pub next: Option<String>,
}

/// A request of which ledger and bill do not say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    #[schema(example = "req_019ab0f2c3d4000000000000deadbeef")]
    pub request_id: String,
    pub kind: FindingKind,
    /// The ledger says now what the bill says.
    pub corrected: bool,
    /// None of a request that the ledger does not know; so are the next two.
    pub tenant: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    /// What the ledger said: cost, with what was beyond the hold.
    #[schema(example = "614400000")]
    pub ledger_picousd: String,
    /// None if it is not on the bill, or has no price.
    #[schema(example = "12345000")]
    pub provider_picousd: Option<String>,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Measured, and the bill measures otherwise.
    Different,
    /// The ledger has an upper bound, the bill has the figure.
    Bounded,
    /// In doubt since a crash, and the bill has the figure.
    Indeterminate,
    /// The ledger gave everything back, and the provider billed it all the same: the platform's loss.
    Voided,
    /// The ledger has it, the bill has not.
    Missing,
    /// The bill has it, the ledger has not.
    Unknown,
    /// The bill has it; in the ledger it ended at a provider whose bill this is not.
    Elsewhere,
    /// The bill says no cost, and there is no price to make one of its tokens.
    Unpriced,
    /// Under way: ask again later.
    Running,
}

/// Which buckets of ended requests are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LedgerBucketsQuery {
    /// The beginning of the first bucket, in RFC 3339.
    #[param(example = "2026-11-23T00:00:00Z")]
    pub from: String,
    /// The end of the last bucket, in RFC 3339.
    #[param(example = "2026-11-24T00:00:00Z")]
    pub to: String,
    #[param(example = 3600)]
    pub width_seconds: u32,
    /// What ended so close to an edge of its bucket is told apart. Less than half of the width; without it: 0.
    #[serde(default)]
    pub slack_seconds: u32,
}

/// Requests that ended in one part of one bucket of time, at one provider, with one model. The buckets before the first
/// and after the last are there too, if there is slack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerBucket {
    #[schema(example = "2026-11-23T00:00:00Z")]
    pub start: String,
    pub part: BucketPart,
    #[schema(example = "openai")]
    pub provider: String,
    #[schema(example = "gpt-4o-mini")]
    pub model: String,
    pub confidence: Confidence,
    /// Requests that used anything.
    pub requests: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub audio_input_tokens: u64,
    pub output_tokens: u64,
    pub audio_output_tokens: u64,
    /// With what was beyond the holds.
    #[schema(example = "12345000")]
    pub cost_picousd: String,
}

/// Where in its bucket a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BucketPart {
    /// Within the slack behind its beginning.
    Head,
    Middle,
    /// Within the slack before its end.
    Tail,
}

// === impl FindingKind ===

impl FindingKind {
    pub const ALL: [Self; 9] = [
        Self::Different,
        Self::Bounded,
        Self::Indeterminate,
        Self::Voided,
        Self::Missing,
        Self::Unknown,
        Self::Elsewhere,
        Self::Unpriced,
        Self::Running,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::Bounded => "bounded",
            Self::Indeterminate => "indeterminate",
            Self::Voided => "voided",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Elsewhere => "elsewhere",
            Self::Unpriced => "unpriced",
            Self::Running => "running",
        }
    }
}
