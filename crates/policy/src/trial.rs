//! A bundle's own tests: every rule `test_*` of its modules `*_test.rego`, as `opa test` runs them, and which lines of its
//! policy they reached.

use std::collections::BTreeSet;

use regorus::Value;

use crate::bundle::Bundle;
use crate::law::{LawError, engine, syntax};
use crate::reads::{name_of, package_of, wrong_calls};

/// What came of a bundle's tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// In the order of their names.
    pub tests: Vec<Test>,
    pub coverage: Vec<Coverage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Such as `data.tollgate.admission_test.test_small_is_allowed`.
    pub name: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// It is false, or undefined.
    Failed,
    Error(String),
}

/// Lines of a module that rules stand on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    pub path: String,
    pub covered: usize,
    pub missed: Vec<u32>,
}

// === impl Trial ===

impl Trial {
    /// Runs all tests of a bundle. An error when it does not compile.
    pub fn of(bundle: &Bundle) -> Result<Self, LawError> {
        let modules = [bundle.modules.as_slice(), bundle.tests.as_slice()].concat();
        let mut engine = engine(&modules, &bundle.data)?;
        let wrong = wrong_calls(engine.get_modules());
        if !wrong.is_empty() {
            return Err(LawError::Wrong(wrong));
        }
        engine.set_enable_coverage(true);
        let mut names = BTreeSet::new();
        for module in engine.get_modules().iter() {
            let package = package_of(module).join(".");
            let rules = module.policy.iter().filter_map(|rule| name_of(rule));
            names.extend(rules.filter(|rule| rule.starts_with("test_")).map(|rule| format!("data.{package}.{rule}")));
        }
        let tests = names.into_iter().map(|name| {
            let outcome = match engine.eval_rule(name.clone()) {
                Ok(Value::Bool(true)) => Outcome::Passed,
                Ok(_) => Outcome::Failed,
                Err(error) => Outcome::Error(error.to_string().trim().to_owned()),
            };
            Test { name, outcome }
        });
        let tests = tests.collect();
        let report = engine.get_coverage_report().map_err(syntax)?;
        let is_policy = |path: &str| bundle.modules.iter().any(|module| module.path == path);
        let coverage = report.files.into_iter().filter(|file| is_policy(&file.path));
        let coverage = coverage.map(|file| Coverage {
            path: file.path,
            covered: file.covered.len(),
            missed: file.not_covered.into_iter().collect(),
        });
        Ok(Self { tests, coverage: coverage.collect() })
    }

    /// Whether there is a test, and none that did not pass.
    pub fn passed(&self) -> bool {
        !self.tests.is_empty() && self.tests.iter().all(|test| test.outcome == Outcome::Passed)
    }

    /// Lines reached, of all lines that rules stand on.
    pub fn coverage_percent(&self) -> f64 {
        let covered: usize = self.coverage.iter().map(|file| file.covered).sum();
        let all = covered + self.coverage.iter().map(|file| file.missed.len()).sum::<usize>();
        if all == 0 { 100.0 } else { covered as f64 * 100.0 / all as f64 }
    }
}
