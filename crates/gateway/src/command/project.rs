//! `tollgate project`.

use tollgate_client::{NewProject, Project};
use tollgate_types::{ProjectId, TenantId};

use super::table::{Column, fields, or_none, table};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct ProjectArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a project
    #[command(after_help = "Example:\n  tollgate project create main --tenant demo --name Main")]
    Create {
        /// Unique within its tenant
        id: ProjectId,
        /// Whose project it is
        #[arg(long)]
        tenant: TenantId,
        /// For people
        #[arg(long)]
        name: Option<String>,
    },
    /// List projects
    #[command(after_help = "Example:\n  tollgate project list --tenant demo")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

impl ProjectArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Create { id, tenant, name } => {
                let new = NewProject { tenant: tenant.to_string(), id: id.to_string(), name };
                let project = client.create_project(&new).await?;
                Ok(Answer::new(shown(&project), &project))
            }
            Action::List { tenant } => {
                let projects = client.projects(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(listed(&projects), &projects))
            }
        }
    }
}

fn listed(projects: &[Project]) -> String {
    let columns = [Column::Text("TENANT"), Column::Text("PROJECT"), Column::Text("NAME"), Column::Text("CREATED")];
    let row = |project: &Project| {
        vec![project.tenant.clone(), project.id.clone(), or_none(project.name.as_ref()), project.created_at.clone()]
    };
    table(&columns, projects.iter().map(row).collect(), "no projects")
}

fn shown(project: &Project) -> String {
    fields(&[
        ("tenant", project.tenant.clone()),
        ("project", project.id.clone()),
        ("name", or_none(project.name.as_ref())),
        ("created", project.created_at.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_a_table() {
        let project =
            Project { tenant: "demo".into(), id: "main".into(), name: None, created_at: "2026-11-23T05:00:00Z".into() };
        assert_eq!(
            listed(std::slice::from_ref(&project)),
            "TENANT  PROJECT  NAME  CREATED\ndemo    main     -     2026-11-23T05:00:00Z"
        );
        assert!(shown(&project).contains("project  main"));
    }
}
