//! `tollgate plan`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{MarkupTier, Plan, PlanSettings, Tariff, TightBudget};
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
    #[command(
        after_help = "Example:\n  tollgate plan set standard --markup-percent 20 --included-usd 10 --markup-tier 1000:15"
    )]
    Set(Set),
    /// List all plans
    #[command(after_help = "Example:\n  tollgate plan list")]
    List,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// 'standard' is what a tenant gets when none is named
    id: PlanId,
    #[command(flatten)]
    terms: Terms,
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
    /// Held, and posted as bounded, for a request with no bound on its cost; if left out, such a request is refused
    #[arg(long, value_name = "USD", value_parser = PicoUsd::parse_usd)]
    unbounded_hold_usd: Option<PicoUsd>,
    /// Raising a cap of whoever is on it needs a second human; so does giving this up
    #[arg(long)]
    second_human: bool,
    /// Audit entries of whoever is on it are kept for so many days; for ever if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    audit_days: Option<u32>,
    /// How much of the local runtimes each tenant on it has, beside others who wait; 1 if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    share: Option<u32>,
}

/// From what work costs to what a tenant pays for it.
#[derive(Debug, clap::Args)]
pub struct Terms {
    /// Charge = cost × (1 + this / 100); 0 if left out
    #[arg(long, value_name = "PERCENT")]
    markup_percent: Option<String>,
    /// So much of a month's cost is not charged
    #[arg(long, value_name = "USD", value_parser = PicoUsd::parse_usd)]
    included_usd: Option<PicoUsd>,
    /// Another mark-up for what a month's cost exceeds, such as 1000:15; may be given several times, ascending
    #[arg(long, value_name = "USD:PERCENT", value_parser = tier)]
    markup_tier: Vec<MarkupTier>,
    /// A month's bill is at least this
    #[arg(long, value_name = "USD", value_parser = PicoUsd::parse_usd)]
    monthly_minimum_usd: Option<PicoUsd>,
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
        let Tariff { markup_percent, included_usd, markup_tiers, monthly_minimum_usd } = self.terms.tariff();
        PlanSettings {
            markup_percent,
            included_usd,
            markup_tiers,
            monthly_minimum_usd,
            tight_budget: self.tight_budget,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            parallel_requests: self.parallel_requests,
            unpriced_hold_usd: self.unpriced_hold_usd.map(|hold| hold.to_string()),
            unbounded_hold_usd: self.unbounded_hold_usd.map(|hold| hold.to_string()),
            second_human: self.second_human,
            audit_days: self.audit_days,
            share: self.share,
        }
    }
}

impl Terms {
    pub fn tariff(&self) -> Tariff {
        Tariff {
            markup_percent: self.markup_percent.clone(),
            included_usd: self.included_usd.map(|usd| usd.to_string()),
            markup_tiers: self.markup_tier.clone(),
            monthly_minimum_usd: self.monthly_minimum_usd.map(|usd| usd.to_string()),
        }
    }

    /// Whether any of them was given.
    pub fn are_given(&self) -> bool {
        self.tariff() != Tariff::default()
    }
}

fn tier(text: &str) -> Result<MarkupTier, String> {
    let (above, percent) = text.split_once(':').ok_or("not USD:PERCENT, such as 1000:15")?;
    Ok(MarkupTier { above_usd: above.to_owned(), markup_percent: percent.to_owned() })
}

/// `20.00, 15.00 above 1000.00`
pub fn markups(percent: &str, tiers: &[MarkupTier]) -> String {
    let tiers = tiers.iter().map(|tier| format!(", {} above {}", tier.markup_percent, tier.above_usd));
    tiers.fold(percent.to_owned(), |shown, tier| shown + &tier)
}

fn tight_budget() -> impl TypedValueParser<Value = TightBudget> {
    PossibleValuesParser::new(TightBudget::ALL.map(TightBudget::name))
        .try_map(|name| TightBudget::ALL.into_iter().find(|habit| habit.name() == name).ok_or("no such habit"))
}

fn listed(plans: &[Plan]) -> String {
    let columns = [
        Column::Text("PLAN"),
        Column::Text("MARK-UP %"),
        Column::Number("INCLUDED USD"),
        Column::Number("MINIMUM USD"),
        Column::Text("TIGHT BUDGET"),
        Column::Number("PER MINUTE"),
        Column::Number("PARALLEL"),
        Column::Number("UNPRICED HOLD USD"),
        Column::Number("UNBOUNDED HOLD USD"),
        Column::Text("SECOND HUMAN"),
        Column::Number("AUDIT DAYS"),
        Column::Number("SHARE"),
    ];
    let row = |plan: &Plan| {
        vec![
            plan.id.clone(),
            markups(&plan.markup_percent, &plan.markup_tiers),
            plan.included_usd.clone(),
            plan.monthly_minimum_usd.clone(),
            plan.tight_budget.name().to_owned(),
            or_none(plan.requests_per_minute),
            or_none(plan.parallel_requests),
            or_none(plan.unpriced_hold_usd.as_ref()),
            or_none(plan.unbounded_hold_usd.as_ref()),
            if plan.second_human { "yes" } else { "no" }.to_owned(),
            or_none(plan.audit_days),
            plan.share.to_string(),
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
            included_usd: "10.00".into(),
            markup_tiers: vec![tier("1000.00:15.00").expect("a tier")],
            monthly_minimum_usd: "50.00".into(),
            tight_budget: TightBudget::Clamp,
            requests_per_minute: Some(600),
            tokens_per_minute: None,
            parallel_requests: None,
            unpriced_hold_usd: Some("0.10".into()),
            unbounded_hold_usd: None,
            second_human: true,
            audit_days: None,
            share: 4,
        };
        assert_eq!(
            listed(&[plan]),
            "PLAN      MARK-UP %                   INCLUDED USD  MINIMUM USD  TIGHT BUDGET  PER MINUTE  PARALLEL  UNPRICED HOLD USD  UNBOUNDED HOLD USD  SECOND HUMAN  AUDIT DAYS  SHARE\n\
             standard  20.00, 15.00 above 1000.00         10.00        50.00  clamp                600         -               0.10                   -  yes                    -      4"
        );
    }

    #[test]
    fn a_tier_is_an_amount_and_a_percentage() {
        let expected = MarkupTier { above_usd: "1000".into(), markup_percent: "15.5".into() };
        assert_eq!(tier("1000:15.5"), Ok(expected));
        assert!(tier("1000").is_err());
    }
}
