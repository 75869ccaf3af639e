//! The books against the truth. The simulator counts tokens and money with code of its own; what the gateway measured
//! must equal it exactly, what it bounded must lie between it and the hold, what it gave back must have cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tollgate_client::{Confidence, UsageEvent, UsageState};
use tollgate_gateway::http::wire::TEMPLATE_TOKENS;
use tollgate_sim::{Account, Fault, Options, Scenario, Speed};

use crate::scripted::{ANSWER, Reply, Scripted};
use crate::world::{Answer, DONE, Http, Setup, World, ask, ask_stream, bearer, eventually, simulator, within};

const CHAT: &str = "/v1/chat/completions";

pub fn number(text: &str) -> u128 {
    text.parse().expect("a number of picodollars")
}

/// What the books say against what the provider did.
pub fn check_against_truth(event: &UsageEvent, truth: Option<&Account>) {
    let (cost, hold) = (number(&event.cost_picousd), number(&event.hold_cost_picousd));
    let real = truth.map_or(0, |account| account.cost_picousd);
    assert!(cost <= hold, "never more than was held: {event:?}");
    match (event.state, event.confidence) {
        (UsageState::Voided, _) => assert_eq!((real, cost), (0, 0), "{event:?} {truth:?}"),
        (UsageState::Posted, Some(Confidence::Bounded)) => {
            assert!((real..=hold).contains(&cost), "{event:?} {truth:?}");
        }
        (UsageState::Posted, Some(Confidence::Measured)) => {
            let account = truth.expect("what was measured was worked on");
            if !account.usage_altered {
                let measured =
                    [event.input_tokens, event.cached_input_tokens, event.output_tokens, event.reasoning_tokens];
                let counted =
                    [account.prompt_tokens, account.cached_tokens, account.completion_tokens, account.reasoning_tokens];
                assert_eq!((cost, measured), (real, counted), "{event:?} {truth:?}");
            }
        }
        _ => panic!("it did not end: {event:?}"),
    }
}

/// How a request that met this fault is to be booked: state, confidence and outcome.
fn expected(fault: Option<Fault>, stream: bool) -> (UsageState, Option<Confidence>, &'static str) {
    let measured = (UsageState::Posted, Some(Confidence::Measured), "completed");
    let bounded = |outcome| (UsageState::Posted, Some(Confidence::Bounded), outcome);
    match fault {
        Some(Fault::RateLimit | Fault::Error500 | Fault::Error503) => (UsageState::Voided, None, "provider_refused"),
        Some(Fault::Reset | Fault::NoAnswer | Fault::Stall | Fault::Cut | Fault::MalformedChunk) => {
            bounded("provider_broke")
        }
        Some(Fault::NoUsage) => bounded("usage_missing"),
        // Who goes on beyond what was asked for is cut off; what is not a stream is there at once, and measured.
        Some(Fault::IgnoresLimit) if stream => bounded("cut_at_hold"),
        Some(Fault::ErrorAfterTokens) if stream => bounded("provider_broke"),
        // A missing end mark is no loss where the usage came, and whatever usage came is the provider's word.
        Some(
            Fault::SlowFirstToken
            | Fault::MissingDone
            | Fault::WrongUsage
            | Fault::AbsurdUsage
            | Fault::DoubleUsage
            | Fault::IgnoresLimit
            | Fault::LateUsage
            | Fault::UsageInEveryChunk
            | Fault::ErrorAfterTokens
            | Fault::Overbills,
        )
        | None => measured,
    }
}

#[tokio::test]
async fn with_each_fault_the_books_and_the_truth_agree() {
    let script = Scenario {
        cached_share: 0.4,
        reset_bills_prompt: true,
        slow_first_token_ms: 100,
        late_usage_ms: 100,
        silence_ms_max: 60_000,
        ..Scenario::default()
    };
    let world = World::of(Setup { sim: Options { script: Some(script), ..simulator() }, ..Setup::default() }).await;
    world.plan("standard", json!({"markup_percent": "20"})).await;
    let faults: Vec<Option<Fault>> = [None].into_iter().chain(Fault::ALL.map(Some)).collect();
    let calls = faults.iter().flat_map(|fault| {
        let world = &world;
        let suffix = fault.map_or(String::new(), |fault| format!("+{}", fault.name()));
        [false, true].map(|stream| {
            let model = format!("gpt-4o-mini{suffix}");
            async move {
                let body = if stream { ask_stream(&model) } else { ask(&model) };
                (*fault, stream, world.chat(body).await)
            }
        })
    });
    for (fault, stream, answer) in futures_util::future::join_all(calls).await {
        let event = world.event(answer.request_id()).await;
        let truth = world.truth.get(answer.request_id());
        let outcome = event.outcome.as_deref().expect("it ended");
        assert_eq!((event.state, event.confidence, outcome), expected(fault, stream), "{fault:?} {stream}");
        assert_eq!(event.stream, stream);
        check_against_truth(&event, truth.as_ref());
        let account = truth.expect("the provider saw it");
        match fault {
            Some(Fault::WrongUsage) => {
                let doubled = (2 * account.prompt_tokens, 2 * account.completion_tokens);
                assert_eq!((event.input_tokens, event.output_tokens), doubled, "the provider's bill is its word");
            }
            Some(Fault::AbsurdUsage) => {
                assert_eq!(event.cost_picousd, event.hold_cost_picousd, "the tenant pays no more than was held");
                assert!(number(&event.overrun_picousd) > 0, "and the rest is on record");
            }
            _ => assert_eq!(event.overrun_picousd, "0"),
        }
        let cost = number(&event.cost_picousd);
        assert_eq!(number(&event.charge_picousd), (cost * 12_000 + 5_000) / 10_000, "{event:?}");
    }
    world.settled().await;
    let ledger = world.admin.ledger().await.expect("the ledger");
    assert_eq!((ledger.drift_picousd.as_str(), ledger.indeterminate), ("0", 0));
    let posted: u128 = world.events().await.iter().map(|event| number(&event.cost_picousd)).sum();
    assert_eq!(number(&ledger.posted_picousd), posted);
    world.close().await;
}

#[tokio::test]
async fn embeddings_and_reasoning_models_are_measured_exactly_too() {
    let world = World::start().await;
    for fault in [None, Some(Fault::Cut), Some(Fault::NoUsage), Some(Fault::Error500), Some(Fault::NoAnswer)] {
        let suffix = fault.map_or(String::new(), |fault| format!("+{}", fault.name()));
        let body = json!({"model": format!("text-embedding-3-small{suffix}"), "input": ["one", "two three", "über"]});
        let answer = world.embed(body).await;
        let event = world.event(answer.request_id()).await;
        let expected = expected(fault, false);
        assert_eq!((event.state, event.confidence), (expected.0, expected.1), "{fault:?}");
        check_against_truth(&event, world.truth.get(answer.request_id()).as_ref());
    }
    let mut thinking = ask("o4-mini");
    (thinking["reasoning_effort"], thinking["n"]) = ("low".into(), 2.into());
    for stream in [false, true] {
        thinking["stream"] = stream.into();
        let answer = world.chat(thinking.clone()).await;
        let event = world.event(answer.request_id()).await;
        assert!(event.reasoning_tokens > 0 && event.confidence == Some(Confidence::Measured), "{event:?}");
        check_against_truth(&event, world.truth.get(answer.request_id()).as_ref());
    }
    world.close().await;
}

#[tokio::test]
async fn a_tight_budget_shortens_the_answer_to_what_is_left_or_refuses() {
    let provider = Scripted::start(Reply::json(ANSWER)).await;
    let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
    let body = r#"{"model":"gpt-4.1","messages":[{"role":"user","content":"hi"}],"max_tokens":5000,"n":2}"#;
    // 2 USD a million tokens in, at most one a byte and the template; 8 USD a million out.
    let input = (body.len() as u64 + TEMPLATE_TOKENS) * 2_000_000;
    let cap = |tokens: u64| format!("0.{:012}", input + 2 * tokens * 8_000_000 + 7);
    let set = async |cap_usd: String| {
        world.budget(json!({"tenant": "demo", "window": "request", "cap_usd": cap_usd})).await;
        world.http.post(CHAT, &bearer(&world.key), body).await
    };
    assert_eq!(set(cap(100)).await.refusal().0, 429, "the plan refuses");
    world.plan("standard", json!({"tight_budget": "clamp"})).await;
    for tokens in [100, 16] {
        let answer = set(cap(tokens)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sent: Value = serde_json::from_slice(&provider.last().body).expect("JSON");
        assert_eq!((&sent["max_tokens"], &sent["n"]), (&json!(tokens), &json!(2)), "what the provider received");
        let hold = number(&world.event(answer.request_id()).await.hold_cost_picousd);
        assert_eq!(hold, u128::from(input + 2 * tokens * 8_000_000), "what was held is what was sent");
    }
    assert_eq!(set(cap(15)).await.refusal().0, 429, "too little to be of use");
    assert_eq!(set("1.00".to_owned()).await.status, 200);
    let sent: Value = serde_json::from_slice(&provider.last().body).expect("JSON");
    assert_eq!(sent["max_tokens"], 5000, "with room for all nothing is shortened");
    world.close().await;
}

#[tokio::test]
async fn a_hold_counts_against_tenant_project_and_key_in_every_window_until_it_is_posted() {
    let sim = Options { speed: Speed::Paced(0.5), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    for selector in [json!({}), json!({"project": "default"}), json!({"key": world.key_id})] {
        for window in ["day", "month", "lifetime"] {
            let mut budget = json!({"tenant": "demo", "window": window, "cap_usd": "1"});
            budget.as_object_mut().expect("an object").extend(selector.as_object().expect("an object").clone());
            world.budget(budget).await;
        }
    }
    let budgets = async || {
        let budgets = world.admin.budgets(Some("demo")).await.expect("budgets");
        assert_eq!(budgets.len(), 9);
        budgets
    };
    let response =
        world.http.open(Method::POST, CHAT, &bearer(&world.key), ask_stream("gpt-4o-mini").to_string()).await;
    let input = ask_stream("gpt-4o-mini").to_string().len() as u64 + TEMPLATE_TOKENS;
    let held = u128::from(input * 150_000 + 200 * 600_000);
    for budget in budgets().await {
        assert_eq!((number(&budget.pending_picousd), number(&budget.posted_picousd)), (held, 0), "{budget:?}");
        assert_eq!(number(budget.remaining_picousd.as_ref().expect("a cap")), 1_000_000_000_000 - held);
    }
    let answer = Answer::read(response).await;
    let cost = number(&world.event(answer.request_id()).await.cost_picousd);
    assert!(cost > 0 && cost < held);
    for budget in budgets().await {
        assert_eq!((number(&budget.pending_picousd), number(&budget.posted_picousd)), (0, cost), "{budget:?}");
    }
    // Another key of the same tenant counts against the tenant and the project, not against this key.
    let (_, key) = world.new_key(json!({"tenant": "demo"})).await;
    assert_eq!(world.http.chat(&key, ask("gpt-4o-mini")).await.status, 200);
    for budget in budgets().await {
        assert_eq!(number(&budget.posted_picousd) == cost, budget.key.is_some(), "{budget:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_cap_on_the_charge_counts_the_mark_up_and_a_cap_on_the_cost_does_not() {
    let world = World::start().await;
    world.plan("standard", json!({"markup_percent": "150.5"})).await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1", "basis": "charge"})).await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1", "basis": "cost"})).await;
    let event = world.event(world.chat(ask("gpt-4o-mini")).await.request_id()).await;
    let (cost, charge) = (number(&event.cost_picousd), number(&event.charge_picousd));
    assert_eq!(charge, (cost * 25_050 + 5_000) / 10_000);
    for budget in world.admin.budgets(Some("demo")).await.expect("budgets") {
        let counted = if budget.basis == tollgate_client::Basis::Charge { charge } else { cost };
        assert_eq!(number(&budget.posted_picousd), counted, "{budget:?}");
    }
    // Room for the cost of a request but not for what it would be charged.
    let hold = number(&event.hold_cost_picousd);
    let usd = |pico: u128| format!("0.{pico:012}");
    world.budget(json!({"tenant": "demo", "window": "request", "cap_usd": usd(hold), "basis": "cost"})).await;
    assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200);
    world.budget(json!({"tenant": "demo", "window": "request", "cap_usd": usd(hold), "basis": "charge"})).await;
    let refused = world.chat(ask("gpt-4o-mini")).await;
    assert_eq!(refused.refusal(), (429, "budget_exceeded".to_owned()));
    assert!(refused.message().contains("request budget (charge)"), "{}", refused.message());
    world.close().await;
}

#[tokio::test]
async fn when_the_caller_leaves_the_provider_is_stopped_and_what_it_did_is_bounded() {
    let sim = Options { speed: Speed::Paced(2.0), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1"})).await;
    let left = async |http: &Http, stream: bool, pieces: usize| {
        let before: Vec<String> = world.truth.all().into_iter().map(|account| account.request_id).collect();
        let mut body = if stream { ask_stream("gpt-4o-mini") } else { ask("gpt-4o-mini") };
        body["max_tokens"] = 500.into();
        let authorization = bearer(&world.key);
        let mut asking = Box::pin(http.open(Method::POST, CHAT, &authorization, body.to_string()));
        let reached = eventually("the provider to be reached", async || {
            let _ = tokio::time::timeout(std::time::Duration::ZERO, async {
                if pieces == 0 {
                    let _ = asking.as_mut().await;
                }
            })
            .await;
            world.truth.all().into_iter().find(|account| !before.contains(&account.request_id))
        });
        let id = if pieces == 0 {
            let id = reached.await.request_id;
            drop(asking);
            id
        } else {
            drop(reached);
            let response = asking.await;
            let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
            let mut incoming = response.into_body();
            for _ in 0..pieces {
                within("a piece", incoming.frame()).await.expect("a piece").expect("whole");
            }
            id
        };
        let account =
            eventually("the provider to notice", async || world.truth.get(&id).filter(|account| account.client_gone))
                .await;
        assert!(!account.complete);
        let event = world.event(&id).await;
        let booked = (event.state, event.confidence, event.outcome.as_deref());
        assert_eq!(booked, (UsageState::Posted, Some(Confidence::Bounded), Some("client_gone")));
        assert_eq!(event.cost_picousd, event.hold_cost_picousd, "a partial cost is never released");
        check_against_truth(&event, Some(&account));
    };
    let one = world.http.clone();
    left(&Http::to(&one.base), false, 0).await;
    left(&Http::to(&one.base), true, 0).await;
    left(&Http::to(&one.base), true, 3).await;
    left(&Http::http2(&one.base), true, 3).await;
    left(&Http::http2(&one.base), false, 0).await;
    world.settled().await;
    let metrics = world.http.get("/metrics", "").await;
    let gone = metrics
        .text()
        .lines()
        .filter(|line| line.contains("outcome=\"client_gone\"") && line.contains("requests_total"));
    let counted: f64 = gone.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert!((counted - 5.0).abs() < 0.1, "each is counted: {counted}");
    world.close().await;
}

/// Reads a stream until it has said `text`, and leaves.
async fn leaves_after(world: &World, body: &Value, text: &str) -> String {
    let http = Http::to(&world.http.base);
    let response = http.open(Method::POST, CHAT, &bearer(&world.key), body.to_string()).await;
    let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
    let (mut incoming, mut said) = (response.into_body(), String::new());
    while !said.contains(text) {
        let frame = within("a piece", incoming.frame()).await.expect("a piece").expect("whole");
        said.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
    }
    id
}

#[tokio::test]
async fn who_leaves_after_the_last_content_pays_what_is_known_of_it_then() {
    let event = |data: &str| format!("data: {data}\n\n");
    let content = event(r#"{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}"#);
    let usage = event(ANSWER);
    let end = event("[DONE]");
    let silent = |text: String| Reply { falls_silent: true, ..Reply::stream(&text, 1 << 20) };
    let measured = 9 * 2_000_000 + 4 * 8_000_000;
    for (said, left_after, cost, outcome) in [
        (content.clone(), "\"stop\"", None, "client_gone"),
        (content.clone() + &usage, "\"usage\"", Some(measured), "client_gone"),
        (content + &usage + &end, DONE, Some(measured), "completed"),
    ] {
        let provider = Scripted::start(silent(said)).await;
        let world = World::of(Setup { more: provider.sections(), ..Setup::default() }).await;
        let mut body = ask_stream("gpt-4.1");
        body["stream_options"] = json!({"include_usage": true});
        let event = world.event(&leaves_after(&world, &body, left_after).await).await;
        assert_eq!((event.state, event.outcome.as_deref()), (UsageState::Posted, Some(outcome)), "{left_after}");
        let hold = number(&event.hold_cost_picousd);
        assert_eq!(number(&event.cost_picousd), cost.unwrap_or(hold), "{left_after}");
        let confidence = if cost.is_some() { Confidence::Measured } else { Confidence::Bounded };
        assert_eq!(event.confidence, Some(confidence), "{left_after}");
        world.close().await;
    }
}

#[tokio::test]
async fn a_provider_that_is_dead_gives_the_hold_back() {
    let world = World::start().await;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "0.003"})).await;
    for n in 0..10 {
        let body = if n % 2 == 0 { ask("dead") } else { ask_stream("dead") };
        let answer = world.chat(body).await;
        assert_eq!(answer.refusal(), (502, "provider_error".to_owned()), "the budget is not used up by it");
        let event = world.event(answer.request_id()).await;
        assert_eq!((event.state, event.outcome.as_deref()), (UsageState::Voided, Some("not_sent")));
    }
    let budget = world.admin.budgets(Some("demo")).await.expect("budgets").remove(0);
    assert_eq!(budget.remaining_picousd, budget.cap_picousd);
    world.close().await;
}

#[tokio::test]
async fn a_cap_under_two_hundred_at_once_is_never_passed_and_can_be_spent_to_the_end() {
    let script = Scenario { silence_ms_max: 60_000, ..Scenario::default() };
    let sim = Options { script: Some(script), speed: Speed::Paced(0.02), ..simulator() };
    let world = World::of(Setup { sim, ..Setup::default() }).await;
    // The smallest hold, of `small`, is less than 1 % of this.
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "0.012"})).await;
    let small = || {
        let mut body = ask("gpt-4o-mini");
        body["max_tokens"] = 16.into();
        body
    };
    let (stop, app) = (Arc::new(AtomicBool::new(false)), Arc::clone(&world.gateway.app));
    let watcher = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut looks = 0_u64;
            while !stop.load(Ordering::Acquire) {
                let budget = app.books.budgets(|_| true).remove(0);
                assert!(Some(budget.sums.used(budget.budget.basis)) <= budget.budget.cap, "over the cap: {budget:?}");
                looks += 1;
                std::thread::yield_now();
            }
            looks
        })
    };
    let call = async |n: usize| {
        let authorization = bearer(&world.key);
        let (model, stream) = match n % 10 {
            0 => ("gpt-4o-mini+cut", true),
            1 => ("gpt-4o-mini+error-500", false),
            2 => ("gpt-4o-mini+no-usage", false),
            3 => ("dead", false),
            4..=6 => ("gpt-4o-mini", true),
            _ => ("gpt-4o-mini", false),
        };
        let mut body = small();
        (body["model"], body["stream"], body["max_tokens"]) = (model.into(), stream.into(), (16 + n % 150).into());
        let response = world.http.open(Method::POST, CHAT, &authorization, body.to_string()).await;
        let status = response.status().as_u16();
        if stream && n.is_multiple_of(3) {
            let mut incoming = response.into_body();
            within("a piece", incoming.frame()).await;
        } else {
            Answer::read(response).await;
        }
        status
    };
    let mut calls = 0;
    loop {
        let statuses = futures_util::future::join_all((0..200).map(|n| call(calls + n))).await;
        calls += 200;
        assert!(statuses.iter().all(|status| matches!(status, 200 | 429 | 502)), "{statuses:?}");
        world.settled().await;
        if world.chat(small()).await.status == 429 {
            break;
        }
        assert!(calls < 20_000, "the cap is never used up");
    }
    world.settled().await;
    stop.store(true, Ordering::Release);
    assert!(watcher.join().expect("never over the cap") > 100);
    let budget = world.admin.budgets(Some("demo")).await.expect("budgets").remove(0);
    let (posted, cap) = (number(&budget.posted_picousd), number(budget.cap_picousd.as_ref().expect("a cap")));
    assert!(posted <= cap && posted * 100 >= cap * 99, "{posted} of {cap}");
    let events = world.events().await;
    assert_eq!(events.iter().map(|event| number(&event.cost_picousd)).sum::<u128>(), posted);
    for event in &events {
        check_against_truth(event, world.truth.get(&event.request_id).as_ref());
    }
    for confidence in [Confidence::Measured, Confidence::Bounded] {
        assert!(events.iter().any(|event| event.confidence == Some(confidence)));
    }
    world.close().await;
}

#[tokio::test]
async fn a_receipt_is_for_the_own_tenant_alone_and_tells_the_whole_of_it() {
    let world = World::start().await;
    let (_, other) = world.tenant("other").await;
    let (_, sibling) = world.new_key(json!({"tenant": "demo"})).await;
    for body in [ask("renamed"), ask_stream("renamed")] {
        let answer = world.chat(body).await;
        let path = format!("/v1/receipts/{}", answer.request_id());
        let receipt = world.http.get(&path, &world.key).await.json();
        let event = world.event(answer.request_id()).await;
        assert_eq!(receipt["output_tokens"], event.output_tokens);
        for (field, value) in [
            ("state", "posted"),
            ("confidence", "measured"),
            ("tenant", "demo"),
            ("project", "default"),
            ("key", &world.key_id),
            ("route", "renamed"),
            ("model", "gpt-4o-mini"),
            ("provider", "sim"),
            ("outcome", "completed"),
            ("price_version", &event.price_version),
        ] {
            assert_eq!(receipt[field], value, "{field}");
        }
        assert_eq!(world.http.get(&path, &sibling).await.status, 200);
        let refused = world.http.get(&path, &other).await;
        assert_eq!(refused.refusal(), (404, "not_found".to_owned()));
        let of_nothing = world.http.get("/v1/receipts/req_00000000000000000000000000000001", &other).await;
        assert_eq!(refused.json(), of_nothing.json(), "somebody else's looks like nobody's");
    }
    assert_eq!(world.http.get("/v1/receipts/nonsense", &world.key).await.refusal().0, 404);
    assert_eq!(world.http.get("/v1/receipts/req_00000000000000000000000000000001", "").await.refusal().0, 401);
}

#[tokio::test]
async fn a_receipt_is_there_the_moment_its_stream_has_ended() {
    let world = World::start().await;
    for _ in 0..20 {
        let answer = world.chat(ask_stream("gpt-4o-mini")).await;
        assert!(answer.text().ends_with(DONE));
        let receipt = world.http.get(&format!("/v1/receipts/{}", answer.request_id()), &world.key).await;
        assert_eq!(receipt.json()["state"], "posted", "no waiting");
    }
}

#[tokio::test]
async fn a_caller_that_stops_reading_cannot_hold_its_money_for_ever() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let event =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(60_000));
    let provider = Scripted::start(Reply::stream(&event.repeat(500), 64 * 1024)).await;
    let clock = tollgate_types::Clock::manual(tollgate_types::Timestamp(1_800_000_000_000_000));
    let world = World::of(Setup { more: provider.sections(), clock: clock.clone(), ..Setup::default() }).await;
    let mut socket = tokio::net::TcpStream::connect(world.gateway.address).await.expect("connected");
    let body = ask_stream("gpt-4.1").to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        world.key,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut first = [0; 12];
    within("the answer", socket.read_exact(&mut first)).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    // It reads no more. Past the deadline the sweep posts the hold.
    clock.advance(std::time::Duration::from_secs(3_600));
    assert_eq!(world.gateway.app.books.sweep(std::time::Duration::from_secs(20)), 1);
    let audit = world.gateway.app.books.audit();
    assert_eq!((audit.reservations_pending, audit.totals.posted.cost), (0, audit.totals.bounded.cost));
    drop(socket);
    let id = world.events().await.remove(0).request_id;
    let event = world.event(&id).await;
    assert_eq!((event.state, event.outcome.as_deref()), (UsageState::Posted, Some("expired")));
    world.close().await;
}
