//! `tollgate key`. The one command that prints a secret, once: the key it has just made.

use tollgate_client::{CreatedKey, Key, KeyScope, NewKey};
use tollgate_types::{KeyId, ProjectId, TenantId, Timestamp};

use super::table::{Column, fields, or_none, table};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a key and print it, this once
    #[command(after_help = "Examples:\n  tollgate key create --tenant demo --name laptop\n  \
                            tollgate key create --tenant demo --project main --scopes chat,models \\\n    \
                            --expires-at 2027-01-01T00:00:00Z --requests-per-minute 600")]
    Create(Create),
    /// List keys, without their secrets
    #[command(after_help = "Example:\n  tollgate key list --tenant demo")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Revoke a key: within a second it is refused
    #[command(after_help = "Example:\n  tollgate key revoke k3f9c1d2e4a5b6078")]
    Revoke {
        /// The key's id, as `tollgate key list` shows it
        id: KeyId,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Whose key it is
    #[arg(long)]
    tenant: TenantId,
    /// Which of its projects pays; 'default' if left out
    #[arg(long)]
    project: Option<ProjectId>,
    /// For people
    #[arg(long)]
    name: Option<String>,
    /// From then on the key is refused, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    expires_at: Option<Timestamp>,
    /// What it may be used for: chat, embeddings, models; all if left out
    #[arg(long, value_name = "SCOPE,...", value_delimiter = ',', value_parser = scope)]
    scopes: Option<Vec<KeyScope>>,
    /// Requests a minute at most; the plan's if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: Option<u32>,
    /// Input and output tokens a minute; the plan's if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens_per_minute: Option<u64>,
    /// Requests under way at the same time at most; the plan's if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel_requests: Option<u32>,
}

impl KeyArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::Create(create) => {
                let key = client.create_key(&create.into_request()).await?;
                Ok(Answer::new(created(&key), &key))
            }
            Action::List { tenant } => {
                let keys = client.keys(tenant.as_ref().map(TenantId::as_str)).await?;
                Ok(Answer::new(listed(&keys), &keys))
            }
            Action::Revoke { id } => {
                let key = client.revoke_key(id.as_str()).await?;
                let said = format!("key {} of tenant {} is revoked", key.id, key.tenant);
                Ok(Answer::new(said, &key))
            }
        }
    }
}

impl Create {
    fn into_request(self) -> NewKey {
        NewKey {
            tenant: self.tenant.to_string(),
            project: self.project.map(|project| project.to_string()),
            name: self.name,
            expires_at: self.expires_at.map(|at| at.to_string()),
            scopes: self.scopes,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            parallel_requests: self.parallel_requests,
        }
    }
}

fn scope(text: &str) -> Result<KeyScope, &'static str> {
    KeyScope::ALL.into_iter().find(|scope| scope.name() == text).ok_or("one of: chat, embeddings, models")
}

fn created(key: &CreatedKey) -> String {
    let info = &key.info;
    let shown = fields(&[
        ("id", info.id.clone()),
        ("tenant", info.tenant.clone()),
        ("project", info.project.clone()),
        ("name", or_none(info.name.as_ref())),
        ("scopes", scopes(info)),
        ("expires", or_none(info.expires_at.as_ref())),
        ("key", key.key.clone()),
    ]);
    format!("{shown}\n\nThe key is shown this once: keep it now.")
}

fn listed(keys: &[Key]) -> String {
    let columns = [
        Column::Text("KEY"),
        Column::Text("TENANT"),
        Column::Text("PROJECT"),
        Column::Text("NAME"),
        Column::Text("SCOPES"),
        Column::Number("PER MINUTE"),
        Column::Number("PARALLEL"),
        Column::Text("EXPIRES"),
        Column::Text("REVOKED"),
    ];
    let row = |key: &Key| {
        vec![
            key.id.clone(),
            key.tenant.clone(),
            key.project.clone(),
            or_none(key.name.as_ref()),
            scopes(key),
            or_none(key.requests_per_minute),
            or_none(key.parallel_requests),
            or_none(key.expires_at.as_ref()),
            or_none(key.revoked_at.as_ref()),
        ]
    };
    table(&columns, keys.iter().map(row).collect(), "no keys yet; `tollgate key create --tenant T` makes one")
}

fn scopes(key: &Key) -> String {
    key.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            id: "k1".into(),
            tenant: "demo".into(),
            project: "default".into(),
            name: Some("laptop".into()),
            scopes: vec![KeyScope::Chat, KeyScope::Models],
            requests_per_minute: Some(60),
            tokens_per_minute: None,
            parallel_requests: None,
            created_at: "2026-11-23T05:00:00Z".into(),
            expires_at: None,
            revoked_at: Some("2026-11-23T06:00:00Z".into()),
        }
    }

    #[test]
    fn a_new_key_is_shown_with_its_secret_once() {
        let shown = created(&CreatedKey { info: key(), key: "tg_k1_secret".into() });
        assert_eq!(shown.matches("tg_k1_secret").count(), 1);
        assert!(shown.contains("shown this once"));
    }

    #[test]
    fn keys_are_a_table() {
        assert_eq!(
            listed(&[key()]),
            "KEY  TENANT  PROJECT  NAME    SCOPES       PER MINUTE  PARALLEL  EXPIRES  REVOKED\n\
             k1   demo    default  laptop  chat,models          60         -  -        2026-11-23T06:00:00Z"
        );
    }
}
