//! A BERT encoder as Hugging Face ships it: its shape out of `config.json`, its weights out of `model.safetensors`. Whatever is
//! not exactly that is refused here, so that the rest need not ask.

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::ModelError;

pub(super) const CONFIG_FILE: &str = "config.json";
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";

/// No encoder is larger; a damaged configuration easily is. BERT large: 24, 1024, 16, 4096, 30522, 512.
const LAYERS_MAX: usize = 64;
const HIDDEN_MAX: usize = 4096;
const INNER_MAX: usize = 16_384;
const VOCABULARY_MAX: usize = 1_000_000;
const POSITIONS_MAX: usize = 8192;

/// The numbers that say how large everything is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub inner: usize,
    pub vocabulary: usize,
    pub positions: usize,
    pub types: usize,
    pub epsilon: f32,
}

/// The weights, each checked when it is asked for.
pub(super) struct Weights<'a> {
    tensors: SafeTensors<'a>,
    prefix: &'static str,
}

#[derive(Deserialize)]
struct Config {
    model_type: String,
    hidden_act: String,
    hidden_size: usize,
    intermediate_size: usize,
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    type_vocab_size: usize,
    vocab_size: usize,
}

#[derive(Deserialize)]
struct Pooling {
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
}

#[derive(Deserialize)]
struct SentenceBert {
    max_seq_length: usize,
}

// === impl Shape ===

impl Shape {
    /// Out of a `config.json`.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let config: Config = parse(CONFIG_FILE, json)?;
        if config.model_type != "bert" {
            return Err(unsupported(format!("{CONFIG_FILE} says model_type {:?}", config.model_type)));
        }
        if config.hidden_act != "gelu" {
            return Err(unsupported(format!("{CONFIG_FILE} says hidden_act {:?}, not \"gelu\"", config.hidden_act)));
        }
        if config.position_embedding_type != "absolute" {
            let found = config.position_embedding_type;
            return Err(unsupported(format!("{CONFIG_FILE} says position_embedding_type {found:?}, not \"absolute\"")));
        }
        within("num_hidden_layers", config.num_hidden_layers, LAYERS_MAX)?;
        within("hidden_size", config.hidden_size, HIDDEN_MAX)?;
        within("num_attention_heads", config.num_attention_heads, config.hidden_size)?;
        within("intermediate_size", config.intermediate_size, INNER_MAX)?;
        within("vocab_size", config.vocab_size, VOCABULARY_MAX)?;
        within("max_position_embeddings", config.max_position_embeddings, POSITIONS_MAX)?;
        within("type_vocab_size", config.type_vocab_size, VOCABULARY_MAX)?;
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
            return Err(malformed(CONFIG_FILE, format!("hidden_size {hidden} is no multiple of {heads} heads")));
        }
        if !(config.layer_norm_eps >= 0.0 && config.layer_norm_eps < 1.0) {
            return Err(malformed(CONFIG_FILE, format!("layer_norm_eps is {}", config.layer_norm_eps)));
        }
        Ok(Self {
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            inner: config.intermediate_size,
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            types: config.type_vocab_size,
            epsilon: config.layer_norm_eps,
        })
    }

    pub fn head(&self) -> usize {
        self.hidden / self.heads
    }
}

// === impl Weights ===

impl<'a> Weights<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| malformed(WEIGHTS_FILE, format!("{error} (cut short?)")))?;
        // Models with a task on top call the encoder inside "bert".
        let prefixed = tensors.names().iter().any(|name| name.starts_with("bert.embeddings."));
        Ok(Self { tensors, prefix: if prefixed { "bert." } else { "" } })
    }

    /// The numbers of a tensor, row by row.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let Ok(tensor) = self.tensors.tensor(&name) else {
            return Err(ModelError::Tensor { name, reason: String::from("is missing") });
        };
        if tensor.shape() != shape {
            let reason = format!("has the shape {:?}; by {CONFIG_FILE} it should be {shape:?}", tensor.shape());
            return Err(ModelError::Tensor { name, reason });
        }
        if tensor.dtype() != Dtype::F32 {
            let reason = format!("holds {:?}; only F32 is converted: save the model in float32", tensor.dtype());
            return Err(ModelError::Tensor { name, reason });
        }
        let values: Vec<f32> =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::Tensor { name, reason: format!("its number {at} is {}", values[at]) });
        }
        Ok(values)
    }
}

/// Whether a pooling module takes the mean of all tokens and nothing else.
pub(super) fn check_pooling(file: &'static str, json: &[u8]) -> Result<(), ModelError> {
    let pooling: Pooling = parse(file, json)?;
    let others =
        pooling.pooling_mode_cls_token || pooling.pooling_mode_max_tokens || pooling.pooling_mode_mean_sqrt_len_tokens;
    if others || !pooling.pooling_mode_mean_tokens {
        return Err(unsupported(format!("{file} asks for another pooling than the mean of all tokens")));
    }
    Ok(())
}

/// The most tokens of a text the model was tuned for, out of a `sentence_bert_config.json`.
pub(super) fn max_seq_length(file: &'static str, json: &[u8]) -> Result<usize, ModelError> {
    Ok(parse::<SentenceBert>(file, json)?.max_seq_length)
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, json: &'a [u8]) -> Result<T, ModelError> {
    serde_json::from_slice(json).map_err(|error| malformed(file, error.to_string()))
}

fn within(field: &str, value: usize, max: usize) -> Result<(), ModelError> {
    if value == 0 || value > max {
        return Err(malformed(CONFIG_FILE, format!("{field} is {value}, not 1 to {max}")));
    }
    Ok(())
}

fn absolute() -> String {
    String::from("absolute")
}

fn malformed(file: &'static str, reason: String) -> ModelError {
    ModelError::Malformed { file, reason }
}

fn unsupported(reason: String) -> ModelError {
    ModelError::Unsupported { reason }
}
