//! Receipts as tenants get them, verified as strangers do: with the published keys and nothing else.

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tollgate_client::ReceiptStatement;
use tollgate_gateway::questions;
use tollgate_gateway::receipt::jws::PublicKeys;
use tollgate_gateway::receipt::verify::Verdict;
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{Adjusted, Amounts};
use tollgate_types::{Confidence, PicoUsd, RequestId, Usage};

use crate::world::{ADMIN_KEY, Answer, Setup, World, ask, ask_stream, bearer};

const KEYS: &str = "/v1/receipts/keys";

async fn without_a_key(world: &World, path: &str) -> Answer {
    world.http.send(Method::GET, path, &[], Bytes::new()).await
}

async fn published(world: &World) -> PublicKeys {
    PublicKeys::parse(&without_a_key(world, KEYS).await.body).expect("a JWK set")
}

async fn receipt(world: &World, id: &str) -> Answer {
    world.http.get(&format!("/v1/receipts/{id}"), &world.key).await
}

/// What the receipt states, which holds in both its forms.
fn verified(receipt: &Answer, keys: &PublicKeys) -> ReceiptStatement {
    let verdict = Verdict::of(&receipt.body, keys);
    assert!(verdict.holds(), "{verdict:?} of {}", receipt.text());
    let bare = Verdict::of(receipt.json()["jws"].as_str().expect("a JWS").as_bytes(), keys);
    assert!(bare.holds(), "{bare:?}");
    assert_eq!(bare.statement, verdict.statement);
    verdict.statement.expect("what holds was read")
}

#[tokio::test]
async fn a_receipt_verifies_with_nothing_but_the_published_keys() {
    let world = World::of(Setup { more: "[receipts]\nissuer = \"gate.example\"".to_owned(), ..Setup::default() }).await;
    let keys = published(&world).await;
    for body in [ask("renamed"), ask_stream("renamed"), ask("dead")] {
        let answer = world.chat(body).await;
        let event = world.event(answer.request_id()).await;
        let own = receipt(&world, answer.request_id()).await;
        let stated = verified(&own, &keys);
        assert_eq!((&*stated.issuer, &*stated.plan), ("gate.example", "standard"));
        assert_eq!((stated.event(), stated.is_final), (event, true));
        assert_eq!(stated.prices.sha256.map(|hex| hex.len()), Some(64));
        assert_eq!((stated.policy, &*stated.cache, stated.adjustments), (None, "bypass", vec![]));

        let admin = world.http.get(&format!("/admin/v1/receipts/{}", answer.request_id()), ADMIN_KEY).await;
        assert_eq!(verified(&admin, &keys).event(), stated_event(&own), "the operator's is the same");
    }
    world.close().await;
}

fn stated_event(receipt: &Answer) -> tollgate_client::UsageEvent {
    serde_json::from_slice(&receipt.body).expect("the event stands on top of it")
}

#[tokio::test]
async fn the_keys_are_for_everybody_and_the_receipts_for_their_tenant() {
    let world = World::start().await;
    let (_, other) = world.tenant("other").await;
    let keys = without_a_key(&world, KEYS).await;
    assert_eq!((keys.status, keys.header("content-type")), (200, Some("application/jwk-set+json")));
    assert_eq!(keys.header("cache-control"), Some("public, max-age=300"));
    for path in ["/.well-known/tollgate-receipt-keys.json", "/t/demo/v1/receipts/keys"] {
        assert_eq!(without_a_key(&world, path).await.body, keys.body, "{path}");
    }
    let key = &keys.json()["keys"][0];
    for (name, value) in [("kty", "OKP"), ("crv", "Ed25519"), ("use", "sig"), ("alg", "EdDSA")] {
        assert_eq!(key[name], value);
    }
    let id = world.chat(ask("gpt-4o-mini")).await.request_id().to_owned();
    let path = format!("/v1/receipts/{id}");
    assert_eq!(world.http.get(&path, &other).await.refusal(), (404, "not_found".to_owned()));
    assert_eq!(without_a_key(&world, &path).await.refusal().0, 401);
    assert_eq!(without_a_key(&world, "/admin/v1/receipts/keys").await.refusal().0, 401);
}

#[tokio::test]
async fn a_request_under_way_has_a_receipt_that_says_it_is_not_final() {
    let more = "[routes.silent]\nprovider = \"sim\"\nmodel = \"gpt-4o-mini+stall\"".to_owned();
    let world = World::of(Setup { more, ..Setup::default() }).await;
    let keys = published(&world).await;
    let body = ask_stream("silent").to_string();
    let stream = world.http.open(Method::POST, "/v1/chat/completions", &bearer(&world.key), body).await;
    let id = stream.headers()["x-request-id"].to_str().expect("plain text").to_owned();
    let stated = verified(&receipt(&world, &id).await, &keys);
    assert_eq!((stated.is_final, stated.state.name(), stated.ended_at), (false, "pending", None));
    assert_eq!((&*stated.cost_usd, stated.hold.released), ("0.00", None));
    assert_ne!(stated.hold.cost_picousd, "0");
    drop(stream);
    world.event(&id).await;
    let stated = verified(&receipt(&world, &id).await, &keys);
    assert_eq!((stated.is_final, stated.outcome.as_deref()), (true, Some("client_gone")));
    assert_eq!(stated.cost_picousd, stated.hold.cost_picousd, "the whole hold");
    world.close().await;
}

#[tokio::test]
async fn what_was_found_later_is_on_the_receipt() {
    let world = World::start().await;
    let keys = published(&world).await;
    let answer = world.chat(ask("gpt-4o-mini")).await;
    let id: RequestId = answer.request_id().parse().expect("an id");
    let before = verified(&receipt(&world, answer.request_id()).await, &keys);

    let app = &world.gateway.app;
    let event = questions::event(app, id).await.expect("the view answers").expect("it is there");
    let end = event.end.expect("it ended");
    let was = Standing { amounts: end.amounts, overrun: end.overrun, confidence: Confidence::Measured };
    let less = PicoUsd(end.amounts.cost.0 / 2);
    let now = Standing { amounts: Amounts { cost: less, charge: less }, ..was };
    let adjusted = Adjusted {
        id,
        at: event.reserved.at,
        spender: event.reserved.spender.clone(),
        held_at: event.reserved.at,
        offset: event.reserved.offset,
        was,
        now,
        usage: Usage { input_tokens: 3, ..end.usage },
        price_version: event.reserved.price_version.clone(),
        reason: Reason::Reconciled,
    };
    let position = app.books.adjust(adjusted).expect("there is room");
    app.journal.durable(position).await.expect("durable");

    let after = verified(&receipt(&world, answer.request_id()).await, &keys);
    let [adjustment] = &after.adjustments[..] else { panic!("one adjustment: {after:?}") };
    assert_eq!(adjustment.reason, "reconciled");
    assert_eq!(adjustment.was.cost_picousd, before.cost_picousd);
    assert_eq!((&adjustment.now.cost_picousd, &after.cost_picousd), (&less.0.to_string(), &less.0.to_string()));
    assert_eq!((after.tokens.input, after.prices.version), (3, before.prices.version));
    assert_eq!(after.hold, before.hold, "what was released at the end stays so");
    world.close().await;
}

#[tokio::test]
async fn a_new_key_signs_what_comes_and_the_old_one_still_verifies_what_was() {
    let world = World::start().await;
    let id = world.chat(ask("gpt-4o-mini")).await.request_id().to_owned();
    let old = receipt(&world, &id).await;
    let before = published(&world).await;
    let rotated = world.admin.rotate_receipt_key().await.expect("a new key");
    assert_eq!(rotated.keys.len(), 2);
    assert_eq!(world.admin.receipt_keys().await.expect("keys"), rotated);
    let both = published(&world).await;
    verified(&old, &both);
    let new = receipt(&world, &id).await;
    verified(&new, &both);
    assert!(!Verdict::of(&new.body, &before).holds(), "nobody knew the new key then");

    let key = world.key.clone();
    let dir = world.close().await;
    let mut world = World::reopened(Setup::default(), dir).await;
    world.key = key;
    let keys = published(&world).await;
    assert_eq!(keys, both, "keys outlive the process");
    for receipt in [&old, &new, &receipt(&world, &id).await] {
        verified(receipt, &keys);
    }
    let unsigned: Value = old.json()["statement"].clone();
    assert!(!Verdict::of(unsigned.to_string().as_bytes(), &keys).holds(), "a statement alone proves nothing");
    world.close().await;
}
