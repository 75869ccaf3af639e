//! A scenario: how often which fault strikes, how long answers are, how much of a prompt is cached. Read from a
//! JSON file; unknown fields and impossible values are errors.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::faults::Fault;

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
    /// How many tokens of the answer come before `stall`, `cut` and `malformed-chunk` strike (or half of a short answer).
    pub tokens_before_fault: u32,
    /// Whether a `reset` request is billed for its prompt. If not, the provider had not begun to work.
    pub reset_bills_prompt: bool,
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
            reset_bills_prompt: false,
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

    /// The cached share in thousandths: what is counted is counted in whole numbers.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000, by `check`")]
    pub fn cached_per_mille(&self) -> u64 {
        (self.cached_share * 1_000.0).round() as u64
    }

    /// # Errors
    /// A value is impossible.
    pub fn check(&self) -> anyhow::Result<()> {
        for (fault, probability) in &self.faults {
            ensure!((0.0..=1.0).contains(probability), "probability of {} is {probability}, not 0 to 1", fault.name());
        }
        let sum: f64 = self.faults.values().sum();
        ensure!(sum <= 1.0 + 1e-9, "the faults' probabilities add up to {sum}, which is more than 1");
        ensure!((0.0..=1.0).contains(&self.cached_share), "cached_share is {}, not 0 to 1", self.cached_share);
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
            "[]",
            "",
        ] {
            assert!(Scenario::parse(wrong).is_err(), "{wrong}");
        }
    }
}
