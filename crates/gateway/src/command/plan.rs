//! `tollgate plan`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{Plan, PlanSettings, TightBudget};
use tollgate_types::{PicoUsd, PlanId};

use super::table::{Column, or_none, table};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a plan or replace the whole of it: what is left out goes back to its default
    #[command(after_help = "Example:\n  tollgate plan set standard --markup-percent 20 --tight-budget clamp")]
    Set(Set),
    /// List all plans
    #[command(after_help = "Example:\n  tollgate plan list")]
    List,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// 'standard' is what a tenant gets when none is named
    id: PlanId,
    /// Charge = cost × (1 + this / 100); 0 if left out
    #[arg(long, value_name = "PERCENT")]
    markup_percent: Option<String>,
    /// What to do when a budget affords less than a request may cost
    #[arg(long, value_parser = tight_budget())]
    tight_budget: Option<TightBudget>,
    /// Requests a minute for keys that set none of their own; no limit if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: Option<u32>,
    /// Input and output tokens a minute for keys that set none of their own; no limit if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens_per_minute: Option<u64>,
    /// Requests at the same time for keys that set none of their own; no limit if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel_requests: Option<u32>,
    /// Held, and posted as bounded, for a model without a price; if left out, such a model is refused
    #[arg(long, value_name = "USD", value_parser = PicoUsd::parse_usd)]
    unpriced_hold_usd: Option<PicoUsd>,
}

impl PlanArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Set(set) => {
                let plan = client.set_plan(set.id.as_str(), &set.settings()).await?;
                Ok(Answer::new(listed(std::slice::from_ref(&plan)), &plan))
            }
            Action::List => {
                let plans = client.plans().await?;
                Ok(Answer::new(listed(&plans), &plans))
            }
        }
    }
}

impl Set {
    fn settings(&self) -> PlanSettings {
        PlanSettings {
            markup_percent: self.markup_percent.clone(),
            tight_budget: self.tight_budget,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            parallel_requests: self.parallel_requests,
            unpriced_hold_usd: self.unpriced_hold_usd.map(|hold| hold.to_string()),
        }
    }
}

fn tight_budget() -> impl TypedValueParser<Value = TightBudget> {
    PossibleValuesParser::new(TightBudget::ALL.map(TightBudget::name))
        .try_map(|name| TightBudget::ALL.into_iter().find(|habit| habit.name() == name).ok_or("no such habit"))
}

fn listed(plans: &[Plan]) -> String {
    let columns = [
        Column::Text("PLAN"),
        Column::Number("MARK-UP %"),
        Column::Text("TIGHT BUDGET"),
        Column::Number("PER MINUTE"),
        Column::Number("PARALLEL"),
        Column::Number("UNPRICED HOLD USD"),
    ];
    let row = |plan: &Plan| {
        vec![
            plan.id.clone(),
            plan.markup_percent.clone(),
            plan.tight_budget.name().to_owned(),
            or_none(plan.requests_per_minute),
            or_none(plan.parallel_requests),
            or_none(plan.unpriced_hold_usd.as_ref()),
        ]
    };
    table(&columns, plans.iter().map(row).collect(), "no plans")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_a_table() {
        let plan = Plan {
            id: "standard".into(),
            markup_percent: "20.00".into(),
            tight_budget: TightBudget::Clamp,
            requests_per_minute: Some(600),
            tokens_per_minute: None,
            parallel_requests: None,
            unpriced_hold_usd: Some("0.10".into()),
        };
        assert_eq!(
            listed(&[plan]),
            "PLAN      MARK-UP %  TIGHT BUDGET  PER MINUTE  PARALLEL  UNPRICED HOLD USD\n\
             standard      20.00  clamp                600         -               0.10"
        );
    }
}
