//! From the legs of each round to the figures that are reported. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::latency::{Latencies, Summary, median};
use crate::load::Outcome;
use crate::report::{optional, table};

/// The legs of one contender in one round.
#[derive(Clone, Debug, Default)]
pub struct RoundOfOne {
    pub saturated: Outcome,
    pub open: Outcome,
    /// Chunks in one burst.
    pub streams: Outcome,
    /// A chunk at a time.
    pub paced_streams: Outcome,
    pub first_tokens: Outcome,
}

/// Resident memory of a process, at rest and at its highest.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub idle_mb: f64,
    pub load_mb: f64,
}

#[derive(Clone, Debug)]
pub struct Figures {
    /// Direct, nginx, Tollgate.
    pub rounds: Vec<[RoundOfOne; 3]>,
    pub disk: Summary,
    pub nginx: Process,
    pub tollgate: Process,
    pub cold_start: Duration,
    pub restart: Duration,
    pub restart_after_kill: Duration,
    pub binary_mb: f64,
    pub pinned: bool,
    pub short: bool,
}

/// The last line of the run. `null` where nothing was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub cpu_us_per_request: Option<f64>,
    pub nginx_cpu_us_per_request: Option<f64>,
    pub cpu_ratio_nginx: Option<f64>,
    pub cores_busy: Option<f64>,
    pub nginx_cores_busy: Option<f64>,
    pub rps_max: Option<f64>,
    pub nginx_rps_max: Option<f64>,
    pub direct_rps_max: Option<f64>,
    pub added_p50_ms: Option<f64>,
    pub added_p99_ms: Option<f64>,
    pub nginx_added_p50_ms: Option<f64>,
    pub nginx_added_p99_ms: Option<f64>,
    pub fdatasync_p50_ms: f64,
    pub fdatasync_p99_ms: f64,
    pub stream_cpu_us: Option<f64>,
    pub nginx_stream_cpu_us: Option<f64>,
    pub stream_cpu_ratio_nginx: Option<f64>,
    pub paced_stream_cpu_us: Option<f64>,
    pub nginx_paced_stream_cpu_us: Option<f64>,
    pub paced_stream_cpu_ratio_nginx: Option<f64>,
    pub stream_events: Option<f64>,
    pub ttft_added_ms: Option<f64>,
    pub ttft_added_p99_ms: Option<f64>,
    pub nginx_ttft_added_ms: Option<f64>,
    pub nginx_ttft_added_p99_ms: Option<f64>,
    pub cache_hit_cpu_ratio_nginx: Option<f64>,
    pub cache_hit_note: &'static str,
    pub rss_idle_mb: f64,
    pub rss_load_mb: f64,
    pub nginx_rss_idle_mb: f64,
    pub nginx_rss_load_mb: f64,
    pub cold_start_ms: f64,
    pub restart_ms: f64,
    pub restart_after_kill_ms: f64,
    pub binary_mb: f64,
    pub requests: u64,
    pub rounds: usize,
    pub pinned: bool,
    pub short: bool,
}

const DIRECT: usize = 0;
const NGINX: usize = 1;
const TOLLGATE: usize = 2;

// === impl Figures ===

impl Figures {
    pub fn report(&self) -> Report {
        let cpu = |leg: &Outcome| leg.cpu_us_per_request();
        let rate = |leg: &Outcome| Some(leg.requests_per_s());
        Report {
            cpu_us_per_request: self.median(TOLLGATE, |round| cpu(&round.saturated)),
            nginx_cpu_us_per_request: self.median(NGINX, |round| cpu(&round.saturated)),
            cpu_ratio_nginx: self.ratio_to_nginx(|round| cpu(&round.saturated)),
            cores_busy: self.median(TOLLGATE, |round| round.saturated.cores_busy()),
            nginx_cores_busy: self.median(NGINX, |round| round.saturated.cores_busy()),
            rps_max: self.median(TOLLGATE, |round| rate(&round.saturated)),
            nginx_rps_max: self.median(NGINX, |round| rate(&round.saturated)),
            direct_rps_max: self.median(DIRECT, |round| rate(&round.saturated)),
            added_p50_ms: self.added(TOLLGATE, 0.5, |round| &round.open.latency),
            added_p99_ms: self.added(TOLLGATE, 0.99, |round| &round.open.latency),
            nginx_added_p50_ms: self.added(NGINX, 0.5, |round| &round.open.latency),
            nginx_added_p99_ms: self.added(NGINX, 0.99, |round| &round.open.latency),
            fdatasync_p50_ms: self.disk.p50_ms,
            fdatasync_p99_ms: self.disk.p99_ms,
            stream_cpu_us: self.median(TOLLGATE, |round| cpu(&round.streams)),
            nginx_stream_cpu_us: self.median(NGINX, |round| cpu(&round.streams)),
            stream_cpu_ratio_nginx: self.ratio_to_nginx(|round| cpu(&round.streams)),
            paced_stream_cpu_us: self.median(TOLLGATE, |round| cpu(&round.paced_streams)),
            nginx_paced_stream_cpu_us: self.median(NGINX, |round| cpu(&round.paced_streams)),
            paced_stream_cpu_ratio_nginx: self.ratio_to_nginx(|round| cpu(&round.paced_streams)),
            stream_events: self
                .median(TOLLGATE, |round| Some(round.streams.events as f64 / round.streams.answered().max(1) as f64)),
            ttft_added_ms: self.added(TOLLGATE, 0.5, |round| &round.first_tokens.first_token),
            ttft_added_p99_ms: self.added(TOLLGATE, 0.99, |round| &round.first_tokens.first_token),
            nginx_ttft_added_ms: self.added(NGINX, 0.5, |round| &round.first_tokens.first_token),
            nginx_ttft_added_p99_ms: self.added(NGINX, 0.99, |round| &round.first_tokens.first_token),
            cache_hit_cpu_ratio_nginx: None,
            cache_hit_note: "there is no cache yet",
            rss_idle_mb: self.tollgate.idle_mb,
            rss_load_mb: self.tollgate.load_mb,
            nginx_rss_idle_mb: self.nginx.idle_mb,
            nginx_rss_load_mb: self.nginx.load_mb,
            cold_start_ms: self.cold_start.as_secs_f64() * 1e3,
            restart_ms: self.restart.as_secs_f64() * 1e3,
            restart_after_kill_ms: self.restart_after_kill.as_secs_f64() * 1e3,
            binary_mb: self.binary_mb,
            requests: self.requests(),
            rounds: self.rounds.len(),
            pinned: self.pinned,
            short: self.short,
        }
    }

    pub fn table(&self) -> String {
        let report = self.report();
        let aim_p99 = 2.0 + 2.0 * report.fdatasync_p99_ms;
        let rows = [
            row("CPU µs/request, 64 connections", None, report.nginx_cpu_us_per_request, report.cpu_us_per_request, ""),
            row("  × nginx", None, Some(1.0), report.cpu_ratio_nginx, "≤ 3"),
            row("  cores busy meanwhile", None, report.nginx_cores_busy, report.cores_busy, ""),
            row("requests/s", report.direct_rps_max, report.nginx_rps_max, report.rps_max, ""),
            row("added p50 ms at 500/s", None, report.nginx_added_p50_ms, report.added_p50_ms, ""),
            row(
                "added p99 ms at 500/s",
                None,
                report.nginx_added_p99_ms,
                report.added_p99_ms,
                &format!("≤ {aim_p99:.2}"),
            ),
            row("CPU µs/stream, 50 chunks in a burst", None, report.nginx_stream_cpu_us, report.stream_cpu_us, ""),
            row(
                "CPU µs/stream, 50 chunks 1 ms apart",
                None,
                report.nginx_paced_stream_cpu_us,
                report.paced_stream_cpu_us,
                "",
            ),
            row("time to first token added ms", None, report.nginx_ttft_added_ms, report.ttft_added_ms, ""),
            row("memory MB at rest", None, Some(report.nginx_rss_idle_mb), Some(report.rss_idle_mb), "≤ 30"),
            row("memory MB at most", None, Some(report.nginx_rss_load_mb), Some(report.rss_load_mb), ""),
            row("cold start ms", None, None, Some(report.cold_start_ms), ""),
            row("restart ms, after SIGTERM", None, None, Some(report.restart_ms), "≤ 1000"),
            row("restart ms, after kill -9", None, None, Some(report.restart_after_kill_ms), "≤ 1000"),
            row("binary MB", None, None, Some(report.binary_mb), "≤ 30"),
            row("fdatasync p50 ms", Some(report.fdatasync_p50_ms), None, None, ""),
            row("fdatasync p99 ms", Some(report.fdatasync_p99_ms), None, None, ""),
        ];
        table(&["", "direct", "nginx", "tollgate", "aim"], &rows)
    }

    fn median(&self, who: usize, figure: impl Fn(&RoundOfOne) -> Option<f64>) -> Option<f64> {
        median(&self.rounds.iter().filter_map(|round| figure(&round[who])).collect::<Vec<_>>())
    }

    fn ratio_to_nginx(&self, figure: impl Fn(&RoundOfOne) -> Option<f64>) -> Option<f64> {
        let ratio = |round: &[RoundOfOne; 3]| Some(figure(&round[TOLLGATE])? / figure(&round[NGINX])?);
        median(&self.rounds.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect::<Vec<_>>())
    }

    /// How much later a quantile comes than when asked directly. Noise can make it negative.
    fn added(&self, who: usize, quantile: f64, of: impl Fn(&RoundOfOne) -> &Latencies) -> Option<f64> {
        let quantile_ms = |round: &RoundOfOne| {
            let latencies = of(round);
            (latencies.count() > 0).then(|| latencies.quantile_ms(quantile))
        };
        let added = |round: &[RoundOfOne; 3]| Some(quantile_ms(&round[who])? - quantile_ms(&round[DIRECT])?);
        median(&self.rounds.iter().filter_map(added).collect::<Vec<_>>())
    }

    fn requests(&self) -> u64 {
        let legs = |round: &RoundOfOne| {
            [&round.saturated, &round.open, &round.streams, &round.paced_streams, &round.first_tokens]
                .map(Outcome::answered)
                .iter()
                .sum::<u64>()
        };
        self.rounds.iter().flatten().map(legs).sum()
    }
}

fn row(what: &str, direct: Option<f64>, nginx: Option<f64>, tollgate: Option<f64>, aim: &str) -> Vec<String> {
    let digits = |value: f64| if value.abs() >= 1000.0 { 0 } else { 2 };
    let cell = |value: Option<f64>| optional(value, value.map_or(0, digits));
    vec![what.to_owned(), cell(direct), cell(nginx), cell(tollgate), aim.to_owned()]
}

#[cfg(test)]
mod tests {
    use crate::procfs::Consumption;

    use super::*;

    fn outcome(cpu_ms: u64, latency_ms: u64) -> Outcome {
        let mut outcome = Outcome { elapsed: Duration::from_secs(1), ..Outcome::default() };
        outcome.statuses.insert(200, 1000);
        outcome.latency.record(Duration::from_millis(latency_ms));
        outcome.first_token.record(Duration::from_millis(latency_ms));
        outcome.consumed = Some(Consumption { cpu: Duration::from_millis(cpu_ms), ..Consumption::default() });
        outcome
    }

    fn one(cpu_ms: u64, latency_ms: u64) -> RoundOfOne {
        let leg = outcome(cpu_ms, latency_ms);
        let [saturated, open, streams, paced_streams] = [(); 4].map(|()| leg.clone());
        RoundOfOne { saturated, open, streams, paced_streams, first_tokens: leg }
    }

    fn figures(rounds: Vec<[RoundOfOne; 3]>) -> Figures {
        let process = Process { idle_mb: 10.0, load_mb: 20.0 };
        Figures {
            rounds,
            disk: Summary { p50_ms: 0.5, p99_ms: 1.5, ..Summary::default() },
            nginx: process,
            tollgate: process,
            cold_start: Duration::from_millis(20),
            restart: Duration::from_millis(30),
            restart_after_kill: Duration::from_millis(40),
            binary_mb: 9.5,
            pinned: true,
            short: false,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_the_median_is_reported() {
        // The machine was twice as slow in the second round, for both.
        let report = figures(vec![
            [one(10, 1), one(20, 2), one(40, 4)],
            [one(20, 1), one(40, 2), one(84, 4)],
            [one(10, 1), one(20, 2), one(44, 4)],
        ])
        .report();
        assert!((report.cpu_ratio_nginx.unwrap() - 2.1).abs() < 1e-9);
        assert!((report.cpu_us_per_request.unwrap() - 44.0).abs() < 1e-9);
        assert!((report.added_p50_ms.unwrap() - 3.0).abs() < 0.01);
        assert!((report.nginx_ttft_added_ms.unwrap() - 1.0).abs() < 0.01);
        assert_eq!(report.requests, 45_000);
    }

    #[test]
    fn the_last_line_has_every_key_that_others_rely_on() {
        let report = serde_json::to_value(figures(vec![[one(1, 1), one(1, 1), one(1, 1)]]).report()).unwrap();
        for key in [
            "cpu_us_per_request",
            "cpu_ratio_nginx",
            "added_p50_ms",
            "added_p99_ms",
            "rps_max",
            "ttft_added_ms",
            "cache_hit_cpu_ratio_nginx",
            "rss_idle_mb",
            "rss_load_mb",
            "cold_start_ms",
            "binary_mb",
        ] {
            assert!(report.get(key).is_some(), "{key}");
        }
        assert!(report["cache_hit_cpu_ratio_nginx"].is_null());
    }

    #[test]
    fn the_aim_of_the_tail_follows_the_disk() {
        let text = figures(vec![[one(1, 1), one(1, 1), one(1, 1)]]).table();
        assert!(text.contains("≤ 5.00"), "{text}");
    }

    #[test]
    fn a_figure_that_no_round_has_is_null() {
        let report = figures(vec![[RoundOfOne::default(), RoundOfOne::default(), RoundOfOne::default()]]).report();
        assert_eq!((report.cpu_us_per_request, report.added_p50_ms), (None, None));
    }
}
