//! Chat completions: reading the request as OpenAI would, drawing the answer, and writing it as one JSON. The same
//! answer as a stream is in `stream`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::body::Body;
use crate::dice::Dice;
use crate::error::ApiError;
use crate::faults::{self, Answer, Fault};
use crate::render;
use crate::scenario::{self, Scenario};
use crate::schema;
use crate::server::{Call, Sim};
use crate::stream::Sse;
use crate::text::{River, Text};
use crate::timing;
use crate::tokens;
use crate::truth::Kind;
use crate::work::{DICE_CHOICE, DICE_GAPS, DICE_LOGPROBS, Stop, Work};

const TOKENS_PER_MESSAGE: u64 = 3;
const TOKENS_PER_REQUEST: u64 = 3;
const IMAGE_TOKENS_LOW: u64 = 85;
const IMAGE_TOKENS: u64 = 765;
/// The longest answer of a request that sets no limit.
const OUTPUT_TOKENS_MAX: usize = 16_384;
/// A limit below this is always felt: plain answers are never shorter of themselves.
const OUTPUT_TOKENS_MIN: usize = 16;
const REASONING_SIGMA: f64 = 0.5;
/// Sound in: a token for 100 ms; the simulator knows the speed of no MP3 and takes 128 kbit/s for all of them.
const AUDIO_TOKENS_PER_SECOND: u64 = 10;
const MP3_BYTES_PER_SECOND: u64 = 16_000;
/// A recording of fewer bytes a second is none.
const WAV_BYTES_PER_SECOND_MIN: u64 = 1_000;
const WAV_HEADER_BYTES: usize = 44;
/// Sound out: a token for 50 ms, and about a fifth of a second for each token of what is said.
const AUDIO_TOKENS_PER_TEXT_TOKEN: usize = 4;
const CHOICES_MAX: i64 = 128;
const TOP_LOGPROBS_MAX: i64 = 20;
const STOPS_MAX: usize = 4;
/// Nobody watches a JSON answer being made: it is made this many tokens at a time.
const BATCH_TOKENS: usize = 16;

/// What was asked for, checked.
#[derive(Debug)]
pub struct Ask<'a> {
    /// As asked for, with a fault's name if it carries one.
    pub model: Cow<'a, str>,
    /// Text and sound.
    prompt: Counted,
    pub stream: bool,
    pub include_usage: bool,
    max_tokens: Option<usize>,
    /// Tokens of the answer that was foretold.
    prediction: usize,
    /// The answer is to be spoken.
    speaks: bool,
    choices: usize,
    form: Form,
    /// How many alternatives to each token, if its probability was asked for.
    pub top_logprobs: Option<usize>,
    stops: Vec<String>,
    effort: Option<Effort>,
    /// The request's `x_echo`, as it stands.
    pub echo: Option<&'a str>,
}

#[derive(Debug)]
enum Form {
    Plain,
    /// Any JSON object.
    Object,
    Schema(Value),
    ToolCall {
        name: String,
        parameters: Value,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
}

/// What decides how long an answer gets, besides the request.
#[derive(Clone, Copy, Debug)]
struct Terms<'s> {
    scenario: &'s Scenario,
    /// Thousandths of the answer that are reasoning, if `reasoning_effort` does not decide.
    reasoning_per_mille: Option<u64>,
    /// Tokens past the limit (`ignores-limit`).
    past_limit: Option<usize>,
}

/// One of the answers, drawn but not yet sent.
#[derive(Debug)]
pub struct Choice {
    /// Tokens nobody sees, made first.
    reasoning: usize,
    /// Tokens of a prediction that turned out wrong, made next: billed, whatever the limit.
    rejected: usize,
    /// Tokens of a tool's name, made next and sent as one.
    head: usize,
    pub text: Text,
    /// How many of the text's tokens had been predicted.
    accepted: usize,
    /// Tokens of the text spoken, made last.
    pub audio: usize,
    pub tool: Option<ToolCall>,
    pub finish: &'static str,
}

#[derive(Debug)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
}

/// Whose turn it is to make a token: the choices take turns.
#[derive(Debug)]
pub struct Turns {
    made: Vec<usize>,
    next: usize,
}

/// One token made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub choice: usize,
    /// The token's place among all of its choice.
    pub at: usize,
}

pub async fn answer(sim: &Arc<Sim>, call: &Call, body: &[u8]) -> Result<Response<Body>, Stop> {
    let ask = Ask::read(body)?;
    ask.check_sound(sim)?;
    let kind =
        Answer { stream: ask.stream, usage: !ask.stream || ask.include_usage, limited: ask.max_tokens.is_some() };
    let mut work = Work::begin(sim, call, Kind::Chat, &ask.model, kind, body)?;
    work.read_prompt(sim, ask.prompt.text + ask.prompt.audio, ask.prompt.audio)?;
    let choices = ask.draw(Terms::of(sim, call, &ask, work.fault), &sim.river, &work.dice);
    if work.fault == Some(Fault::NoAnswer) {
        choices.iter().for_each(|choice| work.make(choice, 0..choice.tokens()));
        return Err(work.never_answer(sim).await);
    }
    work.first_token(sim).await;
    if ask.stream {
        return Ok(Sse::response(Arc::clone(sim), work, &ask, choices));
    }
    make_all(sim, &mut work, &choices).await;
    let json = whole(sim, &work, &ask, &choices);
    Ok(work.deliver(sim, json))
}

/// Makes every token of a JSON answer, at the simulator's speed.
async fn make_all(sim: &Sim, work: &mut Work, choices: &[Choice]) {
    if sim.speed.is_instant() {
        choices.iter().for_each(|choice| work.make(choice, 0..choice.tokens()));
        return;
    }
    let mut gaps = work.dice.fork(DICE_GAPS);
    let mut turns = Turns::new(choices.len());
    let mut due = timing::now();
    let mut made = 0;
    while let Some(turn) = turns.take(choices) {
        due += sim.speed.gap(&mut gaps);
        made += 1;
        if made % BATCH_TOKENS == 0 {
            tokio::time::sleep_until(due).await;
        }
        work.make(&choices[turn.choice], turn.at..turn.at + 1);
    }
    tokio::time::sleep_until(due).await;
}

fn whole(sim: &Sim, work: &Work, ask: &Ask<'_>, choices: &[Choice]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1_024);
    render::text(&mut out, r#"{"id":"chatcmpl-sim"#);
    render::id(&mut out, &work.dice);
    render::text(&mut out, r#"","object":"chat.completion","created":"#);
    render::number(&mut out, timing::unix_seconds());
    render::text(&mut out, r#","model":"#);
    render::string(&mut out, &ask.model);
    render::text(&mut out, r#","choices":["#);
    let mut chances = work.dice.fork(DICE_LOGPROBS);
    for (index, choice) in choices.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        choice.write(&mut out, sim, work, index, (ask.top_logprobs, &mut chances));
    }
    out.push(b']');
    if let Some(usage) = work.told_usage() {
        render::text(&mut out, r#","usage":"#);
        render::chat_usage(&mut out, usage);
    }
    render::common_fields(&mut out, ask.echo);
    out.push(b'}');
    out
}

// === impl Work ===

impl Work {
    /// Counts these tokens of `choice` as made.
    pub fn make(&mut self, choice: &Choice, tokens: Range<usize>) {
        let shown = choice.shown();
        let of = |part: Range<usize>| {
            (tokens.end.clamp(part.start, part.end) - tokens.start.clamp(part.start, part.end)) as u64
        };
        let made = &mut self.ticket.work.tokens;
        made.completion += tokens.len() as u64;
        made.reasoning += of(0..choice.reasoning);
        made.rejected_prediction += of(choice.reasoning..choice.reasoning + choice.rejected);
        made.accepted_prediction += of(shown.start..shown.start + choice.accepted);
        made.completion_audio += of(shown.end..choice.tokens());
    }
}

// === impl Choice ===

impl Choice {
    /// All tokens of the answer, seen or not.
    pub fn tokens(&self) -> usize {
        self.shown().end + self.audio
    }

    /// Tokens before the first that is sent.
    pub fn silent(&self) -> usize {
        self.reasoning + self.rejected + self.head
    }

    /// Which of its tokens are the text.
    pub fn shown(&self) -> Range<usize> {
        self.silent()..self.silent() + self.text.tokens()
    }

    /// Text of one's own, whole.
    fn of(text: Text) -> Self {
        Self { reasoning: 0, rejected: 0, head: 0, text, accepted: 0, audio: 0, tool: None, finish: "stop" }
    }

    /// Cuts it to `limit` tokens, if it is longer. Predictions are counted elsewhere.
    fn fit(&mut self, limit: usize) {
        if self.reasoning >= limit {
            *self = Self { reasoning: limit, finish: "length", ..Self::of(Text::own(String::new())) };
            return;
        }
        let left = limit - self.reasoning;
        if self.head + self.text.tokens() + self.audio <= left {
            return;
        }
        self.head = self.head.min(left);
        let room = left - self.head;
        let text = if self.audio > 0 { room / (1 + AUDIO_TOKENS_PER_TEXT_TOKEN) } else { room };
        self.text.truncate(text);
        self.audio = room - text;
        self.finish = "length";
    }

    /// The first tokens of the text are the predicted ones that turned out right.
    fn predict(&mut self, prediction: usize, accepted_per_mille: u64) {
        let right = prediction as u64 * accepted_per_mille / 1_000;
        self.accepted = self.text.tokens().min(usize::try_from(right).unwrap_or(usize::MAX));
        self.rejected = prediction - self.accepted;
    }

    fn write(&self, out: &mut Vec<u8>, sim: &Sim, work: &Work, index: usize, shown: (Option<usize>, &mut Dice)) {
        let river = &sim.river;
        render::text(out, r#"{"index":"#);
        render::number(out, index as u64);
        render::text(out, r#","message":{"role":"assistant","content":"#);
        match &self.tool {
            None if self.audio > 0 => {
                render::text(out, r#"null,"audio":{"#);
                render::sound(out, &work.dice);
                render::text(out, r#","transcript":"#);
                self.write_text(out, river);
                out.push(b'}');
            }
            None => {
                self.write_text(out, river);
            }
            Some(tool) => {
                render::text(out, r#"null,"tool_calls":[{"id":""#);
                render::text(out, &tool.id);
                render::text(out, r#"","type":"function","function":{"name":"#);
                render::string(out, &tool.name);
                render::text(out, r#","arguments":"#);
                self.write_text(out, river);
                render::text(out, "}}]");
            }
        }
        render::text(out, r#","refusal":null,"annotations":[]},"logprobs":"#);
        match shown {
            (None, _) => render::text(out, "null"),
            (Some(top), chances) => self.write_logprobs(out, river, top, chances),
        }
        render::text(out, r#","finish_reason":""#);
        render::text(out, self.finish);
        render::text(out, r#""}"#);
    }

    fn write_text(&self, out: &mut Vec<u8>, river: &River) {
        out.push(b'"');
        self.text.slices(river, |slice, plain| match plain.0 {
            true => render::text(out, slice),
            false => render::escaped(out, slice),
        });
        out.push(b'"');
    }

    fn write_logprobs(&self, out: &mut Vec<u8>, river: &River, top: usize, chances: &mut Dice) {
        render::text(out, r#"{"content":["#);
        let shown = (0..self.text.tokens()).map(|at| self.text.token(river, at)).filter(|token| !token.is_empty());
        for (at, token) in shown.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            render::logprob(out, token, top, chances.throw());
        }
        render::text(out, r#"],"refusal":null}"#);
    }
}

// === impl Turns ===

impl Turns {
    pub fn new(choices: usize) -> Self {
        Self { made: vec![0; choices], next: 0 }
    }

    /// What the next turn will be, if any choice still has tokens to make.
    pub fn peek(&self, choices: &[Choice]) -> Option<Turn> {
        let count = choices.len();
        (0..count)
            .map(|step| (self.next + step) % count)
            .find(|choice| self.made[*choice] < choices[*choice].tokens())
            .map(|choice| Turn { choice, at: self.made[choice] })
    }

    pub fn take(&mut self, choices: &[Choice]) -> Option<Turn> {
        let turn = self.peek(choices)?;
        self.made[turn.choice] += 1;
        self.next = turn.choice + 1;
        Some(turn)
    }
}

// === impl Ask: drawing the answer ===

impl Ask<'_> {
    fn draw(&self, terms: Terms<'_>, river: &River, dice: &Dice) -> Vec<Choice> {
        (0..self.choices).map(|index| self.draw_one(terms, river, dice.fork(DICE_CHOICE + index as u64))).collect()
    }

    fn draw_one(&self, terms: Terms<'_>, river: &River, mut dice: Dice) -> Choice {
        let limit = self.max_tokens.unwrap_or(OUTPUT_TOKENS_MAX);
        let limit = terms.past_limit.map_or(limit, |past| limit.min(OUTPUT_TOKENS_MAX) + past);
        let effort = self.effort.filter(|_| terms.reasoning_per_mille.is_none());
        let by_effort = effort.map_or(0, |effort| effort.draw(&mut dice));
        let mut choice = self.draw_text(terms, limit, river, &mut dice);
        choice.reasoning = match terms.reasoning_per_mille {
            None => by_effort,
            Some(per_mille) => reasoning(choice.head + choice.text.tokens(), per_mille),
        };
        if self.speaks && choice.tool.is_none() {
            choice.audio = choice.text.tokens() * AUDIO_TOKENS_PER_TEXT_TOKEN;
        }
        choice.fit(limit);
        if choice.tool.is_none() && !self.stops.is_empty() && choice.text.stop_at(river, &self.stops) {
            choice.audio = choice.audio.min(choice.text.tokens() * AUDIO_TOKENS_PER_TEXT_TOKEN);
            choice.finish = "stop";
        }
        let accepted = scenario::per_mille(terms.scenario.prediction_accepted_share);
        choice.predict(self.prediction, accepted.expect("a scenario is checked before it is used"));
        choice
    }

    /// The answer nobody limited; one that ignores its limit is longer than even that.
    fn draw_text(&self, terms: Terms<'_>, limit: usize, river: &River, dice: &mut Dice) -> Choice {
        let (median, sigma) = (terms.scenario.output_tokens_median, terms.scenario.output_tokens_sigma);
        let plain = Choice::of;
        match &self.form {
            Form::Plain => {
                let least = terms.past_limit.map_or(OUTPUT_TOKENS_MIN, |_| limit.max(OUTPUT_TOKENS_MIN) + 1);
                let length = length(dice.log_normal(median, sigma));
                plain(Text::plain(river, dice, length.max(least)))
            }
            Form::Object => {
                let words = Text::plain(river, dice, 24).to_text(river);
                let object = serde_json::json!({"simulated": true, "answer": words, "number": dice.below(1_000)});
                plain(Text::own(object.to_string()))
            }
            Form::Schema(schema) => plain(Text::own(schema::sample(schema, dice).to_string())),
            Form::ToolCall { name, parameters } => {
                let arguments = Text::own(schema::sample(parameters, dice).to_string());
                Choice {
                    head: tokens::pieces(name).map(|piece| piece.tokens as usize).sum(),
                    tool: Some(ToolCall { id: format!("call_sim{:016x}", dice.throw()), name: name.clone() }),
                    finish: "tool_calls",
                    ..Choice::of(arguments)
                }
            }
        }
    }

    /// Only some models hear and speak: those with a price for it.
    fn check_sound(&self, sim: &Sim) -> Result<(), ApiError> {
        let (name, _) = faults::split_model(&self.model)?;
        if (self.speaks || self.prompt.audio > 0) && sim.truth.prices().of(name).audio.is_none() {
            let message = format!("The model '{name}' neither hears nor speaks in the simulator.");
            return Err(ApiError::invalid(message, Some("model")).with_code("unsupported_value"));
        }
        Ok(())
    }
}

/// As much reasoning beside `others` as makes it this share of the whole.
fn reasoning(others: usize, per_mille: u64) -> usize {
    match (others as u64 * per_mille).checked_div(1_000 - per_mille) {
        Some(tokens) => usize::try_from(tokens).map_or(OUTPUT_TOKENS_MAX, |tokens| tokens.min(OUTPUT_TOKENS_MAX)),
        None => OUTPUT_TOKENS_MAX,
    }
}

// === impl Terms ===

impl<'s> Terms<'s> {
    fn of(sim: &'s Sim, call: &Call, ask: &Ask<'_>, fault: Option<Fault>) -> Self {
        let scenario = &sim.scenario;
        let reasons = ask.effort.is_some_and(|effort| effort != Effort::None);
        let of_scenario =
            scenario.reasoning_share.filter(|_| reasons).and_then(|share| scenario::per_mille(share).ok());
        Self {
            scenario,
            reasoning_per_mille: call.reasoning_per_mille.or(of_scenario),
            past_limit: (fault == Some(Fault::IgnoresLimit)).then_some(scenario.tokens_past_limit as usize),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and far below the bound after `min`"
)]
fn length(drawn: f64) -> usize {
    drawn.round().min(OUTPUT_TOKENS_MAX as f64) as usize
}

// === impl Effort ===

impl Effort {
    fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "minimal" => Some(Self::Minimal),
            "low" => Some(Self::Low),
            "medium" => Some(Self::Medium),
            "high" | "xhigh" => Some(Self::High),
            _ => None,
        }
    }

    fn draw(self, dice: &mut Dice) -> usize {
        let median = match self {
            Self::None => return 0,
            Self::Minimal => 16.0,
            Self::Low => 64.0,
            Self::Medium => 256.0,
            Self::High => 1_024.0,
        };
        length(dice.log_normal(median, REASONING_SIGMA)).max(1)
    }
}

// === impl Ask: checking the request ===

impl<'a> Ask<'a> {
    pub fn read(body: &'a [u8]) -> Result<Self, ApiError> {
        let raw: Raw<'a> = serde_json::from_slice(body).map_err(|error| ApiError::unreadable(&error))?;
        let model = raw
            .model
            .filter(|model| !model.is_empty())
            .ok_or_else(|| ApiError::invalid("you must provide a model parameter", None))?;
        let messages = raw.messages.ok_or_else(|| ApiError::missing("messages"))?;
        if messages.is_empty() {
            return Err(empty_array("messages"));
        }
        messages.iter().try_for_each(Message::check)?;
        let reasons = reasons(&model);
        let max_tokens = limit(reasons, raw.max_tokens, raw.max_completion_tokens)?;
        let stream = raw.stream.unwrap_or(false);
        if raw.stream_options.is_some() && !stream {
            let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            return Err(ApiError::invalid(message, Some("stream_options")));
        }
        check_range("temperature", raw.temperature, 0.0, 2.0)?;
        check_range("top_p", raw.top_p, 0.0, 1.0)?;
        let effort = match raw.reasoning_effort.as_deref() {
            Some(name) => Some(Effort::named(name).ok_or_else(|| unsupported("reasoning_effort", name))?),
            None => reasons.then_some(Effort::Medium),
        };
        Ok(Self {
            prompt: prompt(&messages, raw.tools, raw.response_format),
            stream,
            include_usage: raw.stream_options.is_some_and(|options| options.include_usage.unwrap_or(false)),
            max_tokens,
            prediction: prediction(raw.prediction, raw.n)?,
            speaks: speaks(raw.modalities.as_deref(), raw.audio.is_some())?,
            choices: choices(raw.n)?,
            form: form(&messages, raw.tools, raw.tool_choice, raw.response_format)?,
            top_logprobs: top_logprobs(raw.logprobs, raw.top_logprobs)?,
            stops: stops(raw.stop)?,
            effort,
            echo: raw.x_echo.map(RawValue::get),
            model,
        })
    }
}

/// The families that think before they speak, and know `max_completion_tokens` only.
fn reasons(model: &str) -> bool {
    ["o1", "o3", "o4", "gpt-5"].iter().any(|family| model.starts_with(family))
}

fn limit(reasons: bool, old: Option<i64>, new: Option<i64>) -> Result<Option<usize>, ApiError> {
    if old.is_some() && new.is_some() {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(ApiError::invalid(message, Some("max_tokens")).with_code("invalid_parameter_combination"));
    }
    if old.is_some() && reasons {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                       'max_completion_tokens' instead.";
        return Err(ApiError::invalid(message, Some("max_tokens")).with_code("unsupported_parameter"));
    }
    let (param, value) = if old.is_some() { ("max_tokens", old) } else { ("max_completion_tokens", new) };
    value.map(|value| at_least_one(param, value)).transpose()
}

fn at_least_one(param: &'static str, value: i64) -> Result<usize, ApiError> {
    usize::try_from(value).ok().filter(|value| *value >= 1).ok_or_else(|| {
        let message =
            format!("Invalid '{param}': integer below minimum value. Expected a value >= 1, but got {value} instead.");
        ApiError::invalid(message, Some(param)).with_code("integer_below_min_value")
    })
}

fn choices(n: Option<i64>) -> Result<usize, ApiError> {
    let n = n.unwrap_or(1);
    if n > CHOICES_MAX {
        let message = format!(
            "Invalid 'n': integer above maximum value. Expected a value <= {CHOICES_MAX}, but got {n} instead."
        );
        return Err(ApiError::invalid(message, Some("n")).with_code("integer_above_max_value"));
    }
    at_least_one("n", n)
}

fn prediction(prediction: Option<Prediction>, n: Option<i64>) -> Result<usize, ApiError> {
    let Some(prediction) = prediction else { return Ok(0) };
    if n.is_some_and(|n| n > 1) {
        return Err(ApiError::invalid("'prediction' is not supported with 'n' above 1.", Some("prediction")));
    }
    Ok(usize::try_from(prediction.content.text).expect("fewer tokens than bytes in a request"))
}

fn speaks(modalities: Option<&[Cow<'_, str>]>, voice: bool) -> Result<bool, ApiError> {
    let modalities = modalities.unwrap_or_default();
    if let Some(other) = modalities.iter().find(|modality| !["text", "audio"].contains(&&***modality)) {
        return Err(unsupported("modalities", other));
    }
    let speaks = modalities.iter().any(|modality| modality == "audio");
    if speaks && !voice {
        return Err(ApiError::missing("audio"));
    }
    Ok(speaks)
}

fn top_logprobs(logprobs: Option<bool>, top: Option<i64>) -> Result<Option<usize>, ApiError> {
    let asked = logprobs.unwrap_or(false);
    match top {
        None => Ok(asked.then_some(0)),
        Some(_) if !asked => {
            let message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.";
            Err(ApiError::invalid(message, Some("top_logprobs")))
        }
        Some(top) => match usize::try_from(top) {
            Ok(top) if top as u64 <= TOP_LOGPROBS_MAX.unsigned_abs() => Ok(Some(top)),
            _ => {
                let message = format!("Invalid value for 'top_logprobs': must be between 0 and {TOP_LOGPROBS_MAX}.");
                Err(ApiError::invalid(message, Some("top_logprobs")))
            }
        },
    }
}

fn check_range(param: &'static str, value: Option<f64>, low: f64, high: f64) -> Result<(), ApiError> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            let message =
                format!("Invalid '{param}': decimal out of range. Expected {low} to {high}, but got {value}.");
            Err(ApiError::invalid(message, Some(param)))
        }
        _ => Ok(()),
    }
}

fn stops(raw: Option<&RawValue>) -> Result<Vec<String>, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stops {
        One(String),
        Many(Vec<String>),
    }
    let Some(raw) = raw else { return Ok(Vec::new()) };
    let wrong = || ApiError::invalid("Invalid type for 'stop': expected a string or up to 4 of them.", Some("stop"));
    let mut stops = match serde_json::from_str(raw.get()).map_err(|_| wrong())? {
        Stops::One(stop) => vec![stop],
        Stops::Many(stops) if stops.len() <= STOPS_MAX => stops,
        Stops::Many(_) => return Err(wrong()),
    };
    stops.retain(|stop| !stop.is_empty());
    Ok(stops)
}

/// What the answer will be: a tool call if there are tools and it is the user's turn to be answered.
fn form(
    messages: &[Message<'_>],
    tools: Option<&RawValue>,
    tool_choice: Option<&RawValue>,
    format: Option<&RawValue>,
) -> Result<Form, ApiError> {
    let last_is_user = messages.last().is_some_and(|message| message.role.as_deref() == Some("user"));
    let choice: Value = tool_choice.map_or(Value::Null, value_of);
    if let Some(tools) = tools {
        let call = tool_call(&value_of(tools), &choice)?;
        if last_is_user && choice != "none" {
            return Ok(call);
        }
    }
    let Some(format) = format.map(value_of) else { return Ok(Form::Plain) };
    match format["type"].as_str() {
        Some("text") => Ok(Form::Plain),
        Some("json_object") => Ok(Form::Object),
        Some("json_schema") if format["json_schema"]["name"].is_string() => {
            Ok(Form::Schema(format["json_schema"]["schema"].clone()))
        }
        Some("json_schema") => Err(ApiError::invalid(
            "Missing required parameter: 'response_format.json_schema.name'.",
            Some("response_format.json_schema.name"),
        )
        .with_code("missing_required_parameter")),
        other => Err(unsupported("response_format.type", other.unwrap_or("none"))),
    }
}

/// A call of the tool that was chosen, or else of the first.
fn tool_call(tools: &Value, choice: &Value) -> Result<Form, ApiError> {
    let wrong = |message: &str| ApiError::invalid(message, Some("tools")).with_code("invalid_type");
    let tools = tools.as_array().ok_or_else(|| wrong("Invalid type for 'tools': expected an array of objects."))?;
    let functions: Vec<&Value> =
        tools
            .iter()
            .map(|tool| &tool["function"])
            .map(|function| {
                if function["name"].is_string() {
                    Ok(function)
                } else {
                    Err(ApiError::missing("tools[].function.name"))
                }
            })
            .collect::<Result<_, _>>()?;
    let first = *functions.first().ok_or_else(|| empty_array("tools"))?;
    let function = match choice["function"]["name"].as_str() {
        None => first,
        Some(name) => *functions.iter().find(|function| function["name"] == name).ok_or_else(|| {
            let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
            ApiError::invalid(message, Some("tool_choice"))
        })?,
    };
    let parameters = match &function["parameters"] {
        Value::Null => serde_json::json!({"type": "object", "properties": {}}),
        schema => schema.clone(),
    };
    Ok(Form::ToolCall { name: function["name"].as_str().unwrap_or_default().to_owned(), parameters })
}

fn value_of(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or(Value::Null)
}

fn empty_array(param: &'static str) -> ApiError {
    let message = format!(
        "Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    );
    ApiError::invalid(message, Some(param)).with_code("empty_array")
}

fn unsupported(param: &'static str, value: &str) -> ApiError {
    ApiError::invalid(format!("Invalid value: '{value}' is not supported for '{param}'."), Some(param))
        .with_code("invalid_value")
}

fn prompt(messages: &[Message<'_>], tools: Option<&RawValue>, format: Option<&RawValue>) -> Counted {
    let beside =
        TOKENS_PER_REQUEST + raw_tokens(tools) + raw_tokens(format.filter(|raw| raw.get().contains("json_schema")));
    messages.iter().map(Message::tokens).fold(Counted::text(beside), Counted::and)
}

fn raw_tokens(raw: Option<&RawValue>) -> u64 {
    raw.map_or(0, |raw| tokens::count(raw.get()))
}

// === The request as it stands on the wire ===

/// Read by hand because of repeated names: like most JSON readers of providers, the last one counts.
#[derive(Default)]
struct Raw<'a> {
    model: Option<Cow<'a, str>>,
    messages: Option<Vec<Message<'a>>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    n: Option<i64>,
    tools: Option<&'a RawValue>,
    tool_choice: Option<&'a RawValue>,
    response_format: Option<&'a RawValue>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    stop: Option<&'a RawValue>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    reasoning_effort: Option<Cow<'a, str>>,
    prediction: Option<Prediction>,
    modalities: Option<Vec<Cow<'a, str>>>,
    audio: Option<IgnoredAny>,
    x_echo: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Model,
    Messages,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    N,
    Tools,
    ToolChoice,
    ResponseFormat,
    Logprobs,
    TopLogprobs,
    Stop,
    Temperature,
    TopP,
    ReasoningEffort,
    Prediction,
    Modalities,
    Audio,
    XEcho,
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Copy, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
struct Prediction {
    content: Counted,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    content: Option<Counted>,
    refusal: Option<Counted>,
    name: Option<Counted>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    tool_call_id: Option<Counted>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    text: Option<Counted>,
    refusal: Option<Counted>,
    #[serde(borrow)]
    image_url: Option<Image<'a>>,
    #[serde(borrow)]
    input_audio: Option<Sound<'a>>,
}

#[derive(Deserialize)]
struct Sound<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow)]
    format: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(rename = "url")]
    _url: IgnoredAny,
    #[serde(borrow)]
    detail: Option<Cow<'a, str>>,
}

/// Text, or a list of parts, of which only the number of tokens is kept: it is counted where it lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    /// Tokens of all that is no sound.
    text: u64,
    audio: u64,
}

// === impl Raw ===

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let mut raw = Raw::default();
        while let Some(field) = map.next_key()? {
            match field {
                Field::Model => raw.model = map.next_value::<Option<Lent<'de>>>()?.map(|lent| lent.0),
                Field::Messages => raw.messages = map.next_value()?,
                Field::Stream => raw.stream = map.next_value()?,
                Field::StreamOptions => raw.stream_options = map.next_value()?,
                Field::MaxTokens => raw.max_tokens = map.next_value()?,
                Field::MaxCompletionTokens => raw.max_completion_tokens = map.next_value()?,
                Field::N => raw.n = map.next_value()?,
                Field::Tools => raw.tools = map.next_value()?,
                Field::ToolChoice => raw.tool_choice = map.next_value()?,
                Field::ResponseFormat => raw.response_format = map.next_value()?,
                Field::Logprobs => raw.logprobs = map.next_value()?,
                Field::TopLogprobs => raw.top_logprobs = map.next_value()?,
                Field::Stop => raw.stop = map.next_value()?,
                Field::Temperature => raw.temperature = map.next_value()?,
                Field::TopP => raw.top_p = map.next_value()?,
                Field::ReasoningEffort => raw.reasoning_effort = map.next_value()?,
                Field::Prediction => raw.prediction = map.next_value()?,
                Field::Modalities => raw.modalities = map.next_value()?,
                Field::Audio => raw.audio = map.next_value()?,
                // A null is echoed too.
                Field::XEcho => raw.x_echo = Some(map.next_value()?),
                Field::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(raw)
    }
}

/// A string that is borrowed from the request where it can be.
#[derive(Deserialize)]
struct Lent<'a>(#[serde(borrow)] Cow<'a, str>);

// === impl Message ===

impl Message<'_> {
    fn check(&self) -> Result<(), ApiError> {
        match self.role.as_deref() {
            None => Err(ApiError::missing("messages[].role")),
            Some("system" | "assistant" | "user" | "function" | "tool" | "developer") => Ok(()),
            Some(other) => {
                let message = format!(
                    "Invalid value: '{other}'. Supported values are: 'system', 'assistant', 'user', 'function', \
                     'tool', and 'developer'."
                );
                Err(ApiError::invalid(message, Some("messages[].role")).with_code("invalid_value"))
            }
        }
    }

    fn tokens(&self) -> Counted {
        let texts = [self.content, self.refusal, self.name, self.tool_call_id];
        let beside = TOKENS_PER_MESSAGE + raw_tokens(self.tool_calls);
        texts.into_iter().flatten().fold(Counted::text(beside), Counted::and)
    }
}

// === impl Part ===

impl Part<'_> {
    fn tokens<E: de::Error>(&self) -> Result<Counted, E> {
        match &*self.kind {
            "text" => self.text.ok_or_else(|| E::missing_field("text")),
            "refusal" => self.refusal.ok_or_else(|| E::missing_field("refusal")),
            "image_url" => match &self.image_url {
                None => Err(E::missing_field("image_url")),
                Some(image) if image.detail.as_deref() == Some("low") => Ok(Counted::text(IMAGE_TOKENS_LOW)),
                Some(_) => Ok(Counted::text(IMAGE_TOKENS)),
            },
            "input_audio" => {
                let sound = self.input_audio.as_ref().ok_or_else(|| E::missing_field("input_audio"))?;
                Ok(Counted { text: 0, audio: sound.tokens().map_err(E::custom)? })
            }
            other => Err(E::custom(format_args!(
                "content part '{other}' is none the simulator can count (text, image_url, input_audio, refusal)"
            ))),
        }
    }
}

// === impl Sound ===

impl Sound<'_> {
    /// By its length: a WAV says how many bytes a second has.
    fn tokens(&self) -> Result<u64, &'static str> {
        let data = self.data.trim_end_matches('=');
        let bytes = data.len() as u64 * 3 / 4;
        let (bytes, rate) = match &*self.format {
            "mp3" => (bytes, MP3_BYTES_PER_SECOND),
            "wav" => (bytes.saturating_sub(WAV_HEADER_BYTES as u64), wav_bytes_per_second(data)?),
            _ => return Err("input_audio.format is neither wav nor mp3"),
        };
        Ok((bytes * AUDIO_TOKENS_PER_SECOND).div_ceil(rate))
    }
}

fn wav_bytes_per_second(data: &str) -> Result<u64, &'static str> {
    const BYTE_RATE: Range<usize> = 28..32;
    let beginning = data.as_bytes().get(..WAV_HEADER_BYTES).unwrap_or_default();
    let header = STANDARD.decode(beginning).map_err(|_| "input_audio.data is no base64")?;
    match header.get(BYTE_RATE) {
        Some(rate) if header.starts_with(b"RIFF") => {
            let rate = rate.iter().rev().fold(0, |rate, byte| rate << 8 | u64::from(*byte));
            if rate < WAV_BYTES_PER_SECOND_MIN { Err("input_audio.data says no speed") } else { Ok(rate) }
        }
        _ => Err("input_audio.data is no WAV"),
    }
}

// === impl Counted ===

impl Counted {
    fn text(tokens: u64) -> Self {
        Self { text: tokens, audio: 0 }
    }

    fn and(self, other: Self) -> Self {
        Self { text: self.text + other.text, audio: self.audio + other.audio }
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountedVisitor)
    }
}

struct CountedVisitor;

impl<'de> Visitor<'de> for CountedVisitor {
    type Value = Counted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of content parts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Counted, E> {
        Ok(Counted::text(tokens::count(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Counted, A::Error> {
        let mut counted = Counted::default();
        while let Some(part) = parts.next_element::<Part<'de>>()? {
            counted = counted.and(part.tokens::<A::Error>()?);
        }
        Ok(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tokens_of(body: Value) -> u64 {
        Ask::read(body.to_string().as_bytes()).expect("a good request").prompt.text
    }

    fn refused(body: &str) -> ApiError {
        Ask::read(body.as_bytes()).map(|_| ()).expect_err("a bad request")
    }

    #[test]
    fn a_prompt_is_counted_by_its_messages() {
        assert_eq!(tokens_of(json!({"model":"m","messages":[{"role":"user","content":"hello there"}]})), 3 + 3 + 2);
        let two = json!({"model":"m","messages":[
            {"role":"system","content":"be short"},
            {"role":"user","name":"ann","content":[{"type":"text","text":"what is this"},
                {"type":"image_url","image_url":{"url":"https://example.com/a.png","detail":"low"}},
                {"type":"image_url","image_url":{"url":"https://example.com/b.png"}}]},
        ]});
        assert_eq!(tokens_of(two), 3 + (3 + 2) + (3 + 1 + 3 + 85 + 765));
    }

    #[test]
    fn tools_and_schemas_are_counted_by_their_text() {
        let plain = json!({"model":"m","messages":[{"role":"user","content":"x"}]});
        let mut with_tools = plain.clone();
        with_tools["tools"] = json!([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]);
        let added = tokens_of(with_tools.clone()) - tokens_of(plain.clone());
        assert_eq!(added, tokens::count(&with_tools["tools"].to_string()));
        let mut with_schema = plain.clone();
        with_schema["response_format"] =
            json!({"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object"}}});
        let added = tokens_of(with_schema.clone()) - tokens_of(plain);
        assert_eq!(added, tokens::count(&with_schema["response_format"].to_string()));
    }

    #[test]
    fn of_a_repeated_name_the_last_one_counts() {
        let body =
            br#"{"model":"a","max_tokens":1,"messages":[{"role":"user","content":"x"}],"max_tokens":9,"model":"b"}"#;
        let ask = Ask::read(body).expect("a good request");
        assert_eq!((ask.max_tokens, &*ask.model), (Some(9), "b"));
    }

    #[test]
    fn bad_requests_are_refused_as_openai_does() {
        let m = r#""messages":[{"role":"user","content":"x"}]"#;
        for (body, param, code) in [
            ("{", None, None),
            ("[]", None, Some("invalid_type")),
            (r#"{"messages":[]}"#, None, None),
            (r#"{"model":"m"}"#, Some("messages"), Some("missing_required_parameter")),
            (r#"{"model":"m","messages":[]}"#, Some("messages"), Some("empty_array")),
            (
                r#"{"model":"m","messages":[{"content":"x"}]}"#,
                Some("messages[].role"),
                Some("missing_required_parameter"),
            ),
            (r#"{"model":"m","messages":[{"role":"king"}]}"#, Some("messages[].role"), Some("invalid_value")),
            (r#"{"model":"m","messages":[{"role":"user","content":5}]}"#, None, Some("invalid_type")),
            (&format!(r#"{{"model":"m",{m},"max_tokens":0}}"#), Some("max_tokens"), Some("integer_below_min_value")),
            (&format!(r#"{{"model":"m",{m},"max_tokens":"5"}}"#), None, Some("invalid_type")),
            (
                &format!(r#"{{"model":"o4-mini",{m},"max_tokens":5}}"#),
                Some("max_tokens"),
                Some("unsupported_parameter"),
            ),
            (
                &format!(r#"{{"model":"m",{m},"max_tokens":5,"max_completion_tokens":5}}"#),
                Some("max_tokens"),
                Some("invalid_parameter_combination"),
            ),
            (&format!(r#"{{"model":"m",{m},"n":0}}"#), Some("n"), Some("integer_below_min_value")),
            (&format!(r#"{{"model":"m",{m},"n":129}}"#), Some("n"), Some("integer_above_max_value")),
            (&format!(r#"{{"model":"m",{m},"temperature":3}}"#), Some("temperature"), None),
            (&format!(r#"{{"model":"m",{m},"top_logprobs":3}}"#), Some("top_logprobs"), None),
            (&format!(r#"{{"model":"m",{m},"logprobs":true,"top_logprobs":21}}"#), Some("top_logprobs"), None),
            (&format!(r#"{{"model":"m",{m},"stream_options":{{}}}}"#), Some("stream_options"), None),
            (&format!(r#"{{"model":"m",{m},"stop":["a","b","c","d","e"]}}"#), Some("stop"), None),
            (
                &format!(r#"{{"model":"m",{m},"reasoning_effort":"much"}}"#),
                Some("reasoning_effort"),
                Some("invalid_value"),
            ),
            (&format!(r#"{{"model":"m",{m},"tools":[]}}"#), Some("tools"), Some("empty_array")),
            (&format!(r#"{{"model":"m",{m},"tools":{{}}}}"#), Some("tools"), Some("invalid_type")),
            (
                &format!(r#"{{"model":"m",{m},"tools":[{{}}]}}"#),
                Some("tools[].function.name"),
                Some("missing_required_parameter"),
            ),
            (
                &format!(r#"{{"model":"m",{m},"response_format":{{"type":"xml"}}}}"#),
                Some("response_format.type"),
                Some("invalid_value"),
            ),
        ] {
            let error = refused(body);
            assert_eq!((error.status.as_u16(), error.param, error.code), (400, param, code), "{body}");
            assert_eq!(error.kind, "invalid_request_error");
        }
    }

    #[test]
    fn choices_take_turns_until_each_is_done() {
        let choice = |text: &str| Choice { reasoning: 1, ..Choice::of(Text::own(text.to_owned())) };
        let choices = [choice("a b"), choice("a")];
        let mut turns = Turns::new(2);
        let taken: Vec<_> = std::iter::from_fn(|| turns.take(&choices)).map(|turn| (turn.choice, turn.at)).collect();
        assert_eq!(taken, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]);
    }

    proptest! {
        /// What a bound by bytes rests on, where nothing but text is sent.
        #[test]
        fn a_prompt_has_fewer_tokens_than_its_request_has_bytes(
            contents in prop::collection::vec((any::<String>(), prop::option::of(any::<String>())), 1..5),
            tool in prop::option::of(any::<String>()),
        ) {
            let messages: Vec<Value> = contents
                .iter()
                .map(|(content, name)| json!({"role": "user", "content": content, "name": name}))
                .collect();
            let mut body = json!({"model": "m", "messages": messages});
            if let Some(description) = tool {
                body["tools"] = json!([{"type": "function", "function": {"name": "f", "description": description}}]);
            }
            let text = body.to_string();
            let ask = Ask::read(text.as_bytes()).expect("a good request");
            prop_assert!(ask.prompt.text < text.len() as u64);
        }

        #[test]
        fn no_answer_is_longer_than_its_limit_and_a_cut_one_is_exactly_as_long(
            seed in any::<u64>(),
            limit in 1_usize..400,
            n in 1_usize..4,
            effort in prop::sample::select(vec!["none", "low", "high"]),
            form in 0..4,
            stop in prop::option::of("[a-z]{1,3}"),
            reasoning_per_mille in prop::option::of(0..=1_000_u64),
            speaks in any::<bool>(),
        ) {
            let mut body = json!({
                "model": "m",
                "messages": [{"role": "user", "content": "x"}],
                "max_completion_tokens": limit,
                "n": n,
                "reasoning_effort": effort,
                "stop": stop,
                "audio": {},
                "modalities": if speaks { vec!["text", "audio"] } else { vec!["text"] },
            });
            let schema = json!({"type": "object", "properties": {"a": {"type": "string", "minLength": 100}}, "required": ["a"]});
            match form {
                0 => body["response_format"] = json!({"type": "json_object"}),
                1 => body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}),
                2 => body["tools"] = json!([{"type": "function", "function": {"name": "some_tool", "parameters": schema}}]),
                _ => {}
            }
            let text = body.to_string();
            let ask = Ask::read(text.as_bytes()).expect("a good request");
            let river = River::new(1);
            let scenario = Scenario::default();
            let terms = Terms { scenario: &scenario, reasoning_per_mille, past_limit: None };
            let choices = ask.draw(terms, &river, &Dice::new(seed));
            prop_assert_eq!(choices.len(), n);
            for choice in &choices {
                prop_assert!((1..=limit).contains(&choice.tokens()));
                if choice.finish == "length" {
                    prop_assert_eq!(choice.tokens(), limit);
                }
                let shown: String = (0..choice.text.tokens()).map(|at| choice.text.token(&river, at)).collect();
                prop_assert_eq!(shown, choice.text.to_text(&river));
            }
        }
    }
}
