//! Documents that the program writes itself are committed, so that they can be read and reviewed without building it;
//! this holds them to what the program says today.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::tree;

/// `tollgate docs NAME` is the truth of the file beside it.
const DOCUMENTS: &[(&str, &str)] = &[
    ("openapi", "docs/openapi.json"),
    ("configuration", "docs/configuration.md"),
    ("policy", "docs/policy.schema.json"),
];

pub fn run(write: bool) -> Result<()> {
    let tollgate = binary()?;
    let mut stale = Vec::new();
    for (name, path) in DOCUMENTS {
        let mut said = tree::output(tree::program(&tollgate).args(["docs", name]))?;
        if !said.ends_with('\n') {
            said.push('\n');
        }
        let file = tree::root().join(path);
        let committed = fs::read_to_string(&file).unwrap_or_default();
        if write {
            fs::write(&file, said).with_context(|| format!("cannot write {path}"))?;
            println!("fresh: {path} written");
        } else if let Some(difference) = first_difference(&committed, &said) {
            stale.push(format!("{path}: {difference}"));
        } else {
            println!("fresh: {path} says what the program says");
        }
    }
    if !stale.is_empty() {
        bail!("`cargo xtask fresh --write` mends this:\n  {}", stale.join("\n  "));
    }
    Ok(())
}

/// `TOLLGATE_BIN` where somebody has built one already (`make test` has), else a debug build.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TOLLGATE_BIN") {
        return Ok(path.into());
    }
    tree::output(tree::cargo().args(["build", "--package", "tollgate-gateway", "--bin", "tollgate"]))?;
    Ok(tree::target_dir().join("debug/tollgate"))
}

fn first_difference(committed: &str, said: &str) -> Option<String> {
    if committed == said {
        return None;
    }
    let mut said_lines = said.lines();
    let mut committed_lines = committed.lines();
    for number in 1.. {
        match (committed_lines.next(), said_lines.next()) {
            (None, None) => break,
            (old, new) if old == new => {}
            (old, new) => {
                let show = |line: Option<&str>| line.map_or_else(|| "(ends)".to_owned(), str::to_owned);
                return Some(format!("line {number} is {:?}, should be {:?}", show(old), show(new)));
            }
        }
    }
    Some("only line ends differ".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_says_the_same_is_fresh() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
    }

    #[test]
    fn the_first_line_that_differs_is_shown() {
        let found = first_difference("a\nb\n", "a\nc\nd\n").expect("they differ");
        assert_eq!(found, "line 2 is \"b\", should be \"c\"");
        let found = first_difference("", "a\n").expect("they differ");
        assert_eq!(found, "line 1 is \"(ends)\", should be \"a\"");
        let found = first_difference("a", "a\n").expect("they differ");
        assert_eq!(found, "only line ends differ");
    }
}
