//! `/admin/v1/routes`: a view of the configuration.

use axum::Json;
use tollgate_client::{FallbackInfo, List, RouteInfo};
use tollgate_guard::Act;

use super::caller::{Caller, Thing};
use super::refused::{Refusals, Refused};
use crate::config::Route;

/// List the names that callers may ask for
#[utoipa::path(get, path = "/admin/v1/routes", operation_id = "list_routes", tag = "configuration",
    responses((status = 200, description = "Routes, by name", body = List<RouteInfo>), Refusals))]
pub async fn list(caller: Caller) -> Result<Json<List<RouteInfo>>, Refused> {
    let app = caller.may(Act::ListRoutes, &Thing::Shared).await?;
    Ok(Json(List { data: app.routing().routes.values().map(|route| shown(route)).collect() }))
}

fn shown(route: &Route) -> RouteInfo {
    let target = &route.target;
    RouteInfo {
        route: target.route.to_string(),
        provider: target.provider.to_string(),
        model: target.model.to_string(),
        max_tokens_default: Some(target.max_tokens_default),
        retries: route.retries,
        fallbacks: route.fallbacks.iter().map(|fallback| instead(fallback)).collect(),
    }
}

fn instead(fallback: &Route) -> FallbackInfo {
    let (provider, model) = (fallback.target.provider.to_string(), fallback.target.model.to_string());
    FallbackInfo { provider, model }
}
