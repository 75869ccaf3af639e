//! `make storm`: the real binary under thousands of concurrent callers, a provider that fails, and `kill -9`; then its
//! books against the provider's own.
//!
//! Many tenants at once are driven to refusal, wave after wave: each wave lowers other caps to where they bind (see
//! `tenants`), lets the callers loose until all is refused, and looks at what was spent. The first is without kills, the
//! others go on until the kills are done. Everything drawn comes from the seed; what the machine makes of it in time does
//! not.

mod books;
mod callers;
mod errand;
mod leaves;
mod repeat;
mod report;
mod tenants;
mod truth;
mod watch;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::admin::{Admin, Budget, Picousd};
use crate::clock;
use crate::process::Server;
use crate::report::{last_line, line, progress};
use crate::stage::{Lanes, Patience, Stage, write_file};

use books::{Reading, Reconciliation};
use callers::{Caller, Crowd};
use report::{Findings, SpentCap};
use tenants::{Aims, Binding, Part, Tenant, Wave};
use truth::{RequestId, Standard};
use watch::Watch;

/// How slow the provider may be, at a realistic speed, before the gateway gives up: not long, since some are silent, but
/// thousands of callers on a small machine wait for each other too.
pub const PATIENCE: Patience = Patience { first_byte_ms: 20_000, idle_ms: 5_000, total_ms: 60_000 };
/// The same for a fast provider.
pub const SHORT_PATIENCE: Patience = Patience { first_byte_ms: 1_500, idle_ms: 700, total_ms: 10_000 };
const TICK: Duration = Duration::from_millis(5);
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// After the last caller has gone, what is held must be settled within its deadline and the recovery window.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// A kill waits until this share of the rooms is held.
const HELD_AT_KILL_MIN: f64 = 0.01;
/// With thousands of callers, some request is admitted or refused all the time.
const DECISION_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// More waves than any number of kills needs.
const WAVES_MAX: usize = 60;
/// The waves with kills of which each kind of cap has one.
const WAVES_OF_EVERY_KIND: u32 = 3;
/// When callers were let loose so often, what is left of a cap is left.
const SURGES_MAX: usize = 8;
/// A cap of which more is used needs no further surge: 0.99 are promised.
const USED_ENOUGH: f64 = 0.996;
/// The last cents are spent a few requests at a time: no need for the whole crowd to fetch its refusals.
const LATE_CALLERS_PER_TENANT: usize = 10;
/// Streams on one connection to the provider: each lane has one for each of the gateway's workers.
const STREAMS_PER_LANE: usize = 500;
/// The whole journal is verified after each of so many kills, and after each tenth: it grows, and so does the time.
const VERIFIED_KILLS: u32 = 5;
/// Files besides connections.
const FILES_BESIDES: usize = 512;

#[derive(Clone, Debug)]
pub struct Options {
    pub tollgate: PathBuf,
    pub dir: PathBuf,
    pub seed: u64,
    pub tenants: usize,
    pub concurrency: usize,
    pub kills: u32,
    /// The room of each tenant in each wave, in thousandths of a dollar.
    pub cap_milli_usd: u64,
    /// Each kind of request must be refused so often in a row before a tenant counts as used up.
    pub refusals_in_row: u64,
    /// The simulator's.
    pub speed: String,
    pub patience: Patience,
    /// Load time between two kills, drawn from this range.
    pub kill_after_ms: std::ops::RangeInclusive<u64>,
    /// The provider lies about usage too. Then only the caps are promised.
    pub lies: bool,
    /// Some requests are sent again under an idempotency key.
    pub idempotency: bool,
    /// HTTP/2 from the gateway to the simulator.
    pub http2: bool,
    pub within: Duration,
}

struct Storm<'a> {
    options: &'a Options,
    stage: &'a Stage,
    admin: Admin,
    provider: Server,
    /// `None` only while it is being restarted.
    gateway: Option<Server>,
    crowd: Arc<Crowd>,
    aims: Aims,
    watch: Watch,
    rng: ChaCha8Rng,
    began: Instant,
    /// The same in seconds since 1970.
    began_s: i64,
    told: Instant,
    /// How many requests were admitted or refused when that number last changed, and when that was.
    last_decision: (u64, Instant),
    wave: usize,
    spent: Vec<SpentCap>,
    kills: u32,
    /// Load time until the next kill.
    kill_in: Duration,
    in_flight_at_kill: Vec<u64>,
    restarts_ms: Vec<f64>,
    pending_left: u64,
}

// === the run ===

/// Prints the tables and the last line; false when a promise was broken.
pub async fn run(options: &Options) -> Result<bool> {
    check_open_files(options)?;
    let lanes = Lanes { count: options.lanes(), http2: options.http2 };
    let stage = Stage::set(&options.dir, &options.tollgate, options.patience, 0, lanes)?;
    write_file(&stage.file("scenario.json"), &scenario(options).to_string())?;
    let outcome = async { Storm::begin(options, &stage).await?.run().await }.await;
    let broken = outcome.as_ref().map_or(true, |found| !found.broken_promises().is_empty());
    if broken {
        progress(&format!("seed {}; the store and the logs are kept in {}", options.seed, stage.keep().display()));
    }
    let findings = outcome?;
    line(&findings.tables())?;
    for example in findings.examples() {
        line(&format!("  {example}"))?;
    }
    last_line(&findings.report())?;
    Ok(!broken)
}

/// Each caller is a connection here and in the gateway; to the provider it is a stream, or with HTTP/1.1 another one.
fn check_open_files(options: &Options) -> Result<()> {
    let callers = options.concurrency + options.concurrency / 10;
    let needed = FILES_BESIDES + if options.http2 { callers } else { 2 * callers };
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let needed = needed as u64;
    ensure!(
        maximum.is_none_or(|maximum| maximum >= needed),
        "{} callers need {needed} open files, and the hard limit is {} (ulimit -Hn): fewer callers with --concurrency, or raise it",
        options.concurrency,
        maximum.unwrap_or_default(),
    );
    if current.is_some_and(|current| current < needed) {
        // Whoever is started from here inherits it.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("cannot raise the open files")?;
    }
    Ok(())
}

/// Faults of every sort, each rare enough that most requests get through. One is missing: `overbills`, since no books of
/// ours can know what a provider bills and does not tell.
fn scenario(options: &Options) -> Value {
    let mut scenario = json!({
        "faults": {
            "rate-limit": 0.01, "error-500": 0.01, "error-503": 0.005, "reset": 0.01, "no-answer": 0.002,
            "slow-first-token": 0.005, "stall": 0.005, "cut": 0.02, "malformed-chunk": 0.01, "missing-done": 0.01,
            "no-usage": 0.02, "double-usage": 0.01, "ignores-limit": 0.01, "error-after-tokens": 0.01,
            "late-usage": 0.005, "usage-in-every-chunk": 0.02,
        },
        "cached_share": 0.25,
        "slow_first_token_ms": 1000,
        // Shorter than the gateway lets a stream pause.
        "late_usage_ms": options.patience.idle_ms / 2,
        // Longer than the gateway waits for a first byte, so that it is the one that gives up.
        "silence_ms_max": options.patience.first_byte_ms + 1_000,
        "reset_bills_prompt": true,
    });
    if options.lies {
        scenario["faults"]["wrong-usage"] = json!(0.01);
        scenario["faults"]["absurd-usage"] = json!(0.005);
    }
    scenario
}

// === impl Options ===

impl Options {
    /// So many that no connection to the provider gets too many streams.
    fn lanes(&self) -> usize {
        self.concurrency.div_ceil(STREAMS_PER_LANE).max(1)
    }

    fn room_picousd(&self) -> i128 {
        i128::from(self.cap_milli_usd) * 1_000_000_000
    }

    /// Spread over the waves, so that every kind of cap is used up under kills.
    fn kills_due_by(&self, wave: usize) -> u32 {
        let waves = u32::try_from(wave).unwrap_or(u32::MAX);
        self.kills.div_ceil(WAVES_OF_EVERY_KIND).saturating_mul(waves).min(self.kills)
    }
}

impl<'a> Storm<'a> {
    async fn begin(options: &'a Options, stage: &'a Stage) -> Result<Self> {
        let (scenario, seed) = (stage.file("scenario.json"), options.seed.to_string());
        let scenario = scenario.to_str().context("the directory's name is not UTF-8")?;
        let arguments = ["--speed", &options.speed, "--scenario", scenario, "--seed", &seed, "--truth-max", "20000000"];
        let provider = stage.start_provider(&stage.provider, &arguments, None).await?;
        let (gateway, cold_start) = stage.start_gateway(None).await?;
        progress(&format!("seed {seed}, {} callers, ready in {cold_start:?}", options.concurrency));
        let (admin, now) = (stage.admin()?, clock::now());
        let tenants = tenants::set_up(&admin, options.tenants).await.context("setting up the tenants")?;
        progress(&format!(
            "{} tenants of {} budgets set up in {:?}",
            tenants.len(),
            admin.budgets().await?.len(),
            clock::since(now)
        ));
        let mut storm = Self {
            options,
            stage,
            admin,
            provider,
            gateway: Some(gateway),
            crowd: Arc::new(Crowd::new(stage.gateway.clone(), tenants, options.lanes(), options.refusals_in_row)),
            aims: Aims::draw(options.seed),
            watch: Watch::default(),
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            began: now,
            began_s: clock::unix_seconds(),
            told: now,
            last_decision: (0, now),
            wave: 0,
            spent: Vec::new(),
            kills: 0,
            kill_in: Duration::ZERO,
            in_flight_at_kill: Vec::new(),
            restarts_ms: Vec::new(),
            pending_left: 0,
        };
        storm.kill_in = storm.draw_kill();
        storm.decide_on_repeats().await?;
        Ok(storm)
    }

    /// Requests are repeated under idempotency keys if that is wanted, and if the gateway knows what such a key is.
    async fn decide_on_repeats(&mut self) -> Result<()> {
        if !self.options.idempotency {
            return Ok(());
        }
        let probing = Caller::new(Arc::clone(&self.crowd), self.rng.random(), 0);
        let known = probing.finds_keys_known().await?;
        if !known {
            progress("this tollgate ignores Idempotency-Key: nothing is sent again under one");
        }
        Arc::get_mut(&mut self.crowd).context("only the storm holds the crowd between waves")?.repeats = known;
        Ok(())
    }

    async fn run(mut self) -> Result<Findings> {
        let sampler = tokio::spawn(self.watch.clone().run(self.admin.clone())).abort_handle();
        while !self.is_over() {
            let wave = Wave::numbered(self.wave);
            self.one_wave(wave).await.with_context(|| format!("wave {}, {}", self.wave + 1, wave.name()))?;
            self.wave += 1;
        }
        if self.pending_left > 0 {
            progress(&format!(
                "{} holds are still pending after {SETTLED_WITHIN:?}: going no further",
                self.pending_left
            ));
        }
        self.stop_and_start_again().await?;
        self.pending_left = self.pending_left.max(self.wait_until_settled().await?);
        sampler.abort();
        self.find().await
    }

    /// One wave without kills, and each kind of cap at least once; then until the kills are done.
    fn is_over(&self) -> bool {
        let all_done = self.wave > WAVES_OF_EVERY_KIND as usize && self.kills >= self.options.kills;
        all_done || self.pending_left > 0 || self.is_time_up() || self.wave >= WAVES_MAX
    }

    fn is_time_up(&self) -> bool {
        clock::since(self.began) > self.options.within
    }

    /// Whether kills that belong into the waves so far are still to come.
    fn kills_are_due(&self) -> bool {
        self.kills < self.options.kills_due_by(self.wave)
    }

    async fn one_wave(&mut self, wave: Wave) -> Result<()> {
        let tenants: Vec<&Tenant> = self.crowd.boards.iter().map(|board| &board.tenant).collect();
        let room = self.options.room_picousd();
        // Two waves are shared, and each aims at another window.
        let shared = self.wave;
        let bindings = tenants::aim(&self.admin, &self.aims, wave, shared, &tenants, room).await?;
        self.watch.aim(&bindings);
        let used_up = self.use_up(&bindings).await?;
        let budgets = self.sample().await?;
        let spent: Vec<SpentCap> =
            bindings.iter().map(|binding| spent(self.wave, binding, &budgets, !used_up)).collect::<Result<_>>()?;
        let used_min = spent.iter().map(SpentCap::used_ratio).fold(f64::INFINITY, f64::min);
        progress(&format!(
            "{:>4.0} s  wave {} ({}) {}: {} caps bound, the least used to {:.2} %",
            clock::since(self.began).as_secs_f64(),
            self.wave + 1,
            wave.name(),
            if used_up { "done" } else { "cut short" },
            spent.len(),
            used_min * 100.0,
        ));
        self.spent.extend(spent);
        self.watch.aim(&[]);
        tenants::widen(&self.admin, &bindings).await
    }

    /// Lets the callers loose until all is refused, lets what is held settle, and again, until what binds is used up or
    /// nothing more is admitted. False when it did not come to that.
    async fn use_up(&mut self, bindings: &[Binding]) -> Result<bool> {
        let mut open: Vec<usize> = (0..self.crowd.boards.len()).collect();
        let mut callers = self.options.concurrency;
        for surge in 0..SURGES_MAX {
            open.iter().for_each(|&place| self.crowd.boards[place].open());
            let (admitted, kills) = (self.admitted_each(), self.kills);
            self.surge(callers, surge == 0 || self.kills_are_due()).await?;
            self.pending_left = self.wait_until_settled().await?;
            if self.pending_left > 0 || self.is_time_up() {
                return Ok(false);
            }
            let unused = self.unused(bindings).await?;
            let moved = |place: usize| self.kills != kills || self.crowd.boards[place].admitted() != admitted[place];
            open = unused.into_iter().filter(|place| moved(*place)).collect();
            if open.is_empty() {
                return Ok(true);
            }
            callers = self.options.concurrency.min(open.len() * LATE_CALLERS_PER_TENANT);
        }
        Ok(true)
    }

    fn admitted_each(&self) -> Vec<u64> {
        self.crowd.boards.iter().map(callers::Board::admitted).collect()
    }

    /// The tenants under whose caps there is room left.
    async fn unused(&self, bindings: &[Binding]) -> Result<Vec<usize>> {
        let budgets = self.sample().await?;
        let mut unused = vec![false; self.crowd.boards.len()];
        for binding in bindings {
            if spent(self.wave, binding, &budgets, false)?.used_ratio() >= USED_ENOUGH {
                continue;
            }
            for (place, board) in self.crowd.boards.iter().enumerate() {
                unused[place] |= match (binding.tenant, binding.aim.part) {
                    (Some(tenant), _) => tenant == place,
                    (None, Part::Plan) => binding.before.plan.as_deref() == Some(tenants::PLANS[board.tenant.plan].0),
                    (None, _) => true,
                };
            }
        }
        Ok((0..unused.len()).filter(|place| unused[*place]).collect())
    }

    async fn sample(&self) -> Result<HashMap<String, Budget>> {
        let budgets = self.admin.budgets().await?;
        self.watch.note_budgets(&budgets);
        Ok(budgets.into_iter().map(|budget| (budget.name(), budget)).collect())
    }

    /// So many callers at once, until each tenant is used up; meanwhile kills, if any are due.
    async fn surge(&mut self, crowd: usize, may_kill: bool) -> Result<()> {
        self.last_decision.1 = clock::now();
        let mut callers = JoinSet::new();
        for _ in 0..crowd {
            let place = self.rng.random_range(0..self.crowd.boards.len());
            callers.spawn(Caller::new(Arc::clone(&self.crowd), self.rng.random(), place).run());
        }
        while self.crowd.open_tenants() > 0 && !self.is_time_up() {
            let before = clock::now();
            tokio::time::sleep(TICK).await;
            self.check_alive()?;
            self.kill_in = self.kill_in.saturating_sub(clock::since(before));
            if may_kill && self.kills_are_due() && self.kill_in.is_zero() && self.is_under_load(crowd) {
                self.crash().await?;
                self.kill_in = self.draw_kill();
            }
        }
        self.crowd.boards.iter().for_each(callers::Board::close);
        while let Some(ended) = callers.join_next().await {
            ended.context("a caller panicked")?;
        }
        Ok(())
    }

    /// Nearly all callers are waiting for an answer, and some of the money is held for them: a crash now can do damage.
    fn is_under_load(&self, crowd: usize) -> bool {
        self.crowd.in_flight() * 10 >= crowd as u64 * 9 && self.watch.worst().held_ratio_last >= HELD_AT_KILL_MIN
    }

    fn draw_kill(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(self.options.kill_after_ms.clone()))
    }

    fn check_alive(&mut self) -> Result<()> {
        self.provider.check_running()?;
        if let Some(gateway) = &mut self.gateway {
            gateway.check_running().context("the gateway ended by itself")?;
        }
        self.check_decisions()?;
        if clock::since(self.told) > PROGRESS_EVERY {
            self.told = clock::now();
            self.tell();
        }
        Ok(())
    }

    /// An error when the gateway lets everybody wait.
    fn check_decisions(&mut self) -> Result<()> {
        let decided = self.crowd.decided();
        if decided != self.last_decision.0 {
            self.last_decision = (decided, clock::now());
        }
        let silence = clock::since(self.last_decision.1);
        ensure!(
            silence < DECISION_WITHIN,
            "nobody was admitted or refused for {silence:?}: {:?}",
            self.crowd.seen().endings
        );
        Ok(())
    }

    fn tell(&self) {
        let worst = self.watch.worst();
        progress(&format!(
            "{:>4.0} s  wave {:>2}  {:>4} tenants open  {:>5.1} % used  {:>4.1} % held  {:>8} sent  {:>7} admitted  {:>5} in flight  {:>2}/{} kills  over {}",
            clock::since(self.began).as_secs_f64(),
            self.wave + 1,
            self.crowd.open_tenants(),
            worst.used_ratio_last * 100.0,
            worst.held_ratio_last * 100.0,
            self.crowd.sent(),
            self.crowd.admitted(),
            self.crowd.in_flight(),
            self.kills,
            self.options.kills,
            worst.overshoot_picousd,
        ));
    }

    // --- crashes ---

    /// `kill -9` under load, the books checked as they lie on the disk, and a start on them.
    async fn crash(&mut self) -> Result<()> {
        let mut gateway = self.gateway.take().context("the gateway runs between kills")?;
        self.in_flight_at_kill.push(self.crowd.in_flight());
        gateway.kill()?;
        self.kills += 1;
        self.watch.forget_shares();
        if self.kills <= VERIFIED_KILLS || self.kills.is_multiple_of(10) {
            self.verify().with_context(|| format!("after kill {}", self.kills))?;
        }
        self.start().await
    }

    async fn stop_and_start_again(&mut self) -> Result<()> {
        let gateway = self.gateway.take().context("the gateway runs between kills")?;
        let status = gateway.stop(STOP_WITHIN).await?;
        ensure!(status.success(), "the gateway ended with {status} on SIGTERM");
        self.verify().context("after SIGTERM")?;
        self.start().await
    }

    async fn start(&mut self) -> Result<()> {
        let (gateway, took) = self.stage.start_gateway(None).await?;
        self.gateway = Some(gateway);
        self.restarts_ms.push(took.as_secs_f64() * 1e3);
        // While it was down nobody could decide.
        self.last_decision.1 = clock::now();
        let ledger = self.admin.ledger().await?;
        self.watch.worst().note_ledger(&ledger);
        Ok(())
    }

    /// `tollgate ledger verify` on the store of the stopped gateway. It must have a verdict; a drift is noted.
    fn verify(&self) -> Result<()> {
        let store = self.stage.store();
        let arguments = ["ledger", "verify", "--json", "--dir"].map(OsStr::new);
        let output = self.stage.tollgate_says(&[&arguments[..], &[store.as_os_str()]].concat())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match (drift_in(&said), output.status.success()) {
            (Some(Picousd(0)), true) | (None, true) => Ok(()),
            (Some(drift), false) if drift.0 != 0 => {
                self.watch.worst().note_drift(drift.0);
                Ok(())
            }
            _ => bail!("ledger verify: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }

    // --- the end ---

    /// Waits until nothing is held. Gives how many reservations still are when the time is up.
    async fn wait_until_settled(&mut self) -> Result<u64> {
        let from = clock::now();
        loop {
            let ledger = self.admin.ledger().await?;
            self.watch.worst().note_ledger(&ledger);
            if ledger.reservations_pending == 0 || clock::since(from) > SETTLED_WITHIN {
                return Ok(ledger.reservations_pending);
            }
            tokio::time::sleep(PROGRESS_EVERY / 20).await;
        }
    }

    async fn find(mut self) -> Result<Findings> {
        progress("reading the provider's truth and the gateway's books");
        let truth = books::read_truth(&self.stage.provider).await.context("reading the provider's truth")?;
        self.sample().await?;
        let mut seen = std::mem::take(&mut *self.crowd.seen());
        let answered = std::mem::take(&mut seen.answered);
        let answered_ids: HashSet<RequestId> = answered.keys().copied().collect();
        let (admin, crowd, began_s) = (&self.admin, &*self.crowd, self.began_s);
        let reading = Reading { admin, crowd, seen: &seen, standard: Standard::Bounded, began_s };
        let (mut books, truth) = reading.read(truth, answered).await.context("reading the gateway's books")?;
        // What a provider lied about is not to be reconciled with its bill.
        let reconciliation = if self.options.lies {
            Reconciliation::NotThere
        } else {
            books::reconcile(self.stage, reading, truth).await.context("reconciling")?
        };
        self.sample().await?;
        let pending_left = self.pending_left.max(self.wait_until_settled().await?);
        let gateway = self.gateway.take().context("the gateway runs at the end")?;
        gateway.stop(STOP_WITHIN).await?;
        self.verify().context("at the end")?;
        let leaves = leaves::compare(self.stage, std::mem::take(&mut books.reservations), &answered_ids)?;
        Ok(Findings {
            seed: self.options.seed,
            tenants: self.options.tenants,
            concurrency: self.options.concurrency,
            http2: self.options.http2,
            idempotency: self.crowd.repeats,
            waves: self.wave,
            requests: self.crowd.sent(),
            admitted: self.crowd.admitted(),
            kills: self.kills,
            kills_wanted: self.options.kills,
            in_flight_at_kill_min: self.in_flight_at_kill.iter().copied().min(),
            restart_ms_max: self.restarts_ms.iter().copied().fold(0.0, f64::max),
            elapsed_s: clock::since(self.began).as_secs_f64(),
            caps: std::mem::take(&mut self.spent),
            worst: self.watch.worst().clone(),
            pending_left,
            books,
            leaves,
            reconciliation,
            seen,
        })
    }
}

/// What became of a cap's room.
fn spent(wave: usize, binding: &Binding, budgets: &HashMap<String, Budget>, cut_short: bool) -> Result<SpentCap> {
    let (before, name) = (&binding.before, binding.before.name());
    let now = budgets.get(&name).with_context(|| format!("the budget '{name}' is gone"))?;
    Ok(SpentCap {
        wave,
        aim: binding.aim,
        basis: binding.basis,
        room_picousd: binding.room,
        posted_picousd: now.posted_picousd.0 - before.posted_picousd.0,
        bounded_picousd: now.bounded_picousd.0 - before.bounded_picousd.0,
        indeterminate_picousd: now.indeterminate_picousd.0 - before.indeterminate_picousd.0,
        rolled_over: now.resets_at != before.resets_at,
        cut_short,
    })
}

/// The drift in what `ledger verify --json` printed, if it says one.
fn drift_in(said: &str) -> Option<Picousd> {
    let value: Value = serde_json::from_str(said.trim()).ok()?;
    serde_json::from_value(value.get("drift_picousd")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::tenants::Aim;
    use super::*;

    fn options(lies: bool) -> Options {
        Options {
            tollgate: PathBuf::new(),
            dir: PathBuf::new(),
            seed: 1,
            tenants: 2,
            concurrency: 20,
            kills: 4,
            cap_milli_usd: 10,
            refusals_in_row: 5,
            speed: "1".to_owned(),
            patience: SHORT_PATIENCE,
            kill_after_ms: 50..=100,
            lies,
            idempotency: true,
            http2: true,
            within: SETTLED_WITHIN,
        }
    }

    #[test]
    fn the_drift_is_read_as_a_string_or_a_number_or_not_at_all() {
        assert_eq!(drift_in(r#"{"drift_picousd":"0","entries":3}"#), Some(Picousd(0)));
        assert_eq!(drift_in("{\"drift_picousd\":-5}\n"), Some(Picousd(-5)));
        assert_eq!(drift_in("balanced"), None);
        assert_eq!(drift_in("{}"), None);
    }

    #[test]
    fn the_faults_leave_most_requests_alone_and_lie_only_when_told() {
        for lies in [false, true] {
            let scenario = scenario(&options(lies));
            let faults = scenario["faults"].as_object().unwrap();
            let sum: f64 = faults.values().map(|share| share.as_f64().unwrap()).sum();
            assert!(sum < 0.2, "{sum}");
            assert_eq!(faults.contains_key("wrong-usage"), lies);
            assert!(!faults.contains_key("overbills"));
            assert_eq!((&scenario["silence_ms_max"], &scenario["late_usage_ms"]), (&json!(2_500), &json!(350)));
        }
    }

    #[test]
    fn kills_are_spread_over_the_waves_but_the_first() {
        let due = |kills| [0, 1, 2, 3, 9].map(|wave| Options { kills, ..options(false) }.kills_due_by(wave));
        assert_eq!(due(50), [0, 17, 34, 50, 50]);
        assert_eq!(due(4), [0, 2, 4, 4, 4]);
        assert_eq!(due(0), [0; 5]);
    }

    #[test]
    fn no_connection_to_the_provider_has_too_many_streams() {
        let lanes = |concurrency| Options { concurrency, ..options(false) }.lanes();
        assert_eq!((lanes(1), lanes(500), lanes(10_000)), (1, 1, 20));
    }

    #[test]
    fn more_callers_than_files_are_refused_in_time() {
        let error =
            check_open_files(&Options { concurrency: 1 << 40, ..options(false) }).map_err(|error| error.to_string());
        let unlimited = getrlimit(Resource::Nofile).maximum.is_none();
        assert!(unlimited || error.unwrap_err().contains("ulimit -Hn"));
    }

    #[test]
    fn of_a_cap_counts_what_was_spent_since_it_was_set() {
        let budget = |posted, indeterminate, resets_at: &str| Budget {
            posted_picousd: Picousd(posted),
            bounded_picousd: Picousd(posted / 10),
            indeterminate_picousd: Picousd(indeterminate),
            resets_at: Some(resets_at.to_owned()),
            ..Budget::default()
        };
        let binding = Binding::of_test(Aim { part: Part::Key, window: "hour" }, 100, budget(1000, 50, "a"));
        let now = |budget: Budget| spent(1, &binding, &HashMap::from([(budget.name(), budget)]), false).unwrap();
        let cap = now(budget(1090, 59, "a"));
        assert_eq!((cap.posted_picousd, cap.bounded_picousd, cap.indeterminate_picousd), (90, 9, 9));
        assert!((cap.used_ratio() - 0.99).abs() < 1e-12 && !cap.rolled_over);
        assert!(now(budget(5, 0, "b")).rolled_over);
        assert!(spent(1, &binding, &HashMap::new(), false).is_err());
    }
}
