//! Who speaks to the control plane, and what they may do: asked of the guard, with whose the thing is. A handler has no other
//! way to the gateway than [`Caller::may`], so none can forget to ask, and no act can begin without having been noted.

use std::sync::{Arc, OnceLock};

use axum::extract::FromRequestParts;
use http::request::Parts;
use tollgate_client::Whose as Named;
use tollgate_guard::{Act, Role, Who, Whose};
use tollgate_types::access::Actor;
use tollgate_types::audit::Phase;
use tollgate_types::directory::ChangeRefused;
use tollgate_types::{KeyId, RequestId, TenantId};

use super::extract::id;
use super::refused::{APPROVAL, Refused};
use crate::access::Operator;
use crate::app::App;
use crate::audit;
use crate::digest::sha256;

const TRACEPARENT: http::HeaderName = http::HeaderName::from_static("traceparent");

/// What handlers are given: nothing that they could use.
#[derive(Clone)]
pub struct Gate(Arc<App>);

/// A request, as it is noted and approved.
#[derive(Debug)]
pub struct Asked {
    pub id: RequestId,
    pub trace: Option<[u8; 16]>,
    /// Whether it can change nothing.
    pub reads: bool,
    /// Its address, without the query.
    pub path: Arc<str>,
    /// SHA-256 of all that it asks for: method, address and body.
    pub digest: [u8; 32],
    /// The approval that it refers to, if any.
    pub approval: Option<KeyId>,
    /// What it was noted as when it began.
    pub begun: OnceLock<audit::Act>,
    /// The approval that it used up.
    pub approved: OnceLock<KeyId>,
}

/// A request's way to the gateway.
pub struct Caller {
    app: Arc<App>,
    operator: Operator,
    asked: Arc<Asked>,
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
        /// As of [`Thing::PartOf`].
        part: bool,
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

// === impl Asked ===

impl Asked {
    pub fn of(id: RequestId, head: &Parts, body: &[u8]) -> Self {
        let address = head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let text = |name: &http::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            id,
            trace: text(&TRACEPARENT).and_then(trace),
            reads: head.method.is_safe(),
            path: head.uri.path().into(),
            digest: sha256(&[head.method.as_str().as_bytes(), b"\0", address.as_bytes(), b"\0", body]),
            approval: text(&APPROVAL).and_then(|number| number.parse().ok()),
            begun: OnceLock::new(),
            approved: OnceLock::new(),
        }
    }
}

/// The trace that a `traceparent` names (W3C Trace Context, section 3.2.2).
fn trace(text: &str) -> Option<[u8; 16]> {
    let number = text.split('-').nth(1).filter(|number| number.len() == 32)?;
    u128::from_str_radix(number, 16).ok().filter(|number| *number != 0).map(u128::to_be_bytes)
}

// === impl Caller ===

impl FromRequestParts<Gate> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, Gate(app): &Gate) -> Result<Self, Refused> {
        // Put there by who recognised it: see `admin::answer`.
        let operator = parts.extensions.get::<Operator>().cloned().ok_or_else(Refused::unknown_key)?;
        let asked = parts.extensions.get::<Arc<Asked>>().cloned().ok_or_else(Refused::unknown_key)?;
        Ok(Self { app: Arc::clone(app), operator, asked })
    }
}

impl Caller {
    /// The gateway, for this act with this thing, once it is noted that it begins. Who may not is told so; but of another
    /// tenant's thing only that there is none, in the words that are used where there is none.
    pub async fn may(&self, act: Act, thing: &Thing) -> Result<Arc<App>, Refused> {
        if let Err(refused) = self.is_allowed(act, thing) {
            audit::denied(&self.app, &self.denied_as(act, thing), refused.status().as_u16(), refused.code());
            return Err(refused);
        }
        self.begin(act, thing).await?;
        Ok(Arc::clone(&self.app))
    }

    /// Whether the guard allows it. Nothing is noted by asking.
    pub fn is_allowed(&self, act: Act, thing: &Thing) -> Result<(), Refused> {
        let whose = thing.whose();
        let human = self.operator.actor.is_human();
        let mut anothers = true;
        for grant in self.operator.grants_for(act) {
            let who = Who::Operator { role: grant.role, tenant: grant.tenant.as_ref(), human };
            if self.app.guard.allows(who, act, whose) {
                return Ok(());
            }
            anothers &= whose.is_anothers(who);
        }
        match thing.missing() {
            Some(missing) if anothers => Err(missing.into()),
            _ => Err(Refused::role(&self.roles(), act.name())),
        }
    }

    /// Notes by which approval it is done.
    pub fn is_approved(&self, number: &KeyId) {
        // Nobody else sets it: a request is approved once.
        let _ = self.asked.approved.set(number.clone());
    }

    /// Whether whoever asks belongs to tenants only.
    pub fn is_tenants(&self) -> bool {
        self.operator.is_tenants()
    }

    pub fn actor(&self) -> &Actor {
        &self.operator.actor
    }

    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Whose a key is; to be asked before [`Caller::may`], and for nothing else.
    pub fn key(&self, key: &KeyId) -> Result<Thing, Refused> {
        let tenant = self.app.books.with_directory(|directory| directory.key(key).map(|key| key.tenant.clone()))?;
        Ok(Thing::Told { tenant, what: "key", name: key.to_string(), part: true })
    }

    /// The gateway, to find out whose a thing is; to be asked before [`Caller::may`], and for nothing else.
    pub fn before_it_is_known_whose(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// An act does not happen unless it is durable that it begins. Reading is noted only of who broke the glass.
    async fn begin(&self, act: Act, thing: &Thing) -> Result<(), Refused> {
        let noted_as = self.noted_as(act, thing);
        if self.operator.glass.is_some() {
            tracing::warn!(act = act.name(), actor = %self.operator.actor, "break-glass is used");
        }
        if self.asked.reads {
            if self.operator.glass.is_some() {
                let noted = audit::note(&self.app, &noted_as, Phase::Noted, None, None);
                audit::durable(&self.app, noted).await.map_err(|error| Refused::unavailable(&error))?;
            }
            return Ok(());
        }
        if self.asked.begun.get().is_some() {
            return Ok(());
        }
        // What comes of it is noted also where the caller leaves while this waits. Nobody else sets it: a request has one handler.
        let _ = self.asked.begun.set(noted_as.clone());
        let begun = match act {
            // What was stolen must be stopped, also where the journal takes no new work.
            Act::RevokeKey | Act::RevokeServiceKey | Act::EndSessions => audit::note_at_once(&self.app, &noted_as),
            _ => audit::note(&self.app, &noted_as, Phase::Begun, None, None),
        };
        audit::durable(&self.app, begun).await.map_err(|error| Refused::unavailable(&error))
    }

    fn noted_as(&self, act: Act, thing: &Thing) -> audit::Act {
        let glass = self.operator.glass.as_ref().map(|(approval, _)| format!("break-glass {approval}"));
        audit::Act {
            request: self.asked.id,
            trace: self.asked.trace,
            actor: self.operator.actor.clone(),
            act: act.name(),
            tenant: thing.tenant().cloned(),
            subject: Arc::clone(&self.asked.path),
            by: glass,
        }
    }

    /// A denial is the affair of whoever it was denied to: another tenant must not be told who asked for its things, and what
    /// nobody is has no log.
    fn denied_as(&self, act: Act, thing: &Thing) -> audit::Act {
        let own = self.operator.grants.iter().find_map(|grant| grant.tenant.clone());
        let exists =
            |tenant: &&TenantId| self.app.books.with_directory(|directory| directory.tenants.contains_key(*tenant));
        let is_own =
            |tenant: &&TenantId| self.operator.grants.iter().any(|grant| grant.tenant.as_ref() == Some(*tenant));
        let tenant = match thing.tenant() {
            Some(tenant) if is_own(&tenant) => Some(tenant.clone()),
            _ if self.operator.is_tenants() => own,
            named => named.filter(exists).cloned(),
        };
        audit::Act { tenant, ..self.noted_as(act, thing) }
    }

    fn roles(&self) -> String {
        let names: Vec<_> = self.operator.grants.iter().map(|grant| Role::name(grant.role)).collect();
        names.join(", ")
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

    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant(tenant) | Self::PartOf(tenant) | Self::Told { tenant, .. } => Some(tenant),
            Self::Platform | Self::Shared => None,
        }
    }

    /// Whether it is of a project, a key or end users of a tenant, not of the tenant as a whole.
    pub fn is_part(&self) -> bool {
        matches!(self, Self::PartOf(_) | Self::Told { part: true, .. })
    }

    fn whose(&self) -> Whose<'_> {
        match self {
            Self::Tenant(tenant) | Self::PartOf(tenant) | Self::Told { tenant, .. } => {
                Whose::Tenant { tenant, part: self.is_part() }
            }
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
