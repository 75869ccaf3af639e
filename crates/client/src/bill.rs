//! What a tenant owes for a month.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Whose bill, and for which month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BillQuery {
    #[param(example = "demo")]
    pub tenant: String,
    /// By the tenant's calendar.
    #[param(example = "2026-11")]
    pub month: String,
}

/// A month's bill. Its total is exactly the sum of its lines' charges, its adjustments' charges and its minimum top-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bill {
    #[schema(example = "demo")]
    pub tenant: String,
    #[schema(example = "2026-11")]
    pub month: String,
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// The month's first moment.
    #[schema(example = "2026-10-31T23:00:00Z")]
    pub from: String,
    /// The next month's.
    #[schema(example = "2026-11-30T23:00:00Z")]
    pub to: String,
    /// The month is over and none of its requests is under way or in doubt: only later months' adjustments are to come.
    pub complete: bool,
    /// What the month's requests came to when they were posted, one line a model.
    pub lines: Vec<BillLine>,
    /// Made in this month, of requests of this or an earlier one.
    pub adjustments: Vec<BillAdjustment>,
    /// Requests that have not ended; they are in no line yet.
    pub open_requests: u64,
    /// What the month cost us: its lines, and the adjustments of its own requests made in it.
    #[schema(example = "60000000000000")]
    pub cost_picousd: String,
    /// So much of a month's cost the present terms include.
    #[schema(example = "10000000000000")]
    pub included_picousd: String,
    /// What of it was used.
    #[schema(example = "10000000000000")]
    pub included_used_picousd: String,
    /// The charge of all lines.
    #[schema(example = "60000000000000")]
    pub usage_picousd: String,
    /// The charge of all adjustments; negative where it is a credit.
    #[schema(example = "0")]
    pub adjustments_picousd: String,
    /// A month is at least this by the present terms.
    #[schema(example = "50000000000000")]
    pub monthly_minimum_picousd: String,
    /// What the month's own usage, with the adjustments of it made in it, falls short of that.
    #[schema(example = "0")]
    pub minimum_top_up_picousd: String,
    #[schema(example = "60000000000000")]
    pub total_picousd: String,
}

/// The month's requests of one model at its provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BillLine {
    #[schema(example = "openai/gpt-4o-mini")]
    pub model: String,
    /// Posted ones.
    pub requests: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    /// Of those requests whose provider said so.
    pub cache_write_tokens: u64,
    pub audio_input_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub audio_output_tokens: u64,
    /// Microseconds of CPU of local runtimes.
    #[serde(default)]
    pub cpu_us: u64,
    #[schema(example = "12345000")]
    pub cost_picousd: String,
    #[schema(example = "14814000")]
    pub charge_picousd: String,
}

/// What was found out later of one month's requests of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BillAdjustment {
    /// Of the requests.
    #[schema(example = "2026-10")]
    pub month: String,
    /// `repriced`: the price in force then was corrected. `reconciled`: by the provider's own report. Others may be added.
    #[schema(example = "repriced")]
    pub reason: String,
    #[schema(example = "openai/gpt-4o-mini")]
    pub model: String,
    pub entries: u64,
    /// By how much more, or less where it is negative.
    #[schema(example = "-12345000")]
    pub cost_picousd: String,
    #[schema(example = "-14814000")]
    pub charge_picousd: String,
}
