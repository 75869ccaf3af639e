//! The view against the plainest model there is: a fold of the records into a map of events.
#![expect(clippy::disallowed_methods, reason = "the tests damage and copy files of the view")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use tollgate_ledger::account::Columns;
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{
    Amounts, Audit, Books, CapSet, Draft, Idempotency, Ledger, MemoryLog, Posted, Record, Reservation, Reserved,
    Settlement, Use, Voided,
};
use tollgate_types::directory::{
    ApiKey, Change, Directory, KeyScopes, Limits, Plan, Project, Sealed, Tariff, Tenant, TightBudget,
};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Basis, Clock, Confidence, EndUserId, KeyId, Month, PicoSum, PicoUsd, ProjectId, RequestId, Scope, Spender,
    TenantId, Timestamp, Usage, UtcOffset, Window, Zone,
};

use super::*;

/// 2026-11-30T23:59:59Z, a second before a month ends.
const START: Timestamp = Timestamp(1_796_083_199_000_000);
const DAY: Duration = Duration::from_secs(86_400);

// === what the tests are made of ===

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder for the test") }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("view.sqlite")
    }

    fn view(&self) -> View {
        View::open(&self.path()).expect("the view opens")
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path()).expect("the view opens for reading")
    }

    fn wal(&self) -> PathBuf {
        self.dir.path().join("view.sqlite-wal")
    }

    /// What a crash at this moment leaves: the database, and as much of its log as `keep` says.
    fn crashed(&self, keep: impl Fn(usize) -> usize) -> Place {
        let copy = Place::new();
        fs::copy(self.path(), copy.path()).expect("the database is there");
        let mut log = fs::read(self.wal()).expect("the log is there");
        log.truncate(keep(log.len()));
        fs::write(copy.wal(), log).expect("the log can be copied");
        copy
    }
}

fn tenant(n: u8) -> TenantId {
    ["ant", "bee"][usize::from(n) % 2].parse().expect("a slug")
}

fn project(n: u8) -> ProjectId {
    ["default", "extra"][usize::from(n) % 2].parse().expect("a slug")
}

fn key(tenant: &TenantId, n: u8) -> KeyId {
    format!("k{}-{tenant}", n % 2).parse().expect("a slug")
}

fn spender(tenant: TenantId, n: u8, end_user: Option<EndUserId>) -> Spender {
    Spender { plan: Plan::standard().id, project: project(n), key: key(&tenant, n), tenant, end_user }
}

fn amounts(cost: u64, charge: u64) -> Amounts {
    Amounts { cost: PicoUsd(cost), charge: PicoUsd(charge) }
}

fn usage(tokens: u64) -> Usage {
    Usage {
        input_tokens: tokens,
        cached_input_tokens: tokens / 2,
        cache_write_tokens: tokens.is_multiple_of(2).then_some(tokens / 5),
        audio_input_tokens: tokens / 7,
        output_tokens: tokens / 3,
        reasoning_tokens: 1,
        audio_output_tokens: tokens / 11,
        cpu_us: tokens.wrapping_mul(13),
    }
}

fn reserved(id: u128, hold: Amounts) -> Reserved {
    Reserved {
        id: RequestId(id),
        at: START,
        deadline: START.plus(Duration::from_secs(600)),
        spender: spender(tenant(0), 0, Some(EndUserId([8; 16]))),
        offset: UtcOffset(-12_600),
        hold,
        route: "fast".into(),
        provider: "sim".into(),
        model: "gpt-4o-mini".into(),
        stream: true,
        price_version: "2026-11-01".into(),
        idempotency: Some(Idempotency { key: [4; 16], body: [5; 16] }),
        attribution: Some(Sealed([1, 2, 3].into())),
        policy: Some([7; 16]),
    }
}

fn posted(id: u128, amounts: Amounts) -> Posted {
    Posted {
        id: RequestId(id),
        at: START.plus(Duration::from_secs(2)),
        usage: usage(100),
        amounts,
        overrun: Amounts::ZERO,
        confidence: Confidence::Measured,
        outcome: Outcome::Completed,
    }
}

fn voided(id: u128) -> Voided {
    Voided { id: RequestId(id), at: START.plus(Duration::from_secs(1)), outcome: Outcome::NotSent }
}

fn doubted(id: u128) -> Record {
    Record::Indeterminate { id: RequestId(id), at: START }
}

fn reserve(id: u128) -> Record {
    Record::Reserved(Box::new(reserved(id, amounts(700, 900))))
}

/// Numbers the records as a journal does.
fn numbered(records: &[Record]) -> Vec<(u64, Record)> {
    (1..).zip(records.iter().cloned()).collect()
}

/// Every row of every table.
fn dump(view: &View) -> Vec<String> {
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut names = view.connection.prepare(names).expect("the schema can be read");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("names").map(|name| name.expect("a name")).collect();
    names.iter().flat_map(|name| dump_table(view, name)).collect()
}

fn dump_table(view: &View, name: &str) -> Vec<String> {
    let mut select = view.connection.prepare(&format!("SELECT * FROM {name}")).expect("a table");
    let columns = select.column_count();
    let shown = |row: &rusqlite::Row<'_>| {
        let cells = (0..columns).map(|n| row.get::<_, rusqlite::types::Value>(n).expect("a cell"));
        Ok(format!("{name}: {:?}", cells.collect::<Vec<_>>()))
    };
    let rows = select.query_map([], shown).expect("rows").map(|row| row.expect("a row"));
    rows.collect()
}

// === the model ===

fn model(records: &[Record]) -> BTreeMap<RequestId, UsageEvent> {
    let mut events = BTreeMap::new();
    for record in records {
        match record {
            Record::Reserved(reserved) => {
                let event = UsageEvent {
                    reserved: (**reserved).clone(),
                    extended_at: None,
                    state: EventState::Pending,
                    adjustments: 0,
                    end: None,
                };
                events.insert(reserved.id, event);
            }
            Record::Posted(Posted { id, at, usage, amounts, overrun, confidence, outcome }) => {
                let event = events.get_mut(id).expect("reserved before it was posted");
                event.state = EventState::Posted;
                event.end = Some(EventEnd {
                    ended_at: *at,
                    usage: *usage,
                    amounts: *amounts,
                    overrun: *overrun,
                    confidence: Some(*confidence),
                    outcome: *outcome,
                });
            }
            Record::Voided(Voided { id, at, outcome }) => {
                let event = events.get_mut(id).expect("reserved before it was voided");
                event.state = EventState::Voided;
                event.end = Some(EventEnd {
                    ended_at: *at,
                    usage: Usage::default(),
                    amounts: Amounts::ZERO,
                    overrun: Amounts::ZERO,
                    confidence: None,
                    outcome: *outcome,
                });
            }
            Record::Indeterminate { id, .. } => {
                events.get_mut(id).expect("reserved before it was doubted").state = EventState::Indeterminate;
            }
            Record::Extended(extended) => {
                let event = events.get_mut(&extended.id).expect("reserved before its hold grew");
                event.extended_at = Some(extended.at);
                let reserved = &mut event.reserved;
                reserved.hold = extended.hold;
                reserved.provider = Arc::clone(&extended.provider);
                reserved.model = Arc::clone(&extended.model);
                reserved.price_version = Arc::clone(&extended.price_version);
            }
            Record::Adjusted(adjusted) => {
                let event = events.get_mut(&adjusted.id).expect("reserved before it was adjusted");
                event.adjustments += 1;
                event.reserved.price_version = Arc::clone(&adjusted.price_version);
                let end = event.end.as_mut().expect("posted before it was adjusted");
                (end.usage, end.amounts, end.overrun) = (adjusted.usage, adjusted.now.amounts, adjusted.now.overrun);
                end.confidence = Some(adjusted.now.confidence);
            }
            Record::CapSet(_) | Record::Directory(_) | Record::PricesSet { .. } | Record::Audited(_) => {}
        }
    }
    events
}

fn totals<'a>(events: impl IntoIterator<Item = &'a UsageEvent>) -> ViewTotals {
    let mut totals = ViewTotals::default();
    let add = |columns: &mut Columns, amounts: Amounts| {
        columns.cost.0 += i128::from(amounts.cost.0);
        columns.charge.0 += i128::from(amounts.charge.0);
    };
    for event in events {
        let hold = event.reserved.hold;
        add(&mut totals.held, hold);
        match event.state {
            EventState::Pending => {
                totals.requests.pending += 1;
                add(&mut totals.pending, hold);
            }
            EventState::Indeterminate => {
                totals.requests.indeterminate += 1;
                add(&mut totals.indeterminate, hold);
            }
            EventState::Voided => totals.requests.voided += 1,
            EventState::Posted => totals.requests.posted += 1,
        }
        let Some(end) = event.end else { continue };
        add(&mut totals.posted, end.amounts);
        add(&mut totals.released, hold.beyond(end.amounts));
        add(&mut totals.overrun, end.overrun);
        if end.confidence == Some(Confidence::Bounded) {
            add(&mut totals.bounded, end.amounts);
        }
        totals.tokens.input_tokens += u128::from(end.usage.input_tokens);
        totals.tokens.cached_input_tokens += u128::from(end.usage.cached_input_tokens);
        totals.tokens.output_tokens += u128::from(end.usage.output_tokens);
        totals.tokens.reasoning_tokens += u128::from(end.usage.reasoning_tokens);
        totals.tokens.cache_write_tokens += u128::from(end.usage.cache_write_tokens.unwrap_or(0));
        totals.tokens.audio_input_tokens += u128::from(end.usage.audio_input_tokens);
        totals.tokens.audio_output_tokens += u128::from(end.usage.audio_output_tokens);
        totals.tokens.cpu_us += u128::from(end.usage.cpu_us);
    }
    totals
}

fn selects(filter: &UsageFilter, event: &UsageEvent) -> bool {
    let UsageFilter { tenant, project, key, from, to, month, state, after, limit: _ } = filter;
    let reserved = &event.reserved;
    tenant.as_ref().is_none_or(|tenant| *tenant == reserved.spender.tenant)
        && project.as_ref().is_none_or(|project| *project == reserved.spender.project)
        && key.as_ref().is_none_or(|key| *key == reserved.spender.key)
        && from.is_none_or(|from| from <= reserved.at)
        && to.is_none_or(|to| reserved.at < to)
        && month.is_none_or(|month| month == Month::of(reserved.at, reserved.offset))
        && state.is_none_or(|state| state == event.state)
        && after.is_none_or(|after| after < reserved.id)
}

fn group_of(group_by: GroupBy, event: &UsageEvent) -> Group {
    let Reserved { spender, provider, model, at, .. } = event.reserved.clone();
    let Spender { tenant, project, key, .. } = spender;
    match group_by {
        GroupBy::Tenant => Group::Tenant(tenant),
        GroupBy::Project => Group::Project(tenant, project),
        GroupBy::Key => Group::Key(tenant, key),
        GroupBy::Model => Group::Model { provider, model },
        GroupBy::Day => Group::Day(Timestamp(i64::from(Window::Day.period(at, UtcOffset(0)).0) * 86_400_000_000)),
    }
}

fn summary(group_by: GroupBy, events: &[&UsageEvent]) -> Vec<SummaryRow> {
    let mut groups = BTreeMap::<String, (Group, Vec<&UsageEvent>)>::new();
    for event in events {
        let group = group_of(group_by, event);
        groups.entry(group.to_string()).or_insert((group, Vec::new())).1.push(event);
    }
    groups.into_values().map(|(group, events)| SummaryRow { group, totals: totals(events) }).collect()
}

const GROUPS: [GroupBy; 5] = [GroupBy::Tenant, GroupBy::Project, GroupBy::Key, GroupBy::Model, GroupBy::Day];

/// Asks the reader everything about a filter, and compares with the model.
fn check_filter(reader: &Reader, events: &BTreeMap<RequestId, UsageEvent>, filter: &UsageFilter) {
    let expected: Vec<&UsageEvent> = events.values().filter(|event| selects(filter, event)).collect();
    let mut seen = Vec::new();
    let mut filter = filter.clone();
    loop {
        let page = reader.usage(&filter).expect("a page");
        assert!(page.items.len() <= filter.limit.unwrap_or(query::USAGE_PAGE_MAX).max(1));
        seen.extend(page.items);
        let Some(next) = page.next else { break };
        assert_eq!(seen.last().map(|event| event.reserved.id), Some(next));
        filter.after = Some(next);
    }
    assert_eq!(seen.iter().collect::<Vec<_>>(), expected, "{filter:?}");
    filter.after = None;
    let expected: Vec<&UsageEvent> = events.values().filter(|event| selects(&filter, event)).collect();
    for group_by in GROUPS {
        let rows = reader.summary(&filter, group_by).expect("a summary");
        assert_eq!(rows, summary(group_by, &expected), "{filter:?} by {group_by:?}");
    }
}

// === tables ===

fn check(records: &[Record], expected: &[UsageEvent]) {
    let place = Place::new();
    let mut view = place.view();
    view.apply(&numbered(records)).expect("the records apply");
    let reader = place.reader();
    assert_eq!(reader.usage(&UsageFilter::default()).expect("a page").items, expected);
    for event in expected {
        assert_eq!(reader.event(event.reserved.id).expect("an answer").as_ref(), Some(event));
    }
    assert_eq!(view.totals().expect("sums"), totals(expected));
    assert_eq!(reader.totals_at().expect("sums"), (records.len() as u64, totals(expected)));
    assert_eq!((view.position(), reader.position().expect("a position")), (records.len() as u64, records.len() as u64));
}

#[test]
fn what_was_found_later_is_told_in_its_order_and_of_its_request_alone() {
    let standing = |cost, overrun, confidence| Standing {
        amounts: amounts(cost, cost + 1),
        overrun: amounts(overrun, 0),
        confidence,
    };
    let steps = [
        (standing(600, 0, Confidence::Measured), standing(650, 7, Confidence::Measured), Reason::Reconciled, "v1"),
        (standing(650, 7, Confidence::Measured), standing(400, 0, Confidence::Bounded), Reason::Repriced, "v2"),
    ];
    let adjusted = |(was, now, reason, version): &(Standing, Standing, Reason, &str)| {
        Record::Adjusted(Box::new(Adjusted {
            id: RequestId(1),
            at: START.plus(Duration::from_secs(9)),
            spender: reserved(1, amounts(700, 900)).spender,
            held_at: START,
            offset: UtcOffset(0),
            was: *was,
            now: *now,
            usage: usage(3),
            price_version: (*version).into(),
            reason: *reason,
        }))
    };
    let mut records = vec![reserve(1), reserve(2)];
    records.extend([1, 2].map(|id| Record::Posted(posted(id, amounts(600, 601)))));
    records.extend(steps.iter().map(adjusted));
    let place = Place::new();
    let mut view = place.view();
    view.apply(&numbered(&records)).expect("the records apply");
    let reader = place.reader();
    let told: Vec<_> = reader.adjustments_of(RequestId(1)).expect("an answer");
    let expected = steps.map(|(was, now, reason, version)| Adjustment {
        at: START.plus(Duration::from_secs(9)),
        reason,
        was,
        now,
        price_version: version.into(),
    });
    assert_eq!(told, expected);
    assert_eq!(reader.event(RequestId(1)).expect("an answer"), model(&records).remove(&RequestId(1)));
    assert_eq!(reader.adjustments_of(RequestId(2)).expect("an answer"), []);
}

#[test]
fn each_life_of_a_reservation_becomes_its_event() {
    let hold = amounts(700, 900);
    let event =
        |id, state, end| UsageEvent { reserved: reserved(id, hold), extended_at: None, state, adjustments: 0, end };
    let end = EventEnd {
        ended_at: START.plus(Duration::from_secs(2)),
        usage: usage(100),
        amounts: amounts(300, 400),
        overrun: Amounts::ZERO,
        confidence: Some(Confidence::Measured),
        outcome: Outcome::Completed,
    };
    let nothing = EventEnd {
        ended_at: START.plus(Duration::from_secs(1)),
        usage: Usage::default(),
        amounts: Amounts::ZERO,
        confidence: None,
        outcome: Outcome::NotSent,
        ..end
    };
    let post = Posted { ..posted(1, end.amounts) };
    let over = Posted { overrun: amounts(5, 6), confidence: Confidence::Bounded, ..posted(1, hold) };
    let overrun = EventEnd { amounts: hold, overrun: over.overrun, confidence: Some(Confidence::Bounded), ..end };

    check(&[], &[]);
    check(&[reserve(1)], &[event(1, EventState::Pending, None)]);
    check(&[reserve(1), Record::Posted(post.clone())], &[event(1, EventState::Posted, Some(end))]);
    check(&[reserve(1), Record::Posted(over)], &[event(1, EventState::Posted, Some(overrun))]);
    check(&[reserve(1), Record::Voided(voided(1))], &[event(1, EventState::Voided, Some(nothing))]);
    check(&[reserve(1), doubted(1)], &[event(1, EventState::Indeterminate, None)]);
    check(&[reserve(1), doubted(1), Record::Posted(post)], &[event(1, EventState::Posted, Some(end))]);
    check(
        &[reserve(2), reserve(u128::MAX), reserve(1)],
        &[1, 2, u128::MAX].map(|id| event(id, EventState::Pending, None)),
    );
}

#[test]
fn every_name_of_an_outcome_reads_back() {
    use Outcome::{
        ClientGone, Completed, CutAtHold, Expired, NotSent, ProviderBroke, ProviderRefused, Unknown, UsageMissing,
    };
    let all =
        [Completed, UsageMissing, ClientGone, ProviderBroke, ProviderRefused, NotSent, Unknown, Expired, CutAtHold];
    let records = (1..)
        .zip(all)
        .flat_map(|(id, outcome)| [reserve(id), Record::Posted(Posted { outcome, ..posted(id, Amounts::ZERO) })]);
    let records: Vec<Record> = records.collect();
    check(&records, &model(&records).into_values().collect::<Vec<_>>());
}

#[test]
fn amounts_and_tokens_of_64_bits_are_kept_and_summed_exactly() {
    let edges = [0, 1, u64::from(u32::MAX), 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
    let most = Usage {
        input_tokens: u64::MAX,
        cached_input_tokens: u64::MAX,
        cache_write_tokens: Some(u64::MAX),
        audio_input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        reasoning_tokens: u64::MAX,
        audio_output_tokens: u64::MAX,
        cpu_us: u64::MAX,
    };
    let records: Vec<Record> = (1..)
        .zip(edges)
        .flat_map(|(id, edge)| {
            let all = amounts(edge, u64::MAX);
            let post = Posted { usage: most, overrun: all, confidence: Confidence::Bounded, ..posted(id, all) };
            let open = RequestId(id + 100);
            [
                Record::Reserved(Box::new(reserved(id, all))),
                Record::Posted(post),
                Record::Reserved(Box::new(Reserved { id: open, ..reserved(0, all) })),
            ]
        })
        .collect();
    let expected: Vec<UsageEvent> = model(&records).into_values().collect();
    check(&records, &expected);
    let sum = totals(&expected);
    assert_eq!(sum.posted.charge, PicoSum(8 * i128::from(u64::MAX)));
    assert_eq!(sum.pending.cost, PicoSum(edges.map(i128::from).into_iter().sum()));
    assert_eq!(sum.tokens.input_tokens, 8 * u128::from(u64::MAX));
}

#[test]
fn the_directory_caps_and_price_books_are_kept_without_secrets() {
    let digest = *b"digest-that-nobody-needs-to-see!";
    let created = ApiKey {
        id: "k1".parse().expect("a slug"),
        tenant: tenant(0),
        project: project(0),
        digest,
        created_at: START,
        expires_at: None,
        revoked_at: None,
        scopes: KeyScopes { chat: true, embeddings: false, models: true },
        limits: Limits { requests_per_minute: Some(u32::MAX), tokens_per_minute: Some(u64::MAX), ..Limits::default() },
        label: Some(Sealed([9].into())),
    };
    let plan = Plan { unpriced_hold: Some(PicoUsd::MAX), tight_budget: TightBudget::Clamp, ..Plan::standard() };
    let cap = |scope, cap| CapSet {
        scope,
        window: Window::Month,
        basis: Basis::Charge,
        cap,
        alerts: [PicoSum(1), PicoSum(2)].into_iter().collect(),
        at: Timestamp(7),
    };
    let revoked = |at| Change::KeyRevoked { id: created.id.clone(), at: Timestamp(at) };
    let tenant_of = |plan: &str| Tenant {
        id: tenant(0),
        plan: plan.parse().expect("a slug"),
        created_at: Timestamp(1),
        label: Some(Sealed([5].into())),
        zone: "Europe/Berlin".parse().expect("a zone"),
        tariff: Some(Box::new(Tariff { markup_bps: 5, ..Tariff::default() })),
    };
    let project_made = Project { tenant: tenant(0), id: project(0), created_at: Timestamp(2), label: None };
    let changes = [
        Change::PlanSet(Plan::standard()),
        Change::PlanSet(plan),
        Change::TenantCreated(tenant_of("standard")),
        Change::ProjectCreated(project_made),
        Change::KeyCreated(Box::new(created.clone())),
        revoked(11),
        revoked(12),
    ];
    let mut records: Vec<Record> = changes.into_iter().map(Record::Directory).collect();
    records.push(Record::CapSet(cap(Scope::Tenant(tenant(0)), Some(PicoSum(i128::MAX)))));
    records.push(Record::CapSet(cap(Scope::Project(tenant(0), project(0)), None)));
    records.push(Record::CapSet(cap(Scope::Key(tenant(0), created.id.clone()), Some(PicoSum(0)))));
    records.push(Record::PricesSet { version: "v1".into(), sha256: [1; 32], at: Timestamp(13) });
    records.push(Record::CapSet(cap(Scope::Platform, Some(PicoSum(9)))));
    records.push(Record::CapSet(cap(Scope::EachTenant(Plan::standard().id), Some(PicoSum(9)))));
    let limits = Limits { tokens_per_minute: Some(u64::MAX), ..Limits::default() };
    records.push(Record::Directory(Change::LimitsSet { scope: Scope::Tenant(tenant(0)), limits }));
    let Tenant { id, plan, tariff, .. } = tenant_of("standard");
    let zone = "Asia/Tokyo".parse().expect("a zone");
    records.push(Record::Directory(Change::TenantChanged { id, plan, zone, tariff }));

    let place = Place::new();
    let mut view = place.view();
    view.apply(&numbered(&records)).expect("the records apply");
    let shown = dump(&view).join("\n").replace("Integer", "").replace("Text", "").replace("Blob", "");
    let max = i128::MAX;
    let free = format!("{:?}", json(&Tariff::default()));
    let five = format!("{:?}", json(&Tariff { markup_bps: 5, ..Tariff::default() }));
    for line in [
        format!(r#"caps: [(8), (7), ("tenant"), ("ant"), (""), ("month"), ("charge"), ("{max}"), ("1 2")]"#),
        r#"caps: [(9), (7), ("project"), ("ant"), ("default"), ("month"), ("charge"), Null, ("1 2")]"#.to_owned(),
        r#"caps: [(10), (7), ("key"), ("ant"), ("k1"), ("month"), ("charge"), ("0"), ("1 2")]"#.to_owned(),
        r#"caps: [(12), (7), ("platform"), (""), (""), ("month"), ("charge"), ("9"), ("1 2")]"#.to_owned(),
        r#"caps: [(13), (7), ("each tenant"), (""), ("standard"), ("month"), ("charge"), ("9"), ("1 2")]"#.to_owned(),
        r#"limits: [("tenant"), ("ant"), (""), Null, (-1), Null]"#.to_owned(),
        format!(
            r#"keys: [("k1"), ("ant"), ("default"), ({}), Null, (11), ("chat models"), (4294967295), (-1), Null, ([9])]"#,
            START.0
        ),
        format!(r#"plans: [("standard"), ({free}), ("clamp"), Null, Null, Null, (-1), Null]"#),
        r#"position: [(15), (13)]"#.to_owned(),
        r#"projects: [("ant"), ("default"), (2), Null]"#.to_owned(),
        format!(r#"tenants: [("ant"), ("standard"), (1), ([5]), ("Asia/Tokyo"), ({five})]"#),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\nis not in\n{shown}");
    }
    assert!(shown.contains(r#"price_books: [(11), (13), ("v1"), ([1, 1"#));
    for file in [place.path(), place.wal()] {
        let bytes = fs::read(file).expect("a file of the view");
        assert!(!bytes.windows(digest.len()).any(|window| window == digest), "a digest is in the view's file");
    }
}

#[test]
fn an_idempotency_key_stands_for_the_one_request_of_its_tenant_that_was_not_voided() {
    let place = Place::new();
    let mut view = place.view();
    let reader = place.reader();
    let reserve = |id: u128, body: u8| {
        let idempotency = Some(Idempotency { key: [4; 16], body: [body; 16] });
        Record::Reserved(Box::new(Reserved { idempotency, ..reserved(id, amounts(700, 900)) }))
    };
    let key_use = |of: u8, key: u8| reader.key_use(&tenant(of), [key; 16]).expect("readable");
    let stands_for = |id: u128, body: u8, open: bool| Some(Use { first: RequestId(id), body: [body; 16], open });
    assert_eq!(key_use(0, 4), (None, Timestamp(0)), "nothing is held, so nothing is known");
    view.apply(&[(1, reserve(1, 1))]).expect("it applies");
    assert_eq!(key_use(0, 4), (stands_for(1, 1, true), START));
    view.apply(&[(2, Record::Voided(voided(1)))]).expect("it applies");
    assert_eq!(key_use(0, 4), (None, voided(1).at));
    let charged = Record::Posted(posted(2, amounts(1, 1)));
    view.apply(&[(3, reserve(2, 2)), (4, doubted(2)), (5, charged)]).expect("they apply");
    assert_eq!(key_use(0, 4), (stands_for(2, 2, false), posted(2, amounts(1, 1)).at));
    assert_eq!([key_use(1, 4).0, key_use(0, 5).0], [None, None]);
}

// === order, repetition, contradiction ===

#[test]
fn what_the_view_has_is_skipped_and_a_gap_is_refused() {
    let place = Place::new();
    let mut view = place.view();
    let records = numbered(&[reserve(1), reserve(2), Record::Voided(voided(1)), reserve(3)]);
    view.apply(&records[..3]).expect("the first three");
    let before = dump(&view);
    view.apply(&records[..3]).expect("the same again");
    view.apply(&records[1..2]).expect("one of them again");
    view.apply(&[]).expect("nothing");
    assert_eq!((view.position(), dump(&view)), (3, before.clone()));

    let gap = view.apply(&[(5, reserve(5))]);
    assert!(matches!(gap, Err(ViewError::Gap { position: 3, found: 5 })), "{gap:?}");
    let gap = view.apply(&[(4, reserve(4)), (6, reserve(6))]);
    assert!(matches!(gap, Err(ViewError::Gap { position: 4, found: 6 })), "{gap:?}");
    assert_eq!((view.position(), dump(&view)), (3, before), "a refused batch leaves nothing behind");
    view.apply(&records).expect("all, of which the last is new");
    assert_eq!(view.position(), 4);
    drop(view);
    assert_eq!(place.view().position(), 4, "the position outlives the process");
}

#[test]
fn a_record_that_contradicts_the_view_is_refused_with_its_batch() {
    let check = |records: &[Record]| {
        let (contradicting, fine) = records.split_last().expect("at least one record");
        let place = Place::new();
        let mut view = place.view();
        view.apply(&numbered(fine)).expect("these are fine");
        let before = dump(&view);
        let sequence = records.len() as u64;
        let refused = view.apply(&[(sequence, contradicting.clone()), (sequence + 1, reserve(9))]);
        assert!(
            matches!(refused, Err(ViewError::Contradiction { sequence: at, id: RequestId(1) }) if at == sequence),
            "{refused:?}"
        );
        assert_eq!(dump(&view), before);
    };
    let post = || Record::Posted(posted(1, Amounts::ZERO));
    check(&[post()]);
    check(&[Record::Voided(voided(1))]);
    check(&[doubted(1)]);
    check(&[reserve(1), reserve(1)]);
    check(&[reserve(1), post(), post()]);
    check(&[reserve(1), post(), reserve(1)]);
    check(&[reserve(1), Record::Voided(voided(1)), doubted(1)]);
    check(&[reserve(1), doubted(1), Record::Voided(voided(1))]);
}

// === crashes and damage ===

#[test]
fn a_crash_half_way_through_a_batch_leaves_the_state_before_it() {
    let place = Place::new();
    let mut view = place.view();
    let records: Vec<Record> = (1..=600).map(reserve).collect();
    let records = numbered(&records);
    view.apply(&records[..100]).expect("the first batch");
    let before = dump(&view);
    let log_bytes = || fs::metadata(place.wal()).expect("the log is there").len();
    let log_before = log_bytes();
    view.connection.pragma_update(None, "cache_size", 4).expect("a cache too small for the batch");
    let transaction = view.connection.transaction().expect("a transaction");
    write(&transaction, &records[..500]).expect("half of the next batch");
    assert!(log_bytes() > log_before, "the half batch must have reached the disk for this to prove anything");
    let crashed = place.crashed(|whole| whole);
    drop(transaction);
    assert_eq!(dump(&view), before, "an error rolls back as a crash does");

    let mut after = crashed.view();
    assert_eq!((after.position(), dump(&after)), (100, before));
    after.apply(&records).expect("the journal goes on from there");
    view.apply(&records).expect("here too");
    assert_eq!(dump(&after), dump(&view));
}

#[test]
fn a_log_cut_anywhere_leaves_whole_batches() {
    let place = Place::new();
    let mut view = place.view();
    let records: Vec<Record> = (1..=40).flat_map(|id| [reserve(id), Record::Voided(voided(id))]).collect();
    let records = numbered(&records);
    let mut states = vec![dump(&view)];
    for batch in records.chunks(20) {
        view.apply(batch).expect("a batch");
        states.push(dump(&view));
    }
    let mut found = Vec::new();
    for hundredth in 0..=100 {
        let crashed = place.crashed(|whole| whole * hundredth / 100);
        // The database was made in the log as well: cut early, it is the empty file of before that.
        let mut after = crashed.view();
        let batches = usize::try_from(after.position() / 20).expect("a few batches");
        assert_eq!(dump(&after), states[batches], "cut at {hundredth} %");
        found.push(after.position());
        after.apply(&records).expect("the journal goes on from there");
        assert_eq!(dump(&after), states[4]);
    }
    found.dedup();
    assert_eq!(found, [0, 20, 40, 60, 80], "the cuts fell into every batch");
}

fn assert_rebuild<T: std::fmt::Debug>(result: Result<T, ViewError>, why: &str) {
    assert!(matches!(&result, Err(ViewError::Rebuild(reason)) if reason.contains(why)), "{result:?}");
}

#[test]
fn what_is_not_this_version_of_a_view_must_be_made_again_and_can_be() {
    let check = |damage: &dyn Fn(&Place), why: &str| {
        let place = Place::new();
        let records = numbered(&[reserve(1), Record::Voided(voided(1))]);
        place.view().apply(&records).expect("the records apply");
        damage(&place);
        assert_rebuild(View::open(&place.path()), why);
        assert_rebuild(Reader::open(&place.path()), why);
        let mut anew = View::create_anew(&place.path()).expect("a new view");
        assert_eq!(anew.position(), 0);
        anew.apply(&records).expect("the records apply again");
        assert_eq!(place.reader().position().expect("a position"), 2);
    };
    let run = |place: &Place, sql: &str| {
        Connection::open(place.path())
            .and_then(|connection| connection.execute_batch(sql))
            .expect("the damage is done");
    };
    let overwrite = |place: &Place, bytes: &[u8]| fs::write(place.path(), bytes).expect("the damage is done");
    check(&|place| run(place, "PRAGMA user_version = 1"), "version 1");
    check(&|place| run(place, "PRAGMA user_version = 0"), "version 0");
    check(&|place| run(place, "PRAGMA application_id = 0"), "some other database");
    check(&|place| run(place, "DROP TABLE position"), "no such table");
    check(&|place| run(place, "DELETE FROM position"), "no rows");
    check(&|place| overwrite(place, b"not a database"), "not a database");
    check(&|place| overwrite(place, &[0xa5; 8192]), "not a database");
}

#[test]
fn a_damaged_page_is_told_apart_wherever_it_is_met() {
    let place = Place::new();
    let records: Vec<Record> = (1..=500).map(reserve).collect();
    place.view().apply(&numbered(&records)).expect("the records apply");
    let mut bytes = fs::read(place.path()).expect("the view's file");
    let pages = bytes.len() / 4096;
    assert!(pages > 20, "the events fill {pages} pages");
    // The first pages hold the schema, the roots and the position.
    bytes[4096 * 17..].fill(0xa5);
    fs::write(place.path(), bytes).expect("the damage is done");
    let mut view = place.view();
    let reader = place.reader();
    assert_rebuild(view.totals(), "malformed");
    assert_rebuild(reader.usage(&UsageFilter::default()), "malformed");
    assert_rebuild(reader.summary(&UsageFilter::default(), GroupBy::Day), "malformed");
    assert_rebuild(view.apply(&[(501, Record::Voided(voided(500)))]), "malformed");
}

#[test]
fn an_empty_file_is_an_empty_view_and_a_missing_one_is_not_for_readers() {
    let place = Place::new();
    assert!(matches!(Reader::open(&place.path()), Err(ViewError::Database(_))));
    fs::write(place.path(), b"").expect("an empty file");
    assert_eq!(place.view().position(), 0);
    assert_eq!(place.reader().usage(&UsageFilter::default()).expect("a page"), Page { items: vec![], next: None });
    assert_eq!(place.reader().event(RequestId(1)).expect("an answer"), None);
}

// === questions ===

#[test]
fn every_filter_finds_what_looking_through_all_events_finds() {
    let (records, _) = history(&steps_of_a_busy_week());
    let events = model(&records);
    let place = Place::new();
    place.view().apply(&numbered(&records)).expect("the records apply");
    let reader = place.reader();
    let times = [None, Some(START.plus(DAY))];
    let states = [
        None,
        Some(EventState::Pending),
        Some(EventState::Posted),
        Some(EventState::Voided),
        Some(EventState::Indeterminate),
    ];
    for state in states {
        assert!(events.values().any(|event| state.is_none_or(|state| state == event.state)), "no event is {state:?}");
        for bits in 0..32_u8 {
            let has = |bit: u8| bits & 1 << bit != 0;
            let filter = UsageFilter {
                tenant: has(0).then(|| tenant(1)),
                project: has(1).then(|| project(1)),
                key: has(2).then(|| key(&tenant(1), 0)),
                from: times[usize::from(has(3))],
                to: times[usize::from(has(4))].map(|at| at.plus(DAY)),
                month: has(3).then(|| Month::of(START, UtcOffset(0))),
                state,
                after: None,
                limit: Some(usize::from(bits % 5)),
            };
            check_filter(&reader, &events, &filter);
        }
    }
}

#[test]
fn a_page_has_no_more_than_its_limit_and_never_more_than_the_greatest() {
    let place = Place::new();
    let records: Vec<Record> = (1..=1_001).map(reserve).collect();
    place.view().apply(&numbered(&records)).expect("the records apply");
    let reader = place.reader();
    let check = |limit: Option<usize>, length: usize, next: Option<u128>| {
        let page = reader.usage(&UsageFilter { limit, ..UsageFilter::default() }).expect("a page");
        assert_eq!((page.items.len(), page.next), (length, next.map(RequestId)), "{limit:?}");
    };
    check(None, 1_000, Some(1_000));
    check(Some(usize::MAX), 1_000, Some(1_000));
    check(Some(3), 3, Some(3));
    check(Some(0), 1, Some(1));
    let last = UsageFilter { after: Some(RequestId(1_000)), limit: Some(1), ..UsageFilter::default() };
    let page = reader.usage(&last).expect("a page");
    assert_eq!((page.items.len(), page.next), (1, None));
}

#[test]
fn groups_are_shown_as_a_person_would_write_them() {
    let check = |group: Group, shown: &str| assert_eq!(group.to_string(), shown);
    check(Group::Tenant(tenant(0)), "ant");
    check(Group::Project(tenant(0), project(0)), "ant/default");
    check(Group::Key(tenant(0), key(&tenant(0), 1)), "ant/k1-ant");
    check(Group::Model { provider: "groq".into(), model: "llama".into() }, "groq/llama");
    check(Group::Day(Timestamp(1_796_083_200_000_000)), "2026-12-01");
    check(Group::Day(Timestamp(-86_400_000_000)), "1969-12-31");
}

#[test]
fn a_day_begins_at_midnight_before_1970_too() {
    let place = Place::new();
    let at = |id, at| Record::Reserved(Box::new(Reserved { at: Timestamp(at), ..reserved(id, Amounts::ZERO) }));
    let day = 86_400_000_000;
    let records = [at(1, -1), at(2, -day), at(3, -day - 1), at(4, 0), at(5, day - 1), at(6, day)];
    place.view().apply(&numbered(&records)).expect("the records apply");
    let rows = place.reader().summary(&UsageFilter::default(), GroupBy::Day).expect("a summary");
    let days: Vec<_> = rows.into_iter().map(|row| (row.group, row.totals.requests.pending)).collect();
    let expected = [(-2 * day, 1), (-day, 2), (0, 2), (day, 1)];
    assert_eq!(days, expected.map(|(midnight, requests)| (Group::Day(Timestamp(midnight)), requests)));
}

#[test]
fn readers_on_many_threads_see_whole_batches_while_the_view_is_written() {
    const BATCH: usize = 30;
    let place = Place::new();
    let mut view = place.view();
    let reader = place.reader();
    let records: Vec<Record> = (1..=900).map(reserve).collect();
    let done = AtomicBool::new(false);
    let look = || {
        let (mut looks, mut last) = (0, 0);
        while !done.load(Ordering::SeqCst) || looks == 0 {
            let (position, totals) = reader.totals_at().expect("sums");
            assert_eq!(totals.requests.pending, position);
            assert_eq!(position % BATCH as u64, 0);
            assert!(position >= last, "the view never goes back");
            let seen = reader.usage(&UsageFilter::default()).expect("a page").items.len();
            assert!(seen as u64 >= position && seen.is_multiple_of(BATCH));
            (looks, last) = (looks + 1, position);
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..6).map(|_| scope.spawn(look)).collect();
        for batch in numbered(&records).chunks(BATCH) {
            view.apply(batch).expect("a batch");
        }
        done.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().expect("no reader failed"));
    });
    assert_eq!(reader.position().expect("a position"), 900);
}

// === random histories of real books ===

#[derive(Clone, Debug)]
enum Step {
    Reserve { who: u8, hold: (u64, u64), id_millis_before: u16 },
    End { which: u8, how: End },
    Advance { seconds: u32 },
    Recover,
    Sweep,
    SettleAged,
    Cap { who: u8, cap: Option<u64> },
    Revoke { who: u8 },
    Plan { markup_bps: u32 },
    Prices,
}

#[derive(Clone, Debug)]
enum End {
    Post { amounts: (u64, u64), tokens: u64, bounded: bool },
    Bounded,
    Void,
    DropUnsent,
    DropSent,
}

fn steps_of_a_busy_week() -> Vec<Step> {
    let round = |n: u8| {
        let reserve = |who| Step::Reserve { who, hold: (1_000 + u64::from(n), 2_000), id_millis_before: u16::from(n) };
        let end = |how| Step::End { which: n, how };
        let mut round: Vec<Step> = (0..8).map(reserve).collect();
        round.extend([
            end(End::Post { amounts: (900, 900), tokens: 77, bounded: n.is_multiple_of(2) }),
            end(End::Bounded),
            end(End::Void),
            end(End::DropSent),
            Step::Advance { seconds: 30_000 },
        ]);
        if n == 3 {
            round.push(Step::Recover);
        }
        round
    };
    (0..10).flat_map(round).collect()
}

/// Two tenants, each with two projects and a key to each of them.
fn founding() -> Vec<Change> {
    let mut changes = vec![Change::PlanSet(Plan::standard())];
    for tenant in [tenant(0), tenant(1)] {
        let (plan, created_at) = (Plan::standard().id, START);
        changes.push(Change::TenantCreated(Tenant::new(tenant.clone(), plan, created_at)));
        for n in 0..2 {
            let id = project(n);
            changes.push(Change::ProjectCreated(Project { tenant: tenant.clone(), id, created_at, label: None }));
            changes.push(Change::KeyCreated(Box::new(ApiKey {
                expires_at: Some(START.plus(DAY)),
                limits: Limits { parallel_requests: Some(4), ..Limits::default() },
                ..ApiKey::new(key(&tenant, n), tenant.clone(), project(n), [n; 32], created_at)
            })));
        }
    }
    changes
}

fn draft(clock: &Clock, serial: u64, who: u8, id_millis_before: u16) -> Draft {
    let tenant = tenant(who);
    let before = Duration::from_millis(id_millis_before.into());
    let made_at = Timestamp(clock.now().0.saturating_sub(i64::try_from(before.as_micros()).expect("a minute")));
    Draft {
        id: RequestId::new(made_at, u128::from(serial).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c)),
        deadline: clock.now().plus(Duration::from_secs(600)),
        spender: spender(tenant, who >> 1, (who & 16 == 0).then_some(EndUserId([who; 16]))),
        zone: Zone::UTC,
        route: "fast".into(),
        provider: ["sim", "groq"][usize::from(who >> 2) % 2].into(),
        model: ["gpt-4o-mini", "llama"][usize::from(who >> 3) % 2].into(),
        stream: who & 1 == 0,
        price_version: "2026-11-01".into(),
        idempotency: None,
        attribution: (who & 2 == 0).then(|| Sealed([who].into())),
        policy: (who & 1 == 0).then_some([who; 16]),
    }
}

fn end(mut reservation: Reservation<MemoryLog>, how: &End) {
    match how {
        End::Post { amounts: (cost, charge), tokens, bounded } => {
            let confidence = if *bounded { Confidence::Bounded } else { Confidence::Measured };
            let (usage, amounts) = (usage(*tokens), amounts(*cost, *charge));
            reservation.post(Settlement { usage, amounts, confidence, outcome: Outcome::Completed });
        }
        End::Bounded => drop(reservation.post_bounded(Outcome::UsageMissing)),
        End::Void => drop(reservation.void(Outcome::ProviderRefused)),
        End::DropUnsent => drop(reservation),
        End::DropSent => {
            // False if it was swept before; then there is nothing to drop but the husk.
            let _ = reservation.dispatched();
            drop(reservation);
        }
    }
}

/// What real books write down when they go through these steps, and what they say of themselves at the end.
fn history(steps: &[Step]) -> (Vec<Record>, Audit) {
    let clock = Clock::manual(START);
    let books = Arc::new(Books::new(Ledger::default(), Directory::default(), MemoryLog::default(), clock.clone()));
    for change in founding() {
        books.change(change).expect("the founding changes make sense");
    }
    let mut open = Vec::new();
    for (serial, step) in (0..).zip(steps) {
        match step {
            Step::Reserve { who, hold: (cost, charge), id_millis_before } => {
                let draft = draft(&clock, serial, *who, *id_millis_before);
                let reservation = books.reserve(draft, |_| (amounts(*cost, *charge), ()));
                open.extend(reservation.ok().map(|(reservation, ())| reservation));
            }
            Step::End { which, how } if !open.is_empty() => {
                let reservation = open.swap_remove(usize::from(*which) % open.len());
                end(reservation, how);
            }
            Step::End { .. } => {}
            Step::Advance { seconds } => clock.advance(Duration::from_secs((*seconds).into())),
            Step::Recover => drop(books.recover()),
            Step::Sweep => drop(books.sweep(Duration::from_secs(60))),
            Step::SettleAged => drop(books.settle_aged(DAY)),
            Step::Cap { who, cap } => {
                let scope = Scope::Project(tenant(*who), project(who >> 1));
                let cap = cap.map(|cap| PicoSum(i128::from(cap) * 3));
                let alerts = Default::default();
                let set = CapSet { scope, window: Window::Day, basis: Basis::Cost, cap, alerts, at: START };
                books.set_cap(set).expect("the scope is there");
            }
            Step::Revoke { who } => {
                let revoked = Change::KeyRevoked { id: key(&tenant(*who), who >> 1), at: clock.now() };
                books.change(revoked).expect("the key is there");
            }
            Step::Plan { markup_bps } => {
                let tariff = Tariff { markup_bps: *markup_bps, ..Tariff::default() };
                let plan = Plan { tariff, ..Plan::standard() };
                books.change(Change::PlanSet(plan)).expect("a plan can always be set");
            }
            Step::Prices => drop(books.prices_set("2026-11-02".into(), [2; 32]).expect("a log in memory has room")),
        }
    }
    // What is still open stays open: the books are left before the reservations are.
    let left = (books.records(), books.audit());
    drop(open);
    left
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..10_000_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        4 => ((amount(), amount()), any::<u64>(), any::<bool>())
            .prop_map(|(amounts, tokens, bounded)| End::Post { amounts, tokens, bounded }),
        1 => Just(End::Bounded),
        1 => Just(End::Void),
        1 => Just(End::DropUnsent),
        1 => Just(End::DropSent),
    ];
    prop_oneof![
        10 => (any::<u8>(), (amount(), amount()), any::<u16>())
            .prop_map(|(who, hold, id_millis_before)| Step::Reserve { who, hold, id_millis_before }),
        7 => (any::<u8>(), ending).prop_map(|(which, how)| Step::End { which, how }),
        2 => (0..200_000_u32).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::Recover),
        1 => Just(Step::Sweep),
        1 => Just(Step::SettleAged),
        1 => (any::<u8>(), proptest::option::of(amount())).prop_map(|(who, cap)| Step::Cap { who, cap }),
        1 => any::<u8>().prop_map(|who| Step::Revoke { who }),
        1 => any::<u32>().prop_map(|markup_bps| Step::Plan { markup_bps }),
        1 => Just(Step::Prices),
    ]
}

fn filter() -> impl Strategy<Value = UsageFilter> {
    let time = || proptest::option::of((0..20_u32).prop_map(|days| START.plus(DAY * days)));
    let state = proptest::sample::select(vec![
        None,
        Some(EventState::Pending),
        Some(EventState::Posted),
        Some(EventState::Voided),
        Some(EventState::Indeterminate),
    ]);
    let who = (proptest::option::of(0..2_u8), proptest::option::of(0..2_u8), proptest::option::of(0..4_u8));
    (who, time(), time(), state, proptest::option::of(0..9_usize)).prop_map(
        |((tenant_n, project_n, key_n), from, to, state, limit)| UsageFilter {
            month: limit.filter(|limit| limit % 2 == 1).map(|_| Month::of(START, UtcOffset(0))),
            tenant: tenant_n.map(tenant),
            project: project_n.map(project),
            key: key_n.map(|n| key(&tenant(n), n >> 1)),
            from,
            to,
            state,
            after: None,
            limit,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_view_of_any_history_is_what_the_ledger_says(
        steps in proptest::collection::vec(step(), 0..120),
        filters in proptest::collection::vec(filter(), 3),
    ) {
        let (records, audit) = history(&steps);
        let place = Place::new();
        let mut view = place.view();
        view.apply(&numbered(&records)).expect("what the ledger accepted, the view accepts");
        let (reader, events) = (place.reader(), model(&records));
        let sums = view.totals().expect("sums");
        prop_assert_eq!(sums, totals(events.values()));
        prop_assert_eq!(sums.drift_from(&audit), PicoSum(0));
        prop_assert_eq!(sums.requests.total(), audit.totals.requests);
        prop_assert_eq!(sums.requests.pending, audit.reservations_pending as u64);
        prop_assert_eq!(sums.requests.indeterminate, audit.reservations_indeterminate as u64);
        for filter in &filters {
            check_filter(&reader, &events, filter);
        }
    }

    #[test]
    fn a_view_written_piece_by_piece_is_the_view_made_at_once(
        steps in proptest::collection::vec(step(), 0..120),
        pieces in proptest::collection::vec((1..40_usize, 0..20_usize, any::<bool>()), 1..8),
    ) {
        let (records, _) = history(&steps);
        let records = numbered(&records);
        let (at_once, by_pieces) = (Place::new(), Place::new());
        let mut rebuilt = at_once.view();
        rebuilt.apply(&records).expect("the records apply");
        let mut view = by_pieces.view();
        for (more, again, reopen) in pieces.into_iter().cycle() {
            let have = usize::try_from(view.position()).expect("a short history");
            let piece = have.saturating_sub(again)..records.len().min(have + more);
            view.apply(&records[piece]).expect("a piece that begins with what is known");
            if reopen {
                drop(view);
                view = by_pieces.view();
            }
            if view.position() == records.len() as u64 {
                break;
            }
        }
        prop_assert_eq!(dump(&view), dump(&rebuilt));
    }
}

#[test]
fn a_view_that_differs_from_the_ledger_shows_by_how_much() {
    let (records, audit) = history(&steps_of_a_busy_week());
    let place = Place::new();
    let mut view = place.view();
    view.apply(&numbered(&records)).expect("the records apply");
    assert_eq!(view.totals().expect("sums").drift_from(&audit), PicoSum(0));
    let raised = "UPDATE usage_events SET cost = cost + 1
        WHERE id = (SELECT id FROM usage_events WHERE confidence = 'measured' LIMIT 1)";
    assert_eq!(view.connection.execute(raised, []).expect("the damage is done"), 1);
    assert_eq!(view.totals().expect("sums").drift_from(&audit), PicoSum(2), "one more posted, one less released");
}

// === bills ===

#[test]
fn a_bill_says_what_was_posted_in_its_month_and_what_was_adjusted_in_it() {
    let place = Place::new();
    let mut view = place.view();
    // 23:59:59 on 30 November in UTC, three and a half hours earlier by the tenant's clock.
    let (november, december) = (Month::of(START, UtcOffset(0)), Month::of(START, UtcOffset(0)).next());
    let request = |id: u128, at: Timestamp, cost: u64| {
        let reserved = Reserved { at, ..reserved(id, amounts(100, 200)) };
        let posted = Posted { at: at.plus(DAY), ..posted(id, amounts(cost, 2 * cost)) };
        [Record::Reserved(Box::new(reserved)), Record::Posted(posted)]
    };
    let adjusted = |id: u128, at: Timestamp, was: Amounts, now: Amounts| {
        let standing = |amounts| Standing { amounts, overrun: Amounts::ZERO, confidence: Confidence::Measured };
        let Reserved { spender, offset, .. } = reserved(id, amounts(0, 0));
        let (was, now) = (standing(was), standing(now));
        let (usage, price_version, reason) = (usage(100), "mended".into(), Reason::Repriced);
        Record::Adjusted(Box::new(Adjusted {
            id: RequestId(id),
            at,
            spender,
            held_at: START,
            offset,
            was,
            now,
            usage,
            price_version,
            reason,
        }))
    };
    // Four hours later it is December by its clock, too.
    let later = START.plus(DAY / 6);
    let mut records: Vec<Record> =
        request(1, START, 40).into_iter().chain(request(2, START, 50)).chain(request(3, later, 7)).collect();
    records.push(adjusted(1, later, amounts(40, 80), amounts(30, 60)));
    records.push(adjusted(1, later.plus(40 * DAY), amounts(30, 60), amounts(35, 66)));
    let numbered: Vec<_> = (1..).zip(records).collect();
    view.apply(&numbered).expect("they follow");

    let columns = |cost, charge| Columns { cost: PicoSum(cost), charge: PicoSum(charge) };
    let bill = |month: Month| {
        // The tenant's clock is 12,600 seconds behind.
        let local = |month: Month| month.starts_at(&Zone::UTC).plus(Duration::from_secs(12_600));
        place.reader().bill(&tenant(0), month, local(month), local(month.next())).expect("a bill")
    };
    let lines = |month: Month| {
        bill(month).lines.iter().map(|line| (line.totals.requests.posted, line.posted)).collect::<Vec<_>>()
    };
    let made = |month: Month| {
        bill(month).adjustments.iter().map(|made| (made.month, made.count, made.difference)).collect::<Vec<_>>()
    };
    assert_eq!(lines(november), [(2, columns(90, 180))], "a bill that was sent stays true");
    assert_eq!(lines(december), [(1, columns(7, 14))]);
    assert_eq!(made(november), []);
    assert_eq!(made(december), [(november, 1, columns(-10, -20))]);
    assert_eq!(made(december.next()), [(november, 1, columns(5, 6))]);
    assert_eq!(place.reader().bill(&tenant(1), november, START, later).expect("a bill"), BillParts::default());
}

// === adjustments and buckets ===

fn adjusted(id: u128, was: Standing, now: Standing) -> Record {
    let Reserved { spender, at, offset, .. } = reserved(id, amounts(700, 900));
    Record::Adjusted(Box::new(Adjusted {
        id: RequestId(id),
        at: START.plus(Duration::from_secs(9)),
        spender,
        held_at: at,
        offset,
        was,
        now,
        usage: usage(50),
        price_version: "2026-11-01".into(),
        reason: Reason::Reconciled,
    }))
}

const NOTHING: Standing = Standing { amounts: Amounts::ZERO, overrun: Amounts::ZERO, confidence: Confidence::Measured };

#[test]
fn what_was_voided_and_billed_all_the_same_is_posted_at_nothing_with_the_bill_as_overrun() {
    let place = Place::new();
    let mut view = place.view();
    let now = Standing { overrun: amounts(40, 48), ..NOTHING };
    view.apply(&numbered(&[reserve(1), Record::Voided(voided(1)), adjusted(1, NOTHING, now)])).expect("they apply");
    let event = place.reader().event(RequestId(1)).expect("an answer").expect("it is there");
    let end = event.end.expect("it ended");
    assert_eq!((event.state, event.adjustments, end.outcome), (EventState::Posted, 1, Outcome::NotSent));
    assert_eq!((end.amounts, end.overrun, end.usage), (Amounts::ZERO, amounts(40, 48), usage(50)));
    let sums = view.totals().expect("sums");
    assert_eq!((sums.held, sums.released, sums.posted), (sums.held, sums.held, Columns::default()));
    assert_eq!(sums.overrun.cost, PicoSum(40));
}

#[test]
fn an_adjustment_from_what_it_was_not_is_a_contradiction() {
    let post = || Record::Posted(posted(1, amounts(300, 400)));
    let was = Standing { amounts: amounts(300, 400), ..NOTHING };
    for (wrong, fits) in [
        (was, true),
        (Standing { amounts: amounts(300, 401), ..was }, false),
        (Standing { overrun: amounts(1, 0), ..was }, false),
        (Standing { confidence: Confidence::Bounded, ..was }, false),
    ] {
        let place = Place::new();
        let applied = place.view().apply(&numbered(&[reserve(1), post(), adjusted(1, wrong, NOTHING)]));
        assert_eq!(applied.is_ok(), fits, "{wrong:?}: {applied:?}");
    }
}

#[test]
fn what_ended_is_summed_by_bucket_model_and_nearness_to_an_edge() {
    let minute = 60_000_000;
    let begin = START.0 - START.0 % minute;
    // Ended so many seconds after the first bucket began: in the one before, and in the head, middle and tail of it.
    let ends = [(1, -5), (2, 0), (3, 30), (4, 31), (5, 59), (6, 60), (7, 125)];
    let records = ends.into_iter().flat_map(|(id, seconds)| {
        let at = Timestamp(begin + seconds * 1_000_000);
        let hold = Reserved { at: at.minus(Duration::from_secs(1)), ..reserved(id, amounts(700, 900)) };
        let post = Posted { at, overrun: amounts(1, 1), ..posted(id, amounts(300, 400)) };
        [Record::Reserved(Box::new(hold)), Record::Posted(post)]
    });
    let place = Place::new();
    place.view().apply(&numbered(&records.collect::<Vec<_>>())).expect("they apply");
    let asked = |slack: u64| {
        let (from, to) = (Timestamp(begin), Timestamp(begin + minute));
        let (width, slack) = (Duration::from_secs(60), Duration::from_secs(slack));
        let rows = place.reader().ended(&ended::Buckets { from, to, width, slack }).expect("sums");
        let shown = |row: &ended::Ended| ((row.start.0 - begin) / minute, row.part, row.requests, row.cost.0);
        rows.iter().map(shown).collect::<Vec<_>>()
    };
    use ended::Part::{Head, Middle, Tail};
    assert_eq!(asked(0), [(0, Middle, 4, 4 * 301)]);
    assert_eq!(
        asked(10),
        [(-1, Tail, 1, 301), (0, Head, 1, 301), (0, Middle, 2, 602), (0, Tail, 1, 301), (1, Head, 1, 301)]
    );
}
