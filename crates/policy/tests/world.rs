//! Small bundles, and one question.

use std::path::Path;
use std::sync::Arc;

use tollgate_policy::law::LawError;
use tollgate_policy::{Bundle, BundleError, File, Law, Question};

pub fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), bytes: text.as_bytes().to_vec() }
}

/// The body of the module that decides, with data beside it.
pub fn bundle(rules: &str, data: &str) -> Bundle {
    let module = format!("package tollgate.admission\n{rules}\n");
    Bundle::from_files(&[file("tollgate/admission.rego", &module), file("data.json", data)]).expect("a bundle")
}

pub fn compile(rules: &str) -> Result<Law, LawError> {
    Law::compile(&bundle(rules, "{}"))
}

pub fn law(rules: &str) -> Arc<Law> {
    Arc::new(compile(rules).unwrap_or_else(|error| panic!("{error} in {rules}")))
}

pub fn question() -> Question<'static> {
    Question {
        tenant: "acme",
        plan: "standard",
        project: "default",
        key: "k1",
        surface: "chat",
        route: "small",
        model: "gpt-4o-mini",
        provider: "openai",
        input_bytes: 120,
        choices: 1,
        ..Question::default()
    }
}

/// The files of a folder, as the command line reads them.
pub fn folder(dir: &Path) -> Result<Bundle, BundleError> {
    fn walk(root: &Path, dir: &Path, files: &mut Vec<File>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                let inside = path.strip_prefix(root).expect("inside").to_str().expect("UTF-8").to_owned();
                files.push(File { path: inside, bytes });
            }
        }
    }
    let mut files = Vec::new();
    walk(dir, dir, &mut files);
    Bundle::from_files(&files)
}
