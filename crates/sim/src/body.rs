//! What hyper sends: whole answers, streams, dumps of the truth, and bodies that break off.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::export;
use crate::stream::Sse;
use crate::truth::{Ticket, Truth};

#[derive(Debug)]
pub enum Body {
    Whole(Option<Bytes>),
    Broken(Box<Broken>),
    Sse(Box<Sse>),
    Dump(Dump),
}

/// The first part of a JSON answer, and then nothing good.
#[derive(Debug)]
pub struct Broken {
    part: Option<Bytes>,
    end: BadEnd,
}

/// How a body ends that does not end well.
#[derive(Debug)]
pub enum BadEnd {
    /// The connection closes. What was written before goes out first.
    Cut { flushed: bool },
    /// Nothing more comes, until the simulator hangs up.
    Silence(Pin<Box<Sleep>>, Option<Ticket>),
}

/// The truth as lines of JSON, one shard a frame.
#[derive(Debug)]
pub struct Dump {
    truth: Arc<Truth>,
    lines: Lines,
    next: usize,
}

/// What a line of a dump is.
#[derive(Debug)]
pub enum Lines {
    /// A request, with all that came of it.
    Accounts,
    /// An attempt that was booked in this time, in microseconds since 1970.
    Bill(Range<u64>),
}

type Polled = Poll<Option<io::Result<Frame<Bytes>>>>;

// === impl Body ===

impl Body {
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    pub fn dump(truth: Arc<Truth>, lines: Lines) -> Self {
        Self::Dump(Dump { truth, lines, next: 0 })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Broken(broken) => broken.poll(cx),
            Self::Sse(stream) => stream.poll(cx),
            Self::Dump(dump) => Poll::Ready(dump.next()),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Sse(stream) => stream.is_over(),
            Self::Broken(_) | Self::Dump(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            _ => SizeHint::default(),
        }
    }
}

// === impl Broken ===

impl Broken {
    pub fn cut(part: Bytes) -> Self {
        Self { part: Some(part), end: BadEnd::cut() }
    }

    pub fn stalled(part: Bytes, ticket: Ticket, silence: Duration) -> Self {
        Self { part: Some(part), end: BadEnd::silence(silence, Some(ticket)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.part.take() {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
            None => self.end.poll(cx).map(|error| Some(Err(error))),
        }
    }
}

// === impl BadEnd ===

impl BadEnd {
    pub fn cut() -> Self {
        Self::Cut { flushed: false }
    }

    pub fn silence(silence: Duration, ticket: Option<Ticket>) -> Self {
        Self::Silence(Box::pin(tokio::time::sleep(silence)), ticket)
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            // hyper writes what it holds whenever a body has nothing ready, and throws it away on an error.
            Self::Cut { flushed: flushed @ false } => {
                *flushed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Cut { flushed: true } => Poll::Ready(closed()),
            Self::Silence(sleep, ticket) => {
                ready!(sleep.as_mut().poll(cx));
                if let Some(ticket) = ticket {
                    ticket.hung_up();
                }
                Poll::Ready(closed())
            }
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the simulator breaks the answer off")
}

// === impl Dump ===

impl Dump {
    fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        while self.next < self.truth.shards() {
            let lines = match &self.lines {
                Lines::Accounts => self.truth.lines_of(self.next),
                Lines::Bill(span) => export::lines_of(&self.truth, self.next, span),
            };
            self.next += 1;
            if !lines.is_empty() {
                return Some(Ok(Frame::data(lines.into())));
            }
        }
        None
    }
}
