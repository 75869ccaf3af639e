//! Bodies of the control plane: what is read is written so that it reads the same, and a member nobody knows is refused.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tollgate_client::{BudgetSelector, BudgetSetting, NewKey, NewProject, NewTenant, PlanSettings};

use crate::Target;

pub const TARGET: Target = Target {
    name: "admin_body",
    check: check_admin_body,
    seeds: &[
        r#"{"id":"demo","name":"Demo","plan":"standard"}"#,
        r#"{"tenant":"demo","id":"main","name":"Main"}"#,
        r#"{"tenant":"demo","project":"default","name":"laptop","expires_at":"2027-01-01T00:00:00Z","scopes":["chat","models"],"requests_per_minute":60,"parallel_requests":4}"#,
        r#"{"markup_percent":"20.0","tight_budget":"clamp","requests_per_minute":60,"parallel_requests":4,"unpriced_hold_usd":"0.10"}"#,
        r#"{"tenant":"demo","project":"main","key":"k1","window":"month","cap_usd":"1.00","basis":"charge"}"#,
        r#"{"tenant":"demo","window":"request"}"#,
    ],
    words: &[
        "\"tenant\":\"a\"",
        "\"id\":\"b\"",
        "\"name\":null",
        "\"plan\":\"p\"",
        "\"window\":\"day\"",
        "\"basis\":\"cost\"",
        "\"scopes\":[]",
        "\"embeddings\"",
        "null",
        "4294967296",
        "\"unknown\":1",
        "\"cap_usd\":\"0\"",
        "\\u0061",
        "lifetime",
    ],
    takes_noise: false,
};

pub fn check_admin_body(data: &[u8]) {
    check::<NewTenant>(data);
    check::<NewProject>(data);
    check::<NewKey>(data);
    check::<PlanSettings>(data);
    check::<BudgetSetting>(data);
    check::<BudgetSelector>(data);
}

fn check<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_value(&read).expect("a body can be written");
    assert_eq!(serde_json::from_value::<T>(written.clone()).as_ref().ok(), Some(&read), "it reads as it was written");
    let Ok(Value::Object(mut said)) = serde_json::from_slice(data) else { return };
    said.retain(|_, value| !value.is_null());
    assert_eq!(Value::Object(said.clone()), written, "nothing that was said is lost, nothing is added");
    said.insert("nobody_knows_this".to_owned(), Value::Null);
    assert!(serde_json::from_value::<T>(Value::Object(said)).is_err(), "a member nobody knows is refused");
}
