//! Points at which the store can be made to fail: one between every two things that it does to the disk. They exist only
//! with the feature `failpoints`, which tests switch on; without it each is nothing, and no release has it.
//!
//! What happens at a point is said in the language of the crate `fail`, by a test or in the variable `FAILPOINTS`:
//! `journal::before-sync=20*off->return(kill)` ends the process at the 21st sync. `sleep(ms)` makes a slow disk;
//! `return(...)` takes
//!
//! - `EIO`, `ENOSPC`: what was to be done is not done, and this is its error;
//! - `kill`: the process is gone, as by `kill -9`;
//! - `torn N`: only the first N bytes are written, and the process is gone; `torn N EIO`: the same, and it sees the error.

use std::io;

/// Every point there is. One that is not listed fails the first test that passes it, so that who walks the list leaves
/// none out.
pub const POINTS: &[&str] = &[
    "journal::before-write",
    "journal::before-sync",
    "journal::after-sync",
    "journal::after-durable",
    "journal::reopen-clear",
    "journal::reopen-write",
    "journal::reopen-sync",
    "journal::reopened",
    "segment::full-sync",
    "segment::seal-write",
    "segment::seal-sync",
    "segment::sealed",
    "segment::spare-create",
    "segment::spare-write",
    "segment::spare-sync",
    "segment::begin-write",
    "segment::begin-sync",
    "segment::begin-rename",
    "segment::begin-dir-sync",
    "segment::begun",
    "snapshot::write",
    "snapshot::sync",
    "snapshot::rename",
    "snapshot::dir-sync",
    "snapshot::remove",
    "snapshot::removed",
    "keys::write",
    "keys::sync",
    "keys::rename",
    "keys::dir-sync",
    "keys::slot-write",
    "keys::slot-sync",
    "keys::slot-written",
    "file::write",
    "file::sync",
    "file::rename",
    "file::dir-sync",
    "view::before-apply",
    "view::after-apply",
    "audit::entries-open",
    "audit::entries-write",
    "audit::hashes-write",
    "audit::written",
    "audit::log-sync",
    "audit::log-synced",
    "audit::checkpoint-write",
    "audit::checkpoint-sync",
    "audit::checkpoint-signed",
    "audit::write",
    "audit::sync",
    "audit::rename",
    "audit::dir-sync",
];

/// The points on the way of a file that is written aside and then gets its name.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub write: &'static str,
    pub sync: &'static str,
    pub rename: &'static str,
    pub dir_sync: &'static str,
}

macro_rules! steps {
    ($room:literal) => {
        Steps {
            write: concat!($room, "::write"),
            sync: concat!($room, "::sync"),
            rename: concat!($room, "::rename"),
            dir_sync: concat!($room, "::dir-sync"),
        }
    };
}

pub const SNAPSHOT: Steps = steps!("snapshot");
pub const KEYS: Steps = steps!("keys");
pub const FILE: Steps = steps!("file");
pub const AUDIT: Steps = steps!("audit");

/// Passes a point where nothing is written.
#[inline]
pub fn pass(point: &'static str) -> io::Result<()> {
    write(point, &[], |_| Ok(()))
}

/// Passes a point, and writes.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn write(_point: &'static str, bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
    write(bytes)
}

/// Without the feature there is nothing to arm.
#[cfg(not(feature = "failpoints"))]
#[derive(Debug)]
pub struct Armed;

#[cfg(not(feature = "failpoints"))]
pub fn arm_from_environment() -> Armed {
    Armed
}

#[cfg(feature = "failpoints")]
pub use armed::{Armed, arm_from_environment, write};

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashMap;
    use std::io;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    /// What a point was told to do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        Error(Errno),
        Kill,
        Torn(usize, Option<Errno>),
    }

    /// Keeps what was armed until it is dropped. There is one at a time in a process.
    #[derive(Debug)]
    pub struct Armed {
        _scenario: fail::FailScenario<'static>,
    }

    /// How often each point was passed since the last arming.
    static PASSED: Mutex<Option<HashMap<&'static str, usize>>> = Mutex::new(None);

    /// Arms what `FAILPOINTS` says. The crate `fail` reads it: the rooms of this house never look.
    pub fn arm_from_environment() -> Armed {
        let armed = Armed { _scenario: fail::FailScenario::setup() };
        *passed() = Some(HashMap::new());
        armed
    }

    fn passed() -> MutexGuard<'static, Option<HashMap<&'static str, usize>>> {
        PASSED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === impl Armed ===

    impl Armed {
        /// Says what happens at a point from now on.
        pub fn at(&self, point: &str, what: &str) {
            assert!(super::POINTS.contains(&point), "there is no point {point}");
            fail::cfg(point, what).expect("a test speaks fail's language");
        }

        /// From now on nothing happens there.
        pub fn disarm(&self, point: &str) {
            fail::remove(point);
        }

        /// How often the point was passed.
        pub fn passed(&self, point: &str) -> usize {
            passed().as_ref().and_then(|passed| passed.get(point)).copied().unwrap_or(0)
        }
    }

    /// Passes a point, and writes as much as the point lets through.
    pub fn write(point: &'static str, bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        assert!(super::POINTS.contains(&point), "the point {point} is not in the list");
        if let Some(passed) = passed().as_mut() {
            *passed.entry(point).or_default() += 1;
        }
        match struck(point) {
            None => write(bytes),
            Some(Fault::Error(errno)) => Err(errno.into()),
            Some(Fault::Kill) => die(),
            Some(Fault::Torn(written, errno)) => {
                write(&bytes[..written.min(bytes.len())])?;
                errno.map_or_else(|| die(), |errno| Err(errno.into()))
            }
        }
    }

    fn struck(point: &str) -> Option<Fault> {
        fail::fail_point!(point, |said| {
            let said = said.unwrap_or_default();
            Some(Fault::read(&said).unwrap_or_else(|| panic!("{point} does not understand '{said}'")))
        });
        None
    }

    /// Nothing of the process runs after this: no destructor, no unwinding, no other thread.
    fn die() -> ! {
        let killed = kill_process(getpid(), Signal::KILL);
        // Never reached, unless the kernel would not; then this is the next best end.
        eprintln!("a process that may not kill itself: {killed:?}");
        std::process::abort()
    }

    // === impl Fault ===

    impl Fault {
        fn read(said: &str) -> Option<Self> {
            let errno = |name: &str| match name {
                "EIO" => Some(Errno::IO),
                "ENOSPC" => Some(Errno::NOSPC),
                _ => None,
            };
            let words: Vec<&str> = said.split(' ').collect();
            match words.as_slice() {
                ["kill"] => Some(Self::Kill),
                ["torn", written] => Some(Self::Torn(written.parse().ok()?, None)),
                ["torn", written, name] => Some(Self::Torn(written.parse().ok()?, Some(errno(name)?))),
                [name] => errno(name).map(Self::Error),
                _ => None,
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_a_point_is_told_is_read_or_refused() {
            for (said, expected) in [
                ("EIO", Some(Fault::Error(Errno::IO))),
                ("ENOSPC", Some(Fault::Error(Errno::NOSPC))),
                ("kill", Some(Fault::Kill)),
                ("torn 17", Some(Fault::Torn(17, None))),
                ("torn 17 EIO", Some(Fault::Torn(17, Some(Errno::IO)))),
                ("torn", None),
                ("torn x", None),
                ("torn 17 EWHAT", None),
                ("", None),
            ] {
                assert_eq!(Fault::read(said), expected, "{said}");
            }
        }
    }
}
