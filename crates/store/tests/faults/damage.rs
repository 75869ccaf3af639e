//! Files that are not what was written: a bit flipped anywhere in what is sealed is refused by name, or found by
//! `verify`, and never accepted silently.

use std::fs;
use std::path::Path;

use tollgate_store::fault;
use tollgate_store::journal::frame;
use tollgate_store::journal::segment::{self, SegmentError};
use tollgate_store::snapshot::{self, State};
use tollgate_store::store::Layout;
use tollgate_store::verify::verify;

use crate::books::{SMALL, open, populate, try_open, work};
use crate::{Dice, agree, segments};

/// Reads a segment as the start does: frames, chain, and records that follow from one another.
fn replay(journal: &Path, upto: u64) -> Result<State, SegmentError> {
    let mut state = State::default();
    for index in 1..=upto {
        state.replay(journal, index, false)?;
    }
    Ok(state)
}

fn sealed_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000_000_000);
    for round in 0..8 {
        work(&store, 1 + round * 1_000, 500);
    }
    store.close();
    assert!(segments(dir.path()).len() > 1, "one is sealed at least");
    agree(dir.path());
    dir
}

#[test]
fn a_bit_flipped_anywhere_in_a_sealed_segment_is_refused_and_its_file_and_byte_are_named() {
    let _nobody_else_arms = fault::arm_from_environment();
    let dir = sealed_store();
    let layout = Layout::of(dir.path());
    let path = segment::path_of(&layout.journal, 1);
    let good = fs::read(&path).expect("the segment");
    let (_, end) = segment::read(&layout.journal, 1, false, |_| Ok(())).expect("readable");
    assert!(end.sealed && good.len() == SMALL);
    // All of the segment's head, of its first frame's and of its seal; then anywhere, the zeros after the seal included.
    let mut bits: Vec<usize> = (0..(segment::HEADER_BYTES + frame::HEADER_BYTES) * 8).step_by(3).collect();
    bits.extend(((end.offset - frame::HEADER_BYTES) * 8..end.offset * 8).step_by(3));
    let mut dice = Dice(0x7011_6a7e);
    bits.extend((0..150).map(|_| dice.below(good.len() * 8)));
    for bit in bits {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).expect("damaged");
        let Err(SegmentError::Corrupt { path: named, offset, .. }) = replay(&layout.journal, 1) else {
            panic!("bit {bit} was accepted");
        };
        assert!(named == path && offset <= bit / 8, "bit {bit}: {named:?}, byte {offset}");
    }
    fs::write(&path, &good).expect("mended");
    agree(dir.path());
}

#[test]
fn a_start_that_passes_over_a_damaged_segment_leaves_it_to_verify() {
    let _nobody_else_arms = fault::arm_from_environment();
    let dir = sealed_store();
    let layout = Layout::of(dir.path());
    let path = segment::path_of(&layout.journal, 1);
    let mut bytes = fs::read(&path).expect("the segment");
    bytes[SMALL / 2] ^= 1;
    fs::write(&path, &bytes).expect("damaged");
    // A snapshot stands for it: the start need not read it.
    open(dir.path()).close();
    let found = verify(dir.path(), |_, _| ()).expect_err("found").to_string();
    assert!(found.contains("0000000001.journal, byte"), "{found}");
    // Without the snapshot it is refused.
    snapshot::list(&layout.snapshots).iter().for_each(|path| fs::remove_file(path).expect("removed"));
    let refused = try_open(dir.path(), SMALL).expect_err("refused").to_string();
    assert!(refused.contains("0000000001.journal, byte"), "{refused}");
}

#[test]
fn a_bit_flipped_anywhere_in_a_snapshot_makes_it_unreadable_and_the_journal_serves() {
    let _nobody_else_arms = fault::arm_from_environment();
    let dir = sealed_store();
    let layout = Layout::of(dir.path());
    let path = snapshot::list(&layout.snapshots).pop().expect("a snapshot");
    let good = fs::read(&path).expect("the snapshot");
    assert!(snapshot::decode(&good).is_ok());
    let bits: Vec<usize> = (0..64 * 8).chain((64 * 8..good.len() * 8).step_by(7)).collect();
    for bit in bits {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(snapshot::decode(&bytes).is_err(), "bit {bit}, byte {}", bit / 8);
    }
    // The place of the sequence number: a start that believed it would leave records out.
    let mut bytes = good;
    bytes[8] ^= 1;
    fs::write(&path, &bytes).expect("damaged");
    let store = open(dir.path());
    assert_eq!(store.books.audit().totals.posted.cost.0, 4_000 * 7);
    store.close();
    assert!(verify(dir.path(), |_, _| ()).expect("readable").disagreements[0].contains("cannot be read"));
}

#[test]
fn a_bit_flipped_in_any_key_stops_the_start() {
    let _nobody_else_arms = fault::arm_from_environment();
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000);
    store.close();
    let path = Layout::of(dir.path()).keys;
    let good = fs::read(&path).expect("the key file");
    // The head's twelve bytes that say something, then the store's secret, the keys of the audit log and for receipts, and the
    // tenant's key.
    for bit in (0..96).chain((64 * 8..good.len() * 8).step_by(5)) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).expect("damaged");
        assert!(try_open(dir.path(), SMALL).is_err(), "bit {bit}, byte {}", bit / 8);
    }
    fs::write(&path, &good).expect("mended");
    open(dir.path()).close();
}
