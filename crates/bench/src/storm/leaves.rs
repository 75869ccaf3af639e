//! The audit log after a storm: every reservation of the ledger is a leaf of it, once, and there are no others; and its files are
//! what was signed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::report::progress;
use crate::stage::Stage;

use super::truth::{RequestId, read_id};

/// What the log says that a request begins with.
const ADMITTED: &str = "request.admitted";

/// The leaves beside the ledger's reservations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Requests that the log says were admitted.
    pub admitted: u64,
    /// Requests in one of the two and not in the other, or twice in the log, or answered and not in it.
    pub differing: u64,
    /// Why the files are not what was signed, if they are not.
    pub fault: Option<String>,
    pub first: Option<String>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    kind: Option<&'a str>,
    #[serde(borrow)]
    request: Option<&'a str>,
}

/// Compares the log of a gateway that has stopped with the ledger's reservations and with what callers were answered.
pub fn compare(stage: &Stage, reservations: HashSet<RequestId>, answered: &HashSet<RequestId>) -> Result<Leaves> {
    let dir = stage.store().join("audit");
    let mut leaves = Leaves::of(&dir, reservations, answered).context("reading the audit log")?;
    let arguments = ["audit", "verify", "--json", "--dir"].map(OsStr::new);
    let output = stage.tollgate_says(&[&arguments[..], &[dir.as_os_str()]].concat())?;
    if !output.status.success() {
        leaves.fault = Some(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout).trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    progress(&format!("the audit log: {} requests admitted, {} differing", leaves.admitted, leaves.differing));
    Ok(leaves)
}

// === impl Leaves ===

impl Leaves {
    fn of(dir: &Path, reservations: HashSet<RequestId>, answered: &HashSet<RequestId>) -> Result<Self> {
        let mut leaves = Self::default();
        let (mut missing, mut found) = (reservations, HashSet::new());
        for file in files(dir)? {
            let file = File::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
            for line in BufReader::new(file).lines() {
                let line = line?;
                let entry: Entry<'_> =
                    serde_json::from_str(&line).with_context(|| format!("an entry is not as expected: {line}"))?;
                let (Some(ADMITTED), Some(request)) = (entry.kind, entry.request) else { continue };
                leaves.admitted += 1;
                let id = read_id(request);
                if !found.insert(id) || !missing.remove(&id) {
                    leaves.differs(format!("{request} is in the log and not, or once, in the ledger"));
                }
            }
        }
        for id in missing {
            leaves.differs(format!("req_{id:032x} is in the ledger and not in the log"));
        }
        for id in answered.difference(&found) {
            leaves.differs(format!("req_{id:032x} was answered and is not in the log"));
        }
        Ok(leaves)
    }

    fn differs(&mut self, what: String) {
        self.differing += 1;
        self.first.get_or_insert(what);
    }
}

/// The files of entries, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(dir).with_context(|| format!("there is no audit log in {}", dir.display()))?;
    let mut files = listed.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test makes the log that it reads")]
    fn what_is_in_one_and_not_in_the_other_or_twice_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let admitted = |id: u32| format!("{{\"n\":0,\"kind\":\"request.admitted\",\"request\":\"req_{id:032x}\"}}\n");
        let others = "{\"n\":1,\"tenant\":\"t\",\"erased\":\"x\"}\n{\"n\":2,\"kind\":\"request.posted\",\"request\":\"req_0\"}\n";
        std::fs::write(dir.path().join("entries-0.jsonl"), admitted(1) + others).unwrap();
        std::fs::write(dir.path().join("entries-9.jsonl"), admitted(2)).unwrap();
        std::fs::write(dir.path().join("hashes"), "no lines").unwrap();
        let of = |ledger: &[RequestId], answered: &[RequestId]| {
            let answered = answered.iter().copied().collect();
            Leaves::of(dir.path(), ledger.iter().copied().collect(), &answered).unwrap()
        };
        assert_eq!(of(&[1, 2], &[1]), Leaves { admitted: 2, ..Leaves::default() });
        assert_eq!(of(&[1, 2, 3], &[]).differing, 1, "3 is not in the log");
        assert_eq!(of(&[1], &[]).differing, 1, "2 is in the log alone");
        assert_eq!(of(&[1, 2], &[4]).differing, 1, "4 was answered");
        std::fs::write(dir.path().join("entries-9.jsonl"), admitted(2) + &admitted(2)).unwrap();
        assert_eq!(of(&[1, 2], &[]).differing, 1, "2 is there twice");
    }
}
