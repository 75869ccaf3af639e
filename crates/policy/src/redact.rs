//! What a provider must not see: patterns in the text of a request, each replaced by its name in brackets.
//!
//! Only text of people is looked at: what is said, not the names of models, roles, tools or places. Numbers that have a check
//! digit count only if it is right, so that an order number stays one.

use std::collections::BTreeSet;

use regex_automata::meta::{Config, Regex};
use serde_json::Value;

use crate::obligations::Redaction;

/// What stands in a message besides text: names, addresses of pictures, pictures.
const PLACES: [&str; 9] = ["role", "type", "id", "tool_call_id", "url", "data", "detail", "format", "file_id"];
/// What is looked through: a pattern of somebody's own may look at each place as often as there are places.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The text of a pattern.
const PATTERN_CHARS_MAX: usize = 256;
/// A compiled pattern is no larger.
const PATTERN_BYTES_MAX: usize = 1 << 18;

/// Patterns that Tollgate knows by name.
const KNOWN: [(&str, &str); 6] = [
    ("email", r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,8}"),
    ("phone", r"\+[1-9][0-9]{0,2}(?:[ ./\-]?\(?[0-9]{1,4}\)?){2,6}"),
    ("iban", r"(?-u:\b)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?-u:\b)"),
    ("card", r"(?-u:\b)[0-9](?:[ \-]?[0-9]){12,18}(?-u:\b)"),
    ("ipv4", r"(?-u:\b)(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?-u:\b)"),
    ("us_ssn", r"(?-u:\b)[0-9]{3}-[0-9]{2}-[0-9]{4}(?-u:\b)"),
];

/// Patterns, ready to be looked for.
#[derive(Debug)]
pub struct Redactor {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    name: String,
    regex: Regex,
    /// Whether what was found is one.
    holds: fn(&str) -> bool,
}

// === impl Redactor ===

impl Redactor {
    pub fn new(redactions: &BTreeSet<Redaction>) -> Result<Self, String> {
        let patterns = redactions.iter().map(Pattern::new).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// The request without what was found, written anew: a member that is there twice is there once in it. The error is for the
    /// caller.
    pub fn request(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        if body.len() > BODY_BYTES_MAX {
            return Err(format!("the policy redacts what is sent, of at most {BODY_BYTES_MAX} bytes; send less"));
        }
        let mut request: Value =
            serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        if has_tokens(&request["input"]) {
            return Err("the policy redacts text, which tokens are not; send the text".to_owned());
        }
        for (name, value) in request.as_object_mut().into_iter().flatten() {
            match name.as_str() {
                "model" => {}
                "messages" => self.value(value, &PLACES),
                _ => self.value(value, &[]),
            }
        }
        serde_json::to_vec(&request).map_err(|error| error.to_string())
    }

    fn value(&self, value: &mut Value, places: &[&str]) {
        match value {
            Value::String(text) => {
                if let Some(redacted) = self.text(text) {
                    *text = redacted;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item, places)),
            Value::Object(fields) => {
                let texts = fields.iter_mut().filter(|(name, _)| !places.contains(&name.as_str()));
                texts.for_each(|(_, value)| self.value(value, places));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The text with what was found replaced, or nothing.
    pub fn text(&self, text: &str) -> Option<String> {
        let mut redacted = None;
        for pattern in &self.patterns {
            if let Some(text) = pattern.replaced(redacted.as_deref().unwrap_or(text)) {
                redacted = Some(text);
            }
        }
        redacted
    }
}

// === impl Pattern ===

impl Pattern {
    fn new(redaction: &Redaction) -> Result<Self, String> {
        let Redaction { name, regex } = redaction;
        let known = || KNOWN.iter().find(|(known, _)| known == name).map(|(_, pattern)| *pattern);
        if name.len() > 64 || regex.as_ref().is_some_and(|regex| regex.len() > PATTERN_CHARS_MAX) {
            return Err(format!("redact: a name has at most 64 bytes, a pattern {PATTERN_CHARS_MAX}"));
        }
        let pattern = regex.as_deref().or_else(known).ok_or_else(|| {
            let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
            format!("redact: '{name}' is none of {}; give it a regex", names.join(", "))
        })?;
        let config = Config::new().nfa_size_limit(Some(PATTERN_BYTES_MAX)).onepass(false);
        let built = Regex::builder().configure(config).build(pattern);
        let compiled = built.map_err(|error| format!("redact: '{name}': {error}"))?;
        if compiled.is_match("") {
            return Err(format!("redact: '{name}' matches nothing at all, everywhere"));
        }
        let holds = match (regex, name.as_str()) {
            (None, "card") => |text: &str| beginnings(text).any(luhn),
            (None, "iban") => |text: &str| beginnings(text).any(iban),
            _ => |_: &str| true,
        };
        Ok(Self { name: name.clone(), regex: compiled, holds })
    }

    fn replaced(&self, text: &str) -> Option<String> {
        let (mut out, mut last) = (String::new(), 0);
        for found in self.regex.find_iter(text) {
            let Some(matched) = text.get(found.range()) else { continue };
            if (self.holds)(matched) {
                out.push_str(&text[last..found.start()]);
                out.push('[');
                out.push_str(&self.name);
                out.push(']');
                last = found.end();
            }
        }
        (last > 0).then(|| out + &text[last..])
    }
}

/// The whole, and what of it ends at a space or a dash and is long enough: what follows may be something else.
fn beginnings(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.char_indices().filter(|(_, char)| matches!(char, ' ' | '-')).map(|(place, _)| place);
    ends.chain([text.len()])
        .map(|end| &text[..end])
        .filter(|text| text.chars().filter(char::is_ascii_alphanumeric).count() >= 13)
}

/// Whether an embeddings request says numbers in the place of texts.
fn has_tokens(input: &Value) -> bool {
    match input {
        Value::Number(_) => true,
        Value::Array(items) => items.iter().any(has_tokens),
        _ => false,
    }
}

/// The check digit of payment cards (ISO/IEC 7812-1, annex B).
fn luhn(text: &str) -> bool {
    let digits = text.chars().rev().filter_map(|char| char.to_digit(10));
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| if place % 2 == 1 { digit * 2 / 10 + digit * 2 % 10 } else { digit })
        .sum();
    sum.is_multiple_of(10)
}

/// The check digits of account numbers (ISO 13616, by ISO 7064's MOD 97-10).
fn iban(text: &str) -> bool {
    let plain: Vec<char> = text.chars().filter(|char| *char != ' ').collect();
    let Some((head, tail)) = plain.split_at_checked(4) else { return false };
    let rest = tail.iter().chain(head).try_fold(0_u32, |rest, char| {
        let value = char.to_digit(36)?;
        Some(if value < 10 { (rest * 10 + value) % 97 } else { (rest * 100 + value) % 97 })
    });
    rest == Some(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redactor(names: &[&str]) -> Redactor {
        let named = |name: &&str| Redaction { name: (*name).to_owned(), regex: None };
        Redactor::new(&names.iter().map(named).collect()).expect("known names")
    }

    fn check(name: &str, text: &str, expected: &str) {
        assert_eq!(redactor(&[name]).text(text).as_deref().unwrap_or(text), expected, "{name}");
    }

    #[test]
    fn what_is_known_is_found_and_what_only_looks_like_it_is_not() {
        check("email", "write to ada.l+x@mail.example.org, please", "write to [email], please");
        check("email", "a@b is no address, nor is @example.org", "a@b is no address, nor is @example.org");
        check("phone", "call +49 (0)30 1234567 or +1-212-555-0100", "call [phone] or [phone]");
        check("phone", "1 + 49 = 50, see 2026-11-26", "1 + 49 = 50, see 2026-11-26");
        check("iban", "to DE89 3704 0044 0532 0130 00 or GB29NWBK60161331926819.", "to [iban] or [iban].");
        check("iban", "order DE88 3704 0044 0532 0130 00", "order DE88 3704 0044 0532 0130 00");
        check("card", "4111 1111 1111 1111 and 4111-1111-1111-1112", "[card] and 4111-1111-1111-1112");
        check("card", "4111 1111 1111 1111 123", "[card]");
        check("iban", "BE68 5390 0754 7034 EUR", "[iban]");
        check("ipv4", "from 192.168.0.1 to 999.1.1.1", "from [ipv4] to 999.1.1.1");
        check("us_ssn", "SSN 078-05-1120", "SSN [us_ssn]");
    }

    #[test]
    fn a_pattern_of_the_policys_own_is_found_too() {
        let own = |regex: &str| {
            Redactor::new(&BTreeSet::from([Redaction { name: "case".into(), regex: Some(regex.into()) }]))
        };
        assert_eq!(own("C-[0-9]+").expect("a pattern").text("see C-17, C-18").as_deref(), Some("see [case], [case]"));
        for (wrong, words) in
            [("(", "redact: 'case'"), ("a*", "matches nothing at all"), ("(a{1000}){1000}", "redact: 'case'")]
        {
            assert!(own(wrong).expect_err(wrong).contains(words), "{wrong}");
        }
        let unknown = Redactor::new(&BTreeSet::from([Redaction { name: "dna".into(), regex: None }]));
        assert!(unknown.expect_err("unknown").contains("email, phone, iban"));
    }

    #[test]
    fn of_a_request_the_texts_are_redacted_and_nothing_else() {
        let redactor = redactor(&["email", "ipv4"]);
        let request = json!({
            "model": "a@b.org",
            "messages": [
                {"role": "a@b.org", "content": "I am a@b.org"},
                {"role": "user", "content": [
                    {"type": "text", "text": "from 10.0.0.1"},
                    {"type": "image_url", "image_url": {"url": "http://10.0.0.1/a@b.org"}},
                ]},
                {"role": "assistant", "tool_calls": [{"id": "a@b.org", "function": {"name": "f", "arguments": "{\"to\": \"a@b.org\"}"}}]},
            ],
            "tools": [{"description": "a@b.org"}],
            "temperature": 0.5,
        });
        let redacted = redactor.request(&serde_json::to_vec(&request).expect("JSON")).expect("JSON");
        let redacted: Value = serde_json::from_slice(&redacted).expect("JSON");
        let mut expected = request.clone();
        expected["messages"][0]["content"] = "I am [email]".into();
        expected["tools"][0]["description"] = "[email]".into();
        expected["messages"][1]["content"][0]["text"] = "from [ipv4]".into();
        expected["messages"][2]["tool_calls"][0]["function"]["arguments"] = "{\"to\": \"[email]\"}".into();
        assert_eq!(redacted, expected);
        let embeddings = json!({"model": "m", "input": ["plain", "to a@b.org"]});
        let redacted = redactor.request(embeddings.to_string().as_bytes()).expect("JSON");
        assert_eq!(serde_json::from_slice::<Value>(&redacted).expect("JSON")["input"], json!(["plain", "to [email]"]));
        let twice = br#"{"messages": [{"content": "a@b.org", "content": "hi"}], "metadata": {"data": "a@b.org"}}"#;
        let redacted = String::from_utf8(redactor.request(twice).expect("JSON")).expect("UTF-8");
        assert_eq!(redacted, r#"{"messages":[{"content":"hi"}],"metadata":{"data":"[email]"}}"#);
        assert!(redactor.request(br#"{"input": [[1, 2], [3]]}"#).expect_err("tokens").contains("send the text"));
        assert!(redactor.request(&vec![b' '; BODY_BYTES_MAX + 1]).expect_err("long").contains("send less"));
    }

    proptest! {
        #[test]
        fn what_was_redacted_holds_no_more_of_it(text in "[a-z0-9@. +\\-A-Z]{0,80}") {
            let redactor = redactor(&["email", "phone", "card", "ipv4"]);
            if let Some(once) = redactor.text(&text) {
                prop_assert_eq!(redactor.text(&once), None, "{}", once);
            }
        }
    }
}
