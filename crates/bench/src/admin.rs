//! The control API as the bench uses it: a tenant with keys and caps is set up, budgets, usage and books are read.

use std::fmt;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::http::{Api, Origin};

/// Usage events asked for at a time.
const USAGE_PAGE: usize = 1000;

#[derive(Clone, Debug)]
pub struct Admin {
    api: Api,
}

/// Whole picodollars. On the wire a string of decimal digits, since they outgrow the numbers of JavaScript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Picousd(pub i128);

/// Where a cap applies: a tenant, or one project or key of it.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub tenant: &'a str,
    pub project: Option<&'a str>,
    pub key: Option<&'a str>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct NewKey {
    pub id: String,
    pub key: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Budget {
    pub project: Option<String>,
    pub key: Option<String>,
    pub window: String,
    pub cap_picousd: Picousd,
    /// Includes what is bounded.
    pub posted_picousd: Picousd,
    pub bounded_picousd: Picousd,
    pub pending_picousd: Picousd,
    pub indeterminate_picousd: Picousd,
}

/// One request as the gateway booked it.
#[derive(Clone, Debug, Deserialize)]
pub struct UsageEvent {
    pub request_id: String,
    pub state: State,
    pub confidence: Option<Confidence>,
    pub hold_cost_picousd: Picousd,
    pub cost_picousd: Picousd,
    #[serde(default)]
    pub overrun_picousd: Picousd,
    pub outcome: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Posted,
    Voided,
    Expired,
    Indeterminate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    Measured,
    Bounded,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Ledger {
    pub drift_picousd: Picousd,
    pub reservations_pending: u64,
    /// How long ago the oldest pending reservation should have been settled; zero when none is late.
    pub oldest_pending_overdue_ms: Option<i64>,
}

// === impl Admin ===

impl Admin {
    pub fn new(origin: Origin, admin_key: &str) -> Result<Self> {
        Ok(Self { api: Api::new(origin, Some(admin_key))? })
    }

    pub async fn create_tenant(&self, id: &str) -> Result<()> {
        self.post("/admin/v1/tenants", json!({"id": id, "name": id})).await.map(drop)
    }

    pub async fn create_project(&self, tenant: &str, id: &str) -> Result<()> {
        self.post("/admin/v1/projects", json!({"tenant": tenant, "id": id, "name": id})).await.map(drop)
    }

    /// `limits` are more fields of the key, such as `requests_per_minute`.
    pub async fn create_key(&self, tenant: &str, project: &str, limits: Value) -> Result<NewKey> {
        let mut body = json!({"tenant": tenant, "project": project, "name": "bench"});
        if let (Some(body), Value::Object(limits)) = (body.as_object_mut(), limits) {
            body.extend(limits);
        }
        let created = self.post("/admin/v1/keys", body).await?;
        serde_json::from_value(created).context("the answer to a new key is not one")
    }

    pub async fn put_budget(&self, scope: Scope<'_>, window: &str, cap_usd: &str) -> Result<()> {
        let mut body = json!({"tenant": scope.tenant, "window": window, "cap_usd": cap_usd, "basis": "cost"});
        for (field, value) in [("project", scope.project), ("key", scope.key)] {
            if let Some(value) = value {
                body[field] = value.into();
            }
        }
        self.api.send(Method::PUT, "/admin/v1/budgets", Some(&body)).await.map(drop)
    }

    pub async fn budgets(&self, tenant: &str) -> Result<Vec<Budget>> {
        let mut page = self.api.get(&format!("/admin/v1/budgets?tenant={tenant}")).await?;
        serde_json::from_value(page["data"].take()).context("the list of budgets is not as expected")
    }

    pub async fn ledger(&self) -> Result<Ledger> {
        serde_json::from_value(self.api.get("/admin/v1/ledger").await?).context("the ledger's state is not as expected")
    }

    /// All usage events of a tenant, page by page. An event listed twice is in here twice.
    pub async fn usage(&self, tenant: &str) -> Result<Vec<UsageEvent>> {
        let mut events: Vec<UsageEvent> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let cursor = after.as_ref().map_or_else(String::new, |after| format!("&after={after}"));
            let path = format!("/admin/v1/usage?tenant={tenant}&limit={USAGE_PAGE}{cursor}");
            let mut page = self.api.get(&path).await?;
            let more: Vec<UsageEvent> =
                serde_json::from_value(page["data"].take()).context("a page of usage is not as expected")?;
            events.extend(more);
            let next = cursor_of(&page["next"]);
            ensure!(next.is_none() || next != after, "paging through usage does not move on from {next:?}");
            let Some(next) = next else { return Ok(events) };
            after = Some(next);
        }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.api.send(Method::POST, path, Some(&body)).await
    }
}

fn cursor_of(next: &Value) -> Option<String> {
    match next {
        Value::Null => None,
        Value::String(cursor) => Some(cursor.clone()),
        other => Some(other.to_string()),
    }
}

// === impl Budget ===

impl Budget {
    /// What counts against the cap: posted, held, and of unknown outcome.
    pub fn taken(&self) -> i128 {
        self.used() + self.pending_picousd.0
    }

    /// What was spent, or may have been.
    pub fn used(&self) -> i128 {
        self.posted_picousd.0 + self.indeterminate_picousd.0
    }

    /// By how much the promise is broken; zero when it holds.
    pub fn overshoot(&self) -> i128 {
        (self.taken() - self.cap_picousd.0).max(0)
    }

    pub fn used_ratio(&self) -> f64 {
        self.used() as f64 / (self.cap_picousd.0.max(1)) as f64
    }

    pub fn held_ratio(&self) -> f64 {
        self.pending_picousd.0 as f64 / (self.cap_picousd.0.max(1)) as f64
    }

    pub fn is_tenant_wide(&self) -> bool {
        self.project.is_none() && self.key.is_none()
    }
}

// === impl Picousd ===

impl<'de> Deserialize<'de> for Picousd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(digits) => digits.parse().map(Self).map_err(serde::de::Error::custom),
            Value::Number(number) => number.to_string().parse().map(Self).map_err(serde::de::Error::custom),
            Value::Null => Ok(Self(0)),
            other => Err(serde::de::Error::custom(format!("not an amount of picodollars: {other}"))),
        }
    }
}

impl fmt::Display for Picousd {
    /// In dollars, to the millionth.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.6}", self.0 as f64 / 1e12)
    }
}

#[cfg(test)]
mod tests {
    use crate::canned::{Canned, block_on, serve};

    use super::*;

    fn budget(posted: &str, pending: &str, indeterminate: &str) -> Budget {
        serde_json::from_value(json!({
            "tenant": "t", "project": null, "key": null, "window": "lifetime", "cap_picousd": "1000000000000",
            "posted_picousd": posted, "bounded_picousd": "5", "pending_picousd": pending,
            "indeterminate_picousd": indeterminate, "resets_at": null,
        }))
        .unwrap()
    }

    #[test]
    fn one_picodollar_over_is_over() {
        assert_eq!(budget("999999999998", "1", "1").overshoot(), 0);
        assert_eq!(budget("999999999999", "1", "1").overshoot(), 1);
        assert!((budget("500000000000", "1", "490000000000").used_ratio() - 0.99).abs() < 1e-12);
    }

    #[test]
    fn amounts_are_read_as_strings_and_as_numbers() {
        let amounts: Vec<Picousd> =
            serde_json::from_str(r#"["170141183460469231731687303715884105727", 7, "-3"]"#).unwrap();
        assert_eq!(amounts, [Picousd(i128::MAX), Picousd(7), Picousd(-3)]);
        assert!(serde_json::from_str::<Picousd>("\"1.5\"").is_err());
        assert!(serde_json::from_str::<Picousd>("true").is_err());
    }

    #[test]
    fn setting_up_says_what_the_control_plane_wants_to_hear() {
        let origin = serve(|asked| {
            assert_eq!(asked.authorization.as_deref(), Some("Bearer admin"));
            let body: Value = serde_json::from_str(&asked.body).unwrap();
            match asked.what.as_str() {
                "POST /admin/v1/tenants" => assert_eq!(body, json!({"id": "t", "name": "t"})),
                "POST /admin/v1/projects" => assert_eq!(body, json!({"tenant": "t", "id": "p", "name": "p"})),
                "POST /admin/v1/keys" => {
                    assert_eq!((&body["project"], &body["parallel_requests"]), (&json!("p"), &json!(7)));
                    return Canned::json(201, r#"{"id":"k1","key":"tg_1","more":true}"#);
                }
                "PUT /admin/v1/budgets" => {
                    assert_eq!((&body["key"], &body["cap_usd"]), (&json!("k1"), &json!("1.00")));
                    return Canned::json(400, r#"{"error":{"message":"no such window"}}"#);
                }
                other => panic!("{other}"),
            }
            Canned::json(201, "")
        });
        block_on(async {
            let admin = Admin::new(origin, "admin").unwrap();
            admin.create_tenant("t").await.unwrap();
            admin.create_project("t", "p").await.unwrap();
            let key = admin.create_key("t", "p", json!({"parallel_requests": 7})).await.unwrap();
            assert_eq!((key.id.as_str(), key.key.as_str()), ("k1", "tg_1"));
            let scope = Scope { tenant: "t", project: Some("p"), key: Some("k1") };
            let error = format!("{:#}", admin.put_budget(scope, "week", "1.00").await.unwrap_err());
            assert!(error.contains("400") && error.contains("no such window"), "{error}");
        });
    }

    #[test]
    fn usage_is_read_page_by_page_and_never_for_ever() {
        let event = |id: &str| {
            json!({"request_id": id, "state": "voided", "confidence": null, "hold_cost_picousd": "1",
                   "cost_picousd": "0", "outcome": null})
        };
        let origin = serve(move |asked| {
            let page = match asked.what.as_str() {
                "GET /admin/v1/usage?tenant=t&limit=1000" => json!({"data": [event("a"), event("b")], "next": "b"}),
                "GET /admin/v1/usage?tenant=t&limit=1000&after=b" => json!({"data": [event("c")], "next": null}),
                _ => json!({"data": [event("x")], "next": "x"}),
            };
            Canned::json(200, &page.to_string())
        });
        block_on(async {
            let admin = Admin::new(origin, "admin").unwrap();
            let ids: Vec<String> = admin.usage("t").await.unwrap().into_iter().map(|event| event.request_id).collect();
            assert_eq!(ids, ["a", "b", "c"]);
            assert!(admin.usage("loop").await.unwrap_err().to_string().contains("does not move on"));
        });
    }

    #[test]
    fn a_cursor_may_be_a_string_or_a_number() {
        assert_eq!(cursor_of(&json!(null)), None);
        assert_eq!(cursor_of(&json!("req_1")), Some("req_1".to_owned()));
        assert_eq!(cursor_of(&json!(42)), Some("42".to_owned()));
    }

    #[test]
    fn a_usage_event_is_read_with_fields_we_do_not_know() {
        let event: UsageEvent = serde_json::from_value(json!({
            "request_id": "req_1", "tenant": "t", "state": "posted", "confidence": "bounded", "outcome": "client_gone",
            "hold_cost_picousd": "10", "cost_picousd": "7", "overrun_picousd": "0", "model": "m",
        }))
        .unwrap();
        assert_eq!((event.state, event.confidence), (State::Posted, Some(Confidence::Bounded)));
        assert_eq!((event.hold_cost_picousd, event.cost_picousd), (Picousd(10), Picousd(7)));
    }
}
