//! The audit log's files: each record of the journal is a line of JSON and a leaf of a Merkle tree, whose roots are signed
//! ([`tollgate_audit`] says how). It follows the journal as the view does, and after a crash the same bytes come out again.
//!
//! ```text
//! audit/entries-00000000000000000000.jsonl   entries 0 and on, one a line; the next file begins where this one is full
//! audit/hashes                               the tree's stored hashes, 32 bytes each
//! audit/checkpoints                          signed notes, the newest last, each followed by an empty line
//! audit/heads-00000000000000065536.note      what is to be known after so many entries, signed; the newest two
//! ```
//! An entry is found by bisection: lines begin with their number. So no other file says where it is.
//!
//! - [`writer`]: appends, signs, recovers. [`reader`]: everybody else's way to it, beside the writer. [`retention`]: erases texts
//!   that are too old. `segments`: the files of entries. `checkpoints`: the file of those.

mod checkpoints;
pub mod reader;
pub mod retention;
mod segments;
pub mod writer;

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tollgate_audit::note::Verifier;
use tollgate_audit::verify::{Fault, Report, Verification};

pub use reader::AuditReader;

/// How the log is called, and how it is cut.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who speaks: the log is `<issuer>/audit`.
    pub issuer: Arc<str>,
    /// Entries of a file. So many are read at most when the store is opened.
    pub segment_entries: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the audit log {path}: {reason}. It was damaged or tampered with; nothing was changed or signed. Keep a copy of the \
         folder for whoever looks into it. Then restore it from a backup, or move all of it but the file 'checkpoints' \
         away: it is made again from the journal, and must come out as it was signed"
    )]
    Contradiction { path: PathBuf, reason: String },
    #[error(
        "the audit log {path} has {held} entries, but the journal ends at record {last}: it lost records that were durable; \
         restore the journal from its copy, or, to go on without them, move the folder of the audit log away"
    )]
    JournalBehind { path: PathBuf, held: u64, last: u64 },
    #[error(
        "not all of the audit log that is too old was erased, for it was damaged or tampered with: {first} ({damaged} such in \
         all). Those keep their texts, and so does what their tenants have later; {} other entries were erased",
        erased.entries
    )]
    NotErased { first: String, damaged: u64, erased: retention::Erased },
    #[error("record {given} was to be entry {next}: the audit log is read again")]
    OutOfOrder { given: u64, next: u64 },
    #[error("a write failed before; the audit log is opened again")]
    Broken,
}

/// What is wrong with a log that was verified, or why it could not be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("there is no audit log in {0}")]
    NoLog(PathBuf),
}

const HASHES: &str = "hashes";
const CHECKPOINTS: &str = "checkpoints";
const HEADS: &str = "heads-";
const HEADS_SUFFIX: &str = "note";

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self { issuer: "tollgate".into(), segment_entries: 65_536 }
    }
}

/// Verifies the log in a folder, which may be in use or a copy: every entry against its hash, the hashes against every signed
/// checkpoint, and against one that was kept elsewhere. Without a key no signature is checked. Where nothing is signed, that is a
/// fault.
pub fn verify(dir: &Path, given: Option<&str>, verifier: Option<&Verifier>) -> Result<Report, VerifyError> {
    // The checkpoints first: what is written meanwhile comes after the newest of them.
    let own = match fs::read(dir.join(CHECKPOINTS)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(io_at(&dir.join(CHECKPOINTS), source).into()),
    };
    let heads = heads_in(dir)?;
    let firsts = segments::list(dir)?;
    let hashes = dir.join(HASHES);
    if firsts.is_empty() && own.is_empty() && given.is_none() {
        return Err(VerifyError::NoLog(dir.to_owned()));
    }
    let hashes: Box<dyn io::Read> = match File::open(&hashes) {
        Ok(file) => Box::new(BufReader::with_capacity(256 * 1024, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Box::new(io::empty()),
        Err(source) => return Err(io_at(&hashes, source).into()),
    };
    let mut verification = Verification::new(&own, hashes, given, verifier.cloned())?;
    for size in &heads {
        match fs::read(heads_path(dir, *size)) {
            Ok(bytes) => verification.keep_heads(*size, String::from_utf8_lossy(&bytes).into_owned()),
            // An older one, which the writer removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_at(&heads_path(dir, *size), source).into()),
        }
    }
    for first in &firsts {
        let path = segments::path_of(dir, *first);
        let file = File::open(&path).map_err(|source| io_at(&path, source))?;
        verification.entries(*first, BufReader::with_capacity(256 * 1024, file))?;
    }
    // They are written before the file that begins after them.
    if let Some(last) = firsts.last().filter(|last| **last > 0 && !heads.contains(last)) {
        return Err(Fault::Heads { size: *last, reason: "are missing" }.into());
    }
    Ok(verification.finish()?)
}

/// The sizes of which heads are kept, ascending.
fn heads_in(dir: &Path) -> Result<Vec<u64>, AuditError> {
    numbered(dir, HEADS, HEADS_SUFFIX)
}

fn heads_path(dir: &Path, size: u64) -> PathBuf {
    dir.join(format!("{HEADS}{size:020}.{HEADS_SUFFIX}"))
}

/// The numbers in the names of a folder's files of a kind, ascending.
fn numbered(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<u64>, AuditError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| io_at(dir, source))? {
        let name = entry.map_err(|source| io_at(dir, source))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix)?.strip_suffix('.'));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn io_at(path: &Path, source: io::Error) -> AuditError {
    AuditError::Io { path: path.to_owned(), source }
}
