//! Who speaks to the control plane, and what they may do: asked of the guard, with whose the thing is. A handler has no other
//! way to the gateway than [`Caller::may`], so none can forget to ask.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use tollgate_client::Whose as Named;
use tollgate_guard::{Act, Role, Who, Whose};
use tollgate_types::directory::ChangeRefused;
use tollgate_types::{KeyId, TenantId};

use super::extract::id;
use super::refused::Refused;
use crate::app::App;

/// What handlers are given: nothing that they could use.
#[derive(Clone)]
pub struct Gate(Arc<App>);

/// Somebody who was recognised: for a tenant, or, without one, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    pub role: Role,
    pub tenant: Option<TenantId>,
}

/// A request's way to the gateway.
pub struct Caller {
    app: Arc<App>,
    operator: Operator,
}

/// Whose it is that a request asks for.
#[derive(Clone, Debug)]
pub enum Thing {
    /// A tenant as a whole.
    Tenant(TenantId),
    /// A project, a key or end users of a tenant.
    PartOf(TenantId),
    /// One thing of a tenant's, told by a name that does not say whose it is.
    Told {
        tenant: TenantId,
        what: &'static str,
        name: String,
    },
    Platform,
    Shared,
}

// === impl Gate ===

impl Gate {
    pub fn to(app: &Arc<App>) -> Self {
        Self(Arc::clone(app))
    }
}

// === impl Operator ===

impl Operator {
    /// Whoever bears the admin key.
    pub const ADMIN: Self = Self { role: Role::PlatformAdmin, tenant: None };
}

// === impl Caller ===

impl FromRequestParts<Gate> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, Gate(app): &Gate) -> Result<Self, Refused> {
        // Put there by who recognised it: see `admin::answer`.
        let operator = parts.extensions.get::<Operator>().cloned().ok_or_else(Refused::unknown_key)?;
        Ok(Self { app: Arc::clone(app), operator })
    }
}

impl Caller {
    /// The gateway, for this act with this thing. Who may not is told so; but of another tenant's thing only that there is
    /// none, in the words that are used where there is none.
    pub fn may(&self, act: Act, thing: &Thing) -> Result<Arc<App>, Refused> {
        let who = Who::Operator { role: self.operator.role, tenant: self.operator.tenant.as_ref() };
        let whose = thing.whose();
        if self.app.guard.allows(who, act, whose) {
            return Ok(Arc::clone(&self.app));
        }
        match thing.missing() {
            Some(missing) if whose.is_anothers(who) => Err(missing.into()),
            _ => Err(Refused::role(self.operator.role.name(), act.name())),
        }
    }

    /// Whose a key is; to be asked before [`Caller::may`], and for nothing else.
    pub fn key(&self, key: &KeyId) -> Result<Thing, Refused> {
        let tenant = self.app.books.with_directory(|directory| directory.key(key).map(|key| key.tenant.clone()))?;
        Ok(Thing::Told { tenant, what: "key", name: key.to_string() })
    }

    /// The gateway, to find out whose a thing is that only the view knows; to be asked before [`Caller::may`], and for
    /// nothing else.
    pub fn before_it_is_known_whose(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }
}

// === impl Thing ===

impl Thing {
    /// What is wanted of one tenant, or, where none is named, of all.
    pub fn of(tenant: Option<&String>) -> Result<Self, Refused> {
        Ok(tenant.map(|tenant| id("tenant", tenant)).transpose()?.map_or(Self::Platform, Self::Tenant))
    }

    /// The narrowest that is named.
    pub fn named(named: &Named) -> Result<Self, Refused> {
        let Named { tenant, project, key, end_user, each, .. } = named;
        let is_part = *each || [project, key, end_user].into_iter().any(Option::is_some);
        Ok(match Self::of(tenant.as_ref())? {
            Self::Tenant(tenant) if is_part => Self::PartOf(tenant),
            thing => thing,
        })
    }

    fn whose(&self) -> Whose<'_> {
        match self {
            Self::Tenant(tenant) => Whose::Tenant { tenant, part: false },
            Self::PartOf(tenant) | Self::Told { tenant, .. } => Whose::Tenant { tenant, part: true },
            Self::Platform => Whose::Platform,
            Self::Shared => Whose::Shared,
        }
    }

    /// What is said where it is not there.
    fn missing(&self) -> Option<ChangeRefused> {
        match self {
            Self::Tenant(tenant) | Self::PartOf(tenant) => {
                Some(ChangeRefused::Missing { what: "tenant", id: tenant.to_string() })
            }
            Self::Told { what, name, .. } => Some(ChangeRefused::Missing { what, id: name.clone() }),
            Self::Platform | Self::Shared => None,
        }
    }
}
