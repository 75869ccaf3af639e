//! Reading requests: axum's own readers, but with refusals in our shape, and JSON whatever the content type says (a
//! `curl -d` without a header is no mistake worth a refusal: nothing but JSON is ever meant).

use std::str::FromStr;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use serde::de::DeserializeOwned;
use tollgate_types::Timestamp;
use tollgate_types::directory::Limits;

use super::refused::Refused;
use crate::access::random_text;

/// A body in JSON.
pub struct Body<T>(pub T);

/// The query of the address.
pub struct Asked<T>(pub T);

/// The last part of the address, read as an id.
pub struct Id<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let bytes =
            Bytes::from_request(request, state).await.map_err(|error| Refused::invalid(error.body_text(), None))?;
        // Else a list of values would be taken for the fields in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refused::invalid("the body must be a JSON object", None));
        }
        let read = serde_json::from_slice(&bytes);
        read.map(Self).map_err(|error| Refused::invalid(format!("the body is not what is asked for: {error}"), None))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        let read = Query::try_from_uri(&parts.uri);
        read.map(|Query(asked)| Self(asked)).map_err(|error| Refused::invalid(error.body_text(), None))
    }
}

impl<T: FromStr<Err: ToString>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = read.map_err(|error| Refused::invalid(error.body_text(), None))?;
        id("id", &text).map(Self)
    }
}

/// Reads an id out of a field.
pub fn id<T: FromStr<Err: ToString>>(param: &'static str, text: &str) -> Result<T, Refused> {
    text.parse().map_err(|error: T::Err| Refused::field(param, error))
}

pub fn optional_id<T: FromStr<Err: ToString>>(
    param: &'static str,
    text: Option<&String>,
) -> Result<Option<T>, Refused> {
    text.map(|text| id(param, text)).transpose()
}

fn at_least_one<N: Copy + Into<u64>>(param: &'static str, value: Option<N>) -> Result<Option<N>, Refused> {
    match value {
        Some(none) if none.into() == 0 => Err(Refused::field(param, "must be at least 1")),
        value => Ok(value),
    }
}

pub fn optional_time(param: &'static str, text: Option<&String>) -> Result<Option<Timestamp>, Refused> {
    text.map(|text| time(param, text)).transpose()
}

pub fn time(param: &'static str, text: &str) -> Result<Timestamp, Refused> {
    Timestamp::parse_rfc3339(text).ok_or_else(|| Refused::field(param, "not a time such as 2027-01-01T00:00:00Z"))
}

/// When a key ends, if it does: not before it begins.
pub fn expiry(text: Option<&String>, now: Timestamp) -> Result<Option<Timestamp>, Refused> {
    match optional_time("expires_at", text)? {
        Some(at) if at <= now => Err(Refused::field("expires_at", "lies in the past")),
        at => Ok(at),
    }
}

/// A text for a new thing that nobody can guess, of so many random bytes.
pub fn secret_text<const N: usize>() -> Result<String, Refused> {
    random_text::<N>().ok_or_else(|| Refused::internal("the system gives no randomness", &"it was asked for some"))
}

/// Reads limits. One that would let nothing through is a mistake: whoever wants that revokes the key.
pub fn limits(requests: Option<u32>, tokens: Option<u64>, parallel: Option<u32>) -> Result<Limits, Refused> {
    Ok(Limits {
        requests_per_minute: at_least_one("requests_per_minute", requests)?,
        tokens_per_minute: at_least_one("tokens_per_minute", tokens)?,
        parallel_requests: at_least_one("parallel_requests", parallel)?,
    })
}
