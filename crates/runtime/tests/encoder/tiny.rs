//! A BERT encoder of two layers and thirty-two dimensions with random weights, as a folder of the files Hugging Face ships.

use std::fs;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::{Map, Value, json};

pub const LAYERS: usize = 2;
pub const HIDDEN: usize = 32;
pub const INNER: usize = 64;
pub const POSITIONS: usize = 64;
pub const MAX_TOKENS: usize = 48;

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const WORDS: [&str; 8] = ["card", "where", "is", "my", "the", "refund", "transfer", "it"];

pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

pub fn write(folder: &Path, seed: u64) {
    write_json(&folder.join("config.json"), &config());
    write_json(&folder.join("tokenizer.json"), &tokenizer());
    write_json(&folder.join("sentence_bert_config.json"), &json!({ "max_seq_length": MAX_TOKENS }));
    write_tensors(&folder.join("model.safetensors"), &tensors(seed));
}

pub fn config() -> Value {
    json!({
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "layer_norm_eps": 1e-12, "max_position_embeddings": POSITIONS, "num_attention_heads": 4,
        "num_hidden_layers": LAYERS, "position_embedding_type": "absolute", "type_vocab_size": 2,
        "vocab_size": vocabulary().len(),
    })
}

/// Special tokens, letters at the start and within a word, and a few words.
fn vocabulary() -> Map<String, Value> {
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let tokens = SPECIAL.iter().chain(&WORDS).map(|&token| token.to_owned()).chain(letters);
    tokens.enumerate().map(|(id, token)| (token, json!(id))).collect()
}

/// With the fixed padding and the cut that such files ship with.
fn tokenizer() -> Value {
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({ "id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": { "max_length": 16, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": { "strategy": { "Fixed": 16 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": added,
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] } } },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary() },
    })
}

pub fn tensors(seed: u64) -> Vec<Tensor> {
    let mut shapes = vec![
        (String::from("embeddings.word_embeddings.weight"), vec![vocabulary().len(), HIDDEN]),
        (String::from("embeddings.position_embeddings.weight"), vec![POSITIONS, HIDDEN]),
        (String::from("embeddings.token_type_embeddings.weight"), vec![2, HIDDEN]),
    ];
    norm("embeddings.LayerNorm", &mut shapes);
    for layer in 0..LAYERS {
        let name = format!("encoder.layer.{layer}");
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            linear(&format!("{name}.attention.{part}"), HIDDEN, HIDDEN, &mut shapes);
        }
        norm(&format!("{name}.attention.output.LayerNorm"), &mut shapes);
        linear(&format!("{name}.intermediate.dense"), HIDDEN, INNER, &mut shapes);
        linear(&format!("{name}.output.dense"), INNER, HIDDEN, &mut shapes);
        norm(&format!("{name}.output.LayerNorm"), &mut shapes);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let middle = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
            let values = (0..shape.iter().product()).map(|_| middle + rng.random_range(-0.3..0.3)).collect();
            Tensor { name, shape, values }
        })
        .collect()
}

pub fn write_tensors(file: &Path, tensors: &[Tensor]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        (
            tensor.name.clone(),
            TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("of the test's own making"),
        )
    });
    write_bytes(file, &serialize(views, None).expect("of the test's own making"));
}

pub fn write_json(file: &Path, value: &Value) {
    write_bytes(file, value.to_string().as_bytes());
}

#[expect(clippy::disallowed_methods, reason = "folders that a test makes for itself")]
pub fn write_bytes(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).expect("of the test's own making");
}

fn linear(name: &str, inputs: usize, outputs: usize, shapes: &mut Vec<(String, Vec<usize>)>) {
    shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
    shapes.push((format!("{name}.bias"), vec![outputs]));
}

fn norm(name: &str, shapes: &mut Vec<(String, Vec<usize>)>) {
    shapes.push((format!("{name}.weight"), vec![HIDDEN]));
    shapes.push((format!("{name}.bias"), vec![HIDDEN]));
}
