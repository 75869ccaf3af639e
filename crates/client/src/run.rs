//! A template's run, as `POST /v1/runs` takes and answers it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// The template's name, as it is routed.
    pub template: String,
    /// One input, or a list of them, each as the template's schema wants it.
    pub input: serde_json::Value,
    /// Labels that are shown of each, the likeliest first. 1 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The request's id.
    pub id: String,
    /// `run`
    pub object: String,
    pub template: String,
    pub version: String,
    /// In the order of the inputs.
    pub data: Vec<RunResult>,
    /// What it was answered by.
    pub model: String,
    pub usage: RunUsage,
    /// The path of its receipt.
    pub receipt: String,
}

/// One input's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub index: usize,
    /// The likeliest.
    pub label: String,
    /// How likely, from 0 to 1.
    pub confidence: f64,
    /// `answer`, or `review`: it is not sure enough, and a person should look at it.
    pub decision: String,
    /// Who answered: `hashed`, `encoder` or `mixed`.
    pub stage: String,
    /// It was answered before.
    pub cached: bool,
    pub labels: Vec<RunLabel>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunLabel {
    pub label: String,
    pub probability: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: RunCachedTokens,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunCachedTokens {
    /// Of texts that were answered before.
    pub cached_tokens: u64,
}
