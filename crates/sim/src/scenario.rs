//! A scenario: how often which fault strikes, how long answers are, how much of a prompt is cached. Read from a
//! JSON file; unknown fields and impossible values are errors.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::faults::Fault;
use crate::money::{PriceSaid, Prices};

/// A scenario as its file says it. Every field has a default; an empty object is the calm one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Probability of each fault, by name. At most one strikes a request, so their sum is at most 1.
    pub faults: BTreeMap<Fault, f64>,
    /// Share of a prompt's tokens that is reported (and billed) as cached, from 0 to 1.
    pub cached_share: f64,
    /// Median length of an answer in tokens, before `max_tokens` cuts it.
    pub output_tokens_median: f64,
    /// Standard deviation of the logarithm of that length; 0 makes all answers the same length.
    pub output_tokens_sigma: f64,
    /// What `slow-first-token` waits, in milliseconds, at any speed.
    pub slow_first_token_ms: u64,
    /// How long a silent request (`stall`, `no-answer`) is kept before the simulator hangs up, in milliseconds.
    pub silence_ms_max: u64,
    /// How many tokens of the answer come before `stall`, `cut`, `malformed-chunk` and `error-after-tokens` strike (or half
    /// of a short answer).
    pub tokens_before_fault: u32,
    /// How many tokens `ignores-limit` makes past the limit.
    pub tokens_past_limit: u32,
    /// What `late-usage` waits, in milliseconds, at any speed.
    pub late_usage_ms: u64,
    /// How many tokens `overbills` bills and does not tell: of the answer, or of an embedding's input.
    pub tokens_overbilled: u32,
    /// Whether a `reset` request is billed for its prompt. If not, the provider had not begun to work.
    pub reset_bills_prompt: bool,
    /// Share of an answer's tokens that models that reason spend on it, from 0 to 1 (1: until there are none left). Not said,
    /// `reasoning_effort` decides how many they are. A request's `x-sim-reasoning-share` goes before it, for any model.
    pub reasoning_share: Option<f64>,
    /// Share of a prediction's tokens that turns out right, from 0 to 1.
    pub prediction_accepted_share: f64,
    /// Prices by model, instead of the simulator's own or besides: US dollars per million tokens, as decimal text.
    pub prices: BTreeMap<String, PriceSaid>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            faults: BTreeMap::new(),
            cached_share: 0.0,
            output_tokens_median: 64.0,
            output_tokens_sigma: 0.6,
            slow_first_token_ms: 5_000,
            silence_ms_max: 600_000,
            tokens_before_fault: 3,
            tokens_past_limit: 20,
            late_usage_ms: 5_000,
            tokens_overbilled: 7,
            reset_bills_prompt: false,
            reasoning_share: None,
            prediction_accepted_share: 0.5,
            prices: BTreeMap::new(),
        }
    }
}

// === impl Scenario ===

impl Scenario {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        // Serde would take a list for an object whose fields come in order.
        ensure!(text.trim_start().starts_with('{'), "a scenario is one JSON object");
        let scenario: Self = serde_json::from_str(text).context("the scenario is not valid")?;
        scenario.check()?;
        Ok(scenario)
    }

    /// # Errors
    /// A value is impossible.
    pub fn check(&self) -> anyhow::Result<()> {
        for (fault, probability) in &self.faults {
            ensure!((0.0..=1.0).contains(probability), "probability of {} is {probability}, not 0 to 1", fault.name());
        }
        let sum: f64 = self.faults.values().sum();
        ensure!(sum <= 1.0 + 1e-9, "the faults' probabilities add up to {sum}, which is more than 1");
        per_mille(self.cached_share).context("cached_share")?;
        per_mille(self.prediction_accepted_share).context("prediction_accepted_share")?;
        self.reasoning_share.map(per_mille).transpose().context("reasoning_share")?;
        for (name, tokens) in
            [("tokens_past_limit", self.tokens_past_limit), ("tokens_overbilled", self.tokens_overbilled)]
        {
            ensure!(tokens <= 100_000, "{name} is {tokens}, not 0 to 100000");
        }
        Prices::new(&self.prices, 100)?;
        ensure!(
            (1.0..=100_000.0).contains(&self.output_tokens_median),
            "output_tokens_median is {}, not 1 to 100000",
            self.output_tokens_median
        );
        ensure!(
            (0.0..=4.0).contains(&self.output_tokens_sigma),
            "output_tokens_sigma is {}, not 0 to 4",
            self.output_tokens_sigma
        );
        Ok(())
    }
}

/// A share in thousandths: what is counted is counted in whole numbers.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000, by the line before")]
pub fn per_mille(share: f64) -> anyhow::Result<u64> {
    ensure!((0.0..=1.0).contains(&share), "{share} is not 0 to 1");
    Ok((share * 1_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_scenario_is_the_calm_one() {
        assert_eq!(Scenario::parse("{}").expect("valid"), Scenario::default());
    }

    #[test]
    fn a_scenario_names_faults_and_their_probabilities() {
        let scenario = Scenario::parse(r#"{"faults":{"cut":0.25,"error-500":0.5},"cached_share":0.5}"#).expect("valid");
        assert_eq!(scenario.faults[&Fault::Cut], 0.25);
        assert_eq!(scenario.faults[&Fault::Error500], 0.5);
    }

    #[test]
    fn impossible_scenarios_are_refused() {
        for wrong in [
            r#"{"fault":{}}"#,
            r#"{"faults":{"earthquake":0.1}}"#,
            r#"{"faults":{"cut":1.5}}"#,
            r#"{"faults":{"cut":0.6,"stall":0.6}}"#,
            r#"{"cached_share":2}"#,
            r#"{"output_tokens_median":0}"#,
            r#"{"output_tokens_sigma":-1}"#,
            r#"{"reasoning_share":1.1}"#,
            r#"{"prediction_accepted_share":-0.1}"#,
            r#"{"tokens_overbilled":1000000}"#,
            r#"{"prices":{"gpt-4o":{"input":"cheap","output":"1"}}}"#,
            r#"{"prices":{"gpt-4o":{"input":"1","output":"1","audio_input":"1"}}}"#,
            r#"{"prices":{"gpt-4o":{"input":1,"output":2}}}"#,
            "[]",
            "",
        ] {
            assert!(Scenario::parse(wrong).is_err(), "{wrong}");
        }
    }
}
