//! The control API as the bench uses it: a tenant with keys and caps is set up, budgets, usage and books are read.

use std::fmt;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::http::{Api, Origin};

/// Usage events asked for at a time.
const USAGE_PAGE: usize = 1000;
const PICOUSD_PER_USD: i128 = 1_000_000_000_000;

#[derive(Clone, Debug)]
pub struct Admin {
    api: Api,
}

/// Whole picodollars. On the wire a string of decimal digits, since they outgrow the numbers of JavaScript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Picousd(pub i128);

/// Whose spending a budget counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Platform,
    Plan(String),
    Tenant(String),
    Project {
        tenant: String,
        project: String,
    },
    Key {
        tenant: String,
        key: String,
    },
    /// By the tenant's own name for them.
    EndUser {
        tenant: String,
        end_user: String,
    },
}

/// A cap to be set.
#[derive(Clone, Debug)]
pub struct BudgetSetting {
    pub whose: Whose,
    pub window: &'static str,
    pub basis: &'static str,
    pub cap: Picousd,
}

#[derive(Clone, Debug, Deserialize)]
pub struct NewKey {
    pub id: String,
    pub key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Budget {
    #[serde(default)]
    pub scope: String,
    pub tenant: Option<String>,
    pub plan: Option<String>,
    pub project: Option<String>,
    pub key: Option<String>,
    pub end_user: Option<String>,
    pub window: String,
    #[serde(default)]
    pub basis: String,
    /// Without one, the budget only alerts.
    pub cap_picousd: Option<Picousd>,
    /// Includes what is bounded.
    pub posted_picousd: Picousd,
    pub bounded_picousd: Picousd,
    pub pending_picousd: Picousd,
    pub indeterminate_picousd: Picousd,
    pub resets_at: Option<String>,
}

/// One request as the gateway booked it.
#[derive(Clone, Debug, Deserialize)]
pub struct UsageEvent {
    pub request_id: String,
    /// The API key's id.
    #[serde(default)]
    pub key: String,
    pub state: State,
    pub confidence: Option<Confidence>,
    pub hold_cost_picousd: Picousd,
    pub cost_picousd: Picousd,
    #[serde(default)]
    pub overrun_picousd: Picousd,
    pub outcome: Option<String>,
}

/// The events of one tenant, added up.
#[derive(Clone, Debug, Deserialize)]
pub struct UsageSum {
    /// The tenant.
    pub group: String,
    pub cost_picousd: Picousd,
    /// By what is open: pending or in doubt.
    pub held_picousd: Picousd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Posted,
    Voided,
    Expired,
    Indeterminate,
    /// One that was added since.
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    Measured,
    Bounded,
    /// One that was added since, such as the provider's own bill.
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Ledger {
    pub drift_picousd: Picousd,
    pub reservations_pending: u64,
    /// How long ago the oldest pending reservation should have been settled; zero when none is late.
    pub oldest_pending_overdue_ms: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct List<T> {
    data: Vec<T>,
    next: Option<Value>,
}

// === impl Admin ===

impl Admin {
    pub fn new(origin: Origin, admin_key: &str) -> Result<Self> {
        Ok(Self { api: Api::new(origin, Some(admin_key))? })
    }

    pub async fn set_plan(&self, id: &str, settings: Value) -> Result<()> {
        self.api.send(Method::PUT, &format!("/admin/v1/plans/{id}"), Some(&settings)).await.map(drop)
    }

    /// A tenant of this plan; without one, of the gateway's default.
    pub async fn create_tenant(&self, id: &str, plan: Option<&str>) -> Result<()> {
        let mut body = json!({"id": id, "name": id});
        if let Some(plan) = plan {
            body["plan"] = plan.into();
        }
        self.post("/admin/v1/tenants", body).await.map(drop)
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

    /// The budget as it stands then.
    pub async fn set_budget(&self, setting: &BudgetSetting) -> Result<Budget> {
        let set = self.api.send(Method::PUT, "/admin/v1/budgets", Some(&setting.body())).await?;
        serde_json::from_value(set).context("the budget that was set is not as expected")
    }

    /// Everybody's, in one answer.
    pub async fn budgets(&self) -> Result<Vec<Budget>> {
        let page: List<Budget> = serde_json::from_slice(&self.api.get_bytes("/admin/v1/budgets").await?)
            .context("the list of budgets is not as expected")?;
        Ok(page.data)
    }

    pub async fn ledger(&self) -> Result<Ledger> {
        serde_json::from_value(self.api.get("/admin/v1/ledger").await?).context("the ledger's state is not as expected")
    }

    /// Hands over all usage events of a tenant, page by page, so that never more than a page is held. An event listed
    /// twice is handed over twice.
    pub async fn each_usage(&self, tenant: &str, mut take: impl FnMut(UsageEvent)) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let cursor = after.as_ref().map_or_else(String::new, |after| format!("&after={after}"));
            let path = format!("/admin/v1/usage?tenant={tenant}&limit={USAGE_PAGE}{cursor}");
            let page: List<UsageEvent> = serde_json::from_slice(&self.api.get_bytes(&path).await?)
                .context("a page of usage is not as expected")?;
            page.data.into_iter().for_each(&mut take);
            let next = page.next.as_ref().and_then(cursor_of);
            ensure!(next.is_none() || next != after, "paging through usage does not move on from {next:?}");
            let Some(next) = next else { return Ok(()) };
            after = Some(next);
        }
    }

    /// What the events of each tenant add up to.
    pub async fn usage_by_tenant(&self) -> Result<Vec<UsageSum>> {
        let sums: List<UsageSum> =
            serde_json::from_slice(&self.api.get_bytes("/admin/v1/usage/summary?by=tenant").await?)
                .context("the sums of usage are not as expected")?;
        Ok(sums.data)
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

// === impl BudgetSetting ===

impl BudgetSetting {
    fn body(&self) -> Value {
        let mut body = match &self.whose {
            Whose::Platform => json!({"platform": true}),
            Whose::Plan(plan) => json!({"plan": plan}),
            Whose::Tenant(tenant) => json!({"tenant": tenant}),
            Whose::Project { tenant, project } => json!({"tenant": tenant, "project": project}),
            Whose::Key { tenant, key } => json!({"tenant": tenant, "key": key}),
            Whose::EndUser { tenant, end_user } => json!({"tenant": tenant, "end_user": end_user}),
        };
        body["window"] = self.window.into();
        body["basis"] = self.basis.into();
        body["cap_usd"] = self.cap.exact_usd().into();
        body
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
        self.cap_picousd.map_or(0, |cap| (self.taken() - cap.0).max(0))
    }

    /// Names it among all budgets, for people and for maps.
    pub fn name(&self) -> String {
        let whose = [&self.plan, &self.tenant, &self.project, &self.key, &self.end_user];
        let whose: Vec<&str> = whose.into_iter().filter_map(Option::as_deref).collect();
        format!("{} {} {} {}", self.scope, whose.join("/"), self.window, self.basis)
    }
}

// === impl Picousd ===

impl Picousd {
    /// In dollars, to the last digit. It must not be negative.
    pub fn exact_usd(self) -> String {
        format!("{}.{:012}", self.0 / PICOUSD_PER_USD, self.0 % PICOUSD_PER_USD)
    }
}

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
            "scope": "tenant", "tenant": "t", "project": null, "key": null, "window": "lifetime", "basis": "cost",
            "cap_picousd": "1000000000000",
            "posted_picousd": posted, "bounded_picousd": "5", "pending_picousd": pending,
            "indeterminate_picousd": indeterminate, "resets_at": null,
        }))
        .unwrap()
    }

    #[test]
    fn one_picodollar_over_is_over() {
        assert_eq!(budget("999999999998", "1", "1").overshoot(), 0);
        assert_eq!(budget("999999999999", "1", "1").overshoot(), 1);
        let uncapped = Budget { cap_picousd: None, ..budget("999999999999", "1", "1") };
        assert_eq!(uncapped.overshoot(), 0);
        assert_eq!((uncapped.used(), uncapped.taken()), (1_000_000_000_000, 1_000_000_000_001));
        assert_eq!(uncapped.name(), "tenant t lifetime cost");
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
                "POST /admin/v1/tenants" => assert_eq!(body, json!({"id": "t", "name": "t", "plan": "p1"})),
                "POST /admin/v1/projects" => assert_eq!(body, json!({"tenant": "t", "id": "p", "name": "p"})),
                "POST /admin/v1/keys" => {
                    assert_eq!((&body["project"], &body["parallel_requests"]), (&json!("p"), &json!(7)));
                    return Canned::json(201, r#"{"id":"k1","key":"tg_1","more":true}"#);
                }
                "PUT /admin/v1/plans/p1" => assert_eq!(body, json!({"tight_budget": "clamp"})),
                "PUT /admin/v1/budgets" => {
                    assert_eq!((&body["key"], &body["cap_usd"]), (&json!("k1"), &json!("1.000000000007")));
                    return Canned::json(400, r#"{"error":{"message":"no such window"}}"#);
                }
                other => panic!("{other}"),
            }
            Canned::json(201, "")
        });
        block_on(async {
            let admin = Admin::new(origin, "admin").unwrap();
            admin.set_plan("p1", json!({"tight_budget": "clamp"})).await.unwrap();
            admin.create_tenant("t", Some("p1")).await.unwrap();
            admin.create_project("t", "p").await.unwrap();
            let key = admin.create_key("t", "p", json!({"parallel_requests": 7})).await.unwrap();
            assert_eq!((key.id.as_str(), key.key.as_str()), ("k1", "tg_1"));
            let whose = Whose::Key { tenant: "t".to_owned(), key: "k1".to_owned() };
            let setting = BudgetSetting { whose, window: "week", basis: "cost", cap: Picousd(1_000_000_000_007) };
            let error = format!("{:#}", admin.set_budget(&setting).await.unwrap_err());
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
            let mut ids = Vec::new();
            admin.each_usage("t", |event| ids.push(event.request_id)).await.unwrap();
            assert_eq!(ids, ["a", "b", "c"]);
            assert!(admin.each_usage("loop", drop).await.unwrap_err().to_string().contains("does not move on"));
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
