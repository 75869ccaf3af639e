//! The audit log as auditors meet it: what is in it of what was done, what proves it, and what is not in it.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use tollgate_audit::note::Verifier;
use tollgate_audit::view::verify_view;
use tollgate_client::{AuditExport, AuditFormat, AuditQuery};

use crate::world::{ADMIN_KEY, Setup, World, ask, ask_stream, bearer};

async fn exported(world: &World, wanted: AuditExport) -> String {
    let mut all = Vec::new();
    let taken = world.admin.export_audit(&wanted, |piece| {
        all.extend_from_slice(piece);
        true
    });
    taken.await.expect("an export");
    String::from_utf8(all).expect("text")
}

async fn entries(world: &World) -> Vec<Value> {
    let text = exported(world, AuditExport::default()).await;
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn acts<'a>(entries: &'a [Value], act: &str) -> Vec<&'a Value> {
    entries.iter().filter(|entry| entry["act"] == act).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_is_in_the_log_before_and_after_it_and_with_what_it_changed_between() {
    let world = World::start().await;
    let mut headers = bearer(ADMIN_KEY).to_vec();
    headers.push(("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()));
    let body = json!({"tenant": "demo", "window": "day", "cap_usd": "3"}).to_string();
    let set = world.http.send(Method::PUT, "/admin/v1/budgets", &headers, body).await;
    assert_eq!(set.status, 200);
    let id = set.request_id().to_owned();
    let refused = json!({"tenant": "demo", "window": "day", "cap_usd": "lots"}).to_string();
    assert_eq!(world.http.send(Method::PUT, "/admin/v1/budgets", &headers, refused).await.status, 400);
    let all = entries(&world).await;
    let of_it: Vec<_> = all.iter().skip_while(|entry| entry["request"] != id.as_str()).take(3).collect();
    let kinds: Vec<_> = of_it.iter().map(|entry| entry["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["act.begun", "budget.set", "act.completed"]);
    assert_eq!((&of_it[0]["actor"], &of_it[0]["tenant"]), (&json!("admin-key"), &json!("demo")));
    assert_eq!(of_it[0]["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((&of_it[1]["cap"], &of_it[1]["window"]), (&json!("3000000000000"), &json!("day")));
    assert_eq!((&of_it[2]["status"], &of_it[2]["request"]), (&json!(200), &json!(id)));
    let later = acts(&all, "set_budget");
    let last = later.last().expect("the one that was refused");
    assert_eq!(
        (&last["kind"], &last["status"], &last["note"]),
        (&json!("act.completed"), &json!(400), &json!("invalid_request"))
    );
    assert_eq!(
        all.iter().map(|entry| entry["n"].as_u64()).collect::<Vec<_>>(),
        (0..all.len() as u64).map(Some).collect::<Vec<_>>()
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_that_was_held_for_is_in_the_log_once_and_as_the_ledger_has_it() {
    let world = World::start().await;
    for model in ["gpt-4o-mini", "gpt-4o-mini+cut", "gpt-4o-mini+error-500", "dead"] {
        for body in [ask(model), ask_stream(model)] {
            // What comes of it is not the question here.
            let _ = world.chat(body).await;
        }
    }
    world.budget(json!({"tenant": "demo", "window": "request", "cap_usd": "0.0000001"})).await;
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 429, "nothing is held for it");
    world.settled().await;
    let events = world.events().await;
    let all = entries(&world).await;
    let mut logged: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for entry in all.iter().filter(|entry| entry["kind"].as_str().is_some_and(|kind| kind.starts_with("request."))) {
        logged.entry(entry["request"].as_str().expect("an id")).or_default().push(entry);
    }
    assert_eq!(logged.len(), events.len(), "as many as the ledger has");
    assert_eq!(events.len(), 8, "as many as came in and were held for");
    for event in &events {
        let of_it = &logged[&*event.request_id];
        let kinds: Vec<_> = of_it.iter().map(|entry| entry["kind"].as_str().expect("a kind")).collect();
        let ended =
            if event.state == tollgate_client::UsageState::Posted { "request.posted" } else { "request.voided" };
        assert_eq!(kinds, ["request.admitted", ended], "{event:?}");
        assert_eq!(of_it[0]["hold_cost"], event.hold_cost_picousd.as_str());
        assert_eq!(of_it[0]["key"], world.key_id.as_str());
        if ended == "request.posted" {
            assert_eq!(of_it[1]["cost"], event.cost_picousd.as_str());
        }
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_let_is_in_the_log_and_a_flood_of_them_is_a_few_lines() {
    let world = World::start().await;
    let (other_id, other) = world.tenant("other").await;
    for _ in 0..300 {
        assert_eq!(world.http.chat("tg_nobody", ask("gpt-4o-mini")).await.status, 401);
    }
    assert_eq!(
        world.http.post("/t/demo/v1/chat/completions", &bearer(&other), ask("gpt-4o-mini").to_string()).await.status,
        404
    );
    let (id, narrow) = world.new_key(json!({"tenant": "demo", "scopes": ["models"]})).await;
    assert_eq!(world.http.chat(&narrow, ask("gpt-4o-mini")).await.status, 403);
    // A tenant's own people who ask for another's things: that is in their own log.
    let role = json!({"role": "developer", "tenant": "demo"}).to_string();
    let machine = world.http.post("/admin/v1/service-keys", &bearer(ADMIN_KEY), role).await.json();
    for tenant in ["other", "nowhere"] {
        let path = format!("/admin/v1/keys?tenant={tenant}");
        assert_eq!(world.http.get(&path, machine["key"].as_str().expect("a key")).await.status, 404);
    }
    world.admin.revoke_key(&id).await.expect("revoked");
    assert_eq!(world.http.get("/v1/models", &narrow).await.status, 401);
    assert_eq!(world.http.get("/admin/v1/tenants", "tgs_nobody").await.status, 401);
    // Nobody waits until it is durable that somebody was refused; this does.
    world.tenant("later").await;
    let all = entries(&world).await;
    let denied: Vec<_> = all
        .iter()
        .filter(|entry| entry["kind"] == "act.denied")
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
            (text("actor"), text("act"), text("tenant"), entry["status"].as_u64().unwrap_or(0))
        })
        .collect();
    let of = |key: &str| format!("api-key:{key}");
    let expected = [
        ("nobody".to_owned(), "chat".to_owned(), "-".to_owned(), 401),
        (of(&other_id), "chat".to_owned(), "other".to_owned(), 404),
        (of(&id), "chat".to_owned(), "demo".to_owned(), 403),
        (
            format!("service-key:{}", machine["id"].as_str().expect("an id")),
            "list_keys".to_owned(),
            "demo".to_owned(),
            404,
        ),
        // Somebody still has a key that was revoked: that is of note for whose it was.
        (of(&id), "models".to_owned(), "demo".to_owned(), 401),
        ("nobody".to_owned(), "control_plane".to_owned(), "-".to_owned(), 401),
    ];
    assert_eq!(denied, expected);
    // At the end of their minute, or of the program, the others are told together.
    let dir = world.close().await;
    let log = tollgate_store::audit::AuditReader::of(dir.path().join("data/audit"));
    let last = log.newest(None, None, 2).expect("readable");
    let last: Vec<Value> = last.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let counted = |entry: &Value| entry["kind"] == "act.denied" && entry["actor"] == "nobody" && entry["count"] == 299;
    assert!(last.iter().any(counted), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_prompts_answers_keys_or_people_is_in_the_log() {
    let world = World::start().await;
    let mut body = ask("gpt-4o-mini");
    body["messages"][0]["content"] = json!("canary-prompt");
    let mut headers = bearer(&world.key).to_vec();
    headers.extend([
        ("x-tollgate-end-user", "canary-user".to_owned()),
        ("x-run-id", "canary-run".to_owned()),
        ("idempotency-key", "canary-idempotency".to_owned()),
    ]);
    let answer = world.http.post("/v1/chat/completions", &headers, body.to_string()).await;
    let said = answer.json()["choices"][0]["message"]["content"].as_str().expect("an answer").to_owned();
    let named = json!({"id": "named", "name": "canary-name"}).to_string();
    assert_eq!(world.http.post("/admin/v1/tenants", &bearer(ADMIN_KEY), named).await.status, 201);
    let by_user = "/admin/v1/budgets?tenant=demo&window=day&end_user=canary-user";
    assert_eq!(world.http.send(Method::DELETE, by_user, &bearer(ADMIN_KEY), "").await.status, 404);
    let all = exported(&world, AuditExport::default()).await;
    assert!(all.contains("request.admitted") && all.contains("remove_budget"));
    for secret in ["canary", &world.key, ADMIN_KEY, &said] {
        assert!(!all.contains(secret), "{secret} is in the log");
    }
    let digest = world.gateway.app.books.with_directory(|directory| {
        let key = world.key_id.parse().expect("a slug");
        directory.key(&key).map(|key| tollgate_types::hex(&key.digest)).expect("the key")
    });
    assert!(!all.contains(&digest));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_its_own_entries_and_can_prove_them_and_the_files_verify() {
    let world = World::start().await;
    let (_, other) = world.tenant("other").await;
    for key in [&world.key, &other] {
        assert_eq!(world.http.chat(key, ask("gpt-4o-mini")).await.status, 200);
    }
    let kept = world.admin.audit_checkpoint(None).await.expect("a checkpoint");
    let verifier = Verifier::parse(&kept.key).expect("a key");
    assert_eq!(world.http.chat(&other, ask("gpt-4o-mini")).await.status, 200);
    let wanted = AuditExport { tenant: Some("demo".into()), format: Some(AuditFormat::Proof) };
    let proof = exported(&world, wanted).await;
    let demo = "demo".parse().expect("a slug");
    let report = verify_view(proof.as_bytes(), &demo, Some(&verifier)).expect("it holds");
    assert!(report.entries >= 5 && !proof.contains("other"), "{report:?}");
    let without_one: String =
        proof.lines().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| format!("{line}\n")).collect();
    assert!(verify_view(without_one.as_bytes(), &demo, Some(&verifier)).is_err(), "one is left out");
    let changed = proof.replacen("create_key", "revoke_key", 1);
    assert!(verify_view(changed.as_bytes(), &demo, Some(&verifier)).is_err(), "one is changed");

    let page = world
        .admin
        .audit(&AuditQuery { tenant: Some("demo".into()), before: None, limit: Some(2) })
        .await
        .expect("a page");
    assert_eq!(page.data.len(), 2);
    let rest = world
        .admin
        .audit(&AuditQuery { tenant: Some("demo".into()), before: page.next, limit: None })
        .await
        .expect("the rest");
    assert_eq!(rest.data.len() as u64 + 2, report.entries);
    assert!(page.data.iter().chain(&rest.data).all(|entry| entry["tenant"] == "demo"));
    let ocsf = exported(&world, AuditExport { tenant: None, format: Some(AuditFormat::Ocsf) }).await;
    let first: Value = serde_json::from_str(ocsf.lines().next().expect("events")).expect("JSON");
    assert_eq!(first["metadata"]["product"]["name"], "Tollgate");
    let now = world.admin.audit_checkpoint(Some(1)).await.expect("a checkpoint");
    assert!(now.consistency.is_some_and(|path| !path.is_empty()));
    assert!(world.admin.audit_checkpoint(Some(1 << 40)).await.is_err());

    // What was kept elsewhere is in the files still, when the gateway has stopped.
    let dir = world.close().await;
    let audit = dir.path().join("data/audit");
    let report =
        tollgate_store::audit::verify(&audit, Some(&kept.checkpoint), Some(&verifier)).expect("it is in order");
    assert!(report.signatures_checked && report.size > 20);
    // And it goes on where it ended.
    let world = World::reopened(Setup::default(), dir).await;
    let again = world.admin.audit_checkpoint(Some(report.size)).await.expect("it grew out of it");
    assert_eq!(again.key, kept.key);
    let dir = world.close().await;
    let path = dir.path().join("data/audit").join("entries-00000000000000000000.jsonl");
    let text = std::fs::read_to_string(&path).expect("entries");
    std::fs::write(&path, text.replacen("\"demo\"", "\"dem0\"", 1)).expect("changed");
    let found = tollgate_store::audit::verify(&dir.path().join("data/audit"), Some(&kept.checkpoint), Some(&verifier));
    assert!(found.is_err(), "somebody changed it");
}
