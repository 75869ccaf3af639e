//! The control plane over a real store in a folder of its own, request by request.

mod access;
mod billing;
mod boundary;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate_ledger::{Amounts, Draft, Settlement};
use tollgate_store::{JournalWriter, Store};
use tollgate_types::directory::Plan;
use tollgate_types::usage::Outcome;
use tollgate_types::{Clock, Confidence, PicoUsd, RequestId, Spender, Usage, Zone};

use super::*;
use crate::config::{Config, Environment};

mod reconciliations;

const ADMIN_KEY: &str = "a-key-for-these-tests";

struct Gateway {
    app: Arc<App>,
    store: Store,
    dir: TempDir,
    requests: AtomicU32,
}

impl Gateway {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"))
    }

    fn start_in(dir: TempDir) -> Self {
        let master_key = "0f".repeat(32);
        let environment =
            Environment::of([("TOLLGATE_MASTER_KEY", master_key.as_str()), ("TOLLGATE_ADMIN_KEY", ADMIN_KEY)]);
        let text = format!(
            "[store]\ndir = {:?}\nsegment_bytes = 1048576\n[providers.sim]\nbase_url = \"http://127.0.0.1:1/v1\"\n\
             api_key = \"env:TOLLGATE_ADMIN_KEY\"\n[routes.small]\nprovider = \"sim\"\nmodel = \"gpt-4o-mini\"\n",
            dir.path().join("data")
        );
        let config = Config::parse(&text, Path::new("tollgate.toml"), &environment).expect("it holds");
        let (app, store) = App::start(&config, Clock::System).expect("it starts");
        Self { app, store, dir, requests: AtomicU32::new(0) }
    }

    /// Stops in order and starts again on the same store.
    fn restart(self) -> Self {
        let Self { app, store, dir, .. } = self;
        drop(app);
        store.close();
        Self::start_in(dir)
    }

    /// Somewhere else each time: nobody is taken for a guesser.
    fn peer(&self) -> IpAddr {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 | number))
    }

    async fn send(&self, method: Method, path: &str, key: Option<&str>, body: Bytes) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(body).expect("a request");
        let operator = crate::access::recognised(&self.app, request.method(), request.headers(), self.peer());
        let response = answer(&self.app, operator, RequestId(1), request).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        // Exports are lines.
        let text = || Value::String(String::from_utf8(body.to_vec()).expect("text"));
        let value =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_else(|_| text()) };
        (status, value)
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let (status, value) = self.send(method, path, Some(ADMIN_KEY), body).await;
        (status.as_u16(), value)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, body).await
    }

    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::PUT, path, body).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        self.ask(Method::DELETE, path, Value::Null).await
    }

    async fn tenant(&self, id: &str) {
        let (status, body) = self.post("/admin/v1/tenants", json!({"id": id})).await;
        assert_eq!(status, 201, "{body}");
    }

    async fn key(&self, tenant: &str) -> Value {
        let (status, body) = self.post("/admin/v1/keys", json!({"tenant": tenant})).await;
        assert_eq!(status, 201, "{body}");
        body
    }

    async fn refused(&self, method: Method, path: &str, body: Value, expected: (u16, &str)) -> String {
        let (status, said) = self.ask(method, path, body).await;
        assert_eq!((status, said["error"]["code"].as_str().unwrap_or_default()), expected, "{path}: {said}");
        said["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    /// A request of a key of the tenant's project `default`, on the standard plan, at price version `v1`.
    fn draft(&self, tenant: &str, key: &str, id: RequestId) -> Draft {
        Draft {
            id,
            deadline: self.app.clock().now().plus(Duration::from_secs(60)),
            spender: Spender {
                plan: Plan::standard().id,
                tenant: tenant.parse().expect("a slug"),
                project: "default".parse().expect("a slug"),
                key: key.parse().expect("a slug"),
                end_user: None,
            },
            zone: Zone::UTC,
            route: "small".into(),
            provider: "sim".into(),
            model: "gpt-4o-mini".into(),
            stream: false,
            price_version: "v1".into(),
            idempotency: None,
            attribution: None,
            policy: None,
        }
    }

    /// Spends as a request does: held, then posted.
    fn spend(&self, tenant: &str, key: &str, number: u128, pico: u64) -> RequestId {
        let id = RequestId::new(self.app.clock().now(), number);
        let draft = self.draft(tenant, key, id);
        let amounts = |pico| Amounts { cost: PicoUsd(pico), charge: PicoUsd(2 * pico) };
        let (reservation, ()) = self.app.books.reserve(draft, |_| (amounts(10 * pico), ())).expect("there is room");
        let usage = Usage { input_tokens: 7, output_tokens: 3, ..Usage::default() };
        let settlement =
            Settlement { usage, amounts: amounts(pico), confidence: Confidence::Measured, outcome: Outcome::Completed };
        let position = reservation.post(settlement).expect("it was open");
        self.app.journal.wait_durable(position).expect("the disk works");
        id
    }
}

fn described_routes() -> Vec<(Method, String)> {
    described_operations().into_iter().map(|(method, path, _)| (method, path)).collect()
}

/// Every method of every path, and what the description calls it.
fn described_operations() -> Vec<(Method, String, String)> {
    let description: Value = serde_json::from_str(&openapi_json()).expect("JSON");
    let paths = description["paths"].as_object().expect("paths").clone();
    let operations = paths.into_iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods").clone();
        methods.into_iter().map(move |(method, described)| {
            let name = described["operationId"].as_str().expect("a name").to_owned();
            (method.to_uppercase().parse().expect("a method"), path.clone(), name)
        })
    });
    operations.collect()
}

#[tokio::test]
async fn every_described_route_exists_and_needs_the_key() {
    let gateway = Gateway::start();
    let routes = described_routes();
    assert!(routes.len() >= 20, "{routes:?}");
    for (method, path) in routes {
        let path = path
            .replace("{id}", "k1")
            .replace("{request_id}", "req_00000000000000000000000000000001")
            .replace("{n}", "0");
        for key in [None, Some(""), Some("a-key-for-these-test"), Some("a-key-for-these-testsx"), Some("tg_x")] {
            let (status, body) = gateway.send(method.clone(), &path, key, Bytes::new()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} with {key:?}");
            assert_eq!(body["error"]["code"], "invalid_api_key");
            assert_eq!(body["error"]["type"], "authentication_error");
        }
        let (status, body) = gateway.send(method.clone(), &path, Some(ADMIN_KEY), Bytes::new()).await;
        assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        let said = body["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(!said.contains("nothing at this address"), "{method} {path}");
    }
}

#[test]
fn every_route_of_the_table_is_described() {
    let source = include_str!("../admin.rs");
    let table = source.split("fn router()").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the table");
    let described: Vec<String> = described_routes().into_iter().map(|(_, path)| path).collect();
    let mut routes = 0;
    for path in table.split(".route(").skip(1).filter_map(|route| route.split('"').nth(1)) {
        if path.starts_with("/admin/v1/") {
            assert!(described.iter().any(|known| known == path), "{path} is not described");
            routes += 1;
        }
    }
    assert!(routes >= 14, "the table was read: {routes} routes");
}

#[tokio::test]
async fn the_description_is_openapi_3_1_and_public() {
    let gateway = Gateway::start();
    let (status, body) = gateway.send(Method::GET, DESCRIPTION, None, Bytes::new()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", body["openapi"]);
    assert_eq!(body["components"]["securitySchemes"]["admin_key"]["scheme"], "bearer");
    let text = body.to_string();
    for reference in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(body["components"]["schemas"][reference].is_object(), "{reference} is referred to and not described");
    }
    let mut ids: Vec<_> = text.split("\"operationId\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    assert_eq!((ids.len(), described_routes().len()), (count, count), "each operation has a name of its own");
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_the_usual_shape() {
    let gateway = Gateway::start();
    gateway.refused(Method::GET, "/admin/v1/nothing", Value::Null, (404, "not_found")).await;
    gateway.refused(Method::PATCH, "/admin/v1/tenants", Value::Null, (405, "invalid_request")).await;
    gateway.refused(Method::GET, "/admin/v1/tenants/nobody", Value::Null, (404, "not_found")).await;
    gateway.refused(Method::GET, "/admin/v1/keys?tenant=nobody", Value::Null, (404, "not_found")).await;
    gateway.refused(Method::GET, "/admin/v1/keys?tennant=demo", Value::Null, (400, "invalid_request")).await;
    gateway.refused(Method::GET, "/admin/v1/usage?limit=0", Value::Null, (400, "invalid_request")).await;
    gateway.refused(Method::GET, "/admin/v1/usage?limit=1001", Value::Null, (400, "invalid_request")).await;
    gateway.refused(Method::GET, "/admin/v1/usage?after=x", Value::Null, (400, "invalid_request")).await;
    gateway.refused(Method::GET, "/admin/v1/usage?from=today", Value::Null, (400, "invalid_request")).await;
    gateway.refused(Method::GET, "/admin/v1/receipts/7", Value::Null, (400, "invalid_request")).await;
    let receipt = "/admin/v1/receipts/req_00000000000000000000000000000001";
    gateway.refused(Method::GET, receipt, Value::Null, (404, "not_found")).await;
}

#[tokio::test]
async fn bodies_are_read_strictly_and_within_their_limit() {
    let gateway = Gateway::start();
    let create = |body: Value| gateway.refused(Method::POST, "/admin/v1/tenants", body, (400, "invalid_request"));
    assert!(create(json!({"id": "a", "nmae": "A"})).await.contains("nmae"));
    assert!(create(json!({})).await.contains("id"));
    assert!(create(json!({"id": "Not A Slug"})).await.contains("Not A Slug"));
    create(json!({"id": "a", "name": "x".repeat(label::NAME_CHARS_MAX + 1)})).await;
    create(json!({"id": "a", "name": "x".repeat(BODY_BYTES_MAX)})).await;
    let (status, _) = gateway.send(Method::POST, "/admin/v1/tenants", Some(ADMIN_KEY), Bytes::from_static(b"{")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(gateway.get("/admin/v1/tenants").await.1["data"], json!([]), "nothing was made");
}

#[tokio::test]
async fn a_tenant_is_made_once_with_its_project_and_its_name_sealed() {
    let gateway = Gateway::start();
    let body = json!({"id": "demo", "name": "Ada Lovelace & Co"});
    let (status, tenant) = gateway.post("/admin/v1/tenants", body.clone()).await;
    assert_eq!((status, &tenant["name"], &tenant["plan"]), (201, &json!("Ada Lovelace & Co"), &json!("standard")));
    gateway.refused(Method::POST, "/admin/v1/tenants", body, (409, "conflict")).await;
    let unknown_plan = json!({"id": "other", "plan": "gold"});
    let said = gateway.refused(Method::POST, "/admin/v1/tenants", unknown_plan, (404, "not_found")).await;
    assert!(said.contains("gold"), "{said}");
    let (_, projects) = gateway.get("/admin/v1/projects?tenant=demo").await;
    assert_eq!(projects["data"][0]["id"], "default");

    let gateway = gateway.restart();
    assert_eq!(gateway.get("/admin/v1/tenants/demo").await, (200, tenant), "it was durable when it was answered");
    let kept = read_all(gateway.dir.path());
    assert!(!kept.windows(12).any(|window| window == b"Ada Lovelace"), "words of people are ciphertext at rest");
    assert!(kept.windows(4).any(|window| window == b"demo"), "the files were read");
}

fn read_all(dir: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let content = |path: std::path::PathBuf| match path.is_dir() {
        true => read_all(&path),
        false => std::fs::read(&path).expect("a file"),
    };
    entries.flat_map(content).collect()
}

#[tokio::test]
async fn projects_belong_to_a_tenant() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let body = json!({"tenant": "demo", "id": "main", "name": "Main"});
    let (status, project) = gateway.post("/admin/v1/projects", body.clone()).await;
    assert_eq!((status, &project["name"]), (201, &json!("Main")));
    gateway.refused(Method::POST, "/admin/v1/projects", body, (409, "conflict")).await;
    let of_nobody = json!({"tenant": "nobody", "id": "main", "name": "Main"});
    gateway.refused(Method::POST, "/admin/v1/projects", of_nobody, (404, "not_found")).await;
    gateway.tenant("other").await;
    let (_, projects) = gateway.get("/admin/v1/projects").await;
    assert_eq!(projects["data"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_key_works_from_its_answer_on_until_it_is_revoked() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let key = gateway.key("demo").await;
    let (id, secret) = (key["id"].as_str().expect("an id").to_owned(), key["key"].as_str().expect("a key").to_owned());
    assert!(secret.starts_with("tg_") && secret.contains(&id), "{id}");
    assert_eq!((&key["project"], &key["scopes"]), (&json!("default"), &json!(["chat", "embeddings", "models"])));
    let knows = |gateway: &Gateway| gateway.app.admission.authenticate(Some(&secret)).is_ok();
    assert!(knows(&gateway));
    let (_, listed) = gateway.get("/admin/v1/keys?tenant=demo").await;
    assert_eq!(listed["data"][0]["id"], id.as_str());
    assert!(!listed.to_string().contains(&secret), "shown once");

    let gateway = gateway.restart();
    assert!(knows(&gateway), "it was durable when it was answered");
    let (status, revoked) = gateway.delete(&format!("/admin/v1/keys/{id}")).await;
    assert_eq!(status, 200);
    assert!(!knows(&gateway), "refused from the answer on");
    let again = gateway.delete(&format!("/admin/v1/keys/{id}")).await;
    assert_eq!(again, (200, revoked), "the first revocation counts");
    let gateway = gateway.restart();
    assert!(!knows(&gateway));
    gateway.refused(Method::DELETE, "/admin/v1/keys/k0", Value::Null, (404, "not_found")).await;
}

#[tokio::test]
async fn a_key_is_asked_for_sensibly_or_refused() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let full = json!({
        "tenant": "demo", "name": "laptop", "expires_at": "2999-01-01T00:00:00Z", "scopes": ["models"],
        "requests_per_minute": 60, "parallel_requests": 2,
    });
    let (status, key) = gateway.post("/admin/v1/keys", full).await;
    assert_eq!((status, &key["name"], &key["scopes"]), (201, &json!("laptop"), &json!(["models"])));
    assert_eq!((&key["expires_at"], &key["requests_per_minute"]), (&json!("2999-01-01T00:00:00Z"), &json!(60)));
    let refused = |body: Value, expected| gateway.refused(Method::POST, "/admin/v1/keys", body, expected);
    refused(json!({"tenant": "nobody"}), (404, "not_found")).await;
    refused(json!({"tenant": "demo", "project": "nothing"}), (404, "not_found")).await;
    for wrong in [
        json!({"tenant": "demo", "expires_at": "2020-01-01T00:00:00Z"}),
        json!({"tenant": "demo", "expires_at": "soon"}),
        json!({"tenant": "demo", "scopes": []}),
        json!({"tenant": "demo", "scopes": ["admin"]}),
        json!({"tenant": "demo", "requests_per_minute": 0}),
        json!({"tenant": "demo", "parallel_requests": -1}),
    ] {
        refused(wrong, (400, "invalid_request")).await;
    }
}

#[tokio::test]
async fn a_plan_counts_for_its_tenants_at_once() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let secret = gateway.key("demo").await["key"].as_str().expect("a key").to_owned();
    let body = json!({"markup_percent": "20.5", "tight_budget": "clamp", "unpriced_hold_usd": "0.1"});
    let (status, plan) = gateway.put("/admin/v1/plans/standard", body).await;
    assert_eq!((status, &plan["markup_percent"], &plan["unpriced_hold_usd"]), (200, &json!("20.50"), &json!("0.10")));
    let principal = gateway.app.admission.authenticate(Some(&secret)).expect("the key is good");
    assert_eq!(principal.tariff.markup_bps, 2050);
    let (_, plan) = gateway.put("/admin/v1/plans/standard", json!({})).await;
    assert_eq!(plan["tight_budget"], "refuse", "what is left out goes back to its default");
    for wrong in
        [json!({"markup_percent": "1.234"}), json!({"requests_per_minute": 0}), json!({"unpriced_hold_usd": "-1"})]
    {
        gateway.refused(Method::PUT, "/admin/v1/plans/standard", wrong, (400, "invalid_request")).await;
    }
    gateway.put("/admin/v1/plans/gold", json!({})).await;
    let (_, plans) = gateway.get("/admin/v1/plans").await;
    assert_eq!(plans["data"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_budget_is_set_seen_spent_from_and_removed() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let key = gateway.key("demo").await["id"].as_str().expect("an id").to_owned();
    let body = json!({"tenant": "demo", "window": "day", "cap_usd": "1.00", "basis": "cost"});
    let (status, budget) = gateway.put("/admin/v1/budgets", body).await;
    assert_eq!((status, &budget["cap_picousd"], &budget["key"]), (200, &json!("1000000000000"), &Value::Null));
    let of_key = json!({"tenant": "demo", "project": "default", "key": key, "window": "lifetime", "cap_usd": "2", "basis": "charge"});
    let (status, budget) = gateway.put("/admin/v1/budgets", of_key).await;
    assert_eq!((status, &budget["key"], &budget["project"]), (200, &json!(key), &Value::Null));

    gateway.spend("demo", &key, 1, 250_000_000_000 / 10);
    let (_, budgets) = gateway.get("/admin/v1/budgets?tenant=demo").await;
    let (own, keys) = (&budgets["data"][0], &budgets["data"][1]);
    assert_eq!((&own["posted_picousd"], &own["remaining_picousd"]), (&json!("25000000000"), &json!("975000000000")));
    assert_eq!((&own["pending_picousd"], &own["bounded_picousd"]), (&json!("0"), &json!("0")));
    assert!(own["resets_at"].is_string() && keys["resets_at"].is_null());
    assert_eq!(keys["posted_picousd"], "50000000000", "a charge budget counts the charge");

    let gateway = gateway.restart();
    assert_eq!(gateway.get("/admin/v1/budgets?tenant=demo").await.1, budgets);
    assert_eq!(gateway.delete("/admin/v1/budgets?tenant=demo&window=day").await.0, 204);
    gateway.refused(Method::DELETE, "/admin/v1/budgets?tenant=demo&window=day", Value::Null, (404, "not_found")).await;
    assert_eq!(gateway.get("/admin/v1/budgets").await.1["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn limits_are_set_seen_replaced_and_removed() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    gateway.tenant("other").await;
    let key = gateway.key("demo").await["id"].as_str().expect("an id").to_owned();
    for (whose, scope) in [
        (json!({"tenant": "demo"}), "tenant"),
        (json!({"tenant": "demo", "project": "default"}), "project"),
        (json!({"tenant": "demo", "key": key}), "key"),
        (json!({"tenant": "demo", "end_user": "ann"}), "end-user"),
        (json!({"tenant": "demo", "each": true}), "each-end-user"),
        (json!({"plan": "standard"}), "plan"),
        (json!({"plan": "standard", "each": true}), "each-tenant"),
        (json!({"platform": true}), "platform"),
    ] {
        let mut body = whose.clone();
        body["tokens_per_minute"] = 1_000.into();
        let (status, limit) = gateway.put("/admin/v1/limits", body).await;
        assert_eq!(
            (status, &limit["scope"], &limit["tokens_per_minute"]),
            (200, &json!(scope), &json!(1_000)),
            "{limit}"
        );
    }
    let (_, all) = gateway.get("/admin/v1/limits").await;
    assert_eq!(all["data"].as_array().map(Vec::len), Some(8));
    assert_eq!(gateway.get("/admin/v1/limits?tenant=demo").await.1["data"].as_array().map(Vec::len), Some(5));
    assert_eq!(gateway.get("/admin/v1/limits?tenant=other").await.1["data"], json!([]));
    let gateway = gateway.restart();
    assert_eq!(gateway.get("/admin/v1/limits").await.1, all, "they are in the journal");
    let (_, limit) = gateway.put("/admin/v1/limits", json!({"tenant": "demo", "parallel_requests": 3})).await;
    assert_eq!(
        (&limit["parallel_requests"], &limit["tokens_per_minute"]),
        (&json!(3), &Value::Null),
        "all three at once"
    );
    assert_eq!(gateway.delete("/admin/v1/limits?tenant=demo").await.0, 204);
    gateway.refused(Method::DELETE, "/admin/v1/limits?tenant=demo", Value::Null, (404, "not_found")).await;
    assert_eq!(gateway.delete("/admin/v1/limits?platform=true").await.0, 204);
    for (wrong, expected) in [
        (json!({"tenant": "demo"}), (400, "invalid_request")),
        (json!({"tenant": "demo", "parallel_requests": 0}), (400, "invalid_request")),
        (json!({"tenant": "demo", "platform": true, "parallel_requests": 1}), (400, "invalid_request")),
        (json!({"tenant": "demo", "parallel_requests": 1, "burst": 2}), (400, "invalid_request")),
        (json!({"tenant": "nobody", "parallel_requests": 1}), (404, "not_found")),
    ] {
        gateway.refused(Method::PUT, "/admin/v1/limits", wrong, expected).await;
    }
    assert_eq!(gateway.get("/admin/v1/limits").await.1["data"].as_array().map(Vec::len), Some(6));
}

#[tokio::test]
async fn a_budget_is_of_somebody_who_exists() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    gateway.tenant("other").await;
    gateway.post("/admin/v1/projects", json!({"tenant": "demo", "id": "main"})).await;
    let key = gateway.key("demo").await["id"].as_str().expect("an id").to_owned();
    let budget = |more: Value| {
        let mut body = json!({"tenant": "demo", "window": "day", "cap_usd": "1"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let refused = |more: Value, expected| gateway.refused(Method::PUT, "/admin/v1/budgets", budget(more), expected);
    refused(json!({"tenant": "nobody"}), (404, "not_found")).await;
    refused(json!({"project": "nothing"}), (404, "not_found")).await;
    refused(json!({"tenant": "other", "key": key}), (404, "not_found")).await;
    assert!(refused(json!({"project": "main", "key": key}), (400, "invalid_request")).await.contains("default"));
    for wrong in [json!({"cap_usd": "-1"}), json!({"cap_usd": "1e3"}), json!({"cap_usd": 1}), json!({"window": "year"})]
    {
        refused(wrong, (400, "invalid_request")).await;
    }
    assert_eq!(gateway.get("/admin/v1/budgets").await.1["data"], json!([]));
}

const BOOK: &str = r#"
version = "test-1"
source = "a test"
checked_at = "2026-11-23"
[[price]]
provider = "sim"
model = "gpt-4o-mini"
effective_from = "2020-01-01T00:00:00Z"
input_usd_per_million = "0.15"
output_usd_per_million = "0.60"
"#;

#[tokio::test]
async fn a_price_book_is_pushed_whole_or_not_at_all() {
    let gateway = Gateway::start();
    let push = |text: String| gateway.send(Method::POST, "/admin/v1/prices", Some(ADMIN_KEY), text.into());
    let (_, shipped) = gateway.get("/admin/v1/prices").await;
    assert_eq!(shipped["data"][0]["origin"], "shipped");
    let (status, body) = push("version = 1".to_owned()).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &json!("invalid_request")));
    assert_eq!(gateway.get("/admin/v1/prices").await.1, shipped, "the last good books stay");

    let long = format!("{BOOK}\n# {}", "x".repeat(BODY_BYTES_MAX));
    let (status, book) = push(long).await;
    assert_eq!((status.as_u16(), &book["version"], &book["prices"]), (201, &json!("test-1"), &json!(1)), "{book}");
    let now = gateway.app.clock().now();
    assert!(gateway.app.admission.prices().rate("sim", "gpt-4o-mini", now).is_some(), "it is in force");
    let (status, _) = push(BOOK.replace("0.60", "0.70")).await;
    assert_eq!(status, StatusCode::CONFLICT, "a version stands for one content");

    let gateway = gateway.restart();
    let (_, books) = gateway.get("/admin/v1/prices").await;
    assert_eq!((&books["data"][1]["version"], &books["data"][1]["origin"]), (&json!("test-1"), &json!("pushed")));
}

#[tokio::test]
async fn usage_is_listed_page_by_page_and_summed() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    gateway.tenant("other").await;
    let key = gateway.key("demo").await["id"].as_str().expect("an id").to_owned();
    let ids: Vec<_> = (1..=3).map(|number| gateway.spend("demo", &key, number, 1000).to_string()).collect();

    let (status, first) = gateway.get("/admin/v1/usage?tenant=demo&limit=2").await;
    assert_eq!(
        (status, first["data"].as_array().map(Vec::len)),
        (200, Some(2)),
        "an answered request is in it at once"
    );
    let next = first["next"].as_str().expect("there is more").to_owned();
    let (_, second) = gateway.get(&format!("/admin/v1/usage?tenant=demo&limit=2&after={next}")).await;
    assert_eq!((second["data"].as_array().map(Vec::len), &second["next"]), (Some(1), &Value::Null));
    let event = &first["data"][0];
    assert_eq!((&event["request_id"], &event["state"]), (&json!(ids[0]), &json!("posted")));
    assert_eq!((&event["cost_picousd"], &event["hold_cost_picousd"]), (&json!("1000"), &json!("10000")));
    assert_eq!((&event["confidence"], &event["outcome"]), (&json!("measured"), &json!("completed")));
    assert_eq!((&event["input_tokens"], &event["output_tokens"]), (&json!(7), &json!(3)));

    assert_eq!(gateway.get("/admin/v1/usage?tenant=other").await.1["data"], json!([]));
    assert_eq!(gateway.get("/admin/v1/usage?state=voided").await.1["data"], json!([]));
    let (_, sums) = gateway.get("/admin/v1/usage/summary?tenant=demo").await;
    let sum = &sums["data"][0];
    assert_eq!((&sum["group"], &sum["requests"]), (&json!("sim/gpt-4o-mini"), &json!(3)));
    assert_eq!((&sum["cost_picousd"], &sum["charge_picousd"]), (&json!("3000"), &json!("6000")));
    for (by, group) in [("tenant", "demo"), ("project", "demo/default"), ("key", &*format!("demo/{key}"))] {
        let (_, sums) = gateway.get(&format!("/admin/v1/usage/summary?by={by}")).await;
        assert_eq!(sums["data"][0]["group"], group);
    }

    let (status, receipt) = gateway.get(&format!("/admin/v1/receipts/{}", ids[1])).await;
    assert_eq!(
        (status, &receipt["cost_usd"], &receipt["charge_usd"]),
        (200, &json!("0.000000001"), &json!("0.000000002"))
    );
    assert_eq!(receipt["request_id"], ids[1].as_str());
}

#[tokio::test]
async fn the_ledger_says_that_it_balances() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let key = gateway.key("demo").await["id"].as_str().expect("an id").to_owned();
    gateway.spend("demo", &key, 1, 1000);
    let (status, ledger) = gateway.get("/admin/v1/ledger").await;
    assert_eq!((status, &ledger["drift_picousd"], &ledger["requests"]), (200, &json!("0"), &json!(1)));
    assert_eq!((&ledger["held_picousd"], &ledger["posted_picousd"]), (&json!("10000"), &json!("1000")));
    assert_eq!((&ledger["released_picousd"], &ledger["reservations_pending"]), (&json!("9000"), &json!(0)));
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let gateway = Gateway::start();
    let (_, routes) = gateway.get("/admin/v1/routes").await;
    assert_eq!((&routes["data"][0]["route"], &routes["data"][0]["model"]), (&json!("small"), &json!("gpt-4o-mini")));
    let (_, providers) = gateway.get("/admin/v1/providers").await;
    assert_eq!(
        (&providers["data"][0]["provider"], &providers["data"][0]["has_api_key"]),
        (&json!("sim"), &json!(true))
    );
    assert!(!providers.to_string().contains(ADMIN_KEY), "the provider's key is not shown");
}

#[tokio::test]
async fn once_the_journal_takes_nothing_more_nothing_is_said_to_be_done() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let Gateway { app, store, dir: _dir, .. } = gateway;
    // The journal's thread ends: what is appended from now on is never durable.
    store.close();
    let request = Request::builder().method(Method::PUT).uri("/admin/v1/plans/gold");
    let request = request.header("authorization", format!("Bearer {ADMIN_KEY}")).body(Bytes::from_static(b"{}"));
    let answered = tokio::time::timeout(
        Duration::from_millis(100),
        answer(&app, Ok(Operator::admin()), RequestId(1), request.expect("a request")),
    )
    .await;
    assert!(answered.is_err(), "no answer may be given for what is not durable");
}
