//! The audit log: entries, signed checkpoints, and what proves that an entry is in it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// Some entries, the newest first; see docs/operating/audit.md for what is in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub data: Vec<Value>,
    /// Where the next page begins: `before`. None: that was all.
    #[schema(example = 1200)]
    pub next: Option<u64>,
}

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// A tenant's own. Without it: everybody's.
    #[param(example = "demo")]
    pub tenant: Option<String>,
    /// Those with smaller numbers only.
    #[param(example = 1200)]
    pub before: Option<u64>,
    /// At most so many, from 1 to 1000; 100 if left out.
    #[param(example = 100)]
    pub limit: Option<usize>,
}

/// An entry with what proves that it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditProof {
    /// The entry as it was hashed, to the byte.
    pub entry: String,
    /// The newest signed checkpoint: a signed note, as c2sp.org/tlog-checkpoint has it.
    pub checkpoint: String,
    /// From the entry's hash to the checkpoint's root (RFC 9162, section 2.1.3), in base64.
    pub path: Vec<String>,
}

/// A signed root of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheckpoint {
    /// A signed note, as c2sp.org/tlog-checkpoint has it.
    pub checkpoint: String,
    /// What verifies its signature. Keep it from the first time on; do not ask for it each time.
    #[schema(example = "tollgate/audit+1a2b3c4d+AeX...")]
    pub key: String,
    /// Where `from` was given: what shows that the log of so many entries is the beginning of this one (RFC 9162, section
    /// 2.1.4), in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Vec<String>>,
}

/// The size of a log that somebody saw earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct AuditSince {
    #[param(example = 1200)]
    pub from: Option<u64>,
}

/// What is written, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct AuditExport {
    /// A tenant's own. Without it: everybody's.
    #[param(example = "demo")]
    pub tenant: Option<String>,
    /// Entries as they are, if left out.
    pub format: Option<AuditFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditFormat {
    /// As they were hashed, a line each.
    Lines,
    /// As events of the Open Cybersecurity Schema Framework.
    Ocsf,
    /// A tenant's, each with its path: for `tollgate audit verify --tenant`.
    Proof,
}

// === impl AuditFormat ===

impl AuditFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Ocsf => "ocsf",
            Self::Proof => "proof",
        }
    }
}
