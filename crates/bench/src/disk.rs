//! How long this disk takes to make 512 bytes durable: the yardstick beside every latency of a gateway that does so.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;

use crate::clock;
use crate::latency::Latencies;

const RECORD_BYTES: usize = 512;
const FILE_BYTES: u64 = 16 << 20;

/// Appends 512-byte records to a preallocated file in `dir` for the given time, an fdatasync after each. Blocks.
pub fn fdatasync_latencies(dir: &Path, during: Duration) -> Result<Latencies> {
    let file = tempfile::tempfile_in(dir).with_context(|| format!("cannot make a file in {}", dir.display()))?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).context("cannot preallocate")?;
    let record = [0x5A; RECORD_BYTES];
    let places = FILE_BYTES / RECORD_BYTES as u64;
    let mut latencies = Latencies::default();
    let start = clock::now();
    while clock::since(start) < during {
        let place = latencies.count() % places;
        file.write_all_at(&record, place * RECORD_BYTES as u64).context("cannot write")?;
        let before = clock::now();
        file.sync_data().context("fdatasync failed")?;
        latencies.record(clock::since(before));
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_something_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let latencies = fdatasync_latencies(dir.path(), Duration::from_millis(20)).unwrap();
        assert!(latencies.count() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
