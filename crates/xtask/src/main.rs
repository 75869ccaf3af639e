//! The house rules as commands: `cargo xtask tidy | arrows | commits | test | coverage | fresh`. `make test` runs them all.
//!
//! Each rule is a module: a pure check with its tests, and a thin `run` that reads the tree, git or cargo. What the
//! compiler or clippy can hold (banned calls, lints) stands in `clippy.toml` and `Cargo.toml`; what a licence checker
//! can, in `deny.toml`.
#![expect(
    clippy::disallowed_methods,
    reason = "a tool of the house, no part of the product: it reads the environment and writes reports"
)]

mod arrows;
mod commits;
mod coverage;
mod fresh;
mod lcov;
mod tidy;
mod tree;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask COMMAND

  tidy                      file sizes, names, headers, dead links, sleeping or ignored tests
  arrows                    which crate may depend on which, as drawn in ARCHITECTURE.md
  commits [--range A..B]    conventional commit messages
  test [ARGS]               every test of the workspace, once, instrumented; ARGS go to the test runner
  coverage [--base REV]     at least 80 % of the workspace's lines and of the changed lines, from what `test` left
  fresh [--write]           docs/openapi.json and docs/configuration.md say what the program says";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match run(&command, &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, rest: &[String]) -> Result<()> {
    match (command, rest) {
        ("tidy", []) => tidy::run(),
        ("arrows", []) => arrows::run(),
        ("commits", []) => commits::run(None),
        ("commits", [flag, range]) if flag == "--range" => commits::run(Some(range)),
        ("test", args) => coverage::run_tests(args),
        ("coverage", []) => coverage::run(None),
        ("coverage", [flag, base]) if flag == "--base" => coverage::run(Some(base)),
        ("fresh", []) => fresh::run(false),
        ("fresh", [flag]) if flag == "--write" => fresh::run(true),
        _ => bail!("not understood\n\n{USAGE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str]) {
        let rest: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
        let error = run(words[0], &rest).expect_err("nobody can mean this");
        assert!(error.to_string().contains("cargo xtask COMMAND"), "{words:?}: {error}");
    }

    #[test]
    fn what_is_not_understood_is_answered_with_what_can_be_said() {
        check(&[""]);
        check(&["tydi"]);
        check(&["tidy", "--all"]);
        check(&["commits", "--range"]);
    }

    #[test]
    fn the_workspace_itself_keeps_its_arrows() {
        arrows::run().expect("every dependency points downward");
    }
}
