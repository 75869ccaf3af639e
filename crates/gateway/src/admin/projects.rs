//! `/admin/v1/projects`.

use axum::Json;
use http::StatusCode;
use serde::Deserialize;
use tollgate_client::{List, NewProject, Project};
use tollgate_guard::Act;
use tollgate_types::TenantId;
use tollgate_types::directory::{self, Change};
use utoipa::IntoParams;

use super::caller::{Caller, Thing};
use super::durable::change;
use super::extract::{Asked, Body, id, optional_id};
use super::label;
use super::refused::{Refusals, Refused};
use crate::app::App;

/// Whose things are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Of {
    /// Without it: all tenants.
    #[param(example = "demo")]
    tenant: Option<String>,
}

/// Create a project
#[utoipa::path(post, path = "/admin/v1/projects", operation_id = "create_project", tag = "projects", request_body = NewProject,
    responses((status = 201, description = "Created", body = Project), Refusals))]
pub async fn create(caller: Caller, Body(new): Body<NewProject>) -> Result<(StatusCode, Json<Project>), Refused> {
    let tenant: TenantId = id("tenant", &new.tenant)?;
    let app = caller.may(Act::CreateProject, &Thing::Tenant(tenant.clone())).await?;
    let mut project = directory::Project { id: id("id", &new.id)?, tenant, created_at: app.clock().now(), label: None };
    // Refused before anything is sealed: a tenant that is not there has no data key.
    app.books.with_directory(|directory| directory.check(&Change::ProjectCreated(project.clone())))?;
    project.label = label::seal(&app, &project.tenant, new.name.as_ref()).await?;
    change(&app, [Change::ProjectCreated(project.clone())]).await?;
    Ok((StatusCode::CREATED, Json(shown(&app, &project))))
}

/// List projects
#[utoipa::path(get, path = "/admin/v1/projects", operation_id = "list_projects", tag = "projects", params(Of),
    responses((status = 200, description = "Projects, by tenant and id", body = List<Project>), Refusals))]
pub async fn list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<Project>>, Refused> {
    let app = caller.may(Act::ListProjects, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    let projects: Vec<_> = app.books.with_directory(|directory| {
        let wanted = |project: &&directory::Project| tenant.as_ref().is_none_or(|tenant| project.tenant == *tenant);
        directory.projects.values().filter(wanted).cloned().collect()
    });
    Ok(Json(List { data: projects.iter().map(|project| shown(&app, project)).collect() }))
}

fn shown(app: &App, project: &directory::Project) -> Project {
    Project {
        tenant: project.tenant.to_string(),
        id: project.id.to_string(),
        name: label::open(&app.vault, &project.tenant, project.label.as_ref()),
        created_at: project.created_at.to_string(),
    }
}

// === impl Of ===

impl Of {
    /// Whose things they are.
    pub fn thing(&self) -> Result<Thing, Refused> {
        Thing::of(self.tenant.as_ref())
    }

    /// The tenant named, who must exist: an empty list would hide a misspelling.
    pub fn tenant(&self, app: &App) -> Result<Option<TenantId>, Refused> {
        known_tenant(app, self.tenant.as_ref())
    }
}

pub fn known_tenant(app: &App, named: Option<&String>) -> Result<Option<TenantId>, Refused> {
    let tenant: Option<TenantId> = optional_id("tenant", named)?;
    if let Some(tenant) = &tenant {
        app.books.with_directory(|directory| directory.tenant(tenant).map(|_| ()))?;
    }
    Ok(tenant)
}
