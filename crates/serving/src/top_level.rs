//! Finds the top-level members of a JSON object without rebuilding it: each member's value as a piece of the original
//! text. So what we do not know passes through byte for byte, and what we change is spliced in its place.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Members at most, so that a hostile object cannot make us hold millions.
pub const MEMBERS_MAX: usize = 1_000;

/// The members of one JSON object, in their order.
#[derive(Debug)]
pub struct TopLevel<'a> {
    text: &'a str,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Why the text is not a JSON object that we accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnObject {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not a JSON object: {0}")]
    Malformed(String),
}

// === impl TopLevel ===

impl<'a> TopLevel<'a> {
    /// Reads one JSON object. A key that occurs twice is refused: two readers might not agree on which counts.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotAnObject> {
        let text = std::str::from_utf8(bytes).map_err(|_| NotAnObject::NotUtf8)?;
        let malformed = |error: serde_json::Error| NotAnObject::Malformed(error.to_string());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer.deserialize_map(Members).map_err(malformed)?;
        deserializer.end().map_err(malformed)?;
        Ok(Self { text, members })
    }

    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// A member that is there and not null.
    pub fn present(&self, key: &str) -> Option<&'a RawValue> {
        self.get(key).filter(|value| value.get() != "null")
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| &**name)
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where a member's value lies in the text.
    pub fn range_of(&self, value: &RawValue) -> Range<usize> {
        let start = value.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + value.get().len()
    }

    /// Where the closing brace of the object is.
    pub fn end(&self) -> usize {
        self.text.rfind('}').unwrap_or(self.text.len())
    }

    /// The range of a whole member: key, value and one comma beside it, so that cutting it leaves an object.
    pub fn range_of_member(&self, key: &str) -> Option<Range<usize>> {
        let index = self.members.iter().position(|(name, _)| name == key)?;
        let value = self.range_of(self.members[index].1);
        match index.checked_sub(1) {
            Some(before) => Some(self.range_of(self.members[before].1).end..value.end),
            None => {
                let start = self.text.find('{')? + 1;
                let end = match self.text[value.end..].find([',', '}']) {
                    Some(at) if self.text.as_bytes()[value.end + at] == b',' => value.end + at + 1,
                    _ => value.end,
                };
                Some(start..end)
            }
        }
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::with_capacity(16);
        while let Some(Key(key)) = map.next_key()? {
            if members.len() == MEMBERS_MAX {
                return Err(A::Error::custom("too many members"));
            }
            if members.iter().any(|(name, _)| *name == key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
            members.push((key, map.next_value()?));
        }
        Ok(members)
    }
}

/// A key that is borrowed unless it holds escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_pieces_of_the_text() {
        let text = br#" {"model" : "a\"b" ,"n":1, "x": {"model":[1, 2]} } "#;
        let top = TopLevel::parse(text).expect("an object");
        assert_eq!(top.get("x").expect("is there").get(), r#"{"model":[1, 2]}"#);
        let range = top.range_of(top.get("model").expect("is there"));
        assert_eq!(&text[range], br#""a\"b""#);
        assert_eq!(text[top.end()], b'}');
    }

    #[test]
    fn a_member_can_be_cut_out_wherever_it_stands() {
        let check = |text: &str, rest: &str| {
            let top = TopLevel::parse(text.as_bytes()).expect("an object");
            let mut text = text.to_owned();
            text.replace_range(top.range_of_member("u").expect("is there"), "");
            assert_eq!(text, rest);
            TopLevel::parse(text.as_bytes()).expect("still an object");
        };
        check(r#"{"a":1,"u":null}"#, r#"{"a":1}"#);
        check(r#"{"a":1 , "u" : null , "b":2}"#, r#"{"a":1 , "b":2}"#);
        check(r#"{"u":{"x":",}"},"b":2}"#, r#"{"b":2}"#);
        check(r#"{ "u":1 }"#, "{ }");
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for bad in [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, "[]", "{", r#"{"a":1}x"#, "", "null"] {
            assert!(TopLevel::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(TopLevel::parse(b"{\"a\":\"\xff\"}").expect_err("not text"), NotAnObject::NotUtf8);
    }
}
