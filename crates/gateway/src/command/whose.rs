//! Whose budget or limit a command means, as it is typed and as it is said.

use tollgate_client::Whose;
use tollgate_types::{KeyId, PlanId, ProjectId, TenantId};

#[derive(Debug, clap::Args)]
pub struct WhoseArgs {
    /// Whose it is
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
}

// === impl WhoseArgs ===

impl WhoseArgs {
    pub fn whose(self) -> Whose {
        Whose {
            tenant: self.tenant.map(|tenant| tenant.to_string()),
            project: self.project.map(|project| project.to_string()),
            key: self.key.map(|key| key.to_string()),
            end_user: self.end_user,
            plan: self.plan.map(|plan| plan.to_string()),
            each: self.each,
            platform: self.platform,
        }
    }
}

/// The narrowest that is named.
pub fn said(whose: &Whose) -> String {
    let Whose { tenant, project, key, end_user, plan, each, .. } = whose;
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

/// `demo/main`: the owner, and what of it.
pub fn of(owner: [Option<&String>; 2], part: [Option<&String>; 3]) -> String {
    let (owner, part) = (owner.into_iter().flatten().next(), part.into_iter().flatten().next());
    match (owner, part) {
        (Some(owner), Some(part)) => format!("{owner}/{part}"),
        (Some(owner), None) => owner.clone(),
        (None, _) => super::table::NONE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_that_is_named_is_said() {
        let demo = Whose { tenant: Some("demo".into()), ..Whose::default() };
        let check = |whose: Whose, name: &str| assert_eq!(said(&whose), name);
        check(Whose { project: Some("main".into()), ..demo.clone() }, "project main");
        check(Whose { key: Some("k1".into()), project: Some("main".into()), ..demo.clone() }, "key k1");
        check(Whose { end_user: Some("ann".into()), ..demo.clone() }, "end user ann");
        check(Whose { each: true, ..demo.clone() }, "each end user of demo");
        check(demo, "tenant demo");
        let plan = Whose { plan: Some("free".into()), ..Whose::default() };
        check(Whose { each: true, ..plan.clone() }, "each tenant of plan free");
        check(plan, "plan free");
        check(Whose { platform: true, ..Whose::default() }, "the platform");
    }
}
