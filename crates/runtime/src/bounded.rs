//! Files that somebody else wrote, read as far as they may be long.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} has more than the {most} bytes that are read: is it the right file?", path.display())]
    TooLarge { path: PathBuf, most: usize },
}

/// All of a file of at most `most` bytes.
pub fn read_bounded(path: &Path, most: usize) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() > most {
        true => Err(ReadError::TooLarge { path: path.to_owned(), most }),
        false => Ok(bytes),
    }
}

/// The same, or nothing where there is no such file.
pub fn read_if_there(path: &Path, most: usize) -> Result<Option<Vec<u8>>, ReadError> {
    match read_bounded(path, most) {
        Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_not_beyond() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        std::fs::write(&path, b"12345").expect("a file");
        assert_eq!(read_bounded(&path, 5).expect("it fits"), b"12345");
        assert!(matches!(read_bounded(&path, 4), Err(ReadError::TooLarge { most: 4, .. })));
        assert!(read_if_there(&dir.path().join("nothing"), 5).expect("no error").is_none());
        assert!(read_if_there(dir.path(), 5).is_err());
    }
}
