//! The models that run here: loaded, warmed and given their routes before anybody is served by them, at the start and at
//! each reload. What they do with a request is `local.rs`; how long one waits is `tollgate_serving::local`'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate_admission::Target;
use tollgate_policy::Law;
use tollgate_runtime::classifier::Classifier;
use tollgate_runtime::encoder::Model;
use tollgate_runtime::encoder::manifest::{MANIFEST_FILE, Manifest};
use tollgate_runtime::head::cascade::Cascade;
use tollgate_runtime::head::{Head, Kind};
use tollgate_runtime::template::Template;
use tollgate_serving::local::{EncoderEngine, Engine, HashedEngine, Item, Maker, Pool, Work};
use tollgate_types::{Clock, hex};

use crate::config::{self, Config, HASHED, LOCAL, LocalRoute, Role, Route, Routing, RuntimeKind, Server, WorkerConfig};
use crate::digest::sha256;
use crate::laws;
use crate::metrics::Metrics;
use crate::workers::fleet::Fleet;
use crate::workers::wire::Facts;

/// A model that is loaded, its threads, and the queue before them.
pub struct Runtime {
    pub settings: config::Runtime,
    /// Under this name it is priced and shown.
    pub model_name: Arc<str>,
    /// None: hashed n-grams answer; also where it was to be an encoder, and there is no model.
    pub model: Option<Arc<Model>>,
    pub pool: Pool,
}

/// What a route does, and who does it.
#[derive(Debug)]
pub struct Local {
    pub does: Does,
    pub by: By,
    pub model_name: Arc<str>,
    pub goal: Duration,
    pub texts_max: usize,
    pub text_bytes_max: usize,
    /// The use case that it is for, if it is for one.
    pub template: Option<Arc<Template>>,
    /// What its answers depend on besides the text, as a digest.
    pub identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// Vectors of so many numbers.
    Embed { dims: usize },
    /// How likely each of these is.
    Classify { labels: Arc<[String]> },
}

#[derive(Debug)]
pub enum By {
    /// Threads of this process.
    Here { runtime: Arc<Runtime>, task: Task },
    /// Other processes.
    Workers(Away),
}

/// Work that goes to workers.
#[derive(Debug)]
pub struct Away {
    pub fleet: Arc<Fleet>,
    /// As the workers know what they answer by.
    pub identity: String,
    pub batch_tokens_max: u32,
    pub bulk_goal: Duration,
}

#[derive(Debug)]
pub enum Task {
    Embed,
    /// By the head that reads what the runtime makes.
    Classify(Arc<Head>),
    /// By the hashed head, and where it is not sure by both.
    Cascade {
        first: Arc<Runtime>,
        hashed: Arc<Head>,
        cascade: Arc<Cascade>,
    },
}

/// All that is loaded, or whom it is handed to.
#[derive(Debug, Default)]
pub struct Runtimes {
    here: BTreeMap<String, Arc<Runtime>>,
    handed: Option<Handed>,
    /// By their routes: read at the start and at a reload, and at no other time.
    templates: BTreeMap<String, Used>,
}

/// A template, and the policy that comes with it.
type Used = (Arc<Template>, Option<Arc<Law>>);

/// Work that goes to other processes, and what the configuration says of it.
#[derive(Debug)]
struct Handed {
    fleet: Arc<Fleet>,
    workers: config::Workers,
    routing: Routing,
    settings: BTreeMap<String, config::Runtime>,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimesError {
    #[error("runtimes.{name}: {why}")]
    Runtime { name: String, why: String },
    #[error("routes.{route:?}: {why}")]
    Route { route: String, why: String },
    #[error("workers: {0}")]
    Workers(String),
}

/// At a reload workers are waited for no longer than this: whoever reloads does nothing else meanwhile.
const RELOAD_PATIENCE: Duration = Duration::from_secs(3);

/// How hashed n-grams are called.
const HASHED_MODEL: &str = "hashed-ngrams";
/// Words of the texts that an engine is warmed and measured with, one text a line.
const WARMING: [&str; 8] = [
    "My card has not arrived.",
    "How do I change the limit of my account?",
    "The transfer that I made yesterday is still pending, and the money has left my account.",
    "Where can I find the exchange rate?",
    "I was charged twice for the same purchase at a shop near my home, and would like to have one of them refunded.",
    "Please close my account.",
    "Why was my payment declined although there was enough money on my card when I tried to pay with it?",
    "The adversary used a scheduled task to run a script at each start of the system, and so stayed on it for months.",
];

// === impl Runtimes ===

impl Runtimes {
    /// Loads what is configured, and gives it its routes among the others. What is the same as in `before` goes on as it is,
    /// with what waits for it. A gateway whose workers do the work asks them what they serve.
    pub fn load(config: &Config, before: Option<&Self>, clock: &Clock) -> Result<(Self, Routing), RuntimesError> {
        let routes = &config.routing.local_routes;
        let templates = templates(routes)?;
        let (here, handed) = match config.role {
            Role::Gateway => (BTreeMap::new(), Handed::load(config, before, clock)?),
            Role::All | Role::Worker => (loaded(before, routes, &config.runtimes, clock)?, None),
        };
        let all = Self { here, handed, templates };
        let routing = all.joined(&config.routing, &config.runtimes)?;
        Ok((all, routing))
    }

    /// The same for a worker: only what is done with texts.
    pub fn load_for_worker(
        config: &WorkerConfig,
        before: Option<&Self>,
        clock: &Clock,
    ) -> Result<(Self, BTreeMap<String, Arc<Local>>), RuntimesError> {
        let here = loaded(before, &config.routes, &config.runtimes, clock)?;
        let all = Self { here, handed: None, templates: BTreeMap::new() };
        let mut routes = BTreeMap::new();
        for (name, said) in &config.routes {
            let made = all.local(name, said, &config.runtimes);
            let made = made.map_err(|why| RuntimesError::Route { route: name.clone(), why })?;
            routes.insert(name.clone(), Arc::new(made));
        }
        Ok((all, routes))
    }

    /// Notes for the metrics how each runtime and worker stands.
    pub fn note(&self, metrics: &Metrics) {
        for runtime in self.here.values() {
            metrics.runtime(&runtime.settings.name, &runtime.pool);
        }
        for standing in self.handed.iter().flat_map(|handed| handed.fleet.standing()) {
            metrics.worker(&standing);
        }
    }

    /// The routing anew, if the workers serve something else since: `seen` is what was known when it was asked last. A route
    /// that they serve in no way that fits stays as it is in `now`.
    pub fn followed(&self, seen: &AtomicU64, now: &Routing) -> Option<Routing> {
        let handed = self.handed.as_ref()?;
        let generation = handed.fleet.generation.load(Ordering::Acquire);
        if seen.swap(generation, Ordering::AcqRel) == generation {
            return None;
        }
        let mut followed = now.clone();
        for (name, said) in &handed.routing.local_routes {
            match self.route(name, said, &handed.settings) {
                Ok(made) => drop(followed.routes.insert(name.clone(), Arc::new(made))),
                Err(why) => tracing::error!(route = %name, why, "what the workers serve now cannot be taken over"),
            }
        }
        Some(followed)
    }

    /// The routing with the routes of runtimes.
    fn joined(
        &self,
        routing: &Routing,
        settings: &BTreeMap<String, config::Runtime>,
    ) -> Result<Routing, RuntimesError> {
        let mut joined = routing.clone();
        for (name, route) in &routing.local_routes {
            let made = self.route(name, route, settings);
            let made = made.map_err(|why| RuntimesError::Route { route: name.clone(), why })?;
            joined.routes.insert(name.clone(), Arc::new(made));
        }
        Ok(joined)
    }

    fn route(
        &self,
        name: &str,
        said: &LocalRoute,
        settings: &BTreeMap<String, config::Runtime>,
    ) -> Result<Route, String> {
        let local = self.local(name, said, settings)?;
        let settings = settings.get(&*said.runtime).ok_or("its runtime is not there")?;
        let (template, law) = self.templates.get(name).cloned().unzip();
        let target = Target {
            route: name.into(),
            provider: LOCAL.into(),
            priced_as: LOCAL.into(),
            model: Arc::clone(&local.model_name),
            region: settings.region.clone(),
            max_tokens_default: 1,
            // What a request may wait in all is its goal: past twice that nobody waits for it.
            total_timeout: settings.bulk_goal.saturating_mul(2),
            work: Some(settings.hold),
            law: law.flatten(),
        };
        let digest = template.as_ref().map_or("", |template: &Arc<Template>| &template.digest);
        let identity = hex(&sha256(&[local.identity.as_bytes(), digest.as_bytes()]));
        let local = Local { template, identity, ..local };
        Ok(Route {
            target: Arc::new(target),
            server: Server::Local(Arc::new(local)),
            retries: 0,
            fallbacks: Vec::new(),
            coalesce: false,
        })
    }

    /// What a route does with texts, without its template.
    fn local(
        &self,
        name: &str,
        said: &LocalRoute,
        settings: &BTreeMap<String, config::Runtime>,
    ) -> Result<Local, String> {
        let settings = settings.get(&*said.runtime).ok_or("its runtime is not there")?;
        let goal = said.goal.unwrap_or(settings.goal);
        if let Some(handed) = &self.handed {
            return handed.local(name, said, settings, goal);
        }
        let runtime = self.here.get(&*said.runtime).ok_or("its runtime is not there")?;
        let task = match &said.classifier {
            None => Task::Embed,
            Some(folder) => self.task(runtime, said, folder)?,
        };
        Ok(Local {
            does: does(runtime, &task),
            model_name: Arc::clone(&runtime.model_name),
            goal,
            texts_max: settings.texts_max,
            text_bytes_max: runtime.text_bytes_max(),
            identity: identity_of(runtime, &task),
            template: None,
            by: By::Here { runtime: Arc::clone(runtime), task },
        })
    }

    fn task(&self, runtime: &Arc<Runtime>, said: &LocalRoute, folder: &Path) -> Result<Task, String> {
        let classifier = Classifier::load(folder).map_err(|error| format!("classifier: {error}"))?;
        let hashed = |classifier: &Classifier| {
            let head = classifier.hashed.clone().ok_or("classifier: it has no hashed head")?;
            Ok::<_, String>(Arc::new(head))
        };
        if runtime.model.is_none() {
            return Ok(Task::Classify(hashed(&classifier)?));
        }
        let encoder = classifier.encoder.clone().ok_or("classifier: it has no head for an encoder's vectors")?;
        runtime.check_reads(&encoder)?;
        if !said.cascade {
            return Ok(Task::Classify(Arc::new(encoder)));
        }
        let cascade = classifier.cascade(said.threshold).ok_or("classifier: it was not fitted as a cascade")?;
        let cascade = Arc::new(cascade.map_err(|error| error.to_string())?);
        let first = Arc::clone(self.here.get(HASHED).ok_or("the hashed runtime is not there")?);
        Ok(Task::Cascade { first, hashed: hashed(&classifier)?, cascade })
    }
}

/// The runtimes that routes need. What is the same as before goes on as it is.
fn loaded(
    before: Option<&Runtimes>,
    routes: &BTreeMap<String, LocalRoute>,
    runtimes: &BTreeMap<String, config::Runtime>,
    clock: &Clock,
) -> Result<BTreeMap<String, Arc<Runtime>>, RuntimesError> {
    let mut all = BTreeMap::new();
    for (name, settings) in runtimes {
        // Threads for what nobody asks would only take memory. A cascade begins at the hashed one.
        let is_used = routes.values().any(|route| *route.runtime == **name || (route.cascade && name == HASHED));
        if !is_used {
            continue;
        }
        let same = before
            .and_then(|before| before.here.get(name))
            .filter(|runtime| runtime.settings == *settings && runtime.is_still_there());
        let runtime = match same {
            Some(same) => Arc::clone(same),
            None => Arc::new(Runtime::load(settings, clock)?),
        };
        all.insert(name.clone(), runtime);
    }
    Ok(all)
}

/// The templates of all routes that are for one.
fn templates(routes: &BTreeMap<String, LocalRoute>) -> Result<BTreeMap<String, Used>, RuntimesError> {
    let mut all = BTreeMap::new();
    for (name, route) in routes {
        if let Some(folder) = &route.template {
            let used = template(folder).map_err(|why| RuntimesError::Route { route: name.clone(), why })?;
            all.insert(name.clone(), used);
        }
    }
    Ok(all)
}

/// A template, and the policy that comes with it.
fn template(folder: &Path) -> Result<Used, String> {
    let template = Template::load(folder).map_err(|error| format!("template: {error}"))?;
    let law = template.policy().map(|folder| laws::in_folder(&folder).map(Arc::new)).transpose();
    let law = law.map_err(|why| format!("template: its policy {why}"))?;
    Ok((Arc::new(template), law))
}

fn does(runtime: &Runtime, task: &Task) -> Does {
    match task {
        Task::Embed => Does::Embed { dims: runtime.dims() },
        Task::Classify(head) | Task::Cascade { hashed: head, .. } => Does::Classify { labels: head.labels().into() },
    }
}

/// A digest of all that makes an answer besides the text.
fn identity_of(runtime: &Runtime, task: &Task) -> String {
    let model = runtime.model.as_deref().map_or(HASHED_MODEL, identity);
    let (heads, joint) = match task {
        Task::Embed => (vec![], String::new()),
        Task::Classify(head) => (vec![head.to_bytes()], String::new()),
        Task::Cascade { cascade, .. } => (
            vec![cascade.hashed().to_bytes(), cascade.encoder().to_bytes()],
            format!("{:?} {}", cascade.mix(), cascade.threshold()),
        ),
    };
    let parts = [model.as_bytes(), joint.as_bytes()];
    let parts: Vec<&[u8]> = parts.into_iter().chain(heads.iter().map(Vec::as_slice)).collect();
    // Each with its length before it, so that no two lists are the same bytes.
    let lengths: Vec<u8> = parts.iter().flat_map(|part| (part.len() as u64).to_le_bytes()).collect();
    hex(&sha256(&[&[lengths.as_slice()], parts.as_slice()].concat()))
}

// === impl Local ===

impl Local {
    /// No more tokens than this are read of it, where that can be told.
    pub fn tokens_of(&self, texts: &[String]) -> Option<u64> {
        match &self.by {
            By::Here { runtime, .. } => runtime.tokens_of(texts),
            By::Workers(_) => None,
        }
    }
}

// === impl Handed ===

impl Handed {
    fn load(config: &Config, before: Option<&Runtimes>, clock: &Clock) -> Result<Option<Self>, RuntimesError> {
        let wanted: Vec<&str> = config.routing.local_routes.keys().map(String::as_str).collect();
        let Some(workers) = config.workers.as_ref().filter(|_| !wanted.is_empty()) else { return Ok(None) };
        let same = before.and_then(|before| before.handed.as_ref()).filter(|handed| handed.workers.is_as(workers));
        // Who reloads has others waiting.
        let patience = if before.is_some() { RELOAD_PATIENCE } else { workers.patience };
        let fleet = match same {
            Some(same) => same.fleet.wait_for(&wanted, patience).map(|()| Arc::clone(&same.fleet)),
            None => Fleet::start(workers, &wanted, patience, clock.clone()),
        };
        Ok(Some(Self {
            fleet: fleet.map_err(RuntimesError::Workers)?,
            workers: workers.clone(),
            routing: config.routing.clone(),
            settings: config.runtimes.clone(),
        }))
    }

    fn local(
        &self,
        name: &str,
        said: &LocalRoute,
        settings: &config::Runtime,
        goal: Duration,
    ) -> Result<Local, String> {
        let Facts { model, dims, labels, texts_max, text_bytes_max, identity, .. } =
            self.fleet.facts(name).ok_or("no worker serves it")?;
        let does = match dims {
            Some(dims) => Does::Embed { dims },
            None => Does::Classify { labels: labels.into() },
        };
        if matches!(does, Does::Embed { .. }) == said.classifier.is_some() {
            return Err("its workers do something else: do they read the same configuration?".to_owned());
        }
        let away = Away {
            fleet: Arc::clone(&self.fleet),
            identity: identity.clone(),
            batch_tokens_max: settings.layout.batch_tokens_max,
            bulk_goal: settings.bulk_goal,
        };
        let (model_name, by) = (model.into(), By::Workers(away));
        Ok(Local { does, model_name, goal, texts_max, text_bytes_max, identity, template: None, by })
    }
}

// === impl Runtime ===

impl Runtime {
    fn load(settings: &config::Runtime, clock: &Clock) -> Result<Self, RuntimesError> {
        let name = &settings.name;
        let wrong = |why: String| RuntimesError::Runtime { name: name.to_string(), why };
        let model = match (&settings.model, settings.kind) {
            (Some(folder), RuntimeKind::Encoder) if folder.exists() || settings.required => {
                let loaded = Model::load(folder).map_err(|error| wrong(format!("{}: {error}", folder.display())));
                Some(loaded?)
            }
            _ => None,
        };
        let model_name: Arc<str> = model.as_ref().map_or(HASHED_MODEL, |model| &model.manifest().name).into();
        if settings.kind == RuntimeKind::Encoder && model.is_none() {
            let folder = settings.model.as_deref().unwrap_or_else(|| "".as_ref()).display();
            tracing::warn!(
                runtime = %name, %folder,
                "there is no model: hashed n-grams answer instead, which know words and not meanings. `scripts/model` fetches one"
            );
        }
        let warming = WARMING.iter().map(|text| item(model.as_deref(), text)).collect::<Result<Vec<_>, _>>();
        let warming = warming.map_err(wrong)?;
        let pool = Pool::start(settings.layout.clone(), clock.clone(), maker(model.clone()), warming);
        let pool = pool.map_err(|error| wrong(error.to_string()))?;
        let warmth = pool.warmth;
        tracing::info!(
            runtime = %name, model = %model_name, instances = settings.layout.instances,
            ready_ms = millis(warmth.ready), first_ms = millis(warmth.first), warm_ms = millis(warmth.warm),
            "a runtime is warm"
        );
        Ok(Self { settings: settings.clone(), model_name, model, pool })
    }

    /// Whether its model is the one that is in its folder now, or there is still none.
    fn is_still_there(&self) -> bool {
        let Some(folder) = &self.settings.model else { return true };
        let there = std::fs::read(folder.join(MANIFEST_FILE)).ok().and_then(|bytes| Manifest::parse(&bytes).ok());
        match (&self.model, there) {
            (Some(model), Some(there)) => *model.manifest() == there,
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether the head was trained on what this model makes.
    fn check_reads(&self, head: &Head) -> Result<(), String> {
        let Some(model) = &self.model else { return Ok(()) };
        let digest = identity(model);
        match &head.about().kind {
            Kind::Encoder { digest: of, .. } if of == digest => Ok(()),
            Kind::Encoder { digest: of, .. } => Err(format!(
                "classifier: its head was trained on the vectors of the model {}, and {} is {}: train it again",
                short(of),
                self.model_name,
                short(digest)
            )),
            Kind::Hashed { .. } => Err("classifier: its second head reads texts".to_owned()),
        }
    }
}

/// By what a head knows the model whose vectors it reads.
pub fn identity(model: &Model) -> &str {
    &model.manifest().files.onnx
}

impl Runtime {
    fn dims(&self) -> usize {
        self.model.as_ref().map_or(tollgate_runtime::head::ngrams::EMBED_DIMS, |model| model.dims())
    }

    fn text_bytes_max(&self) -> usize {
        match self.model {
            Some(_) => tollgate_runtime::encoder::TEXT_BYTES_MAX,
            None => tollgate_runtime::head::ngrams::TEXT_BYTES_MAX,
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("settings", &self.settings)
            .field("model", &self.model_name)
            .finish_non_exhaustive()
    }
}

fn maker(model: Option<Arc<Model>>) -> Maker {
    match model {
        None => Box::new(|| Box::new(HashedEngine) as Box<dyn Engine>),
        Some(model) => Box::new(move || Box::new(EncoderEngine::new(Arc::clone(&model)))),
    }
}

fn item(model: Option<&Model>, text: &str) -> Result<Item, String> {
    match model {
        None => Ok(item_of_text(text, None)),
        Some(model) => {
            let tokens = model.tokenize(text).map_err(|error| error.to_string())?;
            Ok(Item::of_tokens(tokens.truncated(model.max_tokens())))
        }
    }
}

/// A text for the hashed runtime, and the head that is to read it.
pub fn item_of_text(text: &str, head: Option<Arc<Head>>) -> Item {
    Item { tokens: words(text), work: Work::Text { text: text.to_owned(), head } }
}

/// What stands for tokens where there is no tokenizer: bytes, by four.
pub fn words(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX).max(1)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
