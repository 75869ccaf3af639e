//! Runs everything and tells what came of it: progress while it runs, tables for people, one line of JSON for machines.
//! What is run is `trials.rs`'s.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::check::{Checked, Violation};
use crate::trials::{MustFail, Protocol, Trial};

/// All that was checked.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub trials: Vec<(Trial, Checked)>,
    /// The broken variants, each with the shortest way to its violation, if it was caught.
    pub must_fail: Vec<(MustFail, Option<Vec<String>>)>,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub lease_model_states: usize,
    pub lease_violations: usize,
    pub reserve_model_states: usize,
    pub reserve_violations: usize,
    pub must_fail_caught: usize,
    pub must_fail_total: usize,
    /// Spent on searching the two models.
    pub seconds: u64,
}

/// Runs the trials and all variants that must fail. `tell` gets lines of progress.
pub fn run(
    trials: Vec<Trial>,
    must_fail: Vec<MustFail>,
    threads: usize,
    tell: &mut (dyn FnMut(&str) + Send),
) -> Report {
    let mut report = Report::default();
    for trial in trials {
        tell(&format!("{}: {}", trial.protocol().name(), trial.name));
        let checked = trial.run(threads, &mut |states, depth| tell(&format!("  {states} states, {depth} steps deep")));
        report.trials.push((trial, checked));
    }
    for variant in must_fail {
        tell(&format!("{}, must fail: {}", variant.protocol().name(), variant.name));
        let path = variant.run();
        report.must_fail.push((variant, path));
    }
    report
}

// === impl Report ===

impl Report {
    pub fn line(&self) -> Line {
        Line {
            lease_model_states: self.states(Protocol::Lease),
            lease_violations: self.violations(Protocol::Lease).count(),
            reserve_model_states: self.states(Protocol::Reserve),
            reserve_violations: self.violations(Protocol::Reserve).count(),
            must_fail_caught: self.must_fail.iter().filter(|(_, path)| path.is_some()).count(),
            must_fail_total: self.must_fail.len(),
            seconds: self.trials.iter().map(|(_, checked)| checked.took).sum::<Duration>().as_secs(),
        }
    }

    pub fn is_fine(&self) -> bool {
        let line = self.line();
        line.lease_violations + line.reserve_violations == 0 && line.must_fail_caught == line.must_fail_total
    }

    fn of(&self, protocol: Protocol) -> impl Iterator<Item = &(Trial, Checked)> {
        self.trials.iter().filter(move |(trial, _)| trial.protocol() == protocol)
    }

    fn states(&self, protocol: Protocol) -> usize {
        self.of(protocol).map(|(_, checked)| checked.states).sum()
    }

    fn violations(&self, protocol: Protocol) -> impl Iterator<Item = (&Trial, &Violation)> {
        self.of(protocol).flat_map(|(trial, checked)| checked.violations.iter().map(move |found| (trial, found)))
    }

    /// For people: what was searched, what was caught, and how each violation comes about.
    pub fn tables(&self) -> String {
        let searched = self.trials.iter().map(|(trial, checked)| {
            let verdict = if checked.violations.is_empty() { "holds".to_owned() } else { "VIOLATED".to_owned() };
            let (states, depth) = (checked.states.to_string(), checked.depth.to_string());
            vec![trial.protocol().name().to_owned(), trial.name.to_owned(), states, depth, verdict]
        });
        let caught = self.must_fail.iter().map(|(variant, path)| {
            let steps = path.as_ref().map_or("NOT CAUGHT".to_owned(), |path| path.len().to_string());
            vec![variant.protocol().name().to_owned(), variant.name.to_owned(), variant.property.to_owned(), steps]
        });
        let mut text = table(&["model", "bounds", "states", "depth", "verdict"], searched);
        text.push('\n');
        text.push_str(&table(&["model", "must fail", "and violates", "steps"], caught));
        for (trial, found) in self.violations(Protocol::Reserve).chain(self.violations(Protocol::Lease)) {
            text.push_str(&violation(trial, found));
        }
        text
    }

    /// How each broken variant fails.
    pub fn paths(&self) -> String {
        let mut text = String::new();
        for (variant, path) in &self.must_fail {
            let Some(path) = path else { continue };
            let title = format!("{}: {}", variant.name, variant.property);
            text.push_str(&steps(&title, path));
        }
        text
    }
}

fn violation(trial: &Trial, found: &Violation) -> String {
    let title = format!("{}, {}: VIOLATED: {}", trial.protocol().name(), trial.name, found.property);
    match &found.path {
        Some(path) => steps(&title, path),
        None => steps(&format!("{title} (no state within the bounds does it)"), &[]),
    }
}

fn steps(title: &str, path: &[String]) -> String {
    let mut text = format!("\n{title}\n");
    for (at, step) in path.iter().enumerate() {
        writeln!(text, "{:4}. {step}", at + 1).expect("a string takes what is written to it");
    }
    text
}

/// Words to the left, figures to the right.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(head.to_vec());
    for (at, name) in head.iter().enumerate() {
        if matches!(*name, "states" | "depth" | "steps")
            && let Some(column) = table.column_mut(at)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    table.to_string()
}

// === impl Protocol ===

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Lease => "lease",
        }
    }
}

// === impl Line ===

impl Line {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and null are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant that must fail, searched as though nobody knew.
    fn unknown_flaw(name: &str) -> Report {
        let variant = MustFail::all().into_iter().find(|variant| variant.name == name).expect("there is one");
        run(vec![variant.into_trial()], Vec::new(), 1, &mut |_| ())
    }

    #[test]
    fn a_violation_is_counted_and_told_step_by_step() {
        let report = unknown_flaw("releases the hold when a stream breaks");
        assert!(!report.is_fine());
        assert!(report.line().reserve_violations > 0);
        assert_eq!(report.line().lease_violations, 0);
        let text = report.tables();
        assert!(text.contains("VIOLATED: what providers billed is in the books"), "{text}");
        assert!(text.contains("   5. Settle { run: 0 }"), "{text}");
    }

    #[test]
    fn what_cannot_be_reached_is_a_violation_too() {
        let report = unknown_flaw("keeps one scope when another refuses");
        let text = report.tables();
        assert!(text.contains("the whole cap can be spent (no state within the bounds does it)"), "{text}");
    }

    #[test]
    fn a_variant_that_is_not_caught_is_not_fine() {
        let variant = MustFail::all().remove(0);
        let report = Report { trials: Vec::new(), must_fail: vec![(variant, None)] };
        assert!(!report.is_fine());
        assert!(report.tables().contains("NOT CAUGHT"));
        assert_eq!(report.paths(), "");
        let line = report.line();
        assert_eq!((line.must_fail_caught, line.must_fail_total), (0, 1));
    }
}
