//! The listening side: connections, routes, keys, and the headers every answer wears. HTTP/1.1 and HTTP/2 (prior
//! knowledge) on the same port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::body::{Body, Lines};
use crate::error::ApiError;
use crate::faults::{self, Fault};
use crate::scenario::Scenario;
use crate::text::River;
use crate::timing::Speed;
use crate::truth::Truth;
use crate::work::Stop;
use crate::{chat, dice, embeddings, export, render, scenario, timing};

const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections the kernel keeps for us while we are busy.
const BACKLOG: u32 = 4_096;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 20_000;
/// What a client may send ahead: on one stream, and on all of a connection.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// What one answer may have written ahead of its client.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;
/// A request id that is longer is replaced by one of ours.
const REQUEST_ID_BYTES_MAX: usize = 2_048;
/// Out of file descriptors, there is nothing to accept for a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// When the simulated models were made: 2026-01-01.
const MODELS_CREATED: u64 = 1_767_225_600;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SIMULATOR: HeaderName = HeaderName::from_static("x-tollgate-simulator");
const X_SIM_FAULT: HeaderName = HeaderName::from_static("x-sim-fault");
const X_SIM_REASONING_SHARE: HeaderName = HeaderName::from_static("x-sim-reasoning-share");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const OPENAI_VERSION: HeaderName = HeaderName::from_static("openai-version");

/// What all requests share.
#[derive(Debug)]
pub struct Sim {
    pub seed: u64,
    pub speed: Speed,
    pub scenario: Scenario,
    pub faults: Vec<(Fault, f64)>,
    pub cached_per_mille: u64,
    pub river: River,
    pub truth: Arc<Truth>,
    /// The `Authorization` that is asked for, whole.
    pub authorization: Option<String>,
    pub ids_made: AtomicU64,
}

/// What the headers of one request say.
#[derive(Debug)]
pub struct Call {
    pub request_id: Box<str>,
    pub request_id_was_given: bool,
    pub fault: Option<Fault>,
    /// Thousandths of the answer that are to be reasoning.
    pub reasoning_per_mille: Option<u64>,
    /// Stands for the key that was shown.
    pub key: u32,
}

/// A connection that can be told to end with a reset.
struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

/// Binds; must be called inside a runtime.
pub fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    });
    bound.with_context(|| format!("cannot listen on {listen}"))
}

/// Serves until it is dropped, and takes its connections with it.
pub async fn serve(sim: Arc<Sim>, listener: TcpListener) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&sim), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(sim: Arc<Sim>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection ended before it began");
        return;
    }
    let reset = Arc::new(AtomicBool::new(false));
    let wire = TokioIo::new(Wire { stream, reset: Arc::clone(&reset) });
    let service = service_fn(move |request| respond(Arc::clone(&sim), Arc::clone(&reset), request));
    if let Err(error) = protocols().serve_connection(wire, service).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Thousands of requests at a time on one HTTP/2 connection, so that a storm keeps within its open files.
fn protocols() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        // Many clients that leave at once, behind one gateway, are no attack.
        .max_pending_accept_reset_streams(STREAMS_MAX as usize)
        .max_local_error_reset_streams(STREAMS_MAX as usize);
    builder
}

async fn respond(sim: Arc<Sim>, reset: Arc<AtomicBool>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let version = request.version();
    let given = request.headers().get(X_REQUEST_ID).filter(|id| is_request_id(id)).cloned();
    let request_id = given.clone().unwrap_or_else(|| sim.make_id());
    let outcome = answer(&sim, &request_id, given.is_some(), request).await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(Stop::Refused(error)) => refusal(&error),
        Err(Stop::Reset) => {
            // HTTP/2 resets the one stream by itself.
            if version != Version::HTTP_2 {
                reset.store(true, Ordering::Relaxed);
            }
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    };
    let headers = response.headers_mut();
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    headers.insert(X_REQUEST_ID, request_id);
    headers.insert(X_SIMULATOR, HeaderValue::from_static("true"));
    headers.insert(OPENAI_VERSION, HeaderValue::from_static("2020-10-01"));
    Ok(response)
}

/// Every route on one screen.
async fn answer(
    sim: &Arc<Sim>,
    request_id: &HeaderValue,
    given: bool,
    request: Request<Incoming>,
) -> Result<Response<Body>, Stop> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    match (&parts.method, path) {
        (&Method::POST, "/v1/chat/completions") => {
            let call = Call::read(sim, &parts.headers, request_id, given)?;
            chat::answer(sim, &call, &whole(body).await?).await
        }
        (&Method::POST, "/v1/embeddings") => {
            let call = Call::read(sim, &parts.headers, request_id, given)?;
            embeddings::answer(sim, &call, &whole(body).await?).await
        }
        (&Method::GET, "/v1/models") => {
            sim.check_key(&parts.headers)?;
            Ok(json_response(&models(sim)))
        }
        (&Method::GET, _) if path.starts_with("/v1/models/") => {
            sim.check_key(&parts.headers)?;
            Ok(json_response(&model(&path["/v1/models/".len()..])))
        }
        (&Method::GET, "/healthz") => Ok(json_response(&json!({"status": "ok", "simulator": true}))),
        (&Method::GET, "/sim/truth") => Ok(Response::new(Body::whole(to_json(&sim.truth.totals())))),
        (&Method::GET, "/sim/truth.jsonl") => Ok(dump(&sim.truth, Lines::Accounts)),
        (&Method::GET, "/sim/usage.jsonl") => Ok(dump(&sim.truth, Lines::Bill(export::span(parts.uri.query())?))),
        (&Method::GET, _) if path.starts_with("/sim/truth/") => one_truth(sim, &path["/sim/truth/".len()..]),
        (&Method::GET, _) if path.starts_with("/v1/organization/") => {
            sim.check_key(&parts.headers)?;
            bill(sim, path, parts.uri.query())
        }
        (&Method::GET, _) if path.starts_with("/v1/organizations/") => {
            sim.check_admin_key(&parts.headers)?;
            bill(sim, path, parts.uri.query())
        }
        (method, "/v1/chat/completions" | "/v1/embeddings" | "/v1/models") => {
            Err(ApiError::wrong_method(method, path).into())
        }
        (method, _) => Err(ApiError::unknown_url(method, path).into()),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Stop> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_BYTES_MAX).into()),
        // The client left in the middle of its own request: nobody is there to be told.
        Err(_) => Err(Stop::Reset),
    }
}

/// The bill in its formats.
fn bill(sim: &Sim, path: &str, query: Option<&str>) -> Result<Response<Body>, Stop> {
    let tell = match path {
        "/v1/organization/usage/completions" => export::openai::completions,
        "/v1/organization/usage/embeddings" => export::openai::embeddings,
        "/v1/organization/costs" => export::openai::costs,
        "/v1/organizations/usage_report/messages" => export::anthropic::messages,
        "/v1/organizations/cost_report" => export::anthropic::cost_report,
        _ => return Err(ApiError::unknown_url(&Method::GET, path).into()),
    };
    Ok(Response::new(Body::whole(tell(&sim.truth, query, timing::unix_seconds())?)))
}

fn one_truth(sim: &Sim, request_id: &str) -> Result<Response<Body>, Stop> {
    match sim.truth.get(request_id) {
        Some(account) => Ok(Response::new(Body::whole(to_json(&account)))),
        None => Err(ApiError::invalid("The simulator has worked on no request of this id.", None)
            .with_status(StatusCode::NOT_FOUND)
            .into()),
    }
}

fn dump(truth: &Arc<Truth>, lines: Lines) -> Response<Body> {
    let mut response = Response::new(Body::dump(Arc::clone(truth), lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn models(sim: &Sim) -> serde_json::Value {
    json!({"object": "list", "data": sim.truth.prices().listed().map(model).collect::<Vec<_>>(), "x_sim": {"simulated": true}})
}

fn model(id: &str) -> serde_json::Value {
    json!({
        "id": id,
        "object": "model",
        "created": MODELS_CREATED,
        "owned_by": render::FINGERPRINT,
        "x_sim": {"simulated": true},
    })
}

fn json_response(value: &serde_json::Value) -> Response<Body> {
    Response::new(Body::whole(to_json(value)))
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys and finite numbers, so they are JSON")
}

fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = Response::new(Body::whole(error.body()));
    *response.status_mut() = error.status;
    if let Some(wait_ms) = error.retry_after_ms {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000)));
        response.headers_mut().insert(RETRY_AFTER_MS, HeaderValue::from(wait_ms));
    }
    response
}

fn is_request_id(id: &HeaderValue) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

// === impl Sim ===

impl Sim {
    fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(wanted) = &self.authorization else { return Ok(()) };
        match headers.get(AUTHORIZATION) {
            None => Err(ApiError::no_key()),
            Some(given) if given.as_bytes() == wanted.as_bytes() => Ok(()),
            Some(_) => Err(ApiError::wrong_key()),
        }
    }

    /// Anthropic's way to show a key, or the other one.
    fn check_admin_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let wanted = self.authorization.as_deref().and_then(|wanted| wanted.strip_prefix("Bearer "));
        match (wanted, headers.get(X_API_KEY)) {
            (Some(wanted), Some(given)) if given.as_bytes() == wanted.as_bytes() => Ok(()),
            (Some(_), Some(_)) => Err(ApiError::wrong_key()),
            _ => self.check_key(headers),
        }
    }

    fn make_id(&self) -> HeaderValue {
        let number = self.ids_made.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("req_sim{number:025}")).expect("letters and digits may stand in a header")
    }
}

// === impl Call ===

impl Call {
    fn read(sim: &Sim, headers: &HeaderMap, request_id: &HeaderValue, given: bool) -> Result<Self, ApiError> {
        sim.check_key(headers)?;
        let fault = match headers.get(X_SIM_FAULT) {
            None => None,
            Some(name) => Some(faults::asked_for(&String::from_utf8_lossy(name.as_bytes()))?),
        };
        let request_id = request_id.to_str().expect("a request id is printable ASCII, or it is one of ours").into();
        let reasoning_per_mille = headers.get(X_SIM_REASONING_SHARE).map(share).transpose()?;
        let key = headers.get(AUTHORIZATION).map_or(0, |shown| key_number(shown.as_bytes()));
        Ok(Self { request_id, request_id_was_given: given, fault, reasoning_per_mille, key })
    }
}

fn share(header: &HeaderValue) -> Result<u64, ApiError> {
    let share = header.to_str().ok().and_then(|text| text.parse().ok());
    share.and_then(|share| scenario::per_mille(share).ok()).ok_or_else(|| {
        let message = "The simulator takes an x-sim-reasoning-share from 0 to 1.";
        ApiError::invalid(message, Some("x-sim-reasoning-share"))
    })
}

/// A number that stands for a key on the bill.
fn key_number(shown: &[u8]) -> u32 {
    u32::try_from(dice::hash(0, shown) >> 32).expect("the upper half of 64 bits")
}

// === impl Wire ===

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "the connection closes without a reset");
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
