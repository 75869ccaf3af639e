//! `/admin/v1/routes`: a view of the configuration.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use tollgate_client::{FallbackInfo, List, RouteInfo};

use super::refused::Refusals;
use crate::app::App;
use crate::config::Route;

/// List the names that callers may ask for
#[utoipa::path(get, path = "/admin/v1/routes", operation_id = "list_routes", tag = "configuration",
    responses((status = 200, description = "Routes, by name", body = List<RouteInfo>), Refusals))]
pub async fn list(State(app): State<Arc<App>>) -> Json<List<RouteInfo>> {
    Json(List { data: app.routing().routes.values().map(|route| shown(route)).collect() })
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
