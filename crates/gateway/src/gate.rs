//! The door of the data plane: whose key it is, and whether it may do what it wants, as the guard says.

use std::sync::Arc;

use http::HeaderMap;
use tollgate_admission::Principal;
use tollgate_guard::{Act, Who, Whose};
use tollgate_types::{Refusal, TenantId};

use crate::app::App;
use crate::http::headers;

/// Who presents the key of a request, if it may do this. `named` is the tenant in the address, if any: another tenant's key
/// finds nothing there, not even a refusal of its own.
pub fn enter(app: &App, named: Option<&str>, headers: &HeaderMap, act: Act) -> Result<Arc<Principal>, Refusal> {
    let principal = app.admission.authenticate(headers::api_key(headers))?;
    match named {
        None => may(app, &principal, act, &principal.tenant)?,
        Some(named) => may(app, &principal, act, &named.parse().map_err(|_| Refusal::NotFound)?)?,
    }
    Ok(principal)
}

/// Whether it may do this with what is `tenant`'s.
pub fn may(app: &App, principal: &Principal, act: Act, tenant: &TenantId) -> Result<(), Refusal> {
    let who = Who::Key { tenant: &principal.tenant, scopes: principal.scopes };
    let whose = Whose::Tenant { tenant, part: false };
    if app.guard.allows(who, act, whose) {
        return Ok(());
    }
    if whose.is_anothers(who) { Err(Refusal::NotFound) } else { Err(scope_missing(act)) }
}

fn scope_missing(act: Act) -> Refusal {
    let (action, scope) = match act {
        Act::Chat => ("call chat models", "chat"),
        Act::Embeddings => ("make embeddings", "embeddings"),
        Act::Models => ("list models", "models"),
        other => ("do this", other.name()),
    };
    Refusal::RoleDenied { action, scope }
}
