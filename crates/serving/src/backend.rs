//! One worker's connections to one provider. A worker never shares them: no lock, no hand-over between threads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tollgate_types::refusal::ProviderFaultKind;

use crate::provider::Provider;

/// The connections, and what every request to this provider has in common.
#[derive(Debug)]
pub struct Backend {
    pub provider: Arc<Provider>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
    chat: Uri,
    embeddings: Uri,
    texts: Uri,
    routes: Uri,
}

/// The head of a provider's answer, and its body still to come.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Incoming,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendError {
    pub fault: ProviderFaultKind,
    /// The request may have reached the provider, which then may bill it.
    pub maybe_sent: bool,
}

/// Which of a provider's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Embeddings,
    /// A worker's.
    Texts,
    Routes,
}

/// Where a worker takes texts, and says what it serves.
pub const TEXTS_PATH: &str = "/work/v1/texts";
pub const ROUTES_PATH: &str = "/work/v1/routes";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

// === impl Backend ===

impl Backend {
    pub fn new(provider: Arc<Provider>) -> Self {
        let timeouts = provider.timeouts;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(timeouts.connect));
        let tls = trusting(&provider.authorities);
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = https.enable_http1().enable_http2().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(timeouts.idle)
            .pool_max_idle_per_host(provider.idle_connections_max)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_only(provider.http2)
            .build(connector);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(key) = &provider.api_key
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let at = |path: &str| join(&provider.base_url, path);
        let (chat, embeddings) = (at("/chat/completions"), at("/embeddings"));
        let (texts, routes) = (at(TEXTS_PATH), at(ROUTES_PATH));
        Self { provider, client, headers, chat, embeddings, texts, routes }
    }

    /// Sends the request and waits for the head of the answer, for `time_left` at most.
    pub async fn send(
        &self,
        endpoint: Endpoint,
        request_id: HeaderValue,
        body: Bytes,
        time_left: Duration,
    ) -> Result<Answer, SendError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = match endpoint {
            Endpoint::Chat => self.chat.clone(),
            Endpoint::Embeddings => self.embeddings.clone(),
            Endpoint::Texts => self.texts.clone(),
            Endpoint::Routes => self.routes.clone(),
        };
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(REQUEST_ID, request_id);
        let sending = self.client.request(request);
        match tokio::time::timeout(self.provider.timeouts.first_byte.min(time_left), sending).await {
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Answer { status: head.status, headers: head.headers, body })
            }
            Ok(Err(error)) if error.is_connect() => {
                Err(SendError { fault: ProviderFaultKind::Unreachable, maybe_sent: false })
            }
            Ok(Err(_)) => Err(SendError { fault: ProviderFaultKind::Unreachable, maybe_sent: true }),
            Err(_) => Err(SendError { fault: ProviderFaultKind::Timeout("begin to answer"), maybe_sent: true }),
        }
    }
}

/// Trusts the public authorities, and those that are given.
pub fn trusting(authorities: &[CertificateDer<'static>]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(authorities.iter().cloned());
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("the provider of cryptography supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// `base` with `path` appended. The base was checked when the configuration was read.
fn join(base: &Uri, path: &str) -> Uri {
    let mut parts = base.clone().into_parts();
    let joined = format!("{}{path}", base.path().trim_end_matches('/'));
    parts.path_and_query = PathAndQuery::try_from(joined).ok();
    Uri::from_parts(parts).expect("a checked base address with a path is an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_to_the_base() {
        let check = |base: &str, whole: &str| {
            assert_eq!(join(&Uri::try_from(base).expect("an address"), "/chat/completions").to_string(), whole);
        };
        check("https://api.example.com/v1", "https://api.example.com/v1/chat/completions");
        check("https://api.example.com/v1/", "https://api.example.com/v1/chat/completions");
        check("http://127.0.0.1:8080", "http://127.0.0.1:8080/chat/completions");
    }
}
