//! Configuration: said, then meant. [`RawConfig`] mirrors the file, with a doc comment and a default for each field (from
//! which `docs/configuration.md` is made); [`Config`] is what the program holds, checked.
//!
//! `TOLLGATE_SECTION__FIELD` overrides a field of the file. Secrets are references: `env:NAME` or `file:PATH`.

mod access;
mod reference;
mod runtimes;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_admission::Target;
use tollgate_policy::signature::VerifyingKey;
use tollgate_serving::preset;
use tollgate_serving::provider::Bearing;
use tollgate_serving::{Provider, Secret, Timeouts, concurrency};
use tollgate_types::Clock;

use crate::runtimes::Local;

pub use access::{Access, Oidc, RawAccess, RawAccessRole, RawOidc, is_safe_address};
pub use reference::markdown;
pub use runtimes::{HASHED, LOCAL, LocalRoute, RawRuntime, Runtime, RuntimeKind};
pub use workers::{RawWorkers, Role, WorkerConfig, Workers};

/// What the file says.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub server: RawServer,
    pub store: RawStore,
    pub secrets: RawSecrets,
    pub prices: RawPrices,
    pub receipts: RawReceipts,
    pub policy: RawPolicy,
    pub access: Option<RawAccess>,
    pub log: RawLog,
    /// The providers, by a name of your choice: `[providers.openai]`.
    pub providers: BTreeMap<String, RawProvider>,
    /// The models that run here, by a name of your choice: `[runtimes.minilm]`.
    pub runtimes: BTreeMap<String, RawRuntime>,
    pub workers: Option<RawWorkers>,
    /// The models that callers may ask for, by the name they use: `[routes."gpt-4o-mini"]`.
    pub routes: BTreeMap<String, RawRoute>,
}

/// Where and how requests are taken.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawServer {
    /// Address and port to listen on.
    pub listen: String,
    /// Threads that serve requests; 0 means one for each available core.
    pub workers: usize,
    /// Largest request body, in bytes. A larger one is refused with `invalid_request`.
    pub body_bytes_max: usize,
    /// Largest answer that is not a stream, in bytes. A provider's larger one is a `provider_error`.
    pub answer_bytes_max: usize,
    /// Open connections, per worker. Further ones wait in the system's queue.
    pub connections_max: usize,
    /// How long a connection may wait for a request and its whole head, in milliseconds: an idle client, or a very slow
    /// one, is let go.
    pub header_timeout_ms: u64,
    /// How long a client may take to send a request's body, in milliseconds.
    pub body_timeout_ms: u64,
    /// After SIGTERM: how long requests under way may take to end, in seconds.
    pub drain_seconds: u64,
    /// Tenants that have a metric label of their own; the others share `other`.
    pub metric_tenants_max: usize,
    /// TLS; without it the gateway speaks plain HTTP.
    pub tls: Option<RawTls>,
}

/// A certificate for the gateway's own address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// File with the certificate and its chain, in PEM.
    pub cert: PathBuf,
    /// The private key in PEM, as a reference: `file:PATH` or `env:NAME`.
    pub key: String,
}

/// Where money is remembered.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawStore {
    /// Folder of the journal, its view and the keys. One process at a time.
    pub dir: PathBuf,
    /// Size of a journal segment, in bytes. Two are on disk at least.
    pub segment_bytes: usize,
    /// How long a commit may wait for others to share its fsync once there is a crowd, in microseconds.
    pub gather_us: u64,
    /// A reservation whose outcome is unknown after a crash is posted at its full hold after this many hours.
    pub indeterminate_hours: u64,
}

/// The two secrets of the gateway itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSecrets {
    /// Wraps the tenants' data keys: a reference to 64 hexadecimal digits. Lose it, and what is sealed is lost.
    pub master_key: String,
    /// Bearer token of `/admin/v1`: a reference to at least 16 characters.
    pub admin_key: String,
}

/// What work costs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPrices {
    /// Price books (files) that add to, and where they overlap override, the shipped one.
    pub books: Vec<PathBuf>,
}

/// The signed proof of each request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawReceipts {
    /// Who states what is on a receipt: a name or an address that your tenants know you by.
    pub issuer: String,
}

/// Policy bundles.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicy {
    /// File with a public key (PEM, Ed25519 or P-256): only bundles that it has signed are taken.
    pub key_file: Option<PathBuf>,
}

/// What is logged, to standard error. Prompts, keys and secrets never are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// A level (`error`, `warn`, `info`, `debug`), or a filter in tracing's own syntax.
    pub filter: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// One provider: anything that speaks OpenAI's API.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawProvider {
    /// A known provider (see the table below), or `custom`.
    pub preset: String,
    /// Its address up to `/chat/completions`. The preset's, if left out.
    pub base_url: Option<String>,
    /// Its API key, as a reference. The preset's environment variable, if left out and set.
    pub api_key: Option<String>,
    /// Under which provider's name the price books know it. The preset's, if left out; `custom`: this provider's name.
    pub priced_as: Option<String>,
    /// Where it works, as policies name it, such as `eu`. One that does not say is in none of their regions.
    pub region: Option<String>,
    /// Speak HTTP/2 to a plain `http://` address. Over TLS it is negotiated.
    pub http2: bool,
    /// How long to wait for a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long to wait for the first byte of an answer, in milliseconds.
    pub first_byte_timeout_ms: u64,
    /// How long an answer may pause, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long an answer may take in all, in milliseconds.
    pub total_timeout_ms: u64,
    /// Idle connections kept, per worker.
    pub idle_connections_max: usize,
    /// Find out how many requests at a time it bears, by how long its answers take to begin and by what it turns away, and
    /// give it no more: the rest goes to the fallbacks, or is refused as `overloaded`. For where it answers about equally fast
    /// whatever is asked: streams, embeddings.
    pub adaptive_concurrency: bool,
    /// With it: never fewer requests at a time than this.
    pub concurrency_min: u32,
    /// With it: never more.
    pub concurrency_max: u32,
    /// File with certificates, in PEM, to trust besides the public authorities.
    pub ca_file: Option<PathBuf>,
}

/// One model that callers may ask for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRoute {
    /// Which of the providers serves it; either this or `runtime`.
    #[serde(default)]
    pub provider: Option<String>,
    /// Which of the runtimes serves it, here.
    #[serde(default)]
    pub runtime: Option<String>,
    /// With a runtime: the folder of heads that `tollgate template train` wrote. The route classifies then; without one it
    /// makes embeddings.
    #[serde(default)]
    pub classifier: Option<PathBuf>,
    /// With a classifier: the folder of a use case. The route is asked with `POST /v1/runs` then: an input as its schema wants
    /// it, judged by its policy besides the tenant's.
    #[serde(default)]
    pub template: Option<PathBuf>,
    /// With a classifier: the hashed head answers where it is sure enough, and the runtime is asked only about the rest.
    #[serde(default)]
    pub cascade: bool,
    /// How sure the hashed head of a cascade must be, from 0 to 1; as it was fitted, if left out.
    #[serde(default)]
    pub threshold: Option<f32>,
    /// With a runtime: within this time a request should be answered, in milliseconds; the runtime's own, if left out.
    #[serde(default)]
    pub goal_ms: Option<u64>,
    /// The model's name at that provider. The route's own name, if left out.
    #[serde(default)]
    pub model: Option<String>,
    /// Bound on output tokens that is sent when the caller sends none, and held for.
    #[serde(default = "max_tokens_default")]
    pub max_tokens_default: u64,
    /// How often one that certainly did no work (not reached, or 429 or 5xx of its own) is asked again before the next is,
    /// from 0 to 3. A provider that wants to be left alone for more than 2 seconds is not asked again.
    #[serde(default)]
    pub retries: u32,
    /// Small requests of one tenant for embeddings (at most 16 texts and 8 KiB, alike in all but their texts) that come while two
    /// calls are under way are sent together, each charged its own share. The provider is told the ids of all in `x-request-id`.
    #[serde(default)]
    pub coalesce: bool,
    /// Who is asked next, in this order, when one certainly did no work: `[{ provider = "...", model = "..." }]`, at most 4;
    /// `model` may be left out as above. All of it within the first provider's `total_timeout_ms` and one reservation,
    /// which grows first where the next one is dearer; one that has no price in force, or that the budget does not afford,
    /// is passed over. Embeddings of another model are not comparable: name the same model, elsewhere.
    #[serde(default)]
    pub fallbacks: Vec<RawFallback>,
}

/// Who answers instead.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawFallback {
    /// Which of the providers.
    pub provider: String,
    /// The model's name there. The route's own name, if left out.
    #[serde(default)]
    pub model: Option<String>,
}

fn max_tokens_default() -> u64 {
    4096
}

/// What the program holds.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Listening,
    pub store: Store,
    pub master_key: Secret,
    pub admin_key: Secret,
    pub price_books: Vec<PathBuf>,
    /// Whose policy bundles are taken; without one anybody's that the admin key sends.
    pub policy_key: Option<VerifyingKey>,
    /// Who signs receipts, by name.
    pub issuer: Arc<str>,
    /// How people sign in; without it nobody can.
    pub access: Option<Access>,
    pub log: RawLog,
    pub routing: Routing,
    pub runtimes: BTreeMap<String, Runtime>,
    pub workers: Option<Workers>,
    /// What of it all this process does.
    pub role: Role,
}

#[derive(Clone, Debug)]
pub struct Listening {
    pub listen: SocketAddr,
    pub workers: usize,
    pub body_bytes_max: usize,
    pub answer_bytes_max: usize,
    pub connections_max: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub drain: Duration,
    pub metric_tenants_max: usize,
    pub tls: Option<Tls>,
}

#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: Vec<CertificateDer<'static>>,
    pub key: Secret,
}

#[derive(Clone, Debug)]
pub struct Store {
    pub dir: PathBuf,
    pub segment_bytes: usize,
    pub gather: Duration,
    pub indeterminate_age: Duration,
}

/// Providers and routes: what a reload may change while requests are under way.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    pub providers: BTreeMap<String, Arc<Provider>>,
    /// Those of runtimes join when they are loaded.
    pub routes: BTreeMap<String, Arc<Route>>,
    pub local_routes: BTreeMap<String, LocalRoute>,
}

impl Routing {
    /// Under which name a provider's prices stand. One that is configured no more is most likely priced by its own.
    pub fn priced_as<'a>(&'a self, provider: &'a Arc<str>) -> &'a Arc<str> {
        self.providers.get(&**provider).map_or(provider, |known| &known.priced_as)
    }
}

/// A name that callers may ask for, who answers, and who does if that one certainly did no work. Each of those is a route
/// of the same name, without fallbacks of its own.
#[derive(Clone, Debug)]
pub struct Route {
    pub target: Arc<Target>,
    pub server: Server,
    /// Of each of them.
    pub retries: u32,
    pub fallbacks: Vec<Arc<Route>>,
    /// Whether small requests for embeddings are sent together.
    pub coalesce: bool,
}

/// Who answers a route.
#[derive(Clone, Debug)]
pub enum Server {
    Provider(Arc<Provider>),
    Local(Arc<Local>),
}

impl Route {
    /// Of a route that a provider answers, as all are that get to where this is asked.
    pub fn provider(&self) -> &Arc<Provider> {
        match &self.server {
            Server::Provider(provider) => provider,
            Server::Local(_) => unreachable!("the pipeline keeps what runs here apart"),
        }
    }
}

/// Everything that is wrong with a configuration, each with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  - {}", .0.join("\n  - "))]
pub struct ConfigError(pub Vec<String>);

/// Fallbacks of one route, and retries of each of its candidates.
const FALLBACKS_MAX: usize = 4;
const RETRIES_MAX: u32 = 3;
/// Longest name of who signs receipts.
const ISSUER_CHARS_MAX: usize = 200;
/// Admin keys shorter than this, and these, are no secrets.
const ADMIN_KEY_CHARS_MIN: usize = 16;
const PUBLISHED_KEYS: [&str; 6] = ["changeme", "admin", "password", "secret", "tollgate", "demo"];

// === impl defaults ===

impl Default for RawServer {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            workers: 0,
            body_bytes_max: 16 * 1024 * 1024,
            answer_bytes_max: 64 * 1024 * 1024,
            connections_max: 16_384,
            header_timeout_ms: 75_000,
            body_timeout_ms: 60_000,
            drain_seconds: 30,
            metric_tenants_max: 200,
            tls: None,
        }
    }
}

impl Default for RawStore {
    fn default() -> Self {
        Self {
            dir: PathBuf::from(".tollgate/data"),
            segment_bytes: 32 * 1024 * 1024,
            gather_us: 300,
            indeterminate_hours: 24,
        }
    }
}

impl Default for RawSecrets {
    fn default() -> Self {
        Self { master_key: "env:TOLLGATE_MASTER_KEY".to_owned(), admin_key: "env:TOLLGATE_ADMIN_KEY".to_owned() }
    }
}

impl Default for RawReceipts {
    fn default() -> Self {
        Self { issuer: "tollgate".to_owned() }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

impl Default for RawProvider {
    fn default() -> Self {
        Self {
            preset: "custom".to_owned(),
            base_url: None,
            api_key: None,
            priced_as: None,
            region: None,
            http2: false,
            connect_timeout_ms: 3_000,
            first_byte_timeout_ms: 120_000,
            idle_timeout_ms: 60_000,
            total_timeout_ms: 600_000,
            idle_connections_max: 256,
            adaptive_concurrency: false,
            concurrency_min: 8,
            concurrency_max: 1_024,
            ca_file: None,
        }
    }
}

// === impl RawConfig ===

impl RawConfig {
    /// What the file says, and the environment over it.
    fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(vec![format!("{}: {error}; name another file with --config", path.display())])
        })?;
        Self::parse(&text, path, environment)
    }

    fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let wrong = |error: &dyn ToString| ConfigError(vec![format!("{}: {}", path.display(), error.to_string())]);
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(&error))?;
        environment.override_fields(&mut table);
        Self::deserialize(table).map_err(|error| wrong(&error))
    }
}

// === impl Config ===

impl Config {
    /// Reads the file, lays the environment over it, and checks the whole.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        Self::check(&RawConfig::load(path, environment)?, environment)
    }

    /// Checks a configuration's text. `path` is for messages only.
    pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        Self::check(&RawConfig::parse(text, path, environment)?, environment)
    }

    fn check(raw: &RawConfig, environment: &Environment) -> Result<Self, ConfigError> {
        let mut check = Check { environment, problems: Vec::new() };
        let server = check.server(&raw.server);
        let store = check.store(&raw.store);
        let master_key = check.secret("secrets.master_key", &raw.secrets.master_key);
        let admin_key = check.secret("secrets.admin_key", &raw.secrets.admin_key);
        check.not_published(&admin_key, server.listen);
        let issuer = check.issuer(&raw.receipts);
        let policy_key = check.policy_key(&raw.policy);
        let access = raw.access.as_ref().map(|access| check.access(access));
        let runtimes = check.runtimes(raw);
        let routing = check.routing(raw, &runtimes);
        let workers = check.workers(raw);
        if !check.problems.is_empty() {
            return Err(ConfigError(check.problems));
        }
        let (price_books, log) = (raw.prices.books.clone(), raw.log.clone());
        Ok(Self {
            server,
            store,
            master_key,
            admin_key,
            price_books,
            issuer,
            policy_key,
            access,
            log,
            routing,
            runtimes,
            workers,
            role: Role::All,
        })
    }
}

/// The variables that configuration may refer to: the process's own, or a test's.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

// === impl Environment ===

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "this is the room that reads the environment")]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `TOLLGATE_SERVER__LISTEN=...` sets `server.listen`. A value that reads as TOML is that; any other is a string.
    fn override_fields(&self, table: &mut toml::Table) {
        for (name, value) in &self.0 {
            let Some(path) = name.strip_prefix("TOLLGATE_").filter(|path| path.contains("__")) else { continue };
            let path: Vec<_> = path.split("__").map(str::to_lowercase).collect();
            let read: Option<toml::Table> = format!("value = {value}").parse().ok();
            let value = read.and_then(|mut t| t.remove("value")).unwrap_or_else(|| toml::Value::String(value.clone()));
            set(table, &path, value);
        }
    }
}

fn set(table: &mut toml::Table, path: &[String], value: toml::Value) {
    match path {
        [] => {}
        [field] => drop(table.insert(field.clone(), value)),
        [section, rest @ ..] => {
            let inner = table.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

/// Collects what is wrong, so that one start tells it all.
struct Check<'a> {
    environment: &'a Environment,
    problems: Vec<String>,
}

// === impl Check ===

impl Check<'_> {
    fn server(&mut self, raw: &RawServer) -> Listening {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = raw.listen.parse().unwrap_or_else(|_| {
            self.problem(format!(
                "server.listen: {:?} is not an address and port such as \"127.0.0.1:8080\"",
                raw.listen
            ));
            any
        });
        self.at_least("server.body_bytes_max", raw.body_bytes_max, 1024);
        self.at_least("server.answer_bytes_max", raw.answer_bytes_max, 1024);
        self.at_least("server.connections_max", raw.connections_max, 1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Listening {
            listen,
            workers: if raw.workers == 0 { cores } else { raw.workers.min(256) },
            body_bytes_max: raw.body_bytes_max,
            answer_bytes_max: raw.answer_bytes_max,
            connections_max: raw.connections_max,
            header_timeout: Duration::from_millis(raw.header_timeout_ms),
            body_timeout: Duration::from_millis(raw.body_timeout_ms),
            drain: Duration::from_secs(raw.drain_seconds),
            metric_tenants_max: raw.metric_tenants_max,
            tls: raw.tls.as_ref().map(|tls| self.tls(tls)),
        }
    }

    fn tls(&mut self, raw: &RawTls) -> Tls {
        let cert = self.certificates("server.tls.cert", &raw.cert);
        Tls { cert, key: self.secret("server.tls.key", &raw.key) }
    }

    fn certificates(&mut self, field: &str, path: &Path) -> Vec<CertificateDer<'static>> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(certificates) if !certificates.is_empty() => certificates,
            Ok(_) => {
                self.problem(format!("{field}: {} holds no certificate", path.display()));
                Vec::new()
            }
            Err(error) => {
                self.problem(format!("{field}: {}: {error}", path.display()));
                Vec::new()
            }
        }
    }

    fn store(&mut self, raw: &RawStore) -> Store {
        self.at_least("store.segment_bytes", raw.segment_bytes, tollgate_store::journal::SEGMENT_BYTES_MIN);
        Store {
            dir: raw.dir.clone(),
            segment_bytes: raw.segment_bytes,
            gather: Duration::from_micros(raw.gather_us.min(100_000)),
            indeterminate_age: Duration::from_secs(raw.indeterminate_hours.saturating_mul(3600)),
        }
    }

    fn policy_key(&mut self, raw: &RawPolicy) -> Option<VerifyingKey> {
        let path = raw.key_file.as_ref()?;
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let key = read.and_then(|text| VerifyingKey::from_pem(&text).map_err(|error| error.to_string()));
        key.map_err(|why| self.problem(format!("policy.key_file: {}: {why}", path.display()))).ok()
    }

    fn issuer(&mut self, raw: &RawReceipts) -> Arc<str> {
        let length = raw.issuer.chars().count();
        if !(1..=ISSUER_CHARS_MAX).contains(&length) || raw.issuer.chars().any(char::is_control) {
            self.problem(format!("receipts.issuer: give a name of 1 to {ISSUER_CHARS_MAX} characters, on one line"));
        }
        raw.issuer.as_str().into()
    }

    fn routing(&mut self, raw: &RawConfig, runtimes: &BTreeMap<String, Runtime>) -> Routing {
        let providers: BTreeMap<_, _> = raw
            .providers
            .iter()
            .filter_map(|(name, raw)| Some((name.clone(), Arc::new(self.provider(name, raw)?))))
            .collect();
        let (mut routes, mut local_routes) = (BTreeMap::new(), BTreeMap::new());
        for (name, route) in &raw.routes {
            if route.runtime.is_some() {
                local_routes.extend(self.local_route(name, route, runtimes).map(|local| (name.clone(), local)));
                continue;
            }
            self.providers_route(name, route);
            let Some(provider) = &route.provider else {
                self.problem(format!("routes.{name:?}: name its provider or its runtime"));
                continue;
            };
            if let Some(provider) = self.named_provider(raw, &providers, name, provider) {
                let mut made = self.route(name, route, &provider);
                made.fallbacks = self.fallbacks(raw, &providers, &made);
                routes.insert(name.clone(), Arc::new(made));
            }
        }
        Routing { providers, routes, local_routes }
    }

    /// A provider that a route names. One that is there but wrong has been told of already.
    fn named_provider(
        &mut self,
        raw: &RawConfig,
        providers: &BTreeMap<String, Arc<Provider>>,
        route: &str,
        name: &str,
    ) -> Option<Arc<Provider>> {
        if !raw.providers.contains_key(name) {
            self.problem(format!(
                "routes.{route:?}.provider: there is no [providers.{name}]; there are: {}",
                raw.providers.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        providers.get(name).cloned()
    }

    /// Who answers instead of `route`: each somebody else.
    fn fallbacks(
        &mut self,
        raw: &RawConfig,
        providers: &BTreeMap<String, Arc<Provider>>,
        route: &Route,
    ) -> Vec<Arc<Route>> {
        let name = &*route.target.route;
        let said = &raw.routes[name].fallbacks;
        if said.len() > FALLBACKS_MAX {
            self.problem(format!("routes.{name:?}.fallbacks: {} are too many; at most {FALLBACKS_MAX}", said.len()));
        }
        let mut made: Vec<Arc<Route>> = Vec::with_capacity(said.len());
        for RawFallback { provider, model } in said {
            let Some(provider) = self.named_provider(raw, providers, name, provider) else { continue };
            let model: Arc<str> = model.as_deref().unwrap_or(name).into();
            let same = |other: &Route| (&other.target.provider, &other.target.model) == (&provider.name, &model);
            if same(route) || made.iter().any(|other| same(other)) {
                self.problem(format!("routes.{name:?}.fallbacks: {model:?} of {:?} is named twice", provider.name));
            }
            let target = Target {
                provider: Arc::clone(&provider.name),
                priced_as: Arc::clone(&provider.priced_as),
                model,
                region: provider.region.clone(),
                total_timeout: provider.timeouts.total,
                ..Target::clone(&route.target)
            };
            let server = Server::Provider(provider);
            made.push(Arc::new(Route {
                target: Arc::new(target),
                server,
                retries: route.retries,
                fallbacks: Vec::new(),
                coalesce: false,
            }));
        }
        made
    }

    fn provider(&mut self, name: &str, raw: &RawProvider) -> Option<Provider> {
        let Some(preset) = preset::find(&raw.preset) else {
            self.problem(format!("providers.{name}.preset: {:?} is unknown; one of: {}", raw.preset, preset::names()));
            return None;
        };
        let address = raw.base_url.as_deref().or(preset.base_url);
        let base_url = match address.map(Uri::try_from) {
            Some(Ok(uri)) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => uri,
            _ => {
                self.problem(format!("providers.{name}.base_url: give an address such as \"https://host/v1\""));
                return None;
            }
        };
        let api_key = match (&raw.api_key, preset.key_env) {
            (Some(reference), _) => Some(self.secret(&format!("providers.{name}.api_key"), reference)),
            (None, Some(variable)) => self.environment.get(variable).map(|key| Secret::new(key.to_owned())),
            (None, None) => None,
        };
        let priced_as = raw.priced_as.as_deref().unwrap_or(if preset.name == "custom" { name } else { preset.name });
        let field = format!("providers.{name}.ca_file");
        Some(Provider {
            name: name.into(),
            priced_as: priced_as.into(),
            region: raw.region.as_deref().map(Arc::from),
            base_url,
            api_key,
            http2: raw.http2,
            output_limit: preset.output_limit,
            timeouts: Timeouts {
                connect: Duration::from_millis(raw.connect_timeout_ms),
                first_byte: Duration::from_millis(raw.first_byte_timeout_ms),
                idle: Duration::from_millis(raw.idle_timeout_ms),
                total: Duration::from_millis(raw.total_timeout_ms),
            },
            idle_connections_max: raw.idle_connections_max,
            bearing: raw.adaptive_concurrency.then(|| {
                let settings = concurrency::Settings {
                    limit_min: raw.concurrency_min,
                    limit_max: raw.concurrency_max,
                    ..concurrency::Settings::default()
                };
                Arc::new(Bearing::new(settings, Clock::System))
            }),
            authorities: raw.ca_file.as_deref().map(|path| self.certificates(&field, path)).unwrap_or_default(),
        })
    }

    fn route(&mut self, name: &str, raw: &RawRoute, provider: &Arc<Provider>) -> Route {
        self.at_least(&format!("routes.{name:?}.max_tokens_default"), raw.max_tokens_default, 1);
        if raw.retries > RETRIES_MAX {
            self.problem(format!("routes.{name:?}.retries: {} are too many; at most {RETRIES_MAX}", raw.retries));
        }
        let target = Target {
            route: name.into(),
            provider: Arc::clone(&provider.name),
            priced_as: Arc::clone(&provider.priced_as),
            model: raw.model.as_deref().unwrap_or(name).into(),
            region: provider.region.clone(),
            max_tokens_default: raw.max_tokens_default,
            total_timeout: provider.timeouts.total,
            work: None,
            law: None,
        };
        Route {
            target: Arc::new(target),
            server: Server::Provider(Arc::clone(provider)),
            retries: raw.retries,
            fallbacks: Vec::new(),
            coalesce: raw.coalesce,
        }
    }

    /// Resolves `env:NAME` or `file:PATH`. A secret is never in the configuration itself.
    fn secret(&mut self, field: &str, reference: &str) -> Secret {
        let found = match reference.split_once(':') {
            Some(("env", name)) => {
                self.environment.get(name).map(str::to_owned).ok_or(format!("the variable {name} is not set"))
            }
            Some(("file", path)) => std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{path}: {error}")),
            _ => Err("a secret must be a reference: \"env:NAME\" or \"file:PATH\"".to_owned()),
        };
        match found {
            Ok(text) if !text.is_empty() => return Secret::new(text),
            Ok(_) => self.problem(format!("{field}: the secret is empty")),
            Err(reason) => self.problem(format!("{field}: {reason}")),
        }
        Secret::new(String::new())
    }

    fn not_published(&mut self, admin_key: &Secret, listen: SocketAddr) {
        let key = admin_key.expose();
        let guessable =
            key.len() < ADMIN_KEY_CHARS_MIN || PUBLISHED_KEYS.iter().any(|known| key.to_lowercase().starts_with(known));
        if !key.is_empty() && guessable && !listen.ip().is_loopback() {
            self.problem(format!(
                "secrets.admin_key: a key of at least {ADMIN_KEY_CHARS_MIN} characters that is no common word is \
                 needed to listen on {listen}; make one with: head -c 32 /dev/urandom | base64"
            ));
        }
    }

    fn at_least<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, least: T) {
        if value < least {
            self.problem(format!("{field}: {value} is too small; at least {least}"));
        }
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [providers.sim]
        base_url = "http://127.0.0.1:9090/v1"
        api_key = "env:SIM_KEY"
        [routes.small]
        provider = "sim"
        model = "gpt-4o-mini"
    "#;

    fn environment() -> Environment {
        Environment::of([
            ("TOLLGATE_MASTER_KEY", "00"),
            ("TOLLGATE_ADMIN_KEY", "a-long-enough-admin-key"),
            ("SIM_KEY", "sk-canary"),
        ])
    }

    fn parse(text: &str, environment: &Environment) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("tollgate.toml"), environment)
    }

    fn problem(text: &str) -> String {
        parse(text, &environment()).expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_good_file_is_meant_as_it_is_said() {
        let config = parse(GOOD, &environment()).expect("it is good");
        let route = &config.routing.routes["small"];
        assert_eq!((&*route.target.model, &*route.target.priced_as), ("gpt-4o-mini", "sim"));
        assert_eq!(route.provider().api_key.as_ref().map(Secret::expose), Some("sk-canary"));
        assert!(!format!("{config:?}").contains("canary"), "secrets print as [redacted]");
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_with_what_to_do() {
        let text = problem("[server]\nlisten = \"here\"\nbody_bytes_max = 1\n[routes.x]\nprovider = \"gone\"");
        for part in ["server.listen", "server.body_bytes_max", "there is no [providers.gone]"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(problem("[server]\nlisen = \"x\"").contains("unknown field"));
        assert!(problem("[providers.p]\npreset = \"nobody\"").contains("openrouter"));
        assert!(problem("[secrets]\nadmin_key = \"plain-text-secret\"").contains("must be a reference"));
        assert!(problem("[secrets]\nadmin_key = \"env:NOT_SET\"").contains("NOT_SET is not set"));
        assert!(problem("[store]\nsegment_bytes = 10").contains("store.segment_bytes"));
        assert!(problem("[receipts]\nissuer = \"\"").contains("receipts.issuer"));
        assert!(problem("[receipts]\nissuer = \"a\\nb\"").contains("receipts.issuer"));
    }

    #[test]
    fn a_route_names_who_answers_instead_each_once_and_not_too_many() {
        let with = |more: &str| format!("{GOOD}\n{more}\n[providers.other]\nbase_url = \"http://127.0.0.1:9091/v1\"");
        let text =
            with("retries = 2\nfallbacks = [{ provider = \"other\" }, { provider = \"sim\", model = \"gpt-4o\" }]");
        let route = &parse(&text, &environment()).expect("it is good").routing.routes["small"];
        let named = |route: &Route| (route.target.provider.to_string(), route.target.model.to_string(), route.retries);
        let named: Vec<_> = route.fallbacks.iter().map(|fallback| named(fallback)).collect();
        assert_eq!(named, [("other".into(), "small".into(), 2), ("sim".into(), "gpt-4o".into(), 2)]);
        assert!(
            route.fallbacks.iter().all(|fallback| *fallback.target.route == *"small"),
            "under the route's own name"
        );
        let check = |more: &str, part: &str| assert!(problem(&with(more)).contains(part), "{part} of {more}");
        check("retries = 4", "4 are too many; at most 3");
        check("fallbacks = [{ provider = \"gone\" }]", "there is no [providers.gone]");
        check("fallbacks = [{ provider = \"sim\", model = \"gpt-4o-mini\" }]", "is named twice");
        check("fallbacks = [{ provider = \"other\" }, { provider = \"other\" }]", "is named twice");
        check("fallbacks = [{ provider = \"other\", weight = 1 }]", "unknown field");
        let five: Vec<_> = (0..5).map(|n| format!("{{ provider = \"other\", model = \"m{n}\" }}")).collect();
        check(&format!("fallbacks = [{}]", five.join(", ")), "5 are too many; at most 4");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let mut environment = environment();
        environment.0.insert("TOLLGATE_SERVER__LISTEN".into(), "127.0.0.1:9999".into());
        environment.0.insert("TOLLGATE_STORE__GATHER_US".into(), "50".into());
        environment.0.insert("TOLLGATE_PROVIDERS__SIM__HTTP2".into(), "true".into());
        let config = parse(GOOD, &environment).expect("it is good");
        assert_eq!(config.server.listen.port(), 9999);
        assert_eq!(config.store.gather, Duration::from_micros(50));
        assert!(config.routing.providers["sim"].http2);
    }

    #[test]
    fn a_guessable_admin_key_is_refused_on_a_public_address() {
        let mut environment = environment();
        environment.0.insert("TOLLGATE_ADMIN_KEY".into(), "changeme-changeme-changeme".into());
        assert!(parse("", &environment).is_ok(), "on loopback it may be");
        environment.0.insert("TOLLGATE_SERVER__LISTEN".into(), "0.0.0.0:8080".into());
        assert!(parse("", &environment).expect_err("refused").to_string().contains("secrets.admin_key"));
    }
}
