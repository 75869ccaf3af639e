//! A bundle as a folder.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::bundle::{self, Bundle, BundleError, File};

#[derive(Debug, Error)]
pub enum FolderError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: its name is not UTF-8", path.display())]
    Name { path: PathBuf },
    #[error("{}: {}", path.display(), BundleError::TooLarge)]
    TooLarge { path: PathBuf },
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// The bundle in a folder.
pub fn bundle(dir: &Path) -> Result<Bundle, FolderError> {
    Ok(Bundle::from_files(&files(dir)?)?)
}

/// What lies in a folder and all below it, but for what is hidden there: of that, a bundle has its manifest and signatures.
pub fn files(dir: &Path) -> Result<Vec<File>, FolderError> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let unreadable = |source| FolderError::Unreadable { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name != bundle::MANIFEST && name != bundle::SIGNATURES {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(dir).ok().and_then(Path::to_str).map(str::to_owned);
            let Some(inside) = inside else { return Err(FolderError::Name { path }) };
            files.push(File { path: inside, bytes: read(&path)? });
            bundle::check_size(&files)?;
        }
    }
    Ok(files)
}

/// A file that is no larger than a bundle may be.
pub fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > bundle::BYTES_MAX as u64 {
        return Err(FolderError::TooLarge { path: path.to_owned() });
    }
    std::fs::read(path).map_err(unreadable)
}
