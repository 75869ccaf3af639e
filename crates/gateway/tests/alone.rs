//! Non-interference: what a tenant is answered is the same whether the others are there or not. Many tenants run the same kind
//! of day, on a clock that stands where the test says; then each half of them does so alone, halved by every bit of their
//! numbers, so that of any two tenants each was once there without the other. Every answer is compared: status, headers, body.
//!
//! No limit is shared among them that could bind. `ALONE_TENANTS` says how many there are (64 in `make test`, a thousand in
//! `make fuzz`).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tollgate_types::{Clock, Timestamp};

use crate::world::{Answer, Setup, World, bearer};

/// 2026-11-23T12:00:00Z, a Monday.
const NOON: Timestamp = Timestamp(1_795_435_200_000_000);
const STEPS: usize = 9;

/// All that a tenant was answered, in order; what must differ (ids that are drawn, signatures) left out.
type Day = Vec<String>;

#[tokio::test]
async fn boundary_a_tenant_is_answered_the_same_with_and_without_the_others() {
    let wanted = std::env::var("ALONE_TENANTS").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(64);
    let everybody: Vec<usize> = (0..wanted).collect();
    let together = days(&everybody).await;
    assert!(together.values().flatten().any(|answer| answer.contains("budget_exceeded")), "some ran out of budget");
    assert!(together.values().flatten().any(|answer| answer.contains("rate_limited")), "some were too fast");
    assert!(together.values().flatten().any(|answer| answer.contains("idempotent-replayed")), "some asked twice");
    assert!(together.values().flatten().any(|answer| answer.contains("\"cost_picousd\"")), "some had a receipt");
    let mut compared = 0;
    let bits = usize::BITS - (wanted - 1).leading_zeros();
    for bit in 0..bits {
        for side in [0, 1] {
            let half: Vec<usize> = everybody.iter().copied().filter(|n| n >> bit & 1 == side).collect();
            for (tenant, alone) in days(&half).await {
                for (step, (is, was)) in alone.iter().zip(&together[&tenant]).enumerate() {
                    assert_eq!(
                        is, was,
                        "tenant {tenant}, step {step}: with half of the others it was answered otherwise"
                    );
                    compared += 1;
                }
            }
        }
    }
    println!("boundary-operations {compared}");
    assert_eq!(compared, wanted * STEPS * bits as usize, "every answer, once for each bit");
}

/// A day of these tenants and nobody else.
async fn days(tenants: &[usize]) -> BTreeMap<usize, Day> {
    let clock = Clock::manual(NOON);
    let world = World::of(Setup { clock: clock.clone(), ..Setup::default() }).await;
    let mut keys = BTreeMap::new();
    for tenant in tenants {
        let id = name(*tenant);
        let (key_id, key) = world.tenant(&id).await;
        // Some are short of money, some of requests.
        let cap = if tenant % 3 == 0 { "0.0000004" } else { "5" };
        world.budget(json!({"tenant": id, "window": "day", "cap_usd": cap})).await;
        if tenant % 4 == 1 {
            let limit = json!({"tenant": id, "key": key_id, "requests_per_minute": 4});
            world.admin.set_limits(&serde_json::from_value(limit).expect("a limit")).await.expect("it is set");
        }
        keys.insert(*tenant, key);
    }
    let mut days: BTreeMap<usize, Day> = BTreeMap::new();
    let mut first_requests: BTreeMap<usize, String> = BTreeMap::new();
    for step in 0..STEPS {
        for (tenant, key) in &keys {
            let answer = ask(&world, *tenant, key, step, first_requests.get(tenant)).await;
            if step == 0 {
                first_requests.insert(*tenant, answer.request_id().to_owned());
            }
            days.entry(*tenant).or_default().push(comparable(&answer));
        }
        clock.advance(Duration::from_secs(1));
    }
    world.close().await;
    days
}

fn name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

/// The `step`-th request of a tenant's day.
async fn ask(world: &World, tenant: usize, key: &str, step: usize, first: Option<&String>) -> Answer {
    let embed = |text: String, more: &[(&'static str, &str)]| {
        let mut headers = bearer(key).to_vec();
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let body = json!({"model": "text-embedding-3-small", "input": text, "dimensions": 4}).to_string();
        async move { world.http.post("/v1/embeddings", &headers, body).await }
    };
    let get = async |path: String| world.http.send(Method::GET, &path, &bearer(key), Bytes::new()).await;
    // Whether its neighbour is there, which in half of the worlds it is not.
    let neighbour = name(tenant ^ 1 << (step % 6));
    match step {
        0 => embed(format!("good morning, {}", tenant % 5), &[]).await,
        1 => embed("the same for all".to_owned(), &[("idempotency-key", "daily")]).await,
        2 => embed("the same for all".to_owned(), &[("idempotency-key", "daily")]).await,
        3 => embed("something else".to_owned(), &[("idempotency-key", "daily")]).await,
        4 => get(format!("/t/{neighbour}/v1/models")).await,
        5 => {
            get(format!("/v1/receipts/{}", first.map_or("req_00000000000000000000000000000001", String::as_str))).await
        }
        6 => get("/v1/models".to_owned()).await,
        7 => embed(format!("end user of {}", tenant % 7), &[("x-tollgate-end-user", "ada")]).await,
        _ => embed("good night".to_owned(), &[]).await,
    }
}

/// The answer as it can be compared with another's: without what is drawn for each request, or signed with a store's own key.
fn comparable(answer: &Answer) -> String {
    let drawn = ["x-request-id", "x-tollgate-original-request-id", "date"];
    let headers: BTreeMap<&str, String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !drawn.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    without_drawn(&mut body);
    without_ids(&format!("{} {headers:?} {body}", answer.status))
}

/// Every request's id as the same.
fn without_ids(text: &str) -> String {
    let mut parts = text.split("req_");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |told, part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        format!("{told}req_{rest}")
    })
}

fn without_drawn(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in ["jws", "kid", "key_id", "request_id", "key"] {
                members.remove(name);
            }
            members.values_mut().for_each(without_drawn);
        }
        Value::Array(items) => items.iter_mut().for_each(without_drawn),
        _ => {}
    }
}
