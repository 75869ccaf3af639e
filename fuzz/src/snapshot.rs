//! Snapshots: one that was written reads back as the same state; anything else is passed over, not believed.

use tollgate_ledger::{Ledger, Record};
use tollgate_store::snapshot::{State, VERSION, decode};
use tollgate_types::Zone;
use tollgate_types::directory::{Change, Directory};

use crate::{Decisions, Target, journal_frame};

pub const TARGET: Target = Target {
    name: "snapshot",
    check: check_snapshot,
    seeds: &[
        "a snapshot is taken of a history that is made from these bytes: reserve, send, post, void, cap, wait",
        "TGSN\u{3}\u{0}\u{0}\u{0}",
    ],
    words: &["TGSN", "\u{0}\u{0}\u{0}\u{0}", "\u{0}", "\u{1}", "\u{7f}"],
    takes_noise: true,
};

const HEADER_BYTES: usize = 56;

pub fn check_snapshot(data: &[u8]) {
    // Bytes that nobody wrote, alone and behind a header that vouches for them.
    drop(decode(data));
    if let Ok(state) = decode(&with_header(7, &[9; 32], data)) {
        assert_eq!((state.sequence, state.chain), (7, [9; 32]));
        let body = encode(&state.ledger, &state.directory);
        let again = decode(&with_header(7, &[9; 32], &body)).expect("what was read can be written and read");
        assert_eq!(again.directory, state.directory);
    }

    let records = journal_frame::history(&mut Decisions(data));
    let directory = journal_frame::directory();
    let mut ledger = Ledger::default();
    records.iter().for_each(|record| ledger.commit(record).expect("it happened"));
    let bytes = with_header(records.len() as u64, &[3; 32], &encode(&ledger, &directory));
    let state = decode(&bytes).expect("it was just written");
    same(&state, &ledger, &directory);
    goes_on_alike(state, ledger, &records);
    damage_is_noticed(&bytes, &mut Decisions(data));
}

fn same(state: &State, ledger: &Ledger, directory: &Directory) {
    assert_eq!(state.ledger.audit(), ledger.audit());
    assert_eq!(state.ledger.latest(), ledger.latest());
    let at = ledger.latest();
    let budgets = |ledger: &Ledger| ledger.budgets(at, |_| Zone::UTC, |_| true);
    assert_eq!(budgets(&state.ledger), budgets(ledger));
    assert_eq!(state.directory, *directory);
}

/// Whatever record comes next, the state that was read answers as the one that was written.
fn goes_on_alike(mut state: State, mut ledger: Ledger, records: &[Record]) {
    for record in records.iter().rev().take(8) {
        assert_eq!(state.ledger.commit(record), ledger.commit(record));
    }
    assert_eq!(state.ledger.audit(), ledger.audit());
}

fn damage_is_noticed(bytes: &[u8], decisions: &mut Decisions<'_>) {
    let at = usize::try_from(decisions.u64()).unwrap_or(usize::MAX) % bytes.len();
    assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
    let mut changed = bytes.to_vec();
    changed[at] ^= 1 << decisions.below(8);
    assert!(decode(&changed).is_err(), "a changed bit at {at}");
}

fn encode(ledger: &Ledger, directory: &Directory) -> Vec<u8> {
    let changes: Vec<Change> = directory.to_changes().collect();
    postcard::to_stdvec(&(ledger, changes)).expect("a state can be written")
}

/// The file's layout, written down a second time.
fn with_header(sequence: u64, chain: &[u8; 32], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(b"TGSN");
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(chain);
    bytes.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&bytes), body).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}
