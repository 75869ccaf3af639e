//! Policy bundles: whose they are, and what is in force.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// Whose policy: of the platform, a plan or a tenant; name one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PolicyOf {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    #[param(example = "demo")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub platform: bool,
}

/// A bundle that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// `platform`, `plan` or `tenant`.
    #[schema(example = "tenant")]
    pub layer: String,
    pub tenant: Option<String>,
    pub plan: Option<String>,
    /// What its author calls it. Free text, and not its identity.
    pub revision: String,
    /// Of the bundle's archive.
    pub sha256: String,
    /// Of all that its decisions can read: what changes nothing in them changes nothing here.
    #[schema(example = "pf_0123456789abcdef0123456789abcdef")]
    pub fingerprint: String,
    /// The fields of the request that its decisions read.
    pub reads: Vec<String>,
    pub set_at: String,
    /// How many bundles before this one it can be rolled back to.
    pub earlier: u64,
}

/// Which decisions: all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DecisionQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// At most so many; 100 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// What the policies said of one request. Kept in memory only, of the last few thousand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyDecision {
    pub request_id: String,
    pub at: String,
    pub tenant: String,
    pub plan: String,
    pub allowed: bool,
    /// Whose bundle refused it: `platform`, `plan` or `tenant`.
    pub layer: Option<String>,
    pub reason: Option<String>,
    /// What the policies were asked; see docs/policy.md.
    pub input: Value,
}
