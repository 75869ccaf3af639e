//! Which rows are held out: by chance with a seed, a share of each label, or whole groups (a report's sentences resemble each
//! other, so that a report both learned and asked flatters).
//!
//! The order of chance is ChaCha8's stream and a shuffle written here: the one of `rand` may change with its version, and
//! with it every head's bytes.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::rows::Row;

/// Numbers of rows, ascending, each in one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub kept: Vec<usize>,
    pub held: Vec<usize>,
}

/// Holds out about `share` (0 to 1) of the rows: whole groups if every row has one, else that share of each label, of which at
/// least one row is kept.
pub fn held_out(rows: &[Row], share: f64, seed: u64) -> Split {
    match groups_of(rows) {
        Some(groups) => split(rows.len(), &held_groups(&groups, share, seed)),
        None => split(rows.len(), &held_of_each_label(rows, share, seed)),
    }
}

/// `folds` splits; each row is held out in exactly one. Every label is spread over them as evenly as it can be.
pub fn stratified_folds(rows: &[Row], folds: usize, seed: u64) -> Vec<Split> {
    let mut chance = Chance::new(seed);
    let mut held = vec![Vec::new(); folds.max(2)];
    let mut next = 0;
    for mut same in by(rows, |row| row.label.as_str()).into_values() {
        chance.shuffle(&mut same);
        // Goes on where the last label ended, or small labels would all end up in the first fold.
        for row in same {
            let fold = next % held.len();
            held[fold].push(row);
            next += 1;
        }
    }
    held.iter().map(|held| split(rows.len(), held)).collect()
}

/// `folds` splits by whole groups, about as large as each other; a row without a group is one by itself.
pub fn group_folds(rows: &[Row], folds: usize, seed: u64) -> Vec<Split> {
    let mut groups: Vec<Vec<usize>> =
        by(rows, |row| row.group.as_deref()).into_iter().fold(Vec::new(), |mut all, next| {
            match next {
                (Some(_), rows) => all.push(rows),
                (None, rows) => all.extend(rows.into_iter().map(|row| vec![row])),
            }
            all
        });
    Chance::new(seed).shuffle(&mut groups);
    // The largest first, each to the fold that has least: then none is much larger than another. The sort is stable.
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut held: Vec<Vec<usize>> = vec![Vec::new(); folds.max(2)];
    for group in groups {
        if let Some(smallest) = held.iter_mut().min_by_key(|fold| fold.len()) {
            smallest.extend(group);
        }
    }
    held.iter().map(|held| split(rows.len(), held)).collect()
}

fn groups_of(rows: &[Row]) -> Option<Vec<Vec<usize>>> {
    let all = rows.iter().all(|row| row.group.is_some());
    (all && !rows.is_empty()).then(|| by(rows, |row| row.group.as_deref()).into_values().collect())
}

fn held_groups(groups: &[Vec<usize>], share: f64, seed: u64) -> Vec<usize> {
    let mut order: Vec<&Vec<usize>> = groups.iter().collect();
    Chance::new(seed).shuffle(&mut order);
    let wanted = share_of(groups.iter().map(Vec::len).sum(), share);
    let mut held = Vec::new();
    for group in order {
        if held.len() + group.len() <= wanted {
            held.extend_from_slice(group);
        }
    }
    held
}

fn held_of_each_label(rows: &[Row], share: f64, seed: u64) -> Vec<usize> {
    let mut chance = Chance::new(seed);
    let mut held = Vec::new();
    // What is left over of one label's share is the next one's, so that the sum is right where labels have a row or two each.
    let mut owed = 0.0;
    for mut same in by(rows, |row| row.label.as_str()).into_values() {
        chance.shuffle(&mut same);
        let due = share.clamp(0.0, 1.0) * same.len() as f64;
        owed += due;
        let taken = share_of(1, owed).min(share_of(1, due.ceil())).min(same.len() - 1);
        owed -= taken as f64;
        held.extend_from_slice(&same[..taken]);
    }
    held
}

/// Rounded down.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither negative nor more than there are rows"
)]
fn share_of(rows: usize, share: f64) -> usize {
    (rows as f64 * share.max(0.0) + 1e-9) as usize
}

/// In the order of the keys, so that no table's own order matters.
fn by<'a, K: Ord>(rows: &'a [Row], key: impl Fn(&'a Row) -> K) -> BTreeMap<K, Vec<usize>> {
    let mut all: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate() {
        all.entry(key(row)).or_default().push(number);
    }
    all
}

fn split(rows: usize, held: &[usize]) -> Split {
    let mut is_held = vec![false; rows];
    held.iter().for_each(|&row| is_held[row] = true);
    let (held, kept) = (0..rows).partition(|&row| is_held[row]);
    Split { kept, held }
}

/// What a seed makes: the same on every machine, in every version.
pub(super) struct Chance {
    stream: ChaCha8Rng,
}

// === impl Chance ===

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { stream: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// One of `0..count` (Lemire 2019, without the second draw: what it corrects is below 2^-32 here).
    #[expect(clippy::cast_possible_truncation, reason = "below `count`")]
    pub(super) fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.stream.next_u64()) * count as u128) >> 64) as usize
    }

    /// Fisher and Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(label: usize, group: Option<usize>) -> Row {
        Row { text: "x".to_owned(), label: format!("l{label}"), group: group.map(|group| format!("g{group}")) }
    }

    fn is_partition(split: &Split, rows: usize) -> bool {
        let mut all = [split.kept.as_slice(), &split.held].concat();
        all.sort_unstable();
        all == (0..rows).collect::<Vec<_>>()
    }

    #[test]
    fn the_order_of_chance_is_the_same_in_every_version() {
        let mut order: Vec<usize> = (0..10).collect();
        Chance::new(7).shuffle(&mut order);
        assert_eq!(order, [4, 6, 2, 0, 8, 3, 7, 5, 9, 1]);
    }

    #[test]
    fn a_fifth_of_each_label_is_held_out_and_of_a_single_row_none() {
        let rows: Vec<Row> = (0..103).map(|number| row(if number < 100 { number % 5 } else { number }, None)).collect();
        let split = held_out(&rows, 0.2, 1);
        assert!(is_partition(&split, 103));
        for label in 0..5 {
            assert_eq!(split.held.iter().filter(|&&held| held < 100 && held % 5 == label).count(), 4);
        }
        assert!(split.held.iter().all(|&held| held < 100));
        assert_ne!(split, held_out(&rows, 0.2, 2), "another seed, another split");
        assert_eq!(split, held_out(&rows, 0.2, 1));
    }

    #[test]
    fn labels_of_two_rows_give_their_share_together() {
        let rows: Vec<Row> = (0..100).map(|number| row(number / 2, None)).collect();
        assert_eq!(held_out(&rows, 0.2, 1).held.len(), 20);
    }

    proptest! {
        #[test]
        fn a_group_is_never_on_both_sides(groups in prop::collection::vec(0_usize..12, 2..80), seed: u64) {
            let rows: Vec<Row> = groups.iter().map(|&group| row(group % 3, Some(group))).collect();
            let mut splits = group_folds(&rows, 4, seed);
            for fold in 0..rows.len() {
                prop_assert_eq!(splits.iter().filter(|split| split.held.contains(&fold)).count(), 1);
            }
            splits.push(held_out(&rows, 0.3, seed));
            for split in splits {
                prop_assert!(is_partition(&split, rows.len()));
                let group = |row: &usize| groups[*row];
                prop_assert!(!split.held.iter().any(|held| split.kept.iter().any(|kept| group(kept) == group(held))));
            }
        }

        #[test]
        fn each_row_is_held_out_once_and_folds_have_as_many_of_each_label(
            labels in prop::collection::vec(0_usize..6, 2..90), folds in 2_usize..6, seed: u64,
        ) {
            let rows: Vec<Row> = labels.iter().map(|&label| row(label, None)).collect();
            let splits = stratified_folds(&rows, folds, seed);
            let mut held: Vec<usize> = splits.iter().flat_map(|split| split.held.clone()).collect();
            held.sort_unstable();
            prop_assert_eq!(held, (0..rows.len()).collect::<Vec<_>>());
            for label in 0..6 {
                let counts = splits.iter().map(|split| split.held.iter().filter(|&&row| labels[row] == label).count());
                let (least, most) = counts.fold((usize::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
                prop_assert!(most - least <= 1, "{} to {}", least, most);
            }
        }
    }
}
