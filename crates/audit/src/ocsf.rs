//! An entry as one event of the Open Cybersecurity Schema Framework, for tools that gather events of many programs: API Activity
//! (6003), or Authentication (3002) for signing in and out. What has no place of its own there stands under `unmapped`.

use serde_json::{Map, Value, json};
use tollgate_types::Timestamp;

/// The version of the schema that the events are of.
pub const SCHEMA: &str = "1.5.0";

const API_ACTIVITY: u64 = 6003;
const AUTHENTICATION: u64 = 3002;
/// Of an activity that the schema has no number for: then it has a name.
const OTHER: u64 = 99;

/// What is told in places of its own, and so not again under `unmapped`.
const MAPPED: &[&str] = &["n", "at", "kind", "tenant", "act", "actor", "by", "person", "status", "request", "note"];

/// The event of an entry's line; nothing, if its text is not kept any more. `version` is the product's.
pub fn event(line: &str, version: &str) -> Option<Value> {
    let entry: Map<String, Value> = serde_json::from_str(line).ok()?;
    let text = |member: &str| entry.get(member).and_then(Value::as_str);
    let (kind, at) = (text("kind")?, Timestamp::parse_rfc3339(text("at")?)?);
    let operation = text("act").filter(|_| kind.starts_with(crate::kind::ACT)).unwrap_or(kind);
    let (class, activity) = match operation {
        "sign_in" => (AUTHENTICATION, 1),
        "sign_out" => (AUTHENTICATION, 2),
        other => (API_ACTIVITY, activity_of(other)),
    };
    let status = entry.get("status").and_then(Value::as_u64);
    let refused = kind == "act.denied" || status.is_some_and(|status| status >= 400);
    let (category, class_name) = if class == AUTHENTICATION {
        ((3, "Identity & Access Management"), "Authentication")
    } else {
        ((6, "Application Activity"), "API Activity")
    };
    let mut event = json!({
        "category_uid": category.0,
        "category_name": category.1,
        "class_uid": class,
        "class_name": class_name,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": if refused { 2 } else { 1 },
        "status_id": if refused { 2 } else { 1 },
        "time": at.0.div_euclid(1_000),
        "metadata": {
            "version": SCHEMA,
            "uid": entry.get("n")?.to_string(),
            "log_name": "audit",
            "product": {"name": "Tollgate", "vendor_name": "Tollgate", "version": version},
        },
        "actor": {"user": user_of(&entry)},
        "src_endpoint": {"name": "tollgate"},
    });
    let mut api = json!({"operation": operation});
    if let Some(tenant) = text("tenant") {
        event["actor"]["user"]["org"] = json!({"uid": tenant});
    }
    if let Some(request) = text("request") {
        api["request"] = json!({"uid": request});
    }
    if let Some(status) = status {
        api["response"] = json!({"code": status});
        event["status_code"] = json!(status.to_string());
    }
    if let Some(note) = text("note") {
        event["status_detail"] = json!(note);
    }
    let rest = entry.iter().filter(|(member, _)| !MAPPED.contains(&member.as_str()));
    let mut unmapped: Map<String, Value> = rest.map(|(member, value)| (member.clone(), value.clone())).collect();
    unmapped.insert("kind".to_owned(), json!(kind));
    if activity == OTHER {
        event["activity_name"] = json!(operation);
    }
    if class == AUTHENTICATION {
        // That class asks for the user on the first level, and for what was signed in to; it has no place for an API.
        event["user"] = user_of(&entry);
        event["service"] = json!({"name": "tollgate"});
        unmapped.insert("api".to_owned(), api);
    } else {
        event["api"] = api;
    }
    event["unmapped"] = Value::Object(unmapped);
    Some(event)
}

/// Create 1, Read 2, Update 3, Delete 4, Other 99: by the verb that an operation's name begins or ends with.
fn activity_of(operation: &str) -> u64 {
    let words: Vec<&str> = operation.split(['_', '.']).collect();
    let is = |verbs: &[&str]| words.iter().any(|word| verbs.contains(word));
    if is(&["create", "created", "admitted", "asked", "ask", "issue", "push"]) {
        1
    } else if is(&["delete", "revoke", "revoked", "remove", "voided", "erase"]) {
        4
    } else if is(&["get", "list", "read", "show", "export"]) {
        2
    } else if is(&["set", "changed", "change", "adjusted", "extended", "posted", "decided", "used", "decide", "rotate"])
    {
        3
    } else {
        OTHER
    }
}

fn user_of(entry: &Map<String, Value>) -> Value {
    let text = |member: &str| entry.get(member).and_then(Value::as_str);
    let actor = text("actor").or_else(|| text("by"));
    // What the books themselves record was asked for by a key, or done by the gateway itself.
    let key = || text("key").map(|key| format!("api-key:{key}"));
    let uid = actor.map(str::to_owned).or_else(key).unwrap_or_else(|| "gateway".to_owned());
    // User 1, Admin 2, System 3.
    let type_id = match uid.split(':').next().unwrap_or_default() {
        "person" | "nobody" => 1,
        "admin-key" => 2,
        _ => 3,
    };
    let name = text("person").unwrap_or(&uid);
    json!({"uid": uid, "name": name, "type_id": type_id})
}
