//! Retries and fallbacks: who answers, inside which hold, and that the books are the truth of both providers. The first one
//! is the world's own simulator or nobody; the fallback is another simulator, dearer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tollgate_client::{Confidence, UsageEvent, UsageState};
use tollgate_gateway::http::wire::TEMPLATE_TOKENS;
use tollgate_sim::{Options, Truth};

use crate::money::{check_against_truth, number};
use crate::scripted::{ANSWER, Reply, Scripted};
use crate::world::{Answer, DONE, Http, PROVIDER_KEY, Setup, World, ask, ask_stream, bearer, eventually};

const CHAT: &str = "/v1/chat/completions";
/// `gpt-4o` of the second simulator, in picodollars a token.
const DEAR: (u128, u128) = (2_500_000, 10_000_000);

/// A world with a second, dearer provider behind its routes.
struct Two {
    world: World,
    _dear: tollgate_sim::Running,
    dear: Arc<Truth>,
}

// === impl Two ===

impl Two {
    /// Routes `dear/NAME`: what NAME answers, and `gpt-4o` at the second simulator instead.
    async fn start() -> Self {
        let dear =
            tollgate_sim::spawn(Options { require_key: Some(PROVIDER_KEY.to_owned()), ..Options::on_any_port() });
        let dear = dear.expect("a simulator");
        let mut more = format!(
            "[providers.dear]\npreset = \"simulator\"\nbase_url = \"{}\"\napi_key = \"env:SIM_KEY\"\n",
            dear.base_url()
        );
        let with_faults =
            ["", "+error-500", "+error-503", "+rate-limit", "+cut", "+reset", "+stall", "+malformed-chunk"];
        let sim = with_faults.map(|fault| ("sim", format!("gpt-4o-mini{fault}")));
        let others = [("hasty", "gpt-4o-mini+no-answer"), ("dead", "gpt-4o-mini"), ("stranger", "gpt-4o-mini")];
        let others = others.map(|(provider, model)| (provider, model.to_owned()));
        for (provider, model) in sim.into_iter().chain(others) {
            let provider = if model.ends_with("stall") { "hasty" } else { provider };
            let name = if provider == "sim" || provider == "hasty" { model.as_str() } else { provider };
            more.push_str(&format!(
                "[routes.\"dear/{name}\"]\nprovider = \"{provider}\"\nmodel = \"{model}\"\nmax_tokens_default = 200\n\
                 fallbacks = [{{ provider = \"sim\", model = \"a-model-nobody-prices\" }}, \
                 {{ provider = \"dear\", model = \"gpt-4o\" }}]\n"
            ));
        }
        let world = World::of(Setup { more, ..Setup::default() }).await;
        let truth = dear.truth();
        Self { world, _dear: dear, dear: truth }
    }

    /// What the body may cost at the second provider.
    fn dear_hold(body: &Value) -> u128 {
        (body.to_string().len() as u128 + u128::from(TEMPLATE_TOKENS)) * DEAR.0 + 200 * DEAR.1
    }

    async fn request_cap(&self, pico: u128) {
        let cap_usd = format!("0.{pico:012}");
        self.world.budget(json!({"tenant": "demo", "window": "request", "cap_usd": cap_usd})).await;
    }
}

fn ended(event: &UsageEvent) -> (UsageState, Option<Confidence>, &str) {
    (event.state, event.confidence, event.outcome.as_deref().expect("it ended"))
}

#[tokio::test]
async fn a_fallback_answers_inside_a_hold_that_grew_and_is_charged_at_its_own_price() {
    let two = Two::start().await;
    let world = &two.world;
    world.plan("standard", json!({"markup_percent": "20"})).await;
    let mut spent = 0;
    for first in ["dead", "stranger", "gpt-4o-mini+error-500", "gpt-4o-mini+error-503", "gpt-4o-mini+rate-limit"] {
        for body in [ask(&format!("dear/{first}")), ask_stream(&format!("dear/{first}"))] {
            let answer = world.chat(body.clone()).await;
            assert_eq!((answer.status, answer.header("x-tollgate-model")), (200, Some("gpt-4o")), "{}", answer.text());
            assert!(body["stream"] != true || answer.text().ends_with(DONE));
            let event = world.event(answer.request_id()).await;
            assert_eq!(ended(&event), (UsageState::Posted, Some(Confidence::Measured), "completed"), "{first}");
            assert_eq!((&*event.provider, &*event.model, &*event.route), ("dear", "gpt-4o", &*format!("dear/{first}")));
            assert_eq!(number(&event.hold_cost_picousd), Two::dear_hold(&body), "the hold is the dearer one's");
            check_against_truth(&event, two.dear.get(answer.request_id()).as_ref());
            let at_the_first = world.truth.get(answer.request_id()).map_or(0, |account| account.cost_picousd);
            assert_eq!(at_the_first, 0, "the first did no work");
            spent += number(&event.cost_picousd);
        }
    }
    let answer = world.chat(ask("dear/gpt-4o-mini")).await;
    let event = world.event(answer.request_id()).await;
    assert_eq!(
        (&*event.provider, answer.header("x-tollgate-model")),
        ("sim", Some("gpt-4o-mini")),
        "the first if it can"
    );
    check_against_truth(&event, world.truth.get(answer.request_id()).as_ref());
    world.settled().await;
    let ledger = world.admin.ledger().await.expect("the ledger");
    assert_eq!(
        (ledger.drift_picousd.as_str(), number(&ledger.posted_picousd)),
        ("0", spent + number(&event.cost_picousd))
    );
    let metrics = world.http.get("/metrics", "").await;
    let line = r#"tollgate_requests_total{tenant="demo",route="dear/dead",model="gpt-4o",outcome="completed"} 2"#;
    assert!(metrics.text().contains(line), "counted for who answered");
    two.world.close().await;
}

#[tokio::test]
async fn a_budget_that_affords_only_the_first_tells_of_the_first_and_costs_nothing() {
    let two = Two::start().await;
    for (model, refusal) in [("dear/dead", "could not be reached"), ("dear/gpt-4o-mini+error-500", "status 500")] {
        let body = ask(model);
        two.request_cap(Two::dear_hold(&body) - 1).await;
        let answer = two.world.chat(body.clone()).await;
        assert_eq!(answer.refusal(), (502, "provider_error".to_owned()));
        assert!(answer.message().contains(refusal), "{}", answer.message());
        let event = two.world.event(answer.request_id()).await;
        assert_eq!((event.state, &*event.cost_picousd), (UsageState::Voided, "0"));
        assert!(two.dear.get(answer.request_id()).is_none(), "it was not asked");
        // One picodollar more is enough.
        two.request_cap(Two::dear_hold(&body)).await;
        assert_eq!(two.world.chat(body).await.status, 200);
    }
    two.world.close().await;
}

#[tokio::test]
async fn a_tight_budget_shortens_the_fallbacks_answer_to_what_is_left() {
    let provider = Scripted::start(Reply::json(ANSWER)).await;
    let route = "[routes.clamped]\nprovider = \"dead\"\nmodel = \"gpt-4o-mini\"\n\
                 fallbacks = [{ provider = \"scripted\", model = \"gpt-4.1\" }]\n";
    let world = World::of(Setup { more: provider.sections() + route, ..Setup::default() }).await;
    world.plan("standard", json!({"tight_budget": "clamp"})).await;
    let mut body = ask("clamped");
    body["max_tokens"] = 500.into();
    let input = (body.to_string().len() as u128 + u128::from(TEMPLATE_TOKENS)) * 2_000_000;
    let mut posted = 0;
    for window in ["request", "lifetime"] {
        let cap = posted + input + 40 * 8_000_000 + 7;
        world.budget(json!({"tenant": "demo", "window": window, "cap_usd": format!("0.{cap:012}")})).await;
        let answer = world.chat(body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sent: Value = serde_json::from_slice(&provider.last().body).expect("JSON");
        assert_eq!(
            (&sent["max_tokens"], &sent["model"]),
            (&json!(40), &json!("gpt-4.1")),
            "what was held for is what is sent"
        );
        let event = world.event(answer.request_id()).await;
        assert_eq!(number(&event.hold_cost_picousd), input + 40 * 8_000_000);
        posted += number(&event.cost_picousd);
        let which = serde_json::from_value(json!({"tenant": "demo", "window": window})).expect("a selector");
        world.admin.remove_budget(&which).await.expect("removed");
    }
    world.close().await;
}

#[tokio::test]
async fn what_may_have_worked_is_not_handed_on() {
    let two = Two::start().await;
    let firsts = ["cut", "reset", "no-answer", "stall", "malformed-chunk"];
    let calls = firsts.iter().flat_map(|fault| {
        let model = format!("dear/gpt-4o-mini+{fault}");
        [ask(&model), ask_stream(&model)].map(|body| two.world.chat(body))
    });
    for answer in futures_util::future::join_all(calls).await {
        let event = two.world.event(answer.request_id()).await;
        assert_eq!(ended(&event), (UsageState::Posted, Some(Confidence::Bounded), "provider_broke"));
        assert_eq!((&*event.provider == "dear", &event.cost_picousd), (false, &event.hold_cost_picousd));
        assert!(two.dear.get(answer.request_id()).is_none(), "nobody else was asked");
        check_against_truth(&event, two.world.truth.get(answer.request_id()).as_ref());
    }
    two.world.close().await;
}

/// A world over a scripted provider that is asked up to so many times again.
async fn retrying(replies: Vec<Reply>, retries: u32) -> (World, Scripted) {
    let provider = Scripted::in_turn(replies).await;
    let route = format!("[routes.again]\nprovider = \"scripted\"\nmodel = \"gpt-4.1\"\nretries = {retries}\n");
    let world = World::of(Setup { more: provider.sections() + &route, ..Setup::default() }).await;
    (world, provider)
}

#[tokio::test]
async fn a_busy_provider_is_asked_again_when_it_said_and_only_as_often_as_configured() {
    let busy = || Reply::error(429, Some(150));
    let (world, provider) = retrying(vec![busy(), busy(), Reply::json(ANSWER)], 2).await;
    let began = Instant::now();
    let answer = world.chat(ask("again")).await;
    assert_eq!((answer.status, provider.count()), (200, 3), "{}", answer.text());
    assert!(began.elapsed() >= Duration::from_millis(300), "it waited as it was told");
    let event = world.event(answer.request_id()).await;
    assert_eq!(number(&event.cost_picousd), 9 * 2_000_000 + 4 * 8_000_000, "charged once");
    world.close().await;
    for (first, refusal) in [
        (Reply::error(429, Some(60_000)), "status 429"),
        (Reply::error(401, None), "status 401"),
        (Reply::error(400, None), "not now"),
        (Reply::error(504, None), "status 504"),
    ] {
        let (world, provider) = retrying(vec![first, Reply::json(ANSWER)], 3).await;
        let answer = world.chat(ask("again")).await;
        assert_ne!(answer.status, 200);
        assert!(answer.message().contains(refusal), "{}", answer.message());
        assert_eq!(provider.count(), 1, "too long to wait, or of no use, or it may have worked: {refusal}");
        world.close().await;
    }
    let (world, provider) = retrying(vec![Reply::error(500, Some(0))], 3).await;
    assert_eq!(world.chat(ask("again")).await.refusal(), (502, "provider_error".to_owned()));
    assert_eq!(provider.count(), 4, "once, and three times again");
    world.close().await;
}

#[tokio::test]
async fn the_attempts_for_one_request_are_bounded_in_all() {
    let provider = Scripted::start(Reply::error(500, Some(0))).await;
    let route = r#"
        [routes.many]
        provider = "scripted"
        model = "gpt-4.1"
        retries = 3
        fallbacks = [
            { provider = "modern", model = "gpt-4.1" },
            { provider = "modern", model = "gpt-4.1-mini" },
            { provider = "scripted", model = "gpt-4.1-mini" },
        ]
    "#;
    let world = World::of(Setup { more: provider.sections() + route, ..Setup::default() }).await;
    assert_eq!(world.chat(ask("many")).await.refusal(), (502, "provider_error".to_owned()));
    assert_eq!(provider.count(), 8, "not the sixteen that are configured");
    world.close().await;
}

#[tokio::test]
async fn who_leaves_while_nobody_works_gets_the_hold_back() {
    let (world, provider) = retrying(vec![Reply::error(503, Some(1_900))], 3).await;
    let http = Http::to(&world.http.base);
    let authorization = bearer(&world.key);
    let mut asking = Box::pin(http.open(Method::POST, CHAT, &authorization, ask("again").to_string()));
    eventually("the provider to have refused", async || {
        let _ = tokio::time::timeout(Duration::from_millis(50), asking.as_mut()).await;
        (provider.count() == 1).then_some(())
    })
    .await;
    let id = eventually("the hold", async || Some(world.events().await.first()?.request_id.clone())).await;
    drop(asking);
    let event = world.event(&id).await;
    assert_eq!((event.state, &*event.cost_picousd), (UsageState::Voided, "0"));
    world.close().await;
}

#[tokio::test]
async fn caps_hold_while_many_requests_are_handed_over_at_once() {
    let two = Two::start().await;
    let world = &two.world;
    world.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "0.03"})).await;
    let (stop, app) = (Arc::new(AtomicBool::new(false)), Arc::clone(&world.gateway.app));
    let watcher = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let budget = app.books.budgets(|_| true).remove(0);
                assert!(Some(budget.sums.used(budget.budget.basis)) <= budget.budget.cap, "over the cap: {budget:?}");
                std::thread::yield_now();
            }
        })
    };
    let models = ["dear/dead", "dear/gpt-4o-mini+error-500", "dear/gpt-4o-mini+cut", "dear/gpt-4o-mini"];
    let calls = (0..120).map(|n| {
        let model = models[n % models.len()];
        world.chat(if n % 3 == 0 { ask_stream(model) } else { ask(model) })
    });
    let answers: Vec<Answer> = futures_util::future::join_all(calls).await;
    world.settled().await;
    stop.store(true, Ordering::Release);
    watcher.join().expect("never over the cap");
    let answered = answers.iter().filter(|answer| answer.header("x-tollgate-model") == Some("gpt-4o")).count();
    assert!(answered > 0, "some were handed over");
    let events = world.events().await;
    for event in &events {
        let truth = if event.provider == "dear" { &two.dear } else { &world.truth };
        check_against_truth(event, truth.get(&event.request_id).as_ref());
    }
    let budget = world.admin.budgets(Some("demo")).await.expect("budgets").remove(0);
    assert_eq!(events.iter().map(|event| number(&event.cost_picousd)).sum::<u128>(), number(&budget.posted_picousd));
    two.world.close().await;
}

#[tokio::test]
async fn what_a_provider_does_not_bear_is_the_fallbacks_or_is_refused_and_costs_nothing() {
    let narrow = tollgate_sim::spawn(Options { require_key: Some(PROVIDER_KEY.to_owned()), ..Options::on_any_port() });
    let narrow = narrow.expect("a simulator");
    let mut more = format!(
        "[providers.narrow]\npreset = \"simulator\"\nbase_url = \"{}\"\napi_key = \"env:SIM_KEY\"\n\
         adaptive_concurrency = true\nconcurrency_min = 1\nconcurrency_max = 1\n",
        narrow.base_url()
    );
    for (name, model) in [("alone", "gpt-4o-mini"), ("held", "gpt-4o-mini+no-answer"), ("backed", "gpt-4o-mini")] {
        more.push_str(&format!(
            "[routes.{name}]\nprovider = \"narrow\"\nmodel = \"{model}\"\nmax_tokens_default = 20\n"
        ));
        if name == "backed" {
            more.push_str("fallbacks = [{ provider = \"sim\", model = \"gpt-4o-mini\" }]\n");
        }
    }
    let world = World::of(Setup { more, ..Setup::default() }).await;
    assert_eq!(world.chat(ask("alone")).await.status, 200, "one at a time is borne");
    let (http, key) = (world.http.clone(), world.key.clone());
    let held = tokio::spawn(async move { http.chat(&key, ask("held")).await });
    eventually("it is asked", async || (narrow.truth().all().len() == 2).then_some(())).await;

    let refused = world.chat(ask("alone")).await;
    assert_eq!(refused.refusal(), (429, "overloaded".to_owned()));
    assert!(refused.header("retry-after-ms").is_some() && refused.message().contains("as many requests as it bears"));
    let event = world.event(refused.request_id()).await;
    assert_eq!((event.cost_picousd.as_str(), event.outcome.as_deref()), ("0", Some("not_sent")));
    let backed = world.chat(ask("backed")).await;
    assert_eq!((backed.status, world.truth.all().len()), (200, 1), "the fallback has answered");
    let metrics = world.http.get("/metrics", &world.key).await;
    assert!(metrics.text().contains("tollgate_provider_concurrency_limit{provider=\"narrow\"} 1"));

    // Once the caller has left, there is room again.
    held.abort();
    eventually("room", async || (world.chat(ask("alone")).await.status == 200).then_some(())).await;
    world.close().await;
}
