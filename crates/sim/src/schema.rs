//! JSON made from a JSON schema: arguments of tool calls and structured answers. Small, deterministic, and valid for
//! the parts of the language that providers accept (types, enum, const, bounds, lengths, required, `$ref`, `anyOf`).

use serde_json::{Map, Number, Value, json};

use crate::dice::Dice;

/// A schema may refer to itself; deeper than this, optional things are left out and lists are empty.
const DEPTH_MAX: usize = 8;
/// No bound of a schema makes a value longer than this.
const LENGTH_MAX: u64 = 256;

/// A value that `schema` allows.
pub fn sample(schema: &Value, dice: &mut Dice) -> Value {
    Sampler { root: schema, dice }.value(schema, 0)
}

struct Sampler<'s> {
    root: &'s Value,
    dice: &'s mut Dice,
}

// === impl Sampler ===

impl Sampler<'_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if depth > 4 * DEPTH_MAX {
            return Value::Null;
        }
        if let Some(target) = schema["$ref"].as_str() {
            let found = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)).cloned();
            return found.map_or(Value::Null, |found| self.value(&found, depth + 1));
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.is_empty()) {
            return choices[self.dice.below_len(choices.len())].clone();
        }
        for union in ["anyOf", "oneOf", "allOf"] {
            if let Some(members) = schema[union].as_array().filter(|members| !members.is_empty()) {
                return self.member(members, depth);
            }
        }
        self.typed(schema, depth)
    }

    /// One member of a union; far down, the one that ends it soonest.
    fn member(&mut self, members: &[Value], depth: usize) -> Value {
        let at = match members.iter().position(|member| member["type"] == "null") {
            Some(null) if depth >= DEPTH_MAX => null,
            _ => self.dice.below_len(members.len()),
        };
        self.value(&members[at], depth + 1)
    }

    fn typed(&mut self, schema: &Value, depth: usize) -> Value {
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "string" => Value::String(self.string(schema)),
            "integer" => Value::Number(self.integer(schema)),
            "number" => self.number(schema),
            "boolean" => Value::Bool(self.dice.below(2) == 1),
            _ => Value::Null,
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let required: Vec<&str> = schema["required"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let mut object = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if required.contains(&name.as_str()) || (depth < DEPTH_MAX && self.dice.below(2) == 1) {
                object.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Value, depth: usize) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(0).min(LENGTH_MAX);
        let most = schema["maxItems"].as_u64().unwrap_or(least + 2).clamp(least, LENGTH_MAX);
        let wanted = if depth < DEPTH_MAX { least.max(1 + self.dice.below(2)).min(most) } else { least };
        let items = schema.get("items").cloned().unwrap_or_else(|| json!({"type": "string"}));
        (0..wanted).map(|_| self.value(&items, depth + 1)).collect()
    }

    fn string(&mut self, schema: &Value) -> String {
        let number = self.dice.below(1_000);
        match schema["format"].as_str() {
            Some("date-time") => return format!("2026-01-{:02}T12:00:00Z", 1 + number % 28),
            Some("date") => return format!("2026-01-{:02}", 1 + number % 28),
            Some("time") => return format!("12:{:02}:00Z", number % 60),
            Some("email") => return format!("simulated{number}@example.com"),
            Some("uri" | "url") => return format!("https://example.com/simulated/{number}"),
            Some("uuid") => return format!("00000000-0000-4000-8000-{number:012}"),
            _ => {}
        }
        let mut text = format!("simulated {number}");
        let least = usize::try_from(schema["minLength"].as_u64().unwrap_or(0).min(LENGTH_MAX)).unwrap_or(0);
        while text.len() < least {
            text.push('x');
        }
        if let Some(most) = schema["maxLength"].as_u64() {
            text.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        }
        text
    }

    fn integer(&mut self, schema: &Value) -> Number {
        let step = schema["multipleOf"].as_i64().filter(|step| *step > 0).unwrap_or(1);
        let low = lower(schema)
            .map(f64::ceil)
            .map_or_else(|| upper(schema).map_or(0, |most| whole(most.floor()) - 99), whole);
        let low = if above(schema, low) { low } else { low + 1 };
        let first = low.saturating_add((step - low.rem_euclid(step)).rem_euclid(step));
        let most = upper(schema).map_or(first.saturating_add(99), |most| whole(most.floor()));
        let steps = u64::try_from(most.saturating_sub(first).max(0) / step).unwrap_or(0).min(99);
        let chosen = i64::try_from(self.dice.below(steps + 1)).unwrap_or(0);
        let value = first + chosen * step;
        Number::from(if below(schema, value) || chosen == 0 { value } else { value - step })
    }

    fn number(&mut self, schema: &Value) -> Value {
        if schema.get("multipleOf").is_some() {
            return Value::Number(self.integer(schema));
        }
        let low = lower(schema).or_else(|| upper(schema).map(|most| most - 100.0)).unwrap_or(0.0);
        let high = upper(schema).unwrap_or(low + 100.0);
        // Away from both ends, which may be excluded.
        json!(low + (high - low) * (0.25 + 0.5 * self.dice.unit()))
    }
}

fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(name) => name,
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn lower(schema: &Value) -> Option<f64> {
    schema["minimum"].as_f64().or_else(|| schema["exclusiveMinimum"].as_f64())
}

fn upper(schema: &Value) -> Option<f64> {
    schema["maximum"].as_f64().or_else(|| schema["exclusiveMaximum"].as_f64())
}

fn above(schema: &Value, value: i64) -> bool {
    schema["exclusiveMinimum"].as_f64().is_none_or(|least| value as f64 > least)
}

fn below(schema: &Value, value: i64) -> bool {
    schema["exclusiveMaximum"].as_f64().is_none_or(|most| (value as f64) < most)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float that is too large becomes the largest integer, which is what is wanted"
)]
fn whole(value: f64) -> i64 {
    value as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: Value, allowed: impl Fn(&Value) -> bool) {
        for seed in 0..50 {
            let value = sample(&schema, &mut Dice::new(seed));
            assert!(allowed(&value), "{value} for {schema}");
        }
    }

    #[test]
    fn scalars_have_their_types_and_bounds() {
        check(json!({"type":"string"}), |v| v.as_str().is_some_and(|s| s.starts_with("simulated")));
        check(json!({"type":"string","minLength":30}), |v| v.as_str().is_some_and(|s| s.len() >= 30));
        check(json!({"type":"string","maxLength":4}), |v| v.as_str().is_some_and(|s| s.len() <= 4));
        check(json!({"type":"string","enum":["a","b"]}), |v| v == "a" || v == "b");
        check(json!({"const":7}), |v| *v == 7);
        check(json!({"type":"boolean"}), Value::is_boolean);
        check(json!({"type":"null"}), Value::is_null);
        check(json!({"type":["null","integer"]}), Value::is_i64);
        check(json!({"type":"integer","minimum":5,"maximum":7}), |v| (5..=7).contains(&v.as_i64().unwrap_or(0)));
        check(json!({"type":"integer","exclusiveMinimum":5,"exclusiveMaximum":7}), |v| *v == 6);
        check(json!({"type":"integer","minimum":10,"multipleOf":7}), |v| {
            v.as_i64().is_some_and(|n| n >= 10 && n % 7 == 0)
        });
        check(json!({"type":"integer","maximum":-5}), |v| v.as_i64().is_some_and(|n| n <= -5));
        check(json!({"type":"number","minimum":0.5,"maximum":0.75}), |v| {
            v.as_f64().is_some_and(|n| (0.5..=0.75).contains(&n))
        });
    }

    #[test]
    fn objects_have_their_required_properties_and_no_others() {
        let schema = json!({
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": false,
        });
        check(schema, |v| {
            let object = v.as_object().expect("an object");
            object.contains_key("city")
                && object.contains_key("unit")
                && object.keys().all(|key| ["city", "days", "unit"].contains(&key.as_str()))
        });
    }

    #[test]
    fn arrays_keep_their_lengths() {
        check(json!({"type":"array","items":{"type":"integer"},"minItems":3,"maxItems":4}), |v| {
            v.as_array().is_some_and(|items| (3..=4).contains(&items.len()) && items.iter().all(Value::is_i64))
        });
    }

    #[test]
    fn references_and_unions_are_followed_and_recursion_ends() {
        let schema = json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "type": "object",
                "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["value", "next"],
            }},
        });
        check(schema, |v| v["value"].is_i64() && (v["next"].is_object() || v["next"].is_null()));
        check(json!({"$ref":"#"}), Value::is_null);
        check(json!({"$ref":"#/missing"}), Value::is_null);
    }
}
