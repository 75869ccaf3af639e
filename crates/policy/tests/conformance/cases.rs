//! Cases of Rego as their authors write them down, in YAML: modules, a query, and what should come of it. Read here are the
//! format of OPA's own cases, and those that came of it in our engine's package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regorus::Value;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

/// A case, whichever file it comes from.
#[derive(Clone, Debug)]
pub struct Case {
    /// File and note, and the place among several that share both.
    pub name: String,
    pub modules: Vec<String>,
    pub query: String,
    /// An object.
    pub data: Value,
    pub input: Value,
    /// A term that says what `input` is.
    pub input_term: Option<String>,
    pub want: Want,
    /// Whether errors of builtins are to end it; otherwise, as always in Tollgate, they are undefined.
    pub is_strict: bool,
    /// Whether sets are written as arrays, and every key as a text.
    pub as_json: bool,
    /// Whether what is in the arrays that are bound may come in any order.
    pub in_any_order: bool,
    /// Why it is no case for us, where the file itself says so.
    pub not_for_us: Option<&'static str>,
}

/// What should come of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// `Undefined`, too.
    Value(Value),
    /// One object for each answer, of names to values.
    Bindings(Vec<Value>),
    /// With these words in it.
    Error(String),
}

/// Whose format it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Opa,
    /// Our engine's, of its interpreter's cases, its machine's, and those that are to be explained.
    Regorus,
}

#[derive(Deserialize)]
struct Written {
    cases: Vec<WrittenCase>,
}

#[derive(Deserialize)]
struct WrittenCase {
    note: String,
    query: String,
    #[serde(default)]
    modules: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    input: Option<Value>,
    input_term: Option<String>,
    #[serde(default, deserialize_with = "present")]
    want_result: Option<Value>,
    want_results: Option<Vec<Value>>,
    entry_points: Option<Vec<String>>,
    want_error: Option<String>,
    want_error_code: Option<String>,
    error: Option<String>,
    examples: Option<Vec<Example>>,
    strict: Option<bool>,
    #[serde(default)]
    strict_error: bool,
    #[serde(default)]
    strict_builtin_errors: bool,
    #[serde(default)]
    sort_bindings: bool,
    #[serde(default)]
    skip: bool,
    host_await_builtins: Option<IgnoredAny>,
    host_await_responses: Option<IgnoredAny>,
    host_await_responses_suspendable: Option<IgnoredAny>,
    execution_timer: Option<IgnoredAny>,
    global_execution_timer: Option<IgnoredAny>,
}

/// One question of several to the same modules.
#[derive(Deserialize)]
struct Example {
    note: String,
    #[serde(default, deserialize_with = "present")]
    input: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    want_result: Option<Value>,
    want_error: Option<String>,
}

/// A `null` that is written is a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// All cases of the YAML files in a folder and those below it, in the order of their names. These begin with `prefix`.
pub fn in_folder(folder: &Path, prefix: &str, format: Format) -> Vec<Case> {
    let mut files = Vec::new();
    yaml_files(folder, &mut files);
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {}", path.display()));
        let inside = path.strip_prefix(folder).expect("found in it").with_extension("");
        let name = format!("{prefix}{}", inside.to_str().expect("UTF-8").replace('\\', "/"));
        cases.extend(in_text(&text, &name, format, folder));
    }
    cases
}

/// The cases of one file. Modules that are names of files are read from `folder`.
pub fn in_text(text: &str, file: &str, format: Format, folder: &Path) -> Vec<Case> {
    // `y` is a name here, as it is in YAML 1.2.
    let options = serde_saphyr::options! { strict_booleans: true };
    let written: Written =
        serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|error| panic!("{error}: {file}"));
    let mut cases: Vec<Case> = Vec::new();
    for case in written.cases {
        cases.extend(case.cases(file, format, folder));
    }
    let mut seen = BTreeMap::<String, usize>::new();
    for case in &mut cases {
        let count = seen.entry(case.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            case.name.push_str(&format!(" ({count})"));
        }
    }
    cases
}

fn yaml_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{error}: {}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            yaml_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
}

// === impl Case ===

impl Case {
    /// The names that its bindings have.
    pub fn names(&self) -> Vec<String> {
        let Want::Bindings(rows) = &self.want else { return Vec::new() };
        let Some(row) = rows.first() else { return Vec::new() };
        row.as_object()
            .map(|row| row.keys().filter_map(|key| key.as_string().ok().map(|key| key.to_string())).collect())
            .unwrap_or_default()
    }

    /// Bindings in an order of their own, as sets have; and each as JSON has it.
    pub fn ordered(&self, rows: &[Value]) -> Value {
        let mut rows: Vec<Value> = rows.iter().map(|row| self.plain(row)).collect();
        rows.sort();
        Value::from(rows)
    }

    fn plain(&self, row: &Value) -> Value {
        let row = if self.as_json { Value::from_json_str(&row.to_string()).expect("JSON") } else { row.clone() };
        let sorted = |value: &Value| match value {
            Value::Array(items) if self.in_any_order => {
                let mut items = items.to_vec();
                items.sort();
                Value::from(items)
            }
            value => value.clone(),
        };
        match &row {
            Value::Object(fields) => {
                Value::from(fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect::<BTreeMap<_, _>>())
            }
            _ => row,
        }
    }
}

// === impl WrittenCase ===

impl WrittenCase {
    /// One case, or one for each example, input or entry point.
    fn cases(self, file: &str, format: Format, folder: &Path) -> Vec<Case> {
        let mut cases = Vec::new();
        if let Some(examples) = &self.examples {
            for example in examples {
                let want = want(example.want_result.as_ref(), example.want_error.as_ref(), format);
                let mut case = self.case(file, format, folder, want);
                case.name = format!("{}/{}", case.name, example.note);
                case.input = example.input.clone().unwrap_or(Value::Undefined);
                cases.push(case);
            }
        } else if let (Some(entries), Some(results)) = (&self.entry_points, &self.want_results) {
            for (entry, result) in entries.iter().zip(results) {
                let mut case = self.case(file, format, folder, want(Some(result), None, format));
                case.name = format!("{}/{entry}", case.name);
                case.query.clone_from(entry);
                cases.push(case);
            }
        } else if let Some(inputs) = self.input.as_ref().and_then(many) {
            let results = self.want_result.as_ref().and_then(many).unwrap_or_default();
            assert_eq!(inputs.len(), results.len(), "{file}: {}", self.note);
            for (input, result) in inputs.iter().zip(&results) {
                let mut case = self.case(file, format, folder, want(Some(result), None, format));
                case.name = format!("{}/{input}", case.name);
                case.input = input.clone();
                cases.push(case);
            }
        } else {
            let error = self.want_error.as_ref().or(self.error.as_ref()).or(self.want_error_code.as_ref());
            let want = want(self.want_result.as_ref(), error, format);
            cases.push(self.case(file, format, folder, want));
        }
        cases
    }

    fn case(&self, file: &str, format: Format, folder: &Path, want: Want) -> Case {
        let module = |text: &String| match text.lines().count() {
            1 if text.ends_with(".rego") => std::fs::read_to_string(folder.join(text)).expect("a module"),
            _ => text.clone(),
        };
        Case {
            name: format!("{file}: {}", self.note),
            modules: self.modules.iter().flatten().map(module).collect(),
            query: self.query.trim().to_owned(),
            data: self.data.clone().unwrap_or_else(Value::new_object),
            input: self.input.clone().unwrap_or(Value::Undefined),
            input_term: self.input_term.clone(),
            want,
            is_strict: self.strict.unwrap_or(format == Format::Regorus && self.examples.is_none())
                || self.strict_error
                || self.strict_builtin_errors,
            as_json: format == Format::Opa,
            in_any_order: self.sort_bindings,
            not_for_us: self.not_for_us(file),
        }
    }

    fn not_for_us(&self, file: &str) -> Option<&'static str> {
        let waits = [&self.host_await_builtins, &self.host_await_responses, &self.host_await_responses_suspendable];
        let timers = [&self.execution_timer, &self.global_execution_timer];
        if self.skip {
            Some("skipped by its authors")
        } else if file.contains("/target/") {
            Some("asks of Azure's resources")
        } else if file.contains("/rego-extensions/") {
            Some("has words that are not OPA's")
        } else if waits.iter().any(|waits| waits.is_some()) {
            Some("waits for its host")
        } else if timers.iter().any(|timer| timer.is_some()) {
            Some("brings a clock of its own")
        } else {
            None
        }
    }
}

fn want(result: Option<&Value>, error: Option<&String>, format: Format) -> Want {
    match (result, error, format) {
        (_, Some(words), _) => Want::Error(words.clone()),
        (Some(Value::Array(rows)), None, Format::Opa) => Want::Bindings(rows.to_vec()),
        (None, None, Format::Opa) => Want::Bindings(Vec::new()),
        (Some(value), None, _) => Want::Value(unfolded(value)),
        (None, None, Format::Regorus) => Want::Value(Value::Undefined),
    }
}

/// The values in `many!`, one for each input.
fn many(value: &Value) -> Option<Vec<Value>> {
    value[&Value::from("many!")].as_array().ok().map(|values| values.to_vec())
}

/// A value as it is meant: YAML has no sets, no key that is not a text, and nothing that is undefined.
fn unfolded(value: &Value) -> Value {
    match value {
        Value::String(text) if &**text == "#undefined" => Value::Undefined,
        Value::Array(items) => Value::from(items.iter().map(unfolded).collect::<Vec<_>>()),
        Value::Object(fields) => {
            let only = |name: &str| match &value[&Value::from(name)] {
                Value::Array(items) if fields.len() == 1 => Some(items.to_vec()),
                _ => None,
            };
            if let Some(items) = only("set!") {
                let set = items.iter().map(unfolded).collect::<BTreeSet<_>>();
                return Value::from(set);
            }
            if let Some(items) = only("object!") {
                let field =
                    |item: &Value| (unfolded(&item[&Value::from("key")]), unfolded(&item[&Value::from("value")]));
                return Value::from(items.iter().map(field).collect::<BTreeMap<_, _>>());
            }
            Value::from(fields.iter().map(|(key, value)| (unfolded(key), unfolded(value))).collect::<BTreeMap<_, _>>())
        }
        other => other.clone(),
    }
}
