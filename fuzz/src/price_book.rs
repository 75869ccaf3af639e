//! Price books: what is taken is found again at its moment and nowhere else, a bound bounds every cost below it, and
//! what is affordable is exactly what the bound allows.

use std::sync::Arc;

use tollgate_admission::price::{PROBLEMS_MAX, PriceBook, PriceBooks, Rate};
use tollgate_types::tariff::{charge, cost_within_charge};
use tollgate_types::{PicoUsd, Timestamp, Usage};

use crate::{Decisions, Target};

pub const TARGET: Target = Target {
    name: "price_book",
    check: check_price_book,
    seeds: &[
        concat!(
            "version = \"2026-11\"\nsource = \"a page\"\nchecked_at = \"2026-11-23\"\n",
            "[[price]]\nprovider = \"openai\"\nmodel = \"gpt-4o-mini\"\naliases = [\"gpt-4o-mini-2024-07-18\"]\n",
            "effective_from = \"2026-11-01T00:00:00Z\"\neffective_to = \"2027-01-01T00:00:00Z\"\n",
            "input_usd_per_million = \"0.15\"\ncached_input_usd_per_million = \"0.075\"\n",
            "output_usd_per_million = \"0.60\"\nimage_tokens_max = 48169\n",
            "[[price]]\nprovider = \"openai\"\nmodel = \"gpt-4o-mini\"\neffective_from = \"2027-01-01T00:00:00Z\"\n",
            "input_usd_per_million = \"0.546875\"\noutput_usd_per_million = \"1\"\n",
        ),
        concat!(
            "version = \"tiers\"\nsource = \"a page\"\nchecked_at = \"2026-11-23\"\n",
            "[[price]]\nprovider = \"p\"\nmodel = \"m\"\neffective_from = \"2026-11-01T00:00:00Z\"\n",
            "input_usd_per_million = \"2\"\ncached_input_usd_per_million = \"0.1\"\ncache_write_usd_per_million = \"2.5\"\n",
            "output_usd_per_million = \"10\"\n",
            "[[price.tier]]\nabove_input_tokens = 200000\ninput_usd_per_million = \"4\"\n",
            "cached_input_usd_per_million = \"0.2\"\ncache_write_usd_per_million = \"5\"\noutput_usd_per_million = \"15\"\n",
            "[[price]]\nprovider = \"p\"\nmodel = \"embed\"\neffective_from = \"2026-11-01T00:00:00Z\"\n",
            "input_usd_per_million = \"0\"\nconfirmed = true\n",
        ),
        // Dearer below its threshold than above it.
        concat!(
            "version = \"discount\"\nsource = \"a page\"\nchecked_at = \"2026-11-23\"\n",
            "[[price]]\nprovider = \"p\"\nmodel = \"m\"\neffective_from = \"2026-11-01T00:00:00Z\"\nconfirmed = true\n",
            "input_usd_per_million = \"20\"\noutput_usd_per_million = \"40\"\n",
            "[[price.tier]]\nabove_input_tokens = 1000\ninput_usd_per_million = \"1\"\noutput_usd_per_million = \"2\"\n",
        ),
    ],
    words: &[
        "cpu_usd_per_million_seconds = \"13.888889\"\n",
        "[[price]]\n",
        "[[price.tier]]\n",
        "confirmed = true\n",
        "above_input_tokens = 1\n",
        "effective_to = ",
        "\"2026-11-01T00:00:00Z\"",
        "\"0\"",
        "\"1000.000001\"",
        "1.5",
        "aliases = []\n",
        "18446744073709551615",
    ],
    takes_noise: false,
};

pub fn check_price_book(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let book = match PriceBook::parse(text) {
        Ok(book) => Arc::new(book),
        Err(refused) => {
            assert!((1..=PROBLEMS_MAX).contains(&refused.problems.len()), "a refusal has its reasons");
            assert!(!refused.to_string().is_empty());
            return;
        }
    };
    assert_eq!(PriceBook::parse(text).as_ref(), Ok(&*book));
    assert!(!book.prices().is_empty(), "a book has prices");
    let books = PriceBooks::new([Arc::clone(&book)]).expect("one book has no rival");
    let mut decisions = Decisions(data);
    for price in book.prices() {
        for name in price.names() {
            let rate_at = |at| books.rate(&price.provider, name, at).map(|rated| rated.rate);
            assert_eq!(rate_at(price.effective_from), Some(&price.rate), "{name} at its first instant");
            let before = Timestamp(price.effective_from.0.saturating_sub(1));
            let is_in_force = |at: Timestamp| {
                let holds = |other: &&tollgate_admission::price::Price| {
                    other.provider == price.provider
                        && other.names().any(|other| other == name)
                        && other.effective_from <= at
                        && other.effective_to.is_none_or(|to| at < to)
                };
                book.prices().iter().find(holds).map(|price| &price.rate)
            };
            let moments = [before, Timestamp(i64::MIN), Timestamp(i64::MAX - 1)];
            for at in moments.into_iter().chain(price.effective_to) {
                assert_eq!(rate_at(at), is_in_force(at), "{name} at {at}");
            }
        }
        check_rate(&price.rate, &mut decisions);
    }
}

fn check_rate(rate: &Rate, decisions: &mut Decisions<'_>) {
    let edges = [0, 1, 199_999, 200_000, 200_001, 1 << 40];
    let tiers =
        rate.tiers().iter().flat_map(|tier| [tier.above_input_tokens, tier.above_input_tokens.saturating_add(1)]);
    let inputs: Vec<u64> = edges.into_iter().chain(tiers).chain([decisions.u64() >> 20]).collect();
    for &input_max in &inputs {
        for output_max in [0, 1, 4096, decisions.u64() >> 30] {
            let Some(bound) = rate.bound(input_max, output_max, 0) else {
                let priced = output_max == 0 || rate.prices_output();
                assert!(!priced || dearest(rate, input_max, output_max) > u128::from(u64::MAX), "a bound in reach");
                continue;
            };
            for &input in inputs.iter().filter(|input| **input <= input_max) {
                let usage = |cached| Usage {
                    input_tokens: input,
                    cached_input_tokens: cached,
                    output_tokens: output_max,
                    reasoning_tokens: output_max,
                    ..Usage::default()
                };
                for cached in [0, input / 2, input] {
                    let cost = rate.cost(&usage(cached));
                    assert!(cost <= bound, "{cost} for {input} tokens of at most {input_max}, held for {bound}");
                    assert!(rate.cost_with_cache_writes(&usage(cached), 0) <= cost, "writing never makes it cheaper");
                }
            }
            if rate.prices_output() {
                let tokens = rate.output_tokens_affordable(input_max, bound);
                assert!(tokens >= output_max, "the bound affords what it is the bound of");
                assert!(rate.bound(input_max, tokens, 0).is_none_or(|most| most <= bound), "and no more");
            }
            let cpu_us = decisions.u64() >> 30;
            if let Some(with_cpu) = rate.bound(input_max, output_max, cpu_us) {
                let usage = Usage { input_tokens: input_max, output_tokens: output_max, cpu_us, ..Usage::default() };
                assert!(rate.cost(&usage) <= with_cpu && bound <= with_cpu, "CPU time comes on top");
            }
            check_charge(bound, u32::from_le_bytes([(); 4].map(|()| decisions.byte())));
        }
    }
}

/// So many tokens, each at the dearest price there is for one.
fn dearest(rate: &Rate, input_tokens: u64, output_tokens: u64) -> u128 {
    let prices = || rate.tiers().iter().map(|tier| tier.prices).chain([rate.base()]);
    let (input, output) =
        (prices().map(|prices| prices.cache_write.0).max(), prices().map(|prices| prices.output.0).max());
    u128::from(input_tokens) * u128::from(input.unwrap_or(0))
        + u128::from(output_tokens) * u128::from(output.unwrap_or(0))
}

fn check_charge(cost: PicoUsd, markup_bps: u32) {
    let charged = charge(cost, markup_bps);
    assert!(charged >= cost, "a mark-up never takes off");
    let within = cost_within_charge(charged, markup_bps);
    assert!(within >= cost && charge(within, markup_bps) <= charged, "the highest cost of that charge");
    if let Some(more) = within.checked_add(PicoUsd(1)) {
        assert!(charge(more, markup_bps) > charged || charged == PicoUsd::MAX);
    }
}
