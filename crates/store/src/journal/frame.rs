//! The bytes of one group commit. A frame holds the records that one fsync made durable together.
//!
//! ```text
//! 0   magic     "TGJF"
//! 4   version   u16      encoding of the records
//! 6   kind      u16      0 records, 1 seal (the last frame of its segment)
//! 8   payload   u32      bytes after this header
//! 12  records   u32      how many records the payload holds
//! 16  first     u64      sequence number of the first of them
//! 24  chain     32 B     SHA-256(chain of the frame before, bytes 0..24, payload)
//! 56  checksum  u32      CRC-32C(bytes 0..56, payload)
//! 60  zero      u32
//! 64  payload            for each record: u32 length, then the record in postcard
//! ```
//! Integers are little endian. The checksum tells a torn write; the chain tells a changed or a missing frame.

use ring::digest::{Context, SHA256};
use tollgate_ledger::Record;

use super::former;

pub const HEADER_BYTES: usize = 64;
pub const VERSION: u16 = 5;
/// Versions 3 and 4 are read, too: see `former.rs`.
const OLDEST: u16 = 3;
const MAGIC: [u8; 4] = *b"TGJF";

/// The hash that every later frame confirms.
pub type Chain = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Records,
    Seal,
}

/// A frame that was read and whose checksum and chain are right.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Of the encoding of its records.
    pub version: u16,
    pub kind: Kind,
    pub first: u64,
    pub count: u32,
    pub chain: Chain,
    pub payload: &'a [u8],
}

/// Why the bytes at some place are not the next frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zeros, or too few bytes for a header: nothing was written here.
    #[error("no frame here")]
    Absent,
    /// Begun but not whole: what a crash leaves of the last write.
    #[error("a frame that is torn or damaged")]
    Damaged,
    #[error("written in version {0} of the journal's format; this program reads {OLDEST} to {VERSION}")]
    OtherVersion(u16),
    /// Whole, but not the successor of what came before it.
    #[error("a frame out of place: {0}")]
    OutOfPlace(&'static str),
    #[error("a record that cannot be read: {0}")]
    Record(String),
}

/// Appends the frame of `payload` to `out`, and gives its chain hash.
pub fn encode(kind: Kind, first: u64, count: u32, payload: &[u8], previous: &Chain, out: &mut Vec<u8>) -> Chain {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    let length = u32::try_from(payload.len()).expect("the journal bounds its frames far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    let chain = link(previous, &out[start..start + 24], payload);
    out.extend_from_slice(&chain);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[start..start + 56]), payload);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    chain
}

/// Reads the frame at the start of `bytes`, which must follow sequence number `next - 1` and the chain `previous`.
pub fn decode<'a>(bytes: &'a [u8], next: u64, previous: &Chain) -> Result<Frame<'a>, FrameError> {
    let frame = decode_unchained(bytes)?;
    if frame.first != next {
        return Err(FrameError::OutOfPlace("its sequence number does not follow"));
    }
    if link(previous, &bytes[..24], frame.payload) != frame.chain {
        return Err(FrameError::OutOfPlace("its chain hash does not follow"));
    }
    Ok(frame)
}

/// Reads a frame by its checksum alone, wherever it stands.
pub fn decode_unchained(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(FrameError::Absent)?;
    if header.iter().all(|b| *b == 0) {
        return Err(FrameError::Absent);
    }
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = usize::try_from(u32_at(8)).map_err(|_| FrameError::Damaged)?;
    let end = HEADER_BYTES.checked_add(length).ok_or(FrameError::Damaged)?;
    let payload = bytes.get(HEADER_BYTES..end).ok_or(FrameError::Damaged)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..56]), payload);
    if header[..4] != MAGIC || checksum != u32_at(56) || u32_at(60) != 0 {
        return Err(FrameError::Damaged);
    }
    let version = u16_at(4);
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(FrameError::OtherVersion(version));
    }
    let kind = match u16_at(6) {
        0 => Kind::Records,
        1 => Kind::Seal,
        _ => return Err(FrameError::Damaged),
    };
    let mut first = [0; 8];
    first.copy_from_slice(&header[16..24]);
    let mut chain = [0; 32];
    chain.copy_from_slice(&header[24..56]);
    Ok(Frame { version, kind, first: u64::from_le_bytes(first), count: u32_at(12), chain, payload })
}

/// How many bytes the frame at the start of `bytes` has, if what its header says is true.
pub fn told_bytes(bytes: &[u8]) -> usize {
    let payload = bytes.get(8..12).and_then(|field| field.try_into().ok()).map_or(0, u32::from_le_bytes);
    usize::try_from(payload).unwrap_or(usize::MAX).saturating_add(HEADER_BYTES)
}

/// Appends one record to a payload under construction.
pub fn encode_record(record: &Record, payload: &mut Vec<u8>) {
    let start = payload.len();
    payload.extend_from_slice(&[0; 4]);
    let end = postcard::to_extend(record, std::mem::take(payload)).expect("records encode into memory");
    *payload = end;
    let length = u32::try_from(payload.len() - start - 4).expect("one record is far smaller than 4 GiB");
    payload[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

// === impl Frame ===

impl Frame<'_> {
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The sequence number after this frame's last record.
    pub fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The records with their sequence numbers.
    pub fn records(&self) -> Result<Vec<(u64, Record)>, FrameError> {
        let mut rest = self.payload;
        let mut records = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let (one, after) =
                after.split_at_checked(length).ok_or_else(|| FrameError::Record("cut short".to_owned()))?;
            let read = match self.version < VERSION {
                true => former::take_from_bytes(one),
                false => postcard::take_from_bytes(one),
            };
            let (record, left) = read.map_err(|error| FrameError::Record(error.to_string()))?;
            if !left.is_empty() {
                return Err(FrameError::Record("bytes left over".to_owned()));
            }
            records.push((self.first + records.len() as u64, record));
            rest = after;
        }
        if !rest.is_empty() || records.len() as u64 != u64::from(self.count) {
            return Err(FrameError::Record("the count does not agree".to_owned()));
        }
        Ok(records)
    }
}

fn link(previous: &Chain, header: &[u8], payload: &[u8]) -> Chain {
    let mut context = Context::new(&SHA256);
    context.update(previous);
    context.update(header);
    context.update(payload);
    let mut chain = [0; 32];
    chain.copy_from_slice(context.finish().as_ref());
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_types::Timestamp;

    fn sample() -> Vec<u8> {
        let mut payload = Vec::new();
        for n in 0..3 {
            let record = Record::PricesSet { version: format!("v{n}").into(), sha256: [n; 32], at: Timestamp(7) };
            encode_record(&record, &mut payload);
        }
        let mut out = Vec::new();
        encode(Kind::Records, 5, 3, &payload, &[1; 32], &mut out);
        out
    }

    #[test]
    fn a_frame_reads_back() {
        let bytes = sample();
        let frame = decode(&bytes, 5, &[1; 32]).expect("it was just written");
        assert_eq!((frame.kind, frame.next(), frame.bytes()), (Kind::Records, 8, bytes.len()));
        let records = frame.records().expect("they were just written");
        assert_eq!(records.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [5, 6, 7]);
    }

    #[test]
    fn every_single_changed_bit_is_noticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&changed, 5, &[1; 32]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_in_the_wrong_place_is_noticed() {
        let bytes = sample();
        assert!(matches!(decode(&bytes, 6, &[1; 32]), Err(FrameError::OutOfPlace(_))));
        assert!(matches!(decode(&bytes, 5, &[2; 32]), Err(FrameError::OutOfPlace(_))));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], 5, &[1; 32]).is_err(), "cut at {cut}");
        }
        assert!(matches!(decode(&[0; 200], 5, &[1; 32]), Err(FrameError::Absent)));
    }
}
