//! A use case as a folder: what goes in (a JSON Schema), which text is made of it, under which policy it is done, texts to
//! learn from and to be judged by, and what it must be worth. Its `template.toml` says where all of that is.
//!
//! Nothing is fetched: a schema that refers to another place is refused, and its patterns are matched in linear time.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Validator};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tollgate_types::hex;

use crate::bounded::{ReadError, read_bounded};
use crate::head::rows::{self, FILE_BYTES_MAX, Row, RowsError};

pub const MANIFEST_FILE: &str = "template.toml";
/// Of `template.toml`, and of the schema.
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;
/// Fields that a text is made of.
const FIELDS_MAX: usize = 64;
/// What is said of an input that does not fit.
const NAME_CHARS: usize = 64;
const PLACE_CHARS: usize = 200;
const REASON_CHARS: usize = 300;
/// A compiled pattern of a schema is no larger, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A template that was read and holds together.
#[derive(Debug)]
pub struct Template {
    pub manifest: Manifest,
    /// SHA-256, in hexadecimal, of the manifest and the schema: what decides how an input is read.
    pub digest: String,
    folder: PathBuf,
    schema: Validator,
}

/// What `template.toml` says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// A slug: letters, digits and dashes.
    pub id: String,
    /// Of the template, as its maker counts.
    pub version: String,
    pub title: String,
    pub about: String,
    pub input: Input,
    pub data: Data,
    #[serde(default)]
    pub output: Output,
    #[serde(default)]
    pub policy: Option<Policy>,
    #[serde(default)]
    pub cache: Cache,
    #[serde(default)]
    pub success: Success,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The file with the JSON Schema of an input: draft 2020-12 unless it says otherwise.
    pub schema: PathBuf,
    /// Members of the input whose text is read, in this order, a line each. Those that an input lacks are left out.
    pub text: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// What is less sure than this, from 0 to 1, is for a person to look at.
    pub review_below: f32,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The folder of the bundle that runs are judged by, besides those of the platform, the plan and the tenant.
    pub bundle: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Labelled inputs to learn from: JSON Lines of `input`, `label` and perhaps `group`.
    pub examples: PathBuf,
    /// The same, to be judged by.
    pub eval: PathBuf,
    /// Data that others made and label, which says more than what a template can carry.
    #[serde(default)]
    pub public: Option<Public>,
}

/// Rows of text and label, below the folder that `TOLLGATE_DATA_DIR` names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Public {
    pub name: String,
    pub rows: PathBuf,
    /// Without it a fifth of the rows is held out.
    #[serde(default)]
    pub test: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// How long an answer may be given again to the same tenant for the same text, in seconds. 0: never.
    pub ttl_seconds: u64,
}

/// What it must be worth on its own eval set. What is left out is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Success {
    /// Share of right answers, from 0 to 1.
    pub accuracy_min: Option<f64>,
    pub macro_f1_min: Option<f64>,
    /// Milliseconds of one text by itself.
    pub p99_ms_max: Option<f64>,
    /// Dollars, at the shipped price of CPU time.
    pub usd_per_run_max: Option<f64>,
    /// Share of answers that are sure enough to need nobody's look.
    pub answered_min: Option<f64>,
}

#[derive(Debug, Error)]
pub enum TemplateError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}: {reason}", path.display())]
    Bad { path: PathBuf, reason: String },
    #[error("{}: {source}", path.display())]
    Rows { path: PathBuf, source: RowsError },
}

/// Why an input is not one of the template's. Holds no value of the input: of it only names of members, cut.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InputError {
    #[error("{place}: {reason}")]
    Unfit { place: String, reason: String },
    #[error("it holds no text to be read: {0} would be")]
    NoText(String),
}

// === impl Template ===

impl Template {
    pub fn load(folder: &Path) -> Result<Self, TemplateError> {
        let path = folder.join(MANIFEST_FILE);
        let text = read_bounded(&path, MANIFEST_BYTES_MAX)?;
        let manifest = Manifest::parse(&text).map_err(|reason| TemplateError::Bad { path, reason })?;
        let path = folder.join(&manifest.input.schema);
        let source = read_bounded(&path, MANIFEST_BYTES_MAX)?;
        let schema = schema(&source, &manifest.input.text);
        let schema = schema.map_err(|reason| TemplateError::Bad { path, reason })?;
        let parts = [&text, &source].map(|part| hex(digest(&SHA256, part).as_ref()));
        let digest = hex(digest(&SHA256, parts.concat().as_bytes()).as_ref());
        Ok(Self { manifest, digest, folder: folder.to_owned(), schema })
    }

    /// The folder of its policy bundle, if it has one.
    pub fn policy(&self) -> Option<PathBuf> {
        self.manifest.policy.as_ref().map(|policy| self.folder.join(&policy.bundle))
    }

    /// Whether the input is as the schema wants it, and has a text.
    pub fn check(&self, input: &Value) -> Result<(), InputError> {
        self.schema.validate(input).map_err(|error| {
            let path = error.instance_path().to_string();
            let place = if path.is_empty() { "it".to_owned() } else { path };
            // Of the value itself nothing is said: it may be long, and it is not ours to repeat. Names are cut.
            let reason = match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected } => {
                    let first = unexpected.first().map(String::as_str).unwrap_or_default();
                    format!("it may not have the member {:?}", cut(first, NAME_CHARS))
                }
                _ => cut(&error.masked().to_string(), REASON_CHARS),
            };
            InputError::Unfit { place: cut(&place, PLACE_CHARS), reason }
        })?;
        match self.text(input).trim().is_empty() {
            true => Err(InputError::NoText(self.manifest.input.text.join(" or "))),
            false => Ok(()),
        }
    }

    /// The text that is read of an input.
    pub fn text(&self, input: &Value) -> String {
        let texts = self.manifest.input.text.iter().filter_map(|field| input.get(field)?.as_str());
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// What it learns from.
    pub fn examples(&self) -> Result<Vec<Row>, TemplateError> {
        self.rows(&self.manifest.data.examples)
    }

    /// What it is judged by.
    pub fn eval_set(&self) -> Result<Vec<Row>, TemplateError> {
        self.rows(&self.manifest.data.eval)
    }

    fn rows(&self, file: &Path) -> Result<Vec<Row>, TemplateError> {
        let path = self.folder.join(file);
        let bytes = read_bounded(&path, FILE_BYTES_MAX)?;
        let text = |input: &Value| match self.check(input) {
            Ok(()) => Ok(self.text(input)),
            Err(why) => Err(format!("input: {why}")),
        };
        rows::inputs(&bytes, text).map_err(|source| TemplateError::Rows { path, source })
    }
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn schema(source: &[u8], fields: &[String]) -> Result<Validator, String> {
    let schema: Value = serde_json::from_slice(source).map_err(|error| format!("it is no JSON: {error}"))?;
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    let options = jsonschema::options().offline().with_pattern_options(patterns);
    let validator = options.build(&schema).map_err(|error| format!("it is no JSON Schema: {error}"))?;
    let is_text = |field: &&String| schema.pointer(&format!("/properties/{field}/type")) == Some(&"string".into());
    match fields.iter().find(|field| !is_text(field)) {
        Some(field) => Err(format!("it must say that {field:?}, which is read, is of the type \"string\"")),
        None => Ok(validator),
    }
}

// === impl Manifest ===

impl Manifest {
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let is_slug = |text: &str| {
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_slug(&self.id) {
            return Err("id: 1 to 64 letters, digits and dashes".to_owned());
        }
        if self.version.is_empty() || self.version.len() > 64 {
            return Err("version: 1 to 64 bytes".to_owned());
        }
        let fields = &self.input.text;
        let is_name = |field: &String| !field.is_empty() && !field.contains(['/', '~']);
        if !(1..=FIELDS_MAX).contains(&fields.len()) || !fields.iter().all(is_name) {
            return Err(format!("input.text: 1 to {FIELDS_MAX} names of members, without / and ~"));
        }
        if fields.iter().collect::<BTreeSet<_>>().len() < fields.len() {
            return Err("input.text: names a member twice".to_owned());
        }
        let share = |name: &str, share: f64| match (0.0..=1.0).contains(&share) {
            true => Ok(()),
            false => Err(format!("{name}: must be from 0 to 1")),
        };
        share("output.review_below", f64::from(self.output.review_below))?;
        let Success { accuracy_min, macro_f1_min, answered_min, p99_ms_max, usd_per_run_max } = &self.success;
        let shares = [("accuracy_min", accuracy_min), ("macro_f1_min", macro_f1_min), ("answered_min", answered_min)];
        for (name, wanted) in shares {
            share(&format!("success.{name}"), wanted.unwrap_or_default())?;
        }
        for (name, wanted) in [("p99_ms_max", p99_ms_max), ("usd_per_run_max", usd_per_run_max)] {
            if wanted.is_some_and(|wanted| !(wanted > 0.0 && wanted.is_finite())) {
                return Err(format!("success.{name}: must be above 0"));
            }
        }
        let bundle = self.policy.as_ref().map(|policy| &policy.bundle);
        let public = self.data.public.as_ref();
        let files = [Some(&self.input.schema), Some(&self.data.examples), Some(&self.data.eval), bundle];
        let files =
            files.into_iter().chain([public.map(|public| &public.rows), public.and_then(|it| it.test.as_ref())]);
        match files.flatten().find(|path| !leads_down(path)) {
            Some(path) => Err(format!("{}: name what is within the folder", path.display())),
            None => Ok(()),
        }
    }
}

fn leads_down(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl Default for Cache {
    fn default() -> Self {
        Self { ttl_seconds: 3_600 }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use serde_json::json;

    use super::*;

    const MANIFEST: &str = "id = \"triage\"\nversion = \"1\"\ntitle = \"t\"\nabout = \"a\"\n\
        [input]\nschema = \"s.json\"\ntext = [\"subject\", \"message\"]\n\
        [data]\nexamples = \"ex.jsonl\"\neval = \"ev.jsonl\"\n";
    const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"required":["message"],"properties":{
        "subject":{"type":"string","maxLength":20},"message":{"type":"string"},"channel":{"enum":["mail"]}}}"#;

    fn folder(manifest: &str, schema: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(MANIFEST_FILE), manifest).expect("a file");
        std::fs::write(dir.path().join("s.json"), schema).expect("a file");
        dir
    }

    fn refused(manifest: &str, schema: &str) -> String {
        Template::load(folder(manifest, schema).path()).expect_err("it is wrong").to_string()
    }

    #[test]
    fn an_input_is_checked_and_its_text_is_made_of_the_members_that_are_named() {
        let template = Template::load(folder(MANIFEST, SCHEMA).path()).expect("it is fine");
        let input = json!({ "message": "it broke", "subject": "help", "channel": "mail" });
        template.check(&input).expect("it is fine");
        assert_eq!(template.text(&input), "help\nit broke");
        assert_eq!(template.text(&json!({ "message": "it broke" })), "it broke");

        let check = |input: Value, parts: &[&str]| {
            let said = template.check(&input).expect_err("it is wrong").to_string();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        };
        check(json!({ "subject": "secret words" }), &["it: ", "message"]);
        check(json!({ "message": 7 }), &["/message", "string"]);
        check(json!({ "message": "a", "more": 1 }), &["may not have the member \"more\""]);
        let huge = template.check(&json!({ "message": "a", "m".repeat(100_000): 1 })).expect_err("a strange member");
        assert!(huge.to_string().len() < 300);
        check(json!({ "message": " " }), &["no text", "subject or message"]);
        check(json!("a"), &["object"]);
        let said = template.check(&json!({ "message": "a", "subject": "my secret is sesame sesame" }));
        let said = said.expect_err("it is too long").to_string();
        assert!(said.contains("/subject") && said.contains("20") && !said.contains("sesame"), "{said}");
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said_with_its_place() {
        let check = |manifest: &str, schema: &str, part: &str| {
            let said = refused(manifest, schema);
            assert!(said.contains(part), "{part} in {said}");
        };
        check("id = 7", SCHEMA, "template.toml");
        check(&MANIFEST.replace("triage", "no slug"), SCHEMA, "id: 1 to 64");
        check(&MANIFEST.replace("s.json", "../s.json"), SCHEMA, "within the folder");
        check(&MANIFEST.replace("ex.jsonl", "/etc/passwd"), SCHEMA, "within the folder");
        check(&MANIFEST.replace("\"subject\"", "\"message\""), SCHEMA, "twice");
        check(&MANIFEST.replace("\"subject\"", "\"channel\""), SCHEMA, "\"channel\", which is read");
        check(&format!("{MANIFEST}[success]\naccuracy_min = 2\n"), SCHEMA, "success.accuracy_min");
        check(&format!("{MANIFEST}[success]\np99_ms_max = 0\n"), SCHEMA, "success.p99_ms_max");
        check(&format!("{MANIFEST}[surprise]\n"), SCHEMA, "surprise");
        check(MANIFEST, "{", "no JSON");
        check(MANIFEST, r#"{"type":"nothing"}"#, "no JSON Schema");
        check(MANIFEST, r#"{"$ref":"https://example.com/a.json"}"#, "no JSON Schema");
        check(MANIFEST, r#"{"properties":{"message":{"type":"string","pattern":"("}}}"#, "no JSON Schema");
        let missing = tempfile::tempdir().expect("a folder");
        let said = Template::load(missing.path()).expect_err("nothing is there").to_string();
        assert!(said.contains("template.toml"), "{said}");
    }

    #[test]
    fn rows_are_inputs_with_labels_and_a_bad_one_is_named() {
        let dir = folder(MANIFEST, SCHEMA);
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
        write(
            "ex.jsonl",
            "{\"input\":{\"message\":\"a\"},\"label\":\"x\"}\n\n{\"input\":{\"subject\":\"s\",\"message\":\"b\"},\"label\":\"y\",\"group\":\"g\"}\n",
        );
        write(
            "ev.jsonl",
            "{\"input\":{\"message\":\"a\"},\"label\":\"x\"}\n{\"input\":{\"text\":\"a\"},\"label\":\"x\"}\n",
        );
        let template = Template::load(dir.path()).expect("it is fine");
        let rows = template.examples().expect("they are fine");
        let texts: Vec<_> = rows.iter().map(|row| (&*row.text, &*row.label, row.group.as_deref())).collect();
        assert_eq!(texts, [("a", "x", None), ("s\nb", "y", Some("g"))]);
        let said = template.eval_set().expect_err("the second is wrong").to_string();
        assert!(said.contains("ev.jsonl: line 2: input:"), "{said}");
    }

    #[test]
    fn the_digest_tells_templates_apart() {
        let of = |manifest: &str, schema: &str| Template::load(folder(manifest, schema).path()).expect("fine").digest;
        let first = of(MANIFEST, SCHEMA);
        assert_eq!(first, of(MANIFEST, SCHEMA));
        assert_ne!(first, of(&MANIFEST.replace("\"1\"", "\"2\""), SCHEMA));
        assert_ne!(first, of(MANIFEST, &SCHEMA.replace("20", "21")));
    }
}
