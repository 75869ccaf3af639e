//! Watches the promise while the storm goes on: reads the budgets again and again and keeps the worst it saw.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admin::{Admin, Budget, Ledger};

const EVERY: Duration = Duration::from_millis(50);
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
    /// Share of the tenant's cap that is posted or of unknown outcome, at the last sample.
    pub used_ratio_last: f64,
    /// Share of it that was held.
    pub held_ratio_last: f64,
    pub first: Option<String>,
}

/// Shared between the sampler and who asks for the result.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    worst: Arc<Mutex<Worst>>,
}

// === impl Watch ===

impl Watch {
    pub fn worst(&self) -> MutexGuard<'_, Worst> {
        // Counts stay good even if a holder panicked.
        self.worst.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples one tenant until the task is dropped. While the gateway is down there is nothing to see.
    pub async fn run(self, admin: Admin, tenant: String) {
        let mut round = 0_u64;
        loop {
            if let Ok(budgets) = admin.budgets(&tenant).await {
                self.worst().note_budgets(&tenant, &budgets);
            }
            if round.is_multiple_of(LEDGER_EVERY)
                && let Ok(ledger) = admin.ledger().await
            {
                self.worst().note_ledger(&ledger);
            }
            round += 1;
            tokio::time::sleep(EVERY).await;
        }
    }
}

// === impl Worst ===

impl Worst {
    pub fn note_budgets(&mut self, tenant: &str, budgets: &[Budget]) {
        self.samples += 1;
        for budget in budgets {
            if budget.is_tenant_wide() {
                self.used_ratio_last = budget.used_ratio();
                self.held_ratio_last = budget.held_ratio();
            }
            self.pending_picousd_max = self.pending_picousd_max.max(budget.pending_picousd.0);
            let overshoot = budget.overshoot();
            if overshoot > 0 {
                self.first.get_or_insert_with(|| format!("{tenant} is {overshoot} picodollars over: {budget:?}"));
            }
            self.overshoot_picousd = self.overshoot_picousd.max(overshoot);
        }
    }

    pub fn note_ledger(&mut self, ledger: &Ledger) {
        if ledger.drift_picousd.0.abs() > self.drift_picousd.abs() {
            self.drift_picousd = ledger.drift_picousd.0;
        }
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

    fn budget(taken: i128) -> Budget {
        Budget {
            project: None,
            key: None,
            window: "lifetime".to_owned(),
            cap_picousd: Picousd(100),
            posted_picousd: Picousd(taken - 1),
            bounded_picousd: Picousd(0),
            pending_picousd: Picousd(1),
            indeterminate_picousd: Picousd(0),
        }
    }

    #[test]
    fn the_worst_sample_is_kept() {
        let mut worst = Worst::default();
        for taken in [50, 103, 100] {
            worst.note_budgets("t", &[budget(taken)]);
        }
        assert_eq!((worst.samples, worst.overshoot_picousd), (3, 3));
        assert!(worst.first.unwrap().contains("3 picodollars over"));
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
            let is_budgets = request.what.starts_with("GET /admin/v1/budgets?tenant=t");
            asked.send(is_budgets).unwrap();
            let budget = json!({"window": "lifetime", "cap_picousd": "10", "posted_picousd": "7", "bounded_picousd": "0",
                "pending_picousd": "1", "indeterminate_picousd": "4"});
            let ledger = json!({"drift_picousd": "0", "reservations_pending": 1, "oldest_pending_overdue_ms": 90_000});
            let body = if is_budgets { json!({"data": [budget]}) } else { ledger };
            Canned::json(200, &body.to_string())
        });
        let watch = Watch::default();
        block_on(async {
            let sampling = watch.clone().run(Admin::new(origin, "admin").unwrap(), "t".to_owned());
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
        assert!((worst.used_ratio_last - 1.1).abs() < 1e-12 && (worst.held_ratio_last - 0.1).abs() < 1e-12);
    }
}
