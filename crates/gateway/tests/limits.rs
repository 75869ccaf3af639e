//! Limits of any scope, as callers meet them, and thresholds of budgets, as operators do.

use serde_json::json;
use tollgate_client::{BudgetScope, LimitSetting, Whose};
use tollgate_types::{Clock, Timestamp};

use crate::world::{Setup, World, ask};

/// Time stands still: nothing refills but what a test lets pass.
async fn still() -> (World, Clock) {
    let clock = Clock::manual(Timestamp(1_800_000_000_000_000));
    (World::of(Setup { clock: clock.clone(), ..Setup::default() }).await, clock)
}

fn of_demo() -> LimitSetting {
    LimitSetting { tenant: Some("demo".to_owned()), ..LimitSetting::default() }
}

#[tokio::test]
async fn tokens_per_minute_refuse_say_when_to_come_again_and_are_put_right_by_the_usage() {
    let (world, clock) = still().await;
    let limits = LimitSetting { tokens_per_minute: Some(1_000), ..of_demo() };
    world.admin.set_limits(&limits).await.expect("limits");
    let body = |max_tokens: u64| {
        let mut body = ask("gpt-4o-mini");
        body["max_tokens"] = max_tokens.into();
        body
    };
    let answer = world.chat(body(500)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let usage = &answer.json()["usage"];
    let used = usage["total_tokens"].as_u64().expect("tokens");
    assert!(used < 500, "less than was estimated");
    let left = (1_000 - used).to_string();
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("1000"));
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some(left.as_str()), "the estimate is put right");

    let refused = world.chat(body(930)).await;
    assert_eq!(refused.refusal(), (429, "rate_limited".to_owned()));
    assert!(
        refused.message().contains("tokens per minute of this tenant are limited to 1000"),
        "{}",
        refused.message()
    );
    assert_eq!(refused.header("x-should-retry"), Some("true"));
    let wait: u64 = refused.header("retry-after-ms").expect("a time").parse().expect("milliseconds");
    assert!(refused.header("retry-after").is_some() && (1..60_000).contains(&wait), "{wait}");
    clock.advance(std::time::Duration::from_millis(wait));
    assert_eq!(world.chat(body(930)).await.status, 200, "after just so long it fits");

    let never = world.chat(body(5_000)).await;
    assert_eq!((never.refusal().0, never.header("x-should-retry")), (429, Some("false")), "it can never fit");
    world.admin.remove_limits(&limits.whose()).await.expect("removed");
    let free = world.chat(body(5_000)).await;
    assert_eq!((free.status, free.header("x-ratelimit-limit-tokens")), (200, None));
    world.close().await;
}

#[tokio::test]
async fn a_limit_that_is_shared_with_others_tells_nothing_of_its_size() {
    let (world, _clock) = still().await;
    for whose in
        [Whose { platform: true, ..Whose::default() }, Whose { plan: Some("standard".into()), ..Whose::default() }]
    {
        let Whose { plan, platform, .. } = whose.clone();
        let limits = LimitSetting { plan, platform, tokens_per_minute: Some(777), ..LimitSetting::default() };
        world.admin.set_limits(&limits).await.expect("limits");
        let mut body = ask("gpt-4o-mini");
        body["max_tokens"] = 600.into();
        let first = world.chat(body.clone()).await;
        assert_eq!((first.status, first.header("x-ratelimit-limit-tokens")), (200, None));
        body["max_tokens"] = 700.into();
        let mut larger = body.clone();
        larger["max_tokens"] = 7_000.into();
        let never = world.chat(larger).await;
        for refused in [world.chat(body).await, never] {
            assert_eq!(refused.refusal(), (429, "rate_limited".to_owned()), "{}", refused.text());
            // The time to wait is told, and may happen to have these digits.
            let wait = refused.header("retry-after-ms").unwrap_or("none");
            let said = refused.text().replace(&format!("retry in {wait} ms"), "");
            assert!(!said.contains("777"), "{}", refused.text());
            assert!(refused.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
        }
        world.admin.remove_limits(&whose).await.expect("removed");
    }
    world.close().await;
}

#[tokio::test]
async fn a_threshold_that_is_crossed_is_listed_and_counted_once() {
    let world = World::start().await;
    let setting = json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1", "alerts": ["0.000000000001", "50%"]});
    world.budget(setting).await;
    world.budget(json!({"platform": true, "window": "month", "alerts": ["0.000000000002"]})).await;
    assert!(world.admin.budget_alerts(None).await.expect("alerts").is_empty());
    for _ in 0..2 {
        assert_eq!(world.chat(ask("gpt-4o-mini")).await.status, 200);
    }
    let alerts = world.admin.budget_alerts(None).await.expect("alerts");
    let shown: Vec<_> = alerts.iter().map(|alert| (alert.scope, alert.threshold_picousd.as_str())).collect();
    assert_eq!(shown.len(), 2, "{alerts:?}");
    assert!(shown.contains(&(BudgetScope::Tenant, "1")) && shown.contains(&(BudgetScope::Platform, "2")));
    let of_demo = world.admin.budget_alerts(Some("demo")).await.expect("alerts");
    assert_eq!(of_demo.iter().map(|alert| alert.scope).collect::<Vec<_>>(), [BudgetScope::Tenant]);
    assert_ne!(of_demo[0].posted_picousd, "0");
    assert!(world.admin.budget_alerts(Some("nobody")).await.is_err(), "a misspelling is not an empty list");
    let metrics = world.http.get("/metrics", "").await;
    let line = r#"tollgate_budget_alerts_total{tenant="demo",window="lifetime"} 1"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
    world.close().await;
}
