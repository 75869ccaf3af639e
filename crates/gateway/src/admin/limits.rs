//! `/admin/v1/limits`: requests and tokens per minute, and requests at once, of any scope. A limit is named by whose it is,
//! as a budget is; those that a key was made with stand with the key.

use axum::Json;
use http::StatusCode;
use tollgate_client::{Limit, LimitSetting, List, Whose};
use tollgate_guard::Act;
use tollgate_types::Scope;
use tollgate_types::directory::{Change, Limits};

use super::budgets::{named, scope};
use super::caller::{Caller, Thing};
use super::durable::change;
use super::extract::{self, Asked, Body};
use super::projects::Of;
use super::refused::{Refusals, Refused};

/// Set the limits of the narrowest that is named: all three
#[utoipa::path(put, path = "/admin/v1/limits", operation_id = "set_limits", tag = "limits", request_body = LimitSetting,
    responses((status = 200, description = "The limits as they stand now", body = Limit), Refusals))]
pub async fn set(caller: Caller, Body(setting): Body<LimitSetting>) -> Result<Json<Limit>, Refused> {
    let app = caller.may(Act::SetLimits, &Thing::named(&setting.whose())?).await?;
    let limits = extract::limits(setting.requests_per_minute, setting.tokens_per_minute, setting.parallel_requests)?;
    if limits == Limits::default() {
        return Err(Refused::field("requests_per_minute", "name a limit at least; DELETE removes them"));
    }
    let scope = scope(&app, &setting.whose())?;
    change(&app, [Change::LimitsSet { scope: scope.clone(), limits }]).await?;
    Ok(Json(shown(&scope, limits)))
}

/// List limits
#[utoipa::path(get, path = "/admin/v1/limits", operation_id = "list_limits", tag = "limits", params(Of),
    responses((status = 200, description = "Limits: a tenant's own, its projects', its keys', its end users'; without a tenant everybody's", body = List<Limit>), Refusals))]
pub async fn list(caller: Caller, Asked(of): Asked<Of>) -> Result<Json<List<Limit>>, Refused> {
    let app = caller.may(Act::ListLimits, &of.thing()?).await?;
    let tenant = of.tenant(&app)?;
    let wanted = |scope: &Scope| tenant.is_none() || scope.tenant() == tenant.as_ref();
    let data = app.books.with_directory(|directory| {
        let limits = directory.limits.iter().filter(|(scope, _)| wanted(scope));
        limits.map(|(scope, limits)| shown(scope, *limits)).collect()
    });
    Ok(Json(List { data }))
}

/// Remove the limits of a scope
#[utoipa::path(delete, path = "/admin/v1/limits", operation_id = "remove_limits", tag = "limits", params(Whose),
    responses((status = 204, description = "Removed"), Refusals))]
pub async fn remove(caller: Caller, Asked(whose): Asked<Whose>) -> Result<StatusCode, Refused> {
    let app = caller.may(Act::RemoveLimits, &Thing::named(&whose)?).await?;
    let scope = scope(&app, &whose)?;
    if !app.books.with_directory(|directory| directory.limits.contains_key(&scope)) {
        return Err(Refused::not_found("there are no such limits"));
    }
    change(&app, [Change::LimitsSet { scope, limits: Limits::default() }]).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(scope: &Scope, limits: Limits) -> Limit {
    let (scope, Whose { tenant, project, key, end_user, plan, .. }) = named(scope);
    let Limits { requests_per_minute, tokens_per_minute, parallel_requests } = limits;
    Limit { scope, tenant, plan, project, key, end_user, requests_per_minute, tokens_per_minute, parallel_requests }
}
