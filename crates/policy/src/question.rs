//! What a policy is asked: the document `input`. A field that no rule reads is not even built.
//!
//! The fields are a table, so that a rule which reads something else is noticed when the bundle is loaded, and not by never
//! denying anything.

use std::collections::BTreeMap;
use std::fmt;

use regorus::Value;

/// One request, as policies see it.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    pub tenant: &'a str,
    pub plan: &'a str,
    pub project: &'a str,
    /// The key's id, which is no secret.
    pub key: &'a str,
    /// The id that stands for one of the tenant's own users, if the request named one.
    pub end_user: Option<&'a str>,
    /// `chat`, `embeddings`, `classify` or `runs`.
    pub surface: &'a str,
    /// The name that was asked for.
    pub route: &'a str,
    pub model: &'a str,
    pub provider: &'a str,
    /// Where the provider works, if its configuration says so.
    pub region: Option<&'a str>,
    pub stream: bool,
    pub input_bytes: u64,
    /// What the request allows itself for each answer, if it says.
    pub max_tokens: Option<u64>,
    pub choices: u64,
    pub images: u64,
    /// Only needed where [`Fields::reads_time`].
    pub moment: Option<Moment>,
}

/// The time, for policies that keep hours. `date`, `hour` and `weekday` are in the tenant's zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339, in UTC.
    pub utc: String,
    /// Such as `2026-11-26`.
    pub date: String,
    pub hour: u8,
    /// Such as `monday`.
    pub weekday: &'static str,
}

/// A field of the question: where it stands in `input`, and what it is.
#[derive(Debug)]
pub struct Field {
    pub path: [&'static str; 2],
    pub kind: Kind,
    pub about: &'static str,
    value: for<'a> fn(&'a Question<'a>) -> Answer<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Bool,
}

/// What a question says of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer<'a> {
    Text(&'a str),
    Number(u64),
    Bool(bool),
    /// The field is not there: rules that read it are undefined.
    Absent,
}

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(u32);

fn optional(text: Option<&str>) -> Answer<'_> {
    text.map_or(Answer::Absent, Answer::Text)
}

fn of_moment<'a>(question: &'a Question<'a>, value: fn(&'a Moment) -> Answer<'a>) -> Answer<'a> {
    question.moment.as_ref().map_or(Answer::Absent, value)
}

const fn field(
    path: [&'static str; 2],
    kind: Kind,
    about: &'static str,
    value: for<'a> fn(&'a Question<'a>) -> Answer<'a>,
) -> Field {
    Field { path, kind, about, value }
}

/// Every field there is, in the order of `docs/policy.md`.
pub static FIELDS: [Field; 19] = [
    field(["tenant", "id"], Kind::Text, "who is asking", |q| Answer::Text(q.tenant)),
    field(["tenant", "plan"], Kind::Text, "what the tenant has bought", |q| Answer::Text(q.plan)),
    field(["principal", "project"], Kind::Text, "whose money it is", |q| Answer::Text(q.project)),
    field(["principal", "key"], Kind::Text, "the id of the API key", |q| Answer::Text(q.key)),
    field(["principal", "end_user"], Kind::Text, "the id that stands for the tenant's own user, if named", |q| {
        optional(q.end_user)
    }),
    field(["request", "surface"], Kind::Text, "chat, embeddings, classify or runs", |q| Answer::Text(q.surface)),
    field(["request", "route"], Kind::Text, "the model as it was asked for", |q| Answer::Text(q.route)),
    field(["request", "model"], Kind::Text, "the provider's name for it", |q| Answer::Text(q.model)),
    field(["request", "provider"], Kind::Text, "who works on it first", |q| Answer::Text(q.provider)),
    field(["request", "region"], Kind::Text, "where that provider works, if configured", |q| optional(q.region)),
    field(["request", "stream"], Kind::Bool, "whether the answer is streamed", |q| Answer::Bool(q.stream)),
    field(["request", "input_bytes"], Kind::Number, "bytes of text in the request", |q| Answer::Number(q.input_bytes)),
    field(["request", "max_tokens"], Kind::Number, "output tokens for each answer, if the request says", |q| {
        q.max_tokens.map_or(Answer::Absent, Answer::Number)
    }),
    field(["request", "choices"], Kind::Number, "answers asked for (n)", |q| Answer::Number(q.choices)),
    field(["request", "images"], Kind::Number, "images in the request", |q| Answer::Number(q.images)),
    field(["time", "utc"], Kind::Text, "RFC 3339, in UTC", |q| of_moment(q, |moment| Answer::Text(&moment.utc))),
    field(["time", "date"], Kind::Text, "in the tenant's zone", |q| of_moment(q, |moment| Answer::Text(&moment.date))),
    field(["time", "hour"], Kind::Number, "0 to 23, in the tenant's zone", |q| {
        of_moment(q, |moment| Answer::Number(moment.hour.into()))
    }),
    field(["time", "weekday"], Kind::Text, "monday to sunday, in the tenant's zone", |q| {
        of_moment(q, |moment| Answer::Text(moment.weekday))
    }),
];

// === impl Field ===

impl Field {
    /// Whether a question may do without it. The time is there for whoever reads it.
    pub fn may_be_absent(&self) -> bool {
        let least = Question { moment: Some(Moment::default()), ..Question::default() };
        (self.value)(&least) == Answer::Absent
    }
}

/// As a policy reads it.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [group, name] = self.path;
        write!(f, "input.{group}.{name}")
    }
}

// === impl Fields ===

impl Fields {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << FIELDS.len()) - 1);

    /// The fields that lie on a path of `input`, above it or below it. None: there is nothing of that name.
    pub fn at(path: &[impl AsRef<str>]) -> Self {
        let meets = |field: &Field| field.path.iter().zip(path).all(|(name, part)| *name == part.as_ref());
        let found = (0..FIELDS.len()).filter(|index| meets(&FIELDS[*index]));
        Self(found.fold(0, |set, index| set | 1 << index))
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the clock has a say: such a decision is of its moment only.
    pub fn reads_time(self) -> bool {
        self.0 & Self::at(&["time"]).0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = &'static Field> {
        (0..FIELDS.len()).filter(move |index| self.0 & (1 << index) != 0).map(|index| &FIELDS[index])
    }
}

// === impl Question ===

impl Question<'_> {
    /// The document `input`, with these fields of it.
    pub fn input(&self, fields: Fields) -> Value {
        let mut groups = BTreeMap::<&str, BTreeMap<Value, Value>>::new();
        for Field { path: [group, name], value, .. } in fields.iter() {
            let value = match value(self) {
                Answer::Text(text) => Value::from(text),
                Answer::Number(number) => Value::from(number),
                Answer::Bool(bool) => Value::from(bool),
                Answer::Absent => continue,
            };
            groups.entry(group).or_default().insert(Value::from(*name), value);
        }
        let groups = groups.into_iter().map(|(group, fields)| (Value::from(group), Value::from(fields)));
        Value::from(groups.collect::<BTreeMap<Value, Value>>())
    }

    /// These fields as bytes: the same where, and only where, all of them are the same.
    pub fn key(&self, fields: Fields, key: &mut Vec<u8>) {
        key.clear();
        for field in fields.iter() {
            match (field.value)(self) {
                Answer::Text(text) => {
                    key.push(1);
                    key.extend_from_slice(&(text.len() as u64).to_le_bytes());
                    key.extend_from_slice(text.as_bytes());
                }
                Answer::Number(number) => {
                    key.push(2);
                    key.extend_from_slice(&number.to_le_bytes());
                }
                Answer::Bool(bool) => key.extend_from_slice(&[3, u8::from(bool)]),
                Answer::Absent => key.push(0),
            }
        }
    }
}
