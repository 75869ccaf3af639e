//! A client of `/admin/v1`. Every call has a deadline and every answer a size it may not exceed; what went wrong says
//! whether the gateway was not there, refused, or said something that cannot be read.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    Bill, BillQuery, Budget, BudgetAlert, BudgetSelector, BudgetSetting, Correction, CreatedKey, ErrorBody, Key,
    LedgerBucket, LedgerBucketsQuery, LedgerState, Limit, LimitSetting, List, NewCorrection, NewKey, NewProject,
    NewTenant, Plan, PlanSettings, PriceBookInfo, Project, ProviderInfo, Receipt, ReceiptKeys, Reconciliation,
    ReconciliationPart, RouteInfo, SummaryBy, SummaryQuery, Tenant, TenantSettings, UsagePage, UsageQuery, UsageState,
    UsageSummary, Whose,
};

/// A connection to one gateway's control plane. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct AdminClient {
    base: String,
    authorization: HeaderValue,
    approval: Option<HeaderValue>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    deadline: Duration,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url:?} is not the address of a gateway, such as \"http://127.0.0.1:8080\"")]
    InvalidUrl { url: String },
    #[error("the key holds characters that cannot stand in a header")]
    InvalidKey,
    /// No connection, or it broke before the answer ended.
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String, refused: bool },
    #[error("{url} gave no answer within {} s", after.as_secs_f32())]
    Timeout { url: String, after: Duration },
    /// The gateway said no.
    #[error("{message}")]
    Refused { status: u16, code: Option<String>, message: String, param: Option<String> },
    #[error("{url} answered with something that is not Tollgate's (status {status}): {reason}")]
    Malformed { url: String, status: u16, reason: String },
}

// === impl AdminClient: the resources ===

impl AdminClient {
    pub async fn create_tenant(&self, tenant: &NewTenant) -> Result<Tenant, ClientError> {
        self.send_json(Method::POST, "/tenants", tenant).await
    }

    pub async fn tenants(&self) -> Result<Vec<Tenant>, ClientError> {
        self.list("/tenants").await
    }

    pub async fn tenant(&self, id: &str) -> Result<Tenant, ClientError> {
        self.get(&format!("/tenants/{}", encode(id))).await
    }

    /// Changes the tenant's terms; what is left out stays as it is.
    pub async fn set_tenant(&self, id: &str, settings: &TenantSettings) -> Result<Tenant, ClientError> {
        self.send_json(Method::PUT, &format!("/tenants/{}", encode(id)), settings).await
    }

    pub async fn create_project(&self, project: &NewProject) -> Result<Project, ClientError> {
        self.send_json(Method::POST, "/projects", project).await
    }

    pub async fn projects(&self, tenant: Option<&str>) -> Result<Vec<Project>, ClientError> {
        self.list(&format!("/projects{}", query(&[("tenant", tenant)]))).await
    }

    pub async fn create_key(&self, key: &NewKey) -> Result<CreatedKey, ClientError> {
        self.send_json(Method::POST, "/keys", key).await
    }

    pub async fn keys(&self, tenant: Option<&str>) -> Result<Vec<Key>, ClientError> {
        self.list(&format!("/keys{}", query(&[("tenant", tenant)]))).await
    }

    pub async fn revoke_key(&self, id: &str) -> Result<Key, ClientError> {
        self.call(Method::DELETE, &format!("/keys/{}", encode(id)), None).await
    }

    /// Creates the plan, or replaces the whole of it.
    pub async fn set_plan(&self, id: &str, plan: &PlanSettings) -> Result<Plan, ClientError> {
        self.send_json(Method::PUT, &format!("/plans/{}", encode(id)), plan).await
    }

    pub async fn plans(&self) -> Result<Vec<Plan>, ClientError> {
        self.list("/plans").await
    }

    pub async fn set_budget(&self, budget: &BudgetSetting) -> Result<Budget, ClientError> {
        self.send_json(Method::PUT, "/budgets", budget).await
    }

    pub async fn budgets(&self, tenant: Option<&str>) -> Result<Vec<Budget>, ClientError> {
        self.list(&format!("/budgets{}", query(&[("tenant", tenant)]))).await
    }

    pub async fn remove_budget(&self, budget: &BudgetSelector) -> Result<(), ClientError> {
        let selected = query(&[
            ("tenant", budget.tenant.as_deref()),
            ("project", budget.project.as_deref()),
            ("key", budget.key.as_deref()),
            ("end_user", budget.end_user.as_deref()),
            ("plan", budget.plan.as_deref()),
            ("each", budget.each.then_some("true")),
            ("platform", budget.platform.then_some("true")),
            ("window", Some(budget.window.name())),
            ("basis", budget.basis.map(crate::Basis::name)),
        ]);
        self.exchange(Method::DELETE, &format!("/budgets{selected}"), None).await.map(drop)
    }

    /// The last thresholds that were crossed since the gateway started, newest first.
    pub async fn budget_alerts(&self, tenant: Option<&str>) -> Result<Vec<BudgetAlert>, ClientError> {
        self.list(&format!("/budgets/alerts{}", query(&[("tenant", tenant)]))).await
    }

    pub async fn set_limits(&self, limits: &LimitSetting) -> Result<Limit, ClientError> {
        self.send_json(Method::PUT, "/limits", limits).await
    }

    pub async fn limits(&self, tenant: Option<&str>) -> Result<Vec<Limit>, ClientError> {
        self.list(&format!("/limits{}", query(&[("tenant", tenant)]))).await
    }

    pub async fn remove_limits(&self, whose: &Whose) -> Result<(), ClientError> {
        let selected = query(&[
            ("tenant", whose.tenant.as_deref()),
            ("project", whose.project.as_deref()),
            ("key", whose.key.as_deref()),
            ("end_user", whose.end_user.as_deref()),
            ("plan", whose.plan.as_deref()),
            ("each", whose.each.then_some("true")),
            ("platform", whose.platform.then_some("true")),
        ]);
        self.exchange(Method::DELETE, &format!("/limits{selected}"), None).await.map(drop)
    }

    /// The policy bundles in force.
    pub async fn policies(&self) -> Result<Vec<crate::Policy>, ClientError> {
        self.list("/policies").await
    }

    /// Puts a bundle (OPA's tar.gz) into force. One that does not compile, or whose own tests fail, is refused and changes
    /// nothing.
    pub async fn push_policy(&self, of: &crate::PolicyOf, archive: Vec<u8>) -> Result<crate::Policy, ClientError> {
        let body = Body { content_type: "application/gzip", bytes: archive.into() };
        self.call(Method::PUT, &format!("/policies{}", policy_of(of)), Some(body)).await
    }

    /// Puts the bundle before this one into force again.
    pub async fn roll_policy_back(&self, of: &crate::PolicyOf) -> Result<crate::Policy, ClientError> {
        self.call(Method::POST, &format!("/policies/rollback{}", policy_of(of)), None).await
    }

    /// What the policies said of the last requests, the newest first.
    pub async fn policy_decisions(&self, of: &crate::DecisionQuery) -> Result<Vec<crate::PolicyDecision>, ClientError> {
        let limit = of.limit.map(|limit| limit.to_string());
        let selected = query(&[
            ("tenant", of.tenant.as_deref()),
            ("plan", of.plan.as_deref()),
            ("request_id", of.request_id.as_deref()),
            ("limit", limit.as_deref()),
        ]);
        self.list(&format!("/policies/decisions{selected}")).await
    }

    /// The archive of the bundle that is in force for a layer.
    pub async fn policy_bundle(&self, of: &crate::PolicyOf) -> Result<Vec<u8>, ClientError> {
        let (_, archive) = self.exchange(Method::GET, &format!("/policies/bundle{}", policy_of(of)), None).await?;
        Ok(archive.to_vec())
    }

    /// Takes a layer's say away.
    pub async fn remove_policy(&self, of: &crate::PolicyOf) -> Result<(), ClientError> {
        self.exchange(Method::DELETE, &format!("/policies{}", policy_of(of)), None).await.map(drop)
    }

    /// The price books in force.
    pub async fn prices(&self) -> Result<Vec<PriceBookInfo>, ClientError> {
        self.list("/prices").await
    }

    /// Puts a price book, written in TOML, into force. A book that does not hold up is refused and changes nothing.
    pub async fn push_prices(&self, toml: &str) -> Result<PriceBookInfo, ClientError> {
        let body = Body { content_type: "application/toml", bytes: toml.to_owned().into() };
        self.call(Method::POST, "/prices", Some(body)).await
    }

    /// Re-rates one page of what was posted; [`Correction::next`] says where to go on.
    pub async fn correct_prices(&self, correction: &NewCorrection) -> Result<Correction, ClientError> {
        self.send_json(Method::POST, "/prices/corrections", correction).await
    }

    pub async fn bill(&self, wanted: &BillQuery) -> Result<Bill, ClientError> {
        let selected = query(&[("tenant", Some(&wanted.tenant)), ("month", Some(&wanted.month))]);
        self.get(&format!("/usage/bill{selected}")).await
    }

    pub async fn usage(&self, wanted: &UsageQuery) -> Result<UsagePage, ClientError> {
        let limit = wanted.limit.map(|limit| limit.to_string());
        let selected = query(&[
            ("tenant", wanted.tenant.as_deref()),
            ("from", wanted.from.as_deref()),
            ("to", wanted.to.as_deref()),
            ("state", wanted.state.map(UsageState::name)),
            ("limit", limit.as_deref()),
            ("after", wanted.after.as_deref()),
        ]);
        self.get(&format!("/usage{selected}")).await
    }

    pub async fn usage_summary(&self, wanted: &SummaryQuery) -> Result<Vec<UsageSummary>, ClientError> {
        let selected = query(&[
            ("tenant", wanted.tenant.as_deref()),
            ("by", wanted.by.map(SummaryBy::name)),
            ("from", wanted.from.as_deref()),
            ("to", wanted.to.as_deref()),
        ]);
        self.list(&format!("/usage/summary{selected}")).await
    }

    pub async fn receipt(&self, request_id: &str) -> Result<Receipt, ClientError> {
        self.get(&format!("/receipts/{}", encode(request_id))).await
    }

    /// The public keys that receipts are signed with; the first signs now.
    pub async fn receipt_keys(&self) -> Result<ReceiptKeys, ClientError> {
        self.get("/receipts/keys").await
    }

    /// Has a new key sign receipts from now on. The ones before it stay published.
    pub async fn rotate_receipt_key(&self) -> Result<ReceiptKeys, ClientError> {
        self.call(Method::POST, "/receipts/keys", None).await
    }

    pub async fn ledger(&self) -> Result<LedgerState, ClientError> {
        self.get("/ledger").await
    }

    /// Holds a piece of a provider's bill against the ledger.
    pub async fn reconcile(&self, piece: &Reconciliation) -> Result<ReconciliationPart, ClientError> {
        self.send_json(Method::POST, "/ledger/reconciliations", piece).await
    }

    /// What ended in which bucket of time.
    pub async fn ledger_buckets(&self, wanted: &LedgerBucketsQuery) -> Result<Vec<LedgerBucket>, ClientError> {
        let (width, slack) = (wanted.width_seconds.to_string(), wanted.slack_seconds.to_string());
        let selected = query(&[
            ("from", Some(&*wanted.from)),
            ("to", Some(&*wanted.to)),
            ("width_seconds", Some(&*width)),
            ("slack_seconds", Some(&*slack)),
        ]);
        self.list(&format!("/ledger/buckets{selected}")).await
    }

    pub async fn routes(&self) -> Result<Vec<RouteInfo>, ClientError> {
        self.list("/routes").await
    }

    pub async fn providers(&self) -> Result<Vec<ProviderInfo>, ClientError> {
        self.list("/providers").await
    }
}

// === impl AdminClient: access ===

impl AdminClient {
    pub async fn me(&self) -> Result<crate::Me, ClientError> {
        self.get("/access/me").await
    }

    pub async fn create_service_key(
        &self,
        key: &crate::NewServiceKey,
    ) -> Result<crate::CreatedServiceKey, ClientError> {
        self.send_json(Method::POST, "/service-keys", key).await
    }

    pub async fn service_keys(&self, tenant: Option<&str>) -> Result<Vec<crate::ServiceKey>, ClientError> {
        self.list(&format!("/service-keys{}", query(&[("tenant", tenant)]))).await
    }

    pub async fn revoke_service_key(&self, id: &str) -> Result<crate::ServiceKey, ClientError> {
        self.call(Method::DELETE, &format!("/service-keys/{}", encode(id)), None).await
    }

    /// What waits for a second human, or waited; the latest first.
    pub async fn approvals(&self, tenant: Option<&str>) -> Result<Vec<crate::Approval>, ClientError> {
        self.list(&format!("/approvals{}", query(&[("tenant", tenant)]))).await
    }

    /// Agrees to what somebody else asked for, or refuses it.
    pub async fn decide_approval(&self, id: &str, approve: bool) -> Result<crate::Approval, ClientError> {
        self.send_json(Method::POST, &format!("/approvals/{}", encode(id)), &crate::Decision { approve }).await
    }

    /// Makes whoever asks a platform admin for a while; needs an approval, see [`AdminClient::with_approval`].
    pub async fn break_glass(&self, asked: &crate::BreakGlass) -> Result<crate::Me, ClientError> {
        self.send_json(Method::POST, "/access/break-glass", asked).await
    }

    pub async fn sessions(&self) -> Result<Vec<crate::Session>, ClientError> {
        self.list("/access/sessions").await
    }

    /// Signs somebody out, everywhere.
    pub async fn end_sessions(&self, subject: &str) -> Result<(), ClientError> {
        let of = query(&[("subject", Some(subject))]);
        self.exchange(Method::DELETE, &format!("/access/sessions{of}"), None).await.map(drop)
    }

    /// A client whose requests are done by an approval: the very same request that was refused as `approval_pending`.
    ///
    /// # Errors
    /// [`ClientError::InvalidKey`]: that cannot stand in a header.
    pub fn with_approval(self, id: &str) -> Result<Self, ClientError> {
        let approval = HeaderValue::from_str(id).map_err(|_| ClientError::InvalidKey)?;
        Ok(Self { approval: Some(approval), ..self })
    }
}

// === impl AdminClient: the audit log ===

impl AdminClient {
    /// Entries, the newest first.
    pub async fn audit(&self, wanted: &crate::AuditQuery) -> Result<crate::AuditPage, ClientError> {
        let (before, limit) = (wanted.before.map(|n| n.to_string()), wanted.limit.map(|limit| limit.to_string()));
        let selected =
            query(&[("tenant", wanted.tenant.as_deref()), ("before", before.as_deref()), ("limit", limit.as_deref())]);
        self.get(&format!("/audit{selected}")).await
    }

    /// One entry, with what proves that it is in the log.
    pub async fn audit_entry(&self, n: u64) -> Result<crate::AuditProof, ClientError> {
        self.get(&format!("/audit/{n}")).await
    }

    /// The newest signed root; `from`: and what shows that it grew out of the log of so many entries.
    pub async fn audit_checkpoint(&self, from: Option<u64>) -> Result<crate::AuditCheckpoint, ClientError> {
        let from = from.map(|from| from.to_string());
        self.get(&format!("/audit/checkpoint{}", query(&[("from", from.as_deref())]))).await
    }

    /// Entries from the first on, piece by piece as they come; until `take` says no. It may take as long as it takes, as long
    /// as something comes.
    ///
    /// # Errors
    /// Also where it broke off: what was taken is then not all of it.
    pub async fn export_audit(
        &self,
        wanted: &crate::AuditExport,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let format = wanted.format.map(crate::AuditFormat::name);
        let selected = query(&[("tenant", wanted.tenant.as_deref()), ("format", format)]);
        let path = format!("/admin/v1/audit/export{selected}");
        let mut response = self.within_deadline(self.open(Method::GET, &path, None)).await?;
        let status = response.status();
        if !status.is_success() {
            let answer = Limited::new(response.into_body(), Self::ANSWER_BYTES_MAX).collect().await;
            let answer = answer.map_err(|error| self.malformed(status, error.to_string()))?;
            return Err(self.refused(status, &answer.to_bytes()));
        }
        loop {
            let frame = self.within_deadline(async { Ok(response.body_mut().frame().await) }).await?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| self.malformed(status, format!("it broke off: {error}")))?;
            if frame.data_ref().is_some_and(|piece| !take(piece)) {
                return Ok(());
            }
        }
    }
}

fn policy_of(of: &crate::PolicyOf) -> String {
    let platform = of.platform.then_some("true");
    query(&[("tenant", of.tenant.as_deref()), ("plan", of.plan.as_deref()), ("platform", platform)])
}

// === impl AdminClient: the wire ===

impl AdminClient {
    /// More than any page of ours; less than would hurt the caller.
    const ANSWER_BYTES_MAX: usize = 16 << 20;
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    const DEADLINE: Duration = Duration::from_secs(30);
    const REASON_CHARS_MAX: usize = 200;

    /// `url` is the gateway's address, without `/admin/v1`.
    ///
    /// # Errors
    /// [`ClientError::InvalidUrl`] and [`ClientError::InvalidKey`]; nothing is connected yet.
    pub fn new(url: &str, admin_key: &str) -> Result<Self, ClientError> {
        let base = checked_base(url)?;
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {admin_key}")).map_err(|_| ClientError::InvalidKey)?;
        authorization.set_sensitive(true);
        let http = Client::builder(TokioExecutor::new()).build(connector());
        Ok(Self { base, authorization, approval: None, http, deadline: Self::DEADLINE })
    }

    /// How long one call may take from connecting to the end of the answer. Without it: 30 seconds.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The address calls go to, as given.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Whether the gateway says it can serve (`/readyz`). A gateway that is not ready is an error that says why.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let (status, body) = self.within_deadline(self.request(Method::GET, "/readyz", None)).await?;
        match status {
            status if status.is_success() => Ok(()),
            // It speaks to load balancers and people, in plain text.
            StatusCode::SERVICE_UNAVAILABLE => {
                let said = String::from_utf8_lossy(&body).chars().take(Self::REASON_CHARS_MAX).collect::<String>();
                let (status, message) = (status.as_u16(), said.trim().to_owned());
                Err(ClientError::Refused { status, code: None, message, param: None })
            }
            status => Err(self.refused(status, &body)),
        }
    }

    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ClientError> {
        self.get::<List<T>>(path).await.map(|list| list.data)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None).await
    }

    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send_json_at(method, &format!("{ADMIN}{path}"), value).await
    }

    /// The same at a whole path.
    pub(crate) async fn send_json_at<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, ClientError> {
        let bytes = serde_json::to_vec(value).expect("wire types are plain data, which JSON can hold").into();
        self.call_at(method, path, Some(Body { content_type: "application/json", bytes })).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<T, ClientError> {
        self.call_at(method, &format!("{ADMIN}{path}"), body).await
    }

    /// The same at a whole path.
    pub(crate) async fn call_at<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<T, ClientError> {
        let (status, answer) = self.exchange_at(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| self.malformed(status, error.to_string()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        self.exchange_at(method, &format!("{ADMIN}{path}"), body).await
    }

    async fn exchange_at(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (status, answer) = self.within_deadline(self.request(method, path, body)).await?;
        if status.is_success() { Ok((status, answer)) } else { Err(self.refused(status, &answer)) }
    }

    async fn within_deadline<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let timeout = |_| ClientError::Timeout { url: self.base.clone(), after: self.deadline };
        tokio::time::timeout(self.deadline, call).await.map_err(timeout)?
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.open(method, path, body).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), Self::ANSWER_BYTES_MAX).collect().await;
        let answer = answer.map_err(|error| self.malformed(status, error.to_string()))?;
        Ok((status, answer.to_bytes()))
    }

    /// The answer's head; its body is still to be read.
    async fn open(&self, method: Method, path: &str, body: Option<Body>) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, &self.authorization)
            .header(ACCEPT, "application/json");
        if let Some(approval) = &self.approval {
            request = request.header("x-tollgate-approval", approval);
        }
        if let Some(body) = &body {
            request = request.header(CONTENT_TYPE, body.content_type);
        }
        let request = request
            .body(Full::new(body.map(|body| body.bytes).unwrap_or_default()))
            .map_err(|_| ClientError::InvalidUrl { url: self.base.clone() })?;
        self.http.request(request).await.map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        let innermost = chain(error).last().map(ToString::to_string).unwrap_or_default();
        let refused = chain(error)
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
        ClientError::Unreachable { url: self.base.clone(), reason: innermost, refused }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { error }) => ClientError::Refused {
                status: status.as_u16(),
                code: error.code,
                message: error.message,
                param: error.param,
            },
            Err(_) => self.malformed(status, "its body is not an error of ours".to_owned()),
        }
    }

    fn malformed(&self, status: StatusCode, reason: String) -> ClientError {
        ClientError::Malformed { url: self.base.clone(), status: status.as_u16(), reason }
    }
}

/// Where the control plane's resources are.
const ADMIN: &str = "/admin/v1";

pub(crate) struct Body {
    content_type: &'static str,
    bytes: Bytes,
}

fn connector() -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(AdminClient::CONNECT_TIMEOUT));
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .expect("ring's default provider supports the TLS versions it declares");
    tls.https_or_http().enable_http1().wrap_connector(tcp)
}

/// The address without a slash at its end. A path before `/admin/v1` is allowed: a proxy may hold us there.
fn checked_base(url: &str) -> Result<String, ClientError> {
    let invalid = || ClientError::InvalidUrl { url: url.to_owned() };
    let parsed: Uri = url.parse().map_err(|_| invalid())?;
    let known_scheme = matches!(parsed.scheme_str(), Some("http" | "https"));
    let plain =
        parsed.query().is_none() && parsed.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if known_scheme && plain { Ok(url.trim_end_matches('/').to_owned()) } else { Err(invalid()) }
}

fn chain<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// `?a=b&c=d` of what is there; nothing if nothing is.
fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let given: Vec<String> =
        pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode((*value)?)))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

/// Percent-encodes all but RFC 3986's unreserved characters, so that no text of a caller can leave its place in a URL.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

impl fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminClient").field("url", &self.base).field("key", &"[redacted]").finish_non_exhaustive()
    }
}

// === impl ClientError ===

impl ClientError {
    /// The status of the gateway's answer, if it gave one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::Malformed { status, .. } => Some(*status),
            Self::InvalidUrl { .. } | Self::InvalidKey | Self::Unreachable { .. } | Self::Timeout { .. } => None,
        }
    }
}
