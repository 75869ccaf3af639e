//! The ways a provider fails, by name. Who fails is said by a header, by the model's name, or by the scenario's
//! probabilities; how each failure looks on the wire is with the answers themselves (`chat`, `stream`, `body`).

use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::error::ApiError;

/// One scripted fault. The names on the wire are these in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// 429 with `retry-after` and `retry-after-ms`; no work done.
    RateLimit,
    /// 500; no work done.
    #[serde(rename = "error-500")]
    Error500,
    /// 503; no work done.
    #[serde(rename = "error-503")]
    Error503,
    /// The connection (HTTP/2: the stream) is reset when the request has been read.
    Reset,
    /// The work is done and billed, and no answer ever comes.
    NoAnswer,
    /// The answer begins late.
    SlowFirstToken,
    /// Some of the answer, then silence.
    Stall,
    /// The connection closes in the middle of the answer.
    Cut,
    /// One event of the stream is broken JSON (without a stream: the whole answer is).
    MalformedChunk,
    /// The stream ends cleanly but without `[DONE]`.
    MissingDone,
    /// The answer never says its usage.
    NoUsage,
    /// The answer says twice the tokens there were.
    WrongUsage,
    /// The answer says a million million tokens.
    AbsurdUsage,
    /// The usage chunk of a stream comes twice.
    DoubleUsage,
    /// The answer goes on past the limit it was given, `tokens_past_limit` more; they are billed and in the usage.
    IgnoresLimit,
    /// The usage chunk of a stream, and `[DONE]`, come `late_usage_ms` after the last of the content.
    LateUsage,
    /// Every chunk of a stream tells the usage so far, asked for or not; the last of the content tells all of it, and no
    /// chunk is the usage's own.
    UsageInEveryChunk,
    /// Some of a stream, then an event that is an error, and a clean end without `[DONE]`; what was made is billed.
    ErrorAfterTokens,
    /// The bill has `tokens_overbilled` more than the usage that was told.
    Overbills,
}

/// What kind of answer a fault would strike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub stream: bool,
    /// It tells its usage. A stream's usage chunk exists only if it was asked for.
    pub usage: bool,
    /// It was given a limit to its tokens.
    pub limited: bool,
}

// === impl Fault ===

impl Fault {
    pub const ALL: [Self; 19] = [
        Self::RateLimit,
        Self::Error500,
        Self::Error503,
        Self::Reset,
        Self::NoAnswer,
        Self::SlowFirstToken,
        Self::Stall,
        Self::Cut,
        Self::MalformedChunk,
        Self::MissingDone,
        Self::NoUsage,
        Self::WrongUsage,
        Self::AbsurdUsage,
        Self::DoubleUsage,
        Self::IgnoresLimit,
        Self::LateUsage,
        Self::UsageInEveryChunk,
        Self::ErrorAfterTokens,
        Self::Overbills,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimit => "rate-limit",
            Self::Error500 => "error-500",
            Self::Error503 => "error-503",
            Self::Reset => "reset",
            Self::NoAnswer => "no-answer",
            Self::SlowFirstToken => "slow-first-token",
            Self::Stall => "stall",
            Self::Cut => "cut",
            Self::MalformedChunk => "malformed-chunk",
            Self::MissingDone => "missing-done",
            Self::NoUsage => "no-usage",
            Self::WrongUsage => "wrong-usage",
            Self::AbsurdUsage => "absurd-usage",
            Self::DoubleUsage => "double-usage",
            Self::IgnoresLimit => "ignores-limit",
            Self::LateUsage => "late-usage",
            Self::UsageInEveryChunk => "usage-in-every-chunk",
            Self::ErrorAfterTokens => "error-after-tokens",
            Self::Overbills => "overbills",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Whether the fault can be seen in such an answer; one that cannot is not noted in the truth either.
    pub fn strikes(self, answer: Answer) -> bool {
        match self {
            Self::MissingDone | Self::UsageInEveryChunk | Self::ErrorAfterTokens => answer.stream,
            Self::DoubleUsage | Self::LateUsage => answer.stream && answer.usage,
            Self::NoUsage | Self::WrongUsage | Self::AbsurdUsage | Self::Overbills => answer.usage,
            Self::IgnoresLimit => answer.limited,
            _ => true,
        }
    }
}

/// The model's own name, and the fault asked for behind its `+`.
pub fn split_model(model: &str) -> Result<(&str, Option<Fault>), ApiError> {
    match model.split_once('+') {
        None => Ok((model, None)),
        Some((name, fault)) => Ok((name, Some(asked_for(fault)?))),
    }
}

/// A fault by name; a name nobody knows is an error, so that a test with a typing mistake does not pass.
pub fn asked_for(name: &str) -> Result<Fault, ApiError> {
    Fault::named(name).ok_or_else(|| {
        let known = Fault::ALL.map(Fault::name).join(", ");
        ApiError::invalid(format!("The simulator knows no fault '{name}'. It knows: {known}."), Some("x-sim-fault"))
    })
}

/// Throws for the scenario's faults: at most one strikes. `table` holds each fault's probability.
pub fn thrown(table: &[(Fault, f64)], dice: &mut Dice) -> Option<Fault> {
    if table.is_empty() {
        return None;
    }
    let mut left = dice.unit();
    for (fault, probability) in table {
        if left < *probability {
            return Some(*fault);
        }
        left -= probability;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_one_name_and_is_found_by_it() {
        for fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Some(fault));
            assert_eq!(serde_json::to_value(fault).expect("a name"), fault.name());
        }
        assert_eq!(Fault::named("earthquake"), None);
    }

    #[test]
    fn a_models_name_may_carry_a_fault() {
        assert_eq!(split_model("gpt-4o-mini").expect("plain"), ("gpt-4o-mini", None));
        assert_eq!(split_model("gpt-4o-mini+cut").expect("known"), ("gpt-4o-mini", Some(Fault::Cut)));
        assert!(split_model("gpt-4o-mini+cutt").is_err());
    }

    #[test]
    fn faults_strike_as_often_as_the_scenario_says() {
        let table = [(Fault::Cut, 0.1), (Fault::Stall, 0.2)];
        let mut dice = Dice::new(9);
        let thrown: Vec<_> = (0..10_000).map(|_| thrown(&table, &mut dice)).collect();
        let times = |wanted: Option<Fault>| thrown.iter().filter(|fault| **fault == wanted).count();
        assert!((850..1_150).contains(&times(Some(Fault::Cut))));
        assert!((1_850..2_150).contains(&times(Some(Fault::Stall))));
        assert!((6_850..7_150).contains(&times(None)));
    }

    #[test]
    fn a_fault_that_cannot_be_seen_does_not_strike() {
        let json = Answer { stream: false, usage: true, limited: false };
        let quiet = Answer { stream: true, usage: false, limited: true };
        let of_a_stream = [
            Fault::MissingDone,
            Fault::DoubleUsage,
            Fault::LateUsage,
            Fault::UsageInEveryChunk,
            Fault::ErrorAfterTokens,
        ];
        assert!(of_a_stream.iter().all(|fault| !fault.strikes(json)));
        assert!(of_a_stream.iter().all(|fault| fault.strikes(Answer { usage: true, ..quiet })));
        assert!(!Fault::DoubleUsage.strikes(quiet) && !Fault::LateUsage.strikes(quiet));
        assert!(Fault::UsageInEveryChunk.strikes(quiet));
        assert!(Fault::WrongUsage.strikes(json) && Fault::Overbills.strikes(json));
        assert!(!Fault::WrongUsage.strikes(quiet) && !Fault::Overbills.strikes(quiet));
        assert!(Fault::IgnoresLimit.strikes(quiet) && !Fault::IgnoresLimit.strikes(json));
        assert!(Fault::Cut.strikes(json));
    }
}
