//! What is noted of an act, before it and after it: an entry of the audit log. It never holds a prompt, a key or an answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::Actor;
use crate::{RequestId, TenantId, Timestamp};

/// One entry, as the journal holds it. What the books themselves record (holds, postings, caps, changes of who exists) are
/// entries, too, and are not said again by these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The books' own time.
    pub at: Timestamp,
    /// The request that it was done by: what begins and what completes have the same.
    pub request: RequestId,
    /// Of the caller's trace context.
    pub trace: Option<[u8; 16]>,
    pub phase: Phase,
    /// As the control plane's description names it, such as `set_budget`.
    pub act: Arc<str>,
    pub actor: Actor,
    /// Whose it was done to. `None`: the operator's, or many tenants'.
    pub tenant: Option<TenantId>,
    /// What it was done to, at most [`TEXT_BYTES_MAX`].
    pub subject: Arc<str>,
    /// The status it was answered with, but for what only begins.
    pub status: Option<u16>,
    /// Code of a refusal, number of an approval, reason of a break-glass; at most [`TEXT_BYTES_MAX`].
    pub note: Option<Arc<str>>,
    /// So many alike: 1, but for denials that are counted together.
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Durable before anything is done.
    Begun,
    /// Done, or not, as the status says.
    Completed,
    /// It was refused, and nothing was begun.
    Denied,
    /// It happened.
    Noted,
}

/// Longest text of an entry, in bytes.
pub const TEXT_BYTES_MAX: usize = 300;

/// As much of a text as an entry may hold.
pub fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

// === impl Phase ===

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Completed => "completed",
            Self::Denied => "denied",
            Self::Noted => "noted",
        }
    }
}
