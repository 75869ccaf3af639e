//! Who exists: plans, tenants, their projects and keys. Pure state, changed only by [`Change`]s, which are journal
//! records; so the directory of any moment is the changes up to it, applied in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{KeyId, PicoUsd, PlanId, ProjectId, TenantId, Timestamp};

/// One change of the directory. New variants go at the end: the journal holds their position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    PlanSet(Plan),
    TenantCreated(Tenant),
    ProjectCreated(Project),
    KeyCreated(Box<ApiKey>),
    KeyRevoked { id: KeyId, at: Timestamp },
}

/// What a tenant has bought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    /// Charge = cost × (1 + mark-up), in hundredths of a percent.
    pub markup_bps: u32,
    pub tight_budget: TightBudget,
    /// For keys that set none of their own.
    pub requests_per_minute: Option<u32>,
    pub parallel_requests: Option<u32>,
    /// Held, and posted as bounded, for a model without a price. None refuses such a model.
    pub unpriced_hold: Option<PicoUsd>,
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
    pub requests_per_minute: Option<u32>,
    pub parallel_requests: Option<u32>,
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
}

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
            markup_bps: 0,
            tight_budget: TightBudget::Refuse,
            requests_per_minute: None,
            parallel_requests: None,
            unpriced_hold: None,
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
        }
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
        }
    }

    /// The shortest list of changes that makes this directory from an empty one.
    pub fn to_changes(&self) -> impl Iterator<Item = Change> + '_ {
        let plans = self.plans.values().cloned().map(Change::PlanSet);
        let tenants = self.tenants.values().cloned().map(Change::TenantCreated);
        let projects = self.projects.values().cloned().map(Change::ProjectCreated);
        let keys = self.keys.values().cloned().map(|key| Change::KeyCreated(Box::new(key)));
        plans.chain(tenants).chain(projects).chain(keys)
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
}

fn missing(what: &'static str, id: &dyn ToString) -> ChangeRefused {
    ChangeRefused::Missing { what, id: id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> Change {
        let id = id.parse().expect("a slug");
        Change::TenantCreated(Tenant { id, plan: Plan::standard().id, created_at: Timestamp(0), label: None })
    }

    fn key() -> ApiKey {
        ApiKey {
            id: "k1".parse().expect("a slug"),
            tenant: "a".parse().expect("a slug"),
            project: "default".parse().expect("a slug"),
            digest: [7; 32],
            created_at: Timestamp(1),
            expires_at: None,
            revoked_at: None,
            scopes: KeyScopes::ALL,
            requests_per_minute: None,
            parallel_requests: None,
            label: None,
        }
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
        let mut again = Directory::default();
        directory.to_changes().for_each(|change| again.apply(change));
        assert_eq!(again, directory);
    }

    #[test]
    fn scopes_read_back_by_name() {
        let scopes = KeyScopes::from_names(["models", "chat"]).expect("known names");
        assert_eq!(scopes.names(), ["chat", "models"]);
        assert_eq!(KeyScopes::from_names(["chat", "admin"]), Err("admin".to_owned()));
    }
}
