//! The Merkle tree of RFC 9162, section 2.1, over leaves that only ever come at the end: its root, proofs that a leaf is in it
//! and that it grew out of a smaller one, and their verification by whoever has nothing but roots.
//!
//! A complete subtree never changes again. So its hash is written once: after each leaf's hash those of the subtrees that end
//! with it, from the lowest up ([`stored_index`]). Whoever asks for a proof says how such a hash is read.

use ring::digest::{Context, SHA256};

pub const HASH_BYTES: usize = 32;
/// Higher than any tree: a leaf's number has 64 bits.
pub const LEVELS_MAX: u8 = 63;

pub type Hash = [u8; HASH_BYTES];

/// The roots of the complete subtrees that make up a tree, the largest and oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

// === impl Frontier ===

impl Frontier {
    /// That of a tree whose stored hashes can be read.
    pub fn read<E>(size: u64, mut read: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Self, E> {
        let peaks = peaks_of(0, size).map(|(level, index)| read(level, index)).collect::<Result<_, E>>()?;
        Ok(Self { size, peaks })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; `keep` is given each hash to be stored, in the order in which they are.
    pub fn push(&mut self, leaf: Hash, mut keep: impl FnMut(&Hash)) {
        keep(&leaf);
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("each bit of the size has a subtree");
            hash = node_hash(&left, &hash);
            keep(&hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The hash of the whole tree (2.1.1); that of nothing, if it is empty.
    pub fn root(&self) -> Hash {
        folded(&self.peaks).unwrap_or_else(|| digest(&[]))
    }
}

/// The hash of an entry's bytes (2.1.1).
pub fn leaf_hash(data: &[u8]) -> Hash {
    digest(&[&[0], data])
}

/// The hash of two subtrees (2.1.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    digest(&[&[1], left, right])
}

/// Where the hash of a complete subtree is among all stored ones: the one of height `level` that has `index` such before it.
pub fn stored_index(level: u8, index: u64) -> u64 {
    // It is stored with its last leaf, `level` places after that leaf's own.
    let last = (index << level) + ((1 << level) - 1);
    stored_count(last) + u64::from(level)
}

/// How many hashes are stored for so many leaves: each has one, and each pair of equal subtrees another.
pub fn stored_count(size: u64) -> u64 {
    2 * size - u64::from(size.count_ones())
}

/// The most leaves for which so many stored hashes are enough.
pub fn leaves_of(stored: u64) -> u64 {
    // A size of n has between 2n - 64 and 2n - 1 of them.
    let mut size = stored / 2;
    while stored_count(size + 1) <= stored {
        size += 1;
    }
    size
}

/// The path by which anybody can compute the root from leaf `n` (2.1.3.1), from the leaf up. `n` is below `size`.
pub fn inclusion<E>(n: u64, size: u64, mut read: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if n < middle {
            path.push(range_hash(middle, to, &mut read)?);
            to = middle;
        } else {
            path.push(range_hash(from, middle, &mut read)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// What shows that the tree of size `old` is the beginning of the one of size `new` (2.1.4.1). Nothing is needed where they are
/// the same, or where the old one is empty.
pub fn consistency<E>(old: u64, new: u64, mut read: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
    let (mut from, mut to, mut path) = (0, new, Vec::new());
    if old == 0 {
        return Ok(path);
    }
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(range_hash(middle, to, &mut read)?);
            to = middle;
        } else {
            path.push(range_hash(from, middle, &mut read)?);
            from = middle;
        }
    }
    // The verifier has the old root already, if that is what the path begins with.
    if from > 0 {
        path.push(range_hash(from, to, &mut read)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether leaf `n` with this hash is in the tree of this size and root (2.1.3.2).
pub fn is_included(n: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> bool {
    if n >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (n, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether the tree of size `old` is the beginning of the one of size `new` (2.1.4.2).
pub fn is_consistent(old: u64, new: u64, old_root: &Hash, new_root: &Hash, path: &[Hash]) -> bool {
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 || old > new {
        return old == 0 && path.is_empty() && *old_root == digest(&[]);
    }
    let (mut at, mut last) = (old - 1, new - 1);
    let shift = at.trailing_ones();
    (at, last) = (at >> shift, last >> shift);
    let (first, rest) = match path.split_first() {
        _ if old.is_power_of_two() => (old_root, path),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The hash of the leaves of a range that begins where a subtree as large as it could.
fn range_hash<E>(from: u64, to: u64, read: &mut impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let peaks = peaks_of(from, to).map(|(level, index)| read(level, index)).collect::<Result<Vec<_>, E>>()?;
    Ok(folded(&peaks).expect("no range is empty"))
}

/// The complete subtrees of a range, the largest first.
fn peaks_of(from: u64, to: u64) -> impl Iterator<Item = (u8, u64)> {
    let mut at = from;
    (0..=LEVELS_MAX).rev().filter(move |level| (to - from) >> level & 1 == 1).map(move |level| {
        let index = at >> level;
        at += 1 << level;
        (level, index)
    })
}

/// One hash of several subtrees, the largest first.
fn folded(peaks: &[Hash]) -> Option<Hash> {
    peaks.iter().rev().copied().reduce(|right, left| node_hash(&left, &right))
}

/// The largest power of two below `size`.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

fn digest(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
