//! HTTP/1.1 as the bench needs it: one connection that one task owns and keeps alive, and single calls with a JSON body.

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

/// How long a single call may take as a whole.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

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

/// A JSON API behind a bearer key. Each call is a connection of its own, so a restart of the server in between is not seen.
#[derive(Clone, Debug)]
pub struct Api {
    origin: Origin,
    bearer: Option<HeaderValue>,
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
        let exchange = async {
            let mut connection = Connection::open(self).await?;
            let response = connection.send(request).await.context("no answer")?;
            Answer::read(response).await
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
        Ok(Self { origin, bearer: bearer.map(bearer_value).transpose()? })
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// Sends `body` and demands a success; an error answer is quoted in the error.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.exchange(method.clone(), path, body).await?;
        if !answer.status.is_success() {
            bail!("{method} {path} answered {}: {}", answer.status, answer.text());
        }
        if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
    }

    /// The same, with any status taken as an answer.
    pub async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let mut request = self.origin.request(method, path, bytes)?;
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        self.origin.call(request).await
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
    use super::*;

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
