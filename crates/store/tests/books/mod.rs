//! A store with one tenant, and work for it. What these tests know of the shape of records stands here and nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tollgate_ledger::{Amounts, Books, CapSet, Draft, Reservation, Settlement};
use tollgate_store::journal::{JournalWriter, Options};
use tollgate_store::vault::MasterKey;
use tollgate_store::{Sequence, Store, StoreError, StoreOptions, audit};
use tollgate_types::directory::{ApiKey, Change, Plan, Project, Tenant};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, PicoSum, PicoUsd, RequestId, Scope, Spender, TenantId, Timestamp, Usage, Window, Zone,
};

pub const SMALL: usize = 256 * 1024;
pub const HELD: u64 = 10;
pub const USED: u64 = 7;

pub type Held = Reservation<JournalWriter>;

pub fn try_open(dir: &Path, segment_bytes: usize) -> Result<Store, StoreError> {
    open_under(dir, segment_bytes, "a")
}

/// Opens it under the master key that is 64 times this digit.
pub fn open_under(dir: &Path, segment_bytes: usize, digit: &str) -> Result<Store, StoreError> {
    let journal = Options { segment_bytes, gather: Duration::ZERO };
    let clock = Clock::manual(Timestamp(1_800_000_000_000_000));
    let master = MasterKey::from_hex(&digit.repeat(64)).expect("64 digits");
    // Files of the audit log so small that some are full.
    let audit = audit::Options { issuer: "gate.example".into(), segment_entries: 100 };
    Store::open(&StoreOptions { dir: dir.to_owned(), journal, clock, audit }, Box::new(master))
}

pub fn open(dir: &Path) -> Store {
    try_open(dir, SMALL).expect("the store opens")
}

pub fn tenant(id: &str) -> TenantId {
    id.parse().expect("a slug")
}

/// A tenant `a` with project `p`, key `k` and a lifetime cap.
pub fn populate(store: &Store, cap: i128) {
    let tenant = Tenant::new(tenant("a"), Plan::standard().id, Timestamp(0));
    store.vault.create(&tenant.id).expect("a data key");
    let project =
        Project { tenant: tenant.id.clone(), id: "p".parse().expect("a slug"), created_at: Timestamp(0), label: None };
    let (key, owner) = ("k".parse().expect("a slug"), tenant.id.clone());
    let key = ApiKey::new(key, owner, project.id.clone(), [1; 32], Timestamp(0));
    let scope = Scope::Tenant(tenant.id.clone());
    for change in [
        Change::PlanSet(Plan::standard()),
        Change::TenantCreated(tenant),
        Change::ProjectCreated(project),
        Change::KeyCreated(Box::new(key)),
    ] {
        store.books.change(change).expect("a change that makes sense");
    }
    let (window, basis, alerts) = (Window::Lifetime, Basis::Cost, Default::default());
    let cap = CapSet { scope, window, basis, cap: Some(PicoSum(cap)), alerts, at: Timestamp(0) };
    let position = store.books.set_cap(cap).expect("a cap");
    store.journal.wait_durable(position).expect("durable");
}

pub fn revocation() -> Change {
    Change::KeyRevoked { id: "k".parse().expect("a slug"), at: Timestamp(1) }
}

/// Holds [`HELD`], or says why not.
pub fn reserve(books: &Arc<Books<JournalWriter>>, id: u128) -> Result<Held, String> {
    reserve_amount(books, id, HELD)
}

/// Holds so many picodollars, or says why not. Its deadline is a minute after the books' first moment.
pub fn reserve_amount(books: &Arc<Books<JournalWriter>>, id: u128, amount: u64) -> Result<Held, String> {
    let draft = Draft {
        id: RequestId(id),
        deadline: Timestamp(1_800_000_060_000_000),
        spender: Spender {
            plan: Plan::standard().id,
            tenant: tenant("a"),
            project: "p".parse().expect("a slug"),
            key: "k".parse().expect("a slug"),
            end_user: None,
        },
        zone: Zone::UTC,
        route: "r".into(),
        provider: "sim".into(),
        model: "m".into(),
        stream: false,
        price_version: "v1".into(),
        idempotency: None,
        attribution: None,
        policy: None,
    };
    let hold = Amounts { cost: PicoUsd(amount), charge: PicoUsd(amount) };
    let reserved = books.reserve(draft, |_| (hold, ()));
    reserved.map(|(held, ())| held).map_err(|error| error.to_string())
}

/// Posts [`USED`].
pub fn settle(held: Held) -> Sequence {
    let amounts = Amounts { cost: PicoUsd(USED), charge: PicoUsd(USED) };
    let usage = Usage { input_tokens: USED, ..Usage::default() };
    let settlement = Settlement { usage, amounts, confidence: Confidence::Measured, outcome: Outcome::Completed };
    held.post(settlement).expect("it is pending")
}

/// Reserves and settles `n` requests with ids from `first` on, and waits for the last.
pub fn work(store: &Store, first: u128, n: u128) {
    let mut last = 0;
    for id in first..first + n {
        let held = loop {
            match reserve(&store.books, id) {
                Ok(held) => break held,
                // With segments this small the disk sometimes has to be waited for.
                Err(_) => store.journal.wait_durable(last).expect("durable"),
            }
            std::thread::yield_now();
        };
        last = settle(held);
    }
    store.journal.wait_durable(last).expect("durable");
}
