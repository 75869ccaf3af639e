//! Answers: found again for their tenant, key and request alone, for a day, within bounds, and never in the clear.
#![expect(clippy::disallowed_methods, reason = "the tests damage and read the file of the answers")]

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::vault::MasterKey;

const START: Timestamp = Timestamp(1_800_000_000_000_000);

struct Place {
    dir: TempDir,
    vault: Arc<Vault>,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let master = MasterKey::from_hex(&"a".repeat(64)).expect("64 digits");
        let vault = Arc::new(Vault::open(&dir.path().join("keys"), Box::new(master)).expect("a vault"));
        for id in ["a", "b"] {
            vault.create(&tenant(id)).expect("a key");
        }
        Self { dir, vault, clock: Clock::manual(START) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("answers.sqlite")
    }

    fn start(&self, bytes_max: u64) -> (Answers, AnswersThread) {
        Answers::start_bounded(&self.path(), Arc::clone(&self.vault), self.clock.clone(), bytes_max).expect("it opens")
    }
}

fn tenant(id: &str) -> TenantId {
    id.parse().expect("a slug")
}

fn answer(n: u128, body: &[u8]) -> Answer {
    let headers = vec![("content-type".to_owned(), b"text/plain".to_vec())];
    Answer { request: RequestId(n), status: 200, headers, body: body.to_vec() }
}

#[test]
fn an_answer_is_found_again_for_its_tenant_key_and_request_alone_also_after_a_restart() {
    let place = Place::new();
    let (answers, thread) = place.start(BYTES_MAX);
    let kept = answer(7, b"the water runs down");
    answers.keep(&tenant("a"), [1; 16], &kept).expect("kept");
    let check = |answers: &Answers| {
        let find = |id, key, n| answers.find(&tenant(id), key, RequestId(n)).expect("readable");
        assert_eq!(find("a", [1; 16], 7), Some(kept.clone()));
        assert_eq!([find("b", [1; 16], 7), find("a", [2; 16], 7), find("a", [1; 16], 8)], [None, None, None]);
    };
    check(&answers);
    thread.stop();
    assert!(matches!(answers.keep(&tenant("a"), [3; 16], &kept), Err(AnswersError::Closed)));
    let (again, thread) = place.start(BYTES_MAX);
    check(&again);
    thread.stop();
    for entry in std::fs::read_dir(place.dir.path()).expect("a folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("readable");
        assert!(!bytes.windows(9).any(|window| window == b"the water"), "nothing lies there in the clear");
    }
    place.vault.destroy(&tenant("a")).expect("destroyed");
    let gone = again.find(&tenant("a"), [1; 16], RequestId(7));
    assert!(matches!(gone, Err(AnswersError::Vault(VaultError::NoKey(_)))), "erased with its tenant's key");
}

#[test]
fn after_a_day_an_answer_is_not_given_any_more_and_the_next_one_drops_it() {
    let place = Place::new();
    let (answers, _thread) = place.start(BYTES_MAX);
    answers.keep(&tenant("a"), [1; 16], &answer(1, b"x")).expect("kept");
    place.clock.advance(KEPT_FOR - Duration::from_micros(1));
    assert!(answers.find(&tenant("a"), [1; 16], RequestId(1)).expect("readable").is_some());
    place.clock.advance(Duration::from_micros(1));
    assert!(answers.find(&tenant("a"), [1; 16], RequestId(1)).expect("readable").is_none());
    answers.keep(&tenant("a"), [2; 16], &answer(2, b"x")).expect("kept");
    assert_eq!(rows(&place), 1);
}

#[test]
fn too_large_an_answer_is_not_kept_and_beyond_the_total_the_oldest_go_first() {
    let place = Place::new();
    let (answers, _thread) = place.start(40_000);
    let large = answer(1, &vec![0; BODY_BYTES_MAX + 1]);
    assert!(matches!(answers.keep(&tenant("a"), [1; 16], &large), Err(AnswersError::TooLarge(_))));
    for n in 0..60 {
        answers.keep(&tenant("a"), [n; 16], &answer(n.into(), &[n; 1000])).expect("kept");
        place.clock.advance(Duration::from_secs(1));
    }
    let left: Vec<bool> = (0..60)
        .map(|n| answers.find(&tenant("a"), [n; 16], RequestId(n.into())).expect("readable").is_some())
        .collect();
    assert!(!left[0] && left[59], "{left:?}");
    assert!(left.is_sorted(), "the oldest went first: {left:?}");
    let bytes = left.iter().filter(|left| **left).count() * 1000;
    assert!((20_000..=40_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_file_that_is_damaged_or_of_another_version_is_thrown_away() {
    for damage in [
        |place: &Place| {
            std::fs::write(place.path(), b"not a database, and longer than a header of one").expect("written")
        },
        |place: &Place| {
            let connection = Connection::open(place.path()).expect("opens");
            connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).expect("set");
        },
    ] {
        let place = Place::new();
        place.start(BYTES_MAX).1.stop();
        damage(&place);
        let (answers, _thread) = place.start(BYTES_MAX);
        answers.keep(&tenant("a"), [1; 16], &answer(1, b"x")).expect("kept");
        assert_eq!(rows(&place), 1);
    }
}

fn rows(place: &Place) -> i64 {
    let connection = Connection::open(place.path()).expect("opens");
    connection.query_row("SELECT COUNT(*) FROM answers", [], |row| row.get(0)).expect("a number")
}
