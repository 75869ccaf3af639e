//! What Prometheus reads at `/metrics`: OpenTelemetry's names for generative AI where they exist, ours under `tollgate_`.
//!
//! Counted in floats of dollars because graphs are; the books keep the picodollars. Tenants beyond a bound share the
//! label `other`, so that a hundred thousand of them do not blow up a scrape.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::workers::fleet::Standing;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tollgate_ledger::{Amounts, BudgetState};
use tollgate_serving::local::{BATCH_SIZES, Pool};
use tollgate_types::money::PICO_PER_USD;
use tollgate_types::usage::Outcome;
use tollgate_types::{Refusal, Scope, TenantId, Usage, Window};

type Labels = Vec<(&'static str, String)>;
type Dollars = Counter<f64, AtomicU64>;
type HistogramFamily = Family<Labels, Histogram, fn() -> Histogram>;

/// The label of everybody beyond the bound.
const OTHER: &str = "other";

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    refusals: Family<Labels, Counter>,
    budget_used: Family<Labels, Gauge<f64, AtomicU64>>,
    budget_alerts: Family<Labels, Counter>,
    cache_requests: Family<Labels, Counter>,
    coalesced: [Counter; 2],
    workers_up: FloatGauges,
    workers_in_flight: FloatGauges,
    drift: Gauge<f64, AtomicU64>,
    glasses: Gauge,
    pending: Gauge,
    indeterminate: Gauge,
    pub connections: Gauge,
    bearings: FloatGauges,
    runtimes: Runtimes,
    tenants_max: usize,
    series: RwLock<AllSeries>,
}

#[derive(Debug, Default)]
struct AllSeries {
    known: HashMap<TenantId, ByRoute>,
    other: ByRoute,
}

/// The models that answer a route are few: its own and its fallbacks'.
type ByRoute = HashMap<Arc<str>, Vec<Arc<Series>>>;

type FloatGauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Of the models that run here, and their queues.
#[derive(Debug, Default)]
struct Runtimes {
    depth: FloatGauges,
    tokens: FloatGauges,
    work: FloatGauges,
    oldest: FloatGauges,
    tenants: FloatGauges,
    in_flight: FloatGauges,
    instances: FloatGauges,
    busy: FloatGauges,
    goals: FloatGauges,
    window: FloatGauges,
    base: FloatGauges,
    token: FloatGauges,
    residual: FloatGauges,
    cold: FloatGauges,
    batches: Family<Labels, Counter>,
    sizes: Family<Labels, Counter>,
    texts: Family<Labels, Counter>,
    cpu: Family<Labels, Counter>,
    lost: Family<Labels, Counter>,
}

#[derive(Clone, Debug)]
struct Families {
    requests: Family<Labels, Counter>,
    cost: Family<Labels, Dollars>,
    charge: Family<Labels, Dollars>,
    overrun: Family<Labels, Dollars>,
    overhead: Histogram,
    tokens: HistogramFamily,
    duration: HistogramFamily,
    first_chunk: HistogramFamily,
}

/// What is counted for one tenant, route and model: looked up once an attempt.
#[derive(Debug)]
pub struct Series {
    tenant: String,
    route: String,
    model: String,
    families: Families,
    completed: Counter,
    cost: Dollars,
    charge: Dollars,
    input: Histogram,
    output: Histogram,
    duration: Histogram,
    first_chunk: Histogram,
}

// === impl Metrics ===

impl Metrics {
    pub fn new(tenants_max: usize) -> Self {
        let mut registry = Registry::default();
        let families = Families::registered(&mut registry);
        let (refusals, budget_used, budget_alerts) = (Family::default(), Family::default(), Family::default());
        let (drift, pending, indeterminate, connections) =
            (Gauge::default(), Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("tollgate_refusals", "Requests refused, by code", Family::clone(&refusals));
        registry.register(
            "tollgate_budget_used_ratio",
            "Part of a tenant's cap that is used or held",
            Family::clone(&budget_used),
        );
        registry.register(
            "tollgate_budget_alerts",
            "Thresholds of budgets that were crossed; without a tenant: the platform's and plans'",
            Family::clone(&budget_alerts),
        );
        let (workers_up, workers_in_flight) = (FloatGauges::default(), FloatGauges::default());
        registry.register("tollgate_worker_up", "Whether a worker answers", Family::clone(&workers_up));
        registry.register(
            "tollgate_worker_in_flight",
            "Requests that a worker was handed and has not answered",
            Family::clone(&workers_in_flight),
        );
        let coalesced = [Counter::default(), Counter::default()];
        registry.register("tollgate_coalesced_calls", "Calls that requests could share", coalesced[0].clone());
        registry.register("tollgate_coalesced_requests", "Requests that were sent in such calls", coalesced[1].clone());
        let cache_requests = Family::<Labels, Counter>::default();
        registry.register(
            "tollgate_cache_requests",
            "Requests by what a cache had to do with them",
            Family::clone(&cache_requests),
        );
        let glasses = Gauge::default();
        registry.register(
            "tollgate_break_glass_active",
            "People who are platform admins for an emergency",
            Gauge::clone(&glasses),
        );
        registry.register(
            "tollgate_ledger_drift_picousd",
            "What the ledger's sums disagree by; zero",
            Gauge::clone(&drift),
        );
        registry.register(
            "tollgate_reservations_pending",
            "Reservations whose request is under way",
            Gauge::clone(&pending),
        );
        registry.register(
            "tollgate_reservations_indeterminate",
            "Reservations that a crash left in doubt",
            Gauge::clone(&indeterminate),
        );
        registry.register("tollgate_connections", "Open client connections", Gauge::clone(&connections));
        let bearings = FloatGauges::default();
        registry.register(
            "tollgate_provider_concurrency_limit",
            "Requests at a time that a provider is found to bear",
            Family::clone(&bearings),
        );
        let runtimes = Runtimes::registered(&mut registry);
        let series = RwLock::default();
        Self {
            registry,
            families,
            refusals,
            budget_used,
            budget_alerts,
            cache_requests,
            coalesced,
            workers_up,
            workers_in_flight,
            drift,
            glasses,
            pending,
            indeterminate,
            connections,
            bearings,
            runtimes,
            tenants_max,
            series,
        }
    }

    /// The series of a tenant, route and model, under the tenant's name or, beyond the bound, `other`.
    pub fn series(&self, tenant: &TenantId, route: &Arc<str>, model: &str) -> Arc<Series> {
        let found = |routes: &ByRoute| routes.get(route)?.iter().find(|series| series.model == model).cloned();
        {
            let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
            let of_others = || all.known.len() >= self.tenants_max && !all.known.contains_key(tenant);
            let known = all.known.get(tenant).and_then(found);
            if let Some(found) = known.or_else(|| of_others().then(|| found(&all.other)).flatten()) {
                return found;
            }
        }
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let known = all.known.contains_key(tenant) || all.known.len() < self.tenants_max;
        let label = if known { tenant.as_str() } else { OTHER };
        let routes = if known { all.known.entry(tenant.clone()).or_default() } else { &mut all.other };
        found(routes).unwrap_or_else(|| {
            let made = Arc::new(Series::of(&self.families, label, route, model));
            routes.entry(Arc::clone(route)).or_default().push(Arc::clone(&made));
            made
        })
    }

    pub fn refused(&self, refusal: &Refusal) {
        self.refusals.get_or_create(&vec![("code", refusal.code().to_owned())]).inc();
    }

    /// Notes how far budgets are used: of tenants with a label of their own only.
    pub fn budgets(&self, budgets: &[BudgetState]) {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        for budget in budgets.iter().filter(|budget| budget.scope.kind() == "tenant") {
            let (Some(tenant), Some(cap)) = (budget.scope.tenant(), budget.budget.cap) else { continue };
            let (window, basis) = (budget.budget.window, budget.budget.basis);
            if !all.known.contains_key(tenant) || cap.0 == 0 {
                continue;
            }
            let labels =
                vec![("tenant", tenant.to_string()), ("window", window.to_string()), ("basis", basis.to_string())];
            let used = budget.sums.used(basis).0 as f64 / cap.0 as f64;
            self.budget_used.get_or_create(&labels).set(used);
        }
    }

    /// Counts a threshold that was crossed.
    pub fn alerted(&self, scope: &Scope, window: Window) {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let tenant = match scope.tenant() {
            None => "",
            Some(tenant) if all.known.contains_key(tenant) => tenant.as_str(),
            Some(_) => OTHER,
        };
        self.budget_alerts.get_or_create(&vec![("tenant", tenant.to_owned()), ("window", window.to_string())]).inc();
    }

    /// Counts a call that so many requests share.
    pub fn coalesced(&self, requests: usize) {
        let [calls, all] = &self.coalesced;
        calls.inc();
        all.inc_by(requests as u64);
    }

    /// Counts what a cache had to do with a request.
    pub fn cached(&self, tier: &str, outcome: &str) {
        let labels = vec![("tier", tier.to_owned()), ("outcome", outcome.to_owned())];
        self.cache_requests.get_or_create(&labels).inc();
    }

    pub fn broken_glasses(&self, people: usize) {
        self.glasses.set(i64::try_from(people).unwrap_or(i64::MAX));
    }

    pub fn ledger(&self, audit: &tollgate_ledger::Audit) {
        self.drift.set(audit.drift.0 as f64);
        self.pending.set(i64::try_from(audit.reservations_pending).unwrap_or(i64::MAX));
        self.indeterminate.set(i64::try_from(audit.reservations_indeterminate).unwrap_or(i64::MAX));
    }

    /// Notes how many requests at a time a provider is found to bear.
    pub fn bearing(&self, provider: &str, limit: u32) {
        self.bearings.get_or_create(&vec![("provider", provider.to_owned())]).set(f64::from(limit));
    }

    /// Notes how a worker stands.
    pub fn worker(&self, standing: &Standing) {
        let labels = vec![("worker", standing.worker.trim_start_matches("worker ").to_owned())];
        self.workers_up.get_or_create(&labels).set(f64::from(u8::from(standing.up)));
        self.workers_in_flight.get_or_create(&labels).set(standing.in_flight as f64);
    }

    /// Those that a reload took away are not shown any more; the others are noted again.
    pub fn forget_runtimes(&self) {
        self.runtimes.forget();
    }

    /// Notes where a runtime and its queue stand.
    pub fn runtime(&self, name: &str, pool: &Pool) {
        self.runtimes.note(name, pool);
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            let _ = writeln!(text, "# the metrics cannot be written as text");
        }
        text
    }
}

// === impl Runtimes ===

impl Runtimes {
    fn registered(registry: &mut Registry) -> Self {
        let all = Self::default();
        let gauges = [
            ("tollgate_queue_depth", "Texts that wait for a runtime", &all.depth),
            ("tollgate_queue_tokens", "Tokens that wait for a runtime", &all.tokens),
            ("tollgate_queue_work_seconds", "Until all that waits is done, were nothing to come", &all.work),
            ("tollgate_queue_oldest_age_seconds", "How long the oldest has waited", &all.oldest),
            ("tollgate_queue_tenants", "Tenants that have something waiting", &all.tenants),
            ("tollgate_runtime_in_flight", "Texts that are worked on", &all.in_flight),
            ("tollgate_runtime_instances", "Threads of a runtime", &all.instances),
            ("tollgate_runtime_busy", "Threads of a runtime that work", &all.busy),
            (
                "tollgate_goal_attainment_ratio",
                "Share of the last ten seconds' texts done within their goals",
                &all.goals,
            ),
            ("tollgate_batch_window_seconds", "How long the oldest of a batch has waited, smoothed", &all.window),
            ("tollgate_runtime_batch_base_seconds", "Learned: what a batch takes whatever is in it", &all.base),
            ("tollgate_runtime_token_seconds", "Learned: what a token takes", &all.token),
            ("tollgate_runtime_residual_p99_seconds", "What the prediction of a batch is off by", &all.residual),
            ("tollgate_runtime_cold_start_seconds", "From the first thread's start to readiness", &all.cold),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, Family::clone(gauge));
        }
        registry.register("tollgate_batches", "Batches done", all.batches.clone());
        registry.register(
            "tollgate_batch_size",
            "Batches by their texts, cumulative as a histogram is",
            all.sizes.clone(),
        );
        registry.register("tollgate_runtime_texts", "Texts done", all.texts.clone());
        registry.register(
            "tollgate_runtime_cpu_us",
            "CPU time of a runtime's threads, in microseconds",
            all.cpu.clone(),
        );
        registry.register("tollgate_runtime_workers_lost", "Workers that panicked or stood still", all.lost.clone());
        all
    }

    fn forget(&self) {
        let gauges =
            [&self.depth, &self.tokens, &self.work, &self.oldest, &self.tenants, &self.in_flight, &self.instances];
        let more = [&self.busy, &self.goals, &self.window, &self.base, &self.token, &self.residual, &self.cold];
        gauges.into_iter().chain(more).for_each(Family::clear);
        [&self.batches, &self.sizes, &self.texts, &self.cpu, &self.lost].into_iter().for_each(Family::clear);
    }

    fn note(&self, name: &str, pool: &Pool) {
        let state = pool.state();
        let of = |worker: Option<usize>| {
            let worker = worker.map(|number| ("worker", number.to_string()));
            std::iter::once(("runtime", name.to_owned())).chain(worker).collect::<Labels>()
        };
        let labels = of(None);
        let set = |gauge: &FloatGauges, value: f64| {
            gauge.get_or_create(&labels).set(value);
        };
        set(&self.depth, state.depth as f64);
        set(&self.tokens, state.queued_tokens as f64);
        set(&self.work, state.queued_work.as_secs_f64());
        set(&self.oldest, state.oldest_age.as_secs_f64());
        set(&self.tenants, state.tenants_waiting as f64);
        set(&self.in_flight, state.in_flight as f64);
        set(&self.instances, pool.layout().instances as f64);
        set(&self.busy, state.workers_busy as f64);
        set(&self.goals, state.goal_attainment);
        set(&self.window, state.effective_window.as_secs_f64());
        set(&self.cold, pool.warmth.ready.as_secs_f64());
        for (number, worker) in state.workers.iter().enumerate() {
            let labels = of(Some(number));
            self.base.get_or_create(&labels).set(worker.cost.base.as_secs_f64());
            self.token.get_or_create(&labels).set(worker.cost.per_token.as_secs_f64());
            self.residual.get_or_create(&labels).set(worker.residual_p99.as_secs_f64());
        }
        let done = pool.done();
        // The pool counts; what is shown is what it has counted.
        let show = |family: &Family<Labels, Counter>, labels: &Labels, value: u64| {
            family.get_or_create(labels).inner().store(value, Ordering::Relaxed);
        };
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        show(&self.batches, &labels, value(&done.batches));
        show(&self.texts, &labels, value(&done.items));
        show(&self.cpu, &labels, value(&done.cpu_us));
        show(&self.lost, &labels, pool.lost());
        let mut until = 0;
        for (most, count) in BATCH_SIZES.iter().zip(&done.by_size) {
            until += value(count);
            let le = if *most == usize::MAX { "+Inf".to_owned() } else { most.to_string() };
            show(&self.sizes, &vec![("runtime", name.to_owned()), ("le", le)], until);
        }
    }
}

// === impl Families ===

impl Families {
    fn registered(registry: &mut Registry) -> Self {
        let families = Self {
            requests: Family::default(),
            cost: Family::default(),
            charge: Family::default(),
            overrun: Family::default(),
            overhead: seconds(),
            tokens: Family::new_with_constructor(tokens),
            duration: Family::new_with_constructor(seconds),
            first_chunk: Family::new_with_constructor(seconds),
        };
        registry.register("tollgate_requests", "Admitted requests, by how they ended", families.requests.clone());
        registry.register("tollgate_cost_usd", "What admitted requests cost us", families.cost.clone());
        registry.register("tollgate_charge_usd", "What tenants are charged for them", families.charge.clone());
        registry.register(
            "tollgate_overrun_usd",
            "What providers took beyond what was held: the platform's loss",
            families.overrun.clone(),
        );
        registry.register_with_unit(
            "tollgate_overhead",
            "Tollgate's own part of a request's latency",
            Unit::Seconds,
            families.overhead.clone(),
        );
        registry.register("gen_ai_client_token_usage", "Tokens of a request", families.tokens.clone());
        registry.register_with_unit(
            "gen_ai_client_operation_duration",
            "A request from its arrival to its end",
            Unit::Seconds,
            families.duration.clone(),
        );
        registry.register_with_unit(
            "gen_ai_client_time_to_first_chunk",
            "From a stream's request to its first chunk",
            Unit::Seconds,
            families.first_chunk.clone(),
        );
        families
    }
}

fn seconds() -> Histogram {
    // 0.25 ms to 131 s, doubling.
    Histogram::new((0..20).map(|n| 0.000_25 * f64::from(1 << n)))
}

fn tokens() -> Histogram {
    // The buckets that OpenTelemetry advises: powers of four.
    Histogram::new((0..14).map(|n| 4f64.powi(n)))
}

// === impl Series ===

impl Series {
    fn of(families: &Families, tenant: &str, route: &str, model: &str) -> Self {
        let labels = vec![("tenant", tenant.to_owned()), ("route", route.to_owned()), ("model", model.to_owned())];
        let token_labels =
            |kind: &str| vec![("gen_ai_request_model", route.to_owned()), ("gen_ai_token_type", kind.to_owned())];
        // Owned, not borrowed: two borrows of one family in this expression would lock each other out.
        let model_labels = vec![("gen_ai_request_model", route.to_owned())];
        Self {
            tenant: tenant.to_owned(),
            route: route.to_owned(),
            model: model.to_owned(),
            completed: families.requests.get_or_create_owned(&outcome_labels(tenant, route, model, Outcome::Completed)),
            cost: families.cost.get_or_create_owned(&labels),
            charge: families.charge.get_or_create_owned(&labels),
            input: families.tokens.get_or_create_owned(&token_labels("input")),
            output: families.tokens.get_or_create_owned(&token_labels("output")),
            duration: families.duration.get_or_create_owned(&model_labels),
            first_chunk: families.first_chunk.get_or_create_owned(&model_labels),
            families: families.clone(),
        }
    }

    /// Counts the end of a request. `waited` is the part of `took` that was the provider's.
    pub fn finished(&self, outcome: Outcome, amounts: Amounts, usage: Option<Usage>, took: Duration, waited: Duration) {
        match outcome {
            Outcome::Completed => drop(self.completed.inc()),
            other => {
                let labels = outcome_labels(&self.tenant, &self.route, &self.model, other);
                self.families.requests.get_or_create(&labels).inc();
            }
        }
        self.cost.inc_by(dollars(amounts.cost.0));
        self.charge.inc_by(dollars(amounts.charge.0));
        if let Some(usage) = usage {
            self.input.observe(usage.input_tokens as f64);
            self.output.observe(usage.output_tokens as f64);
        }
        self.duration.observe(took.as_secs_f64());
        if !waited.is_zero() {
            self.families.overhead.observe(took.saturating_sub(waited).as_secs_f64());
        }
    }

    pub fn overrun(&self, overrun: Amounts) {
        let labels =
            vec![("tenant", self.tenant.clone()), ("route", self.route.clone()), ("model", self.model.clone())];
        self.families.overrun.get_or_create_owned(&labels).inc_by(dollars(overrun.cost.0));
    }

    pub fn first_chunk(&self, took: Duration) {
        self.first_chunk.observe(took.as_secs_f64());
    }
}

fn outcome_labels(tenant: &str, route: &str, model: &str, outcome: Outcome) -> Labels {
    vec![
        ("tenant", tenant.to_owned()),
        ("route", route.to_owned()),
        ("model", model.to_owned()),
        ("outcome", outcome.name().to_owned()),
    ]
}

fn dollars(pico: u64) -> f64 {
    pico as f64 / PICO_PER_USD as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(metrics: &Metrics, tenant: &str) {
        let tenant = tenant.parse().expect("a slug");
        let amounts = Amounts { cost: tollgate_types::PicoUsd(PICO_PER_USD / 4), ..Amounts::default() };
        let series = metrics.series(&tenant, &"small".into(), "gpt-4o-mini");
        let usage = Usage { input_tokens: 10, output_tokens: 3, ..Usage::default() };
        let (took, waited) = (Duration::from_millis(30), Duration::from_millis(29));
        series.finished(Outcome::Completed, amounts, Some(usage), took, waited);
        series.finished(Outcome::ClientGone, amounts, None, took, Duration::ZERO);
    }

    #[test]
    fn requests_are_counted_under_the_names_of_the_surface() {
        let metrics = Metrics::new(10);
        finish(&metrics, "a");
        metrics.refused(&Refusal::InvalidApiKey);
        let text = metrics.render();
        for line in [
            r#"tollgate_requests_total{tenant="a",route="small",model="gpt-4o-mini",outcome="completed"} 1"#,
            r#"tollgate_requests_total{tenant="a",route="small",model="gpt-4o-mini",outcome="client_gone"} 1"#,
            r#"tollgate_cost_usd_total{tenant="a",route="small",model="gpt-4o-mini"} 0.5"#,
            r#"tollgate_refusals_total{code="invalid_api_key"} 1"#,
            r#"gen_ai_client_token_usage_sum{gen_ai_request_model="small",gen_ai_token_type="input"} 10"#,
            "tollgate_overhead_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn alerts_are_counted_by_tenant_and_window_and_those_of_many_tenants_without_one() {
        let metrics = Metrics::new(1);
        finish(&metrics, "a");
        for scope in ["a", "b"] {
            metrics.alerted(&Scope::Tenant(scope.parse().expect("a slug")), Window::Day);
        }
        metrics.alerted(&Scope::Platform, Window::RollingDay);
        let text = metrics.render();
        for labels in
            [r#"tenant="a",window="day""#, r#"tenant="other",window="day""#, r#"tenant="",window="rolling-day""#]
        {
            let line = format!("tollgate_budget_alerts_total{{{labels}}} 1");
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }

    #[test]
    fn the_models_of_one_route_are_told_apart() {
        let metrics = Metrics::new(1);
        for tenant in ["a", "b"] {
            let tenant = tenant.parse().expect("a slug");
            let of = |model: &str| metrics.series(&tenant, &"small".into(), model);
            let (first, fallback) = (of("m1"), of("m2"));
            assert!(Arc::ptr_eq(&first, &of("m1")) && Arc::ptr_eq(&fallback, &of("m2")));
            assert_eq!((&*first.model, &*fallback.model), ("m1", "m2"));
        }
    }

    #[test]
    fn tenants_beyond_the_bound_share_a_label() {
        let metrics = Metrics::new(2);
        for tenant in ["a", "b", "c", "d", "a"] {
            finish(&metrics, tenant);
        }
        let text = metrics.render();
        let completed = |tenant: &str, n: u32| {
            let line = format!(
                r#"tollgate_requests_total{{tenant="{tenant}",route="small",model="gpt-4o-mini",outcome="completed"}} {n}"#
            );
            assert!(text.contains(&line), "{line} in\n{text}");
        };
        completed("a", 2);
        completed("b", 1);
        completed("other", 2);
        assert!(!text.contains("tenant=\"c\""));
    }
}
