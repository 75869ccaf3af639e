//! A request whose model runs here, from its hold to its answer. It goes on without its caller: what waits is not begun any
//! more when the caller leaves, what runs is measured to its end, and what was measured is what is posted.

pub mod cache;
pub mod runs;
pub mod work;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::{oneshot, watch};
use tollgate_runtime::head::{Guess, likeliest};
use tollgate_types::clock::Stopwatch;
use tollgate_types::refusal::ProviderFaultKind;
use tollgate_types::usage::Outcome;
use tollgate_types::{Refusal, Surface, Usage};

use self::cache::Kept;
use self::runs::{Answers, Cached};
use self::work::{Caller, Classified, Stopped, Whose, Work};
use crate::attempts;
use crate::http::body::Body;
use crate::http::headers;
pub use crate::http::local::Wanted;
use crate::http::local::{self, Decision, Labelled, Probable, RunOf, Shape};
use crate::pipeline::{self, AppPermit, Underway};
use crate::runtimes::{Away, By, Does, Local, Task, words};
use crate::workers::fleet;
use crate::workers::wire::{Handback, Handed};

pub use self::work::Terms;

/// What a caller is told who cannot be told when.
pub const RETRY: Duration = Duration::from_secs(1);

/// A request as it came, and as the model may see it.
#[derive(Clone, Copy, Debug)]
pub struct Bodies<'a> {
    pub original: &'a Bytes,
    /// Without what a policy takes out.
    pub redacted: &'a Bytes,
}

impl Bodies<'_> {
    pub fn is_redacted(&self) -> bool {
        self.original.as_ptr() != self.redacted.as_ptr()
    }
}

/// Reads what is wanted, and sees that the route does that.
fn read(local: &Local, surface: Surface, bodies: Bodies<'_>) -> Result<Wanted, Refusal> {
    let misplaced = |what: &str| Err(Refusal::invalid_param(what.to_owned(), "model"));
    match (&local.does, &local.template, surface) {
        (Does::Classify { .. }, Some(_), Surface::Runs)
        | (Does::Embed { .. }, None, Surface::Embeddings)
        | (Does::Classify { .. }, None, Surface::Classify) => {}
        (_, None, Surface::Runs) => {
            return Err(Refusal::invalid_param(
                "this is a model and no template: GET /v1/models names what there is",
                "template",
            ));
        }
        (_, Some(_), _) => return misplaced("this is a template: ask POST /v1/runs"),
        (Does::Embed { .. }, None, _) => return misplaced("this model makes embeddings: ask POST /v1/embeddings"),
        (Does::Classify { .. }, None, _) => return misplaced("this model classifies: ask POST /v1/classify"),
    }
    let wanted = match &local.template {
        Some(template) => local::read_run(template, bodies, local.texts_max)?,
        None => local::read(surface, bodies.redacted, local.texts_max)?,
    };
    if let (Shape::Vectors { dimensions: Some(wished), .. }, Does::Embed { dims }) = (wanted.shape, &local.does)
        && wished != *dims
    {
        let what = format!("'dimensions' must be {dims}, or left out: this model has no other");
        return Err(Refusal::invalid_param(what, "dimensions"));
    }
    let longest = local.text_bytes_max;
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
    whose: &Whose,
    bodies: Bodies<'_>,
    terms: Terms,
) -> Result<Wanted, Refusal> {
    let wanted = read(local, surface, bodies)?;
    match &local.by {
        By::Here { task: Task::Cascade { first, .. }, .. } => first.has_room(whose, &wanted.texts, terms)?,
        By::Here { runtime, .. } => runtime.has_room(whose, &wanted.texts, terms)?,
        // They say so when they are asked.
        By::Workers(_) => {}
    }
    Ok(wanted)
}

/// Works on it, and answers. `bypass`: no cache has a part in it.
pub async fn serve(
    under_way: Underway,
    permit: AppPermit,
    local: Arc<Local>,
    wanted: Wanted,
    terms: Terms,
    bypass: bool,
) -> Result<Response<Body>, Refusal> {
    let Some(place) = under_way.app.local_work.enter() else {
        pipeline::void(&under_way, permit, Outcome::NotSent);
        return Err(Refusal::Overloaded { reason: "too many requests are under way here", retry_after: RETRY });
    };
    detached(move |mut caller| async move {
        let _place = place;
        Job::new(under_way, permit, local, terms, bypass).run(wanted, &mut caller).await
    })
    .await
}

/// Has it go on without its caller, who is told of as [`Caller`].
pub async fn detached<F, W>(work: W) -> Result<Response<Body>, Refusal>
where
    W: FnOnce(Caller) -> F,
    F: Future<Output = Result<Response<Body>, Refusal>> + Send + 'static,
{
    let (reply, told) = oneshot::channel();
    let (caller, _presence) = Caller::new();
    let working = work(caller);
    let working = tokio::spawn(async move {
        let answered = working.await;
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
pub struct Place(watch::Sender<usize>);

/// Requests that runtimes may work on at a time.
const UNDER_WAY_MAX: usize = 10_000;

// === impl LocalWork ===

impl Default for LocalWork {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl LocalWork {
    pub fn enter(&self) -> Option<Place> {
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

/// A request on its way.
struct Job {
    under_way: Underway,
    permit: AppPermit,
    local: Arc<Local>,
    /// How long its answers may be given again, if at all.
    kept_for: Option<Duration>,
    work: Work,
    /// Of the input: what was answered before.
    cached_tokens: u64,
}

/// An answer, and what a cache had to do with it.
struct Done {
    body: Bytes,
    cached: Cached,
}

// === impl Job ===

impl Job {
    fn new(under_way: Underway, permit: AppPermit, local: Arc<Local>, terms: Terms, bypass: bool) -> Self {
        let kept_for = runs::time_to_live(&local, under_way.judged.obligations()).filter(|_| !bypass);
        // After its deadline nobody waits for it.
        let now = under_way.app.clock().steady();
        let until = terms.deadline.map_or(Duration::MAX, |deadline| deadline.since(now));
        let work = Work::new(Whose::of(&under_way.principal), terms, under_way.total.min(until));
        Self { under_way, permit, local, kept_for, work, cached_tokens: 0 }
    }

    async fn run(mut self, wanted: Wanted, caller: &mut Caller) -> Result<Response<Body>, Refusal> {
        attempts::go_out(&mut self.under_way, &mut self.permit).await?;
        let since = Stopwatch::start();
        match self.done(&wanted, caller).await {
            Ok(done) => {
                self.under_way.waited += since.elapsed();
                self.reply(done).await
            }
            Err(Stopped::Refused(refusal)) => {
                // Nobody pays for what was not answered, also where some of it was done: that is the platform's.
                attempts::come_back(&mut self.under_way, &mut self.permit);
                let outcome = Outcome::ProviderRefused;
                pipeline::void(&self.under_way, self.permit, outcome);
                Err(refusal)
            }
            Err(Stopped::Gone) => {
                self.leave();
                Err(Refusal::Overloaded { reason: "the caller has left", retry_after: RETRY })
            }
        }
    }

    async fn done(&mut self, wanted: &Wanted, caller: &mut Caller) -> Result<Done, Stopped> {
        let local = Arc::clone(&self.local);
        let (texts, truncate) = (&wanted.texts, wanted.truncate);
        let body = match wanted.shape {
            Shape::Vectors { base64, .. } => {
                let vectors = self.vectors(texts, truncate, caller).await?;
                let tokens = self.work.tokens;
                self.work.aside(move || local::vectors(&vectors, base64, &local.model_name, tokens)).await?
            }
            Shape::Labels { top_k } => {
                let classified = self.labels(texts, truncate, caller).await?;
                let tokens = self.work.tokens;
                self.work.aside(move || labels(&local, &classified, top_k, tokens)).await?
            }
            Shape::Run { top_k } => return self.run_of(texts, top_k, caller).await,
        };
        Ok(Done { body, cached: Cached::Bypass })
    }

    async fn run_of(&mut self, texts: &[String], top_k: usize, caller: &mut Caller) -> Result<Done, Stopped> {
        let Answers { of, cached, cached_tokens, outcome } = runs::answers(self, texts, caller).await?;
        self.cached_tokens = cached_tokens;
        self.under_way.app.metrics.cached("run", outcome.name());
        let (local, id) = (Arc::clone(&self.local), self.under_way.id);
        let tokens = self.work.tokens + cached_tokens;
        let write = move || {
            let template = local.template.as_ref().expect("what is no template was refused when it was read");
            let review_below = template.manifest.output.review_below;
            let mut answers = Vec::with_capacity(of.len());
            for (index, (kept, cached)) in of.iter().zip(cached).enumerate() {
                let Kept { probabilities, stage, .. } = &**kept;
                let labelled = labelled(&local, index, probabilities, stage, top_k);
                let decision = if labelled.confidence < review_below { "review" } else { "answer" };
                answers.push(Decision { labelled, decision, cached });
            }
            let about = RunOf { id, template: &template.manifest, model: &local.model_name, tokens, cached_tokens };
            local::run(&answers, about)
        };
        Ok(Done { body: self.work.aside(write).await?, cached: outcome })
    }

    async fn vectors(
        &mut self,
        texts: &[String],
        truncate: bool,
        caller: &mut Caller,
    ) -> Result<Vec<Vec<f32>>, Stopped> {
        let local = Arc::clone(&self.local);
        match &local.by {
            By::Here { runtime, .. } => self.work.vectors(runtime, texts, truncate, caller).await,
            By::Workers(away) => {
                let columns = if let Does::Embed { dims } = &local.does { *dims } else { 0 };
                let back = self.handed(away, texts, truncate, caller).await?;
                self.understood(back.rows(texts.len(), columns))
            }
        }
    }

    async fn labels(&mut self, texts: &[String], truncate: bool, caller: &mut Caller) -> Result<Classified, Stopped> {
        let local = Arc::clone(&self.local);
        match &local.by {
            By::Here { runtime, task } => self.work.labels(runtime, task, texts, truncate, caller).await,
            By::Workers(away) => {
                let columns = if let Does::Classify { labels } = &local.does { labels.len() } else { 0 };
                let back = self.handed(away, texts, truncate, caller).await?;
                self.understood(back.classified(texts.len(), columns))
            }
        }
    }

    /// Has a worker do it.
    async fn handed(
        &mut self,
        away: &Away,
        texts: &[String],
        truncate: bool,
        caller: &mut Caller,
    ) -> Result<Handback, Stopped> {
        let (Whose { tenant, share }, terms) = (self.work.whose().clone(), self.work.terms());
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let now = self.under_way.app.clock().steady();
        let patience = self.work.patience_left();
        let handed = Handed {
            route: self.under_way.route.target.route.to_string(),
            identity: away.identity.clone(),
            tenant,
            share,
            goal_us: us(terms.goal),
            alone: terms.alone,
            deadline_us: terms.deadline.map(|deadline| us(deadline.since(now))),
            patience_us: us(patience),
            truncate,
            texts: texts.to_vec(),
        };
        let tokens: u64 = texts.iter().map(|text| u64::from(words(text))).sum();
        let is_long = tokens > u64::from(away.batch_tokens_max);
        let goal = if is_long { away.bulk_goal.max(terms.goal) } else { terms.goal };
        let id = headers::request_id(self.under_way.id);
        let back = away.fleet.ask(handed, fleet::Wanted { goal, patience }, &id, caller).await?;
        self.work.cpu += back.cpu();
        self.work.tokens += back.tokens;
        Ok(back)
    }

    fn understood<T>(&self, read: Option<T>) -> Result<T, Stopped> {
        let kind = ProviderFaultKind::MalformedAnswer;
        read.ok_or_else(|| Stopped::Refused(pipeline::fault(&self.under_way.route, kind, None)))
    }

    fn usage(&self) -> Usage {
        let cpu_us = u64::try_from(self.work.cpu.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        Usage {
            input_tokens: self.work.tokens + self.cached_tokens,
            cached_input_tokens: self.cached_tokens,
            cache_write_tokens: Some(0),
            cpu_us,
            ..Usage::default()
        }
    }

    /// The caller has left: what was done is posted, and if nothing was, nothing is.
    fn leave(mut self) {
        let outcome = Outcome::ClientGone;
        if self.work.cpu.is_zero() {
            attempts::come_back(&mut self.under_way, &mut self.permit);
            return pipeline::void(&self.under_way, self.permit, outcome);
        }
        let usage = self.usage();
        let settled = self.permit.settle(usage, outcome);
        self.under_way.check_overrun(&settled);
        let amounts = settled.amounts;
        self.under_way.finished(outcome, Some(amounts), Some(usage));
    }

    /// Posts what was measured and, once that is durable, answers.
    async fn reply(self, done: Done) -> Result<Response<Body>, Refusal> {
        let usage = self.usage();
        let outcome = Outcome::Completed;
        let settled = self.permit.settle(usage, outcome);
        let mut response = pipeline::reply_settled(self.under_way, settled, outcome, Some(usage), done.body).await?;
        headers::cached(response.headers_mut(), done.cached.name());
        Ok(response)
    }
}

fn labels(local: &Local, classified: &Classified, top_k: usize, tokens: u64) -> Bytes {
    let Classified { probabilities, stages, .. } = classified;
    let both = probabilities.iter().zip(stages).enumerate();
    let all: Vec<Labelled> =
        both.map(|(index, (probabilities, stage))| labelled(local, index, probabilities, stage, top_k)).collect();
    local::labels(&all, &local.model_name, tokens)
}

/// The likeliest labels of one text.
fn labelled(local: &Local, index: usize, probabilities: &[f32], stage: &'static str, top_k: usize) -> Labelled {
    let Does::Classify { labels } = &local.does else {
        unreachable!("what is wanted was compared with what the route does when it was read");
    };
    let probable = |Guess { label, probability }: Guess<'_>| Probable { label: label.to_owned(), probability };
    let labels: Vec<Probable> = likeliest(labels, probabilities, top_k.max(1)).into_iter().map(probable).collect();
    let (label, confidence) = labels.first().map(|best| (best.label.clone(), best.probability)).unwrap_or_default();
    Labelled { object: "classification", index, label, confidence, stage, labels }
}

// === impl Cached ===

impl Cached {
    /// As `x-tollgate-cache` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}
