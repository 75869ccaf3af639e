//! The control plane, `/admin/v1`: its route table, who may speak to it, and what it tells of itself as OpenAPI. One file
//! a resource. Every write is durable in the journal before it is answered.
//!
//! It judges nothing itself: the directory and the books say what may be, here it is said in HTTP.

mod approvals;
pub mod audit;
mod bills;
mod budgets;
mod caller;
pub mod corrections;
mod durable;
mod extract;
mod keys;
mod label;
mod ledger;
mod limits;
mod people;
mod plans;
mod policies;
mod prices;
mod projects;
mod providers;
pub mod receipts;
mod reconciliations;
mod refused;
mod routes;
mod service_keys;
mod tariffs;
mod tenants;
#[cfg(test)]
mod tests;
mod usage;

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tollgate_admission::price::BOOK_BYTES_MAX;
use tollgate_client::{AuditFormat, ErrorBody, ErrorDetail};
use tollgate_types::access::Actor;
use tollgate_types::audit::Phase;
use tollgate_types::{KeyId, Refusal, RequestId};
use tower::ServiceExt;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use self::caller::{Asked, Gate};
use self::refused::{Code, Refused};
use crate::access::{self, Operator, Unknown};
use crate::app::App;
use crate::audit as noted;
use crate::http::body::{self, Body};

/// Largest body of a request, but for a price book's and a piece of a bill's.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The one page that needs no key: it says nothing that is not in the manual.
const DESCRIPTION: &str = "/admin/v1/openapi.json";

/// Every route on one screen.
fn router() -> Router<Gate> {
    Router::new()
        .route("/admin/v1/tenants", get(tenants::list).post(tenants::create))
        .route("/admin/v1/tenants/{id}", get(tenants::show).put(tenants::set))
        .route("/admin/v1/projects", get(projects::list).post(projects::create))
        .route("/admin/v1/keys", get(keys::list).post(keys::create))
        .route("/admin/v1/keys/{id}", delete(keys::revoke))
        .route("/admin/v1/service-keys", get(service_keys::list).post(service_keys::create))
        .route("/admin/v1/service-keys/{id}", delete(service_keys::revoke))
        .route("/admin/v1/access/me", get(people::me))
        .route("/admin/v1/access/sessions", get(people::sessions).delete(people::end))
        .route("/admin/v1/access/break-glass", post(people::break_glass))
        .route("/admin/v1/approvals", get(approvals::list))
        .route("/admin/v1/approvals/{id}", post(approvals::decide))
        .route("/admin/v1/audit", get(audit::list))
        .route("/admin/v1/audit/checkpoint", get(audit::checkpoint))
        .route("/admin/v1/audit/export", get(audit::export))
        .route("/admin/v1/audit/{n}", get(audit::show))
        .route("/admin/v1/plans", get(plans::list))
        .route("/admin/v1/plans/{id}", put(plans::set))
        .route("/admin/v1/budgets", get(budgets::list).put(budgets::set).delete(budgets::remove))
        .route("/admin/v1/budgets/alerts", get(budgets::alerts_list))
        .route("/admin/v1/limits", get(limits::list).put(limits::set).delete(limits::remove))
        .route("/admin/v1/usage", get(usage::list))
        .route("/admin/v1/usage/summary", get(usage::summary))
        .route("/admin/v1/receipts/keys", get(receipts::keys).post(receipts::rotate_key))
        .route("/admin/v1/usage/bill", get(bills::show))
        .route("/admin/v1/receipts/{request_id}", get(receipts::show))
        .route("/admin/v1/ledger", get(ledger::show))
        .route("/admin/v1/ledger/buckets", get(reconciliations::buckets))
        .route("/admin/v1/routes", get(routes::list))
        .route("/admin/v1/providers", get(providers::list))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route(
            "/admin/v1/ledger/reconciliations",
            post(reconciliations::reconcile).layer(DefaultBodyLimit::max(reconciliations::PIECE_BYTES_MAX)),
        )
        .route("/admin/v1/policies", get(policies::list).delete(policies::remove))
        .route("/admin/v1/policies", put(policies::push).layer(DefaultBodyLimit::max(policies::ARCHIVE_BYTES_MAX)))
        .route("/admin/v1/policies/rollback", post(policies::roll_back))
        .route("/admin/v1/policies/bundle", get(policies::bundle))
        .route("/admin/v1/policies/decisions", get(policies::decisions))
        .route("/admin/v1/prices", get(prices::list))
        .route("/admin/v1/prices", post(prices::push).layer(DefaultBodyLimit::max(BOOK_BYTES_MAX)))
        .route("/admin/v1/prices/corrections", post(corrections::correct).layer(DefaultBodyLimit::max(BOOK_BYTES_MAX)))
        .route(DESCRIPTION, get(description))
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_this_way)
}

/// Answers one request to the control plane.
pub async fn handle(
    app: &Arc<App>,
    id: RequestId,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let (head, incoming) = request.into_parts();
    let operator = access::recognised(app, &head.method, &head.headers, peer).and_then(|operator| {
        // A tenant's own people and machines cannot fill the journal of all.
        let rate = app.access.acts.may_act(&operator, !head.method.is_safe(), app.clock().now());
        rate.map(|()| operator).map_err(Unknown::TooFast)
    });
    // Whoever may not be heard is not listened to.
    let body = match operator {
        Ok(_) => body::read(incoming, BOOK_BYTES_MAX, app.server.body_timeout).await?,
        Err(_) => Bytes::new(),
    };
    Ok(answer(app, operator, id, Request::from_parts(head, body)).await.map(Body::Admin))
}

async fn answer(
    app: &Arc<App>,
    operator: Result<Operator, Unknown>,
    id: RequestId,
    request: Request<Bytes>,
) -> axum::response::Response {
    use axum::response::IntoResponse;
    let (mut head, body) = request.into_parts();
    let asked = Arc::new(Asked::of(id, &head, &body));
    match operator {
        Ok(operator) => drop((head.extensions.insert(operator), head.extensions.insert(Arc::clone(&asked)))),
        Err(_) if head.uri.path() == DESCRIPTION => {}
        Err(unknown) => {
            let refused = refused_to(unknown);
            let act = noted::Act::of(id, Actor::Nobody, "control_plane");
            noted::denied(app, &act, refused.status().as_u16(), refused.code());
            return refused.into_response();
        }
    }
    let mut ends = Ends { app, asked, outcome: None };
    let request = Request::from_parts(head, axum::body::Body::from(body));
    let response = router().with_state(Gate::to(app)).oneshot(request).await.unwrap_or_else(|never| match never {});
    ends.outcome = Some((response.status().as_u16(), response.extensions().get::<Code>().map(|code| code.0)));
    response
}

fn refused_to(unknown: Unknown) -> Refused {
    match unknown {
        Unknown::Nobody => Refused::unknown_key(),
        Unknown::Forged => Refused::forged(),
        Unknown::Shut(wait) => Refused::slowed("too many wrong credentials came from your address", wait),
        Unknown::TooFast(wait) => Refused::slowed("so many changes a second are too many for a tenant", wait),
    }
}

/// Notes what came of an act that began, also where whoever asked for it left before it ended.
struct Ends<'a> {
    app: &'a App,
    asked: Arc<Asked>,
    /// Status and, of a refusal, its code. `None`: it broke off.
    outcome: Option<(u16, Option<&'static str>)>,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let Some(begun) = self.asked.begun.get() else { return };
        let (status, code) = self.outcome.map_or((None, Some("broke_off")), |(status, code)| (Some(status), code));
        let approval = self.asked.approved.get().map(|number| format!("approval {number}"));
        let by = [approval, begun.by.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let begun = &noted::Act { by: (!by.is_empty()).then_some(by), ..begun.clone() };
        if let Err(error) = noted::note(self.app, begun, Phase::Completed, status, code) {
            tracing::error!(%error, act = begun.act, "it was not noted what came of an act: the journal cannot be written");
        }
    }
}

async fn nothing_here() -> Refused {
    Refused::not_found("there is nothing at this address; see /admin/v1/openapi.json")
}

async fn not_this_way() -> Refused {
    Refused::method_not_allowed()
}

async fn description() -> ([(http::HeaderName, &'static str); 1], &'static str) {
    static DESCRIBED: LazyLock<String> = LazyLock::new(openapi_json);
    ([(http::header::CONTENT_TYPE, "application/json")], &DESCRIBED)
}

/// The description, as it is kept in `docs/openapi.json`.
pub fn openapi_json() -> String {
    let mut whole = serde_json::to_value(Description::openapi()).expect("a description is plain data");
    tell(&mut whole, "");
    format!("{whole:#}")
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tollgate control plane",
        description = "Tenants, keys, budgets, prices and what was used. Money is text: `*_usd` is a decimal amount of US \
                       dollars, `*_picousd` a decimal integer of picodollars (1e-12 USD). Times are RFC 3339 in UTC. \
                       A write is durable before it is answered. Requests with a field that is not described here are \
                       refused; answers may gain fields."
    ),
    paths(
        tenants::list, tenants::create, tenants::show, tenants::set,
        projects::list, projects::create,
        keys::list, keys::create, keys::revoke,
        plans::list, plans::set,
        budgets::list, budgets::set, budgets::remove, budgets::alerts_list,
        limits::list, limits::set, limits::remove,
        policies::list, policies::push, policies::roll_back, policies::remove,
        policies::bundle, policies::decisions,
        prices::list, prices::push, corrections::correct,
        usage::list, usage::summary, bills::show,
        receipts::show, receipts::keys, receipts::rotate_key,
        service_keys::list, service_keys::create, service_keys::revoke,
        people::me, people::sessions, people::end, people::break_glass,
        approvals::list, approvals::decide,
        audit::list, audit::show, audit::checkpoint, audit::export,
        ledger::show, reconciliations::reconcile, reconciliations::buckets,
        routes::list,
        providers::list,
    ),
    components(schemas(ErrorBody, ErrorDetail, AuditFormat)),
    modifiers(&AdminKey),
    security(("admin_key" = []))
)]
struct Description;

struct AdminKey;

/// Tells what types cannot say: how ids are written, and that a number that cannot be negative may be larger than those that
/// can. `name`: of the part.
fn tell(part: &mut serde_json::Value, name: &str) {
    const IDS: [&str; 5] = ["tenant", "plan", "project", "key", "id"];
    match part {
        serde_json::Value::Array(parts) => parts.iter_mut().for_each(|part| tell(part, name)),
        serde_json::Value::Object(fields) => {
            // Of a parameter the name stands beside the schema, of a field before it.
            let own = fields.get("name").and_then(|name| name.as_str()).map(str::to_owned);
            for (field, value) in fields.iter_mut() {
                let name = if field == "schema" { own.as_deref().unwrap_or(name) } else { field };
                tell(value, name);
            }
            let is = |fields: &serde_json::Map<_, _>, kind: &str| match fields.get("type") {
                Some(serde_json::Value::String(one)) => one == kind,
                Some(serde_json::Value::Array(several)) => several.iter().any(|one| one == kind),
                _ => false,
            };
            // A new key is called so, too, with its secret, and so is what verifies the audit log.
            let example = fields.get("example").and_then(|text| text.as_str()).unwrap_or("a");
            let is_secret = example.starts_with("tg") || example.parse::<KeyId>().is_err();
            if IDS.contains(&name) && is(fields, "string") && !is_secret {
                fields.insert("pattern".to_owned(), r"^[a-z0-9][a-z0-9._-]{0,62}$".into());
            }
            if is(fields, "integer") && fields.contains_key("minimum") {
                for (signed, unsigned) in [("int32", "uint32"), ("int64", "uint64")] {
                    if fields.get("format").is_some_and(|format| format == signed) {
                        fields.insert("format".to_owned(), unsigned.into());
                    }
                }
            }
        }
        _ => {}
    }
}

impl Modify for AdminKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "What `secrets.admin_key` of the configuration refers to, a service key (`tgs_...`), or the token of somebody who \
                 signed in (`tgp_...`).",
            ))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("admin_key", SecurityScheme::Http(bearer));
    }
}
