//! The program's state: what every request can reach.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use tollgate_admission::Admission;
use tollgate_admission::price::{PriceBook, PriceBooks, SHIPPED};
use tollgate_audit::note::Verifier;
use tollgate_guard::Guard;
use tollgate_ledger::Books;
use tollgate_policy::signature::VerifyingKey;
use tollgate_store::journal::{self, Journal, JournalWriter};
use tollgate_store::projector::Projector;
use tollgate_store::store::Layout;
use tollgate_store::vault::MasterKey;
use tollgate_store::view::{Reader, ViewError};
use tollgate_store::{Answers, Store, StoreError, StoreOptions, Vault};
use tollgate_types::directory::{Change, Plan};
use tollgate_types::{Clock, Refusal, RequestId, Timestamp};

use crate::access::Access;
use crate::admin::audit::Reads;
use crate::alerts::Alerts;
use crate::audit::Denials;
use crate::coalesce::Coalescer;
use crate::config::{self, Config, Route, Routing};
use crate::decisions::Decisions;
use crate::laws;
use crate::local::LocalWork;
use crate::local::cache::RunCache;
use crate::metrics::Metrics;
use crate::runtimes::{Runtimes, RuntimesError};
use crate::twins::Twins;

/// Shared by all workers.
#[derive(Debug)]
pub struct App {
    pub books: Arc<Books<JournalWriter>>,
    pub journal: Journal,
    pub vault: Arc<Vault>,
    pub projector: Projector,
    pub answers: Answers,
    pub twins: Arc<Twins>,
    /// Requests that models here work on.
    pub local_work: LocalWork,
    /// What templates have answered.
    pub run_cache: RunCache,
    /// Requests that wait to be sent together.
    pub coalescer: Coalescer,
    pub coalesced_work: LocalWork,
    pub admission: Admission,
    /// Who may do what with whose.
    pub guard: Guard,
    pub metrics: Metrics,
    pub alerts: Alerts,
    pub server: config::Listening,
    pub admin_key: tollgate_serving::Secret,
    pub request_ids: RequestIds,
    /// Who signs receipts, by name.
    pub issuer: Arc<str>,
    /// Whose bundles are taken; without one anybody's that the admin key sends.
    pub policy_key: Option<VerifyingKey>,
    pub decisions: Decisions,
    /// How people and machines get into the control plane.
    pub access: Access,
    pub denials: Denials,
    pub audit_reads: Reads,
    /// What verifies the audit log's checkpoints.
    pub audit_key: Verifier,
    /// The store's folder.
    pub dir: PathBuf,
    routing: ArcSwap<Routing>,
    /// The models that run here.
    runtimes: ArcSwap<Runtimes>,
    draining: AtomicBool,
    /// Up to which change of what the workers serve the routing is made.
    workers_seen: AtomicU64,
    /// When the ledger was last added up for the metrics, in microseconds since 1970.
    ledger_measured_at: AtomicI64,
}

/// Adding up the ledger takes its lock: however often the metrics are asked for, it is done no more often than this.
const LEDGER_MEASURED_EVERY: Duration = Duration::from_secs(1);

/// Makes ids that no two requests share, on any node, and that tell nobody how many there were between two of them.
#[derive(Debug)]
pub struct RequestIds {
    random: SystemRandom,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the price book {path}: {problem}")]
    Prices { path: String, problem: String },
    #[error(transparent)]
    Runtimes(#[from] RuntimesError),
    #[error("the policy bundle {0}")]
    Policy(String),
    #[error("the first plan cannot be made: {0}")]
    FirstPlan(String),
    #[error("the system gives no randomness")]
    NoRandomness,
}

// === impl App ===

impl App {
    /// Opens the store and everything over it. The store is given back to be closed after the last request.
    pub fn start(config: &Config, clock: Clock) -> Result<(Arc<Self>, Store), StartError> {
        let master_key = MasterKey::from_hex(config.master_key.expose()).map_err(StoreError::from)?;
        let options = StoreOptions {
            dir: config.store.dir.clone(),
            journal: journal::Options { segment_bytes: config.store.segment_bytes, gather: config.store.gather },
            clock: clock.clone(),
            audit: tollgate_store::audit::Options {
                issuer: Arc::clone(&config.issuer),
                ..tollgate_store::audit::Options::default()
            },
        };
        let store = Store::open(&options, Box::new(master_key))?;
        if store.recovered > 0 {
            tracing::warn!(
                reservations = store.recovered,
                "left pending by the last process: indeterminate, and still held"
            );
        }
        make_first_plan(&store)?;
        let prices = load_prices(&config.price_books, &store.layout())?;
        let admission = store.books.with_directory(|directory| {
            // Without one of them requests would pass, or not, that should not: then none is served.
            let laws = laws::all(directory, &store.dir).map_err(StartError::Policy)?;
            Ok::<_, StartError>(Admission::new(directory, laws, prices, store.vault.api_key_hasher(), clock))
        })?;
        let (runtimes, routing) = Runtimes::load(config, None, store.books.clock())?;
        let app = Self {
            books: Arc::clone(&store.books),
            journal: store.journal.clone(),
            vault: Arc::clone(&store.vault),
            projector: store.projector.clone(),
            answers: store.answers.clone(),
            twins: Arc::default(),
            local_work: LocalWork::default(),
            run_cache: RunCache::default(),
            coalescer: Coalescer::default(),
            coalesced_work: LocalWork::default(),
            admission,
            guard: Guard::shipped(),
            metrics: Metrics::new(config.server.metric_tenants_max),
            alerts: Alerts::default(),
            server: config.server.clone(),
            admin_key: config.admin_key.clone(),
            request_ids: RequestIds::new()?,
            issuer: Arc::clone(&config.issuer),
            policy_key: config.policy_key.clone(),
            decisions: Decisions::default(),
            access: Access::new(config.access.as_ref()),
            denials: Denials::default(),
            audit_reads: Reads::default(),
            audit_key: store.audit_key.clone(),
            dir: store.dir.clone(),
            routing: ArcSwap::from_pointee(routing),
            runtimes: ArcSwap::from_pointee(runtimes),
            draining: AtomicBool::new(false),
            workers_seen: AtomicU64::new(0),
            ledger_measured_at: AtomicI64::new(0),
        };
        Ok((Arc::new(app), store))
    }

    pub fn clock(&self) -> &Clock {
        self.books.clock()
    }

    pub fn routing(&self) -> Arc<Routing> {
        self.routing.load_full()
    }

    /// The route of that name. Every tenant may use every route, until policy says otherwise.
    pub fn route(&self, name: &str) -> Result<Arc<Route>, Refusal> {
        let shown = || name.chars().take(100).collect();
        self.routing.load().routes.get(name).cloned().ok_or_else(|| Refusal::ModelNotFound { model: shown() })
    }

    /// Takes over what a reload may change. Requests under way keep what they began with.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        let prices = load_prices(&config.price_books, &Layout::of(&self.dir))?;
        let (runtimes, routing) = Runtimes::load(config, Some(&*self.runtimes.load_full()), self.clock())?;
        self.admission.publish_prices(prices);
        // What is not used any more ends when the last request that it answers has ended.
        self.routing.store(Arc::new(routing));
        self.runtimes.store(Arc::new(runtimes));
        self.metrics.forget_runtimes();
        Ok(())
    }

    /// Takes over what the workers serve by now.
    pub fn follow_workers(&self) {
        if let Some(routing) = self.runtimes.load().followed(&self.workers_seen, &self.routing.load()) {
            self.routing.store(Arc::new(routing));
        }
    }

    /// Publishes the directory to admission. For after a change of it is durable; a revocation may be published before.
    pub fn publish_directory(&self) {
        self.books.with_directory(|directory| self.admission.publish(directory));
    }

    /// Asks the view once it holds what is durable now, or, after `patience`, with what it has. Blocks: it is to be
    /// asked on a thread that may.
    pub fn ask_view<T>(
        &self,
        patience: Duration,
        question: impl FnOnce(&Reader) -> Result<T, ViewError>,
    ) -> Result<T, ViewError> {
        if !self.projector.catch_up(self.journal.durable_sequence(), patience) {
            tracing::warn!(trouble = ?self.projector.trouble(), "the view lags; answering with what it has");
        }
        self.ask_view_as_it_is(question)
    }

    /// Asks the view with what it has. Blocks, too.
    pub fn ask_view_as_it_is<T>(&self, question: impl FnOnce(&Reader) -> Result<T, ViewError>) -> Result<T, ViewError> {
        question(&Reader::open(&Layout::of(&self.dir).view)?)
    }

    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Why no new work is taken on, if it is not.
    pub fn not_ready(&self) -> Option<String> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining".to_owned());
        }
        self.books.takes_work().err().map(|error| error.to_string())
    }

    pub fn render_metrics(&self) -> String {
        let now = self.clock().now();
        let last = self.ledger_measured_at.swap(now.0, Ordering::AcqRel);
        if now.since(Timestamp(last)) >= LEDGER_MEASURED_EVERY {
            self.metrics.budgets(&self.books.budgets(|scope| scope.kind() == "tenant"));
            self.metrics.ledger(&self.books.audit());
            self.metrics.broken_glasses(self.access.sessions.broken_glasses(now));
        } else {
            self.ledger_measured_at.store(last, Ordering::Release);
        }
        for provider in self.routing.load().providers.values() {
            if let Some(bearing) = &provider.bearing {
                self.metrics.bearing(&provider.name, bearing.limit());
            }
        }
        self.runtimes.load().note(&self.metrics);
        self.metrics.render()
    }
}

/// A new store gets the plan that tenants have who were given none.
fn make_first_plan(store: &Store) -> Result<(), StartError> {
    if store.books.with_directory(|directory| !directory.plans.is_empty()) {
        return Ok(());
    }
    let wrong = |error: &dyn ToString| StartError::FirstPlan(error.to_string());
    let position = store.books.change(Change::PlanSet(Plan::standard())).map_err(|error| wrong(&error))?;
    store.journal.wait_durable(position).map_err(|error| wrong(&error))
}

/// The shipped book, then the configured ones, then those that were pushed, oldest first; the later ones win.
fn load_prices(books: &[PathBuf], layout: &Layout) -> Result<PriceBooks, StartError> {
    let parse = |path: String, text: &str| {
        PriceBook::parse(text).map(Arc::new).map_err(|error| StartError::Prices { path, problem: error.to_string() })
    };
    let mut all = vec![parse("that is shipped".to_owned(), SHIPPED)?];
    let unreadable = |path: &PathBuf, error: std::io::Error| StartError::Prices {
        path: path.display().to_string(),
        problem: error.to_string(),
    };
    for path in books.iter().chain(&pushed_books(layout)) {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        all.push(parse(path.display().to_string(), &text)?);
    }
    PriceBooks::new(all)
        .map_err(|error| StartError::Prices { path: "of this version".to_owned(), problem: error.to_string() })
}

/// Books that were pushed to this store; their names begin with the order they were pushed in.
fn pushed_books(layout: &Layout) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&layout.prices).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    paths.sort();
    paths
}

// === impl RequestIds ===

/// Random bytes for this many ids are asked for at once.
const IDS_AT_ONCE: usize = 64;
const ID_RANDOM_BYTES: usize = 10;

impl RequestIds {
    fn new() -> Result<Self, StartError> {
        let random = SystemRandom::new();
        random.fill(&mut [0; ID_RANDOM_BYTES]).map_err(|_| StartError::NoRandomness)?;
        Ok(Self { random })
    }

    pub fn next(&self, now: Timestamp) -> RequestId {
        thread_local! {
            static STOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        STOCK.with_borrow_mut(|stock| {
            if stock.len() < ID_RANDOM_BYTES {
                stock.resize(IDS_AT_ONCE * ID_RANDOM_BYTES, 0);
                self.random.fill(stock).expect("a system that gave randomness at the start goes on giving it");
            }
            let taken = stock.split_off(stock.len() - ID_RANDOM_BYTES);
            let random = taken.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
            RequestId::new(now, random)
        })
    }
}
