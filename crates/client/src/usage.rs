//! Measured work: one event a request, and sums over them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One request, as the books tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageEvent {
    #[schema(example = "req_019ab0f2c3d4000000000000deadbeef")]
    pub request_id: String,
    #[schema(example = "demo")]
    pub tenant: String,
    #[schema(example = "default")]
    pub project: String,
    /// The key's id.
    pub key: String,
    /// The name asked for.
    #[schema(example = "gpt-4o-mini")]
    pub route: String,
    /// The model's name at the provider.
    #[schema(example = "gpt-4o-mini")]
    pub model: String,
    #[schema(example = "openai")]
    pub provider: String,
    pub stream: bool,
    pub started_at: String,
    /// None while the request runs or its end is unknown.
    pub ended_at: Option<String>,
    pub state: UsageState,
    /// None until posted.
    pub confidence: Option<Confidence>,
    /// Of them `cached_input_tokens` were cached.
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    /// Of the input, what was written to the provider's cache; none where the provider did not say.
    pub cache_write_tokens: Option<u64>,
    /// Of the input, what was sound.
    pub audio_input_tokens: u64,
    /// Of them `reasoning_tokens` were hidden reasoning, and `audio_output_tokens` sound.
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub audio_output_tokens: u64,
    /// Microseconds of CPU that a local runtime spent on it; 0 where a provider did the work.
    #[serde(default)]
    pub cpu_us: u64,
    /// What was set aside for the request.
    #[schema(example = "614400000")]
    pub hold_cost_picousd: String,
    /// What it cost us; `0` until posted.
    #[schema(example = "12345000")]
    pub cost_picousd: String,
    /// What the tenant is charged for it; `0` until posted.
    #[schema(example = "14814000")]
    pub charge_picousd: String,
    /// What the provider billed beyond what was set aside: our loss, not the tenant's.
    #[schema(example = "0")]
    pub overrun_picousd: String,
    /// The price book it was priced by.
    #[schema(example = "2026-11-20")]
    pub price_version: String,
    /// How often its amounts were adjusted after it was posted; they are what stands now.
    pub adjustments: u32,
    /// How it ended: `completed`, `usage_missing`, `client_gone`, `provider_broke`, `provider_refused`, `not_sent`,
    /// `unknown`, `expired`, `cut_at_hold`; others may be added. None while it runs.
    #[schema(example = "completed")]
    pub outcome: Option<String>,
}

/// Where a request's money is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UsageState {
    /// Spent.
    Posted,
    /// Given back: no work was done.
    Voided,
    /// Held while the work runs.
    Pending,
    /// Held, because a crash hid how the work ended.
    Indeterminate,
}

/// How sure an amount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The provider's own figure.
    Measured,
    /// Our upper bound of it.
    Bounded,
}

/// Usage events in the order in which they began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsagePage {
    pub data: Vec<UsageEvent>,
    /// Give it as `after` for the next page; none on the last.
    pub next: Option<String>,
}

/// Which usage events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Without it: all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "demo")]
    pub tenant: Option<String>,
    /// Started at this time or later, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "2026-11-23T00:00:00Z")]
    pub from: Option<String>,
    /// Started before this time, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "2026-11-24T00:00:00Z")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<UsageState>,
    /// Events a page, 1 to 1000. Without it: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = 100)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What was spent by one tenant, project or key, on one model, or on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageSummary {
    /// `demo`, `demo/main`, `demo/k1`, `openai/gpt-4o-mini` or `2026-12-31`, as was asked for.
    #[schema(example = "openai/gpt-4o-mini")]
    pub group: String,
    /// Of requests in every state.
    pub requests: u64,
    /// Given back: no work was done.
    pub voided: u64,
    /// Under way, or their end hidden by a crash.
    pub open: u64,
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
    /// The part of the cost that is an upper bound, not a measurement.
    #[schema(example = "0")]
    pub bounded_picousd: String,
    #[schema(example = "14814000")]
    pub charge_picousd: String,
    /// Held by what is open.
    #[schema(example = "0")]
    pub held_picousd: String,
    #[schema(example = "0")]
    pub overrun_picousd: String,
}

/// Whose spending is to be summed, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SummaryQuery {
    /// Without it: all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "demo")]
    pub tenant: Option<String>,
    /// Without it: `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub by: Option<SummaryBy>,
    /// Started at this time or later, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "2026-11-23T00:00:00Z")]
    pub from: Option<String>,
    /// Started before this time, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "2026-11-24T00:00:00Z")]
    pub to: Option<String>,
}

/// What a summary has one row for each of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SummaryBy {
    Tenant,
    Project,
    Key,
    /// The model at its provider.
    Model,
    /// The day, in UTC, on which the request began.
    Day,
}

// === impl UsageState ===

impl UsageState {
    pub const ALL: [Self; 4] = [Self::Posted, Self::Voided, Self::Pending, Self::Indeterminate];

    pub fn name(self) -> &'static str {
        match self {
            Self::Posted => "posted",
            Self::Voided => "voided",
            Self::Pending => "pending",
            Self::Indeterminate => "indeterminate",
        }
    }
}

// === impl SummaryBy ===

impl SummaryBy {
    pub const ALL: [Self; 5] = [Self::Tenant, Self::Project, Self::Key, Self::Model, Self::Day];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Key => "key",
            Self::Model => "model",
            Self::Day => "day",
        }
    }
}

// === impl Confidence ===

impl Confidence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Bounded => "bounded",
        }
    }
}
