//! The real binary, ended as by `kill -9` at every point between two writes of its store, under load; then started again
//! and held against the simulator's own count. `make test` takes the points of [`TELLING`], `make failpoints` all of them.
//!
//! The program that these tests start has the feature `failpoints`, as the tests have.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tollgate_client::{AdminClient, ClientError, Confidence, NewTenant, UsageState};
use tollgate_store::fault::POINTS;
use tollgate_store::journal::segment;
use tollgate_store::snapshot;
use tollgate_store::store::Layout;

use crate::program::{Place, Program};
use crate::world::{all_events, ask, ask_stream, eventually, simulator, within};

/// One of each kind: before, between and after the writes of each room.
const TELLING: &[&str] = &[
    "journal::before-write",
    "journal::before-sync",
    "journal::after-durable",
    "journal::reopen-clear",
    "segment::sealed",
    "segment::begin-rename",
    "snapshot::rename",
    "keys::write",
    "keys::slot-sync",
    "file::rename",
    "view::before-apply",
];
const CALLERS: usize = 12;
/// Of the tenant `tight`: some twenty requests.
const TIGHT_CAP_PICOUSD: u128 = 2_000_000_000;

/// A store whose next requests seal its fourth segment, with two tenants: `demo` has money, `tight` has little.
struct Template {
    place: Place,
    dir: tempfile::TempDir,
    keys: [String; 2],
}

/// What callers and operators were told while the program died.
#[derive(Debug, Default)]
struct Told {
    answered: Vec<String>,
    tenants: Vec<String>,
    books: Vec<String>,
}

fn all() -> bool {
    std::env::var_os("TOLLGATE_FAILPOINTS").is_some_and(|wanted| wanted == "all")
}

fn end_of_journal(store: &Path) -> (u64, usize) {
    let journal = Layout::of(store).journal;
    let last = *segment::list(&journal).expect("segments").last().expect("there is one");
    (last, segment::read(&journal, last, true, |_| Ok(())).map_or(0, |(_, end)| end.offset))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let there = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &there) } else { assert!(std::fs::copy(&path, &there).is_ok()) }
    }
}

// === impl Template ===

impl Template {
    async fn new() -> Self {
        let place = Place::new(simulator());
        let program = place.serve().await;
        let (_, demo) = program.tenant().await;
        let tight = new_tenant(&program.admin, "tight").await.expect("a tenant");
        let cap = format!("0.{TIGHT_CAP_PICOUSD:012}");
        program.budget(json!({"tenant": "demo", "window": "lifetime", "cap_usd": "1000"})).await;
        program.budget(json!({"tenant": "tight", "window": "lifetime", "cap_usd": cap})).await;
        let segment_bytes = 256 * 1024;
        while end_of_journal(&place.store()) < (4, segment_bytes - 24 * 1024) {
            let calls = (0..32).map(|_| program.http.chat(&demo, ask("gpt-4o-mini")));
            futures_util::future::join_all(calls).await.iter().for_each(|answer| assert_eq!(answer.status, 200));
            // A snapshot of each segment that was sealed, and two are kept: so that the next one removes one.
            let wanted = end_of_journal(&place.store()).0 - 1;
            eventually("the snapshot", async || {
                let made = snapshot::list(&Layout::of(&place.store()).snapshots).len() as u64;
                (made >= wanted.min(2)).then_some(())
            })
            .await;
        }
        assert_eq!(program.stop().await.code, Some(0));
        let dir = tempfile::tempdir().expect("a folder");
        copy(&place.store(), dir.path());
        Self { place, dir, keys: [demo, tight] }
    }

    /// Puts the store back, its last write torn.
    fn put_back(&self) {
        let store = self.place.store();
        std::fs::remove_dir_all(&store).expect("removed");
        copy(self.dir.path(), &store);
        let (last, end) = end_of_journal(&store);
        let path = segment::path_of(&Layout::of(&store).journal, last);
        let mut bytes = std::fs::read(&path).expect("the segment");
        bytes[end..end + 40].fill(0xa5);
        std::fs::write(path, bytes).expect("torn");
    }
}

async fn new_tenant(admin: &AdminClient, id: &str) -> Option<String> {
    admin.create_tenant(&NewTenant { id: id.to_owned(), name: None, plan: None, time_zone: None }).await.ok()?;
    let wanted = serde_json::from_value(json!({"tenant": id})).expect("a key");
    Some(admin.create_key(&wanted).await.ok()?.key)
}

fn book(version: &str) -> String {
    format!(
        "version = \"{version}\"\nchecked_at = \"2026-11-23\"\n[[price]]\nprovider = \"elsewhere\"\nmodel = \"m\"\n\
         effective_from = \"2026-11-01T00:00:00Z\"\nsource = \"a test\"\ninput_usd_per_million = \"1\"\n\
         output_usd_per_million = \"2\"\n"
    )
}

/// Asks until nobody answers any more, and notes what was answered whole.
async fn call(base: String, key: String, stream: bool, told: Arc<Mutex<Told>>) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    loop {
        let body = if stream { ask_stream("gpt-4o-mini") } else { ask("gpt-4o-mini") };
        let request = Request::post(format!("{base}/v1/chat/completions"))
            .header("authorization", format!("Bearer {key}"))
            .body(Full::from(body.to_string()))
            .expect("a request");
        let Ok(response) = client.request(request).await else { return };
        let (status, id) = (response.status(), response.headers()["x-request-id"].to_str().expect("text").to_owned());
        let Ok(body) = response.into_body().collect().await else { return };
        let whole = !stream || body.to_bytes().ends_with(b"data: [DONE]\n\n");
        if status == 200 && whole {
            told.lock().expect("no panic").answered.push(id);
        }
    }
}

/// Makes tenants and pushes price books until nobody answers any more.
async fn operate(admin: AdminClient, told: Arc<Mutex<Told>>) {
    for n in 0.. {
        // A book that is refused would look like a program that is gone.
        let (tenant, version) = (format!("new-{n}"), format!("pushed-{n}"));
        if new_tenant(&admin, &tenant).await.is_none() {
            return;
        }
        told.lock().expect("no panic").tenants.push(tenant);
        match admin.push_prices(&book(&version)).await {
            Ok(_) => {}
            Err(ClientError::Refused { status: 503, .. }) => continue,
            Err(refused @ ClientError::Refused { .. }) => panic!("{refused}"),
            Err(_) => return,
        }
        told.lock().expect("no panic").books.push(version);
    }
}

/// Drives the program until it is gone.
async fn drive(program: Program, keys: &[String; 2]) -> Told {
    let told = Arc::<Mutex<Told>>::default();
    let mut callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            tokio::spawn(call(
                program.base.clone(),
                keys[usize::from(n % 3 == 2)].clone(),
                n % 2 == 0,
                Arc::clone(&told),
            ))
        })
        .collect();
    let admin = AdminClient::new(&program.base, crate::world::ADMIN_KEY).expect("an address");
    callers.push(tokio::spawn(operate(admin, Arc::clone(&told))));
    let ended = program.ended().await;
    assert_eq!(ended.code, None, "killed, not ended: {}", ended.said);
    for caller in callers {
        within("the callers to notice", caller).await.expect("no panic");
    }
    Arc::into_inner(told).expect("all callers have ended").into_inner().expect("no panic")
}

/// Ends the program at the point, the `nth` time that it passes it, and looks at what is left.
async fn dies_at(template: &Template, point: &str, nth: usize) {
    let what = format!("killed at {point}, time {nth}");
    let place = &template.place;
    let begins_anew = matches!(point, "keys::write" | "keys::sync" | "keys::rename" | "keys::dir-sync");
    if begins_anew {
        std::fs::remove_dir_all(place.store()).expect("removed");
    } else {
        template.put_back();
    }
    let before: HashSet<_> = place.sim.truth().all().into_iter().map(|account| account.request_id).collect();
    let mut command: Command = place.command();
    command.env("FAILPOINTS", format!("{point}={}*off->return(kill)", nth - 1));
    let told = match Program::start_or_end("http", command).await {
        Ok(program) => drive(program, &template.keys).await,
        Err(ended) => {
            assert_eq!(ended.code, None, "{what}: killed, not ended: {}", ended.said);
            Told::default()
        }
    };
    if begins_anew {
        let again = place.serve().await;
        let (_, key) = again.tenant().await;
        assert_eq!(again.http.chat(&key, ask("gpt-4o-mini")).await.status, 200, "{what}");
        assert_eq!(again.stop().await.code, Some(0), "{what}");
        return;
    }
    let report = place.verify().await;
    assert_eq!(report["drift_picousd"], "0", "{what}: {report}");
    let again = place.serve().await;
    holds(&what, place, &again, &before, &told).await;
    for _ in 0..3 {
        assert_eq!(again.http.chat(&template.keys[0], ask("gpt-4o-mini")).await.status, 200, "{what}: it goes on");
    }
    assert_eq!(again.stop().await.code, Some(0), "{what}");
    assert_eq!(place.verify().await["drift_picousd"], "0", "{what}");
}

/// Nothing acknowledged is lost, no cap is exceeded, nothing is held for nobody, and the books are the provider's.
async fn holds(what: &str, place: &Place, again: &Program, before: &HashSet<String>, told: &Told) {
    let ledger = again.admin.ledger().await.expect("the ledger");
    assert_eq!((ledger.drift_picousd.as_str(), ledger.reservations_pending), ("0", 0), "{what}");
    let truth = place.sim.truth();
    let events = all_events(&again.admin).await;
    let mut tight = 0;
    for event in &events {
        let real = truth.get(&event.request_id).map_or(0, |account| account.cost_picousd);
        let cost: u128 = event.cost_picousd.parse().expect("a number");
        match (event.state, event.confidence) {
            (UsageState::Posted, Some(Confidence::Measured)) => assert_eq!(cost, real, "{what}: {event:?}"),
            (UsageState::Posted, _) => assert!(cost >= real, "{what}: {event:?}"),
            (UsageState::Voided, _) => assert_eq!(real, 0, "{what}: {event:?}"),
            (UsageState::Indeterminate, _) => {
                assert!(event.hold_cost_picousd.parse::<u128>().expect("a number") >= real, "{what}: {event:?}");
            }
            (UsageState::Pending, _) => panic!("{what}: nothing is under way: {event:?}"),
        }
        if event.tenant == "tight" {
            tight += real;
        }
    }
    assert!(tight <= TIGHT_CAP_PICOUSD, "{what}: the provider's bill for `tight` is {tight}");
    for budget in again.admin.budgets(None).await.expect("budgets") {
        assert!(
            budget.remaining_picousd.as_ref().expect("a cap").parse::<i128>().expect("a number") >= 0,
            "{what}: {budget:?}"
        );
    }
    let known: HashSet<_> = events.iter().map(|event| event.request_id.as_str()).collect();
    for account in truth.all().iter().filter(|account| !before.contains(&account.request_id)) {
        assert!(known.contains(account.request_id.as_str()), "{what}: served without an event: {account:?}");
    }
    let posted: HashSet<_> = events
        .iter()
        .filter(|event| event.state == UsageState::Posted)
        .map(|event| event.request_id.as_str())
        .collect();
    for id in &told.answered {
        assert!(posted.contains(id.as_str()), "{what}: {id} was answered and is not posted");
    }
    let tenants: HashSet<_> = again.admin.tenants().await.expect("tenants").into_iter().map(|made| made.id).collect();
    let books: HashSet<_> = again.admin.prices().await.expect("books").into_iter().map(|book| book.version).collect();
    assert!(told.tenants.iter().all(|tenant| tenants.contains(tenant)), "{what}: {:?}", told.tenants);
    assert!(told.books.iter().all(|version| books.contains(version)), "{what}: {:?}", told.books);
}

/// All points of a room, or the telling ones.
async fn room(name: &str) {
    let template = Template::new().await;
    for point in POINTS.iter().filter(|point| point.starts_with(name)) {
        if all() || TELLING.contains(point) {
            // What is passed with every request, at a time under load too.
            let often = matches!(*point, "journal::before-write" | "journal::before-sync" | "journal::after-durable");
            let times: &[usize] = match (often, all()) {
                (true, true) => &[1, 2, 30, 61],
                (true, false) => &[40],
                (false, _) => &[1],
            };
            for nth in times {
                dies_at(&template, point, *nth).await;
            }
        }
    }
}

#[tokio::test]
async fn killed_between_the_journals_writes_it_loses_nothing_that_was_acknowledged() {
    room("journal::").await;
}

#[tokio::test]
async fn killed_while_a_segment_ends_and_the_next_begins_it_loses_nothing() {
    room("segment::").await;
}

#[tokio::test]
async fn killed_while_it_writes_snapshots_or_the_view_it_loses_nothing() {
    room("snapshot::").await;
    room("view::").await;
}

#[tokio::test]
async fn killed_while_it_writes_keys_or_price_books_it_loses_nothing() {
    room("keys::").await;
    room("file::").await;
}
