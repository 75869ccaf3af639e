//! The store as a whole: what survives a restart, a crash, a full disk and a damaged file.

#![expect(clippy::disallowed_methods, reason = "these tests do to a store's files what crashes and disks do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tollgate_ledger::{Amounts, Books, CapSet, Draft, Reservation, Settlement};
use tollgate_store::journal::{JournalWriter, Options, segment};
use tollgate_store::store::Layout;
use tollgate_store::vault::{MasterKey, VaultError};
use tollgate_store::verify::verify;
use tollgate_store::view::Reader;
use tollgate_store::{Store, StoreError, StoreOptions, snapshot};
use tollgate_types::directory::{ApiKey, Change, Plan, Project, Tenant};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, PicoSum, PicoUsd, RequestId, Scope, Spender, Timestamp, Usage, Window, Zone,
};

const SMALL: usize = 256 * 1024;

fn options(dir: &Path) -> StoreOptions {
    let journal = Options { segment_bytes: SMALL, gather: Duration::ZERO };
    StoreOptions { dir: dir.to_owned(), journal, clock: Clock::manual(Timestamp(1_800_000_000_000_000)) }
}

fn master(digit: &str) -> Box<MasterKey> {
    Box::new(MasterKey::from_hex(&digit.repeat(64)).expect("64 digits"))
}

fn open(dir: &Path) -> Store {
    Store::open(&options(dir), master("a")).expect("the store opens")
}

/// A tenant `a` with project `p`, key `k` and a lifetime cap of `cap` picodollars.
fn populate(store: &Store, cap: i128) {
    let tenant = Tenant::new("a".parse().expect("a slug"), Plan::standard().id, Timestamp(0));
    store.vault.create(&tenant.id).expect("a data key");
    let project =
        Project { tenant: tenant.id.clone(), id: "p".parse().expect("a slug"), created_at: Timestamp(0), label: None };
    let (key, owner) = ("k".parse().expect("a slug"), tenant.id.clone());
    let key = ApiKey::new(key, owner, project.id.clone(), [1; 32], Timestamp(0));
    let scope = Scope::Tenant(tenant.id.clone());
    for change in [
        Change::PlanSet(Plan::standard()),
        Change::TenantCreated(tenant),
        Change::ProjectCreated(project),
        Change::KeyCreated(Box::new(key)),
    ] {
        store.books.change(change).expect("a change that makes sense");
    }
    let (window, basis, alerts) = (Window::Lifetime, Basis::Cost, Default::default());
    let cap = CapSet { scope, window, basis, cap: Some(PicoSum(cap)), alerts, at: Timestamp(0) };
    store.books.set_cap(cap).expect("a cap");
}

fn reserve(books: &Arc<Books<JournalWriter>>, id: u128, amount: u64) -> Option<Reservation<JournalWriter>> {
    let draft = Draft {
        id: RequestId(id),
        deadline: Timestamp(i64::MAX),
        spender: Spender {
            plan: Plan::standard().id,
            tenant: "a".parse().expect("a slug"),
            project: "p".parse().expect("a slug"),
            key: "k".parse().expect("a slug"),
            end_user: None,
        },
        zone: Zone::UTC,
        route: "r".into(),
        provider: "sim".into(),
        model: "m".into(),
        stream: false,
        price_version: "v1".into(),
        idempotency: None,
        attribution: None,
    };
    let hold = Amounts { cost: PicoUsd(amount), charge: PicoUsd(amount) };
    books.reserve(draft, |_| (hold, ())).ok().map(|(reservation, ())| reservation)
}

fn settle(reservation: Reservation<JournalWriter>, amount: u64) -> u64 {
    let amounts = Amounts { cost: PicoUsd(amount), charge: PicoUsd(amount) };
    let usage = Usage { input_tokens: amount, ..Usage::default() };
    let settlement = Settlement { usage, amounts, confidence: Confidence::Measured, outcome: Outcome::Completed };
    reservation.post(settlement).expect("it is pending")
}

/// `n` requests of 10 picodollars held and 7 used, ids from `first`. With segments this small the disk sometimes has to
/// be waited for.
fn work(store: &Store, first: u128, n: u128) {
    let mut last = 0;
    for id in first..first + n {
        let reservation = loop {
            match reserve(&store.books, id, 10) {
                Some(reservation) => break reservation,
                None => store.journal.wait_durable(last).expect("durable"),
            }
            std::thread::yield_now();
        };
        last = settle(reservation, 7);
    }
    store.journal.wait_durable(last).expect("durable");
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let journal = Layout::of(dir).journal;
    segment::list(&journal).expect("segments").into_iter().map(|index| segment::path_of(&journal, index)).collect()
}

fn end_of_last_segment(dir: &Path) -> usize {
    let journal = Layout::of(dir).journal;
    let last = *segment::list(&journal).expect("segments").last().expect("there is one");
    segment::read(&journal, last, true, |_| Ok(())).expect("readable").1.offset
}

#[test]
fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000);
    work(&store, 1, 100);
    let (audit, directory) = (store.books.audit(), store.books.directory());
    store.close();
    let again = open(dir.path());
    assert_eq!((again.books.audit(), again.books.directory()), (audit, directory));
    assert_eq!(again.recovered, 0);
    work(&again, 1_000, 10);
    again.close();
    assert_eq!(verify(dir.path(), |_, _| ()).expect("readable").drift, PicoSum(0));
}

#[test]
fn what_was_pending_when_the_process_died_is_indeterminate_and_still_counts() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 25);
    let held = reserve(&store.books, 1, 20).expect("room in the cap");
    store.journal.wait_durable(held.position()).expect("durable");
    std::mem::forget(held); // As a kill would: nobody gives it back.
    store.close();
    let again = open(dir.path());
    assert_eq!(again.recovered, 1);
    let audit = again.books.audit();
    assert_eq!((audit.indeterminate.cost, audit.pending.cost), (PicoSum(20), PicoSum(0)));
    assert!(reserve(&again.books, 2, 6).is_none(), "20 of 25 are still held");
    drop(reserve(&again.books, 3, 5).expect("5 of 25 are left"));
    assert_eq!(again.books.settle_aged(Duration::ZERO), 0, "not older than no time at all");
    again.books.clock().advance(Duration::from_secs(1));
    assert_eq!(again.books.settle_aged(Duration::ZERO), 1);
    assert_eq!(again.books.audit().totals.bounded.cost, PicoSum(20));
    again.close();
    assert_eq!(verify(dir.path(), |_, _| ()).expect("readable").drift, PicoSum(0));
}

#[test]
fn segments_are_sealed_and_snapshots_bound_what_a_start_reads() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000_000);
    for round in 0..25 {
        work(&store, 1 + round * 1_000, 500);
    }
    let audit = store.books.audit();
    store.close();
    assert!(segments(dir.path()).len() > 3, "the work fills several segments");
    let layout = Layout::of(dir.path());
    let newest = snapshot::latest(&layout.snapshots);
    assert!(newest.sequence > 5_000, "a snapshot was made of what was sealed");
    let read = snapshot::segments_after(&layout.journal, newest.sequence).expect("segments");
    assert!(read.len() <= 2, "a start reads the last segments only: {read:?}");
    let again = open(dir.path());
    assert_eq!(again.books.audit(), audit);
    again.close();
    let report = verify(dir.path(), |_, _| ()).expect("readable");
    assert_eq!((report.drift, report.disagreements), (PicoSum(0), vec![]));
    assert_eq!(report.view_position, Some(report.records));
}

#[test]
fn a_torn_last_write_is_cut_off_and_work_goes_on() {
    for tear in [1, 30, 63, 64, 90] {
        let dir = tempfile::tempdir().expect("a folder");
        let store = open(dir.path());
        populate(&store, 1_000_000);
        work(&store, 1, 3);
        let whole = end_of_last_segment(dir.path());
        work(&store, 10, 1);
        let after = end_of_last_segment(dir.path());
        store.close();
        let path = segments(dir.path()).pop().expect("a segment");
        let mut bytes = fs::read(&path).expect("the segment");
        let from = (whole + tear).min(after);
        bytes[from..].fill(0);
        // Also drop the view: it may hold what the crash took from the journal, and then says so.
        fs::remove_file(Layout::of(dir.path()).view).expect("the view");
        fs::write(&path, &bytes).expect("torn");
        let again = open(dir.path());
        work(&again, 100, 3);
        again.close();
        let report = verify(dir.path(), |_, _| ()).expect("readable");
        assert_eq!((report.drift, report.torn), (PicoSum(0), false), "torn at {tear}");
    }
}

#[test]
fn damage_before_the_end_is_refused_and_named_and_nothing_is_cut_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000);
    (0..20).for_each(|n| work(&store, 1 + n * 10, 1));
    store.close();
    let path = segments(dir.path()).pop().expect("a segment");
    let good = fs::read(&path).expect("the segment");
    let mut bytes = good.clone();
    bytes[segment::HEADER_BYTES + 100] ^= 1;
    fs::write(&path, &bytes).expect("damaged");
    let refused = Store::open(&options(dir.path()), master("a")).expect_err("refused").to_string();
    assert!(refused.contains("0000000001.journal") && refused.contains("damaged frame"), "{refused}");
    assert_eq!(fs::read(&path).expect("the segment"), bytes, "nothing was changed");
    assert!(verify(dir.path(), |_, _| ()).is_err());
    fs::write(&path, &good).expect("restored");
    open(dir.path()).close();
}

#[test]
fn a_missing_segment_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000_000);
    (0..20).for_each(|round| work(&store, 1 + round * 1_000, 500));
    store.close();
    let all = segments(dir.path());
    fs::remove_file(&all[1]).expect("removed");
    let refused = Store::open(&options(dir.path()), master("a")).expect_err("refused").to_string();
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn a_journal_that_lost_its_end_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000);
    work(&store, 1, 3);
    let path = segments(dir.path()).pop().expect("a segment");
    let before = fs::read(&path).expect("the segment");
    work(&store, 10, 3);
    store.close();
    fs::write(&path, before).expect("an older copy");
    let refused = Store::open(&options(dir.path()), master("a")).expect_err("refused").to_string();
    assert!(refused.contains("the journal ends at"), "{refused}");
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let refused = Store::open(&options(dir.path()), master("a")).expect_err("in use");
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    store.close();
    open(dir.path()).close();
}

#[test]
fn a_wrong_master_key_is_told_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    open(dir.path()).close();
    let refused = Store::open(&options(dir.path()), master("b")).expect_err("the wrong key");
    assert!(matches!(refused, StoreError::Vault(VaultError::WrongMasterKey(_))), "{refused}");
}

#[test]
fn a_tenant_without_its_data_key_stops_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1);
    store.vault.destroy(&"a".parse().expect("a slug")).expect("destroyed");
    store.close();
    let refused = Store::open(&options(dir.path()), master("a")).expect_err("no key").to_string();
    assert!(refused.contains("restore the key file"), "{refused}");
}

#[test]
fn without_room_for_the_next_segment_new_work_is_refused_and_old_work_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = Layout::of(dir.path()).journal;
    let store = open(dir.path());
    populate(&store, 1_000_000_000);
    store.close();
    // Where the next segment would be made there is something that cannot be overwritten: it can never be made.
    let _ = fs::remove_file(journal.join("spare"));
    fs::create_dir(journal.join("spare")).expect("an obstacle");
    let store = open(dir.path());
    let mut held = Vec::new();
    let mut next = 1;
    let refused = loop {
        match reserve(&store.books, next, 10) {
            Some(reservation) if next % 2 == 0 => held.push(reservation),
            Some(reservation) => drop(settle(reservation, 7)),
            None => break next,
        }
        next += 1;
    };
    assert!(refused > 100, "there was room for some");
    let revoked = Change::KeyRevoked { id: "k".parse().expect("a slug"), at: Timestamp(1) };
    store.books.change(revoked).expect("a key can be revoked all the same");
    let count = held.len();
    let last = held.into_iter().map(|reservation| settle(reservation, 7)).last().expect("some were held");
    store.journal.wait_durable(last).expect("what was under way ends durably");
    assert_eq!(store.books.audit().reservations_pending, 0, "{count} ended");
    // The obstacle goes away: work goes on without a restart.
    fs::remove_dir(journal.join("spare")).expect("removed");
    while reserve(&store.books, next, 10).map(|reservation| settle(reservation, 7)).is_none() {
        std::thread::yield_now();
    }
    store.close();
    assert_eq!(verify(dir.path(), |_, _| ()).expect("readable").drift, PicoSum(0));
}

#[test]
fn the_view_can_be_thrown_away_and_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000);
    work(&store, 1, 50);
    store.close();
    let view = Layout::of(dir.path()).view;
    let totals = || Reader::open(&view).and_then(|reader| reader.totals_at()).expect("a view");
    let before = totals();
    fs::write(&view, b"not a database").expect("spoiled");
    open(dir.path()).close();
    assert_eq!(totals(), before, "made again at the next start");
    Store::rebuild_view(dir.path()).expect("made again by hand");
    assert_eq!(totals(), before);
}

#[test]
fn a_view_that_disagrees_is_found_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000);
    work(&store, 1, 50);
    store.close();
    let view = rusqlite::Connection::open(Layout::of(dir.path()).view).expect("the view");
    let changed =
        view.execute("UPDATE usage_events SET cost = cost + 1 WHERE id = (SELECT min(id) FROM usage_events)", []);
    assert_eq!(changed.expect("one row"), 1);
    drop(view);
    // One more is posted, and so one less released.
    let report = verify(dir.path(), |_, _| ()).expect("readable");
    assert_eq!(report.drift, PicoSum(2));
    assert!(report.disagreements[0].contains("posted cost"), "{:?}", report.disagreements);
}
