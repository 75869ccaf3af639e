//! No two prices of a book may be in force for one name at one time.

use std::cmp::Reverse;

use tollgate_types::Timestamp;

use super::problem::Problems;

/// When a price is in force: from the first instant to before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Period {
    pub from: Timestamp,
    /// Exclusive; `None`: until further notice.
    pub to: Option<Timestamp>,
}

/// One name a price is for, its model's or an alias.
#[derive(Clone, Debug)]
pub(super) struct Claim<'b> {
    pub provider: &'b str,
    pub name: &'b str,
    pub period: Period,
    /// Which price of the book, counted from 1, and where it stands in the text.
    pub price: usize,
    pub at: usize,
}

// === impl Period ===

impl Period {
    /// The first instant after it; the end of time if it has no end.
    pub(super) fn end(&self) -> Timestamp {
        self.to.unwrap_or(Timestamp(i64::MAX))
    }

    #[cfg(test)]
    fn overlaps(&self, other: &Self) -> bool {
        self.from < other.end() && other.from < self.end()
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to {
            Some(to) => write!(f, "from {} to {to}", self.from),
            None => write!(f, "from {} on", self.from),
        }
    }
}

/// Tells each claim that overlaps an earlier one. A period that ends before it begins is told elsewhere and left out here.
pub(super) fn find(claims: &[Claim<'_>], problems: &mut Problems) {
    let mut sorted: Vec<&Claim<'_>> = claims.iter().filter(|claim| claim.period.from < claim.period.end()).collect();
    sorted
        .sort_by_key(|claim| (claim.provider, claim.name, claim.period.from, Reverse(claim.period.end()), claim.price));
    // Of the claims on one name so far, the one that ends last: whoever begins before that overlaps it.
    let mut last: Option<&Claim<'_>> = None;
    for claim in sorted {
        let before = last.filter(|last| (last.provider, last.name) == (claim.provider, claim.name));
        if let Some(before) = before
            && claim.period.from < before.period.end()
        {
            tell(before, claim, problems);
        }
        if before.is_none_or(|before| before.period.end() < claim.period.end()) {
            last = Some(claim);
        }
    }
}

fn tell(before: &Claim<'_>, claim: &Claim<'_>, problems: &mut Problems) {
    let (provider, name) = (claim.provider, claim.name);
    let place = format!("price {} ({provider}/{name})", claim.price);
    let what = if problems.is_full() {
        String::new()
    } else if before.price == claim.price {
        format!("it names {name} twice: remove the alias")
    } else {
        let line = problems.line_of(before.at);
        let there = format!("price {} on line {line}", before.price);
        if before.period == claim.period {
            format!("{provider}/{name} has a price for that period already, {there}: remove one")
        } else {
            format!(
                "in force {}, but {there} is in force {}: end the older one with effective_to = \"{}\"",
                claim.period, before.period, claim.period.from
            )
        }
    };
    problems.add(claim.at, &place, what);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn period() -> impl Strategy<Value = Period> {
        (0..20i64, prop::option::of(1..20i64)).prop_map(|(from, length)| Period {
            from: Timestamp(from),
            to: length.map(|length| Timestamp(from + length)),
        })
    }

    fn found(periods: &[(u8, Period)]) -> usize {
        let names = ["a", "b"];
        let claims: Vec<Claim<'_>> = (1..)
            .zip(periods)
            .map(|(price, &(name, period))| Claim {
                provider: "p",
                name: names[usize::from(name) % names.len()],
                period,
                price,
                at: 0,
            })
            .collect();
        let mut problems = Problems::new("");
        find(&claims, &mut problems);
        problems.count()
    }

    proptest! {
        #[test]
        fn an_overlap_is_found_whichever_comes_first(a in period(), b in period()) {
            prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
            let shared = (0..60).any(|t| [a, b].iter().all(|p| p.from <= Timestamp(t) && Timestamp(t) < p.end()));
            prop_assert_eq!(a.overlaps(&b), shared);
            prop_assert_eq!(found(&[(0, a), (0, b)]), usize::from(shared));
            prop_assert_eq!(found(&[(0, b), (0, a)]), usize::from(shared));
            prop_assert_eq!(found(&[(0, a), (1, b)]), 0);
        }

        #[test]
        fn a_list_is_free_of_overlaps_if_every_pair_in_it_is(
            list in prop::collection::vec((0..2u8, period()), 0..8),
        ) {
            let clash = |(i, a): (usize, &(u8, Period))| {
                list[..i].iter().any(|b| a.0 == b.0 && a.1.overlaps(&b.1))
            };
            prop_assert_eq!(found(&list) > 0, list.iter().enumerate().any(clash));
            let reversed: Vec<_> = list.iter().rev().copied().collect();
            prop_assert_eq!(found(&list), found(&reversed));
        }
    }
}
