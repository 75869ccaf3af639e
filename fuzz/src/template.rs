//! Templates: a manifest that is taken holds what it must, and a run that is taken has inputs that fit the schema.

use std::path::{Component, Path};
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::Value;
use tollgate_gateway::http::local::{Shape, read_run};
use tollgate_gateway::local::Bodies;
use tollgate_runtime::template::{Manifest, Template};

use crate::{Target, by_serde};

pub const MANIFEST: Target = Target {
    name: "template_manifest",
    check: check_manifest,
    seeds: &[
        include_str!("../../templates/support-triage/template.toml"),
        "id = \"a\"\nversion = \"1\"\ntitle = \"t\"\nabout = \"a\"\n[input]\nschema = \"s\"\ntext = [\"t\"]\n[data]\nexamples = \"e\"\neval = \"v\"\n",
    ],
    words: &[
        "\"../x\"",
        "\"/etc/passwd\"",
        "\"\"",
        "[]",
        "= 2",
        "= -1",
        "= nan",
        "[policy]",
        "bundle = \".\"",
        "[success]",
        "[cache]",
        "accuracy_min = 1e300",
        "ttl_seconds = 18446744073709551615",
        "[data.public]",
        "\"a/b\"",
        "id = \"\"",
    ],
    takes_noise: false,
};

pub const RUN: Target = Target {
    name: "template_run",
    check: check_run,
    seeds: &[
        r#"{"template":"support-triage","input":{"message":"it broke"}}"#,
        r#"{"template":"t","input":[{"subject":"s","message":"a b"},{"message":"c \u00e9","channel":"email"}],"top_k":3}"#,
    ],
    words: &[
        "\"message\":\"\"",
        "\"message\":\" \"",
        "\"message\":7",
        "\"channel\":\"fax\"",
        "\"more\":1",
        "\"top_k\":0",
        "\"top_k\":1001",
        "[]",
        "[[]]",
        "{}",
        "null",
        "\"input\":\"x\"",
        "\"\\u006dessage\":\"x\"",
        ",",
    ],
    takes_noise: false,
};

const INPUTS_MAX: usize = 3;

pub fn check_manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    assert!(!manifest.input.text.is_empty() && (0.0..=1.0).contains(&manifest.output.review_below));
    let bundle = manifest.policy.as_ref().map(|policy| &policy.bundle);
    for path in [Some(&manifest.input.schema), Some(&manifest.data.examples), Some(&manifest.data.eval), bundle]
        .into_iter()
        .flatten()
    {
        assert!(Path::new("/a/b").join(path).starts_with("/a/b"), "{}", path.display());
        assert!(path.components().all(|part| part != Component::ParentDir), "{}", path.display());
    }
}

pub fn check_run(data: &[u8]) {
    static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/support-triage");
        Template::load(&folder).expect("a shipped template")
    });
    let body = Bytes::copy_from_slice(data);
    let Ok(wanted) = read_run(&TEMPLATE, Bodies { original: &body, redacted: &body }, INPUTS_MAX) else { return };
    let Shape::Run { top_k } = wanted.shape else { panic!("a run is read as a run") };
    assert!((1..=1_000).contains(&top_k) && (1..=INPUTS_MAX).contains(&wanted.texts.len()));
    let Some(plain) = by_serde(data) else { return };
    let inputs = match &plain["input"] {
        Value::Array(inputs) => inputs.clone(),
        one => vec![one.clone()],
    };
    for (input, text) in inputs.iter().zip(&wanted.texts) {
        let message = input["message"].as_str().expect("the schema wants it");
        assert!(text.ends_with(message) && !text.trim().is_empty() && message.chars().count() <= 8_000);
        let known = ["message", "subject", "channel"];
        assert!(input.as_object().expect("an object").keys().all(|key| known.contains(&key.as_str())));
    }
}
