//! The program: its tables, its last line, its exit code.

use std::process::{Command, Output};

fn prove(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate-prove"))
        .args(arguments)
        .env("SHORT", "1")
        .output()
        .expect("the program was built with its tests")
}

#[test]
fn it_ends_with_one_line_of_json() {
    let output = prove(&["--only", "lease by time", "--paths"]);
    let text = String::from_utf8(output.stdout).expect("it prints text");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("reclaims a lease by time alone"), "{text}");
    assert!(text.contains("AuthorityClock"), "the way to the violation is printed: {text}");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!((&last["must_fail_caught"], &last["must_fail_total"]), (&1.into(), &1.into()));
    assert_eq!((&last["lease_model_states"], &last["lease_violations"]), (&0.into(), &0.into()));
    assert!(last.get("guard_proved").is_none(), "that is for the proof of the guard to say");
}

#[test]
fn a_name_that_nothing_has_is_an_error() {
    assert!(!prove(&["--only", "no such thing"]).status.success());
}
