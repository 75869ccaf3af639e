//! `/admin/v1/budgets`. A budget is named by whose money it is, its window and its basis.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use tollgate_client::{Basis, Budget, BudgetSelector, BudgetSetting, List, Window};
use tollgate_ledger::{BudgetState, CapSet};
use tollgate_types::directory::Directory;
use tollgate_types::{KeyId, PicoSum, ProjectId, Scope, TenantId, Timestamp};

use super::extract::{Asked, Body, id, optional_id};
use super::projects::Of;
use super::refused::{Refusals, Refused};
use crate::app::App;

/// Set a cap for the narrowest of tenant, project and key that is given
#[utoipa::path(put, path = "/admin/v1/budgets", operation_id = "set_budget", tag = "budgets", request_body = BudgetSetting,
    responses((status = 200, description = "The budget as it stands now", body = Budget), Refusals))]
pub async fn set(State(app): State<Arc<App>>, Body(setting): Body<BudgetSetting>) -> Result<Json<Budget>, Refused> {
    let cap = PicoSum::parse_usd(&setting.cap_usd).map_err(|error| Refused::field("cap_usd", error))?;
    let BudgetSetting { tenant, project, key, window, basis, .. } = setting;
    let which = Which::read(&app, &BudgetSelector { tenant, project, key, window, basis })?;
    which.put(&app, Some(cap)).await?;
    let state = which.state(&app).ok_or_else(|| Refused::conflict("the budget was removed in the same moment"))?;
    Ok(Json(shown(&state)))
}

/// List budgets and where they stand
#[utoipa::path(get, path = "/admin/v1/budgets", operation_id = "list_budgets", tag = "budgets", params(Of),
    responses((status = 200, description = "Budgets: a tenant's own, its projects', its keys'", body = List<Budget>), Refusals))]
pub async fn list(State(app): State<Arc<App>>, Asked(of): Asked<Of>) -> Result<Json<List<Budget>>, Refused> {
    let tenant = of.tenant(&app)?;
    let budgets = app.books.budgets(|scope| tenant.as_ref().is_none_or(|tenant| scope.tenant() == tenant));
    Ok(Json(List { data: budgets.iter().map(shown).collect() }))
}

/// Remove a cap: what it counted is no longer limited by it
#[utoipa::path(delete, path = "/admin/v1/budgets", operation_id = "remove_budget", tag = "budgets", params(BudgetSelector),
    responses((status = 204, description = "Removed"), Refusals))]
pub async fn remove(
    State(app): State<Arc<App>>,
    Asked(selected): Asked<BudgetSelector>,
) -> Result<StatusCode, Refused> {
    let which = Which::read(&app, &selected)?;
    if which.state(&app).is_none() {
        return Err(Refused::not_found("there is no such budget"));
    }
    which.put(&app, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One budget, of somebody who exists.
struct Which {
    scope: Scope,
    window: tollgate_types::Window,
    basis: tollgate_types::Basis,
}

// === impl Which ===

impl Which {
    fn read(app: &App, selected: &BudgetSelector) -> Result<Self, Refused> {
        let tenant: TenantId = id("tenant", &selected.tenant)?;
        let project: Option<ProjectId> = optional_id("project", selected.project.as_ref())?;
        let key: Option<KeyId> = optional_id("key", selected.key.as_ref())?;
        let scope = app.books.with_directory(|directory| scope(directory, tenant, project, key))?;
        Ok(Self { scope, window: window(selected.window), basis: basis(selected.basis.unwrap_or(Basis::Cost)) })
    }

    async fn put(&self, app: &App, cap: Option<PicoSum>) -> Result<(), Refused> {
        let Self { scope, window, basis } = self;
        // The time is the books' own.
        let set = CapSet { scope: scope.clone(), window: *window, basis: *basis, cap, at: Timestamp::default() };
        let position = app.books.set_cap(set)?;
        Ok(app.journal.durable(position).await?)
    }

    fn state(&self, app: &App) -> Option<BudgetState> {
        let budgets = app.books.budgets(|scope| *scope == self.scope);
        budgets.into_iter().find(|budget| (budget.window, budget.basis) == (self.window, self.basis))
    }
}

/// The narrowest that is given. A project beside a key must be the key's own: else the caller means something else
/// than would be done.
fn scope(
    directory: &Directory,
    tenant: TenantId,
    project: Option<ProjectId>,
    key: Option<KeyId>,
) -> Result<Scope, Refused> {
    directory.tenant(&tenant)?;
    if let Some(project) = &project {
        directory.project(&tenant, project)?;
    }
    let Some(key) = key else {
        return Ok(
            project.map_or_else(|| Scope::Tenant(tenant.clone()), |project| Scope::Project(tenant.clone(), project))
        );
    };
    let found = directory.key(&key).ok().filter(|found| found.tenant == tenant);
    let found = found.ok_or_else(|| Refused::not_found(format!("the tenant '{tenant}' has no key '{key}'")))?;
    match project {
        Some(project) if project != found.project => {
            Err(Refused::field("project", format!("the key '{key}' spends for the project '{}'", found.project)))
        }
        _ => Ok(Scope::Key(tenant, key)),
    }
}

fn shown(state: &BudgetState) -> Budget {
    let BudgetState { scope, window, basis, cap, sums, resets_at } = state;
    let (project, key) = match scope {
        Scope::Tenant(_) => (None, None),
        Scope::Project(_, project) => (Some(project.to_string()), None),
        Scope::Key(_, key) => (None, Some(key.to_string())),
    };
    Budget {
        tenant: scope.tenant().to_string(),
        project,
        key,
        window: window_shown(*window),
        basis: basis_shown(*basis),
        cap_usd: cap.to_string(),
        cap_picousd: cap.0.to_string(),
        posted_picousd: sums.posted.of(*basis).0.to_string(),
        bounded_picousd: sums.bounded.of(*basis).0.to_string(),
        pending_picousd: sums.pending.of(*basis).0.to_string(),
        indeterminate_picousd: sums.indeterminate.of(*basis).0.to_string(),
        remaining_picousd: (cap.0 - sums.used(*basis).0).to_string(),
        resets_at: resets_at.map(|at| at.to_string()),
    }
}

fn window(window: Window) -> tollgate_types::Window {
    match window {
        Window::Request => tollgate_types::Window::Request,
        Window::Day => tollgate_types::Window::Day,
        Window::Month => tollgate_types::Window::Month,
        Window::Lifetime => tollgate_types::Window::Lifetime,
    }
}

fn window_shown(window: tollgate_types::Window) -> Window {
    match window {
        tollgate_types::Window::Request => Window::Request,
        tollgate_types::Window::Day => Window::Day,
        tollgate_types::Window::Month => Window::Month,
        tollgate_types::Window::Lifetime => Window::Lifetime,
    }
}

fn basis(basis: Basis) -> tollgate_types::Basis {
    match basis {
        Basis::Cost => tollgate_types::Basis::Cost,
        Basis::Charge => tollgate_types::Basis::Charge,
    }
}

fn basis_shown(basis: tollgate_types::Basis) -> Basis {
    match basis {
        tollgate_types::Basis::Cost => Basis::Cost,
        tollgate_types::Basis::Charge => Basis::Charge,
    }
}
