//! Records of several tenants, and the log that they make, in memory.

use std::collections::BTreeMap;

use tollgate_audit::entry::{Salts, Scribe, Whose};
use tollgate_audit::heads::Heads;
use tollgate_audit::note::{Checkpoint, Signer};
use tollgate_audit::tree::{Frontier, Hash, leaf_hash, stored_index};
use tollgate_ledger::record::{Reason, Standing};
use tollgate_ledger::{Adjusted, Amounts, CapSet, Extended, Idempotency, Posted, Record, Reserved, Voided};
use tollgate_types::access::{Approval, Decided, Oversight, OversightSet, Person, Role, ServiceKey};
use tollgate_types::audit::Phase;
use tollgate_types::directory::{ApiKey, Change, Limits, MarkupTier, Plan, Project, Sealed, Tariff, Tenant};
use tollgate_types::usage::Outcome;
use tollgate_types::{
    Actor, AuditEntry, Basis, Confidence, EndUserId, KeyId, PicoSum, PicoUsd, RequestId, Scope, Spender, TenantId,
    Timestamp, Usage, UtcOffset, Window, Zone,
};

/// What must never be seen in a line.
pub const SECRETS: [&str; 3] = ["sealed words", "5a5a5a5a", "7b7b7b7b"];

pub fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a slug")
}

pub fn at(second: i64) -> Timestamp {
    Timestamp(1_800_000_000_000_000 + second * 1_000_000)
}

pub fn ada() -> Actor {
    Actor::Person(Person { subject: "sub \"1\"".into(), name: "ada@example.com".into() })
}

fn amounts(pico: u64) -> Amounts {
    Amounts { cost: PicoUsd(pico), charge: PicoUsd(pico + 1) }
}

fn spender(tenant: &str) -> Spender {
    let end_user = Some(EndUserId([0x7b; 16]));
    Spender { plan: id("standard"), tenant: id(tenant), project: id("p"), key: id("k"), end_user }
}

pub fn reserved(tenant: &str, number: u128, second: i64) -> Record {
    Record::Reserved(Box::new(Reserved {
        id: RequestId(number),
        at: at(second),
        deadline: at(second + 60),
        spender: spender(tenant),
        offset: UtcOffset::default(),
        hold: amounts(1_000),
        route: "chat".into(),
        provider: "sim".into(),
        model: "m\u{1}\"".into(),
        stream: true,
        price_version: "v1".into(),
        idempotency: Some(Idempotency { key: [0x5a; 16], body: [0x5a; 16] }),
        attribution: Some(Sealed(SECRETS[0].as_bytes().into())),
        policy: Some([3; 16]),
    }))
}

pub fn posted(number: u128, second: i64) -> Record {
    Record::Posted(Posted {
        id: RequestId(number),
        at: at(second),
        usage: Usage { input_tokens: 5, output_tokens: 6, cache_write_tokens: Some(0), ..Usage::default() },
        amounts: amounts(700),
        overrun: Amounts::ZERO,
        confidence: Confidence::Measured,
        outcome: Outcome::Completed,
    })
}

/// One record at least of each kind.
pub fn all_kinds() -> Vec<Record> {
    let limits = Limits { requests_per_minute: Some(9), ..Limits::default() };
    let mut plan = Plan::standard();
    plan.tariff.tiers = vec![MarkupTier { above: PicoSum(5), markup_bps: 7 }];
    plan.unbounded_hold = Some(PicoUsd(8));
    let tenant = |name: &str| Tenant {
        label: Some(Sealed(SECRETS[0].as_bytes().into())),
        tariff: Some(Box::new(Tariff::default())),
        ..Tenant::new(id(name), id("standard"), at(1))
    };
    let project = |name: &str| Project { tenant: id(name), id: id("p"), created_at: at(2), label: None };
    let key = |name: &str, key: &str| {
        Change::KeyCreated(Box::new(ApiKey {
            expires_at: Some(at(9_000)),
            limits,
            ..ApiKey::new(id(key), id(name), id("p"), [0x5a; 32], at(3))
        }))
    };
    let service_key = |key: &str, tenant: Option<TenantId>| {
        Change::ServiceKeyCreated(Box::new(ServiceKey {
            id: id(key),
            digest: [0x5a; 32],
            role: Role::Auditor,
            tenant,
            name: Some("a \"machine\"".into()),
            created_at: at(4),
            expires_at: None,
            revoked_at: None,
        }))
    };
    let approval = |name: &str, tenant: Option<TenantId>| {
        Change::ApprovalAsked(Box::new(Approval {
            id: id(name),
            act: "set_budget".into(),
            request: [9; 32],
            what: "raise the cap".into(),
            tenant,
            part: false,
            asked_by: ada(),
            asked_at: at(5),
            expires_at: at(500),
            decided: None,
            used_at: None,
        }))
    };
    let decided = Decided { by: Actor::AdminKey, at: at(6), approved: true };
    let standing = |pico| Standing { amounts: amounts(pico), overrun: Amounts::ZERO, confidence: Confidence::Bounded };
    let act = |phase, tenant: Option<&str>, status| {
        Record::Audited(Box::new(AuditEntry {
            at: at(20),
            request: RequestId(77),
            trace: Some([4; 16]),
            phase,
            act: "set_budget".into(),
            actor: ada(),
            tenant: tenant.map(id),
            subject: "tenant/a\n".into(),
            status,
            note: Some("because".into()),
            count: 1,
        }))
    };
    let cap = |scope, cap| {
        let alerts = [PicoSum(3), PicoSum(4)].into_iter().collect();
        Record::CapSet(CapSet { scope, window: Window::RollingDay, basis: Basis::Charge, cap, alerts, at: at(7) })
    };
    let changes = [
        Change::PlanSet(plan),
        Change::TenantCreated(tenant("a")),
        Change::TenantCreated(tenant("b")),
        Change::ProjectCreated(project("a")),
        key("a", "k"),
        Change::KeyRevoked { id: id("k"), at: at(4) },
        Change::TenantChanged { id: id("b"), plan: id("standard"), zone: Zone::UTC, tariff: None },
        Change::LimitsSet { scope: Scope::Project(id("a"), id("p")), limits },
        Change::PolicySet { scope: Scope::Platform, sha256: Some([6; 32]), at: at(4) },
        Change::PolicySet { scope: Scope::Tenant(id("a")), sha256: None, at: at(4) },
        service_key("s1", Some(id("a"))),
        service_key("s2", None),
        Change::ServiceKeyRevoked { id: id("s1"), at: at(5) },
        approval("x1", Some(id("b"))),
        approval("x2", None),
        Change::ApprovalDecided { id: id("x1"), decided: Box::new(decided) },
        Change::ApprovalUsed { id: id("x1"), at: at(7) },
        Change::OversightSet(OversightSet {
            plan: id("standard"),
            oversight: Oversight { second_human: true, audit_days: Some(30) },
        }),
    ];
    let mut records: Vec<Record> = changes.into_iter().map(Record::Directory).collect();
    records.extend([
        cap(Scope::Tenant(id("a")), Some(PicoSum(5))),
        cap(Scope::EndUser(id("a"), EndUserId([1; 16])), None),
        cap(Scope::EachTenant(id("standard")), None),
        Record::PricesSet { version: "v1".into(), sha256: [2; 32], at: at(8) },
        reserved("a", 1, 10),
        reserved("b", 2, 11),
        Record::Extended(Box::new(Extended {
            id: RequestId(1),
            at: at(12),
            hold: amounts(2_000),
            provider: "other".into(),
            model: "m2".into(),
            price_version: "v1".into(),
        })),
        posted(1, 13),
        Record::Voided(Voided { id: RequestId(2), at: at(14), outcome: Outcome::NotSent }),
        reserved("b", 3, 15),
        Record::Indeterminate { id: RequestId(3), at: at(16) },
        Record::Adjusted(Box::new(Adjusted {
            id: RequestId(1),
            at: at(17),
            spender: spender("a"),
            held_at: at(10),
            offset: UtcOffset::default(),
            was: standing(700),
            now: standing(600),
            usage: Usage { cached_input_tokens: 3, ..Usage::default() },
            price_version: "v2".into(),
            reason: Reason::Repriced,
        })),
        act(Phase::Begun, Some("b"), None),
        act(Phase::Completed, Some("b"), Some(200)),
        act(Phase::Denied, None, Some(403)),
        act(Phase::Noted, None, None),
        Record::Directory(Change::ShareSet { plan: id("standard"), share: 4 }),
    ]);
    records
}

pub fn owner(whose: Whose<'_>) -> Option<TenantId> {
    let (Whose::Key(key) | Whose::ServiceKey(key)) = whose;
    (*key == id::<KeyId>("k") || *key == id::<KeyId>("s1")).then(|| id("a"))
}

/// A log in memory.
pub struct Log {
    pub lines: Vec<String>,
    pub stored: Vec<Hash>,
    pub frontier: Frontier,
    pub heads: BTreeMap<u64, Heads>,
}

impl Log {
    pub fn of(records: &[Record]) -> Self {
        let mut scribe = Scribe::new(Salts::new(&[1; 32]), Heads::default());
        let (mut lines, mut stored, mut frontier) = (Vec::new(), Vec::new(), Frontier::default());
        let mut heads = BTreeMap::new();
        for record in records {
            let mut line = Vec::new();
            scribe.write(record, &owner, &mut line);
            frontier.push(leaf_hash(&line), |hash| stored.push(*hash));
            lines.push(String::from_utf8(line).expect("JSON is text"));
            heads.insert(scribe.heads().size, scribe.heads().clone());
        }
        Self { lines, stored, frontier, heads }
    }

    pub fn read(&self, level: u8, index: u64) -> Result<Hash, ()> {
        let at = usize::try_from(stored_index(level, index)).expect("small");
        self.stored.get(at).copied().ok_or(())
    }

    pub fn checkpoint(&self, signer: &Signer) -> String {
        let (size, root) = (self.frontier.size(), self.frontier.root());
        signer.sign(&Checkpoint { origin: signer.name().to_owned(), size, root }.text())
    }
}

pub fn signer() -> Signer {
    Signer::new("gate.example/audit", &[5; 32])
}
