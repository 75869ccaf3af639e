//! Erases the texts of entries that are older than somebody may keep them. What remains of one is where it stood and its hash: the
//! tree, all its roots and all proofs of other entries stay as they are.

use std::fs::{self, File};

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

/// Erases what is older than `cutoff` says for its tenant; `None` of it keeps all. Only in files that nothing is added to any
/// more, each of which is either the old one or the new one, whatever happens. One at a time.
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
    let mut erased = Erased::default();
    // A file is done when the next one has begun, or will begin where heads are kept.
    let nexts = firsts.iter().skip(1).copied().chain([sealed]);
    for (first, next) in firsts.iter().copied().zip(nexts) {
        if first >= sealed || next > sealed {
            continue;
        }
        let path = segments::path_of(dir, first);
        let content = fs::read(&path).map_err(|source| io_at(&path, source))?;
        let strange = |reason: String| AuditError::Contradiction { path: path.clone(), reason };
        let (mut fewer, mut count) = (Vec::with_capacity(content.len()), 0);
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let whole = line.strip_suffix(b"\n").ok_or_else(|| strange("its last line is cut short".to_owned()))?;
            let told = Told::parse(whole).map_err(|error| strange(error.to_string()))?;
            if !is_due(&told, &cutoff).map_err(strange)? {
                fewer.extend_from_slice(line);
                continue;
            }
            let leaf = hashes.read(0, told.n)?;
            // Once the text is gone nobody can tell any more that it was changed.
            if told.leaf(whole) != Some(leaf) {
                return Err(strange(format!("entry {} is not what it was", told.n)));
            }
            fewer.extend_from_slice(told.stub(&leaf).as_bytes());
            fewer.push(b'\n');
            count += 1;
        }
        if count > 0 {
            write_atomically(&path, &fewer).map_err(|source| io_at(&path, source))?;
            erased = Erased { entries: erased.entries + count, files: erased.files + 1 };
        }
    }
    Ok(erased)
}

fn is_due(told: &Told<'_>, cutoff: impl Fn(Option<&TenantId>) -> Option<Timestamp>) -> Result<bool, String> {
    let Some(at) = told.at.as_deref() else { return Ok(false) };
    let at = Timestamp::parse_rfc3339(at).ok_or_else(|| format!("entry {} has a strange time", told.n))?;
    let tenant = told.tenant.as_deref().map(str::parse::<TenantId>).transpose();
    let tenant = tenant.map_err(|_| format!("entry {} has a strange tenant", told.n))?;
    Ok(cutoff(tenant.as_ref()).is_some_and(|cutoff| at < cutoff))
}
