//! From a folder as Hugging Face ships it to what the engine runs. Done once; whoever asked writes the files.

use std::path::Path;

use super::bert::{self, CONFIG_FILE, Shape, WEIGHTS_FILE, Weights};
use super::graph::{Layout, Numbers};
use super::manifest::{
    CONVERTER, Files, MANIFEST_FILE, Manifest, ONNX_FILE, Precision, Source, TOKENIZER_FILE, sha256,
};
use super::{FILE_BYTES_MAX, ModelError, TOKENIZER_BYTES_MAX, calibrate, graph, read_tokenizer};
use crate::bounded::{read_bounded, read_if_there};

/// Of a text, where the model does not say: sentence encoders are tuned for a paragraph.
const MAX_TOKENS_DEFAULT: usize = 256;
/// `[CLS]` and `[SEP]`.
const MIN_TOKENS: usize = 2;
const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Where a pooling module may be described, and what a model was tuned for.
const POOLING_FILES: [&str; 2] = ["1_Pooling/config.json", "modules/1_Pooling/config.json"];
const SENTENCE_FILE: &str = "sentence_bert_config.json";

/// The files of a converted model, for a folder of their own.
pub struct Converted {
    pub manifest: Manifest,
    pub onnx: Vec<u8>,
    pub tokenizer: Vec<u8>,
}

/// Converts `config.json`, `model.safetensors` and `tokenizer.json` of a folder. The same files give the same bytes.
pub fn convert(folder: &Path, precision: Precision) -> Result<Converted, ModelError> {
    converted(folder, precision, Layout::Engine)
}

/// The same for other engines, which this one is compared with.
pub fn convert_for_others(folder: &Path, precision: Precision) -> Result<Converted, ModelError> {
    converted(folder, precision, Layout::Portable)
}

fn converted(folder: &Path, precision: Precision, layout: Layout) -> Result<Converted, ModelError> {
    let config = read_bounded(&folder.join(CONFIG_FILE), CONFIG_BYTES_MAX)?;
    let shape = Shape::parse(&config)?;
    for file in POOLING_FILES {
        if let Some(json) = read_if_there(&folder.join(file), CONFIG_BYTES_MAX)? {
            bert::check_pooling(file, &json)?;
        }
    }
    let max_tokens = match read_if_there(&folder.join(SENTENCE_FILE), CONFIG_BYTES_MAX)? {
        Some(json) => bert::max_seq_length(SENTENCE_FILE, &json)?,
        None => MAX_TOKENS_DEFAULT,
    };
    let tokenizer = read_bounded(&folder.join(TOKENIZER_FILE), TOKENIZER_BYTES_MAX)?;
    let reader = read_tokenizer(&tokenizer)?;
    // By the highest number, and not by how many there are: numbers may be left out.
    let highest = reader.get_vocab(true).into_values().max().unwrap_or_default();
    if usize::try_from(highest).is_ok_and(|highest| highest >= shape.vocabulary) {
        let reason = format!("it has a token of number {highest}; {CONFIG_FILE} says there are {}", shape.vocabulary);
        return Err(ModelError::Malformed { file: TOKENIZER_FILE, reason });
    }
    let weights = read_bounded(&folder.join(WEIGHTS_FILE), FILE_BYTES_MAX)?;
    let tensors = Weights::parse(&weights)?;
    let max_tokens = max_tokens.clamp(MIN_TOKENS, shape.positions);
    let onnx = match precision {
        Precision::F32 => graph::encode(&shape, &tensors, Numbers::Floats, layout)?,
        Precision::Int8 => {
            let ranges = calibrate::ranges(graph::watched(&shape, &tensors)?, &reader, max_tokens)?;
            graph::encode(&shape, &tensors, Numbers::Integers(&ranges), layout)?
        }
    };
    let manifest = Manifest {
        converter: CONVERTER,
        name: folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        precision,
        dims: shape.hidden,
        layers: shape.layers,
        vocabulary: shape.vocabulary,
        max_tokens,
        source: Source { config: sha256(&config), weights: sha256(&weights), tokenizer: sha256(&tokenizer) },
        files: Files { onnx: sha256(&onnx), tokenizer: sha256(&tokenizer) },
    };
    Ok(Converted { manifest, onnx, tokenizer })
}

impl Converted {
    /// Name and bytes of each. The manifest comes last: a folder without it is not a model yet.
    pub fn files(self) -> [(&'static str, Vec<u8>); 3] {
        let manifest = self.manifest.to_json();
        [(ONNX_FILE, self.onnx), (TOKENIZER_FILE, self.tokenizer), (MANIFEST_FILE, manifest)]
    }
}
