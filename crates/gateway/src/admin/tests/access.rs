//! The access matrix: every route, asked by every role, of its own tenant, of another's, of the platform. What came of it
//! stands in `docs/access-matrix.txt`, for people to read; a route that is not asked here fails the test, and so does one that
//! answers otherwise than the file says. To write the file anew: `TOLLGATE_WRITE=1 cargo test -p tollgate-gateway matrix`.
#![expect(
    clippy::disallowed_methods,
    reason = "the matrix is a file of the repository, which this test can write anew"
)]

use std::borrow::Cow;
use std::fmt::Write as _;

use tollgate_guard::Role;
use tollgate_types::access::{Approval, Person};
use tollgate_types::directory::Change;
use tollgate_types::{TenantId, Timestamp};

use super::*;
use crate::access::Grant;

const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/access-matrix.txt");

/// An operation as it is asked: `{t}` is a tenant, `{k}` its key, `{r}` a request of its, `{s}` a service key, `{a}` what waits
/// for a second human there, `{e}` an audit entry of its. Without one of these it is the platform's or everybody's.
#[derive(Clone)]
pub struct Question {
    pub operation: &'static str,
    pub method: Method,
    pub path: Cow<'static, str>,
    pub body: Cow<'static, str>,
}

impl Question {
    /// Whether it says itself whose it is.
    pub fn names_a_tenant(&self) -> bool {
        self.path.contains("{t}") || self.body.contains("{t}")
    }

    /// Whether it names a tenant, or something of one.
    fn is_somebodys(&self) -> bool {
        ["{t}", "{k}", "{r}", "{s}", "{a}", "{e}"]
            .iter()
            .any(|name| self.path.contains(name) || self.body.contains(name))
    }
}

const fn ask(operation: &'static str, method: Method, path: &'static str, body: &'static str) -> Question {
    Question { operation, method, path: Cow::Borrowed(path), body: Cow::Borrowed(body) }
}

pub const QUESTIONS: &[Question] = &[
    ask("list_tenants", Method::GET, "/admin/v1/tenants", ""),
    ask("create_tenant", Method::POST, "/admin/v1/tenants", r#"{"id":"new"}"#),
    ask("show_tenant", Method::GET, "/admin/v1/tenants/{t}", ""),
    ask("set_tenant", Method::PUT, "/admin/v1/tenants/{t}", "{}"),
    ask("list_projects", Method::GET, "/admin/v1/projects", ""),
    ask("list_projects", Method::GET, "/admin/v1/projects?tenant={t}", ""),
    ask("create_project", Method::POST, "/admin/v1/projects", r#"{"tenant":"{t}","id":"more"}"#),
    ask("list_keys", Method::GET, "/admin/v1/keys", ""),
    ask("list_keys", Method::GET, "/admin/v1/keys?tenant={t}", ""),
    ask("create_key", Method::POST, "/admin/v1/keys", r#"{"tenant":"{t}"}"#),
    ask("revoke_key", Method::DELETE, "/admin/v1/keys/{k}", ""),
    ask("list_service_keys", Method::GET, "/admin/v1/service-keys", ""),
    ask("list_service_keys", Method::GET, "/admin/v1/service-keys?tenant={t}", ""),
    ask("create_service_key", Method::POST, "/admin/v1/service-keys", r#"{"role":"auditor"}"#),
    ask("create_service_key", Method::POST, "/admin/v1/service-keys", r#"{"role":"auditor","tenant":"{t}"}"#),
    ask("revoke_service_key", Method::DELETE, "/admin/v1/service-keys/{s}", ""),
    ask("show_me", Method::GET, "/admin/v1/access/me", ""),
    ask("list_sessions", Method::GET, "/admin/v1/access/sessions", ""),
    ask("end_sessions", Method::DELETE, "/admin/v1/access/sessions?subject=nobody", ""),
    ask("break_glass", Method::POST, "/admin/v1/access/break-glass", r#"{"reason":"fire","minutes":0}"#),
    ask("list_approvals", Method::GET, "/admin/v1/approvals", ""),
    ask("list_approvals", Method::GET, "/admin/v1/approvals?tenant={t}", ""),
    ask("decide_approval", Method::POST, "/admin/v1/approvals/{a}", r#"{"approve":false}"#),
    ask("list_audit", Method::GET, "/admin/v1/audit", ""),
    ask("list_audit", Method::GET, "/admin/v1/audit?tenant={t}", ""),
    ask("show_audit_entry", Method::GET, "/admin/v1/audit/0", ""),
    ask("show_audit_entry", Method::GET, "/admin/v1/audit/{e}", ""),
    ask("show_audit_checkpoint", Method::GET, "/admin/v1/audit/checkpoint", ""),
    ask("export_audit", Method::GET, "/admin/v1/audit/export?format=ocsf", ""),
    ask("export_audit", Method::GET, "/admin/v1/audit/export?tenant={t}&format=proof", ""),
    ask("list_plans", Method::GET, "/admin/v1/plans", ""),
    ask("set_plan", Method::PUT, "/admin/v1/plans/gold", r#"{"markup_percent":"1"}"#),
    ask("list_budgets", Method::GET, "/admin/v1/budgets", ""),
    ask("list_budgets", Method::GET, "/admin/v1/budgets?tenant={t}", ""),
    ask("set_budget", Method::PUT, "/admin/v1/budgets", r#"{"platform":true,"window":"day","cap_usd":"9"}"#),
    ask("set_budget", Method::PUT, "/admin/v1/budgets", r#"{"tenant":"{t}","window":"day","cap_usd":"9"}"#),
    ask(
        "set_budget",
        Method::PUT,
        "/admin/v1/budgets",
        r#"{"tenant":"{t}","project":"default","window":"day","cap_usd":"9"}"#,
    ),
    ask("set_budget", Method::PUT, "/admin/v1/budgets", r#"{"tenant":"{t}","key":"{k}","window":"day","cap_usd":"9"}"#),
    ask("set_budget", Method::PUT, "/admin/v1/budgets", r#"{"tenant":"{t}","each":true,"window":"day","cap_usd":"9"}"#),
    ask("remove_budget", Method::DELETE, "/admin/v1/budgets?platform=true&window=week", ""),
    ask("remove_budget", Method::DELETE, "/admin/v1/budgets?tenant={t}&window=week", ""),
    ask("remove_budget", Method::DELETE, "/admin/v1/budgets?tenant={t}&end_user=u&window=week", ""),
    ask("list_budget_alerts", Method::GET, "/admin/v1/budgets/alerts", ""),
    ask("list_budget_alerts", Method::GET, "/admin/v1/budgets/alerts?tenant={t}", ""),
    ask("list_limits", Method::GET, "/admin/v1/limits", ""),
    ask("list_limits", Method::GET, "/admin/v1/limits?tenant={t}", ""),
    ask("set_limits", Method::PUT, "/admin/v1/limits", r#"{"platform":true,"parallel_requests":9}"#),
    ask("set_limits", Method::PUT, "/admin/v1/limits", r#"{"tenant":"{t}","parallel_requests":9}"#),
    ask("set_limits", Method::PUT, "/admin/v1/limits", r#"{"tenant":"{t}","project":"default","parallel_requests":9}"#),
    ask("remove_limits", Method::DELETE, "/admin/v1/limits?platform=true", ""),
    ask("remove_limits", Method::DELETE, "/admin/v1/limits?tenant={t}", ""),
    ask("remove_limits", Method::DELETE, "/admin/v1/limits?tenant={t}&project=default", ""),
    ask("list_usage", Method::GET, "/admin/v1/usage", ""),
    ask("list_usage", Method::GET, "/admin/v1/usage?tenant={t}", ""),
    ask("summarise_usage", Method::GET, "/admin/v1/usage/summary", ""),
    ask("summarise_usage", Method::GET, "/admin/v1/usage/summary?tenant={t}", ""),
    ask("show_bill", Method::GET, "/admin/v1/usage/bill?tenant={t}&month=2026-11", ""),
    ask("list_receipt_keys", Method::GET, "/admin/v1/receipts/keys", ""),
    ask("rotate_receipt_key", Method::POST, "/admin/v1/receipts/keys", ""),
    ask("show_receipt", Method::GET, "/admin/v1/receipts/{r}", ""),
    ask("show_ledger", Method::GET, "/admin/v1/ledger", ""),
    ask(
        "list_ledger_buckets",
        Method::GET,
        "/admin/v1/ledger/buckets?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&width_seconds=86400&slack_seconds=0",
        "",
    ),
    ask("reconcile_ledger", Method::POST, "/admin/v1/ledger/reconciliations", r#"{"billed":[]}"#),
    ask("list_routes", Method::GET, "/admin/v1/routes", ""),
    ask("list_providers", Method::GET, "/admin/v1/providers", ""),
    ask("list_policies", Method::GET, "/admin/v1/policies", ""),
    ask("push_policy", Method::PUT, "/admin/v1/policies?platform=true", "no archive"),
    ask("push_policy", Method::PUT, "/admin/v1/policies?tenant={t}", "no archive"),
    ask("remove_policy", Method::DELETE, "/admin/v1/policies?plan=standard", ""),
    ask("remove_policy", Method::DELETE, "/admin/v1/policies?tenant={t}", ""),
    ask("roll_policy_back", Method::POST, "/admin/v1/policies/rollback?platform=true", ""),
    ask("roll_policy_back", Method::POST, "/admin/v1/policies/rollback?tenant={t}", ""),
    ask("show_policy_bundle", Method::GET, "/admin/v1/policies/bundle?plan=standard", ""),
    ask("show_policy_bundle", Method::GET, "/admin/v1/policies/bundle?tenant={t}", ""),
    ask("list_policy_decisions", Method::GET, "/admin/v1/policies/decisions", ""),
    ask("list_policy_decisions", Method::GET, "/admin/v1/policies/decisions?tenant={t}", ""),
    ask("list_price_books", Method::GET, "/admin/v1/prices", ""),
    ask("push_price_book", Method::POST, "/admin/v1/prices", "no book"),
    ask(
        "correct_prices",
        Method::POST,
        "/admin/v1/prices/corrections",
        r#"{"book":"","from":"2026-11-01T00:00:00Z","to":"2026-12-01T00:00:00Z"}"#,
    ),
];

/// A tenant with what it has.
pub struct Room {
    pub tenant: String,
    pub key: String,
    pub request: String,
    pub service_key: String,
    pub approval: String,
    pub entry: String,
}

/// A person with one role.
pub fn somebody(role: Role, tenant: Option<TenantId>) -> Operator {
    let person = Person { subject: "ada".into(), name: "ada@example.com".into() };
    Operator::person(person, [Grant { role, tenant }])
}

fn operators() -> Vec<(String, Option<Operator>)> {
    let own: TenantId = "own".parse().expect("a slug");
    let people = [None, Some(own)].into_iter().flat_map(|tenant| {
        Role::ALL.iter().map(move |role| {
            let name = format!("{}{}", if tenant.is_some() { "own/" } else { "" }, role.name());
            (name, Some(somebody(*role, tenant.clone())))
        })
    });
    [("nobody".to_owned(), None)].into_iter().chain(people).collect()
}

async fn room(gateway: &Gateway, tenant: &str, number: u128) -> Room {
    gateway.tenant(tenant).await;
    let key = gateway.key(tenant).await["id"].as_str().expect("an id").to_owned();
    let request = gateway.spend(tenant, &key, number, 7).to_string();
    let (service_key, approval) = access_of(gateway, tenant).await;
    let entry = entry_of(gateway, tenant).await;
    Room { tenant: tenant.to_owned(), key, request, service_key, approval, entry }
}

/// The number of the tenant's newest audit entry.
pub async fn entry_of(gateway: &Gateway, tenant: &str) -> String {
    let (status, page) = gateway.get(&format!("/admin/v1/audit?tenant={tenant}&limit=1")).await;
    assert_eq!(status, 200, "{page}");
    page["data"][0]["n"].to_string()
}

/// A service key of the tenant's, and something of its own that waits for a second human.
pub async fn access_of(gateway: &Gateway, tenant: &str) -> (String, String) {
    let wanted = json!({"role": "auditor", "tenant": tenant});
    let (status, made) = gateway.post("/admin/v1/service-keys", wanted).await;
    assert_eq!(status, 201, "{made}");
    let approval = Approval {
        id: format!("a-{tenant}").parse().expect("a slug"),
        act: "set_limits".into(),
        request: [0; 32],
        what: format!("let {tenant} do more").into(),
        tenant: Some(tenant.parse().expect("a slug")),
        part: true,
        asked_by: Actor::AdminKey,
        asked_at: Timestamp(0),
        expires_at: gateway.app.clock().now().plus(Duration::from_secs(3_600)),
        decided: None,
        used_at: None,
    };
    let id = approval.id.to_string();
    gateway.app.books.change(Change::ApprovalAsked(Box::new(approval))).expect("it is asked for");
    (made["id"].as_str().expect("an id").to_owned(), id)
}

/// What came of a question, in a word: it was let through, whatever it then came to; or who asked may not; or there is no such
/// thing, which is what is said of another tenant's, too; or nobody knows who asks.
fn told(status: StatusCode, body: &Value) -> &'static str {
    let said = body["error"]["message"].as_str().unwrap_or_default();
    match status {
        StatusCode::UNAUTHORIZED => "who?",
        StatusCode::FORBIDDEN => "no",
        StatusCode::NOT_FOUND
            if ["tenant", "key", "receipt", "service key", "approval", "audit entry"]
                .iter()
                .any(|what| said.starts_with(&format!("there is no {what} '"))) =>
        {
            "none"
        }
        StatusCode::METHOD_NOT_ALLOWED => panic!("no such route: {said}"),
        _ => "yes",
    }
}

pub async fn answered(
    gateway: &Gateway,
    operator: Option<&Operator>,
    question: &Question,
    room: &Room,
) -> (StatusCode, Value) {
    let filled = |text: &str| text.replace("{t}", &room.tenant).replace("{k}", &room.key).replace("{r}", &room.request);
    let filled = |text: &str| {
        filled(text).replace("{s}", &room.service_key).replace("{a}", &room.approval).replace("{e}", &room.entry)
    };
    let request = Request::builder().method(question.method.clone()).uri(filled(&question.path));
    let request = request.body(Bytes::from(filled(&question.body))).expect("a request");
    let operator = operator.cloned().ok_or(Unknown::Nobody);
    let response = answer(&gateway.app, operator, RequestId(1), request).await;
    let status = response.status();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn every_route_is_in_the_access_matrix_and_does_as_it_says() {
    let gateway = Gateway::start();
    let (own, other) = (room(&gateway, "own", 1).await, room(&gateway, "other", 2).await);
    let operators = operators();
    let mut matrix = String::from(
        "# What each role may do, as every route answered when it was asked (crates/gateway/src/admin/tests/access.rs).\n\
         # yes: let through; no: 403 role_denied; none: 404, as of what is not there; who?: 401.\n\
         # Roles under `own/` belong to the tenant `own`, the others to the operator. t: a tenant, k: a key of it, r: a\n\
         # request of it, s: a service key of it, a: what waits there for a second human, e: an\n\
         # audit entry of it. All are people: what machines\n\
         # may not do whatever their role is at the end.\n",
    );
    for question in QUESTIONS {
        let rooms =
            if question.is_somebodys() { vec![("its own", &own), ("another's", &other)] } else { vec![("", &own)] };
        let what = format!("{} {} {}", question.method, question.path.replace("/admin/v1", ""), question.body);
        let _ = write!(matrix, "\n{}\n    {}\n", question.operation, what.trim_end());
        for (whose, room) in rooms {
            let mut words: Vec<(&str, Vec<&str>)> = Vec::new();
            for (name, operator) in &operators {
                let (status, body) = answered(&gateway, operator.as_ref(), question, room).await;
                let word = told(status, &body);
                match words.iter_mut().find(|(known, _)| *known == word) {
                    Some((_, names)) => names.push(name),
                    None => words.push((word, vec![name])),
                }
            }
            for (word, names) in words {
                let _ = writeln!(matrix, "    {:<10} {word:<5} {}", whose, names.join(" "));
            }
        }
    }
    matrix.push_str("\n# Not for machines: ");
    matrix.push_str(&not_for_machines(&gateway, &own).await.join(" "));
    matrix.push('\n');
    let known: Vec<&str> = QUESTIONS.iter().map(|question| question.operation).collect();
    for (_, path, operation) in described_operations() {
        assert!(known.contains(&operation.as_str()), "{operation} ({path}) is not asked: add it to QUESTIONS");
        assert!(
            tollgate_guard::Act::ALL.iter().any(|act| act.name() == operation),
            "the guard does not know {operation}"
        );
    }
    if std::env::var_os("TOLLGATE_WRITE").is_some() {
        std::fs::write(MATRIX, &matrix).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(MATRIX).unwrap_or_default();
    for (line, (is, was)) in matrix.lines().zip(committed.lines()).enumerate() {
        assert_eq!(is, was, "docs/access-matrix.txt, line {}: a route answers otherwise", line + 1);
    }
    assert_eq!(matrix.lines().count(), committed.lines().count(), "docs/access-matrix.txt has other routes");
}

/// What a machine with all roles there are is not let do, where a person with the same is.
async fn not_for_machines(gateway: &Gateway, room: &Room) -> Vec<&'static str> {
    let grants: Vec<_> = Role::ALL.iter().map(|role| Grant { role: *role, tenant: None }).collect();
    let person = Operator { grants: grants.clone().into(), ..somebody(Role::Auditor, None) };
    let machine = Operator { grants: grants.into(), ..Operator::admin() };
    let mut refused = Vec::new();
    for question in QUESTIONS {
        let (status, _) = answered(gateway, Some(&person), question, room).await;
        assert_ne!(status, StatusCode::FORBIDDEN, "{}", question.operation);
        let (status, _) = answered(gateway, Some(&machine), question, room).await;
        if status == StatusCode::FORBIDDEN {
            refused.push(question.operation);
        }
    }
    refused
}

#[tokio::test]
async fn what_is_anothers_is_refused_in_the_words_for_what_is_not_there() {
    let gateway = Gateway::start();
    let other = room(&gateway, "other", 1).await;
    let request = RequestId(9).to_string();
    let nothing = Room {
        tenant: "nobody".to_owned(),
        key: "k0".to_owned(),
        request,
        service_key: "s0".to_owned(),
        approval: "a0".to_owned(),
        entry: "999999".to_owned(),
    };
    let named = |room: &Room| format!("entry '{}'", room.entry);
    room(&gateway, "own", 2).await;
    for role in Role::ALL {
        let operator = somebody(*role, Some("own".parse().expect("a slug")));
        for question in QUESTIONS.iter().filter(|question| question.is_somebodys()) {
            let (status, body) = answered(&gateway, Some(&operator), question, &other).await;
            let (status_of_nothing, body_of_nothing) = answered(&gateway, Some(&operator), question, &nothing).await;
            let names = [
                (&other.approval, &nothing.approval),
                (&other.tenant, &nothing.tenant),
                (&other.key, &nothing.key),
                (&other.request, &nothing.request),
                (&other.service_key, &nothing.service_key),
                (&named(&other), &named(&nothing)),
            ];
            let body = names.iter().fold(body.to_string(), |text, (is, none)| text.replace(is.as_str(), none));
            let asked = format!("{role:?}: {} {}", question.operation, question.path);
            assert_eq!((status, body), (status_of_nothing, body_of_nothing.to_string()), "{asked}");
            assert_eq!(status, StatusCode::NOT_FOUND, "{asked}");
        }
    }
}
