//! Money per period, and its ceiling.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A cap and where the money under it stands in the period that runs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Budget {
    #[schema(example = "demo")]
    pub tenant: String,
    /// Set if the budget is a project's.
    pub project: Option<String>,
    /// Set if the budget is one key's.
    pub key: Option<String>,
    pub window: Window,
    pub basis: Basis,
    /// US dollars.
    #[schema(example = "1.00")]
    pub cap_usd: String,
    #[schema(example = "1000000000000")]
    pub cap_picousd: String,
    /// Spent, `bounded_picousd` included.
    #[schema(example = "12345000")]
    pub posted_picousd: String,
    /// The part of what is spent that is an upper bound, not a measurement.
    #[schema(example = "0")]
    pub bounded_picousd: String,
    /// Held by requests that run.
    #[schema(example = "0")]
    pub pending_picousd: String,
    /// Held by requests whose end a crash hid.
    #[schema(example = "0")]
    pub indeterminate_picousd: String,
    /// The cap less posted, pending and indeterminate. Negative if the cap was lowered below them.
    #[schema(example = "999987655000")]
    pub remaining_picousd: String,
    /// When the window begins anew; none if it never does.
    #[schema(example = "2026-11-24T00:00:00Z")]
    pub resets_at: Option<String>,
}

/// Sets a cap for the narrowest of tenant, project and key that is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetSetting {
    #[schema(example = "demo")]
    pub tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "main")]
    pub project: Option<String>,
    /// A key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub window: Window,
    /// US dollars, a plain decimal of at most 12 digits after the point.
    #[schema(example = "1.00")]
    pub cap_usd: String,
    /// Without it: `cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
}

/// Names one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BudgetSelector {
    #[param(example = "demo")]
    pub tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// A key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[param(inline)]
    pub window: Window,
    /// Without it: `cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub basis: Option<Basis>,
}

/// How long a budget lasts. Days and months are those of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// Bounds what a single request may hold.
    Request,
    Day,
    Month,
    Lifetime,
}

/// Which money column a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// What the work costs us.
    Cost,
    /// What the tenant is charged for it.
    Charge,
}

// === impl Window ===

impl Window {
    pub const ALL: [Self; 4] = [Self::Request, Self::Day, Self::Month, Self::Lifetime];

    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Day => "day",
            Self::Month => "month",
            Self::Lifetime => "lifetime",
        }
    }
}

// === impl Basis ===

impl Basis {
    pub const ALL: [Self; 2] = [Self::Cost, Self::Charge];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Charge => "charge",
        }
    }
}
