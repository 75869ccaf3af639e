//! A provider that says exactly what it was told to and remembers exactly what it was sent: for what must pass byte for
//! byte, which the simulator, having a mind of its own, cannot show.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

/// A whole answer of 9 tokens in and 4 out; an event of a stream too.
pub const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#;

/// What came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What goes back, in these pieces.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub pieces: Vec<Bytes>,
    pub retry_after_ms: Option<u64>,
    /// After the last piece it says nothing more, and does not end.
    pub falls_silent: bool,
}

pub struct Scripted {
    pub base_url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

// === impl Reply ===

impl Reply {
    pub fn json(text: &str) -> Self {
        let pieces = vec![Bytes::copy_from_slice(text.as_bytes())];
        let content_type = "application/json";
        Self { status: 200, content_type, pieces, retry_after_ms: None, falls_silent: false }
    }

    /// An error that asks for so much patience.
    pub fn error(status: u16, retry_after_ms: Option<u64>) -> Self {
        Self { status, retry_after_ms, ..Self::json(r#"{"error":{"message":"not now"}}"#) }
    }

    /// A stream, cut into pieces of so many bytes.
    pub fn stream(text: &str, piece_bytes: usize) -> Self {
        let pieces = text.as_bytes().chunks(piece_bytes).map(Bytes::copy_from_slice).collect();
        let content_type = "text/event-stream";
        Self { status: 200, content_type, pieces, retry_after_ms: None, falls_silent: false }
    }
}

// === impl Scripted ===

impl Scripted {
    /// Answers everything with `reply`.
    pub async fn start(reply: Reply) -> Self {
        Self::in_turn([reply]).await
    }

    /// Answers the first request with the first of these, and so on; all further ones with the last.
    pub async fn in_turn(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base_url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (replies, heard) = (Arc::<[Reply]>::from_iter(replies), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (replies, heard) = (Arc::clone(&replies), Arc::clone(&heard));
                let service = service_fn(move |request| respond(Arc::clone(&replies), Arc::clone(&heard), request));
                tokio::spawn(async move {
                    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await
                });
            }
        });
        Self { base_url, seen }
    }

    /// A configuration's sections: this provider, priced as the simulator is, under two presets, and routes to it.
    pub fn sections(&self) -> String {
        let url = &self.base_url;
        format!(
            r#"
            [providers.scripted]
            base_url = "{url}"
            api_key = "env:SIM_KEY"
            priced_as = "simulator"
            [providers.modern]
            preset = "openai"
            base_url = "{url}"
            api_key = "env:SIM_KEY"
            priced_as = "simulator"
            [routes."gpt-4.1"]
            provider = "scripted"
            max_tokens_default = 321
            [routes."gpt-4.1-mini"]
            provider = "modern"
            max_tokens_default = 321
            [routes.alias]
            provider = "scripted"
            model = "gpt-4.1"
            [routes."text-embedding-3-large"]
            provider = "scripted"
            "#
        )
    }

    /// The last that came.
    pub fn last(&self) -> Seen {
        self.seen.lock().expect("no panic").last().cloned().expect("something came")
    }

    pub fn count(&self) -> usize {
        self.seen.lock().expect("no panic").len()
    }
}

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

async fn respond(
    replies: Arc<[Reply]>,
    heard: Arc<Mutex<Vec<Seen>>>,
    request: Request<Incoming>,
) -> Result<Response<StreamBody<Frames>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = Seen { path: head.uri.path().to_owned(), headers: head.headers, body };
    let number = {
        let mut heard = heard.lock().expect("no panic");
        heard.push(seen);
        heard.len()
    };
    let reply = &replies[number.min(replies.len()) - 1];
    let frames: Vec<_> = reply.pieces.iter().cloned().map(|piece| Ok(Frame::data(piece))).collect();
    let frames = futures_util::stream::iter(frames);
    let frames: Frames = match reply.falls_silent {
        true => Box::pin(frames.chain(futures_util::stream::pending())),
        false => Box::pin(frames),
    };
    let mut response = Response::builder().status(reply.status).header("content-type", reply.content_type);
    if let Some(millis) = reply.retry_after_ms {
        response = response.header("retry-after-ms", millis);
    }
    Ok(response.body(StreamBody::new(frames)).expect("a reply"))
}
