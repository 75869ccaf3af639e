//! A `llm-policy.yaml` as it is in the field, and what comes of it.

use tollgate_policy::import::{Refused, llm_policy};
use tollgate_policy::mutate::{self, mutants};
use tollgate_policy::trial::{Outcome, Trial};
use tollgate_policy::{Bundle, Law};

const FILE: &str = r#"
version: 1
defaultTenant: acme
tenants:
  acme:
    monthlyCost: { soft: 50, hard: 100.50 }
    maxRequestsPerMinute: 120
    promptLimit: 12000
    abuse: { failureThreshold: 4, windowSeconds: 300, suspiciousPatterns: ["ignore previous"] }
    tasks:
      rag:
        maxTokens: 8000
        modelClasses:
          fast: { maxRequestsPerMinute: 60, allowedModels: [{ provider: openai, model: gpt-4o-mini }] }
          premium: { maxTokens: 9000, allowedModels: [{ provider: openai, model: gpt-4o }, { model: gpt-4o-mini }] }
      agent:
        maxTokens: 4000
        modelClasses:
          balanced: { allowedModels: [{ provider: anthropic, model: claude-sonnet }] }
  plain:
    tasks:
      rag: { modelClasses: { fast: { allowedModels: [{ provider: openai, model: small }] } } }
    colour: blue
"#;

#[test]
fn each_tenant_gets_a_bundle_that_passes_its_own_tests_and_is_held_by_them() {
    let imported = llm_policy(FILE).expect("a policy file");
    let [acme, plain] = imported.tenants.as_slice() else { panic!("two tenants") };
    assert_eq!(acme.models, ["claude-sonnet", "gpt-4o", "gpt-4o-mini"]);
    assert_eq!((acme.max_tokens, acme.input_bytes_max, acme.requests_per_minute), (Some(9000), Some(12000), Some(120)));
    assert_eq!((acme.monthly_soft_usd.as_deref(), acme.monthly_hard_usd.as_deref()), (Some("50"), Some("100.5")));
    assert_eq!((plain.max_tokens, plain.input_bytes_max, plain.monthly_hard_usd.as_deref()), (None, None, None));
    for tenant in [acme, plain] {
        let bundle = Bundle::from_files(&tenant.files).expect("a bundle");
        let law = Law::compile(&bundle).expect("it compiles");
        assert_eq!(law.revision, "llm-policy-1");
        let trial = Trial::of(&bundle).expect("it runs");
        assert!(trial.tests.len() >= 3 && trial.tests.iter().all(|test| test.outcome == Outcome::Passed), "{trial:?}");
        for mutant in mutants(&bundle).expect("it can be broken") {
            assert_ne!(mutant.outcome, mutate::Outcome::Survived, "its tests do not notice {mutant:?}");
        }
    }
}

#[test]
fn what_has_no_counterpart_is_told() {
    let left_out = llm_policy(FILE).expect("a policy file").left_out.join("\n");
    for what in ["defaultTenant 'acme'", "abuse", "class 'fast', maxRequestsPerMinute", "tasks: a request", "'colour'"]
    {
        assert!(left_out.contains(what), "{what} is not told:\n{left_out}");
    }
}

#[test]
fn a_file_that_makes_no_sense_is_refused_with_a_reason() {
    let refused = |text: &str| llm_policy(text).expect_err(text).to_string();
    assert!(refused("tenants: {a: {monthlyCost: {soft: 2, hard: 1}, tasks: {t: {modelClasses: {c: {allowedModels: [{model: m}]}}}}}}").contains("soft"));
    assert!(refused("tenants: {a: {tasks: {}}}").contains("no task"));
    assert!(refused("tenants: {a: {tasks: {t: {modelClasses: {c: {allowedModels: []}}}}}}").contains("no model"));
    for wrong in ["", "tenants", "tenants: [", "tenants: {a: 1}", "{}", "a: &a [*a, *a]", "- 1"] {
        assert!(refused(wrong).contains("not a policy file"), "{wrong}: {}", refused(wrong));
    }
    assert_eq!(llm_policy(&"#".repeat(2 << 20)), Err(Refused::TooLarge));
    // Each line doubles the one before it: without a bound this is a gigabyte.
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..10 {
        let before = format!("*a{}", n - 1);
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(", ")));
    }
    assert!(refused(&laughs).contains("not a policy file"));
}
