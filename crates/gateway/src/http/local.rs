//! What our own models are asked and answer: OpenAI's embeddings, and `/v1/classify`, whose shape is vLLM's with names
//! instead of numbers. What deciding needs to know of a request is read in `wire.rs`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_runtime::template::{Manifest, Template};
use tollgate_serving::top_level::TopLevel;
use tollgate_types::{Refusal, RequestId, Surface};

use crate::local::Bodies;

/// What is wanted of which texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub texts: Vec<String>,
    /// Read only the beginning of a text that is too long for the model; otherwise it is refused.
    pub truncate: bool,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Vectors {
        base64: bool,
        dimensions: Option<usize>,
    },
    Labels {
        top_k: usize,
    },
    /// Labels of a template's inputs.
    Run {
        top_k: usize,
    },
}

/// One text's labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labelled {
    pub object: &'static str,
    pub index: usize,
    /// The likeliest.
    pub label: String,
    /// How likely, from 0 to 1: of a hundred answers at 0.9 some ninety are right.
    pub confidence: f32,
    /// Who answered: `hashed`, `encoder`, or `mixed`.
    pub stage: &'static str,
    /// The likeliest `top_k`.
    pub labels: Vec<Probable>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probable {
    pub label: String,
    pub probability: f32,
}

/// One input's label, and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    #[serde(flatten)]
    pub labelled: Labelled,
    /// `answer`, or `review`: it is not sure enough for the template, and a person should look at it.
    pub decision: &'static str,
    /// It was answered before.
    pub cached: bool,
}

/// What else is said of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunOf<'a> {
    pub id: RequestId,
    pub template: &'a Manifest,
    pub model: &'a str,
    pub tokens: u64,
    pub cached_tokens: u64,
}

/// Labels that are shown of each text unless more are asked for, and at most.
const TOP_K: usize = 1;
const TOP_K_MAX: usize = 1_000;

/// A text, or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input<'a> {
    #[serde(borrow)]
    One(Cow<'a, str>),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

/// Reads what is wanted of at most `texts_max` texts. The first fault is told, with the number of its text.
pub fn read(surface: Surface, body: &[u8], texts_max: usize) -> Result<Wanted, Refusal> {
    let top = TopLevel::parse(body).map_err(|error| Refusal::invalid(error.to_string()))?;
    let input = top.present("input").ok_or_else(|| Refusal::invalid_param("'input' is required", "input"))?;
    let input: Input<'_> = serde_json::from_str(input.get()).map_err(|_| {
        Refusal::invalid_param(
            "'input' must be a text or a list of texts: a model that runs here takes no tokens",
            "input",
        )
    })?;
    let texts = match input {
        Input::One(text) => vec![text.into_owned()],
        Input::Many(texts) => texts,
    };
    check(&texts, texts_max)?;
    let shape = match surface {
        Surface::Classify => Shape::Labels { top_k: top_k(&top)? },
        _ => {
            let encoding = optional::<Encoding>(&top, "encoding_format", "must be \"float\" or \"base64\"")?;
            let dimensions = optional::<usize>(&top, "dimensions", "must be a whole number")?;
            Shape::Vectors { base64: matches!(encoding, Some(Encoding::Base64)), dimensions }
        }
    };
    let truncate = optional(&top, "truncate", "must be true or false")?.unwrap_or(false);
    Ok(Wanted { texts, truncate, shape })
}

/// A run as it is asked for. What is not known is refused: a misspelt member would otherwise do nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRun {
    #[expect(dead_code, reason = "it was read where the route was looked for")]
    template: Value,
    input: Value,
    top_k: Option<usize>,
}

impl RawRun {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("the run cannot be read: {error}")))
    }

    fn inputs(&self) -> &[Value] {
        match &self.input {
            Value::Array(inputs) => inputs,
            one => std::slice::from_ref(one),
        }
    }
}

/// Reads a run of at most `texts_max` inputs, each as its template wants it.
pub fn read_run(template: &Template, bodies: Bodies<'_>, texts_max: usize) -> Result<Wanted, Refusal> {
    let asked = RawRun::parse(bodies.original)?;
    let inputs = asked.inputs();
    if inputs.is_empty() {
        return Err(Refusal::invalid_param("'input' holds no input", "input"));
    }
    if inputs.len() > texts_max {
        let what = format!("'input' holds {} inputs; at most {texts_max} are taken: send them in parts", inputs.len());
        return Err(Refusal::invalid_param(what, "input"));
    }
    for (number, input) in inputs.iter().enumerate() {
        template.check(input).map_err(|why| Refusal::invalid_param(format!("input {number}: {why}"), "input"))?;
    }
    let top_k = checked_top_k(asked.top_k)?;
    let texts = match bodies.is_redacted() {
        false => inputs.iter().map(|input| template.text(input)).collect(),
        // What is taken out may make a member longer than the schema allows: that is not the caller's fault.
        true => RawRun::parse(bodies.redacted)?.inputs().iter().map(|input| template.text(input)).collect(),
    };
    Ok(Wanted { texts, truncate: true, shape: Shape::Run { top_k } })
}

fn check(texts: &[String], texts_max: usize) -> Result<(), Refusal> {
    if texts.is_empty() {
        return Err(Refusal::invalid_param("'input' holds no text", "input"));
    }
    if texts.len() > texts_max {
        let what =
            format!("'input' holds {} texts, and at most {texts_max} are taken: send them in parts", texts.len());
        return Err(Refusal::invalid_param(what, "input"));
    }
    match texts.iter().position(|text| text.trim().is_empty()) {
        Some(number) => Err(Refusal::invalid_param(format!("text {number} of 'input' is empty"), "input")),
        None => Ok(()),
    }
}

fn top_k(top: &TopLevel<'_>) -> Result<usize, Refusal> {
    checked_top_k(optional::<usize>(top, "top_k", TOP_K_WRONG)?)
}

const TOP_K_WRONG: &str = "must be a whole number from 1 to 1000";

fn checked_top_k(top_k: Option<usize>) -> Result<usize, Refusal> {
    let top_k = top_k.unwrap_or(TOP_K);
    let is_fine = (1..=TOP_K_MAX).contains(&top_k);
    if is_fine { Ok(top_k) } else { Err(Refusal::invalid_param(format!("'top_k' {TOP_K_WRONG}"), "top_k")) }
}

fn optional<'a, T: Deserialize<'a>>(
    top: &TopLevel<'a>,
    param: &'static str,
    wrong: &str,
) -> Result<Option<T>, Refusal> {
    let read = top.present(param).map(|raw| serde_json::from_str(raw.get()));
    read.transpose().map_err(|_| Refusal::invalid_param(format!("'{param}' {wrong}"), param))
}

#[derive(Serialize)]
struct Answer<'a, T> {
    object: &'static str,
    data: &'a [T],
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Embedded<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Floats(&'a [f32]),
    Base64(String),
}

/// OpenAI's list of embeddings. In base64 a vector is its numbers of 32 bits, little endian.
pub fn vectors(vectors: &[Vec<f32>], base64: bool, model: &str, tokens: u64) -> Bytes {
    let embedded = |(index, vector): (usize, &'_ Vec<f32>)| {
        let bytes = || vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        let encoded = base64.then(|| STANDARD.encode(bytes()));
        (index, encoded)
    };
    let encoded: Vec<_> = vectors.iter().enumerate().map(embedded).collect();
    let data: Vec<Embedded<'_>> = encoded
        .into_iter()
        .map(|(index, text)| {
            let embedding = text.map_or(Vector::Floats(&vectors[index]), Vector::Base64);
            Embedded { object: "embedding", index, embedding }
        })
        .collect();
    answer(&data, model, tokens)
}

pub fn labels(labelled: &[Labelled], model: &str, tokens: u64) -> Bytes {
    answer(labelled, model, tokens)
}

#[derive(Serialize)]
struct RunAnswer<'a> {
    id: String,
    object: &'static str,
    template: &'a str,
    version: &'a str,
    data: &'a [Decision],
    model: &'a str,
    usage: RunUsage,
    /// Where its receipt is.
    receipt: String,
}

#[derive(Serialize)]
struct RunUsage {
    #[serde(flatten)]
    usage: Usage,
    prompt_tokens_details: CachedTokens,
}

#[derive(Serialize)]
struct CachedTokens {
    cached_tokens: u64,
}

pub fn run(decisions: &[Decision], about: RunOf<'_>) -> Bytes {
    let RunOf { id, template, model, tokens, cached_tokens } = about;
    let answer = RunAnswer {
        id: id.to_string(),
        object: "run",
        template: &template.id,
        version: &template.version,
        data: decisions,
        model,
        usage: RunUsage {
            usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
            prompt_tokens_details: CachedTokens { cached_tokens },
        },
        receipt: format!("/v1/receipts/{id}"),
    };
    serde_json::to_vec(&answer).expect("numbers and texts, which JSON can hold").into()
}

fn answer<T: Serialize>(data: &[T], model: &str, tokens: u64) -> Bytes {
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    let answer = Answer { object: "list", data, model, usage };
    serde_json::to_vec(&answer).expect("numbers and texts, which JSON can hold").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(surface: Surface, body: &str) -> Result<Wanted, String> {
        read(surface, body.as_bytes(), 3).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn one_text_or_several_are_read_with_what_is_wanted_of_them() {
        let embed = |body: &str| wanted(Surface::Embeddings, body).expect("it is fine");
        let plain = embed(r#"{"model":"m","input":"a \"b\""}"#);
        assert_eq!(plain.texts, ["a \"b\""]);
        assert_eq!(plain.shape, Shape::Vectors { base64: false, dimensions: None });
        let coded = embed(r#"{"input":["a","b"],"encoding_format":"base64","dimensions":384,"truncate":true}"#);
        assert_eq!((coded.texts.len(), coded.truncate), (2, true));
        assert_eq!(coded.shape, Shape::Vectors { base64: true, dimensions: Some(384) });
        let labels = wanted(Surface::Classify, r#"{"input":"a","top_k":5}"#).expect("it is fine");
        assert_eq!(labels.shape, Shape::Labels { top_k: 5 });
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let check = |body: &str, part: &str| {
            let said = wanted(Surface::Classify, body).expect_err("it is wrong");
            assert!(said.contains(part), "{part} in {said}");
        };
        check("{}", "'input' is required");
        check(r#"{"input":[]}"#, "holds no text");
        check(r#"{"input":["a"," \n"]}"#, "text 1 of 'input' is empty");
        check(r#"{"input":["a","b","c","d"]}"#, "4 texts, and at most 3");
        check(r#"{"input":[1,2]}"#, "takes no tokens");
        check(r#"{"input":"a","top_k":0}"#, "'top_k' must be");
        check(r#"{"input":"a","truncate":"yes"}"#, "'truncate' must be");
        let said = wanted(Surface::Embeddings, r#"{"input":"a","encoding_format":"hex"}"#).expect_err("it is wrong");
        assert!(said.contains("\"float\" or \"base64\""), "{said}");
    }

    #[test]
    fn vectors_are_written_as_numbers_or_as_their_bytes() {
        let both = [vec![0.5f32, -1.0]];
        let plain: serde_json::Value = serde_json::from_slice(&vectors(&both, false, "m", 7)).expect("JSON");
        assert_eq!(plain["data"][0]["embedding"], serde_json::json!([0.5, -1.0]));
        assert_eq!((&plain["usage"]["total_tokens"], &plain["model"]), (&7.into(), &"m".into()));
        let coded: serde_json::Value = serde_json::from_slice(&vectors(&both, true, "m", 7)).expect("JSON");
        let bytes = STANDARD.decode(coded["data"][0]["embedding"].as_str().expect("a text")).expect("base64");
        assert_eq!(bytes, [0, 0, 0, 63, 0, 0, 128, 191]);
    }
}
