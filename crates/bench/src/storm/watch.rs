//! Watches the promise while the storm goes on: reads the budgets again and again and keeps the worst it saw.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admin::{Admin, Budget, Ledger};
use crate::clock;

use super::tenants::Binding;

const EVERY: Duration = Duration::from_millis(50);
/// Between two samples passes so much of the time that one takes: to be watched is not to be the gateway's main work.
const REST: u32 = 3;
/// The books as a whole are asked for once in so many samples.
const LEDGER_EVERY: u64 = 20;
/// A pending hold may be this late: the recovery window of the promise.
pub const OVERDUE_MS_MAX: i64 = 60_000;

/// The worst that was seen.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    pub samples: u64,
    /// By how much a budget was above its cap.
    pub overshoot_picousd: i128,
    /// Pending holds later than their deadline and the recovery window.
    pub overdue: u64,
    pub drift_picousd: i128,
    pub pending_picousd_max: i128,
    /// Of the rooms under the caps that bind now, the share that is posted or of unknown outcome, at the last sample.
    pub used_ratio_last: f64,
    /// The share of them that was held.
    pub held_ratio_last: f64,
    pub first: Option<String>,
}

/// Shared between the sampler and who asks for the result.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    worst: Arc<Mutex<Worst>>,
    binding: Arc<Mutex<Rooms>>,
}

/// Of each budget that binds now, by name: how much room it had, and what was used before.
type Rooms = HashMap<String, (i128, i128)>;

// === impl Watch ===

impl Watch {
    pub fn worst(&self) -> MutexGuard<'_, Worst> {
        // Counts stay good even if a holder panicked.
        self.worst.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these bind.
    pub fn aim(&self, bindings: &[Binding]) {
        let rooms = bindings.iter().map(|binding| (binding.before.name(), (binding.room, binding.before.used())));
        *self.rooms() = rooms.collect();
        self.forget_shares();
    }

    /// What was held or used is not known until the next sample.
    pub fn forget_shares(&self) {
        let mut worst = self.worst();
        (worst.used_ratio_last, worst.held_ratio_last) = (0.0, 0.0);
    }

    pub fn note_budgets(&self, budgets: &[Budget]) {
        let rooms = self.rooms();
        self.worst().note_budgets(budgets, &rooms);
    }

    /// Samples all budgets until the task is dropped. While the gateway is down there is nothing to see.
    pub async fn run(self, admin: Admin) {
        let mut round = 0_u64;
        loop {
            let from = clock::now();
            if let Ok(budgets) = admin.budgets().await {
                self.note_budgets(&budgets);
            }
            if round.is_multiple_of(LEDGER_EVERY)
                && let Ok(ledger) = admin.ledger().await
            {
                self.worst().note_ledger(&ledger);
            }
            round += 1;
            tokio::time::sleep(EVERY.max(clock::since(from) * REST)).await;
        }
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Worst ===

impl Worst {
    fn note_budgets(&mut self, budgets: &[Budget], rooms: &Rooms) {
        self.samples += 1;
        let (mut whole, mut used, mut held) = (0, 0, 0);
        for budget in budgets {
            if !rooms.is_empty()
                && let Some((room, used_before)) = rooms.get(&budget.name())
            {
                whole += room;
                used += budget.used() - used_before;
                held += budget.pending_picousd.0;
            }
            self.pending_picousd_max = self.pending_picousd_max.max(budget.pending_picousd.0);
            let overshoot = budget.overshoot();
            if overshoot > 0 {
                self.first.get_or_insert_with(|| format!("{overshoot} picodollars over: {budget:?}"));
            }
            self.overshoot_picousd = self.overshoot_picousd.max(overshoot);
        }
        if whole > 0 {
            self.used_ratio_last = used as f64 / whole as f64;
            self.held_ratio_last = held as f64 / whole as f64;
        }
    }

    pub fn note_drift(&mut self, drift_picousd: i128) {
        if drift_picousd.abs() > self.drift_picousd.abs() {
            self.drift_picousd = drift_picousd;
        }
    }

    pub fn note_ledger(&mut self, ledger: &Ledger) {
        self.note_drift(ledger.drift_picousd.0);
        if ledger.oldest_pending_overdue_ms.unwrap_or_default() > OVERDUE_MS_MAX {
            self.overdue += 1;
            self.first.get_or_insert_with(|| format!("a pending hold is overdue: {ledger:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc;

    use crate::admin::Picousd;
    use crate::canned::{Canned, block_on, serve};

    use super::*;

    fn budget(tenant: &str, taken: i128) -> Budget {
        Budget {
            tenant: Some(tenant.to_owned()),
            cap_picousd: Some(Picousd(100)),
            posted_picousd: Picousd(taken - 1),
            pending_picousd: Picousd(1),
            ..Budget::default()
        }
    }

    #[test]
    fn the_worst_sample_is_kept() {
        let watch = Watch::default();
        for taken in [50, 103, 100] {
            watch.note_budgets(&[budget("a", 1), budget("t", taken)]);
        }
        let worst = watch.worst();
        assert_eq!((worst.samples, worst.overshoot_picousd), (3, 3));
        assert!(worst.first.as_ref().unwrap().contains("3 picodollars over"));
    }

    #[test]
    fn shares_are_of_the_rooms_that_bind() {
        let watch = Watch::default();
        watch.rooms().insert(budget("t", 1).name(), (50, 20));
        watch.note_budgets(&[budget("a", 90), budget("t", 61)]);
        let shares = |watch: &Watch| {
            let worst = watch.worst();
            (worst.used_ratio_last, worst.held_ratio_last)
        };
        assert_eq!(shares(&watch), (0.8, 0.02));
        watch.forget_shares();
        assert_eq!(shares(&watch), (0.0, 0.0));
    }

    #[test]
    fn a_hold_is_a_phantom_only_after_the_recovery_window() {
        let mut worst = Worst::default();
        for (late_ms, drift) in [(Some(60_000), 0), (None, -2), (Some(60_001), 1)] {
            let oldest_pending_overdue_ms = late_ms;
            worst.note_ledger(&Ledger {
                drift_picousd: Picousd(drift),
                reservations_pending: 1,
                oldest_pending_overdue_ms,
            });
        }
        assert_eq!((worst.overdue, worst.drift_picousd), (1, -2));
    }

    #[test]
    fn it_samples_the_budgets_again_and_again_and_the_books_now_and_then() {
        let (asked, mut asked_what) = mpsc::unbounded_channel();
        let origin = serve(move |request| {
            let is_budgets = request.what.starts_with("GET /admin/v1/budgets");
            asked.send(is_budgets).unwrap();
            let budget = json!({"window": "lifetime", "cap_picousd": "10", "posted_picousd": "7", "bounded_picousd": "0",
                "pending_picousd": "1", "indeterminate_picousd": "4"});
            let ledger = json!({"drift_picousd": "0", "reservations_pending": 1, "oldest_pending_overdue_ms": 90_000});
            let body = if is_budgets { json!({"data": [budget]}) } else { ledger };
            Canned::json(200, &body.to_string())
        });
        let watch = Watch::default();
        block_on(async {
            let sampling = watch.clone().run(Admin::new(origin, "admin").unwrap());
            let two_samples = async {
                let mut samples = 0;
                while samples < 3 {
                    samples += u32::from(asked_what.recv().await.unwrap());
                }
            };
            tokio::select! {
                () = sampling => {}
                () = two_samples => {}
            }
        });
        let worst = watch.worst();
        assert!(worst.samples >= 2);
        assert_eq!((worst.overshoot_picousd, worst.overdue, worst.pending_picousd_max), (2, 1, 1));
    }
}
