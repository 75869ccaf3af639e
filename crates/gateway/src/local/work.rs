//! What is done with texts by the models that are loaded here: into vectors, or into how likely each label is. What it takes is
//! measured as it is done, whatever becomes of it. Of money, HTTP and what was asked before nothing is known here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tollgate_admission::Principal;
use tollgate_runtime::encoder::Model;
use tollgate_runtime::head::cascade::{First, Scores, Stage};
use tollgate_runtime::head::{Features, Head};
use tollgate_serving::local::{Answer, Failure, Item, Output, Question, Turned};
use tollgate_serving::schedule::{Priority, Why};
use tollgate_types::clock::{CpuStopwatch, Stopwatch};
use tollgate_types::refusal::{ProviderFault, ProviderFaultKind};
use tollgate_types::{Refusal, TenantId, Timestamp};

use super::RETRY;
use crate::config::LOCAL;
use crate::runtimes::{Runtime, Task, item_of_text, words};

/// Texts that are tokenised before others of this thread have their turn: some 50 us each.
const TOKENISED_AT_ONCE: usize = 8;

/// Whose work it is, and what share of the workers is theirs.
#[derive(Clone, Debug)]
pub struct Whose {
    pub tenant: TenantId,
    pub share: u32,
}

/// How the tenant's work is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Within this time it should be done.
    pub goal: Duration,
    /// In no batch with other tenants.
    pub alone: bool,
    /// After this there is no use in it.
    pub deadline: Option<Timestamp>,
}

/// Whoever waits for the answer. Its other end is dropped when they leave.
#[derive(Debug)]
pub struct Caller(oneshot::Sender<()>);

/// Dropped when whoever waits leaves.
#[derive(Debug)]
pub struct Presence(#[expect(dead_code, reason = "it is there to be dropped")] oneshot::Receiver<()>);

/// Why there is no answer.
#[derive(Debug)]
pub enum Stopped {
    Refused(Refusal),
    /// The caller has left.
    Gone,
}

/// Work on its way, and what it has taken so far.
#[derive(Debug)]
pub struct Work {
    whose: Whose,
    terms: Terms,
    /// How long it may take in all.
    patience: Duration,
    since: Stopwatch,
    pub cpu: Duration,
    pub tokens: u64,
}

/// How likely each label is for each text, and who said so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classified {
    pub probabilities: Vec<Vec<f32>>,
    pub stages: Vec<&'static str>,
    /// Whether more would have been asked, had it not been too busy: such an answer is for now alone.
    pub makeshift: Vec<bool>,
}

/// As answers name them.
pub const STAGES: [&str; 3] = [HASHED, ENCODER, MIXED];
const HASHED: &str = "hashed";
const ENCODER: &str = "encoder";
const MIXED: &str = "mixed";

// === impl Whose ===

impl Whose {
    pub fn of(principal: &Principal) -> Self {
        Self { tenant: principal.tenant.clone(), share: principal.share }
    }
}

// === impl Caller ===

impl Caller {
    pub fn new() -> (Self, Presence) {
        let (here, there) = oneshot::channel();
        (Self(here), Presence(there))
    }

    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
    }

    pub async fn gone(&mut self) {
        self.0.closed().await;
    }
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

// === impl Work ===

impl Work {
    pub fn new(whose: Whose, terms: Terms, patience: Duration) -> Self {
        Self { whose, terms, patience, since: Stopwatch::start(), cpu: Duration::ZERO, tokens: 0 }
    }

    pub fn whose(&self) -> &Whose {
        &self.whose
    }

    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// How long it may still take.
    pub fn patience_left(&self) -> Duration {
        self.patience.saturating_sub(self.since.elapsed())
    }

    pub async fn vectors(
        &mut self,
        runtime: &Runtime,
        texts: &[String],
        truncate: bool,
        caller: &mut Caller,
    ) -> Result<Vec<Vec<f32>>, Stopped> {
        self.numbers(runtime, texts, truncate, None, caller).await
    }

    /// A row for each text: its vector or, by a hashed runtime with a head, its probabilities.
    async fn numbers(
        &mut self,
        runtime: &Runtime,
        texts: &[String],
        truncate: bool,
        head: Option<&Arc<Head>>,
        caller: &mut Caller,
    ) -> Result<Vec<Vec<f32>>, Stopped> {
        let items = self.items(runtime, texts, truncate, head, caller).await?;
        let outputs = self.ask(runtime, items, caller).await?;
        Ok(outputs.into_iter().map(numbers).collect())
    }

    /// How likely each label is, by whoever of the route's says so.
    pub async fn labels(
        &mut self,
        runtime: &Runtime,
        task: &Task,
        texts: &[String],
        truncate: bool,
        caller: &mut Caller,
    ) -> Result<Classified, Stopped> {
        match task {
            Task::Classify(head) => {
                let stage = if runtime.model.is_some() { ENCODER } else { HASHED };
                let probabilities = self.classified(runtime, head, texts, truncate, caller).await?;
                let count = probabilities.len();
                Ok(Classified { stages: vec![stage; count], makeshift: vec![false; count], probabilities })
            }
            Task::Cascade { .. } => self.cascaded(runtime, task, texts, truncate, caller).await,
            Task::Embed => unreachable!("what is wanted was compared with what the route does when it was read"),
        }
    }

    /// Probabilities by the head that reads what the runtime makes.
    async fn classified(
        &mut self,
        runtime: &Runtime,
        head: &Arc<Head>,
        texts: &[String],
        truncate: bool,
        caller: &mut Caller,
    ) -> Result<Vec<Vec<f32>>, Stopped> {
        if runtime.model.is_none() {
            return self.numbers(runtime, texts, truncate, Some(head), caller).await;
        }
        let vectors = self.vectors(runtime, texts, truncate, caller).await?;
        let head = Arc::clone(head);
        let read = move || vectors.iter().map(|vector| head.classify(Features::Vector(vector))).collect();
        let probabilities: Result<Vec<_>, _> = self.aside(read).await?;
        Ok(probabilities.map_err(|error| broken("a head does not read the vectors", &error))?)
    }

    /// The hashed head first, and where it is not sure both together; where the encoder is too busy, the hashed head alone.
    async fn cascaded(
        &mut self,
        runtime: &Runtime,
        task: &Task,
        texts: &[String],
        truncate: bool,
        caller: &mut Caller,
    ) -> Result<Classified, Stopped> {
        let Task::Cascade { first, hashed, cascade } = task else {
            unreachable!("only a cascade gets here");
        };
        let sure = self.classified(first, hashed, texts, truncate, caller).await?;
        let (mut stages, mut makeshift) = (vec![HASHED; texts.len()], vec![false; texts.len()]);
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
            return Ok(Classified { probabilities, stages, makeshift });
        }
        let texts: Vec<String> = open.iter().map(|(number, _)| texts[*number].clone()).collect();
        // These are counted by the encoder's tokens, not by both.
        let by_first = self.tokens;
        self.tokens = by_first.saturating_sub(texts.iter().map(|text| u64::from(words(text))).sum());
        // What the cheap head has read at length, the dear one may read the beginning of.
        let vectors = match self.vectors(runtime, &texts, true, caller).await {
            Ok(vectors) => vectors,
            Err(Stopped::Refused(Refusal::Overloaded { .. })) => {
                self.tokens = by_first;
                for (number, scores) in open {
                    probabilities[number] = scores.into_answer().probabilities;
                    makeshift[number] = true;
                }
                return Ok(Classified { probabilities, stages, makeshift });
            }
            Err(stopped) => return Err(stopped),
        };
        let (numbers, scores): (Vec<usize>, Vec<Scores>) = open.into_iter().unzip();
        let both = Arc::clone(cascade);
        let read = move || scores.iter().zip(&vectors).map(|(scores, vector)| both.second(scores, vector)).collect();
        let answers: Result<Vec<_>, _> = self.aside(read).await?;
        let answers = answers.map_err(|error| broken("a cascade does not read the vectors", &error))?;
        for (number, answer) in numbers.into_iter().zip(answers) {
            stages[number] = if answer.stage == Stage::Mixed { MIXED } else { HASHED };
            probabilities[number] = answer.probabilities;
        }
        Ok(Classified { probabilities, stages, makeshift })
    }

    /// Every text as its runtime reads it. What takes long gives way to others between texts.
    async fn items(
        &mut self,
        runtime: &Runtime,
        texts: &[String],
        truncate: bool,
        head: Option<&Arc<Head>>,
        caller: &Caller,
    ) -> Result<Vec<Item>, Stopped> {
        let mut items = Vec::with_capacity(texts.len());
        for (number, text) in texts.iter().enumerate() {
            if number > 0 && number.is_multiple_of(TOKENISED_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            if caller.is_gone() {
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
    async fn ask(&mut self, runtime: &Runtime, items: Vec<Item>, caller: &mut Caller) -> Result<Vec<Output>, Stopped> {
        let tokens = items.iter().map(|item| u64::from(item.tokens)).sum();
        let question = Question { items, ..runtime.question(&self.whose, tokens, self.terms) };
        let patience = self.patience_left();
        let mut pending = runtime.pool.ask(question).map_err(turned_away)?;
        let is_late = tokio::select! {
            () = pending.done() => false,
            () = tokio::time::sleep(patience) => true,
            () = caller.gone() => {
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
        tracing::warn!(tenant = %self.whose.tenant, why = ?failure, "a local runtime did not answer");
        let kind = match failure {
            Failure::TooLate => ProviderFaultKind::Timeout("answer before the deadline"),
            Failure::WorkerLost | Failure::Engine(_) => ProviderFaultKind::BrokenAnswer,
        };
        Refusal::Provider(ProviderFault { provider: LOCAL.to_owned(), kind, retry_after: None })
    }

    /// What this thread does for the request is part of what it costs.
    pub fn measured<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let cpu = CpuStopwatch::start();
        let done = work();
        self.cpu += cpu.elapsed();
        done
    }

    /// The same, on a thread that nobody else waits for: reading many vectors, or writing them, takes long.
    pub async fn aside<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let done = tokio::task::spawn_blocking(move || {
            let cpu = CpuStopwatch::start();
            let done = work();
            (done, cpu.elapsed())
        });
        let (done, cpu) = done.await.map_err(|error| broken("an answer cannot be made", &error))?;
        self.cpu += cpu;
        Ok(done)
    }
}

// === impl Runtime ===

impl Runtime {
    /// Whether work of about so many bytes would be taken now.
    pub fn has_room(&self, whose: &Whose, texts: &[String], terms: Terms) -> Result<(), Refusal> {
        // Counted without a tokenizer: what takes long to count is not counted for who is turned away.
        let tokens = texts.iter().map(|text| u64::from(words(text))).sum::<u64>();
        let question = self.question(whose, tokens, terms);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.pool.would_take(&question, tokens, texts.len()).map_err(turned_away)
    }

    /// No more tokens than this are read of it, where that can be told.
    pub fn tokens_of(&self, texts: &[String]) -> Option<u64> {
        let model = self.model.as_ref()?;
        let of = |text: &String| Some(model.tokenize(text).ok()?.count().min(model.max_tokens()) as u64);
        texts.iter().map(of).sum()
    }

    /// How so much work is asked for, its items left out. What is longer than a batch is in less of a hurry.
    fn question(&self, whose: &Whose, tokens: u64, terms: Terms) -> Question {
        let (priority, goal) = match tokens > u64::from(self.settings.layout.batch_tokens_max) {
            true => (Priority::Batch, self.settings.bulk_goal.max(terms.goal)),
            false => (Priority::Interactive, terms.goal),
        };
        Question {
            tenant: whose.tenant.clone(),
            weight: whose.share,
            priority,
            goal,
            deadline: terms.deadline,
            alone: terms.alone,
            items: Vec::new(),
        }
    }
}

/// Why work is turned away, for callers.
pub const REASONS: [&str; 4] = [BUSY, TOO_LATE, TENANT_FULL, QUEUE_FULL];
const BUSY: &str = "the model is busy: this would not be answered within its goal";
const TOO_LATE: &str = "this would not be answered before the deadline you set";
const TENANT_FULL: &str = "you have as much waiting as you may have";
const QUEUE_FULL: &str = "as much is waiting as may wait";

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

/// What we made ourselves does not fit together.
pub fn broken(what: &'static str, error: &dyn std::fmt::Display) -> Refusal {
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
        Why::Overloaded => BUSY,
        Why::TooLate => TOO_LATE,
        Why::TenantFull => TENANT_FULL,
        Why::QueueFull => QUEUE_FULL,
    };
    Refusal::Overloaded { reason, retry_after: turned.retry_after.unwrap_or(RETRY) }
}
