//! The limiters of everybody who exists. Made anew with the index, from the one before: a scope keeps its limiter as long
//! as its settings stay, so that a change elsewhere does not refill anybody's allowance.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_types::directory::Limits;
use tollgate_types::{KeyId, PlanId, ProjectId, TenantId};

use super::end_users::EndUsers;
use super::limiter::{Kind, Limiter};

/// Those that several tenants share, and each tenant's own.
#[derive(Debug, Default)]
pub struct Registry {
    pub platform: Option<Arc<Limiter>>,
    pub plans: HashMap<PlanId, Arc<Limiter>>,
    tenants: HashMap<TenantId, Box<TenantLimiters>, RandomState>,
}

/// All of one tenant's. Small: there may be a hundred thousand tenants.
#[derive(Debug)]
pub struct TenantLimiters {
    pub tenant: Arc<Limiter>,
    projects: Sorted<ProjectId>,
    keys: Sorted<KeyId>,
    /// Only where they are limited.
    pub end_users: Option<Arc<EndUsers>>,
}

/// Limiters in the order of their names.
#[derive(Debug)]
struct Sorted<Id>(Vec<(Id, Arc<Limiter>)>);

/// The limiter of a scope under these settings: the one it had `before` if they are the same, else one that goes on from
/// there.
pub fn limiter(before: Option<&Arc<Limiter>>, kind: Kind, limits: Limits) -> Arc<Limiter> {
    match before {
        Some(kept) if kept.limits() == limits => Arc::clone(kept),
        Some(other) => Arc::new(other.under(limits)),
        None => Arc::new(Limiter::new(kind, limits)),
    }
}

// === impl Registry ===

impl Registry {
    /// Empty, with room for so many.
    pub fn for_tenants(count: usize) -> Self {
        let tenants = HashMap::with_capacity_and_hasher(count, RandomState::default());
        Self { tenants, ..Self::default() }
    }

    pub fn tenant(&self, id: &TenantId) -> Option<&TenantLimiters> {
        self.tenants.get(id).map(Box::as_ref)
    }

    /// A tenant with its own limiter, and that of its end users if they are limited.
    pub fn found(&mut self, id: &TenantId, tenant: Arc<Limiter>, end_users: Option<Arc<EndUsers>>) {
        let limiters = TenantLimiters { tenant, projects: Sorted(Vec::new()), keys: Sorted(Vec::new()), end_users };
        self.tenants.insert(id.clone(), Box::new(limiters));
    }

    /// One more project of a tenant, later in order than those before it; the limiter that `before` had for it goes on.
    pub fn project(&mut self, before: &Self, tenant: &TenantId, id: &ProjectId, limits: Limits) {
        let kept = before.tenant(tenant).and_then(|before| before.project(id));
        let limiter = limiter(kept, Kind::Project, limits);
        if let Some(limiters) = self.tenants.get_mut(tenant) {
            limiters.projects.push(id, limiter);
        }
    }

    /// One more key of a tenant, later in order than those before it; the limiter that `before` had for it goes on.
    pub fn key(&mut self, before: &Self, tenant: &TenantId, id: &KeyId, limits: Limits) -> Arc<Limiter> {
        let kept = before.tenant(tenant).and_then(|before| before.keys.get(id));
        let limiter = limiter(kept, Kind::Key, limits);
        if let Some(limiters) = self.tenants.get_mut(tenant) {
            limiters.keys.push(id, Arc::clone(&limiter));
        }
        limiter
    }
}

// === impl TenantLimiters ===

impl TenantLimiters {
    pub fn project(&self, id: &ProjectId) -> Option<&Arc<Limiter>> {
        self.projects.get(id)
    }
}

// === impl Sorted ===

impl<Id: Ord + Clone> Sorted<Id> {
    fn push(&mut self, id: &Id, limiter: Arc<Limiter>) {
        debug_assert!(self.0.last().is_none_or(|(last, _)| last < id), "in order, and each once");
        // Most tenants have one.
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.push((id.clone(), limiter));
    }

    fn get(&self, id: &Id) -> Option<&Arc<Limiter>> {
        let at = self.0.binary_search_by(|(known, _)| known.cmp(id)).ok()?;
        Some(&self.0[at].1)
    }
}
