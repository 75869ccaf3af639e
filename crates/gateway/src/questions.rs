//! What a caller may ask without spending: the models there are, and the receipt of a request of its own.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response};
use serde_json::{Value, json};
use tollgate_admission::Principal;
use tollgate_store::view::UsageEvent;
use tollgate_types::{Refusal, RequestId};

use crate::app::App;
use crate::http::body::Body;
use crate::http::{headers, routes};

/// How long a receipt may wait for the view to hold its request.
const VIEW_PATIENCE: Duration = Duration::from_secs(5);

fn authenticate(app: &App, tenant: Option<&str>, headers: &HeaderMap) -> Result<Arc<Principal>, Refusal> {
    app.admission.authenticate(headers::api_key(headers), tenant)
}

fn may_list(principal: &Principal) -> Result<(), Refusal> {
    if principal.scopes.models { Ok(()) } else { Err(Refusal::RoleDenied { action: "list models", scope: "models" }) }
}

/// `GET /v1/models`
pub fn models(app: &App, tenant: Option<&str>, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    may_list(&*authenticate(app, tenant, headers)?)?;
    let routing = app.routing();
    let data: Vec<Value> = routing.routes.values().map(|route| model_object(&route.target)).collect();
    Ok(routes::json(json!({ "object": "list", "data": data }).to_string().into()))
}

/// `GET /v1/models/{model}`
pub fn model(app: &App, tenant: Option<&str>, headers: &HeaderMap, name: &str) -> Result<Response<Body>, Refusal> {
    may_list(&*authenticate(app, tenant, headers)?)?;
    let route = app.route(name)?;
    Ok(routes::json(model_object(&route.target).to_string().into()))
}

fn model_object(target: &tollgate_admission::Target) -> Value {
    json!({ "id": &*target.route, "object": "model", "created": 0, "owned_by": &*target.priced_as })
}

/// `GET /v1/receipts/{request_id}`: what became of a request of the caller's own tenant.
pub async fn receipt(
    app: &Arc<App>,
    tenant: Option<&str>,
    headers: &HeaderMap,
    id: &str,
) -> Result<Response<Body>, Refusal> {
    let principal = authenticate(app, tenant, headers)?;
    let id: RequestId = id.parse().map_err(|_| Refusal::NotFound)?;
    let event = event(app, id).await?.filter(|event| event.reserved.tenant == principal.tenant);
    let event = event.ok_or(Refusal::NotFound)?;
    Ok(routes::json(receipt_object(&event).to_string().into()))
}

/// The usage event of a request, once the view has caught up with what is durable now.
pub async fn event(app: &Arc<App>, id: RequestId) -> Result<Option<UsageEvent>, Refusal> {
    let asked = Arc::clone(app);
    let looked_up = tokio::task::spawn_blocking(move || {
        asked.projector.catch_up(asked.journal.durable_sequence(), VIEW_PATIENCE);
        asked.view().and_then(|view| view.event(id))
    });
    match looked_up.await {
        Ok(Ok(event)) => Ok(event),
        Ok(Err(error)) => {
            tracing::error!(%error, "the view cannot be read");
            Err(Refusal::LedgerUnavailable)
        }
        Err(_) => Err(Refusal::LedgerUnavailable),
    }
}

fn receipt_object(event: &UsageEvent) -> Value {
    let reserved = &event.reserved;
    let mut receipt = json!({
        "object": "receipt",
        "request_id": reserved.id.to_string(),
        "tenant": reserved.tenant.as_str(),
        "project": reserved.project.as_str(),
        "key": reserved.key.as_str(),
        "route": &*reserved.route,
        "model": &*reserved.model,
        "provider": &*reserved.provider,
        "stream": reserved.stream,
        "state": event.state.name(),
        "price_version": &*reserved.price_version,
        "reserved_at": reserved.at.to_string(),
        "hold_cost_usd": reserved.hold.cost.to_string(),
        "hold_charge_usd": reserved.hold.charge.to_string(),
    });
    if let Some(end) = &event.end {
        receipt["ended_at"] = end.ended_at.to_string().into();
        receipt["outcome"] = end.outcome.name().into();
        receipt["confidence"] = end.confidence.map(|confidence| confidence.name()).into();
        receipt["cost_usd"] = end.amounts.cost.to_string().into();
        receipt["charge_usd"] = end.amounts.charge.to_string().into();
        receipt["usage"] = json!({
            "input_tokens": end.usage.input_tokens,
            "cached_input_tokens": end.usage.cached_input_tokens,
            "output_tokens": end.usage.output_tokens,
            "reasoning_tokens": end.usage.reasoning_tokens,
        });
    }
    receipt
}
