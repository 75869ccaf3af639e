//! What a tenant is given of the log: a signed checkpoint, then each of its entries with the path to that checkpoint's root. It
//! can be verified with nothing else: no entry was changed, and between the first whole one and the last none is left out. What
//! was erased comes before that, and nothing is proved of it but that its hashes are in the log: whose it was and which came before
//! it are not in a hash.
//!
//! One line each. The checkpoint is a JSON string; an entry is `{"entry":"...","path":["...",...]}`, the entry's own line as a
//! string and the hashes in Base64 from the leaf up.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};
use tollgate_types::TenantId;

use crate::heads::Told;
use crate::note::{self, Checkpoint, NoteError, Verifier};
use crate::tree::{HASH_BYTES, Hash, is_included};
use crate::verify::LINE_BYTES_MAX;

/// A line of a view: an entry escaped as a string, at most six letters for each of its own, and its path.
const VIEW_LINE_BYTES_MAX: usize = 6 * LINE_BYTES_MAX + 64 * 64;

#[derive(Serialize, Deserialize)]
struct Shown {
    entry: String,
    path: Vec<String>,
}

/// What was found of a view that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewReport {
    pub checkpoint: Checkpoint,
    /// Entries that were shown.
    pub entries: u64,
    /// Of these, those whose text is not kept any more.
    pub erased: u64,
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// The first whole entry: from it on none was changed or left out. `None`: all that was shown is erased.
    pub proved_from: Option<u64>,
    pub signature_checked: bool,
}

/// What is wrong with a view.
#[derive(Debug, thiserror::Error)]
pub enum ViewFault {
    #[error("the checkpoint: {0}")]
    Checkpoint(NoteError),
    #[error("line {line}: {reason}")]
    Line { line: u64, reason: String },
    #[error("entry {n}: {reason}")]
    Entry { n: u64, reason: String },
    #[error("reading: {0}")]
    Io(#[from] io::Error),
}

/// Writes the first line.
pub fn write_checkpoint(note: &str, mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut out, note)?;
    out.write_all(b"\n")
}

/// Writes the line of an entry.
pub fn write_entry(entry: &str, path: &[Hash], mut out: impl Write) -> io::Result<()> {
    let path = path.iter().map(|hash| note::encoded(hash)).collect();
    serde_json::to_writer(&mut out, &Shown { entry: entry.to_owned(), path })?;
    out.write_all(b"\n")
}

/// Reads a tenant's view. Each entry must be the tenant's and be in the tree; each whole one must say truly which one was before
/// it, and after a whole one none may be erased.
pub fn verify_view(
    mut view: impl BufRead,
    tenant: &TenantId,
    verifier: Option<&Verifier>,
) -> Result<ViewReport, ViewFault> {
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        (&mut view).take(VIEW_LINE_BYTES_MAX as u64).read_until(b'\n', line)
    };
    next(&mut line)?;
    let note: String = serde_json::from_slice(&line).map_err(|_| ViewFault::Checkpoint(NoteError::Malformed))?;
    let read = verifier.map_or_else(|| Checkpoint::of_note(&note), |verifier| verifier.checkpoint(&note));
    let checkpoint = read.map_err(ViewFault::Checkpoint)?;
    let signature_checked = verifier.is_some();
    let mut report =
        ViewReport { checkpoint, entries: 0, erased: 0, first: None, last: None, proved_from: None, signature_checked };
    for number in 2.. {
        if next(&mut line)? == 0 {
            break;
        }
        let unreadable = |reason: String| ViewFault::Line { line: number, reason };
        let shown: Shown = serde_json::from_slice(&line).map_err(|error| unreadable(error.to_string()))?;
        let told = Told::parse(shown.entry.as_bytes()).map_err(|strange| unreadable(strange.to_string()))?;
        report.entry(&shown, &told, tenant)?;
    }
    Ok(report)
}

// === impl ViewReport ===

impl ViewReport {
    fn entry(&mut self, shown: &Shown, told: &Told<'_>, tenant: &TenantId) -> Result<(), ViewFault> {
        let wrong = |reason: &str| Err(ViewFault::Entry { n: told.n, reason: reason.to_owned() });
        if told.tenant.as_deref() != Some(tenant.as_str()) {
            return wrong("it is not this tenant's");
        }
        let erased = told.erased.is_some();
        if erased && self.proved_from.is_some() {
            return wrong("it is erased, but an earlier one is not");
        }
        if self.last.is_some_and(|last| told.n <= last) {
            return wrong("it comes after a later one");
        }
        // What an erased one says of the one before it is in no hash.
        if !erased && told.prev != self.last {
            return wrong("the entry that it says was before it is not the one before it: some are left out");
        }
        let path = shown.path.iter().map(|hash| note::decoded::<HASH_BYTES>(hash)).collect::<Option<Vec<_>>>();
        let (Some(path), Some(leaf)) = (path, told.leaf(shown.entry.as_bytes())) else {
            return wrong("its path is no list of hashes");
        };
        if !is_included(told.n, self.checkpoint.size, &leaf, &path, &self.checkpoint.root) {
            return wrong("it is not in the log of that checkpoint");
        }
        self.entries += 1;
        if erased {
            self.erased += 1;
        } else {
            self.proved_from = self.proved_from.or(Some(told.n));
        }
        self.first = self.first.or(Some(told.n));
        self.last = Some(told.n);
        Ok(())
    }
}
