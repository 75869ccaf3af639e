//! What a storm ends with: the figures, and the promises that were broken.

use serde::Serialize;

use crate::admin::Picousd;
use crate::report::{decimals, table};

use super::callers::{Ending, Seen};
use super::truth::Comparison;
use super::watch::Worst;

/// At least so much of a cap is spendable.
const CAP_USED_MIN: f64 = 0.99;

/// One cap that was driven to refusal, after everything has settled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SpentCap {
    pub cap_picousd: i128,
    /// Includes what is bounded.
    pub posted_picousd: i128,
    pub bounded_picousd: i128,
    pub indeterminate_picousd: i128,
    /// What the tenant's events add up to: posted, and held of unknown outcome.
    pub events_picousd: i128,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub seed: u64,
    pub concurrency: usize,
    pub requests: u64,
    pub admitted: u64,
    pub kills: u32,
    pub in_flight_at_kill_min: Option<u64>,
    pub restart_ms_max: f64,
    pub elapsed_s: f64,
    pub caps: Vec<SpentCap>,
    pub worst: Worst,
    /// Pending at the very end, by the gateway's own count.
    pub pending_left: u64,
    pub books: Comparison,
    pub seen: Seen,
}

/// The last line of the run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub requests: u64,
    pub admitted: u64,
    pub kills: u32,
    pub overshoot_picousd: i128,
    pub phantom_holds: u64,
    pub drift_picousd: i128,
    pub cap_used_min: f64,
    pub seed: u64,
    pub lost: u64,
    pub twice: u64,
    pub mismatched: u64,
    pub answered_unposted: u64,
    pub false_ends: u64,
    pub unbalanced_caps: usize,
    pub unexpected: u64,
    pub posted_picousd: i128,
    pub bounded_picousd: i128,
    pub indeterminate_picousd: i128,
    pub events: u64,
    pub events_measured: u64,
    pub events_bounded: u64,
    pub events_indeterminate: u64,
    pub events_voided: u64,
    pub caps: usize,
    pub samples: u64,
    pub in_flight_at_kill_min: Option<u64>,
    pub restart_ms_max: f64,
    pub concurrency: usize,
    pub elapsed_s: f64,
    pub broken_promises: Vec<String>,
}

// === impl SpentCap ===

impl SpentCap {
    pub fn used_ratio(&self) -> f64 {
        (self.posted_picousd + self.indeterminate_picousd) as f64 / self.cap_picousd.max(1) as f64
    }

    fn overshoot(&self) -> i128 {
        (self.posted_picousd + self.indeterminate_picousd - self.cap_picousd).max(0)
    }

    /// Whether the budget is what its events add up to.
    pub fn is_balanced(&self) -> bool {
        self.posted_picousd + self.indeterminate_picousd == self.events_picousd
    }
}

// === impl Findings ===

impl Findings {
    /// One sentence for each promise that was broken. None is what a storm is to show.
    pub fn broken_promises(&self) -> Vec<String> {
        let counts = [
            ("never over: picodollars above a cap", self.overshoot()),
            ("never phantom: holds without a request behind them", i128::from(self.phantom_holds())),
            ("books balance: drift in picodollars", self.worst.drift_picousd),
            ("never lost: billed and booked nowhere", i128::from(self.books.lost)),
            ("never lost: answered without a posted event", i128::from(self.books.answered_unposted)),
            ("never twice: booked more than once", i128::from(self.books.twice)),
            ("explainable: events that differ from the provider's truth", i128::from(self.books.mismatched)),
            ("explainable: caps that differ from the sum of their events", self.unbalanced_caps() as i128),
            ("a broken stream ended with [DONE]", i128::from(self.books.false_ends)),
            ("answers that nobody expects", i128::from(self.unexpected())),
        ];
        let mut broken: Vec<String> =
            counts.iter().filter(|(_, count)| *count != 0).map(|(what, count)| format!("{what}: {count}")).collect();
        if self.cap_used_min() < CAP_USED_MIN {
            broken.push(format!("spendable: only {:.4} of a cap", self.cap_used_min()));
        }
        if self.worst.samples == 0 {
            broken.push("nobody saw: the budgets were never sampled".to_owned());
        }
        broken
    }

    pub fn report(&self) -> Report {
        let sum = |amount: fn(&SpentCap) -> i128| self.caps.iter().map(amount).sum();
        Report {
            requests: self.requests,
            admitted: self.admitted,
            kills: self.kills,
            overshoot_picousd: self.overshoot(),
            phantom_holds: self.phantom_holds(),
            drift_picousd: self.worst.drift_picousd,
            cap_used_min: self.cap_used_min(),
            seed: self.seed,
            lost: self.books.lost,
            twice: self.books.twice,
            mismatched: self.books.mismatched,
            answered_unposted: self.books.answered_unposted,
            false_ends: self.books.false_ends,
            unbalanced_caps: self.unbalanced_caps(),
            unexpected: self.unexpected(),
            posted_picousd: sum(|cap| cap.posted_picousd),
            bounded_picousd: sum(|cap| cap.bounded_picousd),
            indeterminate_picousd: sum(|cap| cap.indeterminate_picousd),
            events: self.books.events,
            events_measured: self.books.measured,
            events_bounded: self.books.bounded,
            events_indeterminate: self.books.indeterminate,
            events_voided: self.books.voided,
            caps: self.caps.len(),
            samples: self.worst.samples,
            in_flight_at_kill_min: self.in_flight_at_kill_min,
            restart_ms_max: self.restart_ms_max,
            concurrency: self.concurrency,
            elapsed_s: self.elapsed_s,
            broken_promises: self.broken_promises(),
        }
    }

    pub fn tables(&self) -> String {
        [self.table_of_caps(), self.table_of_events(), self.table_of_endings(), self.table_of_promises()].join("\n")
    }

    /// Of the least used cap; 0 when there is none.
    fn cap_used_min(&self) -> f64 {
        self.caps.iter().map(SpentCap::used_ratio).min_by(f64::total_cmp).unwrap_or(0.0)
    }

    fn overshoot(&self) -> i128 {
        self.caps.iter().map(SpentCap::overshoot).fold(self.worst.overshoot_picousd, i128::max)
    }

    fn phantom_holds(&self) -> u64 {
        self.worst.overdue + self.pending_left.max(self.books.pending)
    }

    fn unbalanced_caps(&self) -> usize {
        self.caps.iter().filter(|cap| !cap.is_balanced()).count()
    }

    fn unexpected(&self) -> u64 {
        [Ending::Unexpected, Ending::Hung].iter().filter_map(|ending| self.seen.endings.get(ending)).sum()
    }

    fn table_of_caps(&self) -> String {
        let dollars = |amount: i128| Picousd(amount).to_string();
        let row = |(index, cap): (usize, &SpentCap)| {
            vec![
                format!("{}{}", index + 1, if index == 0 { " (no kills)" } else { "" }),
                dollars(cap.cap_picousd),
                dollars(cap.posted_picousd - cap.bounded_picousd),
                dollars(cap.bounded_picousd),
                dollars(cap.indeterminate_picousd),
                decimals(cap.used_ratio() * 100.0, 3),
            ]
        };
        let rows: Vec<_> = self.caps.iter().enumerate().map(row).collect();
        table(&["cap", "USD", "measured", "bounded", "indeterminate", "used %"], &rows)
    }

    fn table_of_events(&self) -> String {
        let books = &self.books;
        let row = |what: &str, count: u64, amount: i128| {
            vec![what.to_owned(), count.to_string(), Picousd(amount).to_string()]
        };
        let rows = [
            row("measured", books.measured, books.measured_picousd),
            row("bounded", books.bounded, books.bounded_picousd),
            row("indeterminate", books.indeterminate, books.indeterminate_picousd),
            row("voided", books.voided, 0),
        ];
        table(&["events", "count", "USD"], &rows)
    }

    fn table_of_endings(&self) -> String {
        let row = |(ending, count): (&Ending, &u64)| vec![format!("{ending:?}"), count.to_string()];
        let mut rows: Vec<_> = self.seen.endings.iter().map(row).collect();
        rows.push(vec!["all, sent".to_owned(), self.requests.to_string()]);
        table(&["requests, as their callers saw them", "count"], &rows)
    }

    fn table_of_promises(&self) -> String {
        let mut rows = vec![
            vec!["kills".to_owned(), self.kills.to_string()],
            vec!["samples of the budgets".to_owned(), self.worst.samples.to_string()],
            vec!["held at most, USD".to_owned(), Picousd(self.worst.pending_picousd_max).to_string()],
            vec!["restart to ready at most, ms".to_owned(), decimals(self.restart_ms_max, 0)],
        ];
        let broken = self.broken_promises();
        rows.extend(broken.iter().map(|promise| vec!["BROKEN".to_owned(), promise.clone()]));
        if broken.is_empty() {
            rows.push(vec!["promises broken".to_owned(), "none".to_owned()]);
        }
        table(&["storm", ""], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm() -> Findings {
        let cap = SpentCap {
            cap_picousd: 1000,
            posted_picousd: 900,
            bounded_picousd: 100,
            indeterminate_picousd: 95,
            events_picousd: 995,
        };
        let worst = Worst { samples: 3, ..Worst::default() };
        Findings {
            caps: vec![cap, SpentCap { posted_picousd: 905, events_picousd: 1000, ..cap }],
            worst,
            ..Findings::default()
        }
    }

    #[test]
    fn a_storm_without_damage_breaks_no_promise() {
        assert_eq!(calm().broken_promises(), Vec::<String>::new());
        let report = calm().report();
        assert!((report.cap_used_min - 0.995).abs() < 1e-12);
        assert_eq!((report.posted_picousd, report.bounded_picousd, report.indeterminate_picousd), (1805, 200, 190));
        assert!(calm().tables().contains("none"));
    }

    #[test]
    fn each_damage_breaks_its_promise() {
        type Damage = fn(&mut Findings);
        let damages: [(&str, Damage); 13] = [
            ("never over", |found| found.worst.overshoot_picousd = 1),
            ("never over", |found| found.caps[0].indeterminate_picousd = 101),
            ("never phantom", |found| found.worst.overdue = 1),
            ("never phantom", |found| found.pending_left = 1),
            ("drift", |found| found.worst.drift_picousd = -1),
            ("never lost", |found| found.books.lost = 1),
            ("never lost", |found| found.books.answered_unposted = 1),
            ("never twice", |found| found.books.twice = 1),
            ("explainable", |found| found.books.mismatched = 1),
            ("explainable", |found| found.caps[1].events_picousd += 1),
            ("[DONE]", |found| found.books.false_ends = 1),
            ("spendable", |found| found.caps[0].posted_picousd = 890),
            ("nobody expects", |found| found.seen.endings.extend([(Ending::Hung, 1)])),
        ];
        for (promise, damage) in damages {
            let mut found = calm();
            damage(&mut found);
            let broken = found.broken_promises().join("; ");
            assert!(broken.contains(promise), "{promise}: {broken}");
            assert!(found.tables().contains("BROKEN"));
        }
    }

    #[test]
    fn a_storm_that_nobody_watched_shows_nothing() {
        let broken = Findings::default().broken_promises().join("; ");
        assert!(broken.contains("nobody saw") && broken.contains("spendable"), "{broken}");
    }

    #[test]
    fn the_last_line_has_every_key_that_others_rely_on() {
        let report = serde_json::to_value(calm().report()).unwrap();
        for key in ["requests", "kills", "overshoot_picousd", "phantom_holds", "drift_picousd", "cap_used_min", "seed"]
        {
            assert!(report.get(key).is_some(), "{key}");
        }
    }
}
