//! What holds in both models, and that each promise is violated as soon as a protection of it is missing.

use std::collections::BTreeSet;

use tollgate_prove::trials::{MustFail, Protocol, Size, Trial};

fn short(protocol: Protocol) -> impl Iterator<Item = Trial> {
    Trial::all(Size::Short).into_iter().filter(move |trial| trial.protocol() == protocol)
}

fn check_holds(protocol: Protocol) {
    for trial in short(protocol) {
        let checked = trial.run(2, &mut |_, _| ());
        assert_eq!(checked.violations, [], "{}", trial.name);
        assert!(checked.states > 1000, "{} reaches {} states only", trial.name, checked.states);
    }
}

fn check_must_fail(protocol: Protocol) {
    for variant in MustFail::all().into_iter().filter(|variant| variant.protocol() == protocol) {
        assert!(variant.run().is_some(), "not caught: {}", variant.name);
        assert!(variant.holds_unflawed(), "{}: its bounds violate the property without the flaw too", variant.name);
    }
}

#[test]
fn one_node_keeps_its_promises() {
    check_holds(Protocol::Reserve);
}

#[test]
fn several_nodes_keep_their_promises() {
    check_holds(Protocol::Lease);
}

#[test]
fn one_node_without_a_protection_is_caught() {
    check_must_fail(Protocol::Reserve);
}

#[test]
fn several_nodes_without_a_protection_are_caught() {
    check_must_fail(Protocol::Lease);
}

/// A promise that no variant breaks may be one that cannot be broken: it would say nothing.
#[test]
fn each_promise_is_broken_by_some_variant() {
    for protocol in [Protocol::Reserve, Protocol::Lease] {
        let promised = Trial::all(Size::Full).into_iter().filter(|trial| trial.protocol() == protocol);
        let promised: BTreeSet<_> = promised.flat_map(|trial| trial.always()).collect();
        let broken = MustFail::all().into_iter().filter(|variant| variant.protocol() == protocol);
        let broken: BTreeSet<_> = broken.map(|variant| variant.property).collect();
        assert_eq!(promised, broken);
    }
}

#[test]
fn a_way_to_a_violation_is_the_shortest() {
    let variant = MustFail::all().into_iter().find(|variant| variant.name == "sends before the hold is durable");
    let path = variant.and_then(|variant| variant.run()).expect("it is caught");
    let expected = ["Ask { intent: 0 }", "Send { run: 0 }", "Reply { run: 0, reply: Usage(1) }", "Crash { kept: 0 }"];
    assert_eq!(path, expected);
}

#[test]
fn the_number_of_threads_does_not_change_what_is_reached() {
    for protocol in [Protocol::Reserve, Protocol::Lease] {
        let trial = short(protocol).next().expect("there is a trial of each");
        let [one, three] = [1, 3].map(|threads| trial.run(threads, &mut |_, _| ()).states);
        assert_eq!(one, three, "{}", trial.name);
    }
}
