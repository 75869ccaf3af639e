//! Bundles in folders, for tests and measurements: the command line reads them so, too.

use std::path::Path;

use tollgate_policy::{Bundle, BundleError, File};

/// The bundle in a folder.
pub fn folder(root: &Path) -> Result<Bundle, BundleError> {
    let mut files = Vec::new();
    read(root, root, &mut files);
    Bundle::from_files(&files)
}

fn read(root: &Path, dir: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(root, &path, files);
            continue;
        }
        let inside = path.strip_prefix(root).expect("inside").to_str().expect("UTF-8").to_owned();
        files.push(File { path: inside, bytes: std::fs::read(&path).expect("a file") });
    }
}
