//! Small requests for embeddings that are sent as one: each has its own vectors and pays its own tokens, no call mixes tenants, and
//! whatever becomes of a call the books are the provider's bill.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tollgate_sim::{Fault, Options, Speed};
use tollgate_types::Clock;

use crate::program::{Place, Program};
use crate::reconcile::{export, reconcile};
use crate::scripted::{Reply, Scripted};
use crate::world::{Answer, Setup, World, bearer, eventually, simulator};

const ROUTES: &str = "[routes.together]\nprovider = \"sim\"\nmodel = \"text-embedding-3-small\"\ncoalesce = true\n";

/// A provider that takes some tens of milliseconds for each call.
fn unhurried() -> Options {
    Options { speed: Speed::Paced(0.2), ..simulator() }
}

async fn world() -> World {
    World::of(Setup { sim: unhurried(), more: ROUTES.to_owned(), ..Setup::default() }).await
}

fn asked(model: &str, input: &Value, more: &[(&str, Value)]) -> String {
    let mut body = json!({ "model": model, "input": input });
    more.iter().for_each(|(name, value)| body[*name] = value.clone());
    body.to_string()
}

/// Ids of the provider's calls, each with those who shared it.
fn calls(world: &World) -> Vec<Vec<String>> {
    world.truth.all().iter().map(|account| account.request_id.split(',').map(str::to_owned).collect()).collect()
}

#[tokio::test]
async fn requests_that_come_together_share_calls_and_each_has_its_own() {
    let world = world().await;
    let (_, other) = world.tenant("other").await;
    let inputs: Vec<Value> = (0..60)
        .map(|n| match n % 3 {
            0 => json!(format!("a text of number {n}")),
            1 => json!([format!("one of {n}"), format!("ünd ein \"{n}\"")]),
            _ => json!(["x".repeat(n + 1)]),
        })
        .collect();
    let key = |n: usize| if n.is_multiple_of(4) { &other } else { &world.key };
    let more: [(&str, Value); 1] = [("encoding_format", json!("base64"))];
    let ask = async |n: usize, model: &str| {
        let more = if n.is_multiple_of(5) { &more[..] } else { &[] };
        world.http.post("/v1/embeddings", &bearer(key(n)), asked(model, &inputs[n], more)).await
    };
    let together = join_all((0..inputs.len()).map(|n| ask(n, "together"))).await;
    let shared = calls(&world);
    assert!(shared.len() < 40 && shared.iter().any(|ids| ids.len() > 3), "{shared:?}");

    let events: BTreeMap<String, _> =
        world.events().await.into_iter().map(|event| (event.request_id.clone(), event)).collect();
    for ids in &shared {
        let tenants: BTreeSet<&str> = ids.iter().map(|id| events[id].tenant.as_str()).collect();
        assert_eq!(tenants.len(), 1, "no call mixes tenants");
    }
    let truth = world.truth.totals();
    let sum = |of: fn(&tollgate_client::UsageEvent) -> u128| events.values().map(of).sum::<u128>();
    assert_eq!(sum(|event| event.input_tokens.into()), truth.totals.prompt_tokens.into());
    assert_eq!(sum(|event| event.cost_picousd.parse().expect("a number")), truth.cost_picousd);

    // What it is by itself is what it was among others.
    for (n, answer) in together.iter().enumerate() {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let alone = ask(n, "text-embedding-3-small").await;
        assert_eq!(answer.json()["data"], alone.json()["data"], "{n}");
        // The simulator's tokenizer is nobody else's: how a call's tokens fall to each is estimated, their sum is not.
        assert_eq!(answer.json()["usage"]["prompt_tokens"], events[answer.request_id()].input_tokens);
    }
    let metrics = world.http.get("/metrics", &world.key).await.text().to_owned();
    assert!(metrics.contains("tollgate_coalesced_requests_total 60"), "{metrics}");
    world.close().await;
}

#[tokio::test]
async fn what_is_large_or_not_understood_goes_by_itself_and_so_does_a_lone_request() {
    let world = world().await;
    let ask = async |body: String| world.http.post("/v1/embeddings", &bearer(&world.key), body).await;
    let strange = [("x_echo", json!("hello"))];
    let bodies = [
        asked("together", &json!([[1, 2, 3]]), &[]),
        asked("together", &json!(vec!["a"; 17]), &[]),
        asked("together", &json!("long ".repeat(2_000)), &[]),
        asked("together", &json!("a"), &strange),
    ];
    let answers =
        join_all(bodies.iter().flat_map(|body| [ask(body.clone()), ask(body.clone()), ask(body.clone())])).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(calls(&world).iter().all(|ids| ids.len() == 1));
    assert_eq!(ask(asked("together", &json!("alone"), &[])).await.status, 200);
    assert!(calls(&world).iter().all(|ids| ids.len() == 1));
    world.close().await;
}

/// A call that did no work is taken apart; each then has its own retries.
#[tokio::test]
async fn a_call_that_is_refused_is_taken_apart_and_each_goes_by_itself() {
    let dead = crate::world::dead_address();
    let more = format!(
        "[providers.gone]\npreset = \"simulator\"\nbase_url = \"http://{dead}/v1\"\n[routes.gone]\nprovider = \"gone\"\n\
         model = \"text-embedding-3-small\"\ncoalesce = true\nfallbacks = [{{ provider = \"sim\", model = \"text-embedding-3-small\" }}]\n"
    );
    let world = World::of(Setup { sim: unhurried(), more, ..Setup::default() }).await;
    let answers = join_all((0..20).map(|n| {
        let body = asked("gone", &json!(format!("text {n}")), &[]);
        let world = &world;
        async move { world.http.post("/v1/embeddings", &bearer(&world.key), body).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    assert!(calls(&world).len() == 20 && calls(&world).iter().all(|ids| ids.len() == 1));
    world.close().await;
}

/// One that is too busy is asked once more for all of them, and not by each.
#[tokio::test]
async fn a_provider_that_is_too_busy_is_not_asked_by_each_of_them() {
    let busy = Scripted::start(Reply::error(429, Some(30))).await;
    let more = format!(
        "[providers.busy]\nbase_url = \"{}\"\npriced_as = \"simulator\"\n[routes.busy]\nprovider = \"busy\"\n\
         model = \"text-embedding-3-small\"\ncoalesce = true\n",
        busy.base_url
    );
    let world = World::of(Setup { more, ..Setup::default() }).await;
    let answers = join_all((0..40).map(|n| {
        let body = asked("busy", &json!(format!("text {n}")), &[]);
        let world = &world;
        async move { world.http.post("/v1/embeddings", &bearer(&world.key), body).await }
    }))
    .await;
    for answer in &answers {
        assert_eq!(answer.refusal(), (502, "provider_error".to_owned()), "{}", answer.text());
        assert_eq!(answer.header("retry-after-ms"), Some("30"));
    }
    assert!(busy.count() < 20, "{}", busy.count());
    let events = world.events().await;
    assert!(events.len() == 40 && events.iter().all(|event| event.cost_picousd == "0" && event.ended_at.is_some()));
    world.close().await;
}

#[tokio::test]
async fn who_leaves_while_it_waits_owes_nothing_and_is_not_sent() {
    let world = World::of(Setup {
        sim: Options { speed: Speed::Paced(2.0), ..simulator() },
        more: ROUTES.to_owned(),
        ..Setup::default()
    })
    .await;
    let ask = async |n: usize| {
        let body = asked("together", &json!(format!("text {n}")), &[]);
        world.http.post("/v1/embeddings", &bearer(&world.key), body).await
    };
    // Two calls are under way; the others wait.
    let first = async { join_all((0..2).map(&ask)).await };
    let leaving = async {
        eventually("the calls to be under way", async || (world.truth.totals().attempts >= 2).then_some(())).await;
        for n in 2..6 {
            let body = asked("together", &json!(format!("text {n}")), &[]);
            let known = bearer(&world.key);
            let sent = world.http.open(http::Method::POST, "/v1/embeddings", &known, body);
            let held = eventually_held(&world, n + 1);
            tokio::select! {
                _ = sent => panic!("it waits"),
                () = held => {}
            }
        }
    };
    let (answers, ()) = tokio::join!(first, leaving);
    assert!(answers.iter().all(|answer| answer.status == 200));
    let events = eventually("all to have ended", async || {
        let events = world.events().await;
        (events.len() == 6 && events.iter().all(|event| event.ended_at.is_some())).then_some(events)
    })
    .await;
    let gone: Vec<_> = events.iter().filter(|event| event.outcome.as_deref() == Some("client_gone")).collect();
    assert!(gone.len() == 4 && gone.iter().all(|event| event.cost_picousd == "0"), "{events:?}");
    assert_eq!(calls(&world).len(), 2);
    world.close().await;
}

/// Until so many requests are held.
async fn eventually_held(world: &World, count: usize) {
    eventually("the request to be held", async || (world.events().await.len() >= count).then_some(())).await;
}

async fn burst(program: &Program, key: &str, model: &str, count: usize) -> Vec<Answer> {
    join_all((0..count).map(|n| {
        let body = asked(model, &json!([format!("text {n}"), "and another one"]), &[]);
        async move { program.http.post("/v1/embeddings", &bearer(key), body).await }
    }))
    .await
}

/// The provider's prices under the names of its faults.
fn prices() -> String {
    let names: Vec<String> =
        Fault::ALL.iter().map(|fault| format!("\"text-embedding-3-small+{}\"", fault.name())).collect();
    format!(
        "version = \"faults\"\nsource = \"a test\"\nchecked_at = \"2026-11-23\"\n[[price]]\nprovider = \"simulator\"\n\
         model = \"text-embedding-3-small\"\naliases = [{}]\neffective_from = \"2020-01-01T00:00:00Z\"\n\
         input_usd_per_million = \"0.02\"\n",
        names.join(", ")
    )
}

#[tokio::test]
async fn after_every_fault_and_a_kill_the_books_are_the_bill() {
    let place = Place::new(unhurried());
    let routes = Fault::ALL.iter().map(|fault| {
        let provider = if matches!(fault, Fault::NoAnswer | Fault::Stall) { "hasty" } else { "sim" };
        let name = fault.name();
        format!(
            "[routes.\"together+{name}\"]\nprovider = \"{provider}\"\nmodel = \"text-embedding-3-small+{name}\"\ncoalesce = true\n"
        )
    });
    place.configure(&(ROUTES.to_owned() + &routes.collect::<String>()));
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    program.admin.push_prices(&prices()).await.expect("a good book");
    let models: Vec<String> = Fault::ALL.iter().map(|fault| format!("together+{}", fault.name())).collect();
    let answers =
        join_all(models.iter().map(String::as_str).chain(["together"]).map(|model| burst(&program, &key, model, 9)))
            .await;
    assert!(answers.iter().flatten().filter(|answer| answer.status == 200).count() > 20);
    // Killed while calls are under way that requests share.
    let seen = place.sim.truth().totals().attempts + 2;
    let doomed: Vec<_> = (0..9)
        .map(|n| {
            let (http, key) = (program.http.clone(), key.clone());
            let body = asked("together+no-answer", &json!(format!("doomed {n}")), &[]);
            tokio::spawn(async move { http.post("/v1/embeddings", &bearer(&key), body).await })
        })
        .collect();
    eventually("the provider to be asked", async || (place.sim.truth().totals().attempts >= seen).then_some(())).await;
    program.kill().await;
    for caller in doomed {
        // It fails, as its connection does.
        let _ = caller.await;
    }
    let program = place.serve().await;
    assert!(program.admin.ledger().await.expect("the ledger").indeterminate > 0);

    let bill = [export(&place, "/sim/usage.jsonl", "usage.jsonl").await];
    let text = std::fs::read_to_string(&bill[0]).expect("the bill");
    assert!(text.lines().any(|line| line.contains(",req_")), "some calls were shared");
    let now = Clock::System.now().to_string();
    let span =
        ["--provider", "sim", "--provider", "hasty", "--from", "2020-01-01T00:00:00Z", "--to", &now, "--complete"];
    let (applied, said) = reconcile(&program, &bill, &[&span[..], &["--apply"]].concat()).await;
    assert_eq!((applied.code, &said["differences_left"]), (Some(0), &json!(0)), "{applied:?}");
    let after = program.admin.ledger().await.expect("the ledger");
    let number = |text: &String| text.parse::<u128>().expect("a number");
    let booked = number(&after.posted_picousd) + number(&after.overrun_picousd);
    assert_eq!(booked, place.sim.truth().totals().cost_picousd, "{after:?}");
    assert_eq!((after.indeterminate, after.bounded_picousd.as_str(), after.drift_picousd.as_str()), (0, "0", "0"));
    let (again, said) = reconcile(&program, &bill, &[&span[..], &["--apply"]].concat()).await;
    assert_eq!((again.code, &said["findings"]), (Some(0), &json!([])), "{again:?}");
    assert_eq!(program.stop().await.code, Some(0));
    assert_eq!(place.verify().await["drift_picousd"], "0");
}
