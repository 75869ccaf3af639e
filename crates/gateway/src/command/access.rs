//! `tollgate access`: who may speak to the control plane, and what waits for a second human.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{
    Approval, BreakGlass, CreatedServiceKey, Grant, Me, NewServiceKey, Role, ServiceKey, Session, Somebody,
};
use tollgate_types::{KeyId, TenantId, Timestamp};

use super::table::{Column, fields, or_none, table};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct AccessArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show who you are, as the gateway knows you
    #[command(after_help = "Example:\n  tollgate access me")]
    Me,
    /// Keys to the control plane for machines
    #[command(subcommand, after_help = "Example:\n  tollgate access service-key list")]
    ServiceKey(ServiceKeyAction),
    /// List what waits for a second human, or waited
    #[command(after_help = "Example:\n  tollgate access approvals --tenant demo")]
    Approvals {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Agree to what somebody else asked for; they then repeat it with --approval
    #[command(after_help = "Example:\n  tollgate access approve a3f9c1d2e4a5b6078")]
    Approve {
        /// The approval's number, as `tollgate access approvals` shows it
        id: KeyId,
    },
    /// Refuse what somebody else asked for
    #[command(after_help = "Example:\n  tollgate access reject a3f9c1d2e4a5b6078")]
    Reject {
        /// The approval's number
        id: KeyId,
    },
    /// Become a platform admin for an emergency, once a second human agrees; all of it is recorded
    #[command(after_help = "Examples:\n  tollgate access break-glass --minutes 30 --reason incident-4711\n  \
                            tollgate access break-glass --minutes 30 --reason incident-4711 --approval a3f9c1d2e4a5b6078")]
    BreakGlass {
        /// For how long, from 1 to 60
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
        minutes: u32,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// List who is signed in
    #[command(after_help = "Example:\n  tollgate access sessions")]
    Sessions,
    /// Sign somebody out, everywhere
    #[command(after_help = "Example:\n  tollgate access sign-out 248289761001")]
    SignOut {
        /// Who, as `tollgate access sessions` names them after 'person:'
        subject: String,
    },
}

#[derive(Debug, clap::Subcommand)]
enum ServiceKeyAction {
    /// Create a service key and print it, this once
    #[command(after_help = "Examples:\n  tollgate access service-key create --role billing --name invoices\n  \
                            tollgate access service-key create --role tenant-admin --tenant demo \\\n    \
                            --expires-at 2027-01-01T00:00:00Z")]
    Create {
        /// What it may do; see docs/access.md
        #[arg(long, value_parser = role())]
        role: Role,
        /// Whom it is confined to; the operator's if left out
        #[arg(long)]
        tenant: Option<TenantId>,
        /// For people
        #[arg(long)]
        name: Option<String>,
        /// From then on the key is refused, in RFC 3339
        #[arg(long, value_name = "TIME", value_parser = super::time)]
        expires_at: Option<Timestamp>,
    },
    /// List service keys, without their secrets
    #[command(after_help = "Example:\n  tollgate access service-key list")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Revoke a service key: from then on it is refused
    #[command(after_help = "Example:\n  tollgate access service-key revoke s3f9c1d2e4a5b6078")]
    Revoke {
        /// The key's id, as `tollgate access service-key list` shows it
        id: KeyId,
    },
}

impl AccessArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Me => {
                let me = client.me().await?;
                Ok(Answer::new(described(&me), &me))
            }
            Action::ServiceKey(ServiceKeyAction::Create { role, tenant, name, expires_at }) => {
                let (tenant, expires_at) =
                    (tenant.map(|tenant| tenant.to_string()), expires_at.map(|at| at.to_string()));
                let key = client.create_service_key(&NewServiceKey { role, tenant, name, expires_at }).await?;
                Ok(Answer::new(created(&key), &key))
            }
            Action::ServiceKey(ServiceKeyAction::List { tenant }) => {
                let keys = client.service_keys(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(listed(&keys), &keys))
            }
            Action::ServiceKey(ServiceKeyAction::Revoke { id }) => {
                let key = client.revoke_service_key(id.as_str()).await?;
                Ok(Answer::new(format!("service key {} is revoked", key.id), &key))
            }
            Action::Approvals { tenant } => {
                let approvals = client.approvals(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(waiting(&approvals), &approvals))
            }
            Action::Approve { id } => decided(&client.decide_approval(id.as_str(), true).await?),
            Action::Reject { id } => decided(&client.decide_approval(id.as_str(), false).await?),
            Action::BreakGlass { minutes, reason } => {
                let me = client.break_glass(&BreakGlass { reason, minutes }).await?;
                Ok(Answer::new(described(&me), &me))
            }
            Action::Sessions => {
                let sessions = client.sessions().await?;
                Ok(Answer::new(signed_in(&sessions), &sessions))
            }
            Action::SignOut { subject } => {
                client.end_sessions(&subject).await?;
                let said = serde_json::json!({ "subject": subject, "signed_out": true });
                Ok(Answer::new(format!("{subject} is signed out everywhere"), &said))
            }
        }
    }
}

fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::name))
        .try_map(|name| Role::ALL.into_iter().find(|role| role.name() == name).ok_or("no such role"))
}

fn decided(approval: &Approval) -> Result<Answer, Failure> {
    let said = format!("{} is {}: {}", approval.id, approval.state.name(), approval.what);
    Ok(Answer::new(said, approval))
}

fn described(me: &Me) -> String {
    let who = if me.human { "a human" } else { "a machine" };
    let mut told = vec![("who", named(&me.who)), ("is", who.to_owned()), ("roles", grants(&me.grants))];
    if let Some(until) = &me.break_glass_until {
        told.push(("break-glass until", until.clone()));
    }
    fields(&told)
}

fn named(who: &Somebody) -> String {
    who.name.as_ref().map_or_else(|| who.actor.clone(), |name| format!("{name} ({})", who.actor))
}

/// `platform-admin, auditor of demo`
fn grants(grants: &[Grant]) -> String {
    let grant = |grant: &Grant| match &grant.tenant {
        Some(tenant) => format!("{} of {tenant}", grant.role.name()),
        None => grant.role.name().to_owned(),
    };
    grants.iter().map(grant).collect::<Vec<_>>().join(", ")
}

fn created(key: &CreatedServiceKey) -> String {
    let info = &key.info;
    let shown = fields(&[
        ("id", info.id.clone()),
        ("role", info.role.name().to_owned()),
        ("tenant", or_none(info.tenant.as_ref())),
        ("name", or_none(info.name.as_ref())),
        ("expires", or_none(info.expires_at.as_ref())),
        ("key", key.key.clone()),
    ]);
    format!("{shown}\n\nThe key is shown this once: keep it now.")
}

fn listed(keys: &[ServiceKey]) -> String {
    let columns = [
        Column::Text("KEY"),
        Column::Text("ROLE"),
        Column::Text("TENANT"),
        Column::Text("NAME"),
        Column::Text("EXPIRES"),
        Column::Text("REVOKED"),
    ];
    let row = |key: &ServiceKey| {
        vec![
            key.id.clone(),
            key.role.name().to_owned(),
            or_none(key.tenant.as_ref()),
            or_none(key.name.as_ref()),
            or_none(key.expires_at.as_ref()),
            or_none(key.revoked_at.as_ref()),
        ]
    };
    let none = "no service keys yet; `tollgate access service-key create --role R` makes one";
    table(&columns, keys.iter().map(row).collect(), none)
}

fn waiting(approvals: &[Approval]) -> String {
    let columns = [
        Column::Text("APPROVAL"),
        Column::Text("STATE"),
        Column::Text("ASKED BY"),
        Column::Text("DECIDED BY"),
        Column::Text("EXPIRES"),
        Column::Text("WHAT"),
    ];
    let row = |approval: &Approval| {
        vec![
            approval.id.clone(),
            approval.state.name().to_owned(),
            named(&approval.asked_by),
            or_none(approval.decided_by.as_ref().map(named)),
            approval.expires_at.clone(),
            approval.what.clone(),
        ]
    };
    table(&columns, approvals.iter().map(row).collect(), "nothing waits for a second human")
}

fn signed_in(sessions: &[Session]) -> String {
    let columns = [
        Column::Text("WHO"),
        Column::Text("ROLES"),
        Column::Text("SINCE"),
        Column::Text("LAST USED"),
        Column::Text("EXPIRES"),
        Column::Text("BREAK-GLASS UNTIL"),
    ];
    let row = |session: &Session| {
        vec![
            named(&session.who),
            grants(&session.grants),
            session.since.clone(),
            session.last_used_at.clone(),
            session.expires_at.clone(),
            or_none(session.break_glass_until.as_ref()),
        ]
    };
    table(&columns, sessions.iter().map(row).collect(), "nobody is signed in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_named_with_roles_and_emergencies_are_not_hidden() {
        let me = Me {
            who: Somebody { actor: "person:7".into(), name: Some("ada@example.com".into()) },
            human: true,
            grants: vec![
                Grant { role: Role::PlatformAdmin, tenant: None },
                Grant { role: Role::Auditor, tenant: Some("demo".into()) },
            ],
            break_glass_until: Some("2026-11-23T05:30:00Z".into()),
        };
        let shown = described(&me);
        for part in ["ada@example.com (person:7)", "a human", "platform-admin, auditor of demo", "2026-11-23T05:30:00Z"]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn a_new_service_key_is_shown_with_its_secret_once() {
        let info = ServiceKey {
            id: "s1".into(),
            role: Role::Billing,
            tenant: None,
            name: Some("invoices".into()),
            created_at: "2026-11-23T05:00:00Z".into(),
            expires_at: None,
            revoked_at: None,
        };
        assert_eq!(
            listed(std::slice::from_ref(&info)),
            "KEY  ROLE     TENANT  NAME      EXPIRES  REVOKED\ns1   billing  -       invoices  -        -"
        );
        assert_eq!(
            created(&CreatedServiceKey { info, key: "tgs_s1_secret".into() }).matches("tgs_s1_secret").count(),
            1
        );
    }
}
