//! Reads what coverage needs: lcov's `SF` and `DA` records, the hunks of a diff, and where a file's own tests lie.
//!
//! A small reader of our own and not `diff-cover`: that would bring Python, pip and five packages to every machine that runs the
//! tests, for what a hundred lines do; and it cannot leave out the inline tests, which would count as covered code.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// For each file: line -> how often it ran.
pub type Coverage = BTreeMap<String, BTreeMap<usize, u64>>;

/// For each file: the lines a change wrote.
pub type Changes = BTreeMap<String, BTreeSet<usize>>;

/// Reads an lcov report. Files outside of `root` are left out, names are relative to it.
pub fn read_report(lcov: &str, root: &str) -> Coverage {
    let mut coverage = Coverage::new();
    let mut file: Option<String> = None;
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = path.strip_prefix(root).map(|path| path.trim_start_matches('/').to_owned());
        } else if let (Some(file), Some(record)) = (&file, line.strip_prefix("DA:")) {
            let mut fields = record.split(',').map(str::parse::<u64>);
            if let (Some(Ok(number)), Some(Ok(count))) = (fields.next(), fields.next()) {
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                *coverage.entry(file.clone()).or_default().entry(number).or_default() += count;
            }
        }
    }
    coverage
}

/// Reads the output of `git diff --unified=0`.
pub fn read_diff(diff: &str) -> Changes {
    let mut changes = Changes::new();
    let mut file: Option<&str> = None;
    for line in diff.lines() {
        if let Some(path) = line.strip_prefix("+++ ") {
            file = path.strip_prefix("b/");
        } else if let (Some(file), Some(hunk)) = (file, line.strip_prefix("@@ ")) {
            changes.entry(file.to_owned()).or_default().extend(added_lines(hunk));
        }
    }
    changes
}

/// `-12,0 +13,2 @@ fn ...` -> 13..=14
fn added_lines(hunk: &str) -> std::ops::Range<usize> {
    let added = hunk.split_whitespace().find_map(|part| part.strip_prefix('+')).unwrap_or("0,0");
    let (start, count) = added.split_once(',').unwrap_or((added, "1"));
    let start = start.parse().unwrap_or(0);
    start..start + count.parse::<usize>().unwrap_or(0)
}

/// The lines of the inline `#[cfg(test)] mod`s of a formatted source file. A test that runs covers itself: that says nothing.
pub fn test_lines(source: &str) -> Vec<RangeInclusive<usize>> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    let mut number = 0;
    while number < lines.len() {
        if lines[number] == "#[cfg(test)]" && lines.get(number + 1).is_some_and(|line| opens_module(line)) {
            let length = lines[number..].iter().position(|line| *line == "}").unwrap_or(lines.len() - number);
            found.push(number + 1..=number + 1 + length);
            number += length;
        }
        number += 1;
    }
    found
}

fn opens_module(line: &str) -> bool {
    line.starts_with("mod ") && line.ends_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_by_file_and_line() {
        let lcov = "SF:/r/a.rs\nFN:1,f\nDA:1,5\nDA:2,0\nend_of_record\nSF:/else/b.rs\nDA:1,1\nend_of_record\n";
        let expected = Coverage::from([("a.rs".to_owned(), BTreeMap::from([(1, 5), (2, 0)]))]);
        assert_eq!(read_report(lcov, "/r"), expected);
    }

    #[test]
    fn counts_of_one_line_in_several_records_add_up() {
        let coverage = read_report("SF:/r/a.rs\nDA:1,0\nSF:/r/a.rs\nDA:1,2\n", "/r");
        assert_eq!(coverage["a.rs"][&1], 2);
    }

    #[test]
    fn a_diff_is_read_by_file_and_line() {
        let diff = "\
diff --git a/a.rs b/a.rs
--- a/a.rs
+++ b/a.rs
@@ -1,0 +2,2 @@ fn a()
+x
+y
@@ -9 +11 @@
-x
+y
@@ -20,3 +22,0 @@
-x
diff --git a/gone.rs b/gone.rs
+++ /dev/null
@@ -1,3 +0,0 @@
";
        assert_eq!(read_diff(diff), Changes::from([("a.rs".to_owned(), BTreeSet::from([2, 3, 11]))]));
    }

    #[test]
    fn inline_tests_are_found_to_their_closing_bracket() {
        let source = "fn a() {\n}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n\nfn c() {}\n";
        assert_eq!(test_lines(source), [4..=7]);
        assert_eq!(test_lines("#[cfg(test)]\nmod tests;\nfn a() {}\n"), []);
        assert_eq!(test_lines("#[cfg(test)]\nfn a() {\n}\n"), []);
    }
}
