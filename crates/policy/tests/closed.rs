//! Whatever the fast engine reads in its own way, nobody gets in by it: each of these is refused when it is loaded, or not
//! decided, or denied as OPA would; never allowed. Found by reading the engine.

use tollgate_policy::{Bundle, Law, Question, Verdict};

use crate::world::{bundle, file, question};

const DATA: &str = r#"{
    "blocked": ["u1"], "regions": ["eu"], "routes": {"a": "open", "b": "shut"}, "limits": [{"max": "10"}, {"max": 1}],
    "contracts": [{"ok": false}], "tickets": [{"id": 1}], "tenants": ["acme", "other"],
    "years": {"2026": "shut"}, "tiers": {"gold": {"plan": "standard"}, "iron": {"plan": "standard"}}
}"#;

#[test]
fn what_the_fast_engine_reads_in_its_own_way_lets_nobody_in() {
    for rules in [
        // A name for what is undefined.
        "allow if { u := input.principal.end_user; not u in data.blocked }",
        // else, after a body that goes through something.
        "allow := true\nok if { some r in data.regions; r == input.request.region } else := false\ndeny contains \"region\" if ok == false",
        // Heads with dots, and packages and data in the place of rules.
        "allow := true\nobligations.max_tokens := {\"limit\": 0}\nobligations.regions := [\"eu\"]",
        "allow := true\nbad.region if input.tenant.id == \"acme\"\ndeny contains k if { some k, _ in bad }",
        // Membership.
        "allow if input.request.route, \"open\" in data.routes",
        "allow if (input.principal.end_user in data.blocked) == false",
        // Errors within a body.
        "allow := true\ndeny contains \"x\" if { some l in data.limits; input.request.input_bytes > l.max * 2 }",
        // Conditions and undefined terms in comprehensions.
        "allow := true\ndeny contains \"x\" if { some c in data.contracts; count([1 | c.ok == true]) == 0 }",
        "allow if count([t.approved_by | some t in data.tickets]) > 0",
        // Builtins by another name.
        "numbers := 1\nallow if count(numbers.range(1, 3)) > 0",
        "bits := 1\nallow if bits.lsh(1, 2) > 0",
        "replace := 1\nallow if replace(\"a\", \"a\", \"b\") == \"b\"",
        // Values that could be two.
        "allow := true\nrisky if input.request.images > 3\nelse := false if input.request.choices == 1\nrisky if input.request.choices == 1\ndeny contains \"no\" if risky",
        "allow if f(1) == 2\nf(1) := 2\nf(1.0) := 3",
        // Somebody else's package.
        "allow if data.tollgate_decision.decision",
        // A package as a whole, in which something is undefined.
        "allow if count(data.lib) > 0",
        "import data.lib\nallow if object.keys(lib) == {\"undefined\"}",
        // Two values for one key of a table.
        "allow := true\na[input.tenant.id] := 1 if input.request.choices > 0\na[input.tenant.id] := 2 if input.request.input_bytes > 0\ndeny contains \"x\" if a.acme == 1",
        // Defaults that are looked up.
        "allow := true\ndefault risky := data.blocked[0]\nrisky := 0 if input.request.stream\ndeny contains \"x\" if risky == \"u1\"",
        "allow := true\ndefault risky := count(data.blocked)\nrisky := 0 if input.request.stream\ndeny contains \"x\" if risky > 0",
        // Too few arguments, and too many.
        "allow := true\ndeny contains \"x\" if startswith(input.request.route)",
        "allow := true\ndeny contains \"x\" if count(data.blocked, 1, 2)",
        "allow := true\ndeny contains \"x\" if f(1, 2, 3)\nf(x) if x > 0",
        // A number as the name of a member.
        "allow := true\ndeny contains \"x\" if data.years[2026] == \"shut\"",
        // Negations of what OPA looks up before it negates.
        "allow if not input.principal.end_user in data.blocked",
        "allow if not \"u1\" in data.nobody",
        "allow if not startswith(input.principal.end_user, \"u\")",
        "allow if not input.request.max_tokens > 100",
        "allow if not upper(input.principal.end_user) == \"U1\"",
        "allow if not [input.principal.end_user] == [\"u1\"]",
        "allow if not data.routes[input.principal.end_user]",
        "allow if not data.routes[input.request.route] in [\"shut\"]",
        "import input.principal\nallow if not principal.end_user in data.blocked",
        "user := input.principal.end_user\nallow if not user in data.blocked",
        "user := u if { u := input.principal.end_user }\nallow if not user in data.blocked",
        "default bounds := {\"a\": 1}\nbounds := {} if input.tenant.id == \"acme\"\nallow if not bounds.a > 1",
        "allow if not f(f(1))\nf(x) := 1 if x > 1",
        "allow if { some t in data.tickets; not t.state in [\"shut\"] }",
        "allow if count([1 | not input.request.max_tokens > 100]) > 0",
    ] {
        let lib = file("lib.rego", "package lib\nundefined if input.tenant.id == \"nobody\"\n");
        let files = [file("a.rego", &format!("package tollgate.admission\n{rules}\n")), lib, file("data.json", DATA)];
        let Ok(law) = Law::compile(&Bundle::from_files(&files).expect("a bundle")) else { continue };
        let said = law.decide(&question());
        assert!(!matches!(said, Ok(Verdict::Allowed(_))), "{rules}: {said:?}");
    }
}

#[test]
fn modules_beside_the_deciding_package_decide_nothing_and_are_told_so() {
    let refused = |more: &str| {
        let allow = file("a.rego", "package tollgate.admission\nallow := true\n");
        let files = [allow, file("b.rego", more), file("data.json", "{}")];
        Law::compile(&Bundle::from_files(&files).expect("a bundle")).expect_err(more).to_string()
    };
    for more in [
        "package tollgate\nadmission.deny contains \"x\"",
        "package tollgate\nadmission := {\"deny\": {\"x\"}}",
        "package tollgate.admission.obligations\nmax_tokens := 5",
    ] {
        let error = refused(more);
        assert!(error.contains("what decides stands in the package") || error.contains("named by one name"), "{error}");
    }
    let data = bundle("allow := true", r#"{"tollgate": {"admission": {"obligations": {"regions": ["eu"]}}}}"#);
    assert!(Law::compile(&data).expect_err("data").to_string().contains("said by rules"));
    let alias = refused("package tollgate.admission\nimport data.x as allow\ndeny contains \"x\" if allow.y");
    assert!(alias.contains("is imported, and a rule"), "{alias}");
    let disguised =
        refused("package tollgate.admission\nimport data.x as sprintf\ndeny contains sprintf(\"%9999d\", [1])");
    assert!(disguised.contains("may not call 'sprintf'"), "{disguised}");
}

#[test]
fn long_chains_and_many_rules_are_refused_before_they_cost_anything() {
    let chain: String = (0..200).map(|n| format!("r{n} if r{}\n", n + 1)).collect();
    let error =
        Law::compile(&bundle(&format!("{chain}r200 := true\nallow if r0"), "{}")).expect_err("a chain").to_string();
    assert!(error.contains("in a row"), "{error}");
    let many: String = (0..1_100).map(|n| format!("r{n} := {n}\n")).collect();
    let error = Law::compile(&bundle(&format!("{many}allow := true"), "{}")).expect_err("many").to_string();
    assert!(error.contains("at most 1000"), "{error}");
}

#[test]
fn products_of_long_texts_are_not_to_be_had() {
    for call in
        ["concat(data.s, [\"a\", \"b\"])", "split(\"a\", data.s)", "trim(\"a\", data.s)", "regex.match(data.s, \"a\")"]
    {
        let error = Law::compile(&bundle(&format!("allow if {call}"), "{\"s\": \"x\"}")).expect_err(call).to_string();
        assert!(error.contains("written out"), "{error}");
    }
}

#[test]
fn what_both_engines_read_alike_is_decided() {
    let rules = "allow if { some r in data.regions; r == input.request.region }\n\
                 deny contains x if { x := sprintf(\"%d images\", [input.request.images]); input.request.images > 1 + 1 }\n\
                 obligations := {\"models\": [m | some m, said in data.routes; said == \"open\"]}";
    let law = Law::compile(&bundle(rules, DATA)).expect("a law");
    let asked = |region, images| law.decide(&Question { region: Some(region), images, ..question() }).expect("decided");
    let Verdict::Allowed(obligations) = asked("eu", 2) else { panic!("it is allowed") };
    assert_eq!(obligations.models.map(|models| models.into_iter().collect::<Vec<_>>()), Some(vec!["a".to_owned()]));
    assert_eq!(asked("us", 2), Verdict::Denied(vec![]));
    assert_eq!(asked("eu", 3), Verdict::Denied(vec!["3 images".to_owned()]));
}

#[test]
fn what_is_always_there_or_is_negated_by_its_name_alone_may_be_negated() {
    for rules in [
        "allow if not input.principal.end_user",
        "allow if not input.principal.end_user == \"u1\"",
        "blocked if input.principal.end_user in data.blocked\nallow if not blocked",
        "allow if not object.get(input.principal, \"end_user\", \"\") in data.blocked",
        "allow if not input.tenant.id in data.blocked",
        "import data.limits\nallow if not input.tenant.id in limits",
        "lists := data.tiers\nallow if not input.tenant.id in lists.gold",
        "lists := {\"mine\": [input.request.route]}\nallow if not input.tenant.id in lists.mine",
        "default list := []\nlist := [1] if input.request.stream\nallow if not input.tenant.id in list",
        "users contains input.principal.end_user\nallow if not input.tenant.id in users",
        "allow if not upper(input.tenant.id) == \"OTHER\"",
        "allow if { t := input.tenant.id; not t in data.blocked }",
        "allow if not data.routes[input.tenant.id]",
        "allow if not count([1 | input.request.max_tokens > 1]) > 0",
    ] {
        let law = Law::compile(&bundle(rules, DATA)).unwrap_or_else(|error| panic!("{error} in {rules}"));
        assert!(matches!(law.decide(&question()), Ok(Verdict::Allowed(_))), "{rules}");
    }
}

#[test]
fn rules_that_name_others_twice_are_looked_through_once() {
    let rules: String = (0..60).map(|n| format!("a{n} := [a{0}, a{0}]\n", n + 1)).collect();
    let law = Law::compile(&bundle(&format!("{rules}a60 := [1]\nallow if not 1 in a0"), "{}"));
    assert!(law.is_ok(), "{law:?}");
}

#[test]
fn tests_of_a_bundle_may_not_call_what_its_rules_may_not() {
    let mut bundle = bundle("allow := true", "{}");
    let test = |text: &str| tollgate_policy::bundle::Module { path: "x_test.rego".into(), text: text.into() };
    bundle.tests = vec![test("package x_test\ntest_x if count(numbers.range(1, 1000000000000)) > 0")];
    let error = tollgate_policy::trial::Trial::of(&bundle).expect_err("a bomb").to_string();
    assert!(error.contains("may not call 'numbers.range'"), "{error}");
    bundle.tests =
        vec![test("package x_test\ntest_x if data.tollgate.admission.allow with input as {\"anything\": 1}")];
    assert!(tollgate_policy::trial::Trial::of(&bundle).expect("it compiles").passed());
}
