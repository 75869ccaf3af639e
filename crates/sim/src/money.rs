//! What the simulated provider bills: its own small price list and its own arithmetic, in whole picodollars
//! (1e-12 USD). No float comes near it, and no code of the gateway's. A scenario may name other prices, so that two
//! simulators are a cheaper and a dearer provider.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// Picodollars per token in one US dollar per million tokens.
const PICO_PER_TOKEN_IN_ONE_USD_PER_MILLION: u128 = 1_000_000;
/// 100,000 USD per million tokens. What one request can cost then still fits into 64 bits: 64 MiB of body are at most
/// 2^26 tokens, as are 128 answers, and 2^27 * 1e11 < 2^64.
const PRICE_MAX: u128 = 100_000 * PICO_PER_TOKEN_IN_ONE_USD_PER_MILLION;

/// Prices of one model, in picodollars a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    pub model: Arc<str>,
    pub input: u128,
    pub cached_input: u128,
    pub output: u128,
    /// Only models that have this hear and speak.
    pub audio: Option<AudioPrice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioPrice {
    pub input: u128,
    pub output: u128,
}

/// One simulator's price list. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices(Vec<Price>);

/// A model's prices as a scenario names them: US dollars per million tokens, as decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSaid {
    pub input: String,
    /// As `input` if it is not said.
    pub cached_input: Option<String>,
    pub output: String,
    /// Both or neither: with them the model hears and speaks.
    pub audio_input: Option<String>,
    pub audio_output: Option<String>,
}

/// Tokens of one piece of work. `cached` and `prompt_audio` are parts of `prompt` that do not overlap; `reasoning`,
/// `completion_audio` and the two of a prediction are parts of `completion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    pub cached: u64,
    pub prompt_audio: u64,
    pub completion: u64,
    pub reasoning: u64,
    pub completion_audio: u64,
    pub accepted_prediction: u64,
    pub rejected_prediction: u64,
}

/// What is billed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    Input,
    CachedInput,
    AudioInput,
    Output,
    AudioOutput,
}

/// Thousandths of a US dollar per million tokens: input, cached input, output; audio in, audio out.
type Listed = (&'static str, [u128; 3], Option<[u128; 2]>);

const LIST: &[Listed] = &[
    ("gpt-4o-mini", [150, 75, 600], None),
    ("gpt-4o", [2_500, 1_250, 10_000], None),
    ("gpt-4.1-mini", [400, 100, 1_600], None),
    ("gpt-4.1", [2_000, 500, 8_000], None),
    ("o4-mini", [1_100, 275, 4_400], None),
    ("gpt-4o-audio-preview", [2_500, 2_500, 10_000], Some([40_000, 80_000])),
    ("text-embedding-3-small", [20, 20, 0], None),
    ("text-embedding-3-large", [130, 130, 0], None),
];

// === impl Prices ===

impl Prices {
    /// The list above with what a scenario says instead or besides, all of it at `percent`.
    ///
    /// # Errors
    /// A price that is none, or does not come out whole.
    pub fn new(said: &BTreeMap<String, PriceSaid>, percent: u32) -> anyhow::Result<Self> {
        let mut prices: Vec<Price> = LIST.iter().map(Price::listed).collect();
        for (model, said) in said {
            let price = said.read(model).with_context(|| format!("the price of {model}"))?;
            match prices.iter_mut().find(|listed| *listed.model == **model) {
                Some(listed) => *listed = price,
                None => prices.push(price),
            }
        }
        for price in &mut prices {
            let model = Arc::clone(&price.model);
            price.each(|part| at_percent(part, percent)).with_context(|| format!("{percent} % of {model}'s price"))?;
        }
        Ok(Self(prices))
    }

    /// The price of `model`, of its dated versions (`gpt-4o-2024-08-06`), and for any other name the first of the list.
    pub fn of(&self, model: &str) -> &Price {
        self.0.iter().find(|price| names(model, &price.model)).unwrap_or(&self.0[0])
    }

    /// The models the simulator lists. It answers to any other name too.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|price| &*price.model)
    }
}

// === impl Price ===

impl Price {
    fn listed((model, [input, cached_input, output], audio): &Listed) -> Self {
        const MILLI: u128 = PICO_PER_TOKEN_IN_ONE_USD_PER_MILLION / 1_000;
        Self {
            model: Arc::from(*model),
            input: input * MILLI,
            cached_input: cached_input * MILLI,
            output: output * MILLI,
            audio: audio.map(|[input, output]| AudioPrice { input: input * MILLI, output: output * MILLI }),
        }
    }

    pub fn cost_picousd(&self, tokens: Tokens) -> u128 {
        self.lines(tokens).map(|(_, tokens, price)| u128::from(tokens) * price).sum()
    }

    /// What the bill lists for `tokens`: how many of each, and at which price a token. Audio that has no price of its
    /// own (the simulator refuses it) would be billed as text. Of what there is none, there is no line.
    pub fn lines(&self, tokens: Tokens) -> impl Iterator<Item = (Line, u64, u128)> + use<> {
        let audio_in = tokens.prompt_audio.min(tokens.prompt);
        let cached = tokens.cached.min(tokens.prompt - audio_in);
        let audio_out = tokens.completion_audio.min(tokens.completion);
        let audio = self.audio.unwrap_or(AudioPrice { input: self.input, output: self.output });
        let lines = [
            (Line::Input, tokens.prompt - audio_in - cached, self.input),
            (Line::CachedInput, cached, self.cached_input),
            (Line::AudioInput, audio_in, audio.input),
            (Line::Output, tokens.completion - audio_out, self.output),
            (Line::AudioOutput, audio_out, audio.output),
        ];
        lines.into_iter().filter(|(_, tokens, _)| *tokens > 0)
    }

    fn each(&mut self, change: impl Fn(u128) -> anyhow::Result<u128>) -> anyhow::Result<()> {
        let audio = self.audio.as_mut().map(|audio| [&mut audio.input, &mut audio.output]);
        let parts = [&mut self.input, &mut self.cached_input, &mut self.output];
        for part in parts.into_iter().chain(audio.into_iter().flatten()) {
            *part = change(*part)?;
        }
        Ok(())
    }
}

// === impl PriceSaid ===

impl PriceSaid {
    fn read(&self, model: &str) -> anyhow::Result<Price> {
        let audio = match (&self.audio_input, &self.audio_output) {
            (Some(input), Some(output)) => {
                Some(AudioPrice { input: pico_per_token(input)?, output: pico_per_token(output)? })
            }
            (None, None) => None,
            _ => anyhow::bail!("audio_input and audio_output come together"),
        };
        Ok(Price {
            model: Arc::from(model),
            input: pico_per_token(&self.input)?,
            cached_input: pico_per_token(self.cached_input.as_ref().unwrap_or(&self.input))?,
            output: pico_per_token(&self.output)?,
            audio,
        })
    }
}

// === impl Tokens ===

impl Tokens {
    pub fn add(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.prompt_audio += other.prompt_audio;
        self.completion += other.completion;
        self.reasoning += other.reasoning;
        self.completion_audio += other.completion_audio;
        self.accepted_prediction += other.accepted_prediction;
        self.rejected_prediction += other.rejected_prediction;
    }
}

/// US dollars per million tokens, with at most six decimals: those are whole picodollars a token.
fn pico_per_token(text: &str) -> anyhow::Result<u128> {
    const DECIMALS: usize = 6;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    ensure!(
        digits(whole, DECIMALS) && digits(decimals, DECIMALS),
        "`{text}` is no price in US dollars per million tokens with at most {DECIMALS} decimals"
    );
    let price: u128 = format!("{whole}{decimals:0<DECIMALS$}").parse().context("digits are a number")?;
    ensure!(price <= PRICE_MAX, "{text} US dollars per million tokens is too dear for the simulator");
    Ok(price)
}

fn at_percent(price: u128, percent: u32) -> anyhow::Result<u128> {
    let hundredfold = price * u128::from(percent);
    ensure!(hundredfold.is_multiple_of(100), "it is not whole picodollars a token");
    ensure!(hundredfold / 100 <= PRICE_MAX, "it is too dear for the simulator");
    Ok(hundredfold / 100)
}

fn names(asked: &str, listed: &str) -> bool {
    asked.strip_prefix(listed).is_some_and(|rest| rest.is_empty() || rest.starts_with("-20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Prices {
        Prices::new(&BTreeMap::new(), 100).expect("the list's own")
    }

    fn check(model: &str, prompt: u64, cached: u64, completion: u64, expected: u128) {
        let tokens = Tokens { prompt, cached, completion, ..Tokens::default() };
        assert_eq!(listed().of(model).cost_picousd(tokens), expected, "{model}");
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
    fn audio_has_prices_of_its_own() {
        let tokens = Tokens { prompt: 15, prompt_audio: 10, completion: 9, completion_audio: 4, ..Tokens::default() };
        let expected = 5 * 2_500_000 + 10 * 40_000_000 + 5 * 10_000_000 + 4 * 80_000_000;
        assert_eq!(listed().of("gpt-4o-audio-preview-2024-12-17").cost_picousd(tokens), expected);
    }

    #[test]
    fn dated_names_have_the_price_of_their_model_and_unknown_names_that_of_gpt_4o_mini() {
        let model = |asked: &str| listed().of(asked).model.to_string();
        assert_eq!(model("gpt-4o-2024-08-06"), "gpt-4o");
        assert_eq!(model("gpt-4o-mini-2024-07-18"), "gpt-4o-mini");
        assert_eq!(model("gpt-4.1-mini"), "gpt-4.1-mini");
        assert_eq!(model("llama-3"), "gpt-4o-mini");
        assert_eq!(model("gpt-4o-other"), "gpt-4o-mini");
    }

    #[test]
    fn the_largest_counts_do_not_overflow() {
        check("gpt-4o", u64::MAX, 0, u64::MAX, u128::from(u64::MAX) * 12_500_000);
    }

    #[test]
    fn a_scenarios_prices_come_before_the_list_and_percent_is_of_all() {
        let said = |input: &str| PriceSaid {
            input: input.to_owned(),
            cached_input: None,
            output: "2".to_owned(),
            audio_input: None,
            audio_output: None,
        };
        let both = BTreeMap::from([("gpt-4o".to_owned(), said("0.123456")), ("own".to_owned(), said("1.5"))]);
        let prices = Prices::new(&both, 100).expect("good");
        assert_eq!((prices.of("gpt-4o").input, prices.of("gpt-4o").cached_input), (123_456, 123_456));
        assert_eq!((prices.of("own").input, prices.of("own").output), (1_500_000, 2_000_000));
        assert_eq!(prices.listed().filter(|model| *model == "own" || *model == "gpt-4o").count(), 2);
        assert!(Prices::new(&both, 150).is_ok() && Prices::new(&both, 33).is_err());
        let half = Prices::new(&BTreeMap::new(), 50).expect("whole");
        assert_eq!(
            (half.of("gpt-4o-mini").input, half.of("gpt-4o-audio-preview").audio.map(|a| a.output)),
            (75_000, Some(40_000_000))
        );
        for wrong in ["", ".5", "1.", "-1", "1e3", "0.1234567", "100001", "1,5"] {
            assert!(Prices::new(&BTreeMap::from([("m".to_owned(), said(wrong))]), 100).is_err(), "{wrong}");
        }
    }
}
