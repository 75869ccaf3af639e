//! Our trees beside those of `tlog_tiles` (Cloudflare's, after Go's): the same roots, the same stored hashes, the same proofs, and
//! each accepts the other's.

use proptest::prelude::*;
use tlog_tiles::tlog;
use tollgate_audit::tree::{
    Frontier, Hash, consistency, inclusion, is_consistent, is_included, leaf_hash, leaves_of, stored_count,
    stored_index,
};

/// A tree of so many leaves, and the stored hashes of the rival's.
struct Grown {
    stored: Vec<Hash>,
    rival: Rival,
    /// The root of each size.
    roots: Vec<Hash>,
}

struct Rival(Vec<tlog::Hash>);

impl tlog::HashReader for Rival {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).expect("small")]).collect())
    }
}

fn leaf(n: u64) -> Vec<u8> {
    format!("entry {n}").into_bytes()
}

fn grown(size: u64) -> Grown {
    let (mut frontier, mut stored, mut rival) = (Frontier::default(), Vec::new(), Rival(Vec::new()));
    let mut roots = vec![frontier.root()];
    for n in 0..size {
        frontier.push(leaf_hash(&leaf(n)), |hash| stored.push(*hash));
        let more = tlog::stored_hashes(n, &leaf(n), &rival).expect("the rival goes on");
        rival.0.extend(more);
        roots.push(frontier.root());
    }
    Grown { stored, rival, roots }
}

impl Grown {
    fn read(&self, level: u8, index: u64) -> Result<Hash, ()> {
        self.stored.get(usize::try_from(stored_index(level, index)).expect("small")).copied().ok_or(())
    }
}

fn theirs(proof: &[Hash]) -> Vec<tlog::Hash> {
    proof.iter().map(|hash| tlog::Hash(*hash)).collect()
}

#[test]
fn the_empty_tree_and_the_first_ones_are_those_of_the_standard() {
    let grown = grown(8);
    assert_eq!(tlog::EMPTY_HASH.0, grown.roots[0]);
    for size in 1..=8 {
        assert_eq!(tlog::tree_hash(size, &grown.rival).expect("a root").0, grown.roots[usize::try_from(size).unwrap()]);
    }
}

#[test]
fn every_proof_of_small_trees_is_the_rival_s_and_no_other_is_accepted() {
    const SIZE: u64 = 130;
    let grown = grown(SIZE);
    assert_eq!(grown.stored, grown.rival.0.iter().map(|hash| hash.0).collect::<Vec<_>>());
    let root = |size: u64| grown.roots[usize::try_from(size).expect("small")];
    for size in 1..=SIZE {
        assert_eq!(stored_count(size), tlog::stored_hash_count(size));
        assert_eq!(leaves_of(stored_count(size)), size);
        let again = Frontier::read(size, |level, index| grown.read(level, index)).expect("stored");
        assert_eq!(again.root(), root(size));
        for n in 0..size {
            let proof = inclusion(n, size, |level, index| grown.read(level, index)).expect("stored");
            assert_eq!(theirs(&proof), tlog::prove_record(size, n, &grown.rival).expect("a proof"), "{n} of {size}");
            let hash = leaf_hash(&leaf(n));
            assert!(is_included(n, size, &hash, &proof, &root(size)), "{n} of {size}");
            let theirs = tlog::check_record(&theirs(&proof), size, tlog::Hash(root(size)), n, tlog::Hash(hash));
            assert!(theirs.is_ok(), "{n} of {size}");
            assert!(!is_included(n, size, &leaf_hash(b"other"), &proof, &root(size)));
            assert!(!is_included(n, size, &hash, &proof, &root(size - 1)));
            assert!(!is_included(size, size, &hash, &proof, &root(size)));
        }
        for old in 1..=size {
            let proof = consistency(old, size, |level, index| grown.read(level, index)).expect("stored");
            assert!(is_consistent(old, size, &root(old), &root(size), &proof), "{old} of {size}");
            if old < size {
                assert_eq!(
                    theirs(&proof),
                    tlog::prove_tree(size, old, &grown.rival).expect("a proof"),
                    "{old} of {size}"
                );
            }
            let wrong = leaf_hash(b"other");
            assert!(!is_consistent(old, size, &wrong, &root(size), &proof), "{old} of {size}");
            assert!(!is_consistent(old, size, &root(old), &wrong, &proof), "{old} of {size}");
        }
        assert!(is_consistent(0, size, &root(0), &root(size), &[]), "anything begins with nothing");
        assert!(!is_consistent(size + 1, size, &root(size), &root(size), &[]));
    }
}

#[test]
fn a_proof_that_is_changed_anywhere_is_refused() {
    let grown = grown(77);
    let root = |size: u64| grown.roots[usize::try_from(size).expect("small")];
    for size in [2, 3, 8, 33, 64, 77] {
        for n in 0..size {
            let proof = inclusion(n, size, |level, index| grown.read(level, index)).expect("stored");
            let hash = leaf_hash(&leaf(n));
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at][7] ^= 1;
                assert!(!is_included(n, size, &hash, &changed, &root(size)));
                let mut shorter = proof.clone();
                shorter.remove(at);
                assert!(!is_included(n, size, &hash, &shorter, &root(size)));
            }
            let longer = [proof.as_slice(), &[hash]].concat();
            assert!(!is_included(n, size, &hash, &longer, &root(size)));
            assert!(!is_included((n + 1) % size, size, &hash, &proof, &root(size)));
        }
        for old in 1..size {
            let proof = consistency(old, size, |level, index| grown.read(level, index)).expect("stored");
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at][7] ^= 1;
                assert!(!is_consistent(old, size, &root(old), &root(size), &changed));
                let mut shorter = proof.clone();
                shorter.remove(at);
                assert!(!is_consistent(old, size, &root(old), &root(size), &shorter));
            }
            let longer = [proof.as_slice(), &[root(1)]].concat();
            assert!(!is_consistent(old, size, &root(old), &root(size), &longer));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn proofs_of_larger_trees_are_the_rival_s(size in 131_u64..3_000, one in any::<u64>(), other in any::<u64>()) {
        let grown = grown(size);
        let (n, old) = (one % size, 1 + other % (size - 1));
        let root = |size: u64| grown.roots[usize::try_from(size).expect("small")];
        let proof = inclusion(n, size, |level, index| grown.read(level, index)).expect("stored");
        prop_assert_eq!(theirs(&proof), tlog::prove_record(size, n, &grown.rival).expect("a proof"));
        prop_assert!(is_included(n, size, &leaf_hash(&leaf(n)), &proof, &root(size)));
        let proof = consistency(old, size, |level, index| grown.read(level, index)).expect("stored");
        let theirs_too = tlog::prove_tree(size, old, &grown.rival).expect("a proof");
        prop_assert_eq!(theirs(&proof), theirs_too.clone());
        prop_assert!(is_consistent(old, size, &root(old), &root(size), &proof));
        let checked = tlog::check_tree(&theirs_too, size, tlog::Hash(root(size)), old, tlog::Hash(root(old)));
        prop_assert!(checked.is_ok());
    }

    #[test]
    fn a_stored_hash_stands_where_the_rival_looks_for_it(level in 0_u8..40, index in 0_u64..1_000_000) {
        prop_assert_eq!(stored_index(level, index), tlog::stored_hash_index(level, index));
    }
}
