//! Conventional commit messages: the history is what a reader of `git blame` has, and what the changelog is written from.

use anyhow::{Result, bail};

use crate::tree;

const TYPES: &[&str] = &["feat", "fix", "perf", "refactor", "docs", "test", "build", "ci", "chore", "style", "revert"];
const HEADER_CHARS_MAX: usize = 100;

/// Types that change what a user sees: the body says why.
const TYPES_WITH_BODY: &[&str] = &["feat", "fix"];

/// Checks `range`, else what is not yet on `origin/main`, else all of the history. A fresh clone has nothing that is not on
/// `origin/main`, and reading it all costs a moment.
pub fn run(range: Option<&str>) -> Result<()> {
    if tree::git(&["rev-parse", "--verify", "--quiet", "HEAD"]).is_err() {
        println!("commits: none yet");
        return Ok(());
    }
    let ahead = "origin/main..HEAD";
    let range = match range {
        Some(range) => range,
        None if tree::git(&["rev-list", "-1", ahead]).is_ok_and(|commit| !commit.trim().is_empty()) => ahead,
        None => "HEAD",
    };
    let log = tree::git(&["log", "--no-merges", "--format=%h%x00%B%x01", range])?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in log.split('\u{1}') {
        let Some((commit, message)) = entry.trim_start().split_once('\0') else { continue };
        count += 1;
        wrong.extend(faults(message).into_iter().map(|fault| format!("{commit} {fault}")));
    }
    if !wrong.is_empty() {
        bail!("{} faults in commit messages of {range}:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!("commits: {count} messages of {range} are conventional");
    Ok(())
}

fn faults(message: &str) -> Vec<String> {
    let mut lines = message.trim_end().lines();
    let header = lines.next().unwrap_or_default();
    let Some((kind, subject)) = header.split_once(": ") else {
        return vec![format!("\"{header}\" is not \"type(scope): subject\"")];
    };
    let kind = kind.strip_suffix('!').unwrap_or(kind);
    let (kind, scope) = match kind.split_once('(') {
        Some((kind, scope)) => (kind, Some(scope)),
        None => (kind, None),
    };

    let mut faults = Vec::new();
    if !TYPES.contains(&kind) {
        faults.push(format!("\"{kind}\" is not a type: one of {}", TYPES.join(", ")));
    }
    if scope.is_some_and(|scope| scope.len() < 2 || scope.find(')') != Some(scope.len() - 1)) {
        faults.push(format!("the scope in \"{header}\" is empty or not closed"));
    }
    if subject.trim().is_empty() || subject.starts_with(' ') {
        faults.push(format!("\"{header}\" has no subject"));
    }
    if header.chars().count() > HEADER_CHARS_MAX {
        faults.push(format!("\"{header}\" is longer than {HEADER_CHARS_MAX} characters"));
    }
    let body: Vec<&str> = lines.collect();
    if body.first().is_some_and(|line| !line.trim().is_empty()) {
        faults.push(format!("the line after \"{header}\" is not empty"));
    }
    if TYPES_WITH_BODY.contains(&kind) && !body.iter().any(|line| is_prose(line)) {
        faults.push(format!("\"{header}\" does not say why: a {kind} has a body"));
    }
    faults
}

/// Neither empty nor a trailer ("Reviewed-by: somebody").
fn is_prose(line: &str) -> bool {
    let is_trailer = line
        .split_once(": ")
        .is_some_and(|(name, _)| name.contains('-') && name.chars().all(|c| c.is_ascii_alphabetic() || c == '-'));
    !line.trim().is_empty() && !is_trailer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &[&str]) {
        assert_eq!(faults(message), expected, "{message:?}");
    }

    #[test]
    fn a_conventional_message_has_no_faults() {
        check("docs: say how to stop it\n", &[]);
        check("feat(ledger): hold money before dispatch\n\nA hold that is not durable is no hold.\n", &[]);
        check("fix!: refuse what has no price\n\nIt was free by accident.\n\nReviewed-by: A\n", &[]);
    }

    #[test]
    fn a_message_without_a_type_is_refused() {
        check("wip", &["\"wip\" is not \"type(scope): subject\""]);
        let types = "feat, fix, perf, refactor, docs, test, build, ci, chore, style, revert";
        check("oops: it again", &[&format!("\"oops\" is not a type: one of {types}")]);
    }

    #[test]
    fn a_feature_says_why() {
        check("feat: streams", &["\"feat: streams\" does not say why: a feat has a body"]);
        check("fix: it\n\nSigned-off-by: A B", &["\"fix: it\" does not say why: a fix has a body"]);
    }

    #[test]
    fn form_is_held() {
        check("docs(): x", &["the scope in \"docs(): x\" is empty or not closed"]);
        check("docs(a: x", &["the scope in \"docs(a: x\" is empty or not closed"]);
        check("docs: x\ny", &["the line after \"docs: x\" is not empty"]);
        check("docs:  x", &["\"docs:  x\" has no subject"]);
        let long = format!("docs: {}", "x".repeat(100));
        check(&long, &[&format!("\"{long}\" is longer than 100 characters")]);
    }
}
