//! The keys in force, by digest: one look-up, whatever the number of keys. Built anew when the directory changes, but
//! each key keeps its limiter, so that a change elsewhere does not refill anybody's allowance.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_types::directory::{ApiKey, Directory, KeyScopes, Plan};
use tollgate_types::{KeyId, ProjectId, Scope, TenantId, Timestamp};

use crate::limits::KeyLimits;

/// Who is asking: an API key, and all that follows from it.
#[derive(Debug)]
pub struct Principal {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub scopes: KeyScopes,
    pub plan: Arc<Plan>,
    pub limits: Arc<KeyLimits>,
    /// The scopes it spends from, widest first.
    pub budget_scopes: [Scope; 3],
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
        let standard = Arc::new(Plan::standard());
        let mut by_digest = HashMap::with_capacity_and_hasher(directory.keys.len(), RandomState::default());
        for key in directory.keys.values().filter(|key| key.revoked_at.is_none()) {
            let plan = directory.tenants.get(&key.tenant).and_then(|tenant| plans.get(&tenant.plan));
            let plan = Arc::clone(plan.unwrap_or(&standard));
            let known = before.by_digest.get(&key.digest).map(|principal| &principal.limits);
            by_digest.insert(key.digest, Arc::new(Principal::of(key, plan, known)));
        }
        Self { by_digest }
    }

    pub fn by_digest(&self, digest: &[u8; 32]) -> Option<Arc<Principal>> {
        self.by_digest.get(digest).cloned()
    }
}

// === impl Principal ===

impl Principal {
    fn of(key: &ApiKey, plan: Arc<Plan>, known: Option<&Arc<KeyLimits>>) -> Self {
        let per_minute = key.requests_per_minute.or(plan.requests_per_minute);
        let parallel = key.parallel_requests.or(plan.parallel_requests);
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
            limits,
            budget_scopes: Scope::of_request(&key.tenant, &key.project, &key.id),
            expires_at: key.expires_at,
        }
    }

    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
