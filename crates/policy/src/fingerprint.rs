//! The identity of what an admission decision can read. An unrelated change leaves it as it was; a related one does not.

use std::fmt;

use ring::digest::{Context, SHA256};
use serde_json::Value;

/// A digest, shown as `pf_` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 16]);

/// What a fingerprint is made of, piece by piece; where one piece ends and the next begins is part of it.
pub(crate) struct Digest(Context);

// === impl Fingerprint ===

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pf_")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

// === impl Digest ===

impl Digest {
    pub fn new(what: &str) -> Self {
        let mut digest = Self(Context::new(&SHA256));
        digest.add(what.as_bytes());
        digest
    }

    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(&(piece.len() as u64).to_le_bytes());
        self.0.update(piece);
    }

    pub fn finish(self) -> Fingerprint {
        let mut first = [0; 16];
        first.copy_from_slice(&self.0.finish().as_ref()[..16]);
        Fingerprint(first)
    }
}

/// JSON with its keys sorted and no space: the same text for the same value. So OPA hashes JSON in signed bundles, too.
pub(crate) fn canonical(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by_key(|(name, _)| *name);
                out.push('{');
                for (number, (name, value)) in sorted.into_iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    write(value, out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    write(item, out);
                }
                out.push(']');
            }
            plain => out.push_str(&plain.to_string()),
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    // Go's encoder, which wrote the hashes, escapes these two.
    out.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn canonical_json_does_not_depend_on_order_or_space() {
        let value: Value =
            serde_json::from_str(r#" {"b": [1, {"z": null, "a": "x/<\u2028"}], "a": 1.50} "#).expect("JSON");
        assert_eq!(canonical(&value), "{\"a\":1.5,\"b\":[1,{\"a\":\"x/<\\u2028\",\"z\":null}]}");
        assert_eq!(canonical(&json!({})), "{}");
    }

    #[test]
    fn where_a_piece_ends_is_part_of_it() {
        let of = |pieces: &[&str]| {
            let mut digest = Digest::new("test");
            pieces.iter().for_each(|piece| digest.add(piece.as_bytes()));
            digest.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        assert_eq!(of(&["a"]).to_string().len(), 35);
    }
}
