//! `tollgate budget`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{Basis, Budget, BudgetSelector, BudgetSetting, Window};
use tollgate_types::{KeyId, PicoSum, ProjectId, TenantId};

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
    /// Set a cap for the narrowest of tenant, project and key that is given
    #[command(after_help = "Examples:\n  tollgate budget set --tenant demo --window day --cap-usd 1.00\n  \
                            tollgate budget set --tenant demo --project main --window month --cap-usd 50 --basis charge")]
    Set {
        #[command(flatten)]
        which: Which,
        /// US dollars
        #[arg(long, value_name = "USD")]
        cap_usd: PicoSum,
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
    #[arg(long)]
    tenant: TenantId,
    /// Only what this project of it spends
    #[arg(long)]
    project: Option<ProjectId>,
    /// Only what this key spends, by its id
    #[arg(long)]
    key: Option<KeyId>,
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
            Action::Set { which, cap_usd } => {
                let budget = client.set_budget(&which.setting(cap_usd)).await?;
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
    fn setting(self, cap: PicoSum) -> BudgetSetting {
        let BudgetSelector { tenant, project, key, window, basis } = self.selector();
        BudgetSetting { tenant, project, key, window, cap_usd: cap.to_string(), basis }
    }

    fn selector(self) -> BudgetSelector {
        BudgetSelector {
            tenant: self.tenant.to_string(),
            project: self.project.map(|project| project.to_string()),
            key: self.key.map(|key| key.to_string()),
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
    match (&selected.key, &selected.project) {
        (Some(key), _) => format!("key {key}"),
        (None, Some(project)) => format!("project {project}"),
        (None, None) => format!("tenant {}", selected.tenant),
    }
}

fn listed(budgets: &[Budget]) -> String {
    let columns = [
        Column::Text("TENANT"),
        Column::Text("PROJECT"),
        Column::Text("KEY"),
        Column::Text("WINDOW"),
        Column::Text("BASIS"),
        Column::Number("CAP USD"),
        Column::Number("POSTED"),
        Column::Number("BOUNDED"),
        Column::Number("PENDING"),
        Column::Number("INDETERMINATE"),
        Column::Number("REMAINING"),
        Column::Text("RESETS"),
    ];
    let row = |budget: &Budget| {
        vec![
            budget.tenant.clone(),
            or_none(budget.project.as_ref()),
            or_none(budget.key.as_ref()),
            budget.window.name().to_owned(),
            budget.basis.name().to_owned(),
            budget.cap_usd.clone(),
            usd(&budget.posted_picousd),
            usd(&budget.bounded_picousd),
            usd(&budget.pending_picousd),
            usd(&budget.indeterminate_picousd),
            usd(&budget.remaining_picousd),
            or_none(budget.resets_at.as_ref()),
        ]
    };
    table(&columns, budgets.iter().map(row).collect(), "no budgets: nothing is capped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_a_table_in_dollars() {
        let budget = Budget {
            tenant: "demo".into(),
            project: None,
            key: None,
            window: Window::Day,
            basis: Basis::Cost,
            cap_usd: "1.00".into(),
            cap_picousd: "1000000000000".into(),
            posted_picousd: "250000000000".into(),
            bounded_picousd: "0".into(),
            pending_picousd: "1".into(),
            indeterminate_picousd: "0".into(),
            remaining_picousd: "749999999999".into(),
            resets_at: Some("2026-11-24T00:00:00Z".into()),
        };
        assert_eq!(
            listed(&[budget]),
            "TENANT  PROJECT  KEY  WINDOW  BASIS  CAP USD  POSTED  BOUNDED         PENDING  INDETERMINATE       REMAINING  RESETS\n\
             demo    -        -    day     cost      1.00    0.25     0.00  0.000000000001           0.00  0.749999999999  2026-11-24T00:00:00Z"
        );
    }

    #[test]
    fn a_removed_budget_is_named_by_its_narrowest_scope() {
        let mut selected = BudgetSelector {
            tenant: "demo".into(),
            project: Some("main".into()),
            key: None,
            window: Window::Day,
            basis: None,
        };
        assert_eq!(scope(&selected), "project main");
        selected.key = Some("k1".into());
        assert_eq!(scope(&selected), "key k1");
        (selected.key, selected.project) = (None, None);
        assert_eq!(scope(&selected), "tenant demo");
    }
}
