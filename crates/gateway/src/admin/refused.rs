//! How the control plane says no: in the same shape as the data plane, with statuses of its own (404 and 409 name what
//! is missing or there already, since whoever asks may know).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use tollgate_client::{ErrorBody, ErrorDetail};
use tollgate_ledger::books::ChangeError;
use tollgate_store::vault::VaultError;
use tollgate_store::view::ViewError;
use tollgate_types::directory::ChangeRefused;
use tollgate_types::{KeyId, Refusal};
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as Described, ResponseBuilder};

use crate::http::refusal;

#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<&'static str>,
    /// Seldom: behind a pointer, so that what is passed along everywhere stays small.
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// Code of a refusal, with its answer: for who notes what came of a request.
#[derive(Clone, Copy, Debug)]
pub struct Code(pub &'static str);

/// Names an approval: of an answer, the one that is needed; of a request, the one by which it is done.
pub const APPROVAL: HeaderName = HeaderName::from_static("x-tollgate-approval");

/// What any call may be answered with, for the description.
pub struct Refusals;

// === impl Refused ===

impl Refused {
    pub fn invalid(message: impl Into<String>, param: Option<&'static str>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_request", message: message.into(), param, header: None }
    }

    /// A field that does not say what it should.
    pub fn field(param: &'static str, message: impl ToString) -> Self {
        Self::invalid(format!("{param}: {}", message.to_string()), Some(param))
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not_found", message: message.into(), param: None, header: None }
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, code: "conflict", message: message.into(), param: None, header: None }
    }

    pub fn method_not_allowed() -> Self {
        let message = "this address does not take this method; see /admin/v1/openapi.json".to_owned();
        Self { status: StatusCode::METHOD_NOT_ALLOWED, code: "invalid_request", message, param: None, header: None }
    }

    pub fn unknown_key() -> Self {
        let message =
            "the key is missing, unknown, expired or revoked; send it as 'Authorization: Bearer ...'".to_owned();
        Self { status: StatusCode::UNAUTHORIZED, code: "invalid_api_key", message, param: None, header: None }
    }

    /// Somebody tries too often.
    pub fn slowed(why: &str, wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let message = format!("{why}; try again in {seconds} s");
        let header = Some(Box::new((RETRY_AFTER, seconds.into())));
        Self { status: StatusCode::TOO_MANY_REQUESTS, code: "rate_limited", message, param: None, header }
    }

    /// The cookie of a session, but not from a page of it.
    pub fn forged() -> Self {
        let message =
            "a session's cookie is taken only with the header 'x-tollgate-csrf', which /auth/session tells, and \
                       from the gateway's own address"
                .to_owned();
        Self { status: StatusCode::FORBIDDEN, code: "role_denied", message, param: None, header: None }
    }

    /// A second human is needed.
    pub fn approval_pending(id: &KeyId, what: &str) -> Self {
        let message = format!(
            "{what}: that needs a second human. They approve {id} (tollgate access approve {id}); then send the same \
             request again, with the header 'x-tollgate-approval: {id}'"
        );
        let header = HeaderValue::from_str(id.as_str()).ok().map(|id| Box::new((APPROVAL, id)));
        Self { status: StatusCode::CONFLICT, code: "approval_pending", message, param: None, header }
    }

    /// What takes two humans is begun by one.
    pub fn not_for_machines(what: &str) -> Self {
        let message = format!("{what}: that takes two humans, and a key is none; sign in (/auth) and ask again");
        Self { status: StatusCode::FORBIDDEN, code: "role_denied", message, param: None, header: None }
    }

    /// Nobody agrees to what they asked for themselves.
    pub fn own_approval() -> Self {
        let message = "nobody decides on what they asked for themselves: a second human is needed".to_owned();
        Self { status: StatusCode::FORBIDDEN, code: "role_denied", message, param: None, header: None }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The role is not for this.
    pub fn role(role: &str, act: &'static str) -> Self {
        let message = format!("the role '{role}' does not allow '{act}' here; see docs/access.md");
        Self { status: StatusCode::FORBIDDEN, code: "role_denied", message, param: None, header: None }
    }

    /// A fault of ours. What it was goes to the log only.
    pub fn internal(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, what, "the control plane failed");
        let message = format!("{what}; the gateway's log says why");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "internal", message, param: None, header: None }
    }

    /// Not now: it is asked again later.
    pub fn busy(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "unavailable",
            message: message.into(),
            param: None,
            header: None,
        }
    }

    pub fn unavailable(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "the control plane cannot write the journal");
        let status = refusal::status(&Refusal::LedgerUnavailable);
        let message = Refusal::LedgerUnavailable.to_string();
        Self { status, code: Refusal::LedgerUnavailable.code(), message, param: None, header: None }
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        }
    }
}

// === impl Refusals ===

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let all = [
            ("400", "`invalid_request`: malformed, too large, or a field that is not known"),
            ("401", "`invalid_api_key`: nobody who is known"),
            ("403", "`role_denied`: the role is not for this"),
            ("404", "`not_found`: what is named does not exist"),
            (
                "409",
                "`conflict`: it exists already; `approval_pending`: a second human is needed, see `x-tollgate-approval`",
            ),
            (
                "429",
                "`rate_limited`: too many wrong credentials from there, or a tenant changes too much at a time; see `retry-after`",
            ),
            ("503", "`ledger_unavailable`: the journal cannot be written, so it is not said to be done"),
        ];
        all.map(|(status, when)| (status.to_owned(), RefOr::T(described(when)))).into()
    }
}

fn described(when: &str) -> Described {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    ResponseBuilder::new().description(when).content("application/json", body).build()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let error = ErrorDetail {
            kind: self.kind().to_owned(),
            message: self.message,
            param: self.param.map(str::to_owned),
            code: Some(self.code.to_owned()),
        };
        let mut response = (self.status, Json(ErrorBody { error })).into_response();
        if let Some((name, value)) = self.header.map(|header| *header) {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

impl From<ChangeRefused> for Refused {
    fn from(refused: ChangeRefused) -> Self {
        match refused {
            ChangeRefused::Exists { .. } => Self::conflict(refused.to_string()),
            ChangeRefused::Missing { .. } => Self::not_found(refused.to_string()),
        }
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Rejected(rejected) => Self::invalid(rejected.to_string(), None),
            ChangeError::Unavailable(unavailable) => Self::unavailable(&unavailable),
        }
    }
}

impl From<tollgate_ledger::LogUnavailable> for Refused {
    fn from(error: tollgate_ledger::LogUnavailable) -> Self {
        Self::unavailable(&error)
    }
}

impl From<VaultError> for Refused {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::TooManyReceiptKeys => Self::conflict(error.to_string()),
            _ => Self::internal("the key file cannot be used", &error),
        }
    }
}

impl From<ViewError> for Refused {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::TooManyGroups(_) => Self::invalid(error.to_string(), None),
            _ => Self::internal("the view cannot be read", &error),
        }
    }
}
