//! Erases the texts of entries that are older than somebody may keep them. What remains of one is where it stood and its hash: the
//! tree, all its roots and all proofs of other entries stay as they are.
//!
//! Whose an erased entry was is not in its hash. So that nobody can pass off what he took out as erased, only a beginning of a
//! tenant's entries is ever erased, and none that is no tenant's: whatever else is erased is found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use tollgate_audit::heads::Told;
use tollgate_types::{TenantId, Timestamp};

use super::reader::Hashes;
use super::{AuditError, HASHES, heads_in, io_at, segments};
use crate::store::{Layout, write_atomically};

/// What was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    pub entries: u64,
    /// Files of entries that were written anew.
    pub files: u64,
}

/// How far a tenant's entries are erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upto {
    /// All up to this one.
    Erased(u64),
    /// One has its text, so all that come later keep theirs.
    Kept,
}

/// A retention under way, from the first entry on.
struct Retention<'a, C> {
    cutoff: C,
    hashes: &'a Hashes,
    tenants: BTreeMap<TenantId, Upto>,
    /// What was wrong with entries, the first of them, and how often.
    damage: Option<String>,
    damaged: u64,
}

/// Erases what is older than `cutoff` says for its tenant; `None` of it keeps all. Of a tenant's entries none is erased after one
/// that is not, and those that are no tenant's are kept for ever. Only in files that nothing is added to any more, each of which is
/// either the old one or the new one, whatever happens. One at a time.
///
/// What is damaged keeps its text, and so does what its tenant has later; the rest is erased. The error comes at the end.
pub fn retain(layout: &Layout, cutoff: impl Fn(Option<&TenantId>) -> Option<Timestamp>) -> Result<Erased, AuditError> {
    let dir = &layout.audit;
    let sealed = heads_in(dir)?.last().copied().unwrap_or(0);
    let firsts = segments::list(dir)?;
    let hashes = dir.join(HASHES);
    if sealed == 0 {
        return Ok(Erased::default());
    }
    let file = File::open(&hashes).map_err(|source| io_at(&hashes, source))?;
    let hashes = Hashes { path: hashes, file };
    let mut retention = Retention { cutoff, hashes: &hashes, tenants: BTreeMap::new(), damage: None, damaged: 0 };
    let mut erased = Erased::default();
    // A file is done when the next one has begun, or will begin where heads are kept.
    let nexts = firsts.iter().skip(1).copied().chain([sealed]);
    for (first, next) in firsts.iter().copied().zip(nexts) {
        if first >= sealed || next > sealed {
            continue;
        }
        let path = segments::path_of(dir, first);
        let before = retention.tenants.clone();
        match retention.file(&path) {
            Ok(0) => {}
            Ok(count) => erased = Erased { entries: erased.entries + count, files: erased.files + 1 },
            Err(error) => {
                retention.tenants = before;
                retention.damaged(error.to_string());
            }
        }
    }
    match retention.damage {
        None => Ok(erased),
        Some(first) => Err(AuditError::NotErased { first, damaged: retention.damaged, erased }),
    }
}

// === impl Retention ===

impl<C: Fn(Option<&TenantId>) -> Option<Timestamp>> Retention<'_, C> {
    /// Goes through a file, and writes it anew if something in it was due; how many.
    fn file(&mut self, path: &Path) -> Result<u64, AuditError> {
        let content = fs::read(path).map_err(|source| io_at(path, source))?;
        let (mut fewer, mut count) = (Vec::with_capacity(content.len()), 0);
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            match self.line(line)? {
                Ok(None) => fewer.extend_from_slice(line),
                Ok(Some(stub)) => {
                    fewer.extend_from_slice(stub.as_bytes());
                    fewer.push(b'\n');
                    count += 1;
                }
                Err(reason) => {
                    self.damaged(format!("{}: {reason}", path.display()));
                    fewer.extend_from_slice(line);
                }
            }
        }
        if count > 0 {
            write_atomically(path, &fewer).map_err(|source| io_at(path, source))?;
        }
        Ok(count)
    }

    /// What is to stand for a line, if its text is to go. Inner errors are of the line alone.
    fn line(&mut self, line: &[u8]) -> Result<Result<Option<String>, String>, AuditError> {
        let Some(whole) = line.strip_suffix(b"\n") else { return Ok(Err("its last line is cut short".to_owned())) };
        let told = match Told::parse(whole) {
            Ok(told) => told,
            Err(strange) => return Ok(Err(strange.to_string())),
        };
        let Some(tenant) = told.tenant.as_deref() else { return Ok(Ok(None)) };
        let Ok(tenant) = tenant.parse::<TenantId>() else {
            return Ok(Err(format!("entry {} has a strange tenant", told.n)));
        };
        // An entry says which one was before it. So one that cannot be read, or is not there, is noticed, too.
        let follows = match (self.tenants.get(&tenant), told.prev) {
            (None, None) => true,
            (Some(Upto::Erased(last)), Some(prev)) => *last == prev,
            _ => false,
        };
        if told.erased.is_some() {
            let kept = self.tenants.get(&tenant) == Some(&Upto::Kept);
            self.tenants.insert(tenant, if kept { Upto::Kept } else { Upto::Erased(told.n) });
            return Ok(Ok(None));
        }
        let due = if follows { self.is_due(&told, &tenant) } else { Ok(false) };
        if due != Ok(true) {
            self.tenants.insert(tenant, Upto::Kept);
            return Ok(due.map(|_| None));
        }
        let leaf = self.hashes.read(0, told.n)?;
        // Once the text is gone nobody can tell any more that it was changed.
        if told.leaf(whole) != Some(leaf) {
            self.tenants.insert(tenant, Upto::Kept);
            return Ok(Err(format!("entry {} is not what it was", told.n)));
        }
        self.tenants.insert(tenant, Upto::Erased(told.n));
        Ok(Ok(Some(told.stub(&leaf))))
    }

    fn is_due(&self, told: &Told<'_>, tenant: &TenantId) -> Result<bool, String> {
        let at = told.at.as_deref().and_then(Timestamp::parse_rfc3339);
        let at = at.ok_or_else(|| format!("entry {} has a strange time", told.n))?;
        Ok((self.cutoff)(Some(tenant)).is_some_and(|cutoff| at < cutoff))
    }

    fn damaged(&mut self, what: String) {
        self.damaged += 1;
        self.damage.get_or_insert(what);
    }
}
