//! How fast, and how much at once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{BudgetScope, Whose};

/// The limits of one scope. What is none is not limited there; every scope of a request has to let it in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    pub scope: BudgetScope,
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    pub plan: Option<String>,
    pub project: Option<String>,
    pub key: Option<String>,
    /// A keyed hash of the tenant's name for them.
    pub end_user: Option<String>,
    #[schema(example = 600)]
    pub requests_per_minute: Option<u32>,
    /// Input and output together; the estimate counts until the usage is known.
    #[schema(example = 100_000)]
    pub tokens_per_minute: Option<u64>,
    #[schema(example = 32)]
    pub parallel_requests: Option<u32>,
}

/// Limits for the narrowest that is named: all three, what is left out is not limited any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSetting {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// A key's id. These limits go before those that the key was made with.
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
    /// At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 600)]
    pub requests_per_minute: Option<u32>,
    /// Input and output together. At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 100_000)]
    pub tokens_per_minute: Option<u64>,
    /// At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 32)]
    pub parallel_requests: Option<u32>,
}

// === impl LimitSetting ===

impl LimitSetting {
    pub fn whose(&self) -> Whose {
        let Self { tenant, project, key, end_user, plan, each, platform, .. } = self.clone();
        Whose { tenant, project, key, end_user, plan, each, platform }
    }
}
