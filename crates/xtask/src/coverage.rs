//! Runs every test once, instrumented, and holds what ran to two floors: the whole workspace, and the lines a change wrote.
//!
//! Plain `-C instrument-coverage` (by `scripts/rustc-coverage`, our crates only) and LLVM's own tools: one program fewer to build
//! on a fresh machine than with cargo-llvm-cov, and the dependencies are shared with ordinary builds. Integration tests
//! start the real `tollgate`, instrumented too; a child killed with -9 writes no profile, and is not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lcov::{self, Changes, Coverage};
use crate::tree;

/// Of the whole workspace, and of the lines that a change wrote, each by itself.
const PERCENT_MIN: f64 = 80.0;

/// Files that do not count, each with its reason. Tests themselves never count (see [`counts`]).
const EXCLUDED: &[(&str, &str)] = &[];

/// Beside the profiles: the programs that wrote them.
const PROGRAMS: &str = "programs.txt";

/// A clone of `main` has no branch to compare with: the change is then what was committed in one sitting, that is within
/// this time before its last commit.
const SITTING_SECONDS: i64 = 4 * 3_600;

/// What `git diff` takes for "before the first commit".
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Tally {
    lines: usize,
    covered: usize,
}

/// Runs the tests, by nextest where it is installed.
pub fn run_tests(args: &[String]) -> Result<()> {
    let profiles = profile_dir();
    let _ = fs::remove_dir_all(&profiles);
    fs::create_dir_all(&profiles).with_context(|| format!("cannot make {}", profiles.display()))?;
    let has_nextest = tree::cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let runner: &[&str] = if has_nextest { &["nextest", "run"] } else { &["test"] };
    let status = instrumented(runner).args(args).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("tests failed");
    }
    fs::write(profiles.with_file_name(PROGRAMS), programs()?.join("\n")).context("cannot note what ran")
}

/// Merges what the tests left, writes `lcov.info` beside the profiles, prints a table and judges.
pub fn run(base: Option<&str>) -> Result<()> {
    let lcov_text = export()?;
    let root = tree::root();
    let mut coverage = lcov::read_report(&lcov_text, &root.to_string_lossy());
    coverage.retain(|file, _| counts(file));
    for (file, lines) in &mut coverage {
        let source = fs::read_to_string(root.join(file)).unwrap_or_default();
        let tests = lcov::test_lines(&source);
        lines.retain(|line, _| !tests.iter().any(|range| range.contains(line)));
    }

    let base = match base {
        Some(base) => base.to_owned(),
        None => base_of_change()?,
    };
    let whole = tally(&coverage);
    let changed = tally(&only_changed(&coverage, &changes_since(&base)?));
    print_table(&coverage, whole, changed, &base);
    judge(whole, changed)
}

fn judge(whole: Tally, changed: Tally) -> Result<()> {
    if whole.lines > 0 && whole.covered == 0 {
        bail!(
            "nothing was covered: the programs were built anew after the tests ran; `cargo xtask test` runs them again"
        );
    }
    if whole.percent() < PERCENT_MIN {
        bail!("{:.2} % of the workspace's lines are covered, at least {PERCENT_MIN} % must be", whole.percent());
    }
    if changed.percent() < PERCENT_MIN {
        bail!("{:.2} % of the changed lines are covered, at least {PERCENT_MIN} % must be", changed.percent());
    }
    Ok(())
}

// === what ran ===

fn profile_dir() -> PathBuf {
    tree::target_dir().join("coverage/profraw")
}

fn instrumented(args: &[&str]) -> std::process::Command {
    let mut command = tree::cargo();
    command
        .args(args)
        .arg("--workspace")
        .env("RUSTC_WORKSPACE_WRAPPER", tree::root().join("scripts/rustc-coverage"))
        .env("LLVM_PROFILE_FILE", profile_dir().join("%m-%p.profraw"));
    command
}

/// The lcov report of all profiles over all instrumented programs.
fn export() -> Result<String> {
    let profiles = profile_dir();
    let merged = profiles.with_file_name("merged.profdata");
    let list = profiles.with_file_name("profiles.txt");
    let names: Vec<String> = fs::read_dir(&profiles)
        .with_context(|| format!("no profiles in {}: `cargo xtask test` comes first", profiles.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().to_string_lossy().into_owned()))
        .collect();
    if names.is_empty() {
        bail!("{} is empty: the tests left no profile", profiles.display());
    }
    fs::write(&list, names.join("\n"))?;
    // A killed child may have left half a profile: only when all are broken is something wrong.
    tree::output(
        tree::program(llvm_tool("profdata")?)
            .args(["merge", "-sparse", "-failure-mode=all", "-o"])
            .arg(&merged)
            .arg("-f")
            .arg(&list),
    )?;

    let mut command = tree::program(llvm_tool("cov")?);
    command.args(["export", "-format=lcov", "-instr-profile"]).arg(&merged);
    command.arg("-ignore-filename-regex=/\\.cargo/|/rustc/|/build/");
    let programs = fs::read_to_string(profiles.with_file_name(PROGRAMS)).context("`cargo xtask test` comes first")?;
    for program in programs.lines() {
        command.arg("-object").arg(program);
    }
    let report = tree::output(&mut command)?;
    fs::write(profiles.with_file_name("lcov.info"), &report)?;
    Ok(report)
}

/// Every test binary and every binary that tests start. Asked right after the tests ran, in the same environment, this builds
/// nothing; later, another environment might build them anew, and profiles fit only the programs that wrote them.
fn programs() -> Result<Vec<String>> {
    let messages = tree::output(
        instrumented(&["test", "--no-run", "--quiet"]).args(["--message-format", "json-render-diagnostics"]),
    )?;
    let programs: Vec<String> = executables(&messages);
    if programs.is_empty() {
        bail!("cargo named no test binary");
    }
    Ok(programs)
}

fn executables(messages: &str) -> Vec<String> {
    let found: BTreeSet<String> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(str::to_owned))
        .collect();
    found.into_iter().collect()
}

/// `llvm-cov` or `llvm-profdata` of the compiler's own LLVM: named by the environment, of rustup's component `llvm-tools`,
/// or of Debian's package.
fn llvm_tool(tool: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(format!("LLVM_{}", tool.to_uppercase())) {
        return Ok(path.into());
    }
    let version = tree::output(tree::program("rustc").arg("-vV"))?;
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let sysroot = tree::output(tree::program("rustc").args(["--print", "sysroot"]))?;
    let of_rustup =
        Path::new(sysroot.trim()).join("lib/rustlib").join(field("host:")).join("bin").join(format!("llvm-{tool}"));
    let major = field("LLVM version:").split('.').next().unwrap_or_default();
    let of_debian = PathBuf::from(format!("/usr/bin/llvm-{tool}-{major}"));
    [of_rustup, of_debian]
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("no llvm-{tool}: install Debian's llvm-{major} or rustup's component llvm-tools"))
}

// === what counts ===

/// Tests do not count: they would cover themselves.
fn counts(file: &str) -> bool {
    let is_test = file.contains("/tests/") || file.ends_with("/tests.rs") || file.contains("/benches/");
    file.ends_with(".rs") && !is_test && !EXCLUDED.iter().any(|(prefix, _)| file.starts_with(prefix))
}

/// Where the change began: the merge base with `origin/main`; in a clone of `main` itself, the start of its last sitting.
fn base_of_change() -> Result<String> {
    let Ok(head) = tree::git(&["rev-parse", "HEAD"]) else { return Ok(EMPTY_TREE.to_owned()) };
    if let Ok(base) = tree::git(&["merge-base", "origin/main", "HEAD"])
        && base != head
    {
        return Ok(base.trim().to_owned());
    }
    let last: i64 = tree::git(&["log", "-1", "--format=%ct"])?.trim().parse().context("a commit without a date")?;
    let before = format!("--before={}", last - SITTING_SECONDS);
    let base = tree::git(&["rev-list", "-1", "--first-parent", &before, "HEAD"])?;
    Ok(if base.trim().is_empty() { EMPTY_TREE.to_owned() } else { base.trim().to_owned() })
}

/// The lines written since `base`, committed or not.
fn changes_since(base: &str) -> Result<Changes> {
    let mut changes =
        lcov::read_diff(&tree::git(&["diff", "--unified=0", "--no-color", "--no-ext-diff", base, "--", "*.rs"])?);
    let untracked = tree::git(&["ls-files", "-z", "--others", "--exclude-standard", "--", "*.rs"])?;
    for file in untracked.split('\0').filter(|file| !file.is_empty()) {
        let lines = fs::read_to_string(tree::root().join(file)).unwrap_or_default().lines().count();
        changes.entry(file.to_owned()).or_default().extend(1..=lines);
    }
    Ok(changes)
}

fn only_changed(coverage: &Coverage, changes: &Changes) -> Coverage {
    coverage
        .iter()
        .filter_map(|(file, lines)| {
            let changed = changes.get(file)?;
            let lines = lines.iter().filter(|(line, _)| changed.contains(line)).map(|(line, count)| (*line, *count));
            Some((file.clone(), lines.collect()))
        })
        .collect()
}

fn tally(coverage: &Coverage) -> Tally {
    coverage.values().map(Tally::of).fold(Tally::default(), Tally::plus)
}

fn by_crate(coverage: &Coverage) -> BTreeMap<String, Tally> {
    let mut crates: BTreeMap<String, Tally> = BTreeMap::new();
    for (file, lines) in coverage {
        let name = file.strip_prefix("crates/").and_then(|rest| rest.split('/').next()).unwrap_or("(others)");
        let tally = crates.entry(name.to_owned()).or_default();
        *tally = tally.plus(Tally::of(lines));
    }
    crates
}

fn print_table(coverage: &Coverage, whole: Tally, changed: Tally, base: &str) {
    println!("{:<16} {:>7} {:>8} {:>8}", "crate", "lines", "covered", "percent");
    let row = |name: &str, tally: Tally| {
        println!("{name:<16} {:>7} {:>8} {:>7.2}%", tally.lines, tally.covered, tally.percent());
    };
    for (name, tally) in by_crate(coverage) {
        row(&name, tally);
    }
    row("workspace", whole);
    row("changed lines", changed);
    let base = if base == EMPTY_TREE { "before the first commit" } else { base };
    println!("changed since {base}; at least {PERCENT_MIN} % each");
    for (prefix, reason) in EXCLUDED {
        println!("not counted: {prefix}: {reason}");
    }
}

// === impl Tally ===

impl Tally {
    fn of(lines: &BTreeMap<usize, u64>) -> Self {
        Self { lines: lines.len(), covered: lines.values().filter(|count| **count > 0).count() }
    }

    fn plus(self, other: Self) -> Self {
        Self { lines: self.lines + other.lines, covered: self.covered + other.covered }
    }

    /// Nothing to cover is covered.
    fn percent(self) -> f64 {
        if self.lines == 0 { 100.0 } else { 100.0 * self.covered as f64 / self.lines as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(file: &str, counts: &[u64]) -> Coverage {
        Coverage::from([(file.to_owned(), (1..).zip(counts.iter().copied()).collect())])
    }

    #[test]
    fn lines_that_ran_are_counted_by_crate() {
        let mut all = coverage("crates/a/src/lib.rs", &[1, 0, 7, 0]);
        all.extend(coverage("crates/b/src/lib.rs", &[1]));
        assert_eq!(tally(&all), Tally { lines: 5, covered: 3 });
        let crates = by_crate(&all);
        assert_eq!(crates["a"], Tally { lines: 4, covered: 2 });
        assert_eq!(crates["b"], Tally { lines: 1, covered: 1 });
    }

    #[test]
    fn a_change_is_judged_by_its_own_lines() {
        let all = coverage("crates/a/src/lib.rs", &[1, 0, 1, 1]);
        let changes = Changes::from([
            ("crates/a/src/lib.rs".to_owned(), BTreeSet::from([2, 3, 9])),
            ("README.md".to_owned(), BTreeSet::from([1])),
        ]);
        assert_eq!(tally(&only_changed(&all, &changes)), Tally { lines: 2, covered: 1 });
    }

    #[test]
    fn below_the_floor_is_refused_whichever_it_is() {
        let (enough, little) = (Tally { lines: 10, covered: 8 }, Tally { lines: 10, covered: 7 });
        assert!(judge(enough, enough).is_ok());
        assert!(judge(enough, Tally::default()).is_ok(), "a change without code is fine");
        let refusal = judge(little, enough).expect_err("70 % is too little").to_string();
        assert_eq!(refusal, "70.00 % of the workspace's lines are covered, at least 80 % must be");
        let refusal = judge(enough, little).expect_err("70 % is too little").to_string();
        assert_eq!(refusal, "70.00 % of the changed lines are covered, at least 80 % must be");
    }

    #[test]
    fn profiles_of_other_programs_are_not_mistaken_for_missing_tests() {
        let nothing = Tally { lines: 10, covered: 0 };
        let refusal = judge(nothing, nothing).expect_err("nothing is too little").to_string();
        assert!(refusal.starts_with("nothing was covered: the programs were built anew"), "{refusal}");
    }

    #[test]
    fn tests_do_not_cover_themselves() {
        assert!(counts("crates/a/src/lib.rs"));
        assert!(!counts("crates/a/tests/it/main.rs"));
        assert!(!counts("crates/a/src/journal/tests.rs"));
    }

    #[test]
    fn cargo_names_the_programs_that_ran() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/b\"}\nnot json\n\
                        {\"executable\":null}\n{\"executable\":\"/t/a\"}\n{\"executable\":\"/t/b\"}\n";
        assert_eq!(executables(messages), ["/t/a", "/t/b"]);
    }
}
