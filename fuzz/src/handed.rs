//! What goes between a gateway and its workers, and requests for embeddings that are sent as one: whatever comes, numbers are
//! whole rows of finite ones, texts pass as they are, and shares add up.

use serde_json::Value;
use tollgate_gateway::workers::wire::{Handback, Handed, Refused, Served};
use tollgate_serving::coalesce::{joined, part, vectors};

use crate::Target;

pub const WORK: Target = Target {
    name: "handed_work",
    check: check_work,
    seeds: &[
        r#"{"route":"r","identity":"i","tenant":"t","share":1,"goal_us":1,"alone":false,"deadline_us":null,"patience_us":1,"truncate":true,"texts":["a"]}"#,
        r#"{"columns":2,"numbers":"AACAPwAAgD8AAIA/AACAPw==","stages":[0,2],"tokens":7,"cpu_ns":1}"#,
        r#"{"kind":"overloaded","reason":"x","retry_after_us":18446744073709551615}"#,
        r#"{"routes":[{"route":"r","model":"m","dims":2,"labels":[],"texts_max":1,"text_bytes_max":1,"identity":"i"}]}"#,
    ],
    words: &[
        "\"columns\":0",
        "\"columns\":18446744073709551615",
        "\"numbers\":\"\"",
        "\"numbers\":\"AADAfw==\"",
        "\"stages\":[9]",
        "\"tenant\":\"../x\"",
        "\"kind\":\"changed\"",
        "null",
        "[]",
        "{}",
        ",",
    ],
    takes_noise: false,
};

pub const TOGETHER: Target = Target {
    name: "coalesced",
    check: check_together,
    seeds: &[
        r#"{"model":"m","input":"a \"b\"","encoding_format":"base64"}"#,
        r#"{"model":"m","input":["a","b\u00e9"],"dimensions":3,"user":"u"}"#,
        r#"{"object":"list","data":[{"index":1,"embedding":[2.50]},{"index":0,"embedding":"AA=="}],"model":"m","usage":{"prompt_tokens":9}}"#,
    ],
    words: &[
        "\"input\":[1]",
        "\"input\":[[1]]",
        "\"input\":[]",
        "\"input\":null",
        "\"index\":9",
        "\"index\":0",
        "\"embedding\":null",
        "\"data\":[]",
        "\"\\u0069nput\":\"x\"",
        "\\ud800",
        ",",
        "{}",
    ],
    takes_noise: false,
};

pub fn check_work(data: &[u8]) {
    if let Ok(back) = serde_json::from_slice::<Handback>(data) {
        for (texts, columns) in [(1, 1), (2, 2), (usize::MAX, usize::MAX), (0, 1)] {
            if let Some(rows) = back.rows(texts, columns) {
                assert!(rows.len() == texts && rows.iter().all(|row| row.len() == columns));
                assert!(rows.iter().flatten().all(|number| number.is_finite()));
                let again = Handback::of_vectors(&rows, back.tokens, back.cpu());
                assert_eq!(again.rows(texts, columns), Some(rows));
            }
            let _ = back.classified(texts, columns);
        }
    }
    if let Ok(refused) = serde_json::from_slice::<Refused>(data) {
        let told = refused.clone().told();
        assert!(!told.code().is_empty());
    }
    if let Ok(handed) = serde_json::from_slice::<Handed>(data) {
        let text = serde_json::to_vec(&handed).expect("plain data");
        assert_eq!(serde_json::from_slice::<Handed>(&text).expect("what we wrote"), handed);
    }
    let _ = serde_json::from_slice::<Served>(data);
}

/// What passes through us unread may be text that is none, such as half of a surrogate pair: of that this reading says nothing.
fn read(data: &[u8]) -> Option<Value> {
    serde_json::from_slice(data).ok()
}

pub fn check_together(data: &[u8]) {
    if let Some(one) = part(data) {
        let Some(plain) = read(data) else { return };
        let texts: Vec<Value> = match &plain["input"] {
            Value::Array(texts) => texts.clone(),
            text => vec![text.clone()],
        };
        let both: Value = serde_json::from_slice(&joined("m", [&one, &one])).expect("JSON");
        assert_eq!(both["input"], Value::Array([texts.clone(), texts].concat()));
        for name in ["encoding_format", "dimensions", "user"] {
            assert_eq!(both.get(name), plain.get(name));
        }
    }
    for texts in 1..3 {
        let Ok(split) = vectors(data, texts) else { continue };
        let Some(plain) = read(data) else { return };
        for from in 0..texts {
            let answer: Value = serde_json::from_slice(&split.answer(from, 1, Some(3))).expect("JSON");
            let theirs =
                plain["data"].as_array().expect("a list").iter().find(|one| one["index"] == from).expect("one each");
            assert_eq!(answer["data"][0]["embedding"], theirs["embedding"]);
        }
    }
}
