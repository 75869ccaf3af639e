//! Money per period, and its ceiling.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A cap and where the money under it stands in the period that runs now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Budget {
    pub scope: BudgetScope,
    /// Whose it is. None for the platform's and a plan's.
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    /// Set if the budget is a plan's, or each of its tenants'.
    pub plan: Option<String>,
    /// Set if the budget is a project's.
    pub project: Option<String>,
    /// Set if the budget is one key's.
    pub key: Option<String>,
    /// Set if the budget is one end user's: a keyed hash of the tenant's name for them.
    pub end_user: Option<String>,
    pub window: Window,
    pub basis: Basis,
    /// US dollars. None: nothing is refused.
    #[schema(example = "1.00")]
    pub cap_usd: Option<String>,
    #[schema(example = "1000000000000")]
    pub cap_picousd: Option<String>,
    /// What is posted beyond these alerts, and refuses nothing.
    pub alerts_picousd: Vec<String>,
    /// Spent, `bounded_picousd` included. In a budget that each tenant or each end user has, nothing: each counts its own.
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
    pub remaining_picousd: Option<String>,
    /// When the window begins anew, or a rolling one has room again; none if it never does.
    #[schema(example = "2026-11-24T00:00:00Z")]
    pub resets_at: Option<String>,
}

/// What is posted of a budget crossed one of its thresholds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetAlert {
    /// Whose. In a budget that each tenant or each end user has: that tenant's, or that end user's.
    pub scope: BudgetScope,
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    pub plan: Option<String>,
    pub project: Option<String>,
    pub key: Option<String>,
    pub end_user: Option<String>,
    pub window: Window,
    pub basis: Basis,
    #[schema(example = "800000000000")]
    pub threshold_picousd: String,
    /// What was posted when it was crossed.
    #[schema(example = "812345000000")]
    pub posted_picousd: String,
    #[schema(example = "2026-11-24T00:00:00Z")]
    pub at: String,
}

/// Whose spending a budget counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetScope {
    /// Everybody together.
    Platform,
    /// All tenants of a plan together.
    Plan,
    #[default]
    Tenant,
    Project,
    Key,
    EndUser,
    /// Each tenant of a plan for itself, unless it has a budget of its own for the same window and basis.
    EachTenant,
    /// Each end user of a tenant for itself, also those who are yet to come.
    EachEndUser,
}

/// Whose: name the tenant, and below it a project, a key or an end user; or a plan; or the platform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    #[param(example = "demo")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "main")]
    pub project: Option<String>,
    /// A key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The tenant's own name for one of its users, as it sends it in `x-tollgate-end-user`; or the id shown in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    /// All tenants of this plan together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// With a plan: each of its tenants for itself. With a tenant: each of its end users for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each: bool,
    /// Everybody together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub platform: bool,
}

/// Sets a cap, or thresholds that only alert, for the narrowest that is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetSetting {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "main")]
    pub project: Option<String>,
    /// A key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The tenant's own name for one of its users, as it sends it in `x-tollgate-end-user`; or the id shown in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    /// All tenants of this plan together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// With a plan: each of its tenants for itself. With a tenant: each of its end users for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each: bool,
    /// Everybody together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub platform: bool,
    pub window: Window,
    /// US dollars, a plain decimal of at most 12 digits after the point. Without it nothing is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1.00")]
    pub cap_usd: Option<String>,
    /// Thresholds that only alert: US dollars, or with `%` a part of the cap. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["80%", "0.95"]))]
    pub alerts: Vec<String>,
    /// Without it: `cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
}

/// Names one budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BudgetSelector {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "demo")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// A key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The tenant's own name for one of its users, or the id shown in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub platform: bool,
    #[param(inline)]
    pub window: Window,
    /// Without it: `cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub basis: Option<Basis>,
}

/// How long a budget lasts. Calendar windows are those of the tenant's time zone; rolling ones count the time that has just
/// passed, in twelve parts of which the oldest counts whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// Bounds what a single request may hold.
    Request,
    Minute,
    Hour,
    #[default]
    Day,
    /// From Monday.
    Week,
    Month,
    Lifetime,
    RollingMinute,
    RollingHour,
    RollingDay,
    RollingWeek,
    /// 30 days.
    RollingMonth,
}

/// Which money column a cap counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// What the work costs us.
    #[default]
    Cost,
    /// What the tenant is charged for it.
    Charge,
}

// === impl BudgetScope ===

impl BudgetScope {
    pub const ALL: [Self; 8] = [
        Self::Platform,
        Self::Plan,
        Self::Tenant,
        Self::Project,
        Self::Key,
        Self::EndUser,
        Self::EachTenant,
        Self::EachEndUser,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Plan => "plan",
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Key => "key",
            Self::EndUser => "end-user",
            Self::EachTenant => "each-tenant",
            Self::EachEndUser => "each-end-user",
        }
    }
}

// === impl BudgetSetting, BudgetSelector ===

impl BudgetSetting {
    pub fn whose(&self) -> Whose {
        let Self { tenant, project, key, end_user, plan, each, platform, .. } = self.clone();
        Whose { tenant, project, key, end_user, plan, each, platform }
    }
}

impl BudgetSelector {
    pub fn whose(&self) -> Whose {
        let Self { tenant, project, key, end_user, plan, each, platform, .. } = self.clone();
        Whose { tenant, project, key, end_user, plan, each, platform }
    }
}

// === impl Window ===

impl Window {
    pub const ALL: [Self; 12] = [
        Self::Request,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Lifetime,
        Self::RollingMinute,
        Self::RollingHour,
        Self::RollingDay,
        Self::RollingWeek,
        Self::RollingMonth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Lifetime => "lifetime",
            Self::RollingMinute => "rolling-minute",
            Self::RollingHour => "rolling-hour",
            Self::RollingDay => "rolling-day",
            Self::RollingWeek => "rolling-week",
            Self::RollingMonth => "rolling-month",
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
