//! How dear the hot step is: one reservation and its posting, with six scopes and five windows of caps on each; and what a
//! tenant costs in memory. `cargo run --release -p tollgate-ledger --example step`; the last line is JSON.
//!
//! The log is one that forgets: what the journal costs is the store's to measure.

use std::hint::black_box;
use std::sync::Arc;

use tollgate_ledger::books::Settlement;
use tollgate_ledger::{Amounts, Books, CapSet, Draft, Ledger, Log, LogUnavailable, Record};
use tollgate_types::directory::{Change, Directory, Plan, Tenant};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, EndUserId, PicoSum, PicoUsd, RequestId, Scope, Spender, Timestamp, Usage, Window, Zone,
};

const FEW: u32 = 10;
const MANY: u32 = 100_000;
const STEPS: u32 = 400_000;
const WINDOWS: [Window; 5] = [Window::Hour, Window::Day, Window::Week, Window::Month, Window::RollingDay];
/// 2026-11-30T20:00:00Z.
const START: Timestamp = Timestamp(1_796_068_800_000_000);
const CENT: Amounts = Amounts { cost: PicoUsd(10_000_000_000), charge: PicoUsd(12_000_000_000) };

#[derive(Debug)]
struct Forgetful;

impl Log for Forgetful {
    type Position = u64;

    fn has_room(&self, _open: usize) -> Result<(), LogUnavailable> {
        Ok(())
    }

    fn is_writable(&self) -> Result<(), LogUnavailable> {
        Ok(())
    }

    fn append(&mut self, record: &Record) -> u64 {
        black_box(record);
        0
    }
}

fn main() {
    let bare = bytes_per_tenant(false);
    let capped = bytes_per_tenant(true);
    let few = ns_per_step(FEW);
    let many = ns_per_step(MANY);
    let ratio_percent = many * 100 / few;
    println!("{few} ns of CPU a step with {FEW} tenants, {many} ns with {MANY}: {ratio_percent} %");
    println!("{bare} bytes a tenant that has spent (tenant, project and key), {capped} with five caps on each");
    println!(
        "{{\"ns_few\":{few},\"ns_many\":{many},\"ratio_percent\":{ratio_percent},\"bytes_per_tenant\":{bare},\
         \"bytes_per_tenant_capped\":{capped}}}"
    );
}

/// Of a reservation and its posting, each time by another tenant.
fn ns_per_step(tenants: u32) -> u128 {
    let books = books(tenants);
    let drafts: Vec<Draft> = (0..tenants).map(|tenant| draft(spender(tenant))).collect();
    cap(&books, Scope::Platform);
    cap(&books, Scope::Plan(Plan::standard().id));
    for Draft { spender, .. } in &drafts {
        spender.scopes().skip(2).for_each(|scope| cap(&books, scope));
    }
    let mut dice = 1u64;
    let mut run = |steps: u32| {
        for _ in 0..steps {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let tenant = usize::try_from((dice >> 33) % u64::from(tenants)).expect("few enough");
            step(&books, Draft { id: RequestId(u128::from(dice)), ..drafts[tenant].clone() });
        }
    };
    run(STEPS / 2);
    let before = cpu_ns();
    run(STEPS);
    let elapsed = (cpu_ns() - before) / u128::from(STEPS);
    assert_eq!(books.audit().drift, PicoSum::ZERO);
    elapsed
}

fn bytes_per_tenant(with_caps: bool) -> usize {
    let books = books(MANY);
    let before = resident_bytes();
    for tenant in 0..MANY {
        let spender = Spender { end_user: None, ..spender(tenant) };
        if with_caps {
            spender.scopes().skip(2).for_each(|scope| cap(&books, scope));
        }
        step(&books, Draft { id: RequestId(u128::from(tenant)), ..draft(spender) });
        // As every few seconds in life.
        if tenant % 1_000 == 999 {
            books.tidy();
        }
    }
    (resident_bytes() - before) / usize::try_from(MANY).expect("few enough")
}

fn step(books: &Arc<Books<Forgetful>>, draft: Draft) {
    let (reservation, ()) = books
        .reserve(draft, |headroom| {
            black_box(headroom);
            (CENT, ())
        })
        .expect("the caps are wide");
    let (usage, confidence, outcome) = (Usage::default(), Confidence::Measured, Outcome::Completed);
    let amounts = Amounts { cost: PicoUsd(CENT.cost.0 / 2), charge: PicoUsd(CENT.charge.0 / 2) };
    reservation.post(Settlement { usage, amounts, confidence, outcome }).expect("pending");
}

/// Everybody is known before anything is measured: the names are the directory's.
fn books(tenants: u32) -> Arc<Books<Forgetful>> {
    let mut directory = Directory::default();
    let plan = Plan::standard();
    directory.apply(Change::PlanSet(plan.clone()));
    for tenant in 0..tenants {
        let spender = spender(tenant);
        directory.apply(Change::TenantCreated(Tenant::new(spender.tenant.clone(), plan.id.clone(), START)));
        let (tenant, id) = (spender.tenant.clone(), spender.project.clone());
        let project = tollgate_types::directory::Project { tenant, id, created_at: START, label: None };
        directory.apply(Change::ProjectCreated(project));
        let (id, tenant, project) = (spender.key, spender.tenant, spender.project);
        let key = tollgate_types::directory::ApiKey::new(id, tenant, project, [0; 32], START);
        directory.apply(Change::KeyCreated(Box::new(key)));
    }
    Arc::new(Books::new(Ledger::default(), directory, Forgetful, Clock::manual(START)))
}

fn cap(books: &Books<Forgetful>, scope: Scope) {
    for window in WINDOWS {
        let (basis, cap, at) = (Basis::Cost, Some(PicoSum(i128::from(u64::MAX) * 1_000)), START);
        let change = CapSet { scope: scope.clone(), window, basis, cap, alerts: Default::default(), at };
        books.set_cap(change).expect("everybody is known");
    }
}

fn spender(tenant: u32) -> Spender {
    let mut end_user = [0; 16];
    end_user[..4].copy_from_slice(&tenant.to_be_bytes());
    Spender {
        plan: Plan::standard().id,
        tenant: format!("tenant-{tenant}").parse().expect("a slug"),
        project: "default".parse().expect("a slug"),
        key: format!("key-{tenant}").parse().expect("a slug"),
        end_user: Some(EndUserId(end_user)),
    }
}

fn draft(spender: Spender) -> Draft {
    Draft {
        id: RequestId(0),
        deadline: Timestamp(i64::MAX),
        spender,
        zone: Zone::UTC,
        route: "small".into(),
        provider: "sim".into(),
        model: "small-1".into(),
        stream: false,
        price_version: "bench-1".into(),
        idempotency: None,
        attribution: None,
        policy: None,
    }
}

/// What this process has computed so far: others on the machine do not count.
fn cpu_ns() -> u128 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells how long a process ran");
    schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first number is nanoseconds")
}

/// Pages of 4,096 bytes that are in memory.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells what a process uses");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is what is resident") * 4_096
}
