//! A key is charged once: against a table, against a model over random histories, and through replays and snapshots.
//! What memory forgets is looked for in a view that lags.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tollgate_ledger::books::ReserveError;
use tollgate_ledger::{Books, Draft, Idempotency, Ledger, MemoryLog, Record, Rejected, Reservation, Use};
use tollgate_types::directory::Directory;
use tollgate_types::usage::Outcome;
use tollgate_types::{Clock, RequestId, Spender, TenantId, Timestamp};

use crate::world::{DAY, Who, both, measured};

const START: Timestamp = Timestamp(1_800_000_000_000_000);

type Made = Result<Reservation<MemoryLog>, ReserveError>;

struct Place {
    books: Arc<Books<MemoryLog>>,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        let clock = Clock::manual(START);
        let books = Books::new(Ledger::default(), Directory::default(), MemoryLog::default(), clock.clone());
        Self { books: Arc::new(books), clock }
    }

    fn reserve(&self, id: u128, tenant_n: u8, key: u8, body: u8, searched: Option<Timestamp>) -> Made {
        let who = Who::acme();
        let draft = Draft {
            spender: Spender { tenant: tenant(tenant_n), ..who.spender() },
            idempotency: Some(Idempotency { key: [key; 16], body: [body; 16] }),
            ..who.draft(RequestId(id))
        };
        self.books.reserve_searched(draft, searched, |_| (both(10), ())).map(|(reservation, ())| reservation)
    }

    /// Somebody else's request, so that time passes in the books.
    fn pass_time(&self, id: u128) {
        post(self.reserve(id, 9, 200, 0, Some(Timestamp(i64::MAX))).expect("a key of its own"));
    }

    /// What a view says that has reached the first `n` records.
    fn view(&self, n: usize, tenant_n: u8, key: u8) -> (Option<Use>, Timestamp) {
        let records = self.books.records();
        let mut used = None;
        for record in &records[..n] {
            match record {
                Record::Reserved(reserved) => {
                    let idempotency = reserved.idempotency.filter(|idempotency| idempotency.key == [key; 16]);
                    if let Some(Idempotency { body, .. }) = idempotency
                        && reserved.spender.tenant == tenant(tenant_n)
                    {
                        used = Some(Use { first: reserved.id, body, open: true });
                    }
                }
                Record::Posted(posted) => {
                    used = used.map(|used| Use { open: used.open && used.first != posted.id, ..used });
                }
                Record::Voided(voided) => used = used.filter(|used| used.first != voided.id),
                _ => {}
            }
        }
        (used, records[..n].iter().filter_map(Record::at).max().unwrap_or_default())
    }
}

fn tenant(n: u8) -> TenantId {
    format!("t{n}").parse().expect("a slug")
}

fn post(reservation: Reservation<MemoryLog>) {
    reservation.post(measured(both(7))).expect("it was open");
}

fn in_use(first: u128, same_body: bool, open: bool) -> ReserveError {
    Rejected::KeyInUse { first: RequestId(first), same_body, open }.into()
}

#[test]
fn a_key_is_taken_while_its_request_is_open_or_charged_and_free_once_it_was_voided() {
    let place = Place::new();
    let first = place.reserve(1, 1, 5, 1, None).expect("a new key");
    assert_eq!(place.reserve(2, 1, 5, 1, None).expect_err("under way"), in_use(1, true, true));
    assert_eq!(place.reserve(2, 1, 5, 2, None).expect_err("under way"), in_use(1, false, true));
    drop(place.reserve(3, 2, 5, 2, None).expect("another tenant's key is another key"));
    first.void(Outcome::ProviderRefused).expect("it was open");
    post(place.reserve(4, 1, 5, 2, None).expect("nothing was charged, so the key is free for anything"));
    assert_eq!(place.reserve(5, 1, 5, 2, None).expect_err("charged"), in_use(4, true, false));
    assert_eq!(place.reserve(5, 1, 5, 1, None).expect_err("charged"), in_use(4, false, false));
    place.books.recover();
    assert_eq!(place.books.audit().totals.posted.cost.0, 7, "charged once");
}

#[test]
fn a_key_in_doubt_is_taken_and_stays_so_when_it_is_settled() {
    let place = Place::new();
    let mut lost = place.reserve(1, 1, 5, 1, None).expect("a new key");
    assert!(lost.dispatched());
    place.books.recover();
    assert_eq!(place.reserve(2, 1, 5, 1, None).expect_err("in doubt"), in_use(1, true, true));
    place.clock.advance(Duration::from_secs(3600));
    assert_eq!(place.books.settle_aged(Duration::from_secs(60)), 1);
    assert_eq!(place.reserve(2, 1, 5, 1, None).expect_err("charged"), in_use(1, true, false));
    drop(lost);
}

#[test]
fn a_key_that_memory_forgot_is_not_taken_for_new_unless_somebody_looked_far_enough_back() {
    let place = Place::new();
    post(place.reserve(1, 1, 5, 1, None).expect("a new key"));
    let posted_at = START;
    place.clock.advance(DAY);
    place.pass_time(2);
    assert!(place.books.recall(&tenant(1), [5; 16]).used.is_some(), "a day is a day");
    place.clock.advance(Duration::from_micros(1));
    place
        .books
        .set_cap(tollgate_ledger::CapSet {
            scope: tollgate_types::Scope::Platform,
            window: tollgate_types::Window::Lifetime,
            basis: tollgate_types::Basis::Cost,
            cap: None,
            alerts: Default::default(),
            at: START,
        })
        .expect("a change");
    post(place.reserve(3, 1, 6, 1, None).expect("nothing is forgotten before somebody posts"));
    let recollection = place.books.recall(&tenant(1), [5; 16]);
    assert_eq!((recollection.used, recollection.forgotten), (None, Some(posted_at)));
    let check = |searched: Option<Timestamp>| {
        let refused = place.reserve(9, 1, 7, 1, searched).expect_err("not looked for far enough back");
        assert_eq!(refused, Rejected::KeyPerhapsInUse.into());
    };
    check(None);
    check(Some(posted_at));
    drop(place.reserve(9, 1, 7, 1, Some(posted_at.plus(Duration::from_micros(1)))).expect("looked for"));
}

#[derive(Clone, Debug)]
enum Step {
    /// Asks as the gateway does; the view has not seen the last so many records.
    Ask {
        tenant: u8,
        key: u8,
        body: u8,
        lag: usize,
    },
    Post(usize),
    Void(usize),
    Crash,
    Advance {
        hours: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (0..2_u8, 0..4_u8, 0..2_u8, 0..12_usize).prop_map(|(tenant, key, body, lag)| Step::Ask {
        tenant,
        key,
        body,
        lag,
    });
    let step = prop_oneof![
        6 => ask,
        4 => (0..8_usize).prop_map(Step::Post),
        2 => (0..8_usize).prop_map(Step::Void),
        1 => Just(Step::Crash),
        3 => (0..20_u8).prop_map(|hours| Step::Advance { hours }),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn whatever_happens_no_key_is_charged_twice_and_replay_agrees(steps in steps()) {
        let place = Place::new();
        // The plainest model: what each key stands for, for ever.
        let mut model: HashMap<(u8, u8), Use> = HashMap::new();
        let mut open: Vec<((u8, u8), Reservation<MemoryLog>)> = Vec::new();
        for (id, step) in (1..).zip(steps) {
            match step {
                Step::Ask { tenant: of, key, body, lag } => {
                    let recollection = place.books.recall(&tenant(of), [key; 16]);
                    let n = place.books.records().len().saturating_sub(lag);
                    let (viewed, latest) = place.view(n, of, key);
                    let searched = recollection.forgotten.map(|_| latest);
                    let expected = model.get(&(of, key)).copied();
                    match recollection.used.or(viewed.filter(|_| recollection.forgotten.is_some())) {
                        Some(used) => {
                            // A view that lags may think a request open which has ended; never the other way round.
                            let known = expected.filter(|_| recollection.used.is_some());
                            prop_assert!(known.is_none_or(|known| known == used), "{used:?} {expected:?}");
                        }
                        None => match place.reserve(id, of, key, body, searched) {
                            Ok(reservation) => {
                                prop_assert_eq!(expected, None, "charged or under way already");
                                model.insert((of, key), Use { first: RequestId(id), body: [body; 16], open: true });
                                open.push(((of, key), reservation));
                            }
                            Err(refused) => {
                                prop_assert_eq!(refused, Rejected::KeyPerhapsInUse.into());
                                prop_assert!(searched.is_some_and(|searched| Some(searched) <= recollection.forgotten));
                            }
                        },
                    }
                }
                Step::Post(n) if n < open.len() => {
                    let (name, reservation) = open.swap_remove(n);
                    post(reservation);
                    model.get_mut(&name).expect("it is open").open = false;
                }
                Step::Void(n) if n < open.len() => {
                    let (name, reservation) = open.swap_remove(n);
                    reservation.void(Outcome::NotSent).expect("it was open");
                    model.remove(&name);
                }
                // What was pending is in doubt, and then posted.
                Step::Crash => {
                    place.books.recover();
                    place.clock.advance(Duration::from_micros(1));
                    place.books.settle_aged(Duration::ZERO);
                    for (name, reservation) in open.drain(..) {
                        model.get_mut(&name).expect("it is open").open = false;
                        prop_assert_eq!(reservation.void(Outcome::NotSent), None, "it has ended");
                    }
                }
                Step::Advance { hours } => place.clock.advance(Duration::from_secs(3600 * u64::from(hours))),
                Step::Post(_) | Step::Void(_) => {}
            }
        }
        let records = place.books.records();
        let mut charged = std::collections::HashSet::new();
        let mut names = HashMap::new();
        for record in &records {
            match record {
                Record::Reserved(reserved) => {
                    names.insert(reserved.id, (reserved.spender.tenant.clone(), reserved.idempotency));
                }
                Record::Posted(posted) => {
                    let (tenant, idempotency) = names[&posted.id].clone();
                    prop_assert!(charged.insert((tenant, idempotency.map(|it| it.key))), "charged twice");
                }
                _ => {}
            }
        }
        // From the first record, and from a snapshot in the middle, the same is known.
        let mut whole = Ledger::default();
        let mut resumed = Ledger::default();
        for (n, record) in records.iter().enumerate() {
            whole.commit(record).expect("what was admitted is admitted again");
            resumed.commit(record).expect("what was admitted is admitted again");
            if n == records.len() / 2 {
                let bytes = postcard::to_stdvec(&resumed).expect("plain data");
                resumed = postcard::from_bytes(&bytes).expect("what was written");
            }
        }
        prop_assert_eq!(whole.keys(), resumed.keys());
        for (of, key) in model.keys() {
            prop_assert_eq!(whole.keys().recall(&tenant(*of), [*key; 16]), place.books.recall(&tenant(*of), [*key; 16]));
        }
    }
}
