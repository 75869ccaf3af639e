//! `/admin/v1/keys`. A key is told once, when it is made; what is kept is its keyed hash.

use axum::Json;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderName};
use tollgate_client::{CreatedKey, Key, KeyScope, List, NewKey};
use tollgate_guard::Act;
use tollgate_types::directory::{ApiKey, Change, KeyScopes};
use tollgate_types::{KeyId, ProjectId, TenantId};

use super::caller::{Caller, Thing};
use super::durable::change;
use super::extract::{Asked, Body, Id, expiry, id, limits, optional_id, secret_text};
use super::label;
use super::projects::Of;
use super::refused::{Refusals, Refused};
use super::tenants::default_project;
use crate::app::App;

/// Bytes of randomness in a key: not to be guessed.
const SECRET_BYTES: usize = 24;
/// Bytes of randomness in a key's id: not to be met twice.
const ID_BYTES: usize = 8;

/// Create a key; the answer shows it this once
#[utoipa::path(post, path = "/admin/v1/keys", operation_id = "create_key", tag = "keys", request_body = NewKey,
    responses((status = 201, description = "Created", body = CreatedKey), Refusals))]
pub async fn create(
    caller: Caller,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<CreatedKey>), Refused> {
    let app = caller.may(Act::CreateKey, &Thing::Tenant(id("tenant", &new.tenant)?)).await?;
    let (mut key, secret) = read(&app, &new)?;
    // Refused before anything is sealed: a tenant that is not there has no data key.
    app.books.with_directory(|directory| directory.check(&Change::KeyCreated(Box::new(key.clone()))))?;
    key.label = label::seal(&app, &key.tenant, new.name.as_ref()).await?;
    change(&app, [Change::KeyCreated(Box::new(key.clone()))]).await?;
    let created = CreatedKey { info: shown(&app, &key), key: secret };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(created)))
}

/// List keys, without their secrets
#[utoipa::path(get, path = "/admin/v1/keys", operation_id = "list_keys", tag = "keys", params(Of),
    responses((status = 200, description = "Keys, by id", body = List<Key>), Refusals))]
pub async fn list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<Key>>, Refused> {
    let app = caller.may(Act::ListKeys, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    let keys: Vec<_> = app.books.with_directory(|directory| {
        let wanted = |key: &&ApiKey| tenant.as_ref().is_none_or(|tenant| key.tenant == *tenant);
        directory.keys.values().filter(wanted).cloned().collect()
    });
    Ok(Json(List { data: keys.iter().map(|key| shown(&app, key)).collect() }))
}

/// Revoke a key: from the answer on it is refused. Revoking it again changes nothing
#[utoipa::path(delete, path = "/admin/v1/keys/{id}", operation_id = "revoke_key", tag = "keys",
    params(("id" = String, Path, example = "k3f9c1d2e4a5b6078")),
    responses((status = 200, description = "The key as it is now", body = Key), Refusals))]
pub async fn revoke(caller: Caller, Id(id): Id<KeyId>) -> Result<Json<Key>, Refused> {
    let found = |app: &App| app.books.with_directory(|directory| directory.key(&id).cloned());
    let thing = caller.key(&id)?;
    let looked = caller.before_it_is_known_whose();
    if found(&looked)?.revoked_at.is_some() && caller.is_allowed(Act::RevokeKey, &thing).is_ok() {
        // Nothing is done, so nothing is noted, and none of the room that is kept is used.
        return Ok(Json(shown(&looked, &found(&looked)?)));
    }
    let app = caller.may(Act::RevokeKey, &thing).await?;
    if found(&app)?.revoked_at.is_none() {
        change(&app, [Change::KeyRevoked { id: id.clone(), at: app.clock().now() }]).await?;
    }
    Ok(Json(shown(&app, &found(&app)?)))
}

/// The key as it is kept, and the key itself.
fn read(app: &App, new: &NewKey) -> Result<(ApiKey, String), Refused> {
    let now = app.clock().now();
    let tenant: TenantId = id("tenant", &new.tenant)?;
    let project: Option<ProjectId> = optional_id("project", new.project.as_ref())?;
    let key_id = format!("k{}", secret_text::<ID_BYTES>()?);
    let secret = format!("tg_{key_id}_{}", secret_text::<SECRET_BYTES>()?);
    let key = ApiKey {
        id: id("id", &key_id)?,
        tenant,
        project: project.unwrap_or_else(default_project),
        digest: app.vault.digest(&secret),
        created_at: now,
        expires_at: expiry(new.expires_at.as_ref(), now)?,
        revoked_at: None,
        scopes: scopes(new.scopes.as_deref())?,
        limits: limits(new.requests_per_minute, new.tokens_per_minute, new.parallel_requests)?,
        label: None,
    };
    Ok((key, secret))
}

fn scopes(named: Option<&[KeyScope]>) -> Result<KeyScopes, Refused> {
    match named {
        None => Ok(KeyScopes::ALL),
        Some([]) => Err(Refused::field("scopes", "a key without a scope is of no use; leave it out for all")),
        Some(named) => {
            let names = named.iter().map(|scope| scope.name());
            KeyScopes::from_names(names).map_err(|unknown| Refused::field("scopes", format!("unknown: {unknown}")))
        }
    }
}

fn shown(app: &App, key: &ApiKey) -> Key {
    let held = [
        (KeyScope::Chat, key.scopes.chat),
        (KeyScope::Embeddings, key.scopes.embeddings),
        (KeyScope::Models, key.scopes.models),
    ];
    Key {
        id: key.id.to_string(),
        tenant: key.tenant.to_string(),
        project: key.project.to_string(),
        name: label::open(&app.vault, &key.tenant, key.label.as_ref()),
        scopes: held.into_iter().filter_map(|(scope, held)| held.then_some(scope)).collect(),
        requests_per_minute: key.limits.requests_per_minute,
        tokens_per_minute: key.limits.tokens_per_minute,
        parallel_requests: key.limits.parallel_requests,
        created_at: key.created_at.to_string(),
        expires_at: key.expires_at.map(|at| at.to_string()),
        revoked_at: key.revoked_at.map(|at| at.to_string()),
    }
}
