//! A stream on its way back: forwarded as it comes, settled when it ends, and ended only when that is durable.
//!
//! However it ends it ends visibly: with our own `[DONE]` after the books are durable, or with an error event. A stream
//! that broke never ends with `[DONE]`. One that goes on beyond what was held for is ended as a limited answer is.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Sleep;
use tollgate_admission::Settled;
use tollgate_ledger::Amounts;
use tollgate_serving::meter::Granted;
use tollgate_serving::sse::{Broken, Scanner};
use tollgate_store::journal::Durable;
use tollgate_types::Refusal;
use tollgate_types::clock::Stopwatch;
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind};
use tollgate_types::usage::Outcome;

use crate::http::{headers, refusal};
use crate::pipeline::{AppPermit, Underway};

pub struct StreamBody {
    under_way: Underway,
    /// `None` once it is settled. Dropped with this body if the caller leaves: then it posts its whole hold.
    permit: Option<AppPermit>,
    upstream: Option<Incoming>,
    scanner: Scanner,
    state: State,
    started: Stopwatch,
    /// What was left of the total timeout then.
    total_left: Duration,
    last_piece: Stopwatch,
    alarm: Pin<Box<Sleep>>,
    first_piece_seen: bool,
    /// What was posted, of a stream that ended well.
    charged: Option<Amounts>,
}

enum State {
    Flowing,
    /// Settled; what is left to send goes out when the books are durable.
    Settling {
        durable: Option<Durable>,
        last: Bytes,
    },
    Ended,
}

/// How a stream came to its end.
enum End {
    Done,
    /// The provider went on beyond what was held for.
    Cut,
    Broken(ProviderFaultKind),
}

// === impl StreamBody ===

impl StreamBody {
    pub fn new(under_way: Underway, permit: AppPermit, upstream: Incoming, hide_usage: bool, granted: Granted) -> Self {
        let now = Stopwatch::start();
        let timeouts = under_way.route.provider().timeouts;
        let left = under_way.total.saturating_sub(under_way.waited);
        Self {
            under_way,
            permit: Some(permit),
            upstream: Some(upstream),
            scanner: Scanner::new(hide_usage, Some(granted)),
            state: State::Flowing,
            started: now,
            last_piece: now,
            alarm: Box::pin(tokio::time::sleep(timeouts.idle.min(left))),
            total_left: left,
            first_piece_seen: false,
            charged: None,
        }
    }

    /// What the stream came to, once it has ended well.
    pub fn charged(&self) -> Option<Amounts> {
        self.charged.filter(|_| self.has_ended())
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The next piece for the caller.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Flowing => {
                    let piece = std::task::ready!(self.poll_flowing(context));
                    if !piece.is_empty() {
                        return Poll::Ready(Some(piece));
                    }
                }
                State::Settling { durable, last } => {
                    let mut last = std::mem::take(last);
                    if let Some(waiting) = durable {
                        match Pin::new(waiting).poll(context) {
                            Poll::Ready(Ok(())) => {}
                            Poll::Ready(Err(_)) => {
                                self.charged = None;
                                last = error_event(&Refusal::LedgerUnavailable);
                            }
                            Poll::Pending => {
                                self.keep(last);
                                self.drain_upstream(context);
                                return Poll::Pending;
                            }
                        }
                    }
                    self.drain_upstream(context);
                    self.upstream = None;
                    self.state = State::Ended;
                    return Poll::Ready(Some(last));
                }
            }
        }
    }

    fn keep(&mut self, text: Bytes) {
        if let State::Settling { last, .. } = &mut self.state {
            *last = text;
        }
    }

    /// Reads what the provider still sends after its end mark, so that its connection can be used again.
    fn drain_upstream(&mut self, context: &mut Context<'_>) {
        while let Some(upstream) = &mut self.upstream {
            match Pin::new(upstream).poll_frame(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => self.upstream = None,
                Poll::Pending => return,
            }
        }
    }

    /// Takes one piece from the provider. Empty if there is nothing to forward, but the state may have changed.
    fn poll_flowing(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        let Some(upstream) = &mut self.upstream else {
            self.finish(End::Broken(ProviderFaultKind::BrokenAnswer));
            return Poll::Ready(Bytes::new());
        };
        match Pin::new(upstream).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { return Poll::Ready(Bytes::new()) };
                self.arrived();
                let piece = self.scanner.push(data);
                if let Some(broken) = self.scanner.broken {
                    self.finish(End::Broken(match broken {
                        Broken::Malformed => ProviderFaultKind::MalformedAnswer,
                        Broken::ProviderError => ProviderFaultKind::BrokenAnswer,
                    }));
                } else if self.scanner.cut {
                    self.finish(End::Cut);
                } else if self.scanner.done {
                    self.finish(End::Done);
                }
                Poll::Ready(piece)
            }
            Poll::Ready(Some(Err(_))) => {
                self.finish(End::Broken(ProviderFaultKind::BrokenAnswer));
                Poll::Ready(Bytes::new())
            }
            // Without an end mark; but usage is the last thing a provider says, so the answer is whole.
            Poll::Ready(None) if self.scanner.usage_is_final => {
                self.finish(End::Done);
                Poll::Ready(Bytes::new())
            }
            Poll::Ready(None) => {
                self.finish(End::Broken(ProviderFaultKind::BrokenAnswer));
                Poll::Ready(Bytes::new())
            }
            Poll::Pending => self.poll_alarm(context).map(|()| Bytes::new()),
        }
    }

    fn arrived(&mut self) {
        self.last_piece = Stopwatch::start();
        if !self.first_piece_seen {
            self.first_piece_seen = true;
            self.under_way.waited = self.under_way.since.elapsed();
            self.under_way.series.first_chunk(self.under_way.since.elapsed());
        }
    }

    /// Completes when the provider has been silent, or busy, for too long. The alarm is set lazily: a piece that comes
    /// only notes the time, and an alarm that goes off too early is set anew.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timeouts = self.under_way.route.provider().timeouts;
        loop {
            std::task::ready!(self.alarm.as_mut().poll(context));
            let idle_left = left(timeouts.idle, self.last_piece.elapsed());
            let total_left = left(self.total_left, self.started.elapsed());
            match idle_left.zip(total_left) {
                Some((idle, total)) => self.alarm = Box::pin(tokio::time::sleep(idle.min(total))),
                None => {
                    let step = if idle_left.is_none() { "go on with its answer" } else { "end its answer" };
                    self.finish(End::Broken(ProviderFaultKind::Timeout(step)));
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Settles, and prepares what goes out last.
    fn finish(&mut self, end: End) {
        let Some(permit) = self.permit.take() else { return };
        let complete = self.scanner.usage_is_final || matches!(end, End::Done);
        let usage = self.scanner.usage.filter(|_| complete);
        let outcome = match (&end, usage) {
            (End::Done, Some(_)) => Outcome::Completed,
            (End::Done, None) => Outcome::UsageMissing,
            (End::Broken(_), _) => Outcome::ProviderBroke,
            (End::Cut, _) => Outcome::CutAtHold,
        };
        let settled = match usage {
            // Whatever broke after the provider had told its usage, the usage stands.
            Some(usage) => permit.settle(usage, outcome),
            None => permit.settle_bounded(outcome),
        };
        self.under_way.check_overrun(&settled);
        let Settled { amounts, position, .. } = settled;
        self.under_way.finished(outcome, Some(amounts), usage);
        self.charged = matches!(end, End::Done | End::Cut).then_some(amounts);
        let last = match end {
            End::Done => self.end_mark(amounts),
            // Dropping the connection tells the provider to stop.
            End::Cut => {
                self.upstream = None;
                self.under_way.warn("a stream was cut, for it went on beyond its hold", &self.scanner.output_tokens());
                self.end_mark(amounts)
            }
            End::Broken(kind) => {
                self.upstream = None;
                self.broken_mark(kind)
            }
        };
        let durable = position.map(|position| self.under_way.app.journal.durable(position));
        self.state = State::Settling { durable, last };
    }

    fn end_mark(&self, amounts: Amounts) -> Bytes {
        let mut text = headers::settled_comment(self.under_way.id, amounts, self.under_way.remaining());
        text.push_str("data: [DONE]\n\n");
        text.into()
    }

    fn broken_mark(&self, kind: ProviderFaultKind) -> Bytes {
        let provider = self.under_way.route.target.provider.to_string();
        self.under_way.warn("a stream broke", &kind);
        error_event(&Refusal::Provider(ProviderFault { provider, kind, retry_after: None }))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        // The caller left. Otherwise the permit posts its whole hold; but the provider has told the usage already.
        if let (true, Some(usage)) = (self.scanner.usage_is_final, self.scanner.usage)
            && let Some(permit) = self.permit.take()
        {
            let settled = permit.settle(usage, Outcome::ClientGone);
            self.under_way.check_overrun(&settled);
            self.under_way.finished(Outcome::ClientGone, Some(settled.amounts), Some(usage));
        }
    }
}

fn error_event(refused: &Refusal) -> Bytes {
    let mut event = b"data: ".to_vec();
    event.extend_from_slice(&refusal::body(refused));
    event.extend_from_slice(b"\n\n");
    event.into()
}

fn left(limit: Duration, passed: Duration) -> Option<Duration> {
    limit.checked_sub(passed).filter(|left| !left.is_zero())
}
