//! The keys in force, by digest: one look-up, whatever the number of keys. Built anew when the directory changes, but
//! each scope keeps its limiter, so that a change elsewhere does not refill anybody's allowance.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_policy::{Law, Layer, Layers};
use tollgate_types::directory::{ApiKey, Directory, KeyScopes, Limits, Plan, Tariff, Tenant};
use tollgate_types::{EndUserId, KeyId, PlanId, ProjectId, Refusal, Scope, Spender, TenantId, Timestamp, Zone};

use crate::limits::{EndUsers, Kind, Limiter, Registry, Scopes, limiter};

/// Who is asking: an API key, and all that follows from it.
#[derive(Debug)]
pub struct Principal {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub scopes: KeyScopes,
    pub plan: Arc<Plan>,
    /// How much of the local runtimes its tenant has, beside others who wait.
    pub share: u32,
    /// The tenant's own terms, or its plan's.
    pub tariff: Arc<Tariff>,
    /// The tenant's.
    pub zone: Zone,
    pub limits: Arc<Scopes>,
    /// The policies that its requests fell under when it was let in; see [`Admission::judge`](crate::Admission::judge).
    pub(crate) policy: Arc<Layers>,
    /// Of its key, to find it again.
    pub(crate) digest: [u8; 32],
    /// Only where some are limited.
    end_users: Option<Arc<EndUserLimits>>,
    expires_at: Option<Timestamp>,
}

/// The bundles in force, by the digests of their archives.
pub type Laws = HashMap<[u8; 32], Arc<Law>>;

/// All keys.
#[derive(Debug, Default)]
pub struct Index {
    // The digests are outputs of a keyed hash: nobody outside can choose them, so neither how long a look-up takes nor
    // where it ends tells anything about a key.
    by_digest: HashMap<[u8; 32], Arc<Principal>, RandomState>,
    /// Whose the revoked ones were: who still presents one is of note.
    revoked: HashMap<[u8; 32], (TenantId, KeyId), RandomState>,
    limiters: Registry,
    laws: Arc<Laws>,
}

/// What a tenant's keys have from their tenant.
#[derive(Clone, Debug)]
struct Terms {
    plan: Arc<Plan>,
    share: u32,
    tariff: Arc<Tariff>,
    zone: Zone,
    policy: Arc<Layers>,
    end_users: Option<Arc<EndUserLimits>>,
}

/// The limits of a tenant's end users: what each has, what some have instead, and how far they are used.
#[derive(Debug)]
struct EndUserLimits {
    each: Limits,
    own: BTreeMap<EndUserId, Limits>,
    used: Arc<EndUsers>,
}

/// Makes an index from the directory and the index before.
struct Indexing<'a> {
    directory: &'a Directory,
    before: &'a Registry,
    limiters: Registry,
    laws: &'a Laws,
    plans: HashMap<&'a PlanId, (Arc<Plan>, Arc<Tariff>)>,
    /// Of tenants that have no bundle of their own, by plan.
    policies: HashMap<&'a PlanId, Arc<Layers>>,
}

// === impl Index ===

impl Index {
    /// The index of `directory`, with the limiters and the bundles of `before`.
    pub fn of(directory: &Directory, before: &Self) -> Self {
        Self::under(directory, before, Arc::clone(&before.laws))
    }

    /// The index of `directory` under these bundles, with the limiters of `before`.
    pub fn under(directory: &Directory, before: &Self, laws: Arc<Laws>) -> Self {
        let shared = |plan: &Plan| (Arc::new(plan.clone()), Arc::new(plan.tariff.clone()));
        let plans = directory.plans.iter().map(|(id, plan)| (id, shared(plan))).collect();
        let mut indexing = Indexing {
            directory,
            before: &before.limiters,
            limiters: Registry::for_tenants(directory.tenants.len()),
            laws: &laws,
            plans,
            policies: HashMap::new(),
        };
        indexing.shared();
        let terms: HashMap<_, _> =
            directory.tenants.values().map(|tenant| (&tenant.id, indexing.terms(tenant))).collect();
        for (tenant, project) in directory.projects.keys() {
            let limits = indexing.limits_of(&Scope::Project(tenant.clone(), project.clone()));
            indexing.limiters.project(indexing.before, tenant, project, limits);
        }
        let mut by_digest = HashMap::with_capacity_and_hasher(directory.keys.len(), RandomState::default());
        for key in directory.keys.values().filter(|key| key.revoked_at.is_none()) {
            // Every key has a tenant: the directory takes no other.
            let Some(terms) = terms.get(&key.tenant) else { continue };
            by_digest.insert(key.digest, Arc::new(indexing.principal(key, terms.clone())));
        }
        let limiters = indexing.limiters;
        let revoked = directory.keys.values().filter(|key| key.revoked_at.is_some());
        let revoked = revoked.map(|key| (key.digest, (key.tenant.clone(), key.id.clone()))).collect();
        Self { by_digest, revoked, limiters, laws }
    }

    pub fn laws(&self) -> &Arc<Laws> {
        &self.laws
    }

    pub fn by_digest(&self, digest: &[u8; 32]) -> Option<Arc<Principal>> {
        self.by_digest.get(digest).cloned()
    }

    pub fn revoked(&self, digest: &[u8; 32]) -> Option<(TenantId, KeyId)> {
        self.revoked.get(digest).cloned()
    }
}

// === impl Indexing ===

impl<'a> Indexing<'a> {
    /// What several tenants share.
    fn shared(&mut self) {
        let before = self.before;
        let limits = self.limits_of(&Scope::Platform);
        self.limiters.platform = Some(limiter(before.platform.as_ref(), Kind::Platform, limits));
        for plan in self.directory.plans.keys() {
            let limits = self.limits_of(&Scope::Plan(plan.clone()));
            let limiter = limiter(before.plans.get(plan), Kind::Plan, limits);
            self.limiters.plans.insert(plan.clone(), limiter);
        }
    }

    fn terms(&mut self, tenant: &'a Tenant) -> Terms {
        let standard = || (Arc::new(Plan::standard()), Arc::default());
        let (plan, tariff) = self.plans.get(&tenant.plan).cloned().unwrap_or_else(standard);
        let id = &tenant.id;
        let kept = self.before.tenant(id);
        let end_users = self.end_users(id, kept.and_then(|kept| kept.end_users.as_ref()));
        let each_tenant = self.limits_of(&Scope::EachTenant(plan.id.clone()));
        let limits = self.limits_of(&Scope::Tenant(id.clone())).or(each_tenant);
        let limiter = limiter(kept.map(|kept| &kept.tenant), Kind::Tenant, limits);
        self.limiters.found(id, limiter, end_users.as_ref().map(|end_users| Arc::clone(&end_users.used)));
        let tariff = tenant.tariff.as_ref().map_or(tariff, |own| Arc::new(Tariff::clone(own)));
        let (zone, policy) = (tenant.zone.clone(), self.policy(tenant));
        let share = self.directory.share_of(&plan.id);
        Terms { plan, share, tariff, zone, policy, end_users }
    }

    fn end_users(&self, tenant: &TenantId, kept: Option<&Arc<EndUsers>>) -> Option<Arc<EndUserLimits>> {
        let each = self.limits_of(&Scope::EachEndUser(tenant.clone()));
        let all_of_them = |end: u8| Scope::EndUser(tenant.clone(), EndUserId([end; 16]));
        let own = self.directory.limits.range(all_of_them(0)..=all_of_them(u8::MAX)).filter_map(|(scope, limits)| {
            if let Scope::EndUser(_, user) = scope { Some((*user, *limits)) } else { None }
        });
        let own: BTreeMap<_, _> = own.collect();
        let is_limited = each != Limits::default() || !own.is_empty();
        is_limited.then(|| Arc::new(EndUserLimits { each, own, used: kept.cloned().unwrap_or_default() }))
    }

    fn policy(&mut self, tenant: &'a Tenant) -> Arc<Layers> {
        let of_tenant = Scope::Tenant(tenant.id.clone());
        if self.directory.policy(&of_tenant).is_some() {
            return Arc::new(self.layers(&tenant.plan, Some(of_tenant)));
        }
        if !self.policies.contains_key(&tenant.plan) {
            let layers = Arc::new(self.layers(&tenant.plan, None));
            self.policies.insert(&tenant.plan, layers);
        }
        Arc::clone(&self.policies[&tenant.plan])
    }

    fn layers(&self, plan: &PlanId, of_tenant: Option<Scope>) -> Layers {
        let scopes = [
            (Layer::Platform, Some(Scope::Platform)),
            (Layer::Plan, Some(Scope::Plan(plan.clone()))),
            (Layer::Tenant, of_tenant),
        ];
        Layers::new(scopes.into_iter().filter_map(|(layer, scope)| {
            let digest = self.directory.policy(&scope?)?;
            // One that is not there allows nothing.
            Some((layer, self.laws.get(&digest).cloned()))
        }))
    }

    fn limits_of(&self, scope: &Scope) -> Limits {
        self.directory.limits.get(scope).copied().unwrap_or_default()
    }

    fn principal(&mut self, key: &ApiKey, terms: Terms) -> Principal {
        let Terms { plan, share, tariff, zone, policy, end_users } = terms;
        let (tenant, project) = (key.tenant.clone(), key.project.clone());
        let limits = self.limits_of(&Scope::Key(tenant.clone(), key.id.clone()));
        let limits = limits.or(key.limits).or(plan.key_limits);
        let of_key = self.limiters.key(self.before, &tenant, &key.id, limits);
        let limiters = &self.limiters;
        let of_tenant = limiters.tenant(&tenant);
        let wider = [
            limiters.platform.as_ref(),
            limiters.plans.get(&plan.id),
            of_tenant.map(|limiters| &limiters.tenant),
            of_tenant.and_then(|limiters| limiters.project(&project)),
        ];
        let limiters = wider.into_iter().flatten().cloned().chain([of_key]);
        Principal {
            tenant,
            project,
            key: key.id.clone(),
            scopes: key.scopes,
            plan,
            share,
            tariff,
            zone,
            limits: Arc::new(Scopes::new(limiters)),
            policy,
            digest: key.digest,
            end_users,
            expires_at: key.expires_at,
        }
    }
}

// === impl Principal ===

impl Principal {
    /// Everybody it spends for.
    pub fn spender(&self, end_user: Option<EndUserId>) -> Spender {
        Spender {
            plan: self.plan.id.clone(),
            tenant: self.tenant.clone(),
            project: self.project.clone(),
            key: self.key.clone(),
            end_user,
        }
    }

    /// The limiter of one of the tenant's end users; none where they are not limited.
    pub fn end_user_limiter(&self, user: EndUserId, now: Timestamp) -> Result<Option<Arc<Limiter>>, Refusal> {
        let Some(limited) = &self.end_users else { return Ok(None) };
        let EndUserLimits { each, own, used } = &**limited;
        let limits = own.get(&user).copied().unwrap_or_default().or(*each);
        if limits == Limits::default() { Ok(None) } else { used.limiter(user, limits, now).map(Some) }
    }

    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
