//! Read-only views of the configuration: the names a caller may ask for, and who answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A name callers ask for, and what answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteInfo {
    /// The wire's `model`.
    #[schema(example = "gpt-4o-mini")]
    pub route: String,
    #[schema(example = "openai")]
    pub provider: String,
    /// The model's name at the provider.
    #[schema(example = "gpt-4o-mini")]
    pub model: String,
    /// Tokens; injected when the caller sends no bound of its own.
    #[schema(example = 1024)]
    pub max_tokens_default: Option<u64>,
    /// How often each of them is asked again that certainly did no work.
    #[serde(default)]
    pub retries: u32,
    /// Who is asked next, in this order.
    #[serde(default)]
    pub fallbacks: Vec<FallbackInfo>,
}

/// Who answers instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FallbackInfo {
    #[schema(example = "groq")]
    pub provider: String,
    /// The model's name at the provider.
    #[schema(example = "llama-3.3-70b-versatile")]
    pub model: String,
}

/// Somebody who runs models. What authenticates us to them is never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderInfo {
    #[schema(example = "openai")]
    pub provider: String,
    /// Under this name the price books know it.
    #[schema(example = "openai")]
    pub priced_as: String,
    #[schema(example = "https://api.openai.com/v1")]
    pub base_url: String,
    /// Whether an API key is configured.
    pub has_api_key: bool,
    /// Whether plain HTTP speaks HTTP/2 from the first byte.
    pub http2: bool,
    #[schema(example = 3000)]
    pub connect_timeout_ms: u64,
    #[schema(example = 60000)]
    pub first_byte_timeout_ms: u64,
    #[schema(example = 30000)]
    pub idle_timeout_ms: u64,
    #[schema(example = 600_000)]
    pub total_timeout_ms: u64,
}
