//! `[workers]`: processes that do the work of `[runtimes]` for others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_serving::preset::OutputLimitName;
use tollgate_serving::{Provider, Secret, Timeouts};

use super::{Check, Config, ConfigError, Environment, Listening, LocalRoute, RawConfig, RawLog, Runtime};

/// Work handed over HTTP: `tollgate serve --role worker` does it, `--role gateway` hands it over. Both read the same file; of
/// it a worker needs `[server]`, `[log]`, `[runtimes]`, the routes that name one, and `key`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawWorkers {
    /// Where the workers listen, such as `["http://10.0.0.7:8081"]`. For gateways.
    pub urls: Vec<String>,
    /// What gateways prove themselves to workers with, as a reference: `file:PATH` or `env:NAME`. At least 16 characters.
    pub key: Option<String>,
    /// How long to wait for a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// A worker that has not answered so long after the request's goal, in milliseconds, is given up, and another is asked.
    pub stall_ms: u64,
    /// How long a gateway waits at its start until its workers say what they serve, in seconds.
    pub start_seconds: u64,
    /// File with certificates in PEM that are trusted besides the public authorities.
    pub ca_file: Option<PathBuf>,
}

/// The same, checked.
#[derive(Clone, Debug)]
pub struct Workers {
    /// Each as who is asked is described: an address, a key, timeouts.
    pub all: Vec<Arc<Provider>>,
    pub stall: Duration,
    pub patience: Duration,
}

/// What a worker needs of the file.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub server: Listening,
    pub key: Secret,
    pub log: RawLog,
    pub runtimes: BTreeMap<String, Runtime>,
    pub routes: BTreeMap<String, LocalRoute>,
}

/// What of the whole a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Everything.
    #[default]
    All,
    /// Everything but the work of runtimes, which is handed to workers.
    Gateway,
    /// The work of runtimes, for gateways. It knows of no tenant's keys, policies or money.
    Worker,
}

/// A key shorter than this is no secret.
const KEY_CHARS_MIN: usize = 16;
const IDLE_CONNECTIONS_MAX: usize = 64;

impl Default for RawWorkers {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            key: None,
            connect_timeout_ms: 1_000,
            stall_ms: 5_000,
            start_seconds: 60,
            ca_file: None,
        }
    }
}

// === impl Workers ===

impl Workers {
    /// Whether the same are asked in the same way.
    pub fn is_as(&self, other: &Self) -> bool {
        let who = |provider: &Arc<Provider>| {
            (
                provider.base_url.clone(),
                provider.api_key.as_ref().map(|key| key.expose().to_owned()),
                provider.timeouts,
                provider.authorities.clone(),
            )
        };
        let of = |workers: &Self| (workers.all.iter().map(who).collect::<Vec<_>>(), workers.stall);
        of(self) == of(other)
    }
}

// === impl Config ===

impl Config {
    /// The same for a process that does only this.
    pub fn in_role(self, role: Role) -> Result<Self, ConfigError> {
        let has_workers = self.workers.as_ref().is_some_and(|workers| !workers.all.is_empty());
        match role {
            Role::Gateway if !has_workers && !self.routing.local_routes.is_empty() => {
                let named = self.routing.local_routes.keys().cloned().collect::<Vec<_>>().join(", ");
                let problem = format!("workers.urls: with --role gateway somebody must do the work of {named}");
                Err(ConfigError(vec![problem]))
            }
            role => Ok(Self { role, ..self }),
        }
    }
}

// === impl WorkerConfig ===

impl WorkerConfig {
    /// Reads of the file what a worker needs, and nothing else: it is not to have the other secrets.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let raw = RawConfig::load(path, environment)?;
        let mut check = Check { environment, problems: Vec::new() };
        let server = check.server(&raw.server);
        let key = check.worker_key(&raw.workers.clone().unwrap_or_default());
        let runtimes = check.runtimes(&raw);
        let mut routes = BTreeMap::new();
        for (name, route) in raw.routes.iter().filter(|(_, route)| route.runtime.is_some()) {
            routes.extend(check.local_route(name, route, &runtimes).map(|local| (name.clone(), local)));
        }
        if routes.is_empty() {
            check.problem("routes: none names a runtime, so there is nothing to do for a worker".to_owned());
        }
        match key {
            Some(key) if check.problems.is_empty() => Ok(Self { server, key, log: raw.log, runtimes, routes }),
            _ => Err(ConfigError(check.problems)),
        }
    }
}

// === impl Check ===

impl Check<'_> {
    pub(super) fn workers(&mut self, raw: &RawConfig) -> Option<Workers> {
        let raw = raw.workers.as_ref()?;
        let key = self.worker_key(raw)?;
        self.at_least("workers.connect_timeout_ms", raw.connect_timeout_ms, 1);
        self.at_least("workers.stall_ms", raw.stall_ms, 1);
        let authorities =
            raw.ca_file.as_ref().map(|file| self.certificates("workers.ca_file", file)).unwrap_or_default();
        let mut all = Vec::new();
        for (number, url) in raw.urls.iter().enumerate() {
            if raw.urls[..number].contains(url) {
                self.problem(format!("workers.urls: {url:?} is there twice"));
            }
            let parsed = url.parse::<Uri>().ok().filter(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() && uri.query().is_none()
            });
            let Some(base_url) = parsed else {
                self.problem(format!("workers.urls: {url:?} is not an address such as \"http://10.0.0.7:8081\""));
                continue;
            };
            let connect = Duration::from_millis(raw.connect_timeout_ms);
            // Whoever asks says how long it waits.
            let long = Duration::from_secs(3_600);
            all.push(Arc::new(Provider {
                name: format!("worker {url}").into(),
                priced_as: super::LOCAL.into(),
                region: None,
                base_url,
                api_key: Some(key.clone()),
                http2: false,
                output_limit: OutputLimitName::MaxTokens,
                timeouts: Timeouts { connect, first_byte: long, idle: long, total: long },
                idle_connections_max: IDLE_CONNECTIONS_MAX,
                bearing: None,
                authorities: authorities.clone(),
            }));
        }
        let (stall, patience) = (Duration::from_millis(raw.stall_ms), Duration::from_secs(raw.start_seconds));
        Some(Workers { all, stall, patience })
    }

    pub(super) fn worker_key(&mut self, raw: &RawWorkers) -> Option<Secret> {
        let Some(reference) = &raw.key else {
            self.problem(
                "workers.key: name the secret that gateways and workers share, such as \"file:worker.key\"".to_owned(),
            );
            return None;
        };
        let key = self.secret("workers.key", reference);
        if key.expose().len() < KEY_CHARS_MIN {
            self.problem(format!("workers.key: at least {KEY_CHARS_MIN} characters"));
        }
        Some(key)
    }
}
