//! `make storm`: the real binary under thousands of concurrent callers, a provider that fails, and `kill -9`; then its
//! books against the provider's own.
//!
//! Caps are driven to refusal one after another, each a tenant of its own: the first without kills, the others until
//! the kills are done. Everything drawn comes from the seed; what the machine makes of it in time does not.

mod callers;
mod errand;
mod report;
mod truth;
mod watch;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use http::header::HeaderValue;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::admin::{Admin, Budget, Picousd, Scope, State, UsageEvent};
use crate::clock;
use crate::http::{Connection, bearer_value};
use crate::process::Server;
use crate::report::{last_line, line, progress};
use crate::stage::{Patience, Stage, write_file};

use callers::{Board, Caller};
use report::{Findings, SpentCap};
use truth::{Comparison, TrueCost};
use watch::Watch;

/// How slow the provider may be, at a realistic speed, before the gateway gives up: not long, since some are silent.
pub const PATIENCE: Patience = Patience { first_byte_ms: 6_000, idle_ms: 1_500, total_ms: 30_000 };
/// The same for a fast provider.
pub const SHORT_PATIENCE: Patience = Patience { first_byte_ms: 1_500, idle_ms: 700, total_ms: 10_000 };
const TICK: Duration = Duration::from_millis(5);
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// After the last caller has gone, what is held must be settled within its deadline and the recovery window.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// A kill waits until this share of the cap is held.
const HELD_AT_KILL_MIN: f64 = 0.01;
/// When less than one in so many callers was admitted, the cap is nearly used up.
const FEW: u64 = 4;
/// With thousands of callers, some request is admitted or refused all the time.
const DECISION_WITHIN: Duration = Duration::from_secs(45);
/// The view of the journal must have caught up.
const VIEW_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(45);
/// The smallest part of the cap of a key that is less than the tenant's: it runs dry first.
const KEY_CAP_SHARE_PERCENT: u64 = 60;

#[derive(Clone, Debug)]
pub struct Options {
    pub tollgate: PathBuf,
    pub dir: PathBuf,
    pub seed: u64,
    pub concurrency: usize,
    pub kills: u32,
    /// Of each tenant, for its lifetime, in thousandths of a dollar.
    pub cap_milli_usd: u64,
    /// Each kind of request must be refused so often in a row before a cap counts as used up.
    pub refusals_in_row: u64,
    /// The simulator's.
    pub speed: String,
    pub patience: Patience,
    /// Load time between two kills, drawn from this range.
    pub kill_after_ms: std::ops::RangeInclusive<u64>,
    /// The provider lies about usage too. Then only the caps are promised.
    pub lies: bool,
    pub within: Duration,
}

/// A tenant whose cap is to be used up.
struct Cap {
    tenant: String,
    authorizations: Vec<HeaderValue>,
}

struct Storm<'a> {
    options: &'a Options,
    stage: &'a Stage,
    admin: Admin,
    provider: Server,
    /// `None` only while it is being restarted.
    gateway: Option<Server>,
    board: Arc<Board>,
    watch: Watch,
    rng: ChaCha8Rng,
    began: Instant,
    told: Instant,
    /// How many requests were admitted or refused when that number last changed, and when that was.
    last_decision: (u64, Instant),
    kills: u32,
    /// Load time until the next kill.
    kill_in: Duration,
    in_flight_at_kill: Vec<u64>,
    restarts_ms: Vec<f64>,
}

// === the run ===

/// Prints the tables and the last line; false when a promise was broken.
pub async fn run(options: &Options) -> Result<bool> {
    let stage = Stage::set(&options.dir, &options.tollgate, options.patience, 0)?;
    write_file(&stage.file("scenario.json"), &scenario(options).to_string())?;
    let outcome = async { Storm::begin(options, &stage).await?.run().await }.await;
    let broken = outcome.as_ref().map_or(true, |found| !found.broken_promises().is_empty());
    if broken {
        progress(&format!("seed {}; the store and the logs are kept in {}", options.seed, stage.keep().display()));
    }
    let findings = outcome?;
    line(&findings.tables())?;
    for example in &findings.books.examples {
        line(&format!("  {example}"))?;
    }
    for first in findings.worst.first.iter().chain(&findings.seen.first_unexpected) {
        line(&format!("  first: {first}"))?;
    }
    last_line(&findings.report())?;
    Ok(!broken)
}

/// Faults of every sort, each rare enough that most requests get through.
fn scenario(options: &Options) -> Value {
    let mut scenario = json!({
        "faults": {
            "rate-limit": 0.01, "error-500": 0.01, "error-503": 0.005, "reset": 0.01, "no-answer": 0.002,
            "slow-first-token": 0.005, "stall": 0.005, "cut": 0.02, "malformed-chunk": 0.01, "missing-done": 0.01,
            "no-usage": 0.02, "double-usage": 0.01,
        },
        "cached_share": 0.25,
        "slow_first_token_ms": 1000,
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

impl<'a> Storm<'a> {
    async fn begin(options: &'a Options, stage: &'a Stage) -> Result<Self> {
        let (scenario, seed) = (stage.file("scenario.json"), options.seed.to_string());
        let scenario = scenario.to_str().context("the directory's name is not UTF-8")?;
        let arguments = ["--speed", &options.speed, "--scenario", scenario, "--seed", &seed];
        let provider = stage.start_provider(&stage.provider, &arguments, None).await?;
        let (gateway, cold_start) = stage.start_gateway(None).await?;
        progress(&format!("seed {seed}, {} callers, ready in {cold_start:?}", options.concurrency));
        let now = clock::now();
        let mut storm = Self {
            options,
            stage,
            admin: stage.admin()?,
            provider,
            gateway: Some(gateway),
            board: Arc::default(),
            watch: Watch::default(),
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            began: now,
            told: now,
            last_decision: (0, now),
            kills: 0,
            kill_in: Duration::ZERO,
            in_flight_at_kill: Vec::new(),
            restarts_ms: Vec::new(),
        };
        storm.kill_in = storm.draw_kill();
        Ok(storm)
    }

    async fn run(mut self) -> Result<Findings> {
        let mut tenants = Vec::new();
        let mut pending_left = 0;
        while tenants.is_empty() || self.kills < self.options.kills {
            let cap = self.open_cap(tenants.len() + 1).await.context("setting up a tenant")?;
            let may_kill = !tenants.is_empty();
            let sampler = tokio::spawn(self.watch.clone().run(self.admin.clone(), cap.tenant.clone()));
            let used_up = self.use_up(&cap, may_kill).await;
            sampler.abort();
            pending_left = used_up.with_context(|| format!("using up the cap of {}", cap.tenant))?;
            tenants.push(cap.tenant);
            if pending_left > 0 {
                progress(&format!("{pending_left} holds are still pending after {SETTLED_WITHIN:?}: going no further"));
                break;
            }
        }
        self.stop_and_start_again().await?;
        pending_left = pending_left.max(self.wait_until_settled().await?);
        self.find(&tenants, pending_left).await
    }

    /// A tenant with a lifetime cap, a project with a cap of the same size for the day, and two keys whose caps for the
    /// day are smaller, but not together.
    async fn open_cap(&mut self, number: usize) -> Result<Cap> {
        let tenant = format!("storm-{number}");
        self.admin.create_tenant(&tenant).await?;
        self.admin.create_project(&tenant, "main").await?;
        let whole = dollars(self.options.cap_milli_usd * 1000);
        let part = dollars(self.options.cap_milli_usd * 10 * KEY_CAP_SHARE_PERCENT);
        let scope = Scope { tenant: &tenant, project: None, key: None };
        self.admin.put_budget(scope, "lifetime", &whole).await?;
        let scope = Scope { project: Some("main"), ..scope };
        self.admin.put_budget(scope, "day", &whole).await?;
        let mut authorizations = Vec::new();
        for _ in 0..2 {
            let key = self.admin.create_key(&tenant, "main", json!({})).await?;
            self.admin.put_budget(Scope { key: Some(&key.id), ..scope }, "day", &part).await?;
            authorizations.push(bearer_value(&key.key)?);
        }
        Ok(Cap { tenant, authorizations })
    }

    /// Lets the callers loose until all is refused, lets what is held settle, and again, until nothing is admitted.
    /// Gives how many holds did not settle in time.
    async fn use_up(&mut self, cap: &Cap, may_kill: bool) -> Result<u64> {
        let crowd = self.options.concurrency;
        let mut callers = crowd;
        loop {
            let (admitted, kills) = (self.board.admitted(), self.kills);
            self.surge(cap, callers, may_kill && callers == crowd).await?;
            let pending = self.wait_until_settled().await?;
            let admitted = self.board.admitted() - admitted;
            if pending > 0 || (admitted == 0 && self.kills == kills) {
                return Ok(pending);
            }
            // The last cents are spent a few requests at a time: no need for the whole crowd to fetch its refusals.
            if admitted < crowd as u64 / FEW {
                callers = (crowd / 10).max(1);
            }
        }
    }

    /// So many callers at once, until each kind of request is refused again and again; meanwhile kills, if any are due.
    async fn surge(&mut self, cap: &Cap, crowd: usize, may_kill: bool) -> Result<()> {
        self.board.begin();
        self.last_decision.1 = clock::now();
        let mut callers = JoinSet::new();
        for number in 0..crowd {
            let authorization = cap.authorizations[number % cap.authorizations.len()].clone();
            let caller =
                Caller::new(self.stage.gateway.clone(), authorization, self.rng.random(), Arc::clone(&self.board));
            callers.spawn(caller.run());
        }
        while !self.board.all_refused(self.options.refusals_in_row) {
            let before = clock::now();
            tokio::time::sleep(TICK).await;
            self.check_alive(cap)?;
            self.kill_in = self.kill_in.saturating_sub(clock::since(before));
            if may_kill && self.kills < self.options.kills && self.kill_in.is_zero() && self.is_under_load(crowd) {
                self.crash().await?;
                self.kill_in = self.draw_kill();
            }
        }
        self.board.stop();
        while let Some(ended) = callers.join_next().await {
            ended.context("a caller panicked")?;
        }
        Ok(())
    }

    /// Nearly all callers are waiting for an answer, and some of the cap is held for them: a crash now can do damage.
    fn is_under_load(&self, crowd: usize) -> bool {
        self.board.in_flight() * 10 >= crowd as u64 * 9 && self.watch.worst().held_ratio_last >= HELD_AT_KILL_MIN
    }

    fn draw_kill(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(self.options.kill_after_ms.clone()))
    }

    fn check_alive(&mut self, cap: &Cap) -> Result<()> {
        self.provider.check_running()?;
        if let Some(gateway) = &mut self.gateway {
            gateway.check_running().context("the gateway ended by itself")?;
        }
        self.check_decisions()?;
        let since = clock::since(self.began);
        ensure!(since < self.options.within, "not done after {since:?}");
        if clock::since(self.told) > PROGRESS_EVERY {
            self.told = clock::now();
            self.tell(&cap.tenant, since);
        }
        Ok(())
    }

    /// An error when the gateway lets everybody wait.
    fn check_decisions(&mut self) -> Result<()> {
        let decided = self.board.decided();
        if decided != self.last_decision.0 {
            self.last_decision = (decided, clock::now());
        }
        let silence = clock::since(self.last_decision.1);
        ensure!(
            silence < DECISION_WITHIN,
            "nobody was admitted or refused for {silence:?}: {:?}",
            self.board.seen().endings
        );
        Ok(())
    }

    fn tell(&self, tenant: &str, since: Duration) {
        let worst = self.watch.worst();
        progress(&format!(
            "{:>4.0} s  {tenant:8} {:>5.1} % used  {:>7} sent  {:>7} admitted  {:>5} in flight  {:>2}/{} kills  over {}",
            since.as_secs_f64(),
            worst.used_ratio_last * 100.0,
            self.board.sent(),
            self.board.admitted(),
            self.board.in_flight(),
            self.kills,
            self.options.kills,
            worst.overshoot_picousd,
        ));
    }

    // --- crashes ---

    /// `kill -9` under load, the books checked as they lie on the disk, and a start on them.
    async fn crash(&mut self) -> Result<()> {
        let mut gateway = self.gateway.take().context("the gateway runs between kills")?;
        self.in_flight_at_kill.push(self.board.in_flight());
        gateway.kill()?;
        self.kills += 1;
        self.verify().with_context(|| format!("after kill {}", self.kills))?;
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
                self.watch.worst().note_ledger(&crate::admin::Ledger {
                    drift_picousd: drift,
                    reservations_pending: 0,
                    oldest_pending_overdue_ms: None,
                });
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

    async fn find(mut self, tenants: &[String], pending_left: u64) -> Result<Findings> {
        let truth = self.truth().await.context("reading the provider's truth")?;
        let (caps, events) = self.books(tenants).await.context("reading the gateway's books")?;
        let gateway = self.gateway.take().context("the gateway runs at the end")?;
        gateway.stop(STOP_WITHIN).await?;
        let seen = self.board.seen().clone();
        Ok(Findings {
            seed: self.options.seed,
            concurrency: self.options.concurrency,
            requests: self.board.sent(),
            admitted: self.board.admitted(),
            kills: self.kills,
            in_flight_at_kill_min: self.in_flight_at_kill.iter().copied().min(),
            restart_ms_max: self.restarts_ms.iter().copied().fold(0.0, f64::max),
            elapsed_s: clock::since(self.began).as_secs_f64(),
            caps,
            worst: self.watch.worst().clone(),
            pending_left,
            books: Comparison::of(&events, &truth, &seen.answered),
            seen,
        })
    }

    /// Each tenant's cap and all events, read again until they agree or time is up: what is asked for events is a view of
    /// the journal, and written a little later.
    async fn books(&self, tenants: &[String]) -> Result<(Vec<SpentCap>, Vec<UsageEvent>)> {
        let from = clock::now();
        loop {
            let (mut caps, mut events) = (Vec::new(), Vec::new());
            for tenant in tenants {
                let theirs = self.admin.usage(tenant).await?;
                let budgets = self.admin.budgets(tenant).await?;
                self.watch.worst().note_budgets(tenant, &budgets);
                caps.push(spent(&budgets, &theirs).with_context(|| format!("{tenant} has no lifetime cap"))?);
                events.extend(theirs);
            }
            let agree = caps.iter().all(SpentCap::is_balanced);
            if agree || clock::since(from) > VIEW_WITHIN {
                return Ok((caps, events));
            }
            tokio::time::sleep(PROGRESS_EVERY / 4).await;
        }
    }

    /// All that the provider worked on, once it works on nothing any more.
    async fn truth(&self) -> Result<Vec<TrueCost>> {
        let from = clock::now();
        loop {
            let truth = self.read_truth().await?;
            if !truth.iter().any(|one| one.in_flight) {
                return Ok(truth);
            }
            ensure!(clock::since(from) < SETTLED_WITHIN, "the provider is still at work after {SETTLED_WITHIN:?}");
            tokio::time::sleep(PROGRESS_EVERY / 4).await;
        }
    }

    async fn read_truth(&self) -> Result<Vec<TrueCost>> {
        let origin = &self.stage.provider;
        // On a connection of its own and without a time limit: it may be a hundred megabytes.
        let mut connection = Connection::open(origin).await?;
        let response = connection.send(origin.request(Method::GET, "/sim/truth.jsonl", "")?).await?;
        let body = crate::http::Answer::read(response).await?.body;
        let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).context("a line of the truth is not as expected")).collect()
    }
}

/// The state of a tenant's lifetime cap, beside the sum of its events.
fn spent(budgets: &[Budget], events: &[UsageEvent]) -> Option<SpentCap> {
    let cap = budgets.iter().find(|budget| budget.is_tenant_wide() && budget.window == "lifetime")?;
    let mut counted = HashSet::new();
    let counts = |event: &UsageEvent| match event.state {
        State::Posted => event.cost_picousd.0,
        State::Indeterminate => event.hold_cost_picousd.0,
        State::Pending | State::Voided | State::Expired => 0,
    };
    Some(SpentCap {
        cap_picousd: cap.cap_picousd.0,
        posted_picousd: cap.posted_picousd.0,
        bounded_picousd: cap.bounded_picousd.0,
        indeterminate_picousd: cap.indeterminate_picousd.0,
        events_picousd: events.iter().filter(|event| counted.insert(&event.request_id)).map(counts).sum(),
    })
}

/// Millionths of a dollar as a decimal string.
fn dollars(micro_usd: u64) -> String {
    format!("{}.{:06}", micro_usd / 1_000_000, micro_usd % 1_000_000)
}

/// The drift in what `ledger verify --json` printed, if it says one.
fn drift_in(said: &str) -> Option<Picousd> {
    let value: Value = serde_json::from_str(said.trim()).ok()?;
    serde_json::from_value(value.get("drift_picousd")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(lies: bool) -> Options {
        Options {
            tollgate: PathBuf::new(),
            dir: PathBuf::new(),
            seed: 1,
            concurrency: 20,
            kills: 1,
            cap_milli_usd: 10,
            refusals_in_row: 5,
            speed: "1".to_owned(),
            patience: SHORT_PATIENCE,
            kill_after_ms: 50..=100,
            lies,
            within: SETTLED_WITHIN,
        }
    }

    #[test]
    fn a_cap_is_written_in_dollars() {
        assert_eq!(dollars(1_000_000), "1.000000");
        assert_eq!(dollars(60_000), "0.060000");
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
            assert_eq!(scenario["silence_ms_max"], 2_500);
        }
    }

    #[test]
    fn a_spent_cap_counts_each_event_once_and_unknown_ones_at_their_hold() {
        let event = |id: &str, state| UsageEvent {
            request_id: id.to_owned(),
            state,
            confidence: None,
            hold_cost_picousd: Picousd(10),
            cost_picousd: Picousd(7),
            overrun_picousd: Picousd(0),
            outcome: None,
        };
        let events = [
            event("a", State::Posted),
            event("a", State::Posted),
            event("b", State::Indeterminate),
            event("c", State::Voided),
        ];
        let budget = Budget {
            project: None,
            key: None,
            window: "lifetime".to_owned(),
            cap_picousd: Picousd(20),
            posted_picousd: Picousd(7),
            bounded_picousd: Picousd(0),
            pending_picousd: Picousd(0),
            indeterminate_picousd: Picousd(10),
        };
        let cap = spent(std::slice::from_ref(&budget), &events).unwrap();
        assert_eq!(cap.events_picousd, 17);
        assert!((cap.used_ratio() - 0.85).abs() < 1e-12);
        assert_eq!(spent(&[Budget { window: "day".to_owned(), ..budget }], &events), None);
    }
}
