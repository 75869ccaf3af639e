//! What bundles say, alone and in layers.

use std::sync::Arc;

use tollgate_policy::law::{LawError, REASON_CHARS_MAX, REASONS_MAX};
use tollgate_policy::question::Moment;
use tollgate_policy::{Decision, Denial, Layer, Layers, Obligations, Question, Undecided, Verdict};

use crate::world::{bundle, compile, law, question};

fn denied(reasons: &[&str]) -> Verdict {
    Verdict::Denied(reasons.iter().map(|reason| (*reason).to_owned()).collect())
}

#[test]
fn nothing_is_allowed_that_no_rule_allows() {
    let law = law("allow if input.request.route == \"small\"");
    assert_eq!(law.decide(&question()), Ok(Verdict::Allowed(Obligations::default())));
    assert_eq!(law.decide(&Question { route: "large", ..question() }), Ok(denied(&[])));
}

#[test]
fn only_true_is_yes() {
    for says in ["allow := \"yes\"", "allow := 1", "allow := false", "allow if false", "default allow := false"] {
        assert_eq!(law(says).decide(&question()), Ok(denied(&[])), "{says}");
    }
}

#[test]
fn one_reason_against_outweighs_all_for() {
    let law = law(
        "allow := true\ndeny contains \"b: too long\" if input.request.input_bytes > 100\ndeny contains sprintf(\"a: not %s\", [input.tenant.id]) if input.tenant.id == \"acme\"",
    );
    assert_eq!(law.decide(&question()), Ok(denied(&["a: not acme", "b: too long"])));
    let other = Question { tenant: "other", input_bytes: 100, ..question() };
    assert_eq!(law.decide(&other), Ok(Verdict::Allowed(Obligations::default())));
}

#[test]
fn the_older_way_of_writing_a_set_is_refused_and_an_object_is_no_set() {
    let error = compile("allow := true\ndeny[reason] { input.request.stream; reason := \"no streams\" }");
    assert!(error.expect_err("Rego 0").to_string().contains("tollgate/admission.rego:3:14"));
    let law = law("allow := true\ndeny[reason] if { input.request.stream; reason := \"no streams\" }");
    let Err(Undecided(why)) = law.decide(&Question { stream: true, ..question() }) else { panic!("an object, no set") };
    assert!(why.contains("deny is a set"), "{why}");
}

#[test]
fn reasons_are_bounded_and_have_no_control_characters() {
    let law = law("allow := true\ndeny contains concat(\"\", [x, \"\\n\", input.tenant.id]) if some x in data.reasons");
    let many: Vec<String> = (0..50).map(|n| format!("{n:02}{}", "x".repeat(500))).collect();
    let data = serde_json::json!({"reasons": many}).to_string();
    let bundle = bundle("allow := true\ndeny contains concat(\"\", [x, \"\\n\"]) if some x in data.reasons", &data);
    let Ok(Verdict::Denied(reasons)) = tollgate_policy::Law::compile(&bundle).expect("a law").decide(&question())
    else {
        panic!("it denies")
    };
    assert_eq!(reasons.len(), REASONS_MAX);
    assert!(reasons.iter().all(|reason| reason.chars().count() <= REASON_CHARS_MAX && !reason.contains('\n')));
    assert_eq!(law.decide(&question()), Ok(Verdict::Allowed(Obligations::default())), "no data, no reason");
}

#[test]
fn obligations_come_with_the_yes() {
    let law =
        law("allow := true\nobligations := {\"max_tokens\": {\"limit\": 10}} if input.request.route == \"small\"");
    let Ok(Verdict::Allowed(obligations)) = law.decide(&question()) else { panic!("it allows") };
    assert_eq!(obligations.max_tokens.map(|max| max.limit), Some(10));
    let elsewhere = law.decide(&Question { route: "large", ..question() });
    assert_eq!(elsewhere, Ok(Verdict::Allowed(Obligations::default())));
}

#[test]
fn what_cannot_be_decided_is_no_yes() {
    for (rules, words) in [
        ("allow := true\nobligations := {\"modles\": []}", "unknown field `modles`"),
        ("allow := true\ndeny contains 7", "each reason of deny is a text"),
        ("allow := true\ndeny := \"no\"", "deny is a set"),
        ("allow := true\ndeny := {\"no\": true}", "deny is a set"),
    ] {
        let Err(Undecided(why)) = law(rules).decide(&question()) else {
            panic!("{rules}: {:?}", law(rules).decide(&question()))
        };
        assert!(why.contains(words), "{rules}: {why}");
    }
}

#[test]
fn mistakes_are_told_when_the_bundle_is_loaded_with_their_place() {
    for (rules, words) in [
        ("allow if input.request.modle == 1", "tollgate/admission.rego:2: nobody is asked 'input.request.modle'"),
        ("allow if inputs.x", ""),
        ("deny contains \"x\"", "no rule says data.tollgate.admission.allow"),
        ("allow if {", "error"),
        ("allow if time.now_ns() > 0", "what time it is stands in input.time"),
        ("allow if http.send({\"url\": \"x\"}).x", "put what it needs into data.json"),
        ("allow if count(numbers.range(0, 5)) > 1", "a policy may not call 'numbers.range'"),
        ("allow if sprintf(input.tenant.id, []) == \"\"", "the format of sprintf is written out"),
        ("allow if sprintf(\"%900000000d\", [1]) == \"\"", "no width"),
        ("allow if opa.runtime().x", "a policy may not call 'opa.runtime'"),
    ] {
        let error = compile(rules).expect_err(rules).to_string();
        assert!(error.to_lowercase().contains(&words.to_lowercase()), "{rules}: {error}");
    }
    let foreign = tollgate_policy::Bundle::from_files(&[
        crate::world::file("x.rego", "package tollgate_decision\ndecision := 1"),
        crate::world::file("y.rego", "package tollgate.admission\nallow := true"),
    ]);
    assert_eq!(
        tollgate_policy::Law::compile(&foreign.expect("a bundle")).err(),
        Some(LawError::Reserved("tollgate_decision".into()))
    );
}

/// OPA would end with an error; the machine here would say "undefined", and a deny that rests on it would not deny.
#[test]
fn a_rule_that_may_have_two_values_is_refused() {
    for rules in [
        "x := 1 if input.request.stream\nx := 2 if input.request.images > 0",
        "x := input.request.route\nx := \"a\"",
        "x := y if some y in [1, 2]",
        "x := y if { some z in [{\"a\": 1}]; y := z.a }",
        "x := data.list[_]",
        "x := data.list[i].a if data.list[i].b",
        "x := {\"a\": y} if some y in data.list",
        "f(a) := 1 if a > 1\nf(a) := 2 if a > 2",
        "f(a) := y if some y in a",
    ] {
        let error = compile(&format!("allow := true\n{rules}")).expect_err(rules).to_string();
        assert!(error.contains("may have several values") || error.contains("more than once"), "{rules}: {error}");
    }
    for rules in [
        "x if input.request.stream\nx if input.request.images > 0",
        "x := 1 if input.request.stream\nelse := 2 if input.request.images > 0\nelse := 3",
        "x := [y | some y in [1, 2]]",
        "x := count({y | some y in data.list})",
        "x := data.list[0].a",
        "x := y if { y := input.request.route }",
        "x := data.prices[input.request.route]",
        "x := data.prices[route] if { route := input.request.route }",
        "x[y] := z if some y, z in data.list",
        "f(\"a\") := 1\nf(\"b\") := 2",
        "f(a) := data.list[a]",
        "x := \"yes\" if { some y in data.list; y == input.request.route }",
        "default x := 1\nx := 2 if input.request.stream",
    ] {
        compile(&format!("allow := true\n{rules}")).unwrap_or_else(|error| panic!("{rules}: {error}"));
    }
}

#[test]
fn hours_can_be_kept() {
    let law = law(
        "allow if { input.time.hour >= 8; input.time.hour < 18; not input.time.weekday in {\"saturday\", \"sunday\"} }",
    );
    let at = |hour, weekday| {
        let moment = Some(Moment { hour, weekday, ..Moment::default() });
        law.decide(&Question { moment, ..question() }).expect("decided")
    };
    assert_eq!(at(8, "monday"), Verdict::Allowed(Obligations::default()));
    assert_eq!((at(18, "monday"), at(9, "sunday")), (denied(&[]), denied(&[])));
    assert!(law.fields.reads_time());
    let layers = Layers::new([(Layer::Tenant, law)]);
    let at = |hour| {
        layers.decide(&Question { moment: Some(Moment { hour, weekday: "monday", ..Moment::default() }), ..question() })
    };
    assert!(matches!(*at(9).expect("decided"), Decision::Allowed(_)));
    assert!(matches!(*at(19).expect("decided"), Decision::Denied(_)), "nothing of an earlier hour is remembered");
}

#[test]
fn a_lower_layer_can_only_narrow() {
    let wide = law("allow := true\nobligations := {\"max_tokens\": {\"limit\": 100}, \"regions\": [\"eu\", \"us\"]}");
    let narrow = law(
        "allow if input.request.route == \"small\"\nobligations := {\"max_tokens\": {\"limit\": 500, \"over\": \"refuse\"}, \"regions\": [\"eu\"]}",
    );
    let layers = Layers::new([(Layer::Tenant, Arc::clone(&narrow)), (Layer::Platform, Arc::clone(&wide))]);
    let Decision::Allowed(obligations) = &*layers.decide(&question()).expect("decided") else { panic!("it allows") };
    let max = obligations.max_tokens.expect("a maximum");
    assert_eq!((max.limit, max.over), (100, tollgate_policy::obligations::Over::Refuse));
    assert!(obligations.allows_region(Some("eu")) && !obligations.allows_region(Some("us")));
    let refused = layers.decide(&Question { route: "large", ..question() }).expect("decided");
    assert_eq!(*refused, Decision::Denied(Denial { layer: Layer::Tenant, reasons: vec![] }));

    let never = Layers::new([(Layer::Platform, law("allow := false")), (Layer::Tenant, wide)]);
    let Decision::Denied(denial) = &*never.decide(&question()).expect("decided") else { panic!("it denies") };
    assert_eq!(
        (denial.layer, denial.to_string().as_str()),
        (Layer::Platform, "no rule of the platform's policy allows it")
    );
}

#[test]
fn what_is_remembered_is_remembered_by_all_that_is_read() {
    let layers = Layers::new([(Layer::Plan, law("allow if input.request.input_bytes < 100"))]);
    for _ in 0..3 {
        for (input_bytes, yes) in [(99, true), (100, false), (99, true)] {
            let decision = layers.decide(&Question { input_bytes, ..question() }).expect("decided");
            assert_eq!(matches!(*decision, Decision::Allowed(_)), yes);
        }
    }
    // More different questions than are remembered.
    for input_bytes in 0..10_000 {
        let decision = layers.decide(&Question { input_bytes, ..question() }).expect("decided");
        assert_eq!(matches!(*decision, Decision::Allowed(_)), input_bytes < 100);
    }
}

#[test]
fn without_any_bundle_everything_passes_and_the_fingerprint_says_so() {
    let none = Layers::default();
    assert!(none.is_empty());
    assert_eq!(*none.decide(&question()).expect("decided"), Decision::Allowed(Obligations::default()));
    assert_ne!(none.fingerprint, Layers::new([(Layer::Plan, law("allow := true"))]).fingerprint);
}

#[test]
fn many_threads_may_ask_at_once() {
    let law = law("allow if input.request.input_bytes % 2 == 0");
    std::thread::scope(|threads| {
        for thread in 0..4_u64 {
            let law = &law;
            threads.spawn(move || {
                for n in 0..500 {
                    let input_bytes = thread * 1_000 + n;
                    let verdict = law.decide(&Question { input_bytes, ..question() }).expect("decided");
                    assert_eq!(matches!(verdict, Verdict::Allowed(_)), input_bytes % 2 == 0);
                }
            });
        }
    });
}
