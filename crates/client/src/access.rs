//! Who operates a gateway: service keys, sessions of people, and what a second human must agree to.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What somebody may do at the control plane: see docs/access.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    PlatformAdmin,
    TenantAdmin,
    Billing,
    Auditor,
    Developer,
}

/// A role, of one tenant or of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    pub role: Role,
    /// None: the operator's, over all tenants.
    #[schema(example = "demo")]
    pub tenant: Option<String>,
}

/// A machine's key to the control plane, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceKey {
    /// Names the key; gives no access.
    #[schema(example = "s3f9c1d2e4a5b6078")]
    pub id: String,
    pub role: Role,
    /// None: the operator's, over all tenants.
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    #[schema(example = "invoices")]
    pub name: Option<String>,
    #[schema(example = "2026-11-23T05:00:00Z")]
    pub created_at: String,
    #[schema(example = "2027-02-23T05:00:00Z")]
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewServiceKey {
    pub role: Role,
    /// Without it the key is the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    /// What it is for; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "invoices")]
    pub name: Option<String>,
    /// RFC 3339. Without it the key does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2027-02-23T05:00:00Z")]
    pub expires_at: Option<String>,
}

/// A new service key, with the secret that is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedServiceKey {
    #[serde(flatten)]
    pub info: ServiceKey,
    /// The key itself: `Authorization: Bearer tgs_...`. It cannot be had again.
    #[schema(example = "tgs_s3f9c1d2e4a5b6078_...")]
    pub key: String,
}

/// Something that needs a second human, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    #[schema(example = "a3f9c1d2e4a5b6078")]
    pub id: String,
    pub state: ApprovalState,
    /// As the description of the control plane names it.
    #[schema(example = "set_budget")]
    pub act: String,
    #[schema(example = "raise the cap of tenant demo over a month from 100.00 to 500.00 US dollars")]
    pub what: String,
    #[schema(example = "demo")]
    pub tenant: Option<String>,
    pub asked_by: Somebody,
    #[schema(example = "2026-11-23T05:00:00Z")]
    pub asked_at: String,
    /// Neither decided nor used after this.
    #[schema(example = "2026-11-24T05:00:00Z")]
    pub expires_at: String,
    pub decided_by: Option<Somebody>,
    pub decided_at: Option<String>,
    pub used_at: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalState {
    Pending,
    /// Whoever asked may now do it, once.
    Approved,
    Rejected,
    Used,
    Expired,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Somebody {
    #[schema(example = "person:248289761001")]
    pub actor: String,
    /// As people call them, of a human.
    #[schema(example = "ada@example.com")]
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub approve: bool,
}

/// Whoever asks, as the gateway knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    #[serde(flatten)]
    pub who: Somebody,
    pub human: bool,
    pub grants: Vec<Grant>,
    /// Until then they are a platform admin for an emergency.
    #[schema(example = "2026-11-23T05:30:00Z")]
    pub break_glass_until: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakGlass {
    /// Why; it is recorded. At most 200 characters.
    #[schema(example = "incident 4711: the cap of demo is wrong and nobody can be reached")]
    pub reason: String,
    /// From 1 to 60.
    #[schema(example = 30)]
    pub minutes: u32,
}

/// A person who is signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    pub who: Somebody,
    pub grants: Vec<Grant>,
    #[schema(example = "2026-11-23T05:00:00Z")]
    pub since: String,
    #[schema(example = "2026-11-23T05:10:00Z")]
    pub last_used_at: String,
    #[schema(example = "2026-11-23T17:00:00Z")]
    pub expires_at: String,
    pub break_glass_until: Option<String>,
}

/// Whose sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionsOf {
    /// The provider's name for the person: what follows `person:`.
    #[param(example = "248289761001")]
    pub subject: String,
}

// === impl Role ===

impl Role {
    pub const ALL: [Self; 5] = [Self::PlatformAdmin, Self::TenantAdmin, Self::Billing, Self::Auditor, Self::Developer];

    pub fn name(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform-admin",
            Self::TenantAdmin => "tenant-admin",
            Self::Billing => "billing",
            Self::Auditor => "auditor",
            Self::Developer => "developer",
        }
    }
}

// === impl ApprovalState ===

impl ApprovalState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

// === impl CreatedServiceKey ===

impl fmt::Debug for CreatedServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedServiceKey").field("info", &self.info).field("key", &"[redacted]").finish()
    }
}
