//! `tollgate limit`.

use std::num::{NonZeroU32, NonZeroU64};

use tollgate_client::{Limit, LimitSetting, Whose};
use tollgate_types::TenantId;

use super::table::{Column, or_none, table};
use super::whose::{self, WhoseArgs};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct LimitArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set the limits of the narrowest that is named: what is left out is not limited any more
    #[command(
        after_help = "Examples:\n  tollgate limit set --tenant demo --requests-per-minute 600 --tokens-per-minute 100000\n  \
                            tollgate limit set --tenant demo --each --parallel-requests 2\n  \
                            tollgate limit set --platform --tokens-per-minute 5000000"
    )]
    Set(Box<Setting>),
    /// List limits
    #[command(after_help = "Example:\n  tollgate limit list --tenant demo")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Remove the limits of a scope
    #[command(after_help = "Example:\n  tollgate limit remove --tenant demo")]
    Remove {
        #[command(flatten)]
        whose: WhoseArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Setting {
    #[command(flatten)]
    whose: WhoseArgs,
    /// Requests per minute
    #[arg(long, value_name = "N", required_unless_present_any = ["tokens_per_minute", "parallel_requests"])]
    requests_per_minute: Option<NonZeroU32>,
    /// Tokens per minute, input and output together
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<NonZeroU64>,
    /// Requests at once
    #[arg(long, value_name = "N")]
    parallel_requests: Option<NonZeroU32>,
}

impl LimitArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Set(setting) => {
                let limit = client.set_limits(&setting.asked()).await?;
                Ok(Answer::new(listed(std::slice::from_ref(&limit)), &limit))
            }
            Action::List { tenant } => {
                let limits = client.limits(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(listed(&limits), &limits))
            }
            Action::Remove { whose } => {
                let whose = whose.whose();
                client.remove_limits(&whose).await?;
                let said = format!("the limits of {} are removed", whose::said(&whose));
                Ok(Answer::new(said, &serde_json::json!({ "removed": whose })))
            }
        }
    }
}

// === impl Setting ===

impl Setting {
    fn asked(self) -> LimitSetting {
        let Self { whose, requests_per_minute, tokens_per_minute, parallel_requests } = self;
        let Whose { tenant, project, key, end_user, plan, each, platform } = whose.whose();
        LimitSetting {
            tenant,
            project,
            key,
            end_user,
            plan,
            each,
            platform,
            requests_per_minute: requests_per_minute.map(NonZeroU32::get),
            tokens_per_minute: tokens_per_minute.map(NonZeroU64::get),
            parallel_requests: parallel_requests.map(NonZeroU32::get),
        }
    }
}

fn listed(limits: &[Limit]) -> String {
    let columns = [
        Column::Text("SCOPE"),
        Column::Text("OF"),
        Column::Number("REQUESTS/MIN"),
        Column::Number("TOKENS/MIN"),
        Column::Number("PARALLEL"),
    ];
    let row = |limit: &Limit| {
        let Limit { tenant, plan, project, key, end_user, .. } = limit;
        vec![
            limit.scope.name().to_owned(),
            whose::of([tenant.as_ref(), plan.as_ref()], [project.as_ref(), key.as_ref(), end_user.as_ref()]),
            or_none(limit.requests_per_minute),
            or_none(limit.tokens_per_minute),
            or_none(limit.parallel_requests),
        ]
    };
    table(&columns, limits.iter().map(row).collect(), "no limits but those of plans and keys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_client::BudgetScope;

    #[test]
    fn limits_are_a_table_and_what_is_not_limited_is_a_dash() {
        let tenant = Limit {
            tenant: Some("demo".into()),
            requests_per_minute: Some(600),
            tokens_per_minute: Some(100_000),
            ..Limit::default()
        };
        let platform = Limit { scope: BudgetScope::Platform, parallel_requests: Some(9), ..Limit::default() };
        assert_eq!(
            listed(&[tenant, platform]),
            "SCOPE     OF    REQUESTS/MIN  TOKENS/MIN  PARALLEL\n\
             tenant    demo           600      100000         -\n\
             platform  -                -           -         9"
        );
    }
}
