//! Segments: the journal's files, each made in full before its first byte is needed, so that a commit never has to
//! allocate and a full disk is noticed while there is still room to end what is under way.
//!
//! ```text
//! 0   magic     "TGJS"
//! 4   version   u32
//! 8   index     u64      1, 2, 3, ...
//! 16  first     u64      sequence number of the first record
//! 24  chain     32 B     chain hash of the last frame of the segment before
//! 56  checksum  u32      CRC-32C(bytes 0..56)
//! 60  zero      u32
//! 64  frames, then zeros
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::fault;

use super::frame::{self, Chain, Frame, FrameError, Kind};

pub const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"TGJS";
const VERSION: u32 = 1;
const SUFFIX: &str = "journal";
/// So much of a segment is read at a time.
const WINDOW_BYTES: u64 = 256 * 1024;

/// Where a segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub index: u64,
    pub first: u64,
    pub chain: Chain,
}

/// How far a segment was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Bytes of header and whole frames.
    pub offset: usize,
    pub next: u64,
    pub chain: Chain,
    pub sealed: bool,
    /// A frame was begun after `offset` and not finished.
    pub torn: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}, byte {offset}: {reason}; restore this file from a copy, or ask for help before touching it")]
    Corrupt { path: PathBuf, offset: usize, reason: String },
}

pub fn path_of(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:010}.{SUFFIX}"))
}

/// The indices of all segments in `dir`, ascending. A gap is corruption.
pub fn list(dir: &Path) -> Result<Vec<u64>, SegmentError> {
    let entries = fs::read_dir(dir).map_err(|source| io_error(dir, source))?;
    let mut indices = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| io_error(dir, source))?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            let index = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            indices.push(index.ok_or_else(|| corrupt(&path, 0, "a segment with a strange name"))?);
        }
    }
    indices.sort_unstable();
    if let Some(pair) = indices.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return Err(corrupt(&path_of(dir, pair[0] + 1), 0, "this segment is missing"));
    }
    Ok(indices)
}

/// Makes a file of `bytes` zeros, really written, and durable.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
pub fn preallocate(path: &Path, bytes: usize) -> io::Result<File> {
    let chunk = vec![0; 64 * 1024];
    fault::pass("segment::spare-create")?;
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(chunk.len());
        fault::write("segment::spare-write", &chunk[..now], |chunk| file.write_all(chunk))?;
        left -= now;
    }
    fault::pass("segment::spare-sync")?;
    file.sync_all()?;
    Ok(file)
}

/// Writes the header into a preallocated file and gives the file its name, durably.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
pub fn begin(file: &File, spare: &Path, dir: &Path, start: &Start) -> io::Result<()> {
    fault::write("segment::begin-write", &encode_header(start), |header| file.write_all_at(header, 0))?;
    fault::pass("segment::begin-sync")?;
    file.sync_all()?;
    fault::pass("segment::begin-rename")?;
    fs::rename(spare, path_of(dir, start.index))?;
    fault::pass("segment::begin-dir-sync")?;
    sync_dir(dir)?;
    fault::pass("segment::begun")
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a segment and hands each frame to `each`. `last` says that a torn tail is to be expected: the crash of the
/// process may have left one there, and only there.
pub fn read(
    dir: &Path,
    index: u64,
    last: bool,
    mut each: impl FnMut(&Frame<'_>) -> Result<(), FrameError>,
) -> Result<(Start, End), SegmentError> {
    let path = path_of(dir, index);
    let io = |source| io_error(&path, source);
    let mut window = Window { file: File::open(&path).map_err(io)?, bytes: Vec::new(), passed: 0, at_end: false };
    window.fill(HEADER_BYTES).map_err(io)?;
    let start = decode_header(window.rest()).ok_or_else(|| corrupt(&path, 0, "the segment's header is damaged"))?;
    if start.index != index {
        return Err(corrupt(&path, 8, "the segment has another's name"));
    }
    window.pass(HEADER_BYTES);
    let mut end = End { offset: HEADER_BYTES, next: start.first, chain: start.chain, sealed: false, torn: false };
    loop {
        let at = |reason: FrameError| corrupt(&path, end.offset, &reason.to_string());
        window.fill(frame::HEADER_BYTES).map_err(io)?;
        window.fill(frame::told_bytes(window.rest())).map_err(io)?;
        match frame::decode(window.rest(), end.next, &end.chain) {
            Ok(frame) => {
                each(&frame).map_err(at)?;
                end.offset += frame.bytes();
                end.next = frame.next();
                end.chain = frame.chain;
                end.sealed = frame.kind == Kind::Seal;
                let bytes = frame.bytes();
                window.pass(bytes);
            }
            Err(FrameError::Absent | FrameError::Damaged) if last || end.sealed => break,
            Err(reason) => return Err(at(reason)),
        }
        if end.sealed {
            break;
        }
    }
    end.torn = window.pass_zeros().map_err(io)?;
    if end.torn {
        window.fill(usize::MAX).map_err(io)?;
        if end.sealed || whole_frame_after(window.rest(), end.next) {
            return Err(corrupt(&path, end.offset, "a damaged frame with whole ones after it"));
        }
    }
    Ok((start, end))
}

/// A part of a file in memory: from where it was read to, some bytes on.
struct Window {
    file: File,
    bytes: Vec<u8>,
    /// So many of them are done with.
    passed: usize,
    at_end: bool,
}

impl Window {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.passed..]
    }

    fn pass(&mut self, bytes: usize) {
        self.passed += bytes;
    }

    /// Reads on until so many bytes are there, or the file ends.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.rest().len() < wanted && !self.at_end {
            self.bytes.drain(..self.passed);
            self.passed = 0;
            let more = (&self.file).take(WINDOW_BYTES).read_to_end(&mut self.bytes)?;
            self.at_end = more == 0;
        }
        Ok(())
    }

    /// Passes over pieces of nothing but zeros; whether anything comes after them.
    fn pass_zeros(&mut self) -> io::Result<bool> {
        loop {
            self.fill(1)?;
            if self.rest().iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            if self.rest().is_empty() {
                return Ok(false);
            }
            self.passed = self.bytes.len();
        }
    }
}

/// Reads only where a segment begins.
pub fn read_start(dir: &Path, index: u64) -> Result<Start, SegmentError> {
    let path = path_of(dir, index);
    let mut header = [0; HEADER_BYTES];
    File::open(&path).and_then(|mut file| file.read_exact(&mut header)).map_err(|source| io_error(&path, source))?;
    decode_header(&header).ok_or_else(|| corrupt(&path, 0, "the segment's header is damaged"))
}

/// Whether a later frame stands whole somewhere in what looks like a torn tail. A crash tears only the last write, so
/// that would be damage, and cutting the tail off would lose money.
fn whole_frame_after(tail: &[u8], next: u64) -> bool {
    let mut from = 0;
    while let Some(found) = find(&tail[from..], b"TGJF") {
        from += found;
        if frame::decode_unchained(&tail[from..]).is_ok_and(|frame| frame.first > next) {
            return true;
        }
        from += 1;
    }
    false
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn encode_header(start: &Start) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header[8..16].copy_from_slice(&start.index.to_le_bytes());
    header[16..24].copy_from_slice(&start.first.to_le_bytes());
    header[24..56].copy_from_slice(&start.chain);
    let checksum = crc32c::crc32c(&header[..56]);
    header[56..60].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn decode_header(bytes: &[u8]) -> Option<Start> {
    let header = bytes.get(..HEADER_BYTES)?;
    let u64_at = |at: usize| header[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    let version: [u8; 4] = header[4..8].try_into().ok()?;
    let checksum: [u8; 4] = header[56..60].try_into().ok()?;
    let right = header[..4] == MAGIC
        && u32::from_le_bytes(version) == VERSION
        && u32::from_le_bytes(checksum) == crc32c::crc32c(&header[..56])
        && header[60..] == [0; 4];
    right.then_some(Start { index: u64_at(8)?, first: u64_at(16)?, chain: header[24..56].try_into().ok()? })
}

fn io_error(path: &Path, source: io::Error) -> SegmentError {
    SegmentError::Io { path: path.to_owned(), source }
}

fn corrupt(path: &Path, offset: usize, reason: &str) -> SegmentError {
    SegmentError::Corrupt { path: path.to_owned(), offset, reason: reason.to_owned() }
}
