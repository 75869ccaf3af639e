//! The keys in force, by digest: one look-up, whatever the number of keys. Built anew when the directory changes, but
//! each key keeps its limiter, so that a change elsewhere does not refill anybody's allowance.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_types::directory::{ApiKey, Directory, KeyScopes, Plan, Tariff, Tenant};
use tollgate_types::{EndUserId, KeyId, ProjectId, Spender, TenantId, Timestamp, Zone};

use crate::limits::KeyLimits;

/// Who is asking: an API key, and all that follows from it.
#[derive(Debug)]
pub struct Principal {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub scopes: KeyScopes,
    pub plan: Arc<Plan>,
    /// The tenant's own terms, or its plan's.
    pub tariff: Arc<Tariff>,
    /// The tenant's.
    pub zone: Zone,
    pub limits: Arc<KeyLimits>,
    expires_at: Option<Timestamp>,
}

/// All keys that are not revoked.
#[derive(Clone, Debug, Default)]
pub struct Index {
    // The digests are outputs of a keyed hash: nobody outside can choose them, so neither how long a look-up takes nor
    // where it ends tells anything about a key.
    by_digest: HashMap<[u8; 32], Arc<Principal>, RandomState>,
}

// === impl Index ===

impl Index {
    /// The index of `directory`, with the limiters of `before`.
    pub fn of(directory: &Directory, before: &Self) -> Self {
        let plans: HashMap<_, _> = directory.plans.iter().map(|(id, plan)| (id, Arc::new(plan.clone()))).collect();
        let tariffs: HashMap<_, _> = plans.iter().map(|(id, plan)| (*id, Arc::new(plan.tariff.clone()))).collect();
        let terms = |tenant: &Tenant| Terms {
            plan: plans.get(&tenant.plan).map(Arc::clone),
            tariff: match &tenant.tariff {
                Some(own) => Some(Arc::new(own.clone())),
                None => tariffs.get(&tenant.plan).map(Arc::clone),
            },
            zone: tenant.zone.clone(),
        };
        let mut by_digest = HashMap::with_capacity_and_hasher(directory.keys.len(), RandomState::default());
        for key in directory.keys.values().filter(|key| key.revoked_at.is_none()) {
            let terms = directory.tenants.get(&key.tenant).map(&terms).unwrap_or_default();
            let known = before.by_digest.get(&key.digest).map(|principal| &principal.limits);
            by_digest.insert(key.digest, Arc::new(Principal::of(key, terms, known)));
        }
        Self { by_digest }
    }

    pub fn by_digest(&self, digest: &[u8; 32]) -> Option<Arc<Principal>> {
        self.by_digest.get(digest).cloned()
    }
}

/// What a tenant's keys have from their tenant.
#[derive(Default)]
struct Terms {
    plan: Option<Arc<Plan>>,
    tariff: Option<Arc<Tariff>>,
    zone: Zone,
}

// === impl Principal ===

impl Principal {
    fn of(key: &ApiKey, terms: Terms, known: Option<&Arc<KeyLimits>>) -> Self {
        let Terms { plan, tariff, zone } = terms;
        let plan = plan.unwrap_or_else(|| Arc::new(Plan::standard()));
        let limits = key.limits.or(plan.key_limits);
        let (per_minute, parallel) = (limits.requests_per_minute, limits.parallel_requests);
        let limits = match known {
            Some(limits) if limits.are(per_minute, parallel) => Arc::clone(limits),
            _ => Arc::new(KeyLimits::new(per_minute, parallel)),
        };
        Self {
            tenant: key.tenant.clone(),
            project: key.project.clone(),
            key: key.id.clone(),
            scopes: key.scopes,
            plan,
            tariff: tariff.unwrap_or_default(),
            zone,
            limits,
            expires_at: key.expires_at,
        }
    }

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

    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
