//! The audit log in real files: appended to, reopened, proved, tampered with, made again, erased from.

mod tampering;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tollgate_audit::entry::Whose;
use tollgate_audit::heads::Told;
use tollgate_audit::note::{Checkpoint, Verifier, origin};
use tollgate_audit::tree::{is_consistent, is_included, leaf_hash};
use tollgate_audit::view::verify_view;
use tollgate_ledger::{Amounts, CapSet, Posted, Record, Reserved};
use tollgate_store::audit::retention::{Erased, retain};
use tollgate_store::audit::writer::AuditWriter;
use tollgate_store::audit::{self, AuditError, AuditReader, Options};
use tollgate_store::store::Layout;
use tollgate_store::vault::{MasterKey, Vault};
use tollgate_store::{Sequence, StoreError, verify};
use tollgate_types::directory::Plan;
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Confidence, PicoSum, PicoUsd, RequestId, Scope, Spender, TenantId, Timestamp, Usage, UtcOffset, Window,
};

use crate::books::{SMALL, open, populate, tenant, try_open, work};

const TENANTS: [&str; 3] = ["a", "b", "c"];
const PATIENCE: Duration = Duration::from_secs(60);

/// A log's folder with a key of its own, and no journal.
struct Folder {
    dir: tempfile::TempDir,
    vault: Vault,
    options: Options,
}

// === impl Folder ===

impl Folder {
    fn new(segment_entries: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("audit")).expect("a folder");
        let master = MasterKey::from_hex(&"a".repeat(64)).expect("64 digits");
        let vault = Vault::open(&dir.path().join("keys"), Box::new(master)).expect("a new key file");
        Self { dir, vault, options: Options { issuer: "gate.example".into(), segment_entries } }
    }

    fn layout(&self) -> Layout {
        Layout::of(self.dir.path())
    }

    fn audit(&self) -> std::path::PathBuf {
        self.layout().audit
    }

    fn open(&self, last: Sequence) -> Result<AuditWriter, AuditError> {
        AuditWriter::open(&self.audit(), self.vault.audit_key(), &self.options, last)
    }

    fn verifier(&self) -> Verifier {
        self.vault.audit_key().signer(&origin(&self.options.issuer)).verifier()
    }

    /// Appends the records up to one, and signs.
    fn grow(&self, upto: u64) -> String {
        let mut writer = self.open(upto).expect("it opens");
        append(&mut writer, upto);
        writer.sign().expect("signed");
        self.reader().checkpoint().expect("readable").expect("signed")
    }

    fn reader(&self) -> AuditReader {
        AuditReader::open(&self.layout())
    }
}

fn append(writer: &mut AuditWriter, upto: u64) {
    let batch: Vec<_> = (writer.position() + 1..=upto).map(|sequence| (sequence, record(sequence))).collect();
    for part in batch.chunks(37) {
        writer.append(part, &nobody).expect("appended");
    }
}

fn nobody(_: Whose<'_>) -> Option<TenantId> {
    None
}

/// The record of that number: holds and postings of three tenants, and now and then a budget or a price book.
fn record(sequence: Sequence) -> Record {
    let at = Timestamp(1_800_000_000_000_000 + i64::try_from(sequence).expect("small") * 1_000_000);
    let pair = sequence / 2;
    let amounts = Amounts { cost: PicoUsd(pair), charge: PicoUsd(pair) };
    let of = tenant(TENANTS[usize::try_from(pair % 7 % 3).expect("small")]);
    match sequence {
        n if n % 20 == 4 => Record::CapSet(CapSet {
            scope: if n % 40 == 4 { Scope::Platform } else { Scope::Tenant(of) },
            window: Window::Day,
            basis: Basis::Cost,
            cap: Some(PicoSum(9)),
            alerts: Default::default(),
            at,
        }),
        n if n % 20 == 5 => Record::PricesSet { version: format!("v{n}").into(), sha256: [1; 32], at },
        n if n % 2 == 0 => Record::Reserved(Box::new(Reserved {
            id: RequestId(pair.into()),
            at,
            deadline: at,
            spender: Spender {
                plan: Plan::standard().id,
                tenant: of,
                project: "p".parse().expect("a slug"),
                key: "k".parse().expect("a slug"),
                end_user: None,
            },
            offset: UtcOffset::default(),
            hold: amounts,
            route: "chat".into(),
            provider: "sim".into(),
            model: "m\"ö".into(),
            stream: false,
            price_version: "v1".into(),
            idempotency: None,
            attribution: None,
            policy: None,
        })),
        _ => Record::Posted(Posted {
            id: RequestId(pair.into()),
            at,
            usage: Usage::default(),
            amounts,
            overrun: Amounts::ZERO,
            confidence: Confidence::Measured,
            outcome: Outcome::Completed,
        }),
    }
}

/// Every file of a folder with what is in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    entries.map(|path| (name(&path), fs::read(&path).expect("a file"))).collect()
}

fn write_files(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        fs::remove_file(path).expect("removed");
    }
    files.iter().for_each(|(name, content)| fs::write(dir.join(name), content).expect("written"));
}

fn checkpoint(note: &str) -> Checkpoint {
    Checkpoint::of_note(note).expect("a checkpoint")
}

#[test]
fn every_record_of_the_journal_is_one_entry_and_a_restart_changes_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let layout = Layout::of(dir.path());
    let store = open(dir.path());
    populate(&store, 1_000_000_000);
    work(&store, 1, 400);
    let last = store.journal.durable_sequence();
    assert!(store.projector.catch_up_audit(last, PATIENCE), "{:?}", store.projector.audit_trouble());
    let signed = store.audit().checkpoint().expect("readable").expect("signed");
    assert_eq!((checkpoint(&signed).size, store.audit().size().expect("readable")), (last, last));
    let key = store.audit_key.clone();
    store.close();

    let before = files(&layout.audit);
    let again = open(dir.path());
    assert_eq!(again.audit_key, key);
    work(&again, 10_000, 400);
    again.close();
    let report = audit::verify(&layout.audit, Some(&signed), Some(&key)).expect("in order");
    let records = verify::verify(dir.path(), |_, _| ()).expect("readable").records;
    assert_eq!((report.size, report.signed, report.unfinished), (records, records, false));
    for (name, content) in before.iter().filter(|(name, _)| name.starts_with("entries") || *name == "hashes") {
        let now = fs::read(layout.audit.join(name)).expect("still there");
        assert!(now.starts_with(content), "{name}: only added to");
    }
}

#[test]
fn entries_are_found_one_by_one_by_tenant_and_page_by_page() {
    let folder = Folder::new(100);
    folder.grow(730);
    let reader = folder.reader();
    assert_eq!(reader.size().expect("readable"), 730);
    for n in 0..730 {
        let line = reader.entry(n).expect("readable").expect("there");
        assert!(line.starts_with(&format!("{{\"n\":{n},")), "{line}");
    }
    assert_eq!(reader.entry(730).expect("readable"), None);
    let newest = reader.newest(None, None, 5).expect("readable");
    assert!(newest[0].starts_with("{\"n\":729,") && newest[4].starts_with("{\"n\":725,"));
    for id in TENANTS {
        let mut all = Vec::new();
        let keep = |_, line: &str| {
            all.push(line.to_owned());
            Ok(())
        };
        reader.for_each(Some(&tenant(id)), keep).expect("readable");
        all.reverse();
        assert!(all.len() > 50);
        assert_eq!(reader.newest(Some(&tenant(id)), None, 10_000).expect("readable"), all);
        let mut paged: Vec<String> = Vec::new();
        loop {
            let number = |line: &String| line[5..].split(',').next().and_then(|n| n.parse().ok());
            let before: Option<u64> = paged.last().and_then(number);
            let page = reader.newest(Some(&tenant(id)), before, 7).expect("readable");
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all);
    }
    assert_eq!(reader.newest(Some(&tenant("nobody")), None, 10).expect("readable"), Vec::<String>::new());
    let mut all = Vec::new();
    assert_eq!(reader.export(None, &mut all).expect("readable"), 730);
    let joined: Vec<u8> = files(&folder.audit())
        .into_iter()
        .filter(|(name, _)| name.starts_with("entries"))
        .flat_map(|(_, content)| content)
        .collect();
    assert_eq!(all, joined);
}

#[test]
fn entries_and_growth_are_proved_to_who_has_only_checkpoints() {
    let folder = Folder::new(100);
    let notes: Vec<String> = [1, 99, 100, 256, 411].into_iter().map(|size| folder.grow(size)).collect();
    let reader = folder.reader();
    let newest = checkpoint(&notes[4]);
    for n in 0..newest.size {
        let line = reader.entry(n).expect("readable").expect("there");
        let path = reader.inclusion(n, newest.size).expect("readable").expect("there");
        assert!(is_included(n, newest.size, &leaf_hash(line.as_bytes()), &path, &newest.root), "{n}");
    }
    for old in notes.iter().map(|note| checkpoint(note)) {
        assert_eq!(reader.root(old.size).expect("readable"), Some(old.root));
        let path = reader.consistency(old.size, newest.size).expect("readable").expect("there");
        assert!(is_consistent(old.size, newest.size, &old.root, &newest.root, &path), "{}", old.size);
    }
    assert_eq!(reader.inclusion(411, 411).expect("readable"), None);
    assert_eq!(reader.inclusion(0, 412).expect("readable"), None);
    assert_eq!(reader.consistency(5, 412).expect("readable"), None);
    for id in TENANTS {
        let mut view = Vec::new();
        let count = reader.view(&tenant(id), &mut view).expect("readable").expect("signed");
        let report = verify_view(view.as_slice(), &tenant(id), Some(&folder.verifier())).expect("in order");
        assert_eq!((report.entries, report.checkpoint), (count, newest.clone()));
        assert!(verify_view(view.as_slice(), &tenant("other"), None).is_err() && count > 30);
    }
}

#[test]
fn whatever_is_taken_away_is_made_again_byte_for_byte_and_must_be_what_was_signed() {
    let folder = Folder::new(100);
    folder.grow(120);
    folder.grow(345);
    let whole = files(&folder.audit());
    let names: Vec<&String> = whole.keys().filter(|name| *name != "checkpoints").collect();
    let gone = |missing: &[&String]| {
        let mut left = whole.clone();
        missing.iter().for_each(|name| drop(left.remove(*name)));
        write_files(&folder.audit(), &left);
        let mut writer = folder.open(345).expect("it opens");
        append(&mut writer, 345);
        writer.sign().expect("nothing new");
        drop(writer);
        audit::verify(&folder.audit(), None, Some(&folder.verifier())).map(|report| report.size)
    };
    // All of it; the files of entries from some one on; the hashes; the heads.
    assert_eq!(gone(&names).expect("in order"), 345);
    assert_eq!(files(&folder.audit()), whole);
    for prefix in ["entries-", "hashes", "heads-", "entries-00000000000000000300", "heads-00000000000000000300"] {
        let some: Vec<&String> = names.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(gone(&some).expect("in order"), 345, "{prefix}");
        assert_eq!(files(&folder.audit()), whole, "{prefix}");
    }
    // Cut off anywhere.
    for name in names.iter().filter(|name| **name == "hashes" || name.ends_with("300.jsonl")) {
        for cut in [1, 31, 32, 33, 1_000, 5_000] {
            let mut left = whole.clone();
            let content = left.get_mut(*name).expect("there");
            content.truncate(content.len() - cut);
            write_files(&folder.audit(), &left);
            append(&mut folder.open(345).expect("it opens"), 345);
            assert_eq!(files(&folder.audit()), whole, "{name} without its last {cut} bytes");
        }
    }
    // Another journal's records are not what was signed.
    let mut left = BTreeMap::new();
    left.insert("checkpoints".to_owned(), whole["checkpoints"].clone());
    write_files(&folder.audit(), &left);
    let mut writer = folder.open(345).expect("it opens");
    let batch: Vec<_> = (1..=345).map(|sequence| (sequence, record(sequence + 2))).collect();
    let refused = writer.append(&batch, &nobody).expect_err("not those").to_string();
    assert!(refused.contains("not those that were signed") && refused.contains("checkpoints"), "{refused}");
    assert!(matches!(writer.sign(), Err(AuditError::Broken)));
}

#[test]
fn what_a_crash_left_beyond_the_newest_checkpoint_is_cut_back_and_made_again() {
    let folder = Folder::new(100);
    folder.grow(150);
    let mut writer = folder.open(180).expect("it opens");
    append(&mut writer, 180);
    drop(writer);
    let whole = files(&folder.audit());
    for (name, garbage) in [("entries-00000000000000000100.jsonl", 70), ("hashes", 40), ("checkpoints", 60)] {
        let mut left = whole.clone();
        let content = left.get_mut(name).expect("there");
        let length = content.len();
        if name == "checkpoints" {
            content.extend_from_slice(&whole[name][..garbage]);
        } else {
            content[length - garbage..].fill(0xa5);
        }
        write_files(&folder.audit(), &left);
        append(&mut folder.open(180).expect("it opens"), 180);
        assert_eq!(files(&folder.audit()), whole, "{name}");
    }
    let report = audit::verify(&folder.audit(), None, Some(&folder.verifier())).expect("in order");
    assert_eq!((report.size, report.signed), (180, 150));
}

#[test]
fn a_log_that_contradicts_what_was_signed_stops_the_start_and_nothing_is_signed_or_changed() {
    let folder = Folder::new(100);
    folder.grow(150);
    let whole = files(&folder.audit());
    let refused = |changed: &BTreeMap<String, Vec<u8>>, last: u64| {
        write_files(&folder.audit(), changed);
        let refused = folder.open(last).expect_err("refused");
        assert_eq!(files(&folder.audit()), *changed, "nothing was changed");
        refused.to_string()
    };
    let mut changed = whole.clone();
    let content = changed.get_mut("entries-00000000000000000100.jsonl").expect("there");
    let at = content.len() / 2;
    content[at] ^= 1;
    let said = refused(&changed, 150);
    assert!(said.contains("entry 12") && said.contains("moved") | said.contains("move all"), "{said}");
    let mut changed = whole.clone();
    let note = changed.get_mut("checkpoints").expect("there");
    note[20] ^= 1;
    assert!(refused(&changed, 150).contains("newest checkpoint"));
    assert!(refused(&whole, 149).contains("the journal ends at record 149"));
    // Another key does not go on with what this one signed.
    let other = Folder::new(100);
    write_files(&other.audit(), &whole);
    assert!(matches!(other.open(150), Err(AuditError::Contradiction { .. })));
    // And the store says so.
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    populate(&store, 1_000);
    store.close();
    let checkpoints = Layout::of(dir.path()).audit.join("checkpoints");
    fs::write(&checkpoints, &whole["checkpoints"]).expect("written");
    assert!(matches!(try_open(dir.path(), SMALL), Err(StoreError::Audit(_))));
}

#[test]
fn what_is_too_old_is_erased_and_everything_else_is_proved_as_before() {
    let folder = Folder::new(100);
    let note = folder.grow(345);
    let cutoff = |tenant: Option<&TenantId>| {
        tenant.filter(|tenant| tenant.as_str() != "c").map(|_| Timestamp(1_800_000_150_000_000))
    };
    let erased = retain(&folder.layout(), cutoff).expect("erased");
    assert!(erased.entries > 60 && erased.files == 2, "{erased:?}");
    assert_eq!(retain(&folder.layout(), cutoff).expect("nothing left to erase"), Erased::default());
    let report = audit::verify(&folder.audit(), Some(&note), Some(&folder.verifier())).expect("in order");
    assert_eq!((report.erased, report.size), (erased.entries, 345));
    let mut view = Vec::new();
    folder.reader().view(&tenant("a"), &mut view).expect("readable");
    let shown = verify_view(view.as_slice(), &tenant("a"), Some(&folder.verifier())).expect("in order");
    assert!(shown.erased > 0 && shown.erased < shown.entries);
    let left: String = files(&folder.audit())
        .iter()
        .filter(|(name, _)| name.starts_with("entries"))
        .map(|(_, content)| String::from_utf8(content.clone()).expect("text"))
        .collect();
    assert_eq!(left.lines().filter(|line| line.contains("\"erased\":")).count() as u64, erased.entries);
    assert!(left.lines().take(100).all(|line| !line.contains("\"tenant\":\"a\",\"prev\":1,\"request")));
    // It goes on, and what was erased is not there again.
    folder.grow(400);
    let report = audit::verify(&folder.audit(), Some(&note), Some(&folder.verifier())).expect("in order");
    assert_eq!((report.erased, report.size), (erased.entries, 400));
    // An entry that was tampered with is not erased: nobody could tell any more.
    let path = folder.audit().join("entries-00000000000000000200.jsonl");
    let text = fs::read_to_string(&path).expect("text");
    fs::write(&path, text.replacen("\"cost\":\"1", "\"cost\":\"2", 1)).expect("written");
    let refused = retain(&folder.layout(), |_| Some(Timestamp(i64::MAX))).expect_err("refused").to_string();
    assert!(refused.contains("is not what it was"), "{refused}");
}

/// The numbers, tenants and whether they are erased, of all entries.
fn erasures(folder: &Folder) -> Vec<(u64, Option<String>, bool)> {
    let mut all = Vec::new();
    let keep = |n, line: &str| {
        let told = Told::parse(line.as_bytes()).expect("an entry");
        all.push((n, told.tenant.as_deref().map(str::to_owned), told.erased.is_some()));
        Ok(())
    };
    folder.reader().for_each(None, keep).expect("readable");
    all
}

#[test]
fn only_the_beginning_of_a_tenants_entries_is_erased_and_nothing_of_the_operators() {
    let folder = Folder::new(100);
    let note = folder.grow(345);
    // Of a the entries before 250 are due. Of b none is due at first: its terms say so only later.
    let due = |upto: i64| Timestamp(1_800_000_000_000_000 + upto * 1_000_000);
    retain(&folder.layout(), |tenant| tenant.is_none_or(|tenant| tenant.as_str() == "a").then(|| due(250)))
        .expect("erased");
    for (n, tenant, erased) in erasures(&folder) {
        assert_eq!(erased, tenant.as_deref() == Some("a") && n + 1 < 250, "{n} of {tenant:?}");
    }
    audit::verify(&folder.audit(), Some(&note), Some(&folder.verifier())).expect("in order");
    // One of b's in the first file is, by its time, not due; the ones after it are kept with it, also in other files.
    let asked = std::cell::Cell::new(0);
    let late = |tenant: Option<&TenantId>| {
        tenant.filter(|tenant| tenant.as_str() == "b")?;
        asked.set(asked.get() + 1);
        Some(due(if asked.get() == 5 { 0 } else { 345 }))
    };
    let erased = retain(&folder.layout(), late).expect("erased");
    assert_eq!((erased, asked.get()), (Erased { entries: 4, files: 1 }, 5));
    audit::verify(&folder.audit(), Some(&note), Some(&folder.verifier())).expect("in order");
}

#[test]
fn what_is_damaged_keeps_its_text_and_the_rest_is_erased_all_the_same() {
    let change = |text: String| {
        let at = text.find("\"tenant\":\"a\"").expect("one of a's");
        let begins = text[..at].rfind('\n').map_or(0, |at| at + 1);
        (text[..begins].lines().count(), begins, at)
    };
    for readable in [true, false] {
        let folder = Folder::new(100);
        folder.grow(345);
        let path = folder.audit().join("entries-00000000000000000100.jsonl");
        let mut text = fs::read(&path).expect("text");
        let (nth, begins, at) = change(String::from_utf8(text.clone()).expect("text"));
        text[if readable { begins + 30 } else { at }] = if readable { b'9' } else { b'x' };
        fs::write(&path, &text).expect("written");
        let refused =
            retain(&folder.layout(), |tenant| tenant.map(|_| Timestamp(i64::MAX))).expect_err("one is damaged");
        let damaged = 100 + nth as u64;
        let AuditError::NotErased { first, damaged: 1, erased } = &refused else { panic!("{refused}") };
        assert!(first.contains("0100.jsonl") && erased.files == 3, "{refused}");
        let left = fs::read(&path).expect("text");
        let line = text[begins..].split(|byte| *byte == b'\n').next().expect("a line");
        assert!(left.split(|byte| *byte == b'\n').any(|now| now == line), "it is as it was");
        let last_sealed = 300;
        for name in ["000", "100", "200"] {
            let content = fs::read_to_string(folder.audit().join(format!("entries-{name:0>20}.jsonl"))).expect("text");
            for told in
                content.lines().filter_map(|line| Told::parse(line.as_bytes()).ok()).filter(|told| told.n != damaged)
            {
                let due = match told.tenant.as_deref() {
                    None => false,
                    Some("a") => told.n < damaged,
                    Some(_) => told.n < last_sealed,
                };
                assert_eq!(told.erased.is_some(), due, "{} of {:?}, readable: {readable}", told.n, told.tenant);
            }
        }
    }
}

#[test]
fn a_quiet_tenants_last_entry_is_sought_in_a_few_files_and_an_export_is_complete_all_the_same() {
    let folder = Folder::new(20);
    folder.grow(730);
    let reader = folder.reader();
    let of_a = |lines: &str| lines.lines().filter(|line| line.contains(",\"tenant\":\"a\",")).count();
    let mut all = Vec::new();
    reader.export(Some(&tenant("a")), &mut all).expect("readable");
    let count = of_a(std::str::from_utf8(&all).expect("text"));
    // Files in which a has nothing, and no heads: nobody knows what was before them.
    for (name, content) in files(&folder.audit()) {
        if name.starts_with("heads") {
            fs::remove_file(folder.audit().join(&name)).expect("removed");
        } else if name.starts_with("entries") && *name >= *"entries-00000000000000000620.jsonl" {
            let text = String::from_utf8(content).expect("text");
            let without = text.replace("\"tenant\":\"a\",", "\"tenant\":\"c\",");
            fs::write(folder.audit().join(&name), without).expect("written");
        }
    }
    assert_eq!(reader.newest(Some(&tenant("a")), None, 10).expect("readable"), Vec::<String>::new());
    let found = reader.newest(Some(&tenant("a")), Some(700), 10).expect("readable");
    assert!(found.is_empty(), "four files before 700 are not enough");
    assert_eq!(reader.newest(Some(&tenant("a")), Some(680), 10).expect("readable").len(), 10, "but before 680");
    let mut left = Vec::new();
    reader.export(Some(&tenant("a")), &mut left).expect("readable");
    let left = of_a(std::str::from_utf8(&left).expect("text"));
    assert!(left > 100 && left < count, "{left} of {count}");
}

#[test]
fn the_auditors_script_comes_to_the_same_root_and_finds_what_was_changed() {
    let folder = Folder::new(100);
    let notes = [folder.grow(64), folder.grow(345)];
    let (audit, vkey) = (folder.audit(), folder.verifier().to_string());
    let checkpoint = folder.dir.path().join("checkpoint");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating/verify_audit.py");
    let run = || {
        let ran = std::process::Command::new("python3").arg(&script).arg(&audit).arg(&checkpoint).arg(&vkey).output();
        let ran = ran.expect("python3 is needed by the clients' tests, too");
        (ran.status.success(), [ran.stdout, ran.stderr].concat())
    };
    for note in &notes {
        fs::write(&checkpoint, note).expect("written");
        let (fine, said) = run();
        assert!(fine && said.starts_with(b"in order"), "{}", String::from_utf8_lossy(&said));
    }
    retain(&folder.layout(), |_| Some(Timestamp(1_800_000_150_000_000))).expect("erased");
    assert!(run().0, "what was erased has left its hash");
    // What is passed off as erased is named: the operator's, a later one of a tenant's, and one given to who has nothing else.
    let fine = files(&audit);
    for (name, whole) in
        fine.iter().filter(|(name, _)| name.contains("entries-") && name.as_str() >= "entries-00000000000000000200")
    {
        let text = std::str::from_utf8(whole).expect("text");
        for line in text.lines().filter(|line| !line.contains("\"erased\":")).take(12) {
            let told = Told::parse(line.as_bytes()).expect("an entry");
            let given = Told { tenant: Some("nobody".into()), prev: None, ..told.clone() };
            let of = [(told.tenant.is_none() || told.n >= 300, &told), (told.tenant.is_none(), &given)];
            for stub in
                of.into_iter().filter(|(hidden, _)| *hidden).map(|(_, told)| told.stub(&leaf_hash(line.as_bytes())))
            {
                fs::write(audit.join(name), text.replacen(line, &stub, 1)).expect("written");
                let (passed, said) = run();
                let said = String::from_utf8_lossy(&said);
                assert!(!passed && said.starts_with("NOT IN ORDER"), "{stub}: {said}");
                let named = said.contains(&format!("entry {} ", told.n)) || said.contains("the heads after entry 300");
                assert!(named, "{stub}: {said}");
            }
        }
        fs::write(audit.join(name), whole).expect("written");
    }
    let path = audit.join("entries-00000000000000000300.jsonl");
    let text = fs::read_to_string(&path).expect("text");
    fs::write(&path, text.replacen("\"cost\":\"1", "\"cost\":\"2", 1)).expect("written");
    let (fine, said) = run();
    assert!(!fine && said.starts_with(b"NOT IN ORDER"), "{}", String::from_utf8_lossy(&said));
}
