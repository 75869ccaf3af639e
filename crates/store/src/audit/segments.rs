//! The files of entries: which there are, and how one entry, or a tenant's last one, is found in them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tollgate_audit::verify::LINE_BYTES_MAX;

use super::{AuditError, io_at, numbered};

const PREFIX: &str = "entries-";
const SUFFIX: &str = "jsonl";
/// What every line begins with; its number follows.
const LINE_HEAD: &[u8] = br#"{"n":"#;
/// Where an entry is sought among so many bytes, they are read through.
const NEAR_BYTES: u64 = 16 * 1024;
/// So much is read to find where the next line begins, at first.
const LOOK_BYTES: usize = 2 * 1024;

pub fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{first:020}.{SUFFIX}"))
}

/// With which entries the files begin, ascending.
pub fn list(dir: &Path) -> Result<Vec<u64>, AuditError> {
    numbered(dir, PREFIX, SUFFIX)
}

/// The line of entry `n` in the file that would hold it, without its end. Bisects: a step is a read of some bytes.
pub fn line_of(path: &Path, n: u64) -> Result<Option<Vec<u8>>, AuditError> {
    let io = |source| io_at(path, source);
    let file = File::open(path).map_err(io)?;
    // The line begins from `low` on and before `high`.
    let (mut low, mut high) = (0, file.metadata().map_err(io)?.len());
    while high - low > NEAR_BYTES {
        let middle = low + (high - low) / 2;
        match line_after(&file, middle, high).map_err(io)? {
            Some((begins, number)) if number <= n => low = begins,
            _ => high = middle,
        }
    }
    let mut near = vec![0; usize::try_from(high - low).unwrap_or(0) + LINE_BYTES_MAX];
    let read = read_at(&file, &mut near, low).map_err(io)?;
    let mut lines = near[..read].split_inclusive(|byte| *byte == b'\n');
    let found = lines.find(|line| number_of(line) == Some(n)).and_then(|line| line.strip_suffix(b"\n"));
    Ok(found.map(<[u8]>::to_vec))
}

/// Where the first line begins that does so after `from` and before `end`, and its number.
fn line_after(file: &File, from: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let mut bytes = vec![0; LOOK_BYTES];
    loop {
        let read = read_at(file, &mut bytes, from)?;
        let begins = bytes[..read].iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let found = begins.and_then(|at| Some((from + at as u64, number_of(&bytes[at..read])?)));
        if let Some((at, number)) = found {
            return Ok((at < end).then_some((at, number)));
        }
        if read < bytes.len() || bytes.len() > 2 * LINE_BYTES_MAX {
            return Ok(None);
        }
        bytes.resize(bytes.len() * 4, 0);
    }
}

/// The number that a line begins with, if all of it is there.
pub fn number_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(LINE_HEAD)?;
    let end = rest.iter().position(|byte| *byte == b',')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// The number of the last whole line.
pub fn last_number(path: &Path) -> Result<Option<u64>, AuditError> {
    let io = |source| io_at(path, source);
    let file = File::open(path).map_err(io)?;
    let end = file.metadata().map_err(io)?.len();
    let from = end.saturating_sub(LINE_BYTES_MAX as u64 + 1);
    let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(0)];
    let read = read_at(&file, &mut bytes, from).map_err(io)?;
    let Some(whole) = bytes[..read].strip_suffix(b"\n") else { return Ok(None) };
    Ok(number_of(whole.rsplit(|byte| *byte == b'\n').next().unwrap_or(whole)))
}

/// The last entry in a file that has `mark` in its line and comes before `before`.
pub fn last_with(path: &Path, mark: &str, before: u64) -> Result<Option<u64>, AuditError> {
    let bytes = fs::read(path).map_err(|source| io_at(path, source))?;
    // A line that is being written may end in the middle of a letter.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut text = std::str::from_utf8(&bytes[..whole]).unwrap_or_default();
    while let Some(found) = text.rfind(mark) {
        let begins = text[..found].rfind('\n').map_or(0, |at| at + 1);
        match number_of(&text.as_bytes()[begins..]) {
            Some(n) if n < before => return Ok(Some(n)),
            _ => text = &text[..begins],
        }
    }
    Ok(None)
}

/// What a line of a tenant's has in it, and no text in any line can have: quotes in texts are escaped.
pub fn mark_of(tenant: &tollgate_types::TenantId) -> String {
    format!(r#","tenant":"{tenant}","#)
}
