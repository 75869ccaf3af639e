//! Who operates a gateway: roles, service keys for machines, and acts that a second human must agree to.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{KeyId, PlanId, TenantId, Timestamp};

/// What somebody may do at the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    PlatformAdmin,
    TenantAdmin,
    Billing,
    Auditor,
    Developer,
}

/// Who does something at the control plane, or is known to have asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Whoever bears the admin key of the configuration.
    AdminKey,
    ServiceKey(KeyId),
    Person(Person),
    /// A tenant's API key, on the data plane.
    ApiKey(KeyId),
    /// Whoever was not recognised.
    Nobody,
    /// The gateway itself.
    Gateway,
}

/// A human, as the identity provider knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The provider's own name for them, which never becomes anybody else's: `sub`.
    pub subject: Arc<str>,
    /// As people call them, such as an e-mail address. Nothing is decided by it.
    pub name: Arc<str>,
}

/// A machine's way into the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceKey {
    pub id: KeyId,
    /// Keyed hash of the whole key, as of an API key.
    pub digest: [u8; 32],
    pub role: Role,
    /// Whom it is confined to. `None`: it is the operator's.
    pub tenant: Option<TenantId>,
    pub name: Option<Arc<str>>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// An act that waits for a second human, or waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub id: KeyId,
    pub act: Arc<str>,
    /// SHA-256 of what was asked for: only that is approved.
    pub request: [u8; 32],
    /// The same for people to read.
    pub what: Arc<str>,
    pub tenant: Option<TenantId>,
    /// It is of a project, a key or end users of that tenant, not of the tenant as a whole.
    pub part: bool,
    pub asked_by: Actor,
    pub asked_at: Timestamp,
    /// Neither decided nor used after this.
    pub expires_at: Timestamp,
    pub decided: Option<Decided>,
    /// It was done. Once.
    pub used_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    pub by: Actor,
    pub at: Timestamp,
    pub approved: bool,
}

/// How closely those on a plan are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oversight {
    /// Raising a cap needs a second human.
    pub second_human: bool,
    /// Audit entries are kept for so many days. `None`: for ever.
    pub audit_days: Option<u32>,
}

/// The oversight of a plan, as it is from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OversightSet {
    pub plan: PlanId,
    pub oversight: Oversight,
}

// === impl Role ===

impl Role {
    pub const ALL: &'static [Self] =
        &[Self::PlatformAdmin, Self::TenantAdmin, Self::Billing, Self::Auditor, Self::Developer];

    pub fn name(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform-admin",
            Self::TenantAdmin => "tenant-admin",
            Self::Billing => "billing",
            Self::Auditor => "auditor",
            Self::Developer => "developer",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.name() == name)
    }
}

// === impl Actor ===

impl Actor {
    pub fn is_human(&self) -> bool {
        matches!(self, Self::Person(_))
    }

    /// Whether both are the same human, whatever they are called.
    pub fn is_same_human(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Person(one), Self::Person(other)) => one.subject == other.subject,
            _ => false,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdminKey => f.write_str("admin-key"),
            Self::ServiceKey(id) => write!(f, "service-key:{id}"),
            Self::Person(person) => write!(f, "person:{}", person.subject),
            Self::ApiKey(id) => write!(f, "api-key:{id}"),
            Self::Nobody => f.write_str("nobody"),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

// === impl ServiceKey ===

impl ServiceKey {
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }
}

// === impl Approval ===

impl Approval {
    /// Whether it still waits, or may still be used.
    pub fn is_open_at(&self, now: Timestamp) -> bool {
        self.used_at.is_none() && now < self.expires_at && self.decided.as_ref().is_none_or(|decided| decided.approved)
    }
}
