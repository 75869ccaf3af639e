//! Where the gateway is and what proves that we may administer it; and what to tell people when it does not answer.

use std::fmt;
use std::str::FromStr;

use tollgate_client::{AdminClient, ClientError};

use super::Failure;

#[derive(Debug, clap::Args)]
pub struct Connection {
    /// Address of the running gateway
    #[arg(long, value_name = "URL", env = "TOLLGATE_URL", default_value = Self::DEFAULT_URL, global = true, help_heading = "Connection")]
    pub url: String,
    /// The admin key, or file:PATH to read it from; better given by the environment than here
    #[arg(
        long,
        value_name = "KEY",
        env = "TOLLGATE_ADMIN_KEY",
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub admin_key: Option<SecretKey>,
    /// Number of the approval by which it is done, where a second human was needed
    #[arg(long, value_name = "ID", global = true, help_heading = "Connection")]
    pub approval: Option<String>,
}

/// A key itself, or where it lies. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(String);

// === impl Connection ===

impl Connection {
    pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

    /// Takes a better guess than the default, for who knows more.
    pub fn url_if_unsaid(&mut self, guess: impl FnOnce() -> String) {
        if self.url == Self::DEFAULT_URL {
            self.url = guess();
        }
    }

    pub fn client(&self) -> Result<AdminClient, Failure> {
        let key = self.admin_key.as_ref().filter(|key| !key.0.is_empty()).ok_or_else(|| {
            Failure::Arguments(
                "no admin key: set TOLLGATE_ADMIN_KEY (after `make up`: source .tollgate/demo.env), \
                 or give --admin-key file:PATH with the file of [secrets] admin_key"
                    .to_owned(),
            )
        })?;
        let client = AdminClient::new(&self.url, &key.read()?)?;
        Ok(match &self.approval {
            Some(approval) => client.with_approval(approval)?,
            None => client,
        })
    }
}

// === impl SecretKey ===

impl SecretKey {
    /// The key itself.
    pub fn new(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// The key, from wherever it lies.
    pub fn read(&self) -> Result<String, Failure> {
        let Some(path) = self.0.strip_prefix("file:") else { return Ok(self.0.clone()) };
        let read = std::fs::read_to_string(path);
        let key = read.map_err(|error| Failure::Arguments(format!("cannot read the key from {path}: {error}")))?;
        Ok(key.trim().to_owned())
    }
}

impl FromStr for SecretKey {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

// === impl Failure ===

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::InvalidUrl { .. } | ClientError::InvalidKey => Self::Arguments(error.to_string()),
            ClientError::Unreachable { ref url, refused: true, .. } => {
                Self::Failed(format!("nobody listens: is `tollgate serve` running at {url}? (TOLLGATE_URL or --url says where)"))
            }
            ClientError::Refused { status: 400, message, param, .. } => Self::Arguments(match param {
                Some(param) => format!("{message} ({param})"),
                None => message,
            }),
            ClientError::Refused { status: 401, .. } => Self::Failed(
                "the gateway does not know this key (401): TOLLGATE_ADMIN_KEY must be what its [secrets] admin_key refers to, a \
                 service key, or the token that /auth shows to whoever signed in"
                    .to_owned(),
            ),
            ClientError::Refused { status, message, .. } => Self::Failed(format!("{message} ({status})")),
            ClientError::Unreachable { .. } | ClientError::Timeout { .. } | ClientError::Malformed { .. } => {
                Self::Failed(error.to_string())
            }
        }
    }
}
