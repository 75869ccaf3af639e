//! The limiters of everybody who exists. Made anew with the index, from the one before: a scope keeps its limiter as long
//! as its settings stay, so that a change elsewhere does not refill anybody's allowance.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tollgate_types::directory::Limits;
use tollgate_types::{Scope, TenantId};

use super::end_users::EndUsers;
use super::limiter::{Kind, Limiter};

#[derive(Clone, Debug, Default)]
pub struct Registry {
    limiters: HashMap<Scope, Arc<Limiter>, RandomState>,
    end_users: HashMap<TenantId, Arc<EndUsers>, RandomState>,
}

// === impl Registry ===

impl Registry {
    /// The limiter of a scope under these settings: the one it had `before` if they are the same, else one that goes on
    /// from there. The same for all who ask this registry for the same scope.
    pub fn limiter(&mut self, before: &Self, scope: Scope, limits: Limits) -> Arc<Limiter> {
        match self.limiters.entry(scope) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(place) => {
                let limiter = match before.limiters.get(place.key()) {
                    Some(kept) if kept.limits() == limits => Arc::clone(kept),
                    Some(other) => Arc::new(other.under(limits)),
                    None => Arc::new(Limiter::new(Kind::of(place.key()), limits)),
                };
                Arc::clone(place.insert(limiter))
            }
        }
    }

    /// A tenant's end users.
    pub fn end_users(&mut self, before: &Self, tenant: &TenantId) -> Arc<EndUsers> {
        if let Some(known) = self.end_users.get(tenant) {
            return Arc::clone(known);
        }
        let kept = before.end_users.get(tenant).cloned().unwrap_or_default();
        self.end_users.insert(tenant.clone(), Arc::clone(&kept));
        kept
    }
}
