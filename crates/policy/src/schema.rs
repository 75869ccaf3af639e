//! JSON Schemas of what a policy is asked and of what it says, made from the same tables and types that read them.

use serde_json::{Map, Value, json};

use crate::law::{REASON_CHARS_MAX, REASONS_MAX};
use crate::obligations::{NAMES_MAX, REDACTIONS_MAX};
use crate::question::{FIELDS, Field, Kind};

/// Both, under `$defs`: `input` and `decision`.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "tollgate:policy",
        "title": "What a policy is asked (input), and what data.tollgate.admission says (decision)",
        "$defs": { "input": input(), "decision": decision() },
    })
}

fn input() -> Value {
    let mut groups = Map::new();
    for Field { path: [group, name], kind, about, .. } in &FIELDS {
        let kind = match kind {
            Kind::Text => json!({ "type": "string", "description": about }),
            Kind::Number => json!({ "type": "integer", "minimum": 0, "description": about }),
            Kind::Bool => json!({ "type": "boolean", "description": about }),
        };
        let empty = || json!({ "type": "object", "additionalProperties": false, "properties": {} });
        let group = groups.entry(*group).or_insert_with(empty);
        group["properties"][*name] = kind;
    }
    json!({
        "type": "object",
        "description": "A field that no rule of the bundles reads is not there; neither is one that the request does not say.",
        "additionalProperties": false,
        "properties": groups,
    })
}

fn decision() -> Value {
    let names = json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true, "maxItems": NAMES_MAX });
    let object = |properties: Value, required: &[&str]| json!({ "type": "object", "additionalProperties": false, "properties": properties, "required": required });
    let max_tokens = object(
        json!({ "limit": { "type": "integer", "minimum": 0 }, "over": { "enum": ["clamp", "refuse"], "default": "clamp" } }),
        &["limit"],
    );
    let cache = object(json!({ "ttl_seconds": { "type": "integer", "minimum": 0 } }), &["ttl_seconds"]);
    let redaction = object(json!({ "name": { "type": "string" }, "regex": { "type": "string" } }), &["name"]);
    let obligations = object(
        json!({
            "models": names,
            "max_tokens": max_tokens,
            "cache": cache,
            "retention_days": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
            "redact": { "type": "array", "items": redaction, "uniqueItems": true, "maxItems": REDACTIONS_MAX },
            "regions": names,
            "batch": { "enum": ["shared", "alone"] },
            "second_approval": { "type": "boolean" },
        }),
        &[],
    );
    let reason =
        json!({ "type": "string", "description": format!("the first {REASON_CHARS_MAX} characters are told") });
    object(
        json!({
            "allow": { "type": "boolean" },
            "deny": { "type": "array", "items": reason, "uniqueItems": true,
                "description": format!("a set; the first {REASONS_MAX} are told. Any of them outweighs allow.") },
            "obligations": obligations,
        }),
        &["allow"],
    )
}

#[cfg(test)]
mod tests {
    use regorus::Value as Rego;

    use super::*;
    use crate::obligations::Obligations;
    use crate::question::{Fields, Question};

    #[test]
    fn every_field_of_a_question_and_every_obligation_is_described() {
        let schema = schema();
        let input = serde_json::to_value(Question::default().input(Fields::ALL)).expect("JSON");
        for (group, fields) in input.as_object().expect("groups") {
            for name in fields.as_object().expect("fields").keys() {
                let described = &schema["$defs"]["input"]["properties"][group]["properties"][name];
                assert!(described["description"].is_string(), "{group}.{name}");
            }
        }
        let described = &schema["$defs"]["decision"]["properties"]["obligations"]["properties"];
        for name in described.as_object().expect("obligations").keys() {
            let one = Rego::from_json_str(&format!("{{\"{name}\": null}}")).expect("JSON");
            let said = Obligations::read(&one);
            assert!(
                said.as_ref().is_ok_and(|none| *none == Obligations::default())
                    || !said.unwrap_err().contains("unknown field"),
                "{name}"
            );
        }
        let unknown = Rego::from_json_str("{\"none\": null}").expect("JSON");
        assert!(Obligations::read(&unknown).expect_err("unknown").contains("unknown field"));
    }
}
