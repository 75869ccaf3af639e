//! The books in force together, and the price of a model at a moment.
//!
//! The rule: books are in an order, and **the later book wins, name by name and instant by instant**. Where a later book
//! has a price for a provider, a name and a moment, it holds; everywhere else the earlier books hold as before. Names are
//! matched exactly: an alias that a later book does not repeat keeps its earlier price.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_types::Timestamp;

use super::book::{Price, PriceBook};
use super::overlap::Period;
use super::rate::Rate;

/// Several books as one. Made once per change, then only read.
#[derive(Clone, Debug, Default)]
pub struct PriceBooks {
    books: Vec<Arc<PriceBook>>,
    /// By the model's name or alias. Few providers share one, so the second step is a short list.
    by_name: HashMap<Box<str>, Vec<AtProvider>, RandomState>,
}

/// A price found, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Rated<'a> {
    pub rate: &'a Rate,
    /// The version of the book the price is from.
    pub version: &'a Arc<str>,
    pub price: &'a Price,
}

/// Why a book cannot join the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceBooksError {
    #[error("version {version} is another book's already, with other prices: give this one a version of its own")]
    VersionTaken { version: Arc<str> },
}

#[derive(Clone, Debug)]
struct AtProvider {
    provider: Box<str>,
    /// One after the other in time, never two at once.
    timeline: Vec<InForce>,
}

#[derive(Clone, Copy, Debug)]
struct InForce {
    from: Timestamp,
    /// Exclusive.
    to: Timestamp,
    book: usize,
    price: usize,
}

// === impl PriceBooks ===

impl PriceBooks {
    /// Puts `books` in force, the later before the earlier. A book that comes twice counts where it comes last.
    pub fn new(books: impl IntoIterator<Item = Arc<PriceBook>>) -> Result<Self, PriceBooksError> {
        let mut kept: Vec<Arc<PriceBook>> = Vec::new();
        for book in books {
            kept.retain(|earlier| earlier.sha256() != book.sha256());
            if kept.iter().any(|earlier| earlier.version() == book.version()) {
                return Err(PriceBooksError::VersionTaken { version: book.version().clone() });
            }
            kept.push(book);
        }
        let mut all = Self { books: kept, by_name: HashMap::default() };
        for book in 0..all.books.len() {
            all.put_in_force(book);
        }
        Ok(all)
    }

    /// These books and `book` over them.
    pub fn with(&self, book: Arc<PriceBook>) -> Result<Self, PriceBooksError> {
        Self::new(self.books.iter().cloned().chain([book]))
    }

    /// In their order: the last wins.
    pub fn books(&self) -> &[Arc<PriceBook>] {
        &self.books
    }

    /// The price in force for exactly this provider and model at that moment.
    pub fn rate(&self, provider: &str, model: &str, at: Timestamp) -> Option<Rated<'_>> {
        let at_provider = self.by_name.get(model)?.iter().find(|entry| &*entry.provider == provider)?;
        let begun = at_provider.timeline.partition_point(|in_force| in_force.from <= at);
        let found = at_provider.timeline[..begun].last().filter(|in_force| at < in_force.to)?;
        let book = &self.books[found.book];
        let price = &book.prices()[found.price];
        Some(Rated { rate: &price.rate, version: book.version(), price })
    }

    fn put_in_force(&mut self, book: usize) {
        let prices = self.books[book].clone();
        let mut in_time: Vec<(usize, &Price)> = prices.prices().iter().enumerate().collect();
        in_time.sort_by_key(|(_, price)| price.effective_from);
        for (index, price) in in_time {
            let period = Period { from: price.effective_from, to: price.effective_to };
            let new = InForce { from: period.from, to: period.end(), book, price: index };
            for name in price.names() {
                overlay(self.timeline(name, &price.provider), new);
            }
        }
    }

    fn timeline(&mut self, name: &str, provider: &str) -> &mut Vec<InForce> {
        let entries = self.by_name.entry(name.into()).or_default();
        let known = entries.iter().position(|entry| &*entry.provider == provider);
        let index = known.unwrap_or_else(|| {
            entries.push(AtProvider { provider: provider.into(), timeline: Vec::new() });
            entries.len() - 1
        });
        &mut entries[index].timeline
    }
}

/// Lays `new` over what is there: whatever it covers gives way, what sticks out before and after it stays.
fn overlay(timeline: &mut Vec<InForce>, new: InForce) {
    if timeline.last().is_none_or(|last| last.to <= new.from) {
        timeline.push(new);
        return;
    }
    let mut over = Vec::with_capacity(timeline.len() + 2);
    for old in timeline.iter() {
        if old.from < new.from {
            over.push(InForce { to: old.to.min(new.from), ..*old });
        }
        if new.to < old.to {
            over.push(InForce { from: old.from.max(new.to), ..*old });
        }
    }
    over.push(new);
    over.sort_by_key(|in_force| in_force.from);
    *timeline = over;
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    type Entry = (&'static str, &'static str, i64, Option<i64>, u64);

    /// A book of prices `(provider, model, from, to, picodollars per input token)`, times in seconds of the year 2000.
    fn book(version: &str, entries: &[Entry]) -> Arc<PriceBook> {
        let mut text = format!("version = \"{version}\"\nsource = \"a test\"\nchecked_at = \"2026-11-23\"\n");
        for &(provider, model, from, to, pico) in entries {
            let to = to.map(|to| format!("effective_to = \"{}\"\n", at(to))).unwrap_or_default();
            let from = at(from);
            write!(
                text,
                "[[price]]\nprovider = \"{provider}\"\nmodel = \"{model}\"\neffective_from = \"{from}\"\n{to}\
                 input_usd_per_million = \"0.{pico:06}\"\n"
            )
            .expect("a string takes it");
        }
        Arc::new(PriceBook::parse(&text).expect("a good book"))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(946_684_800_000_000 + seconds * 1_000_000)
    }

    fn books(books: &[&Arc<PriceBook>]) -> PriceBooks {
        PriceBooks::new(books.iter().map(|book| (*book).clone())).expect("good books")
    }

    fn check(books: &PriceBooks, model: &str, seconds: i64, expected: Option<(&str, u64)>) {
        let found = books.rate("p", model, at(seconds));
        let found = found.as_ref().map(|rated| (&**rated.version, rated.rate.base().input.0));
        assert_eq!(found, expected, "{model} at {seconds}");
    }

    #[test]
    fn a_price_holds_from_its_first_instant_to_before_its_end() {
        let all = books(&[&book("1", &[("p", "m", 10, Some(20), 1), ("p", "m", 20, None, 2)])]);
        check(&all, "m", 9, None);
        check(&all, "m", 10, Some(("1", 1)));
        check(&all, "m", 19, Some(("1", 1)));
        check(&all, "m", 20, Some(("1", 2)));
        check(&all, "m", 1_000_000, Some(("1", 2)));
    }

    #[test]
    fn a_later_book_wins_where_it_speaks_and_nowhere_else() {
        let first = book("first", &[("p", "m", 0, None, 1), ("p", "other", 0, None, 7), ("q", "m", 0, None, 9)]);
        let second = book("second", &[("p", "m", 10, Some(20), 2)]);
        let third = book("third", &[("p", "m", 15, Some(30), 3)]);
        let all = books(&[&first, &second, &third]);
        check(&all, "m", 5, Some(("first", 1)));
        check(&all, "m", 10, Some(("second", 2)));
        check(&all, "m", 15, Some(("third", 3)));
        check(&all, "m", 29, Some(("third", 3)));
        check(&all, "m", 30, Some(("first", 1)));
        check(&all, "other", 15, Some(("first", 7)));
        assert_eq!(all.rate("q", "m", at(15)).map(|rated| rated.rate.base().input.0), Some(9));
        check(&books(&[&third, &second, &first]), "m", 15, Some(("first", 1)));
    }

    #[test]
    fn names_are_matched_exactly() {
        let all = books(&[&book("1", &[("p", "gpt-4o", 0, None, 1)])]);
        for model in ["gpt-4", "gpt-4o-mini", "GPT-4o", "gpt-4o ", " gpt-4o", "p/gpt-4o", ""] {
            check(&all, model, 5, None);
        }
        check(&all, "gpt-4o", 5, Some(("1", 1)));
        for provider in ["", "P", "pp", "q"] {
            assert!(all.rate(provider, "gpt-4o", at(5)).is_none(), "{provider}");
        }
    }

    #[test]
    fn a_version_stands_for_one_content() {
        let (one, other) = (book("1", &[("p", "m", 0, None, 1)]), book("1", &[("p", "m", 0, None, 2)]));
        let taken = PriceBooks::new([one.clone(), other]).expect_err("a version taken");
        assert_eq!(taken, PriceBooksError::VersionTaken { version: "1".into() });
        // The same book again is no clash: it counts where it comes last.
        let over = book("2", &[("p", "m", 0, None, 3)]);
        let all = books(&[&one, &over]);
        check(&all, "m", 0, Some(("2", 3)));
        let back = all.with(one).expect("the same book");
        check(&back, "m", 0, Some(("1", 1)));
        assert_eq!(back.books().len(), 2);
        check(&PriceBooks::default(), "m", 0, None);
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let model = prop_oneof![Just("m"), Just("n")];
        let entry = (model, 0..40i64, prop::option::of(1..20i64), 1..999u64);
        prop::collection::vec(entry, 0..6).prop_map(|entries| {
            let mut kept: Vec<Entry> = vec![("other", "m", 0, None, 1)];
            for (model, from, length, pico) in entries {
                let to = length.map(|length| from + length);
                let free = kept.iter().all(|&(provider, name, start, end, _)| {
                    (provider, name) != ("p", model)
                        || end.is_some_and(|end| end <= from)
                        || to.is_some_and(|to| to <= start)
                });
                if free {
                    kept.push(("p", model, from, to, pico));
                }
            }
            kept
        })
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_the_last_book_that_speaks_says(lists in prop::collection::vec(entries(), 1..5), time in -1..70i64) {
            let parsed: Vec<_> = (0..).zip(&lists).map(|(n, list): (u32, _)| book(&n.to_string(), list)).collect();
            let all = PriceBooks::new(parsed).expect("versions differ or the content is the same");
            for model in ["m", "n"] {
                let speaks = |&&(provider, name, from, to, _): &&Entry| {
                    (provider, name) == ("p", model) && from <= time && to.is_none_or(|to| time < to)
                };
                let expected = lists.iter().rev().find_map(|list| list.iter().find(speaks)).map(|entry| entry.4);
                prop_assert_eq!(all.rate("p", model, at(time)).map(|rated| rated.rate.base().input.0), expected);
            }
        }
    }
}
