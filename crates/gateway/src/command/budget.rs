//! `tollgate budget`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{Basis, Budget, BudgetSelector, BudgetSetting, Window};
use tollgate_types::{KeyId, PicoSum, PlanId, ProjectId, TenantId};

use super::table::{Column, or_none, table, usd};
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
    /// Remove a cap: what it counted is no longer limited by it
    #[command(after_help = "Example:\n  tollgate budget remove --tenant demo --window day")]
    Remove {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Whose money it is
    #[arg(long, required_unless_present_any = ["plan", "platform"], conflicts_with_all = ["plan", "platform"])]
    tenant: Option<TenantId>,
    /// Only what this project of it spends
    #[arg(long, requires = "tenant")]
    project: Option<ProjectId>,
    /// Only what this key spends, by its id
    #[arg(long, requires = "tenant")]
    key: Option<KeyId>,
    /// Only what is spent for this user of the tenant's, by the name it sends or the id that lists show
    #[arg(long, requires = "tenant", conflicts_with_all = ["project", "key", "each"])]
    end_user: Option<String>,
    /// All tenants of this plan together
    #[arg(long, conflicts_with = "platform")]
    plan: Option<PlanId>,
    /// With a plan: each of its tenants for itself; with a tenant: each of its end users for itself
    #[arg(long, conflicts_with_all = ["project", "key", "platform"])]
    each: bool,
    /// Everybody together
    #[arg(long)]
    platform: bool,
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
            Action::Remove { which } => {
                let selected = which.selector();
                client.remove_budget(&selected).await?;
                let said = format!("the {} budget of {} is removed", selected.window.name(), scope(&selected));
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
        BudgetSelector {
            tenant: self.tenant.map(|tenant| tenant.to_string()),
            project: self.project.map(|project| project.to_string()),
            key: self.key.map(|key| key.to_string()),
            end_user: self.end_user,
            plan: self.plan.map(|plan| plan.to_string()),
            each: self.each,
            platform: self.platform,
            window: self.window,
            basis: self.basis,
        }
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

fn scope(selected: &BudgetSelector) -> String {
    let BudgetSelector { tenant, project, key, end_user, plan, each, .. } = selected;
    match (key, project, end_user, tenant, plan) {
        (Some(key), ..) => format!("key {key}"),
        (_, Some(project), ..) => format!("project {project}"),
        (_, _, Some(user), ..) => format!("end user {user}"),
        (_, _, _, Some(tenant), _) if *each => format!("each end user of {tenant}"),
        (_, _, _, Some(tenant), _) => format!("tenant {tenant}"),
        (.., Some(plan)) if *each => format!("each tenant of plan {plan}"),
        (.., Some(plan)) => format!("plan {plan}"),
        _ => "the platform".to_owned(),
    }
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

/// `demo/main`: the tenant, and what of it.
fn of(budget: &Budget) -> String {
    let part = budget.project.as_ref().or(budget.key.as_ref()).or(budget.end_user.as_ref());
    let owner = budget.tenant.as_ref().or(budget.plan.as_ref());
    match (owner, part) {
        (Some(owner), Some(part)) => format!("{owner}/{part}"),
        (Some(owner), None) => owner.clone(),
        (None, _) => "-".to_owned(),
    }
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
    fn a_removed_budget_is_named_by_its_narrowest_scope() {
        let demo = BudgetSelector { tenant: Some("demo".into()), ..BudgetSelector::default() };
        let check = |selected: BudgetSelector, name: &str| assert_eq!(scope(&selected), name);
        check(BudgetSelector { project: Some("main".into()), ..demo.clone() }, "project main");
        check(BudgetSelector { key: Some("k1".into()), project: Some("main".into()), ..demo.clone() }, "key k1");
        check(BudgetSelector { end_user: Some("ann".into()), ..demo.clone() }, "end user ann");
        check(BudgetSelector { each: true, ..demo.clone() }, "each end user of demo");
        check(demo, "tenant demo");
        let plan = BudgetSelector { plan: Some("free".into()), ..BudgetSelector::default() };
        check(BudgetSelector { each: true, ..plan.clone() }, "each tenant of plan free");
        check(plan, "plan free");
        check(BudgetSelector { platform: true, ..BudgetSelector::default() }, "the platform");
    }
}
