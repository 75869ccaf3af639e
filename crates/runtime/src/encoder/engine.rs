//! One engine: a thread of its own over the weights that all share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rten::{RunOptions, ThreadPool};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use thiserror::Error;
use tollgate_types::clock::CpuStopwatch;

use super::{Model, Tokens, runs};

/// The most texts of one batch.
pub const BATCH_MAX: usize = 1024;

/// Runs a model on one thread. Make one for each core; they share the weights.
pub struct Engine {
    model: Arc<Model>,
    thread: Arc<ThreadPool>,
    cost: PassCost,
}

/// A batch's vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// In the order of the texts.
    pub vectors: Vec<Vec<f32>>,
    /// CPU time of the engine's thread: the caller's own does not show it.
    pub cpu: Duration,
}

/// What one pass through a model costs, in microseconds: `pass_us + token_us * tokens`, padding included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassCost {
    pub pass_us: f64,
    pub token_us: f64,
}

/// Why a batch has no vectors. One text that cannot be read fails all of them: whoever gathers a batch asks first.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("{texts} texts at once; at most {BATCH_MAX} are")]
    BatchTooLarge { texts: usize },
    #[error("text {index} has {tokens} tokens; the model reads 1 to {max}")]
    Length { index: usize, tokens: usize, max: usize },
    #[error("text {index} has the token {id}; the model knows those below {vocabulary}")]
    UnknownToken { index: usize, id: u32, vocabulary: usize },
    #[error("the inference engine failed: {reason}")]
    Engine { reason: String },
}

// === impl PassCost ===

impl Default for PassCost {
    /// all-MiniLM-L6-v2 in int8 on a core with AVX2: 4.6 ms for one text of 20 tokens, 29.7 ms for eight of them.
    fn default() -> Self {
        Self { pass_us: 1000.0, token_us: 180.0 }
    }
}

// === impl Engine ===

impl Engine {
    pub fn new(model: Arc<Model>) -> Self {
        Self { model, thread: Arc::new(ThreadPool::with_num_threads(1)), cost: PassCost::default() }
    }

    /// Batches are split by what passes cost on this machine, and not by the default.
    pub fn with_cost(self, cost: PassCost) -> Self {
        Self { cost, ..self }
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// For each text a vector of unit length and [`Model::dims`] numbers, in the order of the texts; and what it took of a core.
    pub fn embed(&self, texts: &[&Tokens]) -> Result<Embedded, EncodeError> {
        self.check(texts)?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].ids.len());
        let lengths: Vec<usize> = order.iter().map(|&index| texts[index].ids.len()).collect();
        let ends = runs::split(&lengths, self.cost);
        // One hop to the engine's thread for all passes.
        self.thread.run(|| {
            let cpu = CpuStopwatch::start();
            let mut vectors = vec![Vec::new(); texts.len()];
            let mut start = 0;
            for end in ends {
                self.pass(texts, &order[start..end], &mut vectors)?;
                start = end;
            }
            Ok(Embedded { vectors, cpu: cpu.elapsed() })
        })
    }

    fn check(&self, texts: &[&Tokens]) -> Result<(), EncodeError> {
        if texts.len() > BATCH_MAX {
            return Err(EncodeError::BatchTooLarge { texts: texts.len() });
        }
        let (max, vocabulary) = (self.model.max_tokens(), self.model.manifest.vocabulary);
        for (index, text) in texts.iter().enumerate() {
            let tokens = text.ids.len();
            if tokens == 0 || tokens > max {
                return Err(EncodeError::Length { index, tokens, max });
            }
            if let Some(&id) = text.ids.iter().find(|&&id| usize::try_from(id).is_ok_and(|id| id >= vocabulary)) {
                return Err(EncodeError::UnknownToken { index, id, vocabulary });
            }
        }
        Ok(())
    }

    /// The texts of `indices`, by length: all are padded to the last one.
    fn pass(&self, texts: &[&Tokens], indices: &[usize], vectors: &mut [Vec<f32>]) -> Result<(), EncodeError> {
        let longest = indices.last().map_or(0, |&index| texts[index].ids.len());
        let mut ids = vec![0_i32; indices.len() * longest];
        let mut mask = vec![0_i32; indices.len() * longest];
        for (row, &index) in indices.iter().enumerate() {
            let text = &texts[index].ids;
            let row = row * longest..row * longest + text.len();
            for (place, &id) in ids[row.clone()].iter_mut().zip(text) {
                *place = i32::try_from(id).expect("ids were compared with the vocabulary's size");
            }
            mask[row].fill(1);
        }
        let output = self.run(indices.len(), longest, ids, mask)?;
        for (row, &index) in indices.iter().enumerate() {
            vectors[index] = output[row * self.model.dims()..(row + 1) * self.model.dims()].to_vec();
        }
        Ok(())
    }

    /// Vectors one after another, of so many texts.
    fn run(&self, texts: usize, tokens: usize, ids: Vec<i32>, mask: Vec<i32>) -> Result<Vec<f32>, EncodeError> {
        let failed = |reason: String| EncodeError::Engine { reason };
        let inputs = &self.model.inputs;
        let given = vec![
            (inputs.ids, NdTensor::from_data([texts, tokens], ids).into()),
            (inputs.mask, NdTensor::from_data([texts, tokens], mask).into()),
        ];
        let options = RunOptions::default().with_thread_pool(Some(self.thread.clone()));
        // The engine's assertions are about graphs; one that fails must cost a batch and not a worker.
        let run = AssertUnwindSafe(|| self.model.graph.run(given, &[inputs.output], Some(options)));
        let outputs = catch_unwind(run)
            .map_err(|_| failed(String::from("it panicked")))?
            .map_err(|error| failed(error.to_string()))?;
        let [output] = &outputs[..] else {
            return Err(failed(format!("{} outputs", outputs.len())));
        };
        let vectors = output.as_tensor_view::<f32>().map(|view| view.to_vec()).unwrap_or_default();
        if vectors.len() != texts * self.model.dims() || vectors.iter().any(|number| !number.is_finite()) {
            return Err(failed(format!("{} numbers for {texts} texts, or some are not finite", vectors.len())));
        }
        Ok(vectors)
    }
}
