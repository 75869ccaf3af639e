//! Snapshots: ledger and directory as they were after some record, so that a start reads one snapshot and the segments
//! after it. A snapshot is made from the one before and the segments in between, never from the live ledger: so making
//! one takes no lock, and proves on the way that the segments can be read.
//!
//! File: `TGSN`, u32 version, u64 sequence, chain hash (32 B), u32 CRC-32C of all that and of the body, u32 zero, then the
//! body in postcard. A snapshot that cannot be read is passed over: the journal holds everything anyhow.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tollgate_ledger::{Ledger, Record};
use tollgate_types::directory::{Building, Change, Directory};

use crate::fault;
use crate::journal::Sequence;
use crate::journal::frame::{Chain, FrameError};
use crate::journal::segment::{self, SegmentError};
use crate::prepared::Prepared;

const MAGIC: [u8; 4] = *b"TGSN";
/// Of the layout. Others are not read: a snapshot is made again from the journal.
pub const VERSION: u32 = 3;
const HEADER_BYTES: usize = 56;
const CHECKSUM_AT: usize = 48;
/// While records are read again, memory of scopes that fell silent is given back when this many have spent.
const REPLAYED_MIN: usize = 10_000;
/// So much of a snapshot is read at a time; no text in one is longer.
const PIECE_BYTES: usize = 256 * 1024;
const SUFFIX: &str = "snapshot";
/// Older ones are removed; two remain in case the newer cannot be read.
const KEPT: usize = 2;

/// The state after record `sequence`.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub sequence: Sequence,
    pub chain: Chain,
    pub ledger: Ledger,
    pub directory: Directory,
}

#[derive(Serialize)]
struct Body<'a> {
    ledger: &'a Ledger,
    directory: Vec<Change>,
}

/// The same as it is read.
#[derive(Deserialize)]
struct Read {
    ledger: Ledger,
    directory: Changed,
}

/// A directory from its changes, none of which is kept.
struct Changed(Directory);

impl<'de> Deserialize<'de> for Changed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Changes;
        impl<'de> Visitor<'de> for Changes {
            type Value = Changed;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the changes that make a directory")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Changed, A::Error> {
                let mut building = Building::default();
                while let Some(change) = seq.next_element()? {
                    building.add(change);
                }
                Ok(Changed(building.finish()))
            }
        }
        deserializer.deserialize_seq(Changes)
    }
}

// === impl State ===

impl State {
    /// Applies the next record. A journal whose records do not follow from one another is not one of ours.
    pub fn apply(&mut self, sequence: Sequence, record: Record) -> Result<(), FrameError> {
        let refuse = |reason: String| Err(FrameError::Record(format!("record {sequence}: {reason}")));
        if let Err(rejected) = self.ledger.commit(&record) {
            return refuse(rejected.to_string());
        }
        if let Record::Directory(change) = record {
            if let Err(refused) = self.directory.check(&change) {
                return refuse(refused.to_string());
            }
            self.directory.apply(change);
        }
        self.sequence = sequence;
        Ok(())
    }

    /// Applies the records of a segment that come after this state, and says where the segment ends.
    pub fn replay(&mut self, journal: &Path, index: u64, last: bool) -> Result<segment::End, SegmentError> {
        let (_, end) = segment::read(journal, index, last, |frame| {
            if frame.next() <= self.sequence + 1 {
                return Ok(());
            }
            for (sequence, record) in frame.records()? {
                if sequence > self.sequence {
                    self.apply(sequence, record)?;
                }
            }
            self.ledger.compact(REPLAYED_MIN);
            self.chain = frame.chain;
            Ok(())
        })?;
        Ok(end)
    }
}

/// The newest snapshot that can be read, or the empty state.
pub fn latest(dir: &Path) -> State {
    let readable = list(dir).into_iter().rev().find_map(|path| match read(&path) {
        Ok(state) => Some(state),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a snapshot cannot be read; an older one or the journal serves");
            None
        }
    });
    readable.unwrap_or_default()
}

/// All snapshot files, oldest first.
pub fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == SUFFIX)).collect();
    paths.sort();
    paths
}

/// Writes a snapshot durably and removes the ones it supersedes.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
pub fn write(dir: &Path, state: &State) -> io::Result<()> {
    let body = Body { ledger: &state.ledger, directory: state.directory.to_changes().collect() };
    let body = postcard::to_stdvec(&body).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&state.sequence.to_le_bytes());
    bytes.extend_from_slice(&state.chain);
    bytes.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&bytes), &body).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&body);
    Prepared::write(&dir.join(format!("{:020}.{SUFFIX}", state.sequence)), &bytes, fault::SNAPSHOT)?.confirm()?;
    let all = list(dir);
    for superseded in &all[..all.len().saturating_sub(KEPT)] {
        fault::pass("snapshot::remove")?;
        fs::remove_file(superseded)?;
    }
    fault::pass("snapshot::removed")
}

pub fn read(path: &Path) -> Result<State, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    read_from(io::BufReader::with_capacity(PIECE_BYTES, file))
}

/// Reads a snapshot's bytes.
pub fn decode(bytes: &[u8]) -> Result<State, String> {
    read_from(io::Cursor::new(bytes))
}

/// In two passes: its checksum, then what it holds. It is never in memory as a whole: what that left behind would stay
/// there for long.
fn read_from(mut from: impl io::Read + io::Seek) -> Result<State, String> {
    let told = |error: io::Error| error.to_string();
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).map_err(|_| "too short")?;
    let field = |from: usize, to: usize| &header[from..to];
    if field(0, 4) != MAGIC || field(4, 8) != VERSION.to_le_bytes() {
        return Err("not a snapshot of this version".to_owned());
    }
    // The head too: with another sequence number the start would leave records out.
    let mut checksum = crc32c::crc32c(&header[..CHECKSUM_AT]);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece).map_err(told)? {
            0 => break,
            bytes => checksum = crc32c::crc32c_append(checksum, &piece[..bytes]),
        }
    }
    if field(CHECKSUM_AT, 52) != checksum.to_le_bytes() || field(52, 56) != [0; 4] {
        return Err("its checksum is wrong".to_owned());
    }
    from.seek(io::SeekFrom::Start(HEADER_BYTES as u64)).map_err(told)?;
    let (Read { ledger, directory: Changed(directory) }, _) =
        postcard::from_io((from, piece.as_mut_slice())).map_err(|error| error.to_string())?;
    let sequence = u64::from_le_bytes(field(8, 16).try_into().map_err(|_| "too short")?);
    let chain = field(16, 48).try_into().map_err(|_| "too short")?;
    Ok(State { sequence, chain, ledger, directory })
}

/// Makes a new snapshot from the newest one and the sealed segments after it, if there are any. `sealed` is the index
/// of the newest sealed segment.
pub fn advance(snapshots: &Path, journal: &Path, sealed: u64) -> Result<bool, SegmentError> {
    let io = |source| SegmentError::Io { path: snapshots.to_owned(), source };
    let mut state = latest(snapshots);
    let before = state.sequence;
    for index in segments_after(journal, state.sequence)? {
        if index <= sealed {
            state.replay(journal, index, false)?;
        }
    }
    if state.sequence == before {
        return Ok(false);
    }
    write(snapshots, &state).map_err(io)?;
    Ok(true)
}

/// The segments that hold records after `sequence`, ascending; and always the last one.
pub fn segments_after(journal: &Path, sequence: Sequence) -> Result<Vec<u64>, SegmentError> {
    let all = segment::list(journal)?;
    let mut first_needed = all.len().saturating_sub(1);
    while first_needed > 0 && segment::read_start(journal, all[first_needed])?.first > sequence + 1 {
        first_needed -= 1;
    }
    Ok(all[first_needed..].to_vec())
}
