//! Which crate may depend on which. The drawing stands in ARCHITECTURE.md; here it is a table that fails the build.
//!
//! `cargo metadata` tells the truth about manifests; what a crate does with what it may use is for review.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tree;

const PREFIX: &str = "tollgate-";

/// Who may know whom, strictly downward. A crate that is not listed may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("ledger", &["types"]),
    ("audit", &["types", "ledger"]),
    ("store", &["types", "ledger", "audit"]),
    ("guard", &["types"]),
    ("policy", &[]),
    ("admission", &["types", "ledger", "policy"]),
    ("tokens", &[]),
    ("runtime", &["types"]),
    ("serving", &["types", "tokens", "runtime"]),
    ("client", &[]),
    ("sim", &[]),
    ("bench", &[]),
    (
        "gateway",
        &[
            "types",
            "ledger",
            "audit",
            "store",
            "guard",
            "policy",
            "admission",
            "runtime",
            "serving",
            "tokens",
            "client",
            "sim",
            "bench",
        ],
    ),
    ("prove", &[]),
    ("xtask", &[]),
];

/// In tests anybody may also speak to a simulated provider.
const ARROWS_IN_TESTS: &[&str] = &["sim"];

/// Libraries that only certain rooms may link.
const KEEPERS: &[Keeper] = &[
    Keeper { library: "axum", feature: None, rooms: &["gateway"], why: "only gateway knows the HTTP server" },
    Keeper {
        library: "hyper",
        feature: Some("server"),
        rooms: &["gateway", "sim"],
        why: "only gateway knows the HTTP server (sim is another company's)",
    },
    Keeper {
        library: "hyper-util",
        feature: Some("server"),
        rooms: &["gateway", "sim"],
        why: "only gateway knows the HTTP server (sim is another company's)",
    },
    Keeper { library: "rusqlite", feature: None, rooms: &["store"], why: "only store opens databases" },
];

struct Keeper {
    library: &'static str,
    feature: Option<&'static str>,
    rooms: &'static [&'static str],
    why: &'static str,
}

#[derive(Debug, Default)]
struct Dependency {
    from: String,
    to: String,
    in_tests: bool,
    features: Vec<String>,
}

pub fn run() -> Result<()> {
    let metadata = tree::output(tree::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let wrong = faults(&dependencies(&metadata)?);
    if !wrong.is_empty() {
        bail!("{} arrows point the wrong way:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    println!("arrows: every dependency points downward");
    Ok(())
}

fn dependencies(metadata: &Value) -> Result<Vec<Dependency>> {
    let mut all = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata without packages")? {
        let from = package["name"].as_str().context("a package without a name")?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            all.push(Dependency {
                from: from.trim_start_matches(PREFIX).to_owned(),
                to: dependency["name"].as_str().unwrap_or_default().to_owned(),
                in_tests: dependency["kind"] == "dev",
                features: dependency["features"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|feature| feature.as_str().map(str::to_owned))
                    .collect(),
            });
        }
    }
    Ok(all)
}

fn faults(dependencies: &[Dependency]) -> Vec<String> {
    dependencies.iter().filter_map(fault).collect()
}

fn fault(dependency: &Dependency) -> Option<String> {
    let Dependency { from, to, in_tests, .. } = dependency;
    let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| room == from) else {
        return Some(format!("{from} is not in the drawing: give it a place in xtask's ARROWS and in ARCHITECTURE.md"));
    };
    if let Some(room) = to.strip_prefix(PREFIX) {
        // Tests may switch on a feature of the crate that they test.
        let fine = allowed.contains(&room) || (*in_tests && (ARROWS_IN_TESTS.contains(&room) || room == from));
        return (!fine).then(|| format!("{from} may not depend on {room}"));
    }
    let keeper = KEEPERS.iter().find(|keeper| keeper.holds(dependency))?;
    let fine = *in_tests || keeper.rooms.contains(&from.as_str());
    (!fine).then(|| format!("{from} may not depend on {to}: {}", keeper.why))
}

// === impl Keeper ===

impl Keeper {
    fn holds(&self, dependency: &Dependency) -> bool {
        self.library == dependency.to
            && self
                .feature
                .is_none_or(|feature| dependency.features.iter().any(|used| used == feature || used == "full"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(from: &str, to: &str, kind: Option<&str>, features: &[&str]) -> Value {
        serde_json::json!({"packages": [{"name": from, "dependencies": [
            {"name": to, "kind": kind, "features": features}
        ]}]})
    }

    fn check(from: &str, to: &str, kind: Option<&str>, features: &[&str], expected: &[&str]) {
        let found = faults(&dependencies(&sample(from, to, kind, features)).expect("the sample is well formed"));
        assert_eq!(found, expected, "{from} -> {to}");
    }

    #[test]
    fn what_points_downward_is_fine() {
        check("tollgate-store", "tollgate-ledger", None, &[], &[]);
        check("tollgate-gateway", "tollgate-store", None, &[], &[]);
        check("tollgate-gateway", "axum", None, &[], &[]);
        check("tollgate-serving", "hyper", None, &["client", "http1"], &[]);
        check("tollgate-serving", "tollgate-sim", Some("dev"), &[], &[]);
        check("tollgate-store", "tollgate-store", Some("dev"), &["failpoints"], &[]);
    }

    #[test]
    fn what_points_upward_or_sideways_is_named() {
        check("tollgate-ledger", "tollgate-store", None, &[], &["ledger may not depend on store"]);
        check("tollgate-admission", "tollgate-serving", None, &[], &["admission may not depend on serving"]);
        check("tollgate-types", "tollgate-ledger", Some("dev"), &[], &["types may not depend on ledger"]);
        check("tollgate-serving", "tollgate-sim", None, &[], &["serving may not depend on sim"]);
    }

    #[test]
    fn a_library_with_a_keeper_stays_in_its_room() {
        let expected = "admission may not depend on rusqlite: only store opens databases";
        check("tollgate-admission", "rusqlite", None, &[], &[expected]);
        let expected = "serving may not depend on axum: only gateway knows the HTTP server";
        check("tollgate-serving", "axum", None, &[], &[expected]);
        let expected = "client may not depend on hyper: only gateway knows the HTTP server (sim is another company's)";
        check("tollgate-client", "hyper", None, &["http1", "server"], &[expected]);
    }

    #[test]
    fn a_crate_without_a_place_in_the_drawing_is_refused() {
        let expected = "utils is not in the drawing: give it a place in xtask's ARROWS and in ARCHITECTURE.md";
        check("tollgate-utils", "serde", None, &[], &[expected]);
    }
}
