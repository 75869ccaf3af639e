//! The ledger against the provider's own exports, by the program itself: after it the books are the bill's, to the
//! picodollar.

use std::path::PathBuf;
use std::process::Command;

use futures_util::future::join_all;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tollgate_sim::{Fault, Options, Scenario};
use tollgate_types::Clock;

use crate::money::number;
use crate::program::{BINARY, Ended, Place, Program, run, surroundings};
use crate::world::{Http, PROVIDER_KEY, ask, ask_stream, bearer, eventually, simulator, within};

const CHAT: &str = "/v1/chat/completions";

/// Runs `tollgate ledger reconcile` over `files`.
pub async fn reconcile(program: &Program, files: &[PathBuf], more: &[&str]) -> (Ended, Value) {
    let mut command = Command::new(BINARY);
    command
        .args(["ledger", "reconcile", "--json", "--url", &program.base])
        .args(more)
        .arg("--provider-usage")
        .args(files);
    surroundings(&mut command);
    let ended = run(command).await;
    let said = serde_json::from_str(&ended.written).unwrap_or_default();
    (ended, said)
}

/// Writes down what the simulator exports, once nothing is in flight there.
pub async fn export(place: &Place, path: &str, name: &str) -> PathBuf {
    let truth = place.sim.truth();
    eventually("the simulator's work to end", async || (truth.totals().in_flight == 0).then_some(())).await;
    let base = place.sim.base_url();
    let http = Http::to(base.strip_suffix("/v1").expect("the provider's address"));
    let key = [("authorization", format!("Bearer {PROVIDER_KEY}")), ("x-api-key", PROVIDER_KEY.to_owned())];
    let answer = http.send(Method::GET, path, &key, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let file = place.dir.path().join(name);
    std::fs::write(&file, &answer.body).expect("written");
    file
}

/// The simulator's price of its smallest model, under the name of each fault.
fn prices_of_faults() -> String {
    let names: Vec<String> = Fault::ALL.iter().map(|fault| format!("\"gpt-4o-mini+{}\"", fault.name())).collect();
    format!(
        "version = \"faults\"\nsource = \"a test\"\nchecked_at = \"2026-11-23\"\n[[price]]\nprovider = \"simulator\"\n\
         model = \"gpt-4o-mini\"\naliases = [{}]\neffective_from = \"2020-01-01T00:00:00Z\"\n\
         input_usd_per_million = \"0.15\"\ncached_input_usd_per_million = \"0.075\"\noutput_usd_per_million = \"0.60\"\n",
        names.join(", ")
    )
}

#[tokio::test]
async fn after_every_fault_and_a_kill_the_ledger_is_the_bill_s_to_the_picodollar() {
    let script = Scenario {
        cached_share: 0.4,
        reset_bills_prompt: true,
        slow_first_token_ms: 100,
        silence_ms_max: 60_000,
        ..Scenario::default()
    };
    let place = Place::new(Options { script: Some(script), ..simulator() });
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    let markup = serde_json::from_value(json!({"markup_percent": "20"})).expect("a plan");
    program.admin.set_plan("standard", &markup).await.expect("set");
    program.admin.push_prices(&prices_of_faults()).await.expect("a good book");
    let faults: Vec<String> = Fault::ALL.iter().map(|fault| format!("gpt-4o-mini+{}", fault.name())).collect();
    let calls = faults
        .iter()
        .map(String::as_str)
        .chain(["gpt-4o-mini", "o4-mini"])
        .flat_map(|model| [ask(model), ask_stream(model)].map(|body| program.http.chat(&key, body)));
    for answer in join_all(calls).await {
        assert_ne!(answer.status, 402, "each fault has a price: {}", answer.text());
    }
    // A caller that leaves in the middle of its stream.
    let mut gone = program.http.open(Method::POST, CHAT, &bearer(&key), ask_stream("gpt-4o").to_string()).await;
    within("the first piece", gone.body_mut().frame()).await.expect("a piece").expect("of data");
    drop(gone);
    // And some whose gateway is killed: the provider has worked for those whose answer never comes.
    let seen = place.sim.truth().totals().attempts + 4;
    let doomed = (0..4).map(|_| {
        let (http, key) = (program.http.clone(), key.clone());
        tokio::spawn(async move { http.chat(&key, ask("gpt-4o-mini+stall")).await })
    });
    let doomed: Vec<_> = doomed.collect();
    eventually("the provider to be asked", async || (place.sim.truth().totals().attempts >= seen).then_some(())).await;
    program.kill().await;
    for caller in doomed {
        // It fails, as its connection does.
        let _ = within("the callers to notice", caller).await;
    }

    let program = place.serve().await;
    let before = program.admin.ledger().await.expect("the ledger");
    assert!(before.indeterminate > 0 && number(&before.bounded_picousd) > 0, "{before:?}");
    let bill = [export(&place, "/sim/usage.jsonl", "usage.jsonl").await];
    let now = Clock::System.now().to_string();
    let span =
        ["--provider", "sim", "--provider", "hasty", "--from", "2020-01-01T00:00:00Z", "--to", &now, "--complete"];

    let (dry, said) = reconcile(&program, &bill, &span).await;
    assert_eq!(dry.code, Some(1), "{dry:?}");
    assert_eq!(program.admin.ledger().await.expect("the ledger"), before, "nothing was changed: {said}");

    let (applied, said) = reconcile(&program, &bill, &[&span[..], &["--apply"]].concat()).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert_eq!(said["differences_left"], 0, "{said}");
    let after = program.admin.ledger().await.expect("the ledger");
    let booked = number(&after.posted_picousd) + number(&after.overrun_picousd);
    assert_eq!(booked, place.sim.truth().totals().cost_picousd, "{after:?}");
    assert_eq!((after.indeterminate, after.bounded_picousd.as_str()), (0, "0"));
    assert_eq!(after.drift_picousd, "0");

    let (again, said) = reconcile(&program, &bill, &[&span[..], &["--apply"]].concat()).await;
    assert_eq!((again.code, &said["findings"]), (Some(0), &json!([])), "{again:?}");
    assert_eq!(program.admin.ledger().await.expect("the ledger"), after, "a second run finds nothing to do");
    assert_eq!(program.stop().await.code, Some(0));
    let report = place.verify().await;
    assert_eq!(report["drift_picousd"], "0");
    assert!(report["adjusted"].as_u64().is_some_and(|adjusted| adjusted > 10), "{report}");
}

#[tokio::test]
async fn the_buckets_of_both_providers_are_the_ledger_s_until_somebody_goes_around_it() {
    let place = Place::new(simulator());
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    for model in ["gpt-4o-mini", "gpt-4o", "o4-mini"] {
        join_all([ask(model), ask_stream(model)].map(|body| program.http.chat(&key, body))).await;
    }
    let embedding = json!({"model": "text-embedding-3-small", "input": ["one", "two three"]}).to_string();
    program.http.post("/v1/embeddings", &bearer(&key), embedding).await;

    let day = Clock::System.now().0 / 1_000_000 / 86_400 * 86_400;
    let begin = tollgate_types::Timestamp(day * 1_000_000).to_string();
    let exports = async |name: &str| {
        let openai = format!("start_time={day}&bucket_width=1d");
        let minutes = format!("start_time={day}&bucket_width=1m&limit=1440");
        let anthropic = format!("starting_at={begin}&bucket_width=1d");
        let file = async |path: String, kind: &str| export(&place, &path, &format!("{name}-{kind}.json")).await;
        [
            vec![
                file(format!("/v1/organization/usage/completions?{openai}&group_by=model"), "completions").await,
                file(format!("/v1/organization/usage/embeddings?{openai}&group_by=model"), "embeddings").await,
                file(format!("/v1/organization/costs?{openai}&group_by=line_item"), "costs").await,
            ],
            vec![file(format!("/v1/organization/usage/completions?{minutes}&group_by=model"), "minutes").await],
            vec![
                file(format!("/v1/organizations/usage_report/messages?{anthropic}&group_by=model"), "messages").await,
                file(format!("/v1/organizations/cost_report?{anthropic}"), "report").await,
            ],
        ]
    };
    for files in exports("whole").await {
        let (ended, said) = reconcile(&program, &files, &[]).await;
        assert_eq!((ended.code, &said["off"]), (Some(0), &json!(0)), "{ended:?}");
        let sums = said["rows"].as_array().expect("rows").iter().flat_map(|row| row["sums"].as_array().expect("sums"));
        assert!(sums.filter(|sum| sum["bill"] != "0").count() >= 4, "something was compared: {said}");
    }
    // Somebody uses the provider's key without asking us.
    let around = Http::to(place.sim.base_url().strip_suffix("/v1").expect("the provider's address"));
    assert_eq!(around.chat(PROVIDER_KEY, ask("gpt-4o")).await.status, 200);
    for files in exports("around").await {
        let (ended, said) = reconcile(&program, &files, &[]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(said["off"].as_u64().is_some_and(|off| off >= 1), "{said}");
    }
    let bill = [export(&place, "/sim/usage.jsonl", "usage.jsonl").await];
    let (ended, said) = reconcile(&program, &bill, &[]).await;
    assert_eq!((ended.code, &said["foreign_attempts"]), (Some(1), &json!(1)), "{ended:?}");
    let (ended, _) = reconcile(&program, &[place.config()], &[]).await;
    assert_eq!(ended.code, Some(2), "a configuration is no bill: {ended:?}");
}
