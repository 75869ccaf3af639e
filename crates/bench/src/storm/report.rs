//! What a storm ends with: the figures, and the promises that were broken.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::admin::Picousd;
use crate::report::{decimals, table};

use super::books::{Books, Reconciliation};
use super::callers::{Ending, Seen};
use super::leaves::Leaves;
use super::tenants::Aim;
use super::truth::Comparison;
use super::watch::Worst;

/// At least so much of a cap is spendable.
const CAP_USED_MIN: f64 = 0.99;

/// A cap under load: what was spent of its room since it was set, after everything had settled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpentCap {
    /// From 0.
    pub wave: usize,
    pub aim: Aim,
    pub basis: &'static str,
    pub room_picousd: i128,
    /// Includes what is bounded.
    pub posted_picousd: i128,
    pub bounded_picousd: i128,
    pub indeterminate_picousd: i128,
    /// Its window ended meanwhile: what was spent before is not in it any more, and nothing is said about it.
    pub rolled_over: bool,
    /// The storm ended before all was refused under it: it was held, but how much of it can be spent is not known.
    pub cut_short: bool,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub seed: u64,
    pub tenants: usize,
    pub concurrency: usize,
    pub http2: bool,
    /// Whether requests were sent again under idempotency keys.
    pub idempotency: bool,
    pub waves: usize,
    pub requests: u64,
    pub admitted: u64,
    pub kills: u32,
    pub kills_wanted: u32,
    pub in_flight_at_kill_min: Option<u64>,
    pub restart_ms_max: f64,
    pub elapsed_s: f64,
    pub caps: Vec<SpentCap>,
    pub worst: Worst,
    /// Pending at the very end, by the gateway's own count.
    pub pending_left: u64,
    pub books: Books,
    pub leaves: Leaves,
    pub reconciliation: Reconciliation,
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
    pub unbalanced_tenants: u64,
    pub unexpected: u64,
    pub posted_picousd: i128,
    pub bounded_picousd: i128,
    pub indeterminate_picousd: i128,
    pub billed_picousd: i128,
    pub overrun_picousd: i128,
    pub events: u64,
    pub events_measured: u64,
    pub events_bounded: u64,
    pub events_indeterminate: u64,
    pub events_voided: u64,
    /// Requests that the audit log says were admitted; those that differ from the ledger's reservations.
    pub audit_leaves: u64,
    pub audit_differing: u64,
    pub audit_verified: bool,
    pub tenants: usize,
    pub waves: usize,
    pub caps: usize,
    /// Pairs of scope and window of which some cap has bound.
    pub caps_kinds: usize,
    pub caps_rolled_over: usize,
    pub caps_cut_short: usize,
    pub samples: u64,
    pub idempotency: bool,
    pub idempotency_keys: u64,
    pub idempotency_replays: u64,
    pub idempotency_conflicts: u64,
    /// Of all that was promised of a key.
    pub idempotency_broken: u64,
    pub http2: bool,
    /// None: this gateway has no such command.
    pub reconciled: Option<Reconciled>,
    pub in_flight_at_kill_min: Option<u64>,
    pub restart_ms_max: f64,
    pub concurrency: usize,
    pub elapsed_s: f64,
    pub broken_promises: Vec<String>,
}

/// The books after they were reconciled with the provider's bill.
#[derive(Debug, Serialize)]
pub struct Reconciled {
    /// Events that still differ from the bill.
    pub differing: u64,
    pub unbalanced_tenants: u64,
    pub posted_picousd: i128,
    pub overrun_picousd: i128,
    pub billed_picousd: i128,
}

// === impl SpentCap ===

impl SpentCap {
    pub fn used_ratio(&self) -> f64 {
        self.used() as f64 / self.room_picousd.max(1) as f64
    }

    fn used(&self) -> i128 {
        self.posted_picousd + self.indeterminate_picousd
    }

    fn overshoot(&self) -> i128 {
        (self.used() - self.room_picousd).max(0)
    }
}

// === impl Comparison ===

impl Comparison {
    /// What counts against caps.
    fn booked(&self) -> i128 {
        self.measured_picousd + self.bounded_picousd + self.indeterminate_picousd
    }
}

// === impl Findings ===

impl Findings {
    /// One sentence for each promise that was broken. None is what a storm is to show.
    pub fn broken_promises(&self) -> Vec<String> {
        let (books, compared) = (&self.books, &self.books.compared);
        let counts = [
            ("never over: picodollars above a cap", self.overshoot()),
            ("never phantom: holds without a request behind them", i128::from(self.phantom_holds())),
            ("books balance: drift in picodollars", self.worst.drift_picousd),
            ("never lost: billed and booked nowhere", i128::from(compared.lost)),
            ("never lost: answered without a posted event", i128::from(compared.answered_unposted)),
            ("never twice: booked more than once", i128::from(compared.twice)),
            ("never twice: broken under an idempotency key", i128::from(self.keys_broken())),
            ("explainable: events that differ from the provider's truth", i128::from(compared.mismatched)),
            ("explainable: tenants whose cap is not the sum of their events", i128::from(books.unbalanced)),
            ("audited: requests that differ between ledger and audit log", i128::from(self.leaves.differing)),
            ("a broken stream ended with [DONE]", i128::from(compared.false_ends)),
            ("answers that nobody expects", i128::from(self.unexpected())),
            ("kills that were wanted and not done", i128::from(self.kills_wanted.saturating_sub(self.kills))),
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
            .extend(self.leaves.fault.iter().map(|fault| format!("audited: the log is not what was signed: {fault}")));
        broken.extend(self.broken_by_reconciling());
        broken
    }

    fn broken_by_reconciling(&self) -> Option<String> {
        match &self.reconciliation {
            Reconciliation::NotThere => None,
            Reconciliation::Failed(why) => Some(format!("reconciled: it failed with {why}")),
            Reconciliation::Done(books) => {
                let compared = &books.compared;
                let differing = compared.mismatched + compared.lost + compared.twice + books.unbalanced;
                let unequal = compared.booked() + compared.overrun_picousd != compared.billed_picousd;
                (differing > 0 || unequal).then(|| {
                    format!(
                        "reconciled: {differing} events or tenants still differ, {} booked and {} billed",
                        compared.booked() + compared.overrun_picousd,
                        compared.billed_picousd
                    )
                })
            }
        }
    }

    pub fn report(&self) -> Report {
        let (compared, repeats) = (&self.books.compared, &self.seen.repeats);
        Report {
            requests: self.requests,
            admitted: self.admitted,
            kills: self.kills,
            overshoot_picousd: self.overshoot(),
            phantom_holds: self.phantom_holds(),
            drift_picousd: self.worst.drift_picousd,
            cap_used_min: self.cap_used_min(),
            seed: self.seed,
            lost: compared.lost,
            twice: compared.twice,
            mismatched: compared.mismatched,
            answered_unposted: compared.answered_unposted,
            false_ends: compared.false_ends,
            unbalanced_tenants: self.books.unbalanced,
            unexpected: self.unexpected(),
            posted_picousd: compared.measured_picousd + compared.bounded_picousd,
            bounded_picousd: compared.bounded_picousd,
            indeterminate_picousd: compared.indeterminate_picousd,
            billed_picousd: compared.billed_picousd,
            overrun_picousd: compared.overrun_picousd,
            events: compared.events,
            events_measured: compared.measured,
            events_bounded: compared.bounded,
            events_indeterminate: compared.indeterminate,
            events_voided: compared.voided,
            audit_leaves: self.leaves.admitted,
            audit_differing: self.leaves.differing,
            audit_verified: self.leaves.fault.is_none(),
            tenants: self.tenants,
            waves: self.waves,
            caps: self.caps.len(),
            caps_kinds: self.by_aim().len(),
            caps_rolled_over: self.caps.iter().filter(|cap| cap.rolled_over).count(),
            caps_cut_short: self.caps.iter().filter(|cap| cap.cut_short).count(),
            samples: self.worst.samples,
            idempotency: self.idempotency,
            idempotency_keys: repeats.keys,
            idempotency_replays: repeats.replayed,
            idempotency_conflicts: repeats.conflicts + repeats.unanswerable,
            idempotency_broken: self.keys_broken(),
            http2: self.http2,
            reconciled: self.reconciled(),
            in_flight_at_kill_min: self.in_flight_at_kill_min,
            restart_ms_max: self.restart_ms_max,
            concurrency: self.concurrency,
            elapsed_s: self.elapsed_s,
            broken_promises: self.broken_promises(),
        }
    }

    fn reconciled(&self) -> Option<Reconciled> {
        let Reconciliation::Done(books) = &self.reconciliation else { return None };
        Some(Reconciled {
            differing: books.compared.mismatched + books.compared.lost + books.compared.twice,
            unbalanced_tenants: books.unbalanced,
            posted_picousd: books.compared.booked(),
            overrun_picousd: books.compared.overrun_picousd,
            billed_picousd: books.compared.billed_picousd,
        })
    }

    pub fn tables(&self) -> String {
        [self.table_of_caps(), self.table_of_events(), self.table_of_endings(), self.table_of_promises()].join("\n")
    }

    /// What was found of what should not be, in its own words.
    pub fn examples(&self) -> Vec<String> {
        let first = self.worst.first.iter().chain(&self.seen.first_unexpected).map(|first| format!("first: {first}"));
        let mut examples = self.books.compared.examples.clone();
        if self.keys_broken() > 0 {
            examples.extend(self.seen.repeats.examples.iter().cloned());
        }
        if let Reconciliation::Done(books) = &self.reconciliation {
            examples.extend(books.compared.examples.iter().map(|example| format!("reconciled: {example}")));
        }
        examples.extend(self.leaves.first.iter().cloned());
        examples.extend(first);
        examples
    }

    /// Of the least used cap that was driven to refusal; 0 when there is none.
    fn cap_used_min(&self) -> f64 {
        let driven_to_refusal = self.judged_caps().filter(|cap| !cap.cut_short);
        driven_to_refusal.map(SpentCap::used_ratio).min_by(f64::total_cmp).unwrap_or(0.0)
    }

    fn judged_caps(&self) -> impl Iterator<Item = &SpentCap> {
        self.caps.iter().filter(|cap| !cap.rolled_over)
    }

    fn overshoot(&self) -> i128 {
        self.judged_caps().map(SpentCap::overshoot).fold(self.worst.overshoot_picousd, i128::max)
    }

    fn phantom_holds(&self) -> u64 {
        self.worst.overdue + self.pending_left.max(self.books.compared.pending)
    }

    fn keys_broken(&self) -> u64 {
        let repeats = &self.seen.repeats;
        let seen_by_callers = repeats.rerun + repeats.differing + repeats.forgotten;
        seen_by_callers + self.books.keys_charged_twice + self.books.charged_beyond_keys
    }

    fn unexpected(&self) -> u64 {
        [Ending::Unexpected, Ending::Hung].iter().filter_map(|ending| self.seen.endings.get(ending)).sum()
    }

    fn by_aim(&self) -> BTreeMap<Aim, Vec<&SpentCap>> {
        let mut by_aim = BTreeMap::<Aim, Vec<&SpentCap>>::new();
        for cap in self.judged_caps() {
            by_aim.entry(cap.aim).or_default().push(cap);
        }
        by_aim
    }

    fn table_of_caps(&self) -> String {
        let row = |(aim, caps): (Aim, Vec<&SpentCap>)| {
            let sum = |amount: fn(&SpentCap) -> i128| Picousd(caps.iter().map(|cap| amount(cap)).sum()).to_string();
            let charged = caps.iter().filter(|cap| cap.basis == "charge").count();
            let waves: std::collections::BTreeSet<usize> = caps.iter().map(|cap| cap.wave + 1).collect();
            let used_min = caps.iter().map(|cap| cap.used_ratio()).fold(f64::INFINITY, f64::min);
            vec![
                format!("{}, {}", aim.part.name(), aim.window),
                caps.len().to_string(),
                charged.to_string(),
                waves.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
                sum(|cap| cap.room_picousd),
                sum(|cap| cap.posted_picousd - cap.bounded_picousd),
                sum(|cap| cap.bounded_picousd),
                sum(|cap| cap.indeterminate_picousd),
                decimals(used_min * 100.0, 3),
            ]
        };
        let rows: Vec<_> = self.by_aim().into_iter().map(row).collect();
        let head = [
            "caps that bound",
            "caps",
            "of charge",
            "in waves",
            "room USD",
            "measured",
            "bounded",
            "indeterminate",
            "used at least %",
        ];
        table(&head, &rows)
    }

    fn table_of_events(&self) -> String {
        let compared = &self.books.compared;
        let row = |what: &str, count: u64, amount: i128| {
            vec![what.to_owned(), count.to_string(), Picousd(amount).to_string()]
        };
        let mut rows = vec![
            row("measured", compared.measured, compared.measured_picousd),
            row("bounded", compared.bounded, compared.bounded_picousd),
            row("indeterminate", compared.indeterminate, compared.indeterminate_picousd),
            row("voided", compared.voided, 0),
            row("all, as the provider bills them", compared.events, compared.billed_picousd),
        ];
        if let Reconciliation::Done(books) = &self.reconciliation {
            rows.push(row("reconciled", books.compared.events, books.compared.booked()));
        }
        table(&["events", "count", "USD"], &rows)
    }

    fn table_of_endings(&self) -> String {
        let row = |(ending, count): (&Ending, &u64)| vec![format!("{ending:?}"), count.to_string()];
        let mut rows: Vec<_> = self.seen.endings.iter().map(row).collect();
        rows.push(vec!["all, sent".to_owned(), self.requests.to_string()]);
        table(&["requests, as their callers saw them", "count"], &rows)
    }

    fn table_of_promises(&self) -> String {
        let row = |what: &str, figure: String| vec![what.to_owned(), figure];
        let repeats = &self.seen.repeats;
        let mut rows = vec![
            row("waves", self.waves.to_string()),
            row("kills", self.kills.to_string()),
            row("samples of the budgets", self.worst.samples.to_string()),
            row("held at most under one cap, USD", Picousd(self.worst.pending_picousd_max).to_string()),
            row("restart to ready at most, ms", decimals(self.restart_ms_max, 0)),
        ];
        if self.idempotency {
            rows.push(row("idempotency keys", repeats.keys.to_string()));
            rows.push(row("answers that came again", repeats.replayed.to_string()));
            rows.push(row("refused for another body", repeats.conflicts.to_string()));
            rows.push(row("refused for want of an answer", repeats.unanswerable.to_string()));
        }
        let rolled_over = self.caps.iter().filter(|cap| cap.rolled_over).count();
        if rolled_over > 0 {
            rows.push(row("caps whose window ended meanwhile, not judged", rolled_over.to_string()));
        }
        let cut_short = self.caps.iter().filter(|cap| cap.cut_short).count();
        if cut_short > 0 {
            rows.push(row("caps not used up when time was up", cut_short.to_string()));
        }
        let broken = self.broken_promises();
        rows.extend(broken.iter().map(|promise| row("BROKEN", promise.clone())));
        if broken.is_empty() {
            rows.push(row("promises broken", "none".to_owned()));
        }
        table(&["storm", ""], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tenants::Part;
    use super::*;

    fn cap(part: Part, posted: i128) -> SpentCap {
        SpentCap {
            wave: 0,
            aim: Aim { part, window: "day" },
            basis: "cost",
            room_picousd: 1000,
            posted_picousd: posted,
            bounded_picousd: 100,
            indeterminate_picousd: 95,
            rolled_over: false,
            cut_short: false,
        }
    }

    fn calm() -> Findings {
        let compared =
            Comparison { measured_picousd: 1705, bounded_picousd: 200, billed_picousd: 1905, ..Comparison::default() };
        Findings {
            caps: vec![cap(Part::Key, 900), cap(Part::Plan, 905)],
            worst: Worst { samples: 3, ..Worst::default() },
            books: Books { compared: compared.clone(), ..Books::default() },
            leaves: Leaves::default(),
            reconciliation: Reconciliation::Done(Box::new(Books { compared, ..Books::default() })),
            idempotency: true,
            ..Findings::default()
        }
    }

    fn reconciled(found: &mut Findings) -> &mut Books {
        let Reconciliation::Done(books) = &mut found.reconciliation else { panic!("it was done") };
        books
    }

    #[test]
    fn a_storm_without_damage_breaks_no_promise() {
        assert_eq!(calm().broken_promises(), Vec::<String>::new());
        let report = calm().report();
        assert!((report.cap_used_min - 0.995).abs() < 1e-12);
        assert_eq!((report.posted_picousd, report.bounded_picousd), (1905, 200));
        assert_eq!((report.caps, report.caps_kinds, report.caps_rolled_over), (2, 2, 0));
        assert_eq!(report.reconciled.unwrap().posted_picousd, 1905);
        let tables = calm().tables();
        assert!(tables.contains("none") && tables.contains("plan, day"), "{tables}");
    }

    #[test]
    fn each_damage_breaks_its_promise() {
        type Damage = fn(&mut Findings);
        let damages: [(&str, Damage); 24] = [
            ("audited", |found| found.leaves.differing = 1),
            ("audited", |found| found.leaves.fault = Some("entry 3".to_owned())),
            ("never over", |found| found.worst.overshoot_picousd = 1),
            ("never over", |found| found.caps[0].indeterminate_picousd = 101),
            ("never phantom", |found| found.worst.overdue = 1),
            ("never phantom", |found| found.pending_left = 1),
            ("drift", |found| found.worst.drift_picousd = -1),
            ("never lost", |found| found.books.compared.lost = 1),
            ("never lost", |found| found.books.compared.answered_unposted = 1),
            ("never twice", |found| found.books.compared.twice = 1),
            ("never twice", |found| found.books.keys_charged_twice = 1),
            ("never twice", |found| found.books.charged_beyond_keys = 1),
            ("never twice", |found| found.seen.repeats.rerun = 1),
            ("never twice", |found| found.seen.repeats.differing = 1),
            ("never twice", |found| found.seen.repeats.forgotten = 1),
            ("explainable", |found| found.books.compared.mismatched = 1),
            ("explainable", |found| found.books.unbalanced = 1),
            ("[DONE]", |found| found.books.compared.false_ends = 1),
            ("spendable", |found| found.caps[0].posted_picousd = 890),
            ("nobody expects", |found| found.seen.endings.extend([(Ending::Hung, 1)])),
            ("not done", |found| found.kills_wanted = 1),
            ("reconciled", |found| reconciled(found).compared.mismatched = 1),
            ("reconciled", |found| reconciled(found).compared.billed_picousd += 1),
            ("reconciled", |found| found.reconciliation = Reconciliation::Failed("no".to_owned())),
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
    fn a_cap_whose_window_has_ended_is_not_judged_and_that_is_said() {
        let mut found = calm();
        found.caps[0] = SpentCap { rolled_over: true, posted_picousd: 3, ..found.caps[0] };
        assert_eq!(found.broken_promises(), Vec::<String>::new());
        assert_eq!((found.report().caps_rolled_over, found.report().caps_kinds), (1, 1));
        assert!(found.tables().contains("not judged"));
    }

    #[test]
    fn a_cap_that_was_not_used_up_in_time_says_nothing_of_what_can_be_spent_and_still_may_not_be_passed() {
        let mut found = calm();
        found.caps[0] = SpentCap { cut_short: true, posted_picousd: 3, ..found.caps[0] };
        assert_eq!(found.broken_promises(), Vec::<String>::new());
        assert_eq!(found.report().caps_cut_short, 1);
        found.caps[0].posted_picousd = 906;
        assert_eq!(found.report().overshoot_picousd, 1);
        found.caps[1].cut_short = true;
        assert!(found.broken_promises().join("; ").contains("spendable"), "nothing was shown of any");
    }

    #[test]
    fn a_storm_that_nobody_watched_shows_nothing() {
        let broken = Findings::default().broken_promises().join("; ");
        assert!(broken.contains("nobody saw") && broken.contains("spendable"), "{broken}");
    }

    #[test]
    fn the_last_line_has_every_key_that_others_rely_on() {
        let report = serde_json::to_value(calm().report()).unwrap();
        let relied_on =
            ["requests", "kills", "overshoot_picousd", "phantom_holds", "drift_picousd", "cap_used_min", "seed"];
        for key in relied_on.iter().chain(&["idempotency", "reconciled"]) {
            assert!(report.get(key).is_some(), "{key}");
        }
        let without = Findings { reconciliation: Reconciliation::NotThere, ..calm() };
        assert!(serde_json::to_value(without.report()).unwrap()["reconciled"].is_null());
    }
}
