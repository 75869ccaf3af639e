//! `/admin/v1/service-keys`: the control plane's keys for machines. A key is told once, when it is made; what is kept is its
//! keyed hash.

use axum::Json;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderName};
use tollgate_client::{CreatedServiceKey, List, NewServiceKey, Role, ServiceKey};
use tollgate_guard::Act;
use tollgate_types::access;
use tollgate_types::directory::Change;
use tollgate_types::{KeyId, TenantId};

use super::caller::{Caller, Thing};
use super::durable::change;
use super::extract::{Asked, Body, Id, expiry, id, optional_id, secret_text};
use super::projects::Of;
use super::refused::{Refusals, Refused};
use crate::access::SERVICE_KEY_PREFIX;
use crate::app::App;

/// Bytes of randomness in a key: not to be guessed.
const SECRET_BYTES: usize = 24;
/// Bytes of randomness in a key's id: not to be met twice.
const ID_BYTES: usize = 8;
/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 100;

/// Create a service key; the answer shows it this once
#[utoipa::path(post, path = "/admin/v1/service-keys", operation_id = "create_service_key", tag = "service-keys",
    request_body = NewServiceKey, responses((status = 201, description = "Created", body = CreatedServiceKey), Refusals))]
pub async fn create(
    caller: Caller,
    Body(new): Body<NewServiceKey>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<CreatedServiceKey>), Refused> {
    let app = caller.may(Act::CreateServiceKey, &Thing::of(new.tenant.as_ref())?).await?;
    let (key, secret) = read(&app, &new)?;
    change(&app, [Change::ServiceKeyCreated(Box::new(key.clone()))]).await?;
    let created = CreatedServiceKey { info: shown(&key), key: secret };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(created)))
}

/// List service keys, without their secrets
#[utoipa::path(get, path = "/admin/v1/service-keys", operation_id = "list_service_keys", tag = "service-keys", params(Of),
    responses((status = 200, description = "Service keys, by id: a tenant's, or without a tenant all", body = List<ServiceKey>), Refusals))]
pub async fn list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<ServiceKey>>, Refused> {
    let app = caller.may(Act::ListServiceKeys, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    let data = app.books.with_directory(|directory| {
        let wanted = |key: &&access::ServiceKey| tenant.is_none() || key.tenant == tenant;
        directory.service_keys.values().filter(wanted).map(shown).collect()
    });
    Ok(Json(List { data }))
}

/// Revoke a service key: from the answer on it is refused. Revoking it again changes nothing
#[utoipa::path(delete, path = "/admin/v1/service-keys/{id}", operation_id = "revoke_service_key", tag = "service-keys",
    params(("id" = String, Path, example = "s3f9c1d2e4a5b6078")),
    responses((status = 200, description = "The key as it is now", body = ServiceKey), Refusals))]
pub async fn revoke(caller: Caller, Id(id): Id<KeyId>) -> Result<Json<ServiceKey>, Refused> {
    let found = |app: &App| app.books.with_directory(|directory| directory.service_key(&id).cloned());
    let looked = found(&caller.before_it_is_known_whose())?;
    let thing = match looked.tenant.clone() {
        Some(tenant) => Thing::Told { tenant, what: "service key", name: id.to_string(), part: false },
        None => Thing::Platform,
    };
    if looked.revoked_at.is_some() && caller.is_allowed(Act::RevokeServiceKey, &thing).is_ok() {
        return Ok(Json(shown(&looked)));
    }
    let app = caller.may(Act::RevokeServiceKey, &thing).await?;
    if found(&app)?.revoked_at.is_none() {
        change(&app, [Change::ServiceKeyRevoked { id: id.clone(), at: app.clock().now() }]).await?;
    }
    Ok(Json(shown(&found(&app)?)))
}

/// The key as it is kept, and the key itself.
fn read(app: &App, new: &NewServiceKey) -> Result<(access::ServiceKey, String), Refused> {
    let now = app.clock().now();
    let tenant: Option<TenantId> = optional_id("tenant", new.tenant.as_ref())?;
    let role = role(new.role);
    match (role, &tenant) {
        (tollgate_types::Role::PlatformAdmin, Some(_)) => {
            return Err(Refused::field(
                "role",
                "a platform admin is no tenant's: leave 'tenant' out, or take another role",
            ));
        }
        (tollgate_types::Role::TenantAdmin | tollgate_types::Role::Developer, None) => {
            return Err(Refused::field("tenant", "this role is a tenant's: say which"));
        }
        _ => {}
    }
    if let Some(tenant) = &tenant {
        app.books.with_directory(|directory| directory.tenant(tenant).map(|_| ()))?;
    }
    let name = new.name.as_deref().map(str::trim);
    if name.is_some_and(|name| name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control)) {
        return Err(Refused::field("name", format!("at most {NAME_CHARS_MAX} characters, on one line")));
    }
    let key_id = format!("s{}", secret_text::<ID_BYTES>()?);
    let secret = format!("{SERVICE_KEY_PREFIX}{key_id}_{}", secret_text::<SECRET_BYTES>()?);
    let key = access::ServiceKey {
        id: id("id", &key_id)?,
        digest: app.vault.digest(&secret),
        role,
        tenant,
        name: name.map(Into::into),
        created_at: now,
        expires_at: expiry(new.expires_at.as_ref(), now)?,
        revoked_at: None,
    };
    Ok((key, secret))
}

fn shown(key: &access::ServiceKey) -> ServiceKey {
    ServiceKey {
        id: key.id.to_string(),
        role: role_shown(key.role),
        tenant: key.tenant.as_ref().map(ToString::to_string),
        name: key.name.as_ref().map(ToString::to_string),
        created_at: key.created_at.to_string(),
        expires_at: key.expires_at.map(|at| at.to_string()),
        revoked_at: key.revoked_at.map(|at| at.to_string()),
    }
}

fn role(role: Role) -> tollgate_types::Role {
    match role {
        Role::PlatformAdmin => tollgate_types::Role::PlatformAdmin,
        Role::TenantAdmin => tollgate_types::Role::TenantAdmin,
        Role::Billing => tollgate_types::Role::Billing,
        Role::Auditor => tollgate_types::Role::Auditor,
        Role::Developer => tollgate_types::Role::Developer,
    }
}

pub fn role_shown(role: tollgate_types::Role) -> Role {
    match role {
        tollgate_types::Role::PlatformAdmin => Role::PlatformAdmin,
        tollgate_types::Role::TenantAdmin => Role::TenantAdmin,
        tollgate_types::Role::Billing => Role::Billing,
        tollgate_types::Role::Auditor => Role::Auditor,
        tollgate_types::Role::Developer => Role::Developer,
    }
}
