//! What the log holds. State is the records applied in order; so a record carries ids, amounts and commitments, and any
//! text of people is ciphertext.
//!
//! Records are encoded by position: fields and variants are only ever added at the end, with a new journal version.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tollgate_types::directory::{Change, Sealed};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Confidence, KeyId, PicoSum, ProjectId, RequestId, Scope, TenantId, Timestamp, Usage, Window,
};

use crate::Amounts;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Reserved(Box<Reserved>),
    Posted(Posted),
    Voided(Voided),
    /// The process died with this reservation pending: it keeps counting, in full, until it is posted.
    Indeterminate {
        id: RequestId,
        at: Timestamp,
    },
    CapSet(CapSet),
    Directory(Change),
    /// A price book came into use. The book itself is a file beside the journal, named by its digest.
    PricesSet {
        version: Arc<str>,
        sha256: [u8; 32],
        at: Timestamp,
    },
}

/// Money held for one request, and all that its usage event will need to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub id: RequestId,
    pub at: Timestamp,
    /// When the request must have ended, one way or another.
    pub deadline: Timestamp,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub hold: Amounts,
    pub route: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub stream: bool,
    pub price_version: Arc<str>,
    /// End user, run, task and feature, as the caller named them: sealed, because they may name people.
    pub attribution: Option<Sealed>,
}

/// A request that is about to be held: [`Reserved`] but for the time and the amounts, which the lock decides.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: RequestId,
    pub deadline: Timestamp,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub route: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub stream: bool,
    pub price_version: Arc<str>,
    pub attribution: Option<Sealed>,
}

/// A reservation ended and this much of it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    pub id: RequestId,
    pub at: Timestamp,
    pub usage: Usage,
    /// At most the hold, in both columns.
    pub amounts: Amounts,
    /// What the provider took beyond the hold: the platform's loss, never the tenant's.
    pub overrun: Amounts,
    pub confidence: Confidence,
    pub outcome: Outcome,
}

/// A reservation ended and nothing of it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voided {
    pub id: RequestId,
    pub at: Timestamp,
    pub outcome: Outcome,
}

/// A cap came into force, or (`None`) ceased to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapSet {
    pub scope: Scope,
    pub window: Window,
    pub basis: Basis,
    pub cap: Option<PicoSum>,
    pub at: Timestamp,
}

// === impl Reserved ===

impl Reserved {
    /// The scopes this request spends from, widest first.
    pub fn scopes(&self) -> [Scope; 3] {
        Scope::of_request(&self.tenant, &self.project, &self.key)
    }
}

// === impl Draft ===

impl Draft {
    pub(crate) fn into_reserved(self, at: Timestamp, hold: Amounts) -> Reserved {
        let Self { id, deadline, tenant, project, key, route, provider, model, stream, price_version, attribution } =
            self;
        Reserved {
            id,
            at,
            deadline,
            tenant,
            project,
            key,
            hold,
            route,
            provider,
            model,
            stream,
            price_version,
            attribution,
        }
    }

    pub fn scopes(&self) -> [Scope; 3] {
        Scope::of_request(&self.tenant, &self.project, &self.key)
    }
}
