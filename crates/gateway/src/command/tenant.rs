//! `tollgate tenant`.

use tollgate_client::{NewTenant, Tariff, Tenant, TenantSettings};
use tollgate_types::{PlanId, TenantId, Zone};

use super::plan::{Terms, markups};
use super::table::{Column, fields, or_none, table};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct TenantArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a tenant, with a project 'default'
    #[command(after_help = "Example:\n  tollgate tenant create demo --name Demo --plan standard")]
    Create {
        /// 1 to 63 characters of a-z, 0-9, '-', '_' or '.', beginning with a letter or digit
        id: TenantId,
        /// For people
        #[arg(long)]
        name: Option<String>,
        /// What the tenant has bought; 'standard' if left out
        #[arg(long)]
        plan: Option<PlanId>,
        /// Where its days, weeks and months begin, such as Europe/Berlin; UTC if left out
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<Zone>,
    },
    /// Change a tenant's terms: what is left out stays as it is
    #[command(after_help = "Example:\n  tollgate tenant set demo --plan gold --time-zone Europe/Berlin\n  \
                            tollgate tenant set demo --markup-percent 12.5 --monthly-minimum-usd 100")]
    Set {
        /// As `tollgate tenant list` shows it
        id: TenantId,
        /// What the tenant has bought
        #[arg(long)]
        plan: Option<PlanId>,
        /// Where its days, weeks and months begin, such as Europe/Berlin
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<Zone>,
        #[command(flatten)]
        terms: Terms,
        /// The plan's terms again
        #[arg(long, conflicts_with_all = ["markup_percent", "included_usd", "markup_tier", "monthly_minimum_usd"])]
        plan_terms: bool,
    },
    /// List all tenants
    #[command(after_help = "Example:\n  tollgate tenant list --json")]
    List,
    /// Show one tenant
    #[command(after_help = "Example:\n  tollgate tenant show demo")]
    Show {
        /// As `tollgate tenant list` shows it
        id: TenantId,
    },
}

impl TenantArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Create { id, name, plan, time_zone } => {
                let (plan, time_zone) = (plan.map(|plan| plan.to_string()), time_zone.map(|zone| zone.to_string()));
                let new = NewTenant { id: id.to_string(), name, plan, time_zone };
                let tenant = client.create_tenant(&new).await?;
                Ok(Answer::new(shown(&tenant), &tenant))
            }
            Action::Set { id, plan, time_zone, terms, plan_terms } => {
                let settings = TenantSettings {
                    plan: plan.map(|plan| plan.to_string()),
                    time_zone: time_zone.map(|zone| zone.to_string()),
                    tariff: match (plan_terms, terms.are_given()) {
                        (true, _) => Some(None),
                        (false, true) => Some(Some(terms.tariff())),
                        (false, false) => None,
                    },
                };
                let tenant = client.set_tenant(id.as_str(), &settings).await?;
                Ok(Answer::new(shown(&tenant), &tenant))
            }
            Action::List => {
                let tenants = client.tenants().await?;
                Ok(Answer::new(listed(&tenants), &tenants))
            }
            Action::Show { id } => {
                let tenant = client.tenant(id.as_str()).await?;
                Ok(Answer::new(shown(&tenant), &tenant))
            }
        }
    }
}

fn listed(tenants: &[Tenant]) -> String {
    let columns = [Column::Text("TENANT"), Column::Text("NAME"), Column::Text("PLAN"), Column::Text("CREATED")];
    let row = |tenant: &Tenant| {
        vec![tenant.id.clone(), or_none(tenant.name.as_ref()), tenant.plan.clone(), tenant.created_at.clone()]
    };
    table(&columns, tenants.iter().map(row).collect(), "no tenants yet; `tollgate tenant create ID` makes one")
}

fn shown(tenant: &Tenant) -> String {
    fields(&[
        ("tenant", tenant.id.clone()),
        ("name", or_none(tenant.name.as_ref())),
        ("plan", tenant.plan.clone()),
        ("time zone", tenant.time_zone.clone()),
        ("own terms", or_none(tenant.tariff.as_ref().map(terms))),
        ("created", tenant.created_at.clone()),
    ])
}

fn terms(tariff: &Tariff) -> String {
    let usd = |amount: &Option<String>| amount.clone().unwrap_or_else(|| "0".to_owned());
    format!(
        "mark-up {} %; included {} USD, minimum {} USD a month",
        markups(tariff.markup_percent.as_deref().unwrap_or("0"), &tariff.markup_tiers),
        usd(&tariff.included_usd),
        usd(&tariff.monthly_minimum_usd),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_a_table() {
        let tenant = |id: &str, name: Option<&str>| Tenant {
            id: id.into(),
            name: name.map(Into::into),
            plan: "standard".into(),
            time_zone: "UTC".into(),
            tariff: None,
            created_at: "2026-11-23T05:00:00Z".into(),
        };
        assert_eq!(
            listed(&[tenant("demo", Some("Demo Ltd")), tenant("b", None)]),
            "TENANT  NAME      PLAN      CREATED\n\
             demo    Demo Ltd  standard  2026-11-23T05:00:00Z\n\
             b       -         standard  2026-11-23T05:00:00Z"
        );
        assert!(listed(&[]).contains("tenant create"));
    }
}
