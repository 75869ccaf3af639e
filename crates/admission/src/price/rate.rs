//! The rate of one model: what its tokens cost, in tiers by the length of the input, what a second of CPU costs where the
//! model runs here, and the arithmetic on it.

use tollgate_types::{Confidence, PicoUsd, Usage};

use super::TIERS_MAX;

/// Picodollars per token. Always `cached_input <= input <= cache_write`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    pub input: PicoUsd,
    /// Input the provider had in its cache.
    pub cached_input: PicoUsd,
    /// Input the provider writes to its cache; the same as `input` unless the provider bills the writing.
    pub cache_write: PicoUsd,
    pub output: PicoUsd,
    /// Sound in the input, and in the output. `None`: usage that states such tokens cannot be priced.
    pub audio_input: Option<PicoUsd>,
    pub audio_output: Option<PicoUsd>,
}

/// What stated usage comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priced {
    pub cost: PicoUsd,
    /// Measured, or at least the bill where the usage leaves open what was written to the cache, or which part of the
    /// sound was read from it.
    pub confidence: Confidence,
}

/// Prices of a whole request whose input is longer than `above_input_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    pub above_input_tokens: u64,
    pub prices: Prices,
}

/// What the tokens of one model cost during one period. Of fixed size: a clone allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    base: Prices,
    /// The first `tiers_len` hold, thresholds ascending.
    tiers: [Tier; TIERS_MAX],
    tiers_len: u8,
    chat: bool,
    /// The most input tokens one image may cost; `None`: nothing bounds them, so a request with images has no bound.
    pub image_tokens_max: Option<u64>,
    /// Picodollars per second of CPU of a model that runs here; `None`: its work costs what its tokens cost.
    pub cpu_second: Option<PicoUsd>,
}

const MICROS_PER_SECOND: u128 = 1_000_000;

/// Why prices do not make a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("a rate has at most {TIERS_MAX} tiers")]
    TooManyTiers,
    #[error("thresholds must rise from tier to tier")]
    ThresholdsNotAscending,
    #[error("cached input must not cost more than input, nor writing it to the cache less")]
    CacheOutOfOrder,
}

// === impl Prices ===

impl Prices {
    /// Prices of a model whose provider does not bill writing to its cache.
    pub fn new(input: PicoUsd, cached_input: PicoUsd, output: PicoUsd) -> Self {
        Self { input, cached_input, cache_write: input, output, audio_input: None, audio_output: None }
    }

    fn in_order(&self) -> bool {
        self.cached_input <= self.input && self.input <= self.cache_write
    }

    /// `input` tokens of text, of which `cached` came from the cache and `written` went to it.
    fn cost(&self, input: u64, cached: u64, written: u64, output: u64) -> u128 {
        let cached = cached.min(input);
        let written = written.min(input - cached);
        let plain = input - cached - written;
        product(plain, self.input)
            .saturating_add(product(cached, self.cached_input))
            .saturating_add(product(written, self.cache_write))
            .saturating_add(product(output, self.output))
    }

    /// What the sound in `usage` costs; `None` where there is some and it has no price.
    fn audio_cost(&self, usage: &Usage) -> Option<u128> {
        let part = |tokens: u64, price: Option<PicoUsd>| match (tokens, price) {
            (0, _) => Some(0),
            (tokens, price) => Some(product(tokens, price?)),
        };
        let input = part(usage.audio_input_tokens, self.audio_input)?;
        Some(input.saturating_add(part(usage.audio_output_tokens, self.audio_output)?))
    }
}

// === impl Rate ===

impl Rate {
    /// A rate of chat (`chat`) or of embeddings only, with `tiers` in ascending order of their thresholds.
    pub fn new(base: Prices, tiers: &[Tier], chat: bool, image_tokens_max: Option<u64>) -> Result<Self, RateError> {
        if tiers.len() > TIERS_MAX {
            return Err(RateError::TooManyTiers);
        }
        if tiers.windows(2).any(|pair| pair[0].above_input_tokens >= pair[1].above_input_tokens) {
            return Err(RateError::ThresholdsNotAscending);
        }
        if !base.in_order() || tiers.iter().any(|tier| !tier.prices.in_order()) {
            return Err(RateError::CacheOutOfOrder);
        }
        let mut rate =
            Self { base, tiers: [Tier::default(); TIERS_MAX], tiers_len: 0, chat, image_tokens_max, cpu_second: None };
        for (slot, tier) in rate.tiers.iter_mut().zip(tiers) {
            *slot = *tier;
            rate.tiers_len += 1;
        }
        Ok(rate)
    }

    /// The same rate with a price of CPU time on top.
    pub fn with_cpu(self, second: PicoUsd) -> Self {
        Self { cpu_second: Some(second), ..self }
    }

    /// What so much CPU time costs: rounded half up, once a request.
    fn cpu_cost(&self, cpu_us: u64) -> u128 {
        let second = self.cpu_second.map_or(0, |price| u128::from(price.0));
        (u128::from(cpu_us) * second + MICROS_PER_SECOND / 2) / MICROS_PER_SECOND
    }

    /// The prices below the first threshold.
    pub fn base(&self) -> Prices {
        self.base
    }

    pub fn tiers(&self) -> &[Tier] {
        &self.tiers[..usize::from(self.tiers_len)]
    }

    /// Whether output has a price. A model without one makes embeddings and cannot chat.
    pub fn prices_output(&self) -> bool {
        self.chat
    }

    /// Whether the provider bills writing to its cache apart.
    pub fn bills_cache_writes(&self) -> bool {
        self.steps().any(|step| step.prices.cache_write > step.prices.input)
    }

    /// The most a request of at most so many tokens, and so much CPU time, can cost, in whichever tier it ends up.
    ///
    /// `None` where there is no such amount: it is larger than one request can hold, or output is asked of a model that
    /// has no price for it.
    pub fn bound(&self, input_tokens_max: u64, output_tokens_max: u64, cpu_us_max: u64) -> Option<PicoUsd> {
        if output_tokens_max > 0 && !self.chat {
            return None;
        }
        let mut most = 0;
        for step in self.steps_within(input_tokens_max) {
            let output = product(output_tokens_max, step.prices.output);
            most = most.max(step.input_cost_max().checked_add(output)?);
        }
        u64::try_from(most.checked_add(self.cpu_cost(cpu_us_max))?).ok().map(PicoUsd)
    }

    /// The most output tokens with which [`Rate::bound`] is still at most `money`; `u64::MAX` where output is free.
    ///
    /// Zero too if `money` does not even cover the input.
    pub fn output_tokens_affordable(&self, input_tokens_max: u64, money: PicoUsd) -> u64 {
        if !self.chat {
            return 0;
        }
        let affordable = |step: Step| {
            let left = u128::from(money.0).checked_sub(step.input_cost_max())?;
            let tokens = left.checked_div(u128::from(step.prices.output.0)).unwrap_or(u128::MAX);
            Some(u64::try_from(tokens).unwrap_or(u64::MAX))
        };
        self.steps_within(input_tokens_max).map(|step| affordable(step).unwrap_or(0)).min().unwrap_or(0)
    }

    /// What `usage` comes to, and whether that is the bill or at least the bill. `None` if it states sound that has no
    /// price here: at the price of text it could be far below the bill.
    pub fn priced(&self, usage: &Usage) -> Option<Priced> {
        let prices = self.prices_at(usage.input_tokens);
        let audio = prices.audio_cost(usage)?;
        let written_unknown = usage.cache_write_tokens.is_none() && self.bills_cache_writes();
        let overlap_unknown = usage.audio_input_tokens > 0 && usage.cached_input_tokens > 0;
        let cost = audio.saturating_add(prices.cost(
            usage.input_tokens.saturating_sub(usage.audio_input_tokens),
            // As much of the cached part as can be was sound, which has no price for coming from a cache.
            usage.cached_input_tokens.saturating_sub(usage.audio_input_tokens),
            usage.cache_write_tokens.unwrap_or(u64::MAX),
            usage.output_tokens.saturating_sub(usage.audio_output_tokens),
        ));
        let cost = cost.saturating_add(self.cpu_cost(usage.cpu_us));
        let confidence = match written_unknown || overlap_unknown {
            true => Confidence::Bounded,
            false => Confidence::Measured,
        };
        Some(Priced { cost: PicoUsd(u64::try_from(cost).unwrap_or(u64::MAX)), confidence })
    }

    /// What `usage` costs us if all its tokens are text; a sum too large to hold becomes the largest there is.
    ///
    /// Where it does not tell how much was written to the provider's cache, all input that did not come from the cache is
    /// taken as written, and the bill cannot be higher.
    pub fn cost(&self, usage: &Usage) -> PicoUsd {
        self.cost_with_cache_writes(usage, usage.cache_write_tokens.unwrap_or(u64::MAX))
    }

    /// What `usage` costs us if all its tokens are text and `written` of its input were written to the provider's cache.
    pub fn cost_with_cache_writes(&self, usage: &Usage, written: u64) -> PicoUsd {
        let prices = self.prices_at(usage.input_tokens);
        let tokens = prices.cost(usage.input_tokens, usage.cached_input_tokens, written, usage.output_tokens);
        let cost = tokens.saturating_add(self.cpu_cost(usage.cpu_us));
        PicoUsd(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    /// The prices of a request with so much input: the whole of it is priced at the last tier whose threshold it exceeds.
    fn prices_at(&self, input_tokens: u64) -> &Prices {
        let exceeded = self.tiers().iter().rev().find(|tier| input_tokens > tier.above_input_tokens);
        exceeded.map_or(&self.base, |tier| &tier.prices)
    }

    /// Every step of the price, each with the longest input that is still priced by it.
    fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        let tiers = self.tiers();
        let next = |index: usize| tiers.get(index).map_or(u64::MAX, |tier| tier.above_input_tokens);
        let base = Step { above: None, input_max: next(0), prices: self.base };
        let above = tiers.iter().enumerate().map(move |(index, tier)| Step {
            above: Some(tier.above_input_tokens),
            input_max: next(index + 1),
            prices: tier.prices,
        });
        std::iter::once(base).chain(above)
    }

    /// The steps a request of at most so much input can be priced at, each with the most input it can have there.
    fn steps_within(&self, input_tokens_max: u64) -> impl Iterator<Item = Step> + '_ {
        let reached = move |step: &Step| step.above.is_none_or(|above| input_tokens_max > above);
        self.steps().filter(reached).map(move |step| Step { input_max: step.input_max.min(input_tokens_max), ..step })
    }
}

/// One step of the price: the base, or a tier.
#[derive(Clone, Copy)]
struct Step {
    above: Option<u64>,
    input_max: u64,
    prices: Prices,
}

impl Step {
    /// Writing to the cache is the dearest a token of input can be.
    fn input_cost_max(&self) -> u128 {
        product(self.input_max, self.prices.cache_write)
    }
}

fn product(tokens: u64, price: PicoUsd) -> u128 {
    u128::from(tokens) * u128::from(price.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flat(input: u64, cached: u64, output: u64) -> Rate {
        let prices = Prices::new(PicoUsd(input), PicoUsd(cached), PicoUsd(output));
        Rate::new(prices, &[], true, None).expect("a rate")
    }

    fn tier(above: u64, input: u64, cached: u64, output: u64) -> Tier {
        Tier { above_input_tokens: above, prices: Prices::new(PicoUsd(input), PicoUsd(cached), PicoUsd(output)) }
    }

    fn usage(input: u64, cached: u64, output: u64) -> Usage {
        Usage { input_tokens: input, cached_input_tokens: cached, output_tokens: output, ..Usage::default() }
    }

    #[test]
    fn a_cost_is_the_sum_of_its_tokens() {
        let check = |rate: Rate, used: Usage, cost: u64| assert_eq!(rate.cost(&used), PicoUsd(cost), "{used:?}");
        check(flat(150, 75, 600), usage(0, 0, 0), 0);
        check(flat(150, 75, 600), usage(1_000, 0, 10), 156_000);
        check(flat(150, 75, 600), usage(1_000, 400, 10), 90_000 + 30_000 + 6_000);
        check(flat(150, 75, 600), usage(1_000, 1_000, 0), 75_000);
        // More cached than there was cannot be: it counts as all of it.
        check(flat(150, 75, 600), usage(1_000, 5_000, 0), 75_000);
        // Reasoning is a part of the output and costs nothing on top.
        check(flat(150, 75, 600), Usage { reasoning_tokens: 9, ..usage(0, 0, 10) }, 6_000);
        check(flat(2, 1, 3), usage(u64::MAX, 0, u64::MAX), u64::MAX);
        check(flat(u64::MAX, u64::MAX, u64::MAX), usage(u64::MAX, 0, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_request_above_a_threshold_is_priced_as_a_whole_at_its_tier() {
        let rate = Rate::new(
            Prices::new(PicoUsd(10), PicoUsd(1), PicoUsd(100)),
            &[tier(200, 20, 2, 150), tier(1_000, 40, 4, 300)],
            true,
            None,
        )
        .expect("a rate");
        let check = |used: Usage, cost: u64| assert_eq!(rate.cost(&used), PicoUsd(cost), "{used:?}");
        check(usage(200, 0, 1), 2_100);
        check(usage(201, 0, 1), 4_170);
        check(usage(201, 201, 1), 552); // what counts is all input, cached or not
        check(usage(1_000, 0, 0), 20_000);
        check(usage(1_001, 1, 2), 40_000 + 4 + 600);
    }

    #[test]
    fn cpu_time_costs_what_it_took_rounded_once() {
        let rate = flat(0, 0, 0).with_cpu(PicoUsd(13_888_889)); // 0.05 USD an hour
        let check = |cpu_us: u64, cost: u64| {
            let used = Usage { cpu_us, input_tokens: 7, ..Usage::default() };
            assert_eq!(rate.cost(&used), PicoUsd(cost), "{cpu_us} us");
            assert_eq!(rate.priced(&used).map(|priced| priced.cost), Some(PicoUsd(cost)));
            assert_eq!(rate.bound(7, 0, cpu_us), Some(PicoUsd(cost)));
        };
        check(0, 0);
        check(1, 14); // 13.89
        check(1_000_000, 13_888_889);
        check(3_600_000_000, 50_000_000_400);
        assert_eq!(rate.bound(0, 0, u64::MAX), None, "more than one request can hold");
        let both = flat(10, 10, 0).with_cpu(PicoUsd(1_000_000));
        assert_eq!(both.cost(&Usage { cpu_us: 5, input_tokens: 2, ..Usage::default() }), PicoUsd(25));
        assert_eq!(flat(10, 10, 0).cost(&Usage { cpu_us: 5, input_tokens: 2, ..Usage::default() }), PicoUsd(20));
    }

    #[test]
    fn a_bound_takes_the_dearest_tier_that_can_be_reached() {
        let rate = Rate::new(Prices::new(PicoUsd(10), PicoUsd(1), PicoUsd(100)), &[tier(200, 20, 2, 150)], true, None)
            .expect("a rate");
        let check = |input: u64, output: u64, most: u64| {
            assert_eq!(rate.bound(input, output, 0), Some(PicoUsd(most)), "{input} in, {output} out");
        };
        check(0, 0, 0);
        check(200, 1, 2_100);
        check(201, 1, 4_170);
        // A tier that is cheaper does not hide what costs more just below it.
        let falling = Rate::new(flat(10, 0, 1).base(), &[tier(100, 1, 0, 1)], true, None).expect("a rate");
        assert_eq!(falling.bound(100, 0, 0), Some(PicoUsd(1_000)));
        assert_eq!(falling.bound(101, 0, 0), Some(PicoUsd(1_000)));
        assert_eq!(falling.bound(5_000, 0, 0), Some(PicoUsd(5_000)));
    }

    #[test]
    fn what_is_too_much_for_one_request_has_no_bound() {
        assert_eq!(flat(1, 1, 1).bound(u64::MAX, 0, 0), Some(PicoUsd::MAX));
        assert_eq!(flat(1, 1, 1).bound(u64::MAX, 1, 0), None);
        assert_eq!(flat(u64::MAX, 0, u64::MAX).bound(u64::MAX, u64::MAX, 0), None);
    }

    #[test]
    fn a_model_without_a_price_for_output_cannot_chat() {
        let rate =
            Rate::new(Prices { output: PicoUsd::ZERO, ..flat(20, 20, 0).base() }, &[], false, None).expect("a rate");
        assert!(!rate.prices_output() && flat(1, 1, 0).prices_output());
        assert_eq!(rate.bound(10, 0, 0), Some(PicoUsd(200)));
        assert_eq!(rate.bound(10, 1, 0), None);
        assert_eq!(rate.output_tokens_affordable(0, PicoUsd::MAX), 0);
    }

    #[test]
    fn writing_to_the_cache_is_bounded_and_priced_once() {
        let base = Prices { cache_write: PicoUsd(125), ..flat(100, 10, 500).base() };
        let rate = Rate::new(base, &[], true, None).expect("a rate");
        assert!(rate.bills_cache_writes() && !flat(1, 1, 1).bills_cache_writes());
        assert_eq!(rate.bound(1_000, 0, 0), Some(PicoUsd(125_000)));
        // 1,000 tokens: 600 from the cache, 300 to it, 100 neither.
        assert_eq!(rate.cost_with_cache_writes(&usage(1_000, 600, 0), 300), PicoUsd(6_000 + 37_500 + 10_000));
        assert_eq!(rate.cost(&usage(1_000, 600, 0)), PicoUsd(6_000 + 50_000));
    }

    #[test]
    fn what_was_written_to_the_cache_is_priced_exactly_where_it_is_stated() {
        let base = Prices { cache_write: PicoUsd(125), ..flat(100, 10, 500).base() };
        let rate = Rate::new(base, &[], true, None).expect("a rate");
        let check = |written: Option<u64>, cost: u64, confidence: Confidence| {
            let usage = Usage { cache_write_tokens: written, ..usage(1_000, 600, 2) };
            assert_eq!(rate.priced(&usage), Some(Priced { cost: PicoUsd(cost), confidence }), "{written:?}");
        };
        check(Some(300), 6_000 + 37_500 + 10_000 + 1_000, Confidence::Measured);
        check(Some(0), 6_000 + 40_000 + 1_000, Confidence::Measured);
        check(None, 6_000 + 50_000 + 1_000, Confidence::Bounded);
        // Where writing is not billed apart, nobody needs to say how much it was.
        let unbilled = flat(100, 10, 500).priced(&usage(1_000, 600, 2)).expect("text has a price");
        assert_eq!(unbilled, Priced { cost: PicoUsd(6_000 + 40_000 + 1_000), confidence: Confidence::Measured });
    }

    #[test]
    fn sound_has_a_price_of_its_own_or_none() {
        let used = |audio_in: u64, audio_out: u64, cached: u64| Usage {
            audio_input_tokens: audio_in,
            audio_output_tokens: audio_out,
            ..usage(100, cached, 50)
        };
        let with = |audio_input: Option<u64>, audio_output: Option<u64>| {
            let (audio_input, audio_output) = (audio_input.map(PicoUsd), audio_output.map(PicoUsd));
            Rate::new(Prices { audio_input, audio_output, ..flat(10, 1, 20).base() }, &[], true, None).expect("a rate")
        };
        let cost = |rate: Rate, usage: Usage| rate.priced(&usage).map(|priced| (priced.cost.0, priced.confidence));
        let measured = |cost: u64| Some((cost, Confidence::Measured));
        assert_eq!(
            cost(with(Some(100), Some(200)), used(40, 30, 0)),
            measured(60 * 10 + 40 * 100 + 20 * 20 + 30 * 200)
        );
        assert_eq!(cost(with(None, None), used(0, 0, 0)), measured(2_000));
        assert_eq!(cost(with(None, Some(200)), used(1, 0, 0)), None, "never at the price of text");
        assert_eq!(cost(with(Some(100), None), used(0, 1, 0)), None);
        // 50 were cached, and nobody says whether any of the 40 of sound were: at least the bill is posted.
        let bounded = Some((50 * 10 + 10 + 40 * 100 + 1_000, Confidence::Bounded));
        assert_eq!(cost(with(Some(100), None), used(40, 0, 50)), bounded);
    }

    #[test]
    fn what_an_amount_affords_is_found_exactly() {
        let check = |rate: Rate, input: u64, money: u64, tokens: u64| {
            assert_eq!(rate.output_tokens_affordable(input, PicoUsd(money)), tokens, "{input} in for {money}");
        };
        check(flat(10, 10, 100), 10, 99, 0); // not even the input
        check(flat(10, 10, 100), 10, 100, 0);
        check(flat(10, 10, 100), 10, 199, 0);
        check(flat(10, 10, 100), 10, 200, 1);
        check(flat(10, 10, 0), 10, 100, u64::MAX);
        check(flat(10, 10, 0), 10, 99, 0);
        check(flat(0, 0, 1), 0, u64::MAX, u64::MAX);
    }

    #[test]
    fn prices_out_of_order_make_no_rate() {
        let base = flat(10, 1, 1).base();
        let made = |base, tiers: &[Tier]| Rate::new(base, tiers, true, None);
        assert_eq!(made(base, &[tier(1, 1, 1, 1); 4]), Err(RateError::TooManyTiers));
        assert_eq!(made(base, &[tier(5, 1, 1, 1), tier(5, 1, 1, 1)]), Err(RateError::ThresholdsNotAscending));
        assert_eq!(made(base, &[tier(5, 1, 2, 1)]), Err(RateError::CacheOutOfOrder));
        assert_eq!(made(Prices { cache_write: PicoUsd(9), ..base }, &[]), Err(RateError::CacheOutOfOrder));
    }

    /// Prices and counts of every size: small ones, where off-by-ones show, and those that overflow.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..50u64, 4 => 0..2_000_000_000u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
    }

    fn prices() -> impl Strategy<Value = Prices> {
        (number(), number(), number(), number()).prop_map(|(a, b, c, output)| {
            let mut inputs = [a, b, c];
            inputs.sort_unstable();
            let [cached_input, input, cache_write] = inputs.map(PicoUsd);
            Prices { cached_input, cache_write, ..Prices::new(input, cached_input, PicoUsd(output)) }
        })
    }

    fn rate() -> impl Strategy<Value = Rate> {
        let tiers = prop::collection::btree_map(number(), prices(), 0..=TIERS_MAX);
        (prices(), tiers, prop::bool::weighted(0.9)).prop_map(|(base, tiers, chat)| {
            let tiers: Vec<Tier> =
                tiers.into_iter().map(|(above_input_tokens, prices)| Tier { above_input_tokens, prices }).collect();
            Rate::new(base, &tiers, chat, None).expect("prices in order")
        })
    }

    /// Usage that stays within its first two numbers: input and output at most.
    fn bounded_usage() -> impl Strategy<Value = (u64, u64, Usage, u64)> {
        (number(), number()).prop_flat_map(|(input_max, output_max)| {
            (0..=input_max, number(), 0..=output_max, number()).prop_map(move |(input, cached, output, written)| {
                (input_max, output_max, usage(input, cached, output), written)
            })
        })
    }

    proptest! {
        #[test]
        fn nothing_within_the_bounds_costs_more_than_the_bound(
            rate in rate(), (input_max, output_max, used, written) in bounded_usage(),
        ) {
            if let Some(bound) = rate.bound(input_max, output_max, 0) {
                prop_assert!(rate.cost(&used) <= bound);
                prop_assert!(rate.cost_with_cache_writes(&used, written) <= rate.cost(&used));
                let stated = rate.priced(&Usage { cache_write_tokens: Some(written), ..used }).expect("text has a price");
                let unstated = rate.priced(&used).expect("text has a price");
                prop_assert!(stated.cost <= unstated.cost && unstated.cost <= bound);
                prop_assert!(stated.confidence == Confidence::Measured);
            }
        }

        #[test]
        fn the_bound_is_reached_by_some_usage(rate in rate(), input_max in number(), output_max in number()) {
            if let Some(bound) = rate.bound(input_max, output_max, 0) {
                let ends = rate.tiers().iter().map(|tier| tier.above_input_tokens.min(input_max)).chain([input_max]);
                let dearest = ends.map(|input| rate.cost(&usage(input, 0, output_max))).max();
                prop_assert_eq!(dearest, Some(bound));
            }
        }

        #[test]
        fn a_bound_never_falls_as_the_counts_rise(
            rate in rate(), input in number(), output in number(), more_input in number(), more_output in number(),
        ) {
            let wider = rate.bound(input.saturating_add(more_input), output.saturating_add(more_output), 0);
            if let Some(wider) = wider {
                prop_assert!(rate.bound(input, output, 0).is_some_and(|bound| bound <= wider));
            }
        }

        #[test]
        fn a_cost_never_falls_as_the_output_rises(rate in rate(), input in number(), output in number(), more in number()) {
            let longer = usage(input, 0, output.saturating_add(more));
            prop_assert!(rate.cost(&usage(input, 0, output)) <= rate.cost(&longer));
        }

        #[test]
        fn what_is_affordable_fits_and_one_token_more_does_not(rate in rate(), input in number(), money in number()) {
            let money = PicoUsd(money);
            let tokens = rate.output_tokens_affordable(input, money);
            let fits = |tokens| rate.bound(input, tokens, 0).is_some_and(|bound| bound <= money);
            prop_assert!(tokens == 0 || fits(tokens));
            prop_assert!(tokens == u64::MAX || !fits(tokens + 1));
        }
    }
}
