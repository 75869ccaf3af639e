//! Bundles that mean harm: each is refused when it is loaded, or stopped when it is asked, and the next one decides.

#![expect(clippy::disallowed_methods, reason = "how long it really takes is what is tested")]

use std::time::{Duration, Instant};

use tollgate_policy::{Law, Undecided};

use crate::world::{bundle, compile, law, question};

/// A generous multiple of what a decision may take: this machine is shared.
const SOON: Duration = Duration::from_secs(2);

fn stopped(rules: &str, data: &str) -> String {
    let law = Law::compile(&bundle(rules, data)).unwrap_or_else(|error| panic!("{error} in {rules}"));
    let began = Instant::now();
    let Err(Undecided(why)) = law.decide(&question()) else { panic!("it decided: {rules}") };
    assert!(began.elapsed() < SOON, "{:?}: {why}", began.elapsed());
    why
}

fn numbers(count: usize) -> String {
    serde_json::json!({ "n": (0..count).collect::<Vec<_>>() }).to_string()
}

#[test]
fn an_endless_comprehension_is_stopped() {
    let why = stopped(
        "allow if count([1 | some a in data.n; some b in data.n; some c in data.n; a + b + c > 0]) > 0",
        &numbers(1_000),
    );
    assert!(why.contains("limit"), "{why}");
}

#[test]
fn texts_that_double_and_double_are_stopped() {
    let mut rules = "a0 := \"0123456789abcdef\"\n".to_owned();
    for n in 1..40 {
        rules.push_str(&format!("a{n} := concat(\"\", [a{}, a{}])\n", n - 1, n - 1));
    }
    rules.push_str("allow if count(a39) > 0");
    let why = stopped(&rules, "{}");
    assert!(why.contains("memory"), "{why}");
}

#[test]
fn a_text_of_many_copies_is_stopped() {
    let rules = "a := concat(\"\", [x | some n in data.n; x := \"0123456789abcdef\"])\n\
                 b := concat(\"\", [a | some n in data.n])\n\
                 allow if count(b) > 0";
    stopped(rules, &numbers(3_000));
}

#[test]
fn rules_that_call_themselves_are_refused() {
    for rules in [
        "allow if f(1)\nf(x) if f(x)",
        "allow if f(1)\nf(x) if g(x)\ng(x) if f(x)",
        "allow if b\nb if data.tollgate.admission.c\nc if b",
        "allow if data.tollgate.admission.allow",
        "allow if data.tollgate[x].allow",
        "a[x] := y if { some x in [1]; y := a[x] }\nallow if a[1]",
    ] {
        let error = compile(rules).expect_err(rules).to_string();
        assert!(error.contains("needs itself"), "{rules}: {error}");
    }
}

#[test]
fn the_one_after_a_hostile_question_is_decided() {
    let law = Law::compile(&bundle(
        "allow if input.request.input_bytes == 1\nallow if { input.request.input_bytes == 2; count([1 | some a in data.n; some b in data.n; some c in data.n; a + b > c]) > 0 }",
        &numbers(500),
    ))
    .expect("a law");
    let asked = |input_bytes| law.decide(&tollgate_policy::Question { input_bytes, ..question() });
    for _ in 0..3 {
        assert!(asked(2).is_err());
        assert!(asked(1).is_ok());
        assert!(asked(0).is_ok());
    }
}

#[test]
fn text_that_no_person_writes_does_not_crash_the_parser() {
    for rules in [
        format!("allow if {}1{}", "(".repeat(500), ")".repeat(500)),
        format!("allow if {}1{}", "[".repeat(500), "]".repeat(500)),
        format!("allow if {}1{}", "{".repeat(14), "}".repeat(14)),
        format!("allow if {}1", "[".repeat(40)),
        format!("allow if [{}]", "\n[[[[[[[[[[[1]]]]]]]]]]],".repeat(2_000)),
        format!("allow if {}true", "not ".repeat(200)),
        format!("allow if x{}", "\n.a".repeat(15_000)),
        format!("allow if 1{}", "\n+1".repeat(15_000)),
        format!("allow := {}", "9".repeat(100_000)),
        "allow if \"\u{0}\"".to_owned(),
        "allow if 1e999999999 > 0".to_owned(),
    ] {
        // Refused or compiled: but here, and soon.
        let began = Instant::now();
        if let Ok(law) = compile(&rules) {
            let _ = law.decide(&question());
        }
        assert!(began.elapsed() < 2 * SOON, "{:?} for {}", began.elapsed(), &rules[..40.min(rules.len())]);
    }
    assert!(law("allow := true").decide(&question()).is_ok());
}
