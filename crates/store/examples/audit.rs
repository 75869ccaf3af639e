//! Measures the audit log alone: how many entries a second are appended by one thread, what opening costs, and what it costs to
//! read one entry and to prove it. By the time that the thread was on a core, so that a busy machine says the same; the wall's
//! rate of appending beside it, which has the disk in it.
//!
//! ```sh
//! cargo run --release -p tollgate-store --example audit -- DIR ENTRIES
//! ```
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock and makes the folders it works in")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tollgate_ledger::{Amounts, Posted, Record, Reserved};
use tollgate_store::AuditReader;
use tollgate_store::audit::writer::AuditWriter;
use tollgate_store::audit::{self, Options};
use tollgate_store::vault::{MasterKey, Vault};
use tollgate_types::directory::Plan;
use tollgate_types::usage::Outcome;
use tollgate_types::{Confidence, PicoUsd, RequestId, Spender, TenantId, Timestamp, Usage, UtcOffset};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TENANTS: u64 = 1_000;
const BATCH: u64 = 20_000;
/// Requests that are open at a time.
const OPEN: u64 = 200;
const READ: u64 = 2_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, entries] = arguments.as_slice() else { return Err("usage: audit DIR ENTRIES".into()) };
    let (dir, entries): (PathBuf, u64) = (dir.into(), entries.parse()?);
    std::fs::create_dir_all(&dir)?;
    let vault = Vault::open(&dir.join("keys"), Box::new(MasterKey::from_hex(&"a".repeat(64))?))?;
    let log = dir.join("log");
    std::fs::create_dir_all(&log)?;
    let open = || AuditWriter::open(&log, vault.audit_key(), &Options::default(), u64::MAX);
    let mut writer = open()?;
    let tenants =
        (0..TENANTS).map(|n| format!("tenant-{n}").parse()).collect::<std::result::Result<Vec<TenantId>, _>>()?;
    let (mut spent, mut waited, from) = (Duration::ZERO, Duration::ZERO, writer.position());
    while writer.position() < entries {
        let next = writer.position() + 1;
        let batch: Vec<_> = (next..next + BATCH).map(|sequence| (sequence, record(sequence, &tenants))).collect();
        let (wall, began) = (Instant::now(), on_core()?);
        writer.append(&batch, &|_| None)?;
        writer.sign()?;
        (spent, waited) = (spent + (on_core()? - began), waited + wall.elapsed());
    }
    let appended = writer.position() - from;
    drop(writer);
    let began = on_core()?;
    let size = open()?.position();
    let opening = on_core()? - began;

    let reader = AuditReader::of(log.clone());
    let at = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % size;
    let began = on_core()?;
    for n in 0..READ {
        reader.entry(at(n))?.ok_or("there")?;
    }
    let entry = (on_core()? - began).as_secs_f64() / READ as f64;
    let began = on_core()?;
    for n in 0..READ {
        reader.inclusion(at(n), size)?.ok_or("there")?;
    }
    let proof = (on_core()? - began).as_secs_f64() / READ as f64;
    let began = on_core()?;
    let report = audit::verify(&log, None, None)?;
    println!(
        r#"{{"entries":{size},"appended_per_s":{:.0},"appended_per_s_on_the_wall":{:.0},"open_ms":{},"entry_us":{:.0},"proof_us":{:.0},"verified_per_s":{:.0}}}"#,
        appended as f64 / spent.as_secs_f64(),
        appended as f64 / waited.as_secs_f64(),
        opening.as_millis(),
        entry * 1e6,
        proof * 1e6,
        report.size as f64 / (on_core()? - began).as_secs_f64(),
    );
    Ok(())
}

/// How long this process's first thread, which does everything here, was on a core.
fn on_core() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(Duration::from_nanos(stat.split(' ').next().ok_or("a number")?.parse()?))
}

/// Holds, each with its posting some requests later.
fn record(sequence: u64, tenants: &[TenantId]) -> Record {
    let at = Timestamp(1_800_000_000_000_000 + i64::try_from(sequence).unwrap_or(0) * 50);
    let pair = sequence.div_ceil(2);
    let amounts = Amounts { cost: PicoUsd(1_234_567 + pair % 1_000), charge: PicoUsd(1_400_000 + pair % 1_000) };
    if sequence.is_multiple_of(2) {
        let usage = Usage { input_tokens: 900, output_tokens: 300, ..Usage::default() };
        let (confidence, outcome) = (Confidence::Measured, Outcome::Completed);
        let id = RequestId(u128::from(pair.saturating_sub(OPEN)) << 64);
        return Record::Posted(Posted { id, at, usage, amounts, overrun: Amounts::ZERO, confidence, outcome });
    }
    let who = usize::try_from(pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0) % tenants.len();
    Record::Reserved(Box::new(Reserved {
        id: RequestId(u128::from(pair) << 64),
        at,
        deadline: at,
        spender: Spender {
            plan: Plan::standard().id,
            tenant: tenants[who].clone(),
            project: "main".parse().expect("a slug"),
            key: "key-1".parse().expect("a slug"),
            end_user: None,
        },
        offset: UtcOffset::default(),
        hold: amounts,
        route: "chat".into(),
        provider: "openai".into(),
        model: "gpt-5-mini".into(),
        stream: true,
        price_version: "2026-11-01".into(),
        idempotency: None,
        attribution: None,
        policy: Some([7; 16]),
    }))
}
