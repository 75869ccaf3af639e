//! What a tenant is given, and how it can tell that something is wrong with it.

use tollgate_audit::heads::Told;
use tollgate_audit::tree::{inclusion, leaf_hash};
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
    assert_eq!(report.proved_from, report.first, "all of it is proved");
}

/// The lines of a's view, where `stub` may put another line for an entry: it is given the entry, and whose turn it is.
fn view_with(stub: impl Fn(usize, &Told<'_>, &str) -> Option<String>) -> Vec<String> {
    let log = log();
    let mut out = Vec::new();
    write_checkpoint(&log.checkpoint(&signer()), &mut out).expect("memory");
    let of_a = log.lines.iter().map(|line| (line, Told::parse(line.as_bytes()).expect("an entry")));
    for (nth, (line, told)) in of_a.filter(|(_, told)| told.tenant.as_deref() == Some("a")).enumerate() {
        let path = inclusion(told.n, log.frontier.size(), |level, index| log.read(level, index)).expect("stored");
        let shown = stub(nth, &told, line);
        write_entry(shown.as_ref().unwrap_or(line), &path, &mut out).expect("memory");
    }
    String::from_utf8(out).expect("text").lines().map(|line| format!("{line}\n")).collect()
}

fn erased(told: &Told<'_>, line: &str) -> String {
    told.stub(&leaf_hash(line.as_bytes()))
}

#[test]
fn what_was_erased_comes_before_the_first_whole_entry_and_only_from_that_on_anything_is_proved() {
    let check = |lines: &[String]| verify_view(lines.concat().as_bytes(), &id("a"), Some(&signer().verifier()));
    let lines = view_with(|nth, told, line| (nth < 4).then(|| erased(told, line)));
    let report = check(&lines).expect("in order");
    assert_eq!((report.erased, report.entries), (4, lines.len() as u64 - 1));
    let whole = log().lines.iter().filter(|line| line.contains("\"tenant\":\"a\"")).nth(4).cloned().expect("there");
    assert_eq!(report.proved_from, Some(Told::parse(whole.as_bytes()).expect("an entry").n));
    // The last erased one is named by the first whole one, whose hash covers it.
    let mut fewer = lines.clone();
    fewer.remove(4);
    assert!(matches!(check(&fewer), Err(ViewFault::Entry { .. })));
    // What an erased one says of the one before it is not relied upon.
    let lying = view_with(|nth, told, line| (nth < 4).then(|| erased(&Told { prev: Some(7), ..told.clone() }, line)));
    assert_eq!(check(&lying).expect("in order").proved_from, report.proved_from);
    let all = view_with(|_, told, line| Some(erased(told, line)));
    assert_eq!(check(&all).expect("in order").proved_from, None);
}

#[test]
fn one_erased_entry_with_a_lying_word_of_the_one_before_hides_nothing() {
    // All before the last are left out: it is shown as erased, and says that it is the first.
    let count = lines_of(&log(), "a").len() - 1;
    let lines =
        view_with(|nth, told, line| (nth + 2 == count).then(|| erased(&Told { prev: None, ..told.clone() }, line)));
    let (first, hidden) = (lines[0].clone(), [lines[count - 1].clone(), lines[count].clone()]);
    let report = verify_view([&[first], &hidden[..]].concat().concat().as_bytes(), &id("a"), None).expect("readable");
    assert_eq!((report.proved_from, report.entries), (report.last, 2), "of what was before nothing is said");
    // Nor can one in the middle.
    for nth_erased in 1..count {
        let lines = view_with(|nth, told, line| (nth == nth_erased).then(|| erased(told, line)));
        assert!(matches!(verified(&lines), Err(ViewFault::Entry { .. })), "{nth_erased}");
    }
}
