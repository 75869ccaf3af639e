//! Cheap checks of the tree that no compiler makes: sizes, names, headers, dead links, tests that sleep or are ignored.

use std::path::Path;

use anyhow::{Result, bail};

use crate::tree;

/// Longer files hide their subject. The largest in the codebases we learn from and like stay below it.
const LINES_MAX: usize = 1_500;

/// Names that say nothing about what is inside, so that everything ends up there.
const NAMES_BANNED: &[&str] = &["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "misc.rs"];

/// Written by machines, for machines.
const GENERATED: &[&str] = &["Cargo.lock", "package-lock.json", "openapi.json", "policy.schema.json"];

// Cut in two, or this file would be found guilty by itself.
const IGNORED: &str = concat!("#[", "ignore");
const SLEEPING: &str = concat!("sleep", "(");

pub fn run() -> Result<()> {
    let files = tree::files()?;
    let mut wrong = Vec::new();
    for name in &files {
        let Ok(text) = std::fs::read_to_string(tree::root().join(name)) else { continue };
        wrong.extend(faults(name, &text).into_iter().map(|fault| format!("{name}{fault}")));
        if name.ends_with(".md") {
            wrong.extend(dead_links(name, &text, |path| tree::root().join(path).exists()));
        }
    }
    if !wrong.is_empty() {
        bail!("{} things are untidy:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!("tidy: {} files", files.len());
    Ok(())
}

/// What is wrong with one file; each begins with the place in it.
fn faults(name: &str, text: &str) -> Vec<String> {
    let file = Path::new(name).file_name().and_then(|file| file.to_str()).unwrap_or(name);
    if GENERATED.contains(&file) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t']) {
            faults.push(format!(":{number}: ends in white space"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        faults.push(": does not end its last line".to_owned());
    }
    if file.ends_with(".rs") {
        faults.extend(faults_of_rust(name, file, text));
    }
    faults
}

fn faults_of_rust(name: &str, file: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.lines().count() > LINES_MAX {
        faults.push(format!(": is longer than {LINES_MAX} lines: cut it by subject"));
    }
    if NAMES_BANNED.contains(&file) {
        faults.push(": is a name that says nothing".to_owned());
    }
    if !text.starts_with("//!") {
        faults.push(":1: does not begin by saying what it is for (//!)".to_owned());
    }
    let mut in_tests = name.contains("/tests/") || file == "tests.rs";
    for (number, line) in (1..).zip(text.lines()) {
        in_tests |= line.trim_start().starts_with("#[cfg(test)]");
        if line.contains(IGNORED) {
            faults.push(format!(":{number}: an ignored test proves nothing"));
        }
        if in_tests && line.contains(SLEEPING) && !line.trim_start().starts_with("//") {
            faults.push(format!(":{number}: a test waits for the event, not for the clock"));
        }
    }
    faults
}

/// Links of a Markdown file to files that are not there.
fn dead_links(name: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let mut dead = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in link_targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !is_elsewhere && !exists(&folder.join(path)) {
                dead.push(format!("{name}:{number}: links to {path}, which is not there"));
            }
        }
    }
    dead
}

/// What stands in the round brackets of `[text](target "title")`.
fn link_targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter_map(|target| target.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        assert_eq!(faults(name, text), expected, "{name}");
    }

    #[test]
    fn a_tidy_file_has_no_faults() {
        check("crates/a/src/lib.rs", "//! What it is for.\n", &[]);
        check("README.md", "# A\n\ntext\n", &[]);
    }

    #[test]
    fn white_space_and_unfinished_lines_are_found() {
        check(
            "a.md",
            "a \nb\t\nc",
            &[":1: ends in white space", ":2: ends in white space", ": does not end its last line"],
        );
        check("Cargo.lock", "a \n", &[]);
    }

    #[test]
    fn rust_files_say_what_they_are_for_and_have_a_telling_name() {
        check("a/src/x.rs", "fn main() {}\n", &[":1: does not begin by saying what it is for (//!)"]);
        check("a/src/utils.rs", "//! x\n", &[": is a name that says nothing"]);
        let long = format!("//! x\n{}", "\n".repeat(1_500));
        check("a/src/x.rs", &long, &[": is longer than 1500 lines: cut it by subject"]);
    }

    #[test]
    fn tests_neither_sleep_nor_are_ignored() {
        let text =
            format!("//! x\nfn a() {{ {SLEEPING}1) }}\n#[cfg(test)]\nmod tests {{\n  {SLEEPING}1)\n  {IGNORED}]\n}}\n");
        check(
            "a/src/x.rs",
            &text,
            &[":5: a test waits for the event, not for the clock", ":6: an ignored test proves nothing"],
        );
        let text = format!("//! x\n{SLEEPING}1)\n");
        check("a/tests/it/x.rs", &text, &[":2: a test waits for the event, not for the clock"]);
    }

    #[test]
    fn links_to_files_that_are_not_there_are_found() {
        let text = "[a](b.md) [c](d.md#e \"t\") [f](https://x.y/z) [g](#h)\n```\n[i](j.md)\n```\n";
        let dead = dead_links("docs/x.md", text, |path| path == Path::new("docs/b.md"));
        assert_eq!(dead, ["docs/x.md:1: links to d.md, which is not there"]);
    }
}
