//! `tollgate tenant`.

use tollgate_client::{NewTenant, Tenant};
use tollgate_types::{PlanId, TenantId};

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
            Action::Create { id, name, plan } => {
                let new = NewTenant { id: id.to_string(), name, plan: plan.map(|plan| plan.to_string()) };
                let tenant = client.create_tenant(&new).await?;
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
        ("created", tenant.created_at.clone()),
    ])
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
