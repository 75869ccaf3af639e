//! How every refusal looks, on the data plane and on the control plane.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// For people: what was wrong and what to do.
    #[schema(example = "there is no tenant 'demo'")]
    pub message: String,
    /// The family of the error, as OpenAI's clients know it.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: String,
    /// The field or parameter at fault, where there is one.
    #[serde(default)]
    #[schema(example = "tenant")]
    pub param: Option<String>,
    /// For machines: stable.
    #[serde(default)]
    #[schema(example = "not_found")]
    pub code: Option<String>,
}
