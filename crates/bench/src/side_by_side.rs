//! `make bench`: the simulator asked directly, through nginx as a plain proxy, and through Tollgate with everything on,
//! in turn in one run, so that whatever else the machine does falls on all three alike.
//!
//! The proxies run on core 0; the simulator and this generator share core 1. Ratios and differences are taken within a
//! round, and the median over the rounds is reported. A request that fails, fails the run.

mod figures;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::{BudgetSetting, Picousd, Whose};
use crate::disk::fdatasync_latencies;
use crate::http::Origin;
use crate::latency::Latencies;
use crate::load::{Ask, Load, Manners, Mode, Outcome, chat_body};
use crate::process::{Server, free_ports, pin_to};
use crate::procfs::consumption;
use crate::report::{last_line, line, megabytes, progress};
use crate::sse::{Event, SseReader};
use crate::stage::{CHAT_MODEL, Lanes, PACED_MODEL, Patience, Stage, write_file};
use crate::{clock, nginx};

use figures::{Figures, Process, RoundOfOne};

const PROXY_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;
const SATURATING_CONNECTIONS: usize = 64;
const OPEN_RATE_PER_S: f64 = 500.0;
const STREAM_CONNECTIONS: usize = 16;
/// Between two chunks of a paced stream.
const PACE_MS: &str = "1";
const STREAM_RATE_PER_S: f64 = 20.0;
/// Chunks of a benchmark stream, by `max_tokens`.
const STREAM_TOKENS: u32 = 50;
/// Makes an answer of some 0.7 kB.
const ANSWER_TOKENS: u32 = 24;
const OPEN_CONNECTIONS_MAX: usize = 256;
/// Every answer is as long as `max_tokens` lets it be: all are alike.
const SCENARIO: &str = r#"{"output_tokens_median": 1000, "output_tokens_sigma": 0}"#;
/// More requests than any run makes: the simulator forgets none.
const TRUTH_MAX: &str = "20000000";
/// More than any run can spend: the budgets are on, and never in the way.
const AMPLE: Picousd = Picousd(1_000_000_000_000_000_000);
const STOP_WITHIN: Duration = Duration::from_secs(40);

#[derive(Clone, Debug)]
pub struct Options {
    /// The release binary.
    pub tollgate: PathBuf,
    /// Where the store is put, in a directory of its own.
    pub dir: PathBuf,
    pub rounds: usize,
    pub durations: Durations,
    /// Say how to profile the gateway when it is under load.
    pub profile_hint: bool,
}

/// How long each leg of a round lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durations {
    pub warm_up: Duration,
    pub saturation: Duration,
    pub open: Duration,
    pub streams: Duration,
    pub first_tokens: Duration,
    pub disk: Duration,
}

/// One of the three that are compared.
struct Contender {
    name: &'static str,
    pid: u32,
    chat: Ask,
    /// From the instant provider: its chunks come in one burst.
    stream: Ask,
    /// From the paced one: each chunk comes by itself.
    paced_stream: Ask,
}

/// Where a contender is asked: by URL for those who proxy by URL, by model for Tollgate.
struct Address<'a> {
    origin: &'a Origin,
    paced_origin: &'a Origin,
    stream_prefix: &'a str,
    paced_prefix: &'a str,
    paced_model: &'a str,
    key: Option<&'a str>,
}

// === the run ===

pub async fn run(options: &Options) -> Result<()> {
    let cores = pin_if_possible()?;
    let stage = Stage::set(&options.dir, &options.tollgate, Patience::default(), 1, Lanes::default())?;
    let figures = match measure(options, &stage, cores).await {
        Ok(figures) => figures,
        Err(error) => return Err(error.context(format!("the logs are kept in {}", stage.keep().display()))),
    };
    line(&figures.table())?;
    last_line(&figures.report())
}

async fn measure(options: &Options, stage: &Stage, cores: Option<(usize, usize)>) -> Result<Figures> {
    let [nginx_port] = free_ports()?;
    let proxy = nginx::launch(stage.dir(), nginx_port, &stage.provider, &stage.paced_provider)?
        .on_core(cores.map(|(proxy, _)| proxy));

    let generator_core = cores.map(|(_, generator)| generator);
    let provider = start_provider(stage, &stage.provider, "instant", generator_core).await?;
    let _paced_provider = start_provider(stage, &stage.paced_provider, PACE_MS, generator_core).await?;
    let mut nginx = proxy.spawn()?;
    let nginx_origin = Origin::local(nginx_port);
    nginx.wait_ready(&nginx_origin, "/v1/models", Duration::from_secs(10)).await?;
    let (gateway, cold_start) = stage.start_gateway(cores.map(|(proxy, _)| proxy)).await?;
    let key = govern(stage).await.context("setting up the tenant")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = [consumption(nginx.pid())?, consumption(gateway.pid())?];

    let contenders = [
        Contender::new("direct", provider.pid(), &Address::direct(stage))?,
        Contender::new("nginx", nginx.pid(), &Address::nginx(&nginx_origin))?,
        Contender::new("tollgate", gateway.pid(), &Address::tollgate(&stage.gateway, &key))?,
    ];
    demand_equal_answers(&contenders).await?;
    if options.profile_hint {
        let pid = gateway.pid();
        progress(&format!(
            "profile with: perf record -g -p {pid} -- sleep 10   (binary: {})",
            stage.tollgate().display()
        ));
    }
    let mut rounds = Vec::new();
    let mut disk = Latencies::default();
    for round in 0..options.rounds.max(1) {
        rounds.push(run_round(round, &contenders, options.durations).await?);
        disk.merge(&fdatasync_latencies(&stage.store(), options.durations.disk)?);
    }
    let loaded = [consumption(nginx.pid())?, consumption(gateway.pid())?];
    let (restart, restart_after_kill) = restart(stage, gateway, cores.map(|(proxy, _)| proxy)).await?;
    let [nginx_memory, tollgate_memory] = [0, 1].map(|who| Process {
        idle_mb: megabytes(idle[who].resident_bytes),
        load_mb: megabytes(loaded[who].resident_peak_bytes),
    });
    Ok(Figures {
        rounds,
        disk: disk.summary(),
        nginx: nginx_memory,
        tollgate: tollgate_memory,
        cold_start,
        restart,
        restart_after_kill,
        binary_mb: megabytes(std::fs::metadata(stage.tollgate())?.len()),
        pinned: cores.is_some(),
        short: options.durations != Durations::LONG,
    })
}

async fn start_provider(stage: &Stage, origin: &Origin, speed: &str, core: Option<usize>) -> Result<Server> {
    let scenario = stage.file("scenario.json");
    write_file(&scenario, SCENARIO)?;
    let scenario = scenario.to_str().context("the directory's name is not UTF-8")?;
    let arguments = ["--speed", speed, "--workers", "1", "--truth-max", TRUTH_MAX, "--scenario", scenario];
    stage.start_provider(origin, &arguments, core).await
}

/// Gives the cores of the proxies and of the generator, which this thread is pinned to. `None` on a single core.
fn pin_if_possible() -> Result<Option<(usize, usize)>> {
    if std::thread::available_parallelism()?.get() < 2 {
        progress("only one core: nothing is pinned, the figures compare with no others");
        return Ok(None);
    }
    pin_to(GENERATOR_CORE)?;
    Ok(Some((PROXY_CORE, GENERATOR_CORE)))
}

/// A tenant with a key, limits, and a budget for every scope and window. Gives the key.
async fn govern(stage: &Stage) -> Result<String> {
    let admin = stage.admin()?;
    admin.create_tenant("bench", None).await?;
    admin.create_project("bench", "main").await?;
    let limits = json!({"requests_per_minute": 10_000_000, "parallel_requests": 100_000});
    let key = admin.create_key("bench", "main", limits).await?;
    let tenant = || "bench".to_owned();
    let project = Whose::Project { tenant: tenant(), project: "main".to_owned() };
    for whose in [Whose::Tenant(tenant()), project, Whose::Key { tenant: tenant(), key: key.id }] {
        for window in ["request", "day", "month", "lifetime"] {
            let setting = BudgetSetting { whose: whose.clone(), window, basis: "cost", cap: AMPLE };
            admin.set_budget(&setting).await?;
        }
    }
    Ok(key.key)
}

/// SIGTERM and a start on the store just filled, then a kill and another start. Gives the two times to ready.
async fn restart(stage: &Stage, gateway: Server, core: Option<usize>) -> Result<(Duration, Duration)> {
    let status = gateway.stop(STOP_WITHIN).await?;
    ensure!(status.success(), "the gateway ended with {status} on SIGTERM");
    let (mut gateway, after_stop) = stage.start_gateway(core).await?;
    gateway.kill()?;
    let (gateway, after_kill) = stage.start_gateway(core).await?;
    gateway.stop(STOP_WITHIN).await?;
    Ok((after_stop, after_kill))
}

// === impl Address ===

impl<'a> Address<'a> {
    fn direct(stage: &'a Stage) -> Self {
        Self { paced_origin: &stage.paced_provider, ..Self::plain(&stage.provider) }
    }

    fn nginx(origin: &'a Origin) -> Self {
        let (stream_prefix, paced_prefix) = (nginx::STREAM_PREFIX, nginx::PACED_PREFIX);
        Self { stream_prefix, paced_prefix, ..Self::plain(origin) }
    }

    fn tollgate(origin: &'a Origin, key: &'a str) -> Self {
        Self { paced_model: PACED_MODEL, key: Some(key), ..Self::plain(origin) }
    }

    fn plain(origin: &'a Origin) -> Self {
        let (stream_prefix, paced_prefix) = ("", "");
        Self { origin, paced_origin: origin, stream_prefix, paced_prefix, paced_model: CHAT_MODEL, key: None }
    }
}

// === impl Contender ===

impl Contender {
    fn new(name: &'static str, pid: u32, address: &Address<'_>) -> Result<Self> {
        let ask = |origin: &Origin, prefix: &str, body: Value, stream: bool| {
            let path = format!("{prefix}/v1/chat/completions");
            Ask::post(origin.clone(), &path, address.key.as_slice(), body.to_string(), stream)
        };
        let chat = chat_body(CHAT_MODEL, ANSWER_TOKENS, false);
        let stream = chat_body(CHAT_MODEL, STREAM_TOKENS, true);
        let paced = chat_body(address.paced_model, STREAM_TOKENS, true);
        Ok(Self {
            name,
            pid,
            chat: ask(address.origin, "", chat, false)?,
            stream: ask(address.origin, address.stream_prefix, stream, true)?,
            paced_stream: ask(address.paced_origin, address.paced_prefix, paced, true)?,
        })
    }

    async fn measure(&self, durations: Durations) -> Result<RoundOfOne> {
        let closed = |connections| Mode::Closed { connections };
        let open = |rate_per_s| Mode::Open { rate_per_s, connections_max: OPEN_CONNECTIONS_MAX };
        self.leg("warming up", &self.chat, closed(SATURATING_CONNECTIONS), durations.warm_up).await?;
        Ok(RoundOfOne {
            saturated: self.leg("saturated", &self.chat, closed(SATURATING_CONNECTIONS), durations.saturation).await?,
            open: self.leg("at a fixed rate", &self.chat, open(OPEN_RATE_PER_S), durations.open).await?,
            streams: self.leg("streaming", &self.stream, closed(STREAM_CONNECTIONS), durations.streams).await?,
            paced_streams: self.leg("paced", &self.paced_stream, closed(STREAM_CONNECTIONS), durations.streams).await?,
            first_tokens: self
                .leg("first tokens", &self.stream, open(STREAM_RATE_PER_S), durations.first_tokens)
                .await?,
        })
    }

    async fn leg(&self, what: &str, ask: &Ask, mode: Mode, during: Duration) -> Result<Outcome> {
        let load = Load {
            ask: ask.clone(),
            mode,
            during,
            requests_max: None,
            pid: Some(self.pid),
            manners: Manners::default(),
        };
        let outcome = load.run().await?;
        outcome.demand_success(&format!("{} {what}", self.name))?;
        Ok(outcome)
    }
}

/// All three in turn; each round begins with another one.
async fn run_round(round: usize, contenders: &[Contender; 3], durations: Durations) -> Result<[RoundOfOne; 3]> {
    let mut measured = [const { None }; 3];
    for place in 0..contenders.len() {
        let who = (round + place) % contenders.len();
        let from = clock::now();
        let one = contenders[who].measure(durations).await?;
        progress(&format!(
            "round {} {:8} {:>6.0} requests/s, {:>6.1} µs CPU each, p99 {:.3} ms at {OPEN_RATE_PER_S:.0}/s   ({:.0} s)",
            round + 1,
            contenders[who].name,
            one.saturated.requests_per_s(),
            one.saturated.cpu_us_per_request().unwrap_or_default(),
            one.open.latency.quantile_ms(0.99),
            clock::since(from).as_secs_f64(),
        ));
        measured[who] = Some(one);
    }
    let [Some(direct), Some(nginx), Some(tollgate)] = measured else { unreachable!("each had its turn") };
    Ok([direct, nginx, tollgate])
}

// === equal answers ===

/// An error unless all three give the same answer and the same stream, apart from identity and time. The simulator's words
/// hang on every byte of the question, and Tollgate adds to it (a bound, usage on streams): there the words may differ.
async fn demand_equal_answers(contenders: &[Contender; 3]) -> Result<()> {
    let [direct, nginx, tollgate] = contenders;
    let (answer, stream) = (whole_answer(direct).await?, whole_stream(direct).await?);
    ensure!(stream.len() > 10, "the simulator's stream has only {} events", stream.len());
    demand_equal(nginx, &[whole_answer(nginx).await?], std::slice::from_ref(&answer))?;
    demand_equal(nginx, &whole_stream(nginx).await?, &stream)?;
    demand_equal(tollgate, &[without_words(whole_answer(tollgate).await?)], &[without_words(answer)])?;
    let wordless = |stream: Vec<Value>| stream.into_iter().map(without_words).collect::<Vec<_>>();
    demand_equal(tollgate, &wordless(whole_stream(tollgate).await?), &wordless(stream))
}

/// Event by event; the first difference is quoted.
fn demand_equal(contender: &Contender, theirs: &[Value], expected: &[Value]) -> Result<()> {
    let (name, count) = (contender.name, expected.len());
    for (event, expected) in theirs.iter().zip(expected) {
        ensure!(event == expected, "{name} answers\n{event}\ninstead of\n{expected}");
    }
    ensure!(theirs.len() == count, "{name} answers in {} events instead of {count}", theirs.len());
    Ok(())
}

async fn whole_answer(contender: &Contender) -> Result<Value> {
    let answer = contender.chat.origin.call(contender.chat.request()).await.context(contender.name)?;
    ensure!(answer.status == StatusCode::OK, "{} answers {}: {}", contender.name, answer.status, answer.text());
    Ok(without_identity(answer.json()?))
}

async fn whole_stream(contender: &Contender) -> Result<Vec<Value>> {
    let answer = contender.stream.origin.call(contender.stream.request()).await.context(contender.name)?;
    ensure!(answer.status == StatusCode::OK, "{} streams {}: {}", contender.name, answer.status, answer.text());
    let mut events = Vec::new();
    SseReader::default().feed(&answer.body, |event| match event {
        Event::Data(data) => events.push(serde_json::from_slice(data).map(without_identity)),
        Event::Done => events.push(Ok(json!("[DONE]"))),
        Event::Comment(_) => {}
    });
    events.into_iter().collect::<Result<_, _>>().context("a chunk that is not JSON")
}

/// What may differ between two answers to the same question.
fn without_identity(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("id");
        fields.remove("created");
    }
    answer
}

// === impl Durations ===

impl Durations {
    pub const LONG: Self = Self::of_millis([1_000, 4_000, 8_000, 3_000, 4_000, 2_000]);
    /// With two rounds it is under a minute, and less exact.
    pub const SHORT: Self = Self::of_millis([300, 1_500, 2_000, 1_000, 1_500, 500]);

    const fn of_millis([warm_up, saturation, open, streams, first_tokens, disk]: [u64; 6]) -> Self {
        Self {
            warm_up: Duration::from_millis(warm_up),
            saturation: Duration::from_millis(saturation),
            open: Duration::from_millis(open),
            streams: Duration::from_millis(streams),
            first_tokens: Duration::from_millis(first_tokens),
            disk: Duration::from_millis(disk),
        }
    }
}

/// The same, every non-empty text of a message replaced by one, and without the empty usage that each chunk has when
/// usage was asked for.
fn without_words(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut()
        && fields.get("usage").is_some_and(Value::is_null)
    {
        fields.remove("usage");
    }
    for choice in answer.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
        for part in ["message", "delta"] {
            if let Some(content) = choice.get_mut(part).and_then(|part| part.get_mut("content"))
                && content.as_str().is_some_and(|text| !text.is_empty())
            {
                *content = json!("words");
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_differ_but_not_whether_there_are_any() {
        let delta = |text: &str| without_words(json!({"choices": [{"delta": {"content": text}, "index": 0}]}));
        assert_eq!(delta("one"), delta("other"));
        assert_ne!(delta("one"), delta(""));
        assert_eq!(without_words(json!({"choices": [], "usage": 1})), json!({"choices": [], "usage": 1}));
        assert_eq!(without_words(json!({"choices": [], "usage": null})), json!({"choices": []}));
        assert_eq!(without_words(json!("[DONE]")), json!("[DONE]"));
    }

    #[test]
    fn answers_are_compared_without_identity_and_time() {
        let one = json!({"id": "a", "created": 1, "choices": [{"id": "kept"}]});
        let other = json!({"id": "b", "created": 2, "choices": [{"id": "kept"}]});
        assert_eq!(without_identity(one), without_identity(other));
        assert_ne!(without_identity(json!({"id": 1, "x": 1})), without_identity(json!({"id": 1, "x": 2})));
    }

    #[test]
    fn the_question_is_of_the_size_that_rivals_were_measured_with() {
        let bytes = chat_body(CHAT_MODEL, ANSWER_TOKENS, false).to_string().len();
        assert!((600..800).contains(&bytes), "{bytes}");
    }
}
