//! `tollgate budget`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{Basis, Budget, BudgetAlert, BudgetSelector, BudgetSetting, Whose, Window};
use tollgate_types::{PicoSum, TenantId};

use super::table::{Column, or_none, table, usd};
use super::whose::{self, WhoseArgs};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct BudgetArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set a cap, or thresholds that only alert, for the narrowest that is named
    #[command(
        after_help = "Examples:\n  tollgate budget set --tenant demo --window day --cap-usd 1.00 --alert 80%\n  \
                            tollgate budget set --tenant demo --project main --window month --cap-usd 50 --basis charge\n  \
                            tollgate budget set --tenant demo --each --window rolling-day --cap-usd 0.50\n  \
                            tollgate budget set --platform --window month --cap-usd 20000 --alert 50% --alert 90%"
    )]
    Set {
        #[command(flatten)]
        which: Which,
        /// US dollars; without it nothing is refused
        #[arg(long, value_name = "USD", required_unless_present = "alert")]
        cap_usd: Option<PicoSum>,
        /// A threshold that only alerts: US dollars, or with % a part of the cap; may be given several times
        #[arg(long, value_name = "USD|%")]
        alert: Vec<String>,
    },
    /// List budgets and where they stand
    #[command(after_help = "Example:\n  tollgate budget list --tenant demo")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// List the thresholds that were crossed last, newest first
    #[command(after_help = "Example:\n  tollgate budget alerts --tenant demo")]
    Alerts {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Remove a cap: what it counted is no longer limited by it
    #[command(after_help = "Example:\n  tollgate budget remove --tenant demo --window day")]
    Remove {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    whose: WhoseArgs,
    /// How long the budget lasts; 'request' bounds what a single request may hold
    #[arg(long, value_parser = window())]
    window: Window,
    /// What the cap counts: what the work costs us, or what the tenant is charged; 'cost' if left out
    #[arg(long, value_parser = basis())]
    basis: Option<Basis>,
}

impl BudgetArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Set { which, cap_usd, alert } => {
                let budget = client.set_budget(&which.setting(cap_usd, alert)).await?;
                Ok(Answer::new(listed(std::slice::from_ref(&budget)), &budget))
            }
            Action::List { tenant } => {
                let budgets = client.budgets(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(listed(&budgets), &budgets))
            }
            Action::Alerts { tenant } => {
                let alerts = client.budget_alerts(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(crossed(&alerts), &alerts))
            }
            Action::Remove { which } => {
                let selected = which.selector();
                client.remove_budget(&selected).await?;
                let said =
                    format!("the {} budget of {} is removed", selected.window.name(), whose::said(&selected.whose()));
                Ok(Answer::new(said, &serde_json::json!({ "removed": selected })))
            }
        }
    }
}

impl Which {
    fn setting(self, cap: Option<PicoSum>, alerts: Vec<String>) -> BudgetSetting {
        let BudgetSelector { tenant, project, key, end_user, plan, each, platform, window, basis } = self.selector();
        let cap_usd = cap.map(|cap| cap.to_string());
        BudgetSetting { tenant, project, key, end_user, plan, each, platform, window, cap_usd, alerts, basis }
    }

    fn selector(self) -> BudgetSelector {
        let Whose { tenant, project, key, end_user, plan, each, platform } = self.whose.whose();
        let (window, basis) = (self.window, self.basis);
        BudgetSelector { tenant, project, key, end_user, plan, each, platform, window, basis }
    }
}

fn window() -> impl TypedValueParser<Value = Window> {
    PossibleValuesParser::new(Window::ALL.map(Window::name))
        .try_map(|name| Window::ALL.into_iter().find(|window| window.name() == name).ok_or("no such window"))
}

fn basis() -> impl TypedValueParser<Value = Basis> {
    PossibleValuesParser::new(Basis::ALL.map(Basis::name))
        .try_map(|name| Basis::ALL.into_iter().find(|basis| basis.name() == name).ok_or("no such basis"))
}

fn listed(budgets: &[Budget]) -> String {
    let columns = [
        Column::Text("SCOPE"),
        Column::Text("OF"),
        Column::Text("WINDOW"),
        Column::Text("BASIS"),
        Column::Number("CAP USD"),
        Column::Number("POSTED"),
        Column::Number("BOUNDED"),
        Column::Number("PENDING"),
        Column::Number("INDETERMINATE"),
        Column::Number("REMAINING"),
        Column::Text("ALERTS AT"),
        Column::Text("RESETS"),
    ];
    let row = |budget: &Budget| {
        let alerts: Vec<_> = budget.alerts_picousd.iter().map(|pico| usd(pico)).collect();
        vec![
            budget.scope.name().to_owned(),
            of(budget),
            budget.window.name().to_owned(),
            budget.basis.name().to_owned(),
            or_none(budget.cap_usd.as_ref()),
            usd(&budget.posted_picousd),
            usd(&budget.bounded_picousd),
            usd(&budget.pending_picousd),
            usd(&budget.indeterminate_picousd),
            or_none(budget.remaining_picousd.as_ref().map(|pico| usd(pico))),
            if alerts.is_empty() { "-".to_owned() } else { alerts.join(" ") },
            or_none(budget.resets_at.as_ref()),
        ]
    };
    table(&columns, budgets.iter().map(row).collect(), "no budgets: nothing is capped")
}

fn of(budget: &Budget) -> String {
    let Budget { tenant, plan, project, key, end_user, .. } = budget;
    whose::of([tenant.as_ref(), plan.as_ref()], [project.as_ref(), key.as_ref(), end_user.as_ref()])
}

fn crossed(alerts: &[BudgetAlert]) -> String {
    let columns = [
        Column::Text("AT"),
        Column::Text("SCOPE"),
        Column::Text("OF"),
        Column::Text("WINDOW"),
        Column::Text("BASIS"),
        Column::Number("THRESHOLD USD"),
        Column::Number("POSTED"),
    ];
    let row = |alert: &BudgetAlert| {
        let BudgetAlert { tenant, plan, project, key, end_user, .. } = alert;
        vec![
            alert.at.clone(),
            alert.scope.name().to_owned(),
            whose::of([tenant.as_ref(), plan.as_ref()], [project.as_ref(), key.as_ref(), end_user.as_ref()]),
            alert.window.name().to_owned(),
            alert.basis.name().to_owned(),
            usd(&alert.threshold_picousd),
            usd(&alert.posted_picousd),
        ]
    };
    table(&columns, alerts.iter().map(row).collect(), "no threshold was crossed since the gateway started")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_client::BudgetScope;

    #[test]
    fn budgets_are_a_table_in_dollars() {
        let budget = Budget {
            tenant: Some("demo".into()),
            cap_usd: Some("1.00".into()),
            cap_picousd: Some("1000000000000".into()),
            posted_picousd: "250000000000".into(),
            bounded_picousd: "0".into(),
            pending_picousd: "1".into(),
            indeterminate_picousd: "0".into(),
            remaining_picousd: Some("749999999999".into()),
            resets_at: Some("2026-11-24T00:00:00Z".into()),
            ..Budget::default()
        };
        let alerting = Budget {
            scope: BudgetScope::Project,
            project: Some("main".into()),
            cap_usd: None,
            remaining_picousd: None,
            alerts_picousd: vec!["500000000000".into()],
            resets_at: None,
            window: Window::RollingDay,
            ..budget.clone()
        };
        assert_eq!(
            listed(&[budget, alerting]),
            "SCOPE    OF         WINDOW       BASIS  CAP USD  POSTED  BOUNDED         PENDING  INDETERMINATE       REMAINING  ALERTS AT  RESETS\n\
             tenant   demo       day          cost      1.00    0.25     0.00  0.000000000001           0.00  0.749999999999  -          2026-11-24T00:00:00Z\n\
             project  demo/main  rolling-day  cost         -    0.25     0.00  0.000000000001           0.00               -  0.50       -"
        );
    }

    #[test]
    fn alerts_are_a_table_in_dollars() {
        let alert = BudgetAlert {
            tenant: Some("demo".into()),
            threshold_picousd: "800000000000".into(),
            posted_picousd: "812000000000".into(),
            at: "2026-11-24T00:00:00Z".into(),
            ..BudgetAlert::default()
        };
        assert_eq!(
            crossed(&[alert]),
            "AT                    SCOPE   OF    WINDOW  BASIS  THRESHOLD USD  POSTED\n\
             2026-11-24T00:00:00Z  tenant  demo  day     cost            0.80   0.812"
        );
    }
}
