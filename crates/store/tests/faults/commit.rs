//! The journal's own writes: failed, torn at every byte, slow.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tollgate_ledger::books::ChangeError;
use tollgate_store::fault::{self, Armed};
use tollgate_store::store::Layout;
use tollgate_store::{Journal, Sequence, Store};
use tollgate_types::PicoSum;

use crate::books::{HELD, SMALL, USED, open, populate, reserve, revocation, settle, try_open, work};
use crate::{Dice, agree, copy, end_of_last_segment, last_segment};

const ROOMY: i128 = 1_000_000_000;

/// Whether it becomes durable. What never ends fails the test instead of hanging it.
fn durable(journal: &Journal, sequence: Sequence) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    let journal = journal.clone();
    thread::spawn(move || tell.send(journal.wait_durable(sequence).map_err(|error| error.to_string())));
    told.recv_timeout(Duration::from_secs(20)).expect("a commit succeeds or fails, but it ends")
}

/// A commit is made to fail so; `present` says whether its frame can be on the disk whole.
fn poisons(what: &str, point: &str, action: &str, present: bool) {
    let armed = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, ROOMY);
    work(&store, 1, 3);
    let (acknowledged, audit) = (store.journal.durable_sequence(), store.books.audit());
    let whole = end_of_last_segment(dir.path());

    armed.at(point, action);
    let held = reserve(&store.books, 10).expect("nobody knows yet");
    let refused = durable(&store.journal, held.position()).expect_err("the commit failed");
    armed.disarm(point);
    let (writes, syncs) = (armed.passed("journal::before-write"), armed.passed("journal::before-sync"));
    for _ in 0..3 {
        assert_eq!(durable(&store.journal, held.position()), Err(refused.clone()), "{what}: it stays so");
        assert!(reserve(&store.books, 11).expect_err("no new work").contains(&refused), "{what}");
        assert!(store.books.takes_work().is_err() && store.journal.health().is_err(), "{what}");
    }
    let revoked = store.books.change(revocation());
    assert!(matches!(revoked, Err(ChangeError::Unavailable(_))), "{what}: nothing at all is written");
    assert_eq!(durable(&store.journal, acknowledged), Ok(()), "{what}: what was durable is");
    drop(held);
    store.close();
    let after = (armed.passed("journal::before-write"), armed.passed("journal::before-sync"));
    assert_eq!(after, (writes, syncs), "{what}: neither the write nor the sync is tried again");

    // The kernel may have kept the pages of the failed commit, or dropped them.
    let dropped = tempfile::tempdir().expect("a folder");
    copy(dir.path(), dropped.path());
    let path = last_segment(dropped.path());
    let mut bytes = fs::read(&path).expect("the segment");
    bytes[whole..].fill(0);
    fs::write(&path, bytes).expect("dropped");
    for (place, present) in [(dir.path(), present), (dropped.path(), false)] {
        let again = open(place);
        assert_eq!(again.recovered, usize::from(present), "{what}: whole or absent");
        let found = again.books.audit();
        assert_eq!(found.totals.posted, audit.totals.posted, "{what}: what was acknowledged is there");
        assert_eq!(found.indeterminate.cost, PicoSum(if present { i128::from(HELD) } else { 0 }), "{what}");
        work(&again, 100, 3);
        again.close();
        agree(place);
    }
}

#[test]
fn a_commit_that_fails_anywhere_poisons_until_a_restart_and_is_never_tried_again() {
    poisons("a failed write", "journal::before-write", "1*return(EIO)", false);
    poisons("no space for a write", "journal::before-write", "1*return(ENOSPC)", false);
    poisons("half a write", "journal::before-write", "1*return(torn 70 ENOSPC)", false);
    poisons("a failed sync", "journal::before-sync", "1*return(EIO)", true);
    poisons("no space for a sync", "journal::before-sync", "1*return(ENOSPC)", true);
    poisons("a sync that worked and said it had not", "journal::after-sync", "1*return(EIO)", true);
}

#[test]
fn a_journal_thread_that_panics_poisons_and_leaves_nobody_waiting() {
    poisons("a panic before the write", "journal::before-write", "1*panic(on purpose)", false);
    poisons("a panic before the sync", "journal::before-sync", "1*panic(on purpose)", true);
}

#[test]
fn a_last_frame_torn_at_every_byte_leaves_exactly_what_was_acknowledged() {
    let _nobody_else_arms = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, ROOMY);
    work(&store, 1, 3);
    let audit = store.books.audit();
    let whole = end_of_last_segment(dir.path());
    let last = settle(reserve(&store.books, 10).expect("room"));
    store.journal.wait_durable(last).expect("durable");
    store.close();
    // View and audit log know of the last frame: as after a power cut they must not, or they say what is missing.
    fs::remove_file(Layout::of(dir.path()).view).expect("the view");
    fs::remove_dir_all(Layout::of(dir.path()).audit).expect("the audit log");
    let path = last_segment(dir.path());
    let good = fs::read(&path).expect("the segment");
    let after = end_of_last_segment(dir.path());
    let torn = |from: usize, garbage: usize| {
        let mut dice = Dice(from as u64 + 1);
        let mut bytes = good.clone();
        bytes[from..].fill(0);
        bytes[from..from + garbage].fill_with(|| u8::try_from(dice.below(256)).expect("a byte"));
        bytes
    };
    let journal = Layout::of(dir.path()).journal;
    for from in whole..after {
        for garbage in [0, 1 + Dice(from as u64).below(4_000)] {
            fs::write(&path, torn(from, garbage)).expect("torn");
            let mut state = tollgate_store::snapshot::State::default();
            let end = state.replay(&journal, 1, true).expect("a torn tail is no damage");
            // Records of a frame are there all or none, though two frames may have come of one crowd.
            let bytes = fs::read(&path).expect("the segment");
            assert!(end.offset >= whole && bytes[..end.offset] == good[..end.offset], "torn at {from}");
            assert_eq!(state.sequence == last, bytes[..after] == good[..after], "torn at {from}");
            if state.sequence == last {
                continue; // A frame that ends with zeros is whole without them.
            }
            assert_eq!(state.ledger.audit().totals.posted, audit.totals.posted, "torn at {from}");
        }
    }
    // And the whole way: cut off, cleared, gone on with.
    for from in (whole..after - 8).step_by(29) {
        fs::write(&path, torn(from, from % 300)).expect("torn");
        let again = open(dir.path());
        assert_eq!(again.books.audit().totals.posted, audit.totals.posted, "torn at {from}");
        work(&again, 100, 2);
        again.close();
        assert!(!agree(dir.path()).torn, "torn at {from}");
        fs::remove_file(Layout::of(dir.path()).view).expect("the view");
        fs::remove_dir_all(Layout::of(dir.path()).audit).expect("the audit log");
    }
}

/// Stops the disk in front of a commit; what is being written is stuck there.
fn stop_the_disk(armed: &Armed, store: &Store) -> Sequence {
    let before = armed.passed("journal::before-write");
    armed.at("journal::before-write", "pause");
    let stuck = reserve(&store.books, 9_000_000).expect("room");
    while armed.passed("journal::before-write") == before {
        thread::yield_now();
    }
    settle(stuck)
}

#[test]
fn a_disk_that_stands_still_refuses_new_work_before_memory_grows_and_the_sweep_voids_what_waits() {
    let armed = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, ROOMY);
    stop_the_disk(&armed, &store);
    let mut held = Vec::new();
    let mut ids = 1..;
    let refused = loop {
        match reserve(&store.books, ids.next().expect("endless")) {
            Ok(reservation) => held.push(reservation),
            Err(refused) => break refused,
        }
        // Done at once, most of it: so that it is the buffer that is full, not the room for ends.
        if held.len() > 20 {
            settle(held.remove(0));
        }
    };
    assert!(refused.contains("the disk does not keep up"), "{refused}");
    let waiting = held.len();
    store.books.clock().advance(Duration::from_secs(120));
    assert_eq!(store.books.sweep(Duration::ZERO), waiting, "past their deadlines, never sent");
    for mut reservation in held {
        assert!(!reservation.dispatched(), "what was swept may not be sent");
    }
    let audit = store.books.audit();
    assert_eq!((audit.reservations_pending, audit.totals.bounded.cost), (0, PicoSum(0)), "voided, not posted");
    let written = end_of_last_segment(dir.path());
    armed.disarm("journal::before-write");
    while reserve(&store.books, 8_000_000).map(settle).is_err() {
        thread::yield_now();
    }
    store.close();
    let grown = end_of_last_segment(dir.path()) - written;
    assert!(grown < SMALL / 4 + 8 * 1024, "{grown} bytes were in memory at most");
    agree(dir.path());
}

#[test]
fn a_slow_disk_keeps_the_order_and_nothing_is_durable_before_its_time() {
    let armed = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, ROOMY);
    armed.at("journal::before-sync", "delay(3)");
    let mut ends = Vec::new();
    thread::scope(|scope| {
        let workers = (0..8u128).map(|worker| {
            let store = &store;
            scope.spawn(move || {
                let mut ends = Vec::new();
                for n in 0..20 {
                    let held = reserve(&store.books, 1 + worker * 1_000 + n).expect("room");
                    let position = held.position();
                    store.journal.wait_durable(position).expect("durable");
                    assert!(store.journal.durable_sequence() >= position);
                    ends.push(settle(held));
                }
                ends
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().for_each(|worker| ends.extend(worker.join().expect("no panic")));
    });
    let last = ends.into_iter().max().expect("some");
    store.journal.wait_durable(last).expect("durable");
    assert!(armed.passed("journal::before-sync") < 320, "one sync serves many records");
    let audit = store.books.audit();
    assert_eq!(audit.totals.posted.cost, PicoSum(160 * i128::from(USED)));
    store.close();
    let again = open(dir.path());
    assert_eq!(again.books.audit(), audit);
    again.close();
    agree(dir.path());
}

#[test]
fn what_is_being_written_counts_as_room_that_is_taken() {
    const LARGE: usize = 1024 * 1024;
    let armed = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = try_open(dir.path(), LARGE).expect("opens");
    populate(&store, ROOMY);
    store.close();
    // No further segment can be made: what is taken on must end in this one.
    armed.at("segment::spare-create", "return(ENOSPC)");
    let store = try_open(dir.path(), LARGE).expect("opens");
    // What is left takes two full buffers and no more, not to speak of the room that is kept.
    let mut first = 1_000_000;
    while end_of_last_segment(dir.path()) < LARGE - 450 * 1024 {
        work(&store, first, 100);
        first += 100;
    }
    stop_the_disk(&armed, &store);
    let mut next = 1;
    let mut fill = |until_stuck: usize| {
        while let Ok(held) = reserve(&store.books, next) {
            settle(held);
            next += 1;
        }
        // The disk takes one step: all of that is being written now, and no longer in the buffer.
        armed.at("journal::before-write", "pause");
        while armed.passed("journal::before-write") < until_stuck {
            thread::yield_now();
        }
    };
    let before = armed.passed("journal::before-write");
    fill(before + 1);
    let mut held = Vec::new();
    let mut ids = 5_000_000..;
    while let Ok(reservation) = reserve(&store.books, ids.next().expect("endless")) {
        held.push(reservation);
        if held.len() > 50 {
            settle(held.remove(0));
        }
    }
    armed.disarm("journal::before-write");
    let last = held.into_iter().map(settle).last().expect("some were held");
    assert_eq!(durable(&store.journal, last), Ok(()), "what was taken on ends, without another segment");
    store.close();
    agree(dir.path());
}
