//! What goes between a gateway and its workers: JSON, with numbers as base64 of their 32 bits, little endian. Both are of the
//! same build; neither takes what it does not know.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind};
use tollgate_types::{Refusal, TenantId};

use crate::config::LOCAL;
use crate::local::RETRY;
use crate::local::work::{Classified, REASONS, STAGES};

/// Texts that are to be worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handed {
    pub route: String,
    /// What the gateway takes the worker's answers to be made by; another worker may have another model by now.
    pub identity: String,
    pub tenant: TenantId,
    pub share: u32,
    pub goal_us: u64,
    pub alone: bool,
    /// From now.
    pub deadline_us: Option<u64>,
    /// How long the gateway waits, from now.
    pub patience_us: u64,
    pub truncate: bool,
    pub texts: Vec<String>,
}

/// What became of them: a row of numbers for each text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handback {
    pub columns: usize,
    pub numbers: String,
    /// Who answered each, by its place in [`STAGES`]; empty for vectors.
    pub stages: Vec<usize>,
    /// Which of them are [`Classified::makeshift`].
    pub makeshift: Vec<bool>,
    pub tokens: u64,
    pub cpu_ns: u64,
}

/// Why nothing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Refused {
    Invalid {
        message: String,
    },
    Overloaded {
        reason: String,
        retry_after_us: u64,
    },
    Late,
    Broken,
    /// It does not serve that route, or no longer with that model.
    Changed,
}

/// What a worker serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    pub route: String,
    pub model: String,
    /// Of a vector; `None`: it classifies.
    pub dims: Option<usize>,
    pub labels: Vec<String>,
    pub texts_max: usize,
    pub text_bytes_max: usize,
    pub identity: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    pub routes: Vec<Facts>,
}

// === impl Handback ===

impl Handback {
    pub fn of_vectors(vectors: &[Vec<f32>], tokens: u64, cpu: Duration) -> Self {
        let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        Self {
            columns: vectors.first().map_or(0, Vec::len),
            numbers: STANDARD.encode(bytes),
            stages: Vec::new(),
            makeshift: Vec::new(),
            tokens,
            cpu_ns: u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub fn of_labels(classified: &Classified, tokens: u64, cpu: Duration) -> Self {
        let place = |stage: &&'static str| STAGES.iter().position(|known| known == stage).unwrap_or(0);
        let stages = classified.stages.iter().map(place).collect();
        let makeshift = classified.makeshift.clone();
        Self { stages, makeshift, ..Self::of_vectors(&classified.probabilities, tokens, cpu) }
    }

    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns)
    }

    /// The rows of so many texts, each of so many numbers; `None`: it is something else.
    pub fn rows(&self, texts: usize, columns: usize) -> Option<Vec<Vec<f32>>> {
        let bytes = STANDARD.decode(&self.numbers).ok()?;
        let fits =
            self.columns == columns && columns > 0 && bytes.len() == texts.checked_mul(columns)?.checked_mul(4)?;
        let number = |four: &[u8]| f32::from_le_bytes(four.try_into().expect("chunks of four"));
        let row = |row: &[u8]| row.chunks_exact(4).map(number).collect::<Vec<f32>>();
        let rows: Vec<Vec<f32>> = if fits { bytes.chunks_exact(columns * 4).map(row).collect() } else { return None };
        rows.iter().flatten().all(|number| number.is_finite()).then_some(rows)
    }

    /// The same with who answered each.
    pub fn classified(&self, texts: usize, columns: usize) -> Option<Classified> {
        let stages: Option<Vec<&'static str>> = self.stages.iter().map(|place| STAGES.get(*place).copied()).collect();
        let stages = stages.filter(|stages| stages.len() == texts && self.makeshift.len() == texts)?;
        let makeshift = self.makeshift.clone();
        Some(Classified { probabilities: self.rows(texts, columns)?, stages, makeshift })
    }
}

// === impl Refused ===

impl Refused {
    /// What a worker says of a refusal of its own.
    pub fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::InvalidRequest { message, .. } => Self::Invalid { message: message.clone() },
            Refusal::Overloaded { reason, retry_after } => Self::Overloaded {
                reason: (*reason).to_owned(),
                retry_after_us: u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX),
            },
            Refusal::Provider(ProviderFault { kind: ProviderFaultKind::Timeout(_), .. }) => Self::Late,
            _ => Self::Broken,
        }
    }

    /// What the gateway tells its caller.
    pub fn told(self) -> Refusal {
        let fault = |kind| Refusal::Provider(ProviderFault { provider: LOCAL.to_owned(), kind, retry_after: None });
        match self {
            Self::Invalid { message } => Refusal::invalid_param(message, "input"),
            Self::Overloaded { reason, retry_after_us } => Refusal::Overloaded {
                reason: REASONS.into_iter().find(|known| *known == reason).unwrap_or(REASONS[0]),
                retry_after: Duration::from_micros(retry_after_us),
            },
            Self::Late => fault(ProviderFaultKind::Timeout("answer before the deadline")),
            Self::Broken => fault(ProviderFaultKind::BrokenAnswer),
            Self::Changed => {
                Refusal::Overloaded { reason: "the workers are being given another model", retry_after: RETRY }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were_and_what_does_not_fit_is_nothing() {
        let vectors = vec![vec![0.5f32, -1.0], vec![f32::MIN_POSITIVE, 3.25]];
        let back = Handback::of_vectors(&vectors, 7, Duration::from_nanos(9));
        assert_eq!((back.rows(2, 2), back.tokens, back.cpu()), (Some(vectors.clone()), 7, Duration::from_nanos(9)));
        assert_eq!((back.rows(1, 2), back.rows(2, 3), back.rows(3, 2)), (None, None, None));
        let wrong = |numbers: &str| Handback { numbers: numbers.to_owned(), ..back.clone() };
        assert_eq!(wrong("not base64").rows(2, 2), None);
        assert_eq!(Handback::of_vectors(&[vec![f32::NAN, 0.0]], 1, Duration::ZERO).rows(1, 2), None);

        let classified =
            Classified { probabilities: vectors, stages: vec!["hashed", "mixed"], makeshift: vec![true, false] };
        let back = Handback::of_labels(&classified, 7, Duration::ZERO);
        assert_eq!(back.classified(2, 2), Some(classified));
        assert_eq!(Handback { stages: vec![0, 9], ..back.clone() }.classified(2, 2), None);
        assert_eq!(Handback { stages: vec![0], ..back }.classified(2, 2), None);
    }

    #[test]
    fn a_refusal_means_the_same_on_both_sides() {
        let overloaded = Refusal::Overloaded { reason: REASONS[1], retry_after: Duration::from_millis(1_500) };
        for refusal in [overloaded, Refusal::invalid_param("text 3 of 'input' is too long", "input")] {
            assert_eq!(Refused::of(&refusal).told(), refusal);
        }
        let late = Refused::Late.told();
        assert_eq!((late.code(), Refused::of(&late)), ("provider_timeout", Refused::Late));
        assert_eq!(Refused::of(&Refusal::LedgerUnavailable), Refused::Broken);
    }
}
