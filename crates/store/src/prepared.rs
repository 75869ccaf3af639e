//! Files that are there whole or not at all: written aside, synced, and only then given their name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::fault::{self, Steps};
use crate::journal::segment::sync_dir;

/// A file that is whole and synced but has not got its name yet, so that nobody reads it. Dropped, it is gone.
#[derive(Debug)]
pub struct Prepared {
    unfinished: PathBuf,
    path: PathBuf,
    steps: Steps,
}

// === impl Prepared ===

impl Prepared {
    /// Writes what is to stand at `path`, readable by its owner only.
    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    pub fn write(path: &Path, content: &[u8], steps: Steps) -> io::Result<Self> {
        let unfinished = path.with_extension("unfinished");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        // From here on: what is not finished is removed, and gives its space back.
        let prepared = Self { unfinished, path: path.to_owned(), steps };
        fault::write(steps.write, content, |content| file.write_all(content))?;
        fault::pass(steps.sync)?;
        file.sync_all()?;
        Ok(prepared)
    }

    /// Gives the file its name, in the place of what had it, durably.
    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    pub fn confirm(self) -> io::Result<()> {
        fault::pass(self.steps.rename)?;
        fs::rename(&self.unfinished, &self.path)?;
        fault::pass(self.steps.dir_sync)?;
        self.path.parent().map_or(Ok(()), sync_dir)
    }
}

impl Drop for Prepared {
    #[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
    fn drop(&mut self) {
        // Once it has its name, nothing is there under the other.
        if let Err(error) = fs::remove_file(&self.unfinished)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.unfinished.display(), "an unfinished file could not be removed");
        }
    }
}
