//! `/admin/v1/tenants`.

use std::sync::Arc;

use axum::Json;
use http::StatusCode;
use tollgate_client::{List, NewTenant, Tenant, TenantSettings};
use tollgate_guard::Act;
use tollgate_types::directory::{self, Change, Plan};
use tollgate_types::{PlanId, ProjectId, TenantId, Zone};

use super::approvals;
use super::caller::{Caller, Thing};
use super::durable::{aside, change};
use super::extract::{Body, Id, id, optional_id};
use super::refused::{Refusals, Refused};
use super::{label, tariffs};
use crate::app::App;

/// Every tenant has it, so that a key needs no project of its own.
pub const DEFAULT_PROJECT: &str = "default";

/// Create a tenant, with a project `default`
#[utoipa::path(post, path = "/admin/v1/tenants", operation_id = "create_tenant", tag = "tenants", request_body = NewTenant,
    responses((status = 201, description = "Created", body = Tenant), Refusals))]
pub async fn create(caller: Caller, Body(new): Body<NewTenant>) -> Result<(StatusCode, Json<Tenant>), Refused> {
    let app = caller.may(Act::CreateTenant, &Thing::Platform).await?;
    let tenant: TenantId = id("id", &new.id)?;
    let plan: PlanId = id("plan", new.plan.as_deref().unwrap_or(Plan::STANDARD))?;
    label::check(new.name.as_ref())?;
    let zone = new.time_zone.as_deref().map_or(Ok(Zone::UTC), |name| id("time_zone", name))?;
    let at = app.clock().now();
    let made = directory::Tenant { zone, ..directory::Tenant::new(tenant.clone(), plan, at) };
    // Refused before a data key is made for it.
    app.books.with_directory(|directory| directory.check(&Change::TenantCreated(made.clone())))?;
    make_data_key(&app, &tenant).await?;
    let created = directory::Tenant { label: label::seal(&app, &tenant, new.name.as_ref()).await?, ..made };
    let project = directory::Project { tenant, id: default_project(), created_at: at, label: None };
    change(&app, [Change::TenantCreated(created.clone()), Change::ProjectCreated(project)]).await?;
    Ok((StatusCode::CREATED, Json(shown(&app, &created))))
}

/// Change a tenant's terms: what is left out stays as it is
#[utoipa::path(put, path = "/admin/v1/tenants/{id}", operation_id = "set_tenant", tag = "tenants", request_body = TenantSettings,
    params(("id" = String, Path, example = "demo")),
    responses((status = 200, description = "The tenant as it is now", body = Tenant), Refusals))]
pub async fn set(
    caller: Caller,
    Id(tenant): Id<TenantId>,
    Body(settings): Body<TenantSettings>,
) -> Result<Json<Tenant>, Refused> {
    let app = caller.may(Act::SetTenant, &Thing::Tenant(tenant.clone())).await?;
    let plan: Option<PlanId> = optional_id("plan", settings.plan.as_ref())?;
    let zone: Option<Zone> = optional_id("time_zone", settings.time_zone.as_ref())?;
    let terms = serde_json::to_string(&settings).unwrap_or_default();
    let tariff = settings.tariff.map(|given| given.as_ref().map(tariffs::read).transpose()).transpose()?;
    let _one_at_a_time = approvals::ONE_AT_A_TIME.lock().await;
    let now = app.books.with_directory(|directory| directory.tenant(&tenant).cloned())?;
    let (was, watched_plan) = (now.clone(), now.plan.clone());
    let watched = app.books.with_directory(|directory| directory.oversight_of(&tenant).second_human);
    let changed = Change::TenantChanged {
        id: tenant.clone(),
        plan: plan.unwrap_or(now.plan),
        zone: zone.unwrap_or(now.zone),
        tariff: tariff.map_or(now.tariff, |tariff| tariff.map(Box::new)),
    };
    let same = Change::TenantChanged { id: tenant.clone(), plan: was.plan, zone: was.zone, tariff: was.tariff };
    if watched && changed != same {
        let what = format!("change the terms of tenant {tenant}, now on plan {watched_plan}: {terms}");
        approvals::agreed(&caller, Act::SetTenant, &Thing::Tenant(tenant.clone()), &what).await?;
    }
    change(&app, [changed]).await?;
    let tenant = app.books.with_directory(|directory| directory.tenant(&tenant).cloned())?;
    Ok(Json(shown(&app, &tenant)))
}

/// List all tenants
#[utoipa::path(get, path = "/admin/v1/tenants", operation_id = "list_tenants", tag = "tenants",
    responses((status = 200, description = "All tenants, by id", body = List<Tenant>), Refusals))]
pub async fn list(caller: Caller) -> Result<Json<List<Tenant>>, Refused> {
    let app = caller.may(Act::ListTenants, &Thing::Platform).await?;
    let tenants: Vec<_> = app.books.with_directory(|directory| directory.tenants.values().cloned().collect());
    Ok(Json(List { data: tenants.iter().map(|tenant| shown(&app, tenant)).collect() }))
}

/// Show one tenant
#[utoipa::path(get, path = "/admin/v1/tenants/{id}", operation_id = "show_tenant", tag = "tenants", params(("id" = String, Path, example = "demo")),
    responses((status = 200, description = "The tenant", body = Tenant), Refusals))]
pub async fn show(caller: Caller, Id(id): Id<TenantId>) -> Result<Json<Tenant>, Refused> {
    let app = caller.may(Act::ShowTenant, &Thing::Tenant(id.clone())).await?;
    let tenant = app.books.with_directory(|directory| directory.tenant(&id).cloned())?;
    Ok(Json(shown(&app, &tenant)))
}

pub fn default_project() -> ProjectId {
    DEFAULT_PROJECT.parse().expect("'default' is a valid slug")
}

/// Everything sealed for the tenant is sealed under it; so it is there, durably, before the tenant is.
async fn make_data_key(app: &Arc<App>, tenant: &TenantId) -> Result<(), Refused> {
    let (vault, tenant) = (Arc::clone(&app.vault), tenant.clone());
    Ok(aside(move || vault.create(&tenant)).await??)
}

fn shown(app: &App, tenant: &directory::Tenant) -> Tenant {
    Tenant {
        id: tenant.id.to_string(),
        name: label::open(&app.vault, &tenant.id, tenant.label.as_ref()),
        plan: tenant.plan.to_string(),
        time_zone: tenant.zone.to_string(),
        tariff: tenant.tariff.as_deref().map(tariffs::shown),
        created_at: tenant.created_at.to_string(),
    }
}
