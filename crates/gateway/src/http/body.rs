//! Bodies: reading a request's within its bounds, and the kinds of answer that go back.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tollgate_types::Refusal;

use crate::stream::StreamBody;

/// A body too large to be taken is read to its end and thrown away up to this many times the limit, so that the caller
/// gets to see why, and not a broken connection.
const DISCARD_FACTOR: usize = 8;

/// What goes back.
pub enum Body {
    Whole(Bytes),
    Stream(Box<StreamBody>),
    /// A stream that goes on without its caller: passed on by who works on it.
    Relayed(Relayed),
    /// The control plane's.
    Admin(axum::body::Body),
}

/// The caller's end of a stream that is passed on.
#[derive(Debug)]
pub struct Relayed {
    pieces: mpsc::UnboundedReceiver<Piece>,
    ended: bool,
}

/// A piece of it. Whoever stops before the last has broken off.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Bytes,
    pub last: bool,
    /// Its share of what may lie between the two; given back when the caller takes it.
    pub _room: OwnedSemaphorePermit,
}

/// What ends a connection in the middle of an answer.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

// === impl Body ===

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => stream.poll_data(context).map(|data| data.map(|data| Ok(Frame::data(data)))),
            Self::Relayed(relayed) => relayed.poll_data(context).map(|data| data.map(|data| data.map(Frame::data))),
            Self::Admin(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.has_ended(),
            Self::Relayed(relayed) => relayed.ended,
            Self::Admin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) | Self::Relayed(_) => SizeHint::default(),
            Self::Admin(body) => body.size_hint(),
        }
    }
}

// === impl Relayed ===

impl Relayed {
    pub fn new(pieces: mpsc::UnboundedReceiver<Piece>) -> Self {
        Self { pieces, ended: false }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(self.pieces.poll_recv(context));
        self.ended = piece.as_ref().is_none_or(|piece| piece.last);
        Poll::Ready(Some(piece.map(|piece| piece.bytes).ok_or_else(|| "the stream broke off".into())))
    }
}

/// Reads a request's body.
pub async fn read(body: Incoming, bytes_max: usize, patience: Duration) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(patience, collect(body, bytes_max)).await {
        Ok(read) => read,
        Err(_) => Err(Refusal::invalid(format!("the body did not arrive within {} s", patience.as_secs()))),
    }
}

async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, Refusal> {
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > bytes_max {
        return Err(discard(body, bytes_max).await);
    }
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    // Nearly always a request comes in one piece: then it is not copied.
    if first.len() == declared || body.is_end_stream() {
        return if first.len() > bytes_max { Err(too_large(bytes_max)) } else { Ok(first) };
    }
    let mut whole = BytesMut::with_capacity(declared.max(first.len()));
    whole.extend_from_slice(&first);
    while let Some(piece) = next(&mut body).await? {
        if whole.len() + piece.len() > bytes_max {
            return Err(discard(body, bytes_max).await);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::invalid("the body broke off"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

async fn discard(mut body: Incoming, bytes_max: usize) -> Refusal {
    let mut left = bytes_max.saturating_mul(DISCARD_FACTOR);
    while let Ok(Some(piece)) = next(&mut body).await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            break;
        }
    }
    too_large(bytes_max)
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::invalid(format!("the body is larger than {bytes_max} bytes, the most this gateway takes"))
}
