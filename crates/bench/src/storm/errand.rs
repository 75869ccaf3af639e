//! What the callers of a storm ask for: mixed kinds, drawn from a seed.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use crate::stage::{CHAT_MODEL, DEAR_CHAT_MODEL, EMBEDDING_MODEL, lane_route};

/// The kinds of requests. A cap is used up when each of them is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Chat,
    /// Without `max_tokens`: the route's default is injected.
    ChatUnbounded,
    DearChat,
    Stream,
    /// The caller leaves somewhere on the way.
    ChatDropped,
    StreamDropped,
    Embedding,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Errand {
    pub kind: Kind,
    pub body: Value,
    /// The caller leaves after this long.
    pub patience: Option<Duration>,
}

/// Cheap requests have few tokens, so that the smallest hold is far below half a percent of the cap.
const TOKENS_MAX: std::ops::RangeInclusive<u32> = 8..=160;
const DEAR_TOKENS_MAX: std::ops::RangeInclusive<u32> = 8..=64;
/// When a caller leaves: before the answer, in its middle, or after it.
const PATIENCE_MS: std::ops::RangeInclusive<u64> = 0..=1200;

const WORDS: [&str; 16] = [
    "invoice",
    "ledger",
    "storm",
    "budget",
    "naïve",
    "überfällig",
    "請求書",
    "refund",
    "quarter",
    "cap",
    "reserve",
    "settle",
    "🙂",
    "provider",
    "receipt",
    "hold",
];

// === impl Kind ===

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Chat,
        Self::ChatUnbounded,
        Self::DearChat,
        Self::Stream,
        Self::ChatDropped,
        Self::StreamDropped,
        Self::Embedding,
    ];

    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::StreamDropped)
    }

    pub fn path(self) -> &'static str {
        if self == Self::Embedding { "/v1/embeddings" } else { "/v1/chat/completions" }
    }

    /// Of a hundred requests.
    fn share(self) -> u32 {
        match self {
            Self::Chat => 30,
            Self::ChatUnbounded => 5,
            Self::DearChat => 5,
            Self::Stream => 25,
            Self::ChatDropped => 10,
            Self::StreamDropped => 15,
            Self::Embedding => 10,
        }
    }

    fn draw(rng: &mut impl Rng) -> Self {
        let mut left = rng.random_range(0..Self::ALL.map(Self::share).iter().sum());
        for kind in Self::ALL {
            if left < kind.share() {
                return kind;
            }
            left -= kind.share();
        }
        unreachable!("the draw is below the sum of the shares")
    }
}

// === impl Errand ===

impl Errand {
    /// For one of so many lanes to the provider.
    pub fn draw(rng: &mut impl Rng, lanes: usize) -> Self {
        let kind = Kind::draw(rng);
        let lane = rng.random_range(0..lanes);
        let model = |name| lane_route(name, lane);
        let text = words(rng);
        let patience = matches!(kind, Kind::ChatDropped | Kind::StreamDropped)
            .then(|| Duration::from_millis(rng.random_range(PATIENCE_MS)));
        let body = match kind {
            Kind::Embedding => json!({"model": model(EMBEDDING_MODEL), "input": text}),
            Kind::ChatUnbounded => chat(&model(CHAT_MODEL), &text, None),
            Kind::DearChat => chat(&model(DEAR_CHAT_MODEL), &text, Some(rng.random_range(DEAR_TOKENS_MAX))),
            Kind::Chat | Kind::ChatDropped => chat(&model(CHAT_MODEL), &text, Some(rng.random_range(TOKENS_MAX))),
            Kind::Stream | Kind::StreamDropped => stream(&model(CHAT_MODEL), &text, rng),
        };
        Self { kind, body, patience }
    }

    /// The same errand from a caller who stays for the answer.
    pub fn patient(&self) -> Self {
        Self { patience: None, ..self.clone() }
    }

    /// One that differs in a word, which makes it another request.
    pub fn reworded(&self) -> Self {
        let mut other = self.patient();
        let words = other.body.pointer_mut(if self.kind == Kind::Embedding { "/input" } else { "/messages/0/content" });
        if let Some(words) = words {
            *words = format!("another {}", words.as_str().unwrap_or_default()).into();
        }
        other
    }
}

fn chat(model: &str, text: &str, max_tokens: Option<u32>) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
    if let Some(max_tokens) = max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    body
}

fn stream(model: &str, text: &str, rng: &mut impl Rng) -> Value {
    let mut body = chat(model, text, Some(rng.random_range(TOKENS_MAX)));
    body["stream"] = true.into();
    if rng.random_bool(0.5) {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn words(rng: &mut impl Rng) -> String {
    let count = rng.random_range(3..60);
    let words: Vec<&str> = (0..count).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn drawn(seed: u64) -> Vec<Errand> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..500).map(|_| Errand::draw(&mut rng, 3)).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_errands() {
        let bodies = |seed| drawn(seed).into_iter().map(|errand| errand.body.to_string()).collect::<Vec<_>>();
        assert_eq!(bodies(7), bodies(7));
        assert_ne!(bodies(7), bodies(8));
    }

    #[test]
    fn a_reworded_errand_is_another_of_the_same_kind() {
        for errand in drawn(3) {
            let (same, other) = (errand.patient(), errand.reworded());
            assert_eq!((&same.body, same.patience), (&errand.body, None));
            assert_eq!((other.kind, other.patience), (errand.kind, None));
            assert_ne!(other.body, errand.body);
            assert_eq!(other.body["model"], errand.body["model"]);
        }
    }

    #[test]
    fn errands_go_by_all_lanes() {
        let routes: BTreeSet<String> = drawn(1).iter().map(|errand| errand.body["model"].to_string()).collect();
        assert_eq!(routes.len(), 9, "{routes:?}");
    }

    #[test]
    fn every_kind_is_drawn_and_only_the_dropped_ones_run_out_of_patience() {
        let errands = drawn(1);
        let kinds: BTreeSet<Kind> = errands.iter().map(|errand| errand.kind).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
        for errand in errands {
            let drops = matches!(errand.kind, Kind::ChatDropped | Kind::StreamDropped);
            assert_eq!(errand.patience.is_some(), drops);
            assert_eq!(errand.body.get("stream").is_some(), errand.kind.is_stream());
        }
    }
}
