//! The guard, case by case against a table of its own, and under any names.

mod table;

use proptest::prelude::*;
use tollgate_guard::{Act, Guard, TEXT};

use crate::table::{differences, everybody, everything, tenant};

#[test]
fn every_role_act_and_thing_is_as_the_table_says() {
    let differences = differences(&Guard::shipped());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn each_rule_of_the_guard_is_missed_when_it_is_gone() {
    // A guard is its rules, each with an id; without any one of them it is another guard, and the table says so.
    let rules: Vec<&str> = TEXT.split("@id(").skip(1).collect();
    assert!(rules.len() >= 12, "the rules were found: {}", rules.len());
    for missing in 0..rules.len() {
        let rest: String =
            rules.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, rule)| format!("@id({rule}")).collect();
        // What stands between the rules are comments and headings; a cut one is a comment still.
        let guard = Guard::new(&rest).expect("still a guard");
        let name = rules[missing].split('"').nth(1).unwrap_or_default();
        assert!(!differences(&guard).is_empty(), "nobody would miss {name}");
    }
}

#[test]
fn a_guard_that_treats_one_tenant_in_its_own_way_is_refused() {
    for wrong in [
        r#"permit (principal, action, resource) when { principal has tenant && principal.tenant == Tenant::"acme" };"#,
        r#"permit (principal == Key::"it", action, resource);"#,
        "permit (principal, action, resource) when { principal.tenant == resource.tenant };",
        "permit (principal, action, resource) when { principal.nothing };",
        "permit (principal, action, resource)",
    ] {
        assert!(Guard::new(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// What is remembered of a shape is what Cedar says of the names themselves.
    #[test]
    fn a_decision_depends_on_whether_tenants_are_the_same_not_on_who_they_are(
        names in prop::array::uniform2("[a-z0-9][a-z0-9_.-]{0,12}"),
        same in any::<bool>(),
        who in 0..28usize,
        act in 0..Act::ALL.len(),
        thing in 0..6usize,
    ) {
        thread_local! {
            static GUARD: Guard = Guard::shipped();
        }
        let own = tenant(&names[0]);
        let other = tenant(&names[usize::from(!same)]);
        let (who, act, whose) = (everybody(&own)[who], Act::ALL[act], everything(&own, &other)[thing]);
        let (remembered, asked) = GUARD.with(|guard| (guard.allows(who, act, whose), guard.decide(who, act, whose)));
        prop_assert_eq!(remembered, asked);
    }
}
