//! What a converted model says of itself: what it is, of what it was made, and the digests by which its files are known.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::ModelError;

pub const MANIFEST_FILE: &str = "model.json";
pub const ONNX_FILE: &str = "model.onnx";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The manifest has some 900 bytes.
pub(super) const BYTES_MAX: usize = 64 * 1024;
/// Raised whenever the same model would be converted to other bytes.
pub(super) const CONVERTER: u32 = 1;
/// No size in a manifest is larger: vocabularies are the largest.
const SIZE_MAX: usize = 1_000_000;

/// How a model's weights are held, and what it computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Int8,
    F32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this format, and of the way weights are converted: the same sources give the same bytes only by the same converter.
    pub converter: u32,
    /// The name of the folder it was converted from.
    pub name: String,
    pub precision: Precision,
    /// Length of the vectors.
    pub dims: usize,
    pub layers: usize,
    /// Tokens it knows; their numbers are below it.
    pub vocabulary: usize,
    pub max_tokens: usize,
    pub source: Source,
    pub files: Files,
}

/// SHA-256, in hex, of what was converted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub config: String,
    pub weights: String,
    pub tokenizer: String,
}

/// SHA-256, in hex, of what it was converted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    pub onnx: String,
    pub tokenizer: String,
}

// === impl Manifest ===

impl Manifest {
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let malformed = |reason: String| ModelError::Malformed { file: MANIFEST_FILE, reason };
        let manifest: Self = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        if manifest.converter != CONVERTER {
            return Err(malformed(format!(
                "it was made by version {} of the converter, this is {CONVERTER}: convert the model again",
                manifest.converter
            )));
        }
        let sizes = [manifest.dims, manifest.layers, manifest.vocabulary, manifest.max_tokens];
        if sizes.iter().any(|&size| size == 0 || size > SIZE_MAX) {
            return Err(malformed(format!("its sizes cannot be: {sizes:?}")));
        }
        Ok(manifest)
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("text and numbers always become JSON");
        json.push(b'\n');
        json
    }
}

/// In hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
