//! Every route on one screen.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tollgate_types::{Refusal, Surface};

use super::body::Body;
use super::{headers, refusal};
use crate::app::App;
use crate::{access, admin, pipeline, questions};

/// Answers one request. Never fails: whatever is refused or goes wrong is an answer too.
pub async fn handle(app: Arc<App>, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let id = app.request_ids.next(app.clock().now());
    let path = request.uri().path();
    let (tenant, rest) = split_tenant(path);
    let answered = match (request.method(), rest) {
        (&Method::POST, "/v1/chat/completions") => {
            let tenant = tenant.map(str::to_owned);
            pipeline::serve(&app, Surface::Chat, id, tenant.as_deref(), request).await
        }
        (&Method::POST, "/v1/embeddings") => {
            let tenant = tenant.map(str::to_owned);
            pipeline::serve(&app, Surface::Embeddings, id, tenant.as_deref(), request).await
        }
        (&Method::POST, "/v1/classify") => {
            let tenant = tenant.map(str::to_owned);
            pipeline::serve(&app, Surface::Classify, id, tenant.as_deref(), request).await
        }
        (&Method::POST, "/v1/runs") => {
            let tenant = tenant.map(str::to_owned);
            pipeline::serve(&app, Surface::Runs, id, tenant.as_deref(), request).await
        }
        (&Method::GET, "/v1/models") => questions::models(&app, id, tenant, request.headers()),
        (&Method::GET, rest) if rest.starts_with("/v1/models/") => {
            questions::model(&app, id, tenant, request.headers(), &rest["/v1/models/".len()..])
        }
        (&Method::GET, "/v1/receipts/keys") => Ok(questions::receipt_keys(&app)),
        (&Method::GET, "/.well-known/tollgate-receipt-keys.json") if tenant.is_none() => {
            Ok(questions::receipt_keys(&app))
        }
        (&Method::GET, rest) if rest.starts_with("/v1/receipts/") => {
            questions::receipt(&app, id, tenant, request.headers(), &rest["/v1/receipts/".len()..]).await
        }
        (&Method::GET, "/healthz") if tenant.is_none() => Ok(text(StatusCode::OK, "ok\n")),
        (&Method::GET, "/readyz") if tenant.is_none() => Ok(ready(&app)),
        (&Method::GET, "/metrics") if tenant.is_none() => metrics(&app, peer, request.headers()),
        (_, rest) if tenant.is_none() && rest.starts_with("/admin/v1/") => admin::handle(&app, id, peer, request).await,
        (_, rest) if tenant.is_none() && (rest == "/auth" || rest.starts_with("/auth/")) => {
            access::handle(&app, id, peer, request).await
        }
        _ => Err(Refusal::NotFound),
    };
    let mut response = answered.unwrap_or_else(|refused| {
        app.metrics.refused(&refused);
        refusal::respond(&refused).map(Body::Whole)
    });
    headers::identify(response.headers_mut(), id);
    response
}

/// `/t/{tenant}/v1/...` is `/v1/...` for the keys of that tenant alone.
fn split_tenant(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/t/") else { return (None, path) };
    match rest.find('/') {
        Some(slash) => (Some(&rest[..slash]), &rest[slash..]),
        None => (None, path),
    }
}

/// Whether new work is taken on. Says no while draining, so that a load balancer looks elsewhere.
fn ready(app: &App) -> Response<Body> {
    match app.not_ready() {
        None => text(StatusCode::OK, "ready\n"),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {reason}\n")),
    }
}

/// Metrics name tenants: on an address that others reach, they are for the operator's people and machines.
fn metrics(app: &App, peer: IpAddr, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
    if !app.server.listen.ip().is_loopback() {
        let known = access::recognised(app, &Method::GET, headers, peer);
        known.ok().filter(|operator| !operator.is_tenants()).ok_or(Refusal::InvalidApiKey)?;
    }
    Ok(openmetrics(&app.render_metrics()))
}

pub fn openmetrics(rendered: &str) -> Response<Body> {
    let mut response = text(StatusCode::OK, rendered);
    let openmetrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, openmetrics);
    response
}

pub fn json(body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Whole(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_in_the_address_is_split_off() {
        let check = |path: &str, tenant: Option<&str>, rest: &str| assert_eq!(split_tenant(path), (tenant, rest));
        check("/v1/models", None, "/v1/models");
        check("/t/demo/v1/models", Some("demo"), "/v1/models");
        check("/t//v1/models", Some(""), "/v1/models");
        check("/t/demo", None, "/t/demo");
        check("/t/a/t/b/v1/models", Some("a"), "/t/b/v1/models");
    }
}
