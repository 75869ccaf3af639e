//! What a request's bytes count less than one token each: the texts of its messages, read from the JSON they are in.
//!
//! Only what goes to the model as it is written is counted so. Each text is counted by itself; where a provider joins
//! parts of a message, the seam may cost a token or two more than both sides: far less than the bytes of the structure
//! around each part, which stay counted in full.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Tokenizer;

/// How many tokens fewer than bytes `body` has at least. Zero for what is not such a request.
pub fn spared(tokenizer: Tokenizer, body: &[u8]) -> u64 {
    let Ok(request) = serde_json::from_slice::<Request<'_>>(body) else { return 0 };
    request.0.into_iter().map(|text| spared_by(tokenizer, text)).sum()
}

fn spared_by(tokenizer: Tokenizer, literal: &RawValue) -> u64 {
    let bytes = literal.get().len() as u64;
    // What is no text, or none that can be decoded (half a surrogate pair), stays as its bytes.
    let text = serde_json::from_str::<Cow<'_, str>>(literal.get());
    text.map_or(0, |text| bytes.saturating_sub(tokenizer.count(&text)))
}

/// The literals of all texts.
struct Request<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Request<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut texts = Vec::new();
        each_member(deserializer, |key, value| match key {
            "messages" => each_element(value, |message| {
                each_member_of(message, |key, value| {
                    if key == "content" {
                        text_or_parts(value, &mut texts);
                    }
                });
            }),
            "input" => text_or_parts(value, &mut texts),
            _ => {}
        })?;
        Ok(Self(texts))
    }
}

/// A text, or a list of texts and of parts with a text.
fn text_or_parts<'a>(value: &'a RawValue, texts: &mut Vec<&'a RawValue>) {
    match value.get().as_bytes().first() {
        Some(b'"') => texts.push(value),
        Some(b'[') => each_element(value, |part| match part.get().as_bytes().first() {
            Some(b'"') => texts.push(part),
            Some(b'{') => each_member_of(part, |key, value| {
                if key == "text" {
                    texts.push(value);
                }
            }),
            _ => {}
        }),
        _ => {}
    }
}

fn each_member_of<'a>(object: &'a RawValue, found: impl FnMut(&str, &'a RawValue)) {
    // What is no object has no members to be found; it was JSON when it was read.
    let _ = each_member(&mut serde_json::Deserializer::from_str(object.get()), found);
}

fn each_element<'a>(list: &'a RawValue, found: impl FnMut(&'a RawValue)) {
    struct Elements<F>(F);
    impl<'de, F: FnMut(&'de RawValue)> Visitor<'de> for Elements<F> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(element) = list.next_element()? {
                (self.0)(element);
            }
            Ok(())
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(list.get());
    let _ = deserializer.deserialize_seq(Elements(found));
}

fn each_member<'de, D: Deserializer<'de>>(
    deserializer: D,
    found: impl FnMut(&str, &'de RawValue),
) -> Result<(), D::Error> {
    struct Members<F>(F);
    impl<'de, F: FnMut(&str, &'de RawValue)> Visitor<'de> for Members<F> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                (self.0)(&key, map.next_value()?);
            }
            Ok(())
        }
    }
    deserializer.deserialize_map(Members(found))
}
