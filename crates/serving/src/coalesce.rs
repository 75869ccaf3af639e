//! Small requests for embeddings made one, and its answer made several again. Pure: bytes in, bytes out.
//!
//! Only texts are joined, and only of requests that say the same of everything else; each text goes on, and each vector comes
//! back, byte for byte as it came. What a provider counts for the whole is shared so that the shares add up to it exactly.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::top_level::TopLevel;

/// A request that may be joined with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Each as it stands in the request, quotes and all.
    pub texts: Vec<Box<str>>,
    /// The members besides `model` and `input`, as they stand there. Requests are joined where these are the same.
    pub rest: Box<str>,
}

/// Texts of a request that is small enough, and bytes of its body.
pub const TEXTS_MAX: usize = 16;
pub const BYTES_MAX: usize = 8 * 1024;

/// Members that say how an embedding is to be made. Who says anything else is not understood well enough to be joined.
const KNOWN: [&str; 5] = ["model", "input", "encoding_format", "dimensions", "user"];

/// Why an answer is not one to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer has not one embedding for each text")]
pub struct Unfit;

/// Reads a request that may be joined; `None`: it goes by itself.
pub fn part(body: &[u8]) -> Option<Part> {
    if body.len() > BYTES_MAX {
        return None;
    }
    let top = TopLevel::parse(body).ok()?;
    if !top.keys().all(|key| KNOWN.contains(&key)) {
        return None;
    }
    let input = top.present("input")?;
    let texts: Vec<&RawValue> = match input.get().starts_with('[') {
        true => serde_json::from_str(input.get()).ok()?,
        false => vec![input],
    };
    let all_text = texts.iter().all(|text| text.get().starts_with('"'));
    if !(1..=TEXTS_MAX).contains(&texts.len()) || !all_text {
        return None;
    }
    let rest = KNOWN.iter().skip(2).filter_map(|key| Some(format!(",\"{key}\":{}", top.get(key)?.get())));
    Some(Part {
        texts: texts.iter().map(|text| text.get().into()).collect(),
        rest: rest.collect::<String>().into_boxed_str(),
    })
}

/// One request of all parts, which say the same besides their texts.
pub fn joined<'a>(model: &str, parts: impl IntoIterator<Item = &'a Part>) -> Bytes {
    let mut parts = parts.into_iter().peekable();
    let rest = parts.peek().map(|part| part.rest.clone()).unwrap_or_default();
    let mut body = format!("{{\"model\":{},\"input\":[", serde_json::Value::from(model));
    for (number, text) in parts.flat_map(|part| &part.texts).enumerate() {
        if number > 0 {
            body.push(',');
        }
        body.push_str(text);
    }
    body.push(']');
    body.push_str(&rest);
    body.push('}');
    body.into()
}

/// One of the answer's embeddings.
#[derive(Deserialize)]
struct Embedding<'a> {
    index: usize,
    #[serde(borrow)]
    embedding: &'a RawValue,
}

/// The answer's embeddings, in the order of the texts, each as it stands there; and the model as it says it.
#[derive(Debug)]
pub struct Vectors<'a> {
    model: Cow<'a, str>,
    embeddings: Vec<&'a RawValue>,
}

/// Reads an answer to so many texts.
pub fn vectors(answer: &[u8], texts: usize) -> Result<Vectors<'_>, Unfit> {
    let top = TopLevel::parse(answer).map_err(|_| Unfit)?;
    let data = top.present("data").ok_or(Unfit)?;
    let data: Vec<Embedding<'_>> = serde_json::from_str(data.get()).map_err(|_| Unfit)?;
    let mut embeddings = vec![None; texts];
    for Embedding { index, embedding } in &data {
        let place = embeddings.get_mut(*index).ok_or(Unfit)?;
        if place.replace(*embedding).is_some() {
            return Err(Unfit);
        }
    }
    let embeddings = embeddings.into_iter().collect::<Option<Vec<_>>>().ok_or(Unfit)?;
    let model = top.present("model").map_or(Cow::Borrowed("null"), |model| Cow::Borrowed(model.get()));
    Ok(Vectors { model, embeddings })
}

// === impl Vectors ===

impl Vectors<'_> {
    /// The answer to the texts from `from` on, `count` of them, which count so many tokens; `None`: nobody said how many.
    pub fn answer(&self, from: usize, count: usize, tokens: Option<u64>) -> Bytes {
        let mut body = String::from("{\"object\":\"list\",\"data\":[");
        for (index, embedding) in self.embeddings.iter().skip(from).take(count).enumerate() {
            if index > 0 {
                body.push(',');
            }
            body.push_str(&format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":"));
            body.push_str(embedding.get());
            body.push('}');
        }
        body.push_str(&format!("],\"model\":{}", self.model));
        if let Some(tokens) = tokens {
            body.push_str(&format!(",\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}"));
        }
        body.push('}');
        body.into()
    }
}

/// Shares of a whole by their weights, in whole units that add up to it: by the largest remainder (Hamilton's method); of equal
/// remainders the first. Where all weights are 0 they count the same.
pub fn shares(whole: u64, weights: &[u64]) -> Vec<u64> {
    let even = vec![1; weights.len()];
    let weights = if weights.iter().all(|weight| *weight == 0) { &even } else { weights };
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return Vec::new();
    }
    let exact = |weight: &u64| u128::from(whole) * u128::from(*weight);
    // At most the whole, which has 64 bits.
    let floor = |weight: &u64| u64::try_from(exact(weight) / sum).unwrap_or(u64::MAX);
    let mut shares: Vec<u64> = weights.iter().map(floor).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|place| std::cmp::Reverse(exact(&weights[*place]) % sum));
    let left = whole - shares.iter().sum::<u64>();
    for place in order.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        shares[place] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_small_requests_that_are_understood_are_joined() {
        let plain = part(br#"{"model":"m","input":"a \"b\"","encoding_format":"base64"}"#).expect("it is small");
        assert_eq!((&*plain.texts[0], &*plain.rest), (r#""a \"b\"""#, r#","encoding_format":"base64""#));
        assert_eq!(part(br#"{"input":["a","b"],"model":"m"}"#).expect("it is small").texts.len(), 2);
        let other_order = part(br#"{"encoding_format":"base64","input":"x","model":"m"}"#).expect("it is small");
        assert_eq!(other_order.rest, plain.rest);
        let refused = [
            r#"{"model":"m","input":[1,2]}"#,
            r#"{"model":"m","input":[[1,2]]}"#,
            r#"{"model":"m","input":["a",1]}"#,
            r#"{"model":"m","input":[]}"#,
            r#"{"model":"m","input":null}"#,
            r#"{"model":"m"}"#,
            r#"{"model":"m","input":"a","something":"new"}"#,
            r#"{"model":"m","input":{"a":1}}"#,
            "[]",
        ];
        for body in refused {
            assert_eq!(part(body.as_bytes()), None, "{body}");
        }
        let many = json!({ "model": "m", "input": vec!["a"; TEXTS_MAX + 1] }).to_string();
        assert_eq!(part(many.as_bytes()), None);
        let long = json!({ "model": "m", "input": "a".repeat(BYTES_MAX) }).to_string();
        assert_eq!(part(long.as_bytes()), None);
    }

    #[test]
    fn what_was_joined_is_one_request_and_its_answer_is_taken_apart_again() {
        let parts = [r#"{"model":"m","input":["a","ä"]}"#, r#"{"model":"m","input":"c"}"#];
        let parts: Vec<Part> = parts.iter().map(|body| part(body.as_bytes()).expect("small")).collect();
        let body: Value = serde_json::from_slice(&joined("its \"name\"", &parts)).expect("JSON");
        assert_eq!(body, json!({ "model": "its \"name\"", "input": ["a", "ä", "c"] }));

        let answer = r#"{"object":"list","data":[{"object":"embedding","index":2,"embedding":[2.50]},{"index":0,"embedding":[0.1e1]},
            {"index":1,"embedding":"AAA="}],"model":"m-1","usage":{"prompt_tokens":9,"total_tokens":9}}"#;
        let split = vectors(answer.as_bytes(), 3).expect("one for each");
        let first = String::from_utf8(split.answer(0, 2, Some(5)).to_vec()).expect("UTF-8");
        assert!(first.contains("[0.1e1]") && first.contains("\"AAA=\"") && !first.contains("2.50"), "{first}");
        let second: Value = serde_json::from_slice(&split.answer(2, 1, None)).expect("JSON");
        assert_eq!(
            second,
            json!({ "object": "list", "model": "m-1", "data": [{ "object": "embedding", "index": 0, "embedding": [2.5] }] })
        );
        for (wrong, texts) in [
            (answer, 2),
            (answer, 4),
            ("{}", 1),
            ("[", 1),
            (r#"{"data":[{"index":0,"embedding":1},{"index":0,"embedding":1}]}"#, 2),
        ] {
            assert!(vectors(wrong.as_bytes(), texts).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Who counts as the provider does shares exactly.
        #[test]
        fn where_the_weights_are_the_counts_each_has_its_own(counts in prop::collection::vec(0_u64..1_000_000, 1..40)) {
            let whole = counts.iter().sum();
            prop_assume!(whole > 0);
            prop_assert_eq!(shares(whole, &counts), counts);
        }

        #[test]
        fn shares_add_up_and_each_is_within_one_of_its_exact_part(
            whole in any::<u64>(), weights in prop::collection::vec(0_u64..1_000_000, 1..40),
        ) {
            let shares = shares(whole, &weights);
            prop_assert_eq!(shares.iter().map(|share| u128::from(*share)).sum::<u128>(), u128::from(whole));
            let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            if sum > 0 {
                for (share, weight) in shares.iter().zip(&weights) {
                    let exact = u128::from(whole) * u128::from(*weight);
                    prop_assert!(u128::from(*share) * sum <= exact + sum && exact <= (u128::from(*share) + 1) * sum);
                }
            }
        }

        #[test]
        fn whatever_is_said_is_joined_and_split_or_goes_by_itself(body in "\\PC{0,80}", texts in prop::collection::vec("\\PC{0,8}", 1..5)) {
            let _ = part(body.as_bytes());
            let said = json!({ "model": "m", "input": texts }).to_string();
            let part = part(said.as_bytes()).expect("small texts");
            let joined: Value = serde_json::from_slice(&joined("m", [&part, &part])).expect("JSON");
            prop_assert_eq!(&joined["input"], &json!([texts.clone(), texts].concat()));
        }
    }
}
