//! What a tenant is given, and how it can tell that something is wrong with it.

use tollgate_audit::heads::Told;
use tollgate_audit::tree::inclusion;
use tollgate_audit::view::{ViewFault, verify_view, write_checkpoint, write_entry};

use crate::books::{Log, all_kinds, id, posted, reserved, signer};

fn log() -> Log {
    let mut records = all_kinds();
    for n in 10..40_u32 {
        records.push(reserved(if n % 3 == 0 { "a" } else { "b" }, n.into(), i64::from(n)));
        records.push(posted(n.into(), i64::from(n)));
    }
    Log::of(&records)
}

fn lines_of(log: &Log, tenant: &str) -> Vec<String> {
    let mut out = Vec::new();
    write_checkpoint(&log.checkpoint(&signer()), &mut out).expect("memory");
    for line in &log.lines {
        let told = Told::parse(line.as_bytes()).expect("an entry");
        if told.tenant.as_deref() == Some(tenant) {
            let path = inclusion(told.n, log.frontier.size(), |level, index| log.read(level, index)).expect("stored");
            write_entry(line, &path, &mut out).expect("memory");
        }
    }
    String::from_utf8(out).expect("text").lines().map(|line| format!("{line}\n")).collect()
}

fn verified(lines: &[String]) -> Result<u64, ViewFault> {
    let report = verify_view(lines.concat().as_bytes(), &id("a"), Some(&signer().verifier()))?;
    assert!(report.signature_checked);
    Ok(report.entries)
}

#[test]
fn a_tenant_verifies_its_own_entries_and_no_others() {
    let log = log();
    let lines = lines_of(&log, "a");
    assert_eq!(verified(&lines).expect("in order"), lines.len() as u64 - 1);
    let others = lines_of(&log, "b");
    assert!(matches!(verified(&others), Err(ViewFault::Entry { .. })), "they are not a's");
    assert!(lines.iter().skip(1).all(|line| !line.contains(r#"\"tenant\":\"b\""#)));
}

#[test]
fn an_entry_that_is_left_out_moved_or_changed_is_noticed() {
    let lines = lines_of(&log(), "a");
    for at in 1..lines.len() - 1 {
        let mut fewer = lines.clone();
        fewer.remove(at);
        assert!(verified(&fewer).is_err(), "line {at} is gone");
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        assert!(verified(&swapped).is_err(), "line {at} is moved");
        let mut twice = lines.clone();
        twice.insert(at, lines[at].clone());
        assert!(verified(&twice).is_err(), "line {at} is there twice");
    }
    let text = lines.concat();
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..500 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(dice >> 33).expect("small") % (text.len() - 1);
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1 << (dice >> 8 & 3);
        let found = verify_view(changed.as_slice(), &id("a"), Some(&signer().verifier()));
        // Members may be written in another order or with other letters for the same: what they say is what counts.
        if let Ok(report) = found {
            panic!("byte {at} was changed: {report:?}");
        }
    }
}

#[test]
fn without_a_key_the_signature_is_not_checked_and_the_report_says_so() {
    let lines = lines_of(&log(), "a");
    let report = verify_view(lines.concat().as_bytes(), &id("a"), None).expect("in order");
    assert!(!report.signature_checked && report.first.is_some() && report.erased == 0);
}
