//! API keys. The key itself is seen once, in the answer that creates it; nothing here prints it by accident.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An API key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// Names the key; gives no access.
    #[schema(example = "k3f9c1d2e4a5b6078")]
    pub id: String,
    #[schema(example = "demo")]
    pub tenant: String,
    #[schema(example = "default")]
    pub project: String,
    #[schema(example = "laptop")]
    pub name: Option<String>,
    pub scopes: Vec<KeyScope>,
    /// Requests a minute at most; none means the plan's.
    #[schema(example = 600)]
    pub requests_per_minute: Option<u32>,
    /// Input and output tokens a minute at most; none means the plan's.
    #[schema(example = 100000)]
    pub tokens_per_minute: Option<u64>,
    /// Requests under way at the same time at most; none means the plan's.
    #[schema(example = 32)]
    pub parallel_requests: Option<u32>,
    #[schema(example = "2026-11-23T05:00:00Z")]
    pub created_at: String,
    /// From then on the key is refused.
    #[schema(example = "2027-11-23T05:00:00Z")]
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyScope {
    Chat,
    Embeddings,
    Models,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    #[schema(example = "demo")]
    pub tenant: String,
    /// Without it: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "default")]
    pub project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "laptop")]
    pub name: Option<String>,
    /// RFC 3339. Without it the key does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2027-11-23T05:00:00Z")]
    pub expires_at: Option<String>,
    /// Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<KeyScope>>,
    /// At least 1. Without it: the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 600)]
    pub requests_per_minute: Option<u32>,
    /// Input and output together. At least 1. Without it: the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 100000)]
    pub tokens_per_minute: Option<u64>,
    /// At least 1. Without it: the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 32)]
    pub parallel_requests: Option<u32>,
}

/// A new key, with the secret that is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    #[serde(flatten)]
    pub info: Key,
    /// The key itself: `Authorization: Bearer tg_...`. It cannot be had again.
    #[schema(example = "tg_k3f9c1d2e4a5b6078_...")]
    pub key: String,
}

// === impl KeyScope ===

impl KeyScope {
    pub const ALL: [Self; 3] = [Self::Chat, Self::Embeddings, Self::Models];

    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
        }
    }
}

// === impl CreatedKey ===

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey").field("info", &self.info).field("key", &"[redacted]").finish()
    }
}
