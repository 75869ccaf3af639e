//! The one file that turns a [`Refusal`] into a status, headers and a body.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;
use tollgate_types::Refusal;
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind, RateLimited};

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// What a caller is told who meets a ledger that cannot be written.
const LEDGER_RETRY: Duration = Duration::from_secs(5);

/// The whole answer, but for the headers that every answer has.
pub fn respond(refusal: &Refusal) -> Response<Bytes> {
    let mut response = Response::new(body(refusal));
    *response.status_mut() = status(refusal);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match retry(refusal) {
        Retry::Unsaid => {}
        Retry::Never => drop(headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"))),
        Retry::After(wait) => {
            // Rounded up: who comes exactly when told must not come too early.
            let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("true"));
        }
    }
    response
}

/// The error object, as it stands in a body and in a broken stream.
pub fn body(refusal: &Refusal) -> Bytes {
    let param = match refusal {
        Refusal::InvalidRequest { param, .. } => *param,
        Refusal::ModelNotFound { .. } => Some("model"),
        _ => None,
    };
    let error = json!({
        "error": {
            "message": refusal.to_string(),
            "type": kind(refusal),
            "param": param,
            "code": refusal.code(),
        }
    });
    error.to_string().into()
}

pub fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
        Refusal::InvalidApiKey => StatusCode::UNAUTHORIZED,
        Refusal::RoleDenied { .. } | Refusal::PolicyDenied { .. } => StatusCode::FORBIDDEN,
        Refusal::ModelNotFound { .. } | Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::UnboundedRequest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::PriceUnknown { .. } => StatusCode::PAYMENT_REQUIRED,
        Refusal::IdempotencyConflict(_) => StatusCode::CONFLICT,
        Refusal::BudgetExceeded(_) | Refusal::RateLimited(_) | Refusal::Overloaded { .. } => {
            StatusCode::TOO_MANY_REQUESTS
        }
        Refusal::Provider(ProviderFault { kind: ProviderFaultKind::Timeout(_), .. }) => StatusCode::GATEWAY_TIMEOUT,
        Refusal::Provider(_) => StatusCode::BAD_GATEWAY,
        Refusal::LedgerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// OpenAI's broader classes, which some clients branch on.
fn kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::InvalidRequest { .. }
        | Refusal::ModelNotFound { .. }
        | Refusal::NotFound
        | Refusal::UnboundedRequest { .. }
        | Refusal::PriceUnknown { .. }
        | Refusal::IdempotencyConflict(_) => "invalid_request_error",
        Refusal::InvalidApiKey => "authentication_error",
        Refusal::RoleDenied { .. } | Refusal::PolicyDenied { .. } => "permission_error",
        Refusal::BudgetExceeded(_) => "insufficient_quota",
        Refusal::RateLimited(_) | Refusal::Overloaded { .. } => "rate_limit_error",
        Refusal::Provider(_) | Refusal::LedgerUnavailable => "api_error",
    }
}

enum Retry {
    Unsaid,
    Never,
    After(Duration),
}

fn retry(refusal: &Refusal) -> Retry {
    match refusal {
        Refusal::BudgetExceeded(_) => Retry::Never,
        Refusal::RateLimited(RateLimited { retry_after: Some(wait), .. }) => Retry::After(*wait),
        Refusal::Overloaded { retry_after, .. } => Retry::After(*retry_after),
        Refusal::LedgerUnavailable => Retry::After(LEDGER_RETRY),
        Refusal::Provider(ProviderFault { retry_after: Some(wait), .. }) => Retry::After(*wait),
        // The SDKs retry 5xx by themselves; what was sent already may be billed, so the caller is to decide.
        Refusal::Provider(_) => Retry::Unsaid,
        _ => Retry::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_types::refusal::{BudgetExceeded, IdempotencyConflict, IdempotencyConflictKind};
    use tollgate_types::{Basis, PicoSum, PicoUsd, RequestId, Timestamp, Window};

    fn check(refusal: Refusal, status: u16, code: &str, retry: [Option<&str>; 3]) {
        let response = respond(&refusal);
        assert_eq!(response.status().as_u16(), status, "{code}");
        let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(body["error"]["code"], code);
        assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(body["error"].get("param").is_some() && body["error"]["type"].is_string());
        let header = |name: HeaderName| response.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
        let found = [header(RETRY_AFTER), header(RETRY_AFTER_MS), header(SHOULD_RETRY)];
        assert_eq!(found, retry.map(|value| value.map(str::to_owned)), "{code}");
    }

    const NEVER: [Option<&str>; 3] = [None, None, Some("false")];
    const UNSAID: [Option<&str>; 3] = [None, None, None];

    #[test]
    fn each_refusal_is_answered_as_the_table_of_the_surface_says() {
        let provider =
            |kind, retry_after| Refusal::Provider(ProviderFault { provider: "p".to_owned(), kind, retry_after });
        let wait = Duration::from_millis(1500);
        check(Refusal::invalid("x"), 400, "invalid_request", NEVER);
        check(Refusal::InvalidApiKey, 401, "invalid_api_key", NEVER);
        check(Refusal::RoleDenied { action: "a", scope: "s" }, 403, "role_denied", NEVER);
        check(Refusal::PolicyDenied { reason: "no".into(), layer: None }, 403, "policy_denied", NEVER);
        check(Refusal::ModelNotFound { model: "m".to_owned() }, 404, "model_not_found", NEVER);
        check(Refusal::UnboundedRequest { what: "w".to_owned(), advice: "a" }, 422, "unbounded_request", NEVER);
        check(Refusal::PriceUnknown { what: "w".to_owned() }, 402, "price_unknown", NEVER);
        let after = [Some("2"), Some("1500"), Some("true")];
        let limited = |retry_after| RateLimited { scope: "key", what: "w", limit: Some(1), retry_after };
        check(Refusal::RateLimited(limited(Some(wait))), 429, "rate_limited", after);
        check(Refusal::RateLimited(limited(None)), 429, "rate_limited", NEVER);
        check(Refusal::Overloaded { reason: "r", retry_after: wait }, 429, "overloaded", after);
        check(provider(ProviderFaultKind::Status(500), None), 502, "provider_error", UNSAID);
        check(provider(ProviderFaultKind::Status(429), Some(wait)), 502, "provider_error", after);
        check(provider(ProviderFaultKind::Timeout("answer"), None), 504, "provider_timeout", UNSAID);
        check(Refusal::LedgerUnavailable, 503, "ledger_unavailable", [Some("5"), Some("5000"), Some("true")]);
        for why in
            [IdempotencyConflictKind::OtherBody, IdempotencyConflictKind::InDoubt, IdempotencyConflictKind::AnswerGone]
        {
            let conflict = IdempotencyConflict { first: RequestId(1), why };
            check(Refusal::IdempotencyConflict(conflict), 409, "idempotency_conflict", NEVER);
        }
        let budget = BudgetExceeded {
            scope: "tenant",
            shared: false,
            window: Window::Day,
            basis: Basis::Cost,
            left: PicoSum(0),
            needed: PicoUsd(1),
            resets_at: Some(Timestamp(0)),
        };
        check(Refusal::BudgetExceeded(budget), 429, "budget_exceeded", NEVER);
    }
}
