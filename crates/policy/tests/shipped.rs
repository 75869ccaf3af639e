//! The bundles in `policies/`: they load, their tests pass and reach every line.

use std::path::{Path, PathBuf};

use tollgate_policy::trial::Trial;
use tollgate_policy::{Law, archive, mutate};

use crate::folder::folder;

fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let entries = std::fs::read_dir(root).expect("the shipped bundles");
    let mut dirs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

#[test]
fn every_shipped_bundle_passes_its_tests_and_they_reach_every_line() {
    assert!(shipped().len() >= 3);
    for dir in shipped() {
        let bundle = folder(&dir).unwrap_or_else(|error| panic!("{error} in {}", dir.display()));
        Law::compile(&bundle).unwrap_or_else(|error| panic!("{error} in {}", dir.display()));
        let trial = Trial::of(&bundle).expect("it compiles");
        assert!(trial.passed(), "{}: {:#?}", dir.display(), trial.tests);
        assert!(trial.coverage.iter().all(|file| file.missed.is_empty()), "{}: {:?}", dir.display(), trial.coverage);
    }
}

#[test]
fn a_test_that_fails_or_breaks_or_is_missing_is_no_pass() {
    let dir = &shipped()[0];
    let check = |text: &str, words: &str| {
        let mut bundle = folder(dir).expect("a bundle");
        bundle.tests = vec![tollgate_policy::bundle::Module { path: "x_test.rego".into(), text: text.into() }];
        let trial = Trial::of(&bundle).expect("it compiles");
        assert!(!trial.passed() && format!("{:?}", trial.tests).contains(words), "{:?}", trial.tests);
    };
    check("package x_test\ntest_a if 1 == 2", "Failed");
    check("package x_test\ntest_a := \"yes\"", "Failed");
    check("package x_test\ntest_a if true\ntest_a := 3 if true", "Error");
    check("package x_test\nnot_a_test if true", "[]");
}

#[test]
fn a_packed_bundle_is_the_bundle() {
    for dir in shipped() {
        let bundle = folder(&dir).expect("a bundle");
        let files: Vec<_> =
            bundle.modules.iter().map(|module| crate::world::file(&module.path, &module.text)).collect();
        let packed = archive::pack(&files).expect("packed");
        assert_eq!(archive::unpack(&packed).expect("unpacked"), files);
    }
}

#[test]
fn every_mutant_of_the_shipped_bundles_is_killed_by_their_tests() {
    for dir in shipped() {
        let bundle = folder(&dir).expect("a bundle");
        let mutants = mutate::mutants(&bundle).expect("it compiles");
        let alive: Vec<_> = mutants.iter().filter(|mutant| mutant.outcome == mutate::Outcome::Survived).collect();
        let killed = mutants.iter().filter(|mutant| mutant.outcome == mutate::Outcome::Killed).count();
        println!("{}: {killed} of {} mutants killed", dir.display(), mutants.len());
        assert!(killed >= 3 && alive.is_empty(), "{}: {alive:#?}", dir.display());
    }
}

#[test]
fn a_bundle_whose_tests_look_at_little_has_mutants_that_live() {
    let mut bundle = folder(&shipped()[0]).expect("a bundle");
    bundle.tests = vec![tollgate_policy::bundle::Module {
        path: "x_test.rego".into(),
        text: "package x_test\nimport data.tollgate.admission\ntest_it if admission.allow with input as {\"request\": {\"surface\": \"chat\"}}".into(),
    }];
    let mutants = mutate::mutants(&bundle).expect("it compiles");
    let alive = mutants.iter().filter(|mutant| mutant.outcome == mutate::Outcome::Survived).count();
    assert!(alive >= 3, "{mutants:#?}");
}
