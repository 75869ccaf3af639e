//! Reads a journal that is being written, frame by frame, as far as it is durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tollgate_ledger::Record;

use super::Sequence;
use super::frame::{self, Chain, Kind};
use super::segment::{self, SegmentError};

/// A place in the journal, and the file that is open there.
#[derive(Debug)]
pub struct Tail {
    journal: PathBuf,
    /// Last record that was given out.
    position: Sequence,
    open: Option<Open>,
    sealed: Option<u64>,
}

#[derive(Debug)]
struct Open {
    file: File,
    index: u64,
    offset: u64,
    next: Sequence,
    chain: Chain,
}

// === impl Tail ===

impl Tail {
    /// Begins after record `position`.
    pub fn after(journal: PathBuf, position: Sequence) -> Self {
        Self { journal, position, open: None, sealed: None }
    }

    /// Index of the newest sealed segment that was read to its end since this was last asked.
    pub fn sealed(&mut self) -> Option<u64> {
        self.sealed.take()
    }

    /// The records of the next frame that holds any, if it is durable already.
    pub fn next(&mut self, durable: Sequence) -> Result<Option<Vec<(Sequence, Record)>>, SegmentError> {
        loop {
            if self.position >= durable {
                return Ok(None);
            }
            let open = match self.open.take() {
                Some(open) => open,
                None => self.open_segment()?,
            };
            let (kind, records) = self.read_frame(open)?;
            if kind == Kind::Seal {
                continue;
            }
            let fresh: Vec<_> = records.into_iter().filter(|(sequence, _)| *sequence > self.position).collect();
            if let Some((last, _)) = fresh.last() {
                self.position = *last;
                return Ok(Some(fresh));
            }
        }
    }

    /// Opens the segment that holds the record after `position`.
    fn open_segment(&self) -> Result<Open, SegmentError> {
        let mut found = None;
        for index in segment::list(&self.journal)? {
            let start = segment::read_start(&self.journal, index)?;
            if start.first <= self.position + 1 {
                found = Some(start);
            }
        }
        let path = || segment::path_of(&self.journal, 1);
        let missing = || SegmentError::Io { path: path(), source: io::Error::from(io::ErrorKind::NotFound) };
        self.begin(found.ok_or_else(missing)?)
    }

    fn begin(&self, start: segment::Start) -> Result<Open, SegmentError> {
        let path = segment::path_of(&self.journal, start.index);
        let file = File::open(&path).map_err(|source| SegmentError::Io { path, source })?;
        let offset = segment::HEADER_BYTES as u64;
        Ok(Open { file, index: start.index, offset, next: start.first, chain: start.chain })
    }

    /// Reads the frame at hand and moves behind it: to the next segment after a seal.
    fn read_frame(&mut self, mut open: Open) -> Result<(Kind, Vec<(Sequence, Record)>), SegmentError> {
        let path = segment::path_of(&self.journal, open.index);
        let io = |source| SegmentError::Io { path: path.clone(), source };
        let at = usize::try_from(open.offset).unwrap_or(usize::MAX);
        let corrupt = |reason: frame::FrameError| SegmentError::Corrupt {
            path: path.clone(),
            offset: at,
            reason: reason.to_string(),
        };
        let mut bytes = vec![0; frame::HEADER_BYTES];
        open.file.read_exact_at(&mut bytes, open.offset).map_err(io)?;
        let length = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let left = open.file.metadata().map_err(io)?.len().saturating_sub(open.offset);
        bytes.resize(frame::HEADER_BYTES + usize::try_from(u64::from(length).min(left)).unwrap_or(0), 0);
        let payload_at = open.offset + frame::HEADER_BYTES as u64;
        open.file.read_exact_at(&mut bytes[frame::HEADER_BYTES..], payload_at).map_err(io)?;
        let frame = frame::decode(&bytes, open.next, &open.chain).map_err(corrupt)?;
        let records = frame.records().map_err(corrupt)?;
        open.offset += frame.bytes() as u64;
        open.next = frame.next();
        open.chain = frame.chain;
        if frame.kind == Kind::Seal {
            self.sealed = Some(open.index);
            let next = segment::read_start(&self.journal, open.index + 1)?;
            self.open = Some(self.begin(next)?);
        } else {
            self.open = Some(open);
        }
        Ok((frame.kind, records))
    }
}
