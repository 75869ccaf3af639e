//! Where the workspace is and what other programs say about it: git, cargo. No rules here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the workspace: two floors above this crate. Cargo says where that is when it runs this; what was so when it was
/// built may be another clone that shares the target folder.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).ancestors().nth(2).expect("crates/xtask lies two floors below the root").to_path_buf()
}

/// Where builds go: `CARGO_TARGET_DIR`, else `target`.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A cargo that does not know it was started by a cargo: what `cargo run` exports for a package would otherwise look like a
/// changed environment to build scripts that watch it (ring's does), and rebuild half of the dependencies.
pub fn cargo() -> Command {
    let mut command = program("cargo");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name.as_ref());
        }
    }
    command.env_remove("CARGO").env_remove("LD_LIBRARY_PATH");
    command
}

/// Any program, run at the root.
pub fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// Runs to the end; fails with what it printed on stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn git(args: &[&str]) -> Result<String> {
    output(program("git").args(args))
}

/// Files that git tracks or would track, relative to the root.
pub fn files() -> Result<Vec<String>> {
    let listed = git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let mut files: Vec<String> = listed.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    files.retain(|name| root().join(name).is_file());
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_where_the_workspace_is() {
        assert!(root().join("crates/xtask/Cargo.toml").is_file());
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_own_words() {
        assert_eq!(output(program("sh").args(["-c", "echo fine"])).expect("echo works"), "fine\n");
        let error = output(program("sh").args(["-c", "echo broken >&2; exit 3"])).expect_err("it exits with 3");
        assert!(error.to_string().ends_with("failed: broken"), "{error}");
        let error = output(&mut program("no-such-program-anywhere")).expect_err("it is not there");
        assert!(error.to_string().starts_with("cannot start"), "{error}");
    }

    #[test]
    fn a_cargo_is_started_without_what_cargo_run_exports() {
        // Under `cargo test` these are set for this very process.
        let removed: Vec<_> =
            cargo().get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name.to_owned()).collect();
        assert!(removed.iter().any(|name| name == "CARGO_MANIFEST_DIR"), "{removed:?}");
        assert!(removed.iter().any(|name| name == "CARGO_PKG_NAME"), "{removed:?}");
    }
}
