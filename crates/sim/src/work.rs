//! What all work has in common: it gets a ticket in the truth, its dice and its fault, takes its time, and hands over
//! an answer, or something less.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode};

use crate::body::{Body, Broken};
use crate::dice::{self, Dice};
use crate::error::ApiError;
use crate::faults::{self, Answer, Fault};
use crate::money::Tokens;
use crate::server::{Call, Sim};
use crate::truth::{Kind, Refused, Ticket};

/// Parts of a request that throw dice of their own.
const DICE_FAULT: u64 = 1;
const DICE_FIRST_TOKEN: u64 = 2;
pub const DICE_GAPS: u64 = 3;
pub const DICE_LOGPROBS: u64 = 4;
/// Choices fork at `DICE_CHOICE + index`.
pub const DICE_CHOICE: u64 = 1 << 32;

/// What `absurd-usage` tells.
const ABSURD_TOKENS: u64 = 1_000_000_000_000;

/// One request being worked on.
#[derive(Debug)]
pub struct Work {
    pub ticket: Ticket,
    pub dice: Dice,
    pub fault: Option<Fault>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Stop {
    Refused(Box<ApiError>),
    /// The connection is to be reset.
    Reset,
}

// === impl Work ===

impl Work {
    /// Opens the request in the truth and decides what will go wrong with it. `model` is the name as asked for.
    pub fn begin(sim: &Sim, call: &Call, kind: Kind, model: &str, answer: Answer, body: &[u8]) -> Result<Self, Stop> {
        let (name, fault_in_name) = faults::split_model(model)?;
        let price = sim.truth.prices().of(name);
        let model = if *price.model == *name { Arc::clone(&price.model) } else { Arc::from(name) };
        let mut ticket = sim.truth.begin(&call.request_id, kind, model, call.key)?;
        let root = match call.request_id_was_given {
            true => dice::hash(sim.seed, call.request_id.as_bytes()),
            false => dice::hash(sim.seed, body),
        };
        let dice = Dice::new(root).fork(ticket.number() as u64);
        let fault = call
            .fault
            .or(fault_in_name)
            .or_else(|| faults::thrown(&sim.faults, &mut dice.fork(DICE_FAULT)))
            .filter(|fault| fault.strikes(answer));
        ticket.work.stream = answer.stream;
        ticket.work.fault = fault;
        Ok(Self { ticket, dice, fault })
    }

    /// The faults that come before any work, and the count of the prompt, `audio` of which is sound.
    pub fn read_prompt(&mut self, sim: &Sim, prompt: u64, audio: u64) -> Result<(), Stop> {
        if let Some(refusal) = self.fault.and_then(refusal) {
            self.ticket.book();
            return Err(refusal.into());
        }
        let reset = self.fault == Some(Fault::Reset);
        if !reset || sim.scenario.reset_bills_prompt {
            let cached = (prompt - audio) * sim.cached_per_mille / 1_000;
            self.ticket.work.tokens = Tokens { prompt, cached, prompt_audio: audio, ..Tokens::default() };
        }
        if reset {
            self.ticket.book();
            return Err(Stop::Reset);
        }
        Ok(())
    }

    /// The wait before the first token. A client that leaves now has been charged its prompt.
    pub async fn first_token(&mut self, sim: &Sim) {
        let mut wait = sim.speed.first_token(&mut self.dice.fork(DICE_FIRST_TOKEN));
        if self.fault == Some(Fault::SlowFirstToken) {
            wait += Duration::from_millis(sim.scenario.slow_first_token_ms);
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// The work is done and billed, and the client may wait for its answer as long as it likes.
    pub async fn never_answer(mut self, sim: &Sim) -> Stop {
        self.ticket.book_and_wait();
        tokio::time::sleep(Duration::from_millis(sim.scenario.silence_ms_max)).await;
        self.ticket.hung_up();
        Stop::Reset
    }

    /// The usage the answer will tell, which a fault may keep or change.
    pub fn told_usage(&self) -> Option<Tokens> {
        let tokens = self.ticket.work.tokens;
        let told = |prompt, completion| Some(Tokens { prompt, completion, ..tokens });
        match self.fault {
            Some(Fault::NoUsage) => None,
            Some(Fault::WrongUsage) => told(tokens.prompt * 2, tokens.completion * 2),
            Some(Fault::AbsurdUsage) => told(ABSURD_TOKENS, ABSURD_TOKENS),
            _ => Some(tokens),
        }
    }

    /// Books the work and hands over its JSON, or as much of it as the fault allows.
    pub fn deliver(mut self, sim: &Sim, mut json: Vec<u8>) -> Response<Body> {
        let len = json.len();
        if matches!(self.fault, Some(Fault::Cut | Fault::Stall | Fault::MalformedChunk)) {
            json.truncate(len / 2);
        } else {
            self.ticket.work.complete = true;
            self.note_usage_sent(sim);
        }
        match self.fault {
            Some(Fault::Cut) => {
                self.ticket.book();
                with_length(Broken::cut(json.into()), len)
            }
            Some(Fault::Stall) => {
                self.ticket.book_and_wait();
                let silence = Duration::from_millis(sim.scenario.silence_ms_max);
                with_length(Broken::stalled(json.into(), self.ticket, silence), len)
            }
            _ => {
                self.ticket.book();
                Response::new(Body::whole(json))
            }
        }
    }

    /// The usage is on its way, as `told_usage` says it. What is billed and not told comes on top now.
    pub fn note_usage_sent(&mut self, sim: &Sim) {
        let work = &mut self.ticket.work;
        if self.fault == Some(Fault::Overbills) {
            let billed = match work.kind {
                Kind::Chat => &mut work.tokens.completion,
                Kind::Embeddings => &mut work.tokens.prompt,
            };
            *billed += u64::from(sim.scenario.tokens_overbilled);
        }
        work.usage_sent = self.fault != Some(Fault::NoUsage);
        work.usage_altered = matches!(self.fault, Some(Fault::WrongUsage | Fault::AbsurdUsage | Fault::Overbills));
    }
}

fn refusal(fault: Fault) -> Option<ApiError> {
    let server = |status, message| Some(ApiError::server(status, message));
    match fault {
        Fault::RateLimit => Some(ApiError::rate_limit()),
        Fault::Error500 => server(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server had an error while processing your request. Sorry about that! (simulated)",
        ),
        Fault::Error503 => server(
            StatusCode::SERVICE_UNAVAILABLE,
            "The engine is currently overloaded, please try again later. (simulated)",
        ),
        _ => None,
    }
}

/// Promises `len` bytes, whatever comes.
fn with_length(broken: Broken, len: usize) -> Response<Body> {
    let mut response = Response::new(Body::Broken(Box::new(broken)));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(len));
    response
}

// === impl Stop ===

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        let message = match refused {
            Refused::Full { attempts_max } => {
                format!("The simulator's truth is full: it keeps {attempts_max} attempts and forgets none.")
            }
            Refused::FileBroken => "The simulator's truth file cannot be written.".to_owned(),
        };
        ApiError::server(StatusCode::SERVICE_UNAVAILABLE, &message).into()
    }
}
