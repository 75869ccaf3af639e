//! Why a request was refused, by rule and line.

use regorus::Value;
use tollgate_policy::explain::{Explanation, RuleSaid, Said};

use crate::world::bundle;

fn explained(rules: &str, input: &str) -> Vec<(String, u32, Said)> {
    let input = Value::from_json_str(input).expect("JSON");
    let explanation = Explanation::of(&bundle(rules, r#"{"list": ["a", "b"]}"#), &input).expect("it compiles");
    explanation.rules.into_iter().map(|RuleSaid { rule, line, said, .. }| (rule, line, said)).collect()
}

fn fails(line: u32, text: &str) -> Said {
    Said::Fails { line, text: text.to_owned() }
}

fn holds(reasons: &[&str]) -> Said {
    Said::Holds(reasons.iter().map(|reason| (*reason).to_owned()).collect())
}

#[test]
fn each_rule_says_whether_it_holds_and_else_which_line_does_not() {
    let rules = "default allow := false\n\
                 allow if {\n    input.request.route in data.list\n    known\n    input.request.choices < 3\n}\n\
                 allow if input.tenant.id == \"root\"\n\
                 known if input.tenant.plan == \"gold\"\n\
                 deny contains sprintf(\"not %s\", [name]) if {\n    some name in data.list\n    name == input.request.route\n    input.request.stream\n}";
    let said =
        explained(rules, r#"{"request": {"route": "b", "choices": 1}, "tenant": {"id": "x", "plan": "silver"}}"#);
    assert_eq!(
        said,
        [
            ("allow".to_owned(), 3, fails(5, "known")),
            ("allow".to_owned(), 8, fails(8, "input.tenant.id == \"root\"")),
            ("deny".to_owned(), 10, fails(13, "input.request.stream")),
        ]
    );
    let said = explained(
        rules,
        r#"{"request": {"route": "b", "choices": 1, "stream": true}, "tenant": {"id": "root", "plan": "gold"}}"#,
    );
    let says: Vec<Said> = said.into_iter().map(|(_, _, said)| said).collect();
    assert_eq!(says, [holds(&[]), holds(&[]), holds(&["not b"])]);
}

#[test]
fn rules_without_a_body_and_else_are_rules_too() {
    let said = explained("allow := true", "{}");
    assert_eq!(said, [("allow".to_owned(), 2, holds(&[]))]);
    let said =
        explained("allow if input.request.stream\nelse if input.request.images == 0", r#"{"request": {"images": 0}}"#);
    let says: Vec<Said> = said.into_iter().map(|(_, _, said)| said).collect();
    assert_eq!(says, [fails(2, "input.request.stream"), holds(&[])]);
}

#[test]
fn a_text_as_a_reason_is_told_as_it_is() {
    let said = explained("allow := true\ndeny contains \"closed\" if \"b\" in data.list", "{}");
    assert_eq!(said[1].2, holds(&["closed"]));
    let said = explained("allow := true\ndeny contains `raw` if \"c\" in data.list", "{}");
    assert_eq!(said[1].2, fails(3, "\"c\" in data.list"));
}

#[test]
fn the_text_names_file_and_line() {
    let bundle = bundle("allow if input.request.stream", "{}");
    let text = Explanation::of(&bundle, &Value::new_object()).expect("it compiles").to_string();
    assert_eq!(text, "tollgate/admission.rego:2: allow does not hold, for line 2 does not: input.request.stream");
}
