//! What a tenant can buy.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    #[schema(example = "standard")]
    pub id: String,
    /// Charge = cost × (1 + this / 100).
    #[schema(example = "20.00")]
    pub markup_percent: String,
    pub tight_budget: TightBudget,
    /// For keys that set none of their own.
    #[schema(example = 600)]
    pub requests_per_minute: Option<u32>,
    /// Input and output together, for keys that set none of their own.
    #[schema(example = 100000)]
    pub tokens_per_minute: Option<u64>,
    /// For keys that set none of their own.
    #[schema(example = 32)]
    pub parallel_requests: Option<u32>,
    /// US dollars held, and posted as bounded, for a model without a price; none refuses such a model.
    #[schema(example = "0.10")]
    pub unpriced_hold_usd: Option<String>,
}

/// The whole of a plan: what is left out goes back to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanSettings {
    /// A decimal percentage with at most two digits after the point. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "20.0")]
    pub markup_percent: Option<String>,
    /// Without it: `refuse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tight_budget: Option<TightBudget>,
    /// At least 1. Without it: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 600)]
    pub requests_per_minute: Option<u32>,
    /// Input and output together. At least 1. Without it: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 100000)]
    pub tokens_per_minute: Option<u64>,
    /// At least 1. Without it: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 32)]
    pub parallel_requests: Option<u32>,
    /// Without it a model without a price is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.10")]
    pub unpriced_hold_usd: Option<String>,
}

/// What to do when a budget affords less than the request may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TightBudget {
    Refuse,
    /// Shorten the answer (`max_tokens`) to what is affordable.
    Clamp,
}

// === impl TightBudget ===

impl TightBudget {
    pub const ALL: [Self; 2] = [Self::Refuse, Self::Clamp];

    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Clamp => "clamp",
        }
    }
}
