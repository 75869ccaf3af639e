//! Embeddings: unit vectors that follow from the text alone (no model behind them, and no seed: the same text has the
//! same vector everywhere), as numbers or as base64 of little-endian 32-bit floats.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::body::Body;
use crate::dice::{self, Dice};
use crate::error::ApiError;
use crate::faults::{Answer, Fault};
use crate::render;
use crate::server::{Call, Sim};
use crate::tokens;
use crate::truth::Kind;
use crate::work::{Stop, Work};

const INPUTS_MAX: usize = 2_048;
const DIMENSIONS: usize = 1_536;
const DIMENSIONS_LARGE: usize = 3_072;
/// Components are whole multiples of this share, so that both encodings hold the same number.
const STEPS: f64 = 1e8;

/// The request as it stands on the wire.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    encoding_format: Option<Cow<'a, str>>,
    dimensions: Option<u64>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    x_echo: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// What was asked for, checked.
#[derive(Debug)]
struct Ask<'a> {
    model: Cow<'a, str>,
    inputs: Vec<Passage>,
    base64: bool,
    dimensions: usize,
    echo: Option<&'a str>,
}

/// One input: its tokens, and the hash its vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passage {
    tokens: u64,
    hash: u64,
}

pub async fn answer(sim: &Arc<Sim>, call: &Call, body: &[u8]) -> Result<Response<Body>, Stop> {
    let ask = Ask::read(body)?;
    let answer = Answer { usage: true, ..Answer::default() };
    let mut work = Work::begin(sim, call, Kind::Embeddings, &ask.model, answer, body)?;
    work.read_prompt(sim, ask.inputs.iter().map(|input| input.tokens).sum(), 0)?;
    // Nothing of an embedding's input is ever cached.
    work.ticket.work.tokens.cached = 0;
    if work.fault == Some(Fault::NoAnswer) {
        return Err(work.never_answer(sim).await);
    }
    work.first_token(sim).await;
    let json = ask.write(&work);
    Ok(work.deliver(sim, json))
}

// === impl Ask ===

impl<'a> Ask<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ApiError> {
        let raw: Raw<'a> = serde_json::from_slice(body).map_err(|error| ApiError::unreadable(&error))?;
        let model = raw
            .model
            .filter(|model| !model.is_empty())
            .ok_or_else(|| ApiError::invalid("you must provide a model parameter", None))?;
        let inputs = passages(raw.input.ok_or_else(|| ApiError::missing("input"))?)?;
        let base64 = match raw.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("Invalid value: '{other}'. Supported values are: 'float' and 'base64'.");
                return Err(ApiError::invalid(message, Some("encoding_format")).with_code("invalid_value"));
            }
        };
        let dimensions = dimensions(&model, raw.dimensions)?;
        Ok(Self { model, inputs, base64, dimensions, echo: raw.x_echo.map(RawValue::get) })
    }

    fn write(&self, work: &Work) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + self.inputs.len() * self.dimensions * if self.base64 { 6 } else { 12 });
        render::text(&mut out, r#"{"object":"list","data":["#);
        for (index, input) in self.inputs.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            render::text(&mut out, r#"{"object":"embedding","index":"#);
            render::number(&mut out, index as u64);
            render::text(&mut out, r#","embedding":"#);
            let vector = vector(input.hash, self.dimensions);
            if self.base64 {
                write_base64(&mut out, &vector)
            } else {
                write_floats(&mut out, &vector)
            }
            out.push(b'}');
        }
        render::text(&mut out, r#"],"model":"#);
        render::string(&mut out, &self.model);
        if let Some(usage) = work.told_usage() {
            render::text(&mut out, r#","usage":{"prompt_tokens":"#);
            render::number(&mut out, usage.prompt);
            render::text(&mut out, r#","total_tokens":"#);
            render::number(&mut out, usage.prompt);
            out.push(b'}');
        }
        render::common_fields(&mut out, self.echo);
        out.push(b'}');
        out
    }
}

fn dimensions(model: &str, asked: Option<u64>) -> Result<usize, ApiError> {
    let most = if model.starts_with("text-embedding-3-large") { DIMENSIONS_LARGE } else { DIMENSIONS };
    match asked {
        None => Ok(most),
        Some(asked) => usize::try_from(asked).ok().filter(|asked| (1..=most).contains(asked)).ok_or_else(|| {
            let message = format!("Invalid value for 'dimensions' = {asked}. Must be between 1 and {most}.");
            ApiError::invalid(message, Some("dimensions"))
        }),
    }
}

fn passages(raw: &RawValue) -> Result<Vec<Passage>, ApiError> {
    let wrong = |message: String| ApiError::invalid(message, Some("input"));
    let input: Input = serde_json::from_str(raw.get()).map_err(|_| {
        wrong("'input' must be a string, a list of strings, a list of tokens, or a list of token lists.".to_owned())
    })?;
    let passages: Vec<Passage> = match input {
        Input::Text(text) => vec![Passage::of_text(&text)],
        Input::Texts(texts) => texts.iter().map(|text| Passage::of_text(text)).collect(),
        Input::Tokens(tokens) => vec![Passage::of_tokens(&tokens)],
        Input::TokenLists(lists) => lists.iter().map(|tokens| Passage::of_tokens(tokens)).collect(),
    };
    if passages.is_empty() || passages.iter().any(|passage| passage.tokens == 0) {
        return Err(wrong("Invalid 'input': input cannot be an empty string or an empty list.".to_owned()));
    }
    if passages.len() > INPUTS_MAX {
        return Err(wrong(format!("Invalid 'input': at most {INPUTS_MAX} inputs are allowed in one request.")));
    }
    Ok(passages)
}

/// Keeps a `null` that was sent apart from a field that was not.
fn even_null<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

// === impl Passage ===

impl Passage {
    fn of_text(text: &str) -> Self {
        Self { tokens: tokens::count(text), hash: dice::hash(0, text.as_bytes()) }
    }

    fn of_tokens(tokens: &[u32]) -> Self {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        Self { tokens: tokens.len() as u64, hash: dice::hash(1, &bytes) }
    }
}

/// A unit vector. A shorter one is the beginning of a longer one, made unit again, as real models do it.
fn vector(hash: u64, dimensions: usize) -> Vec<f64> {
    let mut dice = Dice::new(hash);
    let mut vector: Vec<f64> = (0..dimensions).map(|_| dice.unit() * 2.0 - 1.0).collect();
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x = (*x / length * STEPS).round() / STEPS);
    vector
}

fn write_floats(out: &mut Vec<u8>, vector: &[f64]) {
    out.push(b'[');
    for (at, x) in vector.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if *x < 0.0 {
            out.push(b'-');
        }
        let steps = steps(*x);
        out.push(if steps == STEPS_IN_ONE { b'1' } else { b'0' });
        out.push(b'.');
        let fraction = itoa::Buffer::new().format(STEPS_IN_ONE + steps % STEPS_IN_ONE).as_bytes()[1..].to_vec();
        out.extend_from_slice(&fraction);
    }
    out.push(b']');
}

const STEPS_IN_ONE: u64 = 100_000_000;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e8, whole")]
fn steps(x: f64) -> u64 {
    (x.abs() * STEPS).round() as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the wire's floats have 32 bits")]
fn write_base64(out: &mut Vec<u8>, vector: &[f64]) {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn vectors_are_unit_and_follow_from_the_text() {
        let hash = |text| Passage::of_text(text).hash;
        let (cat, dog) = (vector(hash("cat"), 1_536), vector(hash("dog"), 1_536));
        assert!((dot(&cat, &cat) - 1.0).abs() < 1e-5);
        assert!(dot(&cat, &dog).abs() < 0.2);
        assert_eq!(cat, vector(hash("cat"), 1_536));
        let short = vector(hash("cat"), 256);
        assert!((dot(&short, &short) - 1.0).abs() < 1e-5);
        assert!((short[0] / cat[0] - short[1] / cat[1]).abs() < 1e-3);
        assert_eq!(vector(hash("cat"), 1).len(), 1);
    }

    #[test]
    fn both_encodings_hold_the_same_numbers() {
        for dimensions in [1, 2, 1_536] {
            let vector = vector(42, dimensions);
            let (mut floats, mut encoded) = (Vec::new(), Vec::new());
            write_floats(&mut floats, &vector);
            write_base64(&mut encoded, &vector);
            let floats: Vec<f32> = serde_json::from_slice(&floats).expect("a list of numbers");
            let text: String = serde_json::from_slice(&encoded).expect("a string");
            let bytes = STANDARD.decode(text).expect("base64");
            let decoded: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
            assert_eq!(floats, decoded);
        }
    }

    #[test]
    fn every_kind_of_input_is_counted() {
        let check = |input: &str, expected: &[u64]| {
            let raw = RawValue::from_string(input.to_owned()).expect("JSON");
            let counted: Vec<u64> = passages(&raw).expect("good").iter().map(|passage| passage.tokens).collect();
            assert_eq!(counted, expected, "{input}");
        };
        check(r#""two words""#, &[2]);
        check(r#"["a", "two words"]"#, &[1, 2]);
        check("[1, 2, 3]", &[3]);
        check("[[1, 2], [3]]", &[2, 1]);
    }

    #[test]
    fn bad_requests_are_refused() {
        for (body, param) in [
            (r#"{"input":"x"}"#, None),
            (r#"{"model":"m"}"#, Some("input")),
            (r#"{"model":"m","input":""}"#, Some("input")),
            (r#"{"model":"m","input":[]}"#, Some("input")),
            (r#"{"model":"m","input":{"a":1}}"#, Some("input")),
            (r#"{"model":"m","input":"x","encoding_format":"hex"}"#, Some("encoding_format")),
            (r#"{"model":"m","input":"x","dimensions":0}"#, Some("dimensions")),
            (r#"{"model":"m","input":"x","dimensions":1537}"#, Some("dimensions")),
            ("nonsense", None),
        ] {
            let error = Ask::read(body.as_bytes()).map(|_| ()).expect_err("a bad request");
            assert_eq!((error.status.as_u16(), error.param), (400, param), "{body}");
        }
    }
}
