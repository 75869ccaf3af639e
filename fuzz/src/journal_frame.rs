//! The journal's bytes: what was written reads back and leads to the same state; a changed or cut journal gives the
//! records before the damage, and never others.

use std::sync::Arc;
use std::time::Duration;

use tollgate_ledger::{Amounts, Books, CapSet, Draft, Ledger, MemoryLog, Record, Reservation, Settlement};
use tollgate_store::journal::frame::{self, Chain, FrameError, Kind};
use tollgate_types::directory::{Change, Directory, Plan, Project, Tenant};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, EndUserId, PicoSum, PicoUsd, RequestId, Scope, Spender, Timestamp, Usage, Window,
};

use crate::{Decisions, Target};

pub const TARGET: Target = Target {
    name: "journal_frame",
    check: check_journal_frame,
    seeds: &[
        "a history is made from these bytes, and each of them decides something of it: reserve, send, post, void",
        "\u{0}\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{0}\u{10}\u{20}\u{30}\u{0}\u{40}\u{1}\u{1}\u{0}\u{2}\u{2}\u{3}",
        "TGJF\u{1}\u{0}\u{0}\u{0}",
    ],
    words: &[
        "TGJF",
        "\u{0}\u{0}\u{0}\u{0}",
        "\u{0}",
        "\u{1}",
        "\u{7f}",
        "TGJF\u{1}\u{0}\u{0}\u{0}\u{10}\u{0}\u{0}\u{0}",
    ],
    takes_noise: true,
};

pub fn check_journal_frame(data: &[u8]) {
    raw(data);
    let mut decisions = Decisions(data);
    let records = history(&mut decisions);
    let journal = write(&records, &mut decisions);
    let (read, damage) = read(&journal);
    assert_eq!((&read, damage), (&records, None), "what was written reads back");
    replays(&records);
    damaged(&journal, &records, &mut Decisions(data));
}

/// Bytes that nobody wrote.
fn raw(data: &[u8]) {
    if let Ok(frame) = frame::decode_unchained(data) {
        assert!(frame.bytes() <= data.len());
        if let Ok(records) = frame.records() {
            reads_again(records.into_iter().map(|(_, record)| record).collect());
        }
    }
    // As a payload whose checksum and chain are right: a hostile writer's.
    for count in [0, 1, 2] {
        let mut bytes = Vec::new();
        let chain = frame::encode(Kind::Records, 1, count, data, &Chain::default(), &mut bytes);
        let frame = frame::decode(&bytes, 1, &Chain::default()).expect("it was just written");
        assert_eq!((frame.payload, frame.chain, frame.next()), (data, chain, 1 + u64::from(count)));
        if let Ok(records) = frame.records() {
            assert_eq!(records.len() as u64, u64::from(count));
            reads_again(records.into_iter().map(|(_, record)| record).collect());
        }
    }
}

/// Records that could be read are written so that they read the same; and whatever they say, the ledger balances.
fn reads_again(records: Vec<Record>) {
    let mut payload = Vec::new();
    records.iter().for_each(|record| frame::encode_record(record, &mut payload));
    let count = u32::try_from(records.len()).expect("few");
    let mut bytes = Vec::new();
    frame::encode(Kind::Records, 1, count, &payload, &Chain::default(), &mut bytes);
    let again = frame::decode(&bytes, 1, &Chain::default()).and_then(|frame| frame.records()).expect("just written");
    assert_eq!(again.into_iter().map(|(_, record)| record).collect::<Vec<_>>(), records);
    let mut ledger = Ledger::default();
    for record in &records {
        if ledger.commit(record).is_ok() {
            assert_eq!(ledger.audit().drift, PicoSum::ZERO, "after {record:?}");
        }
    }
}

/// A journal of these records in several frames, chained.
fn write(records: &[Record], decisions: &mut Decisions<'_>) -> Vec<u8> {
    let (mut journal, mut chain, mut first) = (Vec::new(), Chain::default(), 1);
    let mut rest = records;
    while !rest.is_empty() {
        let (together, after) = rest.split_at((1 + decisions.below(4)).min(rest.len()));
        let mut payload = Vec::new();
        together.iter().for_each(|record| frame::encode_record(record, &mut payload));
        let count = u32::try_from(together.len()).expect("few");
        chain = frame::encode(Kind::Records, first, count, &payload, &chain, &mut journal);
        first += u64::from(count);
        rest = after;
    }
    journal
}

/// All records up to the first frame that is not the next one, and why it is not.
fn read(mut journal: &[u8]) -> (Vec<Record>, Option<FrameError>) {
    let (mut records, mut next, mut chain) = (Vec::new(), 1, Chain::default());
    while !journal.is_empty() {
        let frame = match frame::decode(journal, next, &chain) {
            Ok(frame) => frame,
            Err(error) => return (records, Some(error)),
        };
        match frame.records() {
            Ok(more) => records.extend(more.into_iter().map(|(_, record)| record)),
            Err(error) => return (records, Some(error)),
        }
        (next, chain) = (frame.next(), frame.chain);
        journal = &journal[frame.bytes()..];
    }
    (records, None)
}

fn replays(records: &[Record]) {
    let mut ledger = Ledger::default();
    for record in records {
        ledger.commit(record).unwrap_or_else(|why| panic!("replay refused {record:?}: {why}"));
    }
    assert_eq!(ledger.audit().drift, PicoSum::ZERO);
}

/// One change somewhere: a bit, a cut, a frame left out.
fn damaged(journal: &[u8], records: &[Record], decisions: &mut Decisions<'_>) {
    if journal.is_empty() {
        return;
    }
    let at = usize::try_from(decisions.u64()).unwrap_or(usize::MAX) % journal.len();
    let mut changed = journal.to_vec();
    changed[at] ^= 1 << decisions.below(8);
    let mut without = journal.to_vec();
    let whole = frame::decode(journal, 1, &Chain::default()).expect("it is whole");
    without.drain(..whole.bytes());
    let mut forged = Vec::new();
    frame::encode(whole.kind, whole.first, whole.count, whole.payload, &[1; 32], &mut forged);
    let refused = frame::decode(&forged, 1, &Chain::default());
    assert!(matches!(refused, Err(FrameError::OutOfPlace(_))), "a frame of another history: {refused:?}");
    for (what, damaged) in [("a bit", &changed[..]), ("a cut", &journal[..at]), ("a lost frame", &without[..])] {
        let (read, damage) = read(damaged);
        assert!(records.starts_with(&read), "{what} at {at}: other records than were written");
        let is_noticed = damage.is_some() || read.len() == records.len() || what == "a cut";
        assert!(is_noticed || damaged.is_empty(), "{what} at {at} went unnoticed");
        if what != "a cut" {
            assert!(read.len() < records.len(), "{what} at {at} changed nothing");
        }
    }
}

/// What really happened to some books, decided by the input.
pub(crate) fn history(decisions: &mut Decisions<'_>) -> Vec<Record> {
    const STEPS_MAX: usize = 200;
    let clock = Clock::manual(Timestamp(1_780_000_000_000_000));
    let books = Arc::new(Books::new(Ledger::default(), directory(), MemoryLog::default(), clock.clone()));
    let mut open = Vec::new();
    for number in 0..STEPS_MAX {
        if decisions.is_empty() {
            break;
        }
        step(&books, &clock, &mut open, RequestId(number as u128), decisions);
    }
    // What is still open stays open in the log: dropped only after it was read, as a crash would leave it.
    let records = books.records();
    drop(open);
    records
}

fn step(
    books: &Arc<Books<MemoryLog>>,
    clock: &Clock,
    open: &mut Vec<Reservation<MemoryLog>>,
    id: RequestId,
    decisions: &mut Decisions<'_>,
) {
    match decisions.below(10) {
        0..=3 => {
            let hold = amounts(decisions);
            let reserved = books.reserve(draft(id, clock, decisions), |_| (hold, ()));
            open.extend(reserved.map(|(reservation, ())| reservation));
        }
        4 => {
            let (scope, window, basis) = (scope(decisions), window(decisions), basis(decisions));
            let cap = (decisions.below(4) > 0).then(|| PicoSum(i128::from(amount(decisions))));
            books
                .set_cap(CapSet { scope, window, basis, cap, alerts: Default::default(), at: clock.now() })
                .expect("everybody exists");
        }
        5 => clock.advance(Duration::from_secs(u64::from(decisions.byte()) * 3600)),
        6 => drop(books.prices_set("v".repeat(decisions.below(99)).into(), [decisions.byte(); 32])),
        7 => drop(books.sweep(Duration::from_secs(60))),
        _ if open.is_empty() => {}
        8 => {
            let mut one = open.swap_remove(decisions.below(open.len()));
            if decisions.below(2) == 0 {
                let _ = one.dispatched();
            }
        }
        _ => {
            let one = open.swap_remove(decisions.below(open.len()));
            let usage = Usage { input_tokens: amount(decisions), ..Usage::default() };
            let (confidence, outcome) = (Confidence::Measured, Outcome::Completed);
            one.post(Settlement { usage, amounts: amounts(decisions), confidence, outcome });
        }
    }
}

fn amounts(decisions: &mut Decisions<'_>) -> Amounts {
    Amounts { cost: PicoUsd(amount(decisions)), charge: PicoUsd(amount(decisions)) }
}

/// Of any size, small ones as often as large.
fn amount(decisions: &mut Decisions<'_>) -> u64 {
    u64::from(decisions.byte()) << decisions.below(57)
}

fn scope(decisions: &mut Decisions<'_>) -> Scope {
    let tenant = "acme".parse().expect("a slug");
    match decisions.below(6) {
        0 => Scope::Tenant(tenant),
        1 => Scope::Platform,
        2 => Scope::EachTenant(Plan::standard().id),
        3 => Scope::EachEndUser(tenant),
        4 => Scope::EndUser(tenant, EndUserId([decisions.byte() % 2; 16])),
        _ => Scope::Project(tenant, "main".parse().expect("a slug")),
    }
}

fn window(decisions: &mut Decisions<'_>) -> Window {
    Window::ALL[decisions.below(Window::ALL.len())]
}

fn basis(decisions: &mut Decisions<'_>) -> Basis {
    [Basis::Cost, Basis::Charge][decisions.below(2)]
}

fn draft(id: RequestId, clock: &Clock, decisions: &mut Decisions<'_>) -> Draft {
    Draft {
        id,
        deadline: clock.now().plus(Duration::from_secs(u64::from(decisions.byte()))),
        spender: Spender {
            plan: Plan::standard().id,
            tenant: "acme".parse().expect("a slug"),
            project: "main".parse().expect("a slug"),
            key: ["k1", "k2"][decisions.below(2)].parse().expect("a slug"),
            end_user: (decisions.below(2) == 0).then(|| EndUserId([decisions.byte() % 2; 16])),
        },
        zone: ["UTC", "Australia/Lord_Howe", "Pacific/Apia"][decisions.below(3)].parse().expect("a zone"),
        route: "small".into(),
        provider: "sim".into(),
        model: "small-1".into(),
        stream: decisions.below(2) == 0,
        price_version: "test-1".into(),
        idempotency: None,
        attribution: None,
        policy: None,
    }
}

pub(crate) fn directory() -> Directory {
    let mut directory = Directory::default();
    let (acme, created_at) = ("acme".parse().expect("a slug"), Timestamp(0));
    directory.apply(Change::PlanSet(Plan::standard()));
    let plan = Plan::standard().id;
    directory.apply(Change::TenantCreated(Tenant::new(acme, plan, created_at)));
    let (tenant, id) = ("acme".parse().expect("a slug"), "main".parse().expect("a slug"));
    directory.apply(Change::ProjectCreated(Project { tenant, id, created_at, label: None }));
    directory
}
