//! What models that run here are asked: no more texts than are taken, none of them empty, and the ones that a plain reading
//! finds.

use serde_json::Value;
use tollgate_gateway::http::local::{Shape, read};
use tollgate_types::Surface;

use crate::{Target, by_serde};

pub const TARGET: Target = Target {
    name: "local_request",
    check: check_local_request,
    seeds: &[
        r#"{"model":"m","input":"a text"}"#,
        r#"{"model":"m","input":["one","two \u00e9","three"],"encoding_format":"base64","dimensions":384}"#,
        r#"{"input":["one"],"top_k":5,"truncate":true,"user":"u"}"#,
        r#"{ "input" : [ "a" , "b" ] , "encoding_format" : "float" , "truncate" : null }"#,
    ],
    words: &[
        "\"input\":\"\"",
        "\"input\":[]",
        "\"input\":[1,2]",
        "\"input\":null",
        "\"top_k\":0",
        "\"top_k\":1001",
        "\"truncate\":1",
        "\"dimensions\":-1",
        "\"encoding_format\":\"hex\"",
        "\"\\u0069nput\":\"x\"",
        " \\n\\t",
        "null",
        "[[]]",
        "{}",
        ",",
    ],
    takes_noise: false,
};

const TEXTS_MAX: usize = 3;

pub fn check_local_request(data: &[u8]) {
    for surface in [Surface::Embeddings, Surface::Classify] {
        let Ok(wanted) = read(surface, data, TEXTS_MAX) else { continue };
        assert!((1..=TEXTS_MAX).contains(&wanted.texts.len()));
        assert!(wanted.texts.iter().all(|text| !text.trim().is_empty()));
        match wanted.shape {
            Shape::Labels { top_k } => assert!(surface == Surface::Classify && (1..=1_000).contains(&top_k)),
            Shape::Vectors { .. } => assert_eq!(surface, Surface::Embeddings),
            Shape::Run { .. } => panic!("a run has a surface of its own"),
        }
        let Some(plain) = by_serde(data) else { continue };
        let texts: Vec<&str> = match &plain["input"] {
            Value::String(text) => vec![text],
            Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
            other => panic!("taken, though the input is {other}"),
        };
        assert_eq!(wanted.texts, texts);
        assert_eq!(wanted.truncate, plain.get("truncate").and_then(Value::as_bool).unwrap_or(false));
    }
}
