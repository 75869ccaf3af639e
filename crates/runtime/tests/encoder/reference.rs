//! A BERT encoder in plain loops of `f64`, straight from the files Hugging Face ships: what the real one is held against. It
//! shares no code with it, down to how files are read.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

pub struct Reference {
    tensors: HashMap<String, Vec<f64>>,
    layers: usize,
    hidden: usize,
    heads: usize,
    epsilon: f64,
}

/// A row for each token.
type Rows = Vec<Vec<f64>>;

impl Reference {
    pub fn open(folder: &Path) -> Self {
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).expect("a sound folder"))
            .expect("a sound folder");
        let number =
            |field: &str| usize::try_from(config[field].as_u64().expect("a sound folder")).expect("a sound folder");
        let bytes = fs::read(folder.join("model.safetensors")).expect("a sound folder");
        let file = SafeTensors::deserialize(&bytes).expect("a sound folder");
        let floats = |data: &[u8]| {
            data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        };
        let tensors = file.iter().map(|(name, tensor)| (name.to_owned(), floats(tensor.data()))).collect();
        Self {
            tensors,
            layers: number("num_hidden_layers"),
            hidden: number("hidden_size"),
            heads: number("num_attention_heads"),
            epsilon: config["layer_norm_eps"].as_f64().expect("a sound folder"),
        }
    }

    /// Of one text, by the numbers of its tokens.
    pub fn embed(&self, ids: &[u32]) -> Vec<f64> {
        let words = self.tensor("embeddings.word_embeddings.weight");
        let places = self.tensor("embeddings.position_embeddings.weight");
        let kind = self.tensor("embeddings.token_type_embeddings.weight");
        let rows = ids.iter().enumerate().map(|(place, &id)| {
            let word = &words[usize::try_from(id).expect("a sound folder") * self.hidden..];
            let place = &places[place * self.hidden..];
            (0..self.hidden).map(|at| word[at] + place[at] + kind[at]).collect()
        });
        let mut rows = self.norm("embeddings.LayerNorm", rows.collect());
        for layer in 0..self.layers {
            rows = self.layer(&format!("encoder.layer.{layer}"), rows);
        }
        let mut mean = vec![0.0; self.hidden];
        for row in &rows {
            for (mean, value) in mean.iter_mut().zip(row) {
                *mean += value / rows.len() as f64;
            }
        }
        let length = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
        mean.into_iter().map(|value| value / length).collect()
    }

    fn layer(&self, name: &str, rows: Rows) -> Rows {
        let part = |part: &str| self.linear(&format!("{name}.attention.self.{part}"), &rows);
        let (queries, keys, values) = (part("query"), part("key"), part("value"));
        let width = self.hidden / self.heads;
        let mut context = vec![vec![0.0; self.hidden]; rows.len()];
        for head in 0..self.heads {
            let columns = head * width..(head + 1) * width;
            for (query, context) in queries.iter().zip(&mut context) {
                let scores = keys.iter().map(|key| dot(&query[columns.clone()], &key[columns.clone()]));
                let weights: Vec<f64> = scores.map(|score| (score / (width as f64).sqrt()).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&values) {
                    for column in columns.clone() {
                        context[column] += weight / sum * value[column];
                    }
                }
            }
        }
        let attended = self.linear(&format!("{name}.attention.output.dense"), &context);
        let attended = self.norm(&format!("{name}.attention.output.LayerNorm"), added(attended, &rows));
        let mut inner = self.linear(&format!("{name}.intermediate.dense"), &attended);
        for value in inner.iter_mut().flatten() {
            *value *= 0.5 * (1.0 + libm::erf(*value / 2_f64.sqrt()));
        }
        let output = self.linear(&format!("{name}.output.dense"), &inner);
        self.norm(&format!("{name}.output.LayerNorm"), added(output, &attended))
    }

    fn linear(&self, name: &str, rows: &Rows) -> Rows {
        let weights = self.tensor(&format!("{name}.weight"));
        let bias = self.tensor(&format!("{name}.bias"));
        rows.iter()
            .map(|row| {
                weights.chunks_exact(row.len()).zip(bias).map(|(weights, bias)| dot(row, weights) + bias).collect()
            })
            .collect()
    }

    fn norm(&self, name: &str, mut rows: Rows) -> Rows {
        let gamma = self.tensor(&format!("{name}.weight"));
        let beta = self.tensor(&format!("{name}.bias"));
        for row in &mut rows {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / row.len() as f64;
            for (at, value) in row.iter_mut().enumerate() {
                *value = (*value - mean) / (variance + self.epsilon).sqrt() * gamma[at] + beta[at];
            }
        }
        rows
    }

    fn tensor(&self, name: &str) -> &[f64] {
        &self.tensors[name]
    }
}

fn added(mut rows: Rows, others: &Rows) -> Rows {
    for (row, other) in rows.iter_mut().zip(others) {
        for (value, other) in row.iter_mut().zip(other) {
            *value += other;
        }
    }
    rows
}

/// In eight sums side by side: a compiler may not reorder the terms of one.
fn dot(one: &[f64], other: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for (one, other) in one.chunks(8).zip(other.chunks(8)) {
        for ((sum, one), other) in sums.iter_mut().zip(one).zip(other) {
            *sum += one * other;
        }
    }
    sums.iter().sum()
}

/// Of two vectors of unit length.
pub fn cosine(one: &[f32], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| f64::from(*one) * other).sum()
}
