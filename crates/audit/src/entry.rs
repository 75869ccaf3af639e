//! From a record of the journal to a line of the log. The same records give the same bytes, at every time and on every machine:
//! members stand in a fixed order, and what a record does not have is left out.
//!
//! A line never holds what was sealed, what a key hashes to, or what a caller calls its own users.

use std::fmt::Display;
use std::io::Write;

use ring::hmac;
use tollgate_ledger::record::Standing;
use tollgate_ledger::{Adjusted, Amounts, CapSet, Extended, Posted, Record, Reserved, Voided};
use tollgate_types::access::{Approval, ServiceKey};
use tollgate_types::directory::{ApiKey, Change, Limits, Plan, Tariff, TightBudget};
use tollgate_types::{Actor, AuditEntry, KeyId, RequestId, Scope, TenantId, Timestamp, Usage};

use crate::heads::{Effect, Heads};
use crate::kind;

const SALT_BYTES: usize = 16;

/// What only the directory knows: whose a key is of which a record has the id alone. Keys are never forgotten, and never become
/// another's, so the answer is the same whenever it is asked.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    Key(&'a KeyId),
    ServiceKey(&'a KeyId),
}

/// Makes the salts of entries, by which a leaf's hash tells nothing to who guesses at its entry.
#[derive(Clone, Debug)]
pub struct Salts(hmac::Key);

/// Writes one entry after the other.
#[derive(Clone, Debug)]
pub struct Scribe {
    salts: Salts,
    heads: Heads,
}

/// A line as it grows.
struct Line<'a>(&'a mut Vec<u8>);

// === impl Salts ===

impl Salts {
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn of(&self, n: u64) -> [u8; SALT_BYTES] {
        *hmac::sign(&self.0, &n.to_be_bytes()).as_ref().first_chunk().expect("a tag has 32 bytes")
    }
}

// === impl Scribe ===

impl Scribe {
    /// Goes on after these heads.
    pub fn new(salts: Salts, heads: Heads) -> Self {
        Self { salts, heads }
    }

    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Appends the entry of the next record to `out`, without the end of its line.
    pub fn write(&mut self, record: &Record, owner: &dyn Fn(Whose<'_>) -> Option<TenantId>, out: &mut Vec<u8>) {
        let n = self.heads.size;
        let tenant = self.tenant_of(record, owner);
        let at = time_of(record).unwrap_or(self.heads.at);
        let mut line = Line(out);
        line.begin(n, at, record);
        if let Some(tenant) = &tenant {
            line.shown("tenant", tenant);
            match self.heads.previous(tenant) {
                Some(previous) => line.plain("prev", previous),
                None => line.plain("prev", "null"),
            }
        }
        line.record(record);
        line.hex("salt", &self.salts.of(n));
        line.0.push(b'}');
        self.heads.advance(at, tenant.as_ref(), effect_of(record));
    }

    fn tenant_of(&self, record: &Record, owner: &dyn Fn(Whose<'_>) -> Option<TenantId>) -> Option<TenantId> {
        match record {
            Record::Reserved(reserved) => Some(reserved.spender.tenant.clone()),
            Record::Adjusted(adjusted) => Some(adjusted.spender.tenant.clone()),
            Record::Posted(Posted { id, .. })
            | Record::Voided(Voided { id, .. })
            | Record::Indeterminate { id, .. } => self.heads.open.get(id).cloned(),
            Record::Extended(extended) => self.heads.open.get(&extended.id).cloned(),
            Record::CapSet(cap) => cap.scope.tenant().cloned(),
            Record::PricesSet { .. } => None,
            Record::Audited(entry) => entry.tenant.clone(),
            Record::Directory(change) => match change {
                Change::PlanSet(_) | Change::OversightSet(_) | Change::ShareSet { .. } => None,
                Change::TenantCreated(tenant) => Some(tenant.id.clone()),
                Change::TenantChanged { id, .. } => Some(id.clone()),
                Change::ProjectCreated(project) => Some(project.tenant.clone()),
                Change::KeyCreated(key) => Some(key.tenant.clone()),
                Change::KeyRevoked { id, .. } => owner(Whose::Key(id)),
                Change::LimitsSet { scope, .. } | Change::PolicySet { scope, .. } => scope.tenant().cloned(),
                Change::ServiceKeyCreated(key) => key.tenant.clone(),
                Change::ServiceKeyRevoked { id, .. } => owner(Whose::ServiceKey(id)),
                Change::ApprovalAsked(approval) => approval.tenant.clone(),
                Change::ApprovalDecided { id, .. } | Change::ApprovalUsed { id, .. } => {
                    self.heads.approvals.get(id).and_then(|(tenant, _)| tenant.clone())
                }
            },
        }
    }
}

/// When a record was made, where it says so.
fn time_of(record: &Record) -> Option<Timestamp> {
    let Record::Directory(change) = record else { return record.at() };
    match change {
        Change::TenantCreated(tenant) => Some(tenant.created_at),
        Change::ProjectCreated(project) => Some(project.created_at),
        Change::KeyCreated(key) => Some(key.created_at),
        Change::ServiceKeyCreated(key) => Some(key.created_at),
        Change::KeyRevoked { at, .. }
        | Change::PolicySet { at, .. }
        | Change::ServiceKeyRevoked { at, .. }
        | Change::ApprovalUsed { at, .. } => Some(*at),
        Change::ApprovalAsked(approval) => Some(approval.asked_at),
        Change::ApprovalDecided { decided, .. } => Some(decided.at),
        Change::PlanSet(_)
        | Change::TenantChanged { .. }
        | Change::LimitsSet { .. }
        | Change::OversightSet(_)
        | Change::ShareSet { .. } => None,
    }
}

fn effect_of(record: &Record) -> Effect<'_> {
    match record {
        Record::Reserved(reserved) => Effect::Opens(reserved.id),
        Record::Posted(Posted { id, .. }) | Record::Voided(Voided { id, .. }) => Effect::Ends(*id),
        Record::Directory(Change::ApprovalAsked(approval)) => Effect::Asks(&approval.id, approval.expires_at),
        _ => Effect::None,
    }
}

fn kind_of(change: &Change) -> &'static str {
    match change {
        Change::PlanSet(_) => kind::PLAN_SET,
        Change::TenantCreated(_) => kind::TENANT_CREATED,
        Change::ProjectCreated(_) => kind::PROJECT_CREATED,
        Change::KeyCreated(_) => kind::KEY_CREATED,
        Change::KeyRevoked { .. } => kind::KEY_REVOKED,
        Change::TenantChanged { .. } => kind::TENANT_CHANGED,
        Change::LimitsSet { .. } => kind::LIMITS_SET,
        Change::PolicySet { .. } => kind::POLICY_SET,
        Change::ServiceKeyCreated(_) => kind::SERVICE_KEY_CREATED,
        Change::ServiceKeyRevoked { .. } => kind::SERVICE_KEY_REVOKED,
        Change::ApprovalAsked(_) => kind::APPROVAL_ASKED,
        Change::ApprovalDecided { .. } => kind::APPROVAL_DECIDED,
        Change::ApprovalUsed { .. } => kind::APPROVAL_USED,
        Change::OversightSet(_) => kind::OVERSIGHT_SET,
        Change::ShareSet { .. } => kind::SHARE_SET,
    }
}

// === impl Line ===

impl Line<'_> {
    fn begin(&mut self, n: u64, at: Timestamp, record: &Record) {
        self.write(format_args!("{{\"n\":{n}"));
        self.shown("at", at);
        match record {
            Record::Audited(entry) => self.shown("kind", format_args!("{}{}", kind::ACT, entry.phase.name())),
            Record::Reserved(_) => self.shown("kind", kind::ADMITTED),
            Record::Posted(_) => self.shown("kind", kind::POSTED),
            Record::Voided(_) => self.shown("kind", kind::VOIDED),
            Record::Indeterminate { .. } => self.shown("kind", kind::INDETERMINATE),
            Record::Extended(_) => self.shown("kind", kind::EXTENDED),
            Record::Adjusted(_) => self.shown("kind", kind::ADJUSTED),
            Record::CapSet(_) => self.shown("kind", kind::BUDGET_SET),
            Record::PricesSet { .. } => self.shown("kind", kind::PRICES_SET),
            Record::Directory(change) => self.shown("kind", kind_of(change)),
        }
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::Audited(entry) => self.act(entry),
            Record::Reserved(reserved) => self.reserved(reserved),
            Record::Posted(posted) => self.posted(posted),
            Record::Voided(Voided { id, at: _, outcome }) => {
                self.request(*id);
                self.shown("outcome", outcome.name());
            }
            Record::Indeterminate { id, at: _ } => self.request(*id),
            Record::Extended(extended) => self.extended(extended),
            Record::Adjusted(adjusted) => self.adjusted(adjusted),
            Record::CapSet(cap) => self.cap(cap),
            Record::PricesSet { version, sha256, at: _ } => {
                self.text("price_version", version);
                self.hex("sha256", sha256);
            }
            Record::Directory(change) => self.change(change),
        }
    }

    fn act(&mut self, entry: &AuditEntry) {
        let AuditEntry { at: _, request, trace, phase: _, act, actor, tenant: _, subject, status, note, count } = entry;
        self.text("act", act);
        self.actor("actor", actor);
        self.text("subject", subject);
        self.plain_if("status", *status);
        if let Some(note) = note {
            self.text("note", note);
        }
        self.plain("count", count);
        self.request(*request);
        if let Some(trace) = trace {
            self.hex("trace", trace);
        }
    }

    fn reserved(&mut self, reserved: &Reserved) {
        let Reserved { id, spender, hold, route, provider, model, stream, price_version, policy, .. } = reserved;
        self.request(*id);
        self.shown("plan", &spender.plan);
        self.shown("project", &spender.project);
        self.shown("key", &spender.key);
        self.text("route", route);
        self.text("provider", provider);
        self.text("model", model);
        self.plain("stream", stream);
        self.amounts("hold_cost", "hold_charge", *hold);
        self.text("price_version", price_version);
        if let Some(policy) = policy {
            self.hex("policy", policy);
        }
    }

    fn posted(&mut self, posted: &Posted) {
        let Posted { id, at: _, usage, amounts, overrun, confidence, outcome } = posted;
        self.request(*id);
        self.usage(usage);
        self.amounts("cost", "charge", *amounts);
        self.amounts("overrun_cost", "overrun_charge", *overrun);
        self.shown("confidence", confidence.name());
        self.shown("outcome", outcome.name());
    }

    fn extended(&mut self, extended: &Extended) {
        let Extended { id, at: _, hold, provider, model, price_version } = extended;
        self.request(*id);
        self.text("provider", provider);
        self.text("model", model);
        self.amounts("hold_cost", "hold_charge", *hold);
        self.text("price_version", price_version);
    }

    fn adjusted(&mut self, adjusted: &Adjusted) {
        let Adjusted { id, at: _, spender, held_at, offset: _, was, now, usage, price_version, reason } = adjusted;
        self.request(*id);
        self.shown("project", &spender.project);
        self.shown("key", &spender.key);
        self.shown("held_at", held_at);
        let Standing { amounts, overrun, confidence } = was;
        self.amounts("was_cost", "was_charge", *amounts);
        self.amounts("was_overrun_cost", "was_overrun_charge", *overrun);
        self.shown("was_confidence", confidence.name());
        let Standing { amounts, overrun, confidence } = now;
        self.usage(usage);
        self.amounts("cost", "charge", *amounts);
        self.amounts("overrun_cost", "overrun_charge", *overrun);
        self.shown("confidence", confidence.name());
        self.text("price_version", price_version);
        self.shown("reason", reason.name());
    }

    fn cap(&mut self, cap: &CapSet) {
        let CapSet { scope, window, basis, cap, alerts, at: _ } = cap;
        self.scope(scope);
        self.shown("window", window);
        self.shown("basis", basis);
        match cap {
            Some(cap) => self.shown("cap", cap.0),
            None => self.plain("cap", "null"),
        }
        let alerts: Vec<String> = alerts.iter().map(|alert| format!("\"{}\"", alert.0)).collect();
        self.plain("alerts", format_args!("[{}]", alerts.join(",")));
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::PlanSet(plan) => self.plan(plan),
            Change::TenantCreated(tenant) => {
                self.shown("plan", &tenant.plan);
                self.text("zone", tenant.zone.name());
                self.tariff(tenant.tariff.as_deref());
            }
            Change::TenantChanged { id: _, plan, zone, tariff } => {
                self.shown("plan", plan);
                self.text("zone", zone.name());
                self.tariff(tariff.as_deref());
            }
            Change::ProjectCreated(project) => self.shown("project", &project.id),
            Change::KeyCreated(key) => self.key(key),
            Change::KeyRevoked { id, at: _ } | Change::ServiceKeyRevoked { id, at: _ } => self.shown("key", id),
            Change::LimitsSet { scope, limits } => {
                self.scope(scope);
                self.limits(limits);
            }
            Change::PolicySet { scope, sha256, at: _ } => {
                self.scope(scope);
                match sha256 {
                    Some(sha256) => self.hex("sha256", sha256),
                    None => self.plain("sha256", "null"),
                }
            }
            Change::ServiceKeyCreated(key) => self.service_key(key),
            Change::ApprovalAsked(approval) => self.approval(approval),
            Change::ApprovalDecided { id, decided } => {
                self.shown("approval", id);
                self.actor("by", &decided.by);
                self.plain("approved", decided.approved);
            }
            Change::ApprovalUsed { id, at: _ } => self.shown("approval", id),
            Change::OversightSet(set) => {
                self.shown("plan", &set.plan);
                self.plain("second_human", set.oversight.second_human);
                self.plain_if("audit_days", set.oversight.audit_days);
            }
            Change::ShareSet { plan, share } => {
                self.shown("plan", plan);
                self.plain("share", share);
            }
        }
    }

    fn plan(&mut self, plan: &Plan) {
        let Plan { id, tariff, tight_budget, key_limits, unpriced_hold, unbounded_hold } = plan;
        self.shown("plan", id);
        self.tariff(Some(tariff));
        let tight_budget = match tight_budget {
            TightBudget::Refuse => "refuse",
            TightBudget::Clamp => "clamp",
        };
        self.shown("tight_budget", tight_budget);
        self.limits(key_limits);
        self.shown_if("unpriced_hold", unpriced_hold.map(|hold| hold.0));
        self.shown_if("unbounded_hold", unbounded_hold.map(|hold| hold.0));
    }

    fn tariff(&mut self, tariff: Option<&Tariff>) {
        let Some(Tariff { markup_bps, included, tiers, monthly_minimum }) = tariff else { return };
        self.plain("markup_bps", markup_bps);
        self.shown("included", included.0);
        let tier = |tier: &tollgate_types::directory::MarkupTier| format!("[\"{}\",{}]", tier.above.0, tier.markup_bps);
        self.plain("tiers", format_args!("[{}]", tiers.iter().map(tier).collect::<Vec<_>>().join(",")));
        self.shown("monthly_minimum", monthly_minimum.0);
    }

    fn key(&mut self, key: &ApiKey) {
        self.shown("key", &key.id);
        self.shown("project", &key.project);
        let scopes: Vec<String> = key.scopes.names().iter().map(|name| format!("\"{name}\"")).collect();
        self.plain("scopes", format_args!("[{}]", scopes.join(",")));
        self.shown_if("expires_at", key.expires_at);
        self.limits(&key.limits);
    }

    fn service_key(&mut self, key: &ServiceKey) {
        self.shown("key", &key.id);
        self.shown("role", key.role.name());
        if let Some(name) = &key.name {
            self.text("name", name);
        }
        self.shown_if("expires_at", key.expires_at);
    }

    fn approval(&mut self, approval: &Approval) {
        self.shown("approval", &approval.id);
        self.text("act", &approval.act);
        self.text("what", &approval.what);
        self.hex("asked_sha256", &approval.request);
        self.plain("part", approval.part);
        self.actor("by", &approval.asked_by);
        self.shown("expires_at", approval.expires_at);
    }

    fn scope(&mut self, scope: &Scope) {
        self.shown("scope", scope.kind());
        match scope {
            Scope::Platform | Scope::Tenant(_) | Scope::EachEndUser(_) => {}
            Scope::Plan(plan) | Scope::EachTenant(plan) => self.shown("plan", plan),
            Scope::Project(_, project) => self.shown("project", project),
            Scope::Key(_, key) => self.shown("key", key),
            Scope::EndUser(_, user) => self.shown("end_user", user),
        }
    }

    fn limits(&mut self, limits: &Limits) {
        let Limits { requests_per_minute, tokens_per_minute, parallel_requests } = limits;
        self.plain_if("requests_per_minute", *requests_per_minute);
        self.plain_if("tokens_per_minute", *tokens_per_minute);
        self.plain_if("parallel_requests", *parallel_requests);
    }

    fn usage(&mut self, usage: &Usage) {
        self.plain("input_tokens", usage.input_tokens);
        self.plain("output_tokens", usage.output_tokens);
        let some = |tokens: u64| (tokens > 0).then_some(tokens);
        self.plain_if("cached_input_tokens", some(usage.cached_input_tokens));
        self.plain_if("cache_write_tokens", usage.cache_write_tokens);
        self.plain_if("audio_input_tokens", some(usage.audio_input_tokens));
        self.plain_if("reasoning_tokens", some(usage.reasoning_tokens));
        self.plain_if("audio_output_tokens", some(usage.audio_output_tokens));
        self.plain_if("cpu_us", some(usage.cpu_us));
    }

    fn actor(&mut self, member: &str, actor: &Actor) {
        // What a person is called by their identity provider may have any letters.
        self.text(member, &actor.to_string());
        if let Actor::Person(person) = actor {
            self.text("person", &person.name);
        }
    }

    fn request(&mut self, id: RequestId) {
        self.shown("request", id);
    }

    fn amounts(&mut self, cost: &str, charge: &str, amounts: Amounts) {
        self.shown(cost, amounts.cost.0);
        self.shown(charge, amounts.charge.0);
    }

    /// A text of any letters.
    fn text(&mut self, member: &str, text: &str) {
        self.write(format_args!(",\"{member}\":"));
        serde_json::to_writer(&mut *self.0, text).expect("a text is JSON, and memory takes it");
    }

    /// A text that has nothing to be escaped: ids, names of ours, times, numbers.
    fn shown(&mut self, member: &str, value: impl Display) {
        self.write(format_args!(",\"{member}\":\"{value}\""));
    }

    fn shown_if(&mut self, member: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.shown(member, value);
        }
    }

    /// What is JSON as it is shown.
    fn plain(&mut self, member: &str, value: impl Display) {
        self.write(format_args!(",\"{member}\":{value}"));
    }

    fn plain_if(&mut self, member: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.plain(member, value);
        }
    }

    fn hex(&mut self, member: &str, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.write(format_args!(",\"{member}\":\""));
        for byte in bytes {
            self.0.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        self.0.push(b'"');
    }

    fn write(&mut self, what: std::fmt::Arguments<'_>) {
        self.0.write_fmt(what).expect("memory takes what is written to it");
    }
}
