//! The store as a whole: what survives a restart, a crash, a full disk and a damaged file.

#![expect(clippy::disallowed_methods, reason = "these tests do to a store's files what crashes and disks do")]

mod audit;
mod books;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tollgate_store::journal::segment;
use tollgate_store::store::Layout;
use tollgate_store::vault::VaultError;
use tollgate_store::verify::verify;
use tollgate_store::view::Reader;
use tollgate_store::{Store, StoreError, snapshot};
use tollgate_types::PicoSum;

use self::books::{SMALL, open, open_under, populate, reserve, reserve_amount, revocation, settle, try_open, work};

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
    let held = reserve_amount(&store.books, 1, 20).expect("room in the cap");
    store.journal.wait_durable(held.position()).expect("durable");
    std::mem::forget(held); // As a kill would: nobody gives it back.
    store.close();
    let again = open(dir.path());
    assert_eq!(again.recovered, 1);
    let audit = again.books.audit();
    assert_eq!((audit.indeterminate.cost, audit.pending.cost), (PicoSum(20), PicoSum(0)));
    assert!(reserve_amount(&again.books, 2, 6).is_err(), "20 of 25 are still held");
    drop(reserve_amount(&again.books, 3, 5).expect("5 of 25 are left"));
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
        // Also drop what follows the journal: it may hold what the crash took from there, and then says so.
        fs::remove_file(Layout::of(dir.path()).view).expect("the view");
        fs::remove_dir_all(Layout::of(dir.path()).audit).expect("the audit log");
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
    let refused = try_open(dir.path(), SMALL).expect_err("refused").to_string();
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
    let refused = try_open(dir.path(), SMALL).expect_err("refused").to_string();
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
    let refused = try_open(dir.path(), SMALL).expect_err("refused").to_string();
    assert!(refused.contains("the journal ends at"), "{refused}");
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let refused = try_open(dir.path(), SMALL).expect_err("in use");
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    store.close();
    open(dir.path()).close();
}

#[test]
fn a_wrong_master_key_is_told_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    open(dir.path()).close();
    let refused = open_under(dir.path(), SMALL, "b").expect_err("the wrong key");
    assert!(matches!(refused, StoreError::Vault(VaultError::WrongMasterKey(_))), "{refused}");
}

#[test]
fn a_tenant_without_its_data_key_stops_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1);
    store.vault.destroy(&"a".parse().expect("a slug")).expect("destroyed");
    store.close();
    let refused = try_open(dir.path(), SMALL).expect_err("no key").to_string();
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
        match reserve(&store.books, next) {
            Ok(reservation) if next % 2 == 0 => held.push(reservation),
            Ok(reservation) => drop(settle(reservation)),
            Err(_) => break next,
        }
        next += 1;
    };
    assert!(refused > 100, "there was room for some");
    store.books.change(revocation()).expect("a key can be revoked all the same");
    let count = held.len();
    let last = held.into_iter().map(settle).last().expect("some were held");
    store.journal.wait_durable(last).expect("what was under way ends durably");
    assert_eq!(store.books.audit().reservations_pending, 0, "{count} ended");
    // The obstacle goes away: work goes on without a restart.
    fs::remove_dir(journal.join("spare")).expect("removed");
    while reserve(&store.books, next).map(settle).is_err() {
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
