//! The kinds of entries, as their `kind` names them. What is done at the control plane is `act.` and its phase.

pub const ADMITTED: &str = "request.admitted";
pub const EXTENDED: &str = "request.extended";
pub const INDETERMINATE: &str = "request.indeterminate";
pub const POSTED: &str = "request.posted";
pub const VOIDED: &str = "request.voided";
pub const ADJUSTED: &str = "request.adjusted";
pub const BUDGET_SET: &str = "budget.set";
pub const PRICES_SET: &str = "prices.set";
pub const PLAN_SET: &str = "plan.set";
pub const TENANT_CREATED: &str = "tenant.created";
pub const TENANT_CHANGED: &str = "tenant.changed";
pub const PROJECT_CREATED: &str = "project.created";
pub const KEY_CREATED: &str = "key.created";
pub const KEY_REVOKED: &str = "key.revoked";
pub const LIMITS_SET: &str = "limits.set";
pub const POLICY_SET: &str = "policy.set";
pub const SERVICE_KEY_CREATED: &str = "service_key.created";
pub const SERVICE_KEY_REVOKED: &str = "service_key.revoked";
pub const APPROVAL_ASKED: &str = "approval.asked";
pub const APPROVAL_DECIDED: &str = "approval.decided";
pub const APPROVAL_USED: &str = "approval.used";
pub const OVERSIGHT_SET: &str = "oversight.set";
pub const SHARE_SET: &str = "share.set";
/// What the acts' kinds begin with.
pub const ACT: &str = "act.";
