//! What a caller may ask without spending: the models there are, and the receipt of a request of its own; and what
//! anybody may: the keys that receipts are signed with.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use tollgate_guard::Act;
use tollgate_store::view::{Reader, UsageEvent, ViewError};
use tollgate_types::{Refusal, RequestId};

use crate::app::App;
use crate::gate;
use crate::http::body::Body;
use crate::http::routes;
use crate::receipt::{self, Told};

/// How long a receipt may wait for the view to hold its request.
const VIEW_PATIENCE: Duration = Duration::from_secs(5);

/// `GET /v1/models`
pub fn models(app: &App, id: RequestId, tenant: Option<&str>, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    gate::enter(app, id, tenant, headers, Act::Models)?;
    let routing = app.routing();
    let data: Vec<Value> = routing.routes.values().map(|route| model_object(&route.target)).collect();
    Ok(routes::json(json!({ "object": "list", "data": data }).to_string().into()))
}

/// `GET /v1/models/{model}`
pub fn model(
    app: &App,
    id: RequestId,
    tenant: Option<&str>,
    headers: &HeaderMap,
    name: &str,
) -> Result<Response<Body>, Refusal> {
    gate::enter(app, id, tenant, headers, Act::Models)?;
    let route = app.route(&decoded(name))?;
    Ok(routes::json(model_object(&route.target).to_string().into()))
}

/// A name out of an address: SDKs write `vendor/model` as `vendor%2Fmodel`. What is not an escape stays as it is.
fn decoded(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return name.into();
    }
    let digit = |at: usize| char::from(*name.as_bytes().get(at)?).to_digit(16);
    let mut bytes = Vec::with_capacity(name.len());
    let mut at = 0;
    while let Some(&byte) = name.as_bytes().get(at) {
        let escaped = (byte == b'%').then(|| u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok()).flatten();
        bytes.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn model_object(target: &tollgate_admission::Target) -> Value {
    json!({ "id": &*target.route, "object": "model", "created": 0, "owned_by": &*target.priced_as })
}

/// `GET /v1/receipts/{request_id}`: what became of a request of the caller's own tenant.
pub async fn receipt(
    app: &Arc<App>,
    asking: RequestId,
    tenant: Option<&str>,
    headers: &HeaderMap,
    id: &str,
) -> Result<Response<Body>, Refusal> {
    let principal = gate::enter(app, asking, tenant, headers, Act::Receipt)?;
    let id: RequestId = id.parse().map_err(|_| Refusal::NotFound)?;
    let told = ask_view(app, move |view| Told::of(view, id)).await?;
    let told = told.ok_or(Refusal::NotFound)?;
    gate::may(app, asking, &principal, Act::Receipt, &told.event.reserved.spender.tenant)?;
    let receipt = serde_json::to_vec(&receipt::issue(app, &told)).expect("a receipt is plain data");
    Ok(routes::json(receipt.into()))
}

/// `GET /v1/receipts/keys`: what verifies receipts. It is no secret, and no tenant's.
pub fn receipt_keys(app: &App) -> Response<Body> {
    let keys = serde_json::to_vec(&receipt::keys(app)).expect("public keys are plain data");
    let mut response = routes::json(keys.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// The usage event of a request, once the view has caught up with what is durable now.
pub async fn event(app: &Arc<App>, id: RequestId) -> Result<Option<UsageEvent>, Refusal> {
    ask_view(app, move |view| view.event(id)).await
}

async fn ask_view<T: Send + 'static>(
    app: &Arc<App>,
    question: impl FnOnce(&Reader) -> Result<T, ViewError> + Send + 'static,
) -> Result<T, Refusal> {
    let asked = Arc::clone(app);
    match tokio::task::spawn_blocking(move || asked.ask_view(VIEW_PATIENCE, question)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::error!(%error, "the view cannot be read");
            Err(Refusal::LedgerUnavailable)
        }
        Err(_) => Err(Refusal::LedgerUnavailable),
    }
}
