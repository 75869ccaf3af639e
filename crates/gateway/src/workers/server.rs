//! The worker's side: it does texts for whoever has the key, and says what it serves.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tollgate_serving::Secret;
use tollgate_serving::backend::{ROUTES_PATH, TEXTS_PATH};
use tollgate_types::{Clock, Refusal};

use super::wire::{Facts, Handback, Handed, Refused, Served};
use crate::access::is_same;
use crate::config::{self, WorkerConfig};
use crate::http::body::{self, Body};
use crate::http::{headers, routes};
use crate::local::work::{Caller, Stopped, Terms, Whose, Work};
use crate::local::{LocalWork, RETRY};
use crate::metrics::Metrics;
use crate::runtimes::{By, Does, Local, Runtimes, RuntimesError};

/// A worker's state.
#[derive(Debug)]
pub struct WorkerApp {
    pub server: config::Listening,
    pub metrics: Metrics,
    pub under_way: LocalWork,
    key: ArcSwap<Secret>,
    clock: Clock,
    serving: ArcSwap<Serving>,
    draining: AtomicBool,
}

/// What it serves.
#[derive(Debug)]
struct Serving {
    runtimes: Runtimes,
    routes: std::collections::BTreeMap<String, Arc<Local>>,
}

/// What is handed over is at most so many times what a caller may send: JSON may write a byte as six, and one text many times.
const HANDED_FACTOR: usize = 8;

// === impl WorkerApp ===

impl WorkerApp {
    pub fn start(config: &WorkerConfig, clock: Clock) -> Result<Arc<Self>, RuntimesError> {
        let serving = Serving::load(config, None, &clock)?;
        Ok(Arc::new(Self {
            server: config.server.clone(),
            metrics: Metrics::new(config.server.metric_tenants_max),
            under_way: LocalWork::default(),
            key: ArcSwap::from_pointee(config.key.clone()),
            clock,
            serving: ArcSwap::from_pointee(serving),
            draining: AtomicBool::new(false),
        }))
    }

    /// Takes over what a reload may change. Work under way keeps what it began with.
    pub fn reload(&self, config: &WorkerConfig) -> Result<(), RuntimesError> {
        let serving = Serving::load(config, Some(&self.serving.load().runtimes), &self.clock)?;
        self.serving.store(Arc::new(serving));
        self.key.store(Arc::new(config.key.clone()));
        self.metrics.forget_runtimes();
        Ok(())
    }

    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn connections(&self) -> &Gauge {
        &self.metrics.connections
    }

    pub fn routes(&self) -> usize {
        self.serving.load().routes.len()
    }

    /// Answers one request. Never fails: whatever is refused or goes wrong is an answer too.
    pub async fn handle(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
        let known = self.is_known(request.headers());
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => routes::text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") if self.draining.load(Ordering::Acquire) => {
                routes::text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n")
            }
            (&Method::GET, "/readyz") => routes::text(StatusCode::OK, "ready\n"),
            (&Method::GET, "/metrics") if known || self.server.listen.ip().is_loopback() => {
                self.serving.load().runtimes.note(&self.metrics);
                routes::openmetrics(&self.metrics.render())
            }
            (_, _) if !known => {
                tracing::warn!(%peer, "somebody without the key asked for work");
                routes::text(StatusCode::UNAUTHORIZED, "this is a worker, and the key is missing or wrong\n")
            }
            (&Method::POST, ROUTES_PATH) => json(StatusCode::OK, &Served { routes: self.serving.load().facts() }),
            (&Method::POST, TEXTS_PATH) => match self.texts(request.into_body()).await {
                Ok(back) => json(StatusCode::OK, &back),
                Err(refused) => json(status(&refused), &refused),
            },
            _ => routes::text(StatusCode::NOT_FOUND, "this is a worker: it does POST /work/v1/texts\n"),
        }
    }

    fn is_known(&self, head: &HeaderMap) -> bool {
        headers::api_key(head).is_some_and(|key| is_same(key, self.key.load().expose()))
    }

    async fn texts(&self, incoming: Incoming) -> Result<Handback, Refused> {
        let bytes_max = self.server.body_bytes_max.saturating_mul(HANDED_FACTOR);
        let bytes = body::read(incoming, bytes_max, self.server.body_timeout).await;
        let bytes = bytes.map_err(|refusal| Refused::of(&refusal))?;
        let handed: Handed = serde_json::from_slice(&bytes)
            .map_err(|error| Refused::Invalid { message: format!("what was handed over cannot be read: {error}") })?;
        drop(bytes);
        let local = self.serving.load().routes.get(&handed.route).cloned();
        let local = local.filter(|local| local.identity == handed.identity).ok_or(Refused::Changed)?;
        let busy = || Refusal::Overloaded { reason: "too many requests are under way here", retry_after: RETRY };
        let _place = self.under_way.enter().ok_or_else(|| Refused::of(&busy()))?;
        self.done(&local, handed).await
    }

    async fn done(&self, local: &Local, handed: Handed) -> Result<Handback, Refused> {
        let By::Here { runtime, task } = &local.by else { return Err(Refused::Changed) };
        let Handed { tenant, share, goal_us, alone, deadline_us, patience_us, truncate, texts, .. } = handed;
        let deadline = deadline_us.map(|us| self.clock.steady().plus(Duration::from_micros(us)));
        let terms = Terms { goal: Duration::from_micros(goal_us), alone, deadline };
        let mut work = Work::new(Whose { tenant, share }, terms, Duration::from_micros(patience_us));
        // A gateway that hangs up drops this future, and with it what waits.
        let (mut caller, _presence) = Caller::new();
        let done = match &local.does {
            Does::Embed { .. } => work
                .vectors(runtime, &texts, truncate, &mut caller)
                .await
                .map(|vectors| Handback::of_vectors(&vectors, work.tokens, work.cpu)),
            Does::Classify { .. } => work
                .labels(runtime, task, &texts, truncate, &mut caller)
                .await
                .map(|labels| Handback::of_labels(&labels, work.tokens, work.cpu)),
        };
        done.map_err(|stopped| match stopped {
            Stopped::Refused(refusal) => Refused::of(&refusal),
            Stopped::Gone => Refused::Broken,
        })
    }
}

// === impl Serving ===

impl Serving {
    fn load(config: &WorkerConfig, before: Option<&Runtimes>, clock: &Clock) -> Result<Self, RuntimesError> {
        let (runtimes, routes) = Runtimes::load_for_worker(config, before, clock)?;
        Ok(Self { runtimes, routes })
    }

    fn facts(&self) -> Vec<Facts> {
        let one = |(route, local): (&String, &Arc<Local>)| {
            let (dims, labels) = match &local.does {
                Does::Embed { dims } => (Some(*dims), Vec::new()),
                Does::Classify { labels } => (None, labels.to_vec()),
            };
            Facts {
                route: route.clone(),
                model: local.model_name.to_string(),
                dims,
                labels,
                texts_max: local.texts_max,
                text_bytes_max: local.text_bytes_max,
                identity: local.identity.clone(),
            }
        };
        self.routes.iter().map(one).collect()
    }
}

fn status(refused: &Refused) -> StatusCode {
    match refused {
        Refused::Invalid { .. } => StatusCode::BAD_REQUEST,
        Refused::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refused::Late => StatusCode::GATEWAY_TIMEOUT,
        Refused::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        Refused::Changed => StatusCode::CONFLICT,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("texts and numbers, which JSON can hold");
    let mut response = Response::new(Body::Whole(Bytes::from(bytes)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
