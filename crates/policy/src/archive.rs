//! A bundle as OPA sends it: a gzipped tar. What comes is bounded while it is unpacked, so that a small file cannot become a
//! large one; links and everything else that is no file are refused.

use std::io::Read;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{Archive, Builder, EntryType, Header};

use crate::bundle::{BYTES_MAX, BundleError, FILES_MAX, File, inside};

/// Headers and padding of as many files as there may be, beside their contents.
const TAR_BYTES_MAX: usize = BYTES_MAX + (FILES_MAX + 2) * 2_048;
/// Folders have entries too.
const ENTRIES_MAX: usize = 4 * FILES_MAX;

/// The files of an archive, with their paths as [`inside`] wants them.
pub fn unpack(bytes: &[u8]) -> Result<Vec<File>, BundleError> {
    let no_archive = |error: std::io::Error| BundleError::NoArchive(error.to_string());
    let mut tar = Vec::new();
    // One byte more than there may be: then there is too much.
    let bounded = GzDecoder::new(bytes).take(TAR_BYTES_MAX as u64 + 1);
    { bounded }.read_to_end(&mut tar).map_err(no_archive)?;
    if tar.len() > TAR_BYTES_MAX {
        return Err(BundleError::TooLarge);
    }
    let mut files = Vec::new();
    let mut archive = Archive::new(tar.as_slice());
    for (number, entry) in archive.entries().map_err(no_archive)?.enumerate() {
        let mut entry = entry.map_err(no_archive)?;
        let path = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|error| BundleError::BadPath(String::from_utf8_lossy(error.as_bytes()).into_owned()))?;
        match entry.header().entry_type() {
            EntryType::Directory => {}
            EntryType::Regular => {
                let path = inside(&path)?.to_owned();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(no_archive)?;
                files.push(File { path, bytes });
            }
            EntryType::XGlobalHeader | EntryType::XHeader => {}
            _ => return Err(BundleError::NoFile(path)),
        }
        if files.len() > FILES_MAX || number > ENTRIES_MAX {
            return Err(BundleError::TooManyFiles);
        }
    }
    crate::bundle::check_size(&files)?;
    Ok(files)
}

/// The same files always make the same bytes: no time, no owner, sorted.
pub fn pack(files: &[File]) -> Result<Vec<u8>, BundleError> {
    crate::bundle::check_size(files)?;
    let mut sorted: Vec<&File> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let no_archive = |error: std::io::Error| BundleError::NoArchive(error.to_string());
    for file in sorted {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(file.bytes.len() as u64);
        tar.append_data(&mut header, inside(&file.path)?, file.bytes.as_slice()).map_err(no_archive)?;
    }
    tar.into_inner().and_then(GzEncoder::finish).map_err(no_archive)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crate::bundle::tests::file;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    /// With the name as it is: `tar` itself would refuse to write what we must refuse to read.
    fn raw(name: &str, kind: EntryType, contents: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, contents).expect("memory");
        gzip(&tar.into_inner().expect("memory"))
    }

    #[test]
    fn what_is_packed_is_unpacked_and_always_packed_alike() {
        let files = [file("b/x.rego", "package b"), file("a.rego", "package a")];
        let packed = pack(&files).expect("packed");
        assert_eq!(packed, pack(&[files[1].clone(), files[0].clone()]).expect("packed"));
        assert_eq!(unpack(&packed).expect("unpacked"), [files[1].clone(), files[0].clone()]);
    }

    #[test]
    fn the_slash_that_opa_build_writes_is_taken_and_ways_out_are_not() {
        assert_eq!(unpack(&raw("/x/data.json", EntryType::Regular, b"{}")), Ok(vec![file("x/data.json", "{}")]));
        for name in ["../x.rego", "/../etc/passwd", "a/../../b", "//x"] {
            assert_eq!(unpack(&raw(name, EntryType::Regular, b"")), Err(BundleError::BadPath(name.to_owned())));
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Fifo] {
            assert_eq!(unpack(&raw("x.rego", kind, b"")), Err(BundleError::NoFile("x.rego".to_owned())), "{kind:?}");
        }
        assert!(unpack(&raw("folder/", EntryType::Directory, b"")).expect("a folder is no file").is_empty());
    }

    #[test]
    fn a_small_archive_cannot_become_a_large_bundle() {
        let bomb = gzip(&vec![0; TAR_BYTES_MAX + 1]);
        assert!(bomb.len() < 10_000);
        assert_eq!(unpack(&bomb), Err(BundleError::TooLarge));
        let large = raw("x.txt", EntryType::Regular, &vec![b'x'; BYTES_MAX + 1]);
        assert_eq!(unpack(&large), Err(BundleError::TooLarge));
    }

    #[test]
    fn what_is_no_archive_or_half_of_one_is_refused() {
        let whole = pack(&[file("a.rego", "package a")]).expect("packed");
        for bytes in [
            &b""[..],
            b"not gzip",
            &whole[..whole.len() / 2],
            &gzip(b"not tar at all, but long enough to be looked at"),
        ] {
            assert!(matches!(unpack(bytes), Err(BundleError::NoArchive(_))), "{:?}", unpack(bytes));
        }
    }
}
