//! What a tenant asks with a key of its own, beside what official SDKs ask.

use std::time::Duration;

use http::Method;

use crate::admin::encode;
use crate::{AdminClient, ClientError, NewRun, Receipt, Run};

/// A connection to one gateway as one of its tenants' programs.
#[derive(Clone, Debug)]
pub struct TenantClient(AdminClient);

// === impl TenantClient ===

impl TenantClient {
    /// `url` is where the gateway listens, `api_key` one of the tenant's.
    pub fn new(url: &str, api_key: &str) -> Result<Self, ClientError> {
        AdminClient::new(url, api_key).map(Self)
    }

    /// How long one call may take from connecting to the end of the answer. Without it: 30 seconds.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self(self.0.with_deadline(deadline))
    }

    /// Runs a template.
    pub async fn run(&self, run: &NewRun) -> Result<Run, ClientError> {
        self.0.send_json_at(Method::POST, "/v1/runs", run).await
    }

    /// The receipt of a request of the tenant's own.
    pub async fn receipt(&self, request_id: &str) -> Result<Receipt, ClientError> {
        self.0.call_at(Method::GET, &format!("/v1/receipts/{}", encode(request_id)), None).await
    }
}
