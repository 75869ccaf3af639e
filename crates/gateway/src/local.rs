//! A request whose model runs here, from its hold to its answer. It goes on without its caller: what waits is not begun any
//! more when the caller leaves, what runs is measured to its end, and what was measured is what is posted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::{oneshot, watch};
use tollgate_admission::Principal;
use tollgate_runtime::encoder::Model;
use tollgate_runtime::head::cascade::{First, Scores, Stage};
use tollgate_runtime::head::{Features, Guess, Head};
use tollgate_serving::local::{Answer, Failure, Item, Output, Question, Turned};
use tollgate_serving::schedule::{Priority, Why};
use tollgate_types::clock::{CpuStopwatch, Stopwatch};
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind};
use tollgate_types::usage::Outcome;
use tollgate_types::{Refusal, Surface, Timestamp, Usage};

use crate::attempts;
use crate::config::LOCAL;
use crate::http::body::Body;
pub use crate::http::local::Wanted;
use crate::http::local::{self, Labelled, Probable, Shape};
use crate::pipeline::{self, AppPermit, Underway};
use crate::runtimes::{Local, Runtime, Task, item_of_text, words};

/// Texts that are tokenised before others of this thread have their turn: some 50 us each.
const TOKENISED_AT_ONCE: usize = 8;
/// What a caller is told who cannot be told when.
const RETRY: Duration = Duration::from_secs(1);

/// Reads what is wanted, and sees that the route does that.
fn read(local: &Local, surface: Surface, body: &[u8]) -> Result<Wanted, Refusal> {
    let misplaced = |what: &str| Err(Refusal::invalid_param(what.to_owned(), "model"));
    match (&local.task, surface) {
        (Task::Embed, Surface::Embeddings) | (Task::Classify(_) | Task::Cascade { .. }, Surface::Classify) => {}
        (Task::Embed, _) => return misplaced("this model makes embeddings: ask POST /v1/embeddings"),
        _ => return misplaced("this model classifies: ask POST /v1/classify"),
    }
    let wanted = local::read(surface, body, local.runtime.settings.texts_max)?;
    if let Shape::Vectors { dimensions: Some(wished), .. } = wanted.shape {
        let dims = local.runtime.dims();
        if wished != dims {
            let what = format!("'dimensions' must be {dims}, or left out: this model has no other");
            return Err(Refusal::invalid_param(what, "dimensions"));
        }
    }
    let longest = local.runtime.text_bytes_max();
    match wanted.texts.iter().position(|text| text.len() > longest) {
        Some(number) => {
            let bytes = wanted.texts[number].len();
            let what = format!("text {number} of 'input' has {bytes} bytes; at most {longest} are read");
            Err(Refusal::invalid_param(what, "input"))
        }
        None => Ok(wanted),
    }
}

/// Reads what is wanted, and asks whether there is room for it.
pub fn wanted(
    local: &Local,
    surface: Surface,
    principal: &Principal,
    body: &[u8],
    terms: Terms,
) -> Result<Wanted, Refusal> {
    let wanted = read(local, surface, body)?;
    let first = match &local.task {
        Task::Cascade { first, .. } => first,
        Task::Embed | Task::Classify(_) => &local.runtime,
    };
    first.has_room(principal, &wanted, local.goal, terms)?;
    Ok(wanted)
}

/// How the tenant's work is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// In no batch with other tenants.
    pub alone: bool,
    /// After this there is no use in it.
    pub deadline: Option<Timestamp>,
}

/// Works on it, and answers.
pub async fn serve(
    under_way: Underway,
    permit: AppPermit,
    local: Arc<Local>,
    wanted: Wanted,
    terms: Terms,
) -> Result<Response<Body>, Refusal> {
    let Some(place) = under_way.app.local_work.enter() else {
        permit.void(Outcome::NotSent);
        under_way.finished(Outcome::NotSent, None, None);
        return Err(Refusal::Overloaded { reason: "too many requests are under way here", retry_after: RETRY });
    };
    let (mut reply, told) = oneshot::channel();
    let working = tokio::spawn(async move {
        let _place = place;
        let job = Job { under_way, permit, local, terms, cpu: Duration::ZERO, tokens: 0, waited: Stopwatch::start() };
        let answered = job.run(wanted, &mut reply).await;
        // Nobody may be there to hear it.
        let _ = reply.send(answered);
    });
    match told.await {
        Ok(answered) => answered,
        Err(_) => match working.await.map_err(tokio::task::JoinError::try_into_panic) {
            // As if there were no task in between.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Ok(()) | Err(Err(_)) => {
                Err(Refusal::Overloaded { reason: "the gateway is shutting down", retry_after: RETRY })
            }
        },
    }
}

/// Requests that runtimes work on, bounded, and waited for when the gateway stops: they may outlive their connections.
#[derive(Debug)]
pub struct LocalWork(watch::Sender<usize>);

/// A place among them.
#[derive(Debug)]
struct Place(watch::Sender<usize>);

/// Requests that runtimes may work on at a time.
const UNDER_WAY_MAX: usize = 10_000;

// === impl LocalWork ===

impl Default for LocalWork {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl LocalWork {
    fn enter(&self) -> Option<Place> {
        let entered = self.0.send_if_modified(|under_way| {
            let is_room = *under_way < UNDER_WAY_MAX;
            *under_way += usize::from(is_room);
            is_room
        });
        entered.then(|| Place(self.0.clone()))
    }

    /// Waits until there is none.
    pub async fn none_under_way(&self) {
        // The sender is this very one: it is never gone.
        let _ = self.0.subscribe().wait_for(|under_way| *under_way == 0).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|under_way| *under_way -= 1);
    }
}

type Reply = oneshot::Sender<Result<Response<Body>, Refusal>>;

/// A request on its way.
struct Job {
    under_way: Underway,
    permit: AppPermit,
    local: Arc<Local>,
    terms: Terms,
    /// What was done for it so far.
    cpu: Duration,
    tokens: u64,
    waited: Stopwatch,
}

/// Why a request ends without its answer.
enum Stopped {
    Refused(Refusal),
    /// Its caller has left.
    Gone,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

// === impl Job ===

impl Job {
    async fn run(mut self, wanted: Wanted, reply: &mut Reply) -> Result<Response<Body>, Refusal> {
        attempts::go_out(&mut self.under_way, &mut self.permit).await?;
        self.waited = Stopwatch::start();
        match self.done(&wanted, reply).await {
            Ok(body) => {
                self.under_way.waited += self.waited.elapsed();
                self.reply(body).await
            }
            Err(Stopped::Refused(refusal)) => {
                // Nobody pays for what was not answered, also where some of it was done: that is the platform's.
                attempts::come_back(&mut self.under_way, &mut self.permit);
                let outcome = Outcome::ProviderRefused;
                self.permit.void(outcome);
                self.under_way.finished(outcome, None, None);
                Err(refusal)
            }
            Err(Stopped::Gone) => {
                self.leave();
                Err(Refusal::Overloaded { reason: "the caller has left", retry_after: RETRY })
            }
        }
    }

    async fn done(&mut self, wanted: &Wanted, reply: &mut Reply) -> Result<Bytes, Stopped> {
        let local = Arc::clone(&self.local);
        let model = Arc::clone(&local.runtime.model_name);
        match (&local.task, wanted.shape) {
            (Task::Embed, Shape::Vectors { base64, .. }) => {
                let vectors = self.vectors(&local.runtime, &wanted.texts, wanted.truncate, reply).await?;
                let tokens = self.tokens;
                Ok(self.aside(move || local::vectors(&vectors, base64, &model, tokens)).await?)
            }
            (Task::Classify(head), Shape::Labels { top_k }) => {
                let (head, stage) =
                    (Arc::clone(head), if local.runtime.model.is_some() { "encoder" } else { "hashed" });
                let probabilities = self.classified(&local.runtime, &head, wanted, reply).await?;
                let stages = vec![stage; probabilities.len()];
                let tokens = self.tokens;
                Ok(self.aside(move || labels(&head, &probabilities, &stages, top_k, &model, tokens)).await?)
            }
            (Task::Cascade { hashed, .. }, Shape::Labels { top_k }) => {
                let head = Arc::clone(hashed);
                let (probabilities, stages) = self.cascaded(wanted, reply).await?;
                let tokens = self.tokens;
                Ok(self.aside(move || labels(&head, &probabilities, &stages, top_k, &model, tokens)).await?)
            }
            _ => unreachable!("what is wanted was compared with what the route does when it was read"),
        }
    }

    async fn vectors(
        &mut self,
        runtime: &Runtime,
        texts: &[String],
        truncate: bool,
        reply: &mut Reply,
    ) -> Result<Vec<Vec<f32>>, Stopped> {
        let items = self.items(runtime, texts, truncate, None, reply).await?;
        let outputs = self.ask(runtime, items, reply).await?;
        Ok(outputs.into_iter().map(numbers).collect())
    }

    /// Probabilities by the head that reads what the runtime makes.
    async fn classified(
        &mut self,
        runtime: &Runtime,
        head: &Arc<Head>,
        wanted: &Wanted,
        reply: &mut Reply,
    ) -> Result<Vec<Vec<f32>>, Stopped> {
        if runtime.model.is_none() {
            let items = self.items(runtime, &wanted.texts, wanted.truncate, Some(head), reply).await?;
            let outputs = self.ask(runtime, items, reply).await?;
            return Ok(outputs.into_iter().map(numbers).collect());
        }
        let vectors = self.vectors(runtime, &wanted.texts, wanted.truncate, reply).await?;
        let head = Arc::clone(head);
        let read = move || vectors.iter().map(|vector| head.classify(Features::Vector(vector))).collect();
        let probabilities: Result<Vec<_>, _> = self.aside(read).await?;
        Ok(probabilities.map_err(|error| broken("a head does not read the vectors", &error))?)
    }

    /// The hashed head first, and where it is not sure both together; where the encoder is too busy, the hashed head alone.
    async fn cascaded(
        &mut self,
        wanted: &Wanted,
        reply: &mut Reply,
    ) -> Result<(Vec<Vec<f32>>, Vec<&'static str>), Stopped> {
        let local = Arc::clone(&self.local);
        let Task::Cascade { first, hashed, cascade } = &local.task else {
            unreachable!("only a cascade gets here");
        };
        let sure = self.classified(first, hashed, wanted, reply).await?;
        let mut stages = vec!["hashed"; wanted.texts.len()];
        let (mut probabilities, mut open): (Vec<Vec<f32>>, Vec<(usize, Scores)>) = (Vec::new(), Vec::new());
        for (number, scores) in sure.into_iter().enumerate() {
            match cascade.judge(scores) {
                First::Answer(answer) => probabilities.push(answer.probabilities),
                First::Escalate(scores) => {
                    open.push((number, scores));
                    probabilities.push(Vec::new());
                }
            }
        }
        if open.is_empty() {
            return Ok((probabilities, stages));
        }
        let texts: Vec<String> = open.iter().map(|(number, _)| wanted.texts[*number].clone()).collect();
        // These are counted by the encoder's tokens, not by both.
        let by_first = self.tokens;
        self.tokens = by_first.saturating_sub(texts.iter().map(|text| u64::from(words(text))).sum());
        // What the cheap head has read at length, the dear one may read the beginning of.
        let vectors = match self.vectors(&local.runtime, &texts, true, reply).await {
            Ok(vectors) => vectors,
            Err(Stopped::Refused(Refusal::Overloaded { .. })) => {
                self.tokens = by_first;
                for (number, scores) in open {
                    probabilities[number] = scores.into_answer().probabilities;
                }
                return Ok((probabilities, stages));
            }
            Err(stopped) => return Err(stopped),
        };
        let (numbers, scores): (Vec<usize>, Vec<Scores>) = open.into_iter().unzip();
        let both = Arc::clone(cascade);
        let read = move || scores.iter().zip(&vectors).map(|(scores, vector)| both.second(scores, vector)).collect();
        let answers: Result<Vec<_>, _> = self.aside(read).await?;
        let answers = answers.map_err(|error| broken("a cascade does not read the vectors", &error))?;
        for (number, answer) in numbers.into_iter().zip(answers) {
            stages[number] = if answer.stage == Stage::Mixed { "mixed" } else { "hashed" };
            probabilities[number] = answer.probabilities;
        }
        Ok((probabilities, stages))
    }

    /// Every text as its runtime reads it. What takes long gives way to others between texts.
    async fn items(
        &mut self,
        runtime: &Runtime,
        texts: &[String],
        truncate: bool,
        head: Option<&Arc<Head>>,
        reply: &Reply,
    ) -> Result<Vec<Item>, Stopped> {
        let mut items = Vec::with_capacity(texts.len());
        for (number, text) in texts.iter().enumerate() {
            if number > 0 && number.is_multiple_of(TOKENISED_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            if reply.is_closed() {
                return Err(Stopped::Gone);
            }
            let item = self.measured(|| match &runtime.model {
                None => Ok(item_of_text(text, head.cloned())),
                Some(model) => tokenised(model, number, text, truncate),
            });
            let item: Item = item?;
            self.tokens += u64::from(item.tokens);
            items.push(item);
        }
        Ok(items)
    }

    /// Has the runtime do it. The caller's leaving is noticed while it waits.
    async fn ask(&mut self, runtime: &Runtime, items: Vec<Item>, reply: &mut Reply) -> Result<Vec<Output>, Stopped> {
        let tokens = items.iter().map(|item| u64::from(item.tokens)).sum();
        let principal = &self.under_way.principal;
        let question = Question { items, ..runtime.question(principal, tokens, self.local.goal, self.terms) };
        let patience = self.under_way.total.saturating_sub(self.waited.elapsed());
        let mut pending = runtime.pool.ask(question).map_err(turned_away)?;
        let is_late = tokio::select! {
            () = pending.done() => false,
            () = tokio::time::sleep(patience) => true,
            () = reply.closed() => {
                // Within the patience that a whole answer would have had.
                let done = tokio::time::timeout(patience, pending.given_up()).await.unwrap_or_default();
                self.cpu += done.iter().map(|answer| answer.cpu).sum::<Duration>();
                self.tokens = done.iter().map(|answer| answer.tokens).sum();
                return Err(Stopped::Gone);
            }
        };
        if is_late {
            return Err(self.failed(&Failure::TooLate).into());
        }
        let answers = pending.answers().await.map_err(|failure| self.failed(&failure))?;
        self.cpu += answers.iter().map(|answer| answer.cpu).sum::<Duration>();
        Ok(answers.into_iter().map(|Answer { output, .. }| output).collect())
    }

    fn failed(&self, failure: &Failure) -> Refusal {
        self.under_way.warn("a local runtime did not answer", failure);
        let kind = match failure {
            Failure::TooLate => ProviderFaultKind::Timeout("answer before the deadline"),
            Failure::WorkerLost | Failure::Engine(_) => ProviderFaultKind::BrokenAnswer,
        };
        Refusal::Provider(ProviderFault { provider: LOCAL.to_owned(), kind, retry_after: None })
    }

    /// What this thread does for the request is part of what it costs.
    fn measured<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let cpu = CpuStopwatch::start();
        let done = work();
        self.cpu += cpu.elapsed();
        done
    }

    /// The same, on a thread that nobody else waits for: reading many vectors, or writing them, takes long.
    async fn aside<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let done = tokio::task::spawn_blocking(move || {
            let cpu = CpuStopwatch::start();
            let done = work();
            (done, cpu.elapsed())
        });
        let (done, cpu) = done.await.map_err(|error| broken("an answer cannot be made", &error))?;
        self.cpu += cpu;
        Ok(done)
    }

    fn usage(&self) -> Usage {
        let cpu_us = u64::try_from(self.cpu.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        Usage { input_tokens: self.tokens, cache_write_tokens: Some(0), cpu_us, ..Usage::default() }
    }

    /// The caller has left: what was done is posted, and if nothing was, nothing is.
    fn leave(mut self) {
        let outcome = Outcome::ClientGone;
        if self.cpu.is_zero() {
            attempts::come_back(&mut self.under_way, &mut self.permit);
            self.permit.void(outcome);
            return self.under_way.finished(outcome, None, None);
        }
        let usage = self.usage();
        let settled = self.permit.settle(usage, outcome);
        self.under_way.check_overrun(&settled);
        let amounts = settled.amounts;
        self.under_way.finished(outcome, Some(amounts), Some(usage));
    }

    /// Posts what was measured and, once that is durable, answers.
    async fn reply(self, body: Bytes) -> Result<Response<Body>, Refusal> {
        let usage = self.usage();
        let outcome = Outcome::Completed;
        let settled = self.permit.settle(usage, outcome);
        pipeline::reply_settled(self.under_way, settled, outcome, Some(usage), body).await
    }
}

// === impl Runtime ===

impl Runtime {
    pub fn dims(&self) -> usize {
        self.model.as_ref().map_or(tollgate_runtime::head::ngrams::EMBED_DIMS, |model| model.dims())
    }

    pub fn text_bytes_max(&self) -> usize {
        match self.model {
            Some(_) => tollgate_runtime::encoder::TEXT_BYTES_MAX,
            None => tollgate_runtime::head::ngrams::TEXT_BYTES_MAX,
        }
    }

    /// No more tokens than this are read of it, where that can be told.
    pub fn tokens_of(&self, wanted: &Wanted) -> Option<u64> {
        let model = self.model.as_ref()?;
        let of = |text: &String| Some(model.tokenize(text).ok()?.count().min(model.max_tokens()) as u64);
        wanted.texts.iter().map(of).sum()
    }

    /// Whether work of about so many bytes would be taken now.
    fn has_room(&self, principal: &Principal, wanted: &Wanted, goal: Duration, terms: Terms) -> Result<(), Refusal> {
        // Counted without a tokenizer: what takes long to count is not counted for who is turned away.
        let tokens = wanted.texts.iter().map(|text| u64::from(words(text))).sum::<u64>();
        let question = self.question(principal, tokens, goal, terms);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.pool.would_take(&question, tokens, wanted.texts.len()).map_err(turned_away)
    }

    /// How so much work is asked for, its items left out. What is longer than a batch is in less of a hurry.
    fn question(&self, principal: &Principal, tokens: u64, goal: Duration, terms: Terms) -> Question {
        let (priority, goal) = match tokens > u64::from(self.settings.layout.batch_tokens_max) {
            true => (Priority::Batch, self.settings.bulk_goal.max(goal)),
            false => (Priority::Interactive, goal),
        };
        Question {
            tenant: principal.tenant.clone(),
            weight: principal.share,
            priority,
            goal,
            deadline: terms.deadline,
            alone: terms.alone,
            items: Vec::new(),
        }
    }
}

fn tokenised(model: &Model, number: usize, text: &str, truncate: bool) -> Result<Item, Refusal> {
    let refuse = |what: String| Refusal::invalid_param(format!("text {number} of 'input' {what}"), "input");
    let tokens = model.tokenize(text).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let most = model.max_tokens();
    if tokens.count() > most && !truncate {
        let what = format!(
            "has {} tokens, and the model reads {most}: cut it, or send \"truncate\": true to have its beginning read",
            tokens.count()
        );
        return Err(refuse(what));
    }
    Ok(Item::of_tokens(tokens.truncated(most)))
}

fn numbers(output: Output) -> Vec<f32> {
    match output {
        Output::Vector(numbers) | Output::Probabilities(numbers) => numbers,
    }
}

fn labels(
    head: &Head,
    probabilities: &[Vec<f32>],
    stages: &[&'static str],
    top_k: usize,
    model: &str,
    tokens: u64,
) -> Bytes {
    let one = |(index, (probabilities, stage)): (usize, (&Vec<f32>, &&'static str))| {
        let top = head.top(probabilities, top_k.max(1));
        let probable = |Guess { label, probability }: &Guess<'_>| Probable {
            label: (*label).to_owned(),
            probability: *probability,
        };
        let labels: Vec<Probable> = top.iter().map(probable).collect();
        let (label, confidence) = labels.first().map(|best| (best.label.clone(), best.probability)).unwrap_or_default();
        Labelled { object: "classification", index, label, confidence, stage, labels }
    };
    let labelled: Vec<Labelled> = probabilities.iter().zip(stages).enumerate().map(one).collect();
    local::labels(&labelled, model, tokens)
}

/// What we made ourselves does not fit together.
fn broken(what: &'static str, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "{what}");
    let kind = ProviderFaultKind::BrokenAnswer;
    Refusal::Provider(ProviderFault { provider: LOCAL.to_owned(), kind, retry_after: None })
}

fn turned_away(turned: Turned) -> Refusal {
    let reason = match turned.why {
        Why::TooLarge => {
            return Refusal::invalid_param("'input' is more than may wait of one tenant: send it in parts", "input");
        }
        Why::TooLate if turned.retry_after.is_none() => {
            return Refusal::invalid(
                "x-tollgate-deadline-ms is less than the work takes, however little there is to do",
            );
        }
        Why::Overloaded => "the model is busy: this would not be answered within its goal",
        Why::TooLate => "this would not be answered before the deadline you set",
        Why::TenantFull => "you have as much waiting as you may have",
        Why::QueueFull => "as much is waiting as may wait",
    };
    Refusal::Overloaded { reason, retry_after: turned.retry_after.unwrap_or(RETRY) }
}
