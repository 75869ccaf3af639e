//! The door of the data plane: whose key it is, and whether it may do what it wants, as the guard says. Who is not let in is
//! noted.

use std::sync::Arc;

use http::HeaderMap;
use tollgate_admission::{Principal, Stranger};
use tollgate_guard::{Act, Who, Whose};
use tollgate_types::access::Actor;
use tollgate_types::{Refusal, RequestId, TenantId};

use crate::app::App;
use crate::audit;
use crate::http::{headers, refusal};

/// Who presents the key of a request, if it may do this. `named` is the tenant in the address, if any: another tenant's key
/// finds nothing there, not even a refusal of its own.
pub fn enter(
    app: &App,
    id: RequestId,
    named: Option<&str>,
    headers: &HeaderMap,
    act: Act,
) -> Result<Arc<Principal>, Refusal> {
    let known = app.admission.authenticate(headers::api_key(headers));
    let principal = known.map_err(|stranger| turned_away(app, id, stranger, act))?;
    match named {
        None => may(app, id, &principal, act, &principal.tenant)?,
        Some(named) => match named.parse() {
            Ok(tenant) => may(app, id, &principal, act, &tenant)?,
            Err(_) => return Err(denied(app, id, &principal, act, Refusal::NotFound)),
        },
    }
    Ok(principal)
}

/// Whether it may do this with what is `tenant`'s.
pub fn may(app: &App, id: RequestId, principal: &Principal, act: Act, tenant: &TenantId) -> Result<(), Refusal> {
    let who = Who::Key { tenant: &principal.tenant, scopes: principal.scopes };
    let whose = Whose::Tenant { tenant, part: false };
    if app.guard.allows(who, act, whose) {
        return Ok(());
    }
    let refusal = if whose.is_anothers(who) { Refusal::NotFound } else { scope_missing(act) };
    Err(denied(app, id, principal, act, refusal))
}

/// Notes that a key's request was refused by right, and gives the refusal back.
pub fn denied(app: &App, id: RequestId, principal: &Principal, act: Act, refused: Refusal) -> Refusal {
    let noted = audit::Act::of(id, Actor::ApiKey(principal.key.clone()), act.name()).with_tenant(&principal.tenant);
    audit::denied(app, &noted, refusal::status(&refused).as_u16(), refused.code());
    refused
}

fn turned_away(app: &App, id: RequestId, stranger: Stranger, act: Act) -> Refusal {
    let refused = Refusal::InvalidApiKey;
    let noted = match stranger.former {
        // Somebody has it who should not have it any more.
        Some((tenant, key)) => audit::Act::of(id, Actor::ApiKey(key), act.name()).with_tenant(&tenant),
        None => audit::Act::of(id, Actor::Nobody, act.name()),
    };
    audit::denied(app, &noted, refusal::status(&refused).as_u16(), refused.code());
    refused
}

fn scope_missing(act: Act) -> Refusal {
    let (action, scope) = match act {
        Act::Chat => ("call chat models", "chat"),
        Act::Embeddings => ("make embeddings", "embeddings"),
        Act::Classify => ("classify", "embeddings"),
        Act::Run => ("run templates", "embeddings"),
        Act::Models => ("list models", "models"),
        other => ("do this", other.name()),
    };
    Refusal::RoleDenied { action, scope }
}
