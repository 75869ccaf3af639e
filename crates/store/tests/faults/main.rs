//! The store while its disk fails: at every point between two writes, with every error, torn, slow, full, and with bits
//! that flip. What was acknowledged is there afterwards; what was not is whole or absent; nothing is accepted silently.
//!
//! Points are the process's: each test arms, if only to have the others wait, or it would run into theirs.
//!
//! - [`audit`]: the audit log's, by kills. - [`commit`]: the journal's own writes. - [`places`]: every other place. - [`damage`]: files that are not what was written.

#![expect(clippy::disallowed_methods, reason = "these tests do to a store's files what crashes and disks do")]

mod audit;
#[path = "../books/mod.rs"]
mod books;
mod commit;
mod damage;
mod places;

use std::fs;
use std::path::{Path, PathBuf};

use tollgate_store::journal::segment;
use tollgate_store::store::Layout;
use tollgate_store::verify::{Report, verify};
use tollgate_types::PicoSum;

/// Pseudo-random numbers from a seed (xorshift): a failure names its seed by the place it stands at.
struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).expect("below a usize")
    }
}

/// Whether `make failpoints` wants it all.
fn all() -> bool {
    std::env::var_os("TOLLGATE_FAILPOINTS").is_some_and(|wanted| wanted == "all")
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let journal = Layout::of(dir).journal;
    segment::list(&journal).expect("segments").into_iter().map(|index| segment::path_of(&journal, index)).collect()
}

fn last_segment(dir: &Path) -> PathBuf {
    segments(dir).pop().expect("there is one")
}

/// Where the last whole frame ends.
fn end_of_last_segment(dir: &Path) -> usize {
    let journal = Layout::of(dir).journal;
    let last = *segment::list(&journal).expect("segments").last().expect("there is one");
    segment::read(&journal, last, true, |_| Ok(())).expect("readable").1.offset
}

/// Everything agrees, in files that nobody has open.
fn agree(dir: &Path) -> Report {
    let report = verify(dir, |_, _| ()).expect("readable");
    let audited = tollgate_store::audit::verify(&Layout::of(dir).audit, None, None).expect("an audit log in order");
    assert_eq!((audited.size, audited.signed), (report.records, report.records), "each record is an entry, and signed");
    assert_eq!((report.drift, &report.disagreements), (PicoSum(0), &vec![]));
    report
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let there = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &there) } else { assert!(fs::copy(&path, &there).is_ok()) }
    }
}
