//! What a bundle is made of: Rego modules, data, a manifest; and everything that is refused of one before it is compiled.
//!
//! The layout is that of OPA's bundles, whether a folder or a tar.gz: `.rego` anywhere, `data.json` mounted at its folder,
//! `.manifest` at the root. Modules named `*_test.rego` are its tests, and no part of what is decided by.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

/// A bundle is text written by people and lists of theirs, not a database.
pub const BYTES_MAX: usize = 4 << 20;
pub const FILES_MAX: usize = 500;
pub const PATH_BYTES_MAX: usize = 256;
pub const MANIFEST: &str = ".manifest";
pub const SIGNATURES: &str = ".signatures.json";
/// Where OPA's tools look for data. Other JSON is nobody's.
const DATA: &str = "data.json";

/// A file of a bundle. The path is relative to the bundle's root, with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    pub bytes: Vec<u8>,
}

/// The text of a module and the path that errors name it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub path: String,
    pub text: String,
}

/// A bundle that can be read. Whether it compiles is for [`Law`](crate::Law) to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// Free text of its author, often empty. Never its identity: that is the [`Fingerprint`](crate::Fingerprint).
    pub revision: String,
    /// The parts of `data` that are its own, such as `tollgate`.
    pub roots: Vec<String>,
    pub modules: Vec<Module>,
    pub tests: Vec<Module>,
    /// An object.
    pub data: Value,
}

/// Why a bundle is refused. It says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("the bundle is no tar.gz: {0}")]
    NoArchive(String),
    #[error("the bundle has more than {BYTES_MAX} bytes; leave out what no rule reads")]
    TooLarge,
    #[error("the bundle has more than {FILES_MAX} files; leave out what no rule reads")]
    TooManyFiles,
    #[error("'{0}' is no path inside a bundle")]
    BadPath(String),
    #[error("'{0}' is neither a file nor a folder; put the file itself into the bundle")]
    NoFile(String),
    #[error("'{0}' is there twice")]
    Twice(String),
    #[error("'{0}' is not UTF-8 text")]
    NoText(String),
    #[error("'{path}' is not as it should be: {why}")]
    Malformed { path: String, why: String },
    #[error("'{0}' is not read: {1}")]
    NotRead(String, &'static str),
    #[error("the roots '{0}' and '{1}' of the manifest overlap; keep the wider one")]
    RootsOverlap(String, String),
    #[error("{what} lies outside of the manifest's roots; add its root, or move it")]
    OutsideRoots { what: String },
    #[error("two files say what 'data.{0}' is; keep one")]
    DataTwice(String),
    #[error("the bundle has no Rego module; a policy is a file such as 'tollgate/admission.rego'")]
    Empty,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    revision: String,
    roots: Option<Vec<String>>,
    rego_version: Option<i64>,
    file_rego_versions: BTreeMap<String, i64>,
    wasm: Vec<Value>,
}

// === impl Bundle ===

impl Bundle {
    /// The bundle in an archive.
    pub fn from_archive(bytes: &[u8]) -> Result<Self, BundleError> {
        Self::from_files(&crate::archive::unpack(bytes)?)
    }

    /// Reads the files of a bundle; what they are packed in, and by whom they are signed, has been seen to.
    pub fn from_files(files: &[File]) -> Result<Self, BundleError> {
        check_size(files)?;
        let mut paths = BTreeSet::new();
        let (mut modules, mut tests, mut data) = (Vec::new(), Vec::new(), Map::new());
        let mut manifest = Manifest::default();
        for file in files {
            let path = inside(&file.path)?;
            if !paths.insert(path.to_owned()) {
                return Err(BundleError::Twice(path.to_owned()));
            }
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if name.ends_with(".rego") && !name.starts_with("._") {
                let module = Module { path: path.to_owned(), text: text(path, &file.bytes)? };
                if name.ends_with("_test.rego") {
                    tests.push(module)
                } else {
                    modules.push(module)
                }
                continue;
            }
            match name {
                DATA => mount(&mut data, folder, json(path, &file.bytes)?)?,
                "data.yaml" | "data.yml" => return Err(BundleError::NotRead(path.into(), "write it as data.json")),
                _ if path == MANIFEST => manifest = serde_json::from_slice(&file.bytes).map_err(malformed(path))?,
                "patch.json" if folder.is_empty() => {
                    return Err(BundleError::NotRead(
                        path.into(),
                        "a delta bundle changes another; send the whole one",
                    ));
                }
                "policy.wasm" => return Err(BundleError::NotRead(path.into(), "send the Rego it was made from")),
                // As OPA does: a README is welcome.
                _ => {}
            }
        }
        let roots = manifest.roots()?;
        if modules.is_empty() {
            return Err(BundleError::Empty);
        }
        for module in [&mut modules, &mut tests] {
            module.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let bundle = Self { revision: manifest.revision, roots, modules, tests, data: Value::Object(data) };
        bundle.check_data_in_roots()?;
        Ok(bundle)
    }

    /// Whether this path of `data` is the bundle's to define.
    pub fn owns(&self, path: &[impl AsRef<str>]) -> bool {
        self.roots.iter().any(|root| {
            let root = segments(root);
            path.len() >= root.len() && root.iter().zip(path).all(|(root, part)| *root == part.as_ref())
        })
    }

    fn check_data_in_roots(&self) -> Result<(), BundleError> {
        let mut path = Vec::new();
        self.outside(&self.data, &mut path)
            .map_or(Ok(()), |what| Err(BundleError::OutsideRoots { what: format!("data.{what}") }))
    }

    /// The first part of the data that lies in no root.
    fn outside(&self, value: &Value, path: &mut Vec<String>) -> Option<String> {
        if self.owns(path) {
            return None;
        }
        match value {
            Value::Object(fields) => fields.iter().find_map(|(name, value)| {
                path.push(name.clone());
                let found = self.outside(value, path);
                path.pop();
                found
            }),
            _ => Some(path.join(".")),
        }
    }
}

// === impl Manifest ===

impl Manifest {
    fn roots(&self) -> Result<Vec<String>, BundleError> {
        let malformed = |why: &str| BundleError::Malformed { path: MANIFEST.to_owned(), why: why.to_owned() };
        if !self.wasm.is_empty() {
            return Err(malformed("it names WebAssembly; send the Rego it was made from"));
        }
        if self.rego_version.iter().chain(self.file_rego_versions.values()).any(|version| *version != 1) {
            return Err(malformed("Rego version 0 is not read; rewrite it with `opa fmt --rego-v1`"));
        }
        let roots = self.roots.clone().unwrap_or_else(|| vec![String::new()]);
        for (number, one) in roots.iter().enumerate() {
            for other in &roots[number + 1..] {
                let (a, b) = (segments(one), segments(other));
                if a.iter().zip(&b).all(|(a, b)| a == b) {
                    return Err(BundleError::RootsOverlap(one.clone(), other.clone()));
                }
            }
        }
        Ok(roots)
    }
}

/// The path without what `opa build` (a slash) and `tar` (`./`) put before it; refused when it leads anywhere else.
pub fn inside(path: &str) -> Result<&str, BundleError> {
    let bad = || BundleError::BadPath(path.chars().take(PATH_BYTES_MAX).collect());
    let inner = path.strip_prefix("./").or_else(|| path.strip_prefix('/')).unwrap_or(path);
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_plain = inner.len() <= PATH_BYTES_MAX && !inner.contains(['\\', '\0', ':']);
    if is_plain && inner.split('/').all(is_name) { Ok(inner) } else { Err(bad()) }
}

/// More than this is not even unpacked.
pub fn check_size(files: &[File]) -> Result<(), BundleError> {
    if files.len() > FILES_MAX {
        return Err(BundleError::TooManyFiles);
    }
    let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
    if bytes > BYTES_MAX { Err(BundleError::TooLarge) } else { Ok(()) }
}

fn segments(root: &str) -> Vec<&str> {
    root.split('/').filter(|part| !part.is_empty()).collect()
}

fn text(path: &str, bytes: &[u8]) -> Result<String, BundleError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BundleError::NoText(path.to_owned()))
}

fn json(path: &str, bytes: &[u8]) -> Result<Value, BundleError> {
    serde_json::from_slice(bytes).map_err(malformed(path))
}

fn malformed(path: &str) -> impl Fn(serde_json::Error) -> BundleError {
    let path = path.to_owned();
    move |error| BundleError::Malformed { path: path.clone(), why: error.to_string() }
}

/// Puts a `data.json` where its folder says.
fn mount(data: &mut Map<String, Value>, folder: &str, value: Value) -> Result<(), BundleError> {
    let path: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let mut whole = value;
    for part in path.iter().rev() {
        whole = Value::Object(Map::from_iter([((*part).to_owned(), whole)]));
    }
    let Value::Object(fields) = whole else {
        let why = "at the root of a bundle, data is an object".to_owned();
        return Err(BundleError::Malformed { path: DATA.to_owned(), why });
    };
    merge(data, fields, &mut Vec::new())
}

fn merge(data: &mut Map<String, Value>, more: Map<String, Value>, path: &mut Vec<String>) -> Result<(), BundleError> {
    for (name, value) in more {
        path.push(name.clone());
        match (data.get_mut(&name), value) {
            (None, value) => drop(data.insert(name, value)),
            (Some(Value::Object(there)), Value::Object(fields)) => merge(there, fields, path)?,
            _ => return Err(BundleError::DataTwice(path.join("."))),
        }
        path.pop();
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    pub fn bundle(files: &[(&str, &str)]) -> Result<Bundle, BundleError> {
        Bundle::from_files(&files.iter().map(|(path, text)| file(path, text)).collect::<Vec<_>>())
    }

    const MODULE: (&str, &str) = ("tollgate/admission.rego", "package tollgate.admission\nallow := true\n");

    fn check(files: &[(&str, &str)], words: &str) {
        let error = bundle(&[files, &[MODULE]].concat()).expect_err("refused").to_string();
        assert!(error.contains(words), "{words:?} in {error}");
    }

    #[test]
    fn modules_tests_data_and_manifest_are_told_apart() {
        let bundle = bundle(&[
            ("/b/data.json", r#"{"x": 1}"#),
            ("./data.json", r#"{"b": {"y": 2}, "a": 3}"#),
            ("z_test.rego", "package z_test"),
            (MANIFEST, r#"{"revision": "r7", "roots": ["tollgate", "a", "b"]}"#),
            ("README.md", "words"),
            ("._admission.rego", "what a Mac leaves"),
            MODULE,
        ])
        .expect("a bundle");
        assert_eq!((bundle.revision.as_str(), bundle.modules.len(), bundle.tests.len()), ("r7", 1, 1));
        assert_eq!(bundle.data, serde_json::json!({"a": 3, "b": {"x": 1, "y": 2}}));
        assert!(bundle.owns(&["b", "x"]) && !bundle.owns(&["c"]) && !bundle.owns(&["bb"]));
    }

    #[test]
    fn paths_that_lead_out_of_the_bundle_are_refused() {
        for path in [
            "../x.rego",
            "a/../../x.rego",
            "a//x.rego",
            "//x.rego",
            "a/./x.rego",
            "",
            "/",
            "c:x.rego",
            "a\\x.rego",
            "a/\0",
        ] {
            assert_eq!(bundle(&[(path, ""), MODULE]), Err(BundleError::BadPath(path.to_owned())), "{path:?}");
        }
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        assert!(matches!(bundle(&[(&long, ""), MODULE]), Err(BundleError::BadPath(_))));
    }

    #[test]
    fn what_is_not_read_is_refused_rather_than_ignored() {
        check(&[("x/data.yaml", "a: 1")], "write it as data.json");
        check(&[("patch.json", "{}")], "a delta bundle");
        check(&[("policy.wasm", "")], "send the Rego");
        check(&[(MANIFEST, r#"{"wasm": [{}]}"#)], "WebAssembly");
        check(&[(MANIFEST, r#"{"rego_version": 0}"#)], "Rego version 0");
        check(&[(MANIFEST, r#"{"file_rego_versions": {"/x.rego": 0}}"#)], "Rego version 0");
        check(&[(MANIFEST, "{")], "'.manifest' is not as it should be");
        check(&[("data.json", "[1]")], "data is an object");
        check(&[("data.json", "{")], "'data.json' is not as it should be");
        assert_eq!(bundle(&[("README.md", "")]), Err(BundleError::Empty));
    }

    #[test]
    fn two_files_may_not_say_the_same_thing() {
        check(&[("./data.json", "{}"), ("/data.json", "{}")], "'data.json' is there twice");
        check(&[("data.json", r#"{"a": {"b": 1}}"#), ("a/data.json", r#"{"b": 1}"#)], "'data.a.b'");
        check(&[("data.json", r#"{"a": 1}"#), ("a/data.json", r#"{"b": 1}"#)], "'data.a'");
    }

    #[test]
    fn roots_do_not_overlap_and_hold_what_is_there() {
        for roots in [r#"["a", "a/b"]"#, r#"["a", "a"]"#, r#"["", "a"]"#] {
            check(&[(MANIFEST, &format!(r#"{{"roots": {roots}}}"#))], "overlap");
        }
        check(
            &[(MANIFEST, r#"{"roots": ["tollgate"]}"#), ("data.json", r#"{"a": {"b": 1}}"#)],
            "data.a.b lies outside",
        );
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let large = "x".repeat(BYTES_MAX);
        assert_eq!(bundle(&[("x.txt", &large), MODULE]), Err(BundleError::TooLarge));
        let many: Vec<File> = (0..=FILES_MAX).map(|n| file(&format!("{n}.txt"), "")).collect();
        assert_eq!(Bundle::from_files(&many), Err(BundleError::TooManyFiles));
        let binary = File { path: "x.rego".to_owned(), bytes: vec![0xff] };
        assert_eq!(Bundle::from_files(&[binary]), Err(BundleError::NoText("x.rego".to_owned())));
    }
}
