//! The audit log while the process is killed between any two of its writes: as many entries as records afterwards, and what was
//! signed stays as it was signed.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tollgate_audit::note::Verifier;
use tollgate_store::audit::{self, AuditReader};
use tollgate_store::fault::{self, POINTS};
use tollgate_store::store::Layout;

use crate::agree;
use crate::books::{open, populate, work};

const CHILD: &str = "TOLLGATE_AUDIT_CHILD";
const PATIENCE: Duration = Duration::from_secs(60);
const KILLED: i32 = 9;

/// A process of its own that works until it is killed; does nothing where no folder is named.
#[test]
fn a_child_works_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let _armed = fault::arm_from_environment();
    let dir = std::path::PathBuf::from(dir);
    let store = open(&dir);
    if store.books.directory().tenants.is_empty() {
        populate(&store, 1_000_000_000);
    }
    let first = 1_000 * u128::from(store.journal.durable_sequence());
    for round in 0..8 {
        work(&store, first + round * 50, 25);
        store.projector.catch_up_audit(store.journal.durable_sequence(), PATIENCE);
    }
    store.close();
}

/// Runs the child with a fault; whether it was killed.
fn killed(dir: &std::path::Path, point: &str, action: &str) -> bool {
    let itself = std::env::current_exe().expect("this test's own program");
    let status = Command::new(itself)
        .args(["--exact", "audit::a_child_works_until_it_is_killed"])
        .env(CHILD, dir)
        .env("FAILPOINTS", format!("{point}={action}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("it starts");
    assert!(status.success() || status.signal() == Some(KILLED), "{point}: {status}");
    status.signal() == Some(KILLED)
}

#[test]
fn killed_between_any_two_writes_the_log_has_every_record_once_and_keeps_what_it_signed() {
    let _nobody_else_arms = fault::arm_from_environment();
    let points: Vec<&str> = POINTS.iter().copied().filter(|point| point.starts_with("audit::")).collect();
    for (n, point) in points.iter().enumerate() {
        // At once, and in the middle of the work; a torn write where one is written.
        let actions = ["return(kill)", "1*off->return(kill)", "1*off->return(torn 33)"];
        let chosen = if crate::all() { &actions[..] } else { &actions[n % 3..=n % 3] };
        for action in chosen {
            let what = format!("{point}={action}");
            let dir = tempfile::tempdir().expect("a folder");
            let reader = AuditReader::open(&Layout::of(dir.path()));
            assert!(killed(dir.path(), point, action), "{what}: nobody passed it");
            let signed = reader.checkpoint().expect("readable");
            let store = open(dir.path());
            let key: Verifier = store.audit_key.clone();
            if store.books.directory().tenants.is_empty() {
                populate(&store, 1_000_000_000);
            }
            work(&store, 1_000_000_000, 10);
            store.close();
            agree(dir.path());
            let report = audit::verify(&Layout::of(dir.path()).audit, signed.as_deref(), Some(&key));
            let report = report.unwrap_or_else(|fault| panic!("{what}: {fault}"));
            assert!(report.signatures_checked && !report.unfinished, "{what}: {report:?}");
        }
    }
}
