//! What the simulated provider bills: its own small price list and its own arithmetic, in whole picodollars
//! (1e-12 USD). No float comes near it, and no code of the gateway's.

/// Picodollars per token in one US dollar per million tokens.
const PICO_PER_TOKEN_IN_ONE_USD_PER_MILLION: u128 = 1_000_000;

/// Prices of one model, in picodollars a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub model: &'static str,
    pub input: u128,
    pub cached_input: u128,
    pub output: u128,
}

/// Tokens of one piece of work. `cached` is a part of `prompt`, `reasoning` a part of `completion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
    pub reasoning: u64,
}

/// Thousandths of a US dollar per million tokens: input, cached input, output.
const LIST: &[Price] = &[
    price("gpt-4o-mini", 150, 75, 600),
    price("gpt-4o", 2_500, 1_250, 10_000),
    price("gpt-4.1-mini", 400, 100, 1_600),
    price("gpt-4.1", 2_000, 500, 8_000),
    price("o4-mini", 1_100, 275, 4_400),
    price("text-embedding-3-small", 20, 20, 0),
    price("text-embedding-3-large", 130, 130, 0),
];

/// The price of `model`, of its dated versions (`gpt-4o-2024-08-06`), and for any other name that of `gpt-4o-mini`.
pub fn price_of(model: &str) -> &'static Price {
    LIST.iter().find(|price| names(model, price.model)).unwrap_or(&LIST[0])
}

/// The models the simulator lists. It answers to any other name too.
pub fn listed() -> impl Iterator<Item = &'static str> {
    LIST.iter().map(|price| price.model)
}

pub fn cost_picousd(price: &Price, tokens: Tokens) -> u128 {
    let cached = u128::from(tokens.cached.min(tokens.prompt));
    let fresh = u128::from(tokens.prompt) - cached;
    fresh * price.input + cached * price.cached_input + u128::from(tokens.completion) * price.output
}

fn names(asked: &str, listed: &str) -> bool {
    asked.strip_prefix(listed).is_some_and(|rest| rest.is_empty() || rest.starts_with("-20"))
}

const fn price(model: &'static str, input: u128, cached_input: u128, output: u128) -> Price {
    const MILLI: u128 = PICO_PER_TOKEN_IN_ONE_USD_PER_MILLION / 1_000;
    Price { model, input: input * MILLI, cached_input: cached_input * MILLI, output: output * MILLI }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(model: &str, prompt: u64, cached: u64, completion: u64, expected: u128) {
        let tokens = Tokens { prompt, cached, completion, reasoning: 0 };
        assert_eq!(cost_picousd(price_of(model), tokens), expected, "{model}");
    }

    #[test]
    fn a_million_tokens_cost_what_the_list_says() {
        check("gpt-4o-mini", 1_000_000, 0, 0, 150_000_000_000);
        check("gpt-4o-mini", 0, 0, 1_000_000, 600_000_000_000);
        check("gpt-4o-mini", 1_000_000, 1_000_000, 0, 75_000_000_000);
        check("gpt-4o", 1_000_000, 0, 1_000_000, 12_500_000_000_000);
        check("gpt-4.1-mini", 1_000_000, 500_000, 0, 250_000_000_000);
        check("gpt-4.1", 2, 1, 3, 2_000_000 + 500_000 + 24_000_000);
        check("o4-mini", 1, 0, 1, 1_100_000 + 4_400_000);
        check("text-embedding-3-small", 1_000_000, 0, 0, 20_000_000_000);
        check("text-embedding-3-large", 1_000_000, 0, 0, 130_000_000_000);
    }

    #[test]
    fn dated_names_have_the_price_of_their_model_and_unknown_names_that_of_gpt_4o_mini() {
        assert_eq!(price_of("gpt-4o-2024-08-06").model, "gpt-4o");
        assert_eq!(price_of("gpt-4o-mini-2024-07-18").model, "gpt-4o-mini");
        assert_eq!(price_of("gpt-4.1-mini").model, "gpt-4.1-mini");
        assert_eq!(price_of("llama-3").model, "gpt-4o-mini");
        assert_eq!(price_of("gpt-4o-other").model, "gpt-4o-mini");
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        check("gpt-4o", u64::MAX, 0, u64::MAX, u128::from(u64::MAX) * 12_500_000);
    }
}
