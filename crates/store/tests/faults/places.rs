//! Every point of the store, with every error: what was acknowledged outlives it.

use std::fs;
use std::path::Path;
use std::thread;

use tollgate_store::fault::{self, Armed, POINTS};
use tollgate_store::store::{Layout, prepare, write_atomically};
use tollgate_store::{Sequence, Store, StoreError, snapshot};
use tollgate_types::PicoSum;

use crate::books::{SMALL, USED, open, populate, reserve, settle, tenant, try_open, work};
use crate::{agree, copy, end_of_last_segment, last_segment};

/// A store whose next requests seal its fourth segment, make a snapshot and remove an old one; its last write was torn.
fn nearly_full(dir: &Path) -> u128 {
    let store = open(dir);
    populate(&store, 1_000_000_000);
    let mut done = 0;
    while crate::segments(dir).len() < 4 || end_of_last_segment(dir) < SMALL - 3 * 1024 {
        work(&store, 1 + done, 25);
        done += 25;
        // A snapshot of each segment that was sealed, and two are kept: so that the next one removes one.
        while snapshot::list(&Layout::of(dir).snapshots).len() < (crate::segments(dir).len() - 1).min(2) {
            thread::yield_now();
        }
    }
    store.close();
    let end = end_of_last_segment(dir);
    let path = last_segment(dir);
    let mut bytes = fs::read(&path).expect("the segment");
    bytes[end..end + 40].fill(0xa5);
    fs::write(&path, bytes).expect("torn");
    done
}

/// What was told to somebody.
#[derive(Debug, Default)]
struct Acknowledged {
    settled: u128,
    last: Sequence,
    tenant: bool,
    file: bool,
}

/// Uses all of a store until something refuses.
fn use_all(store: &Store, first: u128, acknowledged: &mut Acknowledged) {
    acknowledged.tenant = store.vault.create(&tenant("b")).is_ok();
    acknowledged.file = write_atomically(&file(&store.dir), b"whole").is_ok();
    let mut patience = 2_000;
    let mut n = 0;
    while n < 60 && patience > 0 {
        match reserve(&store.books, first + n) {
            Ok(held) => {
                let last = settle(held);
                if store.journal.wait_durable(last).is_err() {
                    return;
                }
                (acknowledged.settled, acknowledged.last) = (acknowledged.settled + 1, last);
                n += 1;
            }
            Err(_) if store.journal.health().is_err() => return,
            // The next segment is being made, however long that takes,
            Err(refused) if refused.contains("not ready yet") => thread::yield_now(),
            // or it cannot be made now.
            Err(_) => {
                patience -= 1;
                thread::yield_now();
            }
        }
    }
}

fn file(dir: &Path) -> std::path::PathBuf {
    Layout::of(dir).prices.join("book.toml")
}

/// Lets a whole life of a store go wrong at one point.
fn outlives(armed: &Armed, point: &str, action: &str, template: &Path, done: u128) -> bool {
    let what = format!("{point}={action}");
    let dir = tempfile::tempdir().expect("a folder");
    copy(template, dir.path());
    let mut acknowledged = Acknowledged::default();
    let before = armed.passed(point);
    armed.at(point, action);
    if point.starts_with("keys::") && !point.contains("slot") {
        // A key file that is new.
        fs::remove_dir_all(dir.path()).expect("removed");
    }
    match try_open(dir.path(), SMALL) {
        Ok(store) if store.books.directory().tenants.is_empty() => store.close(),
        Ok(store) => {
            use_all(&store, 1_000_000, &mut acknowledged);
            store.close();
        }
        // Refused with the file's name, and without a word of panic.
        Err(refused) => {
            assert!(!matches!(refused, StoreError::InUse(_) | StoreError::JournalBehind { .. }), "{what}: {refused}")
        }
    }
    armed.disarm(point);
    let passed = armed.passed(point) > before;

    let again = try_open(dir.path(), SMALL).unwrap_or_else(|error| panic!("{what}: {error}"));
    if again.books.directory().tenants.is_empty() {
        populate(&again, 1_000_000_000);
    } else {
        let posted = PicoSum(i128::try_from((done + acknowledged.settled) * u128::from(USED)).expect("small"));
        assert!(again.books.audit().totals.posted.cost >= posted, "{what}: {acknowledged:?}");
        assert!(again.journal.durable_sequence() >= acknowledged.last, "{what}: {acknowledged:?}");
        assert!(!acknowledged.tenant || again.vault.has(&tenant("b")), "{what}: {acknowledged:?}");
        let kept = fs::read(file(dir.path())).ok();
        assert!(kept.as_ref().is_none_or(|kept| kept == b"whole"), "{what}: whole or absent");
        assert!(!acknowledged.file || kept.is_some(), "{what}: {acknowledged:?}");
    }
    work(&again, 2_000_000, 10);
    again.close();
    agree(dir.path());
    let left = walk(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "unfinished"));
    assert_eq!(left, None, "{what}: nothing unfinished remains");
    passed
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn whatever_fails_wherever_what_was_acknowledged_is_there_afterwards() {
    let armed = fault::arm_from_environment();
    let template = tempfile::tempdir().expect("a folder");
    let done = nearly_full(template.path());
    let mut missed = Vec::new();
    for (n, point) in POINTS.iter().enumerate() {
        // One fault a point; all of them with `make failpoints`.
        let actions = ["return(ENOSPC)", "1*return(EIO)", "1*return(torn 33 EIO)"];
        let chosen = if crate::all() { &actions[..] } else { &actions[n % 3..=n % 3] };
        for action in chosen {
            if !outlives(&armed, point, action, template.path(), done) {
                missed.push(format!("{point}={action}"));
            }
        }
    }
    assert_eq!(missed, Vec::<String>::new(), "each point stands where something passes it");
}

#[test]
fn a_snapshot_that_could_not_be_written_is_tried_again() {
    let armed = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000_000);
    armed.at("snapshot::write", "1*return(ENOSPC)");
    while crate::segments(dir.path()).len() < 2 {
        work(&store, u128::from(store.journal.durable_sequence()) * 100, 50);
    }
    store.projector.catch_up(store.journal.durable_sequence(), std::time::Duration::from_secs(20));
    while armed.passed("snapshot::write") < 1 {
        thread::yield_now();
    }
    // Nothing else is sealed: it is the same segment's.
    store.close();
    assert!(armed.passed("snapshot::write") >= 2, "it was tried again");
    assert!(snapshot::latest(&Layout::of(dir.path()).snapshots).sequence > 0);
    agree(dir.path());
}

#[test]
fn a_file_that_is_not_confirmed_is_never_seen() {
    let _nobody_else_arms = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("book.toml");
    let prepared = prepare(&path, b"one").expect("prepared");
    assert!(!path.exists());
    drop(prepared);
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "and leaves nothing");
    prepare(&path, b"two").expect("prepared").confirm().expect("confirmed");
    assert_eq!(fs::read(&path).expect("there"), b"two");
}

#[test]
fn a_key_of_which_nobody_was_told_never_stands_beside_another_of_its_tenant() {
    let armed = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000);
    for id in ["b", "c", "d"] {
        store.vault.create(&tenant(id)).expect("a key");
    }
    store.vault.destroy(&tenant("b")).expect("destroyed");
    // Written, but neither the sync of it nor the erasure works.
    armed.at("keys::slot-sync", "1*return(EIO)");
    armed.at("keys::slot-write", "1*off->1*return(EIO)");
    store.vault.create(&tenant("x")).expect_err("it did not become durable");
    store.vault.destroy(&tenant("c")).expect("destroyed");
    store.vault.create(&tenant("x")).expect("the second time it works");
    store.vault.create(&tenant("y")).expect("a key");
    store.close();
    let again = open(dir.path());
    assert!(again.vault.has(&tenant("x")) && again.vault.has(&tenant("y")) && again.vault.has(&tenant("d")));
    again.close();
}
