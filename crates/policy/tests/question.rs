//! What a policy is asked, and what two questions have in common.

use tollgate_policy::Question;
use tollgate_policy::question::Fields;

use crate::world::question;

#[test]
fn the_input_has_the_fields_that_are_read_and_no_others() {
    let input = question().input(Fields::at(&["request", "route"]).union(Fields::at(&["tenant"])));
    let expected = r#"{"request":{"route":"small"},"tenant":{"id":"acme","plan":"standard"}}"#;
    assert_eq!(
        serde_json::to_value(input).expect("JSON"),
        serde_json::from_str::<serde_json::Value>(expected).expect("JSON")
    );
    let all = serde_json::to_value(question().input(Fields::ALL)).expect("JSON");
    assert_eq!(all["request"]["input_bytes"], 120);
    assert_eq!((all["request"].get("max_tokens"), all.get("time")), (None, None), "what is not known is not there");
}

#[test]
fn a_path_means_all_above_and_below_it() {
    assert_eq!(Fields::at(&[""; 0]), Fields::ALL);
    assert_eq!(Fields::at(&["tenant", "id", "anything"]).iter().count(), 1);
    assert_eq!(Fields::at(&["tenant"]).iter().count(), 2);
    assert_eq!((Fields::at(&["request", "modle"]), Fields::at(&["tenants"])), (Fields::NONE, Fields::NONE));
    assert!(Fields::at(&["time", "hour"]).reads_time() && !Fields::at(&["request"]).reads_time());
}

#[test]
fn keys_are_the_same_where_all_that_is_read_is_the_same() {
    let key = |question: &Question<'_>, fields| {
        let mut key = Vec::new();
        question.key(fields, &mut key);
        key
    };
    let (a, b) = (question(), Question { input_bytes: 121, tenant: "b", ..question() });
    assert_eq!(key(&a, Fields::at(&["request", "route"])), key(&b, Fields::at(&["request", "route"])));
    assert_ne!(key(&a, Fields::ALL), key(&b, Fields::ALL));
    let two = Fields::at(&["tenant"]);
    let shifted = [("ab", "c"), ("a", "bc")].map(|(tenant, plan)| key(&Question { tenant, plan, ..question() }, two));
    assert_ne!(shifted[0], shifted[1], "where one ends and the next begins is part of it");
    let absent = Question { end_user: Some(""), ..question() };
    assert_ne!(key(&absent, Fields::ALL), key(&question(), Fields::ALL));
}
