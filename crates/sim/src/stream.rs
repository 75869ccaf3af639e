//! A chat answer as server-sent events: the role, the content token by token, the finish reason, the usage if it was
//! asked for, `[DONE]`; and the faults that strike in the middle of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Frame;
use tokio::time::Sleep;

use crate::body::{BadEnd, Body};
use crate::chat::{Ask, Choice, Turn, Turns};
use crate::dice::Dice;
use crate::error::ApiError;
use crate::faults::Fault;
use crate::render;
use crate::server::Sim;
use crate::timing::{self, Instant};
use crate::work::{DICE_GAPS, DICE_LOGPROBS, Work};

/// Events that are due together go out together, up to about this size.
const FRAME_BYTES: usize = 4_096;
/// What `error-after-tokens` says.
const BROKE_OFF: &str = "The server had an error while processing your request. Sorry about that! (simulated)";
const DONE: &str = "data: [DONE]\n\n";

/// A stream in the making. It makes a token when hyper asks for more and the token's time has come.
#[derive(Debug)]
pub struct Sse {
    sim: Arc<Sim>,
    work: Work,
    choices: Vec<Choice>,
    turns: Turns,
    /// Which choices have sent their role.
    opened: Vec<bool>,
    /// What every chunk begins with, up to its choices.
    head: Vec<u8>,
    /// What every chunk but the usage ends with.
    tail: &'static str,
    include_usage: bool,
    top_logprobs: Option<usize>,
    chances: Dice,
    pace: Pace,
    /// Visible tokens sent, and how many come before the fault.
    sent: usize,
    strike_at: usize,
    struck: bool,
    /// The usage has been waited for (`late-usage`).
    waited: bool,
    out: Vec<u8>,
    state: State,
}

/// When the next token is due.
#[derive(Debug)]
struct Pace {
    gaps: Dice,
    due: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum State {
    Talking,
    /// All but the usage has been said, and the usage is late.
    Waiting(Pin<Box<Sleep>>),
    /// A fault ends it: what is written goes out first.
    Ending(BadEnd),
    Over,
}

// === impl Sse ===

impl Sse {
    pub fn response(sim: Arc<Sim>, work: Work, ask: &Ask<'_>, choices: Vec<Choice>) -> Response<Body> {
        let mut response = Response::new(Body::Sse(Box::new(Self::new(sim, work, ask, choices))));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn new(sim: Arc<Sim>, work: Work, ask: &Ask<'_>, choices: Vec<Choice>) -> Self {
        let visible: usize = choices.iter().map(|choice| choice.text.tokens()).sum();
        Self {
            head: head(&work, ask),
            tail: if ask.include_usage { "],\"usage\":null}\n\n" } else { "]}\n\n" },
            include_usage: ask.include_usage,
            top_logprobs: ask.top_logprobs,
            chances: work.dice.fork(DICE_LOGPROBS),
            pace: Pace { gaps: work.dice.fork(DICE_GAPS), due: timing::now(), sleep: None },
            sent: 0,
            strike_at: (visible / 2).min(sim.scenario.tokens_before_fault as usize),
            struck: false,
            waited: false,
            turns: Turns::new(choices.len()),
            opened: vec![false; choices.len()],
            out: Vec::with_capacity(1_024),
            state: State::Talking,
            sim,
            work,
            choices,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over) && self.out.is_empty()
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            while matches!(self.state, State::Talking) && self.out.len() < FRAME_BYTES {
                if !self.sim.speed.is_instant() && !self.pace.is_due(cx, &self.sim) {
                    break;
                }
                self.talk();
            }
            if !self.out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.out).into()))));
            }
            match &mut self.state {
                State::Talking => return Poll::Pending,
                State::Over => return Poll::Ready(None),
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.state = State::Talking;
                }
                State::Ending(end) => {
                    let error = ready!(end.poll(cx));
                    self.work.ticket.hung_up();
                    self.state = State::Over;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Makes one token, or comes to the end.
    fn talk(&mut self) {
        let next = self.turns.peek(&self.choices);
        if self.strikes_before(next) {
            self.strike(next);
            if !matches!(self.state, State::Talking) {
                return;
            }
        }
        match self.turns.take(&self.choices) {
            Some(turn) => self.make(turn),
            None => self.finish(),
        }
    }

    fn make(&mut self, turn: Turn) {
        let choice = &self.choices[turn.choice];
        let (shown, all) = (choice.shown(), choice.tokens());
        let speaks = choice.audio > 0;
        self.work.make(choice, turn.at..turn.at + 1);
        if shown.contains(&turn.at) {
            self.open(turn.choice);
            self.sent += 1;
            self.content_chunk(turn.choice, turn.at - shown.start);
        }
        if turn.at + 1 == all {
            self.open(turn.choice);
            if speaks {
                self.sound_chunk(turn.choice);
            }
            self.finish_chunk(turn.choice);
        }
    }

    /// The end of the stream. The work is booked before its last bytes go out.
    fn finish(&mut self) {
        if self.work.fault == Some(Fault::LateUsage) && !std::mem::replace(&mut self.waited, true) {
            let late = Duration::from_millis(self.sim.scenario.late_usage_ms);
            self.state = State::Waiting(Box::pin(tokio::time::sleep(late)));
            return;
        }
        let told = match self.tells_as_it_goes() {
            true => {
                self.work.note_usage_sent(&self.sim);
                None
            }
            false => self.work.told_usage().filter(|_| self.include_usage),
        };
        if let Some(usage) = told {
            let times = if self.work.fault == Some(Fault::DoubleUsage) { 2 } else { 1 };
            for _ in 0..times {
                self.out.extend_from_slice(&self.head);
                render::text(&mut self.out, "],\"usage\":");
                render::chat_usage(&mut self.out, usage);
                render::text(&mut self.out, "}\n\n");
            }
            self.work.note_usage_sent(&self.sim);
        }
        if self.work.fault != Some(Fault::MissingDone) {
            render::text(&mut self.out, DONE);
            self.work.ticket.work.complete = true;
        }
        self.work.ticket.book();
        self.state = State::Over;
    }

    // --- faults ---

    fn strikes_before(&self, next: Option<Turn>) -> bool {
        let breaks = matches!(
            self.work.fault,
            Some(Fault::Cut | Fault::Stall | Fault::MalformedChunk | Fault::ErrorAfterTokens)
        );
        let here = match next {
            None => true,
            Some(turn) => self.sent >= self.strike_at && turn.at >= self.choices[turn.choice].silent(),
        };
        breaks && !self.struck && here
    }

    fn strike(&mut self, next: Option<Turn>) {
        self.struck = true;
        if let Some(turn) = next {
            self.open(turn.choice);
        }
        match self.work.fault {
            Some(Fault::Cut) => {
                self.work.ticket.book();
                self.state = State::Ending(BadEnd::cut());
            }
            Some(Fault::Stall) => {
                self.work.ticket.book_and_wait();
                let silence = Duration::from_millis(self.sim.scenario.silence_ms_max);
                self.state = State::Ending(BadEnd::silence(silence, None));
            }
            Some(Fault::ErrorAfterTokens) => {
                let error = ApiError::server(StatusCode::INTERNAL_SERVER_ERROR, BROKE_OFF);
                render::text(&mut self.out, "data: ");
                self.out.extend_from_slice(&error.body());
                render::text(&mut self.out, "\n\n");
                self.work.ticket.book();
                self.state = State::Over;
            }
            _ => {
                let half = self.head.len() / 2;
                self.out.extend_from_slice(&self.head[..half]);
                render::text(&mut self.out, "\n\n");
            }
        }
    }

    // --- chunks ---

    /// A choice's first chunk: its role, and the name of the tool it calls.
    fn open(&mut self, index: usize) {
        if std::mem::replace(&mut self.opened[index], true) {
            return;
        }
        self.begin_chunk(index);
        match &self.choices[index].tool {
            None if self.choices[index].audio > 0 => {
                render::text(&mut self.out, r#"{"role":"assistant","content":null,"refusal":null}"#);
            }
            None => render::text(&mut self.out, r#"{"role":"assistant","content":"","refusal":null}"#),
            Some(tool) => {
                render::text(
                    &mut self.out,
                    r#"{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"index":0,"id":""#,
                );
                render::text(&mut self.out, &tool.id);
                render::text(&mut self.out, r#"","type":"function","function":{"name":"#);
                render::string(&mut self.out, &tool.name);
                render::text(&mut self.out, r#","arguments":""}}]}"#);
            }
        }
        self.end_chunk("null");
    }

    fn content_chunk(&mut self, index: usize, at: usize) {
        let choice = &self.choices[index];
        let token = choice.text.token(&self.sim.river, at);
        // Half a character, or text behind a stop: made, but nothing to show.
        if token.is_empty() {
            return;
        }
        let (before, after) = match choice.tool {
            None if choice.audio > 0 => (r#"{"audio":{"transcript":""#, r#""}}"#),
            None => (r#"{"content":""#, r#""}"#),
            Some(_) => (r#"{"tool_calls":[{"index":0,"function":{"arguments":""#, r#""}}]}"#),
        };
        begin_chunk(&mut self.out, &self.head, index);
        render::text(&mut self.out, before);
        render::escaped(&mut self.out, token);
        render::text(&mut self.out, after);
        match self.top_logprobs {
            None => render::text(&mut self.out, r#","logprobs":null"#),
            Some(top) => {
                render::text(&mut self.out, r#","logprobs":{"content":["#);
                render::logprob(&mut self.out, token, top, self.chances.throw());
                render::text(&mut self.out, r#"],"refusal":null}"#);
            }
        }
        render::text(&mut self.out, r#","finish_reason":null}"#);
        self.end_event();
    }

    /// All the sound of a choice in one: the simulator has no voice, and what it sends is no length to measure.
    fn sound_chunk(&mut self, index: usize) {
        self.begin_chunk(index);
        render::text(&mut self.out, r#"{"audio":{"#);
        render::sound(&mut self.out, &self.work.dice);
        render::text(&mut self.out, "}}");
        self.end_chunk("null");
    }

    fn finish_chunk(&mut self, index: usize) {
        self.begin_chunk(index);
        render::text(&mut self.out, "{}");
        let finish = self.choices[index].finish;
        self.end_chunk(&["\"", finish, "\""].concat());
    }

    fn begin_chunk(&mut self, index: usize) {
        begin_chunk(&mut self.out, &self.head, index);
    }

    fn end_chunk(&mut self, finish: &str) {
        render::text(&mut self.out, r#","logprobs":null,"finish_reason":"#);
        render::text(&mut self.out, finish);
        self.out.push(b'}');
        self.end_event();
    }

    fn end_event(&mut self) {
        match self.work.told_usage().filter(|_| self.tells_as_it_goes()) {
            None => render::text(&mut self.out, self.tail),
            Some(so_far) => {
                render::text(&mut self.out, r#"],"usage":"#);
                render::chat_usage(&mut self.out, so_far);
                render::text(&mut self.out, "}\n\n");
            }
        }
    }

    fn tells_as_it_goes(&self) -> bool {
        self.work.fault == Some(Fault::UsageInEveryChunk)
    }
}

fn begin_chunk(out: &mut Vec<u8>, head: &[u8], index: usize) {
    out.extend_from_slice(head);
    render::text(out, r#"{"index":"#);
    render::number(out, index as u64);
    render::text(out, r#","delta":"#);
}

fn head(work: &Work, ask: &Ask<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(320);
    render::text(&mut out, r#"data: {"id":"chatcmpl-sim"#);
    render::id(&mut out, &work.dice);
    render::text(&mut out, r#"","object":"chat.completion.chunk","created":"#);
    render::number(&mut out, timing::unix_seconds());
    render::text(&mut out, r#","model":"#);
    render::string(&mut out, &ask.model);
    // An event's data is one line; between the tokens of JSON any white space is the same.
    let echo = ask.echo.map(|echo| echo.replace(['\n', '\r'], " "));
    render::common_fields(&mut out, echo.as_deref());
    render::text(&mut out, r#","choices":["#);
    out
}

// === impl Pace ===

impl Pace {
    /// Whether the next token's time has come; if so, the one after it gets its own.
    fn is_due(&mut self, cx: &mut Context<'_>, sim: &Sim) -> bool {
        if timing::now() < self.due {
            let due = self.due;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
        self.due += sim.speed.gap(&mut self.gaps);
        true
    }
}
