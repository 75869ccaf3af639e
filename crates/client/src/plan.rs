//! What a tenant can buy.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    #[schema(example = "standard")]
    pub id: String,
    /// Charge = cost × (1 + this / 100), up to the first tier.
    #[schema(example = "20.00")]
    pub markup_percent: String,
    /// US dollars of a month's cost that are not charged.
    #[schema(example = "10.00")]
    pub included_usd: String,
    /// Other mark-ups for what a month's cost exceeds, ascending.
    pub markup_tiers: Vec<MarkupTier>,
    /// US dollars that a month's bill is at least.
    #[schema(example = "50.00")]
    pub monthly_minimum_usd: String,
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
    /// US dollars held, and posted as bounded, for a request with no bound on its cost; none refuses such a request.
    #[schema(example = "0.50")]
    pub unbounded_hold_usd: Option<String>,
    /// Whether raising a cap of whoever is on it needs a second human.
    pub second_human: bool,
    /// Days that audit entries are kept; none means for ever.
    #[schema(example = 400)]
    pub audit_days: Option<u32>,
    /// How much of the local runtimes each tenant on it has, beside others who wait.
    pub share: u32,
}

/// From what work costs us to what a tenant pays for it, over a calendar month by the tenant's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tariff {
    /// A decimal percentage with at most two digits after the point. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "20.0")]
    pub markup_percent: Option<String>,
    /// US dollars of a month's cost that are not charged. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.00")]
    pub included_usd: Option<String>,
    /// Other mark-ups for what a month's cost exceeds: each part of the month's cost has the mark-up of its own tier. At
    /// most 16, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub markup_tiers: Vec<MarkupTier>,
    /// US dollars that a month's bill is at least. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "50.00")]
    pub monthly_minimum_usd: Option<String>,
}

/// The mark-up of what a month's cost exceeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkupTier {
    /// US dollars of a month's cost.
    #[schema(example = "1000.00")]
    pub above_usd: String,
    #[schema(example = "15.00")]
    pub markup_percent: String,
}

/// The whole of a plan: what is left out goes back to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanSettings {
    /// A decimal percentage with at most two digits after the point. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "20.0")]
    pub markup_percent: Option<String>,
    /// US dollars of a month's cost that are not charged. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.00")]
    pub included_usd: Option<String>,
    /// Other mark-ups for what a month's cost exceeds: each part of the month's cost has the mark-up of its own tier. At
    /// most 16, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub markup_tiers: Vec<MarkupTier>,
    /// US dollars that a month's bill is at least. Without it: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "50.00")]
    pub monthly_minimum_usd: Option<String>,
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
    /// Without it a request with no bound on its cost is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.50")]
    pub unbounded_hold_usd: Option<String>,
    /// Raising a cap of whoever is on it needs a second human; so does giving this up. Without it: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub second_human: bool,
    /// Audit entries of whoever is on it are kept for so many days; at least 1. Without it: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 400)]
    pub audit_days: Option<u32>,
    /// How much of the local runtimes each tenant on it has, beside others who wait: from 1 to 1,000. Without it: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 4)]
    pub share: Option<u32>,
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
