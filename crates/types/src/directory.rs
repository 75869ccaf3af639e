//! Who exists: plans, tenants, their projects and keys. Pure state, changed only by [`Change`]s, which are journal
//! records; so the directory of any moment is the changes up to it, applied in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::{Approval, Decided, Oversight, OversightSet, ServiceKey};
use crate::{KeyId, PicoSum, PicoUsd, PlanId, ProjectId, Scope, TenantId, Timestamp, Zone};

/// One change of the directory. New variants go at the end: the journal holds their position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    PlanSet(Plan),
    TenantCreated(Tenant),
    ProjectCreated(Project),
    KeyCreated(Box<ApiKey>),
    KeyRevoked {
        id: KeyId,
        at: Timestamp,
    },
    /// The terms of a tenant that is there: all of them, as they are from now on.
    TenantChanged {
        id: TenantId,
        plan: PlanId,
        zone: Zone,
        tariff: Option<Box<Tariff>>,
    },
    /// The limits of a scope: all three, as they are from now on.
    LimitsSet {
        scope: Scope,
        limits: Limits,
    },
    /// The policy bundle of the platform, a plan or a tenant, by the digest of its archive, which is a file beside the
    /// journal. `None`: that layer has no say any more.
    PolicySet {
        scope: Scope,
        sha256: Option<[u8; 32]>,
        at: Timestamp,
    },
    ServiceKeyCreated(Box<ServiceKey>),
    ServiceKeyRevoked {
        id: KeyId,
        at: Timestamp,
    },
    /// Somebody wants what a second human must agree to.
    ApprovalAsked(Box<Approval>),
    ApprovalDecided {
        id: KeyId,
        decided: Box<Decided>,
    },
    /// What was approved is done now, and will not be done again by this approval.
    ApprovalUsed {
        id: KeyId,
        at: Timestamp,
    },
    OversightSet(OversightSet),
    /// How much of the local runtimes each tenant on a plan has, beside others who wait.
    ShareSet {
        plan: PlanId,
        share: u32,
    },
}

/// What a tenant has bought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    pub tariff: Tariff,
    pub tight_budget: TightBudget,
    /// For keys that set none of their own.
    pub key_limits: Limits,
    /// Held, and posted as bounded, for a model without a price. None refuses such a model.
    pub unpriced_hold: Option<PicoUsd>,
    /// Held, and posted as bounded, for a request with no bound on its cost (declared mode). None refuses such a request
    /// (strict mode).
    pub unbounded_hold: Option<PicoUsd>,
}

/// From what work costs us to what a tenant pays for it. Over a calendar month of the tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// Charge = cost × (1 + mark-up), in hundredths of a percent.
    pub markup_bps: u32,
    /// So much of a month's cost is in the price of the plan, and not charged.
    pub included: PicoUsd,
    /// Other mark-ups for what a month's cost exceeds, in ascending order.
    pub tiers: Vec<MarkupTier>,
    /// A month's bill is at least this.
    pub monthly_minimum: PicoUsd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkupTier {
    /// Of the month's cost, what lies above this.
    pub above: PicoSum,
    pub markup_bps: u32,
}

/// How fast and how much at once. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub requests_per_minute: Option<u32>,
    /// Input and output together; the estimate counts until the usage is known.
    pub tokens_per_minute: Option<u64>,
    pub parallel_requests: Option<u32>,
}

/// What to do when a budget affords less than the request may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TightBudget {
    #[default]
    Refuse,
    /// Shorten the answer (`max_tokens`) to what is affordable.
    Clamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    pub plan: PlanId,
    pub created_at: Timestamp,
    /// Words of people, sealed under the tenant's data key.
    pub label: Option<Sealed>,
    /// Where its days, weeks and months begin.
    pub zone: Zone,
    /// Terms of its own instead of the plan's.
    pub tariff: Option<Box<Tariff>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    pub tenant: TenantId,
    pub id: ProjectId,
    pub created_at: Timestamp,
    pub label: Option<Sealed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: KeyId,
    pub tenant: TenantId,
    pub project: ProjectId,
    /// HMAC-SHA-256 of the whole key under the store's own secret: of no use to who steals it.
    pub digest: [u8; 32],
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub scopes: KeyScopes,
    pub limits: Limits,
    pub label: Option<Sealed>,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyScopes {
    pub chat: bool,
    pub embeddings: bool,
    pub models: bool,
}

/// Ciphertext under a tenant's data key; erasing that key erases the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub Arc<[u8]>);

/// Everybody who exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    pub plans: BTreeMap<PlanId, Plan>,
    pub tenants: BTreeMap<TenantId, Tenant>,
    pub projects: BTreeMap<(TenantId, ProjectId), Project>,
    pub keys: BTreeMap<KeyId, ApiKey>,
    /// Limits of scopes other than keys, which have theirs with them.
    pub limits: BTreeMap<Scope, Limits>,
    /// Of each layer the bundles that were in force, the last one is. At most [`POLICIES_KEPT`].
    pub policies: BTreeMap<Scope, Vec<PolicySet>>,
    pub service_keys: BTreeMap<KeyId, ServiceKey>,
    /// Those that were asked for last; see [`APPROVALS_KEPT`].
    pub approvals: BTreeMap<KeyId, Approval>,
    /// Of plans that are watched otherwise than by default.
    pub oversight: BTreeMap<PlanId, Oversight>,
    /// Of those plans whose share is not 1.
    pub shares: BTreeMap<PlanId, u32>,
}

/// A directory being made from the changes of another ([`Directory::to_changes`]): its maps are made at once, in which they
/// take two thirds of the memory that one entry after the other makes of them.
#[derive(Debug, Default)]
pub struct Building {
    tenants: Vec<(TenantId, Tenant)>,
    projects: Vec<((TenantId, ProjectId), Project)>,
    keys: Vec<(KeyId, ApiKey)>,
    rest: Vec<Change>,
}

/// A bundle came into force, or none did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySet {
    pub sha256: Option<[u8; 32]>,
    pub at: Timestamp,
}

/// So far back a layer's policy can be rolled.
pub const POLICIES_KEPT: usize = 20;
/// So many approvals are remembered. Where more are asked for, the one that expires first is forgotten: it can then neither be
/// decided nor used, and the audit log still has it.
pub const APPROVALS_KEPT: usize = 1_000;

/// Why a change makes no sense here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    #[error("the {what} '{id}' already exists")]
    Exists { what: &'static str, id: String },
    #[error("there is no {what} '{id}'")]
    Missing { what: &'static str, id: String },
}

// === impl Plan ===

impl Plan {
    /// The name of the plan that a tenant gets when none is named.
    pub const STANDARD: &'static str = "standard";

    pub fn standard() -> Self {
        Self {
            id: Self::STANDARD.parse().expect("'standard' is a valid slug"),
            tariff: Tariff::default(),
            tight_budget: TightBudget::Refuse,
            key_limits: Limits::default(),
            unpriced_hold: None,
            unbounded_hold: None,
        }
    }
}

// === impl Tenant ===

impl Tenant {
    /// On this plan, in UTC, with no label and no terms of its own.
    pub fn new(id: TenantId, plan: PlanId, created_at: Timestamp) -> Self {
        Self { id, plan, created_at, label: None, zone: Zone::UTC, tariff: None }
    }
}

// === impl ApiKey ===

impl ApiKey {
    /// A key for everything, without expiry, limits or label.
    pub fn new(id: KeyId, tenant: TenantId, project: ProjectId, digest: [u8; 32], created_at: Timestamp) -> Self {
        Self {
            id,
            tenant,
            project,
            digest,
            created_at,
            expires_at: None,
            revoked_at: None,
            scopes: KeyScopes::ALL,
            limits: Limits::default(),
            label: None,
        }
    }
}

// === impl Limits ===

impl Limits {
    /// These, and where they say nothing `others`.
    pub fn or(self, others: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(others.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(others.tokens_per_minute),
            parallel_requests: self.parallel_requests.or(others.parallel_requests),
        }
    }
}

// === impl KeyScopes ===

impl KeyScopes {
    pub const ALL: Self = Self { chat: true, embeddings: true, models: true };
    pub const NONE: Self = Self { chat: false, embeddings: false, models: false };
    pub const NAMES: [&'static str; 3] = ["chat", "embeddings", "models"];

    /// Reads names such as `chat`; gives back the first unknown one as an error.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        names.into_iter().try_fold(Self::NONE, |mut scopes, name| {
            match name {
                "chat" => scopes.chat = true,
                "embeddings" => scopes.embeddings = true,
                "models" => scopes.models = true,
                other => return Err(other.to_owned()),
            }
            Ok(scopes)
        })
    }

    pub fn names(self) -> Vec<&'static str> {
        let held = [self.chat, self.embeddings, self.models];
        Self::NAMES.into_iter().zip(held).filter_map(|(name, held)| held.then_some(name)).collect()
    }
}

// === impl Directory ===

impl Directory {
    /// Whether `change` may be applied now.
    pub fn check(&self, change: &Change) -> Result<(), ChangeRefused> {
        let exists = |what, id: &dyn ToString, there: bool| {
            if there { Err(ChangeRefused::Exists { what, id: id.to_string() }) } else { Ok(()) }
        };
        match change {
            Change::PlanSet(_) => Ok(()),
            Change::TenantCreated(tenant) => {
                exists("tenant", &tenant.id, self.tenants.contains_key(&tenant.id))?;
                self.plan(&tenant.plan).map(|_| ())
            }
            Change::ProjectCreated(project) => {
                self.tenant(&project.tenant)?;
                let place = (project.tenant.clone(), project.id.clone());
                exists("project", &project.id, self.projects.contains_key(&place))
            }
            Change::KeyCreated(key) => {
                self.tenant(&key.tenant)?;
                self.project(&key.tenant, &key.project)?;
                exists("key", &key.id, self.keys.contains_key(&key.id))
            }
            Change::KeyRevoked { id, .. } => self.key(id).map(|_| ()),
            Change::TenantChanged { id, plan, .. } => {
                self.tenant(id)?;
                self.plan(plan).map(|_| ())
            }
            Change::LimitsSet { scope, .. } => self.check_scope(scope),
            Change::PolicySet { scope, .. } => match scope {
                Scope::Platform | Scope::Plan(_) | Scope::Tenant(_) => self.check_scope(scope),
                other => Err(missing("policy layer", &other.kind())),
            },
            Change::ServiceKeyCreated(key) => {
                key.tenant.as_ref().map_or(Ok(()), |tenant| self.tenant(tenant).map(|_| ()))?;
                exists("service key", &key.id, self.service_keys.contains_key(&key.id))
            }
            Change::ServiceKeyRevoked { id, .. } => self.service_key(id).map(|_| ()),
            Change::ApprovalAsked(approval) => {
                exists("approval", &approval.id, self.approvals.contains_key(&approval.id))
            }
            Change::ApprovalDecided { id, .. } => {
                exists("decision of approval", id, self.approval(id)?.decided.is_some())
            }
            Change::ApprovalUsed { id, .. } => exists("use of approval", id, self.approval(id)?.used_at.is_some()),
            Change::OversightSet(set) => self.plan(&set.plan).map(|_| ()),
            Change::ShareSet { plan, .. } => self.plan(plan).map(|_| ()),
        }
    }

    /// Whether everybody whom the scope names is there. End users are whoever a tenant says they are.
    pub fn check_scope(&self, scope: &Scope) -> Result<(), ChangeRefused> {
        match scope {
            Scope::Platform => Ok(()),
            Scope::Plan(plan) | Scope::EachTenant(plan) => self.plan(plan).map(|_| ()),
            Scope::Tenant(tenant) | Scope::EndUser(tenant, _) | Scope::EachEndUser(tenant) => {
                self.tenant(tenant).map(|_| ())
            }
            Scope::Project(tenant, project) => {
                self.tenant(tenant)?;
                self.project(tenant, project).map(|_| ())
            }
            Scope::Key(tenant, key) => {
                self.tenant(tenant)?;
                match self.key(key) {
                    Ok(found) if found.tenant == *tenant => Ok(()),
                    _ => Err(missing("key", key)),
                }
            }
        }
    }

    /// The terms that a tenant pays by: its own, or its plan's.
    pub fn tariff_of<'a>(&'a self, tenant: &'a Tenant) -> Option<&'a Tariff> {
        tenant.tariff.as_deref().or_else(|| self.plans.get(&tenant.plan).map(|plan| &plan.tariff))
    }

    /// Applies a change that [`Directory::check`] accepted. Total: replaying any journal cannot fail here.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::PlanSet(plan) => drop(self.plans.insert(plan.id.clone(), plan)),
            Change::TenantCreated(tenant) => drop(self.tenants.insert(tenant.id.clone(), tenant)),
            Change::ProjectCreated(project) => {
                drop(self.projects.insert((project.tenant.clone(), project.id.clone()), project));
            }
            Change::KeyCreated(key) => drop(self.keys.insert(key.id.clone(), *key)),
            Change::KeyRevoked { id, at } => {
                if let Some(key) = self.keys.get_mut(&id) {
                    key.revoked_at.get_or_insert(at);
                }
            }
            Change::TenantChanged { id, plan, zone, tariff } => {
                if let Some(tenant) = self.tenants.get_mut(&id) {
                    (tenant.plan, tenant.zone, tenant.tariff) = (plan, zone, tariff);
                }
            }
            Change::LimitsSet { scope, limits } if limits == Limits::default() => drop(self.limits.remove(&scope)),
            Change::LimitsSet { scope, limits } => drop(self.limits.insert(scope, limits)),
            Change::PolicySet { scope, sha256, at } => {
                let history = self.policies.entry(scope).or_default();
                history.push(PolicySet { sha256, at });
                if history.len() > POLICIES_KEPT {
                    history.remove(0);
                }
            }
            Change::ServiceKeyCreated(key) => drop(self.service_keys.insert(key.id.clone(), *key)),
            Change::ServiceKeyRevoked { id, at } => {
                if let Some(key) = self.service_keys.get_mut(&id) {
                    key.revoked_at.get_or_insert(at);
                }
            }
            Change::ApprovalAsked(approval) => {
                self.approvals.insert(approval.id.clone(), *approval);
                if self.approvals.len() > APPROVALS_KEPT {
                    let first = self.approvals.values().min_by_key(|approval| approval.expires_at);
                    if let Some(id) = first.map(|approval| approval.id.clone()) {
                        self.approvals.remove(&id);
                    }
                }
            }
            Change::ApprovalDecided { id, decided } => {
                if let Some(approval) = self.approvals.get_mut(&id) {
                    approval.decided.get_or_insert(*decided);
                }
            }
            Change::ApprovalUsed { id, at } => {
                if let Some(approval) = self.approvals.get_mut(&id) {
                    approval.used_at.get_or_insert(at);
                }
            }
            Change::OversightSet(OversightSet { plan, oversight }) if oversight == Oversight::default() => {
                self.oversight.remove(&plan);
            }
            Change::OversightSet(OversightSet { plan, oversight }) => {
                self.oversight.insert(plan, oversight);
            }
            Change::ShareSet { plan, share: 0 | 1 } => {
                self.shares.remove(&plan);
            }
            Change::ShareSet { plan, share } => {
                self.shares.insert(plan, share);
            }
        }
    }

    /// The shortest list of changes that makes this directory from an empty one.
    pub fn to_changes(&self) -> impl Iterator<Item = Change> + '_ {
        let plans = self.plans.values().cloned().map(Change::PlanSet);
        let tenants = self.tenants.values().cloned().map(Change::TenantCreated);
        let projects = self.projects.values().cloned().map(Change::ProjectCreated);
        let keys = self.keys.values().cloned().map(|key| Change::KeyCreated(Box::new(key)));
        let set = |(scope, limits): (&Scope, &Limits)| Change::LimitsSet { scope: scope.clone(), limits: *limits };
        let policies = self.policies.iter().flat_map(|(scope, history)| {
            let set = |PolicySet { sha256, at }| Change::PolicySet { scope: scope.clone(), sha256, at };
            history.iter().copied().map(set)
        });
        let service_keys = self.service_keys.values().cloned().map(|key| Change::ServiceKeyCreated(Box::new(key)));
        let approvals = self.approvals.values().cloned().map(|approval| Change::ApprovalAsked(Box::new(approval)));
        let watched = |(plan, oversight): (&PlanId, &Oversight)| {
            Change::OversightSet(OversightSet { plan: plan.clone(), oversight: *oversight })
        };
        let oversight = self.oversight.iter().map(watched);
        let money = plans.chain(tenants).chain(projects).chain(keys).chain(self.limits.iter().map(set)).chain(policies);
        let shares = self.shares.iter().map(|(plan, share)| Change::ShareSet { plan: plan.clone(), share: *share });
        money.chain(service_keys).chain(approvals).chain(oversight).chain(shares)
    }

    /// The bundles that are in force, by their digests; one that is for several layers as often.
    pub fn policies_in_force(&self) -> impl Iterator<Item = [u8; 32]> + '_ {
        self.policies.keys().filter_map(|scope| self.policy(scope))
    }

    /// The bundle that is in force for a layer, by its digest.
    pub fn policy(&self, scope: &Scope) -> Option<[u8; 32]> {
        self.policies.get(scope)?.last()?.sha256
    }

    pub fn plan(&self, id: &PlanId) -> Result<&Plan, ChangeRefused> {
        self.plans.get(id).ok_or_else(|| missing("plan", id))
    }

    pub fn tenant(&self, id: &TenantId) -> Result<&Tenant, ChangeRefused> {
        self.tenants.get(id).ok_or_else(|| missing("tenant", id))
    }

    pub fn project(&self, tenant: &TenantId, id: &ProjectId) -> Result<&Project, ChangeRefused> {
        self.projects.get(&(tenant.clone(), id.clone())).ok_or_else(|| missing("project", id))
    }

    pub fn key(&self, id: &KeyId) -> Result<&ApiKey, ChangeRefused> {
        self.keys.get(id).ok_or_else(|| missing("key", id))
    }

    pub fn service_key(&self, id: &KeyId) -> Result<&ServiceKey, ChangeRefused> {
        self.service_keys.get(id).ok_or_else(|| missing("service key", id))
    }

    pub fn approval(&self, id: &KeyId) -> Result<&Approval, ChangeRefused> {
        self.approvals.get(id).ok_or_else(|| missing("approval", id))
    }

    /// How much of the local runtimes each tenant on this plan has.
    pub fn share_of(&self, plan: &PlanId) -> u32 {
        self.shares.get(plan).copied().unwrap_or(1)
    }

    /// How closely a tenant is watched: as its plan says.
    pub fn oversight_of(&self, tenant: &TenantId) -> Oversight {
        let plan = self.tenants.get(tenant).map(|tenant| &tenant.plan);
        plan.and_then(|plan| self.oversight.get(plan)).copied().unwrap_or_default()
    }
}

// === impl Building ===

impl Building {
    pub fn add(&mut self, change: Change) {
        match change {
            Change::TenantCreated(tenant) => self.tenants.push((tenant.id.clone(), tenant)),
            Change::ProjectCreated(project) => {
                self.projects.push(((project.tenant.clone(), project.id.clone()), project));
            }
            Change::KeyCreated(key) => self.keys.push((key.id.clone(), *key)),
            other => self.rest.push(other),
        }
    }

    pub fn finish(self) -> Directory {
        let Self { tenants, projects, keys, rest } = self;
        let mut directory = Directory {
            tenants: tenants.into_iter().collect(),
            projects: projects.into_iter().collect(),
            keys: keys.into_iter().collect(),
            ..Directory::default()
        };
        rest.into_iter().for_each(|change| directory.apply(change));
        directory
    }
}

fn missing(what: &'static str, id: &dyn ToString) -> ChangeRefused {
    ChangeRefused::Missing { what, id: id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> Change {
        Change::TenantCreated(Tenant::new(id.parse().expect("a slug"), Plan::standard().id, Timestamp(0)))
    }

    fn key() -> ApiKey {
        let (id, tenant, project) = ("k1".parse(), "a".parse(), "default".parse());
        ApiKey::new(id.expect("a slug"), tenant.expect("a slug"), project.expect("a slug"), [7; 32], Timestamp(1))
    }

    #[test]
    fn a_change_needs_what_it_stands_on_and_must_be_new() {
        let mut directory = Directory::default();
        assert!(matches!(directory.check(&tenant("a")), Err(ChangeRefused::Missing { what: "plan", .. })));
        directory.apply(Change::PlanSet(Plan::standard()));
        assert_eq!(directory.check(&tenant("a")), Ok(()));
        directory.apply(tenant("a"));
        assert!(matches!(directory.check(&tenant("a")), Err(ChangeRefused::Exists { what: "tenant", .. })));
        let created = Change::KeyCreated(Box::new(key()));
        assert!(matches!(directory.check(&created), Err(ChangeRefused::Missing { what: "project", .. })));
    }

    #[test]
    fn the_changes_of_a_directory_make_it_again() {
        let mut directory = Directory::default();
        directory.apply(Change::PlanSet(Plan::standard()));
        directory.apply(tenant("a"));
        directory.apply(Change::KeyCreated(Box::new(key())));
        directory.apply(Change::KeyRevoked { id: key().id, at: Timestamp(9) });
        directory.apply(Change::KeyRevoked { id: key().id, at: Timestamp(11) });
        assert_eq!(directory.keys[&key().id].revoked_at, Some(Timestamp(9)), "the first revocation counts");
        let zone: Zone = "Europe/Berlin".parse().expect("a zone");
        let (id, plan): (TenantId, _) = ("a".parse().expect("a slug"), Plan::standard().id);
        directory.apply(Change::TenantChanged { id: id.clone(), plan, zone, tariff: Some(Box::default()) });
        let limits = Limits { tokens_per_minute: Some(9), ..Limits::default() };
        directory.apply(Change::LimitsSet { scope: Scope::Tenant(id.clone()), limits });
        let standard = Plan::standard().id;
        directory.apply(Change::ShareSet { plan: standard.clone(), share: 4 });
        assert_eq!(directory.share_of(&standard), 4);
        directory.apply(Change::LimitsSet { scope: Scope::Platform, limits });
        directory.apply(Change::LimitsSet { scope: Scope::Platform, limits: Limits::default() });
        assert_eq!(directory.limits.len(), 1, "no limits are no entry");
        for n in 0..30 {
            let sha256 = (n != 29).then_some([n; 32]);
            directory.apply(Change::PolicySet { scope: Scope::Tenant(id.clone()), sha256, at: Timestamp(n.into()) });
        }
        assert_eq!((directory.policies.len(), directory.policy(&Scope::Tenant(id.clone()))), (1, None));
        assert_eq!(directory.policies[&Scope::Tenant(id.clone())].len(), POLICIES_KEPT);
        let of_project = Scope::Project(id.clone(), "default".parse().expect("a slug"));
        let nowhere = Change::PolicySet { scope: of_project, sha256: None, at: Timestamp(0) };
        assert!(directory.check(&nowhere).is_err(), "projects have no layer");
        let (mut again, mut building) = (Directory::default(), Building::default());
        directory.to_changes().for_each(|change| again.apply(change));
        directory.to_changes().for_each(|change| building.add(change));
        assert_eq!((again, building.finish()), (directory.clone(), directory));
    }

    #[test]
    fn scopes_read_back_by_name() {
        let scopes = KeyScopes::from_names(["models", "chat"]).expect("known names");
        assert_eq!(scopes.names(), ["chat", "models"]);
        assert_eq!(KeyScopes::from_names(["chat", "admin"]), Err("admin".to_owned()));
    }
}
