//! Measurements of the store alone, run by `scripts/scale`: how many reserve-and-settle pairs a second become durable,
//! beside what the bare journal allows; and a store filled with many tenants and events, for whoever starts on it, with the
//! tenants' keys on standard output.
//!
//! ```sh
//! cargo run --profile profiling -p tollgate-store --example measure -- pairs DIR [WRITERS] [SECONDS]
//! cargo run --profile profiling -p tollgate-store --example measure -- fill DIR TENANTS EVENTS MASTER_KEY_FILE [KEYS_A_TENANT]
//! ```
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock and makes the folders it works in")]

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tollgate_ledger::{Amounts, Books, Draft, Log, Record, Reservation, Settlement};
use tollgate_store::journal::{Journal, JournalWriter, Options};
use tollgate_store::vault::MasterKey;
use tollgate_store::{Store, StoreOptions};
use tollgate_types::directory::{ApiKey, Change, Plan, Project, Tenant};
use tollgate_types::usage::Outcome;
use tollgate_types::{Clock, Confidence, KeyId, PicoUsd, RequestId, Spender, TenantId, Timestamp, Usage, Zone};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const WRITERS: usize = 128;
const SECONDS: u64 = 5;
/// Events between two looks at whether the disk keeps up.
const EVENTS_AT_ONCE: u64 = 2_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pairs", dir, rest @ ..] => {
            let number = |at: usize, usual: u64| rest.get(at).map_or(Ok(usual), |text| text.parse());
            let (writers, seconds) = (number(0, WRITERS as u64)?, number(1, SECONDS)?);
            pairs(Path::new(dir), usize::try_from(writers)?, Duration::from_secs(seconds))
        }
        ["fill", dir, tenants, events, master_key, rest @ ..] => {
            let keys = rest.first().map_or(Ok(1), |text| text.parse())?;
            let many = Many { tenants: tenants.parse()?, keys };
            fill(Path::new(dir), many, events.parse()?, &std::fs::read_to_string(master_key)?)
        }
        _ => {
            Err("usage: measure pairs DIR [WRITERS] [SECONDS] | fill DIR TENANTS EVENTS MASTER_KEY_FILE [KEYS]".into())
        }
    }
}

/// So many tenants, each with so many keys.
#[derive(Clone, Copy)]
struct Many {
    tenants: u64,
    keys: u64,
}

// === pairs ===

fn pairs(dir: &Path, writers: usize, during: Duration) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut best_ratio: f64 = 0.0;
    let mut best = (0.0, 0.0);
    // In turns, because the machine is noisy: each turn's ratio is of the same seconds.
    for turn in 0..3 {
        let raw = raw_pairs(&dir.join(format!("raw-{turn}")), writers, during)?;
        let ledger = ledger_pairs(&dir.join(format!("ledger-{turn}")), writers, during)?;
        eprintln!(
            "turn {turn}: {raw:.0} pairs/s of bare records, {ledger:.0} of reserve and settle, {:.2}",
            ledger / raw
        );
        if ledger / raw > best_ratio {
            (best_ratio, best) = (ledger / raw, (raw, ledger));
        }
    }
    println!(
        r#"{{"writers":{writers},"raw_pairs_per_s":{:.0},"pairs_per_s":{:.0},"ratio":{best_ratio:.3}}}"#,
        best.0, best.1
    );
    Ok(())
}

/// Two records a pair, as large as the real ones, each waited for: what the group commit allows at most.
fn raw_pairs(dir: &Path, writers: usize, during: Duration) -> Result<f64> {
    std::fs::create_dir_all(dir)?;
    let (journal, writer, thread) = Journal::start(dir, Options::default(), None)?;
    let writer = Mutex::new(writer);
    let spender = spender(0, 0)?;
    let rate = crowd(writers, during, |number| {
        let reserved = sample(&spender, number);
        let first = writer.lock().map_err(|_| "a writer panicked")?.append(&reserved);
        journal.wait_durable(first)?;
        let second = writer.lock().map_err(|_| "a writer panicked")?.append(&end_of(number));
        journal.wait_durable(second)?;
        Ok(())
    });
    thread.stop();
    rate
}

fn ledger_pairs(dir: &Path, writers: usize, during: Duration) -> Result<f64> {
    let audit = tollgate_store::audit::Options::default();
    let options = StoreOptions { dir: dir.to_owned(), journal: Options::default(), clock: Clock::System, audit };
    let store = Store::open(&options, Box::new(MasterKey::from_hex(&"a".repeat(64))?))?;
    found(&store, Many { tenants: 1, keys: 1 })?;
    let spender = spender(0, 0)?;
    let rate = crowd(writers, during, |number| {
        let mut reservation = reserve(&store.books, &spender, number)?;
        store.journal.wait_durable(reservation.position())?;
        if !reservation.dispatched() {
            return Err("swept".into());
        }
        let posted = reservation.post(settlement()).ok_or("it had ended")?;
        store.journal.wait_durable(posted)?;
        Ok(())
    });
    store.close();
    rate
}

/// So many threads doing the same until time is up; how many a second.
fn crowd(writers: usize, during: Duration, work: impl Fn(u64) -> Result<()> + Sync) -> Result<f64> {
    let (done, next, stop) = (AtomicU64::new(0), AtomicU64::new(1), AtomicBool::new(false));
    let began = Instant::now();
    std::thread::scope(|threads| {
        let handles: Vec<_> = (0..writers)
            .map(|_| {
                threads.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        work(next.fetch_add(1, Ordering::Relaxed))?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(())
                })
            })
            .collect();
        std::thread::sleep(during);
        stop.store(true, Ordering::Relaxed);
        handles.into_iter().try_for_each(|handle| handle.join().map_err(|_| "a writer panicked")?)
    })?;
    Ok(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

fn sample(spender: &Spender, number: u64) -> Record {
    let (at, deadline) = (Timestamp(1_796_000_000_000_000), Timestamp(1_796_000_600_000_000));
    let draft = Draft { deadline, ..draft(spender, RequestId(u128::from(number) << 64)) };
    Record::Reserved(Box::new(draft.into_reserved(at, Zone::UTC.offset(Timestamp(0)), amounts())))
}

fn end_of(number: u64) -> Record {
    let Settlement { usage, amounts, confidence, outcome } = settlement();
    let (id, at, overrun) = (RequestId(u128::from(number) << 64), Timestamp(1_796_000_001_000_000), Amounts::ZERO);
    Record::Posted(tollgate_ledger::Posted { id, at, usage, amounts, overrun, confidence, outcome })
}

// === fill ===

fn fill(dir: &Path, many: Many, events: u64, master_key: &str) -> Result<()> {
    let audit = tollgate_store::audit::Options::default();
    let options = StoreOptions { dir: dir.to_owned(), journal: Options::default(), clock: Clock::System, audit };
    let store = Store::open(&options, Box::new(MasterKey::from_hex(master_key)?))?;
    let began = Instant::now();
    found(&store, many)?;
    eprintln!("{} tenants after {:.0?}", many.tenants, began.elapsed());
    let all = || (0..many.tenants).flat_map(|n| (0..many.keys).map(move |key| (n, key)));
    all().try_for_each(|(n, key)| writeln!(std::io::stdout(), "{}", secret(n, key)))?;
    let spenders = all().map(|(n, key)| spender(n, key)).collect::<Result<Vec<_>>>()?;
    let mut last = 0;
    for number in 0..events {
        // Spread over the tenants in an order that is none.
        let who = usize::try_from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % spenders.len() as u64)?;
        let reservation = reserve(&store.books, &spenders[who], number)?;
        last = reservation.post(settlement()).ok_or("it had ended")?;
        if number % EVENTS_AT_ONCE == 0 {
            store.journal.wait_durable(last)?;
        }
        if number % 1_000_000 == 0 && number > 0 {
            eprintln!("{number} events after {:.0?}", began.elapsed());
        }
    }
    store.journal.wait_durable(last)?;
    eprintln!("{events} events after {:.0?}; the view follows", began.elapsed());
    store.close();
    eprintln!("done after {:.0?}", began.elapsed());
    Ok(())
}

/// Tenants, each with a project and its keys.
fn found(store: &Store, many: Many) -> Result<()> {
    let change = |made: Change| -> Result<u64> {
        loop {
            match store.books.change(made.clone()) {
                Err(tollgate_ledger::books::ChangeError::Unavailable(_)) => std::thread::yield_now(),
                done => return Ok(done?),
            }
        }
    };
    let plan = Plan::standard();
    let mut last = change(Change::PlanSet(plan.clone()))?;
    for n in 0..many.tenants {
        let (id, at) = (tenant(n)?, Timestamp(0));
        store.vault.create(&id)?;
        let project: Project = Project { tenant: id.clone(), id: "default".parse()?, created_at: at, label: None };
        change(Change::TenantCreated(Tenant::new(id.clone(), plan.id.clone(), at)))?;
        change(Change::ProjectCreated(project.clone()))?;
        for key in 0..many.keys {
            let digest = store.vault.digest(&secret(n, key));
            let key = ApiKey::new(key_id(n, key)?, id.clone(), project.id.clone(), digest, at);
            last = change(Change::KeyCreated(Box::new(key)))?;
        }
    }
    Ok(store.journal.wait_durable(last)?)
}

// === what both are made of ===

fn tenant(n: u64) -> Result<TenantId> {
    Ok(format!("tenant-{n}").parse()?)
}

fn key_id(n: u64, key: u64) -> Result<KeyId> {
    Ok(format!("k{n}-{key}").parse()?)
}

/// What a tenant of a measurement shows at the door: no secret.
fn secret(n: u64, key: u64) -> String {
    format!("tg_k{n}-{key}_measured")
}

fn spender(n: u64, key: u64) -> Result<Spender> {
    let (plan, project) = (Plan::standard().id, "default".parse()?);
    Ok(Spender { plan, tenant: tenant(n)?, project, key: key_id(n, key)?, end_user: None })
}

fn amounts() -> Amounts {
    Amounts { cost: PicoUsd(123_456_789), charge: PicoUsd(148_148_147) }
}

fn settlement() -> Settlement {
    let usage = Usage { input_tokens: 321, output_tokens: 64, ..Usage::default() };
    Settlement { usage, amounts: amounts(), confidence: Confidence::Measured, outcome: Outcome::Completed }
}

fn draft(spender: &Spender, id: RequestId) -> Draft {
    Draft {
        id,
        deadline: Timestamp(i64::MAX),
        spender: spender.clone(),
        zone: Zone::UTC,
        route: "gpt-4o-mini".into(),
        provider: "openai".into(),
        model: "gpt-4o-mini".into(),
        stream: false,
        price_version: "2026-11".into(),
        idempotency: None,
        attribution: None,
        policy: None,
    }
}

fn reserve(books: &Arc<Books<JournalWriter>>, spender: &Spender, number: u64) -> Result<Reservation<JournalWriter>> {
    loop {
        let draft = draft(spender, RequestId::new(books.clock().now(), u128::from(number)));
        match books.reserve(draft, |_| (amounts(), ())) {
            Ok((reservation, ())) => return Ok(reservation),
            // The disk is behind: it is what is measured.
            Err(tollgate_ledger::books::ReserveError::Unavailable(_)) => std::thread::yield_now(),
            Err(refused) => return Err(refused.into()),
        }
    }
}
