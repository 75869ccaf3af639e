//! HTTP/1.1 as the bench needs it: one connection that one task owns and keeps alive, and single calls with a JSON body.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// How long a single call may take as a whole: the list of all budgets of a storm is some megabytes, and asked for under load.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A server on plain HTTP: host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    authority: String,
}

/// One connection, kept alive between requests. Dropping it closes the socket at once, whatever is under way: that is
/// how a client disconnects.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A JSON API behind a bearer key. Its clones share their connections. What can be asked twice is asked again if a kept
/// connection turns out to be gone, so a restart of the server in between is not seen.
#[derive(Clone, Debug)]
pub struct Api {
    origin: Origin,
    bearer: Option<HeaderValue>,
    kept: Arc<Mutex<Vec<Connection>>>,
}

// === impl Origin ===

impl Origin {
    pub fn local(port: u16) -> Self {
        Self { authority: format!("127.0.0.1:{port}") }
    }

    /// Splits `http://host:port/path?query` into the origin and the path with its query.
    pub fn split(url: &str) -> Result<(Self, String)> {
        let uri: Uri = url.parse().with_context(|| format!("not a URL: {url}"))?;
        if uri.scheme_str() != Some("http") {
            bail!("only http:// URLs can be measured, not {url}");
        }
        let host = uri.host().with_context(|| format!("no host in {url}"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((Self { authority }, path.to_owned()))
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }

    /// A request for this server. `path` must begin with a slash.
    pub fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Request<Full<Bytes>>> {
        let builder = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        builder.body(Full::new(body.into())).with_context(|| format!("cannot ask for {path}"))
    }

    /// One request on a connection of its own, its answer read to the end.
    pub async fn call(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        self.call_on(None, request).await.map(|(answer, _)| answer)
    }

    /// The same on a kept connection, if there is one that is still good; gives back the connection it was on.
    async fn call_on(&self, kept: Option<Connection>, request: Request<Full<Bytes>>) -> Result<(Answer, Connection)> {
        let exchange = async {
            let mut connection = Connection::reuse(kept, self).await?;
            let response = connection.send(request).await.context("no answer")?;
            Ok::<_, anyhow::Error>((Answer::read(response).await?, connection))
        };
        tokio::time::timeout(CALL_TIMEOUT, exchange)
            .await
            .map_err(|_| anyhow!("no complete answer within {CALL_TIMEOUT:?}"))?
            .with_context(|| format!("asking {}", self.authority))
    }
}

// === impl Connection ===

impl Connection {
    pub async fn open(origin: &Origin) -> Result<Self> {
        let stream = TcpStream::connect(&origin.authority).await.context("cannot connect")?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("cannot start HTTP")?;
        // How it ends, its requests say: an error here has nothing to add.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, driver })
    }

    /// Sends a request once the last answer has been read to its end. On an error the connection is of no more use.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// The kept connection if another request can be sent on it; a new one if there is none or the server has closed.
    pub async fn reuse(kept: Option<Self>, origin: &Origin) -> Result<Self> {
        if let Some(mut kept) = kept
            && kept.sender.ready().await.is_ok()
        {
            return Ok(kept);
        }
        Self::open(origin).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

// === impl Answer ===

impl Answer {
    pub async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("the answer broke off")?.to_bytes();
        Ok(Self { status: head.status, headers: head.headers, body })
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

// === impl Api ===

impl Api {
    pub fn new(origin: Origin, bearer: Option<&str>) -> Result<Self> {
        Ok(Self { origin, bearer: bearer.map(bearer_value).transpose()?, kept: Arc::default() })
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// The body of a success, for who reads it without a tree of values in between.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes> {
        Ok(self.succeed(Method::GET, path, None).await?.body)
    }

    /// Sends `body` and demands a success; an error answer is quoted in the error.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.succeed(method, path, body).await?;
        if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
    }

    async fn succeed(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let answer = self.exchange(method.clone(), path, body).await?;
        if !answer.status.is_success() {
            bail!("{method} {path} answered {}: {}", answer.status, answer.text());
        }
        Ok(answer)
    }

    /// The same, with any status taken as an answer.
    pub async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let may_repeat = method != Method::POST;
        let mut request = self.origin.request(method, path, bytes)?;
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let kept = self.kept().pop();
        let is_kept = kept.is_some();
        let mut called = self.origin.call_on(kept, request.clone()).await;
        if called.is_err() && is_kept && may_repeat {
            called = self.origin.call_on(None, request).await;
        }
        let (answer, connection) = called?;
        self.kept().push(connection);
        Ok(answer)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Connection>> {
        // A list of connections stays one even if a holder panicked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Bearer KEY`, marked as not to be printed.
pub fn bearer_value(key: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).context("the key cannot be sent in a header")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::canned::{Canned, block_on, serve};

    use super::*;

    #[test]
    fn an_api_asks_again_on_a_new_connection_unless_that_would_do_something_twice() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // Every second answer breaks off, and its connection with it.
        let origin = serve(move |_| {
            let broken = count.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            if broken { Canned::json(200, "{}").cut() } else { Canned::json(200, "{}") }
        });
        block_on(async {
            let api = Api::new(origin, None).unwrap();
            api.get("/first").await.unwrap();
            assert_eq!(api.kept().len(), 1);
            api.get("/broken-and-again").await.unwrap();
            assert_eq!(asked.load(Ordering::Relaxed), 3);
            assert!(api.send(Method::POST, "/broken", None).await.is_err());
            assert_eq!(asked.load(Ordering::Relaxed), 4);
        });
    }

    #[test]
    fn a_url_splits_into_origin_and_path() {
        for (url, authority, path) in [
            ("http://127.0.0.1:8080/v1/chat?x=1", "127.0.0.1:8080", "/v1/chat?x=1"),
            ("http://localhost", "localhost:80", "/"),
        ] {
            let (origin, rest) = Origin::split(url).unwrap();
            assert_eq!((origin.authority(), rest.as_str()), (authority, path));
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for url in ["https://example.com/", "example.com", "/v1", ""] {
            assert!(Origin::split(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        assert!(!format!("{:?}", Api::new(Origin::local(1), Some("tg_secret")).unwrap()).contains("tg_secret"));
    }
}
