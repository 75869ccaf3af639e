//! The store's folder: whether it can be written, who has it open, how much room it has, and how long a sync takes.
//! The probe writes a file without a name, which is gone with its handle: nothing is left and nothing is overwritten.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Access, FlockOperation, Mode, OFlags};
use tollgate_store::store::Layout;
use tollgate_types::Timestamp;
use tollgate_types::clock::Stopwatch;

use super::Finding;

/// Enough for a median and a bad one, and over within a second on any disk that serves.
const PROBES: usize = 32;
/// One frame of a quiet journal.
const PROBE_BYTES: usize = 4096;
/// Every answer waits for two syncs at least; above this they are what callers feel.
const SLOW: Duration = Duration::from_millis(10);

pub fn examine(dir: &Path, segment_bytes: u64) -> Vec<Finding> {
    if !dir.exists() {
        return vec![unmade(dir)];
    }
    let mut findings = vec![writable(dir), lock(dir)];
    findings.extend(room(dir, segment_bytes));
    findings.push(match probe(dir) {
        Ok(times) => sync_time(times),
        Err(error) => Finding::warn(
            "disk",
            format!("a sync could not be timed: {error}"),
            "look at the file system of [store] dir",
        ),
    });
    findings
}

/// When anything in the store was last written, if it can be told.
pub fn newest_write(dir: &Path) -> Option<Timestamp> {
    let layout = Layout::of(dir);
    let entries = fs::read_dir(layout.journal).ok()?.flatten();
    let written = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    written.max().map(|since_epoch| Timestamp::default().plus(since_epoch))
}

/// A store that is not there yet is made at the first start, if its parent lets us.
fn unmade(dir: &Path) -> Finding {
    let parent = dir.ancestors().skip(1).find(|parent| parent.as_os_str().is_empty() || parent.exists());
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable = rustix::fs::access(parent, Access::WRITE_OK | Access::EXEC_OK);
    match writable.map_err(|error| error.to_string()) {
        Ok(()) if parent.is_dir() => {
            Finding::ok("store", format!("{} is not there yet; the first start makes it", dir.display()))
        }
        cannot => {
            let reason = cannot.err().unwrap_or_else(|| "it is not a folder".to_owned());
            let found = format!("{} is not there and cannot be made in {}: {reason}", dir.display(), parent.display());
            Finding::fail("store", found, "make the folder for the user that runs the gateway, or change [store] dir")
        }
    }
}

fn writable(dir: &Path) -> Finding {
    match rustix::fs::access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok("store", format!("{} can be written", dir.display())),
        Err(error) => {
            let found = format!("{} cannot be written: {error}", dir.display());
            Finding::fail("store", found, "give the folder to the user that runs the gateway")
        }
    }
}

/// Asks for the store's lock and gives it back at once.
fn lock(dir: &Path) -> Finding {
    let path = Layout::of(dir).lock;
    let taken = fs::File::open(&path).map(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive));
    match taken {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::ok("lock", "nobody has opened this store yet".to_owned())
        }
        Err(error) => Finding::fail(
            "lock",
            format!("{}: {error}", path.display()),
            "run the doctor as the user that runs the gateway",
        ),
        Ok(Ok(())) => Finding::ok("lock", "no process has the store open".to_owned()),
        Ok(Err(rustix::io::Errno::WOULDBLOCK)) => {
            Finding::ok("lock", "a running gateway has the store open; a second one would be refused".to_owned())
        }
        Ok(Err(error)) => {
            Finding::fail("lock", format!("{}: {error}", path.display()), "put [store] dir on a local file system")
        }
    }
}

/// The journal needs the next segment before the one in use is full.
fn room(dir: &Path, segment_bytes: u64) -> Option<Finding> {
    const SEGMENTS_FREE_MIN: u64 = 8;
    const ADVICE: &str = "make room: without it nothing new is taken on";
    let space = rustix::fs::statvfs(dir).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let found = format!("{} MB free", free / 1_000_000);
    Some(match free / segment_bytes.max(1) {
        0 => Finding::fail("space", found, ADVICE),
        segments if segments < SEGMENTS_FREE_MIN => Finding::warn("space", found, ADVICE),
        _ => Finding::ok("space", found),
    })
}

/// Times writes that are made durable one by one, as the journal's are.
fn probe(dir: &Path) -> io::Result<Vec<Duration>> {
    let file = rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    let block = [0x5a; PROBE_BYTES];
    rustix::fs::ftruncate(&file, (PROBES * PROBE_BYTES) as u64)?;
    (0..PROBES as u64)
        .map(|at| {
            let watch = Stopwatch::start();
            rustix::io::pwrite(&file, &block, at * PROBE_BYTES as u64)?;
            rustix::fs::fdatasync(&file)?;
            Ok(watch.elapsed())
        })
        .collect()
}

fn sync_time(mut times: Vec<Duration>) -> Finding {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let found = format!("fdatasync takes {:.2} ms (worst of {}: {:.2} ms)", ms(median), times.len(), ms(worst));
    if median > SLOW {
        return Finding::warn("disk", found, "every answer waits for it: put [store] dir on a faster disk");
    }
    Finding::ok("disk", found)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use tollgate_store::store::write_atomically;

    use super::super::Level;
    use super::*;

    #[test]
    fn a_slow_disk_is_told_by_its_median() {
        let times = |slow: usize| (0..10).map(|at| Duration::from_millis(if at < slow { 20 } else { 1 })).collect();
        assert_eq!(sync_time(times(0)).level, Level::Ok);
        assert_eq!(sync_time(times(1)).level, Level::Ok, "one bad one is no slow disk");
        assert_eq!(sync_time(times(9)).level, Level::Warn);
        assert!(sync_time(times(1)).found.contains("worst of 10: 20.00 ms"));
    }

    #[test]
    fn a_store_that_is_not_there_needs_a_parent_that_can_be_written() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(unmade(&dir.path().join("a/b")).level, Level::Ok);
        write_atomically(&dir.path().join("file"), b"").expect("written");
        assert_eq!(unmade(&dir.path().join("file/a")).level, Level::Fail);
        assert_eq!(unmade(Path::new("a-relative-folder")).level, Level::Ok);
    }

    #[test]
    fn an_open_store_is_seen_and_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(lock(dir.path()).found.contains("nobody"));
        let path = Layout::of(dir.path()).lock;
        write_atomically(&path, b"").expect("written");
        assert!(lock(dir.path()).found.contains("no process"));
        let holder = fs::File::open(&path).expect("there");
        rustix::fs::flock(&holder, FlockOperation::NonBlockingLockExclusive).expect("free");
        assert!(lock(dir.path()).found.contains("a running gateway"));
        assert_eq!(examine(dir.path(), 1).iter().filter(|finding| finding.level == Level::Fail).count(), 0);
    }

    #[test]
    fn the_newest_write_is_that_of_the_newest_segment() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(newest_write(dir.path()), None);
        let journal = Layout::of(dir.path()).journal;
        fs::DirBuilder::new().create(&journal).expect("made");
        write_atomically(&journal.join("0000000001.journal"), b"x").expect("written");
        assert!(newest_write(dir.path()).is_some_and(|at| at > Timestamp(1_700_000_000_000_000)));
    }
}
