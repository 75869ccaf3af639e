//! A gateway inside the test process, over a store in a folder of its own and a simulated provider; and the client that
//! every test speaks to it with. Every wait has an end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate_client::{AdminClient, NewKey, NewTenant, UsageEvent, UsageQuery};
use tollgate_gateway::config::{Config, Environment};
use tollgate_gateway::serve::{self, Running};
use tollgate_sim::{Fault, Options, Scenario, Truth};
use tollgate_types::Clock;

/// Nothing here takes longer, unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ADMIN_KEY: &str = "an-admin-key-of-these-tests";
pub const PROVIDER_KEY: &str = "sk-provider-key-of-these-tests";
/// What a stream must end with, and only a whole one may.
pub const DONE: &str = "data: [DONE]\n\n";

/// Waits for what is bound to come, or fails by name.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// Asks again and again until `probe` has an answer.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let asking = async {
        loop {
            tick.tick().await;
            if let Some(found) = probe().await {
                return found;
            }
        }
    };
    within(what, asking).await
}

/// What differs from one world to the next.
pub struct Setup {
    pub sim: Options,
    pub clock: Clock,
    /// Lines for `[server]`.
    pub server: String,
    pub segment_bytes: usize,
    /// Whole sections: further providers and routes.
    pub more: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            sim: simulator(),
            clock: Clock::System,
            server: String::new(),
            segment_bytes: 4 << 20,
            more: String::new(),
        }
    }
}

/// A simulator that is quick about its faults and wants the provider's key.
pub fn simulator() -> Options {
    let script = Scenario { slow_first_token_ms: 100, silence_ms_max: 60_000, ..Scenario::default() };
    Options { script: Some(script), require_key: Some(PROVIDER_KEY.to_owned()), ..Options::on_any_port() }
}

/// Providers and routes over a simulator: each model with each fault. What never answers is asked by an impatient
/// provider, so that tests need not be patient either.
pub fn routing(base_url: &str) -> String {
    let dead = dead_address();
    let mut text = format!(
        r#"
        [providers.sim]
        preset = "simulator"
        base_url = "{base_url}"
        api_key = "env:SIM_KEY"
        [providers.hasty]
        preset = "simulator"
        base_url = "{base_url}"
        api_key = "env:SIM_KEY"
        priced_as = "simulator"
        first_byte_timeout_ms = 700
        idle_timeout_ms = 700
        total_timeout_ms = 2000
        [providers.dead]
        preset = "simulator"
        base_url = "http://{dead}/v1"
        [providers.stranger]
        preset = "simulator"
        base_url = "{base_url}"
        [routes."gpt-4o-mini"]
        provider = "sim"
        max_tokens_default = 200
        [routes."gpt-4o"]
        provider = "sim"
        [routes."o4-mini"]
        provider = "sim"
        [routes."text-embedding-3-small"]
        provider = "sim"
        [routes.renamed]
        provider = "sim"
        model = "gpt-4o-mini"
        [routes.unpriced]
        provider = "sim"
        model = "a-model-nobody-prices"
        [routes.dead]
        provider = "dead"
        model = "gpt-4o-mini"
        [routes.stranger]
        provider = "stranger"
        model = "gpt-4o-mini"
        "#
    );
    for fault in Fault::ALL {
        let provider = if matches!(fault, Fault::NoAnswer | Fault::Stall) { "hasty" } else { "sim" };
        for model in ["gpt-4o-mini", "text-embedding-3-small"] {
            text.push_str(&format!("[routes.\"{model}+{}\"]\nprovider = \"{provider}\"\n", fault.name()));
        }
    }
    text
}

/// An address where nobody listens.
pub fn dead_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// Everything a test needs.
pub struct World {
    pub gateway: Running,
    _sim: tollgate_sim::Running,
    pub truth: Arc<Truth>,
    pub admin: AdminClient,
    pub http: Http,
    /// The key of the tenant `demo`.
    pub key: String,
    pub key_id: String,
    pub dir: TempDir,
}

// === impl World ===

impl World {
    /// A gateway with a tenant `demo` and a key of its, and no cap.
    pub async fn start() -> Self {
        Self::of(Setup::default()).await
    }

    pub async fn of(setup: Setup) -> Self {
        Self::in_folder(setup, tempfile::tempdir().expect("a folder")).await
    }

    pub async fn in_folder(setup: Setup, dir: TempDir) -> Self {
        let mut world = Self::reopened(setup, dir).await;
        (world.key_id, world.key) = world.tenant("demo").await;
        world
    }

    /// Over a store that has its tenants already: the keys are for the caller to fill in.
    pub async fn reopened(setup: Setup, dir: TempDir) -> Self {
        let sim = tollgate_sim::spawn(setup.sim).expect("a simulator");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\ndrain_seconds = 2\n{}\n\
             [store]\ndir = {:?}\nsegment_bytes = {}\n{}\n{}",
            setup.server,
            dir.path().join("data"),
            setup.segment_bytes,
            routing(&sim.base_url()),
            setup.more
        );
        let environment = Environment::of([
            ("TOLLGATE_MASTER_KEY", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
            ("TOLLGATE_ADMIN_KEY", ADMIN_KEY),
            ("SIM_KEY", PROVIDER_KEY),
        ]);
        let config = Config::parse(&text, Path::new("tollgate.toml"), &environment).expect("a good configuration");
        let gateway = serve::start(&config, setup.clock).expect("it starts");
        let base = format!("http://{}", gateway.address);
        let admin = AdminClient::new(&base, ADMIN_KEY).expect("an address");
        let truth = sim.truth();
        let http = Http::to(&base);
        Self { gateway, _sim: sim, truth, admin, http, key: String::new(), key_id: String::new(), dir }
    }

    /// A new tenant and a key of its: the key's id and the key.
    pub async fn tenant(&self, id: &str) -> (String, String) {
        let new = NewTenant { id: id.to_owned(), ..NewTenant::default() };
        self.admin.create_tenant(&new).await.expect("a tenant");
        self.new_key(json!({ "tenant": id })).await
    }

    pub async fn new_key(&self, wanted: Value) -> (String, String) {
        let wanted: NewKey = serde_json::from_value(wanted).expect("a key that can be asked for");
        let made = self.admin.create_key(&wanted).await.expect("a key");
        (made.info.id, made.key)
    }

    pub async fn plan(&self, id: &str, settings: Value) {
        let settings = serde_json::from_value(settings).expect("a plan that can be asked for");
        self.admin.set_plan(id, &settings).await.expect("a plan");
    }

    pub async fn budget(&self, setting: Value) {
        let setting = serde_json::from_value(setting).expect("a budget that can be asked for");
        self.admin.set_budget(&setting).await.expect("a budget");
    }

    /// A chat of the demo tenant.
    pub async fn chat(&self, body: Value) -> Answer {
        self.http.chat(&self.key, body).await
    }

    pub async fn embed(&self, body: Value) -> Answer {
        self.http.post("/v1/embeddings", &bearer(&self.key), body.to_string()).await
    }

    /// The usage event of a request, once it has ended.
    pub async fn event(&self, request_id: &str) -> UsageEvent {
        eventually("the usage event", async || {
            let page = self.admin.usage(&UsageQuery { limit: Some(1000), ..UsageQuery::default() }).await;
            let events = page.expect("usage").data;
            events.into_iter().find(|event| event.request_id == request_id && event.ended_at.is_some())
        })
        .await
    }

    pub async fn events(&self) -> Vec<UsageEvent> {
        all_events(&self.admin).await
    }

    /// Waits until nothing is held any more.
    pub async fn settled(&self) {
        eventually("all holds to end", async || {
            (self.gateway.app.books.audit().reservations_pending == 0).then_some(())
        })
        .await;
    }

    /// Stops in order, and has the files say that everything adds up.
    pub async fn close(self) -> TempDir {
        let Self { gateway, http, admin, dir, .. } = self;
        drop((http, admin));
        let stopping = tokio::task::spawn_blocking(move || {
            gateway.stop();
            let report = tollgate_store::verify::verify(&dir.path().join("data"), |_, _| ()).expect("readable");
            (report, dir)
        });
        let (report, dir) = within("an orderly end", stopping).await.expect("no panic");
        assert_eq!((report.drift.0, &report.disagreements), (0, &vec![]));
        assert_eq!(report.audit.reservations_pending, 0, "no hold outlives an orderly end");
        dir
    }
}

/// A client of one address.
#[derive(Clone)]
pub struct Http {
    pub base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// One answer, read to its end, or to where it broke off.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub broke_off: bool,
}

pub fn bearer(key: &str) -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {key}"))]
}

// === impl Http ===

impl Http {
    pub fn to(base: &str) -> Self {
        Self { base: base.to_owned(), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub fn http2(base: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { base: base.to_owned(), client }
    }

    /// The head of the answer; the body is the caller's to read.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        within(path, self.client.request(request)).await.expect("an answer")
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, String)], body: impl Into<Bytes>) -> Answer {
        Answer::read(self.open(method, path, headers, body).await).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, String)], body: impl Into<Bytes>) -> Answer {
        self.send(Method::POST, path, headers, body).await
    }

    pub async fn get(&self, path: &str, key: &str) -> Answer {
        self.send(Method::GET, path, &bearer(key), Bytes::new()).await
    }

    pub async fn chat(&self, key: &str, body: Value) -> Answer {
        self.post("/v1/chat/completions", &bearer(key), body.to_string()).await
    }
}

// === impl Answer ===

impl Answer {
    pub async fn read(response: Response<Incoming>) -> Self {
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut broke_off) = (Vec::new(), false);
        while let Some(frame) = within("the rest of the answer", incoming.frame()).await {
            match frame {
                Ok(frame) => body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(_) => {
                    broke_off = true;
                    break;
                }
            }
        }
        let (status, version) = (head.status.as_u16(), head.version);
        Self { status, version, headers: head.headers, body: body.into(), broke_off }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("answers are text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("plain text"))
    }

    pub fn request_id(&self) -> &str {
        self.header("x-request-id").expect("every answer has an id")
    }

    /// Status and code of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        let code = self.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
        (self.status, code)
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("a refusal says why").to_owned()
    }

    /// The data of a stream's events, `[DONE]` included.
    pub fn events(&self) -> Vec<&str> {
        self.text().lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The events that are JSON.
    pub fn chunks(&self) -> Vec<Value> {
        let events = self.events().into_iter().filter(|event| *event != "[DONE]");
        events.map(|event| serde_json::from_str(event).unwrap_or_else(|error| panic!("{error} in {event}"))).collect()
    }
}

/// Every request that is known, page by page.
pub async fn all_events(admin: &AdminClient) -> Vec<UsageEvent> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let wanted = UsageQuery { limit: Some(1000), after, ..UsageQuery::default() };
        let page = admin.usage(&wanted).await.expect("usage");
        all.extend(page.data);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// A small chat for `model`.
pub fn ask(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Say something about rivers." }] })
}

/// The same as a stream.
pub fn ask_stream(model: &str) -> Value {
    let mut body = ask(model);
    body["stream"] = true.into();
    body
}
