//! The file of signed checkpoints. It grows by one a second at most; of the older ones only some are kept, since any root can
//! be computed from the entries again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tollgate_audit::note::{Checkpoint, Verifier};
use tollgate_audit::verify::notes;

use super::{AuditError, io_at};
use crate::fault;
use crate::journal::segment::sync_dir;
use crate::store::write_atomically;

/// The newest so many are all kept: those of an hour at least.
const KEPT: usize = 3_600;
/// Of those before, one for every so many entries.
const KEPT_EVERY: u64 = 65_536;
/// The newest is within so many bytes of the end.
const TAIL_BYTES: u64 = 8 * 1024;

#[derive(Debug)]
pub struct Checkpoints {
    path: PathBuf,
    file: File,
    newest: Option<Checkpoint>,
    count: usize,
}

// === impl Checkpoints ===

impl Checkpoints {
    /// Opens the file, and cuts off what a crash left of the last one. The newest must be signed by this key.
    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    pub fn open(path: PathBuf, verifier: &Verifier) -> Result<Self, AuditError> {
        let io = |source| io_at(&path, source);
        let fresh = !path.try_exists().map_err(io)?;
        let file = File::options().read(true).append(true).create(true).mode(0o600).open(&path).map_err(io)?;
        if fresh {
            path.parent().map_or(Ok(()), sync_dir).map_err(io)?;
        }
        let bytes = fs::read(&path).map_err(io)?;
        let strange = |reason: String| AuditError::Contradiction { path: path.clone(), reason };
        let text = std::str::from_utf8(&bytes).map_err(|_| strange("it holds bytes that are no text".to_owned()))?;
        let (mut whole, mut count, mut last) = (0, 0, None);
        for note in notes(text) {
            let Some(note) = note.map_err(|error| strange(error.to_string()))? else { break };
            (whole, count, last) = (whole + note.len() + 1, count + 1, Some(note));
        }
        if whole < bytes.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(io)?;
        }
        let newest = last.map(|note| verifier.checkpoint(note)).transpose();
        let newest = newest.map_err(|error| strange(format!("its newest checkpoint: {error}")))?;
        Ok(Self { path, file, newest, count })
    }

    pub fn newest(&self) -> Option<&Checkpoint> {
        self.newest.as_ref()
    }

    /// Adds one durably.
    pub fn add(&mut self, checkpoint: Checkpoint, note: &str) -> Result<(), AuditError> {
        let line = format!("{note}\n");
        let added = fault::write("audit::checkpoint-write", line.as_bytes(), |bytes| self.file.write_all(bytes))
            .and_then(|()| fault::pass("audit::checkpoint-sync"))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fault::pass("audit::checkpoint-signed"));
        added.map_err(|source| io_at(&self.path, source))?;
        (self.newest, self.count) = (Some(checkpoint), self.count + 1);
        Ok(())
    }

    /// Keeps fewer of the older ones, once there are many.
    pub fn thin(&mut self) -> Result<(), AuditError> {
        if self.count < 2 * KEPT {
            return Ok(());
        }
        let io = |source| io_at(&self.path, source);
        let text = fs::read_to_string(&self.path).map_err(io)?;
        let all: Vec<&str> = notes(&text).filter_map(|note| note.ok().flatten()).collect();
        let thinned = thinned(&all);
        write_atomically(&self.path, thinned.as_bytes()).map_err(io)?;
        self.reopen()
    }

    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    fn reopen(&mut self) -> Result<(), AuditError> {
        let io = |source| io_at(&self.path, source);
        self.file = File::options().read(true).append(true).open(&self.path).map_err(io)?;
        self.count = notes(&fs::read_to_string(&self.path).map_err(io)?).count();
        // Those that many entries brought do not count.
        self.count = self.count.min(KEPT);
        Ok(())
    }
}

/// What remains of so many notes.
fn thinned(all: &[&str]) -> String {
    let older = all.len().saturating_sub(KEPT);
    let (mut kept, mut part) = (String::new(), None);
    for (n, note) in all.iter().enumerate() {
        let of = Checkpoint::of_note(note).ok().map(|checkpoint| checkpoint.size / KEPT_EVERY);
        if n >= older || of != part {
            kept.push_str(note);
            kept.push('\n');
        }
        part = of;
    }
    kept
}

/// The newest note of a file that may be being written.
pub fn newest_in(path: &Path) -> Result<Option<String>, AuditError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_at(path, source)),
    };
    let end = file.metadata().map_err(|source| io_at(path, source))?.len();
    let mut bytes = vec![0; usize::try_from(end.min(TAIL_BYTES)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, end.saturating_sub(TAIL_BYTES)).map_err(|source| io_at(path, source))?;
    let text = String::from_utf8_lossy(&bytes);
    // A note ends with an empty line after a signature.
    let signed = |at: usize| text[..at].rsplit('\n').next().is_some_and(|line| line.starts_with('\u{2014}'));
    let mut ends = text.match_indices("\n\n").map(|(at, _)| at).filter(|at| signed(*at)).collect::<Vec<_>>();
    let Some(last) = ends.pop() else { return Ok(None) };
    Ok(Some(text[ends.last().map_or(0, |before| before + 2)..=last].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_audit::note::Signer;

    #[test]
    fn many_checkpoints_become_fewer_and_the_newest_stay() {
        let signer = Signer::new("a/audit", &[1; 32]);
        let note = |size| signer.sign(&Checkpoint { origin: "a/audit".to_owned(), size, root: [0; 32] }.text());
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("checkpoints");
        let mut checkpoints = Checkpoints::open(path.clone(), &signer.verifier()).expect("a new file");
        let sizes: Vec<u64> = (1..=2 * KEPT as u64).map(|n| n * 1_000).collect();
        let all: Vec<String> = sizes.iter().map(|size| note(*size)).collect();
        let joined: String = all.iter().map(|note| format!("{note}\n")).collect();
        crate::store::write_atomically(&path, joined.as_bytes()).expect("written");
        checkpoints.count = 2 * KEPT;
        checkpoints.thin().expect("thinned");
        let text = fs::read_to_string(&path).expect("there");
        let left: Vec<u64> = notes(&text)
            .map(|note| Checkpoint::of_note(note.expect("a note").expect("whole")).expect("a checkpoint").size)
            .collect();
        assert_eq!(left[left.len() - KEPT..], sizes[KEPT..], "the newest are all there");
        let expected = sizes[KEPT - 1] / KEPT_EVERY + 1;
        assert_eq!(left.len() - KEPT, usize::try_from(expected).expect("small"), "one for each part before");
        assert_eq!(newest_in(&path).expect("readable"), all.last().cloned());
        let next = Checkpoint { origin: "a/audit".to_owned(), size: 9_000_000, root: [0; 32] };
        checkpoints.add(next.clone(), &note(9_000_000)).expect("added");
        let again = Checkpoints::open(path.clone(), &signer.verifier()).expect("readable");
        assert_eq!(again.newest(), Some(&next));
        assert_eq!(newest_in(&path).expect("readable"), Some(note(9_000_000)));
    }
}
