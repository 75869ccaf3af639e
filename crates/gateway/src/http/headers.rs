//! The headers we read and the headers we send, by name.

use std::fmt::Write;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use tollgate_admission::RateState;
use tollgate_ledger::Amounts;
use tollgate_policy::Fingerprint;
use tollgate_types::{PicoSum, Refusal, RequestId};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const PROJECT: HeaderName = HeaderName::from_static("x-tollgate-project");
const COST: HeaderName = HeaderName::from_static("x-tollgate-cost-usd");
const CHARGE: HeaderName = HeaderName::from_static("x-tollgate-charge-usd");
const REMAINING: HeaderName = HeaderName::from_static("x-tollgate-budget-remaining-usd");
const MODEL: HeaderName = HeaderName::from_static("x-tollgate-model");
const POLICY: HeaderName = HeaderName::from_static("x-tollgate-policy");
const CACHE: HeaderName = HeaderName::from_static("x-tollgate-cache");
const LIMIT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const LIMIT_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
const REMAINING_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
const RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const ORIGINAL_REQUEST_ID: HeaderName = HeaderName::from_static("x-tollgate-original-request-id");

/// What of our own headers is kept with an answer that may be given again.
pub const KEPT: [HeaderName; 5] = [MODEL, POLICY, CACHE, COST, CHARGE];
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

const DEADLINE: HeaderName = HeaderName::from_static("x-tollgate-deadline-ms");
const END_USER: HeaderName = HeaderName::from_static("x-tollgate-end-user");

/// What a caller may say of a request besides its body, to find its cost again later.
const ATTRIBUTION: [(&str, HeaderName); 4] = [
    ("end_user", END_USER),
    ("run_id", HeaderName::from_static("x-run-id")),
    ("task_id", HeaderName::from_static("x-task-id")),
    ("feature", HeaderName::from_static("x-feature")),
];
/// Longest of these, in bytes.
pub const ATTRIBUTION_BYTES_MAX: usize = 256;

/// The key that is presented, as a bearer token or in `x-api-key`.
pub fn api_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    bearer.or_else(|| headers.get(API_KEY).and_then(|value| value.to_str().ok()))
}

pub fn project(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(PROJECT)
}

/// The caller's own name for the request, under which it may be sent again.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next().map(HeaderValue::as_bytes) else { return Ok(None) };
    let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if !fits || values.next().is_some() {
        return Err(Refusal::invalid(format!(
            "the header '{IDEMPOTENCY_KEY}' must be one value of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
        )));
    }
    Ok(Some(key))
}

/// The tenant's own name for whom it sends the request.
pub fn end_user(headers: &HeaderMap) -> Option<&str> {
    headers.get(END_USER)?.to_str().ok().filter(|name| !name.is_empty())
}

/// The attribution as JSON, or nothing if the caller sent none.
pub fn attribution(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut found = serde_json::Map::new();
    for (field, header) in &ATTRIBUTION {
        let Some(value) = headers.get(header) else { continue };
        let text = value.to_str().ok().filter(|text| text.len() <= ATTRIBUTION_BYTES_MAX).ok_or_else(|| {
            Refusal::invalid(format!(
                "the header '{header}' must be plain text of at most {ATTRIBUTION_BYTES_MAX} bytes"
            ))
        })?;
        found.insert((*field).to_owned(), text.into());
    }
    Ok((!found.is_empty()).then(|| serde_json::Value::Object(found).to_string()))
}

/// Within which time the caller needs the answer, if it says so.
pub fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(text) = headers.get(DEADLINE) else { return Ok(None) };
    let millis = text.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()).filter(|millis| *millis > 0);
    let wrong = || Refusal::invalid("x-tollgate-deadline-ms must be a whole number of milliseconds, at least 1");
    millis.map(|millis| Some(Duration::from_millis(millis))).ok_or_else(wrong)
}

/// Whether the caller wants nothing from a cache, and nothing kept in one.
pub fn bypasses_cache(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(CACHE).map(HeaderValue::as_bytes) {
        None | Some(b"default") => Ok(false),
        Some(b"bypass") => Ok(true),
        Some(_) => Err(Refusal::invalid("x-tollgate-cache must be \"default\" or \"bypass\"")),
    }
}

/// What a cache had to do with the answer.
pub fn cached(headers: &mut HeaderMap, outcome: &'static str) {
    headers.insert(CACHE, HeaderValue::from_static(outcome));
}

/// What every answer bears.
pub fn identify(headers: &mut HeaderMap, id: RequestId) {
    headers.insert(REQUEST_ID, request_id(id));
}

pub fn request_id(id: RequestId) -> HeaderValue {
    value(&id.to_string())
}

/// What every admitted request's answer bears.
pub fn admitted(headers: &mut HeaderMap, model: &str, policy: Option<Fingerprint>, rate: RateState) {
    if let Ok(model) = HeaderValue::from_str(model) {
        headers.insert(MODEL, model);
    }
    if let Some(Ok(policy)) = policy.map(|policy| HeaderValue::try_from(policy.to_string())) {
        headers.insert(POLICY, policy);
    }
    headers.insert(CACHE, HeaderValue::from_static("bypass"));
    limited(headers, rate);
}

/// What is left of the tenant's limits.
pub fn limited(headers: &mut HeaderMap, rate: RateState) {
    let requests = [LIMIT_REQUESTS, REMAINING_REQUESTS, RESET_REQUESTS];
    let tokens = [LIMIT_TOKENS, REMAINING_TOKENS, RESET_TOKENS];
    for (allowance, [limit, remaining, reset]) in [(rate.requests, requests), (rate.tokens, tokens)] {
        let Some(allowance) = allowance else { continue };
        headers.insert(limit, HeaderValue::from(allowance.limit));
        headers.insert(remaining, HeaderValue::from(allowance.remaining));
        headers.insert(reset, value(&duration(allowance.reset)));
    }
}

/// What an answer bears that was given before, to the request `original`.
pub fn replayed(headers: &mut HeaderMap, original: RequestId) {
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    headers.insert(ORIGINAL_REQUEST_ID, request_id(original));
}

/// What a settled request's answer bears.
pub fn settled(headers: &mut HeaderMap, amounts: Amounts, remaining: Option<PicoSum>) {
    headers.insert(COST, value(&amounts.cost.to_string()));
    headers.insert(CHARGE, value(&amounts.charge.to_string()));
    if let Some(remaining) = remaining {
        headers.insert(REMAINING, value(&remaining.to_string()));
    }
}

/// The same, as the last comment of a stream.
pub fn settled_comment(id: RequestId, amounts: Amounts, remaining: Option<PicoSum>) -> String {
    let mut text =
        format!(": x-request-id={id} x-tollgate-cost-usd={} x-tollgate-charge-usd={}", amounts.cost, amounts.charge);
    if let Some(remaining) = remaining {
        let _ = write!(text, " x-tollgate-budget-remaining-usd={remaining}");
    }
    text.push_str("\n\n");
    text
}

/// OpenAI's way to write a duration: `12ms`, `1.5s`, `6m0s`. Rounded up to a millisecond: what is promised is there then.
fn duration(duration: Duration) -> String {
    let duration = Duration::from_millis(u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match (seconds / 60, seconds % 60) {
        (0, 0) => format!("{millis}ms"),
        (0, seconds) if millis == 0 => format!("{seconds}s"),
        (0, seconds) => format!("{seconds}.{millis:03}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids, amounts and durations are plain text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_admission::limits::Allowance;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_key_is_read_from_either_header() {
        let check = |pairs: &[(&'static str, &'static str)], key: Option<&str>| {
            assert_eq!(api_key(&headers(pairs)), key, "{pairs:?}");
        };
        check(&[("authorization", "Bearer tg_1")], Some("tg_1"));
        check(&[("authorization", "bearer  tg_1")], Some("tg_1"));
        check(&[("x-api-key", "tg_2")], Some("tg_2"));
        check(&[("authorization", "Basic dXNlcg=="), ("x-api-key", "tg_2")], Some("tg_2"));
        check(&[("authorization", "tg_1")], None);
        check(&[], None);
    }

    #[test]
    fn an_idempotency_key_is_one_visible_value_of_bounded_length() {
        let check = |pairs: &[(&'static str, &'static str)], key: Option<Option<&str>>| {
            let all: HeaderMap = headers(pairs);
            let found = idempotency_key(&all).ok().map(|key| key.map(|key| String::from_utf8_lossy(key).into_owned()));
            assert_eq!(found, key.map(|key| key.map(str::to_owned)), "{pairs:?}");
        };
        let (longest, longer): (&'static str, &'static str) = ("x".repeat(255).leak(), "x".repeat(256).leak());
        check(&[], Some(None));
        check(&[("idempotency-key", "\"8e03-97\"")], Some(Some("\"8e03-97\"")));
        check(&[("idempotency-key", longest)], Some(Some(longest)));
        check(&[("idempotency-key", longer)], None);
        check(&[("idempotency-key", "")], None);
        check(&[("idempotency-key", "a b")], None);
        let mut twice = headers(&[("idempotency-key", "a")]);
        twice.append(IDEMPOTENCY_KEY, HeaderValue::from_static("b"));
        assert!(idempotency_key(&twice).is_err());
    }

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        let check = |millis: u64, text: &str| assert_eq!(duration(Duration::from_millis(millis)), text);
        check(12, "12ms");
        check(1500, "1.500s");
        check(2000, "2s");
        check(360_000, "6m0s");
        assert_eq!(duration(Duration::from_micros(999_001)), "1s");
    }

    #[test]
    fn an_answer_says_what_is_left_of_requests_and_of_tokens_where_they_are_limited() {
        let requests = Allowance { limit: 60, remaining: 59, reset: Duration::from_secs(1) };
        let tokens = Allowance { limit: u64::MAX, remaining: 7, reset: Duration::from_millis(1500) };
        let names = ["limit", "remaining", "reset"].map(|part| format!("x-ratelimit-{part}"));
        let check = |rate: RateState, kind: &str, expected: Option<[&str; 3]>| {
            let mut headers = HeaderMap::new();
            admitted(&mut headers, "m", Some(Fingerprint([7; 16])), rate);
            let found = names.each_ref().map(|name| headers.get(format!("{name}-{kind}")).cloned());
            let expected = expected.map_or([const { None }; 3], |all| all.map(|text| Some(value(text))));
            assert_eq!(found, expected, "{kind}");
        };
        let both = RateState { requests: Some(requests), tokens: Some(tokens) };
        check(both, "requests", Some(["60", "59", "1s"]));
        check(both, "tokens", Some(["18446744073709551615", "7", "1.500s"]));
        check(RateState { requests: None, ..both }, "requests", None);
        check(RateState { tokens: None, ..both }, "tokens", None);
    }

    #[test]
    fn attribution_is_collected_and_bounded() {
        let found = attribution(&headers(&[("x-run-id", "r1"), ("x-feature", "search")])).expect("fine");
        assert_eq!(found.as_deref(), Some(r#"{"run_id":"r1","feature":"search"}"#));
        assert_eq!(attribution(&headers(&[])).expect("fine"), None);
        let long: &'static str = "x".repeat(257).leak();
        assert!(attribution(&headers(&[("x-run-id", long)])).is_err());
    }
}
