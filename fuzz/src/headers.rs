//! The headers that we read: a key is found where it stands and nowhere else, and what a caller says of a request comes
//! out of its JSON as it went in.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tollgate_gateway::http::headers::{ATTRIBUTION_BYTES_MAX, api_key, attribution};

use crate::Target;

pub const TARGET: Target = Target {
    name: "headers",
    check: check_headers,
    seeds: &[
        "Bearer tg_k1_0123456789abcdef",
        "bearer  tg_1 ",
        "Basic dXNlcjpwYXNz",
        "run-2026-11-23 \"a\\b\"",
        "tg_1",
        "longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-longest-",
    ],
    words: &["Bearer ", " ", "\t", "\u{0}", "\r\n", "tg_", "\u{e9}", "bEaReR", "\"", "\\"],
    takes_noise: false,
};

pub fn check_headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    check_key(&value);
    check_attribution(&value);
}

fn check_key(value: &HeaderValue) {
    let map = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
    let expected = value.to_str().ok().and_then(|text| {
        let scheme = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer "))?;
        Some(text[scheme.len()..].trim())
    });
    assert_eq!(api_key(&map), expected, "{value:?}");
    let other = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), value.clone())]);
    assert_eq!(api_key(&other), value.to_str().ok(), "{value:?}");
}

fn check_attribution(value: &HeaderValue) {
    let map = HeaderMap::from_iter([(HeaderName::from_static("x-run-id"), value.clone())]);
    let plain = value.to_str().ok().filter(|text| text.len() <= ATTRIBUTION_BYTES_MAX);
    match attribution(&map) {
        Ok(json) => {
            let json: Value = serde_json::from_str(&json.expect("something was said")).expect("it is JSON");
            assert_eq!(json["run_id"].as_str(), plain, "{value:?}");
        }
        Err(_) => assert_eq!(plain, None, "refused, though it is plain and short: {value:?}"),
    }
}
