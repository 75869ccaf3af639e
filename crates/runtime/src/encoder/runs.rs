//! A batch of texts of different lengths as few passes of nearly equal ones: what is padded is computed, too.

use super::engine::PassCost;

/// The most tokens of one pass, padding included. With more of them what passes between the layers (6 kB a token) leaves the
/// caches: at 4096 tokens each costs a fifth more than at 512.
const PASS_TOKENS_MAX: usize = 512;

/// Splits texts into passes so that what all cost together is the least: `a + b * texts * longest` for each. `order` is the
/// texts by length; the answer is where in it each pass ends.
///
/// Texts of one pass are neighbours by length in some best split (exchanging two between passes never makes a longest longer),
/// so it is found by dynamic programming over the ends, in time quadratic in the texts of a batch.
pub(super) fn split(lengths: &[usize], cost: PassCost) -> Vec<usize> {
    let mut best = vec![(0.0, 0); lengths.len() + 1];
    for end in 1..=lengths.len() {
        let padded = |start: usize| (end - start) * lengths[end - 1];
        best[end] = (0..end)
            .filter(|&start| start + 1 == end || padded(start) <= PASS_TOKENS_MAX)
            .map(|start| {
                let (before, _): (f64, usize) = best[start];
                let padded = padded(start);
                (before + cost.pass_us + cost.token_us * padded as f64, start)
            })
            .min_by(|one, other| one.0.total_cmp(&other.0))
            .unwrap_or_default();
    }
    let mut ends = Vec::new();
    let mut end = lengths.len();
    while end > 0 {
        ends.push(end);
        end = best[end].1;
    }
    ends.reverse();
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost_of(lengths: &[usize], ends: &[usize], cost: PassCost) -> f64 {
        let mut start = 0;
        let mut total = 0.0;
        for &end in ends {
            total += cost.pass_us + cost.token_us * ((end - start) * lengths[end - 1]) as f64;
            start = end;
        }
        total
    }

    /// Every way to cut so many texts, as the ends of the passes.
    fn all_ways(texts: usize) -> impl Iterator<Item = Vec<usize>> {
        (0..1_u32 << (texts - 1))
            .map(move |cuts| (1..=texts).filter(|&end| end == texts || cuts >> (end - 1) & 1 == 1).collect())
    }

    #[test]
    fn no_other_split_costs_less() {
        let cases: [&[usize]; 5] =
            [&[7], &[3, 3, 3, 3], &[2, 2, 9, 10, 30], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[4, 4, 40, 41, 41, 42]];
        for lengths in cases {
            for pass_us in [0.0, 10.0, 500.0, 5000.0] {
                let cost = PassCost { pass_us, token_us: 100.0 };
                let best =
                    all_ways(lengths.len()).map(|ends| cost_of(lengths, &ends, cost)).fold(f64::INFINITY, f64::min);
                let found = cost_of(lengths, &split(lengths, cost), cost);
                assert!((found - best).abs() < 1e-6, "{lengths:?} at {pass_us}: {found}, not {best}");
            }
        }
    }

    #[test]
    fn texts_of_one_length_share_a_pass_up_to_its_limit() {
        let cost = PassCost { pass_us: 500.0, token_us: 100.0 };
        assert_eq!(split(&[20; 8], cost), [8]);
        let ends = split(&[128; 9], cost);
        assert_eq!(ends.len(), 3, "{ends:?}: four texts of 128 tokens are the most of one pass");
        assert_eq!(split(&[600, 600], cost), [1, 2]);
        assert_eq!(split(&[], cost), [0; 0]);
    }
}
