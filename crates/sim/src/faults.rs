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
}

/// What kind of answer a fault would strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Json,
    /// A stream; its usage chunk exists only if it was asked for.
    Stream {
        usage: bool,
    },
}

// === impl Fault ===

impl Fault {
    pub const ALL: [Self; 14] = [
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
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Whether the fault can be seen in such an answer; one that cannot is not noted in the truth either.
    pub fn strikes(self, answer: Answer) -> bool {
        match self {
            Self::MissingDone => matches!(answer, Answer::Stream { .. }),
            Self::DoubleUsage => matches!(answer, Answer::Stream { usage: true }),
            Self::NoUsage | Self::WrongUsage | Self::AbsurdUsage => {
                matches!(answer, Answer::Json | Answer::Stream { usage: true })
            }
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
    fn faults_of_a_stream_do_not_strike_a_json_answer() {
        assert!(!Fault::MissingDone.strikes(Answer::Json));
        assert!(!Fault::DoubleUsage.strikes(Answer::Stream { usage: false }));
        assert!(Fault::WrongUsage.strikes(Answer::Json));
        assert!(!Fault::WrongUsage.strikes(Answer::Stream { usage: false }));
        assert!(Fault::Cut.strikes(Answer::Json));
    }
}
