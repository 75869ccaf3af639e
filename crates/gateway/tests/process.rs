//! The real binary: signals, kills, exit codes, reloads, TLS, a full disk, and what its log must never hold.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use serde_json::json;
use tollgate_client::{Confidence, UsageQuery, UsageState};
use tollgate_sim::{Options, Speed};

use crate::program::{BINARY, MASTER_KEY, Place, Program, read_all, run};
use crate::world::{
    ADMIN_KEY, Answer, DONE, Http, PROVIDER_KEY, ask, ask_stream, bearer, eventually, simulator, within,
};

const CHAT: &str = "/v1/chat/completions";

fn paced(factor: f64) -> Options {
    Options { speed: Speed::Paced(factor), ..simulator() }
}

async fn open_stream(program: &Program, key: &str) -> http::Response<hyper::body::Incoming> {
    let response = program.http.open(Method::POST, CHAT, &bearer(key), ask_stream("gpt-4o-mini").to_string()).await;
    assert_eq!(response.status(), 200);
    response
}

#[tokio::test]
async fn a_drain_lets_streams_end_whole_takes_no_new_work_and_leaves_no_hold() {
    let place = Place::new(paced(1.5));
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    assert_eq!(program.http.get("/readyz", "").await.text(), "ready\n");
    let streams = [open_stream(&program, &key).await, open_stream(&program, &key).await];
    // Connections on which nothing happens keep nobody waiting.
    let idle = Http::http2(&program.base);
    assert_eq!(idle.get("/healthz", "").await.status, 200);
    let silent = tokio::net::TcpStream::connect(program.base.strip_prefix("http://").expect("a scheme")).await;
    program.signal(Signal::TERM);
    program.says("draining").await;
    let address = program.base.strip_prefix("http://").expect("a scheme").to_owned();
    eventually("new connections to be turned away", async || tokio::net::TcpStream::connect(&address).await.err())
        .await;
    for stream in streams {
        let answer = Answer::read(stream).await;
        assert!(!answer.broke_off && answer.text().ends_with(DONE), "{}", answer.text());
    }
    let ended = program.ended().await;
    drop((idle, silent.expect("connected")));
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("the books are closed"));
    let report = place.verify().await;
    assert_eq!((&report["drift_picousd"], &report["reservations_pending"]), (&json!("0"), &json!(0)));
    assert_eq!(report["bounded_picousd"], "0", "both streams were measured");
    assert_eq!(place.sim.truth().totals().cost_picousd.to_string(), report["posted_picousd"]);
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut_off_and_posted_at_its_hold() {
    let place = Place::new(paced(20.0));
    place.configure_with("127.0.0.1:0", "drain_seconds = 1", "");
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    let stream = open_stream(&program, &key).await;
    let ended = program.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("still under way at the end of the drain"), "{}", ended.said);
    let answer = Answer::read(stream).await;
    assert!(answer.broke_off && !answer.text().contains("[DONE]"), "cut off visibly");
    let report = place.verify().await;
    assert_eq!((&report["drift_picousd"], &report["reservations_pending"]), (&json!("0"), &json!(0)));
    assert_eq!(report["posted_picousd"], report["bounded_picousd"]);
    assert_ne!(report["posted_picousd"], "0");
}

#[tokio::test]
async fn after_a_kill_under_load_the_books_agree_and_the_cap_still_holds() {
    let place = Place::new(paced(0.3));
    let mut program = place.serve().await;
    let (_, key) = program.tenant().await;
    program.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "0.02"})).await;
    for round in 0..3 {
        let load = (0..24).map(|n| {
            let (http, key) = (program.http.clone(), key.clone());
            tokio::spawn(async move {
                let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
                for _ in 0..50 {
                    let body = if n % 2 == 0 { ask("gpt-4o-mini") } else { ask_stream("gpt-4o-mini") };
                    let request = Request::post(format!("{}{CHAT}", http.base))
                        .header("authorization", format!("Bearer {key}"))
                        .body(Full::from(body.to_string()))
                        .expect("a request");
                    let Ok(response) = client.request(request).await else { return };
                    if response.into_body().collect().await.is_err() {
                        return;
                    }
                }
            })
        });
        let load: Vec<_> = load.collect();
        let seen = place.sim.truth().totals().complete + 10;
        eventually("the load to be heavy", async || (place.sim.truth().totals().complete >= seen).then_some(())).await;
        program.kill().await;
        for caller in load {
            within("the callers to notice", caller).await.expect("no panic");
        }
        let report = place.verify().await;
        assert_eq!(report["drift_picousd"], "0", "round {round}: {report}");
        program = place.serve().await;
        let ledger = program.admin.ledger().await.expect("the ledger");
        assert_eq!((ledger.drift_picousd.as_str(), ledger.reservations_pending), ("0", 0));
        let left_pending = report["reservations_pending"].as_u64().expect("a number");
        let before = report["indeterminate"].as_u64().expect("a number");
        assert!(left_pending > 0, "it was killed under load");
        assert_eq!(ledger.indeterminate, before + left_pending, "what was pending is in doubt now");
        let budget = program.admin.budgets(Some("demo")).await.expect("budgets").remove(0);
        assert_eq!(budget.indeterminate_picousd, ledger.indeterminate_picousd, "and still counts");
        assert!(budget.remaining_picousd.as_ref().expect("a cap").parse::<i128>().expect("a number") >= 0);
    }
    // The cap is used up to what is in doubt, and no further.
    let refused = eventually("the cap to be used up", async || {
        let calls = (0..20).map(|_| program.http.chat(&key, ask("gpt-4o-mini")));
        let answers = futures_util::future::join_all(calls).await;
        answers.into_iter().find(|answer| answer.status != 200)
    })
    .await;
    assert_eq!(refused.refusal(), (429, "budget_exceeded".to_owned()));
    let events = program.admin.usage(&UsageQuery { limit: Some(1000), ..UsageQuery::default() }).await.expect("usage");
    for event in &events.data {
        let account = place.sim.truth().get(&event.request_id);
        let (real, cost) =
            (account.map_or(0, |account| account.cost_picousd), event.cost_picousd.parse::<u128>().expect("a number"));
        match (event.state, event.confidence) {
            (UsageState::Posted, Some(Confidence::Measured)) => assert_eq!(cost, real, "{event:?}"),
            (UsageState::Posted, _) => assert!(cost >= real, "{event:?}"),
            (UsageState::Voided, _) => assert_eq!(real, 0, "{event:?}"),
            (UsageState::Indeterminate, _) => {
                assert!(event.hold_cost_picousd.parse::<u128>().expect("a number") >= real, "{event:?}");
            }
            (UsageState::Pending, _) => panic!("nothing is under way: {event:?}"),
        }
    }
    // Nobody was served without an event: whatever the provider did is in the books.
    let known: std::collections::HashSet<_> = events.data.iter().map(|event| event.request_id.as_str()).collect();
    assert!(events.next.is_none());
    for account in place.sim.truth().all() {
        assert!(known.contains(account.request_id.as_str()), "{account:?}");
    }
    assert_eq!(program.stop().await.code, Some(0));
    assert_eq!(place.verify().await["drift_picousd"], "0");
}

#[tokio::test]
async fn a_second_program_on_the_same_store_is_refused_and_the_first_goes_on() {
    let place = Place::new(simulator());
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    let second = place.fail_to_serve().await;
    assert_eq!(second.code, Some(1), "{}", second.said);
    assert!(second.said.contains("is open in another process; stop it first"), "{}", second.said);
    assert!(!second.said.contains("panicked") && !second.said.contains(ADMIN_KEY));
    assert_eq!(program.http.chat(&key, ask("gpt-4o-mini")).await.status, 200);
    // A port that is taken is told as such, and leaves the other store as it was.
    let other = Place::new(simulator());
    other.configure_with(program.base.strip_prefix("http://").expect("a scheme"), "", "");
    let taken = other.fail_to_serve().await;
    assert_eq!(taken.code, Some(1), "{}", taken.said);
    assert!(taken.said.contains("is another process there?"), "{}", taken.said);
    program.stop().await;
    assert_eq!(place.serve().await.http.chat(&key, ask("gpt-4o-mini")).await.status, 200, "the lock went with it");
}

#[tokio::test]
async fn a_configuration_that_cannot_hold_is_refused_with_everything_that_is_wrong() {
    let place = Place::new(simulator());
    std::fs::write(
        place.config(),
        "[server]\nlisten = \"here\"\nbody_bytes_max = 1\n[secrets]\nadmin_key = \"env:NOT_THERE\"\nmaster_key = \"plain\"\n\
         [providers.p]\npreset = \"nobody\"\n[routes.r]\nprovider = \"gone\"\n[store]\nsegment_bytes = 1\n",
    )
    .expect("written");
    let refused = place.fail_to_serve().await;
    assert_eq!(refused.code, Some(64), "{}", refused.said);
    for part in [
        "server.listen",
        "server.body_bytes_max",
        "NOT_THERE is not set",
        "must be a reference",
        "providers.p.preset",
        "no [providers.gone]",
        "store.segment_bytes",
    ] {
        assert!(refused.said.contains(part), "{part} in {}", refused.said);
    }
    for (text, words) in [
        ("[server]\nlistne = \"127.0.0.1:0\"\n", "listne"),
        ("[server\n", "tollgate.toml"),
        ("[prices]\nbooks = [\"/nowhere/book.toml\"]\n[server]\nlisten = \"127.0.0.1:0\"\n", "/nowhere/book.toml"),
    ] {
        let store = format!("{text}[store]\ndir = {:?}\n", place.store());
        std::fs::write(place.config(), store).expect("written");
        let refused = place.fail_to_serve().await;
        assert_eq!(refused.code, Some(64), "{}", refused.said);
        assert!(refused.said.contains(words), "{words} in {}", refused.said);
    }
    std::fs::remove_file(place.config()).expect("removed");
    let missing = place.fail_to_serve().await;
    assert_eq!(missing.code, Some(64), "{}", missing.said);
    assert!(missing.said.contains("--config"), "{}", missing.said);
}

#[tokio::test]
async fn a_guessable_admin_key_is_refused_on_a_public_address_only() {
    let place = Place::new(simulator());
    for key in ["changeme", "admin-admin-admin-admin", "short"] {
        // Nothing ever listens there: it is refused before.
        place.configure_with("0.0.0.0:0", "", "");
        let mut command = place.command();
        command.env("TOLLGATE_ADMIN_KEY", key);
        let refused = run(command).await;
        assert_eq!(refused.code, Some(64), "{}", refused.said);
        assert!(refused.said.contains("secrets.admin_key") && !refused.said.contains(key), "{}", refused.said);
    }
    place.configure("");
    let mut command = place.command();
    command.env("TOLLGATE_ADMIN_KEY", "changeme");
    assert_eq!(Program::start(command).await.stop().await.code, Some(0), "on this machine alone it may be");
}

#[tokio::test]
async fn a_reload_takes_effect_while_streams_run_and_a_bad_one_changes_nothing() {
    let place = Place::new(paced(1.5));
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    let stream = open_stream(&program, &key).await;
    assert_eq!(program.http.chat(&key, ask("new")).await.status, 404);
    place.configure("[routes.new]\nprovider = \"sim\"\nmodel = \"gpt-4o-mini\"\n");
    program.signal(Signal::HUP);
    program.says("configuration reloaded").await;
    assert_eq!(program.http.chat(&key, ask("new")).await.status, 200);

    place.configure("[routes.newer]\nprovider = \"nobody\"\n");
    program.signal(Signal::HUP);
    program.says("the last good one stays").await;
    assert_eq!(program.http.chat(&key, ask("new")).await.status, 200);
    std::fs::write(place.config(), "not TOML at all [").expect("written");
    program.signal(Signal::HUP);
    eventually("the second bad one to be told", async || {
        (program.said().matches("the last good one stays").count() >= 2).then_some(())
    })
    .await;
    assert_eq!(program.http.chat(&key, ask("new")).await.status, 200);
    assert!(Answer::read(stream).await.text().ends_with(DONE), "the stream never noticed");
    assert_eq!(program.stop().await.code, Some(0));
}

#[tokio::test]
async fn no_key_no_prompt_and_no_answer_is_ever_in_the_log_the_errors_the_metrics_or_the_store() {
    let place = Place::new(simulator());
    let program = place.serve().await;
    let (key_id, key) = program.tenant().await;
    let canary = "canary-in-a-prompt-7f3a";
    let mut said_back = String::new();
    for model in [
        "gpt-4o-mini",
        "gpt-4o-mini+cut",
        "gpt-4o-mini+error-500",
        "gpt-4o-mini+malformed-chunk",
        "dead",
        "stranger",
        canary,
    ] {
        for stream in [false, true] {
            let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": canary}], "user": canary});
            let headers = [
                ("authorization", format!("Bearer {key}")),
                ("x-run-id", canary.to_owned()),
                ("x-tollgate-end-user", canary.to_owned()),
            ];
            let answer = program.http.post(CHAT, &headers, body.to_string()).await;
            if answer.status != 200 && model != canary {
                said_back.push_str(answer.text());
            }
        }
    }
    for body in
        [format!("{{\"model\": \"{canary}"), format!("{{\"messages\": \"{canary}\", \"model\": \"gpt-4o-mini\"}}")]
    {
        program.http.post(CHAT, &bearer(&key), body).await;
    }
    program.http.chat("tg_canary-of-a-wrong-key", ask("gpt-4o-mini")).await;
    program.http.get("/admin/v1/tenants", "canary-of-a-wrong-admin-key").await;
    said_back.push_str(program.http.get("/metrics", "").await.text());
    let ended = program.stop().await;
    assert!(ended.said.lines().count() > 10, "it did log: {}", ended.said);
    assert!(ended.said.contains("\"DEBUG\""), "in detail");
    let stored = String::from_utf8_lossy(&read_all(&place.store())).into_owned();
    assert!(stored.contains(&key_id), "the store was read");
    for (place, text) in [("log", &ended.said), ("answers", &said_back), ("store", &stored)] {
        for secret in [canary, &key, PROVIDER_KEY, ADMIN_KEY, MASTER_KEY, "canary-of-a-wrong", "Simulated answer"] {
            assert!(!text.contains(secret), "{secret:?} is in the {place}");
        }
    }
}

#[tokio::test]
async fn the_log_in_a_file_is_plain_text_and_the_environment_overrides_the_configuration() {
    let place = Place::new(simulator());
    let mut command = place.command();
    command.env("TOLLGATE_LOG__JSON", "false").env("TOLLGATE_ROUTES__EXTRA__PROVIDER", "sim");
    let program = Program::start(command).await;
    let (_, key) = program.tenant().await;
    assert_eq!(program.http.get("/v1/models/extra", &key).await.status, 200);
    let ended = program.stop().await;
    assert!(ended.said.contains("INFO") && !ended.said.contains('\x1b'), "{}", ended.said);
}

#[tokio::test]
async fn fifty_megabytes_are_thrown_away_and_not_kept() {
    let place = Place::new(simulator());
    place.configure_with("127.0.0.1:0", "body_bytes_max = 8388608", "");
    let program = place.serve().await;
    let (_, key) = program.tenant().await;
    program.http.chat(&key, ask("gpt-4o-mini")).await;
    let before = program.memory_kb("VmHWM");
    let body = Bytes::from(vec![b'x'; 50 * 1024 * 1024]);
    let refused = program.http.post(CHAT, &bearer(&key), body).await;
    assert_eq!(refused.refusal(), (400, "invalid_request".to_owned()));
    let grown = program.memory_kb("VmHWM") - before;
    assert!(grown < 16 * 1024, "{grown} kB more at its peak");
}

#[tokio::test]
async fn tls_speaks_http2_and_http1_to_who_trusts_its_certificate() {
    let place = Place::new(simulator());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("made");
    let (cert, key_file) = (place.dir.path().join("cert.pem"), place.dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key_file, made.signing_key.serialize_pem()).expect("written");
    place.configure(&format!("[server.tls]\ncert = {cert:?}\nkey = \"file:{}\"\n", key_file.display()));
    let program = Program::start_at("https", place.command()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let config = |roots: rustls::RootCertStore| {
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    for (http2, version) in [(true, Version::HTTP_2), (false, Version::HTTP_11)] {
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config(roots.clone())).https_only();
        let https = if http2 { https.enable_http2().build() } else { https.enable_http1().build() };
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(https);
        let request = Request::get(format!("{}/admin/v1/tenants", program.base))
            .header("authorization", format!("Bearer {ADMIN_KEY}"))
            .body(Full::default())
            .expect("a request");
        let answer = Answer::read(within("an answer", client.request(request)).await.expect("an answer")).await;
        assert_eq!((answer.status, answer.version), (200, version), "{}", answer.text());
    }
    let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config(rustls::RootCertStore::empty()));
    let stranger: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build(https.https_only().enable_http1().build());
    let request = Request::get(format!("{}/healthz", program.base)).body(Full::default()).expect("a request");
    assert!(within("an end", stranger.request(request)).await.is_err(), "who does not trust it does not speak to it");
    let plain = program.base.replace("https", "http");
    assert!(tollgate_client::AdminClient::new(&plain, ADMIN_KEY).expect("an address").tenants().await.is_err());
    assert_eq!(program.stop().await.code, Some(0));

    std::fs::write(&key_file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").expect("written");
    let refused = place.fail_to_serve().await;
    assert_ne!(refused.code, Some(0));
    assert!(refused.said.contains("server.tls") && !refused.said.contains("AAAA"), "{}", refused.said);
}

/// The gateway in a mount namespace of its own, where its store lies on a disk of 3 MB.
fn on_a_small_disk(place: &Place) -> Command {
    std::fs::create_dir(place.store()).expect("a mount point");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=3m none \"$1\" && exec \"$2\" serve --config \"$3\"");
    command.arg("sh").arg(place.store()).arg(BINARY).arg(place.config());
    let serve = place.command();
    command.env_clear().current_dir("/");
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn may_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn a_full_disk_is_a_clear_refusal_what_is_under_way_ends_and_room_heals_it() {
    if !may_mount() {
        // Past the test harness, which shows the words of failed tests only.
        let words = "NOT RUN: the test of a full disk; this machine lets no test mount a small one";
        let _ = writeln!(std::io::stderr(), "{words} (unshare --user --map-root-user --mount)");
        return;
    }
    let place = Place::new(paced(0.3));
    let program = Program::start(on_a_small_disk(&place)).await;
    let (_, key) = program.tenant().await;
    assert_eq!(program.http.chat(&key, ask("gpt-4o-mini")).await.status, 200);
    // The disk as the gateway sees it.
    let disk = PathBuf::from(format!("/proc/{}/root{}", program.pid(), place.store().display()));
    let filler = disk.join("filler");
    let fill = || {
        let mut file = std::fs::File::options().append(true).create(true).open(&filler).expect("a file");
        while file.write_all(&[0; 1024]).is_ok() {}
    };
    fill();
    // One stream after the other is under way all the time, while requests that cost nothing fill the journal.
    let stream = || {
        let (http, key) = (program.http.clone(), key.clone());
        tokio::spawn(async move { http.chat(&key, ask_stream("gpt-4o-mini")).await })
    };
    let mut under_way = stream();
    let refused = eventually("the journal to be full", async || {
        fill();
        if under_way.is_finished() {
            under_way = stream();
        }
        let calls = (0..100).map(|_| program.http.chat(&key, ask("dead")));
        let answers = futures_util::future::join_all(calls).await;
        answers.into_iter().find(|answer| answer.status != 502)
    })
    .await;
    assert_eq!(refused.refusal(), (503, "ledger_unavailable".to_owned()), "{}", program.said());
    assert_eq!(refused.header("retry-after"), Some("5"));
    let ended = within("the stream that was under way", under_way).await.expect("no panic");
    assert!(ended.status == 503 || ended.text().ends_with(DONE), "{}", ended.text());
    assert!(program.said().contains("no room for the next journal segment"));
    assert_eq!(program.http.get("/healthz", "").await.status, 200, "it lives, and questions are answered");
    std::fs::remove_file(&filler).expect("removed");
    eventually("work to go on", async || {
        (program.http.chat(&key, ask("gpt-4o-mini")).await.status == 200).then_some(())
    })
    .await;
    let ledger = program.admin.ledger().await.expect("the ledger");
    assert_eq!(ledger.drift_picousd, "0");
    let posted: u128 = ledger.posted_picousd.parse().expect("a number");
    assert_eq!(posted, place.sim.truth().totals().cost_picousd, "nothing was lost");
    assert_eq!(program.stop().await.code, Some(0));
}
