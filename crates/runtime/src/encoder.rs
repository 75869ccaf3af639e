//! Sentence encoders of BERT's shape: a text to tokens, tokens to a vector of unit length that is near another's where the
//! texts mean nearly the same.
//!
//! A model comes as Hugging Face ships it and is converted once ([`convert::convert`]): weights to int8, the graph laid out for
//! the engine (`rten`), digests of all that went in and came out into a manifest. [`Model::load`] reads what was converted;
//! [`engine::Engine`] runs it, on one thread, over weights that all engines share.

pub mod convert;
pub mod engine;
pub mod manifest;

mod bert;
mod calibrate;
mod graph;
mod onnx;
mod quantize;
mod runs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::bounded::{ReadError, read_bounded};
use manifest::{MANIFEST_FILE, Manifest, ONNX_FILE, TOKENIZER_FILE, sha256};
use rten::ModelOptions;
use thiserror::Error;
use tokenizers::Tokenizer;

/// The longest text that is tokenised, in bytes. A token stands for up to some twenty bytes of English, so this is several
/// times what fits [`Manifest::max_tokens`]; tokenising more would only cost time before it is refused.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The largest file that is read: the f32 weights of a model ten times the size of the one we ship with.
const FILE_BYTES_MAX: usize = 1 << 30;
const TOKENIZER_BYTES_MAX: usize = 64 << 20;

/// A converted model, read and verified: its tokenizer, and weights for as many engines as are wanted.
pub struct Model {
    manifest: Manifest,
    tokenizer: Tokenizer,
    graph: rten::Model,
    inputs: Inputs,
}

/// Where the graph takes what and gives what.
struct Inputs {
    ids: rten::NodeId,
    mask: rten::NodeId,
    output: rten::NodeId,
}

/// A text as the model reads it: numbers of its vocabulary, the special ones at both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>,
    count: usize,
}

/// It has more than [`TEXT_BYTES_MAX`] bytes, so it was not tokenised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the text has {bytes} bytes; at most {TEXT_BYTES_MAX} are tokenised")]
pub struct TextTooLong {
    pub bytes: usize,
}

/// Why a model can be neither converted nor loaded.
#[derive(Debug, Error)]
pub enum ModelError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file is damaged, or of another format.
    #[error("{file} is not what it should be: {reason}")]
    Malformed { file: &'static str, reason: String },
    /// A sound model of another architecture.
    #[error(
        "{reason}; only sentence encoders of BERT's shape with mean pooling can be converted (all-MiniLM-L6-v2 is one)"
    )]
    Unsupported { reason: String },
    #[error("tensor {name} of model.safetensors: {reason}")]
    Tensor { name: String, reason: String },
    #[error(
        "{file} is not the one that was converted (SHA-256 {found}, the manifest says {expected}): convert the model again"
    )]
    Digest { file: &'static str, expected: String, found: String },
    #[error("the inference engine refuses {file}: {reason}")]
    Engine { file: &'static str, reason: String },
}

// === impl Model ===

impl Model {
    /// A folder that [`convert::Converted::files`] were written to. Digests first: nothing is parsed that was not converted here.
    pub fn load(folder: &Path) -> Result<Arc<Self>, ModelError> {
        let manifest = Manifest::parse(&read_bounded(&folder.join(MANIFEST_FILE), manifest::BYTES_MAX)?)?;
        let onnx = read_bounded(&folder.join(ONNX_FILE), FILE_BYTES_MAX)?;
        let tokenizer = read_bounded(&folder.join(TOKENIZER_FILE), TOKENIZER_BYTES_MAX)?;
        Self::from_bytes(manifest, onnx, &tokenizer)
    }

    /// From what [`convert::convert`] made, without a folder in between.
    pub fn from_bytes(manifest: Manifest, onnx: Vec<u8>, tokenizer: &[u8]) -> Result<Arc<Self>, ModelError> {
        same(ONNX_FILE, &manifest.files.onnx, &onnx)?;
        same(TOKENIZER_FILE, &manifest.files.tokenizer, tokenizer)?;
        let tokenizer = read_tokenizer(tokenizer)?;
        let (graph, inputs) = load_graph(onnx)?;
        Ok(Arc::new(Self { manifest, tokenizer, graph, inputs }))
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Length of the vectors.
    pub fn dims(&self) -> usize {
        self.manifest.dims
    }

    /// The most tokens of a text that are read, the two special ones included.
    pub fn max_tokens(&self) -> usize {
        self.manifest.max_tokens
    }

    /// All tokens of a text, however many: whoever asks decides whether to refuse or to [cut](Tokens::truncated).
    pub fn tokenize(&self, text: &str) -> Result<Tokens, TextTooLong> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextTooLong { bytes: text.len() });
        }
        let ids = ids(&self.tokenizer, text);
        Ok(Tokens { count: ids.len(), ids })
    }
}

// === impl Tokens ===

impl Tokens {
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many the text has, those that were cut off included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first `max` of them, the last one (`[SEP]`) kept at the end, as the model was trained on cut texts.
    pub fn truncated(mut self, max: usize) -> Self {
        if self.ids.len() > max {
            let last = self.ids.last().copied();
            self.ids.truncate(max);
            if let (Some(end), Some(last)) = (self.ids.last_mut(), last) {
                *end = last;
            }
        }
        self
    }
}

fn same(file: &'static str, expected: &str, bytes: &[u8]) -> Result<(), ModelError> {
    let found = sha256(bytes);
    if found == expected {
        return Ok(());
    }
    Err(ModelError::Digest { file, expected: expected.to_owned(), found })
}

/// Without the padding and the cut that a file may ask for: each would make short texts as dear as long ones, or hide how long
/// a text was.
fn read_tokenizer(json: &[u8]) -> Result<Tokenizer, ModelError> {
    let malformed = |reason: String| ModelError::Malformed { file: TOKENIZER_FILE, reason };
    let mut tokenizer = catch_unwind(|| Tokenizer::from_bytes(json))
        .map_err(|_| malformed(String::from("reading it panicked")))?
        .map_err(|error| malformed(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
    Ok(tokenizer)
}

/// None where the tokenizer fails: a word-piece tokenizer without `[UNK]` does, and such a text is then refused for its length.
fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, true).map_or_else(|_| Vec::new(), |encoding| encoding.get_ids().to_vec())
}

fn load_graph(onnx: Vec<u8>) -> Result<(rten::Model, Inputs), ModelError> {
    let graph = load_onnx(onnx)?;
    let node = |name: &str| {
        graph.node_id(name).map_err(|error| ModelError::Engine { file: ONNX_FILE, reason: error.to_string() })
    };
    let inputs = Inputs { ids: node(graph::IDS)?, mask: node(graph::MASK)?, output: node(graph::OUTPUT)? };
    Ok((graph, inputs))
}

fn load_onnx(onnx: Vec<u8>) -> Result<rten::Model, ModelError> {
    let refused = |reason: String| ModelError::Engine { file: ONNX_FILE, reason };
    let mut options = ModelOptions::with_all_ops();
    options.prepack_weights(true);
    catch_unwind(AssertUnwindSafe(|| options.load(onnx)))
        .map_err(|_| refused(String::from("it panicked")))?
        .map_err(|error| refused(error.to_string()))
}
