//! Reads the log beside its writer, or from a copy of its folder. What it gives out is what the files say: whether they are what
//! was signed, [`verify`](super::verify) tells.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tollgate_audit::heads::Told;
use tollgate_audit::note::Checkpoint;
use tollgate_audit::tree::{self, HASH_BYTES, Hash};
use tollgate_audit::verify::{LINE_BYTES_MAX, heads_of_note};
use tollgate_audit::view;
use tollgate_types::TenantId;

use super::{AuditError, CHECKPOINTS, HASHES, checkpoints, heads_path, io_at, segments};
use crate::store::Layout;

/// A tenant with fewer entries than this is exported entry by entry; for one with more, the whole log is read through.
const CHAIN_MAX: usize = 20_000;

/// So many files are read through, the newest first, for a tenant's last entry, where no heads say which it is: one answer reads a
/// bounded amount.
const SOUGHT_FILES_MAX: usize = 4;

/// A tenant's last entry, as far as it was sought.
enum Last {
    Is(u64),
    None,
    /// It is not in the files that were read.
    GivenUp,
}

/// Cheap to make and to clone: it opens files as it needs them.
#[derive(Clone, Debug)]
pub struct AuditReader {
    dir: PathBuf,
}

// === impl AuditReader ===

impl AuditReader {
    /// Of a store, whether it is open or not.
    pub fn open(layout: &Layout) -> Self {
        Self::of(layout.audit.clone())
    }

    /// Of a folder of a log alone, such as a copy.
    pub fn of(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// How many entries are whole.
    pub fn size(&self) -> Result<u64, AuditError> {
        let path = self.dir.join(HASHES);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(tree::leaves_of(metadata.len() / HASH_BYTES as u64)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(io_at(&path, source)),
        }
    }

    /// The line of an entry.
    pub fn entry(&self, n: u64) -> Result<Option<String>, AuditError> {
        self.entry_in(&segments::list(&self.dir)?, n)
    }

    /// The same, where it is known with which entries the files begin.
    fn entry_in(&self, firsts: &[u64], n: u64) -> Result<Option<String>, AuditError> {
        let Some(first) = firsts.iter().rev().find(|first| **first <= n) else { return Ok(None) };
        let line = segments::line_of(&segments::path_of(&self.dir, *first), n)?;
        Ok(line.and_then(|line| String::from_utf8(line).ok()))
    }

    /// The newest entries, or a tenant's, the newest first; those before entry `before` only. A tenant's are found by following
    /// what each says of the one before it. Where its last one is not in the newest files before `before`, and no heads say which it
    /// is, none is given.
    pub fn newest(
        &self,
        tenant: Option<&TenantId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<String>, AuditError> {
        let before = before.unwrap_or(u64::MAX).min(self.size()?);
        let firsts = segments::list(&self.dir)?;
        let mut next = match tenant.map(|tenant| self.last_of(tenant, before, &firsts)).transpose()? {
            Some(Last::Is(n)) => Some(n),
            Some(Last::None | Last::GivenUp) => None,
            None => before.checked_sub(1),
        };
        let mut lines = Vec::new();
        while let Some(n) = next.filter(|_| lines.len() < limit) {
            let Some(line) = self.entry_in(&firsts, n)? else { break };
            next = match tenant {
                Some(_) => self.told(&line)?.prev.filter(|previous| *previous < n),
                None => n.checked_sub(1),
            };
            lines.push(line);
        }
        Ok(lines)
    }

    /// A tenant's last entry before one.
    fn last_of(&self, tenant: &TenantId, before: u64, firsts: &[u64]) -> Result<Last, AuditError> {
        // A page goes on where the one before it ended: at an entry of the tenant's.
        if let Some(line) = self.entry_in(firsts, before)? {
            let told = self.told(&line)?;
            if told.tenant.as_deref() == Some(tenant.as_str()) {
                return Ok(Last::of(told.prev));
            }
        }
        let mark = segments::mark_of(tenant);
        for (read, first) in firsts.iter().copied().rev().filter(|first| *first < before).enumerate() {
            if read == SOUGHT_FILES_MAX {
                return Ok(Last::GivenUp);
            }
            if let Some(n) = segments::last_with(&segments::path_of(&self.dir, first), &mark, before)? {
                return Ok(Last::Is(n));
            }
            let heads = fs::read_to_string(heads_path(&self.dir, first)).ok();
            if let Some(heads) = heads.and_then(|text| heads_of_note(&text, None).ok()) {
                return Ok(Last::of(heads.previous(tenant)));
            }
        }
        Ok(Last::None)
    }

    /// The newest signed checkpoint, as a note.
    pub fn checkpoint(&self) -> Result<Option<String>, AuditError> {
        checkpoints::newest_in(&self.dir.join(CHECKPOINTS))
    }

    /// The path from entry `n` to the root of the first `size` entries. `None`: there are not so many.
    pub fn inclusion(&self, n: u64, size: u64) -> Result<Option<Vec<Hash>>, AuditError> {
        if n >= size || size > self.size()? {
            return Ok(None);
        }
        let hashes = self.hashes()?;
        tree::inclusion(n, size, |level, index| hashes.read(level, index)).map(Some)
    }

    /// What shows that the log of `old` entries is the beginning of the one of `new`. `None`: there are not so many.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Option<Vec<Hash>>, AuditError> {
        if old > new || new > self.size()? {
            return Ok(None);
        }
        let hashes = self.hashes()?;
        tree::consistency(old, new, |level, index| hashes.read(level, index)).map(Some)
    }

    /// The root of the first `size` entries. `None`: there are not so many.
    pub fn root(&self, size: u64) -> Result<Option<Hash>, AuditError> {
        if size > self.size()? {
            return Ok(None);
        }
        let hashes = self.hashes()?;
        tree::Frontier::read(size, |level, index| hashes.read(level, index)).map(|frontier| Some(frontier.root()))
    }

    /// Gives every entry, or every one of a tenant's, from the first on, of those that were whole when it began; how many.
    pub fn for_each(
        &self,
        tenant: Option<&TenantId>,
        mut each: impl FnMut(u64, &str) -> io::Result<()>,
    ) -> Result<u64, AuditError> {
        self.for_each_before(self.size()?, tenant, &mut each)
    }

    fn for_each_before(
        &self,
        size: u64,
        tenant: Option<&TenantId>,
        each: &mut impl FnMut(u64, &str) -> io::Result<()>,
    ) -> Result<u64, AuditError> {
        if let Some(few) = tenant.map(|tenant| self.few_of(tenant, size)).transpose()?.flatten() {
            let firsts = segments::list(&self.dir)?;
            for n in few.iter().rev() {
                let line = self.entry_in(&firsts, *n)?.unwrap_or_default();
                each(*n, &line).map_err(|source| io_at(&self.dir, source))?;
            }
            return Ok(few.len() as u64);
        }
        let mark = tenant.map(segments::mark_of);
        let mut count = 0;
        for first in segments::list(&self.dir)? {
            let path = segments::path_of(&self.dir, first);
            let io = |source| io_at(&path, source);
            let mut file = BufReader::with_capacity(256 * 1024, File::open(&path).map_err(io)?);
            let mut line = String::new();
            loop {
                line.clear();
                (&mut file).take(LINE_BYTES_MAX as u64).read_line(&mut line).map_err(io)?;
                let (Some(whole), Some(n)) = (line.strip_suffix('\n'), segments::number_of(line.as_bytes())) else {
                    break;
                };
                if n >= size {
                    return Ok(count);
                }
                if mark.as_ref().is_none_or(|mark| whole.contains(mark)) {
                    each(n, whole).map_err(io)?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    /// A tenant's entries, the last first; `None`, if there are many, or it would take long to find the last.
    fn few_of(&self, tenant: &TenantId, size: u64) -> Result<Option<Vec<u64>>, AuditError> {
        let firsts = segments::list(&self.dir)?;
        let mut next = match self.last_of(tenant, size, &firsts)? {
            Last::Is(n) => Some(n),
            Last::None => None,
            Last::GivenUp => return Ok(None),
        };
        let mut all = Vec::new();
        while let Some(n) = next {
            if all.len() >= CHAIN_MAX {
                return Ok(None);
            }
            all.push(n);
            let line = self.entry_in(&firsts, n)?.unwrap_or_default();
            next = self.told(&line)?.prev.filter(|previous| *previous < n);
        }
        Ok(Some(all))
    }

    /// Writes every entry, or every one of a tenant's, a line each; how many.
    pub fn export(&self, tenant: Option<&TenantId>, mut out: impl Write) -> Result<u64, AuditError> {
        self.for_each(tenant, |_, line| {
            out.write_all(line.as_bytes())?;
            out.write_all(b"\n")
        })
    }

    /// Writes what a tenant needs to verify its own entries: the newest checkpoint, and each entry with its path. `None`: nothing
    /// was signed yet.
    pub fn view(&self, tenant: &TenantId, mut out: impl Write) -> Result<Option<u64>, AuditError> {
        let Some(note) = self.checkpoint()? else { return Ok(None) };
        let checkpoint = Checkpoint::of_note(&note).map_err(|reason| AuditError::Contradiction {
            path: self.dir.join(CHECKPOINTS),
            reason: reason.to_string(),
        })?;
        view::write_checkpoint(&note, &mut out).map_err(|source| io_at(&self.dir, source))?;
        let hashes = self.hashes()?;
        let count = self.for_each_before(checkpoint.size, Some(tenant), &mut |n, line| {
            let path = tree::inclusion(n, checkpoint.size, |level, index| hashes.read(level, index));
            view::write_entry(line, &path.map_err(io::Error::other)?, &mut out)
        })?;
        Ok(Some(count))
    }

    fn told<'a>(&self, line: &'a str) -> Result<Told<'a>, AuditError> {
        Told::parse(line.as_bytes())
            .map_err(|strange| AuditError::Contradiction { path: self.dir.clone(), reason: strange.to_string() })
    }

    fn hashes(&self) -> Result<Hashes, AuditError> {
        let path = self.dir.join(HASHES);
        let file = File::open(&path).map_err(|source| io_at(&path, source))?;
        Ok(Hashes { path, file })
    }
}

// === impl Last ===

impl Last {
    fn of(n: Option<u64>) -> Self {
        n.map_or(Self::None, Self::Is)
    }
}

/// The stored hashes, read one by one.
#[derive(Debug)]
pub(super) struct Hashes {
    pub path: PathBuf,
    pub file: File,
}

// === impl Hashes ===

impl Hashes {
    pub fn read(&self, level: u8, index: u64) -> Result<Hash, AuditError> {
        let mut hash = [0; HASH_BYTES];
        let at = tree::stored_index(level, index) * HASH_BYTES as u64;
        self.file.read_exact_at(&mut hash, at).map_err(|source| io_at(&self.path, source))?;
        Ok(hash)
    }
}
