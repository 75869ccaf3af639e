//! The two engines there are: hashed n-grams, which need nothing, and a sentence encoder.

use std::sync::Arc;
use std::time::Duration;

use tollgate_runtime::encoder;
use tollgate_runtime::encoder::engine::Embedded;
use tollgate_runtime::head::{Features, ngrams};
use tollgate_types::clock::CpuStopwatch;

use super::{Engine, EngineFailed, Output, Work};

/// Text into a vector of hashed n-grams, or by a head into probabilities.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashedEngine;

/// Tokens into an encoder's vectors.
pub struct EncoderEngine(encoder::engine::Engine);

// === impl HashedEngine ===

impl Engine for HashedEngine {
    fn run(&mut self, works: &[&Work]) -> Result<(Vec<Output>, Duration), EngineFailed> {
        let cpu = CpuStopwatch::start();
        let outputs = works.iter().map(|work| hashed(work)).collect::<Result<_, _>>()?;
        Ok((outputs, cpu.elapsed()))
    }
}

fn hashed(work: &Work) -> Result<Output, EngineFailed> {
    let failed = |error: &dyn ToString| EngineFailed(error.to_string());
    match work {
        Work::Text { text, head: None } => ngrams::embed(text).map(Output::Vector).map_err(|error| failed(&error)),
        Work::Text { text, head: Some(head) } => {
            head.classify(Features::Text(text)).map(Output::Probabilities).map_err(|error| failed(&error))
        }
        Work::Tokens(_) => Err(EngineFailed("the hashed runtime reads text".into())),
    }
}

// === impl EncoderEngine ===

impl EncoderEngine {
    pub fn new(model: Arc<encoder::Model>) -> Self {
        Self(encoder::engine::Engine::new(model))
    }
}

impl Engine for EncoderEngine {
    fn run(&mut self, works: &[&Work]) -> Result<(Vec<Output>, Duration), EngineFailed> {
        let cpu = CpuStopwatch::start();
        let tokens: Vec<_> = works
            .iter()
            .map(|work| match work {
                Work::Tokens(tokens) => Ok(tokens),
                Work::Text { .. } => Err(EngineFailed("an encoder reads tokens".into())),
            })
            .collect::<Result<_, _>>()?;
        // The model runs on a thread of the engine's own, whose time this thread's does not show.
        let Embedded { vectors, cpu: inside } =
            self.0.embed(&tokens).map_err(|error| EngineFailed(error.to_string()))?;
        let outputs = vectors.into_iter().map(Output::Vector).collect();
        Ok((outputs, cpu.elapsed() + inside))
    }
}
