//! What the log holds. State is the records applied in order; so a record carries ids, amounts and commitments, and any
//! text of people is ciphertext.
//!
//! Records are encoded by position: fields and variants are only ever added at the end, with a new journal version.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tollgate_types::directory::{Change, Sealed};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    AuditEntry, Basis, Confidence, PicoSum, RequestId, Scope, Spender, Timestamp, Usage, UtcOffset, Window, Zone,
};

use crate::Amounts;
use crate::account::Posting;

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
    Extended(Box<Extended>),
    Adjusted(Box<Adjusted>),
    /// What somebody is about to do, did, or was not let do.
    Audited(Box<AuditEntry>),
}

/// Money held for one request, and all that its usage event will need to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub id: RequestId,
    pub at: Timestamp,
    /// When the request must have ended, one way or another.
    pub deadline: Timestamp,
    pub spender: Spender,
    /// The tenant's offset from UTC at that time. It decides which periods the hold falls into, now and at every replay.
    pub offset: UtcOffset,
    pub hold: Amounts,
    pub route: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub stream: bool,
    pub price_version: Arc<str>,
    pub idempotency: Option<Idempotency>,
    /// End user, run, task and feature, as the caller named them: sealed, because they may name people.
    pub attribution: Option<Sealed>,
    /// Fingerprint of the policy that let it pass. `None`: there was none.
    pub policy: Option<[u8; 16]>,
}

/// A caller's `Idempotency-Key`, and what it was sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Idempotency {
    /// A keyed hash of tenant and key.
    pub key: [u8; 16],
    /// A keyed hash of what was asked: another body under the same key is another request.
    pub body: [u8; 16],
}

/// A request that is about to be held: [`Reserved`] but for the time and the amounts, which the lock decides.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: RequestId,
    pub deadline: Timestamp,
    pub spender: Spender,
    /// The tenant's.
    pub zone: Zone,
    pub route: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub stream: bool,
    pub price_version: Arc<str>,
    pub idempotency: Option<Idempotency>,
    pub attribution: Option<Sealed>,
    pub policy: Option<[u8; 16]>,
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

/// A budget came into force, or (neither ceiling nor alerts) ceased to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapSet {
    pub scope: Scope,
    pub window: Window,
    pub basis: Basis,
    pub cap: Option<PicoSum>,
    /// What is posted beyond these alerts, and refuses nothing. Ascending.
    pub alerts: SmallVec<[PicoSum; 2]>,
    pub at: Timestamp,
}

/// The request goes to somebody dearer than it was held for: the hold grew first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    pub id: RequestId,
    pub at: Timestamp,
    /// The whole of it; in no column less than before.
    pub hold: Amounts,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub price_version: Arc<str>,
}

/// What was posted for a request turned out to be something else. History is not rewritten: this entry says the difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjusted {
    pub id: RequestId,
    pub at: Timestamp,
    /// The request's own, so that the difference is counted where the request was.
    pub spender: Spender,
    pub held_at: Timestamp,
    pub offset: UtcOffset,
    /// What the books said until now.
    pub was: Standing,
    /// What they say from now on.
    pub now: Standing,
    pub usage: Usage,
    pub price_version: Arc<str>,
    pub reason: Reason,
}

/// What is posted for a request at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub amounts: Amounts,
    pub overrun: Amounts,
    pub confidence: Confidence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The provider's own usage report says so.
    Reconciled,
    /// The price that was in force then was corrected later.
    Repriced,
}

// === impl Record ===

impl Record {
    /// When it was made, where it says so. Along the log these times never go back.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Reserved(reserved) => Some(reserved.at),
            Self::Extended(extended) => Some(extended.at),
            Self::Adjusted(adjusted) => Some(adjusted.at),
            Self::Audited(entry) => Some(entry.at),
            Self::Posted(Posted { at, .. })
            | Self::Voided(Voided { at, .. })
            | Self::Indeterminate { at, .. }
            | Self::CapSet(CapSet { at, .. })
            | Self::PricesSet { at, .. } => Some(*at),
            Self::Directory(_) => None,
        }
    }
}

// === impl Draft ===

impl Draft {
    /// What the draft becomes when it is held.
    pub fn into_reserved(self, at: Timestamp, offset: UtcOffset, hold: Amounts) -> Reserved {
        let Self {
            id,
            deadline,
            spender,
            zone: _,
            route,
            provider,
            model,
            stream,
            price_version,
            idempotency,
            attribution,
            policy,
        } = self;
        Reserved {
            id,
            at,
            deadline,
            spender,
            offset,
            hold,
            route,
            provider,
            model,
            stream,
            price_version,
            idempotency,
            attribution,
            policy,
        }
    }
}

// === impl Standing ===

impl Standing {
    pub(crate) fn posting(self) -> Posting {
        let bounded = match self.confidence {
            Confidence::Bounded => self.amounts,
            Confidence::Measured => Amounts::ZERO,
        };
        Posting { amounts: self.amounts, bounded }
    }
}

// === impl Reason ===

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reconciled => "reconciled",
            Self::Repriced => "repriced",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_name_that_the_control_plane_shows() {
        assert_eq!([Reason::Reconciled, Reason::Repriced].map(Reason::name), ["reconciled", "repriced"]);
    }
}
