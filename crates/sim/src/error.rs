//! Refusals in OpenAI's shape: `{"error":{"message","type","param","code"}}`.

use http::StatusCode;
use serde::Serialize;

/// An error answer. The message says so where it is the simulator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    pub kind: &'static str,
    pub param: Option<&'static str>,
    pub code: Option<&'static str>,
    /// Milliseconds after which a retry is welcome.
    pub retry_after_ms: Option<u64>,
}

// === impl ApiError ===

impl ApiError {
    pub fn invalid(message: impl Into<String>, param: Option<&'static str>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            kind: "invalid_request_error",
            param,
            code: None,
            retry_after_ms: None,
        }
    }

    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub fn missing(param: &'static str) -> Self {
        Self::invalid(format!("Missing required parameter: '{param}'."), Some(param))
            .with_code("missing_required_parameter")
    }

    /// The body is no JSON, or JSON of another shape.
    pub fn unreadable(error: &serde_json::Error) -> Self {
        if error.is_data() {
            return Self::invalid(format!("Invalid type in the request body: {error}."), None)
                .with_code("invalid_type");
        }
        Self::invalid(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP \
             library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON. This is \
             the simulator speaking.)",
            None,
        )
    }

    pub fn unknown_url(method: &http::Method, path: &str) -> Self {
        Self::invalid(format!("Invalid URL ({method} {path})"), None).with_status(StatusCode::NOT_FOUND)
    }

    pub fn wrong_method(method: &http::Method, path: &str) -> Self {
        Self::invalid(format!("Not allowed to {method} on {path}"), None).with_status(StatusCode::METHOD_NOT_ALLOWED)
    }

    pub fn no_key() -> Self {
        Self::invalid(
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer \
             auth (i.e. Authorization: Bearer YOUR_KEY).",
            None,
        )
        .with_status(StatusCode::UNAUTHORIZED)
    }

    pub fn wrong_key() -> Self {
        Self::invalid("Incorrect API key provided. (This is the simulator speaking.)", None)
            .with_status(StatusCode::UNAUTHORIZED)
            .with_code("invalid_api_key")
    }

    pub fn too_large(bytes_max: usize) -> Self {
        Self::invalid(format!("The request body is larger than {bytes_max} bytes."), None)
            .with_status(StatusCode::PAYLOAD_TOO_LARGE)
    }

    pub fn rate_limit() -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            message: "Rate limit reached for this model in the simulator. Please try again in 1s.".to_owned(),
            kind: "requests",
            param: None,
            code: Some("rate_limit_exceeded"),
            retry_after_ms: Some(1_000),
        }
    }

    pub fn server(status: StatusCode, message: &str) -> Self {
        Self { kind: "server_error", ..Self::invalid(message, None).with_status(status) }
    }

    pub fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let inner = Inner { message: &self.message, r#type: self.kind, param: self.param, code: self.code };
        serde_json::to_vec(&Envelope { error: inner }).expect("strings and nulls are JSON")
    }
}
