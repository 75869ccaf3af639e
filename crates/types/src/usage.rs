//! What a request consumed, and how sure we are.

use serde::{Deserialize, Serialize};

/// Tokens of one request, and the CPU time of what was done for it here. The details are subsets: cached, written to the
/// cache and audio of the input; reasoning and audio of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    /// What the provider says it wrote to its cache. `None` where it does not say: that is not the same as nothing.
    pub cache_write_tokens: Option<u64>,
    pub audio_input_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub audio_output_tokens: u64,
    /// Microseconds of CPU that a local runtime spent on it; 0 where a provider did the work.
    pub cpu_us: u64,
}

/// Whether an amount is the provider's own figure or our upper bound of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    Measured,
    Bounded,
}

/// How a request ended, as its usage event tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered in full, usage known.
    Completed,
    /// Answered in full, but the provider sent no usable usage.
    UsageMissing,
    /// The caller left before the answer ended.
    ClientGone,
    /// The provider's answer broke off, or never came, after the request had reached it.
    ProviderBroke,
    /// The provider refused the request before doing any work.
    ProviderRefused,
    /// The provider could not be reached: no work was done.
    NotSent,
    /// The process died; the outcome is unknown.
    Unknown,
    /// The reservation passed its deadline and was swept.
    Expired,
    /// The provider went on beyond what was held for; the answer was ended there.
    CutAtHold,
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

// === impl Outcome ===

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::UsageMissing => "usage_missing",
            Self::ClientGone => "client_gone",
            Self::ProviderBroke => "provider_broke",
            Self::ProviderRefused => "provider_refused",
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::CutAtHold => "cut_at_hold",
        }
    }
}
