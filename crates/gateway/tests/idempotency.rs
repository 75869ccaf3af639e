//! A request with an `Idempotency-Key` is charged once, however often it is sent; who repeats it gets the same answer,
//! byte for byte, or is told why not. What the books say is compared with the simulator's own count.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tollgate_sim::{Options, Speed};
use tollgate_store::store::Layout;
use tollgate_types::{Clock, PicoUsd, Timestamp};

use crate::program::Place;
use crate::scripted::{ANSWER, Reply, Scripted};
use crate::world::{Answer, DONE, Http, Setup, World, ask, ask_stream, eventually, simulator, within};

const CHAT: &str = "/v1/chat/completions";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn signed(key: &str, name: &str) -> [(&'static str, String); 2] {
    [("authorization", format!("Bearer {key}")), ("idempotency-key", name.to_owned())]
}

async fn send(http: &Http, key: &str, name: &str, body: &Value) -> Answer {
    http.post(CHAT, &signed(key, name), body.to_string()).await
}

/// The answer is the first one, and says so.
fn check_replayed(again: &Answer, first: &Answer) {
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(again.body, first.body, "byte for byte");
    for header in ["content-type", "cache-control", "x-tollgate-model", "x-tollgate-cache"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
    assert_eq!((again.header("idempotent-replayed"), first.header("idempotent-replayed")), (Some("true"), None));
    assert_eq!(again.header("x-tollgate-original-request-id"), Some(first.request_id()));
    assert_ne!(again.request_id(), first.request_id());
}

fn check_conflict(answer: &Answer, first: &str, words: &str) {
    assert_eq!(answer.refusal(), (409, "idempotency_conflict".to_owned()), "{}", answer.text());
    assert_eq!(answer.header("x-should-retry"), Some("false"), "the SDKs must not try 409 again");
    assert!(answer.message().contains(words) && answer.message().contains(first), "{}", answer.message());
}

async fn posted(world: &World) -> u128 {
    world.admin.ledger().await.expect("the ledger").posted_picousd.parse().expect("a number")
}

fn new_year() -> Clock {
    Clock::manual(Timestamp::parse_rfc3339("2027-01-01T00:00:00Z").expect("a time"))
}

/// With what SQLite keeps beside it.
fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = path.to_owned().into_os_string();
        path.push(suffix);
        let _ = std::fs::remove_file(path);
    }
    assert!(!path.exists());
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer_and_is_charged_once() {
    let world = World::start().await;
    world.plan("standard", json!({"markup_percent": "20"})).await;
    for (name, body) in [("whole", ask("gpt-4o-mini")), ("stream", ask_stream("gpt-4o-mini"))] {
        let first = send(&world.http, &world.key, name, &body).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let event = world.event(first.request_id()).await;
        let before = posted(&world).await;
        for _ in 0..3 {
            let again = send(&world.http, &world.key, name, &body).await;
            check_replayed(&again, &first);
            let usd = |picousd: &str| PicoUsd(picousd.parse().expect("a number")).to_string();
            let stated = [again.header("x-tollgate-cost-usd"), again.header("x-tollgate-charge-usd")];
            let charged = [usd(&event.cost_picousd), usd(&event.charge_picousd)];
            assert_eq!(stated, [Some(&*charged[0]), Some(&*charged[1])], "as first charged");
            assert_eq!(world.events().await.len(), world.truth.all().len(), "no event of its own");
        }
        assert_eq!(posted(&world).await, before);
        if name == "stream" {
            assert!(first.text().ends_with(DONE));
        }
    }
    assert_eq!(posted(&world).await, world.truth.totals().cost_picousd, "two requests, and no more");
    assert_eq!(world.truth.all().len(), 2);
    let embed = json!({"model": "text-embedding-3-small", "input": "x"}).to_string();
    let first = world.http.post("/v1/embeddings", &signed(&world.key, "vector"), embed.clone()).await;
    check_replayed(&world.http.post("/v1/embeddings", &signed(&world.key, "vector"), embed).await, &first);
    world.close().await;
}

#[tokio::test]
async fn another_body_under_the_same_key_is_a_conflict_and_another_tenants_key_is_another_key() {
    let world = World::start().await;
    let first = send(&world.http, &world.key, "k", &ask("gpt-4o-mini")).await;
    let mut other = ask("gpt-4o-mini");
    other["temperature"] = 0.into();
    let words = "asked for something else";
    check_conflict(&send(&world.http, &world.key, "k", &other).await, first.request_id(), words);
    let elsewhere = json!({"model": "text-embedding-3-small", "input": "x"}).to_string();
    let elsewhere = world.http.post("/v1/embeddings", &signed(&world.key, "k"), elsewhere).await;
    check_conflict(&elsewhere, first.request_id(), words);
    // The same tenant's other key finds the answer, another tenant's begins anew.
    let (_, colleague) = world.new_key(json!({"tenant": "demo"})).await;
    check_replayed(&send(&world.http, &colleague, "k", &ask("gpt-4o-mini")).await, &first);
    let (_, stranger) = world.tenant("stranger").await;
    let theirs = send(&world.http, &stranger, "k", &ask("gpt-4o-mini")).await;
    assert_eq!((theirs.status, theirs.header("idempotent-replayed")), (200, None));
    check_replayed(&send(&world.http, &stranger, "k", &ask("gpt-4o-mini")).await, &theirs);
    assert_eq!(world.truth.all().len(), 2);
    world.close().await;
}

#[tokio::test]
async fn what_is_refused_before_money_is_held_binds_no_key() {
    let world = World::start().await;
    let refused = async |name: &str, body: &Value, status: u16| {
        let answer = send(&world.http, &world.key, name, body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    };
    let long = "x".repeat(256);
    for bad in [long.as_str(), "two words", ""] {
        refused(bad, &ask("gpt-4o-mini"), 400).await;
    }
    refused("k", &json!({"model": "gpt-4o-mini"}), 400).await;
    refused("k", &ask("nobody-knows-it"), 404).await;
    refused("k", &ask("unpriced"), 402).await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "0"})).await;
    refused("k", &ask("gpt-4o-mini"), 429).await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1"})).await;
    refused("k", &ask("gpt-4o-mini"), 200).await;
    assert_eq!(world.truth.all().len(), 1);
    world.close().await;
}

#[tokio::test]
async fn fifty_twins_at_a_time_are_one_request_to_the_provider() {
    let sim = Options { speed: Speed::Paced(0.2), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    for (name, body) in [("whole", ask("gpt-4o-mini")), ("stream", ask_stream("gpt-4o-mini"))] {
        let before = world.truth.all().len();
        let twins = (0..50).map(|_| send(&world.http, &world.key, name, &body));
        let answers = futures_util::future::join_all(twins).await;
        assert_eq!(world.truth.all().len(), before + 1);
        let (replayed, first): (Vec<_>, Vec<_>) =
            answers.iter().partition(|answer| answer.header("idempotent-replayed").is_some());
        assert_eq!((first.len(), replayed.len()), (1, 49));
        replayed.into_iter().for_each(|twin| check_replayed(twin, first[0]));
        // While the first is under way, another body is told at once.
        let mut other = body.clone();
        other["seed"] = 1.into();
        check_conflict(&send(&world.http, &world.key, name, &other).await, first[0].request_id(), "something else");
    }
    assert_eq!(posted(&world).await, world.truth.totals().cost_picousd);
    world.close().await;
}

#[tokio::test]
async fn where_the_first_cost_nothing_a_twin_runs_in_its_place_and_a_retry_runs_anew() {
    let failing = Reply { status: 500, ..Reply::json(r#"{"error":{"message":"no"}}"#) };
    let provider = Scripted::start(failing).await;
    let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
    let body = ask("gpt-4.1");
    let twins = (0..5).map(|_| send(&world.http, &world.key, "k", &body));
    for answer in futures_util::future::join_all(twins).await {
        assert_eq!(answer.refusal(), (502, "provider_error".to_owned()));
    }
    assert_eq!(provider.count(), 5, "each had its turn");
    assert_eq!(send(&world.http, &world.key, "k", &body).await.status, 502);
    assert_eq!((provider.count(), posted(&world).await), (6, 0));
    // Nothing was charged under the key: it is free for something else.
    let other = send(&world.http, &world.key, "k", &ask("gpt-4o-mini")).await;
    assert_eq!(other.status, 200, "{}", other.text());
    world.close().await;
}

#[tokio::test]
async fn when_the_caller_leaves_the_work_goes_on_and_who_comes_again_finds_the_answer() {
    let sim = Options { speed: Speed::Paced(0.5), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    for (name, body) in [("whole", ask("gpt-4o-mini")), ("stream", ask_stream("gpt-4o-mini"))] {
        let before = world.truth.all().len();
        let headers = signed(&world.key, name);
        let mut leaving = Box::pin(world.http.open(Method::POST, CHAT, &headers, body.to_string()));
        eventually("the provider to be reached", async || {
            let _ = tokio::time::timeout(Duration::ZERO, leaving.as_mut()).await.map(drop);
            (world.truth.all().len() > before).then_some(())
        })
        .await;
        drop(leaving);
        let again = send(&world.http, &world.key, name, &body).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.text());
        assert!(name == "whole" || again.text().ends_with(DONE));
        let first = again.header("x-tollgate-original-request-id").expect("named");
        assert_eq!(world.event(first).await.outcome.as_deref(), Some("completed"));
        assert_eq!(world.truth.all().len(), before + 1);
    }
    assert_eq!(posted(&world).await, world.truth.totals().cost_picousd);
    world.close().await;
}

/// What asks for as much as [`long_stream`] gives: else it would be cut where it goes on beyond that.
fn ask_long_stream() -> Value {
    let mut body = ask_stream("gpt-4.1");
    body["max_tokens"] = 1_000_000.into();
    body
}

/// A stream of about so many bytes, with its usage.
fn long_stream(bytes: usize) -> Reply {
    let event =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(16_000));
    let end = format!("data: {ANSWER}\n\n{DONE}");
    Reply::stream(&(event.repeat(bytes / event.len()) + &end), 64 * 1024)
}

#[tokio::test]
async fn a_caller_that_stops_reading_holds_up_nobody_who_comes_again() {
    let provider = Scripted::start(long_stream(3_500_000)).await;
    let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
    let body = ask_long_stream();
    // By HTTP/2, whose windows end long before the stream does; a system's buffers might hold all of it.
    let silent = Http::http2(&world.http.base);
    let silent = silent.open(Method::POST, CHAT, &signed(&world.key, "k"), body.to_string()).await;
    let again = send(&world.http, &world.key, "k", &body).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.status);
    let first = Answer::read(silent).await;
    assert!(first.body.len() > 3_000_000 && first.text().ends_with(DONE));
    check_replayed(&again, &first);
    assert_eq!(provider.count(), 1);
    world.close().await;
}

#[tokio::test]
async fn an_answer_too_large_to_be_kept_reaches_its_caller_and_is_not_charged_again() {
    let provider = Scripted::start(long_stream(5_000_000)).await;
    let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
    let first = send(&world.http, &world.key, "k", &ask_long_stream()).await;
    assert!(first.body.len() > 4 << 20 && first.text().ends_with(DONE), "{}", first.body.len());
    let again = send(&world.http, &world.key, "k", &ask_long_stream()).await;
    check_conflict(&again, first.request_id(), "was too large");
    assert_eq!(provider.count(), 1);
    world.close().await;
}

#[tokio::test]
async fn an_answer_that_broke_after_it_was_charged_is_never_charged_again() {
    let world = World::start().await;
    for (name, body) in [("whole", ask("gpt-4o-mini+cut")), ("stream", ask_stream("gpt-4o-mini+cut"))] {
        let first = send(&world.http, &world.key, name, &body).await;
        assert!(!first.text().contains("[DONE]"));
        let before = (posted(&world).await, world.truth.all().len());
        let again = send(&world.http, &world.key, name, &body).await;
        check_conflict(&again, first.request_id(), "was charged, and its answer is not kept");
        assert!(again.message().contains(&format!("/v1/receipts/{}", first.request_id())), "{}", again.message());
        assert_eq!((posted(&world).await, world.truth.all().len()), before);
    }
    world.close().await;
}

#[tokio::test]
async fn repeating_counts_against_the_limits_of_the_key() {
    let world = World::start().await;
    let (_, key) = world.new_key(json!({"tenant": "demo", "requests_per_minute": 2})).await;
    let first = send(&world.http, &key, "k", &ask("gpt-4o-mini")).await;
    let again = send(&world.http, &key, "k", &ask("gpt-4o-mini")).await;
    check_replayed(&again, &first);
    assert_eq!(again.header("x-ratelimit-remaining-requests"), Some("0"), "the limits of now");
    assert_eq!(send(&world.http, &key, "k", &ask("gpt-4o-mini")).await.refusal(), (429, "rate_limited".to_owned()));
    assert_eq!(send(&world.http, "tg_unknown", "k", &ask("gpt-4o-mini")).await.status, 401);
    world.close().await;
}

#[tokio::test]
async fn after_a_day_the_answer_is_gone_and_the_key_is_not_for_ever() {
    let clock = new_year();
    let provider = Scripted::start(Reply::json(ANSWER)).await;
    let setup = || Setup { clock: clock.clone(), more: provider.sections(), ..Setup::default() };
    let mut world = World::of(setup()).await;
    let body = ask("gpt-4.1");
    let first = send(&world.http, &world.key, "k", &body).await;
    let id = first.request_id().to_owned();
    clock.advance(DAY - Duration::from_secs(1));
    check_replayed(&send(&world.http, &world.key, "k", &body).await, &first);
    clock.advance(Duration::from_secs(2));
    let gone = "its answer is not kept";
    check_conflict(&send(&world.http, &world.key, "k", &body).await, &id, gone);
    // The next posting makes memory forget the key. From now on the view knows it.
    for round in 0..3 {
        let fresh = send(&world.http, &world.key, &format!("fresh-{round}"), &body).await;
        assert_eq!((fresh.status, fresh.header("idempotent-replayed")), (200, None), "{}", fresh.text());
        let audit = world.gateway.app.books.audit().totals.requests;
        check_conflict(&send(&world.http, &world.key, "k", &body).await, &id, gone);
        let mut other = body.clone();
        other["seed"] = 1.into();
        check_conflict(&send(&world.http, &world.key, "k", &other).await, &id, "something else");
        assert_eq!(world.gateway.app.books.audit().totals.requests, audit);
        // After a restart too, and where the view is made again.
        let key = world.key.clone();
        let dir = world.close().await;
        if round == 1 {
            remove_database(&Layout::of(&dir.path().join("data")).view);
        }
        world = World::reopened(setup(), dir).await;
        world.key = key;
        check_conflict(&send(&world.http, &world.key, "k", &body).await, &id, gone);
    }
    assert_eq!(provider.count(), 4);
    world.close().await;
}

#[tokio::test]
async fn a_view_that_cannot_say_whether_a_key_is_new_takes_no_keys() {
    let clock = new_year();
    let provider = Scripted::start(Reply::json(ANSWER)).await;
    let world = World::of(Setup { clock: clock.clone(), more: provider.sections(), ..Setup::default() }).await;
    let body = ask("gpt-4.1");
    send(&world.http, &world.key, "k", &body).await;
    clock.advance(DAY + Duration::from_secs(1));
    send(&world.http, &world.key, "another", &body).await;
    let view = Layout::of(&world.gateway.app.dir).view;
    let mut aside = view.clone().into_os_string();
    aside.push(".aside");
    std::fs::rename(&view, &aside).expect("moved");
    let refused = send(&world.http, &world.key, "fresh", &body).await;
    assert_eq!(refused.refusal(), (503, "ledger_unavailable".to_owned()));
    assert_eq!(
        world.http.post(CHAT, &signed(&world.key, "k")[..1], body.to_string()).await.status,
        200,
        "without a key"
    );
    std::fs::rename(&aside, &view).expect("moved back");
    assert_eq!(send(&world.http, &world.key, "fresh", &body).await.status, 200);
    assert_eq!(provider.count(), 4);
    world.close().await;
}

#[tokio::test]
async fn a_drain_lets_work_end_whose_caller_has_left() {
    let place = Place::new(Options { speed: Speed::Paced(1.0), ..simulator() });
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    let body = ask_stream("gpt-4o-mini");
    let left = program.http.open(Method::POST, CHAT, &signed(&key, "k"), body.to_string()).await;
    drop(left);
    let ended = program.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let program = place.serve().await;
    let again = send(&program.http, &key, "k", &body).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{}", again.text());
    assert!(again.text().ends_with(DONE));
    assert_eq!(place.sim.truth().all().len(), 1);
    program.stop().await;
    assert_eq!(place.verify().await["bounded_picousd"], "0", "it was measured");
}

#[tokio::test]
async fn after_a_kill_a_request_that_may_have_been_charged_is_not_sent_again() {
    let place = Place::new(Options { speed: Speed::Paced(2.0), ..simulator() });
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    let body = ask_stream("gpt-4o-mini");
    // One is killed in the middle of its stream, of the other only the answer is lost, as if it was killed in between.
    let kept = send(&program.http, &key, "posted", &ask("gpt-4o-mini")).await;
    let response = program.http.open(Method::POST, CHAT, &signed(&key, "cut"), body.to_string()).await;
    let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
    let mut incoming = response.into_body();
    let piece: Bytes =
        within("a piece", incoming.frame()).await.expect("a piece").expect("whole").into_data().expect("data");
    assert!(!piece.is_empty());
    program.kill().await;
    let program = place.serve().await;
    check_conflict(&send(&program.http, &key, "cut", &body).await, &id, "was interrupted and may be charged");
    check_replayed(&send(&program.http, &key, "posted", &ask("gpt-4o-mini")).await, &kept);
    program.kill().await;
    remove_database(&Layout::of(&place.store()).answers);
    let program = place.serve().await;
    let again = send(&program.http, &key, "posted", &ask("gpt-4o-mini")).await;
    check_conflict(&again, kept.request_id(), "was charged, and its answer is not kept");
    assert_eq!(place.sim.truth().all().len(), 2);
    program.stop().await;
    assert_eq!(place.verify().await["drift_picousd"], "0");
}
