//! `[runtimes]`: models that run here, and the routes that they answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_admission::WorkBound;
use tollgate_serving::local::Layout;
use tollgate_serving::schedule::{Batching, Judged};

use super::{Check, RawConfig, RawRoute};

/// Under this name there is always a runtime, also where none is configured.
pub const HASHED: &str = "hashed";
/// As the provider of what runs here, in price books, receipts and `/v1/models`.
pub const LOCAL: &str = "local";

/// A model that runs here, on the CPU, with threads of its own. `hashed` is there without being configured.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRuntime {
    /// `hashed`: n-grams of the text, built in, nothing to install; knows words, not meanings. `encoder`: a sentence encoder
    /// such as all-MiniLM-L6-v2, from a folder.
    pub kind: RuntimeKind,
    /// For `encoder`: the folder that `tollgate runtime convert` wrote. Where there is none, the program says so and answers
    /// with `hashed`.
    pub model: Option<PathBuf>,
    /// Where the model is not there: refuse to start instead.
    pub required: bool,
    /// Threads, each with an engine that is loaded and has answered before the gateway is ready. 0 means one for each core.
    pub instances: usize,
    /// Within this time a request should be answered, in milliseconds. What would not be is refused with `overloaded`.
    pub goal_ms: u64,
    /// The same for requests that are longer than a batch.
    pub bulk_goal_ms: u64,
    /// How batches are made: `cost_model`, by what is learned of the machine, fair to tenants. The others are there to be
    /// compared with: `window`, `aimd`, `greedy`, all first come, first served.
    pub batching: BatchingKind,
    /// For `window`: how long the first may wait for others, in milliseconds.
    pub window_ms: u64,
    /// Longest batch, in tokens. On a CPU longer ones gain nothing.
    pub batch_tokens_max: u32,
    /// What may wait, of all tenants, in tokens.
    pub queue_tokens_max: u64,
    /// What may wait, of all tenants, in texts.
    pub queue_texts_max: usize,
    /// What may wait of one tenant, in tokens.
    pub tenant_tokens_max: u64,
    /// What may wait of one tenant, in texts.
    pub tenant_texts_max: usize,
    /// Texts of one request.
    pub texts_max: usize,
    /// CPU time that is held for a request, in microseconds, on top of the next. What it takes beyond its hold is your loss.
    pub hold_us: u64,
    /// CPU time that is held for each token, in microseconds; 0 means the kind's own: 50 for `hashed`, 5000 for `encoder`.
    pub hold_us_per_token: u64,
    /// A worker that stands still for so long, in milliseconds, loses its work to another.
    pub stall_ms: u64,
    /// Where this machine is, as policies name it, such as `eu`.
    pub region: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    #[default]
    Hashed,
    Encoder,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchingKind {
    #[default]
    CostModel,
    Window,
    Aimd,
    Greedy,
}

/// A runtime as the program makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    pub name: Arc<str>,
    pub kind: RuntimeKind,
    pub model: Option<PathBuf>,
    pub required: bool,
    pub goal: Duration,
    pub bulk_goal: Duration,
    pub texts_max: usize,
    pub hold: WorkBound,
    pub layout: Layout,
    pub region: Option<Arc<str>>,
}

/// A route that a runtime answers. What it needs is loaded where the runtimes are.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalRoute {
    pub runtime: Arc<str>,
    /// Folder of the heads; without one the route makes embeddings.
    pub classifier: Option<PathBuf>,
    /// Folder of the use case that it is for.
    pub template: Option<PathBuf>,
    /// The hashed head answers first, where it is sure enough.
    pub cascade: bool,
    /// How sure, from 0 to 1; `None`: as it was fitted.
    pub threshold: Option<f32>,
    pub goal: Option<Duration>,
}

/// Names of the windows and limits of the baselines.
const WINDOW_ITEMS: usize = 32;
const AIMD_ITEMS_MAX: usize = 64;
/// What Text Embeddings Inference has as its defaults.
const GREEDY_TOKENS: u32 = 16_384;
const GREEDY_REQUESTS_MAX: usize = 512;
/// More threads than this are a mistake.
const INSTANCES_MAX: usize = 256;

// === impl RawRuntime ===

impl Default for RawRuntime {
    fn default() -> Self {
        Self {
            kind: RuntimeKind::Hashed,
            model: None,
            required: false,
            instances: 0,
            goal_ms: 100,
            bulk_goal_ms: 30_000,
            batching: BatchingKind::CostModel,
            window_ms: 5,
            batch_tokens_max: 320,
            queue_tokens_max: 1_000_000,
            queue_texts_max: 20_000,
            tenant_tokens_max: 200_000,
            tenant_texts_max: 4_096,
            texts_max: 2_048,
            hold_us: 20_000,
            hold_us_per_token: 0,
            stall_ms: 10_000,
            region: None,
        }
    }
}

impl RawRuntime {
    fn batching(&self) -> Batching {
        match self.batching {
            BatchingKind::CostModel => Batching::CostModel,
            BatchingKind::Window => {
                Batching::Window { delay: Duration::from_millis(self.window_ms), items: WINDOW_ITEMS }
            }
            BatchingKind::Aimd => Batching::Aimd { items_max: AIMD_ITEMS_MAX, judged: Judged::Batch },
            BatchingKind::Greedy => Batching::Greedy { tokens: GREEDY_TOKENS, requests_max: GREEDY_REQUESTS_MAX },
        }
    }
}

// === impl Check ===

impl Check<'_> {
    pub(super) fn runtimes(&mut self, raw: &RawConfig) -> BTreeMap<String, Runtime> {
        let mut all: BTreeMap<String, Runtime> =
            raw.runtimes.iter().map(|(name, raw)| (name.clone(), self.runtime(name, raw))).collect();
        if !all.contains_key(HASHED) {
            all.insert(HASHED.to_owned(), self.runtime(HASHED, &RawRuntime::default()));
        }
        if all[HASHED].kind != RuntimeKind::Hashed {
            self.problem(format!("runtimes.{HASHED}.kind: this name is for the kind \"hashed\""));
        }
        all
    }

    fn runtime(&mut self, name: &str, raw: &RawRuntime) -> Runtime {
        let field = |field: &str| format!("runtimes.{name}.{field}");
        self.at_least(&field("goal_ms"), raw.goal_ms, 1);
        self.at_least(&field("bulk_goal_ms"), raw.bulk_goal_ms, raw.goal_ms);
        self.at_least(&field("batch_tokens_max"), raw.batch_tokens_max, 1);
        self.at_least(&field("queue_tokens_max"), raw.queue_tokens_max, 1);
        self.at_least(&field("queue_texts_max"), raw.queue_texts_max, 1);
        self.at_least(&field("tenant_tokens_max"), raw.tenant_tokens_max, 1);
        self.at_least(&field("tenant_texts_max"), raw.tenant_texts_max, 1);
        self.at_least(&field("texts_max"), raw.texts_max, 1);
        self.at_least(&field("stall_ms"), raw.stall_ms, 100);
        if raw.kind == RuntimeKind::Encoder && raw.model.is_none() {
            let what = "name the folder that `tollgate runtime convert` wrote";
            self.problem(format!("{}: {what}", field("model")));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let per_token = match (raw.hold_us_per_token, raw.kind) {
            (0, RuntimeKind::Hashed) => 50,
            (0, RuntimeKind::Encoder) => 5_000,
            (said, _) => said,
        };
        Runtime {
            name: name.into(),
            kind: raw.kind,
            model: raw.model.clone(),
            required: raw.required,
            goal: Duration::from_millis(raw.goal_ms),
            bulk_goal: Duration::from_millis(raw.bulk_goal_ms),
            texts_max: raw.texts_max,
            hold: WorkBound { us_per_request: raw.hold_us, us_per_token: per_token },
            layout: Layout {
                name: name.to_owned(),
                instances: if raw.instances == 0 { cores } else { raw.instances.min(INSTANCES_MAX) },
                batching: raw.batching(),
                batch_tokens_max: raw.batch_tokens_max,
                queue_tokens_max: raw.queue_tokens_max,
                queue_items_max: raw.queue_texts_max,
                tenant_tokens_max: raw.tenant_tokens_max,
                tenant_items_max: raw.tenant_texts_max,
                stall: Duration::from_millis(raw.stall_ms),
            },
            region: raw.region.as_deref().map(Arc::from),
        }
    }

    /// A route that a runtime answers, if it says so and it is right.
    pub(super) fn local_route(
        &mut self,
        name: &str,
        raw: &RawRoute,
        runtimes: &BTreeMap<String, Runtime>,
    ) -> Option<LocalRoute> {
        let runtime = raw.runtime.as_deref()?;
        if !runtimes.contains_key(runtime) {
            let known = runtimes.keys().cloned().collect::<Vec<_>>().join(", ");
            self.problem(format!("routes.{name:?}.runtime: there is no [runtimes.{runtime}]; there are: {known}"));
            return None;
        }
        let providers_own = [
            ("provider", raw.provider.is_some()),
            ("model", raw.model.is_some()),
            ("retries", raw.retries > 0),
            ("fallbacks", !raw.fallbacks.is_empty()),
            ("coalesce", raw.coalesce),
        ];
        for (field, said) in providers_own {
            if said {
                self.problem(format!("routes.{name:?}.{field}: does not go with a runtime"));
            }
        }
        if raw.cascade && raw.classifier.is_none() {
            self.problem(format!("routes.{name:?}.cascade: needs a classifier"));
        }
        if raw.template.is_some() && raw.classifier.is_none() {
            self.problem(format!(
                "routes.{name:?}.template: needs a classifier: `tollgate template train` makes one of it"
            ));
        }
        if raw.cascade && runtimes[runtime].kind == RuntimeKind::Hashed {
            let what = "name the runtime that is asked where the hashed head is not sure";
            self.problem(format!("routes.{name:?}.cascade: {what}"));
        }
        if raw.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
            self.problem(format!("routes.{name:?}.threshold: must be from 0 to 1"));
        }
        Some(LocalRoute {
            runtime: runtime.into(),
            classifier: raw.classifier.clone(),
            template: raw.template.clone(),
            cascade: raw.cascade,
            threshold: raw.threshold,
            goal: raw.goal_ms.map(Duration::from_millis),
        })
    }

    /// What goes with runtimes only.
    pub(super) fn providers_route(&mut self, name: &str, raw: &RawRoute) {
        let runtimes_own = [
            ("classifier", raw.classifier.is_some()),
            ("template", raw.template.is_some()),
            ("cascade", raw.cascade),
            ("threshold", raw.threshold.is_some()),
            ("goal_ms", raw.goal_ms.is_some()),
        ];
        for (field, said) in runtimes_own {
            if said {
                self.problem(format!("routes.{name:?}.{field}: goes with a runtime only"));
            }
        }
    }
}
