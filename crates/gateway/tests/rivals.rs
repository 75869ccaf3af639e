//! Failures that other gateways have shipped and that only a whole gateway can show: each as a test that must not happen
//! here, named after their issues. Which line of theirs is covered by which test is a table in docs/rivals.md.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tollgate_client::{Confidence, LimitSetting, UsageState};
use tollgate_gateway::config::{Config, Environment};
use tollgate_gateway::serve;
use tollgate_sim::Fault;
use tollgate_types::{Clock, Timestamp};

use crate::money::number;
use crate::runs;
use crate::world::{ADMIN_KEY, Answer, Setup, World, ask, ask_stream, bearer};

/// What can be asked of a model, and costs money: each address of the table of routes, whole and as a stream where it streams.
fn spending(suffix: &str) -> Vec<(&'static str, Value)> {
    let chat = format!("gpt-4o-mini{suffix}");
    let embeddings = json!({"model": format!("text-embedding-3-small{suffix}"), "input": "one river"});
    vec![
        ("/v1/chat/completions", ask(&chat)),
        ("/v1/chat/completions", ask_stream(&chat)),
        ("/v1/embeddings", embeddings),
    ]
}

/// The same, and what models that run here are asked.
fn spending_anywhere() -> Vec<(&'static str, Value)> {
    let here = [
        ("/v1/embeddings", json!({"model": "words", "input": "one river"})),
        ("/v1/classify", json!({"model": "labels", "input": "one river"})),
        ("/v1/runs", json!({"template": "triage", "input": {"message": "one river"}})),
    ];
    spending("").into_iter().chain(here).collect()
}

/// The addresses under which the gateway takes a POST, as its source has them, but for the control plane's.
fn addresses_of_the_table() -> Vec<&'static str> {
    let source = include_str!("../src/http/routes.rs");
    let table =
        source.split("pub async fn handle(").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the table");
    table.split("&Method::POST, \"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

async fn post(world: &World, path: &str, body: &Value) -> Answer {
    world.http.post(path, &bearer(&world.key), body.to_string()).await
}

/// Wherever money can be spent, an empty budget refuses before anybody is asked; and there is no way around, such as a path
/// that is passed on as it came.
#[tokio::test]
async fn every_route_that_spends_asks_the_budget_first_as_they_did_not_in_litellm_11083_and_bifrost_2873() {
    let world = runs::world_with(runs::POLICY).await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "0.000000000001"})).await;
    let known = addresses_of_the_table();
    assert!(known.len() >= 2, "the table was read: {known:?}");
    for path in &known {
        assert!(spending_anywhere().iter().any(|(tested, _)| tested == path), "{path} is not tested here");
    }
    for (path, body) in spending_anywhere() {
        for path in [path.to_owned(), format!("/t/demo{path}")] {
            assert_eq!(post(&world, &path, &body).await.refusal(), (429, "budget_exceeded".to_owned()), "{path}");
        }
    }
    let body = ask("gpt-4o-mini");
    for path in [
        "/chat/completions",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/V1/chat/completions",
        "/v1/chat/completions/../completions",
        "/v1/%63hat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/files",
        "/v1/batches",
        "/openai/deployments/gpt-4o-mini/chat/completions",
        "/sim/v1/chat/completions",
        "/pass-through/sim/v1/chat/completions",
        "/t/demo/admin/v1/keys",
    ] {
        for method in [Method::POST, Method::PUT] {
            let answer = world.http.send(method, path, &bearer(&world.key), body.to_string()).await;
            assert_eq!(answer.refusal(), (404, "not_found".to_owned()), "{path}");
        }
    }
    assert_eq!((world.truth.totals().requests, world.gateway.app.books.audit().totals.requests), (0, 0));
    world.close().await;
}

/// What has no price or no bound on its cost is refused, or held at what the plan says; and what is held counts.
#[tokio::test]
async fn what_cannot_be_estimated_is_refused_or_held_as_it_was_not_in_litellm_35524() {
    let world = World::start().await;
    let mut searching = ask("gpt-4o-mini");
    searching["web_search_options"] = json!({});
    for (body, code) in [(&searching, "unbounded_request"), (&ask("unpriced"), "price_unknown")] {
        assert_eq!(world.chat(body.clone()).await.refusal().1, code, "{body}");
    }
    assert_eq!(world.truth.totals().requests, 0);

    world.plan("standard", json!({"unpriced_hold_usd": "0.05", "unbounded_hold_usd": "0.05"})).await;
    for body in [searching, ask("unpriced")] {
        let before = world.gateway.app.books.audit().totals.requests;
        let spent: u128 = world.events().await.iter().map(|event| number(&event.cost_picousd)).sum();
        let room = spent + 120_000_000_000;
        let cap = format!("{}.{:012}", room / 1_000_000_000_000, room % 1_000_000_000_000);
        world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": cap})).await;
        let statuses = [world.chat(body.clone()).await, world.chat(body.clone()).await].map(|answer| answer.status);
        assert_eq!(statuses, [200, 200], "{body}");
        assert_eq!(world.chat(body).await.refusal(), (429, "budget_exceeded".to_owned()), "two holds of 0.05 are 0.10");
        assert_eq!(world.gateway.app.books.audit().totals.requests, before + 2);
    }
    world.close().await;
}

/// Each route, whole and streamed, at a provider that says nothing of usage.
#[tokio::test]
async fn an_answer_without_usage_is_free_on_no_route_as_it_was_in_bifrost_4846() {
    let world = World::start().await;
    for (path, body) in spending(&format!("+{}", Fault::NoUsage.name())) {
        let answer = post(&world, path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let event = world.event(answer.request_id()).await;
        let real = world.truth.get(answer.request_id()).expect("the provider saw it").cost_picousd;
        let cost = number(&event.cost_picousd);
        assert!(real > 0 && cost >= real && cost <= number(&event.hold_cost_picousd), "{path}: {event:?}");
        assert_eq!((event.state, event.confidence), (UsageState::Posted, Some(Confidence::Bounded)), "{path}");
    }
    world.close().await;
}

/// The end of a stream brings the usage; when it never comes, what the provider may have done is held to be done, and is said
/// to be a bound. (`tollgate ledger reconcile` puts it right with the provider's record.)
#[tokio::test]
async fn an_interrupted_stream_is_neither_free_nor_called_measured_as_openai_openapi_539_leaves_it() {
    let world = World::start().await;
    let answer = world.chat(ask_stream(&format!("gpt-4o-mini+{}", Fault::Cut.name()))).await;
    let event = world.event(answer.request_id()).await;
    let real = world.truth.get(answer.request_id()).expect("the provider saw it").cost_picousd;
    assert!(real > 0 && (real..=number(&event.hold_cost_picousd)).contains(&number(&event.cost_picousd)), "{event:?}");
    assert_eq!((event.state, event.confidence), (UsageState::Posted, Some(Confidence::Bounded)));
    world.close().await;
}

/// A limit of any scope refuses the very next request.
#[tokio::test]
async fn a_limit_that_is_set_is_in_force_as_it_was_not_in_higress_1665_1826_and_4067() {
    let clock = Clock::manual(Timestamp::parse_rfc3339("2027-01-01T00:00:00Z").expect("a time"));
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let text = |text: &str| Some(text.to_owned());
    let of_demo = LimitSetting { tenant: text("demo"), ..LimitSetting::default() };
    let scopes = [
        LimitSetting { platform: true, ..LimitSetting::default() },
        LimitSetting { plan: text("standard"), ..LimitSetting::default() },
        LimitSetting { plan: text("standard"), each: true, ..LimitSetting::default() },
        of_demo.clone(),
        LimitSetting { project: text("default"), ..of_demo.clone() },
        LimitSetting { key: Some(world.key_id.clone()), ..of_demo.clone() },
        LimitSetting { end_user: text("ada"), ..of_demo.clone() },
        LimitSetting { each: true, ..of_demo.clone() },
    ];
    let mut headers = bearer(&world.key).to_vec();
    headers.push(("x-tollgate-end-user", "ada".to_owned()));
    for scope in scopes {
        let limits = LimitSetting { requests_per_minute: Some(1), ..scope };
        world.admin.set_limits(&limits).await.expect("limits");
        let ask = async || world.http.post("/v1/chat/completions", &headers, ask("gpt-4o-mini").to_string()).await;
        assert_eq!(ask().await.status, 200, "{limits:?}");
        assert_eq!(ask().await.refusal(), (429, "rate_limited".to_owned()), "{limits:?}");
        world.admin.remove_limits(&limits.whose()).await.expect("removed");
        clock.advance(Duration::from_secs(120));
    }
    world.close().await;
}

/// A price that ends has no successor by accident: what it priced is refused, not free; and a push that cannot be read
/// changes nothing.
#[tokio::test]
async fn a_model_whose_price_has_gone_is_refused_and_a_broken_map_is_not_free_as_at_litellm_on_2026_01_27() {
    let clock = Clock::manual(Timestamp::parse_rfc3339("2027-01-01T00:00:00Z").expect("a time"));
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let book = "version = \"short\"\nsource = \"a test\"\nchecked_at = \"2026-11-23\"\n[[price]]\nprovider = \"simulator\"\n\
                model = \"a-model-nobody-prices\"\neffective_from = \"2026-01-01T00:00:00Z\"\n\
                effective_to = \"2027-01-02T00:00:00Z\"\ninput_usd_per_million = \"0.15\"\noutput_usd_per_million = \"0.60\"\n";
    world.admin.push_prices(book).await.expect("a good book");
    assert_eq!(world.chat(ask("unpriced")).await.status, 200);
    for broken in ["", "{}", "version = \"empty\"\n", &book[..book.len() - 20], "<html>502 Bad Gateway</html>"] {
        assert!(world.admin.push_prices(broken).await.is_err(), "{broken}");
    }
    let answer = world.chat(ask("unpriced")).await;
    assert_eq!(answer.status, 200, "the last good one is in force");
    assert_ne!(answer.header("x-tollgate-cost-usd"), Some("0.00"));
    clock.advance(Duration::from_secs(24 * 60 * 60));
    assert_eq!(world.chat(ask("unpriced")).await.refusal(), (402, "price_unknown".to_owned()));
    world.close().await;
}

/// One store has one process: there are no replicas that each have the whole cap, or fall back to a counter of their own.
#[tokio::test]
async fn a_second_replica_on_the_same_budgets_is_refused_where_limits_are_per_pod_in_bifrost_3547_and_litellm_27736_40291_35533_and_16011()
 {
    let world = World::start().await;
    let text = format!("[store]\ndir = {:?}\n", world.dir.path().join("data"));
    let environment =
        Environment::of([("TOLLGATE_MASTER_KEY", "00".repeat(32).as_str()), ("TOLLGATE_ADMIN_KEY", ADMIN_KEY)]);
    let config = Config::parse(&text, Path::new("tollgate.toml"), &environment).expect("a good configuration");
    let error = serve::start(&config, Clock::System).err().expect("it is refused");
    assert!(format!("{error:#}").contains("is open in another process"), "{error:#}");
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200, "the first goes on");
    world.close().await;
}
