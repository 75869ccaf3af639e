//! Small bundles, and one question.

use std::sync::Arc;

use tollgate_policy::law::LawError;
use tollgate_policy::{Bundle, File, Law, Question};

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
