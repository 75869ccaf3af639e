//! The fingerprint is of what a decision can read: it changes with that, and with nothing else.

use tollgate_policy::{Bundle, Fingerprint, Law, Layer, Layers};

use crate::world::{file, law};

const ADMISSION: &str =
    "package tollgate.admission\nimport data.tollgate.lists\nallow if input.tenant.id in lists.tenants\n";
const LISTS: &str = "package tollgate.lists\ntenants := data.customers.paying\n";
const DATA: &str = r#"{"customers": {"paying": ["acme"], "others": ["b"]}, "unread": 1}"#;

fn of(files: &[(&str, &str)]) -> Fingerprint {
    let files: Vec<_> = files.iter().map(|(path, text)| file(path, text)).collect();
    let bundle = Bundle::from_files(&files).expect("a bundle");
    Law::compile(&bundle).unwrap_or_else(|error| panic!("{error} in {files:?}")).fingerprint
}

fn usual() -> Vec<(&'static str, &'static str)> {
    vec![("a.rego", ADMISSION), ("lists.rego", LISTS), ("data.json", DATA)]
}

fn with(path: &'static str, text: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut files = usual();
    files.retain(|(there, _)| *there != path);
    files.push((path, text));
    files
}

#[test]
fn an_unrelated_change_changes_nothing() {
    let before = of(&usual());
    for files in [
        with("data.json", r#"{"unread": 2, "customers": {"others": [], "paying": ["acme"]}, "more": {}}"#),
        with("other.rego", "package tollgate.reports\nx := data.unread"),
        with("a_test.rego", "package tollgate.admission_test\ntest_x if true"),
        with(
            "a.rego",
            "# A comment.\npackage tollgate.admission\n\nimport data.tollgate.lists\n\nallow if   input.tenant.id in lists.tenants # why\n",
        ),
        with("README.md", "words"),
        with(".manifest", r#"{"revision": "another"}"#),
    ] {
        assert_eq!(of(&files), before, "{files:?}");
    }
    let mut moved = usual();
    moved[1].0 = "somewhere/else.rego";
    assert_eq!(of(&moved), before);
}

#[test]
fn a_related_change_changes_it() {
    let before = of(&usual());
    for files in [
        with("data.json", r#"{"customers": {"paying": ["acme", "b"]}}"#),
        with("lists.rego", "package tollgate.lists\ntenants := array.concat(data.customers.paying, [])\n"),
        with(
            "a.rego",
            "package tollgate.admission\nimport data.tollgate.lists\nallow if not input.tenant.id in lists.tenants\n",
        ),
        with("more.rego", "package tollgate.admission\ndeny contains \"x\" if input.request.stream"),
        with("more.rego", "package tollgate.lists\nothers := 1"),
    ] {
        assert_ne!(of(&files), before, "{files:?}");
    }
    let text = |text: &str| law(&format!("allow if input.tenant.id == {text}")).fingerprint;
    assert_ne!(text("\"a\""), text("\"b\""));
    assert_ne!(text("\"a b\""), text("\"a  b\""), "space inside of a text counts");
    assert_ne!(text("\"a\""), text("`a`"), "no harm is done by being careful");
}

#[test]
fn of_a_path_that_is_computed_in_part_all_below_it_counts() {
    // Of `data[x]` that would be everything, the rule itself too: that is refused.
    let partly = |data: &'static str| {
        let rule = "package tollgate.admission\nallow if data.tenants[input.tenant.id].open";
        self::of(&[("a.rego", rule), ("data.json", data)])
    };
    assert_eq!(partly(r#"{"tenants": {"a": 1}, "x": 1}"#), partly(r#"{"tenants": {"a": 1}, "x": 2}"#));
    assert_ne!(partly(r#"{"tenants": {"a": 1}}"#), partly(r#"{"tenants": {"a": 2}}"#));
}

#[test]
fn each_layer_is_part_of_the_whole() {
    let (a, b) = (law("allow := true"), law("allow if input.request.stream"));
    let of = |laws: &[(Layer, &std::sync::Arc<Law>)]| {
        Layers::new(laws.iter().map(|(layer, law)| (*layer, std::sync::Arc::clone(law)))).fingerprint
    };
    let all = [
        of(&[]),
        of(&[(Layer::Platform, &a)]),
        of(&[(Layer::Tenant, &a)]),
        of(&[(Layer::Platform, &a), (Layer::Tenant, &b)]),
        of(&[(Layer::Platform, &b), (Layer::Tenant, &a)]),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(of(&[(Layer::Tenant, &b), (Layer::Platform, &a)]), all[3], "the order of asking is always the same");
}
