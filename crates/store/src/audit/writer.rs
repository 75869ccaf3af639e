//! Appends to the log, and signs it. There is one writer, and nothing waits for it during a request.
//!
//! The order of writes makes recovery simple: entries, then their hashes; both synced before a checkpoint is signed or heads are
//! kept. So what a signature stands for is on the disk. Whatever comes after it nobody stands for, be it whole or not: it is cut off
//! and made again from the journal; without a checkpoint that is all of it. What is made again below the newest checkpoint must
//! come out with the root that was signed.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tollgate_audit::entry::{Scribe, Whose};
use tollgate_audit::heads::{Heads, Told};
use tollgate_audit::note::{Checkpoint, Signer, origin};
use tollgate_audit::tree::{self, Frontier, HASH_BYTES, Hash, leaf_hash};
use tollgate_audit::verify::{LINE_BYTES_MAX, heads_of_note, text_of_heads};
use tollgate_ledger::Record;
use tollgate_types::TenantId;

use super::checkpoints::Checkpoints;
use super::reader::Hashes;
use super::{AuditError, CHECKPOINTS, HASHES, Options, heads_in, heads_path, io_at, segments};
use crate::fault;
use crate::journal::Sequence;
use crate::journal::segment::sync_dir;
use crate::prepared::Prepared;
use crate::vault::audit_key::AuditKey;

/// So many bytes are gathered before they are written.
const GATHERED_BYTES: usize = 1024 * 1024;
/// Heads that are kept: two, in case the newer cannot be read.
const HEADS_KEPT: usize = 2;

#[derive(Debug)]
pub struct AuditWriter {
    dir: PathBuf,
    segment_entries: u64,
    scribe: Scribe,
    frontier: Frontier,
    signer: Signer,
    checkpoints: Checkpoints,
    /// The file that is written to; `None` before its first entry.
    entries: Option<File>,
    /// With which entry that begins.
    first: u64,
    hashes: File,
    lines: Vec<u8>,
    fresh_hashes: Vec<u8>,
    /// A checkpoint that lies ahead: the log is being made again up to it.
    ahead: Option<Checkpoint>,
    /// A write failed: what is in memory is not what is on the disk.
    broken: bool,
}

/// What was found in the files.
struct Found {
    heads: Heads,
    frontier: Frontier,
    /// Where the file of the last entry begins.
    first: u64,
    /// How long that file is with its last whole entry.
    bytes: u64,
    /// Those where a file began, of late.
    passed: Vec<Heads>,
    /// How many entries have hashes, signed or not.
    held: u64,
}

// === impl AuditWriter ===

impl AuditWriter {
    /// Opens the log behind a journal that ends at record `last`, and cuts it back to what is whole and signed.
    pub fn open(dir: &Path, key: &AuditKey, options: &Options, last: Sequence) -> Result<Self, AuditError> {
        let signer = key.signer(&origin(&options.issuer));
        let checkpoints = Checkpoints::open(dir.join(CHECKPOINTS), &signer.verifier())?;
        let hashes = open_hashes(&dir.join(HASHES))?;
        let signed = checkpoints.newest().cloned();
        let size = signed.as_ref().map_or(0, |signed| signed.size);
        let found = Reading { dir, signer: &signer, signed: size, hashes: &hashes }.read()?;
        // Nothing is changed before it is clear that the log is of this journal, and is what was signed.
        let held = found.held.max(size);
        if held > last {
            return Err(AuditError::JournalBehind { path: dir.to_owned(), held, last });
        }
        if signed.is_none() && found.held > 0 {
            let has = found.held;
            tracing::warn!(has, "no checkpoint of the audit log is there: all of it is made again from the journal");
        }
        let ahead = signed.filter(|signed| signed.size > found.heads.size);
        if let Some(signed) = checkpoints.newest().filter(|_| ahead.is_none()) {
            let root = Frontier::read(signed.size, |level, index| hashes.read(level, index))?.root();
            compare(dir, signed, root)?;
        }
        if let Some(ahead) = &ahead {
            let has = found.heads.size;
            tracing::warn!(has, signed = ahead.size, "the audit log is made again from the journal");
        }
        let Found { heads, frontier, first, bytes, passed, held: _ } = found;
        cut(dir, &hashes, heads.size, first, bytes)?;
        let mut writer = Self {
            dir: dir.to_owned(),
            segment_entries: options.segment_entries.max(1),
            scribe: Scribe::new(key.salts(), heads),
            frontier,
            signer,
            checkpoints,
            entries: None,
            first,
            hashes: hashes.file,
            lines: Vec::new(),
            fresh_hashes: Vec::new(),
            ahead,
            broken: false,
        };
        for heads in passed {
            writer.keep_heads(&heads)?;
        }
        writer.end_full_segment()?;
        Ok(writer)
    }

    /// The last record that the log holds: as many as it has entries.
    pub fn position(&self) -> Sequence {
        self.frontier.size()
    }

    /// Up to which record a signed checkpoint stands for it.
    pub fn signed(&self) -> Sequence {
        self.checkpoints.newest().map_or(0, |checkpoint| checkpoint.size)
    }

    /// Adds the entries of records that come next; `owner` knows whose a key is.
    pub fn append(
        &mut self,
        batch: &[(Sequence, Record)],
        owner: &dyn Fn(Whose<'_>) -> Option<TenantId>,
    ) -> Result<(), AuditError> {
        if self.broken {
            return Err(AuditError::Broken);
        }
        let appended = self.add(batch, owner);
        self.broken = appended.is_err();
        appended
    }

    fn add(
        &mut self,
        batch: &[(Sequence, Record)],
        owner: &dyn Fn(Whose<'_>) -> Option<TenantId>,
    ) -> Result<(), AuditError> {
        for (sequence, record) in batch {
            let next = self.frontier.size() + 1;
            if *sequence != next {
                return Err(AuditError::OutOfOrder { given: *sequence, next });
            }
            let begins = self.lines.len();
            self.scribe.write(record, owner, &mut self.lines);
            let leaf = leaf_hash(&self.lines[begins..]);
            self.lines.push(b'\n');
            let fresh = &mut self.fresh_hashes;
            self.frontier.push(leaf, |hash| fresh.extend_from_slice(hash));
            if self.ahead.as_ref().is_some_and(|ahead| ahead.size == next)
                && let Some(ahead) = self.ahead.take()
            {
                compare(&self.dir, &ahead, self.frontier.root())?;
            }
            if self.lines.len() >= GATHERED_BYTES {
                self.write()?;
            }
            self.end_full_segment()?;
        }
        self.write()
    }

    /// Writes what was gathered: entries first, so that whoever sees a hash finds its entry.
    fn write(&mut self) -> Result<(), AuditError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let path = segments::path_of(&self.dir, self.first);
        let io = |source| io_at(&path, source);
        let mut file = match self.entries.take() {
            Some(file) => file,
            None => open_entries(&path).map_err(io)?,
        };
        fault::write("audit::entries-write", &self.lines, |bytes| file.write_all(bytes)).map_err(io)?;
        fault::write("audit::hashes-write", &self.fresh_hashes, |bytes| self.hashes.write_all(bytes)).map_err(io)?;
        fault::pass("audit::written").map_err(io)?;
        self.entries = Some(file);
        self.lines.clear();
        self.fresh_hashes.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), AuditError> {
        self.write()?;
        let synced = fault::pass("audit::log-sync")
            .and_then(|()| self.entries.as_ref().map_or(Ok(()), File::sync_data))
            .and_then(|()| self.hashes.sync_data())
            .and_then(|()| fault::pass("audit::log-synced"));
        synced.map_err(|source| io_at(&self.dir, source))
    }

    /// Ends the file at hand if it is full: all of it durable, then the heads after it.
    fn end_full_segment(&mut self) -> Result<(), AuditError> {
        let size = self.frontier.size();
        if size - self.first < self.segment_entries {
            return Ok(());
        }
        self.sync()?;
        self.keep_heads(self.scribe.heads())?;
        (self.entries, self.first) = (None, size);
        Ok(())
    }

    /// Keeps heads durably, if they are not kept yet, and no more of the older ones than are needed.
    fn keep_heads(&self, heads: &Heads) -> Result<(), AuditError> {
        let path = heads_path(&self.dir, heads.size);
        let note = self.signer.sign(&text_of_heads(self.signer.name(), heads));
        if fs::read(&path).is_ok_and(|kept| kept == note.as_bytes()) {
            return Ok(());
        }
        let kept = Prepared::write(&path, note.as_bytes(), fault::AUDIT).and_then(Prepared::confirm);
        kept.map_err(|source| io_at(&path, source))?;
        let all = heads_in(&self.dir)?;
        for older in &all[..all.len().saturating_sub(HEADS_KEPT)] {
            remove(&heads_path(&self.dir, *older))?;
        }
        Ok(())
    }

    /// Signs what there is, if there is more than was signed before.
    pub fn sign(&mut self) -> Result<(), AuditError> {
        if self.broken {
            return Err(AuditError::Broken);
        }
        let size = self.frontier.size();
        if size <= self.signed() || self.ahead.is_some() {
            return Ok(());
        }
        let signed = self.sign_at(size);
        self.broken = signed.is_err();
        signed
    }

    fn sign_at(&mut self, size: u64) -> Result<(), AuditError> {
        self.sync()?;
        let (origin, root) = (self.signer.name().to_owned(), self.frontier.root());
        let checkpoint = Checkpoint { origin, size, root };
        let note = self.signer.sign(&checkpoint.text());
        self.checkpoints.add(checkpoint, &note)?;
        self.checkpoints.thin()
    }
}

fn compare(dir: &Path, signed: &Checkpoint, root: Hash) -> Result<(), AuditError> {
    if root == signed.root {
        return Ok(());
    }
    let reason = format!("its first {} entries are not those that were signed", signed.size);
    Err(AuditError::Contradiction { path: dir.to_owned(), reason })
}

/// Reads the files as a crash, or somebody, left them.
struct Reading<'a> {
    dir: &'a Path,
    signer: &'a Signer,
    /// How many entries the newest checkpoint stands for.
    signed: u64,
    hashes: &'a Hashes,
}

/// What one line did to what was found.
enum Step {
    Taken,
    /// From here on nothing is whole.
    Torn,
    /// Its text is not kept, so what it says cannot be followed.
    Erased,
}

// === impl Reading ===

impl Reading<'_> {
    /// Begins at the newest heads that have all their entries and hashes, and goes on from there entry by entry, as far as they
    /// are signed.
    fn read(&self) -> Result<Found, AuditError> {
        let length = self.hashes.file.metadata().map_err(|source| io_at(&self.hashes.path, source))?.len();
        let held = tree::leaves_of(length / HASH_BYTES as u64);
        let hashed = held.min(self.signed);
        let firsts = segments::list(self.dir)?;
        let begins = self.begin(&firsts, hashed)?;
        let base = begins.size;
        let frontier = Frontier::read(base, |level, index| self.hashes.read(level, index))?;
        let start = || Found {
            heads: begins.clone(),
            frontier: frontier.clone(),
            first: base,
            bytes: 0,
            passed: Vec::new(),
            held,
        };
        let mut found = start();
        for first in firsts.into_iter().filter(|first| *first >= base) {
            if first != found.heads.size {
                // A file is missing in between: what comes after it is made again.
                break;
            }
            if first > base {
                found.passed.push(found.heads.clone());
                let more = found.passed.len().saturating_sub(HEADS_KEPT);
                found.passed.drain(..more);
            }
            (found.first, found.bytes) = (first, 0);
            match self.read_file(&mut found, hashed)? {
                Step::Taken => {}
                Step::Torn => break,
                Step::Erased => {
                    tracing::warn!(
                        from = base,
                        "the audit log's heads are gone: it is made again, what was erased included"
                    );
                    return Ok(start());
                }
            }
        }
        Ok(found)
    }

    fn begin(&self, firsts: &[u64], hashed: u64) -> Result<Heads, AuditError> {
        for size in heads_in(self.dir)?.into_iter().rev().filter(|size| *size <= hashed) {
            let before = firsts.iter().rev().find(|first| **first < size);
            let whole = match before {
                Some(first) => segments::last_number(&segments::path_of(self.dir, *first))? == Some(size - 1),
                None => false,
            };
            let path = heads_path(self.dir, size);
            let text = fs::read(&path).map_err(|source| io_at(&path, source))?;
            let heads = heads_of_note(&String::from_utf8_lossy(&text), Some(&self.signer.verifier()));
            match heads {
                Ok(heads) if whole && heads.size == size => return Ok(heads),
                Ok(_) => tracing::warn!(path = %path.display(), "heads of the audit log without their entries"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "heads of the audit log"),
            }
        }
        Ok(Heads::default())
    }

    fn read_file(&self, found: &mut Found, hashed: u64) -> Result<Step, AuditError> {
        let path = segments::path_of(self.dir, found.first);
        let io = |source| io_at(&path, source);
        let mut file = BufReader::with_capacity(256 * 1024, File::open(&path).map_err(io)?);
        let mut stored = BufReader::with_capacity(256 * 1024, self.stored_from(found.first)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            (&mut file).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).map_err(io)?;
            let Some(whole) = line.strip_suffix(b"\n") else {
                return Ok(if line.is_empty() { Step::Taken } else { Step::Torn });
            };
            if found.heads.size >= hashed {
                return Ok(Step::Torn);
            }
            match self.read_line(found, whole, &mut stored)? {
                Step::Taken => found.bytes += line.len() as u64,
                other => return Ok(other),
            }
        }
    }

    fn stored_from(&self, first: u64) -> Result<File, AuditError> {
        use std::io::{Seek, SeekFrom};
        let io = |source| io_at(&self.hashes.path, source);
        let mut file = File::open(&self.hashes.path).map_err(io)?;
        file.seek(SeekFrom::Start(tree::stored_count(first) * HASH_BYTES as u64)).map_err(io)?;
        Ok(file)
    }

    /// Follows one whole line that was signed. One that is not what its hash says was not left so by a crash.
    fn read_line(&self, found: &mut Found, line: &[u8], stored: &mut impl Read) -> Result<Step, AuditError> {
        let n = found.heads.size;
        let wrong = |reason: String| {
            let path = segments::path_of(self.dir, found.first);
            Err(AuditError::Contradiction { path, reason: format!("entry {n}: {reason}") })
        };
        let told = match Told::parse(line) {
            Ok(told) if told.erased.is_some() => return Ok(Step::Erased),
            Ok(told) => told,
            Err(strange) => return wrong(strange.to_string()),
        };
        let mut frontier = found.frontier.clone();
        let mut hashes: Vec<Hash> = Vec::new();
        frontier.push(leaf_hash(line), |hash| hashes.push(*hash));
        let mut there = vec![0; hashes.len() * HASH_BYTES];
        stored.read_exact(&mut there).map_err(|source| io_at(&self.hashes.path, source))?;
        if there != hashes.concat() {
            return wrong("it is not what it was: its hash is not the stored one".to_owned());
        }
        if let Err(strange) = found.heads.follow(&told) {
            return wrong(strange.to_string());
        }
        found.frontier = frontier;
        Ok(Step::Taken)
    }
}

/// Removes what comes after the first `size` entries, the last of which are in the file that begins with `first`.
fn cut(dir: &Path, hashes: &Hashes, size: u64, first: u64, bytes: u64) -> Result<(), AuditError> {
    for later in heads_in(dir)?.into_iter().filter(|heads| *heads > size) {
        remove(&heads_path(dir, later))?;
    }
    for segment in segments::list(dir)? {
        let path = segments::path_of(dir, segment);
        if segment > first || (segment == first && bytes == 0) {
            remove(&path)?;
        } else if segment == first {
            shorten(&open_entries(&path).map_err(|source| io_at(&path, source))?, bytes)
                .map_err(|source| io_at(&path, source))?;
        }
    }
    shorten(&hashes.file, tree::stored_count(size) * HASH_BYTES as u64).map_err(|source| io_at(&hashes.path, source))
}

fn shorten(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
fn remove(path: &Path) -> Result<(), AuditError> {
    fs::remove_file(path).map_err(|source| io_at(path, source))
}

/// Opens a file of entries to add to it; its name is durable.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
fn open_entries(path: &Path) -> io::Result<File> {
    let fresh = !path.try_exists()?;
    fault::pass("audit::entries-open")?;
    let file = File::options().read(true).append(true).create(true).mode(0o600).open(path)?;
    if fresh {
        path.parent().map_or(Ok(()), sync_dir)?;
    }
    Ok(file)
}

#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
fn open_hashes(path: &Path) -> Result<Hashes, AuditError> {
    let io = |source| io_at(path, source);
    let fresh = !path.try_exists().map_err(io)?;
    let file = File::options().read(true).append(true).create(true).mode(0o600).open(path).map_err(io)?;
    if fresh {
        path.parent().map_or(Ok(()), sync_dir).map_err(io)?;
    }
    Ok(Hashes { path: path.to_owned(), file })
}
