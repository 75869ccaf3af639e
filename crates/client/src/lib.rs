//! The public wire types of the control plane and of runs, and clients over them. Depends on no other crate of ours: what is
//! written here is what a stranger's program can rely on.
//!
//! Money is text: `*_usd` is a decimal amount of US dollars (`"1.50"`), `*_picousd` a decimal integer of picodollars
//! (1e-12 USD). Times are RFC 3339 in UTC. Requests with a field we do not know are refused; answers may gain fields.
//!
//! Without the feature `http` only the types remain.

mod access;
#[cfg(feature = "http")]
mod admin;
mod audit;
mod bill;
mod budget;
mod error;
mod key;
mod ledger;
mod limit;
mod plan;
mod policy;
mod price;
mod receipt;
mod reconciliation;
mod route;
mod run;
mod tenant;
#[cfg(feature = "http")]
mod tenant_client;
mod usage;

pub use access::{
    Approval, ApprovalState, BreakGlass, CreatedServiceKey, Decision, Grant, Me, NewServiceKey, Role, ServiceKey,
    Session, SessionsOf, Somebody,
};
#[cfg(feature = "http")]
pub use admin::{AdminClient, ClientError};
pub use audit::{AuditCheckpoint, AuditExport, AuditFormat, AuditPage, AuditProof, AuditQuery, AuditSince};
pub use bill::{Bill, BillAdjustment, BillLine, BillQuery};
pub use budget::{Basis, Budget, BudgetAlert, BudgetScope, BudgetSelector, BudgetSetting, Whose, Window};
pub use error::{ErrorBody, ErrorDetail};
pub use key::{CreatedKey, Key, KeyScope, NewKey};
pub use ledger::LedgerState;
pub use limit::{Limit, LimitSetting};
pub use plan::{MarkupTier, Plan, PlanSettings, Tariff, TightBudget};
pub use policy::{DecisionQuery, Policy, PolicyDecision, PolicyOf};
pub use price::{CorrectedTenant, Correction, NewCorrection, PriceBookInfo};
pub use receipt::{
    Receipt, ReceiptAdjustment, ReceiptAmounts, ReceiptHold, ReceiptIdempotency, ReceiptKey, ReceiptKeys,
    ReceiptPrices, ReceiptStanding, ReceiptStatement, ReceiptTokens,
};
pub use reconciliation::{
    BilledRequest, BucketPart, Finding, FindingKind, LedgerBucket, LedgerBucketsQuery, Reconciliation,
    ReconciliationPart,
};
pub use route::{FallbackInfo, ProviderInfo, RouteInfo};
pub use run::{NewRun, Run, RunCachedTokens, RunLabel, RunResult, RunUsage};
pub use tenant::{NewProject, NewTenant, Project, Tenant, TenantSettings};
#[cfg(feature = "http")]
pub use tenant_client::TenantClient;
pub use usage::{Confidence, SummaryBy, SummaryQuery, UsageEvent, UsagePage, UsageQuery, UsageState, UsageSummary};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every collection comes in one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    pub data: Vec<T>,
}

#[cfg(test)]
mod tests;
