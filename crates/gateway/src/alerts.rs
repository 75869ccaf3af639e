//! Thresholds of budgets that were crossed: said in the log, counted, and kept for who asks. What crosses them is the
//! ledger's to know.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tollgate_ledger::Alert;
use tollgate_types::Scope;

use crate::app::App;

/// So many are kept for who asks; older ones are in the log alone.
const KEPT_MAX: usize = 1_000;

/// The last alerts, since this process started.
#[derive(Debug, Default)]
pub struct Alerts {
    /// Oldest first.
    kept: Mutex<VecDeque<Alert>>,
}

/// Takes what the books have found since this was last called. It also gives back memory of who fell silent.
pub fn collect(app: &App) {
    for alert in app.books.tidy() {
        say(&alert);
        app.metrics.alerted(&alert.scope, alert.window);
        app.alerts.keep(alert);
    }
}

fn say(alert: &Alert) {
    let Alert { scope, window, basis, threshold, posted, at } = alert;
    let (kind, tenant) = (scope.kind(), scope.tenant().map(tracing::field::display));
    tracing::warn!(scope = kind, tenant, %window, %basis, %threshold, %posted, %at, "a budget's threshold was crossed");
}

// === impl Alerts ===

impl Alerts {
    /// Newest first, of the scopes that are wanted.
    pub fn newest(&self, wanted: impl Fn(&Scope) -> bool) -> Vec<Alert> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().filter(|alert| wanted(&alert.scope)).cloned().collect()
    }

    fn keep(&self, alert: Alert) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(alert);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_types::{Basis, PicoSum, Timestamp, Window};

    #[test]
    fn the_newest_come_first_and_the_oldest_are_let_go() {
        let alerts = Alerts::default();
        let alert = |n: i64| Alert {
            scope: if n % 2 == 0 { Scope::Platform } else { Scope::Tenant("demo".parse().expect("a slug")) },
            window: Window::Day,
            basis: Basis::Cost,
            threshold: PicoSum(1),
            posted: PicoSum(2),
            at: Timestamp(n),
        };
        (0..=1_000).for_each(|n| alerts.keep(alert(n)));
        let all = alerts.newest(|_| true);
        assert_eq!((all.len(), all[0].at, all[999].at), (KEPT_MAX, Timestamp(1_000), Timestamp(1)));
        let demo = alerts.newest(|scope| scope.tenant().is_some());
        assert_eq!((demo.len(), demo[0].at), (500, Timestamp(999)));
    }
}
