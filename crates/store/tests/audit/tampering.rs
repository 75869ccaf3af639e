//! A log that somebody tampered with, and an auditor who has one checkpoint and the key: it is always found, and the first bad entry
//! is named.

use std::collections::BTreeMap;

use tollgate_audit::heads::{Heads, Told};
use tollgate_audit::tree::{Frontier, leaf_hash};
use tollgate_audit::verify::{Fault, Report};
use tollgate_store::audit::{self, AuditError, VerifyError};

use super::{Folder, files, write_files};

const SIZE: u64 = 330;

/// Pseudo-random numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("below a usize")
    }
}

type Files = BTreeMap<String, Vec<u8>>;

struct Audited {
    folder: Folder,
    whole: Files,
    held: String,
}

impl Audited {
    fn new() -> Self {
        let folder = Folder::new(100);
        folder.grow(90);
        folder.grow(215);
        let held = folder.grow(SIZE);
        let whole = files(&folder.audit());
        Self { folder, whole, held }
    }

    fn verify(&self, changed: &Files) -> Result<Report, Fault> {
        write_files(&self.folder.audit(), changed);
        match audit::verify(&self.folder.audit(), Some(&self.held), Some(&self.folder.verifier())) {
            Ok(report) => Ok(report),
            Err(VerifyError::Fault(fault)) => Err(fault),
            Err(other) => panic!("{other}"),
        }
    }

    /// The lines of all entries.
    fn lines(&self) -> Vec<Vec<u8>> {
        let entries = self.whole.iter().filter(|(name, _)| name.starts_with("entries"));
        entries.flat_map(|(_, content)| content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec)).collect()
    }

    /// The same folder with other lines, each in the file that its place is in.
    fn with_lines(&self, lines: &[Vec<u8>]) -> Files {
        let mut changed = self.whole.clone();
        changed.retain(|name, _| !name.starts_with("entries"));
        for (n, part) in lines.chunks(100).enumerate() {
            changed.insert(format!("entries-{:020}.jsonl", n * 100), part.concat());
        }
        changed
    }

    /// And with the hashes and heads that these lines have.
    fn with_lines_and_hashes(&self, lines: &[Vec<u8>]) -> Files {
        let mut changed = self.with_lines(lines);
        let (mut frontier, mut stored) = (Frontier::default(), Vec::new());
        lines.iter().for_each(|line| {
            frontier.push(leaf_hash(line.strip_suffix(b"\n").expect("a line")), |hash| stored.extend_from_slice(hash));
        });
        changed.insert("hashes".to_owned(), stored);
        changed
    }
}

#[test]
fn a_log_that_nobody_touched_is_in_order() {
    let audited = Audited::new();
    let report = audited.verify(&audited.whole).expect("in order");
    assert_eq!((report.size, report.signed, report.checkpoints, report.erased), (SIZE, SIZE, 3, 0));
    assert_eq!((report.tenants, report.unfinished), (3, false));
    assert_eq!(audited.whole.keys().filter(|name| name.starts_with("heads")).count(), 2);
}

#[test]
fn any_byte_that_is_changed_in_any_file_is_found_and_the_entry_is_named() {
    const SEED: u64 = 0x07a1_93c5_11d7_2be9;
    let audited = Audited::new();
    let mut dice = Dice(SEED);
    let names: Vec<&String> = audited.whole.keys().collect();
    // Where each entry's line begins, file by file.
    let mut first = 0;
    let mut begins: BTreeMap<&String, u64> = BTreeMap::new();
    for (name, content) in audited.whole.iter().filter(|(name, _)| name.starts_with("entries")) {
        begins.insert(name, first);
        first += content.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    for round in 0..1_000 {
        let name = names[dice.below(names.len())];
        let mut changed = audited.whole.clone();
        let content = changed.get_mut(name).expect("there");
        let at = dice.below(content.len());
        let was = content[at];
        content[at] ^= u8::try_from(1 + dice.below(255)).expect("a byte");
        let what = format!("seed {SEED:#x}, round {round}: {name}, byte {at}, {was:#x} became {:#x}", content[at]);
        let fault = audited.verify(&changed).expect_err(&what);
        if let Some(first) = begins.get(name) {
            let before = audited.whole[name][..at].iter().filter(|byte| **byte == b'\n').count() as u64;
            assert_eq!(fault.first_bad_entry(), Some(first + before), "{what}: {fault}");
        }
    }
}

#[test]
fn a_file_that_is_cut_short_or_gone_is_found() {
    let audited = Audited::new();
    let mut dice = Dice(0x51ed_270b_9f3c_8a11);
    for name in audited.whole.keys() {
        for round in 0..30 {
            let mut changed = audited.whole.clone();
            let content = changed.get_mut(name).expect("there");
            content.truncate(if round == 0 { content.len() - 1 } else { dice.below(content.len()) });
            let length = content.len();
            audited.verify(&changed).expect_err(&format!("{name}, cut to {length}"));
        }
        let mut changed = audited.whole.clone();
        changed.remove(name);
        // The older of two heads may be gone: the newer stands for it.
        let may = name == "heads-00000000000000000200.note";
        assert_eq!(audited.verify(&changed).is_ok(), may, "without {name}");
    }
}

#[test]
fn an_earlier_copy_is_found_and_so_are_entries_that_changed_places() {
    let audited = Audited::new();
    let folder = Folder::new(100);
    folder.grow(215);
    let earlier = &audited.whole;
    let mut changed = earlier.clone();
    changed.retain(|name, _| !name.contains("0300"));
    let lines = audited.lines();
    // Everything as it was at 215 entries, its checkpoints too.
    let mut rolled = audited.with_lines_and_hashes(&lines[..215]);
    rolled.remove("heads-00000000000000000300.note");
    let notes = String::from_utf8(audited.whole["checkpoints"].clone()).expect("text");
    let two: String = notes.split_inclusive("\n\n").take(4).collect();
    rolled.insert("checkpoints".to_owned(), two.into_bytes());
    let fault = audited.verify(&rolled).expect_err("it is too short");
    assert!(matches!(fault, Fault::Short { size: 215, told: SIZE, .. }), "{fault}");
    assert_eq!(fault.first_bad_entry(), Some(215));

    for at in [0, 1, 99, 100, 214, 328] {
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        let fault = audited.verify(&audited.with_lines(&swapped)).expect_err("swapped");
        assert_eq!(fault.first_bad_entry(), Some(at as u64), "{fault}");
        // Also where the hashes are made to fit: each line says its number.
        let fault = audited.verify(&audited.with_lines_and_hashes(&swapped)).expect_err("swapped");
        assert_eq!(fault.first_bad_entry(), Some(at as u64), "{fault}");
    }
}

#[test]
fn an_entry_that_was_replaced_with_all_its_hashes_is_found_between_two_checkpoints() {
    let audited = Audited::new();
    for (n, after, upto) in [(7, 0, 90), (89, 0, 90), (90, 90, 215), (150, 90, 215), (215, 215, SIZE), (329, 215, SIZE)]
    {
        let mut lines = audited.lines();
        let line = String::from_utf8(lines[n].clone()).expect("text");
        lines[n] = line.replacen("\"salt\":\"", "\"salt\":\"0", 1).into_bytes();
        let fault = audited.verify(&audited.with_lines_and_hashes(&lines)).expect_err("replaced");
        let expected = matches!(fault, Fault::Between { after: from, upto: to, .. } if (from, to) == (after, upto));
        assert!(expected, "{n}: {fault}");
        // Without the log's own checkpoints the one that was kept elsewhere tells.
        let mut changed = audited.with_lines_and_hashes(&lines);
        changed.remove("checkpoints");
        let fault = audited.verify(&changed).expect_err("replaced");
        assert!(matches!(fault, Fault::Between { after: 0, upto: SIZE, .. }), "{n}: {fault}");
    }
}

#[test]
fn an_entry_that_was_taken_out_or_slipped_in_is_found_even_with_all_hashes_and_numbers_made_anew() {
    let audited = Audited::new();
    let renumbered = |lines: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let mut heads = Heads::default();
        let one = |(n, line): (usize, &Vec<u8>)| {
            let text = String::from_utf8(line.clone()).expect("text");
            let told = Told::parse(text.trim_end().as_bytes()).expect("an entry");
            let tenant = told.tenant.as_deref().map(|tenant| tenant.parse().expect("a slug"));
            let before = tenant.and_then(|tenant| heads.previous(&tenant));
            let prev = |n: Option<u64>| n.map_or("null".to_owned(), |n| n.to_string());
            let old = format!("\"prev\":{},", prev(told.prev));
            let anew = text.replacen(&format!("{{\"n\":{}", told.n), &format!("{{\"n\":{n}"), 1).replacen(
                &old,
                &format!("\"prev\":{},", prev(before)),
                1,
            );
            heads.follow(&Told::parse(anew.trim_end().as_bytes()).expect("an entry")).expect("the next");
            anew.into_bytes()
        };
        lines.iter().enumerate().map(one).collect()
    };
    let lines = audited.lines();
    let mut without = lines.clone();
    without.remove(120);
    let mut changed = audited.with_lines_and_hashes(&renumbered(&without));
    changed.retain(|name, _| !name.starts_with("heads"));
    let fault = audited.verify(&changed).expect_err("one is gone");
    assert!(matches!(fault, Fault::Between { after: 90, upto: 215, .. }), "{fault}");
    let mut with = lines;
    with.insert(120, with[120].clone());
    let mut changed = audited.with_lines_and_hashes(&renumbered(&with));
    changed.retain(|name, _| !name.starts_with("heads"));
    let fault = audited.verify(&changed).expect_err("one is new");
    assert!(matches!(fault, Fault::Between { after: 90, upto: 215, .. }), "{fault}");
}

#[test]
fn an_entry_that_is_passed_off_as_erased_is_found_and_named() {
    let audited = Audited::new();
    let lines = audited.lines();
    let told = |n: usize| {
        let line = lines[n].strip_suffix(b"\n").expect("a line");
        (Told::parse(line).expect("an entry"), leaf_hash(line))
    };
    let with = |stubs: &[(usize, Vec<u8>)]| {
        let mut changed = lines.clone();
        stubs.iter().for_each(|(n, stub)| changed[*n] = [stub.as_slice(), b"\n"].concat());
        audited.verify(&audited.with_lines(&changed))
    };
    let mut of_the_operator = 0;
    for n in 0..lines.len() {
        let (entry, leaf) = told(n);
        let fault = match entry.tenant {
            None => {
                of_the_operator += 1;
                // Given to somebody who has nothing else, its hash is the same; but the heads that were signed do not know him.
                let given = Told { tenant: Some("nobody".into()), prev: None, ..entry.clone() };
                let fault = with(&[(n, given.stub(&leaf).into_bytes())]).expect_err("given away");
                let expected = if n < 300 {
                    matches!(fault, Fault::Heads { .. })
                } else {
                    fault.first_bad_entry() == Some(n as u64)
                };
                assert!(expected, "{n}: {fault}");
                with(&[(n, entry.stub(&leaf).into_bytes())]).expect_err("the operator's")
            }
            Some(_) if entry.prev.is_some() => with(&[(n, entry.stub(&leaf).into_bytes())]).expect_err("in the middle"),
            Some(_) => continue,
        };
        assert!(matches!(fault, Fault::Entry { .. }), "{n}: {fault}");
        assert_eq!(fault.first_bad_entry(), Some(n as u64), "{fault}");
    }
    assert!(of_the_operator > 20);
    // A beginning is what retention erases, too.
    let (first, leaf) = told((0..lines.len()).find(|n| told(*n).0.tenant.is_some()).expect("there"));
    let n = usize::try_from(first.n).expect("small");
    assert_eq!(with(&[(n, first.stub(&leaf).into_bytes())]).expect("in order").erased, 1);
}

#[test]
fn a_log_of_which_nothing_is_signed_is_not_in_order_and_no_signature_was_checked() {
    let audited = Audited::new();
    let verifier = audited.folder.verifier();
    let mut lines = audited.lines();
    let line = String::from_utf8(lines[7].clone()).expect("text");
    lines[7] = line.replacen("\"salt\":\"", "\"salt\":\"0", 1).into_bytes();
    let mut changed = audited.with_lines_and_hashes(&lines);
    for emptied in [true, false] {
        if emptied {
            changed.insert("checkpoints".to_owned(), Vec::new());
        } else {
            changed.remove("checkpoints");
        }
        write_files(&audited.folder.audit(), &changed);
        for key in [Some(&verifier), None] {
            let found = audit::verify(&audited.folder.audit(), None, key);
            assert!(matches!(found, Err(VerifyError::Fault(Fault::Unsigned { size: SIZE }))), "{found:?}");
        }
    }
    write_files(&audited.folder.audit(), &audited.whole);
    let checked = |key| audit::verify(&audited.folder.audit(), None, key).expect("in order").signatures_checked;
    assert!(checked(Some(&verifier)) && !checked(None));
}

#[test]
fn what_is_not_signed_is_not_trusted_at_a_start_but_made_again_from_the_journal() {
    let audited = Audited::new();
    let mut lines = audited.lines();
    let line = String::from_utf8(lines[320].clone()).expect("text");
    lines[320] = line.replacen("\"salt\":\"", "\"salt\":\"0", 1).into_bytes();
    let forged = audited.with_lines_and_hashes(&lines);
    let notes = String::from_utf8(audited.whole["checkpoints"].clone()).expect("text");
    // Without checkpoints, with none in the file, and with fewer than there were.
    for kept in [None, Some(0), Some(2), Some(4)] {
        let mut changed = forged.clone();
        changed.remove("checkpoints");
        if let Some(parts) = kept {
            let fewer: String = notes.split_inclusive("\n\n").take(parts).collect();
            changed.insert("checkpoints".to_owned(), fewer.into_bytes());
        }
        write_files(&audited.folder.audit(), &changed);
        assert_eq!(audited.folder.grow(SIZE), audited.held, "{kept:?}: the journal's, and signed as before");
        let mut now = files(&audited.folder.audit());
        let (now_notes, whole) =
            (now.remove("checkpoints"), audited.whole.iter().filter(|(name, _)| *name != "checkpoints"));
        assert!(now_notes.is_some_and(|now| notes.as_bytes().ends_with(&now[now.len().saturating_sub(50)..])));
        assert!(now.iter().eq(whole), "{kept:?}");
    }
    // More than the journal has is not thrown away.
    let mut changed = audited.whole.clone();
    changed.remove("checkpoints");
    write_files(&audited.folder.audit(), &changed);
    let refused = audited.folder.open(SIZE - 1).expect_err("refused");
    assert!(matches!(refused, AuditError::JournalBehind { held: SIZE, .. }), "{refused}");
}
